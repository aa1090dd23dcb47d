//! The output of a session. It is written without blocking, so that the end of the session can end a write that has to wait.

use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{Shutdown, shutdown};

use super::PROGRESS_BYTES;
use super::coordination::Coordination;
use crate::follow::poll_until;
use crate::model::{Error, Result};

/// The end of a write, or of the sending as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// Everything was written.
    All,
    /// The remote closed its input.
    Closed,
    /// The session must end at once.
    Abandoned,
    /// The remote does not read.
    TimedOut,
}

/// The end of a wait for room.
enum Room {
    Free,
    Abandoned,
    TimedOut,
}

pub struct Output<'a, W: AsFd> {
    output: W,
    coordination: &'a Coordination,
    stop: Option<BorrowedFd<'a>>,
    /// The flags that the descriptor had before the session.
    flags: Option<OFlag>,
    /// Whether the last write ended inside a frame.
    ended_inside_frame: bool,
    /// Bytes that were written.
    pub bytes: u64,
    /// The time of the last write.
    pub last_write: Instant,
}

impl<'a, W: Write + AsFd> Output<'a, W> {
    /// Makes `output` non-blocking until this value is dropped.
    pub fn new(output: W, coordination: &'a Coordination, stop: Option<BorrowedFd<'a>>) -> Self {
        let mut flags = None;
        // If this fails, writes block as usual.
        if let Ok(before) = flags_of(output.as_fd()) {
            flags = Some(before);
            fcntl(output.as_fd(), FcntlArg::F_SETFL(before | OFlag::O_NONBLOCK)).ok();
        }
        Self { output, coordination, stop, flags, ended_inside_frame: false, bytes: 0, last_write: Instant::now() }
    }

    /// For poll(2): has an event when the remote has closed its input.
    pub fn closed_fd(&self) -> PollFd<'_> {
        PollFd::new(self.output.as_fd(), PollFlags::empty())
    }

    /// Writes the last frames of a session that ends early, as far as the output takes them at once. Writes nothing if the last
    /// write ended inside a frame: the remote would read the bytes as the rest of that frame.
    pub fn write_last(&mut self, bytes: &[u8]) {
        if !self.ended_inside_frame
            && let Ok(count) = self.output.write(bytes)
        {
            self.bytes += count as u64;
        }
    }

    /// Writes whole frames. If the output takes fewer than [`PROGRESS_BYTES`] in the time `limit`, the remote has timed out.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn write(&mut self, bytes: &[u8], limit: Option<Duration>) -> Result<Written> {
        let before = self.bytes;
        let written = self.write_all(bytes, limit);
        self.ended_inside_frame = !matches!(written, Ok(Written::All)) && self.bytes > before;
        written
    }

    fn write_all(&mut self, mut bytes: &[u8], limit: Option<Duration>) -> Result<Written> {
        let (mut last_progress, mut progress_bytes) = (Instant::now(), self.bytes);
        let fail = |err| Error::io("cannot write to the remote", err);
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return Err(fail(ErrorKind::WriteZero.into())),
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.bytes += count as u64;
                    self.last_write = Instant::now();
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => {
                    if self.bytes - progress_bytes >= PROGRESS_BYTES {
                        (last_progress, progress_bytes) = (Instant::now(), self.bytes);
                    }
                    match self.wait_for_room(limit.map(|limit| last_progress + limit))? {
                        Room::Free => {}
                        Room::Abandoned => return Ok(Written::Abandoned),
                        Room::TimedOut => return Ok(Written::TimedOut),
                    }
                }
                Err(err) if matches!(err.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    return Ok(Written::Closed);
                }
                Err(err) => return Err(fail(err)),
            }
        }
        Ok(Written::All)
    }

    /// Waits until the output can be written, until the session must end at once, or until `deadline`.
    fn wait_for_room(&self, deadline: Option<Instant>) -> Result<Room> {
        loop {
            if self.coordination.abandoned().is_some() {
                return Ok(Room::Abandoned);
            }
            let mut fds = vec![
                PollFd::new(self.output.as_fd(), PollFlags::POLLOUT),
                PollFd::new(self.coordination.as_fd(), PollFlags::POLLIN),
            ];
            fds.extend(self.stop.map(|stop| PollFd::new(stop, PollFlags::POLLIN)));
            let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
                PollTimeout::try_from(deadline.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX)
            });
            if !poll_until(&mut fds, timeout)? {
                return Ok(Room::TimedOut);
            }
            let has_event = |at: usize| fds.get(at).is_some_and(|fd| fd.any() == Some(true));
            if has_event(2) {
                return Ok(Room::Abandoned);
            }
            if has_event(0) {
                return Ok(Room::Free);
            }
            // The event was news. The sender takes it after this write.
            self.coordination.clear_wake();
        }
    }
}

impl<W: AsFd> Drop for Output<'_, W> {
    fn drop(&mut self) {
        // A socket that is also the input would stay open. For other descriptors, this fails with ENOTSOCK.
        shutdown(self.output.as_fd().as_raw_fd(), Shutdown::Write).ok();
        if let Some(flags) = self.flags {
            fcntl(self.output.as_fd(), FcntlArg::F_SETFL(flags)).ok();
        }
    }
}

fn flags_of(fd: BorrowedFd<'_>) -> nix::Result<OFlag> {
    fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts some bytes, then no more.
    struct Full(std::io::PipeWriter, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let count = bytes.len().min(self.1);
            self.1 -= count;
            Ok(count)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl AsFd for Full {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    #[test]
    fn a_writer_that_takes_nothing_is_an_error() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let coordination = Coordination::new().unwrap();
        let mut output = Output::new(Full(writer, 3), &coordination, None);
        let err = output.write(b"12345", None).unwrap_err();
        assert!(matches!(&err, Error::Io(_, err) if err.kind() == ErrorKind::WriteZero), "{err}");
        assert_eq!(output.bytes, 3);
    }
}
