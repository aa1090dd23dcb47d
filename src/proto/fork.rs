//! Finding the first entry at which two logs differ in a feed, by chains at a few places, in turns.
//!
//! Each FORK carries the sender's chain at some places. The receiver compares them with its own: the last place where they
//! are equal and the first where they differ bound the fork. If these are neighbours it is found, else the receiver
//! answers with its own chains at places between the two.

use std::collections::{HashMap, HashSet};

use super::native::Point;
use super::put::put_fork;
use crate::entry::{Chain, PeerId, Seq};
use crate::error::{Error, Result};
use crate::heads::FeedKey;

/// How many places between the bounds one message asks about.
const PLACES: u64 = 16;
/// The most feeds that stop before the session does.
const STOPPED_MAX: usize = 10_000;

/// Our chain of a feed after an entry; `None` if we do not hold it.
pub type ChainOf<'a> = dyn FnMut(&str, u32) -> Result<Option<Chain>> + 'a;

/// The feeds that differ.
#[derive(Default)]
pub struct Forks {
    searched: HashSet<FeedKey>,
    /// Also those that are stopped for another reason.
    stopped: HashSet<FeedKey>,
    found: HashMap<FeedKey, Seq>,
}

impl Forks {
    /// Whether nothing of this feed goes either way.
    pub fn is_stopped(&self, feed: FeedKey) -> bool {
        !self.stopped.is_empty() && self.stopped.contains(&feed)
    }

    /// Whether this feed differs.
    pub fn has(&self, feed: FeedKey) -> bool {
        self.found.contains_key(&feed) || self.searched.contains(&feed)
    }

    /// Whether any search goes on.
    pub fn is_searching(&self) -> bool {
        !self.searched.is_empty()
    }

    /// Stops a feed; false if it was.
    ///
    /// # Errors
    /// [`Error::Wire`] when too many are.
    pub fn stop(&mut self, feed: FeedKey) -> Result<bool> {
        if self.stopped.len() == STOPPED_MAX && !self.stopped.contains(&feed) {
            return Err(Error::Wire(format!("more than {STOPPED_MAX} feeds with a fork: this is not the same data")));
        }
        Ok(self.stopped.insert(feed))
    }

    /// The feed differs somewhere up to `hi`: begins the search.
    pub fn suspect(
        &mut self,
        out: &mut Vec<u8>,
        peer: &str,
        hi: u32,
        chain_of: &mut ChainOf<'_>,
    ) -> Result<Option<(PeerId, Seq)>> {
        let feed = FeedKey::of(peer);
        self.stop(feed)?;
        if self.found.contains_key(&feed) || !self.searched.insert(feed) {
            return Ok(None);
        }
        self.narrow(out, peer, 0, hi, chain_of)
    }

    /// The other side's chains at some places; the fork, if that finds it.
    pub fn compare(
        &mut self,
        out: &mut Vec<u8>,
        peer: &str,
        theirs: &[Point],
        chain_of: &mut ChainOf<'_>,
    ) -> Result<Option<(PeerId, Seq)>> {
        let feed = FeedKey::of(peer);
        if self.found.contains_key(&feed) {
            return Ok(None);
        }
        let (mut lo, mut hi) = (0, u32::MAX);
        let mut differs = false;
        for &(seq, chain) in theirs {
            match chain_of(peer, seq)? {
                Some(ours) if ours == chain => lo = lo.max(seq),
                Some(_) => (hi, differs) = (hi.min(seq), true),
                None => {}
            }
        }
        if !differs || lo >= hi {
            return Ok(None);
        }
        self.stop(feed)?;
        self.searched.insert(feed);
        self.narrow(out, peer, lo, hi, chain_of)
    }

    /// Equal at `lo`, different at `hi`.
    fn narrow(
        &mut self,
        out: &mut Vec<u8>,
        peer: &str,
        lo: u32,
        hi: u32,
        chain_of: &mut ChainOf<'_>,
    ) -> Result<Option<(PeerId, Seq)>> {
        if hi - lo == 1 {
            return self.find(out, peer, hi, chain_of);
        }
        let span = u64::from(hi - lo);
        let steps = PLACES.min(span);
        let mut points = Vec::with_capacity(steps as usize + 1);
        for step in 0..=steps {
            let seq = lo + (span * step / steps) as u32;
            if let Some(chain) = chain_of(peer, seq)?.filter(|_| seq > 0) {
                points.push((seq, chain));
            }
        }
        put_fork(out, peer, &points);
        Ok(None)
    }

    /// The fork is at `seq`: tells the other side, whether it knows or not.
    pub fn find(&mut self, out: &mut Vec<u8>, peer: &str, seq: u32, chain_of: &mut ChainOf<'_>) -> Result<Option<(PeerId, Seq)>> {
        let feed = FeedKey::of(peer);
        self.stop(feed)?;
        self.searched.remove(&feed);
        let Some(found) = Seq::new(u64::from(seq)).filter(|_| !self.found.contains_key(&feed)) else { return Ok(None) };
        self.found.insert(feed, found);
        let mut points = Vec::new();
        for seq in [seq - 1, seq] {
            if let Some(chain) = chain_of(peer, seq)?.filter(|_| seq > 0) {
                points.push((seq, chain));
            }
        }
        put_fork(out, peer, &points);
        Ok(Some((PeerId::new(peer)?, found)))
    }

    /// How many were found.
    pub fn count(&self) -> u64 {
        self.found.len() as u64
    }
}
