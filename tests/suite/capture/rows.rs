//! One kind of statement after the other.

use super::*;

const POSTS: &str = "create table posts (id int primary key, title text, other int)";

on_every_version! {
    async fn every_statement_writes_what_it_changed(version: Version) {
        let captured = Captured::on(version, POSTS).await;
        captured.run("insert into posts values (1, 'a', 1), (2, null, 2)").await;
        assert_eq!(captured.written().await, ["posts i -> {1,a}", "posts i -> {2,NULL}"]);
        captured.run("update posts set title = 'b' where id = 2").await;
        assert_eq!(captured.written().await, ["posts u {2,NULL} -> {2,b}"]);
        captured.run("update posts set other = 3; update posts set other = 4 where id = 9").await;
        let both = ["posts u {1,a} -> {1,a}", "posts u {2,b} -> {2,b}"];
        assert_eq!(captured.written_sorted().await, both);
        captured.run("update posts set id = 7 where id = 2").await;
        assert_eq!(captured.written_sorted().await, ["posts d {2,b}", "posts i -> {7,b}"]);
        captured.run("insert into posts values (1, 'c'), (3, 'd') on conflict (id) do update set title = 'e'").await;
        assert_eq!(captured.written_sorted().await, ["posts i -> {3,d}", "posts u {1,a} -> {1,e}"]);
        captured.run(r"copy posts from program 'printf ''4\tf\t0\n5\t\\N\t0\n'''").await;
        assert_eq!(captured.written().await, ["posts i -> {4,f}", "posts i -> {5,NULL}"]);
        if version.major() >= 15 {
            captured.run(
                "merge into posts p using (values (1), (3), (6)) v(id) on p.id = v.id
                 when matched and v.id = 3 then delete when matched then update set title = 'g'
                 when not matched then insert values (v.id, 'h')",
            ).await;
            let merged = ["posts d {3,d}", "posts i -> {6,h}", "posts u {1,e} -> {1,g}"];
            assert_eq!(captured.written_sorted().await, merged);
        }
        captured.run("delete from posts where id in (5, 7)").await;
        assert_eq!(captured.written_sorted().await, ["posts d {5,NULL}", "posts d {7,b}"]);
        captured.run("truncate posts").await;
        assert_eq!(captured.written().await, ["posts t"]);
        captured.wrote_everything().await;
    }
}

on_every_version! {
    async fn rows_of_partitions_are_their_roots(version: Version) {
        let schema = "create table parts (id int, title text, other int, primary key (id)) partition by range (id);
                      create table low partition of parts for values from (0) to (10);
                      create table high (title text, junk int, other int, id int not null);
                      alter table high drop junk;
                      create table level partition of parts for values from (20) to (40) partition by range (id);
                      create table deep partition of level for values from (20) to (30);
                      alter table parts attach partition high for values from (10) to (20)";
        let captured = Captured::on(version, schema).await;
        captured.run("insert into parts values (1, 'a'), (11, 'b'), (21, 'c')").await;
        let all = ["parts i -> {1,a}", "parts i -> {11,b}", "parts i -> {21,c}"];
        assert_eq!(captured.written_sorted().await, all);
        captured.run("insert into high (id, title) values (12, 'd'); insert into level values (22, 'e')").await;
        assert_eq!(captured.written().await, ["parts i -> {12,d}", "parts i -> {22,e}"]);
        captured.run("update high set title = 'f' where id = 12; delete from deep where id = 22").await;
        assert_eq!(captured.written().await, ["parts u {12,d} -> {12,f}", "parts d {22,e}"]);
        captured.run("update parts set id = id + 12 where id in (1, 11)").await;
        let moved = ["parts d {1,a}", "parts d {11,b}", "parts i -> {13,a}", "parts i -> {23,b}"];
        assert_eq!(captured.written_sorted().await, moved);
        captured.run("truncate parts").await;
        assert!(captured.written().await.iter().all(|line| line == "parts t"));
        captured.run("insert into high (id) values (12); truncate high").await;
        assert_eq!(captured.written().await, ["parts i -> {12,NULL}", "parts t"]);
        captured.wrote_everything().await;
    }
}

#[tokio::test]
async fn old_and_new_rows_meet_by_key_and_not_by_place() {
    let captured = Captured::on(
        Version::DEFAULT,
        "create table posts (id int primary key, title text, other int);
         create table pairs (a int, b text collate \"C\", other int, title text, primary key (b, a))",
    )
    .await;
    captured.run("insert into posts values (1, 'a'), (2, 'b'), (3, 'c')").await;
    captured.written().await;
    captured
        .run("alter table posts drop constraint posts_pkey, add primary key (id) deferrable")
        .await;
    captured.run("update posts set id = id + 1").await;
    assert_eq!(
        captured.written_sorted().await,
        ["posts d {1,a}", "posts i -> {4,c}", "posts u {2,b} -> {2,a}", "posts u {3,c} -> {3,b}"]
    );
    captured.run("insert into pairs values (1, 'x', 0, 'p'), (1, 'y', 0, 'q')").await;
    captured.run("update pairs set title = title || a").await;
    captured.run("update pairs set b = 'z' where b = 'x'").await;
    assert_eq!(
        captured.written_sorted().await,
        [
            "pairs d {1,x,p1}",
            "pairs i -> {1,x,p}",
            "pairs i -> {1,y,q}",
            "pairs i -> {1,z,p1}",
            "pairs u {1,x,p} -> {1,x,p1}",
            "pairs u {1,y,q} -> {1,y,q1}"
        ]
    );
    captured.wrote_everything().await;
}

/// A move that a trigger of the target swallows shifts old rows against new ones.
#[tokio::test]
async fn a_swallowed_move_between_partitions_pairs_no_row_with_anothers() {
    let captured = Captured::on(
        Version::DEFAULT,
        "create table parts (id int primary key, title text) partition by range (id);
         create table low partition of parts for values from (0) to (10);
         create table high partition of parts for values from (10) to (20);
         create function swallow() returns trigger language plpgsql as 'begin return null; end';
         create trigger swallow before insert on high for each row execute function swallow()",
    )
    .await;
    captured.run("insert into parts values (1, 'a'), (2, 'b'), (3, 'c')").await;
    captured.written().await;
    captured
        .run("update parts set id = case id when 1 then 11 else id end, title = title || id")
        .await;
    assert_eq!(
        captured.written_sorted().await,
        ["parts d {1,a}", "parts u {2,b} -> {2,b2}", "parts u {3,c} -> {3,c3}"]
    );
    captured.wrote_everything().await;
}

#[tokio::test]
async fn what_other_tables_take_along_is_written_too() {
    let captured = Captured::on(
        Version::DEFAULT,
        "create table users (id int primary key);
         create table posts (id int primary key, author int references users on delete cascade on update cascade)",
    )
    .await;
    captured
        .run("insert into users values (1), (2); insert into posts values (1, 1), (2, 2)")
        .await;
    captured.written().await;
    captured.run("update users set id = 3 where id = 1").await;
    assert_eq!(
        captured.written_sorted().await,
        ["posts u {1,1} -> {1,3}", "users d {1}", "users i -> {3}"]
    );
    captured.run("delete from users where id = 3").await;
    assert_eq!(captured.written_sorted().await, ["posts d {1,3}", "users d {3}"]);
    captured.run("truncate users cascade").await;
    assert_eq!(captured.written_sorted().await, ["posts t", "users t"]);
    captured.wrote_everything().await;
}

#[tokio::test]
async fn what_is_rolled_back_is_not_written_and_what_a_replica_writes_is() {
    let captured = Captured::on(Version::DEFAULT, POSTS).await;
    captured
        .run(
            "begin; insert into posts values (1, 'a'); savepoint s; insert into posts values (2, 'b');
             rollback to s; update posts set title = 'c'; commit;
             begin; delete from posts; rollback",
        )
        .await;
    assert_eq!(captured.written().await, ["posts i -> {1,a}", "posts u {1,a} -> {1,c}"]);
    captured.run("set session_replication_role = replica; delete from posts; reset session_replication_role").await;
    assert_eq!(captured.written().await, ["posts d {1,c}"]);
    captured.wrote_everything().await;
}

/// Each of its statements is a subtransaction, of which the server keeps 64 at hand.
#[tokio::test]
async fn a_transaction_may_consist_of_many_statements() {
    let captured = Captured::on(Version::DEFAULT, POSTS).await;
    captured
        .run("do $$ begin for i in 1..300 loop insert into posts values (i); end loop; end $$")
        .await;
    assert_eq!(captured.written().await.len(), 300);
    captured.wrote_everything().await;
}

/// A session's plans are made at its first statement.
#[tokio::test]
async fn what_is_planned_for_one_row_does_for_all() {
    let captured = Captured::on(Version::DEFAULT, POSTS).await;
    captured
        .run(
            "set statement_timeout = '60s';
             insert into posts values (0, 'a');
             update posts set title = 'b' where id = 0; update posts set title = 'b' where id = 0;
             update posts set title = 'b' where id = 0; update posts set title = 'b' where id = 0;
             update posts set title = 'b' where id = 0; update posts set title = 'b' where id = 0;
             insert into posts select i, 'c' from generate_series(1, 100000) i;
             update posts set title = 'd'; reset statement_timeout",
        )
        .await;
    let sql =
        "select count(*) from rowcast.outbox where op = 'u' and old[1] = new[1] and new[2] = 'd'";
    let paired: i64 =
        captured.client.query_one(sql, &[]).await.expect("the outbox is there").get(0);
    assert_eq!(paired, 100_001);
    captured.wrote_everything().await;
}
