//! What applications say, where triggers write it.

use super::*;

const POSTS: &str = "create table posts (id int primary key, title text);
                     grant all on posts to public";

/// As a role that may do nothing in schema rowcast.
async fn as_stranger(captured: &Captured, script: &str) {
    let role = format!("stranger_{}", captured.database.name);
    let sql = format!(
        "do $$ begin create role {role}; exception when duplicate_object then null; end $$;
         set role {role}; {script}; reset role"
    );
    captured.run(&sql).await;
}

on_every_version! {
    async fn a_context_comes_before_what_its_transaction_changes_once(version: Version) {
        let captured = Captured::on(version, POSTS).await;
        as_stranger(&captured, "begin; insert into posts values (1);
            select rowcast.context('{\"user_id\":7}'); update posts set title = 'a' where id = 9;
            insert into posts values (2); delete from posts where id = 2; savepoint s;
            select rowcast.context('{\"user_id\":8}'); truncate posts; rollback to s;
            insert into posts values (3); select rowcast.context(null);
            select rowcast.context('{\"user_id\":9}'); select rowcast.broadcast('c', 'e', '[1]');
            insert into posts values (4); commit; insert into posts values (5)").await;
        let written = captured.written().await;
        assert_eq!(
            written,
            [
                "posts i -> {1,NULL}",
                "c -> {\"user_id\": 7}",
                "posts i -> {2,NULL}",
                "posts d {2,NULL}",
                "posts i -> {3,NULL}",
                "c -> {\"user_id\": 9}",
                "b -> {\"data\": [1], \"event\": \"e\", \"channel\": \"c\"}",
                "posts i -> {4,NULL}",
                "posts i -> {5,NULL}"
            ]
        );
        captured.wrote_everything().await;
    }
}

#[tokio::test]
async fn where_nothing_can_be_written_nothing_is_said_and_what_is_too_long_is_cut() {
    let captured = Captured::on(Version::DEFAULT, POSTS).await;
    as_stranger(
        &captured,
        "begin read only; select rowcast.context('{}');
        select rowcast.broadcast('c', 'e'); commit",
    )
    .await;
    assert!(captured.written().await.is_empty());
    as_stranger(
        &captured,
        "begin; select rowcast.context(jsonb_build_object('a', repeat('x', 1000000)));
        insert into posts values (1); insert into posts values (2);
        select rowcast.broadcast('c', 'e', to_jsonb(repeat('x', 1000000))); commit",
    )
    .await;
    let lengths: Vec<usize> = captured.written().await.iter().map(String::len).collect();
    assert_eq!(lengths, ["c -> ".len() + 4097, 19, 19, "b -> ".len() + (256 << 10) + 1]);
    captured.wrote_everything().await;
}
