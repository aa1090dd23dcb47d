//! Writes the messages of the native wire: varints in their shortest form, fields in the order of their numbers.

use super::message::{Fork, Head, Hello, RUN_BYTES_MAX, VERSION, kind};
use crate::model::{Chain, Seq, Tombstone};
use crate::wire::frame::{put_varint, varint_bytes};
use crate::wire::protobuf::{put_bytes, put_fixed, put_message, put_number};

/// Adds a frame. `write` adds its body.
fn put_frame(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let mut body = vec![kind];
    write(&mut body);
    put_varint(out, body.len() as u64);
    out.extend_from_slice(&body);
}

fn put_chain(out: &mut Vec<u8>, field: u8, chain: Chain) {
    put_bytes(out, field, &chain.0.to_le_bytes());
}

/// Adds a HELLO.
pub fn put_hello(out: &mut Vec<u8>, hello: &Hello) {
    put_frame(out, kind::HELLO, |body| {
        put_number(body, 1, u64::from(VERSION));
        put_bytes(body, 2, hello.id.as_str().as_bytes());
        put_number(body, 3, hello.mode.number());
        put_number(body, 4, u64::from(hello.live));
        put_bytes(body, 5, &hello.root.to_le_bytes());
        put_number(body, 6, hello.entry_bytes_max);
        put_fixed(body, 7, hello.nonce);
        put_number(body, 8, u64::from(hello.evidence));
        hello.allowed.texts().for_each(|glob| put_bytes(body, 9, glob.as_bytes()));
        put_number(body, 10, u64::from(hello.floors));
        if hello.partial {
            put_number(body, 11, 1);
        }
    });
}

/// Adds a PULL.
pub fn put_pull(out: &mut Vec<u8>) {
    put_frame(out, kind::PULL, |_| ());
}

/// Adds a COMPARE.
pub fn put_compare(out: &mut Vec<u8>) {
    put_frame(out, kind::COMPARE, |_| ());
}

/// Adds a head to the body of a HEADS.
pub fn put_head(body: &mut Vec<u8>, head: Head<'_>) {
    put_message(body, 1, |body| put_head_fields(body, head));
}

fn put_head_fields(body: &mut Vec<u8>, head: Head<'_>) {
    put_bytes(body, 1, head.peer.as_bytes());
    put_number(body, 2, u64::from(head.seq));
    put_chain(body, 3, head.chain);
}

/// Adds a FLOOR: seq and chain of `floor` are those of the floor.
pub fn put_floor(out: &mut Vec<u8>, floor: Head<'_>) {
    put_frame(out, kind::FLOOR, |body| put_head_fields(body, floor));
}

/// Adds a HEADS. `heads` was made by [`put_head`].
pub fn put_heads(out: &mut Vec<u8>, heads: &[u8], last: bool) {
    put_frame(out, kind::HEADS, |body| {
        body.extend_from_slice(heads);
        put_number(body, 2, u64::from(last));
    });
}

/// Adds a FEED.
pub fn put_feed(out: &mut Vec<u8>, handle: u32, peer: &str) {
    put_frame(out, kind::FEED, |body| {
        put_number(body, 1, u64::from(handle));
        put_bytes(body, 2, peer.as_bytes());
    });
}

/// The body of a RUN that is being filled.
#[derive(Default)]
pub struct RunBody {
    entries: Vec<u8>,
    deleted: Vec<u8>,
    count: u32,
    bytes: usize,
}

impl RunBody {
    /// The number of entries.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The length of all entries together, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an entry.
    pub fn add(&mut self, bytes: &[u8]) {
        put_bytes(&mut self.entries, 3, bytes);
        self.count += 1;
        self.bytes += bytes.len();
    }

    /// Adds a deleted entry.
    pub fn add_deleted(&mut self, tombstone: Tombstone) {
        let nth = self.count;
        put_tombstone(&mut self.deleted, 4, nth, tombstone);
        self.add(b"");
    }

    /// Adds the RUN to `out`, then clears the body.
    pub fn put(&mut self, out: &mut Vec<u8>, handle: u32, first: Seq, chain: Chain) {
        let (handle, first) = (u64::from(handle), u64::from(first.get()));
        let head_bytes = 2 + varint_bytes(handle) + varint_bytes(first);
        let length = 1 + head_bytes + self.entries.len() + self.deleted.len() + 18;
        put_varint(out, length as u64);
        out.push(kind::RUN);
        put_number(out, 1, handle);
        put_number(out, 2, first);
        out.extend_from_slice(&self.entries);
        out.extend_from_slice(&self.deleted);
        put_chain(out, 5, chain);
        self.entries.clear();
        self.deleted.clear();
        // Free the memory of a very long entry.
        self.entries.shrink_to(4 * RUN_BYTES_MAX);
        (self.count, self.bytes) = (0, 0);
    }
}

/// Adds an ACK.
pub fn put_ack(out: &mut Vec<u8>, handle: u32, seq: u32) {
    put_frame(out, kind::ACK, |body| {
        put_number(body, 1, u64::from(handle));
        put_number(body, 2, u64::from(seq));
    });
}

/// Adds a Deleted or an Evidence: the number of an entry, its hash and its length.
fn put_tombstone(body: &mut Vec<u8>, field: u8, number: u32, tombstone: Tombstone) {
    put_message(body, field, |body| {
        put_number(body, 1, u64::from(number));
        put_fixed(body, 2, tombstone.hash);
        put_number(body, 3, u64::from(tombstone.bytes));
    });
}

/// Adds a FORK.
pub fn put_fork(out: &mut Vec<u8>, fork: &Fork<'_>) {
    put_frame(out, kind::FORK, |body| {
        put_bytes(body, 1, fork.peer.as_bytes());
        for &(seq, chain) in &fork.points {
            put_message(body, 2, |body| {
                put_number(body, 1, u64::from(seq));
                put_chain(body, 2, chain);
            });
        }
        if let Some((seq, entry)) = fork.entry {
            put_tombstone(body, 3, seq, entry);
        }
        if fork.floor > 0 {
            put_number(body, 4, u64::from(fork.floor));
        }
        if fork.over {
            put_number(body, 5, 1);
        }
        if fork.refused {
            put_number(body, 6, 1);
        }
    });
}

/// Adds a SYNCED.
pub fn put_synced(out: &mut Vec<u8>) {
    put_frame(out, kind::SYNCED, |_| ());
}

/// Adds an ERROR. `refused`: the sender refuses what the receiver sent.
pub fn put_error(out: &mut Vec<u8>, text: &str, refused: bool) {
    put_frame(out, kind::ERROR, |body| {
        put_bytes(body, 1, text.as_bytes());
        if refused {
            put_number(body, 2, 1);
        }
    });
}

/// Adds a FIN.
pub fn put_fin(out: &mut Vec<u8>, sent: u64, stored: u64) {
    put_frame(out, kind::FIN, |body| {
        put_number(body, 1, sent);
        put_number(body, 2, stored);
    });
}
