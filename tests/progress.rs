//! Progress: a line on the terminal while a command takes long. No byte of it goes to a file or a pipe.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use scuttleup::Log;

use crate::harness::{Place, Run, Running, SCUTTLEUP, heads};
use crate::terminal::Terminal;

/// More lines than a command reads in a few steps.
const LINES: usize = 100_000;

fn lines() -> String {
    (0..LINES).map(|n| format!("{{\"number\":{n}}}\n")).collect()
}

fn append(log: &Path, args: &[&str]) -> Run {
    Run::new(log).env("TERM", "xterm").args(["append"]).args(args)
}

fn file(path: &Path) -> Stdio {
    File::open(path).expect("a file").into()
}

/// Waits until the screen shows a complete line of progress that contains `text`; returns the lines of the screen. The line before
/// it is empty, for messages of other programs.
fn wait_for(terminal: &mut Terminal, text: &str) -> Vec<String> {
    let is_there = |terminal: &Terminal| terminal.lines().last().is_some_and(|line| line.contains(text));
    terminal.wait_until(|terminal| is_there(terminal) && terminal.seen().ends_with('\r'));
    let mut lines = terminal.lines();
    assert_eq!(lines.remove(lines.len() - 2), "", "{:?}", terminal.seen());
    lines
}

fn wait_for_progress(terminal: &mut Terminal) -> Vec<String> {
    wait_for(terminal, " entries  ")
}

/// Asserts that the run ended with this exit code, and that the screen shows only these lines, with the cursor below them.
fn assert_ended(mut run: Running, terminal: &mut Terminal, code: i32, left: &[&str]) {
    terminal.wait_for_end();
    assert_eq!(run.wait().status.code(), Some(code), "{:?}", terminal.seen());
    assert_eq!(terminal.lines(), left, "{:?}", terminal.seen());
    assert_eq!(terminal.screen().cursor_position(), (left.len() as u16, 0), "{:?}", terminal.seen());
    assert!(!terminal.screen().hide_cursor());
}

#[test]
fn a_long_append_from_a_pipe_shows_progress_and_clears_it() {
    let place = Place::new();
    let log = place.log("a");
    let mut terminal = Terminal::new(80);
    let mut run = append(&log, &[]).spawn_with(Stdio::piped(), Stdio::piped(), terminal.stdio());
    terminal.close();
    run.send(lines());
    let shown = wait_for(&mut terminal, "100,000 entries  1.");
    assert!(shown.len() == 1 && shown[0].contains(" MiB  ") && shown[0].contains("/s  00:"), "{shown:?}");
    run.close();
    assert_ended(run, &mut terminal, 0, &[]);
    assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":100000}"]);
}

/// A log whose write lock a test can hold with `log.writer()`: `append` then waits until the writer is dropped.
struct Held {
    place: Place,
    path: PathBuf,
    log: Log,
    input: PathBuf,
}

impl Held {
    fn new() -> Self {
        let place = Place::new();
        let path = place.log("a");
        let log = Log::open(&path).expect("a log");
        let input = place.file("input", lines());
        Self { place, path, log, input }
    }
}

#[test]
fn progress_of_a_file_shows_percent_and_remaining_time() {
    let place = Place::new();
    let (log, input) = (place.log("a"), place.file("input", lines()));
    let mut terminal = Terminal::new(80);
    // About seven commits; each of them is delayed.
    let strace = ["-f", "-qq", "-o", "/dev/null", "-e", "inject=fdatasync:delay_enter=400000", SCUTTLEUP, "--log"];
    let run = Run::program("strace").env("TERM", "xterm").args(strace).args([&log]).args(["append"]);
    let run = run.spawn_with(file(&input), Stdio::piped(), terminal.stdio());
    terminal.close();
    let line = wait_for(&mut terminal, "% [=").concat();
    assert!(line.contains("/s  ETA 00:") && !line.contains("100%"), "{line}");
    assert_ended(run, &mut terminal, 0, &[]);
    assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":100000}"]);
}

#[test]
fn progress_is_shown_only_on_a_terminal_and_not_with_q() {
    let held = Held::new();
    let writer = held.log.writer().expect("no other writer");
    let (log, input) = (&held.path, &held.input);
    let spawn = |run: Run, terminal: &mut Terminal, stdout| {
        let run = run.spawn_with(file(input), stdout, terminal.stdio());
        terminal.close();
        run
    };
    // The last run starts after the others and shows progress: by then the others would have shown it too.
    let piped = append(log, &[]).spawn_on(file(input), Stdio::piped());
    let to_file = File::create(held.place.path("stderr")).expect("a file");
    let to_file = append(log, &[]).spawn_with(file(input), Stdio::piped(), to_file.into());
    let [mut quiet, mut dumb, mut same, mut acked] = [80; 4].map(Terminal::new);
    let run_quiet = spawn(append(log, &["-q"]), &mut quiet, Stdio::piped());
    let run_dumb = spawn(append(log, &[]).env("TERM", "dumb"), &mut dumb, Stdio::piped());
    let stdout = same.stdio();
    let run_same = spawn(append(log, &["--ack"]), &mut same, stdout);
    let ack = held.place.path("ack");
    let run_acked = spawn(append(log, &["--ack"]), &mut acked, File::create(&ack).expect("a file").into());
    wait_for_progress(&mut acked);
    drop(writer);
    let ended = piped.finish();
    assert_eq!((ended.status.code(), ended.printed.stderr.as_str()), (Some(0), ""));
    assert_eq!(to_file.finish().status.code(), Some(0));
    assert_eq!(std::fs::read(held.place.path("stderr")).expect("a file"), b"");
    for (run, mut terminal) in [(run_quiet, quiet), (run_dumb, dumb)] {
        assert_ended(run, &mut terminal, 0, &[]);
        assert_eq!(terminal.seen(), "");
    }
    assert_ended(run_acked, &mut acked, 0, &[]);
    let acks = std::fs::read_to_string(&ack).expect("a file");
    assert!(acks.lines().count() == LINES && acks.lines().all(|line| line.starts_with("{\"peer\":\"a\",\"seq\":")), "{acks}");
    same.wait_for_end();
    assert_eq!(run_same.finish().status.code(), Some(0));
    let acks = same.seen();
    assert!(acks.lines().count() == LINES && acks.lines().all(|line| line.starts_with("{\"peer\":\"a\",\"seq\":")), "{acks}");
}

#[test]
fn progress_is_not_shown_when_stdin_is_a_terminal() {
    let held = Held::new();
    let (mut typed, mut other) = (Terminal::new(80), Terminal::new(80));
    let mut run = append(&held.path, &["--ack"]).spawn_with(typed.stdio(), Stdio::piped(), typed.stdio());
    typed.close();
    for seq in 1..=5 {
        typed.press("1\n");
        assert_eq!(run.line(), format!("{{\"peer\":\"a\",\"seq\":{seq}}}\n"));
    }
    let mut piped = append(&held.path, &[]).spawn_with(Stdio::piped(), Stdio::piped(), other.stdio());
    other.close();
    piped.send(lines());
    wait_for_progress(&mut other);
    typed.press("\u{4}");
    assert_ended(run, &mut typed, 0, &["1"; 5]);
    assert_eq!(typed.seen(), "1\r\n".repeat(5));
    piped.close();
    assert_ended(piped, &mut other, 0, &[]);
}

#[test]
fn progress_does_not_wrap_on_a_narrow_terminal() {
    let held = Held::new();
    let writer = held.log.writer().expect("no other writer");
    let widths = [1, 2, 9, 10, 14, 15, 21, 22, 40, 50, 60, 200];
    let mut runs: Vec<_> = widths
        .iter()
        .map(|&width| {
            let mut terminal = Terminal::new(width);
            let run = append(&held.path, &[]).spawn_with(file(&held.input), Stdio::piped(), terminal.stdio());
            terminal.close();
            (width, run, terminal)
        })
        .collect();
    for (width, _, terminal) in &mut runs {
        terminal.wait_until(|terminal| {
            let (lines, cursor) = (terminal.lines(), terminal.screen().cursor_position());
            assert!(lines.len() <= 2 && cursor.0 == 0, "{width} columns: {lines:?}");
            // The line has been cleared at least three times: it was drawn repeatedly.
            terminal.seen().matches("\u{1b}[J").count() >= 3 && terminal.seen().ends_with('\r')
        });
        // A part of the line that does not fit is left out as a whole.
        let line = terminal.lines().concat();
        assert_eq!(
            (line.contains("0 entries"), line.contains("0 B/s")),
            (*width >= 10, *width >= 22),
            "{width} columns: {line:?}"
        );
    }
    drop(writer);
    for (_, run, mut terminal) in runs {
        assert_ended(run, &mut terminal, 0, &[]);
    }
}

#[test]
fn a_message_is_printed_on_its_own_line() {
    let place = Place::new();
    let log = place.log("a");
    let mut terminal = Terminal::new(160);
    let run = Run::new(&log).env("TERM", "xterm").args(["write"]);
    let mut run = run.spawn_with(Stdio::piped(), Stdio::piped(), terminal.stdio());
    terminal.close();
    run.send((1..=LINES).map(|seq| format!("{{\"peer\":\"y\",\"seq\":{seq},\"entry\":{seq}}}\n")).collect::<String>());
    wait_for_progress(&mut terminal);
    run.send("{\"peer\":\"z\",\"seq\":7,\"entry\":1}\n");
    let message = "scuttleup: line 100001: gap: entry 7 of z does not follow entry 0 of this log, this feed is stopped: write the entries between them first";
    terminal.wait_until(|terminal| terminal.seen().contains("them first"));
    let lines = wait_for_progress(&mut terminal);
    assert!(lines.len() == 2 && lines[0] == message, "{lines:?}");
    run.close();
    assert_ended(run, &mut terminal, 3, &[message]);
}

/// Runs a line of bash as the session leader of the terminal. `$FIFO` is a fifo for its input, which does not end before the
/// returned file is dropped.
fn in_session(place: &Place, log: &Path, terminal: &mut Terminal, line: &str) -> (Running, File) {
    let fifo = place.path("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).expect("a fifo");
    let input = File::options().read(true).write(true).open(&fifo).expect("a fifo");
    let run = Run::program("setsid").args(["--ctty", "bash", "-c", line]).env("SCUTTLEUP", SCUTTLEUP).env("TERM", "xterm");
    let run = run.env("LOG", log).env("FIFO", fifo).env("PLACE", place.path(".").canonicalize().expect("a directory"));
    let run = run.spawn_with(terminal.stdio(), Stdio::piped(), terminal.stdio());
    terminal.close();
    (run, input)
}

#[test]
fn ctrl_c_leaves_a_clear_line() {
    let place = Place::new();
    let log = place.log("a");
    let mut terminal = Terminal::new(120);
    let (run, mut input) = in_session(&place, &log, &mut terminal, "exec \"$SCUTTLEUP\" --log \"$LOG\" append <\"$FIFO\"");
    std::io::Write::write_all(&mut input, lines().as_bytes()).expect("the fifo is open");
    wait_for(&mut terminal, "100,000 entries  ");
    terminal.press("\u{3}");
    let said = "scuttleup: stopped: 100000 entries of this input are stored: continue with line 100001";
    assert_ended(run, &mut terminal, 130, &[said]);
}

#[test]
fn a_background_job_shows_no_progress() {
    let place = Place::new();
    let log = place.log("a");
    let (mut terminal, mut other) = (Terminal::new(80), Terminal::new(80));
    let line = "set -m; exec 3>&2 2>/dev/null; \"$SCUTTLEUP\" --log \"$LOG\" append <\"$FIFO\" 2>&3 & wait $!";
    let (run, mut input) = in_session(&place, &log, &mut terminal, line);
    std::io::Write::write_all(&mut input, lines().as_bytes()).expect("the fifo is open");
    let mut piped = append(&log, &[]).spawn_with(Stdio::piped(), Stdio::piped(), other.stdio());
    other.close();
    piped.send(lines());
    wait_for_progress(&mut other);
    drop(input);
    assert_ended(run, &mut terminal, 0, &[]);
    assert_eq!(terminal.seen(), "");
    piped.close();
    assert_ended(piped, &mut other, 0, &[]);
}

/// A `read` that takes some seconds: each of its large writes to the file is delayed.
const SLOW_READ: &str = "exec strace -f -qq -o /dev/null -P \"$PLACE/out\" -e trace=write \
                         -e inject=write:delay_enter=200000 \"$SCUTTLEUP\" --log \"$LOG\" read";

/// A log for which `read` makes about 20 writes, and the output of `read`.
fn filled() -> (Place, PathBuf, String) {
    let place = Place::new();
    let log = place.log("a");
    let pad = "x".repeat(5000);
    append(&log, &[]).stdin((0..1000).map(|n| format!("\"{n}{pad}\"\n")).collect::<String>()).success();
    let text = crate::harness::read(&log);
    (place, log, text)
}

#[test]
fn a_long_read_to_a_file_shows_progress_and_does_not_change_the_file() {
    let (place, log, text) = filled();
    let mut terminal = Terminal::new(80);
    let (mut run, _input) = in_session(&place, &log, &mut terminal, &format!("{SLOW_READ} >\"$PLACE/out\""));
    let line = wait_for_progress(&mut terminal).concat();
    assert!(line.contains("% [=") && line.contains("/s  ETA 00:"), "{line}");
    run.close();
    assert_ended(run, &mut terminal, 0, &[]);
    assert!(std::fs::read_to_string(place.path("out")).expect("a file") == text, "stdout differs");
}

#[test]
fn ctrl_c_ends_a_read_to_a_file_and_leaves_a_clear_line() {
    let (place, log, text) = filled();
    let mut terminal = Terminal::new(80);
    let (run, _input) = in_session(&place, &log, &mut terminal, &format!("{SLOW_READ} >\"$PLACE/out\""));
    wait_for_progress(&mut terminal);
    terminal.press("\u{3}");
    assert_ended(run, &mut terminal, 130, &[]);
    let part = std::fs::read_to_string(place.path("out")).expect("a file");
    assert!(text.starts_with(&part) && part.len() < text.len(), "{} of {}", part.len(), text.len());
}

/// The reader of the pipe may write to the same terminal.
#[test]
fn a_read_to_a_terminal_or_a_pipe_shows_no_progress() {
    let (place, log, text) = filled();
    let (mut same, mut piped, mut other) = (Terminal::new(80), Terminal::new(80), Terminal::new(80));
    let read = || Run::new(&log).env("TERM", "xterm").args(["read", "--json"]);
    // Both runs are blocked: the test does not read the pipe or the terminal yet.
    let (mut pipe, to_pipe) = std::io::pipe().expect("a pipe");
    let run_piped = read().spawn_with(Stdio::null(), to_pipe.into(), piped.stdio());
    let run_same = read().spawn_with(Stdio::null(), same.stdio(), same.stdio());
    piped.close();
    same.close();
    let (mut run, _input) = in_session(&place, &log, &mut other, &format!("{SLOW_READ} >\"$PLACE/out\""));
    wait_for_progress(&mut other);
    let mut read = String::new();
    std::io::Read::read_to_string(&mut pipe, &mut read).expect("UTF-8");
    assert!(read == text, "stdout differs");
    assert_ended(run_piped, &mut piped, 0, &[]);
    assert_eq!(piped.seen(), "");
    same.wait_for_end();
    assert_eq!(run_same.finish().status.code(), Some(0));
    assert!(same.seen().replace("\r\n", "\n") == text, "{:?}", same.lines());
    run.close();
    assert_ended(run, &mut other, 0, &[]);
}

/// A session whose input stops in the middle until the test opens the fifo `gate` for writing.
fn stopped_session(place: &Place, args: &[&str], terminal: &mut Terminal) -> (Running, PathBuf) {
    let (a, b, gate) = (place.log("a"), place.log("b"), place.path("gate"));
    append(&b, &[]).stdin(lines()).success();
    mkfifo(&gate, Mode::from_bits_truncate(0o600)).expect("a fifo");
    let script =
        "\"$scuttleup\" -q --log \"$b\" replicate 2>/dev/null | { stdbuf -o0 head -c 1500000; cat <\"$gate\" >&2; cat; }";
    let run = Run::new(&a).args(["replicate"]).args(args).args(["--", "bash", "-c", script]);
    let run = run.env("TERM", "xterm").env("scuttleup", SCUTTLEUP).env("b", b).env("gate", &gate);
    let run = run.spawn_with(Stdio::piped(), Stdio::piped(), terminal.stdio());
    terminal.close();
    (run, gate)
}

#[test]
fn a_long_sync_shows_progress_and_then_its_closing_line() {
    let place = Place::new();
    let mut terminal = Terminal::new(100);
    let (run, gate) = stopped_session(&place, &["--once"], &mut terminal);
    let shown = wait_for_progress(&mut terminal);
    assert!(shown.len() == 1 && shown[0].contains("%") && shown[0].contains("ETA"), "{shown:?}");
    File::options().write(true).open(gate).expect("the gate opens");
    let said = format!("scuttleup: synced with b: sent 0 (0 durable on the remote), received {LINES}");
    assert_ended(run, &mut terminal, 0, &[&said]);
}

#[test]
fn a_live_session_shows_no_progress_once_it_has_caught_up() {
    let place = Place::new();
    let mut terminal = Terminal::new(100);
    let (run, gate) = stopped_session(&place, &[], &mut terminal);
    wait_for_progress(&mut terminal);
    File::options().write(true).open(gate).expect("the gate opens");
    let in_sync = "scuttleup: in sync with b, waiting for new entries";
    terminal.wait_until(|terminal| terminal.lines() == [in_sync]);
    assert_eq!(heads(&place.path("a")), [format!("{{\"peer\":\"b\",\"seq\":{LINES}}}")]);
    run.signal(Signal::SIGTERM);
    let said = format!("scuttleup: stopped: sent 0 (0 durable on the remote) to b, received {LINES}");
    assert_ended(run, &mut terminal, 143, &[in_sync, &said]);
}

/// There is nothing to transfer, so no line of progress may stay.
#[test]
fn a_live_session_that_opens_in_sync_says_so_once() {
    for wire in ["native", "original"] {
        let place = Place::new();
        let (a, b) = (place.log("a"), place.log("b"));
        let mut terminal = Terminal::new(100);
        let remote = [SCUTTLEUP, "-q", "--log", b.to_str().expect("UTF-8"), "replicate", "--wire", wire];
        let run = Run::new(&a).env("TERM", "xterm").args(["replicate", "--"]).args(remote);
        let run = run.spawn_with(Stdio::piped(), Stdio::piped(), terminal.stdio());
        terminal.close();
        let in_sync = "scuttleup: in sync with b, waiting for new entries";
        terminal.wait_until(|terminal| terminal.seen() == format!("{in_sync}\r\n"));
        // Short transfers are not reported.
        for (log, other) in [(&a, &b), (&b, &a)] {
            crate::harness::append(log, "1\n");
            let id = log.file_name().and_then(|name| name.to_str()).expect("UTF-8");
            crate::replicate::await_entries(other, id, 1);
        }
        run.signal(Signal::SIGTERM);
        terminal.wait_for_end();
        // The remote may report that this side was stopped.
        let lines: Vec<_> = terminal.lines().into_iter().filter(|line| !line.starts_with("scuttleup (b): ")).collect();
        assert_eq!((lines.len(), lines[0].as_str()), (2, in_sync), "{wire}: {:?}", terminal.seen());
        assert!(lines[1].starts_with("scuttleup: stopped: sent 1"), "{wire}: {lines:?}");
    }
}

/// A message of COMMAND is shorter than the line of progress.
#[test]
fn no_remains_of_the_line_stand_behind_a_message_of_command() {
    let place = Place::new();
    let mut terminal = Terminal::new(100);
    let (run, gate) = stopped_session(&place, &["--once"], &mut terminal);
    wait_for_progress(&mut terminal);
    let mut gate = File::options().write(true).open(gate).expect("the gate opens");
    std::io::Write::write_all(&mut gate, b"a short message\n").expect("the gate is open");
    terminal.wait_until(|terminal| terminal.seen().contains("short message"));
    let lines = wait_for_progress(&mut terminal);
    assert_eq!((lines.len(), lines[0].as_str()), (2, "a short message"), "{:?}", terminal.seen());
    drop(gate);
    let said = format!("scuttleup: synced with b: sent 0 (0 durable on the remote), received {LINES}");
    assert_ended(run, &mut terminal, 0, &["a short message", &said]);
}

/// A command with a log, run by strace so that its system call `call` takes longer.
fn delayed(log: &Path, call: &str, micros: u32, args: &[&str], terminal: &mut Terminal) -> Running {
    let inject = format!("inject={call}:delay_enter={micros}");
    let strace = ["-f", "-qq", "-o", "/dev/null", "-e", &inject, SCUTTLEUP, "--log"];
    let run = Run::program("strace").env("TERM", "xterm").args(strace).args([log]).args(args);
    let run = run.spawn_with(Stdio::null(), Stdio::piped(), terminal.stdio());
    terminal.close();
    run
}

#[test]
fn a_long_verify_and_a_long_prune_show_progress_and_clear_it() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, &[]).stdin(lines()).success();
    let pruned = format!("scuttleup: pruned {} entries of 1 feed, ", LINES - 1);
    let cases = [
        ("pread64", 3000, &["verify"][..], "scuttleup: no damage: checked 100000 entries in 1 feed"),
        ("fdatasync", 400_000, &["prune", "--keep-last", "1"], &pruned),
    ];
    for (call, micros, args, said) in cases {
        let mut terminal = Terminal::new(80);
        let run = delayed(&log, call, micros, args, &mut terminal);
        let line = wait_for(&mut terminal, "% [").concat();
        assert!(line.contains(" MiB  ") || line.contains(" KiB  "), "{args:?}: {line}");
        assert!(line.contains("/s  ETA 00:") && !line.contains("100%"), "{args:?}: {line}");
        terminal.wait_for_end();
        let left = terminal.lines();
        assert!(left.len() == 1 && left[0].starts_with(said), "{args:?}: {left:?}");
        assert_ended(run, &mut terminal, 0, &[&left[0]]);
    }
}

/// Both parts of a compaction wait for the writer of the test when they have written a pack.
#[test]
fn a_long_compact_shows_progress_and_clears_it() {
    let held = Held::new();
    append(&held.path, &[]).stdin(lines()).success();
    for (sealed, rewritten, code) in [(LINES - 1, "0 packs", 0), (0, "1 pack", 3)] {
        let mut terminal = Terminal::new(200);
        let writer = held.log.writer().expect("no other writer");
        let compact = Run::new(&held.path).env("TERM", "xterm").args(["compact"]);
        let run = compact.spawn_with(Stdio::null(), Stdio::piped(), terminal.stdio());
        terminal.close();
        let line = wait_for(&mut terminal, "99,999 entries  2.").concat();
        assert!(line.contains("/s  ETA 00:00:00  100% ["), "{line}");
        drop(writer);
        terminal.wait_for_end();
        let left = terminal.lines();
        assert_eq!(left[0], format!("scuttleup: sealed {sealed} entries, wrote {rewritten} again"));
        assert_ended(run, &mut terminal, code, &left.iter().map(String::as_str).collect::<Vec<_>>());
        Run::new(&held.path).args(["del", "a", "7"]).success();
    }
}
