//! What capture by triggers costs the statements that it is part of: single-row updates of eight connections, and one
//! UPDATE of a million rows, each in turn with the same on a table without triggers.
//!
//! `cargo bench --bench writer`
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

#[expect(unreachable_pub, reason = "nothing of a bench can be reached from outside")]
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use the rest of it")]
#[path = "../tests/suite/harness/mod.rs"]
mod harness;

use std::{fs, process::Stdio, sync::Arc, time::Instant};

use serde_json::json;
use tokio::process::Command;

use harness::{
    cluster::{Cluster, Version},
    database::Database,
    rowcast::Rowcast,
    wait::SOON,
};

const ROWS: u32 = 1_000_000;
const CONNECTIONS: u32 = 8;
const SECONDS: u32 = 5;
/// How often each takes its turn, so that none has the quieter minutes.
const TURNS: usize = 5;
const BULK_TURNS: usize = 3;

const RULE: &str = "[pusher]\nurl = 'http://127.0.0.1:1'\napp_id = 'a'\nkey = 'k'\nsecret = 's'\n\
    [run]\nstate_dir = 'state'\n\
    [[rule]]\ntable = 'posts'\nchannels = ['private-App.User.{{ user_id }}']\n\
    data = { id = '{{ id }}', status = '{{ status }}', at = '{{ updated_at }}' }\n";

#[derive(Clone, Copy, PartialEq)]
enum Scene {
    Without,
    /// Nobody is to be woken, as with wake = "poll", and as with "notify" while rowcast is awake.
    Even,
    /// Each commit wakes a session that listens: the most that "notify" can cost.
    Odd,
}

impl Scene {
    const ALL: [Scene; 3] = [Scene::Without, Scene::Even, Scene::Odd];

    fn name(self) -> &'static str {
        match self {
            Scene::Without => "without triggers",
            Scene::Even => "with triggers, nobody to be woken",
            Scene::Odd => "with triggers, each commit wakes",
        }
    }

    fn table(self) -> &'static str {
        match self {
            Scene::Without => "plain",
            Scene::Even | Scene::Odd => "posts",
        }
    }

    /// Of the gate, which has room for all.
    fn gate(self) -> i64 {
        2 * (1 << 60) + i64::from(self == Scene::Odd)
    }
}

#[tokio::main]
async fn main() {
    let settings = [("fsync", "on"), ("max_wal_size", "4GB"), ("shared_buffers", "512MB")];
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &settings).await);
    let database = Database::fresh(&cluster).await;
    for table in ["plain", "posts"] {
        database
            .psql(&format!(
                "create table {table} (id bigint primary key, user_id bigint not null, title text, status text,
                     updated_at timestamptz default now()) with (fillfactor = 50);
                 insert into {table} select i, i % 1000, 'Title of ' || i, 'draft' from generate_series(1, {ROWS}) i;"
            ))
            .await;
    }
    let rowcast = Rowcast::new(&format!("{}capture = 'triggers'\n{RULE}", database.toml()));
    let setup = rowcast.start(&["setup"]);
    assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
    let listener = database.client().await;
    listener.batch_execute("listen rowcast").await.expect("anyone may");

    let mut rates: Vec<(Scene, f64)> = Vec::new();
    for _ in 0..TURNS {
        for scene in Scene::ALL {
            prepare(&database, scene).await;
            rates.push((
                scene,
                updates_per_second(&database, scene.table(), rowcast.folder()).await,
            ));
        }
    }
    let rate = |scene| median(rates.iter().filter(|(of, _)| *of == scene).map(|(_, rate)| *rate));
    println!(
        "{CONNECTIONS} connections, single-row updates, medians of {TURNS} turns of {SECONDS} s"
    );
    for scene in Scene::ALL {
        let ratio = rate(scene) / rate(Scene::Without);
        println!("{:<36} {:>9.0} tps {ratio:>7.3}", scene.name(), rate(scene));
    }

    let mut times: Vec<(Scene, f64)> = Vec::new();
    let mut bytes_per_row = 0.0;
    for _ in 0..BULK_TURNS {
        for scene in [Scene::Without, Scene::Even] {
            prepare(&database, scene).await;
            let client = database.client().await;
            let table = scene.table();
            let begun = Instant::now();
            let update = format!("update {table} set status = 'archived', updated_at = now()");
            client.batch_execute(&update).await.expect("the table is there");
            times.push((scene, begun.elapsed().as_secs_f64()));
            if scene == Scene::Even {
                let sql = "select pg_total_relation_size('rowcast.outbox')::float8, count(*) from rowcast.outbox";
                let row = client.query_one(sql, &[]).await.expect("the outbox is there");
                assert_eq!(row.get::<_, i64>(1), i64::from(ROWS), "each row is written once");
                bytes_per_row = row.get::<_, f64>(0) / f64::from(ROWS);
            }
        }
    }
    let time = |scene| median(times.iter().filter(|(of, _)| *of == scene).map(|(_, time)| *time));
    let (without, with) = (time(Scene::Without), time(Scene::Even));
    println!("one UPDATE of {ROWS} rows, medians of {BULK_TURNS} turns");
    println!("{:<36} {without:>9.2} s", Scene::Without.name());
    println!("{:<36} {with:>9.2} s   {:>7.3}", Scene::Even.name(), with / without);
    println!("{:<36} {bytes_per_row:>9.0} bytes per row", "outbox, with its index");
    println!(
        "{}",
        json!({
            "bench": "writer",
            "tps": Scene::ALL.map(|scene| rate(scene).round()),
            "tps_ratio": { "poll": rate(Scene::Even) / rate(Scene::Without),
                           "notify": rate(Scene::Odd) / rate(Scene::Without) },
            "bulk_s": [without, with],
            "bulk_ratio": with / without,
            "outbox_bytes_per_row": bytes_per_row,
        })
    );
}

/// The same for all: an empty outbox, no dead rows, nothing of the checkpointer's still to do.
async fn prepare(database: &Database, scene: Scene) {
    let gate = scene.gate();
    database
        .psql(&format!(
            "truncate rowcast.outbox; select setval('rowcast.gate', {gate}); vacuum plain, posts; checkpoint;"
        ))
        .await;
}

async fn updates_per_second(database: &Database, table: &str, folder: &std::path::Path) -> f64 {
    let script = folder.join(format!("{table}.sql"));
    let sql = format!(
        "\\set id random(1, {ROWS})\nupdate {table} set status = 'published', updated_at = now() where id = :id;\n"
    );
    fs::write(&script, sql).expect("the folder is writable");
    let output = Command::new(Version::DEFAULT.bin().join("pgbench"))
        .args(["--no-vacuum", "--jobs=2"])
        .arg(format!("--client={CONNECTIONS}"))
        .arg(format!("--time={SECONDS}"))
        .arg("--file")
        .arg(&script)
        .arg(database.socket_url())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("pgbench is there: run tests/setup");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = rate.and_then(|rate| rate.split(' ').next()).expect("pgbench says its rate");
    rate.parse().expect("it is a number")
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
