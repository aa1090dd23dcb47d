//! `append` and `write` say how much of stdin is stored and with which line to continue, however they end.

use std::fmt::Write;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Place, Printed, Run, SCUTTLEUP, append, read, shell};

/// The JSON object at the end of stderr.
fn tally(printed: &Printed) -> Value {
    let line = printed.stderr.lines().last().expect("a line on stderr");
    serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"))
}

fn expected(stored: u64, next: u64, unit: &str, exit: i32) -> Value {
    json!({"stored": stored, "skipped": 0, "next": next, "unit": unit, "exit": exit})
}

/// The number of entries in a log.
fn entries(log: &Path) -> u64 {
    Run::new(log).args(["info"]).success().json()[0]["entries"].as_u64().expect("a number")
}

/// Change lines of one peer.
fn changes(count: u64) -> String {
    (1..=count).fold(String::new(), |mut lines, seq| {
        writeln!(lines, "{{\"peer\":\"p\",\"seq\":{seq},\"entry\":{seq}}}").expect("memory");
        lines
    })
}

/// Options, input, number of entries in the log, number of the next line, text of the message.
type Bad<'a> = (&'a [&'a str], &'a [u8], u64, u64, &'a str);

#[test]
fn bad_input_says_how_much_is_stored_and_where_to_continue() {
    let change = |line: &str| format!("{{\"peer\":\"p\",\"seq\":1,\"entry\":1}}\n\n{line}\n");
    let (broken, good) = (change("{}"), change(""));
    let cases: [Bad<'_>; 9] = [
        (&["append"], b"x\n1\n", 0, 1, "; nothing of this input is stored\n"),
        (&["append"], b"\n\nx\n", 0, 3, "; 0 entries of this input are stored: continue with line 3\n"),
        (&["append"], b"1\nx\n", 1, 2, "; 1 entry of this input is stored: continue with line 2\n"),
        (&["append"], b"1\n\n2\n\nx\n3\n", 2, 5, "; 2 entries of this input are stored: continue with line 5\n"),
        (&["append", "--text"], b"1\n\n\xff\n2\n", 2, 3, "; 2 entries of this input are stored: continue with line 3\n"),
        (&["append", "-0"], b"1\0\n\0x\0", 1, 3, "; 1 entry of this input is stored: continue with entry 3\n"),
        (&["append", "--raw", "--entry-bytes-max", "1"], b"ab", 0, 1, "; nothing of this input is stored\n"),
        (&["write"], broken.as_bytes(), 1, 3, "; 1 new entry of this input is stored: continue with line 3\n"),
        (&["write"], good.as_bytes(), 1, 4, ""),
    ];
    for (args, input, stored, next, said) in cases {
        let place = Place::new();
        let (log, other) = (place.log("a"), place.log("b"));
        let exit = if said.is_empty() { 0 } else { 7 };
        let printed = Run::new(&log).args(args).stdin(input).stderr_has(said).status(exit);
        assert_eq!(printed.stderr.lines().count(), usize::from(exit > 0), "{}", printed.stderr);
        assert_eq!(entries(&log), stored, "{args:?}");
        let unit = if args.contains(&"-0") || args.contains(&"--raw") { "entry" } else { "line" };
        let printed = Run::new(&other).args(args).args(["--json", "-q"]).stdin(input).status(exit);
        assert_eq!(tally(&printed), expected(stored, next, unit, exit), "{args:?}");
    }
}

#[test]
fn known_lines_count_as_done_and_a_log_that_cannot_be_opened_has_no_tally() {
    let place = Place::new();
    let log = place.log("a");
    Run::new(&log).args(["write"]).stdin(changes(3)).success();
    let printed = Run::new(&log).args(["write", "--json"]).stdin(changes(5) + "x\n").status(7);
    assert_eq!(tally(&printed), expected(2, 6, "line", 7));
    Run::new(&log)
        .args(["write"])
        .stdin(changes(5) + "x\n")
        .stderr_has("; 0 new entries of this input are stored: continue with line 6\n")
        .status(7);
    let file = place.file("file", "");
    let printed = Run::new(&file).args(["append", "--json"]).stdin("1\n").status(1);
    assert!(!printed.stderr.contains("of this input"), "{}", printed.stderr);
    assert_eq!(tally(&printed), expected(0, 1, "line", 1));
}

/// The input, and how it goes on after a full disk: the options, and the command that leaves out what is stored.
fn inputs() -> [(&'static str, &'static str, String); 4] {
    // Some lines have no entry, so that the number of the line is not the number of entries.
    let json = (0..150_000).map(|n| if n % 3 == 0 { "\n".into() } else { format!("{n}\n") }).collect::<String>();
    [
        ("append", "tail -n +$next", json.clone()),
        ("append --text", "tail -n +$next", json.clone()),
        ("append -0", "tail -z -n +$next", json.replace('\n', "\0")),
        ("write", "tail -n +$next", changes(100_000).replace("0,\"entry", "0,\n\n\"entry").replace(",\n\n", ",")),
    ]
}

#[test]
fn after_a_full_disk_the_rest_of_the_input_goes_on_at_the_named_line() {
    for (command, rest, input) in inputs() {
        let place = Place::new();
        let (log, all) = (place.log("a"), place.path("all"));
        Run::new(&all).args(["-q", "init", "--id", "a"]).success();
        let input = place.file("input", input);
        // 2 MiB, as a full disk; then the message and the tally must name the same line.
        let script = "ulimit -f 2048; $scuttleup --log \"$LOG\" $COMMAND < \"$INPUT\" 2> \"$LOG.said\"; code=$?; ulimit -f unlimited; \
                      next=$(sed 's/.*continue with [a-z]* \\([0-9]*\\):.*/\\1/' \"$LOG.said\"); cat \"$LOG.said\" >&2; \
                      $scuttleup --log \"$LOG\" info; $REST \"$INPUT\" | $scuttleup --log \"$LOG\" $COMMAND || exit 1; exit $code";
        let script = script.replace("$REST", rest).replace("ulimit -f 2048", "ulimit -S -f 2048");
        let run = shell(&script).env("LOG", &log).env("INPUT", &input).env("COMMAND", command);
        let printed = run.stderr_has("free some space and continue with ").status(5);
        let stored = printed.json()[0]["entries"].as_u64().expect("a number");
        assert!(stored > 0, "{command}: {}", printed.stderr);
        assert!(printed.stderr.contains(&format!(": {stored} ")), "{command}: {stored} stored, {}", printed.stderr);
        assert!(!printed.stderr.contains("run it again"), "{command}: {}", printed.stderr);
        // The log holds every entry once.
        shell("$scuttleup --log \"$LOG\" $COMMAND < \"$INPUT\"")
            .env("LOG", &all)
            .env("INPUT", &input)
            .env("COMMAND", command)
            .success();
        assert!(read(&log) == read(&all), "{command}: the log is not a copy of the input");
    }
}

#[test]
fn a_full_disk_before_the_first_commit_stores_nothing() {
    let place = Place::new();
    let log = place.log("a");
    let run = shell("ulimit -f 100; $scuttleup --log \"$LOG\" append --raw --json < /dev/zero").env("LOG", &log);
    assert_eq!(tally(&run.status(7)), expected(0, 1, "entry", 7));
    let run = shell("ulimit -f 100; head -c 9M /dev/zero | $scuttleup --log \"$LOG\" append --raw").env("LOG", &log);
    run.stderr_has("free some space and run it again; nothing of this input is stored\n").status(5);
    assert_eq!(entries(&log), 0);
}

#[test]
fn a_signal_says_how_much_is_stored() {
    let change = |seq: u64| format!("{{\"peer\":\"a\",\"seq\":{seq},\"entry\":{seq}}}");
    for (args, lines, unit) in [
        (&["append"][..], ["1\n\n2\n".to_owned(), "[3,".into()], "line"),
        (&["append", "--text"], ["1\n2\n".into(), "3".into()], "line"),
        (&["append", "-0"], ["1\0\x0a\x002\0".into(), "3".into()], "entry"),
        (&["write"], [format!("{}\n\n{}\n", change(1), change(2)), change(3)], "line"),
    ] {
        for (signal, exit) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
            for json in [false, true] {
                let place = Place::new();
                let log = place.log("a");
                let mut watching = Run::new(&log).args(["read", "--live"]).spawn();
                let mut running = Run::new(&log).args(args).args(json.then_some("--json")).spawn();
                running.send(&lines[0]);
                watching.line();
                watching.line();
                running.send(&lines[1]);
                running.signal(signal);
                let printed = running.wait().printed;
                let next = lines[0].matches(['\n', '\0']).count() as u64 + 1;
                let next = if unit == "entry" { 4 } else { next };
                if json {
                    assert_eq!(tally(&printed), expected(2, next, unit, exit), "{args:?}");
                    assert_eq!(printed.stderr.lines().count(), 1, "{}", printed.stderr);
                } else {
                    let entries = if args == ["write"] { "new entries" } else { "entries" };
                    let said = format!("scuttleup: stopped: 2 {entries} of this input are stored: continue with {unit} {next}\n");
                    assert_eq!(printed.stderr, said);
                }
                assert_eq!(entries(&log), 2);
            }
        }
    }
}

#[test]
fn a_signal_before_the_end_of_one_raw_entry_stores_nothing() {
    let place = Place::new();
    let log = place.log("a");
    let mut running = Run::new(&log).args(["append", "--raw"]).spawn();
    // More than the pipe takes: the process has begun to read, so it also catches signals.
    running.send(vec![b'\n'; 3 << 20]);
    running.signal(Signal::SIGINT);
    let ended = running.wait();
    assert_eq!(ended.printed.stderr, "scuttleup: stopped: nothing of this input is stored\n");
    assert_eq!((ended.status.code(), entries(&log)), (Some(130), 0));
}

/// Runs a line of bash in which `$scuttleup` gets the error EIO from its call number `when` of `call` on the file `path`.
fn with_io_error(line: &str, call: &str, path: &str, when: usize) -> Run {
    let strace =
        format!("strace -f -qq -o /dev/null -P \"{path}\" -e trace={call} -e inject={call}:error=EIO:when={when} $SCUTTLEUP");
    shell(&line.replace("$scuttleup", &strace)).env("SCUTTLEUP", SCUTTLEUP)
}

#[test]
fn after_a_failed_read_the_lines_before_it_are_stored() {
    let place = Place::new();
    let log = place.log("a");
    let input = place.file("input", (1..=50_000).map(|n| format!("{n}\n")).collect::<String>());
    let run = with_io_error("$scuttleup --log \"$LOG\" append --json < \"$INPUT\"", "read", "$INPUT", 2);
    let printed = run.env("LOG", &log).env("INPUT", &input).stderr_has("cannot read stdin: Input/output error").status(1);
    let stored = entries(&log);
    assert!(stored > 0);
    assert_eq!(tally(&printed), expected(stored, stored + 1, "line", 1));
    assert!(
        printed.stderr.contains(&format!("; {stored} entries of this input are stored: continue with line {}\n", stored + 1))
    );
}

#[test]
fn a_failed_acknowledgement_says_that_the_entries_are_stored() {
    let all = "; 3 entries of this input are stored, up to its end: do not append this input again\n";
    let no_space = "cannot write to stdout (No space left on device (os error 28)): free some space where stdout is stored";
    let place = Place::new();
    let (log, acks) = (place.log("a"), place.path("acks"));
    let line = "printf '1\\n\\n2\\n3\\n' | $scuttleup --log \"$LOG\" append --ack --json > \"$ACKS\"";
    let full = shell(line).env("LOG", &log).env("ACKS", "/dev/full").stderr_has(&format!("{no_space}{all}")).status(5);
    assert_eq!(tally(&full), expected(3, 5, "line", 5));
    // poll(2) for stdout also fails: the first call on it is one of the runtime.
    for (call, when, said, stored) in [("write", 1, "cannot write to stdout", 6), ("poll", 2, "cannot wait for stdout", 9)] {
        let run = with_io_error(line, call, "$ACKS", when).env("LOG", &log).env("ACKS", &acks);
        let printed = run.stderr_has(&format!("scuttleup: {said}: Input/output error (os error 5){all}")).status(1);
        assert_eq!(tally(&printed), expected(3, 5, "line", 1));
        assert_eq!(entries(&log), stored);
    }
    // The reader of stdout is gone, and all of the input is stored: this is not an error.
    shell("printf '1\\n2\\n' | $scuttleup --log \"$LOG\" append --ack | true").env("LOG", &log).stderr("").end();
}

#[test]
fn append_says_how_much_is_stored_when_its_stdout_is_closed_before_the_end_of_the_input() {
    let place = Place::new();
    let log = place.log("a");
    let mut appending = Run::new(&log).args(["append", "--ack"]).spawn_on(std::process::Stdio::piped(), closed_pipe());
    appending.send("1\n\n2\n");
    // Its stdin stays open.
    let ended = appending.wait();
    let said = "scuttleup: the reader of stdout closed it: 2 entries of this input are stored: continue with line 4\n";
    assert_eq!((ended.status.code(), ended.printed.stderr.as_str()), (Some(0), said));
    append(&log, "3\n");
    assert_eq!(entries(&log), 3);
}

/// A pipe without a reader.
fn closed_pipe() -> std::process::Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[test]
fn at_exit_0_only_json_prints_a_tally() {
    let place = Place::new();
    let log = place.log("a");
    for (args, input, printed) in [
        (&["append"][..], "1\n\n2", expected(2, 4, "line", 0)),
        (&["append", "-0"], "1\x002\0", expected(2, 3, "entry", 0)),
        (&["append", "--raw"], "", expected(1, 2, "entry", 0)),
        (&["append"], "", expected(0, 1, "line", 0)),
        (&["write"], "", expected(0, 1, "line", 0)),
    ] {
        Run::new(&log).args(args).stdin(input).stdout("").stderr("").success();
        assert_eq!(tally(&Run::new(&log).args(args).args(["--json"]).stdin(input).stdout("").success()), printed, "{args:?}");
    }
}
