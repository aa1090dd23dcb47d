//! Notifications: after each commit the writer writes the number of its transaction to the file `bell`, which live readers watch
//! with inotify.
//!
//! A notification tells a reader to scan again, so merged or early notifications do no harm. The number is written after the
//! commit is on the disk. So a data file whose newest transaction has a lower number has lost commits.
//! Readers must not watch data.mdb instead: LMDB writes the pages of a transaction before it makes the transaction
//! visible, so a reader would scan too early and miss the commit.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::files::file;
use crate::model::{Error, Result};

/// The file in the directory of a log. It is created last: if it exists, the log was completely created.
pub const FILE_NAME: &str = "bell";

/// The length of the file: the number of a transaction, big-endian.
const BYTES: usize = 8;

/// The number of the last transaction in the file `bell` of `dir`. `None` if the file has no number.
pub fn last_commit(dir: &Path) -> Result<Option<u64>> {
    let path = dir.join(FILE_NAME);
    file::open(dir, FILE_NAME)?.map_or(Ok(None), |file| read_number(&file).map_err(|err| cannot_be_read(&path, err)))
}

fn cannot_be_read(path: &Path, err: io::Error) -> Error {
    Error::io(format!("{} cannot be read", path.display()), err)
}

/// The number in the file. `None` if it is 0, if the file is shorter, or if it begins with another byte than 0: earlier programs
/// wrote one byte, and a number never has this byte.
fn read_number(file: &File) -> io::Result<Option<u64>> {
    let mut number = [0; BYTES];
    match file.read_exact_at(&mut number, 0) {
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        read => read.map(|()| Some(u64::from_be_bytes(number)).filter(|&number| number > 0 && number.leading_zeros() >= 8)),
    }
}

/// Sends notifications, for writers.
pub struct Notifier {
    file: File,
    path: PathBuf,
}

impl Notifier {
    /// Opens the file in `dir`, and creates it if it does not exist.
    pub fn open(dir: &Path) -> Result<Self> {
        let file = file::open_or_create(dir, FILE_NAME)?;
        // The space is allocated now, so that a write after a commit also succeeds on a full disk. It does not change the
        // content. If it fails, `notify` does without.
        if file.metadata().is_ok_and(|about| about.len() < BYTES as u64) {
            fallocate(&file, FallocateFlags::empty(), 0, BYTES as i64).ok();
        }
        Ok(Self { file, path: dir.join(FILE_NAME) })
    }

    /// Tells the live readers that the transaction with the number `txn` is durable.
    ///
    /// This cannot fail: an error would say that the entries were not stored. If the number cannot be written, the new
    /// modification time wakes the readers. If this fails too, they wake when this process closes the file.
    pub fn notify(&self, txn: u64) {
        if self.file.write_all_at(&txn.to_be_bytes(), 0).is_err() {
            self.file.set_modified(SystemTime::now()).ok();
        }
    }

    /// As [`last_commit`].
    pub fn last_commit(&self) -> Result<Option<u64>> {
        read_number(&self.file).map_err(|err| cannot_be_read(&self.path, err))
    }
}

/// The limit of inotify that is exhausted, so that a log cannot be watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InotifyLimit {
    /// The instances of the user (fs.inotify.max_user_instances), or the descriptors of the process (ulimit -n).
    Instances,
    /// The watches of the user (fs.inotify.max_user_watches).
    Watches,
}

/// Receives notifications, for readers. Its descriptor is readable after a notification that arrived since [`Watcher::new`]
/// or [`Watcher::clear`].
pub struct Watcher(Inotify);

impl Watcher {
    /// Starts to watch the log in `dir`: its notifications, and whether it is removed, moved or replaced. Returns the limit if a
    /// limit of inotify is exhausted.
    pub fn new(dir: &Path) -> Result<Result<Self, InotifyLimit>> {
        let fail = |err: Errno| Error::io("the log cannot be watched", err.into());
        let inotify = match Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK) {
            Err(Errno::EMFILE) => return Ok(Err(InotifyLimit::Instances)),
            inotify => inotify.map_err(fail)?,
        };
        file::check(dir, FILE_NAME)?;
        // IN_CLOSE_WRITE reports the end of a writer. A writer may be killed after its commit and before its notification.
        // IN_ATTRIB reports a removed name, also while a process has the file open.
        let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB;
        let add = || inotify.add_watch(&dir.join(FILE_NAME), events);
        let mut added = add();
        if added == Err(Errno::ENOENT) {
            // The creator of the log was killed before it created this file.
            Notifier::open(dir)?;
            added = add();
        }
        // inotify reports ENOSPC for its own limit. It does not mean a full disk.
        if added == Err(Errno::ENOSPC) || watch_place(&inotify, dir) == Err(Errno::ENOSPC) {
            return Ok(Err(InotifyLimit::Watches));
        }
        added.map(|_| Ok(Self(inotify))).map_err(fail)
    }

    /// Discards all notifications that have arrived. Call this before a scan: if it is called after the scan, a commit between
    /// the two is missed.
    pub fn clear(&self) -> Result<()> {
        loop {
            match self.0.read_events() {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(err) => return Err(Error::io("the log cannot be watched", err.into())),
            }
        }
    }
}

/// Watches whether names in `dir` change, and whether `dir` or a directory above it is moved.
fn watch_place(inotify: &Inotify, dir: &Path) -> nix::Result<()> {
    let names = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE_SELF;
    let watched = inotify.add_watch(dir, names | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_ONLYDIR);
    let real = dir.canonicalize().unwrap_or_default();
    for above in real.ancestors().skip(1) {
        // A user may be allowed to enter a directory, but not to watch it. Then a move of it is noticed with the next
        // notification.
        inotify.add_watch(above, AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_ONLYDIR).ok();
    }
    watched.map(|_| ())
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
