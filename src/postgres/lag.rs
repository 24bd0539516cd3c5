//! How far the slot is behind the log.

use tokio_postgres::types::{PgLsn, Type};
use tokio_postgres::{Client, Error, Row};

use super::SlotName;
use crate::change::Lsn;

/// Three places in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// The end of the log; on a standby, of what it has replayed.
    pub end: Lsn,
    pub confirmed: Lsn,
    /// From here on it is kept, since a transaction that began here was open
    /// where the slot is confirmed.
    pub restart: Lsn,
}

impl Lag {
    pub fn unconfirmed_bytes(self) -> u64 {
        u64::from(self.end).saturating_sub(self.confirmed.into())
    }

    pub fn retained_bytes(self) -> u64 {
        u64::from(self.end).saturating_sub(self.restart.into())
    }
}

/// Of the slot of that name, if there is one with a position.
pub async fn read(client: &Client, slot: &SlotName) -> Result<Option<Lag>, Error> {
    let Some(row) = client.query_typed_opt(LAG, &[(&slot.as_str(), Type::TEXT)]).await? else {
        return Ok(None);
    };
    let lag = Lag {
        end: lsn(&row, "end_lsn")?,
        confirmed: lsn(&row, "confirmed_flush_lsn")?,
        restart: lsn(&row, "restart_lsn")?,
    };
    Ok(Some(lag))
}

fn lsn(row: &Row, column: &str) -> Result<Lsn, Error> {
    Ok(u64::from(row.try_get::<_, PgLsn>(column)?).into())
}

const LAG: &str = "
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
            ELSE pg_current_wal_flush_lsn() END AS end_lsn,
       confirmed_flush_lsn, restart_lsn
FROM pg_replication_slots
WHERE slot_name::text = $1 AND confirmed_flush_lsn IS NOT NULL AND restart_lsn IS NOT NULL
";
