//! Behind PgBouncer: what works in which mode, and that nothing of ours stays in sessions that others get.

mod run;
mod sessions;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rowcast::postgres::Dsn;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use crate::harness::{
    cluster::{Cluster, Version},
    database::Database,
    pgbouncer::{PgBouncer, PoolMode},
};

/// Sessions in a pool that lends them for a transaction.
const SIZE: u32 = 2;
/// rowcast keeps one to read, one to watch by, and one to look rows up.
const SIZE_FOR_SESSIONS: u32 = 4;

fn size(mode: PoolMode) -> u32 {
    match mode {
        PoolMode::Session => SIZE_FOR_SESSIONS,
        PoolMode::Transaction => SIZE,
    }
}

/// A database, and two sessions of it for all who ask.
struct Pool {
    database: Database,
    bouncer: PgBouncer,
    /// Whose sessions they are.
    role: String,
}

impl Pool {
    /// Of the superuser.
    async fn of(mode: PoolMode) -> Pool {
        let cluster = Cluster::shared(Version::DEFAULT).await;
        let bouncer = PgBouncer::start(&cluster, mode, size(mode), &["postgres"], None).await;
        Pool { database: Database::fresh(&cluster).await, bouncer, role: "postgres".to_owned() }
    }

    /// Of a role that may log in and nothing else, whoever one says that one is.
    async fn of_a_role(mode: PoolMode) -> Pool {
        let cluster = Cluster::shared(Version::DEFAULT).await;
        let database = Database::fresh(&cluster).await;
        let role = format!("own_{}", database.name);
        database.psql(&format!("create role {role} login")).await;
        let users = [&*role, "application"];
        let bouncer = PgBouncer::start(&cluster, mode, size(mode), &users, Some(&role)).await;
        Pool { database, bouncer, role }
    }

    fn url(&self) -> String {
        self.bouncer.url(&self.role, &self.database.name)
    }

    fn dsn(&self) -> Dsn {
        self.url().parse().expect("the harness makes URLs")
    }

    async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url(), NoTls).await.expect("PgBouncer takes us");
        tokio::spawn(async move {
            let _ = connection.await;
        });
        client
    }

    /// Others, whose transactions have each session go from hand to hand.
    async fn stirred(&self) -> Others {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for pause_ms in [1, 2, 3, 5] {
            let (client, stop) = (self.client().await, stop.clone());
            clients.spawn(async move {
                let sql = format!("begin; select pg_sleep(0.00{pause_ms}); commit");
                while !stop.load(Ordering::Relaxed) {
                    client.batch_execute(&sql).await.expect("it is nothing but sleep");
                }
            });
        }
        Others { stop, clients }
    }

    /// What each session of the pool has set, prepared, locked, or listens to.
    async fn left_behind(&self) -> Vec<String> {
        let mut holders = Vec::new();
        let mut left = Vec::new();
        for _ in 0..SIZE {
            let client = self.client().await;
            client.batch_execute("begin").await.expect("there is a session left");
            left.push(state_of(&client).await);
            holders.push(client);
        }
        left
    }

    /// The same of a session that nobody used.
    async fn fresh(&self) -> Vec<String> {
        let client = self.database.client().await;
        client.batch_execute("begin").await.expect("it may");
        vec![state_of(&client).await; SIZE as usize]
    }
}

struct Others {
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Others {
    /// Lets each transaction end: PgBouncer closes a session that is left in one.
    async fn leave(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
    }
}

async fn state_of(client: &tokio_postgres::Client) -> String {
    // What each pooler sets by itself, to have it as its client has, is left out.
    const STATE: &str = "
        select coalesce(string_agg(name || '=' || setting, ' ' order by name), '')
            || ' prepared=' || (select count(*) from pg_catalog.pg_prepared_statements)
            || ' listens=' || (select count(*) from pg_catalog.pg_listening_channels())
            || ' locks=' || (select count(*) from pg_catalog.pg_locks
                             where pid = pg_backend_pid() and locktype = 'advisory')
        from pg_catalog.pg_settings
        where source = 'session' and name not in ('application_name', 'client_encoding')";
    let row = client.query_typed_one(STATE, &[]).await.expect("anyone may ask");
    row.get(0)
}
