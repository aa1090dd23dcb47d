//! Batches of change lines: collects the selected entries after a position.

use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use scuttleup::ndjson::{ChangeWriter, PayloadKeys};
use scuttleup::{Bounds, Change, Follower, Log, Offset, Reader};

use crate::cli::select::Selection;

/// The line that brings a batch to this many bytes is its last one.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// The number of scans after which a search for the next batch returns, although it has not found enough.
const SCANS_MAX: usize = 64;

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

    fn add(&mut self, writer: &mut ChangeWriter, change: &Change<'_>) {
        writer.write(&mut self.text, change);
        self.ends.push((change.offset, self.text.len()));
    }
}

/// How large a batch becomes, and how long it waits for more lines.
#[derive(Clone, Copy)]
pub struct Limits {
    pub lines_max: usize,
    pub linger: Duration,
}

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
    reader: Reader<'l>,
    /// `None`: the batches end at `end`.
    follower: Option<Follower<'l>>,
    selection: &'s Selection,
    writer: ChangeWriter,
    limits: Limits,
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
    /// The batches of `log`. `follower` gives new entries.
    pub fn new(
        log: &'l Log,
        follower: Option<Follower<'l>>,
        selection: &'s Selection,
        payload: PayloadKeys,
        limits: Limits,
    ) -> Result<Self> {
        Ok(Self {
            reader: log.reader(),
            follower,
            selection,
            writer: ChangeWriter::new(payload),
            limits,
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
        let limits = std::mem::replace(&mut self.limits, Limits { lines_max: usize::MAX, linger: Duration::ZERO });
        let found = self.collect(last, usize::MAX, usize::MAX);
        self.limits = limits;
        found?;
        self.looked = last;
        Ok(std::mem::take(&mut self.lines))
    }

    /// The next batch, as far as it is there. Does not wait.
    pub fn next(&mut self) -> Result<Next> {
        let until = if self.follower.is_some() { Offset(u64::MAX) } else { self.end };
        let found = self.collect(until, BATCH_BYTES_MAX, SCANS_MAX);
        // What was found before damage is given first.
        let is_at_end = if self.lines.is_empty() { found? } else { found.unwrap_or(true) };
        if !self.is_full() && !is_at_end {
            return Ok(Next::Busy);
        }
        if self.is_full() || (!self.lines.is_empty() && self.is_due()) {
            self.due = None;
            return Ok(Next::Batch(std::mem::take(&mut self.lines)));
        }
        Ok(if self.follower.is_some() { Next::Idle } else { Next::End })
    }

    /// Waits for new entries, for the time at which the next batch is given, for the end of `pause`, or for an event of `other`.
    pub fn wait(&mut self, other: &impl AsFd, pause: Option<Duration>) -> Result<()> {
        let left = self.due.map(|due| due.saturating_duration_since(Instant::now()));
        let pause = left.into_iter().chain(pause).min();
        // Milliseconds, rounded up: the wait must not end before the time.
        let timeout = pause.map(|pause| PollTimeout::try_from(pause + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX));
        if let Some(follower) = &mut self.follower {
            follower.wait_until(&[PollFd::new(other.as_fd(), PollFlags::POLLIN)], timeout.unwrap_or(PollTimeout::NONE))?;
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.lines.count() >= self.limits.lines_max || self.lines.text.len() >= BATCH_BYTES_MAX
    }

    /// Whether the next batch is given although it is not full.
    fn is_due(&mut self) -> bool {
        let existed = self.lines.first().is_some_and(|first| first <= self.end);
        if self.follower.is_none() || existed {
            return true;
        }
        let now = Instant::now();
        *self.due.get_or_insert(now + self.limits.linger) <= now
    }

    /// Adds the next lines up to `until`, as far as they are there, until the batch is full.
    /// Returns whether nothing more is there. Makes at most `scans_max` scans.
    fn collect(&mut self, until: Offset, bytes_max: usize, scans_max: usize) -> Result<bool> {
        let lines_max = self.limits.lines_max;
        let mut scans = 0;
        while self.looked < until {
            if scans == scans_max {
                return Ok(false);
            }
            scans += 1;
            let Self { selection, writer, lines, .. } = self;
            let is_full = |lines: &Lines| lines.count() >= lines_max || lines.text.len() >= bytes_max;
            if is_full(lines) {
                break;
            }
            let mut looked = None;
            let each = |change: Change<'_>| {
                if change.offset > until {
                    return Ok(ControlFlow::Break(()));
                }
                looked = Some(change.offset);
                if selection.includes(&change) {
                    lines.add(writer, &change);
                }
                Ok(if is_full(lines) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            };
            let before = self.looked;
            let scanned = match &mut self.follower {
                Some(follower) => {
                    follower.go_to(before);
                    let scanned = follower.scan(Bounds::default(), each);
                    self.skipped += follower.take_skipped();
                    scanned.map(|_| follower.position())
                }
                None => {
                    let scanned = self.reader.scan(before, Bounds::default(), each);
                    self.skipped += self.reader.take_skipped();
                    scanned
                }
            };
            // Also if the scan has found damage behind it.
            self.looked = looked.unwrap_or(before);
            let last = scanned?;
            if looked.is_none() {
                if last == before || last > until {
                    break;
                }
                // Pruned entries.
                self.looked = last;
            }
        }
        Ok(true)
    }
}
