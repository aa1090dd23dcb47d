//! Stdin, or followed files, as entries: one thread reads, splits the input into lines and checks them; another thread stores the
//! batches.

mod bad_lines;

use std::fs::{self, File};
use std::io::{self, IsTerminal, Seek};
use std::ops::Range;
use std::os::fd::AsFd;
use std::thread::Builder;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;
use scuttleup::ingest::pipeline::{Pipeline, WorkerEnded};
use scuttleup::ingest::{Applied, Applier, Batch, Failure, Found, Sealing, Step, Tails};
use scuttleup::ndjson::BYTE_ORDER_MARK;
use scuttleup::{Error, Keys, Log};

use self::bad_lines::BadLine;
pub use self::bad_lines::BadLines;
use crate::cli::exit::{BadInput, OutputClosed};
use crate::cli::io::output::Output;
use crate::cli::io::poll::{wait_for, wait_until};
use crate::cli::io::signals::Stop;
use crate::cli::report::diagnostics::Diagnostics;
use crate::cli::report::hint::{not_sealed, polling, with_hint};
use crate::cli::report::input::{Tally, followed};
use crate::cli::report::progress::{Progress, Total};

const PIPE_BYTES: i32 = 1 << 20;
const CANNOT_WAIT: &str = "cannot wait for the input";
/// The time between two looks at followed files that cannot be watched.
const LOOK: Duration = Duration::from_secs(1);
/// The hint for a directory that cannot be watched.
const UNWATCHED: &str =
    "looking at its names every second: make the directory readable and run it again to get new lines at once";

/// A line that is too long and at least this long is left out in pieces, in bytes. Shorter lines are never cut, in whatever
/// chunks they arrive.
const PIECE_BYTES_MIN: usize = 1 << 20;
/// A part of stdin with this many lines that are left out is stored before more are read.
const BAD_LINES_MAX: usize = 16 << 10;

/// The source of the lines.
pub enum Input<'i> {
    Stdin,
    /// Files that grow. If the reader of this stdout closes it, the input ends.
    Files(Box<Tails>, Option<&'i Output>),
}

impl Input<'_> {
    /// Whether a read returns at once, as far as is known.
    fn is_ready(&self) -> bool {
        let now = |fd| poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0);
        match self {
            Self::Stdin => now(io::stdin().as_fd()),
            Self::Files(tails, _) => tails.has_work() || tails.fd().is_some_and(now),
        }
    }
}

/// The rule that splits the input into lines.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// After each newline.
    Lines,
    /// After each NUL.
    Nuls,
    /// Stdin is not split. It is one line, even if it is empty.
    Whole,
}

impl Cut {
    /// The name of a line in messages.
    pub fn unit(self) -> &'static str {
        if self == Self::Lines { "line" } else { "entry" }
    }

    /// The byte that ends a line.
    pub fn separator(self) -> u8 {
        if self == Self::Nuls { 0 } else { b'\n' }
    }
}

/// The form of stdin.
#[derive(Clone, Copy)]
pub struct Form {
    pub cut: Cut,
    /// Whether stdin is text. A byte order mark at its start is not part of the first line.
    pub is_text: bool,
    /// The maximum length of a line, and the maximum length of an entry, which an error names. A line can be longer than its
    /// entry: it can have white space and escapes.
    pub line_bytes_max: usize,
    pub entry_bytes_max: usize,
    pub advice: Advice,
}

/// The lines to store.
pub struct Lines<'i> {
    pub input: Input<'i>,
    pub form: Form,
}

/// The hint for a line that was refused, if it needs another hint than its error has.
pub type Advice = fn(&Error, &[u8], Cut) -> Option<&'static str>;

/// A line to check: its range in the input of the batch, and its number, counted from 1.
pub struct Line {
    pub range: Range<usize>,
    pub number: u64,
}

/// The progress of [`store_input`] for stdin. It is off if stdin is a terminal.
pub fn progress(diagnostics: Diagnostics, stop: &Stop) -> Progress<'_> {
    let stdin = io::stdin();
    let progress = if stdin.is_terminal() { Progress::off() } else { Progress::new(diagnostics, stop) };
    if progress.is_on()
        && let Some(bytes) = bytes_left(&stdin)
    {
        progress.set_total(Total::Bytes(bytes));
    }
    progress
}

/// The number of bytes after the current position, if stdin is a regular file.
fn bytes_left(stdin: &io::Stdin) -> Option<u64> {
    let mut file = File::from(stdin.as_fd().try_clone_to_owned().ok()?);
    let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
    Some(meta.len().saturating_sub(file.stream_position().ok()?))
}

/// The place for the entries of stdin.
pub struct Destination<'l> {
    pub log: &'l Log,
    /// The place for the lines that are left out. Without it, the first bad line ends the input.
    pub bad_lines: Option<BadLines>,
    /// The keys that must not repeat. With them, `check` sets the key of each entry.
    pub keys: Option<Keys>,
}

/// Reads the input to its end, or until `stop`. `check` adds the entry of a line to the batch, if the line has an entry. Each batch
/// is stored in one commit; `stored` is called after it, with the line of the first entry. If `check` refuses a line, the line is
/// left out, or ends the input: then all lines before it are stored. Also after an error, `tally` says how much is stored.
///
/// # Errors
/// Of the input, of `check`, of the log and of `stored`.
pub fn store_input(
    Lines { input, form }: Lines<'_>,
    Destination { log, mut bad_lines, keys }: Destination<'_>,
    stop: &Stop,
    progress: &Progress<'_>,
    tally: &mut Tally,
    check: impl FnMut(Line, &mut Batch) -> Result<(), Error>,
    mut stored: impl FnMut(&Batch, u64, Applied) -> Result<()> + Send,
) -> Result<()> {
    if let Input::Stdin = input {
        fcntl(io::stdin(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).ok();
    }
    tally.follows = matches!(input, Input::Files(..));
    let mut source = Source::new(input, form, bad_lines.is_some(), check, progress);
    tally.next = 1;
    let (read, outcome, failure) = std::thread::scope(|threads| {
        let sealing = Sealing::new(log, |run| Builder::new().spawn_scoped(threads, run).map(drop));
        let failure = sealing.failure();
        let failure_at_end = failure.clone();
        let mut applier = Applier::new(log, false).with_sealing(sealing).with_keys(keys);
        let (bad_lines, tally) = (&mut bad_lines, &mut *tally);
        let mut pipeline = Pipeline::new(threads, move |part: &mut Part| {
            tally.next = part.first();
            if let Some(bad_lines) = bad_lines {
                part.leave_out(bad_lines, tally)?;
            }
            part.store(&mut applier, tally, progress, &mut stored)?;
            report_not_sealed(&failure, progress);
            part.clear();
            Ok(())
        });
        let read = source.read_all(stop, &mut pipeline);
        // If both fail, the error of the log is returned, because it happened first.
        source.save_positions();
        let (_, outcome) = pipeline.finish(source.last_part());
        (read, outcome, failure_at_end)
    });
    report_not_sealed(&failure, progress);
    if outcome.is_ok() {
        tally.next = source.number + 1;
    }
    tally.is_complete = source.has_ended && tally.next > source.number;
    outcome.and(read)
}

/// Reports that old entries could not be sealed. It is not an error of the command: they are in the log.
fn report_not_sealed(failure: &Failure, progress: &Progress<'_>) {
    if let Some(err) = failure.take() {
        progress.error(&not_sealed(&err.to_string()));
    }
}

/// A part of stdin that becomes durable in one commit.
#[derive(Default)]
struct Part {
    batch: Batch,
    /// The lines that are left out.
    bad: Vec<BadLine>,
    /// The line of the first entry.
    first_entry: Option<u64>,
    /// The last line.
    last: u64,
}

impl Part {
    fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.bad.is_empty() && !self.batch.has_positions()
    }

    /// Whether the part must be stored before more lines are added.
    fn is_full(&self) -> bool {
        self.batch.is_full() || self.bad.len() >= BAD_LINES_MAX
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.bad.clear();
        (self.first_entry, self.last) = (None, 0);
    }

    /// The first line with an entry, or that is left out.
    fn first(&self) -> u64 {
        let first_bad = self.bad.first().map(|line| line.number);
        self.first_entry.into_iter().chain(first_bad).min().unwrap_or(self.last + 1)
    }

    /// Writes the lines that are left out. This comes before the commit: an acknowledgement means that the log or the file holds
    /// every line up to this entry.
    fn leave_out(&self, bad_lines: &mut BadLines, tally: &mut Tally) -> Result<()> {
        if !self.bad.is_empty() {
            bad_lines.write(self.batch.entries.input(), &self.bad)?;
            tally.skipped += self.bad.iter().filter(|line| line.is_first()).count() as u64;
        }
        Ok(())
    }

    /// Stores the entries, then calls `stored`. The tally counts them in between: an error of `stored` does not mean that they
    /// are not stored.
    fn store(
        &self,
        applier: &mut Applier<'_>,
        tally: &mut Tally,
        progress: &Progress<'_>,
        stored: &mut impl FnMut(&Batch, u64, Applied) -> Result<()>,
    ) -> Result<()> {
        if self.first_entry.is_none() && !self.batch.has_positions() {
            tally.next = self.last + 1;
            progress.add(0, self.batch.input_bytes);
            return Ok(());
        }
        let first = self.first_entry.unwrap_or(self.last + 1);
        tally.next = first;
        let applied = applier.apply(&self.batch)?;
        tally.stored += applied.new;
        tally.repeated += applied.repeated;
        tally.keyless += applied.keyless;
        tally.next = self.last + 1;
        progress.add(self.batch.entries.len() as u64, self.batch.input_bytes);
        stored(&self.batch, first, applied)
    }
}

type Storing<'s, 'e> = Pipeline<'s, 'e, Part, (), anyhow::Error>;

/// The event that ended a wait.
enum Woken {
    Input,
    Stored,
    Stop,
    /// The reader of stdout closed it.
    Closed,
}

struct Source<'p, 'i, C> {
    input: Input<'i>,
    form: Form,
    /// Whether the next bytes are the first ones of a text, and are not checked for a byte order mark yet.
    can_have_mark: bool,
    /// Whether bad lines are left out. Otherwise they end the input.
    skips: bool,
    check: C,
    progress: &'p Progress<'p>,
    part: Part,
    /// The start of the current line in the input of the batch, and the position up to which its end was searched.
    start: usize,
    scanned: usize,
    /// The number of pieces of the current line that are left out. The rest of this line is left out, too.
    pieces: u64,
    /// The length of these pieces in bytes.
    pieces_bytes: usize,
    /// Whether the last batch could not be passed on.
    has_failed: bool,
    /// The time of the last look at followed files that cannot be watched.
    looked: Instant,
    /// Whether a limit of inotify was reported.
    is_limit_reported: bool,
    /// The number of lines that were checked.
    number: u64,
    /// Whether all lines up to the end of stdin were checked.
    has_ended: bool,
}

impl<'p, 'i, C: FnMut(Line, &mut Batch) -> Result<(), Error>> Source<'p, 'i, C> {
    fn new(input: Input<'i>, form: Form, skips: bool, check: C, progress: &'p Progress<'p>) -> Self {
        let can_have_mark = form.is_text && matches!(input, Input::Stdin);
        Self {
            input,
            form,
            can_have_mark,
            skips,
            check,
            progress,
            part: Part::default(),
            start: 0,
            scanned: 0,
            pieces: 0,
            pieces_bytes: 0,
            has_failed: false,
            looked: Instant::now(),
            is_limit_reported: false,
            number: 0,
            has_ended: false,
        }
    }

    /// Reads and checks the input to its end, or until the stop. The last batch stays in `self`.
    fn read_all(&mut self, stop: &Stop, pipeline: &mut Storing<'_, '_>) -> Result<()> {
        loop {
            match self.wait(stop, pipeline)? {
                Woken::Stop => return Ok(()),
                Woken::Closed => return Err(OutputClosed.into()),
                Woken::Stored if pipeline.take_back().is_err() => return Ok(()),
                Woken::Stored => {}
                Woken::Input if matches!(self.input, Input::Files(..)) => self.read_files()?,
                Woken::Input => {
                    let count = self.read_stdin()?;
                    self.skip_mark();
                    self.check_lines()?;
                    if count == 0 {
                        self.check_last()?;
                        self.has_ended = true;
                        return Ok(());
                    }
                }
            }
            let is_full = self.part.is_full() && self.start > 0;
            let would_block = || pipeline.is_idle() && !self.input.is_ready();
            if !is_full && !would_block() {
                continue;
            }
            stop.debounce();
            // If storing has failed, its own error is reported.
            if self.pass(pipeline).is_err() {
                return Ok(());
            }
        }
    }

    /// Waits for input, for a batch that is stored, for the stop, or for the end of stdout.
    fn wait(&mut self, stop: &Stop, pipeline: &Storing<'_, '_>) -> Result<Woken> {
        let stdin = io::stdin();
        let since = self.looked.elapsed();
        // Also while other files have events all the time.
        if let Input::Files(tails, _) = &mut self.input
            && tails.must_poll()
            && since >= LOOK
        {
            tails.changed();
            self.looked = Instant::now();
        }
        let until_look = || PollTimeout::try_from(LOOK.saturating_sub(since)).unwrap_or(PollTimeout::ZERO);
        let (input, output, timeout) = match &self.input {
            Input::Stdin => (Some(stdin.as_fd()), None, PollTimeout::NONE),
            Input::Files(tails, output) if tails.has_work() => (tails.fd(), *output, PollTimeout::ZERO),
            Input::Files(tails, output) if tails.must_poll() => (tails.fd(), *output, until_look()),
            Input::Files(tails, output) => (tails.fd(), *output, PollTimeout::NONE),
        };
        loop {
            let wanted = [
                (Woken::Stop, Some(stop.as_fd()), PollFlags::POLLIN),
                (Woken::Stored, pipeline.ready(), PollFlags::POLLIN),
                // Without events, poll reports only that the reader closed stdout.
                (Woken::Closed, output.map(AsFd::as_fd), PollFlags::empty()),
                (Woken::Input, input, PollFlags::POLLIN),
            ];
            let (mut causes, mut fds) = (Vec::new(), Vec::new());
            for (cause, fd, events) in wanted {
                if let Some(fd) = fd {
                    causes.push(cause);
                    fds.push(PollFd::new(fd, events));
                }
            }
            let any = wait_until(&mut fds, timeout, CANNOT_WAIT)?;
            let ready = causes.into_iter().zip(&fds).find(|(_, fd)| fd.any() == Some(true));
            if let Some((cause, _)) = ready {
                return Ok(cause);
            }
            if !any {
                return Ok(Woken::Input);
            }
        }
    }

    /// Does the next step with the followed files.
    fn read_files(&mut self) -> Result<()> {
        let separator = self.form.cut.separator();
        let Input::Files(tails, _) = &mut self.input else { return Ok(()) };
        let step = tails.next(separator)?;
        if let Some(limit) = tails.inotify_limit()
            && !std::mem::replace(&mut self.is_limit_reported, true)
        {
            self.progress.error(&polling(limit));
        }
        for err in tails.take_unwatched() {
            self.progress.error(&format!("{err}: {UNWATCHED}"));
        }
        let Step::Read { is_other } = step else { return self.report_notices() };
        if is_other {
            self.drop_rest();
        }
        let Input::Files(tails, _) = &mut self.input else { return Ok(()) };
        if is_other {
            (self.pieces, self.pieces_bytes) = tails.pieces();
        }
        self.can_have_mark |= self.form.is_text && tails.is_at_start();
        match tails.read(self.part.batch.entries.room())? {
            Found::Bytes(count) => {
                self.part.batch.entries.fill(count);
                self.skip_mark();
                self.check_lines()?;
                self.keep_rest();
            }
            Found::Nothing => {}
            Found::End => {
                self.check_last()?;
                self.keep_rest();
                let Input::Files(tails, _) = &mut self.input else { return Ok(()) };
                tails.end();
            }
            Found::Again => self.drop_rest(),
        }
        self.report_notices()
    }

    /// Removes the input that is no complete line: it will be read again, or does not count any more.
    fn drop_rest(&mut self) {
        self.part.batch.entries.cut_off(self.start);
        (self.scanned, self.pieces, self.pieces_bytes, self.can_have_mark) = (self.start, 0, 0, false);
    }

    /// Tells the followed file which part of it was not done.
    fn keep_rest(&mut self) {
        let rest = self.end() - self.start + self.pieces_bytes;
        if let Input::Files(tails, _) = &mut self.input {
            tails.keep_rest(rest, (self.pieces, self.pieces_bytes));
        }
    }

    /// Adds the positions in the followed files to the batch.
    fn save_positions(&mut self) {
        if self.has_failed {
            return;
        }
        self.keep_rest();
        if let Input::Files(tails, _) = &mut self.input {
            tails.add_positions(&mut self.part.batch);
        }
    }

    fn report_notices(&mut self) -> Result<()> {
        let Input::Files(tails, _) = &mut self.input else { return Ok(()) };
        for notice in tails.take_notices() {
            self.progress.error(&followed(&notice));
        }
        Ok(())
    }

    /// The followed file and the position of the current line in it, counted from 1. `None`: the input is stdin.
    fn place(&self) -> Option<(String, u64)> {
        let Input::Files(tails, _) = &self.input else { return None };
        let (path, read_to) = tails.place()?;
        let rest = self.end() - self.start + self.pieces_bytes;
        Some((path.display().to_string(), read_to - rest as u64 + 1))
    }

    /// Reads stdin once. Returns the number of bytes, 0 at the end.
    fn read_stdin(&mut self) -> Result<usize> {
        let stdin = io::stdin();
        loop {
            match read(&stdin, self.part.batch.entries.room()) {
                Ok(count) => {
                    self.part.batch.entries.fill(count);
                    // Lines count when they are stored. If stdin is one line, its bytes count when they are read: otherwise
                    // there would be no progress before the end.
                    self.progress.add(0, if self.form.cut == Cut::Whole { count as u64 } else { 0 });
                    return Ok(count);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    wait_for(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], CANNOT_WAIT)?;
                }
                Err(err) => return Err(Error::io("cannot read stdin", err.into()).into()),
            }
        }
    }

    /// Moves past a byte order mark at the start of the text.
    fn skip_mark(&mut self) {
        if self.can_have_mark
            && let Some(bytes) = mark_bytes(&self.part.batch.entries.input()[self.start..])
        {
            self.can_have_mark = false;
            self.start += bytes;
            self.scanned = self.start;
            self.part.batch.input_bytes += bytes as u64;
        }
    }

    fn end(&self) -> usize {
        self.part.batch.entries.input().len()
    }

    /// Checks the complete lines.
    fn check_lines(&mut self) -> Result<()> {
        let separator = match self.form.cut {
            Cut::Lines => b'\n',
            Cut::Nuls => 0,
            Cut::Whole => return self.check_begun_line(),
        };
        while let Some(found) = memchr::memchr(separator, &self.part.batch.entries.input()[self.scanned..]) {
            let end = self.scanned + found;
            self.check_line(end)?;
            self.start = end + 1;
            self.scanned = self.start;
        }
        self.scanned = self.end();
        self.check_begun_line()
    }

    /// Checks the last line, which has no separator.
    fn check_last(&mut self) -> Result<()> {
        if self.start < self.end() || self.form.cut == Cut::Whole || self.pieces > 0 {
            self.check_line(self.end())?;
            self.start = self.end();
        }
        Ok(())
    }

    fn check_line(&mut self, end: usize) -> Result<()> {
        if self.form.cut != Cut::Whole {
            self.part.batch.input_bytes += (end + 1 - self.start) as u64;
        }
        if self.pieces > 0 {
            self.pieces += 1;
        }
        let line = Line { range: self.start..end, number: self.number + 1 };
        let checked = match self.too_long(end) {
            Some(err) => Err(err),
            None => (self.check)(line, &mut self.part.batch),
        };
        match checked {
            Err(err) if self.skips => self.leave_out(end, &err),
            checked => checked.map_err(|err| self.bad(end, &err))?,
        }
        (self.pieces, self.pieces_bytes) = (0, 0);
        self.number += 1;
        if self.part.first_entry.is_none() && !self.part.batch.is_empty() {
            self.part.first_entry = Some(self.number);
        }
        Ok(())
    }

    /// Checks the length of the current line, which has no end yet. If it is too long, it is left out in pieces.
    fn check_begun_line(&mut self) -> Result<()> {
        let end = self.end();
        match self.too_long(end) {
            None => {}
            Some(err) if !self.skips => return Err(self.bad(end, &err)),
            Some(_) if end - self.start < PIECE_BYTES_MIN => {}
            Some(err) => {
                self.pieces += 1;
                self.leave_out(end, &err);
                self.part.batch.input_bytes += (end - self.start) as u64;
                self.pieces_bytes += end - self.start;
                (self.start, self.scanned) = (end, end);
            }
        }
        Ok(())
    }

    /// The error if the current line is too long. The bytes of it up to `end` were read.
    fn too_long(&self, end: usize) -> Option<Error> {
        let Form { line_bytes_max, entry_bytes_max, .. } = self.form;
        let bytes = end - self.start;
        (bytes > line_bytes_max || self.pieces > 0)
            .then(|| Error::EntryTooLong(bytes.max(line_bytes_max) as u64, entry_bytes_max))
    }

    /// Leaves out the current line up to `end`, or a piece of it.
    fn leave_out(&mut self, end: usize, err: &Error) {
        let (range, number) = (self.start..end, self.number + 1);
        let piece = (self.pieces > 0).then_some(self.pieces);
        let place = self.place();
        self.part.bad.push(BadLine { range, number, place, piece, reason: err.to_string() });
    }

    /// The error of the current line, of which the bytes up to `end` were read.
    fn bad(&self, end: usize, err: &Error) -> anyhow::Error {
        let Form { cut, advice, .. } = self.form;
        let line = &self.part.batch.entries.input()[self.start..end];
        let reason = advice(err, line, cut).map_or_else(|| with_hint(err), |hint| format!("{err}: {hint}"));
        let location = match self.place() {
            Some((path, byte)) => format!("{path}: {} at byte {byte}", cut.unit()),
            None => format!("{} {}", cut.unit(), self.number + 1),
        };
        BadInput { location, reason }.into()
    }

    /// The lines that were not passed on. `None` if they are all blank.
    fn last_part(&mut self) -> Option<Part> {
        if self.part.is_empty() {
            return None;
        }
        self.part.last = self.number;
        Some(std::mem::take(&mut self.part))
    }

    /// Passes the lines so far to the storing thread, and begins a new batch with the rest of the input.
    fn pass(&mut self, pipeline: &mut Storing<'_, '_>) -> Result<(), WorkerEnded> {
        self.save_positions();
        // A part of one line: nothing to pass on, and nothing to move.
        if self.start == 0 && !self.part.batch.has_positions() {
            return Ok(());
        }
        let rest = self.part.batch.entries.split_off(self.start);
        // The memory of blank lines is used again.
        if let Some(full) = self.last_part() {
            let is_large = full.batch.is_large();
            // If storing has failed, the rest of the input is not kept, and no position is stored for it.
            self.has_failed = true;
            self.part = pipeline.pass(full)?;
            if is_large {
                pipeline.settle()?;
            }
            self.has_failed = false;
        }
        self.part.batch.entries.start_with(rest);
        self.scanned = self.scanned.saturating_sub(self.start);
        self.start = 0;
        Ok(())
    }
}

/// The length of the byte order mark at the start of `input`, or `None` if more bytes are necessary to decide.
fn mark_bytes(input: &[u8]) -> Option<usize> {
    let mark = BYTE_ORDER_MARK.as_bytes();
    if input.starts_with(mark) {
        return Some(mark.len());
    }
    (!mark.starts_with(input)).then_some(0)
}

#[cfg(test)]
mod tests {
    use super::mark_bytes;

    #[test]
    fn a_byte_order_mark_is_found_when_its_last_byte_arrives() {
        for input in [&b""[..], b"\xef", b"\xef\xbb"] {
            assert_eq!(mark_bytes(input), None, "{input:?}");
        }
        for (input, bytes) in
            [(&b"\xef\xbb\xbf"[..], 3), (b"\xef\xbb\xbf\xef\xbb\xbf", 3), (b"\n", 0), (b"\xef\n", 0), (b"a\xef\xbb\xbf", 0)]
        {
            assert_eq!(mark_bytes(input), Some(bytes), "{input:?}");
        }
    }
}
