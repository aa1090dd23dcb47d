//! Cursors: named positions of readers, stored in the log. A pruning does not pass them.

use super::Log;
use crate::model::{Error, Offset, Result};

/// The maximum length of the name of a cursor, in bytes.
pub const CURSOR_BYTES_MAX: usize = 200;

impl Log {
    /// The cursors, in the order of their names: name, and the offset of the last entry that was read.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn cursors(&self) -> Result<Vec<(String, Offset)>> {
        self.env.read()?.cursors()
    }

    /// Sets a cursor: its reader has read all entries up to `offset`.
    ///
    /// # Errors
    /// [`Error::BadInput`] if the name is empty, too long, or has control characters; [`Error::UnknownOffset`] if the log has no such
    /// offset; when the log cannot be written.
    pub fn set_cursor(&self, name: &str, offset: Offset) -> Result<()> {
        check_name(name)?;
        self.check_offset(offset)?;
        let mut writer = self.writer()?;
        writer.set_cursor(name, Some(offset))?;
        writer.commit().map(|_| ())
    }

    /// Removes a cursor. Returns false if there is none with this name.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn remove_cursor(&self, name: &str) -> Result<bool> {
        let mut writer = self.writer()?;
        let is_known = writer.txn.cursors()?.iter().any(|(known, _)| known == name);
        if is_known {
            writer.set_cursor(name, None)?;
        }
        writer.commit().map(|_| is_known)
    }
}

impl super::Writer<'_> {
    fn set_cursor(&mut self, name: &str, offset: Option<Offset>) -> Result<()> {
        self.changed = true;
        self.txn.set_cursor(name, offset)
    }
}

fn check_name(name: &str) -> Result<()> {
    let bad = |why: &str| Err(Error::BadInput(format!("invalid name of a cursor: {why}")));
    match name.len() {
        0 => bad("it is empty"),
        1..=CURSOR_BYTES_MAX if name.chars().any(char::is_control) => bad("it has a control character"),
        1..=CURSOR_BYTES_MAX => Ok(()),
        _ => bad(&format!("it is longer than {CURSOR_BYTES_MAX} bytes")),
    }
}
