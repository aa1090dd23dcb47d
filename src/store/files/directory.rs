//! The directory of a log.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::model::{Error, Result};

/// Checks that `dir` is a directory.
///
/// # Errors
/// [`Error::NoLog`] if it does not exist, [`Error::NotADirectory`] if it is something else.
pub fn check(dir: &Path) -> Result<()> {
    match fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Error::NotADirectory(dir.to_path_buf())),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Err(Error::NoLog(dir.to_path_buf())),
        Err(err) if err.kind() == io::ErrorKind::NotADirectory => Err(Error::NotADirectory(dir.to_path_buf())),
        Err(err) => Err(Error::io(format!("{} cannot be opened", dir.display()), err)),
    }
}

/// Creates `dir` and its missing parents. Returns the directories that did not exist.
pub fn create(dir: &Path) -> Result<Vec<PathBuf>> {
    match check(dir) {
        Err(Error::NoLog(_)) => {}
        checked => return checked.map(|()| Vec::new()),
    }
    let missing = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists());
    let missing = missing.map(Path::to_path_buf).collect();
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.map_err(|err| Error::io(format!("{} cannot be created", dir.display()), err))?;
    Ok(missing)
}

/// Makes the names of new files durable: the names of the log's files in `dir`, and the name of each new directory in its
/// parent.
/// `created` are the directories that [`create`] returned.
pub fn sync(dir: &Path, created: &[PathBuf]) -> Result<()> {
    let parents = created
        .iter()
        .map(PathBuf::as_path)
        .chain([dir])
        .filter_map(|dir| fs::canonicalize(dir).ok()?.parent().map(Path::to_path_buf));
    for dir in parents.chain([dir.to_path_buf()]) {
        File::open(&dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|err| Error::io(format!("{} cannot be synced", dir.display()), err))?;
    }
    Ok(())
}
