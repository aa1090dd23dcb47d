//! The receiving thread.

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::{InEnds, Notice, Outcome, Shared};
use crate::entry::{Entry, PeerId};
use crate::error::{Error, Result};
use crate::follow::{poll_until, wait_for};
use crate::heads::Heads;
use crate::proto::{Handshake, Incoming, Mode, Remote};
use crate::store::{Put, Writer};

/// A batch is committed when the input would block, or at one of these.
const BATCH_ENTRIES_MAX: u64 = 16 << 10;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// A batch of at least so many bytes is a bulk transfer, and waits this long for more before it is committed: the other
/// side may just be slower than we are. Single entries of a live session never wait.
const BULK_BYTES: usize = 64 << 10;
const BULK_LINGER_MILLIS: u16 = 2;
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
    let mut inward = Inward {
        shared,
        incoming: Incoming::new(shared.options.mode, shared.options.entry_bytes_max),
        greet: Some(greet),
        ours: shared.log.heads()?,
        awaited: Awaited::default(),
        stopped: HashSet::new(),
        expects_end: true,
        outcome: Outcome::default(),
    };
    let ended = inward.receive(&mut input, out_end);
    // The other side's end also ends a live session, unless it never meant to send.
    let abandoned = match ended {
        Ok(End::Stopped) | Err(_) => true,
        Ok(End::Stream) if !inward.expects_end => {
            // It only pulls: nothing more comes in, and the outward thread goes on alone.
            wait_out(shared, out_end)?
        }
        Ok(_) => false,
    };
    ends.tell(abandoned);
    inward.finish(ended?, abandoned)
}

/// Waits for the outward thread to end; true if the caller's stop came first.
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
    /// The caller's stop, or an error of the outward thread.
    Stopped,
}

struct Inward<'a> {
    shared: &'a Shared<'a>,
    incoming: Incoming,
    greet: Option<SyncSender<Handshake>>,
    /// Our heads at the start.
    ours: Heads,
    awaited: Awaited,
    /// Feeds stopped by a fork or a gap.
    stopped: HashSet<PeerId>,
    /// The other side's stream stays open as long as it lives.
    expects_end: bool,
    outcome: Outcome,
}

impl Inward<'_> {
    fn receive(&mut self, input: &mut (impl Read + AsFd), out_end: &PipeReader) -> Result<End> {
        loop {
            match self.wait(input, out_end)? {
                Wait::Input => {}
                Wait::Over(end) => return Ok(end),
            }
            if self.read_batch(input)? {
                return Ok(End::Stream);
            }
        }
    }

    /// Waits for input, or for the end of a one-shot session.
    fn wait(&self, input: &impl AsFd, out_end: &PipeReader) -> Result<Wait> {
        let mut out_ended = false;
        loop {
            let satisfied = self.shared.options.once && self.incoming.greeted() && self.awaited.heads.is_empty();
            if out_ended && satisfied && self.nothing_to_wait_for() {
                return Ok(Wait::Over(End::Satisfied));
            }
            let mut fds = vec![PollFd::new(input.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.shared.options.stop.map(|stop| PollFd::new(stop, PollFlags::POLLIN)));
            if !out_ended {
                fds.push(PollFd::new(out_end.as_fd(), PollFlags::POLLIN));
            }
            let grace = if out_ended && satisfied { PollTimeout::from(GRACE_MILLIS) } else { PollTimeout::NONE };
            if !poll_until(&mut fds, grace)? {
                return Ok(Wait::Over(End::Satisfied));
            }
            if self.shared.options.stop.is_some() && fds[1].any() == Some(true) {
                return Ok(Wait::Over(End::Stopped));
            }
            if fds[0].any() == Some(true) {
                return Ok(Wait::Input);
            }
            out_ended = true;
            if self.shared.out_failed.load(Ordering::SeqCst) {
                return Ok(Wait::Over(End::Stopped));
            }
        }
    }

    /// We sent nothing, so that nothing of ours is lost when we leave first.
    fn nothing_to_wait_for(&self) -> bool {
        self.shared.options.mode == Mode::Pull
    }

    /// Reads and stores what is there, up to a batch. Returns whether the stream has ended.
    fn read_batch(&mut self, input: &mut (impl Read + AsFd)) -> Result<bool> {
        let mut writer = None;
        let mut bytes = 0;
        let ended = loop {
            match input.read(self.incoming.space()) {
                Ok(0) => break Ok(true),
                Ok(count) => {
                    bytes += count;
                    self.incoming.filled(count);
                    if let Err(err) = self.take_events(&mut writer) {
                        break Err(err);
                    }
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => break Ok(false),
                // A socket whose other end is gone.
                Err(err) if err.kind() == ErrorKind::ConnectionReset => {
                    self.outcome.cut = true;
                    break Ok(true);
                }
                Err(err) => break Err(Error::io("the other side cannot be read", err)),
            }
            let full = bytes >= BATCH_BYTES_MAX
                || writer.as_ref().is_some_and(|writer: &Writer<'_>| writer.new_entries() >= BATCH_ENTRIES_MAX);
            let linger = if bytes >= BULK_BYTES { BULK_LINGER_MILLIS } else { 0 };
            if full || !poll_until(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], PollTimeout::from(linger))? {
                break Ok(false);
            }
        };
        // What came before an error is stored.
        if let Some(writer) = writer {
            self.outcome.received += writer.commit()?.new;
        }
        ended
    }

    fn take_events<'l>(&mut self, writer: &mut Option<Writer<'l>>) -> Result<()>
    where
        Self: 'l,
    {
        let shared = self.shared;
        // The outward thread sees an entry only after the commit, and so after this: nothing is echoed.
        let mut remote = shared.remote();
        if !self.incoming.greeted() {
            match self.incoming.handshake()? {
                Some(handshake) => self.greet(&mut remote, handshake),
                None => return Ok(()),
            }
        }
        let mut known = remote.known();
        while let Some(change) = self.incoming.change()? {
            let seq = change.seq;
            let (peer, head) = known.of(change.peer).map_err(|err| Error::Wire(err.to_string()))?;
            *head = seq.get().max(*head);
            if !self.stopped.is_empty() && self.stopped.contains(peer) {
                continue;
            }
            let entry = Entry::new(change.entry);
            let writer = match writer {
                Some(writer) => writer,
                None => writer.insert(shared.log.writer()?),
            };
            match writer.put(peer, seq, entry, entry.tomb())? {
                Put::New | Put::Known => self.awaited.reached(peer, seq.get()),
                Put::Fork => {
                    self.outcome.forks += 1;
                    self.awaited.reached(peer, u32::MAX);
                    self.stopped.insert(peer.clone());
                    (shared.notify)(Notice::Fork(peer.clone(), seq));
                }
                Put::Gap(head) => {
                    self.outcome.gaps += 1;
                    self.awaited.reached(peer, u32::MAX);
                    self.stopped.insert(peer.clone());
                    (shared.notify)(Notice::Gap(peer.clone(), head, seq));
                }
            }
        }
        Ok(())
    }

    /// The handshake has come: the outward thread may begin.
    fn greet(&mut self, remote: &mut Remote, handshake: Handshake) {
        self.outcome.peer = Some(handshake.id.clone());
        self.expects_end = handshake.mode != Mode::Pull;
        if handshake.mode.sends_to(self.shared.options.mode) {
            let more = handshake.heads.iter().filter(|(peer, seq)| *seq > self.ours.get(peer.as_str()));
            self.awaited.heads = more.cloned().collect();
        }
        *remote = Remote::new(&handshake.heads);
        if let Some(greet) = self.greet.take() {
            // It may have ended already.
            greet.send(handshake).ok();
        }
    }

    fn finish(mut self, end: End, stopped: bool) -> Result<Outcome> {
        if end == End::Stream
            && let Some(err) = self.incoming.cut()
        {
            // A cut before the handshake is not a session at all.
            if !self.incoming.greeted() {
                return Err(err);
            }
            self.outcome.cut = true;
        }
        self.outcome.stopped = stopped;
        self.outcome.left_first = end == End::Satisfied;
        if !self.awaited.heads.is_empty() {
            let awaited: Heads = self.awaited.heads.drain().collect();
            self.outcome.missing = awaited.ahead_of(&self.shared.log.heads()?);
        }
        Ok(self.outcome)
    }
}

enum Wait {
    Input,
    Over(End),
}

/// Feeds of which more was announced than we have.
#[derive(Default)]
struct Awaited {
    /// The announced heads.
    heads: HashMap<PeerId, u32>,
    /// The feed that was looked up last, and its announced head, if it is awaited.
    last: Option<(PeerId, u32)>,
}

impl Awaited {
    /// `seq` of `peer` is here, or `u32::MAX`: nothing of it is awaited any more.
    fn reached(&mut self, peer: &PeerId, seq: u32) {
        if self.heads.is_empty() {
            return;
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != peer) {
            self.last = Some((peer.clone(), self.heads.get(peer).copied().unwrap_or(u32::MAX)));
        }
        if self.last.as_ref().is_some_and(|&(_, head)| seq >= head) {
            self.heads.remove(peer);
        }
    }
}
