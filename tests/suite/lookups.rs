//! Rules that look rows up, whole: the page of a server is told of what belongs to it, two tables away.

mod guard;
mod stage;

use std::{sync::Arc, time::Duration};

use rowcast::deliver::pusher::Server;
use serde_json::Value;

use crate::harness::{
    cluster::{Cluster, Version},
    database::Database,
    endpoint::Endpoint,
    process::Process,
    psql,
    rowcast::Rowcast,
    wait::{SOON, eventually},
};

const SCHEMA: &str = "
    create table servers (id int primary key, slug text not null, name text);
    create table firewalls (
        id int primary key, server_id int not null references servers on delete cascade);
    create table firewall_rules (
        id int primary key, firewall_id int not null references firewalls on delete cascade, port int);
    insert into servers values (1, 'alpha', 'A'), (2, 'beta', 'B');
    insert into firewalls values (1, 1), (2, 2), (3, 1), (4, 1);
    insert into firewall_rules values (1, 1, 80), (2, 1, 443), (3, 3, 80), (4, 4, 80);";

const RULES: &str = r#"
[[rule]]
table = "firewall_rules"
entity = "server"
id = "{{ firewall.server_id }}"
channels = ["private-servers.{{ server.slug }}"]
event = "ServerUpdated"
coalesce = false
[rule.lookup.firewall]
table = "firewalls"
key = "{{ firewall_id }}"
columns = ["server_id"]
[rule.lookup.server]
table = "servers"
key = "{{ firewall.server_id }}"
columns = ["slug"]
"#;

/// A database that its superuser owns and sets up, and a role that may log in and stream.
struct Scene {
    database: Database,
    endpoint: Endpoint,
    rowcast: Rowcast,
    role: String,
}

impl Scene {
    async fn new(schema: &str, rules: &str) -> Scene {
        Scene::on(Database::on(Version::DEFAULT).await, schema, rules).await
    }

    /// Where a lock may be held for long: until it is let go, nobody makes a slot in the cluster.
    async fn alone(schema: &str, rules: &str) -> Scene {
        let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
        Scene::on(Database::fresh(&cluster).await, schema, rules).await
    }

    async fn on(database: Database, schema: &str, rules: &str) -> Scene {
        let scene = Scene::before_setup(database, schema, rules).await;
        let url = scene.database.url();
        let setup = scene.rowcast.start(&["setup", "--identity", "--url", &url]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
        scene
    }

    async fn without_setup(schema: &str, rules: &str) -> Scene {
        Scene::before_setup(Database::on(Version::DEFAULT).await, schema, rules).await
    }

    async fn before_setup(database: Database, schema: &str, rules: &str) -> Scene {
        let role = format!("panel_{}", database.name);
        database.psql(&format!("create role {role} login replication;")).await;
        database.psql(schema).await;
        let endpoint = Endpoint::start(Server::Sockudo);
        endpoint.occupy(["private-servers.alpha", "private-servers.beta"]);
        let rowcast = Rowcast::new(&format!(
            "{}[pusher]\n{}[run]\nstate_dir = 'state'\ninspect_every = '1s'\n[limits]\nresync_spread = '0s'\n{rules}",
            database.toml().replace("postgres@", &format!("{role}@")),
            endpoint.toml(),
        ));
        Scene { database, endpoint, rowcast, role }
    }

    async fn run(&self) -> Process {
        let run = self.rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        run
    }

    /// Until all that is committed is delivered.
    async fn delivered(&self) {
        let written = self.database.written().await;
        eventually(SOON, "all is delivered", async || {
            (self.database.confirmed().await >= written).then_some(())
        })
        .await;
    }

    /// What `sql` makes pages hear, by the last part of their channels.
    async fn told(&self, sql: &str) -> Vec<String> {
        let before = self.endpoint.accepted_count();
        self.database.psql(sql).await;
        self.delivered().await;
        let accepted = self.endpoint.accepted();
        let channels = accepted[before..].iter().map(|it| it.event.channel.as_str());
        let mut told: Vec<String> =
            channels.map(|it| it.rsplit('.').next().unwrap_or_default().to_owned()).collect();
        told.sort_unstable();
        told
    }

    /// The channel of each resync that a lookup is the reason of.
    fn resyncs(&self) -> Vec<String> {
        let mut told: Vec<String> = self
            .endpoint
            .resyncs()
            .into_iter()
            // The first start has one of its own.
            .filter(|it| it.event.data("reason") == "lookup")
            .map(|it| it.event.channel)
            .collect();
        told.sort_unstable();
        told
    }

    /// The sessions in which rowcast waits for a lock.
    async fn waits_for_a_lock(&self) {
        let waiting = format!(
            "select count(*) from pg_stat_activity
             where datname = '{}' and usename = '{}' and wait_event_type = 'Lock'",
            self.database.name, self.role
        );
        eventually(SOON, "rowcast waits for the lock", async || {
            (self.database.psql(&waiting).await != "0").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_page_is_told_of_what_belongs_to_its_server_however_it_went() {
    let scene = Scene::new(SCHEMA, RULES).await;
    let run = scene.run().await;
    let mut is_resynced = false;
    for (sql, expected) in [
        ("insert into firewall_rules values (5, 2, 22)", vec!["beta"]),
        ("update firewall_rules set port = 23 where id = 5", vec!["beta"]),
        ("update firewall_rules set firewall_id = 1 where id = 5", vec!["alpha", "beta"]),
        ("delete from firewall_rules where id = 5", vec!["alpha"]),
        // The parent's delete comes first.
        ("delete from firewalls where id = 1", vec!["alpha", "alpha"]),
        // It comes last, as an application does it.
        (
            "begin; delete from firewall_rules where firewall_id = 3; delete from firewalls where id = 3; commit",
            vec!["alpha"],
        ),
        // What is kept follows the parent.
        ("update firewalls set server_id = 2 where id = 4", vec![]),
        ("update firewall_rules set port = 81 where id = 4", vec!["beta"]),
        ("update servers set slug = 'alpha' where id = 2", vec![]),
        ("update firewall_rules set port = 82 where id = 4", vec!["alpha"]),
        (
            "begin; insert into servers values (3, 'beta'); insert into firewalls values (5, 3);
             insert into firewall_rules values (6, 5, 1); commit",
            vec!["beta"],
        ),
        // The whole chain at once.
        ("delete from servers where id = 3", vec!["beta"]),
    ] {
        let told = scene.told(sql).await;
        // Two reads may bring the two deletes: then the parent is gone when it is looked up.
        if told.is_empty() && sql.starts_with("begin; delete") {
            assert_eq!(scene.resyncs(), ["private-servers.alpha", "private-servers.beta"]);
            is_resynced = true;
            continue;
        }
        assert_eq!(told, expected, "{sql}");
    }
    assert!(is_resynced || scene.resyncs().is_empty(), "{:?}", scene.resyncs());
    scene.endpoint.assert_strict();
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
}

#[tokio::test]
async fn what_went_while_nobody_read_is_told_too() {
    let scene = Scene::new(SCHEMA, RULES).await;
    let deletes = [
        "delete from firewall_rules where id = 1;",
        "delete from firewalls where id in (1, 3);",
        "vacuum;",
    ];
    scene.database.psql(&deletes.concat()).await;
    let _run = scene.run().await;
    scene.delivered().await;
    let accepted = scene.endpoint.accepted();
    let is_told = accepted.iter().any(|it| it.event.channel == "private-servers.alpha");
    assert!(is_told || scene.resyncs() == ["private-servers.alpha"], "{accepted:?}");
    scene.endpoint.assert_strict();
}

#[tokio::test]
async fn a_parent_that_is_not_there_costs_one_resync() {
    let schema = format!(
        "{SCHEMA} alter table firewall_rules drop constraint firewall_rules_firewall_id_fkey;"
    );
    let scene = Scene::new(&schema, RULES).await;
    let _run = scene.run().await;
    assert_eq!(
        scene.told("insert into firewall_rules values (5, 99, 1)").await,
        Vec::<String>::new()
    );
    let both = ["private-servers.alpha", "private-servers.beta"];
    assert_eq!(scene.resyncs(), both);
    scene.told("insert into firewall_rules values (6, 99, 1); update firewall_rules set port = 2 where id > 4").await;
    assert_eq!(scene.resyncs(), both);
    let late =
        "insert into firewalls values (99, 2); update firewall_rules set port = 3 where id = 5";
    assert_eq!(scene.told(late).await, ["beta"]);
    assert_eq!(scene.resyncs(), both);
    scene.endpoint.assert_strict();
}

#[tokio::test]
async fn a_locked_parent_is_waited_for_and_nothing_is_skipped() {
    let scene = Scene::alone(SCHEMA, RULES).await;
    let run = scene.run().await;
    let mut locker = scene.database.client().await;
    let lock = locker.transaction().await.expect("it may");
    lock.batch_execute("lock table firewalls in access exclusive mode").await.expect("it is free");
    // The foreign key would wait for the lock as well.
    let sql = "set session_replication_role = replica; insert into firewall_rules values (5, 2, 1)";
    scene.database.psql(sql).await;
    run.stderr.wait_for(SOON, "rows cannot be looked up").await;
    assert_eq!(scene.endpoint.accepted_count(), 0);
    lock.commit().await.expect("it is still there");
    scene.delivered().await;
    run.stderr.wait_for(SOON, "rows are looked up again").await;
    let channels: Vec<_> =
        scene.endpoint.accepted().into_iter().map(|it| it.event.channel).collect();
    assert_eq!(channels, ["private-servers.beta"]);
    assert_eq!(scene.resyncs(), Vec::<String>::new());
}

#[tokio::test]
async fn a_privilege_that_is_lost_holds_changes_back_until_it_is_granted_again() {
    let scene = Scene::new(SCHEMA, RULES).await;
    let run = scene.run().await;
    let role = &scene.role;
    let sql = format!(
        "revoke select (id, slug) on servers from {role}; insert into firewall_rules values (5, 2, 1);"
    );
    scene.database.psql(&sql).await;
    let line = run.stderr.wait_for(SOON, "rows cannot be looked up").await;
    assert!(line.contains("permission denied for table servers"), "{line}");
    assert!(line.contains("rowcast setup grants"), "{line}");
    assert_eq!(scene.endpoint.accepted_count(), 0);
    let url = scene.database.url();
    let setup = scene.rowcast.start(&["setup", "--url", &url]);
    assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
    let stdout = setup.stdout.all().join("\n");
    let grant = format!("GRANT SELECT (\"id\", \"slug\") ON \"public\".\"servers\" TO \"{role}\"");
    assert!(stdout.contains(&grant), "{stdout}");
    scene.endpoint.wait_for("it is told", |accepted| accepted.len() == 1).await;
    assert_eq!(scene.resyncs(), Vec::<String>::new());
}

#[tokio::test]
async fn who_a_row_belonged_to_before_its_parent_moved_is_told_too() {
    let scene = Scene::new(SCHEMA, RULES).await;
    let _run = scene.run().await;
    let sql = "begin; update firewalls set server_id = 2 where id = 1;
               update firewall_rules set port = 81 where id = 1; commit";
    scene.database.psql(sql).await;
    scene.delivered().await;
    assert_eq!(scene.resyncs(), ["private-servers.alpha", "private-servers.beta"]);
    scene.endpoint.assert_strict();
}

#[tokio::test]
async fn a_privilege_that_is_lost_keeps_no_other_rule_from_telling() {
    let rules = format!("{RULES}[[rule]]\ntable = 'servers'\nchannels = 'servers'\n");
    let scene = Scene::new(SCHEMA, &rules).await;
    let run = scene.run().await;
    let revoke = format!("revoke select (id, slug) on servers from {}", scene.role);
    scene.database.psql(&revoke).await;
    run.stderr.wait_for(SOON, "GRANT SELECT").await;
    assert_eq!(scene.told("insert into servers values (9, 'gamma')").await, ["servers"]);
}

#[tokio::test]
async fn killed_while_it_looks_up_it_tells_after_the_next_start() {
    let scene = Scene::new(SCHEMA, RULES).await;
    let run = scene.run().await;
    let mut locker = scene.database.client().await;
    let lock = locker.transaction().await.expect("it may");
    lock.batch_execute("lock table servers in access exclusive mode").await.expect("it is free");
    scene.database.psql("insert into firewall_rules values (5, 2, 1)").await;
    scene.waits_for_a_lock().await;
    run.kill9();
    run.ended(SOON).await;
    lock.commit().await.expect("it is still there");
    assert_eq!(scene.endpoint.accepted_count(), 0);
    let _run = scene.run().await;
    scene.endpoint.wait_for("it is told", |accepted| accepted.len() == 1).await;
    assert_eq!(scene.endpoint.accepted()[0].event.channel, "private-servers.beta");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_row() {
    let scene = Scene::alone(SCHEMA, RULES).await;
    let run = scene.run().await;
    let mut locker = scene.database.client().await;
    let lock = locker.transaction().await.expect("it may");
    lock.batch_execute("lock table servers in access exclusive mode").await.expect("it is free");
    scene.database.psql("insert into firewall_rules values (5, 2, 1)").await;
    scene.waits_for_a_lock().await;
    run.sigterm();
    // After the grace of ten seconds. A row is waited for for thirty.
    assert_eq!(run.exit_code(Duration::from_secs(20)).await, 1, "{:?}", run.stderr.all());
    lock.commit().await.expect("it is still there");
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "figures that the issue asks for")]
async fn a_burst_asks_few_questions() {
    const CHANGES: usize = 1000;
    let schema = "
        create table servers (id int primary key, slug text not null, name text);
        create table firewalls (id int primary key, server_id int not null);
        create table firewall_rules (id int primary key, firewall_id int not null, port int);
        insert into servers select i, case i % 2 when 0 then 'alpha' else 'beta' end from generate_series(1, 1000) i;
        insert into firewalls select i, i from generate_series(1, 1000) i;";
    let one_by_one = |parents: usize| {
        let insert = |id: usize| {
            format!("insert into firewall_rules values ({id}, {}, 1);\n", id % parents + 1)
        };
        (1..=CHANGES).map(insert).collect::<String>()
    };
    let at_once =
        format!("insert into firewall_rules select i, i, 1 from generate_series(1, {CHANGES}) i");
    for (what, sql, at_most) in [
        ("one transaction, each of another parent", at_once, 20),
        // As many as they are where each comes by itself.
        ("one by one, of 50 parents", one_by_one(50), 2 * 50),
        ("one by one, each of another parent", one_by_one(CHANGES), 2 * CHANGES),
    ] {
        let scene = Scene::new(schema, RULES).await;
        let run = scene.run().await;
        psql::run(&scene.database.url(), &sql).await;
        scene.delivered().await;
        assert_eq!(scene.endpoint.accepted_count(), CHANGES);
        run.sigterm();
        let line = run.stderr.wait_for(SOON, "rows looked up").await;
        let queries =
            line.split("queries=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        let queries: usize = queries.unwrap_or_else(|| panic!("{line}"));
        println!("lookups, {CHANGES} changes, {what}: {queries} queries");
        assert!(queries <= at_most, "{what}: {line}");
    }
}

#[tokio::test]
async fn what_only_a_payload_says_is_read_without_being_published() {
    let schema = "
        create table users (id int primary key, name text, secret text);
        create table comments (id int primary key, user_id int, nick text);
        insert into users values (1, 'Ann', 's');";
    let rules = "
        [[rule]]
        table = 'comments'
        channels = 'comments'
        coalesce = false
        data = { by = '{{ author.name }}' }
        [rule.lookup.author]
        table = 'users'
        key = '{{ user_id }}'
        columns = ['name']
        ttl = '100ms'\n";
    let scene = Scene::new(schema, rules).await;
    let published = "select string_agg(tablename, ' ') from pg_publication_tables";
    assert_eq!(scene.database.psql(published).await, "comments");
    let _run = scene.run().await;
    let said = async |sql: &str| {
        scene.told(sql).await;
        let accepted = scene.endpoint.accepted();
        accepted.last().expect("it is told").event.data("by")
    };
    assert_eq!(said("insert into comments values (1, 1)").await, "Ann");
    assert_eq!(said("update comments set user_id = 7").await, Value::Null);
    assert_eq!(said("update comments set user_id = null").await, Value::Null);
    scene.database.psql("update users set name = 'Bea'").await;
    eventually(SOON, "the new name is read", async || {
        let sql = "update comments set user_id = 1, nick = nick || 'x'";
        (said(sql).await == "Bea").then_some(())
    })
    .await;
    assert_eq!(scene.resyncs(), Vec::<String>::new());
}

#[tokio::test]
async fn a_lookup_that_could_go_wrong_is_refused_with_the_way_out() {
    for (schema, expected) in [
        (
            "alter table firewalls drop constraint firewalls_pkey cascade;
             alter table firewalls add primary key (id, server_id);",
            vec!["firewalls"],
        ),
        (
            "alter table servers enable row level security",
            vec!["row-level security of public.servers", "BYPASSRLS"],
        ),
        ("", vec![]),
    ] {
        let scene = Scene::without_setup(&format!("{SCHEMA}{schema}"), RULES).await;
        let setup = scene.rowcast.start(&["setup", "--identity", "--url", &scene.database.url()]);
        let code = setup.exit_code(SOON).await;
        assert_eq!(code == 0, expected.is_empty(), "{:?}", setup.stderr.all());
        let said = [setup.stdout.all(), setup.stderr.all()].concat().join("\n");
        expected.iter().for_each(|text| assert!(said.contains(text), "{said}"));
    }
    let rules = RULES.replace("table = \"servers\"\n", "table = \"servers\"\nby = \"name\"\n");
    let scene = Scene::without_setup(SCHEMA, &rules).await;
    let setup = scene.rowcast.start(&["setup", "--identity", "--url", &scene.database.url()]);
    assert_eq!(setup.exit_code(SOON).await, 1);
    let stdout = setup.stdout.all().join("\n");
    assert!(
        stdout.contains("CREATE UNIQUE INDEX CONCURRENTLY ON \"public\".\"servers\" (\"name\");"),
        "{stdout}"
    );
}

#[tokio::test]
async fn what_setup_prints_grants_exactly_what_is_read() {
    let scene = Scene::without_setup(SCHEMA, RULES).await;
    let url = scene.database.url();
    let print = scene.rowcast.start(&["setup", "--print", "--url", &url]);
    assert_eq!(print.exit_code(SOON).await, 0, "{:?}", print.stderr.all());
    let script = print.stdout.all().join("\n");
    for (table, columns) in
        [("firewalls", "\"id\", \"server_id\""), ("servers", "\"id\", \"slug\"")]
    {
        let grant =
            format!("GRANT SELECT ({columns}) ON \"public\".\"{table}\" TO \"{}\";", scene.role);
        assert!(script.contains(&grant), "{script}");
    }
    assert_eq!(script.matches("GRANT SELECT").count(), 2, "{script}");
    psql::run(&url, &script).await;
    let _run = scene.run().await;
    assert_eq!(scene.told("update firewall_rules set port = 1 where id = 1").await, ["alpha"]);
}
