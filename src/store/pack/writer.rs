//! Writes a pack: a temporary file first, which gets its name when it is complete and on the disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk::Compressor;

use super::block::{BlockBuilder, KEPT_BYTES_MAX};
use super::{BLOCK_BYTES, HEADER_BYTES, Header, IndexEntry, PackRow, PackedFeed};
use crate::model::{Error, Offset, Result, Seq};
use crate::store::files::{data, file};
use crate::store::records::Record;

/// The level of zstd: higher levels take much more time than they save space.
const LEVEL: i32 = 1;

/// Writes one pack. If it is dropped before [`PackWriter::finish`], it leaves no file.
pub struct PackWriter {
    dir: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    first: Offset,
    generation: u32,
    /// The offset of the next record.
    next: Offset,
    /// The peer numbers in this pack, each with the seq of its first entry.
    feeds: BTreeMap<u32, Seq>,
    builder: BlockBuilder,
    raw: Vec<u8>,
    compressed: Vec<u8>,
    compressor: Compressor<'static>,
    index: Vec<u8>,
    /// The position of the next block in the file.
    at: u64,
    raw_bytes: u64,
    is_finished: bool,
}

impl PackWriter {
    /// Begins the pack whose first record has the offset `first`, in the directory `dir`. `generation` is 0, or one more than that
    /// of the pack that it replaces.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(dir: &Path, first: Offset, generation: u32) -> Result<Self> {
        let name = format!("{:020}.new", first.0);
        let (temporary, file) = (dir.join(&name), file::open_or_create(dir, &name)?);
        if let Some(log_dir) = dir.parent() {
            file::copy_access(&log_dir.join(data::FILE_NAME), &file).ok();
        }
        let begin = || {
            file.set_len(0)?;
            let mut file = BufWriter::with_capacity(1 << 20, file);
            file.write_all(&[0; HEADER_BYTES])?;
            Ok((file, Compressor::new(LEVEL)?))
        };
        let (file, compressor) = begin().map_err(|err| cannot_write(&temporary, err))?;
        Ok(Self {
            dir: dir.to_path_buf(),
            temporary,
            file,
            first,
            generation,
            next: first,
            feeds: BTreeMap::new(),
            builder: BlockBuilder::default(),
            raw: Vec::new(),
            compressed: Vec::new(),
            compressor,
            index: Vec::new(),
            at: HEADER_BYTES as u64,
            raw_bytes: 0,
            is_finished: false,
        })
    }

    /// Adds the next record.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn push(&mut self, record: &Record<'_>) -> Result<()> {
        self.feeds.entry(record.number).or_insert(record.seq);
        self.builder.push(record);
        self.next = self.next.next();
        if self.builder.bytes() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    /// The length of the records so far, before compression, in bytes.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes + self.builder.bytes() as u64
    }

    /// The offset of the next record.
    pub fn next(&self) -> Offset {
        self.next
    }

    fn end_block(&mut self) -> Result<()> {
        let first = Offset(self.next.0 - self.builder.len() as u64);
        self.builder.take(&mut self.raw);
        self.raw_bytes += self.raw.len() as u64;
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(self.raw.len()));
        let compressed = self.compressor.compress_to_buffer(&self.raw, &mut self.compressed);
        compressed.map_err(|err| cannot_write(&self.temporary, err))?;
        // Incompressible records are stored as they are.
        let block = if self.compressed.len() < self.raw.len() { &self.compressed } else { &self.raw };
        let entry =
            IndexEntry { first, at: self.at, bytes: block.len() as u32, raw_bytes: self.raw.len() as u32, hash: xxh3_64(block) };
        self.index.extend_from_slice(&entry.encode());
        self.file.write_all(block).map_err(|err| cannot_write(&self.temporary, err))?;
        self.at += block.len() as u64;
        if self.raw.capacity() > KEPT_BYTES_MAX {
            (self.raw, self.compressed) = (Vec::new(), Vec::new());
        }
        Ok(())
    }
}

impl PackWriter {
    /// Completes the pack: writes its feeds, its index and its header, makes the file durable, and gives it its name. The caller
    /// must sync the directory. The pack belongs to the log when its row is in the table `packs`.
    ///
    /// `feed_of` returns the feed of a peer number whose first entry in this pack has this seq.
    ///
    /// # Errors
    /// When the file cannot be written; every error of `feed_of`.
    pub fn finish(mut self, feed_of: impl FnMut(u32, Seq) -> Result<PackedFeed>) -> Result<PackRow> {
        self.complete(feed_of)
    }

    fn complete(&mut self, mut feed_of: impl FnMut(u32, Seq) -> Result<PackedFeed>) -> Result<PackRow> {
        if !self.builder.is_empty() {
            self.end_block()?;
        }
        let mut tail = Vec::new();
        for (&number, &seq) in &self.feeds {
            feed_of(number, seq)?.encode(&mut tail);
        }
        let index_at = self.at + tail.len() as u64;
        tail.append(&mut self.index);
        let header = Header {
            first: self.first,
            entries: self.next.0 - self.first.0,
            feeds_at: self.at,
            index_at,
            tail_hash: xxh3_64(&tail),
        };
        let encoded = header.encode();
        let row = PackRow {
            first: self.first,
            entries: header.entries,
            file_bytes: self.at + tail.len() as u64,
            generation: self.generation,
        };
        let mut write = || {
            self.file.write_all(&tail)?;
            self.file.flush()?;
            self.file.get_ref().write_all_at(&encoded, 0)?;
            self.file.get_ref().sync_all()?;
            fs::rename(&self.temporary, self.dir.join(row.file_name()))
        };
        write().map_err(|err| cannot_write(&self.temporary, err))?;
        self.is_finished = true;
        Ok(row)
    }
}

impl Drop for PackWriter {
    /// Removes an unfinished file.
    fn drop(&mut self) {
        if !self.is_finished {
            fs::remove_file(&self.temporary).ok();
        }
    }
}

fn cannot_write(path: &Path, err: std::io::Error) -> Error {
    Error::io(format!("{} cannot be written", path.display()), err)
}
