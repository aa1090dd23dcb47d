//! The log on disk: LMDB, the bell, the id. The format is described in scuttleup-store(5).

mod bell;
mod datafile;
mod feed;
mod identity;
mod layout;
mod lmdb;
mod lockfile;
mod log;
mod once;
mod raw;
mod read;
mod write;

pub(crate) use bell::BellWatch;
pub use feed::Compared;
pub use log::{Info, Log};
pub use read::{Bounds, Reader};
pub use write::{Committed, Put, Writer};
