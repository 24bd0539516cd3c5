//! The server, whatever the rules are.

use tokio_postgres::{Client, Error, Row};

use super::report::Check;
use crate::postgres::Capture;
use crate::postgres::blockers::{self, Blocker};
use crate::postgres::server::Server;

/// The oldest that has what rowcast needs: messages in the stream.
const OLDEST_VERSION: i32 = 140_000;
/// Whose slots can be read on a standby.
const STANDBY_VERSION: i32 = 160_000;
/// From here on a transaction is old, in seconds.
const OLD_S: i64 = 300;

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
    role: &str,
    capture: Capture,
) -> Result<Check, Error> {
    Ok(oldest(blockers::oldest_writer(client).await?.as_ref(), role, capture))
}

fn oldest(writer: Option<&Blocker>, role: &str, capture: Capture) -> Check {
    const NAME: &str = "old transactions";
    let none_is_old = || Check::holds(NAME, format!("none is older than {} min", OLD_S / 60));
    let Some(writer) = writer else { return none_is_old() };
    let what = match capture {
        Capture::Wal => "no slot lets go of the log since it began",
        Capture::Triggers => "what is deleted from the outbox stays on disk until it ends",
    };
    match writer.age_s {
        None => Check::unknown(
            NAME,
            format!(
                "{writer} is open, and {role} may not see for how long. To see it: GRANT \
                 pg_read_all_stats TO {role}"
            ),
        ),
        Some(OLD_S..) => Check::advice(
            NAME,
            format!("{writer}: {what}"),
            format!("end it: {}", writer.end_sql()),
        ),
        Some(_) => none_is_old(),
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
        let told = |age_s| {
            let check = oldest(Some(&Blocker::prepared("it's", age_s)), "rowcast", Capture::Wal);
            format!("{check:?}")
        };
        assert!(told(Some(299)).contains("none is older than 5 min"));
        let old = told(Some(300));
        assert!(old.contains("COMMIT PREPARED 'it''s';") && old.contains("300 s"), "{old}");
        assert!(told(None).contains("GRANT pg_read_all_stats TO rowcast"));
    }
}
