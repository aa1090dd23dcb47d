//! The lines of scripts/ssh/authorized_keys: what each key can do, and that it can do nothing else.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use nix::sys::signal::Signal;

use crate::frames::{PREAMBLE, PULL as PULL_MODE, PUSH as PUSH_MODE};
use crate::harness::{Ended, Place, Run, SCUTTLEUP, append, heads, read};
use crate::native_frames::{self as native, HEADS, chain_of, feed, hello, run, synced, typed};
use crate::sshd::Sshd;
use crate::terminal::Terminal;

const SAMPLE: &str = include_str!("../scripts/ssh/authorized_keys");

const KEYS: [&str; 5] = ["sync", "fetch", "deliver", "append", "read"];

/// The start of each line of the sample.
const START: &str = "restrict,command=\"/usr/bin/env -i /usr/bin/scuttleup --log /var/lib/scuttleup/log ";

/// The log `host` with two entries, and an sshd with the lines of the sample, for this log and for the binary under test. `more`
/// are other lines.
struct Host {
    place: Place,
    log: PathBuf,
    sshd: Sshd,
}

impl Host {
    fn new(more: &str, config: &str) -> Self {
        let place = Place::new();
        let log = place.log("host");
        append(&log, "\"secret 1\"\n\"secret 2\"\n");
        let lines: Vec<&str> = SAMPLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        let names = lines.iter().map(|line| line.rsplit(' ').next().expect("a word"));
        assert_eq!(names.collect::<Vec<_>>(), KEYS);
        assert!(lines.iter().all(|line| line.starts_with(START)), "{lines:#?}");
        let sample =
            SAMPLE.replace("/usr/bin/scuttleup", SCUTTLEUP).replace("/var/lib/scuttleup/log", log.to_str().expect("UTF-8"));
        let sshd = Sshd::new(&place, &format!("{sample}\n{more}\n"), config);
        Self { place, log, sshd }
    }

    /// ssh with this key, these options and this command.
    fn ssh(&self, key: &str, options: &[&str], command: &[&str]) -> Run {
        let client = self.sshd.client(key);
        Run::program("ssh").args(options).args(&client[1..]).args(command)
    }

    /// A session of the log `from` over ssh.
    fn session(&self, from: &Path, key: &str, args: &[&str]) -> Run {
        Run::new(from).args(["replicate", "--once"]).args(args).args(["--"]).args(self.sshd.client(key))
    }

    /// Opens a session with raw bytes, closes it, and returns what the host sent and said.
    fn raw(&self, key: &str, stream: impl AsRef<[u8]>) -> Ended {
        self.ssh(key, &["-T"], &[]).stdin(stream).end()
    }

    /// A log with one entry of its own feed.
    fn other(&self, id: &str) -> PathBuf {
        let log = self.place.log(id);
        append(&log, format!("\"from {id}\"\n"));
        log
    }

    /// Asserts that a log can still be synced.
    fn assert_usable(&self) {
        let honest = self.other("honest");
        self.session(&honest, "sync", &[]).success();
        assert!(heads(&self.log).contains(&"{\"peer\":\"honest\",\"seq\":1}".to_owned()));
    }
}

#[test]
fn each_key_does_what_its_comment_says() {
    let host = Host::new("", "");
    let log = host.other("laptop");
    host.session(&log, "sync", &[]).stderr_has("synced with host: sent 1 (1 durable on the remote), received 2").success();
    append(&host.log, "3\n");
    host.session(&log, "fetch", &["--mode", "pull"]).stderr_has("pulled from host: received 1").success();
    let web = host.other("web-01.a");
    host.session(&web, "deliver", &["--mode", "push"]).stderr_has("pushed to host: sent 1 (1 durable on the remote)").success();
    host.ssh("append", &["-T"], &[])
        .stdin("4\n5\n")
        .stdout("{\"peer\":\"host\",\"seq\":4}\n{\"peer\":\"host\",\"seq\":5}\n")
        .success();
    let mut reading = host.ssh("read", &["-T"], &[]).spawn();
    reading.send("{\"peer\":\"host\",\"seq\":4}\n{\"peer\":\"laptop\",\"seq\":1}\n{\"peer\":\"web-01.a\",\"seq\":0}\n");
    reading.close();
    for known in ["\"peer\":\"web-01.a\",\"seq\":1,", "\"peer\":\"host\",\"seq\":5,"] {
        assert!(reading.line().contains(known));
    }
    append(&host.log, "6\n");
    assert!(reading.line().contains("\"peer\":\"host\",\"seq\":6,\"entry\":6,"));
}

/// A file, as the original protocol of scp sends it.
const FILE: &[u8] = b"C0644 2 file\nx\n\0";

/// Runs ssh with this key and command until its session has begun and ended.
fn attempt(host: &Host, key: &str, command: &str) {
    let mut run = host.ssh(key, &["-T"], &[command]).spawn();
    if command.starts_with("scp ") && key != "read" {
        // The host may have ended before it has read everything.
        run.stdin.as_mut().expect("it is open").write_all(FILE).ok();
    }
    run.close();
    if key == "read" {
        run.line();
        run.signal(Signal::SIGTERM);
    }
    run.wait();
}

#[test]
fn a_key_runs_no_other_command() {
    let host = Host::new("ssh-ed25519 AAAA free", "Subsystem sftp internal-sftp\n");
    let (marker, other) = (host.place.path("marker"), host.place.path("other"));
    let before = read(&host.log);
    let touch = format!("touch {}", marker.display());
    let commands = [
        format!("{touch}; $({touch})`{touch}` & {touch}\n{touch} #"),
        format!("x'; {touch}; '\"; {touch}; \"; {SCUTTLEUP} --log {} init", other.display()),
        format!("scp -t {}", marker.display()),
    ];
    thread::scope(|threads| {
        for key in KEYS {
            let (host, commands) = (&host, &commands);
            threads.spawn(move || commands.iter().for_each(|command| attempt(host, key, command)));
        }
    });
    assert!(!marker.exists() && !other.exists());
    assert_eq!(read(&host.log), before);
    // The attacks work with a key that is not restricted.
    for command in [&commands[0], &commands[2]] {
        attempt(&host, "free", command);
        fs::remove_file(&marker).expect("the marker");
    }
    // The subsystem sftp, with scp and with sftp.
    let file = host.place.file("file", "x");
    let target = format!("127.0.0.1:{}", marker.display());
    let batch = host.place.file("batch", format!("put {} {}\n", file.display(), marker.display()));
    let copy = |key: &str, program: &str, first: &[&str]| {
        let run = Run::program(program).args(first).args(host.sshd.options(key));
        let run = if program == "sftp" { run.args(["127.0.0.1"]) } else { run.args([file.as_os_str()]).args([&target]) };
        run.end().status.success()
    };
    let batch = ["-b", batch.to_str().expect("UTF-8")];
    for (program, first) in [("scp", &["-s"][..]), ("sftp", &batch)] {
        for key in ["sync", "fetch", "deliver"] {
            assert!(!copy(key, program, first) && !marker.exists(), "{key}: {program} {first:?}");
        }
        assert!(copy("free", program, first), "{program} {first:?}");
        fs::remove_file(&marker).expect("the copy");
    }
    // The commands of the other keys wait for the end of a line or of stdin, which these clients do not send.
    for key in ["append", "read"] {
        host.ssh(key, &["-s"], &["sftp"]).stdin(b"\0\0\0\x05\x01\0\0\0\x03").stdout("").status(7);
    }
    assert_eq!(read(&host.log), before);
}

/// The lines of the sample with another command, which shows what the client has got.
fn showing() -> String {
    let lines = SAMPLE.lines().filter(|line| line.starts_with(START));
    let shown = lines.map(|line| {
        let (_, name) = line.rsplit_once(' ').expect("a name");
        format!("restrict,command=\"tty; /usr/bin/env\" ssh-ed25519 AAAA shows-{name}\n")
    });
    shown.collect::<String>() + "command=\"tty; /usr/bin/env\" ssh-ed25519 AAAA shows-free\nssh-ed25519 AAAA free"
}

#[test]
fn a_key_forwards_nothing_and_gets_no_terminal() {
    let host = Host::new(&showing(), "X11Forwarding yes\nAllowTcpForwarding yes\nAllowAgentForwarding yes\n");
    // A service that a client must not reach.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            stream.write_all(b"reached\n").ok();
        }
    });
    let agent = host.place.path("agent");
    let mut running = Run::program("ssh-agent").args(["-D", "-a"]).args([&agent]).spawn();
    running.line();
    let agent = format!("-oIdentityAgent={}", agent.display());
    let gets_agent = |key: &str| {
        let printed = host.ssh(key, &["-T", "-A", &agent], &[]).end().printed.text().to_owned();
        assert!(printed.contains("SSH_CLIENT="), "{key}: {printed}");
        printed.contains("SSH_AUTH_SOCK=")
    };
    let remote = ["-N", "-oExitOnForwardFailure=yes", "-R", "127.0.0.1:0:127.0.0.1:9"];
    for key in KEYS {
        host.ssh(key, &["-W", &address], &[]).stdout("").stderr_has("stdio forwarding failed").status(255);
        host.ssh(key, &remote, &[]).stdout("").stderr_has("remote port forwarding failed").status(255);
        let shows = format!("shows-{key}");
        assert!(!gets_agent(&shows), "{key}");
        host.ssh(&shows, &["-tt"], &[]).stdout("").stderr_has("PTY allocation request failed").status(255);
    }
    host.ssh("free", &["-W", &address], &[]).stdout("reached\n").success();
    assert!(gets_agent("shows-free"));
    assert!(host.ssh("shows-free", &["-tt"], &[]).success().text().starts_with("/dev/pts/"));
}

#[test]
fn a_client_cannot_set_variables() {
    let names = "SCUTTLEUP_LOG XDG_DATA_HOME HOME PATH";
    let free = format!("command=\"{SCUTTLEUP} id\" ssh-ed25519 AAAA free");
    let host = Host::new(&free, &format!("AcceptEnv {names}\n"));
    let other = host.other("other");
    let programs = host.place.path("programs");
    fs::create_dir(&programs).expect("a directory");
    let marker = host.place.path("marker");
    for name in ["env", "scuttleup"] {
        Run::program("sh")
            .args(["-c", "printf '#!/bin/sh\\ntouch %s\\n' \"$2\" > \"$1\"; chmod 755 \"$1\"", "sh"])
            .args([&programs.join(name), &marker])
            .success();
    }
    let set = format!(
        "-oSetEnv=SCUTTLEUP_LOG={other} XDG_DATA_HOME={other} HOME={other} PATH={programs}",
        other = other.display(),
        programs = programs.display()
    );
    let before = read(&other);
    host.ssh("free", &["-T", &set], &[]).stdout("other\n").success();
    host.ssh("append", &["-T", &set], &[]).stdin("3\n").stdout("{\"peer\":\"host\",\"seq\":3}\n").success();
    let mut reading = host.ssh("read", &["-T", &set], &[]).spawn();
    reading.close();
    assert!(reading.line().contains("\"peer\":\"host\""));
    let laptop = host.other("web-01");
    for (key, mode) in [("sync", "sync"), ("fetch", "pull"), ("deliver", "push")] {
        host.session(&laptop, key, &["--mode", mode]).end();
        let client = host.sshd.client(key);
        let run = Run::new(&laptop).args(["replicate", "--once", "--mode", mode, "--", "ssh", &set]).args(&client[1..]);
        run.stderr_has(" host").success();
    }
    assert_eq!(read(&other), before);
    assert!(!marker.exists(), "a program of the client ran");
}

/// The stream of a remote that sends one entry of each of these feeds.
fn entries_of(id: &str, mode: u64, feeds: &[&str]) -> Vec<u8> {
    let runs = (0..).zip(feeds).flat_map(|(handle, peer)| [feed(handle, peer), run(handle, 1, &["1"], chain_of(peer, &["1"]))]);
    [[PREAMBLE, &hello(id, mode, false, 7), &native::heads(&[], true)].concat(), runs.flatten().collect(), synced()].concat()
}

#[test]
fn a_key_that_fetches_changes_nothing() {
    let host = Host::new("", "");
    let before = (read(&host.log), heads(&host.log));
    let log = host.other("laptop");
    host.session(&log, "fetch", &[]).stderr_has("the remote only sends").status(6);
    host.session(&log, "fetch", &["--mode", "push"]).stderr_has("the remote only sends").status(6);
    // A remote that does not ask, and one that claims another entry of the local feed.
    let ended = host.raw("fetch", entries_of("laptop", PUSH_MODE, &["laptop"]));
    assert_eq!(ended.status.code(), Some(6), "{}", ended.printed.stderr);
    let claim = [PREAMBLE, &hello("x", 1, false, 7), &native::heads(&[("host", 2, 7)], true), &synced()].concat();
    host.raw("fetch", claim);
    assert_eq!((read(&host.log), heads(&host.log)), before);
    assert!(!Run::new(&host.log).args(["heads"]).success().text().contains("fork"));
    host.assert_usable();
}

#[test]
fn a_key_that_delivers_learns_no_entry_and_no_feed() {
    let host = Host::new("", "");
    let other = host.other("hidden");
    host.session(&other, "sync", &[]).success();
    let log = host.other("web-01");
    host.session(&log, "deliver", &["--mode", "pull"]).stderr_has("the remote only receives").status(6);
    assert_eq!(heads(&log).len(), 1);
    for mode in [PULL_MODE, 1] {
        let ask = [PREAMBLE, &hello("web-01", mode, false, 7), &native::heads(&[], true), &synced()].concat();
        let ended = host.raw("deliver", ask);
        let said = [&ended.printed.stdout[..], ended.printed.stderr.as_bytes()].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!said.contains("hidden") && !said.contains("secret"), "{said}");
    }
    // The feeds of other hosts are refused.
    host.raw("deliver", entries_of("web-01", PUSH_MODE, &["web-02", "host", "web-01"]));
    assert_eq!(
        heads(&host.log),
        ["{\"peer\":\"hidden\",\"seq\":1}", "{\"peer\":\"host\",\"seq\":2}", "{\"peer\":\"web-01\",\"seq\":1}"]
    );
}

#[test]
fn huge_entries_and_a_million_feeds_leave_the_log_usable() {
    let host = Host::new("", "");
    // An entry that is longer than the host takes, by its limits and by the sample.
    let log = host.other("web-01");
    Run::new(&log).args(["append", "--raw", "--entry-bytes-max", "100000000"]).stdin(vec![b'x'; (64 << 20) + 1]).success();
    host.session(&log, "deliver", &["--mode", "push"]).stderr_has("is longer than the remote accepts").status(3);
    let line = format!("\"{}\"\n", "x".repeat(1 << 20));
    host.ssh("append", &["-T"], &[]).stdin(line).stdout("").stderr_has("--entry-bytes-max").status(7);
    // A stream that declares an entry of 1 GiB.
    let declared = [PREAMBLE, &hello("web-01", PUSH_MODE, false, 7), &crate::frames::varint(1 << 30), &[4; 100]].concat();
    assert_eq!(host.raw("deliver", declared).status.code(), Some(7));
    // New feeds, above the limit of each key; then heads of a million feeds.
    let names: Vec<String> = (0..111).map(|n| format!("web-01-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (key, feeds_max) in [("deliver", 10), ("sync", 100)] {
        let known = heads(&host.log).len();
        let ended = host.raw(key, entries_of("evil", PUSH_MODE, &names));
        assert_eq!(ended.status.code(), Some(6), "{key}: {}", ended.printed.stderr);
        assert_eq!(heads(&host.log).len(), known + feeds_max, "{key}");
    }
    let rows = |first: usize| (first..first + 250).flat_map(|n| native::head(&format!("web-01-{n}"), 5, 1)).collect::<Vec<u8>>();
    let million: Vec<u8> = (0..1_000_000).step_by(250).flat_map(|first| typed(HEADS, rows(first))).collect();
    let known = heads(&host.log).len();
    host.raw("deliver", [PREAMBLE, &hello("evil", 1, false, 7), &million, &native::heads(&[], true)].concat());
    assert_eq!(heads(&host.log).len(), known);
    host.assert_usable();
}

/// More bytes than the sample allows would take too long here: the limit is made smaller.
#[test]
fn a_session_delivers_at_most_the_bytes_of_its_line() {
    let place = Place::new();
    let log = place.log("host");
    let line = SAMPLE.lines().find(|line| line.ends_with(" deliver")).expect("the line");
    assert!(line.contains(" --receive-bytes-max 1G\""));
    let line = line.replace("/usr/bin/scuttleup", SCUTTLEUP).replace("/var/lib/scuttleup/log", log.to_str().expect("UTF-8"));
    let sshd = Sshd::new(&place, &line.replace("--receive-bytes-max 1G", "--receive-bytes-max 3K"), "");
    let web = place.log("web-01");
    append(&web, format!("\"{}\"\n", "x".repeat(998)).repeat(4));
    let command = ["replicate", "--once", "--mode", "push", "--"];
    Run::new(&web).args(command).args(sshd.client("deliver")).stderr_has("--receive-bytes-max").status(6);
    assert_eq!(heads(&log), ["{\"peer\":\"web-01\",\"seq\":3}"]);
}

#[test]
fn control_characters_of_a_client_do_not_reach_the_terminal_of_the_operator() {
    let host = Host::new("", "");
    let log = host.place.log("web-01");
    let line = "{\"peer\":\"web-01\\u001b[2J\u{202e}\",\"seq\":1,\"text\":\"a\\u001b]0;title\\u0007\u{9b}31m\u{202e}\"}\n";
    Run::new(&log).args(["write"]).stdin(line).success();
    let said = host.session(&log, "deliver", &["--mode", "push"]).success().stderr;
    assert!(!said.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']), "{said:?}");
    // The host names a refused feed in its own message, which the client shows.
    let said = host.raw("deliver", entries_of("evil\u{1b}[2J", PUSH_MODE, &["\u{1b}]0;x\u{7}\u{202e}"])).printed.stderr;
    assert!(said.contains("is refused") && !said.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{said:?}");
    for command in [&["heads"][..], &["read"], &["info"], &["cursor", "list"]] {
        let mut terminal = Terminal::new(100);
        let run = Run::new(&host.log).args(command).env("TERM", "xterm").env("NO_COLOR", "1");
        let ended = run.spawn_with(Stdio::null(), terminal.stdio(), terminal.stdio()).wait();
        terminal.wait_for_end();
        assert_eq!(ended.status.code(), Some(0), "{command:?}");
        let seen = terminal.seen();
        assert!(!seen.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']), "{command:?}: {seen:?}");
        assert!(["info", "cursor"].contains(&command[0]) || seen.contains("web-01\\u{1b}[2J\\u{2"), "{command:?}: {seen:?}");
    }
}

#[test]
fn sessions_that_are_open_and_idle_hold_up_nothing() {
    let host = Host::new("", "");
    // Sessions that say nothing, that stop after their first bytes, and that never read what the host sends.
    append(&host.log, format!("\"{}\"\n", "x".repeat(1 << 20)).repeat(8));
    let mut idle: Vec<_> = KEYS.iter().map(|key| host.ssh(key, &["-T"], &[]).spawn()).collect();
    for run in &mut idle[..3] {
        run.send([PREAMBLE, &hello("idle", 1, true, 7)].concat());
    }
    let mut unread = host.ssh("sync", &["-T"], &[]).spawn_on(Stdio::piped(), std::io::pipe().expect("a pipe").1.into());
    unread.send([PREAMBLE, &hello("unread", 1, true, 7), &native::heads(&[], true)].concat());
    idle[3].send("1\n");
    assert_eq!(idle[3].line(), "{\"peer\":\"host\",\"seq\":11}\n");
    // Two keys at once, in both directions.
    let (a, b) = (host.other("a"), host.other("b"));
    let mut both = [host.session(&a, "sync", &[]).spawn(), host.session(&b, "sync", &[]).spawn()];
    assert!(both.iter_mut().all(|run| run.wait().status.success()));
    host.session(&a, "sync", &[]).success();
    assert_eq!(heads(&a).len(), 3);
    append(&host.log, "1\n");
    Run::new(&host.log).args(["compact"]).success();
}
