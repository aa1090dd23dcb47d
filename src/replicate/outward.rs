//! The sending thread, up to the choice of the wire, and on the original's.

use std::collections::HashSet;
use std::io::{PipeReader, Write};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use nix::poll::{PollFd, PollFlags};

use super::pipe::{Pipe, Went};
use super::shared::{Announced, Greet, Shared, original_holds};
use super::{Notice, Step, native};
use crate::entry::{Entry, Offset, PeerId};
use crate::error::Result;
use crate::follow::Follower;
use crate::heads::FeedKey;
use crate::proto::{PREAMBLE, Wire, put_change, put_handshake};
use crate::store::Bounds;

/// What the sending thread did.
#[derive(Default)]
pub struct Sent {
    pub sent: u64,
    /// Entries that the other side has on disk, where the wire tells.
    pub durable: Option<u64>,
    pub unsent: u64,
    /// Deleted entries that this wire cannot carry.
    pub left_out: u64,
    /// Feeds stopped at an entry that is longer than the other side takes.
    pub too_long: u64,
    /// The other side closed its end, on the original's wire.
    pub closed: bool,
    pub bytes: u64,
}

/// Opens the session, sends what the other side lacks, and if live what arrives, then closes `output`.
pub fn run<W: Write + AsFd>(shared: &Shared<'_>, output: W, greeted: &Receiver<Greet>, in_end: &PipeReader) -> Result<Sent> {
    let mut pipe = Pipe::new(output, shared, in_end);
    let mut wrote = Went::On;
    if shared.options.wire != Some(Wire::Original) {
        wrote = pipe.write(PREAMBLE)?;
    }
    let sent = match greeted.recv() {
        Ok(Greet::Native) if wrote == Went::On => native::run(shared, &mut pipe),
        Ok(Greet::Original(digests)) => original(shared, &mut pipe, digests, greeted),
        _ => Ok(Sent::default()),
    };
    sent.map(|sent| Sent { bytes: pipe.bytes, ..sent })
}

/// `digests` are our heads as the handshake has them.
fn original<W: Write + AsFd>(
    shared: &Shared<'_>,
    pipe: &mut Pipe<'_, W>,
    digests: Vec<u8>,
    greeted: &Receiver<Greet>,
) -> Result<Sent> {
    let mut sent = Sent::default();
    let mut first = Vec::new();
    put_handshake(&mut first, &shared.log.own_id_now()?, &digests, shared.options.mode);
    drop(digests);
    let wrote = pipe.write(&first)?;
    drop(first);
    let Ok(Greet::Handshake(theirs)) = greeted.recv() else { return Ok(sent) };
    if !shared.options.mode.sends_to(theirs) {
        return Ok(sent);
    }
    let start = {
        let remote = shared.remote();
        shared.log.reader().start_above(|peer| if original_holds(peer) { remote.head(FeedKey::of(peer)) } else { u32::MAX })?
    };
    let nothing = Announced::default();
    let announced = shared.announced.get().unwrap_or(&nothing);
    shared.step(Step::Ahead(announced.last_offset.0.saturating_sub(start.0)));
    let mut feed = Sending {
        shared,
        follower: if shared.options.once { shared.log.walk(start) } else { shared.log.follow(start)? },
        // A one-shot session sends what its handshake announced, and no more.
        until: if shared.options.once { announced.last_offset } else { Offset(u64::MAX) },
        holed: HashSet::new(),
        left_out: 0,
        frames: Vec::new(),
        frames_entries: 0,
    };
    let went = if wrote == Went::On { feed.run(pipe, &mut sent)? } else { wrote };
    sent.closed = went == Went::Closed;
    sent.left_out = if shared.options.accept_gaps { 0 } else { feed.left_out };
    if went != Went::On {
        // Of the batch in hand we cannot know how much arrived.
        let remote = shared.remote();
        let lacks = announced.heads.iter().map(|(feed, seq)| u64::from(seq.saturating_sub(remote.head(feed))));
        sent.unsent = lacks.sum::<u64>() + feed.frames_entries;
    }
    Ok(sent)
}

struct Sending<'a> {
    shared: &'a Shared<'a>,
    follower: Follower<'a>,
    until: Offset,
    /// Feeds of which a deleted entry was left out.
    holed: HashSet<PeerId>,
    /// How many deleted entries were.
    left_out: u64,
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
            let mut others = vec![pipe.closed_fd(), PollFd::new(pipe.in_end.as_fd(), PollFlags::POLLIN)];
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
        let Self { shared, follower, until, holed, left_out, frames, frames_entries } = self;
        let (mut notices, mut not_held) = (Vec::new(), None);
        let before = follower.position();
        let mut remote = shared.remote();
        let mut known = remote.known();
        let scanned = follower.scan(Bounds::default(), |change| {
            if change.offset > *until {
                return Ok(ControlFlow::Break(()));
            }
            let (_, known) = known.of(change.peer.as_str())?;
            if *known == 0 && !original_holds(change.peer.as_str()) {
                // So that it is not looked at again.
                *known = u32::MAX;
                not_held.get_or_insert_with(|| change.peer.clone());
            }
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
                Entry::Deleted(_) => {
                    *left_out += 1;
                    if holed.insert(change.peer.clone()) {
                        notices.push(Notice::DeletedLeftOut(change.peer.clone(), change.seq));
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        });
        // Told only now: whoever is told may take his time, and must not hold up the snapshot and the other thread.
        drop(known);
        drop(remote);
        notices.into_iter().for_each(shared.notify);
        shared.leave_out(not_held);
        // What came in meanwhile is no part of it.
        let at_start = shared.announced.get().map_or(Offset::ZERO, |announced| announced.last_offset);
        let entries = follower.position().min(at_start).0 - before.min(at_start).0;
        shared.step(Step::Moved { entries, bytes: frames.len() as u64 });
        scanned
    }
}
