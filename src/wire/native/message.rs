//! Reads the messages of the native wire. A frame is a type and a protocol buffer.

use std::borrow::Cow;

use crate::model::{Chain, Error, GLOBS_MAX, PeerGlobs, PeerId, Result, Seq, Tombstone};
use crate::wire::protobuf::{Fields, Value, each_field, missing, number_u32, peer_str, truncated};
use crate::wire::{Mode, Payload};

/// The version that this program speaks.
pub const VERSION: u32 = 1;
/// The maximum number of entries of one run.
pub const RUN_ENTRIES_MAX: u32 = 1024;
/// The maximum length of the entries of one run together, in bytes. A run of one entry may exceed it.
pub const RUN_BYTES_MAX: usize = 64 << 10;
/// The number of bytes by which a frame may exceed the longest entry or the entries of a full run.
pub const FRAME_EXTRA_BYTES_MAX: usize = 64 << 10;
/// The maximum number of heads of one HEADS.
pub const HEADS_MAX: usize = 1024;
/// The maximum number of points of one FORK.
pub const POINTS_MAX: usize = 64;
/// The maximum length of the text of an ERROR, in bytes. A longer text is cut.
const TEXT_BYTES_MAX: usize = 1024;

/// The types of frames. A reader skips types from [`OPTIONAL_MIN`] on, and refuses all other unknown types.
pub mod kind {
    pub const HELLO: u8 = 1;
    pub const HEADS: u8 = 2;
    pub const FEED: u8 = 3;
    pub const RUN: u8 = 4;
    pub const ACK: u8 = 5;
    pub const FORK: u8 = 6;
    pub const SYNCED: u8 = 7;
    pub const ERROR: u8 = 8;
    pub const FIN: u8 = 9;
    /// Only for a remote with [`super::Hello::floors`].
    pub const FLOOR: u8 = 10;
    /// An older reader skips it.
    pub const PULL: u8 = 128;
    /// An older reader skips it.
    pub const COMPARE: u8 = 129;
}

/// The first type that a reader skips if it is unknown. Later programs may add such types without a new version of the protocol.
const OPTIONAL_MIN: u8 = 128;

/// Stands for a chain that the sender does not reveal. A real chain has this value with a probability of 2^−128.
pub const WITHHELD: Chain = Chain(0);

/// The HELLO of a side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Its id.
    pub id: PeerId,
    /// Its mode.
    pub mode: Mode,
    /// The side wants the session to continue after both logs are equal. A session is live only if both sides want this.
    pub live: bool,
    /// Its root. Logs with equal roots hold the same feeds.
    pub root: u128,
    /// The longest entry that it accepts, in bytes.
    pub entry_bytes_max: u64,
    /// A random number, by which a side detects its own HELLO. 0: none.
    pub nonce: u64,
    /// The side shows its entry at a fork, unless it only receives, and it accepts heads with a withheld chain.
    pub evidence: bool,
    /// The feeds that it accepts.
    pub allowed: PeerGlobs,
    /// The side knows FLOOR, and the floor of a FORK.
    pub floors: bool,
    /// The feeds that it does not accept are left out because its user wants it so: it does not refuse them.
    pub partial: bool,
}

/// The head of a feed, and the chain at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head<'a> {
    /// The author of the feed.
    pub peer: &'a str,
    /// The head.
    pub seq: u32,
    /// The chain at the head.
    pub chain: Chain,
}

/// Entries of one feed that follow each other.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// The sender's handle for the feed (FEED).
    pub handle: u32,
    /// The seq of its first entry.
    pub first: Seq,
    /// The number of entries.
    pub count: u32,
    /// The chain after its last entry.
    pub chain: Chain,
    /// The length of its longest entry, in bytes.
    pub longest: usize,
    deleted: Vec<(u32, Tombstone)>,
    body: &'a [u8],
}

impl<'a> Run<'a> {
    /// Its entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = Payload<'a>> {
        let mut fields = Fields(self.body);
        let mut deleted = self.deleted.clone().into_iter().peekable();
        // `decode` has checked all fields.
        let bytes = std::iter::from_fn(move || {
            loop {
                match fields.next() {
                    Ok(Some((3, Value::Bytes(bytes)))) => return Some(bytes),
                    Ok(Some(_)) => {}
                    _ => return None,
                }
            }
        });
        (0..).zip(bytes).map(move |(nth, bytes)| match deleted.next_if(|&(at, _)| at == nth) {
            Some((_, tombstone)) => Payload::Deleted(tombstone),
            None => Payload::Bytes(bytes),
        })
    }
}

/// A seq of a feed, and the chain at it.
pub type Point = (u32, Chain);

/// The chains of a feed at some seqs, to find a fork.
#[derive(Clone, Debug)]
pub struct Fork<'a> {
    /// The author of the feed.
    pub peer: &'a str,
    /// The chains. [`WITHHELD`] is a chain that differs from that of the receiver.
    pub points: Vec<Point>,
    /// The first entry that differs, by its seq: evidence of the fork.
    pub entry: Option<(u32, Tombstone)>,
    /// The floor of the feed in the log of the sender, 0 if there is none: it knows no chain below it.
    pub floor: u32,
    /// The search is over: the first entry that differs was pruned.
    pub over: bool,
    /// No fork: the sender does not take a FLOOR of its local feed, nor what follows.
    pub refused: bool,
}

impl<'a> Fork<'a> {
    /// These chains, without an entry and without a floor.
    pub fn new(peer: &'a str, points: Vec<Point>) -> Self {
        Self { peer, points, entry: None, floor: 0, over: false, refused: false }
    }
}

/// A message of the native wire.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    /// The first message.
    Hello(Hello),
    /// Some heads, in the order of the ids, and whether they are the last ones.
    Heads(Vec<Head<'a>>, bool),
    /// The handle of a feed, for RUN and ACK.
    Feed(u32, &'a str),
    /// Entries.
    Run(Run<'a>),
    /// All entries of the feed with this handle up to this seq are on the sender's disk.
    Ack(u32, u32),
    /// Chains of a feed.
    Fork(Fork<'a>),
    /// Everything of a feed up to a seq was pruned, and the chain at this seq.
    Floor(&'a str, Seq, Chain),
    /// The sender has sent all entries that it held at its HELLO and that the receiver lacked.
    Synced,
    /// The reason why the sender ends the session, and whether it refuses what the receiver sent.
    Error(Cow<'a, str>, bool),
    /// The last message: the number of entries that the sender has sent, and the number that it has stored.
    Fin(u64, u64),
    /// The sender only receives. Its HELLO comes after that of its remote.
    Pull,
    /// The sender only compares. Its HELLO comes after that of its remote.
    Compare,
    /// A frame that must be skipped.
    Unknown,
}

fn chain(bytes: &[u8]) -> Result<Chain> {
    let bytes = bytes.try_into().map_err(|_| Error::Wire("a chain that is not 16 bytes long".into()))?;
    Ok(Chain(u128::from_le_bytes(bytes)))
}

impl<'a> Message<'a> {
    /// Reads a frame that is not empty.
    ///
    /// # Errors
    /// [`Error::Wire`] with the reason.
    pub fn decode(frame: &'a [u8]) -> Result<Self> {
        let (&kind, body) = frame.split_first().ok_or_else(truncated)?;
        match kind {
            kind::HELLO => decode_hello(body).map(Self::Hello),
            kind::HEADS => decode_heads(body),
            kind::FEED => {
                let (mut handle, mut peer) = (None, None);
                each_field(body, |field| {
                    match field {
                        (1, Value::Number(number)) => handle = Some(number_u32(number)?),
                        (2, Value::Bytes(bytes)) => peer = Some(peer_str(bytes)?),
                        _ => {}
                    }
                    Ok(())
                })?;
                Ok(Self::Feed(handle.ok_or_else(|| missing("a handle"))?, peer.ok_or_else(|| missing("a peer"))?))
            }
            kind::RUN => decode_run(body).map(Self::Run),
            kind::ACK => numbers(body).and_then(|[handle, seq]| Ok(Self::Ack(number_u32(handle)?, number_u32(seq)?))),
            kind::FORK => decode_fork(body).map(Self::Fork),
            kind::SYNCED => each_field(body, |_| Ok(())).map(|()| Self::Synced),
            kind::ERROR => {
                let (mut text, mut refused) = (Cow::Borrowed(""), false);
                each_field(body, |field| {
                    match field {
                        (1, Value::Bytes(bytes)) => text = String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]),
                        (2, Value::Number(number)) => refused = number != 0,
                        _ => {}
                    }
                    Ok(())
                })?;
                Ok(Self::Error(text, refused))
            }
            kind::FIN => numbers(body).map(|[sent, stored]| Self::Fin(sent, stored)),
            kind::FLOOR => {
                let Head { peer, seq, chain } = decode_head(body)?;
                let seq = Seq::new(u64::from(seq)).filter(|_| chain != WITHHELD);
                Ok(Self::Floor(peer, seq.ok_or_else(|| missing("a seq or a chain"))?, chain))
            }
            kind::PULL => Ok(Self::Pull),
            kind::COMPARE => Ok(Self::Compare),
            kind if kind >= OPTIONAL_MIN => Ok(Self::Unknown),
            kind => Err(Error::Wire(format!("a frame of the unknown type {kind}"))),
        }
    }
}

/// The fields 1 and 2 as numbers; 0 if they are missing.
fn numbers(body: &[u8]) -> Result<[u64; 2]> {
    let mut numbers = [0; 2];
    each_field(body, |field| {
        if let (field @ (1 | 2), Value::Number(number)) = field {
            numbers[field as usize - 1] = number;
        }
        Ok(())
    })?;
    Ok(numbers)
}

fn decode_hello(body: &[u8]) -> Result<Hello> {
    let (mut version, mut id, mut mode, mut live, mut root) = (0, None, Mode::Sync, false, None);
    let (mut entry_bytes_max, mut nonce, mut evidence, mut allowed) = (u64::MAX, 0, false, Vec::new());
    let (mut floors, mut partial) = (false, false);
    each_field(body, |field| {
        match field {
            (1, Value::Number(number)) => version = number,
            (2, Value::Bytes(bytes)) => id = Some(PeerId::new(peer_str(bytes)?)?),
            (3, Value::Number(number)) => mode = Mode::of(number),
            (4, Value::Number(number)) => live = number != 0,
            (5, Value::Bytes(bytes)) => root = Some(chain(bytes)?.0),
            (6, Value::Number(number)) => entry_bytes_max = number,
            (7, Value::Fixed(number)) => nonce = number,
            (8, Value::Number(number)) => evidence = number != 0,
            (9, Value::Bytes(_)) if allowed.len() == GLOBS_MAX => {
                return Err(Error::Wire(format!("a HELLO with more than {GLOBS_MAX} patterns")));
            }
            (9, Value::Bytes(bytes)) => allowed.push(peer_str(bytes)?),
            (10, Value::Number(number)) => floors = number != 0,
            (11, Value::Number(number)) => partial = number != 0,
            _ => {}
        }
        Ok(())
    })?;
    if version == 0 {
        return Err(missing("a version"));
    }
    let (id, root) = (id.ok_or_else(|| missing("an id"))?, root.ok_or_else(|| missing("a root"))?);
    let allowed = PeerGlobs::new(allowed).map_err(|err| Error::Wire(err.to_string()))?;
    Ok(Hello { id, mode, live, root, entry_bytes_max, nonce, evidence, allowed, floors, partial })
}

fn decode_heads(body: &[u8]) -> Result<Message<'_>> {
    let (mut heads, mut last) = (Vec::new(), false);
    each_field(body, |field| {
        match field {
            (1, Value::Bytes(bytes)) => {
                let head = decode_head(bytes)?;
                // A decoded head takes more memory than an encoded one.
                if heads.len() == HEADS_MAX {
                    return Err(Error::Wire(format!("a frame of more than {HEADS_MAX} heads")));
                }
                heads.push(head);
            }
            (2, Value::Number(number)) => last = number != 0,
            _ => {}
        }
        Ok(())
    })?;
    Ok(Message::Heads(heads, last))
}

/// Reads a Head or a Floor.
fn decode_head(body: &[u8]) -> Result<Head<'_>> {
    let (mut peer, mut seq, mut at) = (None, 0, None);
    each_field(body, |field| {
        match field {
            (1, Value::Bytes(bytes)) => peer = Some(peer_str(bytes)?),
            (2, Value::Number(number)) => seq = number_u32(number)?,
            (3, Value::Bytes(bytes)) => at = Some(chain(bytes)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(Head { peer: peer.ok_or_else(|| missing("a peer"))?, seq, chain: at.ok_or_else(|| missing("a chain"))? })
}

fn decode_run(body: &[u8]) -> Result<Run<'_>> {
    let (mut handle, mut first, mut count, mut longest, mut deleted, mut after) = (None, 0, 0u64, 0, Vec::new(), None);
    each_field(body, |field| {
        match field {
            (1, Value::Number(number)) => handle = Some(number_u32(number)?),
            (2, Value::Number(number)) => first = number,
            (3, Value::Bytes(bytes)) => {
                count += 1;
                longest = bytes.len().max(longest);
            }
            (4, Value::Bytes(_)) if deleted.len() == RUN_ENTRIES_MAX as usize => {
                return Err(Error::Wire(format!("a run of more than {RUN_ENTRIES_MAX} deleted entries")));
            }
            (4, Value::Bytes(bytes)) => deleted.push(decode_tombstone(bytes)?),
            (5, Value::Bytes(bytes)) => after = Some(chain(bytes)?),
            _ => {}
        }
        Ok(())
    })?;
    let last = count.checked_sub(1).and_then(|more| first.checked_add(more)).and_then(Seq::new);
    let (Some(first), Some(_)) = (Seq::new(first), last) else {
        return Err(Error::Wire(format!("an invalid run of {count} entries from seq {first}")));
    };
    if count > u64::from(RUN_ENTRIES_MAX) {
        return Err(Error::Wire(format!("a run of more than {RUN_ENTRIES_MAX} entries")));
    }
    if !deleted.is_sorted_by(|a, b| a.0 < b.0) || deleted.last().is_some_and(|&(nth, _)| u64::from(nth) >= count) {
        return Err(Error::Wire("deleted entries that are not in their run".into()));
    }
    let handle = handle.ok_or_else(|| missing("a handle"))?;
    let chain = after.ok_or_else(|| missing("a chain"))?;
    Ok(Run { handle, first, count: count as u32, chain, longest, deleted, body })
}

/// Reads a Deleted or an Evidence: the number of the entry, its hash and its length.
fn decode_tombstone(body: &[u8]) -> Result<(u32, Tombstone)> {
    let (mut number_of, mut hash, mut bytes) = (0, None, 0);
    each_field(body, |field| {
        match field {
            (1, Value::Number(number)) => number_of = number_u32(number)?,
            (2, Value::Fixed(number)) => hash = Some(number),
            (3, Value::Number(number)) => bytes = number_u32(number)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((number_of, Tombstone { hash: hash.ok_or_else(|| missing("a hash"))?, bytes }))
}

fn decode_fork(body: &[u8]) -> Result<Fork<'_>> {
    let (mut peer, mut points, mut entry) = (None, Vec::new(), None);
    let (mut floor, mut over, mut refused) = (0, false, false);
    each_field(body, |field| {
        match field {
            (1, Value::Bytes(bytes)) => peer = Some(peer_str(bytes)?),
            (2, Value::Bytes(bytes)) => {
                let (mut seq, mut at) = (0, None);
                each_field(bytes, |field| {
                    match field {
                        (1, Value::Number(number)) => seq = number_u32(number)?,
                        (2, Value::Bytes(bytes)) => at = Some(chain(bytes)?),
                        _ => {}
                    }
                    Ok(())
                })?;
                if points.len() == POINTS_MAX {
                    return Err(Error::Wire(format!("a fork with more than {POINTS_MAX} points")));
                }
                points.push((seq, at.ok_or_else(|| missing("a chain"))?));
            }
            (3, Value::Bytes(bytes)) => entry = Some(decode_tombstone(bytes)?),
            (4, Value::Number(number)) => floor = number_u32(number)?,
            (5, Value::Number(number)) => over = number != 0,
            (6, Value::Number(number)) => refused = number != 0,
            _ => {}
        }
        Ok(())
    })?;
    Ok(Fork { peer: peer.ok_or_else(|| missing("a peer"))?, points, entry, floor, over, refused })
}
