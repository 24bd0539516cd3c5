//! What old rows must carry, and the SQL for it.

use std::collections::BTreeMap;

use super::Check;
use crate::change::{Relation, ReplicaIdentity, TableName};
use crate::notification::Action;
use crate::route::Rules;

impl Check<'_> {
    pub(super) fn identity(&mut self, relation: &Relation, rules: &Rules) {
        let mut missing: BTreeMap<&'static str, Vec<usize>> = BTreeMap::new();
        for (column, option) in self.rule.identity_columns(relation) {
            if !relation.columns[column].in_identity {
                missing.entry(option).or_default().push(column);
            }
        }
        if self.rule.needs_updates() || self.rule.announces(Action::Deleted) {
            self.identity_of(relation, missing, rules);
        }
    }

    /// `missing` are the columns that an option needs of old rows of a table that
    /// publishes updates or deletes, and that these do not carry.
    pub(super) fn identity_of(
        &mut self,
        relation: &Relation,
        missing: BTreeMap<&'static str, Vec<usize>>,
        rules: &Rules,
    ) {
        let Some(needs) = rules.needs(relation) else { return };
        let table = &relation.table;
        let all: Vec<usize> = needs.identity.iter().map(|(column, _)| *column).collect();
        let missing: Vec<_> = missing.iter().filter(|(_, columns)| !columns.is_empty()).collect();
        for (option, columns) in &missing {
            let names: Vec<&str> = columns.iter().map(|c| &*relation.columns[*c].name).collect();
            let message = format!(
                "needs the old value of {}, which an old row of {table} does not carry",
                names.join(", ")
            );
            self.error(option, message, Some(identity_sql(relation, &all)));
        }
        let has_identity = relation.columns.iter().any(|column| column.in_identity)
            || relation.identity == ReplicaIdentity::Full;
        if missing.is_empty() && !has_identity {
            let message = format!(
                "{table} has no replica identity: once it is published, Postgres refuses the \
                 application's own UPDATE and DELETE"
            );
            self.error("table", message, Some(identity_sql(relation, &all)));
        }
    }
}

/// The SQL that makes old rows carry `columns`.
pub(super) fn identity_sql(relation: &Relation, columns: &[usize]) -> String {
    let table = quoted(&relation.table);
    let key = &relation.primary_key;
    if !key.is_empty() && columns.iter().all(|column| key.contains(column)) {
        return format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT;");
    }
    let mut indexed = key.clone();
    indexed.extend(columns.iter().filter(|column| !key.contains(column)));
    let mut seen = Vec::new();
    indexed.retain(|column| {
        !seen.contains(column) && {
            seen.push(*column);
            true
        }
    });
    let any_nullable = indexed.iter().any(|column| relation.columns[*column].nullable);
    if key.is_empty() || any_nullable {
        return format!("ALTER TABLE {table} REPLICA IDENTITY FULL;");
    }
    let names: Vec<String> =
        indexed.iter().map(|column| quote(&relation.columns[*column].name)).collect();
    let index = quote(&format!("{}_rowcast_identity", relation.table.name));
    format!(
        "CREATE UNIQUE INDEX CONCURRENTLY {index} ON {table} ({});\n\
         ALTER TABLE {table} REPLICA IDENTITY USING INDEX {index};",
        names.join(", ")
    )
}

pub(super) fn quoted(table: &TableName) -> String {
    format!("{}.{}", quote(&table.schema), quote(&table.name))
}

/// For SQL that a person reads and runs; plain names stay plain.
fn quote(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}
