//! Heads: feed → highest seq. Replication compares logs by their heads.

use std::collections::{BTreeMap, HashMap};

use xxhash_rust::xxh3::xxh3_128;

use super::PeerId;

/// Peer → highest seq in a log (never 0), in the order of the ids.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Heads(BTreeMap<PeerId, u32>);

impl Heads {
    /// Heads without a feed.
    pub fn new() -> Self {
        Self::default()
    }

    /// The highest seq of `peer`, 0 for an unknown feed.
    pub fn get(&self, peer: &str) -> u32 {
        self.0.get(peer).copied().unwrap_or(0)
    }

    /// Raises the head of `peer` to `seq`. A lower seq changes nothing.
    pub fn raise(&mut self, peer: &PeerId, seq: u32) {
        if seq == 0 {
            return;
        }
        match self.0.get_mut(peer.as_str()) {
            Some(head) => *head = (*head).max(seq),
            None => {
                self.0.insert(peer.clone(), seq);
            }
        }
    }

    /// Each feed with its head.
    pub fn iter(&self) -> impl Iterator<Item = (&PeerId, u32)> {
        self.0.iter().map(|(peer, &seq)| (peer, seq))
    }

    /// The number of feeds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no feed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(PeerId, u32)> for Heads {
    fn from_iter<I: IntoIterator<Item = (PeerId, u32)>>(feeds: I) -> Self {
        let mut heads = Self::new();
        for (peer, seq) in feeds {
            heads.raise(&peer, seq);
        }
        heads
    }
}

/// The maximum number of feeds of a log. A session has room for as many: it keeps 20 bytes for each feed of the remote, 40 MiB in
/// all. So two logs can always sync all their feeds.
pub const FEEDS_MAX: u32 = 1 << 21;

/// A short key for a feed: xxh3-128 of its peer id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FeedKey([u8; 16]);

impl FeedKey {
    /// The key of the feed of `peer`.
    pub fn of(peer: &str) -> Self {
        Self(xxh3_128(peer.as_bytes()).to_le_bytes())
    }

    /// The first bytes of the key. They tell a feed from the next one, in less memory.
    pub(crate) fn first_bytes(self) -> [u8; 7] {
        *self.0.first_chunk().expect("a key of 16 bytes")
    }
}

/// Feed → seq, for millions of feeds. A feed takes 20 bytes, and the feeds that were added last a little more.
#[derive(Default, Debug)]
pub struct FeedMap {
    sorted: Vec<(FeedKey, u32)>,
    /// Feeds that are not in `sorted` yet.
    recent: HashMap<FeedKey, u32>,
}

/// So many recent feeds are merged at once, or an eighth of the sorted feeds: then each feed is moved a few times only.
const RECENT_MIN: usize = 8 << 10;

impl From<&Heads> for FeedMap {
    fn from(heads: &Heads) -> Self {
        let mut map = Self::default();
        heads.iter().for_each(|(peer, seq)| map.raise(FeedKey::of(peer.as_str()), seq));
        map
    }
}

impl FeedMap {
    /// The seq of `feed`, 0 when it is unknown.
    pub fn get(&self, feed: FeedKey) -> u32 {
        match self.find(feed) {
            Ok(at) => self.sorted[at].1,
            Err(_) => self.recent.get(&feed).copied().unwrap_or(0),
        }
    }

    /// Sets the seq of `feed`. Returns the seq before, 0 for an unknown feed.
    pub fn set(&mut self, feed: FeedKey, seq: u32) -> u32 {
        if let Ok(at) = self.find(feed) {
            return std::mem::replace(&mut self.sorted[at].1, seq);
        }
        let before = self.recent.insert(feed, seq).unwrap_or(0);
        if self.recent.len() >= RECENT_MIN.max(self.sorted.len() / 8) {
            self.merge();
        }
        before
    }

    /// Raises the seq of `feed` to `seq`. A lower seq changes nothing.
    pub fn raise(&mut self, feed: FeedKey, seq: u32) {
        if seq > self.get(feed) {
            self.set(feed, seq);
        }
    }

    /// Whether there is no feed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of feeds.
    pub fn len(&self) -> usize {
        self.sorted.len() + self.recent.len()
    }

    /// Each feed with its seq.
    pub fn iter(&self) -> impl Iterator<Item = (FeedKey, u32)> {
        self.sorted.iter().copied().chain(self.recent.iter().map(|(&feed, &seq)| (feed, seq)))
    }

    fn find(&self, feed: FeedKey) -> Result<usize, usize> {
        self.sorted.binary_search_by_key(&feed, |&(feed, _)| feed)
    }

    /// Moves the recent feeds to the sorted feeds, from the end on, so that no second copy of them is needed.
    fn merge(&mut self) {
        let mut recent: Vec<_> = self.recent.drain().collect();
        recent.sort_unstable();
        let mut unmoved = self.sorted.len();
        self.sorted.reserve_exact(recent.len());
        self.sorted.resize(unmoved + recent.len(), (FeedKey([0; 16]), 0));
        for at in (0..self.sorted.len()).rev() {
            let Some(&last) = recent.last() else { break };
            if unmoved > 0 && self.sorted[unmoved - 1] > last {
                unmoved -= 1;
                self.sorted[at] = self.sorted[unmoved];
            } else {
                self.sorted[at] = last;
                recent.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_map_keeps_the_last_seq_of_each_feed() {
        let key = |n: u32| FeedKey::of(&n.to_string());
        let (mut map, feeds) = (FeedMap::default(), 5 * RECENT_MIN as u32);
        for n in 0..feeds + 100 {
            assert_eq!(map.set(key(n % feeds), n + 1), if n < feeds { 0 } else { n % feeds + 1 });
        }
        map.raise(key(5), 7);
        map.raise(key(200), 7_000_000);
        map.raise(key(feeds), 8);
        let (mut seqs, len): (Vec<_>, _) = (map.iter().collect(), map.len());
        seqs.sort_unstable();
        seqs.dedup_by_key(|&mut (feed, _)| feed);
        assert_eq!((seqs.len(), len), (feeds as usize + 1, feeds as usize + 1), "each feed once");
        for n in 0..feeds {
            let expected = match n {
                200 => 7_000_000,
                0..100 => feeds + n + 1,
                _ => n + 1,
            };
            assert_eq!(map.get(key(n)), expected, "{n}");
        }
        assert_eq!((map.get(key(feeds)), map.get(key(feeds + 1))), (8, 0));
    }
}
