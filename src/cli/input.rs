//! Stdin as entries: one thread reads stdin, splits it into lines and checks them; another thread stores the batches.

mod bad_lines;

use std::fs::{self, File};
use std::io::{self, IsTerminal, Seek};
use std::ops::Range;
use std::os::fd::AsFd;
use std::thread::Builder;

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;
use scuttleup::ingest::pipeline::{Pipeline, WorkerEnded};
use scuttleup::ingest::{Applied, Applier, Batch, Failure, Sealing};
use scuttleup::{Error, Keys, Log};

use self::bad_lines::BadLine;
pub use self::bad_lines::BadLines;
use crate::cli::exit::BadInput;
use crate::cli::io::poll::wait_for;
use crate::cli::io::signals::Stop;
use crate::cli::report::diagnostics::Diagnostics;
use crate::cli::report::hint::{not_sealed, with_hint};
use crate::cli::report::input::Tally;
use crate::cli::report::progress::{Progress, Total};

const PIPE_BYTES: i32 = 1 << 20;
const CANNOT_WAIT: &str = "cannot wait for stdin";

/// A line that is too long and at least this long is left out in pieces, in bytes. Shorter lines are never cut, in whatever
/// chunks they arrive.
const PIECE_BYTES_MIN: usize = 1 << 20;
/// A part of stdin with this many lines that are left out is stored before more are read.
const BAD_LINES_MAX: usize = 16 << 10;

/// U+FEFF in UTF-8. Some programs begin each text file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How stdin is split into lines.
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

/// The hint for a line that was refused, if it needs another hint than its error has.
pub type Advice = fn(&Error, &[u8], Cut) -> Option<&'static str>;

/// A line to check: its range in the input of the batch, and its number, counted from 1.
pub struct Line {
    pub range: Range<usize>,
    pub number: u64,
}

/// The progress of [`store_stdin`]. It is off if stdin is a terminal.
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

/// Reads stdin to its end, or until `stop`. `check` adds the entry of a line to the batch, if the line has an entry. Each batch
/// is stored in one commit; `stored` is called after it, with the line of the first entry. If `check` refuses a line, the line is
/// left out, or ends the input: then all lines before it are stored. Also after an error, `tally` says how much is stored.
///
/// # Errors
/// Of the input, of `check`, of the log and of `stored`.
pub fn store_stdin(
    form: Form,
    Destination { log, mut bad_lines, keys }: Destination<'_>,
    stop: &Stop,
    progress: &Progress<'_>,
    tally: &mut Tally,
    check: impl FnMut(Line, &mut Batch) -> Result<(), Error>,
    mut stored: impl FnMut(&Batch, u64, Applied) -> Result<()> + Send,
) -> Result<()> {
    let stdin = io::stdin();
    fcntl(&stdin, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).ok();
    let mut source = Source::new(form, bad_lines.is_some(), check, progress);
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
        self.batch.is_empty() && self.bad.is_empty()
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
        let Some(first) = self.first_entry else {
            tally.next = self.last + 1;
            progress.add(0, self.batch.input_bytes);
            return Ok(());
        };
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
}

struct Source<'p, C> {
    form: Form,
    /// Whether the first bytes are not checked for a byte order mark yet.
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
    /// The number of lines that were checked.
    number: u64,
    /// Whether all lines up to the end of stdin were checked.
    has_ended: bool,
}

impl<'p, C: FnMut(Line, &mut Batch) -> Result<(), Error>> Source<'p, C> {
    fn new(form: Form, skips: bool, check: C, progress: &'p Progress<'p>) -> Self {
        let (can_have_mark, part) = (form.is_text, Part::default());
        let (start, scanned, pieces, number, has_ended) = (0, 0, 0, 0, false);
        Self { form, can_have_mark, skips, check, progress, part, start, scanned, pieces, number, has_ended }
    }

    /// Reads and checks stdin to its end, or until the stop. The last batch stays in `self`.
    fn read_all(&mut self, stop: &Stop, pipeline: &mut Storing<'_, '_>) -> Result<()> {
        let stdin = io::stdin();
        loop {
            match wait(&stdin, stop, pipeline)? {
                Woken::Stop => return Ok(()),
                Woken::Stored if pipeline.take_back().is_err() => return Ok(()),
                Woken::Stored => {}
                Woken::Input => {
                    let count = self.read(&stdin)?;
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
            let would_block = || pipeline.is_idle() && !is_ready(&stdin);
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

    /// Reads once. Returns the number of bytes, 0 at the end.
    fn read(&mut self, stdin: &io::Stdin) -> Result<usize> {
        loop {
            match read(stdin, self.part.batch.entries.room()) {
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

    /// Moves past a byte order mark at the start of stdin.
    fn skip_mark(&mut self) {
        if self.can_have_mark
            && let Some(bytes) = mark_bytes(self.part.batch.entries.input())
        {
            self.can_have_mark = false;
            (self.start, self.scanned) = (bytes, bytes);
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
        self.pieces = 0;
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
        self.part.bad.push(BadLine { range, number, piece, reason: err.to_string() });
    }

    /// The error of the current line, of which the bytes up to `end` were read.
    fn bad(&self, end: usize, err: &Error) -> anyhow::Error {
        let Form { cut, advice, .. } = self.form;
        let line = &self.part.batch.entries.input()[self.start..end];
        let reason = advice(err, line, cut).map_or_else(|| with_hint(err), |hint| format!("{err}: {hint}"));
        BadInput { location: format!("{} {}", cut.unit(), self.number + 1), reason }.into()
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
        // A part of one line: nothing to pass on, and nothing to move.
        if self.start == 0 {
            return Ok(());
        }
        let rest = self.part.batch.entries.split_off(self.start);
        // The memory of blank lines is used again.
        if let Some(full) = self.last_part() {
            let is_large = full.batch.is_large();
            self.part = pipeline.pass(full)?;
            if is_large {
                pipeline.settle()?;
            }
        }
        self.part.batch.entries.start_with(rest);
        self.scanned = self.scanned.saturating_sub(self.start);
        self.start = 0;
        Ok(())
    }
}

/// The length of the byte order mark at the start of `input`, or `None` if more bytes are necessary to decide.
fn mark_bytes(input: &[u8]) -> Option<usize> {
    if input.starts_with(BYTE_ORDER_MARK) {
        return Some(BYTE_ORDER_MARK.len());
    }
    (!BYTE_ORDER_MARK.starts_with(input)).then_some(0)
}

fn is_ready(stdin: &io::Stdin) -> bool {
    poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0)
}

/// Waits for input, for a batch that is stored, or for the stop.
fn wait(stdin: &io::Stdin, stop: &Stop, pipeline: &Storing<'_, '_>) -> Result<Woken> {
    loop {
        let fds = [Some(stop.as_fd()), Some(stdin.as_fd()), pipeline.ready()];
        let mut fds: Vec<PollFd<'_>> = fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        wait_for(&mut fds, CANNOT_WAIT)?;
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| fd.any() == Some(true));
        if is_ready(0) {
            return Ok(Woken::Stop);
        }
        if is_ready(2) {
            return Ok(Woken::Stored);
        }
        if is_ready(1) {
            return Ok(Woken::Input);
        }
    }
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
