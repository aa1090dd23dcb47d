//! Prints the error of a command and returns the exit code of the process.

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use crate::cli::exit::{Exit, OutputClosed};
use crate::cli::io::memory_fault;
use crate::cli::io::output::Output;
use crate::cli::report::diagnostics;
use crate::cli::report::hint::{self, with_hint};
use crate::cli::report::nearest::nearest;

/// From now on, a panic prints one line: it is a fault of this program. An abort prints one, too, and is exit code 1.
pub fn explain_panics() {
    let text =
        "the process was aborted, in most cases because no memory is left: free some memory, or raise its limit (ulimit -v)";
    memory_fault::explain_aborts(diagnostics::line("", text).into_bytes());
    panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref().map(String::as_str));
        let reason = text.unwrap_or("no reason");
        let place = panic.location().map_or(String::new(), |place| format!(", {}:{}", place.file(), place.line()));
        diagnostics::error(&format!("fault of scuttleup: {reason}{place}: report it with this line"));
    }));
}

/// Runs the program. A panic, which has printed its own line, is an error.
pub fn end_panics(run: impl FnOnce() -> ExitCode) -> ExitCode {
    // Nothing that the panic has left incomplete is used afterwards.
    panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| ExitCode::from(Exit::Error.code()))
}

/// Prints the error, if the command failed.
pub fn conclude(outcome: anyhow::Result<Exit>) -> ExitCode {
    let exit = outcome.unwrap_or_else(|err| report("", &err));
    ExitCode::from(exit.code())
}

/// Prints the error of a command with a label (see [`diagnostics::labelled_error`]). Returns how the command ended.
pub fn report(label: &str, err: &anyhow::Error) -> Exit {
    if !err.is::<OutputClosed>() {
        diagnostics::labelled_error(label, &message(err));
    }
    Exit::of_error(err)
}

/// The text of an error, with its hint.
pub fn message(err: &anyhow::Error) -> String {
    err.downcast_ref().map_or_else(|| err.to_string(), with_hint)
}

/// Makes a memory fault an error of the log in `dir`, see [`memory_fault`].
pub fn explain_memory_faults(dir: &Path) {
    let text = format!(
        "a memory fault: data.mdb or a pack in {} is damaged, or was truncated while this command read it: \
         restore the log from a backup, or replicate it from another log into a new one",
        dir.display()
    );
    memory_fault::explain(diagnostics::line("", &text).into_bytes());
}

/// Prints the answer of the command line parser: help and version on stdout, an error as one line on stderr. Without arguments,
/// `first_steps` are the error.
pub fn conclude_parsing(answer: &clap::Error, parser: Command, first_steps: &str) -> ExitCode {
    let text = answer.to_string();
    if !answer.use_stderr() {
        return conclude(Output::new().write(text.as_bytes()).map(|()| Exit::Done));
    }
    if answer.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        diagnostics::print_verbatim(first_steps.as_bytes());
    } else {
        let advice = hint::parsing_hint(answer, command_name(&text)).map_or(String::new(), |hint| format!(": {hint}"));
        let text = one_line(&text, suggestion(answer, parser));
        diagnostics::error(&format!("{text}{advice}; see scuttleup --help"));
    }
    ExitCode::from(Exit::Usage.code())
}

/// The message of the parser without its usage and its pointer to the help. The suggestion replaces the tips of the parser.
fn one_line(text: &str, suggestion: Option<String>) -> String {
    let message = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let message = message.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let (tips, message): (Vec<_>, Vec<_>) = message.partition(|line| line.starts_with(TIP));
    let line = message.join(" ").trim_start_matches("error: ").to_owned();
    // For a mistyped option, the parser suggests to pass it to COMMAND, or one that is hardly similar, such as --peer for --reverse.
    let is_good = |tip: &String| !tip.starts_with("to pass ") && !tip.contains("similar");
    let tip = || tips.iter().map(|tip| tip[TIP.len()..].to_owned()).find(is_good);
    match suggestion.or_else(tip) {
        Some(suggestion) => format!("{line}: {suggestion}"),
        None => line,
    }
}

/// The start of a line in which the parser says what to do.
const TIP: &str = "tip: ";

/// The names that other programs have for a command.
const NAMES_OF_OTHERS: [(&[&str], &str); 6] = [
    (&["sync", "pull", "push", "clone", "fetch"], "replicate"),
    (&["add", "put", "log", "publish"], "append"),
    (&["tail", "follow"], "watch"),
    (&["cat", "show", "print", "list"], "read"),
    (&["diff"], "compare"),
    (&["status", "stat"], "info"),
];

/// The command, option or value that the user may have meant. The parser itself finds fewer: for `--lgo` it does not name `--log`.
fn suggestion(answer: &clap::Error, mut parser: Command) -> Option<String> {
    // With the arguments of each command, and the options that all commands have.
    parser.build();
    let invalid = |kind| match answer.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let meant = if let Some(word) = invalid(ContextKind::InvalidSubcommand) {
        // Of a command that has commands of its own, the word is one of these.
        let command = Some(named_command(answer, &parser)).filter(|command| command.has_subcommands()).unwrap_or(&parser);
        let known = NAMES_OF_OTHERS.iter().find(|(names, _)| names.contains(&word)).map(|(_, name)| *name);
        let known = known.filter(|name| command.find_subcommand(name).is_some());
        known.or_else(|| nearest(word, command.get_subcommands().map(Command::get_name)))?.to_owned()
    } else if let Some(ContextValue::Strings(values)) = answer.get(ContextKind::ValidValue) {
        nearest(invalid(ContextKind::InvalidValue)?, values.iter().map(String::as_str))?.to_owned()
    } else {
        let word = invalid(ContextKind::InvalidArg).filter(|_| answer.kind() == ErrorKind::UnknownArgument)?;
        let command = named_command(answer, &parser);
        let Some(option) = word.strip_prefix("--") else {
            let takes_command = command.get_positionals().any(Arg::is_last_set) && !word.starts_with('-');
            return takes_command.then(|| "put -- before COMMAND".to_owned());
        };
        format!("--{}", nearest(option, command.get_arguments().filter_map(Arg::get_long))?)
    };
    Some(format!("did you mean {meant}?"))
}

/// The command to which the error belongs. Only its usage names it.
fn named_command<'p>(answer: &clap::Error, parser: &'p Command) -> &'p Command {
    command_name(&answer.to_string()).and_then(|name| parser.find_subcommand(name)).unwrap_or(parser)
}

/// The name of the command in the usage, which follows the name of the program.
fn command_name(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.trim().strip_prefix("Usage: "))?.split(' ').nth(1)
}
