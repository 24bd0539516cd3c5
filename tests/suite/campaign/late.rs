//! Transactions that take their number and write at once, and end long after others that began later; some of them are
//! rolled back, some are prepared in between, and one is nearly always open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Error, NoTls};

use super::harm::Harm;
use super::rng::Rng;
use super::shop::{GHOST_IDS, GHOST_OWNER, LATE_IDS, OWNERS, PULSES, TABLES};
use super::writer::{haunt, statement};

/// Besides the one that is nearly always open.
const WRITERS: u64 = 3;
/// Ids for each of them.
const ROWS: u64 = 10_000;

pub(super) struct Latecomers {
    stop: Arc<AtomicBool>,
    writing: Vec<JoinHandle<()>>,
    ended: Arc<AtomicU64>,
}

impl Latecomers {
    pub(super) fn start(url: &str, rng: &mut Rng, prepares: bool, harm: &Arc<Harm>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let ended = Arc::<AtomicU64>::default();
        let writing = (0..=WRITERS)
            .map(|number| {
                let latecomer = Latecomer {
                    url: url.to_owned(),
                    client: None,
                    rng: rng.fork(),
                    number,
                    rows: 0,
                    prepares,
                    stop: stop.clone(),
                    ended: ended.clone(),
                    harm: harm.clone(),
                };
                tokio::spawn(latecomer.run())
            })
            .collect();
        Self { stop, writing, ended }
    }

    /// Those that are open are ended first. Returns how many came to the end that they were to have.
    pub(super) async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for writing in self.writing {
            writing.await.expect("a latecomer never panics");
        }
        self.ended.load(Ordering::Relaxed)
    }
}

/// How it ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    RollBack,
    /// What was written first is rolled back, the rest is committed.
    RollBackToSavepoint,
}

struct Latecomer {
    url: String,
    client: Option<Client>,
    rng: Rng,
    number: u64,
    rows: u64,
    prepares: bool,
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicU64>,
    harm: Arc<Harm>,
}

impl Latecomer {
    async fn run(mut self) {
        while !self.is_stopped() {
            let written = match self.number {
                0 => self.stay_long().await,
                _ => self.come_late().await,
            };
            match written {
                Ok(()) => drop(self.ended.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    self.harm.failed(&error);
                    self.recover().await;
                }
            }
            sleep(self.rng.millis(0, 100)).await;
        }
    }

    /// Its number holds back what counts on the oldest one that is running.
    async fn stay_long(&mut self) -> Result<(), Error> {
        let id = self.fresh_id();
        let insert = format!(
            "insert into {} (id, owner, status, version) values ({id}, 1, 'late', nextval('versions'))",
            PULSES.name
        );
        self.execute(&["begin".to_owned(), insert]).await?;
        let held = self.rng.millis(5_000, 12_000);
        self.hold(held).await;
        self.execute(&["commit".to_owned()]).await
    }

    async fn come_late(&mut self) -> Result<(), Error> {
        let end = match self.rng.below(10) {
            0..6 => End::Commit,
            6..8 => End::RollBack,
            _ => End::RollBackToSavepoint,
        };
        let mut first = vec![self.insert(end != End::Commit)];
        if self.rng.percent(50) {
            let also = statement(&mut self.rng);
            first.push(if end == End::Commit { also } else { haunt(&also) });
        }
        // After others that began later and wrote the same rows before.
        let mut last: Vec<String> = Vec::new();
        if self.rng.percent(70) {
            last.extend((0..=self.rng.below(3)).map(|_| statement(&mut self.rng)));
        }
        match end {
            End::Commit => {}
            End::RollBack => last.iter_mut().for_each(|it| *it = haunt(it)),
            End::RollBackToSavepoint => {
                // The transaction has written before, too.
                first.insert(0, "savepoint s".to_owned());
                first.insert(0, self.insert(false));
                last.insert(0, "rollback to s".to_owned());
            }
        }
        first.insert(0, "begin".to_owned());
        self.execute(&first).await?;
        let held = self.rng.millis(200, 3_500);
        self.hold(held).await;
        self.execute(&last).await?;
        let word = if end == End::RollBack { "rollback" } else { "commit" };
        if !self.prepares || self.rng.percent(50) {
            return self.execute(&[word.to_owned()]).await;
        }
        let name = format!("late_{}_{}", self.number, self.rows);
        self.execute(&[format!("prepare transaction '{name}'")]).await?;
        let held = self.rng.millis(0, 2_000);
        self.hold(held).await;
        self.end_prepared(&name, word).await;
        Ok(())
    }

    /// It outlives the connection and the server, and nobody else ends it.
    async fn end_prepared(&mut self, name: &str, word: &str) {
        loop {
            let Err(error) = self.execute(&[format!("{word} prepared '{name}'")]).await else {
                return;
            };
            // Done, though the answer was lost.
            if error
                .code()
                .is_some_and(|it| *it == tokio_postgres::error::SqlState::UNDEFINED_OBJECT)
            {
                return;
            }
            self.recover().await;
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// A row that nobody writes but this transaction.
    fn insert(&mut self, is_ghost: bool) -> String {
        let table = self.rng.pick(&TABLES).name;
        if is_ghost {
            let id = GHOST_IDS + self.rng.below(1_000) as i64;
            return format!(
                "insert into {table} (id, owner, status, version) values ({id}, {GHOST_OWNER}, 'published', -{id})"
            );
        }
        let (id, owner) = (self.fresh_id(), 1 + self.rng.below(OWNERS));
        format!(
            "insert into {table} (id, owner, status, version) values ({id}, {owner}, 'published', nextval('versions'))"
        )
    }

    fn fresh_id(&mut self) -> u64 {
        self.rows += 1;
        LATE_IDS + self.number * ROWS + self.rows
    }

    /// Until it is stopped, at most.
    async fn hold(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.is_stopped() {
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn execute(&mut self, statements: &[String]) -> Result<(), Error> {
        if self.client.is_none() {
            let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
            tokio::spawn(connection);
            client.batch_execute("set lock_timeout = '1s'").await?;
            self.client = Some(client);
        }
        let client = self.client.as_ref().expect("it was just made");
        for statement in statements {
            client.batch_execute(statement).await?;
        }
        Ok(())
    }

    async fn recover(&mut self) {
        if let Some(client) = &self.client
            && client.batch_execute("rollback").await.is_err()
        {
            self.client = None;
        }
    }
}
