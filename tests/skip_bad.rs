//! `append --skip-bad`: bad lines go to a file, the other lines are stored.

use std::fs;

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::harness::{Place, Run, SCUTTLEUP, heads, read, shell};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"))).collect()
}

/// The bytes of each line, or piece, that was left out.
fn bytes(line: &Value) -> Vec<u8> {
    match &line["base64"] {
        Value::String(base64) => BASE64.decode(base64.as_bytes()).expect("base64"),
        _ => line["text"].as_str().expect("a text").into(),
    }
}

#[test]
fn bad_lines_go_to_the_file_and_the_others_are_stored() {
    let place = Place::new();
    let (log, bad) = (place.log("a"), place.path("bad"));
    let input = b"1\n\nx\"\xc3\xa9\x1b\r\n2\n\"\xe9\"\n12345678901\n{\"a\":1}\n[";
    let run = Run::new(&log).args(["-q", "append", "--ack", "--entry-bytes-max", "10", "--skip-bad"]).args([&bad]).stdin(input);
    let said = format!("scuttleup: 3 entries of this input are stored, 4 bad lines went to {}\n", bad.display());
    assert_eq!(run.stderr(&said).status(7).lines().len(), 3);
    assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":3}"]);
    let too_long = "the entry is too long: it has 11 bytes or more, and the limit is 10";
    let expected = [
        json!({"line": 3, "reason": "not JSON: expected value at byte 1", "text": "x\"é\u{1b}\r"}),
        json!({"line": 5, "reason": "not UTF-8 at byte 2", "base64": "Iuki"}),
        json!({"line": 6, "reason": too_long, "text": "12345678901"}),
        json!({"line": 8, "reason": "not JSON: EOF while parsing a list at byte 1", "text": "["}),
    ];
    let written = fs::read_to_string(&bad).expect("the file");
    assert_eq!(lines(&written), expected);
    assert!(!written.contains(['\u{1b}', '\r']), "{written}");
    // The next run adds its lines. A line that a crash has cut stays a line of its own.
    fs::write(&bad, "{\"line\":1,\"rea").expect("the file");
    let run = Run::new(&log).args(["append", "-0", "--json", "--skip-bad"]).args([&bad]).stdin("1\0x\0");
    let tally = run.status(7).stderr;
    assert_eq!(tally, "{\"stored\":1,\"skipped\":1,\"next\":3,\"unit\":\"entry\",\"exit\":7}\n");
    let written = fs::read_to_string(&bad).expect("the file");
    let (cut, rest) = written.split_once('\n').expect("two lines");
    assert_eq!(cut, "{\"line\":1,\"rea");
    assert_eq!(lines(rest), [json!({"entry": 2, "reason": "not JSON: expected value at byte 1", "text": "x"})]);
}

#[test]
fn without_a_bad_line_the_exit_code_is_0() {
    let place = Place::new();
    let (log, bad) = (place.log("a"), place.path("bad"));
    Run::new(&log).args(["append", "--skip-bad"]).args([&bad]).stdin("1\n\n2").stdout("").stderr("").success();
    assert_eq!(fs::read(&bad).expect("the file is created"), b"");
}

#[test]
fn bad_lines_can_go_to_stdout() {
    let place = Place::new();
    let log = place.log("a");
    let said = "scuttleup: 2 entries of this input are stored, 1 bad line went to stdout\n";
    let run = Run::new(&log).args(["append", "--text", "--skip-bad", "-"]).stdin(b"a\n\xff\nb\n").stderr(said);
    assert_eq!(run.status(7).json(), [json!({"line": 2, "reason": "not UTF-8 at byte 1", "base64": "/w=="})]);
    // These lines are nowhere else: a closed stdout is an error.
    let closed = shell(
        "yes x | $scuttleup --log \"$LOG\" append --skip-bad - | head -n 1 > /dev/null; \
                        exit ${PIPESTATUS[1]}",
    );
    closed.env("LOG", &log).stderr_has("the reader of stdout closed it, bad lines cannot be written; ").status(1);
    for (options, said) in [
        (&["--skip-bad", "-", "--ack"][..], "--skip-bad - and --ack both print on stdout"),
        (&["--skip-bad", "x", "--raw"], "--skip-bad needs lines"),
    ] {
        Run::new(&log).args(["append"]).args(options).stdin("1\n").stdout("").stderr_has(said).status(2);
    }
    assert_eq!(heads(&log), ["{\"peer\":\"a\",\"seq\":2}"]);
}

#[test]
fn a_line_that_is_too_long_for_the_memory_comes_in_pieces() {
    let place = Place::new();
    let (log, bad) = (place.log("a"), place.path("bad"));
    let long: Vec<u8> = (0..5_000_000_u32).map(|n| b'a' + (n / 7 % 26) as u8).collect();
    for end in ["\n2\n", ""] {
        fs::remove_file(&bad).ok();
        let input = [b"1\n", &long[..], end.as_bytes()].concat();
        let run = Run::new(&log).args(["append", "--entry-bytes-max", "1000", "--skip-bad"]).args([&bad]).stdin(input);
        run.stderr_has(", 1 bad line went to ").status(7);
        let pieces = lines(&fs::read_to_string(&bad).expect("the file"));
        assert!(pieces.len() > 2);
        for (number, piece) in (1..).zip(&pieces) {
            assert_eq!((&piece["line"], &piece["piece"]), (&json!(2), &json!(number)), "{}", piece["reason"]);
        }
        assert!(pieces.iter().flat_map(bytes).eq(long.iter().copied()));
    }
    assert_eq!(read(&log).lines().map(|line| u8::from(line.contains("\"entry\":1,"))).collect::<Vec<_>>(), [1, 0, 1]);
    // A shorter line is never cut, however it arrives.
    fs::remove_file(&bad).expect("the file");
    let mut appending = Run::new(&log).args(["append", "--ack", "--entry-bytes-max", "1000", "--skip-bad"]).args([&bad]).spawn();
    appending.send("1\n");
    appending.line();
    for part in long[..900_000].chunks(100_000) {
        appending.send(part);
    }
    appending.finish();
    let whole = lines(&fs::read_to_string(&bad).expect("the file"));
    assert_eq!((whole.len(), &whole[0]["piece"], bytes(&whole[0]).len()), (1, &Value::Null, 900_000));
}

#[test]
fn bad_lines_are_not_kept_in_memory() {
    let place = Place::new();
    let log = place.log("a");
    // 256 MiB of address space, and more than this of bad lines: one long line, then many short lines.
    for input in ["head -c 600M /dev/zero", "yes x | head -n 5000000"] {
        let line = format!(
            "ulimit -v 262144; {{ {input}; echo; echo 2; }} | $scuttleup --log \"$LOG\" append --entry-bytes-max 1048576 --skip-bad /dev/null"
        );
        shell(&line).env("LOG", &log).stderr_has("scuttleup: 1 entry of this input is stored, ").status(7);
    }
}

#[test]
fn bad_lines_are_on_the_disk_before_the_entries_of_their_commit() {
    let place = Place::new();
    let (log, bad, trace) = (place.log("a"), place.path("bad"), place.path("trace"));
    let strace = ["-f", "-y", "-qq", "-e", "trace=fdatasync,fsync,write,pwritev,pwrite64,writev", "-o"];
    let run = Run::program("strace").args(strace).args([&trace]).args([SCUTTLEUP, "append", "--ack", "--log"]).args([&log]);
    run.args(["--skip-bad"]).args([&bad]).stdin("1\nx\n2\n").status(7);
    let trace = fs::read_to_string(trace).expect("a trace");
    let at = |call: &str, file: &str| {
        let found = trace.lines().position(|line| line.contains(&format!("{call}(")) && line.contains(file));
        found.unwrap_or_else(|| panic!("no {call} of {file}: {trace}"))
    };
    let order = [
        at("fsync", place.path("").to_str().expect("UTF-8").trim_end_matches('/')),
        at("write", "/bad>"),
        at("fdatasync", "/bad>"),
        at("fdatasync", "/data.mdb>"),
        at("write", "(1<pipe"),
    ];
    assert!(order.is_sorted(), "{order:?}: {trace}");
}

#[test]
fn a_file_that_cannot_be_written_stores_no_entry_of_the_commit() {
    let place = Place::new();
    let log = place.log("a");
    let run = Run::new(&log).args(["append", "--ack", "--skip-bad", "/dev/full"]).stdin("1\nx\n2\n").stdout("");
    let said = "scuttleup: cannot write to /dev/full (No space left on device (os error 28)): free some space where /dev/full is \
                stored; nothing of this input is stored\n";
    run.stderr(said).status(5);
    assert_eq!(read(&log), "");
    let none = place.path("none").join("bad");
    Run::new(&log).args(["append", "--skip-bad"]).args([none]).stdin("1\n").stderr_has("none/bad cannot be opened: ").status(1);
    // The first commit is stored; with the second one, the file is full.
    let input = "{ seq 1 16384; while [ $($scuttleup --log \"$LOG\" heads | grep -c seq) = 0 ]; do :; done; echo x; echo 2; }";
    let run = shell(&format!("{input} | $scuttleup --log \"$LOG\" append --json --skip-bad /dev/full")).env("LOG", &log);
    let printed = run.stderr_has("cannot write to /dev/full").status(5);
    let tally: Value = serde_json::from_str(printed.stderr.lines().last().expect("a line")).expect("JSON");
    assert_eq!(tally, json!({"stored": 16384, "skipped": 0, "next": 16385, "unit": "line", "exit": 5}));
}
