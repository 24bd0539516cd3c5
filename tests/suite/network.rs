//! Nothing is lost whatever the network between rowcast and Postgres does.

use crate::faults::{Scene, Writer};
use crate::harness::{
    cluster::Version,
    database::Database,
    proxy::{Proxy, Which},
};

/// A scene whose rowcast sees its database through a proxy.
async fn proxied() -> (Scene, Proxy) {
    let database = Database::on(Version::DEFAULT).await;
    let proxy = Proxy::to(([127, 0, 0, 1], database.cluster.port()).into());
    let direct = format!(":{}/", database.cluster.port());
    let toml = database.toml().replace(&direct, &format!(":{}/", proxy.port()));
    (Scene::by(database, &toml).await, proxy)
}

#[tokio::test]
async fn a_connection_that_is_reset_is_made_again_and_nothing_is_lost() {
    let (scene, proxy) = proxied().await;
    let run = scene.run().await;
    let writer = Writer::start(scene.database.url());
    for which in [Which::All, Which::Streaming, Which::Ordinary] {
        scene.endpoint.wait_for_requests(scene.endpoint.requests() + 20).await;
        proxy.cut(which);
    }
    scene.endpoint.wait_for_requests(scene.endpoint.requests() + 20).await;
    writer.stop().await;
    scene.assert_nothing_is_lost().await;
    assert!(run.is_running());
}
