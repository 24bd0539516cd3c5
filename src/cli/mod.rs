//! The command line.

pub mod setup;
pub mod teardown;
