//! `id`: print the peer id of the log.

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::Log;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;
use crate::cli::io::signals;

pub fn command() -> Command {
    Command::new("id")
        .about("Print the peer id of the log")
        .defer(|command| command.after_help(epilogue("scuttleup-id", "scuttleup read --peer \"$(scuttleup id)\"")))
}

pub fn run(context: &Context, _args: &ArgMatches) -> Result<Exit> {
    signals::exit_on_signal()?;
    let log = Log::open_read_only(&context.dir)?;
    Output::new().write(format!("{}\n", log.id()).as_bytes())?;
    Ok(Exit::Done)
}
