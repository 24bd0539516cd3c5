//! The server, whatever the rules are.

use tokio_postgres::{Client, Error, Row};

use super::report::Check;
use crate::postgres::blockers::{self, Blocker};
use crate::postgres::server::Server;
use crate::postgres::slot::Slot;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::{Capture, quote_identifier};

/// The oldest that has what rowcast needs: messages in the stream.
const OLDEST_VERSION: i32 = 140_000;
/// Whose slots can be read on a standby.
const STANDBY_VERSION: i32 = 160_000;
/// From here on a transaction is old, in seconds.
const OLD_S: i64 = 300;
/// As much log is kept for a moment anyway, whoever looks on.
const SLACK_BYTES: u64 = 64 << 20;

/// What a server of any version answers.
pub(super) async fn identify(client: &Client, capture: Capture) -> Result<Check, Error> {
    let row: Row = client.query_typed_one(IDENTIFY, &[]).await?;
    Ok(server(row.try_get("version")?, row.try_get("is_standby")?, capture))
}

const IDENTIFY: &str = "
    SELECT current_setting('server_version_num')::int AS version,
           pg_is_in_recovery() AS is_standby";

fn server(version: i32, is_standby: bool, capture: Capture) -> Check {
    const NAME: &str = "server";
    let kind = if is_standby { "a standby" } else { "a primary" };
    let found = format!("Postgres {}.{}, {kind}", version / 10_000, version % 10_000);
    let primary = || {
        "the primary's address in [database] url, or those of all and \
         target_session_attrs=read-write"
            .to_owned()
    };
    match (version, is_standby, capture) {
        (..OLDEST_VERSION, ..) => {
            let fix = "upgrade Postgres to 14 or later".to_owned();
            Check::fails(NAME, format!("{found}: too old for rowcast"), fix)
        }
        (_, true, Capture::Triggers) => {
            Check::fails(NAME, format!("{found}: the outbox cannot be emptied there"), primary())
        }
        (..STANDBY_VERSION, true, Capture::Wal) => {
            let why = "a standby has slots only from Postgres 16 on";
            Check::fails(NAME, format!("{found}: {why}"), primary())
        }
        _ => Check::holds(NAME, found),
    }
}

/// Places for slots and for those who stream, of the whole cluster.
pub(super) async fn places(client: &Client, server: &Server) -> Result<Check, Error> {
    const NAME: &str = "slots and senders";
    const SENDERS: &str = "SELECT count(*) FROM pg_stat_replication";
    let senders: i64 = client.query_typed_one(SENDERS, &[]).await?.try_get(0)?;
    let Server { used_replication_slots, max_replication_slots, max_wal_senders, .. } = server;
    let found = format!(
        "{used_replication_slots} of {max_replication_slots} slots and {senders} of \
         {max_wal_senders} senders are in use"
    );
    Ok(match senders >= i64::from(*max_wal_senders) {
        false => Check::holds(NAME, found),
        true => Check::advice(
            NAME,
            format!("{found}: none is left for whoever comes next"),
            format!(
                "ALTER SYSTEM SET max_wal_senders = {};   -- then restart Postgres",
                max_wal_senders + 10
            ),
        ),
    })
}

/// What keeps the server from letting go of what rowcast is done with.
pub(super) async fn old_transactions(
    client: &Client,
    snapshot: &Snapshot,
    capture: Capture,
) -> Result<Check, Error> {
    let oldest = blockers::oldest_writer(client).await?;
    let kept = match capture {
        Capture::Wal => Kept::Log(snapshot.slot.as_ref().map_or(0, kept_bytes)),
        Capture::Triggers => Kept::Rows,
    };
    Ok(judge(oldest.as_ref(), kept, &snapshot.server.role))
}

/// What an old transaction keeps.
#[derive(Clone, Copy, Debug)]
enum Kept {
    /// So many bytes of log that are delivered.
    Log(u64),
    Rows,
}

fn kept_bytes(slot: &Slot) -> u64 {
    let (Some(restart), Some(confirmed)) = (slot.restart_lsn, slot.confirmed_flush_lsn) else {
        return 0;
    };
    u64::from(confirmed).saturating_sub(restart.into())
}

fn judge(oldest: Option<&Blocker>, kept: Kept, role: &str) -> Check {
    const NAME: &str = "old transactions";
    let none_is_old = || Check::holds(NAME, format!("none is older than {} min", OLD_S / 60));
    let Some(oldest) = oldest else { return none_is_old() };
    let what = match kept {
        Kept::Log(_) => "no slot lets go of the log since it began",
        Kept::Rows => "what is deleted from the outbox stays on disk until it ends",
    };
    let is_old = || {
        Check::advice(NAME, format!("{oldest}: {what}"), format!("end it: {}", oldest.end_sql()))
    };
    match (oldest.age_s, kept) {
        (Some(OLD_S..), _) | (None, Kept::Log(SLACK_BYTES..)) => is_old(),
        (Some(_), _) => none_is_old(),
        (None, Kept::Log(_)) => Check::holds(NAME, "none keeps much log from being removed"),
        (None, Kept::Rows) => Check::unknown(
            NAME,
            format!(
                "{role} may not see how old they are. To see it: GRANT pg_read_all_stats TO {}",
                quote_identifier(role)
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_serve_fails() {
        for (version, is_standby, capture, is_failure) in [
            (130_022, false, Capture::Wal, true),
            (140_000, false, Capture::Wal, false),
            (150_008, true, Capture::Wal, true),
            (160_000, true, Capture::Wal, false),
            (180_000, true, Capture::Triggers, true),
            (140_000, false, Capture::Triggers, false),
        ] {
            let check = server(version, is_standby, capture);
            assert_eq!(check.is_failure(), is_failure, "{check:?}");
        }
    }

    #[test]
    fn an_old_transaction_is_told_with_what_ends_it() {
        let told = |age_s, kept| {
            let check = judge(Some(&Blocker::prepared("it's", age_s)), kept, "rowcast");
            format!("{check:?}")
        };
        assert!(told(Some(299), Kept::Log(u64::MAX)).contains("none is older than 5 min"));
        let old = told(Some(300), Kept::Rows);
        assert!(old.contains("ROLLBACK PREPARED 'it''s';") && old.contains("300 s"), "{old}");
        assert!(told(None, Kept::Rows).contains("GRANT pg_read_all_stats TO"));
        assert!(told(None, Kept::Log(SLACK_BYTES - 1)).contains("none keeps much log"));
        assert!(told(None, Kept::Log(SLACK_BYTES)).contains("COMMIT PREPARED"));
    }
}
