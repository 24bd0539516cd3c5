//! Draining a backlog: one million row updates in 10,000 transactions, through one rule with two channels, all of it
//! sent. `pg_recvlogical`, which only discards what it reads, drains a copy of the same slot before and after.
//!
//! `cargo bench --bench drain`, or with `-- 1000 reverb` behind it for fewer transactions and only that server.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod cost;
mod endpoint;
#[expect(unreachable_pub, reason = "nothing of a bench can be reached from outside")]
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use the rest of it")]
#[path = "../../tests/suite/harness/mod.rs"]
mod harness;

use std::{fs, process::Command, sync::Arc, time::Duration};

use serde_json::json;

use cost::Cost;
use endpoint::Endpoint;
use harness::{
    cluster::{Cluster, Version},
    database::Database,
    process::Process,
    rowcast::Rowcast,
    scratch,
    wait::SOON,
};

const ROWS: usize = 100_000;
const ROWS_PER_TRANSACTION: usize = 100;
const CHANNELS: usize = 2;
const SERVERS: [&str; 3] = ["any", "sockudo", "reverb"];
const DEADLINE: Duration = Duration::from_secs(300);

/// What was asked for on the command line.
struct Size {
    transactions: usize,
    servers: Vec<&'static str>,
}

impl Size {
    fn from_arguments() -> Self {
        let mut size = Self { transactions: 10_000, servers: Vec::new() };
        for argument in std::env::args().skip(1).filter(|argument| !argument.starts_with('-')) {
            match (argument.parse(), SERVERS.into_iter().find(|server| *server == argument)) {
                (Ok(transactions), _) => size.transactions = transactions,
                (Err(_), Some(server)) => size.servers.push(server),
                (Err(_), None) => panic!("{argument}: neither a number nor one of {SERVERS:?}"),
            }
        }
        if size.servers.is_empty() {
            size.servers = SERVERS.to_vec();
        }
        size
    }

    fn changes(&self) -> usize {
        self.transactions * ROWS_PER_TRANSACTION
    }
}

/// One drained slot.
struct Run {
    name: String,
    cost: Cost,
    /// Where something was sent.
    sent: Option<Sent>,
}

struct Sent {
    events: u64,
    lost: u64,
    requests: u64,
    /// What receiving them cost the endpoint, on the same cores.
    endpoint_cpu: Duration,
}

#[tokio::main]
async fn main() {
    let size = Size::from_arguments();
    let settings = [
        ("max_wal_size", "8GB"),
        ("checkpoint_timeout", "1h"),
        ("autovacuum", "off"),
        ("synchronous_commit", "off"),
        ("shared_buffers", "128MB"),
    ];
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &settings).await);
    let database = Database::fresh(&cluster).await;
    database.psql(&table()).await;
    let endpoint = Endpoint::start(ROWS);
    let backlog = Backlog::write(&database, &endpoint, &size).await;

    let mut runs = vec![backlog.discard("before").await];
    for server in &size.servers {
        runs.push(backlog.deliver(server, &endpoint).await);
    }
    runs.push(backlog.discard("after").await);
    report(&size, &runs);
}

/// As a Laravel migration and a seeder leave it.
fn table() -> String {
    format!(
        "create table posts (
             id bigserial primary key, user_id bigint not null, category_id bigint,
             title text not null, slug text not null, content text not null,
             status text not null default 'draft', views int not null default 0,
             created_at timestamp, updated_at timestamp, deleted_at timestamp);
         insert into posts (user_id, category_id, title, slug, content, status, created_at, updated_at)
             select n % 1000, n % 20, 'Title ' || n, 'title-' || n, repeat('lorem ipsum ', 20),
                    'published', now(), now()
             from generate_series(1, {ROWS}) n;"
    )
}

/// Committed updates of `posts`, and a slot for each that drains them.
struct Backlog<'a> {
    database: &'a Database,
    /// Where it ends.
    end: String,
    changes: usize,
    /// How often each row was updated, by its id.
    updates: Vec<u32>,
}

impl<'a> Backlog<'a> {
    async fn write(database: &'a Database, endpoint: &Endpoint, size: &Size) -> Self {
        let rowcast = Rowcast::new(&config(database, "any", endpoint));
        let setup = rowcast.start(&["setup"]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
        // Copied before anything is written: a copy does not have to decode its way to the start.
        let made = slot(database, "any");
        let others = SERVERS.into_iter().chain(["before", "after"]).filter(|name| *name != "any");
        for name in others {
            let copy = slot(database, name);
            database
                .psql(&format!("select pg_copy_logical_replication_slot('{made}', '{copy}')"))
                .await;
        }
        let transactions = size.transactions;
        let blocks = ROWS / ROWS_PER_TRANSACTION;
        database
            .psql(&format!(
                "do $$ begin
                     for t in 0..{transactions} - 1 loop
                         update posts set views = views + 1, updated_at = clock_timestamp()
                             where id > t % {blocks} * {ROWS_PER_TRANSACTION}
                             and id <= (t % {blocks} + 1) * {ROWS_PER_TRANSACTION};
                         commit;
                     end loop;
                 end $$;
                 checkpoint;"
            ))
            .await;
        let end = database.psql("select pg_current_wal_flush_lsn()").await;
        let views = database.psql("select views from posts order by id").await;
        let mut updates = vec![0];
        updates.extend(views.lines().map(|views| views.parse::<u32>().expect("it is an int")));
        let changes = updates.iter().map(|count| *count as usize).sum();
        assert_eq!(changes, size.changes(), "the load is what was asked for");
        Self { database, end, changes, updates }
    }

    /// By a program that throws away what it reads.
    async fn discard(&self, slot_name: &str) -> Run {
        let Database { name, cluster } = self.database;
        let folder = scratch::folder("pg_recvlogical");
        let mut command = Command::new(Version::DEFAULT.bin().join("pg_recvlogical"));
        command
            .args(["--start", "--no-loop", "--file=/dev/null", "--option=proto_version=1"])
            .arg(format!("--option=publication_names={name}"))
            .args(["--slot", &slot(self.database, slot_name), "--endpos", &self.end])
            .args(["--dbname", &cluster.url(name)]);
        let (cost, process) =
            Cost::of(|| Process::spawn(&mut command, folder.path()), DEADLINE).await;
        assert_eq!(process.exit_code(SOON).await, 0, "{:?}", process.stderr.all());
        Run { name: format!("pg_recvlogical, {slot_name}"), cost, sent: None }
    }

    /// By rowcast, to the loopback endpoint.
    async fn deliver(&self, server: &str, endpoint: &Endpoint) -> Run {
        let rowcast = Rowcast::new(&config(self.database, server, endpoint));
        let endpoint_cpu = cost::own_cpu();
        endpoint.forget();
        let (cost, process) = Cost::of(|| rowcast.start(&["run", "--once"]), DEADLINE).await;
        assert_eq!(process.exit_code(SOON).await, 0, "{:?}", process.stderr.all());
        let endpoint_cpu = cost::own_cpu() - endpoint_cpu;
        let rejected = fs::read(rowcast.folder().join("state/rejected.jsonl")).unwrap_or_default();
        assert!(rejected.is_empty(), "{}", String::from_utf8_lossy(&rejected));
        let tally = endpoint.tally();
        assert_eq!(tally.strange, 0, "every request is understood, and every row's order is kept");
        let sent = Sent {
            events: tally.events,
            lost: tally.lost(&self.updates),
            requests: tally.requests,
            endpoint_cpu,
        };
        assert_eq!(sent.events, (self.changes * CHANNELS) as u64, "each once on each channel");
        assert_eq!(sent.lost, 0);
        Run { name: format!("rowcast, server = {server}"), cost, sent: Some(sent) }
    }
}

fn slot(database: &Database, name: &str) -> String {
    format!("{}_{name}", database.name)
}

fn config(database: &Database, server: &str, endpoint: &Endpoint) -> String {
    format!(
        "[database]\nurl = '{}'\nslot = '{}'\npublication = '{}'\n\
         [pusher]\nurl = '{}'\napp_id = '1'\nkey = 'key'\nsecret = 'secret'\nserver = '{server}'\n\
         [run]\nstate_dir = 'state'\n\
         [[rule]]\ntable = 'posts'\nchannels = ['private-posts.{{{{ id }}}}', 'private-posts']\n\
         coalesce = false\nresync = false\n",
        database.url(),
        slot(database, server),
        database.name,
        endpoint.url(),
    )
}

fn report(size: &Size, runs: &[Run]) {
    let changes = size.changes() as f64;
    let ratio_of = |run: &Run| {
        let others = runs.iter().filter(|run| run.sent.is_none());
        let best = others.map(|run| run.cost.wall).min().expect("there are two");
        run.cost.wall.as_secs_f64() / best.as_secs_f64()
    };
    println!("{} row updates in {} transactions", size.changes(), size.transactions);
    println!(
        "{:<26} {:>7} {:>6} {:>9} {:>6} {:>6} {:>7} {:>9} {:>9} {:>5} {:>9}",
        "",
        "wall s",
        "ratio",
        "rows/s",
        "cpu s",
        "of sys",
        "peak MB",
        "events",
        "requests",
        "lost",
        "endp. cpu"
    );
    for run in runs {
        let Cost { wall, user_cpu, system_cpu, peak_bytes } = run.cost;
        let cpu = user_cpu + system_cpu;
        print!(
            "{:<26} {:>7.2} {:>6.2} {:>9.0} {:>6.2} {:>6.2} {:>7.1}",
            run.name,
            wall.as_secs_f64(),
            ratio_of(run),
            changes / wall.as_secs_f64(),
            cpu.as_secs_f64(),
            system_cpu.as_secs_f64(),
            peak_bytes as f64 / 1e6,
        );
        match &run.sent {
            Some(Sent { events, lost, requests, endpoint_cpu }) => {
                println!(" {events:>9} {requests:>9} {lost:>5} {:>9.2}", endpoint_cpu.as_secs_f64())
            }
            None => println!(),
        }
    }
    let runs = runs.iter().map(|run| {
        let sent = run.sent.as_ref();
        json!({
            "name": run.name,
            "wall_s": run.cost.wall.as_secs_f64(),
            "ratio": ratio_of(run),
            "user_cpu_s": run.cost.user_cpu.as_secs_f64(),
            "system_cpu_s": run.cost.system_cpu.as_secs_f64(),
            "peak_bytes": run.cost.peak_bytes,
            "events": sent.map(|sent| sent.events),
            "requests": sent.map(|sent| sent.requests),
            "lost": sent.map(|sent| sent.lost),
            "endpoint_cpu_s": sent.map(|sent| sent.endpoint_cpu.as_secs_f64()),
        })
    });
    println!(
        "{}",
        json!({ "bench": "drain", "changes": size.changes(), "runs": runs.collect::<Vec<_>>() })
    );
}
