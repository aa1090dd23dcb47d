//! `scuttleup-kafka` with the mock brokers of librdkafka, which keep messages in memory and know transactions.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::bridges::{bridge, path};
use crate::harness::{Place, Run, Running, append, assert_equal, shell};

/// Three brokers. They end when this value is dropped.
struct Brokers {
    _running: Running,
    addresses: String,
}

impl Brokers {
    fn new() -> Self {
        // kcat waits for messages on stdin, which stays open.
        let line = "exec kcat -P -b none -t none -X test.mock.num.brokers=3 -d mock 2>&1 > /dev/null";
        let mut running = shell(line).spawn();
        let addresses = loop {
            if let Some((_, addresses)) = running.line().trim_end().split_once("bootstrap.servers=") {
                break addresses.to_owned();
            }
        };
        Self { _running: running, addresses }
    }

    /// `scuttleup-kafka BROKERS logs ARGS`
    fn bridge(&self, args: &[&str]) -> Run {
        bridge("kafka").args([self.addresses.as_str(), "logs", "--id", "test"]).args(args).stdout("")
    }

    fn store(&self, lines: &str) -> Run {
        self.bridge(&[]).stdin(lines)
    }

    /// The messages of the topic, each with its key, its value and its partition.
    fn messages(&self) -> Vec<Value> {
        let run = Run::program("kcat").args(["-C", "-b", &self.addresses, "-t", "logs", "-e", "-q", "-J"]);
        run.success()
            .json()
            .into_iter()
            .map(|message| json!([message["key"], message["payload"], message["partition"]]))
            .collect()
    }
}

fn line(peer: &str, seq: u32) -> String {
    format!("{{\"offset\":{seq},\"peer\":{},\"seq\":{seq},\"entry\":{seq}}}\n", json!(peer))
}

fn lines(peer: &str, seqs: std::ops::RangeInclusive<u32>) -> String {
    seqs.map(|seq| line(peer, seq)).collect()
}

#[test]
fn each_feed_goes_to_one_partition_in_order_and_a_repeat_changes_nothing() {
    let brokers = Brokers::new();
    let peers = ["a", "b", "ü\t", "x\ny", "a b"];
    let all = |last| peers.map(|peer| lines(peer, 1..=last)).concat();
    for last in [3, 5, 5] {
        brokers.store(&all(last)).stderr("").success();
        let messages = brokers.messages();
        assert_eq!(messages.len(), peers.len() * last as usize);
        for peer in peers {
            let of_peer: Vec<_> = messages.iter().filter(|message| message[0] == peer).collect();
            let values: Vec<_> = of_peer.iter().map(|message| message[1].as_str().expect("a value").to_owned() + "\n").collect();
            // Without the offset.
            let wanted: Vec<_> = (1..=last).map(|seq| line(peer, seq).replace(&format!("\"offset\":{seq},"), "")).collect();
            assert_eq!(values, wanted);
            assert!(of_peer.iter().all(|message| message[2] == of_peer[0][2]), "{of_peer:?}");
        }
    }
}

#[test]
fn every_kind_of_entry_comes_back_from_a_topic() {
    let (brokers, place) = (Brokers::new(), Place::new());
    let (a, b) = (place.log("a"), place.path("b"));
    append(&a, "{\"n\":1.50}\n2\n");
    Run::new(&a).args(["append", "--raw"]).stdin([0, 10, 255]).success();
    Run::new(&a).args(["append", "--text"]).stdin("text\n").success();
    Run::new(&a).args(["del", "a", "2"]).success();
    let exec = ["exec", "--cursor", "c", "--"];
    Run::new(&a).args(exec).args([path("kafka")]).args([brokers.addresses.as_str(), "logs"]).stderr("").success();
    let values: String =
        brokers.messages().iter().map(|message| format!("{}\n", message[1].as_str().expect("a value"))).collect();
    Run::new(&b).args(["-q", "write"]).stdin(values).success();
    assert_equal(&a, &b);
}

#[test]
fn a_feed_that_is_not_among_the_newest_messages_counts_as_new() {
    let brokers = Brokers::new();
    let peers = (0..20).map(|n| format!("p{n}"));
    brokers.store(&peers.map(|peer| line(&peer, 1)).collect::<String>()).success();
    let messages = brokers.messages();
    let first = messages.iter().find(|message| message[0] == "p0").expect("a message");
    assert!(messages.iter().any(|message| message[2] == first[2] && message[0] != "p0"), "{messages:?}");
    brokers.store(&line("p0", 1)).success();
    assert_eq!(brokers.messages().len(), 20);
    brokers.bridge(&["--look-back", "1"]).stdin(line("p0", 1)).success();
    assert_eq!(brokers.messages().len(), 21);
    brokers.bridge(&["--look-back", "0"]).stderr_has("--look-back is at least 1").status(2);
}

#[test]
fn a_bridge_without_exec_needs_an_id() {
    let run = bridge("kafka").args(["127.0.0.1:1", "logs"]).stdin(line("a", 1)).stdout("");
    run.stderr_has("without `scuttleup exec`, --id is necessary").status(2);
}

#[test]
fn a_line_that_kafka_cannot_take_is_named_and_the_lines_before_it_are_sent() {
    let brokers = Brokers::new();
    let bad = lines("a", 1..=2) + "{\"peer\":\"a\",\"seq\":3}\n" + &line("a", 3);
    let message = "scuttleup-kafka: line 3 is not a change line: it needs one of entry, text, base64, deleted, floor\n";
    brokers.store(&bad).stderr(message).status(7);
    let large = line("a", 3) + &format!("{{\"peer\":\"a\",\"seq\":4,\"text\":\"{}\"}}\n", "x".repeat(1_000_000));
    let message = "line 2: a/4 has 1000030 bytes, too many for message.max.bytes 1000000: raise it with -X, and in the topic\n";
    brokers.store(&large).stderr(&format!("scuttleup-kafka: {message}")).status(7);
    assert_eq!(brokers.messages().len(), 3);
    brokers.bridge(&["-X", "message.max.bytes=2000000"]).stdin(&large).stderr("").success();
    assert_eq!(brokers.messages().len(), 4);
    brokers.bridge(&["-X", "no.such=1"]).stderr_has("ERROR: No such configuration property: \"no.such\"").status(1);
}

/// kcat gets its messages from a file, so the end of the bridge is no end of a message.
#[test]
fn a_bridge_that_is_killed_while_it_sends_leaves_no_part_of_a_line() {
    let (brokers, place) = (Brokers::new(), Place::new());
    let log = place.log("a");
    append(&log, (1..=5000).map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", "x".repeat(500))).collect::<String>());
    // In the first attempts of the first batch, the first kcat with messages ends what is left of an attempt. The second one kills its
    // bridge and sends.
    fs::create_dir(place.path("bin")).expect("a directory");
    let kcat = place.file(
        "bin/kcat",
        r#"#!/bin/sh
        case "$SCUTTLEUP_BATCH $SCUTTLEUP_ATTEMPT $*" in
        a:1-*\ [1-3]\ *murmur2*) mkdir "$PLACE/$SCUTTLEUP_ATTEMPT" 2> /dev/null || { echo killed >> "$PLACE/kills"; kill -9 $PPID; } ;;
        esac
        PATH=$REAL_PATH
        exec kcat "$@""#,
    );
    fs::set_permissions(&kcat, fs::Permissions::from_mode(0o755)).expect("a program");
    let real_path = std::env::var("PATH").expect("a search path");
    let path_with_it = format!("{}:{real_path}", place.path("bin").display());
    let exec = ["-q", "exec", "--cursor", "c", "--batch", "5000", "--retry", "--"];
    let run = Run::new(&log).args(exec).args([path("kafka")]).args([brokers.addresses.as_str(), "logs"]);
    run.env("PATH", path_with_it).env("REAL_PATH", real_path).env("PLACE", place.path("")).success();
    assert!(fs::read_to_string(place.path("kills")).expect("a kill").starts_with("killed\n"));
    let messages = brokers.messages();
    let values = messages.iter().map(|message| message[1].as_str().expect("a value"));
    let values = values.map(|value| serde_json::from_str::<Value>(value).unwrap_or_else(|err| panic!("{err}: {value}")));
    let seqs: Vec<_> = values.map(|value| value["seq"].as_u64().expect("a seq")).collect();
    assert_eq!(seqs, (1..=5000).collect::<Vec<u64>>());
}
