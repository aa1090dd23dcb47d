//! A model of what a log holds on its disk.

use std::collections::BTreeMap;

use scuttleup::{Chain, Entry, PeerId, Seq};

/// Feed → highest seq.
pub type Heads = BTreeMap<String, u32>;

/// One entry.
#[derive(Clone)]
pub struct StoredEntry {
    pub peer: String,
    pub seq: u32,
    pub bytes: Vec<u8>,
}

/// The result of storing entries that came together.
pub enum Put {
    Stored,
    /// The chain at the floor of the other log differs.
    FloorDiffers,
    /// The floor is above the head of the local feed.
    FloorOfLocalFeed,
    /// The entry with this seq has different bytes in the log.
    Fork(u32),
    /// The chain of the run does not continue the feed after this head.
    ChainMismatch(u32),
}

/// A feed: its entries, and the chains from the start to the last entry. `chains[n]` is the chain after entry n. `None`: it never
/// was in this log. What is below the floor is kept for [`Disk::fork`], but not shown.
#[derive(Clone)]
struct Feed {
    entries: Vec<Option<Vec<u8>>>,
    chains: Vec<Option<Chain>>,
    floor: u32,
}

/// A change of a log, to set it back.
#[derive(Clone)]
pub enum Event {
    Entry(StoredEntry),
    Floor(String, u32, Chain),
    Prune(usize),
}

/// All entries of a log.
#[derive(Clone, Default)]
pub struct Disk {
    /// In the order of arrival, also the pruned ones.
    pub order: Vec<StoredEntry>,
    /// The number of pruned entries in `order`.
    pub pruned: usize,
    pub history: Vec<Event>,
    feeds: BTreeMap<String, Feed>,
}

pub fn id(peer: &str) -> PeerId {
    PeerId::new(peer).expect("an id")
}

impl Disk {
    pub fn head(&self, peer: &str) -> u32 {
        self.feeds.get(peer).map_or(0, |feed| feed.entries.len() as u32)
    }

    pub fn heads(&self) -> Heads {
        self.feeds.iter().map(|(peer, feed)| (peer.clone(), feed.entries.len() as u32)).collect()
    }

    pub fn entry(&self, peer: &str, seq: u32) -> Option<&[u8]> {
        let feed = self.feeds.get(peer).filter(|feed| seq > feed.floor)?;
        feed.entries.get(seq as usize - 1)?.as_deref()
    }

    pub fn chain(&self, peer: &str, seq: u32) -> Option<Chain> {
        match self.feeds.get(peer) {
            Some(feed) if seq == 0 || seq >= feed.floor => feed.chains.get(seq as usize).copied().flatten(),
            Some(_) => None,
            None => (seq == 0).then(|| Chain::start(&id(peer))),
        }
    }

    /// The floor of a feed, 0 if there is none.
    pub fn floor(&self, peer: &str) -> u32 {
        self.feeds.get(peer).map_or(0, |feed| feed.floor)
    }

    /// The feeds with a floor.
    pub fn floors(&self) -> impl Iterator<Item = (&str, u32, Chain)> {
        let floored = self.feeds.iter().filter(|(_, feed)| feed.floor > 0);
        floored.map(|(peer, feed)| (&**peer, feed.floor, feed.chains[feed.floor as usize].expect("the chain at a floor")))
    }

    pub fn feeds(&self) -> impl Iterator<Item = (&str, u32, Chain)> {
        let head = |feed: &Feed| feed.chains.last().copied().flatten().expect("the chain at the head");
        self.feeds.iter().map(move |(peer, feed)| (&**peer, feed.entries.len() as u32, head(feed)))
    }

    pub fn root(&self) -> u128 {
        self.feeds().fold(0, |root, (peer, seq, chain)| root.wrapping_add(chain.root_term(&id(peer), seq)))
    }

    fn feed_mut(&mut self, peer: &str) -> &mut Feed {
        let start = || Feed { entries: Vec::new(), chains: vec![Some(Chain::start(&id(peer)))], floor: 0 };
        self.feeds.entry(peer.into()).or_insert_with(start)
    }

    /// Stores the next entry of a feed.
    pub fn push(&mut self, peer: &str, seq: u32, bytes: &[u8]) {
        let feed = self.feed_mut(peer);
        assert_eq!(feed.entries.len() as u32 + 1, seq, "a gap in {peer}");
        let chain = feed.chains.last().copied().flatten().expect("the chain at the head");
        feed.entries.push(Some(bytes.into()));
        feed.chains.push(Some(chain.next(Entry::new(bytes).tombstone())));
        let stored = StoredEntry { peer: peer.into(), seq, bytes: bytes.into() };
        self.order.push(stored.clone());
        self.history.push(Event::Entry(stored));
    }

    /// Begins a feed anew behind `seq`, which is above its head.
    pub fn begin_anew(&mut self, peer: &str, seq: u32, chain: Chain) {
        let feed = self.feed_mut(peer);
        assert!(feed.entries.len() < seq as usize, "a floor of {peer} that is not above the head");
        feed.entries.resize(seq as usize, None);
        feed.chains.resize(seq as usize, None);
        feed.chains.push(Some(chain));
        feed.floor = seq;
        self.history.push(Event::Floor(peer.into(), seq, chain));
    }

    /// Prunes the first `entries` of the order of arrival. The newest entry stays.
    pub fn prune(&mut self, entries: usize) {
        let until = entries.min(self.order.len().saturating_sub(1));
        for stored in self.order.iter().take(until) {
            let feed = self.feeds.get_mut(&stored.peer).expect("the feed of an entry");
            feed.floor = feed.floor.max(stored.seq);
        }
        self.pruned = self.pruned.max(until);
        self.history.push(Event::Prune(until));
    }

    /// Sets the disk back to an older state, as a backup does.
    pub fn restore(&mut self, events: usize) {
        let history = std::mem::take(&mut self.history);
        *self = Self::default();
        for event in history.into_iter().take(events) {
            match event {
                Event::Entry(stored) => self.push(&stored.peer, stored.seq, &stored.bytes),
                Event::Floor(peer, seq, chain) => self.begin_anew(&peer, seq, chain),
                Event::Prune(until) => self.prune(until),
            }
        }
    }

    /// The first seq of a feed at which two logs differ, as far as both have ever known the feed. A feed that began anew can differ
    /// in an earlier entry.
    pub fn fork(&self, other: &Self, peer: &str) -> Option<u32> {
        let (here, there) = (self.feeds.get(peer)?, other.feeds.get(peer)?);
        let both = |seq: &usize| here.chains[*seq].is_some() && there.chains[*seq].is_some();
        let differs = |seq: &usize| here.chains[*seq] != there.chains[*seq];
        // Most feeds are equal. Then their chains are equal too.
        let last = (0..here.chains.len().min(there.chains.len())).rev().find(both)?;
        if !differs(&last) {
            return None;
        }
        (1..=last).filter(both).find(differs).map(|seq| seq as u32)
    }

    /// Applies the floor of another log. `own`: the local feed.
    pub fn apply_floor(&mut self, own: &str, peer: &str, seq: u32, chain: Chain) -> Put {
        if seq <= self.head(peer) {
            let differs = self.chain(peer, seq).is_some_and(|local| local != chain);
            return if differs { Put::FloorDiffers } else { Put::Stored };
        }
        if peer == own {
            return Put::FloorOfLocalFeed;
        }
        self.begin_anew(peer, seq, chain);
        Put::Stored
    }

    /// Stores entries that came together, in a run or alone.
    pub fn store(&mut self, peer: &str, first: Seq, entries: &[Vec<u8>], chain: Option<Chain>) -> Result<Put, String> {
        let (head, floor) = (self.head(peer), self.floor(peer));
        let numbered = || (first.get()..).zip(entries).filter(move |&(seq, _)| seq > floor);
        for (seq, bytes) in numbered().filter(|&(seq, _)| seq <= head) {
            if self.entry(peer, seq) != Some(bytes) {
                return Ok(Put::Fork(seq));
            }
        }
        let new: Vec<_> = numbered().filter(|&(seq, _)| seq > head).collect();
        let Some(&(next, _)) = new.first() else { return Ok(Put::Stored) };
        if next != head + 1 {
            return Err(format!("a gap: {next} of {peer} after {head}"));
        }
        let before = self.chain(peer, head).expect("the head of the log");
        let after = new.iter().fold(before, |chain, (_, bytes)| chain.next(Entry::new(bytes).tombstone()));
        if chain.is_some_and(|chain| chain != after) {
            return if head > 0 { Ok(Put::ChainMismatch(head)) } else { Err(format!("the chain of {peer}")) };
        }
        new.into_iter().for_each(|(seq, bytes)| self.push(peer, seq, bytes));
        Ok(Put::Stored)
    }
}
