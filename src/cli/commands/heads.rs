//! `heads`: print the head of each feed, or clear the fork mark of one feed.

use anyhow::{Result, bail};
use clap::{Arg, ArgMatches, Command};
use scuttleup::{Log, PeerId, ndjson};

use crate::cli::args::{invalid_peer_id, json_arg};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;
use crate::cli::io::signals::{self, Stop};
use crate::cli::report::table::{self, Column, Mark, Marks, Table};

/// The number of feeds that are read in one snapshot: about 256 KiB of lines.
const FEEDS_AT_ONCE: usize = 4096;

const COLUMNS: [Column; 2] = [Column::text("peer"), Column::number("seq")];

pub fn command() -> Command {
    Command::new("heads").about("Print the highest seq of each feed").defer(|command| {
        let example = "scuttleup heads | ssh host scuttleup read --since-heads - | scuttleup write";
        let clear_fork = Arg::new("clear-fork")
            .long("clear-fork")
            .value_name("PEER")
            .help("Print nothing: remove the fork mark of this feed; the next fork that is found marks it again");
        command.arg(json_arg()).arg(clear_fork).after_help(epilogue("scuttleup-heads", example))
    })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    if let Some(peer) = args.get_one::<String>("clear-fork") {
        return clear_fork(context, peer);
    }
    signals::exit_on_signal()?;
    let log = Log::open_read_only(&context.dir)?;
    context.report_if_empty(&log)?;
    let output = Output::bulk();
    let mut table = table::is_wanted(&std::io::stdout(), args.get_flag("json")).then(|| Table::new(&COLUMNS));
    let (mut lines, mut last) = (Vec::new(), None::<String>);
    loop {
        let mut after = String::new();
        let given = log.heads_after(last.as_deref(), FEEDS_AT_ONCE, |peer, seq, is_local, is_forked, floor| {
            match &mut table {
                Some(table) => table.add([peer.to_owned(), seq.to_string()], marks(is_local, is_forked, floor)),
                None => ndjson::put_head(&mut lines, peer, seq, is_local, is_forked, floor),
            }
            after.clear();
            after.push_str(peer);
        })?;
        table.iter_mut().for_each(|table| lines.append(&mut table.take()));
        // A slow reader of stdout must not keep a snapshot open.
        output.write(&lines)?;
        lines.clear();
        if given < FEEDS_AT_ONCE {
            output.write(&table.map_or_else(Vec::new, Table::finish))?;
            log.reader().check_heads()?;
            return Ok(Exit::Done);
        }
        last = Some(after);
    }
}

/// The marks of a feed in a table.
fn marks(is_local: bool, is_forked: bool, floor: u32) -> Marks {
    let mut marks = Marks::default();
    marks.add(is_local, Mark::Own, "own");
    marks.add(is_forked, Mark::Bad, "fork");
    marks.add(floor > 0, Mark::Pruned, format!("pruned up to {floor}"));
    marks
}

/// Clears the fork mark of a feed.
fn clear_fork(context: &Context, peer: &str) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let peer = PeerId::new(peer).map_err(|err| invalid_peer_id(&err))?;
    let log = context.open()?;
    let mut writer = log.writer()?;
    if writer.clear_fork(&peer)?.is_none() {
        bail!("the feed of {peer} has no fork mark: `scuttleup heads` prints the marked feeds with \"fork\":true");
    }
    writer.commit()?;
    Ok(stop.exit().unwrap_or(Exit::Done))
}
