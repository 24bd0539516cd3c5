//! `rowcast run` and `rowcast tail` with capture = "triggers", by a role that may log in and nothing else.

mod loss;
mod promotion;
mod several;

use std::sync::Arc;

use rowcast::deliver::pusher::Server;
use serde_json::{Value, json};

use crate::harness::{
    cluster::{Cluster, FAST, Stop, Version, on_every_version},
    database::Database,
    endpoint::{Accepted, Endpoint},
    process::Process,
    rowcast::Rowcast,
    wait::{SOON, eventually},
};

const WAKES: [&str; 2] = ["notify", "poll"];

/// A table of posts, set up, and rowcast between it and a strict endpoint.
struct Scene {
    database: Database,
    endpoint: Endpoint,
    rowcast: Rowcast,
    config: String,
}

impl Scene {
    async fn on(version: Version) -> Scene {
        Scene::with(Database::on(version).await, "notify", "").await
    }

    /// With options of `[limits]`.
    async fn with(database: Database, wake: &str, limits: &str) -> Scene {
        let role = format!("own_{}", database.name);
        database
            .psql(&format!(
                "create role {role} login; create table posts (id int primary key, title text)"
            ))
            .await;
        let endpoint = Endpoint::start(Server::Reverb);
        let config = format!(
            "[database]\nurl = '{}'\ncapture = 'triggers'\nwake = '{wake}'\n[pusher]\n{}\
             [limits]\nresync_spread = '0s'\n{limits}\n\
             [run]\nstate_dir = 'state'\ninspect_every = '100ms'\n\
             [[rule]]\ntable = 'posts'\nchannels = ['posts']\ncoalesce = false\n",
            database.url().replace("postgres@", &format!("{role}@")),
            endpoint.toml(),
        );
        let rowcast = Rowcast::new(&config);
        let scene = Scene { database, endpoint, rowcast, config };
        scene.set_up().await;
        scene
    }

    async fn set_up(&self) {
        let setup = self.rowcast.start(&["setup", "--url", &self.database.url()]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
    }

    fn wake_by(&self, wake: &str) {
        self.rowcast
            .configure(&self.config.replace("wake = 'notify'", &format!("wake = '{wake}'")));
    }

    async fn run(&self) -> Process {
        let run = self.rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        run
    }

    /// Ran once, so that nothing is owed, and stands still.
    async fn settled(self) -> Scene {
        let run = self.run().await;
        self.wait_settled().await;
        self.stop(run).await;
        assert_eq!(self.reasons(), ["gap"], "it was the first start");
        self
    }

    async fn stop(&self, run: Process) {
        run.sigterm();
        assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
    }

    async fn insert(&self, id: i32) {
        self.database.psql(&format!("insert into posts values ({id}, 'a')")).await;
    }

    async fn arrives(&self, id: i32) {
        let is_it = |accepted: &Accepted| accepted.event.data("id") == id;
        self.endpoint.wait_for(&format!("row {id}"), |all| all.iter().any(is_it)).await;
    }

    /// How many rows the outbox has.
    async fn undelivered(&self) -> i64 {
        let count = self.database.psql("select count(*) from rowcast.outbox").await;
        count.trim().parse().expect("a count is a number")
    }

    /// Why pages were told to fetch again until now: of the rule's events, by one.
    fn reasons(&self) -> Vec<String> {
        let told = self.endpoint.resyncs();
        let told = told.iter().filter(|accepted| accepted.event.name == "PostUpdated");
        told.map(|it| it.event.data("reason").as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Every page is told `reason`, after what it had been told `before`.
    async fn resynced(&self, before: usize, reason: &str) {
        eventually(SOON, &format!("a resync because of {reason}"), async || {
            self.reasons().iter().skip(before).any(|it| it == reason).then_some(())
        })
        .await;
    }

    fn state(&self) -> Value {
        let (own, name) = (format!("state-rowcast-{}.json", self.database.name), "state");
        let text = std::fs::read(self.rowcast.folder().join(name).join(own)).expect("it is there");
        serde_json::from_slice(&text).expect("a state is JSON")
    }

    /// All that was owed was accepted, and is recorded as that.
    async fn wait_settled(&self) {
        eventually(SOON, "nothing is owed", async || {
            (self.state()["owed"] == json!({})).then_some(())
        })
        .await;
    }
}

/// `PostUpdated 1`, in the order accepted.
fn events(accepted: &[Accepted]) -> Vec<String> {
    let event = |it: &Accepted| format!("{} {}", it.event.name, it.event.data("id"));
    accepted.iter().map(event).collect()
}

on_every_version! {
    async fn committed_rows_and_only_they_are_delivered_by_either_wake(version: Version) {
        let scene = Scene::on(version).await.settled().await;
        for wake in WAKES {
            scene.wake_by(wake);
            scene.endpoint.forget();
            let run = scene.run().await;
            scene
                .database
                .psql(
                    "insert into posts values (1, 'a');
                     begin; insert into posts values (2, 'never'); rollback;
                     begin; insert into posts values (3, 'kept'); savepoint s;
                     insert into posts values (4, 'undone'); rollback to s; commit;
                     update posts set title = 'b' where id = 1;
                     delete from posts where id = 1;
                     update posts set id = 5 where id = 3;
                     delete from posts where id = 5;",
                )
                .await;
            scene.endpoint.wait_for("the last", |all| all.len() >= 7).await;
            scene.stop(run).await;
            assert_eq!(scene.undelivered().await, 0);
            let mut told = events(&scene.endpoint.accepted());
            // Lanes of different ids run side by side: order is per id.
            told.sort_by_key(|event| event.split(' ').next_back().map(str::to_owned));
            let of_1 = ["PostCreated 1", "PostUpdated 1", "PostDeleted 1"];
            let of_others = ["PostCreated 3", "PostDeleted 3", "PostCreated 5", "PostDeleted 5"];
            assert_eq!(told, [&of_1[..], &of_others].concat(), "{wake}");
        }
        assert_eq!(scene.reasons(), Vec::<String>::new(), "either goes on where the other ended");
        scene.endpoint.assert_strict();
    }
}

#[tokio::test]
async fn what_is_committed_between_two_runs_is_delivered_by_the_second() {
    let scene = Scene::on(Version::DEFAULT).await.settled().await;
    for id in 1..=3 {
        scene.insert(id).await;
        let run = scene.run().await;
        scene.arrives(id).await;
        match id {
            // What a kill leaves undone comes again, and nothing is missing.
            1 => run.kill9(),
            _ => scene.stop(run).await,
        }
    }
    let run = scene.rowcast.start_with(&["run"], &[("ROWCAST_FAILPOINT", "state-written")]);
    run.stderr.wait_for(SOON, "streaming changes").await;
    scene.endpoint.forget();
    scene.insert(4).await;
    run.ended(SOON).await;
    assert_eq!(scene.undelivered().await, 1, "it is delivered and recorded, and not deleted yet");
    let run = scene.run().await;
    scene.endpoint.wait_for("it comes again", |all| all.len() >= 2).await;
    scene.stop(run).await;
    assert_eq!(scene.undelivered().await, 0);
    assert_eq!(scene.reasons(), Vec::<String>::new());
}

#[tokio::test]
async fn a_server_without_logical_replication_may_be_restarted_while_rowcast_runs() {
    let settings = [("wal_level", "replica"), ("max_wal_senders", "0")];
    let cluster: Arc<Cluster> = Cluster::start(Version::DEFAULT, &settings).await.into();
    let scene = Scene::with(Database::fresh(&cluster).await, "notify", "").await.settled().await;
    for (id, wake) in WAKES.into_iter().enumerate() {
        scene.wake_by(wake);
        let run = scene.run().await;
        let stopped = cluster.stop(Stop::Fast).await;
        assert!(stopped < FAST, "the server waited {stopped:?} for rowcast");
        let words = "nothing is lost: the outbox keeps what was not delivered";
        run.stderr.wait_for(SOON, words).await;
        cluster.start_again().await;
        scene.insert(id as i32).await;
        scene.arrives(id as i32).await;
        scene.stop(run).await;
    }
    assert_eq!(scene.reasons(), ["gap"]);
}

#[tokio::test]
async fn once_delivers_what_was_committed_and_ends() {
    let scene = Scene::on(Version::DEFAULT).await.settled().await;
    for (id, wake) in WAKES.into_iter().enumerate() {
        scene.wake_by(wake);
        for _ in ["with a row", "idle"] {
            let once = scene.rowcast.start(&["run", "--once"]);
            assert_eq!(once.exit_code(SOON).await, 0, "{:?}", once.stderr.all());
            assert_eq!(scene.undelivered().await, 0);
        }
        scene.insert(id as i32).await;
        let once = scene.rowcast.start(&["run", "--once"]);
        assert_eq!(once.exit_code(SOON).await, 0, "{:?}", once.stderr.all());
        assert_eq!(scene.undelivered().await, 0);
        assert_eq!(events(&scene.endpoint.accepted()).len(), id + 1);
    }
}
