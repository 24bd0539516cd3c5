//! `--record`: what was told is told again from the file.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use rowcast::{
    change::{Item, Parents},
    config,
    notification::Handoff,
    route::{Options, Router, Rules},
    source::recording::Recording,
};
use serde_json::{Value, json};

use super::{configured, printed};
use crate::harness::{
    capture::over_both, cluster::Version, database::Database, rowcast::Rowcast, wait::SOON,
};

const RULES: &str = r#"
[[rule]]
table = "posts"
channels = ["private-posts.{{ id }}", "private-users.{{ user_id }}"]
where = "status != 'draft'"
[[rule]]
name = "toasts"
table = "posts"
channels = "toasts"
on = ["updated"]
changed = ["body"]
when = "old.status != 'archived'"
data = { title = "{{ title }}", was = "{{ old.title }}", by = "{{ context.user_id }}" }
[broadcast]
channels = "admin.*"
events = "*"
"#;

/// What rules now make of the recording, as `tail --json` tells it.
fn told_again(rowcast: &Rowcast, recording: &Path) -> Vec<Value> {
    let loaded = config::load(&rowcast.folder().join("rowcast.toml"), &|_| None).expect("loads");
    let options = Options {
        timezone: loaded.config.database.timezone.get().clone(),
        max_data_bytes: loaded.config.pusher.server.capacity().max_data_bytes(),
        encrypts: false,
    };
    let broadcasts =
        rowcast::route::Broadcasts::new(loaded.config.broadcast.clone(), &options).expect("valid");
    let rules = Rules::compile(loaded.config.rule.clone(), options).expect("compiles");
    let mut router = Router::new(Arc::new(rules.with(broadcasts)));
    let mut recording = Recording::open(recording, None).expect("a recording");
    let (mut told, mut missing) = (Handoff::default(), BTreeSet::new());
    let parents = Parents::default();
    let mut resyncs = 0;
    while let Some(batch) = recording.next().expect("it can be read") {
        for item in batch.items() {
            match item {
                Item::Change(change) => {
                    router.route(&change, &parents, &mut missing, &mut told).expect("routed");
                }
                Item::Broadcast { broadcast, transaction, context } => router
                    .broadcast(broadcast, transaction, context, &mut told.notifications)
                    .expect("allowed"),
                Item::Truncate { .. } => resyncs += 1,
                Item::Missed { .. } => panic!("nothing was missed"),
                Item::Reached(_) => {}
            }
        }
    }
    assert_eq!((resyncs, missing.len()), (1, 0));
    let as_json = |notification: &rowcast::notification::Notification| {
        let data: Value = serde_json::from_str(&notification.data()).expect("JSON");
        json!({
            "rule": &*notification.terms.rule,
            "event": notification.event.as_str(),
            "channels": notification.channels.iter().map(|it| it.as_str()).collect::<Vec<_>>(),
            "id": serde_json::from_str::<Value>(&notification.id).expect("JSON"),
            "data": data,
            "at": notification.at.to_string(),
            "position": notification.position.value(),
            "socket_id": notification.socket_id.as_deref(),
        })
    };
    told.notifications.iter().map(as_json).collect()
}

#[tokio::test]
async fn what_was_recorded_gives_the_notifications_that_were_tailed_and_holds_nothing_else() {
    over_both(async |capture| {
        let database = Database::on(Version::V15).await;
        database
            .psql(
                "create table posts (
                     id bigint primary key, title text, body text, status text not null,
                     user_id int, price numeric, password text);
                 create table comments (id int primary key);",
            )
            .await;
        let rowcast = configured(&database.toml_over(capture).await, RULES);
        database.set_up(&rowcast, capture).await;
        let tail = rowcast.start(&["tail", "--json", "-v", "--record", "changes.jsonl"]);
        tail.stderr.wait_for(SOON, "streaming changes").await;
        database
            .psql(
                "insert into posts values
                     (1, 'a', repeat('x', 3000), 'draft', 7, 1.50, 'hunter2'),
                     (2, E'b\\n\"é\u{2028}', null, 'published', null, 2, 'hunter2');
                 begin;
                 select rowcast.context('{\"user_id\": 9, \"socket_id\": \"1.2\"}');
                 update posts set status = 'published', price = 3 where id = 1;
                 update posts set body = 'y', title = 'c' where id = 1;
                 select rowcast.broadcast('admin.7', 'Paid', '{\"id\":  42}');
                 commit;
                 update posts set id = 3, user_id = 8 where id = 2;
                 update posts set password = 'hunter3' where id = 3;
                 delete from posts where id = 1;
                 truncate posts;
                 insert into posts values (4, 'last', null, 'published', 1, null, 'hunter2');",
            )
            .await;
        tail.stdout.wait_for(SOON, "private-posts.4").await;
        tail.sigterm();
        assert_eq!(tail.exit_code(SOON).await, 0, "{:?}", tail.stderr.all());
        let said = tail.stderr.all().join("\n");
        assert!(said.contains("changes.jsonl: rowcast replay --recording changes.jsonl"), "{said}");

        let path = rowcast.folder().join("changes.jsonl");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(&path).expect("it is text");
        for absent in ["hunter", "1.50", "xxxx"] {
            assert!(!text.contains(absent), "{absent} in {text}");
        }
        let printed = printed(&tail);
        let told = told(&printed);
        let fields = ["rule", "event", "channels", "id", "data", "at", "position", "socket_id"];
        let some = |line: &Value| {
            fields.iter().map(|name| ((*name).to_owned(), line[name].clone())).collect()
        };
        let tailed: Vec<Value> = told.iter().map(some).collect();
        assert!(tailed.len() > 7, "{tailed:?}");
        assert_eq!(told_again(&rowcast, &path), tailed);

        replays(&rowcast, &printed).await;

        let again = rowcast.start(&["tail", "--record", "changes.jsonl"]);
        assert_eq!(again.exit_code(SOON).await, 1);
        let said = again.stderr.all().join("\n");
        assert!(said.contains("changes.jsonl is there already, and is not overwritten"), "{said}");
        assert_eq!(fs::read_to_string(&path).expect("it is text"), text);
    })
    .await;
}

/// The notifications of it.
fn told(printed: &[Value]) -> Vec<Value> {
    let is_told = |line: &&Value| line["action"].is_string() && line["action"] != "resync";
    printed.iter().filter(is_told).cloned().collect()
}

/// `replay --recording` tells what `tail` has told.
async fn replays(rowcast: &Rowcast, tailed: &[Value]) {
    let replay = async |arguments: &[&str]| {
        let usual = ["replay", "--recording", "changes.jsonl", "--dry-run", "--json"];
        let replay = rowcast.start(&[&usual[..], arguments].concat());
        (replay.exit_code(SOON).await, replay)
    };
    let all = ["--rule", "posts", "--rule", "toasts", "--rule", "broadcast"];
    let (code, whole) = replay(&all).await;
    assert_eq!(code, 0, "{:?}", whole.stderr.all());
    let whole = printed(&whole);
    assert_eq!(told(&whole), told(tailed));
    let resyncs = |lines: &[Value]| lines.iter().filter(|line| line["action"] == "resync").count();
    assert_eq!(resyncs(&whole), resyncs(tailed));
    let summary = whole.last().expect("it has printed");
    assert_eq!((&summary["done"], &summary["changes"]), (&json!(true), &summary["delivered"]));

    // What is more than a call to fetch is told by name alone.
    let (code, usual) = replay(&[]).await;
    let said = usual.stderr.all().join("\n");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Skipped: rule toasts, since it tells of `old` or `changed`"), "{said}");
    assert!(said.contains("Skipped: rule broadcast, since application events"), "{said}");
    let by_posts = |lines: Vec<Value>| -> Vec<Value> {
        lines.into_iter().filter(|line| line["rule"] == "posts").collect()
    };
    assert_eq!(told(&printed(&usual)), by_posts(told(tailed)));

    let third = told(tailed)[2]["position"].as_u64().expect("a position");
    let after = third.to_string();
    let (code, rest) = replay(&[&all[..], &["--after", &after]].concat()).await;
    assert_eq!(code, 0, "{:?}", rest.stderr.all());
    let mut later = told(tailed);
    later.retain(|line| line["position"].as_u64() > Some(third));
    assert_eq!(told(&printed(&rest)), later);

    let path = rowcast.folder().join("changes.jsonl");
    let text = fs::read_to_string(&path).expect("it is text");
    fs::write(&path, format!("{text}nonsense\n")).expect("it is written");
    let (code, garbage) = replay(&all).await;
    let said = garbage.stderr.all().join("\n");
    assert_eq!((code, garbage.stdout.all().len()), (1, 0), "{said}");
    assert!(said.contains(&format!("line {}: ", text.lines().count() + 1)), "{said}");
    fs::write(&path, text).expect("it is written");
}
