//! Deleted entries. The original wire cannot carry tombstones: the sender leaves deleted entries out.

use std::path::Path;

use super::super::harness::{Place, Run};
use super::super::native::with_log;
use super::{Original, assert_same, entries, lines, log_of, sync};

/// The seqs of the entries of a peer in the log under test.
fn seqs(log: &Path, peer: &str) -> Vec<u64> {
    entries(log).into_iter().filter(|entry| entry.0 == peer).map(|entry| entry.1).collect()
}

#[test]
fn a_feed_of_the_original_stops_at_a_gap() {
    let place = Place::new();
    let (ours, theirs) = (log_of(&place, "ours", "1\n2\n"), Original::new(&place, "theirs"));
    theirs.append(lines("theirs", 5));
    theirs.run(["del", "theirs", "3"]).success();
    let printed = sync(&ours, &theirs).stderr_has("theirs").status(3);
    assert!(printed.stderr.contains("gap: the remote sent entry 4 of theirs after entry 2"), "{}", printed.stderr);
    assert_eq!(seqs(&ours, "theirs"), [1, 2]);
    assert_eq!(theirs.entries().len(), 4 + 2, "the feed of ours is incomplete");
    // The next session reports the same gap again.
    sync(&ours, &theirs).stderr_has("gap: the remote sent entry 4 of theirs after entry 2").status(3);
    assert_eq!(seqs(&ours, "theirs"), [1, 2]);
}

#[test]
fn a_feed_whose_first_entry_was_deleted_is_a_gap() {
    let place = Place::new();
    let (ours, theirs) = (place.log("ours"), Original::new(&place, "theirs"));
    theirs.append("1\n2\n");
    theirs.run(["del", "theirs", "1"]).success();
    sync(&ours, &theirs).stderr_has("sent entry 2 of theirs after entry 0").status(3);
    assert!(entries(&ours).is_empty());
}

#[test]
fn other_feeds_go_on_after_a_gap() {
    let place = Place::new();
    let (ours, other) = (place.log("ours"), log_of(&place, "other", lines("other", 100)));
    let theirs = Original::new(&place, "theirs");
    theirs.append(lines("theirs", 100));
    sync(&other, &theirs).success();
    theirs.run(["del", "other", "50"]).success();
    sync(&ours, &theirs).stderr_has("sent entry 51 of other after entry 49").status(3);
    assert_eq!(seqs(&ours, "other"), (1..=49).collect::<Vec<_>>());
    assert_eq!(seqs(&ours, "theirs"), (1..=100).collect::<Vec<_>>());
    // A log that holds all entries fills the gap.
    let whole = Original::new(&place, "whole");
    sync(&other, &whole).success();
    sync(&ours, &whole).success();
    assert_same(&ours, &whole, 200);
}

#[test]
fn local_deleted_entries_are_not_sent() {
    let place = Place::new();
    let (ours, theirs) = (log_of(&place, "ours", lines("ours", 5)), Original::new(&place, "theirs"));
    Run::new(&ours).args(["del", "ours", "3"]).success();
    sync(&ours, &theirs).stderr_has("entry 3 of ours was deleted in this log").status(3);
    let there: Vec<_> = theirs.entries().into_iter().map(|entry| entry.1).collect();
    assert_eq!(there, [1, 2, 4, 5]);
    // The counts of --json, on the original wire.
    let other = place.log("other");
    let run =
        Run::new(&ours).args(["replicate", "--once", "--json", "--wire", "original"]).args(with_log(&other)).args(["--once"]);
    let reports = run.status(3).json();
    assert_eq!((&reports[0]["sent"], &reports[0]["unsent"]), (&4.into(), &1.into()));
    // The original compares heads only: it does not ask for the missing entry.
    sync(&ours, &theirs).stderr_has("sent 0, received 0").success();
}

/// `replicate --once --accept-gaps` with a one-shot session of the original.
fn sync_with_gaps(ours: &Path, theirs: &Original) -> Run {
    Run::new(ours).args(["replicate", "--once", "--accept-gaps", "--"]).args(theirs.command(["replicate"]))
}

/// The seq of each entry of `peer` in a log, and whether it is deleted.
fn held(log: &Path, peer: &str) -> Vec<(u64, bool)> {
    let printed = Run::new(log).args(["read", "--peer", peer]).success();
    let mut held: Vec<_> =
        printed.json().iter().map(|line| (line["seq"].as_u64().expect("a seq"), line["deleted"] == true)).collect();
    held.sort_unstable();
    held
}

#[test]
fn gaps_of_the_original_are_accepted() {
    let place = Place::new();
    let (ours, theirs) = (log_of(&place, "ours", "1\n"), Original::new(&place, "theirs"));
    theirs.append(lines("theirs", 8));
    for seq in ["1", "4", "5"] {
        theirs.run(["del", "theirs", seq]).success();
    }
    sync(&ours, &theirs).stderr_has("theirs").status(3);
    assert_eq!(held(&ours, "theirs"), []);
    sync_with_gaps(&ours, &theirs).success();
    let expected: Vec<_> = (1..=8).map(|seq| (seq, [1, 4, 5].contains(&seq))).collect();
    assert_eq!(held(&ours, "theirs"), expected);
    Run::new(&ours).args(["entry", "theirs", "4"]).status(1);
    assert_eq!(Run::new(&ours).args(["entry", "theirs", "8", "--raw"]).success().text(), "theirs 8");
    // After the accepted gaps the feed continues without --accept-gaps.
    theirs.append("9\n");
    sync(&ours, &theirs).stderr_has("sent 0, received 1").success();
    assert_eq!(held(&ours, "theirs").len(), 9);
}

#[test]
fn accept_gaps_changes_nothing_without_gaps() {
    let place = Place::new();
    let (ours, theirs) = (log_of(&place, "ours", "1\n"), Original::new(&place, "theirs"));
    theirs.append(lines("theirs", 3));
    sync_with_gaps(&ours, &theirs).success();
    assert_eq!(held(&ours, "theirs"), [(1, false), (2, false), (3, false)]);
    assert_same(&ours, &theirs, 4);
}
