//! `scuttleup-nats` with real servers. Each test starts its own ones.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bridges::{bridge, kills, python};
use crate::exec::until;
use crate::harness::{Place, Run, Running, SCUTTLEUP, append, assert_equal, heads, read, shell};

/// A server with JetStream on a free port. It ends when this value is dropped.
struct Server {
    place: Place,
    _running: Running,
    url: String,
}

impl Server {
    fn new(options: &[&str]) -> Self {
        let place = Place::new();
        let run = Run::program("nats-server").args(["-a", "127.0.0.1", "-p", "-1", "-js", "-sd"]).args([place.path("js")]);
        let running = run.args(["--ports_file_dir"]).args([place.path(".")]).args(options).spawn();
        let ports = place.path(&format!("nats-server_{}.ports", running.pid()));
        // The file is written when the server listens. It is complete when it is JSON.
        let ports = || serde_json::from_slice::<Value>(&fs::read(&ports).ok()?).ok();
        until(|| ports().is_some());
        let url = ports().expect("the ports")["nats"][0].as_str().expect("a URL").to_owned();
        Self { place, _running: running, url }
    }

    /// `scuttleup-nats URL S ARGS`
    fn bridge(&self, args: &[&str]) -> Run {
        bridge("nats").env("PYTHONPATH", python()).args([self.url.as_str(), "S", "--replicas", "1"]).args(args)
    }

    fn publish(&self, lines: &str) -> Run {
        self.bridge(&[]).stdin(lines).stdout("")
    }

    fn client(&self, args: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bridges/nats-client");
        let run = Run::program("python3").env("PYTHONPATH", python()).args([script, self.url.as_str()]).args(args);
        run.success().text().to_owned()
    }

    /// The messages of the stream: position, subject, id, data.
    fn messages(&self) -> Vec<Value> {
        self.client(&["messages", "S"]).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// `scuttleup-nats URL S --follow CONSUMER OPTIONS | scuttleup --log LOG write`, with the messages of both.
    fn follow(&self, log: &Path, consumer: &str, options: &str) -> Run {
        let line = format!(r#"scuttleup-nats "$URL" S --follow {consumer} {options} | "$scuttleup" write"#);
        shell(&line).env("URL", &self.url).env("SCUTTLEUP_LOG", log).env("PATH", search_path()).env("PYTHONPATH", python())
    }
}

/// The directories of the bridges and of the binary, and those of PATH.
fn search_path() -> std::ffi::OsString {
    let own = [bridge_dir(), Path::new(SCUTTLEUP).parent().expect("a directory").to_owned()];
    let others = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&others))).expect("a search path")
}

fn bridge_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bridges")
}

fn line(peer: &str, seq: u32, payload: &str) -> String {
    format!("{{\"peer\":{},\"seq\":{seq},{payload}}}\n", json!(peer))
}

fn lines(seqs: std::ops::RangeInclusive<u32>) -> String {
    seqs.map(|seq| line("a", seq, &format!("\"entry\":{seq}"))).collect()
}

#[test]
fn every_kind_of_line_goes_to_the_subject_of_its_feed_and_comes_back() {
    let server = Server::new(&[]);
    let (a, b) = (server.place.log("a"), server.place.log("b"));
    append(&a, "{\"n\":1}\n2\n");
    Run::new(&a).args(["append", "--raw"]).stdin([0, 255]).success();
    Run::new(&a).args(["append", "--raw"]).stdin("").success();
    Run::new(&a).args(["append", "--text"]).stdin("text\n").success();
    Run::new(&a).args(["del", "a", "2"]).success();
    // The ids " x" and "x" are two feeds, although a header has no white space around it.
    let odd = ["x", " x", "\u{2003}x", "x\n\t%", "ü/1", "%20x"];
    let written: String = odd.iter().map(|peer| line(peer, 1, "\"entry\":{\"a\": [1.50]}")).collect();
    Run::new(&a).args(["write"]).stdin(&written).success();
    Run::new(&a)
        .args(["exec", "--cursor", "c", "--"])
        .args([bridge_dir().join("scuttleup-nats")])
        .args([server.url.as_str(), "S", "--replicas", "1"])
        .env("PYTHONPATH", python())
        .stderr("")
        .success();
    let messages = server.messages();
    assert_eq!(messages.len(), 11);
    // The base32 of "a" is ME======.
    let first = r#"{"peer":"a","seq":1,"entry":{"n":1},"hash":"#;
    assert_eq!((&messages[0][1], &messages[0][2]), (&json!("S.ME"), &json!("a/1")));
    assert!(messages[0][3].as_str().is_some_and(|data| data.starts_with(first)), "{messages:?}");
    let ids: Vec<_> = messages.iter().map(|message| message[2].as_str().expect("an id")).collect();
    for id in ["x/1", "%20x/1", "%E2%80%83x/1", "x%0A%09%25/1", "ü/1/1", "%2520x/1"] {
        assert!(ids.contains(&id), "{id} of {ids:?}");
    }
    server.follow(&b, "b", "--once").stderr("").success();
    assert_equal(&a, &b);
    assert_eq!(read(&a).lines().count(), read(&b).lines().count());
    // All of it is acknowledged.
    server
        .bridge(&["--follow", "b", "--once"])
        .env("SCUTTLEUP_LOG", &b)
        .env("PATH", search_path())
        .stdout("")
        .stderr("")
        .success();
}

#[test]
fn a_repeat_changes_nothing_also_when_the_server_has_forgotten_the_ids() {
    let server = Server::new(&[]);
    // 100 ms is the shortest time for which a server remembers ids.
    server.client(&["create", r#"{"name":"S","subjects":["S.>"],"storage":"file","duplicate_window":100000000}"#]);
    for last in [5, 7, 7] {
        server.publish(&lines(1..=last)).stderr("").success();
        assert_eq!(server.messages().len(), last as usize);
    }
    server.publish(&lines(3..=8)).stderr("").success();
    assert_eq!(server.messages().len(), 8);
    // Messages that a limit of the stream has removed do not come back, as long as one of the feed is there.
    server.client(&["remove", "S", "8"]);
    server.publish(&lines(1..=9)).stderr("").success();
    let ids: Vec<_> = server.messages().iter().map(|message| message[2].clone()).collect();
    assert_eq!(ids, ["a/8", "a/9"]);
}

#[test]
fn a_line_that_cannot_be_published_is_named_and_the_lines_before_it_are_stored() {
    let server = Server::new(&[]);
    let bad = lines(1..=2) + "{\"peer\":\"a\",\"seq\":3}\n" + &lines(3..=3);
    let message = "scuttleup-nats: line 3 is not a change line: it needs one of entry, text, base64, deleted, floor\n";
    server.publish(&bad).stderr(message).status(7);
    assert_eq!(server.messages().len(), 2);
    let gap = "scuttleup-nats: line 2: a/5 does not follow 3, the last one in the stream S: publish the entries between them first, for \
               example after `scuttleup cursor set`, or give --gaps\n";
    server.publish(&(lines(3..=3) + &lines(5..=5))).stderr(gap).status(7);
    server.bridge(&["--gaps"]).stdin(lines(5..=5)).stderr("").success();
    // A floor stands for the entries up to it.
    let floor = "{\"peer\":\"a\",\"seq\":8,\"floor\":true,\"chain\":\"00000000000000000000000000000000\"}\n";
    server.publish(&(floor.to_owned() + &lines(9..=9))).stderr("").success();
    assert_eq!(server.messages().len(), 6);
    // The newest entry has other bytes.
    let known = line("b", 1, "\"entry\":1,\"hash\":\"0000000000000001\"");
    server.publish(&known).success();
    server.publish(&known).success();
    let fork = line("b", 1, "\"entry\":2,\"hash\":\"0000000000000002\"");
    server.publish(&fork).stderr_has("line 1: b/1 has other bytes in the stream S: a fork").status(4);
}

#[test]
fn an_entry_above_the_limit_of_the_server_can_be_set_aside() {
    let server = Server::new(&[]);
    let log = server.place.log("a");
    append(&log, format!("1\n\"{}\"\n3\n", "x".repeat(2_000_000)));
    let dead = server.place.path("dead");
    let exec = ["exec", "--cursor", "c", "--retry", "1", "--dead-letter"];
    let run = Run::new(&log).args(exec).args([&dead]).args(["--", "scuttleup-nats", server.url.as_str(), "S", "--gaps"]);
    let run = run.env("PATH", search_path()).env("PYTHONPATH", python());
    run.stderr_has("a/2 has 2000057 bytes, too many for max_payload 1048576 of the server").success();
    let ids: Vec<_> = server.messages().iter().map(|message| message[2].clone()).collect();
    assert_eq!(ids, ["a/1", "a/3"]);
    let dead: Value = serde_json::from_str(&fs::read_to_string(dead).expect("a file")).expect("one line");
    assert_eq!((&dead["seq"], &dead["error"]["exit"]), (&2.into(), &7.into()));
}

#[test]
fn a_stream_that_does_not_keep_messages_is_refused() {
    let server = Server::new(&[]);
    server.client(&["create", r#"{"name":"S","subjects":["S.>"],"storage":"memory"}"#]);
    let message = "scuttleup-nats: the stream S does not keep its messages: it needs the storage file, the retention limits, and \
                   acknowledgements\n";
    server.publish(&lines(1..=1)).stderr(message).status(1);
    let nowhere = bridge("nats").env("PYTHONPATH", python()).args(["nats://127.0.0.1:1", "S"]).stdin(lines(1..=1));
    nowhere.stderr_has("scuttleup-nats: cannot connect to nats://127.0.0.1:1: ").status(1);
    bridge("nats").args(["nats://127.0.0.1:1", "a.b"]).stderr_has("a name of a stream").status(2);
}

/// The first connection gets no answer until the bridge closes it. A busy machine or network does the same.
#[test]
fn a_server_that_is_too_slow_gets_a_second_connection() {
    let server = Server::new(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("nats://{}", listener.local_addr().expect("an address"));
    let real = server.url.strip_prefix("nats://").expect("an address").to_owned();
    let accept = move || listener.accept().expect("a connection").0;
    std::thread::spawn(move || {
        let _ = accept().read(&mut [0]);
        let (client, server) = (accept(), TcpStream::connect(real).expect("a connection"));
        let (mut from, mut to) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        std::io::copy(&mut &server, &mut &client)
    });
    let run = bridge("nats").env("PYTHONPATH", python()).args([url.as_str(), "S", "--replicas", "1"]);
    run.stdin(lines(1..=3)).stdout("").stderr("").success();
    assert_eq!(server.messages().len(), 3);
}

/// The reader of the pipe is killed, or prints and stores nothing.
#[test]
fn the_position_of_a_consumer_moves_only_behind_what_the_log_holds() {
    let server = Server::new(&[]);
    server.publish(&lines(1..=500)).success();
    let log = server.place.path("log");
    let reader = |args: &[&str]| server.bridge(args).env("SCUTTLEUP_LOG", &log).env("PATH", search_path());
    let mut reading = reader(&["--follow", "c"]).spawn();
    for _ in 0..500 {
        reading.line();
    }
    reading.signal(Signal::SIGKILL);
    reading.wait();
    assert_eq!(server.client(&["info", "S", "c"]), "0\n");
    // A part of it was stored.
    Run::new(&log).args(["-q", "write"]).stdin(lines(1..=200)).success();
    let mut reading = reader(&["--follow", "c"]).spawn();
    assert_eq!(reading.line(), lines(1..=1));
    until(|| server.client(&["info", "S", "c"]) == "200\n");
    reading.signal(Signal::SIGKILL);
    reading.wait();
    server.follow(&log, "c", "--once").stderr("").success();
    assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":500}"]);
    until(|| server.client(&["info", "S", "c"]) == "500\n");
    reader(&["--follow", "c", "--once"]).stdout("").stderr("").success();
}

#[test]
fn follow_prints_new_messages_at_once_and_ends_with_its_reader() {
    let server = Server::new(&[]);
    let log = server.place.path("log");
    let line = r#"scuttleup-nats "$URL" S --replicas 1 --follow c | sed -u 2q"#;
    let run =
        shell(line).env("URL", &server.url).env("SCUTTLEUP_LOG", &log).env("PATH", search_path()).env("PYTHONPATH", python());
    let mut reading = run.spawn();
    server.publish(&lines(1..=1)).success();
    assert_eq!(reading.line(), lines(1..=1));
    server.publish(&lines(1..=2)).success();
    assert_eq!(reading.line(), lines(2..=2));
    // Nothing more is printed; the bridge notices that sed has ended.
    let ended = reading.wait();
    assert_eq!((ended.status.code(), ended.printed.stderr.as_str()), (Some(0), ""));
}

#[test]
fn messages_that_are_no_change_lines_of_their_subject_are_left_out() {
    let server = Server::new(&[]);
    server.publish(&lines(1..=1)).success();
    for (subject, data) in [("S.ME", "junk"), ("S.ME", "{\"peer\":\"b\",\"seq\":1,\"entry\":1}"), ("S.x", "{}")] {
        server.client(&["publish", subject, data]);
    }
    // The newest message of the feed decides what is published next.
    server.publish(&lines(2..=2)).stderr_has("the message 3 of the stream S is no change line of this feed").status(1);
    server.client(&["publish", "S.ME", lines(2..=2).trim_end()]);
    let log = server.place.path("log");
    let left_out = |place| {
        format!(
            "scuttleup-nats: the message {place} of the stream S is no change line of the feed of its subject: it is left out\n"
        )
    };
    let ended = server.follow(&log, "c", "--once").success();
    assert!((2..=4).all(|place| ended.stderr.contains(&left_out(place))), "{}", ended.stderr);
    assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":2}"]);
}

/// `write` takes none of these lines. It would end at them, again and again.
#[test]
fn a_line_that_write_refuses_stops_no_other_feed() {
    let server = Server::new(&[]);
    server.publish(&lines(1..=1)).success();
    let deep = format!("\"entry\":{}1{}", "[".repeat(3000), "]".repeat(3000));
    let payloads = [
        "\"base64\":\"???\"",
        "\"base64\":\"AB==\"",
        "\"peer\":\"a\",\"entry\":1",
        "\"entry\":NaN",
        "\"entry\":1,\"hash\":\"00\"",
        "\"text\":[]",
        "\"text\":\"\\ud800\"",
        "\"deleted\":true",
        "\"floor\":true",
        &deep,
    ];
    for payload in payloads {
        server.client(&["publish", "S.MI", line("b", 1, payload).trim_end()]);
    }
    server.publish(&lines(2..=2)).success();
    let log = server.place.path("log");
    let ended = server.follow(&log, "c", "--once").success();
    assert_eq!(ended.stderr.matches("it is left out\n").count(), payloads.len(), "{}", ended.stderr);
    assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":2}"]);
}

#[test]
fn a_feed_with_a_gap_stops_no_other_feed_and_goes_on_when_the_gap_is_closed() {
    let server = Server::new(&[]);
    let log = server.place.path("log");
    let feed = |seqs: std::ops::RangeInclusive<u32>| seqs.map(|seq| line("b", seq, "\"entry\":1")).collect::<String>();
    server.bridge(&["--gaps"]).stdin(feed(3..=5)).success();
    let mut following = server.follow(&log, "c", "").spawn();
    until(|| log.join("data.mdb").exists());
    server.publish(&lines(1..=100)).success();
    // Only the feed with the gap waits.
    until(|| server.client(&["pending", "S", "c"]) == "3\n");
    assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":100}"]);
    // After 60 seconds it is stopped, and only its first message has no acknowledgement.
    let started = std::time::Instant::now();
    while server.client(&["pending", "S", "c"]) != "1\n" {
        assert!(started.elapsed().as_secs() < 100, "the feed is not stopped");
    }
    server.publish(&(lines(101..=102) + &feed(6..=6))).success();
    until(|| heads(&log) == ["{\"peer\":\"a\",\"seq\":102}"]);
    Run::new(&log).args(["-q", "write"]).stdin(feed(1..=2)).success();
    let ended = following.wait();
    let message = "b/3 was printed 60 seconds ago and is not in the log";
    assert!(ended.printed.stderr.contains(message), "{}", ended.printed.stderr);
    server.follow(&log, "c", "--once").stderr("").success();
    assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":102}", "{\"peer\":\"b\",\"seq\":6}"]);
}

#[test]
fn a_log_that_was_created_anew_or_restored_gets_all_entries_again() {
    let server = Server::new(&[]);
    let log = server.place.path("log");
    server.publish(&(lines(1..=5) + &line("b", 1, "\"entry\":1"))).success();
    server.follow(&log, "c.~/1", "--once").success();
    // An older state of the log, and then none.
    for before in [lines(1..=3) + &line("b", 1, "\"entry\":1"), String::new()] {
        fs::remove_dir_all(&log).expect("the log is removed");
        Run::new(&log).args(["-q", "write"]).stdin(before).success();
        let message = "was acknowledged by c=2E~=2F1 and is not in the log: the log is new or restored";
        server.follow(&log, "c.~/1", "--once").stderr_has(message).success();
        assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":5}", "{\"peer\":\"b\",\"seq\":1}"]);
    }
    server.follow(&log, "c.~/1", "--once").stderr("").success();
    // Also if each feed goes on meanwhile.
    fs::remove_dir_all(&log).expect("the log is removed");
    server.publish(&(lines(6..=6) + &line("b", 2, "\"entry\":1"))).success();
    server.follow(&log, "c.~/1", "--once").stderr_has("was acknowledged by c=2E~=2F1 and is not in the log").success();
    assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":6}", "{\"peer\":\"b\",\"seq\":2}"]);
}

#[test]
fn a_new_feed_starts_with_its_first_entry_unless_the_stream_has_removed_messages() {
    let server = Server::new(&[]);
    let gap = "scuttleup-nats: line 1: a/6 does not follow 0, the last one in the stream S";
    server.publish(&lines(6..=6)).stderr_has(gap).status(7);
    server.bridge(&["--gaps"]).stdin(lines(6..=6)).stderr("").success();
    assert_eq!(server.messages().len(), 1);
    server.client(&["remove", "S", "2"]);
    server.publish(&line("b", 6, "\"entry\":1")).stderr("").success();
}

#[test]
fn a_password_is_neither_sent_without_tls_nor_printed() {
    let server = Server::new(&["--user", "me", "--pass", "secret"]);
    let address = server.url.rsplit('/').next().expect("an address");
    let url = |scheme: &str, password: &str| format!("{scheme}://me:{password}@{address}");
    let run = |url: String| bridge("nats").env("PYTHONPATH", python()).args([url.as_str(), "S"]).stdin(lines(1..=1));
    run(url("tls", "secret"))
        .stderr(&format!("scuttleup-nats: cannot connect to {address}: the server does not offer TLS\n"))
        .status(1);
    let ended = run(url("nats", "sec/ret")).stderr_has(&format!("cannot connect to {address}: ")).status(1);
    assert!(!ended.stderr.contains("sec"), "{}", ended.stderr);
    run(url("nats", "secret")).success();
}

#[test]
fn a_cluster_stores_each_entry_once_while_bridges_and_servers_are_killed() {
    kills("nats");
}

#[test]
fn one_server_stores_each_entry_once_while_it_and_the_bridge_are_killed() {
    kills("nats1");
}

#[test]
fn the_bench_of_the_hub_finds_the_packages_of_python_in_any_directory() {
    let run = Run::program(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/bench-hub"));
    let run = run.args(["--logs", "2", "--entries", "20", "--rounds", "1", "--program", SCUTTLEUP]).env("PYTHONPATH", "nowhere");
    let printed = run.success().text().to_owned();
    assert!(printed.starts_with("   2 logs: 20 entries in "), "{printed}");
}

#[test]
fn three_logs_that_share_only_a_hub_become_equal_while_everything_is_killed() {
    kills("hub");
}
