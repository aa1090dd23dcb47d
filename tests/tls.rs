//! The recipe for TLS in scuttleup-systemd(7): socat with certificates on both sides.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::harness::{Place, Run, Running, SCUTTLEUP, append, assert_equal, heads};
use crate::replicate::await_entries;

/// The commands of a block of a section of scuttleup-systemd(7), as typed by the user of `prompt`.
fn typed(section: &str, prompt: &str) -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/scuttleup-systemd.7")).expect("the page");
    let (_, rest) = page.split_once(&format!("\n.Sh {section}\n")).expect("the section");
    let mut commands = String::new();
    let mut goes_on = false;
    for line in rest.split("\n.Sh ").next().expect("a part").lines() {
        let line = line.replace("\\e", "\\").replace("\\(dq", "\"");
        let more = line.strip_prefix("> ").filter(|_| goes_on);
        let text = line.strip_prefix(prompt).or(more);
        goes_on = text.is_some();
        commands.extend(text.map(|text| format!("{text}\n")));
    }
    assert!(!commands.is_empty(), "no command of {prompt}");
    commands
}

/// A host with the log `b`, whose socat waits for clients. The certificates are in the directory of the test.
struct Host {
    place: Place,
    port: String,
    server: Running,
}

impl Host {
    fn new() -> Self {
        let place = Place::new();
        for id in ["a", "b"] {
            append(&place.log(id), format!("\"from {id}\"\n"));
        }
        // The certificates of the recipe; then those of another authority, with the same names, and an expired one.
        let make = typed("TLS", "$ ").replace("other.example.org laptop", "localhost laptop");
        let expired = "openssl x509 -req -in laptop.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days -1 -out expired.crt
            cat laptop.key expired.crt > expired.pem\n";
        let script = format!("set -e; {make}{expired}mkdir other; cd other; {make}");
        Run::program("bash").args(["-c", &format!("cd \"$1\"; {script}"), "bash"]).args([place.path(".")]).success();
        let line = typed("TLS", "host$ ").replace("other.example.org", "localhost");
        assert!(line.contains(":7000,") && line.contains("'scuttleup --log /var/lib/scuttleup/log "), "{line}");
        let line = line.replace(":7000,", ":0,bind=127.0.0.1,").replace("socat ", "exec socat -d -d ");
        let line = line.replace("'scuttleup --log /var/lib/scuttleup/log ", &format!("'{SCUTTLEUP} --log b "));
        // The shell redirects stderr of socat to stdout, because the test can read only stdout line by line.
        let script = format!("cd \"$1\"; exec 2>&1 </dev/null; {line}");
        let mut server = Run::program("bash").args(["-c", &script, "bash"]).args([place.path(".")]).spawn();
        let port = loop {
            let line = server.line();
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.trim().rsplit(':').next().expect("a port").to_owned();
            }
        };
        Self { place, port, server }
    }

    /// The client of the recipe, with these words in the place of the certificate and the authority.
    fn client(&self, name: &str, certificates: &str) -> Run {
        let line = typed("TLS", "laptop$ ");
        assert!(line.contains(",cert=laptop.pem,cafile=ca.crt") && line.contains(":other.example.org:7000,"), "{line}");
        let line = line.replace(":other.example.org:7000", &format!(":{name}:{}", self.port));
        let line = line.replace(",cert=laptop.pem,cafile=ca.crt", certificates);
        let line = line.replace("scuttleup replicate", &format!("exec {SCUTTLEUP} --log a replicate"));
        Run::program("bash").args(["-c", &format!("cd \"$1\"; {line}"), "bash"]).args([self.place.path(".")])
    }

    /// Reads what the host says, up to the line that contains `text`.
    fn says(&mut self, text: &str) {
        while !self.server.line().contains(text) {}
    }
}

#[test]
fn a_session_over_tls_syncs_once_and_live() {
    let host = Host::new();
    let right = ",cert=laptop.pem,cafile=ca.crt";
    host.client("localhost", right).stderr_has("synced with b: sent 1 (1 durable on the remote), received 1").success();
    let (a, b) = (host.place.path("a"), host.place.path("b"));
    assert_equal(&a, &b);
    let line = format!("exec {SCUTTLEUP} --log a replicate -- socat -t 60 - OPENSSL:localhost:{}{right}", host.port);
    let live = Run::program("bash").args(["-c", &format!("cd \"$1\"; {line}"), "bash"]).args([host.place.path(".")]).spawn();
    append(&a, "1\n");
    await_entries(&b, "a", 2);
    append(&b, "1\n");
    await_entries(&a, "b", 2);
    live.signal(Signal::SIGTERM);
    assert_eq!(live.finish().status.code(), Some(143));
    assert_equal(&a, &b);
}

#[test]
fn wrong_certificates_are_refused_on_both_sides_with_their_reason() {
    let mut host = Host::new();
    let before = heads(&host.place.path("b"));
    let certificates = [
        ("", "alert handshake failure", "peer did not return a certificate"),
        (",cert=expired.pem", "alert certificate expired", "certificate verify failed"),
        (",cert=other/laptop.pem", "alert unknown ca", "certificate verify failed"),
    ];
    for (certificate, client, server) in certificates {
        let run = host.client("localhost", &format!("{certificate},cafile=ca.crt"));
        run.stderr_has(client).stderr_has("the remote ended before its handshake (socat ended with exit status: 1)").status(3);
        host.says(server);
    }
    // A server that the client does not trust: another authority, and another name.
    host.client("localhost", ",cert=laptop.pem,cafile=other/ca.crt").stderr_has("certificate verify failed").status(3);
    host.client("127.0.0.1", ",cert=laptop.pem,cafile=ca.crt").stderr_has("does not match hostname").status(3);
    assert_eq!(heads(&host.place.path("b")), before);
    assert_eq!(heads(&host.place.path("a")).len(), 1);
}
