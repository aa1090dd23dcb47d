//! A fault in the memory map of the log ends the process with a message.
//!
//! LMDB follows the page numbers and offsets in the data file without checks. So a damaged page can lead to a read outside of
//! the file (SIGBUS) or outside of the map (SIGSEGV). A file that another program truncates has the same effect (SIGBUS). The
//! store raises SIGBUS if an assertion of LMDB fails.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use nix::libc::_exit;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::write;

use crate::cli::exit::Exit;

/// The line for stderr. It is made in advance, because a signal handler must not allocate memory.
static LINE: OnceLock<Vec<u8>> = OnceLock::new();

/// From now on, a memory fault prints `line` on stderr and ends the process with the code of [`Exit::Error`].
pub fn explain(line: Vec<u8>) {
    LINE.get_or_init(|| line);
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::SA_ONSTACK, SigSet::empty());
    for signal in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: `end` calls only functions that a signal handler may call (signal-safety(7)). If this fails, the signal still
        // ends the process, without a message.
        unsafe { sigaction(signal, &action) }.ok();
    }
}

extern "C" fn end(_: i32) {
    if let Some(line) = LINE.get() {
        write(std::io::stderr(), line).ok();
    }
    // SAFETY: _exit(2) can be called at any time. No other code of the process runs after it.
    unsafe { _exit(i32::from(Exit::Error.code())) }
}
