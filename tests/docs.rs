//! The documents say what the program does: manual pages, README and `--help` are compared, and the examples run.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use crate::harness::{Place, Run, SCUTTLEUP};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document(name: &str) -> String {
    read_to_string(root().join(name)).unwrap_or_else(|err| panic!("{name}: {err}"))
}

/// The source of the page of a command, or of the program.
fn page(command: Option<&str>) -> String {
    document(&command.map_or("man/scuttleup.1".into(), |command| format!("man/scuttleup-{command}.1")))
}

fn help(command: Option<&str>) -> String {
    Run::bare().args(command).args(["--help"]).success().text().to_owned()
}

/// All commands, as `--help` lists them.
fn commands() -> Vec<String> {
    let help = help(None);
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = list.map(|line| line.split_whitespace().next().expect("a name").to_owned());
    let names: Vec<_> = names.filter(|name| name != "help").collect();
    assert!(names.len() >= 11, "{names:?}");
    names
}

/// Flags as `--help` lists them, with the names of their values: `-f`, `--live`, `--after OFFSET`.
fn flags_of_help(help: &str) -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    for line in help.lines().map(str::trim_start).filter(|line| line.starts_with('-')) {
        let (shown, _) = line.split_once("  ").unwrap_or((line, ""));
        let (shown, value) = shown
            .split_once(" <")
            .map_or((shown, String::new()), |(shown, value)| (shown, format!(" {}", value.trim_end_matches('>'))));
        flags.extend(shown.split(", ").map(|flag| format!("{flag}{value}")));
    }
    flags
}

/// Flags in one line of mdoc, each with the name of its value.
fn flags_of_line(line: &str) -> Vec<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let value = words.windows(2).find(|pair| pair[0] == "Ar").map_or(String::new(), |pair| format!(" {}", pair[1]));
    words.windows(2).filter(|pair| pair[0] == "Fl" && pair[1] != "-").map(|pair| format!("-{}{value}", pair[1])).collect()
}

/// Flags that a page explains: each item of a list is one set of synonyms.
fn flags_of_page(page: &str) -> Vec<Vec<String>> {
    page.lines().filter_map(|line| line.strip_prefix(".It Fl")).map(|line| flags_of_line(&format!("Fl{line}"))).collect()
}

fn section<'p>(page: &'p str, name: &str) -> &'p str {
    let (_, rest) = page.split_once(&format!("\n.Sh {name}\n")).unwrap_or_else(|| panic!("no section {name}"));
    rest.split("\n.Sh ").next().expect("there is a first part")
}

fn flat(flags: &[Vec<String>]) -> BTreeSet<String> {
    flags.iter().flatten().cloned().collect()
}

#[test]
fn every_flag_is_in_the_manual_and_every_flag_of_the_manual_is_real() {
    let global = flat(&flags_of_page(&page(None)));
    assert_eq!(global, flags_of_help(&help(None)), "scuttleup");
    for command in commands() {
        let page = page(Some(&command));
        let explained = flags_of_page(&page);
        let real = flags_of_help(&help(Some(&command)));
        assert_eq!(flat(&explained), real.difference(&global).cloned().collect(), "scuttleup-{command}(1)");
        let synopsis: BTreeSet<_> =
            section(&page, "SYNOPSIS").lines().flat_map(|line| line.split('|').flat_map(flags_of_line)).collect();
        assert!(synopsis.is_subset(&real), "scuttleup-{command}(1), SYNOPSIS: {synopsis:?}");
        for flag in explained {
            // One of `-f` and `--live` is enough there.
            assert!(flag.iter().any(|name| synopsis.contains(name)), "scuttleup-{command}(1), SYNOPSIS has no {flag:?}");
        }
    }
}

/// The exit codes that a page lists.
fn codes(page: &str) -> BTreeSet<String> {
    section(page, "EXIT STATUS").lines().filter_map(|line| line.strip_prefix(".It ")).map(str::to_owned).collect()
}

#[test]
fn every_exit_code_is_in_the_manual() {
    let all: BTreeSet<String> = (0..=7).map(|code: u8| code.to_string()).chain(["128+n".into()]).collect();
    assert_eq!(codes(&page(None)), all);
    for command in commands() {
        let codes = codes(&page(Some(&command)));
        assert!(codes.is_subset(&all), "scuttleup-{command}(1): {codes:?}");
        for code in ["0", "1", "2", "128+n"] {
            assert!(codes.contains(code), "scuttleup-{command}(1) has no {code}");
        }
    }
    let readme = document("README.md");
    for code in all {
        assert!(readme.contains(&format!("\n| {code} | ")), "README.md has no exit code {code}");
    }
}

#[test]
fn every_command_has_its_page_and_is_listed() {
    let (program, readme) = (page(None), document("README.md"));
    for command in commands() {
        assert!(program.contains(&format!("\n.It Cm {command}\n")), "scuttleup(1) does not list {command}");
        assert!(program.contains(&format!("\n.Xr scuttleup-{command} 1")), "scuttleup(1) does not refer to {command}");
        assert!(readme.contains(&format!("\n| `{command}` | ")), "README.md does not list {command}");
        let page = page(Some(&command));
        for name in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
            assert!(!section(&page, name).is_empty(), "scuttleup-{command}(1), {name}");
        }
    }
}

#[test]
fn the_pages_are_good_mdoc() {
    let pages = std::fs::read_dir(root().join("man")).expect("man").map(|entry| entry.expect("an entry").path());
    let pages: Vec<PathBuf> = pages.collect();
    assert!(pages.len() >= 14, "{pages:?}");
    let lint = ["-T", "lint", "-W", "warning"].map(OsString::from);
    Run::program("mandoc").args(lint).args(&pages).stdout("").success();
}

/// The blocks of README.md that are to be run, each with the output that is shown below it.
fn examples(readme: &str) -> Vec<(&str, Option<&str>)> {
    let blocks = readme.split("```sh run\n").skip(1).map(|rest| rest.split_once("```\n").expect("a block ends"));
    blocks
        .map(|(script, rest)| {
            let output = rest.strip_prefix("\n```\n").and_then(|rest| rest.split_once("```\n"));
            (script, output.map(|(output, _)| output))
        })
        .collect()
}

#[test]
fn the_examples_of_the_readme_run_and_print_what_is_shown() {
    let readme = document("README.md");
    let examples = examples(&readme);
    assert!(examples.len() >= 5, "{examples:?}");
    let programs = Path::new(SCUTTLEUP).parent().expect("it is in a directory").to_owned();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&paths))).expect("a search path");
    for (script, output) in examples {
        let home = Place::new();
        let home = home.path(".");
        let script = format!("set -euo pipefail; cd\n{script}");
        let run = Run::program("bash").args(["-c", &script]).env("HOME", home).env("PATH", &paths).env("XDG_DATA_HOME", "");
        let run = if let Some(output) = output { run.stdout(output) } else { run };
        run.success();
    }
}

/// The frames that scuttleup-protocol(5) shows one side send.
fn frames(page: &str, side: &str) -> Vec<u8> {
    let lines = page.lines().filter_map(|line| line.strip_prefix(&format!("{side}:")));
    let digits: String = lines.collect::<String>().split_whitespace().collect();
    assert!(!digits.is_empty(), "{side} sends nothing");
    data_encoding::HEXLOWER.decode(digits.as_bytes()).expect("hex")
}

#[test]
fn the_bytes_of_the_protocol_page_are_what_goes_over_the_wire() {
    let page = document("man/scuttleup-protocol.5");
    let (alice, bob) = (frames(&page, "alice"), frames(&page, "bob"));
    let place = Place::new();
    let (a, b) = (place.log("alice"), place.log("bob"));
    Run::new(&a).args(["append", "--text"]).stdin("a1\na2\n").success();
    for (log, heard, said) in [(&a, &bob, &alice), (&b, &alice, &bob)] {
        let printed = Run::new(log).args(["replicate", "--once"]).stdin(heard).success();
        assert_eq!(&printed.stdout, said);
    }
    Run::new(&b)
        .args(["read", "--no-entry"])
        .stdout("{\"offset\":1,\"peer\":\"alice\",\"seq\":1}\n{\"offset\":2,\"peer\":\"alice\",\"seq\":2}\n")
        .success();
}
