//! The two messages of the original wire as bytes: Handshake and Change.

use crate::model::{Error, PeerId, Result, Seq};
use crate::wire::Mode;
use crate::wire::frame::{put_varint, varint_bytes};
use crate::wire::protobuf::{Value, each_field, missing, number_u32, peer_str, put_bytes, put_number};

/// A Change: every message after the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeMessage<'a> {
    /// The author of the feed.
    pub peer: &'a str,
    /// The seq.
    pub seq: Seq,
    /// The bytes.
    pub entry: &'a [u8],
}

/// Reads a digest: peer and seq.
///
/// # Errors
/// [`Error::Wire`] with the reason.
pub fn decode_digest(body: &[u8]) -> Result<(&str, u32)> {
    let (mut peer, mut seq) = (None, None);
    each_field(body, |field| {
        match field {
            (1, Value::Bytes(bytes)) => peer = Some(bytes),
            (2, Value::Number(number)) => seq = Some(number),
            _ => {}
        }
        Ok(())
    })?;
    let seq = number_u32(seq.ok_or_else(|| missing("a seq"))?)?;
    Ok((peer_str(peer.ok_or_else(|| missing("a peer"))?)?, seq))
}

/// Adds a digest as a field of a handshake.
pub fn put_digest(out: &mut Vec<u8>, peer: &str, seq: u32) {
    let (length, peer, seq) = (digest_body_bytes(peer, seq), peer.as_bytes(), u64::from(seq));
    out.push(2 << 3 | 2);
    put_varint(out, length as u64);
    put_bytes(out, 1, peer);
    put_number(out, 2, seq);
}

/// The number of bytes that [`put_digest`] adds.
pub fn digest_bytes(peer: &str, seq: u32) -> usize {
    let length = digest_body_bytes(peer, seq);
    1 + varint_bytes(length as u64) + length
}

fn digest_body_bytes(peer: &str, seq: u32) -> usize {
    2 + varint_bytes(peer.len() as u64) + peer.len() + varint_bytes(u64::from(seq))
}

/// Begins the frame of a handshake. Its digests, which have `digests_bytes` bytes together, must follow, then its mode with
/// [`put_mode`].
pub fn put_handshake(out: &mut Vec<u8>, id: &PeerId, digests_bytes: u64) {
    let id = id.as_str().as_bytes();
    let length = 1 + varint_bytes(id.len() as u64) + id.len() + 2;
    put_varint(out, length as u64 + digests_bytes);
    put_bytes(out, 1, id);
}

/// Ends the frame of a handshake.
pub fn put_mode(out: &mut Vec<u8>, mode: Mode) {
    put_number(out, 3, mode.number());
}

impl<'a> ChangeMessage<'a> {
    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`Error::Wire`] with the reason.
    pub fn decode(body: &'a [u8]) -> Result<Self> {
        let (mut peer, mut seq, mut entry) = (None, None, None);
        each_field(body, |field| {
            match field {
                (1, Value::Bytes(bytes)) => peer = Some(bytes),
                (2, Value::Number(number)) => seq = Some(number),
                (3, Value::Bytes(bytes)) => entry = Some(bytes),
                _ => {}
            }
            Ok(())
        })?;
        let peer = peer_str(peer.ok_or_else(|| missing("a peer"))?)?;
        let seq = seq.ok_or_else(|| missing("a seq"))?;
        let seq = Seq::new(seq).ok_or_else(|| Error::Wire(format!("the invalid seq {seq} (valid: 1 to 4294967295)")))?;
        Ok(Self { peer, seq, entry: entry.ok_or_else(|| missing("an entry"))? })
    }
}

/// Adds the frame of a change.
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
        let mut out = Vec::new();
        put_handshake(&mut out, &alice(), digest_bytes("alice", 2) as u64);
        put_digest(&mut out, "alice", 2);
        put_mode(&mut out, Mode::Sync);
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
