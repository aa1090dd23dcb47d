//! A session on the original's wire: the two halves as state machines, bytes in and events out.

use super::frame::FrameReader;
use super::handshake::{Handshake, HandshakeReader};
use super::message::{ChangeMessage, Mode, by_the_other_side};
use super::native::{FRAME_EXTRA_BYTES_MAX, PREAMBLE, RUN_BYTES_MAX};
use crate::entry::{PEER_BYTES_MAX, PeerId};
use crate::error::{Error, Result};
use crate::heads::{FeedKey, FeedMap};

/// Tags, lengths and seq around the two strings of a change.
const CHANGE_EXTRA_BYTES_MAX: usize = 64;
/// What is said to be longer is no handshake, however it begins.
const HANDSHAKE_BYTES_MAX: u64 = 1 << 32;
/// How much of what was no handshake is quoted.
const QUOTE_BYTES_MAX: usize = 128;

/// Which wire a session is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    /// That of the npm package.
    Original,
    /// That of two of ours.
    Native,
}

/// The receiving half.
pub struct Incoming {
    frames: FrameReader,
    mode: Mode,
    entry_bytes_max: usize,
    handshake: HandshakeReader,
    greeted: bool,
    wire: Option<Wire>,
    /// Something else than the preamble came first.
    no_preamble: bool,
    /// The first bytes of the stream, until the handshake is read.
    opening: Vec<u8>,
}

impl Incoming {
    /// For a side whose own mode is `mode`.
    pub fn new(mode: Mode, entry_bytes_max: usize) -> Self {
        let frames = FrameReader::new(entry_bytes_max + PEER_BYTES_MAX + CHANGE_EXTRA_BYTES_MAX);
        let handshake = HandshakeReader::default();
        Self { frames, mode, entry_bytes_max, handshake, greeted: false, wire: None, no_preamble: false, opening: Vec::new() }
    }

    /// The wire that the other side opened; `None` while that is open. A side that has not offered the native one sees the
    /// preamble as empty frames.
    ///
    /// # Errors
    /// [`Error::Wire`] when the first bytes are none of a frame.
    pub fn wire(&mut self, offered: bool) -> Result<Option<Wire>> {
        if self.wire.is_some() {
            return Ok(self.wire);
        }
        let pending = self.frames.pending();
        // Only the very first bytes are a preamble, in whatever pieces they come.
        self.no_preamble |= !offered || !(pending.starts_with(PREAMBLE) || PREAMBLE.starts_with(pending));
        if !self.no_preamble && pending.starts_with(PREAMBLE) {
            self.frames.take(PREAMBLE.len());
            self.frames.set_max(self.entry_bytes_max.max(RUN_BYTES_MAX) + FRAME_EXTRA_BYTES_MAX);
            self.greeted = true;
            self.wire = Some(Wire::Native);
        } else if self.no_preamble {
            let begun = self.handshake.begin(&mut self.frames).map_err(|err| no_handshake(&self.opening, &err))?;
            self.wire = begun.then_some(Wire::Original);
        }
        Ok(self.wire)
    }

    /// The next frame of the native wire, if it is all there.
    ///
    /// # Errors
    /// [`Error::Wire`] when the bytes are none.
    pub fn frame(&mut self) -> Result<Option<&[u8]>> {
        self.frames.next_frame()
    }

    /// A place for the next bytes; tell how many came with [`Incoming::filled`].
    pub fn space(&mut self) -> &mut [u8] {
        self.frames.space()
    }

    /// The first `bytes` of the space are in place.
    pub fn filled(&mut self, bytes: usize) {
        self.frames.filled(bytes);
        if !self.greeted && self.opening.len() < QUOTE_BYTES_MAX {
            let pending = self.frames.pending();
            let new = &pending[pending.len().saturating_sub(bytes)..];
            self.opening.extend_from_slice(&new[..new.len().min(QUOTE_BYTES_MAX - self.opening.len())]);
        }
    }

    /// How many bytes were taken off the stream so far, in frames or parts of the handshake; empty frames before it, which
    /// need no other side that knows us, do not count.
    pub fn consumed(&self) -> u64 {
        if self.greeted || self.handshake.has_begun() { self.frames.consumed() } else { 0 }
    }

    /// Whether the handshake has come.
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// The handshake, if it is all there. Call it until it is, and [`Incoming::change`] afterwards.
    ///
    /// # Errors
    /// [`Error::Wire`] when the bytes are none; what they are is quoted, if it is text.
    pub fn handshake(&mut self) -> Result<Option<Handshake>> {
        let read = self.handshake.read(&mut self.frames).map_err(|err| no_handshake(&self.opening, &err))?;
        let Some(handshake) = read else { return Ok(None) };
        self.greeted = true;
        self.opening = Vec::new();
        Ok(Some(handshake))
    }

    /// The next change, if it is all there.
    ///
    /// # Errors
    /// [`Error::Wire`] when the bytes are none; [`Error::Refused`] when they are, but this side only pushes.
    pub fn change(&mut self) -> Result<Option<ChangeMessage<'_>>> {
        let Some(frame) = self.frames.next_frame()? else { return Ok(None) };
        let change = ChangeMessage::decode(frame).map_err(by_the_other_side)?;
        if change.entry.len() > self.entry_bytes_max {
            return Err(Error::EntryTooLong(change.entry.len() as u64, self.entry_bytes_max));
        }
        if self.mode == Mode::Push {
            return Err(Error::Refused(
                "the other side sent an entry, but this side only pushes: use --mode sync or pull".into(),
            ));
        }
        Ok(Some(change))
    }

    /// Whether the end of the stream, if it is here, lies inside a frame.
    ///
    /// # Errors
    /// [`Error::Wire`] when what came was never a session: it is quoted.
    pub fn is_cut(&self) -> Result<bool> {
        // Inside of the preamble: nothing was said yet.
        if self.wire.is_none() && !self.handshake.has_begun() && PREAMBLE.starts_with(self.frames.pending()) {
            return Ok(false);
        }
        if self.greeted {
            return Ok(!self.frames.pending().is_empty());
        }
        if quote(&self.opening).is_some() || self.handshake.left() > HANDSHAKE_BYTES_MAX {
            return Err(no_handshake(&self.opening, &Error::Wire("the stream was cut inside it".into())));
        }
        Ok(self.handshake.has_begun() || !self.frames.pending().is_empty())
    }
}

/// The first bytes were no handshake: say what they were, if they are text.
fn no_handshake(opening: &[u8], err: &Error) -> Error {
    Error::Wire(match quote(opening) {
        Some(line) => format!("this is no replication: the other side said: {line}"),
        None => format!("this is no replication: the first frame is no handshake ({err})"),
    })
}

/// The first line of what is text, escaped.
fn quote(opening: &[u8]) -> Option<String> {
    let text = opening.utf8_chunks().next()?.valid().trim_start_matches(['\r', '\n']);
    // The last character of all may be cut.
    let is_whole = text.contains('\n') || opening.ends_with(text.as_bytes()) || opening.len() >= QUOTE_BYTES_MAX;
    let line = text.lines().next()?.trim();
    // An escape belongs to what colours a greeting, other controls to no text.
    let is_strange = |c: char| c.is_control() && !matches!(c, '\t' | '\x1b' | '\u{80}'..='\u{9f}');
    let is_text = is_whole && line.chars().count() >= 2 && !line.contains(is_strange) && line.contains(char::is_alphanumeric);
    is_text.then(|| line.escape_debug().to_string())
}

/// What the other side is known to hold, because it said so, sent it or was sent it.
#[derive(Default)]
pub struct Remote(FeedMap);

impl Remote {
    /// From its handshake.
    pub fn new(heads: FeedMap) -> Self {
        Self(heads)
    }

    /// The highest seq of `feed` that it is known to hold.
    pub fn head(&self, feed: FeedKey) -> u32 {
        self.0.get(feed)
    }

    /// It holds `feed` up to `seq`, too.
    pub fn raise(&mut self, feed: FeedKey, seq: u32) {
        self.0.set(feed, seq);
    }

    /// For looking at many changes in a row.
    pub fn known(&mut self) -> Known<'_> {
        Known { remote: self, current: None }
    }
}

/// Looks at a [`Remote`] feed by feed: changes of one feed mostly follow each other, and need one look-up together.
pub struct Known<'a> {
    remote: &'a mut Remote,
    current: Option<(PeerId, u32)>,
}

impl Known<'_> {
    /// The id, and the highest seq that the other side is known to hold of it, to be raised.
    ///
    /// # Errors
    /// [`Error::PeerId`] when `peer` is none.
    pub fn of(&mut self, peer: &str) -> Result<(&PeerId, &mut u32)> {
        if self.current.as_ref().is_none_or(|(current, _)| current.as_str() != peer) {
            self.store();
            let peer = PeerId::new(peer)?;
            let head = self.remote.head(FeedKey::of(peer.as_str()));
            self.current = Some((peer, head));
        }
        let (peer, head) = self.current.as_mut().expect("set above");
        Ok((peer, head))
    }

    fn store(&mut self) {
        if let Some((peer, head)) = self.current.take() {
            self.remote.0.set(FeedKey::of(peer.as_str()), head);
        }
    }
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.store();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_text_is_quoted_and_nothing_else() {
        let texts = [
            ("hi\n", "hi"),
            ("\r\nLast login: today\r\n", "Last login: today"),
            ("Welcome to \x1b[1mhost\u{2026}\nmore", "Welcome to \\u{1b}[1mhost\u{2026}"),
            ("HTTP/1.1 400 Bad Request\r\n\0\x01", "HTTP/1.1 400 Bad Request"),
            ("no newline", "no newline"),
        ];
        for (text, quoted) in texts {
            assert_eq!(quote(text.as_bytes()).as_deref(), Some(quoted));
        }
        let handshake = b"\x14\x0a\x05alice\x12\x09\x0a\x05alice\x10\x02\x18\x01";
        let others = (0..=handshake.len()).map(|cut| &handshake[..cut]);
        for bytes in others.chain([&b"k7\xff"[..], b"\x90abc", b"--\n", b"a\n"]) {
            assert_eq!(quote(bytes), None, "{bytes:?}");
        }
    }

    /// What the first bytes decide, in pieces of `chunk` bytes.
    fn wire(stream: &[u8], chunk: usize, offered: bool) -> Option<Wire> {
        let mut incoming = Incoming::new(Mode::Sync, 1);
        for part in stream.chunks(chunk) {
            incoming.space()[..part.len()].copy_from_slice(part);
            incoming.filled(part.len());
            incoming.wire(offered).unwrap();
        }
        incoming.wire(offered).unwrap()
    }

    #[test]
    fn the_first_bytes_decide_in_any_pieces() {
        let handshake = b"\x05\x0a\x03bob";
        let after = |opening: &[u8]| [opening, handshake].concat();
        let cases = [
            (after(PREAMBLE), Some(Wire::Native)),
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
                assert_eq!(wire(&stream, chunk, true), expected, "{stream:?} in pieces of {chunk}");
                let original = expected.filter(|_| stream.ends_with(handshake)).map(|_| Wire::Original);
                assert_eq!(wire(&stream, chunk, false), original, "{stream:?} in pieces of {chunk}");
            }
        }
    }
}
