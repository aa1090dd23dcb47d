//! The wire: bytes ⇄ frames ⇄ messages ⇄ session. No files, clocks or threads; described in scuttleup-protocol(5).

mod frame;
mod message;
mod session;

pub use frame::FrameReader;
pub use message::{ChangeMessage, Handshake, Mode, put_change};
pub use session::{Incoming, Known, Remote};
