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
    /// The entry with this seq has different bytes in the log.
    Fork(u32),
    /// The chain of the run does not continue the feed after this head.
    ChainMismatch(u32),
}

/// A feed: its entries, and the chains from the start to the last entry. `chains[n]` is the chain after entry n.
#[derive(Clone)]
struct Feed {
    entries: Vec<Vec<u8>>,
    chains: Vec<Chain>,
}

/// All entries of a log.
#[derive(Clone, Default)]
pub struct Disk {
    /// In the order of arrival.
    pub order: Vec<StoredEntry>,
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
        self.feeds.get(peer)?.entries.get(seq as usize - 1).map(Vec::as_slice)
    }

    pub fn chain(&self, peer: &str, seq: u32) -> Option<Chain> {
        match self.feeds.get(peer) {
            Some(feed) => feed.chains.get(seq as usize).copied(),
            None => (seq == 0).then(|| Chain::start(&id(peer))),
        }
    }

    pub fn feeds(&self) -> impl Iterator<Item = (&str, u32, Chain)> {
        self.feeds.iter().map(|(peer, feed)| (&**peer, feed.entries.len() as u32, *feed.chains.last().expect("the start")))
    }

    pub fn root(&self) -> u128 {
        self.feeds().fold(0, |root, (peer, seq, chain)| root.wrapping_add(chain.root_term(&id(peer), seq)))
    }

    /// Stores the next entry of a feed.
    pub fn push(&mut self, peer: &str, seq: u32, bytes: &[u8]) {
        let start = || Feed { entries: Vec::new(), chains: vec![Chain::start(&id(peer))] };
        let feed = self.feeds.entry(peer.into()).or_insert_with(start);
        assert_eq!(feed.entries.len() as u32 + 1, seq, "a gap in {peer}");
        let chain = feed.chains.last().expect("the start").next(Entry::new(bytes).tombstone());
        feed.entries.push(bytes.into());
        feed.chains.push(chain);
        self.order.push(StoredEntry { peer: peer.into(), seq, bytes: bytes.into() });
    }

    /// Sets the disk back to an older state, as a backup does.
    pub fn restore(&mut self, entries: usize) {
        let order = std::mem::take(&mut self.order);
        self.feeds.clear();
        for stored in order.into_iter().take(entries) {
            self.push(&stored.peer, stored.seq, &stored.bytes);
        }
    }

    /// The first entry of a feed at which two logs differ.
    pub fn fork(&self, other: &Self, peer: &str) -> Option<u32> {
        let both = self.head(peer).min(other.head(peer));
        // Most feeds are equal. Then their chains are equal too.
        if self.chain(peer, both) == other.chain(peer, both) {
            return None;
        }
        (1..=both).find(|&seq| self.entry(peer, seq) != other.entry(peer, seq))
    }

    /// Stores entries that came together, in a run or alone.
    pub fn store(&mut self, peer: &str, first: Seq, entries: &[Vec<u8>], chain: Option<Chain>) -> Result<Put, String> {
        let head = self.head(peer);
        let numbered = || (first.get()..).zip(entries);
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
