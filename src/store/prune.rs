//! Prunes a log: forgets its oldest entries. scuttleup-store(5) explains the order of the steps.

use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;

use super::clock::now_millis;
use super::rows::{FloorRow, RunRow};
use super::seal::GoesOn;
use super::{Log, Writer};
use crate::model::{Chain, Error, Offset, PeerId, Result};

/// One transaction removes about this many rows, so that no writer waits long.
const STEPS_MAX: u64 = 16 << 10;
/// The pages that the removal of one row may change, in bytes.
const STEP_BYTES: u64 = 4 << 10;
/// To cut a run costs as much as to remove this many rows: its entries are hashed.
const CUT_STEPS: u64 = 256;
/// The number of feeds that one transaction looks at.
const FEEDS_MAX: u64 = 4096;

/// The part of a log that is kept. The newest entry is always kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retention {
    /// This many entries.
    Entries(u64),
    /// Entries that take this many bytes on the disk.
    Bytes(u64),
    /// Entries that arrived in this many seconds.
    Seconds(u64),
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries(count) => write!(f, "entries {count}"),
            Self::Bytes(count) => write!(f, "bytes {count}"),
            Self::Seconds(count) => write!(f, "seconds {count}"),
        }
    }
}

impl FromStr for Retention {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::Corrupt("the retention of the log is not known".into());
        let (unit, count) = text.split_once(' ').ok_or_else(unknown)?;
        let count = count.parse().map_err(|_| unknown())?;
        match unit {
            "entries" => Ok(Self::Entries(count)),
            "bytes" => Ok(Self::Bytes(count)),
            "seconds" => Ok(Self::Seconds(count)),
            _ => Err(unknown()),
        }
    }
}

/// The entries that a pruning removes, or would remove.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Pruning {
    /// The number of entries.
    pub entries: u64,
    /// The number of feeds that lose entries.
    pub feeds: u64,
    /// The bytes of the removed records.
    pub bytes: u64,
    /// Whether it passes cursors.
    pub force: bool,
    /// Whether some of the pruned entries share a pack with newer ones: only a rewrite of this pack gives back their space.
    pub cuts_pack: bool,
    /// The floor after it: the last offset that is pruned.
    pub floor: Offset,
    /// A cursor that has not read further, its offset, and the floor without it.
    pub held_by: Option<(String, Offset, Offset)>,
}

impl Log {
    /// The stored retention, which sealing applies. `None`: everything is kept.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn retention(&self) -> Result<Option<Retention>> {
        self.env.read()?.retention()
    }

    /// Stores the retention. `None` removes it.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn set_retention(&self, retention: Option<Retention>) -> Result<()> {
        let mut writer = self.writer()?;
        writer.set_retention(retention)?;
        writer.commit().map(|_| ())
    }

    /// Whether the log holds more than the stored retention keeps: by one part in `parts` or more. This is fast.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn needs_pruning(&self, parts: u64) -> Result<bool> {
        let txn = self.env.read()?;
        let Some(retention) = txn.retention()? else { return Ok(false) };
        let (floor, last) = (txn.floor()?, txn.last_offset()?);
        let cursor = txn.lowest_cursor()?.map(|(_, offset)| offset);
        // The newest entry stays, and so do entries behind a cursor.
        if floor.next() >= last || cursor.is_some_and(|cursor| cursor <= floor) {
            return Ok(false);
        }
        let with_slack = |count: u64| count.saturating_add((count / parts).max(1));
        Ok(match retention {
            Retention::Entries(count) => last.0 - floor.0 > with_slack(count),
            Retention::Bytes(count) => txn.stored_bytes()? > with_slack(count),
            Retention::Seconds(count) => txn.first_time()?.is_some_and(|first| first < millis_before(with_slack(count))),
        })
    }

    /// Applies the stored retention. Returns what was removed, or `None` if no retention is stored or another process seals. It never
    /// passes a cursor. Stops early, without loss, when `goes_on` returns false.
    ///
    /// # Errors
    /// When the log cannot be read or written.
    pub fn apply_retention(&self, goes_on: &GoesOn<'_>) -> Result<Option<Pruning>> {
        let Some(retention) = self.retention()? else { return Ok(None) };
        let pruning = self.plan_pruning(retention, false)?;
        Ok(self.prune(&pruning, goes_on)?.then_some(pruning))
    }

    /// Returns what a pruning with this retention removes. With `force`, it passes cursors.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn plan_pruning(&self, retention: Retention, force: bool) -> Result<Pruning> {
        let txn = self.env.read()?;
        let (floor, last) = (txn.floor()?, txn.last_offset()?);
        let wanted = match retention {
            Retention::Entries(count) => Offset(last.0.saturating_sub(count)),
            Retention::Bytes(count) => txn.end_of_excess(count)?,
            Retention::Seconds(seconds) => txn.end_before(millis_before(seconds))?,
        };
        // The newest entry stays: its offset is the last offset of the log.
        let wanted = wanted.min(Offset(last.0.saturating_sub(1))).max(floor);
        let mut pruning = Pruning { floor: wanted, force, ..Pruning::default() };
        let lowest = txn.lowest_cursor()?;
        if let Some((name, offset)) = lowest.filter(|(_, offset)| *offset < wanted && !force) {
            pruning.floor = offset.max(floor);
            pruning.held_by = Some((name, offset, wanted));
        }
        pruning.entries = pruning.floor.0 - floor.0;
        if pruning.entries > 0 {
            pruning.bytes = txn.bytes_up_to(pruning.floor)?;
            txn.packs(|pack| pruning.cuts_pack |= pack.first <= pruning.floor && pruning.floor < pack.last())?;
            txn.feeds(|_, row| {
                let first = txn.run_after(row.number, 0)?;
                pruning.feeds += u64::from(first.is_some_and(|run| run.first_offset <= pruning.floor.0));
                Ok(())
            })?;
        }
        Ok(pruning)
    }

    /// Moves the floor to that of `pruning`, and removes what is below it. Readers and writers go on meanwhile. Stops early when
    /// `goes_on` returns false: the next pruning continues. Returns false, and does nothing, if another process seals, or if a cursor
    /// was set below the floor of `pruning` since it was planned.
    ///
    /// # Errors
    /// When the log cannot be read or written.
    pub fn prune(&self, pruning: &Pruning, goes_on: &GoesOn<'_>) -> Result<bool> {
        // Sealing reads the runs and the rows that are removed here.
        let Some(sealer) = self.sealer(goes_on)? else { return Ok(false) };
        let sealed = self.env.read()?.sealed_end()?;
        let bytes_of = |entries| (u128::from(pruning.bytes) * u128::from(entries) / u128::from(pruning.entries.max(1))) as u64;
        // Packed entries are done when the floor of their feed is above them, other entries when their rows are removed.
        let (mut next, mut steps_max, mut done) = (Next::After(None), STEPS_MAX, 0);
        while let Next::After(after) = next {
            if !goes_on(done, bytes_of(done)) || self.pruned()? >= pruning.floor {
                break;
            }
            let step = fewer_if_full(&mut steps_max, |steps_max| {
                let mut writer = self.writer()?;
                let cursor = writer.txn.lowest_cursor()?.map(|(_, offset)| offset);
                if after.is_none() && !pruning.force && cursor.is_some_and(|cursor| cursor < pruning.floor) {
                    return Ok(None);
                }
                let mut steps = Steps { rows_max: steps_max, sealed, rows: 0, packed: 0 };
                let next = writer.raise_floors(after.clone(), pruning.floor, &mut steps)?;
                if next == Next::Nothing {
                    writer.set_pruned(pruning.floor)?;
                }
                writer.commit().map(|_| Some((next, steps.packed)))
            })?;
            let Some(step) = step else { return Ok(false) };
            (next, done) = step;
        }
        goes_on(done, bytes_of(done));
        self.remove_pruned_rows(sealed, &|entries| goes_on(entries, bytes_of(entries)))?;
        sealer.remove_orphans()?;
        Ok(true)
    }

    /// Removes rows of pruned entries that are still in data.mdb, also those that a killed process has left. `goes_on` gets the number
    /// of removed entries behind the offset `sealed`.
    fn remove_pruned_rows(&self, sealed: Offset, goes_on: &dyn Fn(u64) -> bool) -> Result<()> {
        let first = |log: &Self| Ok(log.env.read()?.first_row()?.unwrap_or(sealed).max(sealed.next()));
        let (mut start, mut done, mut steps_max) = (first(self)?, 0, STEPS_MAX);
        while goes_on(done) && self.env.read()?.has_pruned_rows()? {
            fewer_if_full(&mut steps_max, |steps_max| {
                let mut writer = self.writer()?;
                writer.remove_pruned_rows(steps_max)?;
                writer.commit().map(|_| ())
            })?;
            let end = first(self)?.max(start);
            done = end.0 - std::mem::replace(&mut start, end).0;
        }
        Ok(())
    }
}

/// Runs a transaction of at most `steps_max` steps. If the disk is full, it is run again with fewer: it needs fewer pages before it
/// gives pages back.
fn fewer_if_full<T>(steps_max: &mut u64, transaction: impl Fn(u64) -> Result<T>) -> Result<T> {
    let mut full = None;
    loop {
        match transaction(*steps_max) {
            Err(err @ Error::DiskFull(_)) if *steps_max > 1 => {
                *steps_max = (*steps_max / 8).max(1);
                full = Some(err);
            }
            // If the meta page could not be written, LMDB refuses all later transactions: the full disk is the cause.
            Err(err) => return Err(full.unwrap_or(err)),
            done => {
                *steps_max = (*steps_max * 2).min(STEPS_MAX);
                return done;
            }
        }
    }
}

/// The feeds whose floors must be raised.
#[derive(PartialEq, Eq)]
enum Next {
    /// Those after this id.
    After(Option<PeerId>),
    Nothing,
}

/// The work of one transaction.
struct Steps {
    /// The offset of the last entry in a pack.
    sealed: Offset,
    /// The rows that it changes, and their maximum.
    rows: u64,
    rows_max: u64,
    /// The number of packed entries that are now below the floor of their feed.
    packed: u64,
}

/// The time so many seconds ago, in Unix milliseconds.
fn millis_before(seconds: u64) -> u64 {
    now_millis().saturating_sub(seconds.saturating_mul(1000))
}

impl Writer<'_> {
    fn set_retention(&mut self, retention: Option<Retention>) -> Result<()> {
        self.changed = true;
        self.txn.set_retention(retention)
    }

    fn set_pruned(&mut self, floor: Offset) -> Result<()> {
        self.changed = true;
        let floor = floor.max(self.txn.floor()?);
        self.txn.set_floor(floor)
    }

    fn remove_pruned_rows(&mut self, steps_max: u64) -> Result<()> {
        self.changed = true;
        // Of three tables.
        self.entry_bytes += 3 * steps_max * STEP_BYTES;
        self.txn.remove_pruned_rows(steps_max)
    }

    /// Raises the floors of the next feeds after the id `after`, to their last entry at or below the offset `until`. The transaction
    /// must not use feeds otherwise.
    fn raise_floors(&mut self, mut after: Option<PeerId>, until: Offset, steps: &mut Steps) -> Result<Next> {
        let (mut ids, mut seen, feeds_max) = (Vec::new(), 0, FEEDS_MAX.min(steps.rows_max));
        self.txn.feeds_after(after.as_ref().map_or("", PeerId::as_str), |peer, _| {
            ids.push(PeerId::new(peer)?);
            seen += 1;
            Ok(if seen == feeds_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        self.txn.note_removal()?;
        self.entry_bytes += 2 * steps.rows_max * STEP_BYTES;
        for peer in ids {
            if !self.raise_floor(&peer, until, steps)? {
                // The rest of this feed is next.
                return Ok(Next::After(after));
            }
            after = Some(peer);
        }
        Ok(if seen < feeds_max { Next::Nothing } else { Next::After(after) })
    }

    /// Raises the floor of one feed. Returns false if the transaction is large enough before that.
    fn raise_floor(&mut self, peer: &PeerId, until: Offset, steps: &mut Steps) -> Result<bool> {
        let Some(mut row) = self.txn.feed(peer.as_str())? else { return Ok(true) };
        let (before, mut is_done) = (row, true);
        while let Some(run) = self.txn.run_after(row.number, 0)?.filter(|run| run.first_offset <= until.0) {
            if steps.rows >= steps.rows_max {
                is_done = false;
                break;
            }
            let is_whole = run.last_offset() <= until.0;
            let last = if is_whole { run.last_seq() } else { run.first_seq + (until.0 - run.first_offset) as u32 };
            // Entries below a floor that another log gave have no chain.
            if last > row.floor_seq() {
                let chain = self.chain_behind(peer, &run, last, (row.head, row.chain))?;
                row.floor = Some(FloorRow { seq: last, skipped: row.skipped(), chain });
            }
            self.txn.remove_run(row.number, run.first_seq)?;
            steps.rows += 1;
            steps.packed += (until.0.min(run.last_offset()).min(steps.sealed.0) + 1).saturating_sub(run.first_offset);
            if !is_whole {
                let count = run.last_seq() - last;
                let chain_before = row.floor.map_or(run.chain_before, |floor| floor.chain);
                let rest = RunRow { first_seq: last + 1, first_offset: until.0 + 1, count, chain_before };
                self.txn.set_run(row.number, &rest)?;
                steps.rows += CUT_STEPS;
            }
        }
        if row != before {
            self.txn.set_feed(peer, &row)?;
        }
        self.changed = true;
        Ok(is_done)
    }

    /// The chain behind the entry `last` of `run`, in a feed with this head and chain.
    fn chain_behind(&self, peer: &PeerId, run: &RunRow, last: u32, (head, chain): (u32, Chain)) -> Result<Chain> {
        if last == head {
            return Ok(chain);
        }
        let number = self.txn.feed(peer.as_str())?.map_or(0, |row| row.number);
        if let Some(next) = self.txn.run_after(number, run.first_seq + 1)?.filter(|next| next.first_seq == last + 1) {
            return Ok(next.chain_before);
        }
        // A snapshot sees the run as it was before this transaction.
        let known = self.log.reader().chain_at(peer.as_str(), last)?;
        known.ok_or_else(|| Error::Corrupt(format!("the chain of {peer} at entry {last} is not known")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_that_is_set_after_the_plan_is_not_passed() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = Log::create(dir.path(), None).expect("a log");
        for _ in 0..10 {
            log.append(b"1").expect("an append");
        }
        let plan = |force| log.plan_pruning(Retention::Entries(1), force).expect("a plan");
        let (held, forced) = (plan(false), plan(true));
        log.set_cursor("slow", Offset(3)).expect("a cursor");
        assert!(!log.prune(&held, &|_, _| true).expect("a pruning"));
        assert_eq!(log.pruned().expect("a floor"), Offset::ZERO);
        assert!(log.prune(&plan(false), &|_, _| true).expect("a pruning"));
        assert_eq!(log.pruned().expect("a floor"), Offset(3));
        assert!(log.prune(&forced, &|_, _| true).expect("a pruning"));
        assert_eq!(log.pruned().expect("a floor"), Offset(9));
    }
}
