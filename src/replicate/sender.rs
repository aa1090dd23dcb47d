//! The sending thread: takes heads and entries from the log, gives them to the session, and writes the frames of the session.

use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::coordination::{Abandon, Coordination};
use super::outcome::STOPPED;
use super::output::{Output, Written};
use super::{Context, Notice, Step};
use crate::follow::{Follower, events, poll_until};
use crate::model::{Offset, PeerId, Result};
use crate::store::Bounds;
use crate::wire::{Before, LeftOut, Outgoing, Task, Wire};

/// An empty frame. It shows that the local side is alive.
const HEARTBEAT: &[u8] = b"\0";

/// The number of feeds whose floors are looked at in one snapshot.
const FLOORS_MAX: usize = 4096;

/// The result of the sending thread.
pub struct Sent {
    /// The outgoing half, for its counts. The receiver may still have news for it.
    pub outgoing: Outgoing,
    /// The number of entries in frames that were written.
    pub entries: u64,
    pub bytes: u64,
    /// The end of the sending thread.
    pub written: Written,
}

struct Sender<'a, W: AsFd> {
    context: &'a Context<'a>,
    coordination: &'a Coordination,
    outgoing: Outgoing,
    output: Output<'a, W>,
    /// `None` before the first offer.
    follower: Option<Follower<'a>>,
    /// The floors of the log must be offered before the next entries: the id after which the next ones begin.
    floors_after: Option<Option<PeerId>>,
    frames: Vec<u8>,
    entries: u64,
}

/// Sends until the session is over or must end at once. Then closes the output.
///
/// # Errors
/// When the log cannot be read or the output cannot be written.
pub fn run<W: Write + AsFd>(context: &Context<'_>, coordination: &Coordination, outgoing: Outgoing, output: W) -> Result<Sent> {
    let output = Output::new(output, coordination, context.options.stop);
    let mut sender =
        Sender { context, coordination, outgoing, output, follower: None, floors_after: None, frames: Vec::new(), entries: 0 };
    let written = sender.send();
    if matches!(written, Ok(Written::TimedOut)) {
        coordination.set_sender_timed_out();
    }
    coordination.allow_storing();
    sender.write_last_frames(&written);
    let Sender { outgoing, output, entries, .. } = sender;
    written.map(|written| Sent { outgoing, entries, bytes: output.bytes, written })
}

impl<'a, W: Write + AsFd> Sender<'a, W> {
    fn send(&mut self) -> Result<Written> {
        // With the original wire only, the handshake does not depend on the remote: it is sent in any case.
        while self.outgoing.task() == Task::AddHeads {
            self.frames.clear();
            self.add_heads()?;
            let written = self.output.write(&self.frames, self.write_limit())?;
            if written != Written::All {
                return Ok(written);
            }
        }
        loop {
            self.coordination.clear_wake();
            self.coordination.learn(&mut self.outgoing);
            self.notify_left_out();
            if self.coordination.abandoned().is_some() {
                return Ok(self.abandoned());
            }
            self.frames.clear();
            self.outgoing.flush(&mut self.frames);
            let more = match self.outgoing.task() {
                Task::AddHeads => {
                    self.add_heads()?;
                    true
                }
                Task::Offer => self.offer()?,
                Task::Wait => false,
            };
            let framed = self.outgoing.framed();
            // The frames may also be empty after a long scan of the log, if it found no entry to send.
            if self.frames.is_empty() && self.heartbeat_left() == Some(Duration::ZERO) {
                self.frames.extend_from_slice(HEARTBEAT);
            }
            let written = self.output.write(&self.frames, self.write_limit())?;
            if written != Written::All {
                return Ok(written);
            }
            self.entries = framed;
            if self.outgoing.has_sent_fin() {
                self.coordination.set_sent_fin(self.outgoing.is_over());
            }
            if self.outgoing.is_over() {
                return Ok(Written::All);
            }
            if !more {
                self.report_caught_up();
                if let Some(written) = self.wait()? {
                    return Ok(written);
                }
            }
        }
    }

    /// Reports that a live session has transferred everything for now.
    fn report_caught_up(&self) {
        if self.outgoing.is_live()
            && self.outgoing.has_caught_up()
            && let Some((peer, has_all)) = self.coordination.remote()
            && (has_all || self.outgoing.has_stopped_feeds())
        {
            let (sends, receives) = self.outgoing.directions();
            let partial = self.context.choice().is_partial() || self.outgoing.remote_is_partial();
            self.context.step(Step::CaughtUp { peer: &peer, sends, receives, all: !self.outgoing.has_stopped_feeds(), partial });
        }
    }

    /// The session must end at once. It may already be over, because the remote may end its stream immediately after its FIN.
    fn abandoned(&self) -> Written {
        if self.outgoing.is_over() { Written::All } else { Written::Abandoned }
    }

    /// Reports to the remote why the session ends early, if the output takes the frame at once.
    fn write_last_frames(&mut self, written: &Result<Written>) {
        // The last acknowledgements, or the remote's FIN, may have come after the order to end.
        self.coordination.learn(&mut self.outgoing);
        match written {
            Err(err) => self.outgoing.fail(&err.to_string(), false),
            Ok(Written::Abandoned) => {
                let Abandon { why, refused } = self.coordination.abandoned().unwrap_or_else(|| STOPPED.into());
                self.outgoing.fail(&why, refused);
            }
            Ok(Written::Closed | Written::TimedOut) => return,
            Ok(Written::All) => {}
        }
        self.frames.clear();
        self.outgoing.flush(&mut self.frames);
        self.output.write_last(&self.frames);
    }

    /// Gives the session the next heads of the log.
    fn add_heads(&mut self) -> Result<()> {
        let (after, max) = self.outgoing.heads_wanted();
        let (after, outgoing) = (after.cloned(), &mut self.outgoing);
        let after = after.as_ref().map(PeerId::as_str);
        let (count, last_offset) =
            self.context.log.feeds_after(after, max, |peer, seq, chain| outgoing.add_head(peer, seq, chain))?;
        self.outgoing.end_heads(count < max, last_offset);
        if self.outgoing.knows_heads() {
            self.coordination.allow_storing();
        }
        // The heads must be sent before the log is searched for entries, because the search may take long.
        self.outgoing.flush(&mut self.frames);
        self.notify_left_out();
        Ok(())
    }

    /// Offers the next changes of the log. Returns false if there is nothing more to do for now.
    fn offer(&mut self) -> Result<bool> {
        if self.follower.is_none() {
            self.follower = Some(self.follow()?);
            // A remote with an equal root lacks no entry that was pruned before.
            self.floors_after = self.outgoing.offers_start().is_none().then_some(None);
        }
        if let Some(after) = self.floors_after.take() {
            self.offer_floors(after.as_ref())?;
            return Ok(true);
        }
        let Self { context, coordination, outgoing, follower: Some(follower), frames, .. } = self else { return Ok(false) };
        let announced = outgoing.announced_offset();
        let until = if outgoing.is_live() { Offset(u64::MAX) } else { announced };
        if follower.position() >= until {
            return Ok(outgoing.caught_up());
        }
        let (chains, before, mut has_learned, mut was_pruned) = (context.log.reader(), follower.position(), false, false);
        let offered = follower.scan(Bounds::default(), |change| {
            // Entries of the remote that this snapshot holds were published before they were stored: they are not sent back.
            if !std::mem::replace(&mut has_learned, true) {
                coordination.learn(outgoing);
            }
            if change.offset > until {
                return Ok(ControlFlow::Break(()));
            }
            was_pruned = !outgoing.offer(frames, &change, || {
                let (peer, before) = (change.peer.as_str(), change.seq.get() - 1);
                let Some(chain) = chains.chain_at(peer, before)? else { return Ok(None) };
                Ok(Some(Before { chain, is_floor: before > 0 && context.log.floor(peer)? == before }))
            })?;
            // This change is offered: the scan continues after it.
            let goes_on = outgoing.has_room() && !was_pruned;
            Ok(if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        });
        if follower.take_skipped() > 0 || was_pruned {
            self.floors_after = Some(None);
        }
        outgoing.end_offers(frames);
        coordination.publish_sent(outgoing);
        // Entries that arrived after the start are not part of the total.
        let entries = follower.position().min(announced).0 - before.min(announced).0;
        context.step(Step::Moved { entries, bytes: frames.len() as u64 });
        self.notify_left_out();
        // Without room, acknowledgements must come first.
        Ok(offered? || self.outgoing.has_room() && self.outgoing.caught_up())
    }

    /// Offers the floors of the next feeds after the id `after`.
    fn offer_floors(&mut self, after: Option<&PeerId>) -> Result<()> {
        let Self { context, coordination, outgoing, frames, floors_after, .. } = self;
        coordination.learn(outgoing);
        let next = context.log.floors_after(after, FLOORS_MAX, |peer, seq, chain| {
            outgoing.offer_floor(frames, peer, seq, chain);
        })?;
        *floors_after = next.map(Some);
        self.notify_left_out();
        Ok(())
    }

    /// Follows the log from the first entry that the remote may lack.
    fn follow(&self) -> Result<Follower<'a>> {
        let (log, outgoing) = (self.context.log, &self.outgoing);
        let start = match outgoing.offers_start() {
            Some(start) => start,
            None => log.reader().start_above(|peer| outgoing.held(peer))?,
        };
        self.context.step(Step::Ahead(outgoing.announced_offset().0.saturating_sub(start.0)));
        // The end of an inotify watch can take 20 ms, so a session that is not live does not use one.
        if !outgoing.is_live() {
            return Ok(log.follow_without_watch(start));
        }
        let follower = log.follow(start)?;
        if let Some(limit) = follower.inotify_limit() {
            (self.context.notify)(Notice::Polling(limit));
        }
        Ok(follower)
    }

    /// Reports what was left out. Must be called without a snapshot or a lock, because the notification may
    /// block.
    fn notify_left_out(&mut self) {
        for left_out in self.outgoing.take_left_out() {
            (self.context.notify)(match left_out {
                LeftOut::Deleted(peer, seq) => Notice::DeletedLeftOut(peer, seq),
                LeftOut::Id(peer) => Notice::IdLeftOut(peer),
                LeftOut::NotAllowed(peer) => Notice::NotAccepted(peer),
                LeftOut::TooLong(peer, seq, max) => Notice::TooLong(peer, seq, max),
                LeftOut::Pruned(peer, seq) => {
                    let wire = if self.outgoing.has_heartbeats() { Wire::Native } else { Wire::Original };
                    Notice::PrunedLeftOut(peer, seq, wire)
                }
                LeftOut::Direction(remote) => Notice::OneWay(remote),
            });
        }
    }

    /// The longest time in which the remote may read nothing while the output is full. There is none while a user may have to type
    /// a password.
    fn write_limit(&self) -> Option<Duration> {
        let options = &self.context.options;
        let is_limited = !options.await_opening || self.outgoing.knows_remote();
        is_limited.then(|| Duration::from_millis(u64::from(options.silence_millis)))
    }

    /// The time until a heartbeat is due; `None` if the wire has no heartbeats.
    fn heartbeat_left(&self) -> Option<Duration> {
        let interval = Duration::from_millis(u64::from(self.context.options.heartbeat_millis));
        self.outgoing.has_heartbeats().then(|| interval.saturating_sub(self.output.last_write.elapsed()))
    }

    /// Waits for news, for entries to offer, or until a heartbeat is due. Returns how the sending ended, if it did.
    fn wait(&mut self) -> Result<Option<Written>> {
        if self.coordination.has_work() {
            return Ok(None);
        }
        // poll(2) takes whole milliseconds: add one, so that it does not wait too short.
        let timeout = self.heartbeat_left().map(|left| left + Duration::from_millis(1));
        let timeout = timeout.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        let mut others = vec![self.output.closed_fd(), PollFd::new(self.coordination.as_fd(), PollFlags::POLLIN)];
        others.extend(self.context.options.stop.map(|stop| PollFd::new(stop, PollFlags::POLLIN)));
        let has_event = match &mut self.follower {
            Some(follower) => follower.wait_until(&others, timeout)?,
            None => poll_until(&mut others, timeout)?.then(|| events(&others)),
        };
        match has_event.as_deref() {
            Some([_, _, true]) => {
                self.coordination.learn(&mut self.outgoing);
                Ok(Some(self.abandoned()))
            }
            Some([true, ..]) => Ok(Some(Written::Closed)),
            _ => Ok(None),
        }
    }
}
