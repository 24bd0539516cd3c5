//! The source `wal` by itself: what a session hands on of real changes, and what it confirms.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use rowcast::{
    change::{Batch, Change, Item, Lsn, Operation, Position, Relation, Value},
    postgres::catalog,
    source::wal::{
        Error, Options, STATUS_INTERVAL, Session, SlotChoice, connection::ReplicationConnection,
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::harness::{
    cluster::{Cluster, FAST, Stop, Version, on_every_version},
    database::Database,
    wait::{SOON, eventually},
};

/// A session with its slot and publication, and hands to hold its ends.
pub(crate) struct Streaming {
    changes: mpsc::Receiver<Batch>,
    confirmed: watch::Sender<Option<Position>>,
    /// Whether what is read is confirmed as it comes.
    confirms: bool,
    stop: watch::Sender<bool>,
    session: JoinHandle<Result<(), Error>>,
}

/// Columns that a rule would name, by their names.
pub(crate) type Wanted = &'static [&'static str];

impl Streaming {
    /// Of every table that is there now, from now on.
    pub(crate) async fn of(database: &Database, wanted: Wanted) -> Streaming {
        let client = database.client().await;
        client.batch_execute("create publication p for all tables").await.unwrap();
        let slot = database.slot();
        client
            .execute("select pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot])
            .await
            .unwrap();
        Streaming::again(database, wanted).await
    }

    /// With the slot and publication that are there already.
    async fn again(database: &Database, wanted: Wanted) -> Streaming {
        let client = database.client().await;
        let options = Options {
            dsn: database.url().parse().unwrap(),
            slot: SlotChoice::Named(database.slot().parse().unwrap()),
            publication: "p".parse().unwrap(),
            status_interval: STATUS_INTERVAL,
            wal_sender_timeout: Duration::from_secs(60),
            catalog: catalog::relations(&client).await.unwrap(),
            wanted: Box::new(move |relation: &Relation| {
                relation.columns.iter().map(|column| wanted.contains(&&*column.name)).collect()
            }),
            start: None,
            until: None,
        };
        let connection = ReplicationConnection::connect(&options.dsn, "wal").await.unwrap();
        let session = Session::open(connection, options).await.unwrap();
        let (changes_tx, changes) = mpsc::channel(2);
        let (confirmed, confirmed_rx) = watch::channel(None);
        let (stop, stop_rx) = watch::channel(false);
        let session = tokio::spawn(session.run(changes_tx, confirmed_rx, stop_rx));
        Streaming { changes, confirmed, confirms: true, stop, session }
    }

    /// The next batch that has a change.
    pub(crate) async fn batch(&mut self) -> Batch {
        loop {
            let batch = timeout(SOON, self.changes.recv()).await.expect("changes come soon");
            let batch = batch.expect("the session goes on");
            if batch.change().is_some() {
                return batch;
            }
        }
    }

    /// What comes until a change of the table `done`, in words.
    async fn until_done(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut done = false;
        while !done {
            let batch = timeout(SOON, self.changes.recv()).await.expect("changes come soon");
            let batch = batch.expect("the session goes on");
            for item in batch.items() {
                match item {
                    Item::Change(change) if &*change.relation.table.name == "done" => done = true,
                    Item::Change(change) => lines.push(in_words(&change)),
                    Item::Truncate { relation, .. } => {
                        lines.push(format!("truncate {}", relation.table))
                    }
                    Item::Broadcast { broadcast, .. } => lines.push(format!(
                        "broadcast {} {} {}",
                        broadcast.channel, broadcast.event, broadcast.data
                    )),
                    Item::Missed { relation, .. } => {
                        let table =
                            relation.map_or("everything".to_owned(), |it| it.table.to_string());
                        lines.push(format!("missed {table}"));
                    }
                    Item::Reached(position) if self.confirms => {
                        self.confirmed.send_replace(Some(position));
                    }
                    Item::Reached(_) => {}
                }
            }
        }
        lines
    }

    /// Reads on until the server has sent all up to there, and confirms it.
    async fn until_reached(&mut self, lsn: Lsn) {
        let is_reached = |position: &Option<Position>| {
            position.is_some_and(|position| Lsn::from(position.value()) >= lsn)
        };
        while !is_reached(&self.confirmed.borrow()) {
            let batch = timeout(SOON, self.changes.recv()).await.expect("it comes soon");
            for item in batch.expect("the session goes on").items() {
                let Item::Reached(position) = item else { panic!("{item:?}") };
                self.confirmed.send_replace(Some(position));
            }
        }
    }

    /// Ends it as a shutdown does, once everything was confirmed.
    async fn end(self) {
        let Streaming { mut changes, confirmed, stop, session, .. } = self;
        stop.send_replace(true);
        while let Some(batch) = changes.recv().await {
            for item in batch.items() {
                if let Item::Reached(position) = item {
                    confirmed.send_replace(Some(position));
                }
            }
        }
        drop(confirmed);
        timeout(SOON, session).await.expect("it ends").expect("without panic").unwrap();
    }
}

/// `update public.posts id 1→1, title ?→"x"`: old and new of each column.
fn in_words(change: &Change<'_>) -> String {
    let operation = match change.operation {
        Operation::Insert => "insert",
        Operation::Update => "update",
        Operation::Delete => "delete",
        Operation::Read => "read",
    };
    let mut text = format!("{operation} {}", change.relation.table);
    for (index, column) in change.relation.columns.iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        let (old, new) = (word(change.old_value(index)), word(change.new_value(index)));
        write!(text, "{separator} {} {old}→{new}", column.name).unwrap();
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

on_every_version! {
    async fn old_rows_carry_what_the_replica_identity_says_and_no_more(version: Version) {
        let database = Database::on(version).await;
        database
            .psql(
                "create table done (id int primary key);
                 create table by_key (id int primary key, owner int, note text);
                 create table by_index (id int primary key, owner int not null, note text);
                 create unique index by_index_owner on by_index (id, owner);
                 alter table by_index replica identity using index by_index_owner;
                 create table in_full (id int primary key, owner int, note text);
                 alter table in_full replica identity full;
                 create domain cents as int;
                 create table odd (\"Näme\" cents, id int primary key);",
            )
            .await;
        let mut streaming = Streaming::of(&database, &["id", "owner", "note", "Näme"]).await;
        database
            .psql(
                "insert into by_key values (1, 7, null);
                 update by_key set note = 'x';
                 update by_key set id = 2;
                 delete from by_key;
                 insert into by_index values (1, 7, null);
                 update by_index set note = 'x';
                 update by_index set owner = 8;
                 delete from by_index;
                 insert into in_full values (1, 7, null);
                 update in_full set note = 'x';
                 delete from in_full;
                 begin; insert into by_key values (9, 9, 'never'); rollback;
                 begin; insert into by_key values (3, 3, 'kept'); savepoint s;
                 insert into by_key values (4, 4, 'undone'); rollback to s; commit;
                 insert into odd values (5, 1);
                 truncate by_key, in_full;
                 insert into done values (1);",
            )
            .await;
        assert_eq!(
            streaming.until_done().await,
            [
                "insert public.by_key id ?→1, owner ?→7, note ?→null",
                "update public.by_key id 1→1, owner ?→7, note ?→x",
                "update public.by_key id 1→2, owner ?→7, note ?→x",
                "delete public.by_key id 2→?, owner ?→?, note ?→?",
                "insert public.by_index id ?→1, owner ?→7, note ?→null",
                "update public.by_index id 1→1, owner 7→7, note ?→x",
                "update public.by_index id 1→1, owner 7→8, note ?→x",
                "delete public.by_index id 1→?, owner 8→?, note ?→?",
                "insert public.in_full id ?→1, owner ?→7, note ?→null",
                "update public.in_full id 1→1, owner 7→7, note null→x",
                "delete public.in_full id 1→?, owner 7→?, note x→?",
                "insert public.by_key id ?→3, owner ?→3, note ?→kept",
                "insert public.odd Näme ?→5, id ?→1",
                "truncate public.by_key",
                "truncate public.in_full",
            ]
        );
        streaming.end().await;
    }
}

on_every_version! {
    async fn an_unchanged_toasted_value_is_the_same_and_never_null(version: Version) {
        let database = Database::on(version).await;
        database
            .psql(
                "create table done (id int primary key);
                 create table by_key (id int primary key, n int, body text);
                 create table in_full (id int primary key, n int, body text);
                 alter table by_key alter body set storage external;
                 alter table in_full alter body set storage external, replica identity full;
                 insert into by_key values (1, 0, repeat('x', 9000));
                 insert into in_full select * from by_key;",
            )
            .await;
        let mut streaming = Streaming::of(&database, &["id", "n", "body"]).await;
        database
            .psql(
                "update by_key set n = 1;
                 update in_full set n = 1;
                 update in_full set body = repeat('y', 9000);
                 insert into done values (1);",
            )
            .await;
        assert_eq!(
            streaming.until_done().await,
            [
                "update public.by_key id 1→1, n ?→1, body ?→same",
                "update public.in_full id 1→1, n 0→1, body 9000 bytes→9000 bytes",
                "update public.in_full id 1→1, n 1→1, body 9000 bytes→9000 bytes",
            ]
        );
        streaming.end().await;
    }
}

on_every_version! {
    async fn a_migration_in_the_stream_is_followed_from_its_row_on(version: Version) {
        let database = Database::on(version).await;
        database
            .psql(
                "create table done (id int primary key);
                 create table posts (id int primary key, title text, old_name int);",
            )
            .await;
        let mut streaming = Streaming::of(&database, &["id", "title", "old_name", "new_name", "views"]).await;
        database
            .psql(
                "insert into posts values (1, 'a', 1);
                 alter table posts add column views int default 5;
                 alter table posts rename old_name to new_name;
                 insert into posts values (2, 'b', 2);
                 alter table posts drop column title;
                 insert into posts values (3, 3, 6);
                 alter table posts replica identity full;
                 delete from posts where id = 3;
                 insert into done values (1);",
            )
            .await;
        assert_eq!(
            streaming.until_done().await,
            [
                "insert public.posts id ?→1, title ?→a, old_name ?→1",
                "insert public.posts id ?→2, title ?→b, new_name ?→2, views ?→5",
                "insert public.posts id ?→3, new_name ?→3, views ?→6",
                "delete public.posts id 3→?, new_name 3→?, views 6→?",
            ]
        );
        streaming.end().await;
    }
}

on_every_version! {
    async fn a_graceful_end_confirms_everything_so_nothing_comes_twice(version: Version) {
        let database = Database::on(version).await;
        database
            .psql("create table done (id int primary key); create table t (id int primary key);")
            .await;
        let mut streaming = Streaming::of(&database, &[]).await;
        database.psql("insert into t values (1); insert into done values (1);").await;
        assert_eq!(streaming.until_done().await, ["insert public.t id ?→1"]);
        let committed = database.written().await;
        streaming.until_reached(committed).await;
        streaming.end().await;
        assert!(database.confirmed().await >= committed);
        database.psql("insert into t values (2); insert into done values (2);").await;
        let mut streaming = Streaming::again(&database, &[]).await;
        assert_eq!(streaming.until_done().await, ["insert public.t id ?→2"]);
        streaming.end().await;
    }
}

on_every_version! {
    async fn an_idle_table_retains_no_log_while_another_is_busy(version: Version) {
        let database = Database::on(version).await;
        database
            .psql(
                "create table busy (id int);
                 create table t (id int primary key);
                 create publication p for table t;",
            )
            .await;
        let client = database.client().await;
        let slot = database.slot();
        let sql = "select pg_create_logical_replication_slot($1, 'pgoutput')";
        client.execute(sql, &[&slot]).await.unwrap();
        let mut streaming = Streaming::again(&database, &[]).await;
        database.psql("insert into busy select generate_series(1, 20000)").await;
        let written = database.written().await;
        streaming.until_reached(written).await;
        eventually(SOON, "the slot follows", async || {
            (database.confirmed().await >= written).then_some(())
        })
        .await;
        streaming.end().await;
    }
}

#[tokio::test]
async fn what_was_not_confirmed_comes_again_after_the_connection_was_cut() {
    let database = Database::on(Version::DEFAULT).await;
    database
        .psql("create table done (id int primary key); create table t (id int primary key);")
        .await;
    let mut streaming = Streaming::of(&database, &[]).await;
    streaming.confirms = false;
    database.psql("insert into t values (1); insert into done values (1);").await;
    let first = streaming.until_done().await;
    let slot = database.slot();
    let client = database.client().await;
    let sql =
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1";
    client.execute(sql, &[&slot]).await.unwrap();
    // Whatever it still hands on, it ends with an error, and does not confirm.
    let ended = timeout(SOON, async {
        while streaming.changes.recv().await.is_some() {}
        streaming.session.await.unwrap()
    });
    let error = ended.await.unwrap().unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    eventually(SOON, "the slot is free", async || {
        let sql = "select not active from pg_replication_slots where slot_name = $1";
        client.query_one(sql, &[&slot]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    let mut again = Streaming::again(&database, &[]).await;
    assert_eq!(again.until_done().await, first);
    again.end().await;
}

#[tokio::test]
async fn a_server_stops_fast_when_everything_was_confirmed() {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let database = Database::fresh(&cluster).await;
    database
        .psql("create table done (id int primary key); create table t (id int primary key);")
        .await;
    let mut streaming = Streaming::of(&database, &[]).await;
    database.psql("insert into t values (1); insert into done values (1);").await;
    streaming.until_done().await;
    let confirmed = streaming.confirmed.clone();
    let mut changes = streaming.changes;
    let confirming = tokio::spawn(async move {
        while let Some(batch) = changes.recv().await {
            for item in batch.items() {
                if let Item::Reached(position) = item {
                    confirmed.send_replace(Some(position));
                }
            }
        }
    });
    let took = cluster.stop(Stop::Fast).await;
    assert!(took < FAST, "it took {took:?}");
    confirming.await.unwrap();
    let ended = timeout(SOON, streaming.session).await.unwrap().unwrap();
    assert!(ended.is_err(), "a session that the server ended has not ended well");
}

#[tokio::test]
async fn huge_rows_keep_the_columns_that_rules_name_and_tell_whether_the_rest_changed() {
    let database = Database::on(Version::DEFAULT).await;
    database
        .psql(
            "create table done (id int primary key);
             create table files (id int primary key, name text, content text);
             alter table files replica identity full;",
        )
        .await;
    let mut streaming = Streaming::of(&database, &["id", "name"]).await;
    database
        .psql(
            "insert into files values (1, 'a', repeat('x', 40000000));
             update files set name = 'b';
             update files set content = repeat('y', 40000000);
             insert into done values (1);",
        )
        .await;
    let mut lines = Vec::new();
    let mut contents = Vec::new();
    'reading: loop {
        let batch = timeout(SOON, streaming.changes.recv()).await.unwrap().unwrap();
        for item in batch.items() {
            if let Item::Change(change) = item {
                if &*change.relation.table.name == "done" {
                    break 'reading;
                }
                contents.push(change.column_changed(2));
                lines.push(in_words(&change));
            }
        }
    }
    assert_eq!(
        lines,
        [
            "insert public.files id ?→1, name ?→a, content ?→omitted",
            "update public.files id 1→1, name a→b, content omitted→omitted",
            "update public.files id 1→1, name b→b, content omitted→omitted",
        ]
    );
    assert_eq!(contents, [None, Some(false), Some(true)]);
    streaming.end().await;
}

on_every_version! {
    async fn a_publication_that_is_newer_than_the_slot_is_an_error_and_no_gap(version: Version) {
        let database = Database::on(version).await;
        database.psql("create table done (id int primary key)").await;
        let slot = database.slot();
        let sql = "select pg_create_logical_replication_slot($1, 'pgoutput')";
        database.client().await.execute(sql, &[&slot]).await.unwrap();
        database.psql("insert into done values (1); create publication p for all tables").await;
        let before = database.confirmed().await;
        let mut streaming = Streaming::again(&database, &[]).await;
        let ended = timeout(SOON, async {
            while streaming.changes.recv().await.is_some() {}
            streaming.session.await.unwrap()
        });
        let error = ended.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Publication { .. }), "{error:?}");
        assert!(!error.is_transient());
        assert_eq!(database.confirmed().await, before);
    }
}
