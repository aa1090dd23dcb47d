//! Lines that `append --skip-bad` leaves out. They go to a file as NDJSON, see scuttleup-append(1).

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Result;
use scuttleup::{Error, ndjson};

use crate::cli::exit::{OutputClosed, OutputFull};
use crate::cli::io::output::{Output, WRITE_BYTES};

/// A longer line is written as base64. Text can become six times as long, because of its escapes.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// A line that was left out, or a piece of it.
pub struct BadLine {
    /// Its range in the input of the batch.
    pub range: Range<usize>,
    /// The number of the line, counted from 1.
    pub number: u64,
    /// The number of the piece, counted from 1, if the line is too long for the memory.
    pub piece: Option<u64>,
    pub reason: String,
}

impl BadLine {
    /// Whether this is a whole line, or its first piece.
    pub fn is_first(&self) -> bool {
        self.piece.unwrap_or(1) == 1
    }
}

/// The place for the lines that are left out.
pub struct BadLines {
    target: Target,
    /// The key of the number of a line: "line" or "entry".
    unit: &'static str,
}

enum Target {
    Stdout(Output),
    /// The file, its name, and whether it is on a disk.
    File(File, String, bool),
}

impl BadLines {
    /// Opens the file and creates it if it does not exist; `-` is stdout. New lines are added at its end.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path, unit: &'static str) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self { target: Target::Stdout(Output::bulk()), unit });
        }
        let name = path.display().to_string();
        let opened = open_file(path).map_err(|err| Error::io(format!("{name} cannot be opened"), err))?;
        let is_on_disk = opened.metadata().is_ok_and(|meta| meta.is_file());
        Ok(Self { target: Target::File(opened, name, is_on_disk), unit })
    }

    /// Writes the lines, which are parts of `input`. When this returns, they are on the disk, unless the target is a pipe or a
    /// device.
    ///
    /// # Errors
    /// When they cannot be written. A reader that closed the target is an error, because these lines are nowhere else.
    pub fn write(&mut self, input: &[u8], lines: &[BadLine]) -> Result<()> {
        let mut out = Vec::new();
        for line in lines {
            put_line(&mut out, self.unit, line, &input[line.range.clone()]);
            if out.len() >= WRITE_BYTES {
                self.target.write(&out)?;
                out.clear();
            }
        }
        self.target.write(&out)?;
        self.target.sync()
    }
}

impl Target {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Stdout(output) => output.write(bytes).map_err(|err| match err {
                err if err.is::<OutputClosed>() => anyhow::anyhow!("the reader of stdout closed it, bad lines cannot be written"),
                err => err,
            }),
            Self::File(file, name, _) => file.write_all(bytes).map_err(|err| failure(name, err)),
        }
    }

    fn sync(&mut self) -> Result<()> {
        match self {
            Self::File(file, name, true) => file.sync_data().map_err(|err| failure(name, err)),
            _ => Ok(()),
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

fn failure(name: &str, err: std::io::Error) -> anyhow::Error {
    match Error::io(format!("cannot write to {name}"), err) {
        Error::DiskFull(err) => OutputFull { name: name.to_owned(), reason: err.to_string() }.into(),
        err => err.into(),
    }
}

fn put_line(out: &mut Vec<u8>, unit: &str, line: &BadLine, bytes: &[u8]) {
    out.extend_from_slice(format!("{{\"{unit}\":{}", line.number).as_bytes());
    if let Some(piece) = line.piece {
        out.extend_from_slice(format!(",\"piece\":{piece}").as_bytes());
    }
    out.extend_from_slice(b",\"reason\":");
    ndjson::put_string(out, &line.reason);
    // The cut between two pieces can be inside a character.
    match std::str::from_utf8(bytes) {
        Ok(text) if line.piece.is_none() && bytes.len() <= TEXT_BYTES_MAX => {
            out.extend_from_slice(b",\"text\":");
            ndjson::put_string(out, text);
        }
        _ => {
            out.extend_from_slice(b",\"base64\":");
            ndjson::put_base64(out, bytes);
        }
    }
    out.extend_from_slice(b"}\n");
}
