//! Runs the binary as a user does. Every wait has a time limit: a process that takes too long is killed and its test fails.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scuttleup::ndjson::{Content, parse_change};
use xxhash_rust::xxh3::xxh3_64;

/// The time limit of a single step. It is not a delay: every step ends at an event.
pub const STEP: Duration = Duration::from_secs(60);

/// The binary under test.
pub const SCUTTLEUP: &str = env!("CARGO_BIN_EXE_scuttleup");

/// A temporary directory of one test, deleted at the end of the test.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file in this directory.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file can be written");
        path
    }

    /// A copy of the log with the id "old" that a program of format 1 has written.
    pub fn log_of_format_1(&self) -> PathBuf {
        let path = self.path("old");
        fs::create_dir(&path).expect("a directory");
        for name in ["data.mdb", "created", "bell"] {
            fs::copy(format_1_file(name), path.join(name)).expect("a copy");
        }
        path
    }

    /// Creates a log in this directory; `id` is its id and its directory name.
    pub fn log(&self, id: &str) -> PathBuf {
        let path = self.path(id);
        Run::new(&path).args(["-q", "init", "--id", id]).success();
        path
    }
}

/// One run of the binary, or of another program.
#[must_use = "the program starts only with .success(), .status() or .spawn()"]
pub struct Run {
    command: Command,
    stdin: Vec<u8>,
    stdout: Option<Vec<u8>>,
    stderr: Vec<String>,
    stderr_all: Option<String>,
}

/// The output of a run.
pub struct Printed {
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Printed {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("stdout is UTF-8")
    }

    pub fn lines(&self) -> Vec<&str> {
        self.text().lines().collect()
    }

    /// The JSON value of each line of stdout.
    pub fn json(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"))).collect()
    }
}

impl Run {
    /// `scuttleup --log LOG`.
    pub fn new(log: &Path) -> Self {
        Self::bare().args([OsStr::new("--log"), log.as_os_str()])
    }

    /// `scuttleup`.
    pub fn bare() -> Self {
        Self::program(SCUTTLEUP)
    }

    /// Any program; SCUTTLEUP_LOG is not set for it.
    pub fn program(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.env_remove("SCUTTLEUP_LOG");
        Self { command, stdin: Vec::new(), stdout: None, stderr: Vec::new(), stderr_all: None }
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = bytes.as_ref().to_vec();
        self
    }

    /// Stdout must be exactly this.
    pub fn stdout(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdout = Some(bytes.as_ref().to_vec());
        self
    }

    /// Stderr must be exactly this.
    pub fn stderr(mut self, text: &str) -> Self {
        self.stderr_all = Some(text.into());
        self
    }

    /// Stderr must contain this.
    pub fn stderr_has(mut self, text: &str) -> Self {
        self.stderr.push(text.into());
        self
    }

    /// Runs it to its end; the exit code must be 0.
    pub fn success(self) -> Printed {
        self.status(0)
    }

    /// Runs it to its end and checks the exit code and the expected output.
    pub fn status(self, code: i32) -> Printed {
        let (stdout, stderr, stderr_all) = (self.stdout.clone(), self.stderr.clone(), self.stderr_all.clone());
        let shown = format!("{:?}", self.command);
        let ended = self.end();
        assert_eq!(ended.status.code(), Some(code), "{shown}: {}", ended.printed.stderr);
        for text in stderr {
            assert!(ended.printed.stderr.contains(&text), "{shown}: no {text:?} in {:?}", ended.printed.stderr);
        }
        if let Some(stderr) = stderr_all {
            assert_eq!(ended.printed.stderr, stderr, "{shown}");
        }
        if let Some(stdout) = stdout {
            assert_eq!(String::from_utf8_lossy(&ended.printed.stdout), String::from_utf8_lossy(&stdout), "{shown}");
        }
        ended.printed
    }

    /// Runs it to its end; any exit code is accepted.
    pub fn end(mut self) -> Ended {
        let stdin = std::mem::take(&mut self.stdin);
        let mut running = self.spawn();
        let mut pipe = running.stdin.take().expect("piped");
        // A program may end before it has read all of its stdin; that is not an error.
        thread::spawn(move || pipe.write_all(&stdin).ok());
        running.finish()
    }

    /// Starts it; the test can then write to its stdin and read its stdout.
    pub fn spawn(self) -> Running {
        self.spawn_on(Stdio::piped(), Stdio::piped())
    }

    /// Starts two programs; the stdout of each is the stdin of the other.
    pub fn spawn_joined(self, other: Self) -> (Running, Running) {
        let ((there, to_there), (here, to_here)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
        (self.spawn_on(here.into(), to_there.into()), other.spawn_on(there.into(), to_here.into()))
    }

    /// Starts it with this stdin and stdout.
    pub fn spawn_on(self, stdin: Stdio, stdout: Stdio) -> Running {
        self.spawn_with(stdin, stdout, Stdio::piped())
    }

    /// Starts it with this stdin, stdout and stderr.
    pub fn spawn_with(mut self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Running {
        let mut child = self
            .command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|err| panic!("{:?}: {err} (scripts/test installs what the tests need)", self.command));
        // The child has its own copies of the pipe ends. These copies must be closed, or the pipes never end.
        drop(self.command);
        let lines = child.stdout.take().map_or_else(|| Lines::of(std::io::empty()), Lines::of);
        let stderr = child.stderr.take();
        let (send, said) = channel();
        thread::spawn(move || {
            let mut text = Vec::new();
            stderr.map(|mut stderr| stderr.read_to_end(&mut text));
            send.send(String::from_utf8_lossy(&text).into_owned()).ok();
        });
        Running { stdin: child.stdin.take(), pid: child.id(), lines, said, child: Some(child) }
    }
}

/// The lines of a stream, read by a thread.
struct Lines(Receiver<Vec<u8>>);

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (send, lines) = channel();
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            loop {
                let mut line = Vec::new();
                match stream.read_until(b'\n', &mut line) {
                    Ok(1..) if send.send(line).is_ok() => {}
                    _ => return,
                }
            }
        });
        Self(lines)
    }
}

/// A program that is running. It is killed when this value is dropped.
pub struct Running {
    pub stdin: Option<ChildStdin>,
    pid: u32,
    lines: Lines,
    said: Receiver<String>,
    child: Option<Child>,
}

/// The exit status and the output of a run.
pub struct Ended {
    pub status: ExitStatus,
    pub printed: Printed,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid as i32), signal).expect("the process exists");
    }

    /// Writes to its stdin, which stays open.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(bytes.as_ref()).and_then(|()| stdin.flush()).expect("the process reads its stdin");
    }

    /// Closes its stdin.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// The next line of its stdout, newline included.
    pub fn line(&mut self) -> String {
        match self.lines.0.recv_timeout(STEP) {
            Ok(line) => String::from_utf8(line).expect("UTF-8"),
            Err(err) => self.fail(&format!("no line on stdout: {err}")),
        }
    }

    /// The next line of its stdout, or `None` if it closes stdout before.
    pub fn next_line(&mut self) -> Option<String> {
        match self.lines.0.recv_timeout(STEP) {
            Ok(line) => Some(String::from_utf8(line).expect("UTF-8")),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => self.fail("no line on stdout"),
        }
    }

    /// The next line of its stdout if it has arrived already; this does not wait.
    pub fn line_now(&mut self) -> Option<String> {
        self.lines.0.try_recv().ok().map(|line| String::from_utf8(line).expect("UTF-8"))
    }

    /// Closes its stdin and waits until it ends.
    pub fn finish(mut self) -> Ended {
        self.close();
        self.wait()
    }

    /// Waits until it ends; its stdin stays open.
    pub fn wait(&mut self) -> Ended {
        self.wait_within(STEP)
    }

    /// As [`Running::wait`], with another time limit.
    pub fn wait_within(&mut self, longest: Duration) -> Ended {
        let mut stdout = Vec::new();
        loop {
            match self.lines.0.recv_timeout(longest) {
                Ok(line) => stdout.extend_from_slice(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.fail("the process did not end"),
            }
        }
        let mut child = self.child.take().expect("not waited for yet");
        let (send, status) = channel();
        thread::spawn(move || send.send(child.wait()).ok());
        // If stdout is not a pipe to the test, the loop above ends at once: then the time limit applies here.
        let Ok(status) = status.recv_timeout(longest) else { self.fail("the process did not end") };
        let stderr = self.said.recv_timeout(STEP).unwrap_or_else(|_| self.fail("stderr stays open"));
        Ended { status: status.expect("the exit status"), printed: Printed { stdout, stderr } }
    }

    fn fail(&mut self, why: &str) -> ! {
        kill(Pid::from_raw(self.pid as i32), Signal::SIGKILL).ok();
        panic!("{why}; stderr: {}", self.said.recv_timeout(STEP).unwrap_or_default());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The path of a file beside the log of format 1.
pub fn format_1_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format-1").join(name)
}

/// Runs a line of bash in which `$scuttleup` is the binary and `pipefail` is set.
pub fn shell(line: &str) -> Run {
    let mut script = OsString::from("set -o pipefail; scuttleup=\"$SCUTTLEUP\"; ");
    script.push(line);
    Run::program("bash").args([OsStr::new("-c"), &script]).env("SCUTTLEUP", SCUTTLEUP)
}

/// Appends lines; each line is a JSON value. The log is created if it does not exist.
pub fn append(log: &Path, lines: impl AsRef<[u8]>) {
    Run::new(log).args(["-q", "append"]).stdin(lines).stdout("").stderr("").success();
}

/// Whether the older entries of a log are in a pack. A test of the files of a log runs with both.
pub const PACKED: [bool; 2] = [false, true];

/// Seals all entries except the newest one, if `packed`.
pub fn compact_if(packed: bool, log: &Path) {
    if packed {
        Run::new(log).args(["-q", "compact"]).stdout("").stderr("").success();
        let info = &Run::new(log).args(["info"]).success().json()[0];
        assert!(info["packed_entries"].as_u64() > Some(0), "nothing was sealed: {info}");
    }
}

/// The output of `read`.
pub fn read(log: &Path) -> String {
    Run::new(log).args(["read"]).stderr("").success().text().to_owned()
}

/// Change lines without a hash, and the same lines with it.
pub fn hashed(lines: &str) -> String {
    let hashed = |line: &str| {
        let Content::Bytes(bytes) = parse_change(line).expect("a change line").content else { panic!("{line}") };
        let fields = line.trim_end().strip_suffix('}').expect("an object");
        format!("{fields},\"hash\":\"{:016x}\"}}\n", xxh3_64(&bytes))
    };
    lines.lines().map(hashed).collect()
}

/// The lines of `heads` without the marks `own` and `fork` and the floors, which differ between equal logs.
pub fn heads(log: &Path) -> Vec<String> {
    let printed = Run::new(log).args(["heads"]).success();
    let unmarked = |line: &str| {
        let line = line.replace(",\"own\":true", "").replace(",\"fork\":true", "");
        line.split_once(",\"floor\":").map_or(line.clone(), |(line, _)| format!("{line}}}"))
    };
    printed.lines().into_iter().map(unmarked).collect()
}

/// Messages of `replicate` without the label in their prefix: "scuttleup (a): …" becomes "scuttleup: …".
pub fn unlabelled(messages: &str) -> String {
    let line = |line: &str| match line.strip_prefix("scuttleup (").and_then(|rest| rest.split_once("): ")) {
        Some((_, message)) => format!("scuttleup: {message}"),
        None => line.to_owned(),
    };
    messages.split_inclusive('\n').map(line).collect()
}

/// The root of a log.
pub fn root(log: &Path) -> String {
    Run::new(log).args(["info"]).success().json()[0]["root"].as_str().expect("a root").to_owned()
}

/// Asserts that two logs hold the same entries.
pub fn assert_equal(a: &Path, b: &Path) {
    assert_eq!(heads(a), heads(b));
    assert_eq!(root(a), root(b));
}
