//! All calls of LMDB that need `unsafe`: lmdb-rkv does not wrap them, or its wrapper has a condition that the caller must
//! meet. The items of this module are safe to use.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Mutex, PoisonError};

use lmdb::{Cursor, Database, DatabaseFlags, Environment, RoTransaction, RwTransaction, Transaction, WriteFlags};
use lmdb_sys as sys;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, raise};
use nix::unistd::{SysconfVar, sysconf};

use super::tables::COUNT;
use crate::store::files::lock::READERS_MAX;

/// An open environment.
pub struct SharedEnv {
    env: Environment,
    /// Read transactions that have ended. Each keeps its slot in the table of readers.
    idle: Mutex<Vec<IdleTxn>>,
    has_own_number: bool,
}

/// A read transaction that was reset. [`SharedEnv`] ends it.
struct IdleTxn(*mut sys::MDB_txn);

// SAFETY: with MDB_NOTLS, a read transaction belongs to no thread. Only one thread at a time can take it from the list.
unsafe impl Send for IdleTxn {}

/// The error of LMDB if another process with the same process id has a slot in the table of readers.
pub const SAME_PROCESS_ID: lmdb::Error = lmdb::Error::Other(Errno::EAGAIN as c_int);

/// The numbers for processes whose process id is in use. No process has such an id.
const NUMBER_MIN: u32 = 1 << 22;

/// The places of fields at the start of LMDB's environment, counted in fields of 4 bytes. They are the same in all versions
/// 0.9 of LMDB: three descriptors, flags, two page sizes, maximum of readers, slots to clear, tables, maximum of tables,
/// process id.
mod field {
    pub const DATA_FILE: usize = 0;
    pub const PAGE_BYTES: usize = 5;
    pub const SLOTS_TO_CLEAR: usize = 7;
    pub const TABLES_MAX: usize = 9;
    pub const PROCESS_ID: usize = 10;
}

impl SharedEnv {
    /// Begins a read transaction with the slot of an earlier one. Returns `None` if all slots of this process are in use.
    pub fn begin_again(&self) -> Option<lmdb::Result<Snapshot<'_>>> {
        let IdleTxn(txn) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        // SAFETY: the transaction was reset and not ended, and no other thread has it any more.
        let renewed = check_code(unsafe { sys::mdb_txn_renew(txn) });
        if renewed.is_err() {
            // SAFETY: as above. It is not used again: its slot may belong to another process now.
            unsafe { sys::mdb_txn_abort(txn) };
        }
        Some(renewed.map(|()| Snapshot { env: self, txn }))
    }

    /// Begins a read transaction with a new slot. The caller must hold the lock for opening: LMDB's own lock of its table of
    /// readers has the same weakness between containers as its lock of the writers.
    pub fn begin_first(&self) -> lmdb::Result<Snapshot<'_>> {
        let mut txn = ptr::null_mut();
        // SAFETY: the environment is open.
        check_code(unsafe { sys::mdb_txn_begin(self.env.env(), ptr::null_mut(), sys::MDB_RDONLY, &raw mut txn) })?;
        Ok(Snapshot { env: self, txn })
    }

    /// The number of the newest transaction in the data file.
    pub fn newest_txn(&self) -> lmdb::Result<u64> {
        self.env.info().map(|info| info.last_txnid() as u64)
    }

    /// The length of all pages of the data file, in bytes.
    pub fn pages_bytes(&self) -> lmdb::Result<u64> {
        Ok((self.env.info()?.last_pgno() as u64 + 1) * u64::from(self.env.stat()?.page_size()))
    }

    /// Begins a write transaction. Waits until other writers have ended their transactions.
    pub fn begin_write(&self) -> lmdb::Result<RwTransaction<'_>> {
        self.env.begin_rw_txn()
    }

    /// Frees the reader slots of processes that have ended. LMDB does not reuse the pages of a dead reader's snapshot, so the
    /// data file would grow. The caller must hold the lock for opening.
    pub fn free_slots_of_dead_readers(&self) {
        let mut dead: c_int = 0;
        // SAFETY: the environment is open; LMDB locks its table itself.
        unsafe { sys::mdb_reader_check(self.env.env(), &raw mut dead) };
    }

    /// Takes the environment back. As its owner, the caller is the only user.
    pub fn into_unshared(self) -> UnsharedEnv {
        UnsharedEnv(self)
    }

    /// The fields at the start of the environment, or `None` if they are not where they are expected.
    fn fields(&self) -> Option<*mut u32> {
        let (fields, mut fd) = (self.env.env().cast::<u32>(), -1);
        // SAFETY: the environment is open. It is longer than these fields.
        let found = unsafe {
            sys::mdb_env_get_fd(self.env.env(), &raw mut fd);
            [field::DATA_FILE, field::PAGE_BYTES, field::TABLES_MAX, field::PROCESS_ID].map(|at| i64::from(fields.add(at).read()))
        };
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        // LMDB has two tables of its own.
        let expected = [i64::from(fd), page_bytes?, i64::from(COUNT) + 2, i64::from(std::process::id())];
        (found == expected).then_some(fields)
    }
}

impl Drop for SharedEnv {
    fn drop(&mut self) {
        for IdleTxn(txn) in self.idle.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // SAFETY: the transaction was reset and not ended. This frees its slot.
            unsafe { sys::mdb_txn_abort(txn) };
        }
        if self.has_own_number {
            // SAFETY: the fields were found before the number was set. LMDB would clear the slots with the process id of this
            // process. These slots belong to a process in another container.
            unsafe { self.env.env().cast::<u32>().add(field::SLOTS_TO_CLEAR).write(0) };
        }
    }
}

/// A read transaction. It must be short: LMDB cannot reuse the pages that it sees.
pub struct Snapshot<'e> {
    env: &'e SharedEnv,
    txn: *mut sys::MDB_txn,
}

impl Transaction for Snapshot<'_> {
    fn txn(&self) -> *mut sys::MDB_txn {
        self.txn
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        // SAFETY: the transaction is alive. A reset ends the snapshot and keeps the slot.
        unsafe { sys::mdb_txn_reset(self.txn) };
        self.env.idle.lock().unwrap_or_else(PoisonError::into_inner).push(IdleTxn(self.txn));
    }
}

/// An environment that was just opened. No other thread uses it yet.
pub struct UnsharedEnv(SharedEnv);

impl UnsharedEnv {
    /// Takes a slot in the table of readers, and frees those of processes that have ended. Sets FD_CLOEXEC on the data file:
    /// LMDB opens that file without O_CLOEXEC, and child processes must not inherit it. The caller must hold the lock for
    /// opening.
    ///
    /// A failed assertion of LMDB becomes SIGBUS: data.mdb is damaged, and a read of another damaged page raises SIGBUS too. So
    /// a program needs only one handler.
    ///
    /// # Errors
    /// [`SAME_PROCESS_ID`] if a process in another container has the same process id, and LMDB is of an unknown version.
    pub fn new(env: Environment) -> lmdb::Result<Self> {
        // SAFETY: the environment is open, and the function lives as long as the program.
        unsafe { sys::mdb_env_set_assert(env.env(), Some(raise_bus_error)) };
        let mut env = Self(SharedEnv { env, idle: Mutex::new(Vec::new()), has_own_number: false });
        fcntl(env.data_file(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok();
        env.free_slots_of_all_dead_readers();
        match env.0.begin_first().map(drop) {
            Err(SAME_PROCESS_ID) => env.take_a_number()?,
            begun => begun?,
        }
        Ok(env)
    }

    /// As [`SharedEnv::free_slots_of_dead_readers`], also with the process id of this process: the first process of each
    /// container has the id 1.
    fn free_slots_of_all_dead_readers(&mut self) {
        let number = self.0.fields().map(|fields| {
            // SAFETY: the fields were found, and no other thread uses the environment.
            unsafe { fields.add(field::PROCESS_ID).replace(0) }
        });
        self.0.free_slots_of_dead_readers();
        if let Some(number) = number {
            // SAFETY: as above.
            unsafe { self.0.env.env().cast::<u32>().add(field::PROCESS_ID).write(number) };
        }
    }

    /// Takes the first free number in place of the process id.
    fn take_a_number(&mut self) -> lmdb::Result<()> {
        let fields = self.0.fields().ok_or(SAME_PROCESS_ID)?;
        self.0.has_own_number = true;
        let taken = (NUMBER_MIN..NUMBER_MIN + READERS_MAX).find_map(|number| {
            // SAFETY: the fields were found, no other thread uses the environment, and it has no slot yet.
            unsafe { fields.add(field::PROCESS_ID).write(number) };
            match self.0.begin_first().map(drop) {
                Err(SAME_PROCESS_ID) => None,
                begun => Some(begun),
            }
        });
        taken.unwrap_or(Err(lmdb::Error::ReadersFull))
    }

    /// The data file.
    pub fn data_file(&self) -> BorrowedFd<'_> {
        let mut fd: c_int = -1;
        // SAFETY: the environment is open, so it has a descriptor, which lives at least as long as this borrow of it.
        unsafe {
            sys::mdb_env_get_fd(self.0.env.env(), &raw mut fd);
            BorrowedFd::borrow_raw(fd)
        }
    }

    /// Opens tables in one read transaction. `open` receives a function that opens a table by its name.
    pub fn open_tables<T>(
        &self,
        open: impl FnOnce(&dyn Fn(&str) -> lmdb::Result<Database>) -> lmdb::Result<T>,
    ) -> lmdb::Result<T> {
        let txn: RoTransaction<'_> = self.0.env.begin_ro_txn()?;
        // SAFETY: no other transaction of this process uses the environment yet, and this one ends before the function.
        let tables = open(&|name| unsafe { txn.open_db(Some(name)) })?;
        // Handles outlive the transaction that opened them only if it is committed.
        txn.commit()?;
        Ok(tables)
    }

    /// The number of the newest transaction in the data file.
    pub fn newest_txn(&self) -> lmdb::Result<u64> {
        self.0.newest_txn()
    }

    /// The number of pages in the data file, the number of free ones among them, and the length of a page in bytes.
    pub fn pages(&self) -> lmdb::Result<(u64, u64, u64)> {
        let (pages, free) = (self.0.env.info()?.last_pgno() + 1, self.0.env.freelist()?);
        Ok((pages as u64, free as u64, u64::from(self.0.env.stat()?.page_size())))
    }

    /// The names of the first `max` tables, read in their order in the file: names that LMDB does not find are among them too.
    pub fn table_names(&self, max: usize) -> lmdb::Result<Vec<Vec<u8>>> {
        let txn: RoTransaction<'_> = self.0.env.begin_ro_txn()?;
        // SAFETY: as in `open_tables`.
        let main = unsafe { txn.open_db(None)? };
        let cursor = txn.open_ro_cursor(main)?;
        let (mut names, mut op) = (Vec::new(), sys::MDB_FIRST);
        while names.len() < max
            && let Ok((Some(name), _)) = cursor.get(None, None, op)
        {
            names.push(name.to_vec());
            op = sys::MDB_NEXT;
        }
        Ok(names)
    }

    /// Begins a read transaction.
    pub fn begin_read(&self) -> lmdb::Result<RoTransaction<'_>> {
        self.0.env.begin_ro_txn()
    }

    /// Begins a write transaction.
    pub fn begin_write(&self) -> lmdb::Result<RwTransaction<'_>> {
        self.0.begin_write()
    }

    /// Opens tables, and creates the missing ones, in one write transaction. The handles are valid after it is committed.
    pub fn create_tables<T>(
        &self,
        create: impl FnOnce(&dyn Fn(&str, DatabaseFlags) -> lmdb::Result<Database>) -> lmdb::Result<T>,
    ) -> lmdb::Result<(RwTransaction<'_>, T)> {
        let txn = self.0.begin_write()?;
        // SAFETY: as in `open_tables`; and only one write transaction exists at a time.
        let tables = create(&|name, flags| unsafe { txn.create_db(Some(name), flags) })?;
        Ok((txn, tables))
    }

    /// Returns the environment, which other threads may use from now on.
    pub fn into_shared(self) -> SharedEnv {
        self.0
    }
}

/// The function of LMDB's failed assertions. If it returned, LMDB would print its source line and abort.
unsafe extern "C" fn raise_bus_error(_: *mut sys::MDB_env, _: *const c_char) {
    raise(Signal::SIGBUS).ok();
}

/// The number of the transaction. Of a read transaction: the number of the commit that it sees. Of a write transaction: one
/// more.
pub fn number(txn: &impl Transaction) -> u64 {
    // SAFETY: the transaction is alive.
    unsafe { sys::mdb_txn_id(txn.txn()) as u64 }
}

/// Whether the write transaction continues from the newest commit in the data file. LMDB takes the number of the last commit
/// from the lock file, which may not belong to this data file.
pub fn continues_newest_commit(env: &SharedEnv, txn: &RwTransaction<'_>) -> bool {
    env.newest_txn().is_ok_and(|newest| newest + 1 == number(txn))
}

/// Whether the map of the data file contains the commit that the transaction should see. LMDB takes the number of this commit
/// from the lock file. On overlayfs, the map of a reader keeps showing the file of the lower layer after a writer has opened
/// the log, although device and inode stay the same.
pub fn sees_newest_commit(snapshot: &Snapshot<'_>) -> bool {
    let number = number(snapshot);
    // A writer writes the commit to the data file before it writes the number to the lock file: read them in the other order.
    fence(Ordering::Acquire);
    snapshot.env.newest_txn().is_ok_and(|newest| newest >= number)
}

/// A write transaction that can append rows to one table through a cursor.
pub struct AppendTxn<'e> {
    // Fields are dropped in this order: the cursor is closed before its transaction ends.
    cursor: AppendCursor,
    txn: RwTransaction<'e>,
}

/// Owns the cursor. Its transaction belongs to the [`AppendTxn`] that contains it.
struct AppendCursor(*mut sys::MDB_cursor);

impl Drop for AppendCursor {
    fn drop(&mut self) {
        // SAFETY: opened in `AppendTxn::new`, closed only here, and before its transaction ends (field order; `commit`).
        unsafe { sys::mdb_cursor_close(self.0) }
    }
}

impl<'e> AppendTxn<'e> {
    /// A transaction that appends rows to `table`.
    pub fn new(txn: RwTransaction<'e>, table: Database) -> lmdb::Result<Self> {
        let mut cursor = ptr::null_mut();
        // SAFETY: the transaction is alive, and a table handle is a number that LMDB checks.
        let code = unsafe { sys::mdb_cursor_open(txn.txn(), table.dbi(), &raw mut cursor) };
        check_code(code)?;
        Ok(Self { cursor: AppendCursor(cursor), txn })
    }

    /// Adds or replaces a row of any table.
    pub fn set(&mut self, table: Database, key: &[u8], value: &[u8], flags: WriteFlags) -> lmdb::Result<()> {
        self.txn.put(table, &key, &value, flags)
    }

    /// Removes a row of any table.
    pub fn remove(&mut self, table: Database, key: &[u8]) -> lmdb::Result<()> {
        self.txn.del(table, &key, None)
    }

    /// Appends a row after the last one. Its value is `header` and then `payload`.
    pub fn append(&mut self, key: &[u8], header: &[u8], payload: &[u8]) -> lmdb::Result<()> {
        let mut key = sys::MDB_val { mv_size: key.len(), mv_data: key.as_ptr() as *mut c_void };
        let mut value = sys::MDB_val { mv_size: header.len() + payload.len(), mv_data: ptr::null_mut() };
        // SAFETY: the cursor belongs to this live transaction. With MDB_RESERVE the call does not read `value.mv_data`. It
        // sets it to `mv_size` writable bytes, which are filled before any other call of LMDB.
        unsafe {
            let flags = sys::MDB_APPEND | sys::MDB_RESERVE;
            check_code(sys::mdb_cursor_put(self.cursor.0, &raw mut key, &raw mut value, flags))?;
            let to = value.mv_data.cast::<u8>();
            ptr::copy_nonoverlapping(header.as_ptr(), to, header.len());
            ptr::copy_nonoverlapping(payload.as_ptr(), to.add(header.len()), payload.len());
        }
        Ok(())
    }
}

impl Transaction for AppendTxn<'_> {
    fn txn(&self) -> *mut sys::MDB_txn {
        self.txn.txn()
    }

    fn commit(self) -> lmdb::Result<()> {
        let Self { cursor, txn } = self;
        drop(cursor);
        txn.commit()
    }

    fn abort(self) {}
}

fn check_code(code: c_int) -> lmdb::Result<()> {
    if code == sys::MDB_SUCCESS { Ok(()) } else { Err(lmdb::Error::from_err_code(code)) }
}
