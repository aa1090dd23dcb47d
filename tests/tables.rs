//! Tables on a terminal: `heads`, `info`, `cursor list`. That of `compare` is in compare.rs.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::harness::{Place, Run, append};
use crate::terminal::Terminal;

/// The text of a command on a terminal with these variables.
fn shown(log: &Path, args: &[&str], variables: [&str; 2]) -> String {
    let mut terminal = Terminal::new(100);
    let run = Run::new(log).args(args).env("TERM", variables[0]).env("NO_COLOR", variables[1]);
    let mut running = run.spawn_with(Stdio::null(), terminal.stdio(), Stdio::piped());
    terminal.close();
    let ended = running.wait();
    assert_eq!((ended.status.code(), &*ended.printed.stderr), (Some(0), ""));
    terminal.wait_for_end();
    terminal.seen().replace("\r\n", "\n")
}

/// A log with the feeds of other peers, one of them with a wide id and a fork; its local feed was pruned.
fn log(place: &Place) -> PathBuf {
    let log = place.log("laptop");
    append(&log, "1\n2\n3\n4\n5\n");
    Run::new(&log).args(["-q", "prune", "--keep-last", "2"]).success();
    let forked = "{\"peer\":\"ホスト\",\"seq\":1,\"entry\":1}\n";
    Run::new(&log).args(["write"]).stdin(format!("{forked}{{\"peer\":\"x\\u202e\",\"seq\":1,\"entry\":1}}\n")).success();
    Run::new(&log).args(["write"]).stdin(forked.replace("entry\":1", "entry\":2")).status(4);
    log
}

#[test]
fn heads_on_a_terminal_are_a_table_with_marks() {
    let place = Place::new();
    let log = log(&place);
    let plain = "\
peer       seq
laptop       5  own, pruned up to 3
x\\u{202e}    1
ホスト       1  fork
";
    assert_eq!(shown(&log, &["heads"], ["xterm", "1"]), plain);
    assert_eq!(shown(&log, &["heads"], ["dumb", ""]), plain);
    assert_eq!(shown(&log, &["heads"], ["", ""]), plain);
    let coloured = plain.replace("own", "\x1b[32mown\x1b[0m").replace("pruned up to 3", "\x1b[33mpruned up to 3\x1b[0m");
    assert_eq!(shown(&log, &["heads"], ["xterm", ""]), coloured.replace("fork", "\x1b[31mfork\x1b[0m"));
    let lines = Run::new(&log).args(["heads"]).success().text().to_owned();
    assert!(lines.starts_with(r#"{"peer":"laptop","seq":5,"own":true,"floor":3}"#), "{lines}");
    assert_eq!(shown(&log, &["heads", "--json"], ["xterm", ""]), lines);
    assert_eq!(Run::new(&log).args(["heads", "--json"]).success().text(), lines);
}

#[test]
fn info_on_a_terminal_has_sizes_for_people() {
    let place = Place::new();
    let log = log(&place);
    let text = shown(&log, &["info"], ["xterm", "1"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["id            laptop", "feeds         3, 1 fork"]);
    assert_eq!(lines[2], "entries       4, pruned up to offset 3");
    assert_eq!(lines[3], "last offset   7");
    let names: Vec<&str> = lines[4..].iter().map(|line| line[..14].trim_end()).collect();
    assert_eq!(names, ["size on disk", "  data.mdb", "root"]);
    assert!(lines[4].ends_with(" KiB") || lines[4].ends_with(" MiB"), "{text}");
    assert_eq!(lines[6][14..].len(), 32, "{text}");
    Run::new(&log).args(["-q", "compact"]).success();
    assert!(shown(&log, &["info"], ["xterm", "1"]).contains(" in 1 pack of "));
    let lines = Run::new(&log).args(["info"]).success().text().to_owned();
    assert_eq!(shown(&log, &["info", "--json"], ["xterm", ""]), lines);
}

#[test]
fn cursors_on_a_terminal_are_a_table() {
    let place = Place::new();
    let log = log(&place);
    assert_eq!(shown(&log, &["cursor", "list"], ["xterm", ""]), "");
    for (name, offset) in [("バックアップ", "7"), ("a", "4")] {
        Run::new(&log).args(["cursor", "set", name, offset]).success();
    }
    let table = shown(&log, &["cursor", "list"], ["xterm", ""]);
    let rows: Vec<_> = table.lines().collect();
    let starts = ["cursor        offset  unread  ", "a                  4       3  ", "バックアップ       7       0  "];
    assert!(rows.len() == 3 && rows.iter().zip(starts).all(|(row, start)| row.starts_with(start)), "{table}");
    // The test can last more than a second.
    assert!(rows[0].ends_with("  behind") && rows[1..].iter().all(|row| row.contains(" second")), "{table}");
    let lines = Run::new(&log).args(["cursor", "list"]).success().text().to_owned();
    assert_eq!(shown(&log, &["cursor", "list", "--json"], ["xterm", ""]), lines);
}
