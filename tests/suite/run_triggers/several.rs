//! Several at one outbox.

use std::time::Duration;

use super::{Scene, WAKES};
use crate::harness::{
    cluster::Version,
    endpoint::Fault,
    proxy::{Proxy, Which},
    rowcast::Rowcast,
    wait::SOON,
};

#[tokio::test]
async fn a_second_instance_waits_says_so_once_and_takes_over() {
    let scene = Scene::on(Version::DEFAULT).await.settled().await;
    for (id, wake) in WAKES.into_iter().enumerate() {
        scene.wake_by(wake);
        let first = scene.run().await;
        let second = scene.rowcast.start(&["run"]);
        let told = second.stderr.wait_for(SOON, "another rowcast empties the outbox").await;
        assert!(told.contains("(rowcast)"), "{told}");
        let id = id as i32;
        scene.insert(id).await;
        scene.arrives(id).await;
        first.kill9();
        second.stderr.wait_for(SOON, "streaming changes").await;
        scene.insert(id + 10).await;
        scene.arrives(id + 10).await;
        let said = second.stderr.all().join("\n");
        assert_eq!(said.matches("another rowcast empties").count(), 1, "{said}");
        scene.stop(second).await;
    }
    assert_eq!(scene.reasons(), ["gap"], "they share what is recorded");
}

#[tokio::test]
async fn what_is_left_of_ones_own_connection_that_was_cut_without_a_word_is_not_waited_for() {
    let is_left = async |wake: &str| {
        let scene = Scene::on(Version::DEFAULT).await.settled().await;
        let port = scene.database.cluster.port();
        let proxy = Proxy::to(([127, 0, 0, 1], port).into());
        let config = scene.config.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
        scene.rowcast.configure(&config.replace("'notify'", &format!("'{wake}'")));
        let run = scene.run().await;
        proxy.stall(Which::All);
        let words = "it is what is left of our own last connection";
        run.stderr.wait_for(Duration::from_secs(45), words).await;
        scene.insert(1).await;
        scene.arrives(1).await;
        proxy.resume();
        scene.stop(run).await;
        assert_eq!(scene.reasons(), ["gap"]);
    };
    tokio::join!(is_left("notify"), is_left("poll"));
}

#[tokio::test]
async fn once_does_not_wait_for_an_instance_that_runs() {
    let scene = Scene::on(Version::DEFAULT).await.settled().await;
    let run = scene.run().await;
    let once = scene.rowcast.start(&["run", "--once"]);
    assert_eq!(once.exit_code(SOON).await, 1);
    let said = once.stderr.all().join("\n");
    assert!(said.contains("error: another rowcast empties the outbox: backend"), "{said}");
    assert!(said.contains("help: who it is: SELECT * FROM pg_stat_activity"), "{said}");
    scene.stop(run).await;
}

#[tokio::test]
async fn an_instance_with_a_state_of_its_own_tells_every_page_what_the_other_read() {
    let scene = Scene::on(Version::DEFAULT).await.settled().await;
    let other = Rowcast::new(&scene.config);
    let run = other.start(&["run"]);
    run.stderr.wait_for(SOON, "nothing is recorded of an earlier run").await;
    scene.resynced(1, "gap").await;
    scene.insert(1).await;
    scene.arrives(1).await;
    scene.stop(run).await;
    let run = scene.run().await;
    run.stderr.wait_for(SOON, "another one has read it").await;
    scene.resynced(2, "gap").await;
    scene.wait_settled().await;
    scene.stop(run).await;
}

#[tokio::test]
async fn tail_looks_on_and_leaves_all_to_run() {
    let scene = Scene::on(Version::DEFAULT).await.settled().await;
    scene.insert(1).await;
    for (id, wake) in [(2, "notify"), (3, "poll")] {
        scene.wake_by(wake);
        let tail = scene.rowcast.start(&["tail", "-v"]);
        tail.stderr.wait_for(SOON, "streaming changes").await;
        scene.insert(id).await;
        tail.stdout.wait_for(SOON, &format!("post {id} created")).await;
        assert!(!tail.stdout.all().join("\n").contains("post 1 created"), "that was before it");
        tail.sigterm();
        assert_eq!(tail.exit_code(SOON).await, 0, "{:?}", tail.stderr.all());
        assert_eq!(scene.undelivered().await, i64::from(id));
    }
    // What is delivered is soon deleted, and who looks on late would not see it.
    scene.endpoint.choose(|_| Some(Fault::status(503)));
    let run = scene.run().await;
    let tail = scene.rowcast.start(&["tail", "-v"]);
    tail.stderr.wait_for(SOON, "streaming changes").await;
    scene.insert(4).await;
    tail.stdout.wait_for(SOON, "post 4 created").await;
    scene.endpoint.heal();
    for id in 1..=4 {
        scene.arrives(id).await;
    }
    scene.stop(run).await;
    assert_eq!(scene.undelivered().await, 0);
}
