//! Replica identities: which columns of the old row an update or delete brings.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use crate::change::{Relation, ReplicaIdentity, TableName};

use super::catalog::{Table, quote_table};
use super::need::{Need, Wanted, holders};
use super::quote_identifier;
use super::snapshot::Snapshot;
use super::statement::Statement;

/// Indexes that `setup --identity` makes begin with this; nothing else tells
/// them from the application's own.
pub const INDEX_PREFIX: &str = "rowcast_identity_";

/// An index of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnIndex {
    pub table: TableName,
    pub table_oid: u32,
    pub name: Box<str>,
    pub columns: Vec<Box<str>>,
    /// False after `CREATE INDEX CONCURRENTLY` was cut off.
    pub valid: bool,
    /// The table's replica identity.
    pub in_use: bool,
    /// Belongs to the index of a partitioned table, and is dropped with it.
    pub attached: bool,
}

pub async fn own_indexes(client: &Client) -> Result<Vec<OwnIndex>, Error> {
    let rows = client.query_typed(OWN_INDEXES, &[(&INDEX_PREFIX, Type::TEXT)]).await?;
    rows.iter()
        .map(|row| {
            Ok(OwnIndex {
                table: TableName::new(
                    row.try_get::<_, String>("schema")?,
                    row.try_get::<_, String>("table")?,
                ),
                table_oid: row.try_get("table_oid")?,
                name: row.try_get::<_, String>("name")?.into(),
                columns: row
                    .try_get::<_, Vec<String>>("columns")?
                    .into_iter()
                    .map(Box::from)
                    .collect(),
                valid: row.try_get("valid")?,
                in_use: row.try_get("in_use")?,
                attached: row.try_get("attached")?,
            })
        })
        .collect()
}

/// By name, or as part of a partitioned one: Postgres gives each new partition
/// such an index, by a name of its own. Those of partitioned tables last: they
/// must be made last, and are dropped for all partitions at once.
const OWN_INDEXES: &str = "
SELECT n.nspname::text AS schema, t.relname::text AS table, t.oid AS table_oid,
       c.relname::text AS name,
       ARRAY(
           SELECT a.attname::text
           FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
           ORDER BY k.place
       ) AS columns,
       i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL AS valid,
       i.indisreplident AND t.relreplident = 'i' AS in_use,
       c.relispartition AS attached
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace n ON n.oid = t.relnamespace
LEFT JOIN pg_class r
    ON r.oid = CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid END
WHERE starts_with(c.relname::text, $1) OR starts_with(r.relname::text, $1)
ORDER BY t.relkind = 'p', 1, 2, 4
";

/// What a table's old rows lack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    pub table: TableName,
    /// What is wrong, in words.
    pub why: String,
    /// What puts it right, in order.
    pub statements: Vec<Statement>,
    /// Every column, from now on: in Postgres 18 this needs
    /// `publish_generated_columns` where the table has such.
    pub to_full: bool,
}

/// What is to be done so that the table can be published for its rules; `None`
/// if nothing is.
///
/// A unique index over the primary key and the needed columns, if all of them
/// are NOT NULL and so short that they always fit in an index entry: an index
/// over an unbounded text would make the application's INSERT of a long one
/// fail. Otherwise `FULL`, which costs log but refuses nothing.
pub fn shortfall(tables: &[Table], wanted: Wanted<'_>, indexes: &[OwnIndex]) -> Option<Shortfall> {
    let Wanted { table, need } = wanted;
    let holders = holders(tables, table);
    let why = why(table, need, &holders)?;
    let goal = goal(table, need, &holders);
    let statements = match &goal {
        Goal::Default => set_identity(table, &holders, |part| {
            let is = part.relation.identity == ReplicaIdentity::Default;
            (!is).then(|| "DEFAULT".to_owned())
        }),
        Goal::Full => set_identity(table, &holders, |part| {
            let is = part.relation.identity == ReplicaIdentity::Full;
            (!is).then(|| "FULL".to_owned())
        }),
        Goal::Index(columns) => index_statements(table, &holders, columns, indexes),
    };
    let statements = [statements, drop_unused(table, &holders, &goal, indexes)].concat();
    let to_full = goal == Goal::Full;
    Some(Shortfall { table: table.relation.table.clone(), why, statements, to_full })
}

/// What the table lacks, in words; `None` if it serves.
pub fn why(table: &Table, need: &Need, holders: &[&Table]) -> Option<String> {
    let relation = &table.relation;
    let parts = || holders.iter().copied().filter(|part| part.relation.oid != relation.oid);
    if let Some(unidentified) = parts().chain([table]).find(|part| !part.has_identity()) {
        return Some(format!(
            "{} has no usable replica identity ({}): once it is published, the application's \
             UPDATE and DELETE on it fail",
            unidentified.relation.table,
            absence(&unidentified.relation),
        ));
    }
    let missing: Vec<String> = need
        .identity
        .iter()
        .filter(|need| !relation.columns[need.column].in_identity)
        .map(|need| format!("{} (rule {:?})", relation.columns[need.column].name, need.rule))
        .collect();
    if !missing.is_empty() {
        let what = if parts().next().is_some() { " or those of a partition" } else { "" };
        return Some(format!(
            "old rows of {}{what} do not carry {}: rules cannot tell where an updated or deleted \
             row was",
            relation.table,
            missing.join(", "),
        ));
    }
    if relation.identity == ReplicaIdentity::Full
        && let Some(part) = parts().find(|part| part.relation.identity != ReplicaIdentity::Full)
    {
        return Some(format!(
            "{} has REPLICA IDENTITY FULL and its partition {} has not: old values that are not \
             sent look like NULL",
            relation.table, part.relation.table,
        ));
    }
    None
}

fn absence(relation: &Relation) -> &'static str {
    match relation.identity {
        ReplicaIdentity::Nothing => "REPLICA IDENTITY NOTHING",
        ReplicaIdentity::Default if relation.primary_key.is_empty() => "no primary key",
        ReplicaIdentity::Default => "its primary key is deferrable",
        ReplicaIdentity::Index => "its identity index is gone",
        ReplicaIdentity::Full => "it has no columns",
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    Default,
    Full,
    /// By name, since partitions have their own order of columns.
    Index(Vec<Box<str>>),
}

fn goal(table: &Table, need: &Need, holders: &[&Table]) -> Goal {
    /// A third of a page is what btree takes, less the entry's own words.
    const MAX_INDEX_BYTES: u32 = 2_600;

    let relation = &table.relation;
    let is_full = |table: &Table| table.relation.identity == ReplicaIdentity::Full;
    if relation.primary_key.is_empty() || is_full(table) || holders.iter().any(|t| is_full(t)) {
        return Goal::Full;
    }
    let key = relation.primary_key.iter().copied();
    let more: Vec<usize> = relation
        .columns
        .iter()
        .enumerate()
        .filter(|(column, _)| need.identity.iter().any(|need| need.column == *column))
        .map(|(column, _)| column)
        .filter(|column| !relation.primary_key.contains(column))
        .collect();
    let deferrable =
        |part: &Table| part.relation.identity == ReplicaIdentity::Default && !part.has_identity();
    if more.is_empty() && !deferrable(table) && !holders.iter().any(|part| deferrable(part)) {
        return Goal::Default;
    }
    let mut bytes = 0_u32;
    for column in key.clone().chain(more.iter().copied()) {
        let is_key = relation.primary_key.contains(&column);
        match table.index_bytes.get(column).copied().flatten() {
            Some(width) => bytes = bytes.saturating_add(width),
            // The primary key is in an index already, but may fill it.
            None if is_key && more.is_empty() => {}
            None => return Goal::Full,
        }
        if relation.columns[column].nullable {
            return Goal::Full;
        }
    }
    if bytes > MAX_INDEX_BYTES {
        return Goal::Full;
    }
    let name = |column: usize| relation.columns[column].name.clone();
    Goal::Index(key.chain(more).map(name).collect())
}

/// `identity` gives nothing for a table that has it already.
///
/// Partitions before their root: the root's identity says how a row is read,
/// so it may not promise what a partition does not yet send.
fn set_identity(
    table: &Table,
    holders: &[&Table],
    identity: impl Fn(&Table) -> Option<String>,
) -> Vec<Statement> {
    let root = holders.iter().all(|holder| holder.relation.oid != table.relation.oid);
    holders
        .iter()
        .copied()
        .chain(root.then_some(table))
        .filter_map(|part| Some(alter(&part.relation.table, &identity(part)?)))
        .collect()
}

fn alter(table: &TableName, identity: &str) -> Statement {
    Statement::new(
        format!("replica identity of {table}"),
        format!("ALTER TABLE {} REPLICA IDENTITY {identity}", quote_table(table)),
    )
}

fn index_statements(
    table: &Table,
    holders: &[&Table],
    columns: &[Box<str>],
    indexes: &[OwnIndex],
) -> Vec<Statement> {
    let mut statements = Vec::new();
    let list: Vec<String> = columns.iter().map(|column| quote_identifier(column)).collect();
    let list = list.join(", ");
    let mut names = Vec::new();
    let root = holders.iter().all(|holder| holder.relation.oid != table.relation.oid);
    for part in holders.iter().copied().chain(root.then_some(table)) {
        let table = &part.relation.table;
        let ours = |index: &&OwnIndex| index.table_oid == part.relation.oid;
        if let Some(index) =
            indexes.iter().filter(ours).find(|index| index.valid && index.columns == columns)
        {
            names.push((part.relation.oid, index.name.clone()));
            continue;
        }
        let name = free_name(table, indexes);
        let quoted = quote_identifier(&name);
        let target = quote_table(table);
        statements.push(if part.role.holds_rows() {
            let drop = format!(
                "DROP INDEX CONCURRENTLY IF EXISTS {}.{quoted}",
                quote_identifier(&table.schema)
            );
            Statement::concurrently(
                format!("index for the replica identity of {table}"),
                format!("CREATE UNIQUE INDEX CONCURRENTLY {quoted} ON {target} ({list})"),
                Some(drop),
            )
        } else {
            Statement::new(
                format!("index for the replica identity of {table}, of those of its partitions"),
                format!("CREATE UNIQUE INDEX {quoted} ON {target} ({list})"),
            )
        });
        names.push((part.relation.oid, name));
    }
    let identity = |part: &Table| {
        let named = names.iter().find(|(oid, _)| *oid == part.relation.oid);
        let (oid, name) = named.expect("each part was given an index above");
        let is_so =
            |index: &OwnIndex| index.table_oid == *oid && index.name == *name && index.in_use;
        let is = indexes.iter().any(is_so);
        (!is).then(|| format!("USING INDEX {}", quote_identifier(name)))
    };
    statements.extend(set_identity(table, holders, identity));
    statements
}

/// `rowcast_identity_posts`, cut to Postgres' 63 bytes, with a number behind it
/// if the schema has one of that name.
fn free_name(table: &TableName, indexes: &[OwnIndex]) -> Box<str> {
    const MAX_LEN: usize = 63;
    const NUMBER_LEN: usize = 4;
    let room = MAX_LEN - INDEX_PREFIX.len() - NUMBER_LEN;
    let stem = &table.name[..table.name.floor_char_boundary(room)];
    let taken = |name: &str| {
        indexes.iter().any(|index| index.table.schema == table.schema && *index.name == *name)
    };
    // Cut names may be equal: their hash keeps tables of one setup apart.
    let stem = if stem.len() < table.name.len() {
        let short = &stem[..stem.floor_char_boundary(room - 9)];
        format!("{short}_{:08x}", fnv1a(table.name.as_bytes()))
    } else {
        stem.to_owned()
    };
    let plain = format!("{INDEX_PREFIX}{stem}");
    let numbered = (2..).map(|number: u32| format!("{plain}_{number}"));
    std::iter::once(plain.clone())
        .chain(numbered)
        .find(|name| !taken(name))
        .expect("there are more numbers than indexes")
        .into()
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(16_777_619))
}

/// Indexes of ours that the goal does not use: of other columns, or cut off
/// while they were made.
fn drop_unused(
    table: &Table,
    holders: &[&Table],
    goal: &Goal,
    indexes: &[OwnIndex],
) -> Vec<Statement> {
    let concerns = |index: &&OwnIndex| {
        index.table_oid == table.relation.oid
            || holders.iter().any(|holder| holder.relation.oid == index.table_oid)
    };
    let used = |index: &&OwnIndex| {
        index.valid && matches!(goal, Goal::Index(columns) if index.columns == *columns)
    };
    let partitioned =
        |index: &OwnIndex| index.table_oid == table.relation.oid && !table.role.holds_rows();
    indexes
        .iter()
        .filter(concerns)
        .filter(|index| !used(index) && !index.attached)
        .map(|index| drop_index(index, partitioned(index)))
        .collect()
}

fn drop_index(index: &OwnIndex, partitioned: bool) -> Statement {
    let name =
        format!("{}.{}", quote_identifier(&index.table.schema), quote_identifier(&index.name));
    let what = format!("index of {} that nothing needs any more", index.table);
    if partitioned {
        Statement::new(what, format!("DROP INDEX IF EXISTS {name}"))
    } else {
        Statement::concurrently(what, format!("DROP INDEX CONCURRENTLY IF EXISTS {name}"), None)
    }
}

/// Sets back what `setup --identity` did by index: roots first, then their
/// partitions, so that no root promises what its partitions do not send.
pub fn removal(tables: &[Table], indexes: &[OwnIndex]) -> Vec<Statement> {
    let is_partitioned = |index: &OwnIndex| {
        tables.iter().any(|table| table.relation.oid == index.table_oid && !table.role.holds_rows())
    };
    let back = indexes
        .iter()
        .rev()
        .filter(|index| index.in_use)
        .map(|index| alter(&index.table, "DEFAULT"));
    let drops = indexes
        .iter()
        .rev()
        .filter(|index| !index.attached)
        .map(|index| drop_index(index, is_partitioned(index)));
    back.chain(drops).collect()
}

/// For the published tables whose old rows carry every column: back to the
/// primary key. Whether `setup --identity` did that or somebody else, nothing
/// in the catalog tells.
pub fn full_to_default(snapshot: &Snapshot) -> Vec<Statement> {
    let Some(publication) = &snapshot.publication else { return Vec::new() };
    let published = publication.tables.iter().filter(|table| table.published);
    published
        .filter_map(|published| {
            snapshot.tables.iter().find(|table| table.relation.oid == published.oid)
        })
        .flat_map(|table| {
            let parts = holders(&snapshot.tables, table);
            std::iter::once(table)
                .chain(parts.into_iter().filter(|part| part.relation.oid != table.relation.oid))
        })
        .filter(|table| table.relation.identity == ReplicaIdentity::Full)
        .map(|table| alter(&table.relation.table, "DEFAULT"))
        .collect()
}

/// For a message: the statements as lines of SQL.
pub fn sql(statements: &[Statement]) -> String {
    let lines: Vec<String> =
        statements.iter().map(|statement| format!("{};", statement.sql)).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(schema: &str, name: &str) -> OwnIndex {
        OwnIndex {
            table: TableName::new(schema, "posts"),
            table_oid: 1,
            name: name.into(),
            columns: Vec::new(),
            valid: true,
            in_use: false,
            attached: false,
        }
    }

    #[test]
    fn an_index_has_a_name_that_is_free_in_its_schema_and_fits() {
        let posts = TableName::new("public", "posts");
        assert_eq!(&*free_name(&posts, &[]), "rowcast_identity_posts");
        let taken = [
            index("public", "rowcast_identity_posts"),
            index("public", "rowcast_identity_posts_2"),
        ];
        assert_eq!(&*free_name(&posts, &taken), "rowcast_identity_posts_3");
        let elsewhere = [index("other", "rowcast_identity_posts")];
        assert_eq!(&*free_name(&posts, &elsewhere), "rowcast_identity_posts");

        let long = |last: &str| TableName::new("public", format!("{}{last}", "ü".repeat(30)));
        let one = free_name(&long("a"), &[]);
        let other = free_name(&long("b"), &[]);
        assert!(one.len() <= 63 && one != other, "{one} {other}");
    }
}
