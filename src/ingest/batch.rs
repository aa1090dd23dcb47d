//! A batch: entries that become durable in one commit.

use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;

use crate::model::{Chain, EntryBuffer, FeedKey, HashedEntry, PeerId, Seq};
use crate::store::Key;

/// A batch is full at this many entries. Larger batches would save little time.
const BATCH_ENTRIES_MAX: usize = 16 << 10;
/// A batch is full at this many bytes.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// A batch is full at this many feeds. A commit keeps each page that it changes in memory, at worst two of 4 KiB for each feed.
const BATCH_FEEDS_MAX: usize = 2048;
/// A long entry makes a larger batch. Of its memory, at most this many bytes are kept for the next batch.
const KEPT_BYTES_MAX: usize = 4 * BATCH_BYTES_MAX;

/// Entries to store, hashed and in order.
///
/// In a batch for the local feed, no entry has a target: the writer sets the seq. In all other batches, every entry has a
/// target.
#[derive(Default)]
pub struct Batch {
    /// The entries. Input is read into it.
    pub entries: EntryBuffer,
    targets: Vec<Target>,
    /// One peer for each sequence of entries of the same feed.
    peers: Vec<PeerId>,
    feeds: HashSet<FeedKey>,
    runs: Vec<Run>,
    floors: Vec<FloorTarget>,
    /// The keys of the entries, if entries that repeat are left out. `None`: the entry has no key, and never repeats.
    keys: Vec<Option<Key>>,
    /// The positions in followed files after the entries.
    positions: Vec<FollowedPath>,
    /// The length of the input of the entries in bytes, including input that is not part of an entry. For the progress display.
    pub input_bytes: u64,
}

/// The feed and the seq of an entry.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// Index in `peers`.
    pub peer: usize,
    pub seq: Seq,
    /// The input line; 0 if the input has no lines.
    pub line: u64,
}

/// A floor that another log gives for a feed.
pub(super) struct FloorTarget {
    /// The number of entries of the batch that come before it.
    pub after: usize,
    pub peer: PeerId,
    pub seq: Seq,
    /// The chain at `seq`.
    pub chain: Chain,
    /// The input line; 0 if the input has no lines.
    pub line: u64,
}

/// Consecutive entries of one feed, and the chain that the remote gives for them.
pub(super) struct Run {
    pub entries: Range<usize>,
    /// The remote's handle for the feed, to acknowledge the run.
    pub handle: u32,
    /// The chain after the last entry.
    pub chain: Chain,
}

/// The position in a followed path.
pub(super) struct FollowedPath {
    pub path: PathBuf,
    /// The row of the log before.
    pub known: Option<Vec<u8>>,
    pub row: Vec<u8>,
}

impl Batch {
    /// Sets feed and seq of the entry that was added last. `line` is its input line; 0 if the input has no lines.
    pub fn set_target(&mut self, peer: &PeerId, seq: Seq, line: u64) {
        if self.peers.last() != Some(peer) {
            self.peers.push(peer.clone());
            self.feeds.insert(FeedKey::of(peer.as_str()));
        }
        self.targets.push(Target { peer: self.peers.len() - 1, seq, line });
        debug_assert_eq!(self.targets.len(), self.entries.len(), "every entry has a target");
    }

    /// Sets the key of the entry that was added last. `None`: it has no key. With [`Applier::with_keys`](super::Applier::with_keys),
    /// call this for each entry.
    pub fn set_key(&mut self, key: Option<Key>) {
        self.keys.push(key);
        debug_assert_eq!(self.keys.len(), self.entries.len(), "every entry has a key, or none has");
    }

    /// Adds the position in a followed path after the entries so far.
    pub(super) fn set_position(&mut self, position: FollowedPath) {
        self.positions.push(position);
    }

    /// Whether the batch changes a position in a followed path.
    pub fn has_positions(&self) -> bool {
        !self.positions.is_empty()
    }

    /// Adds a floor: after the entries so far, the feed of `peer` goes on behind `seq`, where it has the chain `chain`. `line` is its
    /// input line; 0 if the input has no lines.
    pub fn push_floor(&mut self, peer: &PeerId, seq: Seq, chain: Chain, line: u64) {
        self.feeds.insert(FeedKey::of(peer.as_str()));
        self.floors.push(FloorTarget { after: self.entries.len(), peer: peer.clone(), seq, chain, line });
    }

    /// Makes a run of the last `count` entries. `chain` is the remote's chain after it.
    pub fn end_run(&mut self, count: usize, handle: u32, chain: Chain) {
        let end = self.entries.len();
        self.runs.push(Run { entries: end - count..end, handle, chain });
    }

    /// Whether the batch has no entries and no floors.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.floors.is_empty()
    }

    /// Whether the batch must be stored before more entries are added.
    pub fn is_full(&self) -> bool {
        self.feeds.len() >= BATCH_FEEDS_MAX
            || self.entries.len() + self.floors.len() >= BATCH_ENTRIES_MAX
            || self.entries.input().len() >= BATCH_BYTES_MAX
    }

    /// Whether the batch holds a long entry. To limit the memory, only one such batch may be in the pipeline.
    pub fn is_large(&self) -> bool {
        self.entries.input().len() > KEPT_BYTES_MAX
    }

    /// Empties the batch, so that it can be used again.
    pub fn clear(&mut self) {
        self.entries.clear(KEPT_BYTES_MAX);
        self.targets.clear();
        self.peers.clear();
        self.feeds.clear();
        self.runs.clear();
        self.floors.clear();
        self.keys.clear();
        self.positions.clear();
        self.input_bytes = 0;
    }

    pub(super) fn peer(&self, target: Target) -> &PeerId {
        &self.peers[target.peer]
    }

    /// The entries in `range` with their targets. Not for a batch of the local feed.
    pub(super) fn targeted(&self, range: Range<usize>) -> impl Iterator<Item = (Target, HashedEntry<'_>)> {
        range.map(|index| (self.targets[index], self.entries.get(index)))
    }

    pub(super) fn targets(&self) -> &[Target] {
        &self.targets
    }

    pub(super) fn positions(&self) -> &[FollowedPath] {
        &self.positions
    }

    /// The keys of the entries, if they have keys.
    pub(super) fn keys(&self) -> &[Option<Key>] {
        &self.keys
    }

    pub(super) fn floors(&self) -> &[FloorTarget] {
        &self.floors
    }

    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }
}
