//! What a rule lets go, and what it says of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::rows::{batch, fields};
use super::{posts, route_with, rules};
use crate::change::{Parents, Relation};
use crate::notification::Handoff;
use crate::route::Router;

const COLUMNS: [&str; 4] = ["id integer", "status text", "user_id integer?", "views integer"];

/// `None` for a row that is not there. A row has all that is not given from the
/// other, so that `{}` is a row as it was.
fn explained(rule: &str, old: Option<&str>, new: Option<&str>) -> Handoff {
    let relation = posts(&COLUMNS);
    let config = format!("table = 'posts'\n{rule}");
    let mut router = Router::new(Arc::new(rules(toml::from_str(&config).expect("a rule"))));
    let row = |row: &str| {
        let mut whole: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(r#"{"id":1,"status":"draft","user_id":5,"views":0}"#).unwrap();
        whole.extend(serde_json::from_str::<serde_json::Map<_, _>>(row).expect("a row"));
        fields(&relation, &serde_json::Value::Object(whole).to_string())
    };
    let batch = batch(&relation, old.map(row), new.map(row));
    let (plain, _) = route_with(&mut router, &batch, &Parents::default());
    assert!(plain.let_go.is_empty(), "nobody asked");
    let mut router = router.explaining();
    let (told, missing) = route_with(&mut router, &batch, &Parents::default());
    assert_eq!(missing, BTreeSet::new());
    assert_eq!(told.notifications.len(), plain.notifications.len(), "asking changes nothing");
    told
}

#[test]
fn each_option_that_lets_a_change_go_says_so_with_what_it_read() {
    const WHERE: &str = "channels = 'x'\nwhere = \"status == 'published' and views > 3\"";
    const WHEN: &str = "channels = 'x'\nwhen = \"old.status != new.status\"";
    const CHANGED: &str = "channels = 'x'\nchanged = ['status', 'user_id']";
    const ON: &str = "channels = 'x'\non = ['created', 'restored']";
    for (rule, old, new, says) in [
        (
            WHERE,
            None,
            Some("{}"),
            "where does not hold: status == 'published' and views > 3; \
         status is \"draft\", views is 0",
        ),
        (WHERE, Some("{}"), Some(r#"{"views":9}"#), "status is \"draft\", views is 9"),
        (WHERE, Some("{}"), None, "status is \"draft\", views is 0"),
        (
            WHEN,
            Some("{}"),
            Some("{}"),
            "when does not hold: old.status != new.status; \
         old.status is \"draft\", new.status is \"draft\"",
        ),
        (
            CHANGED,
            Some("{}"),
            Some(r#"{"views":9}"#),
            "nothing changed of status, user_id, only views",
        ),
        (CHANGED, Some("{}"), Some("{}"), "nor anything else"),
        (ON, Some("{}"), Some("{}"), "it is only on created, restored"),
        (ON, Some("{}"), None, "it is only on created, restored"),
    ] {
        let told = explained(rule, old, new);
        let [let_go] = &*told.let_go else { panic!("{rule}: {:?}", told.let_go) };
        assert!(let_go.why.to_string().contains(says), "{}", let_go.why);
        assert_eq!(let_go.rule.as_deref(), Some("posts"));
        assert_eq!((&*let_go.id, let_go.table.to_string().as_str()), ("1", "public.posts"));
        assert!(told.notifications.is_empty());
    }
}

#[test]
fn a_channel_that_a_null_leaves_out_is_said_beside_those_that_are_told() {
    let rule = "channels = ['posts.{{ id }}', 'private-users.{{ user_id }}']";
    let told = explained(rule, Some(r#"{"user_id":null}"#), Some(r#"{"user_id":null,"views":2}"#));
    assert_eq!(told.notifications.len(), 1);
    let says: Vec<String> = told.let_go.iter().map(|let_go| let_go.why.to_string()).collect();
    assert_eq!(says[0], "not on private-users.{{ user_id }}, since a value in it is NULL");
    // Said of both rows, and once.
    assert_eq!((says.len(), told.let_go[0].place), (1, 1), "{says:?}");
}

#[test]
fn a_table_that_no_rule_takes_is_said_with_its_key() {
    let relation = Arc::new(Relation {
        table: crate::change::TableName::new("public", "tags"),
        primary_key: vec![0, 1],
        ..(*posts(&COLUMNS)).clone()
    });
    let rules = rules(toml::toml! {
        table = "posts"
        channels = "x"
    });
    let mut router = Router::new(Arc::new(rules)).explaining();
    let row = fields(&relation, r#"{"id":1,"status":"a","user_id":null,"views":0}"#);
    for (old, new, action) in
        [(None, Some(row.clone()), "created"), (Some(row.clone()), None, "deleted")]
    {
        let batch = batch(&relation, old, new);
        let (told, _) = route_with(&mut router, &batch, &Parents::default());
        let [let_go] = &*told.let_go else { panic!("{:?}", told.let_go) };
        assert_eq!((&*let_go.id, let_go.action.name()), (r#"{"id":1,"status":"a"}"#, action));
        assert_eq!((let_go.rule.as_ref(), let_go.why.option()), (None, "table"));
    }
}

#[test]
fn what_is_told_is_not_said_to_be_let_go() {
    for (rule, old, new) in [
        ("channels = 'x'", None, Some("{}")),
        ("channels = 'x'\nwhere = \"status == 'draft'\"", Some("{}"), Some(r#"{"views":9}"#)),
        // It leaves: that is told.
        ("channels = 'x'\nwhere = 'views == 0'", Some("{}"), Some(r#"{"views":9}"#)),
        ("channels = 'x'\nchanged = ['views']", Some("{}"), Some(r#"{"views":9}"#)),
    ] {
        let told = explained(rule, old, new);
        assert_eq!((told.notifications.len(), told.let_go.len()), (1, 0), "{rule}");
    }
}
