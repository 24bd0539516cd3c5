//! Whether there is a session with the database, and whose.

use std::net::IpAddr;

use tokio_postgres::Error;

use super::report::{Check, Report};
use crate::chain;
use crate::postgres::{
    Address, Config, ConnectError, Connection, Dsn, Tenure, connect_alone, connect_as,
};
use crate::source::wal::connection::ReplicationConnection;

/// What the sessions are called in `pg_stat_activity`.
const SESSION_NAME: &str = "rowcast doctor";

/// A session, by which all else is looked at.
pub(super) async fn connect(database: &Config, report: &mut Report) -> Option<Connection> {
    let (dsn, tenure) = (database.dsn(), database.tenure());
    let connected = match tenure {
        Tenure::Session => connect_alone(&dsn, SESSION_NAME).await,
        Tenure::Transaction => connect_as(&dsn, SESSION_NAME, tenure).await,
    };
    let (connected, pooled) = match connected {
        // All that is looked at can be seen through a pooler too.
        Err(pooled @ ConnectError::Pooled { .. }) => {
            (connect_as(&dsn, SESSION_NAME, Tenure::Transaction).await, Some(pooled))
        }
        connected => (connected, None),
    };
    let connection = match connected {
        Ok(connection) => connection,
        Err(error) => {
            report.add(Check::fails("connection", chain::line(&error), error.hint()));
            report.add(Check::unknown("all else", "it takes a connection to look at"));
            return None;
        }
    };
    report.add(match how_connected(&connection).await {
        Ok(check) => check,
        Err(error) => Check::fails("connection", chain::line(&error), None),
    });
    report.add(match (pooled, tenure) {
        (Some(pooled), _) => Check::fails("pooler", pooled.to_string(), pooled.hint()),
        (None, Tenure::Session) => Check::holds("pooler", "none that takes sessions away"),
        (None, Tenure::Transaction) => {
            Check::holds("pooler", "may be in between: with wake = \"poll\" no session must stay")
        }
    });
    Some(connection)
}

async fn how_connected(connection: &Connection) -> Result<Check, Error> {
    const SESSION: &str = "
        SELECT session_user::text AS role, current_database()::text AS database,
               (SELECT s.version FROM pg_stat_ssl s WHERE s.pid = pg_backend_pid()) AS tls";
    let row = connection.read(connection.client.query_typed_one(SESSION, &[])).await?;
    let (role, database): (&str, &str) = (row.try_get("role")?, row.try_get("database")?);
    let tls: Option<&str> = row.try_get("tls")?;
    let host = &connection.host;
    let found = format!("{host}, database {database}, as {role}");
    let is_near = match &host.address {
        Address::Unix(_) => return Ok(Check::holds("connection", found)),
        Address::Fixed { ip, .. } => ip.is_loopback(),
        Address::Name(name) => name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
    };
    Ok(match (tls, is_near) {
        (Some(version), _) => Check::holds("connection", format!("{found}, {version}")),
        (None, true) => Check::holds("connection", format!("{found}, without TLS")),
        (None, false) => Check::advice(
            "connection",
            format!("{found}, without TLS: whoever is on the way can read the rows"),
            "ssl = on at the server; sslmode=verify-full and sslrootcert in [database] url"
                .to_owned(),
        ),
    })
}

/// Whether pg_hba.conf, the role and the limits let changes be streamed: by trying.
pub(super) async fn replication(connection: &Connection, dsn: Dsn) -> Check {
    const NAME: &str = "replication login";
    // All is said of the server that answered.
    let dsn = dsn.only(&connection.host);
    match ReplicationConnection::connect(&dsn, SESSION_NAME).await {
        Ok(_) => Check::holds(NAME, "works: pg_hba.conf, the role and the limits allow it"),
        Err(error) => Check::fails(NAME, chain::line(&error), error.hint()),
    }
}
