//! `replicate`: speak the protocol over stdin and stdout, or with a command.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus, Stdio};

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scuttleup::{Error, Log, Mode, Notice, Options, Outcome, replicate};

use super::exit::{Exit, Usage};
use super::message::{self, Messages};
use super::signals::Stop;
use super::{Context, entry_bytes, entry_bytes_arg};

pub fn command() -> Command {
    Command::new("replicate")
        .about("Sync with another log over stdin and stdout, or over those of COMMAND")
        .arg(
            Arg::new("mode")
                .long("mode")
                .value_name("MODE")
                .value_parser(PossibleValuesParser::new(["sync", "push", "pull"]))
                .default_value("sync")
                .help("Both directions, only send, or only receive"),
        )
        .arg(
            Arg::new("once")
                .long("once")
                .action(ArgAction::SetTrue)
                .help("End when both sides hold what both held at the start, instead of going on as entries arrive"),
        )
        .arg(
            Arg::new("accept-gaps")
                .long("accept-gaps")
                .action(ArgAction::SetTrue)
                .help("Store what the other side has deleted as deleted entries, instead of stopping the feed there"),
        )
        .arg(entry_bytes_arg())
        .arg(
            Arg::new("command")
                .value_name("COMMAND")
                .num_args(1..)
                .last(true)
                .value_parser(value_parser!(OsString))
                .help("Run this, and speak with it: -- ssh host scuttleup replicate"),
        )
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let command: Option<Vec<OsString>> = args.get_many("command").map(|words| words.cloned().collect());
    let terminal = io::stdin().is_terminal() || io::stdout().is_terminal();
    if command.is_none() && terminal {
        return Err(
            Usage("stdin or stdout is a terminal: join them to another replicate, or name a COMMAND after --".into()).into()
        );
    }
    let stop = Stop::on_signal()?;
    let log = Log::open_or_create(&context.dir)?;
    let mode = match args.get_one::<String>("mode").map(String::as_str) {
        Some("push") => Mode::Push,
        Some("pull") => Mode::Pull,
        _ => Mode::Sync,
    };
    let options = Options {
        mode,
        once: args.get_flag("once"),
        accept_gaps: args.get_flag("accept-gaps"),
        entry_bytes_max: entry_bytes(args),
        stop: Some(stop.as_fd()),
    };
    let (outcome, failed) = match command {
        Some(words) => with_command(&log, &words, options, &stop),
        None => with_stdio(&log, options).map(|outcome| (outcome, None)),
    }?;
    Ok(stop.exit().unwrap_or_else(|| conclude(&outcome, failed.as_deref(), context.messages)))
}

/// How long a COMMAND that has closed its output without a word may take to end.
const SILENT_MILLIS: u16 = 5000;

fn with_stdio(log: &Log, options: Options<'_>) -> Result<Outcome> {
    let own = |err| Error::io("stdin and stdout cannot be taken over", err);
    let input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(own)?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(own)?);
    // So that dropping `output` closes the pipe.
    let null = File::options().write(true).open("/dev/null").map_err(own)?;
    nix::unistd::dup2_stdout(&null).map_err(|err| own(err.into()))?;
    Ok(replicate(log, input, output, options, &tell)?)
}

/// The outcome, and how COMMAND ended if it failed.
fn with_command(log: &Log, words: &[OsString], options: Options<'_>, stop: &Stop) -> Result<(Outcome, Option<String>)> {
    let name = words[0].to_string_lossy().into_owned();
    let child = std::process::Command::new(&words[0]).args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|err| Error::io(format!("{name} cannot be run"), err))?;
    let (Some(output), Some(input)) = (child.stdin.take(), child.stdout.take()) else { unreachable!("both are pipes") };
    let outcome = replicate(log, input, output, options, &tell);
    // It has nothing more to say to us: we stop, we fail, or we left it while it was live.
    let dismissed = outcome.as_ref().map_or(true, |outcome| outcome.stopped || outcome.left_first);
    // It has closed its output without a word; it may be about to end with a message of its own.
    let silent = outcome.as_ref().is_ok_and(|outcome| outcome.peer.is_none());
    let patience = match (dismissed, silent) {
        (true, _) => PollTimeout::ZERO,
        (false, true) => PollTimeout::from(SILENT_MILLIS),
        (false, false) => PollTimeout::NONE,
    };
    let status = wait_for(child, patience, stop)?;
    let mut outcome = outcome.map_err(|err| match err {
        Error::Wire(why) if !status.success() && !dismissed => Error::Wire(format!("{why} ({name} ended with {status})")),
        err => err,
    })?;
    let failed = (!dismissed && !status.success()).then(|| format!("{name} ended with {status}"));
    outcome.cut |= failed.is_some();
    Ok((outcome, failed))
}

/// Waits until `child` has ended; asks it to end when `patience` is over, or when `stop` comes.
fn wait_for(mut child: Child, patience: PollTimeout, stop: &Stop) -> Result<ExitStatus> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let (ended, ends) = io::pipe()?;
    let ask = || kill(pid, Signal::SIGTERM).ok();
    std::thread::scope(|threads| {
        let waiting = threads.spawn(move || {
            let status = child.wait();
            drop(ends);
            status
        });
        let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, patience).is_err() {}
        if fds[0].any() != Some(true) {
            ask();
        }
        let status = waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(status?)
    })
}

fn tell(notice: Notice) {
    let text = match notice {
        Notice::Fork(peer, seq) => {
            format!(
                "fork: entry {seq} of {peer} has other bytes here than there; that feed is stopped, both versions stay where they are"
            )
        }
        Notice::Gap(peer, head, seq) => format!(
            "gap: the other side sent entry {seq} of {peer} after {head}, what is between was deleted there; that feed is stopped: \
             --accept-gaps stores such entries as deleted"
        ),
        Notice::SameId(peer) => format!(
            "the other side has the same id, {peer}: it is this log itself or a copy of it; if both were appended to, this wire \
             cannot show it: give one of them a new log, and bring its entries over with read and append"
        ),
        Notice::DeletedLeftOut(peer, seq) => {
            format!("entry {seq} of {peer} was deleted here, so that this wire cannot carry it: the other side gets a gap there")
        }
    };
    message::error(&text);
}

/// Says how it went.
fn conclude(outcome: &Outcome, failed: Option<&str>, messages: Messages) -> Exit {
    let Outcome { sent, received, unsent, missing, forks, gaps, .. } = outcome;
    let why = failed.map_or(String::new(), |failed| format!(" ({failed})"));
    let Some(peer) = &outcome.peer else {
        message::error(&format!("the other side ended before it said anything{why}: run it again"));
        return Exit::Incomplete;
    };
    let stopped = match forks + gaps {
        1 => "1 feed is stopped".to_owned(),
        feeds => format!("{feeds} feeds are stopped"),
    };
    let moved = format!("synced with {peer}: sent {sent}, received {received}");
    match failed {
        Some(failed) if unsent + missing == 0 => message::error(&format!("{moved}, but {failed}: see its message")),
        _ if outcome.cut || unsent + missing > 0 => {
            let (to_send, announced) = (sent + unsent, received + missing);
            message::error(&format!(
                "the other side ended early: {sent} of {to_send} sent to {peer}, {received} of {announced} received{why}; run it again"
            ));
        }
        _ if forks + gaps > 0 => message::error(&format!("{moved}, but {stopped}")),
        _ => messages.note(&moved),
    }
    match outcome {
        Outcome { forks: 1.., .. } => Exit::Fork,
        outcome if outcome.complete() => Exit::Done,
        _ => Exit::Incomplete,
    }
}
