//! Reads a pack through a memory map. The file never changes, and its length is checked before it is mapped.
#![allow(unsafe_code)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk::Decompressor;

use super::block::{Block, Place};
use super::{HEADER_BYTES, Header, INDEX_ENTRY_BYTES, IndexEntry, PackRow, PackedFeed};
use crate::model::{Error, Offset, Result};
use crate::store::records::Record;

/// An open pack.
pub struct Pack {
    path: PathBuf,
    row: PackRow,
    map: Mmap,
    header: Header,
    decompressor: Decompressor<'static>,
    /// The number of the block in `block`; `usize::MAX` if there is none.
    block_number: usize,
    /// The block that was read last, decompressed.
    block: Vec<u8>,
    /// The places of its records. Empty if they are not known yet.
    places: Vec<Place>,
}

impl Pack {
    /// Opens the pack of `row` in the directory `dir`.
    ///
    /// # Errors
    /// [`Error::PackMissing`] if there is no such file, [`Error::Corrupt`] if the file is not this pack.
    pub fn open(dir: &Path, row: PackRow) -> Result<Self> {
        let name = row.file_name();
        let path = dir.join(&name);
        let fail = |err| Error::io(format!("{} cannot be read", path.display()), err);
        let file = super::open(dir, &name)?.ok_or_else(|| Error::PackMissing(path.clone()))?;
        let bytes = file.metadata().map_err(fail)?.len();
        if bytes != row.file_bytes {
            return Err(damaged(&path, &format!("it has {bytes} bytes, and not {}", row.file_bytes)));
        }
        // SAFETY: no program changes or truncates a pack after it has its name. If another program does, the process ends with
        // SIGBUS, as for data.mdb.
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        let header = map.get(..HEADER_BYTES).and_then(Header::decode);
        let header = header.ok_or_else(|| damaged(&path, "its header is damaged"))?;
        let tail = map.get(usize::try_from(header.feeds_at).unwrap_or(usize::MAX)..).unwrap_or_default();
        let index_bytes = row.file_bytes.checked_sub(header.index_at);
        let fits = header.feeds_at <= header.index_at && index_bytes.is_some_and(|bytes| bytes % INDEX_ENTRY_BYTES as u64 == 0);
        if !fits || (header.first, header.entries) != (row.first, row.entries) || xxh3_64(tail) != header.tail_hash {
            return Err(damaged(&path, "its index is damaged, or it is another pack"));
        }
        let decompressor = Decompressor::new().map_err(fail)?;
        Ok(Self { path, row, map, header, decompressor, block_number: usize::MAX, block: Vec::new(), places: Vec::new() })
    }

    /// The row of this pack.
    pub fn row(&self) -> PackRow {
        self.row
    }

    /// Gives each feed that has entries in this pack to `each`, in the order of the peer numbers.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the list is damaged; every error of `each`.
    pub fn feeds(&self, mut each: impl FnMut(PackedFeed) -> Result<()>) -> Result<()> {
        let mut bytes = &self.map[self.header.feeds_at as usize..self.header.index_at as usize];
        while !bytes.is_empty() {
            each(PackedFeed::decode(&mut bytes).ok_or_else(|| damaged(&self.path, "its list of feeds is damaged"))?)?;
        }
        Ok(())
    }

    /// The offset of the first record of the block after the one that contains `offset`. `None`: it is in the last block.
    pub fn next_block(&self, offset: Offset) -> Option<Offset> {
        let index = self.index();
        let next = index.partition_point(|entry| IndexEntry::decode(entry).first <= offset);
        index.get(next).map(|entry| IndexEntry::decode(entry).first)
    }

    fn index(&self) -> &[[u8; INDEX_ENTRY_BYTES]] {
        self.map[self.header.index_at as usize..].as_chunks().0
    }

    /// Gives each record from the offset `from` to `each`, until `each` breaks or the pack ends. `from` must be in this pack.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a block is damaged; every error of `each`.
    pub fn records(
        &mut self,
        from: Offset,
        mut each: impl FnMut(Offset, Record<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let mut number = self.index().partition_point(|entry| IndexEntry::decode(entry).first <= from).saturating_sub(1);
        let mut next = from;
        while number < self.index().len() {
            let entry = self.load(number)?;
            let broken = || damaged(&self.path, &format!("the block at byte {} is damaged", entry.at));
            let mut block = Block::new(&self.block).ok_or_else(broken)?;
            let skipped = usize::try_from(next.0 - entry.first.0).ok().and_then(|count| block.skip(count));
            skipped.ok_or_else(broken)?;
            while let Some(record) = block.next() {
                if each(next, record)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                next = next.next();
            }
            if block.len() > 0 {
                return Err(broken());
            }
            number += 1;
        }
        if next == self.row.last().next() {
            Ok(ControlFlow::Continue(()))
        } else {
            Err(damaged(&self.path, "records are missing"))
        }
    }

    /// Gives the record at `offset` to `each`. Faster than [`Pack::records`] if other records of its block are sought before or
    /// after it. `offset` must be in this pack.
    ///
    /// # Errors
    /// As [`Pack::records`].
    pub fn record<R>(&mut self, offset: Offset, each: impl FnOnce(Record<'_>) -> Result<R>) -> Result<R> {
        let number = self.index().partition_point(|entry| IndexEntry::decode(entry).first <= offset).saturating_sub(1);
        let entry = self.load(number)?;
        let broken = || damaged(&self.path, &format!("the block at byte {} is damaged", entry.at));
        let mut block = Block::new(&self.block).ok_or_else(broken)?;
        if self.places.is_empty() {
            Block::new(&self.block).ok_or_else(broken)?.places(&mut self.places);
        }
        let index = usize::try_from(offset.0 - entry.first.0).map_err(|_| broken())?;
        let found = self.places.get(index).and_then(|&place| block.go_to(index, place));
        let record = found.and_then(|()| block.next()).ok_or_else(broken)?;
        each(record)
    }

    /// Reads a block, unless it was read last.
    fn load(&mut self, number: usize) -> Result<IndexEntry> {
        let entry = IndexEntry::decode(&self.index()[number]);
        if self.block_number == number {
            return Ok(entry);
        }
        self.block_number = usize::MAX;
        self.places.clear();
        let broken = || damaged(&self.path, &format!("the block at byte {} is damaged", entry.at));
        let start = usize::try_from(entry.at).map_err(|_| broken())?;
        let stored = start.checked_add(entry.bytes as usize).and_then(|end| self.map.get(start..end)).ok_or_else(broken)?;
        if xxh3_64(stored) != entry.hash {
            return Err(broken());
        }
        self.block.clear();
        if entry.bytes == entry.raw_bytes {
            self.block.extend_from_slice(stored);
        } else {
            self.block.reserve(entry.raw_bytes as usize);
            let bytes = self.decompressor.decompress_to_buffer(stored, &mut self.block).map_err(|_| broken())?;
            if bytes != entry.raw_bytes as usize {
                return Err(broken());
            }
        }
        self.block_number = number;
        Ok(entry)
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::Corrupt(format!("{} is damaged: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::PackWriter;
    use super::*;
    use crate::model::{Chain, HashedEntry, PeerId, Seq};

    fn write(dir: &Path, first: u64, entries: u64) -> PackRow {
        let mut writer = PackWriter::create(dir, Offset(first), 0).unwrap();
        for n in 0..entries {
            let bytes = format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(n as usize % 300));
            let record = Record { number: 1, seq: Seq::new(n + 1).unwrap(), entry: HashedEntry::new(bytes.as_bytes()) };
            writer.push(&record).unwrap();
        }
        writer.finish(|number, seq| Ok(feed(number, seq))).unwrap()
    }

    fn feed(number: u32, seq: Seq) -> PackedFeed {
        PackedFeed { number, peer: PeerId::new("alice").unwrap(), chain_before: Chain(u128::from(seq.get())) }
    }

    fn seqs(pack: &mut Pack, from: u64) -> Result<Vec<u32>> {
        let mut seqs = Vec::new();
        let _ = pack.records(Offset(from), |offset, record| {
            assert_eq!(offset.0 - pack_first(), u64::from(record.seq.get()) - 1);
            seqs.push(record.seq.get());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(seqs)
    }

    fn pack_first() -> u64 {
        1001
    }

    #[test]
    fn a_pack_gives_its_records_from_every_position() {
        let dir = tempfile::tempdir().unwrap();
        let row = write(dir.path(), pack_first(), 5000);
        assert_eq!(row.last(), Offset(6000));
        let mut pack = Pack::open(dir.path(), row).unwrap();
        assert!(pack.index().len() > 3);
        let mut feeds = Vec::new();
        pack.feeds(|feed| {
            feeds.push(feed);
            Ok(())
        })
        .unwrap();
        assert_eq!(feeds, [feed(1, Seq::new(1).unwrap())]);
        for from in [1001, 1002, 1500, 3333, 5999, 6000] {
            assert_eq!(seqs(&mut pack, from).unwrap(), (from as u32 - 1000..=5000).collect::<Vec<_>>());
            let mut seq_at = |offset| pack.record(Offset(offset), |record| Ok(u64::from(record.seq.get()))).unwrap();
            assert_eq!([from, 6000, 1001].map(&mut seq_at), [from - 1000, 5000, 1]);
        }
    }

    #[test]
    fn every_damaged_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let row = write(dir.path(), pack_first(), 40);
        let path = dir.path().join(row.file_name());
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).unwrap();
            let read = Pack::open(dir.path(), row).and_then(|mut pack| seqs(&mut pack, pack_first()));
            assert!(matches!(read, Err(Error::Corrupt(_))), "byte {at}");
        }
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(matches!(Pack::open(dir.path(), row), Err(Error::Corrupt(_))));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Pack::open(dir.path(), row), Err(Error::PackMissing(_))));
    }
}
