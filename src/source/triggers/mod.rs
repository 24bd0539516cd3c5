//! Capture by triggers: these write each change to `rowcast.outbox`, as a part of
//! the transaction that makes it; a [`Session`] reads that table, hands the rows on,
//! and deletes them once they are delivered. `sql/outbox.sql` says what is in the
//! database.
//!
//! **Each row once.** Ids are taken before commits, so no id says how far one has
//! read. Snapshots do: what is visible in this poll's snapshot and was not in the
//! last one's is new, and that is what is of a transaction which ran then and has
//! ended, or has begun since. Both are ranges of the index `(xid, id)`, so neither
//! dead rows nor what an old transaction holds back are ever looked at again.
//!
//! **In order.** A transaction is handed on whole, its rows by id, and followed by
//! a position. The transactions of a poll go by their *last* id: whoever changes a
//! row after another transaction takes an id after all of that one's.
//!
//! **Bounded.** A poll that finds more than it may hold lists its transactions
//! instead (`backlog`), which are then read a few at a time, and large ones piece by
//! piece. No statement outlasts its answer, no cursor and no transaction stays open:
//! vacuum is never held back by us. While nobody takes what is ready, nothing is
//! read.
//!
//! **Deleted last.** A position that is confirmed says which transactions were
//! delivered (`ledger`): their rows are deleted about a second later, and with them
//! it is recorded how far that is.
//!
//! **Never in the way.** What triggers could not write, or had no `room` to, they
//! count; what is `missing` so is told as such, as long as transactions run that may
//! have counted. A sequence that all see at once, the gate, tells triggers how far
//! they may write and whether we sleep and want a NOTIFY (`sleep`).
//!
//! `rows`, `shapes` and `taker` turn what is read into batches; `outbox` has the
//! statements.

mod backlog;
mod error;
mod ledger;
mod missing;
mod nested;
mod outbox;
mod room;
mod rows;
#[cfg(test)]
mod schedules;
mod session;
mod shapes;
mod sleep;
mod taker;

pub use error::Error;
pub use session::{Delivered, Options, Reads, Session, Until};
