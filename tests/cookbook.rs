//! The recipes of scuttleup-cookbook(7) run as they are printed. Each host is a home, and ssh goes from home to home.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::harness::{Place, Run, SCUTTLEUP};

/// A recipe, and what the test does around it.
struct Recipe {
    title: &'static str,
    /// Shell commands before the recipe.
    prepare: &'static str,
    /// Shell commands after it; they fail if the recipe has not done its work. `$RECIPE` has the commands of the recipe.
    check: &'static str,
    /// The starts of the commands that do not end, each with a line that it prints before it is ended.
    endless: &'static [(&'static str, Option<&'static str>)],
}

const fn recipe(title: &'static str, prepare: &'static str, check: &'static str) -> Recipe {
    Recipe { title, prepare, check, endless: &[] }
}

/// Three entries of web servers: one of them is an error. The reader of mails waits for a mail.
const WEB: &str = "mkfifo mails; on hub scuttleup -q init
printf '%s\\n' '{\"peer\":\"web1\",\"seq\":1,\"entry\":{\"status\":200,\"request\":\"GET /\"}}' \\
    '{\"peer\":\"web1\",\"seq\":2,\"text\":\"started\"}' \\
    '{\"peer\":\"web2\",\"seq\":1,\"entry\":{\"status\":503,\"request\":\"GET /news\"}}' | on hub scuttleup write";

const AGAIN: &str = "[ \"$(on $HOST scuttleup read | wc -l)\" = 3 ]
on $HOST bash -c \"$RECIPE\"
[ \"$(on $HOST scuttleup read | wc -l)\" = 3 ]";

const RECIPES: [Recipe; 14] = [
    recipe("The system journal", "", AGAIN),
    Recipe {
        title: "The access log of nginx",
        prepare: "on web scuttleup -q init; mkdir -p var/log/nginx
            printf '\"\\377\"\\n{\"status\":200}\\n' > var/log/nginx/access.json",
        check: "on web scuttleup read --live --limit 1; cd var/log/nginx; mv access.json access.json.1
            echo '{\"status\":500}' > access.json; on web scuttleup read --live --limit 2 | grep '\"seq\":2,\"entry\":{\"status\":500}'
            grep 'not UTF-8' $PLACE/web/bad-lines",
        endless: &[("scuttleup append", None)],
    },
    recipe("The logs of pods in Kubernetes", "", AGAIN),
    recipe(
        "Many hosts, one collector",
        "for host in web1 web2 web3; do on $host scuttleup -q init --id $host; echo 1 | on $host scuttleup append; done
        on collector scuttleup -q init; printf '%s\\n' web1 web2 web3 > collector/hosts",
        "[ \"$(on collector scuttleup read | wc -l) $(on web1 scuttleup read | wc -l)\" = '3 1' ]",
    ),
    Recipe {
        title: "Three laptops and a server",
        prepare: "",
        check: "for host in ann bob eve; do echo 1 | on $host scuttleup append; done
            for host in ann bob eve server; do on $host scuttleup read --live --limit 3; done",
        endless: &[("scuttleup replicate --retry", None)],
    },
    recipe(
        "Through a bastion host",
        "echo 1 | on laptop scuttleup append",
        "[ \"$(on server scuttleup read | wc -l)\" = 1 ]; ! [ -e bastion ]",
    ),
    recipe(
        "A USB stick",
        "mkdir -p media/stick; on office scuttleup -q init; seq 3 | on home scuttleup append",
        "[ \"$(on office scuttleup read | wc -l)\" = 3 ]",
    ),
    recipe("Search with jq", WEB, "[ \"$(on hub bash -c \"$RECIPE\")\" = '[\"web2\",\"GET /news\"]' ]"),
    Recipe {
        title: "An alarm",
        prepare: WEB,
        check: "grep 'GET /news' mails",
        endless: &[("scuttleup watch", Some("[\"web2\",\"GET /news\"]\n")), ("scuttleup exec", None)],
    },
    recipe(
        "A table in SQLite, filled by cron",
        WEB,
        "on hub scuttleup cursor set sqlite 0; on hub scuttleup exec --cursor sqlite -- ./import
        [ \"$(on hub sqlite3 log.db 'select count(*), max(seq) from entries')\" = '3|2' ]
        [ \"$(on hub sqlite3 log.db \"select count(*) from entries where json_extract(entry, '$.status') >= 500\")\" = 1 ]",
    ),
    recipe(
        "A log shared by a group",
        "mkdir srv; chmod 755 .",
        "echo 2 | setpriv --reuid=65534 --regid=65534 --groups=adm scuttleup --log srv/log append
        [ \"$(scuttleup --log srv/log read | wc -l) $(stat -c %G srv/log/data.mdb)\" = '2 adm' ]",
    ),
    recipe(
        "A backup",
        "mkdir backup; seq 3 | on hub scuttleup append; on hub scuttleup del \"$(on hub scuttleup id)\" 2",
        "on new scuttleup compare -- ssh hub scuttleup replicate; zcat backup/log.gz | cmp - <(on new scuttleup read)
        ! [ \"$(on new scuttleup id)\" = \"$(on hub scuttleup id)\" ]",
    ),
    recipe(
        "A move to a new machine",
        "on old scuttleup -q init --id old; seq 2 | on old scuttleup append; on old scuttleup cursor set reader 1",
        "[ \"$(on new scuttleup read | wc -l)\" = 2 ]; echo 3 | on moved scuttleup append
        on moved scuttleup cursor list | grep reader; on moved scuttleup heads | grep '{\"peer\":\"old\",\"seq\":3,\"own\":true}'",
    ),
    recipe("Retention", "seq 3 | on hub scuttleup append", "on hub scuttleup prune --show | grep 2592000"),
];

/// The programs that are not here, or would leave this machine. A host without a home gets one.
const STAND_INS: [(&str, &str); 5] = [
    ("on", "export HOME=\"$PLACE/$1\"; shift; mkdir -p \"$HOME\"; cd; exec \"$@\""),
    ("ssh", "while :; do case $1 in -o | -J) shift 2;; *) break;; esac; done; host=$1; shift; exec on \"$host\" sh -c \"$*\""),
    ("journalctl", "printf '{\"__CURSOR\":\"%s\",\"MESSAGE\":\"hello\"}\\n' 1 2 3"),
    ("kubectl", "printf '[pod/web-1/web] 2026-11-27T09:49:08.%sZ GET /\\n' 1 2 3"),
    ("mail", "cat > \"$PLACE/mails\""),
];

/// A command, and the host on which it runs.
struct Command {
    host: String,
    line: String,
}

/// The commands of a recipe, and the files that it shows, with their names.
fn parts(recipe: &str) -> (Vec<Command>, Vec<(String, String)>) {
    let (mut commands, mut files): (Vec<Command>, Vec<_>) = (Vec::new(), Vec::new());
    let recipe = recipe.replace("\\e", "\\").replace("\\(dq", "\"").replace("\\&", "");
    for (before, block) in recipe.split("\n.Bd ").zip(recipe.split("\n.Bd ").skip(1)) {
        let (_, block) = block.split_once('\n').expect("a first line");
        let block = block.split("\n.Ed").next().expect("a last line");
        if block.starts_with("#!") {
            let name = before.lines().filter_map(|line| line.strip_prefix(".Pa ")).next_back().expect("the name of the file");
            files.push((name.trim_end_matches([' ', ':']).to_owned(), format!("{block}\n")));
            continue;
        }
        for line in block.lines() {
            let prompt = line.split_once("$ ").filter(|(host, _)| host.chars().all(|c| c.is_ascii_alphanumeric()));
            let times =
                line.split(' ').take(5).filter(|time| time.chars().all(|c| c.is_ascii_digit() || "*/".contains(c))).count();
            let goes_on = commands.last().is_some_and(|last| last.line.ends_with('\\'));
            if let Some((host, line)) = prompt {
                commands.push(Command { host: host.into(), line: line.into() });
            } else if let Some(line) = line.strip_prefix("# ") {
                commands.push(Command { host: "root".into(), line: line.into() });
            } else if goes_on {
                let last = commands.last_mut().expect("it goes on");
                last.line = format!("{}\n{line}", last.line);
            } else if times == 5 {
                // cron runs a line with sh.
                commands.push(Command { host: "hub".into(), line: line.splitn(6, ' ').last().expect("a command").into() });
            }
        }
    }
    (commands, files)
}

/// `bash -c SCRIPT` in the directory of all hosts.
fn bash(place: &Place, script: &str) -> Run {
    let programs = [place.path("bin"), PathBuf::from(SCUTTLEUP).parent().expect("a directory").to_owned()];
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths: OsString = std::env::join_paths(programs.into_iter().chain(std::env::split_paths(&paths))).expect("a search path");
    let script = format!("set -euo pipefail; cd \"$PLACE\"\n{script}");
    Run::program("bash").args(["-c", &script]).env("PATH", paths).env("PLACE", place.path("")).env("XDG_DATA_HOME", "")
}

/// Runs one recipe of the page.
fn run(recipe: &Recipe, text: &str) {
    let place = Place::new();
    fs::create_dir(place.path("bin")).expect("a directory");
    let program = |path: PathBuf, script: &str| {
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, script).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    };
    for (name, script) in STAND_INS {
        program(place.path("bin").join(name), &format!("#!/bin/sh\n{script}\n"));
    }
    let (commands, files) = parts(text);
    assert!(!commands.is_empty(), "{}: no command", recipe.title);
    let host = commands[0].host.clone();
    for (name, content) in files {
        program(place.path(&host).join(name), &content);
    }
    // The directories of the system are in the place.
    let moved = |line: &str| {
        ["/var/", "/media/", "/srv/", "/backup/"]
            .iter()
            .fold(line.to_owned(), |line, dir| line.replace(&format!(" {dir}"), &format!(" {}", place.path(&dir[1..]).display())))
    };
    let all: String = commands.iter().map(|command| format!("{}\n", moved(&command.line))).collect();
    bash(&place, recipe.prepare).success();
    let mut running = Vec::new();
    for Command { host, line } in &commands {
        let run = |script: &str| bash(&place, script).env("LINE", moved(line)).env("ON", host);
        if let Some((_, shown)) = recipe.endless.iter().find(|(start, _)| line.starts_with(start)) {
            // The signal is for the whole pipeline.
            let script = "set -m +e; on $ON bash -c \"$LINE\" & trap 'kill -TERM -- -$!' TERM; wait $!; wait $!";
            running.push((run(script).spawn(), *shown));
        } else {
            run("on $ON bash -c \"$LINE\"").success();
        }
    }
    // These commands have done their work when the lines and files that are waited for are there.
    for (running, shown) in &mut running {
        if let Some(shown) = shown {
            assert_eq!(running.line(), *shown, "{}", recipe.title);
        }
    }
    let checked = bash(&place, recipe.check).env("RECIPE", all).env("HOST", &host).end();
    assert!(checked.status.success(), "{}: {} {}", recipe.title, checked.printed.text(), checked.printed.stderr);
    for (mut running, _) in running {
        running.signal(Signal::SIGTERM);
        running.wait();
    }
}

#[test]
fn the_recipes_of_the_cookbook_run() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/scuttleup-cookbook.7");
    let page = fs::read_to_string(page).expect("the page");
    let sections = page.split("\n.Ss ").skip(1).map(|section| section.split("\n.Sh ").next().expect("there is a first part"));
    let sections: Vec<(&str, &str)> = sections.map(|section| section.split_at(section.find('\n').expect("a title"))).collect();
    let with_commands = sections.iter().filter(|(_, text)| text.contains("\n.Bd "));
    let (printed, known): (Vec<&str>, Vec<&str>) =
        (with_commands.map(|(title, _)| *title).collect(), RECIPES.iter().map(|recipe| recipe.title).collect());
    assert_eq!(printed, known, "each recipe of the page has a row in this file, in the same order");
    std::thread::scope(|threads| {
        for recipe in &RECIPES {
            let (_, text) = sections.iter().find(|(title, _)| *title == recipe.title).expect("it is printed");
            threads.spawn(move || run(recipe, text));
        }
    });
}
