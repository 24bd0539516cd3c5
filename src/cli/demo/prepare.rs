//! What the demo has in place of a user's configuration and `setup`.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::time::sleep;

use crate::change::Relation;
use crate::config::{InspectEvery, OnSlotLoss};
use crate::deliver::pusher::{self, Client};
use crate::deliver::{Deliver, Limits, RejectedFile, Sink};
use crate::observe::Observer;
use crate::pipeline::{self, needs_of};
use crate::postgres::checks::Expected;
use crate::postgres::plan::{self, Identities};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::{self, Connection, identity};
use crate::route::{self, Rules};
use crate::source::wal::connection::{Persistence, ReplicationConnection};

use super::blog;
use super::cluster::Cluster;
use super::endpoint::Endpoint;

/// For the last notifications, once everything that was committed has arrived.
const GRACE: Duration = Duration::from_secs(5);
/// Nothing else locks the blog.
const ATTEMPTS: u32 = 2;

pub(super) struct Prepared {
    pub(super) options: pipeline::Options,
    pub(super) deliver: Deliver,
    /// The blog's own session.
    pub(super) application: Connection,
}

#[derive(Deserialize)]
struct RulesFile {
    rule: Vec<route::Config>,
}

pub(super) async fn prepare(cluster: &Cluster, endpoint: &Endpoint) -> anyhow::Result<Prepared> {
    let pusher: pusher::Config = toml::from_str(&endpoint.config())?;
    let database = database(cluster, blog::DATABASE)?;
    let rules = rules(&database, &pusher)?;

    let maintenance = self::database(cluster, "postgres")?;
    let maintenance = postgres::connect(&maintenance.dsn(), APPLICATION).await?;
    maintenance.client.batch_execute(&format!("CREATE DATABASE {}", blog::DATABASE)).await?;
    let application = postgres::connect(&database.dsn(), APPLICATION).await?;
    // As an application's, and not as ours.
    application.client.batch_execute("SET search_path = public").await?;
    application.client.batch_execute(blog::SCHEMA).await?;
    set_up(&application, &database, &rules).await?;

    let rejected = cluster.folder().join("rejected.jsonl");
    let rejected = RejectedFile::open(rejected, RejectedFile::MAX)?;
    let deliver = Deliver::new(
        Sink::Pusher(Client::new(&pusher)?, rejected),
        &Limits::default(),
        Observer::default(),
    );
    let capture = pipeline::Capture::Wal(pipeline::Wal {
        slot: pipeline::Slot::Configured(database.slot.clone()),
        on_slot_loss: OnSlotLoss::Stop,
        max_retained_wal: None,
        takeover: false,
        failover: false,
    });
    let options = pipeline::Options {
        database,
        capture,
        rules: rules.into(),
        once: false,
        grace: GRACE,
        inspect_every: InspectEvery::default().get(),
        state: None,
        observer: Observer::default(),
        recorder: None,
        explains: false,
    };
    Ok(Prepared { options, deliver, application })
}

/// Of the sessions that are not rowcast's.
const APPLICATION: &str = "blog";

fn database(cluster: &Cluster, name: &str) -> anyhow::Result<postgres::Config> {
    let url = toml::Value::String(cluster.dsn(name));
    Ok(toml::from_str(&format!("url = {url}"))?)
}

fn rules(database: &postgres::Config, pusher: &pusher::Config) -> anyhow::Result<Rules> {
    let file: RulesFile = toml::from_str(blog::RULES).context("the demo's rules")?;
    let options = route::Options {
        timezone: database.timezone.get().clone(),
        max_data_bytes: pusher.server.capacity().max_data_bytes(),
        encrypts: false,
    };
    match Rules::compile(file.rule, options) {
        Ok(rules) => Ok(rules),
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            bail!("the demo's rules: {}", lines.join("\n"))
        }
    }
}

/// As `rowcast setup --identity`, without its words.
async fn set_up(
    owner: &Connection,
    database: &postgres::Config,
    rules: &Rules,
) -> anyhow::Result<()> {
    let client = &owner.client;
    let snapshot = Snapshot::gather(client, &database.slot, &database.publication).await?;
    let indexes = identity::own_indexes(client).await?;
    let relations: Vec<Relation> = snapshot.relations();
    let needs = needs_of(&rules.tables(&relations));
    let expected = Expected::of(database, &needs);
    let columns = database.publish_columns;
    let plan = plan::setup(&snapshot, &expected, &indexes, columns, Identities::Change)?;
    for statement in &plan.statements {
        statement.execute(client, ATTEMPTS, |_| {}).await?;
    }
    let mut replication = ReplicationConnection::connect(&database.dsn(), APPLICATION).await?;
    replication.create_slot(&database.slot, Persistence::Permanent).await?;
    Ok(())
}

/// Returns once rowcast reads the slot: what was written before that would say
/// more about its start than about its latency.
pub(super) async fn streaming(
    client: &tokio_postgres::Client,
) -> Result<(), tokio_postgres::Error> {
    const INTERVAL: Duration = Duration::from_millis(5);
    let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
    while client.query_one(active, &[]).await?.try_get::<_, i64>(0)? == 0 {
        sleep(INTERVAL).await;
    }
    Ok(())
}
