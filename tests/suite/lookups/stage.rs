//! The stage that looks rows up by itself: what it reads of a real server, and what of that it may not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast::{
    change::{Kind, Lookup, LookupId, Parent, ParentKey, TableName},
    lookup::Lookups,
    postgres::{
        Tenure, catalog,
        checks::Finding,
        reading::{self, Access, Reading},
        statement::Statement,
    },
};

use crate::{
    harness::{
        cluster::{Cluster, Version, on_every_version},
        database::Database,
        wait::{SOON, eventually},
    },
    wal::Streaming,
};

const ID: LookupId = LookupId(0);

/// One lookup in a table of the schema `public`.
fn lookup(table: &str, by: Option<&str>, columns: &[&str]) -> Lookup {
    Lookup {
        table: TableName::new("public", table),
        by: by.map(Into::into),
        columns: columns.iter().map(|column| (*column).into()).collect(),
        deciding: vec![0],
        ttl: Duration::from_secs(5),
    }
}

fn key(text: &str) -> ParentKey {
    ParentKey { lookup: ID, key: text.into() }
}

async fn open(database: &Database, lookup: Lookup) -> Lookups {
    open_at(&database.url(), database, lookup).await
}

async fn open_at(url: &str, database: &Database, lookup: Lookup) -> Lookups {
    let catalog = catalog::relations(&database.client().await).await.expect("it can be read");
    let dsn = url.parse().expect("the harness makes URLs");
    Lookups::new(dsn, Tenure::Session, &[lookup], &catalog)
}

/// What is known of each key once all are fetched: the values of its row, or why there is none.
async fn fetched(lookups: &mut Lookups, keys: &[&str]) -> Vec<String> {
    lookups.fetch(keys.iter().map(|text| key(text))).await;
    keys.iter().map(|text| known(lookups, text)).collect()
}

fn known(lookups: &Lookups, text: &str) -> String {
    match lookups.parents().get(&key(text)) {
        None => "missing".to_owned(),
        Some(Parent::Absent) => "absent".to_owned(),
        Some(Parent::Unknown) => "unknown".to_owned(),
        Some(Parent::Row(row)) => {
            let texts = row.values.iter().map(|(_, text)| match text {
                Some(text) => String::from_utf8_lossy(text).into_owned(),
                None => "NULL".to_owned(),
            });
            texts.collect::<Vec<_>>().join(" ")
        }
    }
}

on_every_version! {
    async fn a_row_that_is_read_is_written_as_the_change_stream_writes_it(version: Version) {
        let database = Database::on(version).await;
        database
            .psql(
                "create type mood as enum ('glad', 'sad');
                 create domain price as numeric(10, 2);
                 create type pair as (a int, b text);
                 create table parents (
                     id bigint primary key, truth bool, padded char(5), note text, at timestamp(0),
                     atz timestamptz, day date, span interval, doc jsonb, plain json, raw bytea,
                     amount price, ratio float8, small real, feels mood, tags text[], ref uuid,
                     both_null pair, address inet, nothing text, empty text);",
            )
            .await;
        const COLUMNS: [&str; 21] = [
            "id", "truth", "padded", "note", "at", "atz", "day", "span", "doc", "plain", "raw", "amount", "ratio",
            "small", "feels", "tags", "ref", "both_null", "address", "nothing", "empty",
        ];
        let mut streaming = Streaming::of(&database, &COLUMNS).await;
        database
            .psql(
                r#"insert into parents values (
                     9007199254740993, true, 'ab', E'two\nlines', '2026-11-21 13:00:01.6', '2026-11-21 13:00:01.5+02',
                     'infinity', '1 mon -2 days 03:04:05', '{"b": 1, "a": [null]}', '{"b" :1}', '\x00ff10', 12.5,
                     0.1, 0.1, 'glad', '{a,"b c",NULL}', '0b9a1f5e-65a1-4a54-9f0e-1c1b8f7d2a10', (null, null),
                     '10.0.0.1/8', null, '');"#,
            )
            .await;
        let lookup = lookup("parents", None, &COLUMNS);
        let mut streamed = open(&database, lookup.clone()).await;
        streamed.observe(&streaming.batch().await, Instant::now());
        let mut read = open(&database, lookup).await;
        let parent = key("9007199254740993");
        read.fetch([parent.clone()]).await;
        let Some(Parent::Row(row)) = read.parents().get(&parent) else { panic!("it is there") };
        assert_eq!(streamed.parents().get(&parent), Some(&Parent::Row(row.clone())));
        assert_eq!(row.values[0].0, Kind::Integer);
        assert_eq!(row.values[2].1.as_deref(), Some(&b"ab   "[..]));
        assert_eq!(row.values[11], (Kind::Numeric, Some(b"12.50".as_slice().into())));
        assert_eq!((&row.values[19].1, row.values[20].1.as_deref()), (&None, Some(&b""[..])));
    }
}

#[tokio::test]
async fn keys_that_the_type_does_not_take_leave_the_others_alone() {
    let database = Database::on(Version::DEFAULT).await;
    database
        .psql(
            "create table users (id int primary key, name varchar(3), born date unique);
             insert into users select i, 'u' || i % 100, date '2000-01-01' + i from generate_series(1, 3000) i;",
        )
        .await;
    let mut lookups = open(&database, lookup("users", None, &["name"])).await;
    let keys = ["1", "abc", "007", "99999999999", " 2 ", "", "5000", "1_0", "3"];
    let expected = ["u1", "absent", "u7", "absent", "u2", "absent", "unknown", "absent", "u3"];
    assert_eq!(fetched(&mut lookups, &keys).await, expected);
    let mut lookups = open(&database, lookup("users", Some("born"), &["id"])).await;
    let keys = ["2000-01-02", "2000-13-41", "yesteryear", "2000-01-04", "January 3, 2000", ""];
    assert_eq!(fetched(&mut lookups, &keys).await, ["1", "absent", "absent", "3", "2", "absent"]);
    assert!(lookups.counts.queries <= 20, "{} queries", lookups.counts.queries);

    let mut lookups = open(&database, lookup("users", None, &["name"])).await;
    let keys: Vec<String> = (1..=2500).map(|id| id.to_string()).collect();
    lookups.fetch(keys.iter().map(|text| key(text))).await;
    assert!(keys.iter().all(|text| known(&lookups, text).starts_with('u')));
    assert_eq!(lookups.counts.queries, 3);
}

#[tokio::test]
async fn keys_are_compared_by_the_columns_own_type() {
    let database = Database::on(Version::DEFAULT).await;
    database
        .psql(
            r#"create domain code as varchar(3);
               create table "Odd ""names""" ("The Key" code unique, padded char(4) unique, amount numeric unique,
                                             "select" text, primary key ("select"));
               insert into "Odd ""names""" values ('abc', 'ab', 1.50, 'x'), ('', 'cd', 2, '');
               create table split (id int primary key, name text) partition by range (id);
               create table split_low partition of split for values from (0) to (10);
               insert into split values (1, 'in a partition');"#,
        )
        .await;
    for (by, keys, expected) in [
        (Some("The Key"), ["abc", "abcd", "", "ABC"], ["x", "unknown", "", "unknown"]),
        (Some("padded"), ["ab", "ab  ", "abcde", "a"], ["x", "x", "unknown", "unknown"]),
        (Some("amount"), ["1.5", "1.50", "1.51", "2.0"], ["x", "x", "unknown", ""]),
        (None, ["x", "", "X", "x "], ["x", "", "unknown", "unknown"]),
    ] {
        let mut lookups = open(&database, lookup("Odd \"names\"", by, &["select"])).await;
        assert_eq!(fetched(&mut lookups, &keys).await, expected, "by {by:?}");
    }
    let mut lookups = open(&database, lookup("split", None, &["name"])).await;
    assert_eq!(fetched(&mut lookups, &["1"]).await, ["in a partition"]);
}

#[tokio::test]
async fn a_lost_session_and_a_lock_are_waited_out() {
    // While the lock is held nobody makes a slot in the cluster.
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let database = Database::fresh(&cluster).await;
    database
        .psql("create table users (id int primary key, name text); insert into users values (1, 'Ann'), (2, 'Bo');")
        .await;
    let mut lookups = open(&database, lookup("users", None, &["name"])).await;
    assert_eq!(fetched(&mut lookups, &["1"]).await, ["Ann"]);
    let end = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}' and application_name = 'rowcast'",
        database.name
    );
    assert_eq!(database.psql(&end).await, "t");
    assert_eq!(fetched(&mut lookups, &["2"]).await, ["Bo"]);

    let mut locker = database.client().await;
    let lock = locker.transaction().await.expect("it may");
    lock.batch_execute("lock table users in access exclusive mode").await.expect("it is free");
    let mut locked = open(&database, lookup("users", None, &["name"])).await;
    let waiting = format!(
        "select coalesce(max(pid), 0) from pg_stat_activity
         where datname = '{}' and application_name = 'rowcast' and wait_event_type = 'Lock'",
        database.name
    );
    let pid = async || Some(database.psql(&waiting).await).filter(|pid| pid != "0");
    let (answer, ()) = tokio::join!(fetched(&mut locked, &["1"]), async {
        let first = eventually(SOON, "it waits for the lock", pid).await;
        eventually(SOON, "it waits again, in another session", async || {
            pid().await.filter(|pid| *pid != first)
        })
        .await;
        lock.commit().await.expect("it is still there");
    });
    assert_eq!(answer, ["Ann"]);
}

#[tokio::test]
async fn what_the_role_may_not_read_is_told_with_the_grant() {
    let database = Database::on(Version::DEFAULT).await;
    let role = format!("reader_{}", database.name);
    database
        .psql(&format!(
            "create role {role} login;
             create schema \"Other\";
             create table \"Other\".users (id int primary key, email text not null, name text, secret text);
             create unique index on \"Other\".users (name) where name <> '';
             insert into \"Other\".users values (1, 'a@example.org', 'Ann', 's');"
        ))
        .await;
    let client = database.client().await;
    let tables = catalog::tables(&client).await.expect("it can be read");
    let users =
        tables.iter().find(|table| &*table.relation.table.name == "users").expect("it is there");
    let reading = |by: usize, columns: &[usize]| Reading {
        oid: users.relation.oid,
        by,
        columns: columns.to_vec(),
        decides: true,
    };
    let findings = async |readings: &[Reading]| -> (Vec<Finding>, Vec<Statement>) {
        let access = Access::read(&client, &role, readings).await.expect("it may be asked");
        let findings = reading::check(&tables, None, readings, &access);
        (findings, reading::grants(&tables, readings, &access))
    };
    let (found, grants) = findings(&[reading(0, &[2]), reading(0, &[1])]).await;
    let sql: Vec<&str> = grants.iter().map(|grant| &*grant.sql).collect();
    let grant =
        format!("GRANT SELECT (\"id\", \"email\", \"name\") ON \"Other\".\"users\" TO \"{role}\"");
    assert_eq!(sql, [format!("GRANT USAGE ON SCHEMA \"Other\" TO \"{role}\""), grant.clone()]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].is_error() && found[0].fix.contains(&format!("{grant};")), "{found:?}");
    for sql in sql {
        client.batch_execute(sql).await.expect("the owner may");
    }
    assert_eq!(findings(&[reading(0, &[2]), reading(0, &[1])]).await, (vec![], vec![]));
    let (found, _) = findings(&[reading(1, &[2]), reading(2, &[1])]).await;
    let not_unique: Vec<&str> = found.iter().map(|finding| &*finding.fix).collect();
    assert!(not_unique.len() == 2 && not_unique[0].contains("(\"email\")"), "{not_unique:?}");
    assert!(not_unique[1].contains("(\"name\")"), "a partial index does not do: {not_unique:?}");

    // It reads with these privileges, and nothing that it needs more for.
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let mut of_other = lookup("users", None, &["name", "email"]);
    of_other.table = TableName::new("Other", "users");
    let mut lookups = open_at(&url, &database, of_other.clone()).await;
    assert_eq!(fetched(&mut lookups, &["1"]).await, ["Ann a@example.org"]);

    client
        .batch_execute("alter table \"Other\".users enable row level security")
        .await
        .expect("it may");
    let (found, _) = findings(&[reading(0, &[2])]).await;
    assert!(found.len() == 1 && found[0].fix.contains("BYPASSRLS"), "{found:?}");
    client.batch_execute(&format!("alter role {role} bypassrls")).await.expect("it may");
    assert_eq!(findings(&[reading(0, &[2])]).await, (vec![], vec![]));
    drop(lookups);
    let gone = format!("drop owned by {role}; drop role {role}");
    client.batch_execute(&gone).await.expect("nothing is left of it");
}
