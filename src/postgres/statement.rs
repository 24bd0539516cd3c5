//! One change of the schema, ready to be run or printed.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::{ServerError, quote_identifier};

/// A statement of SQL, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it makes or removes, in words, without a full stop.
    pub what: String,
    /// Without a semicolon.
    pub sql: String,
    pub lock: Lock,
    pub by: By,
    /// What stands for SQL that is too long to be shown.
    short: Option<Box<str>>,
}

/// Whose session runs a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// That of the tables' owner: `--url`.
    Owner,
    /// That of `[database] url`, of this name: it then owns what is made.
    Role(Box<str>),
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
    /// It waits for the transactions that are open, however long they are, and
    /// nobody waits for it.
    Waits,
}

impl Lock {
    fn timeout(&self) -> &'static str {
        match self {
            Lock::Queues => "2s",
            Lock::Yields { .. } => "60s",
            Lock::Waits => "0",
        }
    }
}

/// Why a statement takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Another session holds a lock; it is tried again.
    ForLock,
    /// It is still at work, or waits for old transactions to end.
    ForEnd,
}

#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    #[error("another session holds the lock that this needs, also at attempt {attempts}: {sql}")]
    Locked { sql: String, attempts: u32, source: ServerError },
    #[error("Postgres refuses: {sql}")]
    Refused { sql: String, source: ServerError },
    #[error("the connection broke at: {sql}")]
    Lost { sql: String, source: Error },
}

impl StatementError {
    fn of(sql: &str, error: Error) -> StatementError {
        let sql = sql.to_owned();
        match error.as_db_error() {
            Some(source) => StatementError::Refused { sql, source: source.into() },
            None => StatementError::Lost { sql, source: error },
        }
    }

    /// Whether another role could do it.
    pub fn lacks_privilege(&self) -> bool {
        match self {
            StatementError::Refused { source, .. } => {
                *source.code() == SqlState::INSUFFICIENT_PRIVILEGE
            }
            StatementError::Locked { .. } | StatementError::Lost { .. } => false,
        }
    }
}

impl Statement {
    pub fn new(what: impl Into<String>, sql: impl Into<String>) -> Statement {
        Statement {
            what: what.into(),
            sql: sql.into(),
            lock: Lock::Queues,
            by: By::Owner,
            short: None,
        }
    }

    pub fn concurrently(
        what: impl Into<String>,
        sql: impl Into<String>,
        cleanup: Option<String>,
    ) -> Statement {
        Statement { lock: Lock::Yields { cleanup }, ..Statement::new(what, sql) }
    }

    pub fn waiting(what: impl Into<String>, sql: impl Into<String>) -> Statement {
        Statement { lock: Lock::Waits, ..Statement::new(what, sql) }
    }

    /// The same by the role of `[database] url`.
    pub fn by_role(self, role: &str) -> Statement {
        Statement { by: By::Role(role.into()), ..self }
    }

    /// The same, shown as `short`.
    pub fn shown_as(self, short: impl Into<Box<str>>) -> Statement {
        Statement { short: Some(short.into()), ..self }
    }

    /// The SQL, or what stands for it.
    pub fn shown(&self) -> &str {
        self.short.as_deref().unwrap_or(&self.sql)
    }

    /// Lines for psql: the words as a comment, then the SQL.
    pub fn script(&self) -> String {
        let (longer, back) = match self.lock {
            Lock::Queues => Default::default(),
            Lock::Yields { .. } | Lock::Waits => {
                let set = |lock: &Lock| format!("SET lock_timeout = '{}';\n", lock.timeout());
                (set(&self.lock), set(&Lock::Queues))
            }
        };
        let (role, reset) = match &self.by {
            By::Owner => (String::new(), ""),
            By::Role(role) => (format!("SET ROLE {};\n", quote_identifier(role)), "RESET ROLE;\n"),
        };
        let what = self.what.replace('\n', " ");
        format!("-- {what}\n{role}{longer}{};\n{back}{reset}", self.sql)
    }

    /// What a script of statements begins with.
    pub fn script_head() -> String {
        format!("SET lock_timeout = '{}';\n", Lock::Queues.timeout())
    }

    /// Runs it as a transaction of its own. Where a lock is not to be had it
    /// lets others pass and tries again, `attempts` times in all; `on_wait`
    /// hears of each wait.
    pub async fn execute(
        &self,
        client: &Client,
        attempts: u32,
        mut on_wait: impl FnMut(Wait),
    ) -> Result<(), StatementError> {
        const PAUSE: Duration = Duration::from_secs(1);
        let failed = |error| StatementError::of(self.shown(), error);
        let set_timeout = format!("lock_timeout = '{}'", self.lock.timeout());
        let sql = match self.lock {
            // Nothing stays set in a session that is a pooler's.
            Lock::Queues => format!("SET LOCAL {set_timeout};\n{}", self.sql),
            Lock::Yields { .. } | Lock::Waits => {
                let set_timeout = format!("SET {set_timeout}");
                client.batch_execute(&set_timeout).await.map_err(failed)?;
                self.sql.clone()
            }
        };
        for attempt in 1_u32.. {
            let Err(error) = run_once(client, &sql, &mut on_wait).await else { break };
            let is_locked = error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
                || error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED);
            if let Lock::Yields { cleanup: Some(cleanup) } = &self.lock {
                client.batch_execute(cleanup).await.map_err(failed)?;
            }
            if !is_locked {
                return Err(failed(error));
            }
            if attempt >= attempts {
                return Err(match failed(error) {
                    StatementError::Refused { sql, source } => {
                        StatementError::Locked { sql, attempts, source }
                    }
                    other => other,
                });
            }
            on_wait(Wait::ForLock);
            sleep(PAUSE).await;
        }
        Ok(())
    }
}

async fn run_once(client: &Client, sql: &str, on_wait: &mut impl FnMut(Wait)) -> Result<(), Error> {
    /// More than the timeout of a lock that others queue behind.
    const LONG: Duration = Duration::from_secs(3);
    let run = client.batch_execute(sql);
    tokio::pin!(run);
    match timeout(LONG, &mut run).await {
        Ok(result) => result,
        Err(_) => {
            on_wait(Wait::ForEnd);
            run.await
        }
    }
}
