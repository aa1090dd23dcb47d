//! `cursor`: list, set and remove the named positions of readers.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Arg, ArgMatches, Command};
use indicatif::HumanDuration;
use scuttleup::{Batch, CursorState, Log, Offset, Printable, ndjson};

use crate::cli::args::{json_arg, number};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Usage};
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;
use crate::cli::io::signals::{self, Stop};
use crate::cli::report::diagnostics::counted;
use crate::cli::report::table::{self, Column, Mark, Marks, Table};
use crate::cli::time::since_1970;

const COLUMNS: [Column; 4] =
    [Column::text("cursor"), Column::number("offset"), Column::number("unread"), Column::number("behind")];

pub fn command() -> Command {
    Command::new("cursor").about("List, set or remove cursors: named positions of readers").defer(|command| {
        let name = || Arg::new("name").value_name("NAME").required(true).help("The name of the cursor");
        let offset = number(Arg::new("offset").value_name("OFFSET").required(true));
        command
            .subcommand_required(true)
            .subcommand(Command::new("list").about("Print all cursors").arg(json_arg()))
            .subcommand(
                Command::new("set")
                    .about("Set a cursor; it is created if it does not exist")
                    .args([name(), offset.help("The offset of the last entry that its reader has read")]),
            )
            .subcommand(Command::new("rm").about("Remove a cursor").arg(name()))
            .after_help(epilogue("scuttleup-cursor", "scuttleup cursor set backup 1200"))
    })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    match args.subcommand() {
        Some(("set", args)) => set(context, args),
        Some(("rm", args)) => remove(context, args),
        Some((_, args)) => list(context, args.get_flag("json")),
        None => Err(Usage("name what to do: list, set or rm".into()).into()),
    }
}

fn name(args: &ArgMatches) -> &str {
    args.get_one::<String>("name").expect("required")
}

fn set(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let offset = Offset(*args.get_one("offset").expect("required"));
    let log = context.open()?;
    log.set_cursor(name(args), offset)?;
    let floor = log.pruned()?;
    if offset < floor {
        context
            .diagnostics
            .note(&format!("entries up to offset {floor} were pruned: the reader of this cursor continues after it"));
    }
    Ok(stop.exit().unwrap_or(Exit::Done))
}

fn remove(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    if !context.open()?.remove_cursor(name(args))? {
        bail!("there is no cursor {}: `scuttleup cursor list` prints all cursors", Printable(name(args)));
    }
    Ok(stop.exit().unwrap_or(Exit::Done))
}

fn list(context: &Context, json: bool) -> Result<Exit> {
    signals::exit_on_signal()?;
    let cursors = Log::open_read_only(&context.dir)?.cursors()?;
    let now = since_1970();
    let seconds_since = |millis: u64| now.saturating_sub(Duration::from_millis(millis)).as_secs();
    let lag = |state: &CursorState| if state.unread == 0 { Some(0) } else { state.unread_since.map(seconds_since) };
    let mut lines = Vec::new();
    if table::is_wanted(&std::io::stdout(), json) {
        let mut table = Table::new(&COLUMNS);
        for state in &cursors {
            let lag = lag(state).map_or(String::new(), |seconds| HumanDuration(Duration::from_secs(seconds)).to_string());
            let cells = [state.name.clone(), state.cursor.offset.to_string(), state.unread.to_string(), lag];
            table.add(cells, marks(state));
        }
        lines = table.finish();
    } else {
        cursors.iter().for_each(|state| put_line(&mut lines, state, lag(state), state.cursor.moved.map(seconds_since)));
    }
    Output::bulk().write(&lines)?;
    Ok(Exit::Done)
}

/// The process that uses the cursor, and the batch that it has not finished.
fn marks(state: &CursorState) -> Marks {
    let mut marks = Marks::default();
    marks.add(state.process.is_some(), Mark::Own, format!("in use by process {}", state.process.unwrap_or_default()));
    if let Some(batch) = &state.cursor.batch {
        marks.add(true, None, format!("batch {} to {} in flight", batch.first, batch.last));
        marks.add(batch.failures > 0, Mark::Bad, format!("failed {}", counted(u64::from(batch.failures), "time", "times")));
    }
    marks
}

fn put_line(out: &mut Vec<u8>, state: &CursorState, lag_seconds: Option<u64>, moved_seconds: Option<u64>) {
    let CursorState { name, cursor, unread, process, .. } = state;
    out.extend_from_slice(b"{\"cursor\":");
    ndjson::put_name(out, name);
    out.extend_from_slice(format!(",\"offset\":{},\"unread\":{unread}", cursor.offset).as_bytes());
    let numbers = [("lag_seconds", lag_seconds), ("moved_seconds", moved_seconds), ("pid", process.map(u64::from))];
    for (name, number) in numbers.iter().filter_map(|(name, number)| number.map(|number| (name, number))) {
        out.extend_from_slice(format!(",\"{name}\":{number}").as_bytes());
    }
    if let Some(Batch { first, last, entries, attempts, failures, .. }) = &cursor.batch {
        let counts = format!("\"lines\":{entries},\"attempts\":{attempts},\"failures\":{failures}");
        out.extend_from_slice(format!(",\"batch\":{{\"first\":{first},\"last\":{last},{counts}}}").as_bytes());
    }
    out.extend_from_slice(b"}\n");
}
