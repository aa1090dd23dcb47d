//! `id`: the log's own peer id.

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::Log;

use super::exit::Exit;
use super::output::Output;
use super::{Context, signals};

pub fn command() -> Command {
    Command::new("id").about("Print the log's peer id")
}

pub fn run(context: &Context, _args: &ArgMatches) -> Result<Exit> {
    signals::exit_at_once()?;
    let log = Log::open_read_only(&context.dir)?;
    Output::new().write(format!("{}\n", log.id()).as_bytes())?;
    Ok(Exit::Done)
}
