//! Finding the first entry at which two logs differ in a feed, by chains at a few places, in turns.
//!
//! Each FORK carries the sender's chain at some places. The receiver compares them with its own: the last place where they
//! are equal and the first where they differ bound the fork. If these are neighbours it is found, else the receiver
//! answers with its own chains at places between the two.

use std::collections::HashSet;

use super::native::Point;
use super::put::put_fork;
use crate::entry::{Chain, PeerId, Seq, Tomb};
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
    found: HashSet<FeedKey>,
}

/// The first entry at which two logs differ in a feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Whose feed.
    pub peer: PeerId,
    /// The entry.
    pub seq: Seq,
    /// It is no fork: one of the two logs never learned what was there ([`Tomb::UNKNOWN`]).
    pub is_hole: bool,
}

impl Forks {
    /// Whether nothing of this feed goes either way.
    pub fn is_stopped(&self, feed: FeedKey) -> bool {
        !self.stopped.is_empty() && self.stopped.contains(&feed)
    }

    /// Whether this feed differs.
    pub fn has(&self, feed: FeedKey) -> bool {
        self.found.contains(&feed) || self.searched.contains(&feed)
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

    /// The feed differs somewhere up to `hi`, where the other side's chain is `their_hi`: begins the search.
    pub fn suspect(
        &mut self,
        out: &mut Vec<u8>,
        peer: &str,
        (hi, their_hi): Point,
        chain_of: &mut ChainOf<'_>,
    ) -> Result<Option<Difference>> {
        let feed = FeedKey::of(peer);
        self.stop(feed)?;
        if self.found.contains(&feed) || !self.searched.insert(feed) {
            return Ok(None);
        }
        self.narrow(out, peer, 0, (hi, their_hi), chain_of)
    }

    /// The feed may differ somewhere up to `hi`: asks.
    pub fn doubt(&mut self, out: &mut Vec<u8>, peer: &str, hi: u32, chain_of: &mut ChainOf<'_>) -> Result<()> {
        let feed = FeedKey::of(peer);
        self.stop(feed)?;
        if !self.found.contains(&feed) && self.searched.insert(feed) {
            put_fork(out, peer, &places(peer, 0, hi, chain_of)?);
        }
        Ok(())
    }

    /// The other side's chains at some places; the difference, if that finds it.
    pub fn compare(
        &mut self,
        out: &mut Vec<u8>,
        peer: &str,
        theirs: &[Point],
        chain_of: &mut ChainOf<'_>,
    ) -> Result<Option<Difference>> {
        let feed = FeedKey::of(peer);
        if self.found.contains(&feed) {
            return Ok(None);
        }
        let (mut lo, mut hi, mut same) = (0, None, Vec::new());
        for &(seq, chain) in theirs {
            match chain_of(peer, seq)? {
                Some(ours) if ours == chain => {
                    lo = lo.max(seq);
                    same.push((seq, chain));
                }
                Some(_) if hi.is_none_or(|(hi, _)| seq < hi) => hi = Some((seq, chain)),
                _ => {}
            }
        }
        if hi.is_none() {
            // Who asks though nothing differs has got something that nobody sent.
            if self.searched.contains(&feed) {
                return Err(damaged(peer));
            }
            put_fork(out, peer, &same);
        }
        let Some(hi) = hi.filter(|&(hi, _)| lo < hi) else { return Ok(None) };
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
        (hi, their_hi): Point,
        chain_of: &mut ChainOf<'_>,
    ) -> Result<Option<Difference>> {
        if hi - lo == 1 {
            let found = self.find(out, peer, hi, chain_of)?;
            return Ok(found.map(|found| Difference { is_hole: found.is_hole || is_hole(peer, lo, their_hi, chain_of), ..found }));
        }
        put_fork(out, peer, &places(peer, lo, hi, chain_of)?);
        Ok(None)
    }

    /// The difference is at `seq`: tells the other side, whether it knows or not.
    pub fn find(&mut self, out: &mut Vec<u8>, peer: &str, seq: u32, chain_of: &mut ChainOf<'_>) -> Result<Option<Difference>> {
        let feed = FeedKey::of(peer);
        self.stop(feed)?;
        self.searched.remove(&feed);
        let Some(found) = Seq::new(u64::from(seq)).filter(|_| self.found.insert(feed)) else { return Ok(None) };
        let mut points = Vec::new();
        let mut hole = false;
        for place in [seq - 1, seq] {
            if let Some(chain) = chain_of(peer, place)?.filter(|_| place > 0) {
                points.push((place, chain));
                hole = place == seq && is_hole(peer, seq - 1, chain, chain_of);
            }
        }
        put_fork(out, peer, &points);
        Ok(Some(Difference { peer: PeerId::new(peer)?, seq: found, is_hole: hole }))
    }
}

/// Our chains at places from `lo` to `hi`, which is above it.
fn places(peer: &str, lo: u32, hi: u32, chain_of: &mut ChainOf<'_>) -> Result<Vec<Point>> {
    let span = u64::from(hi - lo);
    let steps = PLACES.min(span);
    let mut points = Vec::with_capacity(steps as usize + 1);
    for step in 0..=steps {
        let seq = lo + (span * step / steps) as u32;
        if let Some(chain) = chain_of(peer, seq)?.filter(|_| seq > 0) {
            points.push((seq, chain));
        }
    }
    Ok(points)
}

/// Entries came that the other side does not hold.
pub fn damaged(peer: &str) -> Error {
    Error::Wire(format!("entries of {peer} are not what was sent: they were damaged on the way; run it again"))
}

/// Whether a feed has a hole after `before`, by its chain there: nobody told what was deleted.
fn is_hole(peer: &str, before: u32, chain: Chain, chain_of: &mut ChainOf<'_>) -> bool {
    chain_of(peer, before).is_ok_and(|before| before.is_some_and(|before| before.next(Tomb::UNKNOWN) == chain))
}
