//! `read`: which changes it prints, and the format of the change lines.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use scuttleup::{Error, Log, Offset};

use crate::harness::{Place, Run, append, hashed, read, shell};
use crate::terminal::Terminal;

/// A log with entries of three peers: offsets 1 to 7 are a1 b1 a2 c1 b2 a3 a4 (deleted).
fn mixed(place: &Place) -> PathBuf {
    let log = place.log("a");
    let line = |peer: &str, seq: u32| format!("{{\"peer\":\"{peer}\",\"seq\":{seq},\"text\":\"{peer}{seq}\"}}\n");
    let lines = [line("a", 1), line("b", 1), line("a", 2), line("c", 1), line("b", 2), line("a", 3)].concat();
    Run::new(&log).args(["write"]).stdin(lines).success();
    append(&log, "{\"a\":1}\n");
    Run::new(&log).args(["del", "a", "4"]).success();
    log
}

/// The offsets that `read` prints with `options`.
fn offsets(log: &Path, options: &[&str]) -> Vec<u64> {
    let printed = Run::new(log).args(["read"]).args(options).stderr("").success();
    printed.json().iter().map(|change| change["offset"].as_u64().expect("an offset")).collect()
}

#[test]
fn change_lines_look_as_documented() {
    let place = Place::new();
    let log = place.log("alice");
    append(&log, "{\"k\": [1,2]}\n");
    Run::new(&log).args(["append", "--text"]).stdin("plain \"é\" \\ \t\n").success();
    Run::new(&log).args(["append", "--raw"]).stdin(b"\xff\x00").success();
    append(&log, "{\"a\":1}\n");
    Run::new(&log).args(["del", "alice", "4"]).success();
    let line = |offset: u32, payload: &str| {
        let line = format!("{{\"offset\":{offset},\"peer\":\"alice\",\"seq\":{offset}{payload}}}\n");
        // The other lines have no hash, or have it at another place.
        if offset < 4 && !payload.is_empty() { hashed(&line) } else { line }
    };
    let deleted = ",\"deleted\":true,\"hash\":\"c5e3762ffc8453c6\",\"bytes\":7";
    let (json, text) = (",\"entry\":{\"k\": [1,2]}", ",\"text\":\"plain \\\"é\\\" \\\\ \\t\"");
    let (json_text, binary) = (",\"text\":\"{\\\"k\\\": [1,2]}\"", ",\"base64\":\"/wA=\"");
    let (json_base64, text_base64) = (",\"base64\":\"eyJrIjogWzEsMl19\"", ",\"base64\":\"cGxhaW4gIsOpIiBcIAk=\"");
    for (options, payloads) in [
        (&[][..], [json, text, binary, deleted]),
        (&["--text"], [json_text, text, binary, deleted]),
        (&["--raw"], [json_base64, text_base64, binary, deleted]),
        (&["--no-entry"], ["", "", "", ""]),
    ] {
        let expected: String = (1..).zip(payloads).map(|(offset, payload)| line(offset, payload)).collect();
        Run::new(&log).args(["read"]).args(options).stdout(expected).stderr("").success();
    }
}

#[test]
fn an_empty_entry_is_text_with_text_and_base64_without() {
    let place = Place::new();
    let log = place.log("alice");
    Run::new(&log).args(["append", "--raw"]).stdin("").success();
    for (option, key) in [("--text", "text"), ("--raw", "base64")] {
        let expected = hashed(&format!("{{\"offset\":1,\"peer\":\"alice\",\"seq\":1,\"{key}\":\"\"}}\n"));
        Run::new(&log).args(["read", option]).stdout(expected).success();
    }
}

#[test]
fn options_select_the_right_changes() {
    let place = Place::new();
    let log = mixed(&place);
    let cases: [(&[&str], &[u64]); 18] = [
        (&[], &[1, 2, 3, 4, 5, 6, 7]),
        (&["-n", "2"], &[6, 7]),
        (&["-n", "0"], &[]),
        (&["-n", "100"], &[1, 2, 3, 4, 5, 6, 7]),
        (&["-n", "18446744073709551615"], &[1, 2, 3, 4, 5, 6, 7]),
        (&["--after", "0"], &[1, 2, 3, 4, 5, 6, 7]),
        (&["--after", "5"], &[6, 7]),
        (&["--after", "7"], &[]),
        (&["--after", "2", "-n", "100"], &[3, 4, 5, 6, 7]),
        (&["--after", "2", "-n", "1"], &[7]),
        (&["--peer", "a"], &[1, 3, 6, 7]),
        (&["--peer", "b"], &[2, 5]),
        (&["--peer", "c", "--peer", "b"], &[2, 4, 5]),
        (&["--peer", "a", "-n", "2"], &[6, 7]),
        (&["--peer", "b", "-n", "1"], &[5]),
        (&["--peer", "b", "-n", "0"], &[]),
        (&["--peer", "a", "--after", "1", "-n", "2"], &[6, 7]),
        (&["--peer", "c", "--after", "4"], &[]),
    ];
    for (options, expected) in cases {
        assert_eq!(offsets(&log, options), expected, "{options:?}");
    }
}

/// 64 MiB of writable memory are enough, in any order of the heads.
#[test]
fn heads_of_a_million_feeds_take_little_memory() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n2\n");
    let line = "{ seq 1000000 | sed 's/.*/{\"peer\":\"another-peer-&\",\"seq\":1}/'; echo '{\"peer\":\"a\",\"seq\":1}'; } | \
                (ulimit -d 65536; exec \"$scuttleup\" --log \"$LOG\" read --since-heads - --no-entry)";
    let printed = shell(line).env("LOG", &log).stderr("").success().json();
    assert!(printed.len() == 1 && printed[0]["seq"] == 2, "{printed:?}");
}

#[test]
fn since_heads_prints_the_entries_above_the_heads() {
    let place = Place::new();
    let log = mixed(&place);
    let cases: [(&str, &[u64]); 8] = [
        ("", &[1, 2, 3, 4, 5, 6, 7]),
        ("\u{feff}{\"peer\":\"a\",\"seq\":2}\r\n{\"peer\":\"b\",\"seq\":1}\r\n", &[4, 5, 6, 7]),
        ("{\"peer\":\"a\",\"seq\":4}\n{\"peer\":\"b\",\"seq\":2}\n{\"peer\":\"c\",\"seq\":1}\n", &[]),
        ("{\"peer\":\"a\",\"seq\":2,\"own\":true}\n\n{\"peer\":\"b\",\"seq\":1}", &[4, 5, 6, 7]),
        ("{\"peer\":\"c\",\"seq\":4294967295}\n{\"peer\":\"b\",\"seq\":0}\n", &[1, 2, 3, 5, 6, 7]),
        ("{\"peer\":\"else\",\"seq\":9}\n{\"seq\":3,\"peer\":\"a\"}\r\n", &[2, 4, 5, 7]),
        ("{\"peer\":\"a\",\"seq\":1}\n{\"peer\":\"a\",\"seq\":3}\n", &[2, 4, 5, 7]),
        ("{\"peer\":\"c\",\"seq\":1}\n", &[1, 2, 3, 5, 6, 7]),
    ];
    for (heads, expected) in cases {
        let file = place.file("heads", heads);
        assert_eq!(offsets(&log, &["--since-heads", file.to_str().expect("UTF-8")]), expected, "{heads}");
        let piped = Run::new(&log).args(["read", "--since-heads", "-", "--no-entry"]).stdin(heads).success();
        assert_eq!(piped.lines().len(), expected.len());
    }
    let file = place.file("heads", "{\"peer\":\"a\",\"seq\":2}\n");
    assert_eq!(offsets(&log, &["--since-heads", file.to_str().expect("UTF-8"), "--peer", "a", "-n", "1"]), [7]);
}

/// Runs `read` with the options and expects these diagnostics, and none with -q. Returns stdout.
fn read_with_notices(log: &Path, options: &[&str], stdin: &str, notices: &[&str]) -> String {
    let stderr: String = notices.iter().map(|notice| format!("scuttleup: {notice}\n")).collect();
    let loud = Run::new(log).args(["read"]).args(options).stdin(stdin).stderr(&stderr).success();
    let quiet = Run::new(log).args(["-q", "read"]).args(options).stdin(stdin).stderr("").success();
    assert_eq!(loud.text(), quiet.text(), "{options:?}");
    loud.text().to_owned()
}

#[test]
fn a_peer_without_a_feed_is_reported_with_the_nearest_id() {
    let place = Place::new();
    let log = place.log("laptop");
    let line = |peer: &str| format!("{{\"peer\":\"{peer}\",\"seq\":1,\"text\":\"\"}}\n");
    Run::new(&log).args(["write"]).stdin([line("Server"), line("2a3f5c3e"), line("x\\u001by")].concat()).success();
    for (peer, hint) in [
        ("nobody", "`scuttleup heads` prints all feeds"),
        ("server", "did you mean Server?"),
        ("2a3f", "did you mean 2a3f5c3e?"),
        ("lapotp", "did you mean laptop?"),
        ("x\u{1b}z", "did you mean x\\u{1b}y?"),
    ] {
        let notice = format!("this log has no feed of {}: {hint}", peer.escape_default());
        assert_eq!(read_with_notices(&log, &["--peer", peer], "", &[&notice]), "");
        let printed = read_with_notices(&log, &["--peer", peer, "--peer", "Server", "--no-entry"], "", &[&notice]);
        assert_eq!(printed, "{\"offset\":1,\"peer\":\"Server\",\"seq\":1}\n");
    }
    // The local feed exists, although it is empty.
    assert_eq!(read_with_notices(&log, &["--peer", "laptop"], "", &[]), "");
}

#[test]
fn times_that_select_nothing_are_reported() {
    let place = Place::new();
    let log = mixed(&place);
    let (future, range) =
        ("--since is in the future: no entry is selected", "--since is later than --until: no entry is selected");
    for (options, notices) in [
        (&["--since", "2999-01-01"][..], &[future][..]),
        (&["--since", "-1h", "--until", "-2h"], &[range]),
        (&["--since", "2999-01-01", "--until", "2998-01-01"], &[range]),
        (&["--since", "-1h", "--until", "-1h"], &[]),
        (&["--until", "2001-01-01"], &[]),
    ] {
        assert_eq!(read_with_notices(&log, options, "", notices), "", "{options:?}");
    }
    // A live reader can wait for this time.
    let piped = shell("$scuttleup --log \"$LOG\" watch --since 2999-01-01 | true").env("LOG", &log);
    piped.stdout("").stderr("").success();
}

#[test]
fn a_live_command_reports_a_missing_feed_and_a_start_that_tail_leaves_out() {
    let place = Place::new();
    let log = mixed(&place);
    let heads = place.file("heads", "{\"peer\":\"a\",\"seq\":1}\n");
    let no_feed = "scuttleup: this log has no feed of nobody: `scuttleup heads` prints all feeds\n";
    let left_out = |options| {
        format!(
            "scuttleup: --tail leaves out all existing entries, {options} cannot select any of them: \
             use --live without --tail to print them\n"
        )
    };
    for (options, notice) in [
        ("--live --peer nobody", no_feed.to_owned()),
        ("--tail -n 5", left_out("-n")),
        ("--tail --after 3 -n 5", left_out("-n and --after")),
        ("--tail --since-heads \"$HEADS\"", left_out("--since-heads")),
        ("--tail --peer a", String::new()),
    ] {
        for command in ["read", "watch"] {
            // The closed stdout ends the command.
            let run = |quiet| shell(&format!("$scuttleup {quiet} --log \"$LOG\" {command} {options} | true"));
            run("").env("LOG", &log).env("HEADS", &heads).stderr(&notice).success();
            run("-q").env("LOG", &log).env("HEADS", &heads).stderr("").success();
        }
    }
}

#[test]
fn an_empty_log_is_reported_on_a_terminal_only() {
    let place = Place::new();
    let log = place.log("a");
    let on_terminal = |args: &[&str]| {
        let mut terminal = Terminal::new(400);
        let mut running = Run::new(&log).args(args).spawn_with(Stdio::null(), terminal.stdio(), terminal.stdio());
        let ended = running.wait();
        terminal.wait_for_end();
        assert_eq!(ended.status.code(), Some(0), "{args:?}");
        terminal.lines().join("\n")
    };
    let said = format!("scuttleup: the log in {} is empty", log.display());
    for command in ["read", "heads"] {
        assert_eq!(on_terminal(&[command]), said);
        assert_eq!(on_terminal(&["-q", command]), "");
        Run::new(&log).args([command]).stdout("").stderr("").success();
    }
    append(&log, "1\n");
    assert_eq!(on_terminal(&["heads", "--json"]), "{\"peer\":\"a\",\"seq\":1,\"own\":true}");
}

#[test]
fn an_offset_above_the_last_one_is_an_error() {
    let place = Place::new();
    let log = mixed(&place);
    for after in ["8", "18446744073709551615"] {
        for command in [&["read"][..], &["read", "--live"], &["read", "--tail"], &["watch"], &["read", "-n", "1"]] {
            let said = format!(
                "there is no offset {after} in this log, its last offset is 7: the offset is from another log, or this log was \
                 restored or created again: check --log, or read from the start with --after 0\n"
            );
            Run::new(&log).args(command).args(["--after", after]).stdout("").stderr_has(&said).status(1);
        }
    }
    let empty = place.log("empty");
    Run::new(&empty).args(["read", "--after", "1"]).stdout("").stderr_has("its last offset is 0: ").status(1);
    Run::new(&empty).args(["read", "--after", "0"]).stdout("").stderr("").success();
}

#[test]
fn the_library_refuses_to_follow_after_an_offset_above_the_last_one() {
    let place = Place::new();
    let log = Log::create(place.path("a"), None).expect("a log");
    log.append(b"1").expect("an entry");
    assert!(log.follow(Offset(1)).is_ok());
    let refused = log.follow(Offset(2)).map(|_| ());
    assert!(matches!(refused, Err(Error::UnknownOffset { after: Offset(2), last: Offset(1) })), "{refused:?}");
}

#[test]
fn heads_that_do_not_fit_to_the_log_are_reported() {
    let place = Place::new();
    let log = mixed(&place);
    let heads = |feeds: &[(&str, u32)]| -> String {
        feeds.iter().map(|(peer, seq)| format!("{{\"peer\":\"{peer}\",\"seq\":{seq}}}\n")).collect()
    };
    let lost = "stdin has entry 5 of a, which is the local feed, but this log has only 4: this log has lost entries or was \
                restored: do not append before a sync with a remote that may send, otherwise the feed forks";
    let other = "stdin names no feed of this log, all entries are selected: check the file and --log, unless this is the first \
                 exchange with another log";
    let lines =
        |feeds, notices: &[&str]| read_with_notices(&log, &["--since-heads", "-"], &heads(feeds), notices).lines().count();
    assert_eq!(lines(&[("a", 5), ("b", 1)], &[lost]), 2);
    assert_eq!(lines(&[("x", 5), ("y", 1)], &[other]), 7);
    // Other feeds can be ahead, and a new log names nothing.
    assert_eq!(lines(&[("a", 4), ("b", 9), ("x", 1)], &[]), 1);
    assert_eq!(lines(&[], &[]), 7);
    let empty = place.log("empty");
    assert_eq!(read_with_notices(&empty, &["--since-heads", "-"], &heads(&[("x", 5)]), &[]), "");
    let file = place.file("heads", heads(&[("x", 1)]));
    let notice = other.replace("stdin", file.to_str().expect("UTF-8"));
    read_with_notices(&log, &["--since-heads", file.to_str().expect("UTF-8")], "", &[&notice]);
}

#[test]
fn bad_heads_are_reported_with_their_line() {
    let place = Place::new();
    let log = mixed(&place);
    let good = "{\"peer\":\"a\",\"seq\":1}\n\n";
    for bad in [
        "x",
        "{\"peer\":\"a\"}",
        "{\"peer\":\"a\",\"seq\":-1}",
        "{\"peer\":\"a\",\"seq\":4294967296}",
        "{\"peer\":\"\",\"seq\":1}",
    ] {
        let read = Run::new(&log).args(["read", "--since-heads", "-"]).stdin(format!("{good}{bad}\n"));
        read.stdout("").stderr_has("scuttleup: stdin, line 3: ").status(7);
        let file = place.file("heads", format!("{good}{bad}\n"));
        let read = Run::new(&log).args(["read", "--since-heads"]).args([&file]);
        read.stdout("").stderr_has(&format!("{}, line 3: ", file.display())).status(7);
    }
    let mut not_utf8 = good.as_bytes().to_vec();
    not_utf8.extend_from_slice(b"\xff\n");
    Run::new(&log).args(["read", "--since-heads", "-"]).stdin(not_utf8).stderr_has("line 3: not UTF-8").status(7);
    let missing = place.path("missing");
    Run::new(&log).args(["read", "--since-heads"]).args([&missing]).stderr_has("cannot read ").stderr_has("missing: ").status(1);
}

#[test]
fn read_ends_quietly_when_its_stdout_is_closed() {
    let place = Place::new();
    let log = place.log("a");
    let lines: String = (0..200_000).map(|n| format!("{{\"number\":{n}}}\n")).collect();
    append(&log, lines);
    let first = hashed("{\"offset\":1,\"peer\":\"a\",\"seq\":1,\"entry\":{\"number\":0}}\n");
    let run = shell("$scuttleup --log \"$LOG\" read | head -n 1").env("LOG", &log);
    run.stdout(first).stderr("").success();
    let gone = shell("$scuttleup --log \"$LOG\" read | true; echo ${PIPESTATUS[0]}").env("LOG", &log);
    gone.stdout("0\n").stderr("").success();
    let entry = shell("$scuttleup --log \"$LOG\" heads | true").env("LOG", &log);
    entry.stderr("").success();
}

#[test]
fn many_entries_are_printed_in_order_and_byte_for_byte() {
    let place = Place::new();
    let log = place.log("a");
    let lines: Vec<String> = (0..100_000).map(|n| format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(n % 97))).collect();
    append(&log, lines.join("\n"));
    let printed = read(&log);
    assert_eq!(printed.lines().count(), lines.len());
    for ((number, line), expected) in (1..).zip(printed.lines()).zip(&lines) {
        assert_eq!(
            line,
            hashed(&format!("{{\"offset\":{number},\"peer\":\"a\",\"seq\":{number},\"entry\":{expected}}}")).trim_end()
        );
    }
    let last = Run::new(&log).args(["read", "-n", "1"]).success();
    assert_eq!(last.text(), printed.lines().last().map(|line| format!("{line}\n")).expect("a line"));
}

#[test]
fn read_prints_existing_entries_and_ends_while_another_process_appends() {
    let place = Place::new();
    let log = place.log("a");
    let mut appending = Run::new(&log).args(["append", "--ack"]).spawn();
    for n in 1..=50 {
        appending.send(format!("{n}\n"));
        appending.line();
        assert_eq!(read(&log).lines().count(), n);
    }
}
