//! How much memory rowcast takes at most where there is too much of something.
//!
//! `cargo bench --bench memory`, or with words behind it (`-- away slow`) for the cases whose names hold one of them.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

#[expect(unreachable_pub, reason = "nothing of a bench can be reached from outside")]
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use the rest of it")]
#[path = "../tests/suite/harness/mod.rs"]
mod harness;
#[expect(unreachable_pub, reason = "nothing of a bench can be reached from outside")]
#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../tests/suite/memory.rs"]
mod memory;

use std::process::ExitCode;

use serde_json::json;

use harness::capture::Capture;
use memory::{MAX_BYTES, NAMED, Peak};

/// Rows of one transaction.
const ROWS: usize = 10_000_000;
/// The same where triggers write each into the outbox, which takes its time.
const OUTBOX_ROWS: usize = 1_000_000;
const VALUE_BYTES: usize = 100_000_000;
/// An hour of 2,000 a second.
const CHANGES: usize = 7_200_000;
const PAGES: usize = 50_000;
/// Of the changes that were held back, how many are awaited.
const HELD_BACK: usize = 200_000;
const IDS: usize = 1_000_000;

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let cluster = memory::cluster().await;
    let mut table = Table::default();
    for capture in [Capture::Wal, Capture::Triggers] {
        let rows = match capture {
            Capture::Wal => ROWS,
            Capture::Triggers => OUTBOX_ROWS,
        };
        let name = format!("{capture}: one transaction of {rows} rows");
        if is_wanted(&name) {
            table.add(name, memory::one_transaction(&cluster, capture, rows).await);
        }
        for (place, data) in [("rows", ""), ("rows named in data", NAMED)] {
            let name = format!("{capture}: {VALUE_BYTES} bytes in {place}");
            if is_wanted(&name) {
                let peak = memory::large_rows(&cluster, capture, VALUE_BYTES, data).await;
                table.add(name, peak);
            }
        }
        let name = format!("{capture}: endpoint slow for {IDS} ids");
        if is_wanted(&name) {
            table.add(name, memory::slow_endpoint(&cluster, capture, IDS).await);
        }
    }
    if is_wanted("wal: endpoint away") {
        let [folding, waiting] = memory::endpoint_away(&cluster, CHANGES, PAGES, HELD_BACK).await;
        table.add(format!("wal: endpoint away for {CHANGES} changes"), folding);
        table.add("  with coalesce = false, resync = false".to_owned(), waiting);
    }
    table.report()
}

#[derive(Default)]
struct Table(Vec<(String, Peak)>);

impl Table {
    /// Said at once: the next case takes a while.
    fn add(&mut self, name: String, peak: Peak) {
        println!("{name:<42} {peak}");
        self.0.push((name, peak));
    }

    /// Fails if a case took too much.
    fn report(&self) -> ExitCode {
        let cases = self.0.iter().map(|(name, Peak { bytes, wall })| {
            json!({ "name": name, "peak_bytes": bytes, "wall_s": wall.as_secs_f64() })
        });
        println!("{}", json!({ "bench": "memory", "cases": cases.collect::<Vec<_>>() }));
        match self.0.iter().all(|(_, peak)| peak.bytes < MAX_BYTES) {
            true => ExitCode::SUCCESS,
            false => {
                println!("a case took {} MB or more", MAX_BYTES / 1_000_000);
                ExitCode::FAILURE
            }
        }
    }
}
