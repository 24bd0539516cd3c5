//! The server's settings do not let changes stream, or would make the application wait.

use std::sync::Arc;

use super::{RULE, Scene, line, said};
use crate::harness::{
    cluster::{Cluster, Stop, Version},
    database::Database,
    wait::{SOON, eventually},
};

#[tokio::test]
async fn wal_level_replica_is_named_with_the_restart_that_it_needs() {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[("wal_level", "replica")]).await);
    let scene = Scene::before_setup(Database::fresh(&cluster).await, RULE).await;
    let told = "error: wal_level is replica: it must be logical, which takes effect after a restart of \
                Postgres\n\
                help: ALTER SYSTEM SET wal_level = 'logical';   -- then restart Postgres";
    let setup = scene.rowcast.start(&["setup"]);
    assert_eq!((setup.exit_code(SOON).await, &*said(&setup)), (1, told));
    let (code, said) = scene.refused().await;
    assert!(said.starts_with(told), "{said}");
    assert_eq!(code, 1);

    scene.database.psql("alter system set wal_level = 'logical'").await;
    cluster.reload().await;
    let (_, said) = scene.refused().await;
    assert!(said.starts_with(told), "a reload is not enough: {said}");
    cluster.restart(Stop::Fast).await;
    scene.set_up().await;
    scene.insert(1).await;
    scene.arrives_now(1).await;
}

#[tokio::test]
async fn rowcast_refuses_to_be_a_synchronous_standby() {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let scene = Scene::on(Database::fresh(&cluster).await).await;
    scene.insert(1).await;
    let set = async |value: &str| {
        scene
            .database
            .psql(&format!(
                "alter system set synchronous_standby_names = '{value}'; select pg_reload_conf()"
            ))
            .await
    };
    let told = |value: &str| {
        format!(
            "synchronous_standby_names is {value:?}, which takes rowcast for a synchronous \
             standby: every commit of the application would wait until it is delivered"
        )
    };
    let fix = "name the real standbys in synchronous_standby_names, without '*', then SELECT \
               pg_reload_conf();";

    set("FIRST 1 (other, rowcast)").await;
    let (code, said) = scene.refused().await;
    assert_eq!(said, format!("error: {}\nhelp: {fix}", told("FIRST 1 (other, rowcast)")));
    assert_eq!(code, 1);

    set("").await;
    scene.arrives_now(1).await;
    let run = scene.run().await;
    let mark = run.stderr.mark();
    set("*").await;
    let line_of_cause = line(&run, mark, &told("*")).await;
    assert!(line_of_cause.contains("ERROR") && line_of_cause.contains(fix), "{line_of_cause}");
    line(&run, mark, "streaming pauses until this is mended; nothing is lost: the slot keeps")
        .await;
    // Nobody waits for rowcast: with `*` and no standby at all, commits wait for one.
    let sql = "select count(*) from pg_stat_replication where application_name = 'rowcast'";
    eventually(SOON, "the stream is closed", async || {
        (scene.database.psql(sql).await == "0").then_some(())
    })
    .await;
    let client = scene.database.client().await;
    let waiting = tokio::spawn(async move {
        client.execute("insert into posts values (3, 'a')", &[]).await.expect("it commits");
    });
    set("").await;
    waiting.await.expect("it commits");
    scene.arrives(3).await;
    assert!(run.is_running());
}
