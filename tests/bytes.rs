//! Entries of any bytes are stored and returned byte for byte; each is one output line without control characters.

use std::path::Path;
use std::process::Stdio;

use scuttleup::PeerId;

use crate::frames::{PREAMBLE, SYNC, change, handshake};
use crate::harness::{Place, Run, SCUTTLEUP, append, assert_equal, hashed, read, shell};
use crate::native_frames::{error, hello};
use crate::terminal::Terminal;

/// Appends `bytes` as one entry and checks that each output form returns them. Returns the change line.
fn check_round_trip(log: &Path, other: &Path, bytes: &[u8]) -> String {
    let ack = Run::new(log).args(["append", "--raw", "--ack", "--entry-bytes-max", "134217728"]).stdin(bytes).success();
    let seq = ack.json()[0]["seq"].to_string();
    let raw = Run::new(log).args(["entry", "alice", &seq, "--raw"]).success().stdout;
    assert!(raw == bytes, "entry --raw of {} bytes gave {}", bytes.len(), raw.len());
    let mut line = String::new();
    for options in [&["--raw"][..], &["--text"], &[]] {
        let printed = Run::new(log).args(["read", "-n", "1"]).args(options).success();
        assert_eq!(printed.lines().len(), 1);
        assert_eq!(printed.stdout.last(), Some(&b'\n'));
        // No control characters: a terminal would execute them.
        let controls = printed.text().trim_end_matches('\n').chars().filter(char::is_ascii_control).count();
        assert_eq!(controls, 0, "{options:?}");
        // The change line alone restores the entry in another log.
        Run::new(other).args(["write", "--entry-bytes-max", "134217728"]).stdin(&printed.stdout).stdout("").success();
        line = printed.text().to_owned();
    }
    let copied = Run::new(other).args(["entry", "alice", &seq, "--raw"]).success().stdout;
    assert!(copied == bytes, "the copy of {} bytes has {}", bytes.len(), copied.len());
    line
}

/// The payload key of a change line: entry, text or base64.
fn key(line: &str) -> &str {
    line.split('"').nth(9).unwrap_or_default()
}

#[test]
fn every_kind_of_bytes_is_returned_exactly() {
    let place = Place::new();
    let (log, other) = (place.log("alice"), place.log("bob"));
    let all: Vec<u8> = (0..=255).collect();
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let almost_deep = [b"[".repeat(128), b"]".repeat(128)].concat();
    let cases: [(&[u8], &str); 26] = [
        (b"", "base64"),
        (b"a", "text"),
        (b"7", "entry"),
        (b"\0", "text"),
        (b"\xff", "base64"),
        (&all, "base64"),
        (b"two\nlines\n", "text"),
        (b"\r\n", "text"),
        (b"{\"a\":\n1}", "text"),
        (b" {\"a\":1}", "text"),
        (b"{\"a\":1}\n", "text"),
        (b"{ \"a\" :  [ 1 , 2 ]  }", "entry"),
        (b"{\"a\":1,\"a\":2}", "entry"),
        (b"1e400", "entry"),
        (b"-123456789012345678901234567890.123456789012345678901234567890e-99999", "entry"),
        (b"\"\\u0000\\ud83d\\ude00\\/\"", "entry"),
        (b"\"\\u0000\\ud800\\/\"", "text"),
        (b"\"\x7f\"", "text"),
        (b"\x1b]0;title\x07\x1b[31mred\x7f", "text"),
        ("\u{9b}31m\u{85}\u{2028}\u{feff}\u{10ffff}".as_bytes(), "text"),
        ("\"caf\u{e9} \u{1f600}\"".as_bytes(), "entry"),
        (b"\xed\xa0\x80", "base64"),
        (b"\xc0\x80", "base64"),
        (b"[1,2", "text"),
        (&deep, "text"),
        (&almost_deep, "entry"),
    ];
    for (bytes, expected) in cases {
        let line = check_round_trip(&log, &other, bytes);
        assert_eq!(key(&line), expected, "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(80)]));
    }
    assert_equal_feed(&log, &other);
}

/// jq 1.6 refuses a line with a lone high surrogate, Python cannot print it, and Node replaces it.
#[test]
fn other_json_readers_restore_the_bytes_of_entries_with_surrogates() {
    let place = Place::new();
    let (log, other) = (place.log("alice"), place.log("bob"));
    let lines = "{\"a\":\"\\ud800\"}\n[\"\\uDFFF\"]\n\"\\ud83d\\ude00\"\n\"\\\\ud800\"\n";
    append(&log, lines);
    let printed = read(&log);
    let keys: Vec<&str> = printed.lines().map(key).collect();
    assert_eq!(keys, ["text", "text", "entry", "entry"]);
    let python = "import json, sys; sys.stdout.reconfigure(encoding='utf-8')\n\
                  for line in map(json.loads, sys.stdin): print(line.get('text') or line['entry'])";
    let node = "for (const line of require('fs').readFileSync(0, 'utf8').trim().split('\\n').map(JSON.parse)) \
                console.log(line.text || line.entry)";
    for (program, option, script) in [("python3", "-c", python), ("node", "-e", node)] {
        let run = Run::program(program).args([option, script]).stdin(&printed);
        run.stdout("{\"a\":\"\\ud800\"}\n[\"\\uDFFF\"]\n\u{1f600}\n\\ud800\n").success();
    }
    // Earlier programs wrote them as "entry".
    let line = hashed("{\"offset\":1,\"peer\":\"alice\",\"seq\":1,\"entry\":{\"a\":\"\\ud800\"}}\n");
    Run::new(&other).args(["write"]).stdin(line).success();
    Run::new(&other).args(["write"]).stdin(&printed).success();
    assert_equal_feed(&log, &other);
    Run::new(&log).args(["entry", "alice", "1", "--raw"]).stdout("{\"a\":\"\\ud800\"}").success();
    Run::new(&log).args(["entry", "alice", "1"]).stdout(printed.lines().next().expect("a line").to_owned() + "\n").success();
}

/// Asserts that two logs print the same change lines and hold the same entries.
fn assert_equal_feed(log: &Path, other: &Path) {
    assert_eq!(read(log), read(other));
    assert_equal(log, other);
}

#[test]
fn c1_controls_in_text_and_names_are_escaped() {
    let place = Place::new();
    let log = place.log("alice");
    Run::new(&log).args(["append", "--text"]).stdin("\u{80}\u{9b}\u{9f}\u{a0}\n").success();
    let line = "{\"peer\":\"a\\u001b\\u009b\\u007f\\n\",\"seq\":1,\"entry\":1}\n";
    Run::new(&log).args(["write"]).stdin(line).success();
    let expected = hashed(
        "{\"offset\":1,\"peer\":\"alice\",\"seq\":1,\"text\":\"\\u0080\\u009b\\u009f\u{a0}\"}\n\
                    {\"offset\":2,\"peer\":\"a\\u001b\\u009b\\u007f\\n\",\"seq\":1,\"entry\":1}\n",
    );
    assert_eq!(read(&log), expected);
    let heads = "{\"peer\":\"a\\u001b\\u009b\\u007f\\n\",\"seq\":1}\n{\"peer\":\"alice\",\"seq\":1,\"own\":true}\n";
    Run::new(&log).args(["heads"]).stdout(heads).success();
    // Also in error messages.
    let printed = Run::new(&log).args(["entry", "a\u{1b}\u{9b}\n", "9"]).stdout("").status(1);
    assert!(!printed.stderr.trim_end_matches('\n').contains(char::is_control), "{:?}", printed.stderr);
    // Also when the message names a directory or a command.
    let named = place.path("no\u{1b}[31m\u{9b}\nlog");
    let printed = Run::new(&named).args(["read"]).stdout("").stderr_has("no\\u{1b}[31m\\u{9b}\\nlog").status(1);
    assert_eq!(printed.stderr.matches('\n').count(), 1, "{:?}", printed.stderr);
    Run::new(&log).args(["replicate", "--", "no\u{1b}\n"]).stderr_has("scuttleup: cannot run no\\u{1b}\\n").status(1);
    // Also in the library, when an id is displayed.
    let peer = PeerId::new("a\u{1b}\u{9b}\n\u{e9}").expect("an id");
    assert_eq!(peer.to_string(), "a\\u{1b}\\u{9b}\\n\u{e9}");
}

#[test]
fn sixteen_mebibytes_are_returned_exactly() {
    let place = Place::new();
    let (log, other) = (place.log("alice"), place.log("bob"));
    let binary: Vec<u8> = (0u32..16 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(key(&check_round_trip(&log, &other, &binary)), "base64");
    let json = [b"\"", &b"x".repeat((16 << 20) - 2)[..], b"\""].concat();
    assert_eq!(key(&check_round_trip(&log, &other, &json)), "entry");
    assert_equal_feed(&log, &other);
}

#[test]
fn an_entry_at_the_limit_is_accepted_and_one_byte_more_is_not() {
    let place = Place::new();
    let log = place.log("alice");
    let limit = ["append", "--entry-bytes-max", "5"];
    let over = "it has 6 bytes or more, and the limit is 5: raise the limit with --entry-bytes-max";
    for (options, good, bad) in [
        (&[][..], "12345\n", "123456\n"),
        (&["--text"], "abcde\n", "abcdef\n"),
        (&["-0"], "12345\0", "123456\0"),
        (&["--raw"], "a\ncde", "a\ncdef"),
        (&["--raw", "-0"], "a\ncde\0", "a\ncdef\0"),
    ] {
        Run::new(&log).args(limit).args(options).stdin(good).stderr("").success();
        let printed = Run::new(&log).args(limit).args(options).stdin(bad).stdout("").stderr_has(over).status(7);
        assert!(printed.stderr.contains(" 1: "), "{}", printed.stderr);
    }
    assert_eq!(read(&log).lines().count(), 5);
    let write = ["write", "--entry-bytes-max", "5"];
    for payload in ["\"entry\":123456", "\"text\":\"abcdef\"", "\"base64\":\"YWJjZGVm\""] {
        let line = format!("{{\"peer\":\"p\",\"seq\":1,{payload}}}\n");
        Run::new(&log).args(write).stdin(&line).stderr_has("line 1: ").stderr_has(over).status(7);
    }
}

#[test]
fn the_default_limit_is_64_mebibytes() {
    let place = Place::new();
    let log = place.log("alice");
    // A shell produces the 64 MiB, so that they are not in the memory of the test.
    let raw =
        |bytes: u32| shell(&format!("head -c {bytes} /dev/zero | $scuttleup --log \"$LOG\" append --raw --ack")).env("LOG", &log);
    raw(64 << 20).stdout("{\"peer\":\"alice\",\"seq\":1}\n").stderr("").success();
    raw((64 << 20) + 1).stdout("").stderr_has("the limit is 67108864").status(7);
    shell("$scuttleup --log \"$LOG\" entry alice 1 --raw | cmp -n 67108864 - /dev/zero").env("LOG", &log).success();
    shell("$scuttleup --log \"$LOG\" entry alice 1 --raw | wc -c").env("LOG", &log).stdout("67108864\n").success();
}

#[test]
fn an_endless_line_is_refused_without_keeping_it_in_memory() {
    let place = Place::new();
    let log = place.log("alice");
    append(&log, "1\n");
    // 1 GiB of address space: many times the limit of 1 MiB, and less than the line of 2 GiB.
    shell("ulimit -v 1048576; { echo 2; yes | tr -d '\\n' | head -c 2147483648; } | $scuttleup --log \"$LOG\" append --entry-bytes-max 1048576")
        .env("LOG", &log)
        .stderr_has("line 2: the entry is too long: it has ")
        .status(7);
    assert_eq!(read(&log).lines().count(), 2);
}

/// U+202E reverses the text after it, U+200B and the tag characters are not visible.
#[test]
fn format_controls_of_strangers_do_not_reach_stderr() {
    let place = Place::new();
    let log = place.log("alice");
    let (strange, shown) = ("b\u{202e}o\u{200b}b\u{2028}\u{e0041}", "b\\u{202e}o\\u{200b}b\\u{2028}\\u{e0041}");
    let replicate = |args: &[&str], stream: Vec<u8>| Run::new(&log).args(["replicate", "--once"]).args(args).stdin(stream).end();
    // The id of the remote and of a feed with a gap, as text and as JSON.
    let original = [handshake(strange, &[], SYNC), change(strange, 2, "1")].concat();
    let json = "\"b\\u202eo\\u200bb\\u2028\\udb40\\udc41\"";
    let native = [PREAMBLE, &hello(strange, SYNC, false, 7), &error(strange)].concat();
    for (args, stream, shown) in [
        (&[][..], original.clone(), vec![shown, "of b\\u{202e}o", "synced with b\\u{202e}o"]),
        (&["--json"], original, vec![json]),
        // The reason that the remote gives.
        (&[], native, vec!["it said: b\\u{202e}o"]),
        // A stream that is not a session.
        (&[], strange.into(), vec!["it printed: b\\u{202e}o"]),
    ] {
        let said = replicate(args, stream).printed.stderr;
        assert!(!said.trim_end().contains(|c| c != '\n' && scuttleup::is_invisible(c)), "{said:?}");
        shown.iter().for_each(|shown| assert!(said.contains(shown), "{shown}: {said:?}"));
    }
    // The name of a directory, and an argument.
    Run::new(&place.path(strange)).args(["read"]).stderr_has(shown).status(1);
    Run::new(&log).args(["entry", strange, "1"]).stderr_has(shown).status(1);
    Run::new(&place.path("new")).args(["init", "--id", strange]).stderr_has("invisible format control").status(2);
    // Data keeps its bytes.
    Run::new(&log).args(["append", "--text"]).stdin(strange).success();
    assert!(read(&log).contains("\"text\":\"b\u{202e}o\u{200b}b\u{2028}\u{e0041}\""), "{}", read(&log));
}

/// Ids and names are escaped everywhere, payloads on a terminal.
#[test]
fn format_controls_of_strangers_are_escaped_in_names_and_on_a_terminal() {
    let place = Place::new();
    let (log, copy) = (place.log("alice"), place.log("copy"));
    let line = "{\"peer\":\"b\u{202e}ob\",\"seq\":1,\"text\":\"x\u{202e}y\"}\n{\"peer\":\"b\u{202e}ob\",\"seq\":2,\"entry\":\"x\u{2066}y\"}\n";
    Run::new(&log).args(["write"]).stdin(line).success();
    Run::new(&log).args(["cursor", "set", "c\u{202e}d", "1"]).success();
    let name = r#""b\u202eob""#;
    let shown = |args: &[&str]| {
        let mut terminal = Terminal::new(200);
        let ended = Run::new(&log).args(args).spawn_with(Stdio::null(), terminal.stdio(), terminal.stdio()).wait();
        terminal.wait_for_end();
        assert!(ended.status.success(), "{args:?}");
        terminal.seen()
    };
    for args in [&["heads"][..], &["read"], &["cursor", "list"], &["entry", "b\u{202e}ob", "2"], &["watch", "--limit", "2"]] {
        let printed = Run::new(&log).args(args).success();
        let printed = printed.text();
        assert!(!args.contains(&"heads") || printed == format!("{{\"peer\":{name},\"seq\":2}}\n"), "{printed}");
        assert!(args.contains(&"cursor") || printed.contains(name), "{printed}");
        assert!(!args.contains(&"cursor") || printed.contains(r#""cursor":"c\u202ed""#), "{printed}");
        let json: &[&str] = if args[0] == "entry" { &[] } else { &["--json"] };
        for printed in [shown(args), shown(&[args, json].concat())] {
            assert!(!printed.contains(['\u{202e}', '\u{2066}']), "{args:?}: {printed}");
            assert!(printed.contains("\\u"), "{args:?}: {printed}");
        }
    }
    assert!(shown(&["entry", "b\u{202e}ob", "2"]).contains(r#""entry":"x\u2066y""#));
    // In data, payloads keep their characters, and the names are the same for every reader of JSON.
    let lines = read(&log);
    assert!(lines.contains("x\u{202e}y") && lines.contains("x\u{2066}y"), "{lines}");
    Run::new(&copy).args(["write"]).stdin(&lines).success();
    assert_eq!(read(&copy), lines);
    let compared =
        Run::new(&place.log("third")).args(["compare", "--", SCUTTLEUP, "--log"]).args([&log]).args(["replicate"]).status(3);
    assert!(compared.text().contains(name), "{}", compared.text());
}
