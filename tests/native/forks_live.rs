//! Forks that arise during a live session: the feed stops, the session goes on.

use std::io::{Read, Write, pipe};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use scuttleup::{HashedEntry, Log, PeerId};

use crate::harness::{Ended, Place, Run, Running, append, heads};
use crate::replicate::await_entries;

use super::{copy, forked, id, once, replicate, write};

/// Waits until a log has marked a feed as forked. It must poll: a mark sends no notification.
fn await_fork(log: &Path, peer: &str) {
    for _ in 0..10_000 {
        if forked(log) == [peer] {
            return;
        }
    }
    panic!("{peer} is not marked as forked in {}", log.display());
}

/// A live session of a and b. The output of a passes through the test, which sends a message on the channel once b has read
/// `marker`.
fn watched(a: &Path, b: &Path, marker: &'static [u8]) -> (Running, Running, Receiver<()>) {
    let ((mut from_a, a_out), (b_in, mut to_b)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
    let (a_in, b_out) = pipe().expect("a pipe");
    let b_reads = b_in.try_clone().expect("a descriptor");
    let run_a = replicate(a, &[]).spawn_on(a_in.into(), a_out.into());
    let run_b = replicate(b, &[]).spawn_on(b_in.into(), b_out.into());
    let (send, seen) = channel();
    thread::spawn(move || {
        let mut part = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from_a.read(&mut part) {
            to_b.write_all(&part[..count]).expect("b is running");
            if part[..count].windows(marker.len()).any(|bytes| bytes == marker) {
                let is_full = || poll(&mut [PollFd::new(b_reads.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0);
                while is_full() {
                    thread::yield_now();
                }
                send.send(()).ok();
            }
        }
    });
    (run_a, run_b, seen)
}

fn end(mut a: Running, mut b: Running) -> (Ended, Ended) {
    a.signal(Signal::SIGTERM);
    let ended = (a.wait(), b.wait());
    assert_eq!(ended.0.status.code(), Some(143), "{}", ended.0.printed.stderr);
    assert_eq!(ended.1.status.code(), Some(4), "{}", ended.1.printed.stderr);
    for ended in [&ended.0, &ended.1] {
        assert_eq!(ended.printed.stderr.matches("fork: entry").count(), 1, "{}", ended.printed.stderr);
    }
    ended
}

/// Each log gets another version of feed x from elsewhere: log b stores its version while the version of a is on its way to b.
#[test]
fn both_logs_get_different_versions_of_a_feed() {
    for ours in [1, 3, 2000] {
        let place = Place::new();
        let (a, b) = (place.log("a"), place.log("b"));
        write(&a, "{\"peer\":\"x\",\"seq\":1,\"entry\":1}\n");
        append(&b, "1\n");
        once(&a, &b, (0, 0));
        let (run_a, run_b, seen) = watched(&a, &b, b"here");
        append(&b, "2\n");
        await_entries(&a, "b", 2);
        let x = PeerId::new("x").expect("an id");
        let log = Log::open(&b).expect("a log");
        let mut writer = log.writer().expect("no other writer");
        write(&a, "{\"peer\":\"x\",\"seq\":2,\"entry\":\"here\"}\n");
        seen.recv().expect("b reads the marker");
        for seq in 2..2 + ours {
            let entry = HashedEntry::new(b"\"there\"");
            assert_eq!(u64::from(writer.push(&x, entry).expect("it can be stored").get()), seq);
        }
        writer.commit().expect("a commit");
        if ours > 1 {
            // b can read and send, but cannot store while the test holds the write lock: a gets the later entries of b first.
            let blocked = log.writer().expect("no other writer");
            await_fork(&a, "x");
            drop(blocked);
        }
        await_fork(&a, "x");
        await_fork(&b, "x");
        // The other feeds go on.
        append(&a, "\"on\"\n");
        await_entries(&b, "a", 1);
        append(&b, "\"on\"\n");
        await_entries(&a, "b", 3);
        let ended = end(run_a, run_b);
        assert!(ended.0.printed.stderr.contains("fork: entry 2 of x"), "{}", ended.0.printed.stderr);
        assert!(ended.1.printed.stderr.contains("fork: entry 2 of x"), "{}", ended.1.printed.stderr);
        assert!(heads(&a).contains(&"{\"peer\":\"x\",\"seq\":2}".to_owned()));
        assert!(heads(&b).contains(&format!("{{\"peer\":\"x\",\"seq\":{}}}", 1 + ours)));
    }
}

/// A log and its copy are in a live session and in sync; then an entry is appended to each at the same time.
#[test]
fn a_log_and_its_copy_go_on_under_new_ids_after_appends_to_both() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.path("copy"));
    append(&a, "1\n");
    copy(&a, &b);
    let (run_a, run_b, seen) = watched(&a, &b, b"here");
    let log = Log::open(&b).expect("a log");
    let mut writer = log.writer().expect("no other writer");
    // This appender runs during the whole session, also after the log has taken a new id.
    let mut appending = Run::new(&a).args(["append", "--ack"]).spawn();
    appending.send("\"here\"\n");
    assert_eq!(appending.line(), "{\"peer\":\"a\",\"seq\":2}\n");
    seen.recv().expect("b reads the marker");
    let entry = HashedEntry::new(b"\"there\"");
    assert_eq!(writer.append(entry).expect("it can be stored").get(), 2);
    writer.commit().expect("a commit");
    await_fork(&a, "a");
    await_fork(&b, "a");
    let ids = (id(&a), id(&b));
    assert!(ids.0 != "a" && ids.1 != "a" && ids.0 != ids.1);
    appending.send("3\n");
    assert_eq!(appending.line(), format!("{{\"peer\":\"{}\",\"seq\":1}}\n", ids.0));
    append(&b, "3\n");
    await_entries(&b, &ids.0, 1);
    await_entries(&a, &ids.1, 1);
    drop(appending.finish());
    end(run_a, run_b);
}
