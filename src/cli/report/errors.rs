//! Prints the error of a command and returns the exit code of the process.

use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::cli::exit::{Exit, OutputClosed};
use crate::cli::io::output::Output;
use crate::cli::report::diagnostics;
use crate::cli::report::hint::with_hint;

/// Prints the error, if the command failed.
pub fn conclude(outcome: anyhow::Result<Exit>) -> ExitCode {
    let exit = outcome.unwrap_or_else(|err| {
        if !err.is::<OutputClosed>() {
            diagnostics::error(&message(&err));
        }
        Exit::of_error(&err)
    });
    ExitCode::from(exit.code())
}

fn message(err: &anyhow::Error) -> String {
    err.downcast_ref().map_or_else(|| err.to_string(), with_hint)
}

/// Prints the answer of the command line parser: help and version on stdout, an error as one line on stderr. Without arguments,
/// the help is the error.
pub fn conclude_parsing(answer: &clap::Error) -> ExitCode {
    let text = answer.to_string();
    if !answer.use_stderr() {
        return conclude(Output::new().write(text.as_bytes()).map(|()| Exit::Done));
    }
    if answer.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        diagnostics::print_verbatim(text.as_bytes());
    } else {
        diagnostics::error(&format!("{}; see scuttleup --help", one_line(&text)));
    }
    ExitCode::from(Exit::Usage.code())
}

/// The message of the parser without its usage and its pointer to the help.
fn one_line(text: &str) -> String {
    let message = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let message = message.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let line = message.collect::<Vec<_>>().join(" ");
    line.trim_start_matches("error: ").to_owned()
}
