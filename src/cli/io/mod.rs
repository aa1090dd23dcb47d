//! Stdout, signals and waits.

pub mod memory_fault;
pub mod output;
pub mod poll;
pub mod signals;
