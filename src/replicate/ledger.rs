//! The entries that the remote announced, and the feeds that are complete or stopped. Only the receiving thread uses it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::model::{Error, FeedKey, PeerChoice, PeerId, Result};
use crate::store::Log;
use crate::wire::RemoteHeads;

/// The session ends when more feeds than this are stopped.
const STOPPED_MAX: usize = 10_000;
/// The number of refused feeds, and of feeds with a floor, that are named. The others are only counted, because a remote can hold millions.
const NAMED_MAX: usize = 20;
/// To scan so many feeds takes about as long as to store an entry.
const FEEDS_AN_ENTRY: u64 = 64;

#[derive(Default)]
pub struct Ledger {
    /// The feeds of the session.
    choice: PeerChoice,
    /// The heads of the remote; `None` before it has announced them, and if nothing was lacking.
    awaited: Option<Arc<RemoteHeads>>,
    /// The modes do not let the remote send the entries that were lacking.
    is_refused: bool,
    /// Whether everything that was announced has come; `None` if this is not known.
    has_all: Option<bool>,
    /// The number of entries that have come, new or known, and the number at which they can be everything that was announced.
    came: u64,
    enough: u64,
    /// Stopped feeds, and whether they are taken.
    stopped: HashMap<FeedKey, bool>,
    /// The local feed and the remote's head of it, if the remote's head is above the local head. It is reported when the first
    /// entry has come back: then it is known not to be a fork.
    behind: Option<(PeerId, u32)>,
    /// Entries of refused feeds: that were announced and not sent, and that were sent.
    refused: [u64; 2],
    /// The first feed of which refused entries were sent.
    refused_sent: Option<PeerId>,
    /// The refused feeds that were named.
    named: HashSet<FeedKey>,
    /// The number of entries that came, of feeds that do not take part.
    pub ignored: u64,
    /// The number of entries that were stored.
    pub received: u64,
    /// The number of feeds that begin anew at a floor of the remote.
    pub floors: u64,
    /// The number of feeds that a fork has stopped.
    pub forks: u64,
    /// The number of feeds that a gap or an unknown tombstone has stopped.
    pub gaps: u64,
}

/// The group in which the report counts a stopped feed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StopKind {
    Fork,
    Gap,
}

impl Ledger {
    /// The ledger of a side that takes only the feeds in `choice`.
    pub fn new(choice: PeerChoice) -> Self {
        Self { choice, has_all: Some(false), ..Self::default() }
    }

    /// The remote has announced all its heads. `lacking` is the number of entries that this log lacks and accepts. `receives`: the
    /// modes let the remote send entries.
    pub fn expect(&mut self, heads: Arc<RemoteHeads>, lacking: u64, receives: bool) {
        let stopped: u64 = self.stopped.keys().map(|&feed| u64::from(heads.get(feed))).sum();
        self.awaited = Some(heads).filter(|_| lacking > 0);
        self.is_refused = !receives;
        self.has_all = if receives { None } else { Some(true) };
        self.enough = lacking.saturating_sub(stopped);
    }

    /// So many entries have come and were compared with the log.
    pub fn add_came(&mut self, entries: u64) {
        self.came += entries;
    }

    /// Whether a feed takes part in the session.
    pub fn selects(&self, peer: &PeerId) -> bool {
        self.choice.selects(peer.as_str())
    }

    /// Whether entries of a feed are stored.
    pub fn takes(&self, peer: &PeerId) -> bool {
        self.choice.takes(peer.as_str())
    }

    /// The remote has announced entries of a feed that is not allowed. Returns whether the feed must be named.
    pub fn refuse_announced(&mut self, peer: &PeerId, entries: u64) -> bool {
        self.refused[0] += entries;
        self.name(peer)
    }

    /// The remote has sent entries of a feed that is not allowed. Returns whether the feed must be named.
    pub fn refuse(&mut self, peer: &PeerId, entries: u64) -> bool {
        self.refused[1] += entries;
        self.refused_sent.get_or_insert_with(|| peer.clone());
        self.name(peer)
    }

    /// A feed begins anew at a floor of the remote. Returns whether it must be named.
    pub fn add_floor(&mut self) -> bool {
        self.floors += 1;
        self.floors <= NAMED_MAX as u64
    }

    fn name(&mut self, peer: &PeerId) -> bool {
        self.named.len() < NAMED_MAX && self.named.insert(FeedKey::of(peer.as_str()))
    }

    /// The number of entries that were refused. Entries that were announced may have been sent too.
    pub fn refused(&self) -> u64 {
        self.refused[0].max(self.refused[1])
    }

    /// A feed that is not allowed and of which entries were sent, if there is one.
    pub fn refused_sent(&self) -> Option<&PeerId> {
        self.refused_sent.as_ref()
    }

    /// The remote holds the local feed up to `seq`, which is above the local head.
    pub fn set_behind(&mut self, local: PeerId, seq: u32) {
        self.behind = Some((local, seq));
    }

    /// Whether all announced entries have come that the modes let come. Stopped feeds do not count. False before the
    /// announcement.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn has_all(&mut self, log: &Log) -> Result<bool> {
        if self.has_all.is_none() {
            let (missing, _) = self.missing(log)?;
            self.has_all = Some(missing == 0);
            // The log may have many feeds: it is not scanned again after each entry.
            let feeds = self.awaited.as_ref().map_or(0, |heads| heads.len() as u64);
            self.enough = self.came + missing.max(feeds / FEEDS_AN_ENTRY);
        }
        Ok(self.has_all == Some(true))
    }

    /// As [`Ledger::has_all`], but false as long as too few entries have come. This does not scan the log often. It can be false
    /// for longer if another process has stored some of the entries.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn seems_complete(&mut self, log: &Log) -> Result<bool> {
        if self.has_all.is_none() && self.came < self.enough {
            return Ok(false);
        }
        self.has_all(log)
    }

    /// The log holds all entries of a feed up to `seq`. If these are the first entries of the local feed that have come back,
    /// returns its id and announced head.
    pub fn reached(&mut self, feed: FeedKey, seq: u32) -> Option<(PeerId, u32)> {
        self.look_again();
        self.behind.take_if(|(local, _)| seq > 0 && FeedKey::of(local.as_str()) == feed)
    }

    /// The log has changed: it may hold everything now.
    fn look_again(&mut self) {
        if self.awaited.is_some() && !self.is_refused && self.has_all == Some(false) {
            self.has_all = None;
        }
    }

    /// The feed was stopped, so its entries are no longer awaited. Counts each feed once.
    ///
    /// # Errors
    /// [`Error::Wire`] when too many feeds are stopped.
    pub fn stop(&mut self, peer: &PeerId, kind: StopKind) -> Result<()> {
        let feed = FeedKey::of(peer.as_str());
        if self.stopped.contains_key(&feed) {
            return Ok(());
        }
        *if kind == StopKind::Fork { &mut self.forks } else { &mut self.gaps } += 1;
        if self.stopped.len() == STOPPED_MAX {
            return Err(Error::Wire(format!(
                "more than {STOPPED_MAX} feeds have a fork or a gap: the two logs do not hold the same data"
            )));
        }
        self.stopped.insert(feed, self.takes(peer));
        let head = self.awaited.as_ref().map_or(0, |heads| heads.get(feed));
        self.enough = self.enough.saturating_sub(u64::from(head));
        self.look_again();
        Ok(())
    }

    /// The number of announced entries that the log still lacks: those that the modes let come, and the others. Stopped feeds and
    /// feeds that are not taken do not count.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn missing(&self, log: &Log) -> Result<(u64, u64)> {
        let Some(heads) = &self.awaited else { return Ok((0, 0)) };
        let mut missing = heads.taken_entries();
        for (&feed, _) in self.stopped.iter().filter(|&(_, &is_taken)| is_taken) {
            missing -= u64::from(heads.get(feed));
        }
        log.each_head(|peer, head| {
            let feed = FeedKey::of(peer);
            if !self.stopped.contains_key(&feed) && self.choice.takes(peer) {
                missing -= u64::from(head.min(heads.get(feed)));
            }
        })?;
        Ok(if self.is_refused { (0, missing) } else { (missing, 0) })
    }
}
