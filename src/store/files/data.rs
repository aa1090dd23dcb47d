//! The data file of LMDB: whether it is complete, and its size on the disk.
//!
//! A data file that is shorter than its meta page says was truncated. LMDB writes every page that its meta page counts as long as
//! no rows are removed. After the first removal it may count pages at the end that it has not written, so every commit makes
//! the file long enough before ([`lengthen`]).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{created, directory, file};
use crate::model::{Error, Result, is_full};
use crate::store::notify;

/// The file in the directory of a log.
pub const FILE_NAME: &str = "data.mdb";
/// A new data file that is not complete yet.
pub const NEW_FILE_NAME: &str = "data.mdb.new";

/// The number of bytes that are read of a meta page.
const META_BYTES: usize = 152;
/// The position of the transaction number in a meta page.
const META_TXN_AT: u64 = 144;
/// LMDB writes its two meta pages first. This is their length with the smallest page size.
const BYTES_MIN: u64 = 8192;
const LMDB_MAGIC: u32 = 0xbeef_c0de;
/// LMDB takes the page size of the system. It divides by it, and cannot use a larger one.
const PAGE_BYTES: RangeInclusive<u64> = BYTES_MIN / 2..=1 << 15;

/// Whether the log in `dir` was created. If it was, all its tables exist, or it is damaged.
///
/// Also checks that the data file is as long as its newer meta page says: LMDB maps the file, and a read beyond its end would
/// raise SIGBUS. Also checks that the data file is not older than the file `bell`.
///
/// # Errors
/// [`Error::Truncated`] if the file is too short, [`Error::CommitsLost`] if it is too old, [`Error::Corrupt`] if it is not a
/// data file.
pub fn check(dir: &Path) -> Result<bool> {
    let path = dir.join(FILE_NAME);
    // The bell is read before the data file: a commit in between makes only the data file newer.
    let bell = notify::last_commit(dir)?;
    let Some(file) = file::open(dir, FILE_NAME)? else {
        return check_never_created(dir, path, BYTES_MIN);
    };
    let fail = |err| Error::io(format!("{} cannot be read", path.display()), err);
    // If the file is empty, another process is creating the log, or was killed while it created it. The length is read before
    // the pages, because the file may grow.
    if file.metadata().map_err(fail)?.len() == 0 {
        return check_never_created(dir, path, BYTES_MIN);
    }
    let damaged = |what| Error::Corrupt(format!("{} {what}", path.display()));
    let meta_page_at = |at| read_meta_page(&file, at).map_err(fail);
    let (page_bytes, first) = meta_page_at(0)?.ok_or_else(|| damaged("is not a data file of a log"))?;
    let contradiction = || damaged("has meta pages that contradict each other");
    let (other_bytes, second) = match meta_page_at(page_bytes)? {
        Some(second) => second,
        None if file.metadata().map_err(fail)?.len() >= 2 * page_bytes => return Err(contradiction()),
        None => (page_bytes, first),
    };
    let (older, newer) = if second.txn >= first.txn { (first, second) } else { (second, first) };
    // With wrong values, LMDB crashes, or a writer writes over pages that are in use.
    if page_bytes != other_bytes || !PAGE_BYTES.contains(&page_bytes) || newer.last_page < older.last_page {
        return Err(contradiction());
    }
    // The length is read after the meta pages, because a writer writes its other pages before its meta page.
    let (has, needs) = (file.metadata().map_err(fail)?.len(), (newer.last_page + 1).saturating_mul(page_bytes));
    match has {
        has if is_half_created(has, page_bytes, newer) => check_never_created(dir, path, needs),
        has if has < needs => Err(Error::Truncated(path, has, needs)),
        _ if bell.is_some_and(|bell| newer.txn < bell) => Err(Error::CommitsLost(path)),
        _ => Ok(newer.txn > 0 || was_created(dir)?),
    }
}

/// Whether the file is half of LMDB's first write. That write has both meta pages, of transaction 0.
fn is_half_created(has: u64, page_bytes: u64, meta: MetaPage) -> bool {
    has == page_bytes && meta.txn == 0
}

/// Opens the data file for reading.
///
/// # Errors
/// [`Error::NoLog`] if it does not exist.
pub fn open(dir: &Path) -> Result<File> {
    file::open(dir, FILE_NAME)?.ok_or_else(|| Error::NoLog(dir.to_path_buf()))
}

/// Opens the data file for writing, and creates it if it is missing. Empties it if its creator was killed halfway, so that
/// this process can create the log. The caller must hold the lock for opening.
pub fn open_for_writing(dir: &Path) -> Result<File> {
    let file = file::open_or_create(dir, FILE_NAME)?;
    if was_created(dir)? {
        return Ok(file);
    }
    match (file.metadata(), read_meta_page(&file, 0)) {
        (Ok(about), Ok(Some((page_bytes, meta)))) if is_half_created(about.len(), page_bytes, meta) => {
            let path = dir.join(FILE_NAME);
            file.set_len(0).map_err(|err| Error::io(format!("{} cannot be emptied", path.display()), err))?;
        }
        // If the file cannot be read, LMDB reports it.
        _ => {}
    }
    Ok(file)
}

/// Whether a file exists that a log gets only after its tables are durable. Does not look at the data file.
pub fn was_created(dir: &Path) -> Result<bool> {
    Ok(created::exists(dir)? || file::check(dir, notify::FILE_NAME)?)
}

/// Handles a data file of fewer than `needs` bytes. Returns false if the log was never created, else an error.
fn check_never_created(dir: &Path, path: PathBuf, needs: u64) -> Result<bool> {
    if !was_created(dir)? {
        return Ok(false);
    }
    // Another process may have created the log since the file was read.
    match path.metadata().map_or(0, |meta| meta.len()) {
        has if has < needs => Err(Error::Truncated(path, has, needs)),
        _ => check(dir),
    }
}

/// The fields of a meta page that are used.
#[derive(Clone, Copy)]
struct MetaPage {
    /// The number of the last page, from 0.
    last_page: u64,
    /// The number of the transaction that wrote it.
    txn: u64,
}

/// Reads the page size and the meta page at `at`. Returns `None` if the file has no meta page there.
///
/// A meta page is: page header (16 bytes), magic u32, version u32, address u64, map size u64, two database records of
/// 48 bytes (the page size is the first field of the first), last page u64, transaction id u64.
fn read_meta_page(file: &File, at: u64) -> io::Result<Option<(u64, MetaPage)>> {
    let mut page = [0; META_BYTES];
    match file.read_exact_at(&mut page, at) {
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let u32_at = |at: usize| u32::from_ne_bytes(page[at..at + 4].try_into().expect("4 bytes"));
    let u64_at = |at: usize| u64::from_ne_bytes(page[at..at + 8].try_into().expect("8 bytes"));
    if u32_at(16) != LMDB_MAGIC {
        return Ok(None);
    }
    Ok(Some((u64::from(u32_at(40)), MetaPage { last_page: u64_at(136), txn: u64_at(META_TXN_AT as usize) })))
}

/// Makes the data file at least `bytes` long, without using space. The caller must hold the lock for writing.
///
/// # Errors
/// [`Error::DiskFull`] if the file may not be so long.
pub fn lengthen(dir: &Path, bytes: u64) -> Result<()> {
    let path = dir.join(FILE_NAME);
    let fail = |err| Error::io(format!("{} cannot be made longer", path.display()), err);
    if path.metadata().map_err(fail)?.len() >= bytes {
        return Ok(());
    }
    match file::open_or_create(dir, FILE_NAME)?.set_len(bytes) {
        Err(err) if err.raw_os_error().is_some_and(|code| is_full(Errno::from_raw(code))) => Err(Error::DiskFull(err)),
        lengthened => lengthened.map_err(fail),
    }
}

/// Replaces the data file by the file that `write` writes. No process may have the log open.
///
/// `write` receives the path of the new file, which is empty and has the right owner, and must make it durable. If the power
/// fails before the new file has its name, the old file is unchanged, and the next call empties the new file.
pub fn replace(dir: &Path, write: impl FnOnce(&Path, &File) -> Result<()>) -> Result<()> {
    let new = dir.join(NEW_FILE_NAME);
    let fail = |err| Error::io(format!("{} cannot be written", new.display()), err);
    let file = file::open_or_create(dir, NEW_FILE_NAME)?;
    file::copy_access(&dir.join(FILE_NAME), &file)?;
    let written = file.set_len(0).map_err(fail).and_then(|()| write(&new, &file));
    let replaced = written.and_then(|()| fs::rename(&new, dir.join(FILE_NAME)).map_err(fail));
    if replaced.is_err() {
        fs::remove_file(&new).ok();
    }
    replaced.and_then(|()| directory::sync_names(dir))
}

/// Adds `count` to the numbers of the two last transactions in the data file `path`, which no process may have open, and
/// makes the file durable.
pub fn raise_numbers(path: &Path, count: u64) -> Result<()> {
    let fail = |err| Error::io(format!("{} cannot be written", path.display()), err);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
    let (mut at, missing) = (0, || Error::Corrupt(format!("{} has no meta page", path.display())));
    for _ in 0..2 {
        let (page_bytes, meta) = read_meta_page(&file, at).map_err(fail)?.ok_or_else(missing)?;
        file.write_all_at(&(meta.txn + count).to_ne_bytes(), at + META_TXN_AT).map_err(fail)?;
        at = page_bytes;
    }
    file.sync_all().map_err(fail)
}

/// The disk space of the data file, in bytes.
pub fn disk_bytes(dir: &Path) -> Result<u64> {
    let path = dir.join(FILE_NAME);
    let meta = path.metadata().map_err(|err| Error::io(format!("{} cannot be read", path.display()), err))?;
    Ok(meta.blocks() * 512)
}
