//! One file that is followed: its identity, the position in it, and whether its content is still the same.

use std::fs::{File, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{ENXIO, O_NONBLOCK};
use xxhash_rust::xxh3::xxh3_64;

use super::lease::has_writer;
use crate::model::{Error, Result};
use crate::store::{FollowedFile, birth_nanos};

/// The number of bytes at the start of a file that are compared before the bytes after the position are read.
const HEAD_BYTES: usize = 1024;
/// A last line is searched backwards in steps of this many bytes.
const BACK_BYTES: u64 = 64 << 10;

/// The identity of a file, under any name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub inode: u64,
    device: u64,
    /// In nanoseconds of Unix time. 0: not known.
    pub birth: u64,
}

impl Identity {
    /// The identity of the file that `about` is about.
    pub fn of(about: &Metadata) -> Self {
        Self { inode: about.ino(), device: about.dev(), birth: birth_nanos(about) }
    }

    /// The identity in a row of the log.
    pub fn stored(file: &FollowedFile) -> Self {
        Self { inode: file.inode, device: file.device, birth: file.birth }
    }

    /// Whether both are the same file. The number of the device can change at each mount, so it counts only without birth times.
    pub fn is_same(self, other: Self) -> bool {
        self.inode == other.inode && self.birth == other.birth && (self.birth > 0 || self.device == other.device)
    }
}

/// A regular file that is open for reading.
#[derive(Debug)]
pub struct OpenFile {
    pub file: File,
    pub identity: Identity,
}

impl OpenFile {
    /// Opens a file. `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened, or is no regular file.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let fail = |err| Error::io(format!("{} cannot be followed", path.display()), err);
        // Without waiting for the writer of a FIFO.
        let file = match File::options().read(true).custom_flags(O_NONBLOCK).open(path) {
            Ok(file) => file,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(err) if err.raw_os_error() == Some(ENXIO) => return Err(fail(std::io::Error::other("it is no regular file"))),
            Err(err) => return Err(fail(err)),
        };
        let about = file.metadata().map_err(fail)?;
        if !about.is_file() {
            return Err(fail(std::io::Error::other("it is no regular file")));
        }
        Ok(Some(Self { file, identity: Identity::of(&about) }))
    }
}

/// The result of [`Tail::read`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// This many bytes were read.
    Bytes(usize),
    /// The end of the file, for now.
    End,
    /// The file was truncated, or written anew: its content begins again.
    Truncated,
}

/// A file, and the position in it.
pub struct Tail {
    pub file: File,
    pub identity: Identity,
    /// The path of the file when its writer wrote to it.
    pub home: PathBuf,
    /// The position behind the last line that was read to its end.
    position: u64,
    /// The position behind the last byte that was read.
    read_to: u64,
    /// The number of pieces after `position` that were left out of a line which is not complete, and their length in bytes.
    pub pieces: (u64, usize),
    /// The first bytes of the file, up to [`HEAD_BYTES`] of those that were read.
    head: Vec<u8>,
    /// Whether a read may find more.
    pub may_have_more: bool,
    /// Whether another file has taken its name.
    pub is_replaced: bool,
    /// Whether it is replaced and no process writes to it any more: its end is the end of its last line.
    pub is_sealed: bool,
    /// Whether it is possible that its last writer has closed it since the last look.
    pub may_be_closed: bool,
}

impl Tail {
    /// A file that was not read yet.
    pub fn new(open: OpenFile, home: &Path) -> Self {
        Self {
            file: open.file,
            identity: open.identity,
            home: home.to_path_buf(),
            position: 0,
            read_to: 0,
            pieces: (0, 0),
            head: Vec::new(),
            may_have_more: true,
            is_replaced: false,
            is_sealed: false,
            may_be_closed: true,
        }
    }

    /// A file of which a part was read. Returns false if its content is not what was read: then it is read from its start.
    pub fn resume(open: OpenFile, stored: &FollowedFile) -> Result<(Self, bool)> {
        let mut tail = Self::new(open, &home(stored));
        let mut head = vec![0; usize::from(stored.head_bytes)];
        let count = tail.read_at(&mut head, 0)?;
        let is_same = count == head.len() && xxh3_64(&head) == stored.head && tail.bytes()? >= stored.position;
        if is_same {
            (tail.head, tail.position, tail.read_to) = (head, stored.position, stored.position);
        }
        Ok((tail, is_same))
    }

    /// The row for the log.
    pub fn stored(&self) -> FollowedFile {
        let Identity { inode, device, birth } = self.identity;
        FollowedFile {
            inode,
            device,
            birth,
            position: self.position,
            head_bytes: self.head.len() as u16,
            head: xxh3_64(&self.head),
            is_done: false,
            home: self.home.as_os_str().as_bytes().to_vec(),
        }
    }

    pub fn is_at_start(&self) -> bool {
        self.read_to == 0
    }

    /// The position behind the last byte that was read.
    pub fn read_to(&self) -> u64 {
        self.read_to
    }

    /// The position behind the last line that was read to its end.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Moves behind the last `separator` in the file.
    pub fn go_to_end(&mut self, separator: u8) -> Result<()> {
        let mut end = self.bytes()?;
        let mut block = vec![0; BACK_BYTES as usize];
        while end > 0 {
            let start = end.saturating_sub(BACK_BYTES);
            let count = self.read_at(&mut block[..(end - start) as usize], start)?;
            if let Some(found) = memchr::memrchr(separator, &block[..count]) {
                end = start + found as u64 + 1;
                break;
            }
            end = start;
        }
        let mut head = vec![0; HEAD_BYTES.min(end as usize)];
        let count = self.read_at(&mut head, 0)?;
        head.truncate(count);
        (self.head, self.position, self.read_to) = (head, end, end);
        Ok(())
    }

    /// Reads on. If the content has begun again, the bytes before do not count, and the position is the start of the file.
    pub fn read(&mut self, room: &mut [u8]) -> Result<Read> {
        let count = self.read_at(room, self.read_to)?;
        // After the read: the file can have been written anew before it.
        let mut head = [0; HEAD_BYTES];
        let head = &mut head[..self.head.len()];
        let is_same = self.read_at(head, 0)? == head.len() && *head == *self.head;
        if !is_same || count == 0 && self.bytes()? < self.read_to {
            (self.position, self.read_to, self.pieces, self.may_have_more) = (0, 0, (0, 0), true);
            self.head.clear();
            return Ok(Read::Truncated);
        }
        if count == 0 {
            self.may_have_more = false;
            return Ok(Read::End);
        }
        let known = self.head.len() as u64;
        if let Some(new) = known.checked_sub(self.read_to).and_then(|skipped| room[..count].get(skipped as usize..)) {
            self.head.extend(&new[..new.len().min(HEAD_BYTES - self.head.len())]);
        }
        self.read_to += count as u64;
        Ok(Read::Bytes(count))
    }

    /// All lines are done except for the last `rest` bytes that were read.
    pub fn keep_rest(&mut self, rest: u64) {
        self.position = self.read_to - rest;
    }

    /// The next read begins with the line that is not complete, after its pieces that were left out.
    pub fn go_back(&mut self) {
        self.read_to = self.position + self.pieces.1 as u64;
    }

    /// Whether no process writes to it any more. `None`: the kernel does not say.
    pub fn is_closed(&self) -> Option<bool> {
        has_writer(&self.file).map(|has_writer| !has_writer)
    }

    pub fn bytes(&self) -> Result<u64> {
        self.file.metadata().map(|about| about.len()).map_err(|err| self.failure(err))
    }

    /// Reads until `bytes` are full, or to the end of the file.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> Result<usize> {
        let mut count = 0;
        while count < bytes.len() {
            match self.file.read_at(&mut bytes[count..], at + count as u64) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
                Err(err) => return Err(self.failure(err)),
            }
        }
        Ok(count)
    }

    fn failure(&self, err: std::io::Error) -> Error {
        Error::io(format!("{} cannot be read", self.home.display()), err)
    }
}

/// The path in a row of the log.
pub fn home(stored: &FollowedFile) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(stored.home.clone()))
}
