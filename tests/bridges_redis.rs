//! `scuttleup-redis` with real servers. Each test starts its own one.

use std::net::TcpListener;

use crate::bridges::{bridge, kills, python};
use crate::harness::{Place, Run, Running};

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// A server on a socket in its own directory. It ends when this value is dropped.
struct Server {
    place: Place,
    running: Running,
}

impl Server {
    fn new(options: &[&str]) -> Self {
        Self::start(options).expect("no port")
    }

    /// A server that also listens on a port of 127.0.0.1.
    fn with_port(options: &[&str]) -> (Self, String) {
        loop {
            let port =
                TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port().to_string();
            if let Some(server) = Self::start(&[options, &["--bind", "127.0.0.1", "--port", &port]].concat()) {
                return (server, port);
            }
        }
    }

    /// `None` if another process has the port.
    fn start(options: &[&str]) -> Option<Self> {
        let place = Place::new();
        let run = Run::program("redis-server").args(["--unixsocket"]).args([place.path("socket")]).args(["--dir"]);
        let run = run.args([place.path(".")]).args(["--save", ""]);
        let has_port = options.contains(&"--port");
        let run = if has_port { run } else { run.args(["--port", "0"]) };
        let mut running = run.args(options).spawn();
        loop {
            let line = running.line();
            if line.contains("ready to accept connections at ") {
                return Some(Self { place, running });
            }
            if line.contains("Failed listening on port") {
                return None;
            }
        }
    }

    fn url(&self) -> String {
        format!("unix://{}", self.place.path("socket").display())
    }

    /// `scuttleup-redis URL p` with these lines.
    fn store(&self, lines: &str) -> Run {
        redis(&[self.url().as_str(), "p"]).stdin(lines)
    }

    /// The reply of the server, as redis-cli prints it.
    fn ask(&self, words: &[&str]) -> String {
        let run = Run::program("redis-cli").args(["-s"]).args([self.place.path("socket")]).args(words);
        run.stderr("").success().text().trim_end().to_owned()
    }
}

/// `scuttleup-redis` with the client of tests/bridges/requirements.txt.
fn redis(args: &[&str]) -> Run {
    bridge("redis").env("PYTHONPATH", python()).args(args).stdout("")
}

fn line(seq: u32, payload: &str) -> String {
    format!("{{\"offset\":{seq},\"peer\":\"a\",\"seq\":{seq},{payload},\"hash\":\"{seq:016x}\"}}\n")
}

fn lines(seqs: std::ops::RangeInclusive<u32>) -> String {
    seqs.map(|seq| line(seq, &format!("\"entry\":{seq}"))).collect()
}

#[test]
fn redis_stores_every_kind_of_line_and_a_repeat_changes_nothing() {
    let server = Server::new(&DURABLE);
    let lines = [
        r#"{"offset":1,"peer":"a","seq":1,"at":"2026-11-26T09:49:08.123Z","entry":{"b":1.0,"a":"\u0000"},"hash":"0000000000000001"}"#,
        r#"{"offset":2,"peer":"a","seq":2,"text":"a tab\t, \\ and an \u00fc","hash":"0000000000000002"}"#,
        r#"{"offset":3,"peer":"a","seq":3,"base64":"/wA=","hash":"0000000000000003"}"#,
        r#"{"offset":4,"peer":"a","seq":4,"deleted":true,"hash":"0000000000000004","bytes":312}"#,
        r#"{"peer":"b","seq":9,"floor":true,"chain":"00000000000000000000000000000000"}"#,
        r#"{"peer":"'\\\" ü","seq":4294967295,"entry":{"x":[1],"hash":"0000000000000000"}}"#,
        r#"{"peer":"a","seq":5,"entry":null,"hash":"0000000000000005","error":{"exit":1,"attempt":5}}"#,
    ]
    .join("\n");
    let stream = [
        r#"["1-0",["entry","{\"b\":1.0,\"a\":\"\\u0000\"}","hash","0000000000000001","at","2026-11-26T09:49:08.123Z"]]"#,
        r#"["2-0",["text","a tab\t, \\ and an ü","hash","0000000000000002"]]"#,
        r#"["3-0",["base64","/wA=","hash","0000000000000003"]]"#,
        r#"["4-0",["deleted","true","hash","0000000000000004","bytes","312"]]"#,
        r#"["5-0",["entry","null","hash","0000000000000005"]]"#,
    ];
    for _ in 0..2 {
        server.store(&lines).stderr("").success();
        assert_eq!(server.ask(&["--json", "xrange", "p:a", "-", "+"]), format!("[{}]", stream.join(",")));
        assert_eq!(
            server.ask(&["xrange", "p:'\\\" ü", "-", "+"]),
            "4294967295-0\nentry\n{\"x\":[1],\"hash\":\"0000000000000000\"}"
        );
        assert_eq!(server.ask(&["dbsize"]), "2");
    }
}

#[test]
fn entries_that_were_removed_from_a_stream_do_not_come_back() {
    let server = Server::new(&DURABLE);
    server.store(&lines(1..=5)).success();
    server.ask(&["xdel", "p:a", "3-0"]);
    server.store(&lines(1..=6)).stderr("").success();
    assert_eq!(server.ask(&["xlen", "p:a"]), "5");
    server.ask(&["xtrim", "p:a", "maxlen", "1"]);
    server.store(&lines(1..=7)).stderr("").success();
    assert_eq!(server.ask(&["--json", "xrange", "p:a", "-", "+"]).matches("-0").count(), 2);
    server.ask(&["xtrim", "p:a", "maxlen", "0"]);
    server.store(&lines(1..=7)).stderr("").success();
    assert_eq!(server.ask(&["xlen", "p:a"]), "0");
    server.store(&lines(1..=8)).stderr("").success();
    assert_eq!(server.ask(&["xlen", "p:a"]), "1");
}

/// Redis refuses such an entry with the same message as a repeated one.
#[test]
fn an_entry_that_comes_too_late_for_its_stream_is_an_error() {
    let server = Server::new(&DURABLE);
    let message = |seq| {
        format!(
            "scuttleup-redis: entry {seq} comes too late for the stream p:a, which ends with entry 5: a stream grows only at its end\n"
        )
    };
    server.store(&(lines(2..=3) + &lines(5..=5))).success();
    server.store(&lines(4..=4)).stderr(&message(4)).status(1);
    server.store(&lines(1..=1)).stderr(&message(1)).status(1);
    // It is also known after an entry in front of it was removed.
    server.ask(&["xdel", "p:a", "3-0"]);
    server.store(&lines(4..=4)).stderr(&message(4)).status(1);
    server.store(&lines(3..=3)).stderr("").success();
}

#[test]
fn redis_refuses_another_entry_of_the_same_number_as_a_fork() {
    let server = Server::new(&DURABLE);
    server.store(&lines(1..=2)).success();
    let other = line(2, "\"entry\":2").replace("0000000000000002", "000000000000000f");
    server.store(&other).stderr_has("scuttleup-redis: entry 2 is in the stream p:a with another hash: ").status(4);
}

#[test]
fn a_line_that_is_no_change_line_ends_the_input_of_redis() {
    let server = Server::new(&DURABLE);
    for bad in [
        "x",
        "{}",
        r#"{"seq":3,"peer":"p","entry":1}"#,
        r#"{"peer":"p","seq":3,"entry":NaN}"#,
        r#"{"peer":"\ud800","seq":3,"entry":1}"#,
        r#"{"peer":"p","seq":3,"entry":1 2}"#,
        r#"{"peer":"p","seq":3,"base64":"*"}"#,
        r#"{"peer":"p","seq":3,"text":"\ud800"}"#,
    ] {
        let input = lines(1..=2) + bad + "\n" + &lines(4..=4);
        let message = "line 3 is not a change line as scuttleup prints it: correct or remove it, the lines before it are stored";
        server.store(&input).stderr(&format!("scuttleup-redis: {message}\n")).status(7);
        assert_eq!(server.ask(&["xlen", "p:a"]), "2");
    }
}

#[test]
fn a_redis_server_that_can_lose_entries_is_refused() {
    let crash = "scuttleup-redis: the server loses entries when it crashes: set ";
    let (aof, always) = (&DURABLE[..2], &DURABLE[..]);
    for (options, message) in [
        (&[][..], format!("{crash}appendonly yes and appendfsync always ")),
        (aof, format!("{crash}appendonly yes and appendfsync always ")),
        (&[always, &["--no-appendfsync-on-rewrite", "yes"]].concat(), format!("{crash}no-appendfsync-on-rewrite no")),
        (
            &[always, &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]].concat(),
            "scuttleup-redis: the server removes keys when its memory is full: set maxmemory-policy noeviction".into(),
        ),
        (
            &[always, &["--rename-command", "CONFIG", ""]].concat(),
            "scuttleup-redis: the server does not tell whether it can lose entries (CONFIG GET appendonly: ".into(),
        ),
        (
            &[always, &["--rename-command", "INFO", ""]].concat(),
            "scuttleup-redis: the server does not tell whether it can lose entries (INFO memory: ".into(),
        ),
    ] {
        let server = Server::new(options);
        server.store(&lines(1..=1)).stderr_has(&message).stderr_has("--accept-loss").status(1);
        assert_eq!(server.ask(&["dbsize"]), "0");
        redis(&["--accept-loss", &server.url()]).stdin(lines(1..=1)).stderr("").success();
        assert_eq!(server.ask(&["xlen", "scuttleup:a"]), "1");
    }
}

/// Otherwise a later entry of the feed could be stored, and the stream would refuse the earlier one for ever.
#[test]
fn a_full_redis_stores_all_entries_of_a_chunk_or_none() {
    let server = Server::new(&[&DURABLE[..], &["--maxmemory", "4mb"]].concat());
    let long: String = (1..=5000).map(|seq| line(seq, &format!("\"entry\":\"{}\"", "x".repeat(900)))).collect();
    server
        .store(&long)
        .stderr_has("scuttleup-redis: the server refuses XADD: command not allowed when used memory > 'maxmemory'")
        .status(5);
    let stored: u32 = server.ask(&["xlen", "p:a"]).parse().expect("a number");
    assert!(stored < 5000 && stored.is_multiple_of(1000), "{stored}");
    server.ask(&["config", "set", "maxmemory", "0"]);
    server.store(&long).stderr("").success();
    assert_eq!(server.ask(&["xlen", "p:a"]), "5000");
}

/// The server can have started again without the entries of the first connection.
#[test]
fn a_connection_to_redis_that_ends_is_not_made_again() {
    let server = Server::new(&DURABLE);
    let mut running = server.store("").spawn();
    running.send(lines(1..=1000));
    server.ask(&["xread", "block", "0", "streams", "p:a", "999-0"]);
    assert_eq!(server.ask(&["client", "kill", "type", "normal"]), "1");
    running.send(lines(1001..=1001));
    running.close();
    let ended = running.wait();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.printed.stderr.starts_with("scuttleup-redis: no connection to the server: "), "{}", ended.printed.stderr);
    assert_eq!(server.ask(&["xlen", "p:a"]), "1000");
}

#[test]
fn passwords_databases_and_errors_of_redis() {
    let server = Server::new(&[&DURABLE[..], &["--requirepass", "s/cret"]].concat());
    let url = server.url();
    let run = |url: &str| redis(&[url, "p"]).stdin(lines(1..=1));
    let no_connection = "scuttleup-redis: no connection to the server: ";
    run(&url).stderr_has(no_connection).stderr_has("uthenticat").status(1);
    run(&url).env("REDISCLI_AUTH", "no").stderr_has(&format!("{no_connection}invalid username-password pair")).status(1);
    run(&format!("{url}?db=3")).env("REDISCLI_AUTH", "s/cret").stderr("").success();
    assert_eq!(server.ask(&["-a", "s/cret", "--no-auth-warning", "-n", "3", "xlen", "p:a"]), "1");
    server.ask(&["-a", "s/cret", "--no-auth-warning", "set", "p:a", "x"]);
    run(&url.replace("://", "://:s%2Fcret@")).stderr_has("scuttleup-redis: the server refuses XADD: WRONGTYPE").status(1);
    run("unix:///nowhere").stderr_has(no_connection).status(1);
    // A server that takes the connection and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = mute.local_addr().expect("an address");
    run(&format!("rediss://{address}?socket_timeout=0.1")).stderr_has(no_connection).status(1);
    for url in ["http://x", "redis://:s/cret@x", "redis://x/y", "redis://x?no_such_option=1"] {
        let message = "scuttleup-redis: the URL is not redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss://... or unix:///SOCKET[?db=DB]; \
            a / in a password is %2F, a % is %25\n";
        run(url).stderr(message).status(2);
    }
    let without = Place::new();
    std::fs::write(without.path("redis.py"), "raise ImportError").expect("a file");
    run(&url)
        .env("PYTHONPATH", without.path("."))
        .stderr("scuttleup-redis: the Python package redis is missing: run: apt-get install python3-redis\n")
        .status(1);
}

#[test]
fn replicas_that_are_asked_for_have_the_entries_at_the_end() {
    let (server, port) = Server::with_port(&DURABLE);
    let replica = Server::new(&["--replicaof", "127.0.0.1", &port]);
    redis(&["--replicas", "1", &format!("redis://127.0.0.1:{port}/0"), "p"]).stdin(lines(1..=2500)).stderr("").success();
    assert_eq!(replica.ask(&["xlen", "p:a"]), "2500");
    // A replica takes no entries itself.
    let run = redis(&["--accept-loss", &replica.url(), "p"]).stdin(lines(2501..=2501));
    run.stderr_has("scuttleup-redis: the server refuses XADD: You can't write against a read only replica.").status(1);
    assert!(server.running.pid() > 0);
}

#[test]
fn kills_of_the_bridge_and_of_redis_lose_and_repeat_nothing() {
    kills("redis");
}
