//! Our check of JSON agrees with serde_json's, which knows no bound of depth.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scuttleup::{JSON_DEPTH_MAX, is_json};

fuzz_target!(|text: &str| {
    let judge = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let deep = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() > JSON_DEPTH_MAX;
    assert!(is_json(text) == judge || (judge && deep), "{text:?}");
});
