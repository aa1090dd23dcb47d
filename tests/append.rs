//! `append`: which input becomes an entry, which does not, and when an entry is acknowledged.

use data_encoding::BASE64;

use crate::harness::{Place, Run, append, hashed, heads, read, shell};

/// The payload part of each line of `read`.
fn payloads(log: &std::path::Path) -> Vec<String> {
    read(log)
        .lines()
        .map(|line| line.splitn(4, ',').nth(3).expect("a payload").split(",\"hash\"").next().expect("a payload").to_owned())
        .collect()
}

#[test]
fn each_json_line_becomes_an_entry_byte_for_byte() {
    let place = Place::new();
    let log = place.log("alice");
    append(&log, "{\"a\": 1}\n\"text\"\nnull\n-0.0e+10\n[1 ,2]\n");
    let expected = hashed(
        "{\"offset\":1,\"peer\":\"alice\",\"seq\":1,\"entry\":{\"a\": 1}}\n\
                    {\"offset\":2,\"peer\":\"alice\",\"seq\":2,\"entry\":\"text\"}\n\
                    {\"offset\":3,\"peer\":\"alice\",\"seq\":3,\"entry\":null}\n\
                    {\"offset\":4,\"peer\":\"alice\",\"seq\":4,\"entry\":-0.0e+10}\n\
                    {\"offset\":5,\"peer\":\"alice\",\"seq\":5,\"entry\":[1 ,2]}\n",
    );
    assert_eq!(read(&log), expected);
}

#[test]
fn white_space_around_a_json_line_is_dropped_and_blank_lines_are_skipped() {
    let place = Place::new();
    let log = place.log("alice");
    append(&log, "\n \t {\"a\" :\t1} \t\r\n   \n\r\n\t\n2\r\n\n3");
    assert_eq!(payloads(&log), ["\"text\":\"{\\\"a\\\" :\\t1}\"", "\"entry\":2", "\"entry\":3"]);
    Run::new(&log).args(["entry", "alice", "1", "--raw"]).stdout("{\"a\" :\t1}").success();
}

#[test]
fn a_byte_order_mark_at_the_start_of_text_is_dropped() {
    let mark = "\u{feff}";
    let cases: [(&[&str], &str, &[&str]); 8] = [
        (&[], "M{\"a\":1}\n2\n", &["{\"a\":1}", "2"]),
        (&[], "M \n3", &["3"]),
        (&[], "M", &[]),
        (&["--text"], "Ma\nMb\n", &["a", "Mb"]),
        (&["--text"], "MMa", &["Ma"]),
        (&["--text", "--entry-bytes-max", "1"], "Ma\n\n", &["a", ""]),
        (&["-0"], "M1\0[]\0", &["1", "[]"]),
        (&["--raw"], "Ma", &["Ma"]),
    ];
    for (options, input, expected) in cases {
        let place = Place::new();
        let log = place.log("alice");
        Run::new(&log).args(["append"]).args(options).stdin(input.replace('M', mark)).stderr("").success();
        let printed = Run::new(&log).args(["read", "--raw"]).success();
        let stored: Vec<String> = printed.json().iter().map(|line| decode(&line["base64"])).collect();
        let expected: Vec<String> = expected.iter().map(|text| text.replace('M', mark)).collect();
        assert_eq!(stored, expected, "{options:?} {input:?}");
    }
}

fn decode(base64: &serde_json::Value) -> String {
    let bytes = BASE64.decode(base64.as_str().expect("a string").as_bytes()).expect("base64");
    String::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn only_the_first_bytes_of_stdin_can_be_a_byte_order_mark() {
    let place = Place::new();
    let log = place.log("alice");
    let mut appending = Run::new(&log).args(["append", "--text", "--ack"]).spawn();
    for byte in b"\xef\xbb\xbf" {
        appending.send([*byte]);
    }
    for (seq, line) in [(1, "\u{feff}a\n"), (2, "b\n"), (3, "\u{feff}c\n")] {
        appending.send(line);
        assert_eq!(appending.line(), format!("{{\"peer\":\"alice\",\"seq\":{seq}}}\n"));
        Run::new(&log).args(["entry", "alice", &seq.to_string(), "--raw"]).stdout(line.trim_end()).success();
    }
    assert!(appending.finish().status.success());
}

#[test]
fn text_lines_are_kept_as_they_are() {
    let place = Place::new();
    let log = place.log("alice");
    Run::new(&log).args(["append", "--text"]).stdin(" a \r\n\n{\"a\":1}\né").stdout("").success();
    assert_eq!(payloads(&log), ["\"text\":\" a \\r\"", "\"base64\":\"\"", "\"entry\":{\"a\":1}", "\"text\":\"é\""]);
}

#[test]
fn with_option_0_a_nul_ends_an_entry() {
    let place = Place::new();
    let log = place.log("alice");
    Run::new(&log).args(["append", "-0"]).stdin("1\0\n2 \0\0[\n3]\0").success();
    Run::new(&log).args(["append", "--text", "-0"]).stdin("a\nb\0\0c").success();
    Run::new(&log).args(["append", "--raw", "-0"]).stdin(b"\xff\n\0\0").success();
    let expected = [
        "\"entry\":1",
        "\"entry\":2",
        "\"text\":\"[\\n3]\"",
        "\"text\":\"a\\nb\"",
        "\"base64\":\"\"",
        "\"text\":\"c\"",
        "\"base64\":\"/wo=\"",
        "\"base64\":\"\"",
    ];
    assert_eq!(payloads(&log), expected);
}

#[test]
fn raw_takes_the_whole_of_stdin_as_one_entry() {
    let place = Place::new();
    let log = place.log("alice");
    Run::new(&log).args(["append", "--raw"]).stdin("a\nb\0c\n").success();
    Run::new(&log).args(["append", "--raw"]).stdin("").success();
    Run::new(&log).args(["entry", "alice", "1", "--raw"]).stdout("a\nb\0c\n").success();
    Run::new(&log).args(["entry", "alice", "2", "--raw"]).stdout("").success();
    assert_eq!(heads(&log), ["{\"peer\":\"alice\",\"seq\":2}"]);
}

#[test]
fn raw_lines_are_entries_of_any_bytes() {
    let place = Place::new();
    let log = place.log("alice");
    let input = b"\xef\xbb\xbfa\n\xe9 \r\n\n{\"a\":1}\nb\0\xff";
    Run::new(&log).args(["append", "--raw", "--lines"]).stdin(input).stdout("").stderr("").success();
    let entries = input.split(|&byte| byte == b'\n').map(<[u8]>::to_vec);
    let stored = (1..=5).map(|seq| Run::new(&log).args(["entry", "alice", &seq.to_string(), "--raw"]).success().stdout);
    assert!(stored.eq(entries));
    assert_eq!(heads(&log), ["{\"peer\":\"alice\",\"seq\":5}"]);
    // Without --raw, lines are the default.
    Run::new(&log).args(["append", "--lines"]).stdin("1\n\n2\n").success();
    Run::new(&log).args(["append", "--lines", "--text"]).stdin("a\n\n").success();
    assert_eq!(heads(&log), ["{\"peer\":\"alice\",\"seq\":9}"]);
    Run::new(&log).args(["append", "--lines", "-0"]).stdin("1\n").stderr_has("cannot be used with").status(2);
}

#[test]
fn the_advice_about_other_bytes_stores_each_line() {
    for (options, input, advice) in [
        (&[][..], &b"\"a\"\n\"\xe9\"\n\"b\"\n"[..], &["--raw", "--lines"][..]),
        (&["--text"], b"a\n\xe9\nb\n", &["--raw", "--lines"]),
        (&["--text", "-0"], b"a\0\xe9\0b\0", &["--raw", "-0"]),
    ] {
        let place = Place::new();
        let (log, other) = (place.log("a"), place.log("b"));
        let said = format!(": use {} for ", advice.join(" ").replace(" -0", ""));
        Run::new(&log).args(["append"]).args(options).stdin(input).stderr_has(&said).status(7);
        Run::new(&other).args(["append"]).args(advice).stdin(input).stderr("").success();
        assert_eq!(heads(&other), ["{\"peer\":\"b\",\"seq\":3}"]);
    }
}

#[test]
fn utf_16_is_named_with_the_program_that_converts_it() {
    for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
        let place = Place::new();
        let log = place.log("a");
        let input: Vec<u8> = "\u{feff}{\"a\":1}\n2\n".encode_utf16().flat_map(to_bytes).collect();
        for options in [&[][..], &["--text"]] {
            let said = "line 1: not UTF-8 at byte 1: this is UTF-16, `iconv -f UTF-16 -t UTF-8` converts it; nothing";
            Run::new(&log).args(["append"]).args(options).stdin(&input[..]).stderr_has(said).status(7);
        }
        let piped = shell("iconv -f UTF-16 -t UTF-8 | $scuttleup --log \"$LOG\" append").env("LOG", &log);
        piped.stdin(&input[..]).success();
        assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":2}"]);
    }
}

#[test]
fn a_change_line_is_stored_and_a_message_names_write() {
    let place = Place::new();
    let (from, to) = (place.log("from"), place.log("to"));
    append(&from, "{\"a\":1}\n2\n");
    let copy = |options: &str| {
        let line = format!("$scuttleup --log \"$FROM\" read | $scuttleup --log \"$TO\" append {options}");
        shell(&line).env("FROM", &from).env("TO", &to)
    };
    let said = |line: &str| {
        format!(
            "scuttleup: {line} is a change line, it is stored as a whole in a new entry: \
             `scuttleup write` stores the entries of change lines\n"
        )
    };
    copy("").stderr(&said("line 1")).success();
    copy("--text").stderr(&said("line 1")).success();
    copy("-q").stderr("").success();
    assert_eq!(heads(&to), ["{\"peer\":\"to\",\"seq\":6}"]);
    let nested = Run::new(&to).args(["entry", "to", "1"]).success().json().remove(0);
    assert_eq!(nested["entry"]["entry"], serde_json::json!({"a": 1}));
    // Each line is a batch of its own.
    let mut appending = Run::new(&to).args(["append", "--ack"]).spawn();
    for line in ["\n3\n".to_owned(), read(&from), read(&from)] {
        appending.send(line);
        appending.line();
    }
    assert_eq!(appending.finish().printed.stderr, said("line 3"));
    // Entries are not change lines.
    shell("$scuttleup --log \"$FROM\" read | jq -c .entry | $scuttleup --log \"$TO\" append")
        .env("FROM", &from)
        .env("TO", &to)
        .stderr("")
        .success();
}

#[test]
fn the_recipe_of_the_manual_appends_entries_again() {
    let place = Place::new();
    let (from, to) = (place.log("from"), place.log("to"));
    append(&from, "{\"a\": 1.0}\n2\n");
    for bytes in [&b"a\nb"[..], b"", b"\xff\0"] {
        Run::new(&from).args(["append", "--raw"]).stdin(bytes).success();
    }
    Run::new(&from).args(["del", "from", "2"]).success();
    let recipe = "for seq in $(seq 1 5); do \
                  $scuttleup --log \"$FROM\" entry --raw from $seq > \"$FILE\" && $scuttleup --log \"$TO\" append --raw < \"$FILE\"; done";
    shell(recipe).env("FROM", &from).env("TO", &to).env("FILE", place.path("file")).success();
    let payloads = |log| payloads(log).into_iter().filter(|payload| !payload.contains("deleted")).collect::<Vec<_>>();
    assert_eq!(payloads(&from), payloads(&to));
    assert_eq!(heads(&to), ["{\"peer\":\"to\",\"seq\":4}"]);
}

#[test]
fn an_entry_as_an_argument_is_refused_with_advice() {
    let place = Place::new();
    let log = place.log("a");
    let advice = ": entries come from stdin, such as `echo '{\"a\":1}' | scuttleup append` or `scuttleup append < FILE`; see";
    for args in [&["append", "{\"a\":1}"][..], &["append", "--ack", "file"]] {
        let printed = Run::new(&log).args(args).stdin("1\n").stdout("").stderr_has(advice).status(2);
        assert_eq!(printed.stderr.lines().count(), 1, "{}", printed.stderr);
    }
    Run::new(&log)
        .args(["write", "file"])
        .stderr_has(": change lines come from stdin, such as `scuttleup write < FILE`")
        .status(2);
    for args in [&["append", "--nothing"][..], &["read", "file"]] {
        let printed = Run::new(&log).args(args).status(2);
        assert!(!printed.stderr.contains("stdin"), "{}", printed.stderr);
    }
    assert_eq!(read(&log), "");
}

#[test]
fn empty_input_appends_nothing() {
    let place = Place::new();
    let log = place.log("alice");
    for options in [&[][..], &["--text"], &["-0"], &["--raw", "-0"], &["--raw", "--lines"]] {
        Run::new(&log).args(["append", "--ack"]).args(options).stdin("").stdout("").stderr("").success();
    }
    assert_eq!(read(&log), "");
}

#[test]
fn each_entry_is_acknowledged_with_its_seq_once_it_is_stored() {
    let place = Place::new();
    let log = place.log("alice");
    append(&log, "0");
    let mut appending = Run::new(&log).args(["append", "--ack"]).spawn();
    for seq in 2..=20 {
        // Blank lines get no seq and no acknowledgement.
        appending.send(format!("\n{seq}\n"));
        assert_eq!(appending.line(), format!("{{\"peer\":\"alice\",\"seq\":{seq}}}\n"));
        Run::new(&log).args(["entry", "alice", &seq.to_string(), "--raw"]).stdout(seq.to_string()).success();
    }
    let ended = appending.finish();
    assert_eq!((ended.status.code(), ended.printed.stdout, ended.printed.stderr), (Some(0), Vec::new(), String::new()));
}

#[test]
fn a_last_line_without_a_newline_is_an_entry() {
    let place = Place::new();
    let log = place.log("alice");
    let mut appending = Run::new(&log).args(["append", "--ack"]).spawn();
    appending.send("1\n[2,");
    assert_eq!(appending.line(), "{\"peer\":\"alice\",\"seq\":1}\n");
    appending.send("3]");
    let ended = appending.finish();
    assert_eq!(ended.printed.text(), "{\"peer\":\"alice\",\"seq\":2}\n");
    Run::new(&log).args(["entry", "alice", "2", "--raw"]).stdout("[2,3]").success();
}

/// Options, input, number of stored entries, message.
type BadInput<'a> = (&'a [&'a str], &'a [u8], usize, &'a str);

#[test]
fn bad_input_is_reported_with_its_line_and_earlier_entries_are_stored() {
    let deep = [b"1\n", &b"[".repeat(129)[..], &b"]".repeat(129), b"\n2\n"].concat();
    let cases: [BadInput<'_>; 12] = [
        (&[], b"1\n2\nnot json\n4\n", 2, "line 3: not JSON: expected ident at byte 2: use --text for lines that are not JSON; "),
        (&[], b"x\n", 0, "line 1: not JSON: expected value at byte 1: use --text for lines that are not JSON; "),
        (
            &[],
            b"\n\n{\n \"a\": 1\n}\n",
            0,
            "line 3: not JSON: EOF while parsing an object at byte 1: a value must be on one line, `jq -c` does that; ",
        ),
        (&[], b"1\n2 3\n", 1, "line 2: not JSON: "),
        (&[], b"1\n\"\xff\"\n", 1, "line 2: not UTF-8 at byte 2: "),
        (&[], b"1\n\xc2\xa02\n", 1, "line 2: not JSON: "),
        (&[], &deep, 1, "line 2: JSON nested more than 128 levels deep; "),
        (&[], b"1\n\"\x01\"\n", 1, "line 2: not JSON: "),
        (&[], b"1\nNaN", 1, "line 2: not JSON: "),
        (&["--text"], b"a\nb\n\xe9\nd\n", 2, "line 3: not UTF-8 at byte 1: "),
        (&["-0"], b"1\0{\0", 1, "entry 2: not JSON: EOF while parsing an object at byte 1; "),
        (&["--text", "-0"], b"a\0b\nc\0\xff\0", 2, "entry 3: not UTF-8 at byte 1: "),
    ];
    for (options, input, stored, said) in cases {
        let place = Place::new();
        let log = place.log("alice");
        let run = Run::new(&log).args(["append", "--ack"]).args(options).stdin(input);
        let printed = run.stderr_has(&format!("scuttleup: {said}")).stderr_has(" of this input ").status(7);
        assert_eq!(printed.stderr.matches('\n').count(), 1, "{}", printed.stderr);
        assert_eq!(printed.lines().len(), stored, "{said}");
        assert_eq!(read(&log).lines().count(), stored, "{said}");
    }
}

#[test]
fn a_bad_line_after_100_000_good_lines_is_reported_and_they_are_stored() {
    let place = Place::new();
    let log = place.log("alice");
    let mut input: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    input.push_str("}\n1\n");
    let printed = Run::new(&log).args(["append", "--ack"]).stdin(input).stderr_has("line 100001: ").status(7);
    assert_eq!(printed.lines().len(), 100_000);
    assert_eq!(heads(&log), ["{\"peer\":\"alice\",\"seq\":100000}"]);
}

#[test]
fn append_ends_when_its_stdout_is_closed() {
    let place = Place::new();
    let log = place.log("alice");
    let lines: String = (1..=50_000).map(|n| format!("{n}\n")).collect();
    let input = place.file("input", lines);
    for (options, said) in [("-q", ""), ("", "scuttleup: the reader of stdout closed it: ")] {
        let line = format!("$scuttleup {options} --log \"$LOG\" append --ack < \"$INPUT\" | head -n 1 | tr -d 0-9");
        let run = shell(&line).env("LOG", &log).env("INPUT", &input);
        let printed = run.stdout("{\"peer\":\"alice\",\"seq\":}\n").stderr_has(said).success();
        assert_eq!(printed.stderr.lines().count(), usize::from(!said.is_empty()), "{}", printed.stderr);
    }
}

#[test]
fn append_creates_the_log_on_first_use_with_a_random_id() {
    let place = Place::new();
    let ids = ["x", "deep/down/y"].map(|name| {
        let log = place.path(name);
        append(&log, "1\n");
        let id = Run::new(&log).args(["id"]).success().text().trim_end().to_owned();
        assert!(id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{id}");
        id
    });
    assert_ne!(ids[0], ids[1]);
}
