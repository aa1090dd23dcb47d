//! Timeouts: a remote that is silent or sends nothing useful times out; an idle remote does not.

use std::fs::File;
use std::io::{PipeWriter, Read, Write, pipe};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scuttleup::{Ending, Log, Options, Outcome, Wire, replicate};

use crate::frames::{PREAMBLE, SYNC, handshake};
use crate::harness::{Ended, Place, Running, append, assert_equal, shell};
use crate::native_frames as native;
use crate::replicate::await_entries;

use super::{report, with_log};

/// The time limit for a timeout after 60 seconds of silence, with reserve for a busy machine.
const TIMEOUT_MAX: Duration = Duration::from_secs(75);

/// The first child of a process.
fn child(of: &Running) -> i32 {
    let printed = shell("pgrep -P \"$OF\"").env("OF", of.pid().to_string()).success();
    printed.lines()[0].parse().expect("a pid")
}

fn assert_timed_out(ended: &Ended) {
    assert_eq!(ended.status.code(), Some(3), "{}", ended.printed.stderr);
    assert!(ended.printed.stderr.contains("the remote timed out: "), "{}", ended.printed.stderr);
}

/// All cases run at the same time, because each takes a minute.
#[test]
fn a_silent_remote_times_out_and_an_idle_one_does_not() {
    let place = Place::new();
    let logs: Vec<_> = (0..9).map(|n| place.log(&format!("log{n}"))).collect();
    for log in &logs {
        append(log, "1\n");
    }
    let met = |a: usize, b: usize| {
        await_entries(&logs[a], &format!("log{b}"), 1);
        await_entries(&logs[b], &format!("log{a}"), 1);
    };
    // Two idle processes.
    let (mut idle_a, mut idle_b) = super::replicate(&logs[0], &["--json"]).spawn_joined(super::replicate(&logs[1], &["--json"]));
    met(0, 1);
    // A remote that is stopped.
    let (mut lives, stopped) = super::replicate(&logs[2], &[]).spawn_joined(super::replicate(&logs[3], &[]));
    met(2, 3);
    stopped.signal(Signal::SIGSTOP);
    // A COMMAND that is stopped; it must be killed.
    let mut commander = super::replicate(&logs[4], &[]).args(with_log(&logs[5])).spawn();
    met(4, 5);
    let command = child(&commander);
    kill(Pid::from_raw(command), Signal::SIGSTOP).expect("the process exists");
    // A stopped socat between the two processes.
    let server = format!("EXEC:'{}'", with_log(&logs[7])[1..].join(" "));
    let mut relayed = super::replicate(&logs[6], &[]).args(["--", "socat", "-", &server]).spawn();
    met(6, 7);
    let relay = child(&relayed);
    kill(Pid::from_raw(relay), Signal::SIGSTOP).expect("the process exists");
    // `append` does not wait for these sessions, even with more to send than a pipe holds.
    let lines = format!("\"{}\"\n", "x".repeat(1000)).repeat(5000);
    for log in &logs[2..8] {
        append(log, &lines);
    }
    assert_timed_out(&lives.wait_within(TIMEOUT_MAX));
    assert_timed_out(&relayed.wait_within(TIMEOUT_MAX));
    // COMMAND shares this stderr: it ends only when COMMAND has ended.
    assert_timed_out(&commander.wait_within(TIMEOUT_MAX));
    assert!(kill(Pid::from_raw(command), None).is_err() && kill(Pid::from_raw(relay), None).is_err());
    drop(stopped);
    // The idle session is still live more than a minute after its last entry.
    append(&logs[0], "\"after a minute\"\n");
    await_entries(&logs[1], "log0", 2);
    idle_a.signal(Signal::SIGTERM);
    assert_eq!(idle_a.wait().status.code(), Some(143));
    let report = report(&idle_b.wait());
    assert_eq!((report["received"].as_u64(), report["exit"].as_u64()), (Some(2), Some(3)), "{report}");
    assert_equal(&logs[0], &logs[1]);
}

/// The same with the library, which lets a test set the times: the remote becomes silent at several points of the opening.
#[test]
fn a_silent_remote_times_out_at_any_point_of_the_opening() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1\n");
    append(&b, "1\n2\n");
    let (a, b) = (Arc::new(Log::open(&a).expect("a log")), Log::open(&b).expect("a log"));
    let options = Options { heartbeat_millis: 20, silence_millis: 300, ..Options::default() };
    for words in [8, 9, 20, 60] {
        let ((there, mut to_a), (mut from_a, out)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
        let said = opening(&b, words);
        to_a.write_all(&said).expect("the pipe is open");
        let (send, outcome) = channel();
        let a = Arc::clone(&a);
        thread::spawn(move || send.send(replicate(&a, there, out, options, &|_| ())).ok());
        let outcome = outcome.recv_timeout(TIMEOUT_MAX).expect("the session ends").expect("no error");
        assert!(has_timed_out(&outcome) && !outcome.complete(), "{words}: {outcome:?}");
        assert_eq!(outcome.wire, Some(Wire::Native));
        let mut heard = Vec::new();
        from_a.read_to_end(&mut heard).expect("a pipe");
        // It has sent several heartbeats and, at the end, the reason.
        assert!(heard.windows(3).any(|part| part == [0, 0, 0]), "{words}: {heard:?}");
        assert!(heard.windows(10).any(|part| part == b"timed out "), "{words}: {heard:?}");
        drop(to_a);
    }
}

#[test]
fn the_default_timeout_is_60_seconds_and_the_default_heartbeat_15_seconds() {
    let usual = Options::default();
    assert_eq!((usual.heartbeat_millis, usual.silence_millis), (15_000, 60_000));
}

/// The original wire has no heartbeats: a one-shot session that has sent everything waits no longer than the timeout.
#[test]
fn a_remote_that_never_ends_the_original_wire_times_out() {
    let place = Place::new();
    let path = place.log("a");
    append(&path, "1\n");
    let log = Log::open(path).expect("a log");
    let ((input, mut to_it), (send, outcome)) = (pipe().expect("a pipe"), channel());
    let null = File::options().write(true).open("/dev/null").expect("/dev/null");
    to_it.write_all(&handshake("b", &[("b", 1)], SYNC)).expect("a pipe");
    let options = Options { once: true, wire: Some(Wire::Original), silence_millis: 300, ..Options::default() };
    thread::spawn(move || send.send(replicate(&log, input, null, options, &|_| ()).expect("no error")).ok());
    let outcome = outcome.recv_timeout(TIMEOUT_MAX).expect("the session ends");
    assert!(has_timed_out(&outcome) && !outcome.complete(), "{outcome:?}");
    assert_eq!((outcome.sent, outcome.missing), (1, 1), "{outcome:?}");
    drop(to_it);
}

/// Parts of a long entry that arrive slowly count as a sign of life.
#[test]
fn a_slow_entry_does_not_time_out() {
    let place = Place::new();
    let log = Arc::new(Log::open(place.log("a")).expect("a log"));
    let long = "x".repeat(10_000);
    let (entry, chain) = ([long.as_str()], native::chain_of("b", &[long.as_str()]));
    let heads = native::heads(&[("b", 1, chain)], true);
    let said = [PREAMBLE, &native::hello("b", SYNC, true, 7), &heads, &native::feed(0, "b"), &native::run(0, 1, &entry, chain)];
    let said = said.concat();
    let outcome = session_with_input(&log, false, move |mut to_it| {
        for part in said.chunks(1100) {
            to_it.write_all(part).ok();
            channel::<()>().1.recv_timeout(Duration::from_millis(100)).ok();
        }
    });
    let outcome = outcome.recv_timeout(TIMEOUT_MAX).expect("the session ends");
    assert_eq!((outcome.received, has_timed_out(&outcome)), (1, false), "{outcome:?}");
}

fn has_timed_out(outcome: &Outcome) -> bool {
    matches!(outcome.ending, Ending::RemoteTimedOut(_))
}

/// Starts a session on `log` whose input is written by `speak`; returns a channel with the outcome.
fn session_with_input(log: &Arc<Log>, await_opening: bool, speak: impl FnOnce(PipeWriter) + Send + 'static) -> Receiver<Outcome> {
    let (input, to_it) = pipe().expect("a pipe");
    let null = File::options().write(true).open("/dev/null").expect("/dev/null");
    let options = Options { heartbeat_millis: 20, silence_millis: 300, await_opening, ..Options::default() };
    let (send, outcome) = channel();
    let log = Arc::clone(log);
    thread::spawn(move || send.send(replicate(&log, input, null, options, &|_| ()).expect("no error")).ok());
    thread::spawn(move || speak(to_it));
    outcome
}

/// Bytes without meaning do not count as a sign of life.
#[test]
fn a_remote_that_sends_nothing_useful_times_out() {
    let place = Place::new();
    let (path, other) = (place.log("a"), place.log("b"));
    let (log, other) = (Arc::new(Log::open(path).expect("a log")), Log::open(other).expect("a log"));
    let (close, closed) = channel::<()>();
    let patient = session_with_input(&log, true, move |to_it| drop((closed.recv(), to_it)));
    let timed_out = [
        session_with_input(&log, false, std::mem::forget),
        // Silent in the middle of the preamble, and in the middle of a Handshake.
        session_with_input(&log, false, |mut to_it| std::mem::forget((to_it.write_all(b"\x80\x80"), to_it))),
        session_with_input(&log, false, |mut to_it| std::mem::forget((to_it.write_all(b"\x14\x0a\x05ali"), to_it))),
        // Endless empty frames, as from /dev/zero.
        session_with_input(&log, false, |mut to_it| while to_it.write_all(&[0; 1 << 16]).is_ok() {}),
        // A damaged length: the heartbeats are read as part of the frame.
        session_with_input(&log, false, {
            let said = [opening(&other, 8), b"\xff\x7f\x04".to_vec()].concat();
            move |mut to_it| {
                let mut more = &said[..];
                while to_it.write_all(more).is_ok() {
                    // The interval of the heartbeats.
                    channel::<()>().1.recv_timeout(Duration::from_millis(20)).ok();
                    more = b"\0";
                }
            }
        }),
    ];
    for (nth, outcome) in timed_out.into_iter().enumerate() {
        let outcome = outcome.recv_timeout(TIMEOUT_MAX).unwrap_or_else(|_| panic!("session {nth} does not time out"));
        assert!(has_timed_out(&outcome) && !outcome.complete(), "{nth}: {outcome:?}");
    }
    // With `await_opening` there is no timeout before the opening: a user may have to type a password.
    assert_eq!(patient.try_recv(), Err(TryRecvError::Empty));
    drop(close);
    assert!(!has_timed_out(&patient.recv_timeout(TIMEOUT_MAX).expect("the session ends")));
}

/// The first `count` bytes that a log sends on the native wire.
fn opening(log: &Log, count: usize) -> Vec<u8> {
    let ((input, mut to_it), (mut from_it, output)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
    to_it.write_all(b"\x80\x80\x80\0\x80\x80\0\0").expect("a pipe");
    drop(to_it);
    replicate(log, input, output, Options::default(), &|_| ()).expect("no error");
    let mut said = Vec::new();
    from_it.read_to_end(&mut said).expect("a pipe");
    said.truncate(count);
    said
}

/// Writes `said`, then an empty frame at each interval of the heartbeats, until the session ends.
fn say_and_beat(said: Vec<u8>) -> impl FnOnce(PipeWriter) + Send + 'static {
    say_and_send(said, 1)
}

/// As [`say_and_beat`], with so many empty frames at each interval.
fn say_and_send(said: Vec<u8>, count: usize) -> impl FnOnce(PipeWriter) + Send + 'static {
    move |mut to_it| {
        let (mut more, empty) = (&said[..], vec![0; count]);
        while to_it.write_all(more).is_ok() {
            channel::<()>().1.recv_timeout(Duration::from_millis(20)).ok();
            more = &empty;
        }
    }
}

/// Empty frames show that a native remote is alive, but not that it reads. A reader of single bytes is as bad.
#[test]
fn a_remote_that_does_not_read_times_out_although_it_sends() {
    let place = Place::new();
    let path = place.log("a");
    append(&path, format!("\"{}\"\n", "x".repeat(1000)).repeat(2000));
    let log = Arc::new(Log::open(path).expect("a log"));
    let native = [PREAMBLE, &native::hello("b", SYNC, true, 7), &native::heads(&[], true)].concat();
    for (wire, said) in [(Wire::Native, native), (Wire::Original, handshake("b", &[], SYNC))] {
        for reads_bytes in [false, true] {
            let ((input, to_it), (mut from_it, output)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
            let options = Options { wire: Some(wire), heartbeat_millis: 20, silence_millis: 300, ..Options::default() };
            let ((send, outcome), log, said) = (channel(), Arc::clone(&log), said.clone());
            thread::spawn(move || send.send(replicate(&log, input, output, options, &|_| ()).expect("no error")).ok());
            thread::spawn(move || say_and_beat(said)(to_it));
            let (stop, stopped) = channel::<()>();
            let reader = thread::spawn(move || {
                while reads_bytes && stopped.recv_timeout(Duration::from_millis(20)) == Err(RecvTimeoutError::Timeout) {
                    from_it.read_exact(&mut [0]).ok();
                }
                stopped.recv().ok();
            });
            let outcome = outcome.recv_timeout(TIMEOUT_MAX).expect("the session ends");
            assert!(has_timed_out(&outcome) && outcome.unsent > 0, "{wire:?}: {outcome:?}");
            drop(stop);
            reader.join().expect("the reader");
        }
    }
}

/// Only the native wire has heartbeats, and a session begins with more than that.
#[test]
fn empty_frames_are_no_sign_of_life_without_a_hello_and_on_the_original_wire() {
    let place = Place::new();
    let log = Arc::new(Log::open(place.log("a")).expect("a log"));
    // So many empty frames are as long as a part of a frame that shows that the remote is alive.
    let openings = [PREAMBLE.to_vec(), handshake("b", &[("b", 1)], SYNC)];
    for (said, count) in openings.into_iter().flat_map(|said| [1, 1 << 14].map(|count| (said.clone(), count))) {
        let (input, to_it) = pipe().expect("a pipe");
        let null = File::options().write(true).open("/dev/null").expect("/dev/null");
        let options = Options { once: true, silence_millis: 300, ..Options::default() };
        let ((send, outcome), log) = (channel(), Arc::clone(&log));
        thread::spawn(move || send.send(replicate(&log, input, null, options, &|_| ()).expect("no error")).ok());
        thread::spawn(move || say_and_send(said, count)(to_it));
        let outcome = outcome.recv_timeout(TIMEOUT_MAX).expect("the session ends");
        assert!(has_timed_out(&outcome), "{outcome:?}");
    }
}
