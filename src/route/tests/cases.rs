//! Every case of `tests/rules`: a rule, a table and a change give exactly these
//! notifications, or this complaint.

use std::path::Path;
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::route_with;
use super::rows::{Table, batch_within, fields};
use crate::change::{
    Lookup, LookupId, Parent, ParentKey, ParentRow, Parents, Position, Relation, Timestamp,
};
use crate::notification::{Audience, Notification, Reason, Resync};
use crate::route::{Config, Options, Problem, Router, Rules, Severity};

/// One file of `tests/rules`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "utc")]
    timezone: String,
    #[serde(default = "large")]
    max_data_bytes: usize,
    #[serde(default)]
    encrypts: bool,
    /// What the cases' rules have in common.
    #[serde(default)]
    rule: toml::Table,
    table: Table,
    /// Those that are looked up.
    #[serde(default)]
    parent: Vec<Table>,
    #[serde(default)]
    case: Vec<Case>,
    #[serde(default)]
    resync: Vec<ResyncCase>,
    #[serde(default)]
    refused: Vec<Refused>,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn large() -> usize {
    9_000
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
    /// JSON: what its transaction said of itself.
    context: Option<String>,
    /// JSON: what is known of looked-up tables, `{"users":{"5":{…}}}`. Instead of
    /// a row, `null`: there is none, `"unknown"`: it cannot be known.
    parents: Option<String>,
    /// What must be read first, such as `users 5`.
    #[serde(default)]
    missing: Vec<String>,
    /// Whether a resync says it all.
    #[serde(default)]
    resync: bool,
    /// JSON: the notifications in order, each with the fields to compare.
    /// `refusal` and `partial` are always compared.
    expect: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResyncCase {
    claim: String,
    rule: toml::Table,
    reason: Reason,
    count: Option<u64>,
    #[serde(default = "yes")]
    may_collapse: bool,
    /// JSON, as that of a case.
    expect: String,
}

fn yes() -> bool {
    true
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

fn compile(file: &File, rule: &toml::Table) -> Result<Rules, Vec<Problem>> {
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
        encrypts: file.encrypts,
    };
    Rules::compile(vec![config], options)
}

fn as_json(notification: &Notification) -> Map<String, Json> {
    let Json::Object(mut object) = json!({
        "rule": *notification.terms.rule,
        "entity": *notification.terms.entity,
        "action": notification.action,
        "id": serde_json::from_str::<Json>(&notification.id).expect("the id is JSON"),
        "event": notification.event,
        "channels": notification.channels,
        "at": notification.at.to_string(),
        "position": notification.position.value(),
        "socket_id": notification.socket_id,
    }) else {
        unreachable!("an object was written");
    };
    if !notification.data().is_empty() {
        let data = serde_json::from_str(&notification.data()).expect("a payload is JSON");
        object.insert("data".to_owned(), data);
    }
    if notification.is_partial() {
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
        let rules = Arc::new(rules);
        let batch = batch_within(self.context.as_deref(), &relation, old, new);
        let parents = file.parents(rules.lookups(), self.parents.as_deref());
        let name =
            |key: &ParentKey| format!("{} {}", rules.lookups()[key.lookup.0].table.name, key.key);
        let (told, missing) = route_with(&mut Router::new(rules.clone()), &batch, &parents);
        assert_eq!(missing.iter().map(name).collect::<Vec<_>>(), self.missing);
        let reasons: Vec<Reason> = told.resyncs.iter().map(|resync| resync.reason).collect();
        assert_eq!(reasons, if self.resync { vec![Reason::Lookup] } else { vec![] });
        compare(&self.expect, &told.notifications);
    }
}

impl File {
    fn relations(&self, relation: Relation) -> Vec<Relation> {
        let parents = self.parent.iter().map(|table| table.relation(None));
        std::iter::once(relation).chain(parents).collect()
    }

    fn parents(&self, lookups: &[Lookup], known: Option<&str>) -> Parents {
        let known: Map<String, Json> = known.map_or_else(Map::new, |known| {
            serde_json::from_str(known).unwrap_or_else(|e| panic!("{e}: {known}"))
        });
        let relations = self.parent.iter().map(|table| table.relation(None));
        let relations: Vec<Relation> = relations.collect();
        let mut parents = Parents::default();
        for (index, lookup) in lookups.iter().enumerate() {
            let relation = relations.iter().find(|it| it.table == lookup.table).expect("a parent");
            let rows = known.get(&*lookup.table.name).and_then(Json::as_object);
            for (key, row) in rows.into_iter().flatten() {
                let parent = match row {
                    Json::Null => Parent::Absent,
                    Json::String(_) => Parent::Unknown,
                    row => Parent::Row(Arc::new(parent_row(relation, lookup, &row.to_string()))),
                };
                let lookup = LookupId(index);
                parents.put(ParentKey { lookup, key: key.as_str().into() }, parent);
            }
        }
        parents
    }
}

/// The lookup's columns of a row.
pub(super) fn parent_row(relation: &Relation, lookup: &Lookup, row: &str) -> ParentRow {
    let fields = fields(relation, row);
    let value = |name: &str| {
        let column = relation.column(name).expect("the parent has the column");
        let text = fields[column].clone().expect("a parent is whole");
        (relation.columns[column].kind, text.map(Into::into))
    };
    ParentRow { values: lookup.columns.iter().map(|name| value(name)).collect() }
}

fn compare(expect: &str, told: &[Notification]) {
    let expected: Vec<Map<String, Json>> =
        serde_json::from_str(expect).unwrap_or_else(|e| panic!("{e}: {expect}"));
    let told: Vec<Map<String, Json>> = told.iter().map(as_json).collect();
    let compared = expected.iter().zip(&told).map(|(expected, told)| {
        let keep = |key: &str| expected.contains_key(key) || key == "refusal" || key == "partial";
        told.iter().filter(|(key, _)| keep(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
    });
    let compared: Vec<Map<String, Json>> = compared.collect();
    let whole = || serde_json::to_string_pretty(&told).unwrap();
    assert_eq!(expected.len(), told.len(), "{}", whole());
    for (expected, compared) in expected.iter().zip(&compared) {
        assert_eq!(expected, compared, "all told: {}", whole());
    }
}

impl ResyncCase {
    fn run(&self, file: &File) {
        let relation = file.table.relation(None);
        let rules = compile(file, &self.rule).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let problems = rules.check(std::slice::from_ref(&relation));
        assert!(!problems.iter().any(Problem::is_error), "{problems:#?}");
        let mut router = Router::new(Arc::new(rules));
        router.learn(&[relation]);
        let terms = router.terms().next().expect("the rule takes the table").clone();
        assert_eq!(terms.may_collapse, self.may_collapse);
        let position = Position::new(100);
        let resync = Resync {
            terms,
            reason: self.reason,
            count: self.count,
            audience: Audience::All,
            position: Some(position),
            at: Timestamp::from_unix_micros(0),
        };
        let channels = vec!["private-posts".parse().expect("a channel's name")];
        let told: Vec<Notification> = resync.notifications(channels, position).collect();
        compare(&self.expect, &told);
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
            Ok(rules) => rules.check(&file.relations(relation)),
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
            assert!(!problems.iter().any(Problem::is_error), "{problems:#?}");
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
        for resync in &file.resync {
            run(&path, &resync.claim, &|| resync.run(&file));
        }
        for refused in &file.refused {
            run(&path, &refused.claim, &|| refused.run(&file));
        }
    }
    assert!(failures.is_empty(), "{} of {count} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(count > 100, "only {count} cases were found in {}", folder.display());
}
