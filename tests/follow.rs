//! `append --follow`: each line of a file is stored once and in order, across rotation, truncation, restart and kills.

use std::fs::{self, File, OpenOptions};
use std::ops::RangeInclusive;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use scuttleup::Log;
use serde_json::Value;

use crate::faults::{as_nobody, open_to_nobody, set_mode};
use crate::harness::{Place, Run, Running, SCUTTLEUP, STEP, append};
use crate::watch::{polling, spawn_without_inotify};

/// Starts to follow files.
fn follow(log: &Path, options: &[&str], files: &[&Path]) -> Running {
    let run = Run::new(log).args(["append", "--ack"]).args(options);
    files.iter().fold(run, |run, file| run.args(["--follow"]).args([file])).spawn()
}

/// Waits until the log knows the file, and the process has looked at all its files.
fn begun(log: &Path, file: &Path) {
    while Log::open_read_only(log).expect("a log").followed(file).expect("readable").is_none() {}
}

/// Waits until so many lines are stored.
fn stored(run: &mut Running, count: usize) {
    for _ in 0..count {
        assert!(run.line().contains("\"seq\""));
    }
}

/// Ends it by a signal. Returns its messages.
fn stop(mut run: Running) -> String {
    run.signal(Signal::SIGTERM);
    let ended = run.wait();
    assert_eq!(ended.status.code(), Some(143), "{}", ended.printed.stderr);
    assert_eq!(ended.printed.stdout, b"", "no line is stored that was not written");
    ended.printed.stderr
}

/// The message of [`stop`] if nothing else was said.
fn stopped(count: usize) -> String {
    let entries = if count == 1 { "entry of the followed files is" } else { "entries of the followed files are" };
    format!("scuttleup: stopped: {count} {entries} stored\n")
}

fn kill(mut run: Running) {
    run.signal(Signal::SIGKILL);
    run.wait();
}

fn lines(numbers: RangeInclusive<usize>) -> String {
    numbers.map(|n| format!("{n}\n")).collect()
}

/// A process that writes its stdin at the end of a file. In the test process, the file would be open for longer than the test says: a
/// process that another test starts holds it until its exec.
fn writer(path: &Path) -> Running {
    let mut writer = Run::program("sh").args(["-c", "exec 3>> \"$0\"; echo opened; exec cat >&3"]).args([path]).spawn();
    assert_eq!(writer.line(), "opened\n");
    writer
}

/// Writes at the end of a file, and closes it.
fn write(path: &Path, text: impl AsRef<[u8]>) {
    Run::program("tee").args(["-a"]).args([path]).stdin(text).success();
}

/// The entries of a log, as text.
fn texts(log: &Path) -> Vec<String> {
    let lines = Run::new(log).args(["read", "--text"]).success().json();
    lines.into_iter().map(|line| line["text"].as_str().unwrap_or("").to_owned()).collect()
}

/// Asserts that the log holds the numbers 1 to `last`, each once and in order.
fn assert_numbers(log: &Path, last: usize) {
    let found = texts(log);
    let expected: Vec<String> = (1..=last).map(|n| n.to_string()).collect();
    assert_eq!(found, expected);
    Run::new(log).args(["-q", "verify"]).stdout("").stderr("").success();
}

/// Renames `FILE` to `FILE.1`, `FILE.1` to `FILE.2` and so on. At most `keep` of them stay.
fn rotate(file: &Path, keep: usize) {
    let numbered = |n: usize| PathBuf::from(format!("{}.{n}", file.display()));
    fs::remove_file(numbered(keep)).ok();
    for n in (1..keep).rev() {
        fs::rename(numbered(n), numbered(n + 1)).ok();
    }
    fs::rename(file, numbered(1)).expect("the file exists");
}

/// Renames a file in its directory, and creates it again with a later time of birth.
fn rotate_to(file: &Path, name: &str) {
    let birth = |path: &Path| fs::metadata(path).and_then(|about| about.created()).expect("a time of birth");
    let new = file.with_file_name("new");
    while fs::write(&new, "").is_ok() && birth(&new) <= birth(file) {
        fs::remove_file(&new).expect("removed");
    }
    fs::rename(file, file.with_file_name(name)).expect("the file exists");
    fs::rename(&new, file).expect("a rename");
}

#[test]
fn lines_are_stored_when_their_newline_is_written() {
    let place = Place::new();
    let (log, one, other) = (place.log("a"), place.file("one", "\u{feff}1\n2\n"), place.file("other", "a"));
    let mut run = follow(&log, &["--text"], &[&one, &other]);
    stored(&mut run, 2);
    write(&one, "3");
    write(&other, "b\n");
    stored(&mut run, 1);
    write(&one, "3\n44\n5");
    stored(&mut run, 2);
    write(&other, "c\n");
    stored(&mut run, 1);
    write(&one, "\n");
    stored(&mut run, 1);
    assert_eq!(stop(run), stopped(7));
    assert_eq!(texts(&log), ["1", "2", "ab", "33", "44", "c", "5"]);
    // A restart begins where it has stopped.
    let mut run = follow(&log, &["--text"], &[&one, &other]);
    write(&one, "6\n");
    stored(&mut run, 1);
    stop(run);
    assert_eq!(texts(&log).len(), 8);
}

#[test]
fn json_bytes_and_records_are_followed() {
    let place = Place::new();
    let cases: [(&[&str], &[u8], &[&str]); 3] = [
        (&[], b"{\"a\":1}\n\n 2 \n", &["\"entry\":{\"a\":1}", "\"entry\":2"]),
        (&["--raw", "--lines"], b"\xff\n1\n", &["\"base64\":\"/w==\"", "\"entry\":1"]),
        (&["-0", "--text"], b"a\nb\0c\0", &["\"text\":\"a\\nb\"", "\"text\":\"c\""]),
    ];
    for (nth, (options, input, expected)) in cases.into_iter().enumerate() {
        let (log, file) = (place.log(&format!("log{nth}")), place.file(&format!("file{nth}"), input));
        let mut run = follow(&log, options, &[&file]);
        stored(&mut run, expected.len());
        stop(run);
        let printed = Run::new(&log).args(["read"]).success();
        for (line, expected) in printed.lines().iter().zip(expected) {
            assert!(line.contains(expected), "{line}");
        }
    }
}

#[test]
fn a_renamed_file_is_read_to_its_end_before_the_new_one() {
    let place = Place::new();
    let (log, file) = (place.log("a"), place.file("app.log", lines(1..=2)));
    let mut run = follow(&log, &[], &[&file]);
    stored(&mut run, 2);
    // The writer writes on after the rename, and after another program has written to the new file.
    let mut old = writer(&file);
    rotate(&file, 5);
    old.send("3\n");
    stored(&mut run, 1);
    write(&file, "4\n");
    stored(&mut run, 1);
    old.send("5\n6");
    stored(&mut run, 1);
    // The last line has no newline. It is complete when its writer has closed the file.
    old.finish();
    stored(&mut run, 1);
    write(&file, "7\n");
    stored(&mut run, 1);
    assert_eq!(stop(run), stopped(7));
    assert_numbers(&log, 7);
}

#[test]
fn ten_rotations_at_once_lose_no_line() {
    let place = Place::new();
    for stopped_by in [None, Some(Signal::SIGSTOP), Some(Signal::SIGKILL)] {
        let name = format!("{stopped_by:?}").replace(['(', ')'], "-");
        let (log, file) = (place.log(&name), place.file(&format!("{name}.log"), lines(1..=3)));
        let mut run = follow(&log, &[], &[&file]);
        stored(&mut run, 3);
        if let Some(signal) = stopped_by {
            run.signal(signal);
        }
        for n in 0..10 {
            // The last line of each file has no newline.
            write(&file, format!("{}\n{}", 4 + 2 * n, 5 + 2 * n));
            rotate(&file, 20);
            write(&file, "");
        }
        write(&file, "24\n");
        match stopped_by {
            Some(Signal::SIGKILL) => {
                run.wait();
                run = follow(&log, &[], &[&file]);
            }
            Some(_) => run.signal(Signal::SIGCONT),
            None => {}
        }
        stored(&mut run, 21);
        stop(run);
        assert_numbers(&log, 24);
    }
}

#[test]
fn dated_and_compressed_files_of_a_rotation_while_nothing_follows() {
    let place = Place::new();
    let (log, file) = (place.log("a"), place.file("app.log", lines(1..=2)));
    let mut run = follow(&log, &[], &[&file]);
    stored(&mut run, 2);
    kill(run);
    write(&file, "3\n");
    for (n, suffix) in ["-20261125", "-20261126", "-20261127"].into_iter().enumerate() {
        fs::rename(&file, place.path(&format!("app.log{suffix}"))).expect("a rename");
        write(&file, format!("{}\n", 4 + n));
    }
    place.file("app.log-20261124.gz", "compressed");
    place.file("app.log.bak", "other");
    let mut run = follow(&log, &[], &[&file]);
    stored(&mut run, 4);
    assert_eq!(stop(run), stopped(4));
    assert_numbers(&log, 6);
}

#[test]
fn rotated_files_whose_numbers_count_up_are_read_once_and_in_order() {
    let place = Place::new();
    // Month and day, across the end of a year; and a number that grows.
    let days = (1208..=1231).chain(101..=131).map(|day| format!("days.log-{day:04}")).collect::<Vec<_>>();
    let numbers = (1..=55).map(|n| format!("numbers.log.{n}")).collect();
    for (name, names) in [("days", days), ("numbers", numbers)] {
        let (log, file) = (place.log(name), place.file(&format!("{name}.log"), ""));
        let mut names = names.iter();
        let mut rotate = || rotate_to(&file, names.next().expect("a name"));
        for _ in 0..20 {
            write(&file, "0\n");
            rotate();
        }
        write(&file, "0\n");
        let mut run = follow(&log, &["--from-end"], &[&file]);
        begun(&log, &file);
        for n in 1..=25 {
            rotate();
            write(&file, format!("{n}\n"));
            stored(&mut run, 1);
        }
        kill(run);
        for n in 26..=30 {
            write(&file, format!("{}\n", 2 * n - 26));
            rotate();
            write(&file, format!("{}\n", 2 * n - 25));
        }
        let mut run = follow(&log, &[], &[&file]);
        stored(&mut run, 10);
        assert_eq!(stop(run), stopped(10));
        assert_numbers(&log, 35);
    }
}

#[test]
fn a_truncated_file_continues_at_its_start_and_this_is_said() {
    let place = Place::new();
    let (log, file) = (place.log("a"), place.file("app.log", lines(1..=100)));
    let said = format!(
        "scuttleup: {} was truncated: continuing at its start, what was written before and not read is lost\n",
        file.display()
    );
    let truncate = || File::options().write(true).open(&file).expect("the file").set_len(0).expect("truncated");
    let mut run = follow(&log, &[], &[&file]);
    stored(&mut run, 100);
    fs::copy(&file, place.path("app.log.1")).expect("a copy");
    truncate();
    write(&file, lines(101..=102));
    stored(&mut run, 2);
    assert_eq!(stop(run), format!("{said}{}", stopped(102)));
    // While nothing follows, and longer than before.
    truncate();
    write(&file, lines(103..=300));
    let mut run = follow(&log, &[], &[&file]);
    stored(&mut run, 198);
    assert_eq!(stop(run), format!("{said}{}", stopped(198)));
    assert_numbers(&log, 300);
}

#[test]
fn a_file_that_is_deleted_and_created_again_is_another_file() {
    let place = Place::new();
    let (log, file) = (place.log("a"), place.file("app.log", lines(1..=2)));
    let mut run = follow(&log, &[], &[&file]);
    stored(&mut run, 2);
    let mut old = writer(&file);
    fs::remove_file(&file).expect("removed");
    old.send("3\n4");
    stored(&mut run, 1);
    old.finish();
    write(&file, "5\n6\n");
    stored(&mut run, 3);
    assert_eq!(stop(run), stopped(6));
    // The new file can get the inode of the old one.
    for n in 0..3 {
        fs::remove_file(&file).expect("removed");
        write(&file, format!("{}\n", 7 + n));
        let mut run = follow(&log, &[], &[&file]);
        stored(&mut run, 1);
        assert!(stop(run).starts_with(&format!("scuttleup: {} was replaced, and its file of before is not", file.display())));
    }
    assert_numbers(&log, 9);
}

#[test]
fn a_symbolic_link_that_moves_is_followed() {
    let place = Place::new();
    let log = place.log("a");
    fs::create_dir(place.path("dir")).expect("a directory");
    let (one, other, link) = (place.file("one", "1\n"), place.file("dir/other", "3\n"), place.path("link"));
    let lead_to = |target: &str| {
        symlink(target, place.path("new")).expect("a link");
        fs::rename(place.path("new"), &link).expect("a rename");
    };
    lead_to("one");
    let mut run = follow(&log, &[], &[&link]);
    stored(&mut run, 1);
    write(&one, "2\n");
    stored(&mut run, 1);
    lead_to("dir/../dir/other");
    stored(&mut run, 1);
    write(&other, "4\n");
    stored(&mut run, 1);
    // Back to the first one: its lines are not stored again.
    write(&one, "5\n");
    lead_to("one");
    stored(&mut run, 1);
    kill(run);
    write(&one, "6\n");
    write(&other, "7\n");
    lead_to("dir/other");
    let mut run = follow(&log, &[], &[&link]);
    stored(&mut run, 2);
    // A directory on the way that is a link.
    kill(run);
    symlink("dir", place.path("current")).expect("a link");
    fs::create_dir(place.path("next")).expect("a directory");
    place.file("next/other", "9\n");
    let (log, path) = (place.log("b"), place.path("current/other"));
    let mut run = follow(&log, &[], &[&path]);
    stored(&mut run, 3);
    symlink("next", place.path("new")).expect("a link");
    fs::rename(place.path("new"), place.path("current")).expect("a rename");
    stored(&mut run, 1);
    stop(run);
    assert_eq!(texts(&log), ["3", "4", "7", "9"]);
    assert_numbers(&place.path("a"), 7);
}

#[test]
fn a_file_may_appear_later_also_in_a_new_directory() {
    let place = Place::new();
    let (log, first, file) = (place.log("a"), place.file("first", "0\n"), place.path("x/y/app.log"));
    // It is new, so it is read from its start.
    let mut run = follow(&log, &["--from-end"], &[&file, &first]);
    begun(&log, &first);
    fs::create_dir_all(place.path("z/y")).expect("a directory");
    place.file("z/y/app.log", "1\n");
    fs::rename(place.path("z"), place.path("x")).expect("a rename");
    stored(&mut run, 1);
    write(&file, "2\n");
    stored(&mut run, 1);
    let said = format!("scuttleup: {} does not exist yet: waiting for it\n", file.display());
    assert_eq!(stop(run), format!("{said}{}", stopped(2)));
    assert_numbers(&log, 2);
}

#[test]
fn the_first_time_begins_at_the_start_or_at_the_end() {
    let place = Place::new();
    for (option, first) in [("--from-start", 1), ("--from-end", 4)] {
        let (log, file) = (place.log(&format!("log{first}")), place.file("app.log", lines(1..=3) + "4"));
        let mut run = follow(&log, &[option], &[&file]);
        if first == 1 {
            stored(&mut run, 3);
        }
        begun(&log, &file);
        write(&file, "\n5\n");
        stored(&mut run, 2);
        kill(run);
        // The option matters only once.
        write(&file, "6\n");
        let mut run = follow(&log, &["--from-end"], &[&file]);
        stored(&mut run, 1);
        stop(run);
        assert_eq!(texts(&log), (first..=6).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

#[test]
fn a_bad_line_is_named_by_its_file_and_position() {
    let place = Place::new();
    let (log, bad, file) = (place.log("a"), place.path("bad"), place.file("app.log", "1\nx\n2\n"));
    for _ in 0..2 {
        let ended = follow(&log, &[], &[&file]).finish();
        let said = format!("scuttleup: {}: line at byte 3: not JSON: expected value at byte 1: ", file.display());
        assert!(ended.printed.stderr.starts_with(&said), "{}", ended.printed.stderr);
        assert_eq!(ended.status.code(), Some(7));
    }
    let mut run = follow(&log, &["--skip-bad", bad.to_str().expect("UTF-8")], &[&file]);
    stored(&mut run, 1);
    stop(run);
    let line: Value = serde_json::from_str(&fs::read_to_string(&bad).expect("the file")).expect("JSON");
    assert_eq!((&line["file"], &line["byte"], &line["text"]), (&file.to_str().into(), &3.into(), &"x".into()));
    assert_eq!(texts(&log).len(), 2);
}

#[test]
fn files_that_cannot_be_followed_are_errors_and_leave_no_log() {
    let place = Place::new();
    let log = place.path("none");
    mkfifo(&place.path("fifo"), Mode::S_IRWXU).expect("a FIFO");
    fs::create_dir(place.path("dir")).expect("a directory");
    symlink("loop", place.path("loop")).expect("a link");
    for (name, said) in
        [("fifo", "it is no regular file"), ("dir", "it is no regular file"), ("loop", "Too many levels of symbolic links")]
    {
        let ended = follow(&log, &[], &[&place.path(name)]).finish();
        let expected = format!("scuttleup: {} cannot be followed: {said}", place.path(name).display());
        assert!(ended.printed.stderr.starts_with(&expected), "{}", ended.printed.stderr);
        assert_eq!(ended.status.code(), Some(1));
        assert!(!log.exists());
    }
    for (options, said) in [
        (&["--follow", "x", "--raw"][..], "--follow needs lines: with --raw, also use --lines or -0"),
        (&["--from-end"], "--follow"),
        (&["--follow", "x", "--from-end", "--from-start"], "--from-start"),
    ] {
        Run::new(&log).args(["append"]).args(options).stdout("").stderr_has(said).status(2);
    }
    let long = place.path(&"x/".repeat(300));
    Run::new(&log).args(["append", "--follow"]).args([long]).stderr_has("its path is longer than 500 bytes").status(1);
}

#[test]
fn a_new_file_that_cannot_be_read_yet_is_waited_for() {
    let place = Place::new();
    let log = open_to_nobody(&place, false);
    let (file, said) = (place.file("app.log", "3\n"), place.path("said"));
    set_mode(&file, 0o600);
    let ended = as_nobody(&log, &["append", "--follow"]).args([&file]).end();
    let expected = format!("scuttleup: {} cannot be followed: Permission denied (os error 13)\n", file.display());
    assert_eq!((ended.status.code(), ended.printed.stderr), (Some(1), expected));
    set_mode(&file, 0o644);
    let run = as_nobody(&log, &["append", "--ack", "--follow"]).args([&file]);
    let mut run = run.spawn_with(Stdio::piped(), Stdio::piped(), File::create(&said).expect("a file").into());
    stored(&mut run, 1);
    // A rotation creates the new file with other permissions, and changes them later.
    let new = place.file("new", "4\n");
    set_mode(&new, 0o600);
    rotate(&file, 5);
    fs::rename(&new, &file).expect("a rename");
    let waits =
        format!("{} was replaced, and the new file cannot be read (Permission denied (os error 13)): waiting", file.display());
    while !fs::read_to_string(&said).expect("readable").contains(&waits) {}
    set_mode(&file, 0o644);
    stored(&mut run, 1);
    stop(run);
    assert_numbers(&log, 4);
}

#[test]
fn names_in_a_directory_that_cannot_be_watched_are_looked_at_every_second() {
    let place = Place::new();
    let log = open_to_nobody(&place, false);
    let dir = place.path("dir");
    fs::create_dir(&dir).expect("a directory");
    for sub in ["one", "other"] {
        fs::create_dir(dir.join(sub)).expect("a directory");
    }
    place.file("dir/app.log", "3\n");
    place.file("dir/one/app.log", "6\n");
    place.file("dir/other/app.log", "7\n");
    symlink("one", dir.join("link")).expect("a link");
    set_mode(&dir, 0o711);
    let said = format!(
        "scuttleup: {} cannot be watched: Permission denied (os error 13): looking at its names every second: \
         make the directory readable and run it again to get new lines at once\n",
        dir.display()
    );
    let start = |file: &str| as_nobody(&log, &["append", "--ack", "--follow"]).args([dir.join(file)]).spawn();
    // The name of the file.
    let mut run = start("app.log");
    stored(&mut run, 1);
    rotate(&dir.join("app.log"), 5);
    write(&dir.join("app.log"), "4\n");
    stored(&mut run, 1);
    rotate(&dir.join("app.log"), 5);
    write(&dir.join("app.log"), "5\n");
    stored(&mut run, 1);
    assert_eq!(stop(run), format!("{said}{}", stopped(3)));
    // The looks do not wait for a pause of other files.
    let busy = place.file("busy.log", "");
    let mut run =
        as_nobody(&log, &["append", "--ack", "--follow"]).args([&busy]).args(["--follow"]).args([dir.join("app.log")]).spawn();
    write(&dir.join("app.log"), "51\n");
    stored(&mut run, 1);
    rotate(&dir.join("app.log"), 5);
    write(&dir.join("app.log"), "52\n");
    let begun = Instant::now();
    while !texts(&log).contains(&"52".to_owned()) {
        assert!(begun.elapsed() < STEP, "no look at the names");
        write(&busy, "\n0\n");
        stored(&mut run, 1);
    }
    run.signal(Signal::SIGTERM);
    run.wait();
    // A symbolic link on the way.
    let mut run = start("link/app.log");
    stored(&mut run, 1);
    symlink("other", dir.join("new")).expect("a link");
    fs::rename(dir.join("new"), dir.join("link")).expect("a rename");
    stored(&mut run, 1);
    assert_eq!(stop(run), format!("{said}{}", stopped(2)));
    // A directory on the way that does not exist yet.
    let mut run = start("later/app.log");
    fs::create_dir(place.path("later")).expect("a directory");
    place.file("later/app.log", "8\n");
    fs::rename(place.path("later"), dir.join("later")).expect("a rename");
    stored(&mut run, 1);
    assert!(stop(run).ends_with(&stopped(1)));
    // A directory on the way that is no link is watched itself.
    let mut run = start("one/app.log");
    write(&dir.join("one/app.log"), "9\n");
    stored(&mut run, 2);
    assert_eq!(stop(run), stopped(2));
    let found: Vec<String> = texts(&log).into_iter().filter(|text| text != "0").collect();
    assert_eq!(found, ["1", "2", "3", "4", "5", "51", "52", "6", "7", "8", "6", "9"]);
}

#[test]
fn a_line_in_pieces_is_left_out_once_although_another_file_is_read_in_between() {
    let place = Place::new();
    let (log, long, other) = (place.log("a"), place.file("long", "\"".repeat(3 << 20)), place.file("other", ""));
    let bad = place.path("bad");
    let bytes = |bad: &Path| -> Vec<(u64, usize)> {
        let text = fs::read_to_string(bad).unwrap_or_default();
        let pieces = text.split_inclusive('\n').filter_map(|line| serde_json::from_str::<Value>(line).ok());
        pieces.map(|piece| (piece["piece"].as_u64().expect("a piece"), piece["base64"].as_str().expect("base64").len())).collect()
    };
    let skip = ["--entry-bytes-max", "1000", "--skip-bad", bad.to_str().expect("UTF-8")];
    let mut run = follow(&log, &skip, &[&long, &other]);
    while bytes(&bad).len() < 2 {}
    for n in 1..=3 {
        write(&other, format!("{n}\n"));
        stored(&mut run, 1);
        write(&long, "\"".repeat(2 << 20));
        while bytes(&bad).iter().map(|(_, bytes)| bytes / 4 * 3).sum::<usize>() < (2 + 2 * n) << 20 {}
    }
    write(&other, "4\n");
    stored(&mut run, 1);
    write(&long, "\"\n5\n");
    stored(&mut run, 1);
    assert_eq!(stop(run), format!("{}, 1 bad line went to {}\n", stopped(5).trim_end(), bad.display()));
    let found = bytes(&bad);
    assert!(found.iter().zip(1..).all(|((piece, _), nth)| *piece == nth), "{found:?}");
    let total: usize = found.iter().map(|(_, bytes)| bytes / 4 * 3).sum();
    assert!((9 << 20..=(9 << 20) + 3 * found.len()).contains(&total), "{total}");
    assert_numbers(&log, 5);
}

#[test]
fn more_rotated_files_than_a_process_can_open_are_read() {
    let place = Place::new();
    let (log, file) = (place.log("a"), place.file("app.log", "1\n"));
    let mut run = follow(&log, &[], &[&file]);
    stored(&mut run, 1);
    kill(run);
    for n in 2..=300 {
        rotate(&file, 300);
        write(&file, format!("{n}\n"));
    }
    // Writers that never close the files do not hold up the newer ones.
    let open = |n| OpenOptions::new().append(true).open(place.path(&format!("app.log.{n}"))).expect("a file");
    let writers: Vec<File> = (100..200).map(open).collect();
    let line = "ulimit -n 128; exec $SCUTTLEUP --log \"$LOG\" append --ack --follow \"$FILE\"";
    let mut run = crate::harness::shell(line).env("LOG", &log).env("FILE", &file).spawn();
    stored(&mut run, 299);
    write(&file, "301\n");
    stored(&mut run, 1);
    assert_eq!(stop(run), stopped(300));
    drop(writers);
    assert_numbers(&log, 301);
}

#[test]
fn a_second_process_that_follows_the_same_file_into_the_log_ends() {
    let place = Place::new();
    let (log, file) = (place.log("a"), place.file("app.log", lines(1..=2)));
    let mut run = follow(&log, &[], &[&file]);
    stored(&mut run, 2);
    // The first one sees the new line after the second one has stored it.
    run.signal(Signal::SIGSTOP);
    let mut second = follow(&log, &[], &[&file]);
    write(&file, "3\n");
    stored(&mut second, 1);
    run.signal(Signal::SIGCONT);
    let ended = run.wait();
    let said = format!("another process follows {} into this log: end one of them and run it again", file.display());
    assert!(ended.printed.stderr.contains(&said), "{}", ended.printed.stderr);
    assert_eq!(stop(second), stopped(1));
    assert_numbers(&log, 3);
}

#[test]
fn it_ends_if_the_reader_of_the_acknowledgements_closes_stdout() {
    let place = Place::new();
    let (log, file) = (place.log("a"), place.file("app.log", "1\n"));
    let line = "$SCUTTLEUP --log \"$LOG\" append --ack --follow \"$FILE\" | head -n 1";
    let run = crate::harness::shell(line).env("LOG", &log).env("FILE", &file);
    run.stdout("{\"peer\":\"a\",\"seq\":1}\n").success();
    assert_numbers(&log, 1);
}

#[test]
fn without_inotify_the_files_are_looked_at_every_second() {
    let place = Place::new();
    for what in ["instances", "watches"] {
        let (log, file) = (place.log(what), place.file(&format!("{what}.log"), "1\n"));
        let [dir, path] = [&log, &file].map(|path| path.to_str().expect("UTF-8"));
        let mut run = spawn_without_inotify(what, &["--log", dir, "append", "--ack", "--follow", path]);
        stored(&mut run, 1);
        write(&file, "2\n3");
        stored(&mut run, 1);
        rotate(&file, 5);
        write(&file, "4\n");
        stored(&mut run, 2);
        assert_eq!(stop(run), format!("{}{}", polling(what), stopped(4)));
        assert_numbers(&log, 4);
    }
}

#[test]
fn a_million_lines_at_once_are_stored_across_rotations() {
    let place = Place::new();
    let (log, file) = (place.log("a"), place.file("app.log", ""));
    let mut run = follow(&log, &[], &[&file]);
    begun(&log, &file);
    for n in 0..10 {
        write(&file, lines(n * 100_000 + 1..=(n + 1) * 100_000));
        rotate(&file, 20);
        write(&file, "");
    }
    stored(&mut run, 1_000_000);
    assert_eq!(stop(run), stopped(1_000_000));
    let found = texts(&log);
    assert!(found.iter().zip(1..).all(|(text, n): (&String, u32)| *text == n.to_string()));
    assert_eq!(found.len(), 1_000_000);
}

#[test]
fn after_a_full_disk_the_rest_is_stored_by_the_next_run() {
    let place = Place::new();
    let (log, file) = (place.log("a"), place.file("app.log", lines(1..=60_000)));
    // 2 MiB, as a full disk.
    let line = "ulimit -S -f 2048; $SCUTTLEUP --log \"$LOG\" append --follow \"$FILE\"";
    let run = crate::harness::shell(line).env("LOG", &log).env("FILE", &file);
    run.stderr_has("free some space and run it again; ").status(5);
    let count = texts(&log).len();
    assert!(count > 0 && count < 60_000, "{count}");
    let mut run = follow(&log, &[], &[&file]);
    stored(&mut run, 60_000 - count);
    stop(run);
    assert_numbers(&log, 60_000);
}

#[test]
fn no_repeated_line_and_no_blank_line_comes_again_after_a_restart() {
    let place = Place::new();
    let (log, file) = (place.log("a"), place.file("app.log", "1\n1\n\n\n"));
    let mut run = follow(&log, &["--dedupe", "line"], &[&file]);
    stored(&mut run, 1);
    write(&file, "1\n\n2\n2\n");
    stored(&mut run, 1);
    stop(run);
    append(&log, "9\n");
    let mut run = follow(&log, &[], &[&file]);
    write(&file, "3\n");
    stored(&mut run, 1);
    stop(run);
    assert_eq!(texts(&log), ["1", "2", "9", "3"]);
}

/// The system calls after which a follower is killed.
const CALLS: [&str; 15] = [
    "openat",
    "pread64",
    "read",
    "write",
    "pwrite64",
    "pwritev",
    "fdatasync",
    "ftruncate",
    "inotify_add_watch",
    "inotify_rm_watch",
    "getdents64",
    "statx",
    "fcntl",
    "poll",
    "close",
];

#[test]
fn a_kill_at_any_call_loses_and_repeats_no_line() {
    let place = Place::new();
    let (log, file) = (place.log("a"), place.file("app.log", "1\n"));
    // The log must know the file: without that, rotated files are not read.
    let mut run = follow(&log, &[], &[&file]);
    stored(&mut run, 1);
    kill(run);
    let (mut last, mut kills) = (1, 0);
    for call in CALLS {
        for when in 1.. {
            // Two rotations, of which each leaves a line without newline, and a line in the new file.
            write(&file, format!("{}\n{}", last + 1, last + 2));
            rotate(&file, 30);
            write(&file, format!("{}", last + 3));
            rotate(&file, 30);
            write(&file, format!("{}\n", last + 4));
            last += 4;
            let inject = format!("inject={call}:signal=SIGKILL:when={when}");
            let run = Run::program("strace").args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &inject, SCUTTLEUP, "--log"]);
            let mut run = run.args([&log]).args(["append", "--ack", "--follow"]).args([&file]).spawn();
            let is_last = |line: &String| line.contains(&format!("\"seq\":{last}}}"));
            while run.next_line().is_some_and(|line| !is_last(&line)) {}
            let found = texts(&log);
            assert!(found.iter().zip(1..).all(|(text, n)| *text == n.to_string()), "{call} {when}: {found:?}");
            if found.len() == last {
                run.signal(Signal::SIGTERM);
            }
            if run.wait().status.signal() != Some(9) {
                break;
            }
            kills += 1;
            // After each second kill, a run does the rest. Otherwise runs that are killed early leave more and more files.
            if when % 2 == 0 && found.len() < last {
                let mut run = follow(&log, &[], &[&file]);
                stored(&mut run, last - found.len());
                stop(run);
            }
        }
    }
    assert!(kills > 100, "only {kills} kills");
    let mut run = follow(&log, &[], &[&file]);
    write(&file, format!("{}\n", last + 1));
    while !run.line().contains(&format!("\"seq\":{}}}", last + 1)) {}
    stop(run);
    assert_numbers(&log, last + 1);
}
