//! `heads`: the highest number of each feed.

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::{Log, ndjson};

use super::exit::Exit;
use super::output::{Output, WRITE_BYTES};
use super::{Context, signals};

pub fn command() -> Command {
    Command::new("heads")
        .about("Print {\"peer\",\"seq\"} for each feed; the log's own one has \"own\":true, one that has forked \"fork\":true")
}

pub fn run(context: &Context, _args: &ArgMatches) -> Result<Exit> {
    signals::exit_at_once()?;
    let log = Log::open_read_only(&context.dir)?;
    let heads = log.heads()?;
    // Only now: a log that takes a new id meanwhile has entries under it afterwards.
    let (own, forks) = (log.own_id_now()?, log.forks()?);
    let output = Output::bulk();
    let mut lines = Vec::new();
    for (peer, seq) in heads.iter() {
        ndjson::put_head(&mut lines, peer, seq, *peer == own, forks.contains_key(peer));
        if lines.len() >= WRITE_BYTES {
            output.write(&lines)?;
            lines.clear();
        }
    }
    output.write(&lines)?;
    Ok(Exit::Done)
}
