use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Broadcast, Context, Field, Position, Relation, ReplicaIdentity, Row, Timestamp, Value,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Insert,
    Update,
    Delete,
    /// Nothing happened to it: it was read as it stands.
    Read,
}

/// The transaction that a change was committed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub xid: u32,
    /// When it was committed, by the server's clock.
    pub at: Timestamp,
    /// Of the commit itself: below the [`Item::Reached`] that follows it, above
    /// the one of the transaction before.
    pub position: Position,
}

/// A committed change of one row.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub relation: &'a Arc<Relation>,
    pub operation: Operation,
    pub transaction: Transaction,
    /// What its transaction had said of itself before.
    pub context: Option<&'a Arc<Context>>,
    old: Option<Row<'a>>,
    new: Option<Row<'a>>,
}

impl<'a> Change<'a> {
    /// The same, of a transaction that has said nothing.
    pub fn without_context(self) -> Change<'a> {
        Change { context: None, ..self }
    }

    /// As it was sent, if it was.
    pub fn old_row(&self) -> Option<Row<'a>> {
        self.old
    }

    /// As it was sent, if it was.
    pub fn new_row(&self) -> Option<Row<'a>> {
        self.new
    }

    /// The column as it is after the change. An unchanged TOASTed value is
    /// taken from the old row where that carries it. `Unknown` after a delete.
    pub fn new_value(&self, column: usize) -> Value<'a> {
        let Some(new) = self.new else { return Value::Unknown };
        match new.value(column) {
            Value::Unchanged => match self.old.map(|old| old.value(column)) {
                Some(known @ (Value::Null | Value::Text(_) | Value::Omitted(_))) => known,
                _ => Value::Unchanged,
            },
            value => value,
        }
    }

    /// The column as it was before the change. `Unknown` before an insert.
    ///
    /// An update whose old row was not sent changed no column of the replica
    /// identity, so those columns are what the new row says; all others are
    /// unknown, never NULL.
    pub fn old_value(&self, column: usize) -> Value<'a> {
        match (self.old, self.new, self.operation) {
            (Some(old), _, _) => old.value(column),
            (None, Some(new), Operation::Update)
                if self.relation.columns.get(column).is_some_and(|c| c.in_identity) =>
            {
                new.value(column)
            }
            _ => Value::Unknown,
        }
    }

    /// Whether an update gave the column another value; `None` if the old row
    /// does not tell.
    pub fn column_changed(&self, column: usize) -> Option<bool> {
        if self.new.is_some_and(|new| new.value(column) == Value::Unchanged) {
            return Some(false);
        }
        match (self.old_value(column), self.new_value(column)) {
            (Value::Unknown | Value::Unchanged, _) | (_, Value::Unknown | Value::Unchanged) => None,
            (old, new) => Some(old != new),
        }
    }
}

/// Why a source cannot tell changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// They may not have been written down.
    Unrecorded,
    /// There was no room to write them down.
    Full,
}

/// What a batch holds, in the order of the source.
#[derive(Debug)]
pub enum Item<'a> {
    Change(Change<'a>),
    /// The table was emptied at once.
    Truncate {
        relation: &'a Arc<Relation>,
        transaction: Transaction,
    },
    Broadcast {
        broadcast: &'a Broadcast,
        transaction: Transaction,
        context: Option<&'a Arc<Context>>,
    },
    /// Changes were committed that the source cannot tell: of this table, or of
    /// any. Whoever begins to read now sees them.
    Missed {
        relation: Option<&'a Arc<Relation>>,
        why: Missed,
        transaction: Transaction,
    },
    /// The source has sent everything at or below this position.
    Reached(Position),
}

#[derive(Debug)]
enum Entry {
    Change {
        /// Its place in the batch's scopes.
        scope: usize,
        operation: Operation,
        old: Option<Range<usize>>,
        new: Option<Range<usize>>,
    },
    Truncate {
        relation: Arc<Relation>,
        transaction: Transaction,
    },
    Broadcast {
        broadcast: Broadcast,
        transaction: Transaction,
        context: Option<Arc<Context>>,
    },
    Missed {
        relation: Option<Arc<Relation>>,
        why: Missed,
        transaction: Transaction,
    },
    Reached(Position),
}

/// What many changes in a row have in common: of one table in one transaction, they
/// share it, since who drops a batch may be another thread than who made it, and
/// the two would pass each count back and forth.
#[derive(Debug)]
struct Scope {
    relation: Arc<Relation>,
    transaction: Transaction,
    context: Option<Arc<Context>>,
}

/// What a source hands on at once: changes and positions in order, over one
/// block of bytes.
#[derive(Debug)]
pub struct Batch {
    bytes: Bytes,
    fields: Vec<Field>,
    scopes: Vec<Scope>,
    entries: Vec<Entry>,
}

impl Batch {
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        self.entries.iter().map(|entry| match entry {
            Entry::Change { scope, operation, old, new } => {
                let Scope { relation, transaction, context } = &self.scopes[*scope];
                Item::Change(Change {
                    relation,
                    operation: *operation,
                    transaction: *transaction,
                    context: context.as_ref(),
                    old: old.clone().map(|range| self.row(range)),
                    new: new.clone().map(|range| self.row(range)),
                })
            }
            Entry::Truncate { relation, transaction } => {
                Item::Truncate { relation, transaction: *transaction }
            }
            Entry::Broadcast { broadcast, transaction, context } => {
                Item::Broadcast { broadcast, transaction: *transaction, context: context.as_ref() }
            }
            Entry::Missed { relation, why, transaction } => {
                Item::Missed { relation: relation.as_ref(), why: *why, transaction: *transaction }
            }
            Entry::Reached(position) => Item::Reached(*position),
        })
    }

    /// The change alone, with its values of `columns`, which rise; all others
    /// are unknown.
    pub fn keep(change: &Change<'_>, columns: &[usize]) -> Batch {
        let mut copy = Copy::default();
        let mut row = |row: Row<'_>| copy.row(columns, |column| row.value(column));
        let (old, new) = (change.old.map(&mut row), change.new.map(&mut row));
        copy.finish(change, old, new)
    }

    /// `later` with its unchanged TOASTed values, where they are in the new row
    /// of `earlier`. Both are of one change, of the same row of the same table.
    /// `None` if none is.
    pub fn carry(earlier: &Batch, later: &Batch) -> Option<Batch> {
        let (earlier, later) = (earlier.change()?, later.change()?);
        let new = later.new.filter(|_| Arc::ptr_eq(earlier.relation, later.relation))?;
        let carried = |column: usize| match later.new_value(column) {
            Value::Unchanged => Some(earlier.new_value(column)).filter(|value| value.is_known()),
            _ => None,
        };
        if !(0..new.fields.len()).any(|column| carried(column).is_some()) {
            return None;
        }
        let mut copy = Copy::default();
        let all: Vec<usize> = (0..new.fields.len()).collect();
        let old = later.old.map(|old| copy.row(&all, |column| old.value(column)));
        let new = copy.row(&all, |column| carried(column).unwrap_or(new.value(column)));
        Some(copy.finish(&later, old, Some(new)))
    }

    /// Its first change, which is its only one if [`Batch::keep`] made it.
    pub fn change(&self) -> Option<Change<'_>> {
        self.items().find_map(|item| match item {
            Item::Change(change) => Some(change),
            Item::Truncate { .. }
            | Item::Broadcast { .. }
            | Item::Missed { .. }
            | Item::Reached(_) => None,
        })
    }

    /// The transactions that it has changes of, in the order of their commits.
    pub fn xids(&self) -> Vec<u32> {
        let mut xids = Vec::new();
        for entry in &self.entries {
            let xid = match entry {
                Entry::Change { scope, .. } => self.scopes[*scope].transaction.xid,
                Entry::Truncate { transaction, .. } | Entry::Broadcast { transaction, .. } => {
                    transaction.xid
                }
                // All of them are seen already.
                Entry::Missed { .. } | Entry::Reached(_) => continue,
            };
            if xids.last() != Some(&xid) {
                xids.push(xid);
            }
        }
        xids
    }

    /// What it costs to keep, in bytes, near enough.
    pub fn heap_bytes(&self) -> usize {
        let of_broadcasts = self.entries.iter().filter_map(|entry| match entry {
            Entry::Broadcast { context, .. } => context.as_ref(),
            Entry::Change { .. }
            | Entry::Truncate { .. }
            | Entry::Missed { .. }
            | Entry::Reached(_) => None,
        });
        let of_changes = self.scopes.iter().filter_map(|scope| scope.context.as_ref());
        let contexts = of_changes.chain(of_broadcasts).map(|context| context.heap_bytes());
        self.bytes.len()
            + size_of_val(&*self.fields)
            + size_of_val(&*self.scopes)
            + size_of_val(&*self.entries)
            + contexts.sum::<usize>()
    }

    fn row(&self, range: Range<usize>) -> Row<'_> {
        Row { bytes: &self.bytes, fields: &self.fields[range] }
    }
}

/// Rows made of other batches' values.
#[derive(Default)]
struct Copy {
    fields: Vec<Field>,
    bytes: Vec<u8>,
}

impl Copy {
    /// Appends a row that reaches to the last of `columns`, which rise, and says
    /// where it is.
    fn row<'a>(&mut self, columns: &[usize], value: impl Fn(usize) -> Value<'a>) -> Range<usize> {
        let start = self.fields.len();
        for column in columns {
            self.fields.resize(start + column, Field::UNKNOWN);
            let field = self.field(value(*column));
            self.fields.push(field);
        }
        start..self.fields.len()
    }

    fn field(&mut self, value: Value<'_>) -> Field {
        let start = self.bytes.len();
        let copied = match value {
            Value::Null => return Field::NULL,
            Value::Unchanged => return Field::UNCHANGED,
            Value::Unknown => return Field::UNKNOWN,
            Value::Text(text) => {
                self.bytes.extend_from_slice(text);
                Field::text(start..self.bytes.len())
            }
            Value::Omitted(fingerprint) => {
                self.bytes.extend_from_slice(fingerprint);
                Field::omitted(start)
            }
        };
        copied.unwrap_or(Field::UNKNOWN)
    }

    fn finish(
        self,
        change: &Change<'_>,
        old: Option<Range<usize>>,
        new: Option<Range<usize>>,
    ) -> Batch {
        let Change { relation, operation, transaction, context, .. } = *change;
        let scope = Scope { relation: relation.clone(), transaction, context: context.cloned() };
        Batch {
            bytes: self.bytes.into(),
            fields: self.fields,
            scopes: vec![scope],
            entries: vec![Entry::Change { scope: 0, operation, old, new }],
        }
    }
}

/// Collects a batch while its bytes are still being read.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    /// Fields of all rows; a decoder appends, then names its range.
    pub fields: Vec<Field>,
    /// What the open transaction has said of itself: it goes with all that
    /// follows.
    pub context: Option<Arc<Context>>,
    scopes: Vec<Scope>,
    entries: Vec<Entry>,
}

impl BatchBuilder {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Changes, positions and all else.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// `old` and `new` are ranges of `fields`. Columns of a short old tuple
    /// (only the key is sent) that are not of the identity become unknown here,
    /// since the protocol writes them as NULL.
    pub fn change(
        &mut self,
        relation: &Arc<Relation>,
        operation: Operation,
        transaction: Transaction,
        old: Option<Range<usize>>,
        new: Option<Range<usize>>,
    ) {
        if let Some(old) = &old
            && relation.identity != ReplicaIdentity::Full
        {
            for (field, column) in self.fields[old.clone()].iter_mut().zip(&relation.columns) {
                if !column.in_identity {
                    *field = Field::UNKNOWN;
                }
            }
        }
        let scope = self.scope(relation, transaction);
        self.entries.push(Entry::Change { scope, operation, old, new });
    }

    /// That of the change before, if it is the same.
    fn scope(&mut self, relation: &Arc<Relation>, transaction: Transaction) -> usize {
        let is_same = |scope: &Scope| {
            Arc::ptr_eq(&scope.relation, relation)
                && scope.transaction == transaction
                && scope.context.as_ref().map(Arc::as_ptr) == self.context.as_ref().map(Arc::as_ptr)
        };
        if !self.scopes.last().is_some_and(is_same) {
            let (relation, context) = (relation.clone(), self.context.clone());
            self.scopes.push(Scope { relation, transaction, context });
        }
        self.scopes.len() - 1
    }

    pub fn broadcast(&mut self, broadcast: Broadcast, transaction: Transaction) {
        let context = self.context.clone();
        self.entries.push(Entry::Broadcast { broadcast, transaction, context });
    }

    pub fn truncate(&mut self, relation: Arc<Relation>, transaction: Transaction) {
        self.entries.push(Entry::Truncate { relation, transaction });
    }

    pub fn missed(
        &mut self,
        relation: Option<Arc<Relation>>,
        why: Missed,
        transaction: Transaction,
    ) {
        self.entries.push(Entry::Missed { relation, why, transaction });
    }

    pub fn reached(&mut self, position: Position) {
        self.entries.push(Entry::Reached(position));
    }

    /// The batch over `bytes`, which the fields point into.
    pub fn finish(self, bytes: Bytes) -> Batch {
        let BatchBuilder { fields, scopes, entries, .. } = self;
        Batch { bytes, fields, scopes, entries }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Column, Kind, TableName};
    use super::*;

    /// `id` is the identity; no other column is in an old row.
    fn relation() -> Arc<Relation> {
        let column = |name: &str| Column {
            name: name.into(),
            kind: Kind::Text,
            in_identity: name == "id",
            nullable: true,
        };
        Arc::new(Relation {
            oid: 1,
            table: TableName::new("public", "posts"),
            renamed: None,
            columns: ["id", "title", "body", "note"].map(column).into(),
            identity: ReplicaIdentity::Default,
            primary_key: vec![0],
        })
    }

    /// A batch of one update, with what its new row has.
    fn update(relation: &Arc<Relation>, new: [Value<'_>; 4]) -> Batch {
        let transaction =
            Transaction { xid: 7, at: Timestamp::from_unix_micros(0), position: Position::new(9) };
        let change = Change {
            relation,
            operation: Operation::Update,
            transaction,
            context: None,
            old: None,
            new: None,
        };
        let mut copy = Copy::default();
        let new = copy.row(&[0, 1, 2, 3], |column| new[column]);
        copy.finish(&change, None, Some(new))
    }

    fn new_values(batch: &Batch) -> [Value<'_>; 4] {
        let change = batch.change().expect("one change");
        [0, 1, 2, 3].map(|column| change.new_value(column))
    }

    const ID: Value<'_> = Value::Text(b"1");

    #[test]
    fn of_a_kept_change_only_the_named_columns_are_known() {
        let relation = relation();
        let whole = update(&relation, [ID, Value::Text(b"title"), Value::Unchanged, Value::Null]);
        let change = whole.change().expect("one change");
        let kept = Batch::keep(&change, &[0, 2]);
        assert_eq!(new_values(&kept), [ID, Value::Unknown, Value::Unchanged, Value::Unknown]);
        let kept = Batch::keep(&change, &[1, 3]);
        let [_, title, _, note] = new_values(&kept);
        assert_eq!((title, note), (Value::Text(b"title"), Value::Null));
        assert!(kept.bytes.len() < whole.bytes.len());
        let kept = kept.change().expect("one change");
        assert_eq!((kept.operation, kept.transaction), (change.operation, change.transaction));
        assert_eq!(kept.old_value(1), Value::Unknown);
    }

    #[test]
    fn what_a_change_left_as_it_was_is_carried_from_the_change_before() {
        let (relation, title) = (relation(), Value::Text(b"title"));
        let earlier = update(&relation, [ID, title, Value::Text(b"long"), Value::Unchanged]);
        let later = update(&relation, [ID, Value::Null, Value::Unchanged, Value::Unchanged]);
        let carried = Batch::carry(&earlier, &later).expect("the body");
        let expected = [ID, Value::Null, Value::Text(b"long"), Value::Unchanged];
        assert_eq!(new_values(&carried), expected);
        assert!(Batch::carry(&later, &earlier).is_none(), "nothing is known of the note");
        let anew = self::relation();
        let described_anew = update(&anew, [ID, title, Value::Text(b"long"), Value::Null]);
        assert!(Batch::carry(&described_anew, &later).is_none());
    }
}
