//! All calls of LMDB that need `unsafe`: lmdb-rkv does not wrap them, or its wrapper has a condition that the caller must
//! meet. The items of this module are safe to use.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::atomic::{Ordering, fence};

use lmdb::{Database, DatabaseFlags, Environment, RoTransaction, RwTransaction, Transaction, WriteFlags};
use lmdb_sys as sys;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, raise};

/// An environment that was just opened. No other thread uses it yet.
pub struct UnsharedEnv(Environment);

impl UnsharedEnv {
    /// Frees the reader slots of processes that have ended, and sets FD_CLOEXEC on the data file. LMDB opens that file without
    /// O_CLOEXEC, and child processes must not inherit it.
    ///
    /// A failed assertion of LMDB becomes SIGBUS: data.mdb is damaged, and a read of another damaged page raises SIGBUS too. So
    /// a program needs only one handler.
    pub fn new(env: Environment) -> Self {
        // SAFETY: the environment is open, and the function lives as long as the program.
        unsafe { sys::mdb_env_set_assert(env.env(), Some(raise_bus_error)) };
        free_slots_of_dead_readers(&env);
        let env = Self(env);
        fcntl(env.data_file(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok();
        env
    }

    /// The data file.
    pub fn data_file(&self) -> BorrowedFd<'_> {
        let mut fd: c_int = -1;
        // SAFETY: the environment is open, so it has a descriptor, which lives at least as long as this borrow of it.
        unsafe {
            sys::mdb_env_get_fd(self.0.env(), &raw mut fd);
            BorrowedFd::borrow_raw(fd)
        }
    }

    /// Opens tables in one read transaction. `open` receives a function that opens a table by its name.
    pub fn open_tables<T>(
        &self,
        open: impl FnOnce(&dyn Fn(&str) -> lmdb::Result<Database>) -> lmdb::Result<T>,
    ) -> lmdb::Result<T> {
        let txn: RoTransaction<'_> = self.0.begin_ro_txn()?;
        // SAFETY: no other transaction of this process uses the environment yet, and this one ends before the function.
        let tables = open(&|name| unsafe { txn.open_db(Some(name)) })?;
        // Handles outlive the transaction that opened them only if it is committed.
        txn.commit()?;
        Ok(tables)
    }

    /// Opens tables, and creates the missing ones, in one write transaction. The handles are valid after it is committed.
    pub fn create_tables<T>(
        &self,
        create: impl FnOnce(&dyn Fn(&str, DatabaseFlags) -> lmdb::Result<Database>) -> lmdb::Result<T>,
    ) -> lmdb::Result<(RwTransaction<'_>, T)> {
        let txn = self.0.begin_rw_txn()?;
        // SAFETY: as in `open_tables`; and only one write transaction exists at a time.
        let tables = create(&|name, flags| unsafe { txn.create_db(Some(name), flags) })?;
        Ok((txn, tables))
    }

    /// Returns the environment, which other threads may use from now on.
    pub fn into_shared(self) -> Environment {
        self.0
    }
}

/// The function of LMDB's failed assertions. If it returned, LMDB would print its source line and abort.
unsafe extern "C" fn raise_bus_error(_: *mut sys::MDB_env, _: *const c_char) {
    raise(Signal::SIGBUS).ok();
}

/// Frees the reader slots of processes that have ended. LMDB does not reuse the pages of a dead reader's snapshot, so the
/// data file would grow.
pub fn free_slots_of_dead_readers(env: &Environment) {
    let mut dead: c_int = 0;
    // SAFETY: the environment is open; LMDB locks its table itself.
    unsafe { sys::mdb_reader_check(env.env(), &raw mut dead) };
}

/// The number of the transaction. Of a read transaction: the number of the commit that it sees. Of a write transaction: one
/// more.
pub fn number(txn: &impl Transaction) -> u64 {
    // SAFETY: the transaction is alive.
    unsafe { sys::mdb_txn_id(txn.txn()) as u64 }
}

/// Whether the write transaction continues from the newest commit in the data file. LMDB takes the number of the last commit
/// from the lock file, which may not belong to this data file.
pub fn continues_newest_commit(env: &Environment, txn: &RwTransaction<'_>) -> bool {
    env.info().is_ok_and(|info| info.last_txnid() as u64 + 1 == number(txn))
}

/// Whether the map of the data file contains the commit that the transaction should see. LMDB takes the number of this commit
/// from the lock file. On overlayfs, the map of a reader keeps showing the file of the lower layer after a writer has opened
/// the log, although device and inode stay the same.
pub fn sees_newest_commit(env: &Environment, txn: &RoTransaction<'_>) -> bool {
    let number = number(txn);
    // A writer writes the commit to the data file before it writes the number to the lock file: read them in the other order.
    fence(Ordering::Acquire);
    env.info().is_ok_and(|info| info.last_txnid() as u64 >= number)
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
