//! `replicate`: speak the protocol over stdin and stdout, or with a command.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use scuttleup::{Log, Mode, Options, Wire};

use super::exit::{Exit, Usage};
use super::outcome::{self, Report};
use super::progress::Progress;
use super::signals::Stop;
use super::transfer::Transfer;
use super::{Context, entry_bytes, entry_bytes_arg, partner};

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
            Arg::new("wire")
                .long("wire")
                .value_name("WIRE")
                .value_parser(PossibleValuesParser::new(["auto", "original", "native"]))
                .default_value("auto")
                .help("The native protocol if the other side speaks it, or only one of the two"),
        )
        .arg(
            Arg::new("retry")
                .long("retry")
                .action(ArgAction::SetTrue)
                .requires("command")
                .help("Run COMMAND again after exit 3, first after 1 second, then after longer pauses up to 60 seconds"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Say how it went as one JSON object on stderr"))
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
    if command.is_none() && std::env::args_os().next_back().is_some_and(|last| last == "--") {
        return Err(Usage("there is no COMMAND after --".into()).into());
    }
    if command.is_none() && terminal {
        return Err(
            Usage("stdin or stdout is a terminal: join them to another replicate, or name a COMMAND after --".into()).into()
        );
    }
    let stop = Stop::on_signal()?;
    stop.be_patient();
    let log = Log::open_or_create(&context.dir)?;
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
    let options = Options {
        mode,
        once: args.get_flag("once"),
        wire,
        accept_gaps: args.get_flag("accept-gaps"),
        // Whoever sees what we say may be typing a password for COMMAND.
        await_opening: io::stderr().is_terminal(),
        entry_bytes_max: entry_bytes(args),
        stop: Some(stop.as_fd()),
        ..Options::default()
    };
    let report = Report { json: args.get_flag("json"), messages: context.messages };
    let mut pauses = Pauses::default();
    loop {
        let start = Instant::now();
        // The one that was run by COMMAND has the same terminal.
        let progress = if command.is_some() { Progress::new(context.messages, &stop) } else { Progress::off() };
        let transfer = Transfer::new(progress, !options.once);
        let step = |step| transfer.step(step);
        let options = Options { progress: Some(&step), ..options };
        let (outcome, failed) = match &command {
            Some(words) => partner::with_command(&log, words, options, &stop, &transfer)?,
            None => (partner::with_stdio(&log, options, &transfer)?, None),
        };
        drop(transfer);
        let ended = outcome::exit_of(&outcome, failed.as_deref());
        // A signal that comes after the end changes nothing of it.
        let exit = if ended == Exit::Done && !outcome.stopped { ended } else { stop.exit().unwrap_or(ended) };
        report.conclude(&outcome, failed.as_deref(), exit);
        // A fork does not heal, but all other feeds go on.
        let is_worth_it = exit == Exit::Incomplete || exit == Exit::Fork && outcome.cut;
        if !is_worth_it || !args.get_flag("retry") {
            return Ok(exit);
        }
        let pause = pauses.next(start.elapsed());
        let seconds = pause.as_secs();
        context.messages.note(&format!("trying again in {seconds} second{}", if seconds == 1 { "" } else { "s" }));
        if poll_for(&stop, pause) {
            return Ok(stop.exit().unwrap_or(exit));
        }
    }
}

/// How long to wait before COMMAND is run again.
#[derive(Default)]
struct Pauses(u64);

impl Pauses {
    const SECONDS_MAX: u64 = 60;

    /// Twice as long each time; short again after a session that lasted.
    fn next(&mut self, lasted: Duration) -> Duration {
        self.0 = if lasted.as_secs() >= Self::SECONDS_MAX { 1 } else { (self.0 * 2).clamp(1, Self::SECONDS_MAX) };
        Duration::from_secs(self.0)
    }
}

/// Waits for a signal; false when the time is over.
fn poll_for(stop: &Stop, pause: Duration) -> bool {
    let timeout = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
    // A signal that comes in between is seen by the next poll.
    while let Err(Errno::EINTR) = poll(&mut [PollFd::new(stop.as_fd(), PollFlags::POLLIN)], timeout) {}
    stop.exit().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_minute_and_are_short_again_after_a_session_that_lasted() {
        let mut pauses = Pauses::default();
        let seconds: Vec<u64> = (0..8).map(|_| pauses.next(Duration::ZERO).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses.next(Duration::from_secs(61)).as_secs(), 1);
    }
}
