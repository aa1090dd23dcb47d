//! `watch`: print the last changes and continue with new ones, as `tail -f` does.

use anyhow::Result;
use clap::{ArgMatches, Command};

use crate::cli::args::{json_arg, payload_args};
use crate::cli::commands::read;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::select::{self, Selection};

/// The number of existing entries that are printed, unless an option sets the start.
const LAST: u64 = 10;

pub fn command() -> Command {
    Command::new("watch").about("Print the last 10 changes, then new ones as they arrive").defer(|command| {
        command
            .args(select::options())
            .args(payload_args())
            .arg(read::cursor_arg())
            .arg(json_arg())
            .after_help(epilogue("scuttleup-watch", "scuttleup watch --peer 'web-*'"))
    })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let mut selection = Selection::new(args)?;
    selection.live = true;
    // A cursor that exists sets the start, and a new one begins at the first entry.
    if !selection.has_start() && !args.contains_id("cursor") {
        selection.last = Some(LAST);
    }
    read::print(context, selection, args)
}
