//! Input on the native wire that is meant to crash the program, to fill its memory or to corrupt a log.

use std::fs::File;
use std::io::Write;
use std::thread;

use scuttleup::Log;

use crate::frames::{PREAMBLE, SYNC, Session, change, handshake, varint};
use crate::harness::{Place, Run, heads};
use crate::hostile::{Random, bounded, peak_kib, replicate_with};
use crate::native_frames::{self as native, HEADS, chain_of, error, feed, fork, head, hello, run, synced, typed};
use crate::native_refused::{good, line, log, opening, root, x1};

/// The bytes of a remote in a complete session, without its FIN.
fn session() -> Vec<u8> {
    let second = run(0, 2, &["g2"], chain_of("g", &["g1", "g2"]));
    [opening(), good(), second, synced()].concat()
}

#[test]
fn input_that_ends_at_every_byte() {
    let (stream, one) = (session(), opening().len() + good().len());
    let two = stream.len() - synced().len();
    for length in 0..=stream.len() {
        let place = Place::new();
        let log = log(&place);
        let args = if length % 2 == 0 { &["replicate", "--once"][..] } else { &["replicate"] };
        Run::new(&log).args(args).stdin(&stream[..length]).stderr_has("ended").status(3);
        let g = [one, two].iter().filter(|&&end| end <= length).count() as u64;
        let expected = (g > 0).then(|| line("g", g)).into_iter().chain([line("x", 1)]);
        assert_eq!(heads(&log), expected.collect::<Vec<_>>(), "{length} bytes");
    }
}

#[test]
fn huge_frame_lengths() {
    let place = Place::new();
    let log = log(&place);
    for opening in [PREAMBLE.to_vec(), opening()] {
        for (bits, code) in [(26, 3), (27, 7), (31, 7), (32, 7), (40, 7), (60, 7), (63, 7)] {
            println!("2^{bits} bytes");
            let stream = [&opening[..], &varint(1 << bits), &[4], &[b'e'; 100_000]].concat();
            assert_eq!(bounded(&log, &stream).end().status.code(), Some(code));
        }
        for endless in [[0x80; 1 << 16], [0xff; 1 << 16]] {
            bounded(&log, &[&opening[..], &endless].concat()).status(7);
        }
        // Empty frames have no meaning.
        bounded(&log, &[&opening[..], &[0; 1 << 20]].concat()).status(3);
    }
    assert_eq!(heads(&log), [line("x", 1)]);
}

/// 1 MiB of random bytes after the preamble, or after a valid opening.
#[test]
fn random_bytes_of_many_seeds() {
    let place = Place::new();
    let path = log(&place);
    let log = Log::open(&path).expect("a log");
    for seed in 0..200 {
        let mut random = Random(seed);
        let (input, mut to) = std::io::pipe().expect("a pipe");
        let opening = if seed % 2 == 0 { PREAMBLE.to_vec() } else { opening() };
        let outcome = thread::scope(|threads| {
            threads.spawn(move || {
                // The session may end before it has read everything.
                to.write_all(&opening).and_then(|()| (0..64).try_for_each(|_| to.write_all(&random.bytes(1 << 14)))).ok();
            });
            replicate_with(&log, File::from(std::os::fd::OwnedFd::from(input)), seed % 3 == 0)
        });
        match outcome {
            Ok(outcome) => assert!(!outcome.complete() && outcome.received == 0, "seed {seed}: {outcome:?}"),
            Err(err) => assert!(!err.to_string().is_empty(), "seed {seed}"),
        }
    }
    drop(log);
    assert_eq!(heads(&path), [line("x", 1)]);
}

#[test]
fn random_bytes_through_the_binary() {
    let place = Place::new();
    let log = log(&place);
    for seed in 1000..1020 {
        let opening = if seed % 2 == 0 { PREAMBLE.to_vec() } else { opening() };
        let ended = bounded(&log, &[opening, Random(seed).bytes(1 << 20)].concat()).end();
        let said = &ended.printed.stderr;
        assert!(matches!(ended.status.code(), Some(3 | 7)), "seed {seed}: {}: {said}", ended.status);
        assert!(said.starts_with("scuttleup (x): ") && said.lines().count() == 1, "seed {seed}: {said}");
        assert!(!said.trim_end().contains(char::is_control), "seed {seed}: {said:?}");
    }
    assert_eq!(heads(&log), [line("x", 1)]);
}

/// A valid session with some flipped bits: with any outcome, the stored entries of g are those that were sent, because the
/// chain is checked. The flipped bits may create other feeds.
#[test]
fn sessions_with_flipped_bits() {
    let stream = session();
    let place = Place::new();
    for seed in 0..500 {
        let mut random = Random(seed);
        let mut turned = stream.clone();
        for _ in 0..=random.below(3) {
            let at = PREAMBLE.len() + random.below(turned.len() - PREAMBLE.len());
            turned[at] ^= 1 << random.below(8);
        }
        let path = place.path(&format!("log{seed}"));
        let log = Log::create(&path, None).expect("a log");
        replicate_with(&log, File::open(place.file("stream", &turned)).expect("a file"), true).ok();
        for seq in 1..=log.heads().expect("heads").get("g") {
            let chain = log.reader().chain_at("g", seq).expect("a chain").expect("a known seq");
            assert_eq!(chain.0, chain_of("g", &["g1", "g2"][..seq as usize]), "seed {seed}");
        }
    }
}

/// Decoded heads take more memory than their bytes on the wire.
#[test]
fn a_frame_of_a_million_heads() {
    let place = Place::new();
    let log = log(&place);
    let stream = [PREAMBLE, &hello("y", SYNC, false, 7), &typed(HEADS, head("p", 0, 1).repeat(1_000_000))].concat();
    bounded(&log, &stream).stderr_has("a frame of more than 1024 heads").status(7);
    assert_eq!(heads(&log), [line("x", 1)]);
}

#[test]
fn more_feed_names_than_the_limit() {
    let place = Place::new();
    let log = log(&place);
    let feeds: Vec<u8> = (0..200_000).flat_map(|handle| feed(handle, &format!("{handle:0255}"))).collect();
    bounded(&log, &[opening(), feeds].concat()).stderr_has("more feeds than one session has room for").status(7);
    assert_eq!(heads(&log), [line("x", 1)]);
}

#[test]
fn heads_of_a_million_feeds() {
    let place = Place::new();
    let log = log(&place);
    let mut session = Session::open(&log, &[]);
    session.send([PREAMBLE, &hello("y", SYNC, true, 7)].concat());
    for first in (0..1_000_000).step_by(250) {
        let rows: Vec<u8> = (first..first + 250).flat_map(|n| head(&format!("p{n}"), 5, 1)).collect();
        session.send(typed(HEADS, rows));
    }
    session.send(native::heads(&[], true));
    let x = run(0, 1, &["\"x1\""], x1());
    let said = [PREAMBLE, &hello("x", SYNC, true, root()), &native::heads(&[("x", 1, x1())], true)].concat();
    assert_eq!(session.bytes(said.len()), said);
    session.skip_heartbeats();
    // It has read all heads: it sends the entry that the heads lack.
    let said = [feed(0, "x"), x].concat();
    assert_eq!(session.bytes(said.len()), said);
    let peak = peak_kib(&session);
    assert_eq!(session.end().1.status.code(), Some(3));
    assert!(peak <= 64 << 10, "{peak} KiB");
}

#[test]
fn more_than_10_000_stopped_feeds_end_the_session() {
    let said = |count: usize| {
        let feeds = (0..count).map(|n| format!("p{n}"));
        let lines: String = feeds.clone().map(|feed| format!("{{\"peer\":\"{feed}\",\"seq\":1,\"entry\":1}}\n")).collect();
        let rows: Vec<Vec<u8>> = feeds.clone().map(|feed| head(&feed, 1, 7)).collect();
        let native: Vec<u8> = rows.chunks(1000).flat_map(|rows| typed(HEADS, rows.concat())).collect();
        // On the original wire a gap stops each feed.
        let changes: Vec<u8> = feeds.flat_map(|feed| change(format!("g{feed}"), 2, "1")).collect();
        (
            lines,
            [PREAMBLE, &hello("y", SYNC, true, 7), &native, &native::heads(&[], true)].concat(),
            [handshake("y", &[], SYNC), changes].concat(),
        )
    };
    for (count, codes) in [(10_000, [4, 3]), (10_001, [7, 7])] {
        let place = Place::new();
        let log = log(&place);
        let (lines, native, original) = said(count);
        Run::new(&log).args(["write"]).stdin(lines).success();
        for (stream, code) in [native, original].iter().zip(codes) {
            let ended = Run::new(&log).args(["replicate", "--mode", "pull"]).stdin(stream).end();
            assert_eq!(ended.status.code(), Some(code), "{count}: {:?}", ended.printed.stderr.lines().last());
            assert_eq!(ended.printed.stderr.contains("more than 10000 feeds have "), code == 7);
        }
    }
}

/// The answer to each FORK is longer than the FORK.
#[test]
fn forks_with_unread_answers() {
    let place = Place::new();
    let log = log(&place);
    let lines: String = (2..=20).map(|n| format!("{n}\n")).collect();
    crate::replicate::append(&log, &lines);
    let mut session = Session::open(&log, &[]);
    session.send([PREAMBLE, &hello("y", SYNC, true, 7), &native::heads(&[], true)].concat());
    session.send_some(fork("x", &[(20, 1)]).repeat(100_000));
    let ended = session.wait();
    assert_eq!(ended.status.code(), Some(7), "{}", ended.printed.stderr);
    assert!(
        ended.printed.stderr.contains("the remote asks about forks and does not read the answers"),
        "{}",
        ended.printed.stderr
    );
}

/// A fork that is found before all heads have arrived: no entries of the feed are expected any more.
#[test]
fn a_fork_in_the_middle_of_the_heads() {
    let place = Place::new();
    let log = log(&place);
    let mut session = Session::open(&log, &["--json"]);
    let heads_of_x = native::heads(&[("x", 3, 1)], false);
    session.send([PREAMBLE, &hello("y", SYNC, false, 7), &heads_of_x, &fork("x", &[(1, 1)])].concat());
    // The answer shows that the feed is stopped.
    let said = [PREAMBLE, &hello("x", SYNC, true, root()), &native::heads(&[("x", 1, x1())], true), &fork("x", &[(1, x1())])];
    session.bytes(said.concat().len());
    session.send([native::heads(&[], true), error("enough")].concat());
    let (_, ended) = session.end();
    assert_eq!(ended.status.code(), Some(4), "{}", ended.printed.stderr);
    assert!(ended.printed.stderr.contains("\"missing\":0,\"forks\":1,"), "{}", ended.printed.stderr);
}
