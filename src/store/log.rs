//! Opening and making a log, and what is known of it as a whole.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::bell::{Bell, BellWatch};
use super::layout::FORMAT;
use super::lmdb::Env;
use super::once::OpenOnce;
use super::{datafile, identity};
use crate::entry::{Entry, Kind, Offset, PeerId, Seq, Tomb};
use crate::error::{Error, Result};
use crate::heads::Heads;

/// An open log. Any number of threads may share one; any number of processes may open the same directory.
pub struct Log {
    dir: PathBuf,
    pub(super) env: Env,
    id: PeerId,
    pub(super) bell: Option<Bell>,
    /// Dropped last, when the environment is closed.
    _once: OpenOnce,
}

/// A log as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// Its peer id, as it is now.
    pub id: PeerId,
    /// How many feeds hold an entry.
    pub feeds: u64,
    /// How many entries, deleted ones included.
    pub entries: u64,
    /// What the data file takes on disk, in bytes.
    pub bytes_on_disk: u64,
    /// The offset of the last entry.
    pub last_offset: Offset,
    /// The root: equal roots are equal logs.
    pub root: u128,
    /// How many feeds are known to have forked.
    pub forks: u64,
}

/// What `meta` holds.
pub(super) mod meta {
    use crate::entry::Seq;
    use crate::error::Result;
    use crate::store::layout::bad_row;

    pub const FORMAT: &str = "format";
    pub const ID: &str = "id";
    pub const ROOT: &str = "root";
    pub const CLONE: &str = "clone";
    /// With a peer id behind it: that feed has forked, and the lowest seq that is known to differ. 260 bytes at the most,
    /// of LMDB's 511.
    pub const FORK: &str = "fork ";

    /// The seq of a fork mark.
    pub fn fork_seq(value: &[u8]) -> Result<Seq> {
        let seq = value.try_into().ok().and_then(|value| Seq::new(u64::from(u32::from_le_bytes(value))));
        seq.ok_or_else(|| bad_row("meta"))
    }
}

impl Log {
    /// Opens the log in `dir` for reading and writing.
    ///
    /// ```
    /// use scuttleup::{Error, Log, PeerId};
    ///
    /// # let dir = std::env::temp_dir().join(format!("scuttleup-doc-open-{}", std::process::id()));
    /// assert!(matches!(Log::open(&dir), Err(Error::NoLog(_))));
    /// let made = Log::create(&dir, Some(PeerId::new("alice")?))?;
    /// assert!(matches!(Log::open(&dir), Err(Error::OpenTwice(_))), "a process shares the one that it has");
    /// drop(made);
    /// assert_eq!(Log::open(&dir)?.id().as_str(), "alice");
    /// # std::fs::remove_dir_all(dir).ok();
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoLog`] when there is none; [`Error::NewerFormat`], [`Error::Truncated`], [`Error::Corrupt`] for what
    /// cannot be used as it is; [`Error::Io`] when the system refuses.
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
        check_directory(dir)?;
        if !datafile::check(dir)? {
            return Err(Error::NoLog(dir.to_path_buf()));
        }
        let once = OpenOnce::new(dir)?;
        let env = Env::open(dir, write).map_err(|err| in_dir(err, dir))?;
        if !env.is_made() {
            return Err(Error::NoLog(dir.to_path_buf()));
        }
        Self::with_env(dir, env, write, once)
    }

    /// Opens the log in `dir`, and makes one with a random id if there is none.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_or_create(dir: impl AsRef<Path>) -> Result<Self> {
        match Self::open(&dir) {
            Err(Error::NoLog(_)) => Self::make(dir.as_ref(), None).map(|(log, _)| log),
            opened => opened,
        }
    }

    /// Makes a log in `dir`, with `id` or a random one.
    ///
    /// # Errors
    /// [`Error::LogExists`] when there is one; else as [`Log::open`].
    pub fn create(dir: impl AsRef<Path>, id: Option<PeerId>) -> Result<Self> {
        match Self::make(dir.as_ref(), id)? {
            (log, true) => Ok(log),
            (log, false) => Err(Error::LogExists(log.dir, log.id)),
        }
    }

    /// The log, and whether it was this call that made it.
    fn make(dir: &Path, id: Option<PeerId>) -> Result<(Self, bool)> {
        let made_dirs = make_directory(dir)?;
        datafile::check(dir)?;
        let once = OpenOnce::new(dir)?;
        let mut env = Env::open(dir, true).map_err(|err| in_dir(err, dir))?;
        let mut made = false;
        if !env.is_made() {
            let id = id.map_or_else(identity::random_id, Ok)?;
            let clone = datafile::clone_marker(dir)?;
            // Before others can see the log: what they acknowledge is under these names.
            sync_directories(dir, &made_dirs)?;
            env = env
                .make_tables(|txn| {
                    // Another process may have been faster.
                    made = txn.meta(meta::FORMAT)?.is_none();
                    if made {
                        txn.put_meta(meta::FORMAT, &FORMAT.to_le_bytes())?;
                        txn.put_meta(meta::ID, id.as_str().as_bytes())?;
                        txn.put_meta(meta::ROOT, &0u128.to_le_bytes())?;
                        txn.put_meta(meta::CLONE, &clone)?;
                    }
                    Ok(())
                })
                .map_err(|err| datafile::explain(dir, err, 0))?;
        }
        let log = Self::with_env(dir, env, true, once)?;
        Ok((log, made))
    }

    fn with_env(dir: &Path, env: Env, write: bool, once: OpenOnce) -> Result<Self> {
        let txn = env.read()?;
        let format = txn.meta(meta::FORMAT)?.and_then(|value| value.try_into().ok()).map_or(0, u32::from_le_bytes);
        if format > FORMAT {
            return Err(Error::NewerFormat(dir.to_path_buf(), format));
        }
        let id = own_id(txn.meta(meta::ID)?)?;
        drop(txn);
        let bell = if write { Some(Bell::open(dir)?) } else { None };
        Ok(Self { dir: dir.to_path_buf(), env, id, bell, _once: once })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log's own peer id as it was when it was opened. Whoever has the log open for long asks
    /// [`Log::own_id_now`]: the log may have taken a new id since ([`Writer::renew_id`](super::Writer::renew_id)).
    pub fn id(&self) -> &PeerId {
        &self.id
    }

    /// The log's own peer id as it is now: whose feed an append goes to.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn own_id_now(&self) -> Result<PeerId> {
        own_id(self.env.read()?.meta(meta::ID)?)
    }

    /// The highest seq of each feed.
    ///
    /// ```
    /// # use scuttleup::{Log, PeerId};
    /// # let dir = std::env::temp_dir().join(format!("scuttleup-doc-heads-{}", std::process::id()));
    /// # let log = Log::create(&dir, Some(PeerId::new("alice")?))?;
    /// log.append(b"one")?;
    /// log.append(b"two")?;
    /// let heads = log.heads()?;
    /// assert_eq!((heads.get("alice"), heads.get("bob")), (2, 0));
    /// # std::fs::remove_dir_all(dir).ok();
    /// # Ok::<(), scuttleup::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn heads(&self) -> Result<Heads> {
        let mut heads = Heads::new();
        self.env.read()?.feeds(|peer, row| {
            heads.raise(&PeerId::new(peer)?, row.head);
            Ok(())
        })?;
        Ok(heads)
    }

    /// Gives each feed and its head to `each`, and returns the offset of the last entry at that moment. For logs of so
    /// many feeds that [`Heads`] would be too large; `each` must not block.
    pub(crate) fn each_head(&self, mut each: impl FnMut(&str, u32)) -> Result<Offset> {
        let txn = self.env.read()?;
        txn.feeds(|peer, row| {
            each(peer, row.head);
            Ok(())
        })?;
        txn.last_offset()
    }

    /// The offset of the last entry.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn last_offset(&self) -> Result<Offset> {
        self.env.read()?.last_offset()
    }

    /// The log as a whole.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn info(&self) -> Result<Info> {
        let txn = self.env.read()?;
        let mut forks = 0;
        txn.metas(meta::FORK.as_bytes(), |_, _| {
            forks += 1;
            Ok(())
        })?;
        Ok(Info {
            id: own_id(txn.meta(meta::ID)?)?,
            feeds: txn.feed_count()?,
            entries: txn.entry_count()?,
            bytes_on_disk: datafile::disk_bytes(&self.dir)?,
            last_offset: txn.last_offset()?,
            root: root_in(&txn)?,
            forks,
        })
    }

    /// Appends one entry to the own feed, durably, and gives its seq.
    ///
    /// Many entries are faster through one [`Writer`](super::Writer), which makes them durable together:
    ///
    /// ```
    /// use scuttleup::{Entry, Log};
    ///
    /// # let dir = std::env::temp_dir().join(format!("scuttleup-doc-append-{}", std::process::id()));
    /// # let log = Log::open_or_create(&dir)?;
    /// assert_eq!(log.append(b"{\"n\":1}")?.get(), 1);
    ///
    /// let mut writer = log.writer()?;
    /// for n in 2..=1000 {
    ///     let bytes = format!("{{\"n\":{n}}}");
    ///     let entry = Entry::new(bytes.as_bytes());
    ///     writer.append(entry, entry.tomb())?;
    /// }
    /// assert_eq!(writer.commit()?.new, 999);
    /// # std::fs::remove_dir_all(dir).ok();
    /// # Ok::<(), scuttleup::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DiskFull`] and [`Error::MapFull`], among others; nothing is stored then.
    pub fn append(&self, bytes: &[u8]) -> Result<Seq> {
        let entry = Entry::Bytes(bytes, Kind::of(bytes));
        let tomb = entry.tomb();
        let mut writer = self.writer()?;
        let seq = writer.append(entry, tomb)?;
        writer.commit()?;
        Ok(seq)
    }

    /// Forgets the bytes of one entry. The feed keeps its place, its hash and its length.
    ///
    /// # Errors
    /// When the log cannot be written. `Ok(None)` when it holds no such entry.
    pub fn delete(&self, peer: &str, seq: Seq) -> Result<Option<Tomb>> {
        let mut writer = self.writer()?;
        let tomb = writer.delete(peer, seq)?;
        writer.commit()?;
        Ok(tomb)
    }

    pub(crate) fn watch_bell(&self) -> Result<BellWatch> {
        BellWatch::new(&self.dir)
    }
}

pub(super) fn own_id(value: Option<&[u8]>) -> Result<PeerId> {
    value.ok_or_else(|| Error::Corrupt("the log has no id".into())).and_then(PeerId::from_bytes)
}

pub(super) fn root_in<T: ::lmdb::Transaction>(txn: &super::lmdb::Txn<T>) -> Result<u128> {
    let root = txn.meta(meta::ROOT)?.and_then(|value| value.try_into().ok());
    root.map(u128::from_le_bytes).ok_or_else(|| Error::Corrupt("the log has no root".into()))
}

/// Says which log it was.
fn in_dir(err: Error, dir: &Path) -> Error {
    match err {
        Error::Io(doing, err) => Error::Io(format!("{}: {doing}", dir.display()), err),
        err => err,
    }
}

fn check_directory(dir: &Path) -> Result<()> {
    match fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Error::NotADirectory(dir.to_path_buf())),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Err(Error::NoLog(dir.to_path_buf())),
        Err(err) if err.kind() == io::ErrorKind::NotADirectory => Err(Error::NotADirectory(dir.to_path_buf())),
        Err(err) => Err(Error::io(format!("{} cannot be opened", dir.display()), err)),
    }
}

/// Makes the directory, and says which ones it had to make.
fn make_directory(dir: &Path) -> Result<Vec<PathBuf>> {
    match check_directory(dir) {
        Err(Error::NoLog(_)) => {}
        checked => return checked.map(|()| Vec::new()),
    }
    let missing = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists());
    let missing = missing.map(Path::to_path_buf).collect();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|err| Error::io(format!("{} cannot be made", dir.display()), err))?;
    Ok(missing)
}

/// Makes the names of new files durable: the log's in its directory, and each directory's in its parent.
fn sync_directories(dir: &Path, made: &[PathBuf]) -> Result<()> {
    let parents = made
        .iter()
        .map(PathBuf::as_path)
        .chain([dir])
        .filter_map(|dir| fs::canonicalize(dir).ok()?.parent().map(Path::to_path_buf));
    for dir in parents.chain([dir.to_path_buf()]) {
        File::open(&dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|err| Error::io(format!("{} cannot be synced", dir.display()), err))?;
    }
    Ok(())
}
