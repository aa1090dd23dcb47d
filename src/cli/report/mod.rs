//! The output for people: errors, diagnostics and progress on stderr; tables and changes on a terminal.

pub mod diagnostics;
pub mod errors;
pub mod hint;
pub mod input;
pub mod missing;
pub mod nearest;
pub mod progress;
pub mod session;
pub mod table;
pub mod transfer;
pub mod view;
