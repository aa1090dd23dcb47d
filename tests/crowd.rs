//! Many processes on one log at the same time, without a daemon and without polling.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Place, Run, Running, SCUTTLEUP, append, assert_equal, heads, read, root};

const APPENDERS: usize = 8;
const EACH: usize = 150;
const WATCHERS: usize = 50;

#[test]
fn eight_appenders_fifty_watchers_and_two_replications_at_once() {
    let place = Place::new();
    let (log, others) = (place.log("a"), ["b", "c"].map(|id| place.log(id)));
    append(&log, "\"first\"\n");
    let mut watchers: Vec<Running> = (0..WATCHERS).map(|_| Run::new(&log).args(["watch"]).spawn()).collect();
    let mut replications: Vec<Running> = others
        .iter()
        .map(|other| {
            let words = ["replicate", "--", SCUTTLEUP, "--log", other.to_str().expect("UTF-8"), "replicate"];
            Run::new(&log).args(words).spawn()
        })
        .collect();
    // The replications also bring entries of the other logs to log a.
    for other in &others {
        append(other, "\"theirs\"\n");
    }
    let mut appenders: Vec<Running> = (0..APPENDERS).map(|_| Run::new(&log).args(["append", "--ack"]).spawn()).collect();
    let mut acknowledged = BTreeMap::new();
    for n in 0..EACH {
        for (appender, running) in appenders.iter_mut().enumerate() {
            running.send(format!("\"{appender} {n}\"\n"));
        }
        for (appender, running) in appenders.iter_mut().enumerate() {
            let ack: serde_json::Value = serde_json::from_str(&running.line()).expect("JSON");
            acknowledged.insert(ack["seq"].as_u64().expect("a number"), format!("{appender} {n}"));
        }
    }
    for appender in appenders {
        assert_eq!(appender.finish().status.code(), Some(0));
    }
    // Each seq is acknowledged once, and each watcher prints all entries in the same order.
    assert_eq!(acknowledged.keys().copied().collect::<Vec<_>>(), (2..=1 + (APPENDERS * EACH) as u64).collect::<Vec<_>>());
    let all = 1 + APPENDERS * EACH + others.len();
    let seen: Vec<String> = watchers.iter_mut().map(|watcher| (0..all).map(|_| watcher.line()).collect()).collect();
    let stored = read(&log);
    assert!(seen.iter().all(|seen| *seen == stored), "a watcher printed other lines than `read`");
    for line in stored.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")) {
        if let Some(entry) = line["seq"].as_u64().filter(|_| line["peer"] == "a").and_then(|seq| acknowledged.get(&seq)) {
            assert_eq!(line["entry"], entry.as_str());
        }
    }
    for other in &others {
        let mut watching = Run::new(other).args(["read", "--live", "--no-entry"]).spawn();
        (0..all).for_each(|_| drop(watching.line()));
        assert_equal(&log, other);
    }
    replications.iter_mut().for_each(|replication| replication.signal(Signal::SIGTERM));
    for mut replication in replications {
        assert_eq!(replication.wait().status.code(), Some(143));
    }
}

#[test]
fn eight_processes_create_one_log() {
    let place = Place::new();
    for round in 0..10 {
        let log = place.path(&format!("log{round}"));
        let mut appenders: Vec<Running> = (0..8).map(|_| Run::new(&log).args(["-q", "append", "--ack"]).spawn()).collect();
        for appender in &mut appenders {
            appender.send("1\n");
        }
        let mut peers: Vec<String> = appenders
            .into_iter()
            .map(|appender| {
                let ended = appender.finish();
                assert_eq!((ended.status.code(), ended.printed.stderr.as_str()), (Some(0), ""));
                ended.printed.json()[0]["peer"].as_str().expect("an id").to_owned()
            })
            .collect();
        peers.dedup();
        assert_eq!(peers.len(), 1);
        assert_eq!(heads(&log), [format!("{{\"peer\":\"{}\",\"seq\":8}}", peers[0])]);
    }
}

#[test]
fn option_n_prints_exactly_n_entries_while_another_process_appends() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, (0..30_000).map(|n| format!("{n}\n")).collect::<String>());
    let mut appending = Run::new(&log).args(["append"]).spawn();
    let mut lines = appending.stdin.take().expect("piped");
    let writing = thread::spawn(move || while lines.write_all(b"1\n").is_ok() {});
    for args in [&["-n", "5"][..], &["-n", "5", "--peer", "a"]].repeat(25) {
        let printed = Run::new(&log).args(["read", "--no-entry"]).args(args).success();
        assert_eq!(printed.lines().len(), 5, "{args:?}: {}", printed.text());
    }
    appending.signal(Signal::SIGTERM);
    assert_eq!(appending.wait().status.code(), Some(143));
    writing.join().expect("the thread ends");
}

#[test]
fn only_one_of_eight_inits_creates_the_log() {
    let place = Place::new();
    let log = place.path("log");
    let inits: Vec<Running> = (0..8).map(|n| Run::new(&log).args(["init", "--id", &format!("id{n}")]).spawn()).collect();
    let codes: Vec<Option<i32>> = inits.into_iter().map(|init| init.finish().status.code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(1)).count(), 7, "{codes:?}");
    let made = codes.iter().position(|code| *code == Some(0)).expect("one");
    Run::new(&log).args(["id"]).stdout(format!("id{made}\n")).success();
}

#[test]
fn appends_deletions_and_copies_at_once_leave_a_consistent_log() {
    let place = Place::new();
    let (log, copy) = (place.log("a"), place.log("b"));
    append(&log, (0..2000).map(|n| format!("{n}\n")).collect::<String>());
    let script = "for n in $(seq 1 20); do echo $n | $SCUTTLEUP append; $SCUTTLEUP del a $((n * 7)); \
                  $SCUTTLEUP read | $SCUTTLEUP --log \"$COPY\" write; done";
    let runs: Vec<Running> = (0..4)
        .map(|_| {
            let run = Run::program("bash").args(["-ec", script]).env("SCUTTLEUP", SCUTTLEUP);
            run.env("SCUTTLEUP_LOG", &log).env("COPY", &copy).spawn()
        })
        .collect();
    for run in runs {
        let ended = run.finish();
        assert_eq!((ended.status.code(), ended.printed.stderr.as_str()), (Some(0), ""));
    }
    assert_equal(&log, &copy);
    assert_eq!(read(&log).matches("\"deleted\":true").count(), 20);
    assert_eq!(read(&log).lines().count(), 2080);
    assert_ne!(root(&log), "0".repeat(32));
}

/// The lines of a trace of `strace` after the first line that contains `from`.
fn trace_after(trace: &str, from: &str) -> Vec<String> {
    trace.lines().skip_while(|line| !line.contains(from)).skip(1).map(str::to_owned).collect()
}

#[test]
fn a_waiting_process_sleeps_until_an_event() {
    let place = Place::new();
    let (log, trace) = (place.log("a"), place.path("trace"));
    append(&log, "\"event-1\"\n");
    for (args, first, second) in [(["watch", "-n1"], "event-1", "event-2"), (["append", "--ack"], "\"seq\":3", "\"seq\":4")] {
        let strace = Run::program("strace").args(["-f", "-qq", "-s", "200", "-o"]).args([&trace]);
        let mut waiting = strace.args([SCUTTLEUP, "--log"]).args([&log]).args(args).spawn();
        let own = args[0] == "append";
        if own {
            waiting.send("3\n");
        }
        waiting.line();
        // These runs on another log take some time.
        for n in 0..20 {
            append(&place.path("other"), n.to_string());
        }
        if own {
            waiting.send("4\n");
        } else {
            append(&log, "\"event-2\"\n");
        }
        waiting.line();
        // The signal goes to the traced process: a signal to strace would not end it.
        let pid = fs::read_to_string(&trace).expect("the trace").split(' ').next().and_then(|pid| pid.parse().ok());
        kill(Pid::from_raw(pid.expect("a pid")), Signal::SIGTERM).expect("the process exists");
        assert_eq!(waiting.wait().status.code(), Some(143));
        let text = fs::read_to_string(&trace).expect("the trace");
        let between = trace_after(&text, &first.replace('"', "\\\""));
        let end = between.iter().position(|line| line.contains(&second.replace('"', "\\\""))).expect("the second event");
        let waits = |line: &&String| ["poll", "select", "epoll", "sleep", "futex"].iter().any(|call| line.contains(call));
        let finite: Vec<&String> = between[..end].iter().filter(waits).filter(|line| is_finite(line)).collect();
        assert!(finite.is_empty(), "{finite:#?}");
        // The number of calls that print one line does not depend on the length of the wait.
        assert!(end < 60, "{end} system calls between two events: {between:#?}");
    }
}

/// Whether a traced call waits with a finite timeout that is not 0. The line of a call that another thread interrupted ends
/// in `<unfinished ...>` instead of `) = `; its result is on a separate line (`poll resumed>`).
fn is_finite(line: &str) -> bool {
    let call = line.split(" = ").next().unwrap_or_default().trim_end_matches("<unfinished ...>").trim_end().trim_end_matches(')');
    let timeout = call.rsplit(", ").next().unwrap_or_default();
    call.contains("sleep(")
        || call.contains("tv_sec") && !call.contains("tv_sec=0, tv_nsec=0")
        || [" poll(", " epoll_wait("].iter().any(|name| call.contains(name)) && !["-1", "0"].contains(&timeout)
}

#[test]
fn traced_calls_with_a_finite_timeout_are_recognised() {
    let head = "10075 poll([{fd=0, events=POLLIN}], 1, ";
    for (rest, finite) in [
        ("0) = 0 (Timeout)", false),
        ("-1) = 1 ([{fd=0, revents=POLLIN}])", false),
        ("0 <unfinished ...>", false),
        ("-1 <unfinished ...>", false),
        ("1000) = 0 (Timeout)", true),
        ("1000 <unfinished ...>", true),
    ] {
        assert_eq!(is_finite(&format!("{head}{rest}")), finite, "{rest}");
    }
    assert!(!is_finite("10075 <... poll resumed>)           = 1 ([{fd=0, revents=POLLIN}])"));
    assert!(is_finite("10075 clock_nanosleep(CLOCK_REALTIME, 0, {tv_sec=1, tv_nsec=0}, NULL) = 0"));
    assert!(is_finite("10075 futex(0x7f, FUTEX_WAIT_BITSET, 1, {tv_sec=5, tv_nsec=0}, FUTEX_BITSET_MATCH_ANY <unfinished ...>"));
    assert!(!is_finite("10075 futex(0x7f, FUTEX_WAIT_PRIVATE, 1, NULL <unfinished ...>"));
}
