//! Full, slow or stalled pipes: no deadlock, and no other process on the log waits for them.

use std::fs::File;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use scuttleup::Log;

use crate::frames::{Frame, PULL, SYNC, Session, change, decode, handshake};
use crate::harness::{Place, Run, assert_equal, heads, shell};
use crate::replicate::{append, await_entries};

/// Appends `count` different entries of 64 KiB.
fn fill(place: &Place, log: &Path, count: usize) {
    let lines: String = (0..count).map(|n| format!("{n} {}\n", "x".repeat(65_530))).collect();
    let path = place.file("lines", lines);
    let append = shell("exec \"$scuttleup\" --log \"$log\" append --text <\"$lines\"");
    append.env("log", log).env("lines", path).success();
}

/// Two pipes of 4 KiB; a thread copies from the first to the second. `replicate` enlarges the pipe that it reads, so the second
/// pipe becomes larger. The first pipe stays small, because the test keeps its read end.
fn small_pipe() -> (PipeReader, std::io::PipeWriter) {
    let ((mut from, to_small), (out, mut to)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
    for end in [from.as_fd(), out.as_fd()] {
        fcntl(end, FcntlArg::F_SETPIPE_SZ(4096)).expect("a pipe can be made small");
    }
    thread::spawn(move || std::io::copy(&mut from, &mut to));
    (out, to_small)
}

/// 200 MB in each direction, with the memory limit of a command: 64 MiB of writable memory, without mapped files.
fn two_full_small_pipes(wire: &str) {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    fill(&place, &a, 3200);
    fill(&place, &b, 3200);
    let ((there, to_there), (here, to_here)) = (small_pipe(), small_pipe());
    let line = "ulimit -d 65536; exec \"$scuttleup\" --log \"$log\" replicate --once --wire \"$wire\"";
    let once = |log: &Path| shell(line).env("log", log).env("wire", wire);
    let mut run_a = once(&a).spawn_on(here.into(), to_there.into());
    let mut run_b = once(&b).spawn_on(there.into(), to_here.into());
    let ended = (run_a.wait(), run_b.wait());
    let said = format!("a: {}b: {}", ended.0.printed.stderr, ended.1.printed.stderr);
    assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(0), Some(0)), "{said}");
    assert_equal(&a, &b);
}

#[test]
fn two_full_small_pipes_on_the_native_wire() {
    two_full_small_pipes("native");
}

#[test]
fn two_full_small_pipes_on_the_wire_of_the_original() {
    two_full_small_pipes("original");
}

/// A session whose remote has sent its handshake and does not read any more.
fn stalled(place: &Place, args: &[&str]) -> (PathBuf, Session) {
    let log = place.log("a");
    fill(place, &log, 100);
    let mut session = Session::open(&log, args);
    session.send(handshake("y", &[], SYNC));
    assert!(matches!(session.frame(), Some(Frame::Handshake { .. })));
    (log, session)
}

#[test]
fn append_goes_on_beside_a_stalled_reader() {
    let place = Place::new();
    let (log, session) = stalled(&place, &[]);
    let mut appender = Run::new(&log).args(["append", "--ack"]).spawn();
    for seq in 101..=110 {
        appender.send("0\n");
        assert_eq!(appender.line(), format!("{{\"peer\":\"a\",\"seq\":{seq}}}\n"));
    }
    appender.finish();
    // The remote reads again and receives everything.
    let (frames, ended) = session.close();
    let seqs: Vec<u64> = frames.iter().map(|frame| if let Frame::Change { seq, .. } = frame { *seq } else { 0 }).collect();
    assert_eq!((seqs, ended.status.code()), ((1..=110).collect(), Some(0)), "{}", ended.printed.stderr);
}

#[test]
fn a_signal_ends_a_stalled_session() {
    let modes =
        [(&[][..], Signal::SIGTERM, 143), (&["--once"], Signal::SIGINT, 130), (&["--mode", "push"], Signal::SIGTERM, 143)];
    for (args, signal, code) in modes {
        let place = Place::new();
        let (_, session) = stalled(&place, args);
        session.run().signal(signal);
        let ended = session.wait();
        assert_eq!(ended.status.code(), Some(code), "{args:?}: {}", ended.printed.stderr);
    }
}

#[test]
fn a_signal_while_a_commit_waits_loses_no_received_entry() {
    let place = Place::new();
    let path = place.log("a");
    let log = Log::open(&path).expect("a log");
    let writer = log.writer().expect("no other writer");
    let mut session = Session::open(&path, &[]);
    session.send(handshake("y", &[("y", 2100)], SYNC));
    // The first entry fills a batch, which waits for the write lock of the test; later entries wait for the first batch.
    session.send(change("y", 1, vec![b'e'; 4 << 20]));
    session.send((2..=2100).flat_map(|seq| change("y", seq, [b'e'; 1000])).collect::<Vec<_>>());
    session.run().signal(Signal::SIGTERM);
    drop(writer);
    assert_eq!(session.wait().status.code(), Some(143));
    // The session has read all entries except for the content of the pipe.
    let stored = log.heads().expect("heads").get("y");
    assert!(stored > 1000, "{stored}");
}

#[test]
fn a_signal_ends_a_session_before_the_handshake_is_complete() {
    let place = Place::new();
    let mut session = Session::open(&place.log("a"), &["--wire", "original"]);
    session.frame();
    // In the middle of the handshake of the remote.
    session.send([20, 10]);
    session.run().signal(Signal::SIGTERM);
    assert_eq!(session.wait().status.code(), Some(143));
}

#[test]
fn a_remote_that_only_sends() {
    let place = Place::new();
    let (log, mut session) = stalled(&place, &[]);
    let entry = vec![b'e'; 65_536];
    for seq in 1..=600 {
        session.send(change("y", seq, &entry));
    }
    await_entries(&log, "y", 600);
    append(&log, "1\n");
    session.drop_output();
    let (_, ended) = session.close();
    assert_eq!(ended.status.code(), Some(3), "{}", ended.printed.stderr);
    assert!(ended.printed.stderr.contains("600 of 600 received"), "{}", ended.printed.stderr);
}

/// The remote has sent half of an entry and pauses.
#[test]
fn append_goes_on_beside_a_remote_that_stalls_inside_an_entry() {
    let place = Place::new();
    let log = place.log("a");
    let mut session = Session::open(&log, &[]);
    let half = change("y", 2, vec![b'e'; 100_000]);
    session.send([&handshake("y", &[("y", 2)], SYNC)[..], &change("y", 1, "1"), &half[..50_000]].concat());
    // The complete entry is stored although the next one is incomplete.
    await_entries(&log, "y", 1);
    append(&log, "1\n");
    session.send(&half[50_000..]);
    await_entries(&log, "y", 2);
    let (frames, ended) = session.close();
    assert_eq!(frames, [Frame::handshake("a", &[], SYNC), Frame::change("a", 1, "1")]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.printed.stderr);
}

/// The remote closes both pipes while no entry is sent. The session must end, although it has nothing to write.
#[test]
fn a_live_session_ends_when_the_remote_goes_away() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n");
    let mut session = Session::open(&log, &[]);
    session.send(handshake("y", &[], PULL));
    assert_eq!(session.frame(), Some(Frame::handshake("a", &[("a", 1)], SYNC)));
    assert_eq!(session.frame(), Some(Frame::change("a", 1, "1")));
    session.drop_output();
    let (_, ended) = session.close();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.printed.stderr);
}

/// As under inetd or `socat EXEC`, where stdin and stdout are the same socket: each direction is still closed separately.
#[test]
fn one_socket_for_both_directions() {
    let place = Place::new();
    let log = place.log("a");
    let (socket, theirs) = UnixStream::pair().expect("sockets");
    let stdin = OwnedFd::from(theirs);
    let stdout = stdin.try_clone().expect("a descriptor");
    let run = Run::new(&log).args(["replicate", "--mode", "pull"]).spawn_on(stdin.into(), stdout.into());
    (&socket).write_all(&handshake("y", &[], SYNC)).expect("the process reads its stdin");
    // A log that only pulls ends its output at once, but continues to read.
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let mut said = Vec::new();
    (&socket).read_to_end(&mut said).expect("its output ends");
    assert_eq!(decode(&said), [Frame::handshake("a", &[], PULL)]);
    (&socket).write_all(&change("y", 1, "1")).expect("the process still reads its stdin");
    drop(socket);
    assert_eq!(run.finish().status.code(), Some(0));
    assert_eq!(heads(&log), ["{\"peer\":\"y\",\"seq\":1}"]);
}

/// Stdin is a regular file.
#[test]
fn a_stream_from_a_file() {
    let place = Place::new();
    let log = place.log("a");
    let changes: Vec<u8> = (1..=5000).flat_map(|seq| change("y", seq, "e")).collect();
    let path = place.file("stream", [handshake("y", &[("y", 5000)], SYNC), changes].concat());
    let null = File::create("/dev/null").expect("/dev/null");
    let file = File::open(path).expect("a file");
    let ended = Run::new(&log).args(["replicate", "--once"]).spawn_on(file.into(), null.into()).finish();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.printed.stderr);
    assert_eq!(heads(&log), ["{\"peer\":\"y\",\"seq\":5000}"]);
}
