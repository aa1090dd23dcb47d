//! The sending thread on the native wire.

use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::outward::Sent;
use super::pipe::{Pipe, Went};
use super::shared::Shared;
use super::{Notice, Step};
use crate::entry::{Chain, Offset, PeerId};
use crate::error::{Error, Result};
use crate::follow::{Follower, poll_until};
use crate::heads::FeedKey;
use crate::proto::Head;
use crate::store::Bounds;

/// Heads in one frame.
const HEADS_MAX: usize = 256;
/// An empty frame: "I am still here".
const HEARTBEAT: &[u8] = b"\0";

/// Runs the session until both sides have said FIN, or it is abandoned.
pub fn run<W: Write + AsFd>(shared: &Shared<'_>, pipe: &mut Pipe<'_, W>) -> Result<Sent> {
    let mut native =
        Native { shared, follower: None, until: Offset::ZERO, heads_after: None, frames: Vec::new(), written: 0, too_long: 0 };
    let went = native.run(pipe);
    let mut last_words = Vec::new();
    {
        let mut link = shared.link();
        match &went {
            Err(err) => link.fail(&err.to_string()),
            Ok(Went::Abandoned) => link.fail("it was stopped"),
            Ok(_) => {}
        }
        link.control(&mut last_words);
    }
    // Why we leave, if there is room for it.
    if !matches!(went, Ok(Went::Closed)) {
        pipe.write_some(&last_words);
    }
    went.map(|_| Sent { sent: native.written, too_long: native.too_long, ..Sent::default() })
}

/// Counts what became of it. Only after both threads have ended: the last ACK may be read long after the last write.
pub fn account(shared: &Shared<'_>, sent: &mut Sent) -> Result<()> {
    let (framed, durable) = shared.link().counts();
    // Of the frames in hand we cannot know how much arrived, but for what was acknowledged.
    sent.sent = sent.sent.max(durable);
    sent.durable = Some(durable);
    if !shared.link().is_over() || sent.too_long > 0 {
        sent.unsent = unsent(shared)? + (framed - sent.sent);
    }
    Ok(())
}

/// Entries that we hold and that the other side is not known to hold.
fn unsent(shared: &Shared<'_>) -> Result<u64> {
    let link = shared.link();
    let mut unsent = 0;
    if link.may_offer() && link.has_heads() && link.sends() {
        shared.log.each_head(|peer, head| {
            let feed = FeedKey::of(peer);
            // After FIN, what was appended since is for the next session; only a feed with an entry that is too long has more.
            if !link.has_fork(feed) && (link.is_withheld(feed) || !link.has_said_fin()) {
                unsent += u64::from(head.saturating_sub(link.known(feed)));
            }
        })?;
    }
    Ok(unsent)
}

struct Native<'a> {
    shared: &'a Shared<'a>,
    /// Once the other side's heads are known.
    follower: Option<Follower<'a>>,
    /// The last offset of what we held at the start.
    until: Offset,
    /// Of our heads: what was sent so far.
    heads_after: Option<PeerId>,
    frames: Vec<u8>,
    /// Entries of frames that are written.
    written: u64,
    too_long: u64,
}

impl<'a> Native<'a> {
    fn run<W: Write + AsFd>(&mut self, pipe: &mut Pipe<'_, W>) -> Result<Went> {
        loop {
            if self.shared.abandoned.load(Ordering::SeqCst) {
                return Ok(self.abandoned());
            }
            // Before the look: what wakes us later is looked at again.
            self.shared.hush();
            let more = self.fill()?;
            let (framed, _) = self.shared.link().counts();
            // Nothing to do, or a scan that finds nothing to send and may go on for long.
            if self.frames.is_empty() && pipe.last_write.elapsed() >= self.heartbeat() {
                self.frames.extend_from_slice(HEARTBEAT);
            }
            if !self.frames.is_empty() {
                let went = pipe.write(&self.frames)?;
                if went != Went::On {
                    return Ok(went);
                }
                self.written = framed;
            }
            if self.shared.link().is_over() {
                return Ok(Went::On);
            }
            if !more && let Some(went) = self.wait(pipe)? {
                return Ok(went);
            }
        }
    }

    /// All that was to be written is: the other side may have ended its stream right after its FIN.
    fn abandoned(&self) -> Went {
        if self.shared.link().is_over() { Went::On } else { Went::Abandoned }
    }

    /// Makes the next frames; false when there is nothing more to do for now.
    fn fill(&mut self) -> Result<bool> {
        self.frames.clear();
        let mut link = self.shared.link();
        link.control(&mut self.frames);
        if link.has_said_fin() {
            return Ok(false);
        }
        if link.wants_heads() {
            drop(link);
            return self.heads().map(|()| true);
        }
        if !link.may_offer() {
            return Ok(false);
        }
        let (sends, is_live, is_caught_up) = (link.sends(), link.is_live(), link.is_caught_up());
        if !is_live && is_caught_up {
            return Ok(false);
        }
        drop(link);
        if sends && self.scan(is_live)? {
            return Ok(true);
        }
        let mut link = self.shared.link();
        let was_caught_up = link.is_caught_up();
        link.caught_up();
        Ok(!was_caught_up)
    }

    /// Some of our heads. Later ones may be newer than earlier ones, which only means that we hold more than we say.
    fn heads(&mut self) -> Result<()> {
        let mut heads: Vec<(PeerId, u32, Chain)> = Vec::with_capacity(HEADS_MAX);
        let after = self.heads_after.as_ref().map(PeerId::as_str);
        let (count, last_offset) = self.shared.log.feeds_after(after, HEADS_MAX, |peer, seq, chain| {
            heads.extend(PeerId::new(peer).ok().map(|peer| (peer, seq, chain)));
        })?;
        let rows = heads.iter().map(|(peer, seq, chain)| Head { peer: peer.as_str(), seq: *seq, chain: *chain });
        self.shared.link().put_heads(&mut self.frames, rows, count < HEADS_MAX);
        self.until = last_offset;
        self.heads_after = heads.pop().map(|(peer, ..)| peer);
        Ok(())
    }

    /// Makes runs of the next batch; false when there is no more to look at.
    fn scan(&mut self, is_live: bool) -> Result<bool> {
        if self.follower.is_none() {
            let start = self.start()?;
            self.shared.step(Step::Ahead(self.until.0.saturating_sub(start.0)));
            let log = self.shared.log;
            self.follower = Some(if is_live { log.follow(start)? } else { log.walk(start) });
        }
        let Self { shared, follower: Some(follower), until, frames, .. } = self else { return Ok(false) };
        let (at_start, until) = (*until, if is_live { Offset(u64::MAX) } else { *until });
        if follower.position() >= until {
            return Ok(false);
        }
        let chains = shared.log.reader();
        let before = follower.position();
        let mut link = shared.link();
        let scanned = follower.scan(Bounds::default(), |change| {
            if change.offset > until {
                return Ok(ControlFlow::Break(()));
            }
            link.offer(frames, &change, || {
                let chain = chains.chain_at(change.peer.as_str(), change.seq.get() - 1)?;
                chain.ok_or_else(|| Error::Corrupt(format!("entry {} of {} has none before it", change.seq, change.peer)))
            })?;
            Ok(ControlFlow::Continue(()))
        })?;
        link.close_run(frames);
        let (too_long, max) = (link.too_long(), link.theirs().map_or(0, |theirs| theirs.entry_bytes_max));
        drop(link);
        // What came in meanwhile is no part of it.
        let entries = follower.position().min(at_start).0 - before.min(at_start).0;
        shared.step(Step::Moved { entries, bytes: frames.len() as u64 });
        self.too_long += too_long.len() as u64;
        for (peer, seq) in too_long {
            (self.shared.notify)(Notice::TooLong(peer, seq, max));
        }
        Ok(scanned)
    }

    /// Where to begin: after what the other side is known to hold.
    fn start(&mut self) -> Result<Offset> {
        let link = self.shared.link();
        if !link.has_heads() {
            self.until = self.shared.hello_offset;
            return Ok(self.shared.hello_offset);
        }
        // Feeds that are stopped would only make it begin too early.
        self.shared.log.reader().start_above(|peer| {
            let feed = FeedKey::of(peer);
            if link.is_stopped(feed) { u32::MAX } else { link.known(feed) }
        })
    }

    fn heartbeat(&self) -> Duration {
        Duration::from_millis(u64::from(self.shared.options.heartbeat_millis))
    }

    /// Waits for something to do, or until a heartbeat is due.
    fn wait<W: Write + AsFd>(&mut self, pipe: &Pipe<'_, W>) -> Result<Option<Went>> {
        // A poll is told whole milliseconds: not one too few.
        let left = self.heartbeat().saturating_sub(pipe.last_write.elapsed()) + Duration::from_millis(1);
        let mut others = vec![
            pipe.closed_fd(),
            PollFd::new(pipe.in_end.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
        ];
        others.extend(self.shared.options.stop.map(|stop| PollFd::new(stop, PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let has_event = match &mut self.follower {
            Some(follower) => follower.wait_until(&others, timeout)?,
            None => poll_until(&mut others, timeout)?.then(|| others.iter().map(|fd| fd.any() == Some(true)).collect()),
        };
        Ok(match has_event.as_deref() {
            Some([true, ..]) => Some(Went::Closed),
            Some([_, true, ..] | [_, _, _, true]) => Some(self.abandoned()),
            _ => None,
        })
    }
}
