//! Runs that are sent: the handles of their feeds, and the entries that the remote has acknowledged.

use std::collections::{HashMap, VecDeque};

use super::encode::{RunBody, put_feed};
use super::message::{RUN_BYTES_MAX, RUN_ENTRIES_MAX};
use crate::model::{Chain, Change, Entry, Error, FeedKey, PeerId, Result, Seq};

/// A feed that has a handle.
struct SentFeed {
    /// The last seq that was sent, and the chain at it.
    seq: u32,
    chain: Chain,
}

/// The runs that were sent, and the run that is being filled.
#[derive(Default)]
pub struct Runs {
    handles: HashMap<FeedKey, u32>,
    feeds: Vec<SentFeed>,
    open: Option<OpenRun>,
    body: RunBody,
    /// By handle: first and last seq of the ranges that are not acknowledged.
    unacked: HashMap<u32, VecDeque<(u32, u32)>>,
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

    /// Adds the next change. `chain_before` returns the local chain before it.
    pub fn add(&mut self, out: &mut Vec<u8>, change: &Change<'_>, chain_before: impl FnOnce() -> Result<Chain>) -> Result<()> {
        let (seq, bytes) = (change.seq.get(), if let Entry::Bytes(bytes, _) = change.entry.entry() { bytes } else { b"" });
        let continues = self.open.as_ref().is_some_and(|open| {
            open.next == seq
                && self.body.count() < RUN_ENTRIES_MAX
                && self.body.bytes() + bytes.len() <= RUN_BYTES_MAX
                && open.peer == *change.peer
        });
        if !continues {
            self.close(out);
            self.open = Some(self.begin(out, change, chain_before)?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        match change.entry.entry() {
            Entry::Bytes(bytes, _) => self.body.add(bytes),
            Entry::Deleted(tombstone) => self.body.add_deleted(tombstone),
        }
        open.chain = open.chain.next(change.entry.tombstone());
        open.next = seq.wrapping_add(1);
        Ok(())
    }

    fn begin(&mut self, out: &mut Vec<u8>, change: &Change<'_>, chain_before: impl FnOnce() -> Result<Chain>) -> Result<OpenRun> {
        let (peer, first) = (change.peer.clone(), change.seq.get());
        let feed = FeedKey::of(peer.as_str());
        let handle = match self.handles.get(&feed) {
            Some(&handle) => handle,
            None => {
                let handle = u32::try_from(self.feeds.len())
                    .map_err(|_| Error::FeedFull("the session cannot number more feeds".into()))?;
                put_feed(out, handle, peer.as_str());
                self.handles.insert(feed, handle);
                self.feeds.push(SentFeed { seq: 0, chain: Chain::start(&peer) });
                handle
            }
        };
        let sent = &self.feeds[handle as usize];
        let chain = if sent.seq == first - 1 { sent.chain } else { chain_before()? };
        Ok(OpenRun { handle, peer, first, next: first, chain })
    }

    /// Ends the run that is being filled.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        let Some(OpenRun { handle, first, next, chain, .. }) = self.open.take() else { return };
        let (last, count) = (next.wrapping_sub(1), u64::from(self.body.count()));
        let Some(first_seq) = Seq::new(u64::from(first)).filter(|_| count > 0) else { return };
        self.body.put(out, handle, first_seq, chain);
        self.feeds[handle as usize] = SentFeed { seq: last, chain };
        let unacked = self.unacked.entry(handle).or_default();
        match unacked.back_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => unacked.push_back((first, last)),
        }
        self.in_flight += count;
        self.sent += count;
        self.new_ends.insert(handle, last);
    }

    /// The remote has all entries of a feed up to `seq` on its disk. `seq` must have been sent.
    pub fn ack(&mut self, handle: u32, seq: u32) {
        let Some(unacked) = self.unacked.get_mut(&handle) else { return };
        let mut acked = 0;
        while let Some((first, last)) = unacked.front_mut()
            && *first <= seq
        {
            let up_to = seq.min(*last);
            acked += u64::from(up_to - *first) + 1;
            *first = up_to.wrapping_add(1);
            if up_to == *last {
                unacked.pop_front();
            }
        }
        if unacked.is_empty() {
            self.unacked.remove(&handle);
        }
        self.in_flight -= acked;
        self.durable += acked;
    }

    /// Stops a feed: acknowledgements of its entries are no longer needed.
    pub fn stop(&mut self, feed: FeedKey) {
        let Some(handle) = self.handles.get(&feed) else { return };
        let lost = self.unacked.remove(handle).unwrap_or_default();
        self.in_flight -= lost.iter().map(|&(first, last)| u64::from(last - first) + 1).sum::<u64>();
    }
}
