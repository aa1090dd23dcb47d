//! The values that every other module uses: peers, sequence numbers, entries, chains, heads and errors. No I/O.

mod chain;
mod entry;
mod error;
mod filter;
mod glob;
mod heads;
mod peer;
mod printable;
mod seq;

pub use chain::Chain;
pub use entry::{Change, ENTRY_BYTES_MAX, Entry, EntryBuffer, HashedEntry, Kind, Tombstone};
pub(crate) use error::is_full;
pub use error::{Error, RemoteText, Result};
pub use filter::EntryFilter;
pub use glob::{GLOBS_MAX, PeerChoice, PeerGlobs};
pub use heads::{FEEDS_MAX, FeedKey, FeedMap, Heads};
pub use peer::{PEER_BYTES_MAX, PeerId};
pub use printable::{Printable, is_invisible};
pub use seq::{Offset, Seq};
