//! Rows of the store as bytes. The whole format is described in scuttleup-store(5).
//!
//! All numbers inside values are little-endian; numbers inside compared keys are big-endian, so that
//! LMDB's byte order is their order. Offsets are INTEGERKEY keys in the machine's own order.

use crate::entry::{Chain, Kind, Offset, Tomb};
use crate::error::{Error, Result};

/// The format that this program reads and writes.
pub const FORMAT: u32 = 1;
/// The most entries of one run; bounds the walk from a run's chain to that of an entry inside it.
pub const RUN_ENTRIES_MAX: u32 = 1024;
/// The most feeds of one log: a record's peer number has 30 bits.
pub const FEEDS_MAX: u32 = 1 << 30;

/// A row of `peers`: id → this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeedRow {
    /// Stands for the id in records and runs.
    pub number: u32,
    /// The highest seq.
    pub head: u32,
    /// The chain at the head.
    pub chain: Chain,
}

impl FeedRow {
    pub fn encode(&self) -> [u8; 24] {
        let mut row = [0; 24];
        row[..4].copy_from_slice(&self.number.to_le_bytes());
        row[4..8].copy_from_slice(&self.head.to_le_bytes());
        row[8..].copy_from_slice(&self.chain.0.to_le_bytes());
        row
    }

    pub fn decode(row: &[u8]) -> Result<Self> {
        if row.len() != 24 {
            return Err(bad_row("peers"));
        }
        Ok(Self { number: u32_at(row, 0), head: u32_at(row, 4), chain: Chain(u128_at(row, 8)) })
    }
}

/// A row of `runs`: entries of one feed that lie side by side in the order of arrival.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The seq of its first entry (in the key).
    pub first_seq: u32,
    /// Where its first entry lies.
    pub first_offset: u64,
    /// How many entries, 1 to [`RUN_ENTRIES_MAX`].
    pub count: u32,
    /// The feed's chain before its first entry.
    pub chain_before: Chain,
}

impl Run {
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

    /// From key and value; also gives the peer number of the key.
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

    /// Where `seq` lies, if it is in this run.
    pub fn offset_of(&self, seq: u32) -> Option<Offset> {
        let nth = seq.checked_sub(self.first_seq)?;
        (nth < self.count).then(|| Offset(self.first_offset + u64::from(nth)))
    }
}

/// The bytes before the payload of a record.
pub const HEADER_BYTES: usize = 16;

/// What a record of `entries` is of: the first 8 bytes of its header, and its check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub number: u32,
    pub seq: u32,
    /// `None`: deleted, and the payload is a [`Tomb`].
    pub kind: Option<Kind>,
}

impl Header {
    fn tag(self) -> u32 {
        let kind = match self.kind {
            Some(Kind::Json) => 0,
            Some(Kind::Text) => 1,
            Some(Kind::Binary) => 2,
            None => 3,
        };
        kind << 30 | self.number
    }

    /// The header of a record at `offset` whose payload has this xxh3-64. The hash is stored masked with
    /// everything else that the record says of itself, so that checking the payload checks all of it.
    pub fn encode(self, offset: Offset, payload_hash: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&self.tag().to_le_bytes());
        header[4..8].copy_from_slice(&self.seq.to_le_bytes());
        header[8..].copy_from_slice(&(payload_hash ^ self.mask(offset)).to_le_bytes());
        header
    }

    /// Header, payload, and the xxh3-64 that the payload must have.
    pub fn decode(offset: Offset, record: &[u8]) -> Result<(Self, &[u8], u64)> {
        let Some((header, payload)) = record.split_at_checked(HEADER_BYTES) else {
            return Err(Error::Checksum(offset));
        };
        let tag = u32_at(header, 0);
        let kind = match tag >> 30 {
            0 => Some(Kind::Json),
            1 => Some(Kind::Text),
            2 => Some(Kind::Binary),
            _ => None,
        };
        let this = Self { number: tag & (FEEDS_MAX - 1), seq: u32_at(header, 4), kind };
        Ok((this, payload, u64_at(header, 8) ^ this.mask(offset)))
    }

    fn mask(self, offset: Offset) -> u64 {
        // Two odd constants (the golden ratio, and one of splitmix64): a change of either part changes the mask.
        let place = u64::from(self.tag()) << 32 | u64::from(self.seq);
        place.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ offset.0.wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(32)
    }
}

/// The payload of a deleted record: hash, length.
pub fn encode_tomb(tomb: Tomb) -> [u8; 12] {
    let mut payload = [0; 12];
    payload[..8].copy_from_slice(&tomb.hash.to_le_bytes());
    payload[8..].copy_from_slice(&tomb.bytes.to_le_bytes());
    payload
}

/// The other way; `None` when it is not one.
pub fn decode_tomb(payload: &[u8]) -> Option<Tomb> {
    (payload.len() == 12).then(|| Tomb { hash: u64_at(payload, 0), bytes: u32_at(payload, 8) })
}

pub fn bad_row(table: &str) -> Error {
    Error::Corrupt(format!("a row of {table} has the wrong size"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("16 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_of_a_header_changes_the_hash_it_asks_for() {
        let header = Header { number: 5, seq: 9, kind: Some(Kind::Json) };
        let good = header.encode(Offset(77), 0x1234);
        assert_eq!(Header::decode(Offset(77), &good).unwrap(), (header, &[][..], 0x1234));
        assert_ne!(Header::decode(Offset(78), &good).unwrap().2, 0x1234);
        for bit in 0..8 * HEADER_BYTES {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(Header::decode(Offset(77), &bad).unwrap().2, 0x1234, "bit {bit}");
        }
    }
}
