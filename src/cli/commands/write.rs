//! `write`: stores the entries of change lines in their feeds.

use std::borrow::Cow;

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::Error;
use scuttleup::ingest::{Applier, Batch, StopCause, StoppedFeed};
use scuttleup::ndjson::{ChangeLine, Content, parse_change};

use crate::cli::args::{entry_bytes, entry_bytes_arg};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::input::{self, Cut, Form, Limits, Line, store_stdin};
use crate::cli::io::signals;
use crate::cli::report::hint::ONE_LINE;
use crate::cli::report::progress::Progress;
use crate::cli::report::session;

/// The maximum length of a change line without its payload, in bytes. Escapes can make a payload up to six times as long.
const LINE_EXTRA_BYTES_MAX: usize = 4096;

pub fn command() -> Command {
    Command::new("write").about("Store change lines from stdin; entries that the log already holds are compared").defer(
        |command| {
            command.arg(entry_bytes_arg()).after_help(epilogue("scuttleup-write", "ssh host scuttleup read | scuttleup write"))
        },
    )
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let stop = signals::Stop::on_signal()?;
    let log = context.open_or_create()?;
    let bytes_max = entry_bytes(args);
    let check = |line: Line, batch: &mut Batch| add_change(&line, batch, bytes_max);
    let progress = input::progress(context.diagnostics, &stop);
    let (mut applier, mut stopped) = (Applier::new(&log, false), StoppedCounts::default());
    let store = |batch: &Batch| store(&mut applier, batch, &mut stopped, &progress);
    let limits = Limits { line_bytes_max: bytes_max * 6 + LINE_EXTRA_BYTES_MAX, entry_bytes_max: bytes_max };
    store_stdin(Form { cut: Cut::Lines, is_text: true }, limits, &stop, &progress, check, store)?;
    let exit = match stopped {
        StoppedCounts { forks: 1.., .. } => Exit::Fork,
        StoppedCounts { gaps: 1.., .. } => Exit::Incomplete,
        StoppedCounts { .. } => Exit::Done,
    };
    Ok(stop.exit().unwrap_or(exit))
}

/// Adds the entry of a change line to the batch.
fn add_change(line: &Line, batch: &mut Batch, bytes_max: usize) -> Result<(), Error> {
    let text = std::str::from_utf8(&batch.entries.input()[line.range.clone()]).map_err(|err| Error::not_utf8(&err))?;
    if text.trim_matches([' ', '\t', '\r']).is_empty() {
        return Ok(());
    }
    let ChangeLine { peer, seq, content } = parse_change(text).map_err(|err| match err {
        Error::BadInput(reason) if text.trim_ascii() == "{" => Error::BadInput(format!("{reason}: {ONE_LINE}")),
        err => err,
    })?;
    if let Content::Bytes(bytes) = &content
        && bytes.len() > bytes_max
    {
        return Err(Error::EntryTooLong(bytes.len() as u64, bytes_max));
    }
    match content {
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
}

/// Stores one batch in one commit, then reports the feeds that are stopped.
fn store(applier: &mut Applier<'_>, batch: &Batch, stopped: &mut StoppedCounts, progress: &Progress<'_>) -> Result<()> {
    let applied = applier.apply(batch)?;
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
    Ok(())
}
