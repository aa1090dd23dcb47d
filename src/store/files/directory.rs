//! The directory of a log.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{created, data, lock};
use crate::model::{Error, Result};
use crate::store::{notify, pack};

/// All names in the directory of a log.
const LOG_NAMES: [&str; 6] =
    [data::FILE_NAME, data::NEW_FILE_NAME, lock::FILE_NAME, notify::FILE_NAME, created::FILE_NAME, pack::DIR_NAME];

/// A directory that a new file system has.
const LOST_AND_FOUND: &str = "lost+found";

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

/// Checks that a log can be created in the directory `dir`: it has no other files than those that a killed creator left. A
/// mistyped directory must not be filled with the files of a log.
///
/// # Errors
/// [`Error::NotEmpty`] if it has others.
pub fn check_unused(dir: &Path) -> Result<()> {
    let fail = |err| Error::io(format!("{} cannot be read", dir.display()), err);
    for file in fs::read_dir(dir).map_err(fail)? {
        let name = file.map_err(fail)?.file_name();
        if !LOG_NAMES.iter().chain([&LOST_AND_FOUND]).any(|known| name == **known) {
            return Err(Error::NotEmpty(dir.to_path_buf(), name));
        }
    }
    Ok(())
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
    parents.chain([dir.to_path_buf()]).try_for_each(|dir| sync_names(&dir))
}

/// Makes the names in `dir` durable.
pub fn sync_names(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|err| Error::io(format!("{} cannot be synced", dir.display()), err))
}
