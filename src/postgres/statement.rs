//! One change of the schema, ready to be run or printed.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

/// A statement of SQL, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it does, in words, without a full stop.
    pub what: String,
    /// Without a semicolon.
    pub sql: String,
    pub lock: Lock,
}

/// What a statement does to others while it waits for its lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Whoever comes after it queues behind it, readers and writers too. So it
    /// may only wait for a moment.
    Queues,
    /// `CONCURRENTLY`: it waits for old transactions, and nobody waits for it.
    /// A failed attempt leaves an invalid index behind, which `cleanup` removes.
    Yields { cleanup: Option<String> },
}

impl Lock {
    fn timeout(&self) -> &'static str {
        match self {
            Lock::Queues => "2s",
            Lock::Yields { .. } => "60s",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// After several attempts.
    #[error("cannot lock what this needs, tried for {waited:?}: {sql}")]
    Locked { sql: String, waited: Duration, source: Error },
    #[error("Postgres refuses: {sql}")]
    Refused { sql: String, source: Error },
}

impl Statement {
    pub fn new(what: impl Into<String>, sql: impl Into<String>) -> Statement {
        Statement { what: what.into(), sql: sql.into(), lock: Lock::Queues }
    }

    pub fn concurrently(
        what: impl Into<String>,
        sql: impl Into<String>,
        cleanup: Option<String>,
    ) -> Statement {
        Statement { what: what.into(), sql: sql.into(), lock: Lock::Yields { cleanup } }
    }

    /// Lines for psql: the words as a comment, then the SQL.
    pub fn script(&self) -> String {
        let timeout = match self.lock {
            Lock::Queues => String::new(),
            Lock::Yields { .. } => format!("SET lock_timeout = '{}';\n", self.lock.timeout()),
        };
        let back = match self.lock {
            Lock::Queues => String::new(),
            Lock::Yields { .. } => format!("SET lock_timeout = '{}';\n", Lock::Queues.timeout()),
        };
        format!("-- {}\n{timeout}{};\n{back}", self.what.replace('\n', " "), self.sql)
    }

    /// What a script of statements begins with.
    pub fn script_head() -> String {
        format!("SET lock_timeout = '{}';\n", Lock::Queues.timeout())
    }

    /// Runs it as a transaction of its own. Where a lock is not to be had it
    /// lets others pass and tries again, for `patience` in all; `on_wait` hears
    /// of each failed attempt.
    pub async fn execute(
        &self,
        client: &Client,
        patience: Duration,
        mut on_wait: impl FnMut(&Statement),
    ) -> Result<(), StatementError> {
        const PAUSE: Duration = Duration::from_secs(1);
        let begun = Instant::now();
        let refused = |source| StatementError::Refused { sql: self.sql.clone(), source };
        let timeout = format!("SET lock_timeout = '{}'", self.lock.timeout());
        client.batch_execute(&timeout).await.map_err(refused)?;
        loop {
            let Err(error) = client.batch_execute(&self.sql).await else { return Ok(()) };
            let is_locked = error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
                || error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED);
            if let Lock::Yields { cleanup: Some(cleanup) } = &self.lock {
                client.batch_execute(cleanup).await.map_err(refused)?;
            }
            if !is_locked {
                return Err(refused(error));
            }
            let waited = begun.elapsed();
            if waited + PAUSE >= patience {
                return Err(StatementError::Locked {
                    sql: self.sql.clone(),
                    waited,
                    source: error,
                });
            }
            on_wait(self);
            sleep(PAUSE).await;
        }
    }
}
