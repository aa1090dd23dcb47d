//! A decoded message of the native wire is within the limits of the manual, and a run has as many entries as it announces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scuttleup::wire::Payload;
use scuttleup::wire::native::Message;
use scuttleup::{PEER_BYTES_MAX, PeerId};

fuzz_target!(|frame: &[u8]| {
    let is_id = |peer: &str| (1..=PEER_BYTES_MAX).contains(&peer.len()) && PeerId::new(peer).is_ok();
    match Message::decode(frame) {
        Ok(Message::Heads(heads, _)) => {
            assert!(heads.len() <= 1024 && heads.iter().all(|head| is_id(head.peer)));
        }
        Ok(Message::Feed(_, peer)) => assert!(is_id(peer)),
        Ok(Message::Floor(peer, _, chain)) => assert!(is_id(peer) && chain.0 != 0),
        Ok(Message::Fork(fork)) => assert!(is_id(fork.peer) && fork.points.len() <= 64),
        Ok(Message::Run(run)) => {
            assert!((1..=1024).contains(&run.count) && run.first.get().checked_add(run.count - 1).is_some());
            let entries: Vec<_> = run.entries().collect();
            assert_eq!(entries.len(), run.count as usize);
            let length = |payload: &Payload<'_>| if let Payload::Bytes(bytes) = payload { bytes.len() } else { 0 };
            assert!(entries.iter().map(length).max() <= Some(run.longest) && run.longest <= frame.len());
        }
        // Each invalid byte of the 1024 bytes becomes a replacement character of three bytes.
        Ok(Message::Error(text, _)) => assert!(text.len() <= 3 * 1024),
        _ => {}
    }
});
