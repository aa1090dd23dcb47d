//! Feeds in which the two logs differ.

use super::{Heads, Link};
use crate::entry::Seq;
use crate::error::{Error, Result};
use crate::heads::{FeedKey, FeedMap};
use crate::proto::FEEDS_MAX;
use crate::proto::fork::{ChainOf, Difference};
use crate::proto::native::Head;
use crate::proto::session::Remote;

impl Link {
    /// Whether a fork was found or is sought in this feed.
    pub fn has_fork(&self, feed: FeedKey) -> bool {
        self.forks.has(feed)
    }

    /// Whether nothing of this feed goes either way.
    pub fn is_stopped(&self, feed: FeedKey) -> bool {
        self.forks.is_stopped(feed)
    }

    /// Which of the heads of [`Received::Heads`](super::Received::Heads) differ: we hold the entry, too, and our chain there
    /// is another one.
    ///
    /// # Errors
    /// [`Error::Wire`] when there are too many, or too many differ.
    pub fn compared(
        &mut self,
        heads: &[Head<'_>],
        differs: &[bool],
        last: bool,
        chain_of: &mut ChainOf<'_>,
    ) -> Result<Vec<Difference>> {
        if self.told.len() + heads.len() > FEEDS_MAX {
            return Err(Error::Wire(format!("more than {FEEDS_MAX} feeds")));
        }
        let mut found = Vec::new();
        for (head, &differs) in heads.iter().zip(differs) {
            self.told.push((FeedKey::of(head.peer), head.seq));
            if differs {
                found.extend(self.forks.suspect(&mut self.outbox, head.peer, (head.seq, head.chain), chain_of)?);
            }
        }
        if last {
            self.their_heads = Heads::Over;
            self.remote = Remote::new(FeedMap::from(std::mem::take(&mut self.told)));
            self.current = None;
        }
        Ok(found)
    }

    /// A run that came differs from what we hold, at `seq` first.
    ///
    /// # Errors
    /// [`Error::Wire`] when too many feeds are stopped; those of `chain_of`.
    pub fn forked(&mut self, peer: &str, seq: Seq, chain_of: &mut ChainOf<'_>) -> Result<Option<Difference>> {
        self.sending.stop(FeedKey::of(peer));
        self.forks.find(&mut self.outbox, peer, seq.get(), chain_of)
    }

    /// Entries of a feed came that do not go on from our `head`: asks for the other side's chains up to there.
    ///
    /// # Errors
    /// As [`Link::forked`].
    pub fn doubt(&mut self, peer: &str, head: u32, chain_of: &mut ChainOf<'_>) -> Result<()> {
        self.sending.stop(FeedKey::of(peer));
        self.forks.doubt(&mut self.outbox, peer, head, chain_of)
    }
}
