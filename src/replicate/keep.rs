//! The storing thread: applies batches of received changes, one commit each, and keeps account of the feeds.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::{Notice, Outcome, Shared};
use crate::entry::{Entry, Kind, PeerId, Seq, Tomb};
use crate::error::{Error, Result};
use crate::heads::{FeedKey, FeedMap};
use crate::store::{Put, Writer};

/// A batch is full at one of these.
const BATCH_CHANGES_MAX: usize = 16 << 10;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// The longest gap that is accepted: nobody deletes more one by one, and a wrong number must not fill the disk.
const GAP_ENTRIES_MAX: u32 = 1 << 20;
/// The most feeds that stop before the session does.
const STOPPED_MAX: usize = 10_000;

/// Received changes, classified and hashed.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Of each run of changes of one feed.
    peers: Vec<PeerId>,
    changes: Vec<Staged>,
}

struct Staged {
    peer: usize,
    seq: Seq,
    bytes: Range<usize>,
    kind: Kind,
    tomb: Tomb,
}

impl Batch {
    pub fn add(&mut self, peer: &PeerId, seq: Seq, bytes: &[u8]) {
        if self.peers.last() != Some(peer) {
            self.peers.push(peer.clone());
        }
        let kind = Kind::of(bytes);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let range = at..self.bytes.len();
        self.changes.push(Staged { peer: self.peers.len() - 1, seq, bytes: range, kind, tomb: Entry::Bytes(bytes, kind).tomb() });
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.changes.len() >= BATCH_CHANGES_MAX || self.bytes.len() >= BATCH_BYTES_MAX
    }

    fn clear(&mut self) {
        self.bytes.clear();
        // A large entry's memory is given back.
        self.bytes.shrink_to(2 * BATCH_BYTES_MAX);
        self.peers.clear();
        self.changes.clear();
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
    pub fn expect(&self, heads: impl Iterator<Item = (FeedKey, u32)>) {
        let mut account = self.lock();
        account.awaited = heads.collect();
        account.awaited_feeds = account.awaited.iter().count();
        self.has_all.store(account.awaited_feeds == 0, Ordering::SeqCst);
    }

    /// Whether all that was announced is stored, but for stopped feeds; false before the handshake.
    pub fn has_all(&self) -> bool {
        self.has_all.load(Ordering::SeqCst)
    }

    /// Stores a batch, durably, and empties it.
    pub fn store(&self, batch: &mut Batch) -> Result<()> {
        let mut account = self.lock();
        let mut writer = self.shared.log.writer()?;
        let (mut notices, mut stopped_enough) = (Vec::new(), Ok(()));
        // The feed in work; changes of one feed mostly follow each other.
        let mut current = (usize::MAX, FeedKey::of(""), 0, false);
        for Staged { peer: index, seq, bytes, kind, tomb } in &batch.changes {
            let peer = &batch.peers[*index];
            if current.0 != *index {
                let feed = FeedKey::of(peer.as_str());
                current = (*index, feed, account.awaited.get(feed), account.stopped.contains(&feed));
            }
            let (_, feed, awaited, is_stopped) = &mut current;
            if *is_stopped {
                continue;
            }
            let entry = Entry::Bytes(&batch.bytes[bytes.clone()], *kind);
            let mut put = writer.put(peer, *seq, entry, *tomb)?;
            if let Put::Gap(head) = put
                && self.shared.options.accept_gaps
                && seq.get() - head <= GAP_ENTRIES_MAX
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
                account.awaited.set(*feed, 0);
                account.awaited_feeds -= 1;
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
        notices.into_iter().for_each(self.shared.notify);
        stopped_enough
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

/// Stores what lies between `head` and `seq` as deleted.
fn bridge(writer: &mut Writer<'_>, peer: &PeerId, head: u32, seq: Seq) -> Result<()> {
    for hole in (head + 1..seq.get()).filter_map(|hole| Seq::new(u64::from(hole))) {
        writer.put(peer, hole, Entry::Deleted(Tomb::UNKNOWN), Tomb::UNKNOWN)?;
    }
    Ok(())
}

impl Account {
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
