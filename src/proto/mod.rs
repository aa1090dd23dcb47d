//! The wire: bytes ⇄ frames ⇄ messages ⇄ session. No files, clocks or threads; described in scuttleup-protocol(5).

mod frame;
mod handshake;
mod message;
mod session;

pub use frame::FrameReader;
pub use handshake::{Handshake, HandshakeReader};
pub use message::{ChangeMessage, Mode, decode_digest, put_change, put_digest, put_handshake};
pub use session::{Incoming, Known, Remote};
