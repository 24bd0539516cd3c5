//! The publication did not send everything for a while. Postgres decides at each change what is published, so what was
//! committed meanwhile never comes.

use super::Scene;
use crate::harness::{
    cluster::{Version, on_every_version},
    database::Database,
    wait::SOON,
};

async fn scene() -> Scene {
    Scene::on(Database::on(Version::DEFAULT).await).await.settled().await
}

impl Scene {
    /// Replaces the name of the publication by this database's.
    async fn publish(&self, sql: &str) {
        self.database.psql(&sql.replace("PUB", &self.database.name)).await;
    }

    /// After this, changes arrive, and pages were told of those that did not.
    async fn goes_on(&self) {
        self.resynced(1, "gap").await;
        self.insert(9).await;
        self.arrives(9).await;
        self.wait_settled().await;
    }
}

#[tokio::test]
async fn a_table_taken_out_and_put_back_at_once_is_a_gap() {
    let scene = scene().await;
    let _run = scene.run().await;
    scene
        .publish(
            "alter publication PUB drop table posts;
             insert into posts values (1, 'a');
             alter publication PUB add table posts;",
        )
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_table_taken_out_for_a_while_is_a_gap_even_if_rowcast_is_killed_meanwhile() {
    let scene = scene().await;
    let run = scene.run().await;
    scene.publish("alter publication PUB drop table posts").await;
    run.stderr.wait_for(SOON, "streaming pauses until this is mended").await;
    scene.insert(1).await;
    run.kill9();
    run.ended(SOON).await;
    scene.publish("alter publication PUB add table posts").await;
    let _run = scene.run().await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_table_taken_out_and_put_back_while_rowcast_is_away_is_a_gap() {
    let scene = scene().await;
    scene
        .publish(
            "alter publication PUB drop table posts;
             insert into posts values (1, 'a');
             alter publication PUB add table posts;",
        )
        .await;
    let _run = scene.run().await;
    scene.goes_on().await;
}

#[tokio::test]
async fn operations_left_out_for_a_while_are_a_gap() {
    let scene = scene().await;
    let _run = scene.run().await;
    scene
        .publish(
            "alter publication PUB set (publish = 'insert');
             insert into posts values (1, 'a');
             delete from posts where id = 1;
             alter publication PUB set (publish = 'insert, update, delete, truncate');",
        )
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_publication_dropped_and_made_again_at_once_is_a_gap() {
    let scene = scene().await;
    let _run = scene.run().await;
    scene
        .publish(
            "drop publication PUB;
             insert into posts values (1, 'a');
             create publication PUB for table posts;",
        )
        .await;
    scene.goes_on().await;
}

on_every_version! {
    async fn a_publication_dropped_and_made_again_while_rowcast_is_away_is_a_gap(version: Version) {
        let scene = Scene::on(Database::on(version).await).await.settled().await;
        scene
            .publish(
                "drop publication PUB;
                 insert into posts values (1, 'a');
                 create publication PUB for table posts;",
            )
            .await;
        let _run = scene.run().await;
        scene.goes_on().await;
    }
}

#[tokio::test]
async fn a_table_added_to_the_publication_is_no_gap() {
    let scene = scene().await;
    let run = scene.run().await;
    scene
        .publish("create table tags (id int primary key); alter publication PUB add table tags")
        .await;
    run.stderr.wait_for(SOON, "was altered").await;
    scene.insert(1).await;
    scene.arrives(1).await;
    scene.stop(run).await;
    let run = scene.run().await;
    scene.wait_settled().await;
    scene.stop(run).await;
    assert_eq!(scene.resyncs(), ["gap"]);
}
