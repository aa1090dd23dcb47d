//! A second implementation of the native wire, written from scuttleup-protocol(5) only.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::frames::{PREAMBLE, bytes_field, frame, number_field, take, take_varint};

pub const HELLO: u8 = 1;
pub const HEADS: u8 = 2;
pub const FEED: u8 = 3;
pub const RUN: u8 = 4;
pub const ACK: u8 = 5;
pub const FORK: u8 = 6;
pub const SYNCED: u8 = 7;
pub const ERROR: u8 = 8;
pub const FIN: u8 = 9;
pub const FLOOR: u8 = 10;
pub const PULL: u8 = 128;
pub const COMPARE: u8 = 129;
/// An empty frame, which has no type.
pub const HEARTBEAT: u8 = 0;

/// The default limit of the length of an entry.
const ENTRY_BYTES_MAX: u64 = 64 << 20;

/// A frame of the given type.
pub fn typed(kind: u8, message: impl AsRef<[u8]>) -> Vec<u8> {
    frame([&[kind], message.as_ref()].concat())
}

/// A field with a chain or a root.
pub fn chain_field(number: u64, chain: u128) -> Vec<u8> {
    bytes_field(number, chain.to_le_bytes())
}

/// The chain after one more entry with this hash and length.
pub fn next_chain(chain: u128, hash: u64, length: u64) -> u128 {
    xxh3_128(&[&chain.to_le_bytes()[..], &hash.to_le_bytes(), &length.to_le_bytes()].concat())
}

/// The chain of a feed after these entries.
pub fn chain_of(peer: &str, entries: &[&str]) -> u128 {
    entries
        .iter()
        .fold(xxh3_128(peer.as_bytes()), |chain, entry| next_chain(chain, xxh3_64(entry.as_bytes()), entry.len() as u64))
}

/// The root of a log with these feeds: peer, head and chain.
pub fn root(feeds: &[(&str, u32, u128)]) -> u128 {
    feeds.iter().fold(0, |root, (peer, seq, chain)| {
        root.wrapping_add(xxh3_128(&[peer.as_bytes(), &seq.to_le_bytes(), &chain.to_le_bytes()].concat()))
    })
}

pub fn hello(id: &str, mode: u64, live: bool, root: u128) -> Vec<u8> {
    hello_with(id, mode, live, root, ENTRY_BYTES_MAX)
}

/// The HELLO of a one-shot session that accepts entries of at most `entry_bytes_max` bytes.
pub fn hello_taking(id: &str, entry_bytes_max: u64) -> Vec<u8> {
    hello_with(id, 1, false, 7, entry_bytes_max)
}

fn hello_with(id: &str, mode: u64, live: bool, root: u128, entry_bytes_max: u64) -> Vec<u8> {
    typed(HELLO, [hello_fields(id, mode, live, root, entry_bytes_max), number_field(8, 1), number_field(10, 1)].concat())
}

/// The HELLO of an older program: it does not know floors.
pub fn hello_without_floors(id: &str, root: u128) -> Vec<u8> {
    typed(HELLO, [hello_fields(id, 1, false, root, ENTRY_BYTES_MAX), number_field(8, 1)].concat())
}

/// The HELLO of a still older program: it shows no entries, and knows no withheld chains.
pub fn old_hello(id: &str, mode: u64, live: bool, root: u128) -> Vec<u8> {
    typed(HELLO, hello_fields(id, mode, live, root, ENTRY_BYTES_MAX))
}

fn hello_fields(id: &str, mode: u64, live: bool, root: u128, entry_bytes_max: u64) -> Vec<u8> {
    let who = [number_field(1, 1), bytes_field(2, id), number_field(3, mode), number_field(4, u64::from(live))];
    let rest = [chain_field(5, root), number_field(6, entry_bytes_max), [&[7 << 3 | 1][..], &[0; 8]].concat()];
    [who.concat(), rest.concat()].concat()
}

/// The types of the complete frames of a stream; an empty frame is a [`HEARTBEAT`].
pub fn kinds(stream: &[u8]) -> Vec<u8> {
    let (mut rest, mut kinds) = (stream.strip_prefix(PREAMBLE).unwrap_or_default(), Vec::new());
    while let Some(frame) = take_varint(&mut rest).and_then(|length| take(&mut rest, length)) {
        kinds.push(frame.first().copied().unwrap_or(HEARTBEAT));
    }
    kinds
}

/// Sets the random nonce of a HELLO to 0. The HELLO is at the start of `bytes`, or after a preamble and a PULL or COMPARE.
pub fn forget_nonce(bytes: &mut [u8]) {
    let mut start = if bytes.starts_with(PREAMBLE) { PREAMBLE.len() } else { 0 };
    start += if bytes[start..].starts_with(&pull()) || bytes[start..].starts_with(&compare()) { pull().len() } else { 0 };
    // Two fields of two bytes follow the nonce.
    if let [length, HELLO, 0x08, 1, ..] = bytes[start..]
        && let Some(nonce) = bytes.get_mut(start + usize::from(length) - 11..start + usize::from(length) - 3)
    {
        nonce.fill(0);
    }
}

/// One head in a HEADS frame.
pub fn head(peer: &str, seq: u32, chain: u128) -> Vec<u8> {
    bytes_field(1, [bytes_field(1, peer), number_field(2, u64::from(seq)), chain_field(3, chain)].concat())
}

pub fn heads(heads: &[(&str, u32, u128)], last: bool) -> Vec<u8> {
    let heads: Vec<u8> = heads.iter().flat_map(|&(peer, seq, chain)| head(peer, seq, chain)).collect();
    typed(HEADS, [heads, number_field(2, u64::from(last))].concat())
}

pub fn feed(handle: u64, peer: &str) -> Vec<u8> {
    typed(FEED, [number_field(1, handle), bytes_field(2, peer)].concat())
}

/// A RUN; `chain` is the chain of the feed after it.
pub fn run(handle: u64, first: u64, entries: &[impl AsRef<[u8]>], chain: u128) -> Vec<u8> {
    let entries: Vec<u8> = entries.iter().flat_map(|entry| bytes_field(3, entry)).collect();
    typed(RUN, [number_field(1, handle), number_field(2, first), entries, chain_field(5, chain)].concat())
}

pub fn ack(handle: u64, seq: u64) -> Vec<u8> {
    typed(ACK, [number_field(1, handle), number_field(2, seq)].concat())
}

pub fn fork(peer: &str, points: &[(u32, u128)]) -> Vec<u8> {
    let point = |&(seq, chain): &(u32, u128)| bytes_field(2, [number_field(1, u64::from(seq)), chain_field(2, chain)].concat());
    typed(FORK, [bytes_field(1, peer), points.iter().flat_map(point).collect()].concat())
}

/// A FORK that shows this entry.
pub fn fork_showing(peer: &str, points: &[(u32, u128)], seq: u32, entry: &str) -> Vec<u8> {
    let point = |&(seq, chain): &(u32, u128)| bytes_field(2, [number_field(1, u64::from(seq)), chain_field(2, chain)].concat());
    let hash = [&[2 << 3 | 1][..], &xxh3_64(entry.as_bytes()).to_le_bytes()].concat();
    let shown = [number_field(1, u64::from(seq)), hash, number_field(3, entry.len() as u64)].concat();
    typed(FORK, [bytes_field(1, peer), points.iter().flat_map(point).collect(), bytes_field(3, shown)].concat())
}

/// A FLOOR.
pub fn floor(peer: &str, seq: u32, chain: u128) -> Vec<u8> {
    typed(FLOOR, [bytes_field(1, peer), number_field(2, u64::from(seq)), chain_field(3, chain)].concat())
}

/// The first frame of a side that only receives.
pub fn pull() -> Vec<u8> {
    typed(PULL, "")
}

/// The first frame of a side that only compares.
pub fn compare() -> Vec<u8> {
    typed(COMPARE, "")
}

pub fn synced() -> Vec<u8> {
    typed(SYNCED, "")
}

pub fn error(text: impl AsRef<[u8]>) -> Vec<u8> {
    typed(ERROR, bytes_field(1, text))
}

pub fn fin(sent: u64, stored: u64) -> Vec<u8> {
    typed(FIN, [number_field(1, sent), number_field(2, stored)].concat())
}
