//! One log that containers and users share: process ids that are equal, permissions, and files that other users planted.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::harness::{Place, Run, Running, SCUTTLEUP, STEP, append, read, shell, unlabelled};
use crate::opening::{stopped, waiting};

/// Runs the words of a command in a new PID namespace, as its first process.
fn in_container(words: &[&str]) -> Run {
    Run::program("unshare").args(["--fork", "--kill-child", "--pid", "--mount-proc"]).args(words)
}

fn as_first_process(log: &Path, args: &[&str]) -> Run {
    in_container(&[SCUTTLEUP, "--log"]).args([log]).args(args)
}

#[test]
fn the_first_processes_of_three_containers_use_one_log() {
    let place = Place::new();
    let log = place.log("a");
    let mut watching = as_first_process(&log, &["watch", "--no-entry"]).spawn();
    let mut first = as_first_process(&log, &["append", "--ack"]).spawn();
    let mut second = as_first_process(&log, &["append", "--ack"]).spawn();
    for seq in 1..=100 {
        let writer = if seq % 2 == 0 { &mut first } else { &mut second };
        writer.send("1\n");
        assert_eq!(writer.line(), format!("{{\"peer\":\"a\",\"seq\":{seq}}}\n"));
        assert_eq!(watching.line(), format!("{{\"offset\":{seq},\"peer\":\"a\",\"seq\":{seq}}}\n"));
    }
    // One container after the other ends, by a signal and at the end of its input.
    as_first_process(&log, &["heads"]).stdout("{\"peer\":\"a\",\"seq\":100,\"own\":true}\n").stderr("").success();
    first.signal(Signal::SIGKILL);
    second.send("1\n");
    assert_eq!(second.line(), "{\"peer\":\"a\",\"seq\":101}\n");
    assert_eq!(second.finish().status.code(), Some(0));
    watching.line();
    as_first_process(&log, &["append"]).stdin("1\n").stderr("").success();
    assert_eq!(watching.line(), "{\"offset\":102,\"peer\":\"a\",\"seq\":102}\n");
}

/// A process and all processes below it.
fn family(pid: Pid) -> Vec<Pid> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().map(|child| Pid::from_raw(child.parse().expect("a pid")));
    [pid].into_iter().chain(children.flat_map(family)).collect()
}

/// Waits until `count` processes wait for a lock of the log.
fn wait_for_waiting(log: &Path, count: usize) {
    let start = Instant::now();
    while waiting(log) != count {
        assert!(start.elapsed() < STEP, "{} processes wait, and not {count}", waiting(log));
        thread::yield_now();
    }
}

/// LMDB's lock of the writers stores a thread id. If a thread is killed while it waits for this lock, and its id is stored
/// there, the kernel takes the lock from its holder.
#[test]
fn a_killed_writer_of_another_container_with_the_same_thread_id_does_not_free_the_lock() {
    let place = Place::new();
    let (log, trace) = (place.log("a"), place.path("trace"));
    mkfifo(&trace, Mode::S_IRWXU).expect("a FIFO");
    let strace = ["strace", "-f", "-qq", "-e", "inject=fdatasync:signal=SIGSTOP:when=1", "-o"];
    let mut holder = in_container(&strace).args([&trace]).args([SCUTTLEUP, "--log"]).args([&log]).args(["append"]).spawn();
    let mut trace = fs::File::open(&trace).expect("strace writes to it");
    holder.send("\"holder\"\n");
    holder.close();
    let number = stopped(&mut trace).expect("it stops in its commit");
    // This process gets the same number in its own namespace.
    let script = "for ((n = 2; n < NUMBER; n++)); do /bin/true; done; \"$SCUTTLEUP\" append; :";
    let mut killed = in_container(&["bash", "-c", script]).env("NUMBER", number.to_string()).env("SCUTTLEUP", SCUTTLEUP);
    killed = killed.env("SCUTTLEUP_LOG", &log);
    let mut killed = killed.spawn();
    killed.send("\"killed\"\n");
    killed.close();
    wait_for_waiting(&log, 1);
    killed.signal(Signal::SIGKILL);
    killed.wait();
    let mut third = Run::new(&log).args(["append", "--ack"]).spawn();
    third.send("\"third\"\n");
    wait_for_waiting(&log, 1);
    assert_eq!(third.line_now(), None);
    thread::spawn(move || while stopped(&mut trace).is_some() {});
    let pid = Pid::from_raw(holder.pid() as i32);
    family(pid).into_iter().for_each(|pid| kill(pid, Signal::SIGCONT).expect("it exists"));
    assert_eq!(holder.wait().status.code(), Some(0));
    assert_eq!(third.line(), "{\"peer\":\"a\",\"seq\":2}\n");
    assert_eq!(third.finish().status.code(), Some(0));
    let entries: Vec<_> = Run::new(&log).args(["read"]).success().json().iter().map(|line| line["entry"].clone()).collect();
    assert_eq!(entries, ["holder", "third"]);
}

/// Users and groups of these tests. They need no names.
const ALICE: u32 = 61_001;
const BOB: u32 = 61_002;
const CAROL: u32 = 61_003;
const WRITERS: u32 = 61_010;

/// Runs a command on `log` as a user who has the primary group of the same number, and is a member of `groups`.
fn as_user(user: u32, groups: &[u32], log: &Path, args: &[&str]) -> Run {
    let groups = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") };
    let user = [format!("--reuid={user}"), format!("--regid={user}"), groups];
    Run::program("setpriv").args(user).args([SCUTTLEUP, "--log"]).args([log]).args(args)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the mode can be set");
}

/// An empty directory with this owner, group and mode.
fn directory(place: &Place, user: u32, group: u32, mode: u32) -> PathBuf {
    set_mode(&place.path("."), 0o755);
    let log = place.path("log");
    fs::create_dir(&log).expect("a directory");
    chown(&log, Some(user), Some(group)).expect("chown (the tests must run as root)");
    set_mode(&log, mode);
    log
}

fn one_line(printed: &crate::harness::Printed) {
    assert!(
        unlabelled(&printed.stderr).starts_with("scuttleup: ") && printed.stderr.matches('\n').count() == 1,
        "{}",
        printed.stderr
    );
}

/// The recipe for a group of writers in scuttleup-store(5).
#[test]
fn the_members_of_a_group_write_one_log() {
    let place = Place::new();
    let log = directory(&place, ALICE, WRITERS, 0o2770);
    let members = [(ALICE, "alice"), (BOB, "bob"), (0, "root")];
    for first in [BOB, ALICE] {
        as_user(first, &[WRITERS], &log, &["append"]).stdin("1\n").success();
        for (user, _) in members {
            as_user(user, &[WRITERS], &log, &["append"]).stdin("2\n").stderr("").success();
            assert_eq!(as_user(user, &[WRITERS], &log, &["read"]).stderr("").success().json()[0]["entry"], 1);
        }
        for name in ["data.mdb", "lock.mdb", "bell"] {
            let about = fs::metadata(log.join(name)).expect("it exists");
            assert_eq!((about.mode() & 0o777, about.gid()), (0o660, WRITERS), "{name}");
        }
        let mut watching = as_user(BOB, &[WRITERS], &log, &["watch", "-n", "1"]).spawn();
        // It has opened the log when it prints the last entry.
        drop(watching.line());
        as_user(ALICE, &[WRITERS], &log, &["append"]).stdin("3\n").stderr("").success();
        drop(watching.line());
        watching.signal(Signal::SIGKILL);
        watching.wait();
        // Each member reads, replaces and extends the packs of the others.
        for (user, _) in members {
            as_user(user, &[WRITERS], &log, &["del", "a", "1"]).end();
            as_user(user, &[WRITERS], &log, &["-q", "compact"]).stderr("").success();
            let pack = fs::read_dir(log.join("packs")).expect("the packs").next().expect("a pack").expect("a name");
            let about = pack.metadata().expect("it exists");
            assert_eq!((about.mode() & 0o777, about.gid()), (0o660, WRITERS));
            for (user, _) in members {
                as_user(user, &[WRITERS], &log, &["append"]).stdin("4\n").stderr("").success();
            }
        }
        one_line(&as_user(CAROL, &[], &log, &["read"]).stdout("").stderr_has("Permission denied").status(1));
        fs::remove_dir_all(log.join("packs")).expect("the packs");
        fs::read_dir(&log).expect("it exists").for_each(|file| fs::remove_file(file.expect("a file").path()).expect("it exists"));
    }
}

/// A sandbox of systemd forbids the set-group-ID bit (`RestrictSUIDSGID`), and a kill can come before the directory of the packs is
/// shared.
#[test]
fn the_directory_of_the_packs_is_shared_after_a_refused_or_missing_change_of_its_mode() {
    for (fault, code) in [("error=EPERM", Some(0)), ("signal=KILL", None)] {
        let place = Place::new();
        let log = directory(&place, ALICE, WRITERS, 0o2770);
        as_user(ALICE, &[WRITERS], &log, &["append"]).stdin("1\n2\n").success();
        let (trace, fault) = (place.path("trace"), format!("inject=fchmod:{fault}:when=1"));
        let user = ["setpriv", "--reuid=61001", "--regid=61001", "--groups=61010", SCUTTLEUP, "-q", "--log"];
        let run = Run::program("strace").args(["-f", "-e", &fault, "-e", "trace=fchmod", "-o"]).args([&trace]).args(user);
        assert_eq!(run.args([&log]).args(["compact"]).end().status.code(), code, "{fault}");
        let traced = fs::read_to_string(&trace).expect("a trace");
        assert!(traced.contains("fchmod"), "{traced}");
        for user in [ALICE, BOB] {
            as_user(user, &[WRITERS], &log, &["append"]).stdin("3\n").stderr("").success();
            as_user(user, &[WRITERS], &log, &["-q", "compact"]).stderr("").success();
            as_user(user, &[WRITERS], &log, &["verify"]).success();
        }
        let pack = fs::read_dir(log.join("packs")).expect("the packs").next().expect("a pack").expect("a name");
        let about = pack.metadata().expect("it exists");
        assert_eq!((about.mode() & 0o777, about.gid()), (0o660, WRITERS));
    }
}

/// The recipe for readers in scuttleup-store(5).
#[test]
fn a_reader_needs_the_lock_file_and_not_the_data_file_for_writing() {
    let place = Place::new();
    let readers = WRITERS;
    let log = directory(&place, ALICE, readers, 0o2750);
    as_user(ALICE, &[readers], &log, &["append"]).stdin("1\n").success();
    let refused = |name: &str| {
        for command in ["read", "watch", "heads"] {
            let run = as_user(BOB, &[readers], &log, &[command]).stdout("");
            one_line(&run.stderr_has(&format!("{name} cannot be opened")).stderr_has("Permission denied").status(1));
        }
    };
    refused("bell");
    set_mode(&log.join("bell"), 0o640);
    refused("data.mdb");
    set_mode(&log.join("data.mdb"), 0o640);
    refused("lock.mdb");
    as_user(BOB, &[readers], &log, &["read"])
        .stderr_has("lock.mdb cannot be opened for writing")
        .stderr_has("store(5)")
        .status(1);
    set_mode(&log.join("lock.mdb"), 0o660);
    let mut watching = as_user(BOB, &[readers], &log, &["watch", "--no-entry"]).spawn();
    watching.line();
    as_user(ALICE, &[readers], &log, &["append"]).stdin("2\n").stderr("").success();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&watching.line()).expect("JSON")["seq"], 2);
    let run = as_user(BOB, &[readers], &log, &["append"]).stdin("3\n").stdout("");
    one_line(&run.stderr_has("data.mdb cannot be opened for writing: Permission denied").status(1));
    // Packs, and a data file that was written again, get the same permissions.
    drop(watching);
    for user in [ALICE, 0] {
        as_user(user, &[readers], &log, &["append"]).stdin("4\n5\n").stderr("").success();
        as_user(user, &[readers], &log, &["del", "a", "1"]).end();
        as_user(user, &[readers], &log, &["compact"]).end();
        let printed = as_user(BOB, &[readers], &log, &["read"]).stderr("").success();
        assert_eq!(printed.json().last().expect("a line")["entry"], 5);
        assert!(log.join("packs").exists());
    }
}

/// Without its slot in lock.mdb, a reader cannot stop a writer from reusing the pages that it reads.
#[test]
fn a_read_only_mount_is_read_while_no_process_has_the_log_open() {
    let place = Place::new();
    let (log, mounted) = (place.log("a"), place.path("mounted"));
    append(&log, "1\n");
    fs::create_dir(&mounted).expect("a directory");
    // The appender prints on a pipe that the script reads.
    let script = "mount --bind \"$LOG\" \"$MOUNTED\"; mount -o remount,ro,bind \"$MOUNTED\"; $SCUTTLEUP --log \"$MOUNTED\" read; \
                  mkfifo \"$LOG.in\" \"$LOG.acks\"; $SCUTTLEUP --log \"$LOG\" append --ack < \"$LOG.in\" > \"$LOG.acks\" & \
                  exec 9> \"$LOG.in\" 8< \"$LOG.acks\"; echo 2 >&9; read -u 8; \
                  for command in read watch heads; do $SCUTTLEUP --log \"$MOUNTED\" $command; echo $?; done; \
                  exec 9>&-; wait; $SCUTTLEUP --log \"$MOUNTED\" read";
    let run = Run::program("unshare").args(["--mount", "bash", "-c", script]).env("SCUTTLEUP", SCUTTLEUP);
    let run = run.env("LOG", &log).env("MOUNTED", &mounted);
    let printed = run.stderr_has("mounted is mounted read-only, and another process has the log open").success();
    let lines = printed.lines();
    assert_eq!((lines.len(), &lines[1..4]), (6, &["1", "1", "1"][..]), "{lines:?}");
    assert_eq!(printed.stderr.lines().count(), 3, "{}", printed.stderr);
}

/// Plants something in place of one file of a log. All commands must refuse it by name at once and change nothing.
fn assert_refused(plant: impl Fn(&Path), what: &str) {
    for name in ["data.mdb", "lock.mdb", "bell"] {
        for exists in [true, false] {
            let place = Place::new();
            let log = place.path("log");
            if exists {
                append(&log, "1\n");
                fs::remove_file(log.join(name)).expect("it exists");
            } else {
                fs::create_dir(&log).expect("a directory");
            }
            plant(&log.join(name));
            let commands = [&["append"][..], &["write"], &["init"], &["watch"], &["replicate", "--once"]];
            for args in &commands[..if exists { 5 } else { 3 }] {
                let run = Run::new(&log).args(*args).stdin("1\n").stdout("");
                one_line(&run.stderr_has(&format!("{name} {what}")).status(1));
            }
        }
    }
}

#[test]
fn a_symbolic_link_in_place_of_a_file_is_refused_and_not_followed() {
    let place = Place::new();
    let (target, missing) = (place.file("target", "mine"), place.path("missing"));
    assert_refused(|path| symlink(&target, path).expect("a link"), "is a symbolic link");
    assert_refused(|path| symlink(&missing, path).expect("a link"), "is a symbolic link");
    assert_eq!((fs::read(target).expect("it exists"), missing.exists()), (b"mine".to_vec(), false));
}

#[test]
fn a_fifo_in_place_of_a_file_is_refused_and_not_waited_for() {
    assert_refused(|path| mkfifo(path, Mode::S_IRWXU).expect("a FIFO"), "is a FIFO");
    assert_refused(|path| fs::create_dir(path).expect("a directory"), "is a directory");
}

#[test]
fn a_file_of_a_user_who_is_not_trusted_is_refused() {
    let file_of_bob = |path: &Path| {
        fs::write(path, "").expect("a file");
        chown(path, Some(BOB), Some(BOB)).expect("chown (the tests must run as root)");
    };
    assert_refused(file_of_bob, &format!("belongs to the user with the id {BOB}"));
}

/// Something that another user could plant in place of the directory of the packs, or of a pack. `other` holds packs of this user.
type Plant = fn(packs: &Path, other: &Path);

fn move_away(packs: &Path) {
    fs::rename(packs, packs.with_file_name("packs.moved")).expect("it is moved");
}

fn replace_pack(packs: &Path) -> PathBuf {
    let pack = packs.join(PACK);
    fs::remove_file(&pack).expect("a pack");
    pack
}

const PACK: &str = "00000000000000000001.pack";

/// A stranger who may write in the directory of a log could give it other packs, with other entries and right checksums.
#[test]
fn packs_that_another_user_planted_are_refused() {
    let plants: [(&str, Plant); 7] = [
        ("packs is a symbolic link, and must be a directory", |packs, other| {
            move_away(packs);
            symlink(other, packs).expect("a link");
        }),
        ("packs is a file, and must be a directory", |packs, _| {
            move_away(packs);
            fs::write(packs, "").expect("a file");
        }),
        ("packs is a FIFO, and must be a directory", |packs, _| {
            move_away(packs);
            mkfifo(packs, Mode::S_IRWXU).expect("a FIFO");
        }),
        ("packs belongs to the user with the id 61002", |packs, other| {
            move_away(packs);
            fs::rename(other, packs).expect("it is moved");
        }),
        ("00001.pack is a symbolic link, and a file of a log must be a regular file", |packs, other| {
            symlink(other.join(PACK), replace_pack(packs)).expect("a link");
        }),
        ("00001.pack is a FIFO, and a file of a log must be a regular file", |packs, _| {
            mkfifo(&replace_pack(packs), Mode::S_IRWXU).expect("a FIFO");
        }),
        ("00001.pack belongs to the user with the id 61002", |packs, other| {
            fs::rename(other.join(PACK), replace_pack(packs)).expect("it is moved");
        }),
    ];
    for (said, plant) in plants {
        let place = Place::new();
        let (log, other) = (place.log("own"), place.path("other"));
        append(&log, "1\n2\n");
        Run::new(&log).args(["-q", "compact"]).success();
        append(&log, "3\n");
        let packs = log.join("packs");
        shell("cp -r \"$PACKS\" \"$OTHER\" && chown -R 61002:61002 \"$OTHER\"")
            .env("PACKS", &packs)
            .env("OTHER", &other)
            .success();
        plant(&packs, &other);
        for args in [&["read"][..], &["entry", "own", "1"], &["watch"]] {
            one_line(&Run::new(&log).args(args).stdout("").stderr_has(said).status(1));
        }
        let verified = Run::new(&log).args(["verify"]).end();
        let found = verified.printed.text().to_owned() + &verified.printed.stderr;
        assert!(verified.status.code() == Some(1) && found.contains(said), "{found}");
        if said.starts_with("packs ") {
            for args in [&["compact"][..], &["prune", "--keep-last", "1"]] {
                Run::new(&log).args(args).stdout("").stderr_has(said).status(1);
            }
        }
    }
}

/// Root may use the log of another user, and the files that it creates there belong to that user.
#[test]
fn root_leaves_a_log_to_its_owner() {
    let place = Place::new();
    let log = directory(&place, ALICE, ALICE, 0o700);
    append(&log, "1\n");
    as_user(ALICE, &[], &log, &["append"]).stdin("2\n").stderr("").success();
    assert_eq!(read(&log).lines().count(), 2);
}

/// A user who may only read the directory can lock it, but no command waits for this lock.
#[test]
fn a_lock_on_the_directory_stops_no_command() {
    let place = Place::new();
    let log = directory(&place, ALICE, ALICE, 0o755);
    as_user(ALICE, &[], &log, &["append"]).stdin("1\n").success();
    let hold = ["--reuid=61002", "--regid=61002", "--clear-groups", "flock", "-x"];
    let mut holding: Running = Run::program("setpriv").args(hold).args([&log]).args(["sh", "-c", "echo held; cat"]).spawn();
    assert_eq!(holding.line(), "held\n");
    as_user(ALICE, &[], &log, &["append"]).stdin("2\n").stderr("").success();
    // The lock file can be locked too, but not by a user who may not write it.
    shell("setpriv --reuid=61002 --regid=61002 --clear-groups flock -n \"$LOG/lock.mdb\" true")
        .env("LOG", &log)
        .stderr_has("Permission denied")
        .status(66);
}
