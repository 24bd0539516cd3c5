//! Where changes come from.

mod said;
mod session;
pub mod triggers;
pub mod wal;

pub use session::{Error, Session};
