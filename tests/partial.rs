//! `replicate --peer`: a session about some feeds, on both wires and in all modes.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::frames::{Frame, PREAMBLE, SYNC, Session, change, handshake};
use crate::harness::{Ended, Place, Run, SCUTTLEUP, append, heads, shell};
use crate::native_frames::{self as native, FIN, HEADS, chain_of, feed, hello, kinds, run, synced};
use crate::replicate::{await_entries, join};

const WIRES: [&str; 2] = ["native", "original"];
const MODES: [&str; 3] = ["sync", "push", "pull"];

fn write(log: &Path, peer: &str, seqs: std::ops::RangeInclusive<u32>) {
    let line = |seq| format!("{{\"peer\":\"{peer}\",\"seq\":{seq},\"entry\":{seq}}}\n");
    Run::new(log).args(["write"]).stdin(seqs.map(line).collect::<String>()).success();
}

/// Logs a and b. Each of them has entries of `web-1` and `db-1` that the other lacks, a `web` feed and a `db` feed of its own, and
/// an entry of its local feed.
fn two_logs(place: &Place) -> (PathBuf, PathBuf) {
    let (a, b) = (place.log("a"), place.log("b"));
    for (log, name, other) in [(&a, "a", "b"), (&b, "b", "a")] {
        for kind in ["web", "db"] {
            write(log, &format!("{kind}-{name}"), 1..=4);
            write(log, &format!("{kind}-{other}"), 1..=1);
            write(log, &format!("{kind}-only-{name}"), 1..=2);
        }
        append(log, "1\n");
    }
    (a, b)
}

/// The heads of the feeds of a kind: `web`, `db` or the local ones.
fn heads_of(log: &Path, kind: &str) -> Vec<String> {
    heads(log).into_iter().filter(|head| head.starts_with(&format!("{{\"peer\":\"{kind}"))).collect()
}

fn report(ended: &Ended) -> Value {
    let last = ended.printed.stderr.lines().last().expect("a report");
    serde_json::from_str(last).unwrap_or_else(|err| panic!("{err}: {last}"))
}

/// Whether a side with mode `from` sends entries to a side with mode `to`.
fn moves(from: &str, to: &str) -> bool {
    from != "pull" && to != "push"
}

#[test]
fn only_the_selected_feeds_move_and_the_others_are_left_out_quietly() {
    for wire in WIRES {
        for (mode, other) in MODES.iter().flat_map(|mode| MODES.map(|other| (*mode, other))) {
            for both in [false, true] {
                let place = Place::new();
                let (a, b) = two_logs(&place);
                let before =
                    [&a, &b].map(|log| [heads_of(log, "web"), heads_of(log, "db"), heads_of(log, "a"), heads_of(log, "b")]);
                let args = ["--once", "--json", "--wire", wire, "--mode", mode, "--peer", "web*"];
                let others = ["--json", "--wire", wire, "--mode", other, "--peer", "web*"];
                let (ended, served) = join(&a, &args, &b, &others[..if both { 7 } else { 5 }]);
                let said = format!("{wire} {mode} {other} {both}: {}{}", ended.printed.stderr, served.printed.stderr);
                for (log, [web, db, of_a, of_b], receives) in
                    [(&a, &before[0], moves(other, mode)), (&b, &before[1], moves(mode, other))]
                {
                    assert_eq!(&heads_of(log, "db"), db, "{said}");
                    assert_eq!((&heads_of(log, "a"), &heads_of(log, "b")), (of_a, of_b), "{said}");
                    assert_eq!(&heads_of(log, "web") != web, receives, "{said}");
                    assert!(!receives || heads_of(log, "web").len() == 4, "{said}");
                }
                // One line each: the report.
                assert_eq!((ended.printed.stderr.lines().count(), served.printed.stderr.lines().count()), (1, 1), "{said}");
                let (report, served) = (report(&ended), report(&served));
                let is_closed = mode != "pull" && !moves(mode, other) || mode != "push" && !moves(other, mode);
                assert_eq!(ended.status.code(), Some(if is_closed { 6 } else { 0 }), "{said}");
                assert_eq!((&report["partial"], &report["peers"]), (&true.into(), &vec!["web*"].into()), "{said}");
                let sent = if moves(mode, other) { 5 } else { 0 };
                let received = if moves(other, mode) { 5 } else { 0 };
                assert_eq!((&report["sent"], &report["received"]), (&sent.into(), &received.into()), "{said}");
                assert_eq!((&report["missing"], &report["unsent"], &report["refused"]), (&0.into(), &0.into(), &0.into()));
                // The remote of the original wire is not told.
                assert_eq!(served["partial"], both || wire == "native", "{said}");
                assert_eq!((&served["missing"], &served["unsent"], &served["exit"]), (&0.into(), &0.into(), &0.into()), "{said}");
            }
        }
    }
}

#[test]
fn the_last_line_says_that_the_sync_was_partial() {
    for (wire, durable) in [("native", " (5 durable on the remote)"), ("original", "")] {
        let place = Place::new();
        let (a, b) = two_logs(&place);
        let args = ["--once", "--wire", wire, "--peer", "web*", "--peer", "none"];
        let (ended, other) = join(&a, &args, &b, &["--once"]);
        assert_eq!((ended.status.code(), other.status.code()), (Some(0), Some(0)));
        let partial = "partial: only feeds that match web* or none";
        // With --wire original, no head of another feed is claimed, so that all of them come.
        let ignored = if wire == "original" { ", 8 entries of other feeds came and were ignored" } else { "" };
        let said = format!("scuttleup: synced with b: sent 5{durable}, received 5, {partial}{ignored}\n");
        assert_eq!(ended.printed.stderr, said);
        let chosen = if wire == "native" { ", partial: only the feeds that the remote has chosen" } else { "" };
        assert_eq!(
            other.printed.stderr,
            format!("scuttleup: synced with a: sent {}{}, received 5{chosen}\n", if wire == "native" { 5 } else { 13 }, durable)
        );
        // All selected feeds are equal now, but not the logs.
        let (ended, _) = join(&a, &args, &b, &["--once"]);
        assert!(ended.printed.stderr.contains("synced with b: sent 0"), "{}", ended.printed.stderr);
        let compared = Run::new(&a).args(["compare", "--", SCUTTLEUP, "--log"]).args([&b]).args(["replicate"]).status(3);
        assert!(!compared.text().contains("\"web-"), "{}", compared.text());
    }
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let globs = ["--peer", "1", "--peer", "2", "--peer", "3", "--peer", "4", "--peer", "5"];
    let (ended, _) = join(&a, &[&["--once"], &globs[..]].concat(), &b, &[]);
    assert!(ended.printed.stderr.ends_with("partial: only feeds that match 1 or 2 or 3 or 2 more patterns\n"));
}

#[test]
fn a_live_session_sends_no_new_entries_of_other_feeds() {
    for wire in WIRES {
        let place = Place::new();
        let (a, b) = two_logs(&place);
        let run = Run::new(&a).args(["replicate", "--wire", wire, "--peer", "web*", "--", SCUTTLEUP, "-q", "--log"]);
        let mut live = run.args([&b]).args(["replicate"]).spawn();
        await_entries(&b, "web-a", 4);
        await_entries(&a, "web-b", 4);
        for (log, own) in [(&a, "a"), (&b, "b")] {
            append(log, "\"not sent\"\n");
            write(log, &format!("db-{own}"), 5..=5);
            write(log, &format!("db-new-{own}"), 1..=1);
            write(log, &format!("web-{own}"), 5..=5);
        }
        await_entries(&b, "web-a", 5);
        await_entries(&a, "web-b", 5);
        live.signal(Signal::SIGTERM);
        let ended = live.wait();
        let said = &ended.printed.stderr;
        assert_eq!(ended.status.code(), Some(143), "{said}");
        assert!(said.contains("scuttleup: in sync with b in the chosen feeds, waiting for new entries\n"), "{said}");
        assert!(said.contains(", partial: only feeds that match web*"), "{said}");
        assert!(!said.contains("accept") && !said.contains("refuse"), "{said}");
        for (log, own, other) in [(&a, "a", "b"), (&b, "b", "a")] {
            let known = heads(log);
            assert!(known.contains(&format!("{{\"peer\":\"db-{other}\",\"seq\":1}}")), "{wire} {own}: {known:?}");
            assert!(
                !known.iter().any(|head| head.contains(&format!("db-new-{other}")) || head.contains(&format!("\"{other}\"")))
            );
        }
    }
}

#[test]
fn a_fork_of_a_feed_that_is_left_out_is_not_looked_at() {
    for wire in WIRES {
        let place = Place::new();
        let (a, b) = (place.log("a"), place.log("b"));
        for (log, entries) in [(&a, "12"), (&b, "134")] {
            for peer in ["web", "db"] {
                for (seq, entry) in (1..).zip(entries.chars()) {
                    let line = format!("{{\"peer\":\"{peer}\",\"seq\":{seq},\"entry\":{entry}}}\n");
                    Run::new(log).args(["write"]).stdin(line).success();
                }
            }
        }
        let state = || [&a, &b].map(|log| Run::new(log).args(["heads"]).success().stdout);
        let before = state();
        let (ended, _) = join(&a, &["--once", "--wire", wire, "--peer", "a", "--peer", "none"], &b, &[]);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.printed.stderr);
        assert!(!ended.printed.stderr.contains("fork"), "{}", ended.printed.stderr);
        assert!(before == state());
        // That of a selected feed is. The original wire shows none here: no entry that both logs hold is sent.
        let (ended, _) = join(&a, &["--once", "--wire", wire, "--peer", "w*"], &b, &[]);
        assert_eq!(ended.status.code(), Some(if wire == "native" { 4 } else { 0 }), "{}", ended.printed.stderr);
        assert!(!ended.printed.stderr.contains(" db "), "{}", ended.printed.stderr);
    }
}

#[test]
fn a_selected_feed_that_is_not_allowed_is_refused() {
    for wire in WIRES {
        let place = Place::new();
        let (a, b) = two_logs(&place);
        let args = ["--once", "--json", "--wire", wire, "--mode", "pull", "--peer", "web*", "--allow-peer", "web-b"];
        let (ended, _) = join(&a, &args, &b, &[]);
        let said = &ended.printed.stderr;
        assert!(said.contains("the feed web-only-b of the remote is refused: its id matches no --allow-peer"), "{wire}: {said}");
        assert!(!said.contains("db-"), "{said}");
        assert_eq!(ended.status.code(), Some(6), "{said}");
        assert_eq!(heads_of(&a, "web").len(), 3, "{said}");
    }
}

#[test]
fn floors_of_other_feeds_stay_where_they_are() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    write(&a, "web", 1..=10);
    write(&a, "db", 1..=10);
    Run::new(&a).args(["-q", "prune", "--keep-last", "4"]).success();
    let (ended, _) = join(&a, &["--once", "--peer", "web"], &b, &["-q"]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.printed.stderr);
    assert_eq!(heads(&b), [r#"{"peer":"web","seq":10}"#]);
    let (ended, _) = join(&b, &["--once", "--peer", "none"], &a, &["-q"]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.printed.stderr);
    assert_eq!(heads(&b), [r#"{"peer":"web","seq":10}"#]);
}

/// A remote of the original wire sends everything above the announced heads. So the head of the remote is announced, as far as the
/// log holds it. With `--wire original`, the handshake does not wait for that of the remote: then nothing is claimed.
#[test]
fn on_the_original_wire_the_handshake_claims_least_and_what_comes_is_dropped() {
    for (only, claimed) in [(false, vec![("db-a", 4), ("db-b", 1), ("web-a", 4)]), (true, vec![("web-a", 4)])] {
        let place = Place::new();
        let log = place.log("x");
        append(&log, "1\n");
        for (peer, seqs) in [("db-a", 1..=4), ("db-b", 1..=3), ("db-c", 1..=3), ("web-a", 1..=4)] {
            write(&log, peer, seqs);
        }
        let args = ["--once", "--json", "--peer", "web*", "--wire", "original"];
        let mut session = Session::open(&log, &args[..if only { 6 } else { 4 }]);
        session.send(handshake("y", &[("db-a", 9), ("db-b", 1), ("db-new", 1), ("web-a", 3), ("web-b", 1)], SYNC));
        assert_eq!(session.frame(), Some(Frame::handshake("x", &claimed, SYNC)));
        assert_eq!(session.frame(), Some(Frame::change("web-a", 4, "4")));
        session.send([change("db-a", 5, "5"), change("db-new", 1, "1"), change("web-b", 1, "1"), change("x", 2, "9")].concat());
        let (rest, ended) = session.close();
        assert_eq!(rest, []);
        let report = report(&ended);
        assert_eq!((&report["ignored"], &report["received"], &report["sent"]), (&3.into(), &1.into(), &1.into()), "{report}");
        assert_eq!((&report["missing"], &report["exit"]), (&0.into(), &0.into()), "{report}");
        let known = heads(&log);
        assert!(known.contains(&r#"{"peer":"db-a","seq":4}"#.to_owned()) && !known.iter().any(|head| head.contains("db-new")));
    }
}

/// A program that does not know the field `allow` of HELLO sends everything. It waits for acknowledgements that never come.
#[test]
fn an_older_native_remote_sends_everything_and_the_session_is_complete() {
    let place = Place::new();
    let log = place.log("x");
    write(&log, "db-a", 1..=1);
    let mut session = Session::open(&log, &["--once", "--json", "--peer", "web*"]);
    let (db, web) = (chain_of("db-b", &["1"]), chain_of("web-b", &["2"]));
    let named = native::heads(&[("db-b", 1, db), ("web-b", 1, web)], true);
    let entries = [feed(0, "db-b"), run(0, 1, &["1"], db), feed(1, "web-b"), run(1, 1, &["2"], web), synced()].concat();
    session.send([PREAMBLE, &hello("y", SYNC, false, 7), &named, &entries].concat());
    let mut said = session.bytes(PREAMBLE.len());
    while !kinds(&said).contains(&FIN) {
        said.extend(session.bytes(1));
    }
    // Its heads do not name the feed that is left out.
    let heads_frame = native::heads(&[], true);
    assert!(kinds(&said).contains(&HEADS) && said.windows(heads_frame.len()).any(|part| part == heads_frame));
    session.send_some([0]);
    let (_, ended) = session.end();
    let report = report(&ended);
    assert_eq!((&report["ignored"], &report["received"], &report["exit"]), (&1.into(), &1.into(), &0.into()), "{report}");
    assert_eq!(heads(&log).len(), 2);
}

#[test]
fn invalid_patterns_are_refused_before_the_session() {
    let place = Place::new();
    let log = place.log("a");
    let run = |glob: &str| Run::new(&log).args(["replicate", "--peer", glob, "--", "true"]);
    run("a[b").stderr_has("invalid pattern a[b for peer ids: a [ has no ]").status(2);
    run("").stderr_has("it is empty").status(2);
    // The README has a recipe without this option.
    shell("$scuttleup replicate --help | grep -q -- '--peer <GLOB>'").success();
}
