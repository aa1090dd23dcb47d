//! Binds a session's two halves to two descriptors and the log: one thread in, one thread out, no queue between them.
//!
//! in:  descriptor → frame → message → log → bell        out: log → message → frame → descriptor
//!
//! The reader never waits for the writer, so two full pipes cannot stop each other.

mod arrive;
mod inward;
mod keep;
mod native;
mod outward;
mod pipe;
mod shared;

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Instant;

pub use keep::GAP_ENTRIES_MAX;

use crate::entry::{ENTRY_BYTES_MAX, PeerId, Seq};
use crate::error::{Error, Result};
use crate::proto::{Mode, Wire};
use crate::store::Log;
use shared::{Greet, Shared};

/// How to replicate.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Which directions.
    pub mode: Mode,
    /// End when both sides hold what both held at the start; else go on with what arrives, if the other side does, too.
    pub once: bool,
    /// The only wire to be used; `None`: the native one if the other side speaks it, else the original's.
    pub wire: Option<Wire>,
    /// Store what the other side has deleted, and the original's wire cannot carry, as deleted entries, instead of stopping
    /// the feed.
    pub accept_gaps: bool,
    /// The longest entry that is taken, in bytes.
    pub entry_bytes_max: usize,
    /// On the native wire: an idle side says so this often, and is given up after this long without a word.
    pub heartbeat_millis: u16,
    /// See there. The other side's first words are awaited as long, on either wire, and on the original's its end, once
    /// all is sent.
    pub silence_millis: u16,
    /// Await them without end: somebody may be typing a password.
    pub await_opening: bool,
    /// Is told how far the session is; must not block.
    pub progress: Option<&'a (dyn Fn(Step) + Sync)>,
    /// When this becomes readable, finish the commit in hand and return.
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
            heartbeat_millis: 15_000,
            silence_millis: 60_000,
            await_opening: false,
            progress: None,
            stop: None,
        }
    }
}

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// So many more entries are to move, as far as one side can tell.
    Ahead(u64),
    /// They have: stored, or written to the wire, or found to be there already.
    Moved {
        /// Entries.
        entries: u64,
        /// Bytes of them.
        bytes: u64,
    },
}

/// Something that the user must know; told as it happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Other bytes at the same place: the feed is stopped.
    Fork(PeerId, Seq),
    /// That was our own feed: what is appended from now on goes to the feed of this new id.
    NewId(PeerId),
    /// Something is missing after our head: the feed is stopped.
    Gap(PeerId, u32, Seq),
    /// One of the two logs never learned what was deleted there ([`Options::accept_gaps`]), so that the native wire cannot
    /// compare what follows: the feed is stopped.
    Hole(PeerId, Seq),
    /// The entry is longer than the other side takes, in bytes: the feed is stopped.
    TooLong(PeerId, Seq, u64),
    /// The other side holds more of our own feed than we do, up to this seq: we take it back.
    Behind(PeerId, u32),
    /// The same, but our mode or the other side's does not let us take it back: we hold so many, the other side so many.
    StaysBehind(PeerId, u32, u32),
    /// The other side has our own id: it is this log itself, or a copy of it.
    SameId(PeerId),
    /// The original's wire cannot carry deleted entries: so many were left out, the first one at.
    DeletedLeftOut(PeerId, Seq),
    /// The original cannot hold ids like this one: its feed, and others like it, are left out.
    IdLeftOut(PeerId),
}

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Outcome {
    /// Who the other side was; `None` when it ended without a word.
    pub peer: Option<PeerId>,
    /// The wire that was used.
    pub wire: Option<Wire>,
    /// Entries written to the wire.
    pub sent: u64,
    /// Those of them that the other side has on disk, where the wire tells (the native one).
    pub durable: Option<u64>,
    /// Entries that the other side lacked at the start and that were not sent; when cut, those appended since, too.
    pub unsent: u64,
    /// Entries stored.
    pub received: u64,
    /// Entries that the other side announced at the start and that did not come.
    pub missing: u64,
    /// Entries that the other side lacked and that the original's wire cannot carry, as they were deleted here; not counted
    /// with [`Options::accept_gaps`].
    pub left_out: u64,
    /// Feeds with other bytes at the same place.
    pub forks: u64,
    /// Feeds stopped at a gap, or at an entry that is longer than the other side takes.
    pub gaps: u64,
    /// The stream ended before the session did.
    pub cut: bool,
    /// The other side was silent for too long.
    pub silent: bool,
    /// What the other side said that it ended for.
    pub their_error: Option<String>,
    /// We left before the other side ended its stream, having all that it announced.
    pub left_first: bool,
    /// The caller's `stop` ended it.
    pub stopped: bool,
    /// Bytes written to and read from the other side.
    pub bytes_sent: u64,
    /// See there.
    pub bytes_received: u64,
    /// How long it took.
    pub millis: u64,
}

impl Outcome {
    /// Whether both sides held at the end what they were to have.
    pub fn complete(&self) -> bool {
        let moved = self.unsent == 0 && self.left_out == 0 && self.missing == 0;
        self.peer.is_some() && moved && self.gaps == 0 && self.forks == 0 && !self.cut
    }
}

/// Replicates `log` with whoever is at the other end of `input` and `output`.
///
/// `output` is set to non-blocking for the time of the session, and closed when all is sent: a pipe by dropping it, a
/// socket by shutting its sending half down.
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
/// [`Error::Wire`] when the other side does not speak the protocol, [`Error::Refused`] when it does not keep to our
/// mode or wire; errors of the log. What was received before is stored. A session that ended early is no error: see [`Outcome`].
pub fn replicate<R, W>(log: &Log, input: R, output: W, options: Options<'_>, notify: &(dyn Fn(Notice) + Sync)) -> Result<Outcome>
where
    R: Read + AsFd + Send,
    W: Write + AsFd + Send,
{
    let start = Instant::now();
    let shared = Shared::new(log, options, notify)?;
    let pipe = || std::io::pipe().map_err(|err| Error::io("no pipe can be made", err));
    // Each pipe says "I have ended" by its closing; nothing is ever written to it.
    let ((in_end, in_ends), (out_end, out_ends)): ((PipeReader, PipeWriter), (PipeReader, PipeWriter)) = (pipe()?, pipe()?);
    let (greet, greeted) = mpsc::sync_channel::<Greet>(2);
    if options.wire == Some(Wire::Original) {
        greet.send(Greet::Original(shared.prepare_original()?)).ok();
    }
    let (inward, outward) = std::thread::scope(|threads| {
        let shared = &shared;
        let out = threads.spawn(move || {
            let result = outward::run(shared, output, &greeted, &in_end);
            shared.out_failed.store(result.is_err(), Ordering::SeqCst);
            drop(out_ends);
            result
        });
        let inward = inward::run(shared, input, greet, &out_end, in_ends);
        (inward, out.join())
    });
    let outward = outward.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let mut outcome = inward?;
    let mut sent = outward?;
    if outcome.wire == Some(Wire::Native) {
        native::account(&shared, &mut sent)?;
        // However the stream ended: both FINs say that it may.
        outcome.cut = !shared.link().is_over();
        outcome.stopped &= outcome.cut;
    } else {
        outcome.cut |= sent.closed && sent.unsent > 0;
    }
    outcome.sent = sent.sent;
    outcome.durable = sent.durable;
    outcome.unsent = sent.unsent;
    outcome.left_out = sent.left_out;
    outcome.gaps += sent.too_long;
    outcome.bytes_sent = sent.bytes;
    outcome.millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(outcome)
}
