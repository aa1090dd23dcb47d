//! A block: records of successive offsets as bytes, before compression.
//!
//! ```text
//! count u32 | count × (tag u32, seq step u32, length u32) | the payloads
//! ```
//!
//! Tag and payload are those of a record in data.mdb. The seq step is the difference to the seq of the record before, modulo
//! 2^32, and the seq itself in the first record. In one feed it is 1, which compresses well.

use super::BLOCK_BYTES;
use crate::model::{Entry, HashedEntry, Kind, Seq};
use crate::store::records::{Record, decode_tag, encode_tag};
use crate::store::rows::{decode_tombstone, encode_tombstone, u32_at};

const COUNT_BYTES: usize = 4;
const FIELDS_BYTES: usize = 12;

/// A buffer of a block that is larger than this is freed after its use, in bytes.
pub const KEPT_BYTES_MAX: usize = 4 * BLOCK_BYTES;

/// Collects records.
#[derive(Default)]
pub struct BlockBuilder {
    fields: Vec<u8>,
    payloads: Vec<u8>,
    last_seq: u32,
}

impl BlockBuilder {
    /// Adds a record.
    pub fn push(&mut self, record: &Record<'_>) {
        match record.entry.entry() {
            Entry::Bytes(bytes, kind) => self.add(record, Some(kind), bytes),
            Entry::Deleted(tombstone) => self.add(record, None, &encode_tombstone(tombstone)),
        }
    }

    fn add(&mut self, record: &Record<'_>, kind: Option<Kind>, payload: &[u8]) {
        let seq = record.seq.get();
        let step = seq.wrapping_sub(std::mem::replace(&mut self.last_seq, seq));
        // An entry has at most 1 GiB.
        for field in [encode_tag(kind, record.number), step, payload.len() as u32] {
            self.fields.extend_from_slice(&field.to_le_bytes());
        }
        self.payloads.extend_from_slice(payload);
    }

    /// The length of the block in bytes.
    pub fn bytes(&self) -> usize {
        COUNT_BYTES + self.fields.len() + self.payloads.len()
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.fields.len() / FIELDS_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Writes the block to `out`, which is cleared first, and empties the builder.
    pub fn take(&mut self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&(self.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.fields);
        out.extend_from_slice(&self.payloads);
        self.fields.clear();
        // The bytes of a long entry would be in memory twice.
        if self.payloads.capacity() > KEPT_BYTES_MAX {
            self.payloads = Vec::new();
        }
        self.payloads.clear();
        self.last_seq = 0;
    }
}

/// The place of a record in a block.
#[derive(Clone, Copy)]
pub struct Place {
    /// The seq of the record before.
    seq_before: u32,
    /// The length of the payloads of this record and the later ones.
    payloads_left: usize,
}

/// A block as read. Its records can be read in order.
pub struct Block<'a> {
    fields: &'a [u8],
    payloads: &'a [u8],
    last_seq: u32,
}

impl<'a> Block<'a> {
    /// Returns `None` if `bytes` are no block.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let (count, rest) = bytes.split_at_checked(COUNT_BYTES)?;
        let (fields, payloads) = rest.split_at_checked(FIELDS_BYTES.checked_mul(u32_at(count, 0) as usize)?)?;
        Some(Self { fields, payloads, last_seq: 0 })
    }

    /// The number of records that were not read yet.
    pub fn len(&self) -> usize {
        self.fields.len() / FIELDS_BYTES
    }

    /// The next record. Returns `None` at the end, and also if the record is damaged: then [`Block::len`] is not 0.
    pub fn next(&mut self) -> Option<Record<'a>> {
        let (number, kind, seq, payload) = self.advance()?;
        let entry = match kind {
            Some(kind) => HashedEntry::of_kind(payload, kind),
            None => HashedEntry::deleted(decode_tombstone(payload)?),
        };
        Some(Record { number, seq, entry })
    }

    /// Skips `count` records. Their entries are not hashed. Returns `None` if there are fewer.
    pub fn skip(&mut self, count: usize) -> Option<()> {
        for _ in 0..count {
            self.advance()?;
        }
        Some(())
    }

    /// The places of all records, from the first one on, as far as they are not damaged.
    pub fn places(mut self, places: &mut Vec<Place>) {
        places.clear();
        loop {
            places.push(Place { seq_before: self.last_seq, payloads_left: self.payloads.len() });
            if self.advance().is_none() {
                return;
            }
        }
    }

    /// Moves to the record `index`, whose place is `place`. Returns `None` if there is no such record.
    pub fn go_to(&mut self, index: usize, place: Place) -> Option<()> {
        self.fields = self.fields.get(index * FIELDS_BYTES..)?;
        self.payloads = &self.payloads[self.payloads.len().checked_sub(place.payloads_left)?..];
        self.last_seq = place.seq_before;
        Some(())
    }

    fn advance(&mut self) -> Option<(u32, Option<Kind>, Seq, &'a [u8])> {
        let (fields, later) = self.fields.split_at_checked(FIELDS_BYTES)?;
        let (payload, payloads) = self.payloads.split_at_checked(u32_at(fields, 8) as usize)?;
        let seq = self.last_seq.wrapping_add(u32_at(fields, 4));
        let (kind, number) = decode_tag(u32_at(fields, 0));
        let seq_of = Seq::new(u64::from(seq))?;
        (self.fields, self.payloads, self.last_seq) = (later, payloads, seq);
        Some((number, kind, seq_of, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tombstone;

    #[test]
    fn records_come_back_as_they_were() {
        let record = |number, seq, entry| Record { number, seq: Seq::new(seq).unwrap(), entry };
        let tombstone = HashedEntry::deleted(Tombstone { hash: 7, bytes: 9 });
        let records = [
            record(0, 5, HashedEntry::new(b"{\"a\":1}")),
            record(0, 6, HashedEntry::new(b"text")),
            record(3, u32::MAX.into(), HashedEntry::new(b"")),
            record((1 << 30) - 1, 1, tombstone),
            record(0, 7, HashedEntry::new(b"\xff")),
        ];
        let mut builder = BlockBuilder::default();
        let mut bytes = Vec::new();
        for _ in 0..2 {
            for record in &records {
                builder.push(record);
            }
            let expected_bytes = builder.bytes();
            builder.take(&mut bytes);
            assert_eq!((bytes.len(), builder.is_empty()), (expected_bytes, true));
            let mut block = Block::new(&bytes).unwrap();
            assert_eq!(block.len(), records.len());
            for record in &records {
                assert_eq!(block.next().as_ref(), Some(record));
            }
            assert!(block.next().is_none() && block.len() == 0);
        }
        let mut block = Block::new(&bytes).unwrap();
        block.skip(3).unwrap();
        assert_eq!(block.next(), Some(records[3]));
        assert!(block.skip(2).is_none());
        let mut places = Vec::new();
        Block::new(&bytes).unwrap().places(&mut places);
        for index in [4, 0, 3] {
            let mut block = Block::new(&bytes).unwrap();
            block.go_to(index, places[index]).unwrap();
            assert_eq!((block.next(), block.len()), (Some(records[index]), records.len() - index - 1));
        }
    }

    #[test]
    fn damaged_bytes_are_no_records() {
        let mut builder = BlockBuilder::default();
        builder.push(&Record { number: 1, seq: Seq::new(1).unwrap(), entry: HashedEntry::new(b"one") });
        let mut bytes = Vec::new();
        builder.take(&mut bytes);
        for end in 0..bytes.len() {
            let record = Block::new(&bytes[..end]).and_then(|mut block| block.next());
            assert!(record.is_none(), "{end} bytes");
        }
    }
}
