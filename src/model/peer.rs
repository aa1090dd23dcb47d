//! Peer ids.

use std::fmt;

use super::{Error, Printable, Result};

/// The longest peer id, in bytes (scuttleup-protocol(5)).
pub const PEER_BYTES_MAX: usize = 255;

/// A peer id: the author of a feed. 1 to 255 bytes of UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(Box<str>);

impl PeerId {
    /// Makes a peer id of `id`.
    ///
    /// # Errors
    /// [`Error::PeerId`] when it is empty or longer than [`PEER_BYTES_MAX`].
    pub fn new(id: &str) -> Result<Self> {
        Self::check(id.as_bytes()).map(|id| Self(id.into()))
    }

    /// Makes a peer id of bytes, which must be UTF-8.
    ///
    /// # Errors
    /// [`Error::PeerId`], as for [`PeerId::new`].
    pub fn from_bytes(id: &[u8]) -> Result<Self> {
        Self::check(id).map(|id| Self(id.into()))
    }

    /// Checks bytes and returns them as text, without an allocation.
    ///
    /// # Errors
    /// [`Error::PeerId`], as for [`PeerId::new`].
    pub fn check(id: &[u8]) -> Result<&str> {
        match id.len() {
            0 => Err(Error::PeerId("it is empty")),
            1..=PEER_BYTES_MAX => std::str::from_utf8(id).map_err(|_| Error::PeerId("it is not UTF-8")),
            _ => Err(Error::PeerId("it is longer than 255 bytes")),
        }
    }

    /// The id as text. It may contain control characters and format controls: use [`fmt::Display`] to print it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for PeerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerId {
    /// As [`Printable`], so that an id from another log cannot control a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printable(&self.0).fmt(f)
    }
}
