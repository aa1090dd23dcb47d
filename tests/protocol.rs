//! The original wire, byte for byte: what is sent, what is accepted, what is refused.

use std::path::Path;

use crate::frames::{
    Frame, PREAMBLE, PULL, PUSH, SYNC, Session, bytes_field, change, digest, frame, handshake, number_field, varint,
};
use crate::harness::{Place, Printed, Run, heads};
use crate::replicate::append;

const HANDSHAKE: &[u8] = b"\x14\x0a\x05alice\x12\x09\x0a\x05alice\x10\x02\x18\x01";
const CHANGE: &[u8] = b"\x0d\x0a\x05alice\x10\x01\x1a\x02a1";

/// A log with one entry, and its heads.
fn log(place: &Place) -> (std::path::PathBuf, Vec<String>) {
    let log = place.log("x");
    append(&log, "\"x1\"\n");
    let heads = heads(&log);
    (log, heads)
}

fn once(log: &Path, stream: impl AsRef<[u8]>) -> Run {
    Run::new(log).args(["replicate", "--once"]).stdin(stream)
}

/// The bytes that `replicate` sends in answer to a stream. They are the same with --wire auto and --wire original, except for
/// the preamble.
fn said(log: &Path, stream: impl AsRef<[u8]>, code: i32) -> Vec<u8> {
    let auto = once(log, &stream).status(code).stdout;
    let original = once(log, &stream).args(["--wire", "original"]).status(code).stdout;
    assert!(auto == [PREAMBLE, &original].concat(), "{auto:?} and {original:?}");
    original
}

fn head(peer: &str, seq: u64) -> String {
    format!("{{\"peer\":\"{peer}\",\"seq\":{seq}}}")
}

#[test]
fn golden_bytes_out() {
    let place = Place::new();
    let alice = place.log("alice");
    Run::new(&alice).args(["append", "--text"]).stdin("a1\na2\n").success();
    let second = b"\x0d\x0a\x05alice\x10\x02\x1a\x02a2";
    let them = b"\x07\x0a\x03bob\x18\x01";
    assert_eq!(said(&alice, them, 0), [HANDSHAKE, CHANGE, second].concat());
    // Only entries above the head of the remote are sent.
    assert_eq!(said(&alice, handshake("bob", &[("alice", 1)], SYNC), 0), [HANDSHAKE, second].concat());
    assert_eq!(said(&alice, handshake("bob", &[("alice", 9)], SYNC), 3), HANDSHAKE);
}

#[test]
fn golden_bytes_out_of_numbers_of_many_bytes() {
    let place = Place::new();
    let (log, id) = (place.path("log"), "é".repeat(100));
    Run::new(&log).args(["-q", "init", "--id", &id]).success();
    let lines: String = (1..=300).map(|n| format!("{n}\n")).collect();
    append(&log, &lines);
    let long = vec![0xff; 20_000];
    Run::new(&log).args(["append", "--raw"]).stdin(&long).success();
    let printed = said(&log, handshake("bob", &[(&id, 299)], PULL), 0);
    let expected = [handshake(&id, &[(&id, 301)], SYNC), change(&id, 300, "300"), change(&id, 301, &long)].concat();
    assert!(printed == expected);
}

#[test]
fn golden_bytes_in() {
    let place = Place::new();
    let log = place.log("bob");
    let second = b"\x0d\x0a\x05alice\x10\x02\x1a\x02a2";
    once(&log, [HANDSHAKE, CHANGE, second].concat()).success();
    assert_eq!(heads(&log), [head("alice", 2)]);
    Run::new(&log).args(["entry", "--raw", "alice", "2"]).stdout("a2").success();
}

#[test]
fn one_byte_at_a_time() {
    let place = Place::new();
    let log = place.log("bob");
    let mut session = Session::open(&log, &["--once"]);
    let stream = [HANDSHAKE, CHANGE, b"\0", &change("alice", 2, vec![7; 300]), &change("z", 1, "")].concat();
    for byte in stream {
        session.send([byte]);
    }
    let (_, ended) = session.close();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.printed.stderr);
    assert_eq!(heads(&log), [head("alice", 2), head("z", 1)]);
}

/// Valid encodings that `replicate` itself never sends.
#[test]
fn unusual_encodings_are_accepted() {
    let unknown = b"\x20\x05\x29\x31\x32\x33\x34\x35\x36\x37\x38\x32\x01z\x3d\x31\x32\x33\x34\xf8\x07\x01".to_vec();
    let (id, peer, seq, entry) = (bytes_field(1, "y"), bytes_field(1, "p"), number_field(2, 1), bytes_field(3, "e"));
    let overlong = |bytes: &[u8]| [&[bytes.len() as u8 | 0x80, 0x80, 0x80, 0x00][..], bytes].concat();
    let wide_digest = [bytes_field(1, "p"), unknown.clone(), b"\x10\x81\x80\x80\x00".to_vec()].concat();
    let changes: [(&str, Vec<u8>); 7] = [
        ("canonical", change("p", 1, "e")),
        ("reversed", frame([&entry[..], &seq, &peer].concat())),
        ("unknown fields", frame([&unknown[..], &peer, &unknown, &seq, &entry, &unknown].concat())),
        ("repeated fields", frame([&bytes_field(1, "q")[..], &number_field(2, 0), &entry, &peer, &seq, &entry].concat())),
        ("empty frames", [&[0, 0, 0x80, 0, 0x80, 0x80, 0][..], &change("p", 1, "e"), &[0]].concat()),
        ("overlong length", overlong(&[&peer[..], &seq, &entry].concat())),
        ("overlong numbers", frame(b"\x0a\x81\x80\x00p\x90\x00\x81\x80\x80\x80\x80\x80\x80\x80\x80\x00\x9a\x80\x00\x01e")),
    ];
    let openings: [(&str, Vec<u8>); 8] = [
        ("canonical", handshake("y", &[("p", 1)], SYNC)),
        ("no mode", frame(&id)),
        ("an unknown mode", frame([id.clone(), number_field(3, 77)].concat())),
        ("reversed", frame([&number_field(3, SYNC)[..], &digest("p", 1), &id].concat())),
        ("unknown fields", frame([&unknown[..], &id, &unknown, &bytes_field(2, wide_digest), &unknown].concat())),
        ("repeated fields", frame([&number_field(3, PULL)[..], &bytes_field(1, "n"), &id, &number_field(3, SYNC)].concat())),
        ("empty frames", [&[0, 0x80, 0][..], &handshake("y", &[], SYNC)].concat()),
        ("overlong length", overlong(&id)),
    ];
    let pairs = openings.iter().map(|opening| (opening, &changes[0])).chain(changes.iter().map(|change| (&openings[0], change)));
    for ((how, opening), (how_change, change)) in pairs {
        let place = Place::new();
        let (log, _) = log(&place);
        let run = once(&log, [&opening[..], change].concat());
        println!("{how} handshake, {how_change} change");
        run.stderr_has("synced with y: sent 1, received 1").success();
        assert_eq!(heads(&log), [head("p", 1), head("x", 1)]);
        Run::new(&log).args(["entry", "--raw", "p", "1"]).stdout("e").success();
    }
}

/// The session must end with an error, and no entry of the stream may be stored.
fn refused(stream: &[u8]) -> Printed {
    let place = Place::new();
    let (log, before) = log(&place);
    let printed = once(&log, stream).status(7);
    assert_eq!(once(&log, stream).args(["--wire", "original"]).status(7).stderr, printed.stderr, "{stream:?}");
    assert_eq!(heads(&log), before, "{stream:?}");
    assert_eq!(printed.stderr.lines().count(), 1, "{}", printed.stderr);
    printed
}

#[test]
fn invalid_handshakes() {
    let long = "i".repeat(256);
    let handshakes = [
        ("no id", number_field(3, SYNC)),
        ("an empty id", bytes_field(1, "")),
        ("an id that is not UTF-8", bytes_field(1, b"\xff")),
        ("an id of 256 bytes", bytes_field(1, &long)),
        ("a digest without a seq", [bytes_field(1, "y"), bytes_field(2, bytes_field(1, "p"))].concat()),
        ("a digest without a peer", [bytes_field(1, "y"), bytes_field(2, number_field(2, 1))].concat()),
        ("a digest of an empty peer", [bytes_field(1, "y"), digest("", 1)].concat()),
        ("a digest that is not UTF-8", [bytes_field(1, "y"), digest(b"\xc3", 1)].concat()),
        ("a digest of a long peer", [bytes_field(1, "y"), digest(&long, 1)].concat()),
        ("a seq of 33 bits", [bytes_field(1, "y"), digest("p", 1 << 32)].concat()),
        ("a digest longer than the message", [bytes_field(1, "y"), b"\x12\x05\x0a\x01p".to_vec()].concat()),
        ("a group", [bytes_field(1, "y"), b"\x23\x24".to_vec()].concat()),
        ("a truncated field", [bytes_field(1, "y"), b"\x21\x01\x02".to_vec()].concat()),
        ("a truncated number", [bytes_field(1, "y"), b"\x18\x80".to_vec()].concat()),
        ("a number of 11 bytes", [bytes_field(1, "y"), [&[0x18][..], &[0x80; 10], &[0]].concat()].concat()),
    ];
    for (case, body) in handshakes {
        println!("{case}");
        refused(&frame(body));
    }
}

/// The change before the bad change is stored; the bad change and the change after it are not.
fn refused_after_one(bad: &[u8], args: &[&str]) -> Printed {
    let place = Place::new();
    let (log, _) = log(&place);
    let stream =
        [&handshake("y", &[("g", 2), ("p", 1)], SYNC)[..], &change("g", 1, "good"), bad, &change("g", 2, "good")].concat();
    let printed = Run::new(&log).args(["replicate"]).args(args).stdin(stream).status(7);
    assert_eq!(heads(&log), [head("g", 1), head("x", 1)]);
    printed
}

#[test]
fn invalid_changes() {
    let long = "i".repeat(256);
    let (peer, seq, entry) = (bytes_field(1, "p"), number_field(2, 1), bytes_field(3, "e"));
    let changes = [
        ("seq 0", change("p", 0, "e")),
        ("a seq of 33 bits", change("p", 1 << 32, "e")),
        ("a seq of 64 bits", change("p", u64::MAX, "e")),
        ("an empty id", change("", 1, "e")),
        ("an id that is not UTF-8", change(b"\xf0\x28", 1, "e")),
        ("an id of 256 bytes", change(&long, 1, "e")),
        ("no peer", frame([&seq[..], &entry].concat())),
        ("no seq", frame([&peer[..], &entry].concat())),
        ("no entry", frame([&peer[..], &seq].concat())),
        ("a second handshake", handshake("y", &[], SYNC)),
        ("an entry longer than its frame", frame([&peer[..], &seq, b"\x1a\x02e"].concat())),
        ("an entry of 2^63 bytes", frame([&peer[..], &seq, &[0x1a], &varint(1 << 63)].concat())),
        ("a peer longer than its frame", frame(b"\x0a\x7fp")),
        ("a group", frame([&peer[..], &seq, &entry, b"\x23\x24"].concat())),
        ("the end of a group", frame([&peer[..], &seq, &entry, b"\x24"].concat())),
        ("wire type 6", frame([&peer[..], &seq, &entry, b"\x26"].concat())),
        ("wire type 7", frame([&peer[..], &seq, &entry, b"\x27"].concat())),
        ("field 0", frame([&peer[..], &seq, &entry, b"\x00\x01"].concat())),
        ("a truncated tag", frame([&peer[..], &seq, &entry, b"\x80"].concat())),
        ("a number of 65 bits", frame([&peer[..], b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", &entry].concat())),
        ("a length of 65 bits", [0xff; 10].to_vec()),
    ];
    for (case, change) in changes {
        println!("{case}");
        refused_after_one(&change, &[]);
        refused_after_one(&change, &["--once", "--mode", "pull"]);
    }
}

#[test]
fn an_id_of_255_bytes_is_valid() {
    let place = Place::new();
    let (log, _) = log(&place);
    let long = "i".repeat(255);
    once(&log, [handshake(&long, &[], SYNC), change(&long, 1, "e")].concat()).success();
    assert_eq!(heads(&log), [head(&long, 1), head("x", 1)]);
}

#[test]
fn an_entry_over_the_limit() {
    let printed = refused_after_one(&change("p", 1, "12345678901"), &["--entry-bytes-max", "10"]);
    assert!(printed.stderr.contains("10"), "{}", printed.stderr);
    let place = Place::new();
    let (log, _) = log(&place);
    let stream = [handshake("y", &[], SYNC), change("p", 1, "1234567890")].concat();
    Run::new(&log).args(["replicate", "--entry-bytes-max", "10"]).stdin(stream).success();
}

#[test]
fn input_that_ends_inside_a_frame() {
    let third = change("p", 1, "e");
    for length in 1..third.len() {
        let place = Place::new();
        let (log, before) = log(&place);
        let stream = [&handshake("y", &[("p", 1)], SYNC)[..], &third[..length]].concat();
        once(&log, stream).stderr_has("the remote ended early").status(3);
        assert_eq!(heads(&log), before);
    }
    for length in 1..HANDSHAKE.len() {
        let place = Place::new();
        let (log, before) = log(&place);
        once(&log, &HANDSHAKE[..length]).stderr_has("the remote ended inside its handshake").status(3);
        assert_eq!(heads(&log), before);
    }
}

/// All announced entries have arrived: only the incomplete frame shows that the remote had more to send.
#[test]
fn input_that_ends_inside_a_frame_that_was_not_announced() {
    let second = change("p", 2, "e");
    for length in 1..second.len() {
        let place = Place::new();
        let (log, _) = log(&place);
        let stream = [&handshake("y", &[("p", 1)], SYNC)[..], &change("p", 1, "e"), &second[..length]].concat();
        for args in [&["replicate", "--once"][..], &["replicate"]] {
            Run::new(&log).args(args).stdin(&stream).stderr_has("the remote ended early").status(3);
            assert_eq!(heads(&log), [head("p", 1), head("x", 1)]);
        }
    }
}

#[test]
fn text_of_another_protocol_is_quoted() {
    let texts: [(&[u8], &str); 7] = [
        (b"hi\n", "hi"),
        (b"\r\nWelcome to \x1b[1mhost\xe2\x80\xa6\r\nmore\n", "Welcome to \\u{1b}[1mhost\u{2026}"),
        (b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"HTTP/1.0 302 Found\r\nLocation: /\r\n\r\n", "HTTP/1.0 302 Found"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "SSH-2.0-OpenSSH_9.2p1 Debian-2"),
        (b"bash: scuttleup: command not found\n", "bash: scuttleup: command not found"),
        (
            b"Last login of the operator\x1b[31m: Monday \xc2\x9b2J\nmore\n",
            "Last login of the operator\\u{1b}[31m: Monday \\u{9b}2J",
        ),
    ];
    for (text, said) in texts {
        let printed = refused(text);
        let said = format!("it printed: {said}: stdout of the remote must carry nothing else than the protocol");
        assert!(printed.stderr.contains(&said), "{:?}", printed.stderr);
    }
}

#[test]
fn the_local_mode_decides_what_is_accepted() {
    // The mode of the remote makes no difference.
    for theirs in [SYNC, PUSH, PULL] {
        let place = Place::new();
        let (log, before) = log(&place);
        let stream = [handshake("y", &[("p", 1)], theirs), change("p", 1, "e")].concat();
        let run = Run::new(&log).args(["replicate", "--mode", "push"]).stdin(stream);
        run.stderr_has("the local mode is push").status(6);
        assert_eq!(heads(&log), before);
    }
}

#[test]
fn the_local_mode_decides_what_is_sent() {
    for (ours, number) in [("sync", SYNC), ("push", PUSH), ("pull", PULL)] {
        for theirs in [SYNC, PUSH, PULL] {
            let place = Place::new();
            let (log, _) = log(&place);
            let mut session = Session::open(&log, &["--once", "--mode", ours]);
            session.send(handshake("y", &[], theirs));
            let (frames, ended) = session.close();
            let heads: &[(&str, u64)] = if ours == "pull" { &[] } else { &[("x", 1)] };
            let mut expected = vec![Frame::handshake("x", heads, number)];
            if ours != "pull" && theirs != PUSH {
                expected.push(Frame::change("x", 1, "\"x1\""));
            }
            // The remote holds nothing. A side that asks to send is told if it cannot.
            let code = if ours != "pull" && theirs == PUSH { 6 } else { 0 };
            assert_eq!((frames, ended.status.code()), (expected, Some(code)), "{ours} with {theirs}");
        }
    }
}

#[test]
fn digests_that_name_a_feed_twice() {
    let place = Place::new();
    let (log, before) = log(&place);
    // The last digest counts.
    let printed = said(&log, handshake("y", &[("x", 1), ("x", 0)], SYNC), 0);
    assert_eq!(printed, [handshake("x", &[("x", 1)], SYNC), change("x", 1, "\"x1\"")].concat());
    let printed = said(&log, handshake("y", &[("x", 0), ("x", 1)], SYNC), 0);
    assert_eq!(printed, handshake("x", &[("x", 1)], SYNC));
    assert_eq!(heads(&log), before);
}

/// A log restored from an old copy: the remote holds more entries of the local feed than the log itself.
#[test]
fn a_remote_that_holds_more_of_the_local_feed() {
    let place = Place::new();
    let (log, before) = log(&place);
    once(&log, handshake("y", &[("x", 3)], SYNC)).stderr_has("0 of 2 received").status(3);
    assert_eq!(heads(&log), before);
    let stream = [handshake("y", &[("x", 3)], SYNC), change("x", 2, "2"), change("x", 3, "3")].concat();
    once(&log, stream).success();
    append(&log, "4\n");
    assert_eq!(heads(&log), [head("x", 4)]);
}
