//! What a rule's own payload says once notifications are folded.

use std::sync::Arc;

use serde_json::Value as Json;

use super::rows::{Table, batch, batch_within, fields};
use super::{posts, route_all, rules};
use crate::change::Relation;
use crate::notification::{Action, Notification, Payload, Shape};
use crate::route::{Router, Rules};

/// Old row and new row, as JSON.
type Rows<'a> = (Option<&'a str>, Option<&'a str>);

/// The notification of each change, the earlier ones absorbed by the last.
/// `actions` are those of the folds.
fn fold(rules: Rules, relation: &Arc<Relation>, rows: &[Rows<'_>], actions: &[Action]) -> Folded {
    assert_eq!(rows.len(), actions.len() + 1);
    let mut router = Router::new(Arc::new(rules));
    let mut told = rows.iter().map(|(old, new)| {
        let read = |row: &Option<&str>| row.map(|row| fields(relation, row));
        let mut told = route_all(&mut router, &batch(relation, read(old), read(new)));
        assert_eq!(told.len(), 1);
        told.remove(0)
    });
    let mut folded = told.next().expect("a change");
    for (mut later, action) in told.zip(actions) {
        later.absorb(folded, *action);
        folded = later;
    }
    Folded(folded)
}

struct Folded(Notification);

impl Folded {
    fn says(&self, data: &str) {
        let json = |text: &str| serde_json::from_str::<Json>(text).expect(text);
        assert_eq!(json(&self.0.data()), json(data));
        assert!(!self.0.is_partial());
    }

    fn is_partial(&self) -> bool {
        self.0.is_partial()
    }
}

fn orders() -> Rules {
    rules(toml::toml! {
        table = "posts"
        channels = "posts"
        data = { id = "{{ id }}", old_status = "{{ old.status }}", new_status = "{{ status }}" }
    })
}

#[test]
fn updates_say_the_first_old_row_and_the_last_new_one() {
    let relation = posts(&["id integer", "status text"]);
    let rows = [
        (Some(r#"{"id":1,"status":"pending"}"#), Some(r#"{"id":1,"status":"payment"}"#)),
        (Some(r#"{"id":1,"status":"payment"}"#), Some(r#"{"id":1,"status":"paid"}"#)),
        (Some(r#"{"id":1,"status":"paid"}"#), Some(r#"{"id":1,"status":"released"}"#)),
    ];
    let folded = fold(orders(), &relation, &rows, &[Action::Updated, Action::Updated]);
    folded.says(r#"{"id":1,"old_status":"pending","new_status":"released"}"#);
    assert_eq!(folded.0.count, 3);
}

#[test]
fn a_row_that_was_created_had_no_old_row() {
    let rules = rules(toml::toml! {
        table = "posts"
        channels = "posts"
        data = { a = "{{ action }}", old = "{{ old.status }}", status = "{{ status }}", c = "{{ changed }}" }
    });
    let relation = posts(&["id integer", "status text"]);
    let rows = [
        (None, Some(r#"{"id":1,"status":"draft"}"#)),
        (Some(r#"{"id":1,"status":"draft"}"#), Some(r#"{"id":1,"status":"open"}"#)),
    ];
    let folded = fold(rules, &relation, &rows, &[Action::Created]);
    folded.says(r#"{"a":"created","old":null,"status":"open","c":[]}"#);
}

#[test]
fn a_row_deleted_and_made_again_is_updated() {
    let rules = rules(toml::toml! {
        table = "posts"
        channels = "posts"
        data = { a = "{{ Action }}d", old = "{{ old.status }}", new = "{{ new.status }}" }
    });
    let relation = posts(&["id integer", "status text"]);
    let rows =
        [(Some(r#"{"id":1,"status":"draft"}"#), None), (None, Some(r#"{"id":1,"status":"open"}"#))];
    let folded = fold(rules, &relation, &rows, &[Action::Updated]);
    folded.says(r#"{"a":"Updatedd","old":"draft","new":"open"}"#);
}

#[test]
fn a_deleted_row_is_told_as_it_was_last_and_as_it_was_first() {
    let relation = posts(&["id integer", "status text"]);
    let rows = [
        (Some(r#"{"id":1,"status":"draft"}"#), Some(r#"{"id":1,"status":"open"}"#)),
        (Some(r#"{"id":1,"status":"open"}"#), None),
    ];
    let folded = fold(orders(), &relation, &rows, &[Action::Deleted]);
    folded.says(r#"{"id":1,"old_status":"draft","new_status":"open"}"#);
}

#[test]
fn what_changed_is_what_any_of_them_changed() {
    let rules = rules(toml::toml! {
        table = "posts"
        channels = "posts"
        data = { changed = "{{ changed }}" }
    });
    let relation = posts(&["id integer", "status text", "title text", "n integer"]);
    let rows = [
        (
            Some(r#"{"id":1,"status":"a","title":"x","n":1}"#),
            Some(r#"{"id":1,"status":"b","title":"x","n":2}"#),
        ),
        (
            Some(r#"{"id":1,"status":"b","title":"x","n":2}"#),
            Some(r#"{"id":1,"status":"a","title":"y","n":2}"#),
        ),
    ];
    let folded = fold(rules, &relation, &rows, &[Action::Updated]);
    folded.says(r#"{"changed":["status","title","n"]}"#);
}

fn posts_with_key() -> Arc<Relation> {
    let table = Table {
        name: "public.posts".to_owned(),
        columns: vec!["id integer".to_owned(), "status text".to_owned(), "body text".to_owned()],
        primary_key: vec!["id".to_owned()],
        identity: "default".into(),
    };
    Arc::new(table.relation(None))
}

#[test]
fn an_old_value_that_is_not_known_stays_so() {
    let relation = posts_with_key();
    let update = (Some("{}"), Some(r#"{"id":1,"status":"paid"}"#));
    assert!(fold(orders(), &relation, &[update, update], &[Action::Updated]).is_partial());
    let rows = [(None, Some(r#"{"id":1,"status":"new"}"#)), update];
    let folded = fold(orders(), &relation, &rows, &[Action::Created]);
    folded.says(r#"{"id":1,"old_status":null,"new_status":"paid"}"#);
}

#[test]
fn an_unchanged_toasted_value_is_the_one_that_was_seen_last() {
    let rules = rules(toml::toml! {
        table = "posts"
        channels = "posts"
        data = { a = "{{ action }}", body = "{{ body }}", status = "{{ status }}" }
    });
    let relation = posts_with_key();
    let rows = [
        (Some("{}"), Some(r#"{"id":1,"status":"a"}"#)),
        (Some("{}"), Some(r#"{"id":1,"status":"b","body":"long"}"#)),
        (Some("{}"), Some(r#"{"id":1,"status":"c"}"#)),
        (Some("{}"), Some(r#"{"id":1,"status":"d"}"#)),
    ];
    let folded = fold(rules, &relation, &rows, &[Action::Updated; 3]);
    folded.says(r#"{"a":"updated","body":"long","status":"d"}"#);
}

#[test]
fn a_condition_keeps_the_old_row_and_no_long_value_that_may_be_another_by_now() {
    let relation = posts_with_key();
    let rows = [
        (Some("{}"), Some(r#"{"id":1,"status":"a","body":"long"}"#)),
        (Some("{}"), Some(r#"{"id":1,"status":"b"}"#)),
    ];
    for option in ["when = \"status != 'x'\"", "changed = ['status']", "where = \"status != 'x'\""]
    {
        let text = "table = 'posts'\nchannels = 'posts'\n\
                    data = { a = '{{ action }}', body = '{{ body }}' }";
        let config = toml::from_str(&format!("{text}\n{option}")).expect("a rule");
        assert!(fold(rules(config), &relation, &rows, &[Action::Updated]).is_partial(), "{option}");
    }
    let paid = rules(toml::toml! {
        table = "posts"
        channels = "posts"
        when = "old.status != new.status"
        data = { old_status = "{{ old.status }}", new_status = "{{ status }}" }
    });
    let relation = posts(&["id integer", "status text"]);
    let rows = [
        (Some(r#"{"id":1,"status":"pending"}"#), Some(r#"{"id":1,"status":"payment"}"#)),
        (Some(r#"{"id":1,"status":"payment"}"#), Some(r#"{"id":1,"status":"paid"}"#)),
    ];
    let folded = fold(paid, &relation, &rows, &[Action::Updated]);
    folded.says(r#"{"old_status":"pending","new_status":"paid"}"#);
}

#[test]
fn children_of_one_parent_do_not_lend_each_other_their_rows() {
    let rules = rules(toml::toml! {
        table = "posts"
        channels = "posts"
        id = "{{ author }}"
        data = { a = "{{ action }}", old = "{{ old.status }}", new = "{{ status }}" }
    });
    let relation = posts(&["id integer", "author integer", "status text"]);
    let rows = [
        (Some(r#"{"id":1,"author":5,"status":"a"}"#), Some(r#"{"id":1,"author":5,"status":"b"}"#)),
        (None, Some(r#"{"id":2,"author":5,"status":"y"}"#)),
    ];
    let folded = fold(rules, &relation, &rows, &[Action::Updated]);
    folded.says(r#"{"a":"updated","old":null,"new":"y"}"#);
}

#[test]
fn a_folded_payload_that_does_not_fit_is_minimal() {
    let relation = posts(&["id integer", "status text"]);
    let row = |c: &str| format!(r#"{{"id":1,"status":"{}"}}"#, c.repeat(5_000));
    let (long, other) = (row("a"), row("b"));
    let short = r#"{"id":1,"status":"c"}"#;
    let rows = [(Some(&*long), Some(short)), (Some(short), Some(&*other))];
    let folded = fold(orders(), &relation, &rows, &[Action::Updated]);
    assert!(folded.is_partial());
    let data = r#"{"entity":"post","action":"updated","id":1,"changed":["status"],"count":2,"#;
    assert!(folded.0.data().starts_with(data), "{}", folded.0.data());
}

#[test]
fn only_what_folding_changes_is_kept_to_be_drawn_again() {
    let relation = posts(&["id integer", "status text"]);
    let payload = |data: &str| {
        let config = format!("table = 'posts'\nchannels = 'posts'\ndata = {data}");
        let rules = rules(toml::from_str(&config).unwrap());
        let row = fields(&relation, r#"{"id":1,"status":"a"}"#);
        let change = batch(&relation, Some(row.clone()), Some(row));
        route_all(&mut Router::new(Arc::new(rules)), &change).remove(0).payload
    };
    for data in [
        "{ a = '{{ id }} {{ new.status }} {{ at }} {{ Entity }}' }",
        "{ a = '{{ status | upper }}', b = [1, '{{ table }}'] }",
    ] {
        assert!(matches!(payload(data), Payload::Own(_)), "{data}");
    }
    for data in [
        "{ a = '{{ old.status }}' }",
        "{ a = { b = ['{{ Action }}'] } }",
        "{ a = \"{{ changed | join(',') }}\" }",
        "{ a = '{% if old %}{% endif %}' }",
        "{ a = \"{{ old['status'] | upper }}\" }",
    ] {
        assert!(matches!(payload(data), Payload::Drawn { .. }), "{data}");
    }
}

#[test]
fn a_list_of_too_many_changed_columns_is_left_out() {
    let columns: Vec<String> = (0..400).map(|n| format!("column_{n:03} integer")).collect();
    let mut columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    columns.insert(0, "id integer");
    let relation = posts(&columns);
    let row = |count: usize| -> String {
        let values: Vec<String> =
            (0..400).map(|n| format!(r#","column_{n:03}":{}"#, usize::from(n < count))).collect();
        format!(r#"{{"id":1{}}}"#, values.concat())
    };
    let rules = || {
        rules(toml::toml! {
            table = "posts"
            channels = "posts"
        })
    };
    let (none, some, all) = (row(0), row(20), row(400));
    let one = fold(rules(), &relation, &[(Some(&none), Some(&some))], &[]);
    assert!(one.0.data().contains(r#""column_019"]"#));
    for rows in [
        &[(Some(&*none), Some(&*all))][..],
        &[(Some(&none), Some(&some)), (Some(&some), Some(&all))],
    ] {
        let folded = fold(rules(), &relation, rows, &vec![Action::Updated; rows.len() - 1]);
        assert!(!folded.0.data().contains("changed"), "{}", folded.0.data());
        assert_eq!(folded.0.refusal, None);
    }
}

#[test]
fn folded_changes_have_the_last_ones_context_and_a_socket_only_if_it_is_of_all() {
    let rules = rules(toml::toml! {
        table = "posts"
        channels = "posts"
        data = { was = "{{ old.status }}", by = "{{ context.user_id }}" }
    });
    let relation = posts(&["id integer", "status text"]);
    let mut router = Router::new(Arc::new(rules));
    let mut told = |context: Option<&str>| {
        let row =
            |status: &str| Some(fields(&relation, &format!(r#"{{"id":1,"status":"{status}"}}"#)));
        let batch = batch_within(context, &relation, row("open"), row("paid"));
        route_all(&mut router, &batch).remove(0)
    };
    let ann = r#"{"user_id":7,"socket_id":"1.2"}"#;
    let bob = r#"{"user_id":8,"socket_id":"3.4"}"#;
    let mut both_of_ann = told(Some(ann));
    both_of_ann.absorb(told(Some(ann)), Action::Updated);
    assert_eq!(both_of_ann.socket_id.as_deref(), Some("1.2"));
    for (earlier, later, by) in [(ann, Some(bob), "8"), (ann, None, "null")] {
        let mut folded = told(later);
        folded.absorb(told(Some(earlier)), Action::Updated);
        assert_eq!(folded.socket_id, None);
        assert_eq!(folded.data(), format!(r#"{{"by":{by},"was":"open"}}"#));
    }
}

#[test]
fn a_payloads_shape_is_its_keys_and_what_all_rows_have_in_common() {
    let relation = posts(&["id integer", "status text"]);
    let shape = |data: &str| {
        let config = format!("table = 'posts'\nchannels = 'posts'\ndata = {data}");
        let row = fields(&relation, r#"{"id":1,"status":"a"}"#);
        let change = batch(&relation, None, Some(row));
        let mut router = Router::new(Arc::new(rules(toml::from_str(&config).unwrap())));
        route_all(&mut router, &change).remove(0).terms.shape.clone()
    };
    let one = shape("{ post_id = '{{ id }}', at = '{{ at }}', of = { n = 1, list = ['x'] } }");
    assert_eq!(one, Shape::Own(r#"{"at":*,"of":{"list":["x",],"n":1,},"post_id":*,}"#.into()));
    let alike = [
        "{ of = { list = ['x'], n = 1 }, at = '{{ at | iso8601 }}', post_id = '{{ status }}' }",
        "{ at = '{{ action }}', post_id = '{% if true %}1{% endif %}', of = { n = 1, list = ['x'] } }",
    ];
    assert_eq!(alike.map(shape), [one.clone(), one.clone()]);
    for other in [
        "{ post_id = '{{ id }}', at = '{{ at }}', of = { n = 2, list = ['x'] } }",
        "{ post_id = '{{ id }}', at = '{{ at }}', of = { n = 1, list = ['{{ status }}'] } }",
        "{ post_id = '{{ id }}' }",
    ] {
        assert_ne!(shape(other), one, "{other}");
    }
    assert_eq!(shape("{ of = 'my {{ entity }}' }"), Shape::Own(r#"{"of":"my post",}"#.into()));
    for before in [
        "{ a = '{{ old.status }}' }",
        "{ a = [\"{{ changed | join(',') }}\"] }",
        "{ a = '{{ old | length }}' }",
        "{ a = '{% if old.id %}{% endif %}' }",
    ] {
        assert_eq!(shape(before), Shape::Before, "{before}");
    }
}
