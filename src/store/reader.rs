//! Reads in short snapshots, and checks each record.

use std::cell::RefCell;
use std::ops::ControlFlow;

use super::Log;
use super::lmdb::ReadTxn;
use super::records::{Record, Records};
use crate::model::{Change, Error, Offset, PeerId, Printable, Result, Seq};

/// Limits for one snapshot, so that it stays short.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The maximum number of entries.
    pub entries_max: usize,
    /// The maximum number of bytes. The entry that reaches it is still given.
    pub bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries_max: 4096, bytes_max: 256 << 10 }
    }
}

/// The cache keeps the ids of all peer numbers below this. Of the other numbers, it keeps only the last one.
const CACHED_PEERS_MAX: u32 = 1 << 16;

/// Reads a log. Each call sees one snapshot, which ends with the call.
pub struct Reader<'l> {
    pub(super) log: &'l Log,
    pub(super) records: RefCell<Records>,
    pub(super) peers: PeerCache,
    /// The number of entries that scans have passed over since the last call of [`Reader::take_skipped`].
    pub(super) skipped: u64,
}

impl Log {
    /// A reader of this log.
    pub fn reader(&self) -> Reader<'_> {
        let records = RefCell::new(Records::new(self.dir()));
        Reader { log: self, records, peers: PeerCache::default(), skipped: 0 }
    }
}

impl Reader<'_> {
    /// Gives the changes after the offset `after` to `each`, in order of arrival, until `each` breaks or `bounds` are
    /// reached. Returns the offset of the last change given, or `after` if there was none.
    ///
    /// If entries after `after` were pruned, gives no change, and returns the last offset that was pruned: the next scan goes on
    /// behind it. [`Reader::take_skipped`] then returns the number of these entries.
    ///
    /// `each` must not block: the snapshot is open while it runs.
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
    /// [`Error::Checksum`] if a record is damaged; every error that `each` returns.
    pub fn scan(
        &mut self,
        after: Offset,
        bounds: Bounds,
        mut each: impl FnMut(Change<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<Offset> {
        let (mut last, mut entries, mut bytes) = (after, 0, 0);
        let (peers, records, skipped) = (&mut self.peers, self.records.get_mut(), &mut self.skipped);
        self.log.in_snapshot(|txn| {
            let floor = txn.floor()?;
            // Also if entries were pruned while this scan began again.
            if last < floor {
                if last == after {
                    (*skipped, last) = (*skipped + (floor.0 - after.0), floor);
                }
                return Ok(());
            }
            records.scan(txn, last.next(), |offset, Record { number, seq, entry }| {
                let peer = peers.get(number, txn)?;
                let flow = each(Change { offset, peer, seq, entry })?;
                (last, entries, bytes) = (offset, entries + 1, bytes + entry.tombstone().bytes as usize);
                let full = entries >= bounds.entries_max || bytes >= bounds.bytes_max;
                Ok(if full { ControlFlow::Break(()) } else { flow })
            })
        })?;
        Ok(last)
    }

    /// The number of pruned entries that scans have passed over since the last call.
    pub fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// Gives one change to `each` and returns its result. Returns `None` if the log does not hold the entry.
    ///
    /// # Errors
    /// As [`Reader::scan`].
    pub fn entry<T>(&mut self, peer: &str, seq: Seq, mut each: impl FnMut(Change<'_>) -> T) -> Result<Option<T>> {
        let (peers, records) = (&mut self.peers, self.records.get_mut());
        self.log.in_snapshot(|txn| {
            let Some(feed) = txn.feed(peer)? else { return Ok(None) };
            let Some(offset) = txn.offset_of(peer, feed, seq)? else { return Ok(None) };
            let given = records.get(txn, offset, |record| {
                if (record.number, record.seq) != (feed.number, seq) {
                    let peer = Printable(peer);
                    return Err(Error::Corrupt(format!("the index of {peer} points to another entry at offset {offset}")));
                }
                let peer = peers.get(record.number, txn)?;
                Ok(each(Change { offset, peer, seq, entry: record.entry }))
            });
            given.map(Some)
        })
    }
}

/// Peer ids by their peer numbers. The numbers are 0, 1, 2 …
#[derive(Default)]
pub(super) struct PeerCache {
    ids: Vec<Option<PeerId>>,
    /// The last peer with a number of [`CACHED_PEERS_MAX`] or above.
    last_other: Option<(u32, PeerId)>,
}

impl PeerCache {
    pub(super) fn get(&mut self, number: u32, txn: &ReadTxn<'_>) -> Result<&PeerId> {
        if number >= CACHED_PEERS_MAX {
            let other = self.last_other.take().filter(|(known, _)| *known == number);
            let other = other.map_or_else(|| txn.peer(number).map(|peer| (number, peer)), Ok)?;
            return Ok(&self.last_other.insert(other).1);
        }
        let index = number as usize;
        if index >= self.ids.len() {
            self.ids.resize(index + 1, None);
        }
        match &mut self.ids[index] {
            Some(known) => Ok(known),
            new => Ok(new.insert(txn.peer(number)?)),
        }
    }
}
