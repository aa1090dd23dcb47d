//! The lock file of LMDB: the locks of this program, the file's blocks on the disk, and whether the file was replaced.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, FdFlag, fallocate, fcntl};
use nix::libc;
use nix::sys::stat::fstat;
use xxhash_rust::xxh3::xxh3_64;

use super::identity::FileId;
use super::{data, file};
use crate::model::{Error, Result, is_full};

/// The lock file in the directory of a log.
pub const FILE_NAME: &str = "lock.mdb";

/// The maximum number of readers at the same time, in all processes together.
pub const READERS_MAX: u32 = 4096;

/// The size of the lock file in bytes: LMDB's header, and 64 bytes for each reader.
const BYTES: i64 = 192 + 64 * (READERS_MAX as i64 - 1);
/// One page, in bytes. It has room for 61 readers.
const READ_ONLY_BYTES: i64 = 4096;

/// The byte that LMDB locks while a process has the log open.
const OPEN: i64 = 0;
/// The bytes that this program locks. They are above the bytes that LMDB locks: one for each process number.
const OPENING: i64 = 1 << 30;
const WRITING: i64 = OPENING + 1;
const SEALING: i64 = OPENING + 2;
/// The cursor whose name has the hash `h` is consumed by the process that locks the byte `CONSUMING + h` with an open file description
/// lock. This process also locks the byte `CONSUMER + h` with a lock of the process, so that others can ask for its number.
const CONSUMING: i64 = 1 << 62;
const CONSUMER: i64 = 1 << 61;
/// The bits of the hash that count.
const HASH_BITS: i64 = (1 << 61) - 1;

/// The lock file of a log, open. Drop this after LMDB has closed the log: a close of any descriptor of the file releases all
/// locks that LMDB holds for this process.
///
/// Its locks belong to this open file and not to a process number, so they also work between containers. They are in this
/// file and not on the directory, because a user who may only read could lock the directory.
pub struct LockFile {
    file: File,
    opening: Mutex<()>,
    writing: Mutex<()>,
    sealing: Mutex<()>,
    claims: Mutex<Claims>,
}

/// The claims of this process on cursors.
#[derive(Default)]
struct Claims {
    /// The hashes of the names of the cursors.
    hashes: Vec<i64>,
    /// The lock file, opened once more for each claim: a program that inherits a claim must not inherit the other locks. They are
    /// closed with the lock file, never before.
    files: Vec<Arc<File>>,
}

/// The claim of a process on a cursor. It is released when this value is dropped.
pub struct Claim<'a> {
    locks: &'a LockFile,
    file: Arc<File>,
    hash: i64,
}

impl Claim<'_> {
    /// From now on, processes that this process starts inherit the claim: if it is not released, it stays until all of them have
    /// ended.
    pub fn share(&self) -> Result<()> {
        let kept = fcntl(&*self.file, FcntlArg::F_SETFD(FdFlag::empty()));
        kept.map(|_| ()).map_err(|err| Error::io(format!("{FILE_NAME} cannot be inherited"), err.into()))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claims = self.locks.claims();
        claims.hashes.retain(|hash| *hash != self.hash);
        fcntl(&*self.file, FcntlArg::F_OFD_SETLK(&range(CONSUMING + self.hash, libc::F_UNLCK))).ok();
        fcntl(&*self.file, FcntlArg::F_SETLK(&range(CONSUMER + self.hash, libc::F_UNLCK))).ok();
    }
}

/// A lock that is held until this value is dropped. Other processes and other threads of this process wait.
pub struct Turn<'a> {
    file: &'a File,
    byte: i64,
    _thread: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        fcntl(self.file, FcntlArg::F_OFD_SETLK(&range(self.byte, libc::F_UNLCK))).ok();
    }
}

impl LockFile {
    /// Opens the file, and creates it if it is missing.
    pub fn open(dir: &Path) -> Result<Self> {
        let file = file::open_or_create(dir, FILE_NAME)?;
        Ok(Self { file, opening: Mutex::new(()), writing: Mutex::new(()), sealing: Mutex::new(()), claims: Mutex::default() })
    }

    /// Waits until no other process opens the log.
    ///
    /// In LMDB the first process sets up the lock file while others wait for it. If that process is killed halfway, the next
    /// process takes the incomplete lock file as complete and counts transactions from 0. Its commits are lost when the log is
    /// opened again. With this lock, no process waits at that point.
    pub fn wait_to_open(&self) -> Result<Turn<'_>> {
        self.wait(OPENING, &self.opening)
    }

    /// As [`LockFile::wait_to_open`], but returns `None` instead of waiting.
    pub fn try_to_open(&self) -> Option<Turn<'_>> {
        self.try_lock(OPENING, &self.opening)
    }

    /// The lock for sealing. Returns `None` instead of waiting if another process or thread seals.
    pub fn try_to_seal(&self) -> Option<Turn<'_>> {
        self.try_lock(SEALING, &self.sealing)
    }

    /// Whether another process or thread seals.
    pub fn is_sealing(&self) -> bool {
        self.sealing.try_lock().is_err() || !is_unlocked(&self.file, SEALING)
    }

    /// Waits until no other process seals.
    pub fn wait_to_seal(&self) -> Result<Turn<'_>> {
        self.wait(SEALING, &self.sealing)
    }

    /// The claim on the cursor `name` of the log in `dir`. Returns `None` if another process, or a program that it has started, or another
    /// thread has it.
    pub fn claim(&self, dir: &Path, name: &str) -> Result<Option<Claim<'_>>> {
        let (hash, mut claims) = (hash_of(name), self.claims());
        if claims.hashes.contains(&hash) {
            return Ok(None);
        }
        let file = claims.free_file(dir)?;
        // The lock of the process comes first, so that others always see the number of the process that has the claim.
        if fcntl(&*file, FcntlArg::F_SETLK(&range(CONSUMER + hash, libc::F_WRLCK))).is_err() {
            return Ok(None);
        }
        if fcntl(&*file, FcntlArg::F_OFD_SETLK(&range(CONSUMING + hash, libc::F_WRLCK))).is_err() {
            fcntl(&*file, FcntlArg::F_SETLK(&range(CONSUMER + hash, libc::F_UNLCK))).ok();
            return Ok(None);
        }
        claims.hashes.push(hash);
        Ok(Some(Claim { locks: self, file, hash }))
    }

    /// The process that has the claim on the cursor `name`. `None` if none has it, or it was killed, or is in another container.
    pub fn claimant(&self, name: &str) -> Option<u32> {
        let hash = hash_of(name);
        if self.claims().hashes.contains(&hash) {
            return Some(std::process::id());
        }
        let mut lock = range(CONSUMER + hash, libc::F_WRLCK);
        fcntl(&self.file, FcntlArg::F_GETLK(&mut lock)).ok()?;
        let is_locked = i32::from(lock.l_type) != libc::F_UNLCK;
        u32::try_from(lock.l_pid).ok().filter(|pid| is_locked && *pid > 0)
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no process has the log open. The caller must hold the lock for opening, and must not have the log open: as long
    /// as it holds the lock, no process opens the log.
    pub fn is_unused(&self) -> bool {
        is_unlocked(&self.file, OPEN)
    }

    fn try_lock<'a>(&'a self, byte: i64, thread: &'a Mutex<()>) -> Option<Turn<'a>> {
        let thread = thread.try_lock().ok()?;
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&range(byte, libc::F_WRLCK))).ok()?;
        Some(Turn { file: &self.file, byte, _thread: thread })
    }

    /// Waits until no other process writes.
    ///
    /// LMDB's own lock of the writers stores the number of the thread that holds it. A thread in another container may have
    /// the same number. If such a thread is killed while it waits for LMDB's lock, the kernel takes the lock from its holder,
    /// and two processes write at the same time. With this lock, no thread waits for LMDB's lock.
    pub fn wait_to_write(&self) -> Result<Turn<'_>> {
        self.wait(WRITING, &self.writing)
    }

    fn wait<'a>(&'a self, byte: i64, thread: &'a Mutex<()>) -> Result<Turn<'a>> {
        let thread = thread.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = range(byte, libc::F_WRLCK);
        loop {
            match fcntl(&self.file, FcntlArg::F_OFD_SETLKW(&lock)) {
                Ok(_) => return Ok(Turn { file: &self.file, byte, _thread: thread }),
                Err(Errno::EINTR) => {}
                Err(err) => return Err(Error::io(format!("{FILE_NAME} cannot be locked"), err.into())),
            }
        }
    }

    /// Allocates the blocks of the lock file. LMDB writes the file through a memory map: on a full disk, a write to a missing
    /// block would raise SIGBUS. A process that only reads can continue with the first page.
    pub fn reserve_blocks(&self, write: bool) -> Result<()> {
        if self.file.metadata().is_ok_and(|meta| meta.blocks() * 512 >= BYTES.unsigned_abs()) {
            return Ok(());
        }
        let reserve = |bytes| fallocate(&self.file, FallocateFlags::empty(), 0, bytes);
        match reserve(BYTES).or_else(|err| if write { Err(err) } else { reserve(READ_ONLY_BYTES) }) {
            Err(err) if is_full(err) => Err(Error::DiskFull(err.into())),
            // Some file systems do not support fallocate(2).
            _ => Ok(()),
        }
    }
}

/// The lock file on a read-only file system, where LMDB cannot use it. Then a reader cannot keep the pages that it reads from
/// a writer, which may use another mount of the same file system.
pub struct UnusableLockFile {
    dir: PathBuf,
    /// `None`: no process has used the log yet, at this place.
    file: Option<File>,
}

impl UnusableLockFile {
    pub fn open(dir: &Path) -> Result<Self> {
        Ok(Self { dir: dir.to_path_buf(), file: file::open(dir, FILE_NAME)? })
    }

    /// Checks that no process which may write has the log open.
    ///
    /// # Errors
    /// [`Error::InUseElsewhere`] if a process has it open.
    pub fn check_unused(&self) -> Result<()> {
        let is_unused = match &self.file {
            Some(file) => is_unlocked(file, OPEN),
            None => !file::check(&self.dir, FILE_NAME)?,
        };
        if is_unused { Ok(()) } else { Err(Error::InUseElsewhere(self.dir.clone())) }
    }
}

/// The locks of a log that a process has open.
pub enum Locks {
    Usable(LockFile),
    Unusable(UnusableLockFile),
}

impl Locks {
    /// Opens the lock file. A process that only reads needs to write in it too, except on a read-only file system.
    pub fn open(dir: &Path, write: bool) -> Result<Self> {
        match LockFile::open(dir) {
            Ok(file) => Ok(Self::Usable(file)),
            Err(Error::Io(_, err)) if !write && err.kind() == ErrorKind::ReadOnlyFilesystem => {
                UnusableLockFile::open(dir).map(Self::Unusable)
            }
            Err(Error::Io(doing, err)) if !write && err.kind() == ErrorKind::PermissionDenied => {
                Err(Error::ReaderWithoutLock(doing, err))
            }
            Err(err) => Err(err),
        }
    }

    /// The lock file, if its locks can be used.
    pub fn usable(&self) -> Option<&LockFile> {
        match self {
            Self::Usable(file) => Some(file),
            Self::Unusable(_) => None,
        }
    }

    /// Checks that a snapshot which begins now can be read.
    pub fn check_snapshot(&self) -> Result<()> {
        match self {
            Self::Usable(_) => Ok(()),
            Self::Unusable(file) => file.check_unused(),
        }
    }

    fn file(&self) -> Option<&File> {
        match self {
            Self::Usable(LockFile { file, .. }) => Some(file),
            Self::Unusable(UnusableLockFile { file, .. }) => file.as_ref(),
        }
    }
}

/// The identities of the log's files that this process has open. They show whether a file was replaced. A process that opens
/// the new file does not share locks with this process, or does not read what this process writes.
pub struct OpenFiles([(PathBuf, Option<FileId>); 2]);

impl OpenFiles {
    /// The files of the log in `dir`.
    pub fn new(dir: &Path, locks: &Locks, data: &File) -> Result<Self> {
        let id = |name: &str, file| {
            FileId::of_open(file).map_err(|err| Error::io(format!("{} cannot be read", dir.join(name).display()), err))
        };
        let lock = locks.file().map(|file| id(FILE_NAME, file)).transpose()?;
        Ok(Self([(dir.join(FILE_NAME), lock), (dir.join(data::FILE_NAME), Some(id(data::FILE_NAME, data)?))]))
    }

    /// Whether this open file is the data file.
    pub fn is_data_file(&self, file: impl AsFd) -> bool {
        fstat(file).is_ok_and(|about| self.0[1].1 == Some(FileId::from(&about)))
    }

    /// Whether both paths lead to the open files.
    pub fn are_unchanged(&self) -> bool {
        self.0.iter().all(|(path, id)| FileId::of_name(path).ok() == *id)
    }
}

impl Claims {
    /// An open lock file that no claim uses, and that no other program has inherited.
    fn free_file(&mut self, dir: &Path) -> Result<Arc<File>> {
        let is_own = |file: &File| fcntl(file, FcntlArg::F_GETFD).is_ok_and(|flags| flags & FdFlag::FD_CLOEXEC.bits() != 0);
        if let Some(free) = self.files.iter().find(|file| Arc::strong_count(file) == 1 && is_own(file)) {
            return Ok(Arc::clone(free));
        }
        let file = Arc::new(file::open_or_create(dir, FILE_NAME)?);
        self.files.push(Arc::clone(&file));
        Ok(file)
    }
}

/// The hash of the name of a cursor, as an offset in the lock file.
fn hash_of(name: &str) -> i64 {
    xxh3_64(name.as_bytes()).cast_signed() & HASH_BITS
}

/// Whether no other open file has a lock on this byte.
fn is_unlocked(file: &File, byte: i64) -> bool {
    let mut lock = range(byte, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok() && i32::from(lock.l_type) == libc::F_UNLCK
}

/// One byte of the lock file, for fcntl(2).
fn range(byte: i64, kind: libc::c_int) -> libc::flock {
    libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: byte as _, l_len: 1, l_pid: 0 }
}
