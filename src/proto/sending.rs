//! What goes to the other side of a native session: handles, runs, and which of them it has acknowledged.

use std::collections::{HashMap, VecDeque};

use super::message::unexpected;
use super::native::{RUN_BYTES_MAX, RUN_ENTRIES_MAX};
use super::put::{RunBody, put_feed};
use crate::entry::{Chain, Change, Entry, PeerId, Seq};
use crate::error::{Error, Result};
use crate::heads::FeedKey;

/// A feed of which something was sent.
struct Sent {
    /// The last seq sent, and the chain there.
    seq: u32,
    chain: Chain,
}

/// The runs on their way, and the one in the making.
#[derive(Default)]
pub struct Sending {
    handles: HashMap<FeedKey, u32>,
    feeds: Vec<Sent>,
    open: Option<Open>,
    body: RunBody,
    /// First and last seq of what is not acknowledged, by handle.
    unacked: HashMap<u32, VecDeque<(u32, u32)>>,
    /// How many entries are not acknowledged.
    in_flight: u64,
    sent: u64,
    durable: u64,
}

struct Open {
    handle: u32,
    peer: PeerId,
    first: u32,
    next: u32,
    chain: Chain,
}

impl Sending {
    /// Entries sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Those of them that the other side has on disk.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Whether all that was sent is durable there, but for stopped feeds.
    pub fn is_acked(&self) -> bool {
        self.in_flight == 0
    }

    /// Adds the next change; `chain_before` gives our chain before it.
    pub fn add(&mut self, out: &mut Vec<u8>, change: &Change<'_>, chain_before: impl FnOnce() -> Result<Chain>) -> Result<()> {
        let (seq, bytes) = (change.seq.get(), if let Entry::Bytes(bytes, _) = change.entry { bytes } else { b"" });
        let goes_on = self.open.as_ref().is_some_and(|open| {
            open.next == seq
                && self.body.count() < RUN_ENTRIES_MAX
                && self.body.bytes() + bytes.len() <= RUN_BYTES_MAX
                && open.peer == *change.peer
        });
        if !goes_on {
            self.close(out);
            self.open = Some(self.begin(out, change, chain_before)?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        match change.entry {
            Entry::Bytes(bytes, _) => self.body.add(bytes),
            Entry::Deleted(tomb) => self.body.add_deleted(tomb),
        }
        open.chain = open.chain.next(change.entry.tomb());
        open.next = seq.wrapping_add(1);
        Ok(())
    }

    fn begin(&mut self, out: &mut Vec<u8>, change: &Change<'_>, chain_before: impl FnOnce() -> Result<Chain>) -> Result<Open> {
        let (peer, first) = (change.peer.clone(), change.seq.get());
        let feed = FeedKey::of(peer.as_str());
        let handle = match self.handles.get(&feed) {
            Some(&handle) => handle,
            None => {
                let handle = u32::try_from(self.feeds.len()).map_err(|_| Error::FeedFull("the session has no place".into()))?;
                put_feed(out, handle, peer.as_str());
                self.handles.insert(feed, handle);
                self.feeds.push(Sent { seq: 0, chain: Chain::start(&peer) });
                handle
            }
        };
        let sent = &self.feeds[handle as usize];
        let chain = if sent.seq == first - 1 { sent.chain } else { chain_before()? };
        Ok(Open { handle, peer, first, next: first, chain })
    }

    /// Ends the run in the making.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        let Some(Open { handle, first, next, chain, .. }) = self.open.take() else { return };
        let (last, count) = (next.wrapping_sub(1), u64::from(self.body.count()));
        let Some(first_seq) = Seq::new(u64::from(first)).filter(|_| count > 0) else { return };
        self.body.put(out, handle, first_seq, chain);
        self.feeds[handle as usize] = Sent { seq: last, chain };
        let unacked = self.unacked.entry(handle).or_default();
        match unacked.back_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => unacked.push_back((first, last)),
        }
        self.in_flight += count;
        self.sent += count;
    }

    /// The other side has all of a feed up to `seq` on disk.
    ///
    /// # Errors
    /// [`Error::Wire`] if that was never sent.
    pub fn ack(&mut self, handle: u32, seq: u32) -> Result<()> {
        if self.feeds.get(handle as usize).is_none_or(|sent| seq > sent.seq) {
            return Err(unexpected("an acknowledgement of what was not sent"));
        }
        let Some(unacked) = self.unacked.get_mut(&handle) else { return Ok(()) };
        let mut acked = 0;
        while let Some((first, last)) = unacked.front_mut()
            && *first <= seq
        {
            let upto = seq.min(*last);
            acked += u64::from(upto - *first) + 1;
            *first = upto.wrapping_add(1);
            if upto == *last {
                unacked.pop_front();
            }
        }
        if unacked.is_empty() {
            self.unacked.remove(&handle);
        }
        self.in_flight -= acked;
        self.durable += acked;
        Ok(())
    }

    /// As [`Sending::stop`], if `is_stopped` says so.
    pub fn stop_if(&mut self, feed: FeedKey, is_stopped: impl FnOnce(FeedKey) -> bool) {
        if is_stopped(feed) {
            self.stop(feed);
        }
    }

    /// What is on the way of this feed will not be acknowledged.
    pub fn stop(&mut self, feed: FeedKey) {
        let Some(handle) = self.handles.get(&feed) else { return };
        let lost = self.unacked.remove(handle).unwrap_or_default();
        self.in_flight -= lost.iter().map(|&(first, last)| u64::from(last - first) + 1).sum::<u64>();
    }
}
