//! The exit codes, in one place, and the rule for a reader that has gone.

use std::fmt;
use std::process::ExitCode;

use scuttleup::Error;

use super::message;
use super::output::{Closed, Output};

/// How a command ended; see scuttleup(1), EXIT STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Done,
    Error,
    Usage,
    Incomplete,
    Fork,
    Full,
    Refused,
    BadInput,
    /// Ended by this signal, after the commit in hand.
    Signal(u8),
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::Incomplete => 3,
            Self::Fork => 4,
            Self::Full => 5,
            Self::Refused => 6,
            Self::BadInput => 7,
            Self::Signal(number) => 128 + number,
        }
    }
}

/// What the user did wrong on the command line, beyond what the parser sees.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Bad input, and where it stood: "line 3".
#[derive(Debug)]
pub struct BadInput {
    pub place: String,
    pub reason: String,
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

impl std::error::Error for BadInput {}

fn of_error(err: &anyhow::Error) -> Exit {
    if err.is::<Usage>() {
        return Exit::Usage;
    }
    if err.is::<BadInput>() {
        return Exit::BadInput;
    }
    match err.downcast_ref::<Error>() {
        Some(Error::DiskFull(_) | Error::MapFull(_) | Error::FeedFull(_)) => Exit::Full,
        Some(Error::Refused(_)) => Exit::Refused,
        Some(Error::BadInput(_) | Error::Wire(_) | Error::EntryTooLong(..)) => Exit::BadInput,
        _ => Exit::Error,
    }
}

/// Says what went wrong and gives the code. A reader that has gone (EPIPE) is no error.
pub fn of_outcome(outcome: anyhow::Result<Exit>) -> ExitCode {
    let exit = outcome.unwrap_or_else(|err| {
        if err.is::<Closed>() {
            return Exit::Done;
        }
        message::error(&err.to_string());
        of_error(&err)
    });
    ExitCode::from(exit.code())
}

/// Help and version go to stdout, whatever is wrong with the command line to stderr in one line.
pub fn of_usage(err: &clap::Error) -> ExitCode {
    if !err.use_stderr() {
        return of_outcome(Output::new().write(err.to_string().as_bytes()).map(|()| Exit::Done));
    }
    let text = err.to_string();
    let mut lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let rest = lines.filter(|line| !line.starts_with("For more information")).fold(first, |line, next| format!("{line} {next}"));
    message::error(&format!("{rest}; see scuttleup --help"));
    ExitCode::from(Exit::Usage.code())
}
