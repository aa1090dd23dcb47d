//! The handshake. It names every feed of the remote, and can be very large. So it is read in pieces.

use super::message::decode_digest;
use crate::model::{Chain, Error, PeerChoice, PeerId, Result};
use crate::wire::frame::{FrameReader, read_varint};
use crate::wire::protobuf::{check_field_number, missing, peer_str, truncated};
use crate::wire::{Mode, NamedHead, RemoteHeads};

/// The maximum length of an id or digest in bytes, including unknown fields in it. Other fields of any length are skipped.
const FIELD_BYTES_MAX: u64 = 64 << 10;

/// The handshake of the remote.
#[derive(Debug)]
pub struct Handshake {
    /// Its id.
    pub id: PeerId,
    /// Its heads.
    pub heads: RemoteHeads,
    /// Its mode.
    pub mode: Mode,
    /// The digests that [`HandshakeReader::take_digests`] has not returned.
    pub digests: Vec<NamedHead>,
}

/// Reads a handshake as it arrives.
#[derive(Default)]
pub struct HandshakeReader {
    /// The number of bytes of the frame that are not read yet; `None` before its length is known.
    left: Option<u64>,
    /// The number of bytes of an unknown field that must still be skipped.
    skip: u64,
    id: Option<PeerId>,
    heads: RemoteHeads,
    mode: Mode,
    /// The feeds that the local side takes.
    choice: PeerChoice,
    /// Whether the digests are kept until they are taken.
    keeps_digests: bool,
    digests: Vec<NamedHead>,
}

/// The result of reading one field.
enum Field {
    /// The number of bytes that were read, and the number of bytes after them that must be skipped.
    Read(usize, u64),
    /// The field is incomplete.
    Incomplete,
}

impl HandshakeReader {
    /// A reader for a side that takes only the feeds in `choice`.
    pub fn new(choice: PeerChoice, keeps_digests: bool) -> Self {
        Self { choice, keeps_digests, ..Self::default() }
    }

    /// The digests that were read since the last call, if they are kept. Their chains are 0.
    pub fn take_digests(&mut self) -> Vec<NamedHead> {
        std::mem::take(&mut self.digests)
    }

    /// Reads the length of the frame. Returns whether it is known.
    ///
    /// # Errors
    /// [`Error::Wire`] for an invalid length.
    pub fn begin(&mut self, frames: &mut FrameReader) -> Result<bool> {
        if self.left.is_none() {
            self.left = frames.open_frame()?;
        }
        Ok(self.left.is_some())
    }

    /// Whether the length of the frame is known.
    pub fn has_begun(&self) -> bool {
        self.left.is_some()
    }

    /// The number of bytes of the frame that are not read yet.
    pub fn left(&self) -> u64 {
        self.left.unwrap_or(0)
    }

    /// Reads the input so far. Returns the handshake once it is complete.
    ///
    /// # Errors
    /// [`Error::Wire`] with the reason.
    pub fn read(&mut self, frames: &mut FrameReader) -> Result<Option<Handshake>> {
        self.begin(frames)?;
        let Some(mut left) = self.left else { return Ok(None) };
        while left > 0 {
            let pending = frames.pending();
            let available = &pending[..usize::try_from(left).unwrap_or(usize::MAX).min(pending.len())];
            let taken = if self.skip > 0 {
                let skipped = self.skip.min(available.len() as u64);
                self.skip -= skipped;
                skipped as usize
            } else {
                match self.field(available, left)? {
                    Field::Read(bytes, skip) => {
                        self.skip = skip;
                        bytes
                    }
                    Field::Incomplete => 0,
                }
            };
            if taken == 0 {
                // If the whole frame is available, its last field is incomplete.
                return if available.len() as u64 == left { Err(truncated()) } else { Ok(None) };
            }
            left -= taken as u64;
            self.left = Some(left);
            frames.take(taken);
        }
        // An error leaves the reader as it is: the caller may want more of the stream before it reports the error, and reads again.
        let id = self.id.take().ok_or_else(|| missing("an id"))?;
        let this = std::mem::take(self);
        Ok(Some(Handshake { id, heads: this.heads, mode: this.mode, digests: this.digests }))
    }

    /// Reads the field at the start of `available`. `left` is the number of bytes of the frame that are not read yet.
    fn field(&mut self, available: &[u8], left: u64) -> Result<Field> {
        let Some((tag, mut at)) = read_varint(available)? else { return Ok(Field::Incomplete) };
        check_field_number(tag)?;
        // For example, field 3 is the mode in a handshake, but it holds bytes in a Change.
        if matches!((tag >> 3, tag & 7), (1 | 2, 0 | 1 | 5) | (3, 1 | 2 | 5)) {
            return Err(Error::Wire("a field of the wrong type".into()));
        }
        let skip = match tag & 7 {
            0 => {
                let Some((number, bytes)) = read_varint(&available[at..])? else { return Ok(Field::Incomplete) };
                at += bytes;
                if tag >> 3 == 3 {
                    self.mode = Mode::of(number);
                }
                0
            }
            1 => 8,
            5 => 4,
            2 => {
                let Some((length, bytes)) = read_varint(&available[at..])? else { return Ok(Field::Incomplete) };
                at += bytes;
                length
            }
            wire_type => return Err(Error::Wire(format!("a field of the unknown wire type {wire_type}"))),
        };
        if skip > left - at as u64 {
            return Err(truncated());
        }
        if tag != (1 << 3 | 2) && tag != (2 << 3 | 2) {
            return Ok(Field::Read(at, skip));
        }
        if skip > FIELD_BYTES_MAX {
            return Err(Error::Wire("a peer id that is too long".into()));
        }
        let Some(body) = available.get(at..at + skip as usize) else { return Ok(Field::Incomplete) };
        if tag >> 3 == 1 {
            self.id = Some(PeerId::new(peer_str(body)?)?);
        } else {
            let (peer, seq) = decode_digest(body)?;
            self.heads.add(peer, seq, &self.choice)?;
            if self.keeps_digests {
                self.digests.push(NamedHead { peer: PeerId::new(peer)?, seq, chain: Chain(0) });
            }
        }
        Ok(Field::Read(at + body.len(), 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FeedKey;

    fn read(stream: &[u8], chunk: usize) -> Result<Option<Handshake>> {
        let (mut frames, mut reader) = (FrameReader::new(1), HandshakeReader::default());
        for part in stream.chunks(chunk) {
            frames.push(part);
            if let Some(handshake) = reader.read(&mut frames)? {
                return Ok(Some(handshake));
            }
        }
        Ok(None)
    }

    #[test]
    fn in_any_chunking_and_any_order() {
        let canonical: &[u8] = b"\x14\x0a\x05alice\x12\x09\x0a\x05alice\x10\x02\x18\x01";
        // Reversed, with unknown fields of all four wire types, overlong numbers, empty frames, a feed named twice.
        let odd: &[u8] = b"\0\x80\0\xb7\x80\x00\x18\x81\x00\x12\x0b\x10\x09\x20\x01\x0a\x05alice\x12\x09\x10\x02\x0a\x05alice\
            \x20\x07\x2912345678\x3d1234\x32\x03xyz\x0a\x05alice";
        for stream in [canonical, odd] {
            for chunk in 1..=stream.len() {
                let handshake = read(stream, chunk).unwrap().unwrap_or_else(|| panic!("chunks of {chunk}"));
                assert_eq!((handshake.id.as_str(), handshake.mode), ("alice", Mode::Sync));
                assert_eq!(handshake.heads.iter().collect::<Vec<_>>(), [(FeedKey::of("alice"), 2)]);
            }
        }
    }

    #[test]
    fn what_is_refused() {
        let cases: [&[u8]; 9] = [
            b"\x02\x18\x01",
            b"\x02\x0a\x00",
            b"\x03\x0a\x01\xff",
            b"\x03\x0a\x05a",
            b"\x06\x0a\x01a\x12\x03\x0a",
            b"\x04\x0a\x01a\x23",
            b"\x04\x0a\x01a\x18",
            b"\x05\x0a\x01a\x00\x00",
            b"\x07\x0a\x01a\x12\x02\x10\x01",
        ];
        for bad in cases {
            assert!(read(bad, 1).is_err(), "{bad:?}");
            assert!(read(bad, bad.len()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_comes_again() {
        for bad in [b"\x02\x18\x01", b"\x02\x0a\x00", b"\x02\x08\x01"] {
            let (mut frames, mut reader) = (FrameReader::new(1), HandshakeReader::default());
            frames.push(bad);
            let first = reader.read(&mut frames).unwrap_err().to_string();
            frames.push(b"\0");
            assert_eq!(reader.read(&mut frames).unwrap_err().to_string(), first, "{bad:?}");
        }
    }
}
