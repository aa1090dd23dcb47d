//! Batches of change lines: collects the selected entries after a cursor, and stores how far the cursor has moved.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::poll::{PollFd, PollTimeout};
use scuttleup::{Bounds, Change, Consumer, Finder, Follower, Log, Offset, Printable};

use crate::cli::report::diagnostics::{self, Diagnostics};
use crate::cli::report::hint;
use crate::cli::select::Selection;

/// The number of scans after which a search for the next batch returns, although it has not found enough.
const SCANS_MAX: usize = 64;
/// After this many entries that are not selected, or after this time, the cursor passes them.
const UNSTORED_MAX: u64 = 100_000;
const UNSTORED_FOR: Duration = Duration::from_secs(60);

/// Change lines in memory.
#[derive(Default)]
pub struct Lines {
    text: Vec<u8>,
    /// For each line, its offset in the log, and where it ends in `text`.
    ends: Vec<(Offset, usize)>,
}

impl Lines {
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    pub fn count(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The offset of the first line.
    pub fn first(&self) -> Option<Offset> {
        self.ends.first().map(|(offset, _)| *offset)
    }

    /// The offset of the last line.
    pub fn last(&self) -> Option<Offset> {
        self.ends.last().map(|(offset, _)| *offset)
    }

    /// Keeps only the first `count` lines.
    pub fn truncate(&mut self, count: usize) {
        self.ends.truncate(count);
        self.text.truncate(self.ends.last().map_or(0, |(_, end)| *end));
    }

    fn is_full(&self, lines_max: usize, bytes_max: usize) -> bool {
        self.count() >= lines_max || self.text.len() >= bytes_max
    }

    /// The offset of the last of the lines that are complete in the first `bytes` of the text.
    pub fn last_in(&self, bytes: usize) -> Option<Offset> {
        self.ends[..self.ends.partition_point(|(_, end)| *end <= bytes)].last().map(|(offset, _)| *offset)
    }
}

/// Follows the log from its start. Call this before the start of a selection is found, so that --tail misses no entry from now on.
pub fn follow(log: &Log) -> Result<Follower<'_>> {
    let follower = log.follow(Offset::ZERO)?;
    if let Some(limit) = follower.inotify_limit() {
        diagnostics::error(&hint::polling(limit));
    }
    Ok(follower)
}

/// Limits for a batch: its size, and the time for which it waits for more lines.
#[derive(Clone, Copy)]
pub struct Limits {
    pub lines_max: usize,
    /// The line that brings a batch to this many bytes is its last one.
    pub bytes_max: usize,
    pub linger: Duration,
}

/// Adds the line of a change, with its time of arrival if it is known.
type PutLine<'s> = Box<dyn FnMut(&mut Vec<u8>, &Change<'_>, Option<u64>) + 's>;

/// The result of a search for the next batch.
pub enum Next {
    /// A batch.
    Batch(Lines),
    /// There is nothing more.
    End,
    /// There is more to look at.
    Busy,
    /// There is too little for a batch now.
    Idle,
}

/// Collects batches.
pub struct Batches<'l, 's> {
    log: &'l Log,
    finder: Finder<'l>,
    /// `None`: the batches end at `end`.
    follower: Option<Follower<'l>>,
    selection: &'s Selection,
    put_line: PutLine<'s>,
    limits: Limits,
    /// The number of lines that may still count as read.
    left: u64,
    /// The last offset at the start.
    end: Offset,
    /// Everything up to this offset was looked at.
    looked: Offset,
    /// The lines of the next batch.
    lines: Lines,
    /// The time at which the next batch is given, also if it is not full.
    due: Option<Instant>,
    skipped: u64,
}

impl<'l, 's> Batches<'l, 's> {
    /// The batches of `log` after `start`. `follower` gives new entries. With `has_times`, lines have times of arrival.
    pub fn new(
        log: &'l Log,
        follower: Option<Follower<'l>>,
        selection: &'s Selection,
        (put_line, has_times): (PutLine<'s>, bool),
        limits: Limits,
    ) -> Result<Self> {
        Ok(Self {
            log,
            finder: selection.finder(log, has_times),
            follower,
            selection,
            put_line,
            limits,
            left: selection.limit.unwrap_or(u64::MAX),
            end: log.last_offset()?,
            looked: Offset::ZERO,
            lines: Lines::default(),
            due: None,
            skipped: 0,
        })
    }

    /// Goes on after `position`.
    pub fn go_to(&mut self, position: Offset) {
        (self.looked, self.due) = (position, None);
        self.lines.truncate(0);
    }

    /// Counts lines that were read towards the limit of the selection.
    pub fn count(&mut self, lines: usize) {
        self.left = self.left.saturating_sub(lines as u64);
    }

    /// Everything up to this offset was given, or is not selected.
    pub fn passed(&self) -> Offset {
        self.lines.first().map_or(self.looked, |first| Offset(first.0 - 1))
    }

    /// The number of pruned entries that were passed over since the last call.
    pub fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// The selected lines after `after` up to `last`, without limits.
    pub fn range(&mut self, after: Offset, last: Offset) -> Result<Lines> {
        self.go_to(after);
        self.collect(last, (usize::MAX, usize::MAX), usize::MAX)?;
        self.looked = last;
        Ok(std::mem::take(&mut self.lines))
    }

    /// The next batch, as far as it is there. Does not wait.
    pub fn next(&mut self) -> Result<Next> {
        // Before the end is found: no entry of an earlier time comes later.
        let is_over = self.follower.is_none() || self.selection.time_left().is_some_and(|left| left.is_zero());
        let until = self.selection.end(self.log, if self.follower.is_some() { Offset(u64::MAX) } else { self.end })?;
        let lines_max = self.limits.lines_max.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if lines_max == 0 {
            return Ok(Next::End);
        }
        let found = self.collect(until, (lines_max, self.limits.bytes_max), SCANS_MAX);
        // Lines before a damaged entry are given first.
        let is_at_end = if self.lines.is_empty() { found? } else { found.unwrap_or(true) };
        let is_full = self.lines.is_full(lines_max, self.limits.bytes_max);
        if is_full || (is_at_end && !self.lines.is_empty() && (is_over || self.is_due())) {
            self.due = None;
            return Ok(Next::Batch(std::mem::take(&mut self.lines)));
        }
        Ok(match (is_at_end, is_over) {
            (false, _) => Next::Busy,
            (true, true) => Next::End,
            (true, false) => Next::Idle,
        })
    }

    /// Waits for new entries, for the time at which the next batch is given, for the end of `pause`, or for an event of one of
    /// `others`. Returns for each of them whether it has an event.
    pub fn wait(&mut self, others: &[PollFd<'_>], pause: Option<Duration>) -> Result<Vec<bool>> {
        let due = self.due.map(|due| due.saturating_duration_since(Instant::now()));
        let pause = [due, pause, self.selection.time_left()].into_iter().flatten().min();
        // Milliseconds, rounded up: the wait must not end before the time.
        let timeout = pause.map(|pause| PollTimeout::try_from(pause + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX));
        let Some(follower) = &mut self.follower else { return Ok(Vec::new()) };
        Ok(follower.wait_until(others, timeout.unwrap_or(PollTimeout::NONE))?.unwrap_or_default())
    }

    /// Whether the next batch is given although it is not full: entries that existed at the start do not wait for more.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        self.lines.first().is_some_and(|first| first <= self.end) || *self.due.get_or_insert(now + self.limits.linger) <= now
    }

    /// Adds the next lines up to `until`, as far as they are there, until the batch is full. Returns whether nothing more is there.
    /// Makes at most `scans_max` scans.
    fn collect(&mut self, until: Offset, (lines_max, bytes_max): (usize, usize), scans_max: usize) -> Result<bool> {
        for _ in 0..scans_max {
            let Self { finder, follower, lines, put_line, .. } = self;
            if lines.is_full(lines_max, bytes_max) {
                return Ok(false);
            }
            let before = self.looked;
            if before >= until {
                return Ok(true);
            }
            let each = |change: &Change<'_>, at: Option<u64>| {
                put_line(&mut lines.text, change, at);
                lines.ends.push((change.offset, lines.text.len()));
                Ok(if lines.is_full(lines_max, bytes_max) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            };
            let scanned = match follower {
                Some(follower) => {
                    follower.go_to(before);
                    follower.find(finder, until, Bounds::default(), each).map(|_| follower.position())
                }
                None => finder.scan(before, until, Bounds::default(), each),
            };
            self.skipped += finder.take_skipped();
            // Also if the scan has found damage behind it.
            self.looked = lines.last().unwrap_or(before).max(before);
            let last = scanned?;
            if last == before {
                return Ok(true);
            }
            self.looked = last;
        }
        Ok(false)
    }
}

/// A cursor that moves: the position up to which entries count as read, and whether it is stored.
pub struct Moving<'l> {
    pub consumer: Consumer<'l>,
    /// Everything up to this offset counts as read. It may not be stored yet.
    pub position: Offset,
    /// The time since which the position is not stored.
    unstored_since: Option<Instant>,
}

impl<'l> Moving<'l> {
    /// Starts at the cursor. Creates it at the start of the selection if it does not exist.
    pub fn new(log: &Log, mut consumer: Consumer<'l>, selection: &Selection, diagnostics: Diagnostics) -> Result<Self> {
        let last = log.last_offset()?;
        let name = Printable(consumer.name()).to_string();
        let Some(cursor) = consumer.cursor() else {
            let end = selection.end(log, last)?;
            let position = selection.start(log, end)?.max(log.pruned()?);
            consumer.store(position, None)?;
            return Ok(Self { consumer, position, unstored_since: None });
        };
        let position = cursor.offset;
        let above = cursor.batch.as_ref().map_or(position, |batch| batch.last);
        if above > last {
            bail!(
                "the cursor {name} is at offset {above}, and the last offset of this log is {last}: the log has lost entries, set the \
                 cursor with `scuttleup cursor set` to read them again when they are back"
            );
        }
        let without_effect = selection.start_options();
        if !without_effect.is_empty() {
            let options = without_effect.join(" and ");
            diagnostics.note(&format!("the cursor {name} exists and is at offset {position}: {options} cannot move it"));
        }
        Ok(Self { consumer, position, unstored_since: None })
    }

    /// Stores the position, without a batch in flight.
    pub fn store(&mut self) -> Result<()> {
        self.unstored_since = None;
        Ok(self.consumer.store(self.position, None)?)
    }

    /// Stores the position: at once if something `was_given`, and from time to time while entries are passed that are not selected.
    /// Returns after which pause it is due.
    pub fn store_if_due(&mut self, was_given: bool) -> Result<Option<Duration>> {
        let unstored = self.position.0 - self.consumer.cursor().map_or(0, |cursor| cursor.offset.0);
        if unstored == 0 && !was_given {
            return Ok(None);
        }
        let waited = self.unstored_since.get_or_insert_with(Instant::now).elapsed();
        if was_given || unstored >= UNSTORED_MAX || waited >= UNSTORED_FOR {
            return self.store().map(|()| None);
        }
        Ok(Some(UNSTORED_FOR - waited))
    }
}
