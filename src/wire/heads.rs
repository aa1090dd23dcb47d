//! The heads that the remote announces, on either wire.

use crate::model::{Error, FeedKey, FeedMap, PeerChoice, Result};
use crate::wire::FEEDS_MAX;

/// The heads of the remote.
#[derive(Default, Debug)]
pub struct RemoteHeads {
    heads: FeedMap,
    /// The number of heads that came.
    count: usize,
    taken_entries: u64,
    /// The heads at which the remote has the chain of the local log, where the local side must know it.
    proved: FeedMap,
}

impl RemoteHeads {
    /// Adds a head. If a feed occurs twice, the last head counts.
    ///
    /// # Errors
    /// [`Error::Wire`] when there are more heads than a log may have feeds.
    pub fn add(&mut self, peer: &str, seq: u32, choice: &PeerChoice) -> Result<()> {
        if self.count == FEEDS_MAX {
            return Err(Error::Wire(format!("the remote names more than {FEEDS_MAX} feeds")));
        }
        self.count += 1;
        let before = self.heads.set(FeedKey::of(peer), seq);
        if choice.takes(peer) {
            self.taken_entries = self.taken_entries - u64::from(before) + u64::from(seq);
        }
        Ok(())
    }

    /// The remote has proved that it holds a feed of the local log up to `seq`.
    pub(super) fn prove(&mut self, peer: &str, seq: u32) {
        self.proved.set(FeedKey::of(peer), seq);
    }

    /// The seq up to which the remote has proved to hold a feed of the local log; 0 if it has not, or if it need not.
    pub(super) fn proved(&self, feed: FeedKey) -> u32 {
        self.proved.get(feed)
    }

    /// The head of a feed, 0 if the remote does not hold it.
    pub fn get(&self, feed: FeedKey) -> u32 {
        self.heads.get(feed)
    }

    /// Whether the remote has no feeds.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The number of feeds.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Each feed with its head.
    pub fn iter(&self) -> impl Iterator<Item = (FeedKey, u32)> {
        self.heads.iter()
    }

    /// The number of entries of all feeds that the local side takes.
    pub fn taken_entries(&self) -> u64 {
        self.taken_entries
    }
}
