//! Which notifications need not be sent, since nobody listens on their channels. Pure:
//! time and lists are told.
//!
//! A page fetches once it has joined. So a channel that is missing in a list which was
//! asked for after a change was visible has nobody who must hear of that change: who
//! joins later fetches later. Where a list may lag, one that was asked for so much later
//! decides.
//!
//! What is on a channel of the last list goes at once, as sending is always right. All
//! else waits for the next list, unacknowledged; without a list to be had it is sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::change::Position;
use crate::notification::{ChannelName, Notification, Terms};

use super::pusher::Occupied;

/// Between two lists: at least this, and so many times what the last one took.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_TIMES: u32 = 4;
/// A list by which something is sent is asked for anew when it is older.
const REFRESH_AFTER: Duration = Duration::from_secs(10);
/// How many lists are remembered, each of channels that begin alike.
const MAX_LISTS: usize = 8;
/// Failures to get a list before the operator hears of it.
const FAILURES_IN_SILENCE: u32 = 3;

#[derive(Debug)]
pub(super) struct Occupancy {
    /// How long after somebody joined a channel it may be missing in a list.
    lag: Duration,
    max_bytes: usize,
    /// In the order in which they were asked for.
    lists: Vec<List>,
    /// How many lists were asked for.
    asked: u64,
    asking: Option<Asking>,
    not_before: Option<Instant>,
    failures: u32,
    backoff: Backoff,
    /// What the old list began with by which something was sent, and when that was.
    refresh: Option<(Box<str>, Instant)>,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
    /// What is to be sent, by lane.
    ready: Vec<VecDeque<Taken>>,
    /// Memory of both.
    bytes: usize,
}

/// A notification, and since when it folds no more.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) notification: Notification,
    pub(super) at: Instant,
}

#[derive(Debug)]
struct Waiting {
    taken: Taken,
    lane: usize,
    /// How many lists had been asked for when it came: they are older.
    asked: u64,
}

#[derive(Debug)]
struct List {
    prefix: Box<str>,
    occupied: Occupied,
    asked_at: Instant,
}

#[derive(Debug)]
struct Asking {
    prefix: Box<str>,
    asked_at: Instant,
}

/// What a list has decided.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// Of each notification that is partly to be sent and partly goes on waiting.
    pub(super) held: Vec<Position>,
    /// Of each that nobody needs.
    pub(super) left: Vec<Position>,
    /// By how many channels they, and those sent on some only, became fewer.
    pub(super) unoccupied: Vec<(Arc<Terms>, u64)>,
}

impl Occupancy {
    /// Of what waits, `max_bytes` is where no more is taken.
    pub(super) fn new(lanes: usize, lag: Duration, max_bytes: usize) -> Occupancy {
        Occupancy {
            lag,
            max_bytes,
            lists: Vec::new(),
            asked: 0,
            asking: None,
            not_before: None,
            failures: 0,
            backoff: Backoff::default(),
            refresh: None,
            waiting: VecDeque::new(),
            ready: (0..lanes).map(|_| VecDeque::new()).collect(),
            bytes: 0,
        }
    }

    /// Takes a notification that folds no more. Returns its position if it has become
    /// two: one to be sent, and one that waits.
    pub(super) fn take(
        &mut self,
        lane: usize,
        notification: Notification,
        now: Instant,
    ) -> Option<Position> {
        if notification.refusal.is_some() || self.is_without_lists(now) {
            self.make_ready(lane, Taken { notification, at: now });
            return None;
        }
        let (told, unknown): (Vec<_>, Vec<_>) =
            notification.channels.iter().cloned().partition(|name| self.tells(name, now));
        if unknown.is_empty() {
            self.make_ready(lane, Taken { notification, at: now });
            return None;
        }
        if told.is_empty() {
            self.wait(lane, Taken { notification, at: now }, self.asked);
            return None;
        }
        let position = notification.position;
        let waits = Notification { channels: unknown, ..notification.clone() };
        self.wait(lane, Taken { notification: waits, at: now }, self.asked);
        let told = Notification { channels: told, ..notification };
        self.make_ready(lane, Taken { notification: told, at: now });
        Some(position)
    }

    /// The next that the lane is to send. All that is ready goes before what is taken
    /// later, so that order is kept. Where there is no room, what waits longest goes
    /// too: else it would hold up what somebody listens to.
    pub(super) fn next(&mut self, lane: usize) -> Option<Taken> {
        let taken = match self.ready[lane].pop_front() {
            Some(taken) => taken,
            None if self.has_room() => return None,
            None => {
                let oldest = self.waiting.iter().position(|waiting| waiting.lane == lane)?;
                self.waiting.remove(oldest)?.taken
            }
        };
        self.bytes -= taken.notification.weight();
        Some(taken)
    }

    /// Whether it takes more. Until then what waits elsewhere still folds.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < self.max_bytes
    }

    /// What begins the names of the list to ask for now.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Box<str>> {
        if self.next_due()? > now {
            return None;
        }
        let prefix: Box<str> = self.wanted().into();
        self.refresh = None;
        self.asked += 1;
        self.asking = Some(Asking { prefix: prefix.clone(), asked_at: now });
        Some(prefix)
    }

    /// The endpoint has listed what was asked for.
    pub(super) fn listed(&mut self, occupied: Occupied, now: Instant) -> Decided {
        let Some(Asking { prefix, asked_at }) = self.asking.take() else {
            unreachable!("a list comes only once it was asked for");
        };
        self.failures = 0;
        self.backoff.reset();
        self.not_before = Some(now + PAUSE.max((now - asked_at) * PAUSE_TIMES));
        let list = List { prefix, occupied, asked_at };
        let decided = self.decide(&list);
        self.lists.retain(|older| !older.prefix.starts_with(&*list.prefix));
        if self.lists.len() == MAX_LISTS {
            self.lists.remove(0);
        }
        self.lists.push(list);
        decided
    }

    /// There is no list, and until another is asked for all is sent. Returns whether the
    /// operator should hear of it.
    pub(super) fn failed(&mut self, after: Option<Duration>, now: Instant) -> bool {
        self.asking = None;
        self.not_before = Some(now + self.backoff.next().max(after.unwrap_or_default()));
        self.failures += 1;
        for Waiting { taken, lane, .. } in std::mem::take(&mut self.waiting) {
            self.ready[lane].push_back(taken);
        }
        self.failures == FAILURES_IN_SILENCE
    }

    /// The endpoint is well again.
    pub(super) fn wake(&mut self) {
        if self.failures > 0 {
            self.backoff.reset();
            self.not_before = None;
        }
    }

    /// When the next list is to be asked for, if none is.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.asking.is_some() {
            return None;
        }
        let looked_for = self.waiting.back().filter(|waiting| waiting.asked == self.asked);
        let looked_for = looked_for.map(|waiting| waiting.taken.at);
        let settled = self.waiting.front().map(|waiting| waiting.taken.at + self.lag);
        let refresh = self.refresh.as_ref().map(|(_, since)| *since);
        let due = [looked_for, settled, refresh].into_iter().flatten().min()?;
        Some(self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    /// Takes out what waits and a resync of the terms may tell: nothing of it was sent on
    /// the channels that it still has.
    pub(super) fn collapse(&mut self, terms: &Arc<Terms>) -> Vec<Notification> {
        let mut collapsed = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            if collapses(&waiting.taken.notification, terms) {
                self.bytes -= waiting.taken.notification.weight();
                collapsed.push(waiting.taken.notification);
            } else {
                self.waiting.push_back(waiting);
            }
        }
        collapsed
    }

    /// Whether some notification by these terms was taken until then that must go before
    /// their resync.
    pub(super) fn hold(&self, terms: &Arc<Terms>, until: Instant) -> bool {
        let is_of = |taken: &&Taken| taken.notification.is_of(terms);
        let waiting = self.waiting.iter().map(|waiting| &waiting.taken);
        let mut waiting = waiting.take_while(|taken| taken.at <= until).filter(is_of);
        let mut ready = self.ready.iter().flatten().filter(|taken| taken.at <= until);
        ready.any(|taken| is_of(&taken))
            || waiting.any(|taken| !collapses(&taken.notification, terms))
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.ready.iter().map(VecDeque::len).sum::<usize>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn pending_bytes(&self) -> usize {
        self.bytes
    }

    /// The session is over. A list that is still to come decides nothing of the next
    /// one's, since it was asked for before.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        self.ready.iter_mut().for_each(VecDeque::clear);
        self.bytes = 0;
        self.refresh = None;
    }

    fn is_without_lists(&self, now: Instant) -> bool {
        self.failures > 0 && self.not_before.is_some_and(|not_before| now < not_before)
    }

    /// Whether it is told on the channel without another list.
    fn tells(&mut self, name: &ChannelName, now: Instant) -> bool {
        // Who joins a cache channel later is told its last event; and what begins with
        // # is a user's own, which no list has.
        if name.class().is_cache() || name.as_str().starts_with('#') {
            return true;
        }
        let Some(list) = self.lists.iter().rfind(|list| list.covers(name)) else { return false };
        if !list.occupied.contains(name) {
            return false;
        }
        if list.asked_at + REFRESH_AFTER <= now {
            let prefix = self.refresh.as_ref().map_or(&*list.prefix, |(prefix, _)| prefix);
            self.refresh = Some((common_prefix(&list.prefix, prefix).into(), now));
        }
        true
    }

    /// What begins all that is not decided.
    fn wanted(&self) -> &str {
        let waiting = self.waiting.iter().map(|waiting| &waiting.taken.notification);
        let names = waiting.flat_map(|notification| {
            notification.channels.iter().map(|name| prefix(notification, name))
        });
        let refresh = self.refresh.as_ref().map(|(prefix, _)| &**prefix);
        refresh.into_iter().chain(names).reduce(common_prefix).unwrap_or_default()
    }

    fn wait(&mut self, lane: usize, taken: Taken, asked: u64) {
        self.bytes += taken.notification.weight();
        self.waiting.push_back(Waiting { taken, lane, asked });
    }

    fn make_ready(&mut self, lane: usize, taken: Taken) {
        self.bytes += taken.notification.weight();
        self.ready[lane].push_back(taken);
    }

    /// What is on the list is to be sent, and what it would have if anybody needed it is
    /// not.
    fn decide(&mut self, list: &List) -> Decided {
        let mut decided = Decided::default();
        for waiting in std::mem::take(&mut self.waiting) {
            let is_late =
                waiting.asked < self.asked && waiting.taken.at + self.lag <= list.asked_at;
            let mut channels = waiting.taken.notification.channels.iter();
            if !is_late && !channels.any(|name| list.covers(name) && list.occupied.contains(name)) {
                self.waiting.push_back(waiting);
                continue;
            }
            let Waiting { taken: Taken { notification, at }, lane, asked } = waiting;
            self.bytes -= notification.weight();
            let (covered, mut waits): (Vec<_>, Vec<_>) =
                notification.channels.iter().cloned().partition(|name| list.covers(name));
            let (told, absent): (Vec<_>, Vec<_>) =
                covered.into_iter().partition(|name| list.occupied.contains(name));
            match is_late {
                true if absent.is_empty() => {}
                true => {
                    decided.unoccupied.push((notification.terms.clone(), count(&absent)));
                }
                false => waits.extend(absent),
            }
            let on = |channels, notification| Taken {
                notification: Notification { channels, ..notification },
                at,
            };
            match (told.is_empty(), waits.is_empty()) {
                (true, true) => decided.left.push(notification.position),
                (true, false) => self.wait(lane, on(waits, notification), asked),
                (false, true) => self.make_ready(lane, on(told, notification)),
                (false, false) => {
                    decided.held.push(notification.position);
                    self.make_ready(lane, on(told, notification.clone()));
                    self.wait(lane, on(waits, notification), asked);
                }
            }
        }
        decided
    }
}

impl List {
    fn covers(&self, name: &ChannelName) -> bool {
        name.as_str().starts_with(&*self.prefix)
    }
}

/// Whether it is of the terms alone, and a resync may stand for it.
fn collapses(notification: &Notification, terms: &Arc<Terms>) -> bool {
    let is_own = notification.shares.is_empty() && notification.is_of(terms);
    is_own && terms.may_collapse
}

/// What the template of the channel begins with, so that one list tells of its siblings
/// too.
fn prefix<'a>(notification: &'a Notification, name: &'a ChannelName) -> &'a str {
    let patterns = notification.all_terms().flat_map(|terms| &terms.channels);
    let prefixes = patterns.map(|pattern| pattern.prefix());
    let own = prefixes.filter(|prefix| name.as_str().starts_with(prefix));
    own.max_by_key(|prefix| prefix.len()).unwrap_or(name.as_str())
}

fn common_prefix<'a>(one: &'a str, other: &str) -> &'a str {
    let same = one.char_indices().zip(other.chars()).find(|((_, a), b)| a != b);
    let end = same.map_or(one.len().min(other.len()), |((at, _), _)| at);
    &one[..end]
}

fn count(names: &[ChannelName]) -> u64 {
    u64::try_from(names.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
