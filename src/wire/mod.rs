//! Both wire protocols as pure state machines: bytes in, events and bytes out. No files, no clocks, no threads.
//! The protocols are described in scuttleup-protocol(5).
//!
//! ```text
//! negotiate   finds out which wire the remote speaks
//! session     Incoming and Outgoing: one session over either wire; code outside of `wire` does not depend on the wire
//! original/   the wire of the npm package: Handshake, Change
//! native/     the wire between two scuttleup programs: HELLO, HEADS, FEED, RUN, ACK, FORK, SYNCED, ERROR, FIN, FLOOR, PULL, COMPARE
//! frame, protobuf   the encoding that both wires share
//! ```

mod frame;
mod heads;
pub mod native;
mod negotiate;
pub mod original;
mod protobuf;
mod session;

pub use frame::FrameReader;
pub use heads::RemoteHeads;
pub use native::{Difference, DifferenceKind};
pub use negotiate::{PREAMBLE, Wire};
pub use session::{
    Before, Chains, ClaimedFloor, Entries, Event, Incoming, LeftOut, Local, NamedHead, News, Outgoing, Payload, Question,
    Relation, Session, Stored, Task,
};

use crate::model::{self, Chain, Result, Tombstone};

/// The maximum number of feeds that the remote may name: a log does not hold more.
const FEEDS_MAX: usize = model::FEEDS_MAX as usize;

/// An entry of the local log in its feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its hash and length. Without meaning at the start of the feed (seq 0).
    pub entry: Tombstone,
    /// The chain of the feed after it.
    pub chain: Chain,
    /// The floor of the feed, 0 if there is none. At the floor only the chain is known.
    pub floor: u32,
}

/// Returns an entry of the local log; `None` if the log does not know the chain there: below the floor and above the head. Seq 0
/// is the start of the feed, which is always known.
pub type LinkOf<'a> = dyn FnMut(&str, u32) -> Result<Option<Link>> + 'a;

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
    /// Neither send nor receive: only compare the two logs. The remote sees a side that only sends, and announces no heads.
    Compare,
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
            Self::Push | Self::Compare => 2,
            Self::Pull => 3,
        }
    }

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Compare => "compare",
        }
    }

    /// Whether a side with this mode wants to send entries.
    pub fn sends(self) -> bool {
        matches!(self, Self::Sync | Self::Push)
    }

    /// Whether a side with this mode wants to receive entries.
    pub fn receives(self) -> bool {
        matches!(self, Self::Sync | Self::Pull)
    }

    /// Whether a side with this mode reveals nothing that its remote does not know: it waits for the HELLO and the heads of the
    /// remote, and answers them.
    fn is_private(self) -> bool {
        self == Self::Pull
    }

    /// Whether a side with this mode sends its HELLO after the first message of the remote.
    fn waits_for_remote(self) -> bool {
        matches!(self, Self::Pull | Self::Compare)
    }

    /// Whether a side with this mode sends entries to a side with mode `other`.
    pub fn sends_to(self, other: Self) -> bool {
        self.sends() && other.receives()
    }
}
