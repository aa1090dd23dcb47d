//! The common tests of all programs in scripts/bridges. The files `tests/bridges_*.rs` use their servers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{Run, SCUTTLEUP};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The path of a bridge.
pub fn path(name: &str) -> PathBuf {
    root().join("scripts/bridges").join(format!("scuttleup-{name}"))
}

/// One run of a bridge.
pub fn bridge(name: &str) -> Run {
    Run::program(path(name))
}

/// The directory of the Python packages of tests/bridges/requirements.txt, where `scripts/test` installs them.
pub fn python() -> PathBuf {
    Path::new(SCUTTLEUP).ancestors().nth(2).expect("the target directory").join("python")
}

/// Entries go through a bridge while it and its server are killed. None is missing, and none is there twice.
pub fn kills(engine: &str) {
    let entries = if engine == "hub" { "3000" } else { "10000" };
    let run = Run::program(root().join("scripts/bridge-kills"));
    let run = run.args([engine, "--rounds", "1", "--entries", entries, "--kills", "3", "--program", SCUTTLEUP]);
    let mut running = run.env("PYTHONPATH", python()).spawn();
    running.close();
    let ended = running.wait_within(Duration::from_secs(300));
    assert!(ended.status.success(), "{}{}", ended.printed.text(), ended.printed.stderr);
    assert!(ended.printed.text().ends_with("each exactly once\n"), "{}", ended.printed.text());
}

/// The names of all bridges.
fn names() -> Vec<String> {
    let files = fs::read_dir(root().join("scripts/bridges")).expect("a directory");
    let names: Vec<_> = files.map(|file| file.expect("a file").file_name().into_string().expect("UTF-8")).collect();
    assert!(names.len() >= 2 && names.iter().all(|name| name.starts_with("scuttleup-")), "{names:?}");
    names
}

#[test]
fn every_bridge_has_a_page_with_the_options_and_exit_codes_of_its_help() {
    for name in names() {
        let page = fs::read_to_string(root().join(format!("man/{name}.1"))).unwrap_or_else(|err| panic!("man/{name}.1: {err}"));
        let help = Run::program(root().join("scripts/bridges").join(&name)).args(["--help"]).stderr("").success();
        let options = help.lines().into_iter().filter_map(|line| line.trim_start().strip_prefix('-'));
        let options: BTreeSet<_> = options.flat_map(|line| line.split([' ', ',']).find(|word| word.starts_with('-'))).collect();
        let options: BTreeSet<_> = options.into_iter().map(|word| word.trim_start_matches('-').to_owned()).collect();
        let explained = page.lines().filter_map(|line| line.strip_prefix(".It Fl -"));
        let explained: BTreeSet<_> = explained.map(|line| line.split(' ').next().expect("a word").to_owned()).collect();
        assert_eq!(explained, options, "{name}");
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
            assert!(page.contains(&format!("\n.Sh {section}\n")), "{name} has no section {section}");
        }
        for code in [0, 1, 2, 7] {
            assert!(page.contains(&format!("\n.It {code}\n")), "{name} has no exit code {code}");
        }
    }
}

#[test]
fn a_wrong_command_line_of_a_bridge_is_exit_2_with_one_line() {
    for name in names() {
        let run = Run::program(root().join("scripts/bridges").join(&name)).args(["--no-such-option"]);
        let printed = run.stdout("").status(2);
        assert!(printed.stderr.starts_with(&format!("{name}: ")), "{}", printed.stderr);
        assert_eq!(printed.stderr.lines().count(), 1, "{}", printed.stderr);
    }
}
