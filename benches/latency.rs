//! From a commit to the page: single updates, one after the other, through Sockudo to pusher-js. rowcast over wal and
//! over triggers with either wake, in turn with an application that pushes by itself after its commit, which is what
//! rowcast replaces. And to the server's acceptance: by rowcast's own metrics, from when Postgres says that it
//! committed; for the application, from when its commit returned.
//!
//! `cargo bench --bench latency`, or with words behind it (`-- wal notify`) for the tellers whose names hold one.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

#[expect(unreachable_pub, reason = "nothing of a bench can be reached from outside")]
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use the rest of it")]
#[path = "../tests/suite/harness/mod.rs"]
mod harness;
#[path = "flood/metrics.rs"]
#[allow(dead_code, reason = "the bench of floods uses the rest of it")]
mod metrics;

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use harness::{
    capture::Capture, cluster::Version, database::Database, node, rowcast::Rowcast,
    sockudo::Sockudo, wait::SOON,
};
use metrics::Metrics;

const COUNT: usize = 500;
const WARM_UP: usize = 50;
/// How often each takes its turn, so that neither has the quieter minutes.
const TURNS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(60);

/// Who tells the page.
#[derive(Clone, Copy, PartialEq)]
enum Teller {
    Application,
    Wal,
    Triggers { wake: &'static str },
}

impl Teller {
    const ALL: [Self; 4] = [
        Self::Application,
        Self::Wal,
        Self::Triggers { wake: "notify" },
        Self::Triggers { wake: "poll" },
    ];

    fn name(self) -> String {
        match self {
            Self::Application => "application".to_owned(),
            Self::Wal => "wal".to_owned(),
            Self::Triggers { wake } => format!("triggers, {wake}"),
        }
    }

    fn is_wanted(self, words: &[String]) -> bool {
        words.is_empty() || words.iter().any(|word| self.name().contains(word))
    }
}

/// Of one turn, in milliseconds.
struct Turn {
    teller: Teller,
    p50: f64,
    p99: f64,
    worst: f64,
    /// Until the server has accepted it, on average.
    accepted: f64,
}

#[tokio::main]
async fn main() {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let sockudo = Sockudo::start().await;
    // Of its own each: neither pays for what the other has installed.
    let wal = Scene::new(Capture::Wal, &sockudo).await;
    let triggers = Scene::new(Capture::Triggers, &sockudo).await;

    let mut turns = Vec::new();
    for _ in 0..TURNS {
        for teller in Teller::ALL.into_iter().filter(|teller| teller.is_wanted(&words)) {
            turns.push(match teller {
                Teller::Application => teller.turn(&wal.database, &sockudo).await,
                Teller::Wal => wal.turn(teller, &sockudo).await,
                Teller::Triggers { wake } => {
                    triggers.wake_by(wake);
                    triggers.turn(teller, &sockudo).await
                }
            });
        }
    }
    report(&turns);
}

/// A table that rowcast captures.
struct Scene {
    database: Database,
    capture: Capture,
    config: String,
    rowcast: Rowcast,
}

impl Scene {
    async fn new(capture: Capture, sockudo: &Sockudo) -> Self {
        let database = Database::on(Version::DEFAULT).await;
        let rows = WARM_UP + COUNT;
        database
            .psql(&format!(
                "create table posts (id int primary key, title text not null, views int not null default 0);
                 insert into posts (id, title) select n, 'Title ' || n from generate_series(1, {rows}) n;"
            ))
            .await;
        let config = format!(
            "{}[pusher]\nurl = '{}'\napp_id = '{}'\nkey = '{}'\nsecret = '{}'\nserver = 'sockudo'\n\
             [run]\nstate_dir = 'state'\n\
             [[rule]]\ntable = 'posts'\nchannels = ['posts']\ncoalesce = false\n",
            database.toml_over(capture).await,
            sockudo.url(),
            Sockudo::APP_ID,
            Sockudo::KEY,
            Sockudo::SECRET,
        );
        let rowcast = Rowcast::new(&config);
        database.set_up(&rowcast, capture).await;
        Self { database, capture, config, rowcast }
    }

    fn wake_by(&self, wake: &str) {
        let triggers = "capture = 'triggers'\n";
        let woken = format!("{triggers}wake = '{wake}'\n");
        self.rowcast.configure(&self.config.replace(triggers, &woken));
    }

    async fn metrics(&self) -> Metrics {
        let name = match self.capture {
            Capture::Wal => self.database.slot(),
            Capture::Triggers => format!("{}-{}", self.database.slot(), self.database.name),
        };
        Metrics::at(&self.rowcast.folder().join(format!("state/{name}.sock"))).await
    }

    async fn turn(&self, teller: Teller, sockudo: &Sockudo) -> Turn {
        let run = self.rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        // It begins with what the application told by itself.
        self.database.delivered(self.capture).await;
        let (count_before, seconds_before) = self.metrics().await.delivery();
        let mut turn = teller.turn(&self.database, sockudo).await;
        let (count, seconds) = self.metrics().await.delivery();
        turn.accepted = (seconds - seconds_before) * 1e3 / (count - count_before) as f64;
        run.sigterm();
        assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
        turn
    }
}

#[derive(Deserialize)]
struct Measured {
    ms: Vec<f64>,
    accepted_ms: Vec<f64>,
}

impl Teller {
    async fn turn(self, database: &Database, sockudo: &Sockudo) -> Turn {
        let script = node::start(
            "latency.mjs",
            &json!({
                "app": sockudo.app(),
                "database": database.url(),
                "table": "posts",
                "channel": "posts",
                "event": "PostUpdated",
                "push": self == Teller::Application,
                "warm_up": WARM_UP,
                "count": COUNT,
            }),
        );
        assert_eq!(script.exit_code(DEADLINE).await, 0, "{:?}", script.stderr.all());
        let printed = script.stdout.all();
        let Measured { mut ms, accepted_ms } =
            serde_json::from_str(&printed[0]).expect("it prints JSON");
        assert_eq!(ms.len(), COUNT);
        ms.sort_by(f64::total_cmp);
        Turn {
            teller: self,
            p50: ms[COUNT / 2],
            p99: ms[COUNT * 99 / 100],
            worst: ms[COUNT - 1],
            accepted: accepted_ms.iter().sum::<f64>() / accepted_ms.len() as f64,
        }
    }
}

fn report(turns: &[Turn]) {
    println!("commit to pusher-js through Sockudo, {COUNT} single updates each turn");
    println!(
        "{:<18} {:>8} {:>8} {:>8} {:>14}",
        "told by", "p50 ms", "p99 ms", "worst", "mean accepted"
    );
    for Turn { teller, p50, p99, worst, accepted } in turns {
        println!("{:<18} {p50:>8.2} {p99:>8.2} {worst:>8.2} {accepted:>14.2}", teller.name());
    }
    let mut medians = serde_json::Map::new();
    println!("the median of the turns");
    for teller in Teller::ALL {
        let median = |of: fn(&Turn) -> f64| {
            let turns = turns.iter().filter(|turn| turn.teller == teller);
            let mut values: Vec<f64> = turns.map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        let (p50, p99) = (median(|turn| turn.p50), median(|turn| turn.p99));
        let accepted = median(|turn| turn.accepted);
        if let (Some(p50), Some(p99), Some(accepted)) = (p50, p99, accepted) {
            println!("{:<18} {p50:>8.2} {p99:>8.2} {:>8} {accepted:>14.2}", teller.name(), "");
            medians.insert(
                teller.name(),
                json!({ "p50_ms": p50, "p99_ms": p99, "mean_accepted_ms": accepted }),
            );
        }
    }
    println!("{}", json!({ "bench": "latency", "medians": medians }));
}
