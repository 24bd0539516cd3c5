//! From a commit to the page: single updates, one after the other, through Sockudo to pusher-js. In turn with an
//! application that pushes by itself after its commit, which is what rowcast replaces.
//!
//! `cargo bench --bench latency`
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

#[expect(unreachable_pub, reason = "nothing of a bench can be reached from outside")]
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use the rest of it")]
#[path = "../tests/suite/harness/mod.rs"]
mod harness;

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use harness::{
    cluster::Version,
    database::Database,
    node,
    rowcast::Rowcast,
    sockudo::Sockudo,
    wait::{SOON, eventually},
};

const COUNT: usize = 500;
const WARM_UP: usize = 50;
/// How often each takes its turn, so that neither has the quieter minutes.
const TURNS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(60);

/// Who tells the page.
#[derive(Clone, Copy, PartialEq)]
enum Teller {
    Application,
    Rowcast,
}

impl Teller {
    fn name(self) -> &'static str {
        match self {
            Teller::Application => "the application itself",
            Teller::Rowcast => "rowcast",
        }
    }
}

/// Of one turn, in milliseconds.
struct Turn {
    teller: Teller,
    p50: f64,
    p99: f64,
    worst: f64,
}

#[tokio::main]
async fn main() {
    let database = Database::on(Version::DEFAULT).await;
    let sockudo = Sockudo::start().await;
    let rows = WARM_UP + COUNT;
    database
        .psql(&format!(
            "create table posts (id int primary key, title text not null, views int not null default 0);
             insert into posts (id, title) select n, 'Title ' || n from generate_series(1, {rows}) n;"
        ))
        .await;
    let rowcast = Rowcast::new(&config(&database, &sockudo));
    let setup = rowcast.start(&["setup"]);
    assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());

    let mut turns = Vec::new();
    for _ in 0..TURNS {
        turns.push(Teller::Application.turn(&database, &sockudo).await);
        let run = rowcast.start(&["run"]);
        // It begins with what the application told by itself.
        let written = database.written().await;
        eventually(SOON, "the slot is caught up", async || {
            (database.confirmed().await >= written).then_some(())
        })
        .await;
        turns.push(Teller::Rowcast.turn(&database, &sockudo).await);
        run.sigterm();
        assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
    }
    report(&turns);
}

fn config(database: &Database, sockudo: &Sockudo) -> String {
    format!(
        "[database]\nurl = '{}'\nslot = '{}'\npublication = '{}'\n\
         [pusher]\nurl = '{}'\napp_id = '{}'\nkey = '{}'\nsecret = '{}'\nserver = 'sockudo'\n\
         [run]\nstate_dir = 'state'\n\
         [[rule]]\ntable = 'posts'\nchannels = ['posts']\ncoalesce = false\n",
        database.url(),
        database.slot(),
        database.name,
        sockudo.url(),
        Sockudo::APP_ID,
        Sockudo::KEY,
        Sockudo::SECRET,
    )
}

#[derive(Deserialize)]
struct Measured {
    ms: Vec<f64>,
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
        let Measured { mut ms } = serde_json::from_str(&printed[0]).expect("it prints JSON");
        assert_eq!(ms.len(), COUNT);
        ms.sort_by(f64::total_cmp);
        Turn { teller: self, p50: ms[COUNT / 2], p99: ms[COUNT * 99 / 100], worst: ms[COUNT - 1] }
    }
}

fn report(turns: &[Turn]) {
    println!("commit to pusher-js through Sockudo, {COUNT} single updates each turn");
    println!("{:<24} {:>8} {:>8} {:>8}", "told by", "p50 ms", "p99 ms", "worst");
    for Turn { teller, p50, p99, worst } in turns {
        println!("{:<24} {p50:>8.2} {p99:>8.2} {worst:>8.2}", teller.name());
    }
    let median = |teller: Teller, of: fn(&Turn) -> f64| {
        let mut values: Vec<f64> =
            turns.iter().filter(|turn| turn.teller == teller).map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let summary = |teller: Teller| json!({ "p50_ms": median(teller, |turn| turn.p50), "p99_ms": median(teller, |turn| turn.p99) });
    println!(
        "{}",
        json!({
            "bench": "latency",
            "rowcast": summary(Teller::Rowcast),
            "application": summary(Teller::Application),
        })
    );
}
