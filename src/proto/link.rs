//! A session on the native wire as a state machine: frames and what the store says in, events and frames out.

mod differ;

use std::collections::{BTreeMap, HashMap};

use super::Mode;
use super::fork::{ChainOf, Difference, Forks};
use super::handles::Handles;
use super::message::{by_the_other_side, unexpected};
use super::native::{Head, Hello, Message, Run};
use super::put::{put_ack, put_error, put_fin, put_head, put_heads, put_hello, put_synced};
use super::sending::Sending;
use super::session::Remote;
use crate::entry::{Chain, Change, Entry, PeerId, Seq};
use crate::error::{Error, Result};
use crate::heads::FeedKey;

/// How much may wait to be sent before no more is answered: twice what the most feeds that may differ can bring.
const OUTBOX_BYTES_MAX: usize = 16 << 20;

/// What a frame asks of the caller.
#[derive(Debug)]
pub enum Received<'a> {
    /// Nothing.
    Nothing,
    /// The other side has said who it is: see [`Link::theirs`].
    Hello,
    /// To be compared with the log, then told by [`Link::compared`]; whether these are the last.
    Heads(Vec<Head<'a>>, bool),
    /// To be stored, then told by [`Link::stored`].
    Run(PeerId, Run<'a>),
    /// The first entry that differs is known now.
    Differs(Difference),
    /// The other side ends the session, and says why.
    Error(String),
}

/// Where the exchange of heads is.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Heads {
    #[default]
    Pending,
    Over,
}

/// One session on the native wire.
pub struct Link {
    ours: Hello,
    theirs: Option<Hello>,
    greeted: bool,
    our_heads: Heads,
    their_heads: Heads,
    /// Of the heads so far.
    told: Vec<(FeedKey, u32)>,
    remote: Remote,
    /// The feed in work, and what the other side is known to hold of it: entries of one feed mostly follow each other.
    current: Option<(PeerId, FeedKey, u32)>,
    sending: Sending,
    forks: Forks,
    /// Frames that wait to be sent.
    outbox: Vec<u8>,
    caught_up: bool,
    synced_sent: bool,
    synced_come: bool,
    fin_sent: bool,
    fin_come: bool,
    feeds: Handles,
    runs_come: u64,
    runs_stored: u64,
    entries_come: u64,
    entries_new: u64,
    acks: BTreeMap<u32, u32>,
    /// The first entry of each feed that is longer than the other side takes.
    too_long: Vec<(PeerId, Seq)>,
    /// The same for all time: unless it comes from there, nothing of the feed goes there.
    withheld: HashMap<FeedKey, u32>,
    failed: bool,
}

impl Link {
    /// For a side that says this of itself.
    pub fn new(ours: Hello) -> Self {
        Self {
            ours,
            theirs: None,
            greeted: false,
            our_heads: Heads::Pending,
            their_heads: Heads::Pending,
            told: Vec::new(),
            remote: Remote::default(),
            current: None,
            sending: Sending::default(),
            forks: Forks::default(),
            outbox: Vec::new(),
            caught_up: false,
            synced_sent: false,
            synced_come: false,
            fin_sent: false,
            fin_come: false,
            feeds: Handles::default(),
            runs_come: 0,
            runs_stored: 0,
            entries_come: 0,
            entries_new: 0,
            acks: BTreeMap::new(),
            too_long: Vec::new(),
            withheld: HashMap::new(),
            failed: false,
        }
    }

    /// What the other side said of itself, once it has.
    pub fn theirs(&self) -> Option<&Hello> {
        self.theirs.as_ref()
    }

    /// Whether entries go from here to there.
    pub fn sends(&self) -> bool {
        self.theirs.as_ref().is_some_and(|theirs| self.ours.mode.sends_to(theirs.mode))
    }

    /// Whether entries come from there.
    pub fn receives(&self) -> bool {
        self.theirs.as_ref().is_some_and(|theirs| theirs.mode.sends_to(self.ours.mode))
    }

    /// Whether the session goes on when both hold the same: only if both want it, and anything can move at all.
    pub fn is_live(&self) -> bool {
        self.ours.live && self.theirs.as_ref().is_none_or(|theirs| theirs.live && (self.sends() || self.receives()))
    }

    /// Entries put into frames, and those of them that the other side has on disk.
    pub fn counts(&self) -> (u64, u64) {
        (self.sending.sent(), self.sending.durable())
    }

    /// The highest seq of `feed` that the other side is known to hold, if heads were exchanged.
    pub fn known(&self, feed: FeedKey) -> u32 {
        match &self.current {
            Some((_, current, known)) if *current == feed => *known,
            _ => self.remote.head(feed),
        }
    }

    /// Makes `peer` the feed in work.
    fn work_on(&mut self, peer: &PeerId) -> (FeedKey, &mut u32) {
        if self.current.as_ref().is_none_or(|(current, ..)| current != peer) {
            if let Some((_, feed, known)) = self.current.take() {
                self.remote.raise(feed, known);
            }
            let feed = FeedKey::of(peer.as_str());
            self.current = Some((peer.clone(), feed, self.remote.head(feed)));
        }
        let (_, feed, known) = self.current.as_mut().expect("set above");
        (*feed, known)
    }

    /// Takes a frame. `chain_of` gives our own chains.
    ///
    /// # Errors
    /// [`Error::Wire`] when it breaks the protocol, [`Error::Refused`] when it breaks our mode.
    pub fn receive<'a>(&mut self, frame: &'a [u8], chain_of: &mut ChainOf<'_>) -> Result<Received<'a>> {
        let message = Message::decode(frame).map_err(by_the_other_side)?;
        match (&message, &self.theirs) {
            (Message::Hello(_), Some(_)) => return Err(unexpected("a second HELLO")),
            (Message::Hello(_) | Message::Error(_) | Message::Unknown, _) | (_, Some(_)) => {}
            _ => return Err(unexpected("a first frame that is no HELLO")),
        }
        if self.fin_come && !matches!(message, Message::Unknown | Message::Fork(..) | Message::Ack(..) | Message::Error(_)) {
            return Err(unexpected("a frame after FIN"));
        }
        match message {
            Message::Hello(theirs) if theirs.nonce != 0 && theirs.nonce == self.ours.nonce => {
                Err(Error::Wire("what this side says comes back to it: join it to another replicate".into()))
            }
            Message::Hello(theirs) => {
                if theirs.root == self.ours.root {
                    (self.our_heads, self.their_heads) = (Heads::Over, Heads::Over);
                }
                self.theirs = Some(theirs);
                Ok(Received::Hello)
            }
            Message::Heads(..) if self.their_heads == Heads::Over => Err(unexpected("heads that nobody awaits")),
            Message::Heads(heads, last) => Ok(Received::Heads(heads, last)),
            Message::Feed(handle, peer) => self.feeds.name(handle, peer).map(|()| Received::Nothing),
            Message::Run(run) => self.take_run(run),
            Message::Ack(handle, seq) => self.sending.ack(handle, seq).map(|()| Received::Nothing),
            Message::Fork(..) if self.outbox.len() > OUTBOX_BYTES_MAX => {
                Err(Error::Wire("forks whose answers nobody reads".into()))
            }
            Message::Fork(peer, points) => {
                let found = self.forks.compare(&mut self.outbox, peer, &points, chain_of)?;
                self.sending.stop_if(FeedKey::of(peer), |feed| self.forks.is_stopped(feed));
                Ok(found.map_or(Received::Nothing, Received::Differs))
            }
            Message::Synced => {
                self.synced_come = true;
                Ok(Received::Nothing)
            }
            Message::Fin(sent, _) if sent != self.entries_come => {
                Err(unexpected(format!("a FIN after {sent} entries, of which {} came", self.entries_come)))
            }
            Message::Fin(..) => {
                self.fin_come = true;
                Ok(Received::Nothing)
            }
            Message::Error(text) => Ok(Received::Error(text.into_owned())),
            Message::Unknown => Ok(Received::Nothing),
        }
    }

    fn take_run<'a>(&mut self, run: Run<'a>) -> Result<Received<'a>> {
        if !self.receives() || !self.may_offer() {
            return Err(match self.ours.mode {
                Mode::Push => {
                    Error::Refused("the other side sent an entry, but this side only pushes: use --mode sync or pull".into())
                }
                _ => unexpected("entries before the heads, or in a direction that the modes forbid"),
            });
        }
        let peer = self.feeds.get(run.handle)?;
        let max = usize::try_from(self.ours.entry_bytes_max).unwrap_or(usize::MAX);
        if run.longest > max {
            return Err(Error::EntryTooLong(run.longest as u64, max));
        }
        self.entries_come += u64::from(run.count);
        let feed = FeedKey::of(peer.as_str());
        if self.forks.is_stopped(feed) {
            return Ok(Received::Nothing);
        }
        let (_, known) = self.work_on(&peer);
        *known = (*known).max(run.first.get() + (run.count - 1));
        self.runs_come += 1;
        Ok(Received::Run(peer, run))
    }

    /// Whether our heads are to be sent, by [`Link::put_heads`].
    pub fn wants_heads(&self) -> bool {
        self.theirs.is_some() && self.our_heads == Heads::Pending
    }

    /// Adds some of our heads, in the order of the ids, to `out`; the `last` ones say so.
    pub fn put_heads<'a>(&mut self, out: &mut Vec<u8>, heads: impl Iterator<Item = Head<'a>>, last: bool) {
        let mut body = Vec::new();
        heads.for_each(|head| put_head(&mut body, head));
        put_heads(out, &body, last);
        if last {
            self.our_heads = Heads::Over;
        }
    }

    /// Whether the other side's heads are known, so that [`Link::offer`] may be called.
    pub fn may_offer(&self) -> bool {
        self.theirs.is_some() && self.their_heads == Heads::Over
    }

    /// Whether the other side said what it holds. If not, it holds what we held at our HELLO, and heads are 0.
    pub fn has_heads(&self) -> bool {
        self.theirs.as_ref().is_some_and(|theirs| theirs.root != self.ours.root)
    }

    /// Adds a change to what is sent, if the other side lacks it; changes come in our order of arrival, and
    /// [`Link::close_run`] follows the last one. `chain_before` gives our chain before it.
    ///
    /// # Errors
    /// Those of `chain_before`.
    pub fn offer(&mut self, out: &mut Vec<u8>, change: &Change<'_>, chain_before: impl FnOnce() -> Result<Chain>) -> Result<()> {
        let (feed, known) = self.work_on(change.peer);
        if *known >= change.seq.get() || self.forks.is_stopped(feed) || self.is_withheld(feed) {
            return Ok(());
        }
        if let (Entry::Bytes(bytes, _), Some(theirs)) = (change.entry, &self.theirs)
            && bytes.len() as u64 > theirs.entry_bytes_max
        {
            self.withheld.insert(feed, change.seq.get());
            self.too_long.push((change.peer.clone(), change.seq));
            return Ok(());
        }
        *self.work_on(change.peer).1 = change.seq.get();
        self.sending.add(out, change, chain_before)
    }

    /// Ends the run in the making.
    pub fn close_run(&mut self, out: &mut Vec<u8>) {
        self.sending.close(out);
    }

    /// Whether the other side lacks an entry of this feed that is longer than it takes; what comes from there is welcome.
    pub fn is_withheld(&self, feed: FeedKey) -> bool {
        self.withheld.get(&feed).is_some_and(|&seq| self.known(feed) < seq)
    }

    /// Feeds that were stopped because their next entry is longer than the other side takes; each is told once.
    pub fn too_long(&mut self) -> Vec<(PeerId, Seq)> {
        std::mem::take(&mut self.too_long)
    }

    /// All that we held at our HELLO was offered.
    pub fn caught_up(&mut self) {
        self.caught_up = true;
    }

    /// Whether [`Link::caught_up`] was called.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// `runs` more of the runs that came are done with, and on disk: by handle, up to which seq. `new` entries were new.
    pub fn stored(&mut self, runs: u64, new: u64, places: impl IntoIterator<Item = (u32, u32)>) {
        self.runs_stored += runs;
        self.entries_new += new;
        for (handle, seq) in places {
            let acked = self.acks.entry(handle).or_default();
            *acked = seq.max(*acked);
        }
    }

    /// We end the session, and tell the other side why, unless both have said FIN; the first reason counts.
    pub fn fail(&mut self, why: &str) {
        if !self.is_over() && !std::mem::replace(&mut self.failed, true) {
            put_error(&mut self.outbox, why);
        }
    }

    /// Adds the frames that are due, beside heads and runs, to `out`.
    pub fn control(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.greeted, true) {
            put_hello(out, &self.ours);
        }
        out.append(&mut self.outbox);
        for (handle, seq) in std::mem::take(&mut self.acks) {
            put_ack(out, handle, seq);
        }
        let compared = self.our_heads == Heads::Over && self.may_offer();
        if compared && self.caught_up && !std::mem::replace(&mut self.synced_sent, true) {
            put_synced(out);
        }
        if self.may_end() && !self.failed && !std::mem::replace(&mut self.fin_sent, true) {
            put_fin(out, self.sending.sent(), self.entries_new);
        }
    }

    /// Whether both sides hold all, durably, as far as we know.
    fn may_end(&self) -> bool {
        let ended = !self.is_live() || self.fin_come;
        ended && self.synced_sent && self.holds_all() && self.sending.is_acked() && !self.forks.is_searching()
    }

    /// Whether all that the other side held at its HELLO is on disk here.
    pub fn holds_all(&self) -> bool {
        self.synced_come && self.runs_come == self.runs_stored
    }

    /// Whether we have said FIN: all that either side held at its HELLO is on both disks.
    pub fn has_said_fin(&self) -> bool {
        self.fin_sent
    }

    /// Whether both sides have said FIN: the session is over, and complete.
    pub fn is_over(&self) -> bool {
        self.fin_sent && self.fin_come
    }
}
