//! Is this one JSON value? The hot path of `append` and of receiving: no allocation, no recursion, strings eight bytes at
//! a time. Half the time of a general parser that ignores what it reads, which stays the judge of the tests and the
//! source of the error messages.

/// The deepest nesting that still counts as JSON: one bit of the container stack a level.
pub const JSON_DEPTH_MAX: usize = 128;

/// Whether `text` is one JSON value (RFC 8259) of at most [`JSON_DEPTH_MAX`] levels, with white space around it or not.
pub fn is_json(text: &str) -> bool {
    let mut cursor = Cursor { bytes: text.as_bytes(), at: 0 };
    cursor.value().is_some() && cursor.at == text.len()
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The containers around the place in work: a bit each, set for an object, the innermost lowest.
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

/// Each of these moves past what it names, or is `None` if that is not there.
impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// A value with white space around it, and all that is in it.
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

    /// Closes containers up to the next value; true when there is none.
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

    /// Moves on while the next eight bytes of a string hold no quote, no backslash and no control.
    fn plain_eights(&mut self) {
        const LOW: u64 = 0x0101_0101_0101_0101;
        const HIGH: u64 = LOW << 7;
        // The high bit of each byte that is zero; a false hit above a true one does not matter here.
        let zero = |word: u64| word.wrapping_sub(LOW) & !word & HIGH;
        while let Some(eight) = self.bytes.get(self.at..self.at + 8) {
            let word = u64::from_le_bytes(eight.try_into().expect("8 bytes"));
            let control = word.wrapping_sub(LOW * 0x20) & !word & HIGH;
            let hit = control | zero(word ^ (LOW * u64::from(b'"'))) | zero(word ^ (LOW * u64::from(b'\\')));
            if hit != 0 {
                // The lowest hit is a true one.
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

    /// The judge: serde_json's own grammar check (which knows no bound of depth).
    fn judge(text: &str) -> bool {
        serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
    }

    #[test]
    fn depth_is_capped_at_exactly_128() {
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

    /// Splices pieces of JSON at random, so that most texts are nearly right, and asks the judge.
    #[test]
    fn agrees_with_the_judge() {
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
            assert_eq!(is_json(&text), judge(&text), "round {round}: {text:?}");
            valid += usize::from(judge(&text));
        }
        assert!(valid > 5_000, "only {valid} valid texts were tried");
    }
}
