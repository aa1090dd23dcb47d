//! Every error of the library, as one type. A message says what failed, where, and what to do. It names no command-line
//! flag: the command line adds such hints itself.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use super::{Offset, PeerId, Printable, Seq};

/// An error of the library.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The directory holds no log.
    NoLog(PathBuf),
    /// The directory already holds a log, with this id.
    LogExists(PathBuf, PeerId),
    /// The log holds a feed of this peer, so that the log cannot take its id.
    KnownPeer(PeerId),
    /// The directory holds no log, but other files, so that no log is created in it. The name of one of them.
    NotEmpty(PathBuf, OsString),
    /// This process has already opened the log.
    AlreadyOpen(PathBuf),
    /// The path of the log is not a directory.
    NotADirectory(PathBuf),
    /// This file of a log is not a regular file, but, for example, "a symbolic link".
    NotARegularFile(PathBuf, &'static str),
    /// This name in a log is not a directory, but, for example, "a symbolic link".
    NotAFolder(PathBuf, &'static str),
    /// This file of a log belongs to this user id, which may not have files in the directory.
    UntrustedOwner(PathBuf, u32),
    /// A process that reads cannot write in the lock file: what failed, and the error.
    ReaderWithoutLock(String, io::Error),
    /// The log in this directory is on a read-only file system, and a process has it open through another mount.
    InUseElsewhere(PathBuf),
    /// Another process with the same process id, in another container, has the log in this directory open.
    SameProcessId(PathBuf),
    /// The log has this format, which is newer than this program.
    NewerFormat(PathBuf, u32),
    /// The data file is shorter than its meta page says, in bytes: (has, needs).
    Truncated(PathBuf, u64, u64),
    /// This data file has lost its last commits: an older one was put back, or it is damaged.
    CommitsLost(PathBuf),
    /// Data on the disk is damaged: what is wrong.
    Corrupt(String),
    /// This pack is missing.
    PackMissing(PathBuf),
    /// The record at this offset does not match its checksum.
    Checksum(Offset),
    /// A position after which a reader wants to continue is above the last offset of the log.
    UnknownOffset {
        /// The position.
        after: Offset,
        /// The last offset of the log.
        last: Offset,
    },
    /// Another process consumes this cursor.
    CursorInUse {
        /// The name of the cursor.
        name: String,
        /// The process. `None`: it was killed, and a process that it has started goes on; or it is in another container.
        process: Option<u32>,
    },
    /// The disk, a quota or a file size limit is exhausted.
    DiskFull(io::Error),
    /// The memory map, which limits the size of the log, is exhausted. Its size in bytes.
    MapFull(usize),
    /// Another process made the log larger than the memory map of this process.
    MapOutgrown,
    /// The files of the log were replaced or removed since they were opened, or data.mdb and lock.mdb do not belong together.
    Replaced,
    /// The files of the log were removed, moved or replaced while this process waited for new entries.
    ReplacedWhileFollowed,
    /// Another process follows this file into the same log.
    FollowedElsewhere(PathBuf),
    /// A feed, or the set of feeds, cannot grow.
    FeedFull(String),
    /// The operating system reported an error: what failed, and the error.
    Io(String, io::Error),
    /// LMDB reported an error: what failed, and the error.
    Database(String, Box<dyn std::error::Error + Send + Sync>),
    /// Invalid peer id: the reason.
    PeerId(&'static str),
    /// Invalid pattern for peer ids: the pattern, and the reason.
    PeerGlob(String, &'static str),
    /// The entry is longer than the limit, in bytes: (has at least, limit).
    EntryTooLong(u64, usize),
    /// The input is not UTF-8 at this byte. Bytes are counted from 1.
    NotUtf8(usize),
    /// The input is not valid: the reason.
    BadInput(String),
    /// The bytes of this entry in a change line do not match the hash in the line.
    HashMismatch(PeerId, Seq),
    /// The remote broke the protocol: what it did.
    Wire(String),
    /// The remote sent text that is not the protocol: its kind, and its first line, escaped.
    RemoteText(RemoteText, String),
    /// The remote sent a frame that is longer than this limit, in bytes.
    FrameTooLong(usize),
    /// The remote sent an entry, but the local mode is push.
    PushOnly,
    /// The remote sent a new feed, this one, above the limit of new feeds that one session may store.
    FeedsRefused(PeerId, u64),
    /// The remote sent an entry, this one, above the limit of bytes that one session may store.
    BytesRefused(PeerId, Seq, u64),
    /// The remote sent entries of this feed, which is not allowed, although it has got the list of allowed feeds on the native wire.
    PeerRefused(PeerId),
    /// The remote does not speak the native wire, and the caller allows only this wire.
    NoNativeWire,
}

/// Text that the remote sent where the protocol should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoteText {
    /// Only text.
    Only,
    /// Text, and the protocol behind it.
    BeforeSession,
    /// A terminal has changed the stream.
    Terminal,
}

/// Alias for results of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps an error of the operating system; `doing` says what failed. A full disk becomes [`Error::DiskFull`].
    pub fn io(doing: impl Into<String>, err: io::Error) -> Self {
        match err.raw_os_error() {
            Some(code) if is_full(Errno::from_raw(code)) => Self::DiskFull(err),
            _ => Self::Io(doing.into(), err),
        }
    }

    /// Whether a limit or a rule of this side refuses what the remote sent.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::PushOnly | Self::FeedsRefused(..) | Self::BytesRefused(..) | Self::PeerRefused(_))
    }

    /// The error for received entries of `peer` that differ from the entries of the remote.
    pub(crate) fn damaged_in_transit(peer: &str) -> Self {
        Self::Wire(format!("entries of {} were damaged in transit: run it again", Printable(peer)))
    }

    /// The error for text that is not UTF-8.
    pub fn not_utf8(err: &std::str::Utf8Error) -> Self {
        Self::NotUtf8(err.valid_up_to() + 1)
    }
}

/// Whether space ran out: on the disk, in a quota, or under a file size limit.
pub(crate) fn is_full(code: Errno) -> bool {
    matches!(code, Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)
}

/// The advice for a damaged log.
const RESTORE: &str = "restore the log from a backup, or replicate it from another log into a new one";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLog(dir) => write!(f, "no log in {}", dir.display()),
            Self::LogExists(dir, id) => write!(f, "{} already holds a log with id {id}", dir.display()),
            Self::KnownPeer(id) => write!(
                f,
                "this log already holds a feed of {id}, and another log may append to it: choose an id that no log has had"
            ),
            Self::NotEmpty(dir, name) => write!(
                f,
                "{} holds no log, but other files, such as {}: a log is only created in a new or an empty directory",
                dir.display(),
                name.display()
            ),
            Self::AlreadyOpen(dir) => {
                write!(f, "this process has already opened the log {}: share the open one", dir.display())
            }
            Self::NotADirectory(dir) => write!(f, "{} is not a directory", dir.display()),
            Self::NotARegularFile(path, kind) => {
                write!(f, "{} is {kind}, and a file of a log must be a regular file: remove it and run it again", path.display())
            }
            Self::NotAFolder(path, kind) => {
                write!(f, "{} is {kind}, and must be a directory: put a directory in its place and run it again", path.display())
            }
            Self::UntrustedOwner(path, user) => write!(
                f,
                "{} belongs to the user with the id {user}, and must belong to you, to root, to the owner of the directory, \
                 or to the group that may write in the directory: change its owner or its group",
                path.display()
            ),
            Self::ReaderWithoutLock(doing, err) => write!(
                f,
                "{doing}: {err}: a process that reads the log also writes in this file, ask the owner of the log for permission"
            ),
            Self::InUseElsewhere(dir) => write!(
                f,
                "{} is mounted read-only, and another process has the log open: this process cannot protect what it reads \
                 from a writer, mount the directory for writing or end the other process",
                dir.display()
            ),
            Self::SameProcessId(dir) => write!(
                f,
                "another container uses the log in {} with the same process id: run one of the two programs with an init",
                dir.display()
            ),
            Self::NewerFormat(dir, format) => write!(
                f,
                "the log in {} has format {format}, which is newer than this program: install a newer scuttleup",
                dir.display()
            ),
            Self::Truncated(path, has, needs) => {
                write!(f, "{} is truncated (it has {has} bytes and needs {needs}): {RESTORE}", path.display())
            }
            Self::CommitsLost(path) => write!(
                f,
                "the last commits are missing in {0}: an older file was put back, it was copied while a writer ran, or it is damaged: \
                 {RESTORE}; to use it without these commits, empty the file {1}",
                path.display(),
                path.with_file_name("bell").display()
            ),
            Self::Corrupt(what) => {
                write!(f, "{what}: the log is damaged, or was copied while a writer ran: {RESTORE}")
            }
            Self::PackMissing(path) => write!(f, "{} is missing: {RESTORE}", path.display()),
            Self::Checksum(offset) => write!(
                f,
                "the entry at offset {offset} does not match its checksum, data.mdb is damaged, \
                 or was copied while a writer ran: {RESTORE}"
            ),
            Self::UnknownOffset { after, last } => write!(
                f,
                "there is no offset {after} in this log, its last offset is {last}: the offset is from another log, \
                 or this log was restored or created again"
            ),
            Self::CursorInUse { name, process: Some(process) } => {
                write!(f, "the cursor {} is in use by the process {process}: wait until it ends, or end it", Printable(name))
            }
            Self::CursorInUse { name, process: None } => write!(
                f,
                "the cursor {} is in use: the process that consumed it was killed, and a program that it has started still runs, \
                 or it is in another container: wait until it ends, or end it",
                Printable(name)
            ),
            Self::DiskFull(err) => write!(f, "cannot store more ({err}): free some space and run it again"),
            Self::MapFull(bytes) => write!(
                f,
                "the log has reached its maximum size of {bytes} bytes: raise the address space limit (ulimit -v) and run it again"
            ),
            Self::MapOutgrown => f.write_str(
                "another process made the log larger than this process can map: \
                 raise the address space limit (ulimit -v) if there is one, and run it again",
            ),
            Self::Replaced => f.write_str(
                "the files of the log were removed or replaced while processes had it open, and new entries would be lost: \
                 end all of these processes and run it again",
            ),
            Self::FollowedElsewhere(path) => {
                let path = path.display().to_string();
                write!(f, "another process follows {} into this log: end one of them and run it again", Printable(&path))
            }
            Self::ReplacedWhileFollowed => f.write_str(
                "the files of the log were removed or replaced, or its directory was moved, and new entries would be missed: \
                 run it again",
            ),
            Self::FeedFull(what) => write!(f, "{what}: start a new log"),
            Self::Io(doing, err) => write!(f, "{doing}: {err}"),
            Self::Database(doing, err) => write!(f, "{doing}: {err}"),
            Self::PeerId(why) => write!(f, "invalid peer id: {why}"),
            Self::PeerGlob(glob, why) => write!(f, "invalid pattern {glob} for peer ids: {why}"),
            Self::EntryTooLong(bytes, max) => {
                write!(f, "the entry is too long: it has {bytes} bytes or more, and the limit is {max}")
            }
            Self::NotUtf8(at) => write!(f, "not UTF-8 at byte {at}"),
            Self::HashMismatch(peer, seq) => {
                write!(f, "entry {seq} of {peer} does not match its hash in the line, a program has changed the line")
            }
            Self::BadInput(why) | Self::Wire(why) => f.write_str(why),
            Self::RemoteText(RemoteText::Terminal, line) if line.is_empty() => {
                f.write_str("a terminal between the two sides changes the bytes of the protocol")
            }
            Self::RemoteText(kind, line) => match kind {
                RemoteText::Only => write!(f, "the remote is not a replication, it printed: {line}"),
                RemoteText::BeforeSession => write!(f, "the remote printed text before the protocol: {line}"),
                RemoteText::Terminal => {
                    write!(f, "a terminal between the two sides changes the bytes of the protocol, the remote printed: {line}")
                }
            },
            Self::FrameTooLong(max) => write!(f, "the remote sent a frame of more than {max} bytes"),
            Self::PushOnly => f.write_str("the remote sent an entry, but the local mode is push"),
            Self::FeedsRefused(peer, max) => {
                write!(
                    f,
                    "the new feed {peer} is refused: a session stores at most {max} new feeds, what came before it is stored"
                )
            }
            Self::BytesRefused(peer, seq, max) => write!(
                f,
                "entry {seq} of {peer} is refused: a session stores entries of at most {max} bytes, what came before it is stored"
            ),
            Self::PeerRefused(peer) => {
                write!(f, "entries of {peer} are refused: this feed is not allowed, the entries of other feeds are stored")
            }
            Self::NoNativeWire => f.write_str("the remote does not speak the native wire"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::DiskFull(err) | Self::Io(_, err) | Self::ReaderWithoutLock(_, err) => Some(err),
            Self::Database(_, err) => Some(&**err),
            _ => None,
        }
    }
}
