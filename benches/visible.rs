//! Whether a page that fetches as soon as it is told reads the change that it was told of: every request's events are
//! looked up in the table the moment the endpoint has read it, over connections that are open already.
//!
//! `cargo bench --bench visible`
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

#[expect(unreachable_pub, reason = "nothing of a bench can be reached from outside")]
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use the rest of it")]
#[path = "../tests/suite/harness/mod.rs"]
mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rowcast::deliver::pusher::Server;
use serde_json::json;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_postgres::{Client, Statement};

use harness::{
    cluster::{Cluster, Version},
    database::Database,
    endpoint::{Accepted, Endpoint},
    rowcast::Rowcast,
    standby::Standby,
    wait::{SOON, eventually},
};

const WRITERS: i32 = 8;
/// Each writer has rows of its own.
const ROWS_PER_WRITER: i32 = 50;
const READERS: usize = 4;

struct Scene {
    name: &'static str,
    writers: i32,
    commits_per_writer: i32,
    /// The next commit comes after the page has fetched the one before.
    one_at_a_time: bool,
    standby_delay: Option<Duration>,
}

const SCENES: [Scene; 4] = [
    Scene {
        name: "one commit after the other",
        writers: 1,
        commits_per_writer: 2000,
        one_at_a_time: true,
        standby_delay: None,
    },
    Scene {
        name: "eight connections that write",
        writers: WRITERS,
        commits_per_writer: 2000,
        one_at_a_time: false,
        standby_delay: None,
    },
    Scene {
        name: "a standby that acknowledges after 5 ms",
        writers: WRITERS,
        commits_per_writer: 100,
        one_at_a_time: false,
        standby_delay: Some(Duration::from_millis(5)),
    },
    Scene {
        name: "a standby that acknowledges after 200 ms",
        writers: WRITERS,
        commits_per_writer: 10,
        one_at_a_time: false,
        standby_delay: Some(Duration::from_millis(200)),
    },
];

/// One fetch of one row that the page was told of.
struct Fetch {
    /// How long it would have had to wait to read what it was told of; `None` if it read it.
    stale_for: Option<Duration>,
}

/// Connections that fetch, and what they found.
struct Page {
    readers: Vec<(Client, Statement)>,
    next: AtomicUsize,
    fetches: watch::Sender<Vec<Fetch>>,
}

impl Page {
    async fn open(database: &Database) -> Arc<Page> {
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let client = database.client().await;
            let sql = "select version from counters where id = $1";
            let statement = client.prepare(sql).await.expect("the table is there");
            readers.push((client, statement));
        }
        Arc::new(Page { readers, next: AtomicUsize::new(0), fetches: watch::Sender::default() })
    }

    async fn fetch(&self, id: i32, version: i32) {
        let begun = Instant::now();
        let reader = self.next.fetch_add(1, Ordering::Relaxed) % READERS;
        let (client, statement) = &self.readers[reader];
        let mut is_stale = false;
        while client.query_one(statement, &[&id]).await.expect("the row is there").get::<_, i32>(0)
            < version
        {
            is_stale = true;
        }
        let stale_for = is_stale.then(|| begun.elapsed());
        self.fetches.send_modify(|fetches| fetches.push(Fetch { stale_for }));
    }

    fn count(&self) -> usize {
        self.fetches.borrow().len()
    }

    async fn has_fetched(&self, count: usize) {
        let mut fetches = self.fetches.subscribe();
        let fetched = fetches.wait_for(|fetches| fetches.len() >= count);
        timeout(SOON, fetched).await.expect("the page is told").expect("its sender is here");
    }
}

#[tokio::main]
async fn main() {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[("fsync", "on")]).await);
    let database = Database::fresh(&cluster).await;
    let rows = WRITERS * ROWS_PER_WRITER;
    database
        .psql(&format!(
            "create table counters (id int primary key, version int not null);
             insert into counters select i, 0 from generate_series(0, {rows} - 1) i;"
        ))
        .await;
    let endpoint = Endpoint::start(Server::Sockudo);
    let rowcast = Rowcast::new(&format!(
        "{}[pusher]\n{}[run]\nstate_dir = 'state'\n[[rule]]\ntable = 'counters'\nchannels = ['counters']\n\
             coalesce = false\nresync = false\n\
         data = {{ entity = 'counter', id = '{{{{ id }}}}', version = '{{{{ version }}}}' }}\n",
        database.toml(),
        endpoint.toml(),
    ));
    let setup = rowcast.start(&["setup"]);
    assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
    let run = rowcast.start(&["run"]);
    run.stderr.wait_for(SOON, "streaming changes").await;

    println!(
        "{:<42} {:>8} {:>7} {:>8} {:>12} {:>12}",
        "", "fetches", "stale", "%", "median ms", "longest ms"
    );
    let mut summary = Vec::new();
    let mut standby = None;
    for scene in &SCENES {
        if let Some(delay) = scene.standby_delay {
            if standby.is_none() {
                standby = Some(Standby::start(&cluster).await);
            }
            let standby = standby.as_ref().expect("it was just started");
            standby.acknowledge_after(Some(delay));
        }
        summary.push(scene.measure(&database, &endpoint).await);
    }
    println!("{}", json!({ "bench": "visible", "scenes": summary }));
}

impl Scene {
    async fn measure(&self, database: &Database, endpoint: &Endpoint) -> serde_json::Value {
        let page = Page::open(database).await;
        let told = page.clone();
        endpoint.choose(move |events| {
            for event in events.iter().filter(|event| !event.is_resync()) {
                let number = |name| event.data(name).as_i64().expect("the rule's data") as i32;
                let (id, version) = (number("id"), number("version"));
                let page = told.clone();
                tokio::spawn(async move { page.fetch(id, version).await });
            }
            None
        });
        let mut writing = JoinSet::new();
        for writer in 0..self.writers {
            let client = database.client().await;
            writing.spawn(write(
                client,
                writer * ROWS_PER_WRITER,
                self.commits_per_writer,
                self.one_at_a_time.then(|| page.clone()),
            ));
        }
        writing.join_all().await;
        let expected = current_versions(database).await;
        let is_last = |accepted: &[Accepted]| {
            let mut versions = vec![0; expected.len()];
            for Accepted { event, .. } in accepted {
                let number = |name| event.data(name).as_i64().expect("the rule's data");
                versions[number("id") as usize] = number("version");
            }
            versions == expected
        };
        endpoint.wait_for("everything that was written", is_last).await;
        endpoint.heal();
        eventually(SOON, "every fetch has ended", async || {
            (Arc::strong_count(&page) == 1).then_some(())
        })
        .await;
        self.report(&page)
    }

    fn report(&self, page: &Page) -> serde_json::Value {
        let fetches = page.fetches.borrow();
        let mut stale: Vec<f64> =
            fetches.iter().filter_map(|fetch| Some(fetch.stale_for?.as_secs_f64() * 1e3)).collect();
        stale.sort_by(f64::total_cmp);
        let share = stale.len() as f64 / fetches.len() as f64 * 100.0;
        let median = stale.get(stale.len() / 2).copied().unwrap_or_default();
        let longest = stale.last().copied().unwrap_or_default();
        println!(
            "{:<42} {:>8} {:>7} {share:>7.2}% {median:>12.2} {longest:>12.2}",
            self.name,
            fetches.len(),
            stale.len()
        );
        json!({ "scene": self.name, "fetches": fetches.len(), "stale": stale.len(), "longest_ms": longest })
    }
}

async fn write(client: Client, first_row: i32, commits: i32, page: Option<Arc<Page>>) {
    let sql = "update counters set version = version + 1 where id = $1";
    let statement = client.prepare(sql).await.expect("the table is there");
    for commit in 0..commits {
        let fetched = page.as_ref().map(|page| page.count());
        let id = first_row + commit % ROWS_PER_WRITER;
        client.execute(&statement, &[&id]).await.expect("the server is there");
        if let (Some(page), Some(fetched)) = (&page, fetched) {
            page.has_fetched(fetched + 1).await;
        }
    }
}

/// By id.
async fn current_versions(database: &Database) -> Vec<i64> {
    let client = database.client().await;
    let rows = client.query("select version from counters order by id", &[]).await;
    let rows = rows.expect("the table is there");
    rows.iter().map(|row| i64::from(row.get::<_, i32>(0))).collect()
}
