//! `rowcast setup` and `rowcast teardown` with capture = "triggers", as an operator runs them.

mod findings;
mod teardown;

use std::sync::Arc;

use crate::harness::{
    cluster::{Cluster, Version, on_every_version},
    database::Database,
    process::Process,
    psql,
    rowcast::Rowcast,
    wait::SOON,
};

const POSTS: &str = "create table posts (id int primary key, user_id int, title text);";
const RULE: &str = "[[rule]]\ntable = 'posts'\nchannels = ['private-users.{{ user_id }}.posts']\n";

/// A database whose tables belong to `shop`, and a role for rowcast that may log in and nothing else.
struct Scene {
    database: Database,
    rowcast: Rowcast,
    /// Of the tables' owner.
    owner: String,
    /// Of rowcast's role.
    own: String,
}

impl Scene {
    async fn new(version: Version, schema: &str, rules: &str) -> Self {
        Self::on(Database::on(version).await, schema, rules).await
    }

    async fn on(database: Database, schema: &str, rules: &str) -> Self {
        let name = &database.name;
        database
            .psql(&format!(
                "create role own_{name} login; create role shop_{name} login;
                 alter database {name} owner to shop_{name}; alter schema public owner to shop_{name}"
            ))
            .await;
        let as_role = |role: &str| database.url().replace("postgres@", &format!("{role}_{name}@"));
        let (owner, own) = (as_role("shop"), as_role("own"));
        psql::run(&owner, schema).await;
        let rowcast = Rowcast::new(&config(&own, rules));
        Self { database, rowcast, owner, own }
    }

    fn configure(&self, rules: &str) {
        self.rowcast.configure(&config(&self.own, rules));
    }

    /// A command as the owner: its exit code, and all that it said.
    async fn run(&self, arguments: &[&str]) -> (i32, String) {
        ended(&self.start(arguments)).await
    }

    fn start(&self, arguments: &[&str]) -> Process {
        let (command, rest) = arguments.split_first().expect("a command");
        self.rowcast.start(&[&[*command, "--url", &self.owner], rest].concat())
    }

    /// As `run`, where all is to go well.
    async fn passes(&self, arguments: &[&str]) -> String {
        let (code, said) = self.run(arguments).await;
        assert_eq!(code, 0, "{said}");
        said
    }

    /// As the application writes.
    async fn writes(&self, sql: &str) {
        psql::run(&self.owner, sql).await;
    }

    /// What triggers wrote since the last time.
    async fn written(&self) -> String {
        self.database
            .psql(
                "with rows as (delete from rowcast.outbox returning *)
                 select op, old, new from rows order by id",
            )
            .await
    }

    async fn triggers(&self) -> String {
        self.database
            .psql(
                "select string_agg(distinct tgrelid::regclass::text, ' ')
                 from pg_trigger where tgname like 'rowcast_%' and tgrelid <> 'rowcast.outbox'::regclass",
            )
            .await
    }
}

fn config(url: &str, rules: &str) -> String {
    format!(
        "[database]\nurl = '{url}'\ncapture = 'triggers'\n\
         [pusher]\nurl = 'http://127.0.0.1:1'\napp_id = 'a'\nkey = 'k'\nsecret = 's'\n\
         [run]\nstate_dir = 'state'\n{rules}"
    )
}

async fn ended(process: &Process) -> (i32, String) {
    let code = process.exit_code(SOON).await;
    (code, [process.stdout.all(), process.stderr.all()].concat().join("\n"))
}

on_every_version! {
    async fn setup_makes_all_as_its_own_role_and_then_finds_nothing_to_do(version: Version) {
        let scene = Scene::new(version, POSTS, RULE).await;
        scene.passes(&["setup"]).await;
        let owners = "select distinct relowner::regrole from pg_class
                      where relnamespace = 'rowcast'::regnamespace";
        assert_eq!(scene.database.psql(owners).await, format!("own_{}", scene.database.name));
        scene.writes("insert into posts values (1, 7, 'a'); update posts set user_id = 8; delete from posts").await;
        assert_eq!(scene.written().await, "i||{1,7}\nu|{1,7}|{1,8}\nd|{1,8}|");

        let said = scene.passes(&["setup"]).await;
        assert!(!said.contains("changed    ") && said.contains("unchanged  "), "{said}");
        let printed = scene.passes(&["setup", "--print"]).await;
        assert!(printed.contains("-- nothing to do"), "{printed}");
    }
}

const PARTITIONED: &str = "
    create table events (id int, at int, note text, primary key (id, at)) partition by range (at);
    create table events_a partition of events for values from (0) to (10);
    create table events_b partition of events for values from (10) to (30) partition by range (at);
    create table events_b1 partition of events_b for values from (10) to (20);";
const EVENTS_RULE: &str = "[[rule]]\ntable = 'events'\nchannels = ['events']\n";

async fn partitions_at_every_level_get_triggers(version: Version) {
    let scene = Scene::new(version, PARTITIONED, EVENTS_RULE).await;
    scene.passes(&["setup"]).await;
    assert_eq!(scene.triggers().await, "events events_a events_b events_b1");
    for table in ["events", "events_b", "events_b1"] {
        scene.writes(&format!("insert into {table} values (1, 12); delete from {table}")).await;
        assert_eq!(scene.written().await, "i||{1,12}\nd|{1,12}|", "{table}");
    }

    scene.writes("create table events_b2 partition of events_b for values from (20) to (30)").await;
    let said = scene.passes(&["setup"]).await;
    assert_eq!(said.matches("changed    ").count(), 1, "{said}");
    scene.writes("insert into events_b2 values (1, 22)").await;
    assert_eq!(scene.written().await, "i||{1,22}");
}

#[tokio::test]
async fn partitions_at_every_level_get_triggers_on_14() {
    partitions_at_every_level_get_triggers(Version::V14).await;
}

#[tokio::test]
async fn partitions_at_every_level_get_triggers_on_18() {
    partitions_at_every_level_get_triggers(Version::V18).await;
}

/// Quotes, dots, upper case, a dollar quote, and as long as a name can be.
#[tokio::test]
async fn names_are_whatever_an_application_calls_its_things() {
    let long = "ä".repeat(31);
    let scene = Scene::new(
        Version::V14,
        &format!(
            r#"create schema "My Shop"; create type "My Shop"."It's" as enum ('a', 'b');
               create table "My Shop"."{long}" ("I.d" int primary key, "$rowcast$" "My Shop"."It's",
                   "Quote""d" text, "select" text);"#
        ),
        &format!(
            "[[rule]]\ntable = 'My Shop.{long}'\nchannels = ['x']\n\
             data = {{ a = \"{{{{ new['$rowcast$'] }}}}\", b = \"{{{{ new['Quote\\\"d'] }}}}\", c = \"{{{{ new['select'] }}}}\" }}\n"
        ),
    )
    .await;
    scene.passes(&["setup"]).await;
    scene.writes(&format!(r#"insert into "My Shop"."{long}" values (1, 'a', 'it''s', 'c')"#)).await;
    assert_eq!(scene.written().await, "i||{1,a,it's,c}");
    let said = scene.passes(&["setup"]).await;
    assert!(!said.contains("changed    "), "{said}");
    scene.passes(&["teardown"]).await;
    scene.writes(&format!(r#"insert into "My Shop"."{long}" values (2)"#)).await;
}

#[tokio::test]
async fn what_print_prints_runs_in_psql_to_the_same_end() {
    let rules = [RULE, EVENTS_RULE].concat();
    let scene = Scene::new(Version::V18, &[POSTS, PARTITIONED].concat(), &rules).await;
    let script = scene.rowcast.start(&["setup", "--print"]);
    assert_eq!(script.exit_code(SOON).await, 0);
    assert_eq!(
        scene.database.psql("select to_regnamespace('rowcast')").await,
        "",
        "it only prints"
    );
    // By somebody who may be either role.
    scene.database.psql(&script.stdout.all().join("\n")).await;
    let said = scene.passes(&["setup"]).await;
    assert!(!said.contains("changed    "), "{said}");
    let owners = "select distinct relowner::regrole from pg_class where relnamespace = 'rowcast'::regnamespace";
    assert_eq!(scene.database.psql(owners).await, format!("own_{}", scene.database.name));

    let script = scene.rowcast.start(&["teardown", "--print"]);
    assert_eq!(script.exit_code(SOON).await, 0);
    scene.database.psql(&script.stdout.all().join("\n")).await;
    assert_eq!(scene.database.psql("select to_regnamespace('rowcast')").await, "");
    scene.writes("insert into posts values (1)").await;
}

#[tokio::test]
async fn other_rules_have_other_columns_written_and_other_tables_captured() {
    let schema = [POSTS, "create table comments (id int primary key)"].concat();
    let scene = Scene::new(Version::DEFAULT, &schema, RULE).await;
    scene.passes(&["setup"]).await;
    let functions = "select count(*), min(oid) from pg_trigger where tgrelid = 'posts'::regclass";
    let before = scene.database.psql(functions).await;

    let titles = "[[rule]]\ntable = 'posts'\nchannels = ['posts.{{ title }}']\n";
    scene.configure(titles);
    let said = scene.passes(&["setup"]).await;
    assert_eq!(said.matches("changed    ").count(), 1, "the functions: {said}");
    assert_eq!(scene.database.psql(functions).await, before, "no trigger was ever away");
    scene.writes("insert into posts values (1, 7, 'a')").await;
    assert_eq!(scene.written().await, "i||{1,a}");
    let shapes = "select columns from rowcast.shapes order by id";
    assert_eq!(scene.database.psql(shapes).await, "{id,user_id}\n{id,title}");

    scene.configure("[[rule]]\ntable = 'comments'\nchannels = ['comments']\n");
    scene.passes(&["setup"]).await;
    assert_eq!(scene.triggers().await, "comments");
    let left = "select count(*) from pg_proc where proname like 'capture%'";
    assert_eq!(scene.database.psql(left).await, "4");
    let said = scene.passes(&["setup"]).await;
    assert!(!said.contains("changed    "), "{said}");
}

/// What a rowcast that runs has told triggers, stays.
#[tokio::test]
async fn how_much_may_be_written_is_set_once() {
    let scene =
        Scene::new(Version::DEFAULT, POSTS, &format!("[limits]\nmax_outbox_rows = 5000\n{RULE}"))
            .await;
    scene.passes(&["setup"]).await;
    let gate = "select last_value from rowcast.gate";
    assert_eq!(scene.database.psql(gate).await, "10000");
    scene.database.psql("select setval('rowcast.gate', 77); drop table rowcast.reader").await;
    let said = scene.passes(&["setup"]).await;
    assert!(said.contains("changed    outbox"), "{said}");
    assert_eq!(scene.database.psql(gate).await, "77");
}

#[tokio::test]
async fn a_table_that_is_held_is_waited_for_and_writers_of_it_are_let_pass() {
    // For as long, nobody makes a slot in the cluster.
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let scene = Scene::on(Database::fresh(&cluster).await, POSTS, RULE).await;
    let holder = scene.database.client().await;
    holder.batch_execute("begin; insert into posts values (1)").await.expect("it is free");
    let setup = scene.start(&["setup"]);
    setup.stderr.wait_for(SOON, "letting others pass").await;

    let writer = scene.database.client().await;
    let mut longest = std::time::Duration::ZERO;
    for id in 2..40 {
        let begun = std::time::Instant::now();
        let sql = format!("insert into posts values ({id}); select pg_sleep(0.1)");
        writer.batch_execute(&sql).await.expect("setup takes nothing away");
        longest = longest.max(begun.elapsed());
    }
    assert!(longest.as_secs_f64() < 8.0, "a writer waited for {longest:?}");
    holder.batch_execute("commit").await.expect("it is open");
    let (code, said) = ended(&setup).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(scene.triggers().await, "posts");
}

#[tokio::test]
async fn on_a_server_without_logical_replication_nothing_is_amiss() {
    let settings =
        [("wal_level", "replica"), ("max_wal_senders", "0"), ("max_replication_slots", "0")];
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &settings).await);
    let database = Database::fresh(&cluster).await;
    database.psql(&format!("{POSTS} alter table posts set unlogged")).await;
    let rowcast = Rowcast::new(&config(&database.url(), RULE));
    let (code, said) = ended(&rowcast.start(&["setup", "--identity", "--json"])).await;
    assert_eq!(code, 0, "{said}");
    let line = said.lines().next().expect("it says something");
    let report: serde_json::Value = serde_json::from_str(line).expect("it is one JSON object");
    let findings = report["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), 1, "{report}");
    let message = findings[0]["message"].as_str().expect("a text");
    assert!(message.contains("--identity changes nothing"), "{report}");
}
