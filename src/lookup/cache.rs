//! What is known of parents, and how the changes themselves keep it right. Pure:
//! time is told.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::MAX_ROW_BYTES;
use super::key::KeyType;
use super::table::{Key, Table, Which};
use crate::change::{
    Batch, Change, Item, LookupId, Operation, Parent, ParentKey, Parents, Relation,
};

#[derive(Debug)]
pub(super) struct Cache {
    pub(super) parents: Parents,
    /// By [`LookupId`].
    tables: Vec<Table>,
    /// By [`LookupId`]: what no change stream keeps right, oldest first.
    fetched: Vec<VecDeque<(Instant, ParentKey)>>,
    /// By [`LookupId`]: whether a key may be kept that there is no row for.
    has_absent: Vec<bool>,
    deleted: Deleted,
    /// It may go on in the next batch.
    last_xid: Option<u32>,
}

/// Parents that the last transaction deleted, as they were: it may go on in the
/// next batch, and delete their children there.
#[derive(Debug, Default)]
struct Deleted {
    xid: u32,
    rows: HashMap<ParentKey, Parent>,
    bytes: usize,
}

/// Of one transaction, from batch to batch. A child of any beyond is told of by
/// a resync.
const MAX_DELETED: usize = 10_000;
const MAX_DELETED_BYTES: usize = 8 << 20;
/// Of one lookup. What was fetched before these is read again.
const MAX_FETCHED: usize = 50_000;

/// What the server says to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// With the key as the server writes it.
    Found {
        key: Box<str>,
        parent: Parent,
    },
    /// There is no such row; and the key as the server writes it.
    NotThere {
        key: Box<str>,
    },
    /// The key is none of the column's type.
    Refused,
    /// There is such a row, and no room for it.
    TooLarge,
    Unknown,
}

impl Cache {
    pub(super) fn new(tables: Vec<Table>) -> Cache {
        let fetched = tables.iter().map(|_| VecDeque::new()).collect();
        let has_absent = vec![false; tables.len()];
        let (parents, deleted) = (Parents::default(), Deleted::default());
        Cache { parents, tables, fetched, has_absent, deleted, last_xid: None }
    }

    pub(super) fn table(&self, id: LookupId) -> &Table {
        &self.tables[id.0]
    }

    pub(super) fn set_key_type(&mut self, id: LookupId, key_type: KeyType) {
        self.tables[id.0].key_type = Some(key_type);
    }

    /// Begins a batch: what its changes do to parents holds for all of it. A
    /// parent that it deletes is known as it was, so that its children, which
    /// were deleted before or after it, are told to whom they belonged. Returns
    /// the lookups whose table is another one now.
    pub(super) fn observe(&mut self, batch: &Batch, now: Instant) -> Vec<LookupId> {
        if self.tables.is_empty() {
            return Vec::new();
        }
        self.parents.next_batch();
        self.expire(now);
        // Rows that are read come without the changes that keep these right.
        if batch.change().is_some_and(|change| change.operation == Operation::Read) {
            self.parents.retain(|_, _| false);
        }
        let xids = batch.xids();
        match xids.first() {
            Some(xid) if *xid == self.deleted.xid => {
                for (key, row) in &self.deleted.rows {
                    self.parents.put(key.clone(), row.clone());
                }
            }
            _ => self.deleted = Deleted::default(),
        }
        if xids.first() != self.last_xid.as_ref() {
            self.parents.settle();
        }
        self.last_xid = xids.last().copied();
        let mut described = Vec::new();
        for item in batch.items() {
            match item {
                Item::Change(change) => {
                    for id in self.on(change.relation) {
                        if self.describe(id, change.relation) {
                            described.push(id);
                        }
                        self.apply(id, &change);
                    }
                }
                Item::Truncate { relation, .. } => {
                    self.on(relation).into_iter().for_each(|id| self.forget_all(id));
                }
                Item::Missed { relation: Some(relation), .. } => {
                    self.on(relation).into_iter().for_each(|id| self.forget_all(id));
                }
                Item::Missed { relation: None, .. } => self.parents.retain(|_, _| false),
                Item::Broadcast { .. } | Item::Reached(_) => {}
            }
        }
        described
    }

    /// Takes what was read after the batch was observed, so that of no key a
    /// change has come since its query began: the next ones come with the next
    /// batch, and are applied to what is kept here.
    pub(super) fn take(&mut self, key: ParentKey, answer: Answer, now: Instant) {
        let Table { lookup, key_type, .. } = &self.tables[key.lookup.0];
        let decides = lookup.decides();
        match answer {
            Answer::Found { key: written, parent } if written == key.key => {
                self.keep(key, parent, now);
            }
            // Changes come under the other text.
            Answer::Found { parent, .. } => self.parents.put(key, parent),
            Answer::NotThere { key: written } => {
                let is_its_text = key_type.is_some_and(|key_type| key_type.is_its_text);
                let written = if is_its_text { written } else { key.key.clone() };
                let kept = ParentKey { lookup: key.lookup, key: written };
                // It was there when the change was made, or never: who was told
                // once by a resync is up to date with both.
                let is_news = decides && self.parents.kept(&kept) != Some(&Parent::Absent);
                self.keep(kept, Parent::Absent, now);
                let parent = if is_news { Parent::Unknown } else { Parent::Absent };
                self.parents.put(key, parent);
            }
            Answer::Refused => self.keep(key, Parent::Absent, now),
            Answer::TooLarge | Answer::Unknown => self.parents.put(key, Parent::Unknown),
        }
    }

    fn keep(&mut self, key: ParentKey, parent: Parent, now: Instant) {
        let lookup = &self.tables[key.lookup.0].lookup;
        if !lookup.decides() {
            let fetched = &mut self.fetched[key.lookup.0];
            fetched.push_back((now + lookup.ttl, key.clone()));
        }
        self.has_absent[key.lookup.0] |= parent == Parent::Absent;
        self.parents.keep(key, parent);
    }

    fn expire(&mut self, now: Instant) {
        for fetched in &mut self.fetched {
            while let Some((expires, key)) = fetched.front()
                && (*expires <= now || fetched.len() > MAX_FETCHED)
            {
                self.parents.forget(key);
                fetched.pop_front();
            }
        }
    }

    /// The lookups into this table.
    fn on(&self, relation: &Relation) -> Vec<LookupId> {
        let tables = self.tables.iter().enumerate();
        let on = tables.filter(|(_, table)| table.relation.oid == relation.oid);
        on.map(|(id, _)| LookupId(id)).collect()
    }

    fn describe(&mut self, id: LookupId, relation: &Arc<Relation>) -> bool {
        let is_new = self.tables[id.0].describe(relation);
        if is_new {
            self.forget_all(id);
        }
        is_new
    }

    fn forget_all(&mut self, id: LookupId) {
        self.parents.retain(|key, _| key.lookup != id);
    }

    fn apply(&mut self, id: LookupId, change: &Change<'_>) {
        let table = &self.tables[id.0];
        let (key, row) = (|which| table.key(change, which), |which| table.row(change, which));
        let xid = change.transaction.xid;
        match change.operation {
            Operation::Insert => {
                let (key, row) = (key(Which::New), row(Which::New));
                self.arrived(id, key, row);
            }
            Operation::Update => {
                let (before, after) = (key(Which::Old), key(Which::New));
                // What is right for a while only may miss that.
                let may_be_another = before != Key::Unknown || table.lookup.decides();
                if before != after && may_be_another {
                    let (was, is) = (row(Which::Old), row(Which::New));
                    self.left(id, before, was, xid);
                    self.arrived(id, after, is);
                } else {
                    if table.moves(change) {
                        self.moved(id, &after);
                    }
                    self.changed(id, after, change);
                }
            }
            Operation::Delete => {
                let (key, row) = (key(Which::Old), row(Which::Old));
                self.left(id, key, row, xid);
            }
            Operation::Read => {}
        }
    }

    /// A row that nobody has asked for is known for this batch: its children
    /// usually come with it.
    fn arrived(&mut self, id: LookupId, key: Key, row: Option<Parent>) {
        let is_its_text = self.tables[id.0].key_type.is_some_and(|key_type| key_type.is_its_text);
        if !is_its_text && std::mem::take(&mut self.has_absent[id.0]) {
            // It may be what was looked for in vain by another text.
            self.parents.retain(|key, parent| key.lookup != id || *parent != Parent::Absent);
        }
        let Some(key) = self.known(id, key) else { return };
        let held = self.parents.take_back(&key);
        let before = self.deleted.rows.remove(&key).or(held);
        if before.is_some_and(|before| self.tables[id.0].decides_otherwise(&before, row.as_ref())) {
            self.parents.put_moved(key.clone());
        }
        self.is_now(key, row);
    }

    fn moved(&mut self, id: LookupId, key: &Key) {
        if let Key::Known(key) = key {
            self.parents.put_moved(ParentKey { lookup: id, key: key.clone() });
        }
    }

    fn changed(&mut self, id: LookupId, key: Key, change: &Change<'_>) {
        let Some(key) = self.known(id, key) else { return };
        if self.parents.get(&key).is_some() {
            let row = self.tables[id.0].row(change, Which::New);
            self.is_now(key, row);
        }
    }

    fn is_now(&mut self, key: ParentKey, row: Option<Parent>) {
        self.parents.take_back(&key);
        let is_kept = self.parents.kept(&key).is_some();
        match row {
            Some(row) if is_kept && row.heap_bytes() <= MAX_ROW_BYTES => {
                self.parents.keep(key, row);
            }
            // What is too large holds while its change is in memory all the same.
            Some(row) => {
                self.parents.forget(&key);
                self.parents.put(key, row);
            }
            None => self.parents.forget(&key),
        }
    }

    /// Where its change does not tell what the row was, what is known of it does.
    fn left(&mut self, id: LookupId, key: Key, row: Option<Parent>, xid: u32) {
        let Some(key) = self.known(id, key) else { return };
        let row = row.or_else(|| self.parents.get(&key).cloned());
        if self.parents.kept(&key).is_some() {
            self.has_absent[id.0] = true;
            self.parents.keep(key.clone(), Parent::Absent);
        }
        match row {
            Some(row @ Parent::Row(_)) => {
                // Else it is asked for again, and found to be gone.
                if !self.deleted.remember(xid, &key, &row) {
                    self.parents.forget(&key);
                }
                self.parents.put(key, row);
            }
            _ if self.tables[id.0].lookup.decides() => self.parents.put(key, Parent::Unknown),
            _ => self.parents.put(key, Parent::Absent),
        }
    }

    /// A change of a row that cannot be told from others may be one of any.
    fn known(&mut self, id: LookupId, key: Key) -> Option<ParentKey> {
        match key {
            Key::Known(key) => return Some(ParentKey { lookup: id, key }),
            Key::Unknown if self.tables[id.0].lookup.decides() => self.forget_all(id),
            Key::Unknown | Key::None => {}
        }
        None
    }
}

impl Deleted {
    /// Whether there was room for it.
    fn remember(&mut self, xid: u32, key: &ParentKey, row: &Parent) -> bool {
        if self.xid != xid {
            *self = Deleted { xid, ..Deleted::default() };
        }
        let has_room = self.rows.len() < MAX_DELETED && self.bytes < MAX_DELETED_BYTES;
        if has_room {
            self.bytes += row.heap_bytes();
            self.rows.insert(key.clone(), row.clone());
        }
        has_room
    }
}

#[cfg(test)]
mod tests;
