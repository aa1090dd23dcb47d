//! `replicate`: replicates over stdin and stdout, or with COMMAND.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use scuttleup::ingest::Quota;
use scuttleup::{Mode, Options, PeerGlobs, Step, Wire};

use crate::cli::args::{command_arg, command_words, entry_bytes, entry_bytes_arg, flag, number, size};
use crate::cli::child;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Usage};
use crate::cli::help::epilogue;
use crate::cli::io::poll;
use crate::cli::io::signals::Stop;
use crate::cli::report::diagnostics::{self, Diagnostics};
use crate::cli::report::errors;
use crate::cli::report::session::{self, Format, Report};
use crate::cli::report::transfer::Transfer;
use crate::cli::retry::{Next, Repeats, Retries, trying_again};

pub fn command() -> Command {
    Command::new("replicate").about("Sync with another log over stdin and stdout, or those of COMMAND").defer(|command| {
        let mode = Arg::new("mode").long("mode").value_name("MODE").hide_possible_values(true);
        let modes = PossibleValuesParser::new(["sync", "push", "pull"]);
        let wire = Arg::new("wire").long("wire").value_name("WIRE").hide_possible_values(true);
        let wires = PossibleValuesParser::new(["auto", "original", "native"]);
        command
            .arg(
                mode.value_parser(modes)
                    .default_value("sync")
                    .help("sync: send and receive; push: only send; pull: only receive"),
            )
            .arg(flag("once", "End when all entries have moved that the modes let move; do not wait for new entries"))
            .arg(wire.value_parser(wires).default_value("auto").help("original, native, or auto: native if the remote speaks it"))
            .arg(
                flag("retry", "Run COMMAND again after exit 3, after a pause that grows from 1 to 60 seconds")
                    .requires("command"),
            )
            .arg(flag("no-create", "If the local log does not exist, end with exit 1 instead of creating it"))
            .arg(flag("json", "Print the result as one JSON object: on stdout with COMMAND, otherwise on stderr"))
            .arg(flag("accept-gaps", "Store entries that the remote deleted as deleted, instead of stopping their feed"))
            .arg(globs_arg("peer", "Sync only feeds whose peer id matches GLOB, leave the others out; may be repeated"))
            .arg(globs_arg("allow-peer", "Accept only feeds whose peer id matches GLOB, refuse the others; may be repeated"))
            .arg(
                number(Arg::new("receive-feeds-max").long("receive-feeds-max").value_name("N"))
                    .help("Store at most N new feeds in one session [default: 100000]"),
            )
            .arg(
                size(Arg::new("receive-bytes-max").long("receive-bytes-max").value_name("N"))
                    .help("Store entries of at most N bytes in one session, such as 500MiB or 10G [default: no limit]"),
            )
            .arg(entry_bytes_arg())
            .arg(command_arg("Run this program and replicate over its stdin and stdout"))
            .after_help(epilogue("scuttleup-replicate", "scuttleup replicate --once -- ssh host scuttleup replicate"))
    })
}

/// An option with patterns for ids.
fn globs_arg(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("GLOB").action(ArgAction::Append).help(help)
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let command = command_words(args)?;
    if command.is_some() {
        return sync(context, args, command.as_deref(), &mut String::new());
    }
    let mut label = child::host_name();
    sync(context, args, None, &mut label).or_else(|err| Ok(errors::report(&label, &err)))
}

/// Runs the session. Without `command`, the id of the log becomes the `label` of messages.
fn sync(context: &Context, args: &ArgMatches, command: Option<&[OsString]>, label: &mut String) -> Result<Exit> {
    let globs = |name| {
        let globs = args.get_many::<String>(name).unwrap_or_default().map(String::as_str);
        PeerGlobs::new(globs).map_err(|err| Usage(err.to_string()))
    };
    let (selected, allowed) = (globs("peer")?, globs("allow-peer")?);
    let stop = Stop::on_signal()?;
    stop.debounce();
    let log = match (args.get_flag("no-create"), &command) {
        (true, Some(_)) => context.open()?,
        (true, None) => context.open_with_label(label)?,
        (false, Some(_)) => context.open_or_create()?,
        (false, None) => context.open_or_create_with_label(label)?,
    };
    if command.is_none() {
        *label = log.local_id()?.to_string();
    }
    let label = label.as_str();
    let mode = match args.get_one::<String>("mode").map(String::as_str) {
        Some("push") => Mode::Push,
        Some("pull") => Mode::Pull,
        _ => Mode::Sync,
    };
    let wire = match args.get_one::<String>("wire").map(String::as_str) {
        Some("original") => Some(Wire::Original),
        Some("native") => Some(Wire::Native),
        _ => None,
    };
    let once = args.get_flag("once");
    let quota = Quota {
        feeds: args.get_one("receive-feeds-max").copied().unwrap_or(Quota::default().feeds),
        bytes: args.get_one("receive-bytes-max").copied().unwrap_or(Quota::default().bytes),
    };
    let options = Options {
        mode,
        once,
        wire,
        accept_gaps: args.get_flag("accept-gaps"),
        // The user of this terminal may have to type a password for COMMAND.
        await_opening: io::stderr().is_terminal(),
        entry_bytes_max: entry_bytes(args),
        selected: Some(&selected),
        allowed: Some(&allowed),
        quota,
        stop: Some(stop.as_fd()),
        ..Options::default()
    };
    let report = Report {
        format: match (args.get_flag("json"), command) {
            (false, _) => Format::Text,
            // Stdout carries the session.
            (true, None) => Format::JsonOnStderr,
            (true, Some(_)) => Format::JsonOnStdout,
        },
        diagnostics: context.diagnostics,
        label,
        serves: command.is_none() && !once,
    };
    let (mut retries, mut repeats, mut last_pause) = (Retries::default(), Repeats::default(), Duration::ZERO);
    loop {
        let start = Instant::now();
        let transfer = Transfer::new(context.diagnostics, &stop, label);
        let step = |step: Step<'_>| transfer.step(step);
        let options = Options { progress: Some(&step), ..options };
        let (outcome, failed) = match command {
            Some(words) => child::with_command(&log, words, options, &stop, &transfer)?,
            None => (child::with_stdio(&log, options, &transfer)?, None),
        };
        let has_caught_up = transfer.has_caught_up();
        drop(transfer);
        let why_failed = failed.as_ref().map(|failed| failed.text.as_str());
        let ended = session::exit_of(&outcome, why_failed, report.serves);
        // A signal that comes after a complete session does not change its exit code.
        let exit = if ended == Exit::Done { ended } else { stop.exit().unwrap_or(ended) };
        let next = if args.get_flag("retry") {
            retries.next(&outcome, failed.as_ref(), exit, once, start.elapsed())
        } else {
            Next::Stop
        };
        if has_caught_up && !retries.was_refused() {
            repeats.forget();
        }
        let is_repeated = repeats.is_repeated(&outcome, failed.as_ref());
        if is_repeated && report.format == Format::Text && matches!(next, Next::Pause(_)) {
            repeats.left_out += 1;
        } else {
            note_repeats(context.diagnostics, &mut repeats);
            report.print(&outcome, why_failed, exit)?;
        }
        let pause = match next {
            Next::Stop => return Ok(exit),
            Next::GiveUp(why) => {
                diagnostics::error(&why);
                return Ok(exit);
            }
            Next::Pause(pause) => pause,
        };
        if !is_repeated || pause != last_pause {
            context.diagnostics.note(&trying_again(pause));
        }
        last_pause = pause;
        poll::pause(&stop, pause)?;
        if let Some(exit) = stop.exit() {
            return Ok(exit);
        }
    }
}

/// Says how often the last report came again.
fn note_repeats(diagnostics: Diagnostics, repeats: &mut Repeats) {
    match std::mem::take(&mut repeats.left_out) {
        0 => {}
        1 => diagnostics.note("the last report came once more"),
        times => diagnostics.note(&format!("the last report came {times} times more")),
    }
}
