//! Changes for people: one line for each entry, cut to the width of the terminal.

use console::{Term, measure_text_width};
use data_encoding::BASE64;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use scuttleup::ndjson::PayloadKeys;
use scuttleup::{Change, Entry, PeerId, Printable, Seq};

use crate::cli::report::diagnostics::counted;
use crate::cli::report::table::has_colour;

/// A longer peer id is cut, so that the payload has room.
const PEER_COLUMNS_MAX: usize = 20;
/// The columns if the terminal does not say how many it has.
const COLUMNS: usize = 80;
const TIME_COLUMNS: usize = "09:49:08.123".len();
/// The sign for what is cut.
const CUT: char = '…';

const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";
/// The colours of peer ids: all but black, white and red, which look like an error.
const PEER_COLOURS: [&str; 5] = ["\x1b[32m", "\x1b[33m", "\x1b[34m", "\x1b[35m", "\x1b[36m"];

/// Writes changes for people.
pub struct View {
    keys: PayloadKeys,
    has_colour: bool,
    zone: TimeZone,
    /// The day of the last line.
    day: Option<Date>,
    /// The columns of the longest peer id and the longest seq so far.
    peer_columns: usize,
    seq_columns: usize,
}

impl View {
    /// A view with these payloads.
    pub fn new(keys: PayloadKeys) -> Self {
        Self { keys, has_colour: has_colour(), zone: TimeZone::system(), day: None, peer_columns: 0, seq_columns: 0 }
    }

    /// Adds the line of `change`, which arrived `at` this Unix time in milliseconds. A line with the date comes first, if this is
    /// another day than that of the line before.
    pub fn write(&mut self, out: &mut Vec<u8>, change: &Change<'_>, at: u64) {
        let arrived = self.arrived(at);
        if self.day != Some(arrived.date()) {
            self.day = Some(arrived.date());
            let mut line = Line::new(self.has_colour);
            line.put_in(DIM, &arrived.strftime("%A, %Y-%m-%d").to_string());
            line.end(out);
        }
        let mut line = Line::new(self.has_colour);
        line.put_in(DIM, &arrived.strftime("%H:%M:%S.%3f").to_string());
        self.put_place(&mut line, change.peer, change.seq);
        match change.entry.entry() {
            _ if self.keys == PayloadKeys::Omitted => {}
            Entry::Deleted(tombstone) => line.put_in(DIM, &format!("deleted, {}", bytes(tombstone.bytes.into()))),
            Entry::Bytes(payload, _) if self.keys == PayloadKeys::Base64 => {
                // Three bytes take four columns.
                line.put(&BASE64.encode(&payload[..payload.len().min(line.left.next_multiple_of(3))]));
            }
            Entry::Bytes([], _) => line.put_in(DIM, "empty"),
            Entry::Bytes(payload, _) => match start_of_text(payload, line.left) {
                Some(text) => line.put(text),
                None => {
                    line.put_in(DIM, &format!("{}: ", bytes(payload.len() as u64)));
                    line.put(&payload[..payload.len().min(line.left + 1)].escape_ascii().to_string());
                }
            },
        }
        line.end(out);
    }

    /// Adds the line of a floor: all entries of the feed up to `seq` were pruned.
    pub fn write_floor(&mut self, out: &mut Vec<u8>, peer: &PeerId, seq: Seq) {
        let mut line = Line::new(self.has_colour);
        line.put(&" ".repeat(TIME_COLUMNS));
        self.put_place(&mut line, peer, seq);
        line.put_in(DIM, "pruned up to here");
        line.end(out);
    }

    fn arrived(&self, at: u64) -> ZonedDateTime {
        let timestamp = i64::try_from(at).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
        timestamp.unwrap_or(Timestamp::MAX).to_zoned_datetime(self.zone.clone())
    }

    /// Puts peer id and seq. Their columns become wider with the longest ones.
    fn put_place(&mut self, line: &mut Line, peer: &PeerId, seq: Seq) {
        let (id, seq) = (cut(&peer.to_string(), PEER_COLUMNS_MAX), seq.to_string());
        let id_columns = measure_text_width(&id);
        self.peer_columns = self.peer_columns.max(id_columns);
        self.seq_columns = self.seq_columns.max(seq.len());
        let sum = peer.as_str().bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        line.put("  ");
        line.put_in(PEER_COLOURS[sum % PEER_COLOURS.len()], &id);
        line.put(&format!("{:1$}  {seq:>2$}  ", "", self.peer_columns - id_columns, self.seq_columns));
    }
}

fn bytes(count: u64) -> String {
    counted(count, "byte", "bytes")
}

/// The start of `payload` as text: enough for `columns` columns. `None`: it is no text.
fn start_of_text(payload: &[u8], columns: usize) -> Option<&str> {
    // A character has at most 4 bytes. Some characters after one another take no column.
    let start = &payload[..payload.len().min(8 * (columns + 1))];
    match std::str::from_utf8(start) {
        Ok(text) => Some(text),
        // The last character may be cut.
        Err(err) if start.len() < payload.len() && err.error_len().is_none() => {
            std::str::from_utf8(&start[..err.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

/// `text` with at most `columns` columns.
fn cut(text: &str, columns: usize) -> String {
    if measure_text_width(text) <= columns {
        return text.to_owned();
    }
    let (mut cut, mut used) = (String::new(), 0);
    for c in text.chars() {
        let width = width_of(c);
        if used + width >= columns {
            break;
        }
        cut.push(c);
        used += width;
    }
    cut.push(CUT);
    cut
}

fn width_of(c: char) -> usize {
    measure_text_width(c.encode_utf8(&mut [0; 4]))
}

/// One line that is being made. What does not fit is left out.
struct Line {
    /// The characters, each with its colour. An empty colour is none.
    text: Vec<(char, &'static str)>,
    has_colour: bool,
    /// The columns that are left.
    left: usize,
    is_cut: bool,
}

impl Line {
    fn new(has_colour: bool) -> Self {
        let columns = Term::stdout().size_checked().map_or(0, |(_, columns)| usize::from(columns));
        Self { text: Vec::new(), has_colour, left: if columns == 0 { COLUMNS } else { columns }, is_cut: false }
    }

    /// Adds text.
    fn put(&mut self, text: &str) {
        self.put_in("", text);
    }

    /// Adds text in a colour.
    fn put_in(&mut self, colour: &'static str, text: &str) {
        let colour = if self.has_colour { colour } else { "" };
        for c in Printable(text).to_string().chars() {
            let width = width_of(c);
            if self.is_cut || width > self.left {
                return self.cut();
            }
            self.text.push((c, colour));
            self.left -= width;
        }
    }

    /// Ends the line with the sign for what is cut, in place of as many characters as it needs.
    fn cut(&mut self) {
        if std::mem::replace(&mut self.is_cut, true) {
            return;
        }
        while self.left == 0
            && let Some((c, _)) = self.text.pop()
        {
            self.left += width_of(c);
        }
        self.text.push((CUT, ""));
    }

    fn end(mut self, out: &mut Vec<u8>) {
        while self.text.pop_if(|(c, _)| *c == ' ').is_some() {}
        let mut last = "";
        for (c, colour) in self.text {
            if colour != last {
                let change = if last.is_empty() { colour.to_owned() } else { [RESET, colour].concat() };
                out.extend_from_slice(change.as_bytes());
                last = colour;
            }
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        out.extend_from_slice(if last.is_empty() { "" } else { RESET }.as_bytes());
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(columns: usize, has_colour: bool, parts: &[(&'static str, &str)]) -> String {
        let mut line = Line { text: Vec::new(), has_colour, left: columns, is_cut: false };
        for (colour, text) in parts {
            line.put_in(colour, text);
        }
        let mut out = Vec::new();
        line.end(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn a_line_is_cut_at_the_width_and_keeps_its_colours() {
        let parts = [(DIM, "ab"), ("", " c "), (PEER_COLOURS[0], "\u{4f60}\u{597d}")];
        for (columns, expected) in [
            (9, "ab c \u{4f60}\u{597d}"),
            (8, "ab c \u{4f60}\u{2026}"),
            (7, "ab c \u{2026}"),
            (6, "ab c \u{2026}"),
            (5, "ab c\u{2026}"),
            (1, "\u{2026}"),
        ] {
            assert_eq!(shown(columns, false, &parts), format!("{expected}\n"), "{columns}");
        }
        assert_eq!(shown(9, true, &parts), "\x1b[2mab\x1b[0m c \x1b[32m\u{4f60}\u{597d}\x1b[0m\n");
        assert_eq!(shown(3, true, &parts), "\x1b[2mab\x1b[0m\u{2026}\n");
        assert_eq!(shown(80, true, &[("", "a\x1b[1m\n\u{202e}  ")]), "a\\u{1b}[1m\\n\\u{202e}\n");
    }

    #[test]
    fn the_start_of_a_payload_is_text_if_only_its_last_character_is_cut() {
        let long = "\u{20ac}".repeat(100);
        assert_eq!(start_of_text(long.as_bytes(), 1).map(str::len), Some(15));
        assert_eq!(start_of_text("\u{e9}".as_bytes(), 9), Some("\u{e9}"));
        for binary in [&b"\xff"[..], b"a\xc3", b"\xc3a..................."] {
            assert_eq!(start_of_text(binary, 1), None);
        }
    }
}
