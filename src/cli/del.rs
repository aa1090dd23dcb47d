//! `del`: forget an entry's bytes.

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::Log;

use super::exit::Exit;
use super::{Context, not_here, place, place_args, signals};

pub fn command() -> Command {
    Command::new("del")
        .about("Forget one entry's bytes here; the feed keeps its place, and the bytes never come back by replication")
        .args(place_args())
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let (peer, seq) = place(args)?;
    let stop = signals::Stop::on_signal()?;
    let log = Log::open(&context.dir)?;
    if log.delete(peer, seq)?.is_none() {
        return Err(not_here(peer, seq));
    }
    Ok(stop.exit().unwrap_or(Exit::Done))
}
