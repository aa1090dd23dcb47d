//! Accepted gaps (`--accept-gaps`): sessions between a log with unknown tombstones and a log without them.

use std::path::{Path, PathBuf};

use crate::frames::{SYNC, change, handshake};
use crate::harness::{Place, Run, append, assert_equal, heads};
use crate::replicate::join;

/// Log a holds its feed with entry `seq` deleted; log b received the feed on the original wire and accepted the gap.
fn with_an_accepted_gap(place: &Place, seq: u32) -> (PathBuf, PathBuf) {
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1\n2\n3\n4\n");
    append(&b, "\"b\"\n");
    Run::new(&a).args(["del", "a", &seq.to_string()]).success();
    let original = ["--once", "--wire", "original"];
    let ended = join(&a, &original, &b, &["--once", "--accept-gaps"]);
    assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(3), Some(0)), "{}", ended.1.printed.stderr);
    assert_eq!(heads(&a), heads(&b));
    (a, b)
}

fn id(log: &Path) -> String {
    Run::new(log).args(["id"]).success().text().to_owned()
}

/// The native wire compares chains, and an unknown tombstone changes the chain. This is not a fork: the log keeps its id.
#[test]
fn an_accepted_gap_is_not_reported_as_a_fork() {
    for seq in [1, 2, 3] {
        let place = Place::new();
        let (a, b) = with_an_accepted_gap(&place, seq);
        append(&a, "5\n");
        append(&b, "\"b2\"\n");
        let ended = join(&a, &["--once"], &b, &["--once"]);
        for (ended, log) in [(ended.0, &a), (ended.1, &b)] {
            let said = ended.printed.stderr;
            assert_eq!(ended.status.code(), Some(3), "{said}");
            assert!(said.contains(&format!("gap: entry {seq} of a is an accepted gap")), "{said}");
            assert!(said.contains("but 1 feed is stopped") && !said.contains("fork"), "{said}");
            assert!(!Run::new(log).args(["heads"]).success().text().contains("fork"));
        }
        assert_eq!((id(&a), id(&b)), ("a\n".into(), "b\n".into()));
        // The feed that is not stopped is replicated.
        assert!(heads(&a).contains(&"{\"peer\":\"b\",\"seq\":2}".to_owned()));
        // The message advises this wire.
        let ended = join(&a, &["--once", "--wire", "original"], &b, &["--once"]);
        assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(0), Some(0)), "{}", ended.1.printed.stderr);
        assert_eq!(heads(&a), heads(&b));
    }
}

/// A wrong seq must not fill the disk.
#[test]
fn a_gap_is_accepted_up_to_a_limit() {
    for (seq, code) in [(1_048_577, 0), (1_048_578, 3)] {
        let place = Place::new();
        let log = place.log("a");
        let stream = [handshake("b", &[("x", seq)], SYNC), change("x", seq, "1")].concat();
        let run = Run::new(&log).args(["replicate", "--once", "--accept-gaps"]).stdin(stream);
        let said = if code == 0 { "received 1" } else { "stores up to 1048576 such consecutive entries as deleted" };
        run.stderr_has(said).status(code);
        assert_eq!(heads(&log).len(), usize::from(code == 0));
    }
}

/// Two logs with the same unknown tombstone have equal chains.
#[test]
fn an_unknown_tombstone_is_sent_on_the_native_wire() {
    let place = Place::new();
    let (_, b) = with_an_accepted_gap(&place, 2);
    let c = place.log("c");
    append(&c, "1\n");
    let ended = join(&b, &["--once"], &c, &["--once"]);
    assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(0), Some(0)), "{}", ended.1.printed.stderr);
    assert_equal(&b, &c);
}
