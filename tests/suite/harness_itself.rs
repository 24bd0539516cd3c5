//! Claims about the harness, on which all other tests rely.

use serde_json::json;

use crate::harness::{
    client::Listener,
    cluster::{Cluster, Stop, Version},
    database::Database,
    sockudo::Sockudo,
    wait::SOON,
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

#[tokio::test]
async fn pusher_js_hears_what_an_application_sends() {
    let sockudo = Sockudo::shared().await;
    let channels = ["harness", "private-harness", "presence-harness"];
    let listener = Listener::join(sockudo, &channels).await;
    let data = json!({ "id": 7, "name": "Ä" });
    sockudo.publish(&channels, "PostUpdated", &data).await;
    for channel in channels {
        let heard = listener.wait_for(SOON, channel, |it| it.channel == channel).await;
        assert_eq!((heard.event.as_str(), &heard.data), ("PostUpdated", &data));
    }
    assert_eq!(listener.heard().len(), channels.len());
}
