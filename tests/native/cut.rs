//! A connection that is cut anywhere: the session never succeeds; received entries stay stored and are not sent again.

use std::io::{Read, Write, pipe};
use std::thread;

use crate::harness::{Place, append, assert_equal};

use super::{Cut, full_and_empty, number, once, order, replicate, report};

/// The byte counts after which to cut: every third byte of the opening, then at growing distances.
fn cut_points() -> impl Iterator<Item = u64> {
    (0..64).step_by(3).chain((64..).scan(64u64, |at, _| {
        *at += *at / 5 + 7;
        Some(*at)
    }))
}

#[test]
fn a_session_that_is_cut_at_any_byte_is_resumed() {
    for to_receiver in [true, false] {
        for at in cut_points() {
            let place = Place::new();
            let (a, b) = full_and_empty(&place, 2500, 60);
            let (there, back) = if to_receiver { (at, u64::MAX) } else { (u64::MAX, at) };
            let args = ["--once", "--json"];
            let (ended_a, ended_b, cut_there, cut_back) =
                Cut::new(replicate(&a, &args), replicate(&b, &args), there, back).wait();
            if !cut_there && !cut_back {
                assert_equal(&a, &b);
                break;
            }
            let said = format!("at {at}: a: {}b: {}", ended_a.printed.stderr, ended_b.printed.stderr);
            let (all, got) = (order(&a), order(&b));
            // A process that has sent and received FIN is complete. The remote that lacks the last bytes cannot know this.
            let (lacking, other) = if to_receiver { (&ended_b, &ended_a) } else { (&ended_a, &ended_b) };
            assert_eq!(lacking.status.code(), Some(3), "{said}");
            assert!(other.status.code() == Some(3) || other.status.code() == Some(0) && got == all, "{said}");
            let sender = report(&ended_a);
            assert!(number(&sender, "durable") <= got.len() as u64, "{said}");
            // Once the sender knows the heads of the receiver, it counts every missing entry as sent or as unsent. It does not
            // count an entry as sent before its bytes are written.
            let (sent, unsent) = (number(&sender, "sent"), number(&sender, "unsent"));
            assert!(sent + unsent == all.len() as u64 || sent + unsent == 0, "{said}");
            assert!(sent * 60 <= number(&sender, "bytes_sent"), "{said}");
            assert!(all.starts_with(&got), "{said}: the received entries are not the first ones");
            let (report_a, report_b) = once(&a, &b, (0, 0));
            let missing = (all.len() - got.len()) as u64;
            assert_eq!((number(&report_a, "sent"), number(&report_b, "received")), (missing, missing), "{said}");
            assert_equal(&a, &b);
        }
    }
}

#[test]
fn an_entry_that_was_damaged_in_transit_is_refused() {
    for known in [0, 1] {
        let place = Place::new();
        let (a, b) = (place.log("a"), place.log("b"));
        for n in 0..known {
            append(&a, format!("{n}\n"));
            once(&a, &b, (0, 0));
        }
        append(&a, "\"this is it\"\n2\n");
        let ((mut from_a, a_out), (b_in, mut to_b)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
        let (a_in, b_out) = pipe().expect("a pipe");
        let mut sender = replicate(&a, &["--once"]).spawn_on(a_in.into(), a_out.into());
        let mut receiver = replicate(&b, &["--once"]).spawn_on(b_in.into(), b_out.into());
        thread::spawn(move || {
            let mut part = vec![0; 1 << 16];
            while let Ok(count @ 1..) = from_a.read(&mut part) {
                if let Some(at) = part[..count].windows(10).position(|bytes| bytes == b"this is it") {
                    part[at] ^= 1;
                }
                to_b.write_all(&part[..count]).expect("the receiver is running");
            }
        });
        let (sent, refused) = (sender.wait(), receiver.wait());
        assert_eq!(refused.status.code(), Some(7), "{}", refused.printed.stderr);
        assert!(refused.printed.stderr.contains("entries of a were damaged in transit"), "{}", refused.printed.stderr);
        assert_eq!(sent.status.code(), Some(3), "{}", sent.printed.stderr);
        assert!(sent.printed.stderr.contains("(it said: "), "{}", sent.printed.stderr);
        assert_eq!(order(&b).len(), known);
        once(&a, &b, (0, 0));
        assert_equal(&a, &b);
    }
}
