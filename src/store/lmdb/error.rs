//! Errors of LMDB, with explanations.

use std::fmt;

use crate::model::{Error, Result};

/// An error of LMDB: an explanation, and LMDB's own text with its code.
#[derive(Debug)]
struct LmdbError(lmdb::Error);

impl fmt::Display for LmdbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match explain(self.0) {
            Some(words) => write!(f, "{words} ({})", self.0),
            None => self.0.fmt(f),
        }
    }
}

impl std::error::Error for LmdbError {}

/// The meaning of the error for a log, or `None` if LMDB's own text is enough.
fn explain(err: lmdb::Error) -> Option<&'static str> {
    Some(match err {
        lmdb::Error::KeyExist => "a new row does not follow the last row of its table",
        lmdb::Error::NotFound => "a row is missing",
        lmdb::Error::PageNotFound | lmdb::Error::Corrupted => "data.mdb is damaged",
        lmdb::Error::Invalid => "data.mdb or lock.mdb is damaged",
        lmdb::Error::Panic => "an earlier write failed: end the program and run it again",
        lmdb::Error::VersionMismatch => "data.mdb or lock.mdb is in the format of another version of LMDB",
        lmdb::Error::MapFull => "the memory map is too small",
        lmdb::Error::DbsFull => "the log has too many tables",
        lmdb::Error::ReadersFull => "too many readers use the log at the same time: end some of them and run it again",
        lmdb::Error::TxnFull => "the transaction changes too many pages",
        lmdb::Error::CursorFull | lmdb::Error::PageFull => "internal error of LMDB",
        lmdb::Error::MapResized => "the data file is larger than the memory map",
        lmdb::Error::Incompatible => "a table has an unexpected format",
        lmdb::Error::BadRslot => "the reader slot is in use",
        lmdb::Error::BadTxn => "an earlier step of the transaction failed",
        lmdb::Error::BadValSize => "a key or value has an invalid size",
        lmdb::Error::BadDbi => "a table was closed or changed",
        lmdb::Error::TlsFull | lmdb::Error::Other(_) => return None,
    })
}

/// Converts an error of LMDB. `doing` says what failed. A full disk, damaged data and a map that is too small have their own
/// errors.
pub fn lmdb_error(doing: &'static str, err: lmdb::Error) -> Error {
    match err {
        lmdb::Error::Other(code) => Error::io(doing, std::io::Error::from_raw_os_error(code)),
        lmdb::Error::Corrupted | lmdb::Error::PageNotFound | lmdb::Error::Invalid => {
            Error::Corrupt(format!("{doing}: {}", LmdbError(err)))
        }
        lmdb::Error::MapResized => Error::MapOutgrown,
        err => Error::Database(doing, Box::new(LmdbError(err))),
    }
}

pub fn read_error(err: lmdb::Error) -> Error {
    lmdb_error("the log cannot be read", err)
}

/// `map_bytes` is the size of the memory map.
pub fn write_error(err: lmdb::Error, map_bytes: usize) -> Error {
    match err {
        lmdb::Error::MapFull => Error::MapFull(map_bytes),
        err => lmdb_error("the log cannot be written", err),
    }
}

/// Converts the result of a lookup. A missing row is `None`.
pub fn found<T>(result: lmdb::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(lmdb::Error::NotFound) => Ok(None),
        Err(err) => Err(read_error(err)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_lmdb_has_an_explanation_and_the_code() {
        let message = |err| lmdb_error("the log cannot be read", err).to_string();
        assert_eq!(
            message(lmdb::Error::ReadersFull),
            "the log cannot be read: too many readers use the log at the same time: end some of them and run it again \
             (MDB_READERS_FULL: Environment maxreaders limit reached)"
        );
        assert_eq!(message(lmdb::Error::Other(13)), "the log cannot be read: Permission denied (os error 13)");
        assert!(matches!(lmdb_error("", lmdb::Error::Corrupted), Error::Corrupt(_)));
        assert!(matches!(lmdb_error("", lmdb::Error::MapResized), Error::MapOutgrown));
        assert!(matches!(lmdb_error("", lmdb::Error::Other(28)), Error::DiskFull(_)));
    }
}
