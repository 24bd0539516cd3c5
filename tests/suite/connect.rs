//! Reaching Postgres: every way to log in, the switch to the stream, and what an operator is told when it fails.

use std::{fs, os::unix::fs::PermissionsExt as _};

use rowcast::change::Lsn;
use rowcast::postgres::{self, ConnectError, DialError, Dsn};
use rowcast::source::wal::connection::{CopyBoth, Error, Persistence, ReplicationConnection};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::harness::{
    cluster::{Cluster, Stop, Version, on_every_version},
    database::Database,
    scratch,
    wait::{SOON, eventually},
};

const NAME: &str = "rowcast_test";

fn dsn(text: &str) -> Dsn {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Logs in both ways and returns whether both sessions are encrypted, as the server sees it.
async fn log_in(text: &str) -> Result<bool, ConnectError> {
    const QUERY: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    let dsn = dsn(text);
    let ordinary = match postgres::connect(&dsn, NAME).await {
        Ok(session) => Ok(session
            .client
            .query_one(QUERY, &[])
            .await
            .expect("it may be asked")
            .get::<_, bool>(0)),
        Err(error) => Err(error),
    };
    let replication = match ReplicationConnection::connect(&dsn, NAME).await {
        Ok(mut session) => {
            let rows = session.query(QUERY).await.expect("it may be asked");
            Ok(rows[0][0].as_deref() == Some("t"))
        }
        Err(Error::Connect(error)) => Err(error),
        Err(error) => panic!("{text}: {error:?}"),
    };
    match (&ordinary, &replication) {
        (Ok(one), Ok(other)) => assert_eq!(one, other, "{text}"),
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string(), "{text}"),
        _ => panic!("{text}: {ordinary:?}, but {replication:?}"),
    }
    replication
}

pub(crate) async fn expect_login(text: &str) -> bool {
    log_in(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

pub(crate) async fn expect_refusal(text: &str) -> ConnectError {
    match log_in(text).await {
        Ok(_) => panic!("{text}: logged in"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn every_password_method_works_and_a_wrong_password_is_named() {
    let cluster = Cluster::start(Version::DEFAULT, &[]).await;
    cluster
        .psql(
            "postgres",
            "create role clear login replication password 'p:w@\\';
             create role scram login replication password 'p:w@\\';
             set password_encryption = 'md5';
             create role md5 login replication password 'p:w@\\';",
        )
        .await;
    cluster
        .set_hba(
            "local all all trust\nhost all postgres all trust\nhost all clear all password\n\
             host all md5 all md5\nhost all scram all scram-sha-256\n",
        )
        .await;
    let folder = scratch::folder("pgpass");
    let passfile = folder.path().join("pgpass");
    fs::write(&passfile, r"*:*:*:*:p\:w@\\").expect("the folder is ours");
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).expect("the file is ours");

    for user in ["clear", "md5", "scram"] {
        let at = format!("127.0.0.1:{}/postgres", cluster.port());
        expect_login(&format!("postgres://{user}:p%3Aw%40%5C@{at}")).await;
        expect_login(&format!("postgres://{user}@{at}?passfile={}", passfile.display())).await;

        let wrong = expect_refusal(&format!("postgres://{user}:no@{at}")).await;
        assert!(matches!(wrong, ConnectError::WrongPassword { .. }), "{wrong:?}");
        assert_eq!(wrong.code().map(|code| code.code()), Some("28P01"));
        assert!(!wrong.is_transient());
        let none = expect_refusal(&format!("postgres://{user}@{at}?passfile=/absent")).await;
        assert!(matches!(none, ConnectError::NoPassword { .. }), "{none:?}");
        let unbound = format!("postgres://{user}:p%3Aw%40%5C@{at}?channel_binding=require");
        let error = postgres::connect(&dsn(&unbound), NAME).await.err();
        assert!(matches!(error, Some(ConnectError::Client { .. })), "{error:?}");
        let error = ReplicationConnection::connect(&dsn(&unbound), NAME).await.err();
        assert!(
            matches!(error, Some(Error::Connect(ConnectError::NoChannelBinding { .. }))),
            "{error:?}"
        );
    }
    expect_login(&cluster.url("postgres")).await;
    assert!(!expect_login(&(cluster.socket_url("postgres") + "?sslmode=require")).await);
}

#[tokio::test]
async fn the_first_host_that_answers_is_taken() {
    let cluster = Cluster::start(Version::DEFAULT, &[]).await;
    let (closed, open) = (scratch::free_port(), cluster.port());
    for hosts in [
        format!("127.0.0.1:{closed},127.0.0.1:{open}"),
        format!("%2Fabsent,127.0.0.1:{open}"),
        format!("no-such-host.invalid,127.0.0.1:{open}"),
    ] {
        expect_login(&format!("postgres://postgres@{hosts}/postgres")).await;
    }
    let error = expect_refusal(&format!("postgres://postgres@127.0.0.1:{closed}/postgres")).await;
    assert!(matches!(error, ConnectError::Dial(DialError::Connect { .. })), "{error:?}");
    assert!(error.is_transient());
    // A refused login is not tried elsewhere: it would be refused there too.
    let hosts = format!("127.0.0.1:{open},127.0.0.1:{closed}");
    let error = expect_refusal(&format!("postgres://postgres@{hosts}/absent")).await;
    assert!(matches!(error, ConnectError::NoSuchDatabase { .. }), "{error:?}");
    let standby = format!("postgres://postgres@127.0.0.1:{open}/postgres?target_session_attrs=");
    expect_login(&(standby.clone() + "read-write")).await;
    let error = expect_refusal(&(standby + "standby")).await;
    assert!(matches!(error, ConnectError::WrongSession { .. }), "{error:?}");
}

#[tokio::test]
async fn a_second_session_stays_with_the_server_that_the_first_one_took() {
    let first = Cluster::start(Version::DEFAULT, &[]).await;
    let second = Cluster::start(Version::DEFAULT, &[]).await;
    let (one, other) = (first.port(), second.port());
    let both = dsn(&format!("postgres://postgres@localhost:{one},localhost:{other}/postgres"));
    first.stop(Stop::Fast).await;
    let session = postgres::connect(&both, NAME).await.expect("the second host answers");
    assert_eq!(session.host.to_string(), format!("localhost:{other}"));

    first.start_again().await;
    let port_of = async |dsn: &Dsn| {
        let mut session = ReplicationConnection::connect(dsn, NAME).await.expect("both answer");
        session.query("SHOW port").await.expect("it may be asked")[0][0].clone()
    };
    assert_eq!(port_of(&both).await, Some(one.to_string()));
    assert_eq!(port_of(&both.clone().only(&session.host)).await, Some(other.to_string()));
    drop(session);
    first.stop(Stop::Fast).await;
    second.stop(Stop::Fast).await;
}

/// Reads until the stream holds `wanted`.
async fn read_until(streaming: &mut CopyBoth, wanted: &[u8]) {
    let reading = async {
        while !streaming.inbox.windows(wanted.len()).any(|window| window == wanted) {
            let read =
                streaming.stream.read_buf(&mut streaming.inbox).await.expect("it is connected");
            assert_ne!(read, 0, "the stream ended");
        }
    };
    let arrived = timeout(SOON, reading).await;
    let (wanted, inbox) =
        (String::from_utf8_lossy(wanted), String::from_utf8_lossy(&streaming.inbox));
    assert!(arrived.is_ok(), "{wanted} does not arrive, but {inbox:?}");
}

on_every_version! {
    async fn a_slot_streams_changes_in_settings_of_ours(version: Version) {
        let database = Database::on(version).await;
        database
            .psql(&format!(
                r#"create table posts (id int primary key, at timestamptz, took interval, ratio float8, raw bytea);
                   create publication "My ""Shop's""" for table posts;
                   create role {0} superuser login;
                   alter role {0} set datestyle = 'German';
                   alter role {0} set timezone = 'America/New_York';
                   alter role {0} set intervalstyle = 'iso_8601';
                   alter role {0} set extra_float_digits = 0;
                   alter role {0} set bytea_output = 'escape';"#,
                database.slot(),
            ))
            .await;
        let role = database.slot();
        let dsn = dsn(&database.url().replace("postgres@", &format!("{role}@")));
        let slot = role.parse().unwrap();
        let publication = r#"My "Shop's""#.parse().unwrap();

        let mut session = ReplicationConnection::connect(&dsn, NAME).await.unwrap();
        assert_eq!(session.major_version(), Some(version.major()));
        let system = session.query("IDENTIFY_SYSTEM").await.unwrap();
        assert_eq!(system[0][3].as_deref(), Some(database.name.as_str()));
        let flushed: Lsn = system[0][2].as_deref().unwrap().parse().unwrap();
        let consistent = session.create_slot(&slot, Persistence::Temporary).await.unwrap();
        assert!(consistent >= flushed, "{consistent} {system:?}");
        let pid = session.process_id();

        let mut streaming = session.start_replication(&slot, &publication, Lsn::ZERO).await.unwrap();
        const ROW: &str = "2026-11-20 22:00:00+00', '1 day 02:00:00', 0.1::float8 + 0.2, '\\x00ff'";
        database.psql(&format!("insert into posts values (1, '{ROW})")).await;
        for text in ["2026-11-20 22:00:00+00", "1 day 02:00:00", "0.30000000000000004", "\\x00ff"] {
            read_until(&mut streaming, text.as_bytes()).await;
        }
        let ordinary = postgres::connect(&dsn, NAME).await.unwrap();
        let row = "select format('%s %s %s %s', at, took, ratio, raw) from public.posts";
        let row: String = ordinary.client.query_one(row, &[]).await.unwrap().get(0);
        assert_eq!(row, "2026-11-20 22:00:00+00 1 day 02:00:00 0.30000000000000004 \\x00ff");

        let mut other = ReplicationConnection::connect(&dsn, NAME).await.unwrap();
        let named = other.query(&format!("select application_name from pg_stat_replication where pid = {pid}")).await;
        assert_eq!(named.unwrap(), [[Some(NAME.to_owned())]]);
        let again = other.create_slot(&slot, Persistence::Permanent).await.unwrap_err();
        assert!(matches!(again, Error::SlotExists { .. }), "{again:?}");
        let in_use = other.start_replication(&slot, &publication, Lsn::ZERO).await.err();
        match in_use {
            Some(error @ Error::SlotInUse { pid: Some(holder), .. }) => {
                assert_eq!(holder, pid);
                assert!(error.is_transient());
            }
            other => panic!("{other:?}"),
        }
        drop(streaming);
        database.cluster.psql("postgres", &format!(
            "select pg_terminate_backend({pid}, 5000); drop owned by {role}; drop role {role}"
        )).await;
    }
}

on_every_version! {
    async fn an_operator_is_told_what_is_wrong_with_a_slot(version: Version) {
        let database = Database::on(version).await;
        let other = Database::fresh(&database.cluster).await;
        let slot = |name: &str| format!("{}_{name}", database.slot());
        let make = |name: &str, rest: &str| {
            format!("do $$ begin perform pg_create_{rest} end $$;").replace("NAME", &slot(name))
        };
        database.psql(&make("physical", "physical_replication_slot('NAME');")).await;
        database.psql(&make("plugin", "logical_replication_slot('NAME', 'test_decoding');")).await;
        other.psql(&make("elsewhere", "logical_replication_slot('NAME', 'pgoutput');")).await;

        let dsn = dsn(&database.url());
        let start = async |name: &str| {
            let session = ReplicationConnection::connect(&dsn, NAME).await.unwrap();
            let slot = slot(name).parse().unwrap();
            let publication = "rowcast".parse().unwrap();
            session.start_replication(&slot, &publication, Lsn::ZERO).await.err()
        };
        for name in ["physical", "plugin", "elsewhere"] {
            let error = start(name).await;
            assert!(matches!(error, Some(Error::WrongSlot { .. })), "{name}: {error:?}");
        }
        let absent = start("absent").await.unwrap();
        assert!(matches!(absent, Error::NoSuchSlot { .. }), "{absent:?}");
        assert_eq!(absent.hint().as_deref(), Some("run rowcast setup"));
        assert!(!absent.is_transient());
        database.psql(&format!("select pg_drop_replication_slot('{}')", slot("physical"))).await;
    }
}

on_every_version! {
    async fn a_server_without_logical_decoding_names_the_setting_and_the_restart(version: Version) {
        let settings = [("wal_level", "replica"), ("max_wal_senders", "1"), ("max_replication_slots", "1")];
        let cluster = Cluster::start(version, &settings).await;
        let dsn = dsn(&cluster.url("postgres"));
        let mut session = ReplicationConnection::connect(&dsn, NAME).await.unwrap();
        let slot = "rowcast".parse().unwrap();
        let error = session.create_slot(&slot, Persistence::Permanent).await.unwrap_err();
        assert!(matches!(error, Error::WalLevel(_)), "{error:?}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("wal_level = 'logical'") && hint.contains("restart"), "{hint}");
        assert!(!error.is_transient());
        // A refused command leaves the session usable.
        session.query("IDENTIFY_SYSTEM").await.unwrap();

        let error = ReplicationConnection::connect(&dsn, NAME).await.err().unwrap();
        assert!(matches!(error, Error::Connect(ConnectError::TooManyConnections { .. })), "{error:?}");
        assert!(error.is_transient());
    }
}

on_every_version! {
    async fn a_role_that_may_not_is_told_what_it_lacks(version: Version) {
        let cluster = Cluster::start(version, &[("max_replication_slots", "1")]).await;
        cluster
            .psql(
                "postgres",
                "create role writer login; create role outsider login replication; create database closed;
                 revoke connect on database closed from public;
                 select pg_create_physical_replication_slot('other');",
            )
            .await;
        cluster
            .set_hba("local all all trust\nhost all outsider 127.0.0.1/32 reject\nhost all all all trust\n")
            .await;
        let as_role = |role: &str, database: &str| cluster.url(database).replace("postgres@", &format!("{role}@"));
        let refused = async |url: String| match ReplicationConnection::connect(&dsn(&url), NAME).await {
            Err(Error::Connect(error)) => error,
            other => panic!("{url}: {other:?}"),
        };

        let error = refused(as_role("writer", "postgres")).await;
        assert!(matches!(error, ConnectError::NotReplicationRole { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains(r#"ALTER ROLE "writer" REPLICATION"#));
        let error = refused(as_role("outsider", "postgres")).await;
        assert!(matches!(error, ConnectError::NotAdmitted { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("\"host postgres outsider "));
        let local = cluster.socket_url("closed").replace("postgres@", "outsider@");
        let error = refused(local).await;
        assert!(matches!(error, ConnectError::NoConnectPrivilege { .. }), "{error:?}");
        let error = refused(as_role("nobody", "postgres")).await;
        assert!(matches!(error, ConnectError::NotAdmitted { .. }), "{error:?}");
        let error = refused(as_role("postgres", "absent")).await;
        assert!(matches!(error, ConnectError::NoSuchDatabase { .. }), "{error:?}");
        assert_eq!(error.code().map(|code| code.code()), Some("3D000"));

        let mut session = ReplicationConnection::connect(&dsn(&cluster.url("postgres")), NAME).await.unwrap();
        let error = session.create_slot(&"rowcast".parse().unwrap(), Persistence::Permanent).await.unwrap_err();
        assert!(matches!(error, Error::TooManySlots(_)), "{error:?}");
    }
}

#[tokio::test]
async fn an_idle_session_learns_of_a_shutdown_at_once_and_of_a_restart_by_connecting() {
    let cluster = Cluster::start(Version::DEFAULT, &[]).await;
    let dsn = dsn(&cluster.url("postgres"));
    let mut session = postgres::connect(&dsn, NAME).await.unwrap();
    let mut replication = ReplicationConnection::connect(&dsn, NAME).await.unwrap();
    cluster.request_stop(Stop::Fast);
    let end = timeout(SOON, session.closed()).await.expect("it ends").expect("with an error");
    assert_eq!(end.code().map(|code| code.code()), Some("57P01"));
    assert!(session.closed().await.is_none(), "the end is told once");
    // A walsender answers until all other sessions have ended.
    let error = eventually(SOON, "the walsender ends", async || {
        replication.query("IDENTIFY_SYSTEM").await.err()
    })
    .await;
    assert!(error.is_transient(), "{error:?}");
    drop(replication);
    cluster.stopped(SOON).await;
    cluster.start_again().await;
    expect_login(&cluster.url("postgres")).await;
}

#[tokio::test]
async fn a_server_that_is_not_postgres_or_says_nothing_is_told_apart() {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    for (answer, options) in [
        (Some(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]), "sslmode=disable"),
        (Some(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]), "sslmode=require"),
        (Some(&b"R\0\0\0\x08\0\0\0\x63"[..]), "sslmode=disable"),
        (Some(&b"N"[..]), "sslmode=disable"),
        (Some(&b""[..]), "sslmode=disable"),
        (None, "sslmode=disable&connect_timeout=1"),
        (None, "sslmode=prefer&connect_timeout=1"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let server = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.expect("it listens");
                let mut request = [0; 512];
                let _ = socket.read(&mut request).await;
                match answer {
                    Some(bytes) => {
                        let _ = socket.write_all(bytes).await;
                        let _ = socket.shutdown().await;
                    }
                    // Silence, until the client gives up.
                    None => {
                        while matches!(socket.read(&mut request).await, Ok(read) if read > 0) {}
                    }
                }
            }
        });
        let url = format!("postgres://u:p@127.0.0.1:{port}/d?{options}");
        let error = timeout(SOON, ReplicationConnection::connect(&dsn(&url), NAME)).await;
        let Ok(Err(Error::Connect(error))) = error else {
            panic!("{options} {answer:?}: {error:?}")
        };
        let fits = match answer {
            None => matches!(
                error,
                ConnectError::TimedOut { .. } | ConnectError::Dial(DialError::TimedOut { .. })
            ),
            Some(b"" | b"N") => matches!(error, ConnectError::Closed { .. }),
            Some(_) => matches!(
                error,
                ConnectError::Malformed { .. } | ConnectError::Dial(DialError::NotPostgres { .. })
            ),
        };
        assert!(fits, "{options} {answer:?}: {error:?}");
        let ordinary = timeout(SOON, postgres::connect(&dsn(&url), NAME)).await;
        let ordinary = ordinary.expect("it ends").err().expect("there is no server");
        // tokio-postgres takes the beginning of an HTTP answer for a message that breaks off.
        assert!(ordinary.is_transient() || !error.is_transient(), "{ordinary:?}, {error:?}");
        server.abort();
    }
}
