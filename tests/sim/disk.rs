//! What a log holds on disk, in a model.

use std::collections::BTreeMap;

use scuttleup::{Chain, Entry, PeerId, Seq};

/// Feed → highest seq.
pub type Heads = BTreeMap<String, u32>;

/// One entry: its bytes, and what its author held when it was appended.
#[derive(Clone)]
pub struct Stored {
    pub peer: String,
    pub seq: u32,
    pub bytes: Vec<u8>,
}

/// What became of a run.
pub enum Put {
    Stored,
    /// The first entry that differs from the one here.
    Fork(u32),
    /// It does not go on from this entry of ours.
    Doubt(u32),
}

/// A feed: its entries, and the chain after each, with the start before.
#[derive(Clone)]
struct Feed {
    entries: Vec<Vec<u8>>,
    chains: Vec<Chain>,
}

/// All of a log, in the order of arrival and by feed.
#[derive(Clone, Default)]
pub struct Disk {
    pub order: Vec<Stored>,
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
        let chain = feed.chains.last().expect("the start").next(Entry::new(bytes).tomb());
        feed.entries.push(bytes.into());
        feed.chains.push(chain);
        self.order.push(Stored { peer: peer.into(), seq, bytes: bytes.into() });
    }

    /// An older state of the disk: a backup.
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
        // Equal chains are equal feeds; most are.
        if self.chain(peer, both) == other.chain(peer, both) {
            return None;
        }
        (1..=both).find(|&seq| self.entry(peer, seq) != other.entry(peer, seq))
    }

    /// Stores entries that came as one run.
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
        let before = self.chain(peer, head).expect("our own head");
        let after = new.iter().fold(before, |chain, (_, bytes)| chain.next(Entry::new(bytes).tomb()));
        if chain.is_some_and(|chain| chain != after) {
            return if head > 0 { Ok(Put::Doubt(head)) } else { Err(format!("the chain of {peer}")) };
        }
        new.into_iter().for_each(|(seq, bytes)| self.push(peer, seq, bytes));
        Ok(Put::Stored)
    }
}
