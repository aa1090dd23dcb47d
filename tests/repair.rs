//! `repair`: lost entries come back into their places, or into a new log, and wrong ones never do.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::{Place, Printed, Run, SCUTTLEUP, append, heads, read, root, shell};

const PAGE_BYTES: usize = 4096;

/// Two logs that hold the same feeds of `alice` and `bob`: the first one, and its remote.
fn pair(place: &Place) -> (PathBuf, PathBuf) {
    let (alice, bob) = (place.log("alice"), place.log("bob"));
    let lines = |name: &str, count: u32| (1..=count).map(|n| format!("{{\"{name}\":\"entry {n}\"}}\n")).collect::<String>();
    append(&alice, lines("a", 3000));
    append(&bob, lines("b", 1500));
    sync(&alice, &bob);
    append(&alice, lines("later", 10));
    sync(&alice, &bob);
    (alice, bob)
}

fn sync(log: &Path, remote: &Path) {
    Run::new(log).args(["-q", "replicate", "--once", "--"]).args(remote_of(remote, "auto")).success();
}

/// A COMMAND that replicates this log.
pub fn remote_of(log: &Path, wire: &str) -> Vec<String> {
    let log = log.to_str().expect("UTF-8");
    [SCUTTLEUP, "-q", "--log", log, "replicate", "--wire", wire].map(String::from).to_vec()
}

fn repair(log: &Path, remote: &Path, wire: &str) -> Run {
    Run::new(log).args(["repair", "--"]).args(remote_of(remote, wire))
}

fn data(log: &Path) -> Vec<u8> {
    fs::read(log.join("data.mdb")).expect("the data file")
}

/// Changes one letter of the payload of each entry that contains `text`.
pub fn damage(log: &Path, text: &str) {
    let data = data(log);
    let found: Vec<_> = data.windows(text.len()).enumerate().filter(|(_, part)| *part == text.as_bytes()).collect();
    assert!(!found.is_empty(), "{text}");
    let file = File::options().write(true).open(log.join("data.mdb")).expect("the data file");
    found.iter().for_each(|(at, _)| file.write_all_at(b"#", *at as u64 + 5).expect("written"));
}

/// Replaces the page that contains `text` by zeros.
fn damage_page(log: &Path, text: &str) {
    let mut data = data(log);
    for page in data.chunks_exact_mut(PAGE_BYTES) {
        if page.windows(text.len()).any(|part| part == text.as_bytes()) {
            page.fill(0);
        }
    }
    fs::write(log.join("data.mdb"), data).expect("the data file");
}

/// The results that were printed: peer, seq, result.
fn results(printed: &Printed) -> Vec<(String, u64, String)> {
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let line = |line: &serde_json::Value| (text(&line["peer"]), line["seq"].as_u64().expect("a seq"), text(&line["result"]));
    printed.json().iter().map(line).collect()
}

fn result(peer: &str, seq: u64, result: &str) -> (String, u64, String) {
    (peer.into(), seq, result.into())
}

fn assert_intact(log: &Path) {
    Run::new(log).args(["-q", "verify"]).stdout("").stderr("").success();
}

#[test]
fn lost_entries_come_back_into_their_places_on_both_wires() {
    for wire in ["native", "original"] {
        let place = Place::new();
        let (log, remote) = pair(&place);
        let before = read(&log);
        for text in ["\"a\":\"entry 2000\"", "\"b\":\"entry 7\"", "\"b\":\"entry 8\"", "\"later\":\"entry 10\""] {
            damage(&log, text);
        }
        Run::new(&log).args(["read"]).status(1);
        let printed = repair(&log, &remote, wire).stderr_has("repaired 4 of 4 lost entries\n").success();
        let expected = [("alice", 2000), ("alice", 3010), ("bob", 7), ("bob", 8)];
        assert_eq!(results(&printed), expected.map(|(peer, seq)| result(peer, seq, "repaired")), "{wire}");
        assert_eq!(read(&log), before, "{wire}");
        assert_intact(&log);
        assert!(!log.join("repair").exists());
        sync(&log, &remote);
    }
}

#[test]
fn an_intact_log_needs_no_remote() {
    let place = Place::new();
    let (log, _) = pair(&place);
    Run::new(&log).args(["repair", "--", "false"]).stdout("").stderr("scuttleup: the log has no damage\n").success();
    Run::new(&place.path("none")).args(["repair", "--", "false"]).stdout("").stderr_has("no log in").status(1);
}

#[test]
fn entries_that_the_remote_does_not_hold_stay_lost_and_are_named() {
    let place = Place::new();
    let (log, remote) = pair(&place);
    append(&log, "{\"only\":\"here\"}\n");
    damage(&log, "\"only\":\"here\"");
    damage(&log, "\"b\":\"entry 7\"");
    let printed = repair(&log, &remote, "auto").stderr_has("repaired 1 of 2 lost entries: run it again").status(3);
    assert_eq!(results(&printed), [result("alice", 3011, "missing"), result("bob", 7, "repaired")]);
    let before = data(&log);
    let failing = Run::new(&log).args(["repair", "--", "false"]).stderr_has("repaired 0 of 1 lost entries").status(3);
    assert_eq!(results(&failing), [result("alice", 3011, "missing")]);
    assert!(data(&log) == before, "the log was changed");
}

#[test]
fn other_bytes_of_the_remote_are_not_taken() {
    for wire in ["native", "original"] {
        let place = Place::new();
        let (log, _) = pair(&place);
        let forked = place.path("forked");
        let changed = read(&log).replace("{\"b\":\"entry 70\"},", "{\"b\":\"ENTRY 70\"},");
        let without_hash: String = changed.lines().map(without_hash).collect();
        Run::new(&forked).args(["-q", "write"]).stdin(without_hash).success();
        damage(&log, "\"b\":\"entry 70\"");
        let before = data(&log);
        let printed = repair(&log, &forked, wire).status(4);
        assert_eq!(results(&printed), [result("bob", 70, "differs")], "{wire}");
        assert!(data(&log) == before, "the log was changed");
    }
}

/// The change line without its hash, if it has one.
fn without_hash(line: &str) -> String {
    let end = line.find(",\"hash\":").map_or(line.len() - 1, |at| at);
    format!("{}}}\n", &line[..end])
}

#[test]
fn an_entry_that_the_remote_has_deleted_comes_back_as_deleted() {
    let place = Place::new();
    let (log, remote) = pair(&place);
    Run::new(&remote).args(["-q", "del", "bob", "7"]).success();
    damage(&log, "\"b\":\"entry 7\"");
    assert_eq!(results(&repair(&log, &remote, "auto").success()), [result("bob", 7, "repaired")]);
    Run::new(&log).args(["entry", "bob", "7"]).stderr_has("was deleted").status(1);
    assert_intact(&log);
}

#[test]
fn lost_entries_of_more_feeds_than_one_session_names_come_back() {
    let place = Place::new();
    let (log, remote) = (place.log("own"), place.log("remote"));
    let line = |n: u32| format!("{{\"peer\":\"peer[{n}]*\",\"seq\":1,\"entry\":{{\"number\":\"n {n}\"}}}}\n");
    let lines: String = (100..250).map(line).collect();
    [&log, &remote].iter().for_each(|log| drop(Run::new(log).args(["-q", "write"]).stdin(&lines).success()));
    let before = read(&log);
    damage(&log, "\"number\":\"n");
    let printed = repair(&log, &remote, "auto").stderr_has("repaired 150 of 150 lost entries").success();
    assert_eq!(results(&printed).len(), 150);
    assert_eq!(read(&log), before);
    assert_intact(&log);
}

#[test]
fn a_log_whose_pages_are_damaged_is_built_again_beside_it() {
    let damages: [fn(&Path); 3] = [
        |log| damage_page(log, "\"a\":\"entry 1500\""),
        |log| damage_page(log, "entries"),
        |log| {
            let mut data = data(log);
            data[..PAGE_BYTES].fill(0);
            fs::write(log.join("data.mdb"), data).expect("the data file");
        },
    ];
    for (damage, wire) in damages.into_iter().zip(["original", "native", "auto"]) {
        let place = Place::new();
        let (log, remote) = pair(&place);
        let (before, whole) = (heads(&log), root(&log));
        damage(&log);
        let damaged = data(&log);
        let new = place.path("alice.repaired");
        let printed = repair(&log, &remote, wire).stderr_has("building a new log in").end();
        assert!(printed.printed.stdout.is_empty(), "{}", printed.printed.text());
        assert_eq!((heads(&new), root(&new)), (before, whole), "{wire}");
        assert_intact(&new);
        assert!(data(&log) == damaged, "the damaged log was changed");
        repair(&log, &remote, wire).stderr_has("exists already").status(1);
    }
}

#[test]
fn a_log_that_is_built_again_keeps_its_id_only_if_its_local_feed_is_whole() {
    let place = Place::new();
    let (log, remote) = pair(&place);
    damage_page(&log, "\"a\":\"entry 1500\"");
    repair(&log, &remote, "auto").stdout("").success();
    Run::new(&place.path("alice.repaired")).args(["id"]).stdout("alice\n").success();
    fs::remove_dir_all(place.path("alice.repaired")).expect("removed");
    // Now the last entries of the local feed are missing.
    let older = place.log("older");
    Run::new(&older)
        .args(["-q", "write"])
        .stdin(
            read(&remote).lines().filter(|line| !line.contains("entry 1500")).map(|line| format!("{line}\n")).collect::<String>(),
        )
        .end();
    let printed = repair(&log, &older, "auto").stderr_has("new entries go to the feed of the new id").status(3);
    let results = results(&printed);
    assert_eq!(results.first(), Some(&result("alice", results[0].1, "missing")));
    assert_eq!(results.last(), Some(&result("alice", 3010, "missing")));
    let id = Run::new(&place.path("alice.repaired")).args(["id"]).success();
    assert_ne!(id.text(), "alice\n");
}

#[test]
fn a_new_log_that_is_not_complete_is_not_to_be_used() {
    let place = Place::new();
    let (log, remote) = pair(&place);
    damage_page(&log, "\"a\":\"entry 1500\"");
    let new = place.path("alice.repaired");
    let again = "remove the new log, and run repair again";
    let failing = Run::new(&log).args(["repair", "--", "false"]).stderr_has("because the session did not end").stderr_has(again);
    assert!(!failing.status(3).stderr.contains("to its place"));
    fs::remove_dir_all(&new).expect("removed");
    let none = place.log("none");
    repair(&log, &none, "auto").stderr_has("if another log holds more of them").stderr_has("to its place").status(3);
    fs::remove_dir_all(&new).expect("removed");
    let line = "ulimit -f 100; $scuttleup --log \"$LOG\" repair -- $scuttleup --log \"$REMOTE\" replicate";
    let full = shell(line).env("LOG", &log).env("REMOTE", &remote).stderr_has("cannot store more").stderr_has(again);
    assert!(!full.status(5).stderr.contains("to its place"));
    fs::remove_dir_all(&new).expect("removed");
    repair(&log, &remote, "auto").stderr_has("to its place").success();
}

#[test]
fn one_process_at_a_time_repairs_and_removes_what_a_killed_one_left() {
    let place = Place::new();
    let (log, remote) = pair(&place);
    damage(&log, "\"b\":\"entry 7\"");
    fs::create_dir_all(log.join("repair/log/something")).expect("a folder");
    // The first repair waits for its remote.
    let gate = place.path("gate");
    mkfifo(&gate, Mode::S_IRWXU).expect("a FIFO");
    let words = ["repair", "--", "sh", "-c", "cat \"$GATE\" >&2 && exec \"$@\"", "sh"];
    let first = Run::new(&log).args(words).args(remote_of(&remote, "auto")).env("GATE", &gate).spawn();
    // This waits until COMMAND runs.
    let open = File::options().write(true).open(&gate).expect("a FIFO");
    repair(&log, &remote, "auto").stdout("").stderr_has("another process repairs this log").status(1);
    assert!(log.join("repair/log").exists(), "the second repair has removed the folder of the first one");
    drop(open);
    let ended = first.finish();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.printed.stderr);
    assert_eq!(results(&ended.printed), [result("bob", 7, "repaired")]);
    assert!(!log.join("repair").exists());
    // The process was killed after its last commit.
    fs::create_dir_all(log.join("repair/log")).expect("a folder");
    repair(&log, &remote, "auto").stdout("").success();
    assert!(!log.join("repair").exists());
}

/// `del` and `compact` remove the bytes of an entry also if a repair was killed, or is running.
#[test]
fn the_bytes_of_a_deleted_entry_are_not_left_in_the_folder_of_a_repair() {
    let place = Place::new();
    let (log, _) = pair(&place);
    let left = log.join("repair/log");
    fs::create_dir_all(&left).expect("a folder");
    fs::write(left.join("data.mdb"), "{\"b\":\"entry 7\"}").expect("a file");
    let lock = Flock::lock(File::open(log.join("repair")).expect("a folder"), FlockArg::LockExclusive).expect("a lock");
    Run::new(&log).args(["del", "bob", "7"]).success();
    Run::new(&log).args(["compact"]).stderr_has("another process repairs this log").status(3);
    assert!(left.exists());
    drop(lock);
    Run::new(&log).args(["-q", "compact"]).stderr("").success();
    Run::program("grep").args(["-rlaF", "\"b\":\"entry 7\""]).args([&log]).stdout("").status(1);
}

/// Replaces both meta pages by zeros.
fn damage_meta_pages(log: &Path) {
    let mut data = data(log);
    data[..2 * PAGE_BYTES].fill(0);
    fs::write(log.join("data.mdb"), data).expect("the data file");
}

/// Damages each branch page: no row can be found through its tree.
fn damage_branch_pages(log: &Path) {
    let mut data = data(log);
    for page in data.chunks_exact_mut(PAGE_BYTES).skip(2).filter(|page| page[10..12] == [1, 0]) {
        page[12] ^= 2;
    }
    fs::write(log.join("data.mdb"), data).expect("the data file");
}

/// Peer, seq and content of each entry, sorted.
fn contents(log: &Path) -> Vec<String> {
    let lines = read(log);
    let mut contents: Vec<_> = lines.lines().map(|line| line[line.find("\"peer\"").expect("a peer")..].to_owned()).collect();
    contents.sort();
    contents
}

#[test]
fn entries_that_only_the_damaged_log_holds_are_found_without_the_trees() {
    // Without its meta pages or its tables, the newest heads of a log are not known for certain.
    let unsure = "the heads of the damaged log cannot be read, so entries can be missing";
    type Damage = fn(&Path);
    let damages = [
        (damage_meta_pages as Damage, 3, unsure),
        (damage_branch_pages, 0, "3001 of them are from the damaged log"),
        (|log| damage_page(log, "entries"), 3, unsure),
    ];
    for (damage, code, said) in damages {
        let place = Place::new();
        let log = place.log("own");
        append(&log, (1..=3000).map(|n| format!("{{\"only\":\"here {n}\"}}\n")).collect::<String>());
        Run::new(&log).args(["-q", "append", "--raw"]).stdin(vec![7; 20_000]).success();
        Run::new(&log).args(["-q", "del", "own", "2000"]).success();
        let before = contents(&log);
        damage(&log);
        // The remote fails.
        Run::new(&log).args(["repair", "--", "false"]).stdout("").stderr_has(said).status(code);
        let new = place.path("own.repaired");
        assert_eq!(contents(&new), before);
        Run::new(&new).args(["id"]).stdout("own\n").success();
        assert_intact(&new);
    }
}

#[test]
fn the_last_deletion_is_kept_if_its_meta_page_is_lost() {
    let place = Place::new();
    let (log, remote) = pair(&place);
    Run::new(&log).args(["-q", "del", "bob", "7"]).success();
    let mut pages = data(&log);
    let txn = |page: usize| u64::from_le_bytes(pages[page + 144..page + 152].try_into().expect("8 bytes"));
    let newest = if txn(0) > txn(PAGE_BYTES) { 0 } else { PAGE_BYTES };
    pages[newest + 16] ^= 1;
    fs::write(log.join("data.mdb"), pages).expect("the data file");
    repair(&log, &remote, "auto").stdout("").end();
    Run::new(&place.path("alice.repaired")).args(["entry", "bob", "7"]).stderr_has("was deleted").status(1);
}

#[test]
fn entries_of_a_feed_whose_name_is_damaged_are_not_taken() {
    let place = Place::new();
    let (log, remote) = pair(&place);
    let mut changed = data(&log);
    let found: Vec<_> = changed.windows(3).enumerate().filter(|(_, part)| part == b"bob").map(|(at, _)| at).collect();
    assert!(found.len() >= 2);
    found.iter().for_each(|at| changed[at + 1] ^= 1);
    fs::write(log.join("data.mdb"), changed).expect("the data file");
    repair(&log, &remote, "auto").stderr_has("building a new log").end();
    assert_eq!(heads(&place.path("alice.repaired")), heads(&remote));
}

/// Seals all entries of the log but the newest one, and returns the only pack.
fn seal(log: &Path) -> PathBuf {
    Run::new(log).args(["-q", "compact"]).success();
    let mut packs = fs::read_dir(log.join("packs")).expect("a directory");
    packs.next().expect("a pack").expect("a file").path()
}

#[test]
fn lost_entries_whose_run_begins_in_a_pack_come_back() {
    let place = Place::new();
    let (log, remote) = pair(&place);
    seal(&log);
    append(&log, (1..=20).map(|n| format!("{{\"new\":\"entry {n}\"}}\n")).collect::<String>());
    sync(&log, &remote);
    let before = read(&log);
    damage(&log, "\"new\":\"entry 2\"");
    assert_eq!(results(&repair(&log, &remote, "auto").success()), [result("alice", 3012, "repaired")]);
    assert_eq!(read(&log), before);
    assert_intact(&log);
}

#[test]
fn a_log_whose_pack_is_damaged_is_built_again_beside_it() {
    for (cut, wire) in [(0, "native"), (70, "original"), (2000, "auto")] {
        let place = Place::new();
        let (log, remote) = pair(&place);
        let (before, pack) = (heads(&log), seal(&log));
        let mut changed = fs::read(&pack).expect("a pack");
        changed[cut] ^= 1;
        fs::write(&pack, changed).expect("a pack");
        repair(&log, &remote, wire).stdout("").stderr_has("building a new log").success();
        let new = place.path("alice.repaired");
        assert_eq!(heads(&new), before);
        Run::new(&new).args(["id"]).stdout("alice\n").success();
        assert_intact(&new);
    }
}

#[test]
fn a_log_without_its_data_file_is_built_again_from_its_packs() {
    let place = Place::new();
    let (log, remote) = pair(&place);
    Run::new(&log).args(["-q", "del", "bob", "7"]).success();
    let before = contents(&log);
    seal(&log);
    fs::write(log.join("data.mdb"), "").expect("the data file");
    let said = "4509 of them are from the damaged log";
    let unknown = "the heads of the damaged log cannot be read, so entries can be missing: if another log holds more of them";
    repair(&log, &remote, "auto").stdout("").stderr_has(said).stderr_has(unknown).stderr_has("the new id").status(3);
    let new = place.path("alice.repaired");
    assert_eq!(contents(&new), before);
    assert_intact(&new);
}

/// A log after each step of its life with floors is intact, and its lost entries come back.
#[test]
fn pruned_logs_are_intact_and_can_be_repaired() {
    let place = Place::new();
    let (log, remote) = pair(&place);
    let part = place.log("part");
    append(&part, "\"own\"\n");
    Run::new(&part)
        .args(["write"])
        .stdin(read(&log).lines().take(800).map(|line| format!("{line}\n")).collect::<String>())
        .success();
    let run = |args: &[&str]| Run::new(&log).args(["-q"]).args(args).success();
    run(&["prune", "--keep-last", "2500"]);
    assert_intact(&log);
    run(&["compact"]);
    assert_intact(&log);
    // The floor is in the middle of a pack.
    run(&["prune", "--keep-last", "2000"]);
    assert_intact(&log);
    run(&["compact"]);
    assert_intact(&log);
    // One log begins at the floors, the other one holds older entries below them.
    for other in [&place.log("new"), &part] {
        Run::new(other).args(["replicate", "--once", "--"]).args(remote_of(&log, "auto")).success();
        assert_intact(other);
        Run::new(other).args(["-q", "compact"]).success();
        assert_intact(other);
    }
    append(&log, "\"late 1\"\n\"late 2\"\n\"late 3\"\n");
    sync(&log, &remote);
    damage(&log, "\"late 2\"");
    Run::new(&log).args(["-q", "verify"]).status(1);
    repair(&log, &remote, "auto").stderr_has("repaired 1 of 1").success();
    assert_intact(&log);
    // A pack is damaged: a new log is built beside it, with the same floors.
    let (heads_before, root_before) = (Run::new(&log).args(["heads"]).success().text().to_owned(), root(&log));
    let pack = fs::read_dir(log.join("packs")).expect("the packs").next().expect("a pack").expect("a name").path();
    let middle = pack.metadata().expect("it exists").len() / 2;
    File::options().write(true).open(&pack).expect("the pack").write_all_at(b"######", middle).expect("written");
    Run::new(&log).args(["-q", "verify"]).status(1);
    repair(&log, &remote, "auto").end();
    let repaired = log.with_extension("repaired");
    assert_intact(&repaired);
    assert_eq!((Run::new(&repaired).args(["heads"]).success().text().to_owned(), root(&repaired)), (heads_before, root_before));
}

/// A user who may write in the directory of a log could lock the folder, or see the entries in it.
#[test]
fn a_folder_of_a_repair_that_another_user_planted_is_refused() {
    let place = Place::new();
    let (log, remote) = pair(&place);
    damage(&log, "\"b\":\"entry 7\"");
    let folder = log.join("repair");
    fs::create_dir(&folder).and_then(|()| chown(&folder, Some(61002), Some(61002))).expect("a folder");
    repair(&log, &remote, "auto").stdout("").stderr_has("repair belongs to the user with the id 61002").status(1);
    fs::remove_dir(&folder).and_then(|()| symlink(place.path("."), &folder)).expect("a link");
    repair(&log, &remote, "auto").stdout("").stderr_has("repair is a symbolic link, and must be a directory").status(1);
    fs::remove_file(&folder).expect("a link");
    repair(&log, &remote, "auto").success();
}

/// The error is made by strace.
#[test]
fn a_lock_that_cannot_be_released_is_no_error() {
    let place = Place::new();
    let (log, remote) = pair(&place);
    damage(&log, "\"b\":\"entry 7\"");
    let strace = ["-qq", "-o", "/dev/null", "-e", "inject=flock:error=EIO:when=2+", SCUTTLEUP, "--log"];
    let run = Run::program("strace").args(strace).args([&log]).args(["repair", "--"]).args(remote_of(&remote, "auto"));
    assert!(!run.stderr_has("repaired 1 of 1 lost entries").success().stderr.contains("fault of scuttleup"));
}
