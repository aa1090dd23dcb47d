//! `watch`: `read --live -n 10`, like `tail -f`.

use anyhow::Result;
use clap::{ArgMatches, Command};

use super::exit::Exit;
use super::{Context, read};

/// How many of the last entries it begins with, unless the options say where to begin.
const LAST: u64 = 10;

pub fn command() -> Command {
    Command::new("watch").about("Print the last 10 changes, and go on as entries arrive: read --live -n 10").args(read::options())
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let mut selection = read::Selection::new(args)?;
    selection.live = true;
    if !selection.has_start() {
        selection.last = Some(LAST);
    }
    read::print(context, selection)
}
