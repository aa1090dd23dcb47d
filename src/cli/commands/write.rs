//! `write`: stores the entries of change lines in their feeds.

use std::borrow::Cow;

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::ingest::{Applied, Batch, StopCause, StoppedFeed};
use scuttleup::ndjson::{ChangeLine, Content, parse_change};
use scuttleup::{Error, PeerId, Seq};

use crate::cli::args::{entry_bytes, entry_bytes_arg, input_json_arg};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::input::{self, Cut, Destination, Form, Input, Line, Lines, store_input};
use crate::cli::io::signals::Stop;
use crate::cli::report::hint::ONE_LINE;
use crate::cli::report::input::{Report, Tally};
use crate::cli::report::progress::Progress;
use crate::cli::report::session;

/// The maximum length of a change line without its payload, in bytes. Escapes can make a payload up to six times as long.
const LINE_EXTRA_BYTES_MAX: usize = 4096;

pub fn command() -> Command {
    Command::new("write").about("Store change lines from stdin, and check those that are known").defer(|command| {
        command
            .arg(input_json_arg())
            .arg(entry_bytes_arg())
            .after_help(epilogue("scuttleup-write", "ssh host scuttleup read | scuttleup write"))
    })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let (json, diagnostics) = (args.get_flag("json"), context.diagnostics);
    let report = Report { json, diagnostics, entries: ["new entry", "new entries"], bad_lines: None, dedupe: None };
    let mut tally = Tally::new(Cut::Lines.unit());
    let outcome = write(context, entry_bytes(args), &stop, &mut tally);
    Ok(report.conclude(&tally, outcome, &stop))
}

fn write(context: &Context, bytes_max: usize, stop: &Stop, tally: &mut Tally) -> Result<Exit> {
    let log = context.open_or_create()?;
    let check = |line: Line, batch: &mut Batch| add_change(&line, batch, bytes_max);
    let progress = input::progress(context.diagnostics, stop);
    let mut stopped = StoppedCounts::default();
    let stored = |_: &Batch, _, applied| {
        report_stops(applied, &mut stopped, &progress);
        Ok(())
    };
    let form = Form {
        cut: Cut::Lines,
        is_text: true,
        line_bytes_max: bytes_max * 6 + LINE_EXTRA_BYTES_MAX,
        entry_bytes_max: bytes_max,
        advice,
    };
    store_input(
        Lines { input: Input::Stdin, form },
        Destination { log: &log, bad_lines: None, keys: None },
        stop,
        &progress,
        tally,
        check,
        stored,
    )?;
    if let Some((peer, seq)) = &stopped.first_floor {
        let others =
            if stopped.floors > 1 { format!(", and {} other feeds were too", stopped.floors - 1) } else { String::new() };
        context.diagnostics.note(&format!("the entries of {peer} up to {seq} were pruned in the log that was read{others}"));
    }
    Ok(match stopped {
        StoppedCounts { forks: 1.., .. } => Exit::Fork,
        StoppedCounts { gaps: 1.., .. } => Exit::Incomplete,
        StoppedCounts { .. } => Exit::Done,
    })
}

fn advice(err: &Error, line: &[u8], _: Cut) -> Option<&'static str> {
    (matches!(err, Error::BadInput(_)) && line.trim_ascii() == b"{").then_some(ONE_LINE)
}

/// Adds the entry of a change line to the batch.
fn add_change(line: &Line, batch: &mut Batch, bytes_max: usize) -> Result<(), Error> {
    let text = std::str::from_utf8(&batch.entries.input()[line.range.clone()]).map_err(|err| Error::not_utf8(&err))?;
    if text.trim_matches([' ', '\t', '\r']).is_empty() {
        return Ok(());
    }
    let ChangeLine { peer, seq, content } = parse_change(text)?;
    if let Content::Bytes(bytes) = &content
        && bytes.len() > bytes_max
    {
        return Err(Error::EntryTooLong(bytes.len() as u64, bytes_max));
    }
    match content {
        Content::Floor(chain) => {
            batch.push_floor(&peer, seq, chain, line.number);
            return Ok(());
        }
        Content::Deleted(tombstone) => batch.entries.push_deleted(tombstone),
        Content::Bytes(Cow::Owned(bytes)) => batch.entries.push_owned(bytes),
        Content::Bytes(Cow::Borrowed(part)) => {
            // The payload is a part of the line: the entry needs no copy.
            let start = line.range.start + (part.as_ptr() as usize - text.as_ptr() as usize);
            let range = start..start + part.len();
            batch.entries.push_input(range);
        }
    }
    batch.set_target(&peer, seq, line.number);
    Ok(())
}

/// The number of stopped feeds, by cause.
#[derive(Default)]
struct StoppedCounts {
    forks: u64,
    gaps: u64,
    /// Feeds that begin anew at a floor, and the first of them.
    floors: u64,
    first_floor: Option<(PeerId, Seq)>,
}

/// Reports the feeds that are stopped.
fn report_stops(applied: Applied, stopped: &mut StoppedCounts, progress: &Progress<'_>) {
    stopped.floors += applied.floors.len() as u64;
    if let Some((peer, _, seq)) = applied.floors.first() {
        stopped.first_floor.get_or_insert_with(|| (peer.clone(), *seq));
    }
    // The reports come after the commit: other writers must not wait for a blocked stderr.
    for StoppedFeed { peer, seq, cause, line } in applied.stops {
        progress.error(&match cause {
            StopCause::Gap(head) => {
                stopped.gaps += 1;
                format!(
                    "line {line}: gap: entry {seq} of {peer} does not follow entry {head} of this log, \
                     this feed is stopped: write the entries between them first"
                )
            }
            StopCause::FloorOfLocalFeed(head) => {
                stopped.gaps += 1;
                format!(
                    "line {line}: the entries of {peer} up to {seq} were pruned, but this is the local feed, and this log has \
                     entries only up to {head}, this feed is stopped: write the entries between them first"
                )
            }
            StopCause::FloorDiffers(_) => {
                stopped.forks += 1;
                format!(
                    "line {line}: fork: entry {seq} of {peer}, or one before it, has different bytes in this log, \
                     this feed is stopped: this log keeps its version"
                )
            }
            StopCause::Fork | StopCause::ChainMismatch(_) => {
                stopped.forks += 1;
                format!(
                    "line {line}: fork: entry {seq} of {peer} has different bytes in this log, \
                     this feed is stopped: this log keeps its version"
                )
            }
        });
    }
    if let Some(id) = applied.new_id {
        progress.error(&session::new_id(&id));
    }
}
