//! Applies batches to a log. Only this module decides whether an entry is new, known, a gap or a fork, and what happens then.
//!
//! | the entry is | when | result |
//! |---|---|---|
//! | new | seq = head + 1 | it is stored |
//! | known | seq ≤ head, same hash and length, or one of the two is an unknown tombstone | nothing |
//! | fork | seq ≤ head, different hash or length | the feed is marked and stopped; a fork of the local feed gives the log a new id |
//! | gap | seq > head + 1 | the feed is stopped, or the gap is filled with unknown tombstones if the caller accepts gaps |
//! | below the floor | seq ≤ floor | nothing: the log cannot compare it, and never takes it back |
//!
//! Another log can also give a floor, the seq up to which it has pruned a feed, and the chain there:
//!
//! | the floor is | when | result |
//! |---|---|---|
//! | new | seq > head | the feed goes on behind the floor; for the local feed it is stopped instead |
//! | known | seq ≤ head, same chain, or the local chain is not known | nothing |
//! | fork | seq ≤ head, different chain | the feed is stopped; it is marked if the floor comes from a change line |
//!
//! An entry for the local feed is always new, unless it has a key ([`Batch::set_key`]):
//!
//! | the key is | when | result |
//! |---|---|---|
//! | repeated | it is one of the last keys of the log | the entry is left out |
//! | new | otherwise | the entry is stored, and the key with it |
//!
//! A run (native wire) comes with the chain after its last entry. It is stored only if this log computes the same chain.

use std::collections::HashSet;

use super::batch::{Batch, FloorTarget, Run, Target};
use super::quota::{Quota, Used};
use super::sealing::Sealing;
use crate::model::{Chain, Error, FeedKey, HashedEntry, PeerId, Result, Seq, Tombstone};
use crate::store::{Keys, Log, Writer};

/// The longest gap that is accepted, in entries. Entries are deleted one by one, so larger gaps are not expected. With this
/// limit, a wrong seq cannot fill the disk.
pub const GAP_ENTRIES_MAX: u32 = 1 << 20;

/// Applies batches one after the other, and remembers which feeds are stopped.
pub struct Applier<'l> {
    log: &'l Log,
    accept_gaps: bool,
    stopped: HashSet<FeedKey>,
    used: Used,
    sealing: Option<Sealing<'l>>,
    keys: Option<Keys>,
    /// A run has broken the protocol, or an entry exceeds the quota. Nothing later is stored.
    is_broken: bool,
}

/// The result of applying one batch.
#[derive(Default)]
pub struct Applied {
    /// The number of entries in the batch.
    pub entries: u64,
    /// The number of new entries.
    pub new: u64,
    /// The number of entries for the local feed that were left out, because their keys are repeated.
    pub repeated: u64,
    /// The number of entries for the local feed that were stored without a key, although keys are compared.
    pub keyless: u64,
    /// Entries that were appended to the local feed: the peer id, the first seq and the last seq.
    pub local: Option<(PeerId, Seq, Seq)>,
    /// The feeds of the batch: the log holds the entries of the batch up to this seq.
    pub reached: Vec<(FeedKey, u32)>,
    /// Runs that are on the disk: the remote's handle for the feed, and the last seq.
    pub acks: Vec<(u32, u32)>,
    /// The number of runs and floors in the batch.
    pub runs: u64,
    /// Feeds that begin anew at a floor: the peer id, the head before, and the floor.
    pub floors: Vec<(PeerId, u32, Seq)>,
    /// Feeds that were stopped.
    pub stops: Vec<StoppedFeed>,
    /// The new id of the log, if its local feed has forked.
    pub new_id: Option<PeerId>,
    /// The error of a run that breaks the protocol, or of an entry that exceeds the quota. What came before it is stored.
    pub broken: Option<Error>,
}

/// A feed that was stopped: the [`Applier`] stores no more entries of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoppedFeed {
    /// The author of the feed.
    pub peer: PeerId,
    /// The entry or the floor that stopped it.
    pub seq: Seq,
    /// The cause.
    pub cause: StopCause,
    /// The input line of the entry; 0 if the input has no lines.
    pub line: u64,
}

/// The cause that stopped a feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopCause {
    /// The log holds different bytes for the entry.
    Fork,
    /// Entries between this head and the entry are missing.
    Gap(u32),
    /// The run does not continue the feed after this head: the run was damaged, or the feeds already differ before it.
    ChainMismatch(u32),
    /// The other log has this chain at its floor, and this log has another one.
    FloorDiffers(Chain),
    /// The floor is above this head of the local feed: another log knows later entries of this log.
    FloorOfLocalFeed(u32),
}

/// The relation of an entry to a log.
enum EntryStatus {
    New,
    Known,
    Fork,
    /// Entries between this head and the entry are missing.
    Gap(u32),
}

impl<'l> Applier<'l> {
    /// An applier for `log`. With `accept_gaps`, it fills a gap of up to [`GAP_ENTRIES_MAX`] entries with unknown tombstones. It
    /// does not stop the feed then.
    pub fn new(log: &'l Log, accept_gaps: bool) -> Self {
        Self {
            log,
            accept_gaps,
            stopped: HashSet::new(),
            used: Used::new(Quota::NONE),
            sealing: None,
            keys: None,
            is_broken: false,
        }
    }

    /// Limits what it stores: after an entry that exceeds `quota`, it stores nothing more.
    #[must_use]
    pub fn with_quota(self, quota: Quota) -> Self {
        Self { used: Used::new(quota), ..self }
    }

    /// Seals old entries meanwhile.
    #[must_use]
    pub fn with_sealing(self, sealing: Sealing<'l>) -> Self {
        Self { sealing: Some(sealing), ..self }
    }

    /// Leaves out entries for the local feed whose key is repeated.
    #[must_use]
    pub fn with_keys(self, keys: Option<Keys>) -> Self {
        Self { keys, ..self }
    }

    /// Stores a batch in one commit. When this returns, the stored entries are on the disk.
    ///
    /// # Errors
    /// When the log cannot be read or written: then nothing of the batch is stored.
    pub fn apply(&mut self, batch: &Batch) -> Result<Applied> {
        let applied = self.try_to_apply(batch);
        if let (Err(_), Some(keys)) = (&applied, &mut self.keys) {
            keys.forget();
        }
        applied
    }

    fn try_to_apply(&mut self, batch: &Batch) -> Result<Applied> {
        // Runs after a broken run break as well. Their errors would hide the cause.
        if self.is_broken {
            return Ok(Applied::default());
        }
        self.sealing.as_mut().map_or(Ok(()), Sealing::wait_for_room)?;
        // Before the write transaction, because it can take long. A chain never changes.
        let chains = self.chains_at(batch.floors())?;
        let mut floors = batch.floors().iter().zip(chains).peekable();
        let mut writer = self.log.writer()?;
        let (entries, runs) = (batch.entries.len() as u64, (batch.runs().len() + batch.floors().len()) as u64);
        let mut applied = Applied { entries, runs, ..Applied::default() };
        if batch.targets().is_empty() && batch.floors().is_empty() {
            append(&mut writer, batch, self.keys.as_mut(), &mut applied)?;
        } else if batch.runs().is_empty() {
            self.apply_entries(&mut writer, batch, &mut floors, &mut applied)?;
        } else {
            self.apply_runs(&mut writer, batch, &mut floors, &mut applied)?;
        }
        self.apply_floors(&mut writer, &mut floors, usize::MAX, &mut applied)?;
        for position in batch.positions() {
            writer.set_followed(&position.path, position.known.as_deref(), &position.row)?;
        }
        let is_fork = |stop: &&StoppedFeed| match stop.cause {
            StopCause::Fork => true,
            // A chain of a remote is a claim: the session looks for the entry.
            StopCause::FloorDiffers(_) => stop.line > 0,
            _ => false,
        };
        let forks = applied.stops.iter().filter(is_fork);
        applied.new_id = mark_forks(&mut writer, forks.map(|fork| (&fork.peer, fork.seq)))?;
        applied.new = writer.commit()?.new;
        // The batch is stored: an error here must not look as if it were not.
        let bytes = batch.entries.input().len() as u64;
        self.sealing.as_mut().map(|sealing| sealing.start_if_needed(bytes).ok());
        Ok(applied)
    }

    /// The local chains at floors that are not above the head.
    fn chains_at(&self, floors: &[FloorTarget]) -> Result<Vec<Option<Chain>>> {
        let reader = self.log.reader();
        floors.iter().map(|floor| reader.chain_at(floor.peer.as_str(), floor.seq.get())).collect()
    }

    /// Applies the floors that come before the entry `before` of the batch. Returns whether there was one.
    fn apply_floors(
        &mut self,
        writer: &mut Writer<'_>,
        floors: &mut Floors<'_>,
        before: usize,
        applied: &mut Applied,
    ) -> Result<bool> {
        let mut any = false;
        while !self.is_broken
            && let Some((floor, local)) = floors.next_if(|(floor, _)| floor.after <= before)
        {
            any = true;
            let feed = FeedKey::of(floor.peer.as_str());
            if self.stopped.contains(&feed) {
                continue;
            }
            let (head, _) = writer.feed_state(&floor.peer)?;
            let cause = match apply_floor(writer, floor, local, &mut self.used) {
                Ok(None) => {
                    if head < floor.seq.get() {
                        applied.floors.push((floor.peer.clone(), head, floor.seq));
                    }
                    applied.reached.push((feed, floor.seq.get()));
                    continue;
                }
                Ok(Some(cause)) => cause,
                Err(err) if err.is_refusal() => {
                    (self.is_broken, applied.broken) = (true, Some(err));
                    break;
                }
                Err(err) => return Err(err),
            };
            let stop = StoppedFeed { peer: floor.peer.clone(), seq: floor.seq, cause, line: floor.line };
            self.stop(feed, stop, applied);
        }
        Ok(any)
    }

    /// Applies entries one by one: change lines, and entries of the original wire.
    fn apply_entries(
        &mut self,
        writer: &mut Writer<'_>,
        batch: &Batch,
        floors: &mut Floors<'_>,
        applied: &mut Applied,
    ) -> Result<()> {
        // Successive entries usually belong to the same feed: it is looked up only once.
        let mut current = usize::MAX;
        let (mut feed, mut head, mut floor, mut is_stopped) = (FeedKey::of(""), 0, 0, false);
        for (nth, (target, entry)) in (0..).zip(batch.targeted(0..batch.entries.len())) {
            let peer = batch.peer(target);
            if self.apply_floors(writer, floors, nth, applied)? {
                current = usize::MAX;
            }
            if self.is_broken {
                return Ok(());
            }
            if current != target.peer {
                (current, feed) = (target.peer, FeedKey::of(peer.as_str()));
                is_stopped = self.stopped.contains(&feed);
                if !is_stopped {
                    (head, _) = writer.feed_state(peer)?;
                    floor = writer.floor_of(peer)?;
                    applied.reached.push((feed, 0));
                }
            }
            if is_stopped || target.seq.get() <= floor {
                continue;
            }
            let is_stored =
                target.seq.get() == head.wrapping_add(1) || target.seq.get() > head && self.accepts_gap(head, target.seq);
            if is_stored && let Err(refused) = self.used.take(peer, head, target.seq, entry) {
                (self.is_broken, applied.broken) = (true, Some(refused));
                return Ok(());
            }
            let status = match apply_entry(writer, peer, &mut head, target.seq, entry)? {
                EntryStatus::Gap(before) if self.accepts_gap(before, target.seq) => {
                    fill_gap(writer, peer, &mut head, target.seq)?;
                    apply_entry(writer, peer, &mut head, target.seq, entry)?
                }
                status => status,
            };
            let cause = match status {
                EntryStatus::New | EntryStatus::Known => {
                    if let Some((_, reached)) = applied.reached.last_mut() {
                        *reached = target.seq.get().max(*reached);
                    }
                    continue;
                }
                EntryStatus::Fork => StopCause::Fork,
                EntryStatus::Gap(head) => StopCause::Gap(head),
            };
            is_stopped = true;
            self.stop(feed, stop_at(peer, target, cause), applied);
        }
        Ok(())
    }

    /// Applies runs, each as a whole.
    fn apply_runs(
        &mut self,
        writer: &mut Writer<'_>,
        batch: &Batch,
        floors: &mut Floors<'_>,
        applied: &mut Applied,
    ) -> Result<()> {
        for run in batch.runs() {
            self.apply_floors(writer, floors, run.entries.start, applied)?;
            if self.is_broken {
                break;
            }
            let targets = &batch.targets()[run.entries.clone()];
            let (Some(&first), Some(&last)) = (targets.first(), targets.last()) else { continue };
            let peer = batch.peer(first);
            let feed = FeedKey::of(peer.as_str());
            if self.stopped.contains(&feed) {
                continue;
            }
            let mut stored = |seq: Seq| {
                applied.acks.push((run.handle, seq.get()));
                applied.reached.push((feed, seq.get()));
            };
            match apply_run(writer, batch, run, peer, &mut self.used, &mut stored) {
                Ok(None) => stored(last.seq),
                Ok(Some(stop)) => self.stop(feed, stop, applied),
                Err(err) if matches!(err, Error::Wire(_)) || err.is_refusal() => {
                    (self.is_broken, applied.broken) = (true, Some(err));
                    break;
                }
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    fn accepts_gap(&self, head: u32, seq: Seq) -> bool {
        self.accept_gaps && seq.get() - head - 1 <= GAP_ENTRIES_MAX
    }

    fn stop(&mut self, feed: FeedKey, stop: StoppedFeed, applied: &mut Applied) {
        self.stopped.insert(feed);
        applied.stops.push(stop);
    }
}

/// The floors of a batch that are not applied yet, each with the local chain there.
type Floors<'b> = std::iter::Peekable<std::iter::Zip<std::slice::Iter<'b, FloorTarget>, std::vec::IntoIter<Option<Chain>>>>;

/// Appends the entries to the local feed, except those whose key is repeated.
fn append(writer: &mut Writer<'_>, batch: &Batch, mut keys: Option<&mut Keys>, applied: &mut Applied) -> Result<()> {
    let mut seqs: Option<(Seq, Seq)> = None;
    // In the transaction: another process may have stored the same entries until now.
    keys.as_mut().map_or(Ok(()), |keys| writer.load_keys(keys))?;
    let add = |keys: &mut &mut Keys| batch.keys().iter().map(|key| key.is_none_or(|key| keys.add(key))).collect::<Vec<_>>();
    let is_stored = keys.as_mut().map(add);
    for (index, entry) in batch.entries.iter().enumerate() {
        if let Some(is_stored) = &is_stored {
            if !is_stored[index] {
                applied.repeated += 1;
                continue;
            }
            applied.keyless += u64::from(batch.keys()[index].is_none());
        }
        let seq = writer.append(entry)?;
        seqs = Some((seqs.map_or(seq, |(first, _)| first), seq));
    }
    keys.map_or(Ok(()), |keys| writer.save_keys(keys))?;
    if let Some((first, last)) = seqs {
        applied.local = Some((writer.local_id()?, first, last));
    }
    Ok(())
}

/// Begins the feed anew if the floor is above its head. `local` is the local chain there, if it was known before the transaction.
/// Returns the cause that stops the feed, if there is one.
fn apply_floor(writer: &mut Writer<'_>, floor: &FloorTarget, local: Option<Chain>, used: &mut Used) -> Result<Option<StopCause>> {
    let FloorTarget { peer, seq, chain, .. } = floor;
    let (head, at_head) = writer.feed_state(peer)?;
    if seq.get() <= head {
        let local = if seq.get() == head { Some(at_head) } else { local };
        return Ok(local.is_some_and(|local| local != *chain).then_some(StopCause::FloorDiffers(*chain)));
    }
    if *peer == writer.local_id()? {
        return Ok(Some(StopCause::FloorOfLocalFeed(head)));
    }
    used.take_floor(peer, head, *seq)?;
    writer.set_floor(peer, *seq, *chain)?;
    Ok(None)
}

/// Compares an entry with the log, and stores it if it is new. `head` is the head of the feed, before and after.
fn apply_entry(writer: &mut Writer<'_>, peer: &PeerId, head: &mut u32, seq: Seq, entry: HashedEntry<'_>) -> Result<EntryStatus> {
    if seq.get() <= *head {
        let (stored, offered) = (writer.tombstone_of(peer, seq)?, entry.tombstone());
        let same = stored == offered || stored == Tombstone::UNKNOWN || offered == Tombstone::UNKNOWN;
        return Ok(if same { EntryStatus::Known } else { EntryStatus::Fork });
    }
    if seq.get() - *head > 1 {
        return Ok(EntryStatus::Gap(*head));
    }
    *head = writer.push(peer, entry)?.get();
    Ok(EntryStatus::New)
}

/// Stores a run if it continues the feed. Returns the stopped feed if it does not.
///
/// If an entry exceeds the quota, the entries before it are stored, and `stored` gets the last of them.
///
/// The chain is computed from the received entries. If it equals the remote's chain, the entries are the remote's entries.
fn apply_run(
    writer: &mut Writer<'_>,
    batch: &Batch,
    run: &Run,
    peer: &PeerId,
    used: &mut Used,
    stored: &mut impl FnMut(Seq),
) -> Result<Option<StoppedFeed>> {
    let (mut head, mut chain) = writer.feed_state(peer)?;
    let targets = &batch.targets()[run.entries.clone()];
    let at = |seq: u32| run.entries.start + targets.partition_point(|target| target.seq.get() <= seq);
    let (pruned, known) = (at(writer.floor_of(peer)?), at(head));
    for (target, entry) in batch.targeted(pruned..known) {
        if matches!(apply_entry(writer, peer, &mut head, target.seq, entry)?, EntryStatus::Fork) {
            return Ok(Some(stop_at(peer, target, StopCause::Fork)));
        }
    }
    let Some((first, _)) = batch.targeted(known..run.entries.end).next() else { return Ok(None) };
    if first.seq.get() != head + 1 {
        return Err(Error::Wire(format!("the remote sent entry {} of {peer} after entry {head}: run it again", first.seq)));
    }
    for (_, entry) in batch.targeted(known..run.entries.end) {
        chain = chain.next(entry.tombstone());
    }
    if chain != run.chain {
        return match head {
            0 => Err(Error::damaged_in_transit(peer.as_str())),
            head => Ok(Some(stop_at(peer, first, StopCause::ChainMismatch(head)))),
        };
    }
    for (target, entry) in batch.targeted(known..run.entries.end) {
        if let Err(refused) = used.take(peer, head, target.seq, entry) {
            Seq::new(u64::from(head)).map(stored);
            return Err(refused);
        }
        head = writer.push(peer, entry)?.get();
    }
    Ok(None)
}

fn stop_at(peer: &PeerId, target: Target, cause: StopCause) -> StoppedFeed {
    StoppedFeed { peer: peer.clone(), seq: target.seq, cause, line: target.line }
}

/// Stores unknown tombstones between `head` and `seq`.
fn fill_gap(writer: &mut Writer<'_>, peer: &PeerId, head: &mut u32, seq: Seq) -> Result<()> {
    while *head + 1 < seq.get() {
        *head = writer.push(peer, HashedEntry::deleted(Tombstone::UNKNOWN))?.get();
    }
    Ok(())
}

/// Records forks that were found by comparing chains, in one commit. Returns the new id of the log if the local feed has forked.
///
/// # Errors
/// When the log cannot be written.
pub fn record_forks(log: &Log, forks: &[(PeerId, Seq)]) -> Result<Option<PeerId>> {
    if forks.is_empty() {
        return Ok(None);
    }
    let mut writer = log.writer()?;
    let new_id = mark_forks(&mut writer, forks.iter().map(|(peer, seq)| (peer, *seq)))?;
    writer.commit()?;
    Ok(new_id)
}

/// Marks the feeds that have forked. If the local feed has forked, gives the log a new id and returns it.
fn mark_forks<'f>(writer: &mut Writer<'_>, forks: impl Iterator<Item = (&'f PeerId, Seq)>) -> Result<Option<PeerId>> {
    let (local, mut local_has_forked) = (writer.local_id()?, false);
    for (peer, seq) in forks {
        writer.mark_fork(peer, seq)?;
        local_has_forked |= *peer == local;
    }
    if local_has_forked { writer.renew_id().map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Chain;

    fn id(peer: &str) -> PeerId {
        PeerId::new(peer).unwrap()
    }

    fn batch(entries: &[(&str, u64, &str)]) -> Batch {
        let mut batch = Batch::default();
        for (line, &(peer, seq, bytes)) in (1..).zip(entries) {
            batch.entries.push_copy(bytes.as_bytes());
            batch.set_target(&id(peer), Seq::new(seq).unwrap(), line);
        }
        batch
    }

    fn log(dir: &tempfile::TempDir) -> Log {
        let log = Log::create(dir.path(), Some(id("own"))).unwrap();
        log.append(b"1").unwrap();
        log.append(b"2").unwrap();
        log
    }

    fn stops(applied: &Applied) -> Vec<(String, u32, StopCause, u64)> {
        applied.stops.iter().map(|stop| (stop.peer.to_string(), stop.seq.get(), stop.cause, stop.line)).collect()
    }

    #[test]
    fn new_known_gap_and_fork() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir);
        let mut applier = Applier::new(&log, false);
        let changes =
            [("own", 2, "2"), ("a", 1, "x"), ("a", 2, "y"), ("b", 2, "z"), ("b", 1, "z"), ("a", 1, "other"), ("a", 3, "w")];
        let applied = applier.apply(&batch(&changes)).unwrap();
        assert_eq!(
            stops(&applied),
            [("b".into(), 2, StopCause::Gap(0), 4), ("a".into(), 1, StopCause::Fork, 6)],
            "later entries of a stopped feed are ignored"
        );
        assert_eq!((applied.new, applied.new_id), (2, None));
        assert_eq!(log.forks().unwrap(), [(id("a"), Seq::new(1).unwrap())].into());
        let again = applier.apply(&batch(&[("a", 3, "w"), ("b", 1, "z"), ("c", 1, "q")])).unwrap();
        assert_eq!((again.new, again.stops.len()), (1, 0), "stopped feeds stay stopped");
    }

    #[test]
    fn a_fork_of_the_local_feed_gives_a_new_id_in_the_same_commit() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir);
        let applied = Applier::new(&log, false).apply(&batch(&[("own", 2, "other")])).unwrap();
        assert_eq!(applied.new_id.as_ref(), Some(&log.local_id().unwrap()));
        assert_ne!(log.local_id().unwrap(), id("own"));
        // This feed is no longer the local feed: its second fork does not change the id.
        let applied = Applier::new(&log, false).apply(&batch(&[("own", 1, "other")])).unwrap();
        assert_eq!((applied.stops.len(), applied.new_id), (1, None));
    }

    #[test]
    fn an_accepted_gap_is_filled_with_unknown_tombstones() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir);
        let mut applier = Applier::new(&log, true);
        let applied = applier.apply(&batch(&[("a", 3, "x"), ("b", u64::from(GAP_ENTRIES_MAX) + 2, "y")])).unwrap();
        assert_eq!(stops(&applied), [("b".into(), GAP_ENTRIES_MAX + 2, StopCause::Gap(0), 2)]);
        assert_eq!((log.heads().unwrap().get("a"), applied.new), (3, 3));
        // An unknown tombstone matches any bytes, so this entry is known.
        let applied = applier.apply(&batch(&[("a", 1, "any")])).unwrap();
        assert_eq!((applied.stops.len(), applied.new), (0, 0));
    }

    #[test]
    fn what_exceeds_the_quota_is_refused_and_what_came_before_it_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir);
        let quota = |feeds, bytes| Applier::new(&log, false).with_quota(Quota { feeds, bytes });
        // Known entries, and new entries of known feeds, use no feed.
        let entries = [("own", 2, "2"), ("own", 3, "3"), ("a", 1, "x"), ("a", 2, "y"), ("b", 1, "z"), ("own", 4, "4")];
        let mut applier = quota(1, 100);
        let applied = applier.apply(&batch(&entries)).unwrap();
        assert!(matches!(applied.broken, Some(Error::FeedsRefused(peer, 1)) if peer == id("b")));
        assert_eq!((applied.new, log.heads().unwrap().get("own"), log.heads().unwrap().get("b")), (3, 3, 0));
        assert_eq!(applier.apply(&batch(&[("own", 4, "4")])).unwrap().new, 0, "nothing more is stored");
        // In a run, the entries before the first one that exceeds the quota are stored and acknowledged.
        let entries = [("c", 1, "1234"), ("c", 2, ""), ("c", 3, "5"), ("c", 4, "6")];
        let mut run = batch(&entries);
        let start = Chain::start(&id("c"));
        let chain = entries.iter().fold(start, |chain, entry| chain.next(HashedEntry::new(entry.2.as_bytes()).tombstone()));
        run.end_run(entries.len(), 7, chain);
        let applied = quota(1, 6).apply(&run).unwrap();
        assert!(matches!(applied.broken, Some(Error::BytesRefused(peer, seq, 6)) if peer == id("c") && seq.get() == 4));
        assert_eq!((applied.new, applied.acks, log.heads().unwrap().get("c")), (3, vec![(7, 3)], 3));
        let applied = quota(1, 0).apply(&batch(&[("c", 4, "6")])).unwrap();
        assert!(matches!(applied.broken, Some(Error::BytesRefused(..))) && applied.new == 0);
    }

    #[test]
    fn a_run_is_stored_only_with_the_right_chain() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir);
        let mut applier = Applier::new(&log, false);
        let run = |entries: &[(&str, u64, &str)], chain: Chain| {
            let mut batch = batch(entries);
            batch.end_run(entries.len(), 7, chain);
            batch
        };
        let chain = |peer: &str, entries: &[&str]| {
            entries
                .iter()
                .fold(Chain::start(&id(peer)), |chain, entry| chain.next(HashedEntry::new(entry.as_bytes()).tombstone()))
        };
        let good = applier.apply(&run(&[("a", 1, "x"), ("a", 2, "y")], chain("a", &["x", "y"]))).unwrap();
        assert_eq!((good.new, good.acks, good.runs), (2, vec![(7, 2)], 1));
        let wrong = applier.apply(&run(&[("a", 3, "z")], chain("a", &["x", "other", "z"]))).unwrap();
        assert_eq!((wrong.new, stops(&wrong)), (0, vec![("a".into(), 3, StopCause::ChainMismatch(2), 1)]));
        assert!(wrong.acks.is_empty());
        let broken = applier.apply(&run(&[("b", 1, "x")], Chain(1))).unwrap();
        assert!(matches!(broken.broken, Some(Error::Wire(_))) && broken.new == 0 && log.heads().unwrap().get("b") == 0);
        let after = applier.apply(&run(&[("b", 2, "y")], Chain(2))).unwrap();
        assert!(after.broken.is_none() && after.runs == 0, "only the first error counts");
    }
}
