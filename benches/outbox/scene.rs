//! A table whose changes triggers write to the outbox.

use std::{fmt::Write, fs, sync::Arc, time::Duration};

use tokio_postgres::Client;

use crate::{
    cost::{self, Cost},
    endpoint::Endpoint,
    harness::{
        capture::Capture,
        cluster::Cluster,
        database::Database,
        rowcast::Rowcast,
        wait::{SOON, eventually},
    },
};

const ROWS: usize = 100_000;
const CHANNELS: usize = 2;
const DEADLINE: Duration = Duration::from_secs(300);

/// So many changes of rows.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// A hundred in each transaction.
    Hundreds(usize),
    /// Each a transaction.
    Singles(usize),
    /// All in one transaction, ten statements that change each row.
    One(usize),
}

impl Load {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hundreds(_) => "a hundred in each transaction",
            Self::Singles(_) => "single-row transactions",
            Self::One(_) => "one transaction",
        }
    }

    fn changes(self) -> usize {
        let (Self::Hundreds(changes) | Self::Singles(changes) | Self::One(changes)) = self;
        changes
    }

    /// Scripts that run side by side. No row is in two of them: what is sent of it says when the statement began, and
    /// one may begin before another and change the row after it.
    fn scripts(self) -> Vec<String> {
        let update = "update posts set views = views + 1, updated_at = clock_timestamp() where id";
        let each = |statements: usize, per_statement: usize| {
            let mut scripts = vec![String::new(); 2];
            for n in 0..statements {
                let first = n % (ROWS / per_statement) * per_statement + 1;
                let last = first + per_statement - 1;
                writeln!(scripts[n % 2], "{update} between {first} and {last};")
                    .expect("it is a String");
            }
            scripts
        };
        match self {
            Self::Hundreds(changes) => each(changes / 100, 100),
            Self::Singles(changes) => each(changes, 1),
            Self::One(changes) => {
                let rows = changes / 10;
                let statement = format!("{update} <= {rows};\n");
                vec![format!("begin;\n{}commit;", statement.repeat(10))]
            }
        }
    }
}

/// What it cost to drain a load.
#[derive(Clone, Copy)]
pub(crate) struct Drained {
    pub(crate) changes: usize,
    pub(crate) cost: Cost,
    /// Of the server's processes for rowcast.
    pub(crate) server_cpu: Duration,
    /// Of receiving it, on the same cores.
    pub(crate) endpoint_cpu: Duration,
}

impl Drained {
    pub(crate) fn rate(&self) -> f64 {
        self.changes as f64 / self.cost.wall.as_secs_f64()
    }
}

/// How often each row was updated, by its id.
pub(crate) struct Updates(Vec<u32>);

pub(crate) struct Scene {
    pub(crate) database: Database,
    pub(crate) rowcast: Rowcast,
    endpoint: Endpoint,
    config: String,
}

impl Scene {
    pub(crate) async fn new(cluster: &Arc<Cluster>) -> Self {
        let database = Database::fresh(cluster).await;
        // As a Laravel migration and a seeder leave it, with room in each page for what changes there.
        database
            .psql(&format!(
                "create table posts (
                     id bigserial primary key, user_id bigint not null, category_id bigint,
                     title text not null, slug text not null, content text not null,
                     status text not null default 'draft', views int not null default 0,
                     created_at timestamp, updated_at timestamp, deleted_at timestamp)
                 with (fillfactor = 50);
                 insert into posts (user_id, category_id, title, slug, content, status, created_at, updated_at)
                     select n % 1000, n % 20, 'Title ' || n, 'title-' || n, repeat('lorem ipsum ', 20),
                            'published', now(), now()
                     from generate_series(1, {ROWS}) n;"
            ))
            .await;
        let endpoint = Endpoint::start(ROWS);
        let config = format!(
            "{}[limits]\nmax_outbox_rows = 10000000\n\
             [pusher]\nurl = '{}'\napp_id = '1'\nkey = 'key'\nsecret = 'secret'\nserver = 'reverb'\n\
             [run]\nstate_dir = 'state'\n\
             [[rule]]\ntable = 'posts'\nchannels = ['private-posts.{{{{ id }}}}', 'private-posts']\n\
             coalesce = false\nresync = false\n",
            database.toml_over(Capture::Triggers).await,
            endpoint.url(),
        );
        let rowcast = Rowcast::new(&config);
        database.set_up(&rowcast, Capture::Triggers).await;
        Self { database, rowcast, endpoint, config }
    }

    pub(crate) fn wake_by(&self, wake: &str) {
        let triggers = "capture = 'triggers'\n";
        let woken = format!("{triggers}wake = '{wake}'\n");
        self.rowcast.configure(&self.config.replace(triggers, &woken));
    }

    pub(crate) async fn write(&self, load: Load) -> Updates {
        let before = self.views().await;
        let scripts = load.scripts();
        let mut scripts = scripts.iter().map(|script| self.database.psql(script));
        match (scripts.next(), scripts.next()) {
            (Some(one), Some(other)) => drop(tokio::join!(one, other)),
            (Some(one), None) => drop(one.await),
            (None, _) => {}
        }
        let after = self.views().await;
        let updates: Vec<u32> =
            after.iter().zip(before).map(|(after, before)| after - before).collect();
        let changes: usize = updates.iter().map(|count| *count as usize).sum();
        assert_eq!(changes, load.changes(), "the load is what was asked for");
        let written = self.database.psql("select count(*) from rowcast.outbox").await;
        assert_eq!(written, changes.to_string(), "triggers wrote all of it down");
        Updates(updates)
    }

    /// By the row's id.
    async fn views(&self) -> Vec<u32> {
        let views = self.database.psql("select views from posts order by id").await;
        let views = views.lines().map(|views| views.parse::<u32>().expect("it is an int"));
        std::iter::once(0).chain(views).collect()
    }

    pub(crate) async fn drain(&self, Updates(updates): Updates) -> Drained {
        let postmaster = fs::read_to_string(self.database.cluster.data().join("postmaster.pid"));
        let postmaster = postmaster.expect("the cluster is running");
        let postmaster = postmaster.lines().next().expect("its number comes first");
        let server_cpu = cost::ended_childrens_cpu(postmaster);
        let endpoint_cpu = cost::own_cpu();
        self.endpoint.forget();
        let (cost, process) = Cost::of(|| self.rowcast.start(&["run", "--once"]), DEADLINE).await;
        assert_eq!(process.exit_code(SOON).await, 0, "{:?}", process.stderr.all());
        let endpoint_cpu = cost::own_cpu() - endpoint_cpu;
        // It is known of a process when the postmaster has seen its end.
        let role = self.database.role();
        let pids = format!("select count(*) from pg_stat_activity where usename = '{role}'");
        eventually(SOON, "the server's processes have ended", async || {
            (self.database.psql(&pids).await == "0").then_some(())
        })
        .await;
        let server_cpu = cost::ended_childrens_cpu(postmaster) - server_cpu;

        let state = self.rowcast.folder().join("state/rejected.jsonl");
        let rejected = fs::read(state).unwrap_or_default();
        assert!(rejected.is_empty(), "{}", String::from_utf8_lossy(&rejected));
        let tally = self.endpoint.tally();
        assert_eq!(tally.strange, 0, "every request is understood, and every row's order is kept");
        assert_eq!(tally.lost(&updates), 0);
        let changes = updates.iter().map(|count| *count as usize).sum();
        assert_eq!(tally.events, (changes * CHANNELS) as u64, "each once on each channel");
        let left = self.database.psql("select count(*) from rowcast.outbox").await;
        assert_eq!(left, "0", "what is delivered is deleted");
        Drained { changes, cost, server_cpu, endpoint_cpu }
    }

    /// One that has written to the outbox, and stays as it is: nothing is vacuumed away that is deleted from now on.
    pub(crate) async fn open_transaction(&self) -> Client {
        let client = self.database.client().await;
        client
            .batch_execute(
                "begin; insert into posts (user_id, title, slug, content) values (1, 'old', 'old', 'old')",
            )
            .await
            .expect("the superuser may");
        client
    }
}
