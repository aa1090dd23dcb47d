//! A fault in the memory map of the log, and an abort, end the process with a message.
//!
//! LMDB follows the page numbers and offsets in the data file without checks. So a damaged page can lead to a read outside of
//! the file (SIGBUS) or outside of the map (SIGSEGV), or to a division by zero (SIGFPE). A file that another program truncates has
//! the same effect (SIGBUS). The store raises SIGBUS if an assertion of LMDB fails. The standard library aborts the process
//! (SIGABRT) if no memory is left.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use nix::libc::_exit;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::write;

use crate::cli::exit::Exit;

/// The lines for stderr. They are made in advance, because a signal handler must not allocate memory.
static FAULT_LINE: OnceLock<Vec<u8>> = OnceLock::new();
static ABORT_LINE: OnceLock<Vec<u8>> = OnceLock::new();

/// From now on, a memory fault prints `line` on stderr and ends the process with the code of [`Exit::Error`].
pub fn explain(line: Vec<u8>) {
    FAULT_LINE.get_or_init(|| line);
    catch(&[Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE]);
}

/// From now on, an abort prints `line` on stderr and ends the process with the code of [`Exit::Error`].
pub fn explain_aborts(line: Vec<u8>) {
    ABORT_LINE.get_or_init(|| line);
    catch(&[Signal::SIGABRT]);
}

fn catch(signals: &[Signal]) {
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::SA_ONSTACK, SigSet::empty());
    for &signal in signals {
        // SAFETY: `end` calls only functions that a signal handler may call (signal-safety(7)). If this fails, the signal still
        // ends the process, without a message.
        unsafe { sigaction(signal, &action) }.ok();
    }
}

extern "C" fn end(signal: i32) {
    let line = if signal == Signal::SIGABRT as i32 { &ABORT_LINE } else { &FAULT_LINE };
    if let Some(line) = line.get() {
        write(std::io::stderr(), line).ok();
    }
    // SAFETY: _exit(2) can be called at any time. No other code of the process runs after it.
    unsafe { _exit(i32::from(Exit::Error.code())) }
}
