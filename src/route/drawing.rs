//! Payloads that say something of the row before the change, or of the action:
//! folding draws them again.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::data::BoundData;
use super::view::{Names, Side, Since, View};
use crate::change::Batch;
use crate::notification::{Action, Changed, Draft, Render, escaped_len};

/// How a rule's payload about one row of a change is drawn.
#[derive(Debug)]
pub(super) struct Drawing {
    pub data: BoundData,
    /// Those that `data` reads, rising.
    pub columns: Vec<usize>,
    pub names: Arc<Names>,
    pub fixed: Arc<[bool]>,
    pub zone: TimeZone,
    pub max_bytes: usize,
    /// The row that it is about.
    pub side: Side,
}

impl Drawing {
    /// What the view's payload can be drawn by again.
    pub(super) fn draft(self: &Arc<Self>, view: &View<'_>, changed: Option<Changed>) -> Draft {
        let change = Arc::new(Batch::keep(view.change, &self.columns));
        Draft { first: change.clone(), last: change, changed, render: self.clone() }
    }
}

impl Render for Drawing {
    fn render(&self, draft: &Draft, action: Action) -> Option<Box<str>> {
        let (first, last) = (draft.first.change()?, draft.last.change()?);
        // Columns of tables described differently are not the same columns.
        if !Arc::ptr_eq(first.relation, last.relation) {
            return None;
        }
        let view = View {
            change: &last,
            since: Some(Since { first: &first, changed: draft.changed.as_ref() }),
            side: self.side,
            action,
            names: &self.names,
            fixed: &self.fixed,
            zone: &self.zone,
        };
        let mut text = String::new();
        self.data.write(&view, &mut text).ok()?;
        (escaped_len(&text) <= self.max_bytes).then(|| text.into())
    }
}
