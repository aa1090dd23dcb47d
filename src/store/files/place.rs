//! The place of a log: which data file, on which file system. A copy of the log has another place.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::time::UNIX_EPOCH;

use nix::sys::stat::{major, minor};
use nix::sys::statvfs::fstatvfs;

use crate::model::{Error, Result};

/// The length of the row in `meta`, in bytes.
pub const PLACE_BYTES: usize = 24;

/// The place of a data file. A name, a mount and the number of a device are not part of it: they change while the log stays.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The id of the file system (`f_fsid` of statfs(2)). 0: not known.
    file_system: u64,
    inode: u64,
    /// The birth time of the file, in nanoseconds of Unix time. 0: not known.
    birth: u64,
    /// Only for [`StoredPlace::Old`].
    device: u64,
}

impl Place {
    /// The place of an open data file. If this file is later renamed to the name of the data file, the place stays.
    ///
    /// # Errors
    /// When the file cannot be examined.
    pub fn of(file: &File) -> Result<Self> {
        let fail = |err| Error::io("the place of the data file cannot be read", err);
        let about = file.metadata().map_err(fail)?;
        let birth = birth_nanos(&about);
        let file_system = fstatvfs(file).map_err(|err| fail(err.into()))?.filesystem_id();
        // XFS and others use the number of the device as the id, which can change at each mount. Without a birth time it is kept:
        // an inode number alone says too little.
        let file_system = if birth != 0 && file_system == device_id(about.dev()) { 0 } else { file_system };
        Ok(Self { file_system, inode: about.ino(), birth, device: about.dev() })
    }

    /// The row in `meta`.
    pub fn encode(self) -> [u8; PLACE_BYTES] {
        let mut row = [0; PLACE_BYTES];
        for (bytes, field) in row.chunks_exact_mut(8).zip([self.file_system, self.inode, self.birth]) {
            bytes.copy_from_slice(&field.to_le_bytes());
        }
        row
    }
}

/// The birth time of a file, in nanoseconds of Unix time. 0: not known, because some file systems and old kernels have none.
pub fn birth_nanos(about: &Metadata) -> u64 {
    let birth = about.created().ok().and_then(|birth| birth.duration_since(UNIX_EPOCH).ok());
    birth.map_or(0, |birth| u64::try_from(birth.as_nanos()).unwrap_or(0))
}

/// The id that the kernel gives to a file system on this device.
fn device_id(device: u64) -> u64 {
    let (major, minor) = (major(device), minor(device));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The place that a log has stored.
#[derive(Clone, Copy)]
pub enum StoredPlace {
    Known {
        file_system: u64,
        inode: u64,
        birth: u64,
    },
    /// The form of earlier programs. The number of the device can change at each mount.
    Old {
        device: u64,
        inode: u64,
    },
}

impl StoredPlace {
    /// Reads the row in `meta`. `None`: its length is wrong.
    pub fn decode(row: &[u8]) -> Option<Self> {
        let (fields, rest) = row.as_chunks();
        let fields: Vec<u64> = fields.iter().map(|field| u64::from_le_bytes(*field)).collect();
        match fields[..] {
            [file_system, inode, birth] if rest.is_empty() => Some(Self::Known { file_system, inode, birth }),
            [device, inode] if rest.is_empty() => Some(Self::Old { device, inode }),
            _ => None,
        }
    }

    /// Whether this is `place`. A field that is not known on one side is not compared.
    pub fn is(self, place: Place) -> bool {
        let same = |a: u64, b: u64| a == b || a == 0 || b == 0;
        match self {
            Self::Known { file_system, inode, birth } => {
                inode == place.inode && same(birth, place.birth) && same(file_system, place.file_system)
            }
            Self::Old { device, inode } => (device, inode) == (place.device, place.inode),
        }
    }

    /// Whether an earlier program has stored this.
    pub fn is_old(self) -> bool {
        matches!(self, Self::Old { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_compared_by_all_fields_that_are_known() {
        let place = Place { file_system: 7, inode: 8, birth: 9, device: 1 };
        let stored = |file_system, inode, birth| StoredPlace::Known { file_system, inode, birth };
        let row = place.encode();
        assert!(StoredPlace::decode(&row).is_some_and(|stored| stored.is(place) && !stored.is_old()));
        assert!(StoredPlace::decode(&row[..23]).is_none() && StoredPlace::decode(&[0; 32]).is_none());
        assert!(StoredPlace::decode(&[]).is_none() && StoredPlace::decode(&[0; 17]).is_none());
        for (stored, is) in [
            (stored(7, 8, 9), true),
            (stored(6, 8, 9), false),
            (stored(7, 6, 9), false),
            (stored(7, 8, 6), false),
            (stored(0, 8, 9), true),
            (stored(7, 8, 0), true),
            (stored(0, 8, 6), false),
        ] {
            assert_eq!(stored.is(place), is);
        }
        let old = [1_u64.to_le_bytes(), 8_u64.to_le_bytes()].concat();
        assert!(StoredPlace::decode(&old).is_some_and(|stored| stored.is(place) && stored.is_old()));
        assert!(!StoredPlace::Old { device: 2, inode: 8 }.is(place) && !StoredPlace::Old { device: 1, inode: 9 }.is(place));
    }
}
