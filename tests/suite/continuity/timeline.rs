//! The server goes on from a copy of itself: after a failover, or a recovery from a backup.

use std::sync::Arc;

use serde_json::json;

use super::Scene;
use crate::harness::{
    cluster::{Cluster, Stop, Version},
    database::Database,
    wait::SOON,
};

impl Scene {
    /// Ends the timeline where the log ends, as a recovery from a backup does.
    async fn recover(&self) {
        let cluster = &self.database.cluster;
        cluster.stop(Stop::Fast).await;
        cluster.set(&[("restore_command", "/bin/false")]);
        cluster.place("recovery.signal", b"");
        cluster.start_again().await;
    }
}

#[tokio::test]
async fn a_new_timeline_is_gone_on_from_and_told_as_a_gap() {
    let cluster: Arc<Cluster> = Cluster::start(Version::DEFAULT, &[]).await.into();
    let scene = Scene::on(Database::fresh(&cluster).await).await.settled().await;
    scene.insert(1).await;
    scene.recover().await;
    let run = scene.run().await;
    run.stderr.wait_for(SOON, "it was on timeline 1, and is on 2").await;
    scene.resynced(1, "gap").await;
    scene.arrives(1).await;
    scene.wait_settled().await;
    scene.stop(run).await;
    assert_eq!(scene.state()["timeline"], 2);
}

#[tokio::test]
async fn a_new_timeline_is_no_gap_for_a_slot_that_standbys_keep_too() {
    let cluster: Arc<Cluster> = Cluster::start(Version::V17, &[]).await.into();
    let scene = Scene::on(Database::fresh(&cluster).await).await;
    scene.drop_slot().await;
    let slot = scene.database.slot();
    let make = format!(
        "select pg_create_logical_replication_slot('{slot}', 'pgoutput', false, false, true)"
    );
    scene.database.psql(&make).await;
    let scene = scene.settled().await;
    scene.insert(1).await;
    scene.recover().await;
    let run = scene.run().await;
    assert_eq!(scene.state()["owed"], json!({}));
    scene.arrives(1).await;
    scene.stop(run).await;
    assert_eq!(scene.state()["timeline"], 2);
    assert_eq!(scene.resyncs(), ["gap"], "but for the first start");
}
