//! Lookups against the tables that they look into.

use std::collections::BTreeMap;

use super::{Check, column_instead_of, instead_of};
use crate::change::Relation;
use crate::route::Rules;
use crate::route::lookup::RuleLookup;
use crate::route::template::Part;

impl Check<'_> {
    /// What is wrong with its lookups apart from its own tables.
    pub(super) fn lookups(&mut self, relations: &[Relation], rules: &Rules) {
        let rule = self.rule;
        for lookup in &rule.lookups {
            let RuleLookup { name, table, .. } = lookup;
            if !lookup.is_read {
                let message = format!("nothing reads {name}");
                self.warn("lookup", message, Some(format!("remove [rule.lookup.{name}]")));
            }
            let Some(relation) = relations.iter().find(|relation| relation.table == *table) else {
                let message = format!("{name}: the database has no table {table}");
                self.error("lookup", message, instead_of(table, relations));
                continue;
            };
            for column in lookup.by.iter().chain(&lookup.columns) {
                if relation.column(column).is_none() {
                    let message = format!("{name}: {table} has no column {column}");
                    self.error("lookup", message, Some(column_instead_of(column, relation)));
                }
            }
            if lookup.by.is_none() && lookup.key_column(relation).is_none() {
                let message = format!(
                    "{name}: the primary key of {table} is not one column, so `by` must name a \
                     unique one"
                );
                self.error("lookup", message, Some("by = \"uuid\"".to_owned()));
            }
            let needed = lookup.identity_columns(rule, relation);
            let lacking: Vec<usize> =
                needed.into_iter().filter(|c| !relation.columns[*c].in_identity).collect();
            if lookup.decides() {
                self.identity_of(relation, BTreeMap::from([("lookup", lacking)]), rules);
            }
            self.parents_in_channels(lookup, relation);
        }
    }

    fn parents_in_channels(&mut self, lookup: &RuleLookup, relation: &Relation) {
        for part in self.rule.channels.iter().flat_map(|channel| &channel.template.parts) {
            let Part::Parent(parent) = part else { continue };
            let read = &self.rule.lookups[parent.lookup];
            let name = &read.columns[parent.column];
            if let Some(column) = relation.column(name).filter(|_| read.name == lookup.name) {
                let shown = format!("{}.{name}", lookup.name);
                self.channel_column(&shown, relation, relation.columns[column].kind);
            }
        }
    }

    /// A column of the rule's own table goes by its name already.
    pub(super) fn lookup_names(&mut self, relation: &Relation) {
        let rule = self.rule;
        for name in rule.lookups.iter().map(|lookup| &lookup.name) {
            if relation.column(name).is_some() {
                let message = format!("{name} is also a column of {}", relation.table);
                self.error("lookup", message, Some(format!("[rule.lookup.the_{name}]")));
            }
        }
    }
}
