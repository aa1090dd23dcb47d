//! Stdout, files, signals and waits.

pub mod appended;
pub mod memory_fault;
pub mod output;
pub mod poll;
pub mod signals;
