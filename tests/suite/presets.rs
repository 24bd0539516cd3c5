//! What presets stand for, to pages that use Echo as Laravel's documentation shows it.

use serde_json::{Value, json};

use crate::harness::{
    capture::{Capture, over_both},
    client::{EchoChannel, Heard, Listener},
    cluster::Version,
    database::Database,
    process::Process,
    rowcast::Rowcast,
    sockudo::Sockudo,
    wait::SOON,
};

/// Set up, and streaming.
async fn run(
    database: &Database,
    capture: Capture,
    sockudo: &Sockudo,
    rules: &str,
) -> (Rowcast, Process) {
    let pusher = format!(
        "[pusher]\nurl = 'http://127.0.0.1:{}'\napp_id = '{}'\nkey = '{}'\nsecret = '{}'\nserver = 'sockudo'\n",
        sockudo.port,
        Sockudo::APP_ID,
        Sockudo::KEY,
        Sockudo::SECRET,
    );
    let database_toml = database.toml_over(capture).await;
    let config = format!("{database_toml}{pusher}[run]\nstate_dir = 'state'\n{rules}");
    let rowcast = Rowcast::new(&config);
    database.set_up(&rowcast, capture).await;
    let run = rowcast.start(&["run"]);
    run.stderr.wait_for(SOON, "streaming changes").await;
    (rowcast, run)
}

/// The events that `useEchoModel` knows.
const EVENTS: [&str; 5] =
    [".PostCreated", ".PostUpdated", ".PostTrashed", ".PostDeleted", ".PostRestored"];

#[tokio::test]
async fn pages_that_listen_to_a_model_hear_what_laravel_would_have_told_them() {
    over_both(async |capture| pages_listen_to_a_model(capture).await).await;
}

async fn pages_listen_to_a_model(capture: Capture) {
    // They share a server.
    let id = match capture {
        Capture::Wal => 4711,
        Capture::Triggers => 4712,
    };
    let database = Database::on(Version::V15).await;
    database
        .psql(
            "create table posts (id bigint primary key, title varchar(255), remember_token text, \
             published_at timestamp, deleted_at timestamp); \
             alter table posts replica identity full",
        )
        .await;
    let sockudo = Sockudo::shared().await;
    let echo = Listener::join(sockudo, &[]).await;
    for event in EVENTS {
        echo.listen_by_echo(EchoChannel::Private, &format!("App.Models.Post.{id}"), event).await;
    }
    let rules =
        "[[rule]]\ntable = '*'\npreset = 'laravel-model'\ncolumns = ['title', 'published_at']\n";
    let (_rowcast, _run) = run(&database, capture, sockudo, rules).await;

    let whole = |title: &str| {
        let model =
            json!({ "id": id, "title": title, "published_at": "2026-11-20T21:34:00.000000Z" });
        json!({ "model": model, "connection": null, "queue": null, "afterCommit": false })
    };
    let steps: [(&str, &[&str], Value); 7] = [
        (
            "insert into posts values ($id, 'a', 'x', '2026-11-20 21:34:00'), (1, 'b', null, null)",
            &["PostCreated"],
            whole("a"),
        ),
        ("update posts set title = 'b'", &["PostUpdated"], whole("b")),
        (
            "update posts set deleted_at = now() where id = $id",
            &["PostTrashed", "PostDeleted"],
            whole("b"),
        ),
        (
            "update posts set deleted_at = null where id = $id",
            &["PostUpdated", "PostRestored"],
            whole("b"),
        ),
        // A page that listens to one of them does not hear the others.
        (
            "begin; update posts set title = 'c' where id = $id; \
             update posts set deleted_at = now() where id = $id; commit",
            &["PostUpdated", "PostTrashed", "PostDeleted"],
            whole("c"),
        ),
        ("delete from posts where id = $id", &["PostDeleted"], whole("c")),
        (
            "insert into posts values ($id, 'd', 'x', '2026-11-20 21:34:00')",
            &["PostCreated"],
            whole("d"),
        ),
    ];
    let mut expected: Vec<(&str, Value)> = Vec::new();
    for (sql, events, data) in &steps {
        database.psql(&sql.replace("$id", &id.to_string())).await;
        expected.extend(events.iter().map(|event| (*event, data.clone())));
        let mut count = 0;
        let is_last = |_: &Heard| {
            count += 1;
            count == expected.len()
        };
        echo.wait_for(SOON, &format!("{events:?} after {sql}"), is_last).await;
    }
    let heard = echo.heard();
    assert_eq!(heard.len(), expected.len(), "{heard:#?}");
    for (heard, (event, data)) in heard.iter().zip(&expected) {
        assert_eq!(heard.event, format!(".{event}"));
        assert_eq!(heard.data, *data, "{event}");
    }
}

#[tokio::test]
async fn a_resource_is_told_row_by_row_and_as_one_list() {
    over_both(async |capture| a_resource_is_told(capture).await).await;
}

async fn a_resource_is_told(capture: Capture) {
    let database = Database::on(Version::V15).await;
    let sockudo = Sockudo::shared().await;
    let name = &database.name;
    database.psql(&format!("create table {name} (id int primary key, title text)")).await;
    let (row, list) = (format!("private-{name}.7"), format!("private-{name}"));
    let page = Listener::join(sockudo, &[&row, &list]).await;
    let rules = format!("[[rule]]\ntable = '{name}'\nentity = 'post'\npreset = 'resource'\n");
    let (_rowcast, _run) = run(&database, capture, sockudo, &rules).await;

    database.psql(&format!("insert into {name} select i, 'a' from generate_series(1, 50) i")).await;
    let hears = async |channel: &String| {
        page.wait_for(SOON, channel, |heard| {
            heard.channel == *channel && heard.data["action"] == "created"
        })
        .await
    };
    let heard = hears(&row).await;
    assert_eq!((heard.event.as_str(), &heard.data["id"]), ("PostCreated", &json!(7)));
    // The stream may bring them in several pieces, of which the first is told at once.
    let mut counts = Vec::new();
    let all = |heard: &Heard| {
        if heard.channel == list && heard.data["action"] == "created" {
            assert_eq!(heard.event, "PostCreated");
            assert_eq!(heard.data["id"].is_null(), heard.data["count"].is_u64());
            counts.push(heard.data["count"].as_u64().unwrap_or(1));
        }
        counts.iter().sum::<u64>() == 50
    };
    page.wait_for(SOON, "all of the list", all).await;
    assert!(counts.len() < 10, "{counts:?}");
}
