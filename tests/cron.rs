//! The lines of crontab in the documents: without a terminal, a locale and most variables, as cron runs them.

use std::fs;
use std::path::Path;

use crate::harness::{Place, Run, SCUTTLEUP, append, heads};
use crate::sshd::Sshd;

/// The commands of the crontab in scuttleup-systemd(7).
fn commands() -> Vec<String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/scuttleup-systemd.7")).expect("the page");
    let (_, section) = page.split_once("\n.Sh CRON\n").expect("the section");
    let (_, block) = section.split_once("\n.Bd -literal -offset indent\n").expect("a block");
    let lines = block.lines().take_while(|line| *line != ".Ed");
    // Five fields for the time, then the command.
    lines.map(|line| line.splitn(6, ' ').nth(5).expect("a command").to_owned()).collect()
}

/// Runs a command as cron does: by /bin/sh, with few variables, in a session without a terminal.
fn cron(variables: &[&str], command: &str) -> Run {
    let own = ["-i", "SHELL=/bin/sh", "PATH=/usr/bin:/bin", "LOGNAME=root"];
    Run::program("env").args(own).args(variables).args(["setsid", "--wait", "/bin/sh", "-c", command])
}

#[test]
fn the_crontab_of_the_page_runs_and_prints_nothing() {
    let place = Place::new();
    let home = place.path("home");
    let log = home.join(".local/share/scuttleup");
    Run::new(&log).args(["-q", "init", "--id", "here"]).success();
    let remote = place.log("there");
    append(&remote, "1\n");
    let forced =
        format!("restrict,command=\"{SCUTTLEUP} --log {} -q replicate --no-create\" ssh-ed25519 AAAA key", remote.display());
    let sshd = Sshd::new(&place, &forced, "");
    let commands = commands();
    let has = |word: &str| commands.iter().filter(|command| command.contains(word)).count();
    let words = ["replicate", "append", "exec", "verify", "compact"];
    assert_eq!((commands.len(), words.map(has)), (5, [1; 5]), "{commands:?}");
    let home = format!("HOME={}", home.display());
    for round in 1..=2 {
        for command in &commands {
            let command = command.replace("/usr/bin/scuttleup", SCUTTLEUP);
            let command = command.replace("ssh -T -o BatchMode=yes host", &sshd.client("key").join(" "));
            cron(&[&home], &command).stdout("").stderr("").success();
        }
        assert_eq!(heads(&log), [format!("{{\"peer\":\"here\",\"seq\":{round}}}"), "{\"peer\":\"there\",\"seq\":1}".into()]);
        assert_eq!(fs::read_to_string(place.path("home/report")).expect("the report").lines().count(), 1 + round);
    }
    // The next sync delivers what was appended after the last one.
    let command = commands.iter().find(|command| command.contains("replicate")).expect("a sync");
    let command = command.replace("/usr/bin/scuttleup", SCUTTLEUP);
    cron(&[&home], &command.replace("ssh -T -o BatchMode=yes host", &sshd.client("key").join(" ")))
        .stdout("")
        .stderr("")
        .success();
    assert_eq!(heads(&remote).len(), 2);
}

/// cron sends the message as mail: it must say what is wrong, and what to do.
#[test]
fn commands_without_any_variable_say_what_to_set() {
    let place = Place::new();
    let text = "scuttleup: no directory for the log: use --log DIR, or set SCUTTLEUP_LOG or HOME\n";
    let commands =
        ["append", "read", "verify", "compact", "heads", "exec --cursor c", "replicate --once -- true", "prune --show"];
    for command in commands {
        let ended = cron(&[], &format!("echo 1 | {SCUTTLEUP} -q {command}")).stdout("").end();
        assert_eq!((ended.status.code(), ended.printed.stderr.lines().next()), (Some(2), text.lines().next()), "{command}");
    }
    // Each of the variables, and the option, is enough. A relative or an empty one is not.
    let dir = place.path("one");
    let under = format!("{}/scuttleup", dir.display());
    for (variable, log) in [("SCUTTLEUP_LOG", dir.display().to_string()), ("XDG_DATA_HOME", under)] {
        let set = format!("{variable}={}", dir.display());
        cron(&[&set], &format!("echo 1 | {SCUTTLEUP} -q append")).stdout("").stderr("").success();
        cron(&[&set], &format!("{SCUTTLEUP} read --no-entry | wc -l")).stdout("1\n").success();
        fs::remove_dir_all(log).expect("the log");
        if dir.exists() {
            fs::remove_dir_all(&dir).expect("the directory");
        }
    }
    cron(&[], &format!("echo 1 | {SCUTTLEUP} -q --log {} append", dir.display())).stdout("").stderr("").success();
    cron(&["HOME=", "XDG_DATA_HOME=data"], &format!("{SCUTTLEUP} read")).stderr_has("no directory for the log").status(2);
}
