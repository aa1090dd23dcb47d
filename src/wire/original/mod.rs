//! The messages of the npm package's wire. Each side sends one Handshake, then the Changes that the remote lacks, then ends its
//! stream.

mod handshake;
mod message;

pub use handshake::{Handshake, HandshakeReader};
pub use message::{ChangeMessage, decode_digest, digest_bytes, put_change, put_digest, put_handshake, put_mode};

/// Whether the original can hold a feed with this id. The original uses ids as keys of a plain JavaScript object, so the names
/// of inherited properties are impossible. It stores ids as Latin-1 with U+00FF as the end of a range, so only characters up
/// to U+00FE are possible.
pub fn can_hold(peer: &str) -> bool {
    const OBJECT: [&str; 12] = [
        "__proto__",
        "constructor",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "toString",
        "valueOf",
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
    ];
    peer.chars().all(|c| c < '\u{ff}') && !OBJECT.contains(&peer)
}
