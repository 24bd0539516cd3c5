//! Draining the outbox that triggers fill: through one rule with two channels, all of it sent. Once more beside a
//! transaction that was open before, so that what was delivered cannot be vacuumed away; and what it costs then to
//! find nothing new.
//!
//! `cargo bench --bench outbox`, or with words behind it (`-- hundred idle`) for the cases whose names hold one of
//! them, and a number for so many changes instead of a million.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

#[path = "../drain/cost.rs"]
mod cost;
#[path = "../drain/endpoint.rs"]
mod endpoint;
#[expect(unreachable_pub, reason = "nothing of a bench can be reached from outside")]
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use the rest of it")]
#[path = "../../tests/suite/harness/mod.rs"]
mod harness;
mod idle;
mod scene;

use std::{process::ExitCode, sync::Arc};

use serde_json::{Value, json};

use harness::cluster::{Cluster, Version};
use idle::Idle;
use scene::{Drained, Load, Scene};

const CHANGES: usize = 1_000_000;
/// As in the bench of memory.
const MAX_BYTES: u64 = 128_000_000;
const WAKES: [&str; 2] = ["notify", "poll"];

struct Asked {
    words: Vec<String>,
    changes: usize,
}

impl Asked {
    fn on_the_command_line() -> Self {
        let mut asked = Self { words: Vec::new(), changes: CHANGES };
        for argument in std::env::args().skip(1).filter(|argument| !argument.starts_with('-')) {
            match argument.parse() {
                Ok(changes) => asked.changes = changes,
                Err(_) => asked.words.push(argument),
            }
        }
        asked
    }

    fn is_for(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let asked = Asked::on_the_command_line();
    let settings = [
        ("max_wal_size", "8GB"),
        ("checkpoint_timeout", "1h"),
        ("synchronous_commit", "off"),
        ("shared_buffers", "128MB"),
    ];
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &settings).await);
    let mut report = Report::default();
    let whole = asked.changes;
    let loads = [Load::Hundreds(whole), Load::Singles(whole / 5), Load::One(whole)];
    for load in loads.into_iter().filter(|load| asked.is_for(load.name())) {
        let scene = Scene::new(&cluster).await;
        let updates = scene.write(load).await;
        report.drained(load.name(), scene.drain(updates).await);
    }
    let (beside_old, idle) = ("beside an old transaction", "idle");
    if asked.is_for(beside_old) || asked.is_for(idle) {
        let scene = Scene::new(&cluster).await;
        let load = Load::Hundreds(whole * 2 / 5);
        let updates = scene.write(load).await;
        let alone = scene.drain(updates).await;
        report.drained("the same, alone", alone);
        for wake in WAKES {
            report.idle(format!("{idle}, {wake}, alone"), Idle::of(&scene, wake).await);
        }
        let old = scene.open_transaction().await;
        let updates = scene.write(load).await;
        report.drained(beside_old, scene.drain(updates).await);
        let updates = scene.write(load).await;
        let behind = scene.drain(updates).await;
        report.drained("  and behind dead rows", behind);
        println!("{:<30} {:>7.2}", "  ratio to alone", behind.rate() / alone.rate());
        for wake in WAKES {
            report.idle(format!("{idle}, {wake}, {beside_old}"), Idle::of(&scene, wake).await);
        }
        // Open until here.
        old.batch_execute("rollback").await.expect("nothing ended it");
    }
    report.end()
}

#[derive(Default)]
struct Report {
    drained: Vec<Value>,
    idle: Vec<Value>,
    is_too_much: bool,
}

impl Report {
    /// Said at once: the next case takes a while.
    fn drained(&mut self, name: &str, drained: Drained) {
        let Drained { changes, cost, server_cpu, endpoint_cpu } = drained;
        if self.drained.is_empty() {
            println!(
                "{:<30} {:>9} {:>7} {:>9} {:>6} {:>9} {:>9} {:>7}",
                "", "changes", "wall s", "changes/s", "cpu s", "server's", "endp.'s", "peak MB"
            );
        }
        let (wall, cpu) = (cost.wall, cost.user_cpu + cost.system_cpu);
        println!(
            "{name:<30} {changes:>9} {:>7.2} {:>9.0} {:>6.2} {:>9.2} {:>9.2} {:>7.1}",
            wall.as_secs_f64(),
            drained.rate(),
            cpu.as_secs_f64(),
            server_cpu.as_secs_f64(),
            endpoint_cpu.as_secs_f64(),
            cost.peak_bytes as f64 / 1e6,
        );
        self.is_too_much |= cost.peak_bytes >= MAX_BYTES;
        self.drained.push(json!({
            "name": name.trim(),
            "changes": changes,
            "wall_s": wall.as_secs_f64(),
            "changes_per_s": drained.rate(),
            "cpu_s": cpu.as_secs_f64(),
            "server_cpu_s": server_cpu.as_secs_f64(),
            "endpoint_cpu_s": endpoint_cpu.as_secs_f64(),
            "peak_bytes": cost.peak_bytes,
        }));
    }

    fn idle(&mut self, name: String, idle: Idle) {
        let Idle { dead_rows, polls_per_s, poll, rowcast_share, server_share } = idle;
        println!(
            "{name:<40} {dead_rows:>7} dead rows, {polls_per_s:>5.1} polls/s of {:>6.3} ms; of a core: rowcast \
             {:.2} %, server {:.2} %",
            poll.as_secs_f64() * 1e3,
            rowcast_share * 100.0,
            server_share * 100.0,
        );
        self.idle.push(json!({
            "name": name,
            "dead_rows": dead_rows,
            "polls_per_s": polls_per_s,
            "poll_ms": poll.as_secs_f64() * 1e3,
            "rowcast_share": rowcast_share,
            "server_share": server_share,
        }));
    }

    /// Fails if rowcast took too much memory.
    fn end(&self) -> ExitCode {
        println!("{}", json!({ "bench": "outbox", "drained": self.drained, "idle": self.idle }));
        match self.is_too_much {
            false => ExitCode::SUCCESS,
            true => {
                println!("a case took {} MB or more", MAX_BYTES / 1_000_000);
                ExitCode::FAILURE
            }
        }
    }
}
