//! A log as a whole: open, create, info.

use std::path::{Path, PathBuf};

use super::files::open_once::OpenOnce;
use super::files::{created, data, directory, identity, space};
use super::lmdb::{Env, ReadTxn};
use super::notify::{self, InotifyLimit, Notifier, Watcher};
use super::rows::FORMAT;
use crate::model::{Error, HashedEntry, Offset, PeerId, Result, Seq, Tombstone};

/// An open log. Threads can share it. Other processes can open the same directory.
pub struct Log {
    dir: PathBuf,
    pub(super) env: Env,
    id: PeerId,
    /// `None`: the log is open for reading only.
    pub(super) notifier: Option<Notifier>,
    is_new: bool,
    /// The id of the log before it was opened, if this process has found that the log is a copy.
    copy_of: Option<PeerId>,
    /// Dropped last, after the environment is closed.
    _open_once: OpenOnce,
}

/// Facts about a log as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// Its current peer id.
    pub id: PeerId,
    /// The number of feeds that hold an entry.
    pub feeds: u64,
    /// The number of entries that are here, including deleted entries.
    pub entries: u64,
    /// The disk space of the data file and the packs, in bytes.
    pub bytes_on_disk: u64,
    /// The disk space of the data file, in bytes.
    pub data_bytes: u64,
    /// The length of all packs, in bytes.
    pub packs_bytes: u64,
    /// The number of packs.
    pub packs: u64,
    /// The number of entries in packs.
    pub packed_entries: u64,
    /// The offset of the last entry.
    pub last_offset: Offset,
    /// The root. Logs with equal roots hold the same feeds.
    pub root: u128,
    /// The number of feeds that are known to have forked.
    pub forks: u64,
    /// The last offset that was pruned, [`Offset::ZERO`] if there is none.
    pub floor: Offset,
}

impl Log {
    /// Opens the log in `dir` for reading and writing. If it was copied or restored from a backup, it takes a new id: see
    /// [`Log::copy_of`].
    ///
    /// ```
    /// use scuttleup::{Error, Log, PeerId};
    ///
    /// # let dir = std::env::temp_dir().join(format!("scuttleup-doc-open-{}", std::process::id()));
    /// assert!(matches!(Log::open(&dir), Err(Error::NoLog(_))));
    /// let log = Log::create(&dir, Some(PeerId::new("alice")?))?;
    /// assert!(matches!(Log::open(&dir), Err(Error::AlreadyOpen(_))), "a process must share the open log");
    /// drop(log);
    /// assert_eq!(Log::open(&dir)?.id().as_str(), "alice");
    /// # std::fs::remove_dir_all(dir).ok();
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoLog`] if `dir` holds no log; [`Error::NewerFormat`], [`Error::Truncated`], [`Error::CommitsLost`] or
    /// [`Error::Corrupt`] if the log cannot be used; [`Error::Io`] if the operating system reports an error.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_as(dir.as_ref(), Access::Write)
    }

    /// As [`Log::open`], but the log keeps its id, because the user knows that it was moved to `dir` and that no other copy of
    /// it is used. From now on, the log lives in `dir`.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_moved(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_as(dir.as_ref(), Access::WriteMoved)
    }

    /// Opens the log in `dir` for reading.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_as(dir.as_ref(), Access::Read)
    }

    fn open_as(dir: &Path, access: Access) -> Result<Self> {
        directory::check(dir)?;
        if !data::check(dir)? {
            return Err(Error::NoLog(dir.to_path_buf()));
        }
        let open_once = OpenOnce::new(dir)?;
        let env = Env::open(dir, access != Access::Read)?;
        if !env.has_tables() {
            return Err(without_tables(dir));
        }
        let env = if access != Access::Read && !env.is_newest() { upgrade(dir, env)? } else { env };
        Self::with_env(dir, env, access, open_once)
    }

    /// Opens the log in `dir`, and creates it with a random id if it does not exist: see [`Log::is_new`].
    ///
    /// # Errors
    /// As [`Log::open`]; [`Error::NotEmpty`] if `dir` holds no log, but other files.
    pub fn open_or_create(dir: impl AsRef<Path>) -> Result<Self> {
        match Self::open(&dir) {
            Err(Error::NoLog(_)) => Self::create_or_open(dir.as_ref(), None, Access::Write),
            opened => opened,
        }
    }

    /// Creates a log in `dir`, with `id` or a random one.
    ///
    /// # Errors
    /// [`Error::LogExists`] if `dir` already holds a log; else as [`Log::open_or_create`].
    pub fn create(dir: impl AsRef<Path>, id: Option<PeerId>) -> Result<Self> {
        // A log that exists stays as it is, also if it is a copy.
        let log = Self::create_or_open(dir.as_ref(), id, Access::Read)?;
        if log.is_new { Ok(log) } else { Err(Error::LogExists(log.dir, log.id)) }
    }

    /// Creates the log. `existing` is the access to a log that exists.
    fn create_or_open(dir: &Path, id: Option<PeerId>, existing: Access) -> Result<Self> {
        let created_dirs = directory::create(dir)?;
        let was_created = data::check(dir)?;
        if !was_created {
            // Before LMDB creates its files.
            directory::check_unused(dir)?;
        }
        let open_once = OpenOnce::new(dir)?;
        let mut env = Env::open(dir, true)?;
        let mut is_new = false;
        if was_created && !env.has_tables() {
            return Err(without_tables(dir));
        }
        if !env.has_tables() {
            let id = id.map_or_else(identity::random_id, Ok)?;
            let place = env.place();
            // The names must be durable before other processes can see the log: they may acknowledge entries, which must not
            // be lost.
            directory::sync(dir, &created_dirs)?;
            env = env
                .create_tables(|txn| {
                    // Another process may have created the log meanwhile.
                    is_new = txn.format()?.is_none();
                    if is_new {
                        txn.set_format(FORMAT)?;
                        txn.set_local_id(&id)?;
                        txn.set_root(0)?;
                        txn.set_place(place)?;
                    }
                    Ok(())
                })
                .map_err(|err| space::explain_failed_write(dir, err, 0))?;
        }
        let access = if is_new { Access::Create } else { existing };
        Self::with_env(dir, env, access, open_once)
    }

    fn with_env(dir: &Path, env: Env, access: Access, open_once: OpenOnce) -> Result<Self> {
        let txn = env.read()?;
        match txn.format()? {
            None | Some(0) => return Err(Error::Corrupt(format!("the log in {} has no format", dir.display()))),
            Some(format) if format > FORMAT => return Err(Error::NewerFormat(dir.to_path_buf(), format)),
            Some(_) => {}
        }
        let id = txn.local_id()?;
        drop(txn);
        let notifier = if access == Access::Read {
            None
        } else {
            let written = created::write(dir, FORMAT, &id);
            // A log of an earlier program, or one whose creator was killed, gets the file now. It can be used without it.
            if access == Access::Create {
                written?;
            }
            Some(Notifier::open(dir)?)
        };
        let is_new = access == Access::Create;
        let mut log = Self { dir: dir.to_path_buf(), env, id, notifier, is_new, copy_of: None, _open_once: open_once };
        if matches!(access, Access::Write | Access::WriteMoved) {
            log.settle(access == Access::WriteMoved)?;
        }
        Ok(log)
    }

    /// Stores the place of the data file, if another one is stored. Then the log was copied or restored, and it takes a new id
    /// in the same commit, unless it `keeps_id`.
    fn settle(&mut self, keeps_id: bool) -> Result<()> {
        let place = self.env.place();
        if self.env.read()?.place()?.is_some_and(|stored| stored.is(place) && !stored.is_old()) {
            return Ok(());
        }
        let mut writer = self.writer()?;
        // Another process may have opened the copy first, so the row is read again.
        let is_copy = writer.stored_place()?.is_none_or(|stored| !stored.is(place));
        let old = writer.local_id()?;
        let new = if is_copy && !keeps_id { Some(writer.renew_id()?) } else { None };
        writer.set_place(place)?;
        writer.commit()?;
        self.copy_of = new.is_some().then(|| old.clone());
        self.id = new.unwrap_or(old);
        Ok(())
    }

    /// Whether the log is not at the place where it lived: it was copied, restored, or moved to another file system. The next
    /// process that opens it for writing gives it a new id.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn is_displaced(&self) -> Result<bool> {
        let stored = self.env.read()?.place()?;
        Ok(stored.is_none_or(|stored| !stored.is(self.env.place())))
    }

    /// The id that the log had before this process opened it, if the log was copied or restored from a backup. It then has
    /// taken a new id, so that the original and the copy cannot give the same seq to different entries.
    pub fn copy_of(&self) -> Option<&PeerId> {
        self.copy_of.as_ref()
    }

    /// Calls `read` with a snapshot, and again with a new one if a pack of the snapshot was replaced or removed meanwhile.
    ///
    /// # Errors
    /// [`Error::PackMissing`] if a pack of the new snapshot is missing too; every error of `read`.
    pub(super) fn in_snapshot<T>(&self, mut read: impl FnMut(&ReadTxn<'_>) -> Result<T>) -> Result<T> {
        let mut missing = None;
        loop {
            match read(&self.env.read()?) {
                Err(Error::PackMissing(path)) if missing.as_ref() != Some(&path) => missing = Some(path),
                result => return result,
            }
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether this log did not exist before this process opened it.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The log's peer id when it was opened. The log may have received a new id since then
    /// ([`Writer::renew_id`](super::Writer::renew_id)). A process that keeps the log open must use [`Log::local_id`].
    pub fn id(&self) -> &PeerId {
        &self.id
    }

    /// The log's current peer id, which names its local feed.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn local_id(&self) -> Result<PeerId> {
        self.env.read()?.local_id()
    }

    /// The offset of the last entry, [`Offset::ZERO`] in an empty log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn last_offset(&self) -> Result<Offset> {
        self.env.read()?.last_offset()
    }

    /// The last offset that was pruned, [`Offset::ZERO`] if there is none. A scan begins after it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn pruned(&self) -> Result<Offset> {
        self.env.read()?.floor()
    }

    /// Checks that `after` can be a position in this log. A position above the last offset is from another log, or from this log
    /// before it was restored or created again. A reader would take later entries for entries that it has read.
    ///
    /// # Errors
    /// [`Error::UnknownOffset`] if it cannot.
    pub fn check_offset(&self, after: Offset) -> Result<()> {
        let last = self.last_offset()?;
        if after > last { Err(Error::UnknownOffset { after, last }) } else { Ok(()) }
    }

    /// Facts about the log as a whole.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn info(&self) -> Result<Info> {
        let txn = self.env.read()?;
        let (last_offset, floor) = (txn.last_offset()?, txn.floor()?);
        let (mut packs, mut packed_entries, mut packs_bytes) = (0, 0, 0);
        txn.packs(|row| {
            packs += 1;
            packed_entries += row.entries;
            packs_bytes += row.file_bytes;
        })?;
        let data_bytes = data::disk_bytes(&self.dir)?;
        Ok(Info {
            forks: txn.fork_count()?,
            id: txn.local_id()?,
            feeds: txn.feed_count()?,
            entries: last_offset.0.saturating_sub(floor.0),
            bytes_on_disk: data_bytes + packs_bytes,
            data_bytes,
            packs_bytes,
            packs,
            packed_entries,
            last_offset,
            root: txn.root()?,
            floor,
        })
    }

    /// Appends one entry to the local feed, durably, and returns its seq.
    ///
    /// For many entries, one [`Writer`](super::Writer) is faster: it makes them durable together.
    ///
    /// ```
    /// use scuttleup::{HashedEntry, Log};
    ///
    /// # let dir = std::env::temp_dir().join(format!("scuttleup-doc-append-{}", std::process::id()));
    /// # let log = Log::open_or_create(&dir)?;
    /// assert_eq!(log.append(b"{\"n\":1}")?.get(), 1);
    ///
    /// let mut writer = log.writer()?;
    /// for n in 2..=1000 {
    ///     let bytes = format!("{{\"n\":{n}}}");
    ///     writer.append(HashedEntry::new(bytes.as_bytes()))?;
    /// }
    /// assert_eq!(writer.commit()?.new, 999);
    /// # std::fs::remove_dir_all(dir).ok();
    /// # Ok::<(), scuttleup::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the log cannot be written, among others [`Error::DiskFull`] and [`Error::MapFull`]. Then nothing is stored.
    pub fn append(&self, bytes: &[u8]) -> Result<Seq> {
        let entry = HashedEntry::new(bytes);
        let mut writer = self.writer()?;
        let seq = writer.append(entry)?;
        writer.commit()?;
        Ok(seq)
    }

    /// Deletes the bytes of one entry. The feed keeps the entry's seq, hash and length. Returns `None` if the log does not
    /// hold the entry.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn delete(&self, peer: &str, seq: Seq) -> Result<Option<Tombstone>> {
        let mut writer = self.writer()?;
        let tombstone = writer.delete(peer, seq)?;
        writer.commit()?;
        Ok(tombstone)
    }

    /// Checks that this process sees what writers commit from now on, and that no commit was lost.
    ///
    /// # Errors
    /// [`Error::ReplacedWhileFollowed`] if it does not, [`Error::CommitsLost`] if a commit was lost.
    pub(crate) fn check_in_place(&self) -> Result<()> {
        // The bell is read before the data file: a commit in between makes only the data file newer.
        let bell = notify::last_commit(&self.dir);
        // Before an error of the bell: it can come from a move of the directory at this moment.
        if !self.env.is_in_place()? {
            return Err(Error::ReplacedWhileFollowed);
        }
        self.check_commits(bell?, self.env.newest_txn()?)
    }

    /// Checks that the commit `newest` is not older than `bell`, the number in the file `bell`.
    pub(super) fn check_commits(&self, bell: Option<u64>, newest: u64) -> Result<()> {
        if bell.is_some_and(|bell| newest < bell) {
            return Err(Error::CommitsLost(self.dir.join(data::FILE_NAME)));
        }
        Ok(())
    }

    pub(crate) fn watcher(&self) -> Result<Result<Watcher, InotifyLimit>> {
        Watcher::new(&self.dir)
    }
}

/// Gives a log of format 1 the tables of the newest format. A program that knows only format 1 refuses the log from then on.
fn upgrade(dir: &Path, env: Env) -> Result<Env> {
    let format = env.read()?.format()?;
    // Other formats are refused later.
    if format != Some(1) {
        return Ok(env);
    }
    let upgraded = env.create_tables(|txn| txn.set_format(FORMAT));
    upgraded.map_err(|err| space::explain_failed_write(dir, err, 0))
}

/// The error for a log that was created, and whose tables cannot be found: a new log in its place would hide the loss.
fn without_tables(dir: &Path) -> Error {
    Error::Corrupt(format!("{} holds a log, but a table is missing in {}", dir.display(), data::FILE_NAME))
}

/// The purpose of opening a log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    /// Write, and the place of the log is new, but its id stays.
    WriteMoved,
    /// Write, and this process has created the tables.
    Create,
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;

    use super::super::files::place::Place;
    use super::*;

    fn log(dir: &tempfile::TempDir) -> Log {
        let log = Log::create(dir.path(), Some(PeerId::new("own").unwrap())).unwrap();
        log.append(b"1").unwrap();
        log
    }

    #[test]
    fn a_data_file_that_was_written_anew_with_its_own_place_is_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (data, new) = (dir.path().join(data::FILE_NAME), dir.path().join("data.mdb.new"));
        let log = log(&dir);
        let mut writer = log.writer().unwrap();
        writer.set_place(Place::of(&File::create(&new).unwrap()).unwrap()).unwrap();
        writer.commit().unwrap();
        assert!(log.is_displaced().unwrap(), "until the new file is in its place");
        drop(log);
        fs::write(&new, fs::read(&data).unwrap()).unwrap();
        fs::rename(&new, &data).unwrap();
        let log = Log::open(dir.path()).unwrap();
        assert!(log.copy_of().is_none() && log.id().as_str() == "own" && !log.is_displaced().unwrap());
        // With the place of the old file, it is a copy.
        drop(log);
        fs::write(&new, fs::read(&data).unwrap()).unwrap();
        fs::rename(&new, &data).unwrap();
        assert!(Log::open(dir.path()).unwrap().copy_of().is_some_and(|old| old.as_str() == "own"));
    }

    #[test]
    fn the_place_of_an_earlier_program_is_replaced_and_a_copy_of_such_a_log_takes_a_new_id() {
        let dir = tempfile::tempdir().unwrap();
        let about = {
            drop(log(&dir));
            fs::metadata(dir.path().join(data::FILE_NAME)).unwrap()
        };
        let old_form = |inode: u64| {
            let env = Env::open(dir.path(), true).unwrap();
            let mut txn = env.write().unwrap();
            txn.set_old_place(about.dev(), inode).unwrap();
            txn.commit().unwrap();
        };
        let is_old = || Env::open(dir.path(), false).unwrap().read().unwrap().place().unwrap().unwrap().is_old();
        old_form(about.ino());
        assert!(!Log::open_read_only(dir.path()).unwrap().is_displaced().unwrap() && is_old(), "a reader changes nothing");
        let log = Log::open(dir.path()).unwrap();
        assert!(log.copy_of().is_none() && log.id().as_str() == "own");
        drop(log);
        assert!(!is_old());
        old_form(about.ino() + 1);
        let log = Log::open(dir.path()).unwrap();
        assert!(log.copy_of().is_some() && *log.id() == log.local_id().unwrap() && log.id().as_str().starts_with("own~"));
        drop(log);
        assert!(!is_old());
    }
}
