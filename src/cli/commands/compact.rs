//! `compact`: seal old entries into packs, rewrite packs that contain deleted entries, and make data.mdb smaller.

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::{Shrunk, shrink};

use super::repair::remove_leftovers;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::signals::Stop;
use crate::cli::report::diagnostics::counted;
use crate::cli::report::progress;

pub fn command() -> Command {
    Command::new("compact")
        .about("Seal old entries into packs, and give free space back")
        .defer(|command| command.after_help(epilogue("scuttleup-compact", "scuttleup compact")))
}

pub fn run(context: &Context, _args: &ArgMatches) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let log = context.open()?;
    let sealed = progress::shown(context.diagnostics, &stop, log.unsealed_entries()?, |goes_on| log.seal(0, goes_on))?;
    let rewritten = match stop.exit() {
        Some(exit) => return Ok(exit),
        None => progress::shown(context.diagnostics, &stop, log.rewritable_entries()?, |goes_on| log.rewrite_packs(goes_on))?,
    };
    let deletions = log.deletions()?;
    drop(log);
    let is_repaired = !remove_leftovers(&context.dir)?;
    if let Some(exit) = stop.exit() {
        return Ok(exit);
    }
    let (Some(sealed), Some(rewritten)) = (sealed, rewritten) else {
        context.diagnostics.note("another process seals entries of this log: run compact again when it has ended");
        return Ok(Exit::Incomplete);
    };
    context.diagnostics.note(&format!(
        "sealed {}, wrote {} again",
        counted(sealed, "entry", "entries"),
        counted(rewritten, "pack", "packs")
    ));
    if is_repaired && deletions > 0 {
        let folder = "the folder repair may hold the bytes of deleted entries";
        context.diagnostics.note(&format!("another process repairs this log, and {folder}: run compact again when it has ended"));
        return Ok(Exit::Incomplete);
    }
    // The old bytes of a deleted entry may be anywhere in data.mdb.
    match shrink(&context.dir, deletions > 0)? {
        Shrunk::Done(before, after) => context.diagnostics.note(&format!("data.mdb: {before} bytes before, {after} bytes now")),
        Shrunk::NotNeeded => {}
        Shrunk::InUse(free) => {
            let kept = if deletions > 0 { ", which may hold the bytes of deleted entries" } else { "" };
            context.diagnostics.note(&format!(
                "{free} bytes of data.mdb are free{kept}: new entries use them; \
                 to give them back, run compact while no other process has the log open"
            ));
            if deletions > 0 {
                return Ok(Exit::Incomplete);
            }
        }
    }
    Ok(Exit::Done)
}
