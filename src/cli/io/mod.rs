//! Stdout and signals.

pub mod memory_fault;
pub mod output;
pub mod signals;
