//! The output, written so that an end of the session ends it.

use std::io::{ErrorKind, PipeReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{Shutdown, shutdown};

use super::Shared;
use crate::error::{Error, Result};
use crate::follow::wait_for;

/// How far a write went.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Went {
    On,
    /// The other side closed its end.
    Closed,
    /// We are to end at once.
    Abandoned,
}

/// The output, written without blocking, so that an end of the session ends a write that cannot go on.
pub struct Pipe<'a, W: AsFd> {
    output: W,
    shared: &'a Shared<'a>,
    /// Closed when the inward thread has told its end.
    pub in_end: &'a PipeReader,
    /// The flags that it had.
    restore: Option<OFlag>,
    /// Of a write that was given up, a part has gone out.
    is_torn: bool,
    /// Bytes written.
    pub bytes: u64,
    /// When the last of them were.
    pub last_write: Instant,
}

impl<'a, W: Write + AsFd> Pipe<'a, W> {
    pub fn new(output: W, shared: &'a Shared<'a>, in_end: &'a PipeReader) -> Self {
        let mut restore = None;
        // Where it cannot be set, writes block as usual.
        if let Ok(flags) = flags_of(output.as_fd()) {
            restore = Some(flags);
            fcntl(output.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).ok();
        }
        Self { output, shared, in_end, restore, is_torn: false, bytes: 0, last_write: Instant::now() }
    }

    /// For polling: has an event when the other side has closed its end.
    pub fn closed_fd(&self) -> PollFd<'_> {
        PollFd::new(self.output.as_fd(), PollFlags::empty())
    }

    /// Writes what there is room for at once: the last words of a session that is over anyway. Nothing in the middle of a
    /// frame, which they would be taken for the rest of.
    pub fn write_some(&mut self, bytes: &[u8]) {
        if !self.is_torn
            && let Ok(count) = self.output.write(bytes)
        {
            self.bytes += count as u64;
        }
    }

    /// Writes whole frames.
    pub fn write(&mut self, bytes: &[u8]) -> Result<Went> {
        let before = self.bytes;
        let went = self.write_all(bytes);
        self.is_torn = !matches!(went, Ok(Went::On)) && self.bytes > before;
        went
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> Result<Went> {
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.bytes += count as u64;
                    self.last_write = Instant::now();
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => {
                    if !self.wait()? {
                        return Ok(Went::Abandoned);
                    }
                }
                Err(err) if matches!(err.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => return Ok(Went::Closed),
                Err(err) => return Err(Error::io("the other side cannot be written to", err)),
            }
        }
        Ok(Went::On)
    }

    /// Waits for room; false when the session is abandoned.
    fn wait(&self) -> Result<bool> {
        loop {
            if self.shared.abandoned.load(Ordering::SeqCst) {
                return Ok(false);
            }
            let mut fds = vec![PollFd::new(self.output.as_fd(), PollFlags::POLLOUT)];
            // Once it has told its end it would wake us for ever.
            if !self.shared.in_ended.load(Ordering::SeqCst) {
                fds.push(PollFd::new(self.in_end.as_fd(), PollFlags::POLLIN));
            }
            let stop_at = fds.len();
            fds.extend(self.shared.options.stop.map(|stop| PollFd::new(stop, PollFlags::POLLIN)));
            wait_for(&mut fds)?;
            if fds.get(stop_at).is_some_and(|stop| stop.any() == Some(true)) {
                return Ok(false);
            }
            if fds[0].any() == Some(true) {
                return Ok(true);
            }
        }
    }
}

impl<W: AsFd> Drop for Pipe<'_, W> {
    fn drop(&mut self) {
        // A socket may be the input, too, and would stay open; what is none says ENOTSOCK.
        shutdown(self.output.as_fd().as_raw_fd(), Shutdown::Write).ok();
        if let Some(flags) = self.restore {
            fcntl(self.output.as_fd(), FcntlArg::F_SETFL(flags)).ok();
        }
    }
}

fn flags_of(fd: BorrowedFd<'_>) -> nix::Result<OFlag> {
    fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain)
}
