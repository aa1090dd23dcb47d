//! Patterns for peer ids, as in a shell.

use std::fmt;
use std::str::Chars;
use std::sync::Arc;

use super::{Error, Result};

/// The maximum length of one pattern in bytes, and the maximum number of patterns together. A remote can send patterns, so the
/// work to match them must be limited.
const GLOB_BYTES_MAX: usize = 255;
/// The maximum number of patterns in [`PeerGlobs`].
pub const GLOBS_MAX: usize = 64;

/// Patterns for peer ids. `*` stands for any characters, `?` for one character, `[ab]` and `[a-z]` for one of these characters,
/// and `[!a]` for one other character. All other characters stand for themselves.
#[derive(Clone, Default)]
pub struct PeerGlobs(Arc<[Glob]>);

impl PeerGlobs {
    /// The patterns `globs`. Without a pattern, every id matches.
    ///
    /// # Errors
    /// [`Error::PeerGlob`] when a pattern is invalid, or there are more than 64 patterns.
    pub fn new<'a>(globs: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let globs: Vec<_> = globs.into_iter().map(Glob::new).collect::<Result<_>>()?;
        if globs.len() > GLOBS_MAX {
            return Err(Error::PeerGlob(globs[GLOBS_MAX].text.to_string(), "there are more than 64 patterns"));
        }
        Ok(Self(globs.into()))
    }

    /// Whether one of the patterns matches the whole id, or there are no patterns.
    pub fn matches(&self, peer: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|glob| glob.matches(peer))
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text of each pattern.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|glob| &*glob.text)
    }
}

/// The feeds of a session, as one side has chosen them.
#[derive(Clone, Default, Debug)]
pub struct PeerChoice {
    /// The feeds that take part. The others are left out: they are neither sent nor stored.
    pub selected: PeerGlobs,
    /// The feeds that are accepted from the remote. The others are refused.
    pub allowed: PeerGlobs,
}

impl PeerChoice {
    /// Whether the feed takes part.
    pub fn selects(&self, peer: &str) -> bool {
        self.selected.matches(peer)
    }

    /// Whether entries of the feed are stored.
    pub fn takes(&self, peer: &str) -> bool {
        self.selects(peer) && self.allowed.matches(peer)
    }

    /// Whether feeds can be left out.
    pub fn is_partial(&self) -> bool {
        !self.selected.is_empty()
    }
}

impl fmt::Debug for PeerGlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.texts()).finish()
    }
}

impl PartialEq for PeerGlobs {
    fn eq(&self, other: &Self) -> bool {
        self.texts().eq(other.texts())
    }
}

impl Eq for PeerGlobs {}

struct Glob {
    text: Box<str>,
    parts: Vec<Part>,
}

enum Part {
    /// `*`
    Any,
    /// `?`
    One,
    Char(char),
    /// Ranges of characters, and whether the character must be outside of them.
    Class(Vec<(char, char)>, bool),
}

impl Part {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Char(own) => *own == c,
            Self::Class(ranges, is_negated) => ranges.iter().any(|&(first, last)| first <= c && c <= last) != *is_negated,
        }
    }
}

impl Glob {
    fn new(text: &str) -> Result<Self> {
        let fail = |why| Err(Error::PeerGlob(text.to_owned(), why));
        match text.len() {
            0 => return fail("it is empty"),
            1..=GLOB_BYTES_MAX => {}
            _ => return fail("it is longer than 255 bytes"),
        }
        let (mut parts, mut rest) = (Vec::new(), text.chars());
        while let Some(c) = rest.next() {
            parts.push(match c {
                '*' => Part::Any,
                '?' => Part::One,
                '[' => match class(&mut rest) {
                    Some(class) => class,
                    None => return fail("a [ has no ]"),
                },
                c => Part::Char(c),
            });
        }
        Ok(Self { text: text.into(), parts })
    }

    /// Each `*` first stands for nothing. After a mismatch, the last `*` takes one character more. So the work is limited by the
    /// length of the pattern times the length of the text.
    fn matches(&self, text: &str) -> bool {
        let (mut at, mut rest) = (0, text.chars());
        let mut last_any: Option<(usize, Chars<'_>)> = None;
        loop {
            let mut after = rest.clone();
            match (self.parts.get(at), after.next()) {
                (Some(Part::Any), _) => {
                    at += 1;
                    last_any = Some((at, rest.clone()));
                }
                (Some(part), Some(c)) if part.matches(c) => (at, rest) = (at + 1, after),
                (None, None) => return true,
                (_, None) => return false,
                (_, Some(_)) => {
                    let Some((start, from)) = &mut last_any else { return false };
                    from.next();
                    (at, rest) = (*start, from.clone());
                }
            }
        }
    }
}

/// Reads a class up to its `]`. A `]` or a `-` at its start or end stands for itself.
fn class(rest: &mut Chars<'_>) -> Option<Part> {
    let mut members: Vec<char> = Vec::new();
    let is_negated = rest.clone().next().is_some_and(|c| matches!(c, '!' | '^')) && rest.next().is_some();
    loop {
        match rest.next()? {
            ']' if !members.is_empty() => break,
            c => members.push(c),
        }
    }
    let (mut ranges, mut members) = (Vec::new(), &members[..]);
    while let &[first, ref more @ ..] = members {
        (ranges, members) = match *more {
            ['-', last, ref more @ ..] => ([ranges, vec![(first, last)]].concat(), more),
            _ => ([ranges, vec![(first, first)]].concat(), more),
        };
    }
    Some(Part::Class(ranges, is_negated))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(glob: &str, text: &str) -> bool {
        PeerGlobs::new([glob]).unwrap().matches(text)
    }

    #[test]
    fn patterns() {
        for (glob, yes, no) in [
            ("abc", &["abc"][..], &["", "ab", "abcd", "xabc"][..]),
            ("*", &["a", "abc", "\u{e9}\u{202e}"], &[]),
            ("a*", &["a", "ab", "a*"], &["b", "ba"]),
            ("*a", &["a", "ba", "aba"], &["ab"]),
            ("a*b*c", &["abc", "axbxbxc", "abbcc"], &["acb", "ab", "bc"]),
            ("**a**", &["a", "xay"], &["x"]),
            ("?", &["a", "\u{1f600}"], &["", "ab"]),
            ("web-??", &["web-01"], &["web-1", "web-001"]),
            ("[ab]c", &["ac", "bc"], &["cc", "c", "abc"]),
            ("[a-c0-9]", &["a", "b", "c", "5"], &["d", "-", ""]),
            ("[!a-c]x", &["dx", "-x"], &["ax", "x"]),
            ("[^a]", &["b"], &["a"]),
            ("[]]", &["]"], &["["]),
            ("[!]]", &["a"], &["]"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[*]", &["*"], &["a"]),
            ("a]", &["a]"], &["a"]),
            ("\\*", &["\\", "\\x"], &["*"]),
        ] {
            yes.iter().for_each(|text| assert!(matches(glob, text), "{glob} {text:?}"));
            no.iter().for_each(|text| assert!(!matches(glob, text), "{glob} {text:?}"));
        }
        let globs = PeerGlobs::new(["a*", "b"]).unwrap();
        assert!(globs.matches("ab") && globs.matches("b") && !globs.matches("ba"));
        assert!(PeerGlobs::default().matches("anything"));
    }

    #[test]
    fn what_is_refused() {
        for glob in ["", "[", "[a", "[]", "[!]", "a[!", &"x".repeat(256)] {
            assert!(matches!(PeerGlobs::new([glob]), Err(Error::PeerGlob(..))), "{glob}");
        }
        assert!(PeerGlobs::new(["a"; 64]).is_ok() && PeerGlobs::new(["a"; 65]).is_err());
    }

    /// A naive matcher needs exponential time for this.
    #[test]
    fn many_stars_take_little_time() {
        assert!(!matches(&"*a".repeat(120), &"a".repeat(119)));
        assert!(!matches(&format!("{}b", "*a".repeat(120)), &"a".repeat(255)));
    }
}
