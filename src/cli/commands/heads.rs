//! `heads`: print the head of each feed.

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::{Log, ndjson};

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::output::{Output, WRITE_BYTES};
use crate::cli::io::signals;

pub fn command() -> Command {
    Command::new("heads")
        .about("Print {\"peer\",\"seq\"} for each feed; \"own\":true marks the local feed, \"fork\":true a fork")
        .defer(|command| {
            let example = "scuttleup heads | ssh host scuttleup read --since-heads - | scuttleup write";
            command.after_help(epilogue("scuttleup-heads", example))
        })
}

pub fn run(context: &Context, _args: &ArgMatches) -> Result<Exit> {
    signals::exit_on_signal()?;
    let log = Log::open_read_only(&context.dir)?;
    context.report_if_empty(&log)?;
    let heads = log.heads()?;
    // The id is read after the heads. Otherwise, if the log takes a new id in between, its old feed would be marked as the local
    // feed.
    let (local, forks) = (log.local_id()?, log.forks()?);
    let output = Output::bulk();
    let mut lines = Vec::new();
    for (peer, seq) in heads.iter() {
        ndjson::put_head(&mut lines, peer, seq, *peer == local, forks.contains_key(peer));
        if lines.len() >= WRITE_BYTES {
            output.write(&lines)?;
            lines.clear();
        }
    }
    output.write(&lines)?;
    Ok(Exit::Done)
}
