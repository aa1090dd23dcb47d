//! Every call of LMDB; those that need `unsafe` are in `raw`.
//!
//! What goes out of here is copied, or borrowed from the transaction that it was read in; nothing can dangle:
//! no lmdb-rkv iterator is used (it may outlive its cursor), and no slice of a write cursor leaves its function.
//!
//! Rows are added and replaced, never removed: LMDB then writes every page that it counts in its meta page,
//! so that a data file shorter than that was cut (see `datafile`).

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use lmdb::{
    Cursor, Database, DatabaseFlags, Environment, EnvironmentFlags, RoCursor, RoTransaction, RwTransaction, Transaction,
    WriteFlags,
};
use lmdb_sys as ffi;
use nix::errno::Errno;

use super::layout::{FeedRow, Run};
use super::raw::{EdgeTxn, Fresh, free_dead_readers, goes_on, prefetch_next};
use super::{datafile, lockfile};
use crate::entry::{Offset, PeerId};
use crate::error::{Error, Result};

/// 1 TiB, sparse; less where the address space is limited.
const MAP_BYTES_MAX: usize = 1 << 40;
const MAP_BYTES_MIN: usize = 1 << 20;

/// The six tables.
#[derive(Clone, Copy)]
struct Tables {
    meta: Database,
    peers: Database,
    numbers: Database,
    entries: Database,
    runs: Database,
    times: Database,
}

const TABLES: u32 = 6;

/// Who writes for long looks this often for readers that were killed.
const WRITES_A_CHECK: u32 = 64;

/// One open environment. A process opens that of a log once only.
pub struct Env {
    env: Environment,
    tables: Option<Tables>,
    map_bytes: usize,
    files: lockfile::Files,
    writes: AtomicU32,
}

/// A transaction; it reads, and if it was begun for it, writes.
pub struct Txn<T> {
    txn: T,
    tables: Tables,
}

/// A snapshot. Keep it short: it pins pages.
pub type ReadTxn<'e> = Txn<RoTransaction<'e>>;

impl Env {
    /// Opens the environment in `dir`. Only with `write` may it make files and write them.
    pub fn open(dir: &Path, write: bool) -> Result<Self> {
        let mut flags = EnvironmentFlags::NO_TLS;
        flags.set(EnvironmentFlags::READ_ONLY, !write);
        let turn = lockfile::take_turn(dir);
        if write && turn.is_some() {
            datafile::empty_half_made(dir)?;
        }
        lockfile::reserve(dir, write)?;
        let mut map_bytes = datafile::map_bytes(MAP_BYTES_MAX);
        let env = loop {
            let opened = Environment::new()
                .set_flags(flags)
                .set_max_dbs(TABLES)
                .set_max_readers(lockfile::READERS_MAX)
                .set_map_size(map_bytes)
                .open_with_permissions(dir, 0o600);
            match opened {
                Err(lmdb::Error::Other(code)) if code == Errno::ENOMEM as i32 => {
                    map_bytes /= 2;
                    if map_bytes < MAP_BYTES_MIN {
                        return Err(Error::MapFull(map_bytes));
                    }
                }
                opened => break opened.map_err(|err| refused("the log cannot be opened", err))?,
            }
        };
        let files = lockfile::Files::new(dir);
        drop(turn);
        let fresh = Fresh::new(env);
        let tables = fresh.open(|open| {
            Ok(Tables {
                meta: open("meta")?,
                peers: open("peers")?,
                numbers: open("numbers")?,
                entries: open("entries")?,
                runs: open("runs")?,
                times: open("times")?,
            })
        });
        let tables = match tables {
            Ok(tables) => Some(tables),
            Err(lmdb::Error::NotFound) => None,
            Err(err) => return Err(refused("the log's tables cannot be opened", err)),
        };
        Ok(Self { env: fresh.into_env(), tables, map_bytes, files, writes: AtomicU32::new(0) })
    }

    /// Makes the tables if need be, and lets `first` fill them, in one commit. Another process may have been faster.
    pub fn make_tables(self, first: impl FnOnce(&mut WriteTxn<'_>) -> Result<()>) -> Result<Self> {
        let fail = |err| refused("the log cannot be made", err);
        let Self { env, map_bytes, files, writes, .. } = self;
        let fresh = Fresh::new(env);
        let plain = DatabaseFlags::empty();
        let made = fresh.make(|make| {
            Ok(Tables {
                meta: make("meta", plain)?,
                peers: make("peers", plain)?,
                numbers: make("numbers", plain)?,
                entries: make("entries", DatabaseFlags::INTEGER_KEY)?,
                runs: make("runs", plain)?,
                times: make("times", DatabaseFlags::INTEGER_KEY)?,
            })
        });
        let (txn, tables) = made.map_err(fail)?;
        let mut txn = WriteTxn::new(txn, tables, map_bytes)?;
        first(&mut txn)?;
        txn.commit()?;
        Ok(Self { env: fresh.into_env(), tables: Some(tables), map_bytes, files, writes })
    }

    /// Whether there are tables.
    pub fn is_made(&self) -> bool {
        self.tables.is_some()
    }

    fn tables(&self) -> Result<Tables> {
        self.tables.ok_or_else(|| Error::Corrupt("the log has no tables".into()))
    }

    /// Begins a snapshot.
    pub fn read(&self) -> Result<ReadTxn<'_>> {
        let txn = self.env.begin_ro_txn().map_err(|err| refused("the log cannot be read", err))?;
        Ok(Txn { txn, tables: self.tables()? })
    }

    /// Begins a write; waits for other writers.
    pub fn write(&self) -> Result<WriteTxn<'_>> {
        if self.writes.fetch_add(1, Ordering::Relaxed) % WRITES_A_CHECK == WRITES_A_CHECK - 1 {
            free_dead_readers(&self.env);
        }
        let txn = self.env.begin_rw_txn().map_err(|err| refused("the log cannot be written", err))?;
        if !self.files.are_the_same() || !goes_on(&self.env, &txn) {
            return Err(Error::Replaced);
        }
        WriteTxn::new(txn, self.tables()?, self.map_bytes)
    }
}

/// Wraps the answer of LMDB, telling a full disk and damage from the rest.
fn refused(doing: &'static str, err: lmdb::Error) -> Error {
    match err {
        lmdb::Error::Other(code) => Error::io(doing, std::io::Error::from_raw_os_error(code)),
        lmdb::Error::Corrupted | lmdb::Error::PageNotFound | lmdb::Error::Invalid => {
            Error::Corrupt(format!("{doing}: the data file is damaged ({err})"))
        }
        lmdb::Error::MapResized => Error::MapOutgrown,
        err => Error::Database(doing, Box::new(err)),
    }
}

fn found<T>(result: lmdb::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(lmdb::Error::NotFound) => Ok(None),
        Err(err) => Err(refused("the log cannot be read", err)),
    }
}

/// Offsets have no gaps.
fn missing(offset: Offset) -> Error {
    Error::Corrupt(format!("the entry at offset {offset} is not where it should be"))
}

fn offset_of(key: Option<&[u8]>) -> Result<Offset> {
    let key = key.and_then(|key| key.try_into().ok());
    key.map(|key| Offset(u64::from_ne_bytes(key))).ok_or_else(|| super::layout::bad_row("entries"))
}

impl<T: Transaction> Txn<T> {
    fn cursor(&self, table: Database) -> Result<RoCursor<'_>> {
        self.txn.open_ro_cursor(table).map_err(|err| refused("the log cannot be read", err))
    }

    /// A value of `meta`.
    pub fn meta(&self, key: &str) -> Result<Option<&[u8]>> {
        found(self.txn.get(self.tables.meta, &key))
    }

    /// Gives each name in `meta` that begins with `prefix`, without that, and its value to `each`, in the order of the names.
    pub fn metas(&self, prefix: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let cursor = self.cursor(self.tables.meta)?;
        let mut next = found(cursor.get(Some(prefix), None, ffi::MDB_SET_RANGE))?;
        while let Some((key, value)) = next {
            let Some(name) = key.and_then(|key| key.strip_prefix(prefix)) else { break };
            each(name, value)?;
            next = found(cursor.get(None, None, ffi::MDB_NEXT))?;
        }
        Ok(())
    }

    /// The feed of `peer`.
    pub fn feed(&self, peer: &str) -> Result<Option<FeedRow>> {
        // LMDB has other words for keys of no or too many bytes.
        if PeerId::check(peer.as_bytes()).is_err() {
            return Ok(None);
        }
        found(self.txn.get(self.tables.peers, &peer))?.map(FeedRow::decode).transpose()
    }

    /// Gives each feed to `each`, in the order of the ids.
    pub fn feeds(&self, mut each: impl FnMut(&str, FeedRow) -> Result<()>) -> Result<()> {
        self.feeds_after("", |peer, row| each(peer, row).map(ControlFlow::Continue))
    }

    /// Gives each feed with an id above `after` to `each`, in the order of the ids, until it breaks.
    pub fn feeds_after(&self, after: &str, mut each: impl FnMut(&str, FeedRow) -> Result<ControlFlow<()>>) -> Result<()> {
        let cursor = self.cursor(self.tables.peers)?;
        let (after, op) = match after.as_bytes() {
            // LMDB does not seek for no bytes.
            [] => (None, ffi::MDB_FIRST),
            after => (Some(after), ffi::MDB_SET_RANGE),
        };
        let mut next = found(cursor.get(after, None, op))?;
        while let Some((key, row)) = next {
            if key != after && each(PeerId::check(key.unwrap_or_default())?, FeedRow::decode(row)?)?.is_break() {
                break;
            }
            next = found(cursor.get(None, None, ffi::MDB_NEXT))?;
        }
        Ok(())
    }

    /// How many feeds.
    pub fn feed_count(&self) -> Result<u64> {
        self.count(self.tables.numbers)
    }

    /// How many entries.
    pub fn entry_count(&self) -> Result<u64> {
        self.count(self.tables.entries)
    }

    fn count(&self, table: Database) -> Result<u64> {
        Ok(found(self.txn.stat(table))?.map_or(0, |stat| stat.entries() as u64))
    }

    /// Whose feed has this number.
    pub fn peer(&self, number: u32) -> Result<PeerId> {
        match found(self.txn.get(self.tables.numbers, &number.to_be_bytes()))? {
            Some(id) => PeerId::from_bytes(id),
            None => Err(Error::Corrupt(format!("no peer has the number {number}"))),
        }
    }

    /// The record at `offset`, unchecked.
    pub fn record(&self, offset: Offset) -> Result<Option<&[u8]>> {
        found(self.txn.get(self.tables.entries, &offset.0.to_ne_bytes()))
    }

    /// Gives each record from `offset` on to `each`, unchecked, until it breaks.
    pub fn records(&self, from: Offset, mut each: impl FnMut(Offset, &[u8]) -> Result<ControlFlow<()>>) -> Result<()> {
        let cursor = self.cursor(self.tables.entries)?;
        let mut next = found(cursor.get(Some(&from.0.to_ne_bytes()), None, ffi::MDB_SET_RANGE))?;
        let mut expected = from;
        while let Some((key, record)) = next {
            prefetch_next(record);
            let offset = offset_of(key)?;
            if offset != expected {
                return Err(missing(expected));
            }
            if each(offset, record)?.is_break() {
                return Ok(());
            }
            expected = offset.next();
            next = found(cursor.get(None, None, ffi::MDB_NEXT))?;
        }
        if expected > self.last_offset()? { Ok(()) } else { Err(missing(expected)) }
    }

    /// The offset of the last entry, [`Offset::ZERO`] in an empty log.
    pub fn last_offset(&self) -> Result<Offset> {
        let last = found(self.cursor(self.tables.entries)?.get(None, None, ffi::MDB_LAST))?;
        last.map_or(Ok(Offset::ZERO), |(key, _)| offset_of(key))
    }

    /// The last run of the feed `number` that begins at `seq` or before.
    pub fn run(&self, number: u32, seq: u32) -> Result<Option<Run>> {
        let cursor = self.cursor(self.tables.runs)?;
        let sought = Run::key(number, seq);
        let mut row = found(cursor.get(Some(&sought), None, ffi::MDB_SET_RANGE))?;
        if row.is_none_or(|(key, _)| key != Some(&sought[..])) {
            let back = if row.is_some() { ffi::MDB_PREV } else { ffi::MDB_LAST };
            row = found(cursor.get(None, None, back))?;
        }
        let Some((key, row)) = row else { return Ok(None) };
        let (found_number, run) = Run::decode(key.unwrap_or_default(), row)?;
        Ok((found_number == number).then_some(run))
    }
}

/// The one transaction that writes, with a cursor at the right edge of `entries`.
pub struct WriteTxn<'e> {
    txn: Txn<EdgeTxn<'e>>,
    map_bytes: usize,
}

impl<'e> std::ops::Deref for WriteTxn<'e> {
    type Target = Txn<EdgeTxn<'e>>;

    fn deref(&self) -> &Self::Target {
        &self.txn
    }
}

impl<'e> WriteTxn<'e> {
    fn new(txn: RwTransaction<'e>, tables: Tables, map_bytes: usize) -> Result<Self> {
        let txn = EdgeTxn::new(txn, tables.entries).map_err(|err| refused("the log cannot be written", err))?;
        Ok(Self { txn: Txn { txn, tables }, map_bytes })
    }

    fn wrote(&self, result: lmdb::Result<()>) -> Result<()> {
        result.map_err(|err| match err {
            lmdb::Error::MapFull => Error::MapFull(self.map_bytes),
            err => refused("the log cannot be written", err),
        })
    }

    fn put(&mut self, table: fn(&Tables) -> Database, key: &[u8], value: &[u8], flags: WriteFlags) -> Result<()> {
        let table = table(&self.txn.tables);
        let result = self.txn.txn.put(table, key, value, flags);
        self.wrote(result)
    }

    /// Sets a value of `meta`.
    pub fn put_meta(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.put(|t| t.meta, key.as_bytes(), value, WriteFlags::empty())
    }

    /// Sets the feed of `peer`.
    pub fn put_feed(&mut self, peer: &PeerId, row: &FeedRow) -> Result<()> {
        self.put(|t| t.peers, peer.as_str().as_bytes(), &row.encode(), WriteFlags::empty())
    }

    /// Names the next feed.
    pub fn put_number(&mut self, number: u32, peer: &PeerId) -> Result<()> {
        self.put(|t| t.numbers, &number.to_be_bytes(), peer.as_str().as_bytes(), WriteFlags::empty())
    }

    /// Sets a run.
    pub fn put_run(&mut self, number: u32, run: &Run) -> Result<()> {
        self.put(|t| t.runs, &Run::key(number, run.first_seq), &run.encode(), WriteFlags::empty())
    }

    /// Adds the arrival time of a commit whose first entry is at `offset`, in Unix milliseconds.
    pub fn put_time(&mut self, offset: Offset, millis: u64) -> Result<()> {
        self.put(|t| t.times, &offset.0.to_ne_bytes(), &millis.to_le_bytes(), WriteFlags::APPEND)
    }

    /// Adds a record, which must be the last: header, payload.
    pub fn append_record(&mut self, offset: Offset, header: &[u8], payload: &[u8]) -> Result<()> {
        let result = self.txn.txn.append(&offset.0.to_ne_bytes(), header, payload);
        self.wrote(result)
    }

    /// Puts another record in the place of the one at `offset`.
    pub fn replace_record(&mut self, offset: Offset, record: &[u8]) -> Result<()> {
        self.put(|t| t.entries, &offset.0.to_ne_bytes(), record, WriteFlags::empty())
    }

    /// Makes it durable.
    pub fn commit(self) -> Result<()> {
        let Self { txn, map_bytes } = self;
        txn.txn.commit().map_err(|err| match err {
            lmdb::Error::MapFull => Error::MapFull(map_bytes),
            err => refused("the log cannot be written", err),
        })
    }
}
