//! Following a log as it grows: scan, wait for a notification, scan again. The log is polled only if inotify is exhausted.

use std::ops::ControlFlow;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::model::{Change, Error, Offset, Result};
use crate::store::{Bounds, Finder, InotifyLimit, Log, Reader, Watcher};

/// The time between two looks at a log that cannot be watched.
const POLL_MILLIS: u16 = 1000;

/// Reads a log from an offset on, and waits for new entries.
pub struct Follower<'l> {
    log: &'l Log,
    reader: Reader<'l>,
    after: Offset,
    wake: Wake,
}

/// The event that wakes a follower.
enum Wake {
    /// Notifications.
    Watcher(Watcher),
    /// The time, because this limit is exhausted.
    Time(InotifyLimit),
    /// New entries do not wake it.
    Never,
}

impl Log {
    /// Follows the log after the offset `after`. No later commit is missed. If a limit of inotify is exhausted, the follower
    /// looks at the log every second: see [`Follower::inotify_limit`].
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use scuttleup::{Bounds, Log, Offset};
    ///
    /// # let dir = std::env::temp_dir().join(format!("scuttleup-doc-follow-{}", std::process::id()));
    /// # let log = Log::open_or_create(&dir)?;
    /// let mut follower = log.follow(Offset::ZERO)?;
    /// std::thread::scope(|threads| {
    ///     threads.spawn(|| log.append(b"hello"));
    ///     // Wait only if the scan found nothing. A change between the scan and the wait ends the wait at once.
    ///     while !follower.scan(Bounds::default(), |_| Ok(ControlFlow::Continue(())))? {
    ///         follower.wait(&[])?;
    ///     }
    ///     Ok::<(), scuttleup::Error>(())
    /// })?;
    /// assert_eq!(follower.position(), Offset(1));
    /// # std::fs::remove_dir_all(dir).ok();
    /// # Ok::<(), scuttleup::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownOffset`] if `after` is above the last offset; an error if the log cannot be watched for another reason.
    pub fn follow(&self, after: Offset) -> Result<Follower<'_>> {
        self.check_offset(after)?;
        // The watcher starts before the first scan: every commit that this scan does not see sends a notification.
        let wake = self.watcher()?.map_or_else(Wake::Time, Wake::Watcher);
        Ok(Follower { log: self, reader: self.reader(), after, wake })
    }

    /// As [`Log::follow`], but new entries do not wake the follower. For callers that only read existing entries: the end
    /// of an inotify watch can take 20 ms, because the kernel waits for all processors.
    pub(crate) fn follow_without_watch(&self, after: Offset) -> Follower<'_> {
        Follower { log: self, reader: self.reader(), after, wake: Wake::Never }
    }
}

impl Follower<'_> {
    /// Gives the next changes to `each`, in one [`Reader::scan`] within `bounds`. Returns whether it found a change.
    ///
    /// # Errors
    /// As [`Reader::scan`]. [`Error::ReplacedWhileFollowed`] if it found no change, and would never find one, because the files
    /// of the log were removed, moved or replaced.
    pub fn scan(&mut self, bounds: Bounds, each: impl FnMut(Change<'_>) -> Result<ControlFlow<()>>) -> Result<bool> {
        let last = self.reader.scan(self.after, bounds, each)?;
        self.moved_to(last)
    }

    /// Takes `last` as the position. Returns whether this is another position.
    fn moved_to(&mut self, last: Offset) -> Result<bool> {
        let any = last != self.after;
        self.after = last;
        // Before each wait: the watcher reports only later changes of the files.
        if !any && !matches!(self.wake, Wake::Never) {
            self.log.check_in_place()?;
        }
        Ok(any)
    }

    /// As [`Follower::scan`], but gives only the changes that `finder` finds, and no changes behind `until`. The finder must be of the
    /// same log.
    ///
    /// # Errors
    /// As [`Follower::scan`].
    pub fn find(
        &mut self,
        finder: &mut Finder<'_>,
        until: Offset,
        bounds: Bounds,
        each: impl FnMut(&Change<'_>, Option<u64>) -> Result<ControlFlow<()>>,
    ) -> Result<bool> {
        let last = finder.scan(self.after, until, bounds, each)?;
        self.moved_to(last)
    }

    /// The offset of the last change that was given to `each`.
    pub fn position(&self) -> Offset {
        self.after
    }

    /// The number of pruned entries that scans have passed over since the last call: see [`Reader::scan`].
    pub fn take_skipped(&mut self) -> u64 {
        self.reader.take_skipped()
    }

    /// Moves to another position: the next scan starts after `after`.
    pub fn go_to(&mut self, after: Offset) {
        self.after = after;
    }

    /// The limit of inotify that was exhausted when the follower started. Then [`Follower::wait`] returns every second. `None`:
    /// notifications wake the follower.
    pub fn inotify_limit(&self) -> Option<InotifyLimit> {
        match self.wake {
            Wake::Time(limit) => Some(limit),
            Wake::Watcher(_) | Wake::Never => None,
        }
    }

    /// Waits until the log has changed since the last wait, or until one of `others` has an event. Returns for each of
    /// `others` whether it has an event. A return does not mean that the log has new entries: scan again to find out, and to
    /// find out whether the log was removed, moved or replaced.
    ///
    /// # Errors
    /// When poll(2) or inotify fails.
    pub fn wait(&mut self, others: &[PollFd<'_>]) -> Result<Vec<bool>> {
        Ok(self.wait_until(others, PollTimeout::NONE)?.unwrap_or_default())
    }

    /// As [`Follower::wait`], but returns `None` after `timeout`.
    ///
    /// # Errors
    /// As [`Follower::wait`].
    pub fn wait_until(&mut self, others: &[PollFd<'_>], timeout: PollTimeout) -> Result<Option<Vec<bool>>> {
        let mut fds = Vec::with_capacity(others.len() + 1);
        fds.extend_from_slice(others);
        match &self.wake {
            Wake::Watcher(watcher) => fds.push(PollFd::new(watcher.as_fd(), PollFlags::POLLIN)),
            Wake::Time(_) if timeout.is_none() || timeout > PollTimeout::from(POLL_MILLIS) => {
                poll_until(&mut fds, PollTimeout::from(POLL_MILLIS))?;
                return Ok(Some(events(&fds)));
            }
            Wake::Time(_) | Wake::Never => {}
        }
        if !poll_until(&mut fds, timeout)? {
            return Ok(None);
        }
        let mut has_event = events(&fds);
        if let Wake::Watcher(watcher) = &self.wake
            && has_event.pop() == Some(true)
        {
            watcher.clear()?;
        }
        Ok(Some(has_event))
    }
}

/// For each of `fds`, whether it has an event.
pub(crate) fn events(fds: &[PollFd<'_>]) -> Vec<bool> {
    fds.iter().map(|fd| fd.any() == Some(true)).collect()
}

/// Waits without a timeout for an event on one of `fds`.
pub(crate) fn wait_for(fds: &mut [PollFd<'_>]) -> Result<()> {
    poll_until(fds, PollTimeout::NONE).map(|_| ())
}

/// Waits for an event on one of `fds`. Returns false after `timeout`.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<bool> {
    loop {
        match poll(fds, timeout) {
            Ok(events) => return Ok(events > 0),
            Err(Errno::EINTR) => {}
            Err(err) => return Err(Error::io("cannot wait for events (poll)", err.into())),
        }
    }
}
