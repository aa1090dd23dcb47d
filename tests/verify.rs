//! `verify`: it finds each damage, ends with no signal on any of them, and finds none in an intact log that is in use.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lmdb::{DatabaseFlags, Environment, Transaction, WriteFlags};
use scuttleup::{Damage, Finding, HashedEntry, Key, Keys, Log, Part, PeerId, Seq, verify};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use crate::harness::{Place, Run, append, read};

const PAGE_BYTES: usize = 4096;
const NAME: &str = "with a long name, so that its rows fill some pages";
/// The peer with the number 8.
const PEER: &str = "peer 8 with a long name, so that its rows fill some pages";

/// A log with tables of several levels, entries on overflow pages, deleted entries and free pages.
fn varied(place: &Place) -> PathBuf {
    let path = place.log("own");
    let log = Log::open(&path).expect("a log");
    for round in 0..3 {
        let mut writer = log.writer().expect("a writer");
        for n in 0..150 {
            let peer = PeerId::new(&format!("peer {n} {NAME}")).expect("an id");
            let bytes = format!("{{\"round\":{round},\"peer\":{n},\"text\":\"{}\"}}", "x".repeat(100));
            writer.push(&peer, HashedEntry::new(bytes.as_bytes())).expect("stored");
        }
        writer.append(HashedEntry::new(&vec![b'a' + round; 9000])).expect("stored");
        writer.commit().expect("committed");
    }
    for n in 1..=1500 {
        let mut writer = log.writer().expect("a writer");
        for _ in 0..if n == 1 { 1500 } else { 1 } {
            writer.append(HashedEntry::new(n.to_string().as_bytes())).expect("stored");
        }
        writer.commit().expect("committed");
        if n == 20 {
            break;
        }
    }
    let (mut writer, mut keys) = (log.writer().expect("a writer"), Keys::new("line", 1, None));
    writer.load_keys(&mut keys).expect("loaded");
    keys.add(Key::of(b"20"));
    writer.save_keys(&mut keys).expect("saved");
    writer.commit().expect("committed");
    assert!(log.delete("own", Seq::new(2).expect("a seq")).expect("deleted").is_some());
    assert!(log.delete("own", Seq::new(9).expect("a seq")).expect("deleted").is_some());
    path
}

/// The damages of a log.
fn damages(log: &Path) -> Vec<Damage> {
    damages_while(log, || ())
}

/// The damages of a log. Calls `act` after the heads were read, and before the entries.
fn damages_while(log: &Path, act: impl FnMut()) -> Vec<Damage> {
    verify_while(log, act).1
}

/// The number of intact entries, and the damages, as [`damages_while`].
fn verify_while(log: &Path, mut act: impl FnMut()) -> (u64, Vec<Damage>) {
    let mut damages = Vec::new();
    let verified = verify(log, |finding| {
        match finding {
            Finding::Damage(damage) => damages.push(damage),
            Finding::Total(_) => act(),
            Finding::Checked(..) => {}
        }
        ControlFlow::Continue(())
    });
    let verified = verified.expect("damage is no error").expect("not ended");
    assert_eq!(verified.damages, damages.len() as u64);
    (verified.entries, damages)
}

/// The lines of the command for a damaged log.
fn lines(log: &Path) -> Vec<Value> {
    let printed = Run::new(log).args(["verify"]).status(1);
    assert!(printed.stderr.contains(" damage"), "{}", printed.stderr);
    printed.json()
}

fn data(log: &Path) -> Vec<u8> {
    fs::read(log.join("data.mdb")).expect("the data file")
}

fn write_at(log: &Path, at: usize, bytes: &[u8]) {
    let file = File::options().write(true).open(log.join("data.mdb")).expect("the data file");
    file.write_all_at(bytes, at as u64).expect("it can be written");
}

#[test]
fn an_intact_log_has_no_damage() {
    let place = Place::new();
    let log = varied(&place);
    assert_eq!(damages(&log), []);
    Run::new(&log).args(["verify"]).stdout("").stderr("scuttleup: no damage: checked 1972 entries in 151 feeds\n").success();
    Run::new(&log).args(["-q", "verify"]).stdout("").stderr("").success();
    let empty = place.log("empty");
    Run::new(&empty).args(["verify"]).stdout("").stderr("scuttleup: no damage: checked 0 entries in 0 feeds\n").success();
    Run::new(&place.path("none")).args(["verify"]).stdout("").stderr_has("no log in").status(1);
}

/// A generator of pseudo-random numbers (splitmix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 31
}

#[test]
fn each_flipped_bit_of_each_page_is_reported_or_changes_nothing() {
    let place = Place::new();
    let log = varied(&place);
    let (intact, text) = (data(&log), read(&log));
    let (mut seed, mut reported, mut harmless) = (7, 0, 0);
    for page in 0..intact.len() / PAGE_BYTES {
        for n in 0..32 {
            // The structure of a page is at its start.
            let place = random(&mut seed) as usize % if n < 24 { 80 } else { PAGE_BYTES };
            let (at, bit) = (page * PAGE_BYTES + place, 1 << (random(&mut seed) % 8));
            write_at(&log, at, &[intact[at] ^ bit]);
            if damages(&log).is_empty() {
                harmless += 1;
                Run::new(&log).args(["read"]).stdout(&text).stderr("").success();
            } else {
                reported += 1;
            }
            write_at(&log, at, &[intact[at]]);
        }
    }
    assert_eq!(damages(&log), []);
    assert!(reported > 1000 && harmless > 100, "{reported} {harmless}");
}

/// LMDB finds a row only if the keys of its page are in order.
#[test]
fn keys_in_the_wrong_order_are_reported() {
    let place = Place::new();
    let log = varied(&place);
    let intact = data(&log);
    let number = |at: usize| u16::from_ne_bytes(intact[at..at + 2].try_into().expect("2 bytes"));
    let mut reported = [0; 2];
    for page in (2 * PAGE_BYTES..intact.len()).step_by(PAGE_BYTES) {
        let (kind, nodes) = (number(page + 10), number(page + 12).saturating_sub(16) / 2);
        // A branch page, or a leaf page, with other rows before and behind the two that change their places.
        if !matches!(kind, 1 | 2) || nodes < 5 {
            continue;
        }
        let (second, third) = (&intact[page + 18..page + 20], &intact[page + 20..page + 22]);
        write_at(&log, page + 18, &[third, second].concat());
        let found = damages(&log);
        // Pages of earlier commits are not checked.
        if !found.is_empty() {
            assert!(found.iter().any(|damage| damage.why.contains("has keys in the wrong order")), "{found:?}");
            reported[usize::from(kind) - 1] += 1;
        }
        write_at(&log, page + 18, &intact[page + 18..page + 22]);
    }
    assert!(reported[0] > 0 && reported[1] > 10, "{reported:?}");
}

#[test]
fn a_damaged_record_is_named_by_peer_and_seq() {
    let place = Place::new();
    let log = varied(&place);
    let at = data(&log).windows(9).position(|part| part == b"\"peer\":77").expect("the first entry of this peer");
    write_at(&log, at, b"\"peer\":78");
    let lines = lines(&log);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&line["what"], &line["where"], &line["seq"]), (&"entry".into(), &"offset 78".into(), &1.into()), "{line}");
    assert!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("peer 77 ")), "{line}");
    assert!(line["advice"].as_str().is_some_and(|advice| advice.contains("scuttleup repair")), "{line}");
}

#[test]
fn an_intact_log_that_is_in_use_has_no_damage() {
    let place = Place::new();
    let log = place.log("own");
    append(&log, "0\n");
    let mut writers: Vec<_> = (0..2).map(|_| Run::new(&log).args(["append", "--ack"]).spawn()).collect();
    for round in 0..50 {
        for writer in &mut writers {
            writer.send(format!("{round}\n"));
        }
        // The check runs while the lines are stored.
        assert_eq!(damages(&log), [], "{round}");
        for writer in &mut writers {
            assert!(writer.line().contains("seq"));
        }
    }
}

#[test]
fn commits_during_a_check_do_not_change_what_is_checked() {
    let place = Place::new();
    let log = varied(&place);
    let pages = data(&log).len();
    assert_eq!(damages_while(&log, || (0..10).for_each(|n| append(&log, format!("{n}\n")))), []);
    // The pages of the checked state were kept, so the commits needed new ones.
    assert!(data(&log).len() > pages);
    assert_eq!(damages(&log), []);
}

#[test]
fn a_truncated_or_older_data_file_is_reported() {
    let place = Place::new();
    let log = varied(&place);
    let intact = data(&log);
    for pages in [0, 1, 2, 3, 20, intact.len() / PAGE_BYTES - 1] {
        fs::write(log.join("data.mdb"), &intact[..pages * PAGE_BYTES]).expect("the data file");
        let found = damages(&log);
        assert!(found.iter().any(|damage| damage.part == Part::File && damage.why.contains("truncated")), "{pages}: {found:?}");
    }
    fs::write(log.join("data.mdb"), &intact).expect("the data file");
    fs::write(log.join("bell"), u64::to_be_bytes(1 << 40)).expect("the bell");
    let found = damages(&log);
    assert!(found.iter().any(|damage| damage.part == Part::File && damage.why.contains("last commits are missing")), "{found:?}");
}

/// Changes one row of a table with LMDB. `None` removes it.
pub fn change(log: &Path, table: &str, key: &[u8], change: impl FnOnce(Option<&[u8]>) -> Option<Vec<u8>>) {
    let env = Environment::new().set_max_dbs(8).set_map_size(1 << 30).open(log).expect("LMDB opens the log");
    let number = env.info().expect("its facts").last_txnid() as u64 + 1;
    let (rows, meta) = (env.open_db(Some(table)).expect("a table"), env.open_db(Some("meta")).expect("a table"));
    let mut txn = env.begin_rw_txn().expect("a transaction");
    match change(txn.get(rows, &key).ok()) {
        Some(value) => txn.put(rows, &key, &value, WriteFlags::empty()).expect("stored"),
        None => txn.del(rows, &key, None).expect("removed"),
    }
    txn.put(meta, b"txn", &number.to_le_bytes(), WriteFlags::empty()).expect("stored");
    txn.commit().expect("committed");
}

/// A value in which one byte differs.
fn other(at: usize) -> impl FnOnce(Option<&[u8]>) -> Option<Vec<u8>> {
    move |value| {
        let mut value = value.expect("the row exists").to_vec();
        value[at] ^= 1;
        Some(value)
    }
}

/// The key of a run.
fn run_key(number: u32, seq: u32) -> Vec<u8> {
    [number.to_be_bytes(), seq.to_be_bytes()].concat()
}

#[test]
fn each_kind_of_damage_in_a_row_is_reported() {
    type Change = Box<dyn FnOnce(&Path)>;
    let offset = |offset: u64| offset.to_ne_bytes();
    let row = |table: &'static str, key: &[u8], at| -> Change {
        let key = key.to_vec();
        Box::new(move |log| change(log, table, &key, other(at)))
    };
    let gone = |table: &'static str, key: &[u8]| -> Change {
        let key = key.to_vec();
        Box::new(move |log| change(log, table, &key, |_| None))
    };
    let new = |table: &'static str, key: &[u8], value: &[u8]| -> Change {
        let (key, value) = (key.to_vec(), value.to_vec());
        Box::new(move |log| change(log, table, &key, |_| Some(value)))
    };
    let keys = |at: &'static str| format!("dedupe {:032x}{at}", xxh3_128(b"line"));
    let keys_row = |at: &'static str| format!("row {} of the table meta", keys(at));
    let (all_keys, two_keys, key_place) = (keys_row(""), keys_row(" 00000002"), keys_row(" 00000000"));
    let (peer, feed) = (PEER.as_bytes(), format!("row {PEER} of the table peers"));
    let next = feed.replace('8', "9");
    let cases: Vec<(&str, &str, &str, Change)> = vec![
        ("entry", "offset 400", "does not match its checksum", row("entries", &offset(400), 20)),
        ("missing", "offset 400", "the record is missing", gone("entries", &offset(400))),
        ("missing", "offset 1972", "the record is missing", gone("entries", &offset(1972))),
        ("missing", "offset 1", "the record is missing", gone("entries", &offset(1))),
        ("row", "tables peers and entries", "the last offset is 1973", new("entries", &offset(1973), b"")),
        ("run", "row 8/2 of the table runs", "does not follow", gone("runs", &run_key(8, 1))),
        ("run", "offset 311", "no run says", gone("runs", &run_key(8, 3))),
        ("run", "feed number 8", "the runs of the feed end at entry 2, but its head is 3", gone("runs", &run_key(8, 3))),
        ("run", "offset 160", "no run says", row("runs", &run_key(8, 2), 0)),
        ("run", "row 8/3 of the table runs", "does not follow", row("runs", &run_key(8, 2), 9)),
        ("run", "row 8/2 of the table runs", "number of entries is impossible", row("runs", &run_key(8, 2), 8)),
        ("chain", "row 8/2 of the table runs", "differs from the entries before it", row("runs", &run_key(8, 2), 12)),
        ("chain", &feed, "its chain differs", row("peers", peer, 8)),
        ("root", "row root of the table meta", "differs from the sum", row("peers", peer, 8)),
        ("run", "feed number 8", "its head is 2", row("peers", peer, 4)),
        ("row", &next, "used twice", row("peers", peer, 0)),
        ("row", &feed, "wrong size", new("peers", peer, b"")),
        ("row", "row 8 of the table numbers", "the row is missing", gone("numbers", &8u32.to_be_bytes())),
        ("row", &feed, "belongs to another peer", new("numbers", &8u32.to_be_bytes(), b"x")),
        ("row", "tables peers and numbers", "different numbers of rows", new("numbers", &151u32.to_be_bytes(), b"x")),
        ("root", "row root of the table meta", "differs from the sum", row("meta", b"root", 3)),
        ("row", "row root of the table meta", "missing", gone("meta", b"root")),
        ("row", "row id of the table meta", "impossible", new("meta", b"id", b"")),
        ("row", "row format of the table meta", "impossible", new("meta", b"format", b"1")),
        ("row", "row clone of the table meta", "missing", gone("meta", b"clone")),
        ("row", "row roof of the table meta", "no such row", new("meta", b"roof", b"")),
        ("row", "row fork x of the table meta", "wrong size", new("meta", b"fork x", b"")),
        ("row", "row follow /x of the table meta", "no such row", new("meta", b"follow /x", &[0; 44])),
        ("row", "row dedupe x of the table meta", "impossible", new("meta", b"dedupe x", b"")),
        ("row", &all_keys, "impossible", row("meta", keys("").as_bytes(), 16)),
        ("row", &two_keys, "impossible", new("meta", keys(" 00000002").as_bytes(), &[0; 1024])),
        ("row", &key_place, "wrong size", new("meta", keys(" 00000000").as_bytes(), b"x")),
        ("row", &key_place, "the row is missing", gone("meta", keys(" 00000000").as_bytes())),
        ("row", "row 1 of the table times", "the row is missing", gone("times", &offset(1))),
        ("row", "row 2000 of the table times", "its offset is impossible", new("times", &offset(2000), &[0; 8])),
    ];
    for (what, place, why, damage) in cases {
        let logs = Place::new();
        let log = varied(&logs);
        damage(&log);
        let lines = lines(&log);
        let is_named = |line: &Value| {
            line["what"] == what && line["where"] == place && line["why"].as_str().is_some_and(|said| said.contains(why))
        };
        assert!(lines.iter().any(is_named), "{what}, {place}, {why}: {lines:#?}");
    }
}

#[test]
fn mixed_pages_and_other_tables_are_reported() {
    let place = Place::new();
    let log = varied(&place);
    {
        let env = Environment::new().set_max_dbs(9).set_map_size(1 << 30).open(&log).expect("LMDB opens the log");
        env.create_db(Some("other"), DatabaseFlags::empty()).expect("a table");
    }
    let found: Vec<_> = lines(&log).iter().map(|line| (line["where"].clone(), line["why"].clone())).collect();
    // This commit has not stored its number.
    assert!(found.iter().any(|(place, why)| place == "table other" && why == "a log has no such table"), "{found:?}");
    assert!(
        found.iter().any(|(place, why)| place == "row txn of the table meta" && why.to_string().contains("mixes pages")),
        "{found:?}"
    );
}

/// A log with several packs, deleted entries in them, and newer entries in data.mdb.
fn packed(place: &Place) -> PathBuf {
    let path = place.log("own");
    let log = Log::open(&path).expect("a log");
    for round in 0..3 {
        let mut writer = log.writer().expect("a writer");
        for n in 0..3000_u64 {
            let peer = PeerId::new(&format!("peer {}", n % 3)).expect("an id");
            // It cannot be compressed, so that a pack has several blocks.
            let mut seed = n + 3000 * round;
            let bytes: Vec<u8> = (0..12).flat_map(|_| random(&mut seed).to_le_bytes()).collect();
            writer.push(&peer, HashedEntry::new(&bytes)).expect("stored");
        }
        writer.commit().expect("committed");
        if round < 2 {
            assert!(log.seal(0, &|_, _| true).expect("sealed").is_some_and(|entries| entries > 2000));
        }
    }
    for (peer, seq) in [("peer 0", 4), ("peer 1", 1500), ("peer 2", 2900)] {
        assert!(log.delete(peer, Seq::new(seq).expect("a seq")).expect("deleted").is_some());
    }
    path
}

/// The files of the packs.
fn packs(log: &Path) -> Vec<PathBuf> {
    let mut packs: Vec<_> =
        fs::read_dir(log.join("packs")).expect("a directory").map(|file| file.expect("a file").path()).collect();
    packs.sort();
    packs
}

#[test]
fn an_intact_log_with_packs_has_no_damage_and_orphans_are_none() {
    let place = Place::new();
    let log = packed(&place);
    assert_eq!(damages(&log), []);
    let orphan = log.join("packs/00000000000000009999.pack");
    fs::copy(&packs(&log)[0], &orphan).expect("a copy");
    Run::new(&log).args(["verify"]).stdout("").success();
    fs::copy(&packs(&log)[0], log.join("packs/00000000000000000001-7.pack")).expect("a copy");
    Run::new(&log).args(["verify"]).stdout("").stderr_has("1 file in packs/ belong").success();
    Run::new(&log).args(["compact"]).success();
    assert_eq!(damages(&log), []);
}

#[test]
fn each_flipped_bit_of_a_pack_is_reported_with_the_entries_that_are_lost() {
    let place = Place::new();
    let log = packed(&place);
    let pack = &packs(&log)[0];
    let intact = fs::read(pack).expect("a pack");
    let mut seed = 9;
    for n in 0..150 {
        // The list of feeds and the index are at the end.
        let tail = intact.len() - 200;
        let at = match n % 3 {
            0 => random(&mut seed) as usize % 64,
            1 => tail + random(&mut seed) as usize % 200,
            _ => 64 + random(&mut seed) as usize % (intact.len() - 464),
        };
        let mut changed = intact.clone();
        changed[at] ^= 1 << (n % 8);
        fs::write(pack, &changed).expect("a pack");
        let found = damages(&log);
        assert!(found.iter().any(|damage| damage.part == Part::Pack), "{at}");
        let lost = found.iter().filter(|damage| damage.part == Part::Missing && damage.peer.is_some()).count();
        // A damaged block loses its entries only.
        assert!(if (64..tail).contains(&at) { (100..1500).contains(&lost) } else { lost > 2000 }, "{at}: {lost}");
        assert!(found.iter().all(|damage| matches!(damage.part, Part::Pack | Part::Missing)), "{at}: {found:?}");
    }
    fs::write(pack, &intact[..intact.len() - 1]).expect("a pack");
    assert!(damages(&log).iter().any(|damage| damage.part == Part::Pack));
    fs::remove_file(pack).expect("removed");
    assert!(damages(&log).iter().any(|damage| damage.part == Part::Pack && damage.why == "the file is missing"));
    fs::write(pack, &intact).expect("a pack");
    assert_eq!(damages(&log), []);
}

#[test]
fn damage_in_the_tables_of_packs_is_reported() {
    type Change = fn(&Path);
    let cases: [(&str, &str, &str, Change); 6] = [
        ("pack", "packs/00000000000000000001.pack", "it has", |log| change(log, "packs", &1u64.to_ne_bytes(), other(8))),
        ("pack", "packs/00000000000000000001-1.pack", "the file is missing", |log| {
            change(log, "packs", &1u64.to_ne_bytes(), other(16));
        }),
        ("row", "row 3000 of the table packs", "does not follow", |log| change(log, "packs", &1u64.to_ne_bytes(), |_| None)),
        ("row", "row 10 of the table deleted", "not that of the entry", |log| {
            change(log, "deleted", &10u64.to_ne_bytes(), other(3));
        }),
        ("row", "row 8999 of the table deleted", "in no pack", |log| {
            change(log, "deleted", &8999u64.to_ne_bytes(), |_| Some(vec![0; 12]));
        }),
        ("row", "row deletions of the table meta", "no such row", |log| change(log, "meta", b"deletions", |_| Some(vec![1]))),
    ];
    for (what, place, why, damage) in cases {
        let logs = Place::new();
        let log = packed(&logs);
        damage(&log);
        let lines = lines(&log);
        let is_named = |line: &Value| {
            line["what"] == what && line["where"] == place && line["why"].as_str().is_some_and(|said| said.contains(why))
        };
        let first: Vec<_> = lines.iter().take(3).collect();
        assert!(lines.iter().any(is_named), "{what}, {place}, {why}: {first:#?}");
    }
}

#[test]
fn packs_that_are_replaced_or_pruned_during_a_check_are_no_damage() {
    let place = Place::new();
    let log = packed(&place);
    let before = packs(&log);
    // The check has the log open, so that data.mdb is not made smaller.
    let compact = || drop(Run::new(&log).args(["compact"]).stderr_has(" again\n").status(3));
    let prune = |keep: &str| drop(Run::new(&log).args(["-q", "prune", "--keep-last", keep]).success());
    assert_eq!(verify_while(&log, compact), (9000, vec![]));
    let replaced = packs(&log);
    assert!(before.iter().all(|pack| !replaced.contains(pack)), "{replaced:?}");
    assert_eq!(verify_while(&log, || ()), (9000, vec![]));
    append(&log, "1\n2\n");
    Run::new(&log).args(["del", "peer 1", "1600"]).success();
    // A part of a pack is pruned, then all of it.
    let pruned = |keep, entries: u64| {
        let run = || {
            prune(keep);
            compact();
        };
        assert_eq!(verify_while(&log, run), (entries, vec![]), "{keep}");
    };
    pruned("5000", 5000);
    assert_eq!(verify_while(&log, || ()), (5000, vec![]));
    pruned("1", 1);
    assert_eq!(verify_while(&log, || ()), (1, vec![]));
}

#[test]
fn a_pack_that_is_being_sealed_is_no_orphan() {
    let place = Place::new();
    let path = packed(&place);
    let log = Log::open(&path).expect("a log");
    // The sealing process waits for this writer when the pack has its name.
    let writer = log.writer().expect("no other writer");
    let mut compact = Run::new(&path).args(["-q", "compact"]).spawn();
    while packs(&path).iter().filter(|file| file.extension().is_some_and(|extension| extension == "pack")).count() < 3 {
        std::thread::yield_now();
    }
    Run::new(&path).args(["verify"]).stdout("").stderr("scuttleup: no damage: checked 9000 entries in 3 feeds\n").success();
    drop(writer);
    assert_eq!(compact.wait().status.code(), Some(3), "the bytes of deleted entries can be in data.mdb");
    drop(log);
    assert_eq!(damages(&path), []);
}

#[test]
fn damage_in_a_pack_that_replaces_another_one_during_a_check_is_reported() {
    for is_missing in [false, true] {
        let place = Place::new();
        let log = packed(&place);
        let before = packs(&log);
        let (lost, found) = verify_while(&log, || {
            Run::new(&log).args(["-q", "compact"]).status(3);
            let pack = packs(&log).into_iter().find(|pack| !before.contains(pack)).expect("a new pack");
            if is_missing {
                fs::remove_file(pack).expect("removed");
                return;
            }
            let mut changed = fs::read(&pack).expect("a pack");
            changed[100] ^= 1;
            fs::write(pack, changed).expect("a pack");
        });
        let lost = 9000 - lost;
        assert!(if is_missing { lost > 2000 } else { (100..1500).contains(&lost) }, "{lost}");
        let why = if is_missing { "the file is missing" } else { "is damaged" };
        assert!(found[0].part == Part::Pack && found[0].why.contains(why), "{:?}", found[0]);
        let missing = found.iter().filter(|damage| damage.part == Part::Missing && damage.peer.is_some()).count();
        assert_eq!(missing as u64, lost);
    }
}

#[test]
fn a_log_of_format_1_is_checked_and_not_upgraded() {
    let place = Place::new();
    let log = place.log_of_format_1();
    let before = data(&log);
    assert_eq!(damages(&log), []);
    assert!(data(&log) == before, "the data file was changed");
    // Its pages are damaged: a new log is built.
    write_at(&log, PAGE_BYTES, &[0; PAGE_BYTES]);
    assert!(!damages(&log).is_empty());
    Run::new(&log).args(["-q", "repair", "--", "false"]).end();
    let lines = read(&place.path("old.repaired"));
    assert_eq!(lines.lines().count(), 45);
}
