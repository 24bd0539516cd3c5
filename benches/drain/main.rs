//! Draining a backlog: 1,000,000 updates in 10,000 transactions ("many"), one transaction of 1,000,000 ("one"), and
//! 100,000 transactions of one update ("single"). rowcast and `pg_recvlogical`, which only discards what it reads, in
//! turn, on copies of one slot with the same publication. Once with a rule as it comes ("default"): a hundred pages are
//! open, and every one of them is told; and once with each change announced on two channels ("each").
//!
//! `cargo bench --bench drain`, or with words behind it for only these: `-- many default`, `-- single each reverb`. A
//! number is that of the changes.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod backlog;
mod cost;
mod endpoint;
#[expect(unreachable_pub, reason = "nothing of a bench can be reached from outside")]
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use the rest of it")]
#[path = "../../tests/suite/harness/mod.rs"]
mod harness;
mod load;
mod report;

use std::sync::Arc;

use backlog::{Backlog, Mode, Reader};
use endpoint::Endpoint;
use harness::{
    cluster::{Cluster, Version},
    database::Database,
};
use load::{Load, Shape};
use report::Report;

/// Their limits differ, and so what one request holds.
const SERVERS: [&str; 5] = ["any", "reverb", "sockudo", "soketi", "pusher"];
/// Where each is announced and nothing is asked for.
const SERVERS_BY_DEFAULT: [&str; 2] = ["reverb", "sockudo"];
/// How often the quick ones take their turn.
const TURNS: usize = 2;

/// What is asked for on the command line.
#[derive(Default)]
struct Asked {
    shapes: Vec<Shape>,
    modes: Vec<Mode>,
    servers: Vec<&'static str>,
    changes: Option<usize>,
}

impl Asked {
    fn on_the_command_line() -> Self {
        let mut asked = Self::default();
        for word in std::env::args().skip(1).filter(|word| !word.starts_with('-')) {
            if let Ok(changes) = word.parse() {
                asked.changes = Some(changes);
            } else if let Some(shape) = Shape::ALL.into_iter().find(|it| it.name() == word) {
                asked.shapes.push(shape);
            } else if let Some(mode) = Mode::ALL.into_iter().find(|it| it.name() == word) {
                asked.modes.push(mode);
            } else if let Some(server) = SERVERS.into_iter().find(|it| *it == word) {
                asked.servers.push(server);
            } else {
                panic!("{word}: none of a number, many, one, single, default, each, {SERVERS:?}");
            }
        }
        if asked.shapes.is_empty() {
            asked.shapes = Shape::ALL.to_vec();
        }
        if asked.modes.is_empty() {
            asked.modes = Mode::ALL.to_vec();
        }
        if asked.servers.is_empty() {
            asked.servers = SERVERS_BY_DEFAULT.to_vec();
        }
        asked
    }

    /// In the order of their turns, so that none has the quieter minutes.
    fn readers(&self) -> Vec<Reader> {
        let mut readers = Vec::new();
        for _ in 0..TURNS {
            readers.push(Reader::Discard);
            if self.modes.contains(&Mode::Default) {
                readers.push(Reader::Rowcast { mode: Mode::Default, server: self.servers[0] });
            }
        }
        if self.modes.contains(&Mode::Each) {
            let each = |server: &&'static str| Reader::Rowcast { mode: Mode::Each, server };
            readers.extend(self.servers.iter().map(each));
        }
        readers
    }
}

#[tokio::main]
async fn main() {
    let asked = Asked::on_the_command_line();
    let mut report = Report::default();
    for shape in &asked.shapes {
        let load = Load::new(*shape, asked.changes);
        let settings = [
            ("max_wal_size", "8GB"),
            ("checkpoint_timeout", "1h"),
            ("autovacuum", "off"),
            ("synchronous_commit", "off"),
            ("shared_buffers", "128MB"),
            ("timezone", "UTC"),
        ];
        // Of its own: a slot would have to read past what another backlog wrote.
        let cluster = Arc::new(Cluster::start(Version::DEFAULT, &settings).await);
        let database = Database::fresh(&cluster).await;
        let endpoint = Endpoint::start(load.rows());
        let backlog = Backlog::write(&database, &endpoint, load, &asked.readers()).await;
        report.backlog(&backlog);
        for turn in backlog.turns() {
            report.run(&backlog.drain(turn).await);
        }
        report.backlog_ends();
    }
    report.end();
}
