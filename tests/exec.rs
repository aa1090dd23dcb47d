//! `exec`: batches for a program. Whatever is killed, no entry is missing, and only whole batches with the same id are repeated.

use std::collections::BTreeMap;
use std::fs::{self, read_to_string};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scuttleup::{Log, Offset};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::harness::{Ended, Place, Run, Running, SCUTTLEUP, STEP, append, heads, read, shell};

pub const CONSUMER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/exec/consumer.py");
/// Prints what a program sees.
const SHOW: &str = "echo \"$SCUTTLEUP_BATCH $SCUTTLEUP_ATTEMPT $SCUTTLEUP_CURSOR $(wc -l)\"";

fn numbers(range: std::ops::RangeInclusive<u32>) -> String {
    range.map(|n| format!("{n}\n")).collect()
}

/// A log with the id a and so many entries.
fn filled(place: &Place, count: u32) -> PathBuf {
    let log = place.log("a");
    append(&log, numbers(1..=count));
    log
}

/// `exec --cursor c OPTIONS -- sh -c SCRIPT`
fn exec(log: &Path, options: &[&str], script: &str) -> Run {
    Run::new(log).args(["exec", "--cursor", "c"]).args(options).args(["--", "sh", "-c", script])
}

/// The only cursor of a log, as `cursor list` prints it.
fn cursor(log: &Path) -> Value {
    let mut cursors = Run::new(log).args(["cursor", "list"]).success().json();
    assert_eq!(cursors.len(), 1, "{cursors:?}");
    cursors.remove(0)
}

/// Looks again until this is true: for what has no event that a test could wait for.
pub fn until(is_true: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < STEP, "this takes too long");
    }
}

/// Waits until a process, which may be a child of this one, has ended.
fn until_ended(process: &str) {
    until(|| fs::read_link(format!("/proc/{process}/exe")).is_err());
}

#[test]
fn each_batch_goes_to_one_run_of_the_program() {
    let place = Place::new();
    let log = filled(&place, 2500);
    exec(&log, &[], SHOW).stdout("a:1-1000 1 c 1000\na:1001-2000 1 c 1000\na:2001-2500 1 c 500\n").stderr("").success();
    exec(&log, &[], SHOW).stdout("").stderr("").success();
    append(&log, numbers(1..=5));
    exec(&log, &["--batch", "3"], SHOW).stdout("a:2501-2503 1 c 3\na:2504-2505 1 c 2\n").success();
    let state = cursor(&log);
    assert_eq!((&state["offset"], &state["unread"], &state["lag_seconds"]), (&2505.into(), &0.into(), &0.into()));
    assert!(state["batch"].is_null() && state["pid"].is_null(), "{state}");
    // The lines are those of `read`.
    Run::new(&log).args(["cursor", "set", "c", "0"]).success();
    assert_eq!(exec(&log, &["--batch", "700"], "cat").success().text(), read(&log));
    Run::new(&log).args(["cursor", "set", "c", "2504"]).success();
    exec(&log, &["--no-entry"], "cat").stdout("{\"offset\":2505,\"peer\":\"a\",\"seq\":2505}\n").success();
    Run::new(&log).args(["verify"]).success();
}

#[test]
fn a_batch_ends_with_the_line_that_brings_it_to_16_mib() {
    let place = Place::new();
    let log = place.log("a");
    let entry = format!("\"{}\"\n", "x".repeat(9 << 20));
    append(&log, entry.repeat(3));
    exec(&log, &[], SHOW).stdout("a:1-2 1 c 2\na:3-3 1 c 1\n").success();
}

#[test]
fn a_new_cursor_starts_where_the_options_say_and_an_existing_one_does_not_move() {
    let place = Place::new();
    let log = filled(&place, 10);
    let start = |name: &str, options: &[&str]| {
        Run::new(&log).args(["exec", "--cursor", name]).args(options).args(["--", "sh", "-c", SHOW]).stderr("")
    };
    start("after", &["--after", "7"]).stdout("a:8-10 1 after 3\n").success();
    start("last", &["-n", "2"]).stdout("a:9-10 1 last 2\n").success();
    append(&log, "11\n");
    let said = "scuttleup: the cursor after exists and is at offset 10: -n and --after cannot move it\n";
    let run = Run::new(&log).args(["exec", "--cursor", "after", "--after", "3", "-n", "4", "--", "sh", "-c", SHOW]);
    run.stdout("a:11-11 1 after 1\n").stderr(said).success();
    // The cursor exists from the start on: what arrives before the first batch is not missed.
    let mut live = start("tail", &["--tail", "--linger", "0s"]).spawn();
    let cursors = || Run::new(&log).args(["cursor", "list"]).success().json();
    until(|| cursors().iter().any(|state| state["cursor"] == "tail" && state["pid"] == live.pid()));
    live.signal(Signal::SIGKILL);
    assert_eq!(live.wait().status.code(), None);
    append(&log, "12\n");
    start("tail", &[]).stdout("a:12-12 1 tail 1\n").success();
}

#[test]
fn a_program_that_fails_gets_exactly_the_same_batch_again_whatever_has_changed() {
    let place = Place::new();
    let log = filled(&place, 10);
    let said = "scuttleup: sh ended with exit status: 9 on the batch a:5-8, attempt 1: the cursor stays before it, the next exec gives \
                it again\n";
    let fails = "[ $SCUTTLEUP_BATCH = a:1-4 ] || exit 9";
    exec(&log, &["--batch", "4"], fails).stdout("").stderr(said).status(9);
    let state = cursor(&log);
    assert_eq!((&state["offset"], &state["unread"]), (&4.into(), &6.into()));
    assert_eq!(state["batch"], json!({"first": 5, "last": 8, "lines": 4, "attempts": 1, "failures": 1}));
    append(&log, numbers(11..=20));
    exec(&log, &["--batch", "2"], "kill -9 $$").stderr_has("signal: 9 (SIGKILL) on the batch a:5-8, attempt 2").status(137);
    let lines = "a:5-8 3 c 4\na:9-20 1 c 12\n";
    exec(&log, &["--batch", "100", "--linger", "5s"], SHOW).stdout(lines).stderr("").success();
}

#[test]
fn only_the_exit_code_counts_and_a_program_need_not_read() {
    let place = Place::new();
    let log = filled(&place, 3000);
    Run::new(&log).args(["exec", "--cursor", "c", "--", "true"]).stdout("").stderr("").success();
    assert_eq!(cursor(&log)["unread"], 0);
    append(&log, "1\n");
    let cannot = "scuttleup: cannot run no-such-program: No such file or directory (os error 2)\n";
    Run::new(&log).args(["exec", "--cursor", "c", "--retry", "--", "no-such-program"]).stderr(cannot).status(1);
    assert_eq!(cursor(&log)["unread"], 1);
}

#[test]
fn entries_that_are_not_selected_count_as_read() {
    let place = Place::new();
    let log = filled(&place, 4);
    let lines: String = (1..=6).map(|seq| format!("{{\"peer\":\"b\",\"seq\":{seq},\"entry\":{seq}}}\n")).collect();
    Run::new(&log).args(["write"]).stdin(lines).success();
    append(&log, numbers(5..=6));
    exec(&log, &["--peer", "b", "--batch", "4"], SHOW).stdout("a:5-8 1 c 4\na:9-10 1 c 2\n").success();
    let state = cursor(&log);
    assert_eq!((&state["offset"], &state["unread"]), (&12.into(), &0.into()));
    // All of the rest is left out.
    append(&log, numbers(7..=9));
    exec(&log, &["--peer", "b"], SHOW).stdout("").success();
    assert_eq!(cursor(&log)["offset"], 15);
    // Live, the cursor passes them too. At the latest when the command ends.
    let mut live = exec(&log, &["--peer", "b", "--live", "--linger", "0s"], SHOW).spawn();
    append(&log, numbers(10..=11));
    Run::new(&log).args(["write"]).stdin("{\"peer\":\"b\",\"seq\":7,\"entry\":7}\n").success();
    assert_eq!(live.line(), "a:18-18 1 c 1\n");
    append(&log, "12\n");
    live.signal(Signal::SIGTERM);
    assert_eq!(live.wait().status.code(), Some(143));
    assert!(cursor(&log)["offset"].as_u64() >= Some(18));
}

#[test]
fn the_options_of_read_select_entries() {
    let place = Place::new();
    let log = filled(&place, 6);
    exec(&log, &["--until", "-1h"], SHOW).stdout("").success();
    assert_eq!(cursor(&log)["offset"], 0, "what arrives later than --until stays unread");
    exec(&log, &["--limit", "3", "--batch", "2"], SHOW).stdout("a:1-2 1 c 2\na:3-3 1 c 1\n").success();
    exec(&log, &["--limit", "1", "--peer", "[ab]"], SHOW).stdout("a:4-4 1 c 1\n").success();
    let printed = exec(&log, &["--at", "--no-entry"], "cat").success().json();
    assert!(printed.len() == 2 && printed.iter().all(|line| line["at"].is_string()), "{printed:?}");
    // A live run ends after its last line, too.
    append(&log, "7\n");
    exec(&log, &["--live", "--limit", "1"], SHOW).stdout("a:7-7 1 c 1\n").success();
    Run::new(&log)
        .args(["exec", "--cursor", "d", "--since", "-1h", "--limit", "1", "--", "sh", "-c", SHOW])
        .stdout("a:1-1 1 d 1\n")
        .success();
}

/// Batches in flight keep this hash, so it must stay as it is.
#[test]
fn the_hash_of_heads_is_that_of_their_sorted_lines() {
    let place = Place::new();
    let (log, file) = (filled(&place, 4), place.path("heads"));
    let lines = |numbers: &mut dyn Iterator<Item = u32>| -> String {
        numbers.map(|n| format!("{{\"peer\":\"p{n:05}\",\"seq\":7}}\n")).collect()
    };
    let options = ["-q", "--since-heads", file.to_str().expect("UTF-8")];
    for count in [3, 60_000] {
        let sorted = lines(&mut (0..count));
        let hash = format!("heads (hash {:016x})", xxh3_64(sorted.as_bytes()));
        fs::write(&file, &sorted).expect("a file");
        exec(&log, &options, "exit 1").status(1);
        exec(&log, &["-q"], SHOW).stdout("").stderr_has(&hash).status(2);
        // The order matters only if there are too many feeds to be sorted. A seq of 0 never matters.
        fs::write(&file, lines(&mut (0..count).rev())).expect("a file");
        exec(&log, &options, "exit 1").status(if count == 3 { 1 } else { 2 });
        fs::write(&file, sorted + "{\"peer\":\"q\",\"seq\":0}\n").expect("a file");
        exec(&log, &options, "exit 0").success();
        append(&log, "5\n");
    }
}

#[test]
fn a_batch_in_flight_needs_the_same_selection() {
    let place = Place::new();
    let log = filled(&place, 4);
    exec(&log, &["--peer", "a", "--text"], "exit 1").status(1);
    let said = "scuttleup: the batch a:1-4 of the cursor c is in flight, and it was selected with --peer a --text, not with --peer b: run \
                it with the same options, or give the batch up with `scuttleup cursor set`\n";
    exec(&log, &["-q", "--peer", "b"], SHOW).stdout("").stderr_has(said).status(2);
    exec(&log, &[], SHOW).stderr_has("not without options that select lines: run it").status(2);
    exec(&log, &["--text", "--peer", "a", "--peer", "a"], SHOW).stdout("a:1-4 2 c 4\n").success();
    append(&log, "5\n");
    exec(&log, &[], "exit 1").status(1);
    Run::new(&log).args(["cursor", "set", "c", "3"]).success();
    exec(&log, &["--peer", "a"], SHOW).stdout("a:4-5 1 c 2\n").success();
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    let place = Place::new();
    let log = filled(&place, 1);
    for args in [
        &["--cursor", "c"][..],
        &["--cursor", "c", "--"],
        &["--", "true"],
        &["--cursor", "c", "--batch", "0", "--", "true"],
        &["--cursor", "c", "--retry", "0", "--", "true"],
        &["--cursor", "c", "--linger", "5", "--", "true"],
        &["--cursor", "c", "--linger", "-5s", "--", "true"],
    ] {
        Run::new(&log).args(["exec"]).args(args).stdout("").status(2);
    }
    Run::new(&log).args(["exec", "--cursor", "", "--", "true"]).stderr_has("invalid name of a cursor").status(7);
    Run::new(&log).args(["cursor", "list"]).stdout("").success();
    exec(&log, &["--after", "2"], "true").stderr_has("there is no offset 2 in this log").status(1);
    Run::new(&log).args(["cursor", "list"]).stdout("").success();
}

/// One commit moves the cursor behind a batch and stores the bounds of the next one.
#[test]
fn a_batch_costs_one_commit() {
    let place = Place::new();
    let log = filled(&place, 50);
    Run::new(&log).args(["cursor", "set", "c", "0"]).success();
    let trace = place.path("trace");
    let strace = ["-e", "trace=fdatasync", "-o"];
    let run = Run::program("strace")
        .args(strace)
        .args([&trace])
        .args([SCUTTLEUP, "exec", "--cursor", "c", "--batch", "5", "--", "true"]);
    run.env("SCUTTLEUP_LOG", &log).success();
    let syncs = read_to_string(&trace).expect("the trace").matches("fdatasync(").count();
    assert_eq!(syncs, 10 + 1, "one for each batch, and one for the end");
}

#[test]
fn a_second_consumer_is_refused_and_the_first_one_is_named() {
    let place = Place::new();
    let log = filled(&place, 3);
    let mut first = exec(&log, &["--live"], "echo given; cat > /dev/null").spawn();
    assert_eq!(first.line(), "given\n");
    let said = format!("scuttleup: the cursor c is in use by the process {}: wait until it ends, or end it\n", first.pid());
    let refused = |args: &[&str]| drop(Run::new(&log).args(args).stdout("").stderr(&said).status(6));
    refused(&["exec", "--cursor", "c", "--", "true"]);
    refused(&["cursor", "set", "c", "0"]);
    refused(&["cursor", "rm", "c"]);
    assert_eq!(cursor(&log)["pid"], first.pid());
    // Other cursors are free.
    Run::new(&log).args(["exec", "--cursor", "d", "--", "sh", "-c", SHOW]).stdout("a:1-3 1 d 3\n").success();
    first.signal(Signal::SIGINT);
    assert_eq!(first.wait().status.code(), Some(130));
    Run::new(&log).args(["cursor", "rm", "c"]).success();
}

/// Otherwise two runs of the program would process the same batch at the same time.
#[test]
fn a_program_that_goes_on_after_a_kill_of_exec_keeps_the_cursor() {
    let place = Place::new();
    let log = filled(&place, 3);
    let mut killed =
        exec(&log, &[], "echo started $$; cat > /dev/null; read line < \"$GATE\"; echo ended").env("GATE", gate(&place)).spawn();
    let started = killed.line();
    killed.signal(Signal::SIGKILL);
    until_ended(&killed.pid().to_string());
    let said = "scuttleup: the cursor c is in use: the process that consumed it was killed, and a program that it has started still runs";
    exec(&log, &[], SHOW).stdout("").stderr_has(said).status(6);
    assert!(cursor(&log)["pid"].is_null());
    fs::write(place.path("gate"), "\n").expect("the program reads");
    assert_eq!(killed.line(), "ended\n");
    until_ended(started.trim().rsplit(' ').next().expect("a number"));
    exec(&log, &[], SHOW).stdout("a:1-3 2 c 3\n").success();
    // After a normal end, a process that stays in the background keeps nothing.
    append(&log, "4\n");
    let mut stays = exec(&log, &[], "(read line < \"$GATE\") > /dev/null 2>&1 &").env("GATE", place.path("gate")).spawn();
    assert_eq!(stays.wait().status.code(), Some(0));
    Run::new(&log).args(["cursor", "rm", "c"]).success();
    fs::write(place.path("gate"), "\n").expect("the process reads");
}

/// A FIFO. A program that reads it waits until the test writes to it.
fn gate(place: &Place) -> PathBuf {
    let gate = place.path("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    gate
}

#[test]
fn a_signal_goes_to_the_program_and_the_batch_does_not_count() {
    let place = Place::new();
    let log = filled(&place, 3);
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        // Its exit code is 0, but it has not processed the batch.
        let traps = "trap 'echo told; exit 0' TERM; echo started; read line < \"$GATE\"";
        let place = Place::new();
        let mut run = exec(&log, &[], traps).env("GATE", gate(&place)).spawn();
        assert_eq!(run.line(), "started\n");
        run.signal(signal);
        let Ended { status, printed } = run.wait();
        assert_eq!((status.code(), printed.text()), (Some(code), "told\n"));
        assert!(!printed.stderr.contains("scuttleup: "), "{}", printed.stderr);
        assert_eq!(cursor(&log)["unread"], 3);
    }
    exec(&log, &[], SHOW).stdout("a:1-3 3 c 3\n").success();
}

#[test]
fn a_second_signal_kills_a_program_that_ignores_the_first_one() {
    let place = Place::new();
    let log = filled(&place, 3);
    let mut run = exec(&log, &[], "trap '' TERM; echo $$; exec cat \"$GATE\"").env("GATE", gate(&place)).spawn();
    let program = Pid::from_raw(run.line().trim().parse().expect("a number"));
    until(|| {
        kill(Pid::from_raw(run.pid() as i32), Signal::SIGTERM).ok();
        kill(program, None).is_err()
    });
    assert_eq!(run.wait().status.code(), Some(143));
    assert_eq!(cursor(&log)["batch"]["attempts"], 1);
}

#[test]
fn retry_gives_the_batch_again_until_it_succeeds_or_has_failed_n_times() {
    let place = Place::new();
    let log = filled(&place, 3);
    let twice = "[ $SCUTTLEUP_ATTEMPT -gt 2 ] && echo done $SCUTTLEUP_BATCH";
    let said = "scuttleup: sh ended with exit status: 1 on the batch a:1-3, attempt 1: trying again in 1 second\n\
                scuttleup: sh ended with exit status: 1 on the batch a:1-3, attempt 2: trying again in 2 seconds\n";
    exec(&log, &["--retry"], twice).stdout("done a:1-3\n").stderr(said).success();
    append(&log, "4\n");
    let said = "scuttleup: sh ended with exit status: 5 on the batch a:4-4, attempt 1: trying again in 1 second\n\
                scuttleup: sh ended with exit status: 5 on the batch a:4-4, attempt 2: the cursor stays before it, the next exec \
                gives it again\n";
    exec(&log, &["--retry", "2"], "exit 5").stdout("").stderr(said).status(5);
    let mut pausing = exec(&log, &["--retry"], "echo failing; exit 5").spawn();
    assert_eq!(pausing.line(), "failing\n");
    pausing.signal(Signal::SIGTERM);
    assert_eq!(pausing.wait().status.code(), Some(143));
    let batch = &cursor(&log)["batch"];
    assert!(batch["attempts"] == 3 && batch["failures"].as_u64() >= Some(2), "{batch}");
}

/// The program fails if one of the numbers BAD is in the batch, and prints the batches that it processes.
const PICKY: &str =
    "lines=$(cat); for n in $BAD; do case $lines in *\"\\\"entry\\\":$n,\"*) exit 3;; esac; done; echo \"$SCUTTLEUP_BATCH\"";

#[test]
fn a_line_that_cannot_be_processed_goes_to_the_dead_letters_and_the_rest_goes_on() {
    let place = Place::new();
    let log = filled(&place, 20);
    let dead = place.path("dead");
    let options = ["--batch", "10", "--retry", "2", "--dead-letter", dead.to_str().expect("UTF-8")];
    let printed = exec(&log, &options, PICKY).env("BAD", "7").success();
    assert_eq!(printed.text(), "a:1-5\na:6-6\na:8-17\na:18-20\n");
    let lines = read_to_string(&dead).expect("the dead letters");
    let line: Value = serde_json::from_str(&lines).expect("one line of JSON");
    let error = &line["error"];
    assert_eq!((&line["offset"], &line["entry"], &line["seq"]), (&7.into(), &7.into(), &7.into()));
    assert_eq!((&error["batch"], &error["exit"], &error["attempt"]), (&"a:7-7".into(), &3.into(), &2.into()));
    assert!(error["time"].as_str().is_some_and(|time| time.len() == 20 && time.ends_with('Z')), "{line}");
    let said = "on the batch a:1-10, attempt 2: trying its first half\n";
    assert!(printed.stderr.contains(said), "{}", printed.stderr);
    assert!(printed.stderr.contains("on the batch a:7-7, attempt 2: the line is in "), "{}", printed.stderr);
    assert_eq!(cursor(&log)["unread"], 0);
    // The line is a change line.
    let other = place.log("b");
    Run::new(&other).args(["write"]).stdin(lines).stderr_has("entry 7 of a").end();
    // A line that was set aside counts, and the rest of its batch is given.
    let another = Place::new();
    let limited = filled(&another, 20);
    let printed = exec(&limited, &[&options[..], &["--limit", "10"]].concat(), PICKY).env("BAD", "7").success();
    assert_eq!((printed.text(), &cursor(&limited)["offset"]), ("a:1-5\na:6-6\na:8-10\n", &10.into()));
    // Each line fails: each is set aside, behind the two that are there.
    append(&log, numbers(21..=22));
    exec(&log, &["--retry", "1", "--dead-letter", dead.to_str().expect("UTF-8")], "exit 3").success();
    assert_eq!(read_to_string(&dead).expect("the dead letters").lines().count(), 4);
}

#[test]
fn a_program_that_fails_at_every_line_does_not_move_the_log_to_the_dead_letters() {
    let place = Place::new();
    let log = filled(&place, 20);
    let dead = place.path("dead");
    let options = ["--retry", "1", "--dead-letter", dead.to_str().expect("UTF-8")];
    exec(&log, &options, "exit 3").stderr_has("the program is the cause, not the lines: the cursor stays before").status(3);
    assert_eq!((read_to_string(&dead).expect("the dead letters").lines().count(), &cursor(&log)["offset"]), (10, &10.into()));
    // When it works again, nothing else is set aside.
    exec(&log, &options, "cat > /dev/null").success();
    assert_eq!((read_to_string(&dead).expect("the dead letters").lines().count(), &cursor(&log)["offset"]), (10, &20.into()));
    exec(&log, &["--dead-letter", "-"], "true").stderr_has("stdout belongs to CMD").status(2);
}

#[test]
fn a_closed_stdout_is_no_failure_of_the_lines() {
    let place = Place::new();
    let log = filled(&place, 2000);
    let dead = place.path("dead");
    let line =
        "$scuttleup --log \"$LOG\" exec --cursor c --batch 10 --retry 1 --dead-letter \"$DEAD\" -- cat | head -n 1 > /dev/null";
    shell(&format!("set -o pipefail; {line}")).env("LOG", &log).env("DEAD", &dead).stderr("").success();
    assert_eq!(read_to_string(&dead).expect("the dead letters"), "");
    assert!(cursor(&log)["unread"].as_u64().is_some_and(|unread| unread > 0));
}

#[test]
fn a_batch_that_is_halved_goes_on_with_its_parts_after_a_kill() {
    let place = Place::new();
    let log = filled(&place, 8);
    let dead = place.path("dead");
    let options = ["--retry", "1", "--dead-letter", dead.to_str().expect("UTF-8")];
    // exec is killed in the part 5-6. The program then ends by itself.
    let script = "case $SCUTTLEUP_BATCH:$SCUTTLEUP_ATTEMPT in a:5-6:1) kill -9 $PPID; exit 0;; esac; ";
    let mut killed = exec(&log, &options, &format!("{script}{PICKY}")).env("BAD", "7").spawn();
    let Ended { status, printed } = killed.wait();
    assert_eq!((status.code(), printed.text()), (None, "a:1-4\n"));
    let printed = exec(&log, &options, &format!("{script}{PICKY}")).env("BAD", "7").success();
    assert_eq!(printed.text(), "a:5-6\na:8-8\n");
    assert_eq!(read_to_string(&dead).expect("the dead letters").lines().count(), 1);
}

#[test]
fn a_full_disk_under_the_dead_letters_moves_nothing() {
    let place = Place::new();
    let log = filled(&place, 1);
    let said = "cannot write to /dev/full (No space left on device (os error 28))";
    exec(&log, &["--retry", "1", "--dead-letter", "/dev/full"], "exit 1").stderr_has(said).status(5);
    assert_eq!(cursor(&log)["unread"], 1);
}

#[test]
fn live_entries_wait_for_a_full_batch_and_existing_ones_do_not() {
    let place = Place::new();
    let log = filled(&place, 4);
    let mut live = exec(&log, &["--live", "--linger", "1h", "--batch", "3"], SHOW).spawn();
    assert_eq!((live.line(), live.line()), ("a:1-3 1 c 3\n".into(), "a:4-4 1 c 1\n".into()));
    // A batch of new entries that is full does not wait.
    append(&log, numbers(5..=6));
    append(&log, numbers(7..=8));
    assert_eq!(live.line(), "a:5-7 1 c 3\n");
    until(|| cursor(&log)["offset"] == 7);
    live.signal(Signal::SIGTERM);
    let Ended { status, printed } = live.wait();
    assert_eq!((status.code(), printed.text()), (Some(143), ""));
    // Entry 8 was waiting. It is not counted.
    assert_eq!(cursor(&log)["offset"], 7);
    // With the default, a batch that is not full is given after a second.
    let mut live = exec(&log, &["--live"], SHOW).spawn();
    assert_eq!(live.line(), "a:8-8 1 c 1\n");
    append(&log, "9\n");
    assert_eq!(live.line(), "a:9-9 1 c 1\n");
}

#[test]
fn entries_that_were_pruned_before_they_were_given_are_reported_once() {
    let place = Place::new();
    let log = filled(&place, 100);
    exec(&log, &["--batch", "10"], "[ $SCUTTLEUP_BATCH = a:1-10 ]").status(1);
    Run::new(&log).args(["-q", "prune", "--keep-last", "50"]).status(6);
    Run::new(&log).args(["-q", "prune", "--keep-last", "50", "--force"]).success();
    // The batch in flight, 11-20, is gone.
    let said = "scuttleup: 40 entries were pruned before they were read: continuing after offset 50\n";
    exec(&log, &["--batch", "30"], SHOW).stdout("a:51-80 1 c 30\na:81-100 1 c 20\n").stderr(said).success();
    exec(&log, &[], SHOW).stdout("").stderr("").success();
    // A part of the batch in flight is gone.
    append(&log, numbers(101..=110));
    exec(&log, &[], "exit 1").status(1);
    Run::new(&log).args(["-q", "prune", "--keep-last", "4", "--force"]).success();
    let said = "scuttleup: 6 entries were pruned before they were read: continuing after offset 106\n";
    exec(&log, &[], SHOW).stdout("a:107-110 1 c 4\n").stderr(said).success();
    // It is said once, also if no other entry is selected.
    append(&log, numbers(111..=120));
    Run::new(&log).args(["-q", "prune", "--keep-last", "1", "--force"]).success();
    exec(&log, &["--peer", "a", "--peer", "b"], "exit 1").stderr_has("9 entries were pruned").status(1);
    let printed = exec(&log, &["--peer", "a", "--peer", "b"], SHOW).stdout("a:120-120 2 c 1\n").success();
    assert!(!printed.stderr.contains("pruned"), "{}", printed.stderr);
    Run::new(&log).args(["verify"]).success();
}

#[test]
fn a_cursor_above_the_last_offset_is_an_error() {
    let place = Place::new();
    let log = filled(&place, 3);
    // As in a log that has lost entries.
    Log::open(&log).expect("it opens").consume("c").expect("it is free").store(Offset(9), None).expect("it is stored");
    let said = "scuttleup: the cursor c is at offset 9, and the last offset of this log is 3: the log has lost entries";
    exec(&log, &[], SHOW).stdout("").stderr_has(said).status(1);
    Run::new(&log).args(["cursor", "set", "c", "2"]).success();
    exec(&log, &[], SHOW).stdout("a:3-3 1 c 1\n").success();
}

#[test]
fn a_log_that_is_created_again_has_no_cursors() {
    let place = Place::new();
    let log = filled(&place, 3);
    exec(&log, &[], "true").success();
    fs::remove_dir_all(&log).expect("it is removed");
    exec(&log, &[], SHOW).stderr_has("no log in ").status(1);
    append(&log, "1\n");
    assert!(exec(&log, &[], SHOW).success().text().ends_with(":1-1 1 c 1\n"));
}

/// A batch in flight keeps its id if the log takes a new one.
#[test]
fn the_id_of_a_batch_in_flight_does_not_change() {
    let place = Place::new();
    let log = filled(&place, 3);
    exec(&log, &[], "exit 1").status(1);
    Run::new(&log).args(["id", "--new", "b"]).success();
    append(&log, "4\n");
    exec(&log, &[], SHOW).stdout("a:1-3 2 c 3\nb:4-4 1 c 1\n").success();
}

/// The records of tests/exec/consumer.py. Checks that each id always names the same lines, that the ids do not overlap, and that each
/// entry of the log is in one of them.
pub fn check_records(log: &Path, out: &Path) {
    let mut batches: BTreeMap<u64, (String, Vec<Value>)> = BTreeMap::new();
    for record in read_to_string(out).expect("the records").lines() {
        let record: Value = serde_json::from_str(record).expect("a whole record");
        let id = record["batch"].as_str().expect("an id").to_owned();
        let lines = record["lines"].as_array().expect("lines").clone();
        let first = lines[0]["offset"].as_u64().expect("an offset");
        assert_eq!(id, format!("a:{first}-{}", lines[lines.len() - 1]["offset"]));
        let (known, same) = batches.entry(first).or_insert_with(|| (id.clone(), lines.clone()));
        assert_eq!((known.as_str(), &*same), (id.as_str(), &lines), "a batch was repeated in another form");
    }
    let given: Vec<_> = batches.into_values().flat_map(|(_, lines)| lines).map(|line| line.to_string()).collect();
    let stored: Vec<_> = read(log).lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON").to_string()).collect();
    assert!(given == stored, "given: {} lines, stored: {}", given.len(), stored.len());
}

/// Checks that the database holds each entry of the log once.
fn check_database(log: &Path, db: &Path) {
    let count =
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('select count(*), sum(seq) from entries').fetchone())";
    let entries = read(log).lines().count();
    let said = format!("({entries}, {})\n", entries * (entries + 1) / 2);
    Run::program("python3").args(["-c", count]).args([db]).stdout(said).success();
}

#[test]
fn a_kill_of_exec_or_of_the_program_or_of_both_loses_nothing_and_repeats_only_whole_batches() {
    let place = Place::new();
    let log = filled(&place, 30);
    let scripts: Vec<_> = ["start", "read", "stored"]
        .iter()
        .flat_map(|moment| ["exec", "program", "both"].map(|target| format!("{moment} {target}")))
        .collect();
    thread::scope(|threads| {
        for (name, kill) in scripts.iter().enumerate() {
            let (log, place) = (&log, &place);
            threads.spawn(move || {
                let path = |kind: &str| place.path(&format!("{kind}-{name}"));
                let exec = |batch: &str| {
                    let cursor = format!("c{name}");
                    let run = Run::new(log).args(["exec", "--cursor", &cursor, "--batch", batch, "--", "python3", CONSUMER]);
                    let run = run.env("KILL", kill).env("KILL_FROM", "8").env("MARK", path("mark"));
                    // The end of its stdout is also the end of the program.
                    run.env("OUT", path("out")).env("DB", path("db")).end().status
                };
                assert!(!exec("7").success(), "{kill}");
                assert!(exec("11").success(), "{kill}");
                check_records(log, &path("out"));
                check_database(log, &path("db"));
            });
        }
    });
}

#[test]
fn a_kill_of_exec_at_any_call_loses_nothing_and_repeats_only_whole_batches() {
    for call in ["fdatasync", "pwrite64", "memfd_create", "wait4"] {
        for when in 1.. {
            let place = Place::new();
            let log = filled(&place, 6);
            let out = place.path("out");
            let args = [SCUTTLEUP, "exec", "--cursor", "c", "--batch", "3", "--", "python3", CONSUMER];
            let inject = format!("inject={call}:signal=SIGKILL:when={when}");
            let run = Run::program("strace").args(["-qq", "-o", "/dev/null", "-e", &inject]).args(args);
            if run.env("SCUTTLEUP_LOG", &log).env("OUT", &out).end().status.success() {
                assert!(when > 2, "{call}");
                break;
            }
            Run::new(&log).args(["exec", "--cursor", "c", "--batch", "6", "--", "python3", CONSUMER]).env("OUT", &out).success();
            check_records(&log, &out);
        }
    }
}

#[test]
fn twenty_cursors_at_once_while_the_log_is_sealed_and_grows() {
    let place = Place::new();
    let log = filled(&place, 300);
    let script = "cat >> \"$OUT\"";
    let mut consumers: Vec<(PathBuf, Running)> = (0..20)
        .map(|n| {
            let (out, cursor) = (place.path(&format!("out-{n}")), format!("c{n}"));
            let args = ["exec", "--cursor", &cursor, "--live", "--linger", "0s", "--batch", "37", "--", "sh", "-c", script];
            (out.clone(), Run::new(&log).args(args).env("OUT", out).spawn())
        })
        .collect();
    for round in 0..6 {
        Run::new(&log).args(["-q", "compact"]).success();
        append(&log, numbers(1..=50 + round));
    }
    let last = read(&log).lines().count();
    let done = || {
        let cursors = Run::new(&log).args(["cursor", "list"]).success().json();
        cursors.len() == 20 && cursors.iter().all(|state| state["offset"] == last && state["batch"].is_null())
    };
    until(done);
    let stored = read(&log);
    for (out, consumer) in &mut consumers {
        consumer.signal(Signal::SIGTERM);
        assert_eq!(consumer.wait().status.code(), Some(143));
        assert!(read_to_string(&*out).expect("its output") == stored, "{}", out.display());
    }
    Run::new(&log).args(["verify"]).success();
    assert_eq!(heads(&log).len(), 1);
}
