//! The messages of one side and their order. The test acts as the remote.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{ScopedJoinHandle, scope};

use nix::fcntl::{FcntlArg, fcntl};
use scuttleup::{Ending, Error, Log, Options, Outcome, Result};

use crate::frames::PREAMBLE;
use crate::harness::{Place, append};
use crate::native_frames::{
    ACK, ERROR, FEED, FIN, HEARTBEAT, RUN, SYNCED, ack, chain_of, feed, fin, heads, hello, hello_taking, kinds, run, synced,
};

use super::{mixed, write};

/// Something to write to of which the test decides how far each write goes.
struct Output<F>(PipeWriter, F);

impl<F: FnMut(&[u8]) -> io::Result<usize>> Write for Output<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.1)(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<F> AsFd for Output<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Something to read from that tells when so many bytes were read and what they said is done: it is waited for more.
struct Input {
    pipe: PipeReader,
    left: AtomicUsize,
    taken: Sender<()>,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.pipe.read(buffer)?;
        self.left.fetch_sub(count, Ordering::SeqCst);
        Ok(count)
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        if self.left.load(Ordering::SeqCst) == 0 {
            self.taken.send(()).ok();
        }
        self.pipe.as_fd()
    }
}

/// The opening of a log that holds nothing else, and lacks nothing.
fn opening(live: bool) -> Vec<u8> {
    [PREAMBLE, &hello("b", 1, live, 7), &heads(&[], true), &synced()].concat()
}

fn log(place: &Place) -> Log {
    Log::open(place.log("a")).expect("a log")
}

fn joined(session: ScopedJoinHandle<'_, Result<Outcome>>) -> Result<Outcome> {
    session.join().expect("it does not panic")
}

/// The session has to leave in the middle of a RUN; by then there is room again.
#[test]
fn the_last_words_are_no_part_of_a_frame() {
    let place = Place::new();
    let log = log(&place);
    log.append("x".repeat(2000).as_bytes()).expect("a log");
    let ((input, mut to_it), (_nobody, mut full), (stop, mut stops)) =
        (pipe().expect("a pipe"), pipe().expect("a pipe"), pipe().expect("a pipe"));
    fcntl(&full, FcntlArg::F_SETPIPE_SZ(4096)).expect("a pipe can be made small");
    full.write_all(&[0; 4096]).expect("a pipe");
    to_it.write_all(&opening(false)).expect("a pipe");
    let said = Mutex::new((Vec::new(), None));
    let output = Output(full, |bytes: &[u8]| {
        let (said, torn) = &mut *said.lock().expect("nobody panics");
        let count = match torn {
            None if bytes.len() < 1000 => bytes.len(),
            None => 10,
            Some(_) if said.len() == torn.expect("some") => {
                *torn = Some(0);
                stops.write_all(b".").expect("it listens");
                return Err(ErrorKind::WouldBlock.into());
            }
            Some(_) => bytes.len(),
        };
        said.extend_from_slice(&bytes[..count]);
        if count < bytes.len() {
            *torn = Some(said.len());
        }
        Ok(count)
    });
    let options = Options { once: true, stop: Some(stop.as_fd()), ..Options::default() };
    let outcome = scuttleup::replicate(&log, input, output, options, &|_| ()).expect("no error");
    assert!(outcome.ending == Ending::LocalStop && !outcome.confirmed, "{outcome:?}");
    let (said, _) = said.into_inner().expect("nobody panics");
    assert!(!said.windows(7).any(|words| words == b"stopped"), "{said:?}");
    assert_eq!(kinds(&said).last(), Some(&FEED), "the RUN is cut: {said:?}");
}

/// A long scan that finds no entry to send also takes time.
#[test]
fn a_side_that_finds_nothing_to_send_says_that_it_lives() {
    let place = Place::new();
    let [a, b] = ["a", "b"].map(|name| place.log(name));
    let rest = mixed("x", 1, 20_000, 1);
    write(&a, &format!("{{\"peer\":\"y\",\"seq\":1,\"entry\":1}}\n{rest}"));
    write(&b, &rest);
    let [a, b] = [a, b].map(|log| Log::open(log).expect("a log"));
    let ((b_in, a_out), (a_in, b_out)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
    let mut there = a_out.try_clone().expect("a pipe");
    let (tell, told) = channel();
    let output = Output(a_out, move |bytes: &[u8]| {
        let count = there.write(bytes)?;
        tell.send(bytes[..count].to_vec()).ok();
        Ok(count)
    });
    let once = Options { once: true, ..Options::default() };
    scope(|threads| {
        let receiver = threads.spawn(|| scuttleup::replicate(&b, b_in, b_out, once, &|_| ()));
        let often = Options { heartbeat_millis: 0, ..once };
        let sent = scuttleup::replicate(&a, a_in, output, often, &|_| ()).expect("no error");
        assert!(sent.complete() && joined(receiver).expect("no error").complete());
    });
    let kinds = kinds(&told.iter().flatten().collect::<Vec<u8>>());
    let place_of = |kind| kinds.iter().position(|&other| other == kind).expect("it was said");
    assert!(kinds[place_of(RUN)..place_of(SYNCED)].contains(&HEARTBEAT), "{kinds:?}");
}

/// It came to us by another way, after the other side had said what it holds.
#[test]
fn what_is_behind_an_entry_that_we_cannot_send_is_taken() {
    let place = Place::new();
    let long = "8".repeat(2000);
    let texts: Vec<&str> = vec!["1", "2", "3", "4", "5", "6", "7", &long, "9", "10", "11", "12"];
    let log = log(&place);
    for text in &texts[..10] {
        log.append(text.as_bytes()).expect("a log");
    }
    let ((input, mut to_it), (mut from_it, output)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
    let outcome = scope(|threads| {
        let once = Options { once: true, ..Options::default() };
        let log = &log;
        let session = threads.spawn(move || scuttleup::replicate(log, input, output, once, &|_| ()));
        let first = heads(&[("a", 5, chain_of("a", &texts[..5]))], true);
        to_it.write_all(&[PREAMBLE, &hello_taking("b", 1000), &first].concat()).expect("it listens");
        let mut said = Vec::new();
        read_to(&mut from_it, &mut said, RUN);
        let rest = [ack(0, 7), feed(0, "a"), run(0, 11, &texts[10..], chain_of("a", &texts)), synced()];
        to_it.write_all(&rest.concat()).expect("it listens");
        read_to(&mut from_it, &mut said, FIN);
        assert!(kinds(&said).contains(&ACK), "{:?}", kinds(&said));
        to_it.write_all(&fin(2, 2)).expect("it listens");
        joined(session).expect("no error")
    });
    assert!(outcome.confirmed && !outcome.ended_early(), "{outcome:?}");
    assert_eq!((outcome.sent, outcome.durable, outcome.received), (2, Some(2), 2));
    assert_eq!(log.heads().expect("a log").get("a"), 12);
}

/// A live session in which an entry is appended and these words come while it says that it lives; how it ended, and what
/// it said from its SYNCED on.
fn interrupted(words: &[u8]) -> (Result<Outcome>, Vec<u8>) {
    let place = Place::new();
    let log = log(&place);
    let ((input, mut to_it), (mut from_it, output)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
    let ((taken, takes), (idle, idles), (go, goes)) = (channel(), channel(), channel::<()>());
    let input = Input { pipe: input, left: AtomicUsize::new(opening(true).len() + words.len()), taken };
    let (mut there, mut is_synced) = (output.try_clone().expect("a pipe"), false);
    let output = Output(output, move |bytes: &[u8]| {
        if is_synced && bytes == b"\0" {
            // Only once: then nobody is there to be told, or to wait for.
            idle.send(()).ok();
            goes.recv().ok();
        }
        is_synced |= bytes.ends_with(&synced());
        there.write(bytes)
    });
    scope(|threads| {
        let options = Options { heartbeat_millis: 20, ..Options::default() };
        let session = threads.spawn({
            let log = &log;
            move || scuttleup::replicate(log, input, output, options, &|_| ())
        });
        to_it.write_all(&opening(true)).expect("it listens");
        idles.recv().expect("it says that it lives");
        log.append(b"new").expect("a log");
        to_it.write_all(words).expect("it listens");
        takes.recv().ok();
        drop((go, idles));
        let mut said = Vec::new();
        from_it.read_to_end(&mut said).expect("a pipe");
        let kinds = kinds(&said);
        let from = kinds.iter().position(|&kind| kind == SYNCED).expect("it was said");
        (joined(session), kinds[from + 1..].iter().copied().filter(|&kind| kind != HEARTBEAT).collect())
    })
}

#[test]
fn nothing_is_sent_after_fin() {
    let (outcome, said) = interrupted(&fin(0, 0));
    assert!(outcome.expect("no error").confirmed);
    assert_eq!(said, [FIN]);
}

#[test]
fn who_fails_does_not_say_that_all_is_well() {
    let (outcome, said) = interrupted(&[fin(0, 0), synced()].concat());
    assert!(matches!(outcome, Err(Error::Wire(why)) if why.contains("a frame after FIN")));
    assert_eq!(said, [ERROR]);
}

/// A socket of which what comes after so many bytes is read only when the other side has gone.
struct Late {
    stream: UnixStream,
    left: usize,
    gone: Receiver<()>,
}

impl Read for Late {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.gone.recv().ok();
        }
        let count = self.stream.read(buffer)?;
        self.left = self.left.saturating_sub(count);
        Ok(count)
    }
}

impl AsFd for Late {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// The other side leaves after its FIN without having read all; a socket tells.
#[test]
fn a_reset_after_both_fins_is_no_cut() {
    let place = Place::new();
    let log = log(&place);
    let (here, mut there) = UnixStream::pair().expect("a socket");
    let (goes, gone) = channel::<()>();
    let outcome = scope(|threads| {
        let once = Options { once: true, ..Options::default() };
        let input = Late { stream: here.try_clone().expect("a socket"), left: opening(false).len(), gone };
        let log = &log;
        let session = threads.spawn(move || scuttleup::replicate(log, input, here, once, &|_| ()));
        there.write_all(&opening(false)).expect("it listens");
        let (mut said, all) = (Vec::new(), fin(0, 0));
        while !said.ends_with(&all[..all.len() - 1]) {
            let mut byte = [0];
            there.read_exact(&mut byte).expect("it goes on");
            said.extend(byte);
        }
        there.write_all(&fin(0, 0)).expect("it listens");
        drop((there, goes));
        joined(session).expect("no error")
    });
    assert!(outcome.complete(), "{outcome:?}");
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
    let (held_by_output, given_up) = channel::<()>();
    let mut there = a_out.try_clone().expect("a pipe");
    let output = Output(a_out, move |bytes: &[u8]| {
        let _ = &held_by_output;
        there.write(bytes)
    });
    let (sent, received) = scope(|threads| {
        let sender = threads.spawn(|| scuttleup::replicate(&a, a_in, output, options(1 << 20), &|_| ()));
        let receiver = threads.spawn(|| scuttleup::replicate(&b, b_in, b_out, options(4000), &|_| ()));
        let (mut part, mut held, last_words) = (vec![0; 1 << 16], false, fin(0, 1));
        while let Ok(count @ 1..) = from_b.read(&mut part) {
            held = part[..count].ends_with(&last_words);
            let passes = if held { count - last_words.len() } else { count };
            to_a.write_all(&part[..passes]).expect("it is there");
        }
        assert!(held, "its last words were others");
        let received = joined(receiver).expect("no error");
        // It notices, and gives its output up.
        given_up.recv().expect_err("nothing is ever sent");
        to_a.write_all(&last_words).expect("it is there");
        (joined(sender).expect("no error"), received)
    });
    assert!(sent.confirmed && received.confirmed, "{sent:?} {received:?}");
    assert_eq!((sent.sent, sent.durable, sent.unsent, sent.gaps), (1, Some(1), 2, 1));
    assert_eq!((received.received, received.missing), (1, 2));
}

/// Reads until a frame of this type has come.
fn read_to(from: &mut PipeReader, said: &mut Vec<u8>, kind: u8) {
    let mut part = [0; 4096];
    while !kinds(said).contains(&kind) {
        let count = from.read(&mut part).expect("a pipe");
        assert_ne!(count, 0, "it ended: {:?}", kinds(said));
        said.extend_from_slice(&part[..count]);
    }
}
