use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tracing::warn;

use crate::observe::{self, Observer};
use crate::pipeline::lookout::ANSWER_WITHIN;
use crate::pipeline::{Error, Shed};
use crate::postgres::lag::{self, Lag};
use crate::postgres::{SlotName, blockers};

/// Between two warnings about the same old transaction.
const REPEAT_AFTER: Duration = Duration::from_secs(600);

/// How much log the server keeps for us.
pub(in crate::pipeline) struct Log {
    slot: SlotName,
    /// How much may wait for us, in bytes.
    max_bytes: u64,
    old_transaction: OldTransaction,
}

/// Whether something else than we keeps log from being removed.
#[derive(Debug, Default)]
struct OldTransaction {
    was_seen: bool,
    told_at: Option<Instant>,
}

impl Log {
    pub(super) fn new(slot: SlotName, max_bytes: u64) -> Log {
        Log { slot, max_bytes, old_transaction: OldTransaction::default() }
    }

    /// Reads it and tells it.
    pub(in crate::pipeline) async fn look(
        &self,
        client: &Client,
        observer: &Observer,
    ) -> Result<Option<Lag>, Error> {
        let answer = timeout(ANSWER_WITHIN, lag::read(client, &self.slot)).await;
        let lag = answer.map_err(|_| Error::Unanswered(ANSWER_WITHIN))?.map_err(Error::Inspect)?;
        if let Some(lag) = lag {
            observer.backlog(observe::Backlog::Log {
                unconfirmed_bytes: lag.unconfirmed_bytes(),
                retained_bytes: lag.retained_bytes(),
                max_bytes: self.max_bytes,
            });
        }
        Ok(lag)
    }

    /// # Errors
    /// [`Error::Shed`] if it is too much.
    pub(in crate::pipeline) async fn weigh(
        &mut self,
        client: &Client,
        observer: &Observer,
    ) -> Result<(), Error> {
        let Some(lag) = self.look(client, observer).await? else { return Ok(()) };
        let max_bytes = self.max_bytes;
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

/// Bytes of log that may wait for us. At the server's own bound the slot is lost,
/// so we let go before.
pub fn max_retained(configured: Option<u64>, max_slot_wal_keep_size: Option<u64>) -> u64 {
    const DEFAULT: u64 = 4_000_000_000;
    configured.unwrap_or_else(|| {
        let most = max_slot_wal_keep_size.map(|keep| keep / 5 * 4);
        most.map_or(DEFAULT, |most| most.min(DEFAULT))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_log_may_wait_as_the_server_keeps_and_4_gb_at_most() {
        assert_eq!(max_retained(None, None), 4_000_000_000);
        assert_eq!(max_retained(None, Some(1_000_000_000)), 800_000_000);
        assert_eq!(max_retained(None, Some(1 << 40)), 4_000_000_000);
        assert_eq!(max_retained(Some(5_000_000_000), Some(1_000_000_000)), 5_000_000_000);
    }
}
