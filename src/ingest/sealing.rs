//! Seals old entries, and applies the stored retention, in a background thread while a command stores new ones, so that no acknowledgement waits for it.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::{Error, Result};
use crate::store::Log;

/// Sealing begins when data.mdb holds more than this many bytes of entries, in a command that stores many entries.
const START_BYTES: u64 = 160 << 20;
/// A command stores many entries when it has stored this many bytes.
const MANY_BYTES: u64 = 16 << 20;
/// Sealing begins in any command when data.mdb holds more than this many bytes of entries, and the command does not end before
/// there are less.
const LATE_BYTES: u64 = 200 << 20;
/// Sealing ends when data.mdb holds at most this many bytes of entries.
const KEPT_BYTES: u64 = 96 << 20;
/// No new batch is stored while data.mdb holds more than this many bytes of entries, and they can be sealed.
const UNSEALED_BYTES_MAX: u64 = 232 << 20;
/// Pruning begins when the log holds more than the stored retention keeps, by one part in this many.
const PRUNED_PARTS: u64 = 8;
/// The time after which a wait for a sealing process looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Starts a thread that ends before `'s` ends.
type Spawn<'s> = Box<dyn Fn(Box<dyn FnOnce() + Send + 's>) -> io::Result<()> + Send + 's>;

/// The background thread of one command. It is started when it is needed. When this value is dropped, the thread abandons its
/// pack and ends, unless it is late.
pub struct Sealing<'s> {
    log: &'s Log,
    spawn: Spawn<'s>,
    /// The bytes that the command has stored.
    stored_bytes: u64,
    shared: Arc<Shared>,
}

/// The state that both threads use.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_running: bool,
    must_end: bool,
    /// The last run has found another process that seals.
    is_elsewhere: bool,
    /// The last run has found nothing that it could seal: the newest entry stays in data.mdb, whatever its length.
    is_exhausted: bool,
    failed: Option<Error>,
    /// A run has failed. There is no other one.
    has_failed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of the background thread, for its command.
#[derive(Clone)]
pub struct Failure(Arc<Shared>);

impl Failure {
    /// The error, once. The entries that could not be sealed are in the log nevertheless.
    pub fn take(&self) -> Option<Error> {
        self.0.state().failed.take()
    }
}

impl<'s> Sealing<'s> {
    /// For `log`. `spawn` starts a thread.
    pub fn new(log: &'s Log, spawn: impl Fn(Box<dyn FnOnce() + Send + 's>) -> io::Result<()> + Send + 's) -> Self {
        Self { log, spawn: Box::new(spawn), stored_bytes: 0, shared: Arc::default() }
    }

    /// The place for the error of the thread.
    pub fn failure(&self) -> Failure {
        Failure(Arc::clone(&self.shared))
    }

    /// Starts the thread if there is enough to seal and it does not run. Call this after a commit of entries of `bytes` in total.
    /// It does not wait.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn start_if_needed(&mut self, bytes: u64) -> Result<()> {
        self.stored_bytes += bytes;
        let start_bytes = if self.stored_bytes >= MANY_BYTES { START_BYTES } else { LATE_BYTES };
        if self.shared.state().is_running || !self.log.needs_sealing(start_bytes)? && !self.log.needs_pruning(PRUNED_PARTS)? {
            return Ok(());
        }
        let mut state = self.shared.state();
        if state.has_failed || state.must_end {
            return Ok(());
        }
        let (log, shared) = (self.log, Arc::clone(&self.shared));
        let run = move || {
            let goes_on = |_, _| !shared.state().must_end || log.needs_sealing(LATE_BYTES).unwrap_or(false);
            // Pruning comes first: pruned entries need not be sealed. It is short, and a command that stores few entries would never do it otherwise.
            let sealed = log.apply_retention(&|_, _| true).and_then(|_| match log.needs_sealing(START_BYTES)? {
                true => log.seal(KEPT_BYTES, &goes_on),
                false => Ok(Some(0)),
            });
            let mut state = shared.state();
            state.is_running = false;
            match sealed {
                Ok(sealed) => (state.is_elsewhere, state.is_exhausted) = (sealed.is_none(), sealed == Some(0)),
                Err(err) => (state.failed, state.has_failed) = (Some(err), true),
            }
            shared.changed.notify_all();
        };
        // If no thread can be started now, a later commit tries again.
        state.is_running = (self.spawn)(Box::new(run)).is_ok();
        Ok(())
    }

    /// Waits while data.mdb holds too many entries and they are being sealed, or the log much more than the stored retention keeps. Call this before a commit.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn wait_for_room(&mut self) -> Result<()> {
        if self.log.needs_pruning(PRUNED_PARTS / 2)? {
            self.start_if_needed(0)?;
            let mut state = self.shared.state();
            while state.is_running {
                state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.shared.state().is_exhausted = false;
        while self.log.needs_sealing(UNSEALED_BYTES_MAX)? {
            if self.shared.state().is_exhausted {
                break;
            }
            self.start_if_needed(0)?;
            let state = self.shared.state();
            if !state.is_running && !state.is_elsewhere {
                break;
            }
            let (state, _) = self.shared.changed.wait_timeout(state, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner);
            drop(state);
        }
        Ok(())
    }
}

impl Drop for Sealing<'_> {
    fn drop(&mut self) {
        self.shared.state().must_end = true;
    }
}
