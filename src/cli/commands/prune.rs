//! `prune`: forget the oldest entries, or set how much of the log is kept.

use std::time::Duration;

use anyhow::Result;
use clap::{Arg, ArgGroup, ArgMatches, Command};
use scuttleup::{Error, Log, Printable, Pruning, Retention};

use crate::cli::args::{flag, number, size};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Usage};
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;
use crate::cli::io::signals::{self, Stop};
use crate::cli::report::diagnostics::{self, counted};
use crate::cli::report::progress;
use crate::cli::time::age;

/// The time after which a pruning that waits for a sealing process looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub fn command() -> Command {
    Command::new("prune").about("Forget the oldest entries; syncs do not bring them back").defer(|command| {
        let keep_last = number(Arg::new("keep-last").long("keep-last").value_name("N"));
        let keep_bytes = size(Arg::new("keep-bytes").long("keep-bytes").value_name("SIZE"));
        let older_than = Arg::new("older-than").long("older-than").value_name("AGE").value_parser(age).allow_hyphen_values(true);
        command
            .arg(keep_last.help("Keep the newest N entries"))
            .arg(keep_bytes.help("Keep the newest entries that take SIZE on the disk, such as 500MiB or 10G"))
            .arg(older_than.help("Keep the entries that arrived in the last AGE, such as 12h or 30d"))
            .group(ArgGroup::new("keep").args(["keep-last", "keep-bytes", "older-than"]))
            .arg(
                flag("set", "Prune now, and store this in the log: it is applied from now on")
                    .requires("keep")
                    .conflicts_with("dry-run"),
            )
            .arg(flag("show", "Print what is stored in the log").conflicts_with_all(["keep", "set", "unset", "force", "dry-run"]))
            .arg(flag("unset", "Remove what is stored in the log").conflicts_with_all(["keep", "set", "force", "dry-run"]))
            .arg(flag("force", "Prune also entries that a cursor has not read"))
            .arg(flag("dry-run", "Change nothing, say what would be pruned"))
            .after_help(epilogue("scuttleup-prune", "scuttleup prune --older-than 30d --dry-run"))
    })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    if args.get_flag("show") {
        return show(context);
    }
    if args.get_flag("dry-run") {
        return dry_run(context, args);
    }
    let stop = Stop::on_signal()?;
    if args.get_flag("unset") {
        context.open()?.set_retention(None)?;
        return Ok(stop.exit().unwrap_or(Exit::Done));
    }
    let retention = retention(args)?;
    let log = context.open()?;
    if args.get_flag("set") {
        log.set_retention(Some(retention))?;
    }
    let plan = || log.plan_pruning(retention, args.get_flag("force"));
    let mut pruning = plan()?;
    progress::shown(context.diagnostics, &stop, pruning.entries, |goes_on| {
        while !log.prune(&pruning, goes_on)? && stop.exit().is_none() {
            // Another process seals or prunes entries, or has set a cursor. This has no event.
            std::thread::sleep(LOOK_AGAIN);
            pruning = plan()?;
        }
        Ok::<(), Error>(())
    })?;
    if let Some(exit) = stop.exit() {
        return Ok(exit);
    }
    context.diagnostics.note(&report(&pruning, "pruned"));
    Ok(held(&pruning))
}

fn retention(args: &ArgMatches) -> Result<Retention> {
    let number = |name| args.get_one::<u64>(name).copied();
    let retention = number("keep-last")
        .map(Retention::Entries)
        .or(number("keep-bytes").map(Retention::Bytes))
        .or(number("older-than").map(Retention::Seconds));
    retention.ok_or_else(|| Usage("say what to keep: --keep-last, --keep-bytes or --older-than".into()).into())
}

fn show(context: &Context) -> Result<Exit> {
    signals::exit_on_signal()?;
    let line = match Log::open_read_only(&context.dir)?.retention()? {
        Some(Retention::Entries(count)) => format!("{{\"keep_last\":{count}}}\n"),
        Some(Retention::Bytes(count)) => format!("{{\"keep_bytes\":{count}}}\n"),
        Some(Retention::Seconds(count)) => format!("{{\"older_than_seconds\":{count}}}\n"),
        None => "{}\n".to_owned(),
    };
    Output::new().write(line.as_bytes())?;
    Ok(Exit::Done)
}

fn dry_run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    signals::exit_on_signal()?;
    let retention = retention(args)?;
    let pruning = Log::open_read_only(&context.dir)?.plan_pruning(retention, args.get_flag("force"))?;
    context.diagnostics.note(&report(&pruning, "would prune"));
    Ok(held(&pruning))
}

fn report(pruning: &Pruning, done: &str) -> String {
    let Pruning { entries, feeds, bytes, floor, cuts_pack, .. } = pruning;
    if *entries == 0 {
        return format!("{done} nothing, the floor is {floor}");
    }
    let (entries, feeds) = (counted(*entries, "entry", "entries"), counted(*feeds, "feed", "feeds"));
    let rest = if *cuts_pack { "; compact gives back the rest of their space" } else { "" };
    format!("{done} {entries} of {feeds}, {bytes} bytes, the floor is {floor}{rest}")
}

/// Says which cursor has stopped the pruning.
fn held(pruning: &Pruning) -> Exit {
    let Some((name, offset, wanted)) = &pruning.held_by else { return Exit::Done };
    diagnostics::error(&format!(
        "the cursor {} has read up to offset {offset} only, entries up to {wanted} are to be pruned: wait for its reader, remove the \
         cursor with `scuttleup cursor rm`, or use --force",
        Printable(name)
    ));
    Exit::Refused
}
