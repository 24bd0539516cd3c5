//! The source `triggers` by itself: what a session hands on of an outbox, and what it deletes. What triggers write is
//! written here by hand.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use rowcast::{
    change::{Batch, Change, Item, Operation, Position, Value},
    postgres::{self, Wake, catalog},
    source::triggers::{Delivered, Error, Options, Reads, Session, Until},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_postgres::Client;

use crate::harness::{
    cluster::{Cluster, Version, on_every_version},
    database::Database,
    wait::{SOON, eventually},
};

/// A session, and hands to hold its ends.
struct Reading {
    changes: mpsc::Receiver<Batch>,
    confirmed: watch::Sender<Option<Position>>,
    /// Whether what is read is confirmed as it comes.
    confirms: bool,
    stop: watch::Sender<bool>,
    session: JoinHandle<Result<(), Error>>,
    delivered: Delivered,
}

/// Tables `posts` and `done`, and their shapes, 1 and 2.
async fn outbox(version: Version) -> Database {
    outbox_in(Database::on(version).await).await
}

async fn outbox_in(database: Database) -> Database {
    database.psql("create schema rowcast").await;
    database.psql(include_str!("../../sql/outbox.sql")).await;
    database
        .psql(
            "create table posts (id int primary key, user_id int, title text, body text);
             create table done (id int primary key);
             insert into rowcast.shapes (relation, columns) values
                 ('posts'::regclass, '{id,title}'), ('done'::regclass, '{id}');
             select setval('rowcast.gate', 1000000);",
        )
        .await;
    database
}

fn insert(id: usize, title: &str) -> String {
    format!("insert into rowcast.outbox (shape, op, new) values (1, 'i', '{{{id},{title}}}');")
}

const DONE: &str = "insert into rowcast.outbox (shape, op, new) values (2, 'i', '{1}');";

impl Reading {
    async fn of(database: &Database) -> Reading {
        Reading::open(database, |_| {}).await
    }

    async fn open(database: &Database, change: impl FnOnce(&mut Options)) -> Reading {
        let dsn = database.url().parse().unwrap();
        let connection = postgres::connect(&dsn, "triggers").await.unwrap();
        let mut options = Options {
            wake: Wake::Poll,
            catalog: catalog::relations(&connection.client).await.unwrap(),
            wanted: Box::new(|_| Vec::new()),
            max_rows: 1_000_000,
            inspect_every: Duration::from_secs(60),
            until: Until::Stopped,
            reads: Reads::Drain,
        };
        change(&mut options);
        let session = Session::open(connection, options).await.unwrap();
        let delivered = session.delivered();
        let (changes_tx, changes) = mpsc::channel(2);
        let (confirmed, confirmed_rx) = watch::channel(None);
        let (stop, stop_rx) = watch::channel(false);
        let session = tokio::spawn(session.run(changes_tx, confirmed_rx, stop_rx));
        Reading { changes, confirmed, confirms: true, stop, session, delivered }
    }

    async fn batch(&mut self) -> Batch {
        let batch = timeout(SOON, self.changes.recv()).await.expect("changes come soon");
        batch.expect("the session goes on")
    }

    /// What comes until a change of the table `done`, in words, `|` after each transaction.
    async fn until_done(&mut self) -> Vec<String> {
        self.until_done_within(usize::MAX).await
    }

    /// The same, of batches that take so many bytes at most.
    async fn until_done_within(&mut self, bytes: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while !lines.iter().any(|line| line == "done") {
            let batch = self.batch().await;
            assert!(batch.heap_bytes() < bytes, "{} bytes at once", batch.heap_bytes());
            lines.extend(self.words(&batch));
        }
        lines
    }

    fn words(&self, batch: &Batch) -> Vec<String> {
        let mut lines = Vec::new();
        for item in batch.items() {
            lines.push(match item {
                Item::Change(change) if &*change.relation.table.name == "done" => "done".into(),
                Item::Change(change) => in_words(&change),
                Item::Truncate { relation, .. } => format!("truncate {}", relation.table.name),
                Item::Broadcast { broadcast, context, .. } => {
                    let by = context.map(|context| context.values()["by"].to_string());
                    format!("broadcast {} {} by {by:?}", broadcast.channel, broadcast.data)
                }
                Item::Missed { relation, why, .. } => {
                    let table = relation.map_or("everything", |it| &it.table.name);
                    format!("missed {table} {why:?}")
                }
                Item::Reached(position) => {
                    if self.confirms {
                        self.confirmed.send_replace(Some(position));
                    }
                    "|".into()
                }
            });
        }
        lines
    }

    /// Ends it as a shutdown does, once everything was confirmed.
    async fn end(mut self) {
        self.stop.send_replace(true);
        while let Some(batch) = self.changes.recv().await {
            self.words(&batch);
        }
        let Reading { confirmed, session, .. } = self;
        drop(confirmed);
        timeout(SOON, session).await.expect("it ends").expect("without panic").unwrap();
    }
}

/// `update posts id 1→1, title a→b`: what is known of it.
fn in_words(change: &Change<'_>) -> String {
    let operation = match change.operation {
        Operation::Insert => "insert",
        Operation::Update => "update",
        Operation::Delete => "delete",
        Operation::Read => "read",
    };
    let mut text = format!("{operation} {}", change.relation.table.name);
    for (index, column) in change.relation.columns.iter().enumerate() {
        let (old, new) = (change.old_value(index), change.new_value(index));
        if old != Value::Unknown || new != Value::Unknown {
            write!(text, " {} {}→{}", column.name, word(old), word(new)).unwrap();
        }
    }
    text
}

fn word(value: Value<'_>) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Text(text) if text.len() > 40 => format!("{} bytes", text.len()),
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Unchanged => "same".into(),
        Value::Unknown => "?".into(),
        Value::Omitted(_) => "omitted".into(),
    }
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

const ROWS: &str = "select count(*) from rowcast.outbox";

on_every_version! {
    async fn every_kind_of_row_is_handed_on_by_its_transaction(version: Version) {
        let database = outbox(version).await;
        database
            .psql(
                "begin;
                 insert into rowcast.outbox (shape, op, new) values (1, 'i', '{1,a}');
                 insert into rowcast.outbox (shape, op, old, new) values (1, 'u', '{1,a}', '{1,NULL}');
                 commit;
                 insert into rowcast.outbox (shape, op, old) values (1, 'd', '{1,NULL}');
                 begin;
                 insert into rowcast.outbox (op, new) values ('c', array['{\"by\":7}']);
                 insert into rowcast.outbox (op, new)
                     values ('b', array['{\"channel\":\"c\",\"event\":\"e\",\"data\":[1]}']);
                 commit;
                 insert into rowcast.outbox (op, new)
                     values ('b', array['{\"channel\":\"c\",\"event\":\"e\",\"data\":[2]}']);
                 insert into rowcast.outbox (shape, op) values (1, 't');
                 insert into rowcast.outbox (shape, op, new) values (1, 'u', '{1,x}');
                 insert into rowcast.outbox (shape, op, new) values (1, 'i', '{1}');
                 insert into rowcast.outbox (shape, op, new) values (77, 'i', '{1}');
                 begin; insert into rowcast.outbox (shape, op, new) values (1, 'i', '{9,never}'); rollback;",
            )
            .await;
        database.psql(DONE).await;
        let mut reading = Reading::of(&database).await;
        assert_eq!(
            reading.until_done().await,
            [
                "insert posts id ?→1 title ?→a",
                "update posts id 1→1 title a→null",
                "|",
                "delete posts id 1→? title null→?",
                "|",
                "broadcast c [1] by Some(\"7\")",
                "|",
                "broadcast c [2] by None",
                "|",
                "truncate posts",
                "|",
                "missed posts Unrecorded",
                "|",
                "missed posts Unrecorded",
                "|",
                "missed everything Unrecorded",
                "|",
                "done",
                "|"
            ]
        );
        // While it runs too, each as it comes.
        database.psql(&insert(3, "b")).await;
        let batch = reading.batch().await;
        assert_eq!(reading.words(&batch), ["insert posts id ?→3 title ?→b", "|"]);
        reading.end().await;
        assert_eq!(number(&database.client().await, ROWS).await, 0);
    }
}

on_every_version! {
    async fn who_took_its_ids_first_and_commits_last_is_handed_on_once_and_in_its_turn(version: Version) {
        let database = outbox(version).await;
        let (early, late) = (database.client().await, database.client().await);
        early.batch_execute(&format!("begin; {}", insert(1, "early"))).await.unwrap();
        let mut reading = Reading::of(&database).await;
        for id in 0..30 {
            late.batch_execute(&insert(id, "late")).await.unwrap();
            let batch = reading.batch().await;
            let expected = format!("insert posts id ?→{id} title ?→late");
            assert_eq!(reading.words(&batch), [&*expected, "|"]);
        }
        early.batch_execute(&format!("{}; commit", insert(2, "early"))).await.unwrap();
        database.psql(DONE).await;
        let lines = reading.until_done().await;
        let once = ["insert posts id ?→1 title ?→early", "insert posts id ?→2 title ?→early", "|"];
        assert_eq!(lines[..3], once);
        assert_eq!(lines[3..], ["done", "|"]);
        reading.end().await;
        assert_eq!(number(&database.client().await, ROWS).await, 0);
    }
}

on_every_version! {
    async fn a_large_transaction_is_handed_on_whole_though_in_pieces(version: Version) {
        let database = outbox(version).await;
        database
            .psql(
                "insert into rowcast.outbox (shape, op, new)
                     select 1, 'i', array[i::text, 'bulk'] from generate_series(1, 9000) i;
                 insert into rowcast.outbox (shape, op, new)
                     select 1, 'i', array[i::text, repeat(md5(i::text), 40000)] from generate_series(1, 9) i;",
            )
            .await;
        for _ in 0..20 {
            database.psql(&insert(1, "small")).await;
        }
        database.psql(DONE).await;
        let mut reading = Reading::of(&database).await;
        let lines = reading.until_done_within(8 << 20).await;
        let expected: Vec<String> =
            (1..=9000).map(|id| format!("insert posts id ?→{id} title ?→bulk")).collect();
        assert_eq!(lines[..9000], expected);
        assert_eq!(lines[9000], "|");
        for id in 1..=9 {
            let wide = format!("insert posts id ?→{id} title ?→1280000 bytes");
            assert_eq!(lines[9000 + id], wide);
        }
        assert_eq!(lines[9010..9013], ["|", "insert posts id ?→1 title ?→small", "|"]);
        assert_eq!(lines.len(), 9001 + 10 + 40 + 2);
        reading.end().await;
        assert_eq!(number(&database.client().await, ROWS).await, 0);
    }
}

#[tokio::test]
async fn a_row_too_large_to_be_held_is_told_as_missed_and_those_beside_it_as_they_are() {
    let database = outbox(Version::DEFAULT).await;
    database
        .psql(
            "insert into rowcast.outbox (shape, op, new)
                 select 1, 'i', array[i::text, repeat('x', case i when 2 then 9000000 else 9 end)]
                 from generate_series(1, 3) i;",
        )
        .await;
    database.psql(DONE).await;
    let mut reading = Reading::of(&database).await;
    let lines = reading.until_done_within(1 << 20).await;
    let told = ["insert posts id ?→1 title ?→xxxxxxxxx", "missed posts Unrecorded"];
    assert_eq!(lines[..2], told);
    assert_eq!(lines[2], "insert posts id ?→3 title ?→xxxxxxxxx");
    reading.end().await;
}

#[tokio::test]
async fn nothing_is_deleted_that_is_not_confirmed_and_then_it_comes_again() {
    let database = outbox(Version::DEFAULT).await;
    database.psql(&[insert(1, "a"), insert(2, "b"), insert(3, "c")].concat()).await;
    let mut reading = Reading::of(&database).await;
    reading.confirms = false;
    let batch = reading.batch().await;
    let positions: Vec<Position> = batch
        .items()
        .filter_map(|item| match item {
            Item::Reached(position) => Some(position),
            _ => None,
        })
        .collect();
    assert_eq!(positions.len(), 3);
    reading.confirmed.send_replace(Some(positions[1]));
    reading.end().await;
    let client = database.client().await;
    assert_eq!(number(&client, ROWS).await, 1);
    let recorded = number(&client, "select position from rowcast.reader").await;
    assert_eq!(recorded.cast_unsigned(), positions[1].value());

    database.psql(DONE).await;
    let mut reading = Reading::of(&database).await;
    assert_eq!(reading.delivered, Delivered { session: 1, position: positions[1] });
    assert_eq!(reading.until_done().await, ["insert posts id ?→3 title ?→c", "|", "done", "|"]);
    assert!(reading.confirmed.borrow().unwrap() > positions[2], "positions rise over sessions");
    eventually(SOON, "delivered rows go while it runs", async || {
        (number(&client, ROWS).await == 0).then_some(())
    })
    .await;
    reading.end().await;
}

#[tokio::test]
async fn what_could_not_be_written_is_told_again_when_who_may_have_failed_has_ended() {
    // It waits for all transactions of its cluster that are older.
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let database = outbox_in(Database::fresh(&cluster).await).await;
    let (writer, client) = (database.client().await, database.client().await);
    writer.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    let mut reading = Reading::of(&database).await;
    writer.batch_execute("select nextval('rowcast.failures')").await.unwrap();
    let batch = reading.batch().await;
    assert_eq!(reading.words(&batch), ["missed everything Unrecorded", "|"]);
    // Another one that ends, and may have failed as well.
    client.batch_execute(&insert(1, "a")).await.unwrap();
    let batch = reading.batch().await;
    assert_eq!(reading.words(&batch), ["insert posts id ?→1 title ?→a", "|"]);
    eventually(SOON, "delivered rows go", async || {
        (number(&client, ROWS).await == 0).then_some(())
    })
    .await;
    let recorded = "select failures from rowcast.reader";
    assert_eq!(number(&client, recorded).await, 0, "it may be of who still runs");
    writer.batch_execute("commit").await.unwrap();
    let batch = reading.batch().await;
    assert_eq!(reading.words(&batch), ["missed everything Unrecorded", "|"]);
    eventually(SOON, "it is recorded", async || {
        (number(&client, recorded).await == 1).then_some(())
    })
    .await;
    reading.end().await;

    // What was counted while nobody read is told at the start.
    client.batch_execute("select nextval('rowcast.refusals')").await.unwrap();
    let mut reading =
        Reading::open(&database, |options| options.until = Until::FirstSnapshot).await;
    let batch = reading.batch().await;
    assert_eq!(reading.words(&batch), ["missed everything Full", "|"]);
    reading.end().await;
    assert_eq!(number(&client, "select refusals from rowcast.reader").await, 1);
}

#[tokio::test]
async fn the_gate_closes_while_nothing_is_delivered_and_opens_with_delivery() {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let database = outbox_in(Database::fresh(&cluster).await).await;
    let client = database.client().await;
    // While it is open, it is not known of numbers that were taken whether they are of rows.
    let other = database.client().await;
    other.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    let bulk = "insert into rowcast.outbox (shape, op, new)
                select 1, 'i', array[i::text, 'x'] from generate_series(1, 900) i";
    client.batch_execute(bulk).await.unwrap();
    let mut reading = Reading::open(&database, |options| options.max_rows = 1000).await;
    reading.confirms = false;
    let last = reading.batch().await;
    let room = "select (select last_value >> 1 from rowcast.gate)
                     - (select last_value from rowcast.outbox_id)";
    let until = async |enough: std::ops::RangeInclusive<i64>| {
        eventually(SOON, "so much room", async || {
            enough.contains(&number(&client, room).await).then_some(())
        })
        .await;
    };
    until(0..=100).await;
    // What is written and not committed takes room too.
    let writer = database.client().await;
    writer.batch_execute(&format!("begin; {bulk}")).await.unwrap();
    until(-1000..=-800).await;
    writer.batch_execute("rollback").await.unwrap();
    reading.confirms = true;
    reading.words(&last);
    until(100..=100).await;
    other.batch_execute("commit").await.unwrap();
    until(900..=1000).await;
    reading.end().await;
}

#[tokio::test]
async fn who_only_looks_on_sees_what_comes_and_leaves_no_trace() {
    let database = outbox(Version::DEFAULT).await;
    let client = database.client().await;
    client.batch_execute(&insert(1, "before")).await.unwrap();
    let gate = "select last_value from rowcast.gate";
    let before = number(&client, gate).await;
    let mut reading = Reading::open(&database, |options| options.reads = Reads::Watch).await;
    client.batch_execute(&insert(2, "after")).await.unwrap();
    database.psql(DONE).await;
    let lines = reading.until_done().await;
    assert_eq!(lines, ["insert posts id ?→2 title ?→after", "|", "done", "|"]);
    reading.end().await;
    assert_eq!(number(&client, ROWS).await, 3);
    assert_eq!(number(&client, "select session + position from rowcast.reader").await, 0);
    assert_eq!(number(&client, gate).await, before);
}

#[tokio::test]
async fn once_is_what_was_committed_before_and_ends_by_itself() {
    let database = outbox(Version::DEFAULT).await;
    let writer = database.client().await;
    let bulk = "insert into rowcast.outbox (shape, op, new)
                select 1, 'i', array[i::text, 'x'] from generate_series(1, 5000) i";
    writer.batch_execute(bulk).await.unwrap();
    writer.batch_execute(&format!("begin; {}", insert(1, "late"))).await.unwrap();
    let mut reading =
        Reading::open(&database, |options| options.until = Until::FirstSnapshot).await;
    let mut count = 0;
    while let Some(batch) = timeout(SOON, reading.changes.recv()).await.expect("it ends") {
        count += reading.words(&batch).len();
    }
    assert_eq!(count, 5001);
    reading.end().await;
    writer.batch_execute("commit").await.unwrap();
    assert_eq!(number(&writer, ROWS).await, 1);
}

on_every_version! {
    async fn asleep_it_is_woken_by_a_notify_and_awake_by_none(version: Version) {
        let database = outbox(version).await;
        let client = database.client().await;
        let mut reading = Reading::open(&database, |options| options.wake = Wake::Notify).await;
        let wakes = "select last_value & 1 from rowcast.gate";
        let sleeps = async || {
            eventually(SOON, "it sleeps", async || {
                (number(&client, wakes).await == 1).then_some(())
            })
            .await;
        };
        sleeps().await;
        // Asleep it would look by itself a second later. A busy machine may take as long now and then.
        let (mut id, mut soon) = (0, Vec::new());
        eventually(2 * SOON, "it is woken in time four times of five", async || {
            let began = std::time::Instant::now();
            let sql = format!("begin; {} notify rowcast; commit", insert(id, "woken"));
            client.batch_execute(&sql).await.unwrap();
            let batch = reading.batch().await;
            assert_eq!(reading.words(&batch).len(), 2);
            soon.push(began.elapsed() < Duration::from_millis(300));
            sleeps().await;
            id += 1;
            let last = &soon[soon.len().saturating_sub(5)..];
            (last.iter().filter(|it| **it).count() >= 4).then_some(())
        })
        .await;
        // Who did not know that it sleeps is heard all the same.
        client.batch_execute(&insert(9, "silent")).await.unwrap();
        let batch = reading.batch().await;
        assert_eq!(reading.words(&batch), ["insert posts id ?→9 title ?→silent", "|"]);
        reading.end().await;
        assert_eq!(number(&client, wakes).await, 0, "nobody is there to be woken");
    }
}

#[tokio::test]
async fn shapes_and_columns_made_later_are_learned_when_they_come() {
    let database = outbox(Version::DEFAULT).await;
    let mut reading = Reading::of(&database).await;
    database
        .psql(
            "alter table posts add column views int;
             insert into rowcast.shapes (relation, columns)
                 values ('posts'::regclass, '{id,gone,views}');
             insert into rowcast.outbox (shape, op, new) values (3, 'i', '{1,x,5}');",
        )
        .await;
    let batch = reading.batch().await;
    assert_eq!(reading.words(&batch), ["insert posts id ?→1 views ?→5", "|"]);
    database
        .psql(
            "alter table posts drop column title;
             insert into rowcast.outbox (shape, op, new) values (1, 'i', '{2,x}');",
        )
        .await;
    let batch = reading.batch().await;
    assert_eq!(reading.words(&batch), ["insert posts id ?→2 title ?→x", "|"], "as it was known");
    reading.end().await;

    database.psql("insert into rowcast.outbox (shape, op, new) values (1, 'i', '{3,x}')").await;
    let mut reading = Reading::of(&database).await;
    let batch = reading.batch().await;
    assert_eq!(reading.words(&batch), ["insert posts id ?→3", "|"]);
    reading.end().await;
}

#[tokio::test]
async fn an_outbox_that_is_gone_ends_the_session_with_what_to_do() {
    let database = outbox(Version::DEFAULT).await;
    let reading = Reading::of(&database).await;
    database.psql("drop table rowcast.outbox").await;
    let error = timeout(SOON, reading.session).await.expect("it ends").unwrap().unwrap_err();
    assert!(matches!(error, Error::NotInstalled { .. }), "{error}");
    assert!(error.hint().unwrap().contains("rowcast setup") && !error.is_transient());
}

#[tokio::test]
async fn who_is_superseded_deletes_nothing_more() {
    let database = outbox(Version::DEFAULT).await;
    database.psql(&insert(1, "a")).await;
    let mut reading = Reading::of(&database).await;
    let batch = reading.batch().await;
    database.psql("update rowcast.reader set session = session + 1").await;
    reading.words(&batch);
    let error = timeout(SOON, reading.session).await.expect("it ends").unwrap().unwrap_err();
    assert!(matches!(error, Error::Superseded), "{error}");
    assert_eq!(number(&database.client().await, ROWS).await, 1);
}

#[tokio::test]
async fn while_nobody_takes_what_is_read_no_commit_is_asked_to_wake_us() {
    let database = outbox(Version::DEFAULT).await;
    let client = database.client().await;
    let mut reading = Reading::open(&database, |options| options.wake = Wake::Notify).await;
    let wakes = async |wanted: i64| {
        eventually(SOON, "the gate says so", async || {
            let wakes = number(&client, "select last_value & 1 from rowcast.gate").await;
            (wakes == wanted).then_some(())
        })
        .await;
    };
    wakes(1).await;
    // More than the queue holds.
    for id in 0..4 {
        let sql = format!("begin; {} notify rowcast; commit", insert(id, "untaken"));
        client.batch_execute(&sql).await.unwrap();
        eventually(SOON, "it is read", async || {
            (reading.changes.len() == (id + 1).min(2)).then_some(())
        })
        .await;
    }
    wakes(0).await;
    client.batch_execute(DONE).await.unwrap();
    let lines = reading.until_done().await;
    assert_eq!(lines.iter().filter(|line| line.contains("untaken")).count(), 4);
    wakes(1).await;
    reading.end().await;
}

#[tokio::test]
async fn while_nobody_takes_what_is_read_nothing_more_is_and_deletion_goes_on() {
    let database = outbox(Version::DEFAULT).await;
    let client = database.client().await;
    client.batch_execute(&insert(0, "first")).await.unwrap();
    let bulk = "insert into rowcast.outbox (shape, op, new)
                select 1, 'i', array[i::text, 'x'] from generate_series(1, 20000) i";
    client.batch_execute(bulk).await.unwrap();
    let mut reading = Reading::of(&database).await;
    let batch = reading.batch().await;
    assert_eq!(reading.words(&batch), ["insert posts id ?→0 title ?→first", "|"]);
    eventually(SOON, "what is delivered goes", async || {
        (number(&client, ROWS).await == 20_000).then_some(())
    })
    .await;
    let mut rows = 0;
    while rows < 20_001 {
        let batch = reading.batch().await;
        rows += reading.words(&batch).len();
    }
    reading.end().await;
    assert_eq!(number(&client, ROWS).await, 0);
}

on_every_version! {
    async fn a_partition_without_triggers_is_told_of_until_it_has_them(version: Version) {
        let database = outbox(version).await;
        let triggers = |table: &str| {
            let of = |name: &str| format!(
                "create trigger rowcast_{name} after {name} on {table}
                 for each statement execute function nothing();"
            );
            ["insert", "update", "delete", "truncate"].map(of).concat()
        };
        database
            .psql(&format!(
                "create table logs (id int primary key) partition by range (id);
                 create table logs_1 partition of logs for values from (0) to (10);
                 create function nothing() returns trigger language plpgsql as 'begin return null; end';
                 insert into rowcast.shapes (relation, columns) values ('logs'::regclass, '{{id}}');
                 {}",
                triggers("logs"),
            ))
            .await;
        let mut reading = Reading::open(&database, |options| {
            options.inspect_every = Duration::from_millis(100);
        })
        .await;
        for _ in 0..2 {
            let batch = reading.batch().await;
            assert_eq!(reading.words(&batch), ["missed logs Unrecorded", "|"]);
        }
        database.psql(&triggers("logs_1")).await;
        eventually(SOON, "it is told no more", async || {
            while reading.changes.try_recv().is_ok() {}
            timeout(Duration::from_millis(500), reading.changes.recv()).await.is_err().then_some(())
        })
        .await;
        reading.end().await;
    }
}
