//! How far a replication is, and what it has to say meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use scuttleup::{Notice, Step};

use super::message;
use super::outcome;
use super::progress::{Progress, Total};

/// Shown until the session is over, or, in a live one, until it has caught up for the first time.
pub struct Transfer<'s> {
    progress: Mutex<Option<Progress<'s>>>,
    is_live: bool,
    ahead: AtomicU64,
    moved: AtomicU64,
}

impl<'s> Transfer<'s> {
    pub fn new(progress: Progress<'s>, is_live: bool) -> Self {
        Self { progress: Mutex::new(Some(progress)), is_live, ahead: AtomicU64::new(0), moved: AtomicU64::new(0) }
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
                // The work has begun, even if nothing has moved yet.
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

    pub fn tell(&self, notice: Notice) {
        let text = outcome::text(notice);
        match &*self.progress() {
            Some(progress) => progress.error(&text),
            None => message::error(&text),
        }
    }
}
