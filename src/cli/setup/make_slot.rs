//! Making the slot, which waits for every transaction that is open.

use anyhow::{Context, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::Client;

use crate::change::Lsn;
use crate::postgres::{Dsn, SlotName};
use crate::source::wal::Maker;
use crate::source::wal::connection::{Persistence, ReplicationConnection};

use super::SESSION_NAME;

pub(super) async fn connect(dsn: &Dsn) -> anyhow::Result<ReplicationConnection> {
    ReplicationConnection::connect(dsn, SESSION_NAME)
        .await
        .context("the role of [database] url cannot log in for replication")
}

/// Makes the slot and returns from where on it has changes. `observer` is asked
/// what it waits for. Ctrl-C gives up, and leaves no slot behind.
pub(super) async fn make(
    replication: ReplicationConnection,
    slot: &SlotName,
    persistence: Persistence,
    dsn: &Dsn,
    observer: &Client,
) -> anyhow::Result<Lsn> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let interrupted = async move {
        interrupt.recv().await;
    };
    let maker =
        Maker { dsn, application_name: SESSION_NAME, persistence, observer, way_out: "Ctrl-C" };
    let made = maker.make(replication, slot, interrupted).await?;
    made.ok_or_else(|| anyhow!("interrupted: slot {slot} was not made; the rest of setup stays"))
}
