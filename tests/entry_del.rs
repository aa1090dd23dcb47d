//! `entry` and `del`: print one entry, and delete one entry.

use crate::harness::{Place, Run, append, assert_equal, hashed, heads, read, root};

/// The change line of the deleted first entry `{"a":1}` of alice.
const DELETED: &str = "{\"offset\":1,\"peer\":\"alice\",\"seq\":1,\"deleted\":true,\"hash\":\"c5e3762ffc8453c6\",\"bytes\":7}\n";

#[test]
fn entry_prints_its_change_line_or_its_exact_bytes() {
    let place = Place::new();
    let log = place.log("alice");
    append(&log, "{\"a\": 1}\n2\n");
    let line = hashed("{\"offset\":1,\"peer\":\"alice\",\"seq\":1,\"entry\":{\"a\": 1}}\n");
    Run::new(&log).args(["entry", "alice", "1"]).stdout(line).stderr("").success();
    Run::new(&log).args(["entry", "alice", "1", "--raw"]).stdout("{\"a\": 1}").stderr("").success();
    Run::new(&log).args(["entry", "--raw", "alice", "2"]).stdout("2").stderr("").success();
}

#[test]
fn a_missing_entry_or_log_is_exit_1() {
    let place = Place::new();
    let log = place.log("alice");
    append(&log, "1\n");
    let empty = place.log("bob");
    for (peer, seq) in [("alice", "2"), ("alice", "4294967295"), ("bob", "1"), (&*"x".repeat(300), "1")] {
        for command in ["entry", "del"] {
            let run = Run::new(&log).args([command, peer, seq]).stdout("");
            let printed = run.stderr_has(&format!("scuttleup: entry {seq} of {peer} is not in this log: ")).status(1);
            assert_eq!(printed.stderr.matches('\n').count(), 1);
        }
    }
    for command in ["entry", "del"] {
        for (peer, seq, why) in [
            ("alice", "2", "the last entry of this feed is 1"),
            ("alcie", "1", "this log has no feed of alcie: did you mean alice?"),
            ("zoe", "1", "this log has no feed of zoe: `scuttleup heads` prints all feeds"),
        ] {
            let said = format!("scuttleup: entry {seq} of {peer} is not in this log: {why}\n");
            Run::new(&log).args([command, peer, seq]).stdout("").stderr(&said).status(1);
        }
        Run::new(&empty).args([command, "bob", "1"]).stderr_has(": the local feed is empty\n").status(1);
    }
    for seq in ["0", "4294967296", "-1", "x", "1.5", ""] {
        for command in ["entry", "del"] {
            Run::new(&log).args([command, "alice", seq]).stdout("").status(2);
        }
    }
    for command in ["entry", "del"] {
        Run::new(&place.path("none")).args([command, "alice", "1"]).stderr_has("no log in ").status(1);
    }
    assert!(!place.path("none").exists());
}

#[test]
fn a_deleted_entry_keeps_its_seq_offset_hash_and_length() {
    let place = Place::new();
    let log = place.log("alice");
    append(&log, "{\"a\":1}\n2\n");
    let (heads_before, root_before) = (heads(&log), root(&log));
    for _ in 0..2 {
        // The second time changes nothing.
        Run::new(&log).args(["del", "alice", "1"]).stdout("").stderr("").success();
        assert_eq!(read(&log), format!("{DELETED}{}", hashed("{\"offset\":2,\"peer\":\"alice\",\"seq\":2,\"entry\":2}\n")));
        assert_eq!((heads(&log), root(&log)), (heads_before.clone(), root_before.clone()));
    }
    for options in [&[][..], &["--raw"]] {
        let entry = Run::new(&log).args(["entry", "alice", "1"]).args(options).stdout("");
        entry.stderr_has("scuttleup: entry 1 of alice was deleted from this log").status(1);
    }
    append(&log, "3\n");
    assert_eq!(heads(&log), ["{\"peer\":\"alice\",\"seq\":3}"]);
}

#[test]
fn the_last_entry_can_be_deleted_and_its_seq_is_not_used_again() {
    let place = Place::new();
    let log = place.log("alice");
    append(&log, "1\n2\n");
    Run::new(&log).args(["del", "alice", "2"]).success();
    let ack = Run::new(&log).args(["append", "--ack"]).stdin("3\n");
    ack.stdout("{\"peer\":\"alice\",\"seq\":3}\n").success();
    assert_eq!(read(&log).lines().count(), 3);
}

#[test]
fn entries_of_any_length_can_be_deleted() {
    let place = Place::new();
    let log = place.log("alice");
    // A tombstone is longer than the first entries and shorter than the others; the last entry has overflow pages.
    let lengths = [0usize, 1, 11, 12, 13, 5000, 3_000_000];
    for length in lengths {
        Run::new(&log).args(["append", "--raw"]).stdin("x".repeat(length)).success();
    }
    let root_before = root(&log);
    for seq in 1..=lengths.len() {
        Run::new(&log).args(["del", "alice", &seq.to_string()]).success();
    }
    let printed = Run::new(&log).args(["read"]).success();
    let bytes: Vec<u64> = printed.json().iter().map(|change| change["bytes"].as_u64().expect("a length")).collect();
    assert_eq!(bytes, lengths.map(|length| length as u64));
    assert_eq!(root(&log), root_before);
}

#[test]
fn an_entry_of_another_peer_can_be_deleted() {
    let place = Place::new();
    let (alice, bob) = (place.log("alice"), place.log("bob"));
    append(&alice, "{\"a\":1}\n");
    Run::new(&bob).args(["write"]).stdin(read(&alice)).success();
    Run::new(&bob).args(["del", "alice", "1"]).success();
    assert_eq!(read(&bob), DELETED);
    // Neither log holds an entry that the other lacks: their heads and roots are equal.
    assert_equal(&alice, &bob);
}

#[test]
fn a_deleted_entry_never_comes_back() {
    let place = Place::new();
    let (alice, bob) = (place.log("alice"), place.log("bob"));
    append(&alice, "{\"a\":1}\n");
    Run::new(&bob).args(["write"]).stdin(read(&alice)).success();
    Run::new(&bob).args(["del", "alice", "1"]).success();
    append(&alice, "2\n");
    Run::new(&bob).args(["write"]).stdin(read(&alice)).stderr("").success();
    let last = hashed("{\"offset\":2,\"peer\":\"alice\",\"seq\":2,\"entry\":2}\n");
    assert_eq!(read(&bob), format!("{DELETED}{last}"));
    append(&alice, "3\n");
    let bob_dir = bob.to_str().expect("UTF-8");
    let words = ["replicate", "--once", "--", crate::harness::SCUTTLEUP, "--log", bob_dir, "replicate", "--once"];
    Run::new(&alice).args(words).success();
    let third = hashed("{\"offset\":3,\"peer\":\"alice\",\"seq\":3,\"entry\":3}\n");
    assert_eq!(read(&bob), format!("{DELETED}{last}{third}"));
    // A deleted entry does not delete the bytes of this entry in another log.
    Run::new(&alice).args(["write"]).stdin(read(&bob)).stderr("").success();
    Run::new(&alice).args(["entry", "alice", "1", "--raw"]).stdout("{\"a\":1}").success();
}
