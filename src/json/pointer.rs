//! JSON pointers (RFC 6901), and the canonical text of a value. The text is scanned in place, because `append` looks into each
//! line: only what a pointer names is read.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// The maximum length of a pointer, in bytes.
pub const POINTER_BYTES_MAX: usize = 1024;

/// A JSON pointer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Parses a pointer: empty, or `/` and a name, for each level.
    ///
    /// # Errors
    /// The reason.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > POINTER_BYTES_MAX {
            return Err("the pointer is longer than 1024 bytes");
        }
        let mut names = text.split('/');
        if names.next() != Some("") {
            return Err("a pointer begins with /");
        }
        names
            .map(unescaped_name)
            .collect::<Option<_>>()
            .map(Self)
            .ok_or("in a pointer, ~ stands only in ~0 for ~ and in ~1 for /")
    }

    /// The text of the value that the pointer names in `json`, which must be one JSON value ([`is_json`](super::is_json)). `None`
    /// if there is none. If an object has the name twice, its last value counts.
    pub fn find<'j>(&self, json: &'j [u8]) -> Option<&'j [u8]> {
        self.0.iter().try_fold(json.trim_ascii(), |value, name| child(value, name))
    }
}

/// A name of a pointer without its escapes.
fn unescaped_name(name: &str) -> Option<String> {
    let mut parts = name.split('~');
    let mut unescaped = parts.next()?.to_owned();
    for part in parts {
        let (escaped, rest) = [("~", '0'), ("/", '1')].iter().find_map(|(c, digit)| Some((c, part.strip_prefix(*digit)?)))?;
        unescaped.push_str(escaped);
        unescaped.push_str(rest);
    }
    Some(unescaped)
}

/// The value with this name in an object, or with this number in an array.
fn child<'j>(value: &'j [u8], name: &str) -> Option<&'j [u8]> {
    let mut found = None;
    match value.first() {
        Some(b'{') => each_member(value, |key, value| {
            if is_name(key, name) {
                found = Some(value);
            }
        }),
        Some(b'[') => {
            let is_number = name == "0" || !name.starts_with(['0', '+']);
            let mut left = name.parse::<usize>().ok().filter(|_| is_number)?;
            each_element(value, |element| {
                if left == 0 && found.is_none() {
                    found = Some(element);
                }
                left = left.saturating_sub(1);
            });
        }
        _ => {}
    }
    found
}

/// Whether the string `key`, with its quotes, is `name`.
fn is_name(key: &[u8], name: &str) -> bool {
    match unescaped(key) {
        Some(key) => key == name,
        None => key.get(1..key.len() - 1) == Some(name.as_bytes()),
    }
}

/// The content of a string with its quotes. `None` if it has no escape, or has a lone surrogate.
fn unescaped(string: &[u8]) -> Option<String> {
    memchr::memchr(b'\\', string)?;
    serde_json::from_slice(string).ok()
}

/// The same text for all equal values: without white space and escapes that are not necessary, and with the names of objects in
/// order. Numbers keep their digits, so 1 and 1.0 differ. `json` must be one JSON value without white space around it.
pub fn canonical(json: &[u8]) -> Cow<'_, [u8]> {
    match json.first() {
        Some(b'"') => match unescaped(json).and_then(|text| serde_json::to_vec(&text).ok()) {
            Some(text) => Cow::Owned(text),
            None => Cow::Borrowed(json),
        },
        Some(b'{') => {
            let mut members = BTreeMap::new();
            each_member(json, |key, value| {
                members.insert(canonical(key), canonical(value));
            });
            let members = members.into_iter().map(|(key, value)| [&key[..], b":", &value[..]].concat());
            Cow::Owned([b"{", &members.collect::<Vec<_>>().join(&b","[..])[..], b"}"].concat())
        }
        Some(b'[') => {
            let mut elements = Vec::new();
            each_element(json, |element| elements.push(canonical(element)));
            Cow::Owned([b"[", &elements.join(&b","[..])[..], b"]"].concat())
        }
        _ => Cow::Borrowed(json),
    }
}

/// Gives each member of an object to `each`: its name with quotes, and its value.
fn each_member<'j>(object: &'j [u8], mut each: impl FnMut(&'j [u8], &'j [u8])) {
    let mut rest = Scan { json: object, at: 1 };
    while rest.peek() == Some(b'"') {
        let key = rest.value();
        rest.peek();
        rest.at += 1;
        rest.peek();
        each(key, rest.value());
        if rest.peek() == Some(b',') {
            rest.at += 1;
        }
    }
}

/// Gives each element of an array to `each`.
fn each_element<'j>(array: &'j [u8], mut each: impl FnMut(&'j [u8])) {
    let mut rest = Scan { json: array, at: 1 };
    while rest.peek().is_some_and(|byte| byte != b']') {
        each(rest.value());
        if rest.peek() == Some(b',') {
            rest.at += 1;
        }
    }
}

/// A position in a valid JSON value.
struct Scan<'j> {
    json: &'j [u8],
    at: usize,
}

impl<'j> Scan<'j> {
    /// Moves past white space, and returns the next byte.
    fn peek(&mut self) -> Option<u8> {
        while self.json.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.json.get(self.at).copied()
    }

    /// Moves past the value that begins here, and returns it.
    fn value(&mut self) -> &'j [u8] {
        let start = self.at;
        match self.json.get(start) {
            Some(b'"') => self.skip_string(),
            Some(b'{' | b'[') => self.skip_container(),
            _ => {
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                let rest = &self.json[start.min(self.json.len())..];
                // At least one byte: a text that is not JSON must not stop the scan.
                self.at = start + rest.iter().position(ends).unwrap_or(rest.len()).max(1);
            }
        }
        self.at = self.at.min(self.json.len());
        &self.json[start.min(self.at)..self.at]
    }

    fn skip_string(&mut self) {
        self.at += 1;
        while let Some(found) = self.json.get(self.at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
            self.at += found;
            if self.json[self.at] == b'"' {
                self.at += 1;
                return;
            }
            self.at += 2;
        }
        self.at = self.json.len();
    }

    fn skip_container(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.json.get(self.at) {
            match byte {
                b'"' => {
                    self.skip_string();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const JSON: &str = r#" { "a" : 1, "b":{"c/d":[10, {"e~f":"x"}, [ ]],"":true} ,"g\u0068":"\u0041\n","a":2,"s":"}\"]{", "n":null,
        "big":12345678901234567890123, "o":{"z":1,"a":[ 1 , "\u00e9" ]}, "\ud800": 3, "e":{} } "#;

    #[test]
    fn a_pointer_finds_what_serde_json_finds() {
        let value: Value = serde_json::from_str(&JSON.replace("\\ud800", "s")).unwrap();
        let json = JSON.replace("\\ud800", "s");
        for text in [
            "",
            "/a",
            "/b",
            "/b/c~1d",
            "/b/c~1d/0",
            "/b/c~1d/1",
            "/b/c~1d/1/e~0f",
            "/b/c~1d/2",
            "/b/c~1d/3",
            "/b/c~1d/00",
            "/b/c~1d/+0",
            "/b/c~1d/-",
            "/b/c~1d/01",
            "/b/",
            "/gh",
            "/s",
            "/n",
            "/x",
            "/a/b",
            "/o",
            "/o/a/1",
            "/big",
            "/e",
            "/e/x",
        ] {
            let found = Pointer::parse(text).unwrap().find(json.as_bytes());
            let found = found.map(|found| serde_json::from_slice::<Value>(found).unwrap_or_else(|err| panic!("{text}: {err}")));
            assert_eq!(found.as_ref(), value.pointer(text), "{text}");
        }
    }

    #[test]
    fn pointers_that_are_not_valid_are_refused() {
        for text in ["a", "a/b", "/~", "/~2", "/a~", "#/a"] {
            assert!(Pointer::parse(text).is_err(), "{text}");
        }
        assert!(Pointer::parse(&format!("/{}", "a".repeat(POINTER_BYTES_MAX))).is_err());
    }

    #[test]
    fn equal_values_have_the_same_canonical_text() {
        let canonical = |json: &str| String::from_utf8(canonical(json.as_bytes()).into_owned()).unwrap();
        for (json, expected) in [
            ("1", "1"),
            ("1.0", "1.0"),
            ("\"1\"", "\"1\""),
            ("\"\\u0041\\/\\n\"", "\"A/\\n\""),
            ("\"\\ud800\"", "\"\\ud800\""),
            ("{ }", "{}"),
            ("[ ]", "[]"),
            ("{ \"b\" : [ 1 , true ] , \"a\":null, \"\\u0061\": 2}", "{\"a\":2,\"b\":[1,true]}"),
            ("12345678901234567890123", "12345678901234567890123"),
        ] {
            assert_eq!(canonical(json), expected, "{json}");
        }
        assert_eq!(canonical(JSON.trim()).len(), canonical(&canonical(JSON.trim())).len());
    }
}
