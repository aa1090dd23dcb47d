//! The reports of a session for all pairs of modes: the table of scuttleup-replicate(1), MODES.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::frames::{PULL, SYNC, Session, handshake};
use crate::harness::{Ended, Place, Run, SCUTTLEUP, append, heads};
use crate::replicate::{await_entries, join};

const WIRES: [&str; 2] = ["native", "original"];

/// One row of the table: what one side says and how it ends. Log a lacks M = 2 entries of b, b lacks N = 3 entries of a.
struct Row {
    local: &'static str,
    remote: &'static str,
    /// The last message, with ID for the id of the remote, N and M for the counts, and (1) or (2) for what stays behind. On the
    /// native wire, a remote with mode pull does not say what it holds.
    message: &'static str,
    exit: i32,
}

const fn row(local: &'static str, remote: &'static str, message: &'static str, exit: i32) -> Row {
    Row { local, remote, message, exit }
}

const TABLE: [Row; 9] = [
    row("sync", "sync", "synced with ID: sent N, received M", 0),
    row("sync", "push", "pulled from ID: received M, but (1)", 6),
    row("sync", "pull", "pushed to ID: sent N, but (2)", 6),
    row("push", "sync", "pushed to ID: sent N", 0),
    row("push", "push", "no entry moved to or from ID, but (1)", 6),
    row("push", "pull", "pushed to ID: sent N", 0),
    row("pull", "sync", "pulled from ID: received M", 0),
    row("pull", "push", "pulled from ID: received M", 0),
    row("pull", "pull", "no entry moved to or from ID, but (2)", 6),
];

impl Row {
    /// The row for the remote of this side.
    fn mirrored(&self) -> &'static Row {
        TABLE.iter().find(|row| row.local == self.remote && row.remote == self.local).expect("all pairs")
    }

    fn sends(&self) -> bool {
        self.message.contains("sent N")
    }

    fn receives(&self) -> bool {
        self.message.contains("received M")
    }

    /// The last message of a side that lacks `lacks` of the entries of its remote `peer`, which lacks `has` local entries.
    fn text(&self, wire: &str, peer: &str, has: u64, lacks: u64) -> String {
        let durable = if wire == "native" { format!(" ({has} durable on the remote)") } else { String::new() };
        let both = self.local == self.remote;
        let (pull, push) = if both {
            ("the remote must use --mode pull or sync", "the remote must use --mode push or sync")
        } else {
            ("to only receive, use --mode pull", "to only send, use --mode push")
        };
        let text = self.message.replace("ID", peer);
        let text = text.replace("sent N", &format!("sent {has}{durable}")).replace("received M", &format!("received {lacks}"));
        let text = text.replace("(1)", &format!("{has} local entries were not sent: the remote only sends ({pull})"));
        let left = match wire {
            "native" => "the entries of the remote are not known".to_owned(),
            _ => format!("{lacks} entries of the remote were not received"),
        };
        text.replace("(2)", &format!("{left}: the remote only receives ({push})"))
    }

    /// Checks the report of a side, see [`Row::text`]. Its exit code is `exit`.
    fn check(&self, wire: &str, report: &Value, exit: i32, has: u64, lacks: u64) {
        let said = format!("{} with {}: {report}", self.local, self.remote);
        assert_eq!(report["remote_mode"], self.remote, "{said}");
        assert_eq!((&report["complete"], &report["exit"]), (&(exit == 0).into(), &exit.into()), "{said}");
        let names = ["sent", "unsent", "received", "missing", "forks", "gaps"];
        let counts = names.map(|name| report[name].as_u64().expect("a number"));
        let (sent, unsent) = if self.sends() { (has, 0) } else { (0, has) };
        let (received, missing) = if self.receives() { (lacks, 0) } else { (0, lacks) };
        assert_eq!(counts, [sent, 0, received, 0, 0, 0], "{said}");
        // The remote is silent unless it has said that the logs are equal. Two sides that only receive compare nothing.
        let both_receive = self.local == "pull" && self.remote == "pull";
        let is_silent = wire == "native" && self.remote == "pull" && (both_receive || has + lacks > 0);
        let unsent = if is_silent && both_receive { Value::Null } else { unsent.into() };
        let missing = if is_silent { Value::Null } else { missing.into() };
        assert_eq!((&report["unsent_by_mode"], &report["missing_by_mode"]), (&unsent, &missing), "{said}");
    }
}

/// Log a with three entries and log b with two, and a common feed in both.
fn two_logs(place: &Place) -> (PathBuf, PathBuf) {
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1\n2\n3\n");
    append(&b, "1\n2\n");
    for log in [&a, &b] {
        Run::new(log).args(["write"]).stdin("{\"peer\":\"common\",\"seq\":1,\"entry\":1}\n").success();
    }
    (a, b)
}

/// All wires and rows, each with new logs.
fn each_row(test: impl Fn(&str, &'static Row, &Path, &Path)) {
    for wire in WIRES {
        for row in &TABLE {
            let place = Place::new();
            let (a, b) = two_logs(&place);
            test(wire, row, &a, &b);
            assert_eq!(heads(&a).len() == 3, row.receives(), "{wire} {} with {}", row.local, row.remote);
            assert_eq!(heads(&b).len() == 3, row.sends(), "{wire} {} with {}", row.local, row.remote);
        }
    }
}

/// `replicate` with the local mode of a row, without COMMAND.
fn args<'a>(wire: &'a str, row: &'a Row, more: &[&'a str]) -> Vec<&'a str> {
    ["--wire", wire, "--mode", row.local].into_iter().chain(more.iter().copied()).collect()
}

/// `replicate` with the local mode of a row, and a COMMAND that serves log `b` with the remote mode.
fn with_command(wire: &str, row: &Row, a: &Path, more: &[&str], b: &Path, quiet: &[&str]) -> Run {
    let run = Run::new(a).args(["replicate"]).args(args(wire, row, more)).args(["--", SCUTTLEUP]).args(quiet);
    run.args(["--log"]).args([b]).args(["replicate"]).args(args(wire, row.mirrored(), &[]))
}

fn report(ended: &Ended) -> Value {
    let (stdout, stderr) = (ended.printed.text(), &ended.printed.stderr);
    serde_json::from_str(if stdout.is_empty() { stderr } else { stdout }).unwrap_or_else(|err| panic!("{err}: {stdout}{stderr}"))
}

#[test]
fn two_one_shot_sides_say_what_moved_and_what_stayed_behind() {
    each_row(|wire, row, a, b| {
        let other = row.mirrored();
        let (ended_a, ended_b) = join(a, &args(wire, row, &["--once"]), b, &args(wire, other, &["--once"]));
        assert_eq!(ended_a.printed.stderr, format!("scuttleup: {}\n", row.text(wire, "b", 3, 2)));
        assert_eq!(ended_b.printed.stderr, format!("scuttleup: {}\n", other.text(wire, "a", 2, 3)));
        assert_eq!((ended_a.status.code(), ended_b.status.code()), (Some(row.exit), Some(other.exit)));
    });
}

#[test]
fn the_reports_of_two_one_shot_sides_count_what_stayed_behind() {
    each_row(|wire, row, a, b| {
        let other = row.mirrored();
        let (ended_a, ended_b) = join(a, &args(wire, row, &["--once", "--json"]), b, &args(wire, other, &["--once", "--json"]));
        row.check(wire, &report(&ended_a), row.exit, 3, 2);
        other.check(wire, &report(&ended_b), other.exit, 2, 3);
    });
}

/// The user sees one line: that of the side with COMMAND. On the original wire, no side can know that its remote is satisfied.
#[test]
fn a_side_that_serves_leaves_the_result_to_its_remote() {
    each_row(|wire, row, a, b| {
        let ended = with_command(wire, row, a, &["--once"], b, &[]).end();
        let last = format!("scuttleup: {}\n", row.text(wire, "b", 3, 2));
        let (served, rest) = ended.printed.stderr.split_at(ended.printed.stderr.len().saturating_sub(last.len()));
        assert_eq!(rest, last, "{served}");
        assert_eq!(ended.status.code(), Some(row.exit), "{}", ended.printed.stderr);
        if wire == "native" && (row.sends() || row.receives()) {
            return assert_eq!(served, "");
        }
        // A side that only receives can end the session and COMMAND before COMMAND has printed its message.
        assert!(served.lines().all(|line| line.starts_with("scuttleup (b): ") && !line.contains("but")), "{served}");
        assert!(served.lines().count() == 1 || wire == "original" && !row.sends(), "{served}");
    });
}

#[test]
fn the_mode_of_its_remote_is_no_error_for_a_side_that_serves() {
    each_row(|wire, row, a, b| {
        let other = row.mirrored();
        let (_, ended) = join(a, &args(wire, row, &["--once"]), b, &args(wire, other, &["--json"]));
        assert_eq!(ended.status.code(), Some(0), "{}", ended.printed.stderr);
        other.check(wire, &report(&ended), 0, 2, 3);
    });
}

#[test]
fn a_live_session_says_at_its_start_which_direction_is_closed() {
    each_row(|wire, row, a, b| {
        let mut live = with_command(wire, row, a, &[], b, &["-q"]).spawn();
        if row.receives() {
            await_entries(a, "b", 2);
        }
        if row.sends() {
            await_entries(b, "a", 3);
        }
        if !row.sends() && !row.receives() {
            let ended = live.wait();
            assert_eq!(ended.printed.stderr, format!("scuttleup: {}\n", row.text(wire, "b", 3, 2)));
            return assert_eq!(ended.status.code(), Some(row.exit));
        }
        live.signal(Signal::SIGTERM);
        let ended = live.wait();
        assert_eq!(ended.status.code(), Some(143), "{}", ended.printed.stderr);
        let closed = match row.remote {
            "push" => {
                "the remote only sends: entries of this log are not sent in this session (to only receive, use --mode pull)"
            }
            _ => {
                "the remote only receives: entries of the remote are not received in this session (to only send, use --mode push)"
            }
        };
        let expected = if row.exit == 6 { format!("scuttleup: {closed}\n") } else { String::new() };
        // The remote says that the session ended early.
        let is_said = |line: &&str| !line.starts_with("scuttleup (b): ") && !line.contains(", waiting for new entries");
        let said: String = ended.printed.stderr.split_inclusive('\n').filter(is_said).collect();
        let (first, last) = said.split_once("scuttleup: stopped: ").expect("the last message");
        assert_eq!((first, last.lines().count()), (&*expected, 1), "{wire} {} with {}", row.local, row.remote);
    });
}

/// The direction is closed, but nothing stays behind that the local mode asks for: this is no error.
#[test]
fn a_closed_direction_without_entries_is_said_in_parentheses() {
    let cases = [
        ("sync", "push", "b", "pulled from b: received 1 (the remote only sends)"),
        ("sync", "pull", "a", "pushed to b: sent 1DURABLE (the remote only receives)"),
        ("push", "push", "b", "no entry moved to or from b (both sides only send)"),
        ("pull", "pull", "a", "no entry moved to or from b (both sides only receive)"),
    ];
    for (wire, durable) in [("native", " (1 durable on the remote)"), ("original", "")] {
        for (local, remote, ahead, expected) in cases {
            let place = Place::new();
            let (a, b) = two_logs(&place);
            join(&a, &["--once", "-q"], &b, &["--once", "-q"]);
            append(if ahead == "a" { &a } else { &b }, "4\n");
            let (ended, _) = join(&a, &["--once", "--wire", wire, "--mode", local], &b, &["--once", "--mode", remote]);
            let expected = expected.replace("DURABLE", durable);
            // This side cannot know that nothing stays behind: the remote, which may speak both wires, does not say what it holds.
            let is_silent = remote == "pull";
            let (expected, exit) = match expected.split_once(" (") {
                Some(_) if is_silent => {
                    (expected[..expected.rfind(" (").expect("a part in parentheses")].to_owned() + ", but ", 6)
                }
                _ => (format!("{expected}\n"), 0),
            };
            assert!(ended.printed.stderr.starts_with(&format!("scuttleup: {expected}")), "{wire}: {}", ended.printed.stderr);
            assert_eq!(ended.status.code(), Some(exit), "{wire} {local} with {remote}");
        }
    }
}

/// On the native wire, equal roots end the opening without heads.
#[test]
fn equal_logs_are_complete_in_all_modes_that_compare_them() {
    for wire in WIRES {
        let place = Place::new();
        let (a, b) = two_logs(&place);
        join(&a, &["--once", "-q"], &b, &["--once", "-q"]);
        for row in &TABLE {
            let (ended_a, ended_b) =
                join(&a, &args(wire, row, &["--once", "--json"]), &b, &args(wire, row.mirrored(), &["--json"]));
            let both_receive = row.local == "pull" && row.remote == "pull" && wire == "native";
            row.check(wire, &report(&ended_a), if both_receive { 6 } else { 0 }, 0, 0);
            row.mirrored().check(wire, &report(&ended_b), 0, 0, 0);
        }
    }
}

#[test]
fn a_refused_direction_is_not_tried_again() {
    for wire in WIRES {
        for row in TABLE.iter().filter(|row| row.exit == 6) {
            for more in [&["--once", "--retry"][..], &["--retry"]] {
                let is_live = more.len() == 1 && (row.sends() || row.receives());
                if is_live {
                    continue;
                }
                let place = Place::new();
                let (a, b) = two_logs(&place);
                let printed = with_command(wire, row, &a, more, &b, &["-q"]).status(6);
                assert!(!printed.stderr.contains("trying again"), "{}", printed.stderr);
            }
        }
    }
}

/// Both versions of a forked feed stay where they are in every mode: its entries do not count as held back.
#[test]
fn a_fork_is_reported_before_what_stayed_behind() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    for (log, entry) in [(&a, "1"), (&b, "2")] {
        Run::new(log).args(["write"]).stdin(format!("{{\"peer\":\"forked\",\"seq\":1,\"entry\":{entry}}}\n")).success();
    }
    Run::new(&a).args(["write"]).stdin("{\"peer\":\"forked\",\"seq\":2,\"entry\":3}\n").success();
    let (ended, _) = join(&a, &["--once"], &b, &["--mode", "push", "-q"]);
    let last = "pulled from b: received 2, but 3 local entries were not sent: the remote only sends (to only receive, use --mode pull), \
                and 1 feed is stopped\n";
    assert!(ended.printed.stderr.ends_with(last), "{}", ended.printed.stderr);
    assert_eq!(ended.status.code(), Some(4));
}

/// A side without COMMAND names its log in each message, because its stderr is often the terminal of its remote.
#[test]
fn the_messages_of_a_side_without_command_are_labelled() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    for (log, entry) in [(&a, "1"), (&b, "2")] {
        Run::new(log).args(["write"]).stdin(format!("{{\"peer\":\"forked\",\"seq\":1,\"entry\":{entry}}}\n")).success();
    }
    let fork = "fork: entry 1 of forked has different bytes in the remote log, this feed is stopped: each log keeps its version";
    let ended = with_command("native", &TABLE[0], &a, &["--once"], &b, &[]).end();
    let mut lines: Vec<&str> = ended.printed.stderr.lines().collect();
    lines.sort_unstable();
    let expected = [
        format!("scuttleup (b): {fork}"),
        "scuttleup (b): synced with a: sent 2 (2 durable on the remote), received 3, but 1 feed is stopped".into(),
        format!("scuttleup: {fork}"),
        "scuttleup: synced with b: sent 3 (3 durable on the remote), received 2, but 1 feed is stopped".into(),
    ];
    assert_eq!(lines, expected);
    // An error that ends the command.
    Run::new(&b).args(["replicate"]).stdin("no session\n").stderr_has("scuttleup (b): the remote is not a replication").status(7);
    // Before the log is open, the label is the name of the host.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name");
    let file = place.file("file", "");
    Run::new(&file).args(["replicate"]).stderr_has(&format!("scuttleup ({}): ", host.trim())).status(1);
}

/// Only the heads tell a one-shot side on the original wire what the remote holds.
#[test]
fn entries_that_were_appended_later_do_not_count() {
    let place = Place::new();
    let (a, _) = two_logs(&place);
    let mut session = Session::open(&a, &["--once", "--json", "--mode", "pull"]);
    session.send(handshake("x", &[("a", 1)], SYNC));
    session.frame();
    append(&a, "4\n5\n");
    let (_, ended) = session.close();
    assert_eq!(report(&ended)["unsent_by_mode"], 3, "two of a, one of common: {}", ended.printed.stderr);
}

/// Nothing can move, so the session does not wait for the end of the remote.
#[test]
fn two_sides_that_only_receive_end_at_once() {
    let place = Place::new();
    let (a, _) = two_logs(&place);
    let mut session = Session::open(&a, &["--once", "--mode", "pull"]);
    session.send(handshake("x", &[("x", 3)], PULL));
    let ended = session.wait();
    let said = "no entry moved to or from x, but 3 entries of the remote were not received: the remote only receives";
    assert!(ended.printed.stderr.contains(said), "{}", ended.printed.stderr);
    assert_eq!(ended.status.code(), Some(6));
}

/// Only an explicit `--wire original` makes such a remote name all its feeds.
#[test]
fn on_the_original_wire_too_a_remote_that_withholds_its_heads_is_not_complete() {
    for (mode, unsent) in [("sync", Value::from(0)), ("pull", Value::Null)] {
        let place = Place::new();
        let (a, b) = two_logs(&place);
        let run =
            Run::new(&a).args(["replicate", "--once", "--json", "--wire", "original", "--mode", mode, "--", SCUTTLEUP, "-q"]);
        let ended = run.args(["--log"]).args([&b]).args(["replicate", "--mode", "pull"]).end();
        let said = report(&ended);
        assert_eq!((ended.status.code(), &said["complete"]), (Some(6), &Value::from(false)), "{said}");
        assert_eq!((&said["unsent_by_mode"], &said["missing_by_mode"]), (&unsent, &Value::Null), "{said}");
        // The original in the same mode names all its feeds.
        let mut session = Session::open(&a, &["--once", "--json", "--wire", "original", "--mode", mode]);
        session.send(handshake("x", &[("a", 3), ("common", 1)], PULL));
        let said = report(&session.close().1);
        assert_eq!((&said["exit"], &said["missing_by_mode"]), (&Value::from(0), &Value::from(0)), "{said}");
    }
}
