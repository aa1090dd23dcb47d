//! Checks whether a text is one JSON value. `append` and replication check every entry, so this code must be fast. It does
//! not allocate or recurse, and it reads strings eight bytes at a time. It takes half the time of serde_json. serde_json
//! still makes the error messages, and is the reference in the tests.

mod pointer;

use serde::de::IgnoredAny;

pub use pointer::{Pointer, canonical};

/// The deepest nesting that is accepted as JSON. Each level takes one bit of a `u128`.
pub const JSON_DEPTH_MAX: usize = 128;

/// Whether `text` is one JSON value (RFC 8259) of at most [`JSON_DEPTH_MAX`] levels. White space around it is allowed.
pub fn is_json(text: &str) -> bool {
    let mut cursor = Cursor { bytes: text.as_bytes(), at: 0 };
    cursor.value().is_some() && cursor.at == text.len()
}

/// Checks that `text` is one JSON value ([`is_json`]).
///
/// # Errors
/// The reason, with the number of the first invalid byte, counted from 1.
pub fn check_json(text: &str) -> Result<(), String> {
    if is_json(text) {
        return Ok(());
    }
    Err(match serde_json::from_str::<IgnoredAny>(text) {
        Err(err) => format!("not JSON: {}", json_reason(&err)),
        // serde_json does not limit the depth of a value that it ignores.
        Ok(_) => format!("JSON nested more than {JSON_DEPTH_MAX} levels deep"),
    })
}

/// The most digits of a number that all common readers accept: Python refuses longer ones.
const DIGITS_MAX: usize = 4300;

/// Whether some common JSON readers refuse `json`: a string has a lone surrogate, or there are more than 4300 digits in a row. It
/// must be one JSON value ([`is_json`]).
pub(crate) fn is_refused_by_some(json: &[u8]) -> bool {
    has_lone_surrogate(json) || has_many_digits(json)
}

/// Digits in a string are found too: then the value is not embedded, although it could be.
fn has_many_digits(json: &[u8]) -> bool {
    json.len() > DIGITS_MAX && json.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() > DIGITS_MAX)
}

/// Whether a string in `json` has a lone surrogate: an escape from `\ud800` to `\udfff` that is not part of a pair. RFC 8259
/// allows it, but some readers refuse it. `json` must be one JSON value ([`is_json`]).
fn has_lone_surrogate(json: &[u8]) -> bool {
    // Most values have no backslash, and most of the others only have escapes of other characters.
    if memchr::memchr(b'\\', json).is_none() || !has_surrogate_digits(json) {
        return false;
    }
    let mut at = 0;
    // In JSON, a backslash is always the start of an escape.
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        at += found;
        at += match escaped_surrogate(&json[at..]) {
            None => 2,
            Some(Surrogate::Low) => return true,
            Some(Surrogate::High) if escaped_surrogate(&json[at + 6..]) == Some(Surrogate::Low) => 12,
            Some(Surrogate::High) => return true,
        };
    }
    false
}

/// Whether `json` has the bytes of an escaped surrogate. They can also follow an escaped backslash.
fn has_surrogate_digits(json: &[u8]) -> bool {
    let (Some(second), Some(third), Some(fourth)) = (json.get(1..), json.get(2..), json.get(3..)) else { return false };
    // No early exit: the compiler turns this into wide compares.
    json.iter()
        .zip(second)
        .zip(third)
        .zip(fourth)
        .fold(false, |found, (((&a, &b), &c), &d)| found | ((a == b'\\') & (b == b'u') & (c | 0x20 == b'd') & (d >= b'8')))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Surrogate {
    /// U+D800 to U+DBFF, the first half of a pair.
    High,
    /// U+DC00 to U+DFFF, the second half.
    Low,
}

/// The surrogate that is escaped at the start of `json`, or `None` if another text is there.
fn escaped_surrogate(json: &[u8]) -> Option<Surrogate> {
    match *json {
        [b'\\', b'u', b'd' | b'D', digit, _, _, ..] => match digit {
            b'8' | b'9' | b'a' | b'b' | b'A' | b'B' => Some(Surrogate::High),
            b'c'..=b'f' | b'C'..=b'F' => Some(Surrogate::Low),
            _ => None,
        },
        _ => None,
    }
}

/// The reason why serde_json refused a line. It has no line number: the caller adds it.
pub(crate) fn json_reason(err: &serde_json::Error) -> String {
    let text = err.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    if err.column() > 0 { format!("{reason} at byte {}", err.column()) } else { reason.to_owned() }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The containers around the current position. One bit each, set for an object; the innermost container is the lowest bit.
#[derive(Default)]
struct Containers {
    objects: u128,
    depth: usize,
}

impl Containers {
    fn enter(&mut self, object: bool) -> Option<()> {
        if self.depth == JSON_DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(object);
        Some(())
    }

    fn leave(&mut self, object: bool) -> Option<()> {
        if self.depth == 0 || (self.objects & 1 == 1) != object {
            return None;
        }
        self.depth -= 1;
        self.objects >>= 1;
        Some(())
    }
}

/// Each method moves past the part that its name says. It returns `None` if the text does not have this part at the current
/// position.
impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// A value with white space around it, and all values in it.
    fn value(&mut self) -> Option<()> {
        let mut around = Containers::default();
        loop {
            self.white_space();
            match self.peek()? {
                open @ (b'{' | b'[') => {
                    self.at += 1;
                    around.enter(open == b'{')?;
                    self.white_space();
                    // ']' is '[' + 2 and '}' is '{' + 2.
                    if self.peek()? != open + 2 {
                        if open == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                b'"' => self.string()?,
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                _ => return None,
            }
            if self.after_value(&mut around)? {
                return Some(());
            }
        }
    }

    /// Closes containers up to the next value. Returns true if no value follows.
    fn after_value(&mut self, around: &mut Containers) -> Option<bool> {
        loop {
            self.white_space();
            if around.depth == 0 {
                return Some(true);
            }
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b',' => {
                    if around.objects & 1 == 1 {
                        self.white_space();
                        self.key()?;
                    }
                    return Some(false);
                }
                b'}' => around.leave(true)?,
                b']' => around.leave(false)?,
                _ => return None,
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.string()?;
        self.white_space();
        self.byte(b':')
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn literal(&mut self, literal: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(literal).then(|| self.at += literal.len())
    }

    fn string(&mut self) -> Option<()> {
        self.byte(b'"')?;
        loop {
            self.plain_eights();
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.escape()?,
                0..=0x1f => return None,
                _ => self.at += 1,
            }
        }
    }

    /// Moves past eight bytes of a string at a time, up to a quote, a backslash or a control character.
    fn plain_eights(&mut self) {
        const LOW: u64 = 0x0101_0101_0101_0101;
        const HIGH: u64 = LOW << 7;
        // Sets the high bit of each byte that is zero. It may also set it in higher bytes: only the lowest bit is used.
        let zero = |word: u64| word.wrapping_sub(LOW) & !word & HIGH;
        while let Some(eight) = self.bytes.get(self.at..self.at + 8) {
            let word = u64::from_le_bytes(eight.try_into().expect("8 bytes"));
            let control = word.wrapping_sub(LOW * 0x20) & !word & HIGH;
            let hit = control | zero(word ^ (LOW * u64::from(b'"'))) | zero(word ^ (LOW * u64::from(b'\\')));
            if hit != 0 {
                // The lowest hit is always right.
                self.at += hit.trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
        }
    }

    fn escape(&mut self) -> Option<()> {
        match self.bytes.get(self.at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
            b'u' if self.bytes.get(self.at + 2..self.at + 6)?.iter().all(u8::is_ascii_hexdigit) => self.at += 6,
            _ => return None,
        }
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// serde_json's own grammar check, which has no limit of depth.
    fn serde_accepts(text: &str) -> bool {
        serde_json::from_str::<IgnoredAny>(text).is_ok()
    }

    #[test]
    fn at_most_128_levels_are_accepted() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(is_json(&nested(128)));
        assert!(!is_json(&nested(129)));
        assert!(!is_json(&nested(100_000)));
        assert!(is_json(&("{\"a\":".repeat(128) + "1" + &"}".repeat(128))));
        assert!(is_json(&format!("\"{}\\\"{}\"", "[".repeat(500), "{".repeat(500))));
    }

    #[rustfmt::skip]
    const PIECES: [&str; 47] = [
        "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"a\":1", "\\", "\\u00e9", "\\u00g9", "\\n", "\\x", "0", "-", "-0", "01", "12",
        ".", ".5", "1.", "1e5", "1E+", "e", "+", "true", "fals", "false", "null", " ", "\t", "\n", "\r", "\u{b}", "\u{1f}", "\u{7f}", "\u{e9}", "\u{1f600}", "abcdefgh", "1e999", "[1]", "{\"k\":[]}", "\u{0}", "[[", "}}", "\"abcdefg\\\"h\"",
    ];

    #[test]
    fn only_a_pair_of_surrogates_is_not_lone() {
        #[rustfmt::skip]
        let lone = [
            "\\ud800", "\\uDBFF", "\\udc00", "\\uDfFf", "a\\uD9abb", "\\ud800\\ud800\\udc00", "\\ud800\\udc00\\udc00", "\\udc00\\ud800",
            "\\ud800\\n\\udc00", "\\ud800\\\\udc00", "\\\\\\ud800", "\\ud800\\u0041", "\\ud800udc00",
        ];
        #[rustfmt::skip]
        let paired = [
            "", "\\ud83d\\ude00", "\\uD83D\\uDE00", "\\udbff\\udfff\\ud800\\udc00", "\\ud7ff", "\\ue000", "\\\\ud800", "\\\\\\\\udc00", "ud800", "\\u00d8\\u00dc",
        ];
        for (texts, expected) in [(&lone[..], true), (&paired[..], false)] {
            for text in texts {
                let json = format!("{{\"a\":[1,\"{text}\"]}}");
                assert!(is_json(&json), "{json}");
                assert_eq!(has_lone_surrogate(json.as_bytes()), expected, "{json}");
                assert_eq!(serde_json::from_str::<String>(&format!("\"{text}\"")).is_err(), expected, "{json}");
            }
        }
    }

    #[test]
    fn a_number_of_more_than_4300_digits_is_refused_by_some() {
        for (digits, expected) in [(4300, false), (4301, true)] {
            let json = format!("[1,-{}]", "9".repeat(digits));
            assert!(is_json(&json));
            assert_eq!(is_refused_by_some(json.as_bytes()), expected, "{digits}");
        }
    }

    /// Joins pieces of JSON at random, so that most texts are nearly valid, and compares with serde_json.
    #[test]
    fn accepts_the_same_texts_as_serde_json() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        let mut valid = 0;
        for round in 0..200_000 {
            let mut text = String::new();
            for _ in 0..=random(8) {
                text.push_str(PIECES[random(PIECES.len())]);
            }
            if random(2) == 0 {
                text = format!("{{\"a\":{text}}}");
            }
            assert_eq!(is_json(&text), serde_accepts(&text), "round {round}: {text:?}");
            valid += usize::from(serde_accepts(&text));
        }
        assert!(valid > 5_000, "only {valid} valid texts were tried");
    }
}
