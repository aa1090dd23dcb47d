//! SIGINT and SIGTERM end the process with exit code 128+n, but never in the middle of a commit.

use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{SigId, flag, low_level};

use crate::cli::exit::Exit;
use crate::cli::io::poll::wait_for;

const ENDING: [i32; 2] = [SIGINT, SIGTERM];

/// Signals that arrive within this time after the first one count as one: timeout(1) sends its signal twice.
const DEBOUNCE: Duration = Duration::from_millis(500);
const DEBOUNCE_STACK_BYTES: usize = 64 << 10;

fn exit_code(signal: i32) -> i32 {
    128 + signal
}

/// For commands that only read: from now on a signal ends the process immediately.
pub fn exit_on_signal() -> Result<ImmediateExit> {
    let is_on = Arc::new(AtomicBool::new(true));
    for signal in ENDING {
        flag::register_conditional_shutdown(signal, exit_code(signal), Arc::clone(&is_on))?;
    }
    catch_file_size_signal()?;
    Ok(ImmediateExit(is_on))
}

/// As long as [`ImmediateExit::into_stop`] is not called, a signal ends the process immediately, also after this value is
/// dropped.
pub struct ImmediateExit(Arc<AtomicBool>);

impl ImmediateExit {
    /// From now on, the first signal only asks the command to end.
    pub fn into_stop(self) -> Result<Stop> {
        let stop = Stop::on_signal()?;
        self.0.store(false, Ordering::SeqCst);
        Ok(stop)
    }
}

/// With SIGXFSZ caught, a file size limit is an error of the write, as a full disk is.
fn catch_file_size_signal() -> Result<()> {
    flag::register(SIGXFSZ, Arc::default())?;
    Ok(())
}

/// For commands that write, or draw on the terminal: the first signal asks the command to end, the second one ends the
/// process immediately.
pub struct Stop {
    /// The signal that arrived, or 0.
    number: Arc<AtomicUsize>,
    pipe: PipeReader,
    /// While this is true, a signal ends the process immediately.
    exits_immediately: Arc<AtomicBool>,
    /// The handlers that set `exits_immediately` at the first signal.
    setters: Vec<SigId>,
    debounce: Once,
}

impl Stop {
    /// Handles signals from now on.
    pub fn on_signal() -> Result<Self> {
        catch_file_size_signal()?;
        let number = Arc::new(AtomicUsize::new(0));
        let exits_immediately = Arc::new(AtomicBool::new(false));
        let mut setters = Vec::new();
        let (pipe, writer) = std::io::pipe()?;
        for signal in ENDING {
            // The handlers run in the order of their registration.
            flag::register_conditional_shutdown(signal, exit_code(signal), Arc::clone(&exits_immediately))?;
            setters.push(flag::register(signal, Arc::clone(&exits_immediately))?);
            flag::register_usize(signal, Arc::clone(&number), usize::try_from(signal)?)?;
            low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { number, pipe, exits_immediately, setters, debounce: Once::new() })
    }

    /// From now on a second signal within [`DEBOUNCE`] is ignored. This takes a thread, so commands that end soon do not
    /// call it.
    pub fn debounce(&self) {
        self.debounce.call_once(|| {
            let Ok(pipe) = self.pipe.try_clone() else { return };
            let exits_immediately = Arc::clone(&self.exits_immediately);
            let waiter = thread::Builder::new().stack_size(DEBOUNCE_STACK_BYTES).spawn(move || {
                while poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) == Err(Errno::EINTR) {}
                thread::sleep(DEBOUNCE);
                exits_immediately.store(true, Ordering::SeqCst);
            });
            if waiter.is_ok() {
                for &id in &self.setters {
                    low_level::unregister(id);
                }
            }
        });
    }

    /// The end of the command, if a signal has arrived.
    pub fn exit(&self) -> Option<Exit> {
        exit_after(&self.number)
    }
}

fn exit_after(number: &AtomicUsize) -> Option<Exit> {
    let number = u8::try_from(number.load(Ordering::SeqCst)).unwrap_or(0);
    (number > 0).then_some(Exit::Signal(number))
}

impl AsFd for Stop {
    /// Becomes readable when a signal arrives, and stays readable.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// For commands that run a program and wait for it: a signal asks the command to end, and no signal ends it immediately.
pub struct Relay {
    /// The signal that arrived last, or 0.
    number: Arc<AtomicUsize>,
    signals: PipeReader,
    children: PipeReader,
    /// The time of the first signal.
    first: Option<Instant>,
}

/// The meaning of the signals that have arrived for the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// End.
    End,
    /// End now: a second signal has arrived.
    EndNow,
}

impl Relay {
    /// Handles signals from now on.
    pub fn on_signal() -> Result<Self> {
        catch_file_size_signal()?;
        let number = Arc::new(AtomicUsize::new(0));
        let ((signals, signal_writer), (children, child_writer)) = (std::io::pipe()?, std::io::pipe()?);
        for signal in ENDING {
            flag::register_usize(signal, Arc::clone(&number), usize::try_from(signal)?)?;
            low_level::pipe::register(signal, signal_writer.try_clone()?)?;
        }
        low_level::pipe::register(SIGCHLD, child_writer)?;
        for pipe in [&signals, &children] {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self { number, signals, children, first: None })
    }

    /// The end of the command, if a signal has arrived.
    pub fn exit(&self) -> Option<Exit> {
        exit_after(&self.number)
    }

    /// Whether the signal that arrived last is SIGINT.
    pub fn is_interrupt(&self) -> bool {
        self.exit() == Some(Exit::Signal(SIGINT as u8))
    }

    /// Waits for a signal, or for the end of a child of this process. Returns what a signal asks for, if one has arrived.
    pub fn wait_for_child(&mut self) -> Result<Option<Request>> {
        let mut fds = [&self.signals, &self.children].map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        wait_for(&mut fds, "cannot wait for a program")?;
        drain(&mut self.children);
        if !drain(&mut self.signals) {
            return Ok(None);
        }
        match self.first {
            None => {
                self.first = Some(Instant::now());
                Ok(Some(Request::End))
            }
            Some(first) if first.elapsed() >= DEBOUNCE => Ok(Some(Request::EndNow)),
            Some(_) => Ok(None),
        }
    }
}

impl AsFd for Relay {
    /// Becomes readable when a signal arrives, and stays readable until [`Relay::wait_for_child`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

/// Reads what is in the pipe, without waiting. Returns whether there was anything.
fn drain(pipe: &mut PipeReader) -> bool {
    let (mut bytes, mut any) = ([0; 64], false);
    while pipe.read(&mut bytes).is_ok_and(|count| count > 0) {
        any = true;
    }
    any
}
