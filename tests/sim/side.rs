//! One side of a session: what the threads of the binary do around the state machine, in one thread and step by step.

use std::collections::HashSet;

use scuttleup::proto::{
    Difference, Head, Hello, Incoming, Link, PREAMBLE, Received, Remote, Wire, put_change, put_digest, put_handshake,
};
use scuttleup::{Change, Entry, FeedKey, Mode, Offset, Seq};

use super::disk::{Disk, Heads, Put, id};

const ENTRY_BYTES_MAX: usize = 1 << 16;

/// Entries that came and are not on disk yet.
struct Staged {
    handle: Option<u32>,
    peer: String,
    first: Seq,
    entries: Vec<Vec<u8>>,
    chain: Option<scuttleup::Chain>,
}

pub struct Side {
    pub log: usize,
    pub mode: Mode,
    incoming: Incoming,
    pub link: Link,
    wire: Option<Wire>,
    /// It does not know the native wire, as the original.
    is_original: bool,
    opened: bool,
    /// What was announced, and of when.
    announced: usize,
    pub start: Heads,
    /// How far the log was scanned for what the other side lacks.
    scanned: Option<usize>,
    /// On the original's wire: what the other side holds, once it has greeted.
    known: Option<Remote>,
    sends: bool,
    stopped: HashSet<String>,
    staged: Vec<Staged>,
    pub outgoing: Vec<u8>,
    pub found: Vec<Difference>,
}

impl Side {
    pub fn new(log: usize, own: &str, disk: &Disk, mode: Mode, once: bool, is_original: bool) -> Self {
        let (entry_bytes_max, nonce) = (ENTRY_BYTES_MAX as u64, 1 + log as u64);
        let hello = Hello { id: id(own), mode, live: !once, root: disk.root(), entry_bytes_max, nonce };
        Self {
            log,
            mode,
            incoming: Incoming::new(mode, ENTRY_BYTES_MAX),
            link: Link::new(hello),
            wire: is_original.then_some(Wire::Original),
            is_original,
            opened: false,
            announced: disk.order.len(),
            start: disk.heads(),
            scanned: None,
            known: None,
            sends: false,
            stopped: HashSet::new(),
            staged: Vec::new(),
            outgoing: Vec::new(),
            found: Vec::new(),
        }
    }

    pub fn is_native(&self) -> bool {
        self.wire == Some(Wire::Native)
    }

    pub fn is_over(&self) -> bool {
        self.is_native() && self.link.is_over()
    }

    /// Takes bytes of the other side.
    pub fn receive(&mut self, disk: &Disk, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let space = self.incoming.space();
            let count = bytes.len().min(space.len());
            space[..count].copy_from_slice(&bytes[..count]);
            self.incoming.filled(count);
            bytes = &bytes[count..];
            self.take(disk).map_err(|err| err.to_string())?;
        }
        Ok(())
    }

    fn take(&mut self, disk: &Disk) -> scuttleup::Result<()> {
        if self.wire.is_none() || self.is_original && self.known.is_none() {
            let seen = self.incoming.wire(!self.is_original)?;
            self.wire = self.wire.or(seen);
        }
        match self.wire {
            Some(Wire::Native) => self.take_native(disk),
            Some(Wire::Original) => self.take_original(),
            None => Ok(()),
        }
    }

    fn take_original(&mut self) -> scuttleup::Result<()> {
        if self.known.is_none() {
            let Some(handshake) = self.incoming.handshake()? else { return Ok(()) };
            self.sends = self.mode.sends_to(handshake.mode);
            self.known = Some(Remote::new(handshake.heads));
        }
        let Some(known) = &mut self.known else { return Ok(()) };
        while let Some(change) = self.incoming.change()? {
            let (peer, first, entries) = (change.peer.to_owned(), change.seq, vec![change.entry.to_vec()]);
            let feed = FeedKey::of(&peer);
            known.raise(feed, first.get().max(known.head(feed)));
            self.staged.push(Staged { handle: None, peer, first, entries, chain: None });
        }
        Ok(())
    }

    fn take_native(&mut self, disk: &Disk) -> scuttleup::Result<()> {
        let mut chain_of = |peer: &str, seq: u32| Ok(disk.chain(peer, seq));
        while let Some(frame) = self.incoming.frame()? {
            match self.link.receive(frame, &mut chain_of)? {
                Received::Run(peer, run) => {
                    let bytes = |entry: Entry<'_>| if let Entry::Bytes(bytes, _) = entry { bytes.to_vec() } else { Vec::new() };
                    let entries = run.entries().map(bytes).collect();
                    let peer = peer.as_str().to_owned();
                    self.staged.push(Staged {
                        handle: Some(run.handle),
                        peer,
                        first: run.first,
                        entries,
                        chain: Some(run.chain),
                    });
                }
                Received::Heads(rows, last) => {
                    let differs: Vec<bool> = rows
                        .iter()
                        .map(|row| row.seq > 0 && disk.chain(row.peer, row.seq).is_some_and(|ours| ours != row.chain))
                        .collect();
                    self.found.extend(self.link.compared(&rows, &differs, last, &mut chain_of)?);
                }
                Received::Differs(difference) => self.found.push(difference),
                Received::Error(text) => return Err(scuttleup::Error::Wire(text)),
                Received::Nothing | Received::Hello => {}
            }
        }
        Ok(())
    }

    /// Makes what came durable, then acknowledges it.
    pub fn commit(&mut self, disk: &mut Disk) -> Result<(), String> {
        let (mut places, mut forks, mut doubts, runs) = (Vec::new(), Vec::new(), Vec::new(), self.staged.len() as u64);
        let before = disk.order.len();
        for staged in std::mem::take(&mut self.staged) {
            let Staged { handle, peer, first, entries, chain } = staged;
            if self.stopped.contains(&peer) || self.link.is_stopped(FeedKey::of(&peer)) {
                continue;
            }
            match disk.store(&peer, first, &entries, chain)? {
                Put::Stored => places.extend(handle.map(|handle| (handle, first.get() + entries.len() as u32 - 1))),
                Put::Fork(seq) => {
                    self.stopped.insert(peer.clone());
                    forks.push((peer, seq_of(seq)));
                }
                Put::Doubt(head) => {
                    self.stopped.insert(peer.clone());
                    doubts.push((peer, head));
                }
            }
        }
        self.link.stored(runs, (disk.order.len() - before) as u64, places);
        let mut chain_of = |peer: &str, seq: u32| Ok(disk.chain(peer, seq));
        for (peer, seq) in forks {
            self.found.extend(self.link.forked(&peer, seq, &mut chain_of).map_err(|err| err.to_string())?);
        }
        for (peer, head) in doubts {
            self.link.doubt(&peer, head, &mut chain_of).map_err(|err| err.to_string())?;
        }
        Ok(())
    }

    /// Adds what is due to the outgoing bytes; false when nothing was.
    pub fn pump(&mut self, disk: &Disk, batch: usize) -> Result<bool, String> {
        let before = self.outgoing.len();
        if !self.opened {
            self.opened = true;
            if !self.is_original {
                self.outgoing.extend_from_slice(PREAMBLE);
            }
        }
        let more = match self.wire {
            Some(Wire::Native) => self.pump_native(disk, batch).map_err(|err| err.to_string())?,
            Some(Wire::Original) => self.pump_original(disk, batch),
            None => false,
        };
        Ok(more || self.outgoing.len() > before)
    }

    fn pump_original(&mut self, disk: &Disk, batch: usize) -> bool {
        if self.announced != usize::MAX {
            let mut digests = Vec::new();
            self.start = disk.heads();
            disk.feeds().for_each(|(peer, seq, _)| put_digest(&mut digests, peer, seq));
            put_handshake(&mut self.outgoing, &id("x"), &digests, self.mode);
            self.announced = usize::MAX;
        }
        let Some(known) = self.known.as_mut().filter(|_| self.sends) else { return false };
        let scanned = self.scanned.get_or_insert(0);
        let next = disk.order.len().min(*scanned + batch);
        for stored in &disk.order[*scanned..next] {
            let feed = FeedKey::of(&stored.peer);
            if stored.seq > known.head(feed) {
                known.raise(feed, stored.seq);
                put_change(&mut self.outgoing, &id(&stored.peer), seq_of(stored.seq), &stored.bytes);
            }
        }
        std::mem::replace(scanned, next) != next
    }

    fn pump_native(&mut self, disk: &Disk, batch: usize) -> scuttleup::Result<bool> {
        self.link.control(&mut self.outgoing);
        if self.link.wants_heads() {
            let rows: Vec<_> = disk.feeds().map(|(peer, seq, chain)| Head { peer, seq, chain }).collect();
            self.start = disk.heads();
            self.announced = disk.order.len();
            self.link.put_heads(&mut self.outgoing, rows.into_iter(), true);
            return Ok(true);
        }
        if !self.link.may_offer() || !self.link.is_live() && self.link.is_caught_up() {
            return Ok(false);
        }
        let from = self.scanned.unwrap_or(if self.link.has_heads() { 0 } else { self.announced });
        let until = if self.link.is_live() { disk.order.len() } else { self.announced };
        let to = until.min(from + batch);
        if self.link.sends() && from < to {
            for stored in &disk.order[from..to] {
                let (peer, entry) = (id(&stored.peer), Entry::new(&stored.bytes));
                let change = Change { offset: Offset(0), peer: &peer, seq: seq_of(stored.seq), entry };
                let before = disk.chain(&stored.peer, stored.seq - 1).expect("what it follows");
                self.link.offer(&mut self.outgoing, &change, || Ok(before))?;
            }
            self.link.close_run(&mut self.outgoing);
            self.scanned = Some(to);
            return Ok(true);
        }
        let was_caught_up = self.link.is_caught_up();
        self.link.caught_up();
        Ok(!was_caught_up)
    }
}

fn seq_of(seq: u32) -> Seq {
    Seq::new(u64::from(seq)).expect("a seq")
}
