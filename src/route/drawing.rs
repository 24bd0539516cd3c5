//! Payloads that say something of the row before the change, or of the action:
//! folding draws them again.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::data::{BoundData, DataTemplate};
use super::kin::{BoundLookup, Kin};
use super::rule::Options;
use super::template::Template;
use super::view::{Names, Side, Since, View};
use crate::change::{Batch, Parents, Relation};
use crate::notification::{Action, Changed, Draft, Measure, Render};

/// How a rule's payload about one row of a change is drawn.
#[derive(Debug)]
pub(super) struct Drawing {
    data: BoundData,
    /// Those that `data` reads, rising.
    columns: Vec<usize>,
    lookups: Arc<[BoundLookup]>,
    /// Those of them that `data` reads.
    parents: Vec<bool>,
    tells_context: bool,
    names: Arc<Names>,
    fixed: Arc<[bool]>,
    zone: TimeZone,
    measure: Measure,
    max_bytes: usize,
    /// The row that it is about.
    side: Side,
}

impl Drawing {
    /// For payloads about the row as it was, and about the row as it is. `None`
    /// if folding does not change what they say.
    pub(super) fn of_both_rows(
        template: &DataTemplate,
        relation: &Relation,
        names: &Arc<Names>,
        fixed: &Arc<[bool]>,
        lookups: &Arc<[BoundLookup]>,
        measure: Measure,
        options: &Options,
    ) -> Option<[Arc<Drawing>; 2]> {
        if !template.templates().any(Template::tells_before) {
            return None;
        }
        let reads = template.reads();
        let columns: BTreeSet<usize> =
            reads.resolve(relation).into_iter().map(|(_, column)| column).collect();
        let is_read = |lookup| reads.parents.iter().any(|parent| parent.lookup == lookup);
        let parents: Vec<bool> = (0..lookups.len()).map(is_read).collect();
        let tells_context = template.templates().any(Template::tells_context);
        let drawing = |side| {
            Arc::new(Drawing {
                data: template.bind(relation),
                columns: columns.iter().copied().collect(),
                lookups: lookups.clone(),
                parents: parents.clone(),
                tells_context,
                names: names.clone(),
                fixed: fixed.clone(),
                zone: options.timezone.clone(),
                measure,
                max_bytes: options.max_data_bytes,
                side,
            })
        };
        Some([drawing(Side::Old), drawing(Side::New)])
    }

    /// What the view's payload can be drawn by again.
    pub(super) fn draft(self: &Arc<Self>, view: &View<'_>, changed: Option<Changed>) -> Draft {
        let change = match self.tells_context {
            true => *view.change,
            false => view.change.without_context(),
        };
        let change = Arc::new(Batch::keep(&change, &self.columns));
        let parents = view.kin.map(|kin| kin.keep(view, &self.parents)).unwrap_or_default();
        Draft { first: change.clone(), last: change, parents, changed, render: self.clone() }
    }
}

impl Render for Drawing {
    fn render(&self, draft: &Draft, action: Action) -> Option<Box<str>> {
        let (first, last) = (draft.first.change()?, draft.last.change()?);
        // Columns of tables described differently are not the same columns.
        if !Arc::ptr_eq(first.relation, last.relation) {
            return None;
        }
        let none = Parents::default();
        let kin = Kin::kept(&self.lookups, &none, &draft.parents);
        let view = View {
            change: &last,
            since: Some(Since { first: &first, changed: draft.changed.as_ref() }),
            side: self.side,
            action,
            names: &self.names,
            fixed: &self.fixed,
            zone: &self.zone,
            kin: Some(&kin),
        };
        let mut text = String::new();
        self.data.write(&view, &mut text).ok()?;
        (self.measure.bytes(&text) <= self.max_bytes).then(|| text.into())
    }
}
