//! Transactions, and the rows of the tables. The format is described in scuttleup-store(5).

use std::ops::{ControlFlow, Deref, Range};
use std::path::Path;

use lmdb::{Cursor as _, Database, DatabaseFlags, RoCursor, RwTransaction, Transaction, WriteFlags};
use lmdb_sys as sys;
use xxhash_rust::xxh3::xxh3_128;

use super::error::{read_error, write_error};
use super::ffi::{self, AppendTxn, Snapshot};
use super::prefetch::prefetch_next;
use crate::model::{Error, Offset, PeerId, Printable, Result, Seq, Tombstone};
use crate::store::cursors::Cursor;
use crate::store::files::lock::Turn;
use crate::store::files::place::{Place, StoredPlace};
use crate::store::prune::Retention;
use crate::store::rows::{FeedRow, KEY_ROW_BYTES, KeysRow, PackRow, RunRow, bad_row, decode_tombstone, encode_tombstone};

/// The handles of the tables.
#[derive(Clone, Copy)]
pub struct Tables {
    meta: Database,
    peers: Database,
    numbers: Database,
    entries: Database,
    runs: Database,
    times: Database,
    /// `None`: the log has format 1.
    sealed: Option<SealedTables>,
}

/// The tables that format 2 has added.
#[derive(Clone, Copy)]
struct SealedTables {
    packs: Database,
    deleted: Database,
}

/// The bytes of a row of the table of entries besides its record: the key, and the header of the row in its page.
const ROW_EXTRA_BYTES: u64 = 18;
/// A longer record has pages of its own, each of [`PAGE_BYTES`].
const SHARED_PAGE_BYTES_MAX: u64 = 2000;
const PAGE_BYTES: u64 = 4096;

/// About what a row of the table of entries takes on the disk, in bytes.
fn row_bytes(record: &[u8]) -> u64 {
    let bytes = record.len() as u64 + ROW_EXTRA_BYTES;
    if bytes > SHARED_PAGE_BYTES_MAX { bytes.next_multiple_of(PAGE_BYTES) } else { bytes }
}

/// The names of the tables.
pub const NAMES: [&str; 8] = ["meta", "peers", "numbers", "entries", "runs", "times", "packs", "deleted"];
/// The number of tables.
pub const COUNT: u32 = NAMES.len() as u32;

/// The keys of `meta`.
mod key {
    pub const FORMAT: &str = "format";
    pub const ID: &str = "id";
    pub const ROOT: &str = "root";
    pub const PLACE: &str = "clone";
    pub const TXN: &str = "txn";
    pub const DELETIONS: &str = "deletions";
    pub const FLOOR: &str = "floor";
    pub const POLICY: &str = "policy";
    pub const TIMES: &str = "times";
    /// The name of a cursor follows, of at most [`CURSOR_BYTES_MAX`](crate::store::CURSOR_BYTES_MAX) bytes.
    pub const CURSOR: &str = "cursor ";
    /// A path follows, of at most [`FOLLOWED_PATH_BYTES_MAX`](crate::store::FOLLOWED_PATH_BYTES_MAX) bytes.
    pub const FOLLOW: &[u8] = b"follow ";
    /// 32 hex digits follow, the hash of a name: the row about the keys of this name. For the rows of keys, a space and 8 hex digits
    /// follow these.
    pub const KEYS: &str = "dedupe ";
    /// A peer id follows, so the key has at most 260 bytes. LMDB allows 511.
    pub const FORK: &str = "fork ";
}

/// The keys of the two rows that belong to the data file and not to the log.
pub use key::{PLACE as PLACE_KEY, TXN as TXN_KEY};

/// The values of the row `times` of `meta`.
const TIMES_NEVER_DECREASE: u8 = 1;
const TIMES_DECREASE: u8 = 0;

impl Tables {
    /// Opens the tables of a log of any known format.
    pub fn open(open: &dyn Fn(&str) -> lmdb::Result<Database>) -> lmdb::Result<Self> {
        let sealed = match (open("packs"), open("deleted")) {
            (Ok(packs), Ok(deleted)) => Some(SealedTables { packs, deleted }),
            (Err(lmdb::Error::NotFound), Err(lmdb::Error::NotFound)) => None,
            (Err(err), _) | (_, Err(err)) => return Err(err),
        };
        Ok(Self { sealed, ..Self::of_format_1(&|name, _| open(name))? })
    }

    pub fn create(create: &dyn Fn(&str, DatabaseFlags) -> lmdb::Result<Database>) -> lmdb::Result<Self> {
        let packs = create("packs", DatabaseFlags::INTEGER_KEY)?;
        let deleted = create("deleted", DatabaseFlags::INTEGER_KEY)?;
        Ok(Self { sealed: Some(SealedTables { packs, deleted }), ..Self::of_format_1(create)? })
    }

    /// All tables, in the same order for each log of the newest format.
    pub fn all(&self) -> Vec<Database> {
        let sealed = self.sealed.map(|tables| [tables.packs, tables.deleted]);
        let tables = [self.meta, self.peers, self.numbers, self.entries, self.runs, self.times];
        tables.into_iter().chain(sealed.into_iter().flatten()).collect()
    }

    pub fn meta(&self) -> Database {
        self.meta
    }

    /// Whether the tables are those of the newest format.
    pub fn are_newest(&self) -> bool {
        self.sealed.is_some()
    }

    fn of_format_1(create: &dyn Fn(&str, DatabaseFlags) -> lmdb::Result<Database>) -> lmdb::Result<Self> {
        let (plain, by_integer) = (DatabaseFlags::empty(), DatabaseFlags::INTEGER_KEY);
        Ok(Self {
            sealed: None,
            meta: create("meta", plain)?,
            peers: create("peers", plain)?,
            numbers: create("numbers", plain)?,
            entries: create("entries", by_integer)?,
            runs: create("runs", plain)?,
            times: create("times", by_integer)?,
        })
    }
}

/// A transaction that can read. [`WriteTxn`] adds writing.
pub struct Txn<'e, T> {
    txn: T,
    tables: Tables,
    /// The directory of the log, for errors.
    dir: &'e Path,
}

/// A read transaction. It must be short: LMDB cannot reuse the pages that it sees.
pub type ReadTxn<'e> = Txn<'e, Snapshot<'e>>;

/// The error for an offset without a record. Offsets have no gaps.
pub fn missing_record(offset: Offset) -> Error {
    Error::Corrupt(format!("the entry at offset {offset} is missing"))
}

fn decode_offset(key: Option<&[u8]>) -> Result<Offset> {
    let key = key.and_then(|key| key.try_into().ok());
    key.map(|key| Offset(u64::from_ne_bytes(key))).ok_or_else(|| bad_row("entries"))
}

/// Decodes a row of `times`: the first offset of a commit, and its time.
fn decode_time(key: Option<&[u8]>, time: &[u8]) -> Result<(Offset, u64)> {
    let time = time.try_into().map(u64::from_le_bytes).map_err(|_| bad_row("times"))?;
    Ok((decode_offset(key)?, time))
}

/// The arrival of successive entries in one commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    pub first: Offset,
    pub last: Offset,
    /// Unix time in milliseconds.
    pub millis: u64,
}

impl<'e> ReadTxn<'e> {
    pub fn new(txn: Snapshot<'e>, tables: Tables, dir: &'e Path) -> Self {
        Self { txn, tables, dir }
    }
}

impl<T: Transaction> Txn<'_, T> {
    /// Converts the result of a lookup. A missing row is `None`.
    fn found<V>(&self, result: lmdb::Result<V>) -> Result<Option<V>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(lmdb::Error::NotFound) => Ok(None),
            Err(err) => Err(read_error(self.dir, err)),
        }
    }

    fn cursor(&self, table: Database) -> Result<RoCursor<'_>> {
        self.txn.open_ro_cursor(table).map_err(|err| read_error(self.dir, err))
    }

    fn meta(&self, key: &str) -> Result<Option<&[u8]>> {
        self.found(self.txn.get(self.tables.meta, &key))
    }

    /// The format of the log. `None` if the log was not created yet, 0 if the row is damaged.
    pub fn format(&self) -> Result<Option<u32>> {
        Ok(self.meta(key::FORMAT)?.map(|value| value.try_into().map_or(0, u32::from_le_bytes)))
    }

    /// The peer id of the log.
    pub fn local_id(&self) -> Result<PeerId> {
        self.meta(key::ID)?.ok_or_else(|| Error::Corrupt("the log has no id".into())).and_then(PeerId::from_bytes)
    }

    pub fn root(&self) -> Result<u128> {
        let root = self.meta(key::ROOT)?.and_then(|value| value.try_into().ok());
        root.map(u128::from_le_bytes).ok_or_else(|| Error::Corrupt("the log has no root".into()))
    }

    /// The place where the log lives. `None`: the row is missing.
    pub fn place(&self) -> Result<Option<StoredPlace>> {
        let place = |row: &[u8]| StoredPlace::decode(row).ok_or_else(|| bad_row("meta"));
        self.meta(key::PLACE)?.map(place).transpose()
    }

    /// The number of the transaction, as LMDB counts it.
    pub fn number(&self) -> u64 {
        ffi::number(&self.txn)
    }

    /// The number of the transaction that the last commit has stored. `None` if an earlier program wrote it.
    pub fn stored_number(&self) -> Result<Option<u64>> {
        let number = |value: &[u8]| value.try_into().map(u64::from_le_bytes).map_err(|_| bad_row("meta"));
        self.meta(key::TXN)?.map(number).transpose()
    }

    /// The last offset that was pruned, [`Offset::ZERO`] if there is none.
    pub fn floor(&self) -> Result<Offset> {
        let floor = |value: &[u8]| value.try_into().map(u64::from_le_bytes).map_err(|_| bad_row("meta"));
        Ok(Offset(self.meta(key::FLOOR)?.map_or(Ok(0), floor)?))
    }

    /// The part of the log that is kept. `None`: everything.
    pub fn retention(&self) -> Result<Option<Retention>> {
        self.meta(key::POLICY)?.map(|text| std::str::from_utf8(text).map_err(|_| bad_row("meta"))?.parse()).transpose()
    }

    /// The cursors and their names, in the order of the names.
    pub fn cursors(&self) -> Result<Vec<(String, Cursor)>> {
        let mut cursors = Vec::new();
        self.meta_rows(key::CURSOR, |name, row| {
            let name = std::str::from_utf8(name).map_err(|_| bad_row("meta"))?;
            cursors.push((name.to_owned(), Cursor::decode(row)?));
            Ok(())
        })?;
        Ok(cursors)
    }

    /// The cursor `name`, if there is one.
    pub fn named_cursor(&self, name: &str) -> Result<Option<Cursor>> {
        self.meta(&[key::CURSOR, name].concat())?.map(Cursor::decode).transpose()
    }

    /// The cursor with the lowest offset: its name and this offset.
    pub fn lowest_cursor(&self) -> Result<Option<(String, Offset)>> {
        let cursors = self.cursors()?.into_iter().map(|(name, cursor)| (name, cursor.offset));
        Ok(cursors.min_by_key(|(_, offset)| *offset))
    }

    /// The row of the files of a followed path.
    pub fn followed(&self, path: &[u8]) -> Result<Option<&[u8]>> {
        self.found(self.txn.get(self.tables.meta, &[key::FOLLOW, path].concat()))
    }

    /// The row about the keys with the name `name`.
    pub fn keys_row(&self, name: &str) -> Result<Option<KeysRow>> {
        let Some(row) = self.meta(&keys_key(name))? else { return Ok(None) };
        let row = KeysRow::decode(row).filter(|(_, found)| *found == name);
        row.map(|(row, _)| Some(row)).ok_or_else(|| bad_row("meta"))
    }

    /// The keys with the numbers `block` * 64 and so on, 16 bytes each.
    pub fn keys_at(&self, name: &str, row: KeysRow, block: u64) -> Result<&[u8]> {
        let keys = self.meta(&keys_at_key(name, row.place(block)))?;
        keys.filter(|keys| keys.len() == KEY_ROW_BYTES).ok_or_else(|| bad_row("meta"))
    }

    /// The number of rows about keys, for tests.
    #[cfg(test)]
    pub fn keys_rows(&self) -> Result<u64> {
        let mut count = 0;
        self.meta_rows(key::KEYS, |_, _| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    /// The fork mark of a feed: the lowest seq that is known to differ.
    pub fn fork(&self, peer: &PeerId) -> Result<Option<Seq>> {
        self.meta(&fork_key(peer))?.map_or(Ok(None), decode_fork)
    }

    /// Gives each fork mark to `each`, in the order of the ids: peer id and seq.
    pub fn forks(&self, mut each: impl FnMut(PeerId, Seq)) -> Result<()> {
        self.meta_rows(key::FORK, |peer, seq| {
            if let Some(seq) = decode_fork(seq)? {
                each(PeerId::from_bytes(peer)?, seq);
            }
            Ok(())
        })
    }

    /// Whether a feed has a fork mark.
    pub fn has_forks(&self) -> Result<bool> {
        let prefix = key::FORK.as_bytes();
        let first = self.found(self.cursor(self.tables.meta)?.get(Some(prefix), None, sys::MDB_SET_RANGE))?;
        Ok(first.is_some_and(|(key, _)| key.is_some_and(|key| key.starts_with(prefix))))
    }

    /// The number of feeds with a fork mark.
    pub fn fork_count(&self) -> Result<u64> {
        let mut count = 0;
        self.meta_rows(key::FORK, |_, seq| {
            count += u64::from(decode_fork(seq)?.is_some());
            Ok(())
        })?;
        Ok(count)
    }

    /// Gives each row of `meta` whose key begins with `prefix` to `each`: the rest of the key, and the value.
    fn meta_rows(&self, prefix: &str, mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let prefix = prefix.as_bytes();
        let cursor = self.cursor(self.tables.meta)?;
        let mut next = self.found(cursor.get(Some(prefix), None, sys::MDB_SET_RANGE))?;
        while let Some((key, value)) = next {
            let Some(rest) = key.and_then(|key| key.strip_prefix(prefix)) else { break };
            each(rest, value)?;
            next = self.found(cursor.get(None, None, sys::MDB_NEXT))?;
        }
        Ok(())
    }

    /// The feed of `peer`, or `None` if the log has no such feed or the peer id is invalid.
    pub fn feed(&self, peer: &str) -> Result<Option<FeedRow>> {
        // LMDB reports an error for a key that is empty or too long.
        if PeerId::check(peer.as_bytes()).is_err() {
            return Ok(None);
        }
        self.found(self.txn.get(self.tables.peers, &peer))?.map(FeedRow::decode).transpose()
    }

    /// Gives each feed to `each`, in the order of the ids.
    pub fn feeds(&self, mut each: impl FnMut(&str, FeedRow) -> Result<()>) -> Result<()> {
        self.feeds_after("", |peer, row| each(peer, row).map(ControlFlow::Continue))
    }

    /// Gives each feed with an id above `after` to `each`, in the order of the ids, until `each` breaks.
    pub fn feeds_after(&self, after: &str, mut each: impl FnMut(&str, FeedRow) -> Result<ControlFlow<()>>) -> Result<()> {
        let cursor = self.cursor(self.tables.peers)?;
        let (after, op) = match after.as_bytes() {
            // LMDB cannot seek to an empty key.
            [] => (None, sys::MDB_FIRST),
            after => (Some(after), sys::MDB_SET_RANGE),
        };
        let mut next = self.found(cursor.get(after, None, op))?;
        while let Some((key, row)) = next {
            if key != after && each(PeerId::check(key.unwrap_or_default())?, FeedRow::decode(row)?)?.is_break() {
                break;
            }
            next = self.found(cursor.get(None, None, sys::MDB_NEXT))?;
        }
        Ok(())
    }

    pub fn feed_count(&self) -> Result<u64> {
        self.row_count(self.tables.numbers)
    }

    fn row_count(&self, table: Database) -> Result<u64> {
        Ok(self.found(self.txn.stat(table))?.map_or(0, |stat| stat.entries() as u64))
    }

    /// The peer id that has this peer number.
    pub fn peer(&self, number: u32) -> Result<PeerId> {
        match self.found(self.txn.get(self.tables.numbers, &number.to_be_bytes()))? {
            Some(id) => PeerId::from_bytes(id),
            None => Err(Error::Corrupt(format!("no peer has the number {number}"))),
        }
    }

    /// Whether this peer has a peer number. Reads all of them.
    pub fn has_number(&self, peer: &PeerId) -> Result<bool> {
        let cursor = self.cursor(self.tables.numbers)?;
        let mut next = self.found(cursor.get(None, None, sys::MDB_FIRST))?;
        while let Some((_, id)) = next {
            if id == peer.as_str().as_bytes() {
                return Ok(true);
            }
            next = self.found(cursor.get(None, None, sys::MDB_NEXT))?;
        }
        Ok(false)
    }

    /// The record at `offset`. Does not verify its checksum.
    pub fn record(&self, offset: Offset) -> Result<Option<&[u8]>> {
        self.found(self.txn.get(self.tables.entries, &offset.0.to_ne_bytes()))
    }

    /// Gives each record from the offset `from` to `each`, until `each` breaks. Does not verify the checksums.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if an offset has no record.
    pub fn records(&self, from: Offset, mut each: impl FnMut(Offset, &[u8]) -> Result<ControlFlow<()>>) -> Result<()> {
        let cursor = self.cursor(self.tables.entries)?;
        let mut next = self.found(cursor.get(Some(&from.0.to_ne_bytes()), None, sys::MDB_SET_RANGE))?;
        let mut expected = from;
        while let Some((key, record)) = next {
            prefetch_next(record);
            let offset = decode_offset(key)?;
            if offset != expected {
                return Err(missing_record(expected));
            }
            if each(offset, record)?.is_break() {
                return Ok(());
            }
            expected = offset.next();
            next = self.found(cursor.get(None, None, sys::MDB_NEXT))?;
        }
        if expected > self.last_offset()? { Ok(()) } else { Err(missing_record(expected)) }
    }

    /// The offset of the last entry, [`Offset::ZERO`] in an empty log. It is also the number of entries, including deleted and
    /// pruned entries. The newest entry is never pruned.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the table of entries has not one row for each offset: then pages of different commits are mixed.
    pub fn last_offset(&self) -> Result<Offset> {
        let (first, last) = (self.first_row()?, self.end_row(self.tables.entries, sys::MDB_LAST)?.unwrap_or_default());
        let expected = first.map_or(0, |first| (last.0 + 1).saturating_sub(first.0));
        match self.row_count(self.tables.entries)? {
            count if count == expected => Ok(last),
            count => Err(Error::Corrupt(format!(
                "data.mdb should hold {count} entries, but the last one has the offset {last} and the first one {}",
                first.unwrap_or_default()
            ))),
        }
    }

    /// The offset of the first row of the table of entries. Rows up to [`Txn::sealed_end`] are no longer used.
    pub fn first_row(&self) -> Result<Option<Offset>> {
        self.end_row(self.tables.entries, sys::MDB_FIRST)
    }

    fn end_row(&self, table: Database, end: u32) -> Result<Option<Offset>> {
        self.found(self.cursor(table)?.get(None, None, end))?.map(|(key, _)| decode_offset(key)).transpose()
    }

    /// The bytes of the pages that hold the rows of the table of entries.
    pub fn entries_bytes(&self) -> Result<u64> {
        let stat = self.found(self.txn.stat(self.tables.entries))?;
        Ok(stat.map_or(0, |stat| (stat.leaf_pages() + stat.overflow_pages()) as u64 * u64::from(stat.page_size())))
    }

    /// Whether rows were ever removed from a table.
    pub fn has_removed_rows(&self) -> Result<bool> {
        Ok(self.meta(key::FLOOR)?.is_some() || self.sealed_end()? > Offset::ZERO)
    }

    /// The offset of the last entry that is in a pack or was pruned, [`Offset::ZERO`] if there is none.
    pub fn sealed_end(&self) -> Result<Offset> {
        let Some(tables) = self.tables.sealed else { return Ok(Offset::ZERO) };
        let last = self.found(self.cursor(tables.packs)?.get(None, None, sys::MDB_LAST))?;
        let end = last.map_or(Ok(Offset::ZERO), |(key, row)| Ok(PackRow::decode(decode_offset(key)?, row)?.last()))?;
        Ok(end.max(self.floor()?))
    }

    /// The pack that contains the entry at `offset`. `None` if data.mdb contains it.
    ///
    /// # Errors
    /// [`Error::ReplacedWhileFollowed`] if another process has upgraded the log since this process opened it.
    pub fn pack_of(&self, offset: Offset) -> Result<Option<PackRow>> {
        let Some(tables) = self.tables.sealed else {
            return if self.format()? == Some(1) { Ok(None) } else { Err(Error::ReplacedWhileFollowed) };
        };
        if offset > self.sealed_end()? {
            return Ok(None);
        }
        let cursor = self.cursor(tables.packs)?;
        let sought = offset.0.to_ne_bytes();
        let mut row = self.found(cursor.get(Some(&sought), None, sys::MDB_SET_RANGE))?;
        if row.is_none_or(|(key, _)| key != Some(&sought[..])) {
            let back = if row.is_some() { sys::MDB_PREV } else { sys::MDB_LAST };
            row = self.found(cursor.get(None, None, back))?;
        }
        let pack = row.map(|(key, row)| PackRow::decode(decode_offset(key)?, row)).transpose()?;
        let pack = pack.filter(|pack| (pack.first..=pack.last()).contains(&offset));
        pack.ok_or_else(|| missing_record(offset)).map(Some)
    }

    /// Gives each pack to `each`, in the order of the offsets.
    pub fn packs(&self, mut each: impl FnMut(PackRow)) -> Result<()> {
        let Some(tables) = self.tables.sealed else { return Ok(()) };
        let cursor = self.cursor(tables.packs)?;
        let mut next = self.found(cursor.get(None, None, sys::MDB_FIRST))?;
        while let Some((key, row)) = next {
            each(PackRow::decode(decode_offset(key)?, row)?);
            next = self.found(cursor.get(None, None, sys::MDB_NEXT))?;
        }
        Ok(())
    }

    /// The first entry from `from` on that was deleted after it was sealed.
    pub fn deleted_from(&self, from: Offset) -> Result<Option<(Offset, Tombstone)>> {
        let Some(tables) = self.tables.sealed else { return Ok(None) };
        let row = self.cursor(tables.deleted)?.get(Some(&from.0.to_ne_bytes()), None, sys::MDB_SET_RANGE);
        let decode = |(key, row): (Option<&[u8]>, &[u8])| {
            Ok((decode_offset(key)?, decode_tombstone(row).ok_or_else(|| bad_row("deleted"))?))
        };
        self.found(row)?.map(decode).transpose()
    }

    /// The number of deletions so far.
    pub fn deletions(&self) -> Result<u64> {
        Ok(self.meta(key::DELETIONS)?.map_or(Some(0), |value| value.try_into().ok().map(u64::from_le_bytes)).unwrap_or(0))
    }

    /// The offset of an entry of the feed `row` of `peer`. `None` if the feed ends before it, or it was pruned.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if no run has the entry.
    pub fn offset_of(&self, peer: &str, row: FeedRow, seq: Seq) -> Result<Option<Offset>> {
        if seq.get() > row.head {
            return Ok(None);
        }
        let offset = self.run(row.number, seq.get())?.and_then(|run| run.offset_of(seq.get()));
        if offset.is_none() && seq.get() > row.floor_seq() {
            return Err(Error::Corrupt(format!("the index of {} is wrong at entry {seq}", Printable(peer))));
        }
        Ok(offset)
    }

    /// The first run of a feed that starts at `seq` or behind it. `number` is the peer number.
    pub fn run_after(&self, number: u32, seq: u32) -> Result<Option<RunRow>> {
        let sought = RunRow::key(number, seq);
        let row = self.found(self.cursor(self.tables.runs)?.get(Some(&sought), None, sys::MDB_SET_RANGE))?;
        let Some((key, row)) = row else { return Ok(None) };
        let (found_number, run) = RunRow::decode(key.unwrap_or_default(), row)?;
        Ok((found_number == number).then_some(run))
    }

    /// Gives each row of the table of entries to `each`, offset and size in bytes, from the first one on, until `each` breaks.
    fn entry_rows(&self, mut each: impl FnMut(Offset, u64) -> ControlFlow<()>) -> Result<()> {
        let cursor = self.cursor(self.tables.entries)?;
        let mut next = self.found(cursor.get(None, None, sys::MDB_FIRST))?;
        while let Some((key, record)) = next {
            if each(decode_offset(key)?, row_bytes(record)).is_break() {
                break;
            }
            next = self.found(cursor.get(None, None, sys::MDB_NEXT))?;
        }
        Ok(())
    }

    /// The bytes of all entries on the disk: of the packs, and of the pages of the table of entries.
    pub fn stored_bytes(&self) -> Result<u64> {
        let mut bytes = self.entries_bytes()?;
        self.packs(|pack| bytes += pack.file_bytes)?;
        Ok(bytes)
    }

    /// The offset up to which entries must be removed, so that the others take at most `bytes` on the disk. Packs are removed as a
    /// whole.
    pub fn end_of_excess(&self, bytes: u64) -> Result<Offset> {
        let (mut left, mut end) = (self.stored_bytes()?, Offset::ZERO);
        self.packs(|pack| {
            if left > bytes {
                (left, end) = (left.saturating_sub(pack.file_bytes), pack.last());
            }
        })?;
        let sealed = self.sealed_end()?;
        self.entry_rows(|offset, row_bytes| {
            if left <= bytes {
                return ControlFlow::Break(());
            }
            left = left.saturating_sub(row_bytes);
            end = end.max(if offset > sealed { offset } else { end });
            ControlFlow::Continue(())
        })?;
        Ok(end)
    }

    /// The bytes that are free after the entries up to the offset `end` are removed: of whole packs, and of rows of the table of
    /// entries.
    pub fn bytes_up_to(&self, end: Offset) -> Result<u64> {
        let mut bytes = 0;
        self.packs(|pack| bytes += if pack.last() <= end { pack.file_bytes } else { 0 })?;
        self.entry_rows(|offset, row_bytes| {
            if offset > end {
                return ControlFlow::Break(());
            }
            bytes += row_bytes;
            ControlFlow::Continue(())
        })?;
        Ok(bytes)
    }

    /// The offset of the last entry before the first commit that is not older than `millis`, in Unix milliseconds. If times
    /// decrease, the highest time so far counts.
    pub fn end_before(&self, millis: u64) -> Result<Offset> {
        let cursor = self.cursor(self.tables.times)?;
        let at = |op| self.found(cursor.get(None, None, op))?.map(|(key, time)| decode_time(key, time)).transpose();
        let Some((last, last_time)) = at(sys::MDB_LAST)? else { return self.last_offset() };
        let Some((mut low, first_time)) = at(sys::MDB_FIRST)? else { return self.last_offset() };
        if self.meta(key::TIMES)? != Some(&[TIMES_NEVER_DECREASE]) {
            let mut next = Some((low, first_time));
            while let Some((first, time)) = next {
                if time >= millis {
                    return Ok(Offset(first.0.saturating_sub(1)));
                }
                next = at(sys::MDB_NEXT)?;
            }
            return self.last_offset();
        }
        if last_time < millis {
            return self.last_offset();
        }
        // The row that is sought is at `low`, at `high` or between them. That at `high` is not older than `millis`.
        let mut high = last;
        while low < high {
            let sought = Offset(low.0 + (high.0 - low.0) / 2);
            let Some((first, time)) = self.time_row(&cursor, sought)? else { return Err(bad_row("times")) };
            if time >= millis {
                high = first;
            } else {
                low = at(sys::MDB_NEXT)?.map_or(high, |(next, _)| next);
            }
        }
        Ok(Offset(high.0.saturating_sub(1)))
    }

    /// The last row of the table of times at `offset` or before: its first offset, and its time in Unix milliseconds. The cursor is
    /// at this row.
    fn time_row(&self, cursor: &RoCursor<'_>, offset: Offset) -> Result<Option<(Offset, u64)>> {
        let sought = offset.0.to_ne_bytes();
        let mut row = self.found(cursor.get(Some(&sought), None, sys::MDB_SET_RANGE))?;
        if row.is_none_or(|(key, _)| key != Some(&sought[..])) {
            let back = if row.is_some() { sys::MDB_PREV } else { sys::MDB_LAST };
            row = self.found(cursor.get(None, None, back))?;
        }
        row.map(|(key, time)| decode_time(key, time)).transpose()
    }

    /// The arrival of the entry at `offset`, which the log must hold.
    pub fn arrival(&self, offset: Offset) -> Result<Arrival> {
        let cursor = self.cursor(self.tables.times)?;
        let missing = || Error::Corrupt(format!("the time of the entry at offset {offset} is missing"));
        let (first, millis) = self.time_row(&cursor, offset)?.ok_or_else(missing)?;
        let next = self.found(cursor.get(None, None, sys::MDB_NEXT))?;
        let last = match next {
            Some((key, _)) => Offset(decode_offset(key)?.0.saturating_sub(1)),
            None => self.last_offset()?,
        };
        Ok(Arrival { first, last, millis })
    }

    /// The time of the last commit in the table of times, in Unix milliseconds.
    pub fn last_time(&self) -> Result<Option<u64>> {
        let row = self.found(self.cursor(self.tables.times)?.get(None, None, sys::MDB_LAST))?;
        row.map(|(key, time)| Ok(decode_time(key, time)?.1)).transpose()
    }

    /// Whether it is known that the times of the commits never decrease, or that they do: see [`WriteTxn::note_order_of_times`].
    fn order_of_times_is_known(&self) -> Result<bool> {
        Ok(self.meta(key::TIMES)?.is_some())
    }

    /// Whether there are packs, or rows in the table of entries, of which all entries were pruned.
    pub fn has_pruned_rows(&self) -> Result<bool> {
        let (floor, mut has_pack) = (self.floor()?, false);
        self.packs(|pack| has_pack |= pack.last() <= floor)?;
        Ok(has_pack || self.first_row()?.is_some_and(|first| first <= floor))
    }

    /// The first two keys of the table of times.
    fn first_times(&self) -> Result<[Option<Offset>; 2]> {
        let cursor = self.cursor(self.tables.times)?;
        let first = self.found(cursor.get(None, None, sys::MDB_FIRST))?.map(|(key, _)| decode_offset(key)).transpose()?;
        let second = self.found(cursor.get(None, None, sys::MDB_NEXT))?.map(|(key, _)| decode_offset(key)).transpose()?;
        Ok([first, second])
    }

    /// The time of the first commit in the table of times, in Unix milliseconds.
    pub fn first_time(&self) -> Result<Option<u64>> {
        let row = self.found(self.cursor(self.tables.times)?.get(None, None, sys::MDB_FIRST))?;
        row.map(|(key, time)| Ok(decode_time(key, time)?.1)).transpose()
    }

    /// The last run of a feed that starts at `seq` or before. `number` is the peer number.
    pub fn run(&self, number: u32, seq: u32) -> Result<Option<RunRow>> {
        let cursor = self.cursor(self.tables.runs)?;
        let sought = RunRow::key(number, seq);
        let mut row = self.found(cursor.get(Some(&sought), None, sys::MDB_SET_RANGE))?;
        if row.is_none_or(|(key, _)| key != Some(&sought[..])) {
            let back = if row.is_some() { sys::MDB_PREV } else { sys::MDB_LAST };
            row = self.found(cursor.get(None, None, back))?;
        }
        let Some((key, row)) = row else { return Ok(None) };
        let (found_number, run) = RunRow::decode(key.unwrap_or_default(), row)?;
        Ok((found_number == number).then_some(run))
    }
}

fn fork_key(peer: &PeerId) -> String {
    [key::FORK, peer.as_str()].concat()
}

/// The key of the row about the keys with the name `name`. The name itself could be too long for a key of LMDB.
pub fn keys_key(name: &str) -> String {
    format!("{}{:032x}", key::KEYS, xxh3_128(name.as_bytes()))
}

fn keys_at_key(name: &str, place: u64) -> String {
    format!("{} {place:08x}", keys_key(name))
}

/// Reads a fork mark. `None`: the mark was cleared.
fn decode_fork(value: &[u8]) -> Result<Option<Seq>> {
    let value = value.try_into().map_err(|_| bad_row("meta"))?;
    Ok(Seq::new(u64::from(u32::from_le_bytes(value))))
}

/// The write transaction. Only one exists at a time, in all processes together.
pub struct WriteTxn<'e> {
    txn: Txn<'e, AppendTxn<'e>>,
    /// The size of the memory map, for errors.
    map_bytes: usize,
    /// Dropped last, after LMDB has released its lock.
    _turn: Turn<'e>,
}

impl<'e> Deref for WriteTxn<'e> {
    type Target = Txn<'e, AppendTxn<'e>>;

    fn deref(&self) -> &Self::Target {
        &self.txn
    }
}

impl<'e> WriteTxn<'e> {
    pub fn new(txn: RwTransaction<'e>, tables: Tables, dir: &'e Path, map_bytes: usize, turn: Turn<'e>) -> Result<Self> {
        let txn = AppendTxn::new(txn, tables.entries).map_err(|err| write_error(dir, err, map_bytes))?;
        Ok(Self { txn: Txn { txn, tables, dir }, map_bytes, _turn: turn })
    }

    fn set(&mut self, table: Database, key: &[u8], value: &[u8]) -> Result<()> {
        self.set_with(table, key, value, WriteFlags::empty())
    }

    fn set_with(&mut self, table: Database, key: &[u8], value: &[u8], flags: WriteFlags) -> Result<()> {
        self.txn.txn.set(table, key, value, flags).map_err(|err| write_error(self.txn.dir, err, self.map_bytes))
    }

    /// Removes a row, if it exists.
    fn remove(&mut self, table: Database, key: &[u8]) -> Result<()> {
        match self.txn.txn.remove(table, key) {
            Err(lmdb::Error::NotFound) => Ok(()),
            removed => removed.map_err(|err| write_error(self.txn.dir, err, self.map_bytes)),
        }
    }

    /// Removes a row that a cursor has found.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not found by its key: the page is damaged, and a caller that removes all rows would never end.
    fn remove_found(&mut self, table: Database, key: &[u8]) -> Result<()> {
        match self.txn.txn.remove(table, key) {
            Err(lmdb::Error::NotFound) => {
                Err(Error::Corrupt(format!("a row of data.mdb in {} cannot be removed", self.txn.dir.display())))
            }
            removed => removed.map_err(|err| write_error(self.txn.dir, err, self.map_bytes)),
        }
    }

    fn set_meta(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.set(self.tables.meta, key.as_bytes(), value)
    }

    pub fn set_format(&mut self, format: u32) -> Result<()> {
        self.set_meta(key::FORMAT, &format.to_le_bytes())
    }

    pub fn set_local_id(&mut self, id: &PeerId) -> Result<()> {
        self.set_meta(key::ID, id.as_str().as_bytes())
    }

    pub fn set_root(&mut self, root: u128) -> Result<()> {
        self.set_meta(key::ROOT, &root.to_le_bytes())
    }

    /// Sets how much of the log is kept. `None`: everything.
    pub fn set_retention(&mut self, retention: Option<Retention>) -> Result<()> {
        match retention {
            Some(retention) => self.set_meta(key::POLICY, retention.to_string().as_bytes()),
            None => self.note_removal().and_then(|()| self.remove(self.tables.meta, key::POLICY.as_bytes())),
        }
    }

    /// Sets a cursor. `None` removes it.
    pub fn set_cursor(&mut self, name: &str, cursor: Option<&Cursor>) -> Result<()> {
        let key = [key::CURSOR, name].concat();
        match cursor {
            Some(cursor) => self.set_meta(&key, &cursor.encode()),
            None => self.note_removal().and_then(|()| self.remove(self.tables.meta, key.as_bytes())),
        }
    }

    /// Sets the row of the files of a followed path.
    pub fn set_followed(&mut self, path: &[u8], row: &[u8]) -> Result<()> {
        self.set(self.tables.meta, &[key::FOLLOW, path].concat(), row)
    }

    /// Sets the row about the keys with the name `name`.
    pub fn set_keys_row(&mut self, name: &str, row: KeysRow) -> Result<()> {
        self.set_meta(&keys_key(name), &row.encode(name))
    }

    /// Sets the keys with the numbers `block` * 64 and so on.
    pub fn set_keys_at(&mut self, name: &str, row: KeysRow, block: u64, keys: &[u8; KEY_ROW_BYTES]) -> Result<()> {
        self.set_meta(&keys_at_key(name, row.place(block)), keys)
    }

    /// Removes the keys in these places.
    pub fn remove_keys(&mut self, name: &str, places: Range<u64>) -> Result<()> {
        if !places.is_empty() {
            self.note_removal()?;
        }
        places.into_iter().try_for_each(|place| self.remove(self.tables.meta, keys_at_key(name, place).as_bytes()))
    }

    /// Notes that rows are removed: see [`Txn::has_removed_rows`]. The row of the floor says so, also if it is 0.
    pub fn note_removal(&mut self) -> Result<()> {
        let floor = self.floor()?;
        self.set_floor(floor)
    }

    pub fn remove_run(&mut self, number: u32, first_seq: u32) -> Result<()> {
        self.remove(self.tables.runs, &RunRow::key(number, first_seq))
    }

    /// Removes the rows of packs of which all entries were pruned, and up to `rows_max` rows of pruned entries, deletions and times.
    pub fn remove_pruned_rows(&mut self, rows_max: u64) -> Result<()> {
        let (floor, mut packs) = (self.floor()?, Vec::new());
        self.packs(|pack| packs.extend((pack.last() <= floor).then_some(pack.first)))?;
        for first in packs {
            self.remove_pack(first)?;
        }
        self.remove_records(floor, rows_max)?;
        for _ in 0..rows_max {
            let Some((offset, _)) = self.deleted_from(Offset::ZERO)?.filter(|(offset, _)| *offset <= floor) else { break };
            let deleted = self.sealed_tables()?.deleted;
            self.remove_found(deleted, &offset.0.to_ne_bytes())?;
        }
        for _ in 0..rows_max {
            // The last time at or before the next entry is the time of this entry.
            let [first, second] = self.first_times()?;
            let Some(first) = first.filter(|_| second.is_some_and(|second| second <= floor.next())) else { break };
            self.remove_found(self.tables.times, &first.0.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Sets the last offset that was pruned.
    pub fn set_floor(&mut self, floor: Offset) -> Result<()> {
        self.set_meta(key::FLOOR, &floor.0.to_le_bytes())
    }

    pub fn set_place(&mut self, place: Place) -> Result<()> {
        self.set_meta(key::PLACE, &place.encode())
    }

    /// Stores a place as earlier programs do.
    #[cfg(test)]
    pub fn set_old_place(&mut self, device: u64, inode: u64) -> Result<()> {
        self.set_meta(key::PLACE, &[device.to_le_bytes(), inode.to_le_bytes()].concat())
    }

    /// Sets the fork mark of a feed. `None` clears it: the row stays.
    pub fn set_fork(&mut self, peer: &PeerId, seq: Option<Seq>) -> Result<()> {
        self.set_meta(&fork_key(peer), &seq.map_or(0, Seq::get).to_le_bytes())
    }

    pub fn set_feed(&mut self, peer: &PeerId, row: &FeedRow) -> Result<()> {
        self.set(self.tables.peers, peer.as_str().as_bytes(), &row.encode())
    }

    /// Gives a peer its peer number.
    pub fn set_number(&mut self, number: u32, peer: &PeerId) -> Result<()> {
        self.set(self.tables.numbers, &number.to_be_bytes(), peer.as_str().as_bytes())
    }

    pub fn set_run(&mut self, number: u32, run: &RunRow) -> Result<()> {
        self.set(self.tables.runs, &RunRow::key(number, run.first_seq), &run.encode())
    }

    /// Appends the time of a commit in Unix milliseconds. `first` is the offset of its first entry. The time is not before that of
    /// the last commit, also if the clock of the machine was set back.
    pub fn append_time(&mut self, first: Offset, millis: u64) -> Result<()> {
        self.note_order_of_times()?;
        let millis = millis.max(self.last_time()?.unwrap_or(0));
        self.set_with(self.tables.times, &first.0.to_ne_bytes(), &millis.to_le_bytes(), WriteFlags::APPEND)
    }

    /// Notes whether the times so far never decrease, unless this was noted before. Earlier programs did not ensure it. A search
    /// may rely on it only if it is noted.
    fn note_order_of_times(&mut self) -> Result<()> {
        if self.order_of_times_is_known()? {
            return Ok(());
        }
        let (mut last, mut order) = (0, TIMES_NEVER_DECREASE);
        {
            let cursor = self.cursor(self.tables.times)?;
            let mut next = self.found(cursor.get(None, None, sys::MDB_FIRST))?;
            while let Some((key, time)) = next {
                let time = decode_time(key, time)?.1;
                order = if time < last { TIMES_DECREASE } else { order };
                last = time;
                next = self.found(cursor.get(None, None, sys::MDB_NEXT))?;
            }
        }
        self.set_meta(key::TIMES, &[order])
    }

    /// Appends a record. `offset` must be one above the last offset.
    pub fn append_record(&mut self, offset: Offset, header: &[u8], payload: &[u8]) -> Result<()> {
        let appended = self.txn.txn.append(&offset.0.to_ne_bytes(), header, payload);
        appended.map_err(|err| write_error(self.txn.dir, err, self.map_bytes))
    }

    /// Replaces the record at `offset`, because the entry was deleted.
    pub fn replace_record(&mut self, offset: Offset, record: &[u8]) -> Result<()> {
        self.set(self.tables.entries, &offset.0.to_ne_bytes(), record)?;
        self.count_deletion()
    }

    /// Deletes the entry at `offset`, which is in a pack.
    pub fn set_deleted(&mut self, offset: Offset, tombstone: Tombstone) -> Result<()> {
        let deleted = self.sealed_tables()?.deleted;
        self.set(deleted, &offset.0.to_ne_bytes(), &encode_tombstone(tombstone))?;
        self.count_deletion()
    }

    fn count_deletion(&mut self) -> Result<()> {
        let deletions = self.deletions()? + 1;
        self.set_meta(key::DELETIONS, &deletions.to_le_bytes())
    }

    /// Removes a pack.
    pub fn remove_pack(&mut self, first: Offset) -> Result<()> {
        let packs = self.sealed_tables()?.packs;
        self.remove(packs, &first.0.to_ne_bytes())
    }

    /// Adds a pack, or replaces that with the same first entry.
    pub fn set_pack(&mut self, pack: &PackRow) -> Result<()> {
        let packs = self.sealed_tables()?.packs;
        self.set(packs, &pack.first.0.to_ne_bytes(), &pack.encode())
    }

    fn sealed_tables(&self) -> Result<SealedTables> {
        self.tables.sealed.ok_or_else(|| Error::Corrupt("the log has no table of packs".into()))
    }

    /// Removes the mark of [`WriteTxn::set_deleted`]: the pack contains the tombstone now.
    pub fn clear_deleted(&mut self, offset: Offset) -> Result<()> {
        let deleted = self.sealed_tables()?.deleted;
        self.remove(deleted, &offset.0.to_ne_bytes())
    }

    /// Removes up to `rows_max` rows of the table of entries, from the first one to that of `last`. Returns whether there are
    /// more of them.
    pub fn remove_records(&mut self, last: Offset, rows_max: u64) -> Result<bool> {
        let Some(first) = self.first_row()?.filter(|first| *first <= last) else { return Ok(false) };
        let end = last.0.min(first.0.saturating_add(rows_max - 1));
        self.remove_found(self.tables.entries, &first.0.to_ne_bytes())?;
        for offset in first.next().0..=end {
            self.remove(self.tables.entries, &offset.to_ne_bytes())?;
        }
        Ok(end < last.0)
    }

    /// Makes the transaction durable and visible. Returns its number, which it also stores.
    pub fn commit(mut self) -> Result<u64> {
        let number = self.number();
        self.set_meta(key::TXN, &number.to_le_bytes())?;
        let Self { txn: Txn { txn, dir, .. }, map_bytes, _turn } = self;
        txn.commit().map_err(|err| write_error(dir, err, map_bytes))?;
        Ok(number)
    }
}
