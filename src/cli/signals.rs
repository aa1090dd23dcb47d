//! SIGINT and SIGTERM: exit 128+n, but never in the middle of a commit.

use std::io::PipeReader;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{SigId, flag, low_level};

use super::exit::Exit;

/// Of a thread that only waits.
const STACK_BYTES: usize = 64 << 10;
const ENDING: [i32; 2] = [SIGINT, SIGTERM];

fn code(signal: i32) -> i32 {
    128 + signal
}

/// For commands that only read: a signal ends the process where it is.
pub fn exit_at_once() -> Result<AtOnce> {
    let at_once = Arc::new(AtomicBool::new(true));
    for signal in ENDING {
        flag::register_conditional_shutdown(signal, code(signal), Arc::clone(&at_once))?;
    }
    ignore_file_size()?;
    Ok(AtOnce(at_once))
}

/// That a signal ends the process where it is, also after this is dropped.
pub struct AtOnce(Arc<AtomicBool>);

impl AtOnce {
    /// From now on the first signal only asks to end.
    pub fn or_rather_stop(self) -> Result<Stop> {
        let stop = Stop::on_signal()?;
        self.0.store(false, Ordering::SeqCst);
        Ok(stop)
    }
}

/// A file size limit is then an error of the write, like a full disk.
fn ignore_file_size() -> Result<()> {
    flag::register(SIGXFSZ, Arc::default())?;
    Ok(())
}

/// Signals that come so soon after the first one are the same: timeout(1) sends its own twice.
const SAME: Duration = Duration::from_millis(500);

/// For commands that write, or draw on the terminal: the first signal asks to end, the second one ends the process where it is.
pub struct Stop {
    number: Arc<AtomicUsize>,
    pipe: PipeReader,
    /// From now on a signal ends the process where it is.
    again: Arc<AtomicBool>,
    /// What sets it at the first signal.
    set_at_once: Vec<SigId>,
    is_patient: Once,
}

impl Stop {
    /// From now on.
    pub fn on_signal() -> Result<Self> {
        ignore_file_size()?;
        let number = Arc::new(AtomicUsize::new(0));
        let again = Arc::new(AtomicBool::new(false));
        let mut set_at_once = Vec::new();
        let (pipe, ring) = std::io::pipe()?;
        for signal in ENDING {
            flag::register_conditional_shutdown(signal, code(signal), Arc::clone(&again))?;
            set_at_once.push(flag::register(signal, Arc::clone(&again))?);
            flag::register_usize(signal, Arc::clone(&number), usize::try_from(signal)?)?;
            low_level::pipe::register(signal, ring.try_clone()?)?;
        }
        Ok(Self { number, pipe, again, set_at_once, is_patient: Once::new() })
    }

    /// From now on the second signal counts only if it comes a while after the first. That takes a thread, which a command
    /// that ends at once does without.
    pub fn be_patient(&self) {
        self.is_patient.call_once(|| {
            let Ok(pipe) = self.pipe.try_clone() else { return };
            let again = Arc::clone(&self.again);
            let waiting = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
                while poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).is_err() {}
                thread::sleep(SAME);
                again.store(true, Ordering::SeqCst);
            });
            if waiting.is_ok() {
                for &id in &self.set_at_once {
                    low_level::unregister(id);
                }
            }
        });
    }

    /// How to end, if a signal has come.
    pub fn exit(&self) -> Option<Exit> {
        let number = u8::try_from(self.number.load(Ordering::SeqCst)).unwrap_or(0);
        (number > 0).then_some(Exit::Signal(number))
    }
}

impl AsFd for Stop {
    /// Readable once a signal has come, and for ever after.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
