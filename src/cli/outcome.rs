//! What a replication has to say, while it runs and at its end.

use scuttleup::proto::PREAMBLE;
use scuttleup::{GAP_ENTRIES_MAX, Notice, Outcome, PeerId, Wire, ndjson};

use super::exit::Exit;
use super::message::{self, Messages};

/// In words.
pub fn text(notice: Notice) -> String {
    match notice {
        Notice::Fork(peer, seq) => {
            format!(
                "fork: entry {seq} of {peer} has other bytes here than there; that feed is stopped, both versions stay where they are"
            )
        }
        Notice::NewId(peer) => {
            format!("that was the own feed of this log: what is appended from now on goes to the new id {peer}")
        }
        Notice::Gap(peer, head, seq) => format!(
            "gap: the other side sent entry {seq} of {peer} after {head}, what is between was deleted there; that feed is stopped: \
             --accept-gaps stores such entries as deleted, up to {GAP_ENTRIES_MAX} in a row"
        ),
        Notice::Hole(peer, seq) => format!(
            "gap: entry {seq} of {peer} is an accepted gap in one of the two logs and not in the other, so that the native wire \
             cannot compare them; that feed is stopped: --wire original brings it over"
        ),
        Notice::TooLong(peer, seq, max) => format!(
            "entry {seq} of {peer} is longer than the other side takes ({max} bytes); that feed is stopped: \
             raise --entry-bytes-max over there"
        ),
        Notice::Behind(peer, seq) => {
            format!("this log was behind in its own feed: it takes the entries of {peer} up to {seq} back")
        }
        Notice::StaysBehind(peer, head, seq) => format!(
            "this log is behind in its own feed: the other side holds entries of {peer} up to {seq}, and this one up to {head}; \
             sync or pull before you append, or the feed forks"
        ),
        Notice::SameId(peer) => format!(
            "the other side has the same id, {peer}: it is this log itself or a copy of it; do not append to both, or they fork: \
             give one of them a new log, and bring its entries over with read and append"
        ),
        Notice::DeletedLeftOut(peer, seq) => {
            format!("entry {seq} of {peer} was deleted here, so that this wire cannot carry it: the other side gets a gap there")
        }
        Notice::IdLeftOut(peer) => {
            format!("the original cannot hold the id {peer}: such feeds are not sent on this wire")
        }
    }
}

/// How the command ends after this; `failed` says how COMMAND did, if that was badly.
pub fn exit_of(outcome: &Outcome, failed: Option<&str>) -> Exit {
    match outcome {
        Outcome { forks: 1.., .. } => Exit::Fork,
        outcome if outcome.complete() && failed.is_none() => Exit::Done,
        _ => Exit::Incomplete,
    }
}

/// How it is said.
#[derive(Clone, Copy)]
pub struct Report {
    /// As one JSON object.
    pub json: bool,
    pub messages: Messages,
}

impl Report {
    /// Says how it went.
    pub fn conclude(self, outcome: &Outcome, failed: Option<&str>, exit: Exit) {
        if self.json {
            return message::raw(&json(outcome, exit));
        }
        if let Exit::Signal(_) = exit {
            return self.stopped(outcome);
        }
        let why = why(outcome, failed);
        let Some(peer) = &outcome.peer else {
            return message::error(&format!("the other side {}{why}: run it again", without_a_word(outcome)));
        };
        let Outcome { received, unsent, left_out, missing, forks, gaps, cut, wire, .. } = outcome;
        let moved = format!("synced with {peer}: sent {}, received {received}", sent(outcome));
        // Both have said FIN: that it ended is not why something is missing.
        let is_over = *wire == Some(Wire::Native) && !cut;
        if *cut || *missing > 0 && !is_over || *unsent > 0 && *gaps == 0 {
            return message::error(&format!("{}{why}; run it again", ended_early(outcome, peer)));
        }
        let mut but = Vec::new();
        match forks + gaps {
            0 => {}
            1 => but.push("1 feed is stopped".to_owned()),
            feeds => but.push(format!("{feeds} feeds are stopped")),
        }
        if *missing > 0 {
            but.push(format!("{missing} of its entries did not come: see its message, and --entry-bytes-max here"));
        }
        if *left_out > 0 {
            let were = if *left_out == 1 { "entry that was" } else { "entries that were" };
            but.push(format!("{left_out} {were} deleted here could not be sent on this wire"));
        }
        but.extend(failed.map(|failed| format!("{failed}: see its message")));
        if but.is_empty() {
            self.messages.note(&moved);
        } else {
            message::error(&format!("{moved}, but {}", but.join(", and ")));
        }
    }

    /// A signal has ended it: that is no error.
    fn stopped(self, outcome: &Outcome) {
        if let Some(peer) = &outcome.peer {
            self.messages.note(&format!("stopped: sent {} to {peer}, received {}", sent(outcome), outcome.received));
        }
    }
}

/// How it went away before it had said who it is.
fn without_a_word(outcome: &Outcome) -> &'static str {
    // The offer of the native wire says nothing yet.
    let offer = if outcome.wire == Some(Wire::Native) { PREAMBLE.len() as u64 } else { 0 };
    match outcome {
        Outcome { silent: true, .. } => "has fallen silent before it said who it is",
        Outcome { cut: true, bytes_received, .. } if *bytes_received > offer => "ended in the middle of its first words",
        _ => "ended before it said anything",
    }
}

fn ended_early(outcome: &Outcome, peer: &PeerId) -> String {
    let Outcome { sent, durable, unsent, received, missing, .. } = outcome;
    let early = if outcome.silent { "the other side has fallen silent" } else { "the other side ended early" };
    let durable = durable.map_or(String::new(), |durable| format!(" ({durable} durable there)"));
    format!("{early}: {sent} of {} sent to {peer}{durable}, {received} of {} received", sent + unsent, received + missing)
}

fn sent(outcome: &Outcome) -> String {
    let sent = outcome.sent;
    outcome.durable.map_or(sent.to_string(), |durable| format!("{sent} ({durable} durable there)"))
}

fn why(outcome: &Outcome, failed: Option<&str>) -> String {
    let said = outcome.their_error.as_ref().filter(|said| !said.is_empty()).map(|said| format!("it said: {said}"));
    let words: Vec<&str> = said.as_deref().into_iter().chain(failed).collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join("; ")) }
}

/// All that is known of how it went, as one line.
fn json(outcome: &Outcome, exit: Exit) -> Vec<u8> {
    let mut line = b"{\"peer\":".to_vec();
    match &outcome.peer {
        Some(peer) => ndjson::put_string(&mut line, peer.as_str()),
        None => line.extend_from_slice(b"null"),
    }
    let wire = match outcome.wire {
        Some(Wire::Native) => "\"native\"",
        Some(Wire::Original) => "\"original\"",
        None => "null",
    };
    let durable = outcome.durable.map_or("null".to_owned(), |durable| durable.to_string());
    let Outcome { sent, received, missing, forks, gaps, bytes_sent, bytes_received, millis, .. } = outcome;
    let unsent = outcome.unsent + outcome.left_out;
    let rest = format!(
        ",\"wire\":{wire},\"complete\":{},\"exit\":{},\"sent\":{sent},\"durable\":{durable},\"unsent\":{unsent},\
         \"received\":{received},\"missing\":{missing},\"forks\":{forks},\"gaps\":{gaps},\
         \"bytes_sent\":{bytes_sent},\"bytes_received\":{bytes_received},\"seconds\":{}.{:03}}}\n",
        exit == Exit::Done,
        exit.code(),
        millis / 1000,
        millis % 1000
    );
    line.extend_from_slice(rest.as_bytes());
    line
}
