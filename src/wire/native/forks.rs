//! The search for a fork on the native wire: finds the first entry at which two logs differ in a feed.
//!
//! Each FORK carries the sender's chains at some seqs. The receiver compares them with its own chains. Up to the last seq with
//! equal chains, the feeds are equal. At the first seq with different chains, the feeds have already forked. If these two seqs
//! are neighbours, the fork is at the second one. Otherwise the receiver answers with its own chains at seqs between them.
//!
//! A chain is only a claim. The remote then shows its entry, by hash and length, in its last FORK: with the local chain before
//! the entry, they must give the chain that the remote claims. This is the evidence.
//!
//! A side that only receives reveals no chain that the remote has not sent itself, because a short entry can be guessed from its
//! chain. It answers with the bounds of the search only, and the remote narrows them.
//!
//! A log with a floor knows no chain below it. So the search goes down to the base only: the higher floor of the two logs. If the
//! chains at the base differ, the first entry that differs was pruned, and the search ends without it.

use std::collections::HashMap;

use super::encode::put_fork;
use super::message::{Fork, Hello, Point, WITHHELD};
use crate::model::{Chain, Error, FeedKey, PeerId, Printable, Result, Seq, Tombstone};
use crate::wire::protobuf::unexpected;
use crate::wire::{Link, LinkOf, Mode};

/// The number of steps into which one FORK divides the range of the search.
const STEPS: u64 = 16;
/// The session ends when more feeds than this are stopped.
const STOPPED_MAX: usize = 10_000;

/// The feeds that differ. Each of them is stopped: its entries are neither sent nor stored.
pub struct Forks {
    /// This side only receives.
    is_private: bool,
    /// This side shows its entries to the remote.
    shows_entries: bool,
    /// The remote shows its entries, and this side uses them.
    awaits_entries: bool,
    /// The remote knows floors.
    knows_floors: bool,
    stopped: HashMap<FeedKey, Stage>,
    /// The number of stopped feeds with a stage other than [`Stage::Over`].
    unfinished: usize,
}

/// The progress of the search in a stopped feed.
enum Stage {
    /// The feeds are equal at `lo`, and differ at `hi` if no entry was damaged in transit. Only a side that only receives keeps
    /// these bounds up to date. `is_reported`: the fork was found by an entry of the remote.
    Searching {
        lo: u32,
        hi: u32,
        is_reported: bool,
    },
    /// The first difference is known. The remote has not shown its entry yet.
    Claimed(Difference),
    Over,
}

/// The first entry at which two logs differ in a feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The author of the feed.
    pub peer: PeerId,
    /// The entry.
    pub seq: Seq,
    /// The evidence of it.
    pub kind: DifferenceKind,
}

/// The evidence of a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DifferenceKind {
    /// A fork. The remote has sent or shown its entry.
    Fork,
    /// The remote claims another chain, and has not shown its entry.
    Unproven,
    /// The chains differ at a floor of one of the two logs: the first entry that differs is this one or an earlier one, and it was
    /// pruned.
    Pruned,
    /// Not a fork: this seq is the floor of the local log, the feed is the local feed of the remote log, and the remote lacks entries
    /// that were pruned.
    Refused,
    /// Not a fork: one of the two logs has an unknown tombstone there ([`Tombstone::UNKNOWN`]).
    Unknown,
}

impl Forks {
    /// For a side with this mode, before the HELLO of the remote.
    pub fn new(local: Mode) -> Self {
        Self {
            is_private: local.is_private(),
            shows_entries: false,
            awaits_entries: false,
            knows_floors: false,
            stopped: HashMap::new(),
            unfinished: 0,
        }
    }

    /// The remote has sent its HELLO.
    pub fn meet(&mut self, local: Mode, remote: &Hello) {
        self.shows_entries = remote.evidence && !self.is_private;
        // A side that only sends changes nothing in its log, so it needs no evidence.
        self.awaits_entries = remote.evidence && remote.mode.sends() && local.receives();
        self.knows_floors = remote.floors;
    }

    /// Whether the feed is stopped.
    pub fn is_stopped(&self, feed: FeedKey) -> bool {
        !self.stopped.is_empty() && self.stopped.contains_key(&feed)
    }

    /// Whether a search is unfinished.
    pub fn is_searching(&self) -> bool {
        self.unfinished > 0
    }

    /// Stops a feed, or changes the stage of its search.
    ///
    /// # Errors
    /// [`Error::Wire`] when too many feeds are stopped.
    fn set(&mut self, peer: &str, stage: Stage) -> Result<()> {
        let feed = FeedKey::of(peer);
        if self.stopped.len() == STOPPED_MAX && !self.stopped.contains_key(&feed) {
            return Err(Error::Wire(format!(
                "more than {STOPPED_MAX} feeds have forked: the two logs do not hold the same data"
            )));
        }
        self.unfinished += usize::from(!matches!(stage, Stage::Over));
        let before = self.stopped.insert(feed, stage);
        self.unfinished -= usize::from(before.is_some_and(|before| !matches!(before, Stage::Over)));
        Ok(())
    }

    fn begin(&mut self, peer: &str, hi: u32, is_reported: bool) -> Result<()> {
        self.set(peer, Stage::Searching { lo: 0, hi, is_reported })
    }

    /// Begins a search: the feed differs somewhere up to seq `hi`. The remote's chain at `hi` is `remote_chain`.
    pub fn suspect(
        &mut self,
        out: &mut Vec<u8>,
        peer: &str,
        (hi, remote_chain): Point,
        link_of: &mut LinkOf<'_>,
    ) -> Result<Option<Difference>> {
        if self.is_stopped(FeedKey::of(peer)) {
            return Ok(None);
        }
        self.begin(peer, hi, false)?;
        self.narrow(out, &Fork::new(peer, vec![(hi, remote_chain)]), 0, hi, link_of)
    }

    /// Begins a search: the feed may differ somewhere up to seq `hi`. Asks the remote.
    pub fn ask(&mut self, out: &mut Vec<u8>, peer: &str, hi: u32, link_of: &mut LinkOf<'_>) -> Result<()> {
        if self.is_stopped(FeedKey::of(peer)) {
            return Ok(());
        }
        self.begin(peer, hi, false)?;
        self.put_bounds(out, peer, (0, 0), hi, link_of)
    }

    /// Compares the remote's chains at some seqs with the local chains. Returns the difference if it is known now.
    ///
    /// # Errors
    /// [`Error::Wire`] when nothing differs although this side searches, or too many feeds are stopped.
    pub fn compare(&mut self, out: &mut Vec<u8>, fork: &Fork<'_>, link_of: &mut LinkOf<'_>) -> Result<Option<Difference>> {
        let peer = fork.peer;
        if fork.over {
            return self.end(fork, link_of);
        }
        if fork.refused {
            return self.end_refused(peer, link_of);
        }
        let searching = match self.stopped.get(&FeedKey::of(peer)) {
            Some(Stage::Over) => return Ok(None),
            Some(Stage::Claimed(claimed)) => {
                let claimed = claimed.clone();
                return self.judge(claimed, fork, link_of);
            }
            Some(&Stage::Searching { lo, hi, is_reported }) => Some((lo, hi, is_reported)),
            None => None,
        };
        let (mut same, mut lowest) = (Vec::new(), None);
        for &(seq, chain) in &fork.points {
            match link_of(peer, seq)? {
                Some(local) if local.chain == chain => same.push((seq, chain)),
                Some(_) => lowest = Some(lowest.map_or(seq, |lowest: u32| lowest.min(seq))),
                None => {}
            }
        }
        if self.is_private && searching.is_none() {
            // It answers only in a search that it has begun. So a remote cannot try one chain after the other.
            return Ok(None);
        }
        let floor = floor_of(peer, link_of)?;
        let hi = lowest.or(searching.filter(|_| same.is_empty()).map(|(_, hi, _)| hi));
        let is_unknown = fork.points.iter().all(|&(seq, _)| seq < floor) && !fork.points.is_empty();
        if is_unknown || hi.is_some_and(|hi| hi <= floor.max(fork.floor) && same.iter().all(|&(seq, _)| seq < hi)) {
            return self.give_up(out, peer, floor.max(fork.floor), link_of);
        }
        if self.is_private
            && let Some((lo, hi, is_reported)) = searching
        {
            let above = same.iter().map(|&(seq, _)| seq).filter(|&seq| lowest.is_none_or(|lowest| seq < lowest)).max();
            let bounds = (lo.max(above.unwrap_or(0)), hi.min(lowest.unwrap_or(hi)));
            if bounds.0 >= bounds.1 {
                return Err(Error::damaged_in_transit(peer));
            }
            if bounds == (lo, hi) && hi - lo > 1 {
                return Err(unexpected("a FORK that does not narrow the search"));
            }
            self.set(peer, Stage::Searching { lo: bounds.0, hi: bounds.1, is_reported })?;
            return self.narrow(out, fork, bounds.0, bounds.1, link_of);
        }
        let lo = same.iter().map(|&(seq, _)| seq).max().unwrap_or(0);
        let Some(hi) = lowest else {
            // A search has begun, but nothing differs: entries were damaged in transit.
            if searching.is_some() {
                return Err(Error::damaged_in_transit(peer));
            }
            self.put(out, Fork::new(peer, same), link_of)?;
            return Ok(None);
        };
        if lo >= hi {
            return Ok(None);
        }
        if searching.is_none() {
            self.begin(peer, hi, false)?;
        }
        self.narrow(out, fork, lo, hi, link_of)
    }

    /// The chains are equal at `lo` and different at `hi`. Ends the search, or asks the remote to narrow it. `fork` is what the
    /// remote has sent.
    fn narrow(
        &mut self,
        out: &mut Vec<u8>,
        fork: &Fork<'_>,
        lo: u32,
        hi: u32,
        link_of: &mut LinkOf<'_>,
    ) -> Result<Option<Difference>> {
        let base = floor_of(fork.peer, link_of)?.max(fork.floor);
        if hi <= base {
            return self.give_up(out, fork.peer, base, link_of);
        }
        if hi - lo == 1 && lo >= base {
            return self.found(out, fork, hi, link_of);
        }
        self.put_bounds(out, fork.peer, (lo, base), hi, link_of)?;
        Ok(None)
    }

    /// Sends the local chains from `lo` to `hi`, but none below `base`. A side that only receives sends the bounds: the remote has
    /// sent the chain at `lo` itself.
    fn put_bounds(&self, out: &mut Vec<u8>, peer: &str, (lo, base): (u32, u32), hi: u32, link_of: &mut LinkOf<'_>) -> Result<()> {
        let points = if self.is_private {
            let lo = if lo > 0 { link_of(peer, lo)?.map(|local| (lo, local.chain)) } else { None };
            lo.into_iter().chain([(hi, WITHHELD)]).collect()
        } else {
            points_between(peer, lo.max(base).max(floor_of(peer, link_of)?), hi, link_of)?
        };
        self.put(out, Fork::new(peer, points), link_of)
    }

    /// Sends a FORK, with the floor of the local feed.
    fn put(&self, out: &mut Vec<u8>, fork: Fork<'_>, link_of: &mut LinkOf<'_>) -> Result<()> {
        let floor = if self.knows_floors { floor_of(fork.peer, link_of)? } else { 0 };
        put_fork(out, &Fork { floor, ..fork });
        Ok(())
    }

    /// The first difference is not above `base`, and one of the two logs has pruned its entries up to there. Tells the remote.
    ///
    /// # Errors
    /// [`Error::Wire`] if the remote does not know floors: it would search for ever.
    fn give_up(&mut self, out: &mut Vec<u8>, peer: &str, base: u32, link_of: &mut LinkOf<'_>) -> Result<Option<Difference>> {
        if !self.knows_floors {
            return Err(Error::Wire(format!(
                "the feeds of {} in the two logs differ at entry {base} or before it, these entries were pruned, and the program \
                 of the remote is too old to end the search for the first one: install a newer scuttleup there",
                Printable(peer)
            )));
        }
        self.put(out, Fork { over: true, ..Fork::new(peer, Vec::new()) }, link_of)?;
        self.set_pruned(peer, base)
    }

    /// The remote cannot find or show the first difference, because it was pruned.
    fn end(&mut self, fork: &Fork<'_>, link_of: &mut LinkOf<'_>) -> Result<Option<Difference>> {
        let base = floor_of(fork.peer, link_of)?.max(fork.floor);
        self.set_pruned(fork.peer, base)
    }

    /// The remote has a floor of the local feed that this log does not take. Tells the remote, so that it does not wait for
    /// acknowledgements.
    pub fn refuse(&mut self, out: &mut Vec<u8>, peer: &str, link_of: &mut LinkOf<'_>) -> Result<()> {
        if !self.is_stopped(FeedKey::of(peer)) {
            self.set(peer, Stage::Over)?;
            self.put(out, Fork { refused: true, ..Fork::new(peer, Vec::new()) }, link_of)?;
        }
        Ok(())
    }

    /// The remote does not take a floor of its local feed.
    fn end_refused(&mut self, peer: &str, link_of: &mut LinkOf<'_>) -> Result<Option<Difference>> {
        if self.is_stopped(FeedKey::of(peer)) {
            return Ok(None);
        }
        self.set(peer, Stage::Over)?;
        difference(peer, floor_of(peer, link_of)?.max(1), DifferenceKind::Refused)
    }

    /// Ends the search in a feed. Returns the difference if it was not reported before.
    fn set_pruned(&mut self, peer: &str, base: u32) -> Result<Option<Difference>> {
        let found = match self.stopped.get(&FeedKey::of(peer)) {
            Some(Stage::Over | Stage::Searching { is_reported: true, .. }) => None,
            Some(Stage::Claimed(claimed)) => Some(claimed.clone()),
            Some(Stage::Searching { .. }) | None => difference(peer, base.max(1), DifferenceKind::Pruned)?,
        };
        self.set(peer, Stage::Over)?;
        Ok(found)
    }

    /// The first difference is at `seq`. Tells the remote. `fork` is what the remote has sent, perhaps with its entry.
    fn found(&mut self, out: &mut Vec<u8>, fork: &Fork<'_>, seq: u32, link_of: &mut LinkOf<'_>) -> Result<Option<Difference>> {
        let Some((before, local)) = neighbours(fork.peer, seq, link_of)? else {
            // The log was pruned meanwhile.
            return self.give_up(out, fork.peer, floor_of(fork.peer, link_of)?, link_of);
        };
        self.put_found(out, fork.peer, seq, before, local);
        let is_reported =
            matches!(self.stopped.get(&FeedKey::of(fork.peer)), Some(Stage::Searching { is_reported: true, .. } | Stage::Over));
        let is_unknown = local.entry == Tombstone::UNKNOWN || chain_at(fork, seq) == Some(before.next(Tombstone::UNKNOWN));
        let kind = if is_unknown { DifferenceKind::Unknown } else { DifferenceKind::Unproven };
        let Some(found) = difference(fork.peer, seq, kind)? else { return Ok(None) };
        if is_reported || is_unknown || !self.awaits_entries {
            self.set(fork.peer, Stage::Over)?;
            return Ok((!is_reported).then_some(found));
        }
        self.set(fork.peer, Stage::Claimed(found.clone()))?;
        self.judge(found, fork, link_of)
    }

    /// Checks the entry that the remote shows, if it shows one: is it evidence of the claimed difference?
    fn judge(&mut self, claimed: Difference, fork: &Fork<'_>, link_of: &mut LinkOf<'_>) -> Result<Option<Difference>> {
        let Some((seq, entry)) = fork.entry else { return Ok(None) };
        let Some((before, local)) = neighbours(fork.peer, claimed.seq.get(), link_of)? else {
            return self.set_pruned(fork.peer, claimed.seq.get());
        };
        let is_evidence = seq == claimed.seq.get() && chain_at(fork, seq) == Some(before.next(entry)) && entry != local.entry;
        let kind = match is_evidence {
            true if entry == Tombstone::UNKNOWN => DifferenceKind::Unknown,
            true => DifferenceKind::Fork,
            false => DifferenceKind::Unproven,
        };
        self.set(fork.peer, Stage::Over)?;
        Ok(Some(Difference { kind, ..claimed }))
    }

    /// An entry of the remote differs from the local entry `seq`. Tells the remote. Returns `None` if this was found before.
    pub fn found_in_run(
        &mut self,
        out: &mut Vec<u8>,
        peer: &str,
        seq: u32,
        link_of: &mut LinkOf<'_>,
    ) -> Result<Option<Difference>> {
        match self.stopped.get(&FeedKey::of(peer)) {
            Some(Stage::Over | Stage::Searching { is_reported: true, .. }) => return Ok(None),
            Some(&Stage::Searching { lo, hi, .. }) => self.set(peer, Stage::Searching { lo, hi, is_reported: true })?,
            Some(Stage::Claimed(_)) => self.set(peer, Stage::Over)?,
            // The remote has not sent its chain before the entry, so it must search.
            None if self.is_private && seq > 1 => {
                self.begin(peer, seq, true)?;
                self.put_bounds(out, peer, (0, 0), seq, link_of)?;
            }
            None => {
                self.set(peer, Stage::Over)?;
                match neighbours(peer, seq, link_of)? {
                    Some((before, local)) => self.put_found(out, peer, seq, before, local),
                    // The log was pruned meanwhile. The remote must not wait for acknowledgements of this feed.
                    None => self.put(out, Fork { over: true, ..Fork::new(peer, Vec::new()) }, link_of)?,
                }
            }
        }
        difference(peer, seq, DifferenceKind::Fork)
    }

    /// Sends the last FORK of a feed. `before` is the local chain before the entry `seq`.
    fn put_found(&self, out: &mut Vec<u8>, peer: &str, seq: u32, before: Chain, local: Link) {
        let mut points = Vec::new();
        if seq > 1 {
            points.push((seq - 1, before));
        }
        // An unknown tombstone reveals nothing: it is no entry of the author.
        let is_secret = self.is_private && local.entry != Tombstone::UNKNOWN;
        points.push((seq, if is_secret { WITHHELD } else { local.chain }));
        let entry = self.shows_entries.then_some((seq, local.entry));
        let floor = if self.knows_floors { local.floor } else { 0 };
        put_fork(out, &Fork { entry, floor, ..Fork::new(peer, points) });
    }

    /// The session ends: returns the differences of which the remote has not shown its entry.
    pub fn take_unproven(&mut self) -> Vec<Difference> {
        let mut unproven = Vec::new();
        for stage in self.stopped.values_mut() {
            if let Stage::Claimed(claimed) = stage {
                unproven.push(claimed.clone());
                *stage = Stage::Over;
                self.unfinished -= 1;
            }
        }
        unproven.sort_by(|a, b| a.peer.cmp(&b.peer));
        unproven
    }
}

/// The floor of a feed in the local log, 0 if there is none.
fn floor_of(peer: &str, link_of: &mut LinkOf<'_>) -> Result<u32> {
    Ok(link_of(peer, 0)?.map_or(0, |start| start.floor))
}

/// The local chains at up to 17 seqs from `lo` to `hi`. If `lo` is not below `hi`, that at `hi`.
fn points_between(peer: &str, lo: u32, hi: u32, link_of: &mut LinkOf<'_>) -> Result<Vec<Point>> {
    let lo = lo.min(hi);
    let span = u64::from(hi - lo);
    let steps = STEPS.min(span);
    let mut points = Vec::with_capacity(steps as usize + 1);
    for step in 0..=steps {
        let seq = lo + (span * step / steps.max(1)) as u32;
        if let Some(local) = link_of(peer, seq)?.filter(|_| seq > 0) {
            points.push((seq, local.chain));
        }
    }
    Ok(points)
}

/// The local chain before the entry `seq`, and the entry. `None` if the log does not hold it.
fn neighbours(peer: &str, seq: u32, link_of: &mut LinkOf<'_>) -> Result<Option<(Chain, Link)>> {
    let Some(before) = seq.checked_sub(1) else { return Ok(None) };
    Ok(link_of(peer, before)?.map(|before| before.chain).zip(link_of(peer, seq)?))
}

/// The chain of the remote at `seq`, if it has sent it.
fn chain_at(fork: &Fork<'_>, seq: u32) -> Option<Chain> {
    fork.points.iter().find(|&&(at, _)| at == seq).map(|&(_, chain)| chain)
}

fn difference(peer: &str, seq: u32, kind: DifferenceKind) -> Result<Option<Difference>> {
    let Some(seq) = Seq::new(u64::from(seq)) else { return Ok(None) };
    Ok(Some(Difference { peer: PeerId::new(peer)?, seq, kind }))
}
