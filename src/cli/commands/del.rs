//! `del`: delete the bytes of one entry.

use anyhow::Result;
use clap::{ArgMatches, Command};

use crate::cli::args::{peer_and_seq, peer_and_seq_args};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::signals::Stop;
use crate::cli::report::missing::no_entry;

pub fn command() -> Command {
    Command::new("del")
        .about("Delete the bytes of one entry; syncs do not bring them back")
        .defer(|command| command.args(peer_and_seq_args()).after_help(epilogue("scuttleup-del", "scuttleup del laptop 12")))
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let (peer, seq) = peer_and_seq(args)?;
    let stop = Stop::on_signal()?;
    let log = context.open()?;
    if log.delete(peer, seq)?.is_none() {
        return Err(no_entry(&log, peer, seq)?);
    }
    Ok(stop.exit().unwrap_or(Exit::Done))
}
