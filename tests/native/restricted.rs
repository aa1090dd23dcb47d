//! Attacks of a remote with a restricted key: `--mode push` (it only fetches) and `--mode pull` (it only delivers). It may lie.

use std::path::{Path, PathBuf};

use crate::frames::{PREAMBLE, PULL, PUSH, SYNC, Session, change, handshake};
use crate::harness::{Ended, Place, Run, append, heads};
use crate::native_frames::{
    self as native, ack, chain_of, feed, fin, fork, fork_showing, hello, old_hello, pull, root, run, synced,
};
use crate::replicate::join;

use super::{copy, forked, id, number, report, write};

/// Stands for a chain that is not revealed.
const WITHHELD: u128 = 0;
const WRONG: u128 = 7;

/// A log with the local feed x and a feed p, with three entries each.
fn log(place: &Place) -> PathBuf {
    let log = place.log("x");
    append(&log, "1\n2\n3\n");
    write(&log, &[1, 2, 3].map(|seq| format!("{{\"peer\":\"p\",\"seq\":{seq},\"entry\":{seq}}}\n")).concat());
    log
}

fn chain(peer: &str, seq: usize) -> u128 {
    chain_of(peer, &["1", "2", "3"][..seq])
}

/// The bytes of the data file, the id and the marks of a log.
fn state(log: &Path) -> (Vec<u8>, String, Vec<String>) {
    (std::fs::read(log.join("data.mdb")).expect("a log"), id(log), forked(log))
}

/// The end of a session of this log with a remote that sends `stream` and ends.
fn heard(log: &Path, mode: &str, stream: &[u8]) -> Ended {
    Run::new(log).args(["replicate", "--once", "--mode", mode]).stdin(stream).end()
}

/// All that a remote can send without entries: heads and forks with wrong chains, and an entry that is no evidence.
#[test]
fn claims_change_nothing_in_any_mode() {
    let chains = [("p", 3, WRONG), ("x", 1, WRONG)];
    let heads = native::heads(&chains, true);
    let after = chain_of("x", &["other"]);
    let forks = [
        fork("x", &[(1, WRONG)]),
        fork("x", &[(1, after)]),
        // The entry does not give the chain; is the local entry; has another seq.
        fork_showing("x", &[(1, WRONG)], 1, "other"),
        fork_showing("x", &[(1, chain("x", 1))], 1, "1"),
        fork_showing("x", &[(1, after)], 2, "other"),
        fork_showing("x", &[], 1, "other"),
        // After all of p, which the remote has not shown to know.
        fork_showing("p", &[(3, chain_of("p", &["other"]))], 3, "other"),
    ];
    let place = Place::new();
    let log = log(&place);
    let before = state(&log);
    for mode in ["push", "sync", "pull"] {
        for number in [SYNC, PUSH, PULL] {
            for hello in [hello("y", number, false, 7), old_hello("y", number, false, 7)] {
                for fork in &forks {
                    let stream = [PREAMBLE, &hello, &heads, fork].concat();
                    let ended = heard(&log, mode, &stream);
                    let said = ended.printed.stderr;
                    assert!(state(&log) == before, "{mode} {number}: the log has changed: {said}");
                    if mode == "pull" && number == PULL {
                        // Two sides that only receive compare nothing.
                        continue;
                    }
                    // A side that only receives refuses a FORK that does not help it.
                    let is_refused = mode == "pull" && ended.status.code() == Some(7);
                    assert!(ended.status.code() == Some(4) || is_refused, "{mode} {number}: {said}");
                    assert!(said.contains("fork: entry 1 of x ") && said.contains("so the fork is not marked"), "{said}");
                }
            }
        }
    }
}

#[test]
fn a_side_that_only_sends_changes_nothing_whatever_the_evidence() {
    let place = Place::new();
    let log = log(&place);
    let before = state(&log);
    let other = chain_of("x", &["other"]);
    let opened = [PREAMBLE, &hello("y", SYNC, false, 7), &native::heads(&[("x", 1, other)], true)].concat();
    let shown = [&opened[..], &fork_showing("x", &[(1, other)], 1, "other")].concat();
    assert_eq!(heard(&log, "push", &shown).status.code(), Some(4));
    let sent = [&opened[..], &feed(0, "x"), &run(0, 1, &["other"], other)].concat();
    let original = [handshake("y", &[("x", 1)], SYNC), change("x", 1, "other")].concat();
    for stream in [sent, original] {
        assert_eq!(heard(&log, "push", &stream).status.code(), Some(6));
    }
    assert!(state(&log) == before);
}

/// The entry that the remote shows, or sends, is evidence.
#[test]
fn an_entry_that_differs_marks_the_fork_and_gives_a_new_id() {
    let other = chain_of("x", &["1", "other"]);
    let opened = [PREAMBLE, &hello("y", SYNC, false, 7), &native::heads(&[("x", 2, other)], true)].concat();
    let points = [(1, chain("x", 1)), (2, other)];
    let shown = [&opened[..], &fork_showing("x", &points, 2, "other")].concat();
    // The entry can also come after the end of the search.
    let later = [&opened[..], &fork("x", &points), &fork_showing("x", &points, 2, "other")].concat();
    let original = [handshake("y", &[("x", 2)], SYNC), change("x", 2, "other")].concat();
    for stream in [shown, later, original] {
        for mode in ["sync", "pull"] {
            let place = Place::new();
            let log = log(&place);
            let ended = heard(&log, mode, &stream);
            let said = ended.printed.stderr;
            assert_eq!(ended.status.code(), Some(4), "{said}");
            assert_eq!(said.matches("fork: entry 2 of x ").count(), 1, "{said}");
            assert!(!said.contains("not marked") && said.contains("go to the feed of the new id "), "{said}");
            assert_eq!(forked(&log), ["x"]);
            assert_ne!(id(&log), "x");
        }
    }
}

/// The opening of a log that only receives, towards a remote with another root.
fn opening_of_pull(root: u128) -> Vec<u8> {
    [PREAMBLE, &pull(), &hello("x", PULL, false, root)].concat()
}

fn pulling(log: &Path) -> Session {
    Session::open(log, &["--once", "--mode", "pull"])
}

#[test]
fn a_side_that_only_receives_answers_only_heads_that_the_remote_names() {
    let place = Place::new();
    let log = log(&place);
    // More feeds than fit into one frame: the number of frames reveals nothing.
    let many: String = (0..1000).map(|n| format!("{{\"peer\":\"n{n}\",\"seq\":1,\"entry\":1}}\n")).collect();
    write(&log, &many);
    let p = chain("p", 3);
    for (theirs, answer) in [
        (vec![], vec![]),
        (vec![("unknown", 9, WRONG)], vec![]),
        (vec![("p", 3, p)], vec![("p", 3, WITHHELD)]),
        (vec![("p", 2, chain("p", 2))], vec![("p", 3, WITHHELD)]),
        (vec![("p", 4, WRONG), ("unknown", 9, WRONG)], vec![("p", 3, WITHHELD)]),
    ] {
        let mut session = pulling(&log);
        session.send([PREAMBLE, &hello("y", SYNC, false, 7)].concat());
        let said = opening_of_pull(!7);
        assert_eq!(session.bytes(said.len()), said);
        session.send([native::heads(&[], false), native::heads(&theirs, true)].concat());
        let said = [native::heads(&answer, true), synced()].concat();
        assert_eq!(session.bytes(said.len()), said, "{theirs:?}");
        session.send([synced(), fin(0, 0)].concat());
        assert_eq!(session.bytes(fin(0, 0).len()), fin(0, 0));
        let (rest, ended) = session.end();
        assert!(rest.is_empty() && ended.status.code().is_some_and(|code| code != 4), "{}", ended.printed.stderr);
    }
}

/// A remote that is right about the root learns that it is right. Any other remote learns nothing.
#[test]
fn a_side_that_only_receives_does_not_reveal_its_root() {
    let place = Place::new();
    let log = log(&place);
    let own = root(&[("p", 3, chain("p", 3)), ("x", 3, chain("x", 3))]);
    for (theirs, said) in [(own, own), (own ^ 1, !(own ^ 1)), (0, !0)] {
        let mut session = pulling(&log);
        session.send(PREAMBLE);
        let begun = [PREAMBLE, &pull()].concat();
        assert_eq!(session.bytes(begun.len()), begun);
        session.send(hello("y", SYNC, false, theirs));
        let hello = hello("x", PULL, false, said);
        assert_eq!(session.bytes(hello.len()), hello);
        let (_, ended) = session.end();
        assert_eq!(ended.status.code(), Some(3), "{}", ended.printed.stderr);
    }
}

#[test]
fn two_sides_that_only_receive_end_at_once_and_reveal_nothing() {
    let place = Place::new();
    let log = log(&place);
    let mut session = pulling(&log);
    session.send([PREAMBLE, &pull()].concat());
    let said = opening_of_pull(0);
    assert_eq!(session.bytes(said.len()), said);
    session.send([hello("y", PULL, false, 0), synced(), fin(0, 0)].concat());
    let said = [synced(), fin(0, 0)].concat();
    assert_eq!(session.bytes(said.len()), said);
    assert_eq!(session.end().1.status.code(), Some(6));
    // An older program does not wait. Its heads are not compared.
    let mut session = pulling(&log);
    session.send([PREAMBLE, &old_hello("y", PULL, false, 7), &native::heads(&[("p", 3, WRONG)], true), &synced()].concat());
    let said = [opening_of_pull(!7), native::heads(&[], true), synced(), fin(0, 0)].concat();
    assert_eq!(session.bytes(said.len()), said);
    session.send(fin(0, 0));
    assert_eq!(session.end().1.status.code(), Some(6));
    let other = place.log("y");
    append(&other, "1\n");
    // A side that serves leaves the directions to its remote.
    for (args, code) in [(&["--once", "--mode", "pull"][..], 6), (&["--mode", "pull"], 0)] {
        let ended = join(&log, args, &other, args);
        let said = (ended.0.printed.stderr, ended.1.printed.stderr);
        assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(code), Some(code)), "{said:?}");
    }
}

/// An older remote takes a withheld chain for a fork. It gets only heads that it has proved, and sends the rest from the start.
#[test]
fn an_older_remote_delivers_to_a_side_that_only_receives() {
    let place = Place::new();
    let log = log(&place);
    let mut session = pulling(&log);
    let x = chain_of("x", &["1", "2", "3", "4"]);
    session.send(
        [PREAMBLE, &old_hello("y", SYNC, false, 7), &native::heads(&[("p", 3, chain("p", 3)), ("x", 4, x)], true)].concat(),
    );
    let said = [opening_of_pull(!7), native::heads(&[("p", 3, chain("p", 3))], true), synced()].concat();
    assert_eq!(session.bytes(said.len()), said);
    session.send([feed(0, "x"), run(0, 1, &["1", "2", "3", "4"], x), synced()].concat());
    let said = [ack(0, 4), fin(0, 1)].concat();
    assert_eq!(session.bytes(said.len()), said);
    session.send(fin(4, 0));
    let (rest, ended) = session.end();
    assert_eq!((rest, ended.status.code()), (Vec::new(), Some(0)), "{}", ended.printed.stderr);
    assert!(heads(&log).iter().any(|head| head.starts_with("{\"peer\":\"x\",\"seq\":4")));
}

/// The remote knows the ids, and tries chains. An entry of few bytes must not be found in this way.
#[test]
fn chains_cannot_be_tried_one_after_the_other() {
    let place = Place::new();
    let log = log(&place);
    let opened = |heads: &[(&str, u32, u128)]| {
        let mut session = pulling(&log);
        session.send([PREAMBLE, &hello("y", PUSH, false, 7), &native::heads(heads, true)].concat());
        let said = opening_of_pull(!7);
        assert_eq!(session.bytes(said.len()), said);
        session
    };
    // Without a search, no FORK is answered: not even with the right chain.
    let mut session = opened(&[("p", 3, chain("p", 3))]);
    session.send([fork("p", &[(1, WRONG)]), fork("p", &[(1, chain("p", 1))]), synced(), fin(0, 0)].concat());
    let said = [native::heads(&[("p", 3, WITHHELD)], true), synced(), fin(0, 0)].concat();
    assert_eq!(session.bytes(said.len()), said);
    assert_eq!(session.end().1.status.code(), Some(0));
    // In a search, each FORK must narrow it.
    let mut session = opened(&[("p", 3, WRONG)]);
    let said = [fork("p", &[(3, WITHHELD)]), native::heads(&[("p", 3, WITHHELD)], true), synced()].concat();
    assert_eq!(session.bytes(said.len()), said);
    session.send(fork("p", &[(2, WRONG)]));
    let said = fork("p", &[(2, WITHHELD)]);
    assert_eq!(session.bytes(said.len()), said);
    session.send(fork("p", &[(2, WRONG + 1)]));
    let (rest, ended) = session.end();
    assert_eq!(native::kinds(&[PREAMBLE, &rest].concat()), [native::ERROR], "{rest:?}");
    assert_eq!(ended.status.code(), Some(7), "{}", ended.printed.stderr);
    // One wrong chain is enough: the answer is the same if the right chain is among several.
    for guesses in [vec![(1, WRONG), (1, WRONG + 1)], vec![(1, WRONG), (1, chain("p", 1))]] {
        let mut session = opened(&[("p", 3, WRONG)]);
        session.bytes(said_after_opening());
        session.send(fork("p", &guesses));
        let said = fork("p", &[(1, WITHHELD)]);
        assert_eq!(session.bytes(said.len()), said);
        session.send(fork("p", &[(1, chain("p", 1))]));
        let (rest, _) = session.end();
        assert!(!native::kinds(&[PREAMBLE, &rest].concat()).contains(&native::FORK), "{rest:?}");
    }
}

/// The length of what follows the opening if p differs.
fn said_after_opening() -> usize {
    [fork("p", &[(3, WITHHELD)]), native::heads(&[("p", 3, WITHHELD)], true), synced()].concat().len()
}

/// On the original wire, the handshake of a side that only receives waits for the whole handshake of the remote.
#[test]
fn the_handshake_of_a_side_that_only_receives_names_what_the_remote_names() {
    let place = Place::new();
    let log = log(&place);
    let mut session = pulling(&log);
    for byte in handshake("y", &[("p", 1), ("unknown", 4)], PUSH) {
        session.send([byte]);
    }
    let said = [PREAMBLE, &handshake("x", &[("p", 3)], PULL)].concat();
    assert_eq!(session.bytes(said.len()), said);
    let (rest, ended) = session.end();
    assert_eq!((rest, ended.status.code()), (Vec::new(), Some(3)), "{}", ended.printed.stderr);
}

/// Only new entries are sent again, and a fork is found at its first entry. The log that only receives has evidence, and the
/// other has not.
#[test]
fn a_key_that_only_delivers_sends_what_is_new_and_forks_are_found() {
    for (common, more, more_here) in [(3, 2, 0), (0, 1, 1), (5, 1, 1), (5, 1, 40), (5, 40, 1), (100, 2000, 3), (100, 3, 2000)] {
        let place = Place::new();
        let (sender, hub) = (place.log("a"), place.path("hub"));
        let lines = |count: usize, word: &str| (0..count).map(|n| format!("\"{word} {n}\"\n")).collect::<String>();
        append(&sender, lines(common, "common"));
        copy(&sender, &hub);
        append(&sender, lines(more, "here"));
        append(&hub, lines(more_here, "there"));
        write(&sender, "{\"peer\":\"y\",\"seq\":1,\"entry\":1}\n");
        let ended = join(&sender, &["--once", "--json", "--mode", "push"], &hub, &["--mode", "pull"]);
        let said = format!("{}{}", ended.0.printed.stderr, ended.1.printed.stderr);
        let code = if more_here > 0 { Some(4) } else { Some(0) };
        assert_eq!((ended.0.status.code(), ended.1.status.code()), (code, code), "{said}");
        assert!(heads(&hub).contains(&"{\"peer\":\"y\",\"seq\":1}".to_owned()));
        let fork = format!("fork: entry {} of a has", common + 1);
        let forks = [&ended.0, &ended.1].map(|ended| ended.printed.stderr.matches(&fork).count());
        if more_here == 0 {
            assert_eq!((number(&report(&ended.0), "sent"), forks), (more as u64 + 1, [0, 0]), "{said}");
            continue;
        }
        assert_eq!(forks, [1, 1], "{said}");
        assert_eq!((forked(&sender).len(), id(&sender)), (0, "a".to_owned()), "{said}");
        assert_eq!(forked(&hub), ["a"], "{said}");
        assert_ne!(id(&hub), "a");
    }
}
