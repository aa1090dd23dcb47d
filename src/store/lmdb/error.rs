//! Errors of LMDB, with explanations.

use std::fmt;
use std::path::Path;

use crate::model::Error;

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
        lmdb::Error::PageNotFound => "a page is missing in data.mdb",
        lmdb::Error::Corrupted => "a page in data.mdb has the wrong type",
        lmdb::Error::Invalid => "data.mdb or lock.mdb is damaged (lock.mdb can be removed while no process uses the log)",
        lmdb::Error::Panic => "an earlier write failed: end the program and run it again",
        lmdb::Error::VersionMismatch => "data.mdb or lock.mdb is in the format of another version of LMDB",
        lmdb::Error::MapFull => "the memory map is too small",
        lmdb::Error::DbsFull => "the log has too many tables",
        lmdb::Error::ReadersFull => "too many readers use the log at the same time: end some of them and run it again",
        lmdb::Error::TxnFull => "the transaction changes too many pages",
        lmdb::Error::CursorFull => "a table in data.mdb has too many levels",
        lmdb::Error::PageFull => "a page in data.mdb has no room for its own rows",
        lmdb::Error::MapResized => "the data file is larger than the memory map",
        lmdb::Error::Incompatible => "a table has an unexpected format",
        lmdb::Error::BadRslot => "the reader slot is in use",
        lmdb::Error::BadTxn => "an earlier step of the transaction failed",
        lmdb::Error::BadValSize => "a key or value has an invalid size",
        lmdb::Error::BadDbi => "a table was closed or changed",
        lmdb::Error::TlsFull => "the process has too many thread-specific keys",
        lmdb::Error::Other(_) => return None,
    })
}

/// Whether the error means that the data is damaged: the program itself never causes it.
fn is_damage(err: lmdb::Error) -> bool {
    use lmdb::Error::{BadValSize, Corrupted, CursorFull, Incompatible, Invalid, KeyExist, NotFound, PageFull, PageNotFound};
    matches!(err, KeyExist | NotFound | PageNotFound | Corrupted | Invalid | CursorFull | PageFull | Incompatible | BadValSize)
}

/// Converts an error of LMDB in the log in `dir`, which cannot be `done`: a participle. A full disk, damaged data and a map that
/// is too small have their own errors.
pub fn lmdb_error(dir: &Path, done: &str, err: lmdb::Error) -> Error {
    let doing = format!("the log in {} cannot be {done}", dir.display());
    match err {
        lmdb::Error::Other(code) => Error::io(doing, std::io::Error::from_raw_os_error(code)),
        lmdb::Error::MapResized => Error::MapOutgrown,
        err if is_damage(err) => Error::Corrupt(format!("{doing}: {}", LmdbError(err))),
        err => Error::Database(doing, Box::new(LmdbError(err))),
    }
}

pub fn read_error(dir: &Path, err: lmdb::Error) -> Error {
    lmdb_error(dir, "read", err)
}

/// `map_bytes` is the size of the memory map.
pub fn write_error(dir: &Path, err: lmdb::Error, map_bytes: usize) -> Error {
    match err {
        lmdb::Error::MapFull => Error::MapFull(map_bytes),
        err => lmdb_error(dir, "written", err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_lmdb_has_an_explanation_and_the_code() {
        let dir = Path::new("a");
        let message = |err| lmdb_error(dir, "read", err).to_string();
        assert_eq!(
            message(lmdb::Error::ReadersFull),
            "the log in a cannot be read: too many readers use the log at the same time: end some of them and run it again \
             (MDB_READERS_FULL: Environment maxreaders limit reached)"
        );
        assert_eq!(message(lmdb::Error::Other(13)), "the log in a cannot be read: Permission denied (os error 13)");
        assert!(matches!(lmdb_error(dir, "", lmdb::Error::MapResized), Error::MapOutgrown));
        assert!(matches!(lmdb_error(dir, "", lmdb::Error::Other(28)), Error::DiskFull(_)));
    }

    /// Every error that LMDB itself defines.
    const OWN: [lmdb::Error; 20] = [
        lmdb::Error::KeyExist,
        lmdb::Error::NotFound,
        lmdb::Error::PageNotFound,
        lmdb::Error::Corrupted,
        lmdb::Error::Panic,
        lmdb::Error::VersionMismatch,
        lmdb::Error::Invalid,
        lmdb::Error::MapFull,
        lmdb::Error::DbsFull,
        lmdb::Error::ReadersFull,
        lmdb::Error::TxnFull,
        lmdb::Error::CursorFull,
        lmdb::Error::PageFull,
        lmdb::Error::MapResized,
        lmdb::Error::Incompatible,
        lmdb::Error::BadRslot,
        lmdb::Error::BadTxn,
        lmdb::Error::BadValSize,
        lmdb::Error::BadDbi,
        lmdb::Error::TlsFull,
    ];

    #[test]
    fn every_error_of_lmdb_is_in_words_and_damage_says_what_to_do() {
        for err in OWN {
            let said = write_error(Path::new("a"), err, 1).to_string();
            assert!(!said.contains("MDB_") || explain(err).is_some_and(|words| said.contains(words)), "{said}");
            assert_eq!(is_damage(err), said.contains("restore the log from a backup"), "{said}");
        }
    }
}
