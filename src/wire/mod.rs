//! Both wire protocols as pure state machines: bytes in, events and bytes out. No files, no clocks, no threads.
//! The protocols are described in scuttleup-protocol(5).
//!
//! ```text
//! negotiate   finds out which wire the remote speaks
//! session     Incoming and Outgoing: one session over either wire; code outside of `wire` does not depend on the wire
//! original/   the wire of the npm package: Handshake, Change
//! native/     the wire between two scuttleup programs: HELLO, HEADS, FEED, RUN, ACK, FORK, SYNCED, ERROR, FIN
//! frame, protobuf   the encoding that both wires share
//! ```

mod frame;
pub mod native;
mod negotiate;
pub mod original;
mod protobuf;
mod session;

pub use frame::FrameReader;
pub use native::Difference;
pub use negotiate::{PREAMBLE, Wire};
pub use session::{Entries, Event, Incoming, LeftOut, Local, News, Outgoing, Payload, RemoteHead, Session, Stored, Task};

use crate::model::{Chain, Result};

/// The maximum number of feeds that the remote may name.
const FEEDS_MAX: usize = 1 << 21;

/// Returns the local chain of a feed after an entry; `None` if the log does not hold the entry. Seq 0 is the start of the feed.
pub type ChainOf<'a> = dyn FnMut(&str, u32) -> Result<Option<Chain>> + 'a;

/// The directions in which a side allows entries to move.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mode {
    /// Both directions.
    #[default]
    Sync,
    /// Only send.
    Push,
    /// Only receive.
    Pull,
}

impl Mode {
    /// The mode with this number on the wire. An unknown number means sync.
    pub fn of(number: u64) -> Self {
        match number {
            2 => Self::Push,
            3 => Self::Pull,
            _ => Self::Sync,
        }
    }

    /// Its number on the wire.
    fn number(self) -> u64 {
        match self {
            Self::Sync => 1,
            Self::Push => 2,
            Self::Pull => 3,
        }
    }

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Push => "push",
            Self::Pull => "pull",
        }
    }

    /// Whether a side with this mode wants to send entries.
    pub fn sends(self) -> bool {
        self != Self::Pull
    }

    /// Whether a side with this mode wants to receive entries.
    pub fn receives(self) -> bool {
        self != Self::Push
    }

    /// Whether a side with this mode sends entries to a side with mode `other`.
    pub fn sends_to(self, other: Self) -> bool {
        self.sends() && other.receives()
    }
}
