//! Seals old entries: moves them from data.mdb into packs, and rewrites packs. scuttleup-store(5) explains the order of the steps.

use std::collections::HashSet;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::feeds::chain_before;
use super::files::lock::Turn;
use super::files::{data, directory, file, space};
use super::pack::{self, PackRow, PackWriter, PackedFeed};
use super::records::{Records, check_record};
use super::{Bounds, Log};
use crate::model::{Chain, Entry, Error, Offset, Result, Seq};

/// A new pack is complete at this many bytes, before compression. The record that reaches it is still added.
const PACK_BYTES: u64 = 32 << 20;
/// Small packs are merged up to this many bytes, as files.
const MERGED_BYTES_MAX: u64 = 8 << 20;
/// Rows are removed from data.mdb in transactions of this many, so that no writer waits long.
const REMOVED_ROWS_MAX: u64 = 32 << 10;
/// The entries of a pack that is written again are reported together as done.
const REPORTED_ENTRIES: u64 = 4096;
/// The pages that one removed row may change, in bytes.
const REMOVED_ROW_BYTES: u64 = 4 << 10;

/// Called at each step of long work with the number of entries, and of their bytes, that were done since the step before. Returns
/// false when the work must end.
pub type GoesOn<'g> = dyn Fn(u64, u64) -> bool + 'g;

/// While this value exists, no other process or thread adds, replaces or removes packs.
pub(super) struct Sealer<'l> {
    log: &'l Log,
    /// The directory of the packs.
    dir: PathBuf,
    goes_on: &'l GoesOn<'l>,
    _turn: Turn<'l>,
}

impl Log {
    /// Whether data.mdb holds more than `unsealed_bytes_max` bytes of entries.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn needs_sealing(&self, unsealed_bytes_max: u64) -> Result<bool> {
        Ok(self.env.read()?.entries_bytes()? > unsealed_bytes_max)
    }

    /// Seals the oldest entries until data.mdb holds at most `unsealed_bytes_max` bytes of them, or only the newest entry.
    /// Returns the number of entries that were sealed, or `None` if another process seals. Stops early, without loss, when `goes_on`
    /// returns false.
    ///
    /// # Errors
    /// When the log cannot be read or written. Every entry is still in the log.
    pub fn seal(&self, unsealed_bytes_max: u64, goes_on: &GoesOn<'_>) -> Result<Option<u64>> {
        self.seal_in_packs(PACK_BYTES, unsealed_bytes_max, goes_on)
    }

    fn seal_in_packs(&self, pack_bytes: u64, unsealed_bytes_max: u64, goes_on: &GoesOn<'_>) -> Result<Option<u64>> {
        let sealed = self.sealer(goes_on)?.map(|sealer| sealer.seal(pack_bytes, unsealed_bytes_max));
        sealed.transpose().map_err(|err| space::explain_failed_write(self.dir(), err, pack_bytes))
    }

    /// The number of entries that [`Log::seal`] can seal: those in data.mdb, but not the newest entry.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn unsealed_entries(&self) -> Result<u64> {
        let txn = self.env.read()?;
        Ok(txn.last_offset()?.0.saturating_sub(txn.sealed_end()?.max(txn.floor()?).next().0))
    }

    /// The number of entries in the packs that [`Log::rewrite_packs`] writes again.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn rewritable_entries(&self) -> Result<u64> {
        let (rows, mut entries) = (self.packs()?, 0);
        for group in groups(&rows, MERGED_BYTES_MAX) {
            if self.must_be_rewritten(group)? {
                entries += group.iter().map(|row| row.entries).sum::<u64>();
            }
        }
        Ok(entries)
    }

    fn packs(&self) -> Result<Vec<PackRow>> {
        let mut rows = Vec::new();
        self.env.read()?.packs(|row| rows.push(row))?;
        Ok(rows)
    }

    /// Whether packs that follow each other must become one, or contain deleted or pruned entries.
    fn must_be_rewritten(&self, group: &[PackRow]) -> Result<bool> {
        let deleted = self.env.read()?.deleted_from(group[0].first)?;
        let has_deleted = deleted.is_some_and(|(offset, _)| offset <= group[group.len() - 1].last());
        Ok(group.len() > 1 || has_deleted || group[0].first <= self.pruned()?)
    }

    /// Writes each pack again that contains deleted entries: after this, their bytes are in no pack. Also merges small packs.
    /// Returns the number of new packs, or `None` if another process seals. Stops early when `goes_on` returns false.
    ///
    /// # Errors
    /// When the log cannot be read or written. Every entry is still in the log.
    pub fn rewrite_packs(&self, goes_on: &GoesOn<'_>) -> Result<Option<u64>> {
        self.rewrite_packs_up_to(MERGED_BYTES_MAX, goes_on)
    }

    fn rewrite_packs_up_to(&self, merged_bytes_max: u64, goes_on: &GoesOn<'_>) -> Result<Option<u64>> {
        let rewritten = self.sealer(goes_on)?.map(|sealer| sealer.rewrite_packs(merged_bytes_max));
        rewritten.transpose().map_err(|err| space::explain_failed_write(self.dir(), err, PACK_BYTES))
    }

    /// The number of deletions whose bytes may still be in free pages of data.mdb. [`shrink`](super::shrink) removes them.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn deletions(&self) -> Result<u64> {
        self.env.read()?.deletions()
    }

    pub(super) fn sealer<'l>(&'l self, goes_on: &'l GoesOn<'l>) -> Result<Option<Sealer<'l>>> {
        let Some(turn) = self.env.try_to_seal() else { return Ok(None) };
        let dir = self.dir().join(pack::DIR_NAME);
        if file::create_dir(self.dir(), pack::DIR_NAME)? {
            let opened = File::open(&dir).map_err(|err| Error::io(format!("{} cannot be opened", dir.display()), err))?;
            file::copy_access(&self.dir().join(data::FILE_NAME), &opened)?;
            directory::sync_names(self.dir())?;
        }
        let sealer = Sealer { log: self, dir, goes_on, _turn: turn };
        sealer.remove_orphans()?;
        Ok(Some(sealer))
    }
}

impl Sealer<'_> {
    fn seal(&self, pack_bytes: u64, unsealed_bytes_max: u64) -> Result<u64> {
        let mut entries = 0;
        self.remove_sealed_rows()?;
        loop {
            let txn = self.log.env.read()?;
            let (first, last) = (txn.sealed_end()?.next(), txn.last_offset()?);
            let is_enough = txn.entries_bytes()? <= unsealed_bytes_max;
            drop(txn);
            // The newest entry stays in data.mdb: its offset is the last offset of the log.
            if is_enough || first >= last {
                return Ok(entries);
            }
            let Some(row) = self.write_pack((first, last), pack_bytes)? else { return Ok(entries) };
            entries += row.entries;
            self.remove_sealed_rows()?;
            if !(self.goes_on)(0, 0) {
                return Ok(entries);
            }
        }
    }

    /// Writes the entries from `first` on, but not that at `end`, into one pack, and adds the pack to the log. Returns `None`
    /// if it was stopped.
    fn write_pack(&self, (first, end): (Offset, Offset), pack_bytes: u64) -> Result<Option<PackRow>> {
        let env = &self.log.env;
        let deletions = env.read()?.deletions()?;
        let mut writer = PackWriter::create(&self.dir, first, 0)?;
        let mut done = (0, 0);
        while writer.next() < end && writer.raw_bytes() < pack_bytes {
            if !(self.goes_on)(done.0, done.1) {
                return Ok(None);
            }
            // A short snapshot.
            let (Bounds { entries_max, bytes_max }, start, start_bytes) = (Bounds::default(), writer.next(), writer.raw_bytes());
            let until = end.min(Offset(writer.next().0 + entries_max as u64));
            env.read()?.records(writer.next(), |offset, record| {
                if offset >= until {
                    return Ok(ControlFlow::Break(()));
                }
                writer.push(&check_record(offset, record)?)?;
                let is_full = writer.raw_bytes() >= pack_bytes.min(start_bytes + bytes_max as u64);
                Ok(if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            done = (writer.next().0 - start.0, writer.raw_bytes() - start_bytes);
        }
        if !(self.goes_on)(done.0, done.1) {
            return Ok(None);
        }
        let row = self.finish(writer)?;
        let mut txn = env.write()?;
        if txn.deletions()? != deletions {
            // Entries that were deleted since they were read must not come back.
            let mut deleted = Vec::new();
            txn.records(row.first, |offset, record| {
                if offset > row.last() {
                    return Ok(ControlFlow::Break(()));
                }
                if let Entry::Deleted(tombstone) = check_record(offset, record)?.entry.entry() {
                    deleted.push((offset, tombstone));
                }
                Ok(ControlFlow::Continue(()))
            })?;
            for (offset, tombstone) in deleted {
                txn.set_deleted(offset, tombstone)?;
            }
        }
        txn.set_pack(&row)?;
        env.commit(txn, 0)?;
        Ok(Some(row))
    }

    /// Completes a pack durably. It is no part of the log yet.
    fn finish(&self, writer: PackWriter) -> Result<PackRow> {
        let (txn, mut records) = (self.log.env.read()?, Records::new(self.log.dir()));
        let feed_of = |number, seq: Seq| {
            let peer = txn.peer(number)?;
            let floor = txn.feed(peer.as_str())?.and_then(|row| row.floor);
            if floor.is_some_and(|floor| seq.get() <= floor.seq) {
                // Its run may be gone.
                return Ok(PackedFeed { number, peer, chain_before: Chain::UNKNOWN });
            }
            let chain_before = chain_before(&txn, &mut records, peer.as_str(), number, seq.get())?;
            Ok(PackedFeed { number, peer, chain_before })
        };
        let row = writer.finish(feed_of)?;
        directory::sync_names(&self.dir)?;
        Ok(row)
    }

    /// Removes the rows of sealed entries from data.mdb.
    fn remove_sealed_rows(&self) -> Result<()> {
        let env = &self.log.env;
        loop {
            let txn = env.read()?;
            let (first, end) = (txn.first_row()?, txn.sealed_end()?);
            drop(txn);
            if first.is_none_or(|first| first > end) {
                return Ok(());
            }
            let mut txn = env.write()?;
            let end = txn.sealed_end()?;
            txn.remove_records(end, REMOVED_ROWS_MAX)?;
            env.commit(txn, REMOVED_ROWS_MAX * REMOVED_ROW_BYTES)?;
        }
    }

    fn rewrite_packs(&self, merged_bytes_max: u64) -> Result<u64> {
        let (rows, mut packs) = (self.log.packs()?, 0);
        for group in groups(&rows, merged_bytes_max) {
            if !(self.goes_on)(0, 0) {
                break;
            }
            if self.log.must_be_rewritten(group)? {
                self.rewrite(group)?;
                packs += 1;
            }
        }
        Ok(packs)
    }

    /// Replaces successive packs by one, without the bytes of deleted entries, and without pruned entries.
    fn rewrite(&self, old: &[PackRow]) -> Result<()> {
        let env = &self.log.env;
        let (first, last) = (old[0].first.max(self.log.pruned()?.next()), old[old.len() - 1].last());
        if first > last {
            return Ok(());
        }
        let mut writer = PackWriter::create(&self.dir, first, old[0].generation + 1)?;
        let (mut records, mut deleted) = (Records::new(self.log.dir()), Vec::new());
        // The snapshot stays open, but the packs are small.
        let txn = env.read()?;
        let mut reported = (first, 0);
        records.scan(&txn, first, |_, record| {
            writer.push(&record)?;
            let (entries, bytes) = (writer.next().0 - reported.0.0, writer.raw_bytes() - reported.1);
            if entries == REPORTED_ENTRIES || writer.next() > last {
                // This pack is completed in any case.
                (self.goes_on)(entries, bytes);
                reported = (writer.next(), writer.raw_bytes());
            }
            Ok(if writer.next() > last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        let mut next = txn.deleted_from(old[0].first)?;
        while let Some((offset, _)) = next.filter(|&(offset, _)| offset <= last) {
            deleted.push(offset);
            next = txn.deleted_from(offset.next())?;
        }
        drop(txn);
        let new = self.finish(writer)?;
        let mut txn = env.write()?;
        for row in old {
            txn.remove_pack(row.first)?;
        }
        txn.set_pack(&new)?;
        for offset in deleted {
            txn.clear_deleted(offset)?;
        }
        env.commit(txn, 0)?;
        self.remove_orphans()
    }

    /// Removes the files that belong to no row: a process was killed before it added the row, or after it removed the row.
    pub(super) fn remove_orphans(&self) -> Result<()> {
        let mut known = HashSet::new();
        self.log.env.read()?.packs(|row| {
            known.insert(row.file_name());
        })?;
        let fail = |err| Error::io(format!("{} cannot be cleaned up", self.dir.display()), err);
        let mut has_removed = false;
        for file in fs::read_dir(&self.dir).map_err(fail)? {
            let file = file.map_err(fail)?;
            let name = file.file_name();
            let is_pack = Path::new(&name).extension().is_some_and(|extension| extension == "pack" || extension == "new");
            if is_pack && !name.to_str().is_some_and(|name| known.contains(name)) {
                fs::remove_file(file.path()).map_err(fail)?;
                has_removed = true;
            }
        }
        if has_removed { directory::sync_names(&self.dir) } else { Ok(()) }
    }
}

/// Divides packs into groups that become one pack each. A pack joins the packs after it if it is at most twice as long as all
/// of them: so a record is rewritten only about as often as the size of its pack doubles.
fn groups(rows: &[PackRow], merged_bytes_max: u64) -> Vec<&[PackRow]> {
    let (mut groups, mut end) = (Vec::new(), rows.len());
    while end > 0 {
        let (mut start, mut bytes) = (end - 1, rows[end - 1].file_bytes);
        while start > 0 && rows[start - 1].file_bytes <= 2 * bytes && rows[start - 1].file_bytes + bytes <= merged_bytes_max {
            start -= 1;
            bytes += rows[start].file_bytes;
        }
        groups.push(&rows[start..end]);
        end = start;
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::model::{HashedEntry, PeerId, Seq};
    use crate::store::{Shrunk, shrink};

    const PACK_BYTES: u64 = 5000;

    fn id(peer: &str) -> PeerId {
        PeerId::new(peer).unwrap()
    }

    /// A log with two feeds, whose entries alternate, and some deleted entries.
    fn log(dir: &Path) -> Log {
        let log = Log::create(dir, Some(id("own"))).unwrap();
        let mut writer = log.writer().unwrap();
        for n in 0..1000 {
            let bytes = format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(n % 50));
            let peer = if n % 3 == 0 { "other" } else { "own" };
            writer.push(&id(peer), HashedEntry::new(bytes.as_bytes())).unwrap();
        }
        writer.commit().unwrap();
        log.delete("own", Seq::new(7).unwrap()).unwrap();
        log
    }

    /// Everything that can be read from the log.
    fn content(log: &Log) -> (Vec<String>, Vec<Option<Chain>>, u128) {
        let (mut reader, mut lines, mut position) = (log.reader(), Vec::new(), Offset::ZERO);
        loop {
            let bounds = Bounds { entries_max: 37, bytes_max: 900 };
            let last = reader.scan(position, bounds, |change| {
                lines.push(format!("{change:?}"));
                Ok(ControlFlow::Continue(()))
            });
            match last.unwrap() {
                last if last == position => break,
                last => position = last,
            }
        }
        for peer in ["own", "other"] {
            for seq in (1..400).step_by(7) {
                lines.extend(reader.entry(peer, Seq::new(seq).unwrap(), |change| format!("{change:?}")).unwrap());
            }
        }
        let chains = (0..700).step_by(9).map(|seq| reader.chain_at("own", seq).unwrap()).collect();
        (lines, chains, log.state().unwrap().0)
    }

    fn rows(log: &Log) -> Vec<PackRow> {
        let mut rows = Vec::new();
        log.env.read().unwrap().packs(|row| rows.push(row)).unwrap();
        rows
    }

    fn files(log: &Log) -> Vec<String> {
        let names = fs::read_dir(log.dir().join(pack::DIR_NAME)).unwrap();
        let mut names: Vec<_> = names.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_sealed_log_reads_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        let before = content(&log);
        assert_eq!(log.seal_in_packs(PACK_BYTES, 0, &|_, _| true).unwrap(), Some(999));
        assert_eq!(content(&log), before);
        let rows = rows(&log);
        assert!(rows.len() > 5 && rows[0].first == Offset(1), "{rows:?}");
        assert!(rows.windows(2).all(|pair| pair[0].last().next() == pair[1].first), "{rows:?}");
        assert_eq!(log.env.read().unwrap().first_row().unwrap(), Some(Offset(1000)), "the newest entry stays in data.mdb");
        assert_eq!(log.seal_in_packs(PACK_BYTES, 0, &|_, _| true).unwrap(), Some(0));
        log.append(b"new").unwrap();
        assert_eq!(log.info().unwrap().entries, 1001);
        drop(log);
        assert!(matches!(shrink(dir.path(), false).unwrap(), Shrunk::Done(before, after) if after < before));
        assert!(matches!(shrink(dir.path(), false).unwrap(), Shrunk::NotNeeded));
        assert!(matches!(shrink(dir.path(), true).unwrap(), Shrunk::Done(..)));
        let log = Log::open(dir.path()).unwrap();
        assert_eq!(content(&log).0[..1000], before.0[..1000]);
        assert_eq!(log.append(b"newer").unwrap().get(), 668);
    }

    #[test]
    fn a_stop_at_any_point_loses_nothing() {
        for steps in (0..60_u32).step_by(3) {
            let dir = tempfile::tempdir().unwrap();
            let log = log(dir.path());
            let before = content(&log);
            let left = Cell::new(steps);
            log.seal_in_packs(PACK_BYTES, 0, &|_, _| left.replace(left.get().saturating_sub(1)) > 0).unwrap();
            assert_eq!(content(&log), before, "stopped after {steps} steps");
            log.seal_in_packs(PACK_BYTES, 0, &|_, _| true).unwrap();
            assert_eq!(content(&log), before, "stopped after {steps} steps, then sealed");
            let names: Vec<_> = rows(&log).iter().map(PackRow::file_name).collect();
            assert_eq!(files(&log), names, "no other file is left");
        }
    }

    #[test]
    fn an_entry_that_is_deleted_while_its_pack_is_written_stays_deleted() {
        for step in 1..12 {
            let dir = tempfile::tempdir().unwrap();
            let log = log(dir.path());
            let steps = Cell::new(0);
            let delete = |_, _| {
                steps.set(steps.get() + 1);
                if steps.get() == step {
                    log.delete("other", Seq::new(1).unwrap()).unwrap();
                }
                true
            };
            log.seal_in_packs(PACK_BYTES, 0, &delete).unwrap();
            let entry = log
                .reader()
                .entry("other", Seq::new(1).unwrap(), |change| change.entry.entry() == Entry::Deleted(change.entry.tombstone()));
            assert_eq!(entry.unwrap(), Some(true), "deleted at step {step}");
        }
    }

    #[test]
    fn the_bytes_of_a_deleted_entry_leave_its_pack() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        log.seal_in_packs(PACK_BYTES, 0, &|_, _| true).unwrap();
        let (old, before) = (rows(&log), content(&log));
        assert_eq!(log.rewrite_packs_up_to(0, &|_, _| true).unwrap(), Some(0));
        log.delete("own", Seq::new(300).unwrap()).unwrap();
        let deleted = content(&log);
        assert_ne!(deleted, before);
        assert_eq!(log.rewrite_packs_up_to(0, &|_, _| true).unwrap(), Some(1));
        assert_eq!(content(&log), deleted);
        assert_eq!(log.env.read().unwrap().deleted_from(Offset::ZERO).unwrap(), None);
        let new = rows(&log);
        let changed: Vec<_> = old.iter().zip(&new).filter(|(old, new)| old != new).collect();
        assert_eq!(changed.len(), 1);
        assert_eq!(files(&log), new.iter().map(PackRow::file_name).collect::<Vec<_>>());
    }

    #[test]
    fn small_packs_are_merged() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        log.seal_in_packs(PACK_BYTES, 0, &|_, _| true).unwrap();
        log.delete("other", Seq::new(3).unwrap()).unwrap();
        let (old, before) = (rows(&log), content(&log));
        let merged_bytes_max = 3 * old[0].file_bytes;
        assert!(log.rewrite_packs_up_to(merged_bytes_max, &|_, _| true).unwrap().unwrap() > 1);
        assert_eq!(content(&log), before);
        let new = rows(&log);
        assert!(new.len() < old.len() && new.iter().all(|row| row.file_bytes <= merged_bytes_max), "{new:?}");
        assert!(new.windows(2).all(|pair| pair[0].last().next() == pair[1].first), "{new:?}");
        assert_eq!(files(&log), new.iter().map(PackRow::file_name).collect::<Vec<_>>());
    }

    #[test]
    fn a_pack_is_merged_only_with_packs_of_about_its_length() {
        let row = |first, file_bytes| PackRow { first: Offset(first), entries: 1, file_bytes, generation: 0 };
        let rows: Vec<_> = (1..).zip([90, 60, 10, 7, 2, 1]).map(|(first, bytes)| row(first, bytes)).collect();
        let lengths = |max| groups(&rows, max).iter().map(|group| group.len()).collect::<Vec<_>>();
        assert_eq!(lengths(100), [2, 2, 1, 1]);
        assert_eq!(lengths(0), [1; 6]);
        let equal: Vec<_> = (1..=8).map(|first| row(first, 5)).collect();
        assert_eq!(groups(&equal, 20).iter().map(|group| group.len()).collect::<Vec<_>>(), [4, 4]);
    }

    #[test]
    fn a_pack_that_is_replaced_under_a_snapshot_is_read_in_its_new_place() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        log.seal_in_packs(PACK_BYTES, 0, &|_, _| true).unwrap();
        let (mut reader, mut offsets) = (log.reader(), Vec::new());
        let bounds = Bounds { entries_max: usize::MAX, bytes_max: usize::MAX };
        let last = reader.scan(Offset::ZERO, bounds, |change| {
            if offsets.is_empty() {
                // The snapshot is open. Only the first pack is open too.
                assert!(log.rewrite_packs(&|_, _| true).unwrap().unwrap() > 0);
            }
            offsets.push(change.offset.0);
            Ok(ControlFlow::Continue(()))
        });
        assert_eq!(last.unwrap(), Offset(1000));
        assert_eq!(offsets, (1..=1000).collect::<Vec<_>>());
        let gone = log.dir().join(pack::DIR_NAME).join(&files(&log)[0]);
        fs::remove_file(&gone).unwrap();
        let missing = log.reader().scan(Offset::ZERO, bounds, |_| Ok(ControlFlow::Continue(())));
        assert!(matches!(missing, Err(Error::PackMissing(path)) if path == gone));
    }

    #[test]
    fn only_one_process_seals() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        let _other = log.env.try_to_seal().unwrap();
        assert_eq!(
            (log.seal_in_packs(PACK_BYTES, 0, &|_, _| true).unwrap(), log.rewrite_packs(&|_, _| true).unwrap()),
            (None, None)
        );
    }
}
