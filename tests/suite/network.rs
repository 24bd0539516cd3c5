//! Nothing is lost whatever the network between rowcast and Postgres does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::faults::{Scene, Writer};
use crate::harness::{
    cluster::{Cluster, FAST, Stop, Version},
    database::Database,
    endpoint::Fault,
    proxy::{Pace, Proxy, Which},
    wait::eventually,
};

/// A network that is broken without either end's knowing is noticed within this time, and the slot is free again.
const NOTICED: Duration = Duration::from_secs(30);

async fn proxied() -> (Scene, Proxy) {
    proxied_to(Database::on(Version::DEFAULT).await).await
}

/// A scene whose rowcast sees its database through a proxy.
async fn proxied_to(database: Database) -> (Scene, Proxy) {
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

/// Stalls what `which` says, and says how long it took until something new arrived.
#[expect(clippy::print_stderr, reason = "a figure that the issue asks for")]
async fn stalls(database: Database, which: Which) {
    let (scene, proxy) = proxied_to(database).await;
    let run = scene.run().await;
    scene.database.psql("update counters set version = version + 1").await;
    scene.assert_nothing_is_lost().await;
    proxy.stall(which);
    let begun = Instant::now();
    // Said once when it streams, and once more when it streams again.
    eventually(NOTICED * 2, "it streams again", async || {
        let lines = run.stderr.all();
        (lines.iter().filter(|line| line.contains("streaming changes")).count() > 1).then_some(())
    })
    .await;
    let took = begun.elapsed();
    eprintln!("after a stall of {which:?} connections it streams again: {took:?}");
    assert!(took <= NOTICED, "it took {took:?}");
    scene.database.psql("update counters set version = version + 1").await;
    scene.assert_nothing_is_lost().await;
    assert!(run.is_running());
}

#[tokio::test]
async fn a_stalled_network_is_noticed_though_nobody_closes() {
    stalls(Database::on(Version::DEFAULT).await, Which::All).await;
}

#[tokio::test]
async fn a_stalled_stream_is_noticed_though_the_other_connection_works() {
    // While a server may be silent for its own reasons, which is half of this time, a stream is not given up.
    let settings = [("wal_sender_timeout", "25s")];
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &settings).await);
    stalls(Database::fresh(&cluster).await, Which::Streaming).await;
}

#[tokio::test]
async fn a_stalled_ordinary_connection_is_noticed_though_the_stream_works() {
    stalls(Database::on(Version::DEFAULT).await, Which::Ordinary).await;
}

#[tokio::test]
async fn a_slow_network_loses_nothing() {
    let (scene, proxy) = proxied().await;
    proxy.slow(Pace { bytes_per_second: 50_000, latency: Duration::from_millis(20) });
    let run = scene.run().await;
    let writer = Writer::start(scene.database.url());
    scene.endpoint.wait_for_requests(50).await;
    writer.stop().await;
    scene.assert_nothing_is_lost().await;
    assert!(run.is_running());
}

/// Stops Postgres while the endpoint does not take what is read, and says how long it took.
#[expect(clippy::print_stderr, reason = "a figure that the issue asks for")]
async fn stops(what: &str, fault: Fault, stalled: Option<Which>, limit: Duration) {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let (scene, proxy) = proxied_to(Database::fresh(&cluster).await).await;
    let run = scene.run().await;
    scene.endpoint.choose(move |_| Some(fault.clone()));
    scene.database.psql("update counters set version = version + 1").await;
    scene.endpoint.wait_for_requests(1).await;
    if let Some(which) = stalled {
        proxy.stall(which);
    }
    let took = cluster.stop(Stop::Fast).await;
    eprintln!("pg_ctl stop -m fast, {what}: {took:?}");
    assert!(took < limit, "{what}: it took {took:?}");
    proxy.resume();
    scene.endpoint.heal();
    cluster.start_again().await;
    scene.assert_nothing_is_lost().await;
    assert!(run.is_running());
}

#[tokio::test]
async fn postgres_stops_fast_whatever_the_endpoint_does() {
    stops("the endpoint hangs", Fault::Hang, None, FAST).await;
    stops("the endpoint answers 500", Fault::status(500), None, FAST).await;
    stops("the endpoint resets", Fault::CloseBeforeAnswer, None, FAST).await;
}

/// Only over that connection a server says that it stops. Without it, it waits until we notice that it is broken.
#[tokio::test]
async fn postgres_stops_though_the_ordinary_connection_is_stalled() {
    stops("the ordinary connection is stalled", Fault::Hang, Some(Which::Ordinary), NOTICED).await;
}
