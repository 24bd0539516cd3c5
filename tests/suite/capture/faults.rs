//! The application's statements neither fail nor wait, whatever becomes of the outbox.

use std::time::{Duration, Instant};

use super::*;
use crate::harness::cluster::Cluster;

const POSTS: &str = "create table posts (id int primary key, title text, extra text);
                     insert into posts values (1, 'a', 'x')";
const UPDATE: &str = "update posts set id = id";

#[tokio::test]
async fn what_cannot_be_written_is_counted_and_the_statement_succeeds() {
    let captured = Captured::on(Version::DEFAULT, POSTS).await;
    captured.run(UPDATE).await;
    for (failures, fault) in (1..).zip([
        "alter table posts drop column extra",
        "alter table posts rename column title to heading",
        "truncate rowcast.outbox; alter table rowcast.outbox drop column old",
        "drop sequence rowcast.gate",
        "drop sequence rowcast.outbox_id cascade",
        "drop table rowcast.outbox cascade",
    ]) {
        captured.run(fault).await;
        let before = captured.failures().await;
        captured.run(UPDATE).await;
        assert_eq!(captured.failures().await, before + 1, "{failures}: {fault}");
        captured
            .run("begin; insert into posts values (2); delete from posts where id = 2; commit")
            .await;
    }
    captured.run("drop sequence rowcast.failures").await;
    captured.run(UPDATE).await;
    captured.run("truncate posts").await;
    captured.run("drop schema rowcast cascade").await;
    captured.run("insert into posts values (1)").await;
}

#[tokio::test]
async fn nobody_waits_for_a_locked_outbox() {
    let captured = Captured::on(Version::DEFAULT, POSTS).await;
    let holder = captured.database.client().await;
    holder.batch_execute("begin; lock table rowcast.outbox").await.expect("the superuser may");
    let begun = Instant::now();
    captured.run(UPDATE).await;
    captured.run("select rowcast.broadcast('a', 'b')").await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(captured.failures().await, 2);
    holder.batch_execute("rollback").await.expect("it was begun");
    captured.run(UPDATE).await;
    assert_eq!((captured.written().await.len(), captured.failures().await), (1, 2));
}

#[tokio::test]
async fn a_full_outbox_takes_nothing_more_not_even_of_one_huge_statement() {
    let captured = Captured::on(Version::DEFAULT, POSTS).await;
    let rows = async || {
        let sql = "select count(*) from rowcast.outbox";
        captured.client.query_one(sql, &[]).await.expect("the outbox is there").get::<_, i64>(0)
    };
    captured
        .run("select setval('rowcast.gate', 2 * (last_value + 10)) from rowcast.outbox_id")
        .await;
    captured.run("insert into posts select i from generate_series(2, 5) i").await;
    assert_eq!((rows().await, captured.refusals().await), (4, 0));
    captured.run("insert into posts select i from generate_series(10, 10000) i").await;
    assert_eq!((rows().await, captured.refusals().await), (10, 1));
    captured.run("update posts set title = 'b'; delete from posts; truncate posts").await;
    captured.run("select rowcast.context('{}'); insert into posts values (1)").await;
    captured.run("select rowcast.broadcast('a', 'b')").await;
    assert_eq!((rows().await, captured.refusals().await, captured.failures().await), (10, 6, 0));
    captured
        .run("select setval('rowcast.gate', 2 * (last_value + 10)) from rowcast.outbox_id")
        .await;
    captured.run(UPDATE).await;
    assert_eq!((rows().await, captured.refusals().await), (11, 6));
}

#[tokio::test]
async fn whoever_empties_the_outbox_steps_failures() {
    let captured = Captured::on(Version::DEFAULT, POSTS).await;
    captured
        .run("set session_replication_role = replica; truncate rowcast.outbox; reset all")
        .await;
    assert_eq!(captured.failures().await, 1);
}

#[tokio::test]
async fn a_prepared_transaction_is_written_unless_somebody_is_to_be_woken() {
    let cluster = Cluster::start(Version::DEFAULT, &[("max_prepared_transactions", "2")]).await;
    let database = Database::fresh(&std::sync::Arc::new(cluster)).await;
    let captured = Captured::in_database(database, POSTS).await;
    let script = "begin; update posts set title = 'b'; prepare transaction 'p'";
    captured.run(script).await;
    assert!(captured.written().await.is_empty());
    captured.run("commit prepared 'p'").await;
    assert_eq!(captured.written().await, ["posts u {1,a,x} -> {1,b,x}"]);
    captured.run("select setval('rowcast.gate', last_value + 1) from rowcast.gate").await;
    let error = captured.client.batch_execute(script).await.expect_err("NOTIFY cannot be prepared");
    assert!(error.as_db_error().is_some_and(|it| it.message().contains("NOTIFY")), "{error:?}");
}

#[tokio::test]
async fn the_functions_are_called_by_nobody_else() {
    let captured = Captured::on(Version::DEFAULT, POSTS).await;
    let sql = "select proname::text from pg_proc where pronamespace = 'rowcast'::regnamespace
               and has_function_privilege('public', oid, 'execute') order by 1";
    let rows = captured.client.query(sql, &[]).await.expect("the catalog is there");
    let for_all: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(for_all, ["broadcast", "context", "outbox_broadcast"]);
    let stranger = format!("owner_{}", captured.database.name);
    let create = format!(
        "create role {stranger}; grant create on schema public to {stranger}; set role {stranger};
         create table own (id int primary key, title text, extra text);
         create trigger t after insert on own referencing new table as new_rows
         for each statement execute function rowcast.%s()"
    );
    let name = "select proname::text from pg_proc where proname ~ '^capture_.*_insert$'";
    let name: String = captured.client.query_one(name, &[]).await.expect("it is there").get(0);
    let refused = captured.client.batch_execute(&create.replace("%s", &name)).await;
    let error = refused.expect_err("it was not granted");
    assert!(
        error.as_db_error().is_some_and(|it| it.message().contains("permission denied")),
        "{error:?}"
    );
}
