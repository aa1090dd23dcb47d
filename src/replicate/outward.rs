//! The sending thread.

use std::collections::HashSet;
use std::io::{ErrorKind, PipeReader, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{Shutdown, shutdown};

use super::{Notice, Shared};
use crate::entry::{Entry, Offset, PeerId};
use crate::error::{Error, Result};
use crate::follow::{Follower, wait_for};
use crate::heads::FeedKey;
use crate::proto::{Mode, put_change, put_handshake};
use crate::store::Bounds;

/// What the sending thread did.
#[derive(Default)]
pub struct Sent {
    pub sent: u64,
    pub unsent: u64,
    /// The other side closed its end.
    pub closed: bool,
}

/// Sends the handshake, what the other side lacks, and if live what arrives, then closes `output`.
/// `digests` are our heads as the handshake has them.
pub fn run<W: Write + AsFd>(
    shared: &Shared<'_>,
    output: W,
    digests: Vec<u8>,
    greeted: &Receiver<Mode>,
    in_end: &PipeReader,
) -> Result<Sent> {
    let mut pipe = Pipe { output, shared, in_end, restore: None };
    pipe.set_non_blocking();
    let mut sent = Sent::default();
    let mut first = Vec::new();
    put_handshake(&mut first, shared.log.id(), &digests, shared.options.mode);
    drop(digests);
    let wrote = pipe.write(&first)?;
    drop(first);
    let Ok(theirs) = greeted.recv() else { return Ok(sent) };
    if !shared.options.mode.sends_to(theirs) {
        return Ok(sent);
    }
    let start = {
        let remote = shared.remote();
        shared.log.reader().start_above(|peer| remote.head(FeedKey::of(peer)))?
    };
    let mut feed = Sending {
        shared,
        follower: shared.log.follow(start)?,
        // A one-shot session sends what its handshake announced, and no more.
        until: if shared.options.once { shared.last_offset } else { Offset(u64::MAX) },
        holed: HashSet::new(),
        frames: Vec::new(),
        frames_entries: 0,
    };
    let went = if wrote == Went::On { feed.run(&mut pipe, &mut sent)? } else { wrote };
    sent.closed = went == Went::Closed;
    if went != Went::On {
        // Of the batch in hand we cannot know how much arrived.
        let remote = shared.remote();
        let lacks = shared.ours.iter().map(|(feed, seq)| u64::from(seq.saturating_sub(remote.head(feed))));
        sent.unsent = lacks.sum::<u64>() + feed.frames_entries;
    }
    Ok(sent)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Went {
    On,
    /// The other side closed its end.
    Closed,
    /// We are to end at once.
    Abandoned,
}

struct Sending<'a> {
    shared: &'a Shared<'a>,
    follower: Follower<'a>,
    until: Offset,
    /// Feeds of which a deleted entry was left out.
    holed: HashSet<PeerId>,
    frames: Vec<u8>,
    frames_entries: u64,
}

impl Sending<'_> {
    fn run<W: Write + AsFd>(&mut self, pipe: &mut Pipe<'_, W>, sent: &mut Sent) -> Result<Went> {
        loop {
            if self.shared.abandoned.load(Ordering::SeqCst) {
                return Ok(Went::Abandoned);
            }
            // Before the scan: what comes in later still is scanned.
            let ending = self.shared.in_ended.load(Ordering::SeqCst);
            if self.scan()? {
                let went = pipe.write(&self.frames)?;
                if went != Went::On {
                    return Ok(went);
                }
                sent.sent += self.frames_entries;
                continue;
            }
            if ending || self.shared.options.once {
                return Ok(Went::On);
            }
            let mut others =
                vec![PollFd::new(pipe.output.as_fd(), PollFlags::empty()), PollFd::new(pipe.in_end.as_fd(), PollFlags::POLLIN)];
            others.extend(self.shared.options.stop.map(|stop| PollFd::new(stop, PollFlags::POLLIN)));
            let has_event = self.follower.wait(&others)?;
            if has_event[0] {
                return Ok(Went::Closed);
            }
            if has_event.get(2) == Some(&true) {
                return Ok(Went::Abandoned);
            }
        }
    }

    /// Makes frames of the next batch; false when there is no more to look at.
    fn scan(&mut self) -> Result<bool> {
        self.frames.clear();
        self.frames_entries = 0;
        if self.follower.position() >= self.until {
            return Ok(false);
        }
        let Self { shared, follower, until, holed, frames, frames_entries } = self;
        let mut notices = Vec::new();
        let mut remote = shared.remote();
        let mut known = remote.known();
        let scanned = follower.scan(Bounds::default(), |change| {
            if change.offset > *until {
                return Ok(ControlFlow::Break(()));
            }
            let (_, known) = known.of(change.peer.as_str())?;
            if *known >= change.seq.get() {
                return Ok(ControlFlow::Continue(()));
            }
            *known = change.seq.get();
            match change.entry {
                Entry::Bytes(bytes, _) => {
                    put_change(frames, change.peer, change.seq, bytes);
                    *frames_entries += 1;
                }
                // As the original does it: the feed goes on behind the hole.
                Entry::Deleted(_) if holed.contains(change.peer) => {}
                Entry::Deleted(_) => {
                    holed.insert(change.peer.clone());
                    notices.push(Notice::DeletedLeftOut(change.peer.clone(), change.seq));
                }
            }
            Ok(ControlFlow::Continue(()))
        });
        // Told only now: whoever is told may take his time, and must not hold up the snapshot and the other thread.
        drop(known);
        drop(remote);
        notices.into_iter().for_each(shared.notify);
        scanned
    }
}

/// The output, written without blocking, so that an end of the session ends a write that cannot go on.
struct Pipe<'a, W: AsFd> {
    output: W,
    shared: &'a Shared<'a>,
    in_end: &'a PipeReader,
    /// The flags that it had.
    restore: Option<OFlag>,
}

impl<W: Write + AsFd> Pipe<'_, W> {
    fn set_non_blocking(&mut self) {
        // Where it cannot be set, writes block as usual.
        if let Ok(flags) = flags_of(self.output.as_fd()) {
            self.restore = Some(flags);
            fcntl(self.output.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).ok();
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<Went> {
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => {
                    if !self.wait()? {
                        return Ok(Went::Abandoned);
                    }
                }
                Err(err) if matches!(err.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => return Ok(Went::Closed),
                Err(err) => return Err(Error::io("the other side cannot be written to", err)),
            }
        }
        Ok(Went::On)
    }

    /// Waits for room; false when the session is abandoned.
    fn wait(&self) -> Result<bool> {
        loop {
            if self.shared.abandoned.load(Ordering::SeqCst) {
                return Ok(false);
            }
            let mut fds = vec![PollFd::new(self.output.as_fd(), PollFlags::POLLOUT)];
            // Once it has told its end it would wake us for ever.
            if !self.shared.in_ended.load(Ordering::SeqCst) {
                fds.push(PollFd::new(self.in_end.as_fd(), PollFlags::POLLIN));
            }
            let stop_at = fds.len();
            fds.extend(self.shared.options.stop.map(|stop| PollFd::new(stop, PollFlags::POLLIN)));
            wait_for(&mut fds)?;
            if fds.get(stop_at).is_some_and(|stop| stop.any() == Some(true)) {
                return Ok(false);
            }
            if fds[0].any() == Some(true) {
                return Ok(true);
            }
        }
    }
}

impl<W: AsFd> Drop for Pipe<'_, W> {
    fn drop(&mut self) {
        // A socket may be the input, too, and would stay open; what is none says ENOTSOCK.
        shutdown(self.output.as_fd().as_raw_fd(), Shutdown::Write).ok();
        if let Some(flags) = self.restore {
            fcntl(self.output.as_fd(), FcntlArg::F_SETFL(flags)).ok();
        }
    }
}

fn flags_of(fd: BorrowedFd<'_>) -> nix::Result<OFlag> {
    fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain)
}
