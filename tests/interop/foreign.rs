//! Peer ids that the original cannot store: it keeps ids as keys of a plain object, and U+00FF ends its key ranges.

use super::super::frames::{Frame, SYNC, Session, handshake};
use super::super::harness::{Place, Run};
use super::{Original, entries, log_of, sync};

/// Ids that the original can store.
const HELD: [&str; 6] = ["plain", "na\u{ef}ve", "\u{fe}", "with space", "proto", "100"];
const NOT_HELD: [&str; 12] = [
    "\u{ff}",
    "a\u{ff}b",
    "\u{100}",
    "\u{65e5}\u{672c}",
    "\u{1f389}",
    "__proto__",
    "constructor",
    "toString",
    "valueOf",
    "hasOwnProperty",
    "__defineGetter__",
    "isPrototypeOf",
];

fn feeds(ids: &[&str]) -> String {
    let line = |(n, id): (usize, &&str)| {
        format!(
            "{{\"offset\":1,\"peer\":\"{id}\",\"seq\":1,\"entry\":{n}}}\n{{\"offset\":2,\"peer\":\"{id}\",\"seq\":2,\"entry\":{n}}}\n"
        )
    };
    ids.iter().enumerate().map(line).collect()
}

#[test]
fn ids_that_the_original_cannot_store_are_skipped_with_one_warning() {
    let place = Place::new();
    let (ours, theirs) = (log_of(&place, "ours", "one\n"), Original::new(&place, "theirs"));
    Run::new(&ours).args(["write"]).stdin(feeds(&[&HELD[..], &NOT_HELD[..]].concat())).success();
    theirs.append("two\n");
    let ended = sync(&ours, &theirs).stderr_has("synced with theirs: sent 13, received 1").success();
    let said: Vec<_> = ended.stderr.lines().filter(|line| line.starts_with("scuttleup: ")).collect();
    assert_eq!(said.len(), 2, "{}", ended.stderr);
    assert!(said[0].contains("the original cannot store a feed with the id"), "{}", ended.stderr);
    let mut expected = entries(&ours);
    expected.retain(|(peer, ..)| !NOT_HELD.contains(&&**peer));
    assert_eq!(expected.len(), 2 * HELD.len() + 2);
    assert_eq!(theirs.entries(), expected);
    // A second session has nothing to send.
    sync(&ours, &theirs).stderr_has("sent 0, received 0").success();
}

/// One session for each id, so that a failure of one id is not hidden by another.
#[test]
fn the_original_stores_each_id_that_is_sent_to_it() {
    let place = Place::new();
    let (ours, theirs) = (place.log("ours"), Original::new(&place, "theirs"));
    for id in HELD {
        Run::new(&ours).args(["write"]).stdin(feeds(&[id])).success();
        let ended = sync(&ours, &theirs).stderr_has("sent 2, received 0").success();
        assert!(!ended.stderr.contains("cannot hold"), "{id}: {}", ended.stderr);
        assert_eq!(theirs.entries(), entries(&ours), "{id}");
    }
}

/// Also for entries that are stored while the session runs.
#[test]
fn a_live_session_skips_these_ids_too() {
    let place = Place::new();
    let ours = log_of(&place, "ours", "one\n");
    let mut session = Session::open(&ours, &[]);
    session.send(handshake("theirs", &[], SYNC));
    session.frame();
    assert_eq!(session.frame(), Some(Frame::change("ours", 1, "one")));
    Run::new(&ours).args(["write"]).stdin(feeds(&["toString", "\u{100}", "plain"])).success();
    let (frames, ended) = session.close();
    assert_eq!(frames, [Frame::change("plain", 1, "2"), Frame::change("plain", 2, "2")]);
    assert_eq!(ended.printed.stderr.matches("cannot store a feed with the id toString").count(), 1, "{}", ended.printed.stderr);
    assert_eq!((ended.status.code(), ended.printed.stderr.lines().count()), (Some(0), 2), "{}", ended.printed.stderr);
}
