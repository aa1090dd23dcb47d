//! The identity of a log: a copy takes a new id, and a log that stays where it is keeps its id.

use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::Instant;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use scuttleup::Log;

use crate::harness::{Place, Run, STEP, append, assert_equal, heads, read, shell};
use crate::opening::waiting;
use crate::replicate::join;

const COPIED: &str = "scuttleup: this log was copied, restored from a backup, or moved from another file system: new entries go to \
                      the feed of the new id ";

/// The id of a log.
fn id(log: &Path) -> String {
    Run::new(log).args(["id"]).success().text().trim_end().to_owned()
}

/// Whether `new` is an id that a log with the chosen id `old` takes.
fn follows(new: &str, old: &str) -> bool {
    let end = new.strip_prefix(old).and_then(|end| end.strip_prefix('~'));
    end.is_some_and(|end| end.len() == 6 && end.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Checks that a writer gives the copy `log` of a log `old` a new id, says so once, and appends to the new feed.
fn takes_a_new_id(log: &Path, old: &str) -> String {
    let before = heads(log);
    let printed = Run::new(log).args(["-q", "append", "--ack"]).stdin("\"first\"\n").success();
    let new = id(log);
    assert!(follows(&new, old), "{new}");
    assert_eq!(printed.stderr, format!("{COPIED}{new}, and the feed of {old} stays as it is\n"));
    assert_eq!(printed.text(), format!("{{\"peer\":\"{new}\",\"seq\":1}}\n"));
    keeps_its_id(log, &new, 2);
    let after = heads(log);
    assert!(before.iter().all(|head| after.contains(head)) && after.len() == before.len() + 1, "{before:?} {after:?}");
    new
}

/// Checks that the next append has this seq in the feed of `id`, without a message.
fn keeps_its_id(log: &Path, id: &str, seq: u32) {
    let ack = format!("{{\"peer\":\"{id}\",\"seq\":{seq}}}\n");
    Run::new(log).args(["append", "--ack"]).stdin("1\n").stdout(ack).stderr("").success();
}

/// Runs a script of bash with own mounts, which end with it, in the directory of `place`. `attach FILE` mounts the file system in
/// a file on `disk`, through another loop device each time.
fn mounted(place: &Place, script: &str) -> crate::harness::Printed {
    let attach = "cd \"$DIR\"; mkdir -p disk; mount --bind . . && cd \"$DIR\"; \
        attach() { \
            device=$(losetup --find --show \"$1\") || { echo 'no loop device: this test needs /dev/loop-control' >&2; exit 99; }; \
            mount \"$device\" disk || { losetup --detach \"$device\"; echo \"$1 cannot be mounted\" >&2; exit 99; }; \
            losetup --detach \"$device\"; \
        }; \
        append() { echo 1 | \"$SCUTTLEUP\" --log \"$1\" append --ack 2>&1; }; ";
    let run = Run::program("unshare").args(["--mount", "bash", "-euc", &[attach, script].concat()]);
    run.env("SCUTTLEUP", crate::harness::SCUTTLEUP).env("DIR", place.path("")).stderr("").success()
}

#[test]
fn each_kind_of_copy_takes_a_new_id_before_its_first_append() {
    for copy in [
        "cp -r a copy",
        "cp -a --reflink=auto a copy",
        "rsync -a a/ copy",
        "tar cf a.tar a; mkdir copy; tar xf a.tar -C copy --strip-components 1",
        // A directory of an earlier copy, whose files rsync replaces.
        "cp -r a copy; echo 1 | $scuttleup --log copy append 2>&1; rsync -a --ignore-times a/ copy",
    ] {
        let place = Place::new();
        let (log, copied) = (place.log("a"), place.path("copy"));
        append(&log, "1\n2\n");
        shell(&format!("set -e; cd \"$DIR\"; {copy}")).env("DIR", place.path("")).success();
        let new = takes_a_new_id(&copied, "a");
        // The original stays as it is, and both go on without a fork.
        keeps_its_id(&log, "a", 3);
        let ended = join(&log, &["--once"], &copied, &["--once"]);
        assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(0), Some(0)), "{copy}");
        assert_equal(&log, &copied);
        assert_eq!((id(&log), id(&copied)), ("a".into(), new));
    }
}

#[test]
fn a_backup_that_is_restored_into_the_same_directory_takes_a_new_id_and_loses_nothing() {
    let place = Place::new();
    let (log, other) = (place.log("a"), place.log("other"));
    append(&log, "1\n");
    shell("cp -r \"$A\" \"$A.backup\"").env("A", &log).success();
    append(&log, "2\n3\n");
    let ended = join(&log, &["--once"], &other, &["--once"]);
    assert_eq!(ended.0.status.code(), Some(0));
    shell("rm -r \"$A\"; cp -r \"$A.backup\" \"$A\"").env("A", &log).success();
    let new = takes_a_new_id(&log, "a");
    let ended = join(&log, &["--once"], &other, &["--once"]);
    assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(0), Some(0)), "{}", ended.0.printed.stderr);
    assert_equal(&log, &other);
    assert!(heads(&log).contains(&"{\"peer\":\"a\",\"seq\":3}".to_owned()), "the old feed got its entries back");
    keeps_its_id(&log, &new, 3);
    // A backup of this log is again a copy: its suffix is replaced.
    shell("cp -r \"$A\" \"$A.again\"").env("A", &log).success();
    takes_a_new_id_after(&log.with_extension("again"), &new);
}

fn takes_a_new_id_after(log: &Path, old: &str) {
    let printed = Run::new(log).args(["append"]).stdin("1\n").success();
    let new = id(log);
    assert!(follows(&new, "a") && new != old, "{new}");
    assert!(printed.stderr.starts_with(&format!("{COPIED}{new}, and the feed of {old} stays")), "{}", printed.stderr);
}

#[test]
fn a_copy_of_a_log_with_a_random_id_takes_another_random_id() {
    let place = Place::new();
    let (log, copy) = (place.path("log"), place.path("copy"));
    append_quietly(&log);
    shell("cp -r \"$A\" \"$B\"").env("A", &log).env("B", &copy).success();
    Run::new(&copy).args(["append"]).stdin("1\n").stderr_has(COPIED).success();
    let (old, new) = (id(&log), id(&copy));
    assert!(old != new && [&old, &new].iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
}

fn append_quietly(log: &Path) {
    Run::new(log).args(["-q", "append"]).stdin("1\n").success();
}

#[test]
fn every_command_that_writes_gives_a_copy_its_new_id_and_no_other_command_does() {
    let place = Place::new();
    let (log, other) = (place.log("a"), place.log("other"));
    append(&log, "1\n");
    Run::new(&log).args(["-q", "write"]).stdin("{\"peer\":\"x\",\"seq\":1,\"entry\":1}\n").success();
    Run::new(&log).args(["-q", "write"]).stdin("{\"peer\":\"x\",\"seq\":1,\"entry\":2}\n").stderr_has("fork").status(4);
    for (command, writes) in [
        ("append </dev/null", true),
        ("write </dev/null", true),
        ("replicate --once -- $scuttleup --log \"$OTHER\" replicate", true),
        ("replicate --once --no-create --mode push --wire original -- $scuttleup --log \"$OTHER\" replicate", true),
        ("del a 1", true),
        ("heads --clear-fork x", true),
        ("compact", true),
        ("prune --keep-last 1", true),
        ("cursor set c 1", true),
        ("exec --cursor c -- true", true),
        ("read --cursor c", true),
        ("id --new", true),
        ("heads", false),
        ("read", false),
        ("entry a 1", false),
        ("info", false),
        ("id", false),
        ("init --id b || true", false),
    ] {
        let copy = place.path("copy");
        let line = format!("rm -rf \"$COPY\"; cp -r \"$LOG\" \"$COPY\"; $scuttleup --log \"$COPY\" {command}");
        let printed = shell(&line).env("LOG", &log).env("COPY", &copy).env("OTHER", &other).success();
        assert_eq!(printed.stderr.matches(COPIED).count(), usize::from(writes), "{command}: {}", printed.stderr);
        assert_eq!((follows(&id(&copy), "a"), id(&copy) == "a"), (writes, !writes), "{command}");
    }
    keeps_its_id(&log, "a", 2);
}

#[test]
fn two_copies_of_a_log_that_is_used_do_not_fork() {
    let place = Place::new();
    let (log, left, right) = (place.log("a"), place.path("left"), place.path("right"));
    append(&log, "1\n2\n");
    shell("cp -r \"$A\" \"$L\"; cp -r \"$A\" \"$R\"").env("A", &log).env("L", &left).env("R", &right).success();
    for wire in ["native", "original"] {
        let args = ["--once", "--wire", wire];
        // The first session opens the copies: they take their ids before they send them.
        for (a, b) in [(&left, &right), (&log, &left), (&right, &log), (&left, &right)] {
            let ended = join(a, &args, b, &args);
            assert_eq!((ended.0.status.code(), ended.1.status.code()), (Some(0), Some(0)), "{}", ended.0.printed.stderr);
            assert!(!ended.0.printed.stderr.contains("the same id"), "{}", ended.0.printed.stderr);
        }
        [&log, &left, &right].iter().for_each(|log| append(log, format!("\"{wire}\"\n")));
    }
    for (a, b) in [(&log, &left), (&log, &right), (&log, &left)] {
        join(a, &["--once"], b, &["--once"]);
    }
    assert_equal(&log, &left);
    assert_equal(&log, &right);
    assert!(heads(&log).len() == 3 && heads(&log).iter().all(|head| !head.contains("fork")), "{:?}", heads(&log));
}

#[test]
fn of_many_processes_that_open_a_copy_at_once_one_gives_it_a_new_id() {
    let place = Place::new();
    let (log, copy) = (place.log("a"), place.path("copy"));
    shell("cp -r \"$A\" \"$B\"").env("A", &log).env("B", &copy).success();
    // All of them see the place of the original, because they wait for the lock of the writers.
    let lock = File::options().write(true).open(copy.join("lock.mdb")).expect("a lock file");
    let byte =
        |kind| libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: (1 << 30) + 1, l_len: 1, l_pid: 0 };
    fcntl(&lock, FcntlArg::F_OFD_SETLK(&byte(libc::F_WRLCK))).expect("no other process has the lock");
    let mut running: Vec<_> = (0..4).map(|_| Run::new(&copy).args(["append"]).spawn()).collect();
    running.iter_mut().for_each(|append| append.send("1\n"));
    let start = Instant::now();
    while waiting(&copy) != running.len() {
        assert!(start.elapsed() < STEP, "{} processes wait", waiting(&copy));
        thread::yield_now();
    }
    fcntl(&lock, FcntlArg::F_OFD_SETLK(&byte(libc::F_UNLCK))).expect("the lock is released");
    let ended: Vec<_> = running.into_iter().map(crate::harness::Running::finish).collect();
    assert_eq!(ended.iter().filter(|ended| ended.printed.stderr.contains(COPIED)).count(), 1);
    assert_eq!(heads(&copy), [format!("{{\"peer\":\"{}\",\"seq\":4}}", id(&copy))]);
}

#[test]
fn a_log_that_is_renamed_or_mounted_elsewhere_keeps_its_id() {
    let place = Place::new();
    append(&place.log("a"), "1\n");
    let printed =
        mounted(&place, "mv a b; append b; mkdir c; mv b c/d; append c/d; mkdir bound; mount --bind c/d bound; append bound");
    assert_eq!(printed.text(), [2, 3, 4].map(|seq| format!("{{\"peer\":\"a\",\"seq\":{seq}}}\n")).concat());
}

#[test]
fn a_log_that_is_moved_to_another_file_system_keeps_its_id_if_the_user_says_so() {
    let place = Place::new();
    append(&place.log("a"), "1\n");
    let script = "mount -t tmpfs none disk; mv a disk/b; \"$SCUTTLEUP\" --log disk/b id 2>&1; \"$SCUTTLEUP\" --log disk/b id --keep; \
                  append disk/b; \"$SCUTTLEUP\" --log disk/b id; mv disk/b a; append a";
    let printed = mounted(&place, script);
    let lines = printed.lines();
    assert!(lines[0].ends_with("if no other copy of it is used any more, run `scuttleup id --keep` before"), "{}", lines[0]);
    assert_eq!(lines[1..5], ["a", "a", "{\"peer\":\"a\",\"seq\":2}", "a"]);
    assert!(lines[5].starts_with(COPIED) && lines[6].starts_with("{\"peer\":\"a~") && lines.len() == 7, "{lines:?}");
}

/// The number of the device changes, and on XFS the id of the file system with it.
#[test]
fn a_file_system_that_is_mounted_again_changes_nothing() {
    for make in [
        "truncate -s 64M image; mkfs.ext4 -q image",
        "truncate -s 320M image; mkfs.xfs -q image",
        "truncate -s 128M image; \
                  mkfs.btrfs -q image >/dev/null",
    ] {
        let place = Place::new();
        let script = "attach image; exec 9<\"$device\"; first=$device; \"$SCUTTLEUP\" -q --log disk/a init --id a; append disk/a; \
                      umount disk; attach image; [ \"$device\" != \"$first\" ]; append disk/a; \
                      cp -r disk/a disk/b; append disk/b; append disk/a";
        let printed = mounted(&place, &format!("{make}; {script}"));
        let lines = printed.lines();
        assert_eq!(lines[..2], ["{\"peer\":\"a\",\"seq\":1}", "{\"peer\":\"a\",\"seq\":2}"], "{make}");
        assert!(lines[2].starts_with(COPIED) && lines[3].starts_with("{\"peer\":\"a~"), "{make}: {lines:?}");
        assert_eq!(lines[4..], ["{\"peer\":\"a\",\"seq\":3}"], "{make}");
    }
}

/// Only the birth time differs.
#[test]
fn a_restored_data_file_with_the_same_inode_number_is_a_copy() {
    let place = Place::new();
    append(&place.log("a"), "1\n");
    let script = "truncate -s 64M image; mkfs.ext4 -q image; attach image; cp -r a disk/a; \"$SCUTTLEUP\" --log disk/a id --keep; \
                  cp disk/a/data.mdb backup; inode=$(stat -c %i disk/a/data.mdb); rm disk/a/data.mdb; cp backup disk/a/data.mdb; \
                  [ \"$inode\" = \"$(stat -c %i disk/a/data.mdb)\" ]; append disk/a";
    let printed = mounted(&place, script);
    assert!(printed.lines()[1].starts_with(COPIED), "{}", printed.text());
}

#[test]
fn a_snapshot_of_a_btrfs_subvolume_is_a_copy() {
    let place = Place::new();
    let script = "truncate -s 128M image; mkfs.btrfs -q image >/dev/null; attach image; btrfs -q subvolume create disk/s; \
                  \"$SCUTTLEUP\" -q --log disk/s/a init --id a; append disk/s/a; btrfs -q subvolume snapshot disk/s disk/t; \
                  append disk/t/a; append disk/s/a; mv disk/s disk/moved; append disk/moved/a";
    let printed = mounted(&place, script);
    let lines = printed.lines();
    assert!(lines[1].starts_with(COPIED) && lines[2].starts_with("{\"peer\":\"a~"), "{lines:?}");
    let own = |seq| format!("{{\"peer\":\"a\",\"seq\":{seq}}}");
    assert_eq!([lines[0], lines[3], lines[4]], [own(1), own(2), own(3)]);
}

/// The first write copies the log from the lower layer to the upper layer; the lower one can be used by others.
#[test]
fn an_overlay_copies_the_log_once() {
    let place = Place::new();
    append(&place.log("a"), "1\n");
    let overlay = "mount -t overlay none -o lowerdir=low,upperdir=up,workdir=work merged";
    let script = format!(
        "mount -t tmpfs none disk; cd disk; mkdir low up work merged; cp -r ../a low/a; \"$SCUTTLEUP\" --log low/a id --keep; \
         {overlay}; append merged/a; append merged/a; \"$SCUTTLEUP\" -q --log merged/new init --id new; umount merged; \
         {overlay}; append merged/a; append merged/new; umount merged; append low/a"
    );
    let printed = mounted(&place, &script);
    let lines = printed.lines();
    assert!(lines[0] == "a" && lines[1].starts_with(COPIED), "{lines:?}");
    let new = lines[2].strip_suffix(",\"seq\":1}").expect("the first entry of a new feed");
    assert!(new.starts_with("{\"peer\":\"a~"), "{new}");
    let expected = [
        &format!("{new},\"seq\":2}}"),
        &format!("{new},\"seq\":3}}"),
        "{\"peer\":\"new\",\"seq\":1}",
        "{\"peer\":\"a\",\"seq\":2}",
    ];
    assert_eq!(lines[3..], expected);
}

#[test]
fn id_new_and_id_keep() {
    let place = Place::new();
    let log = place.log("a");
    append(&log, "1\n");
    let new = |args: &[&str]| Run::new(&log).args(["id", "--new"]).args(args);
    new(&["b"]).stdout("b\n").stderr("").success();
    keeps_its_id(&log, "b", 1);
    let said = "scuttleup: this log already has the id b: choose an id that no log has had\n";
    new(&["b"]).stdout("").stderr(said).status(1);
    let printed = new(&[]).stderr("").success();
    assert!(follows(printed.text().trim_end(), "b") && id(&log) == printed.text().trim_end());
    let said =
        "scuttleup: this log already holds a feed of a, and another log may append to it: choose an id that no log has had\n";
    new(&["a"]).stdout("").stderr(said).status(1);
    Run::new(&log).args(["id", "--keep"]).stdout(printed.text()).stderr("").success();
    assert_eq!(id(&log), printed.text().trim_end());
    new(&[""]).stdout("").stderr_has("invalid peer id").status(2);
    new(&["a\u{1b}"]).stdout("").stderr_has("invalid peer id: it contains a control character").status(2);
    new(&["x", "--keep"]).status(2);
    for args in [["--new"], ["--keep"]] {
        let missing = place.path("missing");
        Run::new(&missing).args(["id"]).args(args).stdout("").stderr_has("no log in").status(1);
        assert!(!fs::exists(missing).expect("the parent can be read"));
    }
    // A log that is open follows at its next commit.
    let open = Log::open(&log).expect("a log");
    new(&["c"]).stdout("c\n").success();
    open.append(b"1").expect("an append");
    assert!(read(&log).contains("\"peer\":\"c\",\"seq\":1"));
}
