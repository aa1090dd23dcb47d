//! The parts of protocol buffers (proto2) that the wires need: fields with varints, 64-bit numbers and bytes.

use super::frame::{put_varint, read_varint};
use crate::model::{Error, PeerId, Result};

/// The value of one field.
pub enum Value<'a> {
    Number(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
    /// A value of a type that no known field has. It was skipped.
    Other,
}

/// Reads the fields of a message one after the other.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let (value, bytes) = read_varint(self.0)?.ok_or_else(truncated)?;
        self.0 = &self.0[bytes..];
        Ok(value)
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).map_err(|_| truncated())?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Number and value of the next field; `None` at the end of the message.
    pub fn next(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => {
                let bytes = self.bytes(8)?.try_into().map_err(|_| truncated())?;
                Value::Fixed(u64::from_le_bytes(bytes))
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Value::Other)?,
            wire_type => return Err(Error::Wire(format!("a field of the unknown wire type {wire_type}"))),
        };
        check_field_number(tag)?;
        Ok(Some((tag >> 3, value)))
    }
}

/// Gives each field of a message to `each`: its number and value.
pub fn each_field<'a>(body: &'a [u8], mut each: impl FnMut((u64, Value<'a>)) -> Result<()>) -> Result<()> {
    let mut fields = Fields(body);
    while let Some(field) = fields.next()? {
        each(field)?;
    }
    Ok(())
}

/// Checks the field number in a tag.
pub fn check_field_number(tag: u64) -> Result<()> {
    match tag >> 3 {
        1..0x2000_0000 => Ok(()),
        number => Err(Error::Wire(format!("a field with the invalid number {number}"))),
    }
}

pub fn truncated() -> Error {
    Error::Wire("a truncated message".into())
}

pub fn missing(field: &str) -> Error {
    Error::Wire(format!("a message without {field}"))
}

/// Adds to an error about a message that the remote sent it, and what the user can do.
pub fn sent_by_remote(err: Error) -> Error {
    match err {
        Error::Wire(why) => Error::Wire(format!(
            "the remote sent {why}; everything before it is stored: run it again, and check that both sides have the same version"
        )),
        err => err,
    }
}

/// The error for a valid message that the protocol does not allow at this point.
pub fn unexpected(what: impl Into<String>) -> Error {
    sent_by_remote(Error::Wire(what.into()))
}

/// Checks that `bytes` are a peer id.
///
/// # Errors
/// [`Error::Wire`] with the reason.
pub fn peer_str(bytes: &[u8]) -> Result<&str> {
    PeerId::check(bytes).map_err(|err| match err {
        Error::PeerId(why) => Error::Wire(format!("an invalid peer id ({why})")),
        err => err,
    })
}

/// Checks that a number fits in 32 bits.
pub fn number_u32(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::Wire(format!("the number {number}, which exceeds 4294967295")))
}

pub fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub fn put_number(out: &mut Vec<u8>, field: u8, number: u64) {
    out.push(field << 3);
    put_varint(out, number);
}

pub fn put_fixed(out: &mut Vec<u8>, field: u8, number: u64) {
    out.push(field << 3 | 1);
    out.extend_from_slice(&number.to_le_bytes());
}

/// Adds a message as a field. `write` adds its body.
pub fn put_message(out: &mut Vec<u8>, field: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    write(&mut body);
    put_bytes(out, field, &body);
}
