use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tokio_postgres::{Client, Error as SqlError};

use super::{Error, Key};
use crate::change::{Kind, Relation, Timestamp};
use crate::postgres::catalog::{Role, Table, quote_table};
use crate::postgres::{Mode, quote_identifier, quote_literal, transaction};

/// How long a page, or counting the rows, may take: nobody's work in the database
/// waits for it, but a mistake should end.
pub(super) const SETTINGS: &str =
    "SET LOCAL statement_timeout = '60s'; SET LOCAL row_security = off";
pub(super) const SECONDS: u64 = 60;

/// Which rows of a table are read, and what of them.
#[derive(Clone, Debug)]
pub struct Query {
    from: String,
    /// By index, with those of the key.
    columns: Vec<usize>,
    /// What rows are ordered and sought by.
    order: Vec<String>,
    conditions: Vec<String>,
    role: Box<str>,
}

/// Rows that were written since then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    /// Where the application notes when it wrote the row.
    pub column: String,
    pub moment: Timestamp,
}

impl Query {
    /// `columns` has whether each column's value is needed. `condition` is SQL, and
    /// `role` who reads.
    ///
    /// # Errors
    /// If the table has no key, or no such column to tell the time by.
    pub fn new(
        table: &Table,
        columns: &[bool],
        since: Option<(&Since, &TimeZone)>,
        condition: Option<&str>,
        role: &str,
    ) -> Result<Query, Error> {
        let relation = &table.relation;
        let key = &relation.primary_key;
        if key.is_empty() {
            return Err(Error::NoKey { table: relation.table.clone() });
        }
        // Of the time too: whoever reads it must be allowed to.
        let time = since.and_then(|(since, _)| relation.column(&since.column));
        let is_read =
            |column: &usize| columns[*column] || key.contains(column) || Some(*column) == time;
        let order = key.iter().map(|column| {
            let name = quote_identifier(&relation.columns[*column].name);
            // Its own operators are not in pg_catalog, and no others are called.
            match table.outputs[*column].is_comparable {
                true => name,
                false => format!("({name}::text COLLATE \"C\")"),
            }
        });
        let since = since.map(|(since, zone)| condition_of(relation, since, zone)).transpose()?;
        let only = if matches!(table.role, Role::Partitioned { .. }) { "" } else { "ONLY " };
        Ok(Query {
            from: format!("{only}{}", quote_table(&relation.table)),
            columns: (0..relation.columns.len()).filter(is_read).collect(),
            order: order.collect(),
            conditions: since.into_iter().chain(condition.map(str::to_owned)).collect(),
            role: role.into(),
        })
    }

    /// How many rows there are after `after`.
    ///
    /// # Errors
    /// If they cannot be read, or not be counted in time.
    pub async fn count(
        &self,
        client: &Client,
        relation: &Relation,
        after: Option<&Key>,
    ) -> Result<u64, Error> {
        let sql = format!("SELECT count(*) FROM {}{}", self.from, self.filter(after));
        let counting = async {
            // That each is one condition: here nothing is open that it could close.
            for condition in &self.conditions {
                let sql = format!("SELECT CASE WHEN {condition}\n THEN 1 END FROM {}", self.from);
                client.prepare(&sql).await?;
            }
            // One command only: with several, no statement could be prepared.
            client.query_typed_one(&sql, &[]).await?.try_get::<_, i64>(0)
        };
        let count = transaction(client, Mode::ReadOnly, SETTINGS, counting).await;
        let count = count.map_err(|error| self.failed(relation, error))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    pub(super) fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// SQL of so many rows after `after`.
    pub(super) fn page(&self, relation: &Relation, after: Option<&Key>, rows: u32) -> String {
        let columns = self.names(relation).join(", ");
        let (from, filter, order) = (&self.from, self.filter(after), self.order.join(", "));
        format!("SELECT {columns} FROM {from}{filter} ORDER BY {order} LIMIT {rows}")
    }

    pub(super) fn failed(&self, relation: &Relation, error: SqlError) -> Error {
        let columns = self.names(relation);
        Error::of_query(&relation.table, &columns, &self.role, error)
    }

    fn names(&self, relation: &Relation) -> Vec<String> {
        let columns = self.columns.iter();
        columns.map(|column| quote_identifier(&relation.columns[*column].name)).collect()
    }

    fn filter(&self, after: Option<&Key>) -> String {
        let after = after.map(|key| {
            let values: Vec<String> = key.values().map(quote_literal).collect();
            format!("({}) > ({})", self.order.join(", "), values.join(", "))
        });
        // A comment at its end must not swallow the parenthesis.
        let conditions = self.conditions.iter().map(|sql| format!("({sql}\n)"));
        let all: Vec<String> = conditions.chain(after).collect();
        if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) }
    }
}

/// In the column's own terms, so that an index on it serves.
fn condition_of(relation: &Relation, since: &Since, zone: &TimeZone) -> Result<String, Error> {
    let column = relation.columns.iter().find(|column| *column.name == *since.column);
    let moment = jiff::Timestamp::from_microsecond(since.moment.unix_micros()).unwrap_or_default();
    let there: DateTime = zone.to_datetime(moment);
    let literal = match column.map(|column| column.kind) {
        Some(Kind::TimestampTz) => format!("'{moment}'"),
        Some(Kind::Timestamp) => format!("'{there}'"),
        Some(Kind::Date) => format!("'{}'", there.date()),
        _ => {
            let is_time = |kind| matches!(kind, Kind::TimestampTz | Kind::Timestamp | Kind::Date);
            let others = relation.columns.iter().filter(|column| is_time(column.kind));
            return Err(Error::NoSuchTime {
                table: relation.table.clone(),
                column: since.column.clone(),
                others: others.map(|column| column.name.to_string()).collect(),
            });
        }
    };
    Ok(format!("{} >= {literal}", quote_identifier(&since.column)))
}
