//! The progress of a long command: one line on the terminal, which disappears before the command ends.
//!
//! The working threads only count. Another thread draws the line. It starts at the third step, so that short work does not need
//! it. It draws the line for the first time after one second.

use std::io::{self, IsTerminal, PipeWriter, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use console::Term;
use indicatif::{FormattedDuration, HumanBytes, HumanCount, ProgressBar};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{getpgrp, tcgetpgrp};
use scuttleup::GoesOn;

use crate::cli::exit::Exit;
use crate::cli::io::signals::Stop;
use crate::cli::report::diagnostics::{self, Diagnostics};

const FIRST_DRAW_MILLIS: u16 = 1000;
const REDRAW_MILLIS: u16 = 200;
/// Work of at most this many steps is short.
const SHORT_STEPS: u32 = 2;
/// A longer remaining time is not known.
const ETA_MAX: Duration = Duration::from_secs(100 * 24 * 60 * 60);
const BAR_COLUMNS_MIN: usize = 10;
const BAR_COLUMNS_MAX: usize = 40;

/// The size of the whole work, if it is known.
#[derive(Clone, Copy)]
pub enum Total {
    Entries(u64),
    Bytes(u64),
}

/// The progress of a command. It is shown on stderr, if stderr is a terminal and `-q` is not given.
pub struct Progress<'s>(Option<Work<'s>>);

struct Work<'s> {
    stop: &'s Stop,
    counts: Arc<Counts>,
    steps: AtomicU32,
    /// Empty until the third step; `None` if the line cannot be drawn.
    line: OnceLock<Option<Line>>,
}

/// Whether progress may be shown at all.
pub fn is_wanted(diagnostics: Diagnostics) -> bool {
    let has_controls = std::env::var_os("TERM").is_some_and(|kind| !kind.is_empty() && kind != "dumb");
    !diagnostics.is_quiet() && io::stderr().is_terminal() && has_controls
}

impl<'s> Progress<'s> {
    /// Progress that is shown until `stop` comes.
    pub fn new(diagnostics: Diagnostics, stop: &'s Stop) -> Self {
        let work = || Work { stop, counts: Arc::default(), steps: AtomicU32::new(0), line: OnceLock::new() };
        Self(is_wanted(diagnostics).then(work))
    }

    /// Progress that is never shown.
    pub fn off() -> Self {
        Self(None)
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub fn set_total(&self, total: Total) {
        if let Some(work) = &self.0 {
            work.counts.set_total(total);
        }
    }

    /// Counts one step: the number of additional entries and bytes that are done. (0, 0) only says that the work has begun. A
    /// call is cheap enough for each batch, but not for each entry.
    pub fn add(&self, entries: u64, bytes: u64) {
        let Some(work) = &self.0 else { return };
        work.counts.entries.fetch_add(entries, Ordering::Relaxed);
        work.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        if work.steps.fetch_add(1, Ordering::Relaxed) == SHORT_STEPS {
            work.line.get_or_init(|| Line::start(work.stop, &work.counts).ok());
        }
    }

    /// The end of the command, if progress is on and a signal has arrived.
    pub fn stopped(&self) -> Option<Exit> {
        self.0.as_ref()?.stop.exit()
    }

    /// Whether the line was visible at some time.
    pub fn was_shown(&self) -> bool {
        let line = self.0.as_ref().and_then(|work| work.line.get()?.as_ref());
        line.is_some_and(|line| line.screen.state().was_drawn)
    }

    /// Prints an error above the line of progress.
    pub fn error(&self, text: &str) {
        self.above_line(|| diagnostics::error(text));
    }

    /// Prints a diagnostic that is not an error above the line of progress.
    pub fn note(&self, diagnostics: Diagnostics, text: &str) {
        self.above_line(|| diagnostics.note(text));
    }

    fn above_line(&self, print: impl FnOnce()) {
        match self.0.as_ref().and_then(|work| work.line.get()?.as_ref()) {
            Some(line) => line.screen.print_above(print),
            None => print(),
        }
    }
}

/// Does long work on `entries` entries, and shows its progress. `work` gets a function that counts a step, and returns false after a
/// signal.
pub fn shown<T>(diagnostics: Diagnostics, stop: &Stop, entries: u64, work: impl FnOnce(&GoesOn<'_>) -> T) -> T {
    let progress = Progress::new(diagnostics, stop);
    progress.set_total(Total::Entries(entries));
    work(&|entries, bytes| {
        progress.add(entries, bytes);
        stop.exit().is_none()
    })
}

#[derive(Default)]
struct Counts {
    entries: AtomicU64,
    bytes: AtomicU64,
    total: Mutex<Option<Total>>,
}

/// The counts at one moment.
struct Snapshot {
    entries: u64,
    bytes: u64,
    /// The position of the bar, in the unit of the total.
    done: u64,
    total: Option<u64>,
}

impl Counts {
    fn set_total(&self, total: Total) {
        *self.total.lock().unwrap_or_else(PoisonError::into_inner) = Some(total);
    }

    fn snapshot(&self) -> Snapshot {
        let (entries, bytes) = (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let (done, total) = match *self.total.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Total::Entries(total)) => (entries, Some(total)),
            Some(Total::Bytes(total)) => (bytes, Some(total)),
            None => (bytes, None),
        };
        Snapshot { entries, bytes, done, total }
    }
}

/// The line on the terminal and the thread that draws it. Dropping it clears the line.
struct Line {
    screen: Arc<Screen>,
    thread: Option<JoinHandle<()>>,
    /// The thread ends when this is closed.
    keep_drawing: Option<PipeWriter>,
}

impl Line {
    fn start(stop: &Stop, counts: &Arc<Counts>) -> io::Result<Self> {
        clear_before_panics();
        let (ended, keep_drawing) = io::pipe()?;
        let end_fds = [OwnedFd::from(ended), stop.as_fd().try_clone_to_owned()?];
        let screen = Arc::new(Screen::default());
        let (drawn, counts) = (Arc::clone(&screen), Arc::clone(counts));
        let thread = Builder::new().spawn(move || draw_until_end(&drawn, &counts, &end_fds))?;
        Ok(Self { screen, thread: Some(thread), keep_drawing: Some(keep_drawing) })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.keep_drawing = None;
        self.thread.take().map(JoinHandle::join);
    }
}

/// The place of the line on the terminal. The cursor is at the start of an empty line above it: a line of another program, such as
/// a message of COMMAND, then stays whole, and the next line of progress is drawn below it.
#[derive(Default)]
struct Screen(Mutex<Drawn>);

#[derive(Default)]
struct Drawn {
    is_drawn: bool,
    was_drawn: bool,
}

impl Screen {
    fn state(&self) -> MutexGuard<'_, Drawn> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, text: &str) {
        let mut drawn = self.state();
        (drawn.is_drawn, drawn.was_drawn) = (true, true);
        write_to_terminal(&format!("{CLEAR}\n{text}\x1b[A\r"));
    }

    fn clear(&self) {
        let mut drawn = self.state();
        if std::mem::take(&mut drawn.is_drawn) {
            write_to_terminal(CLEAR);
        }
    }

    /// Clears the line, then calls `print`. The line comes again when it is drawn the next time.
    fn print_above(&self, print: impl FnOnce()) {
        let mut drawn = self.state();
        if std::mem::take(&mut drawn.is_drawn) {
            write_to_terminal(CLEAR);
        }
        print();
    }
}

/// Clears the line of the cursor and everything below it.
const CLEAR: &str = "\r\x1b[J";

/// The message of a panic comes from any thread: it begins on a clear line.
fn clear_before_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            write_to_terminal(CLEAR);
            print(panic);
        }));
    });
}

fn write_to_terminal(text: &str) {
    // A failure to write to stderr cannot be reported.
    io::stderr().write_all(text.as_bytes()).ok();
}

/// Draws until one of `end_fds` has an event, then clears the line.
fn draw_until_end(screen: &Screen, counts: &Counts, end_fds: &[OwnedFd; 2]) {
    // These bars are never visible. They estimate the remaining time in the unit of the total, and bytes per second.
    let (bar, byte_rate) = (ProgressBar::hidden(), ProgressBar::hidden());
    let mut wait = FIRST_DRAW_MILLIS;
    while wait_for_next_draw(wait, end_fds) {
        wait = REDRAW_MILLIS;
        let now = counts.snapshot();
        byte_rate.update(|state| state.set_pos(now.bytes));
        bar.update(|state| {
            state.set_pos(now.done);
            if let Some(total) = now.total {
                state.set_len(total);
            }
        });
        // In the background, the line would mix with the output of the foreground process, and the terminal may stop this process.
        if is_in_foreground() {
            let columns = usize::from(Term::stderr().size().1).saturating_sub(1);
            screen.draw(&format_line(&now, &bar, byte_rate.per_sec(), columns));
        }
    }
    if is_in_foreground() {
        screen.clear();
    }
}

/// Waits for `millis` milliseconds. Returns false as soon as one of `end_fds` has an event.
fn wait_for_next_draw(millis: u16, end_fds: &[OwnedFd; 2]) -> bool {
    let mut fds = end_fds.each_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
    loop {
        match poll(&mut fds, PollTimeout::from(millis)) {
            Err(Errno::EINTR) => {}
            result => return result == Ok(0),
        }
    }
}

/// Whether this process is in the foreground of the terminal. True if the terminal does not control this process.
fn is_in_foreground() -> bool {
    tcgetpgrp(io::stderr()).map_or(true, |group| group == getpgrp())
}

/// The text for a remaining time that is not known.
const NO_ETA: &str = "ETA --:--:--";

fn format_eta(left: Duration) -> String {
    // The rate of work that waits becomes very small, but not 0.
    if left > ETA_MAX { NO_ETA.into() } else { format!("ETA {}", FormattedDuration(left)) }
}

/// The parts of the line that fit into `columns`, in the order of importance, then a bar if it fits.
fn format_line(counts: &Snapshot, bar: &ProgressBar, bytes_per_second: f64, columns: usize) -> String {
    let time = match counts.total {
        Some(_) if bar.per_sec() > 0.0 => format_eta(bar.eta()),
        Some(_) => NO_ETA.into(),
        None => FormattedDuration(bar.elapsed()).to_string(),
    };
    let fraction = counts.total.map(|total| (counts.done as f64 / total.max(1) as f64).min(1.0));
    let mut parts = vec![
        format!("{} entries", HumanCount(counts.entries)),
        HumanBytes(counts.bytes).to_string(),
        format!("{}/s", HumanBytes(bytes_per_second as u64)),
        time,
    ];
    parts.extend(fraction.map(|fraction| format!("{}%", (fraction * 100.0) as u8)));
    let mut text = String::new();
    for part in parts {
        let gap = if text.is_empty() { "" } else { "  " };
        if text.len() + gap.len() + part.len() > columns {
            return text;
        }
        text.extend([gap, &part]);
    }
    let room = columns.saturating_sub(text.len() + " []".len()).min(BAR_COLUMNS_MAX);
    if let Some(fraction) = fraction.filter(|_| room >= BAR_COLUMNS_MIN) {
        let full = "=".repeat((fraction * room as f64) as usize);
        text.push_str(&format!(" [{full:<room$}]"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remaining_time_of_work_that_waits_is_not_known() {
        assert_eq!(format_eta(Duration::from_secs(100_000)), "ETA 1d 03:46:40");
        assert_eq!(format_eta(Duration::from_secs(u64::MAX)), NO_ETA);
    }
}
