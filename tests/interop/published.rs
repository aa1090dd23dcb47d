//! The original as published. On current versions of Node its one-shot session ends too early. These tests do not expect
//! a certain number of entries to arrive; they check that `replicate` reports the true number.

use std::ffi::OsStr;
use std::path::Path;

use super::super::harness::{Place, Run};
use super::tap::Tap;
use super::{Original, assert_same, entries, lines, log_of, script, sync, sync_in_modes};

/// The numbers of sent and received entries that `replicate` reports.
fn reported_counts(said: &str) -> (usize, usize) {
    let number = |text: &str| {
        let rest = said.split_once(text).unwrap_or_else(|| panic!("no {text:?} in {said}")).1;
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number")
    };
    if said.contains("synced with") {
        (number("sent "), number("received "))
    } else {
        (number("the remote ended early: "), number(" sent to theirs, "))
    }
}

/// A log with many large entries: far more than fits into the pipes and buffers of a session.
fn large_log(place: &Place) -> std::path::PathBuf {
    let log = place.log("ours");
    let line = "x".repeat(LARGE_BYTES);
    Run::new(&log).args(["append", "--text"]).stdin(format!("{line}\n").repeat(LARGE_COUNT)).success();
    log
}

const LARGE_COUNT: usize = 2_000;
const LARGE_BYTES: usize = 16 << 10;
/// The capacity of a pipe.
const PIPE_BYTES: usize = 64 << 10;

#[test]
fn the_reported_received_count_is_exact() {
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
    assert_eq!(reported_counts(said).1, tap.changes.len(), "{said}");
    assert_eq!(entries(&ours).len(), 10 + tap.changes.len());
    // The handshake of the original announced all entries.
    let complete = tap.changes.len() == COUNT && !said.contains("ended early");
    assert_eq!(ended.status.code(), Some(if complete { 0 } else { 3 }), "{said}");
    assert_eq!(said.contains("synced with theirs"), complete, "{said}");
}

/// The original sends its only entry and closes both directions while `replicate` still sends.
#[test]
fn the_original_ends_early() {
    let place = Place::new();
    let (ours, theirs) = (large_log(&place), Original::new(&place, "theirs").as_published());
    theirs.append("one\n");
    let said = sync(&ours, &theirs).stderr_has(&format!(" of {LARGE_COUNT} sent to theirs")).status(3).stderr;
    assert!(reported_counts(&said).0 < LARGE_COUNT, "{said}");
    assert!(!said.contains("synced"), "{said}");
    assert_eq!(theirs_in(&ours), 1, "the entry of the original is not stored");
    let arrived = theirs.entries().len() - 1;
    assert!(arrived < LARGE_COUNT);
    // With --mode push the original sends nothing, and then it stays until the end.
    sync_in_modes(&ours, "push", &theirs, "sync").stderr_has("pushed to theirs").success();
    assert_same(&ours, &theirs, LARGE_COUNT + 1);
    sync(&ours, &theirs).stderr_has("sent 0, received 0").success();
}

/// Entries that are reported as sent were written to the pipe: the original has read them, except for the content of the
/// pipe.
#[test]
fn the_reported_sent_count_is_not_too_high() {
    let place = Place::new();
    let (ours, theirs) = (large_log(&place), Original::new(&place, "theirs").as_published());
    theirs.append("one\n");
    let tap = place.path("tap");
    let replicate = [OsStr::new("replicate"), OsStr::new("--tap"), tap.as_os_str()];
    let printed = Run::new(&ours).args(["replicate", "--once", "--"]).args(theirs.command(replicate)).status(3);
    let (sent, _) = reported_counts(&printed.stderr);
    let read = Tap::read(&tap.with_extension("read")).changes.len();
    assert!(sent <= read + PIPE_BYTES / LARGE_BYTES, "{sent} sent, {read} read: {}", printed.stderr);
    assert!(sent < LARGE_COUNT);
}

/// After an early end, a pull still receives all entries of the original.
#[test]
fn a_pull_after_an_early_end_is_complete() {
    let place = Place::new();
    let (ours, theirs) = (large_log(&place), Original::new(&place, "theirs").as_published());
    theirs.append("1\n");
    sync(&ours, &theirs).status(3);
    theirs.append("2\n3\n");
    sync_in_modes(&ours, "pull", &theirs, "sync").stderr_has("pulled from theirs: received 2\n").success();
    assert_eq!(theirs_in(&ours), 3);
}

fn theirs_in(log: &Path) -> usize {
    entries(log).iter().filter(|entry| entry.0 == "theirs").count()
}
