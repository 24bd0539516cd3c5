//! The primary is lost, and a standby that had not received everything takes its place.

use std::{sync::Arc, time::Duration};

use crate::faults::{IDS, Scene, heard};
use crate::harness::{
    cluster::{Cluster, Version},
    database::Database,
    endpoint::{Accepted, Fault},
    proxy::{Proxy, Which},
    wait::{SOON, eventually},
};

/// A primary with a standby, and rowcast with both in its DSN.
struct Promotion {
    scene: Scene,
    standby: Arc<Cluster>,
    /// From the standby to its primary.
    proxy: Proxy,
}

impl Promotion {
    async fn on(version: Version, run: &str) -> Promotion {
        let primary = Arc::new(Cluster::start(version, &[]).await);
        let proxy = Proxy::to(([127, 0, 0, 1], primary.port()).into());
        let standby = Arc::new(primary.standby(&proxy).await);
        let scene = Scene::on(Database::fresh(&primary).await).await;
        let config = std::fs::read_to_string(scene.rowcast.folder().join("rowcast.toml")).unwrap();
        let name = &scene.database.name;
        let both = format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{name}?target_session_attrs=read-write",
            primary.port(),
            standby.port()
        );
        let config = config
            .replace(&scene.database.url(), &both)
            .replace("[run]\n", &format!("[run]\n{run}\n"));
        scene.rowcast.configure(&config);
        let setup = scene.rowcast.start(&["setup"]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
        Promotion { scene, standby, proxy }
    }

    /// The database as the standby has it.
    fn copy(&self) -> Database {
        Database { name: self.scene.database.name.clone(), cluster: self.standby.clone() }
    }

    /// Waits until the standby has all that is committed.
    async fn standby_catches_up(&self) {
        let written = self.scene.database.written().await.to_string();
        let client = self.standby.client("postgres").await;
        eventually(SOON, "the standby has caught up", async || {
            let sql = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
            let row = client.query_one(sql, &[&written]).await.unwrap();
            row.get::<_, bool>(0).then_some(())
        })
        .await;
    }

    /// Waits until the standby would keep the slot if it were promoted.
    async fn slot_is_kept(&self) {
        let client = self.standby.client("postgres").await;
        let slot = self.scene.database.slot();
        eventually(Duration::from_secs(60), "the standby keeps the slot", async || {
            // The slot must move on for that.
            let move_on = "select pg_log_standby_snapshot(), pg_logical_emit_message(true, '', '')";
            self.scene.database.psql(move_on).await;
            let sql = "select 1 from pg_replication_slots
                       where slot_name = $1 and synced and not temporary";
            client.query_opt(sql, &[&slot]).await.unwrap().map(drop)
        })
        .await;
    }

    /// From here on the standby receives nothing.
    async fn standby_falls_behind(&mut self) {
        self.proxy.refuse().await;
        self.proxy.cut(Which::All);
    }

    async fn promote(&self) {
        self.scene.database.cluster.crash().await;
        self.standby.promote().await;
    }

    /// Commits this version of each row and waits for it.
    async fn arrives(&self, database: &Database, version: i32) {
        database.psql(&format!("update counters set version = {version}")).await;
        self.is_heard(version).await;
    }

    async fn is_heard(&self, version: i32) {
        let what = format!("version {version} of each row");
        let is_there = |accepted: &[Accepted]| {
            (1..=IDS).all(|id| heard(accepted, "counters", id).contains(&version))
        };
        self.scene.endpoint.wait_for(&what, is_there).await;
    }
}

#[tokio::test]
async fn what_a_promoted_standby_has_is_delivered_though_it_was_not_before() {
    let promotion = Promotion::on(Version::V17, "failover = true").await;
    let run = promotion.scene.run().await;
    promotion.arrives(&promotion.scene.database, 1).await;
    promotion.slot_is_kept().await;
    promotion.scene.endpoint.choose(|_| Some(Fault::Hang));
    promotion.scene.database.psql("update counters set version = 2").await;
    promotion.standby_catches_up().await;
    promotion.promote().await;
    promotion.scene.endpoint.heal();
    promotion.is_heard(2).await;
    promotion.arrives(&promotion.copy(), 3).await;
    assert!(run.is_running());
}

#[tokio::test]
async fn after_a_promotion_that_undoes_what_was_delivered_it_goes_on() {
    let mut promotion = Promotion::on(Version::V17, "failover = true").await;
    let run = promotion.scene.run().await;
    promotion.arrives(&promotion.scene.database, 1).await;
    promotion.slot_is_kept().await;
    promotion.standby_catches_up().await;
    promotion.standby_falls_behind().await;
    promotion.arrives(&promotion.scene.database, 2).await;
    promotion.promote().await;
    promotion.arrives(&promotion.copy(), 3).await;
    assert!(run.is_running());
}
