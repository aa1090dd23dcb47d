//! The report of `append` and `write`: how much of stdin is stored, and with which line to continue.

use std::path::Path;

use anyhow::Result;
use scuttleup::Error;
use scuttleup::ingest::FollowNotice;

use crate::cli::exit::{Exit, OutputClosed};
use crate::cli::io::signals::Stop;
use crate::cli::report::diagnostics::{self, Diagnostics, counted};
use crate::cli::report::errors;

/// The advice of many errors. If a part of stdin is stored, it is wrong: this part would be stored twice.
const RUN_AGAIN: &str = "run it again";

/// The part of stdin that is stored.
pub struct Tally {
    /// The unit of `next`: "line" or "entry".
    pub unit: &'static str,
    /// Whether the input is files that are followed. Then the log knows where to continue.
    pub follows: bool,
    /// The number of entries that this run has stored.
    pub stored: u64,
    /// The number of bad lines that were left out.
    pub skipped: u64,
    /// The number of lines that were left out because they repeat, and of lines that have no value at the pointer of `--dedupe`.
    pub repeated: u64,
    pub keyless: u64,
    /// The first line that this run has not done, counted from 1. A line is done if it is blank, repeated or left out, or if the
    /// log already holds its entry. 0 if stdin was not read.
    pub next: u64,
    /// Whether stdin has ended and every line is done.
    pub is_complete: bool,
}

impl Tally {
    pub fn new(unit: &'static str) -> Self {
        Self { unit, follows: false, stored: 0, skipped: 0, repeated: 0, keyless: 0, next: 0, is_complete: false }
    }

    /// Whether a part of stdin is done.
    fn has_begun(&self) -> bool {
        self.next > 1
    }
}

/// Reports the end of a command that stores stdin.
pub struct Report<'p> {
    /// Whether the tally is printed as one JSON object on stderr.
    pub json: bool,
    pub diagnostics: Diagnostics,
    /// The entries that the command stores: "entry" and "entries", or "new entry" and "new entries".
    pub entries: [&'static str; 2],
    /// The file of the lines that are left out.
    pub bad_lines: Option<&'p Path>,
    /// The value of `--dedupe`.
    pub dedupe: Option<&'p str>,
}

impl Report<'_> {
    /// Prints the error of the command if it failed, and the tally. Returns how the command ended.
    pub fn conclude(&self, tally: &Tally, outcome: Result<Exit>, stop: &Stop) -> Exit {
        let (is_closed, is_done) = (outcome.as_ref().is_err_and(anyhow::Error::is::<OutputClosed>), outcome.is_ok());
        let exit = match outcome {
            Err(err) if !is_closed => {
                diagnostics::error(&self.failure(&err, tally));
                Exit::of_error(&err)
            }
            Ok(Exit::Done) if tally.skipped > 0 => stop.exit().unwrap_or(Exit::BadInput),
            ended => stop.exit().unwrap_or(ended.unwrap_or(Exit::Done)),
        };
        if self.json {
            diagnostics::print_verbatim(json(tally, self.dedupe.is_some(), exit).as_bytes());
            return exit;
        }
        if matches!(exit, Exit::Signal(_)) {
            self.diagnostics.note(&format!("stopped: {}", self.state(tally)));
        } else if is_closed && !tally.is_complete {
            self.diagnostics.note(&format!("the reader of stdout closed it: {}", self.state(tally)));
        } else if is_done && tally.skipped > 0 {
            diagnostics::error(&self.stored(tally));
        } else if is_done && tally.repeated > 0 {
            self.diagnostics.note(&self.stored(tally));
        }
        if let (Some(pointer), 1..) = (self.dedupe, tally.keyless) {
            let lines = counted(tally.keyless, tally.unit, units(tally.unit));
            let (have, they) = if tally.keyless == 1 { ("has", "it is") } else { ("have", "they are") };
            self.diagnostics.note(&format!("{lines} {have} no value at {pointer}: {they} stored, and can be stored again"));
        }
        exit
    }

    /// The message of the error, with the tally if stdin was read.
    fn failure(&self, err: &anyhow::Error, tally: &Tally) -> String {
        let text = errors::message(err);
        if tally.next == 0 {
            return text;
        }
        if tally.follows {
            return format!("{text}; {}", self.stored(tally));
        }
        if let Some(Error::Replaced) = err.downcast_ref()
            && tally.stored > 0
        {
            return format!("{text}; {} went to the files that were in use before", self.count(tally));
        }
        if tally.is_complete {
            return format!("{text}; {}: do not append this input again", self.state(tally));
        }
        if tally.has_begun() && text.contains(RUN_AGAIN) {
            let advice = format!("continue with {} {}", tally.unit, tally.next);
            return format!("{}: {}", text.replace(RUN_AGAIN, &advice), self.stored(tally));
        }
        format!("{text}; {}", self.state(tally))
    }

    /// The text that says how much is stored, and with which line to continue.
    fn state(&self, tally: &Tally) -> String {
        match tally {
            Tally { follows: true, .. } => self.stored(tally),
            Tally { is_complete: true, .. } => format!("{}, up to its end", self.stored(tally)),
            tally if tally.has_begun() => format!("{}: continue with {} {}", self.stored(tally), tally.unit, tally.next),
            _ => "nothing of this input is stored".into(),
        }
    }

    fn stored(&self, tally: &Tally) -> String {
        let stored = format!("{} {} stored", self.count(tally), if tally.stored == 1 { "is" } else { "are" });
        let name = self.bad_lines.filter(|path| path.as_os_str() != "-").unwrap_or(Path::new("stdout")).display();
        let mut text = stored;
        if tally.skipped > 0 {
            let bad = counted(tally.skipped, &format!("bad {}", tally.unit), &format!("bad {}", units(tally.unit)));
            text.push_str(&format!(", {bad} went to {name}"));
        }
        if tally.repeated > 0 {
            let (one, many) = (format!("repeated {} was", tally.unit), format!("repeated {} were", units(tally.unit)));
            text.push_str(&format!(", {} left out", counted(tally.repeated, &one, &many)));
        }
        text
    }

    fn count(&self, tally: &Tally) -> String {
        let [entry, entries] = self.entries;
        let input = if tally.follows { "the followed files" } else { "this input" };
        format!("{} {} of {input}", tally.stored, if tally.stored == 1 { entry } else { entries })
    }
}

/// Several of this unit of a tally.
fn units(unit: &'static str) -> &'static str {
    if unit == "line" { "lines" } else { "entries" }
}

/// The text of a notice about a followed file.
pub fn followed(notice: &FollowNotice) -> String {
    match notice {
        FollowNotice::Truncated(path) => {
            format!("{} was truncated: continuing at its start, what was written before and not read is lost", path.display())
        }
        FollowNotice::Gone(path) => format!(
            "{} was replaced, and its file of before is not in the directory any more: lines at its end may be lost",
            path.display()
        ),
        FollowNotice::Unreadable(path, reason) => {
            format!("{} was replaced, and the new file cannot be read ({reason}): waiting for its permissions", path.display())
        }
    }
}

/// The tally as one line of JSON, see scuttleup-append(1).
fn json(tally: &Tally, has_keys: bool, exit: Exit) -> String {
    let Tally { unit, stored, skipped, repeated, keyless, next, .. } = tally;
    let (next, exit) = ((*next).max(1), exit.code());
    let keys = if has_keys { format!("\"repeated\":{repeated},\"keyless\":{keyless},") } else { String::new() };
    let next = if tally.follows { String::new() } else { format!("\"next\":{next},\"unit\":\"{unit}\",") };
    format!("{{\"stored\":{stored},\"skipped\":{skipped},{keys}{next}\"exit\":{exit}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_never_says_run_it_again_if_a_part_of_stdin_is_stored() {
        let report = Report {
            json: false,
            diagnostics: Diagnostics::new(false),
            entries: ["entry", "entries"],
            bad_lines: None,
            dedupe: None,
        };
        let full = || Error::DiskFull(std::io::Error::other("full"));
        let readers =
            || Error::Database("the log cannot be written".into(), "end some of them and run it again (MDB_READERS_FULL)".into());
        let cases: [(Error, u64, u64, &str); 6] = [
            (full(), 0, 1, "cannot store more (full): free some space and run it again; nothing of this input is stored"),
            (full(), 1, 3, "cannot store more (full): free some space and continue with line 3: 1 entry of this input is stored"),
            (
                readers(),
                4,
                5,
                "the log cannot be written: end some of them and continue with line 5 (MDB_READERS_FULL): \
                 4 entries of this input are stored",
            ),
            (Error::PushOnly, 2, 3, "; 2 entries of this input are stored: continue with line 3"),
            (Error::Replaced, 2, 3, "; 2 entries of this input went to the files that were in use before"),
            (Error::Replaced, 0, 1, "run it again; nothing of this input is stored"),
        ];
        for (err, stored, next, end) in cases {
            let tally = Tally { stored, next, ..Tally::new("line") };
            let message = report.failure(&err.into(), &tally);
            assert!(message.ends_with(end), "{message}");
        }
        assert_eq!(report.failure(&Error::PushOnly.into(), &Tally::new("line")), errors::message(&Error::PushOnly.into()));
    }
}
