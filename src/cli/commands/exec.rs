//! `exec`: gives batches of change lines to a program, and moves a cursor behind those that the program has processed.
//!
//! The bounds of a batch are stored with the cursor before the program starts. The same commit moves the cursor behind the batch
//! before. So a kill at any moment repeats at most one batch, as a whole and with the same id, and skips none.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Arg, ArgMatches, Command, value_parser};
use nix::poll::{PollFd, PollFlags};
use scuttleup::ndjson::{self, ChangeWriter};
use scuttleup::{Batch, Change, Log, Offset, Printable};

use crate::cli::args::{has_times, payload, payload_args, positive_number};
use crate::cli::batches::{self, Batches, Limits, Lines, Moving, Next};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Usage};
use crate::cli::help::epilogue;
use crate::cli::io::appended::AppendedFile;
use crate::cli::io::signals::Relay;
use crate::cli::io::{output, poll};
use crate::cli::program::{self, Ended};
use crate::cli::report::diagnostics::{self, Diagnostics};
use crate::cli::report::missing::note_pruned;
use crate::cli::retry::{Pauses, trying_again};
use crate::cli::select::{self, Selection};
use crate::cli::time::{duration, now};

const LINES_MAX: u64 = 1000;
const LINGER: Duration = Duration::from_secs(1);
/// The exit code of a program that SIGPIPE has ended.
const SIGPIPE_CODE: u8 = 128 + 13;
/// The number of failures after which --dead-letter halves a batch.
const FAILURES_MAX: u64 = 5;
/// After this many lines in a row that were set aside, CMD is the cause and not the lines.
const SET_ASIDE_MAX: u32 = 10;
/// The line that brings a batch to this many bytes is its last one.
const BATCH_BYTES_MAX: usize = 16 << 20;

pub fn command() -> Command {
    Command::new("exec").about("Give batches of change lines to a program, and move a cursor").defer(|command| {
        let cursor = Arg::new("cursor").long("cursor").value_name("NAME").required(true);
        let batch = positive_number(Arg::new("batch").long("batch").value_name("N"));
        let linger = Arg::new("linger").long("linger").value_name("TIME").value_parser(duration);
        let retry = positive_number(Arg::new("retry").long("retry").value_name("N").num_args(0..=1));
        let dead_letter = Arg::new("dead-letter").long("dead-letter").value_name("FILE").value_parser(value_parser!(PathBuf));
        let words = Arg::new("command").value_name("CMD").num_args(1..).last(true);
        command
            .arg(cursor.help("The cursor; it is created if it does not exist"))
            .arg(batch.help("The maximum number of lines of a batch [default: 1000]"))
            .arg(linger.help("With --live, wait up to TIME for a full batch, such as 200ms or 2s [default: 1s]"))
            .arg(retry.help("If CMD fails, run it again after a pause that grows from 1 to 60 seconds; end after N failures"))
            .arg(dead_letter.help("After N failures (--retry N, default 5), append the line that fails to FILE and go on"))
            .args(select::options())
            .args(payload_args())
            .arg(words.value_parser(value_parser!(OsString)).help("Run this program for each batch"))
            .after_help(epilogue("scuttleup-exec", "scuttleup exec --cursor import -- sh -c 'cat >> lines'"))
    })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let Some(words) = args.get_many::<OsString>("command") else {
        return Err(Usage("no CMD: name the program to run after --, or print the lines with `read --cursor`".into()).into());
    };
    // Before signals are handled: it may read stdin.
    let selection = Selection::new(args)?;
    let signals = Relay::on_signal()?;
    let log = context.open()?;
    let consumer = log.consume(args.get_one::<String>("cursor").expect("required"))?;
    consumer.share_claim()?;
    selection.report_doubts(&log, context.diagnostics)?;
    let follower = selection.live.then(|| batches::follow(&log)).transpose()?;
    let limits = Limits {
        lines_max: usize::try_from(args.get_one("batch").copied().unwrap_or(LINES_MAX)).unwrap_or(usize::MAX),
        bytes_max: BATCH_BYTES_MAX,
        linger: args.get_one("linger").copied().unwrap_or(LINGER),
    };
    let retry = args.contains_id("retry").then(|| args.get_one::<u64>("retry").copied());
    let dead_letter = args.get_one::<PathBuf>("dead-letter");
    if dead_letter.is_some_and(|path| path.as_os_str() == "-") {
        return Err(Usage("--dead-letter needs a file: stdout belongs to CMD; ./- names a file of this name".into()).into());
    }
    let dead_letter = dead_letter.map(|path| AppendedFile::open(path)).transpose()?;
    let mut lines = ChangeWriter::new(payload(args));
    let put_line = move |out: &mut Vec<u8>, change: &Change<'_>, at| lines.write_at(out, change, at);
    let exec = Exec {
        words: words.cloned().collect(),
        selected_by: selection.filters() + &payload_text(args),
        cursor: Moving::new(&log, consumer, &selection, context.diagnostics)?,
        batches: Batches::new(&log, follower, &selection, (Box::new(put_line), has_times(args)), limits)?,
        failures_max: retry.flatten().or(dead_letter.is_some().then_some(FAILURES_MAX)),
        has_retry: retry.is_some() || dead_letter.is_some(),
        log: &log,
        dead_letter,
        set_aside: 0,
        signals,
        diagnostics: context.diagnostics,
    };
    exec.run()
}

/// The options that set the form of the lines, as text.
fn payload_text(args: &ArgMatches) -> String {
    ["at", "no-entry", "text", "raw"].iter().filter(|name| args.get_flag(name)).map(|name| format!(" --{name}")).collect()
}

struct Exec<'l, 's> {
    log: &'l Log,
    words: Vec<OsString>,
    cursor: Moving<'l>,
    batches: Batches<'l, 's>,
    /// The options that select lines, as text.
    selected_by: String,
    has_retry: bool,
    failures_max: Option<u64>,
    dead_letter: Option<AppendedFile>,
    /// The number of lines that were set aside since a batch was processed.
    set_aside: u32,
    signals: Relay,
    diagnostics: Diagnostics,
}

/// The result of a batch.
enum Processed {
    /// It counts as read. If it is a part, the rest of its batch is suspect.
    Done,
    /// Its only line was set aside.
    SetAside,
    /// One of its lines cannot be processed: its first part is next.
    Halved(Batch, Lines),
    /// The command ends.
    Exit(Exit),
}

impl Exec<'_, '_> {
    fn run(mut self) -> Result<Exit> {
        let mut next = self.begin()?;
        loop {
            let (batch, lines) = match next.take() {
                Some(next) => next,
                None => match self.next()? {
                    Ok(next) => next,
                    Err(exit) => return Ok(exit),
                },
            };
            let suspect = batch.suspect;
            match self.process(batch, lines)? {
                Processed::Done if suspect > self.cursor.position => next = self.rest(suspect)?,
                Processed::Done | Processed::SetAside => {}
                Processed::Halved(batch, lines) => next = Some((batch, lines)),
                Processed::Exit(exit) => return Ok(exit),
            }
        }
    }

    /// Returns the batch that was in flight.
    fn begin(&mut self) -> Result<Option<(Batch, Lines)>> {
        let position = self.cursor.position;
        self.batches.go_to(position);
        let Some(batch) = self.cursor.consumer.cursor().and_then(|cursor| cursor.batch.clone()) else { return Ok(None) };
        if batch.selection != self.selected_by {
            let options =
                |text: &str| if text.is_empty() { "without options that select lines".into() } else { format!("with{text}") };
            return Err(Usage(format!(
                "the batch {} of the cursor {} is in flight, and it was selected {}, not {}: run it with the same options, or give the \
                 batch up with `scuttleup cursor set`",
                id(&batch),
                Printable(self.cursor.consumer.name()),
                options(&batch.selection),
                options(&self.selected_by),
            ))
            .into());
        }
        let lines = self.batches.range(Offset(batch.first.0 - 1), batch.last)?;
        if lines.count() as u64 == u64::from(batch.entries) {
            return Ok(Some((batch, lines)));
        }
        // Entries of the batch were pruned. The rest is a new batch.
        self.batches.take_skipped();
        self.batches.go_to(position);
        Ok(None)
    }

    /// Waits for the next batch. Returns the exit if there is none.
    fn next(&mut self) -> Result<Result<(Batch, Lines), Exit>> {
        loop {
            if let Some(exit) = self.signals.exit() {
                return self.cursor.store().map(|()| Err(exit));
            }
            let found = self.batches.next();
            let before_batch = match &found {
                Ok(Next::Batch(lines)) => lines.first().map(|first| Offset(first.0 - 1)),
                _ => None,
            };
            self.cursor.position = before_batch.unwrap_or_else(|| self.batches.passed());
            let skipped = self.batches.take_skipped();
            note_pruned(self.diagnostics, skipped, self.cursor.position);
            // The batch in flight counts as read.
            let was_given = self.cursor.consumer.cursor().is_some_and(|cursor| cursor.batch.is_some());
            match found {
                Ok(Next::Batch(lines)) => return Ok(Ok((self.batch(&lines, Offset::ZERO)?, lines))),
                Ok(Next::End) => return self.cursor.store().map(|()| Err(Exit::Done)),
                Ok(Next::Busy) => drop(self.cursor.store_if_due(was_given)?),
                Ok(Next::Idle) => {
                    let pause = self.cursor.store_if_due(was_given)?;
                    self.batches.wait(&[PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], pause)?;
                }
                Err(err) => {
                    self.cursor.store()?;
                    return Err(err);
                }
            }
        }
    }

    /// A new batch of `lines`. With `suspect`, it is a part of the batch that ends there.
    fn batch(&self, lines: &Lines, suspect: Offset) -> Result<Batch> {
        let (first, last) = (lines.first().unwrap_or_default(), lines.last().unwrap_or_default());
        let entries = u32::try_from(lines.count()).unwrap_or(u32::MAX);
        let (log_id, selection) = (self.log.local_id()?, self.selected_by.clone());
        Ok(Batch { log_id, first, last, entries, attempts: 0, failures: 0, suspect, selection })
    }

    /// Gives a batch to the program until it counts as read, or until this does not help.
    fn process(&mut self, mut batch: Batch, lines: Lines) -> Result<Processed> {
        let (mut pauses, mut failures) = (Pauses::default(), 0);
        let id = id(&batch);
        loop {
            batch.attempts += 1;
            // Durable before the program starts. This also moves the cursor behind the batch before.
            self.cursor.consumer.store(self.cursor.position, Some(batch.clone()))?;
            let variables = [
                ("SCUTTLEUP_BATCH", id.clone()),
                ("SCUTTLEUP_ATTEMPT", batch.attempts.to_string()),
                ("SCUTTLEUP_CURSOR", self.cursor.consumer.name().to_owned()),
            ];
            if let Some(exit) = self.signals.exit() {
                return Ok(Processed::Exit(exit));
            }
            let start = Instant::now();
            let (code, how) = match program::run(&self.words, lines.text(), &variables, &mut self.signals)? {
                Ended::Done => {
                    self.cursor.position = batch.last;
                    self.batches.count(lines.count());
                    self.set_aside = 0;
                    return Ok(Processed::Done);
                }
                Ended::Stopped(exit) => return Ok(Processed::Exit(exit)),
                Ended::Failed(code, how) => (code, how),
            };
            let lasted = start.elapsed();
            batch.failures += 1;
            failures += 1;
            if code == SIGPIPE_CODE && output::is_closed() {
                self.cursor.consumer.store(self.cursor.position, Some(batch))?;
                return Ok(Processed::Exit(Exit::Done));
            }
            let failed = format!("{} ended with {how} on the batch {id}, attempt {}", self.words[0].display(), batch.attempts);
            if let (Some(file), Some(max)) = (&mut self.dead_letter, self.failures_max) {
                let is_part = batch.suspect > Offset::ZERO && lines.count() > 1;
                if is_part || u64::from(batch.failures) >= max {
                    if lines.count() > 1 {
                        self.diagnostics.note(&format!("{failed}: trying its first half"));
                        return self.halve(&batch, lines);
                    }
                    if self.set_aside == SET_ASIDE_MAX {
                        self.cursor.consumer.store(self.cursor.position, Some(batch))?;
                        diagnostics::error(&format!(
                            "{failed}, and so did the {SET_ASIDE_MAX} lines before: the program is the cause, not the lines: the cursor \
                             stays before this one"
                        ));
                        return Ok(Processed::Exit(Exit::Program(code)));
                    }
                    self.set_aside += 1;
                    file.write(&dead_line(lines.text(), &id, code, batch.attempts))?;
                    file.sync()?;
                    diagnostics::error(&format!("{failed}: the line is in {} now, going on behind it", file.name()));
                    self.cursor.position = batch.last;
                    self.batches.count(1);
                    self.batches.go_to(self.cursor.position);
                    return Ok(Processed::SetAside);
                }
            } else if !self.has_retry || self.failures_max.is_some_and(|max| failures >= max) {
                self.cursor.consumer.store(self.cursor.position, Some(batch))?;
                diagnostics::error(&format!("{failed}: the cursor stays before it, the next exec gives it again"));
                return Ok(Processed::Exit(Exit::Program(code)));
            }
            let pause = pauses.next(lasted);
            self.diagnostics.note(&format!("{failed}: {}", trying_again(pause)));
            poll::pause(&self.signals, pause)?;
            if let Some(exit) = self.signals.exit() {
                self.cursor.consumer.store(self.cursor.position, Some(batch))?;
                return Ok(Processed::Exit(exit));
            }
        }
    }

    /// The first half of a batch. It is a batch of its own.
    fn halve(&self, batch: &Batch, mut lines: Lines) -> Result<Processed> {
        let suspect = batch.last.max(batch.suspect);
        lines.truncate(lines.count().div_ceil(2));
        Ok(Processed::Halved(self.batch(&lines, suspect)?, lines))
    }

    /// The next part of a batch that ends at `suspect`, of which the first part counts as read.
    fn rest(&mut self, suspect: Offset) -> Result<Option<(Batch, Lines)>> {
        let mut lines = self.batches.range(self.cursor.position, suspect)?;
        if lines.is_empty() {
            // It was pruned.
            self.batches.go_to(self.cursor.position);
            return Ok(None);
        }
        lines.truncate(lines.count().div_ceil(2));
        Ok(Some((self.batch(&lines, suspect)?, lines)))
    }
}

/// The id of a batch.
fn id(batch: &Batch) -> String {
    format!("{}:{}-{}", batch.log_id, batch.first, batch.last)
}

/// The line for the file of --dead-letter: the change line with the error.
fn dead_line(line: &[u8], batch: &str, code: u8, attempt: u32) -> Vec<u8> {
    let mut out = line.strip_suffix(b"}\n").unwrap_or(line).to_vec();
    out.extend_from_slice(b",\"error\":{\"batch\":");
    ndjson::put_name(&mut out, batch);
    let now = now();
    out.extend_from_slice(format!(",\"exit\":{code},\"attempt\":{attempt},\"time\":\"{now}\"}}}}\n").as_bytes());
    out
}
