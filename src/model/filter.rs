//! The entries that a reader wants: by feed, and by seq.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{FeedKey, FeedMap, PeerGlobs, PeerId, Result};

/// The entries that a reader wants: those of some feeds, above some heads.
#[derive(Clone, Default, Debug)]
pub struct EntryFilter {
    /// Ids of single feeds.
    ids: BTreeSet<PeerId>,
    /// Patterns for ids.
    globs: Option<PeerGlobs>,
    /// Shared, because there can be millions of heads.
    above: Arc<FeedMap>,
}

impl EntryFilter {
    /// Wants the entries above the heads `above`, of the feeds that one of `peers` names or matches: each is a peer id or a
    /// pattern of [`PeerGlobs`]. Without `peers`, it wants those of all feeds.
    ///
    /// # Errors
    /// [`Error::PeerId`](super::Error::PeerId) or [`Error::PeerGlob`](super::Error::PeerGlob) if one of `peers` is invalid.
    pub fn new<'a>(peers: impl IntoIterator<Item = &'a str>, above: FeedMap) -> Result<Self> {
        let (mut ids, mut globs) = (BTreeSet::new(), Vec::new());
        for peer in peers {
            // The characters of a pattern can also be those of an id.
            ids.insert(PeerId::new(peer)?);
            if is_glob(peer) {
                globs.push(peer);
            }
        }
        let globs = if globs.is_empty() { None } else { Some(PeerGlobs::new(globs)?) };
        Ok(Self { ids, globs, above: Arc::new(above) })
    }

    /// Whether it wants all entries.
    pub fn is_all(&self) -> bool {
        self.has_all_feeds() && self.above.is_empty()
    }

    /// Whether it wants entries of all feeds.
    pub fn has_all_feeds(&self) -> bool {
        self.ids.is_empty()
    }

    /// The seq above which it wants the entries of the feed of `peer`. `None`: it wants no entry of it.
    pub fn above(&self, peer: &str) -> Option<u32> {
        let has_feed =
            self.ids.is_empty() || self.ids.contains(peer) || self.globs.as_ref().is_some_and(|globs| globs.matches(peer));
        has_feed.then(|| if self.above.is_empty() { 0 } else { self.above.get(FeedKey::of(peer)) })
    }

    /// The ids of the only feeds of which it wants entries. `None`: any feed can be wanted.
    pub fn only(&self) -> Option<&BTreeSet<PeerId>> {
        (self.globs.is_none() && !self.ids.is_empty()).then_some(&self.ids)
    }

    /// The heads above which it wants entries.
    pub fn heads(&self) -> &FeedMap {
        &self.above
    }

    /// The peer ids that are no patterns.
    pub fn ids(&self) -> impl Iterator<Item = &PeerId> {
        self.ids.iter().filter(|id| !is_glob(id.as_str()))
    }

    /// The patterns.
    pub fn globs(&self) -> impl Iterator<Item = &str> {
        self.globs.iter().flat_map(PeerGlobs::texts)
    }
}

/// Whether `peer` has characters of a pattern.
fn is_glob(peer: &str) -> bool {
    peer.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Heads;

    #[test]
    fn a_filter_wants_the_named_and_the_matching_feeds_above_the_heads() {
        let above = || FeedMap::from(&[(PeerId::new("web-1").unwrap(), 5)].into_iter().collect::<Heads>());
        let filter = EntryFilter::new(["db", "web-*", "x[1]"], above()).unwrap();
        for (peer, wanted) in
            [("db", Some(0)), ("web-1", Some(5)), ("web-", Some(0)), ("x1", Some(0)), ("x[1]", Some(0)), ("d", None), ("x", None)]
        {
            assert_eq!(filter.above(peer), wanted, "{peer}");
        }
        assert!(filter.only().is_none() && !filter.is_all() && !filter.has_all_feeds());
        assert_eq!(filter.ids().map(PeerId::as_str).collect::<Vec<_>>(), ["db"]);
        assert_eq!(filter.globs().collect::<Vec<_>>(), ["web-*", "x[1]"]);
        let all = EntryFilter::default();
        assert!(all.is_all() && all.above("any") == Some(0));
        let heads = EntryFilter::new([], above()).unwrap();
        assert!(!heads.is_all() && heads.has_all_feeds() && heads.only().is_none());
        assert_eq!((heads.above("web-1"), heads.above("any")), (Some(5), Some(0)));
        assert_eq!(EntryFilter::new(["db"], FeedMap::default()).unwrap().only().map(BTreeSet::len), Some(1));
        for bad in ["", "x[1", "a*".repeat(128).as_str()] {
            assert!(EntryFilter::new([bad], FeedMap::default()).is_err(), "{bad}");
        }
    }
}
