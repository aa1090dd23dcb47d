//! Waits for events on descriptors.

use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll};
use scuttleup::Error;

/// Waits without a timeout for an event on one of `fds`.
///
/// # Errors
/// When poll(2) fails. `failure` is the start of the message.
pub fn wait_for(fds: &mut [PollFd<'_>], failure: &str) -> Result<()> {
    loop {
        match poll(fds, PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(err) => return Err(Error::io(failure, err.into()).into()),
        }
    }
}
