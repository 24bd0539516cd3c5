//! Where scenes are played: a database, a rowcast, and a strict endpoint.

use std::{collections::HashMap, sync::Arc};

use rowcast::deliver::pusher::Server;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::scene::{Scene, Step};
use crate::harness::{
    capture::Capture,
    cluster::Version,
    database::Database,
    endpoint::{Accepted, Endpoint},
    process::Process,
    rowcast::Rowcast,
    wait::{SOON, eventually},
};

/// What is accepted in its turn tells that all before it was: there is one lane.
const FENCE: &str = "fence";
/// Between a channel and the reason.
const RESYNC: &str = " rowcast.resync ";

pub struct Stage {
    version: Version,
    capture: Capture,
    sessions: HashMap<String, Session>,
    fences: u64,
    /// How much of what was told belongs to the steps before.
    told: usize,
    resyncs: usize,
    run: Process,
    _rowcast: Rowcast,
    endpoint: Endpoint,
    database: Database,
}

struct Session {
    client: Arc<Client>,
    waiting: Option<JoinHandle<Result<(), tokio_postgres::Error>>>,
}

impl Stage {
    /// Set up for all scenes, and running.
    pub async fn prepare(version: Version, capture: Capture, scenes: &[Scene]) -> Self {
        let database = Database::on(version).await;
        database.psql(&format!("create table {FENCE} (id int primary key)")).await;
        for scene in scenes {
            database.psql(&scene.schema).await;
        }
        let endpoint = Endpoint::start(Server::Reverb);
        endpoint.occupy(["users.7", "events.us", "hosts.alpha"]);
        let rowcast = Rowcast::new(&configuration(&database, capture, &endpoint, scenes).await);
        database.set_up(&rowcast, capture).await;
        // The first start does not know what it has missed, and tells a resync of everything.
        let first = rowcast.start(&["run", "--once"]);
        assert_eq!(first.exit_code(SOON).await, 0, "over {capture}: {:?}", first.stderr.all());
        let run = rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        let resyncs = endpoint.resyncs().len();
        Self {
            version,
            capture,
            sessions: HashMap::new(),
            fences: 0,
            told: 0,
            resyncs,
            run,
            _rowcast: rowcast,
            endpoint,
            database,
        }
    }

    /// Writes, waits until all of it is told, and compares that.
    pub async fn play(&mut self, scene: &str, step: &Step) {
        if !step.is_in(self.version) {
            return;
        }
        for script in step.sql.iter() {
            self.run(script, &step.claim).await;
        }
        for session in self.sessions.values_mut() {
            assert!(session.waiting.is_none(), "{}: a session waits still", step.claim);
        }
        self.fence().await;
        let expected: Vec<String> = step.tells(self.capture).iter().map(|it| normal(it)).collect();
        let resyncs = expected.iter().filter(|line| line.contains(RESYNC)).count();
        let wanted = self.resyncs + resyncs;
        self.endpoint.wait_for_resyncs(&step.claim, |all| all.len() >= wanted).await;

        let (accepted, resyncs) = (self.endpoint.accepted(), self.endpoint.resyncs());
        let told = accepted[self.told..].iter().filter(|it| it.event.channel != FENCE);
        let told = told.map(in_words).chain(resyncs[self.resyncs..].iter().map(resync_in_words));
        let told = in_order(told.collect());
        (self.told, self.resyncs) = (accepted.len(), resyncs.len());
        let at = format!("capture = {}: {scene}: {}", self.capture, step.claim);
        assert_eq!(told, in_order(expected), "{at}");
    }

    /// Everything was as the protocol wants it, and rowcast has nothing to complain of.
    pub async fn end(self) {
        self.endpoint.assert_strict();
        self.run.sigterm();
        assert_eq!(self.run.exit_code(SOON).await, 0, "{:?}", self.run.stderr.all());
    }

    async fn run(&mut self, script: &str, claim: &str) {
        let (who, sql) = script.split_once(": ").unwrap_or(("a", script));
        let (who, waits) = match who.strip_suffix(" waits") {
            Some(who) => (who, true),
            None => (who, false),
        };
        // Not everything with a colon names a session.
        let (who, sql) = if who.len() == 1 { (who, sql) } else { ("a", script) };
        let session = self.session(who).await;
        if let Some(waiting) = session.waiting.take() {
            let done = waiting.await.expect("no panic");
            done.unwrap_or_else(|error| panic!("{claim}: {error:?}"));
        }
        let client = session.client.clone();
        if !waits {
            let done = client.batch_execute(sql).await;
            return done.unwrap_or_else(|error| panic!("{claim}: {error:?}\nin: {sql}"));
        }
        let pid = client.query_one("select pg_backend_pid()", &[]).await.expect("it is open");
        let pid: i32 = pid.get(0);
        let sql = sql.to_owned();
        session.waiting = Some(tokio::spawn(async move { client.batch_execute(&sql).await }));
        let is_waiting = format!(
            "select wait_event_type is not distinct from 'Lock' from pg_stat_activity where pid = {pid}"
        );
        eventually(SOON, "it waits for the lock", async || {
            (self.database.psql(&is_waiting).await == "t").then_some(())
        })
        .await;
    }

    async fn session(&mut self, name: &str) -> &mut Session {
        if !self.sessions.contains_key(name) {
            let client = Arc::new(self.database.client().await);
            self.sessions.insert(name.to_owned(), Session { client, waiting: None });
        }
        self.sessions.get_mut(name).expect("it was inserted")
    }

    async fn fence(&mut self) {
        self.fences += 1;
        let number = self.fences;
        self.run(&format!("INSERT INTO {FENCE} VALUES ({number})"), FENCE).await;
        let is_it = |it: &Accepted| it.event.channel == FENCE && it.event.data("id") == number;
        self.endpoint.wait_for("the fence", |accepted| accepted.iter().any(is_it)).await;
    }
}

async fn configuration(
    database: &Database,
    capture: Capture,
    endpoint: &Endpoint,
    scenes: &[Scene],
) -> String {
    let fence = toml::toml! {
        table = "fence"
        channels = "fence"
        coalesce = false
    };
    let rules = scenes.iter().flat_map(|scene| &scene.rules).chain([&fence]);
    let rules: Vec<toml::Value> = rules.cloned().map(toml::Value::Table).collect();
    let mut document = toml::Table::from_iter([("rule".to_owned(), rules.into())]);
    let broadcast = scenes.iter().find_map(|scene| scene.broadcast.clone());
    document.extend(broadcast.map(|broadcast| ("broadcast".to_owned(), broadcast.into())));
    format!(
        "{}[pusher]\n{}[limits]\nmax_in_flight = 1\nresync_spread = '0s'\n[run]\nstate_dir = 'state'\n{}",
        database.toml_over(capture).await,
        endpoint.toml(),
        toml::to_string(&document).expect("it was read as TOML"),
    )
}

fn in_words(Accepted { event, .. }: &Accepted) -> String {
    let socket = event.socket_id.as_ref().map(|id| format!(" not to {id}")).unwrap_or_default();
    normal(&format!("{} {} {}{socket}", event.channel, event.name, event.data))
}

/// With the keys of its data in order, and without the time.
fn normal(line: &str) -> String {
    if line.contains(RESYNC) {
        return line.to_owned();
    }
    let mut parts = line.splitn(3, ' ');
    let (Some(channel), Some(event), Some(data)) = (parts.next(), parts.next(), parts.next())
    else {
        panic!("{line:?} is no channel, event and data");
    };
    let mut values = serde_json::Deserializer::from_str(data).into_iter::<Value>();
    let value = values.next().and_then(Result::ok);
    let mut value = value.unwrap_or_else(|| panic!("no JSON: {line}"));
    if let Value::Object(data) = &mut value {
        data.remove("at");
    }
    format!("{channel} {event} {value}{}", &data[values.byte_offset()..])
}

/// Rows of one statement come in no order, those of one id do.
fn in_order(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_by_cached_key(|line| {
        let mut parts = line.splitn(3, ' ');
        let channel = parts.next().unwrap_or_default().to_owned();
        let data: Value =
            parts.nth(1).and_then(|it| serde_json::from_str(it).ok()).unwrap_or_default();
        (channel, data["id"].to_string())
    });
    lines
}

fn resync_in_words(Accepted { event, .. }: &Accepted) -> String {
    let reason = event.data("reason");
    format!("{}{RESYNC}{}", event.channel, reason.as_str().expect("it has one"))
}
