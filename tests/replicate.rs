//! `replicate` between two logs: which entries are sent, which are not, and which messages are printed.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::frames::{Frame, PULL, PUSH, SYNC, Session, change, handshake};
use crate::harness::{Ended, Place, Run, Running, assert_equal, heads, unlabelled};

const MODES: [&str; 3] = ["sync", "push", "pull"];

/// Appends lines; each line is a JSON value.
pub fn append(log: &Path, lines: &str) {
    Run::new(log).args(["append"]).stdin(lines).success();
}

fn head(peer: &str, seq: u64) -> String {
    format!("{{\"peer\":\"{peer}\",\"seq\":{seq}}}")
}

/// Two logs: a with one entry and b with two.
fn two_logs(place: &Place) -> (PathBuf, PathBuf) {
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "\"a1\"\n");
    append(&b, "\"b1\"\n\"b2\"\n");
    (a, b)
}

fn replicate(log: &Path, args: &[&str]) -> Run {
    Run::new(log).args(["replicate"]).args(args)
}

/// Runs one session of two logs to its end. The messages are returned without their labels, see [`unlabelled`].
pub fn join(a: &Path, a_args: &[&str], b: &Path, b_args: &[&str]) -> (Ended, Ended) {
    let (mut a, mut b) = replicate(a, a_args).spawn_joined(replicate(b, b_args));
    let mut ended = (a.wait(), b.wait());
    for Ended { printed, .. } in [&mut ended.0, &mut ended.1] {
        printed.stderr = unlabelled(&printed.stderr);
    }
    ended
}

fn assert_codes(ended: &(Ended, Ended), codes: (i32, i32)) {
    let (a, b) = ended;
    let said = format!("a: {}b: {}", a.printed.stderr, b.printed.stderr);
    assert_eq!((a.status.code(), b.status.code()), (Some(codes.0), Some(codes.1)), "{said}");
}

/// Whether a process with mode `from` sends entries to a process with mode `to`.
fn moves(from: &str, to: &str) -> bool {
    from != "pull" && to != "push"
}

/// Waits until the log holds `count` entries of a feed.
pub fn await_entries(log: &Path, peer: &str, count: usize) {
    let mut follow = Run::new(log).args(["read", "--live", "--no-entry", "--peer", peer]).spawn();
    for _ in 0..count {
        follow.line();
    }
}

/// One pair of modes, live: existing entries and later entries are sent in the directions that the modes allow.
fn live_pair(mode_a: &str, mode_b: &str) {
    live_pair_on("native", mode_a, mode_b);
    live_pair_on("original", mode_a, mode_b);
}

fn live_pair_on(wire: &str, mode_a: &str, mode_b: &str) {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let args = |mode| ["--wire", wire, "--mode", mode];
    let (mut run_a, mut run_b) = replicate(&a, &args(mode_a)).spawn_joined(replicate(&b, &args(mode_b)));
    let (to_b, to_a) = (moves(mode_a, mode_b), moves(mode_b, mode_a));
    for (moving, from, to, peer, before) in [(to_b, &a, &b, "a", 1), (to_a, &b, &a, "b", 2)] {
        if moving {
            await_entries(to, peer, before);
        }
        append(from, "\"later\"\n");
        if moving {
            await_entries(to, peer, before + 1);
        }
    }
    let live = to_a || to_b;
    if live {
        run_a.signal(Signal::SIGTERM);
    }
    let ended = (run_a.wait(), run_b.wait());
    // Only the native wire shows that the end was not agreed by both.
    let other = if live && wire == "native" { 3 } else { 0 };
    assert_codes(&ended, (if live { 143 } else { 0 }, other));
    assert_eq!(heads(&a).contains(&head("b", 3)), to_a, "{mode_a} with {mode_b}");
    assert_eq!(heads(&b).contains(&head("a", 2)), to_b, "{mode_a} with {mode_b}");
    assert_eq!(heads(&a).len() + heads(&b).len(), 2 + usize::from(to_a) + usize::from(to_b), "{mode_a} with {mode_b}");
}

#[test]
fn live_sync_with_sync() {
    live_pair("sync", "sync");
}

#[test]
fn live_sync_with_push() {
    live_pair("sync", "push");
}

#[test]
fn live_sync_with_pull() {
    live_pair("sync", "pull");
}

#[test]
fn live_push_with_sync() {
    live_pair("push", "sync");
}

#[test]
fn live_push_with_push() {
    live_pair("push", "push");
}

#[test]
fn live_push_with_pull() {
    live_pair("push", "pull");
}

#[test]
fn live_pull_with_sync() {
    live_pair("pull", "sync");
}

#[test]
fn live_pull_with_push() {
    live_pair("pull", "push");
}

#[test]
fn live_pull_with_pull() {
    live_pair("pull", "pull");
}

#[test]
fn once_against_live_ends_in_every_mode() {
    for (once, live) in MODES.iter().flat_map(|a| MODES.map(|b| (*a, b))) {
        let place = Place::new();
        let (a, b) = two_logs(&place);
        let (mut run_a, run_b): (Running, Running) =
            replicate(&a, &["--once", "--mode", once]).spawn_joined(replicate(&b, &["--mode", live]));
        let mut run_b = run_b;
        // The modes of MODES in which the log that asks, a, keeps entries or lacks entries: see `modes`.
        let is_refused = matches!((once, live), ("sync", "push" | "pull")) || once == live && once != "sync";
        assert_codes(&(run_a.wait(), run_b.wait()), (if is_refused { 6 } else { 0 }, 0));
        assert_eq!(heads(&a).len() == 2, moves(live, once), "{once} with a live {live}");
        assert_eq!(heads(&b).len() == 2, moves(once, live), "{once} with a live {live}");
    }
}

#[test]
fn quiet_prints_nothing_on_success() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let ended = join(&a, &["--once", "-q"], &b, &["--once", "-q"]);
    assert_codes(&ended, (0, 0));
    assert_eq!((&*ended.0.printed.stderr, &*ended.1.printed.stderr), ("", ""));
    assert_equal(&a, &b);
}

#[test]
fn replicate_creates_a_log() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.path("new"));
    append(&a, "1\n2\n");
    assert_codes(&join(&a, &["--once", "--mode", "push"], &b, &["--once", "--mode", "pull"]), (0, 0));
    assert_equal(&a, &b);
}

#[test]
fn every_kind_of_bytes_arrives_unchanged() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    let all: Vec<u8> = (0..=255).collect();
    let big: Vec<u8> = all.iter().copied().cycle().take(16 << 20).collect();
    let entries = [&b""[..], b"x", &all, b"two\nlines", b" {\"n\": 1e999 }", &big];
    for entry in entries {
        Run::new(&a).args(["append", "--raw"]).stdin(entry).success();
    }
    assert_codes(&join(&a, &["--once"], &b, &["--once"]), (0, 0));
    assert_equal(&a, &b);
    for (seq, entry) in (1..).zip(entries) {
        let printed = Run::new(&b).args(["entry", "--raw", "a", &format!("{seq}")]).success();
        assert!(printed.stdout == entry, "entry {seq}, {} bytes", entry.len());
    }
}

#[test]
fn feeds_pass_through_a_third_log() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let c = place.log("c");
    assert_codes(&join(&a, &["--once"], &c, &["--once"]), (0, 0));
    assert_codes(&join(&c, &["--once"], &b, &["--once"]), (0, 0));
    assert_codes(&join(&a, &["--once"], &c, &["--once"]), (0, 0));
    assert_equal(&a, &b);
    assert_equal(&a, &c);
}

#[test]
fn a_cut_session_is_resumed() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1\n2\n3\n4\n5\n");
    let cut = [handshake("a", &[("a", 5)], SYNC), change("a", 1, "1"), change("a", 2, "2")].concat();
    let printed = replicate(&b, &["--once"]).stdin(&cut).stderr_has("2 of 5 received: run it again").status(3);
    assert_eq!(printed.stderr.lines().count(), 1, "{}", printed.stderr);
    assert_eq!(heads(&b), [head("a", 2)]);
    // The same for a cut in the middle of an entry.
    let third = change("a", 3, "3");
    let cut = [handshake("a", &[("a", 5)], SYNC), third[..third.len() - 1].to_vec()].concat();
    replicate(&b, &[]).stdin(&cut).stderr_has("0 of 3 received: run it again").status(3);
    assert_eq!(heads(&b), [head("a", 2)]);
    assert_codes(&join(&a, &["--once"], &b, &["--once"]), (0, 0));
    assert_equal(&a, &b);
}

#[test]
fn unsent_entries_are_counted() {
    let place = Place::new();
    let a = place.log("a");
    let line = format!("\"{}\"\n", "x".repeat(1000));
    append(&a, &line.repeat(1000));
    let mut session = Session::open(&a, &["--once"]);
    session.send(handshake("b", &[("c", 1)], SYNC));
    assert_eq!(session.frame(), Some(Frame::handshake("a", &[("a", 1000)], SYNC)));
    session.drop_output();
    let (_, ended) = session.close();
    assert_eq!(ended.status.code(), Some(3), "{}", ended.printed.stderr);
    assert!(ended.printed.stderr.contains("of 1000 sent to b, 0 of 1 received: run it again"), "{}", ended.printed.stderr);
}

#[test]
fn a_remote_that_sends_nothing_is_reported() {
    let place = Place::new();
    let a = place.log("a");
    replicate(&a, &["--once"]).stderr_has("the remote ended before its handshake").status(3);
    replicate(&a, &[]).stderr_has("the remote ended before its handshake").status(3);
}

/// Empty frames have no meaning: the remote ended before its handshake.
#[test]
fn a_remote_that_sends_only_empty_frames_is_reported() {
    let place = Place::new();
    replicate(&place.log("a"), &[]).stdin([0, 0, 0]).stderr_has("the remote ended before its handshake").status(3);
}

#[test]
fn a_fork_stops_its_feed_and_no_other() {
    let place = Place::new();
    let b = place.log("b");
    replicate(&b, &["--once"]).stdin([handshake("x", &[], SYNC), change("f", 1, "one")].concat()).success();
    let stream = [
        handshake("a", &[("f", 3), ("g", 2)], SYNC),
        change("g", 1, "g1"),
        change("f", 1, "other"),
        change("f", 2, "after"),
        change("g", 2, "g2"),
    ];
    let ended = replicate(&b, &["--once"]).stdin(stream.concat()).stderr_has("fork: entry 1 of f has different bytes").status(4);
    assert_eq!(ended.stderr.matches("fork").count(), 1, "{}", ended.stderr);
    assert_eq!(heads(&b), [head("f", 1), head("g", 2)]);
    Run::new(&b).args(["entry", "--raw", "f", "1"]).stdout("one").success();
    // The same bytes again are not a fork.
    replicate(&b, &["--once"])
        .stdin([handshake("a", &[], SYNC), change("f", 1, "one"), change("f", 2, "two")].concat())
        .success();
    assert_eq!(heads(&b), [head("f", 2), head("g", 2)]);
}

/// The remote has other entries in this feed: later local entries would not continue them.
#[test]
fn nothing_more_is_sent_of_a_feed_that_has_forked() {
    let place = Place::new();
    let b = place.log("b");
    let write = |peer: &str, seq: u32| {
        Run::new(&b).args(["write"]).stdin(format!("{{\"peer\":\"{peer}\",\"seq\":{seq},\"entry\":{seq}}}\n")).success();
    };
    write("f", 1);
    let mut session = Session::open(&b, &[]);
    session.send(handshake("x", &[("f", 1)], SYNC));
    assert_eq!(session.frame(), Some(Frame::handshake("b", &[("f", 1)], SYNC)));
    session.send([change("f", 1, "other"), change("g", 1, "g1")].concat());
    await_entries(&b, "g", 1);
    while !Run::new(&b).args(["heads"]).success().text().contains("\"fork\":true") {}
    write("f", 2);
    write("h", 1);
    assert_eq!(session.frame(), Some(Frame::change("h", 1, "1")));
    assert_eq!(session.close().1.status.code(), Some(4));
}

#[test]
fn a_gap_stops_its_feed_and_no_other() {
    let place = Place::new();
    let b = place.log("b");
    let stream = [
        handshake("a", &[("f", 4), ("g", 1), ("h", 2)], SYNC),
        change("f", 1, "f1"),
        change("f", 3, "f3"),
        change("f", 2, "f2"),
        change("h", 2, "h2"),
        change("g", 1, "g1"),
    ];
    let run = replicate(&b, &["--once"]).stdin(stream.concat());
    let ended =
        run.stderr_has("gap: the remote sent entry 3 of f after entry 1").stderr_has("entry 2 of h after entry 0").status(3);
    assert_eq!(ended.stderr.matches("gap: ").count(), 2, "{}", ended.stderr);
    assert_eq!(heads(&b), [head("f", 1), head("g", 1)]);
}

#[test]
fn deleted_entries_are_not_sent_on_the_wire_of_the_original() {
    let once = &["--once", "--wire", "original"];
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let c = place.log("c");
    append(&a, "\"a2\"\n\"a3\"\n");
    assert_codes(&join(&a, once, &b, once), (0, 0));
    Run::new(&a).args(["del", "a", "2"]).success();
    // A log that holds the entry keeps it, and does not send it back.
    assert_codes(&join(&a, once, &b, once), (0, 0));
    assert_equal(&a, &b);
    Run::new(&a).args(["entry", "a", "2"]).status(1);
    Run::new(&b).args(["entry", "--raw", "a", "2"]).stdout("\"a2\"").success();
    // A log without the entry gets a gap there; its other feeds go on.
    let ended = join(&a, once, &c, once);
    assert_codes(&ended, (3, 3));
    assert!(ended.0.printed.stderr.contains("entry 2 of a was deleted in this log"), "{}", ended.0.printed.stderr);
    assert!(ended.1.printed.stderr.contains("gap: the remote sent entry 3 of a after entry 1"), "{}", ended.1.printed.stderr);
    assert_eq!(heads(&c), [head("a", 1), head("b", 2)]);
    // A session with a log that holds the entry fills the gap.
    assert_codes(&join(&b, once, &c, once), (0, 0));
    assert_equal(&b, &c);
    // With --accept-gaps, a deleted entry that is not sent is not an error for the sender either.
    let (d, accepts) = (place.log("d"), &["--once", "--wire", "original", "--accept-gaps"]);
    assert_codes(&join(&a, accepts, &d, accepts), (0, 0));
}

#[test]
fn a_deleted_last_entry_is_reported_as_missing() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    Run::new(&b).args(["del", "b", "2"]).success();
    let ended = join(&a, &["--once"], &b, &["--once", "--wire", "original"]);
    assert_codes(&ended, (3, 3));
    assert!(ended.0.printed.stderr.contains("1 of 2 received"), "{}", ended.0.printed.stderr);
    let said = "synced with a: sent 1, received 1, but 1 deleted or pruned entry cannot be sent on this wire";
    assert!(ended.1.printed.stderr.contains(said), "{}", ended.1.printed.stderr);
    assert_eq!(heads(&a), [head("a", 1), head("b", 1)]);
}

#[test]
fn push_and_pull_send_their_handshake_and_end_at_once() {
    let place = Place::new();
    let (a, _) = two_logs(&place);
    for (mode, number, theirs) in [("pull", PULL, SYNC), ("pull", PULL, PULL), ("push", PUSH, PUSH), ("sync", SYNC, PUSH)] {
        let mut session = Session::open(&a, &["--mode", mode]);
        session.send(handshake("x", &[], theirs));
        // Its output ends although its input is still open.
        // A side that only receives names only feeds that the remote has named.
        let heads: &[(&str, u64)] = if mode == "pull" { &[] } else { &[("a", 1)] };
        assert_eq!(session.frames(), [Frame::handshake("a", heads, number)], "{mode}");
        let (rest, ended) = session.close();
        assert_eq!((rest, ended.status.code()), (vec![], Some(0)), "{mode}: {}", ended.printed.stderr);
    }
}
