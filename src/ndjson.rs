//! Change lines: one change as one line of JSON. `read` writes them, `write` reads them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use crate::json::{is_refused_by_some, json_reason};
use crate::model::{Chain, Change, Entry, Error, HashedEntry, Kind, Offset, PeerId, Result, Seq, Tombstone, is_invisible};

/// U+FEFF. Some programs begin each text file with it.
pub const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The key that holds the payload of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum PayloadKeys {
    /// `entry`, `text` or `base64`, by the kind of the entry.
    #[default]
    Auto,
    /// `text` for every UTF-8 entry.
    Text,
    /// `base64` for every entry.
    Base64,
    /// No payload.
    Omitted,
}

/// Writes change lines.
#[derive(Default)]
pub struct ChangeWriter {
    keys: PayloadKeys,
    is_shown: bool,
    /// The peer of the last line, and its id as a JSON string.
    last_peer: Option<(PeerId, Vec<u8>)>,
}

impl ChangeWriter {
    /// A writer of lines with these payload keys.
    pub fn new(keys: PayloadKeys) -> Self {
        Self { keys, is_shown: false, last_peer: None }
    }

    /// With `is_shown`, the lines are for a terminal: invisible characters are escaped in payloads, too.
    pub fn for_terminal(self, is_shown: bool) -> Self {
        Self { is_shown, ..self }
    }

    /// Adds the line of `change` to `out`, with its newline.
    pub fn write(&mut self, out: &mut Vec<u8>, change: &Change<'_>) {
        self.write_at(out, change, None);
    }

    /// As [`ChangeWriter::write`]. If `at` is given, the line has this time of arrival, Unix time in milliseconds.
    pub fn write_at(&mut self, out: &mut Vec<u8>, change: &Change<'_>, at: Option<u64>) {
        let start = out.len();
        out.extend_from_slice(b"{\"offset\":");
        put_number(out, change.offset.0);
        out.extend_from_slice(b",\"peer\":");
        match &self.last_peer {
            Some((peer, string)) if peer == change.peer => out.extend_from_slice(string),
            _ => {
                let mut string = Vec::new();
                put_name(&mut string, change.peer.as_str());
                out.extend_from_slice(&string);
                self.last_peer = Some((change.peer.clone(), string));
            }
        }
        out.extend_from_slice(b",\"seq\":");
        put_number(out, u64::from(change.seq.get()));
        if let Some(at) = at {
            out.extend_from_slice(b",\"at\":\"");
            put_time(out, at);
            out.push(b'"');
        }
        if self.keys != PayloadKeys::Omitted {
            put_payload(out, self.keys, change.entry);
        }
        out.extend_from_slice(b"}\n");
        if self.is_shown {
            let line = out.split_off(start);
            out.extend_from_slice(escape_invisible(&String::from_utf8_lossy(&line)).as_bytes());
        }
    }
}

/// Escapes all invisible characters of lines of JSON, as JSON does. The values stay the same, because such characters are only in
/// strings. The newlines between the lines stay.
pub fn escape_invisible(lines: &str) -> Cow<'_, str> {
    let is_escaped = |c: char| c != '\n' && is_invisible(c);
    if !lines.contains(is_escaped) {
        return lines.into();
    }
    let mut escaped = String::with_capacity(lines.len());
    for c in lines.chars() {
        if is_escaped(c) {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| escaped.push_str(&format!("\\u{unit:04x}")));
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

/// Adds the name of a feed or of a cursor as a JSON string. A stranger can choose it, and a person compares it with others, so
/// all invisible characters are escaped.
pub fn put_name(out: &mut Vec<u8>, name: &str) {
    let start = out.len();
    put_string(out, name);
    if !name.is_ascii() {
        let string = out.split_off(start);
        out.extend_from_slice(escape_invisible(&String::from_utf8_lossy(&string)).as_bytes());
    }
}

/// Adds the payload and the hash. Only the line of a deleted entry says its length, which cannot be seen in the line.
fn put_payload(out: &mut Vec<u8>, keys: PayloadKeys, entry: HashedEntry<'_>) {
    let Tombstone { hash, bytes } = entry.tombstone();
    match entry.entry() {
        Entry::Deleted(_) => {
            out.extend_from_slice(b",\"deleted\":true");
            put_hash(out, hash);
            out.extend_from_slice(b",\"bytes\":");
            put_number(out, u64::from(bytes));
            return;
        }
        // An earlier program may have stored the entry as JSON.
        Entry::Bytes(bytes, Kind::Json) if keys == PayloadKeys::Auto && !is_refused_by_some(bytes) => {
            out.extend_from_slice(b",\"entry\":");
            out.extend_from_slice(bytes);
        }
        Entry::Bytes(bytes, kind) => {
            let as_text = match keys {
                PayloadKeys::Text => true,
                PayloadKeys::Base64 => false,
                _ => kind != Kind::Binary,
            };
            match std::str::from_utf8(bytes) {
                Ok(text) if as_text => {
                    out.extend_from_slice(b",\"text\":");
                    put_string(out, text);
                }
                _ => {
                    out.extend_from_slice(b",\"base64\":");
                    put_base64(out, bytes);
                }
            }
        }
    }
    put_hash(out, hash);
}

fn put_hash(out: &mut Vec<u8>, hash: u64) {
    let mut field = *b",\"hash\":\"0123456789abcdef\"";
    field[9..17].copy_from_slice(&hex_digits((hash >> 32) as u32));
    field[17..25].copy_from_slice(&hex_digits(hash as u32));
    out.extend_from_slice(&field);
}

/// The hex digits of `number`, all at once: every line has 16 of them.
fn hex_digits(number: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // One byte for each digit.
    let digits = u64::from(number);
    let digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
    let digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
    let digits = (digits | digits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // The sum is 16 or more if the digit is a letter.
    let letters = (digits + 6 * EACH) >> 4 & EACH;
    (digits + u64::from(b'0') * EACH + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

/// Adds `bytes` as a JSON string of base64.
pub fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let at = out.len();
    out.resize(at + BASE64.encode_len(bytes.len()), 0);
    BASE64.encode_mut(bytes, &mut out[at..]);
    out.push(b'"');
}

/// Adds `number` in decimal.
pub fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The last millisecond that RFC 3339 can write: its years have four digits.
const RFC_3339_MILLIS_MAX: u64 = 253_402_300_799_999;

/// Adds a time in UTC, as RFC 3339 with milliseconds: `2026-11-26T09:49:08.123Z`. `millis` is Unix time.
pub fn put_time(out: &mut Vec<u8>, millis: u64) {
    let millis = millis.min(RFC_3339_MILLIS_MAX);
    let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
    // The calendar repeats after eras of 400 years. In this computation, a year begins on the first of March.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (last, number) in [
        (3, year),
        (6, month),
        (9, day),
        (12, of_day / 3_600_000),
        (15, of_day / 60_000 % 60),
        (18, of_day / 1000 % 60),
        (22, of_day % 1000),
    ] {
        let (mut at, mut rest) = (last, number);
        while rest > 0 {
            text[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            at = at.wrapping_sub(1);
        }
    }
    out.extend_from_slice(&text);
}

/// Adds `text` as a JSON string. Escapes all control characters: C0, DEL and C1.
pub fn put_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (0, 0);
    while at < bytes.len() {
        // C1 controls are U+0080 to U+009F, in UTF-8 the byte 0xc2 and a byte from 0x80 to 0x9f.
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

/// Adds the line `{"peer":…,"seq":…}`, with `"own":true` for the local feed and `"fork":true` for a forked feed.
pub fn put_head(out: &mut Vec<u8>, peer: &str, seq: u32, local: bool, fork: bool, floor: u32) {
    out.extend_from_slice(b"{\"peer\":");
    put_name(out, peer);
    out.extend_from_slice(b",\"seq\":");
    put_number(out, u64::from(seq));
    out.extend_from_slice(if local { b",\"own\":true" } else { b"" });
    out.extend_from_slice(if fork { b",\"fork\":true" } else { b"" });
    if floor > 0 {
        out.extend_from_slice(b",\"floor\":");
        put_number(out, u64::from(floor));
    }
    out.extend_from_slice(b"}\n");
}

/// Adds the change line of a floor: all entries of the feed up to `seq` were pruned, and `chain` is the chain there.
pub fn put_floor(out: &mut Vec<u8>, peer: &str, seq: Seq, chain: Chain) {
    out.extend_from_slice(b"{\"peer\":");
    put_name(out, peer);
    out.extend_from_slice(b",\"seq\":");
    put_number(out, u64::from(seq.get()));
    out.extend_from_slice(format!(",\"floor\":true,\"chain\":\"{:032x}\"}}\n", chain.0).as_bytes());
}

/// A change line that was read. It has no offset, because the offset in the line is a position in another log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeLine<'a> {
    /// The author of the feed.
    pub peer: PeerId,
    /// The seq of the entry.
    pub seq: Seq,
    /// The payload.
    pub content: Content<'a>,
}

/// The payload of a change line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content<'a> {
    /// The bytes of the entry. The payload of `entry` is borrowed from the line.
    Bytes(Cow<'a, [u8]>),
    /// The entry was deleted in the log that wrote the line.
    Deleted(Tombstone),
    /// The log that wrote the line has pruned all entries of the feed up to this one. The chain there.
    Floor(Chain),
}

/// Reads a change line. If it has a hash, its bytes must match it.
///
/// # Errors
/// [`Error::BadInput`] or [`Error::PeerId`] with the reason; [`Error::HashMismatch`].
pub fn parse_change(line: &str) -> Result<ChangeLine<'_>> {
    let fields = Fields::parse(line)?;
    let bad = |why: &str| Error::BadInput(why.into());
    let peer = PeerId::new(&fields.peer.ok_or_else(|| missing("peer"))?)?;
    let seq = fields.seq.ok_or_else(|| missing("seq"))?;
    let seq = seq.as_u64().and_then(Seq::new).ok_or_else(|| bad("\"seq\" is not a number from 1 to 4294967295"))?;
    let deleted = match fields.deleted {
        Some(true) => {
            let hash = fields.hash.ok_or_else(|| missing("hash"))?;
            Some(Tombstone { hash, bytes: fields.bytes.ok_or_else(|| missing("bytes"))? })
        }
        _ => None,
    };
    let floor = match fields.floor {
        Some(true) => Some(fields.chain.ok_or_else(|| missing("chain"))?),
        _ => None,
    };
    let content = match (fields.entry, fields.text, fields.base64, deleted, floor) {
        (Some(entry), None, None, None, None) => Content::Bytes(Cow::Borrowed(entry.get().as_bytes())),
        (None, Some(text), None, None, None) => Content::Bytes(Cow::Owned(text.into_bytes())),
        (None, None, Some(base64), None, None) => {
            let bytes = BASE64.decode(base64.0.as_bytes()).map_err(|_| bad("invalid base64 in \"base64\""))?;
            Content::Bytes(Cow::Owned(bytes))
        }
        (None, None, None, Some(tombstone), None) => Content::Deleted(tombstone),
        (None, None, None, None, Some(chain)) => Content::Floor(chain),
        _ => {
            return Err(bad(
                "a change line needs exactly one of \"entry\", \"text\", \"base64\", \"deleted\":true and \"floor\":true",
            ));
        }
    };
    if let (Content::Bytes(bytes), Some(hash)) = (&content, fields.hash)
        && Tombstone::of(bytes).hash != hash
    {
        return Err(Error::HashMismatch(peer, seq));
    }
    Ok(ChangeLine { peer, seq, content })
}

/// Whether `bytes` are a change line as [`ChangeWriter`] writes it: `offset` comes first, and no other fields than those of a change
/// line follow.
pub fn is_change_line(bytes: &[u8]) -> bool {
    // Most lines end here, so this is fast.
    let is_like = bytes.starts_with(b"{\"offset\":") && bytes.ends_with(b"}");
    let text = std::str::from_utf8(bytes).ok().filter(|_| is_like);
    text.is_some_and(|text| {
        has_only_fields_of_changes(text) && matches!(parse_change(text), Ok(_) | Err(Error::HashMismatch(..)))
    })
}

fn has_only_fields_of_changes(text: &str) -> bool {
    const FIELDS: [&str; 10] = ["offset", "peer", "seq", "at", "entry", "text", "base64", "deleted", "hash", "bytes"];
    let fields = serde_json::from_str::<BTreeMap<&str, IgnoredAny>>(text);
    fields.is_ok_and(|fields| fields.keys().all(|field| FIELDS.contains(field)))
}

/// Reads a line of `heads`: peer and seq. Other fields are ignored.
///
/// # Errors
/// [`Error::BadInput`] or [`Error::PeerId`] with the reason.
pub fn parse_head(line: &str) -> Result<(PeerId, u32)> {
    let fields = Fields::parse(line)?;
    let peer = fields.peer.ok_or_else(|| missing("peer"))?;
    let seq = fields.seq.ok_or_else(|| missing("seq"))?;
    let seq = seq.as_u64().and_then(|seq| u32::try_from(seq).ok());
    let seq = seq.ok_or_else(|| Error::BadInput("\"seq\" is not a number from 0 to 4294967295".into()))?;
    Ok((PeerId::new(&peer)?, seq))
}

fn missing(field: &str) -> Error {
    Error::BadInput(format!("missing field \"{field}\""))
}

/// The fields that a line has.
#[derive(Default)]
struct Fields<'a> {
    peer: Option<String>,
    seq: Option<Number>,
    entry: Option<&'a RawValue>,
    text: Option<String>,
    base64: Option<LineStr<'a>>,
    deleted: Option<bool>,
    hash: Option<u64>,
    bytes: Option<u32>,
    floor: Option<bool>,
    chain: Option<Chain>,
}

impl<'a> Fields<'a> {
    fn parse(line: &'a str) -> Result<Self> {
        serde_json::from_str(line).map_err(|err| Error::BadInput(json_reason(&err)))
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// A string that is borrowed from the line if it has no escapes. This avoids a copy of a long base64 text.
struct LineStr<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for LineStr<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(LineStrVisitor)
    }
}

struct LineStrVisitor;

impl<'de> Visitor<'de> for LineStrVisitor {
    type Value = LineStr<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<LineStr<'de>, E> {
        Ok(LineStr(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<LineStr<'de>, E> {
        Ok(LineStr(Cow::Owned(text.to_owned())))
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        let (mut hash, mut chain): (Option<String>, Option<String>) = (None, None);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "peer" => read_field(&mut map, &key, &mut fields.peer)?,
                "seq" => read_field(&mut map, &key, &mut fields.seq)?,
                "entry" => read_field(&mut map, &key, &mut fields.entry)?,
                "text" => read_field(&mut map, &key, &mut fields.text)?,
                "base64" => read_field(&mut map, &key, &mut fields.base64)?,
                "deleted" => read_field(&mut map, &key, &mut fields.deleted)?,
                "hash" => read_field(&mut map, &key, &mut hash)?,
                "bytes" => read_field(&mut map, &key, &mut fields.bytes)?,
                // Lines of heads have a floor too, which is a number.
                "floor" => fields.floor = map.next_value::<Value>()?.as_bool(),
                "chain" => read_field(&mut map, &key, &mut chain)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if let Some(digits) = hash {
            let hash = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok().and_then(|hash| hash.try_into().ok());
            let hash = hash.ok_or_else(|| A::Error::custom("\"hash\" is not 16 hex digits"))?;
            fields.hash = Some(u64::from_be_bytes(hash));
        }
        if let Some(digits) = chain {
            let chain = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok().and_then(|chain| chain.try_into().ok());
            let chain = chain.ok_or_else(|| A::Error::custom("\"chain\" is not 32 hex digits"))?;
            fields.chain = Some(Chain(u128::from_be_bytes(chain)));
        }
        Ok(fields)
    }
}

/// Reads the value of the field `key`. Every error names the field.
fn read_field<'de, A, T>(map: &mut A, key: &str, field: &mut Option<T>) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Deserialize<'de>,
{
    let value = map.next_value().map_err(|err| A::Error::custom(format_args!("\"{key}\": {err}")))?;
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(A::Error::custom(format_args!("duplicate field \"{key}\""))),
    }
}

/// One change line as text, for examples and tests.
pub fn change_line(offset: Offset, peer: &PeerId, seq: Seq, entry: HashedEntry<'_>) -> String {
    let mut out = Vec::new();
    ChangeWriter::default().write(&mut out, &Change { offset, peer, seq, entry });
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &[u8]) -> String {
        change_line(Offset(17), &PeerId::new("a\"\u{1b}").unwrap(), Seq::new(12).unwrap(), HashedEntry::new(bytes))
    }

    #[test]
    fn each_kind_of_entry_has_its_payload_key_and_is_read_back_exactly() {
        let cases: [(&[u8], &str); 10] = [
            (b"{\"a\": 1}", r#""entry":{"a": 1}"#),
            (br#""\ud83d\ude00""#, r#""entry":"\ud83d\ude00""#),
            (br#""\ud83d""#, r#""text":"\"\\ud83d\"""#),
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
            let hash = Tombstone::of(bytes).hash;
            let expected = format!(r#"{{"offset":17,"peer":"a\"\u001b","seq":12,{payload},"hash":"{hash:016x}"}}"#) + "\n";
            assert_eq!(line, expected);
            let read = parse_change(&line).unwrap();
            assert_eq!(read.content, Content::Bytes(bytes.into()));
            assert_eq!((read.peer.as_str(), read.seq.get()), ("a\"\u{1b}", 12));
        }
    }

    #[test]
    fn times_are_written_in_utc() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_001, "2000-03-01T00:00:00.001Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (1_795_686_548_123, "2026-11-26T09:49:08.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            let mut text = Vec::new();
            put_time(&mut text, millis);
            assert_eq!(text, expected.as_bytes());
        }
        let (mut out, peer) = (Vec::new(), PeerId::new("a").unwrap());
        let change = Change { offset: Offset(17), peer: &peer, seq: Seq::new(12).unwrap(), entry: HashedEntry::new(b"1") };
        ChangeWriter::new(PayloadKeys::Omitted).write_at(&mut out, &change, Some(5));
        assert_eq!(out, b"{\"offset\":17,\"peer\":\"a\",\"seq\":12,\"at\":\"1970-01-01T00:00:00.005Z\"}\n");
    }

    #[test]
    fn an_entry_with_a_lone_surrogate_is_text_also_if_it_was_stored_as_json() {
        let bytes = br#"["\udead"]"#;
        let stored = HashedEntry::stored(bytes, Kind::Json, Tombstone::of(bytes).hash).unwrap();
        let written = change_line(Offset(1), &PeerId::new("a").unwrap(), Seq::new(1).unwrap(), stored);
        assert!(written.contains(r#","text":"[\"\\udead\"]","hash":""#), "{written}");
        let line = "{\"peer\":\"a\",\"seq\":1,\"entry\":[\"\\udead\"]}";
        assert_eq!(parse_change(line).unwrap().content, Content::Bytes(br#"["\udead"]"#.into()));
    }

    #[test]
    fn bytes_that_do_not_match_the_hash_are_refused() {
        let read = |payload: &str| parse_change(&format!("{{\"peer\":\"a\",\"seq\":7,{payload}}}")).map(|_| ());
        for payload in ["\"entry\":21.5", "\"text\":\"21.5\"", "\"base64\":\"MjEuNQ==\""] {
            read(payload).unwrap();
            read(&format!("{payload},\"hash\":\"6d33c600c0ec6170\"")).unwrap();
            let refused = read(&format!("{payload},\"hash\":\"6d33c600c0ec6171\"")).unwrap_err();
            assert!(matches!(&refused, Error::HashMismatch(peer, seq) if peer.as_str() == "a" && seq.get() == 7), "{refused}");
        }
    }

    #[test]
    fn hex_digits_of_every_nibble() {
        for number in [0, 0x0123_4567, 0x89ab_cdef, 0xfedc_ba98, 0xa0f9_0f9a, u32::MAX] {
            assert_eq!(String::from_utf8_lossy(&hex_digits(number)), format!("{number:08x}"));
        }
    }

    #[test]
    fn deleted_lines_carry_hash_and_length() {
        let tombstone = Tombstone { hash: 0xab, bytes: 312 };
        let line = change_line(Offset(1), &PeerId::new("a").unwrap(), Seq::new(1).unwrap(), HashedEntry::deleted(tombstone));
        assert_eq!(
            line,
            "{\"offset\":1,\"peer\":\"a\",\"seq\":1,\"deleted\":true,\"hash\":\"00000000000000ab\",\"bytes\":312}\n"
        );
        assert_eq!(parse_change(&line).unwrap().content, Content::Deleted(tombstone));
    }

    #[test]
    fn invalid_change_lines_are_refused() {
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

    #[test]
    fn only_lines_with_exactly_the_fields_of_a_change_are_change_lines() {
        let line = line(b"{\"a\":1}");
        assert!(is_change_line(line.trim_end().as_bytes()), "{line}");
        for (line, is_change) in [
            ("{\"offset\":1,\"peer\":\"a\",\"seq\":1,\"text\":\"\"}", true),
            ("{\"offset\":1,\"peer\":\"a\",\"seq\":1,\"base64\":\"\"}", true),
            ("{\"offset\":1,\"peer\":\"a\",\"seq\":1,\"at\":\"2026-11-26T09:49:08.123Z\",\"entry\":1}", true),
            ("{\"offset\":1,\"peer\":\"a\",\"seq\":1,\"entry\":1,\"hash\":\"0123456789abcdef\"}", true),
            ("{\"offset\":1,\"peer\":\"a\",\"seq\":1,\"deleted\":true,\"hash\":\"0123456789abcdef\",\"bytes\":3}", true),
            ("{\"offset\":1,\"peer\":\"a\",\"seq\":1}", false),
            ("{\"offset\":1,\"peer\":\"a\",\"seq\":1,\"entry\":1,\"partition\":0}", false),
            ("{\"offset\":1,\"partition\":0,\"value\":\"a\"}", false),
            ("{\"peer\":\"a\",\"seq\":1,\"entry\":1}", false),
            ("{\"offset\":", false),
            ("[1]", false),
        ] {
            assert_eq!(is_change_line(line.as_bytes()), is_change, "{line}");
        }
        assert!(!is_change_line(b"{\"offset\":\xff}"));
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            ("{\"seq\":1,\"text\":\"\"}", "missing field \"peer\""),
            ("{\"peer\":\"a\",\"text\":\"\"}", "missing field \"seq\""),
            ("{\"peer\":\"a\",\"seq\":0,\"text\":\"\"}", "\"seq\" is not a number from 1 to 4294967295"),
            ("{\"peer\":\"a\",\"seq\":1.5,\"text\":\"\"}", "\"seq\" is not a number from 1 to 4294967295"),
            ("{\"peer\":\"a\",\"seq\":1,\"seq\":1}", "duplicate field \"seq\" at byte 28"),
            ("{\"peer\":\"a\",\"seq\":1,\"base64\":\"*\"}", "invalid base64 in \"base64\""),
            ("{\"peer\":\"a\",\"seq\":1,\"deleted\":true,\"bytes\":1}", "missing field \"hash\""),
            ("{\"peer\":\"a\",\"seq\":1,\"hash\":\"1\"}", "\"hash\" is not 16 hex digits at byte 31"),
            ("{\"peer\":7,\"seq\":1}", "\"peer\": invalid type: integer `7`, expected a string at byte 9"),
            ("{\"peer\":\"a\",\"seq\":", "\"seq\": EOF while parsing a value at byte 18"),
        ];
        for (line, error) in cases {
            assert_eq!(parse_change(line).unwrap_err().to_string(), error, "{line}");
        }
        let head = parse_head("{\"peer\":\"a\",\"seq\":4294967296}");
        assert_eq!(head.unwrap_err().to_string(), "\"seq\" is not a number from 0 to 4294967295");
    }
}
