//! How a commit wakes the others: one byte written over the first of a file that they watch with inotify.
//!
//! A ring carries no data, only "look again": rings that merge or come too early do no harm. The data file itself
//! would not do: LMDB publishes a transaction after it has written its pages, and a watcher would look too early.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::error::{Error, Result};

/// The file in the directory of a log; it is made last, so that where it is there was a log.
pub const NAME: &str = "bell";

/// The writer's end.
pub struct Bell(File);

impl Bell {
    /// Opens the bell in `dir`; makes it if need be.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(NAME);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        file.map(Self).map_err(|err| Error::io(format!("{} cannot be opened", path.display()), err))
    }

    /// Rings. The commit is done and stays done if this fails, so that it only can be said.
    pub fn ring(&self) -> Result<()> {
        self.0.write_all_at(b"!", 0).map_err(|err| Error::io("the commit is stored, but live readers cannot be woken", err))
    }
}

/// A reader's end; it hears every ring after [`BellWatch::new`].
pub struct BellWatch(Inotify);

impl BellWatch {
    /// Begins to listen.
    pub fn new(dir: &Path) -> Result<Self> {
        let fail = |err: Errno| Error::io("the log cannot be watched (see fs.inotify in sysctl)", err.into());
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(fail)?;
        // The end of a writer, too: it may have been killed between its commit and its ring.
        let rings = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE;
        let add = || inotify.add_watch(&dir.join(NAME), rings);
        match add() {
            // The maker of the log was killed before it came to the bell.
            Err(Errno::ENOENT) => {
                Bell::open(dir)?;
                add().map_err(fail)?;
            }
            added => {
                added.map_err(fail)?;
            }
        }
        Ok(Self(inotify))
    }

    /// Forgets the rings heard so far. Call it before looking, never after.
    pub fn hush(&self) -> Result<()> {
        loop {
            match self.0.read_events() {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(err) => return Err(Error::io("the log cannot be watched", err.into())),
            }
        }
    }
}

impl AsFd for BellWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
