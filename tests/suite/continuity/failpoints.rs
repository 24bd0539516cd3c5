//! rowcast is killed at one exact spot, and the next start makes up for it.

use serde_json::json;

use super::{
    Scene,
    shed::{ONE_MEBIBYTE, alone},
    slot::cluster_of_little_log,
};
use crate::harness::{cluster::Version, database::Database, wait::SOON};

impl Scene {
    /// Runs until that spot.
    async fn die_at(&self, place: &str) {
        let run = self.rowcast.start_with(&["run"], &[("ROWCAST_FAILPOINT", place)]);
        let status = run.ended(SOON).await;
        assert_eq!(status.code(), None, "{place}: {:?}", run.stderr.all());
    }
}

#[tokio::test]
async fn a_kill_between_acceptance_and_confirmation_loses_nothing_and_is_no_gap() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await.settled().await;
    for (id, place) in (1..).zip(["state-due", "state-written", "status-sent"]) {
        scene.insert(id).await;
        scene.die_at(place).await;
    }
    scene.insert(4).await;
    let run = scene.run().await;
    assert_eq!(scene.state()["owed"], json!({}));
    for id in 1..=4 {
        scene.arrives(id).await;
    }
    scene.stop(run).await;
    assert_eq!(scene.resyncs(), ["gap"], "but for the first start");
}

#[tokio::test]
async fn a_kill_while_the_slot_is_made_again_still_tells_every_page() {
    for place in ["loss-recorded", "slot-created"] {
        let scene = Scene::on(Database::on(Version::DEFAULT).await).await.settled().await;
        scene.drop_slot().await;
        scene.insert(1).await;
        scene.die_at(place).await;
        let _run = scene.run().await;
        scene.resynced(1, "slot").await;
        scene.insert(2).await;
        scene.arrives(2).await;
    }
}

#[tokio::test]
async fn a_kill_between_the_end_of_a_lost_slot_and_the_new_one_still_tells_every_page() {
    let cluster = cluster_of_little_log().await;
    let scene = Scene::on(Database::fresh(&cluster).await).await.settled().await;
    scene.lose_slot().await;
    scene.die_at("slot-dropped").await;
    let _run = scene.run().await;
    scene.resynced(1, "slot").await;
}

#[tokio::test]
async fn a_kill_while_log_is_let_go_loses_nothing() {
    let mut scene = Scene::with(alone().await, "", ONE_MEBIBYTE).await.settled().await;
    scene.insert(1).await;
    scene.write_mebibytes(2).await;
    scene.endpoint.refuse_connections().await;
    let before = scene.database.confirmed().await;
    scene.die_at("shed-recorded").await;
    assert_eq!(scene.database.confirmed().await, before, "nothing was confirmed yet");
    assert_eq!(scene.state()["owed"], json!({ "posts": "shed" }));
    scene.endpoint.come_back();
    let _run = scene.run().await;
    scene.resynced(1, "shed").await;
    scene.insert(2).await;
    scene.arrives(2).await;
}
