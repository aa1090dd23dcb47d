//! Packs: sealed entries in compressed files that never change. The format is described in scuttleup-store(5).
//!
//! | file | content |
//! |---|---|
//! | `block` | records ⇄ the bytes of one block |
//! | `writer` | writes a pack |
//! | `reader` | maps a pack and reads its records |

mod block;
mod reader;
mod writer;

pub use reader::Pack;
pub use writer::PackWriter;

use xxhash_rust::xxh3::xxh3_64;

pub use super::rows::PackRow;
use super::rows::{u32_at, u64_at, u128_at};
use crate::model::{Chain, Offset, PeerId};

/// The directory of the packs, in the directory of the log.
pub const DIR_NAME: &str = "packs";

const MAGIC: [u8; 8] = *b"SCUTPACK";
const VERSION: u32 = 1;
/// The header of a pack, in bytes.
const HEADER_BYTES: usize = 64;
/// One entry of the index, in bytes.
const INDEX_ENTRY_BYTES: usize = 32;
/// A block is full at this many bytes, before compression. The record that reaches it is still added.
const BLOCK_BYTES: usize = 64 << 10;

/// The header of a pack: its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    first: Offset,
    entries: u64,
    /// The position of the list of feeds in the file. The index follows it.
    feeds_at: u64,
    /// The position of the index in the file. The index ends the file.
    index_at: u64,
    /// xxh3-64 of the list of feeds and the index.
    tail_hash: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let numbers = [self.first.0, self.entries, self.feeds_at, self.index_at, self.tail_hash];
        for (field, number) in header[16..].chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        let hash = xxh3_64(&header[..56]);
        header[56..].copy_from_slice(&hash.to_le_bytes());
        header
    }

    /// Returns `None` if `bytes` are no header of this version.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let valid = bytes.len() == HEADER_BYTES
            && bytes[..8] == MAGIC
            && u32_at(bytes, 8) == VERSION
            && u64_at(bytes, 56) == xxh3_64(&bytes[..56]);
        let number = |at| u64_at(bytes, at);
        valid.then(|| Self {
            first: Offset(number(16)),
            entries: number(24),
            feeds_at: number(32),
            index_at: number(40),
            tail_hash: number(48),
        })
    }
}

/// A feed that has entries in a pack. With it, the entries of a pack can be read and checked without data.mdb.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackedFeed {
    /// The peer number in the records of this pack.
    pub number: u32,
    pub peer: PeerId,
    /// The chain of the feed before its first entry in this pack.
    pub chain_before: Chain,
}

impl PackedFeed {
    /// The number u32, the chain (16 bytes), the length of the id u8, the id.
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.chain_before.0.to_le_bytes());
        let id = self.peer.as_str().as_bytes();
        // An id has at most 255 bytes.
        out.push(id.len() as u8);
        out.extend_from_slice(id);
    }

    #[allow(dead_code)]
    /// Reads the first feed of `bytes`, and removes it from there. Returns `None` if there is no feed.
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (fields, rest) = bytes.split_at_checked(21)?;
        let (id, rest) = rest.split_at_checked(usize::from(fields[20]))?;
        let feed =
            Self { number: u32_at(fields, 0), peer: PeerId::from_bytes(id).ok()?, chain_before: Chain(u128_at(fields, 4)) };
        *bytes = rest;
        Some(feed)
    }
}

/// One block in the index of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct IndexEntry {
    /// The offset of the first record.
    first: Offset,
    /// The position of the block in the file.
    at: u64,
    /// The length of the block in the file. It equals `raw_bytes` if the block is not compressed.
    bytes: u32,
    /// The length of the block before compression.
    raw_bytes: u32,
    /// xxh3-64 of the block in the file.
    hash: u64,
}

impl IndexEntry {
    fn encode(&self) -> [u8; INDEX_ENTRY_BYTES] {
        let mut entry = [0; INDEX_ENTRY_BYTES];
        entry[..8].copy_from_slice(&self.first.0.to_le_bytes());
        entry[8..16].copy_from_slice(&self.at.to_le_bytes());
        entry[16..20].copy_from_slice(&self.bytes.to_le_bytes());
        entry[20..24].copy_from_slice(&self.raw_bytes.to_le_bytes());
        entry[24..].copy_from_slice(&self.hash.to_le_bytes());
        entry
    }

    /// `entry` must have [`INDEX_ENTRY_BYTES`].
    fn decode(entry: &[u8]) -> Self {
        Self {
            first: Offset(u64_at(entry, 0)),
            at: u64_at(entry, 8),
            bytes: u32_at(entry, 16),
            raw_bytes: u32_at(entry, 20),
            hash: u64_at(entry, 24),
        }
    }
}
