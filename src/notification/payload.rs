use std::fmt;
use std::sync::Arc;

use super::{Action, Notification, write_string};
use crate::change::{Batch, Relation};

/// What a notification says.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Entity, action, id and time: enough to fetch it again.
    Minimal {
        /// If that is known.
        changed: Option<Changed>,
        /// Whether the rule's own payload did not fit or could not be made.
        partial: bool,
    },
    /// The rule's own, a JSON text that folding does not change.
    Own(Box<str>),
    /// The rule's own, a JSON text that says something of the action or of the
    /// row before the change.
    Drawn { text: Box<str>, draft: Draft },
}

/// Columns that a change, or several, gave another value.
#[derive(Clone, Debug)]
pub struct Changed {
    pub relation: Arc<Relation>,
    /// Indexes of columns, rising.
    pub columns: Box<[u16]>,
}

/// What a payload was made of, to make it again.
#[derive(Clone, Debug)]
pub struct Draft {
    /// One change, with the columns that the payload reads.
    pub change: Arc<Batch>,
    pub render: Arc<dyn Render>,
}

/// Makes a rule's payload. It is the rule's, as it was bound to a table.
pub trait Render: fmt::Debug + Send + Sync {
    /// What the payload is after the changes of `first` to `last`, each a batch
    /// of one change: the old row is that of `first`, the new one that of `last`.
    fn render(self: Arc<Self>, first: &Batch, last: &Batch, action: Action) -> Payload;
}

impl Payload {
    /// Makes it the payload of both.
    pub(super) fn absorb(&mut self, earlier: Payload, action: Action) {
        match (&mut *self, earlier) {
            (Payload::Minimal { changed, .. }, Payload::Minimal { changed: before, .. }) => {
                *changed = match (changed.take(), before) {
                    (Some(after), Some(before)) => before.union(after),
                    _ => None,
                };
            }
            (Payload::Minimal { changed, .. }, _) => *changed = None,
            (Payload::Own(_), _) => {}
            (Payload::Drawn { draft, .. }, earlier) => {
                let draft = draft.clone();
                let first = match &earlier {
                    Payload::Drawn { draft: first, .. } => &first.change,
                    Payload::Minimal { .. } | Payload::Own(_) => &draft.change,
                };
                *self = draft.render.render(first, &draft.change, action);
            }
        }
    }

    pub(super) fn forget_changed(&mut self) {
        if let Payload::Minimal { changed, .. } = self {
            *changed = None;
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Payload::Minimal { changed, .. } => {
                changed.as_ref().map_or(0, |changed| size_of_val(&*changed.columns))
            }
            Payload::Own(text) => text.len(),
            Payload::Drawn { text, draft } => text.len() + draft.change.heap_bytes(),
        }
    }
}

impl Changed {
    /// `None` if the table was described anew in between.
    fn union(self, later: Changed) -> Option<Changed> {
        if !Arc::ptr_eq(&self.relation, &later.relation) {
            return None;
        }
        let mut columns = [self.columns, later.columns].concat();
        columns.sort_unstable();
        columns.dedup();
        Some(Changed { relation: self.relation, columns: columns.into() })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| &*self.relation.columns[usize::from(*column)].name)
    }
}

/// The payload that tells what to fetch again, and no more.
pub(super) fn minimal(
    notification: &Notification,
    changed: Option<&Changed>,
    partial: bool,
) -> String {
    let Notification { terms, action, id, count, at, .. } = notification;
    let mut out = String::with_capacity(128);
    out.push_str("{\"entity\":");
    write_string(&mut out, &terms.entity);
    for text in [",\"action\":\"", action.name(), "\",\"id\":", id] {
        out.push_str(text);
    }
    if let Some(changed) = changed {
        out.push_str(",\"changed\":[");
        for (index, column) in changed.names().enumerate() {
            if index > 0 {
                out.push(',');
            }
            write_string(&mut out, column);
        }
        out.push(']');
    }
    if *count > 1 {
        out.push_str(",\"count\":");
        out.push_str(&count.to_string());
    }
    for text in [",\"at\":\"", &at.to_string(), "\""] {
        out.push_str(text);
    }
    if partial {
        out.push_str(",\"partial\":true");
    }
    out.push('}');
    out
}
