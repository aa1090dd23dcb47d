//! The log on the disk. The format is described in scuttleup-store(5).
//!
//! | file | content |
//! |---|---|
//! | `log` | a log as a whole: open, create, info |
//! | `reader`, `writer` | reading from snapshots; writing in durable commits |
//! | `feeds` | heads, chains and forks: the data by which two logs are compared |
//! | `find` | finds the entries of some feeds, or of a time, without a look at all others |
//! | `followed` | the positions in the files that `append --follow` reads |
//! | `keys` | the keys of the last entries, by which a repeated entry is found |
//! | `prune`, `cursors` | forgetting the oldest entries; positions of readers that a pruning does not pass |
//! | `records`, `rows` | entries and other rows as bytes |
//! | `notify` | notifications, by which a commit wakes live readers |
//! | `lmdb` | tables and transactions; no other module imports lmdb |
//! | `seal` | moves old entries into packs |
//! | `pack` | sealed entries in compressed files |
//! | `repair` | puts lost entries back, or copies what can be read of a damaged log |
//! | `clock` | the current time |
//! | `verify` | checks everything against everything |
//! | `files` | the directory and the files of a log |

mod clock;
mod cursors;
mod feeds;
mod files;
mod find;
mod followed;
mod keys;
mod lmdb;
mod log;
mod notify;
mod pack;
mod prune;
mod reader;
mod records;
pub mod repair;
mod rows;
mod seal;
mod verify;
mod writer;

pub use cursors::{Batch, CURSOR_BYTES_MAX, Consumer, Cursor, CursorState};
pub use feeds::Compared;
pub(crate) use files::place::birth_nanos;
pub use find::{Backwards, Finder};
pub use followed::{FOLLOWED_PATH_BYTES_MAX, FollowedFile};
pub use keys::{KEY_WINDOW_MAX, Key, Keys};
pub use lmdb::{Shrunk, shrink};
pub use log::{Info, Log};
pub use notify::InotifyLimit;
pub(crate) use notify::Watcher;
pub use prune::{Pruning, Retention};
pub use reader::{Bounds, Reader};
pub use seal::GoesOn;
pub use verify::{Damage, Finding, Part, Verified, verify};
pub use writer::{Committed, Writer};
