//! The rows of all tables, and what they say about each other.
//!
//! Each table is read once in the order of its keys, `peers` twice. The entries are read in order of arrival: the seq and the
//! chain of each feed are computed on the way. Where a run begins, its row is looked up. So each intact entry is in exactly the
//! run that says where it is. The runs are then read in their order: they must cover each feed without gaps. They also name the
//! entries that are lost.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::feeds::{Feed, Feeds};
use super::pages::{BadPage, INTEGER_KEY, Lookup, Meta, PageSet, Pages, Tree, Value};
use super::state::{State, page_damage, pin_newest};
use super::{Damage, Finding, Part, Report, Verified};
use crate::model::{Chain, Error, FEEDS_MAX, HashedEntry, Offset, PeerId, Printable, Result, Tombstone};
use crate::store::cursors::Cursor;
use crate::store::files::data;
use crate::store::files::place::StoredPlace;
use crate::store::lmdb::{Env, NAMES, keys_key};
use crate::store::pack::{self, Pack, PackRow, PackedFeed};
use crate::store::prune::Retention;
use crate::store::records::{Record, check_record};
use crate::store::rows::{
    FORMAT, FeedRow, FollowedFile, KEY_ROW_BYTES, KeysRow, RUN_ENTRIES_MAX, RunRow, decode_tombstone, key_row_count, u64_at,
};

/// The reason for an offset without a record.
const IS_MISSING: &str = "the record is missing";
/// The reason for an entry in a pack that cannot be read.
const IN_BAD_PACK: &str = "its pack is damaged or missing";
/// The entries that are reported together as checked.
const REPORT_ENTRIES: u64 = 4096;

/// Checks the tables of a state of the log in `dir`. Without a meta page, nothing can be checked.
pub fn check(dir: &Path, State { file, meta, env }: State<'_>, report: &mut Report<'_>) -> Result<Verified> {
    let Some(meta) = &meta else { return Ok(Verified::default()) };
    let mut check = Check::new(dir, file, meta, report)?;
    check.find_tables(meta)?;
    check.read_meta(dir, meta)?;
    check.read_numbers()?;
    check.read_feeds()?;
    (check.report)(Finding::Total(check.total))?;
    check.read_times()?;
    check.read_packs(&Packs { log_dir: dir, dir: dir.join(pack::DIR_NAME), env })?;
    check.read_entries()?;
    check.read_runs()?;
    check.compare_feeds()?;
    check.read_free_pages(meta)?;
    Ok(Verified { feeds: check.feed_rows, entries: check.intact, damages: 0, orphans: check.orphans })
}

/// The tables, and the values of `meta` that other tables must match.
#[derive(Default)]
struct Tables {
    trees: [Option<Tree>; NAMES.len()],
    root: Option<u128>,
}

/// The places of the tables in [`NAMES`].
pub const META: usize = 0;
pub const PEERS: usize = 1;
pub const NUMBERS: usize = 2;
pub const ENTRIES: usize = 3;
pub const RUNS: usize = 4;
const TIMES: usize = 5;
pub const PACKS: usize = 6;
pub const DELETED: usize = 7;
/// The number of tables of format 1.
const OLD_TABLES: usize = 6;

/// The rows of the keys of entries with one name.
#[derive(Default)]
struct FoundKeys {
    /// The key of the row that describes them.
    of: String,
    row: Option<KeysRow>,
    places: BTreeSet<u64>,
}

/// Entries that are lost: successive offsets, and why.
#[derive(Clone, Copy)]
struct Lost {
    first: u64,
    last: u64,
    part: Part,
    why: &'static str,
    /// The number of them that a run has named.
    named: u64,
}

/// A check that reads the tables one after the other.
pub struct Check<'c, 'r> {
    pages: Rc<Pages>,
    lookup: Lookup,
    /// The pages of all tables that were read.
    used: PageSet,
    report: &'c mut Report<'r>,
    tables: Tables,
    feeds: Feeds,
    /// The number of entries, as the heads say.
    total: u64,
    feed_rows: u64,
    /// The number of intact entries.
    intact: u64,
    /// The offset of the last entry that was read or lost.
    last: u64,
    /// The peer number of that entry, if it is intact.
    last_number: Option<u32>,
    /// The last offset that was pruned. Rows and packs up to it have no meaning.
    floor: u64,
    /// The offset of the last entry in a pack.
    sealed_end: u64,
    orphans: u64,
    /// Entries and bytes that were checked, and not reported yet.
    unreported: (u64, u64),
    /// In the order of the offsets.
    lost: Vec<Lost>,
    pages_are_whole: bool,
}

/// The place of a row, for a person.
fn row_of(table: usize, key: &str) -> String {
    format!("row {} of the table {}", Printable(key), NAMES[table])
}

/// The packs of a log that other processes may use.
struct Packs<'p> {
    log_dir: &'p Path,
    /// The directory of the packs.
    dir: PathBuf,
    /// `None`: no other process can write to the log.
    env: Option<&'p Env>,
}

impl Packs<'_> {
    /// The floor and the packs of the newest state. `None` if they cannot be read, or cannot have changed.
    fn newest(&self) -> Result<Option<(u64, Vec<PackRow>)>> {
        let Some(env) = self.env else { return Ok(None) };
        let file = data::open(self.log_dir)?;
        let Some((_pin, meta)) = pin_newest(env, &file)? else { return Ok(None) };
        let (is_damaged, mut rows) = (Cell::new(false), Vec::new());
        let note = &mut |_| {
            is_damaged.set(true);
            Ok(())
        };
        let mut check = Check::new(self.log_dir, file, &meta, note)?;
        check.find_tables(&meta)?;
        let mut floor = 0;
        check.read(META, |_, key, value| {
            if key == b"floor" && value.len() == 8 {
                floor = u64_at(value, 0);
            }
            Ok(())
        })?;
        check.read(PACKS, |_, key, value| {
            let row = PackRow::decode(Offset(u64::from_ne_bytes(key.try_into().unwrap_or_default())), value);
            is_damaged.set(is_damaged.get() || row.is_err());
            rows.extend(row);
            Ok(())
        })?;
        Ok((!is_damaged.get()).then_some((floor, rows)))
    }

    /// The number of files that belong to no row. `rows` are those of the state that is checked.
    fn orphans(&self, rows: &[PackRow]) -> Result<u64> {
        let mut found = pack::find(&self.dir)?;
        let is_of = |rows: &[PackRow], found: &PackRow| rows.iter().any(|row| row.file_name() == found.file_name());
        found.retain(|found| !is_of(rows, found));
        if found.is_empty() || self.env.is_some_and(Env::is_sealing) {
            // A process that seals gives a file its name before it adds the row. If none seals now, each row is added.
            return Ok(0);
        }
        if let Some((_, rows)) = self.newest()? {
            found.retain(|found| !is_of(&rows, found) && self.dir.join(found.file_name()).exists());
        }
        Ok(found.len() as u64)
    }
}

impl<'c, 'r> Check<'c, 'r> {
    pub fn new(dir: &Path, file: File, meta: &Meta, report: &'c mut Report<'r>) -> Result<Self> {
        let fail = |err| Error::io(format!("{} in {} cannot be read", data::FILE_NAME, dir.display()), err);
        let pages = Rc::new(Pages::new(file, meta).map_err(fail)?);
        Ok(Self {
            lookup: Lookup::new(Rc::clone(&pages)),
            used: pages.empty_set(),
            pages,
            report,
            tables: Tables::default(),
            feeds: Feeds::default(),
            total: 0,
            feed_rows: 0,
            intact: 0,
            last: 0,
            last_number: None,
            floor: 0,
            sealed_end: 0,
            orphans: 0,
            unreported: (0, 0),
            lost: Vec::new(),
            pages_are_whole: true,
        })
    }
}

impl Check<'_, '_> {
    fn damage(&mut self, damage: Damage) -> Result<()> {
        (self.report)(Finding::Damage(damage))
    }

    fn bad_page(&mut self, bad: &BadPage) -> Result<()> {
        self.pages_are_whole = false;
        self.damage(page_damage(bad))
    }

    fn bad_row(&mut self, table: usize, key: &str, why: impl Into<String>) -> Result<()> {
        self.damage(Damage::new(Part::Row, row_of(table, key), why))
    }

    /// Gives each row of a table to `each`, and reports the damaged pages.
    pub fn read(&mut self, table: usize, mut each: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<()>) -> Result<()> {
        let Some(tree) = self.tables.trees[table] else { return Ok(()) };
        self.walk(tree, |check, key, value| {
            if value.is_tree {
                return check.bad_row(table, &format!("on page {}", value.page), "the row is a table");
            }
            each(check, key, value.bytes)
        })
    }

    /// Gives each row of a tree to `each`, and reports the damaged pages.
    fn walk(&mut self, tree: Tree, mut each: impl FnMut(&mut Self, &[u8], &Value<'_>) -> Result<()>) -> Result<()> {
        let mut used = std::mem::take(&mut self.used);
        let pages = Rc::clone(&self.pages);
        let walked = pages.walk(tree, &mut used, &mut |found| match found {
            Ok((key, value)) => each(self, key, &value),
            Err(bad) => self.bad_page(&bad),
        });
        self.used = used;
        walked
    }

    /// The number of rows of a table, as its tree says.
    pub fn row_count(&self, table: usize) -> u64 {
        self.tables.trees[table].map_or(0, |tree| tree.rows)
    }

    /// Allows that tables are read again.
    pub fn forget_pages(&mut self) {
        self.used = self.pages.empty_set();
    }

    /// All pages of the file.
    pub fn pages(&self) -> Rc<Pages> {
        Rc::clone(&self.pages)
    }

    /// Finds the tables by their names.
    pub fn find_tables(&mut self, meta: &Meta) -> Result<()> {
        self.walk(meta.main, |check, name, value| {
            let table = NAMES.iter().position(|known| known.as_bytes() == name).filter(|_| value.is_tree);
            let Some(table) = table else {
                let name = String::from_utf8_lossy(name);
                return check.damage(Damage::new(Part::Row, format!("table {}", Printable(&name)), "a log has no such table"));
            };
            let tree = Tree::decode(value.bytes);
            let expected = if matches!(table, ENTRIES | TIMES | PACKS | DELETED) { INTEGER_KEY } else { 0 };
            if tree.flags != expected {
                return check.damage(Damage::new(Part::Row, format!("table {}", NAMES[table]), "its flags are wrong"));
            }
            check.tables.trees[table] = Some(tree);
            Ok(())
        })?;
        for (name, tree) in NAMES.iter().zip(self.tables.trees).take(OLD_TABLES) {
            if tree.is_none() {
                self.damage(Damage::new(Part::Row, format!("table {name}"), "the table is missing"))?;
            }
        }
        Ok(())
    }

    /// Checks the rows of `meta`.
    fn read_meta(&mut self, dir: &Path, meta: &Meta) -> Result<()> {
        let (mut format, mut id, mut clone, mut txn) = (None, None, None, None);
        let mut keys = FoundKeys::default();
        self.read(META, |check, key, value| {
            match key {
                b"format" => format = Some(value.try_into().map_or(0, u32::from_le_bytes)),
                b"id" => id = Some(PeerId::from_bytes(value).is_ok()),
                b"root" => check.tables.root = value.try_into().ok().map(u128::from_le_bytes),
                b"deletions" if value.len() == 8 => {}
                b"floor" if value.len() == 8 => check.floor = u64_at(value, 0),
                b"policy" if std::str::from_utf8(value).is_ok_and(|text| text.parse::<Retention>().is_ok()) => {}
                // Times that decrease are no damage: earlier programs have written them.
                b"times" if matches!(value, [0 | 1]) => {}
                b"clone" => clone = Some(StoredPlace::decode(value).is_some()),
                b"txn" => txn = Some(value.try_into().ok().map(u64::from_le_bytes)),
                [b'f', b'o', b'l', b'l', b'o', b'w', b' ', _, ..] if FollowedFile::decode_all(value).is_some() => {}
                _ if key.starts_with(b"dedupe ") => return check.check_keys(key, value, &mut keys),
                _ => return check.check_fork(key, value),
            }
            Ok(())
        })?;
        self.check_all_found(&keys)?;
        match format {
            Some(format) if format > FORMAT => return Err(Error::NewerFormat(dir.to_path_buf(), format)),
            Some(2..) => {
                for (name, tree) in NAMES.iter().zip(self.tables.trees).skip(OLD_TABLES) {
                    if tree.is_none() {
                        self.damage(Damage::new(Part::Row, format!("table {name}"), "the table is missing"))?;
                    }
                }
            }
            Some(1) => {}
            _ => self.bad_row(META, "format", "the row is missing, or its value is impossible")?,
        }
        let rows = [("id", id), ("root", self.tables.root.map(|_| true)), ("clone", clone)];
        for (key, _) in rows.into_iter().filter(|(_, is_valid)| *is_valid != Some(true)) {
            self.bad_row(META, key, "the row is missing, or its value is impossible")?;
        }
        // Earlier programs have not written this row.
        if txn.is_some_and(|txn| txn != Some(meta.txn)) {
            self.bad_row(META, "txn", format!("it should be {}: data.mdb mixes pages of different commits", meta.txn))?;
        }
        Ok(())
    }

    /// Checks a row of the keys of entries. The row that describes them comes first in the order of the rows.
    fn check_keys(&mut self, key: &[u8], value: &[u8], found: &mut FoundKeys) -> Result<()> {
        let name = String::from_utf8_lossy(key).into_owned();
        if let Some((row, of)) = KeysRow::decode(value).filter(|(_, of)| keys_key(of).as_bytes() == key) {
            self.check_all_found(found)?;
            *found = FoundKeys { of: keys_key(of), row: Some(row), places: BTreeSet::new() };
            return Ok(());
        }
        let place = name.strip_prefix(&found.of).filter(|_| found.row.is_some()).and_then(|rest| rest.strip_prefix(' '));
        let place = place.filter(|place| place.len() == 8).and_then(|place| u64::from_str_radix(place, 16).ok());
        match place.filter(|&place| found.row.is_some_and(|row| place < key_row_count(row.kept))) {
            Some(place) if value.len() == KEY_ROW_BYTES => {
                found.places.insert(place);
                Ok(())
            }
            Some(_) => self.bad_row(META, &name, "its value has the wrong size"),
            None => self.bad_row(META, &name, "its name or its value is impossible"),
        }
    }

    /// Checks that each key that can be read has its row.
    fn check_all_found(&mut self, found: &FoundKeys) -> Result<()> {
        let missing = found.row.and_then(|row| row.places().find(|place| !found.places.contains(place)));
        missing.map_or(Ok(()), |place| self.bad_row(META, &format!("{} {place:08x}", found.of), "the row is missing"))
    }

    fn check_fork(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let name = String::from_utf8_lossy(key).into_owned();
        if key.starts_with(b"cursor ") && Cursor::decode(value).is_ok() {
            return Ok(());
        }
        match key.strip_prefix(b"fork ").map(PeerId::from_bytes) {
            Some(Ok(_)) if value.len() == 4 => Ok(()),
            Some(Ok(_)) => self.bad_row(META, &name, "its value has the wrong size"),
            _ => self.bad_row(META, &name, "a log has no such row"),
        }
    }

    /// Checks that the peer numbers have no gaps.
    fn read_numbers(&mut self) -> Result<()> {
        let mut next = 0;
        self.read(NUMBERS, |check, key, value| {
            let number = key.try_into().map(u32::from_be_bytes).ok();
            let name = number.map_or_else(|| String::from_utf8_lossy(key).into_owned(), |number| number.to_string());
            match number {
                _ if PeerId::check(value).is_err() => check.bad_row(NUMBERS, &name, "its value is no peer id")?,
                Some(number) if number == next => {}
                Some(number) if number > next => {
                    let why = if number - 1 == next {
                        "the row is missing".into()
                    } else {
                        format!("the rows up to {} are missing", number - 1)
                    };
                    check.bad_row(NUMBERS, &next.to_string(), why)?;
                }
                _ => check.bad_row(NUMBERS, &name, "its key has the wrong size")?,
            }
            next = number.unwrap_or(next).max(next).saturating_add(1);
            Ok(())
        })
    }

    /// Reads the heads, and checks that `peers` and `numbers` are inverse to each other.
    fn read_feeds(&mut self) -> Result<()> {
        let rows = self.tables.trees[PEERS].map_or(0, |tree| tree.rows.min(u64::from(FEEDS_MAX)));
        self.feeds.reserve(rows as usize);
        self.read(PEERS, |check, key, value| {
            let name = String::from_utf8_lossy(key).into_owned();
            let (Ok(peer), Ok(row)) = (PeerId::from_bytes(key), FeedRow::decode(value)) else {
                return check.bad_row(PEERS, &name, "its key is no peer id, or its value has the wrong size");
            };
            check.feed_rows += 1;
            check.total += u64::from(row.arrived());
            if row.head == 0 || row.number >= FEEDS_MAX || check.feeds.get(row.number).is_some() {
                return check.bad_row(PEERS, &name, "its head is 0, or its peer number is impossible or used twice");
            }
            if let Some(numbers) = check.tables.trees[NUMBERS]
                && let Ok(found) = check.lookup.get(numbers, &row.number.to_be_bytes())
                && found.as_deref() != Some(key)
            {
                check.bad_row(
                    PEERS,
                    &name,
                    format!("its peer number is {}, but this number belongs to another peer", row.number),
                )?;
            }
            let (floor, chain) = (row.floor_seq(), row.floor.map_or_else(|| Chain::start(&peer), |floor| floor.chain));
            check.feeds.set(row.number, Feed { head: row.head, floor, seq: floor, chain: Some(chain), left: 0 });
            Ok(())
        })?;
        if self.tables.trees[NUMBERS].is_some_and(|numbers| numbers.rows != self.feed_rows) && self.pages_are_whole {
            self.damage(Damage::new(Part::Row, "tables peers and numbers", "they have different numbers of rows"))?;
        }
        Ok(())
    }

    /// Checks the times of the commits.
    fn read_times(&mut self) -> Result<()> {
        let (mut first, total) = (None, self.total);
        self.read(TIMES, |check, key, value| {
            let offset = u64::from_ne_bytes(key.try_into().unwrap_or_default());
            first = first.or(Some(offset));
            if offset == 0 || offset > total || value.len() != 8 {
                return check.bad_row(TIMES, &offset.to_string(), "its offset is impossible, or its value has the wrong size");
            }
            Ok(())
        })?;
        let next = self.floor + 1;
        if total >= next && first.is_none_or(|first| first > next) && self.tables.trees[TIMES].is_some() && self.pages_are_whole {
            self.bad_row(TIMES, &next.to_string(), "the row is missing")?;
        }
        Ok(())
    }

    /// Checks the packs, and each entry in them.
    fn read_packs(&mut self, packs: &Packs<'_>) -> Result<()> {
        let (mut rows, mut deleted) = (Vec::<PackRow>::new(), Vec::new());
        self.read(PACKS, |check, key, value| {
            let first = Offset(u64::from_ne_bytes(key.try_into().unwrap_or_default()));
            match PackRow::decode(first, value) {
                Ok(row) if first.0 == check.sealed_end + 1 || rows.is_empty() && first.0 <= check.floor + 1 => {
                    check.sealed_end = row.last().0;
                    rows.push(row);
                    Ok(())
                }
                _ => check.bad_row(PACKS, &first.to_string(), "it does not follow the pack before it, or has the wrong size"),
            }
        })?;
        self.read(DELETED, |check, key, value| {
            let offset = u64::from_ne_bytes(key.try_into().unwrap_or_default());
            match decode_tombstone(value) {
                Some(tombstone) if offset <= check.sealed_end => {
                    deleted.push((Offset(offset), tombstone));
                    Ok(())
                }
                _ => check.bad_row(DELETED, &offset.to_string(), "its entry is in no pack, or its value has the wrong size"),
            }
        })?;
        (self.last, self.sealed_end) = (self.floor, self.sealed_end.max(self.floor));
        let floor = self.floor;
        for row in rows.iter().filter(|row| row.last().0 > floor) {
            self.read_pack(packs, *row, &deleted)?;
        }
        self.orphans = packs.orphans(&rows)?;
        Ok(())
    }

    /// Reads the entries of the pack `row`. If it was replaced since the state that is checked, they are read from the pack that
    /// replaces it; if they were pruned, they are left out.
    fn read_pack(&mut self, packs: &Packs<'_>, row: PackRow, deleted: &[(Offset, Tombstone)]) -> Result<()> {
        let mut current = row;
        while self.last < row.last().0 {
            let opened = pack::read_through(&packs.dir, current).and_then(|()| Pack::open(&packs.dir, current));
            let err = match opened {
                Ok(mut pack) => {
                    if current == row {
                        self.check_packed_feeds(&pack, row)?;
                    }
                    return self.read_records(&mut pack, row.last(), deleted);
                }
                Err(err) => err,
            };
            let now = if matches!(err, Error::PackMissing(_)) { packs.newest()? } else { None };
            if let Some((floor, rows)) = now.filter(|(_, rows)| !rows.contains(&current)) {
                if floor > self.last {
                    // The packs of the checked state up to this floor need not be looked for.
                    (self.last, self.last_number) = (floor.min(self.sealed_end), None);
                    continue;
                }
                let next = Offset(self.last + 1);
                if let Some(new) = rows.into_iter().find(|new| new.first <= next && next <= new.last()) {
                    current = new;
                    continue;
                }
            }
            self.bad_pack(current, &err)?;
            self.lose_up_to(row.last().0, IN_BAD_PACK);
        }
        Ok(())
    }

    /// Reads the entries of a pack up to the offset `end`.
    fn read_records(&mut self, pack: &mut Pack, end: Offset, deleted: &[(Offset, Tombstone)]) -> Result<()> {
        let row = pack.row();
        let mut next = row.first.max(Offset(self.last + 1));
        while next <= end.min(row.last()) {
            // An error of the report ends the check, other errors are damage.
            let mut ended = Ok(());
            let read = pack.records(next, |offset, mut record| {
                if offset > end {
                    return Ok(ControlFlow::Break(()));
                }
                if let Ok(at) = deleted.binary_search_by_key(&offset, |&(at, _)| at) {
                    ended = self.check_deleted(offset, &record, deleted[at].1);
                    record.entry = HashedEntry::deleted(record.entry.tombstone());
                }
                next = offset.next();
                let bytes = u64::from(record.entry.tombstone().bytes);
                ended = std::mem::replace(&mut ended, Ok(())).and_then(|()| self.take(offset.0, Some(record), bytes));
                Ok(if ended.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            });
            ended?;
            if let Err(err) = read {
                self.bad_pack(row, &err)?;
                next = pack.next_block(next).unwrap_or_else(|| row.last().next());
                self.lose_up_to(end.0.min(next.0 - 1), IN_BAD_PACK);
            }
        }
        Ok(())
    }

    fn bad_pack(&mut self, row: PackRow, err: &Error) -> Result<()> {
        let why = match err {
            Error::Corrupt(why) => why.clone(),
            Error::PackMissing(_) => "the file is missing".into(),
            err => err.to_string(),
        };
        self.damage(Damage::new(Part::Pack, format!("{}/{}", pack::DIR_NAME, row.file_name()), why))
    }

    /// Compares the list of feeds in a pack with what was read before it.
    fn check_packed_feeds(&mut self, pack: &Pack, row: PackRow) -> Result<()> {
        // An error of the report ends the check, other errors are damage.
        let mut ended = Ok(());
        let read = pack.feeds(|feed| {
            ended = std::mem::replace(&mut ended, Ok(())).and_then(|()| self.check_packed_feed(&feed, row));
            Ok(())
        });
        ended?;
        read.or_else(|err| self.bad_pack(row, &err))
    }

    fn check_packed_feed(&mut self, feed: &PackedFeed, row: PackRow) -> Result<()> {
        let known = self.feeds.get(feed.number);
        // The pack may hold entries of the feed that are not above its floor.
        let known_chain = known.filter(|known| known.floor == 0 || known.seq > known.floor).and_then(|known| known.chain);
        let other_chain = known_chain.is_some_and(|chain| chain != feed.chain_before);
        if !other_chain && self.peer(feed.number).is_none_or(|peer| peer == feed.peer) {
            return Ok(());
        }
        let place = format!("{}/{}", pack::DIR_NAME, row.file_name());
        let mut damage = Damage::new(Part::Pack, place, "its list of feeds has another id or another chain");
        damage.peer = Some(feed.peer.clone());
        self.damage(damage)
    }

    fn check_deleted(&mut self, offset: Offset, record: &Record<'_>, tombstone: Tombstone) -> Result<()> {
        if record.entry.tombstone() == tombstone {
            return Ok(());
        }
        self.bad_row(DELETED, &offset.to_string(), "its hash or length is not that of the entry in the pack")
    }

    /// Checks each entry in data.mdb.
    fn read_entries(&mut self) -> Result<()> {
        self.read(ENTRIES, |check, key, value| {
            // The keys were checked: they have 8 bytes and increase.
            let offset = u64::from_ne_bytes(key.try_into().unwrap_or_default());
            // Rows that a pack contains have no meaning.
            if offset <= check.sealed_end {
                return Ok(());
            }
            check.lose_up_to(offset - 1, IS_MISSING);
            check.take(offset, check_record(Offset(offset), value).ok(), value.len() as u64)
        })?;
        let (entries, bytes) = std::mem::take(&mut self.unreported);
        (self.report)(Finding::Checked(entries, bytes))?;
        let last = self.last;
        self.lose_up_to(self.total, IS_MISSING);
        if last > self.total {
            let why = format!("the heads of all feeds count {} entries, but the last offset is {last}", self.total);
            self.damage(Damage::new(Part::Row, "tables peers and entries", why))?;
        }
        Ok(())
    }

    /// Checks the next record, which is `None` if it does not match its checksum.
    fn take(&mut self, offset: u64, record: Option<Record<'_>>, bytes: u64) -> Result<()> {
        self.last = offset;
        self.last_number = match record {
            Some(record) => self.follow(offset, &record, self.last_number)?,
            None => {
                self.lose(offset, offset, "the record does not match its checksum");
                None
            }
        };
        self.intact += u64::from(self.last_number.is_some());
        self.unreported = (self.unreported.0 + 1, self.unreported.1 + bytes);
        if self.unreported.0 == REPORT_ENTRIES {
            let (entries, bytes) = std::mem::take(&mut self.unreported);
            (self.report)(Finding::Checked(entries, bytes))?;
        }
        Ok(())
    }

    /// Notes that all entries after the last one, up to the offset `last`, are lost.
    fn lose_up_to(&mut self, last: u64, why: &'static str) {
        if last > self.last {
            self.lose(self.last + 1, last, why);
            (self.last, self.last_number) = (last, None);
        }
    }

    /// Notes that the entries at the offsets `first` to `last` are lost.
    fn lose(&mut self, first: u64, last: u64, why: &'static str) {
        // A record in a pack cannot be replaced.
        let is_missing = matches!(why, IS_MISSING | IN_BAD_PACK) || first <= self.sealed_end;
        let part = if is_missing { Part::Missing } else { Part::Entry };
        match self.lost.last_mut() {
            Some(lost) if lost.last + 1 == first && lost.why == why => lost.last = last,
            _ => self.lost.push(Lost { first, last, part, why, named: 0 }),
        }
    }

    /// Follows the feed of an intact record. Returns its peer number if the record is where its run says. `before` is the peer
    /// number of the entry before.
    fn follow(&mut self, offset: u64, record: &Record<'_>, before: Option<u32>) -> Result<Option<u32>> {
        let (number, seq) = (record.number, record.seq.get());
        let Some(mut feed) = self.feeds.get(number) else {
            self.lose(offset, offset, "the record belongs to a peer number without a feed");
            return Ok(None);
        };
        if seq <= feed.floor {
            // The floor was raised by another log, or by a pruning that was stopped. The entry has no chain any more.
            return Ok(Some(number));
        }
        if seq <= feed.seq {
            self.lose(offset, offset, "the record is of an entry that came before");
            return Ok(None);
        }
        if seq - feed.seq > 1 {
            // The entries in between are lost, and are reported as such.
            (feed.chain, feed.left) = (None, 0);
        }
        if feed.left > 0 && before != Some(number) {
            // Entries of a run are successive. If the entry before is lost, the run is looked up again.
            feed.left = 0;
        }
        if feed.left == 0 && !self.begin_run(offset, number, seq, &mut feed)? {
            return Ok(None);
        }
        feed.left -= 1;
        feed.seq = seq;
        feed.chain = feed.chain.map(|chain| chain.next(record.entry.tombstone()));
        self.feeds.set(number, feed);
        Ok(Some(number))
    }

    /// Looks up the run of the entry `seq`. Returns false if no run says that the entry is at this offset.
    fn begin_run(&mut self, offset: u64, number: u32, seq: u32, feed: &mut Feed) -> Result<bool> {
        let key = RunRow::key(number, seq);
        let found = self.tables.trees[RUNS].map(|runs| self.lookup.at_or_before(runs, &key));
        let Some(Ok(found)) = found else {
            // The page is damaged, and is reported when the runs are read. Or the table is missing.
            (feed.chain, feed.left) = (None, 1);
            return Ok(true);
        };
        let run = found.and_then(|(key, value)| RunRow::decode(&key, &value).ok()).filter(|(found, _)| *found == number);
        let run = run.map(|(_, run)| run).filter(|run| run.offset_of(seq) == Some(Offset(offset)));
        let Some(run) = run.filter(|run| run.count <= RUN_ENTRIES_MAX) else {
            let why = "no run says that the entry is at this offset";
            let peer = self.peer(number);
            let mut damage = Damage::new(Part::Run, format!("offset {offset}"), why).of(peer, seq);
            damage.offset = Some(Offset(offset));
            self.damage(damage)?;
            return Ok(false);
        };
        if run.first_seq == seq {
            if feed.chain.is_some_and(|chain| chain != run.chain_before) {
                let peer = self.peer(number);
                let place = row_of(RUNS, &format!("{number}/{seq}"));
                self.damage(
                    Damage::new(Part::Chain, place, "the chain before the run differs from the entries before it").of(peer, seq),
                )?;
            }
            feed.chain = Some(run.chain_before);
        }
        feed.left = run.count - (seq - run.first_seq);
        Ok(true)
    }

    /// The peer with this number, if it can be found.
    fn peer(&mut self, number: u32) -> Option<PeerId> {
        let id = self.lookup.get(self.tables.trees[NUMBERS]?, &number.to_be_bytes()).ok()??;
        PeerId::from_bytes(&id).ok()
    }

    /// Checks that the runs cover each feed without gaps, and reports the entries that are lost.
    fn read_runs(&mut self) -> Result<()> {
        // The feed, and the seq that must come next.
        let (mut number, mut next) = (None, 1);
        self.read(RUNS, |check, key, value| {
            let Ok((found, run)) = RunRow::decode(key, value) else {
                return check.bad_row(RUNS, "with a key or a value of the wrong size", "the row cannot be used");
            };
            let floor = check.feeds.get(found).map_or(0, |feed| feed.floor);
            if number != Some(found) {
                check.end_runs(number, next)?;
                (number, next) = (Some(found), floor.saturating_add(1));
            }
            // Runs below the floor stay until the next pruning.
            if run.last_seq() > floor {
                check.check_run(found, run, next)?;
                next = run.first_seq.saturating_add(run.count);
            }
            check.name_lost(found, run)
        })?;
        self.end_runs(number, next)?;
        for lost in std::mem::take(&mut self.lost) {
            let count = lost.last - lost.first + 1;
            if lost.named < count {
                let place = if count == 1 {
                    format!("offset {}", lost.first)
                } else {
                    format!("offsets {} to {}", lost.first, lost.last)
                };
                let why = format!("{}, and no run names {} of these entries", lost.why, count - lost.named);
                self.damage(Damage::new(lost.part, place, why))?;
            }
        }
        Ok(())
    }

    fn check_run(&mut self, number: u32, run: RunRow, next: u32) -> Result<()> {
        let key = format!("{number}/{}", run.first_seq);
        let why = match () {
            () if self.feeds.get(number).is_none() => "its peer number has no feed",
            () if run.first_seq != next => "it does not follow the run before it",
            () if run.count == 0 || run.count > RUN_ENTRIES_MAX => "its number of entries is impossible",
            () if run.first_offset == 0 || run.first_offset.saturating_add(u64::from(run.count) - 1) > self.total => {
                "its offsets are impossible"
            }
            () => return Ok(()),
        };
        let peer = self.peer(number);
        self.damage(Damage::new(Part::Run, row_of(RUNS, &key), why).of(peer, run.first_seq))
    }

    /// Checks that the runs of a feed end at its head: they end before the entry `next`.
    fn end_runs(&mut self, number: Option<u32>, next: u32) -> Result<()> {
        let Some(number) = number else { return Ok(()) };
        match self.feeds.get(number) {
            Some(feed) if u64::from(feed.head) + 1 != u64::from(next) => {
                let peer = self.peer(number);
                let why = format!("the runs of the feed end at entry {}, but its head is {}", next - 1, feed.head);
                self.damage(Damage::new(Part::Run, format!("feed number {number}"), why).of(peer, feed.head))
            }
            _ => Ok(()),
        }
    }

    /// Reports the lost entries of a run.
    fn name_lost(&mut self, number: u32, run: RunRow) -> Result<()> {
        let (first, end) = (run.first_offset, run.first_offset.saturating_add(u64::from(run.count.min(RUN_ENTRIES_MAX))));
        let mut at = self.lost.partition_point(|lost| lost.last < first);
        while let Some(&lost) = self.lost.get(at).filter(|lost| lost.first < end) {
            let peer = self.peer(number);
            for offset in lost.first.max(first)..=lost.last.min(end - 1) {
                let seq = run.first_seq.saturating_add((offset - first) as u32);
                let mut damage = Damage::new(lost.part, format!("offset {offset}"), lost.why).of(peer.clone(), seq);
                damage.offset = Some(Offset(offset));
                self.lost[at].named += 1;
                self.damage(damage)?;
            }
            at += 1;
        }
        Ok(())
    }

    /// Compares the head and the chain of each feed with its entries, and the root with all of them.
    fn compare_feeds(&mut self) -> Result<()> {
        let Some(peers) = self.tables.trees[PEERS] else { return Ok(()) };
        let (mut root, mut is_whole) = (0u128, true);
        let pages = Rc::clone(&self.pages);
        pages.walk(peers, &mut pages.empty_set(), &mut |found| {
            let Ok((key, value)) = found else {
                is_whole = false;
                return Ok(());
            };
            let (Ok(peer), Ok(row)) = (PeerId::from_bytes(key), FeedRow::decode(value.bytes)) else { return Ok(()) };
            root = root.wrapping_add(row.chain.root_term(&peer, row.head));
            let Some(feed) = self.feeds.get(row.number) else { return Ok(()) };
            let place = row_of(PEERS, peer.as_str());
            match feed.chain {
                Some(_) if feed.seq > row.head => self.damage(
                    Damage::new(Part::Row, place, "its head is lower than the last entry of the feed").of(Some(peer), feed.seq),
                ),
                Some(chain) if feed.seq == row.head && chain != row.chain => self.damage(
                    Damage::new(Part::Chain, place, "its chain differs from the entries of the feed").of(Some(peer), row.head),
                ),
                _ => Ok(()),
            }
        })?;
        if is_whole && self.tables.root.is_some_and(|stored| stored != root) {
            let place = row_of(META, "root");
            self.damage(Damage::new(Part::Root, place, "the root differs from the sum over all feeds"))?;
        }
        Ok(())
    }

    /// Checks that each page is used by one table, or free.
    fn read_free_pages(&mut self, meta: &Meta) -> Result<()> {
        let mut lists = Vec::new();
        self.walk(meta.free, |check, key, value| {
            let txn = u64::from_ne_bytes(key.try_into().unwrap_or_default());
            if txn > meta.txn {
                return check.bad_page(&BadPage { page: value.page, why: "lists free pages of a later transaction".into() });
            }
            lists.push((value.page, value.bytes.to_vec()));
            Ok(())
        })?;
        let mut free = self.pages.empty_set();
        for (page, list) in lists {
            if let Err(bad) = self.pages.add_free(page, &list, &self.used, &mut free) {
                self.bad_page(&bad)?;
            }
        }
        // The pages below a damaged page are not known to be used.
        if self.pages_are_whole {
            let lost: Vec<u64> = self.pages.unaccounted(&self.used, &free).take(2).collect();
            if let Some(&page) = lost.first() {
                self.bad_page(&BadPage { page, why: "belongs to no table and is not free".into() })?;
            }
        }
        Ok(())
    }
}
