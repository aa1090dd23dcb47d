//! `info`: the log as a whole.

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::{Log, ndjson};

use super::exit::Exit;
use super::output::Output;
use super::{Context, signals};

pub fn command() -> Command {
    Command::new("info").about("Print the log's id, feeds, entries, bytes on disk, last offset, root and forks, as one JSON line")
}

pub fn run(context: &Context, _args: &ArgMatches) -> Result<Exit> {
    signals::exit_at_once()?;
    let info = Log::open_read_only(&context.dir)?.info()?;
    let mut line = b"{\"id\":".to_vec();
    ndjson::put_string(&mut line, info.id.as_str());
    let rest = format!(
        ",\"feeds\":{},\"entries\":{},\"bytes_on_disk\":{},\"last_offset\":{},\"root\":\"{:032x}\",\"forks\":{}}}\n",
        info.feeds, info.entries, info.bytes_on_disk, info.last_offset, info.root, info.forks
    );
    line.extend_from_slice(rest.as_bytes());
    Output::new().write(&line)?;
    Ok(Exit::Done)
}
