use tracing::{error, info};

use super::continuity::Server;
use super::failed;
use crate::change::Position;
use crate::config::OnSlotLoss;
use crate::failpoint;
use crate::notification::Reason;
use crate::pipeline::inspection::Inspection;
use crate::pipeline::opening::Opened;
use crate::pipeline::{Error, Pipeline, Refused, keeper};
use crate::postgres::{self, Connection};
use crate::source::wal::Maker;
use crate::source::wal::connection::{Persistence, ReplicationConnection};
use crate::state::{Owed, State, StateFile};

/// The slot is lost, and is to be made again.
pub(in crate::pipeline) struct SlotGone {
    pub(super) connection: Connection,
    pub(super) replication: ReplicationConnection,
    pub(super) inspection: Inspection,
    /// Why nothing can stream.
    pub(super) refused: Refused,
    pub(super) file: StateFile,
    pub(super) state: Option<State>,
    pub(super) server: Server,
    pub(super) failover: bool,
}

impl SlotGone {
    pub(super) fn opened(self, on_slot_loss: OnSlotLoss) -> Result<Opened, Error> {
        // A slot that nobody made is for `setup` to make.
        if self.state.is_none() && !self.inspection.has_slot() {
            return Err(self.refused.into());
        }
        match on_slot_loss {
            OnSlotLoss::Resync => Ok(Opened::SlotGone(Box::new(self))),
            OnSlotLoss::Stop => Err(Error::SlotLost(self.refused)),
        }
    }
}

impl Pipeline<'_> {
    /// Makes the lost slot again, once it is recorded that every rule is owed a
    /// resync. `false` if `stopped` came first.
    pub(in crate::pipeline) async fn remake(
        &mut self,
        gone: Box<SlotGone>,
        stopped: impl Future<Output = ()>,
    ) -> Result<bool, Error> {
        let SlotGone {
            connection,
            mut replication,
            inspection,
            refused,
            file,
            state,
            server,
            failover,
        } = *gone;
        refused.tell();
        let slot = &self.options.database.slot;
        error!("slot {slot} is made again, and every page is told to fetch again");
        self.options.observer.is_broken(format!("slot {slot} was lost and is made again"));
        let recorded = state.unwrap_or_else(|| State {
            system: server.system.clone(),
            timeline: server.timeline,
            slot: slot.as_str().into(),
            position: Position::default(),
            parts: inspection.parts(),
            owed: Owed::default(),
        });
        let mut owed = recorded.owed.clone();
        owed.add(self.all(Reason::Slot));
        keeper::write(&file, &State { owed, ..recorded }).await?;
        failpoint::reached("loss-recorded");
        if inspection.has_slot() {
            replication.drop_slot(slot).await.map_err(failed)?;
            failpoint::reached("slot-dropped");
        }
        let dsn = self.options.database.dsn().only(&connection.host);
        let maker = Maker {
            dsn: &dsn,
            application_name: postgres::APPLICATION_NAME,
            persistence: match failover {
                true => Persistence::Failover,
                false => Persistence::Permanent,
            },
            observer: &connection.client,
            way_out: "SIGTERM",
        };
        let made = maker.make(replication, slot, stopped).await?;
        failpoint::reached("slot-created");
        if let Some(lsn) = made {
            info!("slot {slot} keeps changes from {lsn} on");
        }
        Ok(made.is_some())
    }
}
