//! A change that can be decoded stays the same when it is encoded and decoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scuttleup::PeerId;
use scuttleup::wire::FrameReader;
use scuttleup::wire::original::{ChangeMessage, put_change};

fuzz_target!(|body: &[u8]| {
    let Ok(change) = ChangeMessage::decode(body) else { return };
    let peer = PeerId::new(change.peer).expect("a decoded change has an id");
    let mut frame = Vec::new();
    put_change(&mut frame, &peer, change.seq, change.entry);
    let mut frames = FrameReader::new(usize::MAX);
    frames.push(&frame);
    let again = frames.next_frame().expect("a frame").expect("all of it").to_vec();
    assert_eq!(ChangeMessage::decode(&again).expect("canonical"), change);
    assert!(frames.pending().is_empty() && again.len() <= body.len());
});
