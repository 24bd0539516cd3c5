use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::backoff::Backoff;
use crate::change::{Position, Timestamp};
use crate::notification::{ChannelName, Notification, Payload, Reason, Terms};

use super::pusher::{Capacity, Packed, Packer, Problem};
use super::rejected::Rejected;
use super::resyncs::Ticket;

/// Doubtful answers to the same pair alone before it is taken for bad.
const DOUBTFUL_TRIES: u32 = 5;

/// Notifications that are sent one request after the other, so that their
/// order is kept.
#[derive(Debug)]
pub(super) struct Lane {
    queue: VecDeque<Queued>,
    /// Memory of them.
    bytes: usize,
    /// What of them is no part of a resync would fill of a request, near enough.
    load: Load,
    /// How many channels of the front notification are done with.
    done: usize,
    /// Those of them that refused it for good, and why the last one did.
    refused_on: Vec<ChannelName>,
    reason: String,
    state: State,
    /// So many pairs at the front were refused together, and the culprit among
    /// them is not found yet.
    suspects: usize,
    doubts: u32,
    backoff: Backoff,
}

/// A notification that no later change folds into any more.
#[derive(Debug)]
struct Queued {
    notification: Notification,
    debt: Debt,
    taken_at: Instant,
    load: Load,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    pairs: usize,
    bytes: usize,
}

/// What is paid once a notification was accepted, or stands in the rejected
/// file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Debt {
    /// To the frontier.
    Position(Position),
    /// A resync, of which it is a part.
    Resync(Ticket),
}

#[derive(Debug)]
enum State {
    Idle,
    InFlight(Packed),
    /// A request of a session that is over is still on its way.
    Abandoned,
    /// To be tried again; the request as it was, unless it is to be made smaller.
    Held {
        packed: Option<Packed>,
        until: Instant,
        hold: Hold,
    },
}

/// Why a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// For the endpoint: as soon as it takes another request, it may take this.
    Endpoint,
    /// Perhaps the request itself is bad, or a time was asked for.
    Itself,
}

/// What the endpoint took of a notification.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) terms: Arc<Terms>,
    /// When the last change that it tells of was committed; `None` for a resync.
    pub(super) at: Option<Timestamp>,
    pub(super) debt: Debt,
}

/// What has left a lane.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Each notification that was accepted on all its channels.
    pub(super) accepted: Vec<Accepted>,
    /// To be written down before its debt is paid.
    pub(super) rejected: Vec<Rejected>,
    /// Where one of the rejected is pending, and now also the resync that
    /// follows it.
    pub(super) followed: Vec<Position>,
}

impl Lane {
    pub(super) fn new() -> Lane {
        Lane {
            queue: VecDeque::new(),
            bytes: 0,
            load: Load::default(),
            done: 0,
            refused_on: Vec::new(),
            reason: String::new(),
            state: State::Idle,
            suspects: 0,
            doubts: 0,
            backoff: Backoff::default(),
        }
    }

    pub(super) fn push(&mut self, notification: Notification, debt: Debt, now: Instant) {
        let queued = Queued::new(notification, debt, now);
        self.add(&queued);
        self.queue.push_back(queued);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn pending_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether its next request would take more than it holds. While a request
    /// is on its way or to be repeated it takes nothing: what waits elsewhere
    /// still folds.
    pub(super) fn has_room(&self, capacity: Capacity) -> bool {
        let Load { pairs, bytes } = self.load;
        matches!(self.state, State::Idle)
            && pairs < capacity.batch_events.max(1)
            && bytes < capacity.body_bytes
    }

    /// Whether it would take a part of a resync now: one at a time, so that
    /// resyncs and changes take turns.
    pub(super) fn takes_resync(&self) -> bool {
        let is_part = |queued: &Queued| matches!(queued.debt, Debt::Resync(_));
        matches!(self.state, State::Idle) && !self.queue.iter().any(is_part)
    }

    /// Whether some change by these terms is in it that it took until then.
    pub(super) fn holds(&self, terms: &Arc<Terms>, until: Instant) -> bool {
        self.queue.iter().any(|queued| {
            matches!(queued.debt, Debt::Position(_))
                && queued.taken_at <= until
                && queued.notification.is_of(terms)
        })
    }

    /// Whether it has something to send and no request on its way.
    pub(super) fn may_send(&self) -> bool {
        let is_free = matches!(self.state, State::Idle | State::Held { .. });
        is_free && self.front().is_some_and(|front| front.refusal.is_none())
    }

    /// Until when it waits by its own account; `None` if it does not.
    pub(super) fn held_until(&self) -> Option<Instant> {
        match self.state {
            State::Held { until, .. } => Some(until),
            State::Idle | State::InFlight(_) | State::Abandoned => None,
        }
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self.state, State::Held { .. })
    }

    /// The next request, and whether a doubtful answer to it is the last one
    /// that is borne. Only where [`Lane::may_send`].
    pub(super) fn start(&mut self, packer: &Packer) -> (Packed, bool) {
        let held = match std::mem::replace(&mut self.state, State::Idle) {
            State::Held { packed, .. } => packed,
            State::Idle | State::InFlight(_) | State::Abandoned => None,
        };
        let packed = held.unwrap_or_else(|| {
            let mut queue = self.queue.iter().map(|queued| &queued.notification);
            let front = queue.next().expect("a lane that may send is not empty");
            let max_pairs = match self.suspects {
                0 => usize::MAX,
                suspects => suspects.div_ceil(2),
            };
            packer.pack(front, self.done, queue, max_pairs)
        });
        self.state = State::InFlight(packed.clone());
        let is_last_try = packed.pairs == 1 && self.doubts + 1 >= DOUBTFUL_TRIES;
        (packed, is_last_try)
    }

    /// Ends the request on its way. `None` if it was abandoned.
    pub(super) fn finish(&mut self) -> Option<Packed> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::InFlight(packed) => Some(packed),
            State::Idle | State::Abandoned | State::Held { .. } => None,
        }
    }

    pub(super) fn accept(&mut self, packed: &Packed, settled: &mut Settled) {
        self.suspects = self.suspects.saturating_sub(packed.pairs);
        self.doubts = 0;
        self.backoff.reset();
        self.advance(packed.pairs, settled);
    }

    /// Keeps the request for a later try.
    pub(super) fn retry(&mut self, packed: Packed, now: Instant) {
        let until = now + self.backoff.next();
        self.state = State::Held { packed: Some(packed), until, hold: Hold::Endpoint };
    }

    /// Keeps the request for a time that others decide.
    pub(super) fn hold(&mut self, packed: Packed, until: Instant) {
        self.state = State::Held { packed: Some(packed), until, hold: Hold::Itself };
    }

    /// Keeps the request for a later try; the pairs of a larger one are told
    /// apart after some tries.
    pub(super) fn doubt(&mut self, packed: Packed, now: Instant) {
        self.doubts += 1;
        let is_bisected = packed.pairs > 1 && self.doubts >= DOUBTFUL_TRIES;
        if is_bisected {
            self.suspect(&packed);
            self.backoff.reset();
            if self.suspects.div_ceil(2) == 1 {
                self.doubts = 0;
            }
        }
        let until = now + self.backoff.next();
        let packed = (!is_bisected).then_some(packed);
        self.state = State::Held { packed, until, hold: Hold::Itself };
    }

    /// The culprit is among the pairs of a refused request: the next one holds
    /// half of them.
    pub(super) fn suspect(&mut self, packed: &Packed) {
        self.suspects = packed.pairs;
    }

    /// Whether the front notification was refused on one of its channels.
    pub(super) fn is_front_refused(&self) -> bool {
        !self.refused_on.is_empty()
    }

    /// Gives up the front pair.
    pub(super) fn reject(&mut self, problem: &Problem, settled: &mut Settled) {
        self.suspects = 0;
        self.doubts = 0;
        self.backoff.reset();
        let front = self.front().expect("what was refused is still in the lane");
        let channel = front.channels[self.done].clone();
        self.refused_on.push(channel);
        self.reason = problem.to_string();
        self.advance(1, settled);
    }

    /// Takes away what the rules refused, as far as it is at the front.
    pub(super) fn settle(&mut self, settled: &mut Settled) {
        if matches!(self.state, State::InFlight(_) | State::Abandoned) {
            return;
        }
        let mut followers = Vec::new();
        while let Some(front) = self.front() {
            match &front.refusal {
                Some(refusal) => {
                    let (reason, channels) = (refusal.to_string(), front.channels.clone());
                    (self.reason, self.refused_on) = (reason, channels);
                    followers.extend(self.pop(true, settled));
                }
                None if front.channels.is_empty() => drop(self.pop(false, settled)),
                None => break,
            }
        }
        self.put_first(followers);
    }

    /// The endpoint took a request of another lane.
    pub(super) fn wake(&mut self, now: Instant) {
        if let State::Held { until, hold: Hold::Endpoint, .. } = &mut self.state {
            self.backoff.reset();
            *until = (*until).min(now + self.backoff.next());
        }
    }

    /// Forgets all but that a request is on its way.
    pub(super) fn forget(&mut self) {
        self.queue.clear();
        self.bytes = 0;
        self.load = Load::default();
        self.done = 0;
        self.refused_on.clear();
        self.suspects = 0;
        self.doubts = 0;
        self.state = match self.state {
            State::InFlight(_) | State::Abandoned => State::Abandoned,
            State::Idle | State::Held { .. } => State::Idle,
        };
    }

    /// So many pairs at the front are done with.
    fn advance(&mut self, pairs: usize, settled: &mut Settled) {
        self.done += pairs;
        let mut followers = Vec::new();
        // What the rules refused may have no channel, and leaves by `settle`.
        while let Some(front) = self.front()
            && front.refusal.is_none()
            && self.done >= front.channels.len()
        {
            let rest = self.done - front.channels.len();
            followers.extend(self.pop(!self.refused_on.is_empty(), settled));
            self.done = rest;
        }
        self.put_first(followers);
    }

    fn front(&self) -> Option<&Notification> {
        self.queue.front().map(|queued| &queued.notification)
    }

    /// Takes the front notification away and returns what follows it.
    fn pop(&mut self, is_refused: bool, settled: &mut Settled) -> Vec<Queued> {
        let Queued { notification, debt, taken_at, load } =
            self.queue.pop_front().expect("there is a front notification");
        self.bytes -= notification.weight();
        self.load.pairs -= load.pairs;
        self.load.bytes -= load.bytes;
        self.done = 0;
        if !is_refused {
            let Notification { terms, at, resync, .. } = notification;
            let at = resync.is_none().then_some(at);
            settled.accepted.push(Accepted { terms, at, debt });
            return Vec::new();
        }
        let channels = std::mem::take(&mut self.refused_on);
        let reason = std::mem::take(&mut self.reason);
        let followers = followers(&notification, &channels, taken_at);
        settled.followed.extend(followers.iter().map(|follower| follower.notification.position));
        settled.rejected.push(Rejected { notification, channels, reason, debt });
        followers
    }

    /// Before all that waits, so that an endpoint that refuses all of a rule's
    /// notifications, but takes their resyncs, is not taken for one that refuses
    /// everything. Behind what is half sent.
    fn put_first(&mut self, queued: Vec<Queued>) {
        let at = usize::from(self.done > 0);
        for queued in queued.into_iter().rev() {
            self.add(&queued);
            self.queue.insert(at, queued);
        }
    }

    fn add(&mut self, queued: &Queued) {
        self.bytes += queued.notification.weight();
        self.load.pairs += queued.load.pairs;
        self.load.bytes += queued.load.bytes;
    }
}

impl Queued {
    fn new(notification: Notification, debt: Debt, taken_at: Instant) -> Queued {
        let load = match debt {
            Debt::Position(_) => Load {
                pairs: notification.channels.len().max(1),
                bytes: about_bytes(&notification),
            },
            Debt::Resync(_) => Load::default(),
        };
        Queued { notification, debt, taken_at, load }
    }
}

/// Each rule's resync on the channels that refused a notification. If that is
/// refused too, nothing more can be said there.
fn followers(refused: &Notification, channels: &[ChannelName], taken_at: Instant) -> Vec<Queued> {
    if refused.resync.is_some() || channels.is_empty() {
        return Vec::new();
    }
    let (position, debt) = (refused.position, Debt::Position(refused.position));
    let resyncs = refused.resyncs_on(channels, Reason::Refused).into_iter();
    let notifications =
        resyncs.flat_map(|(resync, on)| resync.notifications(on, position).collect::<Vec<_>>());
    notifications.map(|notification| Queued::new(notification, debt, taken_at)).collect()
}

/// What it adds to the body of a request, near enough.
fn about_bytes(notification: &Notification) -> usize {
    const PAYLOAD: usize = 150;
    const ENTRY: usize = 40;
    let data = match &notification.payload {
        Payload::Minimal { .. } => PAYLOAD,
        // Its quotes are escaped.
        Payload::Own(text) | Payload::Drawn { text, .. } => text.len() * 5 / 4,
    };
    let event = notification.event.as_str().len();
    notification.channels.iter().map(|channel| ENTRY + event + channel.len() + data).sum()
}
