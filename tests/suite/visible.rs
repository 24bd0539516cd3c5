//! A page that fetches as soon as it is told reads the change that it was told of, however late others see a commit.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rowcast::deliver::pusher::Server;
use tokio::task::JoinHandle;

use crate::harness::{
    cluster::{Cluster, FAST, Stop, Version},
    database::Database,
    endpoint::{Endpoint, Event},
    process::Process,
    psql,
    rowcast::Rowcast,
    standby::Standby,
    wait::{SOON, eventually},
};
use crate::observe::status_at;

const HELD_BACK: &str = "not visible to other sessions";

/// Rows that count their own updates, whose commits wait for a standby.
struct Scene {
    endpoint: Endpoint,
    rowcast: Rowcast,
    database: Database,
    cluster: Arc<Cluster>,
    standby: Standby,
}

impl Scene {
    async fn new() -> Scene {
        let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
        let database = Database::fresh(&cluster).await;
        database
            .psql(
                "create table counters (id int primary key, version int not null);
                 insert into counters select i, 0 from generate_series(1, 8) i;",
            )
            .await;
        let endpoint = Endpoint::start(Server::Sockudo);
        let rowcast = Rowcast::new(&format!(
            "{}[pusher]\n{}[run]\nstate_dir = 'state'\ngrace = '2s'\n\
             [[rule]]\ntable = 'counters'\nchannels = ['counters']\n\
             coalesce = false\nresync = false\n\
             data = {{ entity = 'counter', id = '{{{{ id }}}}', version = '{{{{ version }}}}' }}\n",
            database.toml(),
            endpoint.toml(),
        ));
        let setup = rowcast.start(&["setup"]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
        let standby = Standby::start(&cluster).await;
        Scene { endpoint, rowcast, database, cluster, standby }
    }

    async fn run(&self) -> Process {
        let run = self.rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        run
    }

    /// Counts up a row, and ends when the server says that it is committed.
    fn count_up(&self, id: i32) -> JoinHandle<()> {
        let url = self.database.url();
        tokio::spawn(async move {
            let sql = format!("update counters set version = version + 1 where id = {id}");
            // Some tests end the server while it waits.
            drop(psql::try_run(&url, &sql).await);
        })
    }

    /// Id and version of each notification, in order of these: rows have lanes of their own.
    fn told(&self) -> Vec<(i64, i64)> {
        let accepted = self.endpoint.accepted();
        let number = |event: &Event, name| event.data(name).as_i64().unwrap();
        let told =
            accepted.iter().map(|it| (number(&it.event, "id"), number(&it.event, "version")));
        let mut told: Vec<_> = told.collect();
        told.sort_unstable();
        told
    }

    async fn wait_until_told(&self, expected: &[(i64, i64)]) {
        self.endpoint.wait_for("all is told", |accepted| accepted.len() >= expected.len()).await;
        assert_eq!(self.told(), expected);
        self.endpoint.assert_strict();
    }
}

#[tokio::test]
async fn a_commit_is_announced_once_others_see_it_and_so_is_what_follows_it() {
    let scene = Scene::new().await;
    let run = scene.run().await;
    scene.standby.acknowledge_after(None);
    let committing = scene.count_up(1);
    run.stderr.wait_for(SOON, HELD_BACK).await;
    scene
        .database
        .psql(
            "set synchronous_commit = local;
             update counters set version = version + 1 where id = 2;",
        )
        .await;
    assert_eq!(scene.told(), []);
    let socket = scene.rowcast.folder().join(format!("state/{}.sock", scene.database.slot()));
    let lag = status_at(&socket).await.lag_seconds;
    assert!(lag.is_some_and(|lag| lag > 0.0), "what is held back is late: {lag:?}");
    scene.standby.acknowledge_after(Some(Duration::ZERO));
    scene.wait_until_told(&[(1, 1), (2, 1)]).await;
    eventually(SOON, "nothing is late any more", async || {
        (status_at(&socket).await.lag_seconds == Some(0.0)).then_some(())
    })
    .await;
    committing.await.unwrap();
}

#[tokio::test]
async fn no_fetch_reads_an_old_row_though_the_standby_is_late() {
    let scene = Scene::new().await;
    let _run = scene.run().await;
    scene.standby.acknowledge_after(Some(Duration::from_millis(30)));
    let page = Arc::new(scene.database.client().await);
    let fetched = Arc::new(Mutex::new(Vec::new()));
    let fetches = fetched.clone();
    scene.endpoint.choose(move |events| {
        for event in events.iter().filter(|event| !event.is_resync()) {
            let number = |name| event.data(name).as_i64().unwrap() as i32;
            let (id, version) = (number("id"), number("version"));
            let (page, fetches) = (page.clone(), fetches.clone());
            tokio::spawn(async move {
                let sql = "select version from counters where id = $1";
                let row = page.query_one(sql, &[&id]).await.unwrap();
                fetches.lock().unwrap().push((version, row.get::<_, i32>(0)));
            });
        }
        None
    });
    for _ in 0..5 {
        let committing: Vec<_> = (1..=8).map(|id| scene.count_up(id)).collect();
        for committing in committing {
            committing.await.unwrap();
        }
    }
    eventually(SOON, "every row is told of and fetched", async || {
        let fetched = fetched.lock().unwrap();
        (fetched.iter().filter(|(version, _)| *version == 5).count() == 8).then_some(())
    })
    .await;
    for (told, read) in &*fetched.lock().unwrap() {
        assert!(read >= told, "told of {told}, read {read}");
    }
}

#[tokio::test]
async fn a_commit_whose_standby_is_gone_is_announced_once_nobody_waits_for_it() {
    let scene = Scene::new().await;
    let run = scene.run().await;
    scene.standby.acknowledge_after(None);
    let committing = scene.count_up(1);
    run.stderr.wait_for(SOON, HELD_BACK).await;
    scene.standby.leave();
    assert_eq!(scene.told(), []);
    scene.cluster.set(&[("synchronous_standby_names", "")]);
    scene.cluster.reload().await;
    committing.await.unwrap();
    scene.wait_until_told(&[(1, 1)]).await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_commit_that_nobody_sees_and_it_comes_again() {
    let scene = Scene::new().await;
    let run = scene.run().await;
    scene.standby.acknowledge_after(None);
    let before = scene.database.confirmed().await;
    let committing = scene.count_up(1);
    run.stderr.wait_for(SOON, HELD_BACK).await;
    let asked = Instant::now();
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 1);
    let grace = Duration::from_secs(2);
    assert!(asked.elapsed() < grace + FAST, "it took {:?}", asked.elapsed());
    assert_eq!(scene.told(), []);
    let confirmed = scene.database.confirmed().await;
    assert!(confirmed >= before && confirmed < scene.database.written().await);
    scene.standby.acknowledge_after(Some(Duration::ZERO));
    let _run = scene.run().await;
    scene.wait_until_told(&[(1, 1)]).await;
    committing.await.unwrap();
}

#[tokio::test]
async fn postgres_stops_fast_though_a_commit_waits_and_it_is_announced_afterwards() {
    let scene = Scene::new().await;
    let run = scene.run().await;
    scene.standby.acknowledge_after(None);
    let committing = scene.count_up(1);
    run.stderr.wait_for(SOON, HELD_BACK).await;
    // Postgres would wait for the standby as well.
    scene.standby.leave();
    let took = scene.cluster.stop(Stop::Fast).await;
    assert!(took < FAST, "pg_ctl stop -m fast took {took:?}");
    committing.await.unwrap();
    scene.cluster.set(&[("synchronous_standby_names", "")]);
    scene.cluster.start_again().await;
    scene.wait_until_told(&[(1, 1)]).await;
}

#[tokio::test]
async fn what_cannot_be_asked_is_not_passed_on() {
    let scene = Scene::new().await;
    let run = scene.run().await;
    scene.standby.acknowledge_after(None);
    let committing = scene.count_up(1);
    run.stderr.wait_for(SOON, HELD_BACK).await;
    let mark = run.stderr.mark();
    let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where query = 'SELECT pg_current_snapshot()'";
    assert_eq!(scene.database.psql(sql).await, "1");
    run.stderr
        .find_after(mark, SOON, "it connects again", |line| {
            line.contains("streaming changes").then_some(())
        })
        .await;
    run.stderr
        .find_after(mark, SOON, "it waits again", |line| line.contains(HELD_BACK).then_some(()))
        .await;
    assert_eq!(scene.told(), []);
    scene.standby.acknowledge_after(Some(Duration::ZERO));
    scene.wait_until_told(&[(1, 1)]).await;
    committing.await.unwrap();
}
