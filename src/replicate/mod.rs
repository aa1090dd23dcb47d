//! Replication: connects a session of `wire` to two descriptors and a log. It has two threads, and holds no lock during I/O:
//!
//! ```text
//! receiver: input → events of the session → batches → ingest (stores them in a third thread) → news for the sender
//! sender:   news → log → frames of the session → output
//! ```
//!
//! The receiver never waits for the sender, so two full pipes cannot block each other.

mod compare;
mod coordination;
mod ledger;
mod outcome;
mod output;
mod receiver;
mod sender;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::Builder;
use std::time::Instant;

pub use compare::{Common, Comparison, FeedDifference};
pub use outcome::{Ending, Outcome, Reached};

use crate::ingest::Quota;
use crate::model::{ENTRY_BYTES_MAX, Error, PeerChoice, PeerGlobs, PeerId, Result, Seq, Tombstone};
use crate::store::{InotifyLimit, Log};
use crate::wire::{Link, Local, Mode, Session, Wire};
use coordination::Coordination;
use outcome::{Facts, ReceiverEnd};
use output::Written;

/// This many bytes show that the remote is alive, in one frame that it sends, or of what it reads while the output is full. Fewer
/// bytes may be heartbeats that follow a damaged length and so become part of the frame.
const PROGRESS_BYTES: u64 = 1 << 10;

/// The options of a replication.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The directions in which entries may move.
    pub mode: Mode,
    /// End when both logs hold all entries that they held at the start and that the modes let move. If false, continue with new entries as they arrive, if the
    /// remote does so too.
    pub once: bool,
    /// The only wire that is allowed; `None`: the native wire if the remote speaks it, else the original's.
    pub wire: Option<Wire>,
    /// Fill gaps with unknown tombstones instead of stopping the feed. The original wire leaves gaps where entries were deleted.
    pub accept_gaps: bool,
    /// The longest entry that is accepted, in bytes.
    pub entry_bytes_max: usize,
    /// Only feeds with an id that matches take part: the others are neither sent nor stored, and nothing is said about them; `None`:
    /// all feeds.
    pub selected: Option<&'a PeerGlobs>,
    /// Only feeds with an id that matches are accepted from the remote, the others are refused; `None`: all feeds.
    pub allowed: Option<&'a PeerGlobs>,
    /// The limit for what this session stores.
    pub quota: Quota,
    /// On the native wire an idle side sends a heartbeat after this time.
    pub heartbeat_millis: u16,
    /// A remote that sends nothing useful for this time has timed out. On the original wire, this applies only before the
    /// handshake of the remote, and to the end of its stream after everything was sent. A remote that reads nothing for this
    /// time while the output is full has timed out on both wires.
    pub silence_millis: u16,
    /// Wait for the handshake without a time limit, because the user may have to type a password.
    pub await_opening: bool,
    /// Called with the progress of the session. Must not block.
    pub progress: Option<&'a (dyn Fn(Step<'_>) + Sync)>,
    /// When this becomes readable, the session finishes its commit and returns.
    pub stop: Option<BorrowedFd<'a>>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            mode: Mode::Sync,
            once: false,
            wire: None,
            accept_gaps: false,
            entry_bytes_max: ENTRY_BYTES_MAX,
            selected: None,
            allowed: None,
            quota: Quota::default(),
            heartbeat_millis: 15_000,
            silence_millis: 60_000,
            await_opening: false,
            progress: None,
            stop: None,
        }
    }
}

/// A step of the progress of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// The session has to move this many additional entries, as far as the local side knows.
    Ahead(u64),
    /// Entries were stored, written to the wire, or already known.
    Moved {
        /// Number of entries.
        entries: u64,
        /// Number of bytes.
        bytes: u64,
    },
    /// A live session has transferred everything for now, and waits for new entries. This may be reported often.
    CaughtUp {
        /// The id of the remote log.
        peer: &'a PeerId,
        /// Whether the modes let this log send entries.
        sends: bool,
        /// Whether the modes let the remote send entries.
        receives: bool,
        /// Whether everything was transferred that the modes let move. If not, feeds are stopped.
        all: bool,
        /// Whether only some feeds take part.
        partial: bool,
    },
}

/// A message for the user. It is given immediately.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The two logs hold different bytes for this entry: the feed is stopped.
    Fork(PeerId, Seq),
    /// The remote claims different bytes for this entry. It has not shown them, or the local mode stores nothing: the feed is
    /// stopped, and the log is not changed.
    UnprovenFork(PeerId, Seq),
    /// The local feed has forked: new entries go to the feed of this new id.
    NewId(PeerId),
    /// Entries between this head and this entry are missing: the feed is stopped.
    Gap(PeerId, u32, Seq),
    /// One of the two logs has an unknown tombstone for this entry ([`Options::accept_gaps`]), so the native wire cannot compare
    /// the entries that follow: the feed is stopped.
    NotComparable(PeerId, Seq),
    /// The remote has pruned this feed up to this entry, the last value: the feed of this log goes on behind it. The value before is
    /// the head of this log before.
    Floor(PeerId, u32, Seq),
    /// The remote has pruned the local feed up to this entry, the last value, which is above the local head, the value before: the
    /// feed is stopped.
    FloorOfLocalFeed(PeerId, u32, Seq),
    /// This feed is the local feed of the remote log, which lacks entries that this log has pruned, up to this one: the feed is stopped.
    FloorRefused(PeerId, Seq),
    /// The feeds of the two logs differ at this entry or before it, and these entries were pruned: the feed is stopped.
    ForkAtFloor(PeerId, Seq),
    /// This log has pruned this feed up to this entry. The remote lacks entries before it, and the wire or the remote does not know
    /// floors.
    PrunedLeftOut(PeerId, Seq, Wire),
    /// The entry is longer than the remote accepts, in bytes: the feed is stopped.
    TooLong(PeerId, Seq, u64),
    /// The remote holds or sends entries of this feed, which is not allowed: they are not stored.
    Refused(PeerId),
    /// The remote does not accept this feed (native wire): such feeds are not sent.
    NotAccepted(PeerId),
    /// The remote holds the local feed up to this seq, which is above the local head: this log receives the missing entries.
    Behind(PeerId, u32),
    /// The remote's head of the local feed is above the local head, but the modes do not allow this log to receive the missing
    /// entries: the local head, the remote's head.
    StaysBehind(PeerId, u32, u32),
    /// The remote has the id of this log: it is this log, or a copy of it.
    SameId(PeerId),
    /// The entry is deleted, and the original wire cannot send deleted entries: the remote gets a gap.
    DeletedLeftOut(PeerId, Seq),
    /// The original cannot hold a feed with an id such as this one: such feeds are not sent.
    IdLeftOut(PeerId),
    /// The session is live, and the remote's mode, which is given, closes a direction that the local mode opens.
    OneWay(Mode),
    /// This limit of inotify is exhausted: the session looks for new entries of this log every second.
    Polling(InotifyLimit),
    /// Old entries could not be sealed, for this reason. They are in the log nevertheless.
    NotSealed(String),
}

/// Replicates `log` with the remote at the other end of `input` and `output`.
///
/// `output` is non-blocking during the session. It is closed when everything is sent: a pipe is dropped, the sending half of
/// a socket is shut down.
///
/// ```
/// use scuttleup::{Log, Options, PeerId, replicate};
///
/// # let dir = std::env::temp_dir().join(format!("scuttleup-doc-replicate-{}", std::process::id()));
/// # let alice = Log::create(dir.join("alice"), Some(PeerId::new("alice")?))?;
/// # let bob = Log::create(dir.join("bob"), Some(PeerId::new("bob")?))?;
/// alice.append(b"1")?;
/// let (to_bob, from_alice) = std::io::pipe().map_err(|err| scuttleup::Error::io("a pipe", err))?;
/// let (to_alice, from_bob) = std::io::pipe().map_err(|err| scuttleup::Error::io("a pipe", err))?;
/// let once = Options { once: true, ..Options::default() };
/// let outcome = std::thread::scope(|threads| {
///     threads.spawn(|| replicate(&bob, to_bob, from_bob, once, &|_| ()));
///     replicate(&alice, to_alice, from_alice, once, &|notice| eprintln!("{notice:?}"))
/// })?;
/// assert!(outcome.complete());
/// assert_eq!((outcome.sent, outcome.received), (1, 0));
/// assert_eq!(bob.heads()?.get("alice"), 1);
/// # std::fs::remove_dir_all(dir).ok();
/// # Ok::<(), scuttleup::Error>(())
/// ```
///
/// # Errors
/// [`Error::Wire`] when the remote breaks the protocol, [`Error::PushOnly`] and [`Error::NoNativeWire`] when it breaks the
/// local mode or wire; errors of the log. Everything that was received before is stored. A session that ended early is not an
/// error: see [`Outcome`].
pub fn replicate<R, W>(log: &Log, input: R, output: W, options: Options<'_>, notify: &(dyn Fn(Notice) + Sync)) -> Result<Outcome>
where
    R: Read + AsFd + Send,
    W: Write + AsFd + Send,
{
    let context = Context { log, options, notify, each_difference: None };
    run(&context, input, output).map(|(_, outcome)| outcome)
}

/// Compares `log` with the log of the remote at the other end of `input` and `output`, as [`replicate`]. Changes nothing in either
/// log. Gives each feed that differs to `each`, and returns the result if the session ended in order.
///
/// Of `options`, the mode and what is stored have no meaning.
///
/// # Errors
/// As [`replicate`].
pub fn compare<R, W>(
    log: &Log,
    input: R,
    output: W,
    options: Options<'_>,
    notify: &(dyn Fn(Notice) + Sync),
    each: &(dyn Fn(FeedDifference) + Sync),
) -> Result<(Outcome, Option<Comparison>)>
where
    R: Read + AsFd + Send,
    W: Write + AsFd + Send,
{
    let options = Options { mode: Mode::Compare, once: true, ..options };
    let context = Context { log, options, notify, each_difference: Some(each) };
    let (comparing, outcome) = run(&context, input, output)?;
    let comparison = match comparing.filter(|_| outcome.complete()) {
        Some(comparing) => Some(comparing.finish(&context, &outcome)?),
        None => None,
    };
    Ok((outcome, comparison))
}

/// Runs a session. Returns the comparison, and how the session ended.
fn run<'a, R, W>(context: &'a Context<'a>, input: R, output: W) -> Result<(Option<compare::Comparing<'a>>, Outcome)>
where
    R: Read + AsFd + Send,
    W: Write + AsFd + Send,
{
    let start = Instant::now();
    let coordination = Coordination::new()?;
    let Session { incoming, outgoing } = Session::new(context.local()?);
    let pipe: std::io::Result<(PipeReader, PipeWriter)> = std::io::pipe();
    let (sender_done, done_writer) = pipe.map_err(|err| Error::io("cannot create a pipe", err))?;
    let (received, sent) = std::thread::scope(|threads| -> Result<_> {
        let coordination = &coordination;
        let sender = Builder::new().spawn_scoped(threads, move || {
            let sent = sender::run(context, coordination, outgoing, output);
            if sent.is_err() {
                coordination.set_sender_failed();
            }
            drop(done_writer);
            sent
        });
        let sender = sender.map_err(|err| Error::io("cannot start a thread", err))?;
        let received = receiver::run(context, coordination, incoming, input, &sender_done);
        // The sender must not wait for a receiver that has failed.
        if received.is_err() {
            coordination.abandon("it failed".into());
        }
        Ok((received, sender.join()))
    })?;
    let sent = sent.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let (received, mut sent) = (received?, sent?);
    // The last acknowledgements may have come after the last write.
    coordination.learn(&mut sent.outgoing);
    let outcome = outcome(context, &received, &sent, start)?;
    Ok((received.comparing, outcome))
}

fn outcome(context: &Context<'_>, received: &receiver::Received<'_>, sent: &sender::Sent, start: Instant) -> Result<Outcome> {
    let &receiver::Received { reached, is_cut, confirms_end, remote_mode, wire, ref ledger, bytes, .. } = received;
    let end = received.end.clone();
    let outgoing = &sent.outgoing;
    let durable = outgoing.durable();
    // It is unknown how much of an unfinished write has arrived. Only acknowledged entries of it count as sent.
    let entries_sent = sent.entries.max(durable.unwrap_or(0));
    let mut unsent = if outgoing.is_confirmed() { 0 } else { outgoing.framed() - entries_sent };
    if outgoing.has_unsent(sent.written != Written::All) {
        context.log.each_head(|peer, head| unsent += outgoing.lacks(peer, head))?;
    }
    let (deleted, too_long) = outgoing.left_out();
    let left_out = if context.options.accept_gaps { 0 } else { deleted };
    let (missing, missing_by_mode) = ledger.missing(context.log)?;
    let missing_by_mode = (!outgoing.remote_is_silent()).then_some(missing_by_mode);
    let (forks, gaps, not_allowed) = (ledger.forks, ledger.gaps + too_long, ledger.refused());
    // A remote that is too old to leave feeds out sends no FIN, but everything else has moved.
    let confirmed = outgoing.is_confirmed() || ledger.ignored > 0 && outgoing.has_sent_fin();
    let is_cut = is_cut || sent.written == Written::Closed && unsent > 0;
    let left_first = end == ReceiverEnd::TimedOut || end == ReceiverEnd::Satisfied && !confirms_end;
    let facts =
        Facts { receiver: end, reached, is_cut, confirms_end, confirmed, unsent, missing, left_out, forks, gaps, not_allowed };
    Ok(Outcome {
        ending: Ending::of(facts),
        peer: received.remote_id.clone(),
        local_mode: context.options.mode,
        remote_mode,
        remote_compares: received.remote_compares,
        wire,
        confirmed,
        left_first,
        sent: entries_sent,
        durable,
        unsent,
        unsent_by_mode: outgoing.unsent_by_mode(),
        received: ledger.received,
        missing,
        missing_by_mode,
        left_out,
        forks,
        gaps,
        not_allowed,
        floors: ledger.floors,
        selected: context.choice().selected,
        remote_is_partial: outgoing.remote_is_partial(),
        ignored: ledger.ignored,
        bytes_sent: sent.bytes,
        bytes_received: bytes,
        millis: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// The log and the options of a session, for both threads.
struct Context<'a> {
    log: &'a Log,
    options: Options<'a>,
    notify: &'a (dyn Fn(Notice) + Sync),
    /// The session only compares, and gives each feed that differs to this function.
    each_difference: Option<&'a (dyn Fn(FeedDifference) + Sync)>,
}

impl Context<'_> {
    /// The description of the local side for the session.
    fn local(&self) -> Result<Local> {
        let (root, last_offset) = self.log.state()?;
        Ok(Local {
            id: self.log.local_id()?,
            mode: self.options.mode,
            live: !self.options.once,
            root,
            last_offset,
            entry_bytes_max: self.options.entry_bytes_max,
            choice: self.choice(),
            wire: self.options.wire,
            // The standard library seeds each hasher with random keys.
            nonce: RandomState::new().build_hasher().finish(),
        })
    }

    /// The feeds of the session.
    fn choice(&self) -> PeerChoice {
        let globs = |globs: Option<&PeerGlobs>| globs.cloned().unwrap_or_default();
        PeerChoice { selected: globs(self.options.selected), allowed: globs(self.options.allowed) }
    }

    /// Reports a step of the progress.
    fn step(&self, step: Step<'_>) {
        if let Some(progress) = self.options.progress {
            progress(step);
        }
    }

    /// Returns a function that reads an entry of the log, and the chain of its feed after it.
    fn link_of(&self) -> impl FnMut(&str, u32) -> Result<Option<Link>> {
        let (log, mut reader) = (self.log, self.log.reader());
        move |peer, seq| {
            let Some(chain) = reader.chain_at(peer, seq)? else { return Ok(None) };
            let entry = match Seq::new(u64::from(seq)) {
                Some(seq) => reader.entry(peer, seq, |change| change.entry.tombstone())?,
                None => None,
            };
            // The floor is read last: it only rises, so that it is not below the floor at which the chain was read.
            Ok(Some(Link { entry: entry.unwrap_or(Tombstone::UNKNOWN), chain, floor: log.floor(peer)? }))
        }
    }
}
