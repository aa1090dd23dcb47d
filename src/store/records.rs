//! Records: an entry and its header as bytes, stored at an offset. The format is described in scuttleup-store(5).
//!
//! A record is a header of 16 bytes and the payload. Its checksum covers the payload, the header and the offset.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::lmdb::{Transaction, Txn, missing_record};
use super::pack::{self, Pack};
use super::rows::{NUMBERS_MAX, PackRow, decode_tombstone, encode_tombstone, u32_at, u64_at};
use crate::model::{Entry, Error, HashedEntry, Kind, Offset, Result, Seq};

/// The length of the header in bytes.
pub const HEADER_BYTES: usize = 16;

/// Reads records by their offsets: from a pack, or from data.mdb. Keeps one pack open.
pub struct Records {
    /// The directory of the packs.
    dir: PathBuf,
    pack: Option<Pack>,
}

impl Records {
    /// For the log in `log_dir`.
    pub fn new(log_dir: &Path) -> Self {
        Self { dir: log_dir.join(pack::DIR_NAME), pack: None }
    }

    /// Gives each record from the offset `from` to `each`, until `each` breaks.
    ///
    /// # Errors
    /// [`Error::Checksum`] or [`Error::Corrupt`] if a record is damaged or missing; every error of `each`.
    pub fn scan<T: Transaction>(
        &mut self,
        txn: &Txn<'_, T>,
        from: Offset,
        mut each: impl FnMut(Offset, Record<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut next = from;
        while let Some(row) = txn.pack_of(next)? {
            // Entries that were deleted after they were sealed.
            let mut deleted = txn.deleted_from(next)?;
            let flow = self.open(row)?.records(next, |offset, mut record| {
                if let Some((_, tombstone)) = deleted.filter(|&(at, _)| at == offset) {
                    record.entry = HashedEntry::deleted(tombstone);
                    deleted = txn.deleted_from(offset.next())?;
                }
                each(offset, record)
            })?;
            if flow.is_break() {
                return Ok(());
            }
            next = row.last().next();
        }
        txn.records(next, |offset, record| each(offset, check_record(offset, record)?))
    }

    /// Gives the record at `offset` to `each`.
    ///
    /// # Errors
    /// As [`Records::scan`].
    pub fn get<T: Transaction, R>(
        &mut self,
        txn: &Txn<'_, T>,
        offset: Offset,
        each: impl FnOnce(Record<'_>) -> Result<R>,
    ) -> Result<R> {
        let Some(row) = txn.pack_of(offset)? else {
            let record = txn.record(offset)?.ok_or_else(|| missing_record(offset))?;
            return each(check_record(offset, record)?);
        };
        let deleted = txn.deleted_from(offset)?.filter(|&(at, _)| at == offset);
        self.open(row)?.record(offset, |mut record| {
            if let Some((_, tombstone)) = deleted {
                record.entry = HashedEntry::deleted(tombstone);
            }
            each(record)
        })
    }

    fn open(&mut self, row: PackRow) -> Result<&mut Pack> {
        let open = self.pack.take().filter(|pack| pack.row() == row);
        let open = open.map_or_else(|| Pack::open(&self.dir, row), Ok)?;
        Ok(self.pack.insert(open))
    }
}

/// A record with a valid checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// The peer number of the feed.
    pub number: u32,
    pub seq: Seq,
    pub entry: HashedEntry<'a>,
}

/// Decodes the record at `offset`.
///
/// # Errors
/// [`Error::Checksum`] if it is damaged.
pub fn check_record(offset: Offset, record: &[u8]) -> Result<Record<'_>> {
    let (header, payload, hash) = Header::decode(offset, record)?;
    let seq = Seq::new(u64::from(header.seq));
    let entry = match header.kind {
        Some(kind) => HashedEntry::stored(payload, kind, hash),
        None => decode_tombstone(payload).filter(|_| xxh3_64(payload) == hash).map(HashedEntry::deleted),
    };
    match (seq, entry) {
        (Some(seq), Some(entry)) => Ok(Record { number: header.number, seq, entry }),
        _ => Err(Error::Checksum(offset)),
    }
}

/// The first 8 bytes of a header, without the checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The peer number of the feed.
    pub number: u32,
    pub seq: u32,
    /// `None`: the entry is deleted, and the payload is its [`Tombstone`].
    pub kind: Option<Kind>,
}

/// The kind and the peer number in one field. `kind` is `None` if the entry is deleted.
pub fn encode_tag(kind: Option<Kind>, number: u32) -> u32 {
    let kind = match kind {
        Some(Kind::Json) => 0,
        Some(Kind::Text) => 1,
        Some(Kind::Binary) => 2,
        None => 3,
    };
    kind << 30 | number
}

/// Returns the kind and the peer number.
pub fn decode_tag(tag: u32) -> (Option<Kind>, u32) {
    let kind = match tag >> 30 {
        0 => Some(Kind::Json),
        1 => Some(Kind::Text),
        2 => Some(Kind::Binary),
        _ => None,
    };
    (kind, tag & (NUMBERS_MAX - 1))
}

impl Header {
    fn tag(self) -> u32 {
        encode_tag(self.kind, self.number)
    }

    /// The header of the record at `offset` whose payload has the xxh3-64 `payload_hash`.
    pub fn encode(self, offset: Offset, payload_hash: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&self.tag().to_le_bytes());
        header[4..8].copy_from_slice(&self.seq.to_le_bytes());
        header[8..].copy_from_slice(&(payload_hash ^ self.mask(offset)).to_le_bytes());
        header
    }

    /// Returns the header, the payload, and the xxh3-64 that the payload must have.
    fn decode(offset: Offset, record: &[u8]) -> Result<(Self, &[u8], u64)> {
        let Some((header, payload)) = record.split_at_checked(HEADER_BYTES) else {
            return Err(Error::Checksum(offset));
        };
        let (kind, number) = decode_tag(u32_at(header, 0));
        let this = Self { number, seq: u32_at(header, 4), kind };
        Ok((this, payload, u64_at(header, 8) ^ this.mask(offset)))
    }

    /// The value that is combined with the payload's hash. With it, the checksum also covers the header and the offset.
    fn mask(self, offset: Offset) -> u64 {
        // Two odd constants (the golden ratio, and one of splitmix64): a change of either factor changes the mask.
        let first_bytes = u64::from(self.tag()) << 32 | u64::from(self.seq);
        first_bytes.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ offset.0.wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(32)
    }
}

/// Gives the record of an entry at `offset` to `each`: its header, and its payload.
pub fn encode_record<R>(
    offset: Offset,
    number: u32,
    seq: Seq,
    entry: HashedEntry<'_>,
    each: impl FnOnce(&[u8; HEADER_BYTES], &[u8]) -> R,
) -> R {
    let header = |kind, payload_hash| Header { number, seq: seq.get(), kind }.encode(offset, payload_hash);
    match entry.entry() {
        Entry::Bytes(bytes, kind) => each(&header(Some(kind), entry.tombstone().hash), bytes),
        Entry::Deleted(tombstone) => {
            let payload = encode_tombstone(tombstone);
            each(&header(None, xxh3_64(&payload)), &payload)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flipped_bit_of_a_header_changes_the_hash_that_the_payload_must_have() {
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
