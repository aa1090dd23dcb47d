//! A receiver that is killed or whose disk fails: the entries that the sender reports as durable are stored.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::sys::signal::Signal;

use crate::harness::{Place, Run, SCUTTLEUP, assert_equal};
use crate::native_frames::{ACK, kinds};

use super::{Cut, full_and_empty, number, once, order, replicate, report};

/// Checks the report of the sender after the receiver has died. Returns the number of entries that the sender reports as
/// durable, and the number of entries that the receiver holds.
fn check(place: &Place, ended: &crate::harness::Ended, said: &str) -> (u64, u64) {
    assert_eq!(ended.status.code(), Some(3), "{said}: {}", ended.printed.stderr);
    let report = report(ended);
    let (all, got) = (order(&place.path("a")), order(&place.path("b")));
    assert!(all.starts_with(&got), "{said}: the received entries are not the first ones");
    let durable = number(&report, "durable");
    assert!(durable <= got.len() as u64, "{said}: {durable} reported as durable, {} stored", got.len());
    assert!(number(&report, "sent") >= durable, "{said}: {report}");
    (durable, got.len() as u64)
}

/// Copies the output of the receiver; sends a message on the channel once it contains an ACK.
fn carry_acks(mut from: PipeReader, mut to: PipeWriter) -> Receiver<()> {
    let (tell, told) = channel();
    thread::spawn(move || {
        let (mut said, mut part) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(count @ 1..) = from.read(&mut part) {
            if to.write_all(&part[..count]).is_err() {
                break;
            }
            said.extend_from_slice(&part[..count]);
            if kinds(&said).contains(&ACK) {
                tell.send(()).ok();
            }
        }
    });
    told
}

/// After this many bytes from the sender, the test waits for an ACK before it kills the receiver.
const LAST: u64 = 3_000_000;

#[test]
fn entries_reported_as_durable_survive_a_kill_at_any_moment() {
    let (mut durables, mut rounds) = (0, 0);
    for at in [1, 60_000, 300_000, 700_000, 1_200_000, 2_000_000, LAST] {
        let place = Place::new();
        let (a, b) = full_and_empty(&place, 30_000, 100);
        let ((from_a, a_out), (b_in, mut to_b)) = (std::io::pipe().expect("a pipe"), std::io::pipe().expect("a pipe"));
        let ((a_in, to_a), (from_b, b_out)) = (std::io::pipe().expect("a pipe"), std::io::pipe().expect("a pipe"));
        let mut sender = replicate(&a, &["--once", "--json"]).spawn_on(a_in.into(), a_out.into());
        let mut receiver = replicate(&b, &["--once"]).spawn_on(b_in.into(), b_out.into());
        let acked = carry_acks(from_b, to_a);
        std::io::copy(&mut from_a.try_clone().expect("a pipe").take(at), &mut to_b).expect("both processes are running");
        if at == LAST {
            acked.recv().expect("an ACK comes");
        }
        receiver.signal(Signal::SIGKILL);
        drop((from_a, to_b));
        let (ended, _) = (sender.wait(), receiver.wait());
        let (durable, _) = check(&place, &ended, &format!("at {at}"));
        durables += durable;
        rounds += 1;
        once(&a, &b, (0, 0));
        assert_equal(&a, &b);
    }
    assert!(rounds > 5 && durables > 0, "no entry was ever acknowledged");
}

/// fdatasync fails after a delay: a receiver that acknowledges too early has time to do so.
#[test]
fn nothing_is_acknowledged_before_its_commit_is_on_disk() {
    for commit in [1, 2, 3] {
        let place = Place::new();
        let (a, _) = full_and_empty(&place, 60_000, 100);
        let inject = format!("inject=fdatasync:error=EIO:delay_enter=300000:when={commit}+");
        let strace = Run::program("strace").args(["-f", "-qq", "-o", "/dev/null", "-e", &inject, SCUTTLEUP, "--log"]);
        let receiver = strace.args([place.path("b")]).args(["replicate", "--once"]);
        let (ended, failed, ..) = Cut::new(replicate(&a, &["--once", "--json"]), receiver, u64::MAX, u64::MAX).wait();
        assert_eq!(failed.status.code(), Some(1), "{}", failed.printed.stderr);
        let (durable, got) = check(&place, &ended, &format!("commit {commit}"));
        assert!(commit == 1 || durable > 0, "commit {commit}: {durable} durable, {got} stored");
    }
}
