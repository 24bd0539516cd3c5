//! With capture = "wal".

use std::sync::Arc;

use rowcast::{deliver::pusher::Server, source::wal::connection::ReplicationConnection};

use super::{Said, verdicts};
use crate::harness::{
    cluster::{Cluster, Stop, Version},
    database::Database,
    endpoint::Endpoint,
    pgbouncer::{PgBouncer, PoolMode},
    rowcast::Rowcast,
    wait::{SOON, eventually},
};

const RULE: &str = "[[rule]]\ntable = 'posts'\nchannels = ['private-users.{{ user_id }}.posts']\n\
                    changed = ['title']\ndata = { author = '{{ author.name }}' }\n\
                    [rule.lookup.author]\ntable = 'users'\nkey = '{{ user_id }}'\ncolumns = ['name']\n";
const HBA: &str =
    "local all all trust\nhost all rowcast all scram-sha-256\nhost all postgres all trust\n";

/// A set-up whose role may log in, stream, and read what rules look up.
struct Scene {
    cluster: Arc<Cluster>,
    database: Database,
    endpoint: Endpoint,
    rowcast: Rowcast,
}

impl Scene {
    async fn healthy() -> Scene {
        let settings = [
            ("max_slot_wal_keep_size", "64MB"),
            ("max_wal_size", "32MB"),
            ("min_wal_size", "32MB"),
            ("max_wal_senders", "2"),
            ("max_replication_slots", "4"),
            // Its workers have transactions too.
            ("autovacuum", "off"),
        ];
        let cluster = Arc::new(Cluster::start(Version::DEFAULT, &settings).await);
        let database = Database::fresh(&cluster).await;
        database
            .psql(
                "create role rowcast login replication password 'right';
                 create table users (id int primary key, name text);
                 create table posts (id int primary key, user_id int not null, title text);",
            )
            .await;
        cluster.set_hba(HBA).await;
        let endpoint = Endpoint::start(Server::Any);
        let scene = Scene { cluster, database, endpoint, rowcast: Rowcast::without_config() };
        scene.configure("rowcast:right@", RULE);
        scene.set_up().await;
        scene
    }

    fn configure(&self, user: &str, rules: &str) {
        let database = self.database.toml().replace("postgres@", user);
        let pusher = self.endpoint.toml();
        self.rowcast
            .configure(&format!("{database}[pusher]\n{pusher}[run]\nstate_dir = 'state'\n{rules}"));
    }

    async fn set_up(&self) {
        let setup = self.rowcast.start(&["setup", "--identity", "--url", &self.database.url()]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
    }

    async fn psql(&self, sql: &str) {
        self.database.psql(sql).await;
    }

    async fn says(&self, name: &str) {
        Said::by(&self.rowcast).await.is_golden(name, &self.database);
    }

    /// What `harm` breaks, doctor says; what `mend` mends, it does not.
    async fn broken_by(&self, harm: &str, name: &str, mend: &str) {
        self.psql(harm).await;
        self.says(name).await;
        self.psql(mend).await;
    }

    async fn lose_slot(&self) {
        let client = self.database.client().await;
        client.batch_execute("create table filler (t text)").await.unwrap();
        let lost = "select wal_status = 'lost' from pg_replication_slots where slot_name = $1";
        eventually(SOON, "the slot is lost", async || {
            let write = "insert into filler select repeat('x', 1000) from generate_series(1, 100);
                         select pg_switch_wal(); checkpoint";
            client.batch_execute(write).await.unwrap();
            let row = client.query_one(lost, &[&self.database.slot()]).await.unwrap();
            row.get::<_, bool>(0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn doctor_says_what_is_broken_and_what_mends_it() {
    let scene = Scene::healthy().await;
    let (slot, publication) = (scene.database.slot(), scene.database.name.clone());
    let run = scene.rowcast.start(&["run"]);
    run.stderr.wait_for(SOON, "streaming changes").await;
    scene.says("healthy").await;
    let verdicts = verdicts(&scene.rowcast).await;
    assert!(verdicts.iter().all(|(_, verdict)| verdict != "fails"), "{verdicts:?}");
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0);

    scene.configure("rowcast:wrong@", RULE);
    scene.says("wrong_password").await;
    scene.configure("rowcast:right@", RULE);

    scene.cluster.set_hba("local all all trust\nhost all postgres all trust\n").await;
    scene.says("not_admitted").await;
    scene.cluster.set_hba(HBA).await;

    let replication = ["alter role rowcast noreplication", "alter role rowcast replication"];
    scene.broken_by(replication[0], "no_replication", replication[1]).await;

    // What Amazon RDS grants instead; this server knows nothing of it.
    let rds = "alter role rowcast noreplication; create role rds_replication;
               grant rds_replication to rowcast";
    let not_rds = "alter role rowcast replication; drop role rds_replication";
    scene.broken_by(rds, "rds_elsewhere", not_rds).await;

    let grants =
        ["revoke select (name) on users from rowcast", "grant select (name) on users to rowcast"];
    scene.broken_by(grants[0], "no_grant", grants[1]).await;

    let publish = |verb: &str| format!("alter publication {publication} {verb} table posts");
    scene.broken_by(&publish("drop"), "not_published", &publish("add")).await;

    let identity = "alter table posts replica identity default";
    scene.broken_by(identity, "identity", "select").await;
    scene.set_up().await;

    let rename = |from: &str, to: &str| format!("alter table posts rename {from} to {to}");
    scene.broken_by(&rename("title", "headline"), "no_column", &rename("headline", "title")).await;

    let standbys = |names: &str| {
        format!("alter system set synchronous_standby_names = '{names}'; select pg_reload_conf()")
    };
    scene.broken_by(&standbys("*"), "synchronous", &standbys("")).await;

    let dsn = scene.database.url().parse().expect("the harness makes URLs");
    let first = ReplicationConnection::connect(&dsn, "standby1").await.expect("there is a sender");
    let second = ReplicationConnection::connect(&dsn, "standby2").await.expect("there are two");
    scene.says("no_sender").await;
    drop((first, second));
    let senders = "select count(*) from pg_stat_replication";
    eventually(SOON, "there are senders again", async || {
        (scene.database.psql(senders).await == "0").then_some(())
    })
    .await;

    let public = RULE
        .replace("private-", "")
        .replace("data = { ", "reveal = ['name']\ndata = { title = '{{ title }}', ");
    scene.configure("rowcast:right@", &public);
    scene.says("public_channel").await;
    scene.configure("rowcast:right@", RULE);

    let named = "publish_columns = 'named'\n[pusher]";
    let config = scene.rowcast.folder().join("rowcast.toml");
    let text = std::fs::read_to_string(&config).expect("it is there").replace("[pusher]", named);
    scene.rowcast.configure(&text);
    scene.set_up().await;
    scene.says("named_columns").await;
    scene.configure("rowcast:right@", RULE);
    scene.set_up().await;

    scene.lose_slot().await;
    scene.says("slot_lost").await;

    scene.psql(&format!("select pg_drop_replication_slot('{slot}')")).await;
    scene.cluster.set(&[("wal_level", "replica")]);
    scene.cluster.restart(Stop::Fast).await;
    scene.says("wal_level").await;

    scene.cluster.stop(Stop::Fast).await;
    scene.says("unreachable").await;
}

#[tokio::test]
async fn doctor_tells_of_a_pooler_that_takes_sessions_away() {
    let database = Database::on(Version::DEFAULT).await;
    database.psql("create table posts (id int primary key)").await;
    let bouncer =
        PgBouncer::start(&database.cluster, PoolMode::Transaction, 4, &["postgres"], None).await;
    let endpoint = Endpoint::start(Server::Any);
    let toml = database.toml().replace(&database.url(), &bouncer.url("postgres", &database.name));
    let rowcast = Rowcast::new(&format!(
        "{toml}[pusher]\n{}[run]\nstate_dir = 'state'\n[[rule]]\ntable = 'posts'\nchannels = ['posts']\n",
        endpoint.toml()
    ));
    let verdicts = verdicts(&rowcast).await;
    assert!(verdicts.contains(&("pooler".to_owned(), "fails".to_owned())), "{verdicts:?}");
    assert!(verdicts.contains(&("connection".to_owned(), "holds".to_owned())), "{verdicts:?}");
}
