use std::fmt;

use serde::{Deserialize, Serialize};

/// A table's name with its schema, unquoted, as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    pub schema: Box<str>,
    pub name: Box<str>,
}

impl TableName {
    pub fn new(schema: impl Into<Box<str>>, name: impl Into<Box<str>>) -> TableName {
        TableName { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A table as a source describes it, before the rows that need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    pub oid: u32,
    pub table: TableName,
    /// What the catalog calls it now, if something else: rows may be older than
    /// their table's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed: Option<TableName>,
    pub columns: Vec<Column>,
    pub identity: ReplicaIdentity,
    /// Indexes into `columns`, in key order; empty without a primary key.
    pub primary_key: Vec<usize>,
}

impl Relation {
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &*column.name == name)
    }

    /// As of a source whose old rows are as whole as new ones.
    pub fn with_whole_old_rows(mut self) -> Relation {
        self.identity = ReplicaIdentity::Full;
        for column in &mut self.columns {
            column.in_identity = true;
        }
        self
    }

    /// The column that a row is looked for in: `by`, or else the only one of the
    /// primary key.
    pub fn key_column(&self, by: Option<&str>) -> Option<usize> {
        match (by, &*self.primary_key) {
            (Some(by), _) => self.column(by),
            (None, [column]) => Some(*column),
            (None, _) => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: Box<str>,
    pub kind: Kind,
    /// Whether an old row carries it: what `REPLICA IDENTITY` covers.
    pub in_identity: bool,
    pub nullable: bool,
}

/// What an old row carries.
/// <https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-REPLICA-IDENTITY>
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Every column.
    Full,
    /// The columns of a unique index.
    Index,
    Nothing,
}

/// How a column's text becomes JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Bool,
    Integer,
    Float,
    Numeric,
    Json,
    Date,
    Timestamp,
    TimestampTz,
    Text,
}

impl Kind {
    /// By the OIDs of `pg_type.dat`, which never change. A domain's own OID is
    /// not among them: resolve it to its base type first.
    pub fn of_type(oid: u32) -> Kind {
        match oid {
            16 => Kind::Bool,
            20 | 21 | 23 | 26 => Kind::Integer,
            700 | 701 => Kind::Float,
            1700 => Kind::Numeric,
            114 | 3802 => Kind::Json,
            1082 => Kind::Date,
            1114 => Kind::Timestamp,
            1184 => Kind::TimestampTz,
            _ => Kind::Text,
        }
    }
}
