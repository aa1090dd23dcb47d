//! Reads the bytes that a side sends, and checks them against both disks at that moment.

use std::collections::BTreeMap;

use scuttleup::Mode;
use scuttleup::wire::native::{Message, WITHHELD};
use scuttleup::wire::{FrameReader, PREAMBLE};

use super::disk::{Disk, Heads};

/// One direction of a native session.
pub struct Spy {
    /// The sending side only receives entries.
    is_private: bool,
    frames: FrameReader,
    /// Bytes of the preamble that have not come yet.
    preamble: usize,
    feeds: Vec<String>,
    /// The highest seq of each feed that was sent in this direction.
    pub sent: Heads,
    pub entries: u64,
}

impl Spy {
    pub fn new(mode: Mode) -> Self {
        let frames = FrameReader::new(1 << 20);
        Self {
            is_private: mode == Mode::Pull,
            frames,
            preamble: PREAMBLE.len(),
            feeds: Vec::new(),
            sent: BTreeMap::new(),
            entries: 0,
        }
    }

    /// Checks `bytes`, which `from` sends to `to`. `back`: the heads that were sent in the other direction, and the feeds by
    /// their handles. `announced`: the heads that `to` has announced.
    pub fn check(
        &mut self,
        bytes: &[u8],
        from: &Disk,
        to: &Disk,
        back: (&Heads, &[String]),
        announced: &Heads,
        forked: &dyn Fn(&str) -> bool,
    ) {
        let skip = self.preamble.min(bytes.len());
        self.preamble -= skip;
        self.frames.push(&bytes[skip..]);
        while let Some(frame) = self.frames.next_frame().expect("frames") {
            match Message::decode(frame).expect("a message") {
                Message::Feed(handle, peer) => {
                    assert_eq!(handle as usize, self.feeds.len());
                    assert!(!self.feeds.iter().any(|known| known == peer), "{peer} has two handles");
                    self.feeds.push(peer.into());
                }
                Message::Floor(peer, seq, chain) => {
                    assert!(seq.get() > self.sent.get(peer).copied().unwrap_or(0), "{peer} {seq}: a floor below what was sent");
                    assert_eq!(from.chain(peer, seq.get()), Some(chain), "{peer} {seq}: the chain at a floor");
                    self.sent.insert(peer.into(), seq.get());
                }
                Message::Run(run) => {
                    let peer = &self.feeds[run.handle as usize];
                    let last = run.first.get() + run.count - 1;
                    let had = |heads: &Heads| heads.get(peer).copied().unwrap_or(0);
                    assert!(run.first.get() > had(&self.sent), "{peer} {} is sent twice", run.first);
                    assert!(run.first.get() > had(announced), "{peer} {} was announced by the receiver", run.first);
                    // An entry that came in this session and is stored must not be sent back.
                    assert!(
                        run.first.get() > had(back.0).min(from.head(peer)) || forked(peer),
                        "{peer} {} is sent back",
                        run.first
                    );
                    self.sent.insert(peer.clone(), last);
                    self.entries += u64::from(run.count);
                }
                // The acknowledged entries are on the disk of the side that acknowledges them.
                Message::Ack(handle, seq) => {
                    let peer = &back.1[handle as usize];
                    assert!(from.head(peer) >= seq, "{peer} {seq} is acknowledged, but {} is on disk", from.head(peer));
                    let [here, there] = [from, to].map(|disk| disk.entry(peer, seq));
                    assert!(
                        forked(peer) || here.is_none() || there.is_none() || here == there,
                        "{peer} {seq} differs in the log that sent it"
                    );
                }
                // A side that only receives reveals no feed and no chain that the other side does not hold.
                Message::Heads(heads, _) if self.is_private => {
                    for head in heads {
                        assert!(to.head(head.peer) > 0 && head.chain == WITHHELD, "{} is revealed", head.peer);
                    }
                }
                Message::Fork(fork) if self.is_private => {
                    assert!(fork.entry.is_none());
                    for (seq, chain) in fork.points {
                        let is_known = chain == WITHHELD || to.chain(fork.peer, seq) == Some(chain);
                        assert!(is_known, "the chain of {} at {seq} is revealed", fork.peer);
                    }
                }
                _ => {}
            }
        }
    }

    /// Only notes which entries are in `bytes`.
    pub fn note(&mut self, bytes: &[u8]) {
        let skip = self.preamble.min(bytes.len());
        self.preamble -= skip;
        self.frames.push(&bytes[skip..]);
        while let Ok(Some(frame)) = self.frames.next_frame() {
            match Message::decode(frame).unwrap_or(Message::Unknown) {
                Message::Feed(_, peer) => self.feeds.push(peer.into()),
                Message::Floor(peer, seq, _) => {
                    self.sent.insert(peer.into(), seq.get());
                }
                Message::Run(run) => {
                    let Some(peer) = self.feeds.get(run.handle as usize) else { continue };
                    self.sent.insert(peer.clone(), run.first.get() + run.count - 1);
                }
                _ => {}
            }
        }
    }

    pub fn feeds(&self) -> &[String] {
        &self.feeds
    }
}
