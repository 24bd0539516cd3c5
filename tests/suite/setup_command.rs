//! `rowcast setup` and `rowcast teardown` as an operator runs them.

use std::sync::Arc;

use serde_json::Value;

use crate::harness::{
    cluster::{Cluster, Stop, Version},
    database::Database,
    lines::Lines,
    process::Process,
    psql,
    rowcast::Rowcast,
    sockudo::Sockudo,
    wait::{SOON, eventually},
};

const POSTS: &str = "create table posts (id int primary key, user_id int not null, title text);";
const RULE: &str = "[[rule]]\ntable = 'posts'\nchannels = ['posts']\n";
const RULE_BY_USER: &str =
    "[[rule]]\ntable = 'posts'\nchannels = ['private-users.{{ user_id }}.posts']\n";

fn config(url: &str, database: &Database, rules: &str) -> String {
    format!(
        "[database]\nurl = '{url}'\nslot = '{}'\n\
         [pusher]\nurl = 'http://127.0.0.1:1'\napp_id = 'a'\nkey = 'k'\nsecret = 's'\n\
         [run]\nstate_dir = 'state'\n{rules}",
        database.slot(),
    )
}

async fn with_posts() -> Database {
    let database = Database::on(Version::DEFAULT).await;
    database.psql(POSTS).await;
    database
}

fn text(lines: &Lines) -> String {
    lines.all().join("\n")
}

async fn ended(process: &Process) -> (i32, String, String) {
    let code = process.exit_code(SOON).await;
    (code, text(&process.stdout), text(&process.stderr))
}

async fn state(database: &Database) -> String {
    let sql = format!(
        "select 'slot ' || slot_name from pg_replication_slots where slot_name = '{}';
         select 'publication ' || string_agg(tablename || ' ' || attnames::text, ',')
         from pg_publication_tables having count(*) > 0;
         select 'identity ' || relreplident::text from pg_class where relname = 'posts';",
        database.slot()
    );
    database.psql(&sql).await
}

#[tokio::test]
async fn an_identity_is_refused_with_exit_code_1_and_changed_on_request() {
    let database = with_posts().await;
    let rowcast = Rowcast::new(&config(&database.url(), &database, RULE_BY_USER));
    let (code, _, stderr) = ended(&rowcast.start(&["setup"])).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("rowcast setup --identity changes that"), "{stderr}");
    assert!(stderr.contains("REPLICA IDENTITY USING INDEX"), "{stderr}");
    assert_eq!(state(&database).await, "identity d", "nothing was changed");

    let (code, stdout, stderr) = ended(&rowcast.start(&["setup", "--identity", "--json"])).await;
    assert_eq!(code, 0, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).expect("it is one JSON object");
    assert_eq!(report["changed"].as_array().map(Vec::len), Some(5), "{report}");
    let after = state(&database).await;
    assert!(after.contains("publication posts") && after.ends_with("identity i"), "{after}");
    assert!(after.starts_with("slot"), "{after}");

    let (code, stdout, _) = ended(&rowcast.start(&["setup"])).await;
    assert_eq!((code, stdout.contains("changed    ")), (0, false), "{stdout}");
    assert!(stdout.contains("max_slot_wal_keep_size is -1"), "{stdout}");
    assert!(stdout.contains("ALTER SYSTEM SET max_slot_wal_keep_size"), "{stdout}");
}

#[tokio::test]
async fn what_print_prints_runs_in_psql_to_the_same_end() {
    let printed = with_posts().await;
    let applied = with_posts().await;
    let rowcast = Rowcast::new(&config(&printed.url(), &printed, RULE_BY_USER));
    let (code, script, stderr) = ended(&rowcast.start(&["setup", "--print"])).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(state(&printed).await, "identity d", "printing changes nothing");
    printed.psql(&script).await;
    let (code, script, _) = ended(&rowcast.start(&["setup", "--print"])).await;
    assert_eq!((code, &*script), (0, "-- nothing to do"));

    let rowcast = Rowcast::new(&config(&applied.url(), &applied, RULE_BY_USER));
    assert_eq!(rowcast.start(&["setup", "--identity"]).exit_code(SOON).await, 0);
    let without_slot = |state: String| state.lines().skip(1).collect::<Vec<_>>().join("\n");
    assert_eq!(without_slot(state(&printed).await), without_slot(state(&applied).await));
}

#[tokio::test]
async fn a_slot_that_was_printed_waits_for_open_transactions_longer_than_others_for_a_lock() {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let database = Database::fresh(&cluster).await;
    database.psql(POSTS).await;
    let rowcast = Rowcast::new(&config(&database.url(), &database, RULE));
    let (code, script, stderr) = ended(&rowcast.start(&["setup", "--print"])).await;
    assert_eq!(code, 0, "{stderr}");
    let (writer, client) = (database.client().await, database.client().await);
    writer.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    let waits = async {
        let sql = "select exists (select from pg_stat_activity
                                  where query ~ 'pg_create_logical_replication_slot'
                                    and wait_event = 'transactionid'
                                    and now() - query_start > '3 s')";
        eventually(SOON, "the slot waits", async || {
            client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0).then_some(())
        })
        .await;
        writer.batch_execute("commit").await.unwrap();
    };
    tokio::join!(database.psql(&script), waits);
    assert!(state(&database).await.starts_with("slot"));
}

#[tokio::test]
async fn a_rule_that_names_nothing_is_a_configuration_error() {
    let database = with_posts().await;
    let rule = "[[rule]]\ntable = 'posts'\nchannels = ['posts.{{ nope }}']\n";
    let rowcast = Rowcast::new(&config(&database.url(), &database, rule));
    let (code, _, stderr) = ended(&rowcast.start(&["setup", "--identity"])).await;
    assert_eq!(code, 78, "{stderr}");
    assert!(stderr.contains("nope") && stderr.contains("rowcast.toml:"), "{stderr}");
    assert_eq!(state(&database).await, "identity d");
}

#[tokio::test]
async fn a_role_without_replication_is_told_before_anything_changes() {
    let database = with_posts().await;
    let role = format!("plain_{}", database.name);
    database.psql(&format!("create role {role} login")).await;
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let rowcast = Rowcast::new(&config(&url, &database, RULE));
    let (code, _, stderr) = ended(&rowcast.start(&["setup", "--url", &database.url()])).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("REPLICATION"), "{stderr}");
    assert_eq!(state(&database).await, "identity d");
    database.psql(&format!("drop role {role}")).await;
}

#[tokio::test]
async fn a_role_that_does_not_own_the_tables_is_told_who_may() {
    let database = with_posts().await;
    let role = format!("plain_{}", database.name);
    database.psql(&format!("create role {role} login")).await;
    let stranger = database.url().replace("postgres@", &format!("{role}@"));
    let rowcast = Rowcast::new(&config(&database.url(), &database, RULE_BY_USER));
    let setup = rowcast.start(&["setup", "--identity", "--url", &stranger]);
    let (code, _, stderr) = ended(&setup).await;
    assert_eq!(code, 1, "{stderr}");
    let first = stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(first.contains("--url postgres://OWNER@"), "{stderr}");
    assert!(first.contains("nothing was changed"), "{stderr}");
    assert!(stderr.contains("must be owner of table posts"), "{stderr}");
    assert!(!stderr.contains("db error"), "{stderr}");
    assert_eq!(state(&database).await, "identity d");
    database.psql(&format!("drop role {role}")).await;
}

/// The owner sets up, and a role of `sql/role.sql` does all the rest.
#[tokio::test]
async fn the_least_privileged_role_streams_what_the_owner_set_up() {
    let cluster = std::sync::Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let database = Database::fresh(&cluster).await;
    database.psql(include_str!("../../sql/role.sql")).await;
    database
        .psql(&format!(
            "create role shop login; alter database {} owner to shop; alter schema public owner to shop;",
            database.name
        ))
        .await;
    let owner = database.url().replace("postgres@", "shop@");
    psql::run(&owner, POSTS).await;

    let sockudo = Sockudo::shared().await;
    let channel = format!("posts-{}-{}", database.name, cluster.port());
    let rowcast = Rowcast::new(&format!(
        "[database]\nurl = '{}'\n\
         [pusher]\nurl = '{}'\napp_id = '{}'\nkey = '{}'\nsecret = '{}'\nserver = 'sockudo'\n\
         [run]\nstate_dir = 'state'\n[[rule]]\ntable = 'posts'\nchannels = ['{channel}']\n",
        database.url().replace("postgres@", "rowcast@"),
        sockudo.url(),
        Sockudo::APP_ID,
        Sockudo::KEY,
        Sockudo::SECRET,
    ));
    let (code, stdout, stderr) = ended(&rowcast.start(&["setup", "--url", &owner])).await;
    assert_eq!(code, 0, "{stdout}{stderr}");

    psql::run(&owner, "insert into posts values (1, 1, 'a'); update posts set title = 'b'").await;
    let written = database.psql("select pg_current_wal_lsn()").await;
    let (code, _, stderr) = ended(&rowcast.start(&["run", "--once"])).await;
    assert_eq!(code, 0, "{stderr}");
    let confirmed = format!("select confirmed_flush_lsn >= '{written}' from pg_replication_slots");
    assert_eq!(database.psql(&confirmed).await, "t", "the endpoint took it all");
    let may_read = "select has_table_privilege('rowcast', 'posts', 'select')";
    assert_eq!(database.psql(may_read).await, "f", "streaming needed no SELECT");

    let (code, stdout, stderr) = ended(&rowcast.start(&["teardown", "--url", &owner])).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    let left = "select count(*) from pg_replication_slots; select count(*) from pg_publication;";
    assert_eq!(database.psql(left).await, "0\n0");
    let (code, stdout, _) = ended(&rowcast.start(&["teardown", "--url", &owner])).await;
    assert_eq!((code, stdout.matches("is not there").count()), (0, 2), "{stdout}");
    drop(database);
    cluster.stop(Stop::Fast).await;
}

#[tokio::test]
async fn making_the_slot_names_what_it_waits_for_and_gives_up_on_ctrl_c() {
    let cluster = std::sync::Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let database = Database::fresh(&cluster).await;
    database.psql(POSTS).await;
    let rowcast = Rowcast::new(&config(&database.url(), &database, RULE));
    let holder = database.client().await;
    holder.batch_execute("begin; create table unfinished ()").await.expect("nothing is in the way");
    let pid: i32 =
        holder.query_one("select pg_backend_pid()", &[]).await.expect("it is open").get(0);

    let setup = rowcast.start(&["setup"]);
    setup.stderr.wait_for(SOON, &format!("the transaction of backend {pid}")).await;
    setup.signal(rustix::process::Signal::INT);
    let (code, stdout, stderr) = ended(&setup).await;
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert!(stderr.contains("interrupted"), "{stderr}");
    eventually(SOON, "the slot is gone", async || {
        (!state(&database).await.contains("slot")).then_some(())
    })
    .await;

    let setup = rowcast.start(&["setup"]);
    setup.stderr.wait_for(SOON, &format!("the transaction of backend {pid}")).await;
    holder.batch_execute("commit").await.expect("it is open");
    let (code, stdout, stderr) = ended(&setup).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("on Postgres keeps changes for rowcast"), "{stdout}");
}

#[tokio::test]
async fn teardown_leaves_a_slot_in_use_and_says_by_whom() {
    let database = with_posts().await;
    let rowcast = Rowcast::new(&config(&database.url(), &database, RULE));
    assert_eq!(rowcast.start(&["setup"]).exit_code(SOON).await, 0);
    let before = state(&database).await;
    let run = rowcast.start(&["run"]);
    run.stderr.wait_for(SOON, "streaming changes").await;
    let pid = "select active_pid from pg_replication_slots where slot_name =";
    let pid = database.psql(&format!("{pid} '{}'", database.slot())).await;
    let (code, _, stderr) = ended(&rowcast.start(&["teardown"])).await;
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("in use by backend {pid}")), "{stderr}");
    assert_eq!(state(&database).await, before);
    run.sigterm();
    run.ended(SOON).await;
    let (code, _, stderr) = ended(&rowcast.start(&["teardown"])).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(state(&database).await, "identity d");
}

/// A configuration with `failover`, and a query for what became of it.
async fn with_failover(version: Version) -> (Database, String, String) {
    let database = Database::on(version).await;
    database.psql(POSTS).await;
    let config =
        config(&database.url(), &database, RULE).replace("[run]", "[run]\nfailover = true");
    let slot = database.slot();
    let query = format!("select failover from pg_replication_slots where slot_name = '{slot}'");
    (database, config, query)
}

#[tokio::test]
async fn a_failover_slot_is_made_and_one_that_is_none_is_altered() {
    for version in [Version::V17, Version::V18] {
        let (database, config, query) = with_failover(version).await;
        let rowcast = Rowcast::new(&config);
        let (code, _, stderr) = ended(&rowcast.start(&["setup"])).await;
        assert_eq!((code, &*database.psql(&query).await), (0, "t"), "{stderr}");

        let slot = database.slot();
        database
            .psql(&format!(
                "select pg_drop_replication_slot('{slot}');
                 select pg_create_logical_replication_slot('{slot}', 'pgoutput')"
            ))
            .await;
        let (code, stdout, stderr) = ended(&rowcast.start(&["setup"])).await;
        assert_eq!((code, &*database.psql(&query).await), (0, "t"), "{stderr}");
        assert!(stdout.contains("standbys keep it too"), "{stdout}");
        let (code, stdout, _) = ended(&rowcast.start(&["setup"])).await;
        assert_eq!((code, stdout.contains("changed    ")), (0, false), "{stdout}");
    }
}

#[tokio::test]
async fn what_print_prints_makes_and_alters_a_failover_slot() {
    let (database, config, query) = with_failover(Version::V17).await;
    let rowcast = Rowcast::new(&config);
    let (_, script, _) = ended(&rowcast.start(&["setup", "--print"])).await;
    database.psql(&script).await;
    assert_eq!(database.psql(&query).await, "t", "{script}");

    let slot = database.slot();
    database
        .psql(&format!(
            "select pg_drop_replication_slot('{slot}');
             select pg_create_logical_replication_slot('{slot}', 'pgoutput')"
        ))
        .await;
    let (_, script, _) = ended(&rowcast.start(&["setup", "--print"])).await;
    database.psql(&script).await;
    assert_eq!(database.psql(&query).await, "t", "{script}");
}

#[tokio::test]
async fn a_slot_in_use_is_not_made_a_failover_slot() {
    let (database, config, _) = with_failover(Version::V17).await;
    let rowcast = Rowcast::new(&config.replace("failover = true", ""));
    assert_eq!(ended(&rowcast.start(&["setup"])).await.0, 0);
    let run = rowcast.start(&["run"]);
    run.stderr.wait_for(SOON, "streaming changes").await;
    rowcast.configure(&config);
    let (code, _, stderr) = ended(&rowcast.start(&["setup"])).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("stop that rowcast"), "{stderr}");
    assert!(stderr.contains(&format!("slot {} is in use", database.slot())), "{stderr}");
}

#[tokio::test]
async fn a_failover_slot_is_refused_before_postgres_17() {
    for version in [Version::V14, Version::V16] {
        let (_database, config, _) = with_failover(version).await;
        let rowcast = Rowcast::new(&config);
        for command in ["setup", "run"] {
            let (code, _, stderr) = ended(&rowcast.start(&[command])).await;
            assert_eq!(code, 1, "{stderr}");
            assert!(stderr.contains("failover is on"), "{stderr}");
            assert!(stderr.contains("only from version 17 on"), "{stderr}");
        }
    }
}
