//! rowcast under systemd: what it tells it, and the unit in `packaging/`.

mod manager;
mod unit;

use std::fs;

use rustix::process::Signal;

use crate::faults::Scene;
use crate::harness::{
    cluster::Version, database::Database, process::Process, rowcast::Rowcast, wait::SOON,
};
use manager::Manager;

async fn scene() -> Scene {
    Scene::on(Database::on(Version::DEFAULT).await).await
}

fn config(rowcast: &Rowcast) -> String {
    fs::read_to_string(rowcast.folder().join("rowcast.toml")).expect("it was written")
}

fn start(rowcast: &Rowcast, manager: &Manager) -> Process {
    let variables = manager.variables();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    rowcast.start_with(&["run"], &variables)
}

#[tokio::test]
async fn systemd_is_told_of_the_whole_life_of_the_service() {
    let mut scene = scene().await;
    let manager = Manager::listen();
    let run = start(&scene.rowcast, &manager);
    let ready = manager.wait_for("READY=1").await;
    assert!(ready.contains("STATUS=streaming"), "{ready}");
    for _ in 0..3 {
        manager.wait_for_another("WATCHDOG=1").await;
    }

    let good = config(&scene.rowcast);
    for text in [good.replace("'counters']", "'counters', 'more']"), "no configuration".to_owned()]
    {
        scene.rowcast.configure(&text);
        run.signal(Signal::HUP);
        let reloading = manager.wait_for_another("RELOADING=1").await;
        assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
        manager.wait_for_another("READY=1").await;
    }

    scene.endpoint.refuse_connections().await;
    scene.database.psql("update counters set version = version + 1").await;
    manager.wait_for("STATUS=streaming, endpoint down for").await;
    scene.endpoint.come_back();
    manager.wait_for_another("STATUS=streaming\n").await;

    run.sigterm();
    let stopping = manager.wait_for("STOPPING=1").await;
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=25000000"), "{stopping}");
    assert_eq!(run.exit_code(SOON).await, 0);
}

#[tokio::test]
async fn one_that_stands_by_is_ready_and_says_for_whom_it_waits() {
    let scene = scene().await;
    let _first = scene.run().await;
    let second = Rowcast::new(&config(&scene.rowcast));
    let manager = Manager::listen();
    let _second = start(&second, &manager);
    let ready = manager.wait_for("READY=1").await;
    assert!(ready.contains("STATUS=waiting for slot"), "{ready}");
}

#[tokio::test]
async fn the_service_is_ready_while_postgres_is_not_and_never_with_a_mistake_in_its_configuration()
{
    let scene = scene().await;
    let good = config(&scene.rowcast);
    let port = format!(":{}/", scene.database.cluster.port());
    let manager = Manager::listen();
    scene.rowcast.configure(&good.replace(&port, ":1/"));
    let run = start(&scene.rowcast, &manager);
    let ready = manager.wait_for("READY=1").await;
    assert!(ready.contains("STATUS=no changes for"), "{ready}");
    run.sigterm();
    run.ended(SOON).await;

    let manager = Manager::listen();
    scene.rowcast.configure(&good.replace("table = 'counters'", "table = 'nowhere'"));
    let run = start(&scene.rowcast, &manager);
    assert_eq!(run.exit_code(SOON).await, 78);
    assert!(!manager.told().iter().any(|told| told.contains("READY=1")), "{:?}", manager.told());
}

#[tokio::test]
async fn secrets_may_be_systemds_credentials() {
    let scene = scene().await;
    let good = config(&scene.rowcast);
    let secret = good.lines().find(|line| line.starts_with("secret = ")).expect("it has one");
    let value = secret.trim_start_matches("secret = ").trim_matches(['"', '\'']);
    let credentials = scene.rowcast.folder().join("credentials");
    fs::create_dir(&credentials).expect("the folder is writable");
    fs::write(credentials.join("pusher_secret"), format!("{value}\n")).expect("it is writable");
    let file = "secret_file = \"${CREDENTIALS_DIRECTORY}/pusher_secret\"";
    scene.rowcast.configure(&good.replace(secret, file));
    let credentials = credentials.display().to_string();
    let run = scene.rowcast.start_with(&["run"], &[("CREDENTIALS_DIRECTORY", &credentials)]);
    run.stderr.wait_for(SOON, "streaming changes").await;
    scene.database.psql("update counters set version = version + 1").await;
    scene.assert_nothing_is_lost().await;
}
