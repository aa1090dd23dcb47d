//! The progress and the notices of a running replication.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use scuttleup::{Notice, Step};

use crate::cli::report::diagnostics;
use crate::cli::report::progress::{Progress, Total};
use crate::cli::report::session;

/// Shows the progress until the session is over. In a live session, it shows the progress only until the session has caught up
/// for the first time.
pub struct Transfer<'s> {
    progress: Mutex<Option<Progress<'s>>>,
    /// The label of a process without COMMAND, otherwise empty.
    label: &'s str,
    is_live: bool,
    ahead: AtomicU64,
    moved: AtomicU64,
}

impl<'s> Transfer<'s> {
    pub fn new(progress: Progress<'s>, label: &'s str, is_live: bool) -> Self {
        Self { progress: Mutex::new(Some(progress)), label, is_live, ahead: AtomicU64::new(0), moved: AtomicU64::new(0) }
    }

    fn progress(&self) -> MutexGuard<'_, Option<Progress<'s>>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn step(&self, step: Step) {
        let mut shown = self.progress();
        let Some(progress) = &*shown else { return };
        match step {
            Step::Ahead(entries) => {
                let ahead = self.ahead.fetch_add(entries, Ordering::Relaxed) + entries;
                progress.set_total(Total::Entries(ahead));
                // This says that the work has begun, even if no entry has moved yet.
                progress.add(0, 0);
            }
            Step::Moved { entries, bytes } => {
                progress.add(entries, bytes);
                let moved = self.moved.fetch_add(entries, Ordering::Relaxed) + entries;
                if self.is_live && entries > 0 && moved >= self.ahead.load(Ordering::Relaxed) {
                    *shown = None;
                }
            }
        }
    }

    pub fn notice(&self, notice: Notice) {
        // A side that serves leaves the directions to its remote.
        if matches!(notice, Notice::OneWay(_)) && !self.label.is_empty() {
            return;
        }
        let text = session::notice(notice);
        match &*self.progress() {
            Some(progress) if self.label.is_empty() => progress.error(&text),
            _ => diagnostics::labelled_error(self.label, &text),
        }
    }
}
