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
    wait_until(fds, PollTimeout::NONE, failure).map(|_| ())
}

/// Waits until `signals` is readable, or for `time`.
///
/// # Errors
/// When poll(2) fails.
pub fn pause(signals: &impl AsFd, time: Duration) -> Result<()> {
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    wait_until(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout, "cannot wait for a signal").map(|_| ())
}

/// As [`wait_for`], but returns false after `timeout`.
pub fn wait_until(fds: &mut [PollFd<'_>], timeout: PollTimeout, failure: &str) -> Result<bool> {
    loop {
        match poll(fds, timeout) {
            Ok(events) => return Ok(events > 0),
            // The next poll reports a signal that has interrupted this one.
            Err(Errno::EINTR) => {}
            Err(err) => return Err(Error::io(failure, err.into()).into()),
        }
    }
}
