//! The files of a rotation: the names of rotated files, and the order in which they were written.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use super::file::{Identity, OpenFile};
use crate::model::Result;

/// A directory is read at most this many times if its names change meanwhile.
const SCANS_MAX: usize = 100;

/// The part of a name that a rotation adds, such as `.1` or `-20261126`.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Suffix {
    /// A number. Most rotations add 1 to the number of each file: the highest one is the oldest file. Others give the new file
    /// the next number, or the month and the day.
    Number(u32),
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
        Some(number.map_or_else(|| Self::Dated(rest.to_vec()), Self::Number))
    }

    /// The order of two files with equal times of birth, the older one first. `is_up`: a higher number is a newer file.
    fn order(&self, other: &Self, is_up: bool) -> Ordering {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) if is_up => one.cmp(other),
            (Self::Number(one), Self::Number(other)) => other.cmp(one),
            (Self::Dated(one), Self::Dated(other)) => one.cmp(other),
            (Self::Number(_), Self::Dated(_)) => Ordering::Less,
            (Self::Dated(_), Self::Number(_)) => Ordering::Greater,
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

/// The rotated files of `home` that were written after the file `last`, the oldest one first: at most `max` of them, and the number
/// of those that were not opened.
pub fn after(home: &Path, last: Identity, max: usize) -> Result<(Vec<OpenFile>, usize)> {
    let mut before = None;
    for _ in 0..SCANS_MAX {
        let found = scan(home, last);
        // Two equal scans: no name has changed while they were made.
        if before.as_ref() == Some(&found) {
            let open = |(path, identity): &(PathBuf, Identity)| {
                Ok(OpenFile::open(path)?.filter(|open| open.identity.is_same(*identity)))
            };
            if let Some(files) = found.iter().take(max).map(open).collect::<Result<Option<Vec<_>>>>()? {
                let unopened = found.len() - files.len();
                return Ok((files, unopened));
            }
        }
        before = Some(found);
    }
    Ok((Vec::new(), 0))
}

/// A file with the name of a rotated file.
struct Rotated {
    suffix: Suffix,
    path: PathBuf,
    file: Identity,
}

/// The paths and the identities of the rotated files of `home` that were written after the file `last`, the oldest one first.
fn scan(home: &Path, last: Identity) -> Vec<(PathBuf, Identity)> {
    let (Some(base), mut found) = (home.file_name(), Vec::new()) else { return Vec::new() };
    for (path, _) in inodes(home) {
        if let Some(suffix) = path.file_name().and_then(|name| Suffix::of(base, name))
            && let Some(about) = path.symlink_metadata().ok().filter(Metadata::is_file)
        {
            found.push(Rotated { suffix, path, file: Identity::of(&about) });
        }
    }
    written_after(found, last).into_iter().map(|Rotated { path, file, .. }| (path, file)).collect()
}

/// The files of `found` that were written after the file `last`, the oldest one first. A file is newer if it was born later: the
/// names decide only for equal times of birth, because a higher number can be an older or a newer file.
fn written_after(mut found: Vec<Rotated>, last: Identity) -> Vec<Rotated> {
    let is_up = counts_up(&found);
    found.sort_by(|one, other| one.file.birth.cmp(&other.file.birth).then_with(|| one.suffix.order(&other.suffix, is_up)));
    match found.iter().position(|rotated| rotated.file.is_same(last)) {
        Some(place) => found.split_off(place + 1),
        // The last file is gone. Older files would have been removed before it.
        None => found.into_iter().filter(|rotated| last.birth > 0 && rotated.file.birth >= last.birth).collect(),
    }
}

/// Whether a higher number is a newer file, as far as times of birth say.
fn counts_up(found: &[Rotated]) -> bool {
    let numbered = || {
        found.iter().filter_map(|rotated| match rotated.suffix {
            Suffix::Number(number) => Some((rotated.file.birth, number)),
            Suffix::Dated(_) => None,
        })
    };
    let (oldest, newest) = (numbered().min(), numbered().max());
    oldest.zip(newest).is_some_and(|((birth, number), (last_birth, last_number))| birth < last_birth && number < last_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FollowedFile;

    #[test]
    fn rotated_files_have_a_number_or_a_date() {
        let of = |name: &str| Suffix::of(OsStr::new("app.log"), OsStr::new(name));
        assert_eq!(of("app.log.1"), Some(Suffix::Number(1)));
        assert_eq!(of("app.log-12"), Some(Suffix::Number(12)));
        for date in ["20261126", "2026-11-26", "2026-11-26T10:00:00Z", "20261126-1764150548", "1764150548"] {
            assert_eq!(of(&format!("app.log-{date}")), Some(Suffix::Dated(date.into())), "{date}");
        }
        for other in ["app.log", "app.log.", "app.log1", "app.log.1.gz", "app.log.old", "app.log.1~", "app.log.swp", "x.log.1"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn times_of_birth_and_then_numbers_say_which_files_are_newer() {
        let file = |number: u32, birth: u64| {
            let (inode, device, position, head_bytes, head) = (u64::from(number), 1, 0, 0, 0);
            let stored = FollowedFile { inode, device, birth, position, head_bytes, head, is_done: false, home: Vec::new() };
            Rotated { suffix: Suffix::Number(number), path: PathBuf::new(), file: Identity::stored(&stored) }
        };
        let check = |files: &[(u32, u64)], last: u32, expected: &[u32]| {
            let of = |(number, birth): &(u32, u64)| file(*number, *birth);
            let last = files.iter().find(|(number, _)| *number == last).map(of).unwrap().file;
            let found = written_after(files.iter().map(of).collect(), last);
            let expected: Vec<Suffix> = expected.iter().map(|number| Suffix::Number(*number)).collect();
            assert_eq!(found.into_iter().map(|rotated| rotated.suffix).collect::<Vec<_>>(), expected, "{files:?}");
        };
        // The highest number is the oldest file, also for equal times of birth and without any.
        check(&[(4, 10), (3, 20), (2, 20), (1, 30)], 3, &[2, 1]);
        check(&[(3, 0), (2, 0), (1, 0)], 2, &[1]);
        // The highest number is the newest file.
        check(&[(7, 10), (8, 20), (9, 20), (10, 30)], 8, &[9, 10]);
        check(&[(7, 10), (8, 20), (9, 30)], 9, &[]);
        // The month and the day across the end of a year.
        check(&[(1230, 10), (1231, 20), (101, 30), (102, 40)], 1231, &[101, 102]);
        check(&[(1230, 10), (1231, 20), (101, 30), (102, 40)], 102, &[]);
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
            let (found, unopened) = after(&home, files[first].identity, 4).unwrap();
            let found: Vec<Identity> = found.iter().map(|file| file.identity).collect();
            let expected: Vec<Identity> = files[first + 1..11].iter().map(|file| file.identity).collect();
            assert_eq!(found, expected[..expected.len().min(4)], "{first}");
            assert_eq!(unopened, expected.len().saturating_sub(4), "{first}");
            assert!(find(&home, files[first].identity).unwrap().is_some());
        }
        // The oldest file is removed: the others were born after it.
        std::fs::remove_file(dir.path().join("app.log.11")).unwrap();
        assert_eq!(after(&home, files[0].identity, 20).unwrap().0.len(), 10);
        assert!(find(&home, files[0].identity).unwrap().is_none());
    }
}
