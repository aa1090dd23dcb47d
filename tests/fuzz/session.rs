//! A whole stream against a store in memory: each feed in it stays a prefix without gaps, however the stream was chunked.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use scuttleup::proto::{Incoming, Mode, Remote};

const ENTRY_BYTES_MAX: usize = 1 << 12;

type Store = BTreeMap<String, Vec<Vec<u8>>>;

/// What is stored, and whether the stream was refused or cut.
fn session(mode: Mode, stream: &[u8], chunk: usize) -> (Store, bool) {
    let (mut incoming, mut store) = (Incoming::new(mode, ENTRY_BYTES_MAX), Store::new());
    let mut remote = Remote::default();
    for mut part in stream.chunks(chunk) {
        while !part.is_empty() {
            let space = incoming.space();
            let count = part.len().min(space.len());
            space[..count].copy_from_slice(&part[..count]);
            incoming.filled(count);
            part = &part[count..];
        }
        if take(&mut incoming, &mut remote, &mut store).is_err() {
            return (store, true);
        }
    }
    (store, incoming.is_cut().unwrap_or(true))
}

fn take(incoming: &mut Incoming, remote: &mut Remote, store: &mut Store) -> scuttleup::Result<()> {
    if !incoming.greeted() {
        match incoming.handshake()? {
            Some(handshake) => *remote = Remote::new(handshake.heads),
            None => return Ok(()),
        }
    }
    let mut known = remote.known();
    while let Some(change) = incoming.change()? {
        assert!(change.entry.len() <= ENTRY_BYTES_MAX);
        let (peer, head) = known.of(change.peer)?;
        *head = change.seq.get().max(*head);
        let feed = store.entry(peer.as_str().to_owned()).or_default();
        if change.seq.get() as usize == feed.len() + 1 {
            feed.push(change.entry.to_vec());
        }
    }
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
