//! Writes many entries in one transaction. It is durable before any of them is acknowledged.

use std::collections::HashMap;

use super::Log;
use super::clock::now_millis;
use super::files::place::{Place, StoredPlace};
use super::files::{identity, space};
use super::lmdb::WriteTxn;
use super::records::{Record, Records, encode_record};
use super::rows::{FeedRow, FloorRow, RUN_ENTRIES_MAX, RunRow};
use crate::model::{Chain, Entry, Error, FEEDS_MAX, HashedEntry, Offset, PeerId, Result, Seq, Tombstone};

/// The result of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The offset of the last entry of the log.
    pub last_offset: Offset,
    /// The number of new entries.
    pub new: u64,
}

/// The write transaction of a log. Other writers wait while it exists. If it is dropped without a commit, it changes nothing.
pub struct Writer<'l> {
    pub(super) log: &'l Log,
    pub(super) txn: WriteTxn<'l>,
    records: Records,
    /// The feeds that this transaction has used.
    feeds: Vec<UsedFeed>,
    index_of: HashMap<PeerId, usize>,
    /// Index of the local feed.
    local: Option<usize>,
    /// Index of the feed that was looked up last.
    last_used: usize,
    /// Complete runs that are not in the table yet, with their peer numbers.
    full_runs: Vec<(u32, RunRow)>,
    /// Indexes of the feeds whose `run` differs from the table.
    unsaved_runs: Vec<usize>,
    /// The offset of the first new entry.
    first_offset: Offset,
    /// The offset of the next entry.
    next_offset: Offset,
    /// Bytes of the new entries.
    pub(super) entry_bytes: u64,
    /// Bytes of other new or changed rows, if there can be many.
    pub(super) other_bytes: u64,
    /// Whether anything other than new entries was changed.
    pub(super) changed: bool,
}

/// A feed as this transaction has changed it.
struct UsedFeed {
    peer: PeerId,
    row: FeedRow,
    /// The last run.
    run: Option<RunRow>,
    run_is_unsaved: bool,
    /// The term of the feed in the root that is stored.
    root_term: u128,
    changed: bool,
}

impl Log {
    /// Begins a write transaction. Waits until other writers have ended their transactions.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn writer(&self) -> Result<Writer<'_>> {
        let txn = self.env.write()?;
        if let Some(notifier) = &self.notifier {
            self.check_commits(notifier.last_commit()?, self.env.newest_txn()?)?;
        }
        let first_offset = txn.last_offset()?.next();
        Ok(Writer {
            log: self,
            txn,
            records: Records::new(self.dir()),
            feeds: Vec::new(),
            index_of: HashMap::new(),
            local: None,
            last_used: 0,
            full_runs: Vec::new(),
            unsaved_runs: Vec::new(),
            first_offset,
            next_offset: first_offset,
            entry_bytes: 0,
            other_bytes: 0,
            changed: false,
        })
    }
}

impl Writer<'_> {
    /// The log's current peer id, which names its local feed.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn local_id(&self) -> Result<PeerId> {
        self.txn.local_id()
    }

    /// Gives the log a new id: `NAME~` and six random characters for an id that a user chose, else a random id. All later
    /// entries, of this transaction and of other writers, are appended to a new feed. The old feed stays as a feed of another
    /// peer.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn renew_id(&mut self) -> Result<PeerId> {
        let old = self.local_id()?;
        loop {
            let id = identity::next_id(&old)?;
            if id != old && !self.txn.has_number(&id)? {
                self.set_local_id(&id)?;
                return Ok(id);
            }
        }
    }

    /// Gives the log the id `id`, as [`Writer::renew_id`]. Does nothing if this is its id.
    ///
    /// # Errors
    /// [`Error::KnownPeer`] if the log holds a feed of this peer: its next seq may be in use elsewhere. When the log cannot be
    /// written.
    pub fn set_id(&mut self, id: &PeerId) -> Result<()> {
        if self.local_id()? == *id {
            return Ok(());
        }
        if self.txn.has_number(id)? {
            return Err(Error::KnownPeer(id.clone()));
        }
        self.set_local_id(id)
    }

    fn set_local_id(&mut self, id: &PeerId) -> Result<()> {
        self.txn.set_local_id(id)?;
        self.local = None;
        self.changed = true;
        Ok(())
    }

    /// Stores `place` as the place where the log lives.
    pub(super) fn set_place(&mut self, place: Place) -> Result<()> {
        self.txn.set_place(place)?;
        self.changed = true;
        Ok(())
    }

    /// The place that the log has stored.
    pub(super) fn stored_place(&self) -> Result<Option<StoredPlace>> {
        self.txn.place()
    }

    /// Adds an entry to the local feed and returns its seq.
    ///
    /// # Errors
    /// [`Error::FeedFull`] after 2^32−1 entries; when the log cannot be written.
    pub fn append(&mut self, entry: HashedEntry<'_>) -> Result<Seq> {
        let local = match self.local {
            Some(local) => local,
            None => {
                let id = self.local_id()?;
                if self.find_feed(&id)?.is_none() && self.txn.has_number(&id)? {
                    // It would begin at seq 1 again.
                    return Err(Error::Corrupt(format!("the head of the local feed {id} is missing")));
                }
                let local = self.find_or_add_feed(&id)?;
                *self.local.insert(local)
            }
        };
        self.push_to(local, entry)
    }

    /// Adds an entry to a feed and returns its seq. The seq is one above the head, so a feed never gets a gap.
    ///
    /// # Errors
    /// As [`Writer::append`].
    pub fn push(&mut self, peer: &PeerId, entry: HashedEntry<'_>) -> Result<Seq> {
        let feed = self.find_or_add_feed(peer)?;
        self.push_to(feed, entry)
    }

    /// Hash and length of an entry, also if it is deleted.
    ///
    /// # Errors
    /// When the log cannot be read, or does not hold the entry.
    pub fn tombstone_of(&mut self, peer: &PeerId, seq: Seq) -> Result<Tombstone> {
        let feed = self.find_feed(peer)?.map(|feed| self.feeds[feed].row);
        let row = feed.ok_or_else(|| Error::Corrupt(format!("the log has no feed {peer}")))?;
        self.save_runs()?;
        let offset = self.txn.offset_of(peer.as_str(), row, seq)?;
        let offset = offset.ok_or_else(|| Error::Corrupt(format!("the log has no entry {seq} of {peer}")))?;
        self.records.get(&self.txn, offset, |record| Ok(record.entry.tombstone()))
    }

    /// Deletes the bytes of one entry and returns its hash and length. Returns `None` if the log does not hold the entry.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn delete(&mut self, peer: &str, seq: Seq) -> Result<Option<Tombstone>> {
        self.save_runs()?;
        let Some(feed) = PeerId::new(peer).ok().map(|peer| self.find_feed(&peer)).transpose()?.flatten() else { return Ok(None) };
        let row = self.feeds[feed].row;
        let Some(offset) = self.txn.offset_of(peer, row, seq)? else { return Ok(None) };
        let entry = |record: Record<'_>| Ok((record.entry.tombstone(), matches!(record.entry.entry(), Entry::Deleted(_))));
        let (tombstone, is_deleted) = self.records.get(&self.txn, offset, entry)?;
        if is_deleted {
            return Ok(Some(tombstone));
        }
        if offset <= self.txn.sealed_end()? {
            self.txn.set_deleted(offset, tombstone)?;
        } else {
            self.replace(offset, row.number, seq, HashedEntry::deleted(tombstone))?;
        }
        self.changed = true;
        Ok(Some(tombstone))
    }

    /// Replaces the record of an entry, which is damaged or now deleted. The caller has compared the chain. Returns the length of the
    /// record.
    pub(super) fn replace(&mut self, offset: Offset, number: u32, seq: Seq, entry: HashedEntry<'_>) -> Result<usize> {
        let record = encode_record(offset, number, seq, entry, |header, payload| [&header[..], payload].concat());
        self.txn.replace_record(offset, &record)?;
        self.changed = true;
        Ok(record.len())
    }

    /// Head and chain of a feed, including the entries that this transaction has added. An unknown feed has head 0.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn feed_state(&mut self, peer: &PeerId) -> Result<(u32, Chain)> {
        let known = self.find_feed(peer)?.map(|feed| self.feeds[feed].row);
        Ok(known.map_or_else(|| (0, Chain::start(peer)), |row| (row.head, row.chain)))
    }

    /// The floor of a feed, 0 if there is none.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn floor_of(&mut self, peer: &PeerId) -> Result<u32> {
        Ok(self.find_feed(peer)?.map_or(0, |feed| self.feeds[feed].row.floor_seq()))
    }

    /// Begins a feed anew at a floor that another log gave: its next entry is `seq` + 1. `chain` is the chain at `seq`. The entries
    /// between the head and `seq` will never be in this log.
    ///
    /// # Errors
    /// When the log cannot be written.
    ///
    /// # Panics
    /// If `seq` is not above the head.
    pub fn set_floor(&mut self, peer: &PeerId, seq: Seq, chain: Chain) -> Result<()> {
        let feed = self.find_or_add_feed(peer)?;
        let feed = &mut self.feeds[feed];
        assert!(seq.get() > feed.row.head, "a floor that is not above the head");
        let skipped = feed.row.skipped() + (seq.get() - feed.row.head);
        let floor = FloorRow { seq: seq.get(), skipped, chain };
        feed.row = FeedRow { head: seq.get(), chain, floor: Some(floor), ..feed.row };
        (feed.changed, self.changed) = (true, true);
        Ok(())
    }

    /// Records a fork: another log holds different bytes for the entry `seq` of the feed. Of several marks, the lowest seq is
    /// kept until [`Writer::clear_fork`].
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn mark_fork(&mut self, peer: &PeerId, seq: Seq) -> Result<()> {
        let known = self.txn.fork(peer)?;
        if known.is_none_or(|known| seq < known) {
            self.txn.set_fork(peer, Some(seq))?;
            self.changed = true;
        }
        Ok(())
    }

    /// Clears the fork mark of a feed. Returns the seq that was marked, or `None` if there was no mark.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn clear_fork(&mut self, peer: &PeerId) -> Result<Option<Seq>> {
        let known = self.txn.fork(peer)?;
        if known.is_some() {
            self.txn.set_fork(peer, None)?;
            self.changed = true;
        }
        Ok(known)
    }

    /// The number of new entries so far.
    pub fn new_entries(&self) -> u64 {
        self.next_offset.0 - self.first_offset.0
    }

    /// Makes the transaction durable, then wakes the live readers.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::MapFull`] and others if the log cannot be written: nothing of this transaction is stored.
    pub fn commit(self) -> Result<Committed> {
        let (log, entry_bytes) = (self.log, self.entry_bytes);
        let committed = Committed { last_offset: Offset(self.next_offset.0 - 1), new: self.new_entries() };
        if committed.new == 0 && !self.changed {
            return Ok(committed);
        }
        let number = self.commit_txn(committed).map_err(|err| space::explain_failed_write(log.dir(), err, entry_bytes))?;
        // The transaction is durable: from here on nothing may fail, because the caller would store the entries again.
        if let Some(notifier) = &log.notifier {
            notifier.notify(number);
        }
        Ok(committed)
    }

    /// Makes the transaction durable and returns its number.
    fn commit_txn(mut self, committed: Committed) -> Result<u64> {
        self.save_runs()?;
        let mut root = self.txn.root()?;
        let before = root;
        for feed in self.feeds.iter().filter(|feed| feed.changed) {
            self.txn.set_feed(&feed.peer, &feed.row)?;
            root = root.wrapping_sub(feed.root_term).wrapping_add(feed.row.chain.root_term(&feed.peer, feed.row.head));
        }
        if root != before {
            self.txn.set_root(root)?;
        }
        if committed.new > 0 {
            self.txn.append_time(self.first_offset, now_millis())?;
        }
        // At most two pages for the bytes of one, four changed pages for each feed, and two pages for a row of keys.
        let pages_bytes = 2 * self.entry_bytes + 8 * self.other_bytes + self.feeds.len() as u64 * (16 << 10);
        self.log.env.commit(self.txn, pages_bytes)
    }

    /// The index of a feed, or `None` if it is unknown.
    fn find_feed(&mut self, peer: &PeerId) -> Result<Option<usize>> {
        // Successive entries usually belong to the same feed.
        if self.feeds.get(self.last_used).is_some_and(|feed| feed.peer == *peer) {
            return Ok(Some(self.last_used));
        }
        let found = match self.index_of.get(peer) {
            Some(&feed) => Some(feed),
            None => self.load_feed(peer)?,
        };
        self.last_used = found.unwrap_or(self.last_used);
        Ok(found)
    }

    fn load_feed(&mut self, peer: &PeerId) -> Result<Option<usize>> {
        let Some(row) = self.txn.feed(peer.as_str())? else { return Ok(None) };
        let run = self.txn.run(row.number, u32::MAX)?;
        Ok(Some(self.use_feed(peer, row, run)))
    }

    /// The index of a feed. An unknown feed gets a peer number.
    fn find_or_add_feed(&mut self, peer: &PeerId) -> Result<usize> {
        if let Some(feed) = self.find_feed(peer)? {
            return Ok(feed);
        }
        let number = u32::try_from(self.txn.feed_count()?).ok().filter(|&number| number < FEEDS_MAX);
        let number = number.ok_or_else(|| Error::FeedFull(format!("the log already holds {FEEDS_MAX} feeds")))?;
        self.txn.set_number(number, peer)?;
        Ok(self.use_feed(peer, FeedRow { number, head: 0, chain: Chain::start(peer), floor: None }, None))
    }

    fn use_feed(&mut self, peer: &PeerId, row: FeedRow, run: Option<RunRow>) -> usize {
        let root_term = row.chain.root_term(peer, row.head);
        self.feeds.push(UsedFeed { peer: peer.clone(), row, run, run_is_unsaved: false, root_term, changed: false });
        self.index_of.insert(peer.clone(), self.feeds.len() - 1);
        self.feeds.len() - 1
    }

    /// Adds the next entry of the feed with this index.
    fn push_to(&mut self, index: usize, entry: HashedEntry<'_>) -> Result<Seq> {
        let tombstone = entry.tombstone();
        self.entry_bytes += u64::from(tombstone.bytes);
        let feed = &mut self.feeds[index];
        let seq = Seq::new(u64::from(feed.row.head) + 1);
        let seq = seq.ok_or_else(|| Error::FeedFull(format!("the feed of {} is full", feed.peer)))?;
        let (offset, number) = (self.next_offset, feed.row.number);
        let txn = &mut self.txn;
        let appended = encode_record(offset, number, seq, entry, |header, payload| txn.append_record(offset, header, payload));
        appended.map_err(|err| space::explain_failed_write(self.log.dir(), err, self.entry_bytes))?;
        if let Some(full) = feed.extend_run(seq, offset) {
            self.full_runs.push((number, full));
        }
        if !std::mem::replace(&mut feed.run_is_unsaved, true) {
            self.unsaved_runs.push(index);
        }
        feed.row = FeedRow { head: seq.get(), chain: feed.row.chain.next(tombstone), ..feed.row };
        feed.changed = true;
        self.next_offset = offset.next();
        Ok(seq)
    }

    /// Writes all runs to the table, so that they can be looked up.
    fn save_runs(&mut self) -> Result<()> {
        for (number, run) in self.full_runs.drain(..) {
            self.txn.set_run(number, &run)?;
        }
        for feed in self.unsaved_runs.drain(..) {
            let feed = &mut self.feeds[feed];
            feed.run_is_unsaved = false;
            if let Some(run) = &feed.run {
                self.txn.set_run(feed.row.number, run)?;
            }
        }
        Ok(())
    }
}

impl UsedFeed {
    /// Adds an entry to the last run, or starts a new run with it. Returns the previous run if it must still be saved.
    fn extend_run(&mut self, seq: Seq, offset: Offset) -> Option<RunRow> {
        match &mut self.run {
            Some(run)
                if run.count < RUN_ENTRIES_MAX
                    && run.first_offset + u64::from(run.count) == offset.0
                    && run.first_seq + run.count == seq.get() =>
            {
                run.count += 1;
                None
            }
            run => {
                let started = RunRow { first_seq: seq.get(), first_offset: offset.0, count: 1, chain_before: self.row.chain };
                run.replace(started).filter(|_| self.run_is_unsaved)
            }
        }
    }
}
