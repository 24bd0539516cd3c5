//! What was announced and not sent yet: folded, and where it is too much, told
//! by one resync. Pure: time is told, and the frontier is the caller's.
//!
//! A transaction is *staged* until its commit is reached, so that only its net
//! effect goes on. Then each notification enters the *window* of its entity and
//! id. The first one is due at once; sending it opens the window, and what comes
//! before the window ends is folded and due together at its end. Deliver pulls:
//! it takes what is due when a lane is free, so all that waits still folds. A
//! stage between route and deliver would freeze what it hands on.
//!
//! Rules of several tables may announce one entity, a parent and its children.
//! What they say of one id by one event is folded too, and is then a notification
//! with a *share* for each of them: what must be told anew is so for each.
//!
//! A rule whose ids are too many *collapses*: what it has unsent becomes one
//! resync, and further changes only count, until deliver takes the resync. What comes
//! within a window after that waits for its end, since a flood mostly goes on.
//!
//! Each unsent notification and each resync holds one position in the frontier,
//! of the first commit that it stands for. What is folded or collapsed leaves
//! its own and keeps the lowest.

mod fold;
mod rules;
mod staged;
mod windows;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::acknowledge::Frontier;
use crate::change::{Position, Timestamp};
use crate::notification::{Notification, Reason, Resync, Terms, WindowBy};

use rules::Rules;
use staged::Staged;
use windows::Windows;

/// See the module.
#[derive(Debug)]
pub struct Coalescer {
    limits: Limits,
    /// The transaction that is being read, by its position.
    open: Option<Position>,
    staged: Staged,
    windows: Windows,
    rules: Rules,
    /// The latest instant that was told.
    clock: Option<Instant>,
    is_stopping: bool,
}

/// How much is kept, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A rule with more unsent ids on a table collapses.
    pub collapse_above: usize,
    /// At this much the largest rule collapses; if none may, reading waits.
    pub max_pending_bytes: usize,
    /// What was committed longer ago is told by a resync.
    pub max_age: Option<Duration>,
}

/// Now, by the clock that measures and by the one that commits are dated with.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: Instant,
    pub wall: Timestamp,
}

impl Coalescer {
    /// `lanes` is how many run side by side; at least one.
    pub fn new(lanes: usize, limits: Limits) -> Coalescer {
        Coalescer {
            limits,
            open: None,
            staged: Staged::default(),
            windows: Windows::new(lanes),
            rules: Rules::new(limits.collapse_above),
            clock: None,
            is_stopping: false,
        }
    }

    /// The same, by whose demand the rules make notifications, or only count.
    pub fn demanding(mut self) -> Coalescer {
        self.rules.demand();
        self
    }

    /// Stages it. Positions do not fall from push to push. Nothing of a
    /// transaction is due before [`reach`](Coalescer::reach), or a push of a
    /// later one; unless it alone fills the room, and may not collapse.
    pub fn push(&mut self, notification: Notification, at: Moment, frontier: &mut Frontier) {
        let now = self.tick(at.now);
        self.begin(notification.position, now, frontier);
        if notification.refusal.is_none() && notification.terms.may_collapse {
            let is_old = self.is_old(notification.at, at.wall);
            if self.rules.count(&notification, is_old) {
                return;
            }
        }
        let terms = notification.terms.clone();
        self.stage(notification);
        if terms.may_collapse && self.rules.of(&terms).staged > self.limits.collapse_above {
            self.gather_staged(&terms, Reason::Bulk);
            self.rules.crowd(&terms);
        }
        self.make_room(now, frontier);
    }

    /// Adds a resync to what its terms have pending. If it has a position, it
    /// comes after the notifications that were handed on with it, and before
    /// that position is reached.
    pub fn resync(&mut self, mut resync: Resync, at: Moment, frontier: &mut Frontier) {
        let now = self.tick(at.now);
        let is_aged = resync.reason == Reason::Bulk && self.is_old(resync.at, at.wall);
        if is_aged {
            resync.reason = Reason::Age;
        }
        match resync.position {
            Some(position) if self.open.is_none_or(|open| open <= position) => {
                self.begin(position, now, frontier);
                self.rules.gather(resync);
            }
            // Its transaction is complete, or it is owed since before.
            _ => self.owe(resync, now, frontier),
        }
    }

    /// The source has nothing more at or below `position`: what is staged there
    /// enters the windows and the frontier, which is then told.
    pub fn reach(&mut self, position: Position, at: Moment, frontier: &mut Frontier) {
        let now = self.tick(at.now);
        if self.open.is_some_and(|open| open <= position) {
            self.commit(now, frontier);
        }
        frontier.reach(position);
    }

    /// Collapses each rule that has something unsent of longer ago than
    /// `max_age`.
    pub fn age(&mut self, at: Moment, frontier: &mut Frontier) {
        let now = self.tick(at.now);
        let Some(before) = self.oldest_told(at.wall) else { return };
        for terms in self.rules.older_than(before) {
            let oldest = self.windows.oldest(&terms);
            self.rules.of(&terms).oldest = oldest;
            if oldest.is_some_and(|oldest| oldest < before) {
                self.collapse(&terms, Reason::Age, now, frontier);
            }
        }
    }

    /// The next notification that is due on a lane. Its position stays in the
    /// frontier until the caller leaves it.
    pub fn pop(&mut self, lane: usize, now: Instant) -> Option<Notification> {
        let now = self.tick(now);
        let notification = self.windows.pop(lane, now, self.is_stopping, &mut self.rules)?;
        self.rules.free(&notification);
        Some(notification)
    }

    /// When something is due on a free lane, and when a resync is that is not
    /// yet.
    pub fn next_due(&self, is_free: impl Fn(usize) -> bool) -> Option<Instant> {
        let clock = self.clock?;
        let due = self.windows.next_due(clock, is_free);
        if self.is_stopping {
            return due.map(|due| due.min(clock));
        }
        due.into_iter().chain(self.rules.next_resync(clock)).min()
    }

    /// The next resync of terms that no lane holds notifications of which it took
    /// until the given time, when the resync became due. What lanes take later
    /// need not come first, or under constant load it would never be told.
    /// Changes after it start anew.
    pub fn pop_resync(
        &mut self,
        now: Instant,
        holds: impl Fn(&Arc<Terms>, Instant) -> bool,
    ) -> Option<Resync> {
        let now = self.tick(now);
        self.rules.pop_resync(now, self.is_stopping, holds)
    }

    /// Everything is due from now on, as reading has ended.
    pub fn flush(&mut self) {
        self.is_stopping = true;
    }

    /// Drops everything: the session is over, and the source sends it again.
    pub fn forget(&mut self) {
        let rules = self.rules.forget();
        *self = Coalescer { rules, ..Coalescer::new(self.windows.lanes(), self.limits) };
    }

    /// Memory of what is unsent or staged, near enough.
    pub fn pending_bytes(&self) -> usize {
        self.rules.pending_bytes()
    }

    /// Notifications that are committed and unsent.
    pub fn unsent(&self) -> usize {
        self.windows.unsent()
    }

    /// Whether nothing is unsent. What is staged of a transaction without its
    /// end does not count: it cannot be sent, and comes again.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.rules.owes_nothing()
    }

    /// Whether more should be read.
    pub fn has_room(&self) -> bool {
        self.pending_bytes() < self.limits.max_pending_bytes
    }

    /// Instants as told may come out of order; windows must not.
    fn tick(&mut self, now: Instant) -> Instant {
        let now = self.clock.map_or(now, |clock| clock.max(now));
        self.clock = Some(now);
        now
    }

    fn oldest_told(&self, wall: Timestamp) -> Option<Timestamp> {
        let age = i64::try_from(self.limits.max_age?.as_micros()).unwrap_or(i64::MAX);
        Some(Timestamp::from_unix_micros(wall.unix_micros().saturating_sub(age)))
    }

    fn is_old(&self, at: Timestamp, wall: Timestamp) -> bool {
        self.oldest_told(wall).is_some_and(|before| at < before)
    }

    /// The transaction at `position` goes on, so those before it are complete.
    fn begin(&mut self, position: Position, now: Instant, frontier: &mut Frontier) {
        debug_assert!(self.open <= Some(position), "{position:?} after {:?}", self.open);
        if self.open.is_some_and(|open| open < position) {
            self.commit(now, frontier);
        }
        self.open = Some(position);
    }

    fn commit(&mut self, now: Instant, frontier: &mut Frontier) {
        self.open = None;
        while let Some(resync) = self.rules.next_gathered() {
            self.owe(resync, now, frontier);
        }
        self.release(now, frontier);
    }

    /// With a window for each channel, a notification is split into one for
    /// each.
    fn stage(&mut self, mut notification: Notification) {
        let is_by_channel = notification.terms.window_by == WindowBy::Channel;
        if is_by_channel && fold::folds(&notification) {
            let others = notification.channels.split_off(1);
            for channel in others {
                let other = Notification { channels: vec![channel], ..notification.clone() };
                self.staged.add(other, &mut self.rules);
            }
        }
        self.staged.add(notification, &mut self.rules);
    }

    /// What is staged enters the windows.
    fn release(&mut self, now: Instant, frontier: &mut Frontier) {
        let mut entries = self.staged.take();
        for entry in entries.drain(..).flatten() {
            let notification = entry.notification;
            let terms = notification.terms.clone();
            self.rules.unstage(&notification);
            if notification.refusal.is_none() && self.rules.of(&terms).is_told_by_resync() {
                self.rules.free(&notification);
                frontier.enter(notification.position);
                self.rules.owe(notification.resync(&terms, Reason::Bulk), now, frontier);
                continue;
            }
            self.windows.add(notification, entry.hash, now, &mut self.rules, frontier);
            if terms.may_collapse && self.rules.of(&terms).unsent > self.limits.collapse_above {
                self.collapse(&terms, Reason::Bulk, now, frontier);
                self.rules.crowd(&terms);
            }
        }
        self.staged.give_back(entries);
    }

    /// Collapses what it takes. Where nothing may collapse, what is staged must
    /// go out before its transaction's end is read, or neither ever would. That
    /// is safe, since only what is committed is read.
    fn make_room(&mut self, now: Instant, frontier: &mut Frontier) {
        while !self.has_room() {
            let Some(terms) = self.rules.largest() else {
                return self.release(now, frontier);
            };
            self.collapse(&terms, Reason::Backlog, now, frontier);
            self.rules.crowd(&terms);
        }
    }

    /// The resync's position is not in the frontier yet.
    fn owe(&mut self, resync: Resync, now: Instant, frontier: &mut Frontier) {
        if let Some(position) = resync.position {
            frontier.enter(position);
        }
        let (terms, reason) = (resync.terms.clone(), resync.reason);
        self.rules.owe(resync, now, frontier);
        if terms.may_collapse {
            self.collapse(&terms, reason, now, frontier);
        }
    }

    /// What the terms have unsent becomes one resync, and what they have staged
    /// another, at the commit. What other rules have in it stays.
    fn collapse(
        &mut self,
        terms: &Arc<Terms>,
        reason: Reason,
        now: Instant,
        frontier: &mut Frontier,
    ) {
        if self.rules.of(terms).held == 0 {
            return;
        }
        self.gather_staged(terms, reason);
        let rules = &mut self.rules;
        self.windows.remove_all(terms, now, |notification| {
            let resync = notification.resync(terms, reason);
            rules.free(notification);
            let stays = notification.leave_out(terms);
            if stays {
                rules.keep(notification);
                frontier.hold(notification.position);
            }
            rules.owe(resync, now, frontier);
            !stays
        });
        let rule = rules.of(terms);
        rule.unsent = 0;
        rule.oldest = None;
    }

    fn gather_staged(&mut self, terms: &Arc<Terms>, reason: Reason) {
        for notification in self.staged.remove_all(terms) {
            self.rules.unstage(&notification);
            self.rules.free(&notification);
            self.rules.gather(notification.resync(terms, reason));
        }
    }
}

/// What a window is about, besides the entity: an id or a channel.
fn subject(notification: &Notification) -> &str {
    match (notification.terms.window_by, notification.channels.first()) {
        (WindowBy::Channel, Some(channel)) => channel.as_str(),
        (WindowBy::Channel, None) | (WindowBy::Id, _) => &notification.id,
    }
}

/// Of entity and subject: it tells the lane, so it is the same in each session.
fn hash(notification: &Notification) -> u64 {
    let mut hasher = DefaultHasher::new();
    notification.terms.entity.hash(&mut hasher);
    subject(notification).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
