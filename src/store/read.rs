//! Reading: short snapshots, each record checked.

use std::ops::ControlFlow;

use xxhash_rust::xxh3::xxh3_64;

use super::Log;
use super::layout::{Header, decode_tomb};
use super::lmdb::ReadTxn;
use crate::entry::{Change, Entry, Offset, PeerId, Seq};
use crate::error::{Error, Result};

/// How much one snapshot reads at the most, so that it stays short.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Entries.
    pub entries_max: usize,
    /// Bytes of entries; the one that reaches it is still given.
    pub bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries_max: 4096, bytes_max: 256 << 10 }
    }
}

/// Feeds of a higher number are looked up again whenever another one came between.
const NAMES_MAX: u32 = 1 << 16;

/// Reads a log. Each call sees one snapshot; nothing is held between calls.
pub struct Reader<'l> {
    pub(super) log: &'l Log,
    names: Names,
}

impl Log {
    /// A reader.
    pub fn reader(&self) -> Reader<'_> {
        Reader { log: self, names: Names::default() }
    }
}

impl Reader<'_> {
    /// Gives the changes after `after` to `each`, in the order of arrival, until it breaks or `bounds` are reached.
    /// Returns the offset of the last one given (`after` itself if there was none).
    ///
    /// `each` runs inside of the snapshot: it must not block.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use scuttleup::{Bounds, Log, Offset};
    ///
    /// # let dir = std::env::temp_dir().join(format!("scuttleup-doc-scan-{}", std::process::id()));
    /// # let log = Log::open_or_create(&dir)?;
    /// for n in 1..=10 {
    ///     log.append(n.to_string().as_bytes())?;
    /// }
    /// let mut reader = log.reader();
    /// let (mut position, mut seqs) = (Offset(7), Vec::new());
    /// loop {
    ///     let last = reader.scan(position, Bounds::default(), |change| {
    ///         seqs.push(change.seq.get());
    ///         Ok(ControlFlow::Continue(()))
    ///     })?;
    ///     if last == position {
    ///         break;
    ///     }
    ///     position = last;
    /// }
    /// assert_eq!(seqs, [8, 9, 10]);
    /// # std::fs::remove_dir_all(dir).ok();
    /// # Ok::<(), scuttleup::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Checksum`] for a record that is not what was written; whatever `each` returns.
    pub fn scan(
        &mut self,
        after: Offset,
        bounds: Bounds,
        mut each: impl FnMut(Change<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<Offset> {
        let txn = self.log.env.read()?;
        let (mut last, mut entries, mut bytes) = (after, 0, 0);
        let names = &mut self.names;
        txn.records(after.next(), |offset, record| {
            let (number, seq, entry) = check_record(offset, record)?;
            let peer = names.of(number, &txn)?;
            let flow = each(Change { offset, peer, seq, entry })?;
            (last, entries, bytes) = (offset, entries + 1, bytes + record.len());
            let full = entries >= bounds.entries_max || bytes >= bounds.bytes_max;
            Ok(if full { ControlFlow::Break(()) } else { flow })
        })?;
        Ok(last)
    }

    /// Gives one change to `each`; `Ok(None)` when it is not here.
    ///
    /// # Errors
    /// As [`Reader::scan`].
    pub fn entry<T>(&mut self, peer: &str, seq: Seq, each: impl FnOnce(Change<'_>) -> T) -> Result<Option<T>> {
        let txn = self.log.env.read()?;
        let Some(feed) = txn.feed(peer)? else { return Ok(None) };
        let Some(run) = txn.run(feed.number, seq.get())? else { return Ok(None) };
        let Some(offset) = run.offset_of(seq.get()) else { return Ok(None) };
        let record = txn.record(offset)?.ok_or(Error::Checksum(offset))?;
        let (number, found_seq, entry) = check_record(offset, record)?;
        if (number, found_seq) != (feed.number, seq) {
            return Err(Error::Corrupt(format!("the index of {peer} points to another entry at offset {offset}")));
        }
        let peer = self.names.of(number, &txn)?;
        Ok(Some(each(Change { offset, peer, seq, entry })))
    }

    /// The offset after which every entry above `head_of` its feed lies; the last offset when there is none.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn start_above(&self, head_of: impl Fn(&str) -> u32) -> Result<Offset> {
        let txn = self.log.env.read()?;
        let mut start = txn.last_offset()?.next();
        txn.feeds(|peer, row| {
            let next = head_of(peer).saturating_add(1);
            if next <= row.head
                && let Some(offset) = txn.run(row.number, next)?.and_then(|run| run.offset_of(next))
            {
                start = start.min(offset);
            }
            Ok(())
        })?;
        Ok(Offset(start.0 - 1))
    }
}

/// The ids of feeds by their numbers, which are given in order.
#[derive(Default)]
struct Names {
    first: Vec<Option<PeerId>>,
    other: Option<(u32, PeerId)>,
}

impl Names {
    fn of(&mut self, number: u32, txn: &ReadTxn<'_>) -> Result<&PeerId> {
        if number >= NAMES_MAX {
            let other = self.other.take().filter(|(known, _)| *known == number);
            let named = other.map_or_else(|| txn.peer(number).map(|peer| (number, peer)), Ok)?;
            return Ok(&self.other.insert(named).1);
        }
        let at = number as usize;
        if at >= self.first.len() {
            self.first.resize(at + 1, None);
        }
        match &mut self.first[at] {
            Some(known) => Ok(known),
            new => Ok(new.insert(txn.peer(number)?)),
        }
    }
}

/// Peer number, seq and entry of a record whose bytes are what was written.
pub(super) fn check_record(offset: Offset, record: &[u8]) -> Result<(u32, Seq, Entry<'_>)> {
    let (header, payload, hash) = Header::decode(offset, record)?;
    let seq = Seq::new(u64::from(header.seq));
    let entry = match header.kind {
        Some(kind) => Some(Entry::Bytes(payload, kind)),
        None => decode_tomb(payload).map(Entry::Deleted),
    };
    match (seq, entry) {
        (Some(seq), Some(entry)) if xxh3_64(payload) == hash => Ok((header.number, seq, entry)),
        _ => Err(Error::Checksum(offset)),
    }
}
