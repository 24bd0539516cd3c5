//! The tables of the database, as its catalog has them.

use std::collections::{HashMap, HashSet};

use tokio_postgres::{Client, Error, Row};

use crate::change::{Column, Kind, Relation, ReplicaIdentity, TableName};

use super::outbox::settings::Settings;
use super::quote_identifier;

/// A table, with what only `setup` and the checks ask about it.
#[derive(Clone, Debug)]
pub struct Table {
    pub relation: Relation,
    pub owner: Box<str>,
    pub role: Role,
    /// False for `UNLOGGED`: its changes never reach the log.
    pub logged: bool,
    /// The index that old rows take their columns from; `None` if every column
    /// or none is taken.
    pub identity_index: Option<Box<str>>,
    pub generated: Generated,
    /// For each column of the relation: the most bytes that a value takes in an
    /// index. `None` if there is no bound, or no order to index by.
    pub index_bytes: Vec<Option<u32>>,
    /// Whether its rows come by a subscription of logical replication.
    pub subscribed: bool,
    /// For each column of the relation.
    pub outputs: Vec<Output>,
}

/// How a column's values become the text that pgoutput sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Whether `::text` is that text; it is not of `bool` or `char(n)`.
    pub is_cast: bool,
    /// Whether pg_catalog has an operator by which values are equal.
    pub is_comparable: bool,
    pub settings: Settings,
}

/// How a table stands to partitioning. Changes of a partition are published
/// under the name of its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Plain,
    /// A partitioned table, at the top or between.
    Partitioned {
        /// OID of the topmost table, if that is another one.
        root: Option<u32>,
    },
    /// A partition that holds rows.
    Leaf {
        root: u32,
    },
}

impl Role {
    /// OID of the table whose name the changes of this one carry, if that is
    /// another one.
    pub fn root(self) -> Option<u32> {
        match self {
            Role::Plain => None,
            Role::Partitioned { root } => root,
            Role::Leaf { root } => Some(root),
        }
    }

    pub fn holds_rows(self) -> bool {
        !matches!(self, Role::Partitioned { .. })
    }
}

/// Columns that Postgres computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generated {
    pub stored: bool,
    pub r#virtual: bool,
}

impl Table {
    /// Whether Postgres can identify the row that an update or delete hits. If
    /// not, and the table's updates are published, it refuses the update.
    pub fn has_identity(&self) -> bool {
        match self.relation.identity {
            ReplicaIdentity::Full => true,
            ReplicaIdentity::Nothing => false,
            ReplicaIdentity::Default | ReplicaIdentity::Index => {
                self.relation.columns.iter().any(|column| column.in_identity)
            }
        }
    }
}

/// `"schema"."table"`.
pub fn quote_table(table: &TableName) -> String {
    format!("{}.{}", quote_identifier(&table.schema), quote_identifier(&table.name))
}

/// The relations that rules may name: ordinary tables, partitioned tables, and
/// partitions. With `publish_via_partition_root`, a partition's changes carry
/// the name of its root, so rules that match both see each change once.
pub async fn relations(client: &Client) -> Result<Vec<Relation>, Error> {
    Ok(tables(client).await?.into_iter().map(|table| table.relation).collect())
}

/// Every permanent or unlogged table outside the system schemas, by schema and
/// name; not those of the outbox. Generated columns are left out: they are not published, and a rule
/// that named one would wait for a value that never comes.
///
/// A partitioned table's `in_identity` holds only where all its partitions
/// agree, since rows come from them and only the column flags from the root.
pub async fn tables(client: &Client) -> Result<Vec<Table>, Error> {
    let rows = client.query_typed(TABLES, &[]).await?;
    let oid = |row: &Row| row.try_get::<_, u32>("oid").ok();
    let mut tables = rows
        .chunk_by(|row, next| oid(row) == oid(next))
        .map(table)
        .collect::<Result<Vec<Table>, Error>>()?;
    agree_with_partitions(&mut tables);
    Ok(tables)
}

/// One row per column. An index counts as identity only as the server's
/// `RelationGetReplicaIndex` has it: valid and immediate, key columns without
/// the `INCLUDE`d ones.
const TABLES: &str = r#"
WITH RECURSIVE base_type(oid, base) AS (
    SELECT oid, oid FROM pg_type WHERE typtype <> 'd'
    UNION ALL
    SELECT d.oid, b.base FROM pg_type d JOIN base_type b ON d.typbasetype = b.oid
    WHERE d.typtype = 'd'
), key AS (
    SELECT i.indrelid, i.indexrelid, i.indisprimary, i.indisreplident,
           i.indisvalid AND i.indimmediate AS usable,
           k.attnum, k.place
    FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
    WHERE (i.indisprimary OR i.indisreplident) AND k.place <= i.indnkeyatts
), ordered AS (
    SELECT o.opcintype AS type
    FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod
    WHERE m.amname = 'btree' AND o.opcdefault
)
SELECT c.oid, n.nspname AS schema, c.relname AS name,
       pg_get_userbyid(c.relowner) AS owner,
       c.relpersistence = 'p' AS logged,
       c.relkind = 'p' AS partitioned,
       EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = c.oid) AS subscribed,
       CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid END AS root,
       c.relreplident AS identity,
       a.attname AS column, b.base AS base_type, NOT a.attnotnull AS nullable,
       a.attgenerated AS generated,
       CASE
           WHEN bt.typtype = 'e' THEN 4
           WHEN b.base IN (1042, 1043) AND a.atttypmod > 4
               THEN (a.atttypmod - 4) * 4 + 4
           WHEN bt.typlen > 0 AND b.base IN (SELECT type FROM ordered) THEN bt.typlen::int
       END AS index_bytes,
       bt.oid IN (25, 1043) OR NOT EXISTS (
           SELECT FROM pg_cast t
           WHERE t.castsource = bt.oid AND t.casttarget = 25 AND t.castmethod <> 'i'
       ) AS is_cast,
       bt.typtype = 'e' OR bt.oid = 1043 OR bt.typnamespace = 'pg_catalog'::regnamespace
           AND bt.oid IN (SELECT type FROM ordered) AS is_comparable,
       bt.typtype = 'e' AS is_enum,
       pk.place AS key_place,
       CASE c.relreplident
           WHEN 'f' THEN true
           WHEN 'd' THEN coalesce(pk.usable, false)
           WHEN 'i' THEN coalesce(ri.usable, false)
           ELSE false
       END AS in_identity,
       CASE c.relreplident
           WHEN 'd' THEN (SELECT relname FROM pg_class WHERE oid = pk.indexrelid)
           WHEN 'i' THEN (SELECT relname FROM pg_class WHERE oid = ri.indexrelid)
       END AS identity_index
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN base_type b ON b.oid = a.atttypid
LEFT JOIN pg_type bt ON bt.oid = b.base
LEFT JOIN key pk ON pk.indrelid = c.oid AND pk.attnum = a.attnum AND pk.indisprimary
LEFT JOIN key ri ON ri.indrelid = c.oid AND ri.attnum = a.attnum AND ri.indisreplident
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT (n.nspname = 'rowcast' AND c.relname IN ('outbox', 'reader', 'shapes'))
ORDER BY n.nspname, c.relname, a.attnum
"#;

/// A table from the rows of its columns; of one without columns, a row of NULLs.
fn table(rows: &[Row]) -> Result<Table, Error> {
    let head = &rows[0];
    let mut columns = Vec::with_capacity(rows.len());
    let mut key: Vec<(i64, usize)> = Vec::new();
    let mut identity_index = None;
    let mut generated = Generated::default();
    let mut index_bytes = Vec::with_capacity(rows.len());
    let mut outputs = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(name) = row.try_get::<_, Option<String>>("column")? else { continue };
        match row.try_get::<_, i8>("generated")? as u8 {
            0 => {}
            b'v' => {
                generated.r#virtual = true;
                continue;
            }
            _ => {
                generated.stored = true;
                continue;
            }
        }
        if let Some(place) = row.try_get("key_place")? {
            key.push((place, columns.len()));
        }
        if let Some(index) = row.try_get::<_, Option<String>>("identity_index")? {
            identity_index = Some(index.into());
        }
        let bytes = row.try_get::<_, Option<i32>>("index_bytes")?;
        index_bytes.push(bytes.and_then(|bytes| u32::try_from(bytes).ok()));
        let base_type = row.try_get::<_, Option<u32>>("base_type")?.unwrap_or(0);
        outputs.push(Output {
            is_cast: row.try_get("is_cast")?,
            is_comparable: row.try_get("is_comparable")?,
            settings: match row.try_get("is_enum")? {
                true => Settings::NONE,
                false => Settings::of_type(base_type),
            },
        });
        columns.push(Column {
            name: name.into(),
            kind: Kind::of_type(base_type),
            in_identity: row.try_get("in_identity")?,
            nullable: row.try_get("nullable")?,
        });
    }
    key.sort_unstable();
    Ok(Table {
        relation: Relation {
            oid: head.try_get("oid")?,
            table: TableName::new(
                head.try_get::<_, String>("schema")?,
                head.try_get::<_, String>("name")?,
            ),
            renamed: None,
            columns,
            identity: match head.try_get::<_, i8>("identity")? as u8 {
                b'd' => ReplicaIdentity::Default,
                b'f' => ReplicaIdentity::Full,
                b'i' => ReplicaIdentity::Index,
                _ => ReplicaIdentity::Nothing,
            },
            primary_key: key.into_iter().map(|(_, column)| column).collect(),
        },
        owner: head.try_get::<_, String>("owner")?.into(),
        role: match (head.try_get("partitioned")?, head.try_get("root")?) {
            (true, root) => Role::Partitioned { root },
            (false, Some(root)) => Role::Leaf { root },
            (false, None) => Role::Plain,
        },
        logged: head.try_get("logged")?,
        identity_index,
        generated,
        index_bytes,
        subscribed: head.try_get("subscribed")?,
        outputs,
    })
}

/// Clears `in_identity` of a partitioned table's column where a partition's old
/// rows do not carry it.
fn agree_with_partitions(tables: &mut [Table]) {
    let mut missing: HashMap<u32, HashSet<Box<str>>> = HashMap::new();
    for leaf in tables.iter() {
        let Role::Leaf { root } = leaf.role else { continue };
        let uncovered = leaf.relation.columns.iter().filter(|column| !column.in_identity);
        missing.entry(root).or_default().extend(uncovered.map(|column| column.name.clone()));
    }
    for table in tables {
        let Some(missing) = missing.get(&table.relation.oid) else { continue };
        for column in &mut table.relation.columns {
            column.in_identity &= !missing.contains(&column.name);
        }
    }
}
