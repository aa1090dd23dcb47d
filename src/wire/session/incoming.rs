//! The receiving half of a session.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Body, Entries, Event, Local, NamedHead, News, Question, ReceivedFeed, Relation, Remote, Stored};
use crate::model::{Error, FeedKey, PEER_BYTES_MAX, PeerGlobs, PeerId, Result};
use crate::wire::frame::{FrameReader, move_part};
use crate::wire::native::{self, Difference, DifferenceKind, FRAME_EXTRA_BYTES_MAX, RUN_BYTES_MAX};
use crate::wire::negotiate::{Opening, PREAMBLE, Wire, not_a_handshake};
use crate::wire::original::{ChangeMessage, Handshake, HandshakeReader};
use crate::wire::protobuf::{sent_by_remote, unexpected};
use crate::wire::{LinkOf, Mode, RemoteHeads};

/// Tags, lengths and seq around the two strings of a change, in bytes.
const CHANGE_EXTRA_BYTES_MAX: usize = 64;
/// The maximum length of a handshake in bytes. A longer first frame is not a handshake.
const HANDSHAKE_BYTES_MAX: u64 = 1 << 32;

/// The incoming half of a session.
pub struct Incoming {
    frames: FrameReader,
    opening: Opening,
    local: Local,
    protocol: Protocol,
    /// Id and mode of the remote, once it has said them.
    remote: Option<(PeerId, Mode)>,
    received: ReceivedFeed,
    news: News,
}

enum Protocol {
    /// The remote has not shown yet which wire it speaks.
    Undecided,
    /// The reader of the handshake, which is used once.
    Original(Box<HandshakeReader>),
    Native(Box<native::IncomingHalf>),
}

impl Incoming {
    pub(super) fn new(local: &Local) -> Self {
        Self {
            frames: FrameReader::new(local.entry_bytes_max + PEER_BYTES_MAX + CHANGE_EXTRA_BYTES_MAX),
            opening: Opening::default(),
            local: local.clone(),
            protocol: Protocol::Undecided,
            remote: None,
            received: ReceivedFeed::default(),
            news: News::default(),
        }
    }

    /// Room for the next bytes. After the read, call [`Incoming::filled`] with the number of bytes.
    pub fn space(&mut self) -> &mut [u8] {
        self.frames.space()
    }

    /// The first `bytes` of [`Incoming::space`] hold input now.
    pub fn filled(&mut self, bytes: usize) {
        self.frames.filled(bytes);
        if !self.has_handshake() {
            self.opening.push(self.frames.pending(), bytes);
        }
    }

    /// Adds bytes of the stream, for drivers that have them already.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = move_part(&mut bytes, self.space());
            self.filled(count);
        }
    }

    /// Reads the next message; `None` if it is incomplete. `link_of` returns local entries.
    ///
    /// # Errors
    /// [`Error::Wire`] when the message breaks the protocol, [`Error::PushOnly`] when it breaks the local mode,
    /// [`Error::NoNativeWire`] when the remote does not speak the only wire that is allowed, [`Error::RemoteText`] when the remote
    /// sends text.
    pub fn next(&mut self, link_of: &mut LinkOf<'_>) -> Result<Option<Event<'_>>> {
        if matches!(self.protocol, Protocol::Undecided) {
            self.decide();
        }
        match &self.protocol {
            Protocol::Undecided => Ok(None),
            Protocol::Native(_) => self.next_frame(link_of),
            Protocol::Original(_) if self.remote.is_some() => self.next_change(),
            Protocol::Original(_) => self.next_handshake(),
        }
    }

    /// Reads a frame of the native wire.
    fn next_frame(&mut self, link_of: &mut LinkOf<'_>) -> Result<Option<Event<'_>>> {
        let Self { frames, protocol: Protocol::Native(native), remote, received, news, .. } = self else { return Ok(None) };
        let Some(frame) = frames.next_frame()? else { return Ok(None) };
        native.take(frame, remote, received, news, link_of).map(Some)
    }

    /// Finds out which wire the remote speaks.
    fn decide(&mut self) {
        match self.opening.is_native(&mut self.frames, self.local.wire != Some(Wire::Original)) {
            Some(true) => {
                self.frames.set_max(self.local.entry_bytes_max.max(RUN_BYTES_MAX) + FRAME_EXTRA_BYTES_MAX);
                self.news.wire = Some(Wire::Native);
                self.protocol =
                    Protocol::Native(Box::new(native::IncomingHalf::new(self.local.hello(), self.local.choice.clone())));
            }
            Some(false) => {
                let keeps_digests = self.local.mode == Mode::Compare;
                let handshake = HandshakeReader::new(self.local.choice.clone(), keeps_digests);
                self.protocol = Protocol::Original(Box::new(handshake));
            }
            None => {}
        }
    }

    /// Reads the handshake of the original's wire, as far as it has come.
    fn next_handshake(&mut self) -> Result<Option<Event<'_>>> {
        let Protocol::Original(handshake) = &mut self.protocol else { return Ok(None) };
        self.opening.check()?;
        let begun = handshake.begin(&mut self.frames).and_then(|has_begun| match self.local.wire {
            Some(Wire::Native) if has_begun => Err(Error::NoNativeWire),
            _ => Ok(has_begun.then_some(())),
        });
        if self.opening.explain(begun)?.is_none() {
            return Ok(None);
        }
        let read = self.opening.explain(handshake.read(&mut self.frames))?;
        // No answer goes to a remote that prints text: it would report a broken session too.
        if read.is_some() || !self.opening.is_text() {
            self.news.wire = Some(Wire::Original);
        }
        let Some(Handshake { id, heads, mode, digests }) = read else {
            let digests = handshake.take_digests();
            return Ok((!digests.is_empty()).then_some(Event::Heads(digests, false)));
        };
        self.remote = Some((id, mode));
        let allowed = PeerGlobs::default();
        self.news.remote = Some(Remote {
            mode,
            // The original names all its feeds.
            withholds: mode.is_private() && self.opening.begins_with_preamble(),
            live: true,
            root: None,
            entry_bytes_max: u64::MAX,
            evidence: false,
            floors: false,
            allowed,
            partial: false,
        });
        let heads = self.news.heads.insert(Arc::new(heads));
        if self.local.mode == Mode::Compare {
            return Ok(Some(Event::Heads(digests, true)));
        }
        Ok(Some(Event::AllHeads { heads, receives: mode.sends_to(self.local.mode) }))
    }

    /// Reads a change of the original's wire.
    fn next_change(&mut self) -> Result<Option<Event<'_>>> {
        let Some(frame) = self.frames.next_frame()? else { return Ok(None) };
        let ChangeMessage { peer, seq, entry } = ChangeMessage::decode(frame).map_err(sent_by_remote)?;
        if entry.len() > self.local.entry_bytes_max {
            return Err(Error::EntryTooLong(entry.len() as u64, self.local.entry_bytes_max));
        }
        match self.local.mode {
            Mode::Push => return Err(Error::PushOnly),
            Mode::Compare => return Err(unexpected("an entry, although this side only compares")),
            Mode::Sync | Mode::Pull => {}
        }
        if !self.local.choice.selects(peer) {
            return Ok(Some(Event::Ignored(1)));
        }
        if !self.local.choice.takes(peer) {
            let peer = PeerId::new(peer).map_err(|err| Error::Wire(err.to_string()))?;
            return Ok(Some(Event::Refused(peer, 1)));
        }
        let peer = self.received.raise(peer, seq.get(), &mut self.news).map_err(|err| Error::Wire(err.to_string()))?;
        Ok(Some(Event::Entries(Entries { peer, first: seq, body: Body::One(entry) })))
    }

    /// The driver has compared each of some heads with the log. Adds the first differences that are now known to `found`.
    ///
    /// # Errors
    /// [`Error::Wire`] when there are too many feeds, or too many differ.
    pub fn compared(
        &mut self,
        heads: &[NamedHead],
        compared: &[Relation],
        last: bool,
        link_of: &mut LinkOf<'_>,
        found: &mut Vec<Difference>,
    ) -> Result<()> {
        match &mut self.protocol {
            Protocol::Native(native) => native.compared(heads, compared, last, &mut self.news, link_of, found),
            _ => Ok(()),
        }
    }

    /// In [`Mode::Compare`]: the driver has compared some heads with the log. Asks the remote about those that differ. The original
    /// wire cannot ask.
    ///
    /// # Errors
    /// [`Error::Wire`] when there are too many feeds.
    pub fn ask(&mut self, heads: &[NamedHead], questions: &[Question], last: bool) -> Result<()> {
        match &mut self.protocol {
            Protocol::Native(native) => native.ask(heads, questions, last, &mut self.news),
            _ => Ok(()),
        }
    }

    /// All heads of the remote, when [`Incoming::compared`] or [`Incoming::ask`] has been called for the last ones.
    pub fn heads(&self) -> Option<&Arc<RemoteHeads>> {
        self.news.heads.as_ref()
    }

    /// The driver has stored received entries durably. Adds the forks that are new to the session to `found`.
    ///
    /// # Errors
    /// [`Error::Wire`] when too many feeds have forked.
    pub fn stored(&mut self, stored: Stored<'_>, link_of: &mut LinkOf<'_>, found: &mut Vec<Difference>) -> Result<()> {
        if let Protocol::Native(native) = &mut self.protocol {
            return native.stored(stored, &mut self.news, link_of, found);
        }
        // Nothing more is sent of a feed that has forked: in the remote log, entries of this log would continue other ones.
        for (peer, seq) in stored.forks {
            self.news.stopped.insert(FeedKey::of(peer.as_str()));
            found.push(Difference { peer: peer.clone(), seq: *seq, kind: DifferenceKind::Fork });
        }
        Ok(())
    }

    /// The session ends. Returns the differences of which the remote has not shown its entry.
    pub fn take_unproven(&mut self) -> Vec<Difference> {
        if let Protocol::Native(native) = &mut self.protocol { native.take_unproven() } else { Vec::new() }
    }

    /// The news since the last call.
    pub fn take_news(&mut self) -> News {
        self.received.complete(&mut self.news);
        if let Protocol::Native(native) = &mut self.protocol {
            (self.news.progress, self.news.has_progressed) = native.take_progress();
        }
        std::mem::take(&mut self.news)
    }

    /// Entries were sent: up to which seq, by the local number of the feed (see [`Outgoing::take_sent`](super::Outgoing::take_sent)).
    pub fn set_sent(&mut self, sent: HashMap<u32, u32>) {
        if let Protocol::Native(native) = &mut self.protocol {
            native.set_sent(sent);
        }
    }

    /// Sets the number of bytes of answers that wait to be sent. A remote that does not read them must not cause more answers.
    pub fn set_backlog(&mut self, bytes: usize) {
        if let Protocol::Native(native) = &mut self.protocol {
            native.set_backlog(bytes);
        }
    }

    /// The wire of the session, once the remote has decided it.
    pub fn wire(&self) -> Option<Wire> {
        match &self.protocol {
            Protocol::Native(_) => Some(Wire::Native),
            Protocol::Original(handshake) if self.remote.is_some() || handshake.has_begun() => Some(Wire::Original),
            _ => None,
        }
    }

    /// The id of the remote log, once it is known.
    pub fn remote_id(&self) -> Option<&PeerId> {
        self.remote.as_ref().map(|(id, _)| id)
    }

    /// The mode of the remote, once it is known.
    pub fn remote_mode(&self) -> Option<Mode> {
        self.remote.as_ref().map(|&(_, mode)| mode)
    }

    /// Whether the remote only compares the two logs.
    pub fn remote_compares(&self) -> bool {
        if let Protocol::Native(native) = &self.protocol { native.remote_compares() } else { false }
    }

    /// Whether the local side may receive entries; true as long as the remote's mode is unknown.
    pub fn receives(&self) -> bool {
        self.remote.as_ref().is_none_or(|(_, remote)| remote.sends_to(self.local.mode))
    }

    /// Whether the local side may send entries; true as long as the remote's mode is unknown.
    pub fn sends(&self) -> bool {
        self.remote.as_ref().is_none_or(|&(_, remote)| self.local.mode.sends_to(remote))
    }

    /// Whether the stream is known to be a session: the remote's preamble or its whole handshake has come.
    pub fn has_handshake(&self) -> bool {
        self.remote.is_some() || self.confirms_end()
    }

    /// Whether the remote sends heartbeats and confirms the end of the session (FIN). True on the native wire only.
    pub fn confirms_end(&self) -> bool {
        matches!(self.protocol, Protocol::Native(_))
    }

    /// The number of bytes that show that the remote is alive. Empty frames count on the native wire after the HELLO. Elsewhere
    /// they do not count: any program can send them.
    pub fn consumed(&self) -> u64 {
        match self.wire() {
            Some(Wire::Native) if self.remote.is_some() => self.frames.consumed(),
            Some(_) => self.frames.consumed_messages(),
            None => 0,
        }
    }

    /// The number of bytes that have come, without empty frames. A frame that has come in part counts.
    pub fn received(&self) -> u64 {
        self.frames.consumed_messages() + self.frames.pending().len() as u64
    }

    /// Whether the remote has sent a part of its handshake. The preamble does not count: every scuttleup sends it at once.
    pub fn has_begun_handshake(&self, bytes_received: u64) -> bool {
        bytes_received > if self.confirms_end() { PREAMBLE.len() as u64 } else { 0 }
    }

    /// Whether the remote has sent text, and no handshake so far.
    pub fn is_text(&self) -> bool {
        !self.has_handshake() && self.opening.is_text()
    }

    /// Refuses a stream that ends, or that stays silent, without its handshake, and is text.
    ///
    /// # Errors
    /// [`Error::RemoteText`].
    pub fn check_opening(&self) -> Result<()> {
        let text = if self.has_handshake() { None } else { self.opening.text_error() };
        text.map_or(Ok(()), Err)
    }

    /// Whether the input so far ends inside a frame.
    ///
    /// # Errors
    /// [`Error::Wire`] or [`Error::RemoteText`] when the stream is not a session.
    pub fn is_cut(&self) -> Result<bool> {
        let pending = self.frames.pending();
        if self.has_handshake() {
            return Ok(!pending.is_empty());
        }
        let begun = self.wire().is_some();
        if !begun && PREAMBLE.starts_with(pending) {
            return Ok(false);
        }
        self.check_opening()?;
        let is_absurd = matches!(&self.protocol, Protocol::Original(handshake) if handshake.left() > HANDSHAKE_BYTES_MAX);
        if is_absurd {
            return Err(not_a_handshake(Error::Wire("the stream ended inside it".into())));
        }
        Ok(begun || !pending.is_empty())
    }
}
