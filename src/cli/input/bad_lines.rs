//! Lines that `append --skip-bad` leaves out. They go to a file as NDJSON, see scuttleup-append(1).

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use scuttleup::ndjson;

use crate::cli::exit::OutputClosed;
use crate::cli::io::appended::AppendedFile;
use crate::cli::io::output::{Output, WRITE_BYTES};

/// A longer line is written as base64. Text can become six times as long, because of its escapes.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// A line that was left out, or a piece of it.
pub struct BadLine {
    /// Its range in the input of the batch.
    pub range: Range<usize>,
    /// The number of the line, counted from 1.
    pub number: u64,
    /// The followed file, and the position of the line in it, counted from 1.
    pub place: Option<(String, u64)>,
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
    File(AppendedFile),
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
        Ok(Self { target: Target::File(AppendedFile::open(path)?), unit })
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
            Self::File(file) => file.write(bytes),
        }
    }

    fn sync(&mut self) -> Result<()> {
        match self {
            Self::Stdout(_) => Ok(()),
            Self::File(file) => file.sync(),
        }
    }
}

fn put_line(out: &mut Vec<u8>, unit: &str, line: &BadLine, bytes: &[u8]) {
    match &line.place {
        Some((file, byte)) => {
            out.extend_from_slice(b"{\"file\":");
            ndjson::put_string(out, file);
            out.extend_from_slice(format!(",\"byte\":{byte}").as_bytes());
        }
        None => out.extend_from_slice(format!("{{\"{unit}\":{}", line.number).as_bytes()),
    }
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
