//! Space: on the disk, and in the address space of the process.

use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, open};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::stat::Mode;
use nix::sys::statvfs::statvfs;

use super::data;
use crate::model::{Error, Result, is_full};

/// The minimum space that [`probe`] asks for, in bytes.
const PROBE_BYTES_MIN: u64 = 1 << 20;

/// The size of the memory map in bytes: `max`, or at most half of a limited address space (ulimit -v), because the heap needs
/// space too.
pub fn map_bytes(max: usize) -> usize {
    match getrlimit(Resource::RLIMIT_AS) {
        Ok((limit, _)) if limit != RLIM_INFINITY => {
            let half = usize::try_from(limit / 2).unwrap_or(usize::MAX).max(2);
            max.min(1 << (half.ilog2()))
        }
        _ => max,
    }
}

/// Detects that a write failed because space ran out. LMDB reports a short write as EIO. If there is no space for about
/// `bytes` more, this returns [`Error::DiskFull`] instead. Other errors are returned unchanged.
pub fn explain_failed_write(dir: &Path, err: Error, bytes: u64) -> Error {
    match err {
        Error::Io(doing, cause) if cause.raw_os_error() == Some(Errno::EIO as i32) => match probe(dir, bytes) {
            Err(full) if is_full(full) => Error::DiskFull(full.into()),
            _ => Error::Io(doing, cause),
        },
        err => err,
    }
}

/// Tries to allocate `bytes` more in the file system, in an unnamed file. It does not use the data file, because other
/// processes write to it.
fn probe(dir: &Path, bytes: u64) -> Result<(), Errno> {
    let length = dir.join(data::FILE_NAME).metadata().map_or(0, |meta| meta.len());
    let bytes = bytes.max(PROBE_BYTES_MIN);
    if matches!(getrlimit(Resource::RLIMIT_FSIZE), Ok((limit, _)) if length + bytes > limit) {
        return Err(Errno::EFBIG);
    }
    let unnamed = open(dir, OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::S_IRUSR | Mode::S_IWUSR);
    match unnamed.and_then(|file| fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(bytes).unwrap_or(i64::MAX))) {
        Ok(()) => Ok(()),
        Err(err) if is_full(err) => Err(err),
        // Some file systems do not support unnamed files or fallocate(2): compare with the number of free blocks.
        Err(_) => match statvfs(dir) {
            Ok(free) if free.blocks_available() * free.fragment_size() < bytes => Err(Errno::ENOSPC),
            _ => Ok(()),
        },
    }
}
