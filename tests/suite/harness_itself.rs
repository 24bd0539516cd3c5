//! Claims about the harness, on which all other tests rely.

use crate::harness::{
    cluster::{Cluster, Stop, Version},
    database::Database,
};

#[tokio::test]
async fn every_version_starts_with_logical_wal() {
    for version in [Version::V14, Version::V15, Version::V16, Version::V17, Version::V18] {
        let database = Database::on(version).await;
        assert_eq!(database.psql("show wal_level").await, "logical");
        let reported = database.psql("show server_version_num").await;
        assert_eq!(reported[..2], version.major().to_string());
    }
}

#[tokio::test]
async fn committed_rows_outlive_a_crash_and_every_stop() {
    let cluster = Cluster::start(Version::DEFAULT, &[("wal_sender_timeout", "5s")]).await;
    cluster.psql("postgres", "create table kept (id int); insert into kept values (1)").await;
    cluster.crash().await;
    cluster.start_again().await;
    for how in [Stop::Smart, Stop::Fast, Stop::Immediate] {
        cluster.restart(how).await;
    }
    let row = cluster.client("postgres").await.query_one("select id from kept", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 1);
    assert_eq!(cluster.psql("postgres", "show wal_sender_timeout").await, "5s");
}
