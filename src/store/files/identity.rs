//! Identities: new peer ids, and the identity of a file.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use data_encoding::{BASE32_DNSCURVE, HEXLOWER};
use nix::sys::stat::FileStat;

use crate::model::{Error, PEER_BYTES_MAX, PeerId, Result};

/// The number of hex digits of a random id.
const RANDOM_DIGITS: usize = 32;
/// The characters that an id chosen by a user gets after `~`.
const SUFFIX_CHARS: usize = 6;

fn random_bits<const N: usize>() -> Result<[u8; N]> {
    let mut bits = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bits));
    read.map_err(|err| Error::io("/dev/urandom cannot be read", err))?;
    Ok(bits)
}

/// A new peer id: 128 random bits in hex.
pub fn random_id() -> Result<PeerId> {
    PeerId::new(&HEXLOWER.encode(&random_bits::<{ RANDOM_DIGITS / 2 }>()?))
}

/// A new id for a log that had the id `old`. An id that a user chose stays recognisable: it gets `~` and six random
/// characters. An id of the form of a random id is replaced by another random id.
pub fn next_id(old: &PeerId) -> Result<PeerId> {
    let old = old.as_str();
    if old.len() == RANDOM_DIGITS && old.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return random_id();
    }
    let name = old.rsplit_once('~').filter(|(name, end)| !name.is_empty() && is_suffix(end)).map_or(old, |(name, _)| name);
    let kept = (0..=name.len().min(PEER_BYTES_MAX - 1 - SUFFIX_CHARS)).rev().find(|&end| name.is_char_boundary(end));
    let name = &name[..kept.unwrap_or(0)];
    // An alphabet without vowels: the characters form no word.
    let random = BASE32_DNSCURVE.encode(&random_bits::<4>()?);
    PeerId::new(&format!("{name}~{}", &random[..SUFFIX_CHARS]))
}

fn is_suffix(text: &str) -> bool {
    text.len() == SUFFIX_CHARS && text.bytes().all(|byte| b"0123456789bcdfghjklmnpqrstuvwxyz".contains(&byte))
}

/// Identifies a file or directory independently of its path.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The identity of the file or directory at `path`. Follows symbolic links.
    pub fn of(path: &Path) -> io::Result<Self> {
        path.metadata().map(|about| Self::from(&about))
    }

    /// The identity of the file with this name. Does not follow a symbolic link.
    pub fn of_name(path: &Path) -> io::Result<Self> {
        path.symlink_metadata().map(|about| Self::from(&about))
    }

    /// The identity of an open file.
    pub fn of_open(file: &File) -> io::Result<Self> {
        file.metadata().map(|about| Self::from(&about))
    }
}

impl From<&FileStat> for FileId {
    fn from(about: &FileStat) -> Self {
        Self { device: about.st_dev, inode: about.st_ino }
    }
}

impl From<&Metadata> for FileId {
    fn from(about: &Metadata) -> Self {
        Self { device: about.dev(), inode: about.ino() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(old: &str) -> String {
        next_id(&PeerId::new(old).unwrap()).unwrap().as_str().to_owned()
    }

    #[test]
    fn an_id_that_a_user_chose_stays_recognisable() {
        for old in ["host", "host~b1c2d3", "host~000000", "host~zzzzzz"] {
            let new = next(old);
            assert!(new.strip_prefix("host~").is_some_and(is_suffix) && new != old && next(old) != new, "{new}");
        }
        // These are no suffixes.
        for old in ["host~backup", "host~12345", "host~1234567", "host~B1C2D3", "~b1c2d3", "host~b1c2d3~", "0123456789abcdef"] {
            let new = next(old);
            assert!(new.strip_prefix(old).and_then(|end| end.strip_prefix('~')).is_some_and(is_suffix), "{new}");
        }
        // The longest ids lose their end, between two characters.
        for (old, kept) in [("x".repeat(255), 248), ("\u{20ac}".repeat(85), 246), ("x".repeat(248), 248)] {
            let new = next(&old);
            assert!(new.len() == kept + 7 && new.starts_with(&old[..kept]), "{new}");
        }
    }

    #[test]
    fn a_random_id_is_replaced_by_another_one() {
        let old = random_id().unwrap();
        let new = next(old.as_str());
        assert!(new != old.as_str() && new.len() == RANDOM_DIGITS && !new.contains('~'), "{new}");
        assert!(next(&"F".repeat(32)).contains('~'));
    }
}
