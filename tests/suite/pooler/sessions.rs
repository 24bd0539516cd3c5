//! The sessions by themselves.

use std::{
    collections::BTreeSet,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use rowcast::{
    change::{Lookup, LookupId, Parent, ParentKey, TableName},
    lookup::Lookups,
    postgres::{
        self, ConnectError, Connection, Mode, Tenure, catalog, snapshot::Snapshot, transaction,
    },
};
use tokio::time::timeout;

use super::{Pool, SIZE};
use crate::harness::{
    pgbouncer::PoolMode,
    wait::{SOON, eventually},
};

const NAME: &str = "rowcast_test";
async fn setting(connection: &Connection, name: &str) -> Result<String, tokio_postgres::Error> {
    let sql = format!("select current_setting('{name}')");
    connection.client.query_typed_one(&sql, &[]).await?.try_get(0)
}

async fn pid(connection: &Connection) -> Result<i32, tokio_postgres::Error> {
    connection.client.query_typed_one("select pg_backend_pid()", &[]).await?.try_get(0)
}

#[tokio::test]
async fn in_transaction_mode_a_transaction_has_our_settings_and_leaves_none() {
    let pool = Pool::of(PoolMode::Transaction).await;
    pool.database.psql("alter database :DBNAME set datestyle = 'German'").await;
    let fresh = pool.fresh().await;
    let ours = postgres::connect_as(&pool.dsn(), NAME, Tenure::Transaction).await.unwrap();
    let others = pool.stirred().await;
    let look = async || {
        let seen = ours.read(async {
            let names = ["search_path", "DateStyle", "TimeZone", "transaction_read_only"];
            let mut seen = Vec::new();
            for name in names {
                seen.push(setting(&ours, name).await?);
            }
            assert_eq!(seen, ["pg_catalog, pg_temp", "ISO, DMY", "UTC", "on"]);
            pid(&ours).await
        });
        seen.await.expect("anyone may ask")
    };
    for _ in 0..50 {
        look().await;
    }
    others.leave().await;
    let holder = pool.client().await;
    let mut pids = BTreeSet::new();
    eventually(SOON, "transactions have had each of the sessions", async || {
        pids.insert(look().await);
        // Its end is not waited for, so this comes after it.
        ours.client.check_connection().await.unwrap();
        holder.batch_execute("begin").await.unwrap();
        pids.insert(look().await);
        holder.batch_execute("rollback").await.unwrap();
        (pids.len() == SIZE as usize).then_some(())
    })
    .await;

    let (slot, publication) = ("rowcast".parse().unwrap(), "rowcast".parse().unwrap());
    let gathered = Snapshot::gather(&ours.client, &slot, &publication);
    ours.read(gathered).await.expect("the catalog can be read");
    drop((holder, ours));
    assert_eq!(pool.left_behind().await, fresh);
}

#[tokio::test]
async fn what_fails_or_is_given_up_leaves_no_transaction_open() {
    let pool = Pool::of(PoolMode::Transaction).await;
    let fresh = pool.fresh().await;
    pool.database.psql("create table t (id int primary key)").await;
    let ours = postgres::connect_as(&pool.dsn(), NAME, Tenure::Transaction).await.unwrap();
    let client = &ours.client;
    let write = |mode, more: &'static str, sql: &'static str| {
        transaction(client, mode, more, async { client.batch_execute(sql).await })
    };

    write(Mode::ReadWrite, "", "insert into public.t values (1)").await.unwrap();
    for (mode, more, sql, code) in [
        (Mode::ReadWrite, "", "insert into public.t values (2); select 1/0", "22012"),
        (Mode::ReadOnly, "", "insert into public.t values (2)", "25006"),
        // What says why is the setting's error, not that of what came after it.
        (
            Mode::ReadWrite,
            "SET LOCAL DateStyle = 'Mayan'",
            "insert into public.t values (2)",
            "22023",
        ),
    ] {
        let error = write(mode, more, sql).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some(code), "{sql}");
    }
    let slow = write(Mode::ReadWrite, "", "insert into public.t values (2); select pg_sleep(2)");
    assert!(timeout(Duration::from_millis(100), slow).await.is_err(), "it is given up");
    // Sent, but never looked at again.
    let given_up = write(Mode::ReadWrite, "", "insert into public.t values (2)");
    assert!(pin!(given_up).poll(&mut Context::from_waker(Waker::noop())).is_pending());

    write(Mode::ReadWrite, "", "insert into public.t values (3)").await.unwrap();
    assert_eq!(pool.database.psql("select id from t order by 1").await, "1\n3");
    let idle = "select count(*) from pg_stat_activity where state like 'idle in transaction%'
                and datname = current_database()";
    eventually(SOON, "no transaction is open", async || {
        (pool.database.psql(idle).await == "0").then_some(())
    })
    .await;
    drop(ours);
    assert_eq!(pool.left_behind().await, fresh);
}

#[tokio::test]
async fn a_pool_in_transaction_mode_is_noticed_where_a_session_is_needed() {
    let pool = Pool::of(PoolMode::Transaction).await;
    let fresh = pool.fresh().await;
    let refused = async || match postgres::connect_alone(&pool.dsn(), NAME).await {
        Ok(_) => panic!("nobody noticed"),
        Err(error) => error,
    };
    let error = refused().await;
    assert!(matches!(error, ConnectError::Pooled { .. }), "{error:?}");
    assert!(!error.is_transient());
    let hint = error.hint().expect("something can be done");
    assert!(hint.contains("wake = \"poll\"") && hint.contains("session mode"), "{hint}");
    let others = pool.stirred().await;
    for _ in 0..20 {
        let error = refused().await;
        assert!(matches!(error, ConnectError::Pooled { .. }), "{error:?}");
    }
    others.leave().await;
    assert_eq!(pool.left_behind().await, fresh, "not even the attempt leaves anything");
    postgres::connect_alone(&pool.database.url().parse().unwrap(), NAME).await.expect("it is ours");
}

#[tokio::test]
async fn in_session_mode_a_session_is_ours_and_hears_what_others_notify() {
    let pool = Pool::of(PoolMode::Session).await;
    let fresh = pool.fresh().await;
    let ours = postgres::connect_alone(&pool.dsn(), NAME).await.expect("it is ours");
    assert_eq!(setting(&ours, "search_path").await.unwrap(), "pg_catalog, pg_temp");
    ours.client.batch_execute("listen rowcast").await.unwrap();
    for _ in 0..3 {
        pool.database.psql("notify rowcast").await;
        timeout(SOON, ours.notified.notified()).await.expect("it is heard of");
    }
    drop(ours);
    assert_eq!(pool.left_behind().await, fresh, "PgBouncer resets it");
}

#[tokio::test]
async fn options_in_the_url_are_refused_with_what_to_do() {
    let pool = Pool::of(PoolMode::Session).await;
    let url = pool.url() + "?options=-clock_timeout%3D1s";
    let error = postgres::connect(&url.parse().unwrap(), NAME).await.err().expect("it is refused");
    let hint = error.hint().expect("something can be done");
    assert!(hint.contains("leave options out of the URL"), "{error:?}");
}

#[tokio::test]
async fn rows_are_looked_up_through_a_pool_in_transaction_mode() {
    let pool = Pool::of(PoolMode::Transaction).await;
    let fresh = pool.fresh().await;
    pool.database
        .psql(
            "create table days (day date primary key, number int);
             insert into days select date '2000-01-01' + n, n from generate_series(1, 30) n;",
        )
        .await;
    let lookup = Lookup {
        table: TableName::new("public", "days"),
        by: None,
        columns: ["number".into()].into(),
        deciding: vec![0],
        ttl: Duration::from_secs(5),
    };
    let relations = catalog::relations(&pool.database.client().await).await.unwrap();
    let mut lookups = Lookups::new(pool.dsn(), Tenure::Transaction, &[lookup], &relations);
    let others = pool.stirred().await;
    let key = |text: &str| ParentKey { lookup: LookupId(0), key: text.into() };
    for day in 2..=31 {
        let (there, wrong) =
            (key(&format!("2000-01-{day:02}")), key(&format!("2000-02-{}", day + 29)));
        lookups.fetch([there.clone(), wrong.clone()]).await;
        let Some(Parent::Row(row)) = lookups.parents().get(&there) else { panic!("{day}") };
        assert_eq!(row.values[0].1.as_deref(), Some((day - 1).to_string().as_bytes()));
        assert_eq!(lookups.parents().get(&wrong), Some(&Parent::Absent));
    }
    // One that is refused fails its query, and the others are asked for again.
    assert!(lookups.counts.queries > 30, "{:?}", lookups.counts);
    others.leave().await;
    drop(lookups);
    assert_eq!(pool.left_behind().await, fresh);
}
