//! A process opens a log once: LMDB's locks are of the whole process, and closing one of two environments frees those of
//! both, after which writers of other processes no longer wait. The one piece of global state, for safety's sake.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::datafile;
use crate::error::{Error, Result};

/// Device and inode of a directory.
type Key = (u64, u64);

static OPEN: Mutex<Option<HashSet<Key>>> = Mutex::new(None);

fn open() -> MutexGuard<'static, Option<HashSet<Key>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, this process does not open the log in its directory again.
pub struct OpenOnce(Key);

impl OpenOnce {
    pub fn new(dir: &Path) -> Result<Self> {
        let key = datafile::inode(dir).map_err(|err| Error::io(format!("{} cannot be opened", dir.display()), err))?;
        if open().get_or_insert_default().insert(key) { Ok(Self(key)) } else { Err(Error::OpenTwice(dir.to_path_buf())) }
    }
}

impl Drop for OpenOnce {
    fn drop(&mut self) {
        open().get_or_insert_default().remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Error, Log};

    #[test]
    fn a_log_is_open_once_in_a_process() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        assert!(matches!(Log::open(dir.path()), Err(Error::OpenTwice(_))));
        assert!(matches!(Log::open_read_only(dir.path().join(".")), Err(Error::OpenTwice(_))));
        log.append(b"1").unwrap();
        drop(log);
        assert_eq!(Log::open(dir.path()).unwrap().heads().unwrap().len(), 1);
    }
}
