//! The functions by which an application speaks to rowcast, as `setup` and `teardown` make and remove them.

use super::{BROADCAST, POSTS, RULE, config};
use crate::harness::{
    cluster::Version, database::Database, process::Process, rowcast::Rowcast, wait::SOON,
};

const FUNCTIONS: &str = "functions rowcast.context and rowcast.broadcast";
const THERE: &str = "select count(*) from pg_proc where pronamespace = to_regnamespace('rowcast');
                     select to_regnamespace('rowcast')";

async fn scene(rules: &str) -> (Database, Rowcast) {
    let database = Database::on(Version::DEFAULT).await;
    database.psql(POSTS).await;
    let pusher = "url = 'http://127.0.0.1:1'\napp_id = 'a'\nkey = 'k'\nsecret = 's'\n";
    let rowcast = Rowcast::new(&config(&database.toml(), pusher, rules));
    (database, rowcast)
}

async fn ended(process: &Process) -> (i32, String) {
    let code = process.exit_code(SOON).await;
    (code, [process.stdout.all(), process.stderr.all()].concat().join("\n"))
}

#[tokio::test]
async fn setup_makes_them_once_and_teardown_removes_what_setup_made() {
    let (database, rowcast) = scene(RULE).await;
    let (code, said) = ended(&rowcast.start(&["setup"])).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("changed    {FUNCTIONS}")), "{said}");
    let (code, said) = ended(&rowcast.start(&["setup"])).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("unchanged  {FUNCTIONS}")), "{said}");

    // One that is not as it should be is made anew.
    let other = "create or replace function rowcast.context(context jsonb) returns void language sql as 'select'";
    database.psql(other).await;
    let (code, said) = ended(&rowcast.start(&["setup"])).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("changed    {FUNCTIONS}")), "{said}");

    let (code, said) = ended(&rowcast.start(&["teardown"])).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(database.psql(THERE).await.trim(), "0");
}

#[tokio::test]
async fn print_is_a_script_that_psql_runs() {
    let (database, rowcast) = scene(RULE).await;
    let print = rowcast.start(&["setup", "--print"]);
    assert_eq!(print.exit_code(SOON).await, 0);
    database.psql(&print.stdout.all().join("\n")).await;
    let (code, said) = ended(&rowcast.start(&["setup"])).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("unchanged  {FUNCTIONS}")), "{said}");
    let print = rowcast.start(&["teardown", "--print"]);
    assert_eq!(print.exit_code(SOON).await, 0);
    database.psql(&print.stdout.all().join("\n")).await;
    assert_eq!(database.psql(THERE).await.trim(), "0");
}

#[tokio::test]
async fn a_schema_with_anything_else_in_it_stays() {
    let (database, rowcast) = scene(RULE).await;
    let (code, said) = ended(&rowcast.start(&["setup"])).await;
    assert_eq!(code, 0, "{said}");
    database.psql("create table rowcast.notes (n int)").await;
    let (code, said) = ended(&rowcast.start(&["teardown"])).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(database.psql(THERE).await.trim(), "0\nrowcast");
}

#[tokio::test]
async fn everyone_may_call_them_and_nobody_make_others_there() {
    let (database, rowcast) = scene(RULE).await;
    let (code, said) = ended(&rowcast.start(&["setup"])).await;
    assert_eq!(code, 0, "{said}");
    let role = format!("anyone_{}", database.name);
    database
        .psql(&format!(
            "create role {role}; set role {role};
             select rowcast.context('{{}}'); select rowcast.broadcast('c', 'e');"
        ))
        .await;
    let made =
        database.psql(&format!("select has_schema_privilege('{role}', 'rowcast', 'create')")).await;
    assert_eq!(made.trim(), "f");
    database.psql(&format!("drop role {role}")).await;
}

#[tokio::test]
async fn without_the_right_to_make_them_setup_goes_on_and_fails_only_if_they_are_asked_for() {
    let (database, rowcast) = scene(RULE).await;
    let (code, said) = ended(&rowcast.start(&["setup"])).await;
    assert_eq!(code, 0, "{said}");
    // The publication is there already, so its owner needs no more rights than these.
    let role = format!("owner_{}", database.name);
    database
        .psql(&format!(
            "drop schema rowcast cascade; create role {role} login replication;
             alter table posts owner to {role}; alter publication {} owner to {role};",
            database.name
        ))
        .await;
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let (code, said) = ended(&rowcast.start(&["setup", "--url", &url])).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("warning    {FUNCTIONS} are not there")), "{said}");
    assert!(said.contains("permission denied for database"), "{said}");
    let pusher = "url = 'http://127.0.0.1:1'\napp_id = 'a'\nkey = 'k'\nsecret = 's'\n";
    rowcast.configure(&config(&database.toml(), pusher, &[BROADCAST, RULE].concat()));
    let (code, said) = ended(&rowcast.start(&["setup", "--url", &url])).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("[broadcast] is set"), "{said}");
    database.psql(&format!("reassign owned by {role} to current_user; drop role {role}")).await;
}
