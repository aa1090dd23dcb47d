//! `verify`: check the whole log, and print each damage.

use std::ops::ControlFlow;

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::{Damage, Finding, Part, ndjson, verify};

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;
use crate::cli::io::signals::Stop;
use crate::cli::report::diagnostics::counted;
use crate::cli::report::progress::{Progress, Total};

pub fn command() -> Command {
    Command::new("verify")
        .about("Check the whole log; print each damage as one line of JSON")
        .defer(|command| command.after_help(epilogue("scuttleup-verify", "scuttleup verify && scuttleup read > backup")))
}

pub fn run(context: &Context, _args: &ArgMatches) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let progress = Progress::new(context.diagnostics, &stop);
    let (output, mut failed) = (Output::new(), None);
    let verified = verify(&context.dir, |finding| {
        match finding {
            Finding::Total(entries) => progress.set_total(Total::Entries(entries)),
            Finding::Checked(entries, bytes) => progress.add(entries, bytes),
            Finding::Damage(damage) => failed = output.write(&line(&damage)).err(),
        }
        if failed.is_some() || stop.exit().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    drop(progress);
    if let Some(err) = failed {
        return Err(err);
    }
    let Some(verified) = verified else { return Ok(stop.exit().unwrap_or(Exit::Error)) };
    let found = if verified.damages == 0 { "no damage".into() } else { counted(verified.damages, "damage", "damages") };
    let (entries, feeds) = (verified.entries, verified.feeds);
    context.diagnostics.note(&format!(
        "{found}: checked {} in {}",
        counted(entries, "entry", "entries"),
        counted(feeds, "feed", "feeds")
    ));
    if verified.orphans > 0 {
        let files = counted(verified.orphans, "file", "files");
        context
            .diagnostics
            .note(&format!("{files} in packs/ belong to no log: the next sealing, such as by compact, removes them"));
    }
    Ok(if verified.damages == 0 { Exit::Done } else { Exit::Error })
}

/// The line for a damage.
fn line(damage: &Damage) -> Vec<u8> {
    let mut line = Vec::new();
    let mut put = |key: &str, value: &str| {
        line.extend_from_slice(if line.is_empty() { b"{" } else { b"," });
        line.extend_from_slice(format!("\"{key}\":").as_bytes());
        ndjson::put_name(&mut line, value);
    };
    put("what", what(damage.part));
    put("where", &damage.place);
    put("why", &damage.why);
    if let Some(peer) = &damage.peer {
        put("peer", peer.as_str());
    }
    if let Some(seq) = damage.seq {
        line.extend_from_slice(format!(",\"seq\":{seq}").as_bytes());
    }
    line.extend_from_slice(b",\"advice\":");
    ndjson::put_string(&mut line, advice(damage));
    line.extend_from_slice(b"}\n");
    line
}

fn what(part: Part) -> &'static str {
    match part {
        Part::File => "file",
        Part::Page => "page",
        Part::Row => "row",
        Part::Entry => "entry",
        Part::Missing => "missing",
        Part::Pack => "pack",
        Part::Run => "run",
        Part::Chain => "chain",
        Part::Root => "root",
    }
}

fn advice(damage: &Damage) -> &'static str {
    match damage.part {
        Part::Entry if damage.seq.is_some() => "run `scuttleup repair -- COMMAND`: it fetches the entry from another log",
        Part::File => {
            "see why; then restore the log from a backup, or rebuild it from another log with `scuttleup repair -- COMMAND`"
        }
        _ => "restore the log from a backup, or rebuild it from another log with `scuttleup repair -- COMMAND`",
    }
}
