//! `init`, `id`, `heads`, `info`, and the choice of the log directory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use scuttleup::{HashedEntry, Log, PeerId, Seq};

use crate::harness::{Place, Run, SCUTTLEUP, append, heads, root};

#[test]
fn init_creates_an_empty_log_with_its_id() {
    let place = Place::new();
    let log = place.path("x/y");
    let note = format!("scuttleup: created log {} with id alice é\n", log.display());
    Run::new(&log).args(["init", "--id", "alice é"]).stdout("").stderr(&note).success();
    Run::new(&log).args(["id"]).stdout("alice é\n").stderr("").success();
    assert_eq!(heads(&log), Vec::<String>::new());
    // Only the owner has access.
    assert_eq!(log.metadata().expect("it exists").permissions().mode() & 0o777, 0o700);
    for file in std::fs::read_dir(&log).expect("a directory") {
        let file = file.expect("a file");
        assert_eq!(file.metadata().expect("it exists").permissions().mode() & 0o777, 0o600, "{:?}", file.path());
    }
}

#[test]
fn init_never_changes_an_existing_log() {
    let place = Place::new();
    let log = place.log("alice");
    append(&log, "1\n");
    for args in [&["init"][..], &["init", "--id", "bob"], &["init", "--id", "alice"]] {
        let said = " already holds a log with id alice: `scuttleup [--log DIR] id --new ID` gives it another id\n";
        Run::new(&log).args(args).stdout("").stderr_has(said).status(1);
    }
    Run::new(&log).args(["id"]).stdout("alice\n").success();
    assert_eq!(heads(&log), ["{\"peer\":\"alice\",\"seq\":1}"]);
}

#[test]
fn ids_are_1_to_255_bytes_without_control_characters() {
    let place = Place::new();
    let longest = "é".repeat(127) + "x";
    Run::new(&place.path("long")).args(["-q", "init", "--id", &longest]).stderr("").success();
    append(&place.path("long"), "1");
    assert_eq!(heads(&place.path("long")), [format!("{{\"peer\":\"{longest}\",\"seq\":1}}")]);
    for bad in ["", &*"x".repeat(256), "a\nb", "\u{1b}", "\u{9b}"] {
        let said = Run::new(&place.path("bad")).args(["init", "--id", bad]).stdout("").stderr_has("invalid peer id: ").status(2);
        assert_eq!(said.stderr.matches('\n').count(), 1);
        assert!(!place.path("bad").exists());
    }
}

#[test]
fn heads_are_sorted_and_mark_the_local_feed() {
    let place = Place::new();
    let log = place.log("m");
    let lines: String = ["z", "a", "é"].map(|peer| format!("{{\"peer\":\"{peer}\",\"seq\":1,\"entry\":1}}\n")).concat();
    Run::new(&log).args(["write"]).stdin(lines).success();
    append(&log, "1\n2\n");
    let expected = "{\"peer\":\"a\",\"seq\":1}\n{\"peer\":\"m\",\"seq\":2,\"own\":true}\n\
                    {\"peer\":\"z\",\"seq\":1}\n{\"peer\":\"é\",\"seq\":1}\n";
    Run::new(&log).args(["heads"]).stdout(expected).stderr("").success();
}

#[test]
fn a_fork_mark_can_be_removed_and_is_set_again_by_the_next_fork() {
    let place = Place::new();
    let log = place.log("a");
    Run::new(&log).args(["write"]).stdin("{\"peer\":\"x\",\"seq\":1,\"entry\":1}\n").success();
    let fork = || Run::new(&log).args(["write"]).stdin("{\"peer\":\"x\",\"seq\":1,\"entry\":2}\n").status(4);
    let clear = |peer: &str| Run::new(&log).args(["heads", "--clear-fork", peer]).stdout("");
    let marks = || {
        let forks = Run::new(&log).args(["info"]).success().json()[0]["forks"].as_u64();
        (Run::new(&log).args(["heads"]).success().text().matches("\"fork\":true").count(), forks)
    };
    for _ in 0..2 {
        fork();
        assert_eq!(marks(), (1, Some(1)));
        clear("x").stderr("").success();
        assert_eq!(marks(), (0, Some(0)));
    }
    let said = "scuttleup: the feed of x has no fork mark: `scuttleup heads` prints the marked feeds with \"fork\":true\n";
    clear("x").stderr(said).status(1);
    clear("unknown\u{1b}").stderr_has("the feed of unknown\\u{1b} has no fork mark").status(1);
    clear("").status(2);
}

#[test]
fn a_log_that_takes_a_new_id_begins_a_new_feed_and_keeps_the_old_one() {
    let place = Place::new();
    let path = place.log("old");
    // An appender that has the log open during the whole test.
    let mut appending = Run::new(&path).args(["append", "--ack"]).spawn();
    appending.send("1\n");
    assert_eq!(appending.line(), "{\"peer\":\"old\",\"seq\":1}\n");
    let log = Log::open(&path).expect("a log");
    let before = log.state().expect("a state");

    // A new id that is not committed has no effect.
    log.writer().and_then(|mut writer| writer.renew_id()).expect("a new id");
    assert_eq!(log.local_id().expect("an id").as_str(), "old");
    let mut writer = log.writer().expect("a writer");
    let (dropped, id) = (writer.renew_id().expect("a new id"), writer.renew_id().expect("a second new id"));
    assert!(dropped != id && writer.local_id().expect("an id") == id && id.as_str().starts_with("old~"), "{id}");
    assert_eq!(writer.commit().expect("a commit").new, 0);
    let mut writer = log.writer().expect("a writer");
    writer.mark_fork(log.id(), Seq::new(1).expect("not 0")).expect("a mark");
    writer.commit().expect("a commit");
    assert_eq!((log.state().expect("a state"), log.id().as_str()), (before, "old"));
    assert_eq!((log.local_id().expect("an id"), log.info().expect("info").id), (id.clone(), id.clone()));
    // The new feed is empty, so it has no head.
    Run::new(&path).args(["id"]).stdout(format!("{id}\n")).success();
    Run::new(&path).args(["heads"]).stdout("{\"peer\":\"old\",\"seq\":1,\"fork\":true}\n").stderr("").success();

    appending.send("2\n");
    assert_eq!(appending.line(), format!("{{\"peer\":\"{id}\",\"seq\":1}}\n"));
    assert_eq!(log.append(b"3").expect("an append").get(), 2);
    assert_eq!(appending.finish().status.code(), Some(0));
    let entry = HashedEntry::new(b"4");
    let mut writer = log.writer().expect("a writer");
    writer.append(entry).expect("an append");
    let third = writer.renew_id().expect("a third id");
    assert_eq!(writer.append(entry).expect("an append").get(), 1, "of the new feed, in the same commit");
    let old = PeerId::new("old").expect("an id");
    assert_eq!(writer.push(&old, entry).expect("the next seq").get(), 2);
    assert_eq!(writer.commit().expect("a commit").new, 3);
    let mut expected = [
        (id.as_str(), format!("{{\"peer\":\"{id}\",\"seq\":3}}\n")),
        (third.as_str(), format!("{{\"peer\":\"{third}\",\"seq\":1,\"own\":true}}\n")),
        ("old", "{\"peer\":\"old\",\"seq\":2,\"fork\":true}\n".into()),
    ];
    expected.sort();
    Run::new(&path).args(["heads"]).stdout(expected.map(|(_, line)| line).concat()).success();
    Run::new(&path).args(["id"]).stdout(format!("{third}\n")).success();
}

#[test]
fn info_is_one_line_of_json() {
    let place = Place::new();
    let log = place.log("alice");
    let printed = Run::new(&log).args(["info"]).stderr("").success();
    let start = "{\"id\":\"alice\",\"feeds\":0,\"entries\":0,\"bytes_on_disk\":";
    let middle = ",\"last_offset\":0,\"root\":\"00000000000000000000000000000000\",\"forks\":0,\"data_bytes\":";
    let end = ",\"packs_bytes\":0,\"packs\":0,\"packed_entries\":0,\"floor\":0}\n";
    let text = printed.text();
    assert!(text.starts_with(start) && text.contains(middle) && text.ends_with(end), "{text}");
    let empty = printed.json()[0]["bytes_on_disk"].as_u64().expect("a number");

    Run::new(&log).args(["write"]).stdin("{\"peer\":\"b\",\"seq\":1,\"entry\":1}\n").success();
    append(&log, format!("1\n\"{}\"\n", "x".repeat(100_000)));
    Run::new(&log).args(["del", "alice", "1"]).success();
    let info = Run::new(&log).args(["info"]).success().json().remove(0);
    assert_eq!((&info["feeds"], &info["entries"], &info["last_offset"]), (&2.into(), &3.into(), &3.into()));
    assert!(info["bytes_on_disk"].as_u64().expect("a number") > empty + 100_000, "{info}");
}

#[test]
fn the_root_depends_on_the_feeds_and_not_on_their_order() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    let line = |peer: &str, seq: u32| format!("{{\"peer\":\"{peer}\",\"seq\":{seq},\"entry\":{seq}}}\n");
    Run::new(&a).args(["write"]).stdin([line("p", 1), line("p", 2), line("q", 1)].concat()).success();
    for lines in [line("q", 1), line("p", 1)] {
        Run::new(&b).args(["write"]).stdin(lines).success();
        assert_ne!(root(&a), root(&b));
    }
    Run::new(&b).args(["write"]).stdin(line("p", 2)).success();
    assert_eq!(root(&a), root(&b));
    append(&b, "1");
    assert_ne!(root(&a), root(&b));
}

#[test]
fn the_log_is_chosen_by_option_variable_or_default() {
    let place = Place::new();
    for id in ["option", "variable"] {
        place.log(id);
    }
    let (option, variable) = (place.path("option"), place.path("variable"));
    let (data, home) = (place.path("data"), place.path("home"));
    let make = |dir: std::path::PathBuf, id: &str| Run::new(&dir).args(["-q", "init", "--id", id]).success();
    make(data.join("scuttleup"), "data");
    make(home.join(".local/share/scuttleup"), "home");
    let run = || Run::bare().env("HOME", &home).env("XDG_DATA_HOME", &data);
    let both = || run().env("SCUTTLEUP_LOG", &variable);
    both().args(["--log"]).args([&option]).args(["id"]).stdout("option\n").success();
    both().args(["id", "--log"]).args([&option]).stdout("option\n").success();
    both().args(["id"]).stdout("variable\n").success();
    run().args(["id"]).stdout("data\n").success();
    run().env("SCUTTLEUP_LOG", "").args(["id"]).stdout("data\n").success();
    run().env("XDG_DATA_HOME", "").args(["id"]).stdout("home\n").success();
    // The XDG Base Directory Specification says: ignore a relative path.
    run().env("XDG_DATA_HOME", "data").args(["id"]).stdout("home\n").success();
    let none = run().env("XDG_DATA_HOME", "").env("HOME", "").args(["id"]).stdout("");
    none.stderr_has("no directory for the log: use --log DIR, or set SCUTTLEUP_LOG or HOME").status(2);
}

#[test]
fn the_default_log_is_created_on_first_use() {
    let place = Place::new();
    let home = place.path("home");
    let run = || Run::bare().env("HOME", &home).env("XDG_DATA_HOME", "");
    run().args(["append", "--ack"]).stdin("1\n").success();
    run().args(["read", "--no-entry"]).success();
    assert!(home.join(".local/share/scuttleup/data.mdb").exists());
}

/// The three commands that create a log on first use, and the input that lets each of them end.
const CREATORS: [(&[&str], &str); 3] = [(&["append"], "1\n"), (&["write"], ""), (&["replicate", "--once", "--", "false"], "")];

/// The id of a log.
fn id(log: &Path) -> String {
    Run::new(log).args(["id"]).success().text().trim_end().to_owned()
}

#[test]
fn a_created_log_is_reported_once_with_its_full_path_and_id() {
    for (args, stdin) in CREATORS {
        let place = Place::new();
        let run_in = |log| Run::program("env").args(["-C"]).args([place.path("")]).args([SCUTTLEUP, "--log", log]);
        let run = || run_in("x/y");
        let said = run().args(args).stdin(stdin).end().printed.stderr;
        let (log, lines) = (place.path("x/y"), said.lines().collect::<Vec<_>>());
        assert_eq!(lines[0], format!("scuttleup: created a log in {} with the id {}", log.display(), id(&log)), "{args:?}");
        let again = run().args(args).stdin(stdin).end().printed.stderr;
        assert_eq!(again.lines().collect::<Vec<_>>(), lines[1..], "{args:?}");
        let quiet = run_in("quiet").args(["-q"]).args(args).stdin(stdin).end().printed.stderr;
        assert_eq!(quiet.lines().collect::<Vec<_>>(), lines[1..], "{args:?}");
        assert!(place.path("quiet/data.mdb").exists(), "{args:?}");
    }
}

#[test]
fn a_log_that_is_created_for_a_remote_is_reported_with_its_host() {
    let place = Place::new();
    let (near, far) = (place.log("near"), place.path("far"));
    let far_words = [SCUTTLEUP, "--log", far.to_str().expect("UTF-8"), "replicate"];
    let said = Run::new(&near).args(["replicate", "--once", "--"]).args(far_words).success().stderr;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let line = format!("scuttleup ({}): created a log in {} with the id {}\n", host.trim(), far.display(), id(&far));
    assert!(said.starts_with(&line), "{said}");
}

#[test]
fn no_create_never_creates_the_local_log() {
    let place = Place::new();
    let (log, none) = (place.log("a"), place.path("none"));
    let near = Run::new(&none).args(["replicate", "--no-create", "--once", "--", "false"]);
    near.stderr_has("no log in ").stderr_has(": check the directory (--log), or create a log in it ").status(1);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let far = [SCUTTLEUP, "--log", none.to_str().expect("UTF-8"), "replicate", "--no-create"];
    let said = format!("scuttleup ({}): no log in {}: check the directory ", host.trim(), none.display());
    Run::new(&log).args(["replicate", "--once", "--"]).args(far).stderr_has(&said).status(3);
    assert!(!none.exists());
    let existing = [SCUTTLEUP, "--log", log.to_str().expect("UTF-8"), "replicate", "--no-create"];
    Run::new(&place.log("b")).args(["replicate", "--no-create", "--once", "--"]).args(existing).success();
}

#[test]
fn no_log_is_created_beside_other_files() {
    let place = Place::new();
    for other in ["file.txt", ".hidden", "data.mdb.bak"] {
        let dir = place.path(&format!("with {other}"));
        std::fs::create_dir(&dir).expect("a directory");
        std::fs::write(dir.join(other), "x").expect("a file");
        for (args, stdin) in CREATORS.into_iter().chain([(&["init"][..], "")]) {
            let said = format!(
                "scuttleup: {} holds no log, but other files, such as {other}: a log is only created in a new or an empty \
                 directory: name one with --log\n",
                dir.display()
            );
            Run::new(&dir).args(args).stdin(stdin).stdout("").stderr(&said).status(1);
            assert_eq!(std::fs::read_dir(&dir).expect("a directory").count(), 1, "{args:?}");
        }
    }
    // Files beside an existing log do no harm.
    let log = place.log("a");
    std::fs::write(log.join("README"), "x").expect("a file");
    append(&log, "1\n");
}

#[test]
fn a_log_is_created_on_a_new_file_system_and_over_the_files_of_a_killed_creator() {
    let place = Place::new();
    for left in [&[][..], &["lost+found"], &["lock.mdb"], &["lock.mdb", "data.mdb"]] {
        let dir = place.path(&format!("with {}", left.join(" and ")));
        std::fs::create_dir(&dir).expect("a directory");
        for name in left {
            std::fs::write(dir.join(name), "").expect("a file");
        }
        Run::new(&dir).args(["append"]).stdin("1\n").stderr_has("created a log in ").success();
    }
}

#[test]
fn no_log_is_created_in_the_database_of_another_program() {
    let place = Place::new();
    let log = place.log("a");
    // With other names, the tables of a log are those of another program.
    let path = log.join("data.mdb");
    let mut data = std::fs::read(&path).expect("a file");
    for name in ["meta", "peers", "numbers", "entries", "runs", "times", "packs", "deleted"] {
        let at: Vec<_> = (0..data.len() - name.len()).filter(|&at| data[at..].starts_with(name.as_bytes())).collect();
        assert!(!at.is_empty(), "the name of a table");
        at.iter().for_each(|at| data[at + name.len() - 1] = b'z');
    }
    std::fs::remove_dir_all(&log).expect("a directory");
    std::fs::create_dir(&log).expect("a directory");
    std::fs::write(&path, &data).expect("a file");
    for args in [&["init"][..], &["append"], &["read"]] {
        Run::new(&log).args(args).stdout("").stderr_has("holds no log, but other files, such as data.mdb: ").status(1);
        assert!(std::fs::read(&path).expect("a file") == data, "{args:?} changed it");
    }
}

#[test]
fn a_directory_with_an_unexpanded_tilde_is_refused() {
    let place = Place::new();
    let run = || Run::program("env").args(["-C"]).args([place.path("")]).args([SCUTTLEUP]);
    for dir in ["~", "~/log", "~user/log"] {
        for args in [&["id"][..], &["init"], &["append"]] {
            let said = |source| {
                format!(
                    "scuttleup: the directory {dir} of {source} begins with ~, and no shell has replaced it: use an absolute \
                     path or $HOME; ./~ names a directory of this name\n"
                )
            };
            run().args(["--log", dir]).args(args).stdout("").stderr(&said("--log")).status(2);
            run().env("SCUTTLEUP_LOG", dir).args(args).stdout("").stderr(&said("SCUTTLEUP_LOG")).status(2);
        }
    }
    run().args(["-q", "--log", "./~", "init", "--id", "a"]).success();
    assert_eq!(id(&place.path("~")), "a");
}

#[test]
fn commands_that_need_a_log_never_create_one() {
    let place = Place::new();
    let none = place.path("none");
    for args in [
        &["read"][..],
        &["watch"],
        &["heads"],
        &["heads", "--clear-fork", "a"],
        &["compare", "--", "true"],
        &["id"],
        &["info"],
        &["entry", "a", "1"],
        &["del", "a", "1"],
        &["exec", "--cursor", "c", "--", "true"],
        &["cursor", "set", "c", "0"],
    ] {
        let run = Run::new(&none).args(args).stdout("").stderr_has("no log in ");
        run.stderr_has(": check the directory (--log), or create a log in it with `scuttleup [--log DIR] init`\n").status(1);
        assert!(!none.exists(), "{args:?}");
        // An empty directory stays empty.
        let empty = place.path("empty");
        std::fs::create_dir_all(&empty).expect("a directory");
        Run::new(&empty).args(args).stdout("").stderr_has("no log in ").status(1);
        assert_eq!(std::fs::read_dir(&empty).expect("a directory").count(), 0, "{args:?}");
    }
}

#[test]
fn quiet_prints_errors_only() {
    let place = Place::new();
    Run::new(&place.path("a")).args(["init", "-q"]).stdout("").stderr("").success();
    Run::new(&place.path("b")).args(["--quiet", "init"]).stdout("").stderr("").success();
    Run::new(&place.path("b")).args(["-q", "init"]).stdout("").stderr_has("already holds a log").status(1);
}

#[test]
fn usage_errors_are_one_line_and_exit_2() {
    let place = Place::new();
    let log = place.log("a");
    for args in [
        &[][..],
        &["bogus"],
        &["read", "--bogus"],
        &["read", "extra"],
        &["read", "-n"],
        &["read", "-n", "x"],
        &["read", "-n", "-1"],
        &["read", "--after", "1.5"],
        &["read", "--text", "--raw"],
        &["read", "--peer", ""],
        &["append", "--text", "--raw"],
        &["append", "--entry-bytes-max", "0"],
        &["append", "file"],
        &["entry"],
        &["entry", "a"],
        &["del", "a", "1", "2"],
        &["heads", "\u{1b}[31m"],
        &["\u{1b}]0;x\u{7}"],
        &["replicate", "--mode", "all"],
        &["init", "--log"],
    ] {
        let said = Run::new(&log).args(args).stdout("").status(2).stderr;
        assert!(said.starts_with("scuttleup: ") && said.matches('\n').count() == 1, "{args:?}: {said}");
        assert!(!said.trim_end_matches('\n').contains(char::is_control), "{said:?}");
    }
}

#[test]
fn a_mistyped_command_option_or_value_is_reported_with_the_nearest_one() {
    let cases: [(&[&str], &str); 17] = [
        (&["sync", "host"], "unrecognized subcommand 'sync': did you mean replicate?"),
        (&["tail"], "unrecognized subcommand 'tail': did you mean watch?"),
        (&["apend"], "unrecognized subcommand 'apend': did you mean append?"),
        (&["Heads"], "unrecognized subcommand 'Heads': did you mean heads?"),
        (&["help", "apend"], "unrecognized subcommand 'apend': did you mean append?"),
        (&["bogus"], "unrecognized subcommand 'bogus'"),
        (&["cursor", "lst"], "unrecognized subcommand 'lst': did you mean list?"),
        // The name of a command of the program is none of `cursor`.
        (&["cursor", "read"], "unrecognized subcommand 'read'"),
        (&["--lgo", "x", "read"], "unexpected argument '--lgo' found: did you mean --log?"),
        (&["del", "a", "1", "--lgo", "x"], "unexpected argument '--lgo' found: did you mean --log?"),
        (&["read", "--lvie"], "unexpected argument '--lvie' found: did you mean --live?"),
        (&["watch", "--since-haeds", "x"], "unexpected argument '--since-haeds' found: did you mean --since-heads?"),
        // An option of another command.
        (&["watch", "--reverse"], "unexpected argument '--reverse' found"),
        (&["append", "--zzz"], "unexpected argument '--zzz' found"),
        (&["entry", "-x", "1"], "unexpected argument '-x' found"),
        (
            &["replicate", "--mode", "pul"],
            "invalid value 'pul' for '--mode <MODE>' [possible values: sync, push, pull]: did you mean pull?",
        ),
        (&["replicate", "--once", "ssh", "host"], "unexpected argument 'ssh' found: put -- before COMMAND"),
    ];
    for (args, said) in cases {
        Run::bare().args(args).stdout("").stderr(&format!("scuttleup: {said}; see scuttleup --help\n")).status(2);
    }
}

#[test]
fn an_invalid_number_is_reported_with_its_argument() {
    let cases: [(&[&str], &str); 8] = [
        (&["append", "--entry-bytes-max", "abc"], "'abc' for '--entry-bytes-max <N>': not a number"),
        (&["append", "--entry-bytes-max", "0"], "'0' for '--entry-bytes-max <N>': not a number from 1 to 1073741824"),
        (
            &["write", "--entry-bytes-max", "1073741825"],
            "'1073741825' for '--entry-bytes-max <N>': not a number from 1 to 1073741824",
        ),
        (&["read", "-n", "x"], "'x' for '-n <N>': not a number"),
        (&["read", "-n", ""], "'' for '-n <N>': not a number"),
        (&["read", "--after", "x"], "'x' for '--after <OFFSET>': not a number"),
        (&["read", "-n", "18446744073709551616"], "'18446744073709551616' for '-n <N>': the number is too large"),
        (&["entry", "a", "x"], "'x' for '<SEQ>': not a number"),
    ];
    for (args, said) in cases {
        let expected = format!("scuttleup: invalid value {said}; see scuttleup --help\n");
        Run::bare().args(args).stdout("").stderr(&expected).status(2);
    }
}

#[test]
fn without_arguments_the_first_steps_go_to_stderr() {
    Run::bare().stdout("").stderr_has("\n\nFirst steps:\n").status(2);
    // A command with commands of its own.
    Run::bare().args(["cursor"]).stdout("").stderr_has("[subcommands: list, set, rm, help]").status(2);
    // An option, but no command.
    Run::bare().args(["-q"]).stdout("").stderr_has("requires a subcommand").status(2);
}

#[test]
fn help_and_version_go_to_stdout() {
    for args in [&["--help"][..], &["-h"], &["help"], &["read", "--help"], &["help", "append"]] {
        let printed = Run::bare().args(args).stderr("").success();
        assert!(printed.text().contains("Usage: scuttleup"), "{}", printed.text());
    }
    Run::bare().args(["--version"]).stdout(format!("scuttleup {}\n", env!("CARGO_PKG_VERSION"))).stderr("").success();
}
