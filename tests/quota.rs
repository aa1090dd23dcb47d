//! Limits for what a remote stores: `--allow-peer`, `--receive-feeds-max`, `--receive-bytes-max`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::frames::{PREAMBLE, SYNC, Session, change, handshake};
use crate::harness::{Ended, Place, Run, SCUTTLEUP, append, assert_equal, heads, shell};
use crate::native_frames::{
    self as native, ACK, ERROR, FIN, HEADS, HEARTBEAT, HELLO, SYNCED, chain_of, feed, head, hello, kinds, run, synced, typed,
};

const WIRES: [&str; 2] = ["native", "original"];

/// A log with an own entry and with feeds, which have `entries` each.
fn log_with(place: &Place, id: &str, feeds: &[&str], entries: &[&str]) -> PathBuf {
    let log = place.log(id);
    let lines = feeds.iter().flat_map(|peer| {
        (1..).zip(entries).map(move |(seq, entry)| format!("{{\"peer\":\"{peer}\",\"seq\":{seq},\"text\":\"{entry}\"}}\n"))
    });
    Run::new(&log).args(["write"]).stdin(lines.collect::<String>()).success();
    log
}

/// A one-shot session of `log` that runs a session of `remote` as its COMMAND.
fn sync(log: &Path, remote: &Path, wire: &str, args: &[&str]) -> Ended {
    let command = ["--", SCUTTLEUP, "--log"].map(OsStr::new).into_iter().chain([remote.as_os_str(), OsStr::new("replicate")]);
    Run::new(log).args(["replicate", "--once", "--json", "--wire", wire]).args(args).args(command).end()
}

fn peers(log: &Path) -> Vec<String> {
    let peer = |line: &String| serde_json::from_str::<Value>(line).expect("JSON")["peer"].as_str().expect("an id").to_owned();
    heads(log).iter().map(peer).collect()
}

#[test]
fn only_allowed_feeds_are_stored_and_the_others_are_named_once() {
    for wire in WIRES {
        let place = Place::new();
        let (log, remote) = (place.log("x"), log_with(&place, "r", &["anna", "bert", "eve"], &["1", "2"]));
        append(&log, "1\n");
        let ended = sync(&log, &remote, wire, &["--allow-peer", "a*", "--allow-peer", "[bc]ert", "--allow-peer", "r"]);
        let said = &ended.printed.stderr;
        assert_eq!(ended.status.code(), Some(6), "{wire}: {said}");
        assert_eq!(peers(&log), ["anna", "bert", "x"], "{wire}");
        assert_eq!(said.matches("the feed eve of the remote is refused: its id matches no --allow-peer").count(), 1, "{said}");
        assert_eq!(said.matches("is refused").count(), 1, "{said}");
        let report = &ended.printed.json()[0];
        assert_eq!((&report["received"], &report["refused"], &report["missing"]), (&4.into(), &2.into(), &0.into()), "{report}");
        assert_eq!((&report["sent"], &report["complete"]), (&1.into(), &false.into()), "{report}");
        assert_eq!(peers(&remote), ["anna", "bert", "eve", "x"], "the entries of this log were sent");
        // Everything that is allowed is there: still refused, and not repeated.
        let ended = sync(&log, &remote, wire, &["--retry", "--allow-peer", "anna"]);
        assert_eq!(ended.status.code(), Some(6), "{}", ended.printed.stderr);
        assert!(!ended.printed.stderr.contains("trying again"));
        assert_eq!(sync(&log, &remote, wire, &["--allow-peer", "*"]).status.code(), Some(0));
        assert_equal(&log, &remote);
    }
}

#[test]
fn a_remote_on_the_native_wire_does_not_send_what_is_not_allowed() {
    let place = Place::new();
    let (log, remote) = (place.log("x"), log_with(&place, "r", &["eve"], &[&"e".repeat(1_000_000)]));
    let ended = sync(&log, &remote, "native", &["--allow-peer", "r"]);
    let report = &ended.printed.json()[0];
    assert_eq!((ended.status.code(), &report["refused"]), (Some(6), &1.into()), "{report}");
    assert!(report["bytes_received"].as_u64().expect("a number") < 1000, "{report}");
}

/// A remote that ignores the field `allow` of HELLO waits for an acknowledgement that never comes.
#[test]
fn a_native_remote_that_sends_what_is_not_allowed_is_told_so_at_the_end() {
    let place = Place::new();
    let log = place.log("x");
    let (eve, bob) = (chain_of("eve", &["1"]), chain_of("bob", &["2"]));
    let mut session = Session::open(&log, &["--once", "--allow-peer", "b*"]);
    let entries = [feed(0, "eve"), run(0, 1, &["1"], eve), feed(1, "bob"), run(1, 1, &["2"], bob), synced()].concat();
    session.send([PREAMBLE, &hello("y", SYNC, false, 7), &native::heads(&[], true), &entries].concat());
    // The session goes on until the other entries are stored, and wakes at the next sign of life.
    let mut said = session.bytes(PREAMBLE.len());
    while !kinds(&said).contains(&FIN) {
        said.extend(session.bytes(1));
    }
    while !kinds(&said).contains(&ERROR) {
        session.send_some([0]);
        said.extend(session.bytes(1));
    }
    let (rest, ended) = session.end();
    said.extend(rest);
    let kinds: Vec<u8> = kinds(&said).into_iter().filter(|&kind| kind != HEARTBEAT).collect();
    assert_eq!(kinds, [HELLO, HEADS, SYNCED, ACK, FIN, ERROR]);
    assert_eq!(ended.status.code(), Some(6), "{}", ended.printed.stderr);
    assert!(ended.printed.stderr.contains("entries of eve are refused: this feed is not allowed"), "{}", ended.printed.stderr);
    assert_eq!(peers(&log), ["bob"]);
    assert!(said.ends_with(&[0x10, 1]), "the ERROR says that it is a refusal");
}

#[test]
fn more_new_feeds_than_the_limit_are_refused_by_name() {
    for wire in WIRES {
        let place = Place::new();
        let (log, remote) = (place.log("x"), log_with(&place, "r", &["a", "b", "c", "d"], &["1", "2"]));
        append(&log, "1\n");
        let ended = sync(&log, &remote, wire, &["--retry", "--receive-feeds-max", "3"]);
        let said = &ended.printed.stderr;
        assert_eq!(ended.status.code(), Some(6), "{wire}: {said}");
        assert!(said.contains("scuttleup: the new feed d is refused: a session stores at most 3 new feeds, "), "{said}");
        assert!(said.contains("--receive-feeds-max") && !said.contains("trying again"), "{said}");
        assert_eq!(peers(&log), ["a", "b", "c", "x"], "{wire}");
        // The next session continues there. Known feeds do not count.
        assert_eq!(sync(&log, &remote, wire, &["--receive-feeds-max", "1"]).status.code(), Some(0));
        assert_equal(&log, &remote);
    }
}

#[test]
fn more_bytes_than_the_limit_are_refused_and_what_came_before_is_acknowledged() {
    for wire in WIRES {
        let place = Place::new();
        let (log, remote) = (place.log("x"), log_with(&place, "r", &["a"], &["12345", "12345", "12345"]));
        let ended = sync(&log, &remote, wire, &["--receive-bytes-max", "10"]);
        let said = &ended.printed.stderr;
        assert_eq!(ended.status.code(), Some(6), "{wire}: {said}");
        assert!(said.contains("entry 3 of a is refused: a session stores entries of at most 10 bytes, "), "{said}");
        if wire == "native" {
            let told =
                "the remote refused entries: 3 of 3 sent to x (2 durable on the remote), 0 of 0 received (it said: entry 3 of a";
            assert!(said.contains(told), "{said}");
        }
        assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":2}"], "{wire}");
        assert_eq!(sync(&log, &remote, wire, &["--receive-bytes-max", "1KiB"]).status.code(), Some(0));
        assert_equal(&log, &remote);
    }
}

/// The limits are for one session: the sender tries again as long as its entries move.
#[test]
fn a_refused_sender_tries_again_only_if_entries_moved() {
    let place = Place::new();
    let (sender, hub) = (log_with(&place, "r", &["a"], &["12345", "12345", "12345", "12345"]), place.log("x"));
    let to_hub = |max: &str| {
        let args = ["replicate", "--once", "--retry", "--", SCUTTLEUP, "-q", "--log"].map(OsStr::new);
        let hub = [hub.as_os_str(), OsStr::new("replicate"), OsStr::new("--receive-bytes-max"), OsStr::new(max)];
        Run::new(&sender).args(args).args(hub).end()
    };
    let ended = to_hub("4");
    assert_eq!(ended.status.code(), Some(6), "{}", ended.printed.stderr);
    assert!(!ended.printed.stderr.contains("trying again"), "{}", ended.printed.stderr);
    let ended = to_hub("10");
    assert_eq!(ended.status.code(), Some(0), "{}", ended.printed.stderr);
    assert_eq!(ended.printed.stderr.matches("trying again").count(), 1, "{}", ended.printed.stderr);
    assert_equal(&sender, &hub);
}

/// The attack: a stream of new feeds, on both wires, against the default limit.
#[test]
fn by_default_a_session_stores_at_most_100_000_new_feeds() {
    let count = 100_001;
    let names = (0..count).map(|n| format!("p{n:06}"));
    let original = names.clone().flat_map(|name| change(&name, 1, "1"));
    let original = [handshake("y", &[], SYNC), original.collect()].concat();
    // A writer gives at most 65,536 handles, then it gives them again. Here each is given at once for the next feed.
    let runs = names.flat_map(|name| [feed(0, &name), run(0, 1, &["1"], chain_of(&name, &["1"]))].concat());
    let native = [PREAMBLE, &hello("y", SYNC, false, 7), &native::heads(&[], true), &runs.collect::<Vec<_>>()].concat();
    for stream in [original, native] {
        let place = Place::new();
        let log = place.log("x");
        let run = Run::new(&log).args(["replicate"]).stdin(stream);
        run.stderr_has("the new feed p100000 is refused: a session stores at most 100000 new feeds").status(6);
        assert_eq!(heads(&log).len(), 100_000);
    }
}

/// More feeds than a writer has handles: each handle is given again, and the session is complete.
#[test]
fn a_session_moves_more_feeds_than_there_are_handles() {
    let place = Place::new();
    let (log, remote) = (place.log("x"), place.log("r"));
    let lines: String = (0..70_000).map(|n| format!("{{\"peer\":\"p{n}\",\"seq\":1,\"entry\":1}}\n")).collect();
    Run::new(&remote).args(["write"]).stdin(lines).success();
    let ended = sync(&log, &remote, "native", &[]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.printed.stderr);
    assert_equal(&log, &remote);
}

#[test]
fn wrong_patterns_and_sizes_are_errors_of_the_command_line() {
    let place = Place::new();
    let log = place.log("x");
    for (args, said) in [
        (["--allow-peer", "a[b"], "invalid pattern a[b for peer ids: a [ has no ]"),
        (["--allow-peer", ""], "it is empty"),
        (["--receive-bytes-max", "10X"], "not a size, such as 500MiB or 10G"),
        (["--receive-feeds-max", "x"], "not a number"),
    ] {
        Run::new(&log).args(["replicate"]).args(args).stderr_has(said).status(2);
    }
    let many: Vec<&str> = ["--allow-peer", "a"].repeat(65);
    Run::new(&log).args(["replicate"]).args(many).stderr_has("there are more than 64 patterns").status(2);
}

/// The patterns of a remote are limited.
#[test]
fn a_hello_with_bad_patterns_is_refused() {
    let place = Place::new();
    let log = place.log("x");
    let hello_with = |patterns: Vec<Vec<u8>>| {
        let start = hello("y", SYNC, false, 7);
        typed(HELLO, [&start[2..], &patterns.concat()].concat())
    };
    let pattern = |text: &str| crate::frames::bytes_field(9, text);
    for (patterns, said) in [
        (vec![pattern("a"); 65], "a HELLO with more than 64 patterns"),
        (vec![pattern("[")], "a [ has no ]"),
        (vec![pattern("")], "it is empty"),
    ] {
        let stream = [PREAMBLE, &hello_with(patterns)].concat();
        Run::new(&log).args(["replicate"]).stdin(stream).stderr_has(said).status(7);
    }
    // The limit itself is accepted. Patterns with many stars take little time.
    let patterns = vec![pattern(&"*a".repeat(127)); 64];
    append(&log, "1\n");
    let stream = [PREAMBLE, &hello_with(patterns), &native::heads(&[], true)].concat();
    Run::new(&log).args(["replicate"]).stdin(stream).status(3);
}

/// The memory of a session does not depend on the number of feeds beyond 20 bytes for each of them: 64 MiB are enough for the
/// largest number that is allowed.
#[test]
fn heads_without_end_take_little_memory() {
    let place = Place::new();
    let log = place.log("x");
    let (mut names, mut stream) = (0.., [PREAMBLE, &hello("y", SYNC, true, 7)].concat());
    for _ in 0..2100 {
        let rows: Vec<u8> = names.by_ref().take(1000).flat_map(|n| head(&format!("p{n}"), 5, 1)).collect();
        stream.extend(typed(HEADS, rows));
    }
    let bounded = shell("ulimit -d 65536; exec \"$scuttleup\" --log \"$log\" replicate").env("log", &log);
    bounded.stdin(stream).stderr_has("the remote names more than 2097152 feeds").status(7);
}

/// Another mode would not move the entries of feeds that are not allowed.
#[test]
fn the_modes_keep_back_only_what_is_allowed() {
    for wire in WIRES {
        let place = Place::new();
        let (log, remote) = (place.log("x"), log_with(&place, "r", &["anna", "eve"], &["1", "2"]));
        let ended = sync(&log, &remote, wire, &["--mode", "push", "--allow-peer", "anna"]);
        assert_eq!(ended.printed.json()[0]["missing_by_mode"], 2, "{wire}: {}", ended.printed.stderr);
    }
    let place = Place::new();
    let (log, remote) = (log_with(&place, "x", &["anna", "eve"], &["1", "2"]), place.log("r"));
    let remote = [SCUTTLEUP, "--log", remote.to_str().expect("UTF-8"), "replicate", "--allow-peer", "anna"];
    let ended = Run::new(&log).args(["replicate", "--once", "--json", "--mode", "pull", "--"]).args(remote).end();
    assert_eq!(ended.printed.json()[0]["unsent_by_mode"], 2, "{}", ended.printed.stderr);
}
