//! Watches the names on the way to the followed paths, and the content of the files, with inotify.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::rotation::concerns;
use crate::model::{Error, Result};
use crate::store::InotifyLimit;

/// The most symbolic links on the way to a file, as the kernel allows.
const LINKS_MAX: usize = 40;

/// A change since the last look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changed {
    /// A name on the way to the path with this number, or of a rotated file of it.
    Name(usize),
    /// The content of the file with this number.
    Content(u64),
    /// A process has closed the file with this number after it could write to it.
    Closed(u64),
    /// Anything.
    All,
}

/// A name that is watched in a directory.
struct WatchedName {
    /// The number of the path.
    path: usize,
    name: OsString,
    /// Whether it is the name of the file, and not of a directory on the way.
    is_last: bool,
}

/// The result of [`Watch::add`].
#[derive(PartialEq, Eq)]
enum Added {
    Watch(WatchDescriptor),
    /// The permissions do not allow it.
    Denied,
    /// The name does not exist, or there is no inotify.
    Nothing,
}

/// The watches. Without inotify, everything may have changed at each look.
pub struct Watch {
    inotify: Option<Inotify>,
    limit: Option<InotifyLimit>,
    /// The numbers of the paths with a name that is in a directory which cannot be watched.
    unwatched: HashSet<usize>,
    /// The directories that cannot be watched.
    unwatched_dirs: HashSet<PathBuf>,
    /// Their errors that were not taken yet.
    errors: Vec<Error>,
    names: HashMap<WatchDescriptor, Vec<WatchedName>>,
    files: HashMap<WatchDescriptor, Vec<u64>>,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Result<Self> {
        let (inotify, limit) = match Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK) {
            Ok(inotify) => (Some(inotify), None),
            Err(Errno::EMFILE) => (None, Some(InotifyLimit::Instances)),
            Err(err) => return Err(failure(err)),
        };
        let (unwatched, unwatched_dirs, errors) = (HashSet::new(), HashSet::new(), Vec::new());
        Ok(Self { inotify, limit, unwatched, unwatched_dirs, errors, names: HashMap::new(), files: HashMap::new() })
    }

    /// The limit of inotify that is exhausted. Then nothing is watched.
    pub fn limit(&self) -> Option<InotifyLimit> {
        self.limit
    }

    /// A descriptor that is readable after a change. `None`: nothing is watched.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Whether every change of a name and of a content is an event.
    pub fn is_complete(&self) -> bool {
        self.inotify.is_some() && self.unwatched.is_empty()
    }

    /// The directories that cannot be watched, each once, with the reason.
    pub fn take_errors(&mut self) -> Vec<Error> {
        std::mem::take(&mut self.errors)
    }

    fn add(&mut self, path: &Path, events: AddWatchFlags) -> Result<Added> {
        let Some(inotify) = &self.inotify else { return Ok(Added::Nothing) };
        match inotify.add_watch(path, events) {
            Ok(watch) => Ok(Added::Watch(watch)),
            Err(Errno::ENOSPC) => {
                self.limit = Some(InotifyLimit::Watches);
                self.inotify = None;
                Ok(Added::Nothing)
            }
            // The name has changed meanwhile.
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(Added::Nothing),
            Err(Errno::EACCES) => Ok(Added::Denied),
            Err(err) => Err(failure(err)),
        }
    }

    /// Watches the content of an open file, under any name.
    pub fn add_file(&mut self, file: &File, number: u64) -> Result<()> {
        let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE;
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        match self.add(&path, events)? {
            Added::Watch(watch) => self.files.entry(watch).or_default().push(number),
            // An open file has this path wherever /proc is mounted.
            Added::Nothing if self.inotify.is_some() => return Err(failure(Errno::ENOENT)),
            Added::Denied => return Err(failure(Errno::EACCES)),
            Added::Nothing => {}
        }
        Ok(())
    }

    pub fn remove_file(&mut self, number: u64) {
        for files in self.files.values_mut() {
            files.retain(|&known| known != number);
        }
        let unused: Vec<WatchDescriptor> =
            self.files.iter().filter(|(_, files)| files.is_empty()).map(|(&watch, _)| watch).collect();
        for watch in unused {
            self.files.remove(&watch);
            self.inotify.as_ref().map(|inotify| inotify.rm_watch(watch).ok());
        }
    }

    /// Follows the symbolic links in the absolute path `path` with the number `number`, and watches each name on the way. Returns
    /// the path without symbolic links, or `None` if a name does not exist.
    pub fn resolve(&mut self, path: &Path, number: usize) -> Result<Option<PathBuf>> {
        for names in self.names.values_mut() {
            names.retain(|name| name.path != number);
        }
        self.unwatched.remove(&number);
        let resolved = self.resolve_and_watch(path, number);
        let unused: Vec<WatchDescriptor> =
            self.names.iter().filter(|(_, names)| names.is_empty()).map(|(&watch, _)| watch).collect();
        for watch in unused {
            self.names.remove(&watch);
            self.inotify.as_ref().map(|inotify| inotify.rm_watch(watch).ok());
        }
        resolved
    }

    fn resolve_and_watch(&mut self, path: &Path, number: usize) -> Result<Option<PathBuf>> {
        let fail = |err| Error::io(format!("{} cannot be followed", path.display()), err);
        let parts = |path: &Path| -> Vec<OsString> {
            path.components()
                .filter_map(|part| match part {
                    Component::Normal(name) => Some(name.to_owned()),
                    Component::ParentDir => Some(OsString::from("..")),
                    _ => None,
                })
                .collect()
        };
        let (mut left, mut real, mut links) = (VecDeque::from(parts(path)), PathBuf::from("/"), 0);
        while let Some(name) = left.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            // Before the look: a later change is an event.
            let is_denied = self.add_name(&real, &name, number, left.is_empty())?;
            let next = real.join(&name);
            let about = std::fs::symlink_metadata(&next);
            // A directory on the way has its own watch: it has the event if another one takes its name.
            let has_own_watch = about.as_ref().is_ok_and(Metadata::is_dir) && !left.is_empty();
            if is_denied && !has_own_watch {
                self.add_unwatched(&real, number);
            }
            match about {
                Ok(about) if about.is_symlink() => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(fail(Errno::ELOOP.into()));
                    }
                    let target = match std::fs::read_link(&next) {
                        Ok(target) => target,
                        Err(err) if is_missing(&err) => return Ok(None),
                        Err(err) => return Err(fail(err)),
                    };
                    if target.is_absolute() {
                        real = PathBuf::from("/");
                    }
                    parts(&target).into_iter().rev().for_each(|part| left.push_front(part));
                }
                Ok(_) => real = next,
                Err(err) if is_missing(&err) => return Ok(None),
                Err(err) => return Err(fail(err)),
            }
        }
        Ok(Some(real))
    }

    fn add_unwatched(&mut self, dir: &Path, path: usize) {
        self.unwatched.insert(path);
        if self.unwatched_dirs.insert(dir.to_path_buf()) {
            self.errors.push(Error::io(format!("{} cannot be watched", dir.display()), Errno::EACCES.into()));
        }
    }

    /// Watches a name in a directory. Returns true if the permissions of the directory do not allow it: this process may enter the
    /// directory, but not read it.
    fn add_name(&mut self, dir: &Path, name: &OsStr, path: usize, is_last: bool) -> Result<bool> {
        // IN_ATTRIB: a file that could not be read can be read now.
        let names = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ATTRIB;
        let own = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_ONLYDIR;
        match self.add(dir, names | own)? {
            Added::Watch(watch) => {
                self.names.entry(watch).or_default().push(WatchedName { path, name: name.to_owned(), is_last });
                Ok(false)
            }
            added => Ok(added == Added::Denied),
        }
    }

    /// Takes what has changed.
    pub fn take(&mut self) -> Result<Vec<Changed>> {
        let Some(inotify) = &self.inotify else { return Ok(Vec::new()) };
        let mut changed = Vec::new();
        loop {
            match inotify.read_events() {
                Ok(events) => events.iter().for_each(|event| self.add_changes(event, &mut changed)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(changed),
                Err(err) => return Err(failure(err)),
            }
        }
    }

    fn add_changes(&self, event: &InotifyEvent, changed: &mut Vec<Changed>) {
        let mut add = |change: Changed| {
            if !changed.contains(&change) {
                changed.push(change);
            }
        };
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return add(Changed::All);
        }
        for &file in self.files.get(&event.wd).into_iter().flatten() {
            add(Changed::Content(file));
            if event.mask.contains(AddWatchFlags::IN_CLOSE_WRITE) {
                add(Changed::Closed(file));
            }
        }
        for watched in self.names.get(&event.wd).into_iter().flatten() {
            let is_meant = |name: &OsString| *name == watched.name || watched.is_last && concerns(&watched.name, name);
            // An event of the directory itself has no name.
            if event.name.as_ref().is_none_or(is_meant) {
                add(Changed::Name(watched.path));
            }
        }
    }
}

fn is_missing(err: &std::io::Error) -> bool {
    matches!(err.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn failure(err: Errno) -> Error {
    Error::io("files cannot be watched", err.into())
}
