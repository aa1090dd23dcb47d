//! Binds a session's two halves to two descriptors and the log: one thread in, one thread out, no queue between them.
//!
//! in:  descriptor → frame → message → log → bell        out: log → message → frame → descriptor
//!
//! The reader never waits for the writer, so two full pipes cannot stop each other.

mod inward;
mod keep;
mod outward;

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, mpsc};

use crate::entry::{ENTRY_BYTES_MAX, Offset, PeerId, Seq};
use crate::error::{Error, Result};
use crate::heads::{FeedKey, FeedMap};
use crate::proto::{Mode, Remote, put_digest};
use crate::store::Log;

/// How to replicate.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Which directions.
    pub mode: Mode,
    /// End when both sides hold what both held at the start; else go on with what arrives.
    pub once: bool,
    /// Store what the other side has deleted, and so cannot send, as deleted entries, instead of stopping the feed.
    pub accept_gaps: bool,
    /// The longest entry that is taken, in bytes.
    pub entry_bytes_max: usize,
    /// When this becomes readable, finish the commit in hand and return.
    pub stop: Option<BorrowedFd<'a>>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { mode: Mode::Sync, once: false, accept_gaps: false, entry_bytes_max: ENTRY_BYTES_MAX, stop: None }
    }
}

/// Something of one feed that the user must know; told as it happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Other bytes at the same place: the feed is stopped.
    Fork(PeerId, Seq),
    /// Something is missing after our head: the feed is stopped.
    Gap(PeerId, u32, Seq),
    /// The other side has our own id: it is this log itself, or a copy of it, whose forks this wire cannot show.
    SameId(PeerId),
    /// This wire cannot carry deleted entries: so many were left out, the first one at.
    DeletedLeftOut(PeerId, Seq),
}

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Outcome {
    /// Who the other side was; `None` when it ended without a word.
    pub peer: Option<PeerId>,
    /// Entries written to the wire.
    pub sent: u64,
    /// Entries that the other side lacked at the start and that were not sent.
    pub unsent: u64,
    /// Entries stored.
    pub received: u64,
    /// Entries that the other side announced at the start and that did not come.
    pub missing: u64,
    /// Feeds with other bytes at the same place.
    pub forks: u64,
    /// Feeds stopped at a gap.
    pub gaps: u64,
    /// The stream ended inside a frame, or the other side closed while we were sending.
    pub cut: bool,
    /// We left before the other side ended its stream, having all that it announced.
    pub left_first: bool,
    /// The caller's `stop` ended it.
    pub stopped: bool,
}

impl Outcome {
    /// Whether both sides held at the end what they were to have.
    pub fn complete(&self) -> bool {
        self.peer.is_some() && self.unsent == 0 && self.missing == 0 && self.gaps == 0 && !self.cut
    }
}

/// What the two threads share.
struct Shared<'a> {
    log: &'a Log,
    options: Options<'a>,
    notify: &'a (dyn Fn(Notice) + Sync),
    /// Our heads at the start, as our handshake announces them, and the last offset of that moment.
    ours: FeedMap,
    last_offset: Offset,
    remote: Mutex<Remote>,
    /// The inward thread has ended, or the other side's stream has: send the rest and end.
    in_ended: AtomicBool,
    /// … and with an error or a stop: do not even send the rest.
    abandoned: AtomicBool,
    /// The outward thread has ended with an error.
    out_failed: AtomicBool,
}

impl Shared<'_> {
    fn remote(&self) -> MutexGuard<'_, Remote> {
        self.remote.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Replicates `log` with whoever is at the other end of `input` and `output`, on the original's wire.
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
/// mode; errors of the log. What was received before is stored. A session that ended early is no error: see [`Outcome`].
pub fn replicate<R, W>(log: &Log, input: R, output: W, options: Options<'_>, notify: &(dyn Fn(Notice) + Sync)) -> Result<Outcome>
where
    R: Read + AsFd + Send,
    W: Write + AsFd + Send,
{
    let (mut ours, mut digests) = (Vec::new(), Vec::new());
    let last_offset = log.each_head(|peer, seq| {
        ours.push((FeedKey::of(peer), seq));
        put_digest(&mut digests, peer, seq);
    })?;
    let pipe = || std::io::pipe().map_err(|err| Error::io("no pipe can be made", err));
    let shared = Shared {
        log,
        options,
        notify,
        ours: FeedMap::from(ours),
        last_offset,
        remote: Mutex::default(),
        in_ended: AtomicBool::new(false),
        abandoned: AtomicBool::new(false),
        out_failed: AtomicBool::new(false),
    };
    // Each pipe says "I have ended" by its closing; nothing is ever written to it.
    let ((in_end, in_ends), (out_end, out_ends)): ((PipeReader, PipeWriter), (PipeReader, PipeWriter)) = (pipe()?, pipe()?);
    let (greet, greeted) = mpsc::sync_channel::<Mode>(1);
    let (inward, outward) = std::thread::scope(|threads| {
        let shared = &shared;
        let out = threads.spawn(move || {
            let result = outward::run(shared, output, digests, &greeted, &in_end);
            shared.out_failed.store(result.is_err(), Ordering::SeqCst);
            drop(out_ends);
            result
        });
        let inward = inward::run(shared, input, greet, &out_end, in_ends);
        (inward, out.join())
    });
    let outward = outward.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let mut outcome = inward?;
    let sent = outward?;
    outcome.sent = sent.sent;
    outcome.unsent = sent.unsent;
    outcome.cut |= sent.closed && sent.unsent > 0;
    Ok(outcome)
}

/// Tells the outward thread that the inward one is past its end, by dropping the pipe.
struct InEnds<'a> {
    shared: &'a Shared<'a>,
    pipe: Option<PipeWriter>,
}

impl InEnds<'_> {
    fn tell(&mut self, abandoned: bool) {
        self.shared.abandoned.fetch_or(abandoned, Ordering::SeqCst);
        self.shared.in_ended.store(true, Ordering::SeqCst);
        self.pipe = None;
    }
}

impl Drop for InEnds<'_> {
    /// Whoever leaves without a word leaves with an error.
    fn drop(&mut self) {
        if self.pipe.is_some() {
            self.tell(true);
        }
    }
}
