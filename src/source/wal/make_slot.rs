use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval_at};
use tokio_postgres::Client;
use tracing::{debug, warn};

use super::connection::{self, Persistence, ReplicationConnection};
use crate::change::Lsn;
use crate::postgres::{self, ConnectError, Dsn, SlotName, blockers};

/// Who makes a slot.
#[derive(Clone, Copy, Debug)]
pub struct Maker<'a> {
    pub dsn: &'a Dsn,
    pub application_name: &'a str,
    pub persistence: Persistence,
    /// Is asked what the slot waits for.
    pub observer: &'a Client,
    /// How somebody who does not want to wait gives up.
    pub way_out: &'a str,
}

#[derive(Debug, thiserror::Error)]
pub enum MakeSlotError {
    #[error(transparent)]
    Connection(#[from] connection::Error),
    #[error("cannot ask what slot {slot} waits for")]
    Observe { slot: SlotName, source: tokio_postgres::Error },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the making of slot {slot} cannot be cancelled")]
    Cancel { slot: SlotName, source: tokio_postgres::Error },
    #[error("slot {slot} was made at {lsn} just then, and stays: rowcast teardown")]
    Stays { slot: SlotName, lsn: Lsn, source: tokio_postgres::Error },
}

impl MakeSlotError {
    /// Whether trying again may help without anyone's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            // Another rowcast has made it meanwhile.
            MakeSlotError::Connection(connection::Error::SlotExists { .. }) => true,
            MakeSlotError::Connection(error) => error.is_transient(),
            MakeSlotError::Connect(error) => error.is_transient(),
            MakeSlotError::Observe { .. }
            | MakeSlotError::Cancel { .. }
            | MakeSlotError::Stays { .. } => true,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            MakeSlotError::Connection(error) => error.hint(),
            MakeSlotError::Connect(error) => error.hint(),
            MakeSlotError::Observe { .. }
            | MakeSlotError::Cancel { .. }
            | MakeSlotError::Stays { .. } => None,
        }
    }
}

impl Maker<'_> {
    /// Makes the slot and returns from where on it has changes. That waits for
    /// every transaction that is open. `None` if `cancelled` came first: no slot
    /// is left behind then.
    pub async fn make(
        &self,
        mut replication: ReplicationConnection,
        slot: &SlotName,
        cancelled: impl Future<Output = ()>,
    ) -> Result<Option<Lsn>, MakeSlotError> {
        const FIRST_WORD: Duration = Duration::from_secs(1);
        const NEXT_WORDS: Duration = Duration::from_secs(5);

        let pid = replication.process_id();
        let made = replication.create_slot(slot, self.persistence);
        tokio::pin!(made, cancelled);
        let mut words = interval_at(tokio::time::Instant::now() + FIRST_WORD, NEXT_WORDS);
        words.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Every branch is cancel safe: two are polled on by reference, and a
            // tick that is lost is only a word less.
            tokio::select! {
                made = &mut made => return Ok(Some(made?)),
                _ = words.tick() => self.tell(slot, pid).await?,
                () = &mut cancelled => break,
            }
        }
        // The server drops a slot that is not finished, once its backend is told;
        // it would not notice by itself that we are gone.
        let session = postgres::connect(self.dsn, self.application_name).await?;
        session
            .client
            .execute("SELECT pg_cancel_backend($1)", &[&pid])
            .await
            .map_err(|source| MakeSlotError::Cancel { slot: slot.clone(), source })?;
        match made.await {
            Ok(lsn) => {
                let drop = "SELECT pg_drop_replication_slot($1::text::name)";
                // The walsender may still hold the slot for a moment.
                let dropped = session.client.execute(drop, &[&slot.as_str()]).await;
                let slot = slot.clone();
                dropped.map_err(|source| MakeSlotError::Stays { slot, lsn, source })?;
            }
            Err(cancelled) => debug!(%cancelled, "the slot was not made"),
        }
        Ok(None)
    }

    async fn tell(&self, slot: &SlotName, pid: i32) -> Result<(), MakeSlotError> {
        let blockers = blockers::of(self.observer, pid).await;
        let observe = |source| MakeSlotError::Observe { slot: slot.clone(), source };
        for blocker in blockers.map_err(observe)? {
            warn!("slot {slot} waits for {blocker} to end; {} gives up", self.way_out);
        }
        Ok(())
    }
}
