//! Making the slot, which waits for every transaction that is open.

use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_postgres::Client;

use crate::change::Lsn;
use crate::postgres::{self, Dsn, SlotName};
use crate::source::wal::connection::{Persistence, ReplicationConnection};

use super::SESSION_NAME;

pub(super) async fn connect(dsn: &Dsn) -> anyhow::Result<ReplicationConnection> {
    ReplicationConnection::connect(dsn, SESSION_NAME)
        .await
        .context("the role of [database] url cannot log in for replication")
}

/// Makes the slot and returns from where on it has changes. `observer` is asked
/// what it waits for. Ctrl-C gives up, and leaves no slot behind.
pub(super) async fn make(
    mut replication: ReplicationConnection,
    slot: &SlotName,
    dsn: &Dsn,
    observer: &Client,
) -> anyhow::Result<Lsn> {
    const FIRST_WORD: Duration = Duration::from_secs(1);
    const NEXT_WORDS: Duration = Duration::from_secs(5);

    let pid = replication.process_id();
    let made = replication.create_slot(slot, Persistence::Permanent);
    tokio::pin!(made);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut words = interval_at(tokio::time::Instant::now() + FIRST_WORD, NEXT_WORDS);
    words.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Every branch is cancel safe: two are polled on by reference, and a
        // tick that is lost is only a word less.
        tokio::select! {
            made = &mut made => return Ok(made?),
            _ = words.tick() => {
                for blocker in blockers(observer, pid).await? {
                    tracing::warn!("slot {slot} waits for {blocker} to end; Ctrl-C gives up");
                }
            }
            heard = &mut interrupted => {
                heard.context("cannot listen for Ctrl-C")?;
                break;
            }
        }
    }
    // The server drops a slot that is not finished, once its backend is told;
    // it would not notice by itself that we are gone.
    let session = postgres::connect(dsn, SESSION_NAME).await?;
    session.client.execute("SELECT pg_cancel_backend($1)", &[&pid]).await?;
    match made.await {
        Ok(lsn) => {
            let drop = "SELECT pg_drop_replication_slot($1::text::name)";
            // The walsender may still hold the slot for a moment.
            session.client.execute(drop, &[&slot.as_str()]).await.with_context(|| {
                format!("slot {slot} was made at {lsn} just then, and stays: rowcast teardown")
            })?;
        }
        Err(cancelled) => tracing::debug!(%cancelled, "the slot was not made"),
    }
    Err(anyhow!("interrupted: slot {slot} was not made; the rest of setup stays"))
}

/// In words: the sessions and prepared transactions that `pid` waits for.
async fn blockers(observer: &Client, pid: i32) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = observer.query(BLOCKERS, &[&pid]).await?;
    let mut blockers = Vec::new();
    for row in rows {
        let age: Option<i64> = row.try_get("age_s")?;
        let age = age.map_or(String::new(), |age| format!(", open for {age} s"));
        let user: Option<String> = row.try_get("usename")?;
        let user = user.map_or(String::new(), |user| format!(" of {user}"));
        let application: Option<String> = row.try_get("application_name")?;
        let application = application
            .filter(|name| !name.is_empty())
            .map_or(String::new(), |name| format!(" ({name})"));
        blockers.push(match row.try_get::<_, Option<String>>("gid")? {
            Some(gid) => format!("the prepared transaction {gid:?}{user}{age}"),
            None => {
                let pid: i32 = row.try_get("pid")?;
                format!("the transaction of backend {pid}{user}{application}{age}")
            }
        });
    }
    Ok(blockers)
}

/// `pg_blocking_pids` gives 0 for prepared transactions. Ages are NULL where
/// the role may not see them.
const BLOCKERS: &str = "
SELECT b.pid, a.usename::text, a.application_name,
       extract(epoch FROM now() - a.xact_start)::bigint AS age_s, NULL::text AS gid
FROM (SELECT DISTINCT unnest(pg_blocking_pids($1)) AS pid) b
LEFT JOIN pg_stat_activity a ON a.pid = b.pid
WHERE b.pid <> 0
UNION ALL
SELECT NULL, p.owner::text, NULL, extract(epoch FROM now() - p.prepared)::bigint, p.gid
FROM pg_prepared_xacts p
WHERE 0 = ANY (pg_blocking_pids($1))
ORDER BY age_s DESC NULLS LAST
LIMIT 5
";
