//! Memory is bounded where there is too much of something. Here the cases are small; `cargo bench --bench memory` has
//! them at full size.

use std::{
    collections::HashSet,
    fmt, fs,
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast::deliver::pusher::Server;
use serde_json::{Value, json};

use crate::harness::{
    capture::Capture,
    cluster::{Cluster, Version},
    database::Database,
    endpoint::{Accepted, Endpoint, Fault},
    process::Process,
    rowcast::Rowcast,
    wait::{SOON, eventually},
};

/// What no case may take.
pub const MAX_BYTES: u64 = 128_000_000;
/// `data` that names the large values.
pub const NAMED: &str = "data = { content = '{{ content }}', raw = '{{ raw }}' }";
const DEADLINE: Duration = Duration::from_secs(180);

/// What a rowcast took at most, and the time in which the changes were written and told of.
pub struct Peak {
    pub bytes: u64,
    pub wall: Duration,
}

impl fmt::Display for Peak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6.1} MB {:>7.1} s", self.bytes as f64 / 1e6, self.wall.as_secs_f64())
    }
}

/// A cluster that writes as fast as it can.
pub async fn cluster() -> Arc<Cluster> {
    let settings = [
        ("max_wal_size", "16GB"),
        ("checkpoint_timeout", "1h"),
        ("full_page_writes", "off"),
        ("autovacuum", "off"),
        ("shared_buffers", "256MB"),
    ];
    Arc::new(Cluster::start(Version::DEFAULT, &settings).await)
}

/// One transaction, which becomes one resync.
pub async fn one_transaction(cluster: &Arc<Cluster>, capture: Capture, rows: usize) -> Peak {
    let scene = Scene::with_counters(cluster, capture, rows).await;
    let rule = "table = 'counters'\nchannels = ['counters.{{ id }}', 'counters']";
    let run = scene.start("run", "", rule).await;
    scene.database.psql("update counters set n = n + 1").await;
    scene.delivered(&run).await;
    let resyncs = scene.endpoint.resyncs();
    let counts: Vec<Value> = resyncs.iter().map(|resync| resync.event.data("count")).collect();
    assert!(counts.contains(&json!(rows)), "{counts:?}");
    run.stop(&scene).await
}

/// Rows with a value of that size, written, and changed with the old row and the new one in one message. A bytea is
/// twice as long there.
pub async fn large_rows(
    cluster: &Arc<Cluster>,
    capture: Capture,
    value_bytes: usize,
    data: &str,
) -> Peak {
    let scene = Scene::new(cluster, capture).await;
    let table = "create table files (id int primary key, name text, content text, raw bytea);
                 alter table files replica identity full;";
    scene.database.psql(table).await;
    let rule = format!("table = 'files'\nchannels = ['files.{{{{ id }}}}']\n{data}");
    let run = scene.start("run", "", &rule).await;
    // What is too large for the outbox is told by a resync.
    scene.endpoint.occupy((1..=4).map(|id| format!("files.{id}")));
    scene
        .database
        .psql(&format!(
            "insert into files select id, 'a', repeat('x', {value_bytes}) from generate_series(1, 3) id;
             insert into files values (4, 'a', 'short', repeat('x', {value_bytes})::bytea);
             update files set name = 'b', content = content || 'y' where id >= 3;"
        ))
        .await;
    scene.delivered(&run).await;
    let told = scene.told();
    assert!((1..=4).all(|id| told.contains(&format!("files.{id}"))), "{told:?}");
    run.stop(&scene).await
}

/// An endpoint that is away while rows are changed in turn, and comes back; over wal. One rowcast folds and collapses what it
/// cannot send; another may do neither, so it must not read on: it is left when it has sent so many.
pub async fn endpoint_away(
    cluster: &Arc<Cluster>,
    changes: usize,
    rows: usize,
    held_back: usize,
) -> [Peak; 2] {
    let mut scene = Scene::with_counters(cluster, Capture::Wal, rows).await;
    let pages = || (1..=rows).map(|id| format!("counters.{id}"));
    scene.endpoint.occupy(pages());
    // The log must wait for the second one.
    let limits = "max_retained_wal = '64GB'";
    let rule = "table = 'counters'\nchannels = ['counters.{{ id }}']";
    let folding = scene.start("folding", limits, rule).await;
    let rule = "table = 'counters'\nentity = 'held'\nchannels = ['held.{{ id }}']\n\
                coalesce = false\nresync = false";
    let waiting = scene.start("waiting", limits, rule).await;
    scene.endpoint.forget();

    scene.endpoint.refuse_connections().await;
    scene.update_in_turn(changes, 20, rows).await;
    scene.endpoint.come_back();
    scene.delivered(&folding).await;
    let told = scene.told();
    let untold = pages().filter(|page| !told.contains(page)).count();
    assert_eq!(untold, 0, "every page is told after the endpoint is back");
    let folding = folding.stop(&scene).await;
    eventually(DEADLINE, "what was held back is sent", async || {
        (scene.endpoint.accepted_count() >= held_back).then_some(())
    })
    .await;
    [folding, waiting.peak(&scene)]
}

/// A slow endpoint and a rule that collapses only when `max_pending` is full.
pub async fn slow_endpoint(cluster: &Arc<Cluster>, capture: Capture, ids: usize) -> Peak {
    let scene = Scene::with_counters(cluster, capture, ids).await;
    let rule = "table = 'counters'\nchannels = ['counters.{{ id }}', 'counters']";
    let run = scene.start("run", "collapse_above = 10000000", rule).await;
    scene.endpoint.choose(|_| Some(Fault::Slow(Duration::from_millis(100))));
    scene.update_in_turn(ids, 1, ids).await;
    scene.endpoint.heal();
    scene.delivered(&run).await;
    run.stop(&scene).await
}

struct Scene {
    database: Database,
    capture: Capture,
    endpoint: Endpoint,
}

impl Scene {
    async fn new(cluster: &Arc<Cluster>, capture: Capture) -> Self {
        let database = Database::fresh(cluster).await;
        Self { database, capture, endpoint: Endpoint::start(Server::Reverb) }
    }

    async fn with_counters(cluster: &Arc<Cluster>, capture: Capture, rows: usize) -> Self {
        let scene = Self::new(cluster, capture).await;
        // With room in each page for what changes there.
        let table = format!(
            "create table counters (id int primary key, n int not null) with (fillfactor = 45);
             insert into counters select id, 0 from generate_series(1, {rows}) id;"
        );
        scene.database.psql(&table).await;
        scene
    }

    /// One that over wal streams by a slot of its own, and no longer owes the resync of its first start: nothing would
    /// wait beside that.
    async fn start(&self, name: &str, limits: &str, rule: &str) -> Run {
        let of_database = self.database.slot();
        let slot = format!("{of_database}_{name}");
        // The outbox is not what bounds a case.
        let room = match self.capture {
            Capture::Wal => "",
            Capture::Triggers => "max_outbox_rows = 100000000",
        };
        let rowcast = Rowcast::new(&format!(
            "{}[pusher]\n{}[limits]\n{room}\n{limits}\n[run]\nstate_dir = 'state'\n[[rule]]\n{rule}\n",
            self.database.toml_over(self.capture).await.replace(&of_database, &slot),
            self.endpoint.toml(),
        ));
        self.database.set_up(&rowcast, self.capture).await;
        let process = rowcast.start(&["run"]);
        // A slot has one database, and an outbox is one of several by its database.
        let of_state = match self.capture {
            Capture::Wal => slot.clone(),
            Capture::Triggers => format!("{slot}-{}", self.database.name),
        };
        let state = rowcast.folder().join(format!("state/state-{of_state}.json"));
        eventually(SOON, "nothing is owed", async || {
            let state: Value = serde_json::from_slice(&fs::read(&state).ok()?).ok()?;
            (state["owed"] == json!({})).then_some(())
        })
        .await;
        Run { slot, process, began: Instant::now(), _rowcast: rowcast }
    }

    /// From the first row to the last and again, some in each transaction.
    async fn update_in_turn(&self, changes: usize, per_transaction: usize, rows: usize) {
        let transactions = changes / per_transaction;
        let blocks = rows / per_transaction;
        self.database
            .psql(&format!(
                "do $$ begin
                     for t in 0..{transactions} - 1 loop
                         update counters set n = n + 1
                             where id > t % {blocks} * {per_transaction}
                             and id <= (t % {blocks} + 1) * {per_transaction};
                         commit;
                     end loop;
                 end $$"
            ))
            .await;
    }

    /// All that was written until now is told, as far as the run is concerned.
    async fn delivered(&self, run: &Run) {
        let written = self.database.written().await;
        let client = self.database.client().await;
        let is_delivered = match self.capture {
            Capture::Wal => format!(
                "select confirmed_flush_lsn >= '{written}' from pg_replication_slots where slot_name = '{}'",
                run.slot
            ),
            Capture::Triggers => "select not exists (select from rowcast.outbox)".to_owned(),
        };
        eventually(DEADLINE, "all is confirmed", async || {
            let row = client.query_one(&is_delivered, &[]).await.expect("the superuser may");
            row.get::<_, bool>(0).then_some(())
        })
        .await;
    }

    /// The channels on which anything was told.
    fn told(&self) -> HashSet<String> {
        let views = self.endpoint.accepted().into_iter().chain(self.endpoint.resyncs());
        views.map(|Accepted { event, .. }| event.channel).collect()
    }
}

struct Run {
    slot: String,
    process: Process,
    began: Instant,
    _rowcast: Rowcast,
}

impl Run {
    fn peak(&self, scene: &Scene) -> Peak {
        assert!(self.process.is_running(), "{:?}", self.process.stderr.all());
        scene.endpoint.assert_strict();
        Peak { bytes: self.process.peak_memory_bytes(), wall: self.began.elapsed() }
    }

    async fn stop(self, scene: &Scene) -> Peak {
        let peak = self.peak(scene);
        self.process.sigterm();
        assert_eq!(self.process.exit_code(SOON).await, 0, "{:?}", self.process.stderr.all());
        peak
    }
}

fn assert_small(peak: &Peak) {
    assert!(peak.bytes < MAX_BYTES, "{peak}");
}

#[tokio::test]
async fn memory_does_not_grow_with_a_transaction() {
    assert_small(&one_transaction(&cluster().await, Capture::Wal, 300_000).await);
}

#[tokio::test]
async fn memory_does_not_grow_with_a_row() {
    let cluster = cluster().await;
    assert_small(&large_rows(&cluster, Capture::Wal, 20_000_000, "").await);
    assert_small(&large_rows(&cluster, Capture::Wal, 20_000_000, NAMED).await);
}

#[tokio::test]
async fn memory_does_not_grow_while_the_endpoint_is_away() {
    let peaks = endpoint_away(&cluster().await, 200_000, 2_000, 5_000).await;
    peaks.iter().for_each(assert_small);
}

#[tokio::test]
async fn memory_does_not_grow_with_the_ids_that_wait_for_a_slow_endpoint() {
    assert_small(&slow_endpoint(&cluster().await, Capture::Wal, 60_000).await);
}
