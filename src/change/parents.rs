//! Rows that rules look up in other tables, by the text of a key.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Kind, TableName};

/// One table that rules look rows up in, by one of its columns, with all that
/// any of them reads there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    pub table: TableName,
    /// The column that keys are looked for in. `None`: the primary key.
    pub by: Option<Box<str>>,
    /// Those that are read, without repeats. A [`ParentRow`] has them in this
    /// order.
    pub columns: Vec<Box<str>>,
    /// Whether a row decides more than what a payload says: who is told, or
    /// whether. Then the table is published, so that a change of it is known.
    pub decides: bool,
    /// How long a row is used that no change stream keeps right.
    pub ttl: Duration,
}

/// Which of [`Rules::lookups`](crate::route::Rules::lookups).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(pub usize);

/// A key in a table that is looked up, in Postgres' text form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParentKey {
    pub lookup: LookupId,
    pub key: Box<str>,
}

/// What is known of a parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent {
    Row(Arc<ParentRow>),
    /// There is none: its columns are NULL.
    Absent,
    /// It could not be read, or is gone though it was there when the change was
    /// made: whoever it would name is told by a resync.
    Unknown,
}

/// A parent's columns in the order of [`Lookup::columns`]: each one's kind, and
/// its text as the change stream has it, or NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRow {
    pub values: Box<[(Kind, Option<Box<[u8]>>)]>,
}

/// All parents that are known while a batch is routed.
#[derive(Debug, Default)]
pub struct Parents {
    known: HashMap<ParentKey, Parent>,
}

impl Parents {
    /// `None` if it must be read first.
    pub fn get(&self, key: &ParentKey) -> Option<&Parent> {
        self.known.get(key)
    }

    pub fn put(&mut self, key: ParentKey, parent: Parent) {
        self.known.insert(key, parent);
    }
}
