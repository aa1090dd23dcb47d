//! Repairs a log with entries that another log has received again from a remote.
//!
//! Lost entries of an otherwise intact log, if they are not in a pack, are put back into their places, after they were checked with the chain: it starts
//! before their run, and must be equal at the end of the run. If anything else is damaged, the log is not changed. What can be
//! read of it is copied into a new log, which then receives the rest.

use std::path::Path;

use super::Log;
use super::files::file;
use super::lmdb::ReadTxn;
use super::records::Records;
use super::rows::{FeedRow, RunRow};
use super::verify::salvage;
use crate::model::{Chain, Error, HashedEntry, Offset, PeerId, Result, Seq, Tombstone};

/// A commit has at most this many entries, and little more than this many bytes.
const COMMIT_ENTRIES_MAX: u64 = 1 << 14;
const COMMIT_BYTES_MAX: usize = 4 << 20;

/// Creates the folder `name` for the work of a repair in the directory `log`, if it does not exist. Only its owner can enter it.
///
/// # Errors
/// [`Error::NotAFolder`] or [`Error::UntrustedOwner`] if the name belongs to something else, or to another user.
pub fn create_folder(log: &Path, name: &str) -> Result<()> {
    file::create_dir(log, name).map(|_| ())
}

/// The result of restoring a lost entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restored {
    /// It is back in its place.
    Done,
    /// The other log does not hold it, or not all lost entries of its run.
    Missing,
    /// The other log holds other bytes: the chain differs.
    Differs,
}

/// A feed of a log that was built from the rest of a damaged log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// The author of the feed.
    pub peer: PeerId,
    /// The head in the damaged log.
    pub head: u32,
    /// The head in the new log. Lower than `head`: the entries in between are missing.
    pub has: u32,
    /// The new log holds the entries up to `head`, but with another chain.
    pub differs: bool,
}

impl Log {
    /// Copies the hash and length of each entry of `peer` before the entry `lost` into the log `to`, which does not hold the feed.
    /// A session of `to` then receives the entries from `lost` on, and the remote compares the chain before it.
    ///
    /// # Errors
    /// When one of the logs cannot be read or written.
    pub fn copy_before(&self, peer: &PeerId, lost: Seq, to: &Self) -> Result<()> {
        let (mut reader, mut next) = (self.reader(), 1);
        if let Some(floor) = self.env.read()?.feed(peer.as_str())?.and_then(|row| row.floor) {
            let mut writer = to.writer()?;
            let seq = Seq::new(u64::from(floor.seq)).ok_or(Error::Checksum(Offset::ZERO))?;
            writer.set_floor(peer, seq, floor.chain)?;
            writer.commit()?;
            next = floor.seq + 1;
        }
        while next < lost.get() {
            let mut writer = to.writer()?;
            while next < lost.get() && writer.new_entries() < COMMIT_ENTRIES_MAX {
                let seq = Seq::new(u64::from(next)).ok_or(Error::Checksum(Offset::ZERO))?;
                let tombstone = reader.entry(peer.as_str(), seq, |change| change.entry.tombstone())?;
                let tombstone = tombstone.ok_or_else(|| Error::Corrupt(format!("the log has no entry {seq} of {peer}")))?;
                writer.push(peer, HashedEntry::deleted(tombstone))?;
                next += 1;
            }
            writer.commit()?;
        }
        Ok(())
    }

    /// Puts the `lost` entries of `peer`, in ascending order, back into their places. The log `from` holds them. Gives each seq
    /// and what became of it to `each`.
    ///
    /// # Errors
    /// When one of the logs cannot be read or written.
    pub fn restore(
        &self,
        peer: &PeerId,
        lost: &[Seq],
        from: &Self,
        mut each: impl FnMut(Seq, Restored) -> Result<()>,
    ) -> Result<()> {
        let mut left = lost;
        while let Some(&first) = left.first() {
            let (row, run) = self.run_of(peer, first)?;
            let (of_run, others) = left.split_at(left.partition_point(|seq| run.offset_of(seq.get()).is_some()));
            let restored = self.compare_run(peer, row, run, from)?;
            if restored == Restored::Done {
                self.put_back(peer, row, run, of_run, from)?;
            }
            of_run.iter().try_for_each(|&seq| each(seq, restored))?;
            left = others;
        }
        Ok(())
    }

    /// The feed of `peer`, and its run that contains the entry `seq`.
    fn run_of(&self, peer: &PeerId, seq: Seq) -> Result<(FeedRow, RunRow)> {
        let txn = self.env.read()?;
        let missing = || Error::Corrupt(format!("the index of {peer} is wrong at entry {seq}"));
        let row = txn.feed(peer.as_str())?.ok_or_else(missing)?;
        let run = txn.run(row.number, seq.get())?.filter(|run| run.offset_of(seq.get()).is_some());
        run.map(|run| (row, run)).ok_or_else(missing)
    }

    /// Computes the chain over a run: from its own entries, and in place of the lost ones from those of `from`.
    fn compare_run(&self, peer: &PeerId, row: FeedRow, run: RunRow, from: &Self) -> Result<Restored> {
        let (txn, mut records, mut others) = (self.env.read()?, Records::new(self.dir()), from.reader());
        let mut chain = run.chain_before;
        for index in 0..run.count {
            let seq = Seq::new(u64::from(run.first_seq + index)).ok_or(Error::Checksum(Offset::ZERO))?;
            let own = intact(&txn, &mut records, row, Offset(run.first_offset + u64::from(index)), seq);
            let entry = match own {
                None => others.entry(peer.as_str(), seq, |change| change.entry.tombstone())?,
                own => own,
            };
            let Some(entry) = entry else { return Ok(Restored::Missing) };
            chain = chain.next(entry);
        }
        let expected = chain_after(&txn, row, run)?;
        Ok(if expected == Some(chain) { Restored::Done } else { Restored::Differs })
    }

    fn put_back(&self, peer: &PeerId, row: FeedRow, run: RunRow, lost: &[Seq], from: &Self) -> Result<()> {
        let mut others = from.reader();
        let mut left = lost;
        while !left.is_empty() {
            let (mut writer, mut bytes) = (self.writer()?, 0);
            while let Some((&seq, rest)) = left.split_first().filter(|_| bytes < COMMIT_BYTES_MAX) {
                let offset = run.offset_of(seq.get()).ok_or(Error::Checksum(Offset::ZERO))?;
                let put = others.entry(peer.as_str(), seq, |change| writer.replace(offset, row.number, seq, change.entry))?;
                bytes += put.ok_or_else(|| Error::Corrupt(format!("the log has no entry {seq} of {peer}")))??;
                left = rest;
            }
            writer.commit()?;
        }
        Ok(())
    }
}

/// Hash and length of the record at `offset`, if it is intact and belongs to this entry.
fn intact(txn: &ReadTxn<'_>, records: &mut Records, row: FeedRow, offset: Offset, seq: Seq) -> Option<Tombstone> {
    let found = records.get(txn, offset, |record| Ok((record.number, record.seq, record.entry.tombstone())));
    found.ok().filter(|&(number, found, _)| (number, found) == (row.number, seq)).map(|(_, _, tombstone)| tombstone)
}

/// The chain after the last entry of a run: the chain before the next run, or that of the feed.
fn chain_after(txn: &ReadTxn<'_>, row: FeedRow, run: RunRow) -> Result<Option<Chain>> {
    let next = u64::from(run.first_seq) + u64::from(run.count);
    if next > u64::from(row.head) {
        return Ok((next == u64::from(row.head) + 1).then_some(row.chain));
    }
    let next = u32::try_from(next).unwrap_or(u32::MAX);
    Ok(txn.run(row.number, next)?.filter(|run| run.first_seq == next).map(|run| run.chain_before))
}

/// Adds the intact entries of the damaged log in `dir` to `log`, each if it is the next one of its feed. Returns their number.
/// Call it again after `log` has received other entries: more of them may then follow.
///
/// # Errors
/// When `dir` holds no log, or `log` cannot be written.
pub fn salvage(dir: &Path, log: &Log) -> Result<u64> {
    let mut all = 0;
    loop {
        // An entry may come before the one that it follows.
        let new = salvage_once(dir, log)?;
        all += new;
        // A feed with a floor can go on behind its floor.
        if new == 0 && !salvage_floors(dir, log)? {
            return Ok(all);
        }
    }
}

/// Raises the feeds of `log` to the floors that can be read in the damaged log in `dir`. Returns whether one was raised.
fn salvage_floors(dir: &Path, log: &Log) -> Result<bool> {
    let (mut writer, mut has_raised) = (log.writer()?, false);
    salvage::feeds(dir, |peer, row| {
        let floor = row.floor.and_then(|floor| Some((Seq::new(u64::from(floor.seq))?, floor.chain)));
        if let Some((seq, chain)) = floor
            && writer.feed_state(&peer)?.0 < seq.get()
        {
            writer.set_floor(&peer, seq, chain)?;
            has_raised = true;
        }
        Ok(())
    })?;
    writer.commit()?;
    Ok(has_raised)
}

fn salvage_once(dir: &Path, log: &Log) -> Result<u64> {
    let (mut writer, mut bytes, mut new) = (None, 0, 0);
    salvage::entries(dir, |change| {
        let open = match &mut writer {
            Some(open) => open,
            closed => closed.insert(log.writer()?),
        };
        let (head, _) = open.feed_state(change.peer)?;
        if u64::from(change.seq.get()) == u64::from(head) + 1 {
            open.push(change.peer, change.entry)?;
            bytes += change.entry.tombstone().bytes as usize;
        }
        if open.new_entries() >= COMMIT_ENTRIES_MAX || bytes >= COMMIT_BYTES_MAX {
            bytes = 0;
            new += writer.take().map_or(Ok(0), |full| full.commit().map(|committed| committed.new))?;
        }
        Ok(())
    })?;
    Ok(new + writer.map_or(Ok(0), |rest| rest.commit().map(|committed| committed.new))?)
}

/// The id of the damaged log in `dir`, if it can be read.
///
/// # Errors
/// When `dir` holds no log.
pub fn id(dir: &Path) -> Result<Option<PeerId>> {
    salvage::id(dir)
}

/// Compares `log` with the heads that can be read in the damaged log in `dir`. Gives each feed to `each`. Returns whether all heads
/// can be read.
///
/// # Errors
/// When `dir` holds no log, or `log` cannot be read.
pub fn compare(dir: &Path, log: &Log, mut each: impl FnMut(Rebuilt) -> Result<()>) -> Result<bool> {
    let reader = log.reader();
    salvage::feeds(dir, |peer, FeedRow { head, chain, .. }| {
        let has = log.head(peer.as_str())?;
        let differs = has >= head && reader.chain_at(peer.as_str(), head)? != Some(chain);
        each(Rebuilt { peer, head, has, differs })
    })
}
