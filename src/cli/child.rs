//! The remote of a replication: the process at the other end of stdin and stdout, or COMMAND.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::thread::Builder;

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scuttleup::{Ending, Error, Log, Options, Outcome, replicate};

use crate::cli::io::signals::Stop;
use crate::cli::report::transfer::Transfer;

/// The time in which a COMMAND that closed its output early must end by itself.
const EARLY_MILLIS: u16 = 5000;

/// The time in which a COMMAND must end after the session has failed.
const FAILED_MILLIS: u16 = 2000;

/// A COMMAND that failed.
pub struct Failed {
    /// Says how it failed.
    pub text: String,
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
}

/// The name of this host. It labels the messages of a process without COMMAND until its log is open: they may be shown together
/// with those of its remote, which may run on another host.
pub fn host_name() -> String {
    nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
}

/// Replicates over stdin and stdout.
pub fn with_stdio(log: &Log, options: Options<'_>, transfer: &Transfer<'_>) -> Result<Outcome> {
    over_stdio(|input, output| replicate(log, input, output, options, &|notice| transfer.notice(notice)))
}

/// Runs a session over stdin and stdout.
pub fn over_stdio<T>(session: impl FnOnce(File, File) -> Result<T, Error>) -> Result<T> {
    let fail = |err| Error::io("cannot prepare stdin and stdout for replication", err);
    let input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(fail)?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(fail)?);
    // The process must not keep the pipe open as stdout: otherwise the drop of `output` would not close it.
    let null = File::options().write(true).open("/dev/null").map_err(fail)?;
    nix::unistd::dup2_stdout(&null).map_err(|err| fail(err.into()))?;
    Ok(session(input, output)?)
}

/// Runs COMMAND and replicates over its stdin and stdout. Returns the outcome, and how COMMAND failed, if it failed.
pub fn with_command(
    log: &Log,
    words: &[OsString],
    options: Options<'_>,
    stop: &Stop,
    transfer: &Transfer<'_>,
) -> Result<(Outcome, Option<Failed>)> {
    over_command(words, stop, |input, output| replicate(log, input, output, options, &|notice| transfer.notice(notice)))
}

/// Runs COMMAND and a session over its stdin and stdout. Returns the outcome, and how COMMAND failed, if it failed.
pub fn over_command(
    words: &[OsString],
    stop: &Stop,
    session: impl FnOnce(ChildStdout, ChildStdin) -> Result<Outcome, Error>,
) -> Result<(Outcome, Option<Failed>)> {
    let name = words[0].to_string_lossy().into_owned();
    let child = std::process::Command::new(&words[0]).args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|err| Error::io(format!("cannot run {name}"), err))?;
    let (Some(output), Some(input)) = (child.stdin.take(), child.stdout.take()) else { unreachable!("both are pipes") };
    let outcome = session(input, output);
    // COMMAND is no longer needed: the local side was stopped, or ended the session before the remote ended its stream.
    let no_longer_needed = outcome.as_ref().is_ok_and(|outcome| outcome.ending == Ending::LocalStop || outcome.left_first);
    let timeout = match &outcome {
        // COMMAND may be about to end with an error message of its own.
        Err(_) => PollTimeout::from(FAILED_MILLIS),
        Ok(_) if no_longer_needed => PollTimeout::ZERO,
        Ok(outcome) if outcome.peer.is_none() || outcome.ended_early() => PollTimeout::from(EARLY_MILLIS),
        Ok(_) => PollTimeout::NONE,
    };
    let status = wait_for(child, timeout, stop)?;
    let failed = status.filter(|status| !no_longer_needed && !status.success());
    let failed = failed.map(|status| Failed { text: format!("{name} ended with {status}"), code: status.code() });
    // SIGPIPE is a consequence of the end of the session, not its cause. A shell reports it as an exit code.
    let sigpipe = Signal::SIGPIPE as i32;
    let failed_by_itself = status.is_some_and(|status| status.signal() != Some(sigpipe) && status.code() != Some(128 + sigpipe));
    let outcome = outcome.map_err(|err| match (err, &failed) {
        (Error::Wire(why), Some(failed)) if failed_by_itself => Error::Wire(format!("{why} ({})", failed.text)),
        (Error::RemoteText(kind, line), Some(failed)) if failed_by_itself && !line.is_empty() => {
            Error::RemoteText(kind, format!("{line} ({})", failed.text))
        }
        (err, _) => err,
    })?;
    // After a confirmed end, the exit status of COMMAND says nothing about the session.
    let failed = failed.filter(|_| !outcome.confirmed);
    // A local or remote shell exits with these codes if it cannot find or run a program. Another try does not help.
    if let (None, Some(failed), Some(126 | 127)) = (&outcome.peer, &failed, status.and_then(|status| status.code())) {
        let failed = &failed.text;
        bail!("{failed}: a program was not found or cannot be run: check COMMAND, and PATH on the host that runs the program");
    }
    Ok((outcome, failed))
}

/// The time in which a COMMAND must end after SIGTERM. A suspended process (SIGSTOP) does not end.
const TERMINATED_MILLIS: u16 = 5000;

/// Waits until `child` has ended. Sends SIGTERM after `timeout` or when `stop` comes, and SIGKILL later. Returns the exit status
/// if the child ended by itself.
fn wait_for(mut child: Child, timeout: PollTimeout, stop: &Stop) -> Result<Option<ExitStatus>> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let (ended, end_writer) = io::pipe()?;
    std::thread::scope(|threads| {
        let waiting = Builder::new().spawn_scoped(threads, move || {
            let status = child.wait();
            drop(end_writer);
            status
        });
        let waiting = waiting.map_err(|err| {
            kill(pid, Signal::SIGTERM).ok();
            Error::io("cannot start a thread", err)
        })?;
        let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, timeout) == Err(Errno::EINTR) {}
        let by_itself = fds[0].any() == Some(true);
        if !by_itself {
            kill(pid, Signal::SIGTERM).ok();
            let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
            while poll(&mut fds, PollTimeout::from(TERMINATED_MILLIS)) == Err(Errno::EINTR) {}
            if fds[0].any() != Some(true) {
                kill(pid, Signal::SIGKILL).ok();
            }
        }
        let status = waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Some(status?).filter(|_| by_itself))
    })
}
