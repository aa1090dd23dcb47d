//! LMDB: the environment, its tables and transactions. No other module imports lmdb.
//!
//! Values that leave this module are copied, or borrowed from the transaction that read them. So no reference can dangle.
//! No lmdb-rkv iterator is used, because it may outlive its cursor. No slice of a write cursor leaves its function.
//!
//! Rows are removed only from logs that have packs or a floor: see [`Env::commit`].
//!
//! | file | content |
//! |---|---|
//! | `tables` | transactions, and the rows of the tables |
//! | `error` | LMDB's errors, with explanations |
//! | `ffi` | every call of LMDB that needs `unsafe` |
//! | `rewrite` | writes the data file again without its free pages |
//! | `prefetch` | a hint to the processor, which needs `unsafe` too |

mod error;
mod ffi;
mod prefetch;
mod rewrite;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use lmdb::{Environment, EnvironmentFlags};
use nix::errno::Errno;

use super::files::lock::{Claim, LockFile, Locks, OpenFiles, READERS_MAX, Turn};
use super::files::place::Place;
use super::files::{data, space};
use crate::model::{Error, Result};
use error::{lmdb_error, read_error, write_error};
use ffi::{SAME_PROCESS_ID, SharedEnv, Snapshot, UnsharedEnv, continues_newest_commit, sees_newest_commit};
pub use lmdb::Transaction;
pub use rewrite::{Shrunk, shrink};
use tables::Tables;
pub use tables::{Arrival, NAMES, ReadTxn, Txn, WriteTxn, keys_key, missing_record};

/// The maximum size of the memory map, in bytes: 1 TiB of address space. Less if the address space is limited.
const MAP_BYTES_MAX: usize = 1 << 40;
const MAP_BYTES_MIN: usize = 1 << 20;

/// The data file is this much longer than its pages, in bytes: more than a transaction adds, apart from what its caller counts.
const TAIL_BYTES: u64 = 32 << 20;

/// Free the slots of dead readers in every N-th write transaction.
const WRITES_PER_READER_CHECK: u32 = 64;

/// An open environment. A process must open the environment of a log only once at a time.
pub struct Env {
    dir: PathBuf,
    env: SharedEnv,
    /// `None`: the log was not created yet.
    tables: Option<Tables>,
    map_bytes: usize,
    files: OpenFiles,
    place: Place,
    /// The number of write transactions that this process has begun.
    writes: AtomicU32,
    /// Dropped last, after LMDB has closed the log.
    locks: Locks,
}

impl Env {
    /// Opens the environment in `dir`. Without `write`, data.mdb is neither created nor written. lock.mdb is created in any case,
    /// where the mount permits it.
    pub fn open(dir: &Path, write: bool) -> Result<Self> {
        let fail = |err| open_error(dir, err);
        let locks = Locks::open(dir, write)?;
        let Opened { env, map_bytes, files, place, mut opening } = open_files(dir, write, &locks)?;
        let mut tables = open_tables(&env).map_err(fail)?;
        if tables.is_none()
            && let Some(file) = locks.usable()
            && env.newest_txn().map_err(fail)? > 0
        {
            // A commit writes its meta page, and then its number to the lock file. In between, a snapshot is of the commit before,
            // which has no tables if this is the creation of the log. So wait until the creator has ended its commit.
            opening = None;
            drop(file.wait_to_write()?);
            opening.replace(file.wait_to_open()?);
            tables = open_tables(&env).map_err(fail)?;
        }
        if tables.is_none() && !data::was_created(dir)? && holds_other_tables(&env).map_err(fail)? {
            return Err(Error::NotEmpty(dir.to_path_buf(), data::FILE_NAME.into()));
        }
        drop(opening);
        Ok(Self {
            dir: dir.to_path_buf(),
            env: env.into_shared(),
            tables,
            map_bytes,
            files,
            place,
            writes: AtomicU32::new(0),
            locks,
        })
    }

    /// Opens the environment in `dir` for reading, without a look at its tables. Of data.mdb, LMDB reads only the meta pages. So
    /// this is safe if any other page is damaged.
    pub fn open_unread(dir: &Path) -> Result<Self> {
        let locks = Locks::open(dir, false)?;
        let Opened { env, map_bytes, files, place, opening } = open_files(dir, false, &locks)?;
        drop(opening);
        Ok(Self {
            dir: dir.to_path_buf(),
            env: env.into_shared(),
            tables: None,
            map_bytes,
            files,
            place,
            writes: AtomicU32::new(0),
            locks,
        })
    }

    /// Waits until no process seals, and keeps others from it until the result is dropped. Packs are then not replaced.
    pub fn wait_to_seal(&self) -> Result<Option<Turn<'_>>> {
        self.locks.usable().map(LockFile::wait_to_seal).transpose()
    }

    /// Whether another process or thread adds, replaces or removes packs.
    pub fn is_sealing(&self) -> bool {
        self.locks.usable().is_some_and(LockFile::is_sealing)
    }

    /// Keeps the pages of the newest commit from being used again, until the result is dropped.
    pub fn pin(&self) -> Result<Pin<'_>> {
        self.snapshot().map(Pin)
    }

    /// Creates the missing tables and calls `fill`, in one commit. Another process may have created the log since this
    /// environment was opened; then `fill` sees its rows.
    pub fn create_tables(self, fill: impl FnOnce(&mut WriteTxn<'_>) -> Result<()>) -> Result<Self> {
        // Of these variables, the last one is dropped first.
        let Self { dir, locks, env, map_bytes, files, place, writes, .. } = self;
        let turn = wait_to_write(&locks)?;
        let env = env.into_unshared();
        let created = env.create_tables(|create| Tables::create(create));
        let (txn, tables) = created.map_err(|err| lmdb_error(&dir, "created", err))?;
        let mut txn = WriteTxn::new(txn, tables, &dir, map_bytes, turn)?;
        fill(&mut txn)?;
        txn.commit()?;
        Ok(Self { dir, env: env.into_shared(), tables: Some(tables), map_bytes, files, place, writes, locks })
    }

    /// The place of the data file.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether the environment has tables, so that the log was created.
    pub fn has_tables(&self) -> bool {
        self.tables.is_some()
    }

    fn tables(&self) -> Result<Tables> {
        self.tables.ok_or_else(|| Error::Corrupt("the log has no tables".into()))
    }

    fn snapshot(&self) -> Result<Snapshot<'_>> {
        self.locks.check_snapshot()?;
        let begun = self.env.begin_again().map_or_else(
            || {
                let _opening = self.locks.usable().map(LockFile::wait_to_open).transpose()?;
                Ok(self.env.begin_first())
            },
            Ok,
        )?;
        begun.map_err(|err| read_error(&self.dir, err))
    }

    /// Begins a read transaction, which sees the log as of one commit.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if its tables are not of this commit.
    pub fn read(&self) -> Result<ReadTxn<'_>> {
        let mut before = None;
        loop {
            let txn = ReadTxn::new(self.snapshot()?, self.tables()?, &self.dir);
            let (number, stored) = (txn.number(), txn.stored_number()?);
            if stored.is_none_or(|stored| stored == number) {
                return Ok(txn);
            }
            drop(txn);
            // LMDB takes the number without a lock. After two commits in between, the tables are of a newer commit.
            if before.replace(number) == Some(number) {
                return Err(match self.is_in_place()? {
                    false => Error::ReplacedWhileFollowed,
                    // The number comes from a lock file that does not belong to this data file.
                    true if self.newest_txn()? != number => Error::Replaced,
                    true => self.mixed(number, stored),
                });
            }
        }
    }

    /// The error for tables of the commit `stored` in a data file whose newest commit is `number`.
    fn mixed(&self, number: u64, stored: Option<u64>) -> Error {
        let (dir, stored) = (self.dir.display(), stored.unwrap_or_default());
        Error::Corrupt(format!(
            "data.mdb in {dir} mixes pages of the transactions {stored} and {number}, \
             or an earlier build of this program has written to the log and can still read it"
        ))
    }

    /// The number of the newest transaction in the data file.
    pub fn newest_txn(&self) -> Result<u64> {
        self.env.newest_txn().map_err(|err| read_error(&self.dir, err))
    }

    /// Whether the files of the log are in their places, and this process reads what writers commit.
    pub fn is_in_place(&self) -> Result<bool> {
        let snapshot = self.snapshot()?;
        Ok(self.files.are_unchanged() && sees_newest_commit(&snapshot))
    }

    /// Begins a write transaction. Waits until other writers have ended their transactions.
    ///
    /// # Errors
    /// [`Error::Replaced`] if commits of this process would be lost. [`Error::Corrupt`] if the tables are not of the newest
    /// commit.
    pub fn write(&self) -> Result<WriteTxn<'_>> {
        if self.writes.fetch_add(1, Ordering::Relaxed) % WRITES_PER_READER_CHECK == WRITES_PER_READER_CHECK - 1 {
            // A process that opens the log does the same.
            if let Some(_opening) = self.locks.usable().and_then(LockFile::try_to_open) {
                self.env.free_slots_of_dead_readers();
            }
        }
        let turn = wait_to_write(&self.locks)?;
        let txn = self.env.begin_write().map_err(|err| write_error(&self.dir, err, self.map_bytes))?;
        if !self.files.are_unchanged() || !continues_newest_commit(&self.env, &txn) {
            return Err(Error::Replaced);
        }
        let txn = WriteTxn::new(txn, self.tables()?, &self.dir, self.map_bytes, turn)?;
        let (last, stored) = (txn.number() - 1, txn.stored_number()?);
        if stored.is_none_or(|stored| stored == last) { Ok(txn) } else { Err(self.mixed(last, stored)) }
    }

    /// Makes a transaction durable and visible. `bytes`: at least the length of the pages that it may have added. Returns its
    /// number.
    ///
    /// If rows were ever removed, LMDB may count pages at the end of the file that it does not write. Then the file would look
    /// truncated. So it is made longer before, without using space.
    pub fn commit(&self, txn: WriteTxn<'_>, bytes: u64) -> Result<u64> {
        if txn.has_removed_rows()? {
            let used = self.env.pages_bytes().map_err(|err| write_error(&self.dir, err, self.map_bytes))?;
            data::lengthen(&self.dir, used + bytes + TAIL_BYTES)?;
        }
        txn.commit()
    }

    /// Whether the tables are those of the newest format.
    pub fn is_newest(&self) -> bool {
        self.tables.is_some_and(|tables| tables.are_newest())
    }

    /// The claim on the cursor `name`; `None` if another process or thread has it. The log must be open for writing.
    pub fn claim(&self, name: &str) -> Result<Option<Claim<'_>>> {
        self.locks.usable().map_or(Ok(None), |file| file.claim(&self.dir, name))
    }

    /// The process that has the claim on the cursor `name`, if it can be seen.
    pub fn claimant(&self, name: &str) -> Option<u32> {
        self.locks.usable().and_then(|file| file.claimant(name))
    }

    /// The lock for sealing; `None` if another process or thread has it. The log must be open for writing.
    pub fn try_to_seal(&self) -> Option<Turn<'_>> {
        self.locks.usable()?.try_to_seal()
    }
}

/// The commit whose pages are kept.
pub struct Pin<'e>(Snapshot<'e>);

impl Pin<'_> {
    /// The number of its transaction.
    pub fn number(&self) -> u64 {
        ffi::number(&self.0)
    }
}

/// An environment that was just opened, and the lock under which this was done.
struct Opened<'l> {
    env: UnsharedEnv,
    map_bytes: usize,
    files: OpenFiles,
    place: Place,
    opening: Option<Turn<'l>>,
}

/// Opens the files of the log in `dir`. Checks that LMDB opens the same files.
fn open_files<'l>(dir: &Path, write: bool, locks: &'l Locks) -> Result<Opened<'l>> {
    let opening = locks.usable().map(LockFile::wait_to_open).transpose()?;
    locks.check_snapshot()?;
    let data = if write { data::open_for_writing(dir)? } else { data::open(dir)? };
    locks.usable().map_or(Ok(()), |file| file.reserve_blocks(write))?;
    let (env, map_bytes) = open_environment(dir, write)?;
    let files = OpenFiles::new(dir, locks, &data)?;
    let place = Place::of(&data)?;
    let env = UnsharedEnv::new(env).map_err(|err| open_error(dir, err))?;
    // LMDB opens the files by their names.
    if !files.are_unchanged() || !files.is_data_file(env.data_file()) {
        return Err(Error::Replaced);
    }
    Ok(Opened { env, map_bytes, files, place, opening })
}

/// Waits until no other process writes. The log must be open for writing.
fn wait_to_write(locks: &Locks) -> Result<Turn<'_>> {
    locks.usable().expect("a log that is open for writing has locks").wait_to_write()
}

/// Opens the tables. `None`: the log was not created yet, or a table is missing.
fn open_tables(env: &UnsharedEnv) -> lmdb::Result<Option<Tables>> {
    match env.open_tables(|open| Tables::open(open)) {
        Err(lmdb::Error::NotFound) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Whether the data file belongs to another program: it has tables, but none of those of a log, which one commit creates.
fn holds_other_tables(env: &UnsharedEnv) -> lmdb::Result<bool> {
    let names = env.table_names(2 * tables::COUNT as usize)?;
    Ok(!names.is_empty() && !names.iter().any(|name| NAMES.iter().any(|known| known.as_bytes() == name)))
}

/// Opens the environment with the largest memory map that fits into the address space. Also returns the size of the map in
/// bytes.
fn open_environment(dir: &Path, write: bool) -> Result<(Environment, usize)> {
    let mut flags = EnvironmentFlags::NO_TLS;
    flags.set(EnvironmentFlags::READ_ONLY, !write);
    let mut map_bytes = space::map_bytes(MAP_BYTES_MAX);
    loop {
        let opened = Environment::new()
            .set_flags(flags)
            .set_max_dbs(tables::COUNT)
            .set_max_readers(READERS_MAX)
            .set_map_size(map_bytes)
            .open_with_permissions(dir, 0o600);
        match opened {
            Err(lmdb::Error::Other(code)) if code == Errno::ENOMEM as i32 => {
                map_bytes /= 2;
                if map_bytes < MAP_BYTES_MIN {
                    return Err(Error::MapFull(map_bytes));
                }
            }
            opened => return opened.map(|env| (env, map_bytes)).map_err(|err| open_error(dir, err)),
        }
    }
}

fn open_error(dir: &Path, err: lmdb::Error) -> Error {
    if err == SAME_PROCESS_ID {
        return Error::SameProcessId(dir.to_path_buf());
    }
    lmdb_error(dir, "opened", err)
}
