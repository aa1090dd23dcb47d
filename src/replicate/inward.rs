//! The receiving thread: reads, decodes, classifies and hashes; a second one behind it stores ([`super::keep`]).

use std::io::{ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::keep::{Batch, Keeper};
use super::shared::{Announced, Greet, InEnds, Shared};
use super::{Notice, Outcome, Step};
use crate::error::{Error, Result};
use crate::follow::{poll_until, wait_for};
use crate::heads::FeedKey;
use crate::proto::{Handshake, Incoming, Remote, Wire};
use crate::stage::{Stage, StoringEnded};

const PIPE_BYTES: i32 = 1 << 20;
/// How long a one-shot side that has sent all waits for the other one to say something, or to end its stream. It may have
/// all, and the other one is live on the original's wire; or what it awaits was deleted over there, and never comes.
/// So much of a frame that is not all there yet is a sign of life; less may be heartbeats that a damaged length swallows.
const PROGRESS_BYTES: u64 = 1 << 10;
/// How long the last words of a side that has closed its input may be on their way, on the native wire.
const CLOSED_MILLIS: u16 = 5000;

/// Runs until the other side ends its stream, or until a one-shot session has all that was announced.
pub fn run<'a>(
    shared: &'a Shared<'a>,
    mut input: impl Read + AsFd,
    greet: SyncSender<Greet>,
    out_end: &PipeReader,
    in_ends: PipeWriter,
) -> Result<Outcome> {
    let mut ends = InEnds { shared, pipe: Some(in_ends) };
    // Refused for what is no pipe, and over the user's limit: then it stays as it is.
    fcntl(input.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).ok();
    let keeper = Keeper::new(shared);
    std::thread::scope(|threads| {
        let mut inward = Inward {
            shared,
            incoming: Incoming::new(shared.options.mode, shared.options.entry_bytes_max),
            greet,
            keeper: &keeper,
            stage: Stage::new(threads, |batch| keeper.store(batch)),
            batch: Batch::default(),
            awaited: Vec::new(),
            last_progress: Instant::now(),
            progress_bytes: 0,
            expects_end: true,
            sends: true,
            outcome: Outcome::default(),
        };
        let received = inward.receive(&mut input, out_end);
        let Inward { incoming, stage, batch, expects_end, mut outcome, .. } = inward;
        // What came before an error of the stream is stored. An error of the log came first, and is the one that counts.
        let ended = stage.finish(Some(batch).filter(|batch| !batch.is_empty())).and(received);
        let ends_badly = outcome.wire == Some(Wire::Native) || !matches!(ended, Ok(End::Stream | End::Satisfied));
        if ends_badly && !shared.link().is_over() {
            let why = ended.as_ref().map_or_else(ToString::to_string, |end| end.why().to_owned());
            shared.link().fail(&why);
        }
        // The other side's end also ends a live session, unless it never meant to send.
        let abandoned = match &ended {
            Ok(End::Stopped | End::Silent) | Err(_) => true,
            // It never said a word: there is nobody to send to.
            Ok(_) if !incoming.greeted() => true,
            Ok(_) if outcome.wire == Some(Wire::Native) => true,
            Ok(End::Stream) if !expects_end => wait_out(shared, out_end)?,
            Ok(_) => false,
        };
        ends.tell(abandoned);
        let end = ended?;
        outcome.cut |= end == End::Stream && incoming.is_cut()?;
        outcome.silent = end == End::Silent;
        outcome.cut |= outcome.silent;
        if outcome.wire == Some(Wire::Native) {
            outcome.stopped = end == End::Stopped;
        } else {
            outcome.stopped = abandoned && incoming.greeted() && end != End::Silent;
        }
        outcome.left_first = end == End::Silent || end == End::Satisfied && outcome.wire != Some(Wire::Native);
        keeper.account(&mut outcome)?;
        Ok(outcome)
    })
}

/// The other side only pulls, and the outward thread goes on alone. True if the caller's stop ends that.
fn wait_out(shared: &Shared<'_>, out_end: &PipeReader) -> Result<bool> {
    let mut fds = vec![PollFd::new(out_end.as_fd(), PollFlags::POLLIN)];
    fds.extend(shared.options.stop.map(|stop| PollFd::new(stop, PollFlags::POLLIN)));
    wait_for(&mut fds)?;
    Ok(fds[0].any() != Some(true))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The other side ended its stream.
    Stream,
    /// A one-shot session has all that it wanted, and has sent nothing.
    Satisfied,
    /// The other side has fallen silent: what we sent may not have arrived.
    Silent,
    /// The caller's stop, or an error of another thread.
    Stopped,
}

impl End {
    /// What the other side is told.
    fn why(self) -> &'static str {
        match self {
            Self::Silent => "it heard nothing for too long",
            Self::Stream => "what came to it ended early",
            _ => "it was stopped",
        }
    }
}

enum Wait {
    Input,
    Over(End),
}

pub struct Inward<'a, 'scope, 'env> {
    pub shared: &'a Shared<'a>,
    pub incoming: Incoming,
    greet: SyncSender<Greet>,
    pub keeper: &'a Keeper<'a>,
    stage: Stage<'scope, 'env, Batch, Error>,
    pub batch: Batch,
    /// On the native wire, until all heads have come: feeds of which the other side holds more.
    pub awaited: Vec<(FeedKey, u32)>,
    /// When a frame, or much of one, had come.
    last_progress: Instant,
    /// The bytes that had come then.
    progress_bytes: u64,
    /// The other side sends, so that its stream stays open as long as it lives.
    expects_end: bool,
    /// We send.
    sends: bool,
    pub outcome: Outcome,
}

impl Inward<'_, '_, '_> {
    fn receive(&mut self, input: &mut (impl Read + AsFd), out_end: &PipeReader) -> Result<End> {
        let mut out_ended = false;
        loop {
            if let Wait::Over(end) = self.wait(input, out_end, &mut out_ended)? {
                return Ok(end);
            }
            match input.read(self.incoming.space()) {
                Ok(0) => return Ok(End::Stream),
                Ok(count) => {
                    self.incoming.filled(count);
                    self.outcome.bytes_received += count as u64;
                }
                Err(err) if matches!(err.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => continue,
                // A socket whose other end is gone.
                Err(err) if err.kind() == ErrorKind::ConnectionReset => {
                    self.outcome.cut = true;
                    return Ok(End::Stream);
                }
                Err(err) => return Err(Error::io("the other side cannot be read", err)),
            }
            let was_known = self.outcome.peer.is_some();
            let consumed = self.incoming.consumed();
            self.take()?;
            if self.is_stuck(consumed) {
                return Ok(End::Silent);
            }
            if !was_known && self.outcome.peer.is_some() {
                self.check_id()?;
            }
            if self.outcome.their_error.is_some() {
                return Ok(End::Stream);
            }
            let ready = || poll_until(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
            if (self.batch.is_full() || self.stage.is_idle() && !ready()?) && self.pass().is_err() {
                return Ok(End::Stopped);
            }
        }
    }

    /// Waits for input, or for the end of the session; meanwhile passes on what is in hand once the storing is idle.
    fn wait(&mut self, input: &impl AsFd, out_end: &PipeReader, out_ended: &mut bool) -> Result<Wait> {
        loop {
            let options = &self.shared.options;
            let native = self.outcome.wire == Some(Wire::Native);
            let stored_all = self.stage.is_idle() && self.batch.is_empty();
            let sent_all = !native && options.once && *out_ended && self.incoming.greeted() && stored_all;
            // A side that sends nothing loses nothing when it leaves first.
            if sent_all && self.keeper.has_all() && !self.sends || native && *out_ended && self.shared.link().is_over() {
                return Ok(Wait::Over(End::Satisfied));
            }
            let out = if *out_ended { None } else { Some(out_end.as_fd()) };
            let sources = [Some(input.as_fd()), self.stage.ready(), options.stop, out];
            let mut fds: Vec<PollFd<'_>> = sources.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            let closed = native && *out_ended;
            let grace = match self.silence(closed) {
                Some(silence) => {
                    PollTimeout::try_from(silence.saturating_sub(self.last_progress.elapsed())).unwrap_or(PollTimeout::MAX)
                }
                None if sent_all => PollTimeout::from(options.silence_millis),
                None => PollTimeout::NONE,
            };
            if !poll_until(&mut fds, grace)? {
                return Ok(Wait::Over(if closed { End::Stream } else { End::Silent }));
            }
            let mut polled = fds.iter().map(|fd| fd.any() == Some(true));
            let [readable, stored, stopped, out] = sources.map(|source| source.is_some() && polled.next() == Some(true));
            // The other side's FIN may have come already.
            if stopped && !(readable && native && self.shared.link().has_said_fin()) {
                return Ok(Wait::Over(End::Stopped));
            }
            if out {
                *out_ended = true;
                self.last_progress = Instant::now();
                if self.shared.out_failed.load(Ordering::SeqCst) {
                    return Ok(Wait::Over(End::Stopped));
                }
            }
            if stored && (self.stage.take_back().is_err() || !readable && self.stage.is_idle() && self.pass().is_err()) {
                return Ok(Wait::Over(End::Stopped));
            }
            if readable {
                return Ok(Wait::Input);
            }
        }
    }

    fn pass(&mut self) -> Result<(), StoringEnded> {
        if !self.batch.is_empty() {
            let is_large = self.batch.is_large();
            self.batch = self.stage.pass(std::mem::take(&mut self.batch))?;
            if is_large {
                self.stage.settle()?;
            }
            // It may have been us who did not listen.
            self.last_progress = Instant::now();
        }
        Ok(())
    }

    /// How long the other side may be silent, if there is a limit. `closed`: it will not say more than last words.
    fn silence(&self, closed: bool) -> Option<Duration> {
        let options = &self.shared.options;
        let is_limited = match self.outcome.wire {
            Some(Wire::Native) => true,
            _ => !self.incoming.greeted() && !options.await_opening,
        };
        let millis = if closed { CLOSED_MILLIS.min(options.silence_millis) } else { options.silence_millis };
        is_limited.then(|| Duration::from_millis(u64::from(millis)))
    }

    /// Whether nothing of use has come for too long, though bytes do come; `consumed` is what had been before.
    fn is_stuck(&mut self, consumed: u64) -> bool {
        let bytes = self.outcome.bytes_received;
        let has_begun = self.incoming.consumed() > 0;
        if self.incoming.consumed() > consumed || has_begun && bytes - self.progress_bytes >= PROGRESS_BYTES {
            (self.last_progress, self.progress_bytes) = (Instant::now(), bytes);
            return false;
        }
        self.silence(false).is_some_and(|silence| self.last_progress.elapsed() > silence)
    }

    /// Takes what has come.
    fn take(&mut self) -> Result<()> {
        if self.outcome.wire.is_none() {
            self.outcome.wire = self.incoming.wire(self.shared.options.wire != Some(Wire::Original))?;
            match (self.outcome.wire, self.shared.options.wire) {
                (None, _) => return Ok(()),
                (Some(Wire::Original), Some(Wire::Native)) => {
                    return Err(Error::Refused(
                        "the other side does not speak the native wire: use --wire auto, or a newer scuttleup there".into(),
                    ));
                }
                // Its end is on its way already.
                (Some(Wire::Original), Some(Wire::Original)) => {}
                (Some(Wire::Original), _) => self.tell(Greet::Original(self.shared.prepare_original()?)),
                (Some(Wire::Native), _) => self.tell(Greet::Native),
            }
        }
        match self.outcome.wire {
            Some(Wire::Native) => self.take_native(),
            _ => self.take_original(),
        }
    }

    fn tell(&self, greet: Greet) {
        // The outward thread may have ended already.
        self.greet.send(greet).ok();
    }

    /// The other side has said who it is, and on the original's wire what it holds.
    fn check_id(&self) -> Result<()> {
        let id = self.shared.log.own_id_now()?;
        if self.outcome.peer.as_ref() == Some(&id) {
            (self.shared.notify)(Notice::SameId(id.clone()));
        }
        // On the native wire its heads come later.
        if self.outcome.wire == Some(Wire::Original) && !self.expects_end {
            let feed = FeedKey::of(id.as_str());
            let ours = self.shared.announced.get().map_or(0, |announced| announced.heads.get(feed));
            let theirs = self.shared.remote().head(feed);
            if theirs > ours {
                (self.shared.notify)(Notice::StaysBehind(id, ours, theirs));
            }
        }
        Ok(())
    }

    fn take_original(&mut self) -> Result<()> {
        // The outward thread sees an entry only after the commit, and so after this: nothing is echoed.
        let mut remote = self.shared.remote();
        if !self.incoming.greeted() {
            match self.incoming.handshake()? {
                Some(handshake) => self.greet(&mut remote, handshake),
                None => return Ok(()),
            }
        }
        let mut known = remote.known();
        while let Some(change) = self.incoming.change()? {
            let (peer, head) = known.of(change.peer).map_err(|err| Error::Wire(err.to_string()))?;
            *head = change.seq.get().max(*head);
            self.batch.add(peer, change.seq, change.entry);
        }
        Ok(())
    }

    /// The handshake has come: the outward thread may begin.
    fn greet(&mut self, remote: &mut Remote, handshake: Handshake) {
        let Handshake { id, heads, mode } = handshake;
        self.outcome.peer = Some(id);
        let receives = mode.sends_to(self.shared.options.mode);
        self.expects_end = receives;
        self.sends = self.shared.options.mode.sends_to(mode);
        let nothing = Announced::default();
        let ours = &self.shared.announced.get().unwrap_or(&nothing).heads;
        let awaited: Vec<_> = heads.iter().filter(|&(feed, seq)| receives && seq > ours.get(feed)).collect();
        self.shared.step(Step::Ahead(awaited.iter().map(|&(feed, seq)| u64::from(seq - ours.get(feed))).sum()));
        self.keeper.expect(awaited);
        *remote = Remote::new(heads);
        self.tell(Greet::Handshake(mode));
    }
}
