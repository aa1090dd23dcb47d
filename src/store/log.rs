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
    /// The number of entries, including deleted entries.
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
}

impl Log {
    /// Opens the log in `dir` for reading and writing.
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
        Self::open_as(dir.as_ref(), true)
    }

    /// Opens the log in `dir` for reading.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_as(dir.as_ref(), false)
    }

    fn open_as(dir: &Path, write: bool) -> Result<Self> {
        directory::check(dir)?;
        if !data::check(dir)? {
            return Err(Error::NoLog(dir.to_path_buf()));
        }
        let open_once = OpenOnce::new(dir)?;
        let env = Env::open(dir, write)?;
        if !env.has_tables() {
            return Err(without_tables(dir));
        }
        let env = if write && !env.is_newest() { upgrade(dir, env)? } else { env };
        Self::with_env(dir, env, if write { Access::Write } else { Access::Read }, open_once)
    }

    /// Opens the log in `dir`, and creates it with a random id if it does not exist: see [`Log::is_new`].
    ///
    /// # Errors
    /// As [`Log::open`]; [`Error::NotEmpty`] if `dir` holds no log, but other files.
    pub fn open_or_create(dir: impl AsRef<Path>) -> Result<Self> {
        match Self::open(&dir) {
            Err(Error::NoLog(_)) => Self::create_or_open(dir.as_ref(), None),
            opened => opened,
        }
    }

    /// Creates a log in `dir`, with `id` or a random one.
    ///
    /// # Errors
    /// [`Error::LogExists`] if `dir` already holds a log; else as [`Log::open_or_create`].
    pub fn create(dir: impl AsRef<Path>, id: Option<PeerId>) -> Result<Self> {
        let log = Self::create_or_open(dir.as_ref(), id)?;
        if log.is_new { Ok(log) } else { Err(Error::LogExists(log.dir, log.id)) }
    }

    fn create_or_open(dir: &Path, id: Option<PeerId>) -> Result<Self> {
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
            let clone_marker = identity::clone_marker(dir)?;
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
                        txn.set_clone_marker(&clone_marker)?;
                    }
                    Ok(())
                })
                .map_err(|err| space::explain_failed_write(dir, err, 0))?;
        }
        let access = if is_new { Access::Create } else { Access::Write };
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
        Ok(Self { dir: dir.to_path_buf(), env, id, notifier, is_new: access == Access::Create, _open_once: open_once })
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
        let last_offset = txn.last_offset()?;
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
            entries: last_offset.0,
            bytes_on_disk: data_bytes + packs_bytes,
            data_bytes,
            packs_bytes,
            packs,
            packed_entries,
            last_offset,
            root: txn.root()?,
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
        let bell = notify::last_commit(&self.dir)?;
        if !self.env.is_in_place()? {
            return Err(Error::ReplacedWhileFollowed);
        }
        self.check_commits(bell, self.env.newest_txn()?)
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
    /// Write, and this process has created the tables.
    Create,
}
