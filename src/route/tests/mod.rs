//! What holds for all rules.

mod cases;
mod counted;
mod folds;
mod hostile;
mod lookups;
mod rows;
mod why;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use self::rows::{Table, batch, fields};
use super::{Config, Options, Renamed, Router, Rules};
use crate::change::{Batch, Item, ParentKey, Parents, Relation, TableName};
use crate::notification::{Handoff, Notification, WindowBy};

fn posts(columns: &[&str]) -> Arc<Relation> {
    let table = Table {
        name: "public.posts".to_owned(),
        columns: columns.iter().map(ToString::to_string).collect(),
        primary_key: vec!["id".to_owned()],
        identity: "full".into(),
    };
    Arc::new(table.relation(None))
}

fn rules(config: toml::Table) -> Rules {
    let options = Options { timezone: TimeZone::UTC, max_data_bytes: 9_000, encrypts: true };
    Rules::compile(vec![config.try_into().unwrap()], options).unwrap()
}

/// What is said with these parents, and which must be read first.
fn route_with(
    router: &mut Router,
    batch: &Batch,
    parents: &Parents,
) -> (Handoff, BTreeSet<ParentKey>) {
    let (mut told, mut missing) = (Handoff::default(), BTreeSet::new());
    for item in batch.items() {
        if let Item::Change(change) = item {
            router.route(&change, parents, &mut missing, &mut told).unwrap();
        }
    }
    (told, missing)
}

fn route_all(router: &mut Router, batch: &Batch) -> Vec<Notification> {
    let (told, missing) = route_with(router, batch, &Parents::default());
    assert!(missing.is_empty(), "{missing:?}");
    told.notifications
}

fn notifications(rules: Rules, batch: &Batch) -> Vec<Notification> {
    route_all(&mut Router::new(Arc::new(rules)), batch)
}

fn insert(router: &mut Router, relation: &Arc<Relation>, new: &str) -> Vec<Notification> {
    route_all(router, &batch(relation, None, Some(fields(relation, new))))
}

#[test]
fn a_relation_that_is_described_anew_is_bound_anew() {
    let rules = rules(toml::toml! {
        table = "posts"
        channels = ["x.{{ slug }}", "y.{{ author }}"]
        data = { slug = "{{ slug }}" }
    });
    let mut router = Router::new(Arc::new(rules));
    let before = posts(&["id integer", "slug text", "author integer"]);
    let told = insert(&mut router, &before, r#"{"id":1,"slug":"a","author":null}"#);
    assert_eq!(&*told[0].data(), r#"{"slug":"a"}"#);
    assert_eq!(router.counts.null_channels, 1);
    assert_eq!(router.counts.partial, 0);

    let after = posts(&["author integer", "id integer"]);
    let told = insert(&mut router, &after, r#"{"id":1,"author":5}"#);
    assert_eq!(told.len(), 2);
    assert!(told[0].refusal.as_ref().unwrap().to_string().contains("no column slug"));
    assert_eq!(told[1].channels[0].as_str(), "y.5");
    assert!(told[1].is_partial());
    assert_eq!(router.counts.partial, 1);
}

fn renamed(relation: &Relation, table: &str, now: Option<&str>) -> Arc<Relation> {
    let name = |name: &str| TableName::new("public", name);
    Arc::new(Relation { table: name(table), renamed: now.map(name), ..relation.clone() })
}

#[test]
fn rows_from_before_a_table_was_renamed_are_told_by_the_rule_that_names_it_now() {
    let rules = rules(toml::toml! {
        table = "articles"
        channels = "{{ table }}.{{ id }}"
        data = { entity = "{{ [entity] | first }}", table = "{{ table }}" }
    });
    let older = renamed(&posts(&["id integer"]), "posts", Some("articles"));
    assert_eq!(rules.wanted(&older), [true]);
    let mut router = Router::new(Arc::new(rules));
    let told = insert(&mut router, &older, r#"{"id":1}"#);
    assert_eq!(&*told[0].terms.entity, "article");
    assert_eq!(told[0].event.as_str(), "ArticleCreated");
    assert_eq!(told[0].channels[0].as_str(), "articles.1");
    assert_eq!(&*told[0].data(), r#"{"entity":"article","table":"articles"}"#);
    let later = renamed(&older, "articles", None);
    assert_eq!(insert(&mut router, &later, r#"{"id":1}"#).len(), 1);
}

#[test]
fn a_rule_that_names_the_table_of_then_takes_its_rows_under_that_name() {
    let rules = rules(toml::toml! {
        table = ["posts", "articles"]
        channels = "{{ table }}"
    });
    let older = renamed(&posts(&["id integer"]), "posts", Some("articles"));
    let told = insert(&mut Router::new(Arc::new(rules)), &older, r#"{"id":1}"#);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].channels[0].as_str(), "posts");
}

#[test]
fn a_table_that_a_rule_lost_by_its_new_name_is_held_back_at_every_change() {
    let config = |table: &str| -> Config {
        toml::from_str(&format!("table = '{table}'\nchannels = 'x'")).unwrap()
    };
    let options = Options { timezone: TimeZone::UTC, max_data_bytes: 9_000, encrypts: true };
    let rules = Rules::compile(vec![config("posts"), config("*")], options).unwrap();
    let rules = Arc::new(rules);
    let before = posts(&["id integer"]);
    let after = renamed(&before, "articles", None);
    let row = || batch(&after, None, Some(fields(&after, r#"{"id":1}"#)));
    let try_route = |router: &mut Router, batch: &Batch| {
        let (mut told, mut missing) = (Handoff::default(), BTreeSet::new());
        let Some(Item::Change(change)) = batch.items().next() else { panic!("a change") };
        let routed = router.route(&change, &Parents::default(), &mut missing, &mut told);
        routed.map(|()| told.notifications.len())
    };
    let lost = Renamed {
        rule: "posts".into(),
        from: TableName::new("public", "posts"),
        to: TableName::new("public", "articles"),
    };

    let mut router = Router::new(rules.clone());
    assert_eq!(insert(&mut router, &before, r#"{"id":1}"#).len(), 2);
    assert_eq!(try_route(&mut router, &row()), Err(lost.clone()));
    assert_eq!(try_route(&mut router, &row()), Err(lost.clone()));
    assert!(lost.to_string().contains("posts takes public.posts, which is called public.articles"));
    assert!(lost.hint().contains("public.articles"));

    let mut quiet = Router::new(rules.clone());
    quiet.learn(&[(*before).clone()]);
    assert_eq!(try_route(&mut quiet, &row()), Err(lost));

    let mut new = Router::new(rules);
    assert_eq!(try_route(&mut new, &row()), Ok(1), "nothing says that it was another");
}

#[test]
fn the_minimal_payload_keeps_its_order() {
    let rules = rules(toml::toml! {
        table = "posts"
        channels = "posts"
    });
    let told = insert(&mut Router::new(Arc::new(rules)), &posts(&["id integer"]), r#"{"id":1}"#);
    let at = "2026-11-20T21:34:00.123456Z";
    let expected = format!(r#"{{"entity":"post","action":"created","id":1,"at":"{at}"}}"#);
    assert_eq!(*told[0].data(), *expected);
    assert_eq!(&*told[0].id, "1");
}

#[test]
fn needs_are_what_rules_name() {
    let relation = posts(&["id integer", "user_id integer", "title text", "deleted_at timestamp?"]);
    let index = |columns: &[&str]| -> Vec<usize> {
        columns.iter().map(|name| relation.column(name).unwrap()).collect()
    };
    let rules = rules(toml::toml! {
        table = ["posts", "shop.*"]
        channels = ["u.{{ user_id }}"]
        on = ["updated"]
        changed = ["title"]
    });
    let relations = [(*relation).clone()];
    let needs = rules.tables(&relations);
    assert_eq!(needs[0].columns, index(&["id", "user_id", "title", "deleted_at"]));
    let identity: Vec<usize> = needs[0].identity.iter().map(|(column, _)| *column).collect();
    assert_eq!(identity, index(&["id", "user_id"]));
    assert_eq!(needs[0].identity[0].1, "posts, shop.*");
    assert_eq!((needs[0].insert, needs[0].update, needs[0].delete), (false, true, false));
    // Whether the title changed is told by its fingerprint.
    assert_eq!(rules.wanted(&relation), [true, true, false, true]);
}

#[test]
fn a_configuration_that_is_no_rule_says_what_was_expected() {
    for (text, expected) in [
        ("table = 'posts'\nchannels = []", "at least one"),
        ("table = 'a.b.c'\nchannels = 'x'", "more than one dot"),
        ("table = 'posts'\nchannels = 'x'\nsoft_delete = true", "a column's name or false"),
        ("table = 'posts'\nchannels = 'x'\non = ['saved']", "unknown variant `saved`"),
        ("table = 'posts'\nchannels = 'x'\nlookups = {}", "unknown field `lookups`"),
        ("table = 'posts'\nchannels = 'x'\noversize = 'drop'", "`minimal` or `reject`"),
        ("table = 'posts'\npreset = 'model'", "`resource` or `laravel-model`"),
        ("channels = 'x'", "missing field `table`"),
    ] {
        let error = toml::from_str::<Config>(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn all_that_is_wrong_with_all_rules_is_told_at_once() {
    let config = |text: &str| toml::from_str::<Config>(text).unwrap();
    let options = Options { timezone: TimeZone::UTC, max_data_bytes: 9_000, encrypts: true };
    let problems = Rules::compile(
        vec![
            config("table = 'posts'\nchannels = ['{{ id }}', 'a b']\nwhen = '=='"),
            config("table = 'posts'\nchannels = 'x'\nname = 'posts'"),
            config("table = 'posts'\nchannels = 'x'\nevent = ''"),
        ],
        options,
    )
    .unwrap_err();
    let places: Vec<(usize, &str)> =
        problems.iter().map(|problem| (problem.rule_index, problem.option)).collect();
    let expected = [(0, "channels"), (0, "channels"), (0, "when"), (1, "name"), (2, "event")];
    assert_eq!(places, expected);
    assert_eq!(problems[4].rule, "posts (3)");
}

#[test]
fn an_id_is_a_rows_if_it_is_the_primary_key_by_whatever_way() {
    let id_is_row = |option: &str, columns: &[&str]| {
        let config = format!("table = 'posts'\nchannels = 'x'\n{option}");
        let mut router = Router::new(Arc::new(rules(toml::from_str(&config).unwrap())));
        router.learn(&[(*posts(columns)).clone()]);
        let terms = router.terms().next().expect("the rule takes the table");
        terms.id_is_row
    };
    let columns = ["id integer", "author integer"];
    assert!(id_is_row("", &columns));
    assert!(id_is_row("id = '{{ id }}'", &columns));
    for id in ["{{ author }}", "post-{{ id }}", "{{ old.id }}", "{{ id | string }}"] {
        assert!(!id_is_row(&format!("id = \"{id}\""), &columns), "{id}");
    }
}

#[test]
fn changes_are_gathered_for_a_moment_unless_the_rule_says_otherwise() {
    let terms = |options: &str| {
        let config = format!("table = 'posts'\nchannels = 'x'\n{options}");
        let mut router = Router::new(Arc::new(rules(toml::from_str(&config).unwrap())));
        router.learn(&[(*posts(&["id integer"])).clone()]);
        router.terms().next().expect("the rule takes the table").clone()
    };
    let usual = terms("");
    assert_eq!((usual.window, usual.window_by), (Some(Duration::from_millis(250)), WindowBy::Id));
    assert!(usual.may_collapse);
    let list = terms("coalesce = '2s'\ncoalesce_by = 'channel'\nresync = false");
    assert_eq!((list.window, list.window_by), (Some(Duration::from_secs(2)), WindowBy::Channel));
    assert!(!list.may_collapse);
    assert_eq!(terms("coalesce = false").window, None);
}

#[test]
fn a_rule_that_row_values_name_users_own_channels_by_never_collapses() {
    let may_collapse = |channels: &str| {
        let config = format!("table = 'posts'\nchannels = {channels}");
        let mut router = Router::new(Arc::new(rules(toml::from_str(&config).unwrap())));
        router.learn(&[(*posts(&["id integer", "user_id integer"])).clone()]);
        router.terms().next().expect("the rule takes the table").may_collapse
    };
    assert!(!may_collapse("'#server-to-user-{{ user_id }}'"), "no list has them");
    assert!(!may_collapse("['private-posts.{{ id }}', '#server-to-user-{{ user_id }}']"));
    assert!(may_collapse("['private-posts.{{ id }}', '#server-to-user-42']"));
}
