//! The units in scripts/systemd: systemd accepts them, their sandboxes are tight, and their commands are right.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Place, Run, SCUTTLEUP, append};

/// The highest exposure level that `systemd-analyze security` may show, in tenths: with ssh in the sandbox, and without.
const EXPOSURE_MAX: [(&str, u32); 2] = [("-- ssh ", 15), ("", 10)];

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd")
}

/// The files of a folder of units, by name. Folders are left out.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|err| panic!("{}: {err}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    paths.map(|path| (name(&path), fs::read_to_string(&path).expect("a unit"))).collect()
}

/// Copies of units whose program is the binary under test. A template gets the instance `host`.
fn installed(place: &Place, units: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let install = |(name, text): (&String, &String)| {
        place.file(name, text.replace("=scuttleup ", &format!("={SCUTTLEUP} ")));
        place.path(&name.replace("@.", "@host."))
    };
    units.iter().map(install).collect()
}

/// The values of a setting, in the order of the file.
fn values<'u>(unit: &'u str, setting: &str) -> Vec<&'u str> {
    unit.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).collect()
}

#[test]
fn systemd_accepts_all_units() {
    for (folder, kind, count) in [(units(), "--system", 10), (units().join("user"), "--user", 3)] {
        let (place, units) = (Place::new(), files(&folder));
        assert_eq!(units.len(), count, "{:?}", units.keys());
        let paths = installed(&place, &units);
        for path in &paths {
            // A template exists as a file; its instance is a link.
            let template = path.to_string_lossy().replace("@host.", "@.");
            if !path.exists() {
                std::os::unix::fs::symlink(template, path).expect("a link");
            }
        }
        let ended = Run::program("systemd-analyze")
            .args(["verify", kind, "--man=no", "--recursive-errors=no"])
            .args(&paths)
            .env("XDG_RUNTIME_DIR", place.path("."))
            .end();
        let said = ended.printed.stderr;
        let own: Vec<&str> = said.lines().filter(|line| line.contains("scuttleup")).collect();
        assert!(ended.status.success() && own.is_empty(), "{said}");
    }
}

#[test]
fn the_sandboxes_are_tight() {
    let (place, units) = (Place::new(), files(&units()));
    let services: BTreeMap<_, _> = units.into_iter().filter(|(name, _)| name.ends_with(".service")).collect();
    assert_eq!(services.len(), 5);
    for (name, text) in &services {
        let (_, limit) = EXPOSURE_MAX.iter().find(|(word, _)| text.contains(word)).expect("the last one is for all");
        let path = place.file(&name.replace("@.", "@host."), text.replace("=scuttleup ", &format!("={SCUTTLEUP} ")));
        let limit = format!("--threshold={limit}");
        Run::program("systemd-analyze").args(["security", "--offline=true", "--no-pager", &limit]).args([path]).success();
    }
}

/// The settings are repeated in each file, so that an administrator sees all of a unit in one place.
#[test]
fn the_sandboxes_of_all_services_are_the_same_except_for_the_network() {
    let units = files(&units());
    let services = units.iter().filter(|(name, _)| name.ends_with(".service"));
    let sandbox = |text: &str| {
        let (_, sandbox) = text.split_once("\n\n# The service sees ").expect("the sandbox");
        let sandbox = sandbox.split("\n\n").next().expect("a part").trim_end().to_owned();
        let own = |line: &&str| {
            !["PrivateNetwork=", "RestrictAddressFamilies=", "ReadWritePaths="].iter().any(|own| line.starts_with(own))
        };
        (
            sandbox.lines().filter(own).collect::<Vec<_>>().join("\n"),
            text.contains("-- ssh "),
            sandbox.contains("PrivateNetwork=yes"),
        )
    };
    let sandboxes: Vec<_> = services.map(|(_, text)| sandbox(text)).collect();
    assert!(sandboxes.iter().all(|(settings, uses_ssh, is_private)| *settings == sandboxes[0].0 && uses_ssh != is_private));
}

/// The command of each service runs with the variables of its unit. `ssh` is a program that runs the command of the remote.
#[test]
fn the_commands_of_the_services_do_their_work() {
    for folder in [units(), units().join("user")] {
        let place = Place::new();
        let is_system = folder == units();
        let home = place.path("home");
        let (log, remote) = if is_system {
            (place.path("log"), place.path("far"))
        } else {
            (home.join(".local/share/scuttleup"), place.path("far/.local/share/scuttleup"))
        };
        for (log, id) in [(&log, "here"), (&remote, "far")] {
            Run::new(log).args(["-q", "init", "--id", id]).success();
            append(log, "1\n");
        }
        let ssh = "#!/bin/sh\n[ \"$1 $2 $3 $4\" = '-T -o BatchMode=yes host' ] || exit 9\nshift 4\n\
                   unset SCUTTLEUP_LOG; HOME=$FAR_HOME; export HOME\nexec sh -c \"$*\"\n";
        fs::create_dir(place.path("bin")).expect("a directory");
        place.file("bin/ssh", ssh);
        Run::program("chmod").args(["755"]).args([place.path("bin/ssh")]).success();
        std::os::unix::fs::symlink(SCUTTLEUP, place.path("bin/scuttleup")).expect("a link");
        let mut ran = 0;
        for (name, text) in files(&folder).iter().filter(|(name, _)| name.ends_with(".service")) {
            let environment = values(text, "Environment").join(" ");
            let command = values(text, "ExecStart")[0].replace("%i", "host").replace("/var/lib/scuttleup/log", "$LOG");
            let environment = environment.replace(
                "REMOTE=scuttleup --log /var/lib/scuttleup/log",
                &format!("REMOTE=scuttleup --log {}", remote.display()),
            );
            let environment = environment.replace("/var/lib/scuttleup/log", &log.display().to_string());
            let run = |command: &str, more: &str| {
                let script = format!("export {environment}\n{more}\n{command}");
                let path = format!("{}:/usr/bin:/bin", place.path("bin").display());
                Run::program("sh").args(["-c", &script]).env("PATH", path).env("HOME", &home).env("FAR_HOME", place.path("far"))
            };
            ran += 1;
            if name.contains("serve") {
                let client = ["replicate", "--once", "--json", "--", "sh", "-c"];
                let served =
                    format!("export {environment}; exec {}", command.replace("scuttleup", SCUTTLEUP).replace("$OPTIONS", ""));
                let report = Run::new(&remote).args(client).args([served]).success();
                assert_eq!(report.json()[0]["complete"], true, "{name}");
            } else if command.contains("--retry") {
                append(&remote, "2\n");
                let mut live = run(&format!("exec {command}"), "OPTIONS=--json").spawn();
                crate::replicate::await_entries(&log, "far", 2);
                live.signal(nix::sys::signal::Signal::SIGTERM);
                assert_eq!(live.wait().status.code(), Some(143), "{name}");
                assert_eq!(values(text, "SuccessExitStatus"), ["143"]);
                assert_eq!(values(text, "RestartPreventExitStatus"), ["2 4 6 7"]);
            } else {
                run(&command, "").success();
            }
        }
        assert_eq!(ran, if is_system { 5 } else { 2 });
        crate::harness::assert_equal(&log, &remote);
    }
}

/// The user and the directories of the package.
#[test]
fn the_user_and_the_directories_are_created() {
    let (place, root) = (Place::new(), units());
    let target = place.path("root");
    fs::create_dir_all(target.join("etc")).expect("a directory");
    let at = format!("--root={}", target.display());
    Run::program("systemd-sysusers").args([&at]).args([root.join("sysusers.d/scuttleup.conf")]).success();
    let users = fs::read_to_string(target.join("etc/passwd")).expect("the users");
    assert!(users.contains(":scuttleup log:/var/lib/scuttleup:/bin/sh\n"), "{users}");
    Run::program("systemd-tmpfiles").args([&at, "--create"]).args([root.join("tmpfiles.d/scuttleup.conf")]).success();
    for name in ["var/lib/scuttleup", "run/scuttleup"] {
        assert!(target.join(name).is_dir(), "{name}");
    }
}
