//! A second implementation of the original wire, written from its description only, and a session in which the test is the
//! remote.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::harness::{Ended, Run, Running};
use crate::native_frames::forget_nonce;

pub const SYNC: u64 = 1;
pub const PUSH: u64 = 2;
pub const PULL: u64 = 3;

/// A decoded frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    Handshake { id: String, heads: Vec<(String, u64)>, mode: u64 },
    Change { peer: String, seq: u64, entry: Vec<u8> },
}

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A field with bytes.
pub fn bytes_field(number: u64, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&varint(number << 3 | 2)[..], &varint(bytes.as_ref().len() as u64), bytes.as_ref()].concat()
}

/// A field with a number.
pub fn number_field(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

/// A body, preceded by its length.
pub fn frame(body: impl AsRef<[u8]>) -> Vec<u8> {
    [&varint(body.as_ref().len() as u64)[..], body.as_ref()].concat()
}

pub fn digest(peer: impl AsRef<[u8]>, seq: u64) -> Vec<u8> {
    bytes_field(2, [bytes_field(1, peer), number_field(2, seq)].concat())
}

pub fn handshake(id: &str, heads: &[(&str, u64)], mode: u64) -> Vec<u8> {
    let digests = heads.iter().flat_map(|(peer, seq)| digest(peer, *seq)).collect();
    frame([bytes_field(1, id), digests, number_field(3, mode)].concat())
}

pub fn change(peer: impl AsRef<[u8]>, seq: u64, entry: impl AsRef<[u8]>) -> Vec<u8> {
    frame([bytes_field(1, peer), number_field(2, seq), bytes_field(3, entry)].concat())
}

/// Takes a varint from the front; `None` when it is incomplete.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let (varint, rest) = bytes.split_at(length);
    *bytes = rest;
    Some(varint.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)))
}

/// Takes `length` bytes from the front; `None` when there are fewer.
pub fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// The fields of a message: field number, value or length, bytes.
fn fields(mut body: &[u8]) -> Vec<(u64, u64, &[u8])> {
    let mut fields = Vec::new();
    while !body.is_empty() {
        let tag = take_varint(&mut body).expect("a tag");
        let number = take_varint(&mut body).expect("a number or a length");
        let bytes = if tag & 7 == 2 { take(&mut body, number).expect("the bytes of a field") } else { &[] };
        assert!(matches!(tag & 7, 0 | 2), "wire type of tag {tag}");
        fields.push((tag >> 3, number, bytes));
    }
    fields
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

impl Frame {
    pub fn change(peer: &str, seq: u64, entry: impl AsRef<[u8]>) -> Self {
        Self::Change { peer: peer.into(), seq, entry: entry.as_ref().to_vec() }
    }

    pub fn handshake(id: &str, heads: &[(&str, u64)], mode: u64) -> Self {
        Self::Handshake { id: id.into(), heads: heads.iter().map(|(peer, seq)| ((*peer).into(), *seq)).collect(), mode }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Handshake { id, heads, mode } => {
                handshake(id, &heads.iter().map(|(peer, seq)| (&**peer, *seq)).collect::<Vec<_>>(), *mode)
            }
            Self::Change { peer, seq, entry } => change(peer, *seq, entry),
        }
    }

    fn decode(body: &[u8], first: bool) -> Self {
        let fields = fields(body);
        let bytes = |number| fields.iter().find(|field| field.0 == number).expect("a required field").2;
        let value = |number| fields.iter().find(|field| field.0 == number).expect("a required field").1;
        if !first {
            return Self::Change { peer: text(bytes(1)), seq: value(2), entry: bytes(3).to_vec() };
        }
        let heads = fields.iter().filter(|field| field.0 == 2).map(|field| match self::fields(field.2)[..] {
            [(1, _, peer), (2, seq, _)] => (text(peer), seq),
            ref other => panic!("a digest of {other:?}"),
        });
        Self::Handshake { id: text(bytes(1)), heads: heads.collect(), mode: value(3) }
    }
}

/// The offer of the native wire. On the original wire it is three empty frames.
pub const PREAMBLE: &[u8] = b"\x80\x80\x80\0\x80\x80\0\0";

/// Takes the next complete frame from the front of a stream; its encoding must be canonical.
fn take_frame(stream: &mut &[u8], first: bool) -> Option<Frame> {
    if first && let Some(rest) = stream.strip_prefix(PREAMBLE) {
        *stream = rest;
    }
    let mut rest = *stream;
    if first && PREAMBLE.starts_with(rest) {
        return None;
    }
    let length = take_varint(&mut rest)?;
    let body = take(&mut rest, length)?;
    let frame = Frame::decode(body, first);
    assert!(stream.starts_with(&frame.encode()), "the encoding of {frame:?} is not canonical");
    *stream = rest;
    Some(frame)
}

/// Decodes a complete stream; no bytes may remain.
pub fn decode(mut stream: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(frame) = take_frame(&mut stream, frames.is_empty()) {
        frames.push(frame);
    }
    assert!(stream.is_empty(), "{} bytes remain", stream.len());
    frames
}

/// A session of `replicate` in which the test is the remote. Its output is read only when the test asks for it.
pub struct Session {
    run: Running,
    output: Option<File>,
    input: File,
    buffer: Vec<u8>,
    greeted: bool,
}

impl Session {
    pub fn open(log: &Path, args: &[&str]) -> Self {
        let ((theirs_in, input), (output, theirs_out)) = (std::io::pipe().expect("a pipe"), std::io::pipe().expect("a pipe"));
        let run = Run::new(log).args(["replicate"]).args(args).spawn_on(theirs_in.into(), theirs_out.into());
        let (input, output) = (File::from(OwnedFd::from(input)), Some(File::from(OwnedFd::from(output))));
        Self { run, output, input, buffer: Vec::new(), greeted: false }
    }

    pub fn run(&self) -> &Running {
        &self.run
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.input.write_all(bytes.as_ref()).expect("the process reads its stdin");
    }

    /// As [`Session::send`], but the process may end before it has read everything.
    pub fn send_some(&mut self, bytes: impl AsRef<[u8]>) {
        self.input.write_all(bytes.as_ref()).ok();
    }

    /// Waits for the next frame; `None` at the end of the stream.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            let mut stream = &self.buffer[..];
            if let Some(frame) = take_frame(&mut stream, !self.greeted) {
                self.greeted = true;
                let taken = self.buffer.len() - stream.len();
                self.buffer.drain(..taken);
                return Some(frame);
            }
            if !self.read() {
                assert!(self.buffer.is_empty(), "the stream ends inside a frame");
                return None;
            }
        }
    }

    /// Waits for more of its output; false at the end of the stream.
    fn read(&mut self) -> bool {
        let output = self.output.as_mut().expect("not dropped yet");
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(Duration::from_secs(60)).expect("a short time");
        assert_ne!(poll(&mut fds, timeout), Ok(0), "no output");
        let mut part = [0; 1 << 16];
        let count = output.read(&mut part).expect("a pipe can be read");
        self.buffer.extend_from_slice(&part[..count]);
        count > 0
    }

    /// Waits for the next `count` bytes, with the nonce of a HELLO set to 0; fewer at the end of the stream.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && self.read() {}
        let count = count.min(self.buffer.len());
        let mut bytes = self.buffer.drain(..count).collect::<Vec<_>>();
        forget_nonce(&mut bytes);
        bytes
    }

    /// Waits for the next byte that is no heartbeat, and drops the heartbeats before it. A slow machine makes heartbeats.
    pub fn skip_heartbeats(&mut self) {
        while self.buffer.first().is_none_or(|&byte| byte == 0) {
            if !self.buffer.is_empty() {
                self.buffer.remove(0);
            } else if !self.read() {
                return;
            }
        }
    }

    /// All frames until the end of the stream.
    pub fn frames(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.frame()).collect()
    }

    /// Closes the output of the process.
    pub fn drop_output(&mut self) {
        self.output = None;
    }

    /// Closes the input of the process, reads its remaining frames, and waits for its end.
    pub fn close(self) -> (Vec<Frame>, Ended) {
        let greeted = self.greeted;
        let (rest, ended) = self.end();
        let (mut stream, mut frames) = (&rest[..], Vec::new());
        while let Some(frame) = take_frame(&mut stream, !greeted && frames.is_empty()) {
            frames.push(frame);
        }
        (frames, ended)
    }

    /// As [`Session::close`], but returns the remaining output as bytes.
    pub fn end(self) -> (Vec<u8>, Ended) {
        let Self { mut run, output, input, buffer: mut rest, .. } = self;
        drop(input);
        if let Some(mut output) = output {
            output.read_to_end(&mut rest).expect("a pipe can be read");
        }
        (rest, run.wait())
    }

    /// Waits for the end of the process with its input still open.
    pub fn wait(mut self) -> Ended {
        let ended = self.run.wait();
        drop(self.input);
        ended
    }
}
