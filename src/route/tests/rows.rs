//! Tables and rows to route, written down briefly.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::change::{
    Batch, BatchBuilder, Column, Context, Field, Kind, Operation, Position, Relation,
    ReplicaIdentity, TableName, Timestamp, Transaction,
};

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub(super) name: String,
    /// `name type`, with `?` behind a nullable one.
    pub(super) columns: Vec<String>,
    pub(super) primary_key: Vec<String>,
    /// `default`, `full`, `nothing` or the columns of an index.
    pub(super) identity: toml::Value,
}

impl Table {
    pub(super) fn relation(&self, identity: Option<&toml::Value>) -> Relation {
        let identity = identity.unwrap_or(&self.identity);
        let (schema, name) = self.name.split_once('.').unwrap();
        let (replica_identity, covered): (ReplicaIdentity, Vec<String>) = match identity {
            toml::Value::String(text) => match &**text {
                "default" => (ReplicaIdentity::Default, self.primary_key.clone()),
                "full" => (ReplicaIdentity::Full, vec![]),
                "nothing" => (ReplicaIdentity::Nothing, vec![]),
                other => panic!("identity {other:?}"),
            },
            columns => (ReplicaIdentity::Index, columns.clone().try_into().unwrap()),
        };
        let columns = self.columns.iter().map(|column| {
            let (name, kind) = column.split_once(' ').unwrap();
            Column {
                name: name.into(),
                kind: match kind.trim_end_matches('?') {
                    "bool" => Kind::Bool,
                    "integer" => Kind::Integer,
                    "float" => Kind::Float,
                    "numeric" => Kind::Numeric,
                    "json" => Kind::Json,
                    "date" => Kind::Date,
                    "timestamp" => Kind::Timestamp,
                    "timestamptz" => Kind::TimestampTz,
                    "text" => Kind::Text,
                    other => panic!("type {other:?}"),
                },
                in_identity: replica_identity == ReplicaIdentity::Full
                    || covered.iter().any(|covered| covered == name),
                nullable: kind.ends_with('?'),
            }
        });
        let columns: Vec<Column> = columns.collect();
        let index = |name: &String| columns.iter().position(|c| *c.name == **name).unwrap();
        Relation {
            oid: 16_384,
            table: TableName::new(schema, name),
            renamed: None,
            primary_key: self.primary_key.iter().map(index).collect(),
            identity: replica_identity,
            columns,
        }
    }
}

/// A row's columns in order: `None` is not carried, `Some(None)` is NULL.
pub(super) type Fields = Vec<Option<Option<Vec<u8>>>>;

/// One change as a decoder would make it: an insert without `old`, a delete
/// without `new`. An old row that carries nothing was not sent at all.
pub(super) fn batch(relation: &Arc<Relation>, old: Option<Fields>, new: Option<Fields>) -> Batch {
    batch_within(None, relation, old, new)
}

/// The same, in a transaction that said this of itself.
pub(super) fn batch_within(
    context: Option<&str>,
    relation: &Arc<Relation>,
    old: Option<Fields>,
    new: Option<Fields>,
) -> Batch {
    let operation = match (&old, &new) {
        (None, Some(_)) => Operation::Insert,
        (_, Some(_)) => Operation::Update,
        (_, None) => Operation::Delete,
    };
    let transaction = Transaction {
        xid: 7,
        at: Timestamp::from_unix_micros(1_795_210_440_123_456),
        position: Position::new(100),
    };
    let context = context.map(|json| Context::parse(json.as_bytes()).expect("a context"));
    let mut builder = BatchBuilder::default();
    builder.context = context.map(Arc::new);
    let mut bytes = Vec::new();
    let mut row = |fields: Fields, absent: Field| {
        let start = builder.fields.len();
        builder.fields.extend(fields.into_iter().map(|field| match field {
            None => absent,
            Some(None) => Field::NULL,
            Some(Some(text)) => {
                let at = bytes.len();
                bytes.extend(text);
                Field::text(at..bytes.len()).unwrap()
            }
        }));
        start..builder.fields.len()
    };
    let sent = old.filter(|fields| fields.iter().any(Option::is_some));
    let old = sent.map(|fields| row(fields, Field::UNKNOWN));
    let new = new.map(|fields| row(fields, Field::UNCHANGED));
    builder.change(relation, operation, transaction, old, new);
    builder.finish(bytes.into())
}

pub(super) fn fields(relation: &Relation, row: &str) -> Fields {
    let row: Map<String, Json> = serde_json::from_str(row).expect(row);
    for name in row.keys() {
        assert!(relation.column(name).is_some(), "the table has no column {name}");
    }
    let field = |column: &Column| {
        row.get(&*column.name).map(|value| match value {
            Json::Null => None,
            Json::Bool(true) => Some(b"t".to_vec()),
            Json::Bool(false) => Some(b"f".to_vec()),
            Json::String(text) => Some(text.clone().into_bytes()),
            other => Some(other.to_string().into_bytes()),
        })
    };
    relation.columns.iter().map(field).collect()
}
