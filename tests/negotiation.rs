//! Negotiation of the wire: what each process sends first, and how the first bytes select the wire.

use std::path::Path;
use std::process::Stdio;

use crate::frames::{PREAMBLE, SYNC, Session, bytes_field, change, frame, handshake};
use crate::harness::{Place, Run, heads};
use crate::native_frames::{self, fin, hello, synced};
use crate::replicate::append;
use crate::terminal::Terminal;

const HEAD: &str = "{\"peer\":\"x\",\"seq\":1}";
const BOTH: [&str; 2] = ["{\"peer\":\"p\",\"seq\":1}", HEAD];

/// A log with one entry.
fn log(place: &Place) -> std::path::PathBuf {
    let log = place.log("x");
    append(&log, "\"x1\"\n");
    log
}

/// The root of that log.
fn root() -> u128 {
    native_frames::root(&[("x", 1, native_frames::chain_of("x", &["\"x1\""]))])
}

/// The bytes that an original sends in a session.
fn original() -> Vec<u8> {
    [handshake("y", &[("p", 1)], SYNC), change("p", 1, "e")].concat()
}

/// The bytes that log `x` sends to it.
fn answer() -> Vec<u8> {
    [handshake("x", &[("x", 1)], SYNC), change("x", 1, "\"x1\"")].concat()
}

fn once(log: &Path, wire: &str, stream: impl AsRef<[u8]>) -> Run {
    Run::new(log).args(["replicate", "--once", "--wire", wire]).stdin(stream)
}

#[test]
fn golden_bytes_of_the_opening() {
    let place = Place::new();
    let log = log(&place);
    for wire in ["auto", "native"] {
        let mut session = Session::open(&log, &["--once", "--wire", wire]);
        assert_eq!(session.bytes(8), PREAMBLE);
        // No Handshake was sent with the preamble: a remote on the native wire would read it as a frame.
        session.send(PREAMBLE);
        let greeting = hello("x", SYNC, false, root());
        assert_eq!(session.bytes(greeting.len()), greeting);
        session.send([hello("y", SYNC, false, root()), synced()].concat());
        let rest = [synced(), fin(0, 0)].concat();
        assert_eq!(session.bytes(rest.len()), rest);
        session.send(fin(0, 0));
        let (rest, ended) = session.end();
        assert_eq!((rest, ended.status.code()), (Vec::new(), Some(0)), "{}", ended.printed.stderr);
    }
    // With --wire original the Handshake is sent at once, without a preamble.
    let mut session = Session::open(&log, &["--once", "--wire", "original"]);
    let greeting = handshake("x", &[("x", 1)], SYNC);
    assert_eq!(session.bytes(greeting.len()), greeting);
    session.send(handshake("y", &[("x", 1)], SYNC));
    let (rest, ended) = session.end();
    assert_eq!((rest, ended.status.code()), (Vec::new(), Some(0)), "{}", ended.printed.stderr);
}

/// Sends `stream` in chunks of several lengths: the answer must be `said` each time. Then sends `last`.
fn assert_answer_to_chunks(stream: &[u8], said: &[u8], last: &[u8]) {
    for chunk in [1, 2, 3, 7, 8, 9, stream.len()] {
        let place = Place::new();
        let log = log(&place);
        let mut session = Session::open(&log, &["--once"]);
        assert_eq!(session.bytes(8), PREAMBLE);
        for part in stream.chunks(chunk) {
            session.send(part);
        }
        assert_eq!(session.bytes(said.len()), said, "chunks of {chunk}");
        session.send(last);
        let (rest, ended) = session.end();
        assert_eq!((rest, ended.status.code()), (Vec::new(), Some(0)), "chunks of {chunk}: {}", ended.printed.stderr);
    }
}

#[test]
fn a_preamble_in_pieces() {
    let stream = [PREAMBLE, &hello("y", SYNC, false, root()), &synced()].concat();
    let said = [hello("x", SYNC, false, root()), synced(), fin(0, 0)].concat();
    assert_answer_to_chunks(&stream, &said, &fin(0, 0));
}

#[test]
fn an_incomplete_preamble_selects_the_original_wire() {
    let openings: [&[u8]; 7] = [
        b"",
        b"\0",
        b"\x80\0",
        &PREAMBLE[..4],
        &PREAMBLE[..7],
        b"\x80\x80\x80\0\x80\x80\0\x80\0",
        // A preamble that is not at the start.
        b"\0\x80\x80\x80\0\x80\x80\0\0",
    ];
    for opening in openings {
        println!("{opening:?}");
        assert_answer_to_chunks(&[opening, &original()].concat(), &answer(), b"");
    }
}

/// The length of the Handshake begins with the same bytes as the preamble.
#[test]
fn a_long_handshake_is_not_a_preamble() {
    for length in [128, 16_384, 2 << 20] {
        let id = bytes_field(1, "y");
        let rest = length - id.len();
        let pad = (1..8).map(|prefix| bytes_field(9, vec![0; rest - prefix])).find(|pad| pad.len() == rest).expect("it fits");
        let opening = frame([id, pad].concat());
        assert!(PREAMBLE.starts_with(&opening[..1]));
        let place = Place::new();
        let log = log(&place);
        let printed = once(&log, "auto", [opening, change("p", 1, "e")].concat()).success();
        assert_eq!(printed.stdout, [PREAMBLE, &answer()].concat());
        assert_eq!(heads(&log), BOTH);
    }
}

#[test]
fn input_that_ends_before_the_wire_is_known() {
    let place = Place::new();
    let log = log(&place);
    for wire in ["auto", "native"] {
        for length in 0..=PREAMBLE.len() {
            let run = once(&log, wire, &PREAMBLE[..length]).stderr_has("ended before its handshake: run it again");
            let said = run.status(3).stdout;
            assert!(said.starts_with(PREAMBLE) && !said.starts_with(&[PREAMBLE, &answer()].concat()));
        }
    }
    assert_eq!(heads(&log), [HEAD]);
}

#[test]
fn only_the_native_wire_refuses_the_original() {
    let place = Place::new();
    let log = log(&place);
    for stream in [original(), handshake("y", &[], SYNC), [b"\0", &original()[..]].concat(), original()[..1].to_vec()] {
        let printed = once(&log, "native", &stream).stderr_has("does not speak the native wire").status(6);
        assert_eq!(printed.stdout, PREAMBLE);
    }
    assert_eq!(heads(&log), [HEAD]);
}

/// Text before the protocol, for example of .bashrc. The session must not wait for the rest of a frame whose length is text.
#[test]
fn text_before_a_session_is_quoted() {
    let (native, preamble) = ([PREAMBLE, &hello("y", SYNC, false, root())].concat(), PREAMBLE.to_vec());
    for (text, session) in
        [("hi", &preamble), ("hi\n", &preamble), ("hi\n", &native), ("hello", &native), ("Welcome!\n", &original())]
    {
        let stream = [text.as_bytes(), session].concat();
        let whole = stream.len();
        for (wire, chunk) in [("auto", 1), ("auto", 3), ("auto", whole), ("native", whole)] {
            let place = Place::new();
            let log = log(&place);
            let mut session = Session::open(&log, &["--once", "--wire", wire]);
            assert_eq!(session.bytes(8), PREAMBLE);
            for part in stream.chunks(chunk) {
                session.send_some(part);
            }
            // Its input is still open. A first character alone does not look like text, so that it may be answered.
            while !session.bytes(1).is_empty() {
                assert!(chunk < whole, "{text:?} is answered");
            }
            let (_, ended) = session.end();
            let said = &ended.printed.stderr;
            assert_eq!(ended.status.code(), Some(7), "{text:?} in chunks of {chunk}: {said}");
            assert!(said.contains(&format!("{}: stdout of the remote", text.trim())), "{said}");
            assert_eq!(heads(&log), [HEAD]);
        }
    }
}

/// With a terminal as stderr, a user could be typing a password, and the time for the handshake is not limited. Text is not a
/// handshake, although it looks like the start of a longer frame.
#[test]
fn text_and_nothing_else_is_not_waited_for() {
    let place = Place::new();
    let log = log(&place);
    let mut terminal = Terminal::new(200);
    let run = Run::new(&log).args(["replicate", "--once", "--", "sh", "-c", "echo hi; exec cat >/dev/null"]);
    let mut run = run.spawn_with(Stdio::null(), Stdio::piped(), terminal.stdio());
    terminal.wait_until(|terminal| terminal.seen().contains("it printed: hi: stdout of the remote"));
    assert_eq!(run.wait().status.code(), Some(7));
}

/// Two logs, each with its own --wire: the selected wire and the exit codes.
#[test]
fn every_pair_of_wires() {
    let cases = [
        ("auto", "auto", "native", (0, 0)),
        ("auto", "native", "native", (0, 0)),
        ("native", "auto", "native", (0, 0)),
        ("native", "native", "native", (0, 0)),
        ("original", "auto", "original", (0, 0)),
        ("auto", "original", "original", (0, 0)),
        ("original", "original", "original", (0, 0)),
        ("native", "original", "", (6, 3)),
        ("original", "native", "", (3, 6)),
    ];
    for (here, there, wire, codes) in cases {
        let place = Place::new();
        let (a, b) = (log(&place), place.log("b"));
        append(&b, "\"b1\"\n");
        let side = |log, wire| Run::new(log).args(["replicate", "--once", "--json", "--wire", wire]);
        let (mut a_runs, mut b_runs) = side(&a, here).spawn_joined(side(&b, there));
        let (a_ended, b_ended) = (a_runs.wait(), b_runs.wait());
        let said = format!("{here} with {there}: {} {}", a_ended.printed.stderr, b_ended.printed.stderr);
        assert_eq!((a_ended.status.code(), b_ended.status.code()), (Some(codes.0), Some(codes.1)), "{said}");
        assert_eq!(said.matches(&format!("\"wire\":\"{wire}\"")).count(), if wire.is_empty() { 0 } else { 2 }, "{said}");
        let moved = ["{\"peer\":\"b\",\"seq\":1}", HEAD];
        assert_eq!(heads(&a), if wire.is_empty() { vec![HEAD] } else { moved.to_vec() }, "{said}");
        assert_eq!(heads(&b), if wire.is_empty() { vec![moved[0]] } else { moved.to_vec() }, "{said}");
    }
}
