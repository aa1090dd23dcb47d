//! The JSON check accepts the same texts as serde_json, which does not limit the depth.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scuttleup::{JSON_DEPTH_MAX, is_json};

fuzz_target!(|text: &str| {
    let expected = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let deep = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() > JSON_DEPTH_MAX;
    assert!(is_json(text) == expected || (expected && deep), "{text:?}");
});
