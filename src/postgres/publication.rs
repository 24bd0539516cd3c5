//! The publication: which tables' changes the server sends.

use std::collections::BTreeSet;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use crate::change::TableName;

use super::{PublicationName, SlotName};

/// A publication and what it publishes.
/// <https://www.postgresql.org/docs/current/sql-createpublication.html>
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    pub owner: Box<str>,
    /// `FOR ALL TABLES`.
    pub all_tables: bool,
    /// `FOR TABLES IN SCHEMA`, from Postgres 15.
    pub schemas: Vec<Box<str>>,
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
    pub truncate: bool,
    /// `publish_via_partition_root`.
    pub via_root: bool,
    /// `publish_generated_columns = stored`, from Postgres 18.
    pub generated_columns: bool,
    /// By schema and name.
    pub tables: Vec<PublishedTable>,
    pub age: Age,
    /// Names of the publication itself and of each table and schema in it: one
    /// that was altered, or taken out and put back, has another name.
    pub parts: BTreeSet<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedTable {
    pub table: TableName,
    pub oid: u32,
    /// Named by the publication itself, not by way of its schema or its root.
    pub listed: bool,
    /// Changes carry this name. Not so for a partitioned table whose partitions
    /// are published under their own names.
    pub published: bool,
    /// The columns that are sent, where that is narrowed down; from Postgres 15.
    pub columns: Option<Vec<Box<str>>>,
    /// Rows that are sent, from Postgres 15.
    pub row_filter: Option<Box<str>>,
}

/// How old the publication is, next to the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// There was no slot to compare it with.
    NoSlot,
    /// It was there, as it is, before everything that the slot still has to send.
    OlderThanSlot,
    /// It was made or altered after the oldest transaction whose catalog the
    /// slot keeps. Perhaps the slot has changes from before it was made.
    PerhapsNewer,
}

impl Publication {
    /// The table under whose name changes arrive, if it is published.
    pub fn published(&self, table: &TableName) -> Option<&PublishedTable> {
        self.tables.iter().find(|published| published.published && published.table == *table)
    }
}

/// The publication of that name, if there is one; with its age against `slot`.
///
/// The server looks a publication up as it was when the change was made. A slot
/// that still has changes from before the publication fails on them for ever
/// (to Postgres 17), or passes over them in silence (from 18). What is compared
/// is the transaction that last wrote the publication's row (`xmin`) with the
/// slot's `catalog_xmin`, both 32-bit and compared on their circle, as the
/// server does:
///
/// - `xmin` before `catalog_xmin` is proof: every transaction before
///   `catalog_xmin` had ended where the slot begins.
/// - Otherwise it is a doubt, no proof. `catalog_xmin` lags behind the slot's
///   position (it moves with checkpoints and running-transactions records, and
///   a new slot starts from the oldest one of all logical slots), and `ALTER
///   PUBLICATION … SET (…)`, `OWNER TO` and `RENAME` write the row again,
///   though `SET TABLE` does not. Nothing in the catalog tells these apart, so
///   a doubt must never keep a stream from starting: once it runs, it moves
///   `catalog_xmin` and the doubt goes by itself. Proof of the opposite comes
///   from the stream: the error `publication "…" does not exist`, or the notice
///   `skipped loading publication "…"`.
/// - A publication untouched for 2^31 transactions compares as newer. That too
///   is only a doubt.
pub async fn read(
    client: &Client,
    name: &PublicationName,
    slot: &SlotName,
) -> Result<Option<Publication>, Error> {
    let Some(row) = client
        .query_typed_opt(PUBLICATION, &[(&name.as_str(), Type::TEXT), (&slot.as_str(), Type::TEXT)])
        .await?
    else {
        return Ok(None);
    };
    let tables = client.query_typed(TABLES, &[(&name.as_str(), Type::TEXT)]).await?;
    Ok(Some(Publication {
        owner: row.try_get::<_, String>("owner")?.into(),
        all_tables: row.try_get("puballtables")?,
        schemas: boxed(row.try_get("schemas")?),
        insert: row.try_get("pubinsert")?,
        update: row.try_get("pubupdate")?,
        delete: row.try_get("pubdelete")?,
        truncate: row.try_get("pubtruncate")?,
        via_root: row.try_get("pubviaroot")?,
        generated_columns: row.try_get("generated_columns")?,
        tables: tables.iter().map(published_table).collect::<Result<_, Error>>()?,
        age: match (row.try_get("xmin")?, row.try_get("catalog_xmin")?) {
            (Some(xmin), Some(catalog_xmin)) if precedes(xmin, catalog_xmin) => Age::OlderThanSlot,
            (Some(_), Some(_)) => Age::PerhapsNewer,
            _ => Age::NoSlot,
        },
        parts: boxed(row.try_get("parts")?).into_iter().collect(),
    }))
}

/// Whether a 32-bit transaction id lies before another on their circle. The
/// ids below 3 (bootstrap, frozen) lie before all others.
/// <https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-WRAPAROUND>
fn precedes(xid: i64, other: i64) -> bool {
    const FIRST_NORMAL: i64 = 3;
    if xid < FIRST_NORMAL || other < FIRST_NORMAL {
        return xid < other;
    }
    // Truncation is the point: the difference on the circle, with its sign.
    (xid.wrapping_sub(other) as i32) < 0
}

fn published_table(row: &tokio_postgres::Row) -> Result<PublishedTable, Error> {
    Ok(PublishedTable {
        table: TableName::new(
            row.try_get::<_, String>("schema")?,
            row.try_get::<_, String>("name")?,
        ),
        oid: row.try_get("oid")?,
        listed: row.try_get("listed")?,
        published: row.try_get("published")?,
        columns: row.try_get::<_, Option<Vec<String>>>("columns")?.map(boxed),
        row_filter: row.try_get::<_, Option<String>>("row_filter")?.map(Box::from),
    })
}

fn boxed(texts: Vec<String>) -> Vec<Box<str>> {
    texts.into_iter().map(String::into_boxed_str).collect()
}

/// Columns that only newer servers have are taken by way of JSON, which gives
/// NULL for an unknown key. Schemas come by way of `pg_depend`, since
/// `pg_publication_namespace` is not there before Postgres 15.
const PUBLICATION: &str = "
SELECT pg_get_userbyid(p.pubowner)::text AS owner, p.puballtables,
       p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot,
       coalesce(to_jsonb(p) ->> 'pubgencols' = 's', false) AS generated_columns,
       ARRAY(
           SELECT n.nspname::text
           FROM pg_depend d
           JOIN pg_depend s ON s.classid = d.classid AND s.objid = d.objid
           JOIN pg_namespace n ON s.refclassid = 'pg_namespace'::regclass AND s.refobjid = n.oid
           WHERE d.refclassid = 'pg_publication'::regclass AND d.refobjid = p.oid
           ORDER BY 1
       ) AS schemas,
       p.xmin::text::bigint AS xmin,
       ARRAY(
           SELECT p.oid::text || '/' || p.xmin::text
           UNION ALL
           SELECT d.objid::text FROM pg_depend d
           WHERE d.refclassid = 'pg_publication'::regclass AND d.refobjid = p.oid
       ) AS parts,
       (SELECT s.catalog_xmin::text::bigint FROM pg_replication_slots s
        WHERE s.slot_name::text = $2) AS catalog_xmin
FROM pg_publication p
WHERE p.pubname::text = $1
";

const TABLES: &str = "
WITH p AS (
    SELECT oid FROM pg_publication WHERE pubname::text = $1
), t AS MATERIALIZED (
    SELECT schemaname, tablename, to_jsonb(v) AS v
    FROM pg_publication_tables v WHERE pubname::text = $1
), r AS (
    SELECT r.prrelid, to_jsonb(r) -> 'prattrs' <> 'null'::jsonb AS narrowed
    FROM pg_publication_rel r JOIN p ON r.prpubid = p.oid
)
SELECT n.nspname::text AS schema, c.relname::text AS name, c.oid,
       r.prrelid IS NOT NULL AS listed,
       t.tablename IS NOT NULL AS published,
       CASE WHEN r.narrowed
           THEN ARRAY(SELECT jsonb_array_elements_text(t.v -> 'attnames')) END AS columns,
       t.v ->> 'rowfilter' AS row_filter
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN r ON r.prrelid = c.oid
LEFT JOIN t ON t.schemaname = n.nspname AND t.tablename = c.relname
WHERE r.prrelid IS NOT NULL OR t.tablename IS NOT NULL
ORDER BY 1, 2
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_compared_on_their_circle() {
        assert!(precedes(700, 701));
        assert!(!precedes(701, 701));
        assert!(!precedes(702, 701));
        assert!(precedes(4_294_967_290, 5), "over the wrap-around");
        assert!(!precedes(5, 4_294_967_290));
        assert!(precedes(2, 4_000_000_000), "a frozen row is older than everything");
        assert!(!precedes(4_000_000_000, 2));
    }
}
