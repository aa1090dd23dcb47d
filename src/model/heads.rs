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

/// A short key for a feed: xxh3-128 of its peer id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FeedKey([u8; 16]);

impl FeedKey {
    /// The key of the feed of `peer`.
    pub fn of(peer: &str) -> Self {
        Self(xxh3_128(peer.as_bytes()).to_le_bytes())
    }
}

/// Feed → seq, for millions of feeds. A feed that the map was created with takes 20 bytes; a feed that is added later takes
/// more.
#[derive(Default, Debug)]
pub struct FeedMap {
    sorted: Vec<(FeedKey, u32)>,
    later: HashMap<FeedKey, u32>,
}

impl FeedMap {
    /// The seq of `feed`, 0 when it is unknown.
    pub fn get(&self, feed: FeedKey) -> u32 {
        match self.find(feed) {
            Ok(at) => self.sorted[at].1,
            Err(_) => self.later.get(&feed).copied().unwrap_or(0),
        }
    }

    /// Sets the seq of `feed`.
    pub fn set(&mut self, feed: FeedKey, seq: u32) {
        match self.find(feed) {
            Ok(at) => self.sorted[at].1 = seq,
            Err(_) => {
                self.later.insert(feed, seq);
            }
        }
    }

    /// Whether there is no feed.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty() && self.later.is_empty()
    }

    /// Each feed with its seq.
    pub fn iter(&self) -> impl Iterator<Item = (FeedKey, u32)> {
        self.sorted.iter().copied().chain(self.later.iter().map(|(&feed, &seq)| (feed, seq)))
    }

    fn find(&self, feed: FeedKey) -> Result<usize, usize> {
        self.sorted.binary_search_by_key(&feed, |&(feed, _)| feed)
    }
}

impl FromIterator<(FeedKey, u32)> for FeedMap {
    /// If a feed occurs twice, the last seq counts.
    fn from_iter<I: IntoIterator<Item = (FeedKey, u32)>>(feeds: I) -> Self {
        Self::from(feeds.into_iter().collect::<Vec<_>>())
    }
}

impl From<Vec<(FeedKey, u32)>> for FeedMap {
    /// If a feed occurs twice, the last seq counts.
    fn from(mut sorted: Vec<(FeedKey, u32)>) -> Self {
        sorted.sort_by_key(|&(feed, _)| feed);
        sorted.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1 = later.1;
            }
            same
        });
        Self { sorted, later: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_map_knows_what_it_was_made_with_and_what_came_later() {
        let key = |n: u32| FeedKey::of(&n.to_string());
        let mut map: FeedMap = (0..1000).map(|n| (key(n % 900), n)).collect();
        assert_eq!((map.get(key(5)), map.get(key(899)), map.get(key(900))), (905, 899, 0));
        map.set(key(5), 7);
        map.set(key(900), 8);
        assert_eq!((map.get(key(5)), map.get(key(900))), (7, 8));
        assert_eq!(map.iter().count(), 901);
    }
}
