//! With capture = "triggers".

use std::sync::Arc;

use rowcast::deliver::pusher::Server;

use super::Said;
use crate::harness::{
    cluster::{Cluster, Version},
    database::Database,
    endpoint::Endpoint,
    rowcast::Rowcast,
    wait::SOON,
};

#[tokio::test]
async fn doctor_says_what_triggers_lack_and_what_mends_it() {
    let cluster = Arc::new(
        Cluster::start(Version::DEFAULT, &[("wal_level", "replica"), ("autovacuum", "off")]).await,
    );
    let database = Database::fresh(&cluster).await;
    database
        .psql(
            "create role rowcast login;
             create table posts (id int primary key, title text);
             create table logs (id int, day int, primary key (id, day)) partition by list (day);
             create table logs_1 partition of logs for values in (1);",
        )
        .await;
    let endpoint = Endpoint::start(Server::Any);
    let url = database.url().replace("postgres@", "rowcast@");
    let rowcast = Rowcast::new(&format!(
        "[database]\nurl = '{url}'\ncapture = 'triggers'\n[pusher]\n{}[run]\nstate_dir = 'state'\n\
         [[rule]]\ntable = 'posts'\nchannels = ['posts']\n[[rule]]\ntable = 'logs'\nchannels = ['logs']\n",
        endpoint.toml()
    ));
    let set_up = async || {
        let setup = rowcast.start(&["setup", "--url", &database.url()]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
    };
    let says = async |name: &str| Said::by(&rowcast).await.is_golden(name, &database);

    says("triggers_before_setup").await;
    set_up().await;
    let run = rowcast.start(&["run"]);
    run.stderr.wait_for(SOON, "streaming changes").await;
    says("triggers_healthy").await;
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0);

    database.psql("alter table posts disable trigger all").await;
    database.psql("create table logs_2 partition of logs for values in (2)").await;
    says("triggers_off").await;
    set_up().await;

    database.psql("alter table rowcast.outbox owner to postgres").await;
    says("triggers_foreign").await;
}
