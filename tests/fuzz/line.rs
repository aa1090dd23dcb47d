//! A change line stays the same when it is read, written and read again. A written line has no control character.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scuttleup::ndjson::{Content, change_line, parse_change, parse_head, put_floor};
use scuttleup::{HashedEntry, Offset};

fuzz_target!(|line: &str| {
    parse_head(line).ok();
    let Ok(change) = parse_change(line) else { return };
    let entry = match &change.content {
        Content::Bytes(bytes) => HashedEntry::new(bytes),
        Content::Deleted(tombstone) => HashedEntry::deleted(*tombstone),
        Content::Floor(chain) => {
            let mut written = Vec::new();
            put_floor(&mut written, change.peer.as_str(), change.seq, *chain);
            let line = std::str::from_utf8(&written).expect("UTF-8").trim_end();
            assert_eq!(parse_change(line).expect("a written line is valid"), change);
            return;
        }
    };
    let written = change_line(Offset(1), &change.peer, change.seq, entry);
    let line = written.strip_suffix('\n').expect("a line");
    assert!(!line.bytes().any(|byte| byte < 0x20 || byte == 0x7f), "{line:?}");
    assert_eq!(parse_change(line).expect("a written line is valid"), change);
});
