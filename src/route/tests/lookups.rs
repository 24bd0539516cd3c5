//! What rules ask of other tables, whatever these say.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde::de::IgnoredAny;

use super::cases::parent_row;
use super::hostile::hostile_value;
use super::rows::{Fields, Table, batch, fields};
use super::{posts, route_with, rules};
use crate::change::{Kind, LookupId, Parent, ParentKey, ParentRow, Parents, Relation};
use crate::notification::{Action, Handoff, Notification, Payload, Reason};
use crate::route::{Config, Options, Router, Rules};

fn users(identity: &str) -> Relation {
    let table = Table {
        name: "public.users".to_owned(),
        columns: ["id integer", "name text", "team_id integer"].map(str::to_owned).to_vec(),
        primary_key: vec!["id".to_owned()],
        identity: identity.into(),
    };
    Relation { oid: 16_385, ..table.relation(None) }
}

pub(super) fn comments() -> Arc<Relation> {
    posts(&["id integer", "user_id integer", "body text"])
}

fn compile(configs: &[&str]) -> Rules {
    let config = |text: &&str| -> Config { toml::from_str(text).unwrap() };
    let options = Options { timezone: TimeZone::UTC, max_data_bytes: 9_000, encrypts: true };
    Rules::compile(configs.iter().map(config).collect(), options).unwrap()
}

fn key(key: &str) -> ParentKey {
    ParentKey { lookup: LookupId(0), key: key.into() }
}

/// The users that are known, by their ids.
fn known(rules: &Rules, rows: &[(&str, &str)]) -> Parents {
    let mut parents = Parents::default();
    for (id, row) in rows {
        let row = parent_row(&users("default"), &rules.lookups()[0], row);
        parents.put(key(id), Parent::Row(Arc::new(row)));
    }
    parents
}

#[test]
fn rules_that_look_into_one_table_by_one_column_look_once() {
    let rules = compile(&[
        "table = 'posts'\nchannels = 'x'\ndata = { a = '{{ author.name }}' }\n\
         lookup = { author = { table = 'users', key = '{{ user_id }}', columns = ['name'] } }",
        "table = 'posts'\nchannels = 'y.{{ who.team_id }}'\nname = 'b'\n\
         [lookup.who]\ntable = 'users'\nkey = '{{ user_id }}'\ncolumns = ['team_id', 'name']\nttl = '2s'",
        "table = 'posts'\nchannels = 'z'\nname = 'c'\ndata = { a = '{{ who.id }}' }\n\
         [lookup.who]\ntable = 'users'\nkey = '{{ body }}'\nby = 'name'\ncolumns = ['id']",
    ]);
    let [shared, by_name] = rules.lookups() else { panic!("{:?}", rules.lookups()) };
    let names = |columns: &[Box<str>]| columns.join(" ");
    assert_eq!((&*names(&shared.columns), shared.decides()), ("name team_id", true));
    assert_eq!(shared.ttl.as_secs(), 2);
    assert_eq!((by_name.by.as_deref(), by_name.decides()), (Some("name"), false));
    assert_eq!((&*names(&by_name.columns), by_name.ttl.as_secs()), ("id", 5));

    let parents = known(&rules, &[("5", r#"{"id":5,"name":"Ann","team_id":7}"#)]);
    let new = fields(&comments(), r#"{"id":1,"user_id":5,"body":null}"#);
    let mut router = Router::new(Arc::new(rules));
    let (told, missing) = route_with(&mut router, &batch(&comments(), None, Some(new)), &parents);
    assert!(missing.is_empty() && told.resyncs.is_empty());
    let told = told.notifications;
    assert_eq!(&*told[0].data(), r#"{"a":"Ann"}"#);
    assert_eq!(told[1].channels[0].as_str(), "y.7");
    assert_eq!(&*told[2].data(), r#"{"a":null}"#);
}

#[test]
fn what_is_left_out_is_counted_once_the_change_is_told() {
    let rules = rules(toml::toml! {
        table = "posts"
        channels = ["x.{{ body }}", "posts.{{ author.team_id }}"]
        [lookup.author]
        table = "users"
        key = "{{ user_id }}"
        columns = ["team_id"]
    });
    let parents = known(&rules, &[("5", r#"{"id":5,"name":"Ann","team_id":7}"#)]);
    let mut router = Router::new(Arc::new(rules));
    let new = fields(&comments(), r#"{"id":1,"user_id":5,"body":null}"#);
    let change = batch(&comments(), None, Some(new));
    let (told, missing) = route_with(&mut router, &change, &Parents::default());
    assert!(told.notifications.is_empty() && told.resyncs.is_empty());
    assert_eq!(missing.into_iter().collect::<Vec<_>>(), [key("5")]);
    assert_eq!(router.counts.null_channels, 0);
    let (told, missing) = route_with(&mut router, &change, &parents);
    assert_eq!((told.notifications.len(), missing.len()), (1, 0));
    assert_eq!(router.counts.null_channels, 1);
}

#[test]
fn a_table_that_decides_is_published_and_one_for_payloads_is_not() {
    let decides = "table = 'posts'\nchannels = 'x.{{ author.team_id }}'\n\
                   data = { name = '{{ author.name }}' }\n[lookup.author]\ntable = 'users'\n\
                   key = '{{ user_id }}'\ncolumns = ['name', 'team_id']";
    let payload = decides.replace("x.{{ author.team_id }}", "x");
    let created = format!("on = ['created']\n{decides}");
    let itself = "table = 'users'\nchannels = 'users'\non = ['created']";
    let relations = [(*comments()).clone(), users("default")];
    let names = |columns: &[usize]| -> Vec<String> {
        columns.iter().map(|column| relations[1].columns[*column].name.to_string()).collect()
    };
    let needs = |configs: &[&str]| {
        let rules = compile(configs);
        let tables = rules.tables(&relations);
        tables.into_iter().find(|needs| *needs.relation.table.name == *"users").map(|needs| {
            let identity: Vec<usize> = needs.identity.iter().map(|(column, _)| *column).collect();
            (needs.rules, names(&needs.columns), names(&identity), needs.delete)
        })
    };
    let all = || vec!["id".to_owned(), "name".to_owned(), "team_id".to_owned()];
    let posts = || vec!["posts".to_owned()];
    let old = vec!["id".to_owned(), "team_id".to_owned()];
    assert_eq!(needs(&[decides]), Some((posts(), all(), old, true)));
    assert_eq!(needs(&[&created]), Some((posts(), all(), vec![], true)));
    assert_eq!(needs(&[&payload]), None);
    assert_eq!(
        needs(&[&payload, itself]),
        Some((vec!["users".to_owned()], all(), vec![], false)),
        "what is published anyway is kept right"
    );
    assert_eq!(compile(&[&payload]).wanted(&relations[1]), [true, true, true]);
}

#[test]
fn what_one_transaction_did_below_unknown_parents_is_one_resync() {
    let rules = rules(toml::toml! {
        table = "posts"
        channels = ["posts", "posts.{{ author.team_id }}"]
        [lookup.author]
        table = "users"
        key = "{{ user_id }}"
        columns = ["team_id"]
    });
    let mut parents = known(&rules, &[("5", r#"{"id":5,"name":"Ann","team_id":7}"#)]);
    parents.put(key("6"), Parent::Unknown);
    let (relation, mut router) = (comments(), Router::new(Arc::new(rules)));
    let (mut told, mut missing) = (Handoff::default(), BTreeSet::new());
    for user_id in [6, 5, 6, 6] {
        let row = format!(r#"{{"id":1,"user_id":{user_id},"body":null}}"#);
        let change = batch(&relation, None, Some(fields(&relation, &row)));
        let change = change.change().expect("a change");
        router.route(&change, &parents, &mut missing, &mut told).expect("it is known");
    }
    let [resync] = &told.resyncs[..] else { panic!("{:?}", told.resyncs) };
    assert_eq!((resync.count, resync.reason), (Some(3), Reason::Lookup));
    assert!(resync.audience.is_all() && told.notifications.len() == 1 && missing.is_empty());
}

/// Reads of `user_id` rows, the earlier absorbed by the last.
fn fold(rules: Rules, parents: &Parents, rows: &[(Option<&str>, &str)]) -> Notification {
    let mut router = Router::new(Arc::new(rules));
    let relation = comments();
    let mut told = rows.iter().map(|(old, new)| {
        let old = old.map(|old| fields(&relation, old));
        let change = batch(&relation, old, Some(fields(&relation, new)));
        let (mut told, missing) = route_with(&mut router, &change, parents);
        assert!(missing.is_empty() && told.notifications.len() == 1, "{missing:?}");
        told.notifications.remove(0)
    });
    let mut folded = told.next().expect("a change");
    for mut later in told {
        later.absorb(folded, Action::Updated);
        folded = later;
    }
    folded
}

fn drawn() -> Rules {
    rules(toml::toml! {
        table = "posts"
        channels = "posts"
        data = { was = "{{ old.body }}", name = "{{ author.name }}", loud = "{{ author.name | upper if old.body else 'new' }}" }
        [lookup.author]
        table = "users"
        key = "{{ user_id }}"
        columns = ["name"]
    })
}

#[test]
fn a_payload_that_is_drawn_again_has_the_last_rows_parent() {
    let rules = drawn();
    let ann = ("5", r#"{"id":5,"name":"Ann","team_id":7}"#);
    let bob = ("6", r#"{"id":6,"name":"Bob","team_id":7}"#);
    let parents = known(&rules, &[ann, bob]);
    let rows = [
        (Some(r#"{"id":1,"user_id":5,"body":"a"}"#), r#"{"id":1,"user_id":5,"body":"b"}"#),
        (Some(r#"{"id":1,"user_id":5,"body":"b"}"#), r#"{"id":1,"user_id":6,"body":"c"}"#),
    ];
    let folded = fold(rules, &parents, &rows);
    assert_eq!(&*folded.data(), r#"{"loud":"BOB","name":"Bob","was":"a"}"#);
}

#[test]
fn a_parent_that_only_a_fold_asks_for_is_kept_for_it() {
    let rules = rules(toml::toml! {
        table = "posts"
        channels = "posts"
        data = { name = "{{ author.name if old.body == 'a' else 'nobody' }}" }
        [lookup.author]
        table = "users"
        key = "{{ user_id }}"
        columns = ["name"]
    });
    let parents = known(&rules, &[("5", r#"{"id":5,"name":"Ann","team_id":7}"#)]);
    let rows = [
        (Some(r#"{"id":1,"user_id":5,"body":"a"}"#), r#"{"id":1,"user_id":5,"body":"b"}"#),
        (Some(r#"{"id":1,"user_id":5,"body":"b"}"#), r#"{"id":1,"user_id":5,"body":"c"}"#),
    ];
    let folded = fold(rules, &parents, &rows);
    assert_eq!(&*folded.data(), r#"{"name":"Ann"}"#);
}

pub(super) fn hostile_rules() -> Rules {
    rules(toml::toml! {
        table = "posts"
        channels = ["private-a.{{ author.name }}", "b.{{ author.meta.x | lower }}", "c.{{ next.name }}"]
        id = "{{ author.name }}"
        event = "x.{{ author.name }}"
        where = "author.meta != 'no'"
        when = "author.name != body"
        data = { old = "{{ old.body }}", name = "{{ author.name }}", meta = "{{ author.meta }}", all = "{{ next.name }} {{ author.meta }}" }
        [lookup.author]
        table = "users"
        key = "{{ user_id }}"
        columns = ["name", "meta"]
        [lookup.next]
        table = "users"
        key = "{{ author.name }}"
        by = "name"
        columns = ["name"]
    })
}

/// A row's values, that there is none, or that it cannot be known.
pub(super) fn hostile_parent() -> impl Strategy<Value = Option<Option<Fields>>> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(None)),
        6 => prop::collection::vec(hostile_value(), 2).prop_map(|row| Some(Some(row))),
    ]
}

pub(super) fn parent_of(row: Option<Option<Fields>>) -> Parent {
    let Some(row) = row else { return Parent::Unknown };
    let Some(row) = row else { return Parent::Absent };
    let kinds = [Kind::Text, Kind::Json];
    let values = kinds.into_iter().zip(row);
    let values = values.map(|(kind, value)| (kind, value.flatten().map(Into::into)));
    Parent::Row(Arc::new(ParentRow { values: values.collect() }))
}

proptest! {
    #[test]
    fn whatever_parents_say_a_change_is_told_within_its_channels_or_by_a_resync(
        old in prop::option::of(prop::collection::vec(hostile_value(), 3)),
        new in prop::option::of(prop::collection::vec(hostile_value(), 3)),
        rows in prop::collection::vec(hostile_parent(), 8),
    ) {
        if old.is_none() && new.is_none() {
            return Ok(());
        }
        let relation = comments();
        let mut router = Router::new(Arc::new(hostile_rules()));
        let change = batch(&relation, old, new);
        let mut parents = Parents::default();
        let mut rows = rows.into_iter();
        let told = loop {
            let (told, missing) = route_with(&mut router, &change, &parents);
            if missing.is_empty() {
                break told;
            }
            prop_assert!(told.notifications.is_empty() && told.resyncs.is_empty());
            for key in missing {
                prop_assert!(parents.get(&key).is_none(), "it was asked for twice");
                parents.put(key, parent_of(rows.next().expect("four at most, by two lookups")));
            }
        };
        prop_assert!(told.resyncs.is_empty() || told.notifications.is_empty());
        for notification in told.notifications {
            prop_assert!(!notification.channels.is_empty() || notification.refusal.is_some());
            for channel in &notification.channels {
                let name = channel.as_str();
                let starts = ["private-a.", "b.", "c."].iter().any(|start| name.starts_with(start));
                prop_assert!(starts && name.matches('.').count() == 1, "{name}");
            }
            prop_assert!(serde_json::from_str::<IgnoredAny>(&notification.data()).is_ok());
            if let Payload::Drawn { text, draft } = &notification.payload {
                let again = draft.render.render(draft, notification.action);
                prop_assert_eq!(again.as_ref(), Some(text));
            }
        }
    }
}
