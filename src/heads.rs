//! The heads vector: peer → highest seq. The whole state of a log, as far as replication is concerned.

use std::collections::BTreeMap;

use crate::entry::PeerId;

/// Peer → highest seq held (never 0), in the order of the ids.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Heads(BTreeMap<PeerId, u32>);

impl Heads {
    /// No feeds at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// The highest seq of `peer`, 0 when nothing is known of it.
    pub fn get(&self, peer: &str) -> u32 {
        self.0.get(peer).copied().unwrap_or(0)
    }

    /// Raises `peer` to `seq`; a lower seq than the known one changes nothing.
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

    /// How many feeds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no feed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many entries `self` holds that `other` lacks.
    pub fn ahead_of(&self, other: &Self) -> u64 {
        self.iter().map(|(peer, seq)| u64::from(seq.saturating_sub(other.get(peer.as_str())))).sum()
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
