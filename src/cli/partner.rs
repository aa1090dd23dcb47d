//! Who is at the other end of a replication: whoever holds stdin and stdout, or COMMAND.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};

use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scuttleup::{Error, Log, Options, Outcome, Wire, replicate};

use super::signals::Stop;
use super::transfer::Transfer;

/// How long a COMMAND that has closed its output too early may take to end.
const EARLY_MILLIS: u16 = 5000;

/// And one with which we do not go on.
const FAILED_MILLIS: u16 = 2000;

/// Over stdin and stdout.
pub fn with_stdio(log: &Log, options: Options<'_>, transfer: &Transfer<'_>) -> Result<Outcome> {
    let own = |err| Error::io("stdin and stdout cannot be taken over", err);
    let input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(own)?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(own)?);
    // So that dropping `output` closes the pipe.
    let null = File::options().write(true).open("/dev/null").map_err(own)?;
    nix::unistd::dup2_stdout(&null).map_err(|err| own(err.into()))?;
    Ok(replicate(log, input, output, options, &|notice| transfer.tell(notice))?)
}

/// With COMMAND. The outcome, and how COMMAND ended if it failed.
pub fn with_command(
    log: &Log,
    words: &[OsString],
    options: Options<'_>,
    stop: &Stop,
    transfer: &Transfer<'_>,
) -> Result<(Outcome, Option<String>)> {
    let name = words[0].to_string_lossy().into_owned();
    let child = std::process::Command::new(&words[0]).args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|err| Error::io(format!("{name} cannot be run"), err))?;
    let (Some(output), Some(input)) = (child.stdin.take(), child.stdout.take()) else { unreachable!("both are pipes") };
    let outcome = replicate(log, input, output, options, &|notice| transfer.tell(notice));
    // It has nothing more to say to us: we stop, or we left it while it was live.
    let dismissed = outcome.as_ref().is_ok_and(|outcome| outcome.stopped || outcome.left_first);
    // If it has closed its output too early, or is to hear why we fail, it may be about to end with a message of its own.
    let patience = match &outcome {
        Err(_) => PollTimeout::from(FAILED_MILLIS),
        Ok(_) if dismissed => PollTimeout::ZERO,
        Ok(outcome) if outcome.peer.is_none() || outcome.cut => PollTimeout::from(EARLY_MILLIS),
        Ok(_) => PollTimeout::NONE,
    };
    let status = wait_for(child, patience, stop)?;
    let failed = status.filter(|status| !dismissed && !status.success()).map(|status| format!("{name} ended with {status}"));
    // Of SIGPIPE it dies because we do not listen any more; a shell says that in its own way.
    let sigpipe = Signal::SIGPIPE as i32;
    let is_told = status.is_some_and(|status| status.signal() != Some(sigpipe) && status.code() != Some(128 + sigpipe));
    let outcome = outcome.map_err(|err| match (err, &failed) {
        (Error::Wire(why), Some(failed)) if is_told => Error::Wire(format!("{why} ({failed})")),
        (err, _) => err,
    })?;
    // A session that both sides have ended is what it is: how COMMAND ends afterwards, it has said by itself.
    let is_over = outcome.wire == Some(Wire::Native) && !outcome.cut;
    let failed = failed.filter(|_| !is_over);
    // What a shell says, here or over there, of a program that it does not find or may not run: no other try will mend it.
    if let (None, Some(failed), Some(126 | 127)) = (&outcome.peer, &failed, status.and_then(|status| status.code())) {
        bail!("{failed}: what it was to run is not there, or not for us to run: check COMMAND, and the PATH where it looks");
    }
    Ok((outcome, failed))
}

/// How long a COMMAND that was asked to end may take; one that is stopped (SIGSTOP) would never do it.
const ASKED_MILLIS: u16 = 5000;

/// Waits until `child` has ended; asks it to end when `patience` is over, or when `stop` comes, and then makes it.
/// How it ended, if it did by itself.
fn wait_for(mut child: Child, patience: PollTimeout, stop: &Stop) -> Result<Option<ExitStatus>> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let (ended, ends) = io::pipe()?;
    std::thread::scope(|threads| {
        let waiting = threads.spawn(move || {
            let status = child.wait();
            drop(ends);
            status
        });
        let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, patience).is_err() {}
        let by_itself = fds[0].any() == Some(true);
        if !by_itself {
            kill(pid, Signal::SIGTERM).ok();
            let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
            while poll(&mut fds, PollTimeout::from(ASKED_MILLIS)).is_err() {}
            if fds[0].any() != Some(true) {
                kill(pid, Signal::SIGKILL).ok();
            }
        }
        let status = waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Some(status?).filter(|_| by_itself))
    })
}
