//! Many hashed entries in one buffer.

use std::ops::Range;

use super::{Entry, HashedEntry, Kind, Tombstone};
use crate::json::check_json;
use crate::model::{Error, Result};

/// The number of bytes that one read may return.
const READ_BYTES: usize = 256 << 10;
/// The size of the first room for input, in bytes: most input is short.
const FIRST_BYTES: usize = 16 << 10;
/// The most bytes by which the room for input grows at once.
const GROW_BYTES_MAX: usize = 4 << 20;

/// Entries, each hashed when it was added. Their bytes lie in one buffer.
///
/// Input can be read into the buffer. Parts of it become entries without a copy:
///
/// ```text
/// [ input that is final: entries point into it | input read since | room ]
/// ```
#[derive(Default)]
pub struct EntryBuffer {
    input: Vec<u8>,
    /// The end of the bytes that were read or copied into `input`.
    filled: usize,
    /// The bytes of `input` before this index are final.
    final_end: usize,
    slots: Vec<Slot>,
}

/// The place of the bytes of an entry, and their kind and hash.
struct Slot {
    bytes: Bytes,
    kind: Kind,
    tombstone: Tombstone,
}

enum Bytes {
    Input(Range<usize>),
    Owned(Box<[u8]>),
    Deleted,
}

impl EntryBuffer {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of the input that was read, and of entries that were copied in.
    pub fn input(&self) -> &[u8] {
        &self.input[..self.filled]
    }

    /// The entry that was added as number `index`, from 0.
    pub fn get(&self, index: usize) -> HashedEntry<'_> {
        let slot = &self.slots[index];
        let entry = match &slot.bytes {
            Bytes::Input(range) => Entry::Bytes(&self.input[range.clone()], slot.kind),
            Bytes::Owned(bytes) => Entry::Bytes(bytes, slot.kind),
            Bytes::Deleted => Entry::Deleted(slot.tombstone),
        };
        HashedEntry { entry, tombstone: slot.tombstone }
    }

    /// The entries in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = HashedEntry<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Room for the next read. After the read, call [`EntryBuffer::fill`] with the number of bytes.
    pub fn room(&mut self) -> &mut [u8] {
        if self.input.len() - self.filled < READ_BYTES {
            // The room starts small and doubles up to a limit. A larger buffer grows cheaply: the kernel moves its pages.
            let bytes = self.filled + self.filled.clamp(FIRST_BYTES, GROW_BYTES_MAX);
            self.input.reserve_exact(bytes.saturating_sub(self.input.len()));
            self.input.resize(bytes.max(self.input.len()), 0);
        }
        let end = (self.filled + READ_BYTES).min(self.input.len());
        &mut self.input[self.filled..end]
    }

    /// The first `bytes` of the room hold input now.
    pub fn fill(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.input.len());
    }

    /// Makes an entry of a range of the input.
    pub fn push_input(&mut self, range: Range<usize>) {
        let kind = Kind::of(&self.input()[range.clone()]);
        self.push_classified(range, kind);
    }

    /// Makes an entry of a range of the input, which must be one JSON value without white space around it.
    ///
    /// # Errors
    /// [`Error::BadInput`] or [`Error::NotUtf8`] if it is not; no entry is added.
    pub fn push_json(&mut self, range: Range<usize>) -> Result<()> {
        let text = std::str::from_utf8(&self.input()[range.clone()]).map_err(|err| Error::not_utf8(&err))?;
        check_json(text).map_err(Error::BadInput)?;
        let kind = Kind::of_json(text);
        self.push_classified(range, kind);
        Ok(())
    }

    fn push_classified(&mut self, range: Range<usize>, kind: Kind) {
        let tombstone = Tombstone::of(&self.input()[range.clone()]);
        self.final_end = self.final_end.max(range.end);
        self.slots.push(Slot { bytes: Bytes::Input(range), kind, tombstone });
    }

    /// Copies bytes to the end of the input and makes an entry of them.
    pub fn push_copy(&mut self, bytes: &[u8]) {
        self.input.truncate(self.filled);
        self.input.extend_from_slice(bytes);
        let start = std::mem::replace(&mut self.filled, self.input.len());
        self.push_input(start..self.filled);
    }

    /// Makes an entry of bytes that are not in the input.
    pub fn push_owned(&mut self, bytes: Vec<u8>) {
        let (kind, tombstone) = (Kind::of(&bytes), Tombstone::of(&bytes));
        self.slots.push(Slot { bytes: Bytes::Owned(bytes.into_boxed_slice()), kind, tombstone });
    }

    /// Adds an entry that was deleted in another log.
    pub fn push_deleted(&mut self, tombstone: Tombstone) {
        self.slots.push(Slot { bytes: Bytes::Deleted, kind: Kind::Binary, tombstone });
    }

    /// Removes the input from `at` on and returns it. `at` must not be before the end of an entry. Entries stay.
    pub fn split_off(&mut self, at: usize) -> Vec<u8> {
        let at = at.max(self.final_end).min(self.filled);
        let rest = self.input[at..self.filled].to_vec();
        self.filled = at;
        rest
    }

    /// Removes the input from `at` on, but no entry.
    pub fn cut_off(&mut self, at: usize) {
        self.filled = at.max(self.final_end).min(self.filled);
    }

    /// Clears the buffer, then starts it with input that was read before.
    pub fn start_with(&mut self, mut input: Vec<u8>) {
        self.clear(usize::MAX);
        self.filled = input.len();
        if self.input.len() < input.len() {
            input.resize(input.len().max(GROW_BYTES_MAX + READ_BYTES), 0);
            self.input = input;
        } else {
            self.input[..input.len()].copy_from_slice(&input);
        }
    }

    /// Removes all entries and all input. Frees the memory of the input if it is larger than `kept_bytes_max` bytes.
    pub fn clear(&mut self, kept_bytes_max: usize) {
        self.slots.clear();
        (self.filled, self.final_end) = (0, 0);
        if self.input.len() > kept_bytes_max {
            self.input = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_input(bytes: &[u8]) -> EntryBuffer {
        let mut buffer = EntryBuffer::default();
        buffer.room()[..bytes.len()].copy_from_slice(bytes);
        buffer.fill(bytes.len());
        buffer
    }

    #[test]
    fn every_entry_has_the_hash_of_its_bytes() {
        let mut buffer = with_input(b"{\"a\":1}\ntext\nrest");
        buffer.push_json(0..7).unwrap();
        buffer.push_input(8..12);
        assert!(matches!(buffer.push_json(8..12), Err(Error::BadInput(_))));
        buffer.push_owned(b"owned".to_vec());
        buffer.push_deleted(Tombstone { hash: 7, bytes: 9 });
        assert_eq!(buffer.split_off(13), b"rest");
        buffer.push_copy(b"\xffcopy");
        let expected = [
            HashedEntry::new(b"{\"a\":1}"),
            HashedEntry::new(b"text"),
            HashedEntry::new(b"owned"),
            HashedEntry::deleted(Tombstone { hash: 7, bytes: 9 }),
            HashedEntry::new(b"\xffcopy"),
        ];
        assert_eq!(buffer.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn input_that_entries_point_to_is_never_taken_out() {
        let mut buffer = with_input(b"one two");
        buffer.push_input(0..3);
        assert_eq!(buffer.split_off(1), b" two");
        assert_eq!(buffer.get(0), HashedEntry::new(b"one"));
        buffer.start_with(b"three".to_vec());
        assert!(buffer.is_empty());
        buffer.push_input(0..5);
        assert_eq!(buffer.get(0), HashedEntry::new(b"three"));
    }
}
