//! `rowcast setup` and `rowcast teardown` as an operator runs them.

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
    assert_eq!(report["changed"].as_array().map(Vec::len), Some(4), "{report}");
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
