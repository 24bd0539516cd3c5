use std::sync::Arc;

use super::key::KeyType;
use crate::change::{Change, Kind, Lookup, Parent, ParentRow, Relation, Value};

/// A table that is looked into, as its relation was described last.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) lookup: Lookup,
    pub(super) relation: Arc<Relation>,
    /// Where the relation has the column that keys are looked for in; `None` if
    /// it has it no more.
    by: Option<usize>,
    /// Where it has those that are read.
    columns: Vec<Option<usize>>,
    /// `None` until the server was asked.
    pub(super) key_type: Option<KeyType>,
}

/// Which row of a change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    Old,
    New,
}

/// The key that a row is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Known(Box<str>),
    /// By no key: NULL, or text that no template can make.
    None,
    /// The replica identity leaves it out.
    Unknown,
}

impl Table {
    pub(super) fn new(lookup: Lookup, relation: Arc<Relation>) -> Table {
        let by = relation.key_column(lookup.by.as_deref());
        let columns = lookup.columns.iter().map(|name| relation.column(name)).collect();
        Table { lookup, relation, by, columns, key_type: None }
    }

    /// Takes the relation as a change has it. Returns whether that is another
    /// one, so that nothing that is known of its rows holds.
    pub(super) fn describe(&mut self, relation: &Arc<Relation>) -> bool {
        if Arc::ptr_eq(&self.relation, relation) {
            return false;
        }
        let is_new = *self.relation != **relation;
        match is_new {
            true => *self = Table::new(self.lookup.clone(), relation.clone()),
            false => self.relation = relation.clone(),
        }
        is_new
    }

    /// The name of the column that keys are looked for in.
    pub(super) fn by(&self) -> Option<&str> {
        Some(&self.relation.columns[self.by?].name)
    }

    pub(super) fn key(&self, change: &Change<'_>, which: Which) -> Key {
        let Some(by) = self.by else { return Key::Unknown };
        match value(change, which, by) {
            Value::Text(text) => {
                std::str::from_utf8(text).map_or(Key::None, |key| Key::Known(key.into()))
            }
            Value::Null => Key::None,
            Value::Unchanged | Value::Unknown | Value::Omitted(_) => Key::Unknown,
        }
    }

    /// `None` unless all its columns are known.
    pub(super) fn row(&self, change: &Change<'_>, which: Which) -> Option<Parent> {
        let value = |column: &Option<usize>| {
            let column = (*column)?;
            let kind = self.relation.columns[column].kind;
            match value(change, which, column) {
                Value::Text(text) => Some((kind, Some(text.into()))),
                Value::Null => Some((kind, None)),
                Value::Unchanged | Value::Unknown | Value::Omitted(_) => None,
            }
        };
        let values = self.columns.iter().map(value).collect::<Option<_>>()?;
        Some(Parent::Row(Arc::new(ParentRow { values })))
    }

    /// Whether an update changed what decides. What the old row does not carry, no
    /// rule needs of it.
    pub(super) fn moves(&self, change: &Change<'_>) -> bool {
        let mut deciding = self.lookup.deciding.iter().filter_map(|place| self.columns[*place]);
        deciding.any(|column| change.column_changed(column) == Some(true))
    }

    /// Whether a row that came in the place of another may name somebody else.
    pub(super) fn decides_otherwise(&self, before: &Parent, now: Option<&Parent>) -> bool {
        match (before, now) {
            (Parent::Absent, _) => false,
            (Parent::Row(before), Some(Parent::Row(now))) => {
                let mut deciding = self.lookup.deciding.iter();
                deciding.any(|place| before.values[*place] != now.values[*place])
            }
            _ => self.lookup.decides(),
        }
    }

    /// Of the columns that are read, in their order.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        let kind = |column: usize| self.relation.columns[column].kind;
        self.columns.iter().map(move |column| column.map_or(Kind::Text, kind))
    }
}

fn value<'a>(change: &Change<'a>, which: Which, column: usize) -> Value<'a> {
    match which {
        Which::Old => change.old_value(column),
        Which::New => change.new_value(column),
    }
}
