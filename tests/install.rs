//! `scripts/install`: which files they install, and that completions work from there. scripts/fresh-root tests the
//! Debian package.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::{Place, Run, SCUTTLEUP, append};
use crate::terminal::Terminal;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn install(prefix: &Path) -> Run {
    Run::program(repository().join("scripts/install")).env("PREFIX", prefix).env("PROGRAM", SCUTTLEUP)
}

/// All files below a directory, sorted.
fn files(dir: &Path) -> Vec<String> {
    let found = Run::program("find").args([dir]).args(["-type", "f"]).success();
    let mut files: Vec<String> = found.lines().into_iter().map(str::to_owned).collect();
    files.sort_unstable();
    files
}

#[test]
fn the_installed_files_are_those_of_the_list_and_are_removed_again() {
    let place = Place::new();
    let prefix = place.path("local");
    let listed = install(&prefix).args(["--list"]).success();
    assert!(!prefix.exists());
    // The mask of the caller does not matter.
    let script = format!("umask 077; exec {}/scripts/install", repository().display());
    Run::program("sh").args(["-c", &script]).env("PREFIX", &prefix).env("PROGRAM", SCUTTLEUP).stdout("").stderr("").success();
    let mut expected: Vec<String> = listed.lines().into_iter().map(str::to_owned).collect();
    expected.sort_unstable();
    assert_eq!(files(&prefix), expected);
    for page in fs::read_dir(repository().join("man")).expect("man").map(|entry| entry.expect("an entry").path()) {
        if let Some(section) = page.extension().and_then(|section| section.to_str()).filter(|section| section.len() == 1) {
            let installed = prefix.join(format!("share/man/man{section}")).join(page.file_name().expect("a name"));
            assert_eq!(fs::read(&installed).expect("an installed page"), fs::read(&page).expect("a page"));
        }
    }
    for file in expected {
        let mode = fs::metadata(&file).expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode, if file.contains("/bin/") { 0o755 } else { 0o644 }, "{file}");
    }
    for dir in Run::program("find").args([&prefix]).args(["-type", "d"]).success().lines() {
        assert_eq!(fs::metadata(dir).expect("a directory").permissions().mode() & 0o777, 0o755, "{dir}");
    }
    let other = prefix.join("bin/other");
    fs::write(&other, "").expect("a file");
    install(&prefix).args(["--remove"]).stdout("").stderr("").success();
    assert_eq!(files(&prefix), [other.to_str().expect("UTF-8")]);
    assert!(!prefix.join("share/doc/scuttleup").exists());
}

#[test]
fn every_bridge_unit_and_example_is_installed() {
    let place = Place::new();
    let listed = install(&place.path("local")).args(["--list"]).success();
    let tracked = Run::program("git").args(["-C"]).args([repository()]).args([
        "ls-files",
        "scripts/bridges",
        "scripts/systemd",
        "scripts/ssh",
    ]);
    for file in tracked.success().lines() {
        let name = Path::new(file).file_name().expect("a name").to_str().expect("UTF-8");
        assert!(listed.lines().iter().any(|installed| installed.ends_with(&format!("/{name}"))), "{file} is not installed");
    }
}

#[test]
fn an_installation_that_cannot_be_done_says_what_is_wrong() {
    let place = Place::new();
    install(Path::new("local")).stderr("scripts/install: PREFIX is not an absolute path: local\n").status(2);
    install(&place.path("local")).args(["--all"]).stderr_has("unknown option --all").status(2);
    let none = place.path("none");
    install(&place.path("local")).env("PROGRAM", &none).stderr_has("there is no program: run cargo build").status(2);
    assert!(!place.path("local").exists());
}

/// An installation and a log with a feed of the id `web-1`.
fn installed(place: &Place) -> (PathBuf, PathBuf) {
    let (prefix, log) = (place.path("local"), place.log("a"));
    install(&prefix).success();
    append(&log, "1\n");
    Run::new(&log).args(["write"]).stdin("{\"peer\":\"web-1\",\"seq\":1,\"entry\":1}\n").success();
    (prefix, log)
}

fn search_path(prefix: &Path) -> String {
    format!("{}:{}", prefix.join("bin").display(), std::env::var("PATH").expect("a search path"))
}

/// The first Tab key loads the installed completions.
#[test]
fn the_first_tab_key_in_zsh_completes_a_feed() {
    let place = Place::new();
    let (prefix, log) = installed(&place);
    let mut terminal = Terminal::new(120);
    let run = Run::program("zsh").args(["-f", "-i"]).env("SCUTTLEUP_LOG", &log).env("TERM", "xterm").env("HOME", place.path("."));
    let run =
        run.env("FUNCTIONS", prefix.join("share/zsh/site-functions")).env("PATH", search_path(&prefix)).env("PS1", "ready> ");
    let running = run.spawn_with(terminal.stdio(), terminal.stdio(), terminal.stdio());
    terminal.close();
    terminal.wait_until(|terminal| terminal.seen().contains("ready> "));
    terminal.press("fpath=($FUNCTIONS $fpath); autoload -U compinit; compinit -u -D; echo \"lo\"aded\n");
    terminal.wait_until(|terminal| terminal.seen().contains("loaded"));
    terminal.press("scuttleup entry web\t1 --raw; echo \"en\"ded\n");
    terminal.wait_until(|terminal| terminal.lines().iter().any(|line| line.ends_with("ended")));
    // The command prints the entry of the completed feed.
    assert!(terminal.lines().iter().any(|line| line == "1ended"), "{}", terminal.seen());
    drop(running);
}

#[test]
fn bash_and_fish_complete_a_feed_from_the_installed_files() {
    let place = Place::new();
    let (prefix, log) = installed(&place);
    let bash = "source $PREFIX/share/bash-completion/completions/scuttleup
        COMP_WORDS=(scuttleup entry web) COMP_CWORD=2 COMP_TYPE=9
        _clap_complete_scuttleup scuttleup web entry && printf '%s\\n' \"${COMPREPLY[@]}\"";
    let fish = "source $PREFIX/share/fish/vendor_completions.d/scuttleup.fish; complete -C 'scuttleup entry web'";
    for (shell, options, script) in [("bash", "--norc", bash), ("fish", "--no-config", fish)] {
        let run = Run::program(shell).args([options, "-c", script]).env("PREFIX", &prefix).env("PATH", search_path(&prefix));
        let printed = run.env("SCUTTLEUP_LOG", &log).env("HOME", place.path(".")).success();
        assert_eq!(printed.lines().iter().filter(|line| !line.starts_with('-')).collect::<Vec<_>>(), [&"web-1"], "{shell}");
    }
}
