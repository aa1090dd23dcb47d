//! Stdin, cut into lines or records: read and checked in one thread, stored in another.

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
use scuttleup::stage::{Stage, StoringEnded};

use super::exit::BadInput;
use super::message::Messages;
use super::progress::{Progress, Total};
use super::signals::Stop;

const READ_BYTES: usize = 256 << 10;
const FIRST_READ_BYTES: usize = 16 << 10;
const PIPE_BYTES: i32 = 1 << 20;
/// A batch is full at one of these.
const BATCH_LINES_MAX: usize = 16 << 10;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// A batch can be one long line; more memory than this is not kept for the next one.
const KEPT_BYTES_MAX: usize = 4 * BATCH_BYTES_MAX;

/// How stdin is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// After each newline.
    Lines,
    /// After each NUL.
    Nuls,
    /// Not at all: it is one record, even if it is empty.
    Whole,
}

/// How long a line may be, and what is said to be the limit: white space and escapes are no part of the entry.
#[derive(Clone, Copy)]
pub struct Limits {
    pub line_bytes_max: usize,
    pub entry_bytes_max: usize,
}

/// Checked input on its way to the log.
pub struct Batch<T> {
    buffer: Vec<u8>,
    items: Vec<T>,
    /// How much of the input it is, with what is no part of an item; for progress.
    input_bytes: u64,
}

// Derived, it would ask for `T: Default`.
impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { buffer: Vec::new(), items: Vec::new(), input_bytes: 0 }
    }
}

impl<T> Batch<T> {
    /// What the check made of each line.
    pub fn items(&self) -> &[T] {
        &self.items
    }

    /// Bytes of a line; the check was told their places.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }
}

/// A line for the check: where it lies in its batch, its number from 1, its bytes.
pub struct Line<'a> {
    pub at: usize,
    pub number: u64,
    pub bytes: &'a [u8],
}

/// For what [`pump`] does; none while somebody types the input.
pub fn progress(messages: Messages, stop: &Stop) -> Progress<'_> {
    let stdin = io::stdin();
    let progress = if stdin.is_terminal() { Progress::off() } else { Progress::new(messages, stop) };
    if progress.is_on()
        && let Some(bytes) = bytes_left(&stdin)
    {
        progress.set_total(Total::Bytes(bytes));
    }
    progress
}

/// What a file has from where it stands on.
fn bytes_left(stdin: &io::Stdin) -> Option<u64> {
    let mut file = File::from(stdin.as_fd().try_clone_to_owned().ok()?);
    let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
    Some(meta.len().saturating_sub(file.stream_position().ok()?))
}

/// Reads stdin to its end, or until `stop`: `check` makes an item of each line (or skips it), `store` makes a batch of
/// them durable. The first line that `check` refuses ends the input; what came before it is stored.
pub fn pump<T: Send + 'static>(
    cut: Cut,
    limits: Limits,
    stop: &Stop,
    progress: &Progress<'_>,
    check: impl FnMut(Line<'_>) -> Result<Option<T>, Error>,
    mut store: impl FnMut(&Batch<T>) -> Result<()> + Send,
) -> Result<()> {
    let stdin = io::stdin();
    fcntl(&stdin, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).ok();
    std::thread::scope(|threads| {
        let mut stage = Stage::new(threads, |batch: &mut Batch<T>| {
            store(batch)?;
            progress.add(batch.items.len() as u64, std::mem::take(&mut batch.input_bytes));
            batch.items.clear();
            if batch.buffer.len() > KEPT_BYTES_MAX {
                batch.buffer = Vec::new();
            }
            Ok(())
        });
        let mut source =
            Source { cut, limits, check, progress, batch: Batch::default(), start: 0, scanned: 0, end: 0, number: 0 };
        let read = source.read_all(stop, &mut stage);
        // What came before an error of the input is stored. An error of the log came first, and is the one that counts.
        let stored: Result<()> = stage.finish(Some(source.batch).filter(|batch| !batch.items.is_empty()));
        stored.and(read)
    })
}

type ToStore<'s, 'e, T> = Stage<'s, 'e, Batch<T>, anyhow::Error>;

/// What woke the reading thread.
enum Woken {
    Input,
    Stored,
    Stop,
}

struct Source<'p, T, C> {
    progress: &'p Progress<'p>,
    cut: Cut,
    limits: Limits,
    check: C,
    batch: Batch<T>,
    /// In the batch's buffer: the line in work, how far it was searched, the end of what was read.
    start: usize,
    scanned: usize,
    end: usize,
    number: u64,
}

impl<T: Send + 'static, C: FnMut(Line<'_>) -> Result<Option<T>, Error>> Source<'_, T, C> {
    /// Reads and checks to the end, or up to the stop; what is not passed on stays in the batch.
    fn read_all(&mut self, stop: &Stop, stage: &mut ToStore<'_, '_, T>) -> Result<()> {
        let stdin = io::stdin();
        loop {
            let count = match wait(&stdin, stop, stage)? {
                Woken::Stop => return Ok(()),
                Woken::Stored if stage.take_back().is_err() => return Ok(()),
                Woken::Stored => None,
                Woken::Input => Some(self.fill(&stdin)?),
            };
            if count.is_some() {
                self.take_lines()?;
            }
            if count == Some(0) {
                return self.take_last();
            }
            let full = self.batch.items.len() >= BATCH_LINES_MAX || self.start >= BATCH_BYTES_MAX;
            let idle = || stage.is_idle() && !ready(&stdin);
            if !full && !idle() {
                continue;
            }
            stop.be_patient();
            // If the storing has ended, its own error is the one to tell.
            if self.pass(stage).is_err() {
                return Ok(());
            }
        }
    }

    /// Reads once; 0 at the end.
    fn fill(&mut self, stdin: &io::Stdin) -> Result<usize> {
        let buffer = &mut self.batch.buffer;
        if buffer.len() - self.end < READ_BYTES {
            // A little at first, then doubling up to a bound: growing costs no copy once the kernel moves pages instead.
            let more = self.end.clamp(FIRST_READ_BYTES, BATCH_BYTES_MAX);
            buffer.reserve_exact((self.end + more).saturating_sub(buffer.len()));
            buffer.resize((self.end + more).max(buffer.len()), 0);
        }
        let room = (self.end + READ_BYTES).min(buffer.len());
        loop {
            match read(stdin, &mut buffer[self.end..room]) {
                Ok(count) => {
                    self.end += count;
                    // Lines count once they are stored, but of a single record there would be nothing to see until the end.
                    self.progress.add(0, if self.cut == Cut::Whole { count as u64 } else { 0 });
                    return Ok(count);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).ok();
                }
                Err(err) => return Err(Error::io("stdin cannot be read", err.into()).into()),
            }
        }
    }

    /// Checks the lines that are all there.
    fn take_lines(&mut self) -> Result<()> {
        let separator = match self.cut {
            Cut::Lines => b'\n',
            Cut::Nuls => 0,
            Cut::Whole => return self.check_length(self.end - self.start, self.number + 1),
        };
        while let Some(found) = memchr::memchr(separator, &self.batch.buffer[self.scanned..self.end]) {
            let end = self.scanned + found;
            self.take_line(end)?;
            self.start = end + 1;
            self.scanned = self.start;
        }
        self.scanned = self.end;
        self.check_length(self.end - self.start, self.number + 1)
    }

    /// Checks what is left at the end of the input.
    fn take_last(&mut self) -> Result<()> {
        if self.start < self.end || self.cut == Cut::Whole {
            self.take_line(self.end)?;
            self.start = self.end;
        }
        Ok(())
    }

    fn take_line(&mut self, end: usize) -> Result<()> {
        self.number += 1;
        self.check_length(end - self.start, self.number)?;
        if self.cut != Cut::Whole {
            self.batch.input_bytes += (end + 1 - self.start) as u64;
        }
        let line = Line { at: self.start, number: self.number, bytes: &self.batch.buffer[self.start..end] };
        match (self.check)(line) {
            Ok(item) => self.batch.items.extend(item),
            Err(err) => return Err(self.bad(self.number, &err)),
        }
        Ok(())
    }

    fn check_length(&self, bytes: usize, number: u64) -> Result<()> {
        if bytes > self.limits.line_bytes_max {
            return Err(self.bad(number, &Error::EntryTooLong(bytes as u64, self.limits.entry_bytes_max)));
        }
        Ok(())
    }

    fn bad(&self, number: u64, err: &Error) -> anyhow::Error {
        let unit = if self.cut == Cut::Lines { "line" } else { "entry" };
        BadInput { place: format!("{unit} {number}"), reason: format!("{err}; what came before it is stored") }.into()
    }

    /// Gives the lines so far to the storing thread, and goes on with a new batch that begins with the rest.
    fn pass(&mut self, stage: &mut ToStore<'_, '_, T>) -> Result<(), StoringEnded> {
        if self.batch.items.is_empty() {
            // Only blank lines: nothing to store, but their place is used again.
            self.batch.buffer.copy_within(self.start..self.end, 0);
            (self.scanned, self.end, self.start) = (self.scanned.saturating_sub(self.start), self.end - self.start, 0);
            return Ok(());
        }
        let rest = self.start..self.end;
        let mut tail = self.batch.buffer[rest].to_vec();
        let full = std::mem::take(&mut self.batch);
        let is_large = full.buffer.len() > KEPT_BYTES_MAX;
        self.batch = stage.pass(full)?;
        if is_large {
            stage.settle()?;
        }
        self.scanned = self.scanned.saturating_sub(self.start);
        self.end = tail.len();
        self.start = 0;
        if self.batch.buffer.len() < tail.len() {
            tail.resize(tail.len().max(BATCH_BYTES_MAX + READ_BYTES), 0);
            self.batch.buffer = tail;
        } else {
            self.batch.buffer[..tail.len()].copy_from_slice(&tail);
        }
        Ok(())
    }
}

fn ready(stdin: &io::Stdin) -> bool {
    poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0)
}

/// Waits for input, for a batch that is stored, or for the stop.
fn wait<T: Send + 'static>(stdin: &io::Stdin, stop: &Stop, stage: &ToStore<'_, '_, T>) -> Result<Woken> {
    loop {
        let stored = stage.ready();
        let fds = [Some(stop.as_fd()), Some(stdin.as_fd()), stored];
        let mut fds: Vec<PollFd<'_>> = fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.map_err(|err| Error::io("stdin cannot be waited for", err.into()))?,
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
