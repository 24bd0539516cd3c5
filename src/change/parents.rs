//! Rows that rules look up in other tables, by the text of a key.

use std::collections::{HashMap, HashSet};
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
    /// Those of `columns`, by index, that decide more than what a payload says: who
    /// is told, or whether. If there are any, the table is published, so that a
    /// change of it is known.
    pub deciding: Vec<usize>,
    /// How long a row is used that no change stream keeps right.
    pub ttl: Duration,
}

impl Lookup {
    pub fn decides(&self) -> bool {
        !self.deciding.is_empty()
    }
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

impl Parent {
    /// What it costs to keep, in bytes, near enough.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Parent::Row(row) => {
                let texts = row.values.iter().filter_map(|(_, text)| text.as_ref());
                size_of_val(&*row.values) + texts.map(|text| text.len()).sum::<usize>()
            }
            Parent::Absent | Parent::Unknown => 0,
        }
    }
}

/// A parent's columns in the order of [`Lookup::columns`]: each one's kind, and
/// its text as the change stream has it, or NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRow {
    pub values: Box<[ParentValue]>,
}

/// `None` is NULL.
pub type ParentValue = (Kind, Option<Box<[u8]>>);

/// All parents that are known while a batch is routed: those that are kept from
/// batch to batch, and what holds for this one alone, which hides the former.
///
/// What is kept is bounded. It comes in two generations, of which the older goes
/// when the younger is full, and only between two batches: what a batch has
/// asked for stays until it is routed.
#[derive(Debug, Default)]
pub struct Parents {
    batch: HashMap<ParentKey, Parent>,
    moved: HashSet<ParentKey>,
    /// More than are remembered, so that any may have.
    have_all_moved: bool,
    young: Generation,
    old: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    known: HashMap<ParentKey, Parent>,
    bytes: usize,
}

impl Generation {
    const MAX_PARENTS: usize = 50_000;
    const MAX_BYTES: usize = 16 << 20;

    fn is_full(&self) -> bool {
        self.known.len() >= Generation::MAX_PARENTS || self.bytes >= Generation::MAX_BYTES
    }

    fn put(&mut self, key: ParentKey, parent: Parent) {
        self.forget(&key);
        self.bytes += heap_bytes(&key, &parent);
        self.known.insert(key, parent);
    }

    fn forget(&mut self, key: &ParentKey) {
        if let Some((key, parent)) = self.known.remove_entry(key) {
            self.bytes -= heap_bytes(&key, &parent);
        }
    }

    fn retain(&mut self, is_kept: impl Fn(&ParentKey, &Parent) -> bool) {
        let bytes = &mut self.bytes;
        self.known.retain(|key, parent| {
            let is_kept = is_kept(key, parent);
            if !is_kept {
                *bytes -= heap_bytes(key, parent);
            }
            is_kept
        });
    }
}

fn heap_bytes(key: &ParentKey, parent: &Parent) -> usize {
    size_of::<(ParentKey, Parent)>() + key.key.len() + parent.heap_bytes()
}

impl Parents {
    /// Of one transaction, which may go on for many batches.
    const MAX_MOVED: usize = 10_000;

    /// `None` if it must be read first.
    pub fn get(&self, key: &ParentKey) -> Option<&Parent> {
        self.batch.get(key).or_else(|| self.kept(key))
    }

    /// What is kept of it, whatever holds for this batch.
    pub fn kept(&self, key: &ParentKey) -> Option<&Parent> {
        self.young.known.get(key).or_else(|| self.old.known.get(key))
    }

    /// Whether it decides otherwise than it did before this batch, or before the
    /// transaction that the batch goes on with: who was told of its children then
    /// is not known.
    pub fn has_moved(&self, key: &ParentKey) -> bool {
        self.have_all_moved || self.moved.contains(key)
    }

    /// Until [`settle`](Parents::settle).
    pub fn put_moved(&mut self, key: ParentKey) {
        if self.moved.len() < Parents::MAX_MOVED {
            self.moved.insert(key);
        } else {
            self.have_all_moved = true;
        }
    }

    /// Nothing has moved.
    pub fn settle(&mut self) {
        self.moved = HashSet::new();
        self.have_all_moved = false;
    }

    /// Has it for this batch alone.
    pub fn put(&mut self, key: ParentKey, parent: Parent) {
        self.batch.insert(key, parent);
    }

    /// Takes back what holds for this batch alone.
    pub fn take_back(&mut self, key: &ParentKey) -> Option<Parent> {
        self.batch.remove(key)
    }

    /// Has it for this batch, unless something else holds for that, and for
    /// those after it.
    pub fn keep(&mut self, key: ParentKey, parent: Parent) {
        self.old.forget(&key);
        self.young.put(key, parent);
    }

    /// Keeps it no longer.
    pub fn forget(&mut self, key: &ParentKey) {
        self.young.forget(key);
        self.old.forget(key);
    }

    /// Keeps no longer what `is_kept` does not want.
    pub fn retain(&mut self, is_kept: impl Fn(&ParentKey, &Parent) -> bool) {
        self.young.retain(&is_kept);
        self.old.retain(&is_kept);
    }

    /// Ends what holds for this batch alone, and drops the older generation once
    /// the younger is full.
    pub fn next_batch(&mut self) {
        self.batch.clear();
        if self.young.is_full() {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str) -> ParentKey {
        ParentKey { lookup: LookupId(0), key: key.into() }
    }

    fn row(text: &[u8]) -> Parent {
        Parent::Row(Arc::new(ParentRow { values: [(Kind::Text, Some(text.into()))].into() }))
    }

    #[test]
    fn what_holds_for_one_batch_hides_what_is_kept_and_ends_with_it() {
        let mut parents = Parents::default();
        parents.put(key("1"), Parent::Unknown);
        parents.keep(key("1"), Parent::Absent);
        assert_eq!(parents.get(&key("1")), Some(&Parent::Unknown));
        parents.next_batch();
        assert_eq!(parents.get(&key("1")), Some(&Parent::Absent));
        parents.forget(&key("1"));
        assert_eq!(parents.get(&key("1")), None);
    }

    #[test]
    fn a_batch_keeps_all_that_it_asked_for_however_much_that_is() {
        let mut parents = Parents::default();
        let many = || (0..3 * Generation::MAX_PARENTS).map(|n| key(&n.to_string()));
        many().for_each(|key| parents.keep(key, Parent::Absent));
        assert!(many().all(|key| parents.get(&key).is_some()));
    }

    #[test]
    fn of_more_than_are_remembered_any_may_have_moved() {
        let mut parents = Parents::default();
        for n in 0..3 * Parents::MAX_MOVED {
            assert_eq!(parents.has_moved(&key("other")), n > Parents::MAX_MOVED);
            parents.put_moved(key(&n.to_string()));
        }
        assert_eq!(parents.moved.len(), Parents::MAX_MOVED);
        parents.settle();
        assert!(!parents.has_moved(&key("0")) && !parents.has_moved(&key("other")));
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_in_bytes() {
        let mut parents = Parents::default();
        let mebibyte = vec![b'x'; 1 << 20];
        for n in 0..100 {
            parents.keep(key(&n.to_string()), row(&mebibyte));
            parents.next_batch();
        }
        let kept = parents.young.bytes + parents.old.bytes;
        assert!(kept <= 2 * Generation::MAX_BYTES + (2 << 20), "{kept} bytes");
        assert_eq!(parents.get(&key("0")), None);
        assert_eq!(parents.get(&key("99")), Some(&row(&mebibyte)));
        for n in 0..3 * Generation::MAX_PARENTS {
            parents.keep(key(&n.to_string()), Parent::Absent);
            parents.next_batch();
        }
        let count = parents.young.known.len() + parents.old.known.len();
        assert!(count <= 2 * Generation::MAX_PARENTS, "{count} parents");
    }

    #[test]
    fn replacing_and_dropping_give_back_what_was_counted() {
        let mut parents = Parents::default();
        for n in 0..10 {
            parents.keep(key("1"), row(&[b'x'; 100]));
            parents.keep(key(&n.to_string()), Parent::Absent);
        }
        parents.retain(|_, parent| *parent != Parent::Absent);
        parents.forget(&key("1"));
        assert_eq!((parents.young.bytes, parents.old.bytes), (0, 0));
    }
}
