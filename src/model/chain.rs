//! Chains: the running hash over a feed.

use xxhash_rust::xxh3::xxh3_128;

use super::{PEER_BYTES_MAX, PeerId, Tombstone};

/// The running hash over a feed up to one seq. Two logs with different chains at the same seq hold a fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain(pub u128);

impl Chain {
    /// Stands for a chain that is not known.
    pub const UNKNOWN: Self = Self(0);

    /// chain_0: xxh3-128 of the peer id.
    pub fn start(peer: &PeerId) -> Self {
        Self(xxh3_128(peer.as_str().as_bytes()))
    }

    /// chain_n: xxh3-128 of chain_{n−1} ‖ xxh3-64 of entry n ‖ its length, all little-endian (16 + 8 + 8 bytes).
    #[must_use]
    pub fn next(self, entry: Tombstone) -> Self {
        let mut input = [0; 32];
        input[..16].copy_from_slice(&self.0.to_le_bytes());
        input[16..24].copy_from_slice(&entry.hash.to_le_bytes());
        input[24..].copy_from_slice(&u64::from(entry.bytes).to_le_bytes());
        Self(xxh3_128(&input))
    }

    /// The term of a feed in the root of its log: xxh3-128 of id ‖ seq (4 bytes, LE) ‖ chain (16 bytes, LE). 0 for an empty feed.
    pub fn root_term(self, peer: &PeerId, seq: u32) -> u128 {
        if seq == 0 {
            return 0;
        }
        let mut input = Vec::with_capacity(PEER_BYTES_MAX + 20);
        input.extend_from_slice(peer.as_str().as_bytes());
        input.extend_from_slice(&seq.to_le_bytes());
        input.extend_from_slice(&self.0.to_le_bytes());
        xxh3_128(&input)
    }
}
