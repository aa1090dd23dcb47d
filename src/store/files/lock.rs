//! The lock file of LMDB: a lock for opening the log, the file's blocks on the disk, and whether the file was replaced.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, OFlag, fallocate, open};
use nix::sys::stat::Mode;

use super::data;
use super::identity::FileId;
use crate::model::{Error, Result, is_full};

/// The lock file in the directory of a log.
pub const FILE_NAME: &str = "lock.mdb";

/// The maximum number of readers at the same time, in all processes together.
pub const READERS_MAX: u32 = 4096;

/// The size of the lock file in bytes: LMDB's header, and 64 bytes for each reader.
const BYTES: i64 = 192 + 64 * (READERS_MAX as i64 - 1);
/// One page, in bytes. It has room for 61 readers.
const READ_ONLY_BYTES: i64 = 4096;

/// While this value exists, no other process opens the log.
pub struct OpeningLock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

/// Waits until no other process opens the log. Returns `None` if the directory cannot be locked.
///
/// In LMDB the first process sets up the lock file while others wait for it. If that process is killed halfway, the next
/// process takes the incomplete lock file as complete and counts transactions from 0. Its commits are lost when the log is
/// opened again. With this lock, no process waits at that point. The lock is on the directory: a close of any descriptor of
/// the lock file would release LMDB's own locks.
pub fn lock_for_opening(dir: &Path) -> Option<OpeningLock> {
    let mut dir = File::open(dir).ok()?;
    loop {
        match Flock::lock(dir, FlockArg::LockExclusive) {
            Ok(lock) => return Some(OpeningLock(lock)),
            Err((again, Errno::EINTR)) => dir = again,
            Err(_) => return None,
        }
    }
}

/// The identities of the log's files that this process has open. They show whether a file was replaced. A process that opens
/// the new file does not share locks with this process, or does not read what this process writes.
pub struct OpenFiles([(PathBuf, Option<FileId>); 2]);

impl OpenFiles {
    /// The files of the log in `dir`. Call this immediately after LMDB has opened them.
    pub fn new(dir: &Path) -> Self {
        Self([FILE_NAME, data::FILE_NAME].map(|name| dir.join(name)).map(|path| {
            let id = FileId::of(&path).ok();
            (path, id)
        }))
    }

    /// Whether both paths still lead to the open files.
    pub fn are_unchanged(&self) -> bool {
        self.0.iter().all(|(path, id)| FileId::of(path).ok() == *id)
    }
}

/// Allocates the blocks of the lock file. LMDB writes the file through a memory map: on a full disk, a write to a missing
/// block would raise SIGBUS. A process that only reads can continue with the first page.
///
/// Call this before LMDB opens the file: a close of any descriptor of a file releases all locks that the process has on it.
pub fn reserve_blocks(dir: &Path, write: bool) -> Result<()> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC;
    // If this fails, LMDB reports the error, or does not need the file.
    let Ok(file) = open(&dir.join(FILE_NAME), flags, Mode::S_IRUSR | Mode::S_IWUSR) else { return Ok(()) };
    let file = File::from(file);
    if file.metadata().is_ok_and(|meta| meta.blocks() * 512 >= BYTES.unsigned_abs()) {
        return Ok(());
    }
    let reserve = |bytes| fallocate(&file, FallocateFlags::empty(), 0, bytes);
    match reserve(BYTES).or_else(|err| if write { Err(err) } else { reserve(READ_ONLY_BYTES) }) {
        Err(err) if is_full(err) => Err(Error::DiskFull(err.into())),
        // Some file systems do not support fallocate(2).
        _ => Ok(()),
    }
}
