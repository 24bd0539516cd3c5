//! The application: several connections that write at random, each transaction by SQL that no observer sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use super::harm::Harm;
use super::rng::Rng;
use super::shop::{BULK_IDS, GHOST_IDS, GHOST_OWNER, IDS, OWNERS, TABLES, Table};

/// So that a schedule's faults fall into its writing.
const PAUSE_MILLIS: u64 = 10;

pub(super) struct Writers {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    writing: Vec<JoinHandle<()>>,
}

impl Writers {
    pub(super) fn start(
        count: usize,
        url: &str,
        rng: &mut Rng,
        has_bulk: bool,
        harm: &Arc<Harm>,
    ) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let committed = Arc::<AtomicU64>::default();
        let writing = (0..count)
            .map(|_| {
                let (rng, stop, committed) = (rng.fork(), stop.clone(), committed.clone());
                let (url, harm) = (url.to_owned(), harm.clone());
                let writer = Writer { url, client: None, rng, has_bulk, harm };
                tokio::spawn(writer.run(stop, committed))
            })
            .collect();
        Self { stop, committed, writing }
    }

    /// Transactions that are known to be committed.
    pub(super) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    pub(super) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for writing in self.writing {
            writing.await.expect("a writer never panics");
        }
    }
}

struct Writer {
    url: String,
    client: Option<Client>,
    rng: Rng,
    has_bulk: bool,
    harm: Arc<Harm>,
}

impl Writer {
    async fn run(mut self, stop: Arc<AtomicBool>, committed: Arc<AtomicU64>) {
        while !stop.load(Ordering::Relaxed) {
            let transaction = transaction(&mut self.rng, self.has_bulk);
            // A transaction that Postgres refuses, or that ends with Postgres, is one that was rolled back.
            match self.execute(&transaction).await {
                Ok(()) => drop(committed.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    self.harm.failed(&error);
                    self.recover().await;
                }
            }
            sleep(self.rng.millis(0, PAUSE_MILLIS)).await;
        }
    }

    async fn execute(&mut self, statements: &[String]) -> Result<(), tokio_postgres::Error> {
        if self.client.is_none() {
            let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
            tokio::spawn(connection);
            client.batch_execute("set lock_timeout = '1s'").await?;
            self.client = Some(client);
        }
        let client = self.client.as_ref().expect("it was just made");
        // Most come at once, some take their time and are overtaken by others.
        if self.rng.percent(85) {
            return client.batch_execute(&statements.join(";\n")).await;
        }
        for statement in statements {
            client.batch_execute(statement).await?;
            sleep(self.rng.millis(0, 2 * PAUSE_MILLIS)).await;
        }
        Ok(())
    }

    async fn recover(&mut self) {
        if let Some(client) = &self.client
            && client.batch_execute("rollback").await.is_err()
        {
            self.client = None;
        }
        sleep(Duration::from_millis(PAUSE_MILLIS)).await;
    }
}

fn transaction(rng: &mut Rng, has_bulk: bool) -> Vec<String> {
    let some = |rng: &mut Rng, most: u64| -> Vec<String> {
        (0..=rng.below(most)).map(|_| statement(rng)).collect()
    };
    let block = |statements: Vec<String>, end: &str| {
        let begin = std::iter::once("begin".to_owned());
        begin.chain(statements).chain([end.to_owned()]).collect()
    };
    match rng.below(100) {
        0..50 => vec![statement(rng)],
        50..70 => block(some(rng, 5), "commit"),
        70..78 => {
            let mut statements = some(rng, 3);
            statements.extend((0..3).map(|_| ghost(rng)));
            block(statements.into_iter().map(|it| haunt(&it)).collect(), "rollback")
        }
        78..86 => {
            let mut statements = some(rng, 2);
            statements.push("savepoint s".to_owned());
            statements.extend((0..2).map(|_| ghost(rng)));
            statements.push("rollback to s".to_owned());
            statements.extend(some(rng, 2));
            block(statements, "commit")
        }
        86..92 => {
            let (table, id) = (rng.pick(&TABLES).name, id(rng));
            let delete = format!("delete from {table} where id = {id}");
            let mut again = vec![delete, insert(rng, table, id)];
            if rng.percent(50) {
                again.reverse();
            }
            if rng.percent(50) { block(again, "commit") } else { again }
        }
        // An owner's row goes and is back, so that others are never without.
        92..94 => {
            let owner = owner(rng);
            let delete = format!("delete from owners where id = {owner}");
            let again = format!("insert into owners values ({owner}, '{owner}', 0)");
            block(vec![statement(rng), delete, statement(rng), again, statement(rng)], "commit")
        }
        94..98 => {
            let table = rng.pick(&TABLES).name;
            let (from, to) = (id(rng), id(rng));
            vec![format!(
                "update {table} set version = nextval('versions') where id between {} and {}",
                from.min(to),
                from.max(to)
            )]
        }
        _ if has_bulk => vec![bulk(rng)],
        _ => vec![statement(rng)],
    }
}

fn id(rng: &mut Rng) -> u64 {
    // A few rows are hot.
    if rng.percent(30) { 1 + rng.below(3) } else { 1 + rng.below(IDS) }
}

fn owner(rng: &mut Rng) -> u64 {
    1 + rng.below(OWNERS)
}

/// Values that have to pass through templates, JSON and URLs unharmed.
const TITLES: [&str; 6] =
    ["plain", "{{ id }}", "a.b/../c", "\"\\\n\t\u{1}", "žluťoučký 🐎", "%s{}#@;<script>"];

pub(super) fn statement(rng: &mut Rng) -> String {
    let Table { name, is_soft, .. } = rng.pick(&TABLES);
    let id = id(rng);
    let set = "version = nextval('versions')";
    match rng.below(20) {
        0..4 => insert(rng, name, id),
        4..6 => format!("delete from {name} where id = {id}"),
        // A key that is taken makes the transaction fail, as it would the application's.
        6 => format!("update {name} set {set}, id = {} where id = {id}", self::id(rng)),
        7..10 => format!("update {name} set {set}, owner = {} where id = {id}", owner(rng)),
        10..12 => {
            let status = rng.pick(&["draft", "published", "archived"]);
            format!("update {name} set {set}, status = '{status}' where id = {id}")
        }
        12..14 if *is_soft => {
            let at = if rng.percent(50) { "now()" } else { "null" };
            format!("update {name} set {set}, deleted_at = {at} where id = {id}")
        }
        12 => {
            // Large enough to be kept outside of the row, and then not sent with its updates.
            let body =
                "(select string_agg(md5(i::text || random()), '') from generate_series(1, 300) i)";
            format!("update {name} set {set}, body = {body} where id = {id}")
        }
        13 => format!("update owners set note = note + 1 where id = {}", owner(rng)),
        _ => {
            let title = rng.pick(&TITLES);
            format!("update {name} set {set}, title = $t${title}$t$ where id = {id}")
        }
    }
}

fn insert(rng: &mut Rng, table: &str, id: u64) -> String {
    let (owner, title) = (owner(rng), rng.pick(&TITLES));
    let status = rng.pick(&["draft", "published"]);
    format!(
        "insert into {table} (id, owner, status, version, title)
         values ({id}, {owner}, '{status}', nextval('versions'), $t${title}$t$) on conflict (id) do nothing"
    )
}

/// Writes what nobody may ever hear of.
fn ghost(rng: &mut Rng) -> String {
    let (table, id) = (rng.pick(&TABLES).name, id(rng));
    let ghost = GHOST_IDS + rng.below(1_000) as i64;
    if rng.percent(50) {
        format!(
            "insert into {table} (id, owner, status, version) values ({ghost}, {GHOST_OWNER}, 'published', -{ghost})"
        )
    } else {
        format!("update {table} set version = -{ghost}, owner = {GHOST_OWNER} where id = {id}")
    }
}

/// The same statement with a version that is never committed.
pub(super) fn haunt(statement: &str) -> String {
    statement.replace("nextval('versions')", "-nextval('versions')")
}

fn bulk(rng: &mut Rng) -> String {
    let table = rng.pick(&TABLES).name;
    let (first, count) = (BULK_IDS + rng.below(4) * BULK_IDS, 50 + rng.below(400));
    match rng.below(6) {
        0 => format!("truncate {table}"),
        1 | 2 => format!(
            "insert into {table} (id, owner, status, version)
             select i, 1 + i % {OWNERS}, 'published', nextval('versions')
             from generate_series({first}, {}) i on conflict (id) do nothing",
            first + count
        ),
        3 | 4 => format!("update {table} set version = nextval('versions')"),
        _ => format!("delete from {table} where id >= {BULK_IDS}"),
    }
}
