//! What lookups read of the database, and whether rowcast's role may.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use super::catalog::{Role, Table, quote_table};
use super::checks::{Finding, Kind};
use super::publication::Publication;
use super::quote_identifier;
use super::statement::Statement;

/// One table in which rows are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// OID of the table.
    pub oid: u32,
    /// The column that keys are looked for in, as an index into the relation's.
    pub by: usize,
    /// Those that are read.
    pub columns: Vec<usize>,
    /// Whether its rows decide who is told.
    pub decides: bool,
}

/// What a role may see of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub oid: u32,
    pub role: Box<str>,
    /// Of the schema.
    pub usage: bool,
    /// Whether row-level security applies to the role.
    pub hides_rows: bool,
    /// Columns that it may read.
    pub readable: Vec<String>,
    /// Columns of which no two rows have the same value.
    pub unique: Vec<String>,
}

impl Access {
    /// Asks nothing where nothing is looked up.
    pub async fn read(
        client: &Client,
        role: &str,
        readings: &[Reading],
    ) -> Result<Vec<Access>, Error> {
        if readings.is_empty() {
            return Ok(Vec::new());
        }
        let tables: Vec<u32> = readings.iter().map(|reading| reading.oid).collect();
        let rows =
            client.query_typed(ACCESS, &[(&role, Type::TEXT), (&tables, Type::OID_ARRAY)]).await?;
        rows.iter()
            .map(|row| {
                Ok(Access {
                    oid: row.try_get("oid")?,
                    role: role.into(),
                    usage: row.try_get("usage")?,
                    hides_rows: row.try_get("hides_rows")?,
                    readable: row.try_get("readable")?,
                    unique: row.try_get("unique")?,
                })
            })
            .collect()
    }
}

/// A role that does not exist yet may do nothing. Row-level security as the
/// server's `check_enable_rls` has it.
const ACCESS: &str = "
SELECT c.oid,
       coalesce(has_schema_privilege(r.oid, n.oid, 'USAGE'), false) AS usage,
       coalesce(c.relrowsecurity AND NOT r.rolsuper AND NOT r.rolbypassrls
           AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE')), false)
           AS hides_rows,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               AND has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT')) AS readable,
       ARRAY(SELECT a.attname::text FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
             WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1
               AND i.indpred IS NULL AND i.indexprs IS NULL) AS unique
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_roles r ON r.rolname = $1::text
WHERE c.oid = ANY($2)";

/// A reading with its table and what may be seen of that.
#[derive(Clone, Copy)]
struct Looked<'a> {
    table: &'a Table,
    reading: &'a Reading,
    access: &'a Access,
}

fn all<'a>(
    tables: &'a [Table],
    readings: &'a [Reading],
    access: &'a [Access],
) -> impl Iterator<Item = Looked<'a>> {
    readings.iter().filter_map(|reading| {
        let table = tables.iter().find(|table| table.relation.oid == reading.oid)?;
        let access = access.iter().find(|access| access.oid == reading.oid)?;
        Some(Looked { table, reading, access })
    })
}

/// What is wrong with them.
pub fn check(
    tables: &[Table],
    publication: Option<&Publication>,
    readings: &[Reading],
    access: &[Access],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for looked in all(tables, readings, access) {
        findings.extend(looked.not_unique());
        findings.extend(looked.hidden());
        findings.extend(looked.filtered(publication));
    }
    for (looked, grants) in grants_of(tables, readings, access) {
        findings.push(looked.not_readable(&grants));
    }
    findings
}

/// What the owner has to allow the role.
pub fn grants(tables: &[Table], readings: &[Reading], access: &[Access]) -> Vec<Statement> {
    grants_of(tables, readings, access).into_iter().flat_map(|(_, grants)| grants).collect()
}

/// By table: several lookups may read one.
fn grants_of<'a>(
    tables: &'a [Table],
    readings: &'a [Reading],
    access: &'a [Access],
) -> Vec<(Looked<'a>, Vec<Statement>)> {
    let mut done: Vec<u32> = Vec::new();
    let mut all_grants = Vec::new();
    for looked in all(tables, readings, access) {
        if done.contains(&looked.reading.oid) {
            continue;
        }
        done.push(looked.reading.oid);
        let of_table = readings.iter().filter(|reading| reading.oid == looked.reading.oid);
        let mut columns: Vec<usize> = of_table
            .flat_map(|reading| reading.columns.iter().chain([&reading.by]))
            .copied()
            .collect();
        columns.sort_unstable();
        columns.dedup();
        let grants = looked.grants(&columns);
        if !grants.is_empty() {
            all_grants.push((looked, grants));
        }
    }
    all_grants
}

impl Looked<'_> {
    fn name_of(&self, column: usize) -> &str {
        &self.table.relation.columns[column].name
    }

    fn grants(&self, columns: &[usize]) -> Vec<Statement> {
        let Access { role, usage, readable, .. } = self.access;
        let (name, role_name) = (&self.table.relation.table, quote_identifier(role));
        let mut grants = Vec::new();
        if !usage {
            grants.push(Statement::new(
                format!("role {role} may name what is in schema {}", name.schema),
                format!("GRANT USAGE ON SCHEMA {} TO {role_name}", quote_identifier(&name.schema)),
            ));
        }
        let is_readable = |column: &&usize| readable.iter().any(|it| it == self.name_of(**column));
        if !columns.iter().all(|column| is_readable(&column)) {
            let columns: Vec<String> =
                columns.iter().map(|column| quote_identifier(self.name_of(*column))).collect();
            grants.push(Statement::new(
                format!("role {role} may read what rules look up in {name}"),
                format!(
                    "GRANT SELECT ({}) ON {} TO {role_name}",
                    columns.join(", "),
                    quote_table(name)
                ),
            ));
        }
        grants
    }

    fn not_readable(&self, grants: &[Statement]) -> Finding {
        let sql: Vec<String> = grants.iter().map(|grant| format!("{};", grant.sql)).collect();
        Finding::error(
            Kind::LookupNotReadable,
            format!(
                "role {} may not read what rules look up in {}",
                self.access.role, self.table.relation.table
            ),
            format!("rowcast setup, or:\n{}", sql.join("\n")),
        )
    }

    fn not_unique(&self) -> Option<Finding> {
        let by = self.name_of(self.reading.by);
        if self.access.unique.iter().any(|column| column == by) {
            return None;
        }
        let name = &self.table.relation.table;
        // Postgres makes none so of a partitioned table.
        let concurrently = if self.table.role == Role::Plain { " CONCURRENTLY" } else { "" };
        Some(Finding::error(
            Kind::LookupNotUnique,
            format!(
                "rules look up {name} by {by}, of which no unique index says that it is the only \
                 one of a row"
            ),
            format!(
                "CREATE UNIQUE INDEX{concurrently} ON {} ({});\nor by = \"a unique column\" in the \
                 rule's lookup",
                quote_table(name),
                quote_identifier(by)
            ),
        ))
    }

    fn hidden(&self) -> Option<Finding> {
        let Access { role, hides_rows, .. } = self.access;
        hides_rows.then(|| {
            Finding::error(
                Kind::LookupHidden,
                format!(
                    "row-level security of {} applies to role {role}: rows that rules look up \
                     there could be hidden, and would be taken for missing",
                    self.table.relation.table
                ),
                format!(
                    "take the lookup out of the rules; or, if {role} is rowcast's own role and not \
                     the application's, whose policies would end: ALTER ROLE {} BYPASSRLS;",
                    quote_identifier(role)
                ),
            )
        })
    }

    fn filtered(&self, publication: Option<&Publication>) -> Option<Finding> {
        let name = &self.table.relation.table;
        let filter = publication?.published(name)?.row_filter.as_deref()?;
        self.reading.decides.then(|| {
            Finding::error(
                Kind::LookupFiltered,
                format!(
                    "the publication sends only rows of {name} with {filter}, and rules look up \
                     there who is told: of the others they would go on with old values"
                ),
                "rowcast setup takes the filter away",
            )
        })
    }
}
