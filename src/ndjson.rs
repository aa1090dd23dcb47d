//! One change ⇄ one line of JSON, the format of `read` and `write`.

use std::borrow::Cow;
use std::fmt;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::entry::{Change, Entry, Kind, Offset, PeerId, Seq, Tomb, json_reason};
use crate::error::{Error, Result};

/// Which payload key an entry gets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Payload {
    /// `entry`, `text` or `base64`, by what it is.
    #[default]
    Auto,
    /// `text` for all UTF-8.
    Text,
    /// `base64` for all.
    Base64,
    /// None at all.
    Omitted,
}

/// Writes change lines.
#[derive(Default)]
pub struct ChangeWriter {
    payload: Payload,
    /// The peer of the last line, and it as a JSON string.
    last: Option<(PeerId, Vec<u8>)>,
}

impl ChangeWriter {
    /// A writer of lines with this `payload`.
    pub fn new(payload: Payload) -> Self {
        Self { payload, last: None }
    }

    /// Adds the line of `change` to `out`, its newline included.
    pub fn write(&mut self, out: &mut Vec<u8>, change: &Change<'_>) {
        out.extend_from_slice(b"{\"offset\":");
        put_number(out, change.offset.0);
        out.extend_from_slice(b",\"peer\":");
        match &self.last {
            Some((peer, string)) if peer == change.peer => out.extend_from_slice(string),
            _ => {
                let mut string = Vec::new();
                put_string(&mut string, change.peer.as_str());
                out.extend_from_slice(&string);
                self.last = Some((change.peer.clone(), string));
            }
        }
        out.extend_from_slice(b",\"seq\":");
        put_number(out, u64::from(change.seq.get()));
        if self.payload != Payload::Omitted {
            put_payload(out, self.payload, change.entry);
        }
        out.extend_from_slice(b"}\n");
    }
}

fn put_payload(out: &mut Vec<u8>, payload: Payload, entry: Entry<'_>) {
    match entry {
        Entry::Deleted(tomb) => {
            out.extend_from_slice(
                format!(",\"deleted\":true,\"hash\":\"{:016x}\",\"bytes\":{}", tomb.hash, tomb.bytes).as_bytes(),
            );
        }
        Entry::Bytes(bytes, Kind::Json) if payload == Payload::Auto => {
            out.extend_from_slice(b",\"entry\":");
            out.extend_from_slice(bytes);
        }
        Entry::Bytes(bytes, kind) => {
            let as_text = match payload {
                Payload::Text => true,
                Payload::Base64 => false,
                _ => kind == Kind::Text,
            };
            match std::str::from_utf8(bytes) {
                Ok(text) if as_text => {
                    out.extend_from_slice(b",\"text\":");
                    put_string(out, text);
                }
                _ => {
                    out.extend_from_slice(b",\"base64\":\"");
                    let at = out.len();
                    out.resize(at + BASE64.encode_len(bytes.len()), 0);
                    BASE64.encode_mut(bytes, &mut out[at..]);
                    out.push(b'"');
                }
            }
        }
    }
}

/// Adds a decimal number.
pub fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Adds `text` as a JSON string with no control character in it: neither C0, nor DEL, nor C1.
pub fn put_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (0, 0);
    while at < bytes.len() {
        // C1 controls are U+0080 to U+009F: 0xc2 and one of 0x80 to 0x9f.
        let (code, width) = match bytes[at] {
            byte @ (0..=0x1f | b'"' | b'\\' | 0x7f) => (byte, 1),
            0xc2 if bytes[at + 1] < 0xa0 => (bytes[at + 1], 2),
            _ => {
                at += 1;
                continue;
            }
        };
        out.extend_from_slice(&bytes[plain..at]);
        match code {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', code]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(code >> 4)], HEX[usize::from(code & 15)]]),
        }
        at += width;
        plain = at;
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

/// Adds the line `{"peer":…,"seq":…}`, with `,"own":true` and `,"fork":true` if so.
pub fn put_head(out: &mut Vec<u8>, peer: &PeerId, seq: u32, own: bool, fork: bool) {
    out.extend_from_slice(b"{\"peer\":");
    put_string(out, peer.as_str());
    out.extend_from_slice(b",\"seq\":");
    put_number(out, u64::from(seq));
    out.extend_from_slice(if own { b",\"own\":true" } else { b"" });
    out.extend_from_slice(if fork { b",\"fork\":true}\n" } else { b"}\n" });
}

/// A change line that was read. Its offset is not kept: it is a place in another log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeLine<'a> {
    /// Whose feed.
    pub peer: PeerId,
    /// The place in it.
    pub seq: Seq,
    /// What it holds.
    pub content: Content<'a>,
}

/// The payload of a change line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content<'a> {
    /// The bytes; those of `entry` are part of the line.
    Bytes(Cow<'a, [u8]>),
    /// Deleted there.
    Deleted(Tomb),
}

/// Reads a change line.
///
/// # Errors
/// [`Error::BadInput`] with the reason.
pub fn parse_change(line: &str) -> Result<ChangeLine<'_>> {
    let fields: Fields<'_> = serde_json::from_str(line).map_err(|err| Error::BadInput(json_reason(&err)))?;
    let bad = |why: &str| Error::BadInput(why.into());
    let peer = PeerId::new(&fields.peer.ok_or_else(|| bad("it has no \"peer\""))?)?;
    let seq = fields.seq.ok_or_else(|| bad("it has no \"seq\""))?;
    let seq = Seq::new(seq).ok_or_else(|| bad("its \"seq\" is not 1 to 4294967295"))?;
    let deleted = match fields.deleted {
        Some(true) => {
            Some(fields.tomb.ok_or_else(|| bad("it is deleted, but has not both \"hash\" (16 hex digits) and \"bytes\""))?)
        }
        _ => None,
    };
    let content = match (fields.entry, fields.text, fields.base64, deleted) {
        (Some(entry), None, None, None) => Content::Bytes(Cow::Borrowed(entry.get().as_bytes())),
        (None, Some(text), None, None) => Content::Bytes(Cow::Owned(text.into_bytes())),
        (None, None, Some(base64), None) => {
            let bytes = BASE64.decode(base64.0.as_bytes()).map_err(|_| bad("its \"base64\" is none"))?;
            Content::Bytes(Cow::Owned(bytes))
        }
        (None, None, None, Some(tomb)) => Content::Deleted(tomb),
        _ => return Err(bad("it must have exactly one of \"entry\", \"text\", \"base64\" and \"deleted\":true")),
    };
    Ok(ChangeLine { peer, seq, content })
}

/// Reads a line of `heads`; other fields of it do not matter.
///
/// # Errors
/// [`Error::BadInput`] with the reason.
pub fn parse_head(line: &str) -> Result<(PeerId, u32)> {
    let fields: Fields<'_> = serde_json::from_str(line).map_err(|err| Error::BadInput(json_reason(&err)))?;
    let (Some(peer), Some(seq)) = (fields.peer, fields.seq) else {
        return Err(Error::BadInput("a head is {\"peer\":ID,\"seq\":N}".into()));
    };
    let seq = u32::try_from(seq).map_err(|_| Error::BadInput("its \"seq\" is not 0 to 4294967295".into()))?;
    Ok((PeerId::new(&peer)?, seq))
}

#[derive(Default)]
struct Fields<'a> {
    peer: Option<String>,
    seq: Option<u64>,
    entry: Option<&'a RawValue>,
    text: Option<String>,
    base64: Option<Text<'a>>,
    deleted: Option<bool>,
    tomb: Option<Tomb>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// A string that is borrowed from the line unless it has escapes; base64 of a large entry is large.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        fn once<T, E: serde::de::Error>(field: &mut Option<T>, value: T) -> Result<(), E> {
            if field.replace(value).is_some() { Err(E::custom("a field stands there twice")) } else { Ok(()) }
        }
        let mut fields = Fields::default();
        let (mut hash, mut bytes) = (None, None);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "peer" => once(&mut fields.peer, map.next_value()?)?,
                "seq" => once(&mut fields.seq, map.next_value()?)?,
                "entry" => once(&mut fields.entry, map.next_value()?)?,
                "text" => once(&mut fields.text, map.next_value()?)?,
                "base64" => once(&mut fields.base64, map.next_value()?)?,
                "deleted" => once(&mut fields.deleted, map.next_value()?)?,
                "hash" => {
                    let digits: Cow<'de, str> = map.next_value()?;
                    let digits = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok().and_then(|hash| hash.try_into().ok());
                    let digits = digits.ok_or_else(|| A::Error::custom("its \"hash\" is not 16 hex digits"))?;
                    once(&mut hash, u64::from_be_bytes(digits))?;
                }
                "bytes" => once(&mut bytes, map.next_value()?)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        fields.tomb = hash.zip(bytes).map(|(hash, bytes)| Tomb { hash, bytes });
        Ok(fields)
    }
}

/// A change line as text, for examples and tests.
pub fn change_line(offset: Offset, peer: &PeerId, seq: Seq, entry: Entry<'_>) -> String {
    let mut out = Vec::new();
    ChangeWriter::default().write(&mut out, &Change { offset, peer, seq, entry });
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &[u8]) -> String {
        change_line(Offset(17), &PeerId::new("a\"\u{1b}").unwrap(), Seq::new(12).unwrap(), Entry::new(bytes))
    }

    #[test]
    fn each_kind_has_its_key_and_comes_back_byte_for_byte() {
        let cases: [(&[u8], &str); 8] = [
            (b"{\"a\": 1}", r#""entry":{"a": 1}"#),
            (b" 1", r#""text":" 1""#),
            (b"a\nb\x1b\x7f", r#""text":"a\nb\u001b\u007f""#),
            ("\u{80}\u{9b}\u{a0}".as_bytes(), "\"text\":\"\\u0080\\u009b\u{a0}\""),
            (b"\"\\", r#""text":"\"\\""#),
            (b"", r#""base64":"""#),
            (b"\xff\x00", r#""base64":"/wA=""#),
            (b"[1,\t2]", r#""text":"[1,\t2]""#),
        ];
        for (bytes, payload) in cases {
            let line = line(bytes);
            assert_eq!(line, format!("{{\"offset\":17,\"peer\":\"a\\\"\\u001b\",\"seq\":12,{payload}}}\n"));
            let read = parse_change(&line).unwrap();
            assert_eq!(read.content, Content::Bytes(bytes.into()));
            assert_eq!((read.peer.as_str(), read.seq.get()), ("a\"\u{1b}", 12));
        }
    }

    #[test]
    fn deleted_lines_carry_hash_and_length() {
        let tomb = Tomb { hash: 0xab, bytes: 312 };
        let line = change_line(Offset(1), &PeerId::new("a").unwrap(), Seq::new(1).unwrap(), Entry::Deleted(tomb));
        assert_eq!(
            line,
            "{\"offset\":1,\"peer\":\"a\",\"seq\":1,\"deleted\":true,\"hash\":\"00000000000000ab\",\"bytes\":312}\n"
        );
        assert_eq!(parse_change(&line).unwrap().content, Content::Deleted(tomb));
    }

    #[test]
    fn what_is_no_change_line_is_refused() {
        for bad in [
            "",
            "[]",
            "{}",
            "{\"peer\":\"a\"}",
            "{\"peer\":\"a\",\"seq\":0,\"text\":\"\"}",
            "{\"peer\":\"a\",\"seq\":4294967296,\"text\":\"\"}",
            "{\"peer\":\"\",\"seq\":1,\"text\":\"\"}",
            "{\"peer\":\"a\",\"seq\":1}",
            "{\"peer\":\"a\",\"seq\":1,\"text\":\"\",\"entry\":1}",
            "{\"peer\":\"a\",\"seq\":1,\"base64\":\"*\"}",
            "{\"peer\":\"a\",\"seq\":1,\"deleted\":true}",
            "{\"peer\":\"a\",\"seq\":1,\"deleted\":true,\"hash\":\"1\",\"bytes\":1}",
            "{\"peer\":\"a\",\"seq\":1,\"text\":\"\"} x",
            "{\"peer\":\"a\",\"peer\":\"a\",\"seq\":1,\"text\":\"\"}",
            "{\"peer\":\"a\",\"seq\":1.5,\"text\":\"\"}",
        ] {
            assert!(parse_change(bad).is_err(), "{bad}");
        }
    }
}
