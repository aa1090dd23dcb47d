//! A check of a log ends without a panic, whatever bytes of its data file are changed. An input is a list of changes: position
//! in the file (3 bytes) and the bits that change (1 byte).
#![no_main]

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use scuttleup::{HashedEntry, Log, PeerId, verify};

/// The directory of a log, and its intact data file.
static INTACT: OnceLock<(PathBuf, Vec<u8>)> = OnceLock::new();

fn create() -> (PathBuf, Vec<u8>) {
    let dir = std::env::temp_dir().join(format!("scuttleup-fuzz-pages-{}", std::process::id()));
    std::fs::remove_dir_all(&dir).ok();
    let log = Log::create(&dir, Some(PeerId::new("own").expect("an id"))).expect("a log");
    for round in 0..3 {
        let mut writer = log.writer().expect("a writer");
        for n in 0..60 {
            let peer = PeerId::new(&format!("peer {n} with a long name, so that its rows fill some pages")).expect("an id");
            writer.push(&peer, HashedEntry::new(&vec![b'x'; 50 * round + n])).expect("stored");
        }
        writer.append(HashedEntry::new(&[b'a'; 9000])).expect("stored");
        writer.commit().expect("committed");
    }
    drop(log);
    let data = std::fs::read(dir.join("data.mdb")).expect("the data file");
    (dir, data)
}

fuzz_target!(|changes: &[u8]| {
    let (dir, intact) = INTACT.get_or_init(create);
    let mut data = intact.clone();
    for change in changes.chunks_exact(4) {
        let at = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize % data.len();
        data[at] ^= change[3];
    }
    std::fs::write(dir.join("data.mdb"), &data).expect("the data file");
    let verified = verify(dir, |_| ControlFlow::Continue(()));
    let is_intact = data == *intact;
    // A changed format number is an error and no damage.
    assert!(verified.is_ok_and(|verified| verified.is_some_and(|found| found.damages == 0)) || !is_intact);
});
