//! A stream is stored in memory. Each feed has no gaps, and the result does not depend on the chunks of the stream.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use scuttleup::wire::{Event, Incoming, Local, Payload, Session, Wire};
use scuttleup::{Mode, Offset, PeerChoice, PeerId};

const ENTRY_BYTES_MAX: usize = 1 << 12;

type Store = BTreeMap<String, Vec<Vec<u8>>>;

/// Returns the stored entries, and whether the stream was refused or truncated.
fn session(mode: Mode, stream: &[u8], chunk: usize) -> (Store, bool) {
    let local = Local {
        id: PeerId::new("local").expect("an id"),
        mode,
        live: false,
        root: 0,
        last_offset: Offset::ZERO,
        entry_bytes_max: ENTRY_BYTES_MAX,
        choice: PeerChoice::default(),
        wire: Some(Wire::Original),
        nonce: 0,
    };
    let (mut incoming, mut store) = (Session::new(local).incoming, Store::new());
    for part in stream.chunks(chunk) {
        incoming.push(part);
        if take(&mut incoming, &mut store).is_err() {
            return (store, true);
        }
    }
    (store, incoming.is_cut().unwrap_or(true))
}

fn take(incoming: &mut Incoming, store: &mut Store) -> scuttleup::Result<()> {
    while let Some(event) = incoming.next(&mut |_, _| Ok(None))? {
        let Event::Entries(entries) = event else { continue };
        let feed = store.entry(entries.peer.as_str().to_owned()).or_default();
        entries.each(|seq, payload| {
            let Payload::Bytes(bytes) = payload else { panic!("this wire has no deleted entries") };
            assert!(bytes.len() <= ENTRY_BYTES_MAX);
            if seq.get() as usize == feed.len() + 1 {
                feed.push(bytes.to_vec());
            }
        });
    }
    incoming.take_news();
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, stream)) = input.split_first() else { return };
    let mode = [Mode::Sync, Mode::Push, Mode::Pull][usize::from(first) % 3];
    let whole = session(mode, stream, stream.len().max(1));
    assert!(mode != Mode::Push || whole.0.values().all(Vec::is_empty), "a side that only pushes stores nothing");
    for chunk in [1, 4] {
        assert_eq!(session(mode, stream, chunk), whole);
    }
});
