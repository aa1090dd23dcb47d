//! A change line that is read and written anew is read the same, and what is written has no control character in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scuttleup::ndjson::{Content, change_line, parse_change, parse_head};
use scuttleup::{Entry, Offset};

fuzz_target!(|line: &str| {
    parse_head(line).ok();
    let Ok(change) = parse_change(line) else { return };
    let entry = match &change.content {
        Content::Bytes(bytes) => Entry::new(bytes),
        Content::Deleted(tomb) => Entry::Deleted(*tomb),
    };
    let written = change_line(Offset(1), &change.peer, change.seq, entry);
    let line = written.strip_suffix('\n').expect("a line");
    assert!(!line.bytes().any(|byte| byte < 0x20 || byte == 0x7f), "{line:?}");
    assert_eq!(parse_change(line).expect("our own line"), change);
});
