//! Forks that are found at the opening: two logs hold different bytes for the same entry of a feed.

use std::io::pipe;
use std::path::{Path, PathBuf};

use scuttleup::{Ending, Log, Options};
use serde_json::Value;

use crate::harness::{Ended, Place, Run, append, assert_equal, heads, read};
use crate::replicate::join;

use super::{copy, forked, id, number, once, report, write};

fn lines(count: usize, word: &str) -> String {
    (0..count).map(|n| format!("\"{word} {n}\"\n")).collect()
}

/// Both processes must exit with 4 and report the first forked entry of this feed.
fn assert_fork(ended: &(Ended, Ended), peer: &str, seq: usize) {
    for ended in [&ended.0, &ended.1] {
        let said = &ended.printed.stderr;
        assert_eq!(ended.status.code(), Some(4), "{said}");
        let fork = format!("scuttleup: fork: entry {seq} of {peer} has different bytes in the remote log, this feed is stopped");
        assert_eq!(said.matches(&fork).count(), 1, "no {fork:?} in {said}");
    }
}

/// The new id that a process reports for its log.
fn new_id(ended: &Ended) -> Option<&str> {
    let (_, id) = ended.printed.stderr.split_once("go to the feed of the new id ")?;
    id.lines().next()
}

fn session(a: &Path, b: &Path) -> (Ended, Ended) {
    join(a, &["--once"], b, &["--once"])
}

/// The entries of a feed in a log.
fn feed(log: &Path, peer: &str) -> Vec<Value> {
    let printed = Run::new(log).args(["read", "--peer", peer]).success();
    printed.json().into_iter().map(|change| change["entry"].clone()).collect()
}

/// A log `a` with `common` entries, and a copy of it.
fn copied(place: &Place, common: usize) -> (PathBuf, PathBuf) {
    let (a, b) = (place.log("a"), place.path("copy"));
    append(&a, lines(common, "common"));
    copy(&a, &b);
    (a, b)
}

#[test]
fn a_log_and_its_copy_with_different_appends() {
    let cases = [(0, 1, 1), (0, 3, 5000), (1, 1, 1), (5, 1, 2000), (2600, 2600, 3000), (5200, 1, 1), (1023, 2, 1), (1024, 1, 2)];
    for (common, more_a, more_b) in cases {
        let place = Place::new();
        let (a, b) = copied(&place, common);
        append(&a, lines(more_a, "here"));
        append(&b, lines(more_b, "there"));
        write(&a, "{\"peer\":\"x\",\"seq\":1,\"entry\":1}\n");
        write(&b, "{\"peer\":\"y\",\"seq\":1,\"entry\":1}\n{\"peer\":\"y\",\"seq\":2,\"entry\":2}\n");
        let before = (feed(&a, "a"), feed(&b, "a"));
        let ended = session(&a, &b);
        assert_fork(&ended, "a", common + 1);
        // Neither log reports that it was only behind.
        assert!(!ended.0.printed.stderr.contains("was behind") && !ended.1.printed.stderr.contains("was behind"));
        // Each log keeps its version of the feed, and the other feeds are replicated.
        assert_eq!((feed(&a, "a"), feed(&b, "a")), before);
        let rest = |log: &Path| heads(log).into_iter().filter(|head| !head.contains("\"a\"")).collect::<Vec<_>>();
        assert_eq!(rest(&a), ["{\"peer\":\"x\",\"seq\":1}", "{\"peer\":\"y\",\"seq\":2}"]);
        assert_eq!(rest(&a), rest(&b));
        assert_eq!((forked(&a), forked(&b)), (vec!["a".to_owned()], vec!["a".to_owned()]));
        // The feed was the local feed of both logs.
        let ids = (id(&a), id(&b));
        assert_eq!((new_id(&ended.0), new_id(&ended.1)), (Some(&*ids.0), Some(&*ids.1)));
        assert!(ids.0 != ids.1 && ids.0 != "a" && ids.1 != "a");
        append(&a, "\"after\"\n");
        append(&b, "\"after\"\n\"after\"\n");
        // The fork is reported again, but no log takes a new id again. Later entries are replicated.
        let ended = session(&a, &b);
        assert_fork(&ended, "a", common + 1);
        assert_eq!((new_id(&ended.0), new_id(&ended.1)), (None, None));
        assert_eq!((id(&a), id(&b)), ids);
        assert_eq!((feed(&b, &ids.0).len(), feed(&a, &ids.1).len()), (1, 2));
        assert_eq!((feed(&a, "a"), feed(&b, "a")), before);
    }
}

#[test]
fn a_single_entry_that_differs() {
    for (count_a, count_b, differs) in
        [(5100, 5100, 1), (5100, 5100, 2600), (5100, 5100, 5100), (5100, 2600, 2600), (30, 5100, 17)]
    {
        let place = Place::new();
        let (a, b) = (place.log("a"), place.log("b"));
        let changes = |count: usize, word: &str| -> String {
            let word = |seq| if seq == differs { word } else { "same" };
            (1..=count).map(|seq| format!("{{\"peer\":\"x\",\"seq\":{seq},\"entry\":\"{}\"}}\n", word(seq))).collect()
        };
        write(&a, &changes(count_a, "here"));
        write(&b, &changes(count_b, "there"));
        append(&a, "1\n");
        append(&b, "1\n");
        let ended = session(&a, &b);
        assert_fork(&ended, "x", differs);
        assert_eq!((new_id(&ended.0), new_id(&ended.1)), (None, None));
        assert_eq!((feed(&a, "x").len(), feed(&b, "x").len()), (count_a, count_b));
        assert_eq!((feed(&a, "b").len(), feed(&b, "a").len()), (1, 1));
        assert_eq!((forked(&a), forked(&b)), (vec!["x".to_owned()], vec!["x".to_owned()]));
        assert_eq!((id(&a), id(&b)), ("a".into(), "b".into()));
    }
}

#[test]
fn a_restored_backup_that_was_appended_to() {
    for (since, after) in [(1, 1), (50, 1), (1, 50), (3000, 10)] {
        let place = Place::new();
        let (a, backup) = copied(&place, 20);
        let b = place.log("b");
        append(&a, lines(since, "since"));
        once(&a, &b, (0, 0));
        append(&backup, lines(after, "after"));
        let ended = session(&backup, &b);
        assert_fork(&ended, "a", 21);
        // Only the restored log has this feed as its local feed.
        let new = new_id(&ended.0).expect("a new id");
        assert_eq!((new, new_id(&ended.1)), (&*id(&backup), None));
        append(&backup, "\"new\"\n");
        assert_fork(&session(&backup, &b), "a", 21);
        assert_eq!(feed(&b, new).len(), 1);
        assert_eq!((feed(&b, "a").len(), feed(&backup, "a").len()), (20 + since, 20 + after));
    }
}

#[test]
fn a_restored_backup_without_new_appends_receives_its_own_entries() {
    let place = Place::new();
    let (a, backup) = copied(&place, 20);
    let b = place.log("b");
    append(&a, lines(2500, "since"));
    once(&a, &b, (0, 0));
    let ended = session(&backup, &b);
    assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(0), Some(0)));
    let said = "scuttleup: this log is behind in its local feed: it receives the entries of a up to 2520 from the remote\n";
    assert_eq!(ended.0.printed.stderr.matches(said).count(), 1, "{}", ended.0.printed.stderr);
    assert_eq!(ended.1.printed.stderr.matches("is behind").count(), 0, "{}", ended.1.printed.stderr);
    assert_eq!(id(&backup), "a");
    assert_equal(&a, &backup);
    append(&backup, "\"on\"\n");
    let (report, _) = once(&backup, &b, (0, 0));
    assert_eq!(number(&report, "sent"), 1);
    assert_equal(&backup, &b);
    assert!(forked(&backup).is_empty() && read(&backup).contains("\"peer\":\"a\",\"seq\":2521,\"entry\":\"on\","));
}

#[test]
fn many_forked_feeds_do_not_stop_other_feeds() {
    // More feeds than the heads of one frame.
    let count = 300;
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    let changes = |word: &str, last: usize| -> String {
        let feed = |n: usize| (1..=last + n % 5).map(move |seq| (n, seq));
        let entry = |(n, seq)| {
            let word = if seq > 1 + n % 7 { word } else { "same" };
            format!("{{\"peer\":\"f{n}\",\"seq\":{seq},\"entry\":\"{word}\"}}\n")
        };
        (0..count).flat_map(feed).map(entry).collect()
    };
    write(&a, &changes("here", 12));
    write(&b, &changes("there", 40));
    append(&a, "1\n");
    append(&b, "1\n2\n");
    let ended = join(&a, &["--once", "--json"], &b, &["--once", "--json"]);
    for n in 0..count {
        assert_fork(&ended, &format!("f{n}"), 2 + n % 7);
    }
    for (ended, sent, received) in [(&ended.0, 1, 2), (&ended.1, 2, 1)] {
        let report = report(ended);
        let counts = ["sent", "durable", "received", "forks", "gaps", "missing", "unsent"].map(|name| number(&report, name));
        assert_eq!(counts, [sent, sent, received, 300, 0, 0, 0], "{report}");
    }
    assert_eq!((forked(&a).len(), forked(&b).len()), (count, count));
    assert_eq!((feed(&a, "b").len(), feed(&b, "a").len()), (2, 1));
}

#[test]
fn forks_are_found_in_every_pair_of_modes() {
    for mode_a in ["sync", "push", "pull"] {
        for mode_b in ["sync", "push", "pull"] {
            let place = Place::new();
            let (a, b) = copied(&place, 3);
            append(&a, "1\n");
            append(&b, "2\n3\n");
            write(&a, "{\"peer\":\"x\",\"seq\":1,\"entry\":1}\n");
            write(&b, "{\"peer\":\"y\",\"seq\":1,\"entry\":1}\n");
            let ended = join(&a, &["--once", "--mode", mode_a], &b, &["--mode", mode_b]);
            // Two sides that only receive compare nothing.
            if (mode_a, mode_b) == ("pull", "pull") {
                assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(6), Some(0)));
            } else {
                assert_fork(&ended, "a", 4);
            }
            assert_eq!(feed(&b, "x").len(), usize::from(mode_a != "pull" && mode_b != "push"));
            assert_eq!(feed(&a, "y").len(), usize::from(mode_b != "pull" && mode_a != "push"));
            // A side that only sends changes nothing. A side that only receives shows no entry.
            for (log, mine, theirs) in [(&a, mode_a, mode_b), (&b, mode_b, mode_a)] {
                let is_marked = mine != "push" && theirs != "pull";
                assert_eq!((forked(log).len() == 1, id(log) != "a"), (is_marked, is_marked), "{mine} with {theirs}");
            }
        }
    }
}

/// A restored backup that cannot receive the missing entries of its local feed: the next append would be a fork.
#[test]
fn a_log_that_is_behind_in_its_local_feed_and_cannot_receive_it_is_warned() {
    for wire in ["native", "original"] {
        for (mine, theirs) in [("push", "sync"), ("sync", "pull")] {
            let place = Place::new();
            let (a, b) = copied(&place, 3);
            let own = id(&a);
            append(&a, lines(2, "later"));
            let args = ["--once", "--wire", wire, "--mode"];
            let ended = join(&b, &[&args[..], &[mine]].concat(), &a, &[&args[..], &[theirs]].concat());
            let said = format!(
                "this log is behind in its local feed: the remote holds entries of {own} up to 5, but this log only up to 3"
            );
            assert!(ended.0.printed.stderr.contains(&said), "{wire} {mine} {theirs}: {}", ended.0.printed.stderr);
            assert!(!ended.1.printed.stderr.contains("behind"), "{}", ended.1.printed.stderr);
        }
    }
}

#[test]
fn a_session_with_a_fork_is_not_complete_in_the_library() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    write(&a, "{\"peer\":\"x\",\"seq\":1,\"entry\":1}\n");
    write(&b, "{\"peer\":\"x\",\"seq\":1,\"entry\":2}\n");
    let (a, b) = (Log::open(&a).expect("a log"), Log::open(&b).expect("a log"));
    let ((b_in, a_out), (a_in, b_out)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
    let once = Options { once: true, ..Options::default() };
    let outcomes = std::thread::scope(|threads| {
        let there = threads.spawn(|| scuttleup::replicate(&b, b_in, b_out, once, &|_| ()));
        let here = scuttleup::replicate(&a, a_in, a_out, once, &|_| ());
        [here, there.join().expect("the thread does not panic")].map(|outcome| outcome.expect("no error"))
    });
    for outcome in outcomes {
        assert!(outcome.forks == 1 && outcome.ending == Ending::Incomplete, "{outcome:?}");
    }
}
