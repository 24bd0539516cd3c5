//! The database does not let rowcast in.

use super::{Scene, line};
use crate::harness::{
    cluster::{Cluster, Version},
    database::Database,
};

/// On a cluster of its own, where `rowcast` has to prove who it is.
async fn scene() -> Scene {
    let cluster = std::sync::Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let scene = Scene::on(Database::fresh(&cluster).await).await;
    scene.database.psql("create role rowcast login replication password 'right'").await;
    cluster
        .set_hba(
            "local all all trust\nhost all rowcast all scram-sha-256\nhost all all all trust\n",
        )
        .await;
    scene
}

#[tokio::test]
async fn a_wrong_password_ends_the_start_and_is_waited_for_later() {
    let scene = scene().await;
    scene.insert(1).await;
    let at = format!("127.0.0.1:{}", scene.database.cluster.port());
    let refused = format!("{at} refused the password of user \"rowcast\"");
    let fix =
        "check the password and the user, or set it anew: ALTER ROLE \"rowcast\" PASSWORD '…'";

    scene.configure_url("postgres@", "rowcast:wrong@");
    let (code, said) = scene.refused().await;
    assert_eq!(said, format!("error: {refused}\nhelp: {fix}"));
    assert_eq!(code, 1);
    scene.configure_url("postgres@", "rowcast@");
    let (code, said) = scene.refused().await;
    assert_eq!(
        said,
        format!(
            "error: {at} asks for a password of user \"rowcast\", and none was given\n\
             help: give it as [database] password, in the URL, as PGPASSWORD or in ~/.pgpass \
             (mode 0600)"
        )
    );
    assert_eq!(code, 1);
    scene.configure_url("postgres@", "rowcast:right@");
    scene.arrives_now(1).await;

    let run = scene.run().await;
    let mark = run.stderr.mark();
    scene
        .database
        .psql(
            "alter role rowcast password 'other';
             select pg_terminate_backend(pid) from pg_stat_activity where usename = 'rowcast'",
        )
        .await;
    let line = line(&run, mark, &refused).await;
    assert!(line.contains("ERROR") && line.contains("nothing is lost: the slot keeps"), "{line}");
    assert!(line.contains("set it anew: ALTER ROLE"), "{line}");
    scene.insert(3).await;
    scene.database.psql("alter role rowcast password 'right'").await;
    scene.arrives(3).await;
    assert!(run.is_running());
}

#[tokio::test]
async fn a_role_without_replication_is_told_what_it_lacks() {
    let scene = scene().await;
    scene.database.psql("alter role rowcast noreplication").await;
    scene.configure_url("postgres@", "rowcast:right@");
    scene.insert(1).await;
    let (code, said) = scene.refused().await;
    let fix = "ALTER ROLE \"rowcast\" REPLICATION;";
    assert_eq!(
        said,
        format!("error: role rowcast may not stream changes: it lacks REPLICATION\nhelp: {fix}")
    );
    assert_eq!(code, 1);
    scene.database.psql(fix).await;
    scene.arrives_now(1).await;
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_named() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    scene.insert(1).await;
    scene.configure_url(&format!("/{}", scene.database.name), "/nowhere");
    let (code, said) = scene.refused().await;
    assert_eq!(
        said,
        format!(
            "error: there is no database \"nowhere\" at 127.0.0.1:{}\n\
             help: check the database's name; psql -l lists those that exist",
            scene.database.cluster.port()
        )
    );
    assert_eq!(code, 1);
    scene.configure(|_| ());
    scene.arrives_now(1).await;
}
