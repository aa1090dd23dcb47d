//! The storing thread: applies batches of received changes, one commit each, and keeps account of the feeds.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::shared::Shared;
use super::{Notice, Outcome, Step};
use crate::entry::{Chain, Entry, Kind, PeerId, Seq, Tomb};
use crate::error::{Error, Result};
use crate::heads::{FeedKey, FeedMap};
use crate::proto::{Difference, Run, damaged};
use crate::store::{Put, Writer};

/// A batch is full at one of these.
const BATCH_CHANGES_MAX: usize = 16 << 10;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// A large entry makes a batch of more; more memory than this is not kept for the next one.
const KEPT_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;
/// The longest gap that is accepted: nobody deletes more one by one, and a wrong number must not fill the disk.
pub const GAP_ENTRIES_MAX: u32 = 1 << 20;
/// The most feeds that stop before the session does.
const STOPPED_MAX: usize = 10_000;

/// Received changes, classified and hashed.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Of each stretch of changes of one feed.
    peers: Vec<PeerId>,
    changes: Vec<Staged>,
    /// On the native wire: all changes belong to one.
    runs: Vec<StagedRun>,
}

struct Staged {
    peer: usize,
    seq: Seq,
    bytes: Range<usize>,
    /// `None`: deleted.
    kind: Option<Kind>,
    tomb: Tomb,
}

/// Changes of one feed that follow each other.
struct StagedRun {
    handle: u32,
    changes: Range<usize>,
    /// After the last one.
    chain: Chain,
}

impl Batch {
    pub fn add(&mut self, peer: &PeerId, seq: Seq, bytes: &[u8]) {
        self.add_entry(peer, seq, Entry::new(bytes));
    }

    pub fn add_run(&mut self, peer: &PeerId, run: &Run<'_>) {
        let at = self.changes.len();
        for (seq, entry) in (u64::from(run.first.get())..).map_while(Seq::new).zip(run.entries()) {
            self.add_entry(peer, seq, entry);
        }
        self.runs.push(StagedRun { handle: run.handle, changes: at..self.changes.len(), chain: run.chain });
    }

    fn add_entry(&mut self, peer: &PeerId, seq: Seq, entry: Entry<'_>) {
        if self.peers.last() != Some(peer) {
            self.peers.push(peer.clone());
        }
        let (bytes, kind) = match entry {
            Entry::Bytes(bytes, kind) => (bytes, Some(kind)),
            Entry::Deleted(_) => (&[][..], None),
        };
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let range = at..self.bytes.len();
        self.changes.push(Staged { peer: self.peers.len() - 1, seq, bytes: range, kind, tomb: entry.tomb() });
    }

    fn entry(&self, staged: &Staged) -> Entry<'_> {
        match staged.kind {
            Some(kind) => Entry::Bytes(&self.bytes[staged.bytes.clone()], kind),
            None => Entry::Deleted(staged.tomb),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.changes.len() >= BATCH_CHANGES_MAX || self.bytes.len() >= BATCH_BYTES_MAX
    }

    /// Whether there is a large entry in it.
    pub fn is_large(&self) -> bool {
        self.bytes.len() > KEPT_BYTES_MAX
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        self.peers.clear();
        self.changes.clear();
        self.runs.clear();
    }
}

/// What is awaited, and what has come of it.
pub struct Keeper<'a> {
    shared: &'a Shared<'a>,
    account: Mutex<Account>,
    has_all: AtomicBool,
}

#[derive(Default)]
struct Account {
    /// Feeds of which more was announced than we have: the announced head, 0 once it is here.
    awaited: FeedMap,
    /// How many of them are not 0.
    awaited_feeds: usize,
    /// Feeds stopped by a fork or a gap.
    stopped: HashSet<FeedKey>,
    /// Feeds whose entries do not go on from here: to be seen whether that is a fork.
    doubted: HashSet<FeedKey>,
    /// Our own feed, if the other side holds more of it, and up to where; to be told once that is no fork.
    behind: Option<(PeerId, u32)>,
    forks: u64,
    gaps: u64,
    received: u64,
}

impl<'a> Keeper<'a> {
    pub fn new(shared: &'a Shared<'a>) -> Self {
        Self { shared, account: Mutex::default(), has_all: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The other side has announced this much that we lack.
    pub fn expect(&self, mut heads: Vec<(FeedKey, u32)>) {
        let mut account = self.lock();
        // Of a feed that was stopped before all heads had come, nothing will.
        heads.retain(|(feed, _)| !account.stopped.contains(feed));
        account.awaited = FeedMap::from(heads);
        account.awaited_feeds = account.awaited.iter().count();
        self.has_all.store(account.awaited_feeds == 0, Ordering::SeqCst);
    }

    /// The other side holds more of our own feed than we do.
    pub fn behind(&self, own: PeerId, seq: u32) {
        self.lock().behind = Some((own, seq));
    }

    /// Whether all that was announced is stored, but for stopped feeds; false before the handshake.
    pub fn has_all(&self) -> bool {
        self.has_all.load(Ordering::SeqCst)
    }

    /// Nothing of this feed is awaited any longer.
    pub fn stop(&self, difference: &Difference) {
        let feed = FeedKey::of(difference.peer.as_str());
        let mut account = self.lock();
        account.arrived(feed);
        if account.stopped.insert(feed) {
            *if difference.is_hole { &mut account.gaps } else { &mut account.forks } += 1;
        }
        self.has_all.store(account.awaited_feeds == 0, Ordering::SeqCst);
    }

    /// Stores a batch, durably, and empties it.
    pub fn store(&self, batch: &mut Batch) -> Result<()> {
        let moved = Step::Moved { entries: batch.changes.len() as u64, bytes: batch.bytes.len() as u64 };
        let stored = if batch.runs.is_empty() { self.store_changes(batch) } else { self.store_runs(batch) };
        self.shared.step(moved);
        stored
    }

    /// On the native wire.
    fn store_runs(&self, batch: &mut Batch) -> Result<()> {
        let mut account = self.lock();
        let mut writer = self.shared.log.writer()?;
        let (mut places, mut forks, mut doubts) = (Vec::new(), Vec::new(), Vec::new());
        let (mut behind, mut damaged) = (None, Ok(()));
        for run in &batch.runs {
            let changes = &batch.changes[run.changes.clone()];
            let (Some(first), Some(last)) = (changes.first(), changes.last()) else { continue };
            let peer = &batch.peers[first.peer];
            let feed = FeedKey::of(peer.as_str());
            if account.stopped.contains(&feed) || account.doubted.contains(&feed) {
                continue;
            }
            match put_run(&mut writer, batch, run, peer) {
                Ok(PutRun::Stored) => {
                    places.push((run.handle, last.seq.get()));
                    behind = behind.or_else(|| account.behind.take_if(|(own, _)| own == peer));
                    if account.awaited.get(feed) <= last.seq.get() {
                        account.arrived(feed);
                    }
                }
                Ok(PutRun::Fork(seq)) => {
                    account.stopped.insert(feed);
                    account.forks += 1;
                    account.arrived(feed);
                    forks.push((peer.clone(), seq));
                }
                Ok(PutRun::Doubt(head)) => {
                    account.doubted.insert(feed);
                    doubts.push((peer.clone(), head));
                }
                Err(err @ Error::Wire(_)) => {
                    damaged = Err(err);
                    break;
                }
                Err(err) => return Err(err),
            }
        }
        let new = writer.commit()?.new;
        account.received += new;
        self.has_all.store(account.awaited_feeds == 0, Ordering::SeqCst);
        drop(account);
        let (mut found, mut asked) = (Vec::new(), Ok(()));
        {
            let (mut link, mut chain_of) = (self.shared.link(), self.shared.chain_of());
            // Before the end of the session may be said.
            for (peer, seq) in forks {
                match link.forked(peer.as_str(), seq, &mut chain_of) {
                    Ok(fork) => found.extend(fork),
                    Err(err) => asked = Err(err),
                }
            }
            for (peer, head) in doubts {
                asked = asked.and(link.doubt(peer.as_str(), head, &mut chain_of));
            }
            asked = asked.and(damaged);
            // Only now are they on disk, and may be acknowledged. After an error there is no end but that.
            let runs = if asked.is_ok() { batch.runs.len() as u64 } else { 0 };
            link.stored(runs, new, places);
        }
        batch.clear();
        self.shared.wake();
        if let Some((own, seq)) = behind {
            (self.shared.notify)(Notice::Behind(own, seq));
        }
        self.shared.tell_differences(found).and(asked)
    }

    /// On the original's wire.
    fn store_changes(&self, batch: &mut Batch) -> Result<()> {
        let mut account = self.lock();
        let mut writer = self.shared.log.writer()?;
        let (mut notices, mut stopped_enough) = (Vec::new(), Ok(()));
        // The feed in work; changes of one feed mostly follow each other.
        let mut current = (usize::MAX, FeedKey::of(""), 0, false);
        for staged @ Staged { peer: index, seq, tomb, .. } in &batch.changes {
            let peer = &batch.peers[*index];
            if current.0 != *index {
                let feed = FeedKey::of(peer.as_str());
                current = (*index, feed, account.awaited.get(feed), account.stopped.contains(&feed));
            }
            let (_, feed, awaited, is_stopped) = &mut current;
            if *is_stopped {
                continue;
            }
            let entry = batch.entry(staged);
            let mut put = writer.put(peer, *seq, entry, *tomb)?;
            if let Put::Gap(head) = put
                && self.shared.options.accept_gaps
                && seq.get() - head - 1 <= GAP_ENTRIES_MAX
            {
                bridge(&mut writer, peer, head, *seq)?;
                put = writer.put(peer, *seq, entry, *tomb)?;
            }
            let notice = match put {
                Put::New | Put::Known => None,
                Put::Fork => Some(Notice::Fork(peer.clone(), *seq)),
                Put::Gap(head) => Some(Notice::Gap(peer.clone(), head, *seq)),
            };
            if *awaited > 0 && (notice.is_some() || seq.get() >= *awaited) {
                account.arrived(*feed);
                *awaited = 0;
            }
            if let Some(notice) = notice {
                *is_stopped = true;
                stopped_enough = account.stop(*feed, &notice);
                notices.push(notice);
                if stopped_enough.is_err() {
                    break;
                }
            }
        }
        account.received += writer.commit()?.new;
        self.has_all.store(account.awaited_feeds == 0, Ordering::SeqCst);
        batch.clear();
        drop(account);
        // Told only now: whoever is told may take his time, and must not hold up other writers.
        let mut forks = Vec::new();
        for notice in notices {
            match notice {
                Notice::Fork(peer, seq) => {
                    // Nothing more is sent of it: over there our entries would go on from others.
                    self.shared.remote().raise(FeedKey::of(peer.as_str()), u32::MAX);
                    forks.push(Difference { peer, seq, is_hole: false });
                }
                notice => (self.shared.notify)(notice),
            }
        }
        self.shared.tell_differences(forks).and(stopped_enough)
    }

    /// Adds what came in to the outcome.
    pub fn account(&self, outcome: &mut Outcome) -> Result<()> {
        let account = self.lock();
        (outcome.forks, outcome.gaps, outcome.received) = (account.forks, account.gaps, account.received);
        if account.awaited_feeds > 0 {
            let mut missing: u64 = account.awaited.iter().map(|(_, head)| u64::from(head)).sum();
            self.shared.log.each_head(|peer, head| missing -= u64::from(head.min(account.awaited.get(FeedKey::of(peer)))))?;
            outcome.missing = missing;
        }
        Ok(())
    }
}

/// What became of a run.
enum PutRun {
    Stored,
    /// The first entry that differs from the one here.
    Fork(Seq),
    /// It does not go on from our entry of this seq: it was damaged, or the feeds differ up to there already.
    Doubt(u32),
}

/// Stores a run, if it goes on from what is here.
///
/// The chain after it is computed anew: this is the check that what was read there is what is stored here.
fn put_run(writer: &mut Writer<'_>, batch: &Batch, run: &StagedRun, peer: &PeerId) -> Result<PutRun> {
    let changes = &batch.changes[run.changes.clone()];
    let (head, mut chain) = writer.feed_state(peer)?;
    let known = changes.partition_point(|change| change.seq.get() <= head);
    for change in &changes[..known] {
        if writer.put(peer, change.seq, batch.entry(change), change.tomb)? == Put::Fork {
            return Ok(PutRun::Fork(change.seq));
        }
    }
    let new = &changes[known..];
    if let Some(first) = new.first()
        && first.seq.get() != head + 1
    {
        return Err(Error::Wire(format!("entry {} of {peer} came after {head}: run it again", first.seq)));
    }
    for change in new {
        chain = chain.next(change.tomb);
    }
    if !new.is_empty() && chain != run.chain {
        return if head == 0 { Err(damaged(peer.as_str())) } else { Ok(PutRun::Doubt(head)) };
    }
    for change in new {
        writer.put(peer, change.seq, batch.entry(change), change.tomb)?;
    }
    Ok(PutRun::Stored)
}

/// Stores what lies between `head` and `seq` as deleted.
fn bridge(writer: &mut Writer<'_>, peer: &PeerId, head: u32, seq: Seq) -> Result<()> {
    for hole in (head + 1..seq.get()).filter_map(|hole| Seq::new(u64::from(hole))) {
        writer.put(peer, hole, Entry::Deleted(Tomb::UNKNOWN), Tomb::UNKNOWN)?;
    }
    Ok(())
}

impl Account {
    /// All that was awaited of this feed is here, or will not come.
    fn arrived(&mut self, feed: FeedKey) {
        if self.awaited.get(feed) > 0 {
            self.awaited.set(feed, 0);
            self.awaited_feeds -= 1;
        }
    }

    fn stop(&mut self, feed: FeedKey, notice: &Notice) -> Result<()> {
        match notice {
            Notice::Fork(..) => self.forks += 1,
            _ => self.gaps += 1,
        }
        if self.stopped.len() == STOPPED_MAX {
            return Err(Error::Wire(format!("more than {STOPPED_MAX} feeds with a fork or a gap: this is not the same data")));
        }
        self.stopped.insert(feed);
        Ok(())
    }
}
