//! SIGINT and SIGTERM: exit 128+n, but never in the middle of a commit.

use std::io::PipeReader;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level};

use super::exit::Exit;

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

/// For commands that write, or draw on the terminal: the first signal asks to end, the second one ends the process where it is.
pub struct Stop {
    number: Arc<AtomicUsize>,
    pipe: PipeReader,
}

impl Stop {
    /// From now on.
    pub fn on_signal() -> Result<Self> {
        ignore_file_size()?;
        let number = Arc::new(AtomicUsize::new(0));
        let again = Arc::new(AtomicBool::new(false));
        let (pipe, ring) = std::io::pipe()?;
        for signal in ENDING {
            flag::register_conditional_shutdown(signal, code(signal), Arc::clone(&again))?;
            flag::register(signal, Arc::clone(&again))?;
            flag::register_usize(signal, Arc::clone(&number), usize::try_from(signal)?)?;
            low_level::pipe::register(signal, ring.try_clone()?)?;
        }
        Ok(Self { number, pipe })
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
