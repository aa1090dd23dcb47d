//! All pairs of modes, one-shot and live; the closing line and the report; deleted and overlong entries.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::harness::{Place, Run, SCUTTLEUP, append, assert_equal, heads, read, root, unlabelled};
use crate::replicate::{await_entries, join};

use super::{number, once, replicate, report, write};

const MODES: [&str; 3] = ["sync", "push", "pull"];

fn moves(from: &str, to: &str) -> bool {
    from != "pull" && to != "push"
}

/// Two logs: a with two entries, one of them deleted, and b with three entries.
fn two_logs(place: &Place) -> (std::path::PathBuf, std::path::PathBuf) {
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "\"a1\"\n\"a2\"\n");
    append(&b, "\"b1\"\n\"b2\"\n\"b3\"\n");
    Run::new(&a).args(["del", "a", "1"]).success();
    (a, b)
}

#[test]
fn nine_pairs_of_modes_with_one_or_both_logs_once() {
    for (mode_a, mode_b) in MODES.iter().flat_map(|a| MODES.map(|b| (*a, b))) {
        for (once_a, once_b) in [(true, true), (true, false), (false, true)] {
            let place = Place::new();
            let (a, b) = two_logs(&place);
            let args =
                |mode, once: bool| ["--json", "--wire", "native", "--mode", mode].into_iter().chain(once.then_some("--once"));
            let args = |mode, once| args(mode, once).collect::<Vec<_>>();
            let began = Instant::now();
            let ended = join(&a, &args(mode_a, once_a), &b, &args(mode_b, once_b));
            let took = began.elapsed().as_secs_f64();
            let (report_a, report_b) = (report(&ended.0), report(&ended.1));
            let said = format!("{mode_a} {once_a} with {mode_b} {once_b}: {report_a} {report_b}");
            let (to_b, to_a) = (2 * u64::from(moves(mode_a, mode_b)), 3 * u64::from(moves(mode_b, mode_a)));
            // A side with --once asks for what its mode allows. A live side accepts the mode of its remote.
            let exit = |once, mode, other| if once && (mode == "sync" || mode == other) && other != "sync" { 6 } else { 0 };
            let (exit_a, exit_b) = (exit(once_a, mode_a, mode_b), exit(once_b, mode_b, mode_a));
            for (report, peer, exit, sent, received) in
                [(&report_a, "b", exit_a, to_b, to_a), (&report_b, "a", exit_b, to_a, to_b)]
            {
                assert_eq!((&report["peer"], &report["wire"]), (&peer.into(), &"native".into()), "{said}");
                assert_eq!((&report["complete"], number(report, "exit")), (&(exit == 0).into(), exit), "{said}");
                let counts = ["sent", "durable", "received", "unsent", "missing", "forks", "gaps", "refused", "floors"]
                    .map(|name| number(report, name));
                assert_eq!(counts, [sent, sent, received, 0, 0, 0, 0, 0, 0], "{said}");
                assert!(report["seconds"].as_f64().is_some_and(|seconds| (0.0..=took).contains(&seconds)), "{said}");
                assert_eq!(report.as_object().expect("an object").len(), 20, "{said}");
            }
            assert_eq!(report_a["bytes_sent"], report_b["bytes_received"], "{said}");
            assert_eq!(report_b["bytes_sent"], report_a["bytes_received"], "{said}");
            assert_eq!((heads(&b).len() == 2, heads(&a).len() == 2), (to_b > 0, to_a > 0), "{said}");
            if to_a > 0 && to_b > 0 {
                assert_equal(&a, &b);
            }
        }
    }
}

#[test]
fn a_session_is_live_only_if_both_logs_are() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let (mut run_a, mut run_b) = replicate(&a, &["--json"]).spawn_joined(replicate(&b, &["--json"]));
    await_entries(&a, "b", 3);
    await_entries(&b, "a", 2);
    append(&a, "3\n");
    append(&b, "4\n");
    await_entries(&b, "a", 3);
    await_entries(&a, "b", 4);
    run_a.signal(Signal::SIGTERM);
    let (ended_a, ended_b) = (run_a.wait(), run_b.wait());
    assert_eq!(ended_a.status.code(), Some(143), "{}", ended_a.printed.stderr);
    let stopped = report(&ended_a);
    let counts = ["exit", "sent", "received"].map(|name| number(&stopped, name));
    assert_eq!((&stopped["complete"], counts), (&false.into(), [143, 3, 4]), "{stopped}");
    // Log b cannot know whether a had more entries to send.
    let report = report(&ended_b);
    assert_eq!((number(&report, "exit"), number(&report, "sent"), number(&report, "received")), (3, 4, 3), "{report}");
    assert_equal(&a, &b);
}

#[test]
fn a_session_that_a_signal_ends_reports_its_counts() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    for (quiet, received) in [(&[][..], 3), (&["-q"], 0)] {
        let (mut run_a, mut run_b) = replicate(&a, quiet).spawn_joined(replicate(&b, &["-q"]));
        await_entries(&a, "b", 3);
        await_entries(&b, "a", 2);
        run_a.signal(Signal::SIGINT);
        let ended = run_a.wait();
        run_b.wait();
        assert_eq!(ended.status.code(), Some(130), "{}", ended.printed.stderr);
        if received == 0 {
            assert_eq!(ended.printed.stderr, "");
            continue;
        }
        // The last ACK may not have arrived yet, so the number of durable entries is not fixed.
        let said = unlabelled(&ended.printed.stderr);
        let (sent, rest) = said.split_once(" (").expect("counts");
        assert_eq!(sent, "scuttleup: stopped: sent 2");
        assert!(rest.ends_with(" durable on the remote) to b, received 3\n"), "{rest}");
    }
}

#[test]
fn the_closing_line_reports_the_counts_and_is_not_printed_when_quiet() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("ID"));
    append(&a, (0..12).map(|n| format!("{n}\n")).collect::<String>());
    append(&b, "1\n2\n3\n4\n5\n");
    let (mut run_a, mut run_b) = replicate(&a, &["--once"]).spawn_joined(replicate(&b, &[]));
    let (ended_a, ended_b) = (run_a.wait(), run_b.wait());
    assert_eq!(ended_a.printed.stderr, "scuttleup (a): synced with ID: sent 12 (12 durable on the remote), received 5\n");
    // The live side serves: its remote reports the session.
    assert_eq!(ended_b.printed.stderr, "");
    assert_eq!((ended_a.status.code(), ended_b.status.code()), (Some(0), Some(0)));
    append(&a, "13\n");
    let quiet = ["-q", "replicate", "--once", "--", SCUTTLEUP, "-q", "--log"];
    Run::new(&a).args(quiet).args([&b]).args(["replicate"]).stdout("").stderr("").success();
    assert_equal(&a, &b);
}

#[test]
fn deleted_entries_are_sent_as_hash_and_length() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, (0..3000).map(|n| format!("\"secret {n}\"\n")).collect::<String>());
    for seq in [1, 2, 1024, 1025, 1500, 3000] {
        Run::new(&a).args(["del", "a", &seq.to_string()]).success();
    }
    let (report_a, _) = once(&a, &b, (0, 0));
    assert_eq!(number(&report_a, "durable"), 3000);
    assert_equal(&a, &b);
    assert_eq!(read(&a), read(&b));
    // An entry that is deleted after it was sent keeps its bytes in the other log.
    Run::new(&a).args(["del", "a", "7"]).success();
    assert_eq!(root(&a), root(&b));
    let (report_a, _) = once(&a, &b, (0, 0));
    assert_eq!(number(&report_a, "sent"), 0);
    assert_eq!(read(&b).matches("\"deleted\":true").count(), 6);
}

#[test]
fn one_entry_that_is_not_received_is_counted_as_one() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, format!("\"{}\"\n", "x".repeat(5000)));
    let ended = join(&a, &["--once"], &b, &["--once", "--entry-bytes-max", "4000"]);
    let said = ", but 1 entry of the remote was not received: see the messages of the remote";
    assert!(ended.1.printed.stderr.contains(said), "{}", ended.1.printed.stderr);
}

#[test]
fn an_entry_that_is_too_long_stops_its_feed_and_no_other() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    let long = "x".repeat(5000);
    append(&a, format!("1\n\"{long}\"\n3\n"));
    write(&a, "{\"peer\":\"other\",\"seq\":1,\"entry\":1}\n{\"peer\":\"other\",\"seq\":2,\"entry\":2}\n");
    append(&b, "1\n");
    let ended = join(&a, &["--once"], &b, &["--once", "--entry-bytes-max", "4000"]);
    assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(3), Some(3)));
    let said = "scuttleup: entry 2 of a is longer than the remote accepts (4000 bytes), this feed is stopped";
    assert!(ended.0.printed.stderr.contains(said), "{}", ended.0.printed.stderr);
    let told = heads(&b);
    assert_eq!(
        told,
        ["a", "b", "other"].map(|peer| format!("{{\"peer\":\"{peer}\",\"seq\":{}}}", 1 + u8::from(peer == "other")))
    );
    assert!(ended.0.printed.stderr.contains("but 1 feed is stopped"), "{}", ended.0.printed.stderr);
    let missing = "synced with a: sent 1 (1 durable on the remote), received 3, but 2 entries of the remote were not received: see the messages of the remote";
    assert!(ended.1.printed.stderr.contains(missing), "{}", ended.1.printed.stderr);
    let again = join(&a, &["--once", "--json"], &b, &["--once", "--entry-bytes-max", "4000", "--json"]);
    let counts = |ended, names: [&str; 3]| names.map(|name| number(&report(ended), name));
    assert_eq!(counts(&again.0, ["sent", "unsent", "gaps"]), [0, 2, 1]);
    assert_eq!(counts(&again.1, ["received", "missing", "gaps"]), [0, 2, 0]);
    // The message is printed once in a session. With a larger limit the feed goes on.
    assert_eq!(ended.0.printed.stderr.matches("is longer").count(), 1);
    let (report_a, _) = once(&a, &b, (0, 0));
    assert_eq!(number(&report_a, "sent"), 2);
    assert_equal(&a, &b);
}
