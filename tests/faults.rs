//! Faults outside of the program: wrong directories, missing permissions, full or failing disks, damaged files. Each is reported
//! with a clear error.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::harness::{PACKED, Place, Run, SCUTTLEUP, append, compact_if, read, shell};

/// Runs scuttleup on `log` as user nobody, because permissions do not restrict root.
pub fn as_nobody(log: &Path, args: &[&str]) -> Run {
    Run::program("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups", SCUTTLEUP, "--log"]).args([log]).args(args)
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the mode can be set");
}

/// A log with two entries, of which the first one is in a pack if `packed`.
fn two_entries(place: &Place, packed: bool) -> PathBuf {
    let log = place.log("a");
    append(&log, "1\n2\n");
    compact_if(packed, &log);
    log
}

/// The lines of `read --no-entry` for this log.
const TWO_ENTRIES: &str = "{\"offset\":1,\"peer\":\"a\",\"seq\":1}\n{\"offset\":2,\"peer\":\"a\",\"seq\":2}\n";

/// [`two_entries`] in a log that belongs to user nobody, in a directory that this user may enter but not change.
pub fn open_to_nobody(place: &Place, packed: bool) -> PathBuf {
    set_mode(&place.path("."), 0o755);
    let log = two_entries(place, packed);
    Run::program("chown").args(["-R", "65534:65534"]).args([&log]).success();
    log
}

fn one_line(printed: &crate::harness::Printed) {
    assert!(printed.stderr.starts_with("scuttleup: ") && printed.stderr.matches('\n').count() == 1, "{}", printed.stderr);
}

#[test]
fn a_log_directory_that_is_a_file_is_an_error() {
    let place = Place::new();
    let file = place.file("file", "mine");
    for log in [&file, &file.join("below")] {
        for args in [&["append"][..], &["write"], &["init"], &["read"], &["watch"], &["heads"], &["del", "a", "1"]] {
            one_line(&Run::new(log).args(args).stdin("1\n").stdout("").stderr_has("is not a directory").status(1));
        }
    }
    assert_eq!(fs::read(&file).expect("it exists"), b"mine");
}

#[test]
fn an_unreadable_log_is_an_error() {
    PACKED.into_iter().for_each(unreadable);
}

fn unreadable(packed: bool) {
    let place = Place::new();
    let log = open_to_nobody(&place, packed);
    as_nobody(&log, &["read", "--no-entry"]).stdout(TWO_ENTRIES).stderr("").success();
    if packed {
        let pack = log.join("packs/00000000000000000001.pack");
        set_mode(&pack, 0);
        let run = as_nobody(&log, &["read"]).stdout("").stderr_has("00000000000000000001.pack");
        one_line(&run.stderr_has("Permission denied").status(1));
        as_nobody(&log, &["read", "--after", "1", "--no-entry"]).stderr("").success();
        set_mode(&pack, 0o600);
    }
    let refused = |what: &str| {
        for args in [&["append"][..], &["read"], &["heads"]] {
            let run = as_nobody(&log, args).stdin("2\n").stdout("");
            one_line(&run.stderr_has(what).stderr_has("Permission denied").status(1));
        }
    };
    set_mode(&log.join("data.mdb"), 0);
    refused("data.mdb cannot be opened");
    set_mode(&log.join("data.mdb"), 0o600);
    set_mode(&log, 0);
    refused(log.to_str().expect("UTF-8"));
    set_mode(&log, 0o700);
    assert_eq!(read(&log).lines().count(), 2);
}

#[test]
fn a_read_only_log_is_an_error_for_writers() {
    PACKED.into_iter().for_each(read_only);
}

fn read_only(packed: bool) {
    let place = Place::new();
    let log = open_to_nobody(&place, packed);
    set_mode(&log.join("data.mdb"), 0o400);
    for args in [&["append"][..], &["del", "a", "1"], &["write"]] {
        let run = as_nobody(&log, args).stdin("2\n").stdout("");
        one_line(&run.stderr_has(log.to_str().expect("UTF-8")).stderr_has("Permission denied").status(1));
    }
    as_nobody(&log, &["read", "--no-entry"]).stdout(TWO_ENTRIES).stderr("").success();
    // No log can be created in these directories.
    let none = place.path("none");
    one_line(&as_nobody(&none, &["append"]).stdin("2\n").stderr_has("none cannot be created: Permission denied").status(1));
    fs::create_dir(&none).expect("a directory");
    one_line(&as_nobody(&none, &["append"]).stdin("2\n").stderr_has("Permission denied").status(1));
    assert_eq!(fs::read_dir(&none).expect("a directory").count(), 0);
}

#[test]
fn a_read_only_file_system_can_be_read() {
    for packed in PACKED {
        let place = Place::new();
        let log = two_entries(&place, packed);
        let line = "unshare --mount bash -ec 'mount --bind \"$LOG\" \"$LOG\"; mount -o remount,ro,bind \"$LOG\"; \
                    $SCUTTLEUP --log \"$LOG\" read; echo 3 | $SCUTTLEUP --log \"$LOG\" append'";
        let run = shell(line).env("LOG", &log).stdout(read(&log));
        one_line(&run.stderr_has("Read-only file system").status(1));
    }
}

#[test]
fn a_full_stdout_is_exit_5() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n");
    for command in ["read", "watch", "heads", "id", "info", "completions bash", "entry a 1", "entry a 1 --raw"] {
        let run = shell(&format!("echo 2 | $scuttleup --log \"$LOG\" {command} > /dev/full")).env("LOG", &log);
        let reason = "cannot write to stdout (No space left on device (os error 28)): free some space where stdout is stored";
        run.stderr(&format!("scuttleup: {reason}\n")).status(5);
    }
}

#[test]
fn a_full_stdout_of_a_comparison_is_exit_5() {
    let place = Place::new();
    let log = place.log("a");
    let run = shell("$scuttleup --log \"$LOG\" compare -- $scuttleup --log \"$LOG\" replicate > /dev/full").env("LOG", &log);
    run.stderr_has("cannot write to stdout (No space left on device (os error 28))").status(5);
}

/// A full stdout does not turn a finished change or session into a failure without a word.
#[test]
fn a_full_stdout_does_not_hide_what_was_done() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1\n");
    let full =
        "scuttleup: cannot write to stdout (No space left on device (os error 28)): free some space where stdout is stored";
    let run = |line: &str| shell(&format!("{line} > /dev/full")).env("A", &a).env("B", &b);
    run("$scuttleup --log \"$A\" id --new c").stderr(&format!("{full}; the log has the id c now\n")).status(5);
    let words = "$scuttleup --log \"$B\" replicate --once --json -- $scuttleup --log \"$A\" replicate";
    run(words).stderr(&format!("scuttleup: synced with c: sent 0 (0 durable on the remote), received 1\n{full}\n")).status(5);
}

#[test]
fn a_failed_sync_ends_the_process_and_is_not_retried() {
    for packed in PACKED {
        let place = Place::new();
        let log = two_entries(&place, packed);
        let strace = ["-f", "-qq", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO:when=1", SCUTTLEUP];
        let run = Run::program("strace").args(strace).args(["append", "--ack"]).env("SCUTTLEUP_LOG", &log).stdin("3\n4\n");
        one_line(&run.stdout("").stderr_has("Input/output error").status(1));
        assert_eq!(read(&log).lines().count(), 2);
    }
}

/// The positions of `needle` in the data file.
fn places(log: &Path, needle: &[u8]) -> Vec<usize> {
    let data = fs::read(log.join("data.mdb")).expect("the data file");
    data.windows(needle.len()).enumerate().filter(|(_, part)| *part == needle).map(|(at, _)| at).collect()
}

fn patch(log: &Path, at: usize, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(log.join("data.mdb")).expect("the data file");
    file.write_all_at(bytes, at as u64).expect("it can be written");
}

/// The key and the start of the value of a run in the data file, as described in scuttleup-store(5).
fn run_row(number: u32, first_seq: u32, first_offset: u64, count: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &first_seq.to_be_bytes(), &first_offset.to_le_bytes(), &count.to_le_bytes()].concat()
}

#[test]
fn runs_end_at_1024_entries_and_when_an_entry_of_another_feed_follows() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, (0..2500).map(|n| format!("{n}\n")).collect::<String>());
    let line = |peer: &str, seq: u32| format!("{{\"peer\":\"{peer}\",\"seq\":{seq},\"entry\":{seq}}}\n");
    Run::new(&log).args(["write"]).stdin([line("p", 1), line("p", 2), line("q", 1), line("p", 3)].concat()).success();
    let rows = [(0, 1, 1, 1024), (0, 1025, 1025, 1024), (0, 2049, 2049, 452), (1, 1, 2501, 2), (2, 1, 2503, 1), (1, 3, 2504, 1)];
    for (number, first_seq, first_offset, count) in rows {
        let row = run_row(number, first_seq, first_offset, count);
        assert!(!places(&log, &row).is_empty(), "feed {number}, run of {count} from {first_seq}");
    }
}

#[test]
fn a_newer_format_is_refused_and_not_changed() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n");
    let found = places(&log, b"format\x02\0\0\0");
    assert!(!found.is_empty());
    for at in found {
        patch(&log, at + b"format".len(), &[3]);
    }
    let before = fs::read(log.join("data.mdb")).expect("the data file");
    for args in [&["append"][..], &["read"], &["watch"], &["write"], &["heads"], &["info"], &["init"], &["del", "a", "1"]] {
        let run = Run::new(&log).args(args).stdin("2\n").stdout("").stderr_has("has format 3, which is newer than this program");
        one_line(&run.stderr_has("install a newer scuttleup").status(1));
    }
    assert!(fs::read(log.join("data.mdb")).expect("the data file") == before);
}

/// Asserts that every command reports the data file `data` as truncated or invalid and does not change it.
fn assert_truncated(log: &Path, data: &[u8]) {
    fs::write(log.join("data.mdb"), data).expect("the data file");
    for args in [&["append"][..], &["read"], &["watch"], &["heads"], &["entry", "a", "1"], &["init"]] {
        let printed = Run::new(log).args(args).stdin("2\n").stdout("").stderr_has("data.mdb is ").status(1);
        one_line(&printed);
        assert!(printed.stderr.contains("restore"), "{}", printed.stderr);
    }
    assert_eq!(log.join("data.mdb").metadata().expect("it exists").len(), data.len() as u64, "the data file was changed");
}

/// The data file without the hole at its end, which it has after rows were removed.
fn needed(log: &Path) -> Vec<u8> {
    let mut data = fs::read(log.join("data.mdb")).expect("the data file");
    let number = |at: usize| u64::from_ne_bytes(data[at..at + 8].try_into().expect("8 bytes"));
    // The number of the transaction, and that of the last page.
    let (_, last) = [0, 4096].map(|page| (number(page + 144), number(page + 136))).into_iter().max().expect("two meta pages");
    data.truncate((last as usize + 1) * 4096);
    data
}

#[test]
fn a_truncated_data_file_is_an_error_and_not_a_crash() {
    PACKED.into_iter().for_each(truncated);
}

fn truncated(packed: bool) {
    let place = Place::new();
    let log = place.log("a");
    append(&log, (0..1000).map(|n| format!("{n}\n")).collect::<String>());
    compact_if(packed, &log);
    append(&log, (1000..2000).map(|n| format!("{n}\n")).collect::<String>());
    let data = needed(&log);
    // Then without the file `bell` or `created`, and without both, as when only the data file was copied.
    let hide = |name: &str| fs::rename(log.join(name), place.path(name)).expect("it exists");
    for step in 0..4 {
        match step {
            1 => hide("bell"),
            2 => {
                fs::rename(place.path("bell"), log.join("bell")).expect("it exists");
                hide("created");
            }
            3 => hide("bell"),
            _ => {}
        }
        for keep in [1, 100, 152, 4095, 4096, 4097, 5000, 8192, 12_288, data.len() / 2, data.len() - 4096, data.len() - 1] {
            assert_truncated(&log, &data[..keep]);
        }
    }
    fs::write(log.join("data.mdb"), &data).expect("the data file");
    assert_eq!(read(&log).lines().count(), 2000);
}

#[test]
fn a_data_file_that_is_half_created_is_not_a_log_yet() {
    let place = Place::new();
    let log = place.log("a");
    let data = fs::read(log.join("data.mdb")).expect("the data file");
    ["bell", "created"].iter().for_each(|name| fs::remove_file(log.join(name)).expect("it exists"));
    // The first of the two meta pages that LMDB writes first.
    fs::write(log.join("data.mdb"), &data[..4096]).expect("the data file");
    one_line(&Run::new(&log).args(["read"]).stdout("").stderr_has("no log in ").status(1));
    append(&log, "1\n");
    assert_eq!(read(&log).lines().count(), 1);
}

#[test]
fn an_invalid_data_file_is_an_error() {
    let place = Place::new();
    let log = place.log("a");
    for content in [b"hello".to_vec(), vec![0; 100_000], vec![0xff; 100_000]] {
        fs::write(log.join("data.mdb"), content).expect("the data file");
        for args in [&["append"][..], &["read"]] {
            one_line(&Run::new(&log).args(args).stdin("2\n").stdout("").stderr_has("data.mdb is not a data file").status(1));
        }
    }
}

#[test]
fn an_entry_that_is_not_found_is_an_error() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, (0..2000).map(|n| format!("\"needle-{n}-needle\"\n")).collect::<String>());
    // The field at byte 12 of an LMDB page is the end of its list of 2-byte node offsets: 2 less removes the last node.
    let needle = places(&log, b"\"needle-0-needle\"")[0];
    let data = fs::read(log.join("data.mdb")).expect("the data file");
    let at = needle / 4096 * 4096 + 12;
    let lower = u16::from_le_bytes([data[at], data[at + 1]]) - 2;
    patch(&log, at, &lower.to_le_bytes());
    let gone = u64::from(lower - 16) / 2 + 1;
    let said = format!("the entry at offset {gone} is missing");
    let printed = Run::new(&log).args(["read"]).stderr_has(&said).status(1);
    one_line(&printed);
    assert_eq!(printed.lines().len() as u64, gone - 1);
    Run::new(&log).args(["read", "--after", &(gone - 1).to_string()]).stdout("").stderr_has(&said).status(1);
}

#[test]
fn a_damaged_entry_is_found_and_is_not_printed() {
    for (entry, at) in [("\"needle-needle\"".to_owned(), 3), (format!("\"needle-needle{}\"", "x".repeat(20_000)), 15_000)] {
        let place = Place::new();
        let log = place.log("a");
        append(&log, format!("1\n{entry}\n3\n"));
        let found = places(&log, b"\"needle-needle");
        assert!(!found.is_empty());
        for found in found {
            patch(&log, found + at, b"Q");
        }
        let said = "the entry at offset 2 does not match its checksum";
        for options in [&[][..], &["--raw"], &["--text"], &["--no-entry"], &["--live"], &["-n", "2"]] {
            let printed = Run::new(&log).args(["read"]).args(options).stderr_has(said).status(1);
            one_line(&printed);
            // Only the entry before it is printed.
            assert!(!printed.text().contains("\"offset\":2"), "{}", printed.text());
            assert_eq!(printed.lines().len(), usize::from(options != ["-n", "2"]), "{}", printed.text());
        }
        for args in [&["entry", "a", "2"][..], &["entry", "a", "2", "--raw"], &["del", "a", "2"]] {
            one_line(&Run::new(&log).args(args).stdout("").stderr_has(said).status(1));
        }
        // The other entries are still available.
        Run::new(&log).args(["entry", "a", "3", "--raw"]).stdout("3").success();
        Run::new(&log).args(["read", "--after", "2", "--no-entry"]).stdout("{\"offset\":3,\"peer\":\"a\",\"seq\":3}\n").success();
    }
}

#[test]
fn a_thread_that_cannot_be_started_is_an_error() {
    let place = Place::new();
    let log = place.log("a");
    let numbers: String = (1..=50_000).map(|n| format!("{n}\n")).collect();
    append(&log, &numbers);
    let other = place.log("b").display().to_string();
    let session = ["replicate", "--once", "--", SCUTTLEUP, "--log", &other, "replicate"];
    // The first thread that fails. COMMAND is started with the same call as a thread. After the session, a thread waits for it.
    let commands: [(&[&str], &str, u32); 5] =
        [(&["append"], &numbers, 1), (&["read"], "", 1), (&["replicate", "--once"], "", 1), (&session, "", 3), (&session, "", 4)];
    for (args, stdin, first) in commands {
        // Without -f, strace changes the calls of the first thread only.
        let inject = format!("inject=clone3:error=EAGAIN:when={first}+");
        let strace = ["-qq", "-o", "/dev/null", "-e", &inject, SCUTTLEUP];
        let run = Run::program("strace").args(strace).args(args).env("SCUTTLEUP_LOG", &log).stdin(stdin);
        // The remote prints its own messages.
        run.stderr_has("cannot start a thread: Resource temporarily unavailable").status(1);
    }
}

/// The standard library aborts the process if a new thread gets no memory. The error is made by strace.
#[test]
fn an_abort_is_an_error_with_a_message() {
    let place = Place::new();
    let log = place.log("a");
    let numbers: String = (1..=50_000).map(|n| format!("{n}\n")).collect();
    let strace = ["-f", "-qq", "-o", "/dev/null", "-e", "inject=mmap:error=ENOMEM:when=2", SCUTTLEUP, "append"];
    let run = Run::program("strace").args(strace).env("SCUTTLEUP_LOG", &log).stdin(numbers);
    run.stderr_has("scuttleup: the process was aborted, in most cases because no memory is left").status(1);
}

#[test]
fn damaged_pages_end_every_command_with_a_message() {
    PACKED.into_iter().for_each(damaged_pages);
}

fn damaged_pages(packed: bool) {
    let place = Place::new();
    let log = place.log("a");
    append(&log, (0..1000).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>());
    compact_if(packed, &log);
    append(&log, (1000..2000).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>());
    append(&log, "\"last\"\n");
    let good = needed(&log);
    let pages = good.len() / 4096;
    // One bit in each field of a page header, and in the first positions of the nodes.
    let mut faults = 0;
    for (at, page) in (0..24).step_by(2).flat_map(|at| (2..pages).map(move |page| (at, page))) {
        let mut bad = good.clone();
        bad[page * 4096 + at] ^= 1 << (at % 7);
        fs::write(log.join("data.mdb"), &bad).expect("the data file");
        let ended = Run::new(&log).args(["read"]).end();
        let code = ended.status.code();
        assert!(matches!(code, Some(0 | 1)), "page {page}, byte {at}: {:?}", ended.status);
        let stderr = &ended.printed.stderr;
        assert_eq!(
            code == Some(1),
            stderr.starts_with("scuttleup: ") && stderr.ends_with('\n'),
            "page {page}, byte {at}: {stderr}"
        );
        faults += u32::from(stderr.contains("a memory fault: data.mdb or a pack in "));
    }
    assert!(faults > 0, "no page was read that leads to a fault");
}

#[test]
fn a_file_that_is_truncated_while_it_is_read_is_an_error() {
    for packed in PACKED {
        let place = Place::new();
        let log = place.log("a");
        // More than the pipe and the buffers hold.
        append(&log, (0..200_000).map(|n| format!("{{\"number\":{n}}}\n")).collect::<String>());
        compact_if(packed, &log);
        let file = log.join(if packed { "packs/00000000000000000001.pack" } else { "data.mdb" });
        let mut reading = Run::new(&log).args(["read"]).stderr_has("data.mdb or a pack in ").stderr_has("was truncated").spawn();
        reading.line();
        fs::File::options().write(true).open(file).and_then(|file| file.set_len(8192)).expect("it is truncated");
        assert_eq!(reading.finish().status.code(), Some(1), "{packed}");
    }
}
