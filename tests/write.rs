//! `write`: stores change lines. `read | write` copies a log; `heads`, `read --since-heads` and `write` sync two logs.

use std::path::{Path, PathBuf};

use crate::harness::{Place, Run, append, assert_equal, hashed, heads, read, root, shell};

/// Log alice with every kind of entry, of two peers, with one entry deleted.
fn varied(place: &Place) -> PathBuf {
    let log = place.log("alice");
    append(&log, "{\"a\": 1}\n[1 ,2]\n");
    Run::new(&log).args(["append", "--raw"]).stdin((0..=255).collect::<Vec<u8>>()).success();
    Run::new(&log).args(["append", "--raw"]).stdin("").success();
    Run::new(&log).args(["write"]).stdin("{\"peer\":\"é \\\"\\u001b\",\"seq\":1,\"text\":\"one\\ntwo\"}\n").success();
    append(&log, "{\"delete\":\"me\"}\n");
    append(&log, (0..3000).map(|n| format!("{n}\n")).collect::<String>());
    Run::new(&log).args(["del", "alice", "5"]).success();
    log
}

fn pipe(from: &Path, to: &Path, line: &str) -> Run {
    shell(line).env("FROM", from).env("TO", to)
}

#[test]
fn read_into_write_copies_a_log_exactly() {
    let place = Place::new();
    let (from, to) = (varied(&place), place.log("bob"));
    for options in ["", "--text", "--raw"] {
        let line = format!("$scuttleup --log \"$FROM\" read {options} | $scuttleup --log \"$TO\" write");
        // The second and third time, all entries are known already: this is not an error.
        pipe(&from, &to, &line).stdout("").stderr("").success();
        assert_equal(&from, &to);
        assert_eq!(read(&from), read(&to));
    }
    for seq in ["1", "2", "3", "4"] {
        let entry = |log| Run::new(log).args(["entry", "alice", seq, "--raw"]).success().stdout;
        assert_eq!(entry(&from), entry(&to));
    }
}

#[test]
fn heads_and_change_lines_sync_in_both_directions() {
    let place = Place::new();
    let (alice, bob) = (varied(&place), place.log("bob"));
    append(&bob, "\"of bob\"\n");
    let line =
        "$scuttleup --log \"$TO\" heads | $scuttleup -q --log \"$FROM\" read --since-heads - | $scuttleup --log \"$TO\" write";
    for round in 0..3 {
        pipe(&alice, &bob, line).stdout("").stderr("").success();
        pipe(&bob, &alice, line).stdout("").stderr("").success();
        assert_equal(&alice, &bob);
        let nothing = "$scuttleup --log \"$TO\" heads | $scuttleup --log \"$FROM\" read --since-heads -";
        pipe(&alice, &bob, nothing).stdout("").success();
        append(&alice, format!("{round}\n"));
        append(&bob, format!("{round}\n{round}\n"));
    }
}

#[test]
fn files_carry_a_sync() {
    let place = Place::new();
    let (alice, bob) = (varied(&place), place.log("bob"));
    append(&bob, "1\n2\n");
    let stick = place.path("stick");
    // The heads of bob go to alice, and the changes of alice go back to bob.
    let there = "$scuttleup --log \"$TO\" heads > \"$STICK\"";
    let back = "$scuttleup -q --log \"$FROM\" read --since-heads \"$STICK\" > \"$STICK.changes\"";
    let home = "$scuttleup --log \"$TO\" write < \"$STICK.changes\"";
    for (from, to) in [(&alice, &bob), (&bob, &alice)] {
        for line in [there, back, home] {
            pipe(from, to, line).env("STICK", &stick).stdout("").stderr("").success();
        }
    }
    assert_equal(&alice, &bob);
}

#[test]
fn a_live_pipe_copies_as_entries_arrive() {
    let place = Place::new();
    let (alice, bob) = (place.log("alice"), place.log("bob"));
    append(&alice, "1\n");
    let running =
        pipe(&alice, &bob, "$scuttleup --log \"$FROM\" read --live | sed -u 20q | $scuttleup --log \"$TO\" write").spawn();
    let mut watching = Run::new(&bob).args(["read", "--live"]).spawn();
    for seq in 2..=20 {
        append(&alice, format!("{seq}\n"));
    }
    for seq in 1..=20 {
        assert_eq!(watching.line(), hashed(&format!("{{\"offset\":{seq},\"peer\":\"alice\",\"seq\":{seq},\"entry\":{seq}}}\n")));
    }
    assert_equal(&alice, &bob);
    // The copy ends by itself after line 20: `read --live` sees that `sed` has ended without a new entry.
    assert_eq!(running.finish().status.code(), Some(0));
}

#[test]
fn offsets_and_unknown_fields_are_ignored_and_fields_may_be_in_any_order() {
    let place = Place::new();
    let log = place.log("alice");
    let lines = "{\"offset\":99,\"peer\":\"p\",\"seq\":1,\"entry\": {\"a\":1} }\n\
                 \r\n\
                 {\"text\":\"two\",\"seq\":2,\"x\":[{\"peer\":0}],\"peer\":\"p\"}\r\n\
                 \t{ \"base64\" : \"dGhyZWU=\" , \"seq\" : 3 , \"peer\" : \"\\u0070\" }";
    Run::new(&log).args(["write"]).stdin(lines).stdout("").stderr("").success();
    let expected = hashed(
        "{\"offset\":1,\"peer\":\"p\",\"seq\":1,\"entry\":{\"a\":1}}\n\
                    {\"offset\":2,\"peer\":\"p\",\"seq\":2,\"text\":\"two\"}\n\
                    {\"offset\":3,\"peer\":\"p\",\"seq\":3,\"text\":\"three\"}\n",
    );
    assert_eq!(read(&log), expected);
}

#[test]
fn a_line_that_does_not_match_its_hash_is_refused() {
    let place = Place::new();
    let (a, b) = (place.log("alice"), place.log("bob"));
    append(&a, "1\n{\"temp\": 21.50}\n3\n");
    // jq rewrites the number and the white space.
    let rewritten = read(&a).replace("{\"temp\": 21.50}", "{\"temp\":21.5}");
    let refused = Run::new(&b).args(["write"]).stdin(&rewritten).stdout("");
    refused.stderr_has("line 2: entry 2 of alice does not match its hash in the line").stderr_has("read --raw").status(7);
    assert_eq!(heads(&b).last().map(String::as_str), Some("{\"peer\":\"alice\",\"seq\":1}"), "the line before it is stored");
    Run::new(&b).args(["write"]).stdin(read(&a)).stderr("").success();
    assert_equal(&a, &b);
}

#[test]
fn a_byte_order_mark_before_the_first_line_is_skipped() {
    let place = Place::new();
    let log = place.log("alice");
    Run::new(&log).args(["write"]).stdin("\u{feff}{\"peer\":\"p\",\"seq\":1,\"entry\":1}\n").stderr("").success();
    Run::new(&log).args(["entry", "p", "1", "--raw"]).stdout("1").success();
}

#[test]
fn the_same_bytes_under_any_key_are_the_same_entry() {
    let place = Place::new();
    let log = place.log("alice");
    let line = |payload: &str| format!("{{\"peer\":\"p\",\"seq\":1,{payload}}}\n");
    let deleted = "\"deleted\":true,\"hash\":\"c5e3762ffc8453c6\",\"bytes\":7";
    for payload in ["\"entry\":{\"a\":1}", "\"text\":\"{\\\"a\\\":1}\"", "\"base64\":\"eyJhIjoxfQ==\"", deleted] {
        Run::new(&log).args(["write"]).stdin(line(payload)).stderr("").success();
        assert_eq!(read(&log), hashed("{\"offset\":1,\"peer\":\"p\",\"seq\":1,\"entry\":{\"a\":1}}\n"));
    }
}

#[test]
fn other_bytes_for_a_known_entry_are_a_fork() {
    let place = Place::new();
    let log = place.log("alice");
    Run::new(&log).args(["write"]).stdin("{\"peer\":\"p\",\"seq\":1,\"entry\":1}\n").success();
    let lines = "{\"peer\":\"q\",\"seq\":1,\"entry\":1}\n\
                 {\"peer\":\"p\",\"seq\":1,\"entry\":2}\n\
                 {\"peer\":\"p\",\"seq\":2,\"entry\":2}\n\
                 {\"peer\":\"q\",\"seq\":2,\"entry\":2}\n";
    for other in [
        lines.to_owned(),
        lines.replace("\"entry\":2}", "\"deleted\":true,\"hash\":\"00\",\"bytes\":1}").replace("00", &"0".repeat(16)),
    ] {
        let fork =
            Run::new(&log).args(["write"]).stdin(other).stdout("").stderr_has("scuttleup: line 2: fork: entry 1 of p ").status(4);
        assert_eq!(fork.stderr.matches("of p ").count(), 1, "{}", fork.stderr);
        Run::new(&log).args(["entry", "p", "1", "--raw"]).stdout("1").success();
        // The feed is stopped; the other feeds go on.
        assert_eq!(heads(&log), ["{\"peer\":\"p\",\"seq\":1}", "{\"peer\":\"q\",\"seq\":2}"]);
    }
}

#[test]
fn a_gap_stops_its_feed_only() {
    let place = Place::new();
    let log = place.log("alice");
    let lines = "{\"peer\":\"p\",\"seq\":1,\"entry\":1}\n\
                 {\"peer\":\"p\",\"seq\":3,\"entry\":3}\n\
                 {\"peer\":\"q\",\"seq\":1,\"entry\":1}\n\
                 {\"peer\":\"p\",\"seq\":4,\"entry\":4}\n\
                 {\"peer\":\"r\",\"seq\":2,\"entry\":2}\n";
    let gap = Run::new(&log).args(["write"]).stdin(lines).stdout("");
    let said = gap
        .stderr_has("scuttleup: line 2: gap: entry 3 of p does not follow entry 1 of this log")
        .stderr_has("line 5: gap: entry 2 of r ")
        .status(3);
    assert_eq!(said.stderr.matches('\n').count(), 2, "{}", said.stderr);
    assert_eq!(read(&log).lines().count(), 2);
    // A feed without entries has no head.
    assert!(!heads(&log).iter().any(|head| head.contains("\"r\"")));
    Run::new(&log)
        .args(["write"])
        .stdin("{\"peer\":\"p\",\"seq\":2,\"entry\":2}\n{\"peer\":\"p\",\"seq\":3,\"entry\":3}\n")
        .success();
    assert_eq!(read(&log).lines().count(), 4);
}

#[test]
fn a_fork_found_by_write_is_marked_permanently() {
    let place = Place::new();
    let log = place.log("own");
    let longest = "é".repeat(127) + "x";
    let line = |peer: &str, seq: u32, text: &str| format!("{{\"peer\":\"{peer}\",\"seq\":{seq},\"text\":\"{text}\"}}\n");
    let feed = |peer: &str| (1..=5).map(|seq| line(peer, seq, "here")).collect::<String>();
    Run::new(&log).args(["write"]).stdin(["own", "a", "fork", &longest].map(feed).concat()).success();
    let (before, unmarked, lines) = (root(&log), Run::new(&log).args(["heads"]).success(), read(&log));
    assert!(!unmarked.text().contains("\"fork\":"), "{}", unmarked.text());
    for (peer, seq) in [("own", 2), (longest.as_str(), 5), ("a", 3), ("a", 4)] {
        // The mark is stored although no entry is new.
        Run::new(&log).args(["write"]).stdin(line(peer, seq, "there")).stderr_has("fork: entry").status(4);
    }
    let marked = format!(
        "{{\"peer\":\"a\",\"seq\":5,\"fork\":true}}\n{{\"peer\":\"fork\",\"seq\":5}}\n\
         {{\"peer\":\"own\",\"seq\":5,\"fork\":true}}\n{{\"peer\":\"{longest}\",\"seq\":5,\"fork\":true}}\n"
    );
    for _ in 0..2 {
        Run::new(&log).args(["heads"]).stdout(&marked).stderr("").success();
        assert_eq!(Run::new(&log).args(["info"]).success().json()[0]["forks"], 3);
        assert_eq!((root(&log), read(&log)), (before.clone(), lines.clone()));
        // Known entries do not change a mark.
        Run::new(&log).args(["write"]).stdin(feed("a")).success();
    }
    // `read --since-heads` accepts marked heads.
    let heads = place.file("heads", &marked);
    Run::new(&log).args(["read", "--since-heads"]).args([heads]).stdout("").success();
}

/// Two copies of a log are appended to. The fork is found by `write` and by `replicate`; each gives the log a new id.
#[test]
fn a_fork_of_the_local_feed_gives_the_log_a_new_id() {
    for way in [
        "$scuttleup --log \"$LOG.copy\" read | $scuttleup --log \"$LOG\" write",
        "$scuttleup --log \"$LOG\" replicate --once -- $scuttleup -q --log \"$LOG.copy\" replicate",
    ] {
        let place = Place::new();
        let log = place.log("carol");
        append(&log, "1\n2\n");
        let copy = "cp -r \"$LOG\" \"$LOG.copy\"; $scuttleup --log \"$LOG.copy\" id --keep >&2; echo '\"left\"' | $scuttleup --log \"$LOG\" append; \
                    echo '\"right\"' | $scuttleup --log \"$LOG.copy\" append; ";
        let printed = shell(&[copy, way].concat()).env("LOG", &log).stderr_has("fork: entry 3 of carol").status(4);
        let id = Run::new(&log).args(["id"]).success().text().trim().to_owned();
        let said = format!("new entries go to the feed of the new id {id}\n");
        assert!(id != "carol" && printed.stderr.contains(&said), "{way}: {}", printed.stderr);
        let ack = format!("{{\"peer\":\"{id}\",\"seq\":1}}\n");
        Run::new(&log).args(["append", "--ack"]).stdin("5\n").stdout(ack).success();
        Run::new(&log).args(["entry", "carol", "3", "--raw"]).stdout("\"left\"").success();
    }
}

#[test]
fn bad_lines_are_reported_and_earlier_lines_are_stored() {
    let good = "{\"peer\":\"p\",\"seq\":1,\"entry\":1}\n\n";
    let place = Place::new();
    for (number, bad) in [
        "x",
        "[]",
        "{}",
        "{\"peer\":\"p\",\"seq\":2}",
        "{\"peer\":\"p\",\"seq\":0,\"entry\":2}",
        "{\"peer\":\"p\",\"seq\":4294967296,\"entry\":2}",
        "{\"peer\":\"p\",\"seq\":\"2\",\"entry\":2}",
        "{\"peer\":\"\",\"seq\":2,\"entry\":2}",
        "{\"peer\":7,\"seq\":2,\"entry\":2}",
        "{\"peer\":\"p\",\"seq\":2,\"entry\":2,\"text\":\"2\"}",
        "{\"peer\":\"p\",\"seq\":2,\"base64\":\"Mg=\"}",
        "{\"peer\":\"p\",\"seq\":2,\"text\":2}",
        "{\"peer\":\"p\",\"seq\":2,\"deleted\":true}",
        "{\"peer\":\"p\",\"seq\":2,\"deleted\":false}",
        "{\"peer\":\"p\",\"seq\":2,\"deleted\":true,\"hash\":\"xyz\",\"bytes\":1}",
        "{\"peer\":\"p\",\"seq\":2,\"text\":\"\\ud800\"}",
        "{\"peer\":\"p\",\"seq\":2,\"entry\":2}{",
        "{\"peer\":\"p\",\"peer\":\"q\",\"seq\":2,\"entry\":2}",
    ]
    .iter()
    .enumerate()
    {
        let log = place.log(&format!("log{number}"));
        let run = Run::new(&log).args(["write"]).stdin(format!("{good}{bad}\n{{\"peer\":\"p\",\"seq\":2,\"entry\":2}}\n"));
        let said = run
            .stdout("")
            .stderr_has("scuttleup: line 3: ")
            .stderr_has("1 new entry of this input is stored: continue with line 3\n")
            .status(7);
        assert_eq!(said.stderr.matches('\n').count(), 1, "{}", said.stderr);
        assert_eq!(read(&log).lines().count(), 1, "{bad}");
    }
    let log = place.log("log");
    let too_long = format!("{good}{{\"peer\":\"{}\",\"seq\":1,\"entry\":1}}\n", "p".repeat(256));
    Run::new(&log).args(["write"]).stdin(too_long).stderr_has("line 3: ").status(7);
    let over_lines = format!("{good}{{\n  \"peer\": \"p\",\n  \"seq\": 2,\n  \"entry\": 2\n}}\n");
    let said = "line 3: EOF while parsing an object at byte 1: a value must be on one line, `jq -c` does that; ";
    Run::new(&log).args(["write"]).stdin(over_lines).stderr_has(said).status(7);
    let not_utf8 = [good.as_bytes(), b"{\"peer\":\"\xff\",\"seq\":2,\"entry\":1}\n"].concat();
    Run::new(&log).args(["write"]).stdin(not_utf8).stderr_has("line 3: not UTF-8 at byte 10").status(7);
}

#[test]
fn a_log_can_be_restored_from_its_change_lines() {
    let place = Place::new();
    let log = varied(&place);
    let (backup, root_before) = (read(&log), root(&log));
    std::fs::remove_dir_all(&log).expect("it can be removed");
    let log = place.log("alice");
    Run::new(&log).args(["write"]).stdin(backup).success();
    assert_eq!(root(&log), root_before);
    let ack = Run::new(&log).args(["append", "--ack"]).stdin("1\n").success();
    assert_eq!(ack.text(), "{\"peer\":\"alice\",\"seq\":3006}\n");
}
