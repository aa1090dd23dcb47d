//! `entry`: one entry.

use anyhow::{Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use scuttleup::ndjson::ChangeWriter;
use scuttleup::{Entry, Log};

use super::exit::Exit;
use super::output::Output;
use super::{Context, not_here, place, place_args, shown, signals};

pub fn command() -> Command {
    Command::new("entry")
        .about("Print one entry as a change line; exit 1 if it is not here or was deleted")
        .args(place_args())
        .arg(Arg::new("raw").long("raw").action(ArgAction::SetTrue).help("Print its exact bytes, and nothing else"))
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    signals::exit_at_once()?;
    let (peer, seq) = place(args)?;
    let log = Log::open_read_only(&context.dir)?;
    // Copied, so that no snapshot is held while the reader of a pipe takes its time.
    let bytes = log.reader().entry(peer, seq, |change| match change.entry {
        Entry::Deleted(_) => None,
        Entry::Bytes(bytes, _) if args.get_flag("raw") => Some(bytes.to_vec()),
        Entry::Bytes(..) => {
            let mut line = Vec::new();
            ChangeWriter::default().write(&mut line, &change);
            Some(line)
        }
    })?;
    match bytes {
        None => Err(not_here(peer, seq)),
        Some(None) => bail!("entry {seq} of {} was deleted here", shown(peer)),
        Some(Some(bytes)) => {
            Output::bulk().write(&bytes)?;
            Ok(Exit::Done)
        }
    }
}
