//! `watch` and `read --live`: print existing entries, then each entry as it arrives.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::harness::{Place, Run, Running, SCUTTLEUP, append, hashed, shell, unlabelled};

fn line(seq: u32) -> String {
    hashed(&format!("{{\"offset\":{seq},\"peer\":\"a\",\"seq\":{seq},\"entry\":{seq}}}\n"))
}

fn numbers(range: std::ops::RangeInclusive<u32>) -> String {
    range.map(|n| format!("{n}\n")).collect()
}

fn spawn(log: &Path, args: &[&str]) -> Running {
    Run::new(log).args(args).spawn()
}

#[test]
fn watch_begins_with_the_last_ten_and_goes_on() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, numbers(1..=25));
    let mut watching = spawn(&log, &["watch"]);
    for seq in 16..=25 {
        assert_eq!(watching.line(), line(seq));
    }
    for seq in 26..=40 {
        append(&log, seq.to_string());
        assert_eq!(watching.line(), line(seq));
    }
    append(&log, numbers(41..=3000));
    for seq in 41..=3000 {
        assert_eq!(watching.line(), line(seq));
    }
}

#[test]
fn read_live_begins_with_all_entries() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, numbers(1..=20));
    for option in ["--live", "-f"] {
        let mut reading = spawn(&log, &["read", option]);
        for seq in 1..=20 {
            assert_eq!(reading.line(), line(seq));
        }
    }
}

#[test]
fn an_empty_log_can_be_watched() {
    let place = Place::new();
    let log = place.log("a");
    let mut watching = spawn(&log, &["watch"]);
    append(&log, numbers(1..=12));
    // The watcher may start before or after the append: it prints all twelve entries or the last ten.
    let first = watching.line();
    assert!(first == line(1) || first == line(3), "{first}");
    while watching.line() != line(12) {}
    append(&log, "13");
    assert_eq!(watching.line(), line(13));
}

#[test]
fn tail_prints_only_entries_that_arrive_after_the_start() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, numbers(1..=100));
    for args in [&["read", "--tail"][..], &["watch", "--tail"], &["read", "--live", "--tail"]] {
        let mut tailing = spawn(&log, args);
        let before = Run::new(&log).args(["info"]).success().json()[0]["last_offset"].as_u64().expect("a number");
        let mut seq = before as u32;
        // Only the first line shows that the process is ready.
        let first = loop {
            seq += 1;
            append(&log, seq.to_string());
            if let Some(first) = tailing.line_now() {
                break first;
            }
            assert!(seq < 5000, "no line was printed");
        };
        let begun = (101..=seq).find(|&seq| line(seq) == first).expect("an entry that was appended after the start");
        for seq in begun + 1..=seq {
            assert_eq!(tailing.line(), line(seq));
        }
    }
}

#[test]
fn live_accepts_the_options_of_read() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, numbers(1..=20));
    let heads = place.file("heads", "{\"peer\":\"a\",\"seq\":18}\n");
    let heads = heads.to_str().expect("UTF-8");
    let cases: [(&[&str], u32); 6] = [
        (&["watch", "-n", "3"], 18),
        (&["watch", "--after", "12"], 13),
        (&["watch", "--since-heads", heads], 19),
        (&["read", "--live", "-n", "1"], 20),
        (&["read", "--live", "--after", "19"], 20),
        (&["watch", "--peer", "a", "-n", "2"], 19),
    ];
    let mut running: Vec<Running> = cases.iter().map(|(args, _)| spawn(&log, args)).collect();
    for (running, (args, first)) in running.iter_mut().zip(cases) {
        for seq in first..=20 {
            assert_eq!(running.line(), line(seq), "{args:?}");
        }
    }
    append(&log, numbers(21..=30));
    for (running, (args, _)) in running.iter_mut().zip(cases) {
        for seq in 21..=30 {
            assert_eq!(running.line(), line(seq), "{args:?}");
        }
    }
    let mut bare = spawn(&log, &["watch", "--no-entry", "-n", "1"]);
    assert_eq!(bare.line(), "{\"offset\":30,\"peer\":\"a\",\"seq\":30}\n");
}

#[test]
fn a_watched_feed_prints_only_that_feed() {
    let place = Place::new();
    let log = place.log("a");
    let theirs = |seq: u32| format!("{{\"peer\":\"b\",\"seq\":{seq},\"entry\":{seq}}}\n");
    Run::new(&log).args(["write"]).stdin(theirs(1)).success();
    let mut watching = spawn(&log, &["watch", "--peer", "b"]);
    assert_eq!(watching.line(), hashed("{\"offset\":1,\"peer\":\"b\",\"seq\":1,\"entry\":1}\n"));
    append(&log, "1\n2\n");
    Run::new(&log).args(["write"]).stdin(theirs(2)).success();
    assert_eq!(watching.line(), hashed("{\"offset\":4,\"peer\":\"b\",\"seq\":2,\"entry\":2}\n"));
}

#[test]
fn a_deletion_prints_nothing() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, numbers(1..=3));
    let mut watching = spawn(&log, &["watch", "-n", "1"]);
    assert_eq!(watching.line(), line(3));
    Run::new(&log).args(["del", "a", "2"]).success();
    append(&log, "4");
    assert_eq!(watching.line(), line(4));
}

#[test]
fn a_signal_ends_watch_with_its_exit_code() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1");
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut watching = spawn(&log, &["watch"]);
        assert_eq!(watching.line(), line(1));
        watching.signal(signal);
        let ended = watching.wait();
        assert_eq!((ended.status.code(), ended.printed.stderr.as_str()), (Some(code), ""));
    }
}

#[test]
fn a_watcher_ends_when_its_stdout_is_closed_although_nothing_arrives() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1");
    for command in ["watch", "read --live", "read -f -n 1"] {
        let piped = shell(&format!("$scuttleup --log \"$LOG\" {command} | head -n 1")).env("LOG", &log);
        piped.stdout(line(1)).stderr("").success();
    }
}

#[test]
fn watching_a_missing_log_is_an_error() {
    let place = Place::new();
    Run::new(&place.path("none")).args(["watch"]).stderr_has("no log in ").status(1);
    assert!(!place.path("none").exists());
}

/// `scuttleup ARGS` in a user namespace in which no inotify instance, or no inotify watch, is left (`what`).
pub fn spawn_without_inotify(what: &str, args: &[&str]) -> Running {
    Run::program("unshare").args(["-Ur", "true"]).stderr("").success();
    let script = "echo 0 > /proc/sys/user/max_inotify_$WHAT && exec \"$SCUTTLEUP\" \"$@\"";
    let run = Run::program("unshare").args(["-Ur", "bash", "-c", script, "bash"]).args(args);
    run.env("WHAT", what).env("SCUTTLEUP", SCUTTLEUP).spawn()
}

pub fn polling(what: &str) -> String {
    let (name, settings) = match what {
        "instances" => ("instance", "fs.inotify.max_user_instances (sysctl) or ulimit -n"),
        _ => ("watch", "fs.inotify.max_user_watches (sysctl)"),
    };
    format!(
        "scuttleup: no inotify {name} is left, this command looks for new entries every second: \
         raise {settings} and run it again to get new entries at once\n"
    )
}

#[test]
fn without_inotify_a_live_reader_looks_every_second_and_says_so() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, numbers(1..=2));
    let path = log.to_str().expect("UTF-8");
    for (what, command) in [("instances", "read"), ("instances", "watch"), ("watches", "read")] {
        let mut reading = spawn_without_inotify(what, &["--log", path, command, "--live", "--after", "1"]);
        assert_eq!(reading.line(), line(2));
        let last = Run::new(&log).args(["info"]).success().json()[0]["last_offset"].as_u64().expect("a number") as u32;
        (3..=last).for_each(|seq| assert_eq!(reading.line(), line(seq)));
        for seq in last + 1..=last + 2 {
            append(&log, seq.to_string());
            assert_eq!(reading.line(), line(seq));
        }
        reading.signal(Signal::SIGTERM);
        let ended = reading.wait();
        assert_eq!((ended.status.code(), ended.printed.stderr), (Some(143), polling(what)));
    }
}

#[test]
fn without_inotify_a_live_session_looks_every_second_and_says_so() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1");
    let [from, to] = [&a, &b].map(|log| log.to_str().expect("UTF-8"));
    let words = ["-q", "--log", from, "replicate", "--", SCUTTLEUP, "-q", "--log", to, "replicate", "--mode", "pull"];
    let mut session = spawn_without_inotify("instances", &words);
    let mut watching = spawn(&b, &["watch"]);
    for seq in 1..=3 {
        assert_eq!(watching.line(), line(seq));
        append(&a, (seq + 1).to_string());
    }
    session.signal(Signal::SIGTERM);
    let ended = session.wait();
    // The side that only pulls never waits for new entries of its log.
    let notices = ended.printed.stderr.matches(&polling("instances")).count();
    assert_eq!((ended.status.code(), notices), (Some(143), 1), "{}", ended.printed.stderr);
}

const REPLACED: &str = "the files of the log were removed or replaced, or its directory was moved, and new entries would be missed: \
                        run it again";

/// Waits until it ends: it must have printed no further line, and this error.
fn assert_replaced(mut reading: Running, notices: &str) {
    let ended = reading.wait();
    let expected = format!("{notices}scuttleup: {REPLACED}\n");
    assert_eq!((ended.status.code(), &*ended.printed.stdout, unlabelled(&ended.printed.stderr)), (Some(1), &b""[..], expected));
}

/// The name of a change to the log `x/a`, and a function that makes this change.
type Change = (&'static str, fn(&Place));

#[test]
fn a_live_reader_ends_when_the_files_of_its_log_are_removed_moved_or_replaced() {
    let changes: [Change; 7] = [
        ("removed", |place| fs::remove_dir_all(place.path("x/a")).expect("it exists")),
        ("made anew", |place| {
            fs::remove_dir_all(place.path("x/a")).expect("it exists");
            place.log("x/a");
        }),
        ("moved", |place| fs::rename(place.path("x/a"), place.path("x/b")).expect("it exists")),
        ("moved with the directory above it", |place| fs::rename(place.path("x"), place.path("y")).expect("it exists")),
        ("restored", |place| {
            fs::copy(place.path("x/a/data.mdb"), place.path("backup")).expect("a copy");
            fs::rename(place.path("backup"), place.path("x/a/data.mdb")).expect("the data file is replaced");
        }),
        ("data file removed", |place| fs::remove_file(place.path("x/a/data.mdb")).expect("it exists")),
        ("lock file removed", |place| fs::remove_file(place.path("x/a/lock.mdb")).expect("it exists")),
    ];
    for (name, change) in changes {
        for command in [&["watch"][..], &["read", "--live"], &["read", "--tail"]] {
            let place = Place::new();
            fs::create_dir(place.path("x")).expect("a directory");
            let log = place.path("x/a");
            Run::new(&log).args(["-q", "init", "--id", "a"]).success();
            append(&log, "1");
            let mut reading = spawn(&log, command);
            if command != ["read", "--tail"] {
                assert_eq!(reading.line(), line(1), "{name}");
            } else {
                // Only a printed line shows that the process is ready.
                while reading.line_now().is_none() {
                    append(&log, "2");
                }
                append(&log, "\"last\"");
                while !reading.line().contains("last") {}
            }
            change(&place);
            assert_replaced(reading, "");
        }
    }
}

/// A restore such as `cp backup/* log/` writes into the files that exist.
#[test]
fn a_live_reader_ends_when_an_older_data_file_is_restored_in_place() {
    for command in [&["watch"][..], &["read", "--live", "--peer", "a"]] {
        let place = Place::new();
        let log = place.log("a");
        append(&log, "1");
        let backup = fs::read(log.join("data.mdb")).expect("the data file");
        append(&log, "2");
        let mut reading = spawn(&log, command);
        assert_eq!([reading.line(), reading.line()], [line(1), line(2)]);
        fs::write(log.join("data.mdb"), backup).expect("the data file is written");
        let ended = reading.wait();
        let said = &ended.printed.stderr;
        assert_eq!((ended.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    }
}

#[test]
fn a_live_reader_ends_when_the_data_file_is_emptied() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1");
    let mut watching = spawn(&log, &["watch"]);
    assert_eq!(watching.line(), line(1));
    fs::write(log.join("data.mdb"), "").expect("the data file is emptied");
    let ended = watching.wait();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.printed.stderr);
    assert!(ended.printed.stderr.contains("was truncated while this command read it"), "{}", ended.printed.stderr);
}

/// Writers create the bell again. A writer that has the removed one open tells the new readers, too.
#[test]
fn a_live_reader_goes_on_when_the_bell_is_removed() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1");
    let mut appending = Run::new(&log).args(["append", "--ack"]).spawn();
    appending.send("2\n");
    appending.line();
    let mut early = spawn(&log, &["watch"]);
    assert_eq!([early.line(), early.line()], [line(1), line(2)]);
    for seq in [3, 5] {
        fs::remove_file(log.join("bell")).expect("the bell");
        append(&log, seq.to_string());
        assert_eq!(early.line(), line(seq));
        let mut late = spawn(&log, &["watch", "-n", "1"]);
        assert_eq!(late.line(), line(seq));
        appending.send(format!("{}\n", seq + 1));
        assert_eq!([early.line(), late.line()], [line(seq + 1), line(seq + 1)]);
    }
}

#[test]
fn without_inotify_a_live_reader_ends_when_its_log_is_moved() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1");
    let mut reading = spawn_without_inotify("instances", &["--log", log.to_str().expect("UTF-8"), "watch"]);
    assert_eq!(reading.line(), line(1));
    fs::rename(&log, place.path("b")).expect("it exists");
    assert_replaced(reading, &polling("instances"));
}

/// The reader maps the file of the lower layer. A writer opens the log, and overlayfs copies its files to the upper layer.
#[test]
fn a_live_reader_ends_when_overlayfs_copies_its_log_up() {
    let place = Place::new();
    fs::create_dir(place.path("disk")).expect("a directory");
    let script = "cd \"$DISK\"; mount -t tmpfs none .; cd \"$DISK\"; mkdir low up work merged; mkfifo lines; \
                  $SCUTTLEUP -q --log low/log init --id a; seq 3 | $SCUTTLEUP --log low/log append; \
                  mount -t overlay overlay -o lowerdir=low,upperdir=up,workdir=work merged; \
                  $SCUTTLEUP --log merged/log read --live --no-entry > lines & pid=$!; \
                  exec < lines; for _ in 1 2 3; do read -r line; echo \"$line\"; done; \
                  seq 4 5 | $SCUTTLEUP --log merged/log append; wait $pid || echo $?; $SCUTTLEUP --log merged/log read | wc -l";
    let run = Run::program("unshare").args(["--mount", "bash", "-ec", script]).env("SCUTTLEUP", SCUTTLEUP);
    let run = run.env("DISK", place.path("disk")).stderr_has(&format!("scuttleup: {REPLACED}\n"));
    let printed = run.stderr_has("new entries go to the feed of the new id a~").success();
    assert_eq!(printed.lines()[3..], ["1", "5"]);
}

#[test]
fn a_live_session_ends_when_its_log_is_moved_and_says_so_to_the_remote() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1");
    let mut watching = spawn(&b, &["watch"]);
    let [session, mut remote] =
        <[Running; 2]>::from(Run::new(&a).args(["replicate"]).spawn_joined(Run::new(&b).args(["replicate"])));
    assert_eq!(watching.line(), line(1));
    fs::rename(&a, place.path("c")).expect("it exists");
    assert_replaced(session, "");
    let ended = remote.wait();
    assert_eq!(ended.status.code(), Some(3));
    assert!(ended.printed.stderr.contains(&format!("(it said: {REPLACED})")), "{}", ended.printed.stderr);
}
