use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::Client;
use tracing::warn;

use super::inspection::Told;
use super::{Error, Options, Shed, inspect};
use crate::postgres::lag::{self, Lag};
use crate::postgres::{Connection, blockers};

/// How often to look how much log is kept for us. A busy server writes a
/// gigabyte in less than a minute.
const LAG_EVERY: Duration = Duration::from_secs(5);
/// A network may be broken without either end's knowing. The stream alone does
/// not tell: a server that is at work is silent there.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Between two warnings about the same old transaction.
const REPEAT_AFTER: Duration = Duration::from_secs(600);

/// Looks at the database, over an ordinary connection, while changes stream.
pub(super) struct Lookout<'a> {
    pub(super) options: &'a Options,
    pub(super) connection: Connection,
    pub(super) told: &'a mut Told,
    /// As the session found it.
    pub(super) publication: BTreeSet<Box<str>>,
    /// How much log may wait for us, in bytes.
    pub(super) max_retained_wal: u64,
    pub(super) old_transaction: OldTransaction,
}

/// Whether something else than we keeps log from being removed.
#[derive(Debug, Default)]
pub(super) struct OldTransaction {
    was_seen: bool,
    told_at: Option<Instant>,
}

impl Lookout<'_> {
    /// Returns when the database closes the connection, is no longer as the
    /// rules need it, or keeps too much log for us, and says which.
    pub(super) async fn run(mut self) -> Error {
        let every = self.options.inspect_every;
        let mut inspect_at = Instant::now() + every;
        let mut lag_at = Instant::now() + LAG_EVERY;
        loop {
            tokio::select! {
                // A server that shuts down tells here at once, and waits for the
                // stream to be closed.
                error = self.connection.end.closed() => return Error::Disconnected(error),
                () = sleep_until(inspect_at.min(lag_at)) => {}
            }
            if lag_at <= Instant::now() {
                if let Err(error) = self.weigh().await {
                    return error;
                }
                lag_at = Instant::now() + LAG_EVERY;
            }
            if inspect_at <= Instant::now() {
                if let Err(error) = self.inspect().await {
                    return error;
                }
                inspect_at = Instant::now() + every;
            }
        }
    }

    async fn inspect(&mut self) -> Result<(), Error> {
        let mut inspection = inspect(&self.connection.client, self.options).await?;
        inspection.go_on_without_lookups();
        inspection.accept()?;
        self.told.warn(&inspection);
        match inspection.publication() == self.publication {
            true => Ok(()),
            false => Err(Error::PublicationAltered(self.options.database.publication.clone())),
        }
    }

    async fn weigh(&mut self) -> Result<(), Error> {
        let client = &self.connection.client;
        let slot = self.options.slot.name(&self.options.database);
        let answer = timeout(ANSWER_WITHIN, lag::read(client, slot)).await;
        let lag = answer.map_err(|_| Error::Unanswered(ANSWER_WITHIN))?.map_err(Error::Inspect)?;
        let Some(lag) = lag else { return Ok(()) };
        let max_bytes = self.max_retained_wal;
        if lag.unconfirmed_bytes() > max_bytes {
            return Err(Shed { lag_bytes: lag.unconfirmed_bytes(), max_bytes }.into());
        }
        let OldTransaction { was_seen, told_at } = &mut self.old_transaction;
        let is_kept = lag.retained_bytes() > max_bytes;
        // Seen once only, it may be the time that the server takes to notice.
        let is_kept_for_long = std::mem::replace(was_seen, is_kept) && is_kept;
        let is_due = told_at.is_none_or(|told_at| told_at.elapsed() >= REPEAT_AFTER);
        if is_kept_for_long && is_due {
            let is_told = warn_of_oldest(client, lag).await.map_err(Error::Inspect)?;
            *told_at = is_told.then(Instant::now);
        }
        Ok(())
    }
}

/// Logs which transaction keeps the log, if one does. That is nothing that we
/// could shed: what it has written is not committed yet.
async fn warn_of_oldest(client: &Client, lag: Lag) -> Result<bool, tokio_postgres::Error> {
    let Some(oldest) = blockers::oldest_writer(client).await? else { return Ok(false) };
    let retained_mib = lag.retained_bytes() >> 20;
    let hint = oldest.age_s.is_none().then_some(
        "GRANT pg_read_all_stats to rowcast's role, and its age and application are told too",
    );
    warn!(
        retained_mib,
        hint, "Postgres keeps log for {oldest}, which rowcast cannot let go: end that transaction"
    );
    Ok(true)
}
