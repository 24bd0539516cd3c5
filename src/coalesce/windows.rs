use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rules::{self, Rules};
use super::{fold, subject};
use crate::acknowledge::Frontier;
use crate::change::Timestamp;
use crate::notification::{Notification, Terms};

/// What is committed and unsent, by entity and id or channel.
#[derive(Debug)]
pub(super) struct Windows {
    windows: HashMap<Key, Window>,
    lanes: Vec<Lane>,
    /// Those that were sent, have nothing new, and are not at their end.
    closed: BTreeMap<Place, Key>,
    /// Notifications.
    unsent: usize,
    serial: u64,
}

/// Rules that share an entity share windows if these are equally long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Of entity and subject.
    hash: u64,
    length: Duration,
}

/// When, and what came first.
type Place = (Instant, u64);

#[derive(Debug)]
struct Window {
    entity: Arc<str>,
    subject: Box<str>,
    lane: usize,
    /// In its lane's schedule; where nothing is unsent, among the closed.
    place: Place,
    /// In the order of their last change. Those that fold, have.
    unsent: VecDeque<Notification>,
    /// Terms, by address, that count its subject as unsent: those that have a
    /// share in something unsent.
    counted: Vec<usize>,
}

#[derive(Debug, Default)]
struct Lane {
    schedule: BTreeMap<Place, Due>,
    /// Of the window that is being sent. What comes now waits for its end.
    sending: VecDeque<Notification>,
}

#[derive(Debug)]
enum Due {
    Window(Key),
    Alone(Box<Alone>),
}

/// What is never folded, and needs no window.
#[derive(Debug)]
struct Alone {
    notification: Notification,
    /// Whether its terms count its subject as unsent.
    is_counted: bool,
}

/// Windows that are remembered only so that they are not sent too soon.
const MAX_CLOSED: usize = 8192;
/// How many unsent notifications of a window are tried for folding. There are
/// that many only if row values name events.
const LOOKBACK: usize = 64;

impl Windows {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    pub(super) fn new(lanes: usize) -> Windows {
        Windows {
            windows: HashMap::new(),
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            closed: BTreeMap::new(),
            unsent: 0,
            serial: 0,
        }
    }

    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unsent == 0
    }

    /// Folds the notification into what its window has unsent, or adds it there.
    pub(super) fn add(
        &mut self,
        notification: Notification,
        hash: u64,
        now: Instant,
        rules: &mut Rules,
        frontier: &mut Frontier,
    ) {
        self.forget_ended(now);
        self.serial += 1;
        self.unsent += 1;
        let rule = rules.of(&notification.terms);
        rule.oldest = Some(rule.oldest.map_or(notification.at, |it| it.min(notification.at)));
        let due = rule.due(now);
        let lanes = u64::try_from(self.lanes.len()).expect("there are few lanes");
        let lane = usize::try_from(hash % lanes).expect("it is below the number of lanes");
        let place = (due, self.serial);
        let length = notification.terms.window.filter(|_| fold::folds(&notification));
        let Some(length) = length else {
            return self.add_alone(notification, lane, place, rules, frontier);
        };
        let key = Key { hash, length };
        let window = match self.windows.entry(key) {
            // Another subject with the same hash is as if it were never folded.
            Entry::Occupied(window) if !window.get().is_about(&notification) => {
                return self.add_alone(notification, lane, place, rules, frontier);
            }
            Entry::Occupied(window) => {
                let window = window.into_mut();
                if window.unsent.is_empty() {
                    self.closed.remove(&window.place);
                    window.place = (window.place.0.max(due), self.serial);
                    self.lanes[lane].schedule.insert(window.place, Due::Window(key));
                }
                window
            }
            Entry::Vacant(none) => {
                self.lanes[lane].schedule.insert(place, Due::Window(key));
                none.insert(Window::new(&notification, lane, place))
            }
        };
        self.unsent -= window.add(notification, rules, frontier);
    }

    fn add_alone(
        &mut self,
        notification: Notification,
        lane: usize,
        place: Place,
        rules: &mut Rules,
        frontier: &mut Frontier,
    ) {
        frontier.enter(notification.position);
        let is_counted = is_one_more(&notification);
        rules.of(&notification.terms).unsent += usize::from(is_counted);
        let alone = Box::new(Alone { notification, is_counted });
        self.lanes[lane].schedule.insert(place, Due::Alone(alone));
    }

    /// The next notification that is due on the lane.
    pub(super) fn pop(
        &mut self,
        lane: usize,
        now: Instant,
        is_stopping: bool,
        rules: &mut Rules,
    ) -> Option<Notification> {
        self.forget_ended(now);
        if self.lanes[lane].sending.is_empty() {
            let (place, _) = self.lanes[lane].schedule.first_key_value()?;
            if place.0 > now && !is_stopping {
                return None;
            }
            match self.lanes[lane].schedule.pop_first()? {
                (place, Due::Window(key)) => self.send(lane, place, key, now, rules),
                (_, Due::Alone(alone)) => {
                    self.unsent -= 1;
                    return Some(alone.send(rules));
                }
            }
        }
        let sent = self.lanes[lane].sending.pop_front()?;
        self.unsent -= 1;
        Some(sent)
    }

    /// When something is due on a free lane.
    pub(super) fn next_due(
        &self,
        clock: Instant,
        is_free: impl Fn(usize) -> bool,
    ) -> Option<Instant> {
        let free = self.lanes.iter().enumerate().filter(|(index, _)| is_free(*index));
        let due = |lane: &Lane| match lane.sending.is_empty() {
            true => lane.schedule.first_key_value().map(|(place, _)| place.0),
            false => Some(clock),
        };
        free.filter_map(|(_, lane)| due(lane)).min()
    }

    /// Removes what the terms have unsent and may be told by a resync: `remove`
    /// takes their share out, and says whether nothing is left. One by one:
    /// gathered, they would take their memory twice.
    pub(super) fn remove_all(
        &mut self,
        terms: &Arc<Terms>,
        now: Instant,
        mut remove: impl FnMut(&mut Notification) -> bool,
    ) {
        let unsent = &mut self.unsent;
        let mut remove = |notification: &mut Notification| {
            let is_gone = remove(notification);
            *unsent -= usize::from(is_gone);
            is_gone
        };
        for lane in &mut self.lanes {
            take_all(&mut lane.sending, terms, &mut remove);
            lane.schedule.retain(|_, due| match due {
                Due::Window(_) => true,
                Due::Alone(alone) => {
                    let alone = &mut alone.notification;
                    !is_told_by(terms, alone) || !remove(alone)
                }
            });
        }
        let (lanes, closed) = (&mut self.lanes, &mut self.closed);
        self.windows.retain(|key, window| {
            if window.unsent.is_empty() {
                return true;
            }
            take_all(&mut window.unsent, terms, &mut remove);
            window.counted.retain(|address| *address != rules::address(terms));
            if !window.unsent.is_empty() {
                return true;
            }
            lanes[window.lane].schedule.remove(&window.place);
            let is_closed = window.place.0 > now;
            if is_closed {
                closed.insert(window.place, *key);
            }
            is_closed
        });
    }

    /// When the oldest was committed that the terms have unsent and may be told by
    /// a resync.
    pub(super) fn oldest(&self, terms: &Arc<Terms>) -> Option<Timestamp> {
        let sending = self.lanes.iter().flat_map(|lane| &lane.sending);
        let alone = self.lanes.iter().flat_map(Lane::alone);
        let in_windows = self.windows.values().flat_map(|window| &window.unsent);
        let unsent = in_windows.chain(alone).chain(sending);
        unsent.filter(|unsent| is_told_by(terms, unsent)).map(|unsent| unsent.at).min()
    }

    /// All that the window has goes together; then it is closed for its length.
    fn send(&mut self, lane: usize, place: Place, key: Key, now: Instant, rules: &mut Rules) {
        let window = self.windows.get_mut(&key).expect("a window with something unsent is kept");
        let unsent = std::mem::take(&mut window.unsent);
        window.counted.drain(..).for_each(|address| rules.uncount(address));
        self.lanes[lane].sending = unsent;
        window.place = (now + key.length, place.1);
        self.closed.insert(window.place, key);
        if self.closed.len() > MAX_CLOSED {
            self.forget_first();
        }
    }

    fn forget_ended(&mut self, now: Instant) {
        while self.closed.first_key_value().is_some_and(|(place, _)| place.0 <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, key)) = self.closed.pop_first() {
            self.windows.remove(&key);
        }
    }
}

impl Lane {
    fn alone(&self) -> impl Iterator<Item = &Notification> {
        self.schedule.values().filter_map(|due| match due {
            Due::Window(_) => None,
            Due::Alone(alone) => Some(&alone.notification),
        })
    }
}

impl Alone {
    fn send(self, rules: &mut Rules) -> Notification {
        if self.is_counted {
            rules.uncount(rules::address(&self.notification.terms));
        }
        self.notification
    }
}

impl Window {
    fn new(first: &Notification, lane: usize, place: Place) -> Window {
        Window {
            entity: first.terms.entity.clone(),
            subject: subject(first).into(),
            lane,
            place,
            unsent: VecDeque::with_capacity(1),
            counted: Vec::with_capacity(1),
        }
    }

    fn is_about(&self, notification: &Notification) -> bool {
        self.entity == notification.terms.entity && *self.subject == *subject(notification)
    }

    /// How many others it has become one with.
    fn add(
        &mut self,
        mut notification: Notification,
        rules: &mut Rules,
        frontier: &mut Frontier,
    ) -> usize {
        self.count(&notification, rules);
        let (mut folded, mut is_entered) = (0, false);
        for index in (0..self.unsent.len()).rev().take(LOOKBACK) {
            let Some(action) = fold::across(&self.unsent[index], &notification) else { continue };
            let is_whole = fold::is_whole(&self.unsent[index], &notification);
            let taken = match is_whole {
                true => self.take(index, rules),
                false => self.take_part(index, &notification, rules, frontier),
            };
            let Some(earlier) = taken else { continue };
            // Of their positions the lowest stays in the frontier, for all.
            if is_entered {
                frontier.leave(notification.position.max(earlier.position));
            }
            is_entered = true;
            folded += usize::from(is_whole);
            rules.free(&notification);
            notification.absorb(earlier, action);
            rules.keep(&notification);
        }
        if !is_entered {
            frontier.enter(notification.position);
        }
        self.unsent.push_back(notification);
        folded
    }

    fn take(&mut self, index: usize, rules: &mut Rules) -> Option<Notification> {
        let earlier = self.unsent.remove(index)?;
        rules.free(&earlier);
        Some(earlier)
    }

    /// What the later one tells instead; both are at the position then.
    fn take_part(
        &mut self,
        index: usize,
        later: &Notification,
        rules: &mut Rules,
        frontier: &mut Frontier,
    ) -> Option<Notification> {
        let earlier = &mut self.unsent[index];
        rules.free(earlier);
        let part = earlier.part_for(later);
        rules.keep(earlier);
        let part = part?;
        frontier.hold(part.position);
        Some(part)
    }

    fn count(&mut self, notification: &Notification, rules: &mut Rules) {
        let address = rules::address(&notification.terms);
        if !self.counted.contains(&address) {
            self.counted.push(address);
            rules.of(&notification.terms).unsent += 1;
        }
    }
}

/// Whether what is alone is one more subject that is unsent: a change that does not
/// fold is there for each of its rule's events.
fn is_one_more(notification: &Notification) -> bool {
    fold::folds(notification) || notification.refusal.is_none() && notification.event_index == 0
}

/// Whether a resync of the terms may tell of some of it.
fn is_told_by(terms: &Arc<Terms>, unsent: &Notification) -> bool {
    unsent.refusal.is_none() && unsent.is_of(terms)
}

/// Takes the share of the terms, and keeps the others in order.
fn take_all(
    from: &mut VecDeque<Notification>,
    terms: &Arc<Terms>,
    take: &mut impl FnMut(&mut Notification) -> bool,
) {
    from.retain_mut(|unsent| !is_told_by(terms, unsent) || !take(unsent));
    if from.is_empty() {
        *from = VecDeque::new();
    }
}
