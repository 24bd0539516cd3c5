use std::fmt;
use std::mem;
use std::sync::Arc;

use super::{Action, Notification, escaped_len, write_string};
use crate::change::{Batch, Parent, Relation};

/// What a notification says.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Entity, action, id and time: enough to fetch it again.
    Minimal {
        /// If that is known.
        changed: Option<Changed>,
        /// Whether the rule's own payload did not fit or could not be made.
        partial: bool,
        /// What it was to be made of, if a fold may still make it.
        draft: Option<Box<Draft>>,
    },
    /// The rule's own, a JSON text that folding does not change.
    Own(Box<str>),
    /// The rule's own, a JSON text that says something of the action or of the
    /// row before the change.
    Drawn { text: Box<str>, draft: Box<Draft> },
}

/// What two payloads that become one have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    /// Both are about one row: the earlier says how it was before.
    Row {
        /// Whether nothing happened to it between the two.
        gapless: bool,
    },
    /// Rows of one id, such as the children of one parent: the last one is told,
    /// and what changed in any.
    Id,
    /// Rows of one channel, or what two rules say of one id: the last one is
    /// told.
    Nothing,
}

/// Columns that a change, or several, gave another value.
#[derive(Clone, Debug)]
pub struct Changed {
    relation: Arc<Relation>,
    /// Indexes of columns, rising.
    columns: Box<[u16]>,
}

/// What a payload was made of, to make it again.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The change whose old row it reads, alone and with the columns that the
    /// payload reads.
    pub first: Arc<Batch>,
    /// The change whose row it is about, likewise.
    pub last: Arc<Batch>,
    /// What it reads of other tables for that row; `None` for what it does not,
    /// or is not known.
    pub parents: Box<[Option<Parent>]>,
    /// What both and those between them changed, if that is known.
    pub changed: Option<Changed>,
    pub render: Arc<dyn Render>,
}

/// Makes a rule's payload. It is the rule's, as it was bound to a table.
pub trait Render: fmt::Debug + Send + Sync {
    /// What the payload is after the changes of a draft, a JSON text; `None` if
    /// it does not fit, or something is not known.
    fn render(&self, draft: &Draft, action: Action) -> Option<Box<str>>;
}

impl Default for Payload {
    /// The minimal one.
    fn default() -> Payload {
        Payload::Minimal { changed: None, partial: false, draft: None }
    }
}

impl Payload {
    /// Makes it the payload of both.
    pub(super) fn absorb(&mut self, earlier: Payload, action: Action, shared: Shared) {
        let earlier = match earlier {
            Payload::Minimal { draft: Some(mut draft), .. } | Payload::Drawn { mut draft, .. } => {
                Earlier { changed: draft.changed.take(), draft: Some(draft) }
            }
            Payload::Minimal { changed, .. } => Earlier { changed, draft: None },
            Payload::Own(_) => Earlier { changed: None, draft: None },
        };
        *self = match mem::take(self) {
            Payload::Own(text) => Payload::Own(text),
            Payload::Minimal { changed, partial, draft: None } => {
                let before = earlier.changed.filter(|_| shared != Shared::Nothing);
                let changed = Changed::union(before, changed);
                Payload::Minimal { changed, partial, draft: None }
            }
            Payload::Minimal { draft: Some(mut draft), .. } | Payload::Drawn { mut draft, .. } => {
                draft.absorb(earlier, shared);
                match draft.render.render(&draft, action) {
                    Some(text) => Payload::Drawn { text, draft },
                    None => {
                        let changed = draft.changed.clone();
                        let changed = changed.filter(|_| shared != Shared::Nothing);
                        Payload::Minimal { changed, partial: true, draft: Some(draft) }
                    }
                }
            }
        };
    }

    /// What it says stays, and is not drawn again: it is not the payload of the
    /// rule that speaks now.
    pub(super) fn freeze(&mut self) {
        *self = match mem::take(self) {
            Payload::Minimal { changed, partial, .. } => {
                Payload::Minimal { changed, partial, draft: None }
            }
            Payload::Own(text) | Payload::Drawn { text, .. } => Payload::Own(text),
        };
    }

    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Payload::Minimal { changed, draft, .. } => {
                changed.as_ref().map_or(0, Changed::heap_bytes)
                    + draft.as_ref().map_or(0, |draft| draft.heap_bytes())
            }
            Payload::Own(text) => text.len(),
            Payload::Drawn { text, draft } => text.len() + draft.heap_bytes(),
        }
    }
}

/// What an earlier payload leaves to the one that absorbs it.
struct Earlier {
    changed: Option<Changed>,
    draft: Option<Box<Draft>>,
}

impl Draft {
    fn absorb(&mut self, earlier: Earlier, shared: Shared) {
        if shared == Shared::Nothing {
            return;
        }
        self.changed = Changed::union(earlier.changed, self.changed.take());
        let (Shared::Row { gapless }, Some(earlier)) = (shared, earlier.draft) else { return };
        // A long value that the later change left as it was.
        if gapless && let Some(last) = Batch::carry(&earlier.last, &self.last) {
            self.last = Arc::new(last);
        }
        self.first = earlier.first;
    }

    fn heap_bytes(&self) -> usize {
        let last = if Arc::ptr_eq(&self.first, &self.last) { 0 } else { self.last.heap_bytes() };
        let changed = self.changed.as_ref().map_or(0, Changed::heap_bytes);
        let parents = self.parents.iter().flatten().map(Parent::heap_bytes).sum::<usize>();
        size_of::<Draft>() + self.first.heap_bytes() + last + changed + parents
    }
}

impl Changed {
    /// So that the minimal payload of the widest table fits, if its id does.
    const MAX_BYTES: usize = 4096;

    /// `columns` are indexes, rising. `None` if they are too many to be told.
    pub fn new(relation: &Arc<Relation>, columns: &[u16]) -> Option<Changed> {
        let names = columns.iter().map(|column| &relation.columns[usize::from(*column)].name);
        // Twice, since the payload is a string of the request.
        let bytes: usize = names.map(|name| 2 * escaped_len(name) + 1).sum();
        (bytes <= Changed::MAX_BYTES)
            .then(|| Changed { relation: relation.clone(), columns: columns.into() })
    }

    /// `None` if it is not known of both, or if the table was described anew in
    /// between.
    fn union(earlier: Option<Changed>, later: Option<Changed>) -> Option<Changed> {
        let (earlier, later) = (earlier?, later?);
        if !Arc::ptr_eq(&earlier.relation, &later.relation) {
            return None;
        }
        if later.columns.iter().all(|column| earlier.columns.binary_search(column).is_ok()) {
            return Some(earlier);
        }
        let mut columns = [earlier.columns, later.columns].concat();
        columns.sort_unstable();
        columns.dedup();
        Changed::new(&later.relation, &columns)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| &*self.relation.columns[usize::from(*column)].name)
    }

    fn heap_bytes(&self) -> usize {
        size_of_val(&*self.columns)
    }
}

/// Whether a minimal payload with that entity and id may be larger than `limit`,
/// however it is sent.
pub fn minimal_may_exceed(limit: usize, entity: &str, id: &str) -> bool {
    /// Of everything else in it.
    const REST: usize = 320;
    /// What a character may become: in a string of a string 7, and encrypted
    /// four thirds of 6.
    const ESCAPED: usize = 8;
    (entity.len() + id.len()) * ESCAPED + Changed::MAX_BYTES + REST > limit
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
