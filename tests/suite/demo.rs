//! `rowcast demo`, which needs nothing and leaves nothing behind.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;

use crate::harness::{
    rowcast::Rowcast,
    wait::{SOON, eventually},
};

/// For making a cluster and removing it, besides writing.
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_demo_loses_nothing_and_leaves_nothing_behind() {
    let rowcast = Rowcast::without_config();
    let demo = rowcast.start(&["demo", "--for", "5s", "--json"]);
    assert_eq!(demo.exit_code(DEADLINE).await, 0, "{:#?}", demo.stderr.all());

    let lines = demo.stdout.all();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let summary: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    let number = |key: &str| summary[key].as_f64().unwrap_or_else(|| panic!("{key}: {summary}"));
    assert_eq!(number("lost"), 0.0, "{summary}");
    assert!(number("rolled_back") > 0.0, "{summary}");
    assert_eq!(number("rolled_back_sent"), 0.0, "{summary}");
    assert!(number("changes") > 20.0, "{summary}");
    assert!(number("notifications") >= number("changes"), "{summary}");
    assert!((1.0..=number("notifications")).contains(&number("requests")), "{summary}");
    assert!((0.0..=number("p99_ms")).contains(&number("p50_ms")), "{summary}");

    assert_eq!(left_in(rowcast.folder()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_demo_shows_each_kind_of_change_and_a_rollback_that_sends_nothing() {
    let rowcast = Rowcast::without_config();
    let demo = rowcast.start(&["demo", "--for", "10s"]);
    assert_eq!(demo.exit_code(DEADLINE).await, 0, "{:#?}", demo.stderr.all());
    let lines = demo.stdout.all();
    for (step, sent) in [
        ("insert into posts", "PostCreated on private-posts, private-posts.301"),
        ("update 200 posts in one statement", "200 × PostUpdated on 201 channels"),
        ("rollback", "nothing is sent"),
        ("(soft delete)", "PostDeleted on private-posts, private-posts.1"),
        ("delete from comments", "CommentDeleted on private-posts.2.comments"),
        ("rolled back", "none sent"),
        ("lost", "0"),
    ] {
        let found = lines.iter().any(|line| line.contains(step) && line.contains(sent));
        assert!(found, "{step}: {sent}\n{lines:#?}");
    }
}

#[tokio::test]
async fn an_interrupted_demo_sums_up_and_leaves_nothing_behind() {
    let rowcast = Rowcast::without_config();
    let demo = rowcast.start(&["demo", "--for", "1h", "--json"]);
    demo.stderr.wait_for(DEADLINE, "PostCreated").await;
    demo.signal(Signal::INT);
    assert_eq!(demo.exit_code(DEADLINE).await, 0, "{:#?}", demo.stderr.all());
    assert_eq!(demo.stdout.all().len(), 1);
    assert_eq!(left_in(rowcast.folder()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_killed_demo_leaves_nothing_behind() {
    let rowcast = Rowcast::without_config();
    let demo = rowcast.start(&["demo", "--for", "1h"]);
    demo.stdout.wait_for(DEADLINE, "PostCreated").await;
    assert_ne!(left_in(rowcast.folder()), Vec::<PathBuf>::new());
    demo.kill9();
    eventually(SOON, "all of the demo is gone", async || {
        left_in(rowcast.folder()).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_demo_that_is_killed_or_interrupted_while_it_starts_leaves_nothing_behind() {
    for signal in [Signal::KILL, Signal::TERM] {
        let rowcast = Rowcast::without_config();
        let demo = rowcast.start(&["demo"]);
        eventually(DEADLINE, "the cluster is being made", async || {
            let left = left_in(rowcast.folder());
            left.iter().any(|path| path.starts_with("/proc")).then_some(())
        })
        .await;
        demo.signal(signal);
        // What makes the cluster is not stopped halfway.
        eventually(DEADLINE, "all of the demo is gone", async || {
            left_in(rowcast.folder()).is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_demo_runs_where_the_path_is_too_long_for_a_unix_socket_and_pg_variables_are_set() {
    let rowcast = Rowcast::without_config();
    let long = rowcast.folder().join("x".repeat(100));
    fs::create_dir(&long).unwrap();
    let rowcast = rowcast
        .env("TMPDIR", long.to_str().unwrap())
        .env("PGDATA", "/nowhere")
        .env("PGPORT", "1")
        .env("PGHOST", "192.0.2.1")
        .env("PGOPTIONS", "-c search_path=nowhere")
        .env("PGSSLMODE", "verify-full");
    let demo = rowcast.start(&["demo", "--for", "1s"]);
    assert_eq!(demo.exit_code(DEADLINE).await, 0, "{:#?}", demo.stderr.all());
    assert_eq!(left_in(&long), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_folder_without_postgres_is_refused_by_name() {
    let rowcast = Rowcast::without_config();
    let folder = rowcast.folder().join("empty");
    fs::create_dir(&folder).unwrap();
    let demo = rowcast.start(&["demo", "--postgres", folder.to_str().unwrap()]);
    assert_eq!(demo.exit_code(SOON).await, 1);
    demo.stderr.wait_for(SOON, "empty has no initdb").await;
}

/// The files in the folder, and the processes that work in it or name it.
fn left_in(folder: &Path) -> Vec<PathBuf> {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let mut left: Vec<PathBuf> = entries(folder).map(|entry| entry.path()).collect();
    let name = folder.to_str().expect("it is UTF-8");
    for process in entries(Path::new("/proc")).map(|entry| entry.path()) {
        let works_in_it = fs::read_link(process.join("cwd"))
            .is_ok_and(|cwd| cwd.starts_with(folder) && cwd != folder);
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        if works_in_it || String::from_utf8_lossy(&command).contains(&format!("{name}/")) {
            left.push(process);
        }
    }
    left
}
