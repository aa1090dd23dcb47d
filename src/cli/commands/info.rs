//! `info`: print the facts about the whole log.

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::{Info, Log, Offset, ndjson};

use crate::cli::args::json_arg;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;
use crate::cli::io::signals;
use crate::cli::report::diagnostics::counted;
use crate::cli::report::table::{self, Column, Mark, Marks, Table};

const COLUMNS: [Column; 1] = [Column::text("")];

pub fn command() -> Command {
    Command::new("info")
        .about("Print the totals of the log: entries, bytes, root, forks")
        .defer(|command| command.arg(json_arg()).after_help(epilogue("scuttleup-info", "scuttleup info")))
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    signals::exit_on_signal()?;
    let info = Log::open_read_only(&context.dir)?.info()?;
    let is_table = table::is_wanted(&std::io::stdout(), args.get_flag("json"));
    Output::new().write(&if is_table { rows(&info) } else { line(&info) })?;
    Ok(Exit::Done)
}

/// The facts for people.
fn rows(info: &Info) -> Vec<u8> {
    let mut table = Table::new(&COLUMNS);
    let mut add = |name: &str, fact: String, mark: Option<(Mark, String)>| {
        let mut marks = Marks::default();
        marks.add(true, None, fact);
        mark.into_iter().for_each(|(mark, text)| marks.add(true, mark, text));
        table.add([name.to_owned()], marks);
    };
    let forks = (info.forks > 0).then(|| (Mark::Bad, counted(info.forks, "fork", "forks")));
    let floor = (info.floor > Offset::ZERO).then(|| (Mark::Pruned, format!("pruned up to offset {}", info.floor)));
    add("id", info.id.to_string(), None);
    add("feeds", info.feeds.to_string(), forks);
    add("entries", info.entries.to_string(), floor);
    add("last offset", info.last_offset.to_string(), None);
    add("size on disk", table::size(info.bytes_on_disk), None);
    add("  data.mdb", table::size(info.data_bytes), None);
    if info.packs > 0 {
        let (packs, entries) = (counted(info.packs, "pack", "packs"), counted(info.packed_entries, "entry", "entries"));
        add("  packs", format!("{} in {packs} of {entries}", table::size(info.packs_bytes)), None);
    }
    add("root", format!("{:032x}", info.root), None);
    table.finish()
}

/// The facts as one line of JSON.
fn line(info: &Info) -> Vec<u8> {
    let mut line = b"{\"id\":".to_vec();
    ndjson::put_name(&mut line, info.id.as_str());
    let rest = format!(
        ",\"feeds\":{},\"entries\":{},\"bytes_on_disk\":{},\"last_offset\":{},\"root\":\"{:032x}\",\"forks\":{},\
         \"data_bytes\":{},\"packs_bytes\":{},\"packs\":{},\"packed_entries\":{},\"floor\":{}}}\n",
        info.feeds,
        info.entries,
        info.bytes_on_disk,
        info.last_offset,
        info.root,
        info.forks,
        info.data_bytes,
        info.packs_bytes,
        info.packs,
        info.packed_entries,
        info.floor
    );
    line.extend_from_slice(rest.as_bytes());
    line
}
