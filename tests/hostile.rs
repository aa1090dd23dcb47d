//! Input on the original wire that is meant to crash the program, to fill its memory or to corrupt a log.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;

use scuttleup::{Log, Options, replicate};

use crate::frames::{Frame, SYNC, Session, bytes_field, change, digest, frame, handshake, number_field, varint};
use crate::harness::{Place, Run, heads, shell};
use crate::replicate::append;

/// Pseudo-random numbers, the same in every run (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.number().to_le_bytes()).take(count).collect()
    }
}

/// A log with one entry, and its heads.
fn log(place: &Place) -> (PathBuf, Vec<String>) {
    let log = place.log("x");
    append(&log, "\"x1\"\n");
    let heads = heads(&log);
    (log, heads)
}

/// `replicate` with the memory limit of a command: 64 MiB of writable memory, without mapped files.
pub fn bounded(log: &Path, stream: &[u8]) -> Run {
    shell("ulimit -d 65536; exec \"$scuttleup\" --log \"$log\" replicate").env("log", log).stdin(stream)
}

#[test]
fn huge_frame_lengths() {
    let place = Place::new();
    let (log, before) = log(&place);
    let start = handshake("y", &[("p", 1)], SYNC);
    for bits in [26, 31, 32, 40, 60, 63] {
        for length in [(1 << bits) - 1, 1 << bits] {
            println!("{length} bytes");
            let body =
                [bytes_field(1, "p"), number_field(2, 1), varint(3 << 3 | 2), varint(length - 20), vec![b'e'; 100_000]].concat();
            // A handshake of a valid length that ends early is a cut session.
            let code = if bits <= 32 { 3 } else { 7 };
            bounded(&log, &[varint(length), bytes_field(1, "y")].concat()).status(code);
            let ended = bounded(&log, &[start.clone(), varint(length), body].concat()).end();
            // A frame over the limit is refused at its length, before its content arrives.
            let code = if bits > 26 { 7 } else { 3 };
            assert_eq!(ended.status.code(), Some(code), "{}", ended.printed.stderr);
            assert_eq!(heads(&log), before);
        }
    }
    // An id or a digest of impossible length in a handshake.
    for field in [1, 2] {
        let stream = [varint(200 << 20), varint(field << 3 | 2), varint(100 << 20), vec![0; 100_000]].concat();
        bounded(&log, &stream).stderr_has("a peer id that is too long").status(7);
    }
    for endless in [&[0x80; 1 << 20][..], &[0xff; 1 << 20]] {
        bounded(&log, endless).status(7);
        bounded(&log, &[&start, endless].concat()).status(7);
    }
    // Empty frames are allowed in any number: they have no meaning.
    bounded(&log, &[&[0; 1 << 20][..], &handshake("y", &[], SYNC), &[0; 1 << 20]].concat()).success();
    assert_eq!(heads(&log), before);
}

/// A session in the process of the test, which is fast enough for many sessions.
pub fn replicate_with(log: &Log, input: File, once: bool) -> scuttleup::Result<scuttleup::Outcome> {
    let null = File::options().write(true).open("/dev/null").expect("/dev/null");
    replicate(log, input, null, Options { once, ..Options::default() }, &|_| ())
}

/// 1 MiB of random bytes, at the start or after a valid handshake.
#[test]
fn random_bytes_of_a_thousand_seeds() {
    let place = Place::new();
    let (path, before) = log(&place);
    let log = Log::open(&path).expect("a log");
    for seed in 0..1000 {
        let mut random = Random(seed);
        let (input, mut to) = std::io::pipe().expect("a pipe");
        let opening = if seed % 2 == 0 { Vec::new() } else { handshake("y", &[("p", 9)], SYNC) };
        let outcome = thread::scope(|threads| {
            threads.spawn(move || {
                // The session may end before it has read everything.
                to.write_all(&opening).and_then(|()| (0..64).try_for_each(|_| to.write_all(&random.bytes(1 << 14)))).ok();
            });
            replicate_with(&log, File::from(std::os::fd::OwnedFd::from(input)), false)
        });
        match outcome {
            Ok(outcome) => assert!(!outcome.complete() && outcome.received == 0, "seed {seed}: {outcome:?}"),
            Err(err) => assert!(!err.to_string().is_empty(), "seed {seed}"),
        }
    }
    drop(log);
    assert_eq!(heads(&path), before);
}

#[test]
fn random_bytes_through_the_binary() {
    let place = Place::new();
    let (log, before) = log(&place);
    for seed in 1000..1020 {
        let opening = if seed % 2 == 0 { Vec::new() } else { handshake("y", &[("p", 9)], SYNC) };
        let ended = bounded(&log, &[opening, Random(seed).bytes(1 << 20)].concat()).end();
        let said = &ended.printed.stderr;
        assert!(matches!(ended.status.code(), Some(3 | 7)), "seed {seed}: {}: {said}", ended.status);
        assert!(said.starts_with("scuttleup (x): ") && said.lines().count() == 1, "seed {seed}: {said}");
        assert!(!said.trim_end().contains(char::is_control), "seed {seed}: {said:?}");
    }
    assert_eq!(heads(&log), before);
}

/// A valid stream with some flipped bits: with any outcome, every feed stays without gaps.
#[test]
fn streams_with_flipped_bits() {
    let place = Place::new();
    let path = place.log("x");
    let log = Log::open(&path).expect("a log");
    let feeds = ["p", "q", "x"];
    let changes = (1..=20).flat_map(|seq| feeds.map(|peer| change(peer, seq, format!("{peer}{seq}"))));
    let stream = [handshake("y", &feeds.map(|peer| (peer, 20)), SYNC), changes.flatten().collect()].concat();
    for seed in 0..1000 {
        let mut random = Random(seed);
        let mut turned = stream.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(turned.len());
            turned[at] ^= 1 << random.below(8);
        }
        let file = place.file("stream", &turned);
        replicate_with(&log, File::open(file).expect("a file"), true).ok();
    }
    drop(log);
    let mut feeds = HashMap::new();
    for line in Run::new(&path).args(["read", "--no-entry"]).success().json() {
        let head = feeds.entry(line["peer"].to_string()).or_insert(0);
        *head += 1;
        assert_eq!(line["seq"], *head, "{line}");
    }
    assert!(feeds.len() >= 3, "{feeds:?}");
}

/// The peak memory of a session so far, in KiB.
pub fn peak_kib(session: &Session) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", session.run().pid())).expect("the process is running");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a VmHWM line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A session reads a million digests, answers, and uses at most 64 MiB.
fn a_million_digests(name: impl Fn(usize) -> String) {
    let place = Place::new();
    let (log, before) = log(&place);
    let digests: Vec<u8> = (0..1_000_000).flat_map(|n| digest(name(n), 5)).collect();
    let mut session = Session::open(&log, &[]);
    session.send(frame([bytes_field(1, "y"), digests].concat()));
    assert_eq!(session.frame(), Some(Frame::handshake("x", &[("x", 1)], SYNC)));
    // It has read all digests: it sends the entry that the digests lack.
    assert_eq!(session.frame(), Some(Frame::change("x", 1, "\"x1\"")));
    let peak = peak_kib(&session);
    assert_eq!(session.close().1.status.code(), Some(3));
    assert_eq!(heads(&log), before);
    assert!(peak <= 64 << 10, "{peak} KiB");
}

#[test]
fn digests_of_a_million_feeds() {
    a_million_digests(|n| format!("p{n}"));
}

#[test]
fn a_million_digests_of_one_feed() {
    a_million_digests(|_| "p".into());
}

/// One digest more than the limit is refused.
#[test]
fn more_digests_than_the_limit() {
    let place = Place::new();
    let (log, before) = log(&place);
    let digests = digest("p", 5).repeat((1 << 21) + 1);
    let run = bounded(&log, &frame([bytes_field(1, "y"), digests].concat()));
    run.stderr_has("the remote names more than 2097152 feeds").status(7);
    assert_eq!(heads(&log), before);
}
