//! What rules need of a table: which columns, and which of them in old rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::lookup::RuleLookup;
use super::rule::Rule;
use super::view::Scope;
use super::{Rules, SoftDelete};
use crate::change::Relation;
use crate::notification::Action;

/// What the rules need of one table: for its publication and its identity.
#[derive(Debug)]
pub struct TableNeeds<'a> {
    pub relation: &'a Relation,
    /// The names of the rules that take it, or that look up in it what decides.
    pub rules: Vec<String>,
    /// Columns that rules name, by index, ascending; with those of the key.
    pub columns: Vec<usize>,
    /// Columns that old rows must carry, by index, ascending, each with the
    /// first rule that needs it.
    pub identity: Vec<(usize, String)>,
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
}

impl TableNeeds<'_> {
    /// Those of `identity` that old rows do not carry now.
    pub fn missing_identity(&self) -> impl Iterator<Item = &(usize, String)> {
        self.identity.iter().filter(|(column, _)| !self.relation.columns[*column].in_identity)
    }
}

impl Rules {
    /// Of all that may be owed a resync.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let broadcasts = self.broadcasts.iter().map(|broadcasts| &broadcasts.terms().rule);
        self.rules.iter().map(|rule| &rule.name).chain(broadcasts)
    }

    /// The rules that a name stands for: that of a preset stands for all that it
    /// made.
    pub fn named(&self, name: &str) -> Vec<Arc<str>> {
        let index = self.rules.iter().find(|rule| *rule.name == *name).map(|rule| rule.index);
        let of_index = self.rules.iter().filter(|rule| Some(rule.index) == index);
        let broadcasts = self.broadcasts.iter().map(|broadcasts| &broadcasts.terms().rule);
        let of_name = broadcasts.filter(|rule| ***rule == *name);
        of_index.map(|rule| &rule.name).chain(of_name).cloned().collect()
    }

    /// Each table that a rule takes, or looks up in what decides, in the order of
    /// `relations`.
    pub fn tables<'a>(&self, relations: &'a [Relation]) -> Vec<TableNeeds<'a>> {
        relations.iter().filter_map(|relation| self.needs(relation)).collect()
    }

    pub(super) fn needs<'a>(&self, relation: &'a Relation) -> Option<TableNeeds<'a>> {
        let rules = self.rules.iter().filter(|rule| rule.applies(relation));
        let mut rules = rules.map(|rule| rule.on(relation)).peekable();
        let mut deciding = self.lookups_of(relation).filter(|(_, it)| it.decides()).peekable();
        if rules.peek().is_none() && deciding.peek().is_none() {
            return None;
        }
        let mut columns: BTreeSet<usize> = relation.primary_key.iter().copied().collect();
        let mut identity: BTreeMap<usize, String> = BTreeMap::new();
        let (mut insert, mut update, mut delete) = (false, false, false);
        let mut names = Vec::new();
        for rule in rules {
            names.push(rule.name.to_string());
            columns.extend(rule.columns(relation));
            let changed = rule.changed.iter().flatten();
            columns.extend(changed.filter_map(|name| relation.column(name)));
            for (column, _) in rule.identity_columns(relation) {
                identity.entry(column).or_insert_with(|| rule.name.to_string());
            }
            insert |= rule.announces(Action::Created);
            update |= rule.needs_updates();
            delete |= rule.announces(Action::Deleted);
        }
        for (rule, lookup) in deciding {
            if !names.iter().any(|name| **name == *rule.name) {
                names.push(rule.name.to_string());
            }
            for column in lookup.identity_columns(rule, relation) {
                identity.entry(column).or_insert_with(|| rule.name.to_string());
            }
            (insert, update, delete) = (true, true, true);
        }
        // What `data` alone reads is kept right as well, since it is published.
        columns.extend(self.lookups_of(relation).flat_map(|(_, it)| it.columns_of(relation)));
        Some(TableNeeds {
            relation,
            rules: names,
            columns: columns.into_iter().collect(),
            identity: identity.into_iter().collect(),
            insert,
            update,
            delete,
        })
    }

    /// For each column of the relation, whether a rule needs its value. Of the
    /// others only whether it changed is asked.
    pub fn wanted(&self, relation: &Relation) -> Vec<bool> {
        let mut wanted = vec![false; relation.columns.len()];
        for rule in self.rules.iter().filter(|rule| rule.applies(relation)) {
            for column in rule.on(relation).columns(relation) {
                wanted[column] = true;
            }
        }
        for (_, lookup) in self.lookups_of(relation) {
            lookup.columns_of(relation).for_each(|column| wanted[column] = true);
        }
        for column in &relation.primary_key {
            wanted[*column] = true;
        }
        wanted
    }

    fn lookups_of(&self, relation: &Relation) -> impl Iterator<Item = (&Rule, &RuleLookup)> {
        let all = self.rules.iter().flat_map(|rule| rule.lookups.iter().map(move |it| (rule, it)));
        all.filter(|(_, lookup)| lookup.is_of(relation))
    }
}

impl Rule {
    /// Whether an UPDATE can be news to it. A rule on `created` alone asks for
    /// inserts only, so that it needs no replica identity.
    pub(super) fn needs_updates(&self) -> bool {
        self.on.iter().any(|action| *action != Action::Created)
            || (self.announces(Action::Created) && self.membership.is_some())
    }

    /// Columns whose values it reads, in whichever row.
    pub(super) fn columns(&self, relation: &Relation) -> BTreeSet<usize> {
        let mut columns = BTreeSet::new();
        for (_, reads) in self.reads() {
            columns.extend(reads.resolve(relation).into_iter().map(|(_, column)| column));
        }
        for lookup in &self.lookups {
            let reads = lookup.key.reads().resolve(relation);
            columns.extend(reads.into_iter().map(|(_, column)| column));
        }
        if self.id.is_none() {
            columns.extend(relation.primary_key.iter().copied());
        }
        columns.extend(self.soft_delete_column(relation));
        columns
    }

    /// Whether it tells of rows that were there before.
    pub(super) fn reads_old(&self) -> bool {
        self.on.iter().any(|action| *action != Action::Created)
    }

    /// Columns that old rows must carry, each with the option that says so.
    pub(super) fn identity_columns(&self, relation: &Relation) -> BTreeMap<usize, &'static str> {
        let mut needed = BTreeMap::new();
        if !self.reads_old() {
            return needed;
        }
        let mut need = |column: usize, option| {
            let name = &*relation.columns[column].name;
            let is_fixed = self.fixed.iter().any(|fixed| fixed == name);
            if !is_fixed || self.announces(Action::Deleted) {
                needed.entry(column).or_insert(option);
            }
        };
        if self.id.is_none() {
            relation.primary_key.iter().for_each(|column| need(*column, "id"));
        }
        for (option, reads) in self.reads() {
            let of_both_rows = matches!(option, "id" | "channels");
            for (scope, column) in reads.resolve(relation) {
                // Which columns `old[name]` means, no one can tell before a row.
                let whole = reads.whole.contains(&scope);
                if (scope == Scope::Old && !whole) || (scope == Scope::Row && of_both_rows) {
                    need(column, option);
                }
            }
        }
        for lookup in self.lookups.iter().filter(|lookup| lookup.decides()) {
            for (_, column) in lookup.key.reads().resolve(relation) {
                need(column, "lookup");
            }
        }
        let asks_for_restored = self.on_is_explicit && self.announces(Action::Restored);
        if asks_for_restored && self.soft_delete != SoftDelete::Off {
            self.soft_delete_column(relation).into_iter().for_each(|column| need(column, "on"));
        }
        needed
    }
}
