//! Identities: the peer id of a new log, and the identity of a file.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use data_encoding::HEXLOWER;
use nix::sys::stat::FileStat;

use super::data;
use crate::model::{Error, PeerId, Result};

/// A new peer id: 128 random bits in hex.
pub fn random_id() -> Result<PeerId> {
    let mut bits = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bits));
    read.map_err(|err| Error::io("/dev/urandom cannot be read", err))?;
    PeerId::new(&HEXLOWER.encode(&bits))
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

/// Gives the clone marker of the data file `new`, which will replace that of the log in `dir`, to `set`.
pub fn move_marker(_dir: &Path, new: &Path, set: impl FnOnce([u8; 16]) -> Result<()>) -> Result<()> {
    set(marker_of(new)?)
}

/// The clone marker of the log in `dir`: device and inode of its data file, 8 bytes each. If the data file later has a
/// different marker, the log was copied or restored.
pub fn clone_marker(dir: &Path) -> Result<[u8; 16]> {
    marker_of(&dir.join(data::FILE_NAME))
}

fn marker_of(path: &Path) -> Result<[u8; 16]> {
    let file = FileId::of(path).map_err(|err| Error::io(format!("{} cannot be read", path.display()), err))?;
    let mut marker = [0; 16];
    marker[..8].copy_from_slice(&file.device.to_le_bytes());
    marker[8..].copy_from_slice(&file.inode.to_le_bytes());
    Ok(marker)
}
