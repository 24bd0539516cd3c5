//! The primary is lost, and a standby takes its place.

use std::sync::Arc;

use super::Scene;
use crate::harness::{
    cluster::{Cluster, Version},
    database::Database,
    proxy::Proxy,
    wait::{SOON, eventually},
};

#[tokio::test]
async fn a_promoted_standby_is_gone_on_with_and_every_page_is_told() {
    let primary: Arc<Cluster> = Cluster::start(Version::V14, &[]).await.into();
    let proxy = Proxy::to(([127, 0, 0, 1], primary.port()).into());
    let standby: Arc<Cluster> = primary.standby(&proxy).await.into();
    let database = Database::fresh(&primary).await;
    let copy = Database { name: database.name.clone(), cluster: standby.clone() };
    let scene = Scene::with(database, "notify", "").await.settled().await;

    let hosts = format!("127.0.0.1:{}", primary.port());
    let both = scene.config.replace(&hosts, &format!("{hosts},127.0.0.1:{}", standby.port()));
    scene.rowcast.configure(&both);
    let run = scene.run().await;
    scene.insert(1).await;
    scene.arrives(1).await;
    let written = scene.database.written().await.to_string();
    let client = standby.client("postgres").await;
    eventually(SOON, "the standby has caught up", async || {
        let sql = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
        let row = client.query_one(sql, &[&written]).await.expect("anyone may ask");
        row.get::<_, bool>(0).then_some(())
    })
    .await;
    primary.crash().await;
    run.stderr.wait_for(SOON, "the server is a standby, where the outbox cannot be emptied").await;
    standby.promote().await;
    run.stderr.wait_for(SOON, "the server goes on from a copy: it was on timeline 1").await;
    scene.resynced(1, "gap").await;
    copy.psql("insert into posts values (2, 'a')").await;
    scene.arrives(2).await;
    scene.wait_settled().await;
    scene.stop(run).await;
    assert_eq!(scene.reasons(), ["gap", "gap"]);
}
