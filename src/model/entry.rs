//! Entries and changes. A [`HashedEntry`] of bytes can only be made by hashing them.

mod buffer;

use xxhash_rust::xxh3::xxh3_64;

pub use buffer::EntryBuffer;

use super::{Offset, PeerId, Seq};
use crate::json::{is_json, is_refused_by_some};

/// The default for the maximum length of an entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 64 << 20;

/// The kind of the bytes of an entry. It decides the payload key of the change line. It is found once, when the entry is
/// stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One JSON value: UTF-8, at most [`JSON_DEPTH_MAX`](crate::JSON_DEPTH_MAX) levels, no C0 control or DEL, at most
    /// 4300 digits in a row, no lone surrogate (an escape from `\ud800` to `\udfff` that is not part of a pair), no white space around it.
    Json,
    /// Other UTF-8 of at least one byte.
    Text,
    /// Everything else, including the empty entry.
    Binary,
}

impl Kind {
    /// Classifies `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Err(_) | Ok("") => Self::Binary,
            Ok(text) if is_json_entry(text) => Self::Json,
            Ok(_) => Self::Text,
        }
    }

    /// Classifies a `text` that is known to be one JSON value ([`is_json`]) without white space around it.
    fn of_json(text: &str) -> Self {
        if has_control(text.as_bytes()) || is_refused_by_some(text.as_bytes()) { Self::Text } else { Self::Json }
    }
}

fn is_json_entry(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (first, last) = (bytes[0], bytes[bytes.len() - 1]);
    // White space around a value is not part of the value: a reader of the change line could not restore it.
    // The first byte decides most plain text at once.
    matches!(first, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n')
        && last != b' '
        && !has_control(bytes)
        && is_json(text)
        && !is_refused_by_some(bytes)
}

fn has_control(bytes: &[u8]) -> bool {
    // No early exit: the compiler turns this into wide compares.
    bytes.iter().fold(false, |found, &b| found | (b < 0x20) | (b == 0x7f))
}

/// The hash and length of a deleted entry. They stay in the log. With them, the chain of the feed stays unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tombstone {
    /// xxh3-64 of the bytes.
    pub hash: u64,
    /// Number of bytes.
    pub bytes: u32,
}

impl Tombstone {
    /// The tombstone of an entry that this log never received: its hash and length are unknown. The empty entry has another
    /// hash.
    pub const UNKNOWN: Self = Self { hash: 0, bytes: 0 };

    /// The hash and length of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { hash: xxh3_64(bytes), bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX) }
    }
}

/// The content of one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry<'a> {
    /// The bytes, and their kind.
    Bytes(&'a [u8], Kind),
    /// The entry is deleted from this log.
    Deleted(Tombstone),
}

impl<'a> Entry<'a> {
    /// An entry of `bytes`, classified.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes, Kind::of(bytes))
    }

    /// Hash and length. Hashes the bytes.
    pub fn tombstone(&self) -> Tombstone {
        match *self {
            Self::Bytes(bytes, _) => Tombstone::of(bytes),
            Self::Deleted(tombstone) => tombstone,
        }
    }
}

/// An entry and its hash, ready to be stored. The hash always matches the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashedEntry<'a> {
    entry: Entry<'a>,
    tombstone: Tombstone,
}

impl<'a> HashedEntry<'a> {
    /// Classifies and hashes `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { entry: Entry::new(bytes), tombstone: Tombstone::of(bytes) }
    }

    /// An entry that was classified before. Hashes `bytes`.
    pub(crate) fn of_kind(bytes: &'a [u8], kind: Kind) -> Self {
        Self { entry: Entry::Bytes(bytes, kind), tombstone: Tombstone::of(bytes) }
    }

    /// An entry that was stored with this kind and hash. Returns `None` if `bytes` have another hash.
    pub(crate) fn stored(bytes: &'a [u8], kind: Kind, hash: u64) -> Option<Self> {
        Some(Self::of_kind(bytes, kind)).filter(|entry| entry.tombstone.hash == hash)
    }

    /// An entry that was deleted in another log, with the hash and length that the other log gives.
    pub fn deleted(tombstone: Tombstone) -> Self {
        Self { entry: Entry::Deleted(tombstone), tombstone }
    }

    /// The entry.
    pub fn entry(&self) -> Entry<'a> {
        self.entry
    }

    /// Its hash and length, which a deletion keeps.
    pub fn tombstone(&self) -> Tombstone {
        self.tombstone
    }
}

/// One entry with its position: the unit of reading and of replication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// Its position in the order of arrival of the log that it was read from.
    pub offset: Offset,
    /// The author of its feed.
    pub peer: &'a PeerId,
    /// Its sequence number in that feed.
    pub seq: Seq,
    /// Its content, with its hash and length.
    pub entry: HashedEntry<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for json in ["{}", "{\"a\": 1 }", "1e999", "-0", "\"\u{e9}\"", "null", "\"\\ud83d\\ude00\""] {
            assert_eq!(Kind::of(json.as_bytes()), Kind::Json, "{json}");
        }
        for text in [" {}", "{} ", "{\"a\":\t1}", "[1,\n2]", "\"\u{7f}\"", "{", "nul", "01", "a", "\u{0}", "1 2", "\"\\ud800\""] {
            assert_eq!(Kind::of(text.as_bytes()), Kind::Text, "{text}");
        }
        for binary in [&b""[..], b"\xff", b"{\"a\":\"\xff\"}"] {
            assert_eq!(Kind::of(binary), Kind::Binary);
        }
    }
}
