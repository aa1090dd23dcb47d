//! Damaged, old and torn files of a log: they are never taken for an empty log, for an older log or for a complete log. And
//! backups that work.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use scuttleup::Log;

use crate::harness::{PACKED, Place, Printed, Run, SCUTTLEUP, STEP, append, assert_equal, compact_if, heads, read, shell};

/// The commands that open a log for reading or for writing.
const COMMANDS: [&[&str]; 8] = [
    &["read"],
    &["watch"],
    &["heads"],
    &["info"],
    &["entry", "own", "1"],
    &["append", "--ack"],
    &["write"],
    &["replicate", "--once", "--", "true"],
];

const META_PAGE_BYTES: u64 = 4096;

fn data(log: &Path) -> Vec<u8> {
    fs::read(log.join("data.mdb")).expect("the data file")
}

fn write_at(log: &Path, name: &str, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(log.join(name)).expect("a file of the log");
    file.write_all_at(bytes, at).expect("it can be written");
}

fn flip(log: &Path, at: u64, bit: u32) {
    let byte = data(log)[usize::try_from(at).expect("a position")];
    write_at(log, "data.mdb", at, &[byte ^ 1 << bit]);
}

/// Replaces `from` by `to` wherever it is in the data file.
fn replace(log: &Path, from: &[u8], to: &[u8]) {
    let data = data(log);
    let found: Vec<usize> = data.windows(from.len()).enumerate().filter(|(_, part)| *part == from).map(|(at, _)| at).collect();
    assert!(!found.is_empty());
    found.iter().for_each(|at| write_at(log, "data.mdb", *at as u64, to));
}

/// The number of the transaction on each of the two meta pages.
fn txns(log: &Path) -> [u64; 2] {
    let data = data(log);
    [0, 4096].map(|page| u64::from_le_bytes(data[page + 144..page + 152].try_into().expect("8 bytes")))
}

fn bell(log: &Path) -> Vec<u8> {
    fs::read(log.join("bell")).expect("the bell")
}

/// A log `own` with `commits` entries, each in its own commit. If `packed`, all entries but the last two are in a pack.
fn log_of(place: &Place, commits: u64, packed: bool) -> PathBuf {
    let path = place.log("own");
    let log = Log::open(&path).expect("a log");
    for n in 1..=commits {
        if n == commits {
            compact_if(packed, &path);
        }
        assert_eq!(u64::from(log.append(n.to_string().as_bytes()).expect("stored").get()), n);
    }
    path
}

/// Runs `test` with a place for a log whose entries are in data.mdb, and for one whose older entries are in a pack.
fn unpacked_and_packed(test: impl Fn(&Place, bool)) {
    PACKED.into_iter().for_each(|packed| test(&Place::new(), packed));
}

fn one_line(printed: &Printed) {
    assert!(printed.stderr.starts_with("scuttleup: ") && printed.stderr.matches('\n').count() == 1, "{}", printed.stderr);
}

/// Every command must fail with this error and change nothing.
fn assert_refused(log: &Path, error: &str) {
    let before = data(log);
    for args in COMMANDS.iter().chain([&["init"][..]].iter()) {
        let run = Run::new(log).args(*args).stdin("1\n").stdout("").stderr_has(error);
        one_line(&run.stderr_has("restore the log from a backup").status(1));
    }
    assert!(data(log) == before, "the data file was changed");
}

const NO_TABLE: &str = "holds a log, but a table is missing in data.mdb";
const LOST: &str = "the last commits are missing in ";

#[test]
fn a_log_whose_tables_cannot_be_found_is_never_begun_anew() {
    for packed in PACKED {
        let damages: [fn(&Path); 2] = [
            |log| replace(log, b"entries", b"entrier"),
            // LMDB then compares the names of the tables from their ends.
            |log| [0, META_PAGE_BYTES].iter().for_each(|page| flip(log, page + 92, 1)),
        ];
        for damage in damages {
            for gone in [&[][..], &["created"], &["bell"], &["created", "bell"]] {
                let place = Place::new();
                let log = log_of(&place, 3, packed);
                damage(&log);
                gone.iter().for_each(|name| fs::remove_file(log.join(name)).expect("it exists"));
                assert_refused(&log, NO_TABLE);
                gone.iter().for_each(|name| assert!(!log.join(name).exists(), "{name} was created"));
            }
        }
    }
}

#[test]
fn a_log_without_its_data_file_is_never_begun_anew() {
    for packed in PACKED {
        for gone in [&[][..], &["created"], &["bell"]] {
            let place = Place::new();
            let log = log_of(&place, 3, packed);
            fs::write(log.join("data.mdb"), "").expect("the data file");
            gone.iter().for_each(|name| fs::remove_file(log.join(name)).expect("it exists"));
            assert_refused(&log, "data.mdb is truncated");
        }
    }
}

#[test]
fn a_feed_whose_head_is_lost_is_never_begun_anew() {
    unpacked_and_packed(|place, packed| {
        let log = log_of(place, 3, packed);
        // The row of the feed: its id, its number and its head.
        replace(&log, b"own\0\0\0\0\x03\0\0\0", b"oxn\0\0\0\0\x03\0\0\0");
        let run = Run::new(&log).args(["append", "--ack"]).stdin("1\n").stdout("");
        one_line(&run.stderr_has("the head of the local feed own is missing").status(1));
    });
}

#[test]
fn the_first_writer_adds_the_missing_files() {
    unpacked_and_packed(|place, packed| {
        let log = log_of(place, 3, packed);
        let created = || fs::read_to_string(log.join("created")).expect("the file");
        let written = |text: &str| text.strip_prefix("format 2\nwritten ")?.strip_suffix("\nid own\n")?.parse::<u64>().ok();
        let first = created();
        assert!(written(&first).is_some(), "{first}");
        append(&log, "4\n");
        assert_eq!(created(), first);
        ["created", "bell"].iter().for_each(|name| fs::remove_file(log.join(name)).expect("it exists"));
        assert_eq!(read(&log).lines().count(), 4);
        assert!(!log.join("created").exists());
        append(&log, "5\n");
        assert!(written(&created()).is_some());
        assert_eq!(bell(&log).len(), 8);
        // The machine failed before the content was on the disk.
        fs::write(log.join("created"), "").expect("the file");
        append(&log, "6\n");
        assert!(written(&created()).is_some());
    });
}

/// The number of the newest transaction, and its meta page.
fn newest(log: &Path) -> (u64, u64) {
    let [first, second] = txns(log);
    if second > first { (second, 1) } else { (first, 0) }
}

#[test]
fn a_log_that_has_lost_its_last_commit_is_refused_until_the_bell_is_emptied() {
    unpacked_and_packed(|place, packed| {
        let log = log_of(place, 299, packed);
        let (number, page) = newest(&log);
        assert_eq!(bell(&log), number.to_be_bytes());
        // The number gets lower by 256: LMDB then uses the older meta page.
        flip(&log, page * META_PAGE_BYTES + 145, 0);
        assert_refused(&log, LOST);
        fs::write(log.join("bell"), "").expect("the bell");
        assert_eq!(read(&log).lines().count(), 298);
        append(&log, "\"new\"\n");
        assert_eq!(bell(&log), newest(&log).0.to_be_bytes());
        assert_eq!(heads(&log), ["{\"peer\":\"own\",\"seq\":299}"]);
    });
}

#[test]
fn an_older_meta_page_that_looks_newer_is_refused() {
    unpacked_and_packed(|place, packed| {
        let log = log_of(place, 299, packed);
        let (number, page) = newest(&log);
        for higher in [number + 1, number + 1 + (1 << 30)] {
            write_at(&log, "data.mdb", (1 - page) * META_PAGE_BYTES + 144, &higher.to_le_bytes());
            assert_refused(&log, &format!("mixes pages of the transactions {} and {higher}", number - 1));
        }
        write_at(&log, "data.mdb", (1 - page) * META_PAGE_BYTES + 144, &(number - 1).to_le_bytes());
        assert_eq!(read(&log).lines().count(), 299);
    });
}

#[test]
fn meta_pages_that_contradict_each_other_are_refused() {
    for packed in PACKED {
        // Another page size would crash LMDB. With fewer pages, a writer would write over pages that are in use.
        for (at, bytes) in [(40, &8192u32.to_le_bytes()[..]), (136, &3u64.to_le_bytes())] {
            let place = Place::new();
            let log = log_of(&place, 9, packed);
            write_at(&log, "data.mdb", newest(&log).1 * META_PAGE_BYTES + at, bytes);
            assert_refused(&log, "data.mdb has meta pages that contradict each other");
        }
    }
}

#[test]
fn a_page_size_that_no_log_has_is_refused() {
    for size in [0, 1, 2048, 1 << 16, u32::MAX] {
        let place = Place::new();
        let log = log_of(&place, 3, false);
        write_at(&log, "data.mdb", 40, &u32::to_le_bytes(size));
        assert_refused(&log, "data.mdb has meta pages that contradict each other");
    }
}

/// One bit of each byte of both meta pages that LMDB uses, and each bit of the page size.
#[test]
fn each_flipped_bit_of_a_meta_page_is_refused_or_changes_nothing() {
    let place = Place::new();
    let log = log_of(&place, 5, true);
    let files = ["data.mdb", "bell", "created"];
    let good = files.map(|name| fs::read(log.join(name)).expect("a file"));
    let (lines, mut refused) = (read(&log), 0);
    for at in 0..152 {
        let bits = if (40..44).contains(&at) { 0..8 } else { at % 8..at % 8 + 1 };
        for (page, bit) in bits.flat_map(|bit| [(0, bit), (1, bit)]) {
            flip(&log, page * META_PAGE_BYTES + at, u32::try_from(bit).expect("a bit"));
            let bad = data(&log);
            let reading = Run::new(&log).args(["read"]).end();
            let appending = Run::new(&log).args(["append", "--ack"]).stdin("\"new\"\n").end();
            for (ended, complete) in [(&reading, &*lines), (&appending, "{\"peer\":\"own\",\"seq\":6}\n")] {
                let said = format!("page {page}, byte {at}, bit {bit}: {}", ended.printed.stderr);
                if ended.status.code() == Some(0) {
                    assert_eq!(ended.printed.text(), complete, "{said}");
                } else {
                    assert_eq!((ended.status.code(), ended.printed.text()), (Some(1), ""), "{said}");
                    one_line(&ended.printed);
                    refused += 1;
                }
            }
            assert!(appending.status.success() || data(&log) == bad, "page {page}, byte {at}, bit {bit}: the file was changed");
            for (name, bytes) in files.iter().zip(&good) {
                let file = File::options().write(true).open(log.join(name)).expect("a file");
                file.write_all_at(bytes, 0).and_then(|()| file.set_len(bytes.len() as u64)).expect("it can be written");
            }
        }
    }
    assert!(refused > 50, "{refused} commands were refused");
}

#[test]
fn an_older_data_file_that_is_put_back_is_refused() {
    unpacked_and_packed(|place, packed| {
        let (log, backup) = (log_of(place, 3, packed), place.path("backup"));
        fs::create_dir(&backup).expect("a directory");
        let copy = |from: &Path, to: &Path, names: &[&str]| {
            names.iter().for_each(|name| fs::copy(from.join(name), to.join(name)).map(|_| ()).expect("a copy"));
        };
        copy(&log, &backup, &["data.mdb", "bell", "created"]);
        if packed {
            Run::program("cp").args(["-r"]).args([log.join("packs"), backup.join("packs")]).success();
        }
        (4..9).for_each(|n| append(&log, format!("{n}\n")));
        copy(&backup, &log, &["data.mdb"]);
        assert_refused(&log, LOST);
        // The complete backup is a log.
        assert_eq!(read(&backup).lines().count(), 3);
        Run::new(&backup).args(["-q", "append"]).stdin("4\n").stderr_has("feed of the new id own~").success();
    });
}

#[test]
fn a_bell_that_is_missing_older_or_of_an_earlier_program_is_no_damage() {
    for packed in PACKED {
        let states: [(&str, Option<&[u8]>); 6] = [
            ("missing", None),
            ("empty", Some(b"")),
            ("of an earlier program", Some(b"!")),
            ("of an earlier program, and extended", Some(b"!\0\0\0\0\0\0\0")),
            ("not written before the machine failed", Some(b"\0\0\0\0\0\0\0\0")),
            ("older", Some(b"\0\0\0\0\0\0\0\x02")),
        ];
        for (name, state) in states {
            let place = Place::new();
            let log = log_of(&place, 5, packed);
            match state {
                None => fs::remove_file(log.join("bell")),
                Some(bytes) => fs::write(log.join("bell"), bytes),
            }
            .expect("the bell");
            assert_eq!(read(&log).lines().count(), 5, "{name}");
            append(&log, "6\n");
            assert_eq!(bell(&log), txns(&log).into_iter().max().expect("a number").to_be_bytes(), "{name}");
            // Another kind of commit.
            Run::new(&log).args(["del", "own", "1"]).success();
            assert_eq!(bell(&log), txns(&log).into_iter().max().expect("a number").to_be_bytes(), "{name}");
        }
    }
}

#[test]
fn an_open_log_that_has_lost_commits_is_refused_too() {
    unpacked_and_packed(|place, packed| {
        let log = log_of(place, 3, packed);
        let mut watching = Run::new(&log).args(["watch"]).spawn();
        (0..3).for_each(|_| drop(watching.line()));
        let mut appending = Run::new(&log).args(["append", "--ack"]).spawn();
        appending.send("4\n");
        appending.line();
        watching.line();
        // As if the data file were older than the bell.
        write_at(&log, "bell", 0, &99u64.to_be_bytes());
        appending.send("5\n");
        for mut run in [watching, appending] {
            let ended = run.wait();
            assert_eq!((ended.status.code(), &*ended.printed.stdout), (Some(1), &b""[..]), "{}", ended.printed.stderr);
            assert!(ended.printed.stderr.contains(LOST), "{}", ended.printed.stderr);
        }
    });
}

/// The error that the number cannot be written is made by strace. The file keeps its old content.
#[test]
fn a_stored_entry_is_never_reported_as_failed() {
    for packed in PACKED {
        for args in [&["append", "--ack"][..], &["write"], &["del", "own", "1"]] {
            let place = Place::new();
            let log = log_of(&place, 3, packed);
            let mut watching = Run::new(&log).args(["watch"]).spawn();
            (0..3).for_each(|_| drop(watching.line()));
            let before = bell(&log);
            let strace = ["-f", "-qq", "-o", "/dev/null", "-e", "inject=pwrite64:error=ENOSPC", "-P"];
            let run = Run::program("strace").args(strace).args([log.join("bell")]).args([SCUTTLEUP, "-q", "--log"]).args([&log]);
            let mut writing = run.args(args).spawn();
            if args[0] != "del" {
                writing.send(if args[0] == "append" { "4\n" } else { "{\"peer\":\"own\",\"seq\":4,\"entry\":4}\n" });
                // The watcher wakes while the writer is still running: the writer waits for more input.
                assert!(watching.line().contains("\"seq\":4"));
            }
            let ended = writing.finish();
            assert_eq!((ended.status.code(), &*ended.printed.stderr), (Some(0), ""), "{args:?}");
            assert_eq!(bell(&log), before, "the number was written");
            append(&log, "5\n");
            assert_ne!(bell(&log), before);
        }
    }
}

#[test]
fn a_new_log_has_the_space_for_its_bell() {
    let place = Place::new();
    let log = place.log("own");
    let bell = fs::metadata(log.join("bell")).expect("the bell");
    assert!(bell.len() == 8 && bell.blocks() > 0, "no space is allocated for the number");
}

/// A row of a damaged page that is found by a cursor and not by its key cannot be removed.
#[test]
fn a_compaction_of_a_damaged_page_ends() {
    let place = Place::new();
    let log = place.log("own");
    (0..2).for_each(|_| append(&log, (0..1500).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>()));
    let good = data(&log);
    let leaves = (2..good.len() / 4096).filter(|page| good[page * 4096 + 10] == 2 && good[page * 4096 + 12] > 64);
    let mut refused = 0;
    for page in leaves {
        let copy = place.path("copy");
        fs::create_dir(&copy).and_then(|()| fs::write(copy.join("data.mdb"), &good)).expect("a copy");
        // The upper bound of the rows: some of them are outside of it.
        flip(&copy, page as u64 * 4096 + 15, 3);
        let ended = Run::new(&copy).args(["-q", "compact"]).end();
        assert!(matches!(ended.status.code(), Some(0 | 1)), "page {page}: {}", ended.printed.stderr);
        refused += u32::from(ended.printed.stderr.contains("cannot be removed"));
        fs::remove_dir_all(&copy).expect("it exists");
    }
    assert!(refused > 0, "no row was left");
}

/// The number of lines of `read` and the head of `heads`; `None` for a command that fails.
fn count_and_head(log: &Path) -> (Option<u64>, Option<u64>) {
    let [reading, heads] = ["read", "heads"].map(|command| Run::new(log).args([command]).end());
    let head =
        heads.status.success().then(|| heads.printed.json().iter().map(|head| head["seq"].as_u64().expect("a number")).sum());
    (reading.status.success().then_some(reading.printed.lines().len() as u64), head)
}

/// A copy reads the pages of the data file one after the other, while a writer changes them.
#[test]
fn a_copy_under_load_is_complete_or_refused_at_every_seam() {
    let place = Place::new();
    let log = place.log("own");
    let lines = |count: u64| (0..count).map(|n| format!("{{\"n\":{n},\"pad\":\"{}\"}}\n", "x".repeat(44))).collect::<String>();
    (0..2).for_each(|_| append(&log, lines(600)));
    let early = data(&log);
    (0..4).for_each(|_| append(&log, lines(1)));
    let late = data(&log);
    let padded = [&early[..], &late[early.len()..]].concat();
    let mut refused = 0;
    for seam in 2..=early.len() / 4096 {
        // Pages of an early commit before the seam, and of a late commit after it; and the other way round.
        for (first, second) in [(&padded, &late), (&late, &padded)] {
            let copy = place.path("copy");
            fs::create_dir(&copy).expect("a directory");
            // Without the bell, which would show that the last commits are missing.
            fs::write(copy.join("data.mdb"), [&first[..seam * 4096], &second[seam * 4096..]].concat()).expect("the data file");
            let (count, head) = count_and_head(&copy);
            assert!(count.is_none() || count == head, "seam {seam}: {count:?} entries, head {head:?}");
            assert!(count.is_none_or(|count| count >= 1200), "seam {seam}: {count:?} entries");
            refused += u64::from(count.is_none());
            // The copy keeps its id, so that the append must continue its local feed.
            let line = "$scuttleup --log \"$COPY\" id --keep >/dev/null && $scuttleup --log \"$COPY\" append --ack";
            let appending = shell(line).env("COPY", &copy).stdin("\"new\"\n").end();
            if appending.status.success() {
                assert_eq!(appending.printed.json()[0]["seq"].as_u64(), head.map(|head| head + 1), "seam {seam}");
            } else {
                one_line(&appending.printed);
                assert!(appending.printed.stderr.contains("restore the log from a backup"), "{}", appending.printed.stderr);
            }
            fs::remove_dir_all(&copy).expect("it exists");
        }
    }
    assert!(refused > 10, "{refused} copies were refused");
}

/// Appends single lines until `stop`, and sends a message after each commit.
fn append_until(stop: &AtomicBool, log: &Path, commits: &Sender<()>) {
    let mut appending = Run::new(log).args(["append", "--ack"]).spawn();
    while !stop.load(Ordering::Relaxed) {
        appending.send("{\"some\":\"line\"}\n");
        appending.line();
        commits.send(()).expect("the test is running");
    }
    assert!(appending.finish().status.success());
}

#[test]
fn the_backups_of_the_manual_are_complete_while_appenders_run() {
    let place = Place::new();
    let log = place.log("own");
    let mirror = place.path("mirror");
    let (stop, (commits, committed)) = (AtomicBool::new(false), channel());
    let backup = |name: &str, line: &str| {
        shell(line).env("LOG", &log).env("MIRROR", &mirror).env("FILE", place.path(name)).success();
    };
    thread::scope(|threads| {
        for _ in 0..2 {
            let (stop, log, commits) = (&stop, &log, commits.clone());
            threads.spawn(move || append_until(stop, log, &commits));
        }
        for n in 0..4 {
            (0..20).for_each(|_| committed.recv_timeout(STEP).expect("appenders run"));
            // The third and the fourth backup are of a log with packs.
            compact_if(n >= 2, &log);
            backup(&format!("lines{n}"), "$scuttleup --log \"$LOG\" read | gzip > \"$FILE\"");
            let push = "replicate --once --mode push -- $scuttleup -q --log \"$MIRROR\" replicate";
            backup(
                &format!("mirror{n}"),
                &format!("$scuttleup -q --log \"$LOG\" {push}; $scuttleup --log \"$MIRROR\" read > \"$FILE\""),
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
    let all = read(&log);
    for n in 0..4 {
        let restored = place.path(&format!("restored{n}"));
        let line = "zcat \"$FILE\" | $scuttleup -q --log \"$RESTORED\" write";
        shell(line).env("FILE", place.path(&format!("lines{n}"))).env("RESTORED", &restored).success();
        let mirrored = fs::read_to_string(place.path(&format!("mirror{n}"))).expect("lines");
        for backup in [read(&restored), mirrored] {
            assert!(backup.lines().count() >= 20 * (n + 1), "{} entries", backup.lines().count());
            assert!(all.starts_with(&backup), "the backup has other entries than the log");
        }
    }
    Run::new(&log)
        .args(["-q", "replicate", "--once", "--", SCUTTLEUP, "-q", "--log"])
        .args([&mirror])
        .args(["replicate"])
        .success();
    assert_equal(&log, &mirror);
}
