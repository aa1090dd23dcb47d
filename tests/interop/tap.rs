//! A recorded direction of a session, decoded without the code of the library.

use std::path::Path;

/// The decoded frames of one direction.
pub struct Tap {
    pub id: String,
    /// Peer and seq of every change.
    pub changes: Vec<(String, u64)>,
}

impl Tap {
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("the recorded bytes");
        let mut frames = frames(&bytes).into_iter();
        let id = text(&fields(frames.next().expect("a handshake")), 1);
        let changes = frames.map(fields).map(|fields| (text(&fields, 1), number(&fields, 2))).collect();
        Self { id, changes }
    }

    /// Asserts that the frames are entries 1 to `count` of `peer`, in order, and nothing else.
    pub fn assert_only(&self, peer: &str, count: u64) {
        let expected: Vec<_> = (1..=count).map(|seq| (peer.to_owned(), seq)).collect();
        assert!(
            self.changes == expected,
            "{} changes: {:?} …",
            self.changes.len(),
            self.changes.iter().take(3).collect::<Vec<_>>()
        );
    }
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let end = bytes.iter().position(|&byte| byte < 0x80).expect("a whole varint");
    let value = bytes[..=end].iter().rev().fold(0, |value, &byte| value << 7 | u64::from(byte & 0x7f));
    *bytes = &bytes[end + 1..];
    value
}

/// The bodies of the complete, non-empty frames; a truncated last frame is ignored.
fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while bytes.iter().any(|&byte| byte < 0x80) {
        let length = varint(&mut bytes) as usize;
        let Some((body, rest)) = bytes.split_at_checked(length) else { break };
        bytes = rest;
        frames.push(body);
    }
    frames.retain(|body| !body.is_empty());
    frames
}

fn fields(mut body: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut fields = Vec::new();
    while !body.is_empty() {
        let tag = varint(&mut body);
        let number = varint(&mut body);
        let value = match tag & 7 {
            0 => Value::Number(number),
            2 => {
                let (bytes, rest) = body.split_at(number as usize);
                body = rest;
                Value::Bytes(bytes)
            }
            wire_type => panic!("wire type {wire_type}"),
        };
        fields.push((tag >> 3, value));
    }
    fields
}

fn text(fields: &[(u64, Value<'_>)], tag: u64) -> String {
    let found = fields.iter().find_map(|(at, value)| match value {
        Value::Bytes(bytes) if *at == tag => Some(bytes.to_vec()),
        _ => None,
    });
    String::from_utf8(found.expect("the field")).expect("UTF-8")
}

fn number(fields: &[(u64, Value<'_>)], tag: u64) -> u64 {
    let found = fields.iter().find_map(|(at, value)| match value {
        Value::Number(number) if *at == tag => Some(*number),
        _ => None,
    });
    found.expect("the field")
}
