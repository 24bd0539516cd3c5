//! Where changes come from.

pub mod wal;
