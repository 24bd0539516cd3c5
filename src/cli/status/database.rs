//! What the database keeps for rowcast, and how much it may be.

use std::time::Duration;

use anyhow::Context;
use tokio::time::timeout;

use crate::config::Config;
use crate::deliver::ByteSize;
use crate::pipeline;
use crate::postgres::blockers::{self, Blocker};
use crate::postgres::lag::{self, Lag};
use crate::postgres::outbox::{self, Backend, Room};
use crate::postgres::server::Server;
use crate::postgres::slot::{self, Slot};
use crate::postgres::{self, Capture, Connection};

/// For the connection and all questions.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// More log than this is kept for something else than what is not confirmed.
const SLACK_BYTES: u64 = 64 * 1024 * 1024;

/// What keeps changes until they are delivered.
#[derive(Debug)]
pub(super) enum Database {
    Wal(Box<Wal>),
    Triggers(Triggers),
}

#[derive(Debug)]
pub(super) struct Wal {
    pub slot: Option<Slot>,
    pub lag: Option<Lag>,
    /// At so many bytes, changes are passed over.
    pub max_bytes: u64,
    /// At so many bytes the slot is lost; `None`: never, until the disk is full.
    pub max_slot_bytes: Option<u64>,
    /// What keeps log that is delivered long since.
    pub holder: Option<Blocker>,
}

#[derive(Debug)]
pub(super) struct Triggers {
    /// `None` if there is no outbox.
    pub room: Option<Room>,
    pub max_rows: u64,
    pub drained_by: Option<Backend>,
}

pub(super) async fn look(config: &Config) -> anyhow::Result<Database> {
    let looked = timeout(ANSWER_WITHIN, Box::pin(connect_and_look(config))).await;
    looked
        .with_context(|| format!("Postgres gives no answer within {} s", ANSWER_WITHIN.as_secs()))?
}

async fn connect_and_look(config: &Config) -> anyhow::Result<Database> {
    let database = &config.database;
    let session =
        postgres::connect_as(&database.dsn(), "rowcast status", database.tenure()).await?;
    let looked = session.read(async {
        match database.capture {
            Capture::Wal => wal(&session, config).await,
            Capture::Triggers => triggers(&session, config).await,
        }
    });
    Ok(looked.await?)
}

async fn wal(session: &Connection, config: &Config) -> Result<Database, tokio_postgres::Error> {
    let (client, name) = (&session.client, &config.database.slot);
    let (server, slot, lag) =
        tokio::try_join!(Server::read(client), slot::read(client, name), lag::read(client, name))?;
    let is_held = lag.is_some_and(|lag| {
        lag.retained_bytes() > lag.unconfirmed_bytes().saturating_add(SLACK_BYTES)
    });
    let holder = if is_held { blockers::oldest_writer(client).await? } else { None };
    let max_slot_bytes = server.max_slot_wal_keep_size;
    let configured = config.limits.max_retained_wal.map(ByteSize::bytes);
    let max_bytes = pipeline::max_retained(configured, max_slot_bytes);
    Ok(Database::Wal(Box::new(Wal { slot, lag, max_bytes, max_slot_bytes, holder })))
}

async fn triggers(
    session: &Connection,
    config: &Config,
) -> Result<Database, tokio_postgres::Error> {
    let client = &session.client;
    let (room, drained_by) = tokio::try_join!(Room::read(client), outbox::drained_by(client))?;
    let max_rows = config.limits.max_outbox_rows.get();
    Ok(Database::Triggers(Triggers { room, max_rows, drained_by }))
}
