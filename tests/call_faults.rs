//! Faults in system calls: a command is killed, or one of its calls fails, at each step at which it changes a file. The driver, and
//! the tests of an upgrade, of sealing in the background and of repairs. `compact`, `prune` and the creation of a log have their
//! tests in `packs`, `prune` and `crash`.

use std::fmt;
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::harness::{Ended, Place, Run, SCUTTLEUP, append, heads, read};
use crate::repair::{damage, remote_of};

/// The fault in one system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The process is killed before the call.
    Kill,
    /// The call fails with ENOSPC.
    Full,
    /// The call fails with EIO.
    Broken,
}

/// The system calls that change files. A kill before one of them sees all changes of the call before it.
pub const CALLS: [&str; 12] = [
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "rename,renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
];

/// The calls of [`CALLS`], and the call that creates a file, which is of no use for a kill.
pub const FAILING_CALLS: [&str; 13] = {
    let mut calls = ["openat"; CALLS.len() + 1];
    let mut at = 0;
    while at < CALLS.len() {
        calls[at] = CALLS[at];
        at += 1;
    }
    calls
};

/// Notices that do not depend on a fault: of the copy of a log, and of a log that is built again.
const NOTICES: [&str; 2] = ["new entries go to the feed of the new id", "this log is behind in its local feed"];

/// A fault in the `when`th call of `call`. Each thread counts its own calls.
pub struct Step {
    pub fault: Fault,
    pub call: &'static str,
    pub when: u32,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in call {} of {}", self.fault, self.when, self.call)
    }
}

/// Whether a fault has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hit {
    /// The command has ended without the fault.
    No,
    /// The call did not concern the log or a file beside it.
    Elsewhere,
    Yes,
}

/// Gives `test` a step with the fault in the first, second … call of each of the calls, until the command of the step ends without
/// the fault. Returns the number of faults.
pub fn at_each_call(fault: Fault, calls: &[&'static str], mut test: impl FnMut(&Step) -> Hit) -> u32 {
    let mut faults = 0;
    for &call in calls {
        let first = if call == "openat" { opened_by_the_loader() + 1 } else { 1 };
        for when in first.. {
            assert!(when < 1000, "{call}: the command does not end");
            match test(&Step { fault, call, when }) {
                Hit::No => break,
                Hit::Elsewhere => {}
                Hit::Yes => faults += 1,
            }
        }
    }
    println!("{fault:?}: {faults} faults");
    faults
}

/// The number of files that are opened before the program begins.
fn opened_by_the_loader() -> u32 {
    static OPENED: OnceLock<u32> = OnceLock::new();
    *OPENED.get_or_init(|| {
        let traced = tempfile::NamedTempFile::new().expect("a temporary file");
        let strace = Run::program("strace").args(["-qq", "-e", "trace=openat", "-o"]).args([traced.path()]);
        strace.args([SCUTTLEUP, "--version"]).success();
        fs::read_to_string(traced.path()).expect("a trace").lines().count() as u32
    })
}

impl Step {
    /// Runs `scuttleup --log LOG ARGS` with the fault. COMMAND in the arguments has no fault.
    ///
    /// A call that fails must lead to one message and the exit code of the fault, or to a command that has done its work.
    pub fn run(&self, log: &Path, args: &[&str], stdin: &str) -> (Hit, Ended) {
        let traced = tempfile::NamedTempFile::new().expect("a temporary file");
        let with = match self.fault {
            Fault::Kill => "signal=SIGKILL",
            Fault::Full => "error=ENOSPC",
            Fault::Broken => "error=EIO",
        };
        let (trace, inject) = (format!("trace={}", self.call), format!("inject={}:{with}:when={}", self.call, self.when));
        let strace = Run::program("strace").args(["-f", "-qq", "-y", "-s", "0", "-e", &trace, "-e", &inject, "-o"]);
        // With -b, COMMAND runs without strace.
        let run = strace.args([traced.path()]).args(["-b", "execve", SCUTTLEUP, "--log"]).args([log]).args(args);
        let ended = run.stdin(stdin).end();
        let traced = fs::read_to_string(traced.path()).expect("a trace");
        let beside = log.parent().expect("a directory").to_str().expect("UTF-8");
        let concerns_log = |line: &str| line.contains(beside);
        let stderr = &ended.printed.stderr;
        if self.fault == Fault::Kill {
            if ended.status.signal() == Some(9) {
                return (Hit::Yes, ended);
            }
            assert!(ended.status.success(), "{self}: {stderr}");
            return (Hit::No, ended);
        }
        let failed: Vec<&str> = traced.lines().filter(|line| line.ends_with("(INJECTED)")).collect();
        if failed.is_empty() {
            assert!(ended.status.success(), "{self}: {stderr}");
            return (Hit::No, ended);
        }
        if !failed.iter().any(|line| concerns_log(line)) {
            return (Hit::Elsewhere, ended);
        }
        let code = if self.fault == Fault::Full { 5 } else { 1 };
        assert!([Some(0), Some(code)].contains(&ended.status.code()), "{self}: {:?}: {stderr}{failed:?}", ended.status);
        // Two threads can each have a fault. Notices are no reports of it.
        let messages = stderr.lines().filter(|line| NOTICES.iter().all(|notice| !line.contains(notice))).count();
        let is_reported = messages <= failed.len() && (messages > 0 || ended.status.success());
        assert!(is_reported && stderr.lines().all(|line| line.starts_with("scuttleup: ")), "{self}: {stderr}{failed:?}");
        (Hit::Yes, ended)
    }
}

/// Asserts that a log has no damage.
pub fn assert_whole(log: &Path, step: &Step) {
    let ended = Run::new(log).args(["-q", "verify"]).end();
    assert!(ended.status.success(), "{step}: {}{}", ended.printed.text(), ended.printed.stderr);
}

/// Runs `test` with a kill in each call, with ENOSPC in the calls `full`, and with EIO in the calls `broken`.
fn with_each_fault(faults_min: u32, full: &[&'static str], broken: &[&'static str], mut test: impl FnMut(&Step) -> Hit) {
    for (fault, calls) in [(Fault::Kill, &CALLS[..]), (Fault::Full, full), (Fault::Broken, broken)] {
        let faults = at_each_call(fault, calls, &mut test);
        assert!(faults >= faults_min, "only {faults} faults: {fault:?}");
    }
}

/// Runs `test` with each fault in a command with a session, in which write(2) is mostly used for pipes and threads.
fn with_each_fault_in_files(faults_min: u32, test: impl FnMut(&Step) -> Hit) {
    let without_write = |calls: &[&'static str]| calls.iter().copied().filter(|&call| call != "write").collect::<Vec<_>>();
    with_each_fault(faults_min, &without_write(&CALLS), &without_write(&FAILING_CALLS), test);
}

#[test]
fn a_fault_at_any_step_of_an_upgrade_loses_nothing() {
    with_each_fault(8, &FAILING_CALLS, &FAILING_CALLS, |step| {
        let place = Place::new();
        let log = place.log_of_format_1();
        let old = read(&log);
        let (hit, ended) = step.run(&log, &["-q", "append", "--ack"], "\"first\"\n");
        let acknowledged = ended.printed.lines().len();
        let after = read(&log);
        let new = after.strip_prefix(&old).unwrap_or_else(|| panic!("{step}: entries of format 1 are lost: {after}"));
        let first = new.lines().count();
        assert!((acknowledged..=1).contains(&first), "{step}: {new}");
        // The copy of the log takes one new id, also if it was killed before.
        Run::new(&log).args(["-q", "append"]).stdin("\"second\"\n").success();
        let feeds = heads(&log);
        assert_eq!(feeds.len(), 3, "{step}: {feeds:?}");
        assert!(feeds.iter().any(|feed| feed.ends_with(&format!("\"seq\":{}}}", first + 1))), "{step}: {feeds:?}");
        assert_eq!(read(&log).lines().count(), 45 + first + 1, "{step}");
        assert_whole(&log, step);
        Run::new(&log).args(["-q", "compact"]).success();
        assert_whole(&log, step);
        hit
    });
}

/// Makes the table of entries count more pages than it has, so that a small log seals entries as if it held 240 MiB of them.
pub fn pretend_to_be_large(log: &Path) {
    const OVERFLOW_PAGES_AT: usize = 24;
    // The row in the table of tables: the length of the value, the flag of a table, the length of the key, the key.
    let key = [&48u32.to_ne_bytes()[..], &2u16.to_ne_bytes(), &7u16.to_ne_bytes(), b"entries"].concat();
    let data = fs::read(log.join("data.mdb")).expect("the data file");
    let file = fs::File::options().write(true).open(log.join("data.mdb")).expect("the data file");
    let found: Vec<usize> = data.windows(key.len()).enumerate().filter(|(_, part)| *part == key).map(|(at, _)| at).collect();
    assert!(!found.is_empty());
    for at in found {
        let pages = (240u64 << 20) / 4096;
        file.write_all_at(&pages.to_ne_bytes(), (at + key.len() + OVERFLOW_PAGES_AT) as u64).expect("written");
    }
}

#[test]
fn a_fault_at_any_step_of_sealing_in_the_background_loses_and_doubles_nothing() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, (0..100).map(|n| format!("\"{n}\"\n")).collect::<String>());
    pretend_to_be_large(&log);
    let (mut before, mut sealings) = (read(&log), 0);
    with_each_fault(15, &FAILING_CALLS, &FAILING_CALLS, |step| {
        let lines: String = (0..20).map(|n| format!("\"{step} {n}\"\n")).collect();
        let (hit, ended) = step.run(&log, &["-q", "append", "--ack"], &lines);
        let acknowledged = ended.printed.lines().len();
        let after = read(&log);
        let new = after.strip_prefix(&before).unwrap_or_else(|| panic!("{step}: entries are lost: {after}"));
        // A commit has all lines or none.
        let stored = new.lines().count();
        assert!([0, 20].contains(&stored) && stored >= acknowledged, "{step}: {stored} stored, {acknowledged} acknowledged");
        append(&log, "\"next\"\n");
        before = read(&log);
        assert_eq!(before.lines().count(), after.lines().count() + 1, "{step}");
        let info = &Run::new(&log).args(["info"]).success().json()[0];
        let packed = info["packed_entries"].as_u64().expect("a number");
        sealings += u32::from(packed + 2 >= before.lines().count() as u64);
        hit
    });
    assert!(sealings > 30, "only {sealings} sealings were completed by the next append");
    // The new data file counts its pages rightly.
    Run::new(&log).args(["del", "a", "7"]).success();
    before = read(&log);
    Run::new(&log).args(["-q", "compact"]).success();
    Run::new(&log).args(["-q", "verify"]).stdout("").stderr("").success();
    assert_eq!(read(&log), before);
    let packs = fs::read_dir(log.join("packs")).expect("the packs").count();
    assert_eq!(Run::new(&log).args(["info"]).success().json()[0]["packs"], packs, "a file belongs to no pack");
}

/// A log with few entries, and its remote, which holds them too.
fn small_pair(place: &Place) -> (PathBuf, PathBuf) {
    let (log, remote) = (place.log("own"), place.log("remote"));
    append(&log, (1..=30).map(|n| format!("{{\"a\":\"entry {n}\"}}\n")).collect::<String>());
    Run::new(&remote).args(["-q", "write"]).stdin(read(&log)).success();
    (log, remote)
}

/// `repair` with this fault. COMMAND has no fault.
fn repair_with(step: &Step, log: &Path, remote: &Path) -> (Hit, Ended) {
    let words = remote_of(remote, "auto");
    let args: Vec<&str> = ["-q", "repair", "--"].into_iter().chain(words.iter().map(String::as_str)).collect();
    step.run(log, &args, "")
}

#[test]
fn a_fault_at_any_step_of_a_repair_loses_nothing_and_the_next_one_completes_it() {
    let place = Place::new();
    let (log, remote) = small_pair(&place);
    let before = read(&log);
    let again = |log: &Path| {
        Run::new(log).args(["-q", "repair", "--"]).args(remote_of(&remote, "auto")).success();
    };
    with_each_fault_in_files(12, |step| {
        damage(&log, "\"a\":\"entry 20\"");
        let (hit, ended) = repair_with(step, &log, &remote);
        if ended.status.success() {
            assert_whole(&log, step);
            assert!(!log.join("repair").exists(), "{step}: done, but a folder is left");
        }
        again(&log);
        assert!(!log.join("repair").exists(), "{step}: a folder is left");
        assert_eq!(read(&log), before, "{step}");
        assert_whole(&log, step);
        hit
    });
}

#[test]
fn a_fault_at_any_step_of_building_a_log_again_leaves_the_damaged_one_as_it_is() {
    let place = Place::new();
    let (log, remote) = small_pair(&place);
    let whole = read(&log);
    Run::new(&log).args(["-q", "compact"]).success();
    append(&log, "\"only here\"\n");
    let pack = log.join("packs/00000000000000000001.pack");
    let mut bytes = fs::read(&pack).expect("the pack");
    bytes[70] ^= 1;
    fs::write(&pack, &bytes).expect("the pack");
    let (data, new) = (fs::read(log.join("data.mdb")).expect("the data file"), place.path("own.repaired"));
    with_each_fault_in_files(12, |step| {
        let (hit, _) = repair_with(step, &log, &remote);
        assert!(fs::read(&pack).expect("the pack") == bytes, "{step}: the damaged pack was changed");
        assert!(fs::read(log.join("data.mdb")).expect("the data file") == data, "{step}: the damaged data file was changed");
        if hit != Hit::No {
            // A part of a new log is never taken for the whole one.
            if new.exists() {
                let run = Run::new(&log).args(["-q", "repair", "--"]).args(remote_of(&remote, "auto"));
                run.stdout("").stderr_has("exists already").status(1);
                fs::remove_dir_all(&new).expect("removed");
            }
            Run::new(&log).args(["-q", "repair", "--"]).args(remote_of(&remote, "auto")).stdout("").success();
        }
        let built = read(&new);
        assert!(whole.lines().count() + 1 == built.lines().count() && built.contains("\"only here\""), "{step}: {built}");
        assert_whole(&new, step);
        fs::remove_dir_all(&new).expect("removed");
        hit
    });
}
