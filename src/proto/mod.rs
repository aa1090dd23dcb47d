//! The wire: bytes ⇄ frames ⇄ messages ⇄ session. No files, clocks or threads; described in scuttleup-protocol(5).

mod fork;
mod frame;
mod handles;
mod handshake;
mod link;
mod message;
mod native;
mod put;
mod sending;
mod session;

pub use fork::{ChainOf, Difference, damaged};
pub use frame::FrameReader;
pub use handshake::{Handshake, HandshakeReader};
pub use link::{Link, Received};
pub use message::{ChangeMessage, Mode, decode_digest, put_change, put_digest, put_handshake};
pub use native::{Head, Hello, Message, PREAMBLE, Run};
pub use session::{Incoming, Known, Remote, Wire};

/// The most feeds that the other side may name.
const FEEDS_MAX: usize = 1 << 21;
