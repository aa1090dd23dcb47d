//! The documents say what the program does: manual pages, README and `--help` are compared, and the examples run. The pages for
//! contributors name only files, items and tests that exist.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use crate::frames::{PREAMBLE, SYNC, Session};
use crate::harness::{Place, Run, SCUTTLEUP};
use crate::native_frames;

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

/// The commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = list.map(|line| line.split_whitespace().next().expect("a name").to_owned());
    names.filter(|name| name != "help").collect()
}

/// All commands, as `--help` lists them.
fn commands() -> Vec<String> {
    let names = listed(&help(None));
    assert!(names.len() >= 11, "{names:?}");
    names
}

/// Flags as `--help` lists them, with the names of their values: `-f`, `--live`, `--after OFFSET`.
fn flags_of_help(help: &str) -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    for line in help.lines().map(str::trim_start).filter(|line| line.starts_with('-')) {
        let (shown, _) = line.split_once("  ").unwrap_or((line, ""));
        // A value that may be missing.
        let shown = shown.replace("[<", "<").replace(">]", ">");
        let (shown, value) = shown
            .split_once(" <")
            .map_or((&*shown, String::new()), |(shown, value)| (shown, format!(" {}", value.trim_end_matches('>'))));
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

/// The flags that a page explains. The flags of one list item have the same meaning.
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

/// The flags of a command and of the commands below it, such as `cursor list`.
fn flags_of_command(command: &str) -> BTreeSet<String> {
    let help = help(Some(command));
    let mut flags = flags_of_help(&help);
    for below in listed(&help) {
        flags.extend(flags_of_help(Run::bare().args([command, &below, "--help"]).success().text()));
    }
    flags
}

#[test]
fn every_flag_is_in_the_manual_and_every_flag_of_the_manual_is_real() {
    let global = flat(&flags_of_page(&page(None)));
    assert_eq!(global, flags_of_help(&help(None)), "scuttleup");
    for command in commands() {
        let page = page(Some(&command));
        let explained = flags_of_page(&page);
        let real = flags_of_command(&command);
        assert_eq!(flat(&explained), real.difference(&global).cloned().collect(), "scuttleup-{command}(1)");
        let synopsis: BTreeSet<_> =
            section(&page, "SYNOPSIS").lines().flat_map(|line| line.split('|').flat_map(flags_of_line)).collect();
        assert!(synopsis.is_subset(&real), "scuttleup-{command}(1), SYNOPSIS: {synopsis:?}");
        for flag in explained {
            // The synopsis needs only one of the flags with the same meaning.
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
        for code in ["0", "1", "2", "5", "128+n"] {
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

/// The lines of a part of a help text, without its title.
fn part<'h>(help: &'h str, title: &str) -> Vec<&'h str> {
    let (_, rest) = help.split_once(&format!("\n\n{title}:\n")).unwrap_or_else(|| panic!("no {title} in: {help}"));
    rest.lines().take_while(|line| !line.is_empty()).map(str::trim).collect()
}

#[test]
fn every_help_has_an_example_the_environment_and_the_manual_page() {
    let documented = section(&page(None), "ENVIRONMENT").to_owned();
    for command in commands().iter().map(|command| Some(command.as_str())).chain([None]) {
        let help = help(command);
        let examples = part(&help, if command.is_some() { "Example" } else { "First steps" });
        assert_eq!(examples.len(), if command.is_some() { 1 } else { 4 }, "{help}");
        for example in examples {
            assert!(example.starts_with("scuttleup ") || example.contains("| scuttleup "), "{help}");
            assert!(command.is_none_or(|command| example.contains(command)), "{help}");
        }
        let variables: Vec<_> = part(&help, "Environment variables").iter().filter_map(|line| line.split_once(' ')).collect();
        assert_eq!(variables.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["SCUTTLEUP_LOG", "XDG_DATA_HOME"]);
        for (name, _) in variables {
            assert!(documented.contains(&format!(".It Ev {name}\n")), "scuttleup(1), ENVIRONMENT has no {name}");
        }
        let manual = help.lines().last().and_then(|line| line.strip_prefix("Manual: man ")).expect("a manual page");
        assert_eq!(manual, command.map_or("scuttleup".into(), |command| format!("scuttleup-{command}")));
        assert!(root().join(format!("man/{manual}.1")).exists(), "no page {manual}");
    }
}

/// Terminals have 80 columns and 24 rows at least.
#[test]
fn the_list_of_commands_and_the_first_steps_fit_on_a_terminal() {
    let help = help(None);
    let bare = Run::bare().stdout("").status(2).stderr;
    for line in help.lines().take_while(|line| *line != "Options:").chain(bare.lines()) {
        assert!(line.len() <= 80, "{} columns: {line}", line.len());
    }
    assert!(bare.lines().count() < 24, "{bare}");
    // The long help has the same first steps.
    let steps = bare.lines().skip_while(|line| *line != "First steps:").take_while(|line| !line.is_empty());
    let steps: Vec<&str> = steps.collect();
    assert_eq!(steps.len(), 5, "{bare}");
    assert!(help.contains(&steps.join("\n")), "{help}");
    for command in ["append", "watch", "replicate", "compare"] {
        assert!(steps.iter().any(|step| step.contains(&format!("scuttleup {command}"))), "{command}: {bare}");
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

/// The blocks of README.md that the test runs, each with the output that README.md shows below it.
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

/// The bytes that the two sides send in an example session of scuttleup-protocol(5), in the order of its lines.
fn dialogue(page: &str, title: &str) -> Vec<(String, Vec<u8>)> {
    let (_, session) = page.split_once(&format!("\n.Ss {title}\n")).unwrap_or_else(|| panic!("no session {title}"));
    let (_, block) = session.split_once("\n.Bd -literal -offset indent\n").expect("it is shown");
    let mut said: Vec<(String, String)> = Vec::new();
    for line in block.lines().take_while(|line| *line != ".Ed") {
        match line.split_once(':') {
            Some((side, digits)) => said.push((side.into(), digits.into())),
            None => said.last_mut().expect("a line goes on").1.push_str(line),
        }
    }
    let bytes = |digits: String| digits.split_whitespace().collect::<String>();
    let said = said.into_iter().map(|(side, digits)| (side, HEXLOWER.decode(bytes(digits).as_bytes()).expect("hex")));
    said.map(|(side, mut bytes)| {
        // The nonce is random.
        native_frames::forget_nonce(&mut bytes);
        (side, bytes)
    })
    .collect()
}

/// Runs the session for alice with two entries, and for bob with no entries. Compares the sent bytes with `said`, line by line.
fn replay(said: &[(String, Vec<u8>)], args: &[&str]) {
    let place = Place::new();
    let (a, b) = (place.log("alice"), place.log("bob"));
    Run::new(&a).args(["append", "--text"]).stdin("a1\na2\n").success();
    for (side, log) in [("alice", &a), ("bob", &b)] {
        let mut session = Session::open(log, args);
        for (speaker, bytes) in said {
            if speaker == side {
                assert_eq!(HEXLOWER.encode(&session.bytes(bytes.len())), HEXLOWER.encode(bytes), "{side} says");
            } else {
                session.send(bytes);
            }
        }
        let (rest, ended) = session.close();
        assert_eq!((rest, ended.status.code()), (Vec::new(), Some(0)), "{side}: {}", ended.printed.stderr);
    }
    Run::new(&b)
        .args(["read", "--no-entry"])
        .stdout("{\"offset\":1,\"peer\":\"alice\",\"seq\":1}\n{\"offset\":2,\"peer\":\"alice\",\"seq\":2}\n")
        .success();
}

#[test]
fn the_bytes_of_the_protocol_page_are_what_goes_over_the_wire() {
    let page = document("man/scuttleup-protocol.5");
    let original = dialogue(&page, "A session on the original wire");
    assert_eq!(original.len(), 4);
    replay(&original, &["--once", "--wire", "original"]);
    // A side that knows both wires sends the same bytes after the preamble, if the remote speaks the original wire.
    for side in ["alice", "bob"] {
        let place = Place::new();
        let path = place.log(side);
        if side == "alice" {
            Run::new(&path).args(["append", "--text"]).stdin("a1\na2\n").success();
        }
        let of = |wanted: bool| {
            original.iter().filter(|(speaker, _)| (speaker == side) == wanted).flat_map(|(_, bytes)| bytes.clone()).collect()
        };
        let (said, heard): (Vec<u8>, Vec<u8>) = (of(true), of(false));
        let printed = Run::new(&path).args(["replicate", "--once"]).stdin(heard).success();
        assert_eq!(HEXLOWER.encode(&printed.stdout), HEXLOWER.encode(&[PREAMBLE, &said].concat()));
    }
    let native = dialogue(&page, "A session on the native wire");
    assert_eq!(native.len(), 13);
    assert!(native[..2].iter().all(|(_, bytes)| bytes == PREAMBLE));
    replay(&native, &["--once"]);
    replay(&native, &["--once", "--wire", "native"]);
}

/// The remote claims another entry 2. The last FORK of the log is the FORK of the page.
#[test]
fn the_fork_of_the_protocol_page_is_what_goes_over_the_wire() {
    let page = document("man/scuttleup-protocol.5");
    let (_, example) = page.split_once("\n43 06 ").expect("the example");
    let (digits, _) = example.split_once("\n.Ed").expect("the end of the example");
    let digits: String = digits.chars().filter(|digit| !digit.is_whitespace()).collect();
    let fork = HEXLOWER.decode(format!("4306{digits}").as_bytes()).expect("hex");
    let chains = [&["a1"][..], &["a1", "a2"], &["a1", "A2"]].map(|entries| native_frames::chain_of("alice", entries));
    assert_eq!(fork, native_frames::fork_showing("alice", &[(1, chains[0]), (2, chains[1])], 2, "a2"));
    let place = Place::new();
    let log = place.log("alice");
    Run::new(&log).args(["append", "--text"]).stdin("a1\na2\n").success();
    let heads = native_frames::heads(&[("alice", 2, chains[2])], true);
    let points = native_frames::fork("alice", &[(1, chains[0]), (2, chains[2])]);
    let stream = [PREAMBLE, &native_frames::hello("bob", 1, false, 7), &heads, &points].concat();
    let said = Run::new(&log).args(["replicate", "--once"]).stdin(stream).status(4).stdout;
    assert!(said.windows(fork.len()).any(|part| part == fork), "{}", HEXLOWER.encode(&said));
}

/// Computes the chains as the page describes.
#[test]
fn the_chains_of_the_protocol_page_are_right() {
    let page = document("man/scuttleup-protocol.5");
    let alice = native_frames::chain_of("alice", &[]);
    let one = native_frames::chain_of("alice", &["a1"]);
    let two = native_frames::chain_of("alice", &["a1", "a2"]);
    let root = native_frames::root(&[("alice", 2, two)]);
    for (name, value) in [("chain(0)", alice), ("chain(1)", one), ("chain(2)", two), ("root    ", root)] {
        let line = format!("\n{name} {}\n", HEXLOWER.encode(&value.to_le_bytes()));
        assert!(page.contains(&line), "the page has no {line}");
    }
    // The run with a deleted entry, as the page shows it.
    let place = Place::new();
    let log = place.log("alice");
    Run::new(&log).args(["append", "--text"]).stdin("a1\na2\n").success();
    Run::new(&log).args(["del", "alice", "1"]).success();
    let mut session = Session::open(&log, &["--once"]);
    session.send([PREAMBLE, &native_frames::hello("bob", SYNC, false, 0), &native_frames::heads(&[], true)].concat());
    let hello = native_frames::hello("alice", SYNC, false, root);
    let before = [PREAMBLE, &hello, &native_frames::heads(&[("alice", 2, two)], true), &native_frames::feed(0, "alice")].concat();
    assert_eq!(session.bytes(before.len()), before);
    let (_, shown) = page.split_once("sends this RUN:\n.Bd -literal -offset indent\n").expect("it is shown");
    let digits: String = shown.lines().take_while(|line| *line != ".Ed").flat_map(str::split_whitespace).collect();
    assert_eq!(HEXLOWER.encode(&session.bytes(digits.len() / 2)), digits);
    assert_eq!(session.end().1.status.code(), Some(3));
}

/// The pages for contributors.
const CONTRIBUTOR_PAGES: [&str; 2] = ["ARCHITECTURE.md", "CONTRIBUTING.md"];

/// The code spans of a text in Markdown, outside of fenced blocks.
fn spans(text: &str) -> Vec<&str> {
    let (mut spans, mut is_fenced) = (Vec::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        } else if !is_fenced {
            assert!(line.matches('`').count().is_multiple_of(2), "a code span is not closed: {line}");
            spans.extend(line.split('`').skip(1).step_by(2));
        }
    }
    spans
}

/// The files of this repository in the code spans of a text, each with the item that is named after `::`.
fn references(text: &str) -> Vec<(&str, Option<&str>)> {
    let is_path = |word: &&str| ["src/", "tests/", "scripts/", "man/"].iter().any(|folder| word.starts_with(folder));
    let paths = spans(text).into_iter().filter_map(|span| span.split_whitespace().next()).filter(is_path);
    paths.map(|path| path.split_once("::").map_or((path, None), |(path, item)| (path, Some(item)))).collect()
}

/// The positions in `source` where `item` is declared.
fn declarations(source: &str, item: &str) -> Vec<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for keyword in ["fn", "const", "static", "struct", "enum", "trait", "type", "mod"] {
        let declaration = format!("{keyword} {item}");
        let places = source.match_indices(&declaration).map(|(at, _)| at);
        found.extend(
            places.filter(|&at| !source[..at].ends_with(is_word) && !source[at + declaration.len()..].starts_with(is_word)),
        );
    }
    found
}

/// Whether `source` has a test with this name.
fn has_test(source: &str, name: &str) -> bool {
    declarations(source, name).into_iter().any(|at| {
        let attributes = source[..at].lines().rev().map(str::trim).skip_while(|line| line.is_empty());
        attributes.take_while(|line| line.starts_with("#[")).any(|line| line == "#[test]")
    })
}

#[test]
fn the_pages_for_contributors_name_only_files_and_items_that_exist() {
    for name in CONTRIBUTOR_PAGES {
        let page = document(name);
        let references = references(&page);
        assert!(references.len() > 50, "{name}: {references:?}");
        for (path, item) in references {
            assert!(root().join(path).exists(), "{name}: there is no {path}");
            let is_declared = |item: &str| !declarations(&document(path), item).is_empty();
            assert!(item.is_none_or(is_declared), "{name}: there is no {} in {path}", item.unwrap_or_default());
        }
    }
}

/// A chapter of a page in Markdown, without its title.
fn chapter<'p>(page: &'p str, title: &str) -> &'p str {
    let (_, rest) = page.split_once(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no chapter {title}"));
    rest.split("\n## ").next().expect("there is a first part")
}

/// The names of all files under `folder`, relative to the root of the repository.
fn files_under(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|err| panic!("{folder}: {err}"));
    let names = entries.map(|entry| format!("{folder}/{}", entry.expect("an entry").file_name().to_string_lossy()));
    names.flat_map(|name| if root().join(&name).is_dir() { files_under(&name) } else { vec![name] }).collect()
}

#[test]
fn the_architecture_lists_every_source_file_once() {
    let page = document("ARCHITECTURE.md");
    let tables = chapter(&page, "Source files");
    let files = files_under("src");
    assert!(files.len() > 60, "{files:?}");
    for file in files {
        let rows = tables.lines().filter(|line| line.starts_with(&format!("| `{file}` | "))).count();
        assert_eq!(rows, 1, "ARCHITECTURE.md must have one row that begins with | `{file}` |");
    }
}

#[test]
fn each_invariant_of_the_architecture_names_tests_that_exist() {
    let page = document("ARCHITECTURE.md");
    let rows: Vec<_> = chapter(&page, "Invariants").lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 20, "{rows:?}");
    for row in rows {
        let tests = row.trim_end_matches([' ', '|']).rsplit(" | ").next().map(references).unwrap_or_default();
        assert!(!tests.is_empty(), "no test: {row}");
        for (path, test) in tests {
            let is_test = test.is_some_and(|test| has_test(&document(path), test));
            assert!(is_test, "there is no test {} in {path}", test.unwrap_or_default());
        }
    }
}

/// journalctl prints null for a field of more than 4096 bytes, unless it is told to print all.
#[test]
fn every_recipe_with_the_journal_prints_long_fields() {
    let pages = std::fs::read_dir(root().join("man")).expect("man").map(|entry| entry.expect("an entry").path());
    let texts: Vec<String> = pages.chain([root().join("README.md")]).map(|path| read_to_string(path).expect("a page")).collect();
    let recipes: Vec<&str> =
        texts.iter().flat_map(|text| text.lines()).filter(|line| line.contains("journalctl") && line.contains("json")).collect();
    assert!(recipes.len() >= 2, "{recipes:?}");
    assert!(recipes.iter().all(|line| line.contains(" --all ")), "{recipes:?}");
}
