//! One session over either wire. It has two halves, so that one thread can receive while another thread sends, without a lock:
//!
//! - [`Incoming`] takes the remote's bytes and returns [`Event`]s.
//! - [`Outgoing`] takes the log's heads and entries and returns bytes.
//! - [`News`] carries information from `Incoming` to `Outgoing`. The driver hands it over.
//!
//! The driver is the code that uses a session: it does all I/O and reads and writes the log.
//!
//! An entry of the remote must not be sent back to it. So the driver takes the news from `Incoming` before it commits the
//! entries. It gives the news to `Outgoing` after the snapshot from which it offers entries has begun.

mod incoming;
mod outgoing;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use incoming::Incoming;
pub use outgoing::{Before, LeftOut, Outgoing, Task};

use super::native::{Difference, Hello, Run};
use super::negotiate::Wire;
use super::{Mode, RemoteHeads};
use crate::model::{Chain, FeedKey, FeedMap, Offset, PeerChoice, PeerGlobs, PeerId, Result, Seq, Tombstone};

/// The local side of a session: its log and its options.
#[derive(Clone, Debug)]
pub struct Local {
    /// The id of the local feed.
    pub id: PeerId,
    /// The directions in which entries may move.
    pub mode: Mode,
    /// Whether the session should continue after both logs are equal.
    pub live: bool,
    /// The root of the log.
    pub root: u128,
    /// The last offset at the moment of `root`.
    pub last_offset: Offset,
    /// The longest entry that is accepted, in bytes.
    pub entry_bytes_max: usize,
    /// The feeds of the session.
    pub choice: PeerChoice,
    /// The only wire that is allowed; `None`: the native wire if the remote offers it, else the original's.
    pub wire: Option<Wire>,
    /// A random number, by which a side detects that it is connected to itself. 0: none.
    pub nonce: u64,
}

impl Local {
    /// The description of the local side in the HELLO of the native wire.
    fn hello(&self) -> Hello {
        let partial = self.choice.is_partial();
        Hello {
            id: self.id.clone(),
            mode: self.mode,
            live: self.live,
            root: self.root,
            entry_bytes_max: self.entry_bytes_max as u64,
            nonce: self.nonce,
            evidence: true,
            allowed: if partial { self.choice.selected.clone() } else { self.choice.allowed.clone() },
            floors: true,
            partial,
        }
    }
}

/// Both halves of a session.
pub struct Session {
    /// The incoming half.
    pub incoming: Incoming,
    /// The outgoing half.
    pub outgoing: Outgoing,
}

impl Session {
    /// A session that has not begun.
    pub fn new(local: Local) -> Self {
        Self { incoming: Incoming::new(&local), outgoing: Outgoing::new(local) }
    }
}

/// The content of an entry on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload<'a> {
    /// The bytes.
    Bytes(&'a [u8]),
    /// The entry was deleted in the remote log.
    Deleted(Tombstone),
}

/// A head of the remote log, and the chain at it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedHead {
    /// The author of the feed.
    pub peer: PeerId,
    /// The head.
    pub seq: u32,
    /// The chain at the head.
    pub chain: Chain,
}

/// The relation of a head of the remote to the local log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// The log holds this entry, and the same chain at it.
    Same,
    /// The log holds this entry, and another chain at it.
    Differs,
    /// The log does not know the chain there: it does not hold this entry, or has pruned it.
    Unknown,
}

/// A question to the remote about a feed that it has named and that differs ([`Mode::Compare`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// The head that the remote has named.
    pub head: NamedHead,
    /// If the remote is ahead: the local head and the chain there.
    pub local: Option<(u32, Chain)>,
}

/// The answer to a [`Question`].
#[derive(Debug)]
pub struct Chains<'a> {
    /// The author of the feed.
    pub peer: &'a str,
    /// The seqs at which the remote has the chain that it was asked for.
    pub equal: Vec<u32>,
    /// The floor of the feed in the remote log, 0 if there is none.
    pub floor: u32,
}

/// Consecutive entries of one feed, from the remote.
#[derive(Debug)]
pub struct Entries<'a> {
    /// The author of the feed.
    pub peer: &'a PeerId,
    /// The seq of the first entry.
    pub first: Seq,
    pub(super) body: Body<'a>,
}

#[derive(Debug)]
pub(super) enum Body<'a> {
    One(&'a [u8]),
    Run(Run<'a>),
}

impl<'a> Entries<'a> {
    /// Gives seq and content of each entry to `each`.
    pub fn each(&self, mut each: impl FnMut(Seq, Payload<'a>)) {
        match &self.body {
            Body::One(bytes) => each(self.first, Payload::Bytes(bytes)),
            Body::Run(run) => {
                let seqs = (u64::from(self.first.get())..).map_while(Seq::new);
                seqs.zip(run.entries()).for_each(|(seq, payload)| each(seq, payload));
            }
        }
    }

    /// For entries that must be checked and acknowledged as a whole: their number, the remote's handle for the feed, and the
    /// chain after the last entry. `None` for other entries.
    pub fn run(&self) -> Option<(usize, u32, Chain)> {
        match &self.body {
            Body::One(_) => None,
            Body::Run(run) => Some((run.count as usize, run.handle, run.chain)),
        }
    }
}

/// The floor of a feed that the remote claims (FLOOR).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimedFloor {
    /// The author of the feed.
    pub peer: PeerId,
    /// The remote holds no entry up to this one.
    pub seq: Seq,
    /// The chain there.
    pub chain: Chain,
}

/// A message of the remote, and the reaction that it requires from the driver.
#[derive(Debug)]
pub enum Event<'a> {
    /// No reaction.
    Nothing,
    /// Some heads of the remote, and whether they are the last ones. Compare them with the log and call [`Incoming::compared`]; in
    /// [`Mode::Compare`] call [`Incoming::ask`]. The original wire has no chains: they are 0.
    Heads(Vec<NamedHead>, bool),
    /// All heads of the remote; empty if the roots are equal. A comparison is not needed.
    AllHeads {
        /// The heads.
        heads: &'a Arc<RemoteHeads>,
        /// Whether the modes allow the local side to receive entries.
        receives: bool,
    },
    /// Entries. Store them and call [`Incoming::stored`].
    Entries(Entries<'a>),
    /// A floor. Apply it in its place among the entries, and call [`Incoming::stored`], which counts it as a run.
    Floor(ClaimedFloor),
    /// Entries of a feed that is not allowed, and their number. They must not be stored.
    Refused(PeerId, u64),
    /// Entries of a feed that does not take part in the session, and their number. They must not be stored.
    Ignored(u64),
    /// An answer ([`Mode::Compare`]). The answers come in the order of the questions, at least one for each of them.
    Chains(Chains<'a>),
    /// The first entry at which the two logs differ in a feed. Record it.
    Differs(Difference),
    /// The remote ends the session, for this reason. `refused`: because it refuses what the local side sent.
    Error {
        /// The reason.
        text: String,
        /// Whether it refuses what the local side sent.
        refused: bool,
    },
}

/// The result of storing received entries, for [`Incoming::stored`].
#[derive(Clone, Copy, Default, Debug)]
pub struct Stored<'a> {
    /// The number of runs and floors that were handled.
    pub runs: u64,
    /// The number of entries that were new.
    pub new: u64,
    /// Runs that are on the disk: the remote's handle for the feed, and the last seq.
    pub acks: &'a [(u32, u32)],
    /// Entries that have different bytes in the log.
    pub forks: &'a [(PeerId, Seq)],
    /// Feeds with a run that did not continue the feed of the log, and the head in the log.
    pub mismatches: &'a [(PeerId, u32)],
    /// Feeds whose chain in the log differs from the chain of a floor, with the seq and the chain of the floor.
    pub floors: &'a [(PeerId, u32, Chain)],
    /// Local feeds with a floor above the head, which was not applied.
    pub refused: &'a [PeerId],
}

/// The number of feeds in [`News::held`] that are not left to wait.
const HELD_MAX: usize = 16 << 10;

/// Information that the incoming half has learned and the outgoing half needs. Later news merges into earlier news, so that
/// its size is limited by the number of feeds.
#[derive(Default)]
pub struct News {
    pub(super) wire: Option<Wire>,
    /// The root for the local HELLO, if it depends on the remote.
    pub(super) local_root: Option<u128>,
    pub(super) remote: Option<Remote>,
    /// The heads of the remote, once they are complete.
    pub(super) heads: Option<Arc<RemoteHeads>>,
    /// The highest seq of a feed that the remote sent, and so holds.
    pub(super) held: FeedMap,
    /// Feeds that are no longer sent.
    pub(super) stopped: HashSet<FeedKey>,
    /// The last local entry that is on the remote's disk, by the local handle of the feed.
    pub(super) acked: HashMap<u32, u32>,
    /// Acknowledgements to send, by the remote's handle of the feed.
    pub(super) acks: HashMap<u32, u32>,
    /// Frames to send.
    pub(super) frames: Vec<u8>,
    pub(super) progress: Option<Progress>,
    /// The progress allows the outgoing half to send something.
    pub(super) has_progressed: bool,
    input_ended: bool,
}

/// The description of the remote in its handshake.
#[derive(Clone)]
pub(super) struct Remote {
    pub mode: Mode,
    /// It only receives, and names no feeds but those that this side names.
    pub withholds: bool,
    /// It wants the session to continue after both logs are equal. The original's wire does not tell.
    pub live: bool,
    /// Its root, where the wire tells.
    pub root: Option<u128>,
    /// The longest entry that it accepts, in bytes.
    pub entry_bytes_max: u64,
    /// It accepts heads with a withheld chain (native wire).
    pub evidence: bool,
    /// It knows FLOOR (native wire).
    pub floors: bool,
    /// The feeds that it accepts.
    pub allowed: PeerGlobs,
    /// Other feeds are left out because its user wants it so, and not refused.
    pub partial: bool,
}

/// The progress of the incoming half of a native session.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Progress {
    pub runs_received: u64,
    pub runs_stored: u64,
    pub entries_new: u64,
    pub synced: bool,
    pub fin: bool,
    pub searching: bool,
}

impl News {
    /// Adds later news.
    pub fn merge(&mut self, later: Self) {
        self.wire = later.wire.or(self.wire);
        self.local_root = later.local_root.or(self.local_root);
        self.remote = later.remote.or(self.remote.take());
        self.heads = later.heads.or(self.heads.take());
        if self.held.is_empty() {
            self.held = later.held;
        } else {
            later.held.iter().for_each(|(feed, seq)| self.held.raise(feed, seq));
        }
        raise_all(&mut self.acked, later.acked);
        raise_all(&mut self.acks, later.acks);
        self.stopped.extend(later.stopped);
        if self.frames.is_empty() {
            self.frames = later.frames;
        } else {
            self.frames.extend_from_slice(&later.frames);
        }
        self.progress = later.progress.or(self.progress);
        self.has_progressed |= later.has_progressed;
        self.input_ended |= later.input_ended;
    }

    /// Whether the outgoing half may have something to do because of this news. Received entries alone need no reaction.
    /// [`News::has_many_held`] is another reason.
    pub fn is_urgent(&self) -> bool {
        let starts = self.wire.is_some() || self.local_root.is_some() || self.remote.is_some() || self.heads.is_some();
        let answers = !self.acks.is_empty() || !self.frames.is_empty() || !self.acked.is_empty() || !self.stopped.is_empty();
        starts || answers || self.has_progressed || self.input_ended
    }

    /// Whether received entries wait for the outgoing half from so many feeds that it must take them, to limit the memory.
    pub fn has_many_held(&self) -> bool {
        self.held.len() >= HELD_MAX
    }

    /// The remote has ended its stream. A session on the original wire then sends the rest and ends.
    pub fn input_ended() -> Self {
        Self { input_ended: true, ..Self::default() }
    }

    /// The number of bytes of answers that wait to be sent.
    pub fn backlog_bytes(&self) -> usize {
        self.frames.len()
    }
}

fn raise_all<K: Eq + std::hash::Hash>(known: &mut HashMap<K, u32>, later: HashMap<K, u32>) {
    if known.is_empty() {
        *known = later;
        return;
    }
    for (key, seq) in later {
        let known = known.entry(key).or_default();
        *known = seq.max(*known);
    }
}

/// The feed of the last received entries, and its highest seq so far. Successive entries usually belong to the same feed.
#[derive(Default)]
pub(super) struct ReceivedFeed(Option<(PeerId, FeedKey, u32)>);

impl ReceivedFeed {
    /// Entries of `peer` up to `seq` have come.
    pub fn raise(&mut self, peer: &str, seq: u32, news: &mut News) -> Result<&PeerId> {
        if self.0.as_ref().is_none_or(|(current, ..)| current.as_str() != peer) {
            self.complete(news);
            self.0 = Some((PeerId::new(peer)?, FeedKey::of(peer), 0));
        }
        let (peer, _, head) = self.0.as_mut().expect("set above");
        *head = seq.max(*head);
        Ok(peer)
    }

    /// Adds the received entries to the news.
    pub fn complete(&mut self, news: &mut News) {
        if let Some((_, feed, seq)) = &mut self.0
            && *seq > 0
        {
            news.held.raise(*feed, std::mem::take(seq));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PREAMBLE;
    use super::*;
    use crate::model::Error;

    fn local() -> Local {
        Local {
            id: PeerId::new("me").unwrap(),
            mode: Mode::Sync,
            live: false,
            root: 1,
            last_offset: Offset::ZERO,
            entry_bytes_max: 1,
            choice: PeerChoice::default(),
            wire: None,
            nonce: 0,
        }
    }

    /// The wire that the first bytes decide, in pieces of `chunk` bytes.
    fn wire(stream: &[u8], chunk: usize, only: Option<Wire>) -> Option<Wire> {
        let mut incoming = Session::new(Local { wire: only, ..local() }).incoming;
        for part in stream.chunks(chunk) {
            incoming.push(part);
            while let Some(event) = incoming.next(&mut |_, _| Ok(None)).unwrap() {
                drop(event);
            }
        }
        incoming.wire()
    }

    #[test]
    fn the_first_bytes_decide_the_wire_in_any_chunking() {
        let handshake = b"\x05\x0a\x03bob";
        let after = |opening: &[u8]| [opening, handshake].concat();
        let cases = [
            (PREAMBLE.to_vec(), Some(Wire::Native)),
            (PREAMBLE[..7].to_vec(), None),
            (vec![0], None),
            (after(b""), Some(Wire::Original)),
            (after(b"\0"), Some(Wire::Original)),
            (after(&PREAMBLE[..4]), Some(Wire::Original)),
            (after(&PREAMBLE[..7]), Some(Wire::Original)),
            (after(&[b"\0", &PREAMBLE[..]].concat()), Some(Wire::Original)),
            ([b"\0", &PREAMBLE[..]].concat(), None),
        ];
        for (stream, expected) in cases {
            for chunk in 1..=stream.len() {
                assert_eq!(wire(&stream, chunk, None), expected, "{stream:?} in pieces of {chunk}");
                let original = expected.filter(|_| stream.ends_with(handshake)).map(|_| Wire::Original);
                assert_eq!(wire(&stream, chunk, Some(Wire::Original)), original, "{stream:?} in pieces of {chunk}");
            }
        }
    }

    #[test]
    fn a_handshake_behind_the_preamble_is_refused_on_the_native_wire() {
        let stream = [&PREAMBLE[..], b"\x05\x0a\x03bob"].concat();
        for chunk in 1..=stream.len() {
            let mut incoming = Session::new(local()).incoming;
            let mut results = Vec::new();
            for part in stream.chunks(chunk) {
                incoming.push(part);
                results.push(incoming.next(&mut |_, _| Ok(None)).map(|event| event.is_some()));
            }
            assert_eq!(incoming.wire(), Some(Wire::Native));
            assert!(matches!(results.last(), Some(Err(Error::Wire(_)))), "{results:?}");
        }
    }
}
