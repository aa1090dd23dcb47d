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
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::files::{data, file};
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
    file: Mutex<File>,
    dir: PathBuf,
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
        Ok(Self { file: Mutex::new(file), dir: dir.to_path_buf() })
    }

    /// Tells the live readers that the transaction with the number `txn` is durable.
    ///
    /// This cannot fail: an error would say that the entries were not stored. If the number cannot be written, the new
    /// modification time wakes the readers. If this fails too, they wake when this process closes the file.
    pub fn notify(&self, txn: u64) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Readers that start after a removal of the file watch the new one.
        let is_removed = file.metadata().is_ok_and(|about| about.nlink() == 0);
        if let Some(new) = is_removed.then(|| file::open_or_create(&self.dir, FILE_NAME).ok()).flatten() {
            // Readers that started before the removal watch the old file as long as it is open.
            *file = new;
        }
        if file.write_all_at(&txn.to_be_bytes(), 0).is_err() {
            file.set_modified(SystemTime::now()).ok();
        }
    }

    /// As [`last_commit`].
    pub fn last_commit(&self) -> Result<Option<u64>> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        read_number(&file).map_err(|err| cannot_be_read(&self.dir.join(FILE_NAME), err))
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
pub struct Watcher {
    inotify: Inotify,
    bell: PathBuf,
}

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
        // The directory first: then a file that takes the place of the bell is noticed.
        let place = watch_place(&inotify, dir);
        let bell = dir.join(FILE_NAME);
        let mut added = inotify.add_watch(&bell, BELL_EVENTS);
        if added == Err(Errno::ENOENT) {
            // The creator of the log was killed before it created this file, or the file was removed.
            Notifier::open(dir)?;
            added = inotify.add_watch(&bell, BELL_EVENTS);
        }
        // inotify reports ENOSPC for its own limit. It does not mean a full disk.
        if added == Err(Errno::ENOSPC) || place == Err(Errno::ENOSPC) {
            return Ok(Err(InotifyLimit::Watches));
        }
        added.map(|_| Ok(Self { inotify, bell })).map_err(fail)
    }

    /// Discards all notifications that have arrived. Call this before a scan: if it is called after the scan, a commit between
    /// the two is missed.
    pub fn clear(&self) -> Result<()> {
        let fail = |err: Errno| Error::io("the log cannot be watched", err.into());
        let mut is_new_bell = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => is_new_bell |= events.iter().any(|event| event.name.as_ref().is_some_and(|name| name == FILE_NAME)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(err) => return Err(fail(err)),
            }
        }
        if !is_new_bell {
            return Ok(());
        }
        // The next writer creates a file that was removed. Then its name appears.
        match self.inotify.add_watch(&self.bell, BELL_EVENTS) {
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(err) => Err(fail(err)),
        }
    }
}

/// IN_CLOSE_WRITE reports the end of a writer. A writer may be killed after its commit and before its notification. IN_ATTRIB
/// reports a removed name, also while a process has the file open.
const BELL_EVENTS: AddWatchFlags = AddWatchFlags::IN_MODIFY.union(AddWatchFlags::IN_CLOSE_WRITE).union(AddWatchFlags::IN_ATTRIB);

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
    // A program that restores an older file in place closes it. A process that has the log open for writing closes it too, after
    // its last notification.
    watched.and(inotify.add_watch(&dir.join(data::FILE_NAME), AddWatchFlags::IN_CLOSE_WRITE)).map(|_| ())
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
