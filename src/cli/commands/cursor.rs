//! `cursor`: list, set and remove the named positions of readers.

use std::io::IsTerminal;

use anyhow::{Result, bail};
use clap::{Arg, ArgMatches, Command};
use scuttleup::{Log, Offset, Printable, ndjson};

use crate::cli::args::{flag, number};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Usage};
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;
use crate::cli::io::signals::{self, Stop};

pub fn command() -> Command {
    Command::new("cursor").about("List, set or remove the named positions of readers: prune does not pass them").defer(
        |command| {
            let name = || Arg::new("name").value_name("NAME").required(true).help("The name of the cursor");
            let offset = number(Arg::new("offset").value_name("OFFSET").required(true));
            command
                .subcommand_required(true)
                .arg(flag("json", "Print lines of JSON, also on a terminal").global(true))
                .subcommand(Command::new("list").about("Print all cursors"))
                .subcommand(
                    Command::new("set")
                        .about("Set a cursor; it is created if it does not exist")
                        .args([name(), offset.help("The offset of the last entry that its reader has read")]),
                )
                .subcommand(Command::new("rm").about("Remove a cursor").arg(name()))
                .after_help(epilogue("scuttleup-cursor", "scuttleup cursor set backup 1200"))
        },
    )
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
    let log = Log::open_read_only(&context.dir)?;
    let (cursors, info) = (log.cursors()?, log.info()?);
    let unread_after = |offset: Offset| info.last_offset.0.saturating_sub(offset.max(info.floor).0);
    let mut lines = Vec::new();
    if std::io::stdout().is_terminal() && !json {
        let width = cursors.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max("cursor".len());
        lines.extend_from_slice(format!("{:width$}  offset  unread\n", "cursor").as_bytes());
        for (name, offset) in cursors {
            let unread = unread_after(offset);
            lines.extend_from_slice(format!("{:width$}  {offset:>6}  {unread:>6}\n", Printable(&name).to_string()).as_bytes());
        }
    } else {
        for (name, offset) in cursors {
            lines.extend_from_slice(b"{\"cursor\":");
            ndjson::put_string(&mut lines, &name);
            let unread = unread_after(offset);
            lines.extend_from_slice(format!(",\"offset\":{offset},\"unread\":{unread}}}\n").as_bytes());
        }
    }
    Output::bulk().write(&lines)?;
    Ok(Exit::Done)
}
