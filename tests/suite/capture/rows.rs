//! One kind of statement after the other.

use super::*;

const POSTS: &str = "create table posts (id int primary key, title text, other int)";

on_every_version! {
    async fn every_statement_writes_what_it_changed(version: Version) {
        let captured = Captured::on(version, POSTS).await;
        captured.run("insert into posts values (1, 'a', 1), (2, NULL, 2)").await;
        assert_eq!(captured.written().await, ["posts i -> {1,a}", "posts i -> {2,NULL}"]);
        captured.run("update posts set title = 'b' where id = 2").await;
        assert_eq!(captured.written().await, ["posts u {2,NULL} -> {2,b}"]);
        captured.run("update posts set other = 3; update posts set other = 4 where id = 9").await;
        assert_eq!(captured.written().await, ["posts u {1,a} -> {1,a}", "posts u {2,b} -> {2,b}"]);
        captured.run("update posts set id = 7 where id = 2").await;
        let mut written = captured.written().await;
        written.sort();
        assert_eq!(written, ["posts d {2,b}", "posts i -> {7,b}"]);
        captured.run("delete from posts where id = 7").await;
        assert_eq!(captured.written().await, ["posts d {7,b}"]);
        captured.run("truncate posts").await;
        assert_eq!(captured.written().await, ["posts t"]);
        assert_eq!((captured.failures().await, captured.refusals().await), (0, 0));
    }
}
