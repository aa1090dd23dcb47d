//! The reports of a replication: notices while it runs, and one report at its end.

use anyhow::Result;
use scuttleup::ingest::GAP_ENTRIES_MAX;
use scuttleup::{Ending, Mode, Notice, Outcome, PeerId, Reached, Wire, ndjson};

use crate::cli::exit::{Exit, OutputClosed};
use crate::cli::io::output::Output;
use crate::cli::report::diagnostics::{self, Diagnostics, counted};
use crate::cli::report::hint;

/// The text of a notice.
pub fn notice(notice: Notice) -> String {
    match notice {
        Notice::Fork(peer, seq) => format!(
            "fork: entry {seq} of {peer} has different bytes in the remote log, this feed is stopped: each log keeps its version"
        ),
        Notice::UnprovenFork(peer, seq) => format!(
            "fork: entry {seq} of {peer} has different bytes in the remote log, this feed is stopped: the remote gave no \
             evidence that this log can use, so the fork is not marked"
        ),
        Notice::NewId(peer) => new_id(&peer),
        Notice::Gap(peer, head, seq) => format!(
            "gap: the remote sent entry {seq} of {peer} after entry {head}, the entries between the two were deleted or \
             pruned in the remote log, this feed is stopped: --accept-gaps stores up to {GAP_ENTRIES_MAX} such consecutive entries as deleted"
        ),
        Notice::Floor(peer, head, seq) => {
            let first = u64::from(seq.get()) + 1;
            let here = if head == 0 { String::new() } else { format!("this log had entries up to {head}, ") };
            format!("the remote has pruned the entries of {peer} up to {seq}: {here}this feed goes on at entry {first}")
        }
        Notice::FloorOfLocalFeed(peer, head, seq) => format!(
            "this log is behind in its local feed: the remote has pruned the entries of {peer} up to {seq}, but this log has entries \
             only up to {head}, this feed is stopped: do not append before a sync with a log that holds the entries after \
             {head}, otherwise the feed forks"
        ),
        Notice::FloorRefused(peer, seq) => format!(
            "the remote is behind in its local feed {peer}, and its missing entries up to {seq} were pruned in this log, this feed is \
             stopped: sync the remote with a log that holds these entries"
        ),
        Notice::ForkAtFloor(peer, seq) => format!(
            "fork: the two logs differ in entry {seq} of {peer} or in one before it, these entries were pruned, this feed is \
             stopped: each log keeps its version, and the fork is not marked"
        ),
        Notice::PrunedLeftOut(peer, seq, Wire::Original) => format!(
            "the entries of {peer} up to {seq} were pruned in this log, the original wire cannot say so: the remote log gets a gap"
        ),
        Notice::PrunedLeftOut(peer, seq, Wire::Native) => format!(
            "the entries of {peer} up to {seq} were pruned in this log, the program of the remote is too old for that, this feed \
             is not sent: install a newer scuttleup on the remote"
        ),
        Notice::NotComparable(peer, seq) => format!(
            "gap: entry {seq} of {peer} is an accepted gap in only one of the two logs, the native wire cannot compare the \
             entries after it, this feed is stopped: --wire original transfers it"
        ),
        Notice::TooLong(peer, seq, max) => format!(
            "entry {seq} of {peer} is longer than the remote accepts ({max} bytes), this feed is stopped: \
             raise --entry-bytes-max of the remote"
        ),
        Notice::Refused(peer) => format!("the feed {peer} of the remote is refused: its id matches no --allow-peer"),
        Notice::NotAccepted(peer) => {
            format!("the remote does not accept the feed {peer}: such feeds are not sent, see --allow-peer of the remote")
        }
        Notice::Behind(peer, seq) => {
            format!("this log is behind in its local feed: it receives the entries of {peer} up to {seq} from the remote")
        }
        Notice::StaysBehind(peer, head, seq) => format!(
            "this log is behind in its local feed: the remote holds entries of {peer} up to {seq}, but this log only up to {head}: \
             do not append before a sync with a remote that may send, otherwise the feed forks"
        ),
        Notice::SameId(peer) => format!(
            "the remote has the same id, {peer}: it is this log or a copy of it: append to only one of the two, \
             otherwise the feed forks; to keep both, create a new log and append the entries of one copy to it: \
             scuttleup(1) shows how in its section Forks"
        ),
        Notice::DeletedLeftOut(peer, seq) => {
            format!(
                "entry {seq} of {peer} was deleted in this log, the original wire cannot send deleted entries: \
                 the remote log gets a gap"
            )
        }
        Notice::IdLeftOut(peer) => {
            format!("the original cannot store a feed with the id {peer}: feeds with such ids are not sent on the original wire")
        }
        Notice::OneWay(Mode::Push) => {
            "the remote only sends: entries of this log are not sent in this session (to only receive, use --mode pull)".into()
        }
        Notice::OneWay(_) => {
            "the remote only receives: entries of the remote are not received in this session (to only send, use --mode push)"
                .into()
        }
        Notice::Polling(limit) => hint::polling(limit),
        Notice::NotSealed(err) => hint::not_sealed(&err),
    }
}

/// The text for a log whose local feed has forked.
pub fn new_id(peer: &PeerId) -> String {
    format!("the local feed of this log has forked: new entries go to the feed of the new id {peer}")
}

/// The exit code for an outcome. `failed` says how COMMAND failed, if it failed. A side that `serves` leaves the directions to its
/// remote.
pub fn exit_of(outcome: &Outcome, failed: Option<&str>, serves: bool) -> Exit {
    match outcome {
        Outcome { forks: 1.., .. } => Exit::Fork,
        outcome if outcome.complete() && outcome.refused() && !serves => Exit::Refused,
        outcome if outcome.complete() && failed.is_none() => Exit::Done,
        Outcome { ending: Ending::RemoteRefused(_), .. } | Outcome { ending: Ending::Incomplete, not_allowed: 1.., .. } => {
            Exit::Refused
        }
        _ => Exit::Incomplete,
    }
}

/// The form and the place of a report.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A message on stderr.
    Text,
    /// One JSON object on stderr.
    JsonOnStderr,
    /// One JSON object on stdout.
    JsonOnStdout,
}

/// Reports outcomes.
#[derive(Clone, Copy)]
pub struct Report<'a> {
    pub format: Format,
    pub diagnostics: Diagnostics,
    /// The label of a process without COMMAND, otherwise empty.
    pub label: &'a str,
    /// The process has neither COMMAND nor --once: it serves whatever its remote wants.
    pub serves: bool,
}

impl Report<'_> {
    /// Reports an outcome.
    ///
    /// # Errors
    /// See [`Output::write`].
    pub fn print(self, outcome: &Outcome, failed: Option<&str>, exit: Exit) -> Result<()> {
        match self.format {
            Format::Text => self.print_text(outcome, failed, exit),
            Format::JsonOnStderr => diagnostics::print_json(&String::from_utf8_lossy(&json(outcome, exit))),
            Format::JsonOnStdout => {
                let written = Output::new().write(&json(outcome, exit));
                if written.as_ref().is_err_and(|err| !err.is::<OutputClosed>()) {
                    // An error of stdout does not say that the session failed.
                    self.print_text(outcome, failed, exit);
                }
                written?;
            }
        }
        Ok(())
    }

    fn print_text(self, outcome: &Outcome, failed: Option<&str>, exit: Exit) {
        if let Exit::Signal(_) = exit {
            return self.print_stopped(outcome);
        }
        let why = reasons(outcome, failed);
        match (&outcome.peer, &outcome.ending) {
            (None, ending) => self.error(&format!("{}{why}: {}", without_id(ending), advice(failed))),
            (Some(peer), Ending::Complete | Ending::Incomplete) => self.print_ended(outcome, peer, failed),
            (Some(peer), Ending::RemoteTimedOut(_)) => {
                self.error(&format!("the remote timed out{}{why}: run it again", counts(outcome, peer)));
            }
            (Some(peer), Ending::RemoteRefused(_)) => {
                self.error(&format!(
                    "the remote refused entries{}{why}: raise its limits, or run it again",
                    counts(outcome, peer)
                ));
            }
            (Some(peer), _) => {
                self.error(&format!("the remote ended early{}{why}: run it again", counts(outcome, peer)));
            }
        }
    }

    fn error(self, text: &str) {
        diagnostics::labelled_error(self.label, text);
    }

    /// Reports a session that ended in order.
    fn print_ended(self, outcome: &Outcome, peer: &PeerId, failed: Option<&str>) {
        let moved = format!("{}{}", moved(outcome, peer), partial(outcome));
        let mut problems: Vec<String> = refusal(outcome).filter(|_| !self.serves).into_iter().collect();
        let mut add = |count, one: &str, many: &str, rest: &str| {
            if count > 0 {
                problems.push(format!("{} {rest}", counted(count, one, many)));
            }
        };
        add(outcome.forks + outcome.gaps, "feed is", "feeds are", "stopped");
        let not_received = "not received: see the messages of the remote, and --entry-bytes-max";
        add(outcome.missing, "entry of the remote was", "entries of the remote were", not_received);
        let [one, many] = ["entry of a feed that is not allowed was", "entries of feeds that are not allowed were"];
        add(outcome.not_allowed, one, many, "refused");
        add(outcome.left_out, "deleted or pruned entry", "deleted or pruned entries", "cannot be sent on this wire");
        problems.extend(failed.map(|failed| format!("{failed}: see its messages")));
        // The remote reports this session, often on the same stderr.
        let is_reported = self.serves && outcome.confirmed && (outcome.sends() || outcome.receives() || outcome.remote_compares);
        if !problems.is_empty() {
            self.error(&format!("{moved}, but {}", problems.join(", and ")));
        } else if !is_reported {
            self.diagnostics.labelled_note(self.label, &format!("{moved}{}", limit(outcome)));
        }
    }

    /// Reports a session that a signal ended. This is not an error.
    fn print_stopped(self, outcome: &Outcome) {
        if let Some(peer) = &outcome.peer {
            let received = outcome.received;
            let counts = format!("stopped: sent {} to {peer}, received {received}{}", sent(outcome), partial(outcome));
            self.diagnostics.labelled_note(self.label, &counts);
        }
    }
}

/// The directions in which entries could move, and how many did.
fn moved(outcome: &Outcome, peer: &PeerId) -> String {
    if outcome.remote_compares {
        return format!("{peer} has compared the logs: no entry moved");
    }
    let (sent, received) = (sent(outcome), outcome.received);
    match (outcome.sends(), outcome.receives()) {
        (true, true) => format!("synced with {peer}: sent {sent}, received {received}"),
        (true, false) => format!("pushed to {peer}: sent {sent}"),
        (false, true) => format!("pulled from {peer}: received {received}"),
        (false, false) => format!("no entry moved to or from {peer}"),
    }
}

/// Says that the session was only about some feeds; empty if it was about all.
fn partial(outcome: &Outcome) -> String {
    /// The number of patterns that are named.
    const NAMED_MAX: usize = 3;
    let globs: Vec<&str> = outcome.selected.texts().collect();
    if globs.is_empty() {
        let chosen = if outcome.remote_is_partial { ", partial: only the feeds that the remote has chosen" } else { "" };
        return chosen.to_owned();
    }
    let mut text = format!(", partial: only feeds that match {}", globs[..globs.len().min(NAMED_MAX)].join(" or "));
    if globs.len() > NAMED_MAX {
        text.push_str(&format!(" or {}", counted((globs.len() - NAMED_MAX) as u64, "more pattern", "more patterns")));
    }
    if outcome.ignored > 0 {
        let [one, many] = ["entry of another feed came and was", "entries of other feeds came and were"];
        text.push_str(&format!(", {} ignored", counted(outcome.ignored, one, many)));
    }
    text
}

/// The reason why a direction that the local mode opens is closed, in parentheses; empty if there is none.
fn limit(outcome: &Outcome) -> &'static str {
    if outcome.remote_compares {
        return "";
    }
    match (outcome.local_mode, outcome.remote_mode) {
        (Mode::Push, Some(Mode::Push)) => " (both sides only send)",
        (Mode::Pull, Some(Mode::Pull)) => " (both sides only receive)",
        (Mode::Sync, Some(Mode::Push)) => " (the remote only sends)",
        (Mode::Sync, Some(Mode::Pull)) => " (the remote only receives)",
        _ => "",
    }
}

/// The entries that stayed behind because of the mode of the remote, although the local mode asks for them.
fn refusal(outcome: &Outcome) -> Option<String> {
    let remote = outcome.remote_mode.filter(|_| outcome.refused())?;
    let is_sync = outcome.local_mode == Mode::Sync;
    Some(if remote == Mode::Push {
        let left = counted(outcome.unsent_by_mode.unwrap_or(0), "local entry was", "local entries were");
        let hint = if is_sync { "to only receive, use --mode pull" } else { "the remote must use --mode pull or sync" };
        format!("{left} not sent: the remote only sends ({hint})")
    } else {
        let hint = if is_sync { "to only send, use --mode push" } else { "the remote must use --mode push or sync" };
        match outcome.missing_by_mode {
            Some(count) => {
                let left = counted(count, "entry of the remote was", "entries of the remote were");
                format!("{left} not received: the remote only receives ({hint})")
            }
            None => format!("the entries of the remote are not known: the remote only receives ({hint})"),
        }
    })
}

/// Says that a comparison has failed.
pub fn not_compared(outcome: &Outcome, failed: Option<&str>) -> String {
    let what = match (&outcome.peer, &outcome.ending) {
        (None, ending) => without_id(ending),
        (_, Ending::RemoteTimedOut(_)) => "the remote timed out",
        _ => "the remote ended early",
    };
    format!("the logs were not compared: {what}{}: {}", reasons(outcome, failed), advice(failed))
}

/// The advice after a session that ended early.
fn advice(failed: Option<&str>) -> &'static str {
    if failed.is_some() { "see its messages, then run it again" } else { "run it again" }
}

/// The text for a session in which the remote did not send its id.
fn without_id(ending: &Ending) -> &'static str {
    match ending {
        Ending::RemoteTimedOut(_) => "timed out waiting for the handshake",
        Ending::RemoteEnded(Reached::Handshake) => "the remote ended inside its handshake",
        _ => "the remote ended before its handshake",
    }
}

fn counts(outcome: &Outcome, peer: &PeerId) -> String {
    let Outcome { sent, durable, unsent, received, missing, .. } = outcome;
    let durable = durable.map_or(String::new(), |durable| format!(" ({durable} durable on the remote)"));
    format!(": {sent} of {} sent to {peer}{durable}, {received} of {} received", sent + unsent, received + missing)
}

fn sent(outcome: &Outcome) -> String {
    let sent = outcome.sent;
    outcome.durable.map_or(sent.to_string(), |durable| format!("{sent} ({durable} durable on the remote)"))
}

/// The reason that the remote gave, and the failure of COMMAND, in parentheses; empty if there is none.
fn reasons(outcome: &Outcome, failed: Option<&str>) -> String {
    let remote = match &outcome.ending {
        Ending::RemoteError(why) | Ending::RemoteRefused(why) if !why.is_empty() => Some(format!("it said: {why}")),
        _ => None,
    };
    let reasons: Vec<&str> = remote.as_deref().into_iter().chain(failed).collect();
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) }
}

/// The outcome as one line of JSON, see scuttleup-replicate(1).
fn json(outcome: &Outcome, exit: Exit) -> Vec<u8> {
    let mut line = b"{\"peer\":".to_vec();
    match &outcome.peer {
        Some(peer) => ndjson::put_name(&mut line, peer.as_str()),
        None => line.extend_from_slice(b"null"),
    }
    let wire = outcome.wire.map_or("null".to_owned(), |wire: Wire| format!("\"{}\"", wire.name()));
    let durable = outcome.durable.map_or("null".to_owned(), |durable| durable.to_string());
    let mode = outcome.remote_mode.map_or("null".to_owned(), |mode| format!("\"{}\"", mode.name()));
    let Outcome { sent, received, missing, forks, gaps, bytes_sent, bytes_received, millis, .. } = outcome;
    let by_mode = |count: Option<u64>| count.map_or("null".to_owned(), |count| count.to_string());
    let [unsent_by_mode, missing_by_mode] = [outcome.unsent_by_mode, outcome.missing_by_mode].map(by_mode);
    let not_allowed = outcome.not_allowed;
    let unsent = outcome.unsent + outcome.left_out;
    let mut rest = format!(
        ",\"wire\":{wire},\"complete\":{},\"exit\":{},\"sent\":{sent},\"durable\":{durable},\"unsent\":{unsent},\
         \"received\":{received},\"missing\":{missing},\"forks\":{forks},\"gaps\":{gaps},\
         \"bytes_sent\":{bytes_sent},\"bytes_received\":{bytes_received},\"seconds\":{}.{:03},\
         \"remote_mode\":{mode},\"unsent_by_mode\":{unsent_by_mode},\"missing_by_mode\":{missing_by_mode},\
         \"refused\":{not_allowed},\"floors\":{},\"partial\":{}",
        exit == Exit::Done,
        exit.code(),
        millis / 1000,
        millis % 1000,
        outcome.floors,
        !outcome.selected.is_empty() || outcome.remote_is_partial
    );
    if !outcome.selected.is_empty() {
        rest.push_str(&format!(",\"ignored\":{},\"peers\":[", outcome.ignored));
    }
    line.extend_from_slice(rest.as_bytes());
    for (nth, glob) in outcome.selected.texts().enumerate() {
        line.extend_from_slice(if nth == 0 { b"" } else { b"," });
        ndjson::put_name(&mut line, glob);
    }
    line.extend_from_slice(if outcome.selected.is_empty() { b"}\n" } else { b"]}\n" });
    line
}
