//! `read --cursor` and `cursor`: named positions, what moves them, and who may.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Place, Run, append, read, shell};

/// A log with the id a and so many entries.
fn filled(place: &Place, count: u32) -> PathBuf {
    let log = place.log("a");
    append(&log, (1..=count).map(|n| format!("{n}\n")).collect::<String>());
    log
}

/// `read --cursor c --no-entry OPTIONS`
fn read_on(log: &Path, options: &[&str]) -> Run {
    Run::new(log).args(["read", "--cursor", "c", "--no-entry"]).args(options)
}

fn lines(offsets: std::ops::RangeInclusive<u32>) -> String {
    offsets.map(|n| format!("{{\"offset\":{n},\"peer\":\"a\",\"seq\":{n}}}\n")).collect()
}

/// The only cursor of a log, as `cursor list` prints it.
fn cursor(log: &Path) -> Value {
    let mut cursors = Run::new(log).args(["cursor", "list"]).success().json();
    assert_eq!(cursors.len(), 1, "{cursors:?}");
    cursors.remove(0)
}

#[test]
fn read_goes_on_behind_the_lines_that_were_written() {
    let place = Place::new();
    let log = filled(&place, 5);
    read_on(&log, &["-n", "3"]).stdout(lines(3..=5)).stderr("").success();
    read_on(&log, &[]).stdout("").stderr("").success();
    append(&log, "6\n7\n8\n");
    read_on(&log, &["--limit", "2"]).stdout(lines(6..=7)).success();
    let said = "scuttleup: the cursor c exists and is at offset 7: --after cannot move it\n";
    read_on(&log, &["--after", "1"]).stdout(lines(8..=8)).stderr(said).success();
    Run::new(&log).args(["cursor", "set", "c", "0"]).success();
    assert_eq!(Run::new(&log).args(["read", "--cursor", "c"]).success().text(), read(&log));
    read_on(&log, &["--reverse"]).stdout("").status(2);
}

#[test]
fn entries_that_are_not_selected_count_as_read() {
    let place = Place::new();
    let log = filled(&place, 3);
    Run::new(&log).args(["write"]).stdin("{\"peer\":\"b\",\"seq\":1,\"entry\":1}\n").success();
    append(&log, "4\n");
    read_on(&log, &["--peer", "b"]).stdout("{\"offset\":4,\"peer\":\"b\",\"seq\":1}\n").success();
    assert_eq!(cursor(&log)["offset"], 5);
}

#[test]
fn a_live_reader_moves_the_cursor_and_a_signal_loses_nothing() {
    let place = Place::new();
    let log = filled(&place, 2);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        Run::new(&log).args(["cursor", "set", "c", "1"]).success();
        let mut live = read_on(&log, &["--live"]).spawn();
        assert_eq!(live.line(), lines(2..=2));
        append(&log, "3\n");
        let new = live.line();
        let last = cursor(&log)["offset"].as_u64().expect("an offset") as u32;
        live.signal(signal);
        let ended = live.wait();
        if signal == Signal::SIGKILL {
            // Lines that were written may come again.
            assert!(cursor(&log)["offset"].as_u64() >= Some(u64::from(last)));
        } else {
            assert_eq!(ended.status.code(), Some(128 + signal as i32));
            read_on(&log, &[]).stdout("").success();
        }
        assert!(new.starts_with("{\"offset\":"), "{new}");
    }
}

#[test]
fn an_idle_reader_has_stored_its_position() {
    let place = Place::new();
    let log = filled(&place, 3);
    let mut live = read_on(&log, &["--live"]).spawn();
    assert_eq!(live.line() + &live.line() + &live.line(), lines(1..=3));
    crate::exec::until(|| cursor(&log)["offset"] == 3);
    assert_eq!(cursor(&log)["pid"], live.pid());
    live.signal(Signal::SIGKILL);
    live.wait();
    read_on(&log, &[]).stdout("").success();
}

/// A line that was written in part comes again.
#[test]
fn a_reader_that_closes_stdout_gets_the_rest_later() {
    let place = Place::new();
    let log = filled(&place, 60_000);
    // The pipe takes more than head prints. All lines that were written count.
    let run = shell("$scuttleup --log \"$LOG\" read --cursor c | head -n 1 > /dev/null").env("LOG", &log);
    run.end();
    let offset = cursor(&log)["offset"].as_u64().expect("an offset") as u32;
    assert!((1..60_000).contains(&offset), "{offset}");
    let rest = read_on(&log, &[]).success();
    assert_eq!(rest.text().lines().next().map(str::to_owned), lines(offset + 1..=offset + 1).lines().next().map(str::to_owned));
    assert_eq!(rest.lines().len(), 60_000 - offset as usize);
    // An idle reader notices it, too.
    let (from_reader, stdout) = std::io::pipe().expect("a pipe");
    let mut live = read_on(&log, &["--live"]).spawn_on(Stdio::null(), stdout.into());
    drop(from_reader);
    assert_eq!(live.wait().status.code(), Some(0));
}

#[test]
fn a_signal_while_stdout_is_full_counts_what_was_written() {
    let place = Place::new();
    let log = filled(&place, 60_000);
    let (mut from_reader, stdout) = std::io::pipe().expect("a pipe");
    let mut full = read_on(&log, &[]).spawn_on(Stdio::null(), stdout.into());
    // It has filled the pipe, and waits in poll(2).
    let waits = || std::fs::read_to_string(format!("/proc/{}/wchan", full.pid())).is_ok_and(|place| place.contains("poll"));
    crate::exec::until(waits);
    full.signal(Signal::SIGTERM);
    assert_eq!(full.wait().status.code(), Some(143));
    let mut written = String::new();
    std::io::Read::read_to_string(&mut from_reader, &mut written).expect("the lines");
    let whole = written.matches('\n').count();
    assert_eq!(cursor(&log)["offset"], whole);
    assert!(read_on(&log, &[]).success().text().starts_with(&lines(whole as u32 + 1..=whole as u32 + 1)));
}

#[test]
fn a_full_stdout_counts_what_was_written() {
    let place = Place::new();
    let log = filled(&place, 3);
    shell("$scuttleup --log \"$LOG\" read --cursor c > /dev/full")
        .env("LOG", &log)
        .stderr_has("cannot write to stdout")
        .status(5);
    assert_eq!(cursor(&log)["offset"], 0);
}

#[test]
fn a_cursor_that_is_read_has_one_consumer() {
    let place = Place::new();
    let log = filled(&place, 1);
    let mut first = read_on(&log, &["--live"]).spawn();
    first.line();
    let said = format!("scuttleup: the cursor c is in use by the process {}: wait until it ends, or end it\n", first.pid());
    read_on(&log, &[]).stdout("").stderr(&said).status(6);
    Run::new(&log).args(["exec", "--cursor", "c", "--", "true"]).stderr(&said).status(6);
    Run::new(&log).args(["cursor", "set", "c", "0"]).stderr(&said).status(6);
    // A reader without a cursor is free.
    assert_eq!(read(&log).lines().count(), 1);
}

#[test]
fn a_pruned_log_gives_its_floors_and_goes_on_behind_them() {
    let place = Place::new();
    let log = filled(&place, 10);
    read_on(&log, &["--limit", "2"]).stdout(lines(1..=2)).success();
    Run::new(&log).args(["-q", "prune", "--keep-last", "3", "--force"]).success();
    let printed = read_on(&log, &[])
        .stderr("scuttleup: 5 entries were pruned before they were read: continuing after offset 7\n")
        .success();
    let (floor, rest) = printed.text().split_once('\n').expect("lines");
    assert!(floor.starts_with("{\"peer\":\"a\",\"seq\":7,\"floor\":true,"), "{floor}");
    assert_eq!(rest, lines(8..=10));
    // The lines are a copy.
    let other = place.path("copy");
    Run::new(&log).args(["read", "--cursor", "copy"]).success();
    Run::new(&log).args(["cursor", "rm", "copy"]).success();
    let printed = Run::new(&log).args(["read", "--cursor", "copy"]).success();
    Run::new(&other).args(["-q", "write"]).stdin(printed.stdout).success();
    crate::harness::assert_equal(&log, &other);
}

#[test]
fn only_list_has_the_option_json() {
    let place = Place::new();
    let log = filled(&place, 1);
    Run::new(&log).args(["cursor", "list", "--json"]).stdout("").success();
    for args in [&["--json", "list"][..], &["set", "c", "1", "--json"], &["rm", "c", "--json"]] {
        Run::new(&log).args(["cursor"]).args(args).stdout("").stderr_has("unexpected argument '--json'").status(2);
    }
    Run::new(&log).args(["cursor", "list"]).stdout("").success();
}

#[test]
fn watch_starts_after_a_cursor_and_moves_it() {
    let place = Place::new();
    let log = filled(&place, 20);
    let watch = || Run::new(&log).args(["watch", "--no-entry", "--cursor", "w"]).spawn();
    let mut watching = watch();
    let existing: String = (0..20).map(|_| watching.line()).collect();
    assert_eq!(existing, lines(1..=20));
    watching.signal(Signal::SIGTERM);
    assert_eq!(watching.wait().status.code(), Some(143));
    append(&log, "21\n");
    let mut watching = watch();
    assert_eq!(watching.line(), lines(21..=21));
    watching.signal(Signal::SIGTERM);
    watching.wait();
}

#[test]
fn list_shows_the_lag_in_entries_and_in_time() {
    let place = Place::new();
    let log = filled(&place, 2);
    Run::new(&log).args(["cursor", "set", "c", "1"]).success();
    let state = cursor(&log);
    let seconds = |field: &str| state[field].as_u64().expect("seconds");
    assert_eq!((&state["offset"], &state["unread"]), (&1.into(), &1.into()));
    assert!(seconds("lag_seconds") < 60 && seconds("moved_seconds") < 60, "{state}");
    Run::new(&log).args(["cursor", "set", "c", "2"]).success();
    assert_eq!(cursor(&log)["lag_seconds"], 0);
}
