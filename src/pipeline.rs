//! The whole program on one page: which stages run, over which queues, and in
//! which order they end.
//!
//! ```text
//!  Session ──Batch──▶ Lookups ▸ Router ──Handoff──▶ Deliver ──▶ endpoint
//!     ▲                                                │
//!     └──────── Position ◀── Keeper ◀── Progress ◀─────┘
//! ```
//!
//! What differs by where changes come from is in `wal` and in `triggers`: how a
//! session begins, how much may wait for us in the database, and who else might
//! read it. All else is the same for both.
//!
//! `routing` hands on only what other sessions see: of the log, it asks the server
//! meanwhile. What its rules read in other tables it asks for once that is so.
//!
//! One word goes against the data, past the queues: while a rule has too much to tell,
//! `Deliver` demands of `Router` that its changes are only counted
//! ([`Demand`](crate::notification::Demand)).
//!
//! A session goes on where the one before ended, or else every page is told to
//! fetch again: `continuity` says which. The keeper writes down how far it was,
//! before the session confirms that.
//!
//! The queues live as long as the connection to Postgres. To stop, the session
//! stops reading and drops its end; each stage finishes what it holds and drops
//! its own; when `Deliver` is done, the keeper writes the last position, the
//! session confirms it and closes. Where the connection broke, what was not
//! delivered is forgotten: it comes again.
//!
//! Other rules, once they are wanted, end a session as a stop does, and the next one
//! goes by them: `rulebook` has them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::change::Lsn;
use crate::config::OnSlotLoss;
use crate::deliver::{Deliver, Progress};
use crate::notification::{Reason, Resync};
use crate::postgres::Connection;
use crate::route::Rules;
use crate::source::{self, Session};
use crate::state::State;

mod error;
mod inspection;
mod judgement;
mod keeper;
mod lookout;
mod opening;
mod options;
pub mod replay;
mod routing;
mod rulebook;
mod triggers;
mod unsent;
mod wal;

pub use error::{Error, Shed};
use inspection::{Inspection, Told};
pub use inspection::{Refused, needs_of, readings_of};
pub use judgement::{Instances, Judgement};
use keeper::Keeper;
use lookout::{Backlog, Lookout};
use opening::Opened;
pub use options::{Capture, Options, Slot, Triggers, Wal};
pub use routing::Routing;
pub use rulebook::{Rulebook, check};
use triggers::Leader;
use wal::Standby;
pub use wal::max_retained;

/// Batches and handoffs under way between two stages. Each holds about what one
/// read of the stream brought.
const QUEUE: usize = 2;
/// For the catalogs, which a lock may keep from being read.
const INSPECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// A Postgres that shuts down waits for us until we are gone; and a session that
/// cannot go on is not left waiting for a slow endpoint.
const SERVER_SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// For the last confirmation, and the closing of the connection.
const CLOSE_GRACE: Duration = Duration::from_secs(3);
/// The same, where all that was delivered in the last seconds is deleted then.
const DELETE_GRACE: Duration = Duration::from_secs(10);
/// The same for `--once`, which ends when it is done: a bulk update leaves millions.
const DELETE_ALL_GRACE: Duration = Duration::from_secs(600);
/// The longest wait between attempts to connect: a page is stale for so long
/// after Postgres is back.
const RECONNECT_WITHIN: Duration = Duration::from_secs(5);
/// What resyncs that are owed at a session's start stand for was committed
/// before: so long it may take until it is visible to the pages' requests.
const OWED_AFTER: Duration = Duration::from_secs(1);
/// A session that lasted this long was no failure to connect.
const SETTLED: Duration = Duration::from_secs(5);

/// How a run without error ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything that was to be delivered is delivered and confirmed.
    Delivered,
    /// It was stopped before. What was not confirmed comes again.
    Undelivered,
}

/// Streams, routes and delivers until `shutdown` turns true, reconnecting
/// whenever the connection is lost.
///
/// # Errors
/// What keeps it from starting and will not pass by itself. Once it has
/// streamed, only [`Error::Deliver`], [`Error::OtherSystem`] and
/// [`Error::SlotLost`] end it: everything else may be mended while it waits, with
/// the position held. Not so with `once`, for which nobody waits.
pub async fn run(
    options: &Options,
    deliver: &mut Deliver,
    shutdown: watch::Receiver<bool>,
) -> Result<End, Error> {
    let supervising = Box::pin(supervise(options, deliver, shutdown));
    options.observer.pulses().of("the pipeline", supervising).await
}

async fn supervise(
    options: &Options,
    deliver: &mut Deliver,
    shutdown: watch::Receiver<bool>,
) -> Result<End, Error> {
    let mut pipeline = Pipeline::new(options);
    let mut backoff = Backoff::up_to(RECONNECT_WITHIN);
    let mut last_failure = String::new();
    let mut broke_at_once = false;
    // As the last session left it.
    let mut end = match options.once {
        true => End::Undelivered,
        false => End::Delivered,
    };
    loop {
        let opened = tokio::select! {
            opened = pipeline.open() => opened,
            () = stopped(shutdown.clone()) => break,
        };
        let failure = match opened {
            Ok(Opened::Streaming(open)) => {
                if pipeline.has_streamed {
                    options.observer.metrics().reconnected();
                }
                pipeline.has_streamed = true;
                let since = Instant::now();
                // What breaks again and again is announced once, and so is why.
                let announce_at = if broke_at_once { since + SETTLED } else { since };
                if !broke_at_once {
                    last_failure.clear();
                }
                match pipeline.stream(open, deliver, announce_at, shutdown.clone()).await {
                    Ok(ControlFlow::Break(end)) => return Ok(end),
                    Ok(ControlFlow::Continue(left)) => {
                        end = left;
                        broke_at_once = false;
                        pipeline.has_failed = false;
                        backoff.reset();
                        continue;
                    }
                    Err(failure) => {
                        end = End::Undelivered;
                        broke_at_once = since.elapsed() < SETTLED;
                        pipeline.has_failed = broke_at_once;
                        if !broke_at_once {
                            backoff.reset();
                            last_failure.clear();
                        }
                        failure
                    }
                }
            }
            Ok(Opened::SlotGone(gone)) => {
                options.observer.is_broken("the slot is lost, and is being made again");
                match pipeline.remake(gone, stopped(shutdown.clone())).await {
                    Ok(true) => continue,
                    Ok(false) => break,
                    Err(failure) => failure,
                }
            }
            Err(failure) => {
                broke_at_once = false;
                pipeline.has_failed = pipeline.has_streamed;
                failure
            }
        };
        if failure.is_final() {
            return Err(failure);
        }
        let is_made_up_for = pipeline.makes_up_for(&failure).await;
        let may_wait = pipeline.has_streamed && !options.once || is_made_up_for;
        if !may_wait && !failure.is_transient() {
            return Err(failure);
        }
        pipeline.is_broken(&failure);
        let wait = backoff.next();
        // Said once, not at every attempt.
        let text = failure.in_full();
        if text != last_failure {
            match is_made_up_for {
                true => failure.tell_made_up_for(),
                false => failure.tell(&options.capture, wait),
            }
            last_failure = text;
        }
        tokio::select! {
            () = sleep(wait) => {}
            // They may be what mends it.
            () = pipeline.rulebook.changed() => {}
            () = stopped(shutdown.clone()) => break,
        }
    }
    Ok(end)
}

/// What outlives a connection.
struct Pipeline<'a> {
    options: &'a Options,
    rulebook: Rulebook,
    /// Those in use: the latest when the database was last looked at.
    rules: Arc<Rules>,
    told: Told,
    standby: Standby,
    /// Where `--once` ends: what was committed when the first connection began.
    until: Option<Lsn>,
    /// Why the next session leaves out what was committed before it.
    pass_over: Option<Reason>,
    /// The backend by which we emptied the outbox last.
    led_by: Option<i32>,
    /// So that nobody stands by who could mend what keeps it from starting.
    has_streamed: bool,
    /// After the first session: the last attempt came to nothing, or ended at once.
    has_failed: bool,
}

/// A connection that streams, an ordinary one to watch the database by, one that
/// tells what is visible: that must not wait for a look at the catalogs; and one
/// to look rows up by, if rules do.
struct Open {
    session: Session,
    connection: Connection,
    /// Of those who empty the outbox.
    leader: Option<Leader>,
    routing: Routing,
    /// What is recorded, where anything is.
    state: Option<State>,
    owed: Vec<Resync>,
    parts: BTreeSet<Box<str>>,
    backlog: Backlog,
}

impl Pipeline<'_> {
    fn new(options: &Options) -> Pipeline<'_> {
        let standby = Standby::new(match &options.capture {
            Capture::Wal(wal) => wal.takeover,
            Capture::Triggers(_) => false,
        });
        let mut rulebook = options.rules.clone();
        let rules = rulebook.latest();
        Pipeline {
            options,
            rulebook,
            rules,
            told: Told::default(),
            standby,
            until: None,
            pass_over: None,
            led_by: None,
            has_streamed: false,
            has_failed: false,
        }
    }

    fn is_broken(&self, failure: &Error) {
        let observer = &self.options.observer;
        match (failure.is_slot_in_use(), &self.options.capture) {
            // Somebody was there first.
            (true, Capture::Wal(wal)) => {
                observer.waits(format!("slot {} held by another process", wal.slot.name()));
            }
            _ => observer.is_broken(failure.in_full()),
        }
    }

    /// Where changes never come because of the failure, pages are to fetch again.
    /// Returns whether that is all it takes to go on.
    async fn makes_up_for(&mut self, failure: &Error) -> bool {
        use source::wal::Error::Publication;

        let reason = match (failure, &self.options.capture) {
            (Error::Shed(_), _) => Reason::Shed,
            (Error::Source(source::Error::Wal(Publication { .. })), Capture::Wal(wal))
                if wal.on_slot_loss == OnSlotLoss::Resync =>
            {
                Reason::Gap
            }
            (Error::Refused(refused), _) => {
                if !refused.is_harmless() {
                    self.owe_gap().await;
                }
                return false;
            }
            // Who reads it now decides anew.
            (failure, _) if failure.is_slot_in_use() => {
                self.pass_over = None;
                return false;
            }
            _ => return false,
        };
        if self.options.state.is_none() {
            return false;
        }
        self.pass_over = Some(reason);
        true
    }

    /// One connection's life, from the first change to the last confirmation. Another
    /// one is to begin if it ended only because other rules are wanted.
    async fn stream(
        &mut self,
        open: Box<Open>,
        deliver: &mut Deliver,
        announce_at: Instant,
        shutdown: watch::Receiver<bool>,
    ) -> Result<ControlFlow<End, End>, Error> {
        let (changes_tx, changes_rx) = mpsc::channel(QUEUE);
        let (handoffs_tx, handoffs_rx) = mpsc::channel(QUEUE);
        let (progress_tx, progress_rx) = watch::channel(Progress::default());
        let (confirmed_tx, confirmed_rx) = watch::channel(None);
        let (stop_tx, stop_rx) = watch::channel(false);
        let Open { session, connection, mut leader, routing, state, owed, parts, backlog } = *open;
        let pulses = self.options.observer.pulses();
        let reading =
            pulses.clone().of("the source", session.run(changes_tx, confirmed_rx, stop_rx));
        let mut source = tokio::spawn(reading);
        let routing = pulses.of("routing", routing.run(changes_rx, handoffs_tx));
        let mut routing = tokio::spawn(routing);
        let mut keeping = match self.options.state.clone().zip(state) {
            Some((file, state)) => {
                let observer = self.options.observer.clone();
                tokio::spawn(Keeper::new(file, state, observer).run(progress_rx, confirmed_tx))
            }
            None => tokio::spawn(keeper::pass_on(progress_rx, confirmed_tx)),
        };

        let mut source_ended = None;
        let mut has_routed = false;
        let mut failure = None;
        let mut deadline: Option<Instant> = None;
        let (mut is_stopping, mut is_renewing) = (false, false);
        let announce = || match &self.options.capture {
            Capture::Wal(wal) => info!(slot = %wal.slot.name(), "streaming changes"),
            Capture::Triggers(_) => info!(capture = "triggers", "streaming changes"),
        };
        let observer = &self.options.observer;
        observer.streams();
        let mut is_announced = announce_at <= Instant::now();
        if is_announced {
            announce();
        }
        let delivered = {
            let delivering = async {
                if !owed.is_empty() {
                    sleep(OWED_AFTER).await;
                }
                deliver.run(owed, handoffs_rx, progress_tx).await
            };
            let (options, told, leader) = (self.options, &mut self.told, &mut leader);
            let rules = self.rules.clone();
            let lookout = Lookout { options, rules, connection, leader, told, parts, backlog };
            let watching = lookout.run();
            let stopping = stopped(shutdown);
            tokio::pin!(delivering, watching, stopping);
            loop {
                tokio::select! {
                    // It ends first only if the connection broke: what is not
                    // delivered will be sent again.
                    ended = &mut source => {
                        source_ended = Some(result_of(ended));
                        break false;
                    }
                    delivered = &mut delivering => {
                        delivered?;
                        break true;
                    }
                    () = sleep_until(announce_at), if !is_announced => {
                        announce();
                        is_announced = true;
                    }
                    // If without an error, its input or what it hands on to has
                    // ended. With one, that would look like the end of all changes.
                    ended = &mut routing, if !has_routed => {
                        has_routed = true;
                        if let Err(error) = result_of(ended) {
                            failure.get_or_insert(error);
                            stop_tx.send_replace(true);
                            deadline.get_or_insert(Instant::now() + SERVER_SHUTDOWN_GRACE);
                        }
                    }
                    error = &mut watching, if failure.is_none() => {
                        // What is shed is not waited for.
                        let grace = match error {
                            Error::Shed(_) => Duration::ZERO,
                            _ => SERVER_SHUTDOWN_GRACE,
                        };
                        failure = Some(error);
                        stop_tx.send_replace(true);
                        deadline = Some(Instant::now() + grace);
                    }
                    () = &mut stopping, if !is_stopping && failure.is_none() => {
                        info!("stopping: delivering what was read");
                        observer.stops();
                        stop_tx.send_replace(true);
                        deadline = Some(Instant::now() + self.options.grace);
                        is_stopping = true;
                    }
                    () = self.rulebook.changed(), if deadline.is_none() => {
                        info!("other rules: delivering what was read by those until now");
                        stop_tx.send_replace(true);
                        deadline = Some(Instant::now() + self.options.grace);
                        is_renewing = true;
                    }
                    () = sleep_until(deadline.unwrap_or_else(Instant::now)),
                        if deadline.is_some() => break false,
                }
            }
        };
        // `progress_tx` is gone now, so the keeper writes the last position, and the
        // session confirms it and ends the stream; it reads no more if it still did.
        drop(stop_tx);
        let close_grace = match (&self.options.capture, &failure) {
            (Capture::Triggers(_), None) if deadline.is_none() => DELETE_ALL_GRACE,
            (Capture::Triggers(_), None) => DELETE_GRACE,
            (Capture::Triggers(_), Some(_)) | (Capture::Wal(_), _) => CLOSE_GRACE,
        };
        let mut is_confirmed = true;
        let source_ended = match source_ended {
            Some(ended) => ended,
            None => match timeout(close_grace, &mut source).await {
                Ok(ended) => result_of(ended),
                Err(_) => {
                    source.abort();
                    is_confirmed = false;
                    Ok(())
                }
            },
        };
        match timeout(CLOSE_GRACE, &mut keeping).await {
            Ok(ended) => result_of(ended),
            // What it could not write down the next session takes for a gap.
            Err(_) => {
                keeping.abort();
                warn!("the state cannot be written in time: does its disk hang?");
            }
        }
        if !has_routed {
            // Its input is closed.
            failure = failure.or(result_of(routing.await).err());
        }

        let was_stopped = deadline.is_some();
        let end = match (failure, source_ended) {
            (Some(failure), _) => return Err(failure),
            (None, Err(error)) if !was_stopped => return Err(error.into()),
            (None, Err(error)) => {
                let error = Error::from(error).in_full();
                warn!("the last confirmation may be lost, and its changes come again: {error}");
                End::Undelivered
            }
            (None, Ok(())) if !is_confirmed => {
                warn!(
                    "what was delivered last could not all be confirmed in time, and is announced \
                     again at the next start"
                );
                End::Undelivered
            }
            // `--once` ends by itself where it was to end; else somebody stops it.
            (None, Ok(())) if was_stopped == self.options.once => End::Undelivered,
            (None, Ok(())) if delivered => End::Delivered,
            (None, Ok(())) => End::Undelivered,
        };
        match is_renewing && !is_stopping {
            true => Ok(ControlFlow::Continue(end)),
            false => Ok(ControlFlow::Break(end)),
        }
    }
}

async fn inspect(
    connection: &Connection,
    options: &Options,
    rules: &Rules,
) -> Result<Inspection, Error> {
    match timeout(INSPECTION_TIMEOUT, Inspection::of(connection, options, rules)).await {
        Ok(inspection) => inspection.map_err(Error::Inspect),
        Err(_) => Err(Error::InspectTimeout),
    }
}

/// What a task returned. Its panic goes on here.
fn result_of<T>(ended: Result<T, JoinError>) -> T {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(result) => result,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => unreachable!("nobody aborts a task and then waits for it"),
    }
}

/// Waits until `shutdown` is true. A sender that is gone can stop nobody.
async fn stopped(mut shutdown: watch::Receiver<bool>) {
    if shutdown.wait_for(|shutdown| *shutdown).await.is_err() {
        std::future::pending().await
    }
}
