use std::collections::HashMap;
use std::sync::Arc;

use super::fold::{Net, folds, net};
use super::rules::{Rules, address};
use super::subject;
use crate::notification::{EventName, Notification, Terms};

/// The transaction that is being read, as far as it came.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// In the order of their last change. `None` where something was folded into
    /// a later one, or came to nothing.
    entries: Vec<Option<Entry>>,
    holes: usize,
    index: HashMap<Key, usize>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) notification: Notification,
    /// Of entity and subject.
    pub(super) hash: u64,
}

/// Terms by address, the hash of entity and subject, and which event, by name too
/// where row values name it.
type Key = (usize, u64, usize, Option<EventName>);

/// Room that is kept for the next transaction.
const KEPT: usize = 1024;
/// Holes that are not worth closing.
const HOLES: usize = 64;

impl Staged {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds the notification, or what it and those before come to.
    pub(super) fn add(&mut self, mut notification: Notification, rules: &mut Rules) {
        let hash = super::hash(&notification);
        if folds(&notification) {
            let key = key(&notification, hash);
            if let Some(earlier) = self.earlier(&key, &notification) {
                let net = net(earlier, &notification);
                if net != Net::Both {
                    let earlier = self.remove(&key, rules);
                    let Net::One(action) = net else { return };
                    notification.absorb(earlier, action);
                }
            }
            self.close_holes();
            self.index.insert(key, self.entries.len());
        }
        rules.stage(&notification);
        rules.keep(&notification);
        self.entries.push(Some(Entry { notification, hash }));
    }

    /// Removes those of the terms that may be told by a resync.
    pub(super) fn remove_all(&mut self, terms: &Arc<Terms>) -> Vec<Notification> {
        let is_of = |entry: &mut Entry| {
            let notification = &entry.notification;
            Arc::ptr_eq(&notification.terms, terms) && notification.refusal.is_none()
        };
        let removed = self.entries.iter_mut().filter_map(|entry| entry.take_if(is_of));
        let removed: Vec<Notification> = removed.map(|entry| entry.notification).collect();
        self.holes += removed.len();
        self.index.retain(|(address_of, ..), _| *address_of != address(terms));
        self.close_holes();
        removed
    }

    /// Takes all of it, in order.
    pub(super) fn take(&mut self) -> Vec<Option<Entry>> {
        match self.index.capacity() > 2 * KEPT {
            true => self.index = HashMap::new(),
            false => self.index.clear(),
        }
        self.holes = 0;
        std::mem::take(&mut self.entries)
    }

    /// The emptied room of what was taken, to be used again.
    pub(super) fn give_back(&mut self, entries: Vec<Option<Entry>>) {
        if entries.capacity() <= KEPT {
            self.entries = entries;
        }
    }

    fn earlier(&self, key: &Key, later: &Notification) -> Option<&Notification> {
        let earlier = &self.entries[*self.index.get(key)?].as_ref()?.notification;
        (subject(earlier) == subject(later)).then_some(earlier)
    }

    fn remove(&mut self, key: &Key, rules: &mut Rules) -> Notification {
        let index = self.index.remove(key).expect("it was found there");
        let is_last = index + 1 == self.entries.len();
        let entry = if is_last { self.entries.pop() } else { Some(self.entries[index].take()) };
        self.holes += usize::from(!is_last);
        let removed = entry.flatten().expect("the index has no holes").notification;
        rules.unstage(&removed);
        rules.free(&removed);
        removed
    }

    /// So that a row which is changed again and again takes no room for each.
    fn close_holes(&mut self) {
        if self.holes < HOLES.max(self.entries.len() / 2) {
            return;
        }
        self.entries.retain(Option::is_some);
        self.holes = 0;
        let mut index = std::mem::take(&mut self.index);
        index.clear();
        for (at, entry) in self.entries.iter().flatten().enumerate() {
            if folds(&entry.notification) {
                index.insert(key(&entry.notification, entry.hash), at);
            }
        }
        self.index = index;
    }
}

fn key(notification: &Notification, hash: u64) -> Key {
    let Notification { terms, action, event, event_index, .. } = notification;
    let is_constant = terms.event(*event_index, *action).is_some();
    (address(terms), hash, *event_index, (!is_constant).then(|| event.clone()))
}
