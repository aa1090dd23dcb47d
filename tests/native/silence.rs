//! Who has fallen silent is given up, who has nothing to say is not.

use std::fs::File;
use std::io::{PipeWriter, Read, Write, pipe};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scuttleup::{Log, Options, Outcome, Wire, replicate};

use crate::frames::{PREAMBLE, SYNC, handshake};
use crate::harness::{Ended, Place, Running, append, assert_equal, shell};
use crate::native_frames as native;
use crate::replicate::await_entries;

use super::{report, with_log};

/// After a minute of silence; the rest is for a machine that has much else to do.
const GIVEN_UP: Duration = Duration::from_secs(75);

/// The first child of a process.
fn child(of: &Running) -> i32 {
    let printed = shell("pgrep -P \"$OF\"").env("OF", of.pid().to_string()).success();
    printed.lines()[0].parse().expect("a pid")
}

fn assert_given_up(ended: &Ended) {
    assert_eq!(ended.status.code(), Some(3), "{}", ended.printed.stderr);
    assert!(ended.printed.stderr.contains("the other side has fallen silent: "), "{}", ended.printed.stderr);
}

/// All at once, as each takes a minute.
#[test]
fn a_silent_side_is_given_up_and_an_idle_one_is_not() {
    let place = Place::new();
    let logs: Vec<_> = (0..9).map(|n| place.log(&format!("log{n}"))).collect();
    for log in &logs {
        append(log, "1\n");
    }
    let met = |a: usize, b: usize| {
        await_entries(&logs[a], &format!("log{b}"), 1);
        await_entries(&logs[b], &format!("log{a}"), 1);
    };
    // Idle, and well.
    let (mut idle_a, mut idle_b) = super::replicate(&logs[0], &["--json"]).spawn_joined(super::replicate(&logs[1], &["--json"]));
    met(0, 1);
    // A process that is stopped.
    let (mut lives, stopped) = super::replicate(&logs[2], &[]).spawn_joined(super::replicate(&logs[3], &[]));
    met(2, 3);
    stopped.signal(Signal::SIGSTOP);
    // A COMMAND that is stopped, and is to be ended.
    let mut commander = super::replicate(&logs[4], &[]).args(with_log(&logs[5])).spawn();
    met(4, 5);
    let command = child(&commander);
    kill(Pid::from_raw(command), Signal::SIGSTOP).expect("it is there");
    // What carries it stalls.
    let server = format!("EXEC:'{}'", with_log(&logs[7])[1..].join(" "));
    let mut relayed = super::replicate(&logs[6], &[]).args(["--", "socat", "-", &server]).spawn();
    met(6, 7);
    let relay = child(&relayed);
    kill(Pid::from_raw(relay), Signal::SIGSTOP).expect("it is there");
    // Nobody is held up by any of it, however much there is to send: more than a pipe holds.
    let lines = format!("\"{}\"\n", "x".repeat(1000)).repeat(5000);
    for log in &logs[2..8] {
        append(log, &lines);
    }
    assert_given_up(&lives.wait_within(GIVEN_UP));
    assert_given_up(&relayed.wait_within(GIVEN_UP));
    // Its stderr ends only when COMMAND, which shares it, has ended.
    assert_given_up(&commander.wait_within(GIVEN_UP));
    assert!(kill(Pid::from_raw(command), None).is_err() && kill(Pid::from_raw(relay), None).is_err());
    drop(stopped);
    // More than a minute after their last entry, the idle ones are together still.
    append(&logs[0], "\"after a minute\"\n");
    await_entries(&logs[1], "log0", 2);
    idle_a.signal(Signal::SIGTERM);
    assert_eq!(idle_a.wait().status.code(), Some(143));
    let report = report(&idle_b.wait());
    assert_eq!((report["received"].as_u64(), report["exit"].as_u64()), (Some(2), Some(3)), "{report}");
    assert_equal(&logs[0], &logs[1]);
}

/// The same through the library, in which the times can be set: no word of the other side, not even in the opening's middle.
#[test]
fn silence_is_noticed_at_any_place_of_a_session() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1\n");
    append(&b, "1\n2\n");
    let (a, b) = (Arc::new(Log::open(&a).expect("a log")), Log::open(&b).expect("a log"));
    let options = Options { heartbeat_millis: 20, silence_millis: 300, ..Options::default() };
    for words in [8, 9, 20, 60] {
        let ((there, mut to_a), (mut from_a, out)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
        let said = opening(&b, words);
        to_a.write_all(&said).expect("it is there");
        let (send, outcome) = channel();
        let a = Arc::clone(&a);
        thread::spawn(move || send.send(replicate(&a, there, out, options, &|_| ())).ok());
        let outcome = outcome.recv_timeout(GIVEN_UP).expect("it ends").expect("no error");
        assert!(outcome.silent && outcome.cut && !outcome.complete(), "{words}: {outcome:?}");
        assert_eq!(outcome.wire, Some(Wire::Native));
        let mut heard = Vec::new();
        from_a.read_to_end(&mut heard).expect("a pipe");
        // It has said several times that it lives, and at its end why it goes.
        assert!(heard.windows(3).any(|part| part == [0, 0, 0]), "{words}: {heard:?}");
        assert!(heard.windows(10).any(|part| part == b"it heard n"), "{words}: {heard:?}");
        drop(to_a);
    }
}

#[test]
fn by_itself_a_side_waits_a_minute_and_says_each_15_seconds_that_it_lives() {
    let usual = Options::default();
    assert_eq!((usual.heartbeat_millis, usual.silence_millis), (15_000, 60_000));
}

/// On the original's wire, where nothing else tells: it has sent all, and waits no longer than that.
#[test]
fn who_never_ends_its_original_wire_is_given_up() {
    let place = Place::new();
    let path = place.log("a");
    append(&path, "1\n");
    let log = Log::open(path).expect("a log");
    let ((input, mut to_it), (send, outcome)) = (pipe().expect("a pipe"), channel());
    let null = File::options().write(true).open("/dev/null").expect("/dev/null");
    to_it.write_all(&handshake("b", &[("b", 1)], SYNC)).expect("a pipe");
    let options = Options { once: true, wire: Some(Wire::Original), silence_millis: 300, ..Options::default() };
    thread::spawn(move || send.send(replicate(&log, input, null, options, &|_| ()).expect("no error")).ok());
    let outcome = outcome.recv_timeout(GIVEN_UP).expect("it ends");
    assert!(outcome.silent && !outcome.complete(), "{outcome:?}");
    assert_eq!((outcome.sent, outcome.missing), (1, 1), "{outcome:?}");
    drop(to_it);
}

/// A long entry that comes slowly is a sign of life.
#[test]
fn a_slow_entry_is_awaited() {
    let place = Place::new();
    let log = Arc::new(Log::open(place.log("a")).expect("a log"));
    let long = "x".repeat(10_000);
    let (entry, chain) = ([long.as_str()], native::chain_of("b", &[long.as_str()]));
    let heads = native::heads(&[("b", 1, chain)], true);
    let said = [PREAMBLE, &native::hello("b", SYNC, true, 7), &heads, &native::feed(0, "b"), &native::run(0, 1, &entry, chain)];
    let said = said.concat();
    let outcome = hearing(&log, false, move |mut to_it| {
        for part in said.chunks(1100) {
            to_it.write_all(part).ok();
            channel::<()>().1.recv_timeout(Duration::from_millis(100)).ok();
        }
    });
    let outcome = outcome.recv_timeout(GIVEN_UP).expect("it ends");
    assert_eq!((outcome.received, outcome.silent), (1, false), "{outcome:?}");
}

/// A session with a log that hears what `speak` says until it is not listened to any more; how it ended.
fn hearing(log: &Arc<Log>, await_opening: bool, speak: impl FnOnce(PipeWriter) + Send + 'static) -> Receiver<Outcome> {
    let (input, to_it) = pipe().expect("a pipe");
    let null = File::options().write(true).open("/dev/null").expect("/dev/null");
    let options = Options { heartbeat_millis: 20, silence_millis: 300, await_opening, ..Options::default() };
    let (send, outcome) = channel();
    let log = Arc::clone(log);
    thread::spawn(move || send.send(replicate(&log, input, null, options, &|_| ()).expect("no error")).ok());
    thread::spawn(move || speak(to_it));
    outcome
}

/// Bytes that say nothing are no sign of life.
#[test]
fn who_says_nothing_of_use_is_given_up() {
    let place = Place::new();
    let (path, other) = (place.log("a"), place.log("b"));
    let (log, other) = (Arc::new(Log::open(path).expect("a log")), Log::open(other).expect("a log"));
    let (close, closed) = channel::<()>();
    let patient = hearing(&log, true, move |to_it| drop((closed.recv(), to_it)));
    let given_up = [
        hearing(&log, false, std::mem::forget),
        // In the middle of the offer of the native wire, and of a handshake.
        hearing(&log, false, |mut to_it| std::mem::forget((to_it.write_all(b"\x80\x80"), to_it))),
        hearing(&log, false, |mut to_it| std::mem::forget((to_it.write_all(b"\x14\x0a\x05ali"), to_it))),
        // Empty frames without end, as from /dev/zero.
        hearing(&log, false, |mut to_it| while to_it.write_all(&[0; 1 << 16]).is_ok() {}),
        // A length that was damaged swallows the heartbeats.
        hearing(&log, false, {
            let said = [opening(&other, 8), b"\xff\x7f\x04".to_vec()].concat();
            move |mut to_it| {
                let mut more = &said[..];
                while to_it.write_all(more).is_ok() {
                    // So often they come.
                    channel::<()>().1.recv_timeout(Duration::from_millis(20)).ok();
                    more = b"\0";
                }
            }
        }),
    ];
    for (nth, outcome) in given_up.into_iter().enumerate() {
        let outcome = outcome.recv_timeout(GIVEN_UP).unwrap_or_else(|_| panic!("{nth} goes on"));
        assert!(outcome.silent && !outcome.complete(), "{nth}: {outcome:?}");
    }
    // Somebody may be typing a password.
    assert_eq!(patient.try_recv(), Err(TryRecvError::Empty));
    drop(close);
    assert!(!patient.recv_timeout(GIVEN_UP).expect("it ends").silent);
}

/// The first `count` bytes of what a log says on the native wire.
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
