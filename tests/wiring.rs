//! Two logs connected by pipes, a command, ssh and sockets; and three logs in live sessions.

use std::path::{Path, PathBuf};
use std::thread;

use nix::sys::signal::Signal;

use crate::frames::{Frame, decode};
use crate::harness::{Place, Run, Running, SCUTTLEUP, assert_equal, heads, shell};
use crate::replicate::{append, await_entries};
use crate::sshd::Sshd;

pub fn two_logs(place: &Place) -> (PathBuf, PathBuf) {
    let (a, b) = (place.log("a"), place.log("b"));
    append(&a, "{\"from\":\"a\"}\n");
    append(&b, "{\"from\":\"b\"}\n{\"from\":\"b\"}\n");
    (a, b)
}

/// Runs a line of bash with `$a`, `$b` and `$dir` set.
fn shell_with(place: &Place, line: &str) -> Run {
    shell(line).env("a", place.path("a")).env("b", place.path("b")).env("dir", place.path(""))
}

#[test]
fn two_fifos() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let line = "cd \"$dir\"; mkfifo there back; \"$scuttleup\" --log b replicate --once <there >back & \
                \"$scuttleup\" --log a replicate --once >there <back && wait $!";
    shell_with(&place, line).success();
    assert_equal(&a, &b);
}

#[test]
fn a_pipe_and_a_fifo_as_in_a_shell() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let line = "cd \"$dir\"; mkfifo back; \"$scuttleup\" --log a replicate --once <back | \"$scuttleup\" --log b replicate >back";
    shell_with(&place, line).success();
    assert_equal(&a, &b);
}

#[test]
fn a_command() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let command = ["replicate", "--once", "--", SCUTTLEUP, "--log", b.to_str().expect("UTF-8"), "replicate"];
    let printed = Run::new(&a).args(command).stderr_has("synced with b: sent 1 (1 durable on the remote), received 2").success();
    assert_eq!(printed.stdout, b"", "output on stdout");
    assert_equal(&a, &b);
}

/// A COMMAND must not have access to the log. Also, a process loses LMDB's file lock when it closes any descriptor of the
/// file.
#[test]
fn a_command_gets_no_descriptor_of_the_log() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let open = place.path("open");
    let script = "readlink /proc/$$/fd/* >\"$open\"; exec \"$scuttleup\" --log \"$b\" replicate";
    let run = Run::new(&a).args(["replicate", "--once", "--", "bash", "-c", script]);
    run.env("scuttleup", SCUTTLEUP).env("b", &b).env("open", &open).success();
    let open = std::fs::read_to_string(open).expect("the command has run");
    assert!(open.contains("pipe:"), "{open}");
    assert!(!open.contains(a.to_str().expect("UTF-8")), "{open}");
}

#[test]
fn a_command_in_every_mode() {
    for mode in ["sync", "push", "pull"] {
        let place = Place::new();
        let (a, b) = two_logs(&place);
        let command = ["replicate", "--once", "--mode", mode, "--", SCUTTLEUP, "--log", b.to_str().expect("UTF-8"), "replicate"];
        Run::new(&a).args(command).success();
        assert_eq!((heads(&a).len() == 2, heads(&b).len() == 2), (mode != "push", mode != "pull"), "{mode}");
    }
}

#[test]
fn a_live_command_ends_with_replicate() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let command = ["replicate", "--", SCUTTLEUP, "--log", b.to_str().expect("UTF-8"), "replicate"];
    let mut live = Run::new(&a).args(command).spawn();
    await_entries(&b, "a", 1);
    append(&b, "3\n");
    await_entries(&a, "b", 3);
    live.signal(Signal::SIGTERM);
    // The command shares this stderr: it ends only when the command has ended.
    assert_eq!(live.wait().status.code(), Some(143));
    assert_equal(&a, &b);
}

#[test]
fn commands_that_fail() {
    let place = Place::new();
    let (a, _) = two_logs(&place);
    let before = heads(&a);
    let run = |words: &[&str]| Run::new(&a).args(["replicate", "--once", "--"]).args(words);
    run(&["/nonexistent/program"]).stderr_has("cannot run /nonexistent/program").status(1);
    run(&["false"]).stderr_has("the remote ended before its handshake").status(3);
    run(&["true"]).stderr_has("the remote ended before its handshake").status(3);
    run(&["sh", "-c", "exit 255"]).stderr_has("the remote ended before its handshake").status(3);
    // With these exit codes a local or remote shell reports that it did not find a command, or may not run it.
    run(&["sh", "-c", "nonexistent"]).stderr_has("sh ended with exit status: 127: a program was not found").status(1);
    run(&["sh", "-c", "exit 126"]).stderr_has("check COMMAND, and PATH on the host that runs the program").status(1);
    run(&["echo", "bash: scuttleup: command not found"]).stderr_has("it printed: bash: scuttleup: command not found").status(7);
    // These commands would run without end.
    for yes in [&["yes", "no such host"][..], &["sh", "-c", "yes no such host; exit $?"]] {
        let printed = run(yes).stderr_has("it printed: no such host").status(7);
        assert!(!printed.stderr.contains("ended with"), "{}", printed.stderr);
    }
    assert_eq!(heads(&a), before);
}

/// As with `ssh -tt`. The terminal echoes what it gets, and the remote refuses it.
#[test]
fn a_terminal_between_the_two_sides_is_reported() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let before = heads(&a);
    for (here, there) in [("auto", ""), ("original", ""), ("auto", "--wire original")] {
        let remote = format!("'{SCUTTLEUP}' --log '{}' replicate {there}", b.display());
        let run = Run::new(&a).args(["replicate", "--once", "--wire", here, "--", "script", "-qec", &remote, "/dev/null"]);
        run.stderr_has("a terminal between the two sides").stderr_has("use ssh -T").status(7);
    }
    let remote = format!("'{SCUTTLEUP}' --log '{}' replicate", b.display());
    let run = Run::new(&a).args(["replicate", "--once", "--", "script", "-qec", &remote, "/dev/null"]);
    run.stderr_has("the remote printed: scuttleup: stdin or stdout is a terminal").status(7);
    assert_eq!(heads(&a), before);
}

/// The command gets time to print the reason.
#[test]
fn a_command_that_does_not_speak_the_protocol_can_print_its_reason() {
    let place = Place::new();
    let (a, _) = two_logs(&place);
    let command = ["sh", "-c", "echo Login incorrect; cat >/dev/null; echo these are its last words >&2; exit 5"];
    let run = Run::new(&a).args(["replicate", "--once", "--"]).args(command);
    let printed = run.stderr_has("it printed: Login incorrect").status(7);
    for said in ["these are its last words\n", "(sh ended with exit status: 5)"] {
        assert!(printed.stderr.contains(said), "{}", printed.stderr);
    }
}

/// The closing line does not say that the remote ended early: the session itself was complete.
#[test]
fn a_command_that_fails_after_a_complete_session_is_reported() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let command = ["sh", "-c", "\"$0\" -q --log \"$1\" replicate --wire original; exit 9", SCUTTLEUP];
    let run = Run::new(&a).args(["replicate", "--once", "--"]).args(command).args([&b]);
    run.stderr("scuttleup: synced with b: sent 1, received 2, but sh ended with exit status: 9: see its messages\n").status(3);
}

#[test]
fn a_command_that_echoes_its_input_is_not_another_log() {
    let place = Place::new();
    let (a, _) = two_logs(&place);
    let before = heads(&a);
    let said = "the output of this process comes back as its input";
    for args in [&["--once"][..], &["--once", "--wire", "native"], &[]] {
        Run::new(&a).args(["replicate"]).args(args).args(["--", "cat"]).stderr_has(said).status(7);
    }
    // The original wire cannot detect an echo. The session is complete and prints only a warning.
    let run = Run::new(&a).args(["replicate", "--once", "--wire", "original", "--", "cat"]);
    run.stderr_has("the remote has the same id, a").success();
    assert_eq!(heads(&a), before);
}

/// An sshd with the key `user`, which may run one command only.
fn sshd_with(place: &Place, forced: &str) -> Sshd {
    Sshd::new(place, &format!("restrict,command=\"{}\" ssh-ed25519 AAAA user", forced.replace('"', "\\\"")), "")
}

fn forced(log: &Path, args: &str) -> String {
    format!("{SCUTTLEUP} --log {} {args}", log.display())
}

#[test]
fn ssh_once() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let sshd = sshd_with(&place, &forced(&b, "replicate"));
    for (mode, verb) in [("pull", "pulled from"), ("push", "pushed to"), ("sync", "synced with")] {
        append(&a, "1\n");
        append(&b, "1\n");
        // sshd ignores the requested command and runs the forced command.
        let printed = Run::new(&a)
            .args(["replicate", "--once", "--mode", mode, "--"])
            .args(sshd.client("user"))
            .args(["rm", "-rf"])
            .success();
        assert!(printed.stderr.contains(&format!("{verb} b")), "{mode}: {}", printed.stderr);
    }
    assert_equal(&a, &b);
}

#[test]
fn ssh_live() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let sshd = sshd_with(&place, &forced(&b, "replicate"));
    let live = Run::new(&a).args(["replicate", "--"]).args(sshd.client("user")).args(["scuttleup replicate"]).spawn();
    await_entries(&a, "b", 2);
    append(&a, "\"live\"\n");
    await_entries(&b, "a", 2);
    append(&b, "\"live\"\n");
    await_entries(&a, "b", 3);
    live.signal(Signal::SIGTERM);
    assert_eq!(live.finish().status.code(), Some(143));
    assert_equal(&a, &b);
}

#[test]
fn ssh_with_another_forced_command_is_reported() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let sshd = sshd_with(&place, &forced(&b, "heads"));
    // The forced command prints NDJSON instead of a handshake.
    let run = Run::new(&a).args(["replicate", "--once", "--"]).args(sshd.client("user")).stderr_has("it printed: {");
    run.stderr_has(": check COMMAND (for example `ssh host scuttleup replicate`), and what .bashrc prints\n").status(7);
}

/// A listening socat, whose child has one socket as stdin and stdout. Returns the run and the address.
fn socat(place: &Place, listen: &str, args: &str) -> (Running, String) {
    // The shell redirects stderr of socat to stdout, because the test can read only stdout line by line.
    let line = format!("exec socat -t 60 -d -d {listen} EXEC:\"'$scuttleup' --log '$b' replicate {args}\" 2>&1 </dev/null");
    let mut server = shell_with(place, &line).spawn();
    let listening = loop {
        let line = server.line();
        if let Some((_, address)) = line.split_once("listening on ") {
            break address.trim().to_owned();
        }
    };
    (server, listening)
}

#[test]
fn socat_over_tcp() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let (mut server, address) = socat(&place, "TCP-LISTEN:0,bind=127.0.0.1", "--once");
    let port = address.rsplit(':').next().expect("a port").to_owned();
    let client = ["replicate", "--once", "--", "socat", "-t", "60", "-", &format!("TCP:127.0.0.1:{port}")];
    Run::new(&a).args(client).stderr_has("synced with b: sent 1 (1 durable on the remote), received 2").success();
    assert_eq!(server.wait().status.code(), Some(0));
    assert_equal(&a, &b);
}

#[test]
fn socat_over_a_unix_socket() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let path = place.path("socket");
    let (mut server, _) = socat(&place, &format!("UNIX-LISTEN:{}", path.display()), "--mode sync");
    let client = ["replicate", "--once", "--", "socat", "-t", "60", "-", &format!("UNIX-CONNECT:{}", path.display())];
    Run::new(&a).args(client).stderr_has("synced with b: sent 1 (1 durable on the remote), received 2").success();
    assert_eq!(server.wait().status.code(), Some(0));
    assert_equal(&a, &b);
}

/// A live session whose bytes in both directions are copied to files.
fn tapped(place: &Place) -> Running {
    let line = "cd \"$dir\"; mkfifo back; \"$scuttleup\" --log a replicate --wire original <back | tee from-a | \
                \"$scuttleup\" --log b replicate --wire original | tee from-b >back";
    shell_with(place, line).spawn()
}

fn changes(place: &Place, name: &str) -> Vec<(String, u64)> {
    let frames = decode(&std::fs::read(place.path(name)).expect("the recorded bytes"));
    let changes = frames.into_iter().skip(1).map(|frame| match frame {
        Frame::Change { peer, seq, .. } => (peer, seq),
        Frame::Handshake { .. } => panic!("a second handshake"),
    });
    changes.collect()
}

#[test]
fn no_entry_is_sent_back_to_its_sender() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let mut session = tapped(&place);
    let feed = |count: u64| (2..=count).map(|n| format!("{n}\n")).collect::<Vec<_>>();
    // Appends to both logs at the same time, line by line, and waits for the entries in the other log.
    thread::scope(|threads| {
        for (log, peer, other, first) in [(&a, "a", &b, 1), (&b, "b", &a, 2)] {
            threads.spawn(move || {
                for line in feed(50) {
                    append(log, &line);
                }
                await_entries(other, peer, 49 + first);
            });
        }
    });
    // The end of one process ends the whole pipeline.
    let pids = shell("pgrep -P \"$parent\"").env("parent", session.pid().to_string()).success();
    let first = pids.lines()[0].to_owned();
    Run::program("kill").args([first]).success();
    session.close();
    session.wait();
    assert_equal(&a, &b);
    let feed = |peer: &str, count| (1..=count).map(|seq| (peer.to_owned(), seq)).collect::<Vec<_>>();
    assert_eq!(changes(&place, "from-a"), feed("a", 50));
    assert_eq!(changes(&place, "from-b"), feed("b", 51));
}

#[test]
fn a_live_mesh_of_three_converges() {
    let place = Place::new();
    let logs = ["a", "b", "c"].map(|id| place.log(id));
    let live = |from: &Path, to: &Path| {
        let command = ["replicate", "--", SCUTTLEUP, "--log", to.to_str().expect("UTF-8"), "replicate"];
        Run::new(from).args(command).spawn()
    };
    let mut sessions = [live(&logs[0], &logs[1]), live(&logs[1], &logs[2]), live(&logs[2], &logs[0])];
    thread::scope(|threads| {
        for log in &logs {
            threads.spawn(move || {
                for n in 0..20 {
                    append(log, &format!("{n}\n{n}\n"));
                }
            });
        }
        for (log, peer) in logs.iter().flat_map(|log| ["a", "b", "c"].map(|peer| (log, peer))) {
            threads.spawn(move || await_entries(log, peer, 40));
        }
    });
    for session in &mut sessions {
        session.signal(Signal::SIGTERM);
        assert_eq!(session.wait().status.code(), Some(143));
    }
    assert_equal(&logs[0], &logs[1]);
    assert_equal(&logs[1], &logs[2]);
}

#[test]
fn append_and_watch_go_on_beside_a_session() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let (mut run_a, mut run_b) = Run::new(&a).args(["replicate"]).spawn_joined(Run::new(&b).args(["replicate"]));
    let mut appender = Run::new(&a).args(["append", "--ack"]).spawn();
    let mut watcher = Run::new(&b).args(["read", "--live", "--peer", "a"]).spawn();
    watcher.line();
    for n in 2..=30 {
        appender.send(format!("{{\"n\":{n}}}\n"));
        assert_eq!(appender.line(), format!("{{\"peer\":\"a\",\"seq\":{n}}}\n"));
        assert!(watcher.line().contains(&format!("\"peer\":\"a\",\"seq\":{n},\"entry\":{{\"n\":{n}}},")));
    }
    assert_eq!(appender.finish().status.code(), Some(0));
    run_b.signal(Signal::SIGINT);
    assert_eq!((run_b.wait().status.code(), run_a.wait().status.code()), (Some(130), Some(3)));
    assert_equal(&a, &b);
}

#[test]
fn two_one_shot_logs_with_many_entries_each() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    let lines = format!("\"{}\"\n", "x".repeat(200)).repeat(50_000);
    append(&a, &lines);
    append(&b, &lines);
    let once = |log: &Path| Run::new(log).args(["replicate", "--once"]);
    let (mut run_a, mut run_b) = once(&a).spawn_joined(once(&b));
    let (ended_a, ended_b) = (run_a.wait(), run_b.wait());
    assert_eq!((ended_a.status.code(), ended_b.status.code()), (Some(0), Some(0)));
    assert!(
        ended_a.printed.stderr.contains("sent 50000 (50000 durable on the remote), received 50000"),
        "{}",
        ended_a.printed.stderr
    );
    assert_equal(&a, &b);
}
