//! `info`: print the facts about the whole log.

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::{Log, ndjson};

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;
use crate::cli::io::signals;

pub fn command() -> Command {
    Command::new("info")
        .about("Print id, feeds, entries, bytes on disk, last offset, root and forks as one line of JSON")
        .defer(|command| command.after_help(epilogue("scuttleup-info", "scuttleup info")))
}

pub fn run(context: &Context, _args: &ArgMatches) -> Result<Exit> {
    signals::exit_on_signal()?;
    let info = Log::open_read_only(&context.dir)?.info()?;
    let mut line = b"{\"id\":".to_vec();
    ndjson::put_string(&mut line, info.id.as_str());
    let rest = format!(
        ",\"feeds\":{},\"entries\":{},\"bytes_on_disk\":{},\"last_offset\":{},\"root\":\"{:032x}\",\"forks\":{},\
         \"data_bytes\":{},\"packs_bytes\":{},\"packs\":{},\"packed_entries\":{},\"floor\":{}}}\n",
        info.feeds,
        info.entries,
        info.bytes_on_disk,
        info.last_offset,
        info.root,
        info.forks,
        info.data_bytes,
        info.packs_bytes,
        info.packs,
        info.packed_entries,
        info.floor
    );
    line.extend_from_slice(rest.as_bytes());
    Output::new().write(&line)?;
    Ok(Exit::Done)
}
