//! The first message, read piece by piece: it names every feed of the other side, and may be larger than memory should be.

use super::FEEDS_MAX;
use super::frame::{FrameReader, take_varint};
use super::message::{Mode, check_field, decode_digest, missing, peer_str, truncated};
use crate::entry::PeerId;
use crate::error::{Error, Result};
use crate::heads::{FeedKey, FeedMap};

/// The longest field of a handshake that is not just skipped: an id or a digest, with room for fields that we do not know.
const FIELD_BYTES_MAX: u64 = 64 << 10;

/// What the other side said of itself.
#[derive(Debug)]
pub struct Handshake {
    /// Its id.
    pub id: PeerId,
    /// Its heads.
    pub heads: FeedMap,
    /// What it wants.
    pub mode: Mode,
}

/// Reads a handshake as it arrives.
#[derive(Default)]
pub struct HandshakeReader {
    /// Of the frame: bytes that are still to come, once its length is known.
    left: Option<u64>,
    /// Of a field that we do not know: bytes still to be passed over.
    skip: u64,
    id: Option<PeerId>,
    heads: Vec<(FeedKey, u32)>,
    mode: Mode,
}

/// What a step over a field needs.
enum Step {
    /// So many bytes are read, and then so many to be skipped.
    Took(usize, u64),
    /// More bytes than are there.
    More,
}

impl HandshakeReader {
    /// Takes the length of its frame off the stream, and says whether it was there.
    ///
    /// # Errors
    /// [`Error::Wire`] for a length that is none.
    pub fn begin(&mut self, frames: &mut FrameReader) -> Result<bool> {
        if self.left.is_none() {
            self.left = frames.open_frame()?;
        }
        Ok(self.left.is_some())
    }

    /// Whether some of it has come, and not all.
    pub fn has_begun(&self) -> bool {
        self.left.is_some()
    }

    /// How many bytes of its frame are still to come.
    pub fn left(&self) -> u64 {
        self.left.unwrap_or(0)
    }

    /// Reads what is there; the handshake once it is complete.
    ///
    /// # Errors
    /// [`Error::Wire`] with the reason.
    pub fn read(&mut self, frames: &mut FrameReader) -> Result<Option<Handshake>> {
        self.begin(frames)?;
        let Some(mut left) = self.left else { return Ok(None) };
        while left > 0 {
            let pending = frames.pending();
            let here = &pending[..usize::try_from(left).unwrap_or(usize::MAX).min(pending.len())];
            let took = if self.skip > 0 {
                let skipped = self.skip.min(here.len() as u64);
                self.skip -= skipped;
                skipped as usize
            } else {
                match self.field(here, left)? {
                    Step::Took(bytes, skip) => {
                        self.skip = skip;
                        bytes
                    }
                    Step::More => 0,
                }
            };
            if took == 0 {
                // All of the frame is here, and still it is not enough.
                return if here.len() as u64 == left { Err(truncated()) } else { Ok(None) };
            }
            left -= took as u64;
            self.left = Some(left);
            frames.take(took);
        }
        let this = std::mem::take(self);
        let id = this.id.ok_or_else(|| missing("an id"))?;
        Ok(Some(Handshake { id, heads: FeedMap::from(this.heads), mode: this.mode }))
    }

    /// Reads the field at the front of `here`, in a frame of which `left` bytes are to come.
    fn field(&mut self, here: &[u8], left: u64) -> Result<Step> {
        let Some((tag, mut at)) = take_varint(here)? else { return Ok(Step::More) };
        check_field(tag)?;
        // A Change, for one, has bytes where a handshake has its mode.
        if matches!((tag >> 3, tag & 7), (1 | 2, 0 | 1 | 5) | (3, 1 | 2 | 5)) {
            return Err(Error::Wire("a field of the wrong type".into()));
        }
        let skip = match tag & 7 {
            0 => {
                let Some((number, bytes)) = take_varint(&here[at..])? else { return Ok(Step::More) };
                at += bytes;
                if tag >> 3 == 3 {
                    self.mode = Mode::of(number);
                }
                0
            }
            1 => 8,
            5 => 4,
            2 => {
                let Some((length, bytes)) = take_varint(&here[at..])? else { return Ok(Step::More) };
                at += bytes;
                length
            }
            wire_type => return Err(Error::Wire(format!("a field of the wire type {wire_type}"))),
        };
        if skip > left - at as u64 {
            return Err(truncated());
        }
        if tag != (1 << 3 | 2) && tag != (2 << 3 | 2) {
            return Ok(Step::Took(at, skip));
        }
        if skip > FIELD_BYTES_MAX {
            return Err(Error::Wire("a peer id that is far too long".into()));
        }
        let Some(body) = here.get(at..at + skip as usize) else { return Ok(Step::More) };
        if tag >> 3 == 1 {
            self.id = Some(PeerId::new(peer_str(body)?)?);
        } else {
            let (peer, seq) = decode_digest(body)?;
            if self.heads.len() == FEEDS_MAX {
                return Err(Error::Wire(format!("a handshake of more than {FEEDS_MAX} feeds")));
            }
            self.heads.push((FeedKey::of(peer), seq));
        }
        Ok(Step::Took(at + body.len(), 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
