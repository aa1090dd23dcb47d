//! Writing: one transaction a batch, durable before anything is acknowledged.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::xxh3_64;

use super::Log;
use super::layout::{FEEDS_MAX, FeedRow, Header, RUN_ENTRIES_MAX, Run, encode_tomb};
use super::lmdb::WriteTxn;
use super::log::{meta, own_id, root_in};
use super::read::check_record;
use super::{datafile, identity};
use crate::entry::{Chain, Entry, Offset, PeerId, Seq, Tomb};
use crate::error::{Error, Result};

/// What became of a change that was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// It is new and will be stored by the commit.
    New,
    /// It was here, with the same bytes or deleted.
    Known,
    /// Its place holds other bytes: a fork.
    Fork,
    /// It would leave a gap after this head.
    Gap(u32),
}

/// What a commit made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The offset of the last entry of the log.
    pub last_offset: Offset,
    /// How many entries are new.
    pub new: u64,
}

/// The one write transaction of a log; other writers wait while it lives. Dropped without a commit, it changes nothing.
pub struct Writer<'l> {
    log: &'l Log,
    txn: WriteTxn<'l>,
    feeds: Vec<Feed>,
    by_peer: HashMap<PeerId, usize>,
    own: Option<usize>,
    last_used: usize,
    /// Runs that are complete, not yet in the table.
    full_runs: Vec<(u32, Run)>,
    /// Feeds whose `run` is not in the table as it is.
    open_runs: Vec<usize>,
    first: Offset,
    next: Offset,
    /// Of the entries so far.
    bytes: u64,
    /// Whether something was changed beside what is new.
    changed: bool,
}

/// A feed in use by this transaction.
struct Feed {
    peer: PeerId,
    row: FeedRow,
    /// The run that the next entry may go on with.
    run: Option<Run>,
    run_open: bool,
    /// What it adds to the root that is stored.
    root_term: u128,
    changed: bool,
}

impl Log {
    /// Begins to write; waits for other writers.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn writer(&self) -> Result<Writer<'_>> {
        let txn = self.env.write()?;
        let first = txn.last_offset()?.next();
        Ok(Writer {
            log: self,
            txn,
            feeds: Vec::new(),
            by_peer: HashMap::new(),
            own: None,
            last_used: 0,
            full_runs: Vec::new(),
            open_runs: Vec::new(),
            first,
            next: first,
            bytes: 0,
            changed: false,
        })
    }
}

impl Writer<'_> {
    /// The id of the own feed.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn own_id(&self) -> Result<PeerId> {
        own_id(self.txn.meta(meta::ID)?)
    }

    /// Gives the log a new random id: what is appended from here on, by this transaction and by whoever writes after it,
    /// begins a new feed. The old feed stays, as that of another log.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn renew_id(&mut self) -> Result<PeerId> {
        let id = identity::random_id()?;
        self.txn.put_meta(meta::ID, id.as_str().as_bytes())?;
        self.own = None;
        self.changed = true;
        Ok(id)
    }

    /// Adds an entry to the own feed; `tomb` is its hash and length ([`Entry::tomb`]).
    ///
    /// # Errors
    /// [`Error::FeedFull`] after 2^32−1 entries; when the log cannot be written.
    pub fn append(&mut self, entry: Entry<'_>, tomb: Tomb) -> Result<Seq> {
        let own = match self.own {
            Some(own) => own,
            None => {
                let id = self.own_id()?;
                let own = self.feed(&id)?;
                *self.own.insert(own)
            }
        };
        let head = self.feeds[own].row.head;
        let seq = Seq::new(u64::from(head) + 1)
            .ok_or_else(|| Error::FeedFull(format!("the feed of {} is full", self.feeds[own].peer)))?;
        self.push(own, seq, entry, tomb)?;
        Ok(seq)
    }

    /// Offers a change of any feed; `tomb` is hash and length of its entry ([`Entry::tomb`]).
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn put(&mut self, peer: &PeerId, seq: Seq, entry: Entry<'_>, tomb: Tomb) -> Result<Put> {
        let Some(feed) = self.known_feed(peer)? else {
            if seq.get() != 1 {
                return Ok(Put::Gap(0));
            }
            let feed = self.feed(peer)?;
            self.push(feed, seq, entry, tomb)?;
            return Ok(Put::New);
        };
        let FeedRow { number, head, .. } = self.feeds[feed].row;
        if seq.get() <= head {
            let stored = self.stored_tomb(number, seq)?;
            let same = stored == tomb || stored == Tomb::UNKNOWN || tomb == Tomb::UNKNOWN;
            return Ok(if same { Put::Known } else { Put::Fork });
        }
        if seq.get() - head > 1 {
            return Ok(Put::Gap(head));
        }
        self.push(feed, seq, entry, tomb)?;
        Ok(Put::New)
    }

    /// Forgets the bytes of one entry; `Ok(None)` when it is not here.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn delete(&mut self, peer: &str, seq: Seq) -> Result<Option<Tomb>> {
        self.flush_runs()?;
        let Some(FeedRow { number, .. }) = self.txn.feed(peer)? else { return Ok(None) };
        let Some(offset) = self.offset_of(number, seq)? else { return Ok(None) };
        let tomb = match self.checked(offset)? {
            Entry::Deleted(tomb) => return Ok(Some(tomb)),
            entry => entry.tomb(),
        };
        let payload = encode_tomb(tomb);
        let header = Header { number, seq: seq.get(), kind: None }.encode(offset, xxh3_64(&payload));
        self.txn.replace_record(offset, &[&header[..], &payload].concat())?;
        self.changed = true;
        Ok(Some(tomb))
    }

    /// Head and chain of a feed, with what this transaction has added; those of an empty feed when it is unknown.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn feed_state(&mut self, peer: &PeerId) -> Result<(u32, Chain)> {
        let known = self.known_feed(peer)?.map(|feed| self.feeds[feed].row);
        Ok(known.map_or_else(|| (0, Chain::start(peer)), |row| (row.head, row.chain)))
    }

    /// Notes that another log holds other bytes for the entry `seq` of a feed. The lowest seq is kept, for good.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn mark_fork(&mut self, peer: &PeerId, seq: Seq) -> Result<()> {
        let key = [meta::FORK, peer.as_str()].concat();
        let known = self.txn.meta(&key)?.map(meta::fork_seq).transpose()?;
        if known.is_none_or(|known| seq < known) {
            self.txn.put_meta(&key, &seq.get().to_le_bytes())?;
            self.changed = true;
        }
        Ok(())
    }

    /// How many entries are new so far.
    pub fn new_entries(&self) -> u64 {
        self.next.0 - self.first.0
    }

    /// Makes it all durable, then wakes the readers.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::MapFull`] and others: then nothing of this transaction is stored.
    pub fn commit(self) -> Result<Committed> {
        let (log, bytes) = (self.log, self.bytes);
        let committed = self.commit_txn().map_err(|err| datafile::explain(log.dir(), err, bytes))?;
        if committed.new > 0 {
            log.bell.as_ref().map_or(Ok(()), super::bell::Bell::ring)?;
        }
        Ok(committed)
    }

    fn commit_txn(mut self) -> Result<Committed> {
        let committed = Committed { last_offset: Offset(self.next.0 - 1), new: self.new_entries() };
        if committed.new == 0 && !self.changed {
            return Ok(committed);
        }
        self.flush_runs()?;
        let mut root = root_in(&self.txn)?;
        for feed in self.feeds.iter().filter(|feed| feed.changed) {
            self.txn.put_feed(&feed.peer, &feed.row)?;
            root = root.wrapping_sub(feed.root_term).wrapping_add(feed.row.chain.root_term(&feed.peer, feed.row.head));
        }
        if committed.new > 0 {
            self.txn.put_meta(meta::ROOT, &root.to_le_bytes())?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            self.txn.put_time(self.first, u64::try_from(now).unwrap_or(u64::MAX))?;
        }
        self.txn.commit()?;
        Ok(committed)
    }

    /// The index of a feed that exists.
    fn known_feed(&mut self, peer: &PeerId) -> Result<Option<usize>> {
        // Entries of one feed mostly follow each other.
        if self.feeds.get(self.last_used).is_some_and(|feed| feed.peer == *peer) {
            return Ok(Some(self.last_used));
        }
        let found = self.find_feed(peer)?;
        self.last_used = found.unwrap_or(self.last_used);
        Ok(found)
    }

    fn find_feed(&mut self, peer: &PeerId) -> Result<Option<usize>> {
        if let Some(&feed) = self.by_peer.get(peer) {
            return Ok(Some(feed));
        }
        let Some(row) = self.txn.feed(peer.as_str())? else { return Ok(None) };
        let run = self.txn.run(row.number, u32::MAX)?;
        Ok(Some(self.use_feed(peer, row, run)))
    }

    /// The index of a feed, made if need be.
    fn feed(&mut self, peer: &PeerId) -> Result<usize> {
        if let Some(feed) = self.known_feed(peer)? {
            return Ok(feed);
        }
        let number = u32::try_from(self.txn.feed_count()?).ok().filter(|&number| number < FEEDS_MAX);
        let number = number.ok_or_else(|| Error::FeedFull("the log holds as many feeds as it can".into()))?;
        self.txn.put_number(number, peer)?;
        Ok(self.use_feed(peer, FeedRow { number, head: 0, chain: Chain::start(peer) }, None))
    }

    fn use_feed(&mut self, peer: &PeerId, row: FeedRow, run: Option<Run>) -> usize {
        let root_term = row.chain.root_term(peer, row.head);
        self.feeds.push(Feed { peer: peer.clone(), row, run, run_open: false, root_term, changed: false });
        self.by_peer.insert(peer.clone(), self.feeds.len() - 1);
        self.feeds.len() - 1
    }

    /// Stores the next entry of a feed.
    fn push(&mut self, index: usize, seq: Seq, entry: Entry<'_>, tomb: Tomb) -> Result<()> {
        self.bytes += u64::from(tomb.bytes);
        let feed = &mut self.feeds[index];
        let (offset, number) = (self.next, feed.row.number);
        match entry {
            Entry::Bytes(bytes, kind) => {
                let header = Header { number, seq: seq.get(), kind: Some(kind) }.encode(offset, tomb.hash);
                self.txn
                    .append_record(offset, &header, bytes)
                    .map_err(|err| datafile::explain(self.log.dir(), err, self.bytes))?;
            }
            Entry::Deleted(tomb) => {
                let payload = encode_tomb(tomb);
                let header = Header { number, seq: seq.get(), kind: None }.encode(offset, xxh3_64(&payload));
                self.txn.append_record(offset, &header, &payload)?;
            }
        }
        match &mut feed.run {
            Some(run) if run.count < RUN_ENTRIES_MAX && run.first_offset + u64::from(run.count) == offset.0 => run.count += 1,
            run => {
                let begun = Run { first_seq: seq.get(), first_offset: offset.0, count: 1, chain_before: feed.row.chain };
                if let Some(full) = run.replace(begun)
                    && feed.run_open
                {
                    self.full_runs.push((number, full));
                }
            }
        }
        if !std::mem::replace(&mut feed.run_open, true) {
            self.open_runs.push(index);
        }
        feed.row = FeedRow { number, head: seq.get(), chain: feed.row.chain.next(tomb) };
        feed.changed = true;
        self.next = offset.next();
        Ok(())
    }

    /// Brings all runs into the table, so that they can be looked up.
    fn flush_runs(&mut self) -> Result<()> {
        for (number, run) in self.full_runs.drain(..) {
            self.txn.put_run(number, &run)?;
        }
        for feed in self.open_runs.drain(..) {
            let feed = &mut self.feeds[feed];
            feed.run_open = false;
            if let Some(run) = &feed.run {
                self.txn.put_run(feed.row.number, run)?;
            }
        }
        Ok(())
    }

    fn offset_of(&self, number: u32, seq: Seq) -> Result<Option<Offset>> {
        Ok(self.txn.run(number, seq.get())?.and_then(|run| run.offset_of(seq.get())))
    }

    fn checked(&self, offset: Offset) -> Result<Entry<'_>> {
        let record = self.txn.record(offset)?.ok_or(Error::Checksum(offset))?;
        check_record(offset, record).map(|(_, _, entry)| entry)
    }

    /// Hash and length of an entry that is here.
    fn stored_tomb(&mut self, number: u32, seq: Seq) -> Result<Tomb> {
        self.flush_runs()?;
        let offset = self.offset_of(number, seq)?;
        let offset = offset.ok_or_else(|| Error::Corrupt(format!("entry {seq} of peer number {number} is in no run")))?;
        Ok(self.checked(offset)?.tomb())
    }
}
