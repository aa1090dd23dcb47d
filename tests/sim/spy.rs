//! Reads what a side sends, and checks it against what both disks hold at that moment.

use std::collections::BTreeMap;

use scuttleup::proto::{FrameReader, Message, PREAMBLE};

use super::disk::{Disk, Heads};

/// One direction of a native link.
pub struct Spy {
    frames: FrameReader,
    /// Bytes of the preamble that are still to come.
    preamble: usize,
    feeds: Vec<String>,
    /// The highest seq of each feed that was sent in this direction.
    pub sent: Heads,
    pub entries: u64,
}

impl Spy {
    pub fn new() -> Self {
        let frames = FrameReader::new(1 << 20);
        Self { frames, preamble: PREAMBLE.len(), feeds: Vec::new(), sent: BTreeMap::new(), entries: 0 }
    }

    /// `bytes` go from `from` to `to`. `back` is what went the other way, `theirs` what the receiver held when it said so.
    pub fn look(
        &mut self,
        bytes: &[u8],
        from: &Disk,
        to: &Disk,
        back: (&Heads, &[String]),
        theirs: &Heads,
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
                Message::Run(run) => {
                    let peer = &self.feeds[run.handle as usize];
                    let last = run.first.get() + run.count - 1;
                    let had = |heads: &Heads| heads.get(peer).copied().unwrap_or(0);
                    assert!(run.first.get() > had(&self.sent), "{peer} {} is sent twice", run.first);
                    assert!(run.first.get() > had(theirs), "{peer} {} was there at the opening", run.first);
                    // What has come back on this link and is stored here is not sent: an echo.
                    assert!(run.first.get() > had(back.0).min(from.head(peer)) || forked(peer), "{peer} {} is echoed", run.first);
                    self.sent.insert(peer.clone(), last);
                    self.entries += u64::from(run.count);
                }
                // The other side's entries, which are on the disk of the one that says so.
                Message::Ack(handle, seq) => {
                    let peer = &back.1[handle as usize];
                    assert!(from.head(peer) >= seq, "{peer} {seq} is acknowledged, but {} is on disk", from.head(peer));
                    assert!(forked(peer) || from.entry(peer, seq) == to.entry(peer, seq), "{peer} {seq} is another one there");
                }
                _ => {}
            }
        }
    }

    pub fn feeds(&self) -> &[String] {
        &self.feeds
    }
}
