use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, de};

use super::TablePattern;
use crate::duration;
use crate::notification::{Action, WindowBy};

/// One `[[rule]]`: which changes of which tables are announced, and how.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names the rule in errors and on the command line. Default: the table as
    /// it is written in `table`.
    pub name: Option<String>,
    /// `posts`, `shop.orders`, a list of them, or a glob such as `shop.*`.
    /// Without a schema: `public`.
    pub table: OneOrMany<TablePattern>,
    /// Default: the table's name with its last `_` word made singular.
    pub entity: Option<String>,
    /// A template. Default: the primary key. It is the payload's id; a child's
    /// rule may announce its parent: `"{{ post_id }}"`.
    pub id: Option<String>,
    /// Of `created`, `updated`, `deleted`, `restored`. Default: all.
    pub on: Option<Vec<Action>>,
    /// What all that it announces is called, such as `updated` where a child's
    /// rule announces its parent. `on`, `when` and `changed` still ask what
    /// happened to the row. Default: what happened to the row.
    pub action: Option<Action>,
    /// `resource`: each row on `private-posts.{{ id }}`, and all of them, gathered,
    /// on `private-posts`. `laravel-model`: channels, events and payload of a model
    /// that broadcasts its events, as `useEchoModel` hears them. It stands in for
    /// `channels`, and `laravel-model` also for `event`, `data` and `action`.
    pub preset: Option<Preset>,
    /// With `laravel-model`, the class whose table it is. Default:
    /// `App\Models\Post` for `posts`.
    pub model: Option<String>,
    /// With `laravel-model`, what travels of the row beside its key: nothing, if
    /// it is left out.
    pub columns: Option<Vec<String>>,
    /// Columns that look secret and may travel all the same; those that a public
    /// channel may carry.
    #[serde(default)]
    pub reveal: Vec<String>,
    /// Templates, rendered from the row as it was and as it is. A value with a
    /// dot, or with what no channel may hold, is refused; dots come only from an
    /// expression that as a whole ends in `| dotted`, as in
    /// `{{ (type ~ '.' ~ id) | dotted }}`.
    pub channels: Option<OneOrMany<String>>,
    /// A template or several, each a notification of its own on every channel.
    /// Default: `"{{ Entity }}{{ Action }}"`.
    pub event: Option<OneOrMany<String>>,
    /// A condition on one row: which rows exist for the rule. Entering it is
    /// `created`, leaving it `deleted`.
    #[serde(rename = "where")]
    pub membership: Option<String>,
    /// A condition on the change: `"old.status != new.status"`.
    pub when: Option<String>,
    /// An update is announced only if one of these columns changed, or if that
    /// is unknown.
    pub changed: Option<Vec<String>>,
    /// The payload: a table of templates, nested as wished. A value that is one
    /// `{{ expression }}` keeps its type. Default: the minimal payload.
    pub data: Option<Data>,
    /// What happens to a payload that the endpoint would not take.
    #[serde(default)]
    pub oversize: Oversize,
    /// How long changes of what was just sent are gathered, to be sent as one.
    /// `false`: each change is sent.
    #[serde(default = "usual_window", deserialize_with = "window")]
    pub coalesce: Option<Duration>,
    /// What is gathered: the changes of one id, or all on one channel.
    #[serde(default)]
    pub coalesce_by: WindowBy,
    /// What is sent instead of too many changes, `{ event, data }`. `false`:
    /// however many they are, each is sent, and reading waits meanwhile.
    #[serde(default)]
    pub resync: Resync,
    /// Columns that never change, so that an update's old row need not carry
    /// them.
    #[serde(default)]
    pub fixed: Vec<String>,
    /// The column that is set when a row is deleted softly, or `false`. Default:
    /// `deleted_at`, if the table has such a column.
    #[serde(default)]
    pub soft_delete: SoftDelete,
    /// Rows of other tables, by the names that templates have for them.
    #[serde(default)]
    pub lookup: BTreeMap<String, Lookup>,
}

/// One `[rule.lookup.NAME]`: a row of another table, whose columns are
/// `{{ NAME.column }}`. NULL where there is no such row.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    /// `users` or `shop.users`. Without a schema: `public`.
    pub table: TablePattern,
    /// A template on the rule's own row: `"{{ user_id }}"`, or on another of the
    /// rule's lookups: `"{{ firewall.server_id }}"`.
    pub key: String,
    /// The unique column that the key is looked for in. Default: the primary
    /// key.
    pub by: Option<String>,
    /// Those that templates may name.
    pub columns: Vec<String>,
    /// How long a row is used that only `data` reads, unless its table is
    /// published anyway.
    #[serde(default = "usual_ttl", deserialize_with = "ttl")]
    pub ttl: Duration,
}

const TTL: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

fn ttl<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration::within(deserializer, TTL)
}

fn usual_ttl() -> Duration {
    Duration::from_secs(5)
}

const WINDOW: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);

fn window<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration::within_or_false(deserializer, WINDOW)
}

fn usual_window() -> Option<Duration> {
    Some(Duration::from_millis(250))
}

/// Channels of a known form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    Resource,
    LaravelModel,
}

impl Preset {
    pub(super) fn name(self) -> &'static str {
        match self {
            Preset::Resource => "resource",
            Preset::LaravelModel => "laravel-model",
        }
    }
}

/// What becomes of a payload over the endpoint's limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Oversize {
    /// The minimal payload goes out instead, with `"partial":true`.
    #[default]
    Minimal,
    /// It is written to the rejected file.
    Reject,
}

/// A value, or a list of at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
                let text: de::value::StrDeserializer<'_, E> =
                    de::IntoDeserializer::into_deserializer(text);
                Ok(OneOrMany(vec![T::deserialize(text)?]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                if items.is_empty() {
                    return Err(A::Error::invalid_length(0, &"at least one"));
                }
                Ok(OneOrMany(items))
            }
        }

        deserializer.deserialize_any(Either(std::marker::PhantomData))
    }
}

/// Which column tells that a row is deleted though it is still there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SoftDelete {
    /// `deleted_at`, where a table has it.
    #[default]
    Usual,
    Off,
    Column(String),
}

impl<'de> Deserialize<'de> for SoftDelete {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SoftDelete, D::Error> {
        struct ColumnOrFalse;

        impl Visitor<'_> for ColumnOrFalse {
            type Value = SoftDelete;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a column's name or false")
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<SoftDelete, E> {
                if on {
                    return Err(E::invalid_value(Unexpected::Bool(true), &self));
                }
                Ok(SoftDelete::Off)
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<SoftDelete, E> {
                Ok(SoftDelete::Column(name.to_owned()))
            }
        }

        deserializer.deserialize_any(ColumnOrFalse)
    }
}

/// Whether and how pages are told to fetch everything again.
#[derive(Clone, Debug, PartialEq)]
pub enum Resync {
    /// Only where it cannot be avoided.
    Off,
    On(ResyncForm),
}

/// The resync as it is written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResyncForm {
    /// Default: the rule's own events if its payload is the minimal one, else
    /// `rowcast.resync`.
    pub event: Option<OneOrMany<String>>,
    /// Default: the minimal payload of a resync.
    pub data: Option<Data>,
}

impl Default for Resync {
    fn default() -> Resync {
        Resync::On(ResyncForm::default())
    }
}

impl<'de> Deserialize<'de> for Resync {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Resync, D::Error> {
        struct FormOrFalse;

        impl<'de> Visitor<'de> for FormOrFalse {
            type Value = Resync;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table such as { event = \"PostsChanged\" }, or false")
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<Resync, E> {
                match on {
                    true => Err(E::invalid_value(Unexpected::Bool(true), &self)),
                    false => Ok(Resync::Off),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Resync, A::Error> {
                ResyncForm::deserialize(MapAccessDeserializer::new(map)).map(Resync::On)
            }
        }

        deserializer.deserialize_any(FormOrFalse)
    }
}

/// A payload as it is written: templates in the shape of the JSON they become.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    Table(Vec<(String, Data)>),
    List(Vec<Data>),
    Template(String),
    Bool(bool),
    Integer(i64),
    Float(f64),
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Data, D::Error> {
        struct Shape;

        impl<'de> Visitor<'de> for Shape {
            type Value = Data;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of templates, such as { post_id = \"{{ id }}\" }")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Data, E> {
                Ok(Data::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Data, E> {
                Ok(Data::Integer(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Data, E> {
                i64::try_from(value)
                    .map(Data::Integer)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Data, E> {
                if !value.is_finite() {
                    return Err(E::invalid_value(Unexpected::Float(value), &"a finite number"));
                }
                Ok(Data::Float(value))
            }

            fn visit_str<E>(self, template: &str) -> Result<Data, E> {
                Ok(Data::Template(template.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Data, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Data::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Data::Table(entries))
            }
        }

        deserializer.deserialize_any(Shape)
    }
}
