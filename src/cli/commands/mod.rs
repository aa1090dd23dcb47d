//! One file for each command: its help, its arguments and its run.

mod append;
mod compact;
mod compare;
mod completions;
mod cursor;
mod del;
mod entry;
mod exec;
mod heads;
mod id;
mod info;
mod init;
mod prune;
mod read;
mod repair;
mod replicate;
mod verify;
mod watch;
mod write;

use anyhow::Result;
use clap::{ArgMatches, Command};

pub use completions::answer;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::errors;

struct Subcommand {
    name: &'static str,
    /// Its part of the parser. The arguments are deferred: clap builds only the arguments of the named command.
    command: fn() -> Command,
    run: fn(&Context, &ArgMatches) -> Result<Exit>,
}

/// All commands, in the order of the help.
const SUBCOMMANDS: [Subcommand; 19] = [
    Subcommand { name: "init", command: init::command, run: init::run },
    Subcommand { name: "append", command: append::command, run: append::run },
    Subcommand { name: "read", command: read::command, run: read::run },
    Subcommand { name: "watch", command: watch::command, run: watch::run },
    Subcommand { name: "exec", command: exec::command, run: exec::run },
    Subcommand { name: "entry", command: entry::command, run: entry::run },
    Subcommand { name: "del", command: del::command, run: del::run },
    Subcommand { name: "write", command: write::command, run: write::run },
    Subcommand { name: "heads", command: heads::command, run: heads::run },
    Subcommand { name: "replicate", command: replicate::command, run: replicate::run },
    Subcommand { name: "compare", command: compare::command, run: compare::run },
    Subcommand { name: "prune", command: prune::command, run: prune::run },
    Subcommand { name: "compact", command: compact::command, run: compact::run },
    Subcommand { name: "cursor", command: cursor::command, run: cursor::run },
    Subcommand { name: "verify", command: verify::command, run: verify::run },
    Subcommand { name: "repair", command: repair::command, run: repair::run },
    Subcommand { name: "id", command: id::command, run: id::run },
    Subcommand { name: "info", command: info::command, run: info::run },
    Subcommand { name: "completions", command: completions::command, run: completions::run },
];

/// The parsers of all commands.
pub fn all() -> impl Iterator<Item = Command> {
    SUBCOMMANDS.iter().map(|subcommand| (subcommand.command)())
}

/// Runs the command that `args` name.
pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let (name, args) = args.subcommand().expect("the parser requires a command");
    errors::explain_memory_faults(&context.dir);
    let subcommand = SUBCOMMANDS.iter().find(|subcommand| subcommand.name == name);
    (subcommand.expect("the parser knows the command").run)(context, args)
}
