//! `--retry`: runs COMMAND repeatedly until a session is complete.

use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::frames::{SYNC, change, handshake};
use crate::harness::{Place, Run, append, assert_equal, shell};

use super::{copy, replicate, write};

/// A COMMAND that adds a line to the file `runs` each time it is run, and then runs `line`.
fn with_counted_command(place: &Place, run: Run, line: &str) -> Run {
    let script = format!("echo run >> \"$RUNS\"; {line}");
    run.args(["--", "bash", "-c", &script]).env("RUNS", place.path("runs")).env("SCUTTLEUP", crate::harness::SCUTTLEUP)
}

fn runs(place: &Place) -> usize {
    std::fs::read_to_string(place.path("runs")).expect("COMMAND was run").lines().count()
}

fn two_logs(place: &Place) -> (std::path::PathBuf, std::path::PathBuf) {
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1\n");
    append(&b, "1\n2\n");
    (a, b)
}

#[test]
fn a_command_that_fails_twice() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let fails = "[ $(wc -l < \"$RUNS\") -gt 2 ] || exit 255; exec \"$SCUTTLEUP\" -q --log \"$B\" replicate";
    let run = with_counted_command(&place, replicate(&a, &["--once", "--retry"]), fails).env("B", &b);
    let ended = "scuttleup: the remote ended before its handshake (bash ended with exit status: 255): see its messages, then run it again\n";
    let said = format!(
        "{ended}scuttleup: trying again in 1 second\nscuttleup: trying again in 2 seconds\n\
         scuttleup: the last report came once more\nscuttleup: synced with b: sent 1 (1 durable on the remote), received 2\n"
    );
    run.stderr(&said).success();
    assert_eq!(runs(&place), 3);
    assert_equal(&a, &b);
}

#[test]
fn a_session_that_is_cut_is_tried_again_after_a_pause() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    // The first session is cut in the middle.
    let cut = "[ $(wc -l < \"$RUNS\") -gt 1 ] && exec \"$SCUTTLEUP\" -q --log \"$B\" replicate; \
               \"$SCUTTLEUP\" -q --log \"$B\" replicate 2>/dev/null | dd bs=1 count=100 2>/dev/null";
    let trace = place.path("trace");
    let strace = Run::program("strace").args(["-f", "-qq", "-e", "trace=poll,ppoll", "-o"]).args([&trace]);
    let run = strace.args([crate::harness::SCUTTLEUP, "--log"]).args([&a]).args(["replicate", "--once", "--retry"]);
    with_counted_command(&place, run, cut).env("B", &b).stderr_has("trying again in 1 second\n").success();
    assert_eq!(runs(&place), 2);
    assert_equal(&a, &b);
    let trace = std::fs::read_to_string(trace).expect("a trace");
    // The result of a call is on a separate line if another process made a call meanwhile.
    let paused = trace.lines().skip_while(|line| !line.contains("poll(") || !line.contains("1000"));
    assert!(paused.into_iter().any(|line| line.contains("= 0 (Timeout)")), "no pause: {trace}");
}

#[test]
fn a_signal_ends_the_pause() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let place = Place::new();
        let (a, _) = two_logs(&place);
        let mut run = shell("exec \"$scuttleup\" --log \"$A\" replicate --retry -- false 2>&1 </dev/null").env("A", &a).spawn();
        while !run.line().contains("trying again in 4 seconds") {}
        run.signal(signal);
        let ended = run.wait();
        assert_eq!((ended.status.code(), ended.printed.text()), (Some(code), ""));
    }
}

fn assert_not_retried(place: &Place, run: Run, line: &str, code: i32) {
    let ended = with_counted_command(place, run, line).end();
    assert_eq!(ended.status.code(), Some(code), "{}", ended.printed.stderr);
    assert_eq!(runs(place), 1, "{}", ended.printed.stderr);
}

#[test]
fn permanent_failures_are_not_retried() {
    let server = |log: &Path, args: &str| format!("exec \"$SCUTTLEUP\" -q --log '{}' replicate {args}", log.display());
    let retry = |log: &Path, args: &[&str]| replicate(log, &["--once", "--retry"]).args(args);
    let place = Place::new();
    let (a, b) = two_logs(&place);
    assert_not_retried(&place, retry(&a, &["--wire", "native"]), &server(&b, "--wire original --once"), 6);
    let place = Place::new();
    let (a, _) = two_logs(&place);
    assert_not_retried(&place, retry(&a, &[]), "echo no such host", 7);
    let place = Place::new();
    let (a, fork) = (two_logs(&place).0, place.path("fork"));
    copy(&a, &fork);
    append(&a, "2\n");
    append(&fork, "3\n");
    assert_not_retried(&place, retry(&a, &[]), &server(&fork, ""), 4);
    let place = Place::new();
    let (a, b) = two_logs(&place);
    assert_not_retried(&place, retry(&a, &[]), &server(&b, ""), 0);
}

/// The other feeds can still be replicated.
#[test]
fn a_session_with_a_fork_that_is_cut_is_tried_again() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    write(&a, "{\"peer\":\"x\",\"seq\":1,\"entry\":1}\n");
    write(&b, "{\"peer\":\"x\",\"seq\":1,\"entry\":2}\n");
    // The first session is cut once the fork is reported.
    let cut = "[ $(wc -l < \"$RUNS\") -gt 1 ] && exec \"$SCUTTLEUP\" -q --log \"$B\" replicate --once; \
               exec \"$SCUTTLEUP\" --log \"$B\" replicate 2> >(grep -m 1 fork > /dev/null; kill $$)";
    let run = with_counted_command(&place, replicate(&a, &["--retry"]), cut).env("B", &b);
    let printed = run.stderr_has("trying again in 1 second\n").status(4);
    assert_eq!(runs(&place), 2, "{}", printed.stderr);
}

#[test]
fn retry_needs_a_command() {
    let place = Place::new();
    let (a, _) = two_logs(&place);
    replicate(&a, &["--retry"]).stderr_has("COMMAND").status(2);
    // As with an empty shell variable.
    replicate(&a, &["--once", "--"]).stderr_has("no COMMAND after --").status(2);
}

#[test]
fn each_try_is_reported() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let fails = "[ $(wc -l < \"$RUNS\") -gt 1 ] || exit 1; exec \"$SCUTTLEUP\" -q --log \"$B\" replicate";
    let run = with_counted_command(&place, Run::new(&a).args(["-q", "replicate", "--json", "--once", "--retry"]), fails);
    let reports = run.env("B", &b).success().json();
    assert_eq!(reports.len(), 2);
    assert_eq!((&reports[0]["peer"], &reports[0]["wire"]), (&Value::Null, &Value::Null));
    assert_eq!((&reports[0]["complete"], &reports[0]["exit"]), (&Value::from(false), &Value::from(3)));
    assert_eq!((&reports[1]["received"], &reports[1]["exit"]), (&Value::from(2), &Value::from(0)));
}

/// Warnings of ssh and messages of the remote are on stderr.
#[test]
fn the_report_of_a_session_with_a_command_is_alone_on_stdout() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let chatty = "echo 'Warning: Permanently added host' >&2; exec \"$SCUTTLEUP\" --log \"$B\" replicate --once";
    let run = with_counted_command(&place, replicate(&a, &["--once", "--json"]), chatty).env("B", &b);
    let printed = run.stderr_has("Warning: Permanently added host\nscuttleup (b): synced with").success();
    assert!(!printed.stderr.contains('{'), "{}", printed.stderr);
    let reports = printed.json();
    assert_eq!((reports.len(), &reports[0]["received"]), (1, &Value::from(2)));
}

/// A further try would stop at the same entry.
#[test]
fn an_entry_that_the_remote_does_not_accept_is_not_retried_with_once() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, format!("\"{}\"\n", "x".repeat(5000)));
    let server = "exec \"$SCUTTLEUP\" -q --log \"$B\" replicate --entry-bytes-max 1000";
    let run = with_counted_command(&place, replicate(&a, &["--once", "--retry"]), server).env("B", &b);
    run.stderr_has("longer than the remote accepts (1000 bytes)").status(3);
    assert_eq!(runs(&place), 1);
}

/// The original wire does not tell the reason, but the exit code of the remote does.
#[test]
fn a_remote_that_refuses_each_time_ends_the_tries() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, format!("\"{}\"\n", "x".repeat(5000)));
    let server = "exec \"$SCUTTLEUP\" -q --log \"$B\" replicate --wire original --entry-bytes-max 1000";
    let run = with_counted_command(&place, replicate(&a, &["--retry"]), server).env("B", &b);
    let printed = run.stderr_has("gave up: the remote ended 4 sessions for the same reason, and nothing moved\n").status(3);
    assert_eq!(runs(&place), 4);
    // The report comes at the first and at the last try.
    assert_eq!(printed.stderr.matches("synced with b").count(), 2, "{}", printed.stderr);
    assert!(printed.stderr.contains("the last report came 2 times more"), "{}", printed.stderr);
}

/// Announced entries are missing, but the stream ended in order: another try does not help the fork.
#[test]
fn a_fork_is_not_retried_after_a_stream_that_ended_in_order() {
    let place = Place::new();
    let a = place.log("a");
    append(&a, "1\n");
    let stream = [handshake("b", &[("a", 1), ("q", 2)], SYNC), change("a", 1, "other")].concat();
    let file = place.file("stream", stream);
    let run = with_counted_command(&place, replicate(&a, &["--once", "--retry", "--json"]), "cat \"$STREAM\"; cat > /dev/null");
    let ended = run.env("STREAM", file).end();
    assert_eq!((ended.status.code(), runs(&place)), (Some(4), 1), "{}", ended.printed.stderr);
    assert!(ended.printed.text().contains("\"missing\":2,\"forks\":1,"), "{}", ended.printed.text());
}
