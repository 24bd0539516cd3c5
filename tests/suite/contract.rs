//! The contract of sources: what is written is told in the same way, however it was learned of.
//!
//! `tests/contract` has the scenes. All of them are played to one rowcast over the log and to one over triggers.

mod migrations;
mod scene;
mod stage;

use scene::Scene;
use stage::Stage;

use crate::harness::{
    capture::over_both,
    cluster::{Version, on_every_version},
};

on_every_version! {
    async fn what_is_written_is_told_alike_over_both_captures(version: Version) {
        let scenes = Scene::all();
        over_both(async |capture| {
            let mut stage = Stage::prepare(version, capture, &scenes).await;
            for scene in &scenes {
                for step in &scene.steps {
                    stage.play(&scene.name, step).await;
                }
            }
            stage.end().await;
        })
        .await;
    }
}
