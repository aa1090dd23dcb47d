//! Live sessions with the original. The original starts `replicate` as its child and prints each entry that it stores.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::super::harness::{Place, Run, Running, SCUTTLEUP};
use super::tap::Tap;
use super::{MODES, Original, assert_same, entries, sends};

/// A live session between the original and the log under test; both directions are recorded in files.
struct Session {
    original: Running,
    tap: PathBuf,
}

impl Session {
    fn start(theirs: &Original, their_mode: &str, ours: &Path, our_mode: &str) -> Self {
        let tap = theirs.dir.with_extension("tap");
        let replicate = ["replicate", "--live", "--id", theirs.id(), "--mode", their_mode, "--tap"].map(OsStr::new);
        let log = [OsStr::new("--"), OsStr::new(SCUTTLEUP), OsStr::new("--log"), ours.as_os_str()];
        let command = [tap.as_os_str()].into_iter().chain(log).chain(["replicate", "--mode", our_mode].map(OsStr::new));
        let original = theirs.run(replicate.into_iter().chain(command)).spawn();
        Self { original, tap }
    }

    /// Peer and seq of the next entry that the original stored, from either log.
    fn stored(&mut self) -> (String, u64) {
        let line = self.original.line();
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let seq = value["seq"].as_u64().unwrap_or_else(|| panic!("replicate ended: {line}"));
        (value["peer"].as_str().expect("a peer").to_owned(), seq)
    }

    /// The original ends the session; `replicate` sends the rest and must end with this exit code. Returns the recorded output
    /// of the original and the recorded input of the original.
    fn end(mut self, code: i32) -> (Tap, Tap) {
        self.original.close();
        self.wait(code)
    }

    /// As `end`, for a session that ends by itself.
    fn wait(mut self, code: i32) -> (Tap, Tap) {
        let ended = self.original.wait();
        let last = ended.printed.json().pop().unwrap_or_default();
        assert_eq!(last["exit"], code, "{}", ended.printed.stderr);
        assert!(ended.status.success(), "{}", ended.printed.stderr);
        (Tap::read(&self.tap.with_extension("tap.written")), Tap::read(&self.tap.with_extension("tap.read")))
    }
}

/// `append --ack` on the log under test.
fn appender(log: &Path) -> Running {
    Run::new(log).args(["append", "--text", "--ack"]).spawn()
}

fn watcher(log: &Path) -> Running {
    Run::new(log).args(["read", "--live", "--no-entry"]).spawn()
}

/// Peer and seq of a change line.
fn change(line: &str) -> (String, u64) {
    let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
    (value["peer"].as_str().expect("a peer").to_owned(), value["seq"].as_u64().expect("a seq"))
}

#[test]
fn a_thousand_appends_to_each_log() {
    let place = Place::new();
    let (ours, theirs) = (place.log("ours"), Original::new(&place, "theirs"));
    let mut session = Session::start(&theirs, "sync", &ours, "sync");
    let (mut watcher, mut appender) = (watcher(&ours), appender(&ours));
    for n in 1..=1000 {
        session.original.send(format!("theirs {n}\n"));
        appender.send(format!("ours {n}\n"));
        appender.line();
    }
    let (mut here, mut there) = (HashSet::new(), HashSet::new());
    for _ in 0..2000 {
        here.insert(change(&watcher.line()));
        there.insert(session.stored());
    }
    assert_eq!(here.len(), 2000, "an entry was printed twice");
    assert!(here == there);
    let (inward, outward) = session.end(0);
    inward.assert_only("theirs", 1000);
    outward.assert_only("ours", 1000);
    assert_same(&ours, &theirs, 2000);
}

/// Existing entries are sent first, then new entries.
#[test]
fn a_live_session_sends_existing_entries_first() {
    let place = Place::new();
    let (ours, theirs) = (super::log_of(&place, "ours", "1\n2\n"), Original::new(&place, "theirs"));
    theirs.append("1\n2\n3\n");
    let (mut watcher, mut appender) = (watcher(&ours), appender(&ours));
    let mut session = Session::start(&theirs, "sync", &ours, "sync");
    assert_eq!([session.stored(), session.stored()], [("ours".into(), 1), ("ours".into(), 2)]);
    let before: Vec<_> = (0..5).map(|_| change(&watcher.line())).collect();
    assert_eq!(before[2..], [("theirs".into(), 1), ("theirs".into(), 2), ("theirs".into(), 3)]);
    appender.send("3\n");
    assert_eq!(session.stored(), ("ours".into(), 3));
    session.original.send("4\n");
    assert_eq!(session.stored(), ("theirs".into(), 4));
    assert_eq!(change(&watcher.line()), ("ours".into(), 3));
    assert_eq!(change(&watcher.line()), ("theirs".into(), 4));
    let (inward, outward) = session.end(0);
    inward.assert_only("theirs", 4);
    outward.assert_only("ours", 3);
    assert_same(&ours, &theirs, 7);
}

/// Each log has one entry before the session, and one is appended to each during the session.
fn mode_pair(our_mode: &str, their_mode: &str) {
    let pair = format!("{our_mode} with {their_mode} of the original");
    let place = Place::new();
    let (ours, theirs) = (super::log_of(&place, "ours", "1\n"), Original::new(&place, "theirs"));
    theirs.append("1\n");
    let mut session = Session::start(&theirs, their_mode, &ours, our_mode);
    let (inward, outward) = (sends(their_mode, our_mode), sends(our_mode, their_mode));
    let (tap_in, tap_out) = if inward || outward {
        move_one(&mut session, &ours, inward, outward, &pair);
        session.end(0)
    } else {
        // Neither may send, so both end.
        session.wait(0)
    };
    tap_in.assert_only("theirs", if inward { 2 } else { 0 });
    tap_out.assert_only("ours", if outward { 2 } else { 0 });
    let appended = if inward || outward { 2 } else { 1 };
    assert_eq!(entries(&ours).len(), if inward { 4 } else { appended }, "{pair}");
    assert_eq!(theirs.entries().len(), if outward { 4 } else { appended }, "{pair}");
}

/// Waits for the existing entries in the directions that the modes allow, then appends an entry to each log.
fn move_one(session: &mut Session, ours: &Path, inward: bool, outward: bool, pair: &str) {
    let (mut watcher, mut appender) = (watcher(ours), appender(ours));
    assert_eq!(change(&watcher.line()), ("ours".into(), 1), "{pair}");
    if outward {
        assert_eq!(session.stored(), ("ours".into(), 1), "{pair}");
    }
    if inward {
        assert_eq!(change(&watcher.line()), ("theirs".into(), 1), "{pair}");
    }
    appender.send("2\n");
    appender.line();
    assert_eq!(change(&watcher.line()), ("ours".into(), 2), "{pair}");
    if outward {
        assert_eq!(session.stored(), ("ours".into(), 2), "{pair}");
    }
    session.original.send("2\n");
    assert_eq!(session.stored(), ("theirs".into(), 2), "{pair}");
    if inward {
        assert_eq!(change(&watcher.line()), ("theirs".into(), 2), "{pair}");
    }
}

#[test]
fn live_sync_with_every_mode() {
    MODES.into_iter().for_each(|mode| mode_pair("sync", mode));
}

#[test]
fn live_push_with_every_mode() {
    MODES.into_iter().for_each(|mode| mode_pair("push", mode));
}

#[test]
fn live_pull_with_every_mode() {
    MODES.into_iter().for_each(|mode| mode_pair("pull", mode));
}

/// Two originals exchange their entries through the log under test.
#[test]
fn two_originals_through_one_log() {
    let place = Place::new();
    let (jack, ours, jill) = (Original::new(&place, "jack"), place.log("ours"), Original::new(&place, "jill"));
    let mut from_jack = Session::start(&jack, "sync", &ours, "sync");
    let mut from_jill = Session::start(&jill, "sync", &ours, "sync");
    for n in 1..=20 {
        from_jack.original.send(format!("{n}\n"));
        assert_eq!([from_jack.stored(), from_jill.stored()], [("jack".into(), n), ("jack".into(), n)]);
        from_jill.original.send(format!("{n}\n"));
        assert_eq!([from_jill.stored(), from_jack.stored()], [("jill".into(), n), ("jill".into(), n)]);
    }
    Run::new(&ours).args(["append", "--text"]).stdin("ours\n").success();
    assert_eq!([from_jack.stored(), from_jill.stored()], [("ours".into(), 1), ("ours".into(), 1)]);
    let (inward, outward) = from_jack.end(0);
    inward.assert_only("jack", 20);
    assert!(outward.changes.iter().all(|(peer, _)| peer != "jack"), "an entry was sent back to its sender");
    assert_eq!(outward.changes.len(), 21);
    from_jill.end(0);
    assert_same(&ours, &jack, 41);
    assert_same(&ours, &jill, 41);
}
