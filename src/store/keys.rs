//! The keys of the entries that were stored last, by which a repeated entry is found. They are rows of the log, in the
//! transaction of their entries.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_128;

use super::Writer;
pub use super::rows::KEY_WINDOW_MAX;
use super::rows::{KEY_BYTES, KEYS_PER_ROW, KeysRow, key_row_count};
use crate::model::Result;

/// The key of an entry: a hash of what must not repeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key(u128);

impl Key {
    /// The key of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh3_128(bytes))
    }

    fn half(self) -> u64 {
        self.0 as u64
    }
}

/// The hash of a hash is itself.
#[derive(Default)]
struct NoHasher(u64);

impl Hasher for NoHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0 << 8 ^ u64::from(byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Keys with a common name that the log holds. Other processes add keys of the same name: [`Writer::load_keys`] reads them.
///
/// Each key has a number, counted from 0. The log holds the last ones.
pub struct Keys {
    name: String,
    window: u32,
    counts_others: bool,
    /// The number of keys that the log holds at most.
    kept: u32,
    /// The row of the log as this process has read or written it last.
    row: Option<KeysRow>,
    /// The keys up to `next`.
    last: VecDeque<Key>,
    /// The lower half of a key → its highest number. Numbers of keys that are no longer in `last` are removed together, because each
    /// access costs a miss of the processor's cache.
    numbers: HashMap<u64, u64, BuildHasherDefault<NoHasher>>,
    /// The number of the next key.
    next: u64,
    /// The number after the last key that this value has added.
    own_end: u64,
    /// Whether the rows must be written again, because the log holds another number of keys from now on.
    is_resized: bool,
}

impl Keys {
    /// The keys with the name `name`. A key is repeated if it is one of the last `window`, and with `counts_others` also if
    /// others have added it since this value has added one: an earlier command, or another process. Of these, the last `others`
    /// count.
    pub fn new(name: &str, window: u32, others: Option<u32>) -> Self {
        Self {
            name: name.to_owned(),
            window,
            counts_others: others.is_some(),
            kept: window.max(others.unwrap_or(0)).max(1),
            row: None,
            last: VecDeque::new(),
            numbers: HashMap::default(),
            next: 0,
            own_end: 0,
            is_resized: false,
        }
    }

    /// Adds the key of an entry that is stored in this transaction, unless it is repeated. Returns whether it was added.
    ///
    /// Add the keys of a batch one after the other, without other work in between: then the processor waits for several of them at
    /// the same time.
    pub fn add(&mut self, key: Key) -> bool {
        let (next, first, window) = (self.next, self.first(), u64::from(self.window));
        let counts = |number: u64| number + window >= next || self.counts_others && number >= self.own_end;
        let is_key = |number: u64| number.checked_sub(first).and_then(|at| self.last.get(at as usize)) == Some(&key);
        match self.numbers.entry(key.half()) {
            Entry::Occupied(known) if counts(*known.get()) && is_key(*known.get()) => return false,
            Entry::Occupied(mut known) => *known.get_mut() = next,
            Entry::Vacant(place) => {
                place.insert(next);
            }
        }
        self.push_last(key);
        self.own_end = self.next;
        true
    }

    fn push(&mut self, key: Key) {
        self.numbers.insert(key.half(), self.next);
        self.push_last(key);
    }

    fn push_last(&mut self, key: Key) {
        self.last.push_back(key);
        self.next += 1;
        if self.last.len() > self.kept as usize {
            self.last.pop_front();
        }
        if self.numbers.len() > 2 * self.kept as usize {
            let first = self.first();
            self.numbers.retain(|_, number| *number >= first);
        }
    }

    /// The number of the first key in `last`.
    fn first(&self) -> u64 {
        self.next - self.last.len() as u64
    }

    fn start_at(&mut self, number: u64) {
        self.last.clear();
        self.numbers.clear();
        self.next = number;
    }

    /// Forgets what was added since the last transaction, because it was not committed. From now on, this value is as a new one: all
    /// keys of the log count as keys of others.
    pub fn forget(&mut self) {
        (self.row, self.own_end) = (None, 0);
        self.start_at(0);
    }
}

impl Writer<'_> {
    /// Reads the keys that others have added since the last call. Call this at the start of each transaction that uses `keys`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn load_keys(&mut self, keys: &mut Keys) -> Result<()> {
        let Some(row) = self.txn.keys_row(&keys.name)? else {
            keys.start_at(0);
            keys.row = None;
            return Ok(());
        };
        let known = keys.row.replace(row);
        let held_from = row.next - u64::from(row.held);
        let is_first = known.is_none();
        if is_first || row.next < keys.next || held_from > keys.next {
            keys.start_at(held_from);
        }
        // Another command with a smaller window may have started meanwhile. It does not take keys away from this one.
        keys.is_resized = row.kept < keys.kept || is_first && row.kept != keys.kept;
        keys.kept = if is_first { keys.kept } else { row.kept.max(keys.kept) };
        while keys.next < row.next {
            let first = keys.next / KEYS_PER_ROW;
            let bytes = self.txn.keys_at(&keys.name, row, first)?;
            let skipped = (keys.next % KEYS_PER_ROW) as usize;
            let count = (row.next - first * KEYS_PER_ROW).min(KEYS_PER_ROW) as usize;
            let bytes = bytes[skipped * KEY_BYTES..count * KEY_BYTES].to_vec();
            for key in bytes.chunks_exact(KEY_BYTES) {
                keys.push(Key(u128::from_le_bytes(key.try_into().expect("16 bytes"))));
            }
        }
        Ok(())
    }

    /// Writes the keys that were added in this transaction. Call this before the commit.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn save_keys(&mut self, keys: &mut Keys) -> Result<()> {
        let saved = keys.row.map_or(0, |row| row.next);
        if keys.next == saved {
            return Ok(());
        }
        let row = KeysRow { next: keys.next, held: keys.last.len() as u32, kept: keys.kept };
        if let Some(old) = keys.row.filter(|_| keys.is_resized) {
            self.txn.remove_keys(&keys.name, key_row_count(row.kept)..key_row_count(old.kept))?;
        }
        let first = if keys.is_resized { keys.first() } else { saved.max(keys.first()) };
        for block in first / KEYS_PER_ROW..=(keys.next - 1) / KEYS_PER_ROW {
            let mut bytes = [0; KEYS_PER_ROW as usize * KEY_BYTES];
            for (number, place) in (block * KEYS_PER_ROW..).zip(bytes.chunks_exact_mut(KEY_BYTES)) {
                // Keys before the first one are not read again.
                if let Some(key) = number.checked_sub(keys.first()).and_then(|at| keys.last.get(at as usize)) {
                    place.copy_from_slice(&key.0.to_le_bytes());
                }
            }
            self.txn.set_keys_at(&keys.name, row, block, &bytes)?;
            self.other_bytes += bytes.len() as u64;
        }
        self.txn.set_keys_row(&keys.name, row)?;
        (keys.row, keys.is_resized, self.changed) = (Some(row), false, true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Log;

    fn add(log: &Log, keys: &mut Keys, numbers: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut writer = log.writer().unwrap();
        writer.load_keys(keys).unwrap();
        let mut repeated = Vec::new();
        for number in numbers {
            if !keys.add(Key::of(&number.to_le_bytes())) {
                repeated.push(number);
            }
        }
        writer.save_keys(keys).unwrap();
        writer.commit().unwrap();
        repeated
    }

    #[test]
    fn exactly_the_last_keys_are_repeated_whatever_the_window() {
        for window in [1, 2, 63, 64, 65, 127, 128, 129, 1000] {
            let dir = tempfile::tempdir().unwrap();
            let log = Log::open_or_create(dir.path()).unwrap();
            let mut one = Keys::new("line", window, None);
            let mut next = 0;
            for count in [1, 1, 62, 1, 63, 64, 65, 300, 1, 2000, 7] {
                add(&log, &mut one, next..next + count);
                next += count;
                // Another command reads the rows, and both find the same: the last keys, and not the one before.
                let first = next.saturating_sub(window);
                let mut found = Vec::new();
                let mut other = Keys::new("line", window, None);
                let mut writer = log.writer().unwrap();
                writer.load_keys(&mut other).unwrap();
                for number in 0..next + 1 {
                    let key = Key::of(&number.to_le_bytes());
                    let is_repeated =
                        |keys: &Keys| keys.numbers.get(&key.half()).is_some_and(|n| n + u64::from(window) >= keys.next);
                    assert_eq!(is_repeated(&one), is_repeated(&other), "{window} {number}");
                    found.extend(is_repeated(&one).then_some(number));
                }
                assert_eq!(found, (first..next).collect::<Vec<_>>(), "{window}");
            }
        }
    }

    #[test]
    fn keys_that_others_have_added_count_until_the_next_own_key() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        let new = || Keys::new("/id", 1, Some(100));
        let (mut a, mut b) = (new(), new());
        assert_eq!(add(&log, &mut a, 0..200), [0; 0]);
        assert_eq!(add(&log, &mut b, 150..160), (150..160).collect::<Vec<_>>(), "an earlier command has added them");
        assert_eq!(add(&log, &mut b, [99]), [0; 0], "too long ago");
        assert_eq!(add(&log, &mut b, [160, 160, 99, 99, 160]), [160, 99], "only the last key counts after an own one");
        assert_eq!(add(&log, &mut a, [160, 99, 199, 160]), [160, 99], "the other one has added them since");
        assert_eq!(add(&log, &mut a, [160, 199]), [160]);
    }

    #[test]
    fn keys_of_others_count_after_a_transaction_that_was_not_committed() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        let new = || Keys::new("/id", 1, Some(100));
        let (mut a, mut b) = (new(), new());
        let mut writer = log.writer().unwrap();
        writer.load_keys(&mut a).unwrap();
        assert!((0_u32..10).all(|number| a.add(Key::of(&number.to_le_bytes()))));
        drop(writer);
        a.forget();
        assert_eq!(add(&log, &mut b, [20, 21, 22]), [0; 0]);
        assert_eq!(add(&log, &mut a, [20, 5]), [20]);
    }

    #[test]
    fn a_smaller_window_trims_and_a_larger_one_grows() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        let rows = || log.env.read().unwrap().keys_rows().unwrap();
        let mut large = Keys::new("line", 1000, None);
        add(&log, &mut large, 0..5000);
        assert_eq!(rows(), 18);
        let mut small = Keys::new("line", 10, None);
        assert_eq!(add(&log, &mut small, [4990, 4989, 5000]), [4990]);
        assert_eq!(rows(), 3);
        // The large one goes on beside it.
        assert_eq!(add(&log, &mut large, [4001, 4005, 5000]), [4005, 5000]);
        assert_eq!(add(&log, &mut Keys::new("line", 2000, None), [4005, 4001, 4000, 1]), [4005, 4001]);
        let mut forgotten = Keys::new("line", 2000, None);
        assert_eq!(add(&log, &mut forgotten, [1, 4000]), [1, 4000]);
        forgotten.forget();
        assert_eq!(add(&log, &mut forgotten, [1, 2]), [1]);
        assert_eq!(add(&log, &mut Keys::new("/other", 2000, None), [1, 2]), [0; 0], "other names have other keys");
    }
}
