//! Where changes come from.

mod session;
pub mod wal;

pub use session::{Error, Session};
