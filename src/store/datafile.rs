//! The data file as a file: its own account of its length, and its identity.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, open};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::stat::Mode;
use nix::sys::statvfs::statvfs;

use super::bell;
use crate::error::{Error, Result, is_full};

/// LMDB's file in the directory of a log.
pub const NAME: &str = "data.mdb";

const META_BYTES: usize = 152;
/// LMDB's two meta pages, the first that it writes, where they are smallest.
const BYTES_MIN: u64 = 8192;
const LMDB_MAGIC: u32 = 0xbeef_c0de;

/// Whether there is a data file with something in it, and if so, that it is as long as its meta page says:
/// LMDB maps the file, and to touch a page beyond its end would be SIGBUS.
///
/// A meta page is: page header (16 bytes), magic u32, version u32, address u64, map size u64, two database records of
/// 48 bytes (the page size is the first field of the first), last page u64, transaction id u64. The newer of two counts.
pub fn check(dir: &Path) -> Result<bool> {
    let path = dir.join(NAME);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return if_never_made(dir, path, BYTES_MIN),
        Err(err) => return Err(Error::io(format!("{} cannot be opened", path.display()), err)),
    };
    let fail = |err| Error::io(format!("{} cannot be read", path.display()), err);
    // Another process may make it just now, or was killed while it did. The length before the pages: it may grow.
    if file.metadata().map_err(fail)?.len() == 0 {
        return if_never_made(dir, path, BYTES_MIN);
    }
    let Some((page_bytes, first)) = meta_at(&file, 0).map_err(fail)? else {
        return Err(Error::Corrupt(format!("{} is not a data file of a log", path.display())));
    };
    let second = meta_at(&file, page_bytes).map_err(fail)?;
    let newer = second.map_or(first, |(_, second)| if second.txn >= first.txn { second } else { first });
    // The length after the meta page: a writer writes its pages before its meta page.
    let (has, needs) = (file.metadata().map_err(fail)?.len(), (newer.last_page + 1).saturating_mul(page_bytes));
    match has {
        has if is_half_made(has, page_bytes, newer) => if_never_made(dir, path, needs),
        has if has < needs => Err(Error::Truncated(path, has, needs)),
        _ => Ok(true),
    }
}

/// Whether it is half of the first write of who makes it, of both meta pages, which are of transaction 0.
fn is_half_made(has: u64, page_bytes: u64, meta: Meta) -> bool {
    has == page_bytes && meta.txn == 0
}

/// Empties a data file whose maker ended half-way, so that another can begin. Only for who has the turn to open the log.
pub fn empty_half_made(dir: &Path) -> Result<()> {
    let path = dir.join(NAME);
    if dir.join(bell::NAME).exists() {
        return Ok(());
    }
    // What cannot be opened or read LMDB refuses.
    let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { return Ok(()) };
    match (file.metadata(), meta_at(&file, 0)) {
        (Ok(about), Ok(Some((page_bytes, meta)))) if is_half_made(about.len(), page_bytes, meta) => {
            file.set_len(0).map_err(|err| Error::io(format!("{} cannot be begun anew", path.display()), err))
        }
        _ => Ok(()),
    }
}

/// There was no data file of `needs` bytes: false, unless there is a bell, which is made once the log is.
fn if_never_made(dir: &Path, path: PathBuf, needs: u64) -> Result<bool> {
    if !dir.join(bell::NAME).exists() {
        return Ok(false);
    }
    // Another process may have made it since we looked.
    match path.metadata().map_or(0, |meta| meta.len()) {
        has if has < needs => Err(Error::Truncated(path, has, needs)),
        _ => check(dir),
    }
}

#[derive(Clone, Copy)]
struct Meta {
    last_page: u64,
    txn: u64,
}

/// Page size and meta page at `at`; `None` when there is none.
fn meta_at(file: &File, at: u64) -> io::Result<Option<(u64, Meta)>> {
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
    Ok(Some((u64::from(u32_at(40)), Meta { last_page: u64_at(136), txn: u64_at(144) })))
}

/// Device and inode of the data file: another pair than at its making means that it was copied or restored.
pub fn clone_marker(dir: &Path) -> Result<[u8; 16]> {
    let path = dir.join(NAME);
    let (device, inode) = inode(&path).map_err(|err| Error::io(format!("{} cannot be read", path.display()), err))?;
    let mut marker = [0; 16];
    marker[..8].copy_from_slice(&device.to_le_bytes());
    marker[8..].copy_from_slice(&inode.to_le_bytes());
    Ok(marker)
}

/// Which file or directory it is: its device, and its inode there.
pub fn inode(path: &Path) -> io::Result<(u64, u64)> {
    path.metadata().map(|meta| (meta.dev(), meta.ino()))
}

/// Bytes that the data file takes on the disk.
pub fn disk_bytes(dir: &Path) -> Result<u64> {
    let path = dir.join(NAME);
    let meta = path.metadata().map_err(|err| Error::io(format!("{} cannot be read", path.display()), err))?;
    Ok(meta.blocks() * 512)
}

/// The size for the map: `most`, or half of a limited address space (ulimit -v): the heap needs room, too.
pub fn map_bytes(most: usize) -> usize {
    match getrlimit(Resource::RLIMIT_AS) {
        Ok((limit, _)) if limit != RLIM_INFINITY => {
            let half = usize::try_from(limit / 2).unwrap_or(usize::MAX).max(2);
            most.min(1 << (half.ilog2()))
        }
        _ => most,
    }
}

/// LMDB tells a write that came out short as EIO. Finds out whether it was for want of space: `bytes` is about what was
/// to be written. If not, the error stays what it is.
pub fn explain(dir: &Path, err: Error, bytes: u64) -> Error {
    match err {
        Error::Io(_, cause) if cause.raw_os_error() == Some(Errno::EIO as i32) => match probe(dir, bytes) {
            Err(full) if is_full(full) => Error::DiskFull(full.into()),
            _ => Error::Io("the log cannot be written".into(), cause),
        },
        err => err,
    }
}

/// Asks the file system of the log for `bytes` more, in a file without a name. Never in the data file: others write it.
fn probe(dir: &Path, bytes: u64) -> Result<(), Errno> {
    let length = dir.join(NAME).metadata().map_or(0, |meta| meta.len());
    let bytes = bytes.max(1 << 20);
    if matches!(getrlimit(Resource::RLIMIT_FSIZE), Ok((limit, _)) if length + bytes > limit) {
        return Err(Errno::EFBIG);
    }
    let nameless = open(dir, OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::S_IRUSR | Mode::S_IWUSR);
    match nameless.and_then(|file| fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(bytes).unwrap_or(i64::MAX))) {
        Ok(()) => Ok(()),
        Err(err) if is_full(err) => Err(err),
        // Not every file system can do that: then the free blocks tell.
        Err(_) => match statvfs(dir) {
            Ok(free) if free.blocks_available() * free.fragment_size() < bytes => Err(Errno::ENOSPC),
            _ => Ok(()),
        },
    }
}
