//! The original's two messages (protocol buffers, proto2) as bytes.

use super::frame::{put_varint, take_varint, varint_bytes};
use crate::entry::{PeerId, Seq};
use crate::error::{Error, Result};

/// What a side wants of a session.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mode {
    /// Both directions.
    #[default]
    Sync,
    /// Only send.
    Push,
    /// Only receive.
    Pull,
}

impl Mode {
    /// From the wire; a mode that we do not know counts as none.
    pub fn of(number: u64) -> Self {
        match number {
            2 => Self::Push,
            3 => Self::Pull,
            _ => Self::Sync,
        }
    }

    /// On the wire.
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Sync => 1,
            Self::Push => 2,
            Self::Pull => 3,
        }
    }

    /// Whether a side of this mode, against one of `other`, sends entries.
    pub fn sends_to(self, other: Self) -> bool {
        self != Self::Pull && other != Self::Push
    }
}

/// Every later message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeMessage<'a> {
    /// Whose feed.
    pub peer: &'a str,
    /// The place in it.
    pub seq: Seq,
    /// The bytes.
    pub entry: &'a [u8],
}

/// One field of a message.
pub(super) enum Value<'a> {
    Number(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
    /// Of a type that no field of ours has.
    Other,
}

/// Walks over the fields of a message.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let (value, bytes) = take_varint(self.0)?.ok_or_else(truncated)?;
        self.0 = &self.0[bytes..];
        Ok(value)
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).map_err(|_| truncated())?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Number and value of the next field.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => {
                let bytes = self.bytes(8)?.try_into().map_err(|_| truncated())?;
                Value::Fixed(u64::from_le_bytes(bytes))
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Value::Other)?,
            wire_type => return Err(Error::Wire(format!("a field of the wire type {wire_type}"))),
        };
        check_field(tag)?;
        Ok(Some((tag >> 3, value)))
    }
}

/// Checks the number of a field by its tag.
pub(super) fn check_field(tag: u64) -> Result<()> {
    match tag >> 3 {
        1..0x2000_0000 => Ok(()),
        _ => Err(Error::Wire("a field number that is none".into())),
    }
}

pub(super) fn truncated() -> Error {
    Error::Wire("a message that is cut short".into())
}

/// Says who sent what is wrong with a message, and what to do.
pub(super) fn by_the_other_side(err: Error) -> Error {
    match err {
        Error::Wire(why) => Error::Wire(format!(
            "the other side sent {why}; what came before it is stored: run it again, and see that both sides have the same version"
        )),
        err => err,
    }
}

/// As [`by_the_other_side`], of a message that must not come, or not now.
pub(super) fn unexpected(what: impl Into<String>) -> Error {
    by_the_other_side(Error::Wire(what.into()))
}

pub(super) fn missing(field: &str) -> Error {
    Error::Wire(format!("a message without {field}"))
}

/// Checks that `bytes` are a peer id.
///
/// # Errors
/// [`Error::Wire`] with the reason.
pub fn peer_str(bytes: &[u8]) -> Result<&str> {
    PeerId::check(bytes).map_err(|err| match err {
        Error::PeerId(why) => Error::Wire(format!("what is no peer id ({why})")),
        err => err,
    })
}

/// Reads a digest: peer and seq.
///
/// # Errors
/// [`Error::Wire`] with the reason.
pub fn decode_digest(body: &[u8]) -> Result<(&str, u32)> {
    let (mut peer, mut seq) = (None, None);
    let mut fields = Fields(body);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(bytes)) => peer = Some(bytes),
            (2, Value::Number(number)) => seq = Some(number),
            _ => {}
        }
    }
    let seq = seq.ok_or_else(|| missing("a seq"))?;
    let seq = u32::try_from(seq).map_err(|_| Error::Wire(format!("the seq {seq}, which is over 4294967295")))?;
    Ok((peer_str(peer.ok_or_else(|| missing("a peer"))?)?, seq))
}

/// Adds a digest as a field of a handshake.
pub fn put_digest(out: &mut Vec<u8>, peer: &str, seq: u32) {
    let (peer, seq) = (peer.as_bytes(), u64::from(seq));
    let length = 2 + varint_bytes(peer.len() as u64) + peer.len() + varint_bytes(seq);
    out.push(2 << 3 | 2);
    put_varint(out, length as u64);
    put_bytes(out, 1, peer);
    put_number(out, 2, seq);
}

/// Adds the whole frame of a handshake to `out`: `digests` are its heads, made by [`put_digest`].
pub fn put_handshake(out: &mut Vec<u8>, id: &PeerId, digests: &[u8], mode: Mode) {
    let id = id.as_str().as_bytes();
    let length = 1 + varint_bytes(id.len() as u64) + id.len() + digests.len() + 2;
    put_varint(out, length as u64);
    put_bytes(out, 1, id);
    out.extend_from_slice(digests);
    put_number(out, 3, mode.number());
}

impl<'a> ChangeMessage<'a> {
    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`Error::Wire`] with the reason.
    pub fn decode(body: &'a [u8]) -> Result<Self> {
        let (mut peer, mut seq, mut entry) = (None, None, None);
        let mut fields = Fields(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(bytes)) => peer = Some(bytes),
                (2, Value::Number(number)) => seq = Some(number),
                (3, Value::Bytes(bytes)) => entry = Some(bytes),
                _ => {}
            }
        }
        let peer = peer_str(peer.ok_or_else(|| missing("a peer"))?)?;
        let seq = seq.ok_or_else(|| missing("a seq"))?;
        let seq = Seq::new(seq).ok_or_else(|| Error::Wire(format!("the seq {seq}, which is not 1 to 4294967295")))?;
        Ok(Self { peer, seq, entry: entry.ok_or_else(|| missing("an entry"))? })
    }
}

/// Adds the whole frame of a change to `out`.
pub fn put_change(out: &mut Vec<u8>, peer: &PeerId, seq: Seq, entry: &[u8]) {
    let peer = peer.as_str().as_bytes();
    let seq = u64::from(seq.get());
    let field = |length: usize| 1 + varint_bytes(length as u64) + length;
    let length = field(peer.len()) + 1 + varint_bytes(seq) + field(entry.len());
    put_varint(out, length as u64);
    put_bytes(out, 1, peer);
    put_number(out, 2, seq);
    put_bytes(out, 3, entry);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_number(out: &mut Vec<u8>, field: u8, number: u64) {
    out.push(field << 3);
    put_varint(out, number);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: &[u8] = b"\x14\x0a\x05alice\x12\x09\x0a\x05alice\x10\x02\x18\x01";
    const CHANGE: &[u8] = b"\x0d\x0a\x05alice\x10\x01\x1a\x02a1";

    fn alice() -> PeerId {
        PeerId::new("alice").unwrap()
    }

    #[test]
    fn golden_bytes() {
        let (mut out, mut digests) = (Vec::new(), Vec::new());
        put_digest(&mut digests, "alice", 2);
        put_handshake(&mut out, &alice(), &digests, Mode::Sync);
        assert_eq!(out, HANDSHAKE);
        let mut out = Vec::new();
        put_change(&mut out, &alice(), Seq::new(1).unwrap(), b"a1");
        assert_eq!(out, CHANGE);
        let change = ChangeMessage { peer: "alice", seq: Seq::new(1).unwrap(), entry: b"a1" };
        assert_eq!(ChangeMessage::decode(&CHANGE[1..]).unwrap(), change);
    }

    #[test]
    fn what_other_writers_may_do() {
        // Reversed fields, unknown fields of all four wire types, an overlong number, a field given twice.
        let body = b"\x1a\x02a1\x20\x05\x2912345678\x32\x01z\x3d1234\x10\x09\x10\x81\x80\x00\x0a\x05alice";
        let change = ChangeMessage::decode(body).unwrap();
        assert_eq!((change.peer, change.seq.get(), change.entry), ("alice", 1, &b"a1"[..]));
    }

    #[test]
    fn what_is_refused() {
        let changes: [&[u8]; 10] = [
            b"",
            b"\x0a\x01a\x10\x01",
            b"\x0a\x01a\x1a\x01a",
            b"\x10\x01\x1a\x01a",
            b"\x0a\x01a\x10\x00\x1a\x01a",
            b"\x0a\x01a\x10\x80\x80\x80\x80\x10\x1a\x01a",
            b"\x0a\x01\xff\x10\x01\x1a\x01a",
            b"\x0a\x01a\x10\x01\x1a\x05a",
            b"\x0a\x01a\x10\x01\x1a\x01a\x23",
            b"\x0a\x01a\x10\x01\x1a\x01a\x00\x00",
        ];
        for bad in changes {
            assert!(ChangeMessage::decode(bad).is_err(), "{bad:?}");
        }
        for bad in [&b"\x0a\x00\x10\x01"[..], b"\x0a\x01a", b"\x10\x01", b"\x0a\x01a\x10", b"\x0a\x01a\x10\x80\x80\x80\x80\x10"] {
            assert!(decode_digest(bad).is_err(), "{bad:?}");
        }
    }
}
