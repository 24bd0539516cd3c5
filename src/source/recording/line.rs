use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::VERSION;
use crate::change::{Missed, Relation, TableName};

/// One line, without what ends it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Line<'a> {
    /// The first. What follows has nothing to do with what was before.
    Recording {
        version: u32,
    },
    Relation(Cow<'a, Relation>),
    Transaction {
        xid: u32,
        #[serde(borrow)]
        at: Cow<'a, str>,
        position: u64,
    },
    Context(Option<Map<String, Value>>),
    #[serde(borrow)]
    Insert(Rows<'a>),
    Update(Rows<'a>),
    Delete(Rows<'a>),
    Read(Rows<'a>),
    Truncate {
        relation: u32,
    },
    Broadcast {
        #[serde(borrow)]
        channel: Cow<'a, str>,
        #[serde(borrow)]
        event: Cow<'a, str>,
        /// A JSON text, as it was sent: spaces are a part of it.
        #[serde(borrow)]
        data: Cow<'a, str>,
    },
    Missed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        relation: Option<u32>,
        why: Missed,
    },
    Reached(u64),
}

/// A row as it was and as it is.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rows<'a> {
    /// The table's OID.
    pub relation: u32,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Columns<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Columns<'a>>,
    /// Columns that an update gave other values, which are not both here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Cow<'a, str>>,
    /// Columns that an update left as they were, and that are not here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub same: Vec<Cow<'a, str>>,
}

/// Values by the names of their columns, in the table's order. What is missing is
/// not known.
#[derive(Default)]
pub(super) struct Columns<'a>(pub Vec<(Cow<'a, str>, Text<'a>)>);

/// A value in Postgres' text form: a string, `null`, or `{"base64":"…"}` for bytes
/// that are no UTF-8.
pub(super) enum Text<'a> {
    Null,
    Value(Cow<'a, [u8]>),
}

/// Why a line is none of a recording.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Json(String),
    #[error("it does not begin as a recording does")]
    NoRecording,
    #[error("it is of version {0}, and this rowcast reads version {VERSION}")]
    Version(u32),
    #[error("it has no end: rowcast was ended while it wrote it")]
    CutShort,
    #[error("it is longer than {} MiB", .0 >> 20)]
    TooLong(u64),
    #[error("table {0} was not described before")]
    UnknownTable(u32),
    #[error("table {table} has no column {column:?}")]
    UnknownColumn { table: TableName, column: String },
    #[error("table {0} has more columns, or another key, than a table can have")]
    Table(TableName),
    #[error("{0} is no moment such as 2026-11-20T21:34:00.123456Z")]
    Moment(String),
    #[error("it is of no transaction")]
    NoTransaction,
    #[error("its position cannot come after those before it")]
    Position,
    #[error("it is of {0}, which has no such rows")]
    Rows(&'static str),
}

impl From<serde_json::Error> for Problem {
    fn from(error: serde_json::Error) -> Problem {
        // Its line is always the first: it is given one alone.
        let text = error.to_string();
        let message = text.rsplit_once(" at line ").map_or(&*text, |(message, _)| message);
        Problem::Json(format!("column {}: {message}", error.column()))
    }
}

impl<'a> Text<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Text<'a> {
        Text::Value(bytes.into())
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = match self {
            Text::Null => return serializer.serialize_unit(),
            Text::Value(bytes) => bytes,
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(bytes))?;
                map.end()
            }
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, null, or {\"base64\":\"…\"}")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Text<'de>, E> {
                Ok(Text::Null)
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text::of(text.as_bytes()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text::Value(text.as_bytes().to_owned().into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text<'de>, A::Error> {
                let Some(("base64", text)) = map.next_entry::<&str, String>()? else {
                    return Err(de::Error::custom("expected base64"));
                };
                let bytes = STANDARD.decode(text).map_err(de::Error::custom)?;
                match map.next_key::<&str>()? {
                    None => Ok(Text::Value(bytes.into())),
                    Some(_) => Err(de::Error::custom("expected base64 alone")),
                }
            }
        }

        deserializer.deserialize_any(Texts)
    }
}

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, text)| (name, text)))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Columns<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Columns<'a>, D::Error> {
        struct Values;

        impl<'de> Visitor<'de> for Values {
            type Value = Columns<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("values by the names of their columns")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Columns<'de>, A::Error> {
                let mut columns = Vec::new();
                while let Some(column) = map.next_entry::<Cow<'de, str>, Text<'de>>()? {
                    columns.push(column);
                }
                Ok(Columns(columns))
            }
        }

        deserializer.deserialize_map(Values)
    }
}
