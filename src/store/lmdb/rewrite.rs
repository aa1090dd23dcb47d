//! Writes the data file again without its free pages.
//!
//! The rows are copied one by one, and not the pages: a page may hold old bytes between its rows, for example those of a
//! deleted entry.

use std::fs::File;
use std::path::Path;

use lmdb::{Cursor, Database, Environment, EnvironmentFlags, Transaction, WriteFlags};
use lmdb_sys as sys;

use super::error::lmdb_error;
use super::ffi::{UnsharedEnv, number};
use super::tables::{self, Tables};
use crate::model::Result;
use crate::store::files::lock::LockFile;
use crate::store::files::open_once::OpenOnce;
use crate::store::files::place::Place;
use crate::store::files::{data, space};

/// Rows are copied in transactions of about this many bytes: LMDB keeps the pages of a transaction in memory.
const COPIED_BYTES_MAX: usize = 8 << 20;

/// The result of [`shrink`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shrunk {
    /// The disk space of data.mdb in bytes, before and after.
    Done(u64, u64),
    /// Less than half of data.mdb is free.
    NotNeeded,
    /// Other processes have the log open. This many bytes are free.
    InUse(u64),
}

/// Writes data.mdb again if at least half of its pages are free, or if `always`. This process must not have the log open. Other
/// processes that want to open the log wait meanwhile.
///
/// # Errors
/// When the log cannot be read or written: then it is unchanged.
pub fn shrink(dir: &Path, always: bool) -> Result<Shrunk> {
    let _once = OpenOnce::new(dir)?;
    let locks = LockFile::open(dir)?;
    let _opening = locks.wait_to_open()?;
    let is_unused = locks.is_unused();
    let fail = |err| lmdb_error(dir, "made smaller", err);
    // Without LMDB's locks: they belong to the process, and the lock for opening is enough.
    let flags = EnvironmentFlags::READ_ONLY | EnvironmentFlags::NO_LOCK | EnvironmentFlags::NO_TLS;
    let old = UnsharedEnv::new(open(dir, flags).map_err(fail)?).map_err(fail)?;
    let (pages, free, page_bytes) = old.pages().map_err(fail)?;
    if !always && free * 2 < pages {
        return Ok(Shrunk::NotNeeded);
    }
    if !is_unused {
        return Ok(Shrunk::InUse(free * page_bytes));
    }
    let before = data::disk_bytes(dir)?;
    data::replace(dir, |path, file| copy(dir, &old, path, file))
        .map_err(|err| space::explain_failed_write(dir, err, pages * page_bytes))?;
    Ok(Shrunk::Done(before, data::disk_bytes(dir)?))
}

fn open(path: &Path, flags: EnvironmentFlags) -> lmdb::Result<Environment> {
    let map_bytes = space::map_bytes(super::MAP_BYTES_MAX);
    Environment::new().set_flags(flags).set_max_dbs(tables::COUNT).set_map_size(map_bytes).open_with_permissions(path, 0o600)
}

/// Copies all rows of the log in `dir` to the empty file `path`, which is open as `file`.
fn copy(dir: &Path, old: &UnsharedEnv, path: &Path, file: &File) -> Result<()> {
    let fail = |err| lmdb_error(dir, "copied", err);
    let flags = EnvironmentFlags::NO_SUB_DIR | EnvironmentFlags::NO_LOCK | EnvironmentFlags::NO_TLS | EnvironmentFlags::NO_SYNC;
    let new = UnsharedEnv::new(open(path, flags).map_err(fail)?).map_err(fail)?;
    let old_tables = old.open_tables(|open| Tables::open(open)).map_err(fail)?;
    let (created, new_tables) = new.create_tables(|create| Tables::create(create)).map_err(fail)?;
    created.commit().map_err(fail)?;
    let last_number = old.newest_txn().map_err(fail)?;
    let old = old.begin_read().map_err(fail)?;
    for (from, to) in old_tables.all().into_iter().zip(new_tables.all()) {
        copy_table(&old, from, &new, to).map_err(fail)?;
    }
    // The numbers of the transactions continue those of the old file, so that a lost commit is still noticed.
    // LMDB writes the transactions with even numbers to the first meta page, so they stay even.
    let raised_by = last_number.next_multiple_of(2);
    let mut last = new.begin_write().map_err(fail)?;
    let stored = number(&last) + raised_by;
    last.put(new_tables.meta(), &tables::TXN_KEY, &stored.to_le_bytes(), WriteFlags::empty()).map_err(fail)?;
    let place = Place::of(file)?.encode();
    last.put(new_tables.meta(), &tables::PLACE_KEY, &place, WriteFlags::empty()).map_err(fail)?;
    last.commit().map_err(fail)?;
    drop(new);
    data::raise_numbers(path, raised_by)
}

fn copy_table(old: &impl Transaction, from: Database, new: &UnsharedEnv, to: Database) -> lmdb::Result<()> {
    let rows = old.open_ro_cursor(from)?;
    let mut next = rows.get(None, None, sys::MDB_FIRST);
    loop {
        let (mut txn, mut bytes) = (new.begin_write()?, 0);
        while bytes < COPIED_BYTES_MAX {
            match next {
                Ok((key, row)) => {
                    txn.put(to, &key.unwrap_or_default(), &row, WriteFlags::APPEND)?;
                    bytes += row.len();
                }
                Err(lmdb::Error::NotFound) => return txn.commit(),
                Err(err) => return Err(err),
            }
            next = rows.get(None, None, sys::MDB_NEXT);
        }
        txn.commit()?;
    }
}
