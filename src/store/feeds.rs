//! Feeds as a whole: heads, chains and forks. Replication compares two logs by them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::lmdb::ReadTxn;
use super::records::Records;
use super::rows::FeedRow;
use super::{Log, Reader};
use crate::model::{Chain, Error, Heads, Offset, PeerId, Printable, Result, Seq};

/// The result of comparing a feed with that of another log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compared {
    /// The head in this log, 0 if the feed is unknown.
    pub head: u32,
    /// Whether the chains are known to differ.
    pub differs: bool,
    /// Whether this log knows its chain there: it has not pruned it, and the feed does not end before it.
    pub is_known: bool,
}

impl Log {
    /// The head of each feed.
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
        each_feed(&self.env.read()?, |peer, row| {
            heads.raise(&PeerId::new(peer)?, row.head);
            Ok(())
        })?;
        Ok(heads)
    }

    /// The head of the feed of `peer`, 0 if the log has no entry of it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn head(&self, peer: &str) -> Result<u32> {
        Ok(self.env.read()?.feed(peer)?.map_or(0, |row| row.head))
    }

    /// Gives each feed and its head to `each`. Returns the offset of the last entry in the same snapshot. Takes less memory
    /// than [`Log::heads`] in a log with many feeds.
    ///
    /// `each` must not block: the snapshot is open while it runs.
    pub(crate) fn each_head(&self, mut each: impl FnMut(&str, u32)) -> Result<Offset> {
        each_feed(&self.env.read()?, |peer, row| {
            each(peer, row.head);
            Ok(())
        })
    }

    /// Gives up to `feeds_max` feeds with an id above `after` to `each`, in the byte order of the ids: id, head and chain.
    /// Returns the number of feeds that were given, and the offset of the last entry in the same snapshot.
    ///
    /// `each` must not block: the snapshot is open while it runs.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn feeds_after(
        &self,
        after: Option<&str>,
        feeds_max: usize,
        mut each: impl FnMut(&str, u32, Chain),
    ) -> Result<(usize, Offset)> {
        let txn = self.env.read()?;
        let mut given = 0;
        txn.feeds_after(after.unwrap_or_default(), |peer, row| {
            if given == feeds_max {
                return Ok(ControlFlow::Break(()));
            }
            each(peer, row.head, row.chain);
            given += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((given, txn.last_offset()?))
    }

    /// Gives up to `feeds_max` feeds with an id above `after` to `each`, as [`Log::feeds_after`]: id and head, whether it is the
    /// local feed, whether it is known to have forked, and its floor (0: none). Returns the number of feeds that were given.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn heads_after(
        &self,
        after: Option<&str>,
        feeds_max: usize,
        mut each: impl FnMut(&str, u32, bool, bool, u32),
    ) -> Result<usize> {
        let txn = self.env.read()?;
        let (local, has_forks, mut given) = (txn.local_id()?, txn.has_forks()?, 0);
        txn.feeds_after(after.unwrap_or_default(), |peer, row| {
            if given == feeds_max {
                return Ok(ControlFlow::Break(()));
            }
            let is_forked = has_forks && txn.fork(&PeerId::new(peer)?)?.is_some();
            each(peer, row.head, peer == local.as_str(), is_forked, row.floor_seq());
            given += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(given)
    }

    /// Looks at up to `feeds_max` feeds with an id above `after`, and gives those with a floor to `each`: id, floor, and the chain
    /// there. Returns the last id that it looked at, or `None` if there are no more feeds.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn floors_after(
        &self,
        after: Option<&PeerId>,
        feeds_max: usize,
        mut each: impl FnMut(&PeerId, Seq, Chain),
    ) -> Result<Option<PeerId>> {
        let (mut seen, mut last) = (0, None);
        self.env.read()?.feeds_after(after.map_or("", PeerId::as_str), |peer, row| {
            seen += 1;
            if seen == feeds_max {
                last = Some(PeerId::new(peer)?);
            }
            if let Some((seq, floor)) = Seq::new(u64::from(row.floor_seq())).zip(row.floor) {
                each(&PeerId::new(peer)?, seq, floor.chain);
            }
            Ok(if seen == feeds_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(last)
    }

    /// The floor of the feed of `peer`, 0 if there is none.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn floor(&self, peer: &str) -> Result<u32> {
        Ok(self.env.read()?.feed(peer)?.map_or(0, |row| row.floor_seq()))
    }

    /// The feeds that are known to have forked, each with the lowest seq that is known to differ in another log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn forks(&self) -> Result<BTreeMap<PeerId, Seq>> {
        let mut forks = BTreeMap::new();
        self.env.read()?.forks(|peer, seq| {
            forks.insert(peer, seq);
        })?;
        Ok(forks)
    }

    /// The root, and the offset of the last entry in the same snapshot.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn state(&self) -> Result<(u128, Offset)> {
        let txn = self.env.read()?;
        Ok((txn.root()?, txn.last_offset()?))
    }
}

impl Reader<'_> {
    /// The offset after which a scan finds every entry that is here with a seq above `head_of` its peer, and above its floor. It is the last offset if the
    /// log holds no such entry.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn start_above(&self, head_of: impl Fn(&str) -> u32) -> Result<Offset> {
        let txn = self.log.env.read()?;
        let mut first = Offset(u64::MAX);
        let last = each_feed(&txn, |peer, row| {
            let next = head_of(peer).max(row.floor_seq()).saturating_add(1);
            if let Some(seq) = Seq::new(u64::from(next)).filter(|_| next <= row.head)
                && let Some(offset) = txn.offset_of(peer, row, seq)?
            {
                first = first.min(offset);
            }
            Ok(())
        })?;
        Ok(Offset(first.0 - 1).min(last))
    }

    /// Checks that the heads of all feeds count all entries of the log.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they do not.
    pub fn check_heads(&self) -> Result<()> {
        each_feed(&self.log.env.read()?, |_, _| Ok(())).map(|_| ())
    }

    /// The chain of a feed after its entry `seq`, or `None` if the feed ends before it, or it is below the floor. Reads at most one run.
    ///
    /// # Errors
    /// [`Error::Checksum`] if a record of this run is damaged.
    pub fn chain_at(&self, peer: &str, seq: u32) -> Result<Option<Chain>> {
        self.log.in_snapshot(|txn| match txn.feed(peer)? {
            Some(row) if seq > 0 => compute_chain(txn, &mut self.records.borrow_mut(), peer, row, seq),
            _ => Ok(PeerId::new(peer).ok().filter(|_| seq == 0).map(|peer| Chain::start(&peer))),
        })
    }

    /// Compares feeds with those of another log, in one snapshot. Each of `feeds` is id, head and chain in the other log.
    /// Chains can differ only if both logs have entries of the feed.
    ///
    /// # Errors
    /// As [`Reader::chain_at`].
    pub fn compare(&self, feeds: &[(&str, u32, Chain)]) -> Result<Vec<Compared>> {
        self.log.in_snapshot(|txn| {
            let compare = |&(peer, seq, chain): &(&str, u32, Chain)| {
                let Some(row) = txn.feed(peer)? else { return Ok(Compared { head: 0, differs: false, is_known: false }) };
                let local = if seq == 0 { None } else { compute_chain(txn, &mut self.records.borrow_mut(), peer, row, seq)? };
                Ok(Compared { head: row.head, differs: local.is_some_and(|local| local != chain), is_known: local.is_some() })
            };
            feeds.iter().map(compare).collect()
        })
    }
}

/// Gives each feed to `each`, in the order of the ids. Returns the offset of the last entry.
///
/// # Errors
/// [`Error::Corrupt`] if the heads do not count all entries that ever had an offset: then pages of different commits are mixed.
fn each_feed(txn: &ReadTxn<'_>, mut each: impl FnMut(&str, FeedRow) -> Result<()>) -> Result<Offset> {
    let mut entries = 0;
    txn.feeds(|peer, row| {
        entries += u64::from(row.arrived());
        each(peer, row)
    })?;
    match txn.last_offset()? {
        last if last.0 == entries => Ok(last),
        last => Err(Error::Corrupt(format!("the feeds should hold {entries} entries, but the log holds {last}"))),
    }
}

/// The chain after the entry `seq` of the feed `row`, or `None` if the feed ends before it, or it is below the floor. `seq` must not
/// be 0.
fn compute_chain(txn: &ReadTxn<'_>, records: &mut Records, peer: &str, row: FeedRow, seq: u32) -> Result<Option<Chain>> {
    if seq >= row.head {
        return Ok((seq == row.head).then_some(row.chain));
    }
    if let Some(floor) = row.floor.filter(|floor| seq <= floor.seq) {
        return Ok((seq == floor.seq).then_some(floor.chain));
    }
    chain_before(txn, records, peer, row.number, seq + 1).map(Some)
}

/// The chain of a feed before its entry `seq`, which the log must hold. `number` is its peer number. Reads at most one run.
pub fn chain_before(txn: &ReadTxn<'_>, records: &mut Records, peer: &str, number: u32, seq: u32) -> Result<Chain> {
    let bad_index = || Error::Corrupt(format!("the index of {} is wrong at entry {seq}", Printable(peer)));
    let run = txn.run(number, seq)?.filter(|run| run.offset_of(seq).is_some()).ok_or_else(bad_index)?;
    let (mut chain, mut next) = (run.chain_before, run.first_seq);
    if next == seq {
        return Ok(chain);
    }
    records.scan(txn, Offset(run.first_offset), |offset, record| {
        let expected = Offset(run.first_offset + u64::from(next - run.first_seq));
        if offset != expected {
            return Err(Error::Checksum(expected));
        }
        if (record.number, record.seq.get()) != (number, next) {
            return Err(bad_index());
        }
        chain = chain.next(record.entry.tombstone());
        next += 1;
        Ok(if next == seq { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if next == seq { Ok(chain) } else { Err(bad_index()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HashedEntry, Tombstone};
    use crate::store::Bounds;

    fn id(name: &str) -> PeerId {
        PeerId::new(name).unwrap()
    }

    fn push(log: &Log, peer: &str, seqs: std::ops::RangeInclusive<u64>) {
        let mut writer = log.writer().unwrap();
        for seq in seqs {
            let bytes = format!("{peer} {seq}");
            assert_eq!(u64::from(writer.push(&id(peer), HashedEntry::new(bytes.as_bytes())).unwrap().get()), seq);
        }
        writer.commit().unwrap();
    }

    /// A log with a long feed, two feeds whose entries alternate, and deleted entries.
    fn varied(dir: &tempfile::TempDir) -> Log {
        let log = Log::create(dir.path(), Some(id("local"))).unwrap();
        push(&log, "long", 1..=1500);
        for n in 1..=40 {
            push(&log, "a", n..=n);
            push(&log, "b", 2 * n - 1..=2 * n);
        }
        push(&log, "long", 1501..=4000);
        for (peer, seq) in [("long", 1), ("long", 1024), ("long", 1025), ("long", 3000), ("a", 7), ("b", 80)] {
            assert!(log.delete(peer, Seq::new(seq).unwrap()).unwrap().is_some());
        }
        let mut writer = log.writer().unwrap();
        assert_eq!(writer.push(&id("a"), HashedEntry::deleted(Tombstone::UNKNOWN)).unwrap().get(), 41);
        writer.commit().unwrap();
        push(&log, "a", 42..=43);
        log
    }

    /// The chains of each feed after its entries 0, 1, 2 …, computed from all entries.
    fn chains(log: &Log) -> BTreeMap<String, Vec<Chain>> {
        let (mut chains, mut after, mut reader) = (BTreeMap::<String, Vec<Chain>>::new(), Offset::ZERO, log.reader());
        loop {
            let last = reader.scan(after, Bounds::default(), |change| {
                let feed = chains.entry(change.peer.as_str().into()).or_insert_with(|| vec![Chain::start(change.peer)]);
                feed.push(feed.last().unwrap().next(change.entry.tombstone()));
                Ok(ControlFlow::Continue(()))
            });
            if std::mem::replace(&mut after, last.unwrap()) == after {
                return chains;
            }
        }
    }

    #[test]
    fn the_chain_at_an_entry_covers_all_entries_up_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = varied(&dir);
        let (reader, chains) = (log.reader(), chains(&log));
        assert_eq!(
            chains.iter().map(|(peer, feed)| (peer.as_str(), feed.len())).collect::<Vec<_>>(),
            [("a", 44), ("b", 81), ("long", 4001)]
        );
        for (peer, feed) in &chains {
            for (seq, chain) in (0..).zip(feed) {
                assert_eq!(reader.chain_at(peer, seq).unwrap(), Some(*chain), "{peer} {seq}");
            }
            assert_eq!(reader.chain_at(peer, feed.len() as u32).unwrap(), None);
            assert_eq!(reader.chain_at(peer, u32::MAX).unwrap(), None);
        }
        assert_eq!(reader.chain_at("unknown", 0).unwrap(), Some(Chain::start(&id("unknown"))));
        assert_eq!(reader.chain_at("unknown", 1).unwrap(), None);
        for bad in ["", &*"x".repeat(256)] {
            assert_eq!((reader.chain_at(bad, 0).unwrap(), reader.chain_at(bad, 1).unwrap()), (None, None));
        }
    }

    #[test]
    fn feeds_differ_only_where_both_logs_have_entries() {
        let dir = tempfile::tempdir().unwrap();
        let log = varied(&dir);
        let (wrong, chains) = (Chain(7), chains(&log));
        let at = |peer: &str, seq: usize| chains[peer][seq];
        let rows = [
            ("long", 4000, at("long", 4000)),
            ("long", 4000, wrong),
            ("long", 1400, at("long", 1400)),
            ("long", 1400, at("long", 1399)),
            ("long", 4001, wrong),
            ("a", 0, wrong),
            ("a", 43, at("a", 43)),
            ("unknown", 3, wrong),
            ("", 3, wrong),
        ];
        let compared = log.reader().compare(&rows).unwrap();
        assert_eq!(
            compared.iter().map(|compared| (compared.head, compared.differs)).collect::<Vec<_>>(),
            [
                (4000, false),
                (4000, true),
                (4000, false),
                (4000, true),
                (4000, false),
                (43, false),
                (43, false),
                (0, false),
                (0, false)
            ]
        );
    }

    #[test]
    fn a_damaged_or_misplaced_record_gives_an_error_and_no_chain() {
        let dir = tempfile::tempdir().unwrap();
        let log = varied(&dir);
        // Entry 1030 of "long", which is also offset 1030. It is in the middle of the second run.
        let mut txn = log.env.write().unwrap();
        let mut record = txn.record(Offset(1030)).unwrap().unwrap().to_vec();
        *record.last_mut().unwrap() ^= 1;
        txn.replace_record(Offset(1030), &record).unwrap();
        // A record of "b" at the offset of the entry 1580 of "long".
        let other = txn.record(Offset(1502)).unwrap().unwrap().to_vec();
        txn.replace_record(Offset(1700), &other).unwrap();
        txn.commit().unwrap();
        let reader = log.reader();
        for seq in [1, 1024, 1025, 1029, 1501, 1579, 2525, 4000] {
            assert!(reader.chain_at("long", seq).unwrap().is_some());
        }
        for seq in [1030, 1031, 1499] {
            assert!(matches!(reader.chain_at("long", seq), Err(Error::Checksum(Offset(1030)))), "{seq}");
            assert!(reader.compare(&[("long", seq, Chain(7))]).is_err());
        }
        assert!(matches!(reader.chain_at("long", 1580), Err(Error::Checksum(Offset(1700)))));
    }

    #[test]
    fn heads_that_do_not_count_all_entries_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let log = varied(&dir);
        log.reader().check_heads().unwrap();
        let mut txn = log.env.write().unwrap();
        let row = txn.feed("a").unwrap().unwrap();
        txn.set_feed(&id("a"), &FeedRow { head: row.head + 1, ..row }).unwrap();
        txn.commit().unwrap();
        let said = "the feeds should hold 4124 entries, but the log holds 4123";
        let reader = log.reader();
        for result in [log.heads().map(|_| ()), log.each_head(|_, _| ()).map(|_| ()), reader.check_heads()] {
            assert!(matches!(result, Err(Error::Corrupt(what)) if what == said));
        }
        assert!(matches!(reader.start_above(|_| 0), Err(Error::Corrupt(what)) if what == said));
    }

    #[test]
    fn an_entry_that_is_in_no_run_is_damage_and_not_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let log = varied(&dir);
        let mut txn = log.env.write().unwrap();
        let row = txn.feed("a").unwrap().unwrap();
        txn.set_feed(&id("a"), &FeedRow { head: row.head + 1, ..row }).unwrap();
        txn.commit().unwrap();
        let (last, next) = (Seq::new(43).unwrap(), Seq::new(44).unwrap());
        assert!(log.reader().entry("a", last, |_| ()).unwrap().is_some());
        for result in [log.reader().entry("a", next, |_| ()).map(|_| ()), log.delete("a", next).map(|_| ())] {
            assert!(matches!(result, Err(Error::Corrupt(what)) if what == "the index of a is wrong at entry 44"));
        }
        assert!(log.reader().start_above(|_| 43).is_err());
        assert!(log.reader().entry("a", Seq::new(45).unwrap(), |_| ()).unwrap().is_none());
    }

    #[test]
    fn feeds_are_given_in_parts_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let log = varied(&dir);
        let chains = chains(&log);
        let last = log.last_offset().unwrap();
        let after = |after: Option<&str>, feeds_max| {
            let mut feeds = Vec::new();
            let given = log.feeds_after(after, feeds_max, |peer, head, chain| {
                assert_eq!((head as usize + 1, Some(&chain)), (chains[peer].len(), chains[peer].last()));
                feeds.push(peer.to_owned());
            });
            assert_eq!(given.unwrap(), (feeds.len(), last));
            feeds
        };
        assert_eq!(after(None, 9), ["a", "b", "long"]);
        assert_eq!(after(Some(""), 3), ["a", "b", "long"]);
        assert_eq!(after(None, 2), ["a", "b"]);
        assert_eq!(after(Some("a"), 1), ["b"]);
        // An unknown id has its place in the order too.
        assert_eq!(after(Some("aa"), 9), ["b", "long"]);
        assert_eq!(after(Some(&"b".repeat(600)), 9), ["long"]);
        for none in [after(Some("long"), 9), after(None, 0)] {
            assert_eq!(none, Vec::<String>::new());
        }
        assert_eq!(log.state().unwrap(), (log.info().unwrap().root, last));
    }

    #[test]
    fn a_writer_sees_the_feeds_as_it_changed_them() {
        let dir = tempfile::tempdir().unwrap();
        let log = varied(&dir);
        let (chains, new) = (chains(&log), HashedEntry::new(b"new"));
        let mut writer = log.writer().unwrap();
        assert_eq!(writer.feed_state(&id("a")).unwrap(), (43, chains["a"][43]));
        assert_eq!(writer.feed_state(&id("unknown")).unwrap(), (0, Chain::start(&id("unknown"))));
        for (peer, seq, before) in [("a", 44, chains["a"][43]), ("new", 1, Chain::start(&id("new")))] {
            assert_eq!(u64::from(writer.push(&id(peer), new).unwrap().get()), seq);
            assert_eq!(writer.feed_state(&id(peer)).unwrap(), (seq as u32, before.next(new.tombstone())));
        }
        writer.commit().unwrap();
        assert_eq!(log.reader().chain_at("a", 44).unwrap(), Some(chains["a"][43].next(new.tombstone())));
        assert_eq!(log.heads().unwrap().iter().map(|(peer, _)| peer.as_str()).collect::<Vec<_>>(), ["a", "b", "long", "new"]);
        assert_eq!(log.info().unwrap().feeds, 4, "an unknown feed that was only looked up gets no number");
    }

    #[test]
    fn a_fork_mark_keeps_the_lowest_seq_and_changes_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let log = varied(&dir);
        let (state, heads, longest) = (log.state().unwrap(), log.heads().unwrap(), "x".repeat(255));
        let mark = |marks: &[(&str, u64)]| {
            let mut writer = log.writer().unwrap();
            for &(peer, seq) in marks {
                writer.mark_fork(&id(peer), Seq::new(seq).unwrap()).unwrap();
            }
            assert_eq!(writer.commit().unwrap().new, 0);
            log.forks().unwrap().iter().map(|(peer, seq)| (peer.as_str().to_owned(), seq.get())).collect::<Vec<_>>()
        };
        let marks = |marks: &[(&str, u32)]| marks.iter().map(|&(peer, seq)| (peer.to_owned(), seq)).collect::<Vec<_>>();
        assert_eq!(mark(&[]), []);
        assert_eq!(mark(&[("long", 30), ("a", 9)]), marks(&[("a", 9), ("long", 30)]));
        assert_eq!(mark(&[("long", 31), ("a", 8), ("a", 10)]), marks(&[("a", 8), ("long", 30)]));
        assert_eq!(mark(&[(&longest, 4_294_967_295)]), marks(&[("a", 8), ("long", 30), (&longest, u32::MAX)]));
        // A cleared mark is gone, and can be set again.
        let clear = |peer: &str| {
            let mut writer = log.writer().unwrap();
            let cleared = writer.clear_fork(&id(peer)).unwrap().map(Seq::get);
            writer.commit().unwrap();
            (cleared, log.forks().unwrap().len(), log.info().unwrap().forks)
        };
        assert_eq!([clear("long"), clear("long"), clear("b")], [(Some(30), 2, 2), (None, 2, 2), (None, 2, 2)]);
        assert_eq!(mark(&[("long", 40)]), marks(&[("a", 8), ("long", 40), (&longest, u32::MAX)]));
        // Without a commit, nothing is marked.
        log.writer().unwrap().mark_fork(&id("b"), Seq::new(1).unwrap()).unwrap();
        assert_eq!(log.forks().unwrap().len(), 3);
        assert_eq!((log.state().unwrap(), log.heads().unwrap(), log.info().unwrap().forks), (state, heads, 3));
    }
}
