//! A limit for what one session stores, so that a remote cannot fill the log.

use crate::model::{Entry, Error, HashedEntry, PeerId, Result, Seq};

/// The default of [`Quota::feeds`]. A log seldom gets more new feeds at once than this; a remote that invents feeds needs many
/// sessions to fill a log, and each of them ends with an error.
pub const NEW_FEEDS_MAX: u64 = 100_000;

/// A limit for what one session stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// The number of new feeds.
    pub feeds: u64,
    /// The bytes of all new entries together. An empty or deleted entry counts as one byte.
    pub bytes: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { feeds: NEW_FEEDS_MAX, bytes: u64::MAX }
    }
}

impl Quota {
    /// No limit.
    pub const NONE: Self = Self { feeds: u64::MAX, bytes: u64::MAX };
}

/// A quota, and how much of it is used.
pub struct Used {
    quota: Quota,
    used: Quota,
}

impl Used {
    /// Nothing of `quota` is used.
    pub fn new(quota: Quota) -> Self {
        Self { quota, used: Quota { feeds: 0, bytes: 0 } }
    }

    /// Uses the quota for an entry that will be stored as the next one of its feed. `head` is the head of the feed before.
    ///
    /// # Errors
    /// [`Error::FeedsRefused`] or [`Error::BytesRefused`] if the entry exceeds the quota. Then nothing is used.
    pub fn take(&mut self, peer: &PeerId, head: u32, seq: Seq, entry: HashedEntry<'_>) -> Result<()> {
        let entry_bytes = if let Entry::Bytes(bytes, _) = entry.entry() { bytes.len() as u64 } else { 0 };
        // A gap before it is filled with deleted entries.
        let gap_entries = u64::from(seq.get() - head - 1);
        self.add(peer, head, seq, entry_bytes.max(1) + gap_entries)
    }

    /// Uses the quota for a floor at `seq`. `head` is the head of the feed before. It counts as one byte.
    ///
    /// # Errors
    /// As [`Used::take`].
    pub fn take_floor(&mut self, peer: &PeerId, head: u32, seq: Seq) -> Result<()> {
        self.add(peer, head, seq, 1)
    }

    fn add(&mut self, peer: &PeerId, head: u32, seq: Seq, bytes: u64) -> Result<()> {
        let feeds = self.used.feeds + u64::from(head == 0);
        let bytes = self.used.bytes.saturating_add(bytes);
        if feeds > self.quota.feeds {
            return Err(Error::FeedsRefused(peer.clone(), self.quota.feeds));
        }
        if bytes > self.quota.bytes {
            return Err(Error::BytesRefused(peer.clone(), seq, self.quota.bytes));
        }
        self.used = Quota { feeds, bytes };
        Ok(())
    }
}
