//! Letting go of log: what is committed until now is told by resyncs.

use tracing::{info, warn};

use super::{end_of_log, failed, identify, log};
use crate::change::{Lsn, Position};
use crate::failpoint;
use crate::notification::Reason;
use crate::pipeline::inspection::Inspection;
use crate::pipeline::{Error, Pipeline, Shed, Wal};
use crate::postgres::{self, Connection, SlotName, lag, slot};
use crate::source::wal::connection::ReplicationConnection;

impl Pipeline<'_> {
    /// Lets go of log beyond `max_retained_wal` while nothing streams any more, or
    /// no session lasts: nobody else would.
    pub(super) async fn relieve(
        &self,
        wal: &Wal,
        connection: &Connection,
        inspection: &Inspection,
    ) {
        if self.options.state.is_none() {
            return;
        }
        if let Err(error) = self.try_relieve(wal, connection, inspection).await {
            let error = error.in_full();
            warn!("{error}: the slot goes on keeping log, up to max_slot_wal_keep_size");
        }
    }

    async fn try_relieve(
        &self,
        wal: &Wal,
        connection: &Connection,
        inspection: &Inspection,
    ) -> Result<(), Error> {
        let (client, name) = (&connection.client, wal.slot.name());
        let slot = slot::read(client, name).await.map_err(Error::Inspect)?;
        // Who has it bounds it.
        if slot.is_none_or(|slot| slot.active_pid.is_some()) {
            return Ok(());
        }
        let Some(lag) = lag::read(client, name).await.map_err(Error::Inspect)? else {
            return Ok(());
        };
        let lag_bytes = lag.unconfirmed_bytes();
        let max_bytes =
            log::max_retained(wal.max_retained_wal, inspection.max_slot_wal_keep_size());
        if lag_bytes <= max_bytes {
            return Ok(());
        }
        // A reconnect may have come to another server, whose slot is not ours.
        let dsn = self.options.database.dsn().only(&connection.host);
        let mut replication = ReplicationConnection::connect(&dsn, postgres::APPLICATION_NAME)
            .await
            .map_err(failed)?;
        let recorded = self.load().await?;
        let server = identify(&mut replication, recorded.as_ref()).await?;
        self.refuse_other_system(recorded.as_ref(), &server.system)?;
        let end = self.owe_and_pass_over(name, connection, Reason::Shed).await?;
        slot::advance(client, name, end).await.map_err(Error::Inspect)?;
        Error::from(Shed { lag_bytes, max_bytes }).tell_made_up_for();
        Ok(())
    }

    /// Records that what is committed until now is told by resyncs, and returns
    /// where to go on.
    pub(super) async fn owe_and_pass_over(
        &self,
        slot: &SlotName,
        connection: &Connection,
        reason: Reason,
    ) -> Result<Lsn, Error> {
        let start = end_of_log(connection, slot).await?;
        if let Some(mut state) = self.load().await? {
            state.owed.add(self.all(reason));
            state.position = Position::new(start.into());
            self.record(&state).await;
        }
        failpoint::reached("shed-recorded");
        info!("going on from {start}");
        Ok(start)
    }
}
