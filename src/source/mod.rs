//! Where changes come from.

pub mod recording;
pub mod rows;
mod said;
mod session;
pub mod triggers;
pub mod wal;

use crate::change::Relation;
pub use session::{Error, Session};

/// Tells of each column of a table whether some rule needs its value.
pub type Wanted = Box<dyn Fn(&Relation) -> Vec<bool> + Send + Sync>;
