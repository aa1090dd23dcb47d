//! The file `created`: it shows that a directory holds a log, also when the data file cannot be read. So a damaged log is not
//! created again.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::super::clock::now_millis;
use super::file;
use crate::model::{Error, PeerId, Result};

/// The file in the directory of a log.
pub const FILE_NAME: &str = "created";

/// Whether the file exists.
pub fn exists(dir: &Path) -> Result<bool> {
    file::check(dir, FILE_NAME)
}

/// Writes the file durably, unless it is there. The tables of the log must be durable already: otherwise, a kill in between
/// would leave a log without tables, which is refused as damaged.
///
/// An empty file is written again: the machine can fail before the content is on the disk. Two processes can write it at the
/// same time: they write the same bytes, except for the time, which has the same length.
pub fn write(dir: &Path, format: u32, id: &PeerId) -> Result<()> {
    let mut file = file::open_or_create(dir, FILE_NAME)?;
    let fail = |err| Error::io(format!("{} cannot be written", dir.join(FILE_NAME).display()), err);
    if file.metadata().map_err(fail)?.len() > 0 {
        return Ok(());
    }
    let content = format!("format {format}\nwritten {}\nid {}\n", now_millis(), id.as_str());
    let written = file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| File::open(dir)?.sync_all());
    written.map_err(fail)
}
