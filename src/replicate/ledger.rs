//! The entries that the remote announced, and the feeds that are complete or stopped. Only the receiving thread uses it.

use std::collections::HashSet;

use crate::model::{Error, FeedKey, FeedMap, PeerId, Result};
use crate::store::Log;

/// The session ends when more feeds than this are stopped.
const STOPPED_MAX: usize = 10_000;

#[derive(Default)]
pub struct Ledger {
    /// The feeds with an announced head above the local head: the announced head, or 0 once it is reached or the feed is
    /// stopped.
    awaited: FeedMap,
    /// The number of heads in `awaited` that are not 0; `None` before the remote has announced its heads.
    awaited_feeds: Option<usize>,
    /// The modes do not let the remote send the entries in `awaited`.
    is_refused: bool,
    stopped: HashSet<FeedKey>,
    /// The local feed and the remote's head of it, if the remote's head is above the local head. It is reported when the first
    /// entry has come back: then it is known not to be a fork.
    behind: Option<(PeerId, u32)>,
    /// The number of entries that were stored.
    pub received: u64,
    /// The number of feeds that a fork has stopped.
    pub forks: u64,
    /// The number of feeds that a gap or an unknown tombstone has stopped.
    pub gaps: u64,
}

/// How the report counts a stopped feed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StopKind {
    Fork,
    Gap,
}

impl Ledger {
    /// The remote has announced all its heads. `heads` are those that are above the local heads. `receives`: the modes let the
    /// remote send entries.
    pub fn expect(&mut self, mut heads: Vec<(FeedKey, u32)>, receives: bool) {
        // A feed may have been stopped before all heads had come.
        heads.retain(|(feed, _)| !self.stopped.contains(feed));
        self.awaited = FeedMap::from(heads);
        self.awaited_feeds = Some(self.awaited.iter().count());
        self.is_refused = !receives;
    }

    /// The remote holds the local feed up to `seq`, which is above the local head.
    pub fn set_behind(&mut self, local: PeerId, seq: u32) {
        self.behind = Some((local, seq));
    }

    /// Whether all announced entries have come that the modes let come. Stopped feeds do not count. False before the
    /// announcement.
    pub fn has_all(&self) -> bool {
        self.awaited_feeds.is_some_and(|feeds| feeds == 0 || self.is_refused)
    }

    /// The log holds all entries of a feed up to `seq`. If these are the first entries of the local feed that have come back,
    /// returns its id and announced head.
    pub fn reached(&mut self, feed: FeedKey, seq: u32) -> Option<(PeerId, u32)> {
        let awaited = self.awaited.get(feed);
        if awaited > 0 && awaited <= seq {
            self.settle(feed);
        }
        self.behind.take_if(|(local, _)| seq > 0 && FeedKey::of(local.as_str()) == feed)
    }

    /// The feed was stopped, so its entries are no longer awaited. Counts each feed once.
    ///
    /// # Errors
    /// [`Error::Wire`] when too many feeds are stopped.
    pub fn stop(&mut self, peer: &PeerId, kind: StopKind) -> Result<()> {
        let feed = FeedKey::of(peer.as_str());
        self.settle(feed);
        if self.stopped.contains(&feed) {
            return Ok(());
        }
        *if kind == StopKind::Fork { &mut self.forks } else { &mut self.gaps } += 1;
        if self.stopped.len() == STOPPED_MAX {
            return Err(Error::Wire(format!(
                "more than {STOPPED_MAX} feeds have a fork or a gap: the two logs do not hold the same data"
            )));
        }
        self.stopped.insert(feed);
        Ok(())
    }

    /// The number of announced entries that the log still lacks: those that the modes let come, and the others. Stopped feeds do
    /// not count.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn missing(&self, log: &Log) -> Result<(u64, u64)> {
        if self.awaited_feeds.unwrap_or(0) == 0 {
            return Ok((0, 0));
        }
        let mut missing: u64 = self.awaited.iter().map(|(_, head)| u64::from(head)).sum();
        log.each_head(|peer, head| missing -= u64::from(head.min(self.awaited.get(FeedKey::of(peer)))))?;
        Ok(if self.is_refused { (0, missing) } else { (missing, 0) })
    }

    fn settle(&mut self, feed: FeedKey) {
        if self.awaited.get(feed) > 0 {
            self.awaited.set(feed, 0);
            self.awaited_feeds = self.awaited_feeds.map(|feeds| feeds - 1);
        }
    }
}
