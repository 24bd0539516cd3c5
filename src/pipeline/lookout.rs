use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::inspection::Told;
use super::triggers::{Fill, Leader};
use super::wal::Log;
use super::{Capture, Error, Options, inspect};
use crate::postgres::Connection;
use crate::route::Rules;

/// How often to look how much waits for us. A busy server writes a gigabyte of log
/// in less than a minute.
const WEIGH_EVERY: Duration = Duration::from_secs(5);
/// A network may be broken without either end's knowing. The stream alone does
/// not tell: a server that is at work is silent there.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Looks at the database, over an ordinary connection, while changes stream.
pub(super) struct Lookout<'a> {
    pub(super) options: &'a Options,
    /// Those that the session goes by.
    pub(super) rules: Arc<Rules>,
    pub(super) connection: Connection,
    pub(super) leader: &'a mut Option<Leader>,
    pub(super) told: &'a mut Told,
    /// As the session found them.
    pub(super) parts: BTreeSet<Box<str>>,
    pub(super) backlog: Backlog,
}

/// What the database keeps for us until it is delivered.
pub(super) enum Backlog {
    Log(Log),
    Outbox(Fill),
    /// Nobody waits for us.
    Nothing,
}

impl Lookout<'_> {
    /// Returns when the database closes the connection, is no longer as the
    /// rules need it, or keeps too much for us, and says which.
    pub(super) async fn run(mut self) -> Error {
        if let Err(error) = self.look().await {
            return error;
        }
        let every = self.options.inspect_every;
        let mut inspect_at = Instant::now() + every;
        let mut weigh_at = Instant::now() + WEIGH_EVERY;
        loop {
            tokio::select! {
                // A server that shuts down tells here at once, and waits for the
                // stream to be closed.
                error = self.connection.end.closed() => return Error::Disconnected(error),
                error = lost(self.leader) => return Error::Disconnected(error),
                () = sleep_until(inspect_at.min(weigh_at)) => {}
            }
            if weigh_at <= Instant::now() {
                if let Err(error) = self.weigh().await {
                    return error;
                }
                weigh_at = Instant::now() + WEIGH_EVERY;
            }
            if inspect_at <= Instant::now() {
                if let Err(error) = self.inspect().await {
                    return error;
                }
                inspect_at = Instant::now() + every;
            }
        }
    }

    async fn inspect(&mut self) -> Result<(), Error> {
        let mut inspection = inspect(&self.connection, self.options, &self.rules).await?;
        inspection.go_on_without_lookups();
        inspection.accept()?;
        self.told.warn(&inspection);
        match (inspection.parts() == self.parts, &self.options.capture) {
            (true, _) => Ok(()),
            (false, Capture::Wal(_)) => {
                Err(Error::PublicationAltered(self.options.database.publication.clone()))
            }
            (false, Capture::Triggers(_)) => Err(Error::TriggersAltered),
        }
    }

    /// Tells how much waits, whatever it is: the session may be about to deliver it.
    async fn look(&self) -> Result<(), Error> {
        let observer = &self.options.observer;
        match &self.backlog {
            Backlog::Log(log) => log.look(&self.connection.client, observer).await.map(drop),
            Backlog::Outbox(fill) => fill.look(&self.connection, observer).await.map(drop),
            Backlog::Nothing => Ok(()),
        }
    }

    async fn weigh(&mut self) -> Result<(), Error> {
        if let Some(leader) = self.leader {
            leader.stay().await?;
        }
        let observer = &self.options.observer;
        match &mut self.backlog {
            Backlog::Log(log) => log.weigh(&self.connection.client, observer).await,
            Backlog::Outbox(fill) => fill.weigh(&self.connection, observer).await,
            Backlog::Nothing => Ok(()),
        }
    }
}

async fn lost(leader: &mut Option<Leader>) -> Option<tokio_postgres::Error> {
    match leader {
        Some(leader) => leader.lost().await,
        None => pending().await,
    }
}
