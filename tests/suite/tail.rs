//! `rowcast tail`: what it prints, what it counts, and what it writes down.

mod record;
mod why;

use serde_json::{Value, json};

use crate::harness::{
    cluster::Version, database::Database, process::Process, rowcast::Rowcast, wait::SOON,
};

const RULES: &str = "[[rule]]
table = 'posts'
channels = ['posts', 'private-posts.{{ id }}']
[[rule]]
name = 'all'
table = 'posts'
channels = 'everything'
on = ['created']
resync = false
";

/// With nobody at the endpoint's address: nothing is sent there.
fn configured(database: &str, rules: &str) -> Rowcast {
    Rowcast::new(&format!(
        "{database}[pusher]\nurl = 'http://127.0.0.1:9'\napp_id = '1'\nkey = 'k'\nsecret = 's'\n\
         [run]\nstate_dir = 'state'\n{rules}"
    ))
}

/// Each line that it has printed.
fn printed(process: &Process) -> Vec<Value> {
    let lines = process.stdout.all();
    lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

async fn tail(database: &Database, arguments: &[&str]) -> (Rowcast, Process) {
    database.psql("create table posts (id int primary key, title text)").await;
    let rowcast = configured(&database.toml(), RULES);
    let setup = rowcast.start(&["setup"]);
    assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
    let tail = rowcast.start(arguments);
    tail.stderr.wait_for(SOON, "streaming changes").await;
    // One is announced and the others, which come within its window, are folded.
    database
        .psql(
            "insert into posts select i, 'a' from generate_series(1, 3) i;
             update posts set title = 'b' where id = 1;
             update posts set title = 'c' where id = 1;
             update posts set title = 'd' where id = 1;
             truncate posts;",
        )
        .await;
    (rowcast, tail)
}

#[tokio::test]
async fn tail_for_a_time_ends_with_an_estimate_for_programs_in_the_last_line() {
    let database = Database::on(Version::V15).await;
    let (_rowcast, tail) = tail(&database, &["tail", "-v", "--json", "--for", "12s"]).await;
    assert_eq!(tail.exit_code(2 * SOON).await, 0, "{:?}", tail.stderr.all());
    let lines = printed(&tail);
    let (last, printed) = lines.split_last().expect("it has printed");
    let of = |action: &str| printed.iter().filter(|line| line["action"] == action).count();
    assert_eq!((of("created"), of("updated")), (6, 3), "{printed:?}");
    // One by each rule.
    assert_eq!(of("resync"), 2, "{printed:?}");

    let estimate = &last["estimate"];
    let rules = estimate["rules"].as_array().expect("rules");
    let [all, posts] = &rules[..] else { panic!("{rules:?}") };
    assert_eq!(
        (&all["rule"], &all["notifications"], &all["messages"]),
        (&json!("all"), &json!(3), &json!(3))
    );
    // Three rows, each at once, and of the updates of one at most those in windows of their own.
    let notifications = posts["notifications"].as_u64().expect("a number");
    assert!((3..=6).contains(&notifications), "{posts}");
    assert_eq!(posts["messages"], notifications * 2);
    assert_eq!((&posts["resyncs"], &posts["resync_messages"]), (&json!(1), &json!(3)));
    assert_eq!(
        (&posts["resyncs_tell_occupied"], &all["resyncs_tell_occupied"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(estimate["messages"], 3 + notifications * 2);
    let seconds = estimate["seconds"].as_f64().expect("a number");
    assert!((12.0..30.0).contains(&seconds), "{estimate}");
    let a_day = estimate["messages_a_day"].as_f64().expect("a number");
    let expected = (3 + notifications * 2) as f64 * 86_400.0 / seconds;
    assert!((a_day - expected).abs() < expected / 100.0, "{estimate}");
}

#[tokio::test]
async fn tail_for_a_time_ends_with_an_estimate_for_people_also_when_it_is_interrupted() {
    let database = Database::on(Version::V15).await;
    let (_rowcast, tail) = tail(&database, &["tail", "-v", "--for", "1h"]).await;
    tail.stdout.wait_for(SOON, "post resync truncate").await;
    tail.sigterm();
    assert_eq!(tail.exit_code(SOON).await, 0, "{:?}", tail.stderr.all());
    let said = tail.stderr.all().join("\n");
    assert!(said.contains("all                3            3"), "{said}");
    assert!(said.contains("posts: resyncs apart from that: 1 (messages: 3"), "{said}");
    assert!(said.contains("counts it, and the copy of each\nsubscriber"), "{said}");
    assert!(!tail.stdout.all().join("\n").contains("a day"), "{said}");
}

#[tokio::test]
async fn tail_for_no_time_is_wrong_usage() {
    let rowcast = Rowcast::without_config();
    for length in ["0s", "10", "soon"] {
        let refused = rowcast.start(&["tail", "--for", length]);
        assert_eq!(refused.exit_code(SOON).await, 2, "{length}");
        let said = refused.stderr.all().join("\n");
        assert!(said.contains("expected a duration such as 10m or 90s"), "{said}");
    }
}
