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

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::files::file;
pub use super::rows::PackRow;
use super::rows::{u32_at, u64_at, u128_at};
use crate::model::{Chain, Error, Offset, PeerId, Result};

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

/// The files of packs in the directory `dir`, as their names and headers describe them, in the order of the offsets. Files that
/// are no packs are left out.
///
/// # Errors
/// When the directory cannot be read. A missing directory has no packs.
pub fn find(dir: &Path) -> Result<Vec<PackRow>> {
    let fail = |err| Error::io(format!("{} cannot be read", dir.display()), err);
    let mut rows = Vec::new();
    let (log_dir, folder) = parts(dir);
    if !file::check_dir(log_dir, folder)? {
        return Ok(rows);
    }
    for name in fs::read_dir(dir).map_err(fail)? {
        let name = name.map_err(fail)?.file_name();
        let Some(name) = name.to_str().filter(|name| name.ends_with(".pack")) else { continue };
        rows.extend(describe(dir, name));
    }
    rows.sort_unstable_by_key(|row: &PackRow| (row.first, row.generation));
    Ok(rows)
}

/// The directory of the log, and the name of the directory `dir` of its packs.
fn parts(dir: &Path) -> (&Path, &str) {
    (dir.parent().unwrap_or(dir), dir.file_name().and_then(OsStr::to_str).unwrap_or(DIR_NAME))
}

/// Opens a file in the directory `dir`. Returns `None` if it does not exist.
///
/// The owner of the log's directory decides whether the owners of `dir` and of the file are trusted: a user who may write in the
/// log's directory can replace `dir`.
fn open(dir: &Path, name: &str) -> Result<Option<File>> {
    let (log_dir, folder) = parts(dir);
    if file::check_dir(log_dir, folder)? { file::open(log_dir, &format!("{folder}/{name}")) } else { Ok(None) }
}

/// The row of a file, if its name and its header fit.
fn describe(dir: &Path, name: &str) -> Option<PackRow> {
    let file = open(dir, name).ok()??;
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0).ok()?;
    let header = Header::decode(&header).filter(|header| header.entries > 0)?;
    let generation = name.strip_suffix(".pack")?.split_once('-').map_or(Some(0), |(_, generation)| generation.parse().ok())?;
    let row = PackRow { first: header.first, entries: header.entries, file_bytes: file.metadata().ok()?.len(), generation };
    Some(row).filter(|row| row.file_name() == name)
}

/// Reads the whole file of a pack. After this, a read of its map does not raise SIGBUS because of a disk error.
///
/// # Errors
/// When the file cannot be read.
pub fn read_through(dir: &Path, row: PackRow) -> Result<()> {
    let path = dir.join(row.file_name());
    let read = |mut file: File| io::copy(&mut file, &mut io::sink());
    match open(dir, &row.file_name())?.map(read) {
        Some(Err(err)) => Err(Error::io(format!("{} cannot be read", path.display()), err)),
        _ => Ok(()),
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
