//! What the server allows, and how it is set up.

use std::time::Duration;

use tokio_postgres::{Client, Error};

/// The settings that decide whether and how changes can be streamed, as the
/// session of this client sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// For example 150008 for 15.8.
    pub version_num: u32,
    pub hosting: Hosting,
    pub database: Box<str>,
    /// The role that is logged in.
    pub role: Box<str>,
    /// Whether that role may stream: `REPLICATION`, or superuser, or a member of
    /// Amazon's `rds_replication`.
    pub may_replicate: bool,
    /// Whether it may see the replication of others: `pg_read_all_stats`.
    pub sees_replication: bool,
    pub wal_level: Box<str>,
    /// After how long without an answer the server drops a stream; `None`: never.
    pub wal_sender_timeout: Option<Duration>,
    /// How much log a slot may hold back, in bytes; `None`: until the disk is full.
    pub max_slot_wal_keep_size: Option<u64>,
    pub synchronous_standby_names: Box<str>,
    pub max_replication_slots: u32,
    pub max_wal_senders: u32,
    /// Slots that exist, of all databases.
    pub used_replication_slots: u32,
}

/// Who runs the server: it decides how a setting is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosting {
    /// Somebody who may use `ALTER SYSTEM`.
    Own,
    /// Amazon RDS and Aurora.
    Rds,
    /// Azure Database for PostgreSQL.
    Azure,
    /// Google Cloud SQL.
    CloudSql,
    Neon,
}

impl Server {
    pub const PG15: u32 = 150_000;
    pub const PG17: u32 = 170_000;
    pub const PG18: u32 = 180_000;

    /// Whether standbys can keep a logical slot, for the time after a failover.
    pub fn has_failover_slots(&self) -> bool {
        self.version_num >= Server::PG17
    }

    pub async fn read(client: &Client) -> Result<Server, Error> {
        let row = client.query_typed_one(SERVER, &[]).await?;
        let text = |column| row.try_get::<_, String>(column).map(String::into_boxed_str);
        let count = |column| row.try_get::<_, i64>(column).map(|n| u32::try_from(n).unwrap_or(0));
        let timeout_ms: i64 = row.try_get("wal_sender_timeout")?;
        let keep_mib: i64 = row.try_get("max_slot_wal_keep_size")?;
        let vendor = |column| row.try_get::<_, bool>(column);
        Ok(Server {
            version_num: count("version_num")?,
            hosting: match () {
                () if vendor("rds")? => Hosting::Rds,
                () if vendor("azure")? => Hosting::Azure,
                () if vendor("cloud_sql")? => Hosting::CloudSql,
                () if vendor("neon")? => Hosting::Neon,
                () => Hosting::Own,
            },
            database: text("database")?,
            role: text("role")?,
            may_replicate: row.try_get("may_replicate")?,
            sees_replication: row.try_get("sees_replication")?,
            wal_level: text("wal_level")?,
            wal_sender_timeout: u64::try_from(timeout_ms)
                .ok()
                .filter(|ms| *ms > 0)
                .map(Duration::from_millis),
            max_slot_wal_keep_size: u64::try_from(keep_mib).ok().map(|mib| mib << 20),
            synchronous_standby_names: text("synchronous_standby_names")?,
            max_replication_slots: count("max_replication_slots")?,
            max_wal_senders: count("max_wal_senders")?,
            used_replication_slots: count("used_replication_slots")?,
        })
    }
}

/// `pg_settings` gives numbers in each setting's base unit: milliseconds for
/// the timeout, megabytes for the size.
const SERVER: &str = "
SELECT max(setting) FILTER (WHERE name = 'server_version_num')::bigint AS version_num,
       max(setting) FILTER (WHERE name = 'wal_level') AS wal_level,
       max(setting) FILTER (WHERE name = 'wal_sender_timeout')::bigint AS wal_sender_timeout,
       max(setting) FILTER (WHERE name = 'max_slot_wal_keep_size')::bigint
           AS max_slot_wal_keep_size,
       max(setting) FILTER (WHERE name = 'synchronous_standby_names')
           AS synchronous_standby_names,
       max(setting) FILTER (WHERE name = 'max_replication_slots')::bigint
           AS max_replication_slots,
       max(setting) FILTER (WHERE name = 'max_wal_senders')::bigint AS max_wal_senders,
       bool_or(name LIKE 'rds.%') AS rds,
       bool_or(name LIKE 'azure.%') AS azure,
       bool_or(name LIKE 'cloudsql.%') AS cloud_sql,
       bool_or(name LIKE 'neon.%') AS neon,
       (SELECT count(*) FROM pg_replication_slots) AS used_replication_slots,
       current_database()::text AS database,
       session_user::text AS role,
       (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = session_user)
       OR EXISTS (
           SELECT FROM pg_roles r
           WHERE r.rolname = 'rds_replication' AND pg_has_role(session_user, r.oid, 'USAGE')
       ) AS may_replicate,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_replication
FROM pg_settings
";
