//! Gaps that were accepted (`--accept-gaps`): what such a log and one without the gap say to each other.

use std::path::{Path, PathBuf};

use crate::frames::{SYNC, change, handshake};
use crate::harness::{Place, Run, append, assert_equal, heads};
use crate::replicate::join;

/// a holds its feed and has deleted entry `hole` of it; b took the feed from it on the original's wire.
fn with_a_hole(place: &Place, hole: u32) -> (PathBuf, PathBuf) {
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "1\n2\n3\n4\n");
    append(&b, "\"b\"\n");
    Run::new(&a).args(["del", "a", &hole.to_string()]).success();
    let original = ["--once", "--wire", "original"];
    let ended = join(&a, &original, &b, &["--once", "--accept-gaps"]);
    assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(3), Some(0)), "{}", ended.1.printed.stderr);
    assert_eq!(heads(&a), heads(&b));
    (a, b)
}

fn id(log: &Path) -> String {
    Run::new(log).args(["id"]).success().text().to_owned()
}

/// The native wire compares chains, and a hole changes the chain; but it is no fork, and the log keeps its id.
#[test]
fn a_hole_is_told_from_a_fork() {
    for hole in [1, 2, 3] {
        let place = Place::new();
        let (a, b) = with_a_hole(&place, hole);
        append(&a, "5\n");
        append(&b, "\"b2\"\n");
        let ended = join(&a, &["--once"], &b, &["--once"]);
        for (ended, log) in [(ended.0, &a), (ended.1, &b)] {
            let said = ended.printed.stderr;
            assert_eq!(ended.status.code(), Some(3), "{said}");
            assert!(said.contains(&format!("gap: entry {hole} of a is an accepted gap")), "{said}");
            assert!(said.contains("but 1 feed is stopped") && !said.contains("fork"), "{said}");
            assert!(!Run::new(log).args(["heads"]).success().text().contains("fork"));
        }
        assert_eq!((id(&a), id(&b)), ("a\n".into(), "b\n".into()));
        // The other feed went on.
        assert!(heads(&a).contains(&"{\"peer\":\"b\",\"seq\":2}".to_owned()));
        // As the message says.
        let ended = join(&a, &["--once", "--wire", "original"], &b, &["--once"]);
        assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(0), Some(0)), "{}", ended.1.printed.stderr);
        assert_eq!(heads(&a), heads(&b));
    }
}

/// A wrong number must not fill the disk.
#[test]
fn a_gap_is_accepted_up_to_a_bound() {
    for (seq, code) in [(1_048_577, 0), (1_048_578, 3)] {
        let place = Place::new();
        let log = place.log("a");
        let stream = [handshake("b", &[("x", seq)], SYNC), change("x", seq, "1")].concat();
        let run = Run::new(&log).args(["replicate", "--once", "--accept-gaps"]).stdin(stream);
        let said = if code == 0 { "received 1" } else { "stores such entries as deleted, up to 1048576 in a row" };
        run.stderr_has(said).status(code);
        assert_eq!(heads(&log).len(), usize::from(code == 0));
    }
}

/// Logs with the same hole agree.
#[test]
fn a_hole_travels_on_the_native_wire() {
    let place = Place::new();
    let (_, b) = with_a_hole(&place, 2);
    let c = place.log("c");
    append(&c, "1\n");
    let ended = join(&b, &["--once"], &c, &["--once"]);
    assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(0), Some(0)), "{}", ended.1.printed.stderr);
    assert_equal(&b, &c);
}
