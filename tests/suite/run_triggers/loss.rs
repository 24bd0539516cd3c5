//! What cannot be told change by change is told by a resync.

use std::fs;

use super::Scene;
use crate::harness::{
    cluster::Version,
    database::Database,
    wait::{SOON, eventually},
};

#[tokio::test]
async fn a_lost_state_file_is_a_gap() {
    let scene = Scene::on(Version::DEFAULT).await.settled().await;
    fs::remove_dir_all(scene.rowcast.folder().join("state")).unwrap();
    let run = scene.run().await;
    scene.resynced(1, "gap").await;
    scene.stop(run).await;
}

#[tokio::test]
async fn an_outbox_that_is_truncated_is_made_up_for() {
    let scene = Scene::on(Version::DEFAULT).await.settled().await;
    let run = scene.run().await;
    scene.database.psql("truncate rowcast.outbox").await;
    scene.resynced(1, "gap").await;
    scene.insert(1).await;
    scene.arrives(1).await;
    scene.wait_settled().await;
    scene.stop(run).await;
}

#[tokio::test]
async fn an_outbox_that_is_dropped_is_waited_for_and_made_up_for() {
    let scene = Scene::on(Version::DEFAULT).await.settled().await;
    let run = scene.run().await;
    let told = scene.reasons().len();
    let mark = run.stderr.mark();
    scene.database.psql("drop table rowcast.outbox").await;
    scene.insert(2).await;
    let words = "streaming pauses until this is mended; after that, pages are told to fetch again";
    let says = |line: &str| line.contains(words).then_some(());
    run.stderr.find_after(mark, SOON, words, says).await;
    assert!(run.stderr.all().join("\n").contains("rowcast setup"));
    scene.set_up().await;
    scene.resynced(told, "gap").await;
    scene.insert(3).await;
    scene.arrives(3).await;
    scene.wait_settled().await;
    scene.stop(run).await;
}

#[tokio::test]
async fn triggers_that_were_gone_for_a_while_are_a_gap() {
    let scene = Scene::on(Version::DEFAULT).await.settled().await;
    scene
        .database
        .psql("begin; drop trigger rowcast_insert on posts; insert into posts values (1, 'a'); commit")
        .await;
    scene.set_up().await;
    let run = scene.run().await;
    run.stderr.wait_for(SOON, "perhaps not all changes were written down").await;
    scene.resynced(1, "gap").await;
    scene.wait_settled().await;
    scene.stop(run).await;
}

#[tokio::test]
async fn a_full_outbox_never_stops_the_application_and_is_told_by_a_resync() {
    let database = Database::on(Version::DEFAULT).await;
    let mut scene = Scene::with(database, "notify", "max_outbox_rows = 1000").await.settled().await;
    let run = scene.run().await;
    scene.endpoint.refuse_connections().await;
    let insert = |step: usize| {
        let from = step * 400;
        format!("insert into posts select i, 'a' from generate_series({from}, {from} + 399) i;")
    };
    scene.database.psql(&(0..5).map(insert).collect::<String>()).await;
    run.stderr.wait_for(SOON, "the outbox was full").await;
    assert!(scene.undelivered().await < 2000);
    scene.endpoint.come_back();
    scene.resynced(1, "shed").await;
    let holds = async |what: &str, sql: &str| {
        eventually(SOON, what, async || {
            (scene.database.psql(sql).await.trim() == "t").then_some(())
        })
        .await;
    };
    holds("the outbox is empty", "select count(*) = 0 from rowcast.outbox").await;
    let has_room = "select pg_sequence_last_value('rowcast.outbox_id')
                         < pg_sequence_last_value('rowcast.gate') >> 1";
    holds("triggers may write again", has_room).await;
    scene.insert(9999).await;
    scene.arrives(9999).await;
    let is_recorded =
        "select refusals = pg_sequence_last_value('rowcast.refusals') from rowcast.reader";
    holds("what was told is recorded as told", is_recorded).await;
    scene.stop(run).await;
    let again = scene.reasons().len();
    let run = scene.run().await;
    scene.insert(10_000).await;
    scene.arrives(10_000).await;
    scene.stop(run).await;
    assert_eq!(scene.reasons().len(), again, "what was told once is told");
}
