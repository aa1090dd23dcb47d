//! The simulated world: logs, sessions between them, and events that happen to both.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use scuttleup::wire::{DifferenceKind, PREAMBLE};
use scuttleup::{Chain, Mode};

use super::super::hostile::Random;
use super::disk::{Disk, Event, Heads};
use super::side::Side;
use super::spy::Spy;

pub struct Log {
    pub own: String,
    pub disk: Disk,
    /// Whether this log speaks only the original wire.
    is_original: bool,
}

/// A session between two logs. `wires[n]` holds the bytes in transit from `sides[n]`, and `spies[n]` checks them.
struct Pair {
    sides: [Side; 2],
    wires: [Vec<u8>; 2],
    spies: [Spy; 2],
    /// The bytes of each side that have arrived. Bytes in transit are unknown to the other side.
    arrived: [Spy; 2],
    once: bool,
}

pub struct World {
    pub random: Random,
    pub logs: Vec<Log>,
    pairs: Vec<Pair>,
    entries: u64,
    /// The heads of the author's log when it appended the entry, by the bytes of the entry.
    causes: BTreeMap<Vec<u8>, Heads>,
    new_ids: u32,
    restored: bool,
    /// Whether an entry was appended or a log was restored since the last search for forks.
    appended: bool,
    forked: Rc<BTreeSet<String>>,
    pub forks_found: u32,
    pub prunings: u32,
    pub finished: u32,
}

impl World {
    pub fn new(seed: u64, logs: usize, originals: bool) -> Self {
        let mut random = Random(seed);
        let log =
            |n: usize| Log { own: format!("log-{n}"), disk: Disk::default(), is_original: originals && random.below(4) == 0 };
        let logs = (0..logs).map(log).collect();
        let random = Random(random.number());
        Self {
            random,
            logs,
            pairs: Vec::new(),
            entries: 0,
            causes: BTreeMap::new(),
            new_ids: 0,
            restored: false,
            appended: false,
            forked: Rc::default(),
            forks_found: 0,
            prunings: 0,
            finished: 0,
        }
    }

    /// Prunes a log. With the original wire, a floor is a gap, and the logs would not become equal.
    fn prune(&mut self, log: usize) {
        if !self.logs.iter().any(|log| log.is_original) {
            // Most forks stay above the floor.
            let entries = self.random.below(self.logs[log].disk.order.len() + 1) * self.random.below(5) / 4;
            self.logs[log].disk.prune(entries);
            self.prunings += 1;
        }
    }

    /// Does one random step. With `faults`, sessions may be cut, and logs may crash or be restored.
    pub fn step(&mut self, faults: bool) {
        let log = self.random.below(self.logs.len());
        match self.random.below(100) {
            0..15 => self.append(log),
            15..20 => self.open(),
            20..22 if faults => self.cut_one(),
            22..23 if faults => self.crash(log),
            23 if faults && self.random.below(3) == 0 => self.restore(log),
            24 => self.prune(log),
            25..55 => self.with_pair(Self::pump),
            55..85 => self.with_pair(Self::deliver),
            _ => self.with_pair(Self::commit),
        }
    }

    pub fn append(&mut self, log: usize) {
        self.appended = true;
        for _ in 0..=self.random.below(3) {
            self.entries += 1;
            let Log { own, disk, .. } = &mut self.logs[log];
            let bytes = format!("{} {own}", self.entries).into_bytes();
            self.causes.insert(bytes.clone(), disk.heads());
            let (own, seq) = (own.clone(), disk.head(own) + 1);
            disk.push(&own, seq, &bytes);
        }
    }

    /// Opens a session between two logs. They may already have one.
    fn open(&mut self) {
        let one = self.random.below(self.logs.len());
        let other = (one + 1 + self.random.below(self.logs.len() - 1)) % self.logs.len();
        if self.pairs.len() < 2 * self.logs.len() {
            let once = self.random.below(2) == 0;
            let modes = [(); 2].map(|()| [Mode::Sync, Mode::Sync, Mode::Sync, Mode::Push, Mode::Pull][self.random.below(5)]);
            self.join(one, other, once, modes);
        }
    }

    fn join(&mut self, one: usize, other: usize, once: bool, modes: [Mode; 2]) {
        let side = |log: usize, mode: Mode| {
            let Log { own, disk, is_original } = &self.logs[log];
            Side::new(log, own, disk, mode, once, *is_original)
        };
        let sides = [side(one, modes[0]), side(other, modes[1])];
        self.pairs.push(Pair {
            sides,
            wires: [Vec::new(), Vec::new()],
            spies: modes.map(Spy::new),
            arrived: modes.map(Spy::new),
            once,
        });
    }

    fn with_pair(&mut self, act: fn(&mut Self, usize, usize) -> Result<bool, String>) {
        if self.pairs.is_empty() {
            return;
        }
        let (pair, side) = (self.random.below(self.pairs.len()), self.random.below(2));
        self.act(act, pair, side);
    }

    /// Does one action of a side. Returns whether it had anything to do. A session must never fail, even if the logs have forked.
    fn act(&mut self, act: fn(&mut Self, usize, usize) -> Result<bool, String>, pair: usize, side: usize) -> bool {
        let done = act(self, pair, side).unwrap_or_else(|why| panic!("a session failed: {why}"));
        self.check_forks(pair);
        if self.pairs[pair].sides.iter().all(Side::is_over) {
            self.pairs.remove(pair);
        }
        done
    }

    fn pump(&mut self, pair: usize, side: usize) -> Result<bool, String> {
        let forked = self.forked();
        let batch = 1 + self.random.below(8);
        let Pair { sides, wires, spies, arrived, once } = &mut self.pairs[pair];
        let (from, to) = (&self.logs[sides[side].log].disk, &self.logs[sides[1 - side].log].disk);
        let was_over = sides[side].is_over();
        let more = sides[side].pump(from, batch)?;
        let bytes = std::mem::take(&mut sides[side].outgoing);
        if sides[side].is_native() {
            let back = (arrived[1 - side].sent.clone(), spies[1 - side].feeds().to_vec());
            let announced = if sides[side].has_begun_to_offer() { sides[1 - side].start.clone() } else { Heads::new() };
            spies[side].check(&bytes, from, to, (&back.0, &back.1), &announced, &|peer| forked.contains(peer));
        } else if bytes == PREAMBLE {
            spies[side].check(&bytes, from, to, (&Heads::new(), &[]), &Heads::new(), &|_| false);
        }
        wires[side].extend_from_slice(&bytes);
        if *once && sides[side].is_over() && !was_over {
            self.finished += 1;
            self.check_over(pair, &forked);
        }
        Ok(more)
    }

    fn deliver(&mut self, pair: usize, side: usize) -> Result<bool, String> {
        let Pair { sides, wires, arrived, .. } = &mut self.pairs[pair];
        if wires[1 - side].is_empty() {
            return Ok(false);
        }
        let most = wires[1 - side].len();
        let count = if self.random.below(3) == 0 { most } else { 1 + self.random.below(most) };
        let bytes: Vec<u8> = wires[1 - side].drain(..count).collect();
        arrived[1 - side].note(&bytes);
        let disk = &self.logs[sides[side].log].disk;
        sides[side].receive(disk, &bytes).map(|()| true)
    }

    fn commit(&mut self, pair: usize, side: usize) -> Result<bool, String> {
        let at = &mut self.pairs[pair].sides[side];
        let log = &mut self.logs[at.log];
        let before = log.disk.order.len();
        at.commit(&mut log.disk)?;
        if std::mem::take(&mut at.local_is_pruned) {
            // Its user gives it a new id: with the old one, its feed would fork.
            self.new_ids += 1;
            log.own = format!("new-{}", self.new_ids);
        }
        let stored_range = before..log.disk.order.len();
        let any = !stored_range.is_empty();
        if any {
            let log = self.pairs[pair].sides[side].log;
            self.check_causes(&self.logs[log].disk, stored_range);
        }
        Ok(any)
    }

    /// Checks that every entry arrives after all entries that its author held when it appended the entry. So a session can be cut
    /// at any byte, and the entries that have arrived are causally complete.
    fn check_causes(&self, disk: &Disk, stored_range: std::ops::Range<usize>) {
        // A restored log may hold entries without the entries that their authors held.
        if self.restored {
            return;
        }
        let mut held: BTreeMap<&str, u32> = BTreeMap::new();
        let mut at = 0;
        for event in &disk.history {
            let stored = match event {
                Event::Entry(stored) => stored,
                Event::Floor(peer, seq, _) => {
                    held.insert(peer, *seq);
                    continue;
                }
                Event::Prune(_) => continue,
            };
            at += 1;
            if stored_range.contains(&(at - 1)) {
                for (peer, &seq) in &self.causes[&stored.bytes] {
                    let held = held.get(&**peer).copied().unwrap_or(0);
                    assert!(held >= seq, "{} {} came before {peer} {seq}", stored.peer, stored.seq);
                }
            }
            held.insert(&stored.peer, stored.seq);
        }
    }

    /// The feeds in which two logs differ. A fork can only come from an append in a restored log.
    pub fn forked(&mut self) -> Rc<BTreeSet<String>> {
        if std::mem::take(&mut self.appended) && self.restored {
            self.forked = Rc::new(self.find_forked());
        }
        Rc::clone(&self.forked)
    }

    fn find_forked(&self) -> BTreeSet<String> {
        let mut longest: BTreeMap<&str, &Disk> = BTreeMap::new();
        let mut forked = BTreeSet::new();
        for log in &self.logs {
            for (peer, seq, _) in log.disk.feeds() {
                let most = longest.entry(peer).or_insert(&log.disk);
                if most.fork(&log.disk, peer).is_some() {
                    forked.insert(peer.to_owned());
                }
                if seq > most.head(peer) {
                    *most = &log.disk;
                }
            }
        }
        forked
    }

    /// A side has completed a session with `once`: both logs must hold all entries that they held at the start and that the modes
    /// let move. The number of the other entries must be known.
    fn check_over(&self, pair: usize, forked: &BTreeSet<String>) {
        let sides = &self.pairs[pair].sides;
        for (from, to) in [(0, 1), (1, 0)] {
            if !sides[from].mode.sends_to(sides[to].mode) {
                if sides[from].is_over() && forked.is_empty() {
                    let behind =
                        |(peer, &seq): (_, &u32)| u64::from(seq.saturating_sub(*sides[to].start.get(peer).unwrap_or(&0)));
                    let kept: u64 = sides[from].start.iter().map(behind).sum();
                    let both_receive = sides[from].mode == Mode::Pull && sides[to].mode == Mode::Pull;
                    let expected = (!both_receive).then_some(kept);
                    assert_eq!(sides[from].session.outgoing.unsent_by_mode(), expected, "entries that the modes keep back");
                }
                continue;
            }
            let (disk, kept_back) = (&self.logs[sides[to].log].disk, &sides[to].kept_back);
            let moves = |peer: &String| !forked.contains(peer) && kept_back.as_ref() != Some(peer);
            for (peer, &seq) in sides[from].start.iter().filter(|(peer, _)| moves(peer)) {
                assert!(disk.head(peer) >= seq, "the session is over, but {peer} {seq} is missing: {}", disk.head(peer));
            }
        }
    }

    /// Checks the forks that the sides have found. If the local feed of a log has forked, the log takes a new id.
    fn check_forks(&mut self, pair: usize) {
        let [one, other] = [0, 1].map(|side| self.pairs[pair].sides[side].log);
        for side in 0..2 {
            for found in std::mem::take(&mut self.pairs[pair].sides[side].found) {
                let peer = found.peer.as_str();
                if found.kind == DifferenceKind::Refused {
                    continue;
                }
                let (here, there) = (&self.logs[one].disk, &self.logs[other].disk);
                let (seq, is_native) = (found.seq.get(), self.pairs[pair].sides[side].is_native());
                // The original's wire has no chains: it finds an entry that differs, which need not be the first one.
                let differs = here.entry(peer, seq) != there.entry(peer, seq);
                let first = here.fork(there, peer);
                // Pruned entries cannot be shown.
                let is_pruned = seq <= here.floor(peer).max(there.floor(peer));
                let is_right = match is_native {
                    true if is_pruned => first.is_some_and(|first| first <= seq || found.kind != DifferenceKind::Fork),
                    true => first == Some(seq) && found.kind != DifferenceKind::Pruned,
                    false => differs,
                };
                assert!(is_right && found.kind != DifferenceKind::Unknown, "the fork of {peer}: {found:?}, not {first:?}");
                // A side that only sends, or whose remote only receives, has no evidence.
                let modes = [side, 1 - side].map(|side| self.pairs[pair].sides[side].mode);
                let has_evidence = modes[0] != Mode::Push && modes[1] != Mode::Pull || !is_native;
                let has_evidence = if is_pruned { found.kind == DifferenceKind::Fork } else { has_evidence };
                assert_eq!(found.kind == DifferenceKind::Fork, has_evidence, "{modes:?}: {found:?}");
                self.forks_found += 1;
                let log = &mut self.logs[if side == 0 { one } else { other }];
                if log.own == peer && has_evidence {
                    self.new_ids += 1;
                    log.own = format!("new-{}", self.new_ids);
                }
            }
        }
    }

    fn cut_one(&mut self) {
        if !self.pairs.is_empty() {
            let pair = self.random.below(self.pairs.len());
            self.pairs.remove(pair);
        }
    }

    /// Ends all sessions of a log. Entries that are not on its disk are lost.
    fn crash(&mut self, log: usize) {
        self.pairs.retain(|pair| pair.sides.iter().all(|side| side.log != log));
    }

    /// Replaces a log by an older state of it, as a restored backup does.
    fn restore(&mut self, log: usize) {
        self.crash(log);
        let events = self.random.below(self.logs[log].disk.history.len() + 1);
        self.logs[log].disk.restore(events);
        (self.restored, self.appended) = (true, true);
        if self.random.below(2) == 0 {
            self.append(log);
        }
    }

    /// Runs one session after the other to its end, without faults. Each log replicates with the next log, and the last log with
    /// the first log.
    pub fn settle(&mut self, rounds: usize) {
        self.pairs.clear();
        let logs = self.logs.len();
        for one in (0..rounds * logs).map(|turn| turn % logs) {
            self.join(one, (one + 1) % logs, true, [Mode::Sync; 2]);
            let mut idle = 0;
            while !self.pairs.is_empty() && idle < 2 {
                idle += 1;
                for (side, act) in [Self::pump, Self::deliver, Self::commit].into_iter().flat_map(|act| [(0, act), (1, act as _)])
                {
                    if !self.pairs.is_empty() && self.act(act, 0, side) {
                        idle = 0;
                    }
                }
            }
            let native = self.pairs.first().is_none_or(|pair| pair.sides.iter().all(Side::is_native));
            assert!(self.pairs.is_empty() || !native, "a session is stuck");
            self.pairs.clear();
        }
    }

    /// Checks that all logs have the same heads and chains. Of each feed, a log holds all entries from its floor to its head. Feeds
    /// that have forked are not compared.
    pub fn assert_equal(&mut self) {
        let forked = self.forked();
        let heads = |log: &Log| -> Vec<(String, u32, Chain)> {
            let feeds = log.disk.feeds().filter(|(peer, ..)| !forked.contains(*peer));
            feeds.map(|(peer, seq, chain)| (peer.to_owned(), seq, chain)).collect()
        };
        let first = heads(&self.logs[0]);
        for log in &self.logs {
            assert_eq!(heads(log), first, "{} differs; forked: {forked:?}", log.own);
            for (peer, head, _) in log.disk.feeds() {
                let has_all = (log.disk.floor(peer) + 1..=head).all(|seq| log.disk.entry(peer, seq).is_some());
                assert!(has_all, "an entry of {peer} is missing in {}", log.own);
            }
        }
    }
}
