//! The command line. Imports point down: commands, select and child, report, io, exit and time.

mod args;
mod batches;
mod child;
mod commands;
mod context;
mod exit;
mod help;
mod input;
mod io;
mod program;
pub mod report;
mod retry;
mod select;
mod time;

use clap::{ArgMatches, Command};

pub use self::commands::run;
pub use self::context::Context;

/// Completes a line for a shell. Returns false if no shell asks for it.
pub fn complete() -> bool {
    commands::answer(command)
}

/// Parses the command line. If the user asked for the help or the version, or gave no argument, the text is returned as an
/// error.
pub fn parse() -> Result<ArgMatches, clap::Error> {
    command().try_get_matches()
}

/// The answer to a command line without arguments.
pub fn first_steps() -> String {
    help::without_arguments(ABOUT)
}

const ABOUT: &str = "An append-only log that syncs over any pipe";

/// The parser.
pub fn command() -> Command {
    Command::new("scuttleup")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .args(context::global_args())
        .help_template(help::of_program())
        .after_help(help::environment("scuttleup"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(commands::all())
}
