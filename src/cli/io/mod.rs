//! Stdout and signals.

pub mod output;
pub mod signals;
