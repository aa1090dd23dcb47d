//! The receiving thread: reads, decodes, classifies and hashes; a second one behind it stores ([`super::keep`]).

use std::io::{ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::keep::{Batch, Keeper};
use super::{InEnds, Outcome, Shared};
use crate::error::{Error, Result};
use crate::follow::{poll_until, wait_for};
use crate::heads::Heads;
use crate::proto::{Handshake, Incoming, Mode, Remote};
use crate::stage::{Stage, StoringEnded, stage};

const PIPE_BYTES: i32 = 1 << 20;
/// How long a side that has all that it wants waits for the other one to end its stream.
const GRACE_MILLIS: u16 = 60_000;

/// Runs until the other side ends its stream, or until a one-shot session has all that was announced.
pub fn run<'a>(
    shared: &'a Shared<'a>,
    mut input: impl Read + AsFd,
    greet: SyncSender<Handshake>,
    out_end: &PipeReader,
    in_ends: PipeWriter,
) -> Result<Outcome> {
    let mut ends = InEnds { shared, pipe: Some(in_ends) };
    // Refused for what is no pipe, and over the user's limit: then it stays as it is.
    fcntl(input.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).ok();
    let keeper = Keeper::new(shared);
    let (stage, storing) = stage::<Batch>()?;
    let mut inward = Inward {
        shared,
        incoming: Incoming::new(shared.options.mode, shared.options.entry_bytes_max),
        greet: Some(greet),
        ours: shared.log.heads()?,
        keeper: &keeper,
        stage,
        batch: Batch::default(),
        expects_end: true,
        outcome: Outcome::default(),
    };
    std::thread::scope(|threads| {
        let keeper = &keeper;
        let storing = threads.spawn(move || storing.run(|batch| keeper.store(batch)));
        let received = inward.receive(&mut input, out_end).and_then(|end| inward.drain().map(|()| end));
        let Inward { incoming, stage, expects_end, mut outcome, .. } = inward;
        drop(stage);
        // An error of the log came first, and is why nothing more was received.
        let stored: Result<()> = storing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let ended = stored.and(received);
        // The other side's end also ends a live session, unless it never meant to send.
        let abandoned = match &ended {
            Ok(End::Stopped) | Err(_) => true,
            // It never said a word: there is nobody to send to.
            Ok(_) if !incoming.greeted() => true,
            Ok(End::Stream) if !expects_end => wait_out(shared, out_end)?,
            Ok(_) => false,
        };
        ends.tell(abandoned);
        let end = ended?;
        if end == End::Stream
            && let Some(err) = incoming.cut()
        {
            // A cut before the handshake is no session at all.
            if !incoming.greeted() {
                return Err(err);
            }
            outcome.cut = true;
        }
        outcome.stopped = abandoned && incoming.greeted();
        outcome.left_first = end == End::Satisfied;
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
    /// A one-shot session has all that it wanted.
    Satisfied,
    /// The caller's stop, or an error of another thread.
    Stopped,
}

enum Wait {
    Input,
    Over(End),
}

struct Inward<'a> {
    shared: &'a Shared<'a>,
    incoming: Incoming,
    greet: Option<SyncSender<Handshake>>,
    /// Our heads at the start.
    ours: Heads,
    keeper: &'a Keeper<'a>,
    stage: Stage<Batch>,
    batch: Batch,
    /// The other side's stream stays open as long as it lives.
    expects_end: bool,
    outcome: Outcome,
}

impl Inward<'_> {
    fn receive(&mut self, input: &mut (impl Read + AsFd), out_end: &PipeReader) -> Result<End> {
        let mut out_ended = false;
        loop {
            if let Wait::Over(end) = self.wait(input, out_end, &mut out_ended)? {
                return Ok(end);
            }
            match input.read(self.incoming.space()) {
                Ok(0) => return Ok(End::Stream),
                Ok(count) => self.incoming.filled(count),
                Err(err) if matches!(err.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => continue,
                // A socket whose other end is gone.
                Err(err) if err.kind() == ErrorKind::ConnectionReset => {
                    self.outcome.cut = true;
                    return Ok(End::Stream);
                }
                Err(err) => return Err(Error::io("the other side cannot be read", err)),
            }
            if let Err(err) = self.take_frames() {
                // What came before it is stored.
                self.drain()?;
                return Err(err);
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
            let satisfied = options.once && *out_ended && self.keeper.has_all() && self.stage.is_idle() && self.batch.is_empty();
            // A side that sent nothing loses nothing when it leaves first.
            if satisfied && options.mode == Mode::Pull {
                return Ok(Wait::Over(End::Satisfied));
            }
            let mut fds = vec![PollFd::new(input.as_fd(), PollFlags::POLLIN), PollFd::new(self.stage.as_fd(), PollFlags::POLLIN)];
            let end = if *out_ended { None } else { Some(out_end.as_fd()) };
            fds.extend(options.stop.into_iter().chain(end).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            let grace = if satisfied { PollTimeout::from(GRACE_MILLIS) } else { PollTimeout::NONE };
            if !poll_until(&mut fds, grace)? {
                return Ok(Wait::Over(End::Satisfied));
            }
            let mut is_ready = fds.iter().map(|fd| fd.any() == Some(true));
            let mut next = || is_ready.next() == Some(true);
            let (readable, stored, stopped, out) = (next(), next(), options.stop.is_some() && next(), next());
            if stopped {
                return Ok(Wait::Over(End::Stopped));
            }
            if out {
                *out_ended = true;
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
            self.batch = self.stage.pass(std::mem::take(&mut self.batch))?;
        }
        Ok(())
    }

    /// Stores all that is in hand, and waits for it.
    fn drain(&mut self) -> Result<()> {
        let mut result = self.pass();
        while result.is_ok() && !self.stage.is_idle() {
            result = self.stage.take_back();
        }
        // If the storing has ended, its own error is the one to tell.
        Ok(result.unwrap_or_default())
    }

    fn take_frames(&mut self) -> Result<()> {
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
        self.outcome.peer = Some(handshake.id.clone());
        self.expects_end = handshake.mode != Mode::Pull;
        let sends = handshake.mode.sends_to(self.shared.options.mode);
        let more = handshake.heads.iter().filter(|(peer, seq)| sends && *seq > self.ours.get(peer.as_str()));
        self.keeper.expect(more.cloned());
        *remote = Remote::new(&handshake.heads);
        if let Some(greet) = self.greet.take() {
            // It may have ended already.
            greet.send(handshake).ok();
        }
    }
}
