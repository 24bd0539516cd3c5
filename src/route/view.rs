//! What a template sees of a change.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::kin::{Kin, ParentText};
use super::lookup::ParentColumn;
use super::template::Unrenderable;
use crate::change::{Change, Operation, TableName, Value};
use crate::notification::{Action, Changed};

/// Which row a bare column name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

/// Where a template looks for a column: `status`, `old.status`, `new.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Row,
    Old,
    New,
}

/// A column's value as far as a rule can know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known<'a> {
    Null,
    Text(&'a [u8]),
    Unknown,
}

/// Names that a rule gives, the same for every change of a table.
#[derive(Debug)]
pub(super) struct Names {
    pub entity: Arc<str>,
    pub studly: Box<str>,
    /// The one that the rule takes.
    pub table: TableName,
}

/// Earlier changes of the row that are told together with the last.
#[derive(Clone, Copy)]
pub(super) struct Since<'a> {
    /// Whose old row is the old one.
    pub first: &'a Change<'a>,
    /// What all of them changed, if that is known.
    pub changed: Option<&'a Changed>,
}

/// One change, seen from one of its rows.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub change: &'a Change<'a>,
    /// `None`: it is told alone.
    pub since: Option<Since<'a>>,
    pub side: Side,
    pub action: Action,
    pub names: &'a Names,
    /// Columns that never change, by index.
    pub fixed: &'a [bool],
    pub zone: &'a TimeZone,
    /// `None`: the rule looks nothing up.
    pub kin: Option<&'a Kin<'a>>,
}

impl<'a> View<'a> {
    pub(super) fn from(self, side: Side) -> View<'a> {
        View { side, ..self }
    }

    pub(super) fn value(&self, scope: Scope, column: usize) -> Known<'a> {
        let side = match scope {
            Scope::Row => self.side,
            Scope::Old => Side::Old,
            Scope::New => Side::New,
        };
        // `old` is the row before all that is told; the row that it is about, if
        // that is the old one, is the one before the last change.
        let change = match self.since {
            Some(since) if scope == Scope::Old => since.first,
            _ => self.change,
        };
        match side {
            // A row that does not exist has no values; that is not the same as
            // a row whose values did not come.
            Side::Old if change.operation == Operation::Insert => Known::Null,
            Side::New if change.operation == Operation::Delete => Known::Null,
            Side::New => known(change.new_value(column)),
            Side::Old => match known(change.old_value(column)) {
                Known::Unknown
                    if change.operation == Operation::Update
                        && self.fixed.get(column).copied().unwrap_or(false) =>
                {
                    known(change.new_value(column))
                }
                old => old,
            },
        }
    }

    /// The column of the parent of the row that it is about.
    pub(super) fn parent(&self, column: ParentColumn) -> Result<ParentText<'a>, Unrenderable> {
        let kin = self.kin.expect("a rule that reads parents has lookups");
        kin.value(self, column)
    }

    /// Whether the row went on as the same row with other values.
    pub(super) fn tells_changed(&self) -> bool {
        let replaced = self.action == Action::Deleted && self.side == Side::Old;
        // A row that was deleted and created again is updated.
        let stays = self.since.is_some() || self.change.operation == Operation::Update;
        stays && self.action != Action::Created && !replaced
    }

    /// Indexes of the changed columns in their order, if of each it is known
    /// whether it changed. None changed in a row that is new or gone.
    pub(super) fn changed(&self) -> Option<impl Iterator<Item = u16> + use<'a>> {
        let change = self.change;
        if change.operation == Operation::Read {
            return None;
        }
        let count = match self.tells_changed() {
            // Postgres allows 1600 of them.
            true => u16::try_from(change.relation.columns.len()).unwrap_or(u16::MAX),
            false => 0,
        };
        let column_changed = move |column: u16| change.column_changed(usize::from(column));
        let all_known = (0..count).all(|column| column_changed(column).is_some());
        all_known.then(|| (0..count).filter(move |column| column_changed(*column) == Some(true)))
    }
}

fn known(value: Value<'_>) -> Known<'_> {
    match value {
        Value::Null => Known::Null,
        Value::Text(bytes) => Known::Text(bytes),
        Value::Unchanged | Value::Unknown | Value::Omitted(_) => Known::Unknown,
    }
}
