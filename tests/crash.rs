//! Killed processes: acknowledged entries stay stored, and other processes go on.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scuttleup::Log;

use crate::call_faults::{CALLS, FAILING_CALLS, Fault, assert_whole, at_each_call};
use crate::harness::{PACKED, Place, Run, Running, SCUTTLEUP, append, assert_equal, compact_if, hashed, heads, read};
use crate::opening::{stopped, to_be_stopped};

/// The entries of the local feed as text, by seq.
fn entries(log: &Path) -> BTreeMap<u64, String> {
    let printed = Run::new(log).args(["read", "--text"]).success();
    let entry = |change: serde_json::Value| {
        (change["seq"].as_u64().expect("a number"), change["text"].as_str().expect("text").to_owned())
    };
    printed.json().into_iter().map(entry).collect()
}

/// An appender under strace with the option `inject`.
fn injected(log: &Path, inject: &str) -> Running {
    let strace = ["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={inject}"), SCUTTLEUP, "--log"].map(str::to_owned);
    Run::program("strace").args(strace).args([log]).args(["append", "--ack"]).spawn()
}

#[test]
fn acknowledged_entries_survive_a_kill_in_the_middle_of_a_stream() {
    PACKED.into_iter().for_each(kill_in_the_middle_of_a_stream);
}

/// `packed`: what was stored is sealed after each kill.
fn kill_in_the_middle_of_a_stream(packed: bool) {
    let place = Place::new();
    let log = place.log("a");
    let mut expected = 0;
    for round in 0..8u64 {
        let mut appending = Run::new(&log).args(["append", "--ack"]).spawn();
        let mut stdin = appending.stdin.take().expect("stdin is a pipe");
        // Writes until the appender is killed.
        let feeding = thread::spawn(move || {
            let lines: String = (0..1000).map(|n| format!("\"{round} {n}\"\n")).collect();
            while stdin.write_all(lines.as_bytes()).is_ok() {}
        });
        let mut acknowledged = expected;
        for _ in 0..round * 700 + 1 {
            let ack: serde_json::Value = serde_json::from_str(&appending.line()).expect("JSON");
            acknowledged += 1;
            assert_eq!(ack["seq"], acknowledged);
        }
        appending.signal(Signal::SIGKILL);
        feeding.join().expect("the thread ends with the appender");
        let ended = appending.wait();
        assert_eq!(ended.status.signal(), Some(9));
        // Acknowledgements that were still in the pipe also count; the last line may be truncated.
        let late = ended.printed.stdout.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let stored = entries(&log);
        let head = stored.len() as u64;
        assert!(head >= acknowledged + late, "{head} stored, {acknowledged} + {late} acknowledged");
        // A prefix of the lines of this round is stored, each line once.
        for (at, (seq, entry)) in stored.iter().skip(expected as usize).enumerate() {
            assert_eq!((*seq, entry), (expected + 1 + at as u64, &format!("\"{round} {}\"", at % 1000)));
        }
        compact_if(packed, &log);
        expected = head;
    }
    append(&log, "1");
    assert_eq!(heads(&log), [format!("{{\"peer\":\"a\",\"seq\":{}}}", expected + 1)]);
}

#[test]
fn a_kill_at_any_step_of_a_commit_leaves_all_of_it_or_nothing() {
    // The steps of a commit: the pages, the sync, the meta page that makes the commit valid, the notification.
    let steps = [
        ("pwrite64,pwritev,writev:signal=SIGKILL:when=1", Some(2)),
        ("fdatasync:signal=SIGKILL:when=1", Some(2)),
        // Some kernels finish the call before the signal: whether the commit is valid depends on what this call writes.
        ("pwrite64:signal=SIGKILL:when=1", None),
        ("pwrite64:signal=SIGKILL:when=2", Some(3)),
        ("exit_group:signal=SIGKILL:when=1", Some(3)),
    ];
    for (packed, (inject, stored)) in PACKED.into_iter().flat_map(|packed| steps.map(|step| (packed, step))) {
        let place = Place::new();
        let log = place.log("a");
        append(&log, "1\n2\n");
        compact_if(packed, &log);
        let mut watching = Run::new(&log).args(["watch"]).spawn();
        (1..=2).for_each(|_| drop(watching.line()));
        let mut appending = injected(&log, inject);
        appending.send("3\n");
        let ended = appending.finish();
        assert_eq!(ended.status.signal(), Some(9), "{inject}: {}", ended.printed.stderr);
        let count = entries(&log).len();
        // With free pages, a commit has more calls of pwrite64 for its pages.
        let is_known = !(packed && inject.starts_with("pwrite64:"));
        assert!(stored.is_none_or(|stored| stored == count || !is_known), "{inject}: {count}");
        // The end of the appender notifies the watcher of the stored entries. The next appender can append at once.
        let line = |seq, entry| hashed(&format!("{{\"offset\":{seq},\"peer\":\"a\",\"seq\":{seq},\"entry\":{entry}}}\n"));
        (3..=count).for_each(|seq| assert_eq!(watching.line(), line(seq, seq), "{inject}"));
        append(&log, "4");
        assert_eq!(watching.line(), line(count + 1, 4));
    }
}

#[test]
fn a_kill_while_a_log_is_created_leaves_a_log_or_nothing() {
    let kills = created_with(Fault::Kill, &CALLS);
    assert!(kills > 10, "only {kills} kills");
}

#[test]
fn a_failing_call_while_a_log_is_created_is_reported_and_leaves_a_log_or_nothing() {
    for fault in [Fault::Full, Fault::Broken] {
        let faults = created_with(fault, &FAILING_CALLS);
        assert!(faults > 10, "only {faults} faults");
    }
}

/// Creates a log with a fault in each of the calls. Returns the number of faults.
fn created_with(fault: Fault, calls: &[&'static str]) -> u32 {
    at_each_call(fault, calls, |step| {
        let place = Place::new();
        let log = place.path("log");
        let (hit, ended) = step.run(&log, &["-q", "append", "--ack"], "1\n");
        // It is a log or no log, and never a damaged log.
        let found = Run::new(&log).args(["heads"]).end();
        assert!(found.status.success() || found.printed.stderr.contains("no log in "), "{step}: {}", found.printed.stderr);
        let acknowledged = ended.printed.lines().len();
        append(&log, "2");
        let stored = read(&log).lines().count();
        assert!((acknowledged + 1..=2).contains(&stored), "{step}: {stored}");
        assert_whole(&log, step);
        let mut watching = Run::new(&log).args(["watch"]).spawn();
        watching.line();
        hit
    })
}

#[test]
fn an_appender_that_a_signal_ends_stores_the_lines_it_has_read() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let place = Place::new();
        let log = place.log("a");
        // A signal while it waits for input: an incomplete line is not an entry.
        let mut appending = Run::new(&log).args(["append", "--ack"]).spawn();
        appending.send("1\n2");
        appending.line();
        appending.signal(signal);
        let ended = appending.wait();
        let said = "scuttleup: stopped: 1 entry of this input is stored: continue with line 2\n";
        assert_eq!((ended.status.code(), ended.printed.stderr.as_str()), (Some(code), said));
        // A signal in the middle of a commit: the commit is finished.
        let mut appending = injected(&log, &format!("fdatasync:signal={signal}:when=1"));
        appending.send("2\n3\n");
        let ended = appending.wait();
        assert_eq!(ended.status.code(), Some(code));
        assert_eq!(ended.printed.text().lines().next(), Some("{\"peer\":\"a\",\"seq\":2}"));
        let acknowledged = 1 + ended.printed.lines().len();
        assert_eq!(entries(&log).len(), acknowledged);
    }
}

/// 2049 lines. The first one has 4 MiB and fills a batch, so that the batch is certainly committed; the others have 1 KiB.
fn more_than_a_batch() -> String {
    let first = format!("\"{}\"\n", "x".repeat(4 << 20));
    first + &(2..2050).map(|n| format!("\"{n:01021}\"\n")).collect::<String>()
}

#[test]
fn a_signal_while_a_commit_waits_loses_no_line_that_was_read() {
    let place = Place::new();
    let path = place.log("a");
    let log = Log::open(&path).expect("a log");
    let writer = log.writer().expect("no other writer");
    let mut appending = Run::new(&path).args(["append", "--ack"]).spawn();
    // The first batch waits for the write lock of the test; lines that are read later wait for the first batch.
    appending.send(more_than_a_batch());
    appending.signal(Signal::SIGTERM);
    drop(writer);
    let ended = appending.wait();
    let stored = read(&path).lines().count();
    let said = format!("scuttleup: stopped: {stored} entries of this input are stored: continue with line {}\n", stored + 1);
    assert_eq!((ended.status.code(), ended.printed.stderr.as_str()), (Some(143), said.as_str()));
    assert_eq!(ended.printed.lines().len(), stored);
    // The appender has read all 2049 lines except for the content of the pipe.
    assert!(stored > 1024, "{stored}");
}

#[test]
fn a_write_that_a_signal_ends_stores_the_lines_it_has_read() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let place = Place::new();
        let log = place.log("a");
        let mut watching = Run::new(&log).args(["read", "--live"]).spawn();
        let mut writing = Run::new(&log).args(["write"]).spawn();
        writing.send("{\"peer\":\"p\",\"seq\":1,\"entry\":1}\n");
        watching.line();
        writing.signal(signal);
        let ended = writing.wait();
        let said = "scuttleup: stopped: 1 new entry of this input is stored: continue with line 2\n";
        assert_eq!((ended.status.code(), ended.printed.stderr.as_str()), (Some(code), said));
        assert_eq!(read(&log).lines().count(), 1);
    }
}

#[test]
fn killed_and_stopped_readers_block_no_other_process() {
    PACKED.into_iter().for_each(kill_and_stop_readers);
}

fn kill_and_stop_readers(packed: bool) {
    let place = Place::new();
    let log = place.log("a");
    append(&log, (0..50_000).map(|n| format!("{n}\n")).collect::<String>());
    compact_if(packed, &log);
    // More than LMDB's default of 126 readers are killed and leave their reader slots occupied; some are in a read transaction.
    for round in 0..150 {
        let mut reading = Run::new(&log).args(["read", "--live"]).spawn();
        if round % 10 == 0 {
            reading.line();
        }
        reading.signal(Signal::SIGKILL);
    }
    // This reader is stopped while its pipe is full.
    let mut stopped = Run::new(&log).args(["read", "--live"]).spawn();
    stopped.line();
    stopped.signal(Signal::SIGSTOP);
    append(&log, "1\n2\n");
    assert_eq!(read(&log).lines().count(), 50_002);
    stopped.signal(Signal::SIGCONT);
    for _ in 1..50_002 {
        stopped.line();
    }
}

/// Sends the signal repeatedly until the process has ended; returns its exit code.
fn signal_until_end(mut run: Running, signal: Signal) -> Option<i32> {
    let (end, ended) = channel::<()>();
    let pid = Pid::from_raw(i32::try_from(run.pid()).expect("a pid"));
    let signals = thread::spawn(move || {
        while ended.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout) {
            kill(pid, signal).ok();
        }
    });
    let code = run.wait().status.code();
    drop(end);
    signals.join().expect("the thread does not panic");
    code
}

#[test]
fn a_killed_writer_releases_its_lock_to_waiting_writers() {
    let place = Place::new();
    let log = place.log("a");
    // The first writer is stopped in the middle of its commit; the others wait for its lock.
    let (mut holding, mut trace) = to_be_stopped(&place, &log, &["append"], "fdatasync", 1);
    holding.send("0\n");
    let pid = stopped(&mut trace).expect("the writer stops in its commit");
    let mut waiting: Vec<Running> = (0..4).map(|_| Run::new(&log).args(["append", "--ack"]).spawn()).collect();
    for (number, waiting) in waiting.iter_mut().enumerate() {
        waiting.send(format!("{number}\n"));
    }
    // One waiting writer is ended by a signal: the line that it has read is not stored.
    let mut impatient = Run::new(&log).args(["append"]).spawn();
    impatient.send("\"lost\"\n");
    impatient.close();
    assert_eq!(signal_until_end(impatient, Signal::SIGTERM), Some(143));
    // Readers do not wait for the lock.
    assert_eq!(read(&log), "");
    assert!(waiting.iter_mut().all(|waiting| waiting.line_now().is_none()));
    kill(pid, Signal::SIGKILL).expect("the process exists");
    let mut seqs: Vec<String> = waiting.iter_mut().map(Running::line).collect();
    seqs.sort();
    assert_eq!(seqs, [1, 2, 3, 4].map(|seq| format!("{{\"peer\":\"a\",\"seq\":{seq}}}\n")));
    let other = place.log("b");
    Run::new(&other).args(["write"]).stdin(read(&log)).success();
    assert_equal(&log, &other);
}
