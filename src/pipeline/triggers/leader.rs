use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use tracing::warn;

use crate::observe::Observer;
use crate::pipeline::Error;
use crate::postgres::outbox::{self, Backend};
use crate::postgres::{APPLICATION_NAME, Connection, Dsn, Tenure, connect_as};

/// Another may end at any time: whoever waits asks this often.
const POLL: Duration = Duration::from_millis(500);
/// For `--once`, for which nobody waits: one that was stopped just now may still be
/// there.
const ONCE_WAITS: Duration = Duration::from_secs(3);
/// For one question.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// That we are the one who empties the outbox: for as long as the connection lasts
/// that has the lock.
pub(in crate::pipeline) struct Leader {
    /// The backend that has the lock.
    pub(super) pid: i32,
    /// With a pooler that gives each transaction another session: one that stays
    /// open. Without, the connection that reads has the lock itself.
    lock: Option<Connection>,
}

impl Leader {
    /// Returns once nobody else empties the outbox, and whether somebody did. `reading`
    /// is the connection that will, and `own` the backend by which we did before.
    ///
    /// # Errors
    /// [`Error::Drained`] if that takes too long for `once`.
    pub(super) async fn become_one(
        dsn: &Dsn,
        reading: &Connection,
        mut own: Option<i32>,
        once: bool,
        observer: &Observer,
    ) -> Result<(Leader, bool), Error> {
        let lock = match reading.tenure {
            Tenure::Session => None,
            Tenure::Transaction => {
                let lock = connect_as(dsn, APPLICATION_NAME, Tenure::Transaction).await;
                Some(lock.map_err(Error::Connect)?)
            }
        };
        let asking = lock.as_ref().unwrap_or(reading);
        let since = Instant::now();
        let (mut has_waited, mut is_told) = (false, false);
        let pid = loop {
            if let Some(pid) = in_time(take(&asking.client, asking.tenure)).await? {
                break pid;
            }
            has_waited = true;
            let drained_by = asking.read(outbox::drained_by(&asking.client));
            let holder = Holder(in_time(drained_by).await?);
            observer.waits(format!("the outbox held by {holder}"));
            if own.is_some() && holder.pid() == own.take() {
                holder.end(asking).await?;
                continue;
            }
            if once && since.elapsed() >= ONCE_WAITS {
                return Err(Error::Drained(holder));
            }
            if !once && !is_told {
                holder.tell();
                is_told = true;
            }
            sleep(POLL).await;
        };
        Ok((Leader { pid, lock }, has_waited))
    }

    /// Keeps the connection of the lock from being idle for long: what is in between
    /// may forget such a one, and nobody would be told when we end.
    pub(in crate::pipeline) async fn stay(&self) -> Result<(), Error> {
        match &self.lock {
            Some(lock) => in_time(lock.client.batch_execute("")).await,
            None => Ok(()),
        }
    }

    /// Waits until the lock is lost, and says why, the first time. Where the reading
    /// connection has it, that tells.
    pub(in crate::pipeline) async fn lost(&mut self) -> Option<tokio_postgres::Error> {
        match &mut self.lock {
            Some(lock) => lock.end.closed().await,
            None => std::future::pending().await,
        }
    }
}

/// Whoever empties the outbox, where it can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder(Option<Backend>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Backend { pid, application }) = &self.0 else { return f.write_str("a backend") };
        write!(f, "backend {pid}")?;
        match application {
            Some(application) => write!(f, " ({application})"),
            None => Ok(()),
        }
    }
}

impl Holder {
    fn pid(&self) -> Option<i32> {
        self.0.as_ref().map(|backend| backend.pid)
    }

    /// Ends the server's end of our own last connection, which was cut without the
    /// server's knowing.
    async fn end(&self, asking: &Connection) -> Result<(), Error> {
        let Some(pid) = self.pid() else { return Ok(()) };
        warn!("taking the outbox from {self}: it is what is left of our own last connection");
        let ended = async { asking.client.query_typed_one(END, &[(&pid, Type::INT4)]).await };
        in_time(asking.read(ended)).await.map(drop)
    }

    fn tell(&self) {
        warn!(
            hint = self.hint(),
            "another rowcast empties the outbox: {self}; waiting until it is gone; nothing is lost: \
             the outbox keeps what was not delivered"
        );
    }

    pub(in crate::pipeline) fn hint(&self) -> Option<String> {
        let pid = self.pid()?;
        Some(format!("who it is: SELECT * FROM pg_stat_activity WHERE pid = {pid}"))
    }
}

/// Takes the lock, if nobody has it, and says by which backend. The transaction of a
/// session that is not ours stays open with it: it has no snapshot, so it keeps
/// vacuum from nothing.
async fn take(client: &Client, tenure: Tenure) -> Result<Option<i32>, tokio_postgres::Error> {
    let (begin, question) = match tenure {
        Tenure::Session => (FOR_SESSION, "SELECT pg_backend_pid(), pg_try_advisory_lock($1)"),
        Tenure::Transaction => {
            (FOR_TRANSACTION, "SELECT pg_backend_pid(), pg_try_advisory_xact_lock($1)")
        }
    };
    client.batch_execute(begin).await?;
    let answer = client.query_typed_one(question, &[(&outbox::LOCK, Type::INT8)]).await?;
    if answer.try_get(1)? {
        return answer.try_get(0).map(Some);
    }
    if tenure == Tenure::Transaction {
        client.batch_execute("ROLLBACK").await?;
    }
    Ok(None)
}

/// A host that is gone without a word loses the lock within 15 s. To no avail behind
/// a pooler, which keeps an eye on that by itself.
const FOR_SESSION: &str = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 3; \
     SET tcp_keepalives_count = 3; SET tcp_user_timeout = 15000";
/// And it may do nothing for as long as it likes. Some settings are not there in
/// older versions.
const FOR_TRANSACTION: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; \
     SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL tcp_keepalives_idle = 5; SET LOCAL tcp_keepalives_interval = 3; \
     SET LOCAL tcp_keepalives_count = 3; SET LOCAL tcp_user_timeout = 15000; \
     SELECT set_config(name, '0', true) FROM pg_settings \
     WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')";
const END: &str = "SELECT pg_terminate_backend($1)";

async fn in_time<T>(
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    let answered = timeout(ANSWER_WITHIN, answer).await;
    answered.map_err(|_| Error::Unanswered(ANSWER_WITHIN))?.map_err(Error::Inspect)
}
