//! `read --cursor`: prints the changes after a cursor, and moves it behind those that were written.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Result;
use clap::{Arg, ArgMatches};
use nix::poll::{PollFd, PollFlags};
use scuttleup::{Change, Offset};

use super::{Floors, Printer};
use crate::cli::batches::{self, Batches, Limits, Moving, Next};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::io::output::{Output, WRITE_BYTES};
use crate::cli::io::signals::Relay;
use crate::cli::report::missing::note_pruned;
use crate::cli::select::Selection;

/// The cursor moves after so many bytes at the latest, if there is no pause. Each move is a commit.
const UNSTORED_BYTES_MAX: usize = 16 << 20;

/// The option that names the cursor.
pub fn arg() -> Arg {
    let help = "Start after this cursor and move it; it is created if it does not exist";
    Arg::new("cursor").long("cursor").value_name("NAME").help(help)
}

/// Prints the selected changes after the cursor `name`.
pub fn print(context: &Context, selection: Selection, name: &str, args: &ArgMatches) -> Result<Exit> {
    let signals = Relay::on_signal()?;
    let log = context.open()?;
    let consumer = log.consume(name)?;
    let output = Output::bulk();
    selection.report_doubts(&log, context.diagnostics)?;
    context.report_if_empty(&log)?;
    let follower = selection.live.then(|| batches::follow(&log)).transpose()?;
    let mut cursor = Moving::new(&log, consumer, &selection, context.diagnostics)?;
    let start = cursor.position.max(log.pruned()?);
    let Printer { format, has_times, selection, diagnostics, .. } = Printer::new(context, selection, args);
    let format = RefCell::new(format);
    let write_floors = |position: Offset| -> Result<()> {
        let (mut floors, mut lines) = (Floors::default(), Vec::new());
        let mut has_more = selection.has_floors(position, log.pruned()?);
        while has_more {
            has_more = floors.add(&log, &selection, &mut format.borrow_mut(), &mut lines)?;
            output.write_unless(&lines, &signals).1?;
            lines.clear();
        }
        Ok(())
    };
    note_pruned(diagnostics, start.0 - cursor.position.0, start);
    write_floors(start)?;
    cursor.position = start;
    let put_line = |out: &mut Vec<u8>, change: &Change<'_>, at: Option<u64>| format.borrow_mut().put(out, change, at);
    let limits = Limits { lines_max: usize::MAX, bytes_max: WRITE_BYTES, linger: Duration::ZERO };
    let mut batches = Batches::new(&log, follower, &selection, (Box::new(put_line), has_times), limits)?;
    batches.go_to(start);
    let mut unstored_bytes = 0;
    loop {
        if let Some(exit) = signals.exit() {
            return cursor.store().map(|()| exit);
        }
        let next = batches.next();
        let skipped = batches.take_skipped();
        match next {
            Ok(Next::Batch(lines)) => {
                let before = lines.first().map_or(start, |first| Offset(first.0 - 1));
                note_pruned(diagnostics, skipped, before);
                // The floors may have risen since they were printed.
                let floors = if skipped > 0 { write_floors(before) } else { Ok(()) };
                let (written, result) = match floors {
                    Ok(()) => output.write_unless(lines.text(), &signals),
                    Err(err) => (0, Err(err)),
                };
                batches.count(lines.count());
                // A line that was not written to its end does not count.
                cursor.position = lines.last_in(written).unwrap_or(cursor.position);
                unstored_bytes += written;
                if let Err(err) = result {
                    cursor.store()?;
                    return Err(err);
                }
            }
            Ok(found) => {
                cursor.position = batches.passed();
                note_pruned(diagnostics, skipped, cursor.position);
                if skipped > 0
                    && let Err(err) = write_floors(cursor.position)
                {
                    cursor.store()?;
                    return Err(err);
                }
                match found {
                    Next::End => return cursor.store().map(|()| Exit::Done),
                    Next::Busy => drop(cursor.store_if_due(false)?),
                    _ => {
                        let pause = cursor.store_if_due(std::mem::take(&mut unstored_bytes) > 0)?;
                        // Without events, poll reports only that the reader closed stdout.
                        let output_closed = PollFd::new(output.as_fd(), PollFlags::empty());
                        let events = batches.wait(&[output_closed, PollFd::new(signals.as_fd(), PollFlags::POLLIN)], pause)?;
                        if events.first() == Some(&true) {
                            return cursor.store().map(|()| Exit::Done);
                        }
                    }
                }
            }
            Err(err) => {
                cursor.store()?;
                return Err(err);
            }
        }
        if unstored_bytes >= UNSTORED_BYTES_MAX {
            cursor.store()?;
            unstored_bytes = 0;
        }
    }
}
