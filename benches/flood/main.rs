//! A flood: one UPDATE of 1,000,000 rows, each with a channel of its own, while 0, 100 and 10,000 of those channels have
//! a page that listens, through Sockudo. How many requests it takes, and how long until the last page heard: from the
//! moment that rowcast has counted the last row as read, which it is asked every few milliseconds.
//!
//! `cargo bench --bench flood`, or with numbers behind it for other counts of pages: `-- 100 1000`.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

#[allow(dead_code, reason = "the other benches use the rest of it")]
#[path = "../drain/cost.rs"]
mod cost;
#[expect(unreachable_pub, reason = "nothing of a bench can be reached from outside")]
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use the rest of it")]
#[path = "../../tests/suite/harness/mod.rs"]
mod harness;
mod metrics;
mod pages;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::sleep;

use harness::{
    capture::Capture,
    cluster::{Cluster, Version},
    database::Database,
    rowcast::Rowcast,
    sockudo::Sockudo,
    wait::SOON,
};
use metrics::Metrics;
use pages::Pages;

const ROWS: usize = 1_000_000;
const PAGES: [usize; 3] = [0, 100, 10_000];
/// What a hundred pages may cost.
const MAX_REQUESTS: u64 = 40;
/// Between looks at what rowcast has read.
const LOOK: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() {
    let pages = std::env::args().skip(1).filter_map(|word| word.parse().ok());
    let mut pages: Vec<usize> = pages.collect();
    if pages.is_empty() {
        pages = PAGES.to_vec();
    }
    let scene = Scene::new().await;
    println!("one UPDATE of {ROWS} rows");
    println!(
        "{:>7} {:>9} {:>6} {:>8} {:>8} {:>11} {:>12} {:>9} {:>6} {:>8}",
        "pages",
        "requests",
        "lists",
        "resyncs",
        "read s",
        "last page s",
        "after read s",
        "update s",
        "cpu s",
        "peak MB",
    );
    let mut floods = Vec::new();
    for pages in pages {
        let flood = scene.flood(pages).await;
        flood.print();
        floods.push(flood.json());
    }
    println!("{}", json!({ "bench": "flood", "rows": ROWS, "floods": floods }));
}

/// A table of which rowcast tells Sockudo.
struct Scene {
    database: Database,
    sockudo: Sockudo,
    rowcast: Rowcast,
    /// Where rowcast says what it counts.
    socket: PathBuf,
}

/// What one flood took.
struct Flood {
    pages: usize,
    requests: u64,
    lists: u64,
    resyncs: u64,
    /// Of the statement with its commit.
    update: Duration,
    /// From the end of the statement to the last row.
    read: Duration,
    /// From there until the last page heard.
    told: Option<Duration>,
    cpu: Duration,
    peak_bytes: u64,
}

impl Scene {
    async fn new() -> Self {
        let settings = [
            ("max_wal_size", "16GB"),
            ("checkpoint_timeout", "1h"),
            ("full_page_writes", "off"),
            ("autovacuum", "off"),
            ("synchronous_commit", "off"),
            ("shared_buffers", "256MB"),
        ];
        let cluster = Arc::new(Cluster::start(Version::DEFAULT, &settings).await);
        let database = Database::fresh(&cluster).await;
        // With room in each page for what changes there.
        database
            .psql(&format!(
                "create table posts (id int primary key, title text not null, views int not null default 0)
                     with (fillfactor = 45);
                 insert into posts select id, 'Title ' || id from generate_series(1, {ROWS}) id;"
            ))
            .await;
        let sockudo = Sockudo::start().await;
        let rowcast = Rowcast::new(&format!(
            "{}[pusher]\nurl = '{}'\napp_id = '{}'\nkey = '{}'\nsecret = '{}'\nserver = 'sockudo'\n\
             [limits]\nresync_spread = '0s'\n[run]\nstate_dir = 'state'\n\
             [[rule]]\ntable = 'posts'\nchannels = ['posts.{{{{ id }}}}']\n",
            database.toml(),
            sockudo.url(),
            Sockudo::APP_ID,
            Sockudo::KEY,
            Sockudo::SECRET,
        ));
        database.set_up(&rowcast, Capture::Wal).await;
        // At its first start it would have every page fetch again.
        let first = rowcast.start(&["run", "--once"]);
        assert_eq!(first.exit_code(SOON).await, 0, "{:?}", first.stderr.all());
        let socket = rowcast.folder().join(format!("state/{}.sock", database.slot()));
        Self { database, sockudo, rowcast, socket }
    }

    async fn flood(&self, count: usize) -> Flood {
        let channels: Vec<String> =
            (1..=count).map(|page| format!("posts.{}", page * (ROWS / count))).collect();
        let pages = Pages::open(&self.sockudo, &channels).await;
        let run = self.rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        self.database.delivered(Capture::Wal).await;
        self.database.psql("checkpoint").await;
        assert!(pages.have_heard_nothing(count), "nobody has told them anything");
        let before = Metrics::at(&self.socket).await;
        let cpu = cost::cpu(run.pid());

        let began = Instant::now();
        self.database.psql("update posts set views = views + 1").await;
        let committed = Instant::now();
        let (read_at, told_at) =
            tokio::join!(self.has_read(before.updates() + ROWS as u64), async {
                match count {
                    0 => None,
                    _ => Some(pages.have_all_heard(DEADLINE).await),
                }
            });
        self.database.delivered(Capture::Wal).await;

        let after = Metrics::at(&self.socket).await;
        let flood = Flood {
            pages: count,
            requests: after.requests() - before.requests(),
            lists: after.lists() - before.lists(),
            resyncs: after.resyncs() - before.resyncs(),
            update: committed - began,
            read: read_at.saturating_duration_since(committed),
            told: told_at.map(|told_at| told_at.saturating_duration_since(read_at)),
            cpu: cost::cpu(run.pid()) - cpu,
            peak_bytes: run.peak_memory_bytes(),
        };
        run.sigterm();
        assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
        if count <= 100 {
            assert!(flood.requests <= MAX_REQUESTS, "{count} pages cost {}", flood.requests);
        }
        flood
    }

    /// When rowcast has read so many updates.
    async fn has_read(&self, updates: u64) -> Instant {
        let began = Instant::now();
        while Metrics::at(&self.socket).await.updates() < updates {
            assert!(began.elapsed() < DEADLINE, "not read within {DEADLINE:?}");
            sleep(LOOK).await;
        }
        Instant::now()
    }
}

impl Flood {
    fn print(&self) {
        let told = self.told.map(|told| told.as_secs_f64());
        let last = told.map(|told| told + self.read.as_secs_f64());
        let seconds = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.2}"));
        println!(
            "{:>7} {:>9} {:>6} {:>8} {:>8.2} {:>11} {:>12} {:>9.2} {:>6.2} {:>8.1}",
            self.pages,
            self.requests,
            self.lists,
            self.resyncs,
            self.read.as_secs_f64(),
            seconds(last),
            seconds(told),
            self.update.as_secs_f64(),
            self.cpu.as_secs_f64(),
            self.peak_bytes as f64 / 1e6,
        );
    }

    fn json(&self) -> Value {
        json!({
            "pages": self.pages,
            "requests": self.requests,
            "lists": self.lists,
            "resyncs": self.resyncs,
            "update_s": self.update.as_secs_f64(),
            "read_s": self.read.as_secs_f64(),
            "last_page_after_read_s": self.told.map(|told| told.as_secs_f64()),
            "cpu_s": self.cpu.as_secs_f64(),
            "peak_bytes": self.peak_bytes,
        })
    }
}
