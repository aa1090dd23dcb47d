//! LMDB's lock file: whose turn it is to open it, room for it, and whether it still lies in its place.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, OFlag, fallocate, open};
use nix::sys::stat::Mode;

use super::datafile;
use crate::error::{Error, Result, is_full};

const NAME: &str = "lock.mdb";

/// Processes and threads that read at the same time.
pub const READERS_MAX: u32 = 4096;

/// While it lives, no other process opens the log.
pub struct Turn(#[expect(dead_code, reason = "held, not used")] Flock<File>);

/// Waits until nobody else opens the log; `None` where its directory cannot be locked.
///
/// LMDB lets the first process set up its lock file while others wait for that. Should it die half-way, the next takes
/// what it left for whole, and counts transactions from 0: what it commits then is lost when the log is next opened. So
/// nobody may wait there. The lock is on the directory: closing any descriptor of the lock file frees LMDB's own.
pub fn take_turn(dir: &Path) -> Option<Turn> {
    let mut dir = File::open(dir).ok()?;
    loop {
        match Flock::lock(dir, FlockArg::LockExclusive) {
            Ok(turn) => return Some(Turn(turn)),
            Err((again, Errno::EINTR)) => dir = again,
            Err(_) => return None,
        }
    }
}

/// The files that a process has open, to notice when others lie in their places: who opens those has locks of its own, or
/// writes what nobody reads.
pub struct Files([(PathBuf, Option<(u64, u64)>); 2]);

impl Files {
    pub fn new(dir: &Path) -> Self {
        Self([NAME, datafile::NAME].map(|name| dir.join(name)).map(|path| {
            let inode = datafile::inode(&path).ok();
            (path, inode)
        }))
    }

    pub fn are_the_same(&self) -> bool {
        self.0.iter().all(|(path, before)| datafile::inode(path).ok() == *before)
    }
}

/// Makes sure of the blocks of LMDB's lock file, which LMDB writes through a map: on a full disk that would be SIGBUS.
/// Before LMDB opens it, as a process that closes any descriptor of a file loses its locks on it. Who only reads can do with
/// the first page, which has place for 61 of them.
pub fn reserve(dir: &Path, write: bool) -> Result<()> {
    /// LMDB's header, and 64 bytes a reader.
    const BYTES: i64 = 192 + 64 * (READERS_MAX as i64 - 1);
    let lock = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC;
    // Where that is not for us LMDB says so, or can do without.
    let Ok(file) = open(&dir.join(NAME), lock, Mode::S_IRUSR | Mode::S_IWUSR) else { return Ok(()) };
    let file = File::from(file);
    if file.metadata().is_ok_and(|meta| meta.blocks() * 512 >= BYTES.unsigned_abs()) {
        return Ok(());
    }
    let reserve = |bytes| fallocate(&file, FallocateFlags::empty(), 0, bytes);
    match reserve(BYTES).or_else(|err| if write { Err(err) } else { reserve(4096) }) {
        Err(err) if is_full(err) => Err(Error::DiskFull(err.into())),
        // Not every file system can do that.
        _ => Ok(()),
    }
}
