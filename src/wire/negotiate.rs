//! Decides which wire a session speaks. A side that knows the native wire begins with the preamble: three empty frames, each
//! with an unusually long encoding. On the original wire, empty frames are ignored. The first bytes of the remote decide.

use super::frame::FrameReader;
use crate::model::{Error, Result};

/// The first bytes of a side that offers the native wire: three empty frames of 4, 3 and 1 bytes.
pub const PREAMBLE: &[u8; 8] = b"\x80\x80\x80\x00\x80\x80\x00\x00";
/// The maximum number of bytes that an error quotes from a stream that is not a session.
const QUOTE_BYTES_MAX: usize = 128;

/// A wire protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    /// The protocol of the npm package.
    Original,
    /// The protocol between two scuttleups.
    Native,
}

impl Wire {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Native => "native",
        }
    }
}

/// The first bytes of the remote, while they decide which wire it speaks.
#[derive(Default)]
pub struct Opening {
    /// Kept until the handshake is complete, to quote them if they are text.
    bytes: Vec<u8>,
    /// The stream does not begin with the preamble.
    no_preamble: bool,
}

impl Opening {
    /// Remembers the last `bytes` of `pending`, which are new.
    pub fn push(&mut self, pending: &[u8], bytes: usize) {
        if self.bytes.len() < QUOTE_BYTES_MAX {
            let new = &pending[pending.len().saturating_sub(bytes)..];
            self.bytes.extend_from_slice(&new[..new.len().min(QUOTE_BYTES_MAX - self.bytes.len())]);
        }
    }

    /// Returns whether the remote offers the native wire; `None` as long as this is undecided. If it does, consumes the preamble.
    /// Only the first bytes of a stream can be a preamble. `offered`: the local side offers the native wire; if it does not, a
    /// preamble has no meaning.
    pub fn is_native(&mut self, frames: &mut FrameReader, offered: bool) -> Option<bool> {
        let pending = frames.pending();
        self.no_preamble |= !offered || !(pending.starts_with(PREAMBLE) || PREAMBLE.starts_with(pending));
        if self.no_preamble {
            return Some(false);
        }
        let complete = pending.starts_with(PREAMBLE);
        if complete {
            frames.take(PREAMBLE.len());
        }
        complete.then_some(true)
    }

    /// The error for a stream that is not a session, because of `err`. Quotes the stream if it is text.
    pub fn not_a_session(&self, err: &Error) -> Error {
        Error::Wire(match self.quote() {
            Some(line) => format!("the remote is not a replication, it printed: {line}"),
            None => format!("the remote is not a replication: its first frame is not a handshake ({err})"),
        })
    }

    /// Turns an error of the handshake into [`Opening::not_a_session`].
    ///
    /// # Errors
    /// [`Opening::not_a_session`].
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|err| self.not_a_session(&err))
    }

    /// The first line of the stream, escaped; `None` if the stream is not text.
    pub fn quote(&self) -> Option<String> {
        let text = self.bytes.utf8_chunks().next()?.valid().trim_start_matches(['\r', '\n']);
        // The last character of the bytes so far may be incomplete.
        let is_whole = text.contains('\n') || self.bytes.ends_with(text.as_bytes()) || self.bytes.len() >= QUOTE_BYTES_MAX;
        let line = text.lines().next()?.trim();
        // A login message may contain escape sequences, for example for colours. Other control characters do not occur in text.
        let is_strange = |c: char| c.is_control() && !matches!(c, '\t' | '\x1b' | '\u{80}'..='\u{9f}');
        let is_text = is_whole && line.chars().count() >= 2 && !line.contains(is_strange) && line.contains(char::is_alphanumeric);
        is_text.then(|| line.escape_debug().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quote(bytes: &[u8]) -> Option<String> {
        Opening { bytes: bytes.to_vec(), no_preamble: false }.quote()
    }

    #[test]
    fn only_text_is_quoted() {
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
}
