//! What the application's migrations cannot do while its tables are published.

use super::report::Check;
use super::topic::{Looked, named};
use crate::pipeline::needs_of;
use crate::postgres::need::{holders, wanted};

const NAME: &str = "migrations";

/// Pure: of what was looked at.
pub(super) fn checks(looked: Looked<'_>) -> Vec<Check> {
    let Looked { config, rules, judged } = looked;
    let snapshot = &judged.snapshot;
    let Some(publication) = &snapshot.publication else { return Vec::new() };
    let needs = needs_of(&rules.tables(&judged.relations));
    let wanted = wanted(&snapshot.tables, &needs);
    let mut indexes = Vec::new();
    let mut columns = Vec::new();
    for one in &wanted {
        let Some(published) = publication.published(&one.table.relation.table) else { continue };
        for holder in holders(&snapshot.tables, one.table) {
            let table = &holder.relation.table;
            indexes.extend(holder.identity_index.as_ref().map(|it| format!("{it} of {table}")));
        }
        if let Some(listed) = &published.columns {
            columns.push(format!("{} of {}", listed.join(", "), one.table.relation.table));
        }
    }
    let mut checks = Vec::new();
    if !indexes.is_empty() {
        checks.push(Check::holds(
            NAME,
            format!(
                "all work but one kind: do not drop {} before there is another; Postgres would \
                 refuse the application's UPDATE and DELETE",
                named(&indexes)
            ),
        ));
    }
    if !columns.is_empty() {
        checks.push(Check::advice(
            NAME,
            format!(
                "publication {} lists columns: a migration cannot drop them or change their type, \
                 and DROP COLUMN … CASCADE takes the table out of it: {}",
                config.database.publication,
                named(&columns)
            ),
            "publish_columns = \"all\" under [database], then rowcast setup".to_owned(),
        ));
    }
    checks
}
