//! `--retry`: decides whether COMMAND is run again, and after which pause.

use std::time::Duration;

use scuttleup::{Ending, Outcome};

use crate::cli::child::Failed;
use crate::cli::exit::Exit;
use crate::cli::report::diagnostics::counted;

/// After this many tries without a session, the first one included, another try is not likely to help: about a quarter of an hour
/// if COMMAND fails at once. A host that has just started may need some minutes for its network.
const TRIES_MAX: u32 = 20;
/// The number of sessions in a row that the remote may end for the same reason before anything moved.
const REFUSALS_MAX: u32 = 4;
const PAUSE_SECONDS_MAX: u64 = 60;

/// The step after a session.
#[derive(PartialEq, Eq, Debug)]
pub enum Next {
    /// The session is final: it is complete, or another session would end in the same way.
    Stop,
    /// Another session could help, but too many tries did not. Says why.
    GiveUp(String),
    /// Run COMMAND again after this pause.
    Pause(Duration),
}

/// The pauses between tries: 1 second, then twice as long as the last one, up to 60 seconds.
#[derive(Default)]
pub struct Pauses {
    /// The last pause.
    seconds: u64,
}

impl Pauses {
    /// The pause after a try that lasted for this time. After a long one, the pauses begin anew.
    pub fn next(&mut self, lasted: Duration) -> Duration {
        self.seconds = if is_long(lasted) { 1 } else { (self.seconds * 2).clamp(1, PAUSE_SECONDS_MAX) };
        Duration::from_secs(self.seconds)
    }
}

fn is_long(lasted: Duration) -> bool {
    lasted.as_secs() >= PAUSE_SECONDS_MAX
}

/// The text that announces another try after this pause.
pub fn trying_again(pause: Duration) -> String {
    format!("trying again in {}", counted(pause.as_secs(), "second", "seconds"))
}

/// The tries so far.
#[derive(Default)]
pub struct Retries {
    pauses: Pauses,
    /// The remote has sent its id in one of the sessions. From then on, a COMMAND that fails has lost its network.
    has_met: bool,
    /// The number of tries without a session.
    tries: u32,
    /// The reason for which the remote ended the last session, and the number of such sessions in a row.
    refusal: Option<String>,
    refusals: u32,
}

impl Retries {
    /// Decides the step after this session, which lasted for this time.
    pub fn next(&mut self, outcome: &Outcome, failed: Option<&Failed>, exit: Exit, once: bool, lasted: Duration) -> Next {
        let is_worth_a_retry = match exit {
            // Both sides ended in order: another session at once would stop at the same entries. A live session can still
            // receive new entries.
            Exit::Incomplete => !once || outcome.ending != Ending::Incomplete,
            // Another session does not resolve a fork, but it can move the other feeds.
            Exit::Fork => outcome.ended_early(),
            // The limits of the remote are for one session: if this one moved entries, the next one can move more.
            Exit::Refused => matches!(outcome.ending, Ending::RemoteRefused(_)) && outcome.durable > Some(0),
            _ => false,
        };
        if !is_worth_a_retry {
            return Next::Stop;
        }
        self.count_refusal(outcome, failed, is_long(lasted));
        if self.refusals == REFUSALS_MAX {
            return Next::GiveUp(format!(
                "gave up: the remote ended {REFUSALS_MAX} sessions for the same reason, and nothing moved"
            ));
        }
        self.has_met |= outcome.peer.is_some();
        if !self.has_met {
            self.tries += 1;
        }
        if self.tries == TRIES_MAX {
            return Next::GiveUp(format!("gave up: {TRIES_MAX} tries without a session: check COMMAND, and see its messages"));
        }
        Next::Pause(self.pauses.next(lasted))
    }

    /// Whether the remote refused to continue the last session.
    pub fn was_refused(&self) -> bool {
        self.refusals > 0
    }

    fn count_refusal(&mut self, outcome: &Outcome, failed: Option<&Failed>, has_lasted: bool) {
        let has_moved = outcome.received > 0 || outcome.durable.is_some_and(|durable| durable > 0);
        let refusal = if has_moved || has_lasted { None } else { refusal(outcome, failed) };
        self.refusals = match &refusal {
            None => 0,
            Some(_) if refusal == self.refusal => self.refusals + 1,
            Some(_) => 1,
        };
        self.refusal = refusal;
    }
}

/// The reason for which the remote refused to continue; `None` if the session ended for another reason, such as a lost network.
fn refusal(outcome: &Outcome, failed: Option<&Failed>) -> Option<String> {
    outcome.peer.as_ref()?;
    // ssh passes on the exit code of the remote: errors of scuttleup that come again. If the network fails, it is 255.
    let failed = failed.filter(|failed| matches!(failed.code, Some(1 | 2 | 5 | 6 | 7)));
    outcome.refusal().map(str::to_owned).or_else(|| failed.map(|failed| failed.text.clone()))
}

/// Finds out which reports repeat the report of the try before.
#[derive(Default)]
pub struct Repeats {
    last: Option<(Outcome, Option<String>)>,
    /// The number of repeated reports that were left out.
    pub left_out: u32,
}

impl Repeats {
    /// The next report is not a repetition: a session was in sync meanwhile.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// Whether this report says the same as the last one. Sizes and times are not compared.
    pub fn is_repeated(&mut self, outcome: &Outcome, failed: Option<&Failed>) -> bool {
        let outcome = Outcome { bytes_sent: 0, bytes_received: 0, millis: 0, ..outcome.clone() };
        let report = Some((outcome, failed.map(|failed| failed.text.clone())));
        let is_repeated = report == self.last;
        self.last = report;
        is_repeated
    }
}

#[cfg(test)]
mod tests {
    use scuttleup::{Mode, PeerGlobs, PeerId, Reached};

    use super::*;

    const SHORT: Duration = Duration::from_secs(59);
    const LONG: Duration = Duration::from_secs(60);

    fn outcome(ending: Ending, peer: Option<&str>) -> Outcome {
        Outcome {
            ending,
            peer: peer.map(|id| PeerId::new(id).unwrap()),
            wire: None,
            confirmed: false,
            left_first: false,
            sent: 0,
            durable: None,
            unsent: 0,
            received: 0,
            missing: 0,
            local_mode: Mode::Sync,
            remote_mode: Some(Mode::Sync),
            remote_compares: false,
            selected: PeerGlobs::default(),
            remote_is_partial: false,
            ignored: 0,
            unsent_by_mode: Some(0),
            missing_by_mode: Some(0),
            left_out: 0,
            forks: 0,
            gaps: 0,
            not_allowed: 0,
            floors: 0,
            bytes_sent: 0,
            bytes_received: 0,
            millis: 0,
        }
    }

    fn without_session() -> Outcome {
        outcome(Ending::RemoteEnded(Reached::Nothing), None)
    }

    fn cut() -> Outcome {
        outcome(Ending::RemoteEnded(Reached::Id), Some("b"))
    }

    fn refused(why: &str) -> Outcome {
        outcome(Ending::RemoteError(why.into()), Some("b"))
    }

    fn next(retries: &mut Retries, outcome: &Outcome, code: Option<i32>, lasted: Duration) -> Next {
        let failed = code.map(|code| Failed { text: format!("ssh ended with exit status: {code}"), code: Some(code) });
        retries.next(outcome, failed.as_ref(), Exit::Incomplete, false, lasted)
    }

    fn pauses(retries: &mut Retries, outcome: &Outcome, code: Option<i32>, tries: u32) {
        for nth in 1..=tries {
            assert!(matches!(next(retries, outcome, code, SHORT), Next::Pause(_)), "try {nth}: {outcome:?}");
        }
    }

    #[test]
    fn pauses_grow_up_to_a_minute_and_are_short_again_after_a_session_that_lasted() {
        let mut retries = Retries::default();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(next(&mut retries, &cut(), None, SHORT), Next::Pause(Duration::from_secs(seconds)));
        }
        assert_eq!(next(&mut retries, &cut(), None, LONG), Next::Pause(Duration::from_secs(1)));
    }

    #[test]
    fn tries_are_limited_before_the_first_session_and_never_after_it() {
        let mut retries = Retries::default();
        pauses(&mut retries, &without_session(), Some(255), TRIES_MAX - 1);
        let Next::GiveUp(why) = next(&mut retries, &without_session(), Some(255), SHORT) else { panic!("no limit") };
        assert!(why.contains("20 tries without a session"), "{why}");
        let mut retries = Retries::default();
        pauses(&mut retries, &without_session(), Some(255), TRIES_MAX - 1);
        pauses(&mut retries, &cut(), Some(255), 1);
        pauses(&mut retries, &without_session(), Some(255), 1000);
        pauses(&mut retries, &cut(), None, 1000);
    }

    #[test]
    fn a_refusal_that_comes_again_is_final() {
        // On the original wire, only the exit code of the remote tells.
        for (outcome, code) in [(refused("damaged"), None), (cut(), Some(7)), (refused("damaged"), Some(1))] {
            let mut retries = Retries::default();
            pauses(&mut retries, &outcome, code, REFUSALS_MAX - 1);
            let Next::GiveUp(why) = next(&mut retries, &outcome, code, SHORT) else { panic!("no limit: {outcome:?}") };
            assert!(why.contains("4 sessions for the same reason"), "{why}");
        }
    }

    #[test]
    fn a_session_that_moves_or_lasts_or_ends_for_another_reason_begins_the_count_anew() {
        let moved = Outcome { received: 1, ..refused("damaged") };
        let stored = Outcome { durable: Some(1), ..refused("damaged") };
        for between in [moved, stored, refused("other"), refused("it was stopped"), cut(), without_session()] {
            let mut retries = Retries::default();
            for _ in 0..3 {
                pauses(&mut retries, &refused("damaged"), None, REFUSALS_MAX - 1);
                pauses(&mut retries, &between, None, 1);
            }
        }
        let mut retries = Retries::default();
        for _ in 0..100 {
            assert_eq!(next(&mut retries, &refused("damaged"), None, LONG), Next::Pause(Duration::from_secs(1)));
        }
    }

    #[test]
    fn a_remote_that_was_stopped_and_a_lost_network_are_tried_without_limit() {
        for why in ["it was stopped", "timed out waiting for a message", "its input ended early"] {
            pauses(&mut Retries::default(), &refused(why), None, 1000);
        }
        for code in [255, 143, 137, 3] {
            pauses(&mut Retries::default(), &cut(), Some(code), 1000);
        }
    }

    #[test]
    fn final_results_are_not_repeated() {
        let mut retries = Retries::default();
        let stopped = outcome(Ending::Incomplete, Some("b"));
        let above_limit = outcome(Ending::RemoteRefused("a limit".into()), Some("b"));
        let moved = Outcome { durable: Some(1), ..above_limit.clone() };
        for (outcome, exit, once, expected) in [
            (&cut(), Exit::Done, false, true),
            (&cut(), Exit::Signal(15), false, true),
            (&stopped, Exit::Incomplete, true, true),
            (&stopped, Exit::Incomplete, false, false),
            (&stopped, Exit::Fork, false, true),
            (&cut(), Exit::Fork, true, false),
            (&above_limit, Exit::Refused, false, true),
            (&above_limit, Exit::Refused, true, true),
            (&moved, Exit::Refused, true, false),
            (&Outcome { unsent_by_mode: Some(1), ..outcome(Ending::Complete, Some("b")) }, Exit::Refused, false, true),
        ] {
            assert_eq!(retries.next(outcome, None, exit, once, SHORT) == Next::Stop, expected, "{exit:?} {once}");
        }
    }

    #[test]
    fn a_report_is_repeated_if_only_sizes_and_times_differ() {
        let mut repeats = Repeats::default();
        assert!(!repeats.is_repeated(&cut(), None));
        assert!(repeats.is_repeated(&Outcome { millis: 7, bytes_sent: 8, bytes_received: 9, ..cut() }, None));
        assert!(!repeats.is_repeated(&Outcome { received: 1, ..cut() }, None));
        let failed = Failed { text: "ssh ended".into(), code: Some(255) };
        assert!(!repeats.is_repeated(&Outcome { received: 1, ..cut() }, Some(&failed)));
    }
}
