//! `compare`: which feeds of two logs differ, on both wires. Nothing changes in either log.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::frames::{PREAMBLE, PULL, PUSH, SYNC, handshake};
use crate::harness::{Place, Printed, Run, SCUTTLEUP, append, shell};
use crate::native_frames::{
    self as native, COMPARE, FIN, FORK, HEADS, HELLO, SYNCED, chain_of, error, fin, fork, head, hello, kinds, old_hello, pull,
    synced, typed,
};
use crate::replicate::join;
use crate::terminal::Terminal;

/// `compare` of log `a` with log `b`, which a `replicate` with these options serves.
fn compare(a: &Path, options: &[&str], b: &Path, served: &[&str]) -> Run {
    let run = Run::new(a).args(["compare"]).args(options).args(["--", SCUTTLEUP, "--log"]).args([b]);
    run.args(["replicate", "--no-create"]).args(served)
}

/// The last line without the fields that say how the logs were compared, and the other lines.
fn lines(printed: &Printed) -> (Value, Vec<&str>) {
    let mut lines = printed.lines();
    let last = lines.pop().expect("a last line");
    (serde_json::from_str(last).unwrap_or_else(|err| panic!("{err}: {last}")), lines)
}

fn write(log: &Path, peer: &str, seqs: std::ops::RangeInclusive<u32>, text: &str) {
    let line = |seq| format!("{{\"peer\":\"{peer}\",\"seq\":{seq},\"text\":\"{text}{seq}\"}}\n");
    Run::new(log).args(["write"]).stdin(seqs.map(line).collect::<String>()).success();
}

/// All files of a log that hold its state.
fn state(log: &Path) -> (Vec<u8>, Vec<u8>, String) {
    let bytes = |name: &str| std::fs::read(log.join(name)).expect("a file of the log");
    (bytes("data.mdb"), bytes("bell"), Run::new(log).args(["heads"]).success().text().to_owned())
}

/// Runs a comparison and checks that both logs are as before.
fn unchanged(a: &Path, b: &Path, run: impl FnOnce() -> Printed) -> Printed {
    let before = (state(a), state(b));
    let printed = run();
    assert!(before == (state(a), state(b)), "a log has changed");
    printed
}

/// Two logs with a feed of each kind: equal, longer in one of the two, in one log only, and forked with each relation of the
/// lengths.
fn two_logs(place: &Place) -> (PathBuf, PathBuf) {
    let (a, b) = (place.log("a"), place.log("b"));
    for log in [&a, &b] {
        write(log, "equal", 1..=3, "e");
        write(log, "here", 1..=2, "h");
        write(log, "there", 1..=2, "t");
        let name = if *log == a { "x" } else { "y" };
        for (peer, local, remote) in [("fork-equal", 3, 3), ("fork-long", 5, 2), ("fork-short", 2, 5)] {
            write(log, peer, 1..=1, "same");
            write(log, peer, 2..=if *log == a { local } else { remote }, name);
        }
    }
    write(&a, "here", 3..=6, "h");
    write(&b, "there", 3..=3, "t");
    append(&a, "1\n2\n");
    append(&b, "1\n");
    (a, b)
}

#[test]
fn equal_logs_are_equal_on_both_wires_and_in_all_modes() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1\n2\n");
    append(&b, "1\n");
    join(&a, &["--once", "-q"], &b, &["--once", "-q"]);
    for mode in ["sync", "push", "pull"] {
        let printed = unchanged(&a, &b, || compare(&a, &[], &b, &["--mode", mode]).stderr("").success());
        let result = format!(
            "{{\"equal\":true,\"feeds\":2,\"different\":0,\"forks\":0,\"unknown\":0,\"local_ahead\":0,\"remote_ahead\":0,\
             \"compared\":\"entries\",\"wire\":\"native\",\"remote_mode\":\"{mode}\",\"remote\":\"b\"}}\n"
        );
        assert_eq!(printed.text(), result);
        let run = || compare(&a, &["-q"], &b, &["-q", "--mode", mode, "--wire", "original"]).stderr("").success();
        let result = result.replace("entries", "heads").replace("native", "original");
        assert_eq!(unchanged(&a, &b, run).text(), result);
    }
    let said = "scuttleup: only the heads were compared, equal heads are not equal entries: the original wire shows only heads\n";
    compare(&a, &[], &b, &["-q", "--wire", "original"]).stderr_has(said).success();
    // Two empty logs.
    let (c, d) = (place.log("c"), place.log("d"));
    assert_eq!(lines(&compare(&c, &[], &d, &[]).success()).0["feeds"], 0);
}

#[test]
fn each_difference_is_named_and_nothing_moves_and_no_fork_is_marked() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let expected = [
        r#"{"peer":"b","local":0,"remote":1}"#,
        r#"{"peer":"fork-equal","local":3,"remote":3,"fork":true}"#,
        r#"{"peer":"fork-long","local":5,"remote":2,"fork":true}"#,
        r#"{"peer":"fork-short","local":2,"remote":5,"fork":true}"#,
        r#"{"peer":"here","local":6,"remote":2}"#,
        r#"{"peer":"there","local":2,"remote":3}"#,
        r#"{"peer":"a","local":2,"remote":0}"#,
    ];
    for mode in ["sync", "push"] {
        for served in [&[][..], &["--once", "-q"]] {
            let served = [&["--mode", mode], served].concat();
            let printed = unchanged(&a, &b, || compare(&a, &[], &b, &served).stderr("").status(3));
            let (result, feeds) = lines(&printed);
            assert_eq!(feeds, expected, "{mode}");
            let counts = ["feeds", "different", "forks", "unknown", "local_ahead", "remote_ahead"].map(|name| &result[name]);
            assert_eq!((&result["equal"], counts.map(Value::to_string).join(" ")), (&false.into(), "8 7 3 0 6 2".into()));
        }
    }
    // The other way round.
    let printed = unchanged(&a, &b, || compare(&b, &[], &a, &[]).stderr("").status(3));
    let (result, mut feeds) = lines(&printed);
    feeds.sort_unstable();
    let swap = |line: &str| line.replace("local", "x").replace("remote", "local").replace('x', "remote");
    let swapped = |line: &&str| {
        let value: Value = serde_json::from_str(&swap(line)).expect("JSON");
        let fork = if value["fork"] == true { ",\"fork\":true" } else { "" };
        format!("{{\"peer\":{},\"local\":{},\"remote\":{}{fork}}}", value["peer"], value["local"], value["remote"])
    };
    let mut expected: Vec<String> = expected.iter().map(swapped).collect();
    expected.sort_unstable();
    assert_eq!(feeds, expected);
    assert_eq!((&result["local_ahead"], &result["remote_ahead"]), (&2.into(), &6.into()));
}

/// The original wire shows heads only: forks are not seen.
#[test]
fn on_the_original_wire_only_the_heads_are_compared() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    for mode in ["sync", "push", "pull"] {
        let served = ["-q", "--mode", mode, "--wire", "original"];
        let printed = unchanged(&a, &b, || compare(&a, &["-q"], &b, &served).stderr("").status(3));
        let (result, feeds) = lines(&printed);
        let expected = [
            r#"{"peer":"b","local":0,"remote":1}"#,
            r#"{"peer":"fork-long","local":5,"remote":2,"unknown":true}"#,
            r#"{"peer":"fork-short","local":2,"remote":5,"unknown":true}"#,
            r#"{"peer":"here","local":6,"remote":2,"unknown":true}"#,
            r#"{"peer":"there","local":2,"remote":3,"unknown":true}"#,
            r#"{"peer":"a","local":2,"remote":0}"#,
        ];
        assert_eq!(feeds, expected, "{mode}");
        assert_eq!((&result["compared"], &result["unknown"], &result["forks"]), (&"heads".into(), &4.into(), &0.into()));
    }
}

#[test]
fn a_remote_that_only_receives_says_whether_the_logs_are_equal_and_nothing_else() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let said = "scuttleup: the logs differ, and b reveals nothing else, because it only receives (--mode pull)\n";
    let printed = unchanged(&a, &b, || compare(&a, &[], &b, &["--mode", "pull"]).stderr(said).status(3));
    let (result, feeds) = lines(&printed);
    assert_eq!((&result["equal"], &result["feeds"], &result["compared"]), (&false.into(), &Value::Null, &"root".into()));
    assert_eq!(feeds, Vec::<&str>::new());
}

#[test]
fn feeds_that_the_remote_does_not_show_are_not_compared() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let printed = unchanged(&a, &b, || {
        let part = "the remote shows only the feeds that its --peer names: the others were not compared\n";
        compare(&a, &[], &b, &["--peer", "[et]*"]).stderr_has(part).status(3)
    });
    let (last, differing) = lines(&printed);
    assert_eq!((&last["partial"], &last["equal"], &last["feeds"]), (&true.into(), &false.into(), &2.into()), "{last}");
    assert_eq!(differing, ["{\"peer\":\"there\",\"local\":2,\"remote\":3}"]);
}

#[test]
fn floors_are_shown_and_pruned_entries_are_not_compared() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    for log in [&a, &b] {
        write(log, "x", 1..=4, "x");
        write(log, "y", 1..=2, "y");
    }
    write(&b, "x", 5..=9, "x");
    write(&b, "y", 3..=9, "y");
    // The remote keeps entries 6 to 9 of y only: its floor of x is above the local head.
    Run::new(&b).args(["-q", "prune", "--keep-last", "4"]).success();
    append(&b, "1\n");
    let printed = unchanged(&a, &b, || compare(&a, &[], &b, &[]).stderr("").status(3));
    let expected = [
        r#"{"peer":"b","local":0,"remote":1}"#,
        r#"{"peer":"x","local":4,"remote":9,"unknown":true,"remote_floor":9}"#,
        r#"{"peer":"y","local":2,"remote":9,"unknown":true,"remote_floor":5}"#,
    ];
    assert_eq!(lines(&printed).1, expected);
    let printed = unchanged(&a, &b, || compare(&b, &[], &a, &[]).stderr("").status(3));
    let expected = [
        r#"{"peer":"x","local":9,"remote":4,"unknown":true,"local_floor":9}"#,
        r#"{"peer":"y","local":9,"remote":2,"unknown":true,"local_floor":5}"#,
        r#"{"peer":"b","local":1,"remote":0}"#,
    ];
    assert_eq!(lines(&printed).1, expected);
    // Above the floor, the chains are known again.
    let c = place.log("c");
    write(&c, "y", 1..=6, "y");
    let printed = compare(&c, &[], &b, &[]).status(3);
    assert!(printed.text().contains(r#"{"peer":"y","local":6,"remote":9,"remote_floor":5}"#), "{}", printed.text());
    let forked = place.log("forked");
    write(&forked, "y", 1..=6, "z");
    let printed = compare(&forked, &[], &b, &[]).status(3);
    let line = r#"{"peer":"y","local":6,"remote":9,"fork":true,"remote_floor":5}"#;
    assert!(printed.text().contains(line), "{}", printed.text());
}

/// More feeds than fit into one HEADS, one snapshot and the pipes.
#[test]
fn ten_thousand_feeds_that_differ_are_named() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    let feed = |n: u32, seqs: std::ops::RangeInclusive<u32>, text: &str| -> String {
        seqs.map(|seq| format!("{{\"peer\":\"feed-{n:05}\",\"seq\":{seq},\"text\":\"{text}\"}}\n")).collect()
    };
    let all = |log: &Path, lines: String| Run::new(log).args(["-q", "write"]).stdin(lines).success();
    // By the last digit: equal, only here, only there, behind, ahead, forked and behind.
    all(&a, (0..10_000).filter(|n| n % 10 != 2).map(|n| feed(n, 1..=if n % 10 == 4 { 3 } else { 2 }, "a")).collect());
    let there = |n: u32| match n % 10 {
        1 => String::new(),
        3 => feed(n, 1..=5, "a"),
        5 => feed(n, 1..=5, "b"),
        _ => feed(n, 1..=2, "a"),
    };
    all(&b, (0..10_000).map(there).collect());
    let printed = unchanged(&a, &b, || compare(&a, &[], &b, &[]).stderr("").status(3));
    let (result, feeds) = lines(&printed);
    let counts = ["feeds", "different", "forks", "unknown", "local_ahead", "remote_ahead"].map(|name| result[name].as_u64());
    assert_eq!(counts, [10_000, 5000, 1000, 0, 3000, 5000].map(Some));
    assert_eq!(feeds.len(), 5000);
    assert!(feeds.iter().all(|line| line.contains("\"fork\":true") == line.contains("5\",\"local\":2,\"remote\":5")));
}

/// It uses less than 64 MiB. The limit also counts memory that is reserved and not used, such as the stacks of threads. Such a
/// remote is another program: `replicate` answers between its heads.
#[test]
fn a_remote_that_names_a_million_feeds_before_it_answers_takes_little_memory() {
    let place = Place::new();
    let (log, stream) = (place.log("x"), place.path("stream"));
    let mut file = BufWriter::new(File::create(&stream).expect("a file"));
    let mut send = |bytes: &[u8]| file.write_all(bytes).expect("space for the stream");
    send(&[PREAMBLE, &hello("y", SYNC, false, 7)].concat());
    for first in (0..1_000_000).step_by(1000) {
        send(&typed(HEADS, (first..first + 1000).flat_map(|n| head(&format!("p{n}"), 5, 1)).collect::<Vec<u8>>()));
    }
    send(&native::heads(&[], true));
    (0..1_000_000).for_each(|n| send(&fork(&format!("p{n}"), &[(5, 1)])));
    send(&[synced(), fin(0, 0)].concat());
    drop(file);
    let remote = "exec 3<&0; cat <&3 >/dev/null & cat \"$STREAM\"; wait";
    let line = "ulimit -d 73728; \"$scuttleup\" --log \"$LOG\" compare -- sh -c \"$REMOTE\" | tail -n 1";
    let printed = shell(line).env("LOG", &log).env("STREAM", &stream).env("REMOTE", remote).stderr("").status(3);
    assert!(printed.text().contains("\"different\":1000000,"), "{}", printed.text());
}

/// The end of a comparison of this log with a remote that sends `stream`: what was sent, and what was printed on stderr. If the
/// expected code is 1, the stream of the remote ends.
fn heard(log: &Path, stream: &[u8], code: i32) -> (Vec<u8>, String) {
    let mut running = Run::new(log).args(["compare"]).spawn();
    running.send(stream);
    let ended = if code == 1 { running.finish() } else { running.wait() };
    assert_eq!(ended.status.code(), Some(code), "{}", ended.printed.stderr);
    (ended.printed.stdout, ended.printed.stderr)
}

/// A side that compares announces no heads, sends no entry and shows none: an older remote marks nothing and sends nothing.
#[test]
fn an_older_remote_is_asked_for_chains_and_gets_nothing_else() {
    let place = Place::new();
    let log = place.log("x");
    write(&log, "p", 1..=2, "");
    write(&log, "q", 1..=2, "");
    let (p4, q4) = (chain_of("p", &["1", "2", "3", "4"]), chain_of("q", &["1", "two", "3", "4"]));
    let p2 = chain_of("p", &["1", "2"]);
    let (heads, sent) = (native::heads(&[("p", 4, p4), ("q", 4, q4)], true), [synced(), fin(0, 0)].concat());
    // q is ignored in the first FORK, because its chain at 2 differs.
    let answers = [fork("p", &[(2, p2), (4, p4)]), fork("p", &[(4, p4)]), fork("q", &[(4, q4)])].concat();
    let stream = [PREAMBLE, &old_hello("old", SYNC, true, 7), &heads, &answers, &sent].concat();
    let (mut bytes, said) = heard(&log, &stream, 3);
    let q2 = chain_of("q", &["1", "2"]);
    native::forget_nonce(&mut bytes);
    assert_eq!(kinds(&bytes), [COMPARE, HELLO, FORK, FORK, FORK, FORK, HEADS, SYNCED, FIN]);
    let asked = [fork("p", &[(2, p2), (4, p4)]), fork("p", &[(4, p4)]), fork("q", &[(2, q2), (4, q4)]), fork("q", &[(4, q4)])];
    assert!(bytes.windows(asked.concat().len()).any(|part| part == asked.concat()), "{bytes:02x?}");
    let (expected_p, expected_q) =
        ("{\"peer\":\"p\",\"local\":2,\"remote\":4}\n", "{\"peer\":\"q\",\"local\":2,\"remote\":4,\"fork\":true}\n");
    assert!(said.starts_with(&format!("{expected_p}{expected_q}{{\"equal\":false,")), "{said}");
    // Its mode is push, and its root is not the local one.
    let own = hello("x", PUSH, false, !7);
    assert_eq!(bytes[PREAMBLE.len() + 2..][..12], own[..12], "{bytes:02x?}");
}

#[test]
fn what_the_remote_must_not_send_ends_the_comparison() {
    let place = Place::new();
    let log = place.log("x");
    append(&log, "1\n");
    let opening = [PREAMBLE, &hello("r", SYNC, false, 7), &native::heads(&[("r", 1, 9)], true)].concat();
    let run = [native::feed(0, "r"), native::run(0, 1, &["1"], 9)].concat();
    let (_, said) = heard(&log, &[opening.clone(), run].concat(), 7);
    assert!(said.contains("the remote sent entries, although this side only compares"), "{said}");
    // On the original wire.
    let change = crate::frames::change("r", 1, "1");
    let (_, said) = heard(&log, &[handshake("r", &[("r", 1)], SYNC), change].concat(), 7);
    assert!(said.contains("the remote sent an entry, although this side only compares"), "{said}");
    // A remote that ends early, reports an error, or answers nothing.
    let early = "the logs were not compared: the remote ended early";
    let ends = [vec![], synced(), [error("no"), synced()].concat(), fork("r", &[(1, 9)])];
    for end in ends {
        let (_, said) = heard(&log, &[opening.clone(), end].concat(), 1);
        assert!(said.contains(early), "{said}");
    }
    // It ends in order, but has not answered about all feeds.
    let heads = native::heads(&[("p", 1, 9), ("r", 1, 9)], true);
    let stream = [PREAMBLE, &hello("r", SYNC, false, 7), &heads, &fork("p", &[(1, 9)]), &synced(), &fin(0, 0)].concat();
    let (_, said) = heard(&log, &stream, 7);
    assert!(said.contains("before it has answered about all feeds that differ: 1 without an answer"), "{said}");
    // Answers that were not asked for are ignored.
    let answers = [fork("nobody", &[(1, 9)]), fork("r", &[(1, 9)]), fork("x", &[(1, 9)]), synced(), fin(0, 0)].concat();
    let (_, said) = heard(&log, &[opening, answers].concat(), 3);
    assert!(said.contains("\"different\":2,"), "{said}");
    let printed = Run::new(&log).args(["read", "--no-entry"]).success();
    assert_eq!(printed.lines().len(), 1);
}

/// A remote in the mode pull waits for the root and the heads of this side.
#[test]
fn a_remote_that_only_receives_gets_the_root_and_no_heads() {
    let place = Place::new();
    let log = place.log("x");
    append(&log, "1\n");
    let empty = native::heads(&[], true);
    let stream = [PREAMBLE, &pull(), &hello("r", PULL, false, 7), &empty, &synced(), &fin(0, 0)].concat();
    let (mut bytes, said) = heard(&log, &stream, 3);
    assert!(said.contains("r reveals nothing else, because it only receives"), "{said}");
    native::forget_nonce(&mut bytes);
    let own = native::root(&[("x", 1, chain_of("x", &["1"]))]);
    assert_eq!(kinds(&bytes), [COMPARE, HELLO, HEADS, SYNCED, FIN]);
    let root = own.to_le_bytes();
    assert!(bytes.windows(16).any(|part| part == root), "{bytes:02x?}");
}

#[test]
fn two_sides_that_only_compare_say_so() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1\n");
    let run = Run::new(&a).args(["compare", "--", SCUTTLEUP, "--log"]).args([&b]).args(["compare"]);
    let ended = run.end();
    assert_eq!(ended.status.code(), Some(7));
    let said = "scuttleup: the remote only compares too: connect this side to a replicate";
    assert!(ended.printed.stderr.contains(said), "{}", ended.printed.stderr);
}

#[test]
fn a_remote_that_serves_says_nothing_and_one_that_does_not_says_that_it_was_compared() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let run = Run::new(&a).args(["compare"]);
    let (mut a, mut b) = run.spawn_joined(Run::new(&b).args(["replicate", "--once", "--json"]));
    let (ended_a, ended_b) = (a.wait(), b.wait());
    assert_eq!((ended_a.status.code(), ended_b.status.code()), (Some(3), Some(0)), "{}", ended_b.printed.stderr);
    // Without COMMAND, the report is on stderr.
    assert_eq!(ended_a.printed.stderr.lines().count(), 8);
    let report: Value = serde_json::from_str(&ended_b.printed.stderr).expect("a report");
    assert_eq!((&report["sent"], &report["received"], &report["complete"]), (&0.into(), &0.into(), &true.into()));
}

#[test]
fn a_command_that_fails_is_exit_1() {
    let place = Place::new();
    let a = place.log("a");
    let said = "scuttleup: the logs were not compared: the remote ended before its handshake (false ended with exit status: 1): \
                see its messages, then run it again\n";
    Run::new(&a).args(["compare", "--", "false"]).stdout("").stderr(said).status(1);
    Run::new(&a).args(["compare", "--", "/nonexistent"]).stdout("").stderr_has("cannot run /nonexistent").status(1);
    Run::new(&a).args(["compare", "--"]).stderr_has("no COMMAND after --").status(2);
    let none = place.path("none");
    let said = "the logs were not compared: the remote ended before its handshake";
    compare(&a, &[], &none, &[]).stdout("").stderr_has(said).status(1);
    assert!(!none.exists());
}

/// The text of `compare` on a terminal with these variables and options.
fn shown(a: &Path, options: &[&str], b: &Path, variables: [&str; 2]) -> String {
    let mut terminal = Terminal::new(100);
    let run = compare(a, options, b, &[]).env("TERM", variables[0]).env("NO_COLOR", variables[1]);
    let mut running = run.spawn_with(Stdio::null(), terminal.stdio(), Stdio::piped());
    terminal.close();
    assert_eq!(running.wait().status.code(), Some(3));
    terminal.wait_for_end();
    terminal.seen().replace("\r\n", "\n")
}

#[test]
fn a_terminal_gets_a_table_whose_marks_have_a_colour() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let plain = "\
peer        here  remote
b              0       1  1 entry more in the remote log
fork-equal     3       3  fork: differs at or below 3
fork-long      5       2  fork: differs at or below 2
fork-short     2       5  fork: differs at or below 2
here           6       2  4 entries more here
there          2       3  1 entry more in the remote log
a              2       0  2 entries more here
this log and b differ in 7 of 8 feeds: 6 entries more here, 2 entries more in the remote log, 3 forks
";
    let coloured = plain.replace("fork: differs at or below ", "\x1b[31mfork: differs at or below ");
    let coloured: String = coloured
        .split_inclusive('\n')
        .map(|line| if line.contains('\x1b') { line.replace('\n', "\x1b[0m\n") } else { line.to_owned() })
        .collect();
    assert_eq!(shown(&a, &[], &b, ["xterm", ""]), coloured);
    assert_eq!(shown(&a, &[], &b, ["xterm", "1"]), plain);
    assert_eq!(shown(&a, &[], &b, ["dumb", ""]), plain);
    assert!(shown(&a, &["--json"], &b, ["xterm", ""]).starts_with(r#"{"peer":"b","local":0,"remote":1}"#));
}
