//! `read` and `watch` on a terminal: one line for each entry, for people.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::harness::{Place, Run, append, hashed};
use crate::terminal::Terminal;
use crate::verify::change;

/// Runs a command on a terminal that is so wide, with this environment. Returns the terminal after its end.
fn shown(log: &Path, columns: u16, args: &[&str], env: &[(&str, &str)]) -> Terminal {
    let mut terminal = Terminal::new(columns);
    let run = Run::new(log).args(args).env("TZ", "UTC").env("TERM", "xterm").env("NO_COLOR", "");
    let run = env.iter().fold(run, |run, (name, value)| run.env(name, value));
    let ended = run.spawn_with(Stdio::null(), terminal.stdio(), terminal.stdio()).wait();
    terminal.wait_for_end();
    assert_eq!(ended.status.code(), Some(0), "{args:?}");
    terminal
}

fn lines(log: &Path, columns: u16, args: &[&str]) -> Vec<String> {
    shown(log, columns, args, &[]).lines()
}

/// Gives the commits that begin at these offsets these times.
fn set_times(log: &Path, times: &[(u64, u64)]) {
    for &(first, millis) in times {
        change(log, "times", &first.to_ne_bytes(), |_| Some(millis.to_le_bytes().to_vec()));
    }
}

/// A log with one entry of each kind. The first three arrived at one time, the others the day after.
fn varied(place: &Place) -> PathBuf {
    let log = place.log("laptop");
    let line = |peer: &str, payload: &str| format!("{{\"peer\":\"{peer}\",\"seq\":1,{payload}}}\n");
    let others = [
        line("web-1", "\"entry\":{\"msg\":\"hello\"}"),
        line("\\u001b[2Jx", "\"text\":\"a\\nb\\u001b[31m\\u009b\""),
        line("\u{4f60}\u{597d}", "\"text\":\"\u{4f60}\u{597d}, world\""),
    ];
    Run::new(&log).args(["write"]).stdin(others.concat()).success();
    Run::new(&log).args(["append", "--raw"]).stdin(b"\x89PNG\r\n\x1a\n\0\"").success();
    Run::new(&log).args(["append", "--raw"]).stdin("").success();
    append(&log, "[1,2]\n");
    Run::new(&log).args(["del", "laptop", "3"]).success();
    let day = 1_764_150_548_123;
    set_times(&log, &[(1, day), (4, day + 24 * 3600 * 1000), (5, day + 24 * 3600 * 1000 + 1), (6, day + 24 * 3600 * 1000 + 2)]);
    log
}

#[test]
fn a_terminal_gets_one_line_for_each_entry_with_time_peer_seq_and_payload() {
    let place = Place::new();
    let log = varied(&place);
    let expected = [
        "Wednesday, 2025-11-26",
        "09:49:08.123  web-1  1  {\"msg\":\"hello\"}",
        "09:49:08.123  \\u{1b}[2Jx  1  a\\nb\\u{1b}[31m\\u{9b}",
        "09:49:08.123  \u{4f60}\u{597d}        1  \u{4f60}\u{597d}, world",
        "Thursday, 2025-11-27",
        "09:49:08.123  laptop      1  10 bytes: \\x89PNG\\r\\n\\x1a\\n\\x00\\\"",
        "09:49:08.124  laptop      2  empty",
        "09:49:08.125  laptop      3  deleted, 5 bytes",
    ];
    assert_eq!(lines(&log, 100, &["read"]), expected);
    assert_eq!(lines(&log, 100, &["read", "--limit", "1"]), expected[..2]);
    let newest = ["Thursday, 2025-11-27", "09:49:08.125  laptop  3  deleted, 5 bytes", "09:49:08.124  laptop  2  empty"];
    assert_eq!(lines(&log, 100, &["read", "--reverse", "-n", "2"]), newest);
    assert_eq!(lines(&log, 100, &["watch", "-n", "2", "--until", "now"])[1..], ["09:49:08.124  laptop  2  empty", newest[1]]);
    assert_eq!(lines(&log, 100, &["read", "--no-entry", "--limit", "1"])[1], "09:49:08.123  web-1  1");
    assert_eq!(lines(&log, 100, &["read", "--raw", "--limit", "1"])[1], "09:49:08.123  web-1  1  eyJtc2ciOiJoZWxsbyJ9");
}

#[test]
fn the_view_is_in_local_time() {
    let place = Place::new();
    let log = varied(&place);
    let local = shown(&log, 100, &["read", "--limit", "1"], &[("TZ", "AAA-15:30")]).lines();
    assert_eq!(local, ["Thursday, 2025-11-27", "01:19:08.123  web-1  1  {\"msg\":\"hello\"}"]);
}

#[test]
fn a_line_is_cut_to_the_width_of_the_terminal() {
    let place = Place::new();
    let log = place.log("a");
    let text = "\u{4f60}\u{597d}".repeat(400_000);
    Run::new(&log).args(["append", "--raw"]).stdin(&text).success();
    Run::new(&log).args(["append", "--raw"]).stdin(vec![0xff; 1 << 20]).success();
    Run::new(&log).args(["append", "--raw"]).stdin("x".repeat(20)).success();
    let long = format!("{{\"peer\":\"{}\",\"seq\":1,\"entry\":1}}\n", "p".repeat(255));
    Run::new(&log).args(["write"]).stdin(long).success();
    for columns in 10..60 {
        let printed = lines(&log, columns, &["read"]);
        assert_eq!(printed.len(), 5, "{columns} columns: {printed:#?}");
        if columns >= 24 {
            assert!(printed[1].starts_with(&format!("{}  a  1  ", &printed[1][..12])) && printed[1].ends_with('\u{2026}'));
        }
    }
    let [_, wide, binary, short, peer] = lines(&log, 40, &["read"]).try_into().expect("five lines");
    assert_eq!(wide[12..], format!("  a  1  {}\u{4f60}\u{2026}", "\u{4f60}\u{597d}".repeat(4)));
    assert_eq!(&binary[12..], "  a  2  1048576 bytes: \\xff\u{2026}");
    assert_eq!(&short[12..], "  a  3  xxxxxxxxxxxxxxxxxxxx");
    assert_eq!(peer[12..], format!("  {}\u{2026}  1  1", "p".repeat(19)));
}

#[test]
fn json_gives_change_lines_on_a_terminal_too() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "{\"a\":1}\n");
    let line = hashed("{\"offset\":1,\"peer\":\"a\",\"seq\":1,\"entry\":{\"a\":1}}\n");
    assert_eq!(lines(&log, 200, &["read", "--json"]), [line.trim_end()]);
    assert_eq!(lines(&log, 200, &["watch", "--json", "--limit", "1"]), [line.trim_end()]);
    // A pipe gets the same with and without --json.
    Run::new(&log).args(["read", "--json"]).stdout(&line).success();
    Run::new(&log).args(["read"]).stdout(&line).success();
}

#[test]
fn colours_are_shown_unless_the_user_or_the_terminal_has_none() {
    let place = Place::new();
    let log = varied(&place);
    let escapes = |env: &[(&str, &str)]| shown(&log, 100, &["read"], env).seen().matches('\x1b').count();
    assert!(escapes(&[]) > 10);
    assert_eq!(escapes(&[("NO_COLOR", "1")]), 0);
    for term in ["dumb", ""] {
        assert_eq!(escapes(&[("TERM", term)]), 0, "{term}");
    }
    let coloured = shown(&log, 100, &["read"], &[]);
    assert_eq!(coloured.lines(), lines(&log, 100, &["read"]));
    // Nothing of an entry controls the terminal: only colours do.
    let seen = coloured.seen();
    for (at, _) in seen.match_indices('\x1b') {
        let end = seen[at..].find('m').expect("the end of a colour");
        assert!(seen[at + 1..at + end].chars().all(|c| c == '[' || c.is_ascii_digit()), "{:?}", &seen[at..]);
    }
    assert!(!seen.contains('\u{9b}') && !seen.contains('\u{7}'));
    // The same peer has the same colour.
    let colour_of = |row: u16| coloured.screen().cell(row, 14).expect("a cell").fgcolor();
    assert_eq!(colour_of(5), colour_of(6));
    assert_ne!(colour_of(5), vt100::Color::Default);
}

#[test]
fn a_floor_is_shown_and_a_watched_entry_appears() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n2\n3\n4\n");
    Run::new(&log).args(["-q", "prune", "--keep-last", "1"]).success();
    set_times(&log, &[(1, 1_795_686_548_000)]);
    let printed = lines(&log, 80, &["read"]);
    assert_eq!(printed, ["              a  3  pruned up to here", "Thursday, 2026-11-26", "09:49:08.000  a  4  4"]);
    let mut terminal = Terminal::new(80);
    let watch = Run::new(&log).args(["watch", "-n", "1", "--peer", "a*", "--limit", "2"]).env("TERM", "dumb");
    let mut watching = watch.spawn_with(Stdio::null(), terminal.stdio(), Stdio::piped());
    terminal.wait_until(|terminal| terminal.lines().len() == 2);
    append(&log, "\"new\"\n");
    terminal.wait_until(|terminal| terminal.lines().last().is_some_and(|line| line.ends_with("  a  5  \"new\"")));
    assert_eq!(watching.wait().status.code(), Some(0));
}
