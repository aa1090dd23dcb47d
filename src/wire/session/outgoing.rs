//! The sending half of a session.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Local, News, Progress, Remote, raise_all};
use crate::model::{Chain, Change, Entry, FeedKey, FeedMap, Offset, PeerGlobs, PeerId, Result, Seq};
use crate::wire::native::{
    Head, Runs, WITHHELD, put_ack, put_compare, put_error, put_fin, put_floor, put_head, put_heads, put_hello, put_pull,
    put_synced,
};
use crate::wire::negotiate::{PREAMBLE, Wire};
use crate::wire::original::{can_hold, digest_bytes, put_change, put_digest, put_handshake, put_mode};
use crate::wire::{Mode, RemoteHeads};

/// The number of heads in one HEADS of the native wire.
const HEADS_MAX: usize = 256;
/// The number of heads that are added to a handshake of the original wire at once.
const DIGESTS_MAX: usize = 4096;

/// The next task of the driver for the outgoing half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// Wait for news, or for new entries in the log.
    Wait,
    /// Give the next heads of the log to [`Outgoing::add_head`], then call [`Outgoing::end_heads`].
    AddHeads,
    /// Give changes of the log to [`Outgoing::offer`], then call [`Outgoing::end_offers`]. If the log has no more changes, call
    /// [`Outgoing::caught_up`].
    Offer,
}

/// An entry or a feed that the remote lacks, but that this session cannot send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeftOut {
    /// The entry is deleted, and the original wire cannot send deleted entries: the remote gets a gap. Reported once for each
    /// feed.
    Deleted(PeerId, Seq),
    /// The remote does not accept this feed (native wire). Reported once for each session.
    NotAllowed(PeerId),
    /// The original cannot hold a feed with this id. Reported once for each session.
    Id(PeerId),
    /// The entry is longer than the remote accepts, in bytes: the feed is stopped.
    TooLong(PeerId, Seq, u64),
    /// The remote lacks entries up to this one, which were pruned, and does not know floors. On the original wire the remote gets a
    /// gap. On the native wire the feed is not sent.
    Pruned(PeerId, Seq),
    /// The session is live, and the mode of the remote closes a direction that the local mode opens. Reported once for each
    /// session.
    Direction(Mode),
}

/// The local feed before an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    /// The chain there.
    pub chain: Chain,
    /// Whether the floor is there: the log does not hold the entry before.
    pub is_floor: bool,
}

/// The outgoing half of a session.
pub struct Outgoing {
    local: Local,
    protocol: Protocol,
    preamble_sent: bool,
    /// The root for the HELLO is known.
    has_root: bool,
    remote: Option<Remote>,
    /// The heads that are being added, encoded, their number, and the last feed of the log that was added.
    heads: Vec<u8>,
    head_count: usize,
    heads_after: Option<PeerId>,
    /// The heads of the log at the announcement, where they are needed later: on the original wire, and if the modes let this side
    /// send nothing.
    announced: FeedMap,
    /// No more heads are to be added.
    heads_sent: bool,
    /// The last offset at the start: that of the HELLO, later that of the heads.
    announced_offset: Offset,
    has_remote_heads: bool,
    held: Held,
    /// Feeds of which nothing is sent.
    stopped: HashSet<FeedKey>,
    /// Feeds withheld because an entry exceeds the remote's limit, or was pruned: the seq of that entry.
    withheld: HashMap<FeedKey, u32>,
    left_out: Vec<LeftOut>,
    /// The number of feeds that were withheld.
    withheld_feeds: u64,
    is_refusal_reported: bool,
    /// Frames that are complete.
    frames: Vec<u8>,
    /// All changes were offered; see [`Outgoing::caught_up`].
    caught_up: bool,
    input_ended: bool,
}

enum Protocol {
    /// The remote has not shown yet which wire it speaks.
    Undecided,
    Original(Original),
    Native(Box<Native>),
}

/// The state that only the original wire needs.
#[derive(Default)]
struct Original {
    /// The heads were counted. The frame begins with its length, so that the heads are read twice: they are counted, then
    /// written as they were.
    has_counted: bool,
    digests_bytes: u64,
    /// Feeds of which a deleted or pruned entry was left out, and how many entries were.
    gap_feeds: HashSet<PeerId>,
    deleted: u64,
    is_id_reported: bool,
    framed: u64,
}

/// The state that only the native wire needs.
#[derive(Default)]
struct Native {
    runs: Runs,
    acks: HashMap<u32, u32>,
    incoming: Progress,
    /// A side that only receives or compares has sent PULL or COMPARE.
    mode_sent: bool,
    hello_sent: bool,
    synced_sent: bool,
    fin_sent: bool,
    failed: bool,
    /// An ERROR, which is the last frame.
    error_frame: Vec<u8>,
}

impl Native {
    /// Whether both logs hold everything, durably, as far as this side knows.
    fn has_caught_up(&self) -> bool {
        let Progress { runs_received, runs_stored, synced, searching, .. } = self.incoming;
        let holds_all = synced && runs_received == runs_stored && !searching;
        self.synced_sent && holds_all && self.runs.is_acked()
    }

    /// Whether the session may end. A live session ends only after the remote's FIN.
    fn may_end(&self, is_live: bool) -> bool {
        (!is_live || self.incoming.fin) && self.has_caught_up()
    }

    fn is_over(&self) -> bool {
        self.fin_sent && self.incoming.fin
    }
}

impl Outgoing {
    pub(super) fn new(local: Local) -> Self {
        // If only the original wire is allowed, the handshake does not depend on the remote.
        let is_original = local.wire == Some(Wire::Original);
        Self {
            protocol: if is_original { Protocol::Original(Original::default()) } else { Protocol::Undecided },
            preamble_sent: is_original,
            has_root: !local.mode.waits_for_remote(),
            remote: None,
            heads: Vec::new(),
            head_count: 0,
            heads_after: None,
            announced: FeedMap::default(),
            heads_sent: false,
            announced_offset: local.last_offset,
            has_remote_heads: false,
            held: Held { selected: local.choice.selected.clone(), ..Held::default() },
            stopped: HashSet::new(),
            withheld: HashMap::new(),
            left_out: Vec::new(),
            withheld_feeds: 0,
            is_refusal_reported: false,
            frames: Vec::new(),
            caught_up: false,
            input_ended: false,
            local,
        }
    }

    fn native(&self) -> Option<&Native> {
        if let Protocol::Native(native) = &self.protocol { Some(native) } else { None }
    }

    /// Takes the news of the incoming half.
    pub fn learn(&mut self, news: News) {
        if let (Some(wire), Protocol::Undecided) = (news.wire, &self.protocol) {
            self.protocol = match wire {
                Wire::Original => Protocol::Original(Original::default()),
                Wire::Native => Protocol::Native(Box::default()),
            };
        }
        if let Some(root) = news.local_root {
            self.local.root = root;
            self.has_root = true;
        }
        if let Some(remote) = news.remote {
            let mode = remote.mode;
            self.held.allowed = remote.allowed.clone();
            self.remote = Some(remote);
            // Equal roots are equal logs: no heads are exchanged.
            self.heads_sent |= self.roots_are_equal();
            let local = self.local.mode;
            // Such a remote waits for the heads, which the incoming half has sent.
            self.heads_sent |= local == Mode::Compare && mode.is_private() && self.native().is_some();
            let is_refused = local.sends() && !mode.receives() || local.receives() && !mode.sends();
            if is_refused && self.is_live() {
                self.left_out.push(LeftOut::Direction(mode));
            }
        }
        if let Some(heads) = news.heads {
            self.held.announced = heads;
            self.has_remote_heads = true;
            self.heads_sent |= self.local.mode == Mode::Compare && self.native().is_some();
        }
        news.held.iter().for_each(|(feed, seq)| self.held.raise(feed, seq));
        self.frames.extend_from_slice(&news.frames);
        if news.input_ended {
            // Everything is offered once more.
            (self.input_ended, self.caught_up) = (true, false);
        }
        if let Protocol::Native(native) = &mut self.protocol {
            // Before the feeds are stopped: entries on the remote's disk count, also those of a feed that is stopped now.
            news.acked.into_iter().for_each(|(handle, seq)| native.runs.ack(handle, seq));
            news.stopped.iter().filter(|feed| !self.stopped.contains(feed)).for_each(|feed| native.runs.stop(*feed));
            raise_all(&mut native.acks, news.acks);
            native.incoming = news.progress.unwrap_or(native.incoming);
        }
        self.stopped.extend(news.stopped);
    }

    fn roots_are_equal(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.root == Some(self.local.root))
    }

    /// Whether the remote's heads are known, or equal the heads of this log.
    fn may_offer(&self) -> bool {
        self.has_remote_heads || self.roots_are_equal()
    }

    /// Whether the modes let this side send entries, and receive entries.
    pub fn directions(&self) -> (bool, bool) {
        (self.sends(), self.receives())
    }

    fn sends(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| self.local.mode.sends_to(remote.mode))
    }

    fn receives(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.mode.sends_to(self.local.mode))
    }

    /// Adds the frames that are due, except frames of entries.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.preamble_sent, true) {
            out.extend_from_slice(PREAMBLE);
        }
        let (compared, sends) = (self.heads_sent && self.may_offer(), self.sends());
        let is_live = self.is_live();
        let Protocol::Native(native) = &mut self.protocol else { return out.append(&mut self.frames) };
        if self.local.mode.waits_for_remote() && !std::mem::replace(&mut native.mode_sent, true) {
            if self.local.mode == Mode::Compare { put_compare(out) } else { put_pull(out) }
        }
        if self.has_root && !std::mem::replace(&mut native.hello_sent, true) {
            put_hello(out, &self.local.hello());
        }
        out.append(&mut self.frames);
        for (handle, seq) in std::mem::take(&mut native.acks) {
            put_ack(out, handle, seq);
        }
        self.caught_up |= compared && !sends;
        if compared && self.caught_up && !std::mem::replace(&mut native.synced_sent, true) {
            put_synced(out);
        }
        if native.may_end(is_live) && !native.failed && !std::mem::replace(&mut native.fin_sent, true) {
            put_fin(out, native.runs.sent(), native.incoming.entries_new);
        }
        out.append(&mut native.error_frame);
    }

    /// The next task of the driver.
    pub fn task(&self) -> Task {
        let may_add_heads = match &self.protocol {
            Protocol::Undecided => false,
            Protocol::Original(_) => !self.waits_for_heads() || self.has_remote_heads,
            // The incoming half sends the heads, of which there are none.
            Protocol::Native(_) if self.local.mode == Mode::Compare => false,
            Protocol::Native(native) => self.remote.as_ref().is_some_and(|remote| {
                let knows_names = self.has_remote_heads || remote.mode.is_private();
                !native.fin_sent && (!self.names_only_named() || knows_names)
            }),
        };
        if may_add_heads && !self.heads_sent {
            Task::AddHeads
        } else if !self.has_sent_fin()
            && self.may_offer()
            && self.sends()
            && self.has_room()
            && (self.is_live() || !self.caught_up)
        {
            Task::Offer
        } else {
            Task::Wait
        }
    }

    /// Whether this side announces only feeds that the remote has named. With the original wire only, the handshake does not
    /// wait: two such sides would wait for each other.
    fn names_only_named(&self) -> bool {
        self.local.mode.is_private() && self.local.wire != Some(Wire::Original)
    }

    /// Whether the handshake of the original wire waits for that of the remote.
    fn waits_for_heads(&self) -> bool {
        self.names_only_named() || self.local.choice.is_partial() && self.local.wire != Some(Wire::Original)
    }

    /// The feed after which the next heads must begin, and the maximum number of heads to add.
    pub fn heads_wanted(&self) -> (Option<&PeerId>, usize) {
        (self.heads_after.as_ref(), if self.native().is_some() { HEADS_MAX } else { DIGESTS_MAX })
    }

    /// Whether the remote has chosen some feeds.
    pub fn remote_is_partial(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.partial)
    }

    /// Whether the remote has described itself in its handshake.
    pub fn knows_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// Whether it is decided which heads are announced, so that the log may change.
    pub fn knows_heads(&self) -> bool {
        !matches!(&self.protocol, Protocol::Original(original) if !original.has_counted)
    }

    /// Adds a head of the log, and the chain at it. Heads must be added in the order of the ids.
    pub fn add_head(&mut self, peer: &str, seq: u32, chain: Chain) {
        self.heads_after = PeerId::new(peer).ok();
        if self.local.mode == Mode::Compare {
            return;
        }
        let seq = if self.local.choice.selects(peer) { seq } else { self.left_out_head(peer, seq) };
        if seq == 0 {
            return;
        }
        // These heads are counted, also if they are not revealed.
        let is_counted = match &self.protocol {
            Protocol::Original(original) => !original.has_counted && can_hold(peer),
            // Feeds that the remote does not accept would not be sent in another mode either.
            _ => !self.sends() && self.held.allowed.matches(peer),
        };
        if is_counted {
            self.announced.set(FeedKey::of(peer), seq);
        }
        let Some(chain) = self.revealed(peer, seq, chain) else { return };
        match &mut self.protocol {
            Protocol::Original(original) if original.has_counted => {
                // A later head, or a later feed, is not part of the length of the frame.
                match self.announced.get(FeedKey::of(peer)) {
                    0 => {}
                    seq => put_digest(&mut self.heads, peer, seq),
                }
            }
            Protocol::Original(_) if !can_hold(peer) => self.leave_out_id(peer),
            Protocol::Original(original) => original.digests_bytes += digest_bytes(peer, seq) as u64,
            _ => {
                put_head(&mut self.heads, Head { peer, seq, chain });
                self.head_count += 1;
            }
        }
    }

    /// The head to announce of a feed that does not take part; 0: none. A remote of the original wire sends what is above the head, and
    /// awaits what is announced. So the head of the remote is announced, as far as the log holds the feed: then the least comes, and
    /// nothing is awaited.
    fn left_out_head(&self, peer: &str, seq: u32) -> u32 {
        match &self.protocol {
            Protocol::Original(_) => seq.min(self.held.announced.get(FeedKey::of(peer))),
            _ => 0,
        }
    }

    /// The chain to announce with a head. `None`: the head is not announced.
    fn revealed(&self, peer: &str, seq: u32, chain: Chain) -> Option<Chain> {
        if !self.names_only_named() {
            return Some(chain);
        }
        let feed = FeedKey::of(peer);
        // Entries that come later name nothing: the handshake of the original wire has a fixed length.
        if self.held.announced.get(feed) == 0 {
            return None;
        }
        if self.remote.as_ref().is_some_and(|remote| remote.evidence) {
            return Some(WITHHELD);
        }
        // An older remote has proved its heads: see `IncomingHalf::compared`. The original wire has no chains.
        let is_proved = || self.held.announced.proved(feed) == seq && !self.stopped.contains(&feed);
        (self.native().is_none() || is_proved()).then_some(chain)
    }

    /// Ends these heads. `last`: the log has no more feeds. `last_offset`: of the snapshot that they are from. Later heads may
    /// be newer than earlier ones: then this side holds more than it says.
    pub fn end_heads(&mut self, last: bool, last_offset: Offset) {
        // The number of frames must not reveal the number of feeds.
        let may_wait = self.names_only_named() && self.head_count < HEADS_MAX;
        match &mut self.protocol {
            Protocol::Original(original) if !original.has_counted => {
                self.announced_offset = last_offset;
                if last {
                    (original.has_counted, self.heads_after) = (true, None);
                    put_handshake(&mut self.frames, &self.local.id, original.digests_bytes);
                }
            }
            Protocol::Original(_) => {
                self.frames.append(&mut self.heads);
                if last {
                    put_mode(&mut self.frames, self.local.mode);
                }
                self.heads_sent = last;
            }
            _ if !last && may_wait => {}
            _ => {
                put_heads(&mut self.frames, &std::mem::take(&mut self.heads), last);
                self.head_count = 0;
                (self.heads_sent, self.announced_offset) = (last, last_offset);
            }
        }
    }

    /// After which offset the offers must begin, where that is known: a remote with an equal root lacks only what arrived
    /// since. Else the driver finds the first entry above [`Outgoing::held`].
    pub fn offers_start(&self) -> Option<Offset> {
        self.roots_are_equal().then_some(self.announced_offset)
    }

    /// The last offset at the moment when the local side announced its heads or its root.
    pub fn announced_offset(&self) -> Offset {
        self.announced_offset
    }

    /// Whether one more entry may be offered. If not, too many feeds wait for acknowledgements.
    pub fn has_room(&self) -> bool {
        self.native().is_none_or(|native| native.runs.has_room())
    }

    /// Whether entries are offered as they arrive in the log; else only up to [`Outgoing::announced_offset`]. Both sides must
    /// want it, and entries must be allowed to move at all.
    pub fn is_live(&self) -> bool {
        let remote_is = |remote: &Remote| remote.live && (self.sends() || self.receives());
        self.local.live && self.remote.as_ref().is_none_or(remote_is)
    }

    /// The highest seq of a feed that does not have to be offered: the remote is known to hold it, or the feed is not sent.
    pub fn held(&self, peer: &str) -> u32 {
        let feed = FeedKey::of(peer);
        let is_sent = !matches!(self.protocol, Protocol::Original(_)) || can_hold(peer);
        let is_sent = is_sent && self.held.allowed.matches(peer) && self.held.selected.matches(peer);
        if is_sent && !self.stopped.contains(&feed) { self.held.get(feed) } else { u32::MAX }
    }

    /// The floor of a feed of the log, and the chain there. Floors must be offered before the changes above them: before the first
    /// change, and again when the log was pruned. A feed without a floor need not be offered.
    pub fn offer_floor(&mut self, out: &mut Vec<u8>, peer: &PeerId, seq: Seq, chain: Chain) {
        let current = self.held.of(peer);
        let (feed, held) = (current.feed, current.seq);
        if held >= seq.get() || !current.is_selected || self.stopped.contains(&feed) {
            return;
        }
        if !current.is_allowed {
            return self.refuse(peer);
        }
        let knows_floors = self.remote.as_ref().is_some_and(|remote| remote.floors);
        match &mut self.protocol {
            Protocol::Native(native) if knows_floors => {
                native.runs.close(out);
                put_floor(out, Head { peer: peer.as_str(), seq: seq.get(), chain });
                current.seq = seq.get();
                // An entry that is too long may be one of those that were pruned.
                if self.withheld.get(&feed).is_some_and(|&at| at <= seq.get()) {
                    self.withheld.remove(&feed);
                }
            }
            Protocol::Native(_) => {
                if self.withheld.insert(feed, seq.get()).is_none() {
                    self.withheld_feeds += 1;
                    self.left_out.push(LeftOut::Pruned(peer.clone(), seq));
                }
            }
            Protocol::Original(_) if !can_hold(peer.as_str()) => {
                current.seq = u32::MAX;
                self.leave_out_id(peer.as_str());
            }
            Protocol::Original(original) => {
                original.deleted += u64::from(seq.get() - held);
                current.seq = seq.get();
                if original.gap_feeds.insert(peer.clone()) {
                    self.left_out.push(LeftOut::Pruned(peer.clone(), seq));
                }
            }
            Protocol::Undecided => {}
        }
    }

    /// Adds a change to `out` if the remote lacks it. Changes must be offered in the order of arrival. `before` returns what the log
    /// knows before the change, or `None` if it was pruned. Then this returns false: the floors and later changes must be offered.
    ///
    /// # Errors
    /// Those of `before`.
    pub fn offer(
        &mut self,
        out: &mut Vec<u8>,
        change: &Change<'_>,
        before: impl FnOnce() -> Result<Option<Before>>,
    ) -> Result<bool> {
        let current = self.held.of(change.peer);
        let (feed, is_allowed, is_first) = (current.feed, current.is_allowed, current.seq == 0);
        let held = &current.seq;
        if !current.is_selected {
            return Ok(true);
        }
        if !is_allowed && *held < change.seq.get() {
            self.refuse(change.peer);
            return Ok(true);
        }
        if *held >= change.seq.get()
            || self.withheld.get(&feed).is_some_and(|&seq| *held < seq)
            || (!self.stopped.is_empty() && self.stopped.contains(&feed))
        {
            return Ok(true);
        }
        if let (Entry::Bytes(bytes, _), Some(&Remote { entry_bytes_max, .. })) = (change.entry.entry(), self.remote.as_ref())
            && bytes.len() as u64 > entry_bytes_max
        {
            self.withheld.insert(feed, change.seq.get());
            self.left_out.push(LeftOut::TooLong(change.peer.clone(), change.seq, entry_bytes_max));
            self.withheld_feeds += 1;
            return Ok(true);
        }
        if change.seq.get() - *held > 1 {
            let Some(Before { chain, is_floor }) = before()? else { return Ok(false) };
            // The feed has begun anew since its floor was offered.
            if let Some(floor) = Seq::new(u64::from(change.seq.get()) - 1).filter(|_| is_floor) {
                self.offer_floor(out, change.peer, floor, chain);
                if self.held.of(change.peer).seq != floor.get() {
                    return Ok(true);
                }
            }
            return self.frame(out, change, is_first, || Ok(Some(chain)));
        }
        self.frame(out, change, is_first, || Ok(before()?.map(|before| before.chain)))
    }

    /// Adds a change to `out`. `is_first`: the remote lacks the whole feed.
    fn frame(
        &mut self,
        out: &mut Vec<u8>,
        change: &Change<'_>,
        is_first: bool,
        chain_before: impl FnOnce() -> Result<Option<Chain>>,
    ) -> Result<bool> {
        let held = &mut self.held.of(change.peer).seq;
        if let Protocol::Native(native) = &mut self.protocol {
            let is_added = native.runs.add(out, change, chain_before)?;
            if is_added {
                *held = change.seq.get();
            }
            return Ok(is_added);
        }
        *held = change.seq.get();
        match (&mut self.protocol, change.entry.entry()) {
            (Protocol::Original(_), _) if is_first && !can_hold(change.peer.as_str()) => {
                // The rest of the feed is skipped.
                *held = u32::MAX;
                self.leave_out_id(change.peer.as_str());
            }
            (Protocol::Original(original), Entry::Bytes(bytes, _)) => {
                put_change(out, change.peer, change.seq, bytes);
                original.framed += 1;
            }
            // The original also sends the entries after the gap.
            (Protocol::Original(original), Entry::Deleted(_)) => {
                original.deleted += 1;
                if original.gap_feeds.insert(change.peer.clone()) {
                    self.left_out.push(LeftOut::Deleted(change.peer.clone(), change.seq));
                }
            }
            (Protocol::Native(_) | Protocol::Undecided, _) => {}
        }
        Ok(true)
    }

    /// The remote does not accept the feed of `peer`.
    fn refuse(&mut self, peer: &PeerId) {
        let is_wanted = self.remote.as_ref().is_some_and(|remote| remote.partial);
        if !is_wanted && !std::mem::replace(&mut self.is_refusal_reported, true) {
            self.left_out.push(LeftOut::NotAllowed(peer.clone()));
        }
    }

    fn leave_out_id(&mut self, peer: &str) {
        if let (Protocol::Original(original), Ok(peer)) = (&mut self.protocol, PeerId::new(peer))
            && !std::mem::replace(&mut original.is_id_reported, true)
        {
            self.left_out.push(LeftOut::Id(peer));
        }
    }

    /// Completes the frames of the offers so far.
    pub fn end_offers(&mut self, out: &mut Vec<u8>) {
        if let Protocol::Native(native) = &mut self.protocol {
            native.runs.close(out);
        }
    }

    /// All changes were offered: all that exist, or all up to the announced offset. Returns whether this is new.
    pub fn caught_up(&mut self) -> bool {
        !std::mem::replace(&mut self.caught_up, true)
    }

    /// The entries and feeds that were left out since the last call.
    pub fn take_left_out(&mut self) -> Vec<LeftOut> {
        std::mem::take(&mut self.left_out)
    }

    /// The local side ends the session early. Tells the remote why, where the wire can, unless both sides have said FIN. The
    /// first reason counts. `refused`: the local side refuses what the remote sent.
    pub fn fail(&mut self, why: &str, refused: bool) {
        if let Protocol::Native(native) = &mut self.protocol
            && !native.is_over()
            && !std::mem::replace(&mut native.failed, true)
        {
            put_error(&mut native.error_frame, why, refused);
        }
    }

    /// Whether the local side has said that both logs hold everything (FIN).
    pub fn has_sent_fin(&self) -> bool {
        self.native().is_some_and(|native| native.fin_sent)
    }

    /// Whether everything is sent, so that the stream may be closed.
    pub fn is_over(&self) -> bool {
        match &self.protocol {
            Protocol::Undecided => false,
            Protocol::Native(native) => native.is_over(),
            Protocol::Original(_) => {
                let all_sent = self.caught_up && (!self.local.live || self.input_ended);
                self.heads_sent && self.frames.is_empty() && self.remote.is_some() && (all_sent || !self.sends())
            }
        }
    }

    /// Whether everything that may move has moved, except stopped feeds. On the original wire: whether everything is sent.
    pub fn has_caught_up(&self) -> bool {
        match &self.protocol {
            Protocol::Undecided => false,
            Protocol::Native(native) => native.has_caught_up(),
            Protocol::Original(_) => self.remote.is_some() && (self.caught_up || !self.sends()),
        }
    }

    /// Whether entries of some feeds are not sent, because their feeds are stopped.
    pub fn has_stopped_feeds(&self) -> bool {
        !self.stopped.is_empty() || !self.withheld.is_empty()
    }

    /// Whether both sides have confirmed that the session is complete. Always false on the original wire.
    pub fn is_confirmed(&self) -> bool {
        self.native().is_some_and(Native::is_over)
    }

    /// Whether an idle side must send heartbeats.
    pub fn has_heartbeats(&self) -> bool {
        self.native().is_some()
    }

    /// The last seq that was put into frames since the last call, by the local handle of the feed. The incoming half needs it
    /// before the frames are written, to check the acknowledgements.
    pub fn take_sent(&mut self) -> HashMap<u32, u32> {
        match &mut self.protocol {
            Protocol::Native(native) => native.runs.take_ends(),
            _ => HashMap::new(),
        }
    }

    /// The number of entries that were put into frames.
    pub fn framed(&self) -> u64 {
        match &self.protocol {
            Protocol::Native(native) => native.runs.sent(),
            Protocol::Original(original) => original.framed,
            Protocol::Undecided => 0,
        }
    }

    /// The number of these entries that are on the remote's disk; `None` on the original wire.
    pub fn durable(&self) -> Option<u64> {
        self.native().map(|native| native.runs.durable())
    }

    /// The number of deleted or pruned entries that were left out, and the number of feeds that were withheld at an entry that is too
    /// long or was pruned.
    pub fn left_out(&self) -> (u64, u64) {
        let deleted = if let Protocol::Original(original) = &self.protocol { original.deleted } else { 0 };
        (deleted, self.withheld_feeds)
    }

    /// Whether [`Outgoing::lacks`] may be above 0 for a feed. `ended_early`: the output ended before everything was sent.
    pub fn has_unsent(&self, ended_early: bool) -> bool {
        let is_finished = self.native().map_or(!ended_early, Native::is_over);
        (!is_finished || self.withheld_feeds > 0) && self.has_remote_heads && self.sends()
    }

    /// The number of entries that the remote lacked at the start and that the modes do not let this side send. Feeds that are
    /// stopped do not count. `None` if the remote does not say what it holds.
    pub fn unsent_by_mode(&self) -> Option<u64> {
        if self.local.mode.is_private() && self.remote_is_silent() {
            return None;
        }
        if self.sends() || !self.has_remote_heads || !self.heads_sent {
            return Some(0);
        }
        let announced = self.announced.iter().filter(|(feed, _)| !self.stopped.contains(feed));
        Some(announced.map(|(feed, seq)| u64::from(seq.saturating_sub(self.held.get(feed)))).sum())
    }

    /// Whether the remote may hold feeds that it does not name: its mode is pull, and it has not said that its root is equal. Two
    /// such sides send no root.
    pub fn remote_is_silent(&self) -> bool {
        let withholds = self.remote.as_ref().is_some_and(|remote| remote.withholds);
        withholds && (self.local.mode.is_private() || !self.roots_are_equal())
    }

    /// The number of entries of a feed that the remote is not known to hold. `head` is the head of the feed in the log.
    pub fn lacks(&self, peer: &str, head: u32) -> u64 {
        let (feed, held) = (FeedKey::of(peer), self.held(peer));
        let promised = match &self.protocol {
            // Only what the handshake announced. Without a handshake, the whole feed was to be sent.
            Protocol::Original(_) if self.heads_sent => self.announced.get(feed).min(head),
            // After FIN, entries that were appended since belong to the next session: only a withheld feed lacks something.
            Protocol::Native(native) if native.fin_sent && self.withheld.get(&feed).is_none_or(|&seq| held >= seq) => 0,
            _ => head,
        };
        u64::from(promised.saturating_sub(held))
    }
}

/// The entries that the remote is known to hold: it announced them, sent them, or received them.
#[derive(Default)]
struct Held {
    announced: Arc<RemoteHeads>,
    /// Feeds that the remote holds further than it announced.
    raised: FeedMap,
    /// The feeds that the remote accepts.
    allowed: PeerGlobs,
    /// The feeds that take part.
    selected: PeerGlobs,
    /// The current feed. Successive entries usually belong to the same feed, so that its head is looked up only once.
    current: Option<CurrentFeed>,
}

struct CurrentFeed {
    peer: PeerId,
    feed: FeedKey,
    /// Whether the remote accepts it.
    is_allowed: bool,
    /// Whether it takes part.
    is_selected: bool,
    /// The highest seq that the remote holds.
    seq: u32,
    /// The value of `seq` in the maps.
    stored: u32,
}

impl Held {
    /// The highest seq of a feed that the remote holds.
    fn get(&self, feed: FeedKey) -> u32 {
        match &self.current {
            Some(current) if current.feed == feed => current.seq,
            _ => self.stored(feed),
        }
    }

    fn stored(&self, feed: FeedKey) -> u32 {
        self.announced.get(feed).max(self.raised.get(feed))
    }

    /// The remote holds a feed up to `seq`.
    fn raise(&mut self, feed: FeedKey, seq: u32) {
        if let Some(current) = self.current.as_mut().filter(|current| current.feed == feed) {
            current.seq = seq.max(current.seq);
        } else if seq > self.stored(feed) {
            self.raised.set(feed, seq);
        }
    }

    /// `peer` becomes the current feed. Its seq may be raised.
    fn of(&mut self, peer: &PeerId) -> &mut CurrentFeed {
        if self.current.as_ref().is_none_or(|current| current.peer != *peer) {
            if let Some(CurrentFeed { feed, seq, stored, .. }) = self.current.take()
                && seq > stored
            {
                self.raised.set(feed, seq);
            }
            let feed = FeedKey::of(peer.as_str());
            let (is_allowed, seq) = (self.allowed.matches(peer.as_str()), self.stored(feed));
            let is_selected = self.selected.matches(peer.as_str());
            self.current = Some(CurrentFeed { peer: peer.clone(), feed, is_allowed, is_selected, seq, stored: seq });
        }
        self.current.as_mut().expect("set above")
    }
}
