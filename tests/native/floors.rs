//! Pruned logs that replicate: floors that a remote lacks, that it does not need, that rise during a session, and that do not fit.

use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::frames::{PREAMBLE, PULL, SYNC, Session, bytes_field, number_field};
use crate::harness::{Ended, Place, Run, Running, append, assert_equal, heads, root};
use crate::native_frames::{self as native, chain_of, fin, floor, fork, hello, hello_without_floors, kinds, synced, typed};
use crate::native_refused::{line, log, x1};
use crate::replicate::{await_entries, join};

use super::{copy, forked, id, number, once, report, write};

fn prune(log: &Path, keep: u64) {
    Run::new(log).args(["-q", "prune", "--keep-last", &keep.to_string()]).stderr("").success();
}

fn numbers(range: std::ops::RangeInclusive<u32>) -> String {
    range.map(|n| format!("{n}\n")).collect()
}

/// The entries of a feed in a log.
fn entries(log: &Path, peer: &str) -> Vec<Value> {
    let printed = Run::new(log).args(["read", "--peer", peer]).success().json();
    printed.into_iter().filter(|line| line["floor"] != true).map(|line| line["entry"].clone()).collect()
}

/// The floor of a feed in a log.
fn floor_of(log: &Path, peer: &str) -> u64 {
    let heads = Run::new(log).args(["heads"]).success().json();
    heads.iter().find(|head| head["peer"] == peer).map_or(0, |head| head["floor"].as_u64().unwrap_or(0))
}

/// Log a with `count` entries, of which only the last `keep` are left.
fn pruned(place: &Place, count: u32, keep: u64) -> std::path::PathBuf {
    let a = place.log("a");
    append(&a, numbers(1..=count));
    prune(&a, keep);
    a
}

#[test]
fn a_new_log_starts_at_the_floor_and_says_so() {
    let place = Place::new();
    let (a, b) = (pruned(&place, 100, 20), place.log("b"));
    append(&b, "\"b\"\n");
    let ended = join(&a, &["--once", "--json"], &b, &["--once", "--json"]);
    let (report_a, report_b) = (report(&ended.0), report(&ended.1));
    assert_eq!((number(&report_a, "sent"), number(&report_a, "durable"), number(&report_a, "floors")), (20, 20, 0));
    assert_eq!((number(&report_b, "received"), number(&report_b, "missing"), number(&report_b, "floors")), (20, 0, 1));
    let said = "scuttleup: the remote has pruned the entries of a up to 80: this feed goes on at entry 81\n";
    assert!(ended.1.printed.stderr.contains(said), "{}", ended.1.printed.stderr);
    assert_equal(&a, &b);
    assert_eq!((floor_of(&b, "a"), entries(&b, "a").len(), entries(&b, "a")[0].clone()), (80, 20, 81.into()));
    // The floor is passed on, and the feed grows behind it.
    let c = place.log("c");
    append(&a, "101\n");
    once(&b, &a, (0, 0));
    let (_, report_c) = once(&b, &c, (0, 0));
    assert_eq!((number(&report_c, "received"), number(&report_c, "floors")), (22, 1));
    assert_equal(&a, &c);
    // Nothing is left to do, and a FLOOR is not counted again.
    let (_, report_c) = once(&a, &c, (0, 0));
    assert_eq!((number(&report_c, "received"), number(&report_c, "floors")), (0, 0));
}

#[test]
fn a_log_that_holds_a_part_skips_the_rest_and_keeps_its_part() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, numbers(1..=30));
    once(&a, &b, (0, 0));
    append(&a, numbers(31..=100));
    prune(&a, 20);
    let ended = join(&a, &["--once"], &b, &["--once"]);
    let said = "the remote has pruned the entries of a up to 80: this log had entries up to 30, this feed goes on at entry 81";
    assert!(ended.1.printed.stderr.contains(said), "{}", ended.1.printed.stderr);
    assert_equal(&a, &b);
    let expected: Vec<Value> = (1..=30).chain(81..=100).map(Value::from).collect();
    assert_eq!(entries(&b, "a"), expected);
    Run::new(&b).args(["entry", "a", "30"]).success();
    Run::new(&b).args(["entry", "a", "31"]).stderr("scuttleup: entry 31 of a was pruned from this log\n").status(1);
    // A copy has the same heads and the same floors.
    let c = place.log("c");
    Run::new(&c).args(["write"]).stdin(Run::new(&b).args(["read"]).success().stdout).success();
    assert_equal(&a, &c);
}

#[test]
fn a_log_ahead_of_the_floor_needs_none() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, numbers(1..=90));
    once(&a, &b, (0, 0));
    append(&a, numbers(91..=100));
    prune(&a, 20);
    let (_, report) = once(&a, &b, (0, 0));
    assert_eq!((number(&report, "received"), number(&report, "floors")), (10, 0));
    assert_eq!((floor_of(&b, "a"), entries(&b, "a").len()), (0, 100));
    assert_eq!(root(&a), root(&b));
    // The log without a floor does not give the entries back.
    append(&b, "\"b\"\n");
    once(&a, &b, (0, 0));
    assert_eq!((floor_of(&a, "a"), entries(&a, "a").len(), root(&a)), (80, 20, root(&b)));
    Run::new(&a).args(["entry", "a", "80"]).stderr("scuttleup: entry 80 of a was pruned from this log\n").status(1);
}

#[test]
fn three_logs_with_different_floors_become_equal() {
    let place = Place::new();
    let (a, b, c) = (place.log("a"), place.log("b"), place.log("c"));
    append(&a, numbers(1..=50));
    append(&b, numbers(1..=50));
    once(&a, &b, (0, 0));
    once(&b, &c, (0, 0));
    append(&a, numbers(51..=100));
    append(&c, numbers(1..=40));
    prune(&a, 30);
    prune(&c, 70);
    assert_eq!([floor_of(&a, "a"), floor_of(&b, "a"), floor_of(&c, "a"), floor_of(&c, "b")], [70, 0, 20, 50]);
    for (one, other) in [(&b, &c), (&b, &a), (&b, &c), (&a, &c)] {
        once(one, other, (0, 0));
    }
    assert_eq!([root(&a), root(&b)], [root(&c), root(&c)]);
    for log in [&a, &b, &c] {
        assert_eq!(*entries(log, "a").last().expect("an entry"), Value::from(100));
        assert_eq!(*entries(log, "c").last().expect("an entry"), Value::from(40));
        Run::new(log).args(["read"]).success();
    }
}

/// Stops a process until its state is T.
fn stop(run: &Running) {
    run.signal(Signal::SIGSTOP);
    while !std::fs::read_to_string(format!("/proc/{}/stat", run.pid())).expect("a process").contains(") T ") {
        std::thread::yield_now();
    }
}

#[test]
fn a_floor_that_rises_during_a_live_session_is_sent_before_the_next_entries() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1\n");
    let session = Run::new(&a).args(["replicate"]).spawn_joined(Run::new(&b).args(["replicate"]));
    await_entries(&b, "a", 1);
    stop(&session.0);
    append(&a, numbers(2..=100));
    prune(&a, 10);
    session.0.signal(Signal::SIGCONT);
    await_entries(&b, "a", 11);
    assert_equal(&a, &b);
    assert_eq!(floor_of(&b, "a"), 90);
    assert_eq!(entries(&b, "a"), [1].into_iter().chain(91..=100).map(Value::from).collect::<Vec<_>>());
}

/// The remote reads nothing until the log was pruned beyond the heads that it has announced.
#[test]
fn a_floor_that_rises_above_the_announced_heads_is_sent_in_a_one_shot_session() {
    let place = Place::new();
    let a = place.log("a");
    let big = format!("\"{}\"\n", "x".repeat(50_000));
    append(&a, big.repeat(100));
    let mut session = Session::open(&a, &["--once"]);
    session.send([PREAMBLE, &hello("y", SYNC, false, 7), &native::heads(&[], true), &synced()].concat());
    // The pipe is full when the first entries have come.
    let mut stream = session.bytes(PREAMBLE.len());
    while !kinds(&stream).contains(&native::RUN) {
        stream.extend(next_frame(&mut session));
    }
    append(&a, numbers(1..=50));
    prune(&a, 10);
    while !kinds(&stream).contains(&native::SYNCED) {
        stream.extend(next_frame(&mut session));
    }
    let chain = Run::new(&a).args(["read"]).success().json()[0]["chain"].as_str().expect("a chain").to_owned();
    let chain = u128::from_str_radix(&chain, 16).expect("hex");
    let sent = floor("a", 140, chain);
    assert!(stream.windows(sent.len()).any(|part| part == sent), "{:?}", kinds(&stream));
}

/// Waits for the next frame of a session.
fn next_frame(session: &mut Session) -> Vec<u8> {
    let mut frame = session.bytes(1);
    while frame.last().is_some_and(|&byte| byte >= 0x80) {
        frame.extend(session.bytes(1));
    }
    let length = frame.iter().rev().fold(0, |length, &byte| length << 7 | usize::from(byte & 0x7f));
    assert!(!frame.is_empty(), "the stream has ended");
    frame.extend(session.bytes(length));
    frame
}

fn assert_said(ended: &Ended, text: &str) {
    assert!(ended.printed.stderr.contains(text), "no {text:?} in {}", ended.printed.stderr);
}

#[test]
fn a_fork_above_the_floor_is_found_and_proved() {
    for (common, keep_a, keep_b) in [(50, 60, 200), (50, 53, 200), (500, 150, 120), (50, 200, 53), (5, 102, 103)] {
        let place = Place::new();
        let (a, b) = (place.log("a"), place.path("copy"));
        append(&a, numbers(1..=common));
        copy(&a, &b);
        append(&a, "\"here\"\n".repeat(100));
        append(&b, "\"there\"\n".repeat(100));
        prune(&a, 100 + u64::from(common.min(keep_a)));
        prune(&b, 100 + u64::from(common.min(keep_b)));
        let ended = join(&a, &["--once"], &b, &["--once"]);
        for (ended, log) in [(&ended.0, &a), (&ended.1, &b)] {
            assert_eq!(ended.status.code(), Some(4), "{}", ended.printed.stderr);
            assert_said(ended, &format!("fork: entry {} of a has different bytes in the remote log", common + 1));
            assert_eq!(forked(log), ["a"]);
            assert_ne!(id(log), "a", "it takes a new id");
        }
    }
}

#[test]
fn a_fork_below_the_floor_is_reported_and_not_marked() {
    for modes in [["sync", "sync"], ["push", "sync"], ["sync", "pull"], ["pull", "push"]] {
        let place = Place::new();
        let (a, b) = (place.log("a"), place.path("copy"));
        write(&a, "{\"peer\":\"x\",\"seq\":1,\"entry\":1}\n");
        append(&a, numbers(1..=50));
        copy(&a, &b);
        append(&a, "\"here\"\n".repeat(100));
        append(&b, "\"there\"\n".repeat(90));
        prune(&a, 40);
        let (from, to) = if modes[0] == "pull" { (&b, &a) } else { (&a, &b) };
        write(from, "{\"peer\":\"z\",\"seq\":1,\"entry\":1}\n");
        let ended = join(&a, &["--once", "--mode", modes[0]], &b, &["--once", "--mode", modes[1]]);
        let said =
            "fork: the two logs differ in entry 110 of a or in one before it, these entries were pruned, this feed is stopped";
        for (ended, log) in [(&ended.0, &a), (&ended.1, &b)] {
            assert_eq!(ended.status.code(), Some(4), "{modes:?} {}", ended.printed.stderr);
            assert_said(ended, said);
            assert_eq!((forked(log).len(), id(log).as_str()), (0, "a"), "a claim changes nothing");
        }
        // The other feeds go on.
        assert!(heads(to).contains(&line("z", 1)), "{modes:?}");
    }
}

/// Nothing below the floor can be compared, so the log asks for no more chains.
#[test]
fn a_chain_that_differs_at_the_floor_ends_the_search_at_once() {
    let place = Place::new();
    let log = log(&place);
    write(&log, &(1..=4).map(|seq| format!("{{\"peer\":\"g\",\"seq\":{seq},\"text\":\"g{seq}\"}}\n")).collect::<String>());
    prune(&log, 1);
    assert_eq!(floor_of(&log, "g"), 3);
    let mut session = Session::open(&log, &["--once"]);
    session.send([PREAMBLE, &hello("y", SYNC, false, 7), &native::heads(&[("g", 3, 77), ("x", 1, x1())], true)].concat());
    let mut frame = session.bytes(PREAMBLE.len());
    while frame.get(1) != Some(&native::FORK) {
        frame = next_frame(&mut session);
    }
    let (floor, over) = (number_field(4, 3), number_field(5, 1));
    assert_eq!(frame, typed(native::FORK, [bytes_field(1, "g"), floor, over].concat()));
    session.send([synced(), fin(0, 0)].concat());
    let (_, ended) = session.end();
    assert_eq!(ended.status.code(), Some(4), "{}", ended.printed.stderr);
    assert_said(&ended, "the two logs differ in entry 3 of g or in one before it");
}

/// Both logs go on behind a floor, so that the fork is between the two floors.
#[test]
fn a_fork_between_two_floors_is_reported() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.path("copy"));
    append(&a, numbers(1..=50));
    copy(&a, &b);
    append(&a, "\"here\"\n".repeat(100));
    append(&b, "\"there\"\n".repeat(100));
    prune(&a, 120);
    prune(&b, 70);
    let ended = join(&a, &["--once"], &b, &["--once"]);
    for ended in [&ended.0, &ended.1] {
        assert_eq!(ended.status.code(), Some(4), "{}", ended.printed.stderr);
        assert_said(ended, "fork: the two logs differ in entry 80 of a or in one before it");
    }
}

#[test]
fn the_local_feed_never_starts_at_a_floor() {
    let place = Place::new();
    let (a, b, old) = (place.log("a"), place.log("b"), place.path("old"));
    append(&a, numbers(1..=30));
    copy(&a, &old);
    append(&a, numbers(31..=100));
    once(&a, &b, (0, 0));
    prune(&b, 20);
    write(&b, "{\"peer\":\"z\",\"seq\":1,\"entry\":1}\n");
    let ended = join(&old, &["--once"], &b, &["--once"]);
    assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(3), Some(3)), "{}", ended.0.printed.stderr);
    let said = "this log is behind in its local feed: the remote has pruned the entries of a up to 80, but this log has entries only \
                up to 30, this feed is stopped";
    assert_said(&ended.0, said);
    assert_said(&ended.1, "the remote is behind in its local feed a, and its missing entries up to 80 were pruned in this log");
    assert_eq!(heads(&old), [line("a", 30), line("z", 1)]);
    assert_eq!(id(&old), "a");
}

#[test]
fn an_older_remote_gets_no_entries_of_a_pruned_feed() {
    let place = Place::new();
    let a = pruned(&place, 100, 20);
    write(&a, "{\"peer\":\"z\",\"seq\":1,\"text\":\"z1\"}\n");
    let (sent, ended) = session_with_older(&a, 5, 0, &[(0, 1)]);
    assert_eq!(sent, [native::RUN], "only the entry of z");
    assert_eq!(ended.status.code(), Some(3));
    let said =
        "the entries of a up to 80 were pruned in this log, the program of the remote is too old for that, this feed is not sent";
    assert_said(&ended, said);
    // A remote that holds the feed up to the floor gets the rest.
    let texts: Vec<String> = (1..=80).map(|n| n.to_string()).collect();
    let a_80 = chain_of("a", &texts.iter().map(String::as_str).collect::<Vec<_>>());
    let (sent, ended) = session_with_older(&a, 80, a_80, &[(0, 100), (1, 1)]);
    assert_eq!((sent, ended.status.code()), (vec![native::RUN, native::RUN], Some(0)), "{}", ended.printed.stderr);
}

/// A session with a remote that does not know floors and holds a feed of a up to `seq`. Returns the types of the RUNs and FLOORs
/// that it gets. It acknowledges these entries: handle and seq.
fn session_with_older(log: &Path, seq: u32, chain: u128, acks: &[(u64, u64)]) -> (Vec<u8>, Ended) {
    let mut session = Session::open(log, &["--once"]);
    session.send([PREAMBLE, &hello_without_floors("y", 7), &native::heads(&[("a", seq, chain)], true), &synced()].concat());
    let mut stream = session.bytes(PREAMBLE.len());
    while !kinds(&stream).contains(&native::SYNCED) {
        stream.extend(next_frame(&mut session));
    }
    for &(handle, seq) in acks {
        session.send(native::ack(handle, seq));
    }
    session.send(fin(0, 0));
    let ended = session.wait();
    let sent = kinds(&stream).into_iter().filter(|kind| [native::RUN, native::FLOOR].contains(kind)).collect();
    (sent, ended)
}

#[test]
fn on_the_original_wire_a_floor_is_a_gap() {
    let place = Place::new();
    let (a, b) = (pruned(&place, 100, 20), place.log("b"));
    write(&a, "{\"peer\":\"z\",\"seq\":1,\"text\":\"z1\"}\n");
    let args = &["--once", "--wire", "original"];
    let ended = join(&a, args, &b, args);
    assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(3), Some(3)), "{}", ended.0.printed.stderr);
    assert_said(
        &ended.0,
        "the entries of a up to 80 were pruned in this log, the original wire cannot say so: the remote log gets a gap",
    );
    assert_said(&ended.0, "80 deleted or pruned entries cannot be sent on this wire");
    assert_said(&ended.1, "gap: the remote sent entry 81 of a after entry 0, the entries between the two were deleted or pruned");
    assert_eq!(heads(&b), [line("z", 1)]);
    // A log that holds the feed up to the floor gets the rest, and the entries below the floor are not taken back.
    let c = place.log("c");
    write(&c, &(1..=85).map(|n| format!("{{\"peer\":\"a\",\"seq\":{n},\"entry\":{n}}}\n")).collect::<String>());
    let ended = join(&a, args, &c, args);
    assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(0), Some(0)), "{}", ended.0.printed.stderr);
    assert_eq!(root(&a), root(&c));
    let stale = [crate::frames::handshake("y", &[("a", 100)], SYNC), crate::frames::change("a", 3, "other")].concat();
    Run::new(&a).args(["replicate", "--once", "--wire", "original"]).stdin(stale).success();
    assert_eq!(forked(&a).len(), 0);
}

/// A session with these bytes of a remote. The log holds entry 1 of x, its local feed, and `g` entries of g.
fn after(g: usize, args: &[&str], stream: &[u8], code: i32) -> (Vec<String>, Ended) {
    let place = Place::new();
    let log = log(&place);
    (1..=g).for_each(|seq| write(&log, &format!("{{\"peer\":\"g\",\"seq\":{seq},\"text\":\"g{seq}\"}}\n")));
    let args: Vec<&str> = ["--once"].into_iter().chain(args.iter().copied()).collect();
    let mut session = Session::open(&log, &args);
    session.send_some(stream);
    // A side that awaits the evidence of a fork waits until its input ends.
    let ended = if code == 4 { session.end().1 } else { session.wait() };
    assert_eq!(ended.status.code(), Some(code), "{}", ended.printed.stderr);
    (heads(&log), ended)
}

/// A hostile remote cannot make a log skip or drop anything by a FLOOR that does not fit.
#[test]
fn a_floor_that_does_not_fit_changes_nothing() {
    let g = |count: usize| chain_of("g", &["g1", "g2", "g3", "g4"][..count]);
    let start = |named: u32, chain: u128| {
        [PREAMBLE, &hello("y", SYNC, false, 7), &native::heads(&[("g", named, chain), ("x", 1, x1())], true)].concat()
    };
    let end = [synced(), fin(0, 0)].concat();
    let with = |named: u32, frames: Vec<u8>| [start(named, g(named as usize)), frames, end.clone()].concat();
    let two = vec![line("g", 2), line("x", 1)];
    // Below the head, at the head, twice, and lower than before: nothing to do.
    for floors in [vec![1], vec![2], vec![2, 2], vec![2, 1]] {
        let frames = floors.iter().flat_map(|&seq| floor("g", seq, g(seq as usize))).collect();
        let (heads, ended) = after(2, &[], &with(2, frames), 0);
        assert_eq!(heads, two, "{floors:?} {}", ended.printed.stderr);
    }
    // Of a feed that the remote has not named.
    let (heads, _) = after(2, &[], &with(2, floor("unnamed", 7, 1)), 0);
    assert_eq!(heads, two);
    // Of a feed that is not allowed.
    let (heads, _) = after(2, &["--allow-peer", "x"], &with(2, floor("g", 4, g(4))), 0);
    assert_eq!(heads, two);
    // Above the head of the local feed.
    let named = native::heads(&[("g", 2, g(2)), ("x", 9, 7)], true);
    let local = [PREAMBLE, &hello("y", SYNC, false, 7), &named, &floor("x", 9, 7), &end].concat();
    let (heads, ended) = after(2, &[], &local, 3);
    assert_eq!(heads, two);
    assert_said(&ended, "this log is behind in its local feed");
    // With another chain than that of the log: a claim, which stops the feed and changes nothing.
    let stream = [start(2, g(2)), floor("g", 1, 77), fork("g", &[(1, 77)]), end.clone()].concat();
    let (heads, ended) = after(2, &[], &stream, 4);
    assert_eq!(heads, two);
    assert_said(&ended, "fork: entry 1 of g has different bytes in the remote log");
    // These are refused.
    for (case, stream, args, code) in [
        ("seq 0", with(2, floor("g", 0, 7)), &[][..], 7),
        ("no chain", with(2, floor("g", 3, 0)), &[], 7),
        ("before the heads", [PREAMBLE, &hello("y", SYNC, false, 7), &floor("g", 3, 7)].concat(), &[], 7),
        ("to a side that only sends", with(2, floor("g", 3, 7)), &["--mode", "push"], 6),
        (
            "from a side that only receives",
            [PREAMBLE, &hello("y", PULL, false, 7), &native::heads(&[], true), &floor("g", 3, 7)].concat(),
            &[],
            7,
        ),
        ("after FIN", [start(2, g(2)), end.clone(), floor("g", 3, 7)].concat(), &[], 7),
        ("a truncated one", with(2, typed(native::FLOOR, [0x0a])), &[], 7),
    ] {
        println!("{case}");
        let (heads, _) = after(2, args, &stream, code);
        assert_eq!(heads, two, "{case}");
    }
}

#[test]
fn a_floor_counts_as_a_new_feed() {
    let place = Place::new();
    let (a, b) = (pruned(&place, 100, 20), place.log("b"));
    let ended = join(&a, &["--once"], &b, &["--once", "--receive-feeds-max", "0"]);
    assert_eq!(ended.1.status.code(), Some(6), "{}", ended.1.printed.stderr);
    assert_said(&ended.1, "the new feed a is refused");
    assert_eq!(heads(&b), [""; 0]);
    let ended = join(&a, &["--once"], &b, &["--once", "--receive-feeds-max", "1"]);
    assert_eq!(ended.1.status.code(), Some(0), "{}", ended.1.printed.stderr);
}

#[test]
fn floors_move_in_the_directions_of_the_modes() {
    for (mode_a, mode_b, moves) in
        [("push", "pull", true), ("sync", "pull", true), ("pull", "sync", false), ("push", "push", false)]
    {
        let place = Place::new();
        let (a, b) = (pruned(&place, 100, 20), place.log("b"));
        let ended = join(&a, &["--once", "--mode", mode_a], &b, &["--once", "--mode", mode_b]);
        let said = format!("{mode_a} {mode_b}: {} {}", ended.0.printed.stderr, ended.1.printed.stderr);
        assert_eq!(floor_of(&b, "a"), if moves { 80 } else { 0 }, "{said}");
    }
}

/// The frames of the protocol page.
#[test]
fn the_floor_of_the_protocol_page_is_what_goes_over_the_wire() {
    let place = Place::new();
    let alice = place.log("alice");
    Run::new(&alice).args(["append", "--text"]).stdin("a1\na2\n").success();
    prune(&alice, 1);
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/scuttleup-protocol.5")).expect("the page");
    let (_, example) = page.split_once(".Ss A floor on the native wire").expect("the example");
    let (example, _) = example.split_once(".Ed").expect("the end of the example");
    let digits: String = example.split(".Bd").nth(1).expect("the example").replace("alice:", "");
    let digits: String = digits.lines().skip(1).flat_map(str::chars).filter(|digit| !digit.is_whitespace()).collect();
    let frames = data_encoding::HEXLOWER.decode(digits.as_bytes()).expect("hex");
    let stream = [PREAMBLE, &hello("bob", SYNC, false, 0), &native::heads(&[], true), &synced()].concat();
    let mut session = Session::open(&alice, &["--once"]);
    session.send(stream);
    let mut said = session.bytes(PREAMBLE.len());
    while !kinds(&said).contains(&native::SYNCED) {
        said.extend(next_frame(&mut session));
    }
    assert!(said.windows(frames.len()).any(|part| part == frames), "{:?}", kinds(&said));
}
