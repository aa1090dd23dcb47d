//! The file `created`: it shows that a directory holds a log, also when the data file cannot be read. So a damaged log is not
//! created again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::{Error, PeerId, Result};

/// The file in the directory of a log.
pub const FILE_NAME: &str = "created";

/// Whether the file exists.
pub fn exists(dir: &Path) -> bool {
    dir.join(FILE_NAME).exists()
}

/// Writes the file durably, unless it is there. The tables of the log must be durable already: otherwise, a kill in between
/// would leave a log without tables, which is refused as damaged.
///
/// An empty file is written again: the machine can fail before the content is on the disk. Two processes can write it at the
/// same time: they write the same bytes, except for the time, which has the same length.
pub fn write(dir: &Path, format: u32, id: &PeerId) -> Result<()> {
    let path = dir.join(FILE_NAME);
    if path.metadata().is_ok_and(|meta| meta.len() > 0) {
        return Ok(());
    }
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let content = format!("format {format}\nwritten {millis}\nid {}\n", id.as_str());
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let written = file.and_then(|mut file| {
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        File::open(dir)?.sync_all()
    });
    written.map_err(|err| Error::io(format!("{} cannot be written", path.display()), err))
}
