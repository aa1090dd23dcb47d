//! Every `unsafe` of the project: the calls of LMDB that lmdb-rkv does not wrap, or leaves to the caller's care. What this
//! module gives out is safe to use.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::os::fd::BorrowedFd;
use std::ptr;

use lmdb::{Database, DatabaseFlags, Environment, RoTransaction, RwTransaction, Transaction, WriteFlags};
use lmdb_sys as ffi;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// An environment that was opened just now, and is used by nobody else in this process.
pub struct Fresh(Environment);

impl Fresh {
    /// Frees the reader slots of processes that are gone, and keeps the data file from children: LMDB opens it without
    /// O_CLOEXEC, and a COMMAND that we run must not get hold of it.
    pub fn new(env: Environment) -> Self {
        free_dead_readers(&env);
        let mut fd: c_int = -1;
        // SAFETY: the environment is open, so that it has a descriptor, which lives at least as long as this borrow of it.
        let fd = unsafe {
            ffi::mdb_env_get_fd(env.env(), &raw mut fd);
            BorrowedFd::borrow_raw(fd)
        };
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok();
        Self(env)
    }

    /// Opens tables by their names in one read transaction: `open` is given a function for that.
    pub fn open<T>(&self, open: impl FnOnce(&dyn Fn(&str) -> lmdb::Result<Database>) -> lmdb::Result<T>) -> lmdb::Result<T> {
        let txn: RoTransaction<'_> = self.0.begin_ro_txn()?;
        // SAFETY: no other transaction of this process uses the environment yet, and this one ends before the function.
        let tables = open(&|name| unsafe { txn.open_db(Some(name)) })?;
        // Handles opened in a transaction outlive it only when it is committed.
        txn.commit()?;
        Ok(tables)
    }

    /// Opens tables, and makes what is missing; they are good once the transaction is committed.
    pub fn make<T>(
        &self,
        make: impl FnOnce(&dyn Fn(&str, DatabaseFlags) -> lmdb::Result<Database>) -> lmdb::Result<T>,
    ) -> lmdb::Result<(RwTransaction<'_>, T)> {
        let txn = self.0.begin_rw_txn()?;
        // SAFETY: as in `open`; and only one write transaction exists at a time.
        let tables = make(&|name, flags| unsafe { txn.create_db(Some(name), flags) })?;
        Ok((txn, tables))
    }

    /// From now on anybody may use it.
    pub fn into_env(self) -> Environment {
        self.0
    }
}

/// Frees the reader slots of processes that are gone: what such a reader saw is kept for it, and the data file grows.
pub fn free_dead_readers(env: &Environment) {
    let mut dead: c_int = 0;
    // SAFETY: the environment is open; LMDB locks its table itself.
    unsafe { ffi::mdb_reader_check(env.env(), &raw mut dead) };
}

/// Whether a write transaction goes on from the newest meta page: LMDB takes the number of the last one from its lock file.
pub fn goes_on(env: &Environment, txn: &RwTransaction<'_>) -> bool {
    // SAFETY: the transaction is alive.
    let id = unsafe { ffi::mdb_txn_id(txn.txn()) };
    env.info().is_ok_and(|info| info.last_txnid() + 1 == id)
}

/// A write transaction with a cursor at the right edge of one table.
pub struct EdgeTxn<'e> {
    // Fields drop in this order: the cursor is closed before its transaction ends.
    cursor: EdgeCursor,
    txn: RwTransaction<'e>,
}

/// Owns the cursor; the [`EdgeTxn`] around it owns its transaction.
struct EdgeCursor(*mut ffi::MDB_cursor);

impl Drop for EdgeCursor {
    fn drop(&mut self) {
        // SAFETY: opened in `EdgeTxn::new`, closed only here, and before its transaction ends (field order; `commit`).
        unsafe { ffi::mdb_cursor_close(self.0) }
    }
}

impl<'e> EdgeTxn<'e> {
    /// With the cursor on `table`.
    pub fn new(txn: RwTransaction<'e>, table: Database) -> lmdb::Result<Self> {
        let mut cursor = ptr::null_mut();
        // SAFETY: the transaction is alive, and a table handle is a number that LMDB checks.
        let code = unsafe { ffi::mdb_cursor_open(txn.txn(), table.dbi(), &raw mut cursor) };
        checked(code)?;
        Ok(Self { cursor: EdgeCursor(cursor), txn })
    }

    /// Sets a row of any table.
    pub fn put(&mut self, table: Database, key: &[u8], value: &[u8], flags: WriteFlags) -> lmdb::Result<()> {
        self.txn.put(table, &key, &value, flags)
    }

    /// Adds a row behind the last one of the cursor's table; its value is `header` and `payload`.
    pub fn append(&mut self, key: &[u8], header: &[u8], payload: &[u8]) -> lmdb::Result<()> {
        let mut key = ffi::MDB_val { mv_size: key.len(), mv_data: key.as_ptr() as *mut c_void };
        let mut value = ffi::MDB_val { mv_size: header.len() + payload.len(), mv_data: ptr::null_mut() };
        // SAFETY: the cursor is of this live transaction; with MDB_RESERVE the call does not read `value.mv_data` but
        // points it to `mv_size` writable bytes of its own, which are filled before any other call of LMDB.
        unsafe {
            let flags = ffi::MDB_APPEND | ffi::MDB_RESERVE;
            checked(ffi::mdb_cursor_put(self.cursor.0, &raw mut key, &raw mut value, flags))?;
            let to = value.mv_data.cast::<u8>();
            ptr::copy_nonoverlapping(header.as_ptr(), to, header.len());
            ptr::copy_nonoverlapping(payload.as_ptr(), to.add(header.len()), payload.len());
        }
        Ok(())
    }
}

impl Transaction for EdgeTxn<'_> {
    fn txn(&self) -> *mut ffi::MDB_txn {
        self.txn.txn()
    }

    fn commit(self) -> lmdb::Result<()> {
        let Self { cursor, txn } = self;
        drop(cursor);
        txn.commit()
    }

    fn abort(self) {}
}

fn checked(code: c_int) -> lmdb::Result<()> {
    if code == ffi::MDB_SUCCESS { Ok(()) } else { Err(lmdb::Error::from_err_code(code)) }
}

/// Asks the processor for the rows behind this one in the order of the keys: LMDB fills a page from its end, and a scan waits
/// for memory longer than for all else.
pub fn prefetch_next(row: &[u8]) {
    /// Two rows of a usual log line.
    const AHEAD_BYTES: usize = 512;
    #[cfg(target_arch = "x86_64")]
    for at in (0..row.len().min(1024)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint; nothing happens at an address that is not mapped.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(at).wrapping_sub(AHEAD_BYTES).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (row, AHEAD_BYTES);
}
