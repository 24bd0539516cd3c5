//! What a source says: rows changed, and how far it has come.
//!
//! A [`Batch`] holds what one read of the stream brought. Its rows are not
//! copied out: a value is a range of the batch's bytes, so a change costs no
//! allocation of its own.

mod batch;
mod broadcast;
mod context;
mod lsn;
mod parents;
mod position;
mod relation;
mod row;
mod timestamp;

pub use batch::{Batch, BatchBuilder, Change, Item, Missed, Operation, Transaction};
pub use broadcast::{Broadcast, BroadcastError};
pub use context::{Context, ContextError};
pub use lsn::Lsn;
pub use parents::{Lookup, LookupId, Parent, ParentKey, ParentRow, ParentValue, Parents};
pub use position::Position;
pub use relation::{Column, Kind, Relation, ReplicaIdentity, TableName};
pub use row::{Field, Row, Value};
pub use timestamp::Timestamp;
