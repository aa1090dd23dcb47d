//! Frames. A frame is a length as a varint, then a body of this length. Readers ignore empty frames.

use crate::model::{Error, Result};

/// The maximum length of a varint in bytes: 64 bits need ten.
const VARINT_BYTES_MAX: usize = 10;
/// The number of bytes that one read may return. The buffer grows with the bytes that arrive, not with the announced length of
/// a frame.
const READ_BYTES: usize = 256 << 10;

/// Moves the first of `bytes` to `space`, as many as fit. Returns their number.
pub fn move_part(bytes: &mut &[u8], space: &mut [u8]) -> usize {
    let (part, rest) = bytes.split_at(bytes.len().min(space.len()));
    space[..part.len()].copy_from_slice(part);
    *bytes = rest;
    part.len()
}

/// Adds a varint in its shortest form.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The number of bytes that [`put_varint`] adds.
pub fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Reads a varint at the start of `bytes`. Returns its value, and its length in bytes; `None` if it is incomplete. Accepts
/// forms that are longer than necessary.
pub fn read_varint(bytes: &[u8]) -> Result<Option<(u64, usize)>> {
    let mut value = 0u64;
    for (at, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let part = u64::from(byte & 0x7f);
        if at == VARINT_BYTES_MAX - 1 && part > 1 {
            return Err(Error::Wire("a varint of more than 64 bits".into()));
        }
        value |= part << (7 * at);
        if byte < 0x80 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= VARINT_BYTES_MAX { Err(Error::Wire("a varint of more than 10 bytes".into())) } else { Ok(None) }
}

/// Cuts a stream of bytes into frames.
pub struct FrameReader {
    buffer: Vec<u8>,
    /// The unread part of the buffer.
    start: usize,
    end: usize,
    frame_bytes_max: usize,
    /// The number of bytes that were consumed, and how many of them were empty frames.
    consumed: u64,
    empty: u64,
}

impl FrameReader {
    /// A reader that refuses frames of more than `frame_bytes_max` bytes.
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0, frame_bytes_max, consumed: 0, empty: 0 }
    }

    /// Sets the maximum length of the next frames, in bytes.
    pub fn set_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Room for the next bytes of the stream. After the read, call [`FrameReader::filled`] with the number of bytes.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // Free the memory of a very long frame.
            if self.buffer.len() > 16 * READ_BYTES {
                self.buffer = Vec::new();
            }
        } else if self.start > 0 && self.buffer.len() - self.end < READ_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() - self.end < READ_BYTES {
            // The buffer doubles up to a limit. A larger buffer grows cheaply: the kernel moves its pages.
            let bytes = self.end + self.end.clamp(READ_BYTES, 16 * READ_BYTES);
            self.buffer.reserve_exact(bytes.saturating_sub(self.buffer.len()));
            self.buffer.resize(bytes.max(self.buffer.len()), 0);
        }
        let end = self.end;
        &mut self.buffer[end..end + READ_BYTES]
    }

    /// The first `bytes` of [`FrameReader::space`] hold input now.
    pub fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.buffer.len());
    }

    /// Adds `bytes` of the stream.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = move_part(&mut bytes, self.space());
            self.filled(count);
        }
    }

    /// The next complete frame that is not empty.
    ///
    /// # Errors
    /// [`Error::Wire`] for an invalid length, [`Error::FrameTooLong`] for one above the limit.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>> {
        loop {
            let rest = &self.buffer[self.start..self.end];
            let Some((length, prefix)) = read_varint(rest)? else { return Ok(None) };
            if length == 0 {
                self.take(prefix);
                self.empty += prefix as u64;
                continue;
            }
            let length = usize::try_from(length).ok().filter(|&length| length <= self.frame_bytes_max);
            let length = length.ok_or(Error::FrameTooLong(self.frame_bytes_max))?;
            if rest.len() - prefix < length {
                return Ok(None);
            }
            let body = self.start + prefix;
            self.take(prefix + length);
            return Ok(Some(&self.buffer[body..body + length]));
        }
    }

    /// Reads the length of the next frame that is not empty, so that its body can be read in pieces with
    /// [`FrameReader::pending`] and [`FrameReader::take`].
    ///
    /// # Errors
    /// [`Error::Wire`] for an invalid length.
    pub fn open_frame(&mut self) -> Result<Option<u64>> {
        while let Some((length, prefix)) = read_varint(self.pending())? {
            self.take(prefix);
            if length > 0 {
                return Ok(Some(length));
            }
            self.empty += prefix as u64;
        }
        Ok(None)
    }

    /// Consumes `bytes` at the start of [`FrameReader::pending`].
    pub fn take(&mut self, bytes: usize) {
        let bytes = bytes.min(self.end - self.start);
        self.start += bytes;
        self.consumed += bytes as u64;
    }

    /// The number of bytes that were consumed so far.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// The number of bytes that were consumed so far, without empty frames.
    pub fn consumed_messages(&self) -> u64 {
        self.consumed - self.empty
    }

    /// The input that is not consumed yet.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints() {
        for (value, bytes) in
            [(0u64, &b"\0"[..]), (127, b"\x7f"), (128, b"\x80\x01"), (u64::MAX, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")]
        {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(varint_bytes(value), bytes.len());
            assert_eq!(read_varint(bytes).unwrap(), Some((value, bytes.len())));
        }
        assert_eq!(read_varint(b"\x81\x80\x80\x00").unwrap(), Some((1, 4)), "overlong");
        assert!(read_varint(&[0x80; 9]).unwrap().is_none());
        assert!(read_varint(&[0x80; 10]).is_err());
        assert!(read_varint(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02").is_err());
    }

    #[test]
    fn frames_in_any_chunking() {
        let big = vec![7u8; 700_000];
        let mut stream = b"\0\x02hi\x80\0\x01x".to_vec();
        put_varint(&mut stream, big.len() as u64);
        stream.extend_from_slice(&big);
        stream.push(0);
        for chunk in [1, 2, 3, 1000, 300_000, stream.len()] {
            let mut frames = FrameReader::new(1 << 20);
            let mut seen = Vec::new();
            for part in stream.chunks(chunk) {
                frames.push(part);
                while let Some(frame) = frames.next_frame().unwrap() {
                    seen.push(frame.to_vec());
                }
            }
            assert_eq!(seen, [b"hi".to_vec(), b"x".to_vec(), big.clone()]);
            assert!(frames.pending().is_empty());
        }
    }
}
