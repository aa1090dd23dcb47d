//! Everything that can go wrong in the library, as one type; each message says what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::entry::{Offset, PeerId};

/// An error of the library.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is no log in this directory.
    NoLog(PathBuf),
    /// There is a log already, of this id.
    LogExists(PathBuf, PeerId),
    /// This process has the log open already: share that one.
    OpenTwice(PathBuf),
    /// The log's directory cannot be one.
    NotADirectory(PathBuf),
    /// The log was written by a newer version, in this format.
    NewerFormat(PathBuf, u32),
    /// The data file is shorter than its own account of it, in bytes: (has, needs).
    Truncated(PathBuf, u64, u64),
    /// Something on disk is not what was written.
    Corrupt(String),
    /// The record at this offset does not match its checksum.
    Checksum(Offset),
    /// The disk, a quota or a file size limit is exhausted.
    DiskFull(io::Error),
    /// The map (the largest size of the log) is exhausted, in bytes.
    MapFull(usize),
    /// Another process has made the log larger than the map that this one has of it.
    MapOutgrown,
    /// The files of the log are not those that it was opened with, or not of one moment.
    Replaced,
    /// A feed, or the set of feeds, has no place for more.
    FeedFull(String),
    /// The system refused something: what was being done, and its answer.
    Io(String, io::Error),
    /// The database refused something: what was being done, and its answer.
    Database(&'static str, Box<dyn std::error::Error + Send + Sync>),
    /// Not a peer id: why.
    PeerId(&'static str),
    /// The entry is longer than the limit, in bytes: (has, limit).
    EntryTooLong(u64, usize),
    /// Input that is not what it should be: why.
    BadInput(String),
    /// The wire carried something that the protocol forbids: why.
    Wire(String),
    /// The other side sent what our mode refuses.
    Refused(String),
}

/// Alias for results of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps the answer of the system, telling a full disk from the rest.
    pub fn io(doing: impl Into<String>, err: io::Error) -> Self {
        match err.raw_os_error() {
            Some(code) if is_full(Errno::from_raw(code)) => Self::DiskFull(err),
            _ => Self::Io(doing.into(), err),
        }
    }
}

/// Whether it is space that is wanting: of the disk, of a quota, or under a file size limit.
pub(crate) fn is_full(code: Errno) -> bool {
    matches!(code, Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLog(dir) => {
                write!(f, "there is no log in {}: make one with `scuttleup init`, or name it with --log", dir.display())
            }
            Self::LogExists(dir, id) => write!(f, "{} is a log already, with the id {id}", dir.display()),
            Self::OpenTwice(dir) => write!(f, "this process has the log {} open already: share that one", dir.display()),
            Self::NotADirectory(dir) => write!(f, "{} is not a directory: name the log's directory with --log", dir.display()),
            Self::NewerFormat(dir, format) => {
                write!(
                    f,
                    "the log in {} has format {format}, which is newer than this program: install a newer scuttleup",
                    dir.display()
                )
            }
            Self::Truncated(path, has, needs) => write!(
                f,
                "{} is cut short ({has} bytes of {needs}): restore it, or replicate the log anew from another one",
                path.display()
            ),
            Self::Corrupt(what) => write!(f, "{what}: restore the log, or replicate it anew from another one"),
            Self::Checksum(offset) => write!(
                f,
                "the entry at offset {offset} does not match its checksum: the data file is damaged there; \
                 restore the log, or replicate it anew from another one"
            ),
            Self::DiskFull(err) => write!(f, "no space to store more ({err}): free some and run it again"),
            Self::MapFull(bytes) => {
                write!(
                    f,
                    "the log has reached its largest size of {bytes} bytes: raise the address space limit (ulimit -v) and run it again"
                )
            }
            Self::MapOutgrown => f.write_str(
                "another process has made the log larger than this one can see: run it again, \
                 with more address space if it is limited (ulimit -v)",
            ),
            Self::Replaced => f.write_str(
                "the log's files were removed or replaced while processes have it open, and what is written now would be lost: \
                 end all of them, and run it again",
            ),
            Self::FeedFull(what) => write!(f, "{what}: start a new log"),
            Self::Io(doing, err) => write!(f, "{doing}: {err}"),
            Self::Database(doing, err) => write!(f, "{doing}: {err}"),
            Self::PeerId(why) => write!(f, "not a peer id: {why}"),
            Self::EntryTooLong(bytes, max) => {
                write!(
                    f,
                    "an entry of {bytes} bytes or more is over the limit of {max}: raise it with --entry-bytes-max, or split the entry"
                )
            }
            Self::BadInput(why) | Self::Wire(why) | Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::DiskFull(err) | Self::Io(_, err) => Some(err),
            Self::Database(_, err) => Some(&**err),
            _ => None,
        }
    }
}
