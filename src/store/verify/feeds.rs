//! The state of each feed while the entries are read in order of arrival: 30 bytes for each feed.

use crate::model::Chain;

/// The feeds of a log, by peer number.
#[derive(Default)]
pub struct Feeds {
    heads: Vec<u32>,
    floors: Vec<u32>,
    seqs: Vec<u32>,
    chains: Vec<u128>,
    /// The entries that are left of the run, and [`IS_UNKNOWN`].
    left: Vec<u16>,
}

/// The chain of the feed is not known, because an entry is lost.
const IS_UNKNOWN: u16 = 1 << 15;

/// One feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Feed {
    /// The head in the table `peers`.
    pub head: u32,
    /// Its floor there, 0 if it has none.
    pub floor: u32,
    /// The highest seq that was read; the floor, if there was none above it.
    pub seq: u32,
    /// The chain at this seq. `None`: it cannot be computed.
    pub chain: Option<Chain>,
    /// The number of entries of the last run that were not read yet.
    pub left: u32,
}

impl Feeds {
    /// Makes room for so many feeds, and for no more.
    pub fn reserve(&mut self, feeds: usize) {
        self.heads.reserve_exact(feeds);
        self.floors.reserve_exact(feeds);
        self.seqs.reserve_exact(feeds);
        self.chains.reserve_exact(feeds);
        self.left.reserve_exact(feeds);
    }

    pub fn get(&self, number: u32) -> Option<Feed> {
        let at = number as usize;
        let left = *self.left.get(at)?;
        (self.heads[at] > 0).then(|| Feed {
            head: self.heads[at],
            floor: self.floors[at],
            seq: self.seqs[at],
            chain: (left & IS_UNKNOWN == 0).then_some(Chain(self.chains[at])),
            left: u32::from(left & !IS_UNKNOWN),
        })
    }

    /// Adds or replaces a feed. Its head is not 0.
    pub fn set(&mut self, number: u32, feed: Feed) {
        let at = number as usize;
        if at >= self.heads.len() {
            self.heads.resize(at + 1, 0);
            self.floors.resize(at + 1, 0);
            self.seqs.resize(at + 1, 0);
            self.chains.resize(at + 1, 0);
            self.left.resize(at + 1, 0);
        }
        self.heads[at] = feed.head;
        self.floors[at] = feed.floor;
        self.seqs[at] = feed.seq;
        self.chains[at] = feed.chain.map_or(0, |chain| chain.0);
        // A run has at most 1024 entries.
        self.left[at] = feed.left as u16 | if feed.chain.is_none() { IS_UNKNOWN } else { 0 };
    }
}
