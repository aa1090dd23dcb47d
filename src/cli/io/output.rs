//! Stdout. It gets only data, in large writes. Every failed write is an error.

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

use crate::cli::exit::{OutputClosed, OutputFull};
use crate::cli::io::poll::wait_for;

/// The size of a large write, in bytes.
pub const WRITE_BYTES: usize = 256 << 10;
const PIPE_BYTES: i32 = 1 << 20;
/// A pipe that is ready takes this many bytes without blocking (PIPE_BUF).
const READY_BYTES: usize = 4096;
const CANNOT_WAIT: &str = "cannot wait for stdout";

/// Stdout.
pub struct Output {
    stdout: io::Stdout,
}

impl Output {
    /// Stdout for much data: asks for a large pipe.
    pub fn bulk() -> Self {
        let stdout = io::stdout();
        // This fails if stdout is not a pipe, or above the limit of the user. The pipe then keeps its size.
        fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).ok();
        Self { stdout }
    }

    /// Stdout for a few lines.
    pub fn new() -> Self {
        Self { stdout: io::stdout() }
    }

    /// Whether stdout is a file or a device: neither a terminal, nor a pipe or socket to another program, which may itself
    /// write to the terminal.
    pub fn is_file(&self) -> bool {
        let meta = self.as_fd().try_clone_to_owned().and_then(|stdout| File::from(stdout).metadata());
        let kind = meta.map(|meta| meta.file_type());
        !self.stdout.is_terminal() && kind.is_ok_and(|kind| !kind.is_fifo() && !kind.is_socket())
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// [`OutputClosed`] if the reader closed stdout, [`OutputFull`] if there is no space for its file.
    pub fn write(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            bytes = &bytes[self.write_some(bytes)?..];
        }
        Ok(())
    }

    /// Writes at least one byte. Returns the number of bytes that were written.
    fn write_some(&self, bytes: &[u8]) -> Result<usize> {
        loop {
            match write(&self.stdout, bytes) {
                Ok(count) => return Ok(count),
                Err(Errno::EINTR) => {}
                // Another process that shares stdout has made it non-blocking.
                Err(Errno::EAGAIN) => {
                    wait_for(&mut [PollFd::new(self.as_fd(), PollFlags::POLLOUT)], CANNOT_WAIT)?;
                }
                Err(Errno::EPIPE) => return Err(OutputClosed.into()),
                Err(err) => match Error::io("cannot write to stdout", err.into()) {
                    Error::DiskFull(err) => {
                        return Err(OutputFull { name: "stdout".into(), reason: err.to_string() }.into());
                    }
                    err => return Err(err.into()),
                },
            }
        }
    }

    /// Writes `bytes` until `stop` becomes readable while stdout is not ready. Returns the number of bytes that were written, also
    /// with an error.
    pub fn write_unless(&self, bytes: &[u8], stop: &impl AsFd) -> (usize, Result<()>) {
        let mut written = 0;
        while written < bytes.len() {
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLOUT), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
            if let Err(err) = wait_for(&mut fds, CANNOT_WAIT) {
                return (written, Err(err));
            }
            if fds[0].any() != Some(true) {
                break;
            }
            match self.write_some(&bytes[written..bytes.len().min(written + READY_BYTES)]) {
                Ok(count) => written += count,
                Err(err) => return (written, Err(err)),
            }
        }
        (written, Ok(()))
    }
}

/// Whether the reader of stdout has closed it.
pub fn is_closed() -> bool {
    let stdout = io::stdout();
    // Without events, poll reports only this.
    poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::empty())], PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }
}
