//! An append-only log that syncs over any pipe.
//!
//! A [`Log`] is a directory. It has a peer id, and holds its own feed and every feed that it has heard of, each a
//! gap-free sequence of entries 1, 2, 3 … Two logs that replicate end up with the same feeds.
//!
//! ```
//! use std::ops::ControlFlow;
//! use scuttleup::{Bounds, Entry, Log, Offset, Options, PeerId, replicate};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = std::env::temp_dir().join(format!("scuttleup-doc-{}", std::process::id()));
//! // Two logs; each appends to its own feed. An append that returned is on the disk.
//! let alice = Log::create(dir.join("alice"), Some(PeerId::new("alice")?))?;
//! let bob = Log::create(dir.join("bob"), Some(PeerId::new("bob")?))?;
//! alice.append(b"{\"msg\":\"hi\"}")?;
//! bob.append(b"plain text")?;
//!
//! // They replicate over a pair of sockets: any two descriptors do.
//! let (here, there) = std::os::unix::net::UnixStream::pair()?;
//! let once = Options { once: true, ..Options::default() };
//! std::thread::scope(|threads| {
//!     threads.spawn(|| replicate(&bob, there.try_clone()?, there, once, &|_| ()).map_err(std::io::Error::other));
//!     replicate(&alice, here.try_clone()?, here, once, &|_| ()).map_err(std::io::Error::other)
//! })?;
//! assert_eq!(alice.heads()?, bob.heads()?);
//! assert_eq!(alice.info()?.root, bob.info()?.root);
//!
//! // Read from a position on, in the order of arrival.
//! let mut texts = Vec::new();
//! alice.reader().scan(Offset::ZERO, Bounds::default(), |change| {
//!     if let Entry::Bytes(bytes, _) = change.entry {
//!         texts.push(bytes.to_vec());
//!     }
//!     Ok(ControlFlow::Continue(()))
//! })?;
//! assert_eq!(texts, [b"{\"msg\":\"hi\"}".to_vec(), b"plain text".to_vec()]);
//!
//! // Follow: scan what is there, wait, scan again.
//! let mut follower = alice.follow(alice.last_offset()?)?;
//! alice.append(b"3")?;
//! follower.wait(&[])?;
//! assert!(follower.scan(Bounds::default(), |_| Ok(ControlFlow::Continue(())))?);
//! # std::fs::remove_dir_all(dir)?;
//! # Ok(())
//! # }
//! ```
//!
//! The library touches neither terminal, home nor environment; it says what it has to say in [`Error`], [`Outcome`]
//! and [`Notice`]. `unsafe` is confined to one module, beside the one that calls LMDB.

mod entry;
mod error;
mod follow;
mod heads;
mod json;
pub mod ndjson;
pub mod proto;
mod replicate;
pub mod stage;
mod store;

pub use entry::{Chain, Change, ENTRY_BYTES_MAX, Entry, Kind, Offset, PEER_BYTES_MAX, PeerId, Seq, Tomb, check_json};
pub use error::{Error, Result};
pub use follow::Follower;
pub use heads::{FeedKey, Heads};
pub use json::{JSON_DEPTH_MAX, is_json};
pub use proto::{Mode, Wire};
pub use replicate::{GAP_ENTRIES_MAX, Notice, Options, Outcome, Step, replicate};
pub use store::{Bounds, Committed, Compared, Info, Log, Put, Reader, Writer};
