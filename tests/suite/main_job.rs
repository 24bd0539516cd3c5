//! The main job, whole: rows written to a real Postgres are heard by real pusher-js through a real Pusher-compatible
//! server.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{
    capture::{Capture, over_both},
    client::{Heard, Listener},
    cluster::{Version, on_every_version},
    database::Database,
    rowcast::Rowcast,
    sockudo::Sockudo,
    wait::SOON,
};

/// A configuration for this database and Sockudo, before its rules.
async fn config(database: &Database, capture: Capture, sockudo: &Sockudo, rules: &str) -> String {
    format!(
        "{}[pusher]\nurl = '{}'\napp_id = '{}'\nkey = '{}'\nsecret = '{}'\nserver = 'sockudo'\n\
         [run]\nstate_dir = 'state'\n{rules}",
        database.toml_over(capture).await,
        sockudo.url(),
        Sockudo::APP_ID,
        Sockudo::KEY,
        Sockudo::SECRET,
    )
}

/// `PostUpdated 1` by channel, in the order heard.
fn by_channel(heard: &[Heard]) -> BTreeMap<&str, Vec<String>> {
    let mut channels: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for Heard { channel, event, data, .. } in heard {
        channels.entry(channel).or_default().push(format!("{event} {}", data["id"]));
    }
    channels
}

on_every_version! {
    async fn committed_rows_and_only_they_reach_pusher_js(version: Version) {
        over_both(async |capture| committed_rows_reach_pusher_js(version, capture).await).await;
    }
}

async fn committed_rows_reach_pusher_js(version: Version, capture: Capture) {
    let database = Database::on(version).await;
    let sockudo = Sockudo::shared().await;
    database
        .psql(
            "create table posts (id int primary key, title text, status text);
                 insert into posts select i, 'old', 'draft' from generate_series(100, 119) i;",
        )
        .await;
    let list = format!("private-posts-{}", database.name);
    let public = format!("posts-{}", database.name);
    let rules =
        format!("[[rule]]\ntable = 'posts'\nchannels = ['{list}', '{public}']\ncoalesce = false\n");
    let rowcast = Rowcast::new(&config(&database, capture, sockudo, &rules).await);
    database.set_up(&rowcast, capture).await;
    let listener = Listener::join(sockudo, &[&list, &public]).await;
    let run = rowcast.start(&["run"]);
    run.stderr.wait_for(SOON, "streaming changes").await;

    database
        .psql(
            "insert into posts values (1, 'a', 'draft');
                 begin; insert into posts values (2, 'never', 'draft'); rollback;
                 begin; insert into posts values (3, 'kept', 'draft'); savepoint s;
                 insert into posts values (4, 'undone', 'draft'); rollback to s; commit;
                 update posts set status = 'published' where id >= 100;
                 delete from posts where id = 1;
                 insert into posts values (5, 'last', 'draft');",
        )
        .await;
    database.delivered(capture).await;
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
    // This is accepted after all the others.
    sockudo.publish(&[&list, &public], "last", &json!({})).await;
    for channel in [&list, &public] {
        let is_last = |heard: &Heard| heard.channel == *channel && heard.event == "last";
        listener.wait_for(SOON, "the last event", is_last).await;
    }

    let mut heard = listener.heard();
    // At its first start rowcast does not know what it has missed, so it tells a resync.
    heard.retain(|heard| heard.event != "last" && heard.data["action"] != "resync");
    let channels = by_channel(&heard);
    for channel in [&*list, &*public] {
        // Lanes of different ids run side by side: order is per id.
        let mut events = channels[channel].clone();
        events.sort();
        let updated = (100..120).map(|id| format!("PostUpdated {id}"));
        let mut expected: Vec<String> =
            ["PostCreated 1", "PostCreated 3", "PostCreated 5", "PostDeleted 1"]
                .map(str::to_owned)
                .into_iter()
                .chain(updated)
                .collect();
        expected.sort();
        assert_eq!(events, expected, "on {channel}");
        let of_1: Vec<&String> =
            channels[channel].iter().filter(|event| event.ends_with(" 1")).collect();
        assert_eq!(of_1, ["PostCreated 1", "PostDeleted 1"]);
    }
    let created = heard.iter().find(|heard| heard.data["id"] == json!(3)).unwrap();
    let Value::Object(data) = &created.data else { panic!("{created:?}") };
    assert_eq!(data["entity"], "post");
    assert_eq!(data["action"], "created");
    assert!(data["at"].as_str().unwrap().ends_with('Z'), "{data:?}");
    assert_eq!(data.len(), 4, "{data:?}");
}
