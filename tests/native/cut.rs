//! A link that is cut anywhere: never a success, and what came stays and is not sent again.

use std::io::{self, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use scuttleup::{Log, Options};

use crate::harness::{Place, append, assert_equal};
use crate::native_frames::fin;

use super::{Cut, full_and_empty, number, once, order, replicate, report};

/// Cuts at all of the first bytes, which are the opening, then here and there.
fn places() -> impl Iterator<Item = u64> {
    (0..64).step_by(3).chain((64..).scan(64u64, |at, _| {
        *at += *at / 5 + 7;
        Some(*at)
    }))
}

#[test]
fn cut_at_any_byte_it_is_incomplete_on_both_sides_and_goes_on_where_it_was() {
    for to_receiver in [true, false] {
        for at in places() {
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
            // Who has both FINs may end, and rightly so; the other side cannot know.
            let (lacking, other) = if to_receiver { (&ended_b, &ended_a) } else { (&ended_a, &ended_b) };
            assert_eq!(lacking.status.code(), Some(3), "{said}");
            assert!(other.status.code() == Some(3) || other.status.code() == Some(0) && got == all, "{said}");
            let sender = report(&ended_a);
            assert!(number(&sender, "durable") <= got.len() as u64, "{said}");
            // Once it knows what is lacking over there, it counts every entry as sent or as unsent, and none that did not leave.
            let (sent, unsent) = (number(&sender, "sent"), number(&sender, "unsent"));
            assert!(sent + unsent == all.len() as u64 || sent + unsent == 0, "{said}");
            assert!(sent * 60 <= number(&sender, "bytes_sent"), "{said}");
            assert!(all.starts_with(&got), "{said}: what came is not what was first");
            let (report_a, report_b) = once(&a, &b, (0, 0));
            let missing = (all.len() - got.len()) as u64;
            assert_eq!((number(&report_a, "sent"), number(&report_b, "received")), (missing, missing), "{said}");
            assert_equal(&a, &b);
        }
    }
}

#[test]
fn an_entry_that_was_damaged_on_the_way_is_refused() {
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
                to_b.write_all(&part[..count]).expect("it is there");
            }
        });
        let (sent, refused) = (sender.wait(), receiver.wait());
        assert_eq!(refused.status.code(), Some(7), "{}", refused.printed.stderr);
        assert!(refused.printed.stderr.contains("entries of a are not what was sent"), "{}", refused.printed.stderr);
        assert_eq!(sent.status.code(), Some(3), "{}", sent.printed.stderr);
        assert!(sent.printed.stderr.contains("(it said: "), "{}", sent.printed.stderr);
        assert_eq!(order(&b).len(), known);
        once(&a, &b, (0, 0));
        assert_equal(&a, &b);
    }
}

/// A pipe that tells when it is given up.
struct Told(PipeWriter, Sender<()>);

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl AsFd for Told {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.1.send(()).ok();
    }
}

/// Its last words are on their way still when the other side has ended, and so has closed what it reads from.
#[test]
fn an_end_that_is_read_late_is_an_end() {
    let place = Place::new();
    let logs = ["a", "b"].map(|name| place.log(name));
    append(&logs[0], format!("1\n\"{}\"\n3\n", "x".repeat(5000)));
    let [a, b] = logs.map(|log| Log::open(log).expect("a log"));
    let options = |entry_bytes_max| Options { once: true, entry_bytes_max, ..Options::default() };
    let ((b_in, a_out), (mut from_b, b_out), (a_in, mut to_a)) =
        (pipe().expect("a pipe"), pipe().expect("a pipe"), pipe().expect("a pipe"));
    let (tell, told) = channel();
    let (sent, received) = thread::scope(|threads| {
        let sender = threads.spawn(|| scuttleup::replicate(&a, a_in, Told(a_out, tell), options(1 << 20), &|_| ()));
        let receiver = threads.spawn(|| scuttleup::replicate(&b, b_in, b_out, options(4000), &|_| ()));
        let (mut part, mut held, last_words) = (vec![0; 1 << 16], false, fin(0, 1));
        while let Ok(count @ 1..) = from_b.read(&mut part) {
            held = part[..count].ends_with(&last_words);
            let passes = if held { count - last_words.len() } else { count };
            to_a.write_all(&part[..passes]).expect("it is there");
        }
        assert!(held, "its last words were others");
        let received = receiver.join().expect("it does not panic").expect("no error");
        told.recv().expect("it notices");
        to_a.write_all(&last_words).expect("it is there");
        (sender.join().expect("it does not panic").expect("no error"), received)
    });
    assert!(!sent.cut && !received.cut, "{sent:?} {received:?}");
    assert_eq!((sent.sent, sent.durable, sent.unsent, sent.gaps), (1, Some(1), 2, 1));
    assert_eq!((received.received, received.missing), (1, 2));
}
