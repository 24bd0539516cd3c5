//! `occupied_only` with the binary: whoever listens is never left with an old page, whenever he joined and whatever
//! ended meanwhile.

use std::{collections::HashSet, fs, time::Duration};

use rowcast::deliver::pusher::Server;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{
    capture::Capture,
    client::Listener,
    cluster::Version,
    database::Database,
    endpoint::Endpoint,
    process::Process,
    rowcast::Rowcast,
    sockudo::Sockudo,
    wait::{SOON, eventually},
};

/// Rows, each on a channel of its own.
struct Scene {
    database: Database,
    rowcast: Rowcast,
}

impl Scene {
    /// `pusher`: of the configuration, without its first line.
    async fn of(rows: i32, pusher: &str) -> Scene {
        let database = Database::on(Version::DEFAULT).await;
        database
            .psql(&format!(
                "create table notes (id int primary key, version int not null);
                 insert into notes select i, 0 from generate_series(1, {rows}) i;"
            ))
            .await;
        let rowcast = Rowcast::new(&format!(
            "{}[pusher]\n{pusher}occupied_only = true\n[run]\nstate_dir = 'state'\n\
             [[rule]]\ntable = 'notes'\nchannels = '{}.{{{{ id }}}}'\n",
            database.toml(),
            database.name,
        ));
        database.set_up(&rowcast, Capture::Wal).await;
        Scene { database, rowcast }
    }

    /// Returns when it streams. At its first start it owes a resync, which is waited for.
    async fn run(&self) -> Process {
        let run = self.rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        let path = self.rowcast.folder().join(format!("state/state-{}.json", self.database.slot()));
        eventually(SOON, "nothing is owed", async || {
            let state: Value = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            (state["owed"] == json!({})).then_some(())
        })
        .await;
        run
    }

    fn channel(&self, id: i32) -> String {
        format!("{}.{id}", self.database.name)
    }
}

const WRITE: &str = "update notes set version = 1 where id = $1";

/// Each row is written once, so that nothing later tells who has missed it.
#[tokio::test]
async fn whoever_joins_while_a_row_is_written_and_rowcast_is_killed_shows_the_row() {
    const ROUNDS: i32 = 6;
    const ROWS: i32 = 25;

    let sockudo = Sockudo::start().await;
    let (url, id, key, secret) = (sockudo.url(), Sockudo::APP_ID, Sockudo::KEY, Sockudo::SECRET);
    let pusher = format!(
        "url = '{url}'\napp_id = '{id}'\nkey = '{key}'\nsecret = '{secret}'\nserver = 'sockudo'\n"
    );
    let scene = Scene::of(ROUNDS * ROWS, &pusher).await;
    let (writer, reader) = (scene.database.client().await, scene.database.client().await);
    let listener = Listener::join(&sockudo, &[]).await;
    let mut run = scene.run().await;
    let mut stale = HashSet::new();
    for id in 1..=ROUNDS * ROWS {
        let millis = |factor: i32| Duration::from_millis((id * factor % 17).unsigned_abs().into());
        let (channel, reader) = (scene.channel(id), &reader);
        let page = async {
            sleep(millis(5)).await;
            listener.join_also(&channel).await;
            let row = reader.query_one("select version from notes where id = $1", &[&id]).await;
            row.expect("the row is there").get::<_, i32>(0)
        };
        let written = async {
            sleep(millis(7)).await;
            writer.execute(WRITE, &[&id]).await.expect("the row is there");
        };
        let (fetched, ()) = tokio::join!(page, written);
        if fetched == 0 {
            stale.insert(channel);
        }
        if id % ROWS == 0 && id < ROUNDS * ROWS {
            run.kill9();
            run = scene.rowcast.start(&["run"]);
        }
    }
    assert!(!stale.is_empty(), "no page fetched before its row was written");
    eventually(SOON, "every page that fetched too early fetches again", async || {
        for heard in listener.heard() {
            stale.remove(&heard.channel);
        }
        stale.is_empty().then_some(())
    })
    .await;
    let resyncs = listener.heard().into_iter().filter(|heard| heard.data["action"] == "resync");
    assert_eq!(resyncs.collect::<Vec<_>>(), [], "a resync would have told them anyway");
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0);
}

#[tokio::test]
async fn what_several_nodes_may_not_know_yet_is_looked_for_again_by_the_next_process() {
    let endpoint = Endpoint::start(Server::Pusher);
    let scene = Scene::of(3, &endpoint.toml()).await;
    let writer = scene.database.client().await;
    let run = scene.run().await;
    let lists = endpoint.lists().len();
    endpoint.forget();
    writer.execute(WRITE, &[&1]).await.expect("the row is there");
    endpoint.wait_for_lists(lists + 1).await;
    run.kill9();
    run.ended(SOON).await;
    endpoint.occupy([scene.channel(1)]);
    let run = scene.rowcast.start(&["run"]);
    let is_heard = |count: usize| move |it: &[_]| it.len() == count;
    endpoint.wait_for("the row, by the next process", is_heard(1)).await;

    // Who stops it waits for the second look.
    let lists = endpoint.lists().len();
    writer.execute(WRITE, &[&2]).await.expect("the row is there");
    endpoint.wait_for_lists(lists + 1).await;
    run.sigterm();
    endpoint.occupy([scene.channel(2)]);
    assert_eq!(run.exit_code(SOON).await, 0);
    let told: Vec<String> = endpoint.accepted().into_iter().map(|it| it.event.channel).collect();
    assert_eq!(told, [scene.channel(1), scene.channel(2)]);

    // `--once` too; and what nobody needs is confirmed then.
    writer.execute(WRITE, &[&3]).await.expect("the row is there");
    let written = scene.database.written().await;
    let once = scene.rowcast.start(&["run", "--once"]);
    assert_eq!(once.exit_code(SOON).await, 0, "{:?}", once.stderr.all());
    assert!(scene.database.confirmed().await >= written);
    assert_eq!(endpoint.accepted_count(), 2);
}
