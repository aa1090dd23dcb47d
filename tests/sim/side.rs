//! One side of a session. It runs the session of the program (`wire::Session`) step by step with a model of a log.

use std::collections::HashSet;

use scuttleup::wire::{
    Before, ClaimedFloor, Difference, Event, Link, Local, NamedHead, News, Payload, Relation, Session, Stored, Task, Wire,
};
use scuttleup::{Chain, Change, HashedEntry, Mode, Offset, PeerChoice, PeerId, Seq, Tombstone};

use super::disk::{Disk, Heads, Put, id};

const ENTRY_BYTES_MAX: usize = 1 << 16;

/// The entries that were received and are not on the disk yet.
enum Pending {
    Entries(Received),
    Floor(ClaimedFloor),
}

struct Received {
    peer: String,
    first: Seq,
    entries: Vec<Vec<u8>>,
    /// For a run: the handle of its feed, and the chain after it.
    run: Option<(u32, Chain)>,
}

pub struct Side {
    pub log: usize,
    pub mode: Mode,
    pub session: Session,
    /// The news that the outgoing half has not received yet.
    news: News,
    /// The heads of the log at the moment when they were announced.
    pub start: Heads,
    /// The number of changes of the log that were offered. `None` before the first offer.
    offered: Option<usize>,
    /// The floors of the log must be offered before the next entries.
    owes_floors: bool,
    /// The floor of the remote is above the head of the local feed.
    pub local_is_pruned: bool,
    /// The feed that was stopped because of it.
    pub kept_back: Option<String>,
    own: String,
    stopped: HashSet<String>,
    pending: Vec<Pending>,
    pub outgoing: Vec<u8>,
    pub found: Vec<Difference>,
}

impl Side {
    pub fn new(log: usize, own: &str, disk: &Disk, mode: Mode, once: bool, is_original: bool) -> Self {
        let session = Session::new(Local {
            id: id(own),
            mode,
            live: !once,
            root: disk.root(),
            last_offset: Offset(disk.order.len() as u64),
            entry_bytes_max: ENTRY_BYTES_MAX,
            choice: PeerChoice::default(),
            // The npm package does not know the native wire.
            wire: is_original.then_some(Wire::Original),
            nonce: 1 + log as u64,
        });
        Self {
            log,
            mode,
            session,
            news: News::default(),
            start: disk.heads(),
            offered: None,
            owes_floors: false,
            local_is_pruned: false,
            kept_back: None,
            own: own.to_owned(),
            stopped: HashSet::new(),
            pending: Vec::new(),
            outgoing: Vec::new(),
            found: Vec::new(),
        }
    }

    pub fn is_native(&self) -> bool {
        self.session.incoming.wire() == Some(Wire::Native)
    }

    /// Whether both sides have confirmed that the session is complete.
    pub fn is_over(&self) -> bool {
        self.session.outgoing.is_confirmed()
    }

    /// Whether this side knows the heads of the remote and has begun to offer entries.
    pub fn has_begun_to_offer(&self) -> bool {
        self.offered.is_some()
    }

    /// Takes bytes of the remote.
    pub fn receive(&mut self, disk: &Disk, bytes: &[u8]) -> Result<(), String> {
        self.session.incoming.push(bytes);
        self.handle_events(disk).map_err(|err| err.to_string())
    }

    fn handle_events(&mut self, disk: &Disk) -> scuttleup::Result<()> {
        let mut link_of = |peer: &str, seq: u32| Ok(link(disk, peer, seq));
        let incoming = &mut self.session.incoming;
        while let Some(event) = incoming.next(&mut link_of)? {
            match event {
                Event::Nothing | Event::AllHeads { .. } | Event::Refused(..) | Event::Ignored(_) => {}
                Event::Entries(entries) => {
                    let mut bytes = Vec::new();
                    entries.each(|_, payload| {
                        bytes.push(if let Payload::Bytes(bytes) = payload { bytes.to_vec() } else { Vec::new() });
                    });
                    let run = entries.run().map(|(_, handle, chain)| (handle, chain));
                    let peer = entries.peer.as_str().to_owned();
                    self.pending.push(Pending::Entries(Received { peer, first: entries.first, entries: bytes, run }));
                }
                Event::Floor(floor) => self.pending.push(Pending::Floor(floor)),
                Event::Heads(heads, last) => {
                    let compare = |NamedHead { peer, seq, chain }: &NamedHead| match disk.chain(peer.as_str(), *seq) {
                        Some(local) if *seq > 0 && local != *chain => Relation::Differs,
                        Some(_) => Relation::Same,
                        None => Relation::Unknown,
                    };
                    let compared: Vec<Relation> = heads.iter().map(compare).collect();
                    incoming.compared(&heads, &compared, last, &mut link_of, &mut self.found)?;
                }
                Event::Differs(difference) => self.found.push(difference),
                Event::Chains(_) => return Err(scuttleup::Error::Wire("an answer in a session that does not compare".into())),
                Event::Error { text, .. } => return Err(scuttleup::Error::Wire(text)),
            }
        }
        self.news.merge(incoming.take_news());
        Ok(())
    }

    /// Stores the received entries, then acknowledges them.
    pub fn commit(&mut self, disk: &mut Disk) -> Result<(), String> {
        let (mut acks, mut forks, mut mismatches, mut floors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut refused = Vec::new();
        let (before, mut runs) = (disk.order.len(), 0);
        for pending in std::mem::take(&mut self.pending) {
            let Received { peer, first, entries, run } = match pending {
                Pending::Entries(received) => received,
                Pending::Floor(ClaimedFloor { peer, seq, chain }) => {
                    runs += 1;
                    if self.stopped.contains(peer.as_str()) {
                        continue;
                    }
                    match disk.apply_floor(&self.own, peer.as_str(), seq.get(), chain) {
                        Put::FloorDiffers => floors.push((peer.clone(), seq.get(), chain)),
                        Put::FloorOfLocalFeed => {
                            refused.push(peer.clone());
                            (self.local_is_pruned, self.kept_back) = (true, Some(peer.as_str().to_owned()));
                        }
                        _ => continue,
                    }
                    self.stopped.insert(peer.as_str().to_owned());
                    continue;
                }
            };
            runs += u64::from(run.is_some());
            if self.stopped.contains(&peer) {
                continue;
            }
            match disk.store(&peer, first, &entries, run.map(|(_, chain)| chain))? {
                Put::Stored => acks.extend(run.map(|(handle, _)| (handle, first.get() + entries.len() as u32 - 1))),
                Put::Fork(seq) => forks.push((id(&peer), seq_of(seq))),
                Put::ChainMismatch(head) => mismatches.push((id(&peer), head)),
                Put::FloorDiffers | Put::FloorOfLocalFeed => unreachable!("entries are no floor"),
            }
            if forks.last().map(|(peer, _)| peer).or(mismatches.last().map(|(peer, _)| peer)) == Some(&id(&peer)) {
                self.stopped.insert(peer);
            }
        }
        let new = (disk.order.len() - before) as u64;
        let stored =
            Stored { runs, new, acks: &acks, forks: &forks, mismatches: &mismatches, floors: &floors, refused: &refused };
        let mut link_of = |peer: &str, seq: u32| Ok(link(disk, peer, seq));
        let incoming = &mut self.session.incoming;
        incoming.stored(stored, &mut link_of, &mut self.found).map_err(|err| err.to_string())?;
        self.news.merge(incoming.take_news());
        Ok(())
    }

    /// Adds the next frames to the outgoing bytes. Returns false if there was nothing to do.
    pub fn pump(&mut self, disk: &Disk, batch: usize) -> Result<bool, String> {
        let before = self.outgoing.len();
        let more = self.send(disk, batch).map_err(|err| err.to_string())?;
        Ok(more || self.outgoing.len() > before)
    }

    fn send(&mut self, disk: &Disk, batch: usize) -> scuttleup::Result<bool> {
        let outgoing = &mut self.session.outgoing;
        outgoing.learn(std::mem::take(&mut self.news));
        outgoing.flush(&mut self.outgoing);
        match outgoing.task() {
            Task::Wait => Ok(false),
            Task::AddHeads => {
                let (after, max) = outgoing.heads_wanted();
                let after = after.cloned();
                let is_next = |peer: &str| after.as_ref().is_none_or(|after| peer > PeerId::as_str(after));
                let heads: Vec<_> = disk.feeds().filter(|(peer, ..)| is_next(peer)).take(max).collect();
                let last = heads.len() < max;
                heads.into_iter().for_each(|(peer, seq, chain)| outgoing.add_head(peer, seq, chain));
                outgoing.end_heads(last, Offset(disk.order.len() as u64));
                self.start = disk.heads();
                Ok(true)
            }
            Task::Offer => self.offer(disk, batch),
        }
    }

    fn offer(&mut self, disk: &Disk, batch: usize) -> scuttleup::Result<bool> {
        let outgoing = &mut self.session.outgoing;
        let until = if outgoing.is_live() { disk.order.len() } else { outgoing.announced_offset().0 as usize };
        let start = || outgoing.offers_start().map_or(0, |start| start.0 as usize);
        self.owes_floors |= self.offered.is_none() && outgoing.offers_start().is_none();
        let from = self.offered.unwrap_or_else(start);
        self.owes_floors |= from < disk.pruned;
        let from = from.max(disk.pruned);
        self.offered = Some(from);
        if std::mem::take(&mut self.owes_floors) {
            for (peer, seq, chain) in disk.floors() {
                outgoing.offer_floor(&mut self.outgoing, &id(peer), seq_of(seq), chain);
            }
            return Ok(true);
        }
        let to = until.min(from + batch);
        self.offered = Some(from.max(to));
        if from >= to {
            return Ok(outgoing.caught_up());
        }
        for stored in &disk.order[from..to] {
            let (peer, entry) = (id(&stored.peer), HashedEntry::new(&stored.bytes));
            let change = Change { offset: Offset(0), peer: &peer, seq: seq_of(stored.seq), entry };
            let before = stored.seq - 1;
            let is_floor = before > 0 && disk.floor(&stored.peer) == before;
            let before = disk.chain(&stored.peer, before).map(|chain| Before { chain, is_floor });
            if !outgoing.offer(&mut self.outgoing, &change, || Ok(before))? {
                self.owes_floors = true;
            }
        }
        outgoing.end_offers(&mut self.outgoing);
        let sent = outgoing.take_sent();
        self.session.incoming.set_sent(sent);
        Ok(true)
    }
}

fn link(disk: &Disk, peer: &str, seq: u32) -> Option<Link> {
    let entry = seq.checked_sub(1).and_then(|_| disk.entry(peer, seq)).map(|bytes| HashedEntry::new(bytes).tombstone());
    disk.chain(peer, seq).map(|chain| Link { entry: entry.unwrap_or(Tombstone::UNKNOWN), chain, floor: disk.floor(peer) })
}

fn seq_of(seq: u32) -> Seq {
    Seq::new(u64::from(seq)).expect("a seq")
}
