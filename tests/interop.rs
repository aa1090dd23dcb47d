//! Sessions with the original: the npm package scuttleup 3.3.0 on Node, with LevelDB. interop/log.js is its command line.
//!
//! The package is installed twice. As published, its bulk reads lose the last entries on current versions of Node, and its
//! one-shot session closes both directions once it has sent its entries. Both bugs are in multistream 1, which
//! interop/mended replaces by a newer version. Tests that count entries run against the fixed package in interop/mended.
//!
//! In all of these tests, `ours` is the log under test and `theirs` is a log of the original.

mod deleted;
mod foreign;
mod live;
mod once;
mod published;
mod tap;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::harness::{Place, Run, SCUTTLEUP};

/// A log of the original.
struct Original {
    dir: PathBuf,
    variant: &'static str,
}

/// Peer, seq and bytes (in base64) of every entry.
type Entries = Vec<(String, u64, String)>;

impl Original {
    /// A log that log.js creates at its first use.
    fn new(place: &Place, name: &str) -> Self {
        Self { dir: place.path(name), variant: "mended" }
    }

    /// The same log, used by the package as published.
    fn as_published(&self) -> Self {
        Self { dir: self.dir.clone(), variant: "published" }
    }

    /// The command line of log.js on this log.
    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Vec<OsString> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        assert!(folder.join(self.variant).join("node_modules").is_dir(), "the original is not installed: run scripts/test");
        let script = folder.join("log.js").into_os_string();
        let mut command = vec!["node".into(), script, self.variant.into(), self.dir.clone().into_os_string()];
        command.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        command
    }

    fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        let command = self.command(args);
        Run::program(&command[0]).args(&command[1..])
    }

    /// Appends lines; the id of the log is its directory name.
    fn append(&self, lines: impl AsRef<[u8]>) {
        self.run(["append", "--id", self.id()]).stdin(lines).success();
    }

    fn id(&self) -> &str {
        self.dir.file_name().and_then(OsStr::to_str).expect("named by the test")
    }

    fn entries(&self) -> Entries {
        Self { dir: self.dir.clone(), variant: "mended" }.run(["read"]).success().into_entries()
    }
}

trait IntoEntries {
    fn into_entries(self) -> Entries;
}

impl IntoEntries for super::harness::Printed {
    /// Sorted by peer, then by seq.
    fn into_entries(self) -> Entries {
        let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
        let lines = self.json();
        let entries = lines.iter().map(|line| (text(&line["peer"]), line["seq"].as_u64().expect("a seq"), text(&line["base64"])));
        let mut entries: Entries = entries.collect();
        entries.sort();
        entries
    }
}

/// The entries of the log under test.
fn entries(log: &Path) -> Entries {
    Run::new(log).args(["read", "--raw"]).success().into_entries()
}

/// Asserts that both logs hold the same entries, `count` in total.
fn assert_same(ours: &Path, theirs: &Original, count: usize) {
    let (ours, theirs) = (entries(ours), theirs.entries());
    assert_eq!(ours.len(), count);
    // Not assert_eq: it would print all of them.
    assert!(ours == theirs, "{} local entries, {} in the log of the original", ours.len(), theirs.len());
}

/// `scuttleup replicate --once` with a one-shot session of the original.
fn sync(ours: &Path, theirs: &Original) -> Run {
    sync_in_modes(ours, "sync", theirs, "sync")
}

fn sync_in_modes(ours: &Path, our_mode: &str, theirs: &Original, their_mode: &str) -> Run {
    let replicate = ["replicate", "--id", theirs.id(), "--mode", their_mode];
    Run::new(ours).args(["replicate", "--once", "--mode", our_mode, "--"]).args(theirs.command(replicate))
}

/// A log under test with these lines as entries.
fn log_of(place: &Place, id: &str, lines: impl AsRef<[u8]>) -> PathBuf {
    let log = place.log(id);
    Run::new(&log).args(["append", "--text"]).stdin(lines).success();
    log
}

/// `count` lines, each with the name in it.
fn lines(name: &str, count: usize) -> String {
    (1..=count).map(|n| format!("{name} {n}\n")).collect()
}

/// Whether a process with mode `from` sends entries to a process with mode `to`.
fn sends(from: &str, to: &str) -> bool {
    from != "pull" && to != "push"
}

const MODES: [&str; 3] = ["sync", "push", "pull"];

/// The command line of `bash` with a line in which `$scuttleup` is the binary and `$1`, `$2` … are `args`.
fn script(line: &str, args: &[&Path]) -> Vec<OsString> {
    let line = format!("set -o pipefail; scuttleup='{SCUTTLEUP}'; {line}");
    let mut command: Vec<OsString> = vec!["bash".into(), "-c".into(), line.into(), "bash".into()];
    command.extend(args.iter().map(|arg| arg.as_os_str().to_owned()));
    command
}
