//! Stdout: data only, in large writes, and nothing lost in silence.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;
use scuttleup::Error;

use super::signals::Stop;

/// How much is written at once.
pub const WRITE_BYTES: usize = 256 << 10;
const PIPE_BYTES: i32 = 1 << 20;
/// A pipe that is ready takes as much without blocking (PIPE_BUF).
const READY_BYTES: usize = 4096;

/// The reader of stdout has gone.
#[derive(Debug)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of stdout has gone")
    }
}

impl std::error::Error for Closed {}

/// Stdout.
pub struct Output {
    stdout: io::Stdout,
}

impl Output {
    /// For a lot of data: asks for a large pipe.
    pub fn bulk() -> Self {
        let stdout = io::stdout();
        // Refused for what is no pipe, and over the user's limit: then it stays as it is.
        fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).ok();
        Self { stdout }
    }

    /// For a few lines.
    pub fn new() -> Self {
        Self { stdout: io::stdout() }
    }

    /// Whether what is written goes to a file or a device: not to a terminal, and not to another program, which may
    /// itself write to the terminal.
    pub fn is_file(&self) -> bool {
        let meta = self.as_fd().try_clone_to_owned().and_then(|stdout| File::from(stdout).metadata());
        let kind = meta.map(|meta| meta.file_type());
        !self.stdout.is_terminal() && kind.is_ok_and(|kind| !kind.is_fifo() && !kind.is_socket())
    }

    /// Writes all of `bytes`.
    pub fn write(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match write(&self.stdout, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::EINTR) => {}
                // Somebody else made it non-blocking.
                Err(Errno::EAGAIN) => {
                    poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE).ok();
                }
                Err(Errno::EPIPE) => return Err(Closed.into()),
                Err(err) => return Err(Error::io("stdout cannot be written to", err.into()).into()),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`, unless `stop` comes while the reader does not read; then false.
    pub fn write_unless(&self, bytes: &[u8], stop: &Stop) -> Result<bool> {
        for part in bytes.chunks(READY_BYTES) {
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLOUT), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
            while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
            if fds[0].any() != Some(true) {
                return Ok(false);
            }
            self.write(part)?;
        }
        Ok(true)
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }
}
