//! A process can open a log only once at a time. LMDB's locks belong to the process: if it closed one of two environments,
//! the locks of both would be released, and writers of other processes would no longer wait.
//!
//! The set of open logs is the only global state of the library.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::identity::FileId;
use crate::model::{Error, Result};

static OPEN_DIRS: Mutex<Option<HashSet<FileId>>> = Mutex::new(None);

fn open_dirs() -> MutexGuard<'static, Option<HashSet<FileId>>> {
    OPEN_DIRS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While this value exists, this process cannot open the log again.
pub struct OpenOnce(FileId);

impl OpenOnce {
    /// Registers the log in `dir` as open.
    ///
    /// # Errors
    /// [`Error::AlreadyOpen`] if this process has the log open.
    pub fn new(dir: &Path) -> Result<Self> {
        let id = FileId::of(dir).map_err(|err| Error::io(format!("{} cannot be opened", dir.display()), err))?;
        let is_first = open_dirs().get_or_insert_default().insert(id);
        if is_first { Ok(Self(id)) } else { Err(Error::AlreadyOpen(dir.to_path_buf())) }
    }
}

impl Drop for OpenOnce {
    fn drop(&mut self) {
        open_dirs().get_or_insert_default().remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Error, Log};

    #[test]
    fn a_process_cannot_open_a_log_twice_at_the_same_time() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        assert!(matches!(Log::open(dir.path()), Err(Error::AlreadyOpen(_))));
        assert!(matches!(Log::open_read_only(dir.path().join(".")), Err(Error::AlreadyOpen(_))));
        log.append(b"1").unwrap();
        drop(log);
        assert_eq!(Log::open(dir.path()).unwrap().heads().unwrap().len(), 1);
    }
}
