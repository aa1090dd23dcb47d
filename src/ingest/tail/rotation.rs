//! The files of a rotation: by which names rotated files are found, and in which order they were written.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use super::file::{Identity, OpenFile};
use crate::model::Result;

/// So often a directory is read again if its names change meanwhile.
const SCANS_MAX: usize = 100;

/// The part of a name that a rotation adds, such as `.1` or `-20261126`.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Suffix {
    /// A number that grows with each rotation: the highest one is the oldest file.
    Shifted(u32),
    /// A date: the lowest one is the oldest file.
    Dated(Vec<u8>),
}

impl Suffix {
    /// The suffix of the rotated file `name` of the file `base`. `None`: it is no rotated file, or it is compressed.
    fn of(base: &OsStr, name: &OsStr) -> Option<Self> {
        let suffix = name.as_bytes().strip_prefix(base.as_bytes())?;
        let rest = match suffix {
            [b'.' | b'-' | b'_', rest @ ..] => rest,
            _ => return None,
        };
        let is_part = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'T' | b'Z');
        if !rest.first().is_some_and(u8::is_ascii_digit) || !rest.iter().all(is_part) {
            return None;
        }
        // A longer number is a date.
        let number = std::str::from_utf8(rest).ok().filter(|rest| rest.len() <= 5).and_then(|rest| rest.parse().ok());
        Some(number.map_or_else(|| Self::Dated(rest.to_vec()), Self::Shifted))
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Shifted(one), Self::Shifted(other)) => other.cmp(one),
            (Self::Dated(one), Self::Dated(other)) => one.cmp(other),
            (Self::Shifted(_), Self::Dated(_)) => Ordering::Less,
            (Self::Dated(_), Self::Shifted(_)) => Ordering::Greater,
        }
    }
}

/// Whether a name in the directory of the file `base` belongs to this file or to a rotated file of it.
pub fn concerns(base: &OsStr, name: &OsStr) -> bool {
    base == name || Suffix::of(base, name).is_some()
}

/// The file of this identity: at `home`, or under another name in the same directory.
pub fn find(home: &Path, identity: Identity) -> Result<Option<OpenFile>> {
    let is_it = |file: &OpenFile| file.identity.is_same(identity);
    if let Some(file) = OpenFile::open(home)?.filter(is_it) {
        return Ok(Some(file));
    }
    // Names can change meanwhile.
    for _ in 0..SCANS_MAX {
        let Some((path, _)) = inodes(home).into_iter().find(|(_, inode)| *inode == identity.inode) else { return Ok(None) };
        if let Some(file) = OpenFile::open(&path)?.filter(is_it) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// The paths in the directory of `home`, and the numbers of their inodes.
fn inodes(home: &Path) -> Vec<(PathBuf, u64)> {
    // A directory that cannot be read has no names: then rotated files are not found after a restart.
    let names = home.parent().and_then(|dir| std::fs::read_dir(dir).ok());
    names.into_iter().flatten().filter_map(|name| name.ok().map(|name| (name.path(), name.ino()))).collect()
}

/// The rotated files of `home` that were written after the file `last`, the oldest one first.
pub fn after(home: &Path, last: Identity) -> Result<Vec<OpenFile>> {
    let mut before = None;
    for _ in 0..SCANS_MAX {
        let found = scan(home, last);
        // Two equal scans: no name has changed while they were made.
        if before.as_ref() == Some(&found) {
            let open = |(path, identity): &(PathBuf, Identity)| {
                Ok(OpenFile::open(path)?.filter(|open| open.identity.is_same(*identity)))
            };
            if let Some(files) = found.iter().map(open).collect::<Result<Option<Vec<_>>>>()? {
                return Ok(files);
            }
        }
        before = Some(found);
    }
    Ok(Vec::new())
}

/// The paths and the identities of these files.
fn scan(home: &Path, last: Identity) -> Vec<(PathBuf, Identity)> {
    let (Some(base), mut found) = (home.file_name(), Vec::new()) else { return Vec::new() };
    for (path, _) in inodes(home) {
        if let Some(suffix) = path.file_name().and_then(|name| Suffix::of(base, name))
            && let Some(about) = path.symlink_metadata().ok().filter(Metadata::is_file)
        {
            found.push((suffix, path, Identity::of(&about)));
        }
    }
    found.sort_by(|(suffix, _, file), (other_suffix, _, other)| {
        file.birth.cmp(&other.birth).then_with(|| suffix.order(other_suffix))
    });
    let place = found.iter().position(|(_, _, file)| file.is_same(last));
    let last_suffix = place.map(|place| found[place].0.clone());
    let is_later = |at: usize, suffix: &Suffix, file: Identity| match (suffix, &last_suffix, place) {
        // Each rotation has added 1 to the number. This is also right if the clock was set back.
        (Suffix::Shifted(number), Some(Suffix::Shifted(last)), _) => number < last,
        (_, _, Some(place)) => at > place,
        // The last file is gone. Older files would have been removed before it.
        (_, _, None) => last.birth > 0 && file.birth >= last.birth,
    };
    let later = found.into_iter().enumerate().filter(|(at, (suffix, _, file))| is_later(*at, suffix, *file));
    later.map(|(_, (_, path, file))| (path, file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_files_have_a_number_or_a_date() {
        let of = |name: &str| Suffix::of(OsStr::new("app.log"), OsStr::new(name));
        assert_eq!(of("app.log.1"), Some(Suffix::Shifted(1)));
        assert_eq!(of("app.log-12"), Some(Suffix::Shifted(12)));
        for date in ["20261126", "2026-11-26", "2026-11-26T10:00:00Z", "20261126-1764150548", "1764150548"] {
            assert_eq!(of(&format!("app.log-{date}")), Some(Suffix::Dated(date.into())), "{date}");
        }
        for other in ["app.log", "app.log.", "app.log1", "app.log.1.gz", "app.log.old", "app.log.1~", "app.log.swp", "x.log.1"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn files_are_found_in_the_order_in_which_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("app.log");
        let mut files = Vec::new();
        let rotate = |keep: u32| {
            for number in (1..keep).rev() {
                std::fs::rename(dir.path().join(format!("app.log.{number}")), dir.path().join(format!("app.log.{}", number + 1)))
                    .ok();
            }
            std::fs::rename(&home, dir.path().join("app.log.1")).ok();
        };
        for n in 0..12 {
            rotate(12);
            std::fs::write(&home, n.to_string()).unwrap();
            files.push(OpenFile::open(&home).unwrap().unwrap());
            std::fs::write(dir.path().join("app.log.old"), "other").unwrap();
        }
        for first in 0..11 {
            let found: Vec<Identity> = after(&home, files[first].identity).unwrap().iter().map(|file| file.identity).collect();
            let expected: Vec<Identity> = files[first + 1..11].iter().map(|file| file.identity).collect();
            assert_eq!(found, expected, "{first}");
            assert!(find(&home, files[first].identity).unwrap().is_some());
        }
        // The oldest file is removed: the others were born after it.
        std::fs::remove_file(dir.path().join("app.log.11")).unwrap();
        assert_eq!(after(&home, files[0].identity).unwrap().len(), 10);
        assert!(find(&home, files[0].identity).unwrap().is_none());
    }
}
