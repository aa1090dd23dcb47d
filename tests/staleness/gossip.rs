//! Logs that exchange entries in virtual time, to compare the orders of sending. The exchanges run the shipped session.

use std::cmp::Reverse;

use scuttleup::{Chain, PeerId};

use super::exchange::{exchange, ids};
use crate::hostile::Random;

/// The entries that a log sends first when it may not send all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// In its order of arrival, as scuttleup does.
    OldestFirst,
    /// The feed of which the other log lacks most, then the next: scuttle-depth in the paper.
    MostMissingFirst,
    /// All of one feed, then the next, in the order in which the log received their first entries: as the npm package does.
    FeedByFeed,
}

/// The number of a feed, which is that of its log, and a seq. Small, because every log holds every entry.
pub type Entry = (u16, u16);

pub struct Log {
    pub heads: Vec<u16>,
    pub arrived: Vec<Entry>,
    /// The sum over all feeds of a hash of the head: equal roots are equal logs.
    pub root: u128,
    /// For each feed: the index in `arrived` of each of its entries.
    places: Vec<Vec<u32>>,
    /// The feeds in the order in which their first entries arrived.
    feeds: Vec<u16>,
}

impl Log {
    fn new(feeds: usize) -> Self {
        Self { heads: vec![0; feeds], arrived: Vec::new(), root: 0, places: vec![Vec::new(); feeds], feeds: Vec::new() }
    }

    /// Stores the next entry of a feed.
    fn store(&mut self, id: &PeerId, feed: u16) {
        let (head, places) = (&mut self.heads[usize::from(feed)], &mut self.places[usize::from(feed)]);
        if *head == 0 {
            self.feeds.push(feed);
        }
        let term = |seq: u16| Chain(0).root_term(id, u32::from(seq));
        self.root = self.root.wrapping_sub(term(*head)).wrapping_add(term(*head + 1));
        *head += 1;
        places.push(self.arrived.len() as u32);
        self.arrived.push((feed, *head));
    }

    /// The number of entries of each feed that this log has and `other` lacks.
    fn ahead_of(&self, other: &Self) -> impl Iterator<Item = u16> {
        self.heads.iter().zip(&other.heads).map(|(here, there)| here.saturating_sub(*there))
    }

    /// The position of the oldest entry that `other` lacks.
    fn first_lacked_by(&self, other: &Self) -> Option<u32> {
        let next = self.places.iter().zip(&other.heads).filter_map(|(places, head)| places.get(usize::from(*head)));
        next.min().copied()
    }
}

impl Order {
    /// The entries that `from` offers to `to`, in this order.
    fn offers(self, from: &Log, to: &Log, lots: &mut Random) -> Vec<Entry> {
        let feeds = match self {
            Self::OldestFirst => {
                // As the program does: from the first entry that the other log lacks.
                let first = from.first_lacked_by(to).map_or(from.arrived.len(), |place| place as usize);
                return from.arrived[first..].to_vec();
            }
            Self::MostMissingFirst => {
                let ahead = from.ahead_of(to).zip(0..).filter(|(ahead, _)| *ahead > 0);
                let mut feeds: Vec<(_, _, u16)> = ahead.map(|(ahead, feed)| (Reverse(ahead), lots.number(), feed)).collect();
                feeds.sort_unstable();
                feeds.into_iter().map(|(_, _, feed)| feed).collect()
            }
            Self::FeedByFeed => from.feeds.clone(),
        };
        let above = |feed: u16| to.heads[usize::from(feed)] + 1..=from.heads[usize::from(feed)];
        feeds.iter().flat_map(|&feed| above(feed).map(move |seq| (feed, seq))).collect()
    }
}

/// The age of the oldest entry that a log lacks, in seconds.
#[derive(Clone, Copy, Default)]
pub struct Staleness {
    /// That of the log with the oldest one.
    pub max: f64,
    /// The mean of all logs.
    pub mean: f64,
}

/// All logs. A second has as many moments as there are logs, and each log starts an exchange in one of them.
pub struct World {
    order: Order,
    ids: Vec<PeerId>,
    logs: Vec<Log>,
    now: u32,
    /// Of each feed, the moment of each append.
    born: Vec<Vec<u32>>,
    /// Of each feed, the heads of its log at each append, one after the other: all that the entry may refer to.
    causes: Vec<Vec<u16>>,
    exchanges: Random,
    lots: Random,
    /// Whether an entry came to a log before one that it may refer to.
    pub unfounded: bool,
}

impl World {
    /// The pairs that meet depend on the seed alone: they are the same for each order.
    pub fn new(order: Order, logs: usize, seed: u64) -> Self {
        println!("{order:?}, {logs} logs, seed {seed}");
        Self {
            order,
            ids: ids(logs),
            logs: (0..logs).map(|_| Log::new(logs)).collect(),
            now: 0,
            born: vec![Vec::new(); logs],
            causes: vec![Vec::new(); logs],
            exchanges: Random(seed),
            lots: Random(!seed),
            unfounded: false,
        }
    }

    /// A log appends to its own feed.
    pub fn append(&mut self, log: usize) {
        self.logs[log].store(&self.ids[log], log as u16);
        self.born[log].push(self.now);
        self.causes[log].extend(&self.logs[log].heads);
    }

    /// One direction of an exchange, which is cut after `limit` entries.
    pub fn send(&mut self, from_number: usize, to_number: usize, limit: usize) {
        let [from, to] = self.logs.get_disjoint_mut([from_number, to_number]).expect("two logs");
        let offers = self.order.offers(from, to, &mut self.lots);
        let lacked: usize = from.ahead_of(to).map(usize::from).sum();
        let came = exchange(&self.ids, (from, from_number), (to, to_number), offers.into_iter(), limit);
        assert_eq!(came.len(), limit.min(lacked), "the session sends all that it may");
        for &(entry_feed, seq) in &came {
            let feed = usize::from(entry_feed);
            assert!(seq <= from.heads[feed], "{seq} of feed {feed} is sent by a log that lacks it");
            assert_eq!(seq, to.heads[feed] + 1, "not the next entry of feed {feed}");
            to.store(&self.ids[feed], entry_feed);
            let causes = self.causes[feed].chunks(to.heads.len()).nth(usize::from(seq) - 1).expect("it was appended");
            self.unfounded = self.unfounded || causes.iter().zip(&to.heads).any(|(cause, head)| cause > head);
        }
        if self.order == Order::OldestFirst {
            // The receiver has everything that the sender had before the last entry that came.
            let places: Vec<_> = came.iter().map(|&(feed, seq)| from.places[usize::from(feed)][usize::from(seq) - 1]).collect();
            assert!(places.is_sorted(), "not in the order of arrival");
            let next = from.first_lacked_by(to);
            assert!(places.last().zip(next).is_none_or(|(last, next)| *last < next), "an older entry was left out");
        }
    }

    /// Lets a second pass: each log appends so often, and exchanges up to `limit` entries each way with a random other.
    pub fn second(&mut self, appends: usize, limit: usize) {
        let logs = self.logs.len();
        for log in 0..logs {
            for nth in 0..appends {
                self.append((log + nth * logs / appends) % logs);
            }
            let other = self.other_than(log);
            self.send(log, other, limit);
            self.send(other, log, limit);
            self.now += 1;
        }
    }

    pub fn other_than(&mut self, log: usize) -> usize {
        let logs = self.logs.len();
        (log + 1 + self.exchanges.below(logs - 1)) % logs
    }

    pub fn staleness(&self) -> Staleness {
        let second = self.logs.len() as f64;
        let of = |log: &Log| {
            let oldest = self.born.iter().zip(&log.heads).filter_map(|(born, head)| born.get(usize::from(*head))).min();
            oldest.map_or(0.0, |born| f64::from(self.now - born) / second)
        };
        let each = self.logs.iter().map(of);
        Staleness { max: each.clone().fold(0.0, f64::max), mean: each.sum::<f64>() / second }
    }

    pub fn is_equal(&self) -> bool {
        self.logs.iter().all(|log| log.heads == self.logs[0].heads)
    }
}
