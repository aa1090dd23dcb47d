//! `read`: print change lines in order of arrival.

mod cursor;

pub use self::cursor::arg as cursor_arg;

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Result;
use clap::{ArgMatches, Command};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use scuttleup::ingest::pipeline::{Pipeline, WorkerEnded};
use scuttleup::ndjson::{self, ChangeWriter};
use scuttleup::{Bounds, Change, Log, Offset, PeerId};

use crate::cli::args::{has_times, json_arg, payload, payload_args};
use crate::cli::batches;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::output::{Output, WRITE_BYTES};
use crate::cli::io::signals;
use crate::cli::report::diagnostics::Diagnostics;
use crate::cli::report::missing::note_pruned;
use crate::cli::report::progress::{self, Progress, Total};
use crate::cli::report::table;
use crate::cli::report::view::View;
use crate::cli::select::{self, Selection};

/// The memory that an empty buffer keeps, in bytes. A large entry makes the buffer larger.
const KEPT_BYTES_MAX: usize = WRITE_BYTES * 4;

pub fn command() -> Command {
    Command::new("read").about("Print change lines in order of arrival").defer(|command| {
        command
            .args(select::options())
            .arg(select::reverse_option())
            .arg(cursor_arg().conflicts_with("reverse"))
            .args(payload_args())
            .arg(json_arg())
            .after_help(epilogue("scuttleup-read", "scuttleup --log a read | scuttleup --log b write"))
    })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    print(context, Selection::new(args)?, args)
}

/// Prints the selected changes, as the options of `read` say.
pub fn print(context: &Context, selection: Selection, args: &ArgMatches) -> Result<Exit> {
    if let Some(name) = args.get_one::<String>("cursor") {
        return cursor::print(context, selection, name, args);
    }
    let immediate_exit = signals::exit_on_signal()?;
    let log = Log::open_read_only(&context.dir)?;
    let output = Output::bulk();
    let printer = Printer::new(context, selection, args);
    printer.selection.report_doubts(&log, context.diagnostics)?;
    context.report_if_empty(&log)?;
    if printer.selection.live {
        return printer.follow(&log, &output);
    }
    // Entries that arrive later are not printed. Otherwise `read` would never end if it is slower than the writers.
    let end = printer.selection.end(&log, log.last_offset()?)?;
    let start = printer.selection.start(&log, end)?;
    let shows_progress = progress::is_wanted(context.diagnostics) && output.is_file();
    let stop = shows_progress.then(|| immediate_exit.into_stop()).transpose()?;
    let progress = stop.as_ref().map_or_else(Progress::off, |stop| Progress::new(context.diagnostics, stop));
    printer.print(&log, &output, (start, end), &progress)
}

/// Writes the lines and empties their buffer.
fn write(output: &Output, lines: &mut Vec<u8>) -> Result<()> {
    output.write(lines)?;
    lines.clear();
    lines.shrink_to(KEPT_BYTES_MAX);
    Ok(())
}

struct Printer {
    selection: Selection,
    format: Format,
    /// Whether the format needs times of arrival.
    has_times: bool,
    /// Lines that are not written yet.
    buffer: Vec<u8>,
    /// The number of entries that may still be printed.
    left: u64,
    diagnostics: Diagnostics,
}

/// The form in which a change is printed.
enum Format {
    /// A change line.
    Lines(ChangeWriter),
    /// A line for people.
    View(View),
}

impl Format {
    /// Adds the line of a change.
    fn put(&mut self, out: &mut Vec<u8>, change: &Change<'_>, at: Option<u64>) {
        match self {
            Self::Lines(lines) => lines.write_at(out, change, at),
            Self::View(view) => view.write(out, change, at.unwrap_or_default()),
        }
    }
}

/// The number of feeds whose floors are looked at in one snapshot.
const FLOORS_AT_ONCE: usize = 4096;

/// The floors of a log, some feeds after the other.
#[derive(Default)]
struct Floors {
    /// The id of the last feed that was looked at.
    after: Option<PeerId>,
}

impl Floors {
    /// Adds the lines of the selected floors of the next feeds. Returns false after the last ones.
    fn add(&mut self, log: &Log, selection: &Selection, format: &mut Format, out: &mut Vec<u8>) -> Result<bool> {
        self.after = log.floors_after(self.after.as_ref(), FLOORS_AT_ONCE, |peer, seq, chain| {
            if selection.includes_floor(peer, seq) {
                match format {
                    Format::Lines(_) => ndjson::put_floor(out, peer.as_str(), seq, chain),
                    Format::View(view) => view.write_floor(out, peer, seq),
                }
            }
        })?;
        Ok(self.after.is_some())
    }
}

/// The thread that writes.
type Writing<'scope, 'env> = Pipeline<'scope, 'env, Vec<u8>, (), anyhow::Error>;

impl Printer {
    /// A printer in the form that the options and stdout call for.
    fn new(context: &Context, selection: Selection, args: &ArgMatches) -> Self {
        let stdout = std::io::stdout();
        let format = match table::is_wanted(&stdout, args.get_flag("json")) {
            true => Format::View(View::new(payload(args))),
            false => Format::Lines(ChangeWriter::new(payload(args)).for_terminal(stdout.is_terminal())),
        };
        Self {
            has_times: has_times(args) || matches!(format, Format::View(_)),
            format,
            buffer: Vec::with_capacity(WRITE_BYTES * 2),
            left: selection.limit.unwrap_or(u64::MAX),
            selection,
            diagnostics: context.diagnostics,
        }
    }

    /// Adds the line of a change that is selected. Breaks after the last one.
    fn add(&mut self, change: &Change<'_>, at: Option<u64>) -> ControlFlow<()> {
        self.format.put(&mut self.buffer, change, at);
        self.left -= 1;
        if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The offset after which the scan begins: `start`, or the floor of the log. Says so if the user has named a lower start.
    fn begin(&self, log: &Log, start: Offset) -> Result<Offset> {
        let pruned = log.pruned()?;
        if start < pruned && self.selection.has_start() {
            note_pruned(self.diagnostics, pruned.0 - start.0, pruned);
        }
        Ok(start.max(pruned))
    }

    /// Prints the changes after `start` up to `end`, in large writes by a second thread.
    fn print(mut self, log: &Log, output: &Output, (start, end): (Offset, Offset), progress: &Progress<'_>) -> Result<Exit> {
        progress.set_total(Total::Entries(end.0.saturating_sub(start.0)));
        std::thread::scope(|threads| {
            let mut pipeline = Pipeline::new(threads, |lines| write(output, lines));
            let read = match self.selection.reverse {
                true => self.read_back(log, (start, end), progress, &mut pipeline),
                false => self.read_up_to(end, log, start, progress, &mut pipeline),
            };
            // The entries before a damaged entry are printed.
            pipeline.finish(Some(self.buffer)).1.and(read)
        })
    }

    fn read_up_to(
        &mut self,
        end: Offset,
        log: &Log,
        start: Offset,
        progress: &Progress<'_>,
        pipeline: &mut Writing<'_, '_>,
    ) -> Result<Exit> {
        let (mut after, mut finder) = (self.begin(log, start)?, self.selection.finder(log, self.has_times));
        if self.selection.has_floors(after, log.pruned()?) && !self.pass_floors(log, pipeline)? {
            return Ok(Exit::Done);
        }
        while after < end && self.left > 0 {
            if let Some(exit) = progress.stopped() {
                return Ok(exit);
            }
            let before = self.buffer.len();
            let last = finder.scan(after, end, Bounds::default(), |change, at| Ok(self.add(change, at)))?;
            if last == after {
                break;
            }
            progress.add(last.0 - after.0, (self.buffer.len() - before) as u64);
            after = last;
            let skipped = finder.take_skipped();
            if skipped > 0 {
                note_pruned(self.diagnostics, skipped, after);
                // The floors may have risen since they were printed.
                if self.selection.has_floors(after, log.pruned()?) && !self.pass_floors(log, pipeline)? {
                    return Ok(Exit::Done);
                }
            }
            if self.buffer.len() >= WRITE_BYTES && self.pass(pipeline).is_err() {
                // `Pipeline::finish` returns the error of the write.
                return Ok(Exit::Done);
            }
        }
        if self.selection.is_all() {
            // All entries are printed: are these the entries that the heads claim?
            log.reader().check_heads()?;
        }
        Ok(Exit::Done)
    }

    /// Prints the changes after `start` up to `end`, the newest first.
    fn read_back(
        &mut self,
        log: &Log,
        (start, end): (Offset, Offset),
        progress: &Progress<'_>,
        pipeline: &mut Writing<'_, '_>,
    ) -> Result<Exit> {
        let start = self.begin(log, start)?;
        let mut finder = self.selection.finder(log, self.has_times);
        let mut position = finder.backwards(start, end)?;
        let mut has_more = true;
        while has_more && self.left > 0 {
            if let Some(exit) = progress.stopped() {
                return Ok(exit);
            }
            let (before, mut entries) = (self.buffer.len(), 0);
            has_more = finder.scan_back(&mut position, Bounds::default(), |change, at| {
                entries += 1;
                Ok(self.add(change, at))
            })?;
            progress.add(entries, (self.buffer.len() - before) as u64);
            if self.buffer.len() >= WRITE_BYTES && self.pass(pipeline).is_err() {
                break;
            }
        }
        Ok(Exit::Done)
    }

    /// Adds all floors, and hands them to the thread that writes. Returns false if it has ended.
    fn pass_floors(&mut self, log: &Log, pipeline: &mut Writing<'_, '_>) -> Result<bool> {
        let mut floors = Floors::default();
        while floors.add(log, &self.selection, &mut self.format, &mut self.buffer)? {
            if self.buffer.len() >= WRITE_BYTES && self.pass(pipeline).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hands the lines to the thread that writes.
    fn pass(&mut self, pipeline: &mut Writing<'_, '_>) -> Result<(), WorkerEnded> {
        let is_large = self.buffer.len() > KEPT_BYTES_MAX;
        self.buffer = pipeline.pass(std::mem::take(&mut self.buffer))?;
        if is_large { pipeline.settle() } else { Ok(()) }
    }

    /// Prints all floors.
    fn write_floors(&mut self, log: &Log, output: &Output) -> Result<()> {
        let mut floors = Floors::default();
        while floors.add(log, &self.selection, &mut self.format, &mut self.buffer)? {
            write(output, &mut self.buffer)?;
        }
        write(output, &mut self.buffer)
    }

    /// Prints the existing changes, then each new one immediately, until the reader closes stdout.
    fn follow(mut self, log: &Log, output: &Output) -> Result<Exit> {
        // The follower is created before the start is found, so that --tail misses no entry from now on.
        let mut follower = batches::follow(log)?;
        let end = self.selection.end(log, log.last_offset()?)?;
        let start = self.selection.start(log, end)?;
        let start = self.begin(log, start)?;
        follower.go_to(start);
        if self.selection.has_floors(start, log.pruned()?) {
            self.write_floors(log, output)?;
        }
        let mut finder = self.selection.finder(log, self.has_times);
        while self.left > 0 {
            // Before the end is found: no entry of this time comes later.
            let time_left = self.selection.time_left();
            let end = self.selection.end(log, Offset(u64::MAX))?;
            let found_any = follower.find(&mut finder, end, Bounds::default(), |change, at| Ok(self.add(change, at)));
            write(output, &mut self.buffer)?;
            let skipped = finder.take_skipped();
            if skipped > 0 {
                note_pruned(self.diagnostics, skipped, follower.position());
                if self.selection.has_floors(follower.position(), log.pruned()?) {
                    self.write_floors(log, output)?;
                }
            }
            if found_any? {
                continue;
            }
            if time_left == Some(Duration::ZERO) {
                return Ok(Exit::Done);
            }
            // Without events, poll reports only that the reader closed stdout.
            let output_closed = PollFd::new(output.as_fd(), PollFlags::empty());
            let timeout = time_left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            if follower.wait_until(&[output_closed], timeout)?.is_some_and(|events| events[0]) {
                return Ok(Exit::Done);
            }
        }
        Ok(Exit::Done)
    }
}
