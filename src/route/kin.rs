//! The parents of one change's rows, as one rule's templates see them.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use super::lookup::{ParentColumn, RuleLookup};
use super::template::{BoundTemplate, Printed, Unrenderable};
use super::view::{Side, View};
use crate::change::{Kind, LookupId, Parent, ParentKey, ParentRow, Parents, Relation};

/// A lookup on one relation's columns.
#[derive(Debug)]
pub(super) struct BoundLookup {
    pub name: Arc<str>,
    pub columns: Vec<Arc<str>>,
    id: LookupId,
    /// Where a row has the columns.
    places: Vec<usize>,
    decides: bool,
    key: BoundTemplate,
}

/// Each is looked for when it is first asked for. What stands in the way is
/// remembered if its value would have counted.
#[derive(Debug)]
pub(super) struct Kin<'a> {
    pub lookups: &'a [BoundLookup],
    parents: &'a Parents,
    /// By side, then by lookup.
    found: [Box<[OnceCell<Found>]>; 2],
    trouble: RefCell<Trouble>,
}

/// What is known of one parent.
#[derive(Debug)]
pub(super) enum Found {
    Row(Arc<ParentRow>),
    Absent,
    /// Its key is not known.
    Nameless(Unrenderable),
    Trouble(Trouble),
}

/// Why a rule cannot say yet, or at all, what a change means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    /// What must be read first.
    pub missing: Vec<ParentKey>,
    /// Whether something that decides can never be known.
    pub is_unknown: bool,
}

/// A parent's column; `None` is NULL.
pub(super) type ParentText<'a> = Option<(Kind, &'a [u8])>;

impl BoundLookup {
    pub(super) fn new(lookup: &RuleLookup, relation: &Relation) -> BoundLookup {
        BoundLookup {
            name: lookup.name.as_ref().into(),
            columns: lookup.columns.iter().map(|name| name.as_ref().into()).collect(),
            id: lookup.id,
            places: lookup.places.clone(),
            decides: lookup.decides(),
            key: lookup.key.bind(relation),
        }
    }

    /// `None` if no row can have it.
    fn key(&self, view: &View<'_>) -> Result<Option<Box<str>>, Unrenderable> {
        let mut key = String::new();
        for part in &self.key.parts {
            if part.raw_text(view, &mut key)? == Printed::Null {
                return Ok(None);
            }
        }
        // Postgres' text has none, and would refuse the query.
        Ok((!key.contains('\0')).then(|| key.into()))
    }
}

impl<'a> Kin<'a> {
    pub(super) fn new(lookups: &'a [BoundLookup], parents: &'a Parents) -> Kin<'a> {
        let none = || lookups.iter().map(|_| OnceCell::new()).collect();
        Kin { lookups, parents, found: [none(), none()], trouble: RefCell::default() }
    }

    /// Of rows that were kept by [`Kin::keep`].
    pub(super) fn kept(
        lookups: &'a [BoundLookup],
        parents: &'a Parents,
        kept: &[Option<Parent>],
    ) -> Kin<'a> {
        let found = || {
            let found = kept.iter().map(|parent| match parent {
                Some(Parent::Row(row)) => Found::Row(row.clone()),
                Some(Parent::Absent) => Found::Absent,
                Some(Parent::Unknown) | None => {
                    Found::Nameless(Unrenderable("a looked-up row is not known".to_owned()))
                }
            });
            found.map(OnceCell::from).collect()
        };
        Kin { lookups, parents, found: [found(), found()], trouble: RefCell::default() }
    }

    /// Of the view's row, those that `reads` names, to read them again later.
    pub(super) fn keep(&self, view: &View<'_>, reads: &[bool]) -> Box<[Option<Parent>]> {
        let kept = reads.iter().enumerate().map(|(lookup, is_read)| {
            if !is_read {
                return None;
            }
            match self.find(view, lookup) {
                Found::Row(row) => Some(Parent::Row(row.clone())),
                Found::Absent => Some(Parent::Absent),
                Found::Nameless(_) => None,
                Found::Trouble(_) => {
                    self.note(view, lookup);
                    None
                }
            }
        });
        kept.collect()
    }

    pub(super) fn is_in_trouble(&self) -> bool {
        *self.trouble.borrow() != Trouble::default()
    }

    pub(super) fn into_trouble(self) -> Option<Trouble> {
        Some(self.trouble.into_inner()).filter(|trouble| *trouble != Trouble::default())
    }

    /// The column of the view's row's parent.
    pub(super) fn value(
        &'a self,
        view: &View<'_>,
        ParentColumn { lookup, column }: ParentColumn,
    ) -> Result<ParentText<'a>, Unrenderable> {
        match self.find(view, lookup) {
            Found::Row(row) => Ok(self.column(row, lookup, column)),
            Found::Absent => Ok(None),
            Found::Nameless(reason) => Err(reason.clone()),
            Found::Trouble(_) => {
                self.note(view, lookup);
                let name = &self.lookups[lookup].name;
                Err(Unrenderable(format!("{name} could not be looked up")))
            }
        }
    }

    pub(super) fn column(
        &self,
        row: &'a ParentRow,
        lookup: usize,
        column: usize,
    ) -> ParentText<'a> {
        let place = self.lookups[lookup].places[column];
        let (kind, text) = row.values.get(place)?;
        Some((*kind, text.as_deref()?))
    }

    /// The view's row's parent, without a note of what stands in the way.
    pub(super) fn find(&self, view: &View<'_>, lookup: usize) -> &Found {
        self.found[view.side as usize][lookup].get_or_init(|| self.look(view, lookup))
    }

    fn look(&self, view: &View<'_>, lookup: usize) -> Found {
        let bound = &self.lookups[lookup];
        let before = self.trouble.take();
        let key = bound.key(view);
        let own = self.trouble.replace(before);
        if own != Trouble::default() {
            return Found::Trouble(own);
        }
        let key = match key {
            Ok(Some(key)) => ParentKey { lookup: bound.id, key },
            Ok(None) => return Found::Absent,
            Err(reason) => return Found::Nameless(reason),
        };
        // The row as it was belonged to whom its parent belonged then.
        if view.side == Side::Old && bound.decides && self.parents.has_moved(&key) {
            return Found::Trouble(Trouble { missing: Vec::new(), is_unknown: true });
        }
        match self.parents.get(&key) {
            Some(Parent::Row(row)) => Found::Row(row.clone()),
            Some(Parent::Absent) => Found::Absent,
            Some(Parent::Unknown) => {
                Found::Trouble(Trouble { missing: Vec::new(), is_unknown: bound.decides })
            }
            None => Found::Trouble(Trouble { missing: vec![key], is_unknown: false }),
        }
    }

    /// What stands in the way of a parent, if anything does, counts.
    pub(super) fn note(&self, view: &View<'_>, lookup: usize) {
        let Found::Trouble(found) = self.find(view, lookup) else { return };
        let mut trouble = self.trouble.borrow_mut();
        trouble.is_unknown |= found.is_unknown;
        trouble.missing.extend(found.missing.iter().cloned());
    }
}
