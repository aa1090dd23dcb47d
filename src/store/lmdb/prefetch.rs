//! The prefetch instruction of x86-64.
#![allow(unsafe_code)]

/// Loads the rows that follow `row` in the order of the keys into the processor's cache. LMDB fills a page from its end, so
/// these rows have lower addresses than `row`. A scan spends most of its time waiting for memory.
pub fn prefetch_next(row: &[u8]) {
    /// About two rows of typical entries.
    const AHEAD_BYTES: usize = 512;
    #[cfg(target_arch = "x86_64")]
    for at in (0..row.len().min(1024)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: this is only a hint. The processor ignores an address that is not mapped.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(at).wrapping_sub(AHEAD_BYTES).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (row, AHEAD_BYTES);
}
