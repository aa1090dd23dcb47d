//! `entry`: print one entry.

use std::io::IsTerminal;

use anyhow::{Result, bail};
use clap::{ArgMatches, Command};
use scuttleup::ndjson::ChangeWriter;
use scuttleup::{Entry, Log};

use crate::cli::args::{flag, peer_and_seq, peer_and_seq_args};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;
use crate::cli::io::signals;
use crate::cli::report::missing::{display_peer, no_entry};

pub fn command() -> Command {
    Command::new("entry").about("Print one entry, as a change line or as its exact bytes").defer(|command| {
        command
            .args(peer_and_seq_args())
            .arg(flag("raw", "Print the exact bytes of the entry and nothing else"))
            .after_help(epilogue("scuttleup-entry", "scuttleup entry --raw laptop 4 > photo.jpeg"))
    })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    signals::exit_on_signal()?;
    let (peer, seq) = peer_and_seq(args)?;
    let log = Log::open_read_only(&context.dir)?;
    // The bytes are copied, so that the read transaction does not wait for a slow reader of stdout.
    let bytes = log.reader().entry(peer, seq, |change| match change.entry.entry() {
        Entry::Deleted(_) => None,
        Entry::Bytes(bytes, _) if args.get_flag("raw") => Some(bytes.to_vec()),
        Entry::Bytes(..) => {
            let mut line = Vec::new();
            ChangeWriter::default().for_terminal(std::io::stdout().is_terminal()).write(&mut line, &change);
            Some(line)
        }
    })?;
    match bytes {
        None => Err(no_entry(&log, peer, seq)?),
        Some(None) => bail!("entry {seq} of {} was deleted from this log", display_peer(peer)),
        Some(Some(bytes)) => {
            Output::bulk().write(&bytes)?;
            Ok(Exit::Done)
        }
    }
}
