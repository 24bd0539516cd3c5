use std::collections::HashMap;
use std::sync::Arc;

use super::Rules;
use super::bound::BoundRule;
use crate::change::{Change, Relation};
use crate::notification::Notification;

/// The rules at work on one session's relations.
#[derive(Debug)]
pub struct Router {
    rules: Arc<Rules>,
    /// By OID; a relation that was described anew is bound anew.
    tables: HashMap<u32, Table>,
    scratch: Scratch,
    pub counts: Counts,
}

#[derive(Debug)]
struct Table {
    relation: Arc<Relation>,
    rules: Vec<BoundRule>,
}

/// Buffers that are kept from change to change.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub id: String,
    pub text: String,
    pub data: String,
}

/// What a router left out or cut short, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Channels that a NULL left out.
    pub null_channels: u64,
    /// Payloads sent minimal because their own was too large or could not be
    /// made.
    pub partial: u64,
}

impl Router {
    pub fn new(rules: Arc<Rules>) -> Router {
        Router {
            rules,
            tables: HashMap::new(),
            scratch: Scratch::default(),
            counts: Counts::default(),
        }
    }

    /// Appends what the rules say about the change, in the rules' order.
    pub fn route(&mut self, change: &Change<'_>, out: &mut Vec<Notification>) {
        let Router { rules, tables, scratch, counts } = self;
        let relation = change.relation;
        let table = match tables.get_mut(&relation.oid) {
            Some(table) if Arc::ptr_eq(&table.relation, relation) => table,
            _ => {
                let table = Table { relation: relation.clone(), rules: rules.bind(relation) };
                tables.entry(relation.oid).insert_entry(table).into_mut()
            }
        };
        for rule in &table.rules {
            rule.announce(change, &rules.options, scratch, counts, out);
        }
    }
}

impl Rules {
    fn bind(&self, relation: &Relation) -> Vec<BoundRule> {
        let rules = self.rules.iter().filter(|rule| rule.applies(relation));
        rules.map(|rule| BoundRule::new(rule, relation)).collect()
    }
}
