//! The whole program on one page: which stages run, over which queues, and in
//! which order they end.
//!
//! ```text
//!  Session ──Batch──▶ route ──Handoff──▶ Deliver ──▶ endpoint
//!     ▲                                     │
//!     └────────────── Position ◀────────────┘
//! ```
//!
//! The queues live as long as the connection to Postgres. To stop, the session
//! stops reading and drops its end; each stage finishes what it holds and drops
//! its own; when `Deliver` is done, the session confirms the last position and
//! closes. Where the connection broke, what was not delivered is forgotten: the
//! server sends it again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{error, info, warn};

use crate::change::{Batch, Item, Lsn};
use crate::deliver::{self, Backoff, Deliver};
use crate::notification::Handoff;
use crate::postgres::{self, ConnectError, Connection, SlotName};
use crate::route::{self, Router, Rules};
use crate::source::wal::{self, Session, SlotChoice};

mod inspection;
use inspection::{Inspection, Told};
pub use inspection::{Refused, needs_of};

/// Batches and handoffs under way between two stages. Each holds about what one
/// read of the stream brought.
const QUEUE: usize = 2;
/// How often the database is looked at while changes stream.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(60);
/// A Postgres that shuts down waits for us until we are gone.
const SERVER_SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// For the last confirmation, and the closing of the connection.
const CLOSE_GRACE: Duration = Duration::from_secs(3);
/// A slot's holder may leave at any time: a standby asks this often.
const SLOT_POLL: Duration = Duration::from_secs(1);
/// The longest wait between attempts to connect: a page is stale for so long
/// after Postgres is back.
const RECONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A session that lasted this long was no failure to connect.
const SETTLED: Duration = Duration::from_secs(5);

pub struct Options {
    pub database: postgres::Config,
    pub slot: Slot,
    pub rules: Arc<Rules>,
    /// Deliver what was committed before the start, then return.
    pub once: bool,
    /// How long a stop may take to deliver what was read.
    pub grace: Duration,
}

pub enum Slot {
    /// The one that `setup` made.
    Configured,
    /// One that ends with the connection and begins with it.
    Temporary(SlotName),
}

/// How a run without error ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything read was delivered and confirmed.
    Delivered,
    /// The time for that ran out. What was not confirmed comes again.
    Undelivered,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to Postgres")]
    Connect(#[source] ConnectError),
    #[error("cannot read the state of the database")]
    Inspect(#[source] tokio_postgres::Error),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("cannot stream changes")]
    Source(#[from] wal::Error),
    #[error("cannot deliver")]
    Deliver(#[from] deliver::Error),
    #[error("Postgres closed the connection")]
    Disconnected(#[source] Option<tokio_postgres::Error>),
}

impl Slot {
    fn name<'a>(&'a self, database: &'a postgres::Config) -> &'a SlotName {
        match self {
            Slot::Configured => &database.slot,
            Slot::Temporary(slot) => slot,
        }
    }
}

impl Error {
    /// Whether trying again may help without anyone's doing.
    fn is_transient(&self) -> bool {
        match self {
            Error::Connect(error) => error.is_transient(),
            Error::Inspect(_) | Error::Disconnected(_) => true,
            Error::Refused(_) | Error::Deliver(_) => false,
            Error::Source(error) => error.is_transient(),
        }
    }

    fn is_slot_in_use(&self) -> bool {
        matches!(
            self,
            Error::Source(wal::Error::Connection(wal::connection::Error::SlotInUse { .. }))
        )
    }

    /// What to do about it.
    fn hint(&self) -> Option<String> {
        match self {
            Error::Connect(error) => error.hint(),
            Error::Source(error) => error.hint(),
            Error::Inspect(_) | Error::Disconnected(_) | Error::Refused(_) | Error::Deliver(_) => {
                None
            }
        }
    }

    /// With its causes, and what to do, on one line.
    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        match self.hint() {
            Some(hint) => format!("{text} ({hint})"),
            None => text,
        }
    }
}

/// Streams, routes and delivers until `shutdown` turns true, reconnecting
/// whenever the connection is lost.
///
/// # Errors
/// What keeps it from starting and will not pass by itself. Once it has
/// streamed, only [`Error::Deliver`] ends it: everything else may be mended
/// while it waits, with the position held.
pub async fn run(
    options: &Options,
    deliver: &mut Deliver,
    shutdown: watch::Receiver<bool>,
) -> Result<End, Error> {
    let mut backoff = Backoff::up_to(RECONNECT_WITHIN);
    let mut told = Told::default();
    let mut has_streamed = false;
    let mut last_failure = String::new();
    loop {
        let opened = tokio::select! {
            opened = open(options, &mut told) => opened,
            () = stopped(shutdown.clone()) => return Ok(End::Delivered),
        };
        let failure = match opened {
            Ok(open) => {
                has_streamed = true;
                let since = Instant::now();
                match stream(open, options, deliver, &mut told, shutdown.clone()).await {
                    Ok(end) => return Ok(end),
                    Err(failure @ Error::Deliver(_)) => return Err(failure),
                    Err(failure) => {
                        if since.elapsed() > SETTLED {
                            backoff.reset();
                            last_failure.clear();
                        }
                        failure
                    }
                }
            }
            Err(failure) if has_streamed || failure.is_transient() => failure,
            Err(failure) => return Err(failure),
        };
        let wait = if failure.is_slot_in_use() { SLOT_POLL } else { backoff.next() };
        // Said once, not at every attempt.
        let text = failure.chain();
        if text != last_failure {
            let held = "nothing is lost: the slot keeps what was not delivered";
            let retry_ms = wait.as_millis() as u64;
            match failure.is_transient() {
                true => warn!(retry_ms, "{text}; {held}"),
                false => error!(retry_ms, "{text}; {held}"),
            }
            last_failure = text;
        }
        tokio::select! {
            () = sleep(wait) => {}
            () = stopped(shutdown.clone()) => return Ok(End::Delivered),
        }
    }
}

/// A connection that streams, and an ordinary one to watch the database by.
struct Open {
    session: Session,
    connection: Connection,
}

async fn open(options: &Options, told: &mut Told) -> Result<Open, Error> {
    let dsn = options.database.dsn();
    let connection =
        postgres::connect(&dsn, postgres::APPLICATION_NAME).await.map_err(Error::Connect)?;
    let inspection = Inspection::of(&connection.client, options).await.map_err(Error::Inspect)?;
    inspection.accept()?;
    told.warn(&inspection);
    let until = match options.once {
        true => Some(current_lsn(&connection).await.map_err(Error::Inspect)?),
        false => None,
    };
    let rules = options.rules.clone();
    let slot = options.slot.name(&options.database).clone();
    let slot = match &options.slot {
        Slot::Configured => SlotChoice::Named(slot),
        Slot::Temporary(_) => SlotChoice::Temporary(slot),
    };
    let session = Session::open(wal::Options {
        dsn,
        slot,
        publication: options.database.publication.clone(),
        wal_sender_timeout: inspection.wal_sender_timeout(),
        catalog: inspection.relations(),
        wanted: Box::new(move |relation| rules.wanted(relation)),
        until,
    })
    .await?;
    info!(slot = %options.slot.name(&options.database), "streaming changes");
    Ok(Open { session, connection })
}

async fn current_lsn(connection: &Connection) -> Result<Lsn, tokio_postgres::Error> {
    let row = connection.client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
    let text: &str = row.get(0);
    Ok(text.parse().expect("Postgres prints an LSN as one"))
}

/// One connection's life, from the first change to the last confirmation.
async fn stream(
    open: Open,
    options: &Options,
    deliver: &mut Deliver,
    told: &mut Told,
    shutdown: watch::Receiver<bool>,
) -> Result<End, Error> {
    let (changes_tx, changes_rx) = mpsc::channel(QUEUE);
    let (handoffs_tx, handoffs_rx) = mpsc::channel(QUEUE);
    let (confirmed_tx, confirmed_rx) = watch::channel(None);
    let (stop_tx, stop_rx) = watch::channel(false);
    let mut source = tokio::spawn(open.session.run(changes_tx, confirmed_rx, stop_rx));
    tokio::spawn(route(Router::new(options.rules.clone()), changes_rx, handoffs_tx));
    let mut failure = None;
    let end = {
        let delivering = deliver.run(handoffs_rx, confirmed_tx);
        let watching = watch_database(open.connection, options, told);
        let stopping = stopped(shutdown);
        tokio::pin!(delivering, watching, stopping);
        let mut deadline: Option<Instant> = None;
        loop {
            tokio::select! {
                delivered = &mut delivering => {
                    delivered?;
                    break End::Delivered;
                }
                // Before `deliver` is done it ends only because the connection
                // broke: what is not delivered will be sent again.
                ended = &mut source => {
                    session_result(ended)?;
                    return Err(Error::Disconnected(None));
                }
                error = &mut watching, if failure.is_none() => {
                    failure = Some(error);
                    stop_tx.send_replace(true);
                    deadline = Some(Instant::now() + SERVER_SHUTDOWN_GRACE);
                }
                () = &mut stopping, if deadline.is_none() => {
                    info!("stopping: delivering what was read");
                    stop_tx.send_replace(true);
                    deadline = Some(Instant::now() + options.grace);
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    break End::Undelivered;
                }
            }
        }
    };
    // `confirmed_tx` is gone now, so the session ends the stream.
    match timeout(CLOSE_GRACE, &mut source).await {
        Ok(ended) => {
            if let Err(error) = session_result(ended)
                && failure.is_none()
            {
                let error = Error::from(error).chain();
                warn!("the last confirmation may be lost, and its changes come again: {error}");
            }
        }
        Err(_) => source.abort(),
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(end),
    }
}

fn session_result(ended: Result<Result<(), wal::Error>, JoinError>) -> Result<(), wal::Error> {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(result) => result,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => unreachable!("nobody aborts a session and then waits for it"),
    }
}

/// Returns when the database closes the connection or is no longer as the rules
/// need it, and says which.
async fn watch_database(connection: Connection, options: &Options, told: &mut Told) -> Error {
    let Connection { client, mut end } = connection;
    loop {
        tokio::select! {
            // A server that shuts down tells here at once, and waits for the
            // stream to be closed.
            error = end.closed() => return Error::Disconnected(error),
            () = sleep(INSPECTION_INTERVAL) => {}
        }
        match Inspection::of(&client, options).await {
            Ok(inspection) => {
                if let Err(refused) = inspection.accept() {
                    return refused.into();
                }
                told.warn(&inspection);
            }
            Err(error) => return Error::Inspect(error),
        }
    }
}

/// Turns each batch of changes into its notifications.
///
/// # Errors
/// With the batch of the first change that must not be passed over: nothing of
/// it is handed on, so the position stays before it.
async fn route(
    mut router: Router,
    mut changes: mpsc::Receiver<Batch>,
    handoffs: mpsc::Sender<Handoff>,
) -> Result<(), route::Renamed> {
    let ended = loop {
        let Some(batch) = changes.recv().await else { break Ok(()) };
        let handoff = match handoff_of(&mut router, &batch) {
            Ok(handoff) => handoff,
            Err(renamed) => break Err(renamed),
        };
        if handoffs.send(handoff).await.is_err() {
            break Ok(());
        }
    };
    let route::Counts { null_channels, partial } = router.counts;
    if null_channels + partial > 0 {
        info!(null_channels, partial, "channels that a NULL left out, payloads sent minimal");
    }
    ended
}

fn handoff_of(router: &mut Router, batch: &Batch) -> Result<Handoff, route::Renamed> {
    let mut handoff = Handoff::default();
    for item in batch.items() {
        match item {
            Item::Change(change) => router.route(&change, &mut handoff.notifications)?,
            Item::Truncate { relation, .. } => {
                warn!(table = %relation.table, "the table was truncated: pages are not told");
            }
            Item::Reached(position) => handoff.reached = Some(position),
        }
    }
    Ok(handoff)
}

/// Waits until `shutdown` is true. A sender that is gone can stop nobody.
async fn stopped(mut shutdown: watch::Receiver<bool>) {
    if shutdown.wait_for(|shutdown| *shutdown).await.is_err() {
        std::future::pending().await
    }
}
