use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant as TokioInstant, sleep_until};
use tracing::{debug, error, info, trace, warn};

use crate::acknowledge::Frontier;
use crate::change::Position;
use crate::notification::Handoff;

use super::gate::Transition;
use super::lane::Settled;
use super::lanes::{Lanes, Start};
use super::pusher::{self, Verdict};
use super::recorder::Recorder;
use super::rejected::Rejected;
use super::{Error, Limits, RejectedFile};

/// Sends notifications to the endpoint, and knows which it has accepted.
#[derive(Debug)]
pub(super) struct Publisher {
    client: pusher::Client,
    recorder: Recorder,
    frontier: Frontier,
    lanes: Lanes,
    /// How each request ended, with its lane. Requests outlive a session: one
    /// that was given up may still arrive, and its lane must wait for that.
    in_flight: JoinSet<(usize, Verdict)>,
    max_pending_bytes: usize,
    is_held_back: bool,
}

impl Publisher {
    pub(super) fn new(client: pusher::Client, rejected: RejectedFile, limits: &Limits) -> Self {
        let lanes = Lanes::new(limits.max_in_flight.get(), client.server().capacity());
        Publisher {
            client,
            recorder: Recorder::new(rejected),
            frontier: Frontier::default(),
            lanes,
            in_flight: JoinSet::new(),
            max_pending_bytes: usize::try_from(limits.max_pending.bytes()).unwrap_or(usize::MAX),
            is_held_back: false,
        }
    }

    pub(super) async fn run(
        &mut self,
        mut handoffs: mpsc::Receiver<Handoff>,
        confirmed: watch::Sender<Option<Position>>,
    ) -> Result<(), Error> {
        self.frontier = Frontier::default();
        self.lanes.forget();
        self.recorder.forget();
        let mut is_open = true;
        loop {
            let settled = self.lanes.settle();
            self.settle(settled);
            self.recorder.start();
            if let Some(position) = self.frontier.advance() {
                confirmed.send_replace(Some(position));
            }
            let now = now();
            while let Some(start) = self.lanes.start(now) {
                self.send(start);
            }
            if !is_open && self.lanes.is_empty() && self.recorder.is_idle() {
                return Ok(());
            }
            let has_room = self.has_room();
            let next_start = self.lanes.next_start(now);
            // Some arm is always enabled: without pending notifications there is
            // room, and else one is being written down, or some lane has a request
            // on its way or one to start. Each is cancel-safe: a queue's `recv`, a
            // `JoinSet`, a timer.
            tokio::select! {
                Some(ended) = self.in_flight.join_next() => self.finish(ended),
                Some(written) = self.recorder.written() => self.release(&written?),
                handoff = handoffs.recv(), if is_open && has_room => match handoff {
                    Some(handoff) => self.take(handoff),
                    None => is_open = false,
                },
                () = sleep_until(TokioInstant::from_std(next_start.unwrap_or(now))),
                    if next_start.is_some() => {}
            }
        }
    }

    fn take(&mut self, handoff: Handoff) {
        for notification in handoff.notifications {
            self.frontier.enter(notification.position);
            self.lanes.push(notification);
        }
        if let Some(position) = handoff.reached {
            self.frontier.reach(position);
        }
    }

    fn send(&mut self, Start { lane, packed, is_last_try }: Start) {
        trace!(lane, pairs = packed.pairs, bytes = packed.body.len(), "request starts");
        let client = self.client.clone();
        self.in_flight.spawn(async move { (lane, client.attempt(packed, is_last_try).await) });
    }

    fn finish(&mut self, ended: Result<(usize, Verdict), JoinError>) {
        let (lane, verdict) = match ended {
            Ok(ended) => ended,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => unreachable!("requests are never cancelled: {error}"),
            },
        };
        debug!(lane, verdict = verdict.name(), "request ended");
        let (settled, transition) = self.lanes.finish(lane, verdict, now());
        self.settle(settled);
        if let Some(transition) = transition {
            self.log(&transition);
        }
    }

    fn settle(&mut self, settled: Settled) {
        for position in settled.accepted {
            self.frontier.leave(position);
        }
        self.recorder.push(settled.rejected);
    }

    /// What was refused is durable, so that it may be confirmed.
    fn release(&mut self, rejected: &[Rejected]) {
        if let Some(first) = rejected.first() {
            warn!(
                count = rejected.len(),
                rule = &*first.notification.terms.rule,
                path = %self.recorder.path().display(),
                "notifications were refused for good, and stand in the file with the reason"
            );
        }
        for rejected in rejected {
            self.frontier.leave(rejected.notification.position);
        }
    }

    /// Memory of what is neither accepted nor durable yet.
    fn pending_bytes(&self) -> usize {
        self.lanes.pending_bytes() + self.recorder.pending_bytes()
    }

    fn has_room(&mut self) -> bool {
        let pending_bytes = self.pending_bytes();
        let has_room = pending_bytes == 0 || pending_bytes < self.max_pending_bytes;
        if has_room == self.is_held_back {
            self.is_held_back = !has_room;
            match has_room {
                true => debug!(pending_bytes, "reading goes on"),
                false => debug!(pending_bytes, "max_pending is reached: reading is held back"),
            }
        }
        has_room
    }

    fn log(&self, transition: &Transition) {
        let pending_bytes = self.pending_bytes();
        match transition {
            Transition::Stopped(problem) => error!(
                problem = problem.for_the_log(),
                hint = problem.hint().unwrap_or("see the server's log"),
                pending_bytes,
                "the endpoint takes nothing: delivery pauses, nothing is lost, and Postgres keeps \
                 its WAL until the endpoint accepts again"
            ),
            Transition::Resumed { after } => {
                info!(?after, pending_bytes, "the endpoint accepts again: delivery goes on");
            }
            Transition::Troubled(problem) => warn!(
                problem = problem.for_the_log(),
                hint = problem.hint().unwrap_or("none needed if it passes"),
                pending_bytes,
                "a request failed and is repeated until it is accepted"
            ),
            Transition::Recovered { after } => info!(?after, "the endpoint accepts again"),
            Transition::EventsOnly => {
                info!("the endpoint has no batch_events: each goes by itself")
            }
        }
    }
}

fn now() -> Instant {
    TokioInstant::now().into_std()
}
