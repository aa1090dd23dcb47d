//! Follows files while other programs write to them, across rotation, truncation and restart.
//!
//! A path leads to one file after the other. The files of a path that are not done are its tails, the oldest one first. The last one
//! is the file to which the path leads. The others were replaced; each is done when no process writes to it any more and it was
//! read to its end.
//!
//! | file | content |
//! |---|---|
//! | `file` | one file: its identity, the position in it, and whether its content is still the same |
//! | `rotation` | the names of rotated files, and their order |
//! | `watch` | inotify: names and contents that change |
//! | `lease` | whether a process writes to a file, which needs `unsafe` |

mod file;
mod lease;
mod rotation;
mod watch;

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use file::{Identity, OpenFile, Read, Tail};
use watch::{Changed, Watch};

use super::batch::{Batch, FollowedPath};
use crate::model::{Error, Result};
use crate::store::{FOLLOWED_PATH_BYTES_MAX, FollowedFile, InotifyLimit, Log};

/// A path with more files than this does not wait for the writers of the oldest one. Rotated files are opened up to this number.
const TAILS_MAX: usize = 64;
/// A path is looked at again at most this many times if it leads to another file meanwhile.
const LOOKS_MAX: usize = 100;
/// At most this many files that are done are remembered for each path: a symbolic link can lead to one of them again.
const DONE_MAX: usize = 16;
/// Fewer of them are remembered if the row would be longer, in bytes. A longer row has pages of its own.
const ROW_BYTES_MAX: usize = 1900;

/// The position from which a file is read that the log does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Its start.
    Start,
    /// Its end, if it exists when the following begins: behind its last line.
    End,
}

/// A fact that a user must know while files are followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FollowNotice {
    /// The file at this path was truncated or written anew. It is read from its start.
    Truncated(PathBuf),
    /// The file that was at this path is gone, and it is not known whether it was read to its end.
    Gone(PathBuf),
    /// A new file at this path cannot be read, for this reason. It is read as soon as its permissions allow it.
    Unreadable(PathBuf, String),
}

/// The next step of [`Tails::next`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// [`Tails::read`] may find bytes. If the file is another one than that of the step before, input that is no complete line
    /// does not count any more: it will be read again, except for its [`Tails::pieces`].
    Read {
        /// Whether the file is another one.
        is_other: bool,
    },
    /// There is nothing to read until a file changes.
    Wait,
}

/// The result of [`Tails::read`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// This many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The end of a file that no process writes to any more: the rest that is no complete line becomes a line.
    End,
    /// The content has begun again: the rest that is no complete line does not count.
    Again,
}

/// The files of several paths.
pub struct Tails {
    paths: Vec<PathFiles>,
    watch: Watch,
    /// The number of the next tail.
    next_number: u64,
    /// The path that is read now, and the number of its tail.
    current: Option<(usize, u64)>,
    /// Whether the last step has found the end of a line.
    has_progress: bool,
    notices: Vec<FollowNotice>,
}

/// A file, and its path when its writer wrote to it.
type FileAtPath = (OpenFile, PathBuf);

/// The files of one path.
struct PathFiles {
    path: PathBuf,
    tails: Vec<(u64, Tail)>,
    /// Files that were replaced and read to their end, the oldest one first.
    done: Vec<FollowedFile>,
    /// Whether a notice says that its file cannot be read.
    is_unreadable: bool,
    /// The newest file that was found, and its path without symbolic links.
    newest: Option<(Identity, PathBuf)>,
    start: Start,
    /// The number of newer files that are not open yet.
    unopened: usize,
    /// Whether its names may have changed.
    must_look: bool,
    /// The row that the log holds, or will hold after the batches that were passed on.
    row: Option<Vec<u8>>,
}

impl Tails {
    /// Continues to follow `paths` where the log has stopped. For a path that it does not know, `start` says where to begin.
    /// `separator` ends a line.
    ///
    /// # Errors
    /// When a file cannot be opened or watched, or the log cannot be read.
    pub fn new(log: &Log, paths: &[PathBuf], start: Start, separator: u8) -> Result<Self> {
        let mut tails = Self {
            paths: Vec::new(),
            watch: Watch::new()?,
            next_number: 0,
            current: None,
            has_progress: true,
            notices: Vec::new(),
        };
        for path in paths {
            let absolute = std::path::absolute(path).map_err(|err| Error::io(format!("{} has no name", path.display()), err))?;
            if absolute.as_os_str().as_bytes().len() > FOLLOWED_PATH_BYTES_MAX {
                let reason = format!("its path is longer than {FOLLOWED_PATH_BYTES_MAX} bytes: follow a symbolic link to it");
                return Err(Error::io(format!("{} cannot be followed", path.display()), std::io::Error::other(reason)));
            }
            if !tails.paths.iter().any(|known| known.path == absolute) {
                tails.add_path(log, absolute, start)?;
            }
        }
        for number in 0..tails.paths.len() {
            tails.look(number, separator)?;
            tails.paths[number].start = Start::Start;
        }
        Ok(tails)
    }

    /// Checks a path before anything is written because of it: there may be no file, but a file must be one that can be followed.
    ///
    /// # Errors
    /// When it cannot be followed.
    pub fn check(path: &Path) -> Result<()> {
        OpenFile::open(path).map(drop)
    }

    fn add_path(&mut self, log: &Log, path: PathBuf, start: Start) -> Result<()> {
        let row = log.followed(&path)?;
        let stored = row.as_deref().map(FollowedFile::decode_all);
        let stored =
            stored.map(|stored| stored.ok_or_else(|| Error::Corrupt(format!("the position in {} is damaged", path.display()))));
        let (is_known, stored) = (stored.is_some(), stored.transpose()?.unwrap_or_default());
        let number = self.paths.len();
        let start = if is_known { Start::Start } else { start };
        self.paths.push(PathFiles {
            path,
            tails: Vec::new(),
            done: Vec::new(),
            is_unreadable: false,
            newest: None,
            start,
            unopened: 0,
            must_look: true,
            row,
        });
        for stored in stored {
            let (identity, home) = (Identity::stored(&stored), file::home(&stored));
            self.paths[number].newest = Some((identity, home.clone()));
            if stored.is_done {
                self.paths[number].done.push(stored);
                continue;
            }
            let Some(open) = self.find(number, &home, identity)? else {
                self.notices.push(FollowNotice::Gone(self.paths[number].path.clone()));
                continue;
            };
            let tail = self.resume(number, open, &home, &stored)?;
            self.add_tail(number, tail)?;
        }
        Ok(())
    }

    /// Continues with a file of which a part was read.
    fn resume(&mut self, number: usize, open: OpenFile, home: &Path, stored: &FollowedFile) -> Result<Tail> {
        let (mut tail, is_same) = Tail::resume(open, stored)?;
        if !is_same {
            self.notices.push(FollowNotice::Truncated(self.paths[number].path.clone()));
        }
        tail.home = home.to_path_buf();
        Ok(tail)
    }

    /// The file of this identity: in the directory of `home`, or where the path leads now.
    fn find(&mut self, number: usize, home: &Path, identity: Identity) -> Result<Option<OpenFile>> {
        if let Some(found) = rotation::find(home, identity)? {
            return Ok(Some(found));
        }
        let path = self.paths[number].path.clone();
        self.watch.resolve(&path, number)?.map_or(Ok(None), |real| rotation::find(&real, identity))
    }

    fn add_tail(&mut self, number: usize, tail: Tail) -> Result<()> {
        self.watch.add_file(&tail.file, self.next_number)?;
        let path = &mut self.paths[number];
        path.newest = Some((tail.identity, tail.home.clone()));
        path.tails.push((self.next_number, tail));
        self.next_number += 1;
        Ok(())
    }

    /// The paths that lead to no file yet.
    pub fn missing(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().filter(|path| path.tails.is_empty()).map(|path| &*path.path)
    }

    /// The notices since the last call.
    pub fn take_notices(&mut self) -> Vec<FollowNotice> {
        std::mem::take(&mut self.notices)
    }

    /// The limit of inotify that is exhausted.
    pub fn inotify_limit(&self) -> Option<InotifyLimit> {
        self.watch.limit()
    }

    /// Whether a name is in a directory that cannot be watched, or nothing can be watched. Then the caller must call
    /// [`Tails::changed`] every second.
    pub fn must_poll(&self) -> bool {
        !self.watch.is_complete()
    }

    /// The errors of the directories that cannot be watched, since the last call.
    pub fn take_unwatched(&mut self) -> Vec<Error> {
        self.watch.take_errors()
    }

    /// A descriptor that is readable after a file or a name has changed. `None`: nothing is watched.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.fd()
    }

    /// Everything may have changed.
    pub fn changed(&mut self) {
        for path in &mut self.paths {
            path.must_look = true;
            for (_, tail) in &mut path.tails {
                (tail.may_have_more, tail.may_be_closed) = (true, true);
            }
        }
    }

    /// Whether there is something to do without waiting, as far as is known without a look.
    pub fn has_work(&self) -> bool {
        self.paths.iter().any(|path| path.must_look || path.tails.iter().any(|(_, tail)| tail.may_have_more))
    }

    /// Finds out what to do next. `separator` ends a line.
    ///
    /// # Errors
    /// When a file cannot be opened, read or watched.
    pub fn next(&mut self, separator: u8) -> Result<Step> {
        self.take_changes()?;
        for number in 0..self.paths.len() {
            if std::mem::take(&mut self.paths[number].must_look) {
                self.look(number, separator)?;
            }
            self.seal(number)?;
        }
        // A file is read on while a line is not complete, and more of it may be there. Otherwise another path is next.
        if let Some(tail) = self.current_tail()
            && tail.may_have_more
            && !self.has_progress
        {
            return Ok(Step::Read { is_other: false });
        }
        let (count, first) = (self.paths.len(), self.current.map_or(0, |(path, _)| path + 1));
        let next = (0..count).map(|step| (first + step) % count).find_map(|path| {
            let ready = self.paths[path].tails.iter().find(|(_, tail)| tail.may_have_more)?;
            Some((path, ready.0))
        });
        let Some(next) = next else { return Ok(Step::Wait) };
        let is_other = self.current != Some(next);
        if is_other {
            if let Some(tail) = self.current_tail_mut() {
                tail.go_back();
            }
            self.current = Some(next);
        }
        self.has_progress = false;
        Ok(Step::Read { is_other })
    }

    fn take_changes(&mut self) -> Result<()> {
        for change in self.watch.take()? {
            match change {
                Changed::Name(path) => self.paths[path].must_look = true,
                Changed::All => self.changed(),
                Changed::Content(number) | Changed::Closed(number) => {
                    let tails = self.paths.iter_mut().flat_map(|path| &mut path.tails);
                    if let Some((_, tail)) = tails.into_iter().find(|(known, _)| *known == number) {
                        tail.may_have_more = true;
                        tail.may_be_closed |= change == Changed::Closed(number);
                    }
                }
            }
        }
        Ok(())
    }

    /// Finds the file to which a path leads, and the files that have replaced each other since the last look.
    fn look(&mut self, number: usize, separator: u8) -> Result<()> {
        let (mut found, mut later, mut unopened) = self.find_files(number)?;
        for _ in 0..LOOKS_MAX {
            // A rotation between the two looks at its names would mix up the order of the files.
            let is_same = match &found {
                Some((open, home)) => home.metadata().is_ok_and(|about| open.identity.is_same(Identity::of(&about))),
                None => true,
            };
            if is_same {
                break;
            }
            (found, later, unopened) = self.find_files(number)?;
        }
        let followed = &mut self.paths[number];
        followed.unopened = unopened;
        if let (Some((open, home)), Some((_, last))) = (&found, followed.tails.last_mut())
            && open.identity.is_same(last.identity)
        {
            // A symbolic link can lead to the same file on another way.
            last.home.clone_from(home);
            followed.newest = Some((last.identity, home.clone()));
            return Ok(());
        }
        for (open, home) in later {
            // The path can have led to it until now.
            let (open, home) = found.take_if(|(found, _)| found.identity.is_same(open.identity)).unwrap_or((open, home));
            if !self.is_known(number, open.identity) {
                self.add_tail(number, Tail::new(open, &home))?;
            }
        }
        // The file to which the path leads comes after those that are not open yet.
        if let Some((open, home)) = found.filter(|_| unopened == 0) {
            let followed = &mut self.paths[number];
            let open_at = followed.tails.iter().position(|(_, tail)| tail.identity.is_same(open.identity));
            let done_at = followed.done.iter().position(|done| Identity::stored(done).is_same(open.identity));
            if let Some(at) = open_at {
                // A symbolic link leads to an earlier file again.
                let (known, mut tail) = followed.tails.remove(at);
                (tail.is_replaced, tail.is_sealed, tail.may_be_closed, tail.home) = (false, false, true, home.clone());
                followed.newest = Some((tail.identity, home));
                followed.tails.push((known, tail));
            } else if let Some(at) = done_at {
                let done = followed.done.remove(at);
                let tail = self.resume(number, open, &home, &done)?;
                self.add_tail(number, tail)?;
            } else {
                let mut tail = Tail::new(open, &home);
                if followed.start == Start::End {
                    tail.go_to_end(separator)?;
                }
                self.add_tail(number, tail)?;
            }
        }
        let tails = &mut self.paths[number].tails;
        let last = tails.len().saturating_sub(1);
        for (_, tail) in &mut tails[..last] {
            tail.is_replaced = true;
        }
        Ok(())
    }

    /// The file to which a path leads, and the files that were rotated away after the newest known one, with their paths. The
    /// number is that of the files which are too many to be opened now.
    fn find_files(&mut self, number: usize) -> Result<(Option<FileAtPath>, Vec<FileAtPath>, usize)> {
        let path = self.paths[number].path.clone();
        let found = match self.watch.resolve(&path, number)? {
            Some(home) => self.open(number, &home)?.map(|open| (open, home)),
            None => None,
        };
        let newest = self.paths[number].newest.clone();
        let Some((newest, home)) =
            newest.filter(|(newest, _)| found.as_ref().is_none_or(|(open, _)| !open.identity.is_same(*newest)))
        else {
            return Ok((found, Vec::new(), 0));
        };
        let max = TAILS_MAX.saturating_sub(self.paths[number].tails.len());
        let (later, unopened) = rotation::after(&home, newest, max)?;
        Ok((found, later.into_iter().map(|open| (open, home.clone())).collect(), unopened))
    }

    /// Opens the file to which a path leads. A file that may not be read yet is none: a rotation can create a file and then change
    /// its permissions.
    fn open(&mut self, number: usize, home: &Path) -> Result<Option<OpenFile>> {
        let followed = &mut self.paths[number];
        match OpenFile::open(home) {
            Err(Error::Io(_, err)) if err.kind() == std::io::ErrorKind::PermissionDenied && !followed.tails.is_empty() => {
                if !std::mem::replace(&mut followed.is_unreadable, true) {
                    self.notices.push(FollowNotice::Unreadable(followed.path.clone(), err.to_string()));
                }
                Ok(None)
            }
            opened => {
                followed.is_unreadable = false;
                opened
            }
        }
    }

    fn is_known(&self, number: usize, identity: Identity) -> bool {
        let followed = &self.paths[number];
        let is_open = followed.tails.iter().any(|(_, tail)| tail.identity.is_same(identity));
        is_open || followed.done.iter().any(|done| Identity::stored(done).is_same(identity))
    }

    /// Finds out which replaced files no process writes to any more.
    fn seal(&mut self, number: usize) -> Result<()> {
        let PathFiles { tails, unopened, .. } = &mut self.paths[number];
        for at in 0..tails.len() {
            let is_above_max = tails.len() + *unopened - at > TAILS_MAX;
            // A writer that has begun the next file has usually left this one.
            let next_bytes = tails.get(at + 1).map_or(Ok(0), |(_, next)| next.bytes())?;
            let next_has_begun = at + 2 < tails.len() || next_bytes > 0;
            let (_, tail) = &mut tails[at];
            if !tail.is_replaced || tail.is_sealed || !tail.may_be_closed && !is_above_max {
                continue;
            }
            let is_closed = tail.is_closed();
            // If the kernel does not say it, the question stays open until the next file has begun.
            tail.may_be_closed = is_closed.is_none();
            if is_above_max || is_closed.unwrap_or(next_has_begun) {
                // Its writers can have written until the last look at them.
                (tail.is_sealed, tail.may_have_more) = (true, true);
            }
        }
        Ok(())
    }

    fn current_tail(&self) -> Option<&Tail> {
        let (path, number) = self.current?;
        self.paths[path].tails.iter().find(|(known, _)| *known == number).map(|(_, tail)| tail)
    }

    fn current_tail_mut(&mut self) -> Option<&mut Tail> {
        let (path, number) = self.current?;
        self.paths[path].tails.iter_mut().find(|(known, _)| *known == number).map(|(_, tail)| tail)
    }

    /// Reads the file of the last [`Step::Read`] into `room`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self, room: &mut [u8]) -> Result<Found> {
        let Some(tail) = self.current_tail_mut() else { return Ok(Found::Nothing) };
        match tail.read(room)? {
            Read::Bytes(count) => Ok(Found::Bytes(count)),
            Read::End if tail.is_sealed => Ok(Found::End),
            Read::End => Ok(Found::Nothing),
            Read::Truncated => {
                let path = self.current.map_or_else(PathBuf::new, |(path, _)| self.paths[path].path.clone());
                self.notices.push(FollowNotice::Truncated(path));
                Ok(Found::Again)
            }
        }
    }

    /// Whether the next bytes are the first ones of the file.
    pub fn is_at_start(&self) -> bool {
        self.current_tail().is_some_and(Tail::is_at_start)
    }

    /// The number of pieces that were left out of the line at the position of the current file, and their length in bytes. They
    /// are not read again while this process runs.
    pub fn pieces(&self) -> (u64, usize) {
        self.current_tail().map_or((0, 0), |tail| tail.pieces)
    }

    /// All lines of the current file are in the batch, except for the last `rest` bytes that were read. The first of these bytes are
    /// `pieces`, see [`Tails::pieces`].
    pub fn keep_rest(&mut self, rest: usize, pieces: (u64, usize)) {
        if let Some(tail) = self.current_tail_mut() {
            let before = tail.position();
            tail.keep_rest(rest as u64);
            tail.pieces = pieces;
            self.has_progress |= tail.position() != before;
        }
    }

    /// The current file is done: its last line is in the batch.
    pub fn end(&mut self) {
        if let Some((path, number)) = self.current.take() {
            let followed = &mut self.paths[path];
            if let Some(at) = followed.tails.iter().position(|(known, _)| *known == number) {
                let (_, tail) = followed.tails.remove(at);
                followed.done.push(FollowedFile { is_done: true, ..tail.stored() });
                followed.done.drain(..followed.done.len().saturating_sub(DONE_MAX));
                // Each look reads the directory, so each opens many files. The last tail is never replaced, so some are left.
                let open = followed.tails.len();
                followed.must_look |= followed.unopened > 0 && (open <= TAILS_MAX / 2 || open + followed.unopened <= TAILS_MAX);
            }
            self.watch.remove_file(number);
        }
        self.has_progress = true;
    }

    /// The path that is read now, and the position behind the last byte that was read.
    pub fn place(&self) -> Option<(&Path, u64)> {
        let (path, _) = self.current?;
        Some((&self.paths[path].path, self.current_tail()?.read_to()))
    }

    /// Adds the positions that have changed to the batch.
    pub fn add_positions(&mut self, batch: &mut Batch) {
        for followed in &mut self.paths {
            let open: Vec<FollowedFile> = followed.tails.iter().map(|(_, tail)| tail.stored()).collect();
            let mut row = FollowedFile::encode_all(followed.done.iter().chain(&open));
            while row.len() > ROW_BYTES_MAX && !followed.done.is_empty() {
                followed.done.remove(0);
                row = FollowedFile::encode_all(followed.done.iter().chain(&open));
            }
            if !open.is_empty() && followed.row.as_ref() != Some(&row) {
                let known = followed.row.replace(row.clone());
                batch.set_position(FollowedPath { path: followed.path.clone(), known, row });
            }
        }
    }
}
