//! `prune` and `cursor`: what is forgotten, what stays, and what readers and copies of a pruned log see.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::call_faults::{CALLS, FAILING_CALLS, Fault, assert_whole, at_each_call};
use crate::harness::{Place, Run, append, assert_equal, heads, root, shell};

fn numbers(range: std::ops::RangeInclusive<u32>) -> String {
    range.map(|n| format!("{n}\n")).collect()
}

/// Log a with the entries 1 to `count`, each in a commit of its own if `alone`.
fn filled(place: &Place, count: u32) -> PathBuf {
    let a = place.log("a");
    append(&a, numbers(1..=count));
    a
}

fn prune(log: &Path, args: &[&str]) -> Run {
    Run::new(log).args(["prune"]).args(args)
}

/// The entries that `read` prints, without floors.
fn entries(log: &Path) -> Vec<Value> {
    let lines = Run::new(log).args(["read"]).success().json();
    lines.into_iter().filter(|line| line["floor"] != true).map(|line| line["entry"].clone()).collect()
}

fn info(log: &Path, field: &str) -> u64 {
    Run::new(log).args(["info"]).success().json()[0][field].as_u64().expect("a number")
}

fn values(range: std::ops::RangeInclusive<u32>) -> Vec<Value> {
    range.map(Value::from).collect()
}

#[test]
fn the_newest_entries_stay_and_the_heads_and_the_root_do_not_change() {
    let place = Place::new();
    let a = filled(&place, 100);
    Run::new(&a).args(["write"]).stdin("{\"peer\":\"b\",\"seq\":1,\"entry\":1}\n").success();
    let before = (heads(&a), root(&a));
    let dry = prune(&a, &["--keep-last", "31", "--dry-run"]).stdout("").success().stderr;
    assert!(dry.starts_with("scuttleup: would prune 70 entries of 1 feed, ") && dry.ends_with("the floor is 70\n"), "{dry}");
    assert_eq!((entries(&a).len(), info(&a, "floor")), (101, 0));
    let said = prune(&a, &["--keep-last", "31"]).stdout("").success().stderr;
    assert_eq!(said, dry.replace("would prune", "pruned"));
    assert_eq!((heads(&a), root(&a)), before);
    assert_eq!(entries(&a)[..30], values(71..=100));
    assert_eq!((info(&a, "floor"), info(&a, "entries"), info(&a, "last_offset")), (70, 31, 101));
    let lines = Run::new(&a).args(["heads"]).success().json();
    assert_eq!((&lines[0]["floor"], &lines[1]["floor"]), (&Value::from(70), &Value::Null));
    Run::new(&a).args(["entry", "a", "70"]).stderr("scuttleup: entry 70 of a was pruned from this log\n").status(1);
    Run::new(&a).args(["entry", "a", "71"]).success();
    Run::new(&a).args(["del", "a", "70"]).stderr("scuttleup: entry 70 of a was pruned from this log\n").status(1);
    prune(&a, &["--keep-last", "31"]).stderr("scuttleup: pruned nothing, the floor is 70\n").success();
    // It goes on, also over a compact, and an entry that was pruned does not come back.
    append(&a, numbers(101..=110));
    Run::new(&a).args(["-q", "compact"]).success();
    Run::new(&a).args(["write"]).stdin("{\"peer\":\"a\",\"seq\":3,\"entry\":\"other\"}\n").stderr("").success();
    prune(&a, &["--keep-last", "5"]).success();
    assert_eq!(entries(&a), values(106..=110));
    // The newest entry always stays.
    prune(&a, &["--keep-last", "0"]).success();
    assert_eq!(entries(&a), values(110..=110));
    append(&a, "111\n");
    assert_eq!(entries(&a), values(110..=111));
}

/// Packs of which all entries were pruned are removed at once, and a pack with the floor by the next compact.
#[test]
fn packs_are_removed_at_once_and_the_rest_by_compact() {
    let place = Place::new();
    let a = filled(&place, 2000);
    Run::new(&a).args(["-q", "compact"]).success();
    append(&a, format!("\"{}\"\n", "secret of the second pack ".repeat(1000)).repeat(30));
    Run::new(&a).args(["-q", "compact"]).success();
    append(&a, numbers(1..=50));
    let files = || std::fs::read_dir(a.join("packs")).expect("packs").count();
    let before = files();
    prune(&a, &["--keep-last", "60"]).stderr_has("the floor is 2020; compact gives back the rest of their space\n").success();
    let kept: Vec<Value> = entries(&a);
    assert_eq!((kept.len(), info(&a, "floor")), (60, 2020));
    assert!(files() <= before);
    Run::new(&a).args(["-q", "compact"]).success();
    assert_eq!(entries(&a), kept);
    let root_before = root(&a);
    prune(&a, &["--keep-last", "10"]).success();
    Run::new(&a).args(["-q", "compact"]).success();
    assert_eq!((entries(&a), root(&a)), (values(41..=50), root_before));
    shell("! grep -r 'secret of the second pack' \"$A\"").env("A", &a).success();
    let b = place.log("b");
    Run::new(&b).args(["replicate", "--once", "--", crate::harness::SCUTTLEUP, "--log"]).args([&a]).args(["replicate"]).success();
    assert_equal(&a, &b);
}

#[test]
fn the_bytes_and_the_age_decide() {
    let place = Place::new();
    let a = place.log("a");
    append(&a, format!("\"{}\"\n", "x".repeat(10_000)).repeat(200));
    prune(&a, &["--keep-bytes", "500K"]).success();
    let left = entries(&a).len();
    assert!((20..=52).contains(&left), "{left} entries of 10000 bytes");
    prune(&a, &["--older-than", "1h"]).stderr(&format!("scuttleup: pruned nothing, the floor is {}\n", 200 - left)).success();
    append(&a, "1\n");
    prune(&a, &["--older-than", "0s"]).success();
    assert_eq!(entries(&a), values(1..=1));
    for bad in ["1", "1y", "h", "1h ago"] {
        prune(&a, &["--older-than", bad]).status(2);
    }
    let advice = "'2 months' for '--older-than <AGE>': not an age in weeks, days, hours, minutes or seconds";
    prune(&a, &["--older-than", "2 months"]).stderr_has(advice).status(2);
    prune(&a, &["--older-than", "2 weeks", "--dry-run"]).success();
    prune(&a, &["--older-than", "-1h"]).stderr_has("'-1h' for '--older-than <AGE>': an age has no sign").status(2);
    prune(&a, &["--keep-bytes", "-1G"]).stderr_has("'-1G' for '--keep-bytes <SIZE>': not a size").status(2);
    prune(&a, &["--keep-last", "-1"]).stderr_has("'-1' for '--keep-last <N>': the number is negative").status(2);
    Run::new(&a).args(["read", "-n", "-1"]).stderr_has("'-1' for '-n <N>': the number is negative").status(2);
    Run::new(&a).args(["entry", "a", "-1"]).stderr_has("'-1' for '<SEQ>': the number is negative").status(2);
    prune(&a, &[])
        .stderr("scuttleup: say what to keep: --keep-last, --keep-bytes or --older-than (see scuttleup prune --help)\n")
        .end();
    prune(&a, &["--keep-last", "1", "--keep-bytes", "1"]).status(2);
}

#[test]
fn what_is_kept_is_stored_and_applied_from_then_on() {
    let place = Place::new();
    let a = filled(&place, 100);
    prune(&a, &["--show"]).stdout("{}\n").success();
    prune(&a, &["--keep-last", "20", "--set"]).success();
    prune(&a, &["--show"]).stdout("{\"keep_last\":20}\n").success();
    assert_eq!(entries(&a), values(81..=100));
    // The next appends apply it, with some slack.
    append(&a, numbers(101..=200));
    append(&a, "201\n");
    let left = entries(&a).len();
    assert!((20..=23).contains(&left), "{left}");
    prune(&a, &["--unset"]).stderr("").success();
    prune(&a, &["--show"]).stdout("{}\n").success();
    append(&a, numbers(202..=400));
    assert!(entries(&a).len() > 199);
}

#[test]
fn a_cursor_holds_the_floor_unless_forced() {
    let place = Place::new();
    let a = filled(&place, 100);
    let cursor = |args: &[&str]| Run::new(&a).args(["cursor"]).args(args);
    cursor(&["list"]).stdout("").success();
    cursor(&["set", "slow", "30"]).stdout("").stderr("").success();
    cursor(&["set", "fast\u{1b}", "100"]).stderr_has("control character").status(7);
    cursor(&["set", "fast", "100"]).success();
    cursor(&["set", "fast", "101"]).stderr_has("there is no offset 101 in this log").status(1);
    let listed = || -> Vec<_> {
        let number = |state: &Value, field: &str| state[field].as_u64().expect("a number");
        let cursors = cursor(&["list"]).success().json();
        cursors.iter().map(|state| (state["cursor"].to_string(), number(state, "offset"), number(state, "unread"))).collect()
    };
    assert_eq!(listed(), [("\"fast\"".into(), 100, 0), ("\"slow\"".into(), 30, 70)]);
    let said = "scuttleup: the cursor slow has read up to offset 30 only, entries up to 90 are to be pruned";
    prune(&a, &["--keep-last", "10", "--dry-run"]).stderr_has("would prune 30 entries").stderr_has(said).status(6);
    prune(&a, &["--keep-last", "10"]).stderr_has("pruned 30 entries").stderr_has(said).status(6);
    assert_eq!(entries(&a), values(31..=100));
    prune(&a, &["--keep-last", "10", "--force"]).success();
    assert_eq!(entries(&a), values(91..=100));
    assert_eq!(listed(), [("\"fast\"".into(), 100, 0), ("\"slow\"".into(), 30, 10)]);
    // A cursor may start below the floor.
    cursor(&["set", "new", "89"])
        .stderr("scuttleup: entries up to offset 90 were pruned: the reader of this cursor continues after it\n")
        .success();
    cursor(&["set", "new", "90"]).stderr("").success();
    cursor(&["set", "new", "-1"]).stderr_has("'-1' for '<OFFSET>': the number is negative").status(2);
    cursor(&["rm", "new"]).success();
    cursor(&["rm", "slow"]).stdout("").stderr("").success();
    cursor(&["rm", "slow"]).stderr_has("there is no cursor slow").status(1);
    prune(&a, &["--keep-last", "1"]).success();
    // A stored retention does not pass a cursor either.
    cursor(&["set", "fast", "100"]).success();
    prune(&a, &["--keep-last", "5", "--set"]).success();
    append(&a, numbers(101..=200));
    append(&a, "201\n");
    assert_eq!(info(&a, "floor"), 100);
}

#[test]
fn a_reader_below_the_floor_goes_on_behind_it_and_says_so_once() {
    let place = Place::new();
    let a = filled(&place, 100);
    prune(&a, &["-q", "--keep-last", "20"]).success();
    let printed = Run::new(&a).args(["read", "--after", "30"]).success();
    assert_eq!(printed.stderr, "scuttleup: 50 entries were pruned before they were read: continuing after offset 80\n");
    assert_eq!(printed.lines().len(), 21, "the floor, and 20 entries");
    assert_eq!(Run::new(&a).args(["read", "--after", "80"]).stderr("").success().lines().len(), 21);
    assert_eq!(Run::new(&a).args(["read", "--after", "81"]).stderr("").success().lines().len(), 19);
    assert_eq!(Run::new(&a).args(["read", "-n", "50"]).stderr("").success().lines().len(), 20);
    assert_eq!(Run::new(&a).args(["read"]).stderr("").success().lines().len(), 21);
}

/// A live reader with these options prints the floors again when it was overtaken.
fn assert_floors_again(options: &[&str]) {
    let place = Place::new();
    let a = filled(&place, 100);
    Run::new(&a).args(["cursor", "set", "c", "99"]).success();
    let mut watching = Run::new(&a).args(["read", "--live"]).args(options).spawn();
    watching.line();
    // A process that is stopped in a commit would hold up the append.
    let is_stored = || Run::new(&a).args(["cursor", "list"]).success().text().contains("\"offset\":100,");
    while options.contains(&"--cursor") && !is_stored() {}
    watching.signal(Signal::SIGSTOP);
    while !std::fs::read_to_string(format!("/proc/{}/stat", watching.pid())).expect("a process").contains(") T ") {
        std::thread::yield_now();
    }
    append(&a, numbers(101..=200));
    prune(&a, &["-q", "--force", "--keep-last", "10"]).success();
    watching.signal(Signal::SIGCONT);
    assert!(watching.line().contains("\"seq\":190,\"floor\":true,"));
    assert!(watching.line().starts_with("{\"offset\":191,"));
    watching.signal(Signal::SIGTERM);
    let ended = watching.wait();
    assert_eq!(ended.printed.stderr, "scuttleup: 90 entries were pruned before they were read: continuing after offset 190\n");
}

#[test]
fn a_live_reader_that_is_overtaken_prints_the_floors_again_and_says_so_once() {
    assert_floors_again(&["--after", "99"]);
    assert_floors_again(&["--cursor", "c"]);
}

#[test]
fn change_lines_copy_a_pruned_log_and_bring_another_one_up_to_date() {
    let place = Place::new();
    let a = filled(&place, 100);
    let (b, old) = (place.log("b"), place.log("old"));
    let lines = Run::new(&a).args(["read"]).success().stdout;
    Run::new(&old)
        .args(["write"])
        .stdin(lines.split_inclusive(|&byte| byte == b'\n').take(40).collect::<Vec<_>>().concat())
        .success();
    prune(&a, &["-q", "--keep-last", "20"]).success();
    let lines = Run::new(&a).args(["read"]).success();
    assert!(lines.text().starts_with("{\"peer\":\"a\",\"seq\":80,\"floor\":true,\"chain\":\""), "{}", lines.text());
    let said = "scuttleup: the entries of a up to 80 were pruned in the log that was read\n";
    Run::new(&b).args(["write"]).stdin(&lines.stdout).stderr(said).success();
    assert_equal(&a, &b);
    Run::new(&b).args(["write"]).stdin(&lines.stdout).stderr("").success();
    // With the heads of the other log: the floor only if it is above the head.
    let heads_of = |log: &Path| place.file("heads", Run::new(log).args(["heads"]).success().stdout);
    let since = |log: &Path| Run::new(&a).args(["read", "--since-heads"]).args([heads_of(log)]).success();
    assert_eq!(since(&old).lines().len(), 21);
    assert_eq!(since(&b).lines().len(), 0);
    Run::new(&old).args(["write"]).stdin(since(&old).stdout).success();
    assert_eq!((heads(&old), root(&old)), (heads(&a), root(&a)));
    assert_eq!(entries(&old), [values(1..=40), values(81..=100)].concat());
    // Another chain at the floor is a fork. The local feed is not begun anew.
    let wrong = "{\"peer\":\"a\",\"seq\":90,\"floor\":true,\"chain\":\"00000000000000000000000000000001\"}\n";
    Run::new(&b)
        .args(["write"])
        .stdin(wrong)
        .stderr_has("line 1: fork: entry 90 of a, or one before it, has different bytes")
        .status(4);
    let own = "{\"peer\":\"a\",\"seq\":190,\"floor\":true,\"chain\":\"00000000000000000000000000000001\"}\n";
    Run::new(&a).args(["write"]).stdin(own).stderr_has("but this is the local feed").status(3);
    assert_eq!(heads(&a), ["{\"peer\":\"a\",\"seq\":100}"]);
    for bad in [
        "{\"peer\":\"a\",\"seq\":1,\"floor\":true}",
        "{\"peer\":\"a\",\"seq\":1,\"floor\":true,\"chain\":\"12\"}",
        "{\"peer\":\"a\",\"seq\":0,\"floor\":true,\"chain\":\"00000000000000000000000000000001\"}",
        "{\"peer\":\"a\",\"seq\":1,\"floor\":true,\"chain\":\"00000000000000000000000000000001\",\"entry\":1}",
    ] {
        Run::new(&b).args(["write"]).stdin(bad).status(7);
    }
}

/// Prunes a log with a fault in each of the calls: a whole pack, part of a pack, and rows of data.mdb. After the fault, the log is
/// whole, the heads are the same, and the next pruning completes the work. Returns the number of faults.
fn pruned_with(fault: Fault, calls: &[&'static str]) -> u32 {
    at_each_call(fault, calls, |step| {
        let place = Place::new();
        let a = place.log("a");
        let lines: String =
            (1..=40).map(|n| format!("{{\"peer\":\"b{}\",\"seq\":{},\"entry\":{n}}}\n", n % 4, (n + 3) / 4)).collect();
        Run::new(&a).args(["write"]).stdin(&lines).success();
        Run::new(&a).args(["-q", "compact"]).success();
        append(&a, numbers(41..=60));
        let before = (heads(&a), root(&a));
        let (hit, ended) = step.run(&a, &["-q", "prune", "--keep-last", "15"], "");
        assert_eq!((heads(&a), root(&a)), before, "{step}");
        let left = entries(&a);
        assert_eq!(left[left.len() - 15..], values(46..=60), "{step}");
        assert_whole(&a, step);
        let packs = || std::fs::read_dir(a.join("packs")).expect("packs").count();
        if ended.status.success() {
            assert_eq!((left.len(), packs()), (15, 0), "{step}: done, but something is left");
        }
        prune(&a, &["-q", "--keep-last", "15"]).success();
        assert_eq!((entries(&a), info(&a, "floor"), packs()), (values(46..=60), 45, 0), "{step}");
        Run::new(&a).args(["-q", "compact"]).success();
        append(&a, "61\n");
        assert_eq!(entries(&a), values(46..=61), "{step}");
        hit
    })
}

#[test]
fn a_kill_at_any_step_of_a_pruning_loses_nothing_that_is_kept() {
    let kills = pruned_with(Fault::Kill, &CALLS);
    assert!(kills >= 10, "{kills}");
}

#[test]
fn a_failing_call_of_a_pruning_loses_nothing_and_is_reported() {
    for fault in [Fault::Full, Fault::Broken] {
        let faults = pruned_with(fault, &FAILING_CALLS);
        assert!(faults >= 20, "{faults}");
    }
}
