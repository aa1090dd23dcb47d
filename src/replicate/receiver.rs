//! The receiving thread: reads the remote's bytes, gives the session's events to the log, and publishes the news.
//! A thread behind it stores the batches (`ingest::pipeline`).

use std::io::{ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::compare::Comparing;
use super::coordination::{Abandon, Coordination};
use super::ledger::{Ledger, StopKind};
use super::outcome::{INPUT_ENDED, Reached, ReceiverEnd, STOPPED, TIMED_OUT};
use super::{Context, Notice, PROGRESS_BYTES, Step};
use crate::follow::{poll_until, wait_for};
use crate::ingest::pipeline::{Pipeline, WorkerEnded};
use crate::ingest::{Applied, Applier, Batch, Sealing, StopCause, record_forks};
use crate::model::{Chain, Error, FeedKey, PeerId, Result, Seq};
use crate::store::Compared;
use crate::wire::{
    Difference, DifferenceKind, Entries, Event, Incoming, Mode, NamedHead, Payload, Relation, RemoteHeads, Stored, Wire,
};

const PIPE_BYTES: i32 = 1 << 20;
/// The time limit for the last messages of a remote that has closed its input.
const CLOSED_MILLIS: u16 = 5000;
/// The time limit for a remote that has sent text instead of its handshake. The rest of its line may come.
const TEXT_MILLIS: u16 = 2000;

/// The result of the receiving thread.
pub struct Received<'a> {
    pub end: ReceiverEnd,
    pub reached: Reached,
    /// The stream ended inside a frame, or the connection was reset.
    pub is_cut: bool,
    pub confirms_end: bool,
    pub remote_id: Option<PeerId>,
    pub remote_mode: Option<Mode>,
    pub remote_compares: bool,
    pub wire: Option<Wire>,
    pub ledger: Ledger,
    /// The comparison, if the session only compares.
    pub comparing: Option<Comparing<'a>>,
    pub bytes: u64,
}

/// The event that ended a wait.
enum Wait {
    Input,
    Over(ReceiverEnd),
}

struct Receiver<'a, 'c, 'scope, 'env> {
    context: &'a Context<'a>,
    coordination: &'a Coordination,
    incoming: Incoming,
    pipeline: Pipeline<'scope, 'env, Batch, Applied, Error>,
    batch: Batch,
    ledger: Ledger,
    comparing: Option<Comparing<'c>>,
    /// The number of entries that the remote has announced so far and that the log lacks.
    lacking: u64,
    /// The last time at which a frame, or [`PROGRESS_BYTES`] of a frame, had come.
    last_progress: Instant,
    /// The value of `bytes` at that time.
    progress_bytes: u64,
    bytes: u64,
    /// Whether the sending thread has ended.
    sender_ended: bool,
    was_reset: bool,
}

/// Receives until the remote ends its stream, or the session ends for another reason. Then orders the end of the sender.
///
/// # Errors
/// Of the input, the log and the protocol. All entries that came before the error are stored.
pub fn run<'a>(
    context: &'a Context<'a>,
    coordination: &Coordination,
    incoming: Incoming,
    mut input: impl Read + AsFd,
    sender_done: &PipeReader,
) -> Result<Received<'a>> {
    // This fails if the input is not a pipe, or above the limit of the user. The pipe then keeps its size.
    fcntl(input.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).ok();
    let _guard = AbandonOnPanic(coordination);
    std::thread::scope(|threads| {
        let sealing = Sealing::new(context.log, |run| Builder::new().spawn_scoped(threads, run).map(drop));
        let failure = sealing.failure();
        let mut applier =
            Applier::new(context.log, context.options.accept_gaps).with_quota(context.options.quota).with_sealing(sealing);
        let store = move |batch: &mut Batch| {
            let (entries, bytes) = (batch.entries.len() as u64, batch.entries.input().len() as u64);
            coordination.wait_for_heads();
            let applied = applier.apply(batch)?;
            if let Some(err) = failure.take() {
                (context.notify)(Notice::NotSealed(err.to_string()));
            }
            batch.clear();
            context.step(Step::Moved { entries, bytes });
            Ok(applied)
        };
        let mut receiver = Receiver {
            context,
            coordination,
            incoming,
            pipeline: Pipeline::new(threads, store),
            batch: Batch::default(),
            ledger: Ledger::new(context.choice()),
            comparing: context.each_difference.map(|each| Comparing::new(context, each)),
            lacking: 0,
            last_progress: Instant::now(),
            progress_bytes: 0,
            bytes: 0,
            sender_ended: false,
            was_reset: false,
        };
        let received = receiver.receive(&mut input, sender_done);
        let ended = receiver.finish(received);
        let ended = receiver.order_end(ended, sender_done);
        let Receiver { incoming, ledger, comparing, bytes, was_reset, .. } = receiver;
        let end = ended?;
        if end == ReceiverEnd::TimedOut {
            incoming.check_opening()?;
        }
        let is_cut = was_reset || end == ReceiverEnd::StreamEnded && incoming.is_cut()?;
        let reached = match incoming.remote_id() {
            Some(_) => Reached::Id,
            None if is_cut && incoming.has_begun_handshake(bytes) => Reached::Handshake,
            None => Reached::Nothing,
        };
        Ok(Received {
            end,
            reached,
            is_cut,
            confirms_end: incoming.confirms_end(),
            remote_id: incoming.remote_id().cloned(),
            remote_mode: incoming.remote_mode(),
            remote_compares: incoming.remote_compares(),
            wire: incoming.wire(),
            ledger,
            comparing,
            bytes,
        })
    })
}

/// If this thread panics, the sender must not wait for it.
struct AbandonOnPanic<'a>(&'a Coordination);

impl Drop for AbandonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abandon("it failed".into());
        }
    }
}

impl Receiver<'_, '_, '_, '_> {
    fn receive(&mut self, input: &mut (impl Read + AsFd), sender_done: &PipeReader) -> Result<ReceiverEnd> {
        loop {
            if let Wait::Over(end) = self.wait(input, sender_done)? {
                return Ok(end);
            }
            match input.read(self.incoming.space()) {
                Ok(0) => return Ok(ReceiverEnd::StreamEnded),
                Ok(count) => {
                    self.incoming.filled(count);
                    self.bytes += count as u64;
                }
                Err(err) if matches!(err.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => continue,
                Err(err) if err.kind() == ErrorKind::ConnectionReset => {
                    self.was_reset = true;
                    return Ok(ReceiverEnd::StreamEnded);
                }
                Err(err) => return Err(Error::io("cannot read from the remote", err)),
            }
            let (was_known, consumed) = (self.incoming.remote_id().is_some(), self.incoming.consumed());
            if let Some(end) = self.handle_events()? {
                return Ok(end);
            }
            if self.incoming.is_text() {
                self.last_progress = Instant::now();
            } else if self.is_stuck(consumed) {
                return Ok(ReceiverEnd::TimedOut);
            }
            if !was_known {
                self.check_remote_id()?;
            }
            let ready = || poll_until(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
            if (self.batch.is_full() || self.pipeline.is_idle() && !ready()?) && !self.pass()? {
                return Ok(ReceiverEnd::Stopped);
            }
        }
    }

    /// Waits for input, or for the end of the session. Meanwhile passes the batch on when the pipeline is idle.
    fn wait(&mut self, input: &impl AsFd, sender_done: &PipeReader) -> Result<Wait> {
        loop {
            let options = &self.context.options;
            let confirms_end = self.incoming.confirms_end();
            let sent_all = self.has_sent_all();
            // A side that sends no entries can end the session first without loss.
            let may_leave = sent_all && !self.incoming.sends() && self.ledger.has_all(self.context.log)?;
            if may_leave || confirms_end && self.sender_ended && self.coordination.is_over() {
                return Ok(Wait::Over(ReceiverEnd::Satisfied));
            }
            // The remote sends no FIN, because it waits for the acknowledgement of entries that are refused.
            if confirms_end
                && self.coordination.has_sent_fin()
                && let Some(peer) = self.ledger.refused_sent()
            {
                return Err(Error::PeerRefused(peer.clone()));
            }
            // The remote is too old to leave feeds out. It waits for acknowledgements of their entries.
            if confirms_end && self.coordination.has_sent_fin() && self.ledger.ignored > 0 {
                return Ok(Wait::Over(ReceiverEnd::Satisfied));
            }
            let sender = if self.sender_ended { None } else { Some(sender_done.as_fd()) };
            let sources = [Some(input.as_fd()), self.pipeline.ready(), options.stop, sender];
            let mut fds: Vec<PollFd<'_>> = sources.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            let closed = confirms_end && self.sender_ended;
            let timeout = self.silence_limit(closed).map_or(PollTimeout::NONE, |limit| {
                PollTimeout::try_from(limit.saturating_sub(self.last_progress.elapsed())).unwrap_or(PollTimeout::MAX)
            });
            if !poll_until(&mut fds, timeout)? {
                return Ok(Wait::Over(if closed { ReceiverEnd::StreamEnded } else { ReceiverEnd::TimedOut }));
            }
            let mut polled = fds.iter().map(|fd| fd.any() == Some(true));
            let [readable, stored, stopped, sender] = sources.map(|source| source.is_some() && polled.next() == Some(true));
            // The input may hold the remote's FIN, which completes the session: read it before the stop is obeyed.
            if stopped && !(readable && self.coordination.has_sent_fin()) {
                return Ok(Wait::Over(ReceiverEnd::Stopped));
            }
            if sender {
                self.sender_ended = true;
                self.last_progress = Instant::now();
                if self.coordination.sender_failed() {
                    return Ok(Wait::Over(ReceiverEnd::Stopped));
                }
                if self.coordination.sender_timed_out() {
                    return Ok(Wait::Over(ReceiverEnd::TimedOut));
                }
            }
            if stored && !self.take_back(readable)? {
                return Ok(Wait::Over(ReceiverEnd::Stopped));
            }
            if readable {
                return Ok(Wait::Input);
            }
        }
    }

    /// On the original wire: whether only the rest of the remote's stream is awaited.
    fn has_sent_all(&self) -> bool {
        let has_stored_all = self.pipeline.is_idle() && self.batch.is_empty();
        let is_original = !self.incoming.confirms_end() && self.incoming.has_handshake();
        is_original && self.context.options.once && self.sender_ended && has_stored_all
    }

    /// Takes a stored batch back, and passes the next batch on unless input is available. Returns false if the storing thread has
    /// ended.
    fn take_back(&mut self, readable: bool) -> Result<bool> {
        if self.pipeline.take_back().is_err() {
            return Ok(false);
        }
        self.handle_results()?;
        if !readable && self.pipeline.is_idle() { self.pass() } else { Ok(true) }
    }

    /// Passes the batch on to be stored. Returns false if the storing thread has ended. [`Receiver::finish`] returns its error.
    fn pass(&mut self) -> Result<bool> {
        if self.batch.is_empty() {
            return Ok(true);
        }
        let is_large = self.batch.is_large();
        let passed = self.pipeline.pass(std::mem::take(&mut self.batch)).and_then(|batch| {
            self.batch = batch;
            if is_large { self.pipeline.settle() } else { Ok(()) }
        });
        // This may have waited for the local disk: the remote was not silent.
        self.last_progress = Instant::now();
        self.handle_results()?;
        Ok(!matches!(passed, Err(WorkerEnded)))
    }

    /// The time limit for a silent remote, if there is a limit. `closed`: the remote has closed its input, so that only its last
    /// messages may come.
    fn silence_limit(&self, closed: bool) -> Option<Duration> {
        let options = &self.context.options;
        if self.incoming.is_text() {
            return Some(Duration::from_millis(u64::from(TEXT_MILLIS.min(options.silence_millis))));
        }
        // Before the handshake, the user may have to type a password.
        let is_limited =
            self.incoming.confirms_end() || !self.incoming.has_handshake() && !options.await_opening || self.has_sent_all();
        let millis = if closed { CLOSED_MILLIS.min(options.silence_millis) } else { options.silence_millis };
        is_limited.then(|| Duration::from_millis(u64::from(millis)))
    }

    /// Whether the remote has sent nothing useful for too long, although it sends bytes. `consumed` is the count before the last
    /// read.
    fn is_stuck(&mut self, consumed: u64) -> bool {
        let (has_begun, received) = (self.incoming.consumed() > 0, self.incoming.received());
        if self.incoming.consumed() > consumed || has_begun && received - self.progress_bytes >= PROGRESS_BYTES {
            (self.last_progress, self.progress_bytes) = (Instant::now(), received);
            return false;
        }
        self.silence_limit(false).is_some_and(|limit| self.last_progress.elapsed() > limit)
    }

    /// Handles all complete messages. If the remote ends the session with an ERROR, returns this end.
    fn handle_events(&mut self) -> Result<Option<ReceiverEnd>> {
        let mut found = Vec::new();
        let taken = self.read_events(&mut found);
        // The news must be published before the entries are passed on to be stored.
        let published = self.publish();
        self.record(found).and(published).and(taken)
    }

    fn read_events(&mut self, found: &mut Vec<Difference>) -> Result<Option<ReceiverEnd>> {
        let context = self.context;
        let mut link_of = context.link_of();
        self.coordination.learn_sent(&mut self.incoming);
        let mut end = None;
        while let Some(event) = self.incoming.next(&mut link_of)? {
            match event {
                Event::Nothing => {}
                Event::Entries(entries) => add_entries(&mut self.batch, &entries),
                Event::Heads(heads, last) => self.compare(&heads, last, found)?,
                Event::AllHeads { heads, receives } => {
                    let lacking = await_heads(context, heads, receives)?;
                    self.ledger.expect(Arc::clone(heads), lacking, receives);
                }
                Event::Floor(floor) => self.batch.push_floor(&floor.peer, floor.seq, floor.chain, 0),
                Event::Refused(peer, entries) => {
                    if self.ledger.refuse(&peer, entries) {
                        (context.notify)(Notice::Refused(peer));
                    }
                }
                Event::Ignored(entries) => self.ledger.ignored += entries,
                Event::Chains(answer) => {
                    if let Some(comparing) = &mut self.comparing {
                        comparing.answer(context, &answer)?;
                    }
                }
                Event::Differs(difference) => found.push(difference),
                // Other frames may follow, such as acknowledgements.
                Event::Error { text, refused: false } => end = Some(ReceiverEnd::RemoteError(text)),
                Event::Error { text, refused: true } => end = Some(ReceiverEnd::RemoteRefused(text)),
            }
        }
        Ok(end)
    }

    /// Compares heads of the remote with the log. The ledger awaits the entries that the log lacks.
    fn compare(&mut self, heads: &[NamedHead], last: bool, found: &mut Vec<Difference>) -> Result<()> {
        let context = self.context;
        if let Some(comparing) = &mut self.comparing {
            comparing.compare(context, &mut self.incoming, heads, last)?;
            if let Some(heads) = self.incoming.heads().filter(|_| last) {
                comparing.end(Arc::clone(heads));
                self.ledger.expect(Arc::clone(heads), 0, false);
            }
            return Ok(());
        }
        let rows: Vec<(&str, u32, Chain)> = heads.iter().map(|head| (head.peer.as_str(), head.seq, head.chain)).collect();
        let compared = context.log.reader().compare(&rows)?;
        let relations: Vec<Relation> = compared
            .iter()
            .map(|compared| match compared.differs {
                true => Relation::Differs,
                false if compared.is_known => Relation::Same,
                false => Relation::Unknown,
            })
            .collect();
        let receives = self.incoming.receives();
        let ledger = &mut self.ledger;
        let is_ahead = |(head, compared): &(&NamedHead, &Compared)| head.seq > compared.head && ledger.selects(&head.peer);
        let ahead: Vec<(&NamedHead, &Compared)> = heads.iter().zip(&compared).filter(is_ahead).collect();
        // This must come before the sender begins: otherwise the progress may look complete too early.
        let (mut lacking, mut refused) = (0, Vec::new());
        for (head, compared) in &ahead {
            let entries = u64::from(head.seq - compared.head);
            if self.ledger.takes(&head.peer) {
                lacking += entries;
            } else if receives && self.ledger.refuse_announced(&head.peer, entries) {
                refused.push(head.peer.clone());
            }
        }
        context.step(Step::Ahead(if receives { lacking } else { 0 }));
        self.lacking += lacking;
        self.incoming.compared(heads, &relations, last, &mut context.link_of(), found)?;
        let local = context.log.local_id()?;
        for (head, compared) in ahead {
            if head.peer == local && receives {
                self.ledger.set_behind(local.clone(), head.seq);
            } else if head.peer == local {
                (context.notify)(Notice::StaysBehind(local.clone(), compared.head, head.seq));
            }
        }
        if last {
            // Stopped feeds are not awaited.
            self.stop_feeds(found)?;
            if let Some(heads) = self.incoming.heads() {
                self.ledger.expect(Arc::clone(heads), self.lacking, receives);
            }
        }
        refused.into_iter().for_each(|peer| (context.notify)(Notice::Refused(peer)));
        Ok(())
    }

    /// Hands the news to the sender.
    fn publish(&mut self) -> Result<()> {
        if self.incoming.confirms_end() {
            // On the native wire, entries come only after the local heads.
            self.coordination.allow_storing();
        }
        let seems_complete = self.ledger.seems_complete(self.context.log);
        // This must come before the news: with the news, the sender may report that everything is transferred.
        if let (Some(peer), &Ok(has_all)) = (self.incoming.remote_id(), &seems_complete) {
            self.coordination.set_remote(peer, has_all);
        }
        let backlog = self.coordination.publish(self.incoming.take_news());
        self.incoming.set_backlog(backlog);
        if self.comparing.is_some() {
            self.coordination.wait_for_sender();
        }
        seems_complete.map(|_| ())
    }

    /// Handles the results of stored batches.
    fn handle_results(&mut self) -> Result<()> {
        while let Some(applied) = self.pipeline.result() {
            self.handle_result(applied)?;
        }
        Ok(())
    }

    fn handle_result(&mut self, applied: Applied) -> Result<()> {
        let Applied { entries, new, reached, acks, runs, floors, stops, new_id, broken, .. } = applied;
        self.ledger.received += new;
        // Accepted gaps are new entries that did not come. Entries up to a floor do not come either.
        let skipped: u64 = floors.iter().map(|&(_, head, floor)| u64::from(floor.get() - head)).sum();
        self.ledger.add_came(entries.max(new) + skipped);
        let behind: Vec<_> = reached.into_iter().filter_map(|(feed, seq)| self.ledger.reached(feed, seq)).collect();
        let (mut forks, mut mismatches, mut gaps) = (Vec::<(PeerId, Seq)>::new(), Vec::new(), Vec::new());
        let (mut differing, mut local_floors) = (Vec::new(), Vec::new());
        for stop in stops {
            match stop.cause {
                StopCause::Fork => forks.push((stop.peer, stop.seq)),
                StopCause::ChainMismatch(head) => mismatches.push((stop.peer, head)),
                StopCause::Gap(head) => gaps.push((stop.peer, head, stop.seq)),
                StopCause::FloorDiffers(chain) => differing.push((stop.peer, stop.seq.get(), chain)),
                StopCause::FloorOfLocalFeed(head) => local_floors.push((stop.peer, head, stop.seq)),
            }
        }
        let refused: Vec<PeerId> = local_floors.iter().map(|(peer, ..)| peer.clone()).collect();
        // After a broken run, the session must not be complete: no run of this batch counts as handled.
        let runs = if broken.is_some() { 0 } else { runs };
        let stored =
            Stored { runs, new, acks: &acks, forks: &forks, mismatches: &mismatches, floors: &differing, refused: &refused };
        let mut found = Vec::new();
        let mut handled = self.incoming.stored(stored, &mut self.context.link_of(), &mut found);
        handled = handled.and(self.publish());
        let notify = self.context.notify;
        behind.into_iter().for_each(|(local, seq)| notify(Notice::Behind(local, seq)));
        for (peer, head, seq) in gaps {
            let counted = self.ledger.stop(&peer, StopKind::Gap);
            notify(Notice::Gap(peer, head, seq));
            handled = handled.and(counted);
        }
        for (peer, head, seq) in local_floors {
            let counted = self.ledger.stop(&peer, StopKind::Gap);
            notify(Notice::FloorOfLocalFeed(peer, head, seq));
            handled = handled.and(counted);
        }
        for (peer, head, seq) in floors {
            if self.ledger.add_floor() {
                notify(Notice::Floor(peer, head, seq));
            }
        }
        // The forks of entries are marked in the log already.
        let (forks, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| found.kind == DifferenceKind::Fork);
        handled = handled.and(self.record(others));
        let counted = self.stop_feeds(&forks);
        forks.into_iter().for_each(|fork| notify(Notice::Fork(fork.peer, fork.seq)));
        new_id.into_iter().for_each(|id| notify(Notice::NewId(id)));
        handled.and(counted).and(broken.map_or(Ok(()), Err))
    }

    /// Records differences that were found by comparing chains, and reports them to the user.
    fn record(&mut self, found: Vec<Difference>) -> Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        let counted = self.stop_feeds(&found);
        let proven = found.iter().filter(|difference| difference.kind == DifferenceKind::Fork);
        let proven: Vec<(PeerId, Seq)> = proven.map(|fork| (fork.peer.clone(), fork.seq)).collect();
        let new_id = record_forks(self.context.log, &proven)?;
        let notify = self.context.notify;
        for Difference { peer, seq, kind } in found {
            notify(match kind {
                DifferenceKind::Fork => Notice::Fork(peer, seq),
                DifferenceKind::Unproven => Notice::UnprovenFork(peer, seq),
                DifferenceKind::Pruned => Notice::ForkAtFloor(peer, seq),
                DifferenceKind::Refused => Notice::FloorRefused(peer, seq),
                DifferenceKind::Unknown => Notice::NotComparable(peer, seq),
            });
        }
        new_id.into_iter().for_each(|id| notify(Notice::NewId(id)));
        counted
    }

    fn stop_feeds(&mut self, found: &[Difference]) -> Result<()> {
        let mut counted = Ok(());
        for difference in found {
            let is_gap = matches!(difference.kind, DifferenceKind::Unknown | DifferenceKind::Refused);
            let why = if is_gap { StopKind::Gap } else { StopKind::Fork };
            counted = counted.and(self.ledger.stop(&difference.peer, why));
        }
        counted
    }

    /// Warns if the remote has the id of this log.
    fn check_remote_id(&self) -> Result<()> {
        if let Some(remote) = self.incoming.remote_id()
            && *remote == self.context.log.local_id()?
        {
            (self.context.notify)(Notice::SameId(remote.clone()));
        }
        Ok(())
    }

    /// Stores the last batch. An error of the log comes before an error of the input, because it happened first.
    fn finish(&mut self, received: Result<ReceiverEnd>) -> Result<ReceiverEnd> {
        let last = Some(std::mem::take(&mut self.batch)).filter(|batch| !batch.is_empty());
        let (results, stored) = self.pipeline.finish(last);
        let mut handled = Ok(());
        for applied in results {
            handled = handled.and(self.handle_result(applied));
        }
        let unproven = self.incoming.take_unproven();
        handled = handled.and(self.record(unproven));
        stored.and(handled).and(received)
    }

    /// Orders the end of the sender. The end of the remote's stream also ends a live session. There is one exception: if the modes
    /// do not allow the remote to send entries, the sender continues until it ends by itself.
    fn order_end(&mut self, ended: Result<ReceiverEnd>, sender_done: &PipeReader) -> Result<ReceiverEnd> {
        let why = match &ended {
            Err(err) => Abandon { why: err.to_string(), refused: err.is_refusal() },
            Ok(ReceiverEnd::TimedOut) => TIMED_OUT.into(),
            Ok(ReceiverEnd::Stopped) => STOPPED.into(),
            Ok(_) => INPUT_ENDED.into(),
        };
        match &ended {
            Ok(ReceiverEnd::StreamEnded | ReceiverEnd::Satisfied)
                if self.incoming.has_handshake() && !self.incoming.confirms_end() =>
            {
                let continues = matches!(ended, Ok(ReceiverEnd::StreamEnded)) && !self.incoming.receives();
                if continues && !ends_by_itself(sender_done.as_fd(), self.context.options.stop)? {
                    self.coordination.abandon(STOPPED.into());
                    return Ok(ReceiverEnd::Stopped);
                }
                self.coordination.finish();
            }
            _ => self.coordination.abandon(why),
        }
        ended
    }
}

/// Waits until the sender has ended by itself. Returns false if the caller's stop has come, which also ends the sender.
fn ends_by_itself(sender_done: BorrowedFd<'_>, stop: Option<BorrowedFd<'_>>) -> Result<bool> {
    let mut fds = vec![PollFd::new(sender_done, PollFlags::POLLIN)];
    fds.extend(stop.map(|stop| PollFd::new(stop, PollFlags::POLLIN)));
    wait_for(&mut fds)?;
    Ok(fds.get(1).and_then(PollFd::any) != Some(true))
}

fn add_entries(batch: &mut Batch, entries: &Entries<'_>) {
    entries.each(|seq, payload| {
        match payload {
            Payload::Bytes(bytes) => batch.entries.push_copy(bytes),
            Payload::Deleted(tombstone) => batch.entries.push_deleted(tombstone),
        }
        batch.set_target(entries.peer, seq, 0);
    });
    if let Some((count, handle, chain)) = entries.run() {
        batch.end_run(count, handle, chain);
    }
}

/// The number of entries that the remote has announced and that the log lacks.
fn await_heads(context: &Context<'_>, heads: &RemoteHeads, receives: bool) -> Result<u64> {
    // The roots are equal, or the remote has no feeds: a scan of the local feeds, which may be many, is not needed.
    if heads.is_empty() {
        context.step(Step::Ahead(0));
        return Ok(0);
    }
    let (local, mut lacking, mut local_head) = (context.log.local_id()?, heads.taken_entries(), 0);
    let choice = context.choice();
    context.log.each_head(|peer, head| {
        if choice.takes(peer) {
            lacking -= u64::from(head.min(heads.get(FeedKey::of(peer))));
        }
        if peer == local.as_str() {
            local_head = head;
        }
    })?;
    context.step(Step::Ahead(if receives { lacking } else { 0 }));
    let remote_head = heads.get(FeedKey::of(local.as_str()));
    if !receives && remote_head > local_head && choice.selects(local.as_str()) {
        (context.notify)(Notice::StaysBehind(local, local_head, remote_head));
    }
    Ok(lacking)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stop also ends the sender, and its end can be seen first.
    #[test]
    fn a_sender_does_not_end_by_itself_if_the_stop_has_come() {
        let ready = || std::io::pipe().unwrap().0;
        let (waiting, _writer) = std::io::pipe().unwrap();
        for (done, stop, expected) in [
            (&ready(), None, true),
            (&ready(), Some(&waiting), true),
            (&ready(), Some(&ready()), false),
            (&waiting, Some(&ready()), false),
        ] {
            assert_eq!(ends_by_itself(done.as_fd(), stop.map(AsFd::as_fd)).unwrap(), expected);
        }
    }
}
