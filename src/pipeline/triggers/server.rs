use tokio::time::timeout;

use crate::pipeline::{Error, INSPECTION_TIMEOUT};
use crate::postgres::Connection;

/// The server that the outbox is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// As `IDENTIFY_SYSTEM` gives it.
    pub(super) system: Box<str>,
    pub(super) timeline: u32,
}

impl Server {
    /// # Errors
    /// [`Error::Standby`] where nothing can be written.
    pub(super) async fn read(connection: &Connection) -> Result<Server, Error> {
        let query = connection.read(connection.client.query_typed_one(SERVER, &[]));
        let row = timeout(INSPECTION_TIMEOUT, query).await.map_err(|_| Error::InspectTimeout)?;
        let row = row.map_err(Error::Inspect)?;
        let system: i64 = row.try_get("system").map_err(Error::Inspect)?;
        let timeline: Option<i64> = row.try_get("timeline").map_err(Error::Inspect)?;
        let timeline = timeline.and_then(|timeline| u32::try_from(timeline).ok());
        Ok(Server {
            system: system.cast_unsigned().to_string().into(),
            timeline: timeline.ok_or(Error::Standby)?,
        })
    }
}

/// The timeline that is written to: the control file has the old one until the
/// first checkpoint after a promotion.
const SERVER: &str = "
SELECT system_identifier AS system,
       CASE WHEN NOT pg_is_in_recovery()
           THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint
       END AS timeline
FROM pg_control_system()";
