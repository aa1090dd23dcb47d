//! Decides which wire a session speaks. A side that knows the native wire begins with the preamble: three empty frames, each
//! with an unusually long encoding. On the original wire, empty frames are ignored. The first bytes of the remote decide.

use super::frame::FrameReader;
use crate::model::{Error, Printable, RemoteText, Result};

/// The first bytes of a side that offers the native wire: three empty frames of 4, 3 and 1 bytes.
pub const PREAMBLE: &[u8; 8] = b"\x80\x80\x80\x00\x80\x80\x00\x00";
/// [`PREAMBLE`] as a terminal echoes it.
const PREAMBLE_ECHO: &[u8] = b"\x80\x80\x80^@\x80\x80^@^@";
/// The maximum number of bytes that are kept of a stream that is not a session.
const OPENING_BYTES_MAX: usize = 4096;
/// The maximum number of characters that an error quotes from it.
const QUOTE_CHARS_MAX: usize = 200;

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
        let new = &pending[pending.len().saturating_sub(bytes)..];
        let room = OPENING_BYTES_MAX.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&new[..new.len().min(room)]);
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

    /// Whether the remote is a scuttleup that offers the native wire, also if the local side does not offer it.
    pub fn begins_with_preamble(&self) -> bool {
        self.bytes.starts_with(PREAMBLE)
    }

    /// Refuses a stream that is certainly not a session, although it may look like the start of a very long frame: text with a
    /// preamble behind it, and text that a terminal has changed.
    ///
    /// # Errors
    /// [`Error::RemoteText`].
    pub fn check(&self) -> Result<()> {
        match self.text() {
            Some(text) if text.kind != RemoteText::Only && text.is_complete => Err(text.into_error()),
            _ => Ok(()),
        }
    }

    /// Turns an error of the handshake into an error that quotes the stream, if the stream is text. Returns `Ok(None)` as long as
    /// the line to quote is incomplete.
    ///
    /// # Errors
    /// [`Error::RemoteText`], or [`Error::Wire`] if the stream is not text.
    pub fn explain<T>(&self, result: Result<Option<T>>) -> Result<Option<T>> {
        let Err(err) = result else { return result };
        match self.text() {
            Some(text) if text.is_complete => Err(text.into_error()),
            Some(_) => Ok(None),
            None => Err(not_a_handshake(err)),
        }
    }

    /// Whether the stream begins with text.
    pub fn is_text(&self) -> bool {
        self.text().is_some()
    }

    /// The error for a stream that ends without its handshake, if it is text.
    pub fn text_error(&self) -> Option<Error> {
        self.text().map(Text::into_error)
    }

    /// The text at the start of the stream; `None` if the stream does not begin with text.
    fn text(&self) -> Option<Text> {
        let (mut kind, mut bytes) = (RemoteText::Only, self.bytes.clone());
        if let Some(at) = find(&bytes, PREAMBLE_ECHO) {
            bytes.drain(at..at + PREAMBLE_ECHO.len());
            kind = RemoteText::Terminal;
        } else if let Some(at) = find(&bytes, PREAMBLE) {
            bytes.truncate(at);
            kind = RemoteText::BeforeSession;
        }
        let first = bytes.utf8_chunks().next();
        let text = first.as_ref().map_or("", |first| first.valid()).trim_start_matches(['\r', '\n']);
        let (mut text, has_newline) = (text, text.contains('\n'));
        // A terminal echoes a control character as ^ and another character. A handshake begins with a control character.
        while let [b'^', b'@'..=b'_', ..] = text.as_bytes() {
            (kind, text) = (RemoteText::Terminal, text[2..].trim_start_matches(['\r', '\n']));
        }
        // The message of a scuttleup in a terminal. It may come before the echo.
        if text.contains("is a terminal") {
            kind = RemoteText::Terminal;
        }
        let has_end = has_newline || self.bytes.len() == OPENING_BYTES_MAX;
        let is_pure = first.is_none_or(|first| first.invalid().is_empty());
        let line = quote(text).filter(|_| has_end || is_pure);
        let is_complete = has_end || kind == RemoteText::BeforeSession;
        match (line, kind) {
            (None, RemoteText::Terminal) => Some(Text { kind, line: String::new(), is_complete }),
            (line, kind) => Some(Text { kind, line: line?, is_complete }),
        }
    }
}

/// Text instead of a session.
struct Text {
    kind: RemoteText,
    /// Its first line, escaped.
    line: String,
    /// Whether no more of this line can come.
    is_complete: bool,
}

impl Text {
    fn into_error(self) -> Error {
        Error::RemoteText(self.kind, self.line)
    }
}

/// The error for a stream that is neither a session nor text, because of `err`.
pub fn not_a_handshake(err: Error) -> Error {
    match err {
        Error::NoNativeWire => err,
        err => Error::Wire(format!("the remote is not a replication: its first frame is not a handshake ({err})")),
    }
}

/// The first line of `text`, escaped; `None` if it is not text.
fn quote(text: &str) -> Option<String> {
    let line = text.lines().next()?.trim();
    // A login message may contain escape sequences, for example for colours. Other control characters do not occur in text.
    let is_strange = |c: char| c.is_control() && !matches!(c, '\t' | '\x1b' | '\u{80}'..='\u{9f}');
    let is_text = line.chars().count() >= 2 && !line.contains(is_strange) && line.contains(char::is_alphanumeric);
    is_text.then(|| cut(&Printable(line).to_string()))
}

/// The first [`QUOTE_CHARS_MAX`] characters of a line.
fn cut(line: &str) -> String {
    match line.char_indices().nth(QUOTE_CHARS_MAX) {
        Some((at, _)) => format!("{}\u{2026}", &line[..at]),
        None => line.to_owned(),
    }
}

/// The position of `part` in `bytes`.
fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Option<(RemoteText, String, bool)> {
        let opening = Opening { bytes: bytes.to_vec(), no_preamble: false };
        opening.text().map(|text| (text.kind, text.line, text.is_complete))
    }

    #[test]
    fn only_text_is_quoted() {
        let texts = [
            ("hi\n", "hi", true),
            ("\r\nLast login: today\r\n", "Last login: today", true),
            ("Welcome to \x1b[1mhost\u{2026}\nmore", "Welcome to \\u{1b}[1mhost\u{2026}", true),
            ("HTTP/1.1 400 Bad Request\r\n\0\x01", "HTTP/1.1 400 Bad Request", true),
            ("no newline", "no newline", false),
        ];
        for (bytes, line, is_complete) in texts {
            assert_eq!(text(bytes.as_bytes()), Some((RemoteText::Only, line.to_owned(), is_complete)));
        }
        let handshake = b"\x14\x0a\x05alice\x12\x09\x0a\x05alice\x10\x02\x18\x01";
        let others = (0..=handshake.len()).map(|cut| &handshake[..cut]);
        for bytes in others.chain([&b"k7\xff"[..], b"\x90abc", b"--\n", b"a\n", PREAMBLE, &PREAMBLE[..3]]) {
            assert_eq!(text(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_long_line_is_cut() {
        let (_, line, is_complete) = text(&[b'x'; OPENING_BYTES_MAX]).unwrap();
        assert_eq!((line, is_complete), (format!("{}\u{2026}", "x".repeat(QUOTE_CHARS_MAX)), true));
    }

    #[test]
    fn text_before_a_preamble_and_the_echo_of_a_terminal() {
        use RemoteText::{BeforeSession, Terminal};
        let echo = |rest: &str| [PREAMBLE_ECHO, rest.as_bytes()].concat();
        let cases = [
            ([b"hello\n", &PREAMBLE[..]].concat(), BeforeSession, "hello", true),
            ([b"hello", &PREAMBLE[..], b"\x05"].concat(), BeforeSession, "hello", true),
            (echo(""), Terminal, "", false),
            (echo("not a tty"), Terminal, "not a tty", false),
            (echo("not a tty\r\n"), Terminal, "not a tty", true),
            (b"stdout is a terminal\r\n".to_vec(), Terminal, "stdout is a terminal", true),
            ([b"hello\r\n", &echo("")[..]].concat(), Terminal, "hello", true),
            // The echo of a handshake of the original wire.
            (b"^T\r\n^Ealice^X^A".to_vec(), Terminal, "alice^X^A", true),
        ];
        for (bytes, kind, line, is_complete) in cases {
            assert_eq!(text(&bytes), Some((kind, line.to_owned(), is_complete)), "{bytes:?}");
        }
        assert_eq!(text(&[b"\0", &PREAMBLE[..]].concat()), None);
    }
}
