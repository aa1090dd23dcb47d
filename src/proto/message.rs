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
    /// Whether a side of this mode, against one of `other`, sends entries.
    pub fn sends_to(self, other: Self) -> bool {
        self != Self::Pull && other != Self::Push
    }
}

/// The first message of each side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// The sender's id.
    pub id: PeerId,
    /// Its heads, as they stand in the message.
    pub heads: Vec<(PeerId, u32)>,
    /// What it wants.
    pub mode: Mode,
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
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a type that no field of ours has.
    Other,
}

/// Walks over the fields of a message.
struct Fields<'a>(&'a [u8]);

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
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.bytes(8).map(|_| Value::Other)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Value::Other)?,
            wire_type => return Err(Error::Wire(format!("a field of the wire type {wire_type}"))),
        };
        if tag >> 3 == 0 || tag >> 3 > (1 << 29) - 1 {
            return Err(Error::Wire("a field number that is none".into()));
        }
        Ok(Some((tag >> 3, value)))
    }
}

fn truncated() -> Error {
    Error::Wire("a message that is cut short".into())
}

fn missing(field: &str) -> Error {
    Error::Wire(format!("a message without {field}"))
}

fn peer_id(bytes: &[u8]) -> Result<PeerId> {
    PeerId::from_bytes(bytes).map_err(|err| Error::Wire(err.to_string()))
}

impl Handshake {
    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`Error::Wire`] with the reason.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let (mut id, mut heads, mut mode) = (None, Vec::new(), Mode::Sync);
        let mut fields = Fields(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(bytes)) => id = Some(bytes),
                (2, Value::Bytes(bytes)) => heads.push(decode_digest(bytes)?),
                // A mode that we do not know counts as none.
                (3, Value::Number(number)) => {
                    mode = match number {
                        2 => Mode::Push,
                        3 => Mode::Pull,
                        _ => Mode::Sync,
                    }
                }
                _ => {}
            }
        }
        Ok(Self { id: peer_id(id.ok_or_else(|| missing("an id"))?)?, heads, mode })
    }

    /// Adds the whole frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        put_bytes(&mut body, 1, self.id.as_str().as_bytes());
        for (peer, seq) in &self.heads {
            let peer = peer.as_str().as_bytes();
            let length = 2 + varint_bytes(peer.len() as u64) + peer.len() + varint_bytes(u64::from(*seq));
            body.push(2 << 3 | 2);
            put_varint(&mut body, length as u64);
            put_bytes(&mut body, 1, peer);
            put_number(&mut body, 2, u64::from(*seq));
        }
        put_number(
            &mut body,
            3,
            match self.mode {
                Mode::Sync => 1,
                Mode::Push => 2,
                Mode::Pull => 3,
            },
        );
        put_varint(out, body.len() as u64);
        out.extend_from_slice(&body);
    }
}

fn decode_digest(body: &[u8]) -> Result<(PeerId, u32)> {
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
    Ok((peer_id(peer.ok_or_else(|| missing("a peer"))?)?, seq))
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
        let peer = peer.ok_or_else(|| missing("a peer"))?;
        let peer = std::str::from_utf8(peer).map_err(|_| Error::Wire("a peer id that is not UTF-8".into()))?;
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

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, field: u8, number: u64) {
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
        let handshake = Handshake { id: alice(), heads: vec![(alice(), 2)], mode: Mode::Sync };
        let mut out = Vec::new();
        handshake.encode(&mut out);
        assert_eq!(out, HANDSHAKE);
        assert_eq!(Handshake::decode(&HANDSHAKE[1..]).unwrap(), handshake);
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
        assert_eq!(Handshake::decode(b"\x0a\x01a").unwrap().mode, Mode::Sync);
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
        for bad in [&b""[..], b"\x0a\x00", b"\x12\x03\x0a\x01a", b"\x0a\x01a\x12\x02\x10\x01", b"\x0a\x01a\x12"] {
            assert!(Handshake::decode(bad).is_err(), "{bad:?}");
        }
    }
}
