//! Cursors: named positions of readers, stored in the log. A pruning does not pass them.
//!
//! One process at a time consumes a cursor. It stores the bounds of a batch before the batch is given to anyone, so that after a crash
//! exactly the same batch comes again. scuttleup-store(5) explains why no entry is skipped.

use super::Log;
use super::clock::now_millis;
use super::files::lock::Claim;
use super::rows::{bad_row, u32_at, u64_at};
use crate::model::{Error, Offset, PeerId, Result};

/// The maximum length of the name of a cursor, in bytes.
pub const CURSOR_BYTES_MAX: usize = 200;

/// The position of a reader.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Cursor {
    /// The offset of the last entry that was read.
    pub offset: Offset,
    /// The time at which it has moved last, in Unix milliseconds. `None`: an earlier program has stored the cursor.
    pub moved: Option<u64>,
    /// The batch that may have been given, and is not counted as read.
    pub batch: Option<Batch>,
}

/// A batch in flight: entries that may have been given to a consumer. They are given again, exactly as they were, until they are
/// counted as read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// The id of the log when the batch was formed.
    pub log_id: PeerId,
    /// The offset of its first entry.
    pub first: Offset,
    /// The offset of its last entry.
    pub last: Offset,
    /// The number of its entries. Entries between the first and the last one that are not selected do not count.
    pub entries: u32,
    /// The number of times that it was given.
    pub attempts: u32,
    /// The number of times that its consumer has failed.
    pub failures: u32,
    /// The offset of the last entry of the batch of which this one is a part, because the consumer fails at one of its entries.
    /// [`Offset::ZERO`]: this is a whole batch.
    pub suspect: Offset,
    /// The selection of its entries, as text: the same text selects the same entries.
    pub selection: String,
}

/// The length of a row that an earlier program has stored, in bytes.
const OLD_BYTES: usize = 8;
/// The length of a row without a batch, in bytes.
const IDLE_BYTES: usize = 16;
/// The length of a row with a batch up to the id of the log, in bytes.
const BATCH_BYTES: usize = 53;

impl Cursor {
    /// The row of the cursor in the table `meta`, see scuttleup-store(5).
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(BATCH_BYTES + 64);
        row.extend_from_slice(&self.offset.0.to_le_bytes());
        row.extend_from_slice(&self.moved.unwrap_or(0).to_le_bytes());
        if let Some(batch) = &self.batch {
            let id = batch.log_id.as_str();
            for offset in [batch.first, batch.last, batch.suspect] {
                row.extend_from_slice(&offset.0.to_le_bytes());
            }
            for count in [batch.entries, batch.attempts, batch.failures] {
                row.extend_from_slice(&count.to_le_bytes());
            }
            row.push(u8::try_from(id.len()).expect("a peer id has at most 255 bytes"));
            row.extend_from_slice(id.as_bytes());
            row.extend_from_slice(batch.selection.as_bytes());
        }
        row
    }

    /// Decodes a row.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the row is not possible.
    pub(super) fn decode(row: &[u8]) -> Result<Self> {
        let offset = |at| Offset(u64_at(row, at));
        let moved = |row| Some(u64_at(row, 8)).filter(|&millis| millis > 0);
        match row.len() {
            OLD_BYTES => Ok(Self { offset: offset(0), ..Self::default() }),
            IDLE_BYTES => Ok(Self { offset: offset(0), moved: moved(row), batch: None }),
            BATCH_BYTES.. => {
                let (id, selection) =
                    row[BATCH_BYTES..].split_at_checked(usize::from(row[BATCH_BYTES - 1])).ok_or_else(|| bad_row("meta"))?;
                let batch = Batch {
                    log_id: PeerId::from_bytes(id)?,
                    first: offset(16),
                    last: offset(24),
                    suspect: offset(32),
                    entries: u32_at(row, 40),
                    attempts: u32_at(row, 44),
                    failures: u32_at(row, 48),
                    selection: String::from_utf8(selection.to_vec()).map_err(|_| bad_row("meta"))?,
                };
                if offset(0) >= batch.first || batch.first > batch.last {
                    return Err(Error::Corrupt("the batch of a cursor is not above the cursor".into()));
                }
                Ok(Self { offset: offset(0), moved: moved(row), batch: Some(batch) })
            }
            _ => Err(bad_row("meta")),
        }
    }
}

/// A cursor, and what its reader has not read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CursorState {
    /// The name of the cursor.
    pub name: String,
    /// Its position.
    pub cursor: Cursor,
    /// The number of entries after the cursor that are here.
    pub unread: u64,
    /// The time at which the first of them arrived, in Unix milliseconds.
    pub unread_since: Option<u64>,
    /// The process that consumes the cursor. `None` if there is none, or if it cannot be seen from this container.
    pub process: Option<u32>,
}

impl Log {
    /// The cursors, in the order of their names.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn cursors(&self) -> Result<Vec<CursorState>> {
        let txn = self.env.read()?;
        let (floor, last) = (txn.floor()?, txn.last_offset()?);
        let state = |(name, cursor): (String, Cursor)| {
            let next = cursor.offset.max(floor).next();
            let unread = (last.0 + 1).saturating_sub(next.0);
            let unread_since = if unread > 0 { Some(txn.arrival(next)?.millis) } else { None };
            let process = self.env.claimant(&name);
            Ok(CursorState { name, cursor, unread, unread_since, process })
        };
        txn.cursors()?.into_iter().map(state).collect()
    }

    /// Sets a cursor: its reader has read all entries up to `offset`. A batch in flight is given up.
    ///
    /// # Errors
    /// As [`Log::consume`]; [`Error::UnknownOffset`] if the log has no such offset; when the log cannot be written.
    pub fn set_cursor(&self, name: &str, offset: Offset) -> Result<()> {
        let mut consumer = self.consume(name)?;
        self.check_offset(offset)?;
        consumer.store(offset, None)
    }

    /// Removes a cursor. Returns false if there is none with this name.
    ///
    /// # Errors
    /// As [`Log::consume`], except that any name is valid; when the log cannot be written.
    pub fn remove_cursor(&self, name: &str) -> Result<bool> {
        if check_name(name).is_err() {
            return Ok(false);
        }
        let consumer = self.consume(name)?;
        if consumer.cursor.is_none() {
            return Ok(false);
        }
        let mut writer = self.writer()?;
        writer.set_cursor(name, None)?;
        writer.commit().map(|_| true)
    }

    /// Consumes a cursor: no other process can consume it, set it or remove it until the result is dropped. The log must be open
    /// for writing.
    ///
    /// ```
    /// use scuttleup::{Error, Log, Offset};
    ///
    /// # let dir = std::env::temp_dir().join(format!("scuttleup-doc-consume-{}", std::process::id()));
    /// # let log = Log::open_or_create(&dir)?;
    /// log.append(b"hello")?;
    /// let mut consumer = log.consume("backup")?;
    /// assert!(consumer.cursor().is_none(), "it is new");
    /// assert!(matches!(log.consume("backup"), Err(Error::CursorInUse { .. })));
    /// consumer.store(Offset(1), None)?;
    /// drop(consumer);
    /// assert_eq!(log.cursors()?[0].cursor.offset, Offset(1));
    /// # std::fs::remove_dir_all(dir).ok();
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::BadInput`] if the name is empty, too long, or has control characters; [`Error::CursorInUse`] if the cursor has a
    /// consumer; when the log cannot be read.
    pub fn consume(&self, name: &str) -> Result<Consumer<'_>> {
        check_name(name)?;
        let Some(claim) = self.env.claim(name)? else {
            return Err(Error::CursorInUse { name: name.to_owned(), process: self.env.claimant(name) });
        };
        // Its last consumer has released the claim after its last commit.
        let cursor = self.env.read()?.named_cursor(name)?;
        Ok(Consumer { log: self, name: name.to_owned(), cursor, claim })
    }
}

/// The only consumer of a cursor.
pub struct Consumer<'l> {
    log: &'l Log,
    name: String,
    cursor: Option<Cursor>,
    claim: Claim<'l>,
}

impl Consumer<'_> {
    /// The cursor as it is stored; `None` if it is not stored yet.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// The name of the cursor.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Stores the position of the cursor and the batch in flight, durably, in one commit. Does nothing if both are stored already.
    ///
    /// # Errors
    /// When the log cannot be written.
    ///
    /// # Panics
    /// If the batch does not begin above `offset`.
    pub fn store(&mut self, offset: Offset, batch: Option<Batch>) -> Result<()> {
        assert!(batch.as_ref().is_none_or(|batch| offset < batch.first && batch.first <= batch.last));
        let (stored, moved) = self.cursor.as_ref().map_or((None, None), |cursor| (Some(cursor.offset), cursor.moved));
        let moved = if stored == Some(offset) { moved } else { Some(now_millis()) };
        let cursor = Cursor { offset, moved, batch };
        if self.cursor.as_ref() == Some(&cursor) {
            return Ok(());
        }
        let mut writer = self.log.writer()?;
        writer.set_cursor(&self.name, Some(&cursor))?;
        writer.commit()?;
        self.cursor = Some(cursor);
        Ok(())
    }

    /// From now on, processes that this process starts keep others from consuming the cursor, until they have ended, also if this
    /// process is killed. If the consumer is dropped, they do not.
    ///
    /// # Errors
    /// When the operating system reports an error.
    pub fn share_claim(&self) -> Result<()> {
        self.claim.share()
    }
}

impl super::Writer<'_> {
    fn set_cursor(&mut self, name: &str, cursor: Option<&Cursor>) -> Result<()> {
        self.changed = true;
        self.txn.set_cursor(name, cursor)
    }
}

fn check_name(name: &str) -> Result<()> {
    let bad = |why: &str| Err(Error::BadInput(format!("invalid name of a cursor: {why}")));
    match name.len() {
        0 => bad("it is empty"),
        1..=CURSOR_BYTES_MAX if name.chars().any(char::is_control) => bad("it has a control character"),
        1..=CURSOR_BYTES_MAX => Ok(()),
        _ => bad(&format!("it is longer than {CURSOR_BYTES_MAX} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        Batch {
            log_id: PeerId::new("a").unwrap(),
            first: Offset(2),
            last: Offset(9),
            entries: 3,
            attempts: 1,
            failures: 0,
            suspect: Offset(12),
            selection: "--peer b".into(),
        }
    }

    #[test]
    fn a_cursor_is_returned_as_it_was_stored_and_impossible_rows_are_refused() {
        let idle = Cursor { offset: Offset(1), moved: Some(5), batch: None };
        let busy = Cursor { batch: Some(batch()), ..idle.clone() };
        for cursor in [&idle, &busy, &Cursor { moved: None, ..busy.clone() }] {
            assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), *cursor);
        }
        let old = Cursor::decode(&7u64.to_le_bytes()).unwrap();
        assert_eq!(old, Cursor { offset: Offset(7), moved: None, batch: None });
        let row = busy.encode();
        for length in (0..BATCH_BYTES + 1).filter(|length| ![OLD_BYTES, IDLE_BYTES].contains(length)) {
            assert!(Cursor::decode(&row[..length]).is_err(), "{length}");
        }
        let overlap = Cursor { offset: Offset(2), ..busy };
        assert!(Cursor::decode(&overlap.encode()).is_err());
    }

    #[test]
    fn a_cursor_is_not_set_above_the_last_offset() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        assert!(matches!(log.set_cursor("c", Offset(1)), Err(Error::UnknownOffset { .. })));
        assert!(log.cursors().unwrap().is_empty());
    }

    #[test]
    fn a_cursor_has_one_consumer_and_other_cursors_are_free() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        let first = log.consume("c").unwrap();
        let in_use = |result: Result<()>| matches!(result, Err(Error::CursorInUse { name, .. }) if name == "c");
        assert!(in_use(log.consume("c").map(|_| ())));
        assert!(in_use(log.set_cursor("c", Offset::ZERO)));
        assert!(in_use(log.remove_cursor("c").map(|_| ())));
        log.set_cursor("d", Offset::ZERO).unwrap();
        drop(first);
        log.set_cursor("c", Offset::ZERO).unwrap();
        assert!(log.remove_cursor("c").unwrap() && !log.remove_cursor("c").unwrap());
        // A descriptor of lock.mdb that is closed meanwhile would release the locks of LMDB.
        log.append(b"1").unwrap();
    }
}
