//! Finds the entries that a filter wants, and the entries of a time, without a look at all others.
//!
//! The entries of a feed are in runs: successive offsets. The index of runs says where they are, so that a feed is read without
//! the entries between its runs. Each record that is found this way costs more than one in a scan. If the feeds hold a large
//! part of the log, a scan with a filter is faster.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::ops::ControlFlow;

use super::lmdb::{Arrival, ReadTxn};
use super::records::{Record, Records};
use super::rows::{FeedRow, RunRow};
use super::{Bounds, Log, Reader};
use crate::model::{Change, EntryFilter, Error, Offset, PeerId, Printable, Result};

/// A range of at most this many offsets is scanned: to plan anything else takes longer.
const SCANNED_OFFSETS_MAX: u64 = 4096;
/// To find one record by its run costs as much as to scan this many records.
const FIND_COST: u64 = 20;
/// To find the first run of a feed costs as much as to scan this many records.
const FEED_COST: u64 = 16;
/// The maximum number of runs that one snapshot visits. Each may be in another block of a pack.
const RUNS_MAX: usize = 512;

/// Finds entries: gives those that a filter wants, in the order of arrival or the newest first.
pub struct Finder<'l> {
    reader: Reader<'l>,
    filter: EntryFilter,
    /// The seq above which the filter wants entries, by peer number. `None`: not known yet.
    above: Vec<Option<Above>>,
    has_times: bool,
    /// The arrival of the entry that was given last.
    arrival: Option<Arrival>,
    plan: Option<Plan>,
}

/// The seq above which entries of a feed are wanted. `None`: no entry is wanted.
type Above = Option<u32>;

/// The entries of a feed that are next: a run, or the rest of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pick {
    /// The offset of the first entry.
    offset: u64,
    seq: u32,
    count: u32,
    number: u32,
}

/// The way in which the entries of a range are found.
struct Plan {
    /// Everything up to this offset was looked at.
    after: Offset,
    until: Offset,
    /// The next run of each feed, the one that arrived first on top. `None`: the range is scanned.
    picks: Option<BinaryHeap<Reverse<Pick>>>,
}

/// The entries of a feed that are next on the way back: a run, or the start of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct PickBack {
    first_seq: u32,
    count: u32,
    number: u32,
    /// The seq above which entries of the feed are wanted.
    above: u32,
}

/// The next run of each wanted feed on the way back, with the offset of its last entry. The one that arrived last is on top.
type PicksBack = BinaryHeap<(u64, PickBack)>;

/// The state of [`Finder::scan_back`] between two calls.
pub struct Backwards {
    /// Everything from this offset on was looked at.
    before: Offset,
    /// Nothing up to this offset is given.
    after: Offset,
    /// `None`: all entries are wanted.
    picks: Option<PicksBack>,
}

impl Log {
    /// Finds the entries that `filter` wants. With `has_times`, gives the time of arrival of each entry.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use scuttleup::{Bounds, EntryFilter, FeedMap, HashedEntry, Log, Offset, PeerId};
    ///
    /// # let dir = std::env::temp_dir().join(format!("scuttleup-doc-find-{}", std::process::id()));
    /// # let log = Log::open_or_create(&dir)?;
    /// let mut writer = log.writer()?;
    /// for n in 1..=9 {
    ///     writer.push(&PeerId::new(["web-1", "db", "web-2"][n % 3])?, HashedEntry::new(b"1"))?;
    /// }
    /// writer.commit()?;
    /// let mut finder = log.find(EntryFilter::new(["web-*"], FeedMap::default())?, false);
    /// let (mut position, end, mut found) = (Offset::ZERO, log.last_offset()?, Vec::new());
    /// while position < end {
    ///     position = finder.scan(position, end, Bounds::default(), |change, _| {
    ///         found.push(change.offset.0);
    ///         Ok(ControlFlow::Continue(()))
    ///     })?;
    /// }
    /// assert_eq!(found, [2, 3, 5, 6, 8, 9]);
    /// # std::fs::remove_dir_all(dir).ok();
    /// # Ok::<(), scuttleup::Error>(())
    /// ```
    pub fn find(&self, filter: EntryFilter, has_times: bool) -> Finder<'_> {
        Finder { reader: self.reader(), filter, above: Vec::new(), has_times, arrival: None, plan: None }
    }

    /// The offset of the last entry that arrived before `millis`, Unix time in milliseconds. This is a search, not a scan.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn end_before(&self, millis: u64) -> Result<Offset> {
        self.env.read()?.end_before(millis)
    }

    /// The time at which the entry at `offset` arrived, Unix time in milliseconds.
    ///
    /// # Errors
    /// When the log cannot be read, or does not hold the time.
    pub fn arrival(&self, offset: Offset) -> Result<u64> {
        Ok(self.env.read()?.arrival(offset)?.millis)
    }
}

impl Finder<'_> {
    /// Gives the next wanted changes after the offset `after` and up to `until` to `each`, in the order of arrival, until `each`
    /// breaks or `bounds` are reached: each change, and its time of arrival if the finder has times. Returns the offset up to which
    /// everything was looked at: that of the last change if `each` has broken. It is `after` only if the log has nothing more up to
    /// `until`.
    ///
    /// Pruned entries are passed over as in [`Reader::scan`]. `each` must not block.
    ///
    /// # Errors
    /// As [`Reader::scan`].
    pub fn scan(
        &mut self,
        after: Offset,
        until: Offset,
        bounds: Bounds,
        each: impl FnMut(&Change<'_>, Option<u64>) -> Result<ControlFlow<()>>,
    ) -> Result<Offset> {
        if after >= until {
            return Ok(after);
        }
        if self.filter.is_all() {
            return self.scan_all(after, until, bounds, each);
        }
        let is_planned = |plan: &Plan| plan.after == after && plan.until > after && plan.until <= until;
        if !self.plan.as_ref().is_some_and(is_planned) {
            self.plan = Some(self.plan(after, until)?);
        }
        let plan = self.plan.as_ref().expect("it was just made");
        let (until, is_scanned) = (plan.until, plan.picks.is_none());
        let skipped = self.reader.skipped;
        let last = if is_scanned { self.scan_all(after, until, bounds, each) } else { self.scan_picks(until, bounds, each) }?;
        match &mut self.plan {
            Some(plan) if self.reader.skipped == skipped => plan.after = last,
            // The index of runs has changed below the new floor.
            plan => *plan = None,
        }
        Ok(last)
    }

    /// The number of pruned entries that scans have passed over since the last call: see [`Reader::scan`].
    pub fn take_skipped(&mut self) -> u64 {
        self.reader.take_skipped()
    }

    /// Scans a range, and gives the wanted changes.
    fn scan_all(
        &mut self,
        after: Offset,
        until: Offset,
        bounds: Bounds,
        mut each: impl FnMut(&Change<'_>, Option<u64>) -> Result<ControlFlow<()>>,
    ) -> Result<Offset> {
        let (mut last, mut entries, mut bytes) = (after, 0, 0);
        let Self { reader, filter, above, has_times, arrival, .. } = self;
        let (log, peers, records, skipped) = (reader.log, &mut reader.peers, reader.records.get_mut(), &mut reader.skipped);
        let is_all = filter.is_all();
        log.in_snapshot(|txn| {
            let floor = txn.floor()?;
            // Also if entries were pruned while this scan began again.
            if last < floor {
                if last == after {
                    (*skipped, last) = (*skipped + (floor.0 - after.0), floor);
                }
                return Ok(());
            }
            records.scan(txn, last.next(), |offset, Record { number, seq, entry }| {
                if offset > until {
                    return Ok(ControlFlow::Break(()));
                }
                (last, entries, bytes) = (offset, entries + 1, bytes + entry.tombstone().bytes as usize);
                let is_full = entries >= bounds.entries_max || bytes >= bounds.bytes_max;
                let peer = peers.get(number, txn)?;
                let is_wanted = is_all || above_of(above, filter, number, peer).is_some_and(|above| seq.get() > above);
                let flow = match is_wanted {
                    true => each(&Change { offset, peer, seq, entry }, time_of(*has_times, arrival, txn, offset)?)?,
                    false => ControlFlow::Continue(()),
                };
                Ok(if is_full { ControlFlow::Break(()) } else { flow })
            })
        })?;
        Ok(last)
    }

    /// Visits the runs of the plan.
    fn scan_picks(
        &mut self,
        until: Offset,
        bounds: Bounds,
        mut each: impl FnMut(&Change<'_>, Option<u64>) -> Result<ControlFlow<()>>,
    ) -> Result<Offset> {
        let Self { reader, has_times, arrival, plan, .. } = self;
        let (log, peers, records, skipped) = (reader.log, &mut reader.peers, reader.records.get_mut(), &mut reader.skipped);
        let Some(Plan { after, picks: Some(picks), .. }) = plan else { return Ok(until) };
        let (mut entries, mut bytes, mut runs, mut end) = (0, 0, 0, None);
        log.in_snapshot(|txn| {
            let floor = txn.floor()?;
            if *after < floor {
                if entries == 0 {
                    (*skipped, end) = (*skipped + (floor.0 - after.0), Some(floor));
                }
                return Ok(());
            }
            while let Some(&Reverse(mut pick)) = picks.peek()
                && pick.offset <= until.0
                && end.is_none()
                && !(entries >= bounds.entries_max || bytes >= bounds.bytes_max || runs >= RUNS_MAX)
            {
                runs += 1;
                let given = give_run(txn, records, pick, |record| {
                    let (offset, Record { number, seq, entry }) = (Offset(pick.offset), record);
                    if offset > until {
                        return Ok(ControlFlow::Break(()));
                    }
                    let peer = peers.get(number, txn)?;
                    check_index((pick.number, pick.seq), (number, seq.get()), peer, offset)?;
                    let flow = each(&Change { offset, peer, seq, entry }, time_of(*has_times, arrival, txn, offset)?)?;
                    (*after, entries, bytes) = (offset, entries + 1, bytes + entry.tombstone().bytes as usize);
                    (pick.offset, pick.seq, pick.count) = (offset.0 + 1, pick.seq.wrapping_add(1), pick.count - 1);
                    end = flow.is_break().then_some(offset);
                    let is_full = entries >= bounds.entries_max || bytes >= bounds.bytes_max;
                    Ok(if is_full { ControlFlow::Break(()) } else { flow })
                });
                let next = if pick.count > 0 { Some(pick) } else { next_pick(txn, pick.number, pick.seq, until)? };
                match (next, picks.peek_mut()) {
                    (Some(next), Some(mut top)) => *top = Reverse(next),
                    (_, Some(top)) => drop(PeekMut::pop(top)),
                    (_, None) => {}
                }
                given?;
            }
            Ok(())
        })?;
        // Everything before the next run was looked at.
        let looked_at = picks.peek().map_or(until, |Reverse(pick)| Offset(pick.offset - 1).min(until));
        Ok(end.unwrap_or(looked_at))
    }

    /// Plans how the wanted entries after `after` and up to `until` are found.
    fn plan(&self, after: Offset, until: Offset) -> Result<Plan> {
        let txn = self.reader.log.env.read()?;
        let last = txn.last_offset()?;
        let until = until.min(last);
        let range = until.0.saturating_sub(after.0);
        let scanned = Plan { after, until, picks: None };
        if range <= SCANNED_OFFSETS_MAX || self.filter.only().is_none() && txn.feed_count()? > range / FEED_COST {
            return Ok(scanned);
        }
        let feeds = self.feeds(&txn)?;
        if feeds.len() as u64 > range / FEED_COST {
            return Ok(scanned);
        }
        let (mut picks, mut entries, mut sample, mut samples) = (Vec::with_capacity(feeds.len()), 0, 0, 0);
        for (row, above) in feeds {
            if let Some(pick) =
                first_pick(&txn, &row, above.saturating_add(1), after.next())?.filter(|pick| pick.offset <= until.0)
            {
                entries += u64::from(row.head - pick.seq) + 1;
                let middle = pick.seq + (row.head - pick.seq) / 2;
                sample += u64::from(pick.count) + txn.run(row.number, middle)?.map_or(1, |run| u64::from(run.count));
                samples += 2;
                picks.push(Reverse(pick));
            }
        }
        // The part of them that is not behind `until`, and the number of their runs.
        let entries = u128::from(entries) * u128::from(range) / u128::from((last.0 - after.0).max(1));
        let runs = entries * samples / u128::from(sample.max(1));
        if entries + runs * u128::from(FIND_COST) > u128::from(range) {
            return Ok(scanned);
        }
        Ok(Plan { after, until, picks: Some(picks.into()) })
    }

    /// The feeds that have wanted entries in this log, each with the seq above which they are wanted and here.
    fn feeds(&self, txn: &ReadTxn<'_>) -> Result<Vec<(FeedRow, u32)>> {
        let mut feeds = Vec::new();
        let mut add = |peer: &str, row: FeedRow| {
            let above = self.filter.above(peer).map(|above| above.max(row.floor_seq()));
            feeds.extend(above.filter(|above| *above < row.head).map(|above| (row, above)));
            Ok(())
        };
        match self.filter.only() {
            Some(ids) => {
                for id in ids {
                    txn.feed(id.as_str())?.map_or(Ok(()), |row| add(id.as_str(), row))?;
                }
            }
            None => txn.feeds(add)?,
        }
        Ok(feeds)
    }

    /// The offset after which the last `count` wanted entries after `start` and up to `end` begin.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn start_of_last(&mut self, start: Offset, end: Offset, count: u64) -> Result<Offset> {
        let txn = self.reader.log.env.read()?;
        let (end, start) = (end.min(txn.last_offset()?), start.max(txn.floor()?));
        if self.filter.is_all() || count == 0 {
            return Ok(start.max(Offset(end.0.saturating_sub(count))).min(end.max(start)));
        }
        if self.filter.only().is_none() {
            drop(txn);
            // Any feed can be wanted: to look at the newest entries is faster than to look at all feeds.
            let (mut found, mut after) = (Vec::new(), start.max(Offset(end.0.saturating_sub(SCANNED_OFFSETS_MAX))));
            loop {
                let last = self.scan_all(after, end, Bounds::default(), |change, _| {
                    found.push(change.offset);
                    Ok(ControlFlow::Continue(()))
                })?;
                if last == after {
                    break;
                }
                after = last;
            }
            if let Some(first) = usize::try_from(count).ok().and_then(|count| found.len().checked_sub(count)) {
                return Ok(Offset(found[first].0 - 1));
            }
        }
        let txn = self.reader.log.env.read()?;
        let start = start.max(txn.floor()?);
        let (mut picks, mut left) = (self.picks_back(&txn, start, end)?, count);
        while let Some((last, pick)) = picks.pop() {
            if u64::from(pick.count) >= left {
                return Ok(Offset(last - left));
            }
            left -= u64::from(pick.count);
            picks.extend(pick.before(&txn, start, Offset(last - u64::from(pick.count)))?);
        }
        Ok(start)
    }

    /// The runs of the wanted feeds after `after` and up to `until`, backwards.
    fn picks_back(&self, txn: &ReadTxn<'_>, after: Offset, until: Offset) -> Result<PicksBack> {
        let mut picks = PicksBack::new();
        for (row, above) in self.feeds(txn)? {
            picks.extend(last_pick(txn, &row, above, after, until)?);
        }
        Ok(picks)
    }

    /// Begins to give the wanted changes after `after` and up to `until`, the newest first.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn backwards(&self, after: Offset, until: Offset) -> Result<Backwards> {
        let txn = self.reader.log.env.read()?;
        let (after, until) = (after.max(txn.floor()?), until.min(txn.last_offset()?));
        let picks = if self.filter.is_all() { None } else { Some(self.picks_back(&txn, after, until)?) };
        Ok(Backwards { after, before: until.next(), picks })
    }

    /// Gives the next changes to `each`, the newest first, as [`Finder::scan`] does otherwise. Returns false if there are no more.
    ///
    /// # Errors
    /// As [`Reader::scan`].
    pub fn scan_back(
        &mut self,
        position: &mut Backwards,
        bounds: Bounds,
        mut each: impl FnMut(&Change<'_>, Option<u64>) -> Result<ControlFlow<()>>,
    ) -> Result<bool> {
        let Self { reader, has_times, arrival, .. } = self;
        let (log, peers, records) = (reader.log, &mut reader.peers, reader.records.get_mut());
        let Backwards { after, before, picks } = position;
        let (mut entries, mut bytes, mut runs, mut is_broken) = (0, 0, 0, false);
        let is_done = log.in_snapshot(|txn| {
            let floor = txn.floor()?.max(*after);
            while !(is_broken || entries >= bounds.entries_max || bytes >= bounds.bytes_max || runs >= RUNS_MAX) {
                // The run whose last entry is next.
                let (offset, pick) = match picks {
                    None => (Offset(before.0 - 1), None),
                    Some(picks) => match picks.peek() {
                        None => return Ok(true),
                        Some(&(last, pick)) => (Offset(last), Some(pick)),
                    },
                };
                if offset <= floor {
                    return Ok(true);
                }
                records.get(txn, offset, |Record { number, seq, entry }| {
                    let peer = peers.get(number, txn)?;
                    if let Some(pick) = pick {
                        check_index((pick.number, pick.last_seq()), (number, seq.get()), peer, offset)?;
                    }
                    is_broken =
                        each(&Change { offset, peer, seq, entry }, time_of(*has_times, arrival, txn, offset)?)?.is_break();
                    (entries, bytes) = (entries + 1, bytes + entry.tombstone().bytes as usize);
                    Ok(())
                })?;
                *before = offset;
                let Some((pick, picks)) = pick.zip(picks.as_mut()) else { continue };
                let next = match pick.count {
                    1 => {
                        runs += 1;
                        pick.before(txn, *after, Offset(offset.0 - 1))?
                    }
                    count => Some((offset.0 - 1, PickBack { count: count - 1, ..pick })),
                };
                match (next, picks.peek_mut()) {
                    (Some(next), Some(mut top)) => *top = next,
                    (_, Some(top)) => drop(PeekMut::pop(top)),
                    (_, None) => {}
                }
            }
            Ok(false)
        })?;
        Ok(!is_done)
    }
}

/// The seq above which entries of a feed are wanted: from the table `known`, or else from the filter.
fn above_of(known: &mut Vec<Option<Above>>, filter: &EntryFilter, number: u32, peer: &PeerId) -> Above {
    let index = number as usize;
    if index >= known.len() {
        known.resize(index + 1, None);
    }
    *known[index].get_or_insert_with(|| filter.above(peer.as_str()))
}

/// The time of arrival of the entry at `offset`, if it `is_asked` for. `known` is that of another entry.
fn time_of(is_asked: bool, known: &mut Option<Arrival>, txn: &ReadTxn<'_>, offset: Offset) -> Result<Option<u64>> {
    if !is_asked {
        return Ok(None);
    }
    match known {
        Some(known) if (known.first..=known.last).contains(&offset) => Ok(Some(known.millis)),
        known => Ok(Some(known.insert(txn.arrival(offset)?).millis)),
    }
}

/// Checks that the record at `offset`, of `peer`, is the one that the index of runs names: peer number and seq.
fn check_index(indexed: (u32, u32), found: (u32, u32), peer: &PeerId, offset: Offset) -> Result<()> {
    if indexed == found {
        return Ok(());
    }
    let (peer, seq) = (Printable(peer.as_str()), found.1);
    Err(Error::Corrupt(format!("the index of runs does not have entry {seq} of {peer} at offset {offset}")))
}

/// Gives the records of a run to `each`, until it breaks.
fn give_run(
    txn: &ReadTxn<'_>,
    records: &mut Records,
    pick: Pick,
    mut each: impl FnMut(Record<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    if pick.count == 1 {
        return records.get(txn, Offset(pick.offset), each).map(|_| ());
    }
    let mut left = pick.count;
    records.scan(txn, Offset(pick.offset), |_, record| {
        left -= 1;
        let flow = each(record)?;
        Ok(if left == 0 { ControlFlow::Break(()) } else { flow })
    })
}

/// The first entries of the feed `row` from the seq `seq` and from the offset `from` on.
fn first_pick(txn: &ReadTxn<'_>, row: &FeedRow, seq: u32, from: Offset) -> Result<Option<Pick>> {
    let number = row.number;
    let first = txn.run(number, seq)?.filter(|run| run.last_seq() >= seq);
    let mut found = first.map_or_else(|| txn.run_after(number, seq), |run| Ok(Some(run)))?;
    if let Some(run) = found.filter(|run| run.last_offset() < from.0) {
        found = None;
        let (mut low, mut high) = (run.last_seq().saturating_add(1), row.head);
        while low <= high {
            let middle = low + (high - low) / 2;
            match txn.run(number, middle)? {
                Some(run) if run.last_offset() >= from.0 => {
                    found = Some(run);
                    if run.first_offset <= from.0 {
                        break;
                    }
                    high = run.first_seq - 1;
                }
                run => low = run.map_or(middle, |run| run.last_seq().max(middle)).saturating_add(1),
            }
        }
    }
    Ok(found.and_then(|run| Pick::of(number, &run, seq, from)))
}

/// The next entries of a feed from the seq `seq` on, unless they are behind `until`.
fn next_pick(txn: &ReadTxn<'_>, number: u32, seq: u32, until: Offset) -> Result<Option<Pick>> {
    // Entries that were added to the last run since the plan was made are behind `until`.
    let run = txn.run_after(number, seq)?.filter(|run| run.first_offset <= until.0);
    Ok(run.and_then(|run| Pick::of(number, &run, seq, Offset::ZERO)))
}

/// The last entries of the feed `row` above the seq `above`, after `after` and up to `until`.
fn last_pick(txn: &ReadTxn<'_>, row: &FeedRow, above: u32, after: Offset, until: Offset) -> Result<Option<(u64, PickBack)>> {
    let number = row.number;
    let mut found = txn.run(number, row.head)?;
    if let Some(run) = found.filter(|run| run.first_offset > until.0) {
        found = None;
        let (mut low, mut high) = (above.saturating_add(1), run.first_seq - 1);
        while low <= high {
            let middle = low + (high - low) / 2;
            match txn.run(number, middle)? {
                Some(run) if run.first_offset > until.0 => high = run.first_seq - 1,
                run => {
                    found = run.or(found);
                    low = run.map_or(middle, |run| run.last_seq().max(middle)).saturating_add(1);
                }
            }
        }
    }
    Ok(found.and_then(|run| PickBack::of(number, &run, above, after, until)))
}

impl Pick {
    /// The entries of a run from the seq `seq` and the offset `from` on.
    fn of(number: u32, run: &RunRow, seq: u32, from: Offset) -> Option<Self> {
        let skipped = u64::from(seq.saturating_sub(run.first_seq)).max(from.0.saturating_sub(run.first_offset));
        let count = run.count.checked_sub(u32::try_from(skipped).ok()?).filter(|count| *count > 0)?;
        let seq = run.first_seq + (run.count - count);
        Some(Self { offset: run.first_offset + skipped, seq, count, number })
    }
}

impl PickBack {
    /// The entries of a run above the seq `above`, after `after` and up to `until`, with the offset of the last one.
    fn of(number: u32, run: &RunRow, above: u32, after: Offset, until: Offset) -> Option<(u64, Self)> {
        let pick = Pick::of(number, run, above.saturating_add(1), after.next())?;
        let last = (pick.offset + u64::from(pick.count - 1)).min(until.0);
        let count = last.checked_sub(pick.offset)? as u32 + 1;
        Some((last, Self { first_seq: pick.seq, count, number, above }))
    }

    fn last_seq(self) -> u32 {
        self.first_seq + (self.count - 1)
    }

    /// The entries of the same feed before these, after `after` and up to `until`.
    fn before(self, txn: &ReadTxn<'_>, after: Offset, until: Offset) -> Result<Option<(u64, Self)>> {
        let Some(seq) = self.first_seq.checked_sub(1).filter(|seq| *seq > self.above) else { return Ok(None) };
        let run = txn.run(self.number, seq)?;
        Ok(run.and_then(|run| Self::of(self.number, &run, self.above, after, until)))
    }
}
