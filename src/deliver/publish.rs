use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant as TokioInstant, sleep_until};
use tracing::{debug, error, info, trace, warn};

use crate::acknowledge::Frontier;
use crate::change::Timestamp;
use crate::coalesce::{self, Coalescer, Moment};
use crate::notification::{ChannelName, Handoff, Resync};
use crate::observe::{Observer, Outcome, Pending, Request};

use super::behind::Behind;
use super::gate::{Gate, Transition};
use super::lane::{Accepted, Debt, Settled};
use super::lanes::{Lanes, Start};
use super::occupancy::{Decided, Occupancy, Taken};
use super::owed::Owed;
use super::pusher::{self, Occupied, Problem, Verdict};
use super::recorder::Recorder;
use super::rejected::Rejected;
use super::resyncs::{Ask, Resyncs, Ticket};
use super::{Error, Limits, Progress, RejectedFile};

/// How often it is asked whether changes have waited for too long.
const AGE_EVERY: Duration = Duration::from_secs(1);
/// Of `max_pending`, what may wait for a list, where nothing folds any more.
const SHARE_WITHOUT_LIST: usize = 4;

/// Sends notifications to the endpoint, and knows which it has accepted.
///
/// What cannot be sent yet waits in the [`Coalescer`], where later changes fold
/// into it. A free lane takes from there what its next request holds.
#[derive(Debug)]
pub(super) struct Publisher {
    client: pusher::Client,
    recorder: Recorder,
    frontier: Frontier,
    coalescer: Coalescer,
    /// If only occupied channels are told.
    occupancy: Option<Occupancy>,
    lanes: Lanes,
    resyncs: Resyncs,
    resync_spread: Duration,
    observer: Observer,
    behind: Behind,
    owed: Owed,
    /// Requests outlive a session: one that was given up may still arrive, and
    /// its lane must wait for that.
    in_flight: JoinSet<Ended>,
    max_pending_bytes: usize,
    is_held_back: bool,
    age_at: Instant,
}

/// How a request ended.
#[derive(Debug)]
enum Ended {
    Published { lane: usize, verdict: Verdict },
    Listed { ticket: Ticket, names: Result<Vec<ChannelName>, Verdict> },
    Occupied(Result<Occupied, Verdict>),
}

impl Publisher {
    pub(super) fn new(
        client: pusher::Client,
        rejected: RejectedFile,
        limits: &Limits,
        observer: Observer,
    ) -> Self {
        let count = limits.max_in_flight.get();
        let max_pending_bytes = usize::try_from(limits.max_pending.bytes()).unwrap_or(usize::MAX);
        let coalescer = Coalescer::new(
            count,
            coalesce::Limits {
                collapse_above: limits.collapse_above.get(),
                max_pending_bytes,
                max_age: limits.max_age,
            },
        );
        let coalescer = coalescer.demanding();
        let list_lag = client.list_lag();
        let occupancy = client
            .tells_occupied_only()
            .then(|| Occupancy::new(count, list_lag, max_pending_bytes / SHARE_WITHOUT_LIST));
        Publisher {
            recorder: Recorder::new(rejected),
            frontier: Frontier::default(),
            coalescer,
            occupancy,
            lanes: Lanes::new(count, client.packer().clone()),
            resyncs: Resyncs::new(limits.resync_spread, list_lag),
            resync_spread: limits.resync_spread,
            behind: Behind::default(),
            owed: Owed::default(),
            in_flight: JoinSet::new(),
            max_pending_bytes,
            is_held_back: false,
            age_at: now(),
            client,
            observer,
        }
    }

    pub(super) async fn run(
        &mut self,
        owed: Vec<Resync>,
        mut handoffs: mpsc::Receiver<Handoff>,
        progress: watch::Sender<Progress>,
    ) -> Result<(), Error> {
        self.begin(owed);
        let mut is_open = true;
        loop {
            let moment = moment();
            let now = moment.now;
            if self.age_at <= now {
                self.coalescer.age(moment, &mut self.frontier);
                self.age_at = now + AGE_EVERY;
            }
            self.resync(now);
            self.fill(now);
            self.look(now);
            self.recorder.start();
            if self.tell(&progress) {
                // What the coalescer has gathered by the same terms meanwhile
                // waited for this.
                continue;
            }
            while let Some(start) = self.lanes.start(now) {
                self.send(start);
            }
            self.observer.metrics().holds(self.pending());
            if !is_open && self.is_done() {
                return Ok(());
            }
            let has_room = self.has_room();
            let wake_at = self.wake_at(now);
            // Some arm is always enabled: without pending notifications there is
            // room, and else one is being written down, or some request is on its
            // way or to be started. Each is cancel-safe: a queue's `recv`, a
            // `JoinSet`, a timer.
            tokio::select! {
                Some(ended) = self.in_flight.join_next() => self.finish(ended),
                Some(written) = self.recorder.written() => self.release(&written?),
                handoff = handoffs.recv(), if is_open && has_room => match handoff {
                    Some(handoff) => self.take(handoff),
                    None => {
                        is_open = false;
                        self.coalescer.flush();
                        self.resyncs.hurry(now);
                    }
                },
                () = sleep_until(TokioInstant::from_std(wake_at.unwrap_or(now))),
                    if wake_at.is_some() => {}
            }
        }
    }

    /// Forgets the session before.
    fn begin(&mut self, owed: Vec<Resync>) {
        self.frontier = Frontier::default();
        self.coalescer.forget();
        if let Some(occupancy) = &mut self.occupancy {
            occupancy.forget();
        }
        self.lanes.forget();
        self.resyncs.forget(self.resync_spread);
        self.recorder.forget();
        self.behind = Behind::default();
        self.owed = Owed::of(&owed);
        let moment = moment();
        for resync in owed {
            self.coalescer.resync(resync, moment, &mut self.frontier);
        }
    }

    fn take(&mut self, handoff: Handoff) {
        let moment = moment();
        if let Some((position, since)) = handoff.span() {
            self.behind.come(position, since);
        }
        for notification in handoff.notifications {
            self.coalescer.push(notification, moment, &mut self.frontier);
        }
        for resync in handoff.resyncs {
            self.coalescer.resync(resync, moment, &mut self.frontier);
        }
        if let Some(position) = handoff.reached {
            self.coalescer.reach(position, moment, &mut self.frontier);
        }
    }

    /// Begins to tell what became a resync, and asks for the list that it needs.
    fn resync(&mut self, now: Instant) {
        while let Some(mut resync) = self.coalescer.pop_resync(now, |terms, until| {
            let waits = || self.occupancy.as_ref().is_some_and(|it| it.hold(terms, until));
            self.resyncs.hold(terms) || self.lanes.hold(terms, until) || waits()
        }) {
            self.take_in(&mut resync);
            debug!(
                rule = &*resync.terms.rule,
                reason = resync.reason.name(),
                count = resync.count,
                "a resync begins"
            );
            self.observer.metrics().resync_begun(resync.reason.name());
            self.resyncs.begin(resync, now);
        }
        if let Some(ask) = self.resyncs.ask(now) {
            self.list(ask);
        }
    }

    /// Has the resync tell what waits for a list of the occupied channels.
    fn take_in(&mut self, resync: &mut Resync) {
        let Some(occupancy) = &mut self.occupancy else { return };
        for notification in occupancy.collapse(&resync.terms) {
            resync.join(&notification.resync(&resync.terms, resync.reason));
            let position = notification.position;
            resync.position = match resync.position {
                Some(own) => {
                    self.frontier.leave(own.max(position));
                    Some(own.min(position))
                }
                None => Some(position),
            };
        }
    }

    fn list(&mut self, ask: Ask) {
        let client = self.client.clone();
        self.in_flight.spawn(async move {
            let names =
                client.occupied(&ask.prefix, &|name| ask.wants(&name).then_some(name)).await;
            Ended::Listed { ticket: ask.ticket, names }
        });
    }

    /// Asks for the list that what waits for one needs.
    fn look(&mut self, now: Instant) {
        if let Some(prefix) = self.occupancy.as_mut().and_then(|it| it.ask(now)) {
            let client = self.client.clone();
            self.in_flight
                .spawn(async move { Ended::Occupied(client.all_occupied(&prefix).await) });
        }
    }

    /// Has each free lane take what its next request holds.
    fn fill(&mut self, now: Instant) {
        loop {
            let settled = self.lanes.settle();
            self.settle(settled);
            let mut has_taken = false;
            while let Some(lane) = self.lanes.for_resync()
                && let Some((ticket, notifications)) = self.resyncs.part(now)
            {
                has_taken = true;
                for notification in notifications {
                    self.lanes.push(lane, notification, Debt::Resync(ticket), now);
                }
            }
            for lane in 0..self.lanes.count() {
                while self.lanes.has_room(lane, now)
                    && let Some(Taken { notification, at }) = self.next(lane, now)
                {
                    has_taken = true;
                    let debt = Debt::Position(notification.position);
                    self.lanes.push(lane, notification, debt, at);
                }
            }
            if !has_taken {
                return;
            }
        }
    }

    /// What the lane is to send next, as far as it is known that somebody listens.
    fn next(&mut self, lane: usize, now: Instant) -> Option<Taken> {
        let Some(occupancy) = &mut self.occupancy else {
            return self
                .coalescer
                .pop(lane, now)
                .map(|notification| Taken { notification, at: now });
        };
        loop {
            if let Some(taken) = occupancy.next(lane) {
                return Some(taken);
            }
            if !occupancy.has_room() {
                return None;
            }
            let notification = self.coalescer.pop(lane, now)?;
            if let Some(position) = occupancy.take(lane, notification, now) {
                self.frontier.hold(position);
            }
        }
    }

    fn send(&mut self, Start { lane, packed, is_last_try, doubts_endpoint }: Start) {
        trace!(lane, pairs = packed.pairs, bytes = packed.body.len(), "request starts");
        let client = self.client.clone();
        self.in_flight.spawn(async move {
            let verdict = match client.attempt(packed, is_last_try).await {
                Verdict::Reject { problem } if doubts_endpoint => {
                    match client.takes_a_plain_event().await {
                        true => Verdict::RejectAlone { problem },
                        false => Verdict::Stop { problem: Gate::refused_too_often(problem) },
                    }
                }
                verdict => verdict,
            };
            Ended::Published { lane, verdict }
        });
    }

    fn finish(&mut self, ended: Result<Ended, JoinError>) {
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => unreachable!("requests are never cancelled: {error}"),
            },
        };
        match ended {
            Ended::Published { lane, verdict } => {
                debug!(lane, verdict = verdict.name(), "request ended");
                self.observer.metrics().request_ended(Request::Publish, outcome(&verdict));
                let (settled, transition) = self.lanes.finish(lane, verdict, now());
                self.settle(settled);
                if let Some(transition) = transition {
                    if let Transition::Resumed { .. } | Transition::Recovered { .. } = transition {
                        self.resyncs.wake(now());
                        if let Some(occupancy) = &mut self.occupancy {
                            occupancy.wake();
                        }
                    }
                    self.log(&transition);
                }
            }
            Ended::Listed { ticket, names: Ok(names) } => {
                debug!(count = names.len(), "occupied channels listed");
                self.observer.metrics().request_ended(Request::List, Outcome::Accepted);
                self.resyncs.listed(ticket, names, now());
            }
            Ended::Listed { ticket, names: Err(verdict) } => {
                let (problem, after) = self.unlisted(verdict);
                if let Some(resync) = self.resyncs.failed(ticket, after, now()) {
                    log_unlisted(resync, &problem);
                }
            }
            Ended::Occupied(Ok(occupied)) => {
                debug!(count = occupied.len(), "occupied channels listed");
                self.observer.metrics().request_ended(Request::List, Outcome::Accepted);
                let occupancy = self.occupancy.as_mut().expect("it has asked for the list");
                let decided = occupancy.listed(occupied, now());
                self.leave_out(decided);
            }
            Ended::Occupied(Err(verdict)) => {
                let (problem, after) = self.unlisted(verdict);
                let occupancy = self.occupancy.as_mut().expect("it has asked for the list");
                if occupancy.failed(after, now()) {
                    warn!(
                        problem = problem.for_the_log(),
                        hint = problem.hint().unwrap_or("none needed if it passes"),
                        "the endpoint does not list its occupied channels: until it does, each \
                         notification is sent, whether somebody listens or not"
                    );
                }
            }
        }
    }

    /// Why there is no list, and how long the endpoint asks to wait.
    fn unlisted(&self, verdict: Verdict) -> (Problem, Option<Duration>) {
        self.observer.metrics().request_ended(Request::List, outcome(&verdict));
        let (problem, after) = match verdict {
            Verdict::Retry { problem, after } => (problem, after),
            Verdict::Doubt { problem }
            | Verdict::Reject { problem }
            | Verdict::RejectAlone { problem }
            | Verdict::Stop { problem } => (problem, None),
            Verdict::Accepted | Verdict::EventsOnly => unreachable!("it is why there is no list"),
        };
        debug!(problem = problem.for_the_log(), "no list of occupied channels");
        (problem, after)
    }

    /// Nobody needs what a list has decided against.
    fn leave_out(&mut self, Decided { held, left, unoccupied }: Decided) {
        held.into_iter().for_each(|position| self.frontier.hold(position));
        left.into_iter().for_each(|position| self.frontier.leave(position));
        for (terms, channels) in unoccupied {
            self.observer.metrics().unoccupied(&terms.rule, channels);
        }
    }

    fn settle(&mut self, settled: Settled) {
        for position in settled.followed {
            self.frontier.hold(position);
        }
        let now = Timestamp::now().unix_micros();
        for of_one_rule in settled.accepted.chunk_by(|one, next| one.terms.rule == next.terms.rule)
        {
            let times = of_one_rule.iter().filter_map(|accepted| accepted.at);
            let latencies_micros = times.map(|at| now.saturating_sub(at.unix_micros()));
            let rule = &of_one_rule[0].terms.rule;
            self.observer.metrics().accepted(rule, of_one_rule.len(), latencies_micros);
        }
        for Accepted { debt, .. } in settled.accepted {
            self.pay(debt);
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
            self.observer.metrics().rejected(&rejected.notification.terms.rule);
            self.pay(rejected.debt);
        }
    }

    fn pay(&mut self, debt: Debt) {
        match debt {
            Debt::Position(position) => self.frontier.leave(position),
            Debt::Resync(ticket) => self.resyncs.settle(ticket),
        }
    }

    /// Tells how far delivery has come, and whether a resync has ended.
    fn tell(&mut self, progress: &watch::Sender<Progress>) -> bool {
        let mut settled = Vec::new();
        let mut has_ended = false;
        while let Some(resync) = self.resyncs.told() {
            has_ended = true;
            if let Some(position) = resync.position {
                self.frontier.leave(position);
            }
            settled.extend(self.owed.settle(&resync));
        }
        let position = self.frontier.advance();
        if let Some(position) = position {
            self.behind.delivered(position);
        }
        if position.is_some() || !settled.is_empty() {
            progress.send_modify(|progress| {
                progress.position = position.or(progress.position);
                progress.settled.extend(settled);
            });
        }
        has_ended
    }

    fn is_done(&self) -> bool {
        self.coalescer.is_empty()
            && self.occupancy.as_ref().is_none_or(Occupancy::is_empty)
            && self.resyncs.is_empty()
            && self.lanes.is_empty()
            && self.recorder.is_idle()
    }

    /// When something is to be done, if nothing happens before.
    fn wake_at(&self, now: Instant) -> Option<Instant> {
        let takes_more = self.occupancy.as_ref().is_none_or(Occupancy::has_room);
        let times = [
            self.lanes.next_start(now),
            self.coalescer.next_due(|lane| takes_more && self.lanes.has_room(lane, now)),
            self.occupancy.as_ref().and_then(Occupancy::next_due),
            self.resyncs.next_due(self.lanes.for_resync().is_some()),
            (!self.coalescer.is_empty()).then_some(self.age_at),
        ];
        times.into_iter().flatten().min()
    }

    fn pending(&self) -> Pending {
        let waiting = self.occupancy.as_ref().map_or(0, Occupancy::len);
        Pending {
            notifications: self.coalescer.unsent() + waiting + self.lanes.pending(),
            bytes: self.pending_bytes(),
            in_flight: self.in_flight.len(),
            oldest_unix_micros: self.behind.oldest().map(Timestamp::unix_micros),
        }
    }

    /// Memory of what is neither accepted nor durable yet.
    fn pending_bytes(&self) -> usize {
        self.coalescer.pending_bytes() + self.frozen_bytes()
    }

    /// Of that, what nothing folds into any more.
    fn frozen_bytes(&self) -> usize {
        let waiting = self.occupancy.as_ref().map_or(0, Occupancy::pending_bytes);
        waiting + self.lanes.pending_bytes() + self.recorder.pending_bytes()
    }

    fn has_room(&mut self) -> bool {
        let frozen_bytes = self.frozen_bytes();
        let is_frozen_small = frozen_bytes == 0 || frozen_bytes < self.max_pending_bytes;
        let has_room = is_frozen_small && self.coalescer.has_room();
        if has_room == self.is_held_back {
            self.is_held_back = !has_room;
            let pending_bytes = self.pending_bytes();
            match has_room {
                true => debug!(pending_bytes, "reading goes on"),
                false => debug!(pending_bytes, "max_pending is reached: reading is held back"),
            }
        }
        has_room
    }

    fn observe(&self, transition: &Transition) {
        let observer = &self.observer;
        match transition {
            Transition::Stopped(problem) => observer.endpoint_stopped(problem.for_the_log()),
            Transition::Troubled(problem) => observer.endpoint_is_troubled(problem.for_the_log()),
            Transition::Resumed { .. } | Transition::Recovered { .. } => {
                observer.endpoint_accepts();
            }
            Transition::EventsOnly => {}
        }
    }

    fn log(&self, transition: &Transition) {
        let pending_bytes = self.pending_bytes();
        self.observe(transition);
        match transition {
            Transition::Stopped(problem) => error!(
                problem = problem.for_the_log(),
                hint = problem.hint().unwrap_or("see the server's log"),
                pending_bytes,
                "the endpoint takes nothing: delivery pauses, nothing is lost, and Postgres keeps \
                 what changes until the endpoint accepts again"
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

fn outcome(verdict: &Verdict) -> Outcome {
    match verdict {
        Verdict::Accepted => Outcome::Accepted,
        Verdict::Retry { .. } | Verdict::Doubt { .. } | Verdict::EventsOnly => Outcome::Retried,
        Verdict::Reject { .. } | Verdict::RejectAlone { .. } => Outcome::Refused,
        Verdict::Stop { .. } => Outcome::Stopped,
    }
}

fn log_unlisted(resync: &Resync, problem: &Problem) {
    warn!(
        rule = &*resync.terms.rule,
        reason = resync.reason.name(),
        problem = problem.for_the_log(),
        hint = problem.hint().unwrap_or("none needed if it passes"),
        "the endpoint does not list its occupied channels: a resync on those that row values name \
         waits for that, and they are asked for again until then"
    );
}

fn now() -> Instant {
    TokioInstant::now().into_std()
}

fn moment() -> Moment {
    Moment { now: now(), wall: Timestamp::now() }
}
