//! The search for a fork on the native wire: finds the first entry at which two logs differ in a feed.
//!
//! Each FORK carries the sender's chains at some seqs. The receiver compares them with its own chains. Up to the last seq with
//! equal chains, the feeds are equal. At the first seq with different chains, the feeds have already forked. If these two seqs
//! are neighbours, the fork is at the second one. Otherwise the receiver answers with its own chains at seqs between them.

use std::collections::HashSet;

use super::encode::put_fork;
use super::message::Point;
use crate::model::{Chain, Error, FeedKey, PeerId, Result, Seq, Tombstone};
use crate::wire::ChainOf;

/// The number of steps into which one FORK divides the range of the search.
const STEPS: u64 = 16;
/// The session ends when more feeds than this are stopped.
const STOPPED_MAX: usize = 10_000;

/// The feeds that differ. Each of them is stopped: its entries are neither sent nor stored.
#[derive(Default)]
pub struct Forks {
    searched: HashSet<FeedKey>,
    stopped: HashSet<FeedKey>,
    found: HashSet<FeedKey>,
}

/// The first entry at which two logs differ in a feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The author of the feed.
    pub peer: PeerId,
    /// The entry.
    pub seq: Seq,
    /// The difference is not a fork: one of the two logs has an unknown tombstone at `seq` ([`Tombstone::UNKNOWN`]).
    pub is_unknown: bool,
}

impl Forks {
    /// Whether the feed is stopped.
    pub fn is_stopped(&self, feed: FeedKey) -> bool {
        !self.stopped.is_empty() && self.stopped.contains(&feed)
    }

    /// Whether a search is unfinished.
    pub fn is_searching(&self) -> bool {
        !self.searched.is_empty()
    }

    /// Stops a feed.
    ///
    /// # Errors
    /// [`Error::Wire`] when too many feeds are stopped.
    fn stop(&mut self, feed: FeedKey) -> Result<()> {
        if self.stopped.len() == STOPPED_MAX && !self.stopped.contains(&feed) {
            return Err(Error::Wire(format!(
                "more than {STOPPED_MAX} feeds have forked: the two logs do not hold the same data"
            )));
        }
        self.stopped.insert(feed);
        Ok(())
    }

    /// Begins a search: the feed differs somewhere up to seq `hi`. The remote's chain at `hi` is `remote_chain`.
    pub fn suspect(
        &mut self,
        out: &mut Vec<u8>,
        peer: &str,
        (hi, remote_chain): Point,
        chain_of: &mut ChainOf<'_>,
    ) -> Result<Option<Difference>> {
        let feed = FeedKey::of(peer);
        self.stop(feed)?;
        if self.found.contains(&feed) || !self.searched.insert(feed) {
            return Ok(None);
        }
        self.narrow(out, peer, 0, (hi, remote_chain), chain_of)
    }

    /// Begins a search: the feed may differ somewhere up to seq `hi`. Sends the local chains to the remote.
    pub fn ask(&mut self, out: &mut Vec<u8>, peer: &str, hi: u32, chain_of: &mut ChainOf<'_>) -> Result<()> {
        let feed = FeedKey::of(peer);
        self.stop(feed)?;
        if !self.found.contains(&feed) && self.searched.insert(feed) {
            put_fork(out, peer, &points_between(peer, 0, hi, chain_of)?);
        }
        Ok(())
    }

    /// Compares the remote's chains at some seqs with the local chains. Returns the difference if it is found now.
    pub fn compare(
        &mut self,
        out: &mut Vec<u8>,
        peer: &str,
        remote: &[Point],
        chain_of: &mut ChainOf<'_>,
    ) -> Result<Option<Difference>> {
        let feed = FeedKey::of(peer);
        if self.found.contains(&feed) {
            return Ok(None);
        }
        let (mut lo, mut hi, mut same) = (0, None, Vec::new());
        for &(seq, chain) in remote {
            match chain_of(peer, seq)? {
                Some(local) if local == chain => {
                    lo = lo.max(seq);
                    same.push((seq, chain));
                }
                Some(_) if hi.is_none_or(|(hi, _)| seq < hi) => hi = Some((seq, chain)),
                _ => {}
            }
        }
        if hi.is_none() {
            // A search has begun, but nothing differs: entries were damaged in transit.
            if self.searched.contains(&feed) {
                let peer = peer.escape_debug();
                return Err(Error::Wire(format!("entries of {peer} were damaged in transit: run it again")));
            }
            put_fork(out, peer, &same);
        }
        let Some(hi) = hi.filter(|&(hi, _)| lo < hi) else { return Ok(None) };
        self.stop(feed)?;
        self.searched.insert(feed);
        self.narrow(out, peer, lo, hi, chain_of)
    }

    /// The chains are equal at `lo` and different at `hi`. Ends the search, or sends the local chains between the two.
    fn narrow(
        &mut self,
        out: &mut Vec<u8>,
        peer: &str,
        lo: u32,
        (hi, remote_chain): Point,
        chain_of: &mut ChainOf<'_>,
    ) -> Result<Option<Difference>> {
        if hi - lo == 1 {
            let found = self.found_at(out, peer, hi, chain_of)?;
            return Ok(found.map(|found| {
                let is_unknown = found.is_unknown || is_unknown_after(peer, lo, remote_chain, chain_of);
                Difference { is_unknown, ..found }
            }));
        }
        put_fork(out, peer, &points_between(peer, lo, hi, chain_of)?);
        Ok(None)
    }

    /// The first difference is at `seq`. Reports it to the remote. Returns `None` if it was found before.
    pub fn found_at(
        &mut self,
        out: &mut Vec<u8>,
        peer: &str,
        seq: u32,
        chain_of: &mut ChainOf<'_>,
    ) -> Result<Option<Difference>> {
        let feed = FeedKey::of(peer);
        self.stop(feed)?;
        self.searched.remove(&feed);
        let Some(found) = Seq::new(u64::from(seq)).filter(|_| self.found.insert(feed)) else { return Ok(None) };
        let mut points = Vec::new();
        let mut is_unknown = false;
        for at in [seq - 1, seq] {
            if let Some(chain) = chain_of(peer, at)?.filter(|_| at > 0) {
                points.push((at, chain));
                is_unknown = at == seq && is_unknown_after(peer, seq - 1, chain, chain_of);
            }
        }
        put_fork(out, peer, &points);
        Ok(Some(Difference { peer: PeerId::new(peer)?, seq: found, is_unknown }))
    }
}

/// The local chains at up to 17 seqs from `lo` to `hi`. `lo` must be below `hi`.
fn points_between(peer: &str, lo: u32, hi: u32, chain_of: &mut ChainOf<'_>) -> Result<Vec<Point>> {
    let span = u64::from(hi - lo);
    let steps = STEPS.min(span);
    let mut points = Vec::with_capacity(steps as usize + 1);
    for step in 0..=steps {
        let seq = lo + (span * step / steps) as u32;
        if let Some(chain) = chain_of(peer, seq)?.filter(|_| seq > 0) {
            points.push((seq, chain));
        }
    }
    Ok(points)
}

/// Whether entry `before` + 1 is an unknown tombstone. `chain` is the chain after it.
fn is_unknown_after(peer: &str, before: u32, chain: Chain, chain_of: &mut ChainOf<'_>) -> bool {
    chain_of(peer, before).is_ok_and(|before| before.is_some_and(|before| before.next(Tombstone::UNKNOWN) == chain))
}
