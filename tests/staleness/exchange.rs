//! One direction of an exchange between two logs, through the shipped session (`wire::Session`) on the native wire. It is cut
//! after a number of entries, as a link would cut it.

use scuttleup::wire::{Before, Event, Local, News, Relation, Session, Task};
use scuttleup::{Chain, Change, HashedEntry, Mode, Offset, PeerChoice, PeerId, Seq};

use super::gossip::{Entry, Log};

/// The ids of the feeds, by the numbers of their logs. Their byte order is that of the numbers.
pub fn ids(logs: usize) -> Vec<PeerId> {
    (0..logs).map(|log| PeerId::new(&format!("log-{log:03}")).expect("an id")).collect()
}

/// A log in the exchange: its half of the session, and what it has learned and not used.
struct Side<'w> {
    log: &'w Log,
    session: Session,
    news: News,
}

/// Nobody forks here, so that the chains do not matter.
const CHAIN: Chain = Chain(0);

impl<'w> Side<'w> {
    fn new(ids: &[PeerId], log: &'w Log, number: usize, mode: Mode) -> Self {
        let session = Session::new(Local {
            id: ids[number].clone(),
            mode,
            live: false,
            root: log.root,
            last_offset: Offset(log.arrived.len() as u64),
            entry_bytes_max: 1,
            choice: PeerChoice::default(),
            wire: None,
            nonce: 1 + number as u64,
        });
        Self { log, session, news: News::default() }
    }

    /// The bytes that are due: preamble, HELLO, HEADS.
    fn speak(&mut self, ids: &[PeerId]) -> Vec<u8> {
        let (outgoing, mut bytes) = (&mut self.session.outgoing, Vec::new());
        outgoing.learn(std::mem::take(&mut self.news));
        outgoing.flush(&mut bytes);
        if outgoing.task() == Task::AddHeads {
            for (peer, &head) in ids.iter().zip(&self.log.heads).filter(|(_, head)| **head > 0) {
                outgoing.add_head(peer.as_str(), u32::from(head), CHAIN);
            }
            outgoing.end_heads(true, Offset(self.log.arrived.len() as u64));
            outgoing.flush(&mut bytes);
        }
        bytes
    }

    /// Takes bytes of the remote, and returns the entries in them.
    fn hear(&mut self, bytes: &[u8]) -> Vec<Entry> {
        let (incoming, mut entries) = (&mut self.session.incoming, Vec::new());
        incoming.push(bytes);
        while let Some(event) = incoming.next(&mut |_, _| Ok(None)).expect("the protocol") {
            match event {
                Event::Entries(run) => {
                    let feed: u16 = run.peer.as_str()["log-".len()..].parse().expect("a feed of the world");
                    run.each(|seq, _| entries.push((feed, seq.get() as u16)));
                }
                Event::Heads(heads, last) => {
                    let same = vec![Relation::Same; heads.len()];
                    let compared = incoming.compared(&heads, &same, last, &mut |_, _| Ok(None), &mut Vec::new());
                    compared.expect("the protocol");
                }
                Event::Nothing | Event::AllHeads { .. } => {}
                Event::Differs(_)
                | Event::Chains(_)
                | Event::Floor(_)
                | Event::Ignored(_)
                | Event::Refused(..)
                | Event::Error { .. } => {
                    panic!("{event:?}")
                }
            }
        }
        self.news.merge(incoming.take_news());
        entries
    }
}

/// `from` offers entries in the order `offers`, until `limit` of them are sent. Returns the entries that `to` receives.
pub fn exchange(
    ids: &[PeerId],
    (from, from_number): (&Log, usize),
    (to, to_number): (&Log, usize),
    offers: impl Iterator<Item = Entry>,
    limit: usize,
) -> Vec<Entry> {
    let mut from = Side::new(ids, from, from_number, Mode::Push);
    let mut to = Side::new(ids, to, to_number, Mode::Pull);
    // Preamble, HELLO and HEADS of both sides. `to` waits for the HELLO and for the heads of `from`.
    for _ in 0..6 {
        let (there, back) = (from.speak(ids), to.speak(ids));
        assert!(to.hear(&there).is_empty() && from.hear(&back).is_empty(), "entries before the heads");
    }
    let mut bytes = from.speak(ids);
    let (outgoing, mut sent) = (&mut from.session.outgoing, 0);
    assert!(outgoing.task() == Task::Offer || from.log.root == to.log.root);
    for (feed, seq) in offers {
        if sent == limit {
            break;
        }
        let seq_of = |seq| Seq::new(u64::from(seq)).expect("a seq");
        let (peer, entry) = (&ids[usize::from(feed)], HashedEntry::new(b"1"));
        let change = Change { offset: Offset::ZERO, peer, seq: seq_of(seq), entry };
        outgoing.offer(&mut bytes, &change, || Ok(Some(Before { chain: CHAIN, is_floor: false }))).expect("the chain is given");
        sent += usize::from(seq > to.log.heads[usize::from(feed)]);
    }
    outgoing.end_offers(&mut bytes);
    to.hear(&bytes)
}
