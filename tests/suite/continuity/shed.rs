//! The endpoint is away, and Postgres must not keep log for ever.

use std::sync::Arc;
use std::time::Duration;

use super::Scene;
use crate::harness::{
    cluster::{Cluster, Version},
    database::Database,
    wait::{SOON, eventually},
};

/// So that no other resync comes between.
pub(super) const ONE_MEBIBYTE: &str = "max_retained_wal = '1MiB'\ncollapse_above = 1000000";

/// The log is looked at every five seconds, and twice before a warning.
const LATER: Duration = Duration::from_secs(40);

/// What others write counts as log that waits: on a shared cluster, another test's `create database` is enough to shed.
pub(super) async fn alone() -> Database {
    let cluster: Arc<Cluster> = Cluster::start(Version::DEFAULT, &[]).await.into();
    Database::fresh(&cluster).await
}

impl Scene {
    /// Writes this much log at least, by rows of the table from 1000 on.
    pub(super) async fn write_mebibytes(&self, count: usize) {
        let rows = format!(
            "insert into posts select 1000 + i, repeat('x', 1000) from generate_series(1, {}) i
             on conflict (id) do update set title = posts.title || 'y'",
            count * 1000
        );
        self.database.psql(&rows).await;
    }

    /// The same by rows that nobody has to be told of, so that none of it waits to be delivered.
    async fn write_mebibytes_elsewhere(&self, count: usize) {
        let rows = format!(
            "create table others as select repeat('x', 1000) from generate_series(1, {}) i",
            count * 1000
        );
        self.database.psql(&rows).await;
    }
}

#[tokio::test]
async fn log_that_waits_for_the_endpoint_is_let_go_and_every_page_is_told() {
    let mut scene = Scene::with(alone().await, "", ONE_MEBIBYTE).await.settled().await;
    let run = scene.run().await;
    scene.endpoint.refuse_connections().await;
    for _ in 0..2 {
        scene.write_mebibytes(2).await;
        let written = scene.database.written().await;
        eventually(LATER, "the log is let go", async || {
            (scene.database.confirmed().await >= written).then_some(())
        })
        .await;
    }
    let told = run.stderr.wait_for(SOON, "more than the 1 MiB of max_retained_wal").await;
    assert!(told.contains("WARN") && told.contains("pages are told to fetch again"), "{told}");
    run.stderr.wait_for(SOON, "going on from").await;
    assert_eq!(scene.state()["owed"]["posts"], "shed");
    assert_eq!(scene.resyncs(), ["gap"]);

    scene.endpoint.come_back();
    scene.resynced(1, "shed").await;
    scene.insert(1).await;
    scene.arrives(1).await;
    scene.wait_settled().await;
    assert!(run.is_running());
}

#[tokio::test]
async fn log_that_waits_for_a_rule_to_be_mended_is_let_go_too() {
    let scene = Scene::with(alone().await, "", ONE_MEBIBYTE).await.settled().await;
    let run = scene.run().await;
    scene.database.psql("alter table posts rename to articles").await;
    scene.database.psql("insert into articles select 1000 + i, repeat('x', 1000) from generate_series(1, 2000) i").await;
    run.stderr.wait_for(SOON, "streaming pauses until this is mended").await;
    let written = scene.database.written().await;
    eventually(LATER, "the log is let go", async || {
        (scene.database.confirmed().await >= written).then_some(())
    })
    .await;
    scene.database.psql("alter table articles rename to posts").await;
    scene.resynced(1, "shed").await;
    scene.insert(1).await;
    scene.arrives(1).await;
    assert!(run.is_running());
}

#[tokio::test]
async fn log_that_an_open_transaction_keeps_is_not_shed_but_told_with_its_pid() {
    let scene = Scene::with(alone().await, "", ONE_MEBIBYTE).await.settled().await;
    let writer = scene.database.client().await;
    writer.batch_execute("begin; insert into posts values (1, 'open')").await.unwrap();
    let pid: i32 = writer.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let run = scene.run().await;
    scene.write_mebibytes_elsewhere(3).await;
    let told = run.stderr.wait_for(LATER, "Postgres keeps log for").await;
    assert!(told.contains(&format!("the transaction of backend {pid}")), "{told}");
    assert!(told.contains("open for"), "{told}");
    assert_eq!(scene.state()["owed"], serde_json::json!({}));
    writer.batch_execute("commit").await.unwrap();
    scene.arrives(1).await;
    assert_eq!(scene.resyncs(), ["gap"]);
}

#[tokio::test]
async fn a_role_that_may_not_see_all_of_an_old_transaction_is_told_what_it_lacks() {
    let scene = Scene::with(alone().await, "", ONE_MEBIBYTE).await.settled().await;
    scene.database.psql("create role least login replication").await;
    scene.configure_text(|text| text.replace("postgres://postgres@", "postgres://least@"));
    let writer = scene.database.client().await;
    writer.batch_execute("begin; insert into posts values (1, 'open')").await.unwrap();
    let pid: i32 = writer.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let run = scene.run().await;
    scene.write_mebibytes_elsewhere(3).await;
    let told = run.stderr.wait_for(LATER, "Postgres keeps log for").await;
    assert!(told.contains(&format!("the transaction of backend {pid}")), "{told}");
    assert!(told.contains("GRANT pg_read_all_stats"), "{told}");
}
