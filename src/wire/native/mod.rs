//! The wire between two scuttleup programs. Each side sends HELLO, and HEADS if the roots differ. Then it sends the runs that
//! the remote lacks, acknowledges the runs that it has stored, and sends SYNCED and FIN. If a feed differs, both sides search
//! for the fork.

mod encode;
mod forks;
mod handles;
mod message;
mod runs;

use std::collections::HashMap;
use std::sync::Arc;

pub use forks::{Difference, DifferenceKind};
pub use message::{FRAME_EXTRA_BYTES_MAX, Fork, Head, Hello, Message, RUN_BYTES_MAX, Run, WITHHELD};

pub(super) use encode::{
    put_ack, put_compare, put_error, put_fin, put_floor, put_head, put_heads, put_hello, put_pull, put_synced,
};
pub(super) use runs::Runs;

use encode::put_fork;
use forks::Forks;
use handles::Handles;

use super::protobuf::{sent_by_remote, unexpected};
use super::session::{Body, Progress, ReceivedFeed, Remote};
use super::{Chains, ClaimedFloor, Entries, Event, LinkOf, Mode, NamedHead, News, Question, Relation, RemoteHeads, Stored};
use crate::model::{Chain, Error, FeedKey, PeerChoice, PeerId, Result, Seq};

/// The maximum length of the FORK answers that wait to be sent, in bytes: twice the length that the maximum number of forked
/// feeds can cause.
const BACKLOG_BYTES_MAX: usize = 16 << 20;

/// The receiving half.
pub(in crate::wire) struct IncomingHalf {
    /// The local HELLO. A side that only receives chooses its root when the remote has sent HELLO or PULL. A side that only
    /// compares waits too, so that a remote that only receives can say whether the roots are equal.
    local: Hello,
    /// The feeds of the session.
    choice: PeerChoice,
    has_root: bool,
    remote_compares: bool,
    /// The HELLO of the remote.
    remote: Option<Hello>,
    /// No more HEADS may come: the roots are equal, or the last one came.
    heads_over: bool,
    /// The heads so far.
    heads: RemoteHeads,
    /// The heads, once they are complete.
    announced: Option<Arc<RemoteHeads>>,
    /// Always empty: the heads for a remote with an equal root.
    no_heads: Arc<RemoteHeads>,
    handles: Handles,
    forks: Forks,
    /// The last seq that was sent, by the local handle of the feed.
    sent: HashMap<u32, u32>,
    entries_received: u64,
    progress: Progress,
    /// The progress at the last call of [`IncomingHalf::take_progress`].
    reported: Progress,
    backlog_bytes: usize,
}

impl IncomingHalf {
    /// For a side that sends the HELLO `local`, with the feeds `choice`.
    pub fn new(local: Hello, choice: PeerChoice) -> Self {
        Self {
            has_root: !local.mode.waits_for_remote(),
            forks: Forks::new(local.mode),
            local,
            choice,
            remote_compares: false,
            remote: None,
            heads_over: false,
            heads: RemoteHeads::default(),
            announced: None,
            no_heads: Arc::default(),
            handles: Handles::default(),
            sent: HashMap::new(),
            entries_received: 0,
            progress: Progress::default(),
            reported: Progress::default(),
            backlog_bytes: 0,
        }
    }

    /// Takes a frame.
    ///
    /// # Errors
    /// See [`Incoming::next`](super::Incoming::next).
    pub fn take<'a>(
        &'a mut self,
        frame: &'a [u8],
        remote: &mut Option<(PeerId, Mode)>,
        received: &'a mut ReceivedFeed,
        news: &mut News,
        link_of: &mut LinkOf<'_>,
    ) -> Result<Event<'a>> {
        let message = Message::decode(frame).map_err(sent_by_remote)?;
        self.check_order(&message)?;
        Ok(match message {
            Message::Hello(hello) => self.handle_hello(hello, remote, news)?,
            Message::Heads(heads, last) => Event::Heads(owned(heads)?, last),
            Message::Feed(handle, peer) => self.handles.add(handle, peer).map(|()| Event::Nothing)?,
            Message::Run(run) => self.handle_run(run, received, news)?,
            Message::Floor(peer, seq, chain) => self.handle_floor(peer, seq, chain)?,
            Message::Ack(handle, seq) if self.sent.get(&handle).is_none_or(|&sent| seq > sent) => {
                return Err(unexpected("an acknowledgement of an entry that was not sent to it"));
            }
            Message::Ack(handle, seq) => {
                let acked = news.acked.entry(handle).or_default();
                *acked = seq.max(*acked);
                Event::Nothing
            }
            Message::Fork(fork) if self.local.mode == Mode::Compare => {
                let equal = fork.points.iter().map(|&(seq, _)| seq).collect();
                Event::Chains(Chains { peer: fork.peer, equal, floor: fork.floor })
            }
            Message::Fork(fork) => {
                if news.frames.len() + self.backlog_bytes > BACKLOG_BYTES_MAX {
                    return Err(Error::Wire("the remote asks about forks and does not read the answers".into()));
                }
                let found = self.forks.compare(&mut news.frames, &fork, link_of)?;
                self.stop_if_forked(fork.peer, news);
                found.map_or(Event::Nothing, Event::Differs)
            }
            Message::Synced => {
                self.progress.synced = true;
                Event::Nothing
            }
            Message::Fin(sent, _) if sent != self.entries_received => {
                return Err(unexpected(format!("FIN that counts {sent} entries, but {} arrived", self.entries_received)));
            }
            Message::Fin(..) => {
                self.progress.fin = true;
                Event::Nothing
            }
            Message::Error(text, refused) => Event::Error { text: text.into_owned(), refused },
            Message::Pull => {
                // Neither side reveals anything, and nothing can move: both logs count as equal and empty.
                self.choose_root(if self.local.mode == Mode::Compare { self.local.root } else { 0 }, news);
                Event::Nothing
            }
            Message::Compare if self.local.mode == Mode::Compare => {
                return Err(Error::Wire("the remote only compares too: connect this side to a replicate".into()));
            }
            Message::Compare => {
                self.remote_compares = true;
                Event::Nothing
            }
            Message::Unknown => Event::Nothing,
        })
    }

    /// Checks that the protocol allows a message at this point.
    fn check_order(&self, message: &Message<'_>) -> Result<()> {
        match (message, &self.remote) {
            (Message::Hello(_), Some(_)) => return Err(unexpected("a second HELLO")),
            (Message::Hello(_) | Message::Error(..) | Message::Pull | Message::Compare | Message::Unknown, _) | (_, Some(_)) => {}
            _ => return Err(unexpected("a first frame that is not HELLO")),
        }
        if self.progress.fin
            && !matches!(
                message,
                Message::Pull | Message::Compare | Message::Unknown | Message::Fork(..) | Message::Ack(..) | Message::Error(..)
            )
        {
            return Err(unexpected("a frame after FIN"));
        }
        if matches!(message, Message::Heads(..)) && self.heads_over {
            return Err(unexpected("HEADS that the protocol does not allow"));
        }
        Ok(())
    }

    fn handle_hello(&mut self, hello: Hello, remote: &mut Option<(PeerId, Mode)>, news: &mut News) -> Result<Event<'_>> {
        if hello.nonce != 0 && hello.nonce == self.local.nonce {
            return Err(Error::Wire(
                "the output of this process comes back as its input: connect it to another replicate".into(),
            ));
        }
        // If the roots differ, every other root says the same. The inverse reveals nothing.
        self.choose_root(if hello.root == self.local.root { hello.root } else { !hello.root }, news);
        self.heads_over = hello.root == self.local.root;
        if self.local.mode == Mode::Compare && hello.mode.is_private() && !self.heads_over {
            // The remote waits for them.
            put_heads(&mut news.frames, &[], true);
        }
        self.forks.meet(self.local.mode, &hello);
        *remote = Some((hello.id.clone(), hello.mode));
        news.remote = Some(Remote {
            mode: hello.mode,
            withholds: hello.mode.is_private(),
            live: hello.live,
            root: Some(hello.root),
            entry_bytes_max: hello.entry_bytes_max,
            evidence: hello.evidence,
            floors: hello.floors,
            allowed: hello.allowed.clone(),
            partial: hello.partial,
        });
        self.remote = Some(hello);
        let receives = self.receives();
        Ok(if self.heads_over { Event::AllHeads { heads: &self.no_heads, receives } } else { Event::Nothing })
    }

    /// Chooses the root of the local HELLO, if this side has waited for the remote.
    fn choose_root(&mut self, root: u128, news: &mut News) {
        if !std::mem::replace(&mut self.has_root, true) {
            self.local.root = root;
            news.local_root = Some(root);
        }
    }

    /// Whether the remote only compares the two logs.
    pub fn remote_compares(&self) -> bool {
        self.remote_compares
    }

    fn receives(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.mode.sends_to(self.local.mode))
    }

    /// Checks that entries and floors may come.
    fn check_direction(&self) -> Result<()> {
        match self.local.mode {
            _ if self.receives() && self.heads_over => Ok(()),
            Mode::Push => Err(Error::PushOnly),
            Mode::Compare => Err(unexpected("entries, although this side only compares")),
            _ => Err(unexpected("entries before its heads, or in a direction that the modes forbid")),
        }
    }

    /// Whether the session continues after both logs are equal.
    fn is_live(&self) -> bool {
        self.local.live && self.remote.as_ref().is_some_and(|remote| remote.live)
    }

    fn handle_floor(&mut self, peer: &str, seq: Seq, chain: Chain) -> Result<Event<'static>> {
        self.check_direction()?;
        let feed = FeedKey::of(peer);
        // Of a feed that began after its heads, the remote sends entries only in a live session.
        let is_named = self.is_live() || self.announced.as_ref().is_some_and(|heads| heads.get(feed) > 0);
        if self.forks.is_stopped(feed) || !self.choice.takes(peer) || !is_named {
            return Ok(Event::Nothing);
        }
        self.progress.runs_received += 1;
        Ok(Event::Floor(ClaimedFloor { peer: PeerId::new(peer)?, seq, chain }))
    }

    fn handle_run<'a>(&mut self, run: Run<'a>, received: &'a mut ReceivedFeed, news: &mut News) -> Result<Event<'a>> {
        self.check_direction()?;
        let max = usize::try_from(self.local.entry_bytes_max).unwrap_or(usize::MAX);
        if run.longest > max {
            return Err(Error::EntryTooLong(run.longest as u64, max));
        }
        let peer = self.handles.get(run.handle)?;
        self.entries_received += u64::from(run.count);
        if self.forks.is_stopped(FeedKey::of(peer)) {
            return Ok(Event::Nothing);
        }
        // The remote does not know the field `allow` of HELLO. It is not acknowledged, so it sends no FIN.
        if !self.choice.selects(peer) {
            return Ok(Event::Ignored(u64::from(run.count)));
        }
        if !self.choice.takes(peer) {
            return Ok(Event::Refused(PeerId::new(peer)?, u64::from(run.count)));
        }
        self.progress.runs_received += 1;
        let last = run.first.get() + (run.count - 1);
        let peer = received.raise(peer, last, news)?;
        Ok(Event::Entries(Entries { peer, first: run.first, body: Body::Run(run) }))
    }

    /// See [`Incoming::compared`](super::Incoming::compared).
    pub fn compared(
        &mut self,
        heads: &[NamedHead],
        compared: &[Relation],
        last: bool,
        news: &mut News,
        link_of: &mut LinkOf<'_>,
        found: &mut Vec<Difference>,
    ) -> Result<()> {
        let remote_mode = self.remote.as_ref().map(|remote| remote.mode);
        // Between two sides that only receive, nothing moves, and neither helps the other to search.
        let compares = !(self.local.mode.is_private() && remote_mode.is_some_and(Mode::is_private));
        // An older remote takes a withheld chain for a fork. So it gets no head of a feed that it has not proved to hold.
        let needs_chains = self.local.mode.is_private() && self.remote.as_ref().is_some_and(|remote| !remote.evidence);
        for (NamedHead { peer, seq, chain }, &compared) in heads.iter().zip(compared) {
            self.heads.add(peer.as_str(), *seq, &self.choice)?;
            if needs_chains && compared == Relation::Same {
                self.heads.prove(peer.as_str(), *seq);
            }
            if compares && compared == Relation::Differs && *chain != WITHHELD && self.choice.selects(peer.as_str()) {
                found.extend(self.forks.suspect(&mut news.frames, peer.as_str(), (*seq, *chain), link_of)?);
                self.stop_if_forked(peer.as_str(), news);
            }
        }
        if last {
            self.end_heads(news);
        }
        Ok(())
    }

    /// See [`Incoming::ask`](super::Incoming::ask).
    pub fn ask(&mut self, heads: &[NamedHead], questions: &[Question], last: bool, news: &mut News) -> Result<()> {
        for NamedHead { peer, seq, .. } in heads {
            self.heads.add(peer.as_str(), *seq, &self.choice)?;
        }
        for Question { head: NamedHead { peer, seq, chain }, local } in questions {
            // The remote ignores a FORK if its chain differs at a seq below one at which it is equal. It neither stops the feed nor
            // searches. So the second FORK is the only answer then.
            if let Some(local) = *local {
                put_fork(&mut news.frames, &Fork::new(peer.as_str(), vec![local, (*seq, *chain)]));
            }
            put_fork(&mut news.frames, &Fork::new(peer.as_str(), vec![(*seq, *chain)]));
        }
        if last {
            // The remote answers all questions before it takes these heads.
            if self.remote.as_ref().is_some_and(|remote| !remote.mode.is_private()) {
                put_heads(&mut news.frames, &[], true);
            }
            self.end_heads(news);
        }
        Ok(())
    }

    /// All heads of the remote have come.
    fn end_heads(&mut self, news: &mut News) {
        self.heads_over = true;
        let heads = self.announced.insert(Arc::new(std::mem::take(&mut self.heads)));
        news.heads = Some(Arc::clone(heads));
    }

    /// See [`Incoming::stored`](super::Incoming::stored).
    pub fn stored(
        &mut self,
        stored: Stored<'_>,
        news: &mut News,
        link_of: &mut LinkOf<'_>,
        found: &mut Vec<Difference>,
    ) -> Result<()> {
        for &(handle, seq) in stored.acks {
            let acked = news.acks.entry(handle).or_default();
            *acked = seq.max(*acked);
        }
        // The forks must come before the count of runs: after the last run, the session may end.
        for (peer, seq) in stored.forks {
            found.extend(self.forks.found_in_run(&mut news.frames, peer.as_str(), seq.get(), link_of)?);
            self.stop_if_forked(peer.as_str(), news);
        }
        for (peer, head) in stored.mismatches {
            self.forks.ask(&mut news.frames, peer.as_str(), *head, link_of)?;
            self.stop_if_forked(peer.as_str(), news);
        }
        for peer in stored.refused {
            self.forks.refuse(&mut news.frames, peer.as_str(), link_of)?;
            self.stop_if_forked(peer.as_str(), news);
        }
        for &(ref peer, seq, chain) in stored.floors {
            found.extend(self.forks.suspect(&mut news.frames, peer.as_str(), (seq, chain), link_of)?);
            self.stop_if_forked(peer.as_str(), news);
        }
        self.progress.runs_stored += stored.runs;
        self.progress.entries_new += stored.new;
        Ok(())
    }

    /// See [`Incoming::take_unproven`](super::Incoming::take_unproven).
    pub fn take_unproven(&mut self) -> Vec<Difference> {
        self.forks.take_unproven()
    }

    fn stop_if_forked(&self, peer: &str, news: &mut News) {
        let feed = FeedKey::of(peer);
        if self.forks.is_stopped(feed) {
            news.stopped.insert(feed);
        }
    }

    /// The state of this half, and whether more than received runs has changed since the last call.
    pub fn take_progress(&mut self) -> (Option<Progress>, bool) {
        self.progress.searching = self.forks.is_searching();
        let reported = std::mem::replace(&mut self.reported, self.progress);
        let without_runs = |progress: Progress| Progress { runs_received: 0, ..progress };
        (Some(self.progress), without_runs(reported) != without_runs(self.progress))
    }

    /// See [`Incoming::set_backlog`](super::Incoming::set_backlog).
    pub fn set_backlog(&mut self, bytes: usize) {
        self.backlog_bytes = bytes;
    }

    /// See [`Incoming::set_sent`](super::Incoming::set_sent).
    pub fn set_sent(&mut self, sent: HashMap<u32, u32>) {
        self.sent.extend(sent);
    }
}

fn owned(heads: Vec<Head<'_>>) -> Result<Vec<NamedHead>> {
    let owned = |Head { peer, seq, chain }| Ok(NamedHead { peer: PeerId::new(peer)?, seq, chain });
    heads.into_iter().map(owned).collect()
}
