//! The messages of the native wire as bytes: one frame is a type and a protocol buffer.

use std::borrow::Cow;

use super::message::{Fields, Mode, Value, missing, peer_str, truncated};
use crate::entry::{Chain, Entry, Kind, PeerId, Seq, Tomb};
use crate::error::{Error, Result};

/// What a side opens with to offer the native wire: three empty frames, of 4, 3 and 1 bytes.
pub const PREAMBLE: &[u8; 8] = b"\x80\x80\x80\x00\x80\x80\x00\x00";
/// The version that this program speaks.
pub const VERSION: u32 = 1;
/// The most entries of one run.
pub const RUN_ENTRIES_MAX: u32 = 1024;
/// The most bytes of the entries of one run that has more than one.
pub const RUN_BYTES_MAX: usize = 64 << 10;
/// What a frame may be longer than the longest entry or a full run.
pub const FRAME_EXTRA_BYTES_MAX: usize = 64 << 10;
/// The most heads of one HEADS.
pub const HEADS_MAX: usize = 1024;
/// The most points of one FORK, and the most bytes of the text of an ERROR.
pub const POINTS_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 1024;

/// The types of frames. A reader skips those from [`UNKNOWN_MIN`] on, and refuses the others that are not here.
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
}

/// Room for what later versions may add without a new version.
const UNKNOWN_MIN: u8 = 128;

/// What a side says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Its id.
    pub id: PeerId,
    /// What it wants.
    pub mode: Mode,
    /// It goes on after both hold the same. A session is live only if both sides are.
    pub live: bool,
    /// Its root: equal roots are equal logs.
    pub root: u128,
    /// The longest entry that it takes, in bytes.
    pub entry_bytes_max: u64,
    /// A random number, by which a side knows its own HELLO when that comes back; 0: none.
    pub nonce: u64,
}

/// How far a feed is, and its chain there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head<'a> {
    /// Whose feed.
    pub peer: &'a str,
    /// Its head.
    pub seq: u32,
    /// The chain at the head.
    pub chain: Chain,
}

/// Entries of one feed that follow each other.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// Which feed: what the last FEED of this number said.
    pub handle: u32,
    /// The place of its first entry.
    pub first: Seq,
    /// How many entries.
    pub count: u32,
    /// The chain after its last entry.
    pub chain: Chain,
    /// The length of its longest entry, in bytes.
    pub longest: usize,
    deleted: Vec<(u32, Tomb)>,
    body: &'a [u8],
}

impl<'a> Run<'a> {
    /// Its entries in their order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> {
        let mut fields = Fields(self.body);
        let mut deleted = self.deleted.clone().into_iter().peekable();
        // The fields were all read before.
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
            Some((_, tomb)) => Entry::Deleted(tomb),
            None => Entry::Bytes(bytes, Kind::of(bytes)),
        })
    }
}

/// A place in a feed and the chain there.
pub type Point = (u32, Chain);

/// A message of the native wire.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    /// The first one.
    Hello(Hello),
    /// Heads in the order of the ids, in as many frames as it takes; whether it is the last of them.
    Heads(Vec<Head<'a>>, bool),
    /// A number for a feed.
    Feed(u32, &'a str),
    /// Entries.
    Run(Run<'a>),
    /// All of this feed up to this seq is on disk here.
    Ack(u32, u32),
    /// The chain of a feed that differs, at some places.
    Fork(&'a str, Vec<Point>),
    /// All that the sender held at its HELLO, and that is to go over this link, has gone.
    Synced,
    /// Why the sender ends the session.
    Error(Cow<'a, str>),
    /// The last one: entries sent and entries stored.
    Fin(u64, u64),
    /// Of a later version, to be skipped.
    Unknown,
}

fn chain(bytes: &[u8]) -> Result<Chain> {
    let bytes = bytes.try_into().map_err(|_| Error::Wire("a chain that is not 16 bytes long".into()))?;
    Ok(Chain(u128::from_le_bytes(bytes)))
}

fn small(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::Wire(format!("the number {number}, which is over 4294967295")))
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
                each(body, |field| {
                    match field {
                        (1, Value::Number(number)) => handle = Some(small(number)?),
                        (2, Value::Bytes(bytes)) => peer = Some(peer_str(bytes)?),
                        _ => {}
                    }
                    Ok(())
                })?;
                Ok(Self::Feed(handle.ok_or_else(|| missing("a handle"))?, peer.ok_or_else(|| missing("a peer"))?))
            }
            kind::RUN => decode_run(body).map(Self::Run),
            kind::ACK => numbers(body).and_then(|[handle, seq]| Ok(Self::Ack(small(handle)?, small(seq)?))),
            kind::FORK => decode_fork(body),
            kind::SYNCED => each(body, |_| Ok(())).map(|()| Self::Synced),
            kind::ERROR => {
                let mut text = Cow::Borrowed("");
                each(body, |field| {
                    if let (1, Value::Bytes(bytes)) = field {
                        text = String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]);
                    }
                    Ok(())
                })?;
                Ok(Self::Error(text))
            }
            kind::FIN => numbers(body).map(|[sent, stored]| Self::Fin(sent, stored)),
            UNKNOWN_MIN.. => Ok(Self::Unknown),
            kind => Err(Error::Wire(format!("a frame of the type {kind}, which there is not"))),
        }
    }
}

fn each<'a>(body: &'a [u8], mut take: impl FnMut((u64, Value<'a>)) -> Result<()>) -> Result<()> {
    let mut fields = Fields(body);
    while let Some(field) = fields.next()? {
        take(field)?;
    }
    Ok(())
}

/// The fields 1 and 2 as numbers; 0 if they are not there.
fn numbers(body: &[u8]) -> Result<[u64; 2]> {
    let mut numbers = [0; 2];
    each(body, |field| {
        if let (field @ (1 | 2), Value::Number(number)) = field {
            numbers[field as usize - 1] = number;
        }
        Ok(())
    })?;
    Ok(numbers)
}

fn decode_hello(body: &[u8]) -> Result<Hello> {
    let (mut version, mut id, mut mode, mut live, mut root) = (0, None, Mode::Sync, false, None);
    let (mut entry_bytes_max, mut nonce) = (u64::MAX, 0);
    each(body, |field| {
        match field {
            (1, Value::Number(number)) => version = number,
            (2, Value::Bytes(bytes)) => id = Some(PeerId::new(peer_str(bytes)?)?),
            (3, Value::Number(number)) => mode = Mode::of(number),
            (4, Value::Number(number)) => live = number != 0,
            (5, Value::Bytes(bytes)) => root = Some(chain(bytes)?.0),
            (6, Value::Number(number)) => entry_bytes_max = number,
            (7, Value::Fixed(number)) => nonce = number,
            _ => {}
        }
        Ok(())
    })?;
    if version == 0 {
        return Err(missing("a version"));
    }
    let (id, root) = (id.ok_or_else(|| missing("an id"))?, root.ok_or_else(|| missing("a root"))?);
    Ok(Hello { id, mode, live, root, entry_bytes_max, nonce })
}

fn decode_heads(body: &[u8]) -> Result<Message<'_>> {
    let (mut heads, mut last) = (Vec::new(), false);
    each(body, |field| {
        match field {
            (1, Value::Bytes(bytes)) => {
                let (mut peer, mut seq, mut at) = (None, 0, None);
                each(bytes, |field| {
                    match field {
                        (1, Value::Bytes(bytes)) => peer = Some(peer_str(bytes)?),
                        (2, Value::Number(number)) => seq = small(number)?,
                        (3, Value::Bytes(bytes)) => at = Some(chain(bytes)?),
                        _ => {}
                    }
                    Ok(())
                })?;
                let peer = peer.ok_or_else(|| missing("a peer"))?;
                // Kept larger than they come, so that there must be few.
                if heads.len() == HEADS_MAX {
                    return Err(Error::Wire(format!("a frame of more than {HEADS_MAX} heads")));
                }
                heads.push(Head { peer, seq, chain: at.ok_or_else(|| missing("a chain"))? });
            }
            (2, Value::Number(number)) => last = number != 0,
            _ => {}
        }
        Ok(())
    })?;
    Ok(Message::Heads(heads, last))
}

fn decode_run(body: &[u8]) -> Result<Run<'_>> {
    let (mut handle, mut first, mut count, mut longest, mut deleted, mut after) = (None, 0, 0u64, 0, Vec::new(), None);
    each(body, |field| {
        match field {
            (1, Value::Number(number)) => handle = Some(small(number)?),
            (2, Value::Number(number)) => first = number,
            (3, Value::Bytes(bytes)) => {
                count += 1;
                longest = bytes.len().max(longest);
            }
            (4, Value::Bytes(_)) if deleted.len() == RUN_ENTRIES_MAX as usize => {
                return Err(Error::Wire(format!("a run of more than {RUN_ENTRIES_MAX} deleted entries")));
            }
            (4, Value::Bytes(bytes)) => deleted.push(decode_deleted(bytes)?),
            (5, Value::Bytes(bytes)) => after = Some(chain(bytes)?),
            _ => {}
        }
        Ok(())
    })?;
    let last = count.checked_sub(1).and_then(|more| first.checked_add(more)).and_then(Seq::new);
    let (Some(first), Some(_)) = (Seq::new(first), last) else {
        return Err(Error::Wire(format!("a run of {count} entries from {first}, which is none")));
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

fn decode_deleted(body: &[u8]) -> Result<(u32, Tomb)> {
    let (mut nth, mut hash, mut bytes) = (0, None, 0);
    each(body, |field| {
        match field {
            (1, Value::Number(number)) => nth = small(number)?,
            (2, Value::Fixed(number)) => hash = Some(number),
            (3, Value::Number(number)) => bytes = small(number)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((nth, Tomb { hash: hash.ok_or_else(|| missing("a hash"))?, bytes }))
}

fn decode_fork(body: &[u8]) -> Result<Message<'_>> {
    let (mut peer, mut points) = (None, Vec::new());
    each(body, |field| {
        match field {
            (1, Value::Bytes(bytes)) => peer = Some(peer_str(bytes)?),
            (2, Value::Bytes(bytes)) => {
                let (mut seq, mut at) = (0, None);
                each(bytes, |field| {
                    match field {
                        (1, Value::Number(number)) => seq = small(number)?,
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
            _ => {}
        }
        Ok(())
    })?;
    Ok(Message::Fork(peer.ok_or_else(|| missing("a peer"))?, points))
}
