//! Several processes open and create the same log at once; some of them are stopped or killed while they do it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::harness::{Place, Run, Running, SCUTTLEUP, append, heads, read};

/// Waits until strace, which writes `trace`, reports a stopped process, and returns its pid; `None` when strace has ended.
pub fn stopped(trace: &mut File) -> Option<Pid> {
    let mut said = Vec::new();
    while !said.ends_with(b"stopped by SIGSTOP") {
        let mut byte = [0];
        if trace.read(&mut byte).expect("a trace") == 0 {
            return None;
        }
        said.push(byte[0]);
    }
    let said = String::from_utf8_lossy(&said);
    said.lines().last()?.split(' ').next()?.parse().ok().map(Pid::from_raw)
}

/// Starts a command on `log` under strace. Each of its threads is stopped after its `when`th call of `call` on a file of the
/// log. Returns the run and the trace that reports the stop.
pub fn to_be_stopped(place: &Place, log: &Path, args: &[&str], call: &str, when: u32) -> (Running, File) {
    let trace = place.path("trace");
    mkfifo(&trace, Mode::S_IRWXU).expect("a FIFO");
    let inject = format!("inject={call}:signal=SIGSTOP:when={when}");
    let strace = Run::program("strace").args(["-f", "-qq", "-e", &inject, "-o"]).args([&trace]);
    let strace =
        ["data.mdb", "bell", "lock.mdb", "created"].iter().fold(strace, |run, name| run.args(["-P"]).args([log.join(name)]));
    let run = strace.args([SCUTTLEUP, "--log"]).args([log]).args(args).spawn();
    (run, File::open(&trace).expect("strace writes to it"))
}

/// Whether no process holds the lock for opening: one byte of the lock file, see scuttleup-store(5).
fn can_be_opened(log: &Path) -> bool {
    let Ok(file) = File::options().write(true).open(log.join("lock.mdb")) else { return true };
    let (kind, from) = (libc::F_WRLCK as libc::c_short, libc::SEEK_SET as libc::c_short);
    let mut lock = libc::flock { l_type: kind, l_whence: from, l_start: 1 << 30, l_len: 1, l_pid: 0 };
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).expect("a local file system");
    i32::from(lock.l_type) == libc::F_UNLCK
}

/// Stops an appender after its `when`th call of `call` on the files of a log, and lets another appender create the log
/// meanwhile. Returns false if the first one already holds the lock for opening: then no other can create the log.
/// `early`: the data file exists and is empty, as after a kill at an early moment.
fn stopped_while_another_process_creates_the_log(call: &str, when: u32, early: bool) -> bool {
    let place = Place::new();
    let log = place.path("log");
    fs::create_dir(&log).expect("a directory");
    if early {
        fs::write(log.join("data.mdb"), "").expect("the data file");
    }
    let (mut slow, mut trace) = to_be_stopped(&place, &log, &["append", "--ack"], call, when);
    let pid = stopped(&mut trace).expect("the appender stops");
    let free = can_be_opened(&log);
    if free {
        append(&log, "\"first\"\n");
    }
    kill(pid, Signal::SIGCONT).expect("it exists");
    // Another thread of it may be stopped at the same call: continue it too.
    thread::spawn(move || while stopped(&mut trace).is_some_and(|pid| kill(pid, Signal::SIGCONT).is_ok()) {});
    slow.send("\"second\"\n");
    let acknowledged: serde_json::Value = serde_json::from_str(&slow.line()).expect("JSON");
    assert_eq!(acknowledged["seq"], if free { 2 } else { 1 }, "{call} {when} {early}");
    slow.close();
    assert_eq!(slow.wait().status.code(), Some(0));
    free
}

#[test]
fn a_log_that_another_process_creates_at_any_moment_is_opened() {
    for early in [false, true] {
        for call in ["openat", "statx", "pread64"] {
            let moments = (1..).take_while(|when| stopped_while_another_process_creates_the_log(call, *when, early)).count();
            assert!(moments >= 1 || call == "pread64", "{call}");
        }
    }
}

/// The number of processes that wait for a lock of this program on the lock file.
pub fn waiting(log: &Path) -> usize {
    let Ok(lock_file) = log.join("lock.mdb").metadata() else { return 0 };
    let locks = fs::read_to_string("/proc/locks").expect("/proc/locks");
    locks.lines().filter(|line| line.contains(" -> OFDLCK") && line.contains(&format!(":{} ", lock_file.ino()))).count()
}

/// Sends `signal` to a process after its `when`th call of `call`, while it opens a log with `count` commits and two appenders
/// wait. Returns false if the process ended before this call. With `count` 0 there is no log yet, and all three create it.
fn killed_while_it_opens(count: u64, signal: Signal, call: &str, when: u32) -> bool {
    let place = Place::new();
    let log = place.path("log");
    fs::create_dir(&log).expect("a directory");
    (0..count).for_each(|n| append(&log, format!("{n}\n")));
    let args = if count == 0 { "init" } else { "read" };
    let (mut opening, mut trace) = to_be_stopped(&place, &log, &[args], call, when);
    let Some(pid) = stopped(&mut trace) else { return false };
    let mut appending: Vec<Running> = (0..2).map(|_| Run::new(&log).args(["-q", "append", "--ack"]).spawn()).collect();
    let mut acknowledged = Vec::new();
    for (started, run) in (1..).zip(&mut appending) {
        run.send("\"kept\"\n");
        let line = loop {
            match run.line_now() {
                None if acknowledged.len() + waiting(&log) < started => thread::yield_now(),
                line => break line,
            }
        };
        acknowledged.extend(line.map(|line| line.trim().to_owned()));
    }
    kill(pid, signal).and_then(|()| kill(pid, Signal::SIGCONT)).ok();
    opening.close();
    opening.wait();
    for mut run in appending {
        run.close();
        let ended = run.wait();
        assert_eq!((ended.status.code(), &*ended.printed.stderr), (Some(0), ""), "{count} {signal} {call} {when}");
        acknowledged.extend(ended.printed.lines().into_iter().map(str::to_owned));
    }
    let own = heads(&log).remove(0).replace(",\"own\":true", "");
    assert!(acknowledged.contains(&own), "{count} {signal} {call} {when}: {own} is not the last of {acknowledged:?}");
    assert_eq!(read(&log).lines().count() as u64, count + 2, "{count} {signal} {call} {when}");
    true
}

/// LMDB initialises its lock file in the first process, and the others wait for it: see `lockfile` in the store.
#[test]
fn a_process_killed_while_it_opens_a_log_does_no_harm() {
    // The newest commit is on the first meta page, on the second meta page, and there is no commit.
    for (count, signal) in [(2, Signal::SIGKILL), (3, Signal::SIGTERM), (0, Signal::SIGKILL)] {
        let mut moments = 0;
        let calls = [("openat", 9), ("pread64", 9), ("fcntl", 9), ("mmap", 9), ("fstatfs", 9), ("ftruncate", 9), ("lseek", 9)];
        for (call, most) in calls {
            moments += (1..=most).take_while(|when| killed_while_it_opens(count, signal, call, *when)).count();
        }
        assert!(moments > 10, "{count}: {moments}");
    }
}

#[test]
fn a_data_file_that_is_replaced_under_a_watcher_is_not_written() {
    let place = Place::new();
    let (log, newer) = (place.log("a"), place.path("newer"));
    (0..3).for_each(|n| append(&log, format!("{n}\n")));
    fs::create_dir(&newer).expect("a directory");
    fs::copy(log.join("data.mdb"), newer.join("data.mdb")).expect("a copy");
    Run::new(&newer).args(["id", "--keep"]).success();
    (3..20).for_each(|n| append(&newer, format!("{n}\n")));
    let mut watching = Run::new(&log).args(["watch"]).spawn();
    watching.line();
    // Otherwise it ends at once, and the lock file is set up again.
    watching.signal(Signal::SIGSTOP);
    // As when a backup is restored. LMDB's lock file still has the transaction numbers of the old data file.
    fs::rename(newer.join("data.mdb"), log.join("data.mdb")).expect("the data file is replaced");
    let refused =
        Run::new(&log).args(["append", "--ack"]).stdin("20\n").stdout("").stderr_has("files of the log were removed or replaced");
    refused.stderr_has("end all of these processes").status(1);
    watching.signal(Signal::SIGCONT);
    assert_eq!(watching.wait().status.code(), Some(1));
    append(&log, "20\n");
    assert_eq!(read(&log).lines().count(), 21);
}

/// Sends a line to an appender whose log files were removed or replaced: it must end with an error and acknowledge nothing.
fn assert_refused(mut appending: Running, line: &str) {
    appending.send(line);
    let ended = appending.wait();
    assert_eq!((ended.status.code(), &*ended.printed.stdout), (Some(1), &b""[..]));
    assert!(ended.printed.stderr.contains("files of the log were removed or replaced"), "{}", ended.printed.stderr);
}

#[test]
fn a_lock_file_that_is_removed_under_a_writer_loses_nothing() {
    let place = Place::new();
    let log = place.log("a");
    let mut first = Run::new(&log).args(["append", "--ack"]).spawn();
    first.send("1\n");
    assert_eq!(first.line(), "{\"peer\":\"a\",\"seq\":1}\n");
    fs::remove_file(log.join("lock.mdb")).expect("it exists");
    append(&log, "2\n");
    assert_refused(first, "3\n");
    append(&log, "3\n");
    let stored: Vec<u64> =
        Run::new(&log).args(["read"]).success().json().iter().filter_map(|line| line["entry"].as_u64()).collect();
    assert_eq!(stored, [1, 2, 3]);
}

#[test]
fn appends_to_a_removed_or_replaced_data_file_are_not_acknowledged() {
    for removed in [true, false] {
        let place = Place::new();
        let (log, other) = (place.log("a"), place.log("b"));
        let mut appending = Run::new(&log).args(["append", "--ack"]).spawn();
        appending.send("1\n");
        appending.line();
        if removed {
            fs::remove_dir_all(&log).expect("it exists");
        } else {
            fs::rename(other.join("data.mdb"), log.join("data.mdb")).expect("the data file is replaced");
        }
        assert_refused(appending, "2\n");
    }
}

/// LMDB keeps the pages that a reader may still use. Killed readers must not make the data file grow during later writes.
#[test]
fn killed_readers_do_not_make_the_data_file_grow() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, (0..100_000).map(|n| format!("{n}\n")).collect::<String>());
    let mut appending = Run::new(&log).args(["append", "--ack"]).spawn();
    let mut commit = || {
        appending.send("1\n");
        appending.line();
    };
    commit();
    for _ in 0..40 {
        // Its stdout pipe is full, so it is killed in the middle of its read transaction.
        let mut reading = Run::new(&log).args(["read"]).spawn();
        reading.line();
        reading.signal(Signal::SIGKILL);
    }
    let length = || fs::metadata(log.join("data.mdb")).expect("the data file").len();
    let before = length();
    (0..400).for_each(|_| commit());
    let grown = length() - before;
    // If pages of killed readers are kept, each commit takes six or more new pages; otherwise about one.
    assert!(grown < 5 << 20, "{grown}");
}

#[test]
fn the_directories_of_a_new_log_are_synced_before_its_first_commit() {
    let place = Place::new();
    let (log, trace) = (place.path("new/log"), place.path("trace"));
    let strace = Run::program("strace").args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"]).args([&trace]);
    strace.args([SCUTTLEUP, "--log"]).args([&log]).args(["init"]).success();
    let trace = fs::read_to_string(trace).expect("a trace");
    let calls: Vec<&str> = trace.lines().filter_map(|line| line.split([' ', '(']).find(|word| word.ends_with("sync"))).collect();
    // fsync of the log directory, of the new parent directory and of its parent; the commit that creates the tables; fsync of
    // the file `created` and of the log directory.
    let commit = calls.iter().position(|call| *call == "fdatasync").expect("a commit");
    let is_fsync = |calls: &[&str]| calls.iter().all(|call| *call == "fsync");
    assert!(commit >= 3 && is_fsync(&calls[..commit]), "{trace}");
    assert!(calls.len() == commit + 3 && is_fsync(&calls[commit + 1..]), "{trace}");
}
