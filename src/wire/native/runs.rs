//! Runs that are sent: the handles of their feeds, and the entries that the remote has acknowledged.

use std::collections::{HashMap, VecDeque};

use super::encode::{RunBody, put_feed};
use super::handles::HANDLES_MAX;
use super::message::{RUN_BYTES_MAX, RUN_ENTRIES_MAX};
use crate::model::{Chain, Change, Entry, Error, FeedKey, PeerId, Result, Seq};

/// A feed that has a handle.
struct SentFeed {
    feed: FeedKey,
    /// The last seq that was sent, and the chain at it.
    seq: u32,
    chain: Chain,
    /// First and last seq of the ranges that are not acknowledged.
    unacked: VecDeque<(u32, u32)>,
    /// The feed was stopped while entries were not acknowledged. Late acknowledgements may come, so its handle is never given to
    /// another feed.
    is_stopped: bool,
    /// Whether the handle is in [`Runs::idle`].
    is_idle: bool,
}

impl SentFeed {
    fn new(feed: FeedKey, peer: &PeerId) -> Self {
        Self { feed, seq: 0, chain: Chain::start(peer), unacked: VecDeque::new(), is_stopped: false, is_idle: false }
    }

    fn is_busy(&self) -> bool {
        self.is_stopped || !self.unacked.is_empty()
    }
}

/// The runs that were sent, and the run that is being filled.
#[derive(Default)]
pub struct Runs {
    handles: HashMap<FeedKey, u32>,
    /// By handle.
    feeds: Vec<SentFeed>,
    /// Handles that were not busy at some time, the first ones for the longest time. They may be busy again.
    idle: VecDeque<u32>,
    /// The number of handles that are busy.
    busy: usize,
    open: Option<OpenRun>,
    body: RunBody,
    /// The number of entries that are not acknowledged.
    in_flight: u64,
    sent: u64,
    durable: u64,
    /// By handle: the last seq of the runs that were completed since the last call of [`Runs::take_ends`].
    new_ends: HashMap<u32, u32>,
}

/// The run that is being filled.
struct OpenRun {
    handle: u32,
    peer: PeerId,
    first: u32,
    next: u32,
    chain: Chain,
}

impl Runs {
    /// The number of entries that were put into frames.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The number of these entries that are on the remote's disk.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// By handle: the last seq that was sent, for the feeds that were sent since the last call.
    pub fn take_ends(&mut self) -> HashMap<u32, u32> {
        std::mem::take(&mut self.new_ends)
    }

    /// Whether all entries that were sent are on the remote's disk. Stopped feeds do not count.
    pub fn is_acked(&self) -> bool {
        self.in_flight == 0
    }

    /// Adds the next change. `chain_before` returns the local chain before it. Returns false, without the change, if this chain is
    /// not known.
    pub fn add(
        &mut self,
        out: &mut Vec<u8>,
        change: &Change<'_>,
        chain_before: impl FnOnce() -> Result<Option<Chain>>,
    ) -> Result<bool> {
        let (seq, bytes) = (change.seq.get(), if let Entry::Bytes(bytes, _) = change.entry.entry() { bytes } else { b"" });
        let continues = self.open.as_ref().is_some_and(|open| {
            open.next == seq
                && self.body.count() < RUN_ENTRIES_MAX
                && self.body.bytes() + bytes.len() <= RUN_BYTES_MAX
                && open.peer == *change.peer
        });
        if !continues {
            self.close(out);
            self.open = self.begin(out, change, chain_before)?;
        }
        let Some(open) = &mut self.open else { return Ok(false) };
        match change.entry.entry() {
            Entry::Bytes(bytes, _) => self.body.add(bytes),
            Entry::Deleted(tombstone) => self.body.add_deleted(tombstone),
        }
        open.chain = open.chain.next(change.entry.tombstone());
        open.next = seq.wrapping_add(1);
        Ok(true)
    }

    fn begin(
        &mut self,
        out: &mut Vec<u8>,
        change: &Change<'_>,
        chain_before: impl FnOnce() -> Result<Option<Chain>>,
    ) -> Result<Option<OpenRun>> {
        let (peer, first) = (change.peer.clone(), change.seq.get());
        let feed = FeedKey::of(peer.as_str());
        let sent = self.handles.get(&feed).map(|&handle| &self.feeds[handle as usize]);
        let chain = match sent {
            Some(sent) if sent.seq == first - 1 => Some(sent.chain),
            None if first == 1 => Some(Chain::start(&peer)),
            _ => chain_before()?,
        };
        let Some(chain) = chain else { return Ok(None) };
        let handle = match self.handles.get(&feed) {
            Some(&handle) => handle,
            None => self.give_handle(out, feed, &peer)?,
        };
        Ok(Some(OpenRun { handle, peer, first, next: first, chain }))
    }

    /// Gives the feed the next handle. If all handles are given, it gets the handle of a feed whose entries are all acknowledged.
    fn give_handle(&mut self, out: &mut Vec<u8>, feed: FeedKey, peer: &PeerId) -> Result<u32> {
        let sent = SentFeed::new(feed, peer);
        let handle = match self.take_idle() {
            Some(handle) => {
                let before = std::mem::replace(&mut self.feeds[handle as usize], sent);
                self.handles.remove(&before.feed);
                handle
            }
            None => {
                self.feeds.push(sent);
                u32::try_from(self.feeds.len() - 1).map_err(|_| Error::Wire("too many feeds wait for acknowledgements".into()))?
            }
        };
        put_feed(out, handle, peer.as_str());
        self.handles.insert(feed, handle);
        Ok(handle)
    }

    fn take_idle(&mut self) -> Option<u32> {
        if self.feeds.len() < HANDLES_MAX {
            return None;
        }
        loop {
            let handle = self.idle.pop_front()?;
            let feed = &mut self.feeds[handle as usize];
            feed.is_idle = false;
            if !feed.is_busy() {
                return Some(handle);
            }
        }
    }

    /// Whether a new feed can get a handle, also if the run that is being filled needs one more.
    pub fn has_room(&self) -> bool {
        self.busy + 1 < HANDLES_MAX
    }

    /// Ends the run that is being filled.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        let Some(OpenRun { handle, first, next, chain, .. }) = self.open.take() else { return };
        let (last, count) = (next.wrapping_sub(1), u64::from(self.body.count()));
        let Some(first_seq) = Seq::new(u64::from(first)).filter(|_| count > 0) else { return };
        self.body.put(out, handle, first_seq, chain);
        let sent = &mut self.feeds[handle as usize];
        self.busy += usize::from(!sent.is_busy());
        (sent.seq, sent.chain) = (last, chain);
        match sent.unacked.back_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => sent.unacked.push_back((first, last)),
        }
        self.in_flight += count;
        self.sent += count;
        self.new_ends.insert(handle, last);
    }

    /// The remote has all entries of a feed up to `seq` on its disk. `seq` must have been sent.
    pub fn ack(&mut self, handle: u32, seq: u32) {
        let Some(sent) = self.feeds.get_mut(handle as usize).filter(|sent| sent.is_busy()) else { return };
        let mut acked = 0;
        while let Some((first, last)) = sent.unacked.front_mut()
            && *first <= seq
        {
            let up_to = seq.min(*last);
            acked += u64::from(up_to - *first) + 1;
            *first = up_to.wrapping_add(1);
            if up_to == *last {
                sent.unacked.pop_front();
            }
        }
        if !sent.is_busy() {
            self.busy -= 1;
            if !std::mem::replace(&mut sent.is_idle, true) {
                self.idle.push_back(handle);
            }
        }
        self.in_flight -= acked;
        self.durable += acked;
    }

    /// Stops a feed: acknowledgements of its entries are no longer needed.
    pub fn stop(&mut self, feed: FeedKey) {
        let Some(&handle) = self.handles.get(&feed) else { return };
        let sent = &mut self.feeds[handle as usize];
        sent.is_stopped |= sent.is_busy();
        let lost = std::mem::take(&mut sent.unacked);
        self.in_flight -= lost.iter().map(|&(first, last)| u64::from(last - first) + 1).sum::<u64>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HashedEntry, Offset};

    fn send(runs: &mut Runs, peer: &str) -> Vec<u8> {
        let (peer, mut out) = (PeerId::new(peer).unwrap(), Vec::new());
        let change = Change { offset: Offset(1), peer: &peer, seq: Seq::new(1).unwrap(), entry: HashedEntry::new(b"1") };
        runs.add(&mut out, &change, || Ok(Some(Chain::start(&peer)))).unwrap();
        runs.close(&mut out);
        out
    }

    /// A handle is given again only if no acknowledgement of its first feed can come any more.
    #[test]
    fn a_handle_is_given_again_when_all_its_entries_are_acknowledged() {
        let mut runs = Runs::default();
        for n in 0..HANDLES_MAX {
            assert_eq!(runs.has_room(), n + 1 < HANDLES_MAX);
            send(&mut runs, &format!("p{n}"));
        }
        assert!(!runs.has_room() && runs.in_flight == HANDLES_MAX as u64);
        runs.stop(FeedKey::of("p7"));
        assert!(!runs.has_room(), "an acknowledgement of p7 may be on its way");
        runs.ack(7, 1);
        assert!(!runs.has_room());
        runs.ack(9, 1);
        runs.ack(8, 1);
        assert!(runs.has_room());
        send(&mut runs, "p9");
        // 9 was idle first, but is in use again.
        assert_eq!(send(&mut runs, "new")[..7], [8, 3, 8, 8, 18, 3, b'n']);
        assert!(!runs.has_room());
        assert_eq!((runs.handles[&FeedKey::of("p9")], runs.handles.get(&FeedKey::of("p8"))), (9, None));
        (0..HANDLES_MAX as u32).for_each(|handle| runs.ack(handle, 1));
        assert_eq!((runs.is_acked(), runs.durable(), runs.handles.len()), (true, HANDLES_MAX as u64 + 1, HANDLES_MAX));
    }
}
