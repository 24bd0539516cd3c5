//! Nothing committed is lost, whatever ends: rowcast, Postgres, the connection between them, or the endpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast::deliver::pusher::Server;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::harness::{
    cluster::{Cluster, FAST, Stop, Version},
    database::Database,
    endpoint::{Accepted, Endpoint, Fault},
    process::Process,
    rowcast::Rowcast,
    wait::{SOON, eventually},
};

pub(crate) const IDS: i32 = 7;

/// Rows that count their own updates, and rowcast between them and a strict endpoint.
pub(crate) struct Scene {
    pub(crate) database: Database,
    pub(crate) endpoint: Endpoint,
    pub(crate) rowcast: Rowcast,
}

impl Scene {
    pub(crate) async fn on(database: Database) -> Scene {
        let toml = database.toml();
        Scene::by(database, &toml).await
    }

    /// With a `[database]` of its own.
    pub(crate) async fn by(database: Database, toml: &str) -> Scene {
        database
            .psql(&format!(
                "create table counters (id int primary key, version int not null);
                 insert into counters select i, 0 from generate_series(1, {IDS}) i;"
            ))
            .await;
        let endpoint = Endpoint::start(Server::Sockudo);
        let rowcast = Rowcast::new(&format!(
            "{toml}[pusher]\n{}[run]\nstate_dir = 'state'\ngrace = '5s'\n\
             [[rule]]\ntable = 'counters'\nchannels = ['counters.{{{{ id }}}}', 'counters']\n\
             coalesce = false\nresync = false\n\
             data = {{ entity = 'counter', id = '{{{{ id }}}}', version = '{{{{ version }}}}' }}\n",
            endpoint.toml(),
        ));
        let setup = rowcast.start(&["setup"]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
        Scene { database, endpoint, rowcast }
    }

    pub(crate) async fn run(&self) -> Process {
        let run = self.rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        run
    }

    /// What the table says, by id.
    async fn versions(&self) -> BTreeMap<i32, i32> {
        let client = self.database.client().await;
        let rows = client.query("select id, version from counters", &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Every version that was ever committed was accepted on both channels, and the last accepted of each id is
    /// what the table says.
    pub(crate) async fn assert_nothing_is_lost(&self) {
        let versions = self.versions().await;
        let all_there = |accepted: &[Accepted]| {
            versions.iter().all(|(id, version)| {
                [format!("counters.{id}"), "counters".to_owned()].iter().all(|channel| {
                    let heard = heard(accepted, channel, *id);
                    let seen: BTreeSet<i32> = heard.iter().copied().collect();
                    heard.last() == Some(version) && (1..=*version).all(|v| seen.contains(&v))
                })
            })
        };
        self.endpoint.wait_for("every committed version", all_there).await;
        self.endpoint.assert_strict();
    }
}

/// The versions of `id` on the channel, in the order accepted.
pub(crate) fn heard(accepted: &[Accepted], channel: &str, id: i32) -> Vec<i32> {
    let of_id =
        |accepted: &&Accepted| accepted.event.channel == channel && accepted.event.data("id") == id;
    let version = |accepted: &Accepted| accepted.event.data("version").as_i64().unwrap() as i32;
    accepted.iter().filter(of_id).map(version).collect()
}

/// Counts up rows in turn, one commit each, until it is told to stop; goes on after the server was away.
pub(crate) struct Writer {
    stop: tokio::sync::watch::Sender<bool>,
    writing: JoinHandle<u32>,
}

impl Writer {
    pub(crate) fn start(url: String) -> Writer {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let writing = tokio::spawn(async move {
            let mut commits = 0;
            let mut client: Option<Client> = None;
            // Faster than a debug build behind a busy machine delivers, there would be more to repeat after each kill
            // than a test has time for.
            let mut pace = tokio::time::interval(Duration::from_millis(2));
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !*stopped.borrow() {
                pace.tick().await;
                let Some(connected) = &client else {
                    if let Ok((new, connection)) =
                        tokio_postgres::connect(&url, tokio_postgres::NoTls).await
                    {
                        tokio::spawn(connection);
                        client = Some(new);
                    }
                    continue;
                };
                let id = i32::try_from(commits).unwrap() % IDS + 1;
                let sql = "update counters set version = version + 1 where id = $1";
                match connected.execute(sql, &[&id]).await {
                    Ok(_) => commits += 1,
                    Err(_) => client = None,
                }
            }
            commits
        });
        Writer { stop, writing }
    }

    /// How many commits it knows of.
    pub(crate) async fn stop(self) -> u32 {
        self.stop.send_replace(true);
        self.writing.await.unwrap()
    }
}

#[tokio::test]
async fn kill_9_during_delivery_repeats_but_never_loses() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let writer = Writer::start(scene.database.url());
    for round in 1..=5 {
        let run = scene.run().await;
        scene.endpoint.wait_for_requests(scene.endpoint.requests() + 10 * round).await;
        run.kill9();
        run.ended(SOON).await;
    }
    let commits = writer.stop().await;
    assert!(commits > 20, "{commits} commits");
    let _run = scene.run().await;
    scene.assert_nothing_is_lost().await;
}

#[tokio::test]
async fn a_restart_of_postgres_is_fast_and_loses_nothing() {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let scene = Scene::on(Database::fresh(&cluster).await).await;
    let writer = Writer::start(scene.database.url());
    let run = scene.run().await;
    for _ in 0..2 {
        scene.endpoint.wait_for_requests(scene.endpoint.requests() + 20).await;
        let took = cluster.stop(Stop::Fast).await;
        assert!(took < FAST, "pg_ctl stop -m fast took {took:?}");
        cluster.start_again().await;
    }
    scene.endpoint.wait_for_requests(scene.endpoint.requests() + 20).await;
    writer.stop().await;
    scene.assert_nothing_is_lost().await;
    assert!(run.is_running());
}

#[tokio::test]
async fn postgres_stops_fast_though_the_endpoint_hangs() {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let scene = Scene::on(Database::fresh(&cluster).await).await;
    let run = scene.run().await;
    scene.endpoint.choose(|_| Some(Fault::Hang));
    scene.database.psql("update counters set version = version + 1").await;
    scene.endpoint.wait_for_requests(1).await;
    let took = cluster.stop(Stop::Fast).await;
    assert!(took < FAST, "pg_ctl stop -m fast took {took:?}");
    scene.endpoint.heal();
    cluster.start_again().await;
    scene.assert_nothing_is_lost().await;
    assert!(run.is_running());
}

#[tokio::test]
async fn a_crash_of_postgres_loses_nothing_that_it_recovers() {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[("fsync", "on")]).await);
    let scene = Scene::on(Database::fresh(&cluster).await).await;
    let writer = Writer::start(scene.database.url());
    let run = scene.run().await;
    scene.endpoint.wait_for_requests(20).await;
    cluster.crash().await;
    cluster.start_again().await;
    scene.endpoint.wait_for_requests(scene.endpoint.requests() + 20).await;
    writer.stop().await;
    scene.assert_nothing_is_lost().await;
    assert!(run.is_running());
}

#[tokio::test]
async fn a_connection_that_is_cut_is_made_again_and_nothing_is_lost() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let writer = Writer::start(scene.database.url());
    let run = scene.run().await;
    let client = scene.database.client().await;
    for _ in 0..3 {
        scene.endpoint.wait_for_requests(scene.endpoint.requests() + 20).await;
        let sql = "with ours as (select pid from pg_stat_activity
                                  where application_name = 'rowcast' and datname = current_database())
                   select pg_terminate_backend(pid) from ours where (select count(*) from ours) = 3";
        eventually(SOON, "all three connections are cut", async || {
            (client.query(sql, &[]).await.unwrap().len() == 3).then_some(())
        })
        .await;
        scene.endpoint.wait_for_requests(scene.endpoint.requests() + 20).await;
    }
    writer.stop().await;
    scene.assert_nothing_is_lost().await;
    assert!(run.is_running());
}

#[tokio::test]
async fn a_stream_that_is_cut_while_nothing_happens_is_made_again_every_time() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let run = scene.run().await;
    let client = scene.database.client().await;
    for _ in 0..10 {
        let sql = "select pg_terminate_backend(active_pid) from pg_replication_slots
                   where slot_name = $1 and active";
        eventually(SOON, "the stream is cut", async || {
            let cut = client.query(sql, &[&scene.database.slot()]).await.unwrap();
            (!cut.is_empty()).then_some(())
        })
        .await;
    }
    scene.database.psql("update counters set version = version + 1").await;
    scene.assert_nothing_is_lost().await;
    assert!(run.is_running());
}

#[tokio::test]
async fn a_renamed_table_holds_its_changes_until_a_rule_takes_its_new_name() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let run = scene.run().await;
    scene
        .database
        .psql(
            "update counters set version = version + 1;
             alter table counters rename to tallies;
             update tallies set version = version + 1;",
        )
        .await;
    let written = scene.database.written().await;
    run.stderr.wait_for(SOON, "public.tallies").await;
    run.sigterm();
    run.ended(SOON).await;
    assert!(scene.database.confirmed().await < written);

    let config = scene.rowcast.folder().join("rowcast.toml");
    let config = std::fs::read_to_string(config).unwrap();
    scene.rowcast.configure(&config.replace("table = 'counters'", "table = 'tallies'"));
    let _run = scene.run().await;
    scene.database.psql("create view counters as select * from tallies").await;
    scene.assert_nothing_is_lost().await;
}

#[tokio::test]
async fn sigterm_delivers_and_confirms_what_was_read_and_ends_with_0() {
    // Nobody else writes there, so what is written is what is read.
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let scene = Scene::on(Database::fresh(&cluster).await).await;
    let run = scene.run().await;
    scene.endpoint.choose(|_| Some(Fault::Slow(Duration::from_millis(20))));
    scene.database.psql("update counters set version = version + 1").await;
    let written = scene.database.written().await;
    scene.endpoint.wait_for_requests(1).await;
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
    scene.assert_nothing_is_lost().await;
    assert!(scene.database.confirmed().await >= written);
}

#[tokio::test]
async fn sigterm_ends_within_grace_though_the_endpoint_hangs_and_the_rest_comes_again() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let run = scene.run().await;
    scene.endpoint.choose(|_| Some(Fault::Hang));
    let before = scene.database.confirmed().await;
    scene.database.psql("update counters set version = version + 1").await;
    scene.endpoint.wait_for_requests(1).await;
    let asked = Instant::now();
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 1);
    let grace = Duration::from_secs(5);
    assert!(asked.elapsed() < grace + FAST, "it took {:?}", asked.elapsed());
    let last = run.stderr.all().last().cloned().unwrap_or_default();
    assert!(last.contains("sent again at the next start"), "{last}");
    assert!(scene.database.confirmed().await < scene.database.written().await);
    assert!(scene.database.confirmed().await >= before);
    scene.endpoint.heal();
    let _run = scene.run().await;
    scene.assert_nothing_is_lost().await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    scene.rowcast.configure(
        &std::fs::read_to_string(scene.rowcast.folder().join("rowcast.toml"))
            .unwrap()
            .replace("grace = '5s'", "grace = '1h'"),
    );
    let run = scene.run().await;
    scene.endpoint.choose(|_| Some(Fault::Hang));
    scene.database.psql("update counters set version = version + 1").await;
    scene.endpoint.wait_for_requests(1).await;
    run.sigterm();
    run.stderr.wait_for(SOON, "stopping").await;
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 130);
}

#[tokio::test]
async fn once_delivers_what_was_committed_and_ends() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    for _ in 0..3 {
        scene.database.psql("update counters set version = version + 1").await;
        let written = scene.database.written().await;
        let run = scene.rowcast.start(&["run", "--once"]);
        assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
        scene.assert_nothing_is_lost().await;
        assert!(scene.database.confirmed().await >= written);
    }
    let idle = scene.rowcast.start(&["run", "--once"]);
    assert_eq!(idle.exit_code(SOON).await, 0, "{:?}", idle.stderr.all());
}

#[tokio::test]
async fn a_database_where_another_table_is_busy_retains_no_log() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let _run = scene.run().await;
    scene.database.psql("create table busy as select generate_series(1, 50000)").await;
    let written = scene.database.written().await;
    let mut confirmed = scene.database.confirmed().await;
    eventually(SOON, "the slot follows", async || {
        confirmed = scene.database.confirmed().await;
        (confirmed >= written).then_some(())
    })
    .await;
}

#[tokio::test]
async fn while_the_endpoint_is_away_the_position_is_held_and_then_all_arrives() {
    let mut scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let _run = scene.run().await;
    scene.endpoint.refuse_connections().await;
    let before = scene.database.confirmed().await;
    scene.database.psql(&"update counters set version = version + 1;\n".repeat(20)).await;
    let written = scene.database.written().await;
    assert!(scene.database.confirmed().await < written);
    assert!(scene.database.confirmed().await >= before);
    scene.endpoint.come_back();
    scene.assert_nothing_is_lost().await;
    eventually(SOON, "the slot follows", async || {
        (scene.database.confirmed().await >= written).then_some(())
    })
    .await;
}
