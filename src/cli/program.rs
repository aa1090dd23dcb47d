//! Runs a program for a batch of lines, which it gets on its stdin.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgrp, tcgetpgrp};
use scuttleup::Error;

use crate::cli::exit::Exit;
use crate::cli::io::signals::{Relay, Request};

/// The end of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// With exit code 0.
    Done,
    /// With another exit code, or 128+n if signal n ended it. The text says how.
    Failed(u8, String),
    /// It ended, and this process got a signal before: this exit is due, whatever the exit code of the program is.
    Stopped(Exit),
}

/// Runs the program `words` with `lines` on its stdin, and waits until it has ended. Passes signals on to it.
///
/// # Errors
/// When the program cannot be started.
pub fn run(words: &[OsString], lines: &[u8], variables: &[(&str, String)], signals: &mut Relay) -> Result<Ended> {
    let stdin = file_of(lines).map_err(|err| Error::io("cannot hold a batch in memory", err))?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).envs(variables.iter().map(|(name, value)| (name, value))).stdin(Stdio::from(stdin));
    let fail = |err| Error::io(format!("cannot run {}", words[0].display()), err);
    let mut child = command.spawn().map_err(fail)?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    // A signal that has arrived before the program could get it.
    if signals.exit().is_some() {
        kill(pid, Signal::SIGTERM).ok();
    }
    let status = loop {
        // The end of the child makes the next wait return.
        if let Some(status) = child.try_wait().map_err(fail)? {
            break status;
        }
        match signals.wait_for_child()? {
            Some(Request::End) if signals.is_interrupt() && terminal_has_told_it() => {}
            Some(Request::End) => drop(kill(pid, Signal::SIGTERM)),
            Some(Request::EndNow) => drop(kill(pid, Signal::SIGKILL)),
            None => {}
        }
    };
    Ok(signals.exit().map_or_else(|| ended(status), Ended::Stopped))
}

fn ended(status: ExitStatus) -> Ended {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    if code == 0 { Ended::Done } else { Ended::Failed(u8::try_from(code).unwrap_or(1), status.to_string()) }
}

/// A file in memory. A pipe would be cut if this process is killed: the program could take a part of the batch for the whole.
fn file_of(lines: &[u8]) -> std::io::Result<File> {
    // MFD_NOEXEC_SEAL, which some systems require and old kernels do not know.
    let not_executable = MFdFlags::from_bits_retain(8);
    let made = match memfd_create(c"batch", MFdFlags::MFD_CLOEXEC | not_executable) {
        Err(Errno::EINVAL) => memfd_create(c"batch", MFdFlags::MFD_CLOEXEC),
        made => made,
    };
    let mut file = File::from(made?);
    file.write_all(lines)?;
    file.rewind()?;
    Ok(file)
}

/// Whether SIGINT comes from the keyboard, so that the program has got it, too.
fn terminal_has_told_it() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(&terminal) == Ok(getpgrp()))
}
