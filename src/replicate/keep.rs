//! The storing thread: applies batches of received changes, one commit each, and keeps account of the feeds.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::{Notice, Outcome, Shared};
use crate::entry::{Entry, Kind, PeerId, Seq, Tomb};
use crate::error::Result;
use crate::heads::Heads;
use crate::store::Put;

/// A batch is full at one of these.
const BATCH_CHANGES_MAX: usize = 16 << 10;
const BATCH_BYTES_MAX: usize = 4 << 20;

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
    /// Feeds of which more was announced than we have: the announced head.
    awaited: HashMap<PeerId, u32>,
    /// Feeds stopped by a fork or a gap.
    stopped: HashSet<PeerId>,
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
    pub fn expect(&self, heads: impl Iterator<Item = (PeerId, u32)>) {
        let mut account = self.lock();
        account.awaited = heads.collect();
        self.has_all.store(account.awaited.is_empty(), Ordering::SeqCst);
    }

    /// Whether all that was announced is stored, but for stopped feeds; false before the handshake.
    pub fn has_all(&self) -> bool {
        self.has_all.load(Ordering::SeqCst)
    }

    /// Stores a batch, durably, and empties it.
    pub fn store(&self, batch: &mut Batch) -> Result<()> {
        let mut account = self.lock();
        let mut writer = self.shared.log.writer()?;
        // The announced head of the feed in work; changes of one feed mostly follow each other.
        let mut awaited = (usize::MAX, None);
        for Staged { peer: index, seq, bytes, kind, tomb } in &batch.changes {
            let peer = &batch.peers[*index];
            if !account.stopped.is_empty() && account.stopped.contains(peer) {
                continue;
            }
            let put = writer.put(peer, *seq, Entry::Bytes(&batch.bytes[bytes.clone()], *kind), *tomb)?;
            match put {
                Put::New | Put::Known => {
                    if awaited.0 != *index {
                        awaited = (*index, account.awaited.get(peer).copied());
                    }
                    if awaited.1.is_some_and(|head| seq.get() >= head) {
                        account.awaited.remove(peer);
                    }
                    continue;
                }
                Put::Fork => {
                    account.forks += 1;
                    (self.shared.notify)(Notice::Fork(peer.clone(), *seq));
                }
                Put::Gap(head) => {
                    account.gaps += 1;
                    (self.shared.notify)(Notice::Gap(peer.clone(), head, *seq));
                }
            }
            account.awaited.remove(peer);
            account.stopped.insert(peer.clone());
        }
        account.received += writer.commit()?.new;
        self.has_all.store(account.awaited.is_empty(), Ordering::SeqCst);
        batch.clear();
        Ok(())
    }

    /// Adds what came in to the outcome.
    pub fn account(&self, outcome: &mut Outcome) -> Result<()> {
        let mut account = self.lock();
        (outcome.forks, outcome.gaps, outcome.received) = (account.forks, account.gaps, account.received);
        if !account.awaited.is_empty() {
            let awaited: Heads = account.awaited.drain().collect();
            outcome.missing = awaited.ahead_of(&self.shared.log.heads()?);
        }
        Ok(())
    }
}
