//! The database: whether it can be reached, and has all that the rules need.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Error;

use super::report::{Check, Report};
use super::topic::{Looked, Topic};
use crate::chain;
use crate::config::Loaded;
use crate::pipeline::{Instances, Judgement};
use crate::postgres::{
    Address, Capture, Config, ConnectError, Connection, Tenure, connect_alone, connect_as,
};
use crate::route::Rules;
use crate::source::wal::connection::ReplicationConnection;

/// What the sessions are called in `pg_stat_activity`.
const SESSION_NAME: &str = "rowcast doctor";
/// For the catalogs, which a lock may keep from being read.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The oldest that has what rowcast needs: messages in the stream.
const OLDEST_VERSION: i32 = 140_000;

pub(super) async fn check(loaded: &Loaded, rules: &Rules, report: &mut Report) {
    report.section("database");
    let database = &loaded.config.database;
    let Some(connection) = connect(database, report).await else { return };
    let Ok(looked) = timeout(ANSWER_WITHIN, look(&connection, loaded, rules, report)).await else {
        let why = format!("no answer in {} s: is a catalog locked?", ANSWER_WITHIN.as_secs());
        report.add(Check::fails("catalog", why, None));
        return;
    };
    if let Err(error) = looked {
        report.add(Check::fails("catalog", chain::line(&error), None));
    }
}

/// A session, by which all else is looked at.
async fn connect(database: &Config, report: &mut Report) -> Option<Connection> {
    let (dsn, tenure) = (database.dsn(), database.tenure());
    let connected = match tenure {
        Tenure::Session => connect_alone(&dsn, SESSION_NAME).await,
        Tenure::Transaction => connect_as(&dsn, SESSION_NAME, tenure).await,
    };
    let (connection, pooled) = match connected {
        Ok(connection) => (connection, None),
        Err(pooled @ ConnectError::Pooled { .. }) => {
            match connect_as(&dsn, SESSION_NAME, Tenure::Transaction).await {
                Ok(connection) => (connection, Some(pooled)),
                Err(error) => return no_connection(&error, report),
            }
        }
        Err(error) => return no_connection(&error, report),
    };
    match how_connected(&connection).await {
        Ok(check) => report.add(check),
        Err(error) => report.add(Check::fails("connection", chain::line(&error), None)),
    }
    report.add(match (pooled, tenure) {
        (Some(pooled), _) => Check::fails("pooler", pooled.to_string(), pooled.hint()),
        (None, Tenure::Session) => Check::holds("pooler", "none: each session stays ours"),
        (None, Tenure::Transaction) => {
            Check::holds("pooler", "one may be between: wake = \"poll\" needs no session")
        }
    });
    Some(connection)
}

fn no_connection(error: &ConnectError, report: &mut Report) -> Option<Connection> {
    report.add(Check::fails("connection", chain::line(error), error.hint()));
    report.add(Check::unknown("all else", "it takes a connection to look at"));
    None
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
            format!("{found}, without TLS: rows can be read, and changed, on the way"),
            "sslmode=verify-full in [database] url, with sslrootcert; ssl = on at the server"
                .to_owned(),
        ),
    })
}

async fn look(
    connection: &Connection,
    loaded: &Loaded,
    rules: &Rules,
    report: &mut Report,
) -> Result<(), Error> {
    let config = &loaded.config;
    // First: an older server may not understand the other questions.
    let client = &connection.client;
    let row = connection.read(client.query_typed_one(VERSION, &[])).await?;
    let check = version(row.try_get("number")?, row.try_get("text")?);
    let is_known = !check.is_failure();
    report.add(check);
    if !is_known {
        return Ok(());
    }
    if config.database.capture == Capture::Wal {
        stream(connection, &config.database, report).await?;
    }
    let instances = Instances { takeover: config.run.takeover, failover: config.run.failover };
    let judged = Judgement::read(client, &config.database, rules, instances);
    let judged = connection.read(Box::pin(judged)).await?;
    let looked = Looked { config, rules, judged: &judged };
    for check in Topic::ALL.into_iter().flat_map(|topic| topic.checks(looked)) {
        report.add(check);
    }
    Ok(())
}

const VERSION: &str = "
    SELECT current_setting('server_version_num')::int AS number,
           current_setting('server_version') AS text";

fn version(number: i32, text: &str) -> Check {
    match number {
        OLDEST_VERSION.. => Check::holds("version", format!("Postgres {text}")),
        _ => Check::fails(
            "version",
            format!("Postgres {text} is older than 14, which rowcast needs"),
            "upgrade Postgres".to_owned(),
        ),
    }
}

/// Whether pg_hba.conf, the role and the limits let changes be streamed: by trying.
async fn stream(
    connection: &Connection,
    database: &Config,
    report: &mut Report,
) -> Result<(), Error> {
    let dsn = database.dsn().only(&connection.host);
    report.add(match ReplicationConnection::connect(&dsn, SESSION_NAME).await {
        Ok(_) => Check::holds("replication login", "pg_hba.conf, the role and the limits allow it"),
        Err(error) => Check::fails("replication login", chain::line(&error), error.hint()),
    });
    Ok(())
}
