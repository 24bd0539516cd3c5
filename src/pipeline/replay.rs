//! What is told once more, by the stages that tell changes. It ends by itself.
//!
//! ```text
//!  Source ──Batch──▶ Lookups ▸ Router ──Handoff──▶ Throttle ──Handoff──▶ Deliver
//!     ▲                                                                    │
//!     └────────────────── Position ◀── Progress ◀──────────────────────────┘
//! ```
//!
//! It is safe beside a `run`: it reads by a session of its own, and has no slot, no
//! outbox and no state. Where it stopped is the caller's to keep.

mod catalog;
mod throttle;

pub use catalog::{Catalog, UnknownRule, named, routing_of_recording};
pub use throttle::{Rate, RateError};

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use self::throttle::Throttle;
use super::{End, Error, QUEUE, Routing, keeper, result_of, stopped};
use crate::deliver::{Deliver, Progress};
use crate::notification::{Handoff, Resync};
use crate::source::recording::Recording;
use crate::source::{self, rows};

/// What is told once more.
pub enum Again {
    /// Who looks at the rows of these rules is to fetch them anew.
    Resyncs(Vec<Resync>),
    /// What the rules make of these.
    Changes(Source, Box<Routing>),
    /// What the endpoint has refused.
    Refused(Vec<Handoff>),
}

/// Where changes come from that are told once more.
pub enum Source {
    Rows(Box<rows::Session>),
    Recording(Box<Recording>),
}

/// How it is told.
pub struct Replay<'a> {
    pub deliver: &'a mut Deliver,
    /// How many notifications may be sent. `None`: as many as the endpoint takes.
    pub rate: Option<Rate>,
    /// How long a stop may take to deliver what was read.
    pub grace: Duration,
    /// Told how far delivery has come.
    pub progress: watch::Sender<Progress>,
}

/// What has come of it, also where it could not be told to its end.
#[derive(Debug)]
pub struct Replayed {
    pub end: End,
    /// What kept it from being told.
    pub failed: Option<Error>,
    /// How many notifications were handed on to be sent, without resyncs.
    pub notifications: u64,
    /// How far rows were read, if any were to be.
    pub read: Option<rows::Read>,
}

impl Replay<'_> {
    /// Tells it until all is accepted, or refused and written down, or until
    /// `shutdown` turns true and what was read is delivered or the grace is over.
    pub async fn run(self, again: Again, shutdown: watch::Receiver<bool>) -> Replayed {
        let Replay { deliver, rate, grace, progress } = self;
        let (handoffs_tx, handoffs_rx) = mpsc::channel(QUEUE);
        let (throttled_tx, throttled_rx) = mpsc::channel(QUEUE);
        let (stop_tx, stop_rx) = watch::channel(false);
        let told = progress.subscribe();
        let (mut reading, mut recalling, mut routing) = (None, None, None);
        let owed = match again {
            Again::Resyncs(resyncs) => {
                let rules = resyncs.iter().map(|resync| resync.terms.rule.clone()).collect();
                tokio::spawn(hold_open(handoffs_tx, rules, told, stop_rx.clone()));
                resyncs
            }
            Again::Refused(refused) => {
                tokio::spawn(hand_on(refused, handoffs_tx, stop_rx.clone()));
                Vec::new()
            }
            Again::Changes(source, router) => {
                let (changes_tx, changes_rx) = mpsc::channel(QUEUE);
                let (confirmed_tx, confirmed_rx) = watch::channel(None);
                tokio::spawn(keeper::pass_on(told, confirmed_tx));
                let stop_rx = stop_rx.clone();
                match source {
                    Source::Rows(rows) => {
                        let rows = rows.run(changes_tx, confirmed_rx, stop_rx);
                        reading = Some(tokio::spawn(rows));
                    }
                    Source::Recording(recording) => {
                        recalling = Some(tokio::spawn(recording.run(changes_tx, stop_rx)));
                    }
                }
                routing = Some(tokio::spawn(router.run(changes_rx, handoffs_tx)));
                Vec::new()
            }
        };
        let throttle = Throttle::new(rate.as_ref()).run(handoffs_rx, throttled_tx, stop_rx);
        let throttle = tokio::spawn(throttle);

        let mut deadline: Option<Instant> = None;
        let mut failed = None;
        let is_all_told = {
            let delivering = deliver.run(owed, throttled_rx, progress);
            let stopping = stopped(shutdown);
            tokio::pin!(delivering, stopping);
            loop {
                tokio::select! {
                    delivered = &mut delivering => {
                        failed = delivered.err().map(Error::from);
                        break deadline.is_none();
                    }
                    () = &mut stopping, if deadline.is_none() => {
                        info!("stopping: delivering what was read");
                        stop_tx.send_replace(true);
                        deadline = Some(Instant::now() + grace);
                    }
                    () = sleep_until(deadline.unwrap_or_else(Instant::now)),
                        if deadline.is_some() => break false,
                }
            }
        };
        // Where delivery failed, what waits for its turn is not sent.
        stop_tx.send_replace(true);
        let notifications = result_of(throttle.await);
        if let Some(routing) = routing {
            failed = failed.or(result_of(routing.await).err());
        }
        let mut read = None;
        if let Some(reading) = reading {
            let read = read.insert(result_of(reading.await));
            failed = failed.or(read.failed.take().map(|error| source::Error::from(error).into()));
        }
        if let Some(recalling) = recalling {
            failed = failed.or(result_of(recalling.await).err().map(Error::from));
        }
        let end = match is_all_told && failed.is_none() {
            true => End::Delivered,
            false => End::Undelivered,
        };
        Replayed { end, failed, notifications, read }
    }
}

async fn hand_on(
    all: Vec<Handoff>,
    handoffs: mpsc::Sender<Handoff>,
    mut stop: watch::Receiver<bool>,
) {
    let handing_on = async {
        for handoff in all {
            if handoffs.send(handoff).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = handing_on => {}
        // An error says that delivery has ended.
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Keeps delivery from taking the end of what is handed on for a stop, at which all
/// pages would be told at once, until these rules' resyncs are settled.
async fn hold_open(
    handoffs: mpsc::Sender<Handoff>,
    rules: BTreeSet<Arc<str>>,
    mut told: watch::Receiver<Progress>,
    stop: watch::Receiver<bool>,
) {
    let settled = told.wait_for(|progress| rules.is_subset(&progress.settled));
    tokio::select! {
        // An error says that delivery has ended.
        _ = settled => {}
        () = stopped(stop) => {}
    }
    drop(handoffs);
}
