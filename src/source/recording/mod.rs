//! Changes in a file, as `rowcast tail --record` writes it: to be told again, on
//! this machine or another, by these rules or others.
//!
//! Each line is a JSON object with one key, which says what it is. A table is described before its first row, and anew whenever it
//! became another. A transaction, and what it said of itself, hold for what follows,
//! and `reached` ends it:
//!
//! ```text
//! {"recording":{"version":1}}
//! {"relation":{"oid":16385,"table":{"schema":"public","name":"posts"},"columns":[…],…}}
//! {"transaction":{"xid":742,"at":"2026-11-20T21:34:00.123456Z","position":26432113}}
//! {"context":{"user_id":7}}
//! {"update":{"relation":16385,"new":{"id":"42","status":"published"},"changed":["body"]}}
//! {"reached":26432120}
//! ```
//!
//! Rows have the columns that rules need, in Postgres' text form. Of all others it
//! is written at most whether they changed. Files that are put one after the other
//! are one recording.

mod line;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use line::Problem;
pub use reader::{Error, Recording};
pub use writer::{WriteError, Writer};

/// The only one that there is.
const VERSION: u32 = 1;
