//! An append-only log that syncs over any pipe.
//!
//! A [`Log`] is a directory. It has a peer id. It holds its local feed and the feeds of other peers. A feed is a sequence of
//! entries 1, 2, 3 … without gaps. After two logs have replicated, both hold the same feeds.
//!
//! ```
//! use std::ops::ControlFlow;
//! use scuttleup::{Bounds, Entry, Log, Offset, Options, PeerId, replicate};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = std::env::temp_dir().join(format!("scuttleup-doc-{}", std::process::id()));
//! // Two logs. Each appends to its local feed. When an append returns, the entry is on the disk.
//! let alice = Log::create(dir.join("alice"), Some(PeerId::new("alice")?))?;
//! let bob = Log::create(dir.join("bob"), Some(PeerId::new("bob")?))?;
//! alice.append(b"{\"msg\":\"hi\"}")?;
//! bob.append(b"plain text")?;
//!
//! // They replicate over a pair of sockets. Any two descriptors can be used.
//! let (alice_end, bob_end) = std::os::unix::net::UnixStream::pair()?;
//! let once = Options { once: true, ..Options::default() };
//! std::thread::scope(|threads| {
//!     threads.spawn(|| replicate(&bob, bob_end.try_clone()?, bob_end, once, &|_| ()).map_err(std::io::Error::other));
//!     replicate(&alice, alice_end.try_clone()?, alice_end, once, &|_| ()).map_err(std::io::Error::other)
//! })?;
//! assert_eq!(alice.heads()?, bob.heads()?);
//! assert_eq!(alice.info()?.root, bob.info()?.root);
//!
//! // Read in the order of arrival, from the start.
//! let mut texts = Vec::new();
//! alice.reader().scan(Offset::ZERO, Bounds::default(), |change| {
//!     if let Entry::Bytes(bytes, _) = change.entry.entry() {
//!         texts.push(bytes.to_vec());
//!     }
//!     Ok(ControlFlow::Continue(()))
//! })?;
//! assert_eq!(texts, [b"{\"msg\":\"hi\"}".to_vec(), b"plain text".to_vec()]);
//!
//! // Follow: scan the existing entries, wait, scan again.
//! let mut follower = alice.follow(alice.last_offset()?)?;
//! alice.append(b"3")?;
//! follower.wait(&[])?;
//! assert!(follower.scan(Bounds::default(), |_| Ok(ControlFlow::Continue(())))?);
//! # std::fs::remove_dir_all(dir)?;
//! # Ok(())
//! # }
//! ```
//!
//! The library does not use the terminal, the home directory or the environment. It reports through [`Error`], [`Outcome`]
//! and [`Notice`]. Only these modules contain `unsafe` code: the calls of LMDB, a prefetch instruction, the map of a pack, and the
//! lease that shows whether a process writes to a followed file.

mod follow;
pub mod ingest;
mod json;
mod model;
pub mod ndjson;
mod replicate;
mod store;
pub mod wire;

pub use follow::Follower;
pub use json::{JSON_DEPTH_MAX, Pointer, canonical, check_json, is_json};
pub use model::*;
pub use replicate::{Common, Comparison, Ending, FeedDifference, Notice, Options, Outcome, Reached, Step, compare, replicate};
pub use store::{
    Backwards, Batch, Bounds, CURSOR_BYTES_MAX, Committed, Compared, Consumer, Cursor, CursorState, Damage, Finder, Finding,
    GoesOn, Info, InotifyLimit, KEY_WINDOW_MAX, Key, Keys, Log, Part, Pruning, Reader, Retention, Shrunk, Verified, Writer,
    repair, shrink, verify,
};
pub use wire::{Mode, Wire};
