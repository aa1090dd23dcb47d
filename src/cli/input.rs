//! Stdin as entries: one thread reads stdin, splits it into lines and checks them; another thread stores the batches.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Seek};
use std::ops::Range;
use std::os::fd::AsFd;

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;
use scuttleup::Error;
use scuttleup::ingest::Batch;
use scuttleup::ingest::pipeline::{Pipeline, WorkerEnded};

use crate::cli::exit::BadInput;
use crate::cli::io::signals::Stop;
use crate::cli::report::diagnostics::Diagnostics;
use crate::cli::report::hint::with_hint;
use crate::cli::report::progress::{Progress, Total};

const PIPE_BYTES: i32 = 1 << 20;

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

/// The form of stdin.
#[derive(Clone, Copy)]
pub struct Form {
    pub cut: Cut,
    /// Whether stdin is text. A byte order mark at its start is not part of the first line.
    pub is_text: bool,
}

/// The maximum length of a line, and the maximum length of an entry, which an error names. A line can be longer than its entry:
/// it can have white space and escapes.
#[derive(Clone, Copy)]
pub struct Limits {
    pub line_bytes_max: usize,
    pub entry_bytes_max: usize,
}

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

/// Reads stdin to its end, or until `stop`. `check` adds the entry of a line to the batch, if the line has an entry. `store` makes
/// a batch durable. The first line that `check` refuses ends the input. All lines before it are stored.
///
/// # Errors
/// Of the input, of `check` and of `store`.
pub fn store_stdin(
    form: Form,
    limits: Limits,
    stop: &Stop,
    progress: &Progress<'_>,
    check: impl FnMut(Line, &mut Batch) -> Result<(), Error>,
    mut store: impl FnMut(&Batch) -> Result<()> + Send,
) -> Result<()> {
    let stdin = io::stdin();
    fcntl(&stdin, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).ok();
    std::thread::scope(|threads| {
        let mut pipeline = Pipeline::new(threads, |batch: &mut Batch| {
            store(batch)?;
            progress.add(batch.entries.len() as u64, batch.input_bytes);
            batch.clear();
            Ok(())
        });
        let Form { cut, is_text } = form;
        let batch = Batch::default();
        let mut source = Source { cut, can_have_mark: is_text, limits, check, progress, batch, start: 0, scanned: 0, number: 0 };
        let read = source.read_all(stop, &mut pipeline);
        // If both fail, the error of the log is returned, because it happened first.
        let (_, stored) = pipeline.finish(Some(source.batch).filter(|batch| !batch.is_empty()));
        stored.and(read)
    })
}

type Storing<'s, 'e> = Pipeline<'s, 'e, Batch, (), anyhow::Error>;

/// The event that ended a wait.
enum Woken {
    Input,
    Stored,
    Stop,
}

struct Source<'p, C> {
    cut: Cut,
    /// Whether the first bytes are not checked for a byte order mark yet.
    can_have_mark: bool,
    limits: Limits,
    check: C,
    progress: &'p Progress<'p>,
    batch: Batch,
    /// The start of the current line in the input of the batch, and the position up to which its end was searched.
    start: usize,
    scanned: usize,
    /// The number of lines so far.
    number: u64,
}

impl<C: FnMut(Line, &mut Batch) -> Result<(), Error>> Source<'_, C> {
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
                        return self.check_last();
                    }
                }
            }
            let is_full = self.batch.is_full() && self.start > 0;
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
            match read(stdin, self.batch.entries.room()) {
                Ok(count) => {
                    self.batch.entries.fill(count);
                    // Lines count when they are stored. If stdin is one line, its bytes count when they are read: otherwise
                    // there would be no progress before the end.
                    self.progress.add(0, if self.cut == Cut::Whole { count as u64 } else { 0 });
                    return Ok(count);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).ok();
                }
                Err(err) => return Err(Error::io("cannot read stdin", err.into()).into()),
            }
        }
    }

    /// Moves past a byte order mark at the start of stdin.
    fn skip_mark(&mut self) {
        if self.can_have_mark
            && let Some(bytes) = mark_bytes(self.batch.entries.input())
        {
            self.can_have_mark = false;
            (self.start, self.scanned) = (bytes, bytes);
            self.batch.input_bytes += bytes as u64;
        }
    }

    fn end(&self) -> usize {
        self.batch.entries.input().len()
    }

    /// Checks the complete lines.
    fn check_lines(&mut self) -> Result<()> {
        let separator = match self.cut {
            Cut::Lines => b'\n',
            Cut::Nuls => 0,
            Cut::Whole => return self.check_length(self.end() - self.start, self.number + 1),
        };
        while let Some(found) = memchr::memchr(separator, &self.batch.entries.input()[self.scanned..]) {
            let end = self.scanned + found;
            self.check_line(end)?;
            self.start = end + 1;
            self.scanned = self.start;
        }
        self.scanned = self.end();
        self.check_length(self.end() - self.start, self.number + 1)
    }

    /// Checks the last line, which has no separator.
    fn check_last(&mut self) -> Result<()> {
        if self.start < self.end() || self.cut == Cut::Whole {
            self.check_line(self.end())?;
            self.start = self.end();
        }
        Ok(())
    }

    fn check_line(&mut self, end: usize) -> Result<()> {
        self.number += 1;
        self.check_length(end - self.start, self.number)?;
        if self.cut != Cut::Whole {
            self.batch.input_bytes += (end + 1 - self.start) as u64;
        }
        let line = Line { range: self.start..end, number: self.number };
        (self.check)(line, &mut self.batch).map_err(|err| self.bad(self.number, &err))
    }

    fn check_length(&self, bytes: usize, number: u64) -> Result<()> {
        if bytes > self.limits.line_bytes_max {
            return Err(self.bad(number, &Error::EntryTooLong(bytes as u64, self.limits.entry_bytes_max)));
        }
        Ok(())
    }

    fn bad(&self, number: u64, err: &Error) -> anyhow::Error {
        let unit = if self.cut == Cut::Lines { "line" } else { "entry" };
        let reason = format!("{}; everything before it is stored", with_hint(err));
        BadInput { location: format!("{unit} {number}"), reason }.into()
    }

    /// Passes the lines so far to the storing thread, and begins a new batch with the rest of the input.
    fn pass(&mut self, pipeline: &mut Storing<'_, '_>) -> Result<(), WorkerEnded> {
        // A part of one line: nothing to pass on, and nothing to move.
        if self.start == 0 {
            return Ok(());
        }
        let rest = self.batch.entries.split_off(self.start);
        // A batch of blank lines holds no entry: its memory is used again.
        if !self.batch.is_empty() {
            let full = std::mem::take(&mut self.batch);
            let is_large = full.is_large();
            self.batch = pipeline.pass(full)?;
            if is_large {
                pipeline.settle()?;
            }
        }
        self.batch.entries.start_with(rest);
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
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.map_err(|err| Error::io("cannot wait for stdin", err.into()))?,
        };
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
