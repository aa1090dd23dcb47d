//! A file to which lines are added that are nowhere else, such as lines that a command leaves out.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Result;
use scuttleup::Error;

use crate::cli::exit::OutputFull;

/// An open file. Lines are added at its end.
pub struct AppendedFile {
    file: File,
    name: String,
    is_on_disk: bool,
}

impl AppendedFile {
    /// Opens the file and creates it if it does not exist.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = open_file(path).map_err(|err| Error::io(format!("{name} cannot be opened"), err))?;
        let is_on_disk = file.metadata().is_ok_and(|meta| meta.is_file());
        Ok(Self { file, name, is_on_disk })
    }

    /// The path, as messages name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds whole lines.
    ///
    /// # Errors
    /// [`OutputFull`] if there is no space for the file; when it cannot be written. A reader that closed it is an error.
    pub fn write(&mut self, lines: &[u8]) -> Result<()> {
        self.file.write_all(lines).map_err(|err| self.failure(err))
    }

    /// When this returns, the lines are on the disk, unless the file is a pipe or a device.
    ///
    /// # Errors
    /// As [`AppendedFile::write`].
    pub fn sync(&mut self) -> Result<()> {
        if self.is_on_disk { self.file.sync_data().map_err(|err| self.failure(err)) } else { Ok(()) }
    }

    fn failure(&self, err: std::io::Error) -> anyhow::Error {
        let name = &self.name;
        match Error::io(format!("cannot write to {name}"), err) {
            Error::DiskFull(err) => OutputFull { name: name.to_owned(), reason: err.to_string() }.into(),
            err => err.into(),
        }
    }
}

/// Opens a file to add lines at its end. A line that was cut by a crash gets a newline.
fn open_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).mode(0o600);
    let is_new = !path.exists();
    // To read is only possible, and only necessary, in a file on a disk.
    let is_file = is_new || path.is_file();
    let mut file = options.read(is_file).create(true).open(path)?;
    if is_new {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    } else if is_file && file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}
