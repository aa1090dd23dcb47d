//! The positions in the files that `append --follow` reads. They are rows of the log, in the transaction of the entries that were
//! read.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use super::rows::FollowedFile;
use super::{Log, Writer};
use crate::model::{Error, Result};

/// The maximum length of the path of a followed file, in bytes. A key of LMDB has at most 511 bytes.
pub const FOLLOWED_PATH_BYTES_MAX: usize = 500;

impl Log {
    /// The row of a followed path, as scuttleup-store(5) describes it. `None`: it was never followed.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn followed(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        Ok(self.env.read()?.followed(path.as_os_str().as_bytes())?.map(<[u8]>::to_vec))
    }
}

impl Writer<'_> {
    /// Sets the row of a followed path. `known` is the row as this process has read or written it last.
    ///
    /// # Errors
    /// [`Error::FollowedElsewhere`] if the log holds another row; when the log cannot be written.
    pub fn set_followed(&mut self, path: &Path, known: Option<&[u8]>, row: &[u8]) -> Result<()> {
        if self.txn.followed(path.as_os_str().as_bytes())? != known {
            return Err(Error::FollowedElsewhere(path.to_path_buf()));
        }
        self.txn.set_followed(path.as_os_str().as_bytes(), row)?;
        self.other_bytes += row.len() as u64;
        self.changed = true;
        Ok(())
    }
}
