//! The readable rest of a damaged log: its id, its heads, and its intact entries.
//!
//! If all pages of the tables are intact, the rows are read through the trees. If not, all pages of the file are searched for rows.
//! These rows may be older than the last commit, but they are never wrong: an entry has its check, and an id must match
//! the chain of its feed. Of two versions of an entry, the tombstone is the newer one.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::check_files;
use super::pages::{INTEGER_KEY, Meta};
use super::state::{State, with_newest};
use super::tables::{Check, DELETED, ENTRIES, META, NUMBERS, PACKS, PEERS, RUNS};
use crate::model::{Chain, Change, Entry, FEEDS_MAX, HashedEntry, Offset, PeerId, Result, Tombstone};
use crate::store::files::open_once::OpenOnce;
use crate::store::lmdb::NAMES;
use crate::store::pack::{self, Pack, PackRow};
use crate::store::records::{Record, check_record};
use crate::store::rows::{FeedRow, RunRow, decode_tombstone};

/// The rows of a damaged log.
struct Remains<'a, 'c, 'r> {
    /// The directory of the packs.
    packs: PathBuf,
    check: &'a mut Check<'c, 'r>,
    /// The tables whose rows are read through their trees.
    whole: [bool; NAMES.len()],
}

/// Calls `read` with the rows that can be found in the log in `dir`.
fn with_remains<T: Default>(dir: &Path, read: impl FnOnce(&mut Remains<'_, '_, '_>) -> Result<T>) -> Result<T> {
    // A damaged meta page, for example, can hide the last commit.
    let is_damaged = Cell::new(false);
    let note = &mut |_| {
        is_damaged.set(true);
        Ok(())
    };
    let is_usable = check_files(dir, note)?;
    let _open_once = OpenOnce::new(dir)?;
    with_newest(dir, (is_usable, true), note, |State { file, meta, .. }, report| {
        let meta = meta.unwrap_or_else(Meta::unknown);
        let mut check = Check::new(dir, file, &meta, report)?;
        check.find_tables(&meta)?;
        let (is_newest, mut whole) = (!is_damaged.get(), [false; NAMES.len()]);
        for (table, is_whole) in whole.iter_mut().enumerate().filter(|_| is_newest) {
            is_damaged.set(false);
            check.read(table, |_, _, _| Ok(()))?;
            *is_whole = !is_damaged.get();
        }
        read(&mut Remains { packs: dir.join(pack::DIR_NAME), check: &mut check, whole })
    })
}

impl Remains<'_, '_, '_> {
    /// Gives the rows of a table to `each`, and if its pages are damaged, the rows of all tables with such keys.
    fn rows(&mut self, table: usize, mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        if self.whole[table] {
            self.check.forget_pages();
            return self.check.read(table, |_, key, value| each(key, value));
        }
        let is_integer = matches!(table, ENTRIES | PACKS | DELETED);
        let (flags, pages) = (if is_integer { INTEGER_KEY } else { 0 }, self.check.pages());
        pages.find_leaves(flags).into_iter().try_for_each(|page| pages.read_leaf(flags, page, &mut each))
    }

    /// The peer ids by peer number. Each is confirmed by the chain before the first entry of its feed, or by two tables.
    fn peers(&mut self) -> Result<HashMap<u32, PeerId>> {
        let (mut starts, mut named, mut peers) = (HashMap::new(), HashMap::new(), HashMap::new());
        self.rows(RUNS, |key, value| {
            if let Ok((number, run)) = RunRow::decode(key, value)
                && run.first_seq == 1
            {
                starts.insert(number, run.chain_before);
            }
            Ok(())
        })?;
        self.rows(PEERS, |key, value| {
            if let (Ok(peer), Ok(row)) = (PeerId::from_bytes(key), FeedRow::decode(value))
                && row.number < FEEDS_MAX
            {
                if starts.get(&row.number) == Some(&Chain::start(&peer)) {
                    peers.insert(row.number, peer);
                } else {
                    named.insert(row.number, peer);
                }
            }
            Ok(())
        })?;
        for row in self.packs()? {
            let found = Pack::open(&self.packs, row).and_then(|pack| {
                pack.feeds(|feed| {
                    peers.insert(feed.number, feed.peer);
                    Ok(())
                })
            });
            // The entries of a damaged pack are left out.
            found.ok();
        }
        self.rows(NUMBERS, |key, value| {
            let number = key.try_into().map_or(u32::MAX, u32::from_be_bytes);
            if let Ok(peer) = PeerId::from_bytes(value)
                && number < FEEDS_MAX
                && starts.get(&number).map_or(named.get(&number) == Some(&peer), |start| *start == Chain::start(&peer))
            {
                peers.insert(number, peer);
            }
            Ok(())
        })?;
        Ok(peers)
    }

    /// The packs that can be read. If the table is damaged, all files of packs that are found.
    fn packs(&mut self) -> Result<Vec<PackRow>> {
        let mut rows = Vec::new();
        if self.whole[PACKS] {
            self.rows(PACKS, |key, value| {
                rows.extend(PackRow::decode(offset_of(key), value).ok());
                Ok(())
            })?;
        } else {
            rows = pack::find(&self.packs)?;
        }
        rows.retain(|row| pack::read_through(&self.packs, *row).is_ok());
        Ok(rows)
    }

    /// Gives each intact record to `each`: of the packs, then of data.mdb.
    fn records(&mut self, mut each: impl FnMut(Offset, Record<'_>) -> Result<()>) -> Result<()> {
        for row in self.packs()? {
            let Ok(mut pack) = Pack::open(&self.packs, row) else { continue };
            let mut next = row.first;
            while next <= row.last() {
                // An error of `each` ends the reading, a damaged block does not.
                let mut ended = Ok(());
                let read = pack.records(next, |offset, record| {
                    next = offset.next();
                    ended = each(offset, record);
                    Ok(if ended.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                });
                ended?;
                if read.is_err() {
                    next = pack.next_block(next).unwrap_or_else(|| row.last().next());
                }
            }
        }
        self.rows(ENTRIES, |key, value| {
            let offset = offset_of(key);
            check_record(offset, value).map_or(Ok(()), |record| each(offset, record))
        })
    }

    /// The tombstones of entries that are found with their bytes, too.
    fn deleted(&mut self) -> Result<HashMap<Offset, Tombstone>> {
        let mut deleted = HashMap::new();
        self.rows(DELETED, |key, value| {
            deleted.extend(decode_tombstone(value).map(|tombstone| (offset_of(key), tombstone)));
            Ok(())
        })?;
        if !(self.whole[ENTRIES] && self.whole[PACKS]) {
            self.records(|offset, record| {
                if let Entry::Deleted(tombstone) = record.entry.entry() {
                    deleted.insert(offset, tombstone);
                }
                Ok(())
            })?;
        }
        Ok(deleted)
    }
}

/// The offset in a key.
fn offset_of(key: &[u8]) -> Offset {
    Offset(u64::from_ne_bytes(key.try_into().unwrap_or_default()))
}

/// The peer id of the log in `dir`, if it can be read.
///
/// # Errors
/// When `dir` holds no log, or the operating system reports an error.
pub fn id(dir: &Path) -> Result<Option<PeerId>> {
    with_remains(dir, |remains| {
        // The rows of a page come in the order of their keys: id, then txn.
        let (mut of_page, mut newest) = (None, None);
        remains.rows(META, |key, value| {
            match key {
                b"clone" => of_page = None,
                b"id" => of_page = PeerId::from_bytes(value).ok(),
                b"txn" => {
                    // A peer can have the id `txn`, but its row has another size.
                    if let Ok(txn) = value.try_into().map(u64::from_le_bytes)
                        && let Some(id) = of_page.take()
                        && newest.as_ref().is_none_or(|(known, _)| *known < txn)
                    {
                        newest = Some((txn, id));
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        // Earlier programs have not written the row `txn`.
        Ok(newest.map(|(_, id)| id).or(of_page.filter(|_| remains.whole[META])))
    })
}

/// Gives each feed of the log in `dir` that can be found to `each`: peer id and row. Returns whether all of them are found.
///
/// # Errors
/// As [`id`], and each error of `each`.
pub fn feeds(dir: &Path, mut each: impl FnMut(PeerId, FeedRow) -> Result<()>) -> Result<bool> {
    with_remains(dir, |remains| {
        let peers = remains.peers()?;
        let mut rows = HashMap::new();
        remains.rows(PEERS, |key, value| {
            if let Ok(row) = FeedRow::decode(value)
                && peers.get(&row.number).is_some_and(|peer| peer.as_str().as_bytes() == key)
                && rows.get(&row.number).is_none_or(|known: &FeedRow| known.head < row.head)
            {
                rows.insert(row.number, row);
            }
            Ok(())
        })?;
        let is_whole = remains.whole[PEERS] && peers.len() as u64 == remains.check.row_count(PEERS) && rows.len() == peers.len();
        for (number, row) in rows {
            each(peers[&number].clone(), row)?;
        }
        Ok(is_whole)
    })
}

/// Gives each intact entry of the log in `dir` to `each`, nearly in order of arrival.
///
/// # Errors
/// As [`id`], and each error of `each`.
pub fn entries(dir: &Path, mut each: impl FnMut(&Change<'_>) -> Result<()>) -> Result<()> {
    with_remains(dir, |remains| {
        let (peers, deleted) = (remains.peers()?, remains.deleted()?);
        remains.records(|offset, Record { number, seq, mut entry }| {
            // The two versions of an entry have the same hash and length.
            if deleted.get(&offset) == Some(&entry.tombstone()) {
                entry = HashedEntry::deleted(entry.tombstone());
            }
            peers.get(&number).map_or(Ok(()), |peer| each(&Change { offset, peer, seq, entry }))
        })
    })
}
