//! Children announce their parent: however a burst is spread over their tables, a page fetches no more often than if
//! all were one table.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rowcast::deliver::pusher::Server;
use tokio::time::MissedTickBehavior;

use crate::harness::{
    capture::{Capture, over_both},
    cluster::{Version, on_every_version},
    database::Database,
    endpoint::{Accepted, Endpoint},
    process::Process,
    rowcast::Rowcast,
    wait::SOON,
};

const TABLES: &str = "
    create table servers (id int primary key, n int);
    create table firewalls (id serial primary key, server_id int, n int);
    create table rules (id serial primary key, firewall_id int, n int);
    alter table servers replica identity full;
    alter table firewalls replica identity full;
    alter table rules replica identity full;
    insert into servers values (1, 0), (2, 0);
    insert into firewalls (server_id, n) values (1, 0);
    insert into rules (firewall_id, n) values (1, 0);";

const WINDOW: Duration = Duration::from_millis(500);

/// Each table with what names its server, and what is looked up for that.
const RULES: [(&str, &str, &str); 3] = [
    ("servers", "id", ""),
    ("firewalls", "server_id", ""),
    (
        "rules",
        "firewall.server_id",
        "lookup.firewall = { table = 'firewalls', key = '{{ firewall_id }}', columns = ['server_id'] }",
    ),
];

/// rowcast between a strict endpoint and a database with these tables.
struct Scene {
    capture: Capture,
    database: Database,
    endpoint: Endpoint,
    run: Process,
    _rowcast: Rowcast,
}

impl Scene {
    /// Each table's rule announces its server; `more` is what they have besides.
    async fn start(version: Version, capture: Capture, more: impl Fn(&str) -> String) -> Scene {
        let database = Database::on(version).await;
        database.psql(TABLES).await;
        let endpoint = Endpoint::start(Server::Reverb);
        let rules = RULES.map(|(table, id, lookup)| {
            let more = more(id);
            format!(
                "[[rule]]\ntable = '{table}'\nentity = 'server'\nid = '{{{{ {id} }}}}'\n\
                 channels = ['private-servers.{{{{ {id} }}}}', 'private-servers']\n\
                 action = 'updated'\ncoalesce = '500ms'\n{lookup}\n{more}\n"
            )
        });
        let rowcast = Rowcast::new(&format!(
            "{}[pusher]\n{}[run]\nstate_dir = 'state'\n{}",
            database.toml_over(capture).await,
            endpoint.toml(),
            rules.concat(),
        ));
        database.set_up(&rowcast, capture).await;
        let run = rowcast.start(&["run"]);
        // At its first start each rule has its pages fetch.
        let is_told = |resyncs: &[Accepted]| resyncs.len() >= RULES.len();
        endpoint.wait_for_resyncs("each rule's resync", is_told).await;
        Scene { capture, database, endpoint, run, _rowcast: rowcast }
    }

    /// Waits until all that is committed was accepted; what was, by channel and event.
    async fn told(&self) -> BTreeMap<(String, String), Vec<Accepted>> {
        self.database.delivered(self.capture).await;
        let mut told: BTreeMap<_, Vec<Accepted>> = BTreeMap::new();
        for accepted in self.endpoint.accepted() {
            let key = (accepted.event.channel.clone(), accepted.event.name.clone());
            told.entry(key).or_default().push(accepted);
        }
        told
    }

    async fn stop(self) {
        self.endpoint.assert_strict();
        self.run.sigterm();
        assert_eq!(self.run.exit_code(SOON).await, 0, "{:?}", self.run.stderr.all());
    }
}

/// How often a page may have been told: at once, and then once for each window that has ended.
fn most(start: Instant, told: &[Accepted]) -> usize {
    let last = told.last().expect("it was told").began;
    let windows = last.duration_since(start).as_millis() / WINDOW.as_millis();
    2 + usize::try_from(windows).expect("a short time")
}

on_every_version! {
    async fn fifty_children_at_once_are_told_at_most_twice_on_each_channel(version: Version) {
        over_both(async |capture| fifty_children_at_once(version, capture).await).await;
    }
}

async fn fifty_children_at_once(version: Version, capture: Capture) {
    let scene = Scene::start(version, capture, |_| String::new()).await;
    let client = scene.database.client().await;
    let start = Instant::now();
    client
        .batch_execute(
            "insert into rules (firewall_id, n) select 1, i from generate_series(1, 50) i",
        )
        .await
        .expect("they are inserted");
    // And in transactions of their own, over both tables.
    for n in 0..25 {
        let rows = format!(
            "begin; insert into firewalls (server_id, n) values (1, {n}); commit;
                 begin; insert into rules (firewall_id, n) values (1, {n}); commit;"
        );
        client.batch_execute(&rows).await.expect("they are inserted");
    }
    let told = scene.told().await;
    let channels: Vec<&str> = told.keys().map(|(channel, _)| channel.as_str()).collect();
    assert_eq!(channels, ["private-servers", "private-servers.1"]);
    for ((channel, event), told) in &told {
        assert_eq!(event, "ServerUpdated");
        assert!(told.len() <= most(start, told), "{} on {channel}: {told:#?}", told.len());
        let count = |told: &Accepted| told.event.data("count").as_u64().unwrap_or(1);
        assert_eq!(told.iter().map(count).sum::<u64>(), 100, "{told:#?}");
    }
    scene.stop().await;
}

on_every_version! {
    async fn two_hundred_updates_in_two_seconds_are_told_six_times_at_most(version: Version) {
        over_both(async |capture| two_hundred_updates(version, capture).await).await;
    }
}

async fn two_hundred_updates(version: Version, capture: Capture) {
    const UPDATES: usize = 200;
    let data = |id: &str| {
        format!(
            "event = ['App\\Events\\ServerUpdated', 'ServerUpdated']\n\
                 data = {{ server_id = '{{{{ {id} }}}}', n = '{{{{ n }}}}' }}"
        )
    };
    let scene = Scene::start(version, capture, data).await;
    let client = scene.database.client().await;
    let start = Instant::now();
    let mut beat = tokio::time::interval(Duration::from_micros(9_900));
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for n in 1..=UPDATES {
        beat.tick().await;
        let (table, ..) = RULES[n % RULES.len()];
        let update = format!("update {table} set n = {n} where id = 1");
        client.batch_execute(&update).await.expect("it is updated");
    }
    let told = scene.told().await;
    assert_eq!(told.len(), 4, "two channels, two events: {:?}", told.keys());
    for (on, told) in &told {
        assert!(told.len() <= most(start, told), "{} on {on:?}: {told:#?}", told.len());
        let last = told.last().expect("one was told");
        assert_eq!(last.event.data("n"), UPDATES);
        assert_eq!(last.event.data("server_id"), 1);
    }
    scene.stop().await;
}
