//! A pseudo-terminal with an emulated screen: what a user would see.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};

use crate::harness::{Run, STEP};

const ROWS: u16 = 24;
/// The number of chunks of output that are kept until the test reads them; then the program must wait. This is enough for
/// minutes of progress, but not for megabytes.
const CHUNKS_MAX: usize = 300;

/// The master end of a pseudo-terminal, which a user would operate.
pub struct Terminal {
    keys: File,
    /// The slave end. The test closes it once all programs have it, so that the output ends with the last program.
    line: Option<File>,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    screen: vt100::Parser,
}

impl Terminal {
    pub fn new(columns: u16) -> Self {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("it can be opened");
        let name = ptsname_r(&master).expect("the name of the slave end");
        let line = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(&name).expect("the slave");
        Run::program("stty").args(["-F", &name, "cols", &columns.to_string(), "rows", &ROWS.to_string()]).success();
        let keys = File::from(std::os::fd::OwnedFd::from(master));
        let mut output = keys.try_clone().expect("a descriptor");
        let (send, chunks) = sync_channel(CHUNKS_MAX);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            // read returns EIO when no process has the slave end open.
            while let Ok(count @ 1..) = output.read(&mut chunk) {
                if send.send(chunk[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let size = [ROWS, columns].map(|size| NonZero::new(size).expect("not 0"));
        let screen = vt100::Parser::new(size[0], size[1], 0);
        Self { keys, line: Some(line), output: chunks, seen: Vec::new(), screen }
    }

    /// The slave end, for stdin, stdout or stderr of a program.
    pub fn stdio(&self) -> Stdio {
        self.line.as_ref().expect("not closed").try_clone().expect("a descriptor").into()
    }

    /// Closes the slave end in the test. Call it when all programs have it.
    pub fn close(&mut self) {
        self.line = None;
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a key");
    }

    /// The lines of the screen without empty lines at the end.
    pub fn lines(&self) -> Vec<String> {
        self.screen.screen().contents().lines().map(str::to_owned).collect()
    }

    pub fn screen(&self) -> &vt100::Screen {
        self.screen.screen()
    }

    /// All output so far.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Reads output until `holds` returns true.
    pub fn wait_until(&mut self, mut holds: impl FnMut(&Self) -> bool) {
        while !holds(self) {
            assert!(self.take_some(), "the output ended before the condition was true: {:?}", self.seen());
        }
    }

    /// Reads output until no process has the slave end open.
    pub fn wait_for_end(&mut self) {
        self.close();
        while self.take_some() {}
    }

    /// Waits for the next chunk of output; false at the end.
    fn take_some(&mut self) -> bool {
        match self.output.recv_timeout(STEP) {
            Ok(chunk) => {
                self.screen.process(&chunk);
                self.seen.extend(chunk);
                true
            }
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => panic!("no output: {:?}", self.seen()),
        }
    }
}
