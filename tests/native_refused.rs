//! The native wire, frame by frame: which frames a log refuses, which it accepts, and what it stores then.

use std::path::{Path, PathBuf};

use crate::frames::{PREAMBLE, PULL, SYNC, Session, bytes_field, frame, number_field};
use crate::harness::{Place, Printed, Run, heads};
use crate::native::order;
use crate::native_frames as native;
use crate::native_frames::{
    ACK, FEED, FIN, FORK, HEADS, HELLO, RUN, ack, chain_field, chain_of, error, feed, fin, fork, head, hello, run, synced, typed,
};
use crate::replicate::append;

/// A log with one entry.
pub fn log(place: &Place) -> PathBuf {
    let log = place.log("x");
    append(&log, "\"x1\"\n");
    log
}

pub fn root() -> u128 {
    native::root(&[("x", 1, x1())])
}

/// The chain of that entry.
pub fn x1() -> u128 {
    chain_of("x", &["\"x1\""])
}

/// The opening of remote y: it holds the entry of x, and two entries of g.
pub fn opening() -> Vec<u8> {
    let g = chain_of("g", &["g1", "g2"]);
    [PREAMBLE, &hello("y", SYNC, false, 7), &native::heads(&[("g", 2, g), ("x", 1, x1())], true)].concat()
}

/// A run with the first entry of g.
pub fn good() -> Vec<u8> {
    [feed(0, "g"), run(0, 1, &["g1"], chain_of("g", &["g1"]))].concat()
}

fn once(log: &Path, stream: impl AsRef<[u8]>) -> Run {
    Run::new(log).args(["replicate", "--once"]).stdin(stream)
}

pub fn line(peer: &str, seq: u64) -> String {
    format!("{{\"peer\":\"{peer}\",\"seq\":{seq}}}")
}

/// The first words of the hints of the command line that can follow an error of a session.
const HINTS: [&str; 3] = [": raise the limit with --", ": if it is an entry, raise ", ": use --"];

/// The session must end with exit code `code` and one message; `stored` entries of g and no other entries must be stored.
fn refused(case: &str, stream: impl AsRef<[u8]>, stored: u64, args: &[&str], code: i32) -> Printed {
    let place = Place::new();
    let log = log(&place);
    println!("{case}");
    let printed = Run::new(&log).args(["replicate"]).args(args).stdin(&stream).status(code);
    let g = (stored > 0).then(|| line("g", stored));
    assert_eq!(heads(&log), g.into_iter().chain([line("x", 1)]).collect::<Vec<_>>());
    assert_eq!(printed.stderr.lines().count(), 1, "{}", printed.stderr);
    assert!(printed.stdout.starts_with(PREAMBLE));
    // It sends its message to the remote in an ERROR frame, without the hint, which names a local option.
    let said = printed.stderr.trim().strip_prefix("scuttleup (x): ").expect("a message");
    let hint = HINTS.iter().find_map(|hint| said.find(hint));
    let said = &said.as_bytes()[..hint.unwrap_or(said.len())];
    assert!(code == 3 || printed.stdout.windows(said.len()).any(|part| part == said), "{}", printed.stderr);
    printed
}

/// Each case must be refused after the bytes `before`, of which `stored` entries of g are stored.
fn all_refused(before: &[u8], stored: u64, cases: &[(&str, Vec<u8>)]) {
    for (case, bad) in cases {
        let rest = run(0, 2, &["g2"], chain_of("g", &["g1", "g2"]));
        let stream = [before, bad, &rest].concat();
        refused(case, &stream, stored, &["--once"], 7);
        // The bad frame alone is refused too, without the frame after it.
        refused(case, [before, bad].concat(), stored, &[], 7);
    }
}

#[test]
fn frames_before_hello_are_refused() {
    let chain = chain_of("g", &["g1"]);
    let cases = [
        ("HEADS", native::heads(&[], true)),
        ("FEED", feed(0, "g")),
        ("RUN", run(0, 1, &["g1"], chain)),
        ("ACK", ack(0, 0)),
        ("FORK", fork("g", &[(1, 1)])),
        ("SYNCED", synced()),
        ("FIN", fin(0, 0)),
        ("a Handshake", crate::frames::handshake("y", &[("g", 1)], SYNC)),
    ];
    all_refused(PREAMBLE, 0, &cases);
}

#[test]
fn invalid_hello_frames() {
    let (version, id, root) = (number_field(1, 1), bytes_field(2, "y"), chain_field(5, 7));
    let cases = [
        ("no version", [&id[..], &root].concat()),
        ("the version 0", [&number_field(1, 0)[..], &id, &root].concat()),
        ("no id", [&version[..], &root].concat()),
        ("an empty id", [&version[..], &bytes_field(2, ""), &root].concat()),
        ("an id that is not UTF-8", [&version[..], &bytes_field(2, b"\xff"), &root].concat()),
        ("an id of 256 bytes", [&version[..], &bytes_field(2, [b'i'; 256]), &root].concat()),
        ("no root", [&version[..], &id].concat()),
        ("a root of 15 bytes", [&version[..], &id, &bytes_field(5, [0; 15])].concat()),
        ("a root of 17 bytes", [&version[..], &id, &bytes_field(5, [0; 17])].concat()),
        ("a root that is a number", [&version[..], &id, &number_field(5, 7)].concat()),
        ("a truncated field", [&version[..], &id, &root, b"\x21\x01"].concat()),
        ("a group", [&version[..], &id, &root, b"\x23\x24"].concat()),
    ];
    all_refused(PREAMBLE, 0, &cases.map(|(case, body)| (case, typed(HELLO, body))));
    all_refused(&[PREAMBLE, &hello("y", SYNC, false, 7)].concat(), 0, &[("a second HELLO", hello("y", SYNC, false, 7))]);
}

#[test]
fn invalid_heads_frames() {
    let chain = chain_field(3, 1);
    let many: Vec<(&str, u32, u128)> = vec![("p", 1, 1); 1025];
    let head_of = |fields: &[&[u8]]| typed(HEADS, bytes_field(1, fields.concat()));
    let cases = [
        ("no peer", head_of(&[&number_field(2, 1), &chain])),
        ("an empty peer", head_of(&[&bytes_field(1, ""), &number_field(2, 1), &chain])),
        ("no chain", head_of(&[&bytes_field(1, "p"), &number_field(2, 1)])),
        ("a chain of 15 bytes", head_of(&[&bytes_field(1, "p"), &number_field(2, 1), &bytes_field(3, [0; 15])])),
        ("a seq of 33 bits", head_of(&[&bytes_field(1, "p"), &number_field(2, 1 << 32), &chain])),
        ("1025 heads", native::heads(&many, true)),
    ];
    all_refused(&[PREAMBLE, &hello("y", SYNC, false, 7)].concat(), 0, &cases);
    all_refused(&opening(), 0, &[("heads after the last ones", native::heads(&[], true))]);
    let equal = [PREAMBLE, &hello("y", SYNC, false, root())].concat();
    all_refused(&equal, 0, &[("heads though the roots are equal", native::heads(&[], true))]);
}

#[test]
fn invalid_feed_frames() {
    let cases = [
        ("a handle that is not the next one", feed(2, "p")),
        ("no handle", typed(FEED, bytes_field(2, "p"))),
        ("a handle of 33 bits", feed(1 << 32, "p")),
        ("no peer", typed(FEED, number_field(1, 1))),
        ("an empty peer", feed(1, "")),
    ];
    all_refused(&[opening(), good()].concat(), 1, &cases);
}

#[test]
fn invalid_run_frames() {
    let (handle, first, entry, chain) =
        (number_field(1, 0), number_field(2, 2), bytes_field(3, "g2"), chain_of("g", &["g1", "g2"]));
    let after = chain_field(5, chain);
    let deleted_after = |chain| chain_field(5, native::next_chain(chain, u64::from_le_bytes(*b"12345678"), 2));
    let (one, two) = (deleted_after(chain_of("g", &["g1"])), deleted_after(chain));
    let deleted = |nth: u64| bytes_field(4, [number_field(1, nth), b"\x1112345678".to_vec(), number_field(3, 2)].concat());
    let no_hash = bytes_field(4, [number_field(1, 0), number_field(3, 2)].concat());
    let too_much = bytes_field(4, [number_field(1, 0), b"\x1112345678".to_vec(), number_field(3, 1 << 32)].concat());
    let run_of = |fields: &[&[u8]]| typed(RUN, fields.concat());
    let cases = [
        ("a handle that was not given", run(1, 2, &["g2"], chain)),
        ("no handle", run_of(&[&first, &entry, &after])),
        ("no first", run_of(&[&handle, &entry, &after])),
        ("the seq 0", run(0, 0, &["g2"], chain)),
        ("no entries", run(0, 2, &[""; 0], chain)),
        ("no entries from 0 on", run(0, 0, &[""; 0], chain)),
        ("1025 entries", run(0, 2, &["g"; 1025], chain)),
        ("a seq of 33 bits", run(0, 1 << 32, &["g2"], chain)),
        ("a last seq of 33 bits", run(0, u64::from(u32::MAX), &["g2", "g3"], chain)),
        ("a last seq of 65 bits", run(0, u64::MAX, &["g2", "g3"], chain)),
        ("no chain", run_of(&[&handle, &first, &entry])),
        ("a chain of 15 bytes", run_of(&[&handle, &first, &entry, &bytes_field(5, [0; 15])])),
        ("a gap", run(0, 3, &["g3"], chain_of("g", &["g1", "g2", "g3"]))),
        ("a deleted entry beyond the run", run_of(&[&handle, &first, &entry, &deleted(1), &after])),
        ("a deleted entry twice", run_of(&[&handle, &first, &entry, &deleted(0), &deleted(0), &one])),
        ("deleted entries in descending order", run_of(&[&handle, &first, &entry, &entry, &deleted(1), &deleted(0), &two])),
        ("a deleted entry without a hash", run_of(&[&handle, &first, &entry, &no_hash, &after])),
        ("a deleted entry of 4 GiB", run_of(&[&handle, &first, &entry, &too_much, &after])),
        ("a truncated entry", run_of(&[&handle, &first, b"\x1a\x05g2"])),
    ];
    all_refused(&[opening(), good()].concat(), 1, &cases);
    let early = [PREAMBLE, &hello("y", SYNC, false, 7)].concat();
    all_refused(&early, 0, &[("a run before the heads", good())]);
    let all = [&early[..], &native::heads(&[], false)].concat();
    all_refused(&all, 0, &[("a run before the last heads", good())]);
    let named = [opening(), feed(0, "g")].concat();
    let cases =
        [("another chain", run(0, 1, &["g1", "g2"], chain ^ 1)), ("the chain of other bytes", run(0, 1, &["g1", "G2"], chain))];
    all_refused(&named, 0, &cases);
}

/// The log has entries of the feed, so a wrong chain may be a fork. The log asks the remote with FORK, but the remote has
/// ended.
#[test]
fn a_run_that_does_not_continue_from_the_head() {
    let chain = chain_of("g", &["g1", "g2"]);
    let asked = fork("g", &[(1, chain_of("g", &["g1"]))]);
    let cases = [
        ("another chain", run(0, 2, &["g2"], chain ^ 1)),
        ("the chain of other bytes", run(0, 2, &["G2"], chain)),
        ("a known entry and another chain", run(0, 1, &["g1", "g2"], chain ^ 1 << 127)),
    ];
    for (case, bad) in cases {
        let rest = run(0, 2, &["g2"], chain);
        let printed = refused(case, [opening(), good(), bad, rest].concat(), 1, &["--once"], 3);
        assert!(printed.stdout.windows(asked.len()).any(|part| part == asked), "{case}: no FORK was sent");
    }
}

#[test]
fn other_invalid_frames() {
    let opened = [opening(), good()].concat();
    let points = vec![(1, 1); 65];
    let cases = [
        ("an ACK of an entry that was not sent", ack(0, 1)),
        ("an ACK of 33 bits", typed(ACK, number_field(2, 1 << 32))),
        ("a FORK without a peer", typed(FORK, bytes_field(2, [number_field(1, 1), chain_field(2, 1)].concat()))),
        ("a FORK without a chain", typed(FORK, [bytes_field(1, "g"), bytes_field(2, number_field(1, 1))].concat())),
        ("a FORK of 65 points", fork("g", &points)),
        ("an entry without a hash", typed(FORK, [bytes_field(1, "g"), bytes_field(3, number_field(1, 1))].concat())),
        ("a truncated entry", typed(FORK, [bytes_field(1, "g"), bytes_field(3, b"\x11\x01")].concat())),
        ("a FIN of too few", fin(0, 0)),
        ("a FIN of too many", fin(2, 0)),
        ("a truncated FIN", typed(FIN, b"\x08")),
        ("the type 0", typed(0, "")),
        ("the type 10", typed(10, "")),
        ("the type 127", typed(127, "?")),
        ("a second FIN", [fin(1, 0), fin(1, 0)].concat()),
        ("SYNCED after FIN", [fin(1, 0), synced()].concat()),
        ("FEED after FIN", [fin(1, 0), feed(1, "p")].concat()),
        ("RUN after FIN", [fin(1, 0), run(0, 2, &["g2"], chain_of("g", &["g1", "g2"]))].concat()),
    ];
    all_refused(&opened, 1, &cases);
}

#[test]
fn an_entry_over_the_limit() {
    let long = "12345678901";
    let stream = [opening(), good(), run(0, 2, &[long], chain_of("g", &["g1", long]))].concat();
    refused("over the limit", &stream, 1, &["--entry-bytes-max", "10"], 7);
    refused("at the limit", &stream, 2, &["--entry-bytes-max", "11"], 3);
}

#[test]
fn the_modes_decide_which_entries_are_accepted() {
    let stream = [opening(), good()].concat();
    let printed = refused("to a log that pushes", &stream, 0, &["--mode", "push"], 6);
    assert!(printed.stderr.contains("the local mode is push"), "{}", printed.stderr);
    let pull = [PREAMBLE, &hello("y", PULL, false, 7), &native::heads(&[], true), &good()].concat();
    refused("from a remote that pulls", &pull, 0, &[], 7);
}

/// Unknown frames and fields, which later versions may add, are skipped; the session is complete for any chunk length.
#[test]
fn unknown_frames_and_fields_are_skipped() {
    let later = |kind| [typed(kind, vec![0xff; 300]), frame([kind])].concat();
    let fields = b"\xc0\x07\x01\xca\x07\x01z\xc1\x0712345678\xcd\x071234".to_vec();
    let who =
        [&fields[..], &chain_field(5, 7), &bytes_field(2, "no"), &bytes_field(2, "y"), &number_field(1, 9), &fields].concat();
    let g = chain_of("g", &["g1", "g2"]);
    let rows = [head("g", 2, g), number_field(2, 1), head("x", 1, x1()), fields.clone()].concat();
    let runs =
        [fields.clone(), bytes_field(3, "g1"), chain_field(5, g), bytes_field(3, "g2"), number_field(2, 1), number_field(1, 0)];
    let opening =
        [PREAMBLE, &later(128), b"\0\x80\0", &typed(HELLO, who), &later(200), &native::heads(&[], false), &typed(HEADS, rows)]
            .concat();
    let entries = [
        typed(FEED, [bytes_field(2, "g"), number_field(1, 0), fields.clone()].concat()),
        typed(RUN, runs.concat()),
        later(255),
        synced(),
    ]
    .concat();
    for chunk in [1, 5, opening.len() + entries.len()] {
        let place = Place::new();
        let log = log(&place);
        let mut session = Session::open(&log, &["--once"]);
        opening.chunks(chunk).for_each(|part| session.send(part));
        let said = [PREAMBLE, &hello("x", SYNC, false, root()), &native::heads(&[("x", 1, x1())], true)].concat();
        assert_eq!(session.bytes(said.len()), said);
        // A remote does not send entries before it has received all heads.
        entries.chunks(chunk).for_each(|part| session.send(part));
        let mut last = [synced(), ack(0, 2), fin(0, 2)].concat();
        // ACK and SYNCED may come in either order.
        let mut rest = session.bytes(last.len());
        last.sort_unstable();
        rest.sort_unstable();
        assert_eq!(rest, last);
        session.send([later(130), fin(2, 0), later(131)].concat());
        let (rest, ended) = session.end();
        assert_eq!((rest, ended.status.code()), (Vec::new(), Some(0)), "chunks of {chunk}: {}", ended.printed.stderr);
        assert_eq!(heads(&log), [line("g", 2), line("x", 1)]);
    }
}

/// The remote has a fork of x: the feed is stopped, and later entries of it are counted but not stored.
#[test]
fn entries_of_a_stopped_feed_are_counted() {
    for (sent, code) in [(2, 4), (0, 7)] {
        let place = Place::new();
        let log = log(&place);
        let theirs = native::heads(&[("x", 1, 1)], true);
        let late = [feed(0, "x"), run(0, 2, &["x2", "x3"], 3), synced(), fin(sent, 0)].concat();
        let stream = [PREAMBLE, &hello("y", SYNC, false, 7), &theirs, &late].concat();
        once(&log, stream).stderr_has("fork: entry 1 of x").status(code);
        assert_eq!(order(&log).len(), 1);
    }
}

/// A FORK that the log answers with the same FORK shows that the log sent nothing else before.
#[test]
fn fin_waits_for_all_acknowledgements() {
    let place = Place::new();
    let mut session = Session::open(&log(&place), &["--once"]);
    let question = fork("x", &[(1, x1())]);
    session.send([PREAMBLE, &hello("y", SYNC, false, 7), &native::heads(&[], true), &synced()].concat());
    let heads = native::heads(&[("x", 1, x1())], true);
    let opened = [PREAMBLE, &hello("x", SYNC, false, root()), &heads, &feed(0, "x"), &run(0, 1, &["\"x1\""], x1()), &synced()];
    for (question, said) in [(&[][..], &opened.concat()), (&question, &question), (&ack(0, 1), &fin(1, 0))] {
        session.send(question);
        assert_eq!(session.bytes(said.len()), *said);
    }
    session.send(fin(0, 0));
    let (rest, ended) = session.end();
    assert_eq!((rest, ended.status.code()), (Vec::new(), Some(0)), "{}", ended.printed.stderr);
}

/// The entry is on the disk of the remote, also if the message that stops its feed follows at once.
#[test]
fn an_ack_counts_although_a_fork_follows_in_the_same_read() {
    let place = Place::new();
    let mut session = Session::open(&log(&place), &["--once", "--json"]);
    session.send([PREAMBLE, &hello("y", SYNC, false, 7), &native::heads(&[], true), &synced()].concat());
    let heads = native::heads(&[("x", 1, x1())], true);
    let opened = [PREAMBLE, &hello("x", SYNC, false, root()), &heads, &feed(0, "x"), &run(0, 1, &["\"x1\""], x1()), &synced()];
    assert_eq!(session.bytes(opened.concat().len()), opened.concat());
    session.send([ack(0, 1), fork("x", &[(1, 7)])].concat());
    let (_, ended) = session.end();
    assert_eq!(ended.status.code(), Some(4), "{}", ended.printed.stderr);
    assert!(ended.printed.stderr.contains("\"sent\":1,\"durable\":1,"), "{}", ended.printed.stderr);
}

/// The side acknowledges stored runs before it sends ERROR. A remote may stop reading after an ERROR.
#[test]
fn an_error_is_the_last_frame_that_is_sent() {
    for _ in 0..20 {
        let place = Place::new();
        let printed = once(&log(&place), [opening(), good()].concat()).status(3);
        let kinds = native::kinds(&printed.stdout);
        assert_eq!(kinds.iter().position(|&kind| kind == native::ERROR), Some(kinds.len() - 1), "{kinds:?}");
        assert!(kinds.contains(&ACK), "{kinds:?}");
    }
}

#[test]
fn an_ack_counts_that_follows_an_error() {
    let place = Place::new();
    let mut session = Session::open(&log(&place), &["--once", "--json"]);
    session.send([PREAMBLE, &hello("y", SYNC, false, 7), &native::heads(&[], true)].concat());
    let heads = native::heads(&[("x", 1, x1())], true);
    let opened = [PREAMBLE, &hello("x", SYNC, false, root()), &heads, &feed(0, "x"), &run(0, 1, &["\"x1\""], x1()), &synced()];
    assert_eq!(session.bytes(opened.concat().len()), opened.concat());
    session.send([error("stopped"), ack(0, 1)].concat());
    let (_, ended) = session.end();
    assert_eq!(ended.status.code(), Some(3), "{}", ended.printed.stderr);
    assert!(ended.printed.stderr.contains("\"sent\":1,\"durable\":1,"), "{}", ended.printed.stderr);
}

/// The roots were equal, so the remote has said no heads.
#[test]
fn entries_in_an_unfinished_write_are_unsent() {
    let place = Place::new();
    let log = log(&place);
    let mut session = Session::open(&log, &["--json"]);
    session.send([PREAMBLE, &hello("y", SYNC, true, root())].concat());
    let said = [PREAMBLE, &hello("x", SYNC, true, root()), &synced()].concat();
    assert_eq!(session.bytes(said.len()), said);
    append(&log, &format!("\"{}\"\n", "x".repeat(1000)).repeat(3000));
    // It has begun to write frames that are longer than the pipe.
    assert_eq!(session.bytes(1).len(), 1);
    session.drop_output();
    let (_, ended) = session.end();
    assert_eq!(ended.status.code(), Some(3), "{}", ended.printed.stderr);
    assert!(!ended.printed.stderr.contains("\"unsent\":0,"), "{}", ended.printed.stderr);
}

/// The log has sent its FIN. Without the FIN of the remote, the session counts as cut.
#[test]
fn a_stream_that_ends_without_the_fin_of_the_remote_is_cut() {
    for length in 0..fin(0, 0).len() {
        let place = Place::new();
        let mut session = Session::open(&log(&place), &["--once"]);
        session.send([PREAMBLE, &hello("y", SYNC, false, root()), &synced()].concat());
        let said = [PREAMBLE, &hello("x", SYNC, false, root()), &synced(), &fin(0, 0)].concat();
        assert_eq!(session.bytes(said.len()), said);
        session.send(&fin(0, 0)[..length]);
        let (_, ended) = session.end();
        assert_eq!(ended.status.code(), Some(3), "{length}: {}", ended.printed.stderr);
    }
}

#[test]
fn the_error_text_of_the_remote_is_printed() {
    let place = Place::new();
    let log = log(&place);
    let text = "disk \u{1b}[31mfull\r\n\u{9b}2J\u{7f}";
    let after_fin = [&opening()[..], &fin(0, 0), &error(text)].concat();
    for stream in [[PREAMBLE, &error(text)].concat(), [opening(), error(text)].concat(), after_fin] {
        let printed = once(&log, stream).status(3);
        assert!(printed.stderr.contains("it said: disk \\u{1b}[31mfull\\r\\n\\u{9b}2J\\u{7f}"), "{:?}", printed.stderr);
        assert!(!printed.stderr.trim_end().contains(char::is_control), "{:?}", printed.stderr);
    }
    let long = once(&log, [opening(), error(vec![b'e'; 100_000])].concat()).status(3).stderr;
    assert_eq!(long.matches("eeee").count(), 1024 / 4, "{} bytes", long.len());
    once(&log, [opening(), error(b"\xff\xfe")].concat()).stderr_has("it said: \u{fffd}").status(3);
    assert_eq!(heads(&log), [line("x", 1)]);
}
