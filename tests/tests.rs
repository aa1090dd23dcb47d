//! The integration tests: all through the real binary, in one program. Each file is about one command or one theme.

mod append;
mod bytes;
mod crash;
mod crowd;
mod docs;
mod edges;
mod entry_del;
mod faults;
mod frames;
mod harness;
mod holes;
mod hostile;
mod interop;
mod live_push;
mod log;
mod model;
mod pipes;
mod protocol;
mod read;
mod replicate;
mod staleness;
mod stuck;
mod tidy;
mod watch;
mod wiring;
mod write;
