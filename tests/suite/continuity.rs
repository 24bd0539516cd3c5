//! A session goes on where the one before ended, or every page is told to fetch again.

mod failpoints;
mod publication;
mod shed;
mod slot;
mod timeline;

use std::fs;
use std::path::PathBuf;

use rowcast::deliver::pusher::Server;
use serde_json::{Value, json};

use crate::harness::{
    cluster::{Cluster, Version},
    database::Database,
    endpoint::{Accepted, Endpoint},
    process::Process,
    rowcast::Rowcast,
    wait::{SOON, eventually},
};

/// A page that shows one post is there all the time.
const OCCUPIED: &str = "posts.7";

/// A table of posts, set up, and rowcast between it and a strict endpoint.
struct Scene {
    database: Database,
    endpoint: Endpoint,
    rowcast: Rowcast,
}

impl Scene {
    async fn on(database: Database) -> Scene {
        Scene::with(database, "", "").await
    }

    /// With options of `[run]` and `[limits]`.
    async fn with(database: Database, run: &str, limits: &str) -> Scene {
        database.psql("create table posts (id int primary key, title text)").await;
        let endpoint = Endpoint::start(Server::Reverb);
        endpoint.occupy([OCCUPIED]);
        let rowcast = Rowcast::new(&format!(
            "{}[pusher]\n{}[limits]\nresync_spread = '0s'\n{limits}\n\
             [run]\nstate_dir = 'state'\ninspect_every = '100ms'\n{run}\n\
             [[rule]]\ntable = 'posts'\nchannels = ['posts.{{{{ id }}}}', 'posts']\n",
            database.toml(),
            endpoint.toml(),
        ));
        let scene = Scene { database, endpoint, rowcast };
        scene.set_up().await;
        scene
    }

    fn configure_text(&self, change: impl FnOnce(String) -> String) {
        let path = self.rowcast.folder().join("rowcast.toml");
        self.rowcast.configure(&change(fs::read_to_string(path).expect("it is configured")));
    }

    async fn set_up(&self) {
        let setup = self.rowcast.start(&["setup"]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
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
        assert_eq!(self.resyncs(), ["gap"], "it was the first start");
        self
    }

    async fn stop(&self, run: Process) {
        run.sigterm();
        assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
    }

    async fn insert(&self, id: i32) {
        self.database.psql(&format!("insert into posts values ({id}, 'a')")).await;
    }

    /// The row is heard of on both channels.
    async fn arrives(&self, id: i32) {
        let is_there = |accepted: &[Accepted]| {
            [format!("posts.{id}"), "posts".to_owned()].iter().all(|channel| {
                let on = |a: &&Accepted| a.event.channel == *channel;
                accepted.iter().filter(on).any(|accepted| accepted.event.data("id") == id)
            })
        };
        self.endpoint.wait_for(&format!("row {id}"), is_there).await;
    }

    /// Why pages were told to fetch again until now.
    fn resyncs(&self) -> Vec<String> {
        let told = self.endpoint.resyncs();
        assert_eq!(reasons(&told, "posts"), reasons(&told, OCCUPIED));
        reasons(&told, OCCUPIED)
    }

    /// Every page is told `reason`, after what it had been told `before`.
    async fn resynced(&self, before: usize, reason: &str) {
        let is_there = |resyncs: &[Accepted]| {
            let is_told =
                |channel| reasons(resyncs, channel).iter().skip(before).any(|r| r == reason);
            is_told("posts") && is_told(OCCUPIED)
        };
        self.endpoint.wait_for_resyncs(&format!("a resync because of {reason}"), is_there).await;
    }

    fn state_path(&self) -> PathBuf {
        self.rowcast.folder().join(format!("state/state-{}.json", self.database.slot()))
    }

    fn state(&self) -> Value {
        let text = fs::read(self.state_path()).expect("there is a state");
        serde_json::from_slice(&text).expect("a state is JSON")
    }

    /// All that was owed was accepted, and is recorded as that.
    async fn wait_settled(&self) {
        eventually(SOON, "nothing is owed", async || {
            (self.state()["owed"] == json!({})).then_some(())
        })
        .await;
    }

    async fn drop_slot(&self) {
        let sql = format!("select pg_drop_replication_slot('{}')", self.database.slot());
        self.database.psql(&sql).await;
    }
}

/// A resync is told by each event of the rule: here by one of them.
fn reasons(resyncs: &[Accepted], channel: &str) -> Vec<String> {
    let events = resyncs.iter().map(|accepted| &accepted.event);
    let of = events.filter(|event| event.channel == channel && event.name == "PostUpdated");
    of.map(|event| event.data("reason").as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn the_first_start_tells_every_page_and_the_next_ones_do_not() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await.settled().await;
    scene.insert(1).await;
    let run = scene.run().await;
    assert_eq!(scene.state()["owed"], json!({}));
    scene.arrives(1).await;
    run.kill9();
    run.ended(SOON).await;
    scene.insert(2).await;
    let run = scene.run().await;
    assert_eq!(scene.state()["owed"], json!({}));
    scene.arrives(2).await;
    scene.stop(run).await;
    assert_eq!(scene.resyncs(), ["gap"]);
    let state = scene.state();
    assert_eq!(state["position"], scene.database.confirmed().await.to_string());
    assert_eq!(state["slot"], scene.database.slot());
    scene.endpoint.assert_strict();
}

#[tokio::test]
async fn owed_resyncs_survive_kill_9_while_the_endpoint_is_away() {
    let mut scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    scene.endpoint.refuse_connections().await;
    for _ in 0..2 {
        let run = scene.run().await;
        assert_eq!(scene.state()["owed"], json!({ "posts": "gap" }));
        run.kill9();
        run.ended(SOON).await;
    }
    scene.endpoint.come_back();
    let _run = scene.run().await;
    scene.resynced(0, "gap").await;
    scene.wait_settled().await;
}

#[tokio::test]
async fn a_lost_or_spoilt_state_file_is_a_gap() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await.settled().await;
    fs::remove_file(scene.state_path()).unwrap();
    let run = scene.run().await;
    scene.resynced(1, "gap").await;
    scene.stop(run).await;

    fs::write(scene.state_path(), "{\"system\":").unwrap();
    let run = scene.run().await;
    scene.resynced(2, "gap").await;
    run.stderr.wait_for(SOON, "is no state of rowcast").await;
    scene.stop(run).await;
    let aside = scene.state_path().with_extension("json.bad");
    assert_eq!(fs::read_to_string(aside).unwrap(), "{\"system\":");
}

#[tokio::test]
async fn a_state_that_cannot_be_written_is_told_and_the_next_start_makes_up_for_it() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await.settled().await;
    let run = scene.run().await;
    let in_the_way = scene.state_path().with_extension("json.new");
    eventually(SOON, "no write of the state is under way", async || {
        fs::create_dir(&in_the_way).ok()
    })
    .await;
    scene.insert(1).await;
    scene.arrives(1).await;
    let written = scene.database.written().await;
    eventually(SOON, "it is confirmed all the same", async || {
        (scene.database.confirmed().await >= written).then_some(())
    })
    .await;
    let told = "after the next start every page is told to fetch again";
    assert!(run.stderr.wait_for(SOON, told).await.contains("cannot write the state"));
    scene.stop(run).await;
    fs::remove_dir(in_the_way).unwrap();
    let _run = scene.run().await;
    scene.resynced(1, "gap").await;
}

/// As on a network's disk that is away. Whoever waits for it keeps log on the database's disk, and cannot be stopped.
#[tokio::test]
async fn a_state_whose_disk_hangs_holds_up_neither_confirmation_nor_the_end() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await.settled().await;
    let run = scene.run().await;
    let in_the_way = scene.state_path().with_extension("json.new");
    // Nobody ever reads from it, so whoever opens it to write waits.
    eventually(SOON, "no write of the state is under way", async || {
        let made = std::process::Command::new("mkfifo").arg(&in_the_way).output();
        made.expect("coreutils are there").status.success().then_some(())
    })
    .await;
    scene.insert(1).await;
    scene.arrives(1).await;
    let written = scene.database.written().await;
    let told = "after the next start every page is told to fetch again";
    assert!(run.stderr.wait_for(SOON, told).await.contains("cannot write the state"));
    eventually(SOON, "it is confirmed all the same", async || {
        (scene.database.confirmed().await >= written).then_some(())
    })
    .await;
    scene.insert(2).await;
    scene.arrives(2).await;
    run.sigterm();
    run.exit_code(SOON).await;
    fs::remove_file(in_the_way).unwrap();
    let _run = scene.run().await;
    scene.resynced(1, "gap").await;
}

#[tokio::test]
async fn a_state_that_cannot_be_read_in_time_keeps_rowcast_from_starting() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await.settled().await;
    let state = scene.state_path();
    fs::remove_file(&state).unwrap();
    // Nobody ever writes to it, so whoever opens it to read waits.
    let made = std::process::Command::new("mkfifo").arg(&state).output();
    assert!(made.expect("coreutils are there").status.success());
    let run = scene.rowcast.start(&["run"]);
    assert_eq!(run.exit_code(SOON).await, 1);
    let said = run.stderr.all().join("\n");
    assert!(said.contains("cannot read the state in") && said.contains("timed out"), "{said}");
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_keeps_rowcast_from_starting() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    // Not even by root, who runs the tests in a container.
    scene.configure_text(|text| text.replace("state_dir = 'state'", "state_dir = '/proc/self'"));
    let run = scene.rowcast.start(&["run"]);
    assert_eq!(run.exit_code(SOON).await, 1);
    let said = run.stderr.all().join("\n");
    assert!(said.contains("cannot write the state to /proc/self/state-"), "{said}");
}

#[tokio::test]
async fn another_cluster_is_not_read_with_the_state_of_this_one() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await.settled().await;
    let cluster = Cluster::unrelated(Version::DEFAULT).await.into();
    let other = Database::fresh(&cluster).await;
    other.psql("create table posts (id int primary key, title text)").await;
    scene.configure_text(|text| text.replace(&scene.database.url(), &other.url()));
    for slot in ["is there", "is not there"] {
        if slot == "is there" {
            scene.set_up().await;
        } else {
            let drop = format!("select pg_drop_replication_slot('{}')", scene.database.slot());
            other.psql(&drop).await;
        }
        let run = scene.rowcast.start(&["run"]);
        assert_eq!(run.exit_code(SOON).await, 1, "the slot {slot}");
        let said = run.stderr.all().join("\n");
        assert!(said.contains("it is another cluster, not a copy"), "{said}");
        assert!(said.contains("help: check [database] url"), "{said}");
    }
    scene.configure_text(|text| text.replace(&other.url(), &scene.database.url()));
    scene.insert(1).await;
    let run = scene.run().await;
    scene.arrives(1).await;
    scene.stop(run).await;
    assert_eq!(scene.resyncs(), ["gap"], "nothing happened to it");
}
