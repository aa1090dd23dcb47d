//! Values of the field: peer ids, sequence numbers, offsets, entries and changes. No I/O.

use std::fmt;
use std::num::NonZeroU32;

use serde::de::IgnoredAny;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::error::Error;
use crate::json::{JSON_DEPTH_MAX, is_json};

/// The longest peer id, in bytes (DESIGN 4.1).
pub const PEER_BYTES_MAX: usize = 255;
/// The longest entry that is taken unless the caller says otherwise, in bytes.
pub const ENTRY_BYTES_MAX: usize = 64 << 20;

/// The name of a log: 1 to 255 bytes of UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(Box<str>);

impl PeerId {
    /// Checks `id`.
    ///
    /// # Errors
    /// [`Error::PeerId`] when it is empty or longer than [`PEER_BYTES_MAX`].
    pub fn new(id: &str) -> Result<Self, Error> {
        Self::check(id.as_bytes()).map(|id| Self(id.into()))
    }

    /// Checks `id`, which must be UTF-8, too.
    ///
    /// # Errors
    /// [`Error::PeerId`], as for [`PeerId::new`].
    pub fn from_bytes(id: &[u8]) -> Result<Self, Error> {
        Self::check(id).map(|id| Self(id.into()))
    }

    /// As [`PeerId::from_bytes`], where the text is enough.
    ///
    /// # Errors
    /// [`Error::PeerId`], as for [`PeerId::new`].
    pub fn check(id: &[u8]) -> Result<&str, Error> {
        match id.len() {
            0 => Err(Error::PeerId("it is empty")),
            1..=PEER_BYTES_MAX => std::str::from_utf8(id).map_err(|_| Error::PeerId("it is not UTF-8")),
            _ => Err(Error::PeerId("it is longer than 255 bytes")),
        }
    }

    /// The id as text. It may hold control characters: print it through [`fmt::Display`].
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
    /// Control characters are escaped, so that an id from elsewhere cannot drive a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

/// The place of an entry in its feed: 1, 2, 3 … 2^32−1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Seq(NonZeroU32);

impl Seq {
    /// `None` for 0 and for what does not fit in 32 bits.
    pub fn new(seq: u64) -> Option<Self> {
        u32::try_from(seq).ok().and_then(NonZeroU32::new).map(Self)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of an entry in the order of arrival in one log: 1, 2, 3 …; 0 is "before the first".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);

    /// The offset that follows.
    ///
    /// ```
    /// # use scuttleup::Offset;
    /// assert_eq!(Offset(7).next(), Offset(8));
    /// assert_eq!(Offset(u64::MAX).next(), Offset(u64::MAX));
    /// ```
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an entry's bytes are, found once when it is stored: it chooses the payload key of its change line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One JSON value: UTF-8, at most [`JSON_DEPTH_MAX`] levels, no C0 control or DEL in it, nothing around it.
    Json,
    /// Other UTF-8 of at least one byte.
    Text,
    /// Everything else, the empty entry included.
    Binary,
}

impl Kind {
    /// Classifies `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Err(_) | Ok("") => Self::Binary,
            Ok(text) if is_line_of_json(text) => Self::Json,
            Ok(_) => Self::Text,
        }
    }

    /// Classifies a `text` that is known to be one JSON value ([`check_json`]) with no white space around it.
    pub fn of_json(text: &str) -> Self {
        if has_control(text.as_bytes()) { Self::Text } else { Self::Json }
    }
}

fn is_line_of_json(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (first, last) = (bytes[0], bytes[bytes.len() - 1]);
    // White space around a value is not part of it: a reader of the change line could not give it back.
    // The first byte decides most plain text at once.
    matches!(first, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n')
        && last != b' '
        && !has_control(bytes)
        && is_json(text)
}

fn has_control(bytes: &[u8]) -> bool {
    // No early exit: the compiler turns this into wide compares.
    bytes.iter().fold(false, |found, &b| found | (b < 0x20) | (b == 0x7f))
}

/// Checks that `text` is one JSON value ([`is_json`]).
///
/// # Errors
/// [`Error::BadInput`] with the reason and the byte.
pub fn check_json(text: &str) -> Result<(), Error> {
    if is_json(text) {
        return Ok(());
    }
    Err(Error::BadInput(match serde_json::from_str::<IgnoredAny>(text) {
        Err(err) => format!("not JSON: {}", json_reason(&err)),
        // The one thing that it does not bound.
        Ok(_) => format!("JSON nested more than {JSON_DEPTH_MAX} levels deep"),
    }))
}

/// Why serde_json refused a line; which line is said elsewhere.
pub(crate) fn json_reason(err: &serde_json::Error) -> String {
    let text = err.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    if err.column() > 0 { format!("{reason} at byte {}", err.column()) } else { reason.to_owned() }
}

/// What is kept of a deleted entry, so that chains never change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tomb {
    /// xxh3-64 of the bytes that were there.
    pub hash: u64,
    /// How many bytes were there.
    pub bytes: u32,
}

impl Tomb {
    /// Of an entry that was never here: nobody told hash and length. (The empty entry has another hash.)
    pub const UNKNOWN: Self = Self { hash: 0, bytes: 0 };
}

/// The content of one place in a feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry<'a> {
    /// The bytes, and what they are.
    Bytes(&'a [u8], Kind),
    /// Deleted here.
    Deleted(Tomb),
}

impl<'a> Entry<'a> {
    /// An entry of `bytes`, classified.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes, Kind::of(bytes))
    }

    /// Hash and length, which a deletion keeps.
    pub fn tomb(&self) -> Tomb {
        match *self {
            Self::Bytes(bytes, _) => Tomb { hash: xxh3_64(bytes), bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX) },
            Self::Deleted(tomb) => tomb,
        }
    }
}

/// One entry with its places: the unit of reading and of replication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// Its place in the order of arrival of the log that it was read from.
    pub offset: Offset,
    /// Whose feed it is in.
    pub peer: &'a PeerId,
    /// Its place in that feed.
    pub seq: Seq,
    /// What it holds.
    pub entry: Entry<'a>,
}

/// The running hash over a feed: two logs whose chains differ at the same seq hold a fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain(pub u128);

impl Chain {
    /// chain_0: xxh3-128 of the peer id.
    pub fn start(peer: &PeerId) -> Self {
        Self(xxh3_128(peer.as_str().as_bytes()))
    }

    /// chain_n: xxh3-128 of chain_{n−1} ‖ xxh3-64 of entry n ‖ its length, all little-endian (16 + 8 + 8 bytes).
    #[must_use]
    pub fn next(self, tomb: Tomb) -> Self {
        let mut link = [0; 32];
        link[..16].copy_from_slice(&self.0.to_le_bytes());
        link[16..24].copy_from_slice(&tomb.hash.to_le_bytes());
        link[24..].copy_from_slice(&u64::from(tomb.bytes).to_le_bytes());
        Self(xxh3_128(&link))
    }

    /// What a feed adds to the root: xxh3-128 of id ‖ seq (4 bytes LE) ‖ chain (16 bytes LE); nothing while it is empty.
    pub fn root_term(self, peer: &PeerId, seq: u32) -> u128 {
        if seq == 0 {
            return 0;
        }
        let mut bytes = Vec::with_capacity(PEER_BYTES_MAX + 20);
        bytes.extend_from_slice(peer.as_str().as_bytes());
        bytes.extend_from_slice(&seq.to_le_bytes());
        bytes.extend_from_slice(&self.0.to_le_bytes());
        xxh3_128(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for json in ["{}", "{\"a\": 1 }", "1e999", "-0", "\"\u{e9}\"", "null"] {
            assert_eq!(Kind::of(json.as_bytes()), Kind::Json, "{json}");
        }
        for text in [" {}", "{} ", "{\"a\":\t1}", "[1,\n2]", "\"\u{7f}\"", "{", "nul", "01", "a", "\u{0}", "1 2"] {
            assert_eq!(Kind::of(text.as_bytes()), Kind::Text, "{text}");
        }
        for binary in [&b""[..], b"\xff", b"{\"a\":\"\xff\"}"] {
            assert_eq!(Kind::of(binary), Kind::Binary);
        }
    }
}
