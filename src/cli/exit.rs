//! The end of a command: the exit codes, the errors of the command line, and the code of each error.

use std::fmt;

use scuttleup::Error;

/// The end of a command; see scuttleup(1), EXIT STATUS.
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
    /// The exit code of a program that was run, which is passed on.
    Program(u8),
    /// Ended by this signal, after the current commit.
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
            Self::Program(code) => code,
            Self::Signal(number) => 128 + number,
        }
    }

    /// The end of a command that failed with this error.
    pub fn of_error(err: &anyhow::Error) -> Self {
        if err.is::<OutputClosed>() {
            return Self::Done;
        }
        if err.is::<OutputFull>() {
            return Self::Full;
        }
        if err.is::<Usage>() {
            return Self::Usage;
        }
        if err.is::<BadInput>() {
            return Self::BadInput;
        }
        match err.downcast_ref::<Error>() {
            Some(Error::DiskFull(_) | Error::MapFull(_) | Error::FeedFull(_)) => Self::Full,
            Some(err) if err.is_refusal() => Self::Refused,
            Some(Error::NoNativeWire | Error::CursorInUse { .. }) => Self::Refused,
            Some(
                Error::BadInput(_)
                | Error::HashMismatch(..)
                | Error::NotUtf8(_)
                | Error::Wire(_)
                | Error::RemoteText(..)
                | Error::FrameTooLong(_)
                | Error::EntryTooLong(..),
            ) => Self::BadInput,
            _ => Self::Error,
        }
    }
}

/// A command line that the parser accepts, but that is invalid: the reason.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Invalid input: the reason, and the location, such as "line 3".
#[derive(Debug)]
pub struct BadInput {
    pub location: String,
    pub reason: String,
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.reason)
    }
}

impl std::error::Error for BadInput {}

/// The reader of stdout closed it (EPIPE). The command ends, but this is not an error.
#[derive(Debug)]
pub struct OutputClosed;

impl fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of stdout closed it")
    }
}

impl std::error::Error for OutputClosed {}

/// Stdout or a file cannot be written because the disk, a quota or a file size limit is exhausted.
#[derive(Debug)]
pub struct OutputFull {
    pub name: String,
    pub reason: String,
}

impl fmt::Display for OutputFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not "run it again": entries that `append` has stored would be stored twice.
        let Self { name, reason } = self;
        write!(f, "cannot write to {name} ({reason}): free some space where {name} is stored")
    }
}

impl std::error::Error for OutputFull {}
