//! The slot is lost, and its changes with it.

use std::sync::Arc;

use super::Scene;
use crate::harness::{
    cluster::{Cluster, Version},
    database::Database,
    wait::{SOON, eventually},
};

const STOP: &str = "on_slot_loss = 'stop'";

impl Scene {
    /// Ends whoever streams from the slot, and is faster than the next attempt.
    async fn drop_slot_in_use(&self) {
        let client = self.database.client().await;
        let slot = self.database.slot();
        let end = "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots \
                   where slot_name = $1 and active";
        let drop = "select pg_drop_replication_slot($1::text::name)";
        eventually(SOON, "the slot is dropped", async || {
            client.query(end, &[&slot]).await.unwrap();
            client.query(drop, &[&slot]).await.ok()
        })
        .await;
    }

    /// Writes log until Postgres gives the slot up.
    pub(super) async fn lose_slot(&self) {
        let client = self.database.client().await;
        client.batch_execute("create table if not exists filler (t text)").await.unwrap();
        let lost = "select wal_status = 'lost' from pg_replication_slots where slot_name = $1";
        eventually(SOON, "the slot is lost", async || {
            let write = "insert into filler select repeat('x', 1000) from generate_series(1, 100);
                         select pg_switch_wal(); checkpoint";
            client.batch_execute(write).await.unwrap();
            let row = client.query_one(lost, &[&self.database.slot()]).await.unwrap();
            row.get::<_, bool>(0).then_some(())
        })
        .await;
    }

    async fn stops(&self) {
        let run = self.rowcast.start(&["run"]);
        assert_eq!(run.exit_code(SOON).await, 1);
        let said = run.stderr.all().join("\n");
        assert!(said.contains("changes are lost with the slot"), "{said}");
        assert!(said.contains("help: on_slot_loss = \"resync\""), "{said}");
    }
}

/// Where a slot is given up soon.
pub(super) async fn cluster_of_little_log() -> Arc<Cluster> {
    let settings =
        [("max_slot_wal_keep_size", "16MB"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
    Cluster::start(Version::DEFAULT, &settings).await.into()
}

#[tokio::test]
async fn a_slot_that_was_dropped_and_made_again_by_setup_is_a_gap() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await.settled().await;
    scene.drop_slot().await;
    scene.insert(1).await;
    scene.set_up().await;
    let run = scene.run().await;
    run.stderr.wait_for(SOON, "it was made anew").await;
    scene.resynced(1, "gap").await;
    scene.insert(2).await;
    scene.arrives(2).await;
}

#[tokio::test]
async fn a_slot_dropped_under_a_running_rowcast_is_made_again_and_pages_are_told() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await.settled().await;
    let run = scene.run().await;
    scene.drop_slot_in_use().await;
    scene.insert(1).await;
    run.stderr.wait_for(SOON, "is made again, and every page is told").await;
    scene.resynced(1, "slot").await;
    scene.insert(2).await;
    scene.arrives(2).await;
    scene.wait_settled().await;
    assert!(run.is_running());
    scene.stop(run).await;
    assert_eq!(scene.resyncs(), ["gap", "slot"], "told once");
}

#[tokio::test]
async fn a_slot_dropped_under_a_running_rowcast_ends_it_if_it_is_to_stop() {
    let scene = Scene::with(Database::on(Version::DEFAULT).await, STOP, "").await.settled().await;
    let run = scene.run().await;
    scene.drop_slot_in_use().await;
    assert_eq!(run.exit_code(SOON).await, 1);
    let said = run.stderr.all().join("\n");
    assert!(said.contains("changes are lost with the slot"), "{said}");
    scene.stops().await;
    let left = "select count(*) from pg_replication_slots where slot_name = 'slot_";
    let left = format!("{left}{}'", scene.database.name);
    assert_eq!(scene.database.psql(&left).await, "0", "it is not made again");
}

#[tokio::test]
async fn a_slot_that_postgres_gave_up_is_made_again_and_pages_are_told() {
    let cluster = cluster_of_little_log().await;
    let scene = Scene::on(Database::fresh(&cluster).await).await.settled().await;
    scene.insert(1).await;
    scene.lose_slot().await;
    let _run = scene.run().await;
    scene.resynced(1, "slot").await;
    scene.insert(2).await;
    scene.arrives(2).await;
}

#[tokio::test]
async fn a_slot_that_postgres_gave_up_ends_rowcast_if_it_is_to_stop() {
    let cluster = cluster_of_little_log().await;
    let scene = Scene::with(Database::fresh(&cluster).await, STOP, "").await.settled().await;
    scene.lose_slot().await;
    scene.stops().await;
}

#[tokio::test]
async fn a_slot_that_nobody_made_is_not_made() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    scene.drop_slot().await;
    let run = scene.rowcast.start(&["run"]);
    assert_eq!(run.exit_code(SOON).await, 1);
    let said = run.stderr.all().join("\n");
    assert!(said.contains("does not exist") && said.contains("help: rowcast setup"), "{said}");
}

#[tokio::test]
async fn making_the_slot_again_says_what_it_waits_for_and_can_be_stopped_or_killed() {
    let cluster: Arc<Cluster> = Cluster::start(Version::DEFAULT, &[]).await.into();
    let scene = Scene::on(Database::fresh(&cluster).await).await.settled().await;
    let slots = "select count(*) from pg_replication_slots";
    scene.drop_slot().await;
    let writer = scene.database.client().await;
    writer.batch_execute("begin; insert into posts values (1, 'open')").await.unwrap();
    let pid: i32 = writer.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);

    let run = scene.rowcast.start(&["run"]);
    let told = run.stderr.wait_for(SOON, "waits for the transaction of backend").await;
    assert!(told.contains(&format!("backend {pid}")) && told.contains("open for"), "{told}");
    run.sigterm();
    run.ended(SOON).await;
    eventually(SOON, "nothing is left", async || {
        (scene.database.psql(slots).await == "0").then_some(())
    })
    .await;

    let run = scene.rowcast.start(&["run"]);
    run.stderr.wait_for(SOON, "waits for the transaction of backend").await;
    run.kill9();
    run.ended(SOON).await;
    let run = scene.rowcast.start(&["run"]);
    run.stderr.wait_for(SOON, "in use").await;
    writer.batch_execute("commit").await.unwrap();
    scene.resynced(1, "slot").await;
    scene.insert(2).await;
    scene.arrives(2).await;
}
