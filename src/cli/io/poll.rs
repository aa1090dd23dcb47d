//! Waits for events on descriptors.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use scuttleup::Error;

/// Waits without a timeout for an event on one of `fds`.
///
/// # Errors
/// When poll(2) fails. `failure` is the start of the message.
pub fn wait_for(fds: &mut [PollFd<'_>], failure: &str) -> Result<()> {
    wait(fds, PollTimeout::NONE, failure)
}

/// Waits until `signals` is readable, or for `pause`.
///
/// # Errors
/// When poll(2) fails.
pub fn wait_until(signals: &impl AsFd, pause: Duration) -> Result<()> {
    let timeout = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
    wait(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout, "cannot wait for a signal")
}

fn wait(fds: &mut [PollFd<'_>], timeout: PollTimeout, failure: &str) -> Result<()> {
    loop {
        match poll(fds, timeout) {
            Ok(_) => return Ok(()),
            // The next poll reports a signal that has interrupted this one.
            Err(Errno::EINTR) => {}
            Err(err) => return Err(Error::io(failure, err.into()).into()),
        }
    }
}
