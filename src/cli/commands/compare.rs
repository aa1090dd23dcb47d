//! `compare`: say whether two logs are equal, and which feeds differ.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::{Common, Comparison, FeedDifference, Log, Mode, Options, Outcome, Wire, compare, ndjson};

use crate::cli::args::{command_arg, command_words, json_arg};
use crate::cli::child;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;
use crate::cli::io::signals::Stop;
use crate::cli::report::diagnostics::{self, counted};
use crate::cli::report::errors;
use crate::cli::report::session;
use crate::cli::report::table::{self, Column, Mark, Marks, Table};
use crate::cli::report::transfer::Transfer;

/// The maximum number of bytes of lines that are kept until the session has ended, so that a reader of stdout that pauses does not
/// stop the session. More lines are printed at once.
const LINES_BYTES_MAX: usize = 8 << 20;

const COLUMNS: [Column; 3] = [Column::text("peer"), Column::number("here"), Column::number("remote")];

pub fn command() -> Command {
    Command::new("compare").about("Say whether two logs are equal, and which feeds differ").defer(|command| {
        command
            .arg(json_arg())
            .arg(command_arg("Run this program, which replicates the other log over its stdin and stdout"))
            .after_help(epilogue("scuttleup-compare", "scuttleup compare -- ssh host scuttleup replicate --no-create"))
    })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let command = command_words(args)?;
    let json = args.get_flag("json");
    if let Some(words) = &command {
        return compare_logs(context, json, Some(words), &mut String::new());
    }
    let mut label = child::host_name();
    compare_logs(context, json, None, &mut label).or_else(|err| Ok(errors::report(&label, &err)))
}

/// Compares the log with that of COMMAND. Without COMMAND, the report goes to stderr, and the `label` of messages becomes
/// the id of the log.
fn compare_logs(context: &Context, json: bool, command: Option<&[OsString]>, label: &mut String) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    stop.debounce();
    let log = Log::open_read_only(&context.dir)?;
    if command.is_none() {
        *label = log.local_id()?.to_string();
    }
    let label = label.as_str();
    let is_table = if command.is_some() { table::is_wanted(&io::stdout(), json) } else { table::is_wanted(&io::stderr(), json) };
    let place = if command.is_some() { Place::Stdout(Output::bulk()) } else { Place::Stderr };
    let table = is_table.then(|| Table::new(&COLUMNS));
    let lines = Mutex::new(Lines { place, is_table, table, text: Vec::new(), failed: None });
    let lock = || lines.lock().unwrap_or_else(PoisonError::into_inner);
    let each = |feed: FeedDifference| lock().add(&feed);
    let transfer = Transfer::new(context.diagnostics, &stop, label);
    let options = Options { await_opening: io::stderr().is_terminal(), stop: Some(stop.as_fd()), ..Options::default() };
    let mut comparison = None;
    let (outcome, failed) = match command {
        Some(words) => child::over_command(words, &stop, |input, output| {
            let (outcome, result) = compare(&log, input, output, options, &|notice| transfer.notice(notice), &each)?;
            comparison = result;
            Ok(outcome)
        })?,
        None => {
            let session = |input, output| compare(&log, input, output, options, &|notice| transfer.notice(notice), &each);
            let (outcome, result) = child::over_stdio(session)?;
            comparison = result;
            (outcome, None)
        }
    };
    drop(transfer);
    let Some(comparison) = comparison else {
        if let Some(exit) = stop.exit() {
            return Ok(exit);
        }
        let failed = failed.as_ref().map(|failed| failed.text.as_str());
        diagnostics::labelled_error(label, &session::not_compared(&outcome, failed));
        return Ok(Exit::Error);
    };
    lock().finish(&comparison, &outcome)?;
    if comparison.heads_only {
        let same = "equal heads are not equal entries: the original wire shows only heads";
        context.diagnostics.labelled_note(label, &format!("only the heads were compared, {same}"));
    } else if comparison.is_partial {
        let part = "the remote shows only the feeds that its --peer names: the others were not compared";
        context.diagnostics.labelled_note(label, part);
    } else if comparison.is_silent && !comparison.equal {
        let remote = outcome.peer.as_ref().map_or("the remote", |peer| peer.as_str());
        let why = format!("the logs differ, and {remote} reveals nothing else, because it only receives (--mode pull)");
        diagnostics::labelled_error(label, &why);
    }
    Ok(if comparison.equal { Exit::Done } else { Exit::Incomplete })
}

/// The place of the report.
enum Place {
    Stdout(Output),
    Stderr,
}

struct Lines {
    place: Place,
    is_table: bool,
    /// `None`: lines of JSON, or the table is complete.
    table: Option<Table>,
    text: Vec<u8>,
    failed: Option<anyhow::Error>,
}

impl Lines {
    fn add(&mut self, feed: &FeedDifference) {
        match &mut self.table {
            Some(table) => {
                table.add([feed.peer.to_string(), feed.local.to_string(), feed.remote.to_string()], marks(feed));
                self.text.append(&mut table.take());
            }
            None => put_feed(&mut self.text, feed),
        }
        if self.text.len() >= LINES_BYTES_MAX {
            self.write();
        }
    }

    fn write(&mut self) {
        let text = std::mem::take(&mut self.text);
        match &self.place {
            Place::Stdout(output) if self.failed.is_none() => self.failed = output.write(&text).err(),
            Place::Stdout(_) => {}
            Place::Stderr if self.is_table => diagnostics::print_verbatim(&text),
            Place::Stderr => String::from_utf8_lossy(&text).lines().for_each(diagnostics::print_json),
        }
    }

    /// Prints the rest, and the result.
    fn finish(&mut self, comparison: &Comparison, outcome: &Outcome) -> Result<()> {
        match self.table.take() {
            Some(table) => {
                self.text.append(&mut table.finish());
                self.text.extend_from_slice(summary(comparison, outcome).as_bytes());
            }
            None => put_result(&mut self.text, comparison, outcome),
        }
        self.write();
        self.failed.take().map_or(Ok(()), Err)
    }
}

/// The marks in the row of a feed.
fn marks(feed: &FeedDifference) -> Marks {
    let mut marks = Marks::default();
    let (lower, entries) = (feed.lower(), |count| counted(u64::from(count), "entry", "entries"));
    match feed.common {
        Common::Forked => marks.add(true, Mark::Bad, format!("fork: differs at or below {lower}")),
        Common::Equal | Common::Unknown => {
            let (ahead, behind) = (feed.local.saturating_sub(feed.remote), feed.remote.saturating_sub(feed.local));
            marks.add(ahead > 0, None, format!("{} more here", entries(ahead)));
            marks.add(behind > 0, None, format!("{} more in the remote log", entries(behind)));
            marks.add(feed.common == Common::Unknown, Mark::Pruned, format!("not comparable up to {lower}"));
        }
    }
    marks.add(feed.local_floor > 0, Mark::Pruned, format!("pruned here up to {}", feed.local_floor));
    marks.add(feed.remote_floor > 0, Mark::Pruned, format!("pruned in the remote log up to {}", feed.remote_floor));
    marks
}

/// The last line for people.
fn summary(comparison: &Comparison, outcome: &Outcome) -> String {
    let remote = outcome.peer.as_ref().map_or_else(String::new, ToString::to_string);
    let &Comparison { feeds, different, forks, ahead, behind, .. } = comparison;
    let what = if comparison.heads_only { "the heads of " } else { "" };
    if comparison.equal {
        return format!("{what}this log and {remote} are equal: {}\n", counted(feeds, "feed", "feeds"));
    }
    if comparison.is_silent {
        return format!("this log and {remote} differ\n");
    }
    let entries = |count| counted(count, "entry", "entries");
    let mut text = format!(
        "{what}this log and {remote} differ in {different} of {}: {} more here, {} more in the remote log",
        counted(feeds, "feed", "feeds"),
        entries(ahead),
        entries(behind)
    );
    if forks > 0 {
        text.push_str(&format!(", {}", counted(forks, "fork", "forks")));
    }
    text + "\n"
}

/// Adds the line of a feed.
fn put_feed(line: &mut Vec<u8>, feed: &FeedDifference) {
    line.extend_from_slice(b"{\"peer\":");
    ndjson::put_name(line, feed.peer.as_str());
    let mut rest = format!(",\"local\":{},\"remote\":{}", feed.local, feed.remote);
    match feed.common {
        Common::Forked => rest.push_str(",\"fork\":true"),
        Common::Unknown => rest.push_str(",\"unknown\":true"),
        Common::Equal => {}
    }
    for (name, floor) in [("local_floor", feed.local_floor), ("remote_floor", feed.remote_floor)] {
        if floor > 0 {
            rest.push_str(&format!(",\"{name}\":{floor}"));
        }
    }
    line.extend_from_slice(rest.as_bytes());
    line.extend_from_slice(b"}\n");
}

/// Adds the last line.
fn put_result(line: &mut Vec<u8>, comparison: &Comparison, outcome: &Outcome) {
    let &Comparison { feeds, different, forks, unknown, ahead, behind, equal, .. } = comparison;
    let knows_feeds = equal || !comparison.is_silent;
    let counts = [feeds, different, forks, unknown, ahead, behind];
    let [feeds, different, forks, unknown, ahead, behind] =
        counts.map(|count| if knows_feeds { count.to_string() } else { "null".into() });
    let compared = match () {
        () if comparison.heads_only => "heads",
        () if knows_feeds => "entries",
        () => "root",
    };
    let partial = if comparison.is_partial { ",\"partial\":true" } else { "" };
    let wire = outcome.wire.map_or("null", |wire: Wire| wire.name());
    let mode = outcome.remote_mode.map_or("null", |mode: Mode| mode.name());
    line.extend_from_slice(
        format!(
            "{{\"equal\":{equal},\"feeds\":{feeds},\"different\":{different},\"forks\":{forks},\"unknown\":{unknown},\
             \"local_ahead\":{ahead},\"remote_ahead\":{behind},\"compared\":\"{compared}\"{partial},\"wire\":\"{wire}\",\
             \"remote_mode\":\"{mode}\",\"remote\":"
        )
        .as_bytes(),
    );
    match &outcome.peer {
        Some(peer) => ndjson::put_name(line, peer.as_str()),
        None => line.extend_from_slice(b"null"),
    }
    line.extend_from_slice(b"}\n");
}
