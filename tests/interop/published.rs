//! The original exactly as it is published. On today's Node its one-shot side ends too early, so nothing here counts on
//! what arrives: only on that we say what arrived.

use std::ffi::OsStr;
use std::path::Path;

use super::super::harness::{Place, Run};
use super::tap::Tap;
use super::{Original, assert_same, entries, lines, log_of, script, sync, sync_in_modes};

/// How many entries our side says that it sent and received.
fn claims(said: &str) -> (usize, usize) {
    let number = |text: &str| {
        let rest = said.split_once(text).unwrap_or_else(|| panic!("no {text:?} in {said}")).1;
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number")
    };
    if said.contains("synced with") {
        (number("sent "), number("received "))
    } else {
        (number("the other side ended early: "), number(" sent to theirs, "))
    }
}

/// Many large entries: far more than pipes and buffers between the two can hold.
fn large_log(place: &Place) -> std::path::PathBuf {
    let log = place.log("ours");
    let line = "x".repeat(LARGE_BYTES);
    Run::new(&log).args(["append", "--text"]).stdin(format!("{line}\n").repeat(LARGE_COUNT)).success();
    log
}

const LARGE_COUNT: usize = 2_000;
const LARGE_BYTES: usize = 16 << 10;
/// What fits into a pipe.
const PIPE_BYTES: usize = 64 << 10;

#[test]
fn we_claim_what_came() {
    const COUNT: usize = 10_000;
    let place = Place::new();
    let (ours, theirs) = (log_of(&place, "ours", lines("ours", 10)), Original::new(&place, "theirs").as_published());
    theirs.append(lines("theirs", COUNT));
    let tap = place.path("tap");
    let line = "tap=$1; shift; \"$@\" | tee \"$tap\"";
    let command = script(line, &[&tap]).into_iter().chain(theirs.command(["replicate"]));
    let mut session = Run::new(&ours).args(["replicate", "--once", "--"]).args(command).spawn();
    let ended = session.wait();
    let (said, tap) = (&ended.printed.stderr, Tap::read(&tap));
    tap.assert_only("theirs", tap.changes.len() as u64);
    assert_eq!(claims(said).1, tap.changes.len(), "{said}");
    assert_eq!(entries(&ours).len(), 10 + tap.changes.len());
    // It announced them all.
    let complete = tap.changes.len() == COUNT && !said.contains("ended early");
    assert_eq!(ended.status.code(), Some(if complete { 0 } else { 3 }), "{said}");
    assert_eq!(said.contains("synced with theirs"), complete, "{said}");
}

/// It has one entry, sends it, and closes both halves while we are in the middle of ours.
#[test]
fn it_ends_early() {
    let place = Place::new();
    let (ours, theirs) = (large_log(&place), Original::new(&place, "theirs").as_published());
    theirs.append("one\n");
    let said = sync(&ours, &theirs).stderr_has(&format!(" of {LARGE_COUNT} sent to theirs")).status(3).stderr;
    assert!(claims(&said).0 < LARGE_COUNT, "{said}");
    assert!(!said.contains("synced"), "{said}");
    assert_eq!(theirs_in(&ours), 1, "what it sent is stored");
    let arrived = theirs.entries().len() - 1;
    assert!(arrived < LARGE_COUNT);
    // Where we push it sends nothing, and so it stays to the end.
    sync_in_modes(&ours, "push", &theirs, "sync").stderr_has("synced with theirs").success();
    assert_same(&ours, &theirs, LARGE_COUNT + 1);
    sync(&ours, &theirs).stderr_has("sent 0, received 0").success();
}

/// What we say we sent has left us: all of it but what still lies in the pipe was read.
#[test]
fn we_claim_what_left() {
    let place = Place::new();
    let (ours, theirs) = (large_log(&place), Original::new(&place, "theirs").as_published());
    theirs.append("one\n");
    let tap = place.path("tap");
    let replicate = [OsStr::new("replicate"), OsStr::new("--tap"), tap.as_os_str()];
    let printed = Run::new(&ours).args(["replicate", "--once", "--"]).args(theirs.command(replicate)).status(3);
    let (sent, _) = claims(&printed.stderr);
    let read = Tap::read(&tap.with_extension("read")).changes.len();
    assert!(sent <= read + PIPE_BYTES / LARGE_BYTES, "{sent} sent, {read} read: {}", printed.stderr);
    assert!(sent < LARGE_COUNT);
}

/// After such an end a pull still brings all of its entries.
#[test]
fn a_pull_completes() {
    let place = Place::new();
    let (ours, theirs) = (large_log(&place), Original::new(&place, "theirs").as_published());
    theirs.append("1\n");
    sync(&ours, &theirs).status(3);
    theirs.append("2\n3\n");
    sync_in_modes(&ours, "pull", &theirs, "sync").stderr_has("sent 0, received 2").success();
    assert_eq!(theirs_in(&ours), 3);
}

fn theirs_in(log: &Path) -> usize {
    entries(log).iter().filter(|entry| entry.0 == "theirs").count()
}
