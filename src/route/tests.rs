//! Every case of `tests/rules`: a rule, a table and a change give exactly these
//! notifications, or this complaint. And what holds for any row at all.

use std::path::Path;
use std::sync::Arc;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::{Config, Options, Router, Rules, Severity};
use crate::change::{
    Batch, BatchBuilder, Column, Field, Item, Kind, Operation, Position, Relation, ReplicaIdentity,
    TableName, Timestamp, Transaction,
};
use crate::notification::{ChannelClass, Notification};

/// One file of `tests/rules`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "utc")]
    timezone: String,
    #[serde(default = "large")]
    max_data_bytes: usize,
    /// What the cases' rules have in common.
    #[serde(default)]
    rule: toml::Table,
    table: Table,
    #[serde(default)]
    case: Vec<Case>,
    #[serde(default)]
    refused: Vec<Refused>,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn large() -> usize {
    9_000
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    /// `name type`, with `?` behind a nullable one.
    columns: Vec<String>,
    primary_key: Vec<String>,
    /// `default`, `full`, `nothing` or the columns of an index.
    identity: toml::Value,
}

/// Rows are JSON. A column that an old row leaves out is unknown; one that a new
/// row leaves out is an unchanged TOASTed value. An `update` without `old` came
/// without an old tuple.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    claim: String,
    #[serde(default)]
    rule: toml::Table,
    identity: Option<toml::Value>,
    old: Option<String>,
    new: Option<String>,
    /// JSON: the notifications in order, each with the fields to compare.
    /// `refusal` and `partial` are always compared.
    expect: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    claim: String,
    rule: toml::Table,
    identity: Option<toml::Value>,
    primary_key: Option<Vec<String>>,
    #[serde(default)]
    severity: Option<String>,
    option: String,
    /// Parts of the message and of the fix.
    says: Vec<String>,
}

impl Table {
    fn relation(&self, identity: Option<&toml::Value>) -> Relation {
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
            primary_key: self.primary_key.iter().map(index).collect(),
            identity: replica_identity,
            columns,
        }
    }
}

/// One change as a batch, as a decoder would make it.
struct Rows {
    builder: BatchBuilder,
    bytes: Vec<u8>,
}

impl Rows {
    fn add(
        &mut self,
        fields: impl IntoIterator<Item = Option<Option<Vec<u8>>>>,
        absent: Field,
    ) -> std::ops::Range<usize> {
        let start = self.builder.fields.len();
        for field in fields {
            let field = match field {
                None => absent,
                Some(None) => Field::NULL,
                Some(Some(text)) => {
                    let at = self.bytes.len();
                    self.bytes.extend(text);
                    Field::text(at..self.bytes.len()).unwrap()
                }
            };
            self.builder.fields.push(field);
        }
        start..self.builder.fields.len()
    }
}

type Fields = Vec<Option<Option<Vec<u8>>>>;

fn batch(relation: &Arc<Relation>, old: Option<Fields>, new: Option<Fields>) -> Batch {
    let mut rows = Rows { builder: BatchBuilder::default(), bytes: Vec::new() };
    let operation = match (&old, &new) {
        (None, Some(_)) => Operation::Insert,
        (_, Some(_)) => Operation::Update,
        (_, None) => Operation::Delete,
    };
    batch_of(&mut rows, relation, operation, old, new);
    rows.builder.finish(rows.bytes.into())
}

fn batch_of(
    rows: &mut Rows,
    relation: &Arc<Relation>,
    operation: Operation,
    old: Option<Fields>,
    new: Option<Fields>,
) {
    let transaction = Transaction {
        xid: 7,
        at: Timestamp::from_unix_micros(1_795_210_440_123_456),
        position: Position::new(100),
    };
    let old = old.map(|fields| rows.add(fields, Field::UNKNOWN));
    let new = new.map(|fields| rows.add(fields, Field::UNCHANGED));
    rows.builder.change(relation.clone(), operation, transaction, old, new);
}

fn fields(relation: &Relation, row: &str) -> Fields {
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

fn notifications(rules: Rules, batch: &Batch) -> Vec<Notification> {
    let mut router = Router::new(Arc::new(rules));
    let mut out = Vec::new();
    for item in batch.items() {
        if let Item::Change(change) = item {
            router.route(&change, &mut out);
        }
    }
    out
}

fn compile(file: &File, rule: &toml::Table) -> Result<Rules, Vec<super::Problem>> {
    let mut whole = file.rule.clone();
    for (key, value) in rule {
        // An empty string takes an option of the file's rule away.
        match value.as_str() {
            Some("") => drop(whole.remove(key)),
            _ => drop(whole.insert(key.clone(), value.clone())),
        }
    }
    let config: Config = whole.try_into().unwrap_or_else(|error| panic!("{error}"));
    let options = Options {
        timezone: TimeZone::get(&file.timezone).unwrap(),
        max_data_bytes: file.max_data_bytes,
    };
    Rules::compile(vec![config], options)
}

fn as_json(notification: &Notification) -> Map<String, Json> {
    let Json::Object(mut object) = json!({
        "rule": *notification.rule,
        "entity": *notification.entity,
        "action": notification.action,
        "id": serde_json::from_str::<Json>(&notification.id).expect("the id is JSON"),
        "event": notification.event,
        "channels": notification.channels,
        "at": notification.at.to_string(),
        "position": notification.position.value(),
    }) else {
        unreachable!("an object was written");
    };
    if !notification.data.is_empty() {
        let data = serde_json::from_str(&notification.data).expect(&notification.data);
        object.insert("data".to_owned(), data);
    }
    if notification.partial {
        object.insert("partial".to_owned(), true.into());
    }
    if let Some(refusal) = &notification.refusal {
        object.insert("refusal".to_owned(), refusal.to_string().into());
    }
    object
}

impl Case {
    fn run(&self, file: &File) {
        let relation = Arc::new(file.table.relation(self.identity.as_ref()));
        let old = self.old.as_ref().map(|row| fields(&relation, row));
        let new = self.new.as_ref().map(|row| fields(&relation, row));
        let rules = compile(file, &self.rule).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let batch = match (&old, &new) {
            // A lone new row is an insert; an update without an old tuple is
            // written with an empty one.
            (Some(row), Some(_)) if row.iter().all(Option::is_none) => {
                let mut rows = Rows { builder: BatchBuilder::default(), bytes: Vec::new() };
                batch_of(&mut rows, &relation, Operation::Update, None, new);
                rows.builder.finish(rows.bytes.into())
            }
            _ => batch(&relation, old, new),
        };
        let told = notifications(rules, &batch);
        let expected: Vec<Map<String, Json>> =
            serde_json::from_str(&self.expect).unwrap_or_else(|e| panic!("{e}: {}", self.expect));
        let told: Vec<Map<String, Json>> = told.iter().map(as_json).collect();
        let compared = expected.iter().zip(&told).map(|(expected, told)| {
            let keep =
                |key: &str| expected.contains_key(key) || key == "refusal" || key == "partial";
            told.iter().filter(|(key, _)| keep(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
        });
        let compared: Vec<Map<String, Json>> = compared.collect();
        let whole = || serde_json::to_string_pretty(&told).unwrap();
        assert_eq!(expected.len(), told.len(), "{}", whole());
        for (expected, compared) in expected.iter().zip(&compared) {
            assert_eq!(expected, compared, "all told: {}", whole());
        }
    }
}

impl Refused {
    fn run(&self, file: &File) {
        let mut table = file.table.clone();
        if let Some(primary_key) = &self.primary_key {
            table.primary_key.clone_from(primary_key);
        }
        let relation = table.relation(self.identity.as_ref());
        let problems = match compile(file, &self.rule) {
            Ok(rules) => rules.check(&[relation]),
            Err(problems) => problems,
        };
        let severity = match self.severity.as_deref() {
            Some("warning") => Severity::Warning,
            _ => Severity::Error,
        };
        let found = problems.iter().any(|problem| {
            let text = format!("{problem} {}", problem.fix.as_deref().unwrap_or_default());
            problem.severity == severity
                && problem.option == self.option
                && self.says.iter().all(|part| text.contains(part))
        });
        assert!(found, "expected {:?} about {}: {problems:#?}", self.says, self.option);
        if severity == Severity::Warning {
            assert!(!problems.iter().any(super::Problem::is_error), "{problems:#?}");
        }
    }
}

#[test]
fn every_case_of_the_rules_folder_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    let mut count = 0;
    let mut failures = Vec::new();
    let mut run = |path: &Path, claim: &str, case: &dyn Fn()| {
        count += 1;
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(case)).is_err() {
            failures.push(format!("{}: {claim}", path.display()));
        }
    };
    for entry in folder.read_dir().expect("the folder is there") {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let file: File = toml::from_str(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        for case in &file.case {
            run(&path, &case.claim, &|| case.run(&file));
        }
        for refused in &file.refused {
            run(&path, &refused.claim, &|| refused.run(&file));
        }
    }
    assert!(failures.is_empty(), "{} of {count} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(count > 50, "only {count} cases were found in {}", folder.display());
}

fn hostile_rules() -> (Rules, Arc<Relation>) {
    let table = Table {
        name: "public.posts".to_owned(),
        columns: ["id integer", "slug text", "props json", "at_time timestamptz", "total numeric"]
            .map(str::to_owned)
            .to_vec(),
        primary_key: vec!["id".to_owned()],
        identity: "full".into(),
    };
    let config = toml::toml! {
        table = "posts"
        channels = [
            "private-posts.{{ slug }}.end",
            "private-{{ slug }}",
            "presence-x{{ slug | dotted }}",
            "news.{{ slug | upper }}-{{ id }}",
            "json.{{ props.name }}",
            "json.{{ props['name'] }}.{{ slug[:4] }}"
        ]
        event = ["{{ Entity }}{{ Action }}", "x.{{ slug }}"]
        when = "old.total > 3 or new.total < 7 or props.a.b == 'x'"
        data = { slug = "{{ slug }}", all = "{{ slug }} {{ props }} {{ at_time }}", p = "{{ props }}", n = "{{ total | number_format(2) }}", t = "{{ at_time | iso8601 }}", e = "{{ slug | e }}" }
    };
    let options = Options { timezone: TimeZone::UTC, max_data_bytes: 9_000 };
    let rules = Rules::compile(vec![config.try_into().unwrap()], options).unwrap();
    (rules, Arc::new(table.relation(None)))
}

fn hostile_value() -> impl Strategy<Value = Option<Option<Vec<u8>>>> {
    let text = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..40),
        3 => "[-a-zA-Z0-9_=@,;.#{}%| ]{0,30}".prop_map(String::into_bytes),
        2 => prop::sample::select(vec![
            "encrypted-x", "cache-x", "private-x", "42", "a.b", "../x", "{{ id }}", "none", "",
            "{\"name\":\"cache-a\",\"a\":{\"b\":\"x\"}}", "{\"name\":null}", "[1,2]", "NaN", "1e400",
            "infinity", "2026-11-20 21:34:00+00", "2026-11-20 21:34:00.1+05:30", "\u{0}", "é",
        ]).prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop_oneof![1 => Just(None), 1 => Just(Some(None)), 8 => text.prop_map(|text| Some(Some(text)))]
}

proptest! {
    #[test]
    fn no_row_value_makes_another_channel_or_a_panic(
        old in prop::option::of(prop::collection::vec(hostile_value(), 5)),
        new in prop::option::of(prop::collection::vec(hostile_value(), 5)),
    ) {
        prop_assume!(old.is_some() || new.is_some());
        let (rules, relation) = hostile_rules();
        let frames = [
            ("private-posts.", ".end", ChannelClass::Private),
            ("private-", "", ChannelClass::Private),
            ("presence-x", "", ChannelClass::Presence),
            ("news.", "", ChannelClass::Public),
            ("json.", "", ChannelClass::Public),
        ];
        for notification in notifications(rules, &batch(&relation, old, new)) {
            prop_assert!(!notification.channels.is_empty() || notification.refusal.is_some());
            for channel in &notification.channels {
                let name = channel.as_str();
                let within = frames.iter().any(|(start, end, class)| {
                    name.starts_with(start) && name.ends_with(end) && channel.class() == *class
                });
                prop_assert!(within, "{name}");
                prop_assert!(!name.contains('#') && !name.contains("none"), "{name}");
            }
            if !notification.data.is_empty() {
                let data: Result<Json, _> = serde_json::from_str(&notification.data);
                prop_assert!(data.is_ok(), "{}", notification.data);
            }
            prop_assert!(serde_json::from_str::<Json>(&notification.id).is_ok());
        }
    }
}
