//! Rows of the tables as bytes, except the records of entries. The format is described in scuttleup-store(5).
//!
//! Numbers in values are little-endian. Numbers in keys that LMDB compares as bytes are big-endian, so that the order of the
//! bytes is the order of the numbers.
//! Offsets are INTEGERKEY keys in the byte order of the machine.

use crate::model::{Chain, Error, Offset, Result, Tombstone};

/// The format that this program writes. It also reads format 1.
pub const FORMAT: u32 = 2;
/// The maximum number of entries of one run. It limits the work to compute the chain at an entry from the chain before its
/// run.
pub const RUN_ENTRIES_MAX: u32 = 1024;
/// Peer numbers are below this: a record has 30 bits for the peer number. A log holds fewer feeds ([`crate::model::FEEDS_MAX`]).
pub const NUMBERS_MAX: u32 = 1 << 30;

/// A row of `peers`. The key is the peer id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeedRow {
    /// The peer number. Records and runs contain it in place of the peer id.
    pub number: u32,
    /// The highest seq.
    pub head: u32,
    /// The chain at the head.
    pub chain: Chain,
    /// `None`: the log holds all entries of the feed.
    pub floor: Option<FloorRow>,
}

/// The floor of a feed: entries up to it were pruned, or never were in this log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FloorRow {
    /// The last seq that is missing.
    pub seq: u32,
    /// The number of entries that never had an offset in this log.
    pub skipped: u32,
    /// The chain at `seq`.
    pub chain: Chain,
}

/// The length of a key of an entry, in bytes.
pub const KEY_BYTES: usize = 16;
/// The number of keys of one row: the append of one entry writes one such row.
pub const KEYS_PER_ROW: u64 = 64;
/// The most keys that a log keeps of one name. A key takes about 60 bytes of memory.
pub const KEY_WINDOW_MAX: u32 = 500_000;
/// The length of a row of keys, in bytes.
pub const KEY_ROW_BYTES: usize = KEYS_PER_ROW as usize * KEY_BYTES;

/// The row of `meta` that describes the keys of one name. The name follows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeysRow {
    /// The number of keys that were ever added.
    pub next: u64,
    /// The number of keys that can be read: those before `next`.
    pub held: u32,
    /// The maximum of `held`.
    pub kept: u32,
}

/// The number of rows for the last `kept` keys. With one more than is necessary, no row holds keys of both ends.
pub fn key_row_count(kept: u32) -> u64 {
    u64::from(kept).div_ceil(KEYS_PER_ROW) + 1
}

impl KeysRow {
    pub fn encode(&self, name: &str) -> Vec<u8> {
        [&self.next.to_le_bytes()[..], &self.held.to_le_bytes(), &self.kept.to_le_bytes(), name.as_bytes()].concat()
    }

    /// The row, and the name.
    pub fn decode(row: &[u8]) -> Option<(Self, &str)> {
        let (numbers, name) = row.split_at_checked(16)?;
        let count = |at: usize| u32::from_le_bytes(numbers[at..at + 4].try_into().expect("4 bytes"));
        let row = Self { next: u64_at(numbers, 0), held: count(8), kept: count(12) };
        let is_possible = row.held <= row.kept && row.kept <= KEY_WINDOW_MAX && u64::from(row.held) <= row.next;
        Some((row, std::str::from_utf8(name).ok()?)).filter(|_| is_possible)
    }

    /// The place of the keys `block` * 64 and so on among the rows.
    pub fn place(&self, block: u64) -> u64 {
        block % key_row_count(self.kept)
    }

    /// The places of all keys that can be read.
    pub fn places(&self) -> impl Iterator<Item = u64> {
        let first = (self.next - u64::from(self.held)) / KEYS_PER_ROW;
        (first..self.next.div_ceil(KEYS_PER_ROW)).map(|block| self.place(block))
    }
}

/// A file that `append --follow` reads, as a part of the row `follow PATH`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FollowedFile {
    /// The number of the inode.
    pub inode: u64,
    /// The number of the device. It can change at each mount.
    pub device: u64,
    /// The birth time, in nanoseconds of Unix time. 0: not known.
    pub birth: u64,
    /// The length of what was read. The entries of all of it are in the log.
    pub position: u64,
    /// The number of bytes at the start of the file that `head` is the hash of.
    pub head_bytes: u16,
    /// xxh3-64 of the start of the file.
    pub head: u64,
    /// Whether it was replaced and read to its end.
    pub is_done: bool,
    /// The path of the file when its writer wrote to it, without symbolic links.
    pub home: Vec<u8>,
}

/// The length of a [`FollowedFile`] without its path, in bytes.
const FOLLOWED_BYTES: usize = 45;

impl FollowedFile {
    /// The row of the files of one path: those that are done, then the others, the oldest one first.
    pub fn encode_all<'f>(files: impl IntoIterator<Item = &'f Self>) -> Vec<u8> {
        let mut row = Vec::new();
        for file in files {
            for number in [file.inode, file.device, file.birth, file.position, file.head] {
                row.extend_from_slice(&number.to_le_bytes());
            }
            row.extend_from_slice(&file.head_bytes.to_le_bytes());
            row.extend_from_slice(&(file.home.len() as u16).to_le_bytes());
            row.push(u8::from(file.is_done));
            row.extend_from_slice(&file.home);
        }
        row
    }

    /// The files in a row. `None` if it is not valid.
    pub fn decode_all(mut row: &[u8]) -> Option<Vec<Self>> {
        let mut files = Vec::new();
        while !row.is_empty() {
            let (numbers, rest) = row.split_at_checked(FOLLOWED_BYTES)?;
            let [inode, device, birth, position, head] = [0, 8, 16, 24, 32].map(|at| u64_at(numbers, at));
            let [head_bytes, home_bytes] = [40, 42].map(|at| u16::from_le_bytes([numbers[at], numbers[at + 1]]));
            let (home, rest) = rest.split_at_checked(usize::from(home_bytes))?;
            let is_done = *[false, true].get(usize::from(numbers[44]))?;
            files.push(Self { inode, device, birth, position, head_bytes, head, is_done, home: home.to_vec() });
            row = rest;
        }
        Some(files)
    }
}

/// The length of a row of `peers` without a floor, in bytes.
const FEED_BYTES: usize = 24;
/// The length with a floor.
const FLOORED_FEED_BYTES: usize = 48;

impl FeedRow {
    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(FLOORED_FEED_BYTES);
        row.extend_from_slice(&self.number.to_le_bytes());
        row.extend_from_slice(&self.head.to_le_bytes());
        row.extend_from_slice(&self.chain.0.to_le_bytes());
        if let Some(floor) = &self.floor {
            row.extend_from_slice(&floor.seq.to_le_bytes());
            row.extend_from_slice(&floor.skipped.to_le_bytes());
            row.extend_from_slice(&floor.chain.0.to_le_bytes());
        }
        row
    }

    pub fn decode(row: &[u8]) -> Result<Self> {
        let floor = match row.len() {
            FEED_BYTES => None,
            FLOORED_FEED_BYTES => {
                Some(FloorRow { seq: u32_at(row, 24), skipped: u32_at(row, 28), chain: Chain(u128_at(row, 32)) })
            }
            _ => return Err(bad_row("peers")),
        };
        let this = Self { number: u32_at(row, 0), head: u32_at(row, 4), chain: Chain(u128_at(row, 8)), floor };
        let is_possible = floor.is_none_or(|floor| floor.seq > 0 && floor.seq <= this.head && floor.skipped <= floor.seq);
        if is_possible { Ok(this) } else { Err(Error::Corrupt("the floor of a feed is above its head".into())) }
    }

    /// The floor, 0 if there is none.
    pub fn floor_seq(&self) -> u32 {
        self.floor.map_or(0, |floor| floor.seq)
    }

    /// The number of entries that never had an offset in this log.
    pub fn skipped(&self) -> u32 {
        self.floor.map_or(0, |floor| floor.skipped)
    }

    /// The number of entries that have or had an offset in this log.
    pub fn arrived(&self) -> u32 {
        self.head - self.skipped()
    }
}

/// A row of `runs`: entries of one feed with successive seqs and successive offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunRow {
    /// The seq of the first entry. It is part of the key.
    pub first_seq: u32,
    /// The offset of the first entry.
    pub first_offset: u64,
    /// The number of entries, 1 to [`RUN_ENTRIES_MAX`].
    pub count: u32,
    /// The feed's chain before the first entry.
    pub chain_before: Chain,
}

impl RunRow {
    /// The key of a run that starts at `seq`: peer number and seq.
    pub fn key(number: u32, seq: u32) -> [u8; 8] {
        ((u64::from(number) << 32) | u64::from(seq)).to_be_bytes()
    }

    pub fn encode(&self) -> [u8; 28] {
        let mut row = [0; 28];
        row[..8].copy_from_slice(&self.first_offset.to_le_bytes());
        row[8..12].copy_from_slice(&self.count.to_le_bytes());
        row[12..].copy_from_slice(&self.chain_before.0.to_le_bytes());
        row
    }

    /// Decodes key and value. Returns the peer number and the run.
    pub fn decode(key: &[u8], row: &[u8]) -> Result<(u32, Self)> {
        let key = u64::from_be_bytes(key.try_into().map_err(|_| bad_row("runs"))?);
        if row.len() != 28 {
            return Err(bad_row("runs"));
        }
        let run = Self {
            first_seq: key as u32,
            first_offset: u64_at(row, 0),
            count: u32_at(row, 8),
            chain_before: Chain(u128_at(row, 12)),
        };
        Ok(((key >> 32) as u32, run))
    }

    /// The seq of the last entry.
    pub fn last_seq(&self) -> u32 {
        self.first_seq.saturating_add(self.count.saturating_sub(1))
    }

    /// The offset of the last entry.
    pub fn last_offset(&self) -> u64 {
        self.first_offset.saturating_add(u64::from(self.count.saturating_sub(1)))
    }

    /// The offset of the entry `seq`, if it is in this run.
    pub fn offset_of(&self, seq: u32) -> Option<Offset> {
        let index = seq.checked_sub(self.first_seq)?;
        (index < self.count).then(|| Offset(self.first_offset.saturating_add(u64::from(index))))
    }
}

/// A row of `packs`: a pack that belongs to the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackRow {
    /// The offset of the first entry. It is the key.
    pub first: Offset,
    /// The number of entries, at least 1.
    pub entries: u64,
    /// The length of the file.
    pub file_bytes: u64,
    /// The number of times that the pack was written again. It is part of the file name.
    pub generation: u32,
}

impl PackRow {
    pub fn encode(&self) -> [u8; 20] {
        let mut row = [0; 20];
        row[..8].copy_from_slice(&self.entries.to_le_bytes());
        row[8..16].copy_from_slice(&self.file_bytes.to_le_bytes());
        row[16..].copy_from_slice(&self.generation.to_le_bytes());
        row
    }

    pub fn decode(first: Offset, row: &[u8]) -> Result<Self> {
        if row.len() != 20 || u64_at(row, 0) == 0 {
            return Err(bad_row("packs"));
        }
        Ok(Self { first, entries: u64_at(row, 0), file_bytes: u64_at(row, 8), generation: u32_at(row, 16) })
    }

    /// The name of the file.
    pub fn file_name(&self) -> String {
        match self.generation {
            0 => format!("{:020}.pack", self.first.0),
            generation => format!("{:020}-{generation}.pack", self.first.0),
        }
    }

    /// The offset of the last entry.
    pub fn last(&self) -> Offset {
        Offset(self.first.0.saturating_add(self.entries - 1))
    }
}

/// A tombstone as bytes: its hash (8 bytes) and length (4 bytes).
pub const TOMBSTONE_BYTES: usize = 12;

pub fn encode_tombstone(tombstone: Tombstone) -> [u8; TOMBSTONE_BYTES] {
    let mut row = [0; TOMBSTONE_BYTES];
    row[..8].copy_from_slice(&tombstone.hash.to_le_bytes());
    row[8..].copy_from_slice(&tombstone.bytes.to_le_bytes());
    row
}

/// Returns `None` if `row` has the wrong size.
pub fn decode_tombstone(row: &[u8]) -> Option<Tombstone> {
    (row.len() == TOMBSTONE_BYTES).then(|| Tombstone { hash: u64_at(row, 0), bytes: u32_at(row, 8) })
}

/// The error for a key or value that has the wrong size.
pub fn bad_row(table: &str) -> Error {
    Error::Corrupt(format!("a row of the table {table} has the wrong size"))
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

pub fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("16 bytes"))
}
