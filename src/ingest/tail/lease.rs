//! Whether a process has a file open for writing: the kernel grants a lease for reading only if there is none.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{EAGAIN, F_RDLCK, F_SETLEASE, F_UNLCK, SIGURG, c_int, fcntl};

/// The command of fcntl(2) that sets the signal of a lease.
const F_SETSIG: c_int = 10;

/// Whether a process has `file` open for writing. `None`: the kernel does not say, because the file belongs to another user, or its
/// file system has no leases. `file` must be open for reading only.
pub fn has_writer(file: &File) -> Option<bool> {
    let fd = file.as_raw_fd();
    // A process that opens the file in between sends this signal, which is ignored by default. It waits until the lease ends.
    // SAFETY: these commands of fcntl(2) take a number, and the descriptor is open.
    unsafe { fcntl(fd, F_SETSIG, SIGURG) };
    // SAFETY: as above.
    if unsafe { fcntl(fd, F_SETLEASE, F_RDLCK) } == 0 {
        // SAFETY: as above.
        unsafe { fcntl(fd, F_SETLEASE, F_UNLCK) };
        return Some(false);
    }
    (Errno::last_raw() == EAGAIN).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_seen_until_it_closes_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let writer = File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(has_writer(&file), Some(true));
        drop(writer);
        assert_eq!(has_writer(&file), Some(false));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(has_writer(&file), Some(false));
    }
}
