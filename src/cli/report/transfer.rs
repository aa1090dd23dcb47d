//! The progress and the notices of a running replication.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use scuttleup::{Notice, Step};

use crate::cli::io::signals::Stop;
use crate::cli::report::diagnostics::{self, Diagnostics};
use crate::cli::report::progress::{Progress, Total};
use crate::cli::report::session;

/// The shortest time between two notices that the session has caught up.
const CAUGHT_UP_MIN: Duration = Duration::from_secs(10);

/// Shows the progress of a session. In a live session, the line disappears when the session has caught up, and comes again with
/// the next long transfer.
pub struct Transfer<'s> {
    diagnostics: Diagnostics,
    stop: &'s Stop,
    state: Mutex<State<'s>>,
    /// The label of a process without COMMAND, otherwise empty.
    label: &'s str,
}

#[derive(Default)]
struct State<'s> {
    /// `None` while there is nothing to transfer.
    progress: Option<Progress<'s>>,
    ahead: u64,
    /// The time of the last notice that the session has caught up.
    caught_up: Option<Instant>,
}

impl<'s> Transfer<'s> {
    pub fn new(diagnostics: Diagnostics, stop: &'s Stop, label: &'s str) -> Self {
        Self { diagnostics, stop, state: Mutex::default(), label }
    }

    fn state(&self) -> MutexGuard<'_, State<'s>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress<'a>(&self, state: &'a mut State<'s>) -> &'a Progress<'s> {
        let new = || if self.label.is_empty() { Progress::new(self.diagnostics, self.stop) } else { Progress::off() };
        state.progress.get_or_insert_with(new)
    }

    pub fn step(&self, step: Step<'_>) {
        let mut state = self.state();
        match step {
            Step::Ahead(entries) => {
                state.ahead += entries;
                let ahead = state.ahead;
                let progress = self.progress(&mut state);
                progress.set_total(Total::Entries(ahead));
                // This says that the work has begun, even if no entry has moved yet.
                progress.add(0, 0);
            }
            Step::Moved { entries: 0, bytes: 0 } => {}
            Step::Moved { entries, bytes } => self.progress(&mut state).add(entries, bytes),
            Step::CaughtUp { peer, sends, receives, all, partial } => {
                let reached = match (sends, receives) {
                    (true, false) => format!("sent everything to {peer}"),
                    (false, true) => format!("received everything from {peer}"),
                    _ => format!("in sync with {peer}"),
                };
                let chosen = if partial { " in the chosen feeds" } else { "" };
                let limit = if all { "" } else { " except for stopped feeds" };
                self.caught_up(&mut state, &format!("{reached}{chosen}{limit}, waiting for new entries"));
            }
        }
    }

    /// Clears the line. Says that the session has caught up: the first time, and after a transfer whose progress was shown.
    fn caught_up(&self, state: &mut State<'s>, text: &str) {
        let was_shown = state.progress.take().is_some_and(|progress| progress.was_shown());
        let since = state.caught_up.map(|at| at.elapsed());
        if !self.label.is_empty() || !is_notice_due(since, was_shown) {
            return;
        }
        state.caught_up = Some(Instant::now());
        self.diagnostics.note(text);
    }

    /// Whether the session has caught up at least once.
    pub fn has_caught_up(&self) -> bool {
        self.state().caught_up.is_some()
    }

    pub fn notice(&self, notice: Notice) {
        // A side that serves leaves the directions to its remote.
        if matches!(notice, Notice::OneWay(_)) && !self.label.is_empty() {
            return;
        }
        let text = session::notice(notice);
        match &self.state().progress {
            Some(progress) if self.label.is_empty() => progress.error(&text),
            _ => diagnostics::labelled_error(self.label, &text),
        }
    }
}

/// Whether to say that the session has caught up. `since`: the time since this was last said in this session.
fn is_notice_due(since: Option<Duration>, was_shown: bool) -> bool {
    since.is_none_or(|since| was_shown && since >= CAUGHT_UP_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_says_that_it_has_caught_up_once_and_after_each_long_transfer_but_not_often() {
        let (soon, late) = (Some(CAUGHT_UP_MIN / 2), Some(CAUGHT_UP_MIN));
        for (since, was_shown, is_due) in
            [(None, false, true), (None, true, true), (soon, true, false), (late, false, false), (late, true, true)]
        {
            assert_eq!(is_notice_due(since, was_shown), is_due, "{since:?} {was_shown}");
        }
    }
}
