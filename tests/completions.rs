//! `completions`: the shells complete commands, options, feeds and cursors.

use std::path::Path;

use crate::harness::{Place, Run, SCUTTLEUP, append, shell};
use crate::terminal::Terminal;

/// A log with feeds and cursors. Two ids are text that a shell interprets.
fn log(place: &Place, name: &str) -> std::path::PathBuf {
    let log = place.log(name);
    append(&log, "1\n");
    for peer in ["web-1", "web-2", "db", "web 3", "web;touch x"] {
        Run::new(&log).args(["write"]).stdin(format!("{{\"peer\":\"{peer}\",\"seq\":1,\"entry\":1}}\n")).success();
    }
    for cursor in ["backup", "index", "back up"] {
        Run::new(&log).args(["cursor", "set", cursor, "1"]).success();
    }
    log
}

/// The candidates that bash offers for the last one of these words.
fn offered(log: &Path, words: &[&str]) -> Vec<String> {
    let script = "source <($scuttleup completions bash)
        COMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
        complete -p scuttleup > /dev/null && _clap_complete_scuttleup scuttleup \"${@: -1}\" \"${@: -2:1}\"
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let printed = shell(script).args(["bash"]).args(words).env("LOG", log).stderr("").success();
    printed.lines().into_iter().filter(|line| !line.is_empty() && !line.starts_with('-')).map(str::to_owned).collect()
}

#[test]
fn bash_completes_feeds_and_cursors_of_the_log_that_the_line_names() {
    let place = Place::new();
    let (a, b) = (log(&place, "a"), place.log("b"));
    append(&b, "1\n");
    let (log, other) = (a.to_str().expect("UTF-8"), b.to_str().expect("UTF-8"));
    let feeds = ["a", "db", "web-1", "web-2"];
    // A name can contain a command.
    for name in ["plain.log", "plain$(touch x).log", "plain;id", "plain two"] {
        place.file(name, "");
    }
    let file = |name: &str| place.path(name).to_str().expect("UTF-8").to_owned();
    for (words, expected) in [
        (&["--log", log, "read", "--peer", ""][..], &feeds[..]),
        (&["--log", log, "watch", "--peer", "web"], &["web-1", "web-2"]),
        (&["read", "--log", log, "--peer", "web-1"], &["web-1"]),
        (&["--log", "=", log, "read", "--peer", "d"], &["db"]),
        (&["--log", other, "read", "--peer", ""], &["b"]),
        (&["--log", log, "entry", ""], &feeds),
        (&["--log", log, "del", "d"], &["db"]),
        (&["--log", log, "heads", "--clear-fork", "w"], &["web-1", "web-2"]),
        (&["--log", log, "replicate", "--peer", "db"], &["db"]),
        (&["--log", log, "replicate", "--allow-peer", "db"], &["db"]),
        (&["--log", log, "cursor", "set", ""], &["backup", "index"]),
        (&["--log", log, "cursor", "rm", "i"], &["index"]),
        (&["--log", log, "cursor", "l"], &["list"]),
        (&["append", "--follow", &file("plain")], &[&file("plain.log")]),
        (&["comp"], &["compact", "compare", "completions"]),
        (&["completions", ""], &["bash", "fish", "zsh"]),
    ] {
        let words = [&["scuttleup"], words].concat();
        let mut offered = offered(&a, &words);
        offered.sort_unstable();
        assert_eq!(offered, expected, "{words:?}");
    }
    let options = shell("SCUTTLEUP_COMPLETE=bash _CLAP_COMPLETE_INDEX=2 $scuttleup -- scuttleup read --pe").success();
    assert_eq!(options.text(), "--peer");
}

#[test]
fn completing_a_line_creates_no_log_and_says_nothing() {
    let place = Place::new();
    let none = place.path("none");
    let words = ["scuttleup", "--log", none.to_str().expect("UTF-8"), "read", "--peer", ""];
    assert_eq!(offered(&none, &words), Vec::<String>::new());
    assert!(!none.exists());
    let damaged = place.path("damaged");
    std::fs::create_dir(&damaged).expect("a directory");
    std::fs::write(damaged.join("data.mdb"), "no data").expect("a file");
    let words = ["scuttleup", "--log", damaged.to_str().expect("UTF-8"), "entry", "x"];
    assert_eq!(offered(&damaged, &words), Vec::<String>::new());
}

/// The keys of a user in an interactive bash.
#[test]
fn the_tab_key_completes_a_feed_in_bash() {
    let place = Place::new();
    let log = log(&place, "a");
    let mut terminal = Terminal::new(120);
    let run = Run::program("bash").args(["--norc", "--noprofile", "-i"]).env("SCUTTLEUP_LOG", &log).env("TERM", "xterm");
    let run = run.env("PROGRAM", SCUTTLEUP).env("PS1", "ready> ").env("HISTFILE", "");
    let running = run.spawn_with(terminal.stdio(), terminal.stdio(), terminal.stdio());
    terminal.close();
    terminal.wait_until(|terminal| terminal.seen().contains("ready> "));
    terminal.press("scuttleup() { \"$PROGRAM\" \"$@\"; }; source <(scuttleup completions bash); echo \"so\"urced\n");
    terminal.wait_until(|terminal| terminal.seen().contains("sourced"));
    terminal.press("scuttleup entry d\t1 --raw; echo \"en\"ded\n");
    terminal.wait_until(|terminal| terminal.seen().contains("ended"));
    assert!(terminal.seen().contains("scuttleup entry db 1 --raw"), "{}", terminal.seen());
    drop(running);
}

#[test]
fn fish_completes_a_feed_and_zsh_reads_its_script() {
    let place = Place::new();
    let log = log(&place, "a");
    let script = "$SCUTTLEUP completions fish | source; complete -C \"scuttleup --log $LOG read --peer web\"";
    let run = Run::program("fish").args(["--no-config", "-c", script]).env("SCUTTLEUP", SCUTTLEUP).env("LOG", &log);
    assert_eq!(run.env("HOME", place.path(".")).success().lines(), ["web-1", "web-2"]);
    let printed = Run::bare().args(["completions", "zsh"]).success();
    let file = place.file("_scuttleup", &printed.stdout);
    Run::program("zsh").args(["-n"]).args([file]).stdout("").stderr("").success();
    assert!(printed.text().contains("compdef"), "{}", printed.text());
}

#[test]
fn another_shell_is_refused() {
    Run::bare().args(["completions", "sh"]).stdout("").stderr_has("invalid value 'sh' for '<SHELL>'").status(2);
    Run::bare().args(["completions"]).stdout("").status(2);
}
