//! How far a long command is: one line on the terminal, drawn by a thread of its own and gone before the command ends.
//!
//! Who works only counts. The thread begins with the third step, so that short work costs nothing, and draws after a second.

use std::io::{self, IsTerminal, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};

use console::Term;
use indicatif::{FormattedDuration, HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{getpgrp, tcgetpgrp};

use super::exit::Exit;
use super::message::{self, Messages};
use super::signals::Stop;

const FIRST_MILLIS: u16 = 1000;
const NEXT_MILLIS: u16 = 200;
/// Work of no more steps is short.
const SHORT_STEPS: u32 = 2;
const BAR_COLUMNS_MIN: usize = 10;
const BAR_COLUMNS_MAX: usize = 40;

/// All there is to do, as far as it is known.
#[derive(Clone, Copy)]
pub enum Total {
    Entries(u64),
    Bytes(u64),
}

/// What a command has done so far; shown on stderr, if that is a terminal and messages are not unwanted.
pub struct Progress<'s>(Option<Work<'s>>);

struct Work<'s> {
    stop: &'s Stop,
    counts: Arc<Counts>,
    times: AtomicU32,
    drawing: OnceLock<Option<Drawing>>,
}

#[derive(Default)]
struct Counts {
    entries: AtomicU64,
    bytes: AtomicU64,
    total: Mutex<Option<Total>>,
}

/// Whether progress may be shown at all.
pub fn is_wanted(messages: Messages) -> bool {
    !messages.is_quiet() && io::stderr().is_terminal()
}

impl<'s> Progress<'s> {
    /// It disappears for good as soon as `stop` comes.
    pub fn new(messages: Messages, stop: &'s Stop) -> Self {
        let work = || Work { stop, counts: Arc::default(), times: AtomicU32::new(0), drawing: OnceLock::new() };
        Self(is_wanted(messages).then(work))
    }

    /// Never shown.
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

    /// So much more is done, or only begun (0, 0). Cheap, but for a batch rather than for each entry.
    pub fn add(&self, entries: u64, bytes: u64) {
        let Some(work) = &self.0 else { return };
        work.counts.entries.fetch_add(entries, Ordering::Relaxed);
        work.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        if work.times.fetch_add(1, Ordering::Relaxed) == SHORT_STEPS {
            // What cannot be drawn is no reason not to work.
            work.drawing.get_or_init(|| Drawing::begin(work.stop, &work.counts).ok());
        }
    }

    /// How to end, if it is shown and a signal has come.
    pub fn stopped(&self) -> Option<Exit> {
        self.0.as_ref()?.stop.exit()
    }

    /// Says that something went wrong, on a line of its own.
    pub fn error(&self, text: &str) {
        match self.0.as_ref().and_then(|work| work.drawing.get()?.as_ref()) {
            Some(drawing) => drawing.bar.suspend(|| message::error(text)),
            None => message::error(text),
        }
    }
}

impl Counts {
    fn set_total(&self, total: Total) {
        *self.total.lock().unwrap_or_else(PoisonError::into_inner) = Some(total);
    }

    /// Entries, bytes, what of them is done of the total, and the total.
    fn now(&self) -> (u64, u64, u64, Option<u64>) {
        let (entries, bytes) = (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        match *self.total.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Total::Entries(total)) => (entries, bytes, entries, Some(total)),
            Some(Total::Bytes(total)) => (entries, bytes, bytes, Some(total)),
            None => (entries, bytes, bytes, None),
        }
    }
}

/// The thread that draws. Dropped, it clears the line first.
struct Drawing {
    bar: ProgressBar,
    thread: Option<JoinHandle<()>>,
    /// The thread ends when this is closed.
    go_on: Option<PipeWriter>,
}

impl Drawing {
    fn begin(stop: &Stop, counts: &Arc<Counts>) -> io::Result<Self> {
        // The bar counts what the total is of; this one, which is never seen, measures bytes/s.
        let bytes = ProgressBar::hidden();
        let style = ProgressStyle::with_template("{line}\r").map_err(io::Error::other)?;
        let (seen, rate) = (Arc::clone(counts), bytes.clone());
        let style = style.with_key("line", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // The cursor goes back to where the line begins. So what others print, as the terminal does with ^C, stands on
            // this line, which is cleared, and not on the next one. That takes a column.
            let columns = usize::from(Term::stderr().size().1).saturating_sub(1);
            let text = line(&seen, state, rate.per_sec(), columns);
            write!(out, "{text:<columns$}").ok();
        });
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_style(style);
        let (ended, go_on) = io::pipe()?;
        let ends = [OwnedFd::from(ended), stop.as_fd().try_clone_to_owned()?];
        let (drawn, counts) = (bar.clone(), Arc::clone(counts));
        let thread = Builder::new().spawn(move || draw(&drawn, &bytes, &counts, &ends))?;
        Ok(Self { bar, thread: Some(thread), go_on: Some(go_on) })
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        self.go_on = None;
        self.thread.take().map(JoinHandle::join);
    }
}

/// Draws until one of `ends` has an event.
fn draw(bar: &ProgressBar, bytes: &ProgressBar, counts: &Counts, ends: &[OwnedFd; 2]) {
    let (mut wait, mut shown) = (FIRST_MILLIS, false);
    // What a process in the background writes stands in the line of somebody else, and may stop it.
    let mut show = |wanted: bool| {
        if wanted != shown {
            bar.set_draw_target(if wanted { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
            shown = wanted;
        }
    };
    while has_time_passed(wait, ends) {
        wait = NEXT_MILLIS;
        let (_, bytes_done, done, total) = counts.now();
        bytes.update(|state| state.set_pos(bytes_done));
        show(in_foreground());
        bar.update(|state| {
            state.set_pos(done);
            if let Some(total) = total {
                state.set_len(total);
            }
        });
    }
    if !in_foreground() {
        show(false);
    }
    bar.finish_and_clear();
}

/// False if one of `ends` had an event before.
fn has_time_passed(millis: u16, ends: &[OwnedFd; 2]) -> bool {
    let mut fds = ends.each_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
    loop {
        match poll(&mut fds, PollTimeout::from(millis)) {
            Err(Errno::EINTR) => {}
            result => return result == Ok(0),
        }
    }
}

/// Also on a terminal that has nothing to do with our session.
fn in_foreground() -> bool {
    tcgetpgrp(io::stderr()).map_or(true, |group| group == getpgrp())
}

/// As much of what is known as there is room for, the important first.
fn line(counts: &Counts, state: &ProgressState, bytes_per_second: f64, columns: usize) -> String {
    let (entries, bytes, ..) = counts.now();
    let time = match state.len() {
        Some(_) if state.per_sec() > 0.0 => format!("ETA {}", FormattedDuration(state.eta())),
        Some(_) => "ETA --:--:--".into(),
        None => FormattedDuration(state.elapsed()).to_string(),
    };
    let mut parts = vec![
        format!("{} entries", HumanCount(entries)),
        HumanBytes(bytes).to_string(),
        format!("{}/s", HumanBytes(bytes_per_second as u64)),
        time,
    ];
    if state.len().is_some() {
        parts.push(format!("{}%", (state.fraction() * 100.0) as u8));
    }
    let mut text = String::new();
    for part in parts {
        let gap = if text.is_empty() { "" } else { "  " };
        if text.len() + gap.len() + part.len() > columns {
            return text;
        }
        text.extend([gap, &part]);
    }
    let room = columns.saturating_sub(text.len() + " []".len()).min(BAR_COLUMNS_MAX);
    if state.len().is_some() && room >= BAR_COLUMNS_MIN {
        let full = "=".repeat((state.fraction() * room as f32) as usize);
        text.push_str(&format!(" [{full:<room$}]"));
    }
    text
}
