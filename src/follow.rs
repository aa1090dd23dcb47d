//! Scan, wait, scan: reading a log as it grows, with no polling.

use std::ops::ControlFlow;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::entry::{Change, Offset};
use crate::error::{Error, Result};
use crate::store::{BellWatch, Bounds, Log, Reader};

/// Reads a log from a position on, and waits for more.
pub struct Follower<'l> {
    reader: Reader<'l>,
    after: Offset,
    /// `None`: what arrives later is of no interest.
    bell: Option<BellWatch>,
}

impl Log {
    /// Follows the log after `after`. Nothing that is committed from now on is missed.
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
    ///     // Scan, and wait only when there was nothing: a change that comes in between is not lost.
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
    /// When the log cannot be watched (inotify).
    pub fn follow(&self, after: Offset) -> Result<Follower<'_>> {
        // The bell is armed before the first scan: what the scan does not see rings.
        let bell = Some(self.watch_bell()?);
        Ok(Follower { reader: self.reader(), after, bell })
    }

    /// As [`Log::follow`], for who scans what is there and is not woken by what arrives: to stop listening to a bell may
    /// take 20 ms, in which the kernel waits for all its processors.
    pub(crate) fn walk(&self, after: Offset) -> Follower<'_> {
        Follower { reader: self.reader(), after, bell: None }
    }
}

impl Follower<'_> {
    /// Gives what is there and was not given yet to `each`, one batch within `bounds`. Returns whether there was anything.
    ///
    /// # Errors
    /// As [`Reader::scan`].
    pub fn scan(&mut self, bounds: Bounds, each: impl FnMut(Change<'_>) -> Result<ControlFlow<()>>) -> Result<bool> {
        let last = self.reader.scan(self.after, bounds, each)?;
        let any = last != self.after;
        self.after = last;
        Ok(any)
    }

    /// The offset of the last change given.
    pub fn position(&self) -> Offset {
        self.after
    }

    /// Goes on from another position.
    pub fn go_to(&mut self, after: Offset) {
        self.after = after;
    }

    /// Waits until the log has changed since the last wait, or until one of `others` has an event, and says of each of them
    /// whether it has. A log that has changed may still have nothing new: scan again.
    ///
    /// # Errors
    /// When the system refuses to wait.
    pub fn wait(&mut self, others: &[PollFd<'_>]) -> Result<Vec<bool>> {
        Ok(self.wait_until(others, PollTimeout::NONE)?.unwrap_or_default())
    }

    /// As [`Follower::wait`], for a time; `None` when it is over.
    pub(crate) fn wait_until(&mut self, others: &[PollFd<'_>], timeout: PollTimeout) -> Result<Option<Vec<bool>>> {
        let mut fds = Vec::with_capacity(others.len() + 1);
        fds.extend_from_slice(others);
        fds.extend(self.bell.as_ref().map(|bell| PollFd::new(bell.as_fd(), PollFlags::POLLIN)));
        if !poll_until(&mut fds, timeout)? {
            return Ok(None);
        }
        let mut has_event: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        if let Some(bell) = &self.bell
            && has_event.pop() == Some(true)
        {
            bell.hush()?;
        }
        Ok(Some(has_event))
    }
}

/// Waits for an event on one of `fds`, without end.
pub(crate) fn wait_for(fds: &mut [PollFd<'_>]) -> Result<()> {
    poll_until(fds, PollTimeout::NONE).map(|_| ())
}

/// Waits for an event on one of `fds`; false when the time is over.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<bool> {
    loop {
        match poll(fds, timeout) {
            Ok(events) => return Ok(events > 0),
            Err(Errno::EINTR) => {}
            Err(err) => return Err(Error::io("waiting failed", err.into())),
        }
    }
}
