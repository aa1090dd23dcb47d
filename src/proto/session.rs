//! A session on the original's wire: the two halves as state machines, bytes in and events out.

use std::collections::HashMap;

use super::frame::FrameReader;
use super::message::{ChangeMessage, Handshake, Mode};
use crate::entry::{PEER_BYTES_MAX, PeerId, Seq};
use crate::error::{Error, Result};
use crate::heads::Heads;

/// The longest handshake, in bytes: 1,000,000 feeds with ids of 50 bytes fit.
const HANDSHAKE_BYTES_MAX: usize = 64 << 20;
/// Tags, lengths and seq around the two strings of a change.
const CHANGE_EXTRA_BYTES_MAX: usize = 64;
/// How much of what was no handshake is quoted.
const QUOTE_BYTES_MAX: usize = 128;

/// What has come in.
#[derive(PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// The first frame.
    Handshake(Handshake),
    /// Any later frame.
    Change(ChangeMessage<'a>),
}

/// The receiving half.
pub struct Incoming {
    frames: FrameReader,
    mode: Mode,
    entry_bytes_max: usize,
    greeted: bool,
    /// The first bytes of the stream, until the handshake is read.
    opening: Vec<u8>,
}

impl Incoming {
    /// For a side whose own mode is `mode`.
    pub fn new(mode: Mode, entry_bytes_max: usize) -> Self {
        Self { frames: FrameReader::new(HANDSHAKE_BYTES_MAX), mode, entry_bytes_max, greeted: false, opening: Vec::new() }
    }

    /// A place for the next bytes; tell how many came with [`Incoming::filled`].
    pub fn space(&mut self) -> &mut [u8] {
        self.frames.space()
    }

    /// The first `bytes` of the space are in place.
    pub fn filled(&mut self, bytes: usize) {
        self.frames.filled(bytes);
        if !self.greeted && self.opening.len() < QUOTE_BYTES_MAX {
            let pending = self.frames.pending();
            let new = &pending[pending.len().saturating_sub(bytes)..];
            self.opening.extend_from_slice(&new[..new.len().min(QUOTE_BYTES_MAX - self.opening.len())]);
        }
    }

    /// Whether the handshake has come.
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// The next event, if it is all there.
    ///
    /// # Errors
    /// [`Error::Wire`] when the bytes are no session; [`Error::Refused`] when they are, but not in our mode.
    pub fn event(&mut self) -> Result<Option<Event<'_>>> {
        if self.greeted {
            let Some(frame) = self.frames.next_frame()? else { return Ok(None) };
            let change = ChangeMessage::decode(frame)?;
            if self.mode == Mode::Push {
                return Err(Error::Refused(
                    "the other side sent an entry, but this side only pushes: use --mode sync or pull".into(),
                ));
            }
            return Ok(Some(Event::Change(change)));
        }
        let handshake = match self.frames.next_frame() {
            Ok(None) => return Ok(None),
            Ok(Some(frame)) => Handshake::decode(frame),
            Err(err) => Err(err),
        };
        let handshake = handshake.map_err(|err| no_handshake(&self.opening, &err))?;
        self.greeted = true;
        self.opening = Vec::new();
        self.frames.set_bound(self.entry_bytes_max + PEER_BYTES_MAX + CHANGE_EXTRA_BYTES_MAX);
        Ok(Some(Event::Handshake(handshake)))
    }

    /// What the end of the stream means here: `None` when it lies between two frames, else what is wrong.
    pub fn cut(&self) -> Option<Error> {
        match (self.greeted, self.frames.pending().is_empty()) {
            (_, true) => None,
            (true, false) => Some(Error::Wire("the stream was cut inside an entry".into())),
            (false, false) => Some(no_handshake(&self.opening, &Error::Wire("the stream was cut inside it".into()))),
        }
    }
}

/// The first bytes were no handshake: say what they were, if they are text.
fn no_handshake(opening: &[u8], err: &Error) -> Error {
    let line = opening.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let printable = line.iter().filter(|&&byte| (b' '..=b'~').contains(&byte)).count();
    if line.len() >= 4 && printable * 10 >= line.len() * 9 {
        Error::Wire(format!(
            "this is no replication: the other side said: {}",
            String::from_utf8_lossy(line).trim().escape_debug()
        ))
    } else {
        Error::Wire(format!("this is no replication: the first frame is no handshake ({err})"))
    }
}

/// What the other side is known to hold, because it said so, sent it or was sent it.
#[derive(Default)]
pub struct Remote(HashMap<PeerId, u32>);

impl Remote {
    /// From its handshake. Of a feed that is named twice the last counts, as in the original.
    pub fn new(heads: &[(PeerId, u32)]) -> Self {
        Self(heads.iter().cloned().collect())
    }

    /// Whether it is not known to hold this.
    pub fn lacks(&self, peer: &PeerId, seq: Seq) -> bool {
        self.0.get(peer).is_none_or(|&head| head < seq.get())
    }

    /// It now holds this and all before.
    pub fn holds(&mut self, peer: &PeerId, seq: Seq) {
        match self.0.get_mut(peer) {
            Some(head) => *head = seq.get().max(*head),
            None => {
                self.0.insert(peer.clone(), seq.get());
            }
        }
    }

    /// Its heads.
    pub fn heads(&self) -> Heads {
        self.0.iter().map(|(peer, &seq)| (peer.clone(), seq)).collect()
    }
}
