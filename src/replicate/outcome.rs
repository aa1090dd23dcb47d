//! The end of a session. Only [`Ending::of`] decides how a session ended.

use crate::model::{PeerGlobs, PeerId};
use crate::wire::{Mode, Wire};

/// The end of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Both logs hold everything that the two modes allowed to move.
    Complete,
    /// Both sides ended the session in order, but some entries did not move: feeds are stopped, or the wire cannot send them.
    Incomplete,
    /// The remote ended its stream between two messages, but entries are missing or unsent (original wire, without a confirmed end).
    Unfinished,
    /// The remote ended its stream inside a message, before its id, or without confirming the end.
    RemoteEnded(Reached),
    /// The remote was silent for too long.
    RemoteTimedOut(Reached),
    /// The remote ended the session with this reason.
    RemoteError(String),
    /// The remote ended the session, because it refuses what this side sent: its reason.
    RemoteRefused(String),
    /// The caller's stop ended the session.
    LocalStop,
}

/// The last step of its handshake that the remote has done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reached {
    /// It sent no part of its handshake.
    Nothing,
    /// It ended inside its handshake.
    Handshake,
    /// Its id is known.
    Id,
}

/// The result of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The end of the session.
    pub ending: Ending,
    /// The id of the remote log; `None` if the remote did not send it.
    pub peer: Option<PeerId>,
    /// The mode of the local side.
    pub local_mode: Mode,
    /// The mode of the remote; `None` if the remote did not send it.
    pub remote_mode: Option<Mode>,
    /// The remote only compared the two logs.
    pub remote_compares: bool,
    /// The wire that was used.
    pub wire: Option<Wire>,
    /// Whether both sides have confirmed the end of the session (FIN, native wire).
    pub confirmed: bool,
    /// Whether the local side ended the session before the remote ended its stream.
    pub left_first: bool,
    /// The number of entries that were written to the wire.
    pub sent: u64,
    /// The number of these entries that are on the remote's disk; `None` on the original wire.
    pub durable: Option<u64>,
    /// The number of entries that the remote lacked at the start and that were not sent. If a live session ended early, entries
    /// that were appended later count too.
    pub unsent: u64,
    /// The number of entries that the remote lacked at the start, but that the modes do not let this log send. `None` if the remote
    /// does not say what it holds.
    pub unsent_by_mode: Option<u64>,
    /// The number of entries that were stored.
    pub received: u64,
    /// The number of entries that the remote announced at the start and that were not received.
    pub missing: u64,
    /// The number of entries that the remote announced at the start and that this log lacks, but that the modes do not let the
    /// remote send. `None` if the remote does not say what it holds.
    pub missing_by_mode: Option<u64>,
    /// The number of entries that the remote lacked, but that are deleted or pruned in this log, so that the original wire cannot send
    /// them. 0 with [`Options::accept_gaps`](super::Options::accept_gaps).
    pub left_out: u64,
    /// The number of feeds that a fork has stopped.
    pub forks: u64,
    /// The number of feeds that were stopped at a gap, or at an entry that exceeds the remote's limit.
    pub gaps: u64,
    /// The number of entries of feeds that are not allowed, and so were not stored.
    pub not_allowed: u64,
    /// The number of feeds that begin anew at a floor of the remote: it has pruned entries that this log lacks.
    pub floors: u64,
    /// The feeds that took part ([`Options::selected`](super::Options::selected)).
    pub selected: PeerGlobs,
    /// The remote has chosen some feeds (native wire).
    pub remote_is_partial: bool,
    /// The number of entries that came although their feeds do not take part. They were not stored.
    pub ignored: u64,
    /// The number of bytes that were written to the remote.
    pub bytes_sent: u64,
    /// The number of bytes that were read from the remote.
    pub bytes_received: u64,
    /// Duration in milliseconds.
    pub millis: u64,
}

impl Outcome {
    /// Whether both logs held at the end everything that the two modes allowed to move. See also [`Outcome::refused`].
    pub fn complete(&self) -> bool {
        self.ending == Ending::Complete
    }

    /// Whether entries stayed behind although the local mode asks for them: the mode of the remote forbids their direction.
    /// Another session with the same modes does not move them.
    pub fn refused(&self) -> bool {
        let stays_behind = self.local_mode.sends() && self.unsent_by_mode != Some(0)
            || self.local_mode.receives() && self.missing_by_mode != Some(0);
        stays_behind && !self.remote_compares
    }

    /// Whether the modes let this log send entries. False if the mode of the remote is unknown.
    pub fn sends(&self) -> bool {
        self.remote_mode.is_some_and(|remote| self.local_mode.sends_to(remote))
    }

    /// Whether the modes let this log receive entries. False if the mode of the remote is unknown.
    pub fn receives(&self) -> bool {
        self.remote_mode.is_some_and(|remote| remote.sends_to(self.local_mode))
    }

    /// Whether the remote ended the session early, so that another session may move more entries.
    pub fn ended_early(&self) -> bool {
        matches!(
            self.ending,
            Ending::RemoteEnded(_) | Ending::RemoteTimedOut(_) | Ending::RemoteError(_) | Ending::RemoteRefused(_)
        )
    }

    /// The reason for which the remote refused to continue, for example its limits, or a damaged entry in its log. `None` if it was only stopped
    /// or lost its input.
    pub fn refusal(&self) -> Option<&str> {
        match &self.ending {
            Ending::RemoteRefused(why) => Some(why),
            Ending::RemoteError(why) if ![STOPPED, TIMED_OUT, INPUT_ENDED].contains(&why.as_str()) => Some(why),
            _ => None,
        }
    }
}

/// The reasons that a side gives to its remote if it refuses nothing, so that another session may succeed.
pub const STOPPED: &str = "it was stopped";
pub const TIMED_OUT: &str = "timed out waiting for a message";
pub const INPUT_ENDED: &str = "its input ended early";

/// The end of the receiving thread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReceiverEnd {
    /// The remote ended its stream.
    StreamEnded,
    /// Everything is done, and the remote's stream is open.
    Satisfied,
    /// The remote was silent for too long.
    TimedOut,
    /// The remote ended the session with this reason.
    RemoteError(String),
    /// The remote ended the session, because it refuses what this side sent: its reason.
    RemoteRefused(String),
    /// The caller's stop, or an error of another thread, ended it.
    Stopped,
}

/// The facts from which [`Ending::of`] decides.
pub struct Facts {
    pub receiver: ReceiverEnd,
    pub reached: Reached,
    /// The stream ended inside a frame, the connection was reset, or the remote closed its input while entries were unsent.
    pub is_cut: bool,
    /// The wire can confirm the end of a session.
    pub confirms_end: bool,
    /// Both sides have confirmed the end.
    pub confirmed: bool,
    pub unsent: u64,
    pub missing: u64,
    pub left_out: u64,
    pub forks: u64,
    pub gaps: u64,
    pub not_allowed: u64,
}

impl Ending {
    /// Decides how a session ended.
    pub fn of(facts: Facts) -> Self {
        let Facts { receiver, reached, is_cut, confirms_end, confirmed, unsent, missing, left_out, forks, gaps, not_allowed } =
            facts;
        let in_order =
            if unsent + missing + left_out + forks + gaps + not_allowed == 0 { Self::Complete } else { Self::Incomplete };
        if confirmed {
            // Both sides have sent FIN: the manner in which the streams ended does not matter.
            return in_order;
        }
        match receiver {
            ReceiverEnd::Stopped => Self::LocalStop,
            ReceiverEnd::TimedOut => Self::RemoteTimedOut(reached),
            ReceiverEnd::RemoteError(why) => Self::RemoteError(why),
            ReceiverEnd::RemoteRefused(why) => Self::RemoteRefused(why),
            ReceiverEnd::StreamEnded | ReceiverEnd::Satisfied => {
                if confirms_end || reached < Reached::Id || is_cut {
                    Self::RemoteEnded(reached)
                } else if missing > 0 || unsent > 0 && gaps == 0 {
                    Self::Unfinished
                } else {
                    in_order
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session on the original wire that ended in order and moved everything.
    fn facts() -> Facts {
        Facts {
            receiver: ReceiverEnd::StreamEnded,
            reached: Reached::Id,
            is_cut: false,
            confirms_end: false,
            confirmed: false,
            unsent: 0,
            missing: 0,
            left_out: 0,
            forks: 0,
            gaps: 0,
            not_allowed: 0,
        }
    }

    #[test]
    fn each_ending() {
        let id = Reached::Id;
        let cases = [
            (facts(), Ending::Complete),
            (Facts { receiver: ReceiverEnd::Satisfied, ..facts() }, Ending::Complete),
            (Facts { forks: 1, ..facts() }, Ending::Incomplete),
            (Facts { gaps: 1, ..facts() }, Ending::Incomplete),
            (Facts { not_allowed: 1, ..facts() }, Ending::Incomplete),
            (Facts { not_allowed: 1, confirms_end: true, confirmed: true, ..facts() }, Ending::Incomplete),
            (Facts { not_allowed: 1, missing: 1, ..facts() }, Ending::Unfinished),
            (Facts { gaps: 1, unsent: 2, ..facts() }, Ending::Incomplete),
            (Facts { left_out: 1, ..facts() }, Ending::Incomplete),
            (Facts { unsent: 1, ..facts() }, Ending::Unfinished),
            (Facts { missing: 1, ..facts() }, Ending::Unfinished),
            (Facts { missing: 1, is_cut: true, ..facts() }, Ending::RemoteEnded(id)),
            (Facts { is_cut: true, ..facts() }, Ending::RemoteEnded(id)),
            (Facts { reached: Reached::Nothing, ..facts() }, Ending::RemoteEnded(Reached::Nothing)),
            (Facts { confirms_end: true, ..facts() }, Ending::RemoteEnded(id)),
            (Facts { confirms_end: true, confirmed: true, is_cut: true, ..facts() }, Ending::Complete),
            (Facts { confirmed: true, gaps: 1, unsent: 3, ..facts() }, Ending::Incomplete),
            (Facts { confirmed: true, receiver: ReceiverEnd::Stopped, ..facts() }, Ending::Complete),
            (Facts { receiver: ReceiverEnd::Stopped, ..facts() }, Ending::LocalStop),
            (Facts { receiver: ReceiverEnd::TimedOut, ..facts() }, Ending::RemoteTimedOut(id)),
            (Facts { receiver: ReceiverEnd::RemoteError("why".into()), ..facts() }, Ending::RemoteError("why".into())),
            (Facts { receiver: ReceiverEnd::RemoteRefused("why".into()), ..facts() }, Ending::RemoteRefused("why".into())),
        ];
        for (nth, (facts, expected)) in cases.into_iter().enumerate() {
            assert_eq!(Ending::of(facts), expected, "case {nth}");
        }
    }
}
