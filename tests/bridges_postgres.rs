//! `scuttleup-postgres` with a real server, which all tests share. Each test has its own table.

use std::sync::OnceLock;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::bridges::{bridge, kills, path};
use crate::harness::{Place, Run, Running, STEP, append, root};

/// A server that ends when this value is dropped.
struct Server {
    running: Running,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // A kill of the script would leave the server.
        self.running.close();
        self.running.wait();
    }
}

impl Server {
    fn new(options: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bridges/postgres.sh");
        let mut running = Run::program(script).args(options).spawn();
        let url = running.line().trim_end().to_owned();
        Self { running, url }
    }
}

/// The connection string of the server.
fn url() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        let server = Server::new(&[]);
        let url = server.url.clone();
        // The server ends when the process of the tests ends, because its standard input ends then.
        std::mem::forget(server);
        url
    })
}

/// The rows of a statement, columns divided by `|`.
fn sql(statement: &str) -> String {
    let run = Run::program("psql").args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url(), "-c", statement]);
    run.stderr("").success().text().trim_end().to_owned()
}

/// `scuttleup-postgres URL TABLE` with these lines.
fn store(table: &str, lines: &str) -> Run {
    bridge("postgres").args([url(), table]).stdin(lines).stdout("")
}

fn line(seq: u32, payload: &str) -> String {
    format!("{{\"offset\":{seq},\"peer\":\"p\",\"seq\":{seq},{payload},\"hash\":\"{seq:016x}\"}}\n")
}

#[test]
fn postgres_stores_every_kind_of_line_and_a_repeat_changes_nothing() {
    let lines = [
        r#"{"offset":1,"peer":"p","seq":1,"at":"2026-11-26T09:49:08.123Z","entry":{"b":1.0,"a":"\\. \\N"},"hash":"0000000000000001"}"#,
        r#"{"offset":2,"peer":"p","seq":2,"text":"a tab\t, a newline\n, \\. \\N and an ü","hash":"0000000000000002"}"#,
        r#"{"offset":3,"peer":"p","seq":3,"text":"\u0000","hash":"0000000000000003"}"#,
        r#"{"offset":4,"peer":"p","seq":4,"base64":"","hash":"0000000000000004"}"#,
        r#"{"offset":5,"peer":"p","seq":5,"base64":"/wA=","hash":"0000000000000005"}"#,
        r#"{"offset":6,"peer":"p","seq":6,"deleted":true,"hash":"0000000000000006","bytes":312}"#,
        r#"{"peer":"q","seq":9,"floor":true,"chain":"00000000000000000000000000000000"}"#,
        r#"{"peer":"'\\\"\n","seq":4294967295,"entry":{"x":[1],"hash":"0000000000000000"}}"#,
        r#"{"peer":"p","seq":7,"entry":null,"hash":"0000000000000007","error":{"exit":1,"attempt":5}}"#,
    ]
    .join("\n");
    let rows = r#"'\"?|4294967295|{"x": [1], "hash": "0000000000000000"}||||f||
p|1|{"a": "\\. \\N", "b": 1.0}|||2026-11-26 09:49:08.123|f||0000000000000001
p|2||a tab	, a newline?, \. \N and an ü|||f||0000000000000002
p|3|||\x00||f||0000000000000003
p|4|||\x||f||0000000000000004
p|5|||\xff00||f||0000000000000005
p|6|||||t|312|0000000000000006
p|7|null||||f||0000000000000007"#;
    let columns =
        "replace(peer, E'\\n', '?'), seq, entry, replace(text, E'\\n', '?'), bytes, at at time zone 'UTC', deleted, length, hash";
    for _ in 0..2 {
        store("kinds", &lines).stderr("").success();
        assert_eq!(sql(&format!("select {columns} from kinds order by peer, seq")), rows);
    }
}

#[test]
fn json_that_jsonb_refuses_is_in_the_column_text() {
    let deep = format!("{}1{}", "[".repeat(127), "]".repeat(127));
    let long = "9".repeat(4300);
    let entries = [r#"{"a":"x\u0000y"}"#, "1e999999", "{\"a\":1}", &deep, &long];
    let lines: String = (1..).zip(entries).map(|(seq, entry)| line(seq, &format!("\"entry\":{entry}"))).collect();
    store("refused", &lines).stderr("").success();
    let shown = sql("select seq, entry is null, text from refused order by seq");
    assert_eq!(shown, "1|t|{\"a\":\"x\\u0000y\"}\n2|t|1e999999\n3|f|\n4|f|\n5|f|");
    assert_eq!(sql("select entry from refused where seq = 5"), long);
}

/// The statement is an example of scuttleup-postgres(1).
#[test]
fn a_log_comes_back_from_postgres_byte_for_byte() {
    let page = include_str!("../man/scuttleup-postgres.1");
    let (_, example) = page.split_once("\n$ psql -At logs -c \"\n").expect("the example");
    let (statement, _) = example.split_once("\" |").expect("its end");
    let place = Place::new();
    let (from, to) = (place.log("from"), place.log("to"));
    append(&from, "{\"b\": 1.50, \"a\":1, \"a\":2}\n{\"a\":\"\\u0000\"}\n\"\\\\\"\n");
    for bytes in [&b"a\nb"[..], b"", b"\0", b"\xff\\x"] {
        Run::new(&from).args(["-q", "append", "--raw"]).stdin(bytes).success();
    }
    Run::new(&from).args(["-q", "append"]).stdin("1\n2\n").success();
    Run::new(&from).args(["del", "from", "8"]).success();
    let lines = Run::new(&from).args(["read"]).success();
    bridge("postgres").args(["--exact", url(), "back"]).stdin(lines.stdout).stderr("").success();
    let lines = sql(&statement.replace("\\e", "\\").replace("from scuttleup", "from back"));
    assert_eq!(lines.lines().count(), 9, "{lines}");
    Run::new(&to).args(["write"]).stdin(lines).success();
    assert_eq!(root(&to), root(&from));
}

/// The test holds the lock that a bridge takes before it creates a table, until all bridges wait for it.
#[test]
fn bridges_that_create_one_table_at_the_same_time_all_end_with_success() {
    sql("create database contended");
    let url = url().replace("dbname=postgres", "dbname=contended");
    let mut holder = Run::program("psql").args(["-X", "-q", "-A", "-t", "-d", &url]).spawn();
    holder.send("begin; select pg_advisory_xact_lock(hashtext('scuttleup')), 'held';\n");
    assert_eq!(holder.line(), "|held\n");
    let lines: String = (1..=200).map(|seq| line(seq, "\"entry\":1")).collect();
    let mut running: Vec<_> = (0..6).map(|_| bridge("postgres").args([&url]).spawn()).collect();
    for one in &mut running {
        one.send(&lines);
        one.close();
    }
    let waiting = "select count(*) from pg_locks where not granted and locktype = 'advisory'
        and database = (select oid from pg_database where datname = 'contended')";
    let started = Instant::now();
    while sql(waiting) != "6" {
        assert!(started.elapsed() < STEP, "{} bridges wait", sql(waiting));
    }
    holder.send("commit;\n");
    for mut one in running {
        let ended = one.wait();
        assert!(ended.status.success(), "{}", ended.printed.stderr);
    }
    holder.send("select count(*), sum(seq) from scuttleup;\n");
    assert_eq!(holder.line(), "200|20100\n");
}

#[test]
fn a_name_of_a_table_is_taken_as_it_is() {
    sql("create schema \"A b\"");
    for (name, quoted) in [
        ("A b.C.d", "\"A b\".\"C.d\""),
        ("it's \"x\"; drop table y; $$ :name --", "\"it's \"\"x\"\"; drop table y; $$ :name --\""),
        ("select", "\"select\""),
    ] {
        for _ in 0..2 {
            store(name, &line(1, "\"entry\":1")).stderr("").success();
        }
        assert_eq!(sql(&format!("select count(*) from {quoted}")), "1");
    }
}

#[test]
fn postgres_refuses_another_entry_of_the_same_number_as_a_fork() {
    store("forked", &line(1, "\"entry\":1")).success();
    let lines = line(2, "\"entry\":2") + &line(1, "\"entry\":3").replace("0000000000000001", "000000000000000f");
    store("forked", &lines).stderr_has("scuttleup-postgres: entry 1 of the peer p is in the table with another hash: ").status(4);
    assert_eq!(sql("select seq, entry from forked"), "1|1");
}

#[test]
fn a_line_that_is_no_change_line_ends_the_input_of_postgres() {
    for (table, bad) in (0..).map(|number| format!("bad{number}")).zip([
        "x",
        "{}",
        r#"{"peer":"p","seq":3}"#,
        r#"{"seq":3,"peer":"p","entry":1}"#,
        r#"{"peer":"p","seq":0,"entry":1}"#,
        r#"{"peer":"p","seq":3,"entry":1 2}"#,
        r#"{"peer":"p","seq":3,"entry":NaN}"#,
        r#"{"peer":"p","seq":3,"entry":{"a":}}"#,
        r#"{"peer":"p","seq":3,"base64":"*"}"#,
        r#"{"peer":"p","seq":3,"text":"\ud800"}"#,
        r#"{"peer":"p","seq":3,"deleted":false,"hash":"0000000000000001","bytes":1}"#,
        r#"{"peer":"p","seq":3,"entry":1,"entry":2}"#,
        r#"{"peer":"p","seq":3,"entry":1,"hash":"0000"}"#,
        // A text of PostgreSQL cannot hold a NUL.
        r#"{"peer":"\u0000","seq":3,"entry":1}"#,
        "{\"peer\":\"p\",\"seq\":3,\"at\":\"2026\t\",\"entry\":1}",
    ]) {
        let lines = line(1, "\"entry\":1") + &line(2, "\"entry\":2") + bad + "\n" + &line(4, "\"entry\":4");
        let message = "line 3 is not a change line as scuttleup prints it: correct or remove it, the lines before it are stored";
        store(&table, &lines).stderr(&format!("scuttleup-postgres: {message}\n")).status(7);
        assert_eq!(sql(&format!("select seq from {table} order by seq")), "1\n2");
    }
}

#[test]
fn a_line_that_the_table_refuses_is_set_aside_and_the_others_are_stored() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n2\n3\n4\n5\n");
    sql("create table picky (peer text, seq bigint, entry jsonb check (entry <> '3'), text text, bytes bytea, deleted boolean,
        length bigint, hash text, at timestamptz, primary key (peer, seq))");
    let dead = place.path("dead");
    let run = Run::new(&log).args(["exec", "--cursor", "c", "--retry", "1", "--dead-letter"]).args([&dead]).args(["--"]);
    run.args([path("postgres")]).args([url(), "picky"]).success();
    let dead = std::fs::read_to_string(dead).expect("a file");
    assert!(dead.starts_with("{\"offset\":3,") && dead.lines().count() == 1, "{dead}");
    assert_eq!(sql("select string_agg(seq::text, ' ' order by seq) from picky"), "1 2 4 5");
    // The table takes it now.
    sql("alter table picky drop constraint picky_entry_check");
    store("picky", &dead).stderr("").success();
    assert_eq!(sql("select count(*) from picky"), "5");
}

#[test]
fn a_killed_bridge_stores_nothing_in_postgres() {
    // More than the pipes and one slice hold, so that rows are in the table, but not committed.
    let lines: String = (1..=200).map(|seq| line(seq, &format!("\"entry\":\"{}\"", "x".repeat(50000)))).collect();
    store("killed", "").success();
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT] {
        let mut running = store("killed", "").spawn();
        running.send(&lines);
        running.signal(signal);
        let ended = running.wait();
        assert!(!ended.status.success());
        assert_eq!(ended.printed.stderr, "");
        // Waits for the end of the transaction.
        assert_eq!(sql("begin; lock table killed in access exclusive mode; select count(*) from killed; commit"), "0");
    }
    store("killed", &lines).stderr("").success();
    assert_eq!(sql("select count(*), sum(seq) from killed"), "200|20100");
}

#[test]
fn a_server_that_can_lose_entries_is_refused() {
    sql("create unlogged table unlogged (peer text, seq bigint, entry jsonb, text text, bytes bytea, deleted boolean, length bigint,
        hash text, at timestamptz, primary key (peer, seq))");
    let lines = line(1, "\"entry\":1");
    store("unlogged", &lines).stderr_has("scuttleup-postgres: the table is unlogged: ").status(1);
    assert_eq!(sql("select count(*) from unlogged"), "0");
    bridge("postgres").args(["--accept-loss", url(), "unlogged"]).stdin(&lines).stderr("").success();
    assert_eq!(sql("select count(*) from unlogged"), "1");
    let server = Server::new(&["-c", "fsync=off"]);
    let run = bridge("postgres").args([&server.url]).stdin(&lines);
    run.stderr_has("scuttleup-postgres: the server loses data when it crashes: set fsync = on ").status(1);
    bridge("postgres").args(["--accept-loss", &server.url]).stdin(&lines).stderr("").success();
}

/// A setting of the session that would make the commit less durable, or the isolation stricter, has no effect.
#[test]
fn settings_of_the_session_do_not_weaken_the_commit() {
    sql("create table watched (peer text, seq bigint, entry jsonb, text text, bytes bytea, deleted boolean, length bigint, hash text,
        at timestamptz, primary key (peer, seq));
        create table seen (setting text);
        create function note() returns trigger language plpgsql as 'begin insert into seen
            values (current_setting(''synchronous_commit'') || current_setting(''transaction_isolation'')); return new; end';
        create trigger note before insert on watched for each row execute function note()");
    let options = "-c synchronous_commit=off -c default_transaction_isolation=serializable -c standard_conforming_strings=off";
    store("watched", &line(1, "\"entry\":\"\\\\\"")).env("PGOPTIONS", options).stderr("").success();
    assert_eq!(sql("select setting from seen"), "onread committed");
}

#[test]
fn errors_of_postgres_are_one_line() {
    let lines = line(1, "\"entry\":1");
    let nowhere = bridge("postgres").args(["host=/nowhere dbname=x"]).stdin(&lines);
    nowhere.stderr_has("scuttleup-postgres: connection to server on socket \"/nowhere/").status(1);
    let empty = Place::new();
    let no_psql = Run::program(python()).args([path("postgres")]).args(["x"]);
    no_psql
        .env("PATH", empty.path("."))
        .stderr("scuttleup-postgres: there is no psql: run: apt-get install postgresql-client\n")
        .status(1);
    store("no schema.x", &lines)
        .stderr("scuttleup-postgres: schema \"no schema\" does not exist; nothing was stored\n")
        .status(1);
    store("", &lines).stderr_has("is no name of a table").status(2);
    sql("create database latin encoding latin1 template template0 lc_collate 'C' lc_ctype 'C'");
    let latin = bridge("postgres").args([url().replace("dbname=postgres", "dbname=latin")]).stdin(&lines);
    latin
        .stderr("scuttleup-postgres: the encoding of the database is not UTF8: use another database; nothing was stored\n")
        .status(1);
    // The server reports a full disk with this code.
    sql("create table full_disk (peer text, seq bigint, entry jsonb, text text, bytes bytea, deleted boolean, length bigint, hash text,
        at timestamptz, primary key (peer, seq));
        create function fill() returns trigger language plpgsql as 'begin raise exception using errcode = ''53100''; end';
        create trigger fill before insert on full_disk for each row execute function fill()");
    store("full_disk", &lines).stderr("scuttleup-postgres: 53100; nothing was stored\n").status(5);
}

/// The path of the interpreter.
fn python() -> String {
    Run::program("python3").args(["-c", "import sys; print(sys.executable)"]).success().text().trim_end().to_owned()
}

#[test]
fn kills_of_the_bridge_and_of_postgres_lose_and_repeat_nothing() {
    kills("postgres");
}
