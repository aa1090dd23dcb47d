//! The examples of the manual pages run as they are shown. ssh, curl and journalctl are replaced by programs of the test.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::{Place, Run, SCUTTLEUP};

/// The start of each example that does not run here, and the reason.
const NOT_RUN: [(&str, &str); 19] = [
    ("scuttleup append --skip-bad /var/lib/bad --follow", "files of the system; tests/follow.rs follows files"),
    ("scuttleup append --raw --lines --follow /var/log", "files of the system"),
    ("tail -F /var/log", "files of the system"),
    ("scuttleup --log /snapshot/log id --new", "a mounted snapshot; tests/identity.rs makes one"),
    ("scuttleup watch --since 09:30 --until 12:00", "the time of the day decides when it ends"),
    ("scuttleup watch --tail --peer web1", "only later entries; tests/watch.rs waits for them"),
    ("scuttleup exec --cursor web --live --tail", "only later entries; tests/exec.rs waits for them"),
    ("scuttleup exec --cursor pg", "a server; tests/bridges_postgres.rs starts one"),
    ("psql logs -c \"create index", "a server"),
    ("psql logs -c \"select", "a server"),
    ("psql -At logs", "a server; tests/bridges_postgres.rs runs it"),
    ("scuttleup exec --cursor redis", "a server; tests/bridges_redis.rs starts one"),
    ("redis-cli xrevrange", "a server"),
    ("redis-cli xtrim", "a server"),
    ("scuttleup exec --cursor nats", "a server; tests/bridges_nats.rs starts one"),
    ("scuttleup-nats nats://hub logs --follow", "a server; tests/bridges_nats.rs starts one"),
    ("scuttleup exec --cursor kafka", "a server; tests/bridges_kafka.rs starts one"),
    ("kcat -C -b broker1:9092", "a server"),
    ("scuttleup --log a replicate -- scuttleup", "it does not end; tests/replicate.rs has live sessions"),
];

/// Examples that do not end by themselves. They are ended after their first line.
const ENDLESS: [&str; 1] = ["scuttleup watch --peer 'web-*'"];

/// The exit codes that are not 0.
const EXIT_CODES: [(&str, i32); 1] = [("scuttleup append --skip-bad bad", 7)];

const SSH: &str = "#!/bin/sh
while :; do case $1 in -T) shift;; -o) shift 2;; *) break;; esac; done
shift
HOME=$HOST_HOME; export HOME; cd
if [ $# -eq 0 ]; then set -- scuttleup replicate --no-create; fi
exec sh -c \"$*\"
";

const JOURNALCTL: &str = "#!/bin/sh\nprintf '{\"__CURSOR\":\"%s\",\"MESSAGE\":\"hello\"}\\n' 1 2 3\n";

/// A home with a log of each kind that the examples name, and with their files.
const PREPARED: &str = "set -e; cd
scuttleup -q init --id laptop
seq 3 | sed 's/.*/{\"n\":&}/' | scuttleup append
head -c 1000 /dev/urandom | scuttleup append --raw
seq 5 20 | scuttleup append
for peer in web-1 web-2 web1; do printf '{\"peer\":\"%s\",\"seq\":1,\"entry\":{\"from\":\"web\"}}\\n' $peer; done | scuttleup write
for log in a b; do scuttleup -q --log $log init --id $log; seq 20 | scuttleup --log $log append; done
scuttleup --log a read | head -n 10 | scuttleup --log b write
printf '{\"a\":1}\\nnot JSON\\n' > file
head -c 1000 /dev/urandom > photo.jpeg
mkdir -p .config/fish/completions
scuttleup -q replicate --once -- env HOME=\"$HOST_HOME\" scuttleup -q replicate
";

/// The commands in the section EXAMPLES of a page.
fn commands(page: &str) -> Vec<String> {
    let Some((_, section)) = page.split_once("\n.Sh EXAMPLES\n") else { return Vec::new() };
    let section = section.split("\n.Sh ").next().expect("there is a first part");
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in section.lines() {
        let line = line.replace("\\(dq", "\"").replace("\\&", "");
        if let Some(command) = line.strip_prefix(".Dl $ ").or_else(|| line.strip_prefix("$ ")) {
            commands.push(command.replace("\\e", "\\"));
            goes_on = true;
        } else if goes_on && let Some(last) = commands.last_mut() {
            goes_on = last.ends_with('\\') || line.starts_with("> ") || line.starts_with(' ');
            if goes_on {
                last.push('\n');
                last.push_str(&line.strip_prefix("> ").unwrap_or(&line).replace("\\e", "\\"));
            }
        }
    }
    commands
}

fn program(dir: &Path, name: &str, script: &str) {
    fs::write(dir.join(name), script).expect("a file");
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).expect("a mode");
}

/// `bash -c SCRIPT` in the home of the place.
fn bash(place: &Place, script: &str) -> Run {
    let programs = [place.path("bin"), PathBuf::from(SCUTTLEUP).parent().expect("a directory").to_owned()];
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths: OsString = std::env::join_paths(programs.into_iter().chain(std::env::split_paths(&paths))).expect("a search path");
    let run = Run::program("bash").args(["-c", script]).env("PATH", paths).env("XDG_DATA_HOME", "");
    run.env("HOME", place.path("home")).env("HOST_HOME", place.path("host"))
}

#[test]
fn the_examples_of_the_manual_pages_run() {
    let pages = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("man")).expect("man");
    let (mut ran, mut left_out, mut failed) = (0, Vec::new(), Vec::new());
    for page in pages.map(|page| page.expect("an entry").path()) {
        let commands = commands(&fs::read_to_string(&page).expect("a page"));
        if commands.is_empty() {
            continue;
        }
        let place = Place::new();
        for dir in ["home", "host", "bin"] {
            fs::create_dir(place.path(dir)).expect("a directory");
        }
        program(&place.path("bin"), "ssh", SSH);
        program(&place.path("bin"), "journalctl", JOURNALCTL);
        bash(&place, PREPARED).success();
        for command in commands {
            if let Some((start, _)) = NOT_RUN.iter().find(|(start, _)| command.starts_with(start)) {
                left_out.push(*start);
                continue;
            }
            ran += 1;
            let run = bash(&place, &format!("cd\n{command}"));
            if ENDLESS.contains(&command.as_str()) {
                let mut running = run.spawn();
                running.line();
                running.signal(nix::sys::signal::Signal::SIGTERM);
                running.wait();
                continue;
            }
            let code = EXIT_CODES.iter().find(|(start, _)| command.starts_with(start)).map_or(0, |(_, code)| *code);
            let ended = run.end();
            if ended.status.code() != Some(code) {
                failed.push(format!("{}: {command}: {}: {}", page.display(), ended.status, ended.printed.stderr));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(ran >= 35, "only {ran} examples");
    left_out.sort_unstable();
    let mut known: Vec<&str> = NOT_RUN.iter().map(|(start, _)| *start).collect();
    known.sort_unstable();
    assert_eq!(left_out, known, "an example that is left out is no longer there, or twice");
}
