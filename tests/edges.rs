//! Lack of disk space or address space, overlong input, and log directories as a kill or a broken disk can leave them.

use std::fs;

use crate::harness::{Place, Run, SCUTTLEUP, append, heads, read, shell};

fn one_line(printed: &crate::harness::Printed) {
    assert!(printed.stderr.starts_with("scuttleup: ") && printed.stderr.matches('\n').count() == 1, "{}", printed.stderr);
}

#[test]
fn a_file_size_limit_is_a_full_disk() {
    let place = Place::new();
    let log = place.log("a");
    let input = place.file("input", (0..200_000).map(|n| format!("{n}\n")).collect::<String>());
    let run = shell("ulimit -f 2048; $scuttleup --log \"$LOG\" append --ack < \"$INPUT\"").env("LOG", &log).env("INPUT", &input);
    let printed = run.stderr_has("scuttleup: cannot store more ").status(5);
    one_line(&printed);
    // Exactly the acknowledged entries are stored, and with more space appending continues.
    let stored = read(&log).lines().count();
    assert_eq!(stored, printed.lines().len());
    assert!((1..200_000).contains(&stored), "{stored}");
    append(&log, "1\n");
    assert_eq!(heads(&log), [format!("{{\"peer\":\"a\",\"seq\":{}}}", stored + 1)]);
    // Not even an empty log fits.
    let none = place.path("none");
    let run = shell("ulimit -f 1; echo 1 | $scuttleup --log \"$LOG\" append").env("LOG", &none);
    one_line(&run.stdout("").stderr_has("scuttleup: cannot store more ").status(5));
    append(&none, "1\n");
}

#[test]
fn on_a_full_disk_append_fails_and_read_works() {
    let place = Place::new();
    let script = "mkdir -p \"$DISK\"; mount -t tmpfs -o size=4m none \"$DISK\"; export SCUTTLEUP_LOG=\"$DISK/log\"; \
                  $SCUTTLEUP -q init --id a; yes 1 | head -n 500000 | $SCUTTLEUP append --ack > \"$DISK.acks\"; code=$?; \
                  cat /dev/zero > \"$DISK/filler\" 2> /dev/null; \
                  for _ in 1 2; do head -c 8M /dev/zero | $SCUTTLEUP append --raw 2> /dev/null; echo $?; done; \
                  $SCUTTLEUP read | wc -l; wc -l < \"$DISK.acks\"; \
                  rm \"$DISK/filler\"; mount -o remount,size=64m \"$DISK\"; echo 3 | $SCUTTLEUP append; $SCUTTLEUP heads; exit $code";
    let run = Run::program("unshare").args(["--mount", "bash", "-c", script]).env("SCUTTLEUP", SCUTTLEUP);
    let printed = run.env("DISK", place.path("disk")).stderr_has("cannot store more (No space left on device").status(5);
    one_line(&printed);
    let lines = printed.lines();
    assert_eq!(lines[..2], ["5", "5"]);
    let stored: u64 = lines[2].parse().expect("a number");
    assert_eq!(lines[3], lines[2], "not exactly the acknowledged entries are stored");
    assert!((1..500_000).contains(&stored), "{stored}");
    assert_eq!(lines[4], format!("{{\"peer\":\"a\",\"seq\":{},\"own\":true}}", stored + 1));
}

/// A prune is what a user runs on a full disk, and LMDB needs pages before it gives pages back.
#[test]
fn on_a_full_disk_prune_makes_room_in_the_log() {
    let place = Place::new();
    let script = "mkdir -p \"$DISK\"; mount -t tmpfs -o size=16m none \"$DISK\"; export SCUTTLEUP_LOG=\"$DISK/log\"; \
                  $SCUTTLEUP -q init --id a; yes \"$(seq -s _ 60)\" | head -n 40000 | $SCUTTLEUP append --text; \
                  cat /dev/zero > \"$DISK/filler\" 2> /dev/null; \
                  echo 1 | $SCUTTLEUP append; echo $?; $SCUTTLEUP -q prune --keep-last 100; echo $?; \
                  seq 1000 | $SCUTTLEUP append; echo $?; $SCUTTLEUP verify; $SCUTTLEUP read --peer a | wc -l";
    let run = Run::program("unshare").args(["--mount", "bash", "-c", script]).env("SCUTTLEUP", SCUTTLEUP);
    let printed = run.env("DISK", place.path("disk")).stderr_has("no damage: checked 1100 entries").success();
    assert_eq!(printed.lines(), ["5", "0", "0", "1101"], "1100 entries and a floor");
}

/// LMDB writes its lock file through a memory map: without disk space, a write would end the process with SIGBUS.
#[test]
fn on_a_full_disk_without_a_lock_file_all_fail_and_nothing_crashes() {
    let place = Place::new();
    let script = "mkdir -p \"$DISK\"; mount -t tmpfs -o size=4m none \"$DISK\"; export SCUTTLEUP_LOG=\"$DISK/log\"; \
                  $SCUTTLEUP -q init --id a; seq 3 | $SCUTTLEUP append; rm \"$DISK/log/lock.mdb\"; \
                  cat /dev/zero > \"$DISK/filler\" 2> /dev/null; \
                  for command in read heads append \"replicate --once -- true\" \"--log $DISK/new init\"; do \
                  echo 4 | $SCUTTLEUP $command; echo $?; done; \
                  rm \"$DISK/filler\"; $SCUTTLEUP heads; \
                  cd \"$DISK/log\"; head -c 4096 lock.mdb > sparse; truncate -s 262272 sparse; mv sparse lock.mdb; \
                  cat /dev/zero > \"$DISK/filler\" 2> /dev/null; \
                  $SCUTTLEUP read | wc -l; echo 4 | $SCUTTLEUP append; echo $?";
    let run = Run::program("unshare").args(["--mount", "bash", "-c", script]).env("SCUTTLEUP", SCUTTLEUP);
    let printed = run.env("DISK", place.path("disk")).stderr_has("cannot store more (No space left on device").success();
    // One allocated page of the lock file is enough to read.
    assert_eq!(printed.lines(), ["5", "5", "5", "5", "5", "{\"peer\":\"a\",\"seq\":3,\"own\":true}", "3", "5"]);
}

#[test]
fn a_line_that_is_too_long_is_reported_with_the_entry_limit() {
    let place = Place::new();
    let line = "head -c 10M /dev/zero | tr '\\0' x | $scuttleup --log \"$LOG\" $COMMAND --entry-bytes-max 1000";
    for command in ["append", "write"] {
        let run = shell(line).env("LOG", place.log(command)).env("COMMAND", command);
        one_line(&run.stderr_has("the limit is 1000: raise the limit with --entry-bytes-max").status(7));
    }
}

#[test]
fn a_head_line_that_is_too_long_is_an_error() {
    let place = Place::new();
    let log = place.log("a");
    for line in ["cat /dev/zero", "echo; printf '%5000s'"] {
        let line = format!("{line} | $scuttleup --log \"$LOG\" read --since-heads -");
        one_line(&shell(&line).env("LOG", &log).stderr_has("longer than 4096 bytes, the maximum for a head").status(7));
    }
}

/// Heads on stdin can come from the remote of a restricted key.
#[test]
fn more_heads_than_a_log_can_hold_are_refused() {
    let place = Place::new();
    let log = place.log("a");
    let line = "seq 2097153 | sed 's/.*/{\"peer\":\"&\",\"seq\":1}/' | { \"$scuttleup\" --log \"$LOG\" read --since-heads -; code=$?; \
                cat > /dev/null; exit $code; }";
    let said = "stdin, line 2097153: more than 2097152 feeds, the maximum of a log";
    one_line(&shell(line).env("LOG", &log).stdout("").stderr_has(said).status(7));
}

#[test]
fn help_that_cannot_be_written_is_an_error() {
    for args in ["--help", "--version", "help read"] {
        one_line(&shell(&format!("$scuttleup {args} > /dev/full")).stderr_has("No space left on device").status(5));
    }
}

#[test]
fn a_log_whose_data_file_was_emptied_is_not_created_again() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n");
    fs::write(log.join("data.mdb"), "").expect("the data file");
    // The file `bell` shows that the directory was a log. A new log with another id would hide the loss.
    for args in [&["append"][..], &["write"], &["init"], &["read"]] {
        one_line(&Run::new(&log).args(args).stdin("2\n").stdout("").stderr_has("data.mdb is ").status(1));
    }
    assert_eq!(log.join("data.mdb").metadata().expect("it exists").len(), 0);
}

#[test]
fn a_log_can_be_watched_after_a_kill_at_any_step_of_its_creation() {
    let mut watched = 0;
    for when in 1..=30 {
        let place = Place::new();
        let log = place.path("log");
        let inject = format!("inject=openat:signal=SIGKILL:when={when}");
        let strace = ["-f", "-qq", "-o", "/dev/null", "-e", &inject, SCUTTLEUP, "init", "--log"].map(str::to_owned);
        let killed = Run::program("strace").args(strace).args([&log]).spawn().finish().status.code().is_none();
        if Run::new(&log).args(["id"]).spawn().finish().status.code() == Some(0) {
            watched += 1;
            shell("$scuttleup --log \"$LOG\" watch | true").env("LOG", &log).stderr("").success();
        }
        if !killed {
            break;
        }
    }
    assert!(watched > 1, "{watched}");
}

#[test]
fn an_entry_of_an_invalid_peer_id_is_not_found() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n");
    for peer in ["", &*"x".repeat(600)] {
        for command in ["entry", "del"] {
            let run = Run::new(&log).args([command, peer, "1"]).stdout("");
            one_line(&run.stderr_has(&format!("scuttleup: entry 1 of {peer} is not in this log: ")).status(1));
        }
    }
}

#[test]
fn white_space_around_a_json_line_does_not_count_towards_the_limit() {
    let place = Place::new();
    let log = place.log("a");
    Run::new(&log).args(["append", "--entry-bytes-max", "5"]).stdin("  12345  \r\n").stderr("").success();
    assert_eq!(read(&log).lines().count(), 1);
}

#[test]
fn a_log_that_grows_beyond_the_address_space_of_a_watcher_is_an_error() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n");
    let mut watching = shell("ulimit -v 100000; exec $SCUTTLEUP watch").env("SCUTTLEUP_LOG", &log).spawn();
    watching.line();
    Run::new(&log).args(["append", "--raw"]).stdin(vec![b'x'; 60 << 20]).success();
    let ended = watching.wait();
    assert_eq!(ended.status.code(), Some(1));
    one_line(&ended.printed);
    assert!(ended.printed.stderr.contains("another process made the log larger"), "{}", ended.printed.stderr);
    assert!(ended.printed.stderr.contains("run it again"), "{}", ended.printed.stderr);
}
