//! Sessions of two real processes on the native wire: reports, cuts, crashes, forks, timeouts.

mod crash;
mod cut;
mod floors;
mod forks;
mod forks_live;
mod in_sync;
mod pairs;
mod restricted;
mod retry;
mod silence;
mod words;

use std::fmt::Write as _;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::path::Path;
use std::thread::{self, JoinHandle};

use serde_json::Value;

use crate::harness::{Ended, Place, Run, Running, SCUTTLEUP, shell};
use crate::replicate::join;

/// `replicate` on a log.
fn replicate(log: &Path, args: &[&str]) -> Run {
    Run::new(log).args(["replicate"]).args(args)
}

/// The arguments for a COMMAND that replicates another log.
pub fn with_log(log: &Path) -> [&str; 5] {
    ["--", SCUTTLEUP, "--log", log.to_str().expect("UTF-8"), "replicate"]
}

/// The JSON object that `replicate --json` printed for its session.
fn report(ended: &Ended) -> Value {
    let stderr = &ended.printed.stderr;
    let objects: Vec<&str> = stderr.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!(objects.len(), 1, "{stderr}");
    let report: Value = serde_json::from_str(objects[0]).unwrap_or_else(|err| panic!("{err}: {stderr}"));
    assert_eq!(report["exit"].as_i64(), ended.status.code().map(i64::from), "{stderr}");
    report
}

/// A number of a report. It may be null if the wire is null: then the session ended before the wire was known, and this is 0.
fn number(report: &Value, field: &str) -> u64 {
    if report["wire"].is_null() && report[field].is_null() {
        return 0;
    }
    report[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {report}"))
}

/// Runs a one-shot session of two logs, checks the exit codes, and returns both reports.
fn once(a: &Path, b: &Path, codes: (i32, i32)) -> (Value, Value) {
    let ended = join(a, &["--once", "--json"], b, &["--once", "--json"]);
    let said = format!("a: {}b: {}", ended.0.printed.stderr, ended.1.printed.stderr);
    assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(codes.0), Some(codes.1)), "{said}");
    (report(&ended.0), report(&ended.1))
}

/// `count` change lines of `feeds` feeds in a mixed order; each entry is text of at least `bytes` bytes.
fn mixed(prefix: &str, feeds: usize, count: usize, bytes: usize) -> String {
    let (mut lines, mut heads, mut state) = (String::new(), vec![0; feeds], 1u64);
    for n in 0..count {
        // A pseudo-random order, so that the runs of a feed have different lengths.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let feed = (state >> 33) as usize % feeds;
        heads[feed] += 1;
        let seq = heads[feed];
        writeln!(lines, "{{\"peer\":\"{prefix}{feed}\",\"seq\":{seq},\"text\":\"{n} {:x<bytes$}\"}}", "").expect("a string");
    }
    lines
}

/// Writes change lines to a log.
fn write(log: &Path, lines: &str) {
    Run::new(log).args(["write"]).stdin(lines).success();
}

/// The change lines of a log in order of arrival, without the offsets.
pub fn order(log: &Path) -> Vec<String> {
    let printed = Run::new(log).args(["read"]).success();
    printed.lines().iter().map(|line| line.split_once(',').expect("fields").1.to_owned()).collect()
}

/// A copy of the directory of a log.
fn copy(from: &Path, to: &Path) {
    let line = "cp -r \"$FROM\" \"$TO\"; $scuttleup --log \"$TO\" id --keep";
    shell(line).env("FROM", from).env("TO", to).success();
}

/// The peers whose feeds are marked as forked.
fn forked(log: &Path) -> Vec<String> {
    let printed = Run::new(log).args(["heads"]).success();
    let forked = printed.json().into_iter().filter(|head| head["fork"] == true);
    forked.map(|head| head["peer"].as_str().expect("an id").to_owned()).collect()
}

/// The id of a log.
fn id(log: &Path) -> String {
    Run::new(log).args(["id"]).success().text().trim().to_owned()
}

/// A session whose bytes pass through the test. The test passes at most `there` bytes from a to b and at most `back` bytes
/// from b to a, and then cuts that direction.
struct Cut {
    a: Running,
    b: Running,
    there: JoinHandle<bool>,
    back: JoinHandle<bool>,
}

impl Cut {
    fn new(a: Run, b: Run, there: u64, back: u64) -> Self {
        let pipes = || (pipe().expect("a pipe"), pipe().expect("a pipe"));
        let ((from_a, a_out), (b_in, to_b)) = pipes();
        let ((from_b, b_out), (a_in, to_a)) = pipes();
        let (a, b) = (a.spawn_on(a_in.into(), a_out.into()), b.spawn_on(b_in.into(), b_out.into()));
        let (there, back) = (thread::spawn(move || carry(from_a, to_b, there)), thread::spawn(move || carry(from_b, to_a, back)));
        Self { a, b, there, back }
    }

    /// Waits for the end of both processes. The last two values tell for each direction whether it was cut.
    fn wait(mut self) -> (Ended, Ended, bool, bool) {
        let (a, b) = (self.a.wait(), self.b.wait());
        let ended = |thread: JoinHandle<bool>| thread.join().expect("the thread does not panic");
        (a, b, ended(self.there), ended(self.back))
    }
}

/// Copies at most `bytes` bytes; returns true if there were more.
fn carry(mut from: PipeReader, mut to: PipeWriter, mut bytes: u64) -> bool {
    let mut part = vec![0; 1 << 16];
    loop {
        // Reads one byte more than may pass, to detect whether there are more.
        let room = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(1).min(part.len());
        let count = from.read(&mut part[..room]).expect("a pipe can be read");
        let passes = (count as u64).min(bytes) as usize;
        if count == 0 || to.write_all(&part[..passes]).is_err() {
            return false;
        }
        if passes < count {
            return true;
        }
        bytes -= passes as u64;
    }
}

/// Log a with `count` entries of several feeds in a mixed order, and an empty log b.
fn full_and_empty(place: &Place, count: usize, bytes: usize) -> (std::path::PathBuf, std::path::PathBuf) {
    let (a, b) = (place.log("a"), place.log("b"));
    write(&a, &mixed("p", 7, count, bytes));
    (a, b)
}
