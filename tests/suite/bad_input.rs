//! Bad input: what the operator reads, with which code rowcast ends, and that nothing is lost. Once the cause is
//! mended as the text says, what was committed meanwhile arrives; where Postgres cannot give it back, the text says so.

mod channels;
mod configuration;
mod endpoint;
mod login;
mod publication;
mod server;
mod slot;

use std::sync::Arc;

use rowcast::deliver::pusher::Server;
use serde_json::Value;

use crate::harness::{
    database::Database,
    endpoint::{Accepted, Endpoint},
    process::Process,
    rowcast::Rowcast,
    wait::{SOON, eventually},
};

const RULE: &str = "[[rule]]\ntable = 'posts'\nchannels = ['posts.{{ id }}', 'posts']\n";

/// A table, set up, with rowcast between it and a strict endpoint.
struct Scene {
    database: Database,
    endpoint: Endpoint,
    rowcast: Rowcast,
    rules: String,
}

impl Scene {
    async fn on(database: Database) -> Scene {
        Scene::with(database, RULE).await
    }

    /// Rules of other tables than `posts` need these to be there.
    async fn with(database: Database, rules: &str) -> Scene {
        let scene = Scene::before_setup(database, rules).await;
        scene.set_up().await;
        scene
    }

    async fn before_setup(database: Database, rules: &str) -> Scene {
        database.psql("create table posts (id int primary key, slug text)").await;
        let endpoint = Endpoint::start(Server::Reverb);
        let rowcast = Rowcast::without_config();
        let scene = Scene { database, endpoint, rowcast, rules: rules.to_owned() };
        scene.configure(|_| ());
        scene
    }

    async fn set_up(&self) {
        let setup = self.rowcast.start(&["setup"]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{}", said(&setup));
    }

    /// Writes the right configuration, as `change` makes it wrong.
    fn configure(&self, change: impl FnOnce(&mut String)) {
        let mut text = format!(
            "{}[pusher]\n{}timeout = '2s'\n\
             [run]\nstate_dir = 'state'\ninspect_every = '100ms'\n{}",
            self.database.toml(),
            self.endpoint.toml(),
            self.rules,
        );
        change(&mut text);
        self.rowcast.configure(&text);
    }

    /// With another URL, or another role in it.
    fn configure_url(&self, from: &str, to: &str) {
        let url = self.database.url();
        assert!(url.contains(from), "{url}");
        self.configure(|text| *text = text.replace(&url, &url.replace(from, to)));
    }

    async fn run(&self) -> Process {
        let run = self.rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        run
    }

    /// Starts `run`, which ends by itself: with which code, and what it said.
    async fn refused(&self) -> (i32, String) {
        let run = self.rowcast.start(&["run"]);
        (run.exit_code(SOON).await, said(&run))
    }

    async fn insert(&self, id: i32) {
        self.database.psql(&format!("insert into posts values ({id}, 'a')")).await;
    }

    /// The row is heard of on both channels of [`RULE`].
    async fn arrives(&self, id: i32) {
        let own = format!("posts.{id}");
        let is_there = |accepted: &[Accepted]| {
            [&*own, "posts"].iter().all(|channel| ids(accepted, channel).contains(&id))
        };
        self.endpoint.wait_for(&format!("row {id}"), is_there).await;
    }

    /// Runs with the configuration as it is now mended, and stops.
    async fn arrives_now(&self, id: i32) {
        self.insert(id + 1).await;
        let run = self.run().await;
        self.arrives(id).await;
        self.arrives(id + 1).await;
        self.wait_confirmed().await;
        run.sigterm();
        assert_eq!(run.exit_code(SOON).await, 0, "{}", said(&run));
        self.endpoint.assert_strict();
    }

    async fn wait_confirmed(&self) {
        let written = self.database.written().await;
        eventually(SOON, "the slot follows", async || {
            (self.database.confirmed().await >= written).then_some(())
        })
        .await;
    }

    fn rejected(&self) -> Vec<Value> {
        let path = self.rowcast.folder().join("state/rejected.jsonl");
        let text = std::fs::read_to_string(path).expect("it is made at the start");
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }
}

/// Of the rows that were announced on the channel, in the order accepted.
fn ids(accepted: &[Accepted], channel: &str) -> Vec<i32> {
    let of = accepted.iter().filter(|accepted| accepted.event.channel == channel);
    of.filter_map(|accepted| i32::try_from(accepted.event.data("id").as_i64()?).ok()).collect()
}

/// What a process wrote for people, but for the warning that its configuration has a secret.
fn said(process: &Process) -> String {
    let lines: Vec<Arc<str>> = process.stderr.all();
    let said = lines.iter().filter(|line| !line.contains("every user of this machine can read"));
    said.map(|line| &**line).collect::<Vec<_>>().join("\n")
}

/// The first line of the log from `mark` on that has `text`.
async fn line(process: &Process, mark: usize, text: &str) -> String {
    let found = |line: &str| line.contains(text).then(|| line.to_owned());
    process.stderr.find_after(mark, SOON, text, found).await
}
