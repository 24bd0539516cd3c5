//! The replication slot: what the server keeps log for.

use tokio_postgres::types::{PgLsn, Type};
use tokio_postgres::{Client, Error};

use crate::change::Lsn;

use super::SlotName;

/// A row of `pg_replication_slots`.
/// <https://www.postgresql.org/docs/current/view-pg-replication-slots.html>
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// `None` for a physical slot, as is `database`.
    pub plugin: Option<Box<str>>,
    pub database: Option<Box<str>>,
    /// The backend that streams from it now.
    pub active_pid: Option<i32>,
    /// That backend's `application_name`.
    pub active_application: Option<Box<str>>,
    pub temporary: bool,
    /// From where the server keeps log. `None`: not yet made, or invalidated.
    pub restart_lsn: Option<Lsn>,
    /// Everything below was delivered.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `None` as `restart_lsn`.
    pub wal_status: Option<WalStatus>,
    /// How much more log may be written before the slot is lost, in bytes;
    /// `None` if there is no limit, or the slot is lost. Negative past the limit.
    pub safe_wal_size: Option<i64>,
    /// How much log is kept for the slot now, in bytes.
    pub retained_bytes: Option<i64>,
    /// Why it was invalidated, from Postgres 16.
    pub invalidation_reason: Option<Box<str>>,
    /// Synchronised to standbys, from Postgres 17.
    pub failover: bool,
}

/// Whether the log that the slot needs is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    Reserved,
    /// More than `max_wal_size`, all of it kept.
    Extended,
    /// Over `max_slot_wal_keep_size`: the next checkpoint may remove it.
    Unreserved,
    /// Removed. Nothing can be read from the slot again.
    Lost,
}

impl Slot {
    pub fn is_lost(&self) -> bool {
        self.wal_status == Some(WalStatus::Lost) || self.invalidation_reason.is_some()
    }
}

/// The slot of that name, if there is one.
pub async fn read(client: &Client, name: &SlotName) -> Result<Option<Slot>, Error> {
    let Some(row) = client.query_typed_opt(SLOT, &[(&name.as_str(), Type::TEXT)]).await? else {
        return Ok(None);
    };
    let text =
        |column| Ok::<_, Error>(row.try_get::<_, Option<String>>(column)?.map(Box::<str>::from));
    let lsn = |column| {
        Ok::<_, Error>(row.try_get::<_, Option<PgLsn>>(column)?.map(|lsn| u64::from(lsn).into()))
    };
    Ok(Some(Slot {
        plugin: text("plugin")?,
        database: text("database")?,
        active_pid: row.try_get("active_pid")?,
        active_application: text("active_application")?,
        temporary: row.try_get("temporary")?,
        restart_lsn: lsn("restart_lsn")?,
        confirmed_flush_lsn: lsn("confirmed_flush_lsn")?,
        wal_status: match row.try_get::<_, Option<&str>>("wal_status")? {
            None => None,
            Some("reserved") => Some(WalStatus::Reserved),
            Some("extended") => Some(WalStatus::Extended),
            Some("unreserved") => Some(WalStatus::Unreserved),
            Some(_) => Some(WalStatus::Lost),
        },
        safe_wal_size: row.try_get("safe_wal_size")?,
        retained_bytes: row.try_get("retained_bytes")?,
        invalidation_reason: text("invalidation_reason")?,
        failover: row.try_get("failover")?,
    }))
}

/// Confirms up to `to` what nobody has read, while nobody streams from the slot.
pub async fn advance(client: &Client, slot: &SlotName, to: Lsn) -> Result<(), Error> {
    let to = PgLsn::from(u64::from(to));
    client
        .execute_typed(
            "SELECT pg_replication_slot_advance($1::text::name, $2)",
            &[(&slot.as_str(), Type::TEXT), (&to, Type::PG_LSN)],
        )
        .await?;
    Ok(())
}

/// Columns that only newer servers have are taken by way of JSON, which gives
/// NULL for an unknown key. `conflicting` is Postgres 16's word for a reason.
const SLOT: &str = "
SELECT s.plugin::text, s.database::text, s.active_pid, s.temporary,
       s.restart_lsn, s.confirmed_flush_lsn, s.wal_status, s.safe_wal_size,
       (pg_wal_lsn_diff(
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                ELSE pg_current_wal_lsn() END,
           s.restart_lsn))::bigint AS retained_bytes,
       coalesce(
           to_jsonb(s) ->> 'invalidation_reason',
           CASE WHEN (to_jsonb(s) ->> 'conflicting')::boolean THEN 'conflict' END
       ) AS invalidation_reason,
       coalesce((to_jsonb(s) ->> 'failover')::boolean, false) AS failover,
       a.application_name AS active_application
FROM pg_replication_slots s
LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
WHERE s.slot_name::text = $1
";
