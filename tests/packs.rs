//! Packs: a log reads the same before, while and after its entries are sealed, also after kills, faults and damage.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::call_faults::{CALLS, FAILING_CALLS, Fault, assert_whole, at_each_call, pretend_to_be_large};
use crate::harness::{Place, Run, SCUTTLEUP, append, assert_equal, format_1_file, heads, read, root, shell};
use crate::hostile::Random;

/// A log with the feeds "a" and "b", whose entries alternate, of all kinds, with deleted entries.
fn varied(place: &Place) -> PathBuf {
    let (log, other) = (place.log("a"), place.log("b"));
    for round in 0..4 {
        let lines = |peer: &str| (0..300).map(|n| format!("\"{peer} {round} {n} {}\"\n", "x".repeat(n % 90))).collect::<String>();
        append(&log, lines("a"));
        append(&other, lines("b"));
        Run::new(&other).args(["append", "--raw"]).stdin([0, 159, round]).success();
        Run::new(&log).args(["write"]).stdin(read(&other)).success();
    }
    for (peer, seq) in [("a", "1"), ("a", "700"), ("b", "301"), ("b", "1204")] {
        Run::new(&log).args(["del", peer, seq]).success();
    }
    log
}

/// Everything that the commands print of a log.
fn printed(log: &Path) -> Vec<String> {
    let commands: [&[&str]; 8] = [
        &["read"],
        &["read", "-n", "7"],
        &["read", "--after", "603"],
        &["read", "--raw", "--peer", "b"],
        &["entry", "a", "650"],
        &["entry", "b", "301"],
        &["entry", "a", "1200", "--raw"],
        &["heads"],
    ];
    let print = |args: &&[&str]| Run::new(log).args(*args).end().printed.text().to_owned();
    commands.iter().map(print).chain([root(log)]).collect()
}

/// Seals all entries except the newest one.
fn compact(log: &Path) {
    Run::new(log).args(["-q", "compact"]).stdout("").stderr("").success();
}

/// The names of the files in the directory of the packs.
fn packs(log: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(log.join("packs")).expect("the packs");
    names.map(|name| name.expect("a name").file_name().into_string().expect("UTF-8")).collect()
}

/// Asserts that a compaction leaves nothing else in the directory of the packs than packs that are in use.
fn assert_no_orphans(log: &Path) {
    compact(log);
    let found = packs(log);
    assert!(found.iter().all(|name| name.ends_with(".pack")), "{found:?}");
    let info = &Run::new(log).args(["info"]).success().json()[0];
    assert_eq!(info["packs"], packs(log).len(), "{info}");
}

#[test]
fn a_packed_log_is_printed_and_replicated_as_before() {
    let place = Place::new();
    let log = varied(&place);
    let before = printed(&log);
    for _ in 0..2 {
        compact(&log);
        assert_eq!(printed(&log), before);
    }
    assert_eq!(packs(&log), BTreeSet::from(["00000000000000000001.pack".to_owned()]));
    // `write` compares each known entry, and finds an other one.
    Run::new(&log).args(["write"]).stdin(read(&log)).stderr("").success();
    Run::new(&log).args(["write"]).stdin("{\"peer\":\"b\",\"seq\":5,\"entry\":5}\n").stderr_has("fork: entry 5 of b").status(4);
    Run::new(&log).args(["heads", "--clear-fork", "b"]).success();
    append(&log, "\"new\"\n");
    let copy = place.log("copy");
    Run::new(&copy).args(["write"]).stdin(read(&log)).success();
    assert_equal(&log, &copy);
    // The original wire cannot carry deleted entries.
    let whole = place.log("whole");
    append(&whole, (0..3000).map(|n| format!("{n}\n")).collect::<String>());
    compact(&whole);
    for (wire, log) in [("native", &log), ("original", &whole)] {
        let (new, dir) = (place.log(wire), log.to_str().expect("UTF-8"));
        let words = ["replicate", "--once", "--wire", wire, "--", SCUTTLEUP, "--log", dir, "replicate"];
        Run::new(&new).args(words).success();
        assert_equal(log, &new);
        compact(&new);
        append(&new, "1\n");
        Run::new(&new).args(words).success();
        assert_equal(log, &new);
    }
}

#[test]
fn repeated_compactions_merge_small_packs() {
    let place = Place::new();
    let log = place.log("a");
    for round in 0..20 {
        append(&log, (0..50).map(|n| format!("\"{round} {n}\"\n")).collect::<String>());
        compact(&log);
    }
    assert!(packs(&log).len() < 8, "{:?}", packs(&log));
    assert_eq!(read(&log).lines().count(), 1000);
}

#[test]
fn a_live_reader_goes_on_while_its_log_is_compacted() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n2\n");
    let mut watching = Run::new(&log).args(["watch", "--no-entry"]).spawn();
    (1..=2).for_each(|n| assert_eq!(watching.line(), format!("{{\"offset\":{n},\"peer\":\"a\",\"seq\":{n}}}\n")));
    for n in 3..30 {
        Run::new(&log).args(["compact"]).success();
        append(&log, format!("{n}\n"));
        assert_eq!(watching.line(), format!("{{\"offset\":{n},\"peer\":\"a\",\"seq\":{n}}}\n"));
    }
}

#[test]
fn the_bytes_of_deleted_entries_are_in_no_file_after_compact() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, (0..500).map(|n| format!("\"needle-{n} {}\"\n", "pad ".repeat(n % 200))).collect::<String>());
    Run::new(&log).args(["append", "--raw"]).stdin("needle-long ".repeat(5000)).success();
    append(&log, "\"the newest entry stays in data.mdb: needle-newest\"\n");
    let holders = |needle: &str| {
        let run = Run::program("grep").args(["-rlaF", "-e", needle]).args([&log]).end();
        run.printed.text().lines().filter(|line| !line.is_empty()).count()
    };
    assert!(holders("needle-long needle-long") > 0);
    let del = |seq: &str| Run::new(&log).args(["del", "a", seq]).success();
    // Before they are sealed, and after.
    for seq in ["3", "100", "501", "502"] {
        del(seq);
    }
    compact(&log);
    for seq in ["7", "300"] {
        del(seq);
    }
    append(&log, "2\n");
    // Another process has the log open: the data file cannot be written again now.
    let mut watching = Run::new(&log).args(["watch", "-n", "1"]).spawn();
    watching.line();
    Run::new(&log).args(["compact"]).stderr_has("which may hold the bytes of deleted entries").status(3);
    watching.signal(Signal::SIGKILL);
    watching.wait();
    compact(&log);
    for needle in ["needle-2 ", "needle-99 ", "needle-long", "needle-newest", "needle-6 ", "needle-299 "] {
        assert_eq!(holders(needle), 0, "{needle}");
    }
    let lines = Run::new(&log).args(["read"]).success().json();
    assert_eq!(lines.iter().filter(|line| line["deleted"] == true).count(), 6);
    // Random bytes are not compressed: they can be found in a pack too.
    let mut random = Random(11).bytes(200_000);
    random.splice(100_000..100_000, *b"needle-random");
    Run::new(&log).args(["append", "--raw"]).stdin(&random).success();
    append(&log, "3\n");
    compact(&log);
    assert!(holders("needle-random") > 0);
    let last = Run::new(&log).args(["heads"]).success().json()[0]["seq"].as_u64().expect("a seq");
    del(&(last - 1).to_string());
    compact(&log);
    assert_eq!(holders("needle-random"), 0);
    // The same in a data file of which only a small part is free: its table of runs is large.
    let line = |n: usize| format!("{{\"peer\":\"p{}\",\"seq\":{},\"entry\":{n}}}\n", n % 2, n / 2 + 1);
    Run::new(&log).args(["write"]).stdin((0..6000).map(line).collect::<String>()).success();
    compact(&log);
    append(&log, "\"needle-late\"\n\"next\"\n");
    assert!(holders("needle-late") > 0);
    del(&(last + 1).to_string());
    compact(&log);
    assert_eq!(holders("needle-late"), 0);
}

#[test]
fn entries_of_many_bytes_are_sealed_with_twice_their_memory() {
    let place = Place::new();
    let log = place.log("a");
    for _ in 0..3 {
        shell("head -c 33M /dev/urandom | $scuttleup --log \"$LOG\" append --raw").env("LOG", &log).success();
    }
    shell("ulimit -d $((99 << 10)); $scuttleup --log \"$LOG\" compact").env("LOG", &log).success();
    assert_eq!(packs(&log).len(), 2);
}

/// A log in which `compact` does all its steps: it seals, rewrites a pack, merges packs, and writes data.mdb again.
fn with_work(place: &Place) -> PathBuf {
    let log = place.log("a");
    append(&log, (0..300).map(|n| format!("\"{n} {}\"\n", "x".repeat(n))).collect::<String>());
    compact(&log);
    append(&log, (300..700).map(|n| format!("\"{n} {}\"\n", "x".repeat(n))).collect::<String>());
    for seq in ["5", "299", "400"] {
        Run::new(&log).args(["del", "a", seq]).success();
    }
    log
}

#[test]
fn a_kill_at_any_step_of_compact_loses_and_doubles_nothing() {
    let kills = compacted_with(Fault::Kill, &CALLS);
    assert!(kills > 40, "only {kills} kills");
}

#[test]
fn a_failing_call_of_compact_loses_nothing_and_is_reported() {
    for fault in [Fault::Full, Fault::Broken] {
        let faults = compacted_with(fault, &FAILING_CALLS);
        assert!(faults > 60, "only {faults} faults");
    }
}

/// Compacts a log with a fault in each of the calls. Returns the number of faults.
fn compacted_with(fault: Fault, calls: &[&'static str]) -> u32 {
    let place = Place::new();
    let log = with_work(&place);
    let (mut expected, mut count) = (printed(&log), 700);
    let faults = at_each_call(fault, calls, |step| {
        let (hit, ended) = step.run(&log, &["-q", "compact"], "");
        assert_eq!(read(&log), expected[0], "{step}");
        // Sometimes the next step is a compaction, sometimes a writer.
        if step.when % 4 == 0 {
            assert_no_orphans(&log);
        }
        if ended.status.success() {
            assert_whole(&log, step);
            let info = &Run::new(&log).args(["info"]).success().json()[0];
            assert_eq!(info["packs"], packs(&log).len(), "{step}: done, but a file is left");
        }
        // There is work for the next step, also if this one had no fault.
        append(&log, format!("\"{step}\"\n").repeat(30));
        count += 30;
        Run::new(&log).args(["del", "a", &(count - 20).to_string()]).success();
        expected = vec![read(&log)];
        hit
    });
    expected = printed(&log);
    assert_no_orphans(&log);
    assert_eq!(printed(&log), expected);
    faults
}

#[test]
fn a_damaged_pack_gives_an_error_and_no_wrong_byte() {
    let place = Place::new();
    let log = varied(&place);
    compact(&log);
    let expected = read(&log);
    let pack = log.join("packs/00000000000000000001.pack");
    let good = fs::read(&pack).expect("the pack");
    let check = |what: &str| {
        let ended = Run::new(&log).args(["read"]).end();
        let (text, stderr) = (ended.printed.text(), &ended.printed.stderr);
        assert!(expected.starts_with(text), "{what}: wrong lines");
        assert_eq!(ended.status.code(), Some(i32::from(text != expected)), "{what}: {stderr}");
        assert!(text == expected || stderr.contains("00000000000000000001.pack is "), "{what}: {stderr}");
    };
    let mut random = Random(7);
    for _ in 0..150 {
        let at = random.below(good.len());
        let file = fs::OpenOptions::new().write(true).open(&pack).expect("the pack");
        file.write_all_at(&[good[at] ^ 1 << random.below(8)], at as u64).expect("a write");
        check(&format!("byte {at}"));
        file.write_all_at(&good[at..=at], at as u64).expect("a write");
    }
    for bytes in [0, 1, 63, 64, good.len() / 2, good.len() - 1] {
        fs::write(&pack, &good[..bytes]).expect("a write");
        check(&format!("{bytes} bytes"));
    }
    fs::remove_file(&pack).expect("the pack");
    check("no file");
    fs::write(&pack, &good).expect("a write");
    assert_eq!(read(&log), expected);
}

#[test]
fn a_log_of_format_1_is_read_and_upgraded_by_its_first_writer() {
    let place = Place::new();
    let log = place.log_of_format_1();
    let old = fs::read_to_string(format_1_file("read.ndjson")).expect("the lines that the earlier program printed");
    let data = fs::read(log.join("data.mdb")).expect("the data file");
    assert_eq!(read(&log), old);
    assert_eq!(heads(&log), ["{\"peer\":\"old\",\"seq\":41}", "{\"peer\":\"other\",\"seq\":4}"]);
    assert!(fs::read(log.join("data.mdb")).expect("the data file") == data, "a reader does not upgrade it");
    Run::new(&log).args(["append"]).stdin("\"new\"\n").success();
    let new = read(&log);
    assert!(new.starts_with(&old) && new.lines().count() == 46, "{new}");
    assert_eq!(Run::new(&log).args(["heads"]).success().json().iter().filter(|head| head["fork"] == true).count(), 1);
    let before = printed_feeds(&log);
    compact(&log);
    assert_eq!(printed_feeds(&log), before);
}

fn printed_feeds(log: &Path) -> (String, Vec<String>, String) {
    (read(log), heads(log), root(log))
}

/// The newest entry is never sealed, so a wait for its sealing would not end.
#[test]
fn a_newest_entry_that_is_too_long_to_stay_unsealed_holds_up_no_append() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n2\n");
    pretend_to_be_large(&log);
    for n in 3..8 {
        let trace = place.path("trace");
        let strace = Run::program("strace").args(["-f", "-qq", "-e", "trace=clone3", "-o"]).args([&trace]);
        strace.args([SCUTTLEUP, "-q", "--log"]).args([&log]).args(["append"]).stdin(format!("{n}\n")).stderr("").success();
        let threads = fs::read_to_string(&trace).expect("a trace").matches("clone3(").count();
        assert!(threads <= 5, "{threads} threads were started");
    }
    assert_eq!(read(&log).lines().count(), 7);
}

#[test]
fn old_entries_are_sealed_while_many_processes_use_the_log() {
    const WRITERS: usize = 4;
    const LINES: usize = 200_000;
    let place = Place::new();
    let (log, other) = (place.log("a"), place.log("b"));
    let dir = log.to_str().expect("UTF-8");
    let mut session = Run::new(&other).args(["-q", "replicate", "--", SCUTTLEUP, "-q", "--log", dir, "replicate"]).spawn();
    let watch = || shell("exec $scuttleup --log \"$LOG\" watch --no-entry > /dev/null").env("LOG", &log).spawn();
    let mut watching: Vec<_> = (0..20).map(|_| watch()).collect();
    // About 270 bytes each: together more than the unsealed part may hold.
    let lines = |writer: usize| {
        let line = |n| format!("{{\"writer\":{writer},\"n\":{n},\"pad\":\"{}\"}}\n", "x".repeat(230 + n % 40));
        (0..LINES).map(line).collect::<String>()
    };
    std::thread::scope(|threads| {
        for writer in 0..WRITERS {
            let log = &log;
            threads.spawn(move || append(log, lines(writer)));
        }
    });
    for running in &mut watching {
        running.signal(Signal::SIGTERM);
        assert_eq!(running.wait().status.code(), Some(143));
    }
    session.signal(Signal::SIGTERM);
    session.wait();
    let info = &Run::new(&log).args(["info"]).success().json()[0];
    assert!(info["packs"].as_u64() > Some(0) && info["data_bytes"].as_u64() < Some(300 << 20), "{info}");
    let printed = Run::new(&log).args(["read", "--no-entry"]).success();
    let total = WRITERS * LINES;
    let expected: String = (1..=total).map(|n| format!("{{\"offset\":{n},\"peer\":\"a\",\"seq\":{n}}}\n")).collect();
    assert!(printed.text() == expected, "entries are missing or doubled");
    Run::new(&other).args(["replicate", "--once", "--", SCUTTLEUP, "--log", dir, "replicate"]).success();
    assert_equal(&log, &other);
    assert_no_orphans(&log);
}

#[test]
fn a_power_cut_loses_no_acknowledged_entry() {
    let cuts = |args: &[&str]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/power-cuts");
        Run::program(script).args(args).env("SCUTTLEUP", SCUTTLEUP).success();
    };
    cuts(&["--cuts", "2"]);
    // Without syncs, entries must be lost: then the cuts are real.
    cuts(&["--cuts", "20", "--without-sync"]);
}
