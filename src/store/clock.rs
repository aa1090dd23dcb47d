//! The clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// The current time, in milliseconds of Unix time. A clock before 1970 is at 0.
pub fn now_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
