//! The output on stderr: errors, diagnostics and progress.

pub mod diagnostics;
pub mod errors;
pub mod hint;
pub mod input;
pub mod missing;
pub mod nearest;
pub mod progress;
pub mod session;
pub mod transfer;
