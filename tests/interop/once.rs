//! One-shot sessions with the fixed original; every entry is counted.

use std::path::Path;

use data_encoding::BASE64;

use super::super::harness::{Place, Run, assert_equal, heads};
use super::tap::Tap;
use super::{Entries, MODES, Original, assert_same, entries, lines, log_of, script, sends, sync, sync_in_modes};

/// Appends entries of arbitrary bytes.
fn append_raw(theirs: &Original, entries: &[Vec<u8>]) {
    let lines: String = entries.iter().map(|entry| BASE64.encode(entry) + "\n").collect();
    theirs.run(["append", "--base64", "--id", theirs.id()]).stdin(lines).success();
}

fn odd_entries() -> Vec<Vec<u8>> {
    vec![
        Vec::new(),
        b"0".to_vec(),
        (0..=255).collect(),
        b"\xff\xfe not UTF-8 \xc3".to_vec(),
        b"two\nlines\r\n".to_vec(),
        b"{\"json\": [1, 2.50, 1e400]}".to_vec(),
        "grüße 🎉 \u{2028}".into(),
        vec![0xff; 1 << 20],
        b"the last".to_vec(),
    ]
}

#[test]
fn both_ways_at_once() {
    let place = Place::new();
    let (ours, theirs) = (log_of(&place, "ours", lines("ours", 5_000)), Original::new(&place, "theirs"));
    theirs.append(lines("theirs", 5_000));
    sync(&ours, &theirs).stderr_has("synced with theirs: sent 5000, received 5000").success();
    assert_same(&ours, &theirs, 10_000);
    sync(&ours, &theirs).stderr_has("sent 0, received 0").success();
    // Only new entries are sent.
    theirs.append("one more\n");
    Run::new(&ours).args(["append", "--text"]).stdin("and one\nand two\n").success();
    sync(&ours, &theirs).stderr_has("sent 2, received 1").success();
    assert_same(&ours, &theirs, 10_003);
}

#[test]
fn a_comparison_shows_the_heads_of_the_original_and_moves_nothing() {
    let place = Place::new();
    let (ours, theirs) = (log_of(&place, "ours", lines("ours", 5)), Original::new(&place, "theirs"));
    theirs.append(lines("theirs", 3_000));
    let compare = || Run::new(&ours).args(["-q", "compare", "--"]).args(theirs.command(["replicate", "--id", theirs.id()]));
    for _ in 0..2 {
        let printed = compare().stderr("").status(3);
        let expected = [r#"{"peer":"theirs","local":0,"remote":3000}"#, r#"{"peer":"ours","local":5,"remote":0}"#];
        assert_eq!(printed.lines()[..2], expected);
        assert!(printed.text().contains(r#""compared":"heads","wire":"original""#), "{}", printed.text());
    }
    assert_eq!((heads(&ours).len(), theirs.entries().len()), (1, 3_000));
    sync(&ours, &theirs).success();
    compare().stderr("").success();
}

#[test]
fn a_partial_session_moves_only_the_selected_feeds() {
    let place = Place::new();
    let (ours, theirs) = (log_of(&place, "ours", lines("ours", 5)), Original::new(&place, "theirs"));
    theirs.append(lines("theirs", 30));
    let third = log_of(&place, "third", lines("third", 7));
    sync(&third, &theirs).success();
    let partial = |glob: &str| {
        let run = Run::new(&ours).args(["replicate", "--once", "--json", "--peer", glob, "--"]);
        run.args(theirs.command(["replicate", "--id", theirs.id()])).success().json().remove(0)
    };
    let report = partial("third");
    let counts = |report: &serde_json::Value| ["sent", "received", "ignored", "missing"].map(|name| report[name].as_u64());
    assert_eq!(counts(&report), [0, 7, 30, 0].map(Some));
    assert_eq!(heads(&ours).len(), 2);
    // The side announces the entries that it has received, so that they do not come again.
    theirs.append("one more\n");
    assert_eq!(counts(&partial("o*")), [5, 0, 31, 0].map(Some));
    assert_eq!(theirs.entries().len(), 43);
}

#[test]
fn receive_100_000_entries() {
    let place = Place::new();
    let (ours, theirs) = (place.log("ours"), Original::new(&place, "theirs"));
    theirs.append(lines("theirs", 100_000));
    sync(&ours, &theirs).stderr_has("sent 0, received 100000").success();
    assert_same(&ours, &theirs, 100_000);
}

#[test]
fn send_100_000_entries() {
    let place = Place::new();
    let (ours, theirs) = (log_of(&place, "ours", lines("ours", 100_000)), Original::new(&place, "theirs"));
    sync(&ours, &theirs).stderr_has("sent 100000, received 0").success();
    assert_same(&ours, &theirs, 100_000);
}

#[test]
fn empty_logs() {
    let place = Place::new();
    let (ours, theirs) = (place.log("ours"), Original::new(&place, "theirs"));
    sync(&ours, &theirs).stderr_has("synced with theirs: sent 0, received 0").success();
    assert_same(&ours, &theirs, 0);
}

#[test]
fn all_mode_pairs() {
    for our_mode in MODES {
        for their_mode in MODES {
            let place = Place::new();
            let (ours, theirs) = (log_of(&place, "ours", "1\n2\n"), Original::new(&place, "theirs"));
            theirs.append("1\n2\n3\n");
            let sent = if sends(our_mode, their_mode) { 2 } else { 0 };
            let received = if sends(their_mode, our_mode) { 3 } else { 0 };
            let (said, code) = match (sent > 0, received > 0) {
                (true, true) => (format!("synced with theirs: sent {sent}, received {received}\n"), 0),
                (true, false) if our_mode == "sync" => (format!("pushed to theirs: sent {sent}, but 3 entries of the remote"), 6),
                (true, false) => (format!("pushed to theirs: sent {sent}\n"), 0),
                (false, true) if our_mode == "sync" => (format!("pulled from theirs: received {received}, but 2 local"), 6),
                (false, true) => (format!("pulled from theirs: received {received}\n"), 0),
                (false, false) => ("no entry moved to or from theirs, but ".to_owned(), 6),
            };
            sync_in_modes(&ours, our_mode, &theirs, their_mode).stderr_has(&said).status(code);
            assert_eq!(entries(&ours).len(), 2 + received, "local, {our_mode} with {their_mode} of the original");
            assert_eq!(theirs.entries().len(), 3 + sent, "original, {our_mode} with {their_mode} of the original");
        }
    }
}

#[test]
fn every_byte_value() {
    let place = Place::new();
    let (ours, theirs) = (place.log("ours"), Original::new(&place, "theirs"));
    append_raw(&theirs, &odd_entries());
    for entry in odd_entries() {
        // With -0, an empty stdin appends nothing.
        if entry.is_empty() {
            Run::new(&ours).args(["append", "--raw", "-0"]).stdin("\0").success();
        } else {
            Run::new(&ours).args(["append", "--raw"]).stdin(entry).success();
        }
    }
    sync(&ours, &theirs).success();
    assert_same(&ours, &theirs, 2 * odd_entries().len());
    for peer in ["ours", "theirs"] {
        for (seq, entry) in (1..).zip(odd_entries()) {
            let printed = Run::new(&ours).args(["entry", peer, &format!("{seq}"), "--raw"]).success();
            assert!(printed.stdout == entry, "{peer} {seq}");
        }
    }
}

/// With valueEncoding utf-8 the entries of the original are strings.
#[test]
fn utf8_values() {
    let place = Place::new();
    let (ours, theirs) = (log_of(&place, "ours", "grüße\n"), Original::new(&place, "theirs"));
    theirs.run(["append", "--utf8", "--id", "theirs"]).stdin("日本 🎉\n{\"a\":1}\n").success();
    sync(&ours, &theirs).success();
    let printed = Run::new(&ours).args(["read", "--peer", "theirs"]).success();
    assert_eq!(printed.json()[0]["text"], "日本 🎉");
    assert_eq!(printed.json()[1]["entry"]["a"], 1);
    let theirs: Entries = theirs
        .run(["read", "--utf8"])
        .success()
        .json()
        .iter()
        .map(|line| (line["peer"].to_string(), line["seq"].as_u64().expect("a seq"), line["base64"].to_string()))
        .collect();
    assert!(theirs.contains(&("\"ours\"".into(), 1, format!("\"{}\"", BASE64.encode("grüße".as_bytes())))), "{theirs:?}");
}

/// Entries pass through logs of the original and through logs under test.
#[test]
fn over_many_hops() {
    let place = Place::new();
    let (alice, bob) = (log_of(&place, "alice", "a1\na2\n"), log_of(&place, "bob", "b1\n"));
    let (jack, jill) = (Original::new(&place, "jack"), Original::new(&place, "jill"));
    jack.append("k1\nk2\nk3\n");
    jill.append("l1\n");
    // alice ↔ jack ↔ bob ↔ jill ↔ alice
    sync(&alice, &jack).success();
    sync(&bob, &jack).stderr_has("sent 1, received 5").success();
    sync(&bob, &jill).stderr_has("sent 6, received 1").success();
    sync(&alice, &jill).stderr_has("sent 0, received 2").success();
    assert_equal(&alice, &bob);
    assert_same(&alice, &jill, 7);
    sync(&bob, &jack).stderr_has("sent 1, received 0").success();
    assert_same(&bob, &jack, 7);
    let its_heads = jack.run(["heads"]).success();
    assert_eq!(its_heads.lines(), heads(&bob));
}

/// The original starts `replicate --once` as its child, as a server does for a connection.
#[test]
fn the_original_starts_replicate() {
    let place = Place::new();
    let (ours, theirs) = (log_of(&place, "ours", lines("ours", 300)), Original::new(&place, "theirs"));
    theirs.append(lines("theirs", 200));
    let (inward, outward) = (place.path("in"), place.path("out"));
    let line = "tee \"$2\" | \"$scuttleup\" --log \"$1\" replicate --once | tee \"$3\"";
    let replicate = ["replicate", "--"].map(Into::into).into_iter().chain(script(line, &[&ours, &inward, &outward]));
    // The stdin of the original stays open: the session must end by itself.
    let mut session = theirs.run(replicate).spawn();
    let ended = session.wait();
    assert!(ended.printed.text().contains("{\"exit\":0}"), "{} {}", ended.printed.text(), ended.printed.stderr);
    assert_taps(&inward, &outward, 200, 300);
    assert_same(&ours, &theirs, 500);
}

fn assert_taps(inward: &Path, outward: &Path, theirs: u64, ours: u64) {
    let (inward, outward) = (Tap::read(inward), Tap::read(outward));
    assert_eq!((inward.id.as_str(), outward.id.as_str()), ("theirs", "ours"));
    inward.assert_only("theirs", theirs);
    outward.assert_only("ours", ours);
}
