//! `append --dedupe`: repeated lines are left out, also after a restart, a kill and a compaction.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Place, Run, SCUTTLEUP, append, read};

/// The entries of a log, in order.
fn entries(log: &Path) -> Vec<Value> {
    Run::new(log).args(["read"]).success().json().into_iter().map(|mut line| line["entry"].take()).collect()
}

/// A line such as journalctl(1) prints it.
fn line(n: usize) -> String {
    format!("{{\"__CURSOR\":\"s=1;i={n}\",\"MESSAGE\":\"the same\"}}\n")
}

fn lines(numbers: impl IntoIterator<Item = usize>) -> String {
    numbers.into_iter().map(line).collect()
}

/// Asserts that the log holds the lines 1 to `last`, each once and in order.
fn assert_lines(log: &Path, last: usize) {
    let expected: Vec<Value> = lines(1..=last).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(entries(log), expected);
}

fn verify(log: &Path) {
    Run::new(log).args(["-q", "verify"]).stdout("").stderr("").success();
}

#[test]
fn a_source_that_is_restarted_at_any_line_stores_each_line_once() {
    let place = Place::new();
    let log = place.log("a");
    let mut last = 0;
    for round in 0..25 {
        // The source begins with its last ten lines.
        let mut source = Run::new(&log).args(["append", "--ack", "--dedupe", "/__CURSOR"]).spawn();
        source.send(lines(last.max(9) - 8..=last));
        for _ in 0..=round % 4 {
            last += 1;
            source.send(line(last));
            assert_eq!(source.line(), format!("{{\"peer\":\"a\",\"seq\":{last}}}\n"));
        }
        match round % 3 {
            0 => source.signal(Signal::SIGKILL),
            1 => source.signal(Signal::SIGTERM),
            _ => source.close(),
        }
        source.wait();
        if round % 8 == 0 {
            Run::new(&log).args(["-q", "compact"]).success();
        }
    }
    assert_lines(&log, last);
    verify(&log);
}

#[test]
fn of_the_lines_that_an_earlier_command_has_stored_1024_count() {
    let place = Place::new();
    let log = place.log("a");
    let run = |numbers: std::ops::RangeInclusive<usize>, repeated: usize| {
        let stored = numbers.clone().count() - repeated;
        let said = format!("scuttleup: {stored} entries of this input are stored, {repeated} repeated lines were left out\n");
        let said = if repeated == 0 { String::new() } else { said };
        Run::new(&log).args(["append", "--dedupe", "/__CURSOR"]).stdin(lines(numbers)).stdout("").stderr(&said).success();
    };
    run(1..=2000, 0);
    run(977..=2010, 1024);
    assert_lines(&log, 2010);
    run(985..=985, 0);
}

#[test]
fn a_line_repeats_if_its_value_equals_one_of_the_last_values() {
    let place = Place::new();
    let cases: [(&[&str], &str, &[i32]); 7] = [
        // Spaces, escapes and the order of names do not matter, the type does.
        (
            &["--dedupe", "/id"],
            "{\"n\":1,\"id\":1}\n{\"n\":2, \"id\": 1}\n{\"n\":3,\"id\":\"1\"}\n{\"n\":4,\"id\":\"\\u0031\"}\n{\"n\":5,\"id\":1.0}\n",
            &[1, 3, 5],
        ),
        (&["--dedupe", "/id"], "{\"n\":1,\"id\":{\"a\":1,\"b\":[2]}}\n{\"n\":2,\"id\":{ \"b\":[ 2 ],\"a\":1}}\n", &[1]),
        (&["--dedupe", "/id"], "{\"n\":1,\"id\":7}\n{\"n\":2,\"id\":8}\n{\"n\":3,\"id\":7}\n", &[1, 2, 3]),
        (
            &["--dedupe", "/id", "--dedupe-window", "2"],
            "{\"n\":1,\"id\":7}\n{\"n\":2,\"id\":8}\n{\"n\":3,\"id\":7}\n{\"n\":4,\"id\":9}\n{\"n\":5,\"id\":7}\n",
            &[1, 2, 4, 5],
        ),
        (&["--dedupe", "/a~1b/0"], "{\"n\":1,\"a/b\":[null]}\n{\"n\":2,\"a/b\":[null,1]}\n", &[1]),
        (&["--dedupe", "line"], "{\"n\":1}\n {\"n\":1}\r\n{\"n\":2}\n{\"n\":1}\n", &[1, 2, 1]),
        (&["--dedupe", "", "-0"], "{\"n\":1}\0{ \"n\": 1}\0{\"n\":2}\0", &[1, 2]),
    ];
    for (nth, (options, input, expected)) in cases.into_iter().enumerate() {
        let log = place.log(&format!("log{nth}"));
        Run::new(&log).args(["-q", "append"]).args(options).stdin(input).stdout("").stderr("").success();
        let found: Vec<Value> = entries(&log).into_iter().map(|mut entry| entry["n"].take()).collect();
        assert_eq!(found, expected.iter().map(|n| json!(n)).collect::<Vec<_>>(), "{options:?} {input}");
    }
}

#[test]
fn whole_lines_of_text_and_of_bytes_repeat() {
    let place = Place::new();
    for (nth, options) in [&["--text"][..], &["--raw", "--lines"]].into_iter().enumerate() {
        let log = place.log(&format!("log{nth}"));
        let append = |options: &[&str], input: &str, said: &str| {
            Run::new(&log).args(["append", "--dedupe", "line"]).args(options).stdin(input).stdout("").stderr(said).success();
        };
        append(options, "a\na\n\n\nb\na\n", "scuttleup: 4 entries of this input are stored, 2 repeated lines were left out\n");
        // Only the last line of the earlier command counts: whole lines can be equal although they are new.
        append(options, "a\nb\n", "scuttleup: 1 entry of this input is stored, 1 repeated line was left out\n");
        let nul = [options, &["-0"]].concat();
        let nul: Vec<&str> = nul.into_iter().filter(|option| *option != "--lines").collect();
        append(&nul, "b\0b\0c", "scuttleup: 1 entry of this input is stored, 2 repeated entries were left out\n");
        let texts: Vec<Value> = Run::new(&log).args(["read", "--text"]).success().json();
        let texts: Vec<&str> = texts.iter().map(|line| line["text"].as_str().unwrap_or("")).collect();
        assert_eq!(texts, ["a", "", "b", "a", "b", "c"], "{options:?}");
    }
}

#[test]
fn a_line_without_the_value_is_stored_each_time_and_counted() {
    let place = Place::new();
    let log = place.log("a");
    let input = "{\"id\":1}\n{}\n1\n{\"id\":1}\n{}\n";
    let said = "scuttleup: 4 entries of this input are stored, 1 repeated line was left out\n\
                scuttleup: 3 lines have no value at /id: they are stored, and can be stored again\n";
    Run::new(&log).args(["append", "--dedupe", "/id"]).stdin(input).stdout("").stderr(said).success();
    let tally = "{\"stored\":1,\"skipped\":0,\"repeated\":1,\"keyless\":1,\"next\":3,\"unit\":\"line\",\"exit\":0}\n";
    Run::new(&log).args(["append", "--dedupe", "/id", "--json"]).stdin("{}\n{\"id\":1}\n").stderr(tally).success();
    assert_eq!(read(&log).lines().count(), 5);
}

#[test]
fn the_line_to_continue_with_counts_repeated_lines_and_they_get_no_acknowledgement() {
    let place = Place::new();
    let log = place.log("a");
    let input = "1\n1\n2\n2\nx\n3\n";
    let said = "scuttleup: line 5: not JSON: expected value at byte 1: use --text for lines that are not JSON; \
                2 entries of this input are stored, 2 repeated lines were left out: continue with line 5\n";
    let run = Run::new(&log).args(["append", "--ack", "--dedupe", "line"]).stdin(input).stderr(said);
    run.stdout("{\"peer\":\"a\",\"seq\":1}\n{\"peer\":\"a\",\"seq\":2}\n").status(7);
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let place = Place::new();
    let log = place.path("none");
    for (options, said) in [
        (&["--dedupe", "line", "--raw"][..], "--dedupe needs lines: with --raw, also use --lines or -0"),
        (&["--dedupe", "/id", "--text"], "--dedupe with a pointer needs JSON: with --text or --raw, use --dedupe line"),
        (&["--dedupe", "/id", "--raw", "--lines"], "use --dedupe line"),
        (&["--dedupe", "id"], "a pointer begins with /"),
        (&["--dedupe", "/a~2"], "~ stands only in ~0"),
        (&["--dedupe-window", "3"], "--dedupe"),
        (&["--dedupe", "/id", "--dedupe-window", "0"], "not a number from 1 to 500000"),
        (&["--dedupe", "/id", "--dedupe-window", "500001"], "not a number from 1 to 500000"),
    ] {
        Run::new(&log).args(["append"]).args(options).stdin("1\n").stdout("").stderr_has(said).status(2);
    }
    assert!(!log.exists());
}

#[test]
fn two_appenders_of_the_same_lines_store_each_line_once() {
    let place = Place::new();
    // With the default window, 1,024 keys of the other appender count. With a larger window, more do.
    for (window, count) in [("1", 1000), ("20000", 20000)] {
        let log = place.log(window);
        let options = ["append", "--ack", "--dedupe", "/__CURSOR", "--dedupe-window", window];
        let mut both = [0, 1].map(|_| Run::new(&log).args(options).spawn());
        let input = lines(1..=count);
        let input: Vec<&str> = input.split_inclusive('\n').collect();
        for part in input.chunks(7) {
            for appender in &mut both {
                appender.send(part.concat());
            }
        }
        for appender in both {
            assert!(appender.finish().status.success());
        }
        assert_lines(&log, count);
        verify(&log);
    }
}

#[test]
fn the_keys_are_in_the_transaction_of_their_entries() {
    let place = Place::new();
    let (log, trace) = (place.log("a"), place.path("trace"));
    let strace = ["-f", "-qq", "-o"];
    let (mut kills, mut last) = (0, 0);
    for call in ["openat", "write", "pwrite64", "pwritev", "ftruncate", "fdatasync", "fsync", "munmap", "close"] {
        for when in 1..60 {
            // Each run gets the lines of the run before again, and ten new ones.
            let input = lines(last.max(20) - 19..=last + 10);
            let inject = format!("inject={call}:signal=SIGKILL:when={when}");
            let run =
                Run::program("strace").args(strace).args([&trace]).args(["-e", &inject]).args([SCUTTLEUP, "--log"]).args([&log]);
            let ended = run.args(["-q", "append", "--dedupe", "/__CURSOR", "--dedupe-window", "3"]).stdin(input).end();
            let found = entries(&log).len();
            assert!(found == last || found == last + 10, "{call} {when}: {found}");
            last = found;
            assert_lines(&log, last);
            if ended.status.signal() != Some(9) {
                assert!(ended.status.success(), "{call} {when}: {}", ended.printed.stderr);
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 20, "only {kills} kills");
    verify(&log);
}

#[test]
fn a_failed_commit_leaves_neither_keys_nor_entries() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n");
    for (call, error) in [("fdatasync", "EIO"), ("pwrite64", "ENOSPC"), ("pwritev", "ENOSPC")] {
        let inject = format!("inject={call}:error={error}:when=1");
        let run = Run::program("strace").args(["-f", "-qq", "-o", "/dev/null", "-e", &inject, SCUTTLEUP, "--log"]).args([&log]);
        run.args(["-q", "append", "--dedupe", "line"]).stdin(format!("\"{call}\"\n")).end();
        Run::new(&log).args(["-q", "append", "--dedupe", "line"]).stdin(format!("\"{call}\"\n")).stderr("").success();
    }
    assert_eq!(entries(&log), [json!(1), json!("fdatasync"), json!("pwrite64"), json!("pwritev")]);
}

#[test]
fn the_keys_survive_compact_and_prune_and_are_not_replicated() {
    let place = Place::new();
    let (log, copy) = (place.log("a"), place.log("b"));
    let again = |log: &Path, stored: usize| {
        let run = Run::new(log).args(["append", "--json", "--dedupe", "/__CURSOR", "--dedupe-window", "5000"]);
        let tally: Value = serde_json::from_str(&run.stdin(lines(1..=3000)).success().stderr).expect("JSON");
        assert_eq!(tally["stored"], stored, "{tally}");
        verify(log);
    };
    again(&log, 3000);
    Run::new(&log).args(["-q", "compact"]).success();
    again(&log, 0);
    Run::new(&log).args(["-q", "prune", "--keep-last", "1"]).success();
    Run::new(&log).args(["-q", "compact"]).success();
    again(&log, 0);
    let other = copy.to_str().expect("UTF-8");
    Run::new(&log).args(["-q", "replicate", "--once", "--", SCUTTLEUP, "--log", other, "replicate"]).success();
    again(&copy, 3000);
    let dir = fs::read_dir(&log).expect("the log");
    assert!(dir.count() >= 4);
}
