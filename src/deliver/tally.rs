//! What `run` would publish of what is printed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::Limits;
use super::estimate::{Count, Estimate};
use crate::acknowledge::Frontier;
use crate::coalesce::{self, Coalescer, Moment};
use crate::notification::{Handoff, Notification, Resync};

/// Counts as if an endpoint took each request at once: what folds there, and what
/// becomes a resync, does so here.
#[derive(Debug)]
pub struct Tally {
    coalescer: Coalescer,
    frontier: Frontier,
    counts: BTreeMap<Arc<str>, Count>,
    since: watch::Sender<Option<Instant>>,
}

impl Tally {
    /// `since` is told when counting begins: once changes stream.
    pub fn new(limits: &Limits, since: watch::Sender<Option<Instant>>) -> Tally {
        let limits = coalesce::Limits {
            collapse_above: limits.collapse_above.get(),
            max_pending_bytes: limits.max_pending.bytes().try_into().unwrap_or(usize::MAX),
            // Nothing waits for longer than its window.
            max_age: None,
        };
        Tally {
            coalescer: Coalescer::new(1, limits),
            frontier: Frontier::default(),
            counts: BTreeMap::new(),
            since,
        }
    }

    /// A session begins. What the one before had not sent comes again.
    pub(super) fn begin(&mut self, now: Instant) {
        self.coalescer.forget();
        self.frontier = Frontier::default();
        self.since.send_if_modified(|since| {
            let is_first = since.is_none();
            since.get_or_insert(now);
            is_first
        });
    }

    pub(super) fn take(&mut self, handoff: Handoff, at: Moment) {
        self.count_due(at.now);
        for notification in handoff.notifications {
            self.coalescer.push(notification, at, &mut self.frontier);
        }
        for resync in handoff.resyncs {
            self.coalescer.resync(resync, at, &mut self.frontier);
        }
        if let Some(position) = handoff.reached {
            self.coalescer.reach(position, at, &mut self.frontier);
        }
        self.count_due(at.now);
        self.frontier.advance();
    }

    /// Of all that was seen, if anything could be. Nothing more is taken after it.
    pub(super) fn estimate(&mut self, now: Instant) -> Option<Estimate> {
        let since = (*self.since.borrow())?;
        self.coalescer.flush();
        self.count_due(now);
        Some(Estimate { elapsed: now - since, rules: std::mem::take(&mut self.counts) })
    }

    /// Counts what would be sent until now, each at its time: windows open when
    /// something is sent.
    fn count_due(&mut self, now: Instant) {
        loop {
            let due = self.coalescer.next_due(|_| true).filter(|due| *due <= now);
            let at = due.unwrap_or(now);
            while let Some(notification) = self.coalescer.pop(0, at) {
                self.count(&notification);
            }
            while let Some(resync) = self.coalescer.pop_resync(at, |_, _| false) {
                self.count_resync(&resync);
            }
            if due.is_none() {
                return;
            }
        }
    }

    fn count(&mut self, notification: &Notification) {
        self.frontier.leave(notification.position);
        let count = self.counts.entry(notification.terms.rule.clone()).or_default();
        match notification.refusal {
            Some(_) => count.refused += 1,
            None => {
                count.notifications += 1;
                count.messages += number(notification.channels.len());
            }
        }
    }

    fn count_resync(&mut self, resync: &Resync) {
        if let Some(position) = resync.position {
            self.frontier.leave(position);
        }
        let terms = &resync.terms;
        let constant = terms.channels.iter().filter(|pattern| pattern.constant().is_some()).count();
        let count = self.counts.entry(terms.rule.clone()).or_default();
        count.resyncs += 1;
        count.resync_messages += number(terms.resync_events.len() * constant);
        count.resyncs_tell_occupied |= constant < terms.channels.len();
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::change::{Position, Timestamp};
    use crate::deliver::tests::notification;
    use crate::notification::{
        Audience, ChannelClass, ChannelPattern, Part, Reason, Refusal, Terms,
    };

    struct Counting {
        tally: Tally,
        start: Instant,
        position: u64,
        terms: Arc<Terms>,
    }

    impl Counting {
        fn new() -> Counting {
            let (since, _) = watch::channel(None);
            let limits =
                Limits { collapse_above: 50.try_into().expect("not zero"), ..Limits::default() };
            let mut tally = Tally::new(&limits, since);
            let start = Instant::now();
            tally.begin(start);
            let pattern = |parts| ChannelPattern::new(parts, ChannelClass::Public);
            let terms = Terms {
                window: Some(Duration::from_millis(250)),
                may_collapse: true,
                channels: vec![
                    pattern(vec![Part::Text("posts".into())]),
                    pattern(vec![Part::Text("posts.".into()), Part::Value { dotted: false }]),
                ],
                ..Terms::plain("posts", "post")
            };
            Counting { tally, start, position: 0, terms: terms.into() }
        }

        fn commit(&mut self, after_ms: u64, ids: impl IntoIterator<Item = u64>) {
            self.position += 1;
            let position = Position::new(self.position);
            let notifications = ids.into_iter().map(|id| Notification {
                terms: self.terms.clone(),
                position,
                ..notification("post", id, &["posts", &format!("posts.{id}")])
            });
            let handoff = Handoff {
                notifications: notifications.collect(),
                reached: Some(position),
                ..Handoff::default()
            };
            self.take(after_ms, handoff);
        }

        fn take(&mut self, after_ms: u64, handoff: Handoff) {
            let now = self.start + Duration::from_millis(after_ms);
            self.tally.take(handoff, Moment { now, wall: Timestamp::from_unix_micros(1) });
        }

        fn count(mut self, after: Duration) -> Count {
            let estimate = self.tally.estimate(self.start + after).expect("it has begun");
            assert_eq!(estimate.elapsed, after);
            estimate.rules["posts"]
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_notification_counts_once_for_each_channel_and_what_folds_counts_once() {
        let mut counting = Counting::new();
        // Sent at 0, 250; 10,000, 10,250, each of two rows.
        for after_ms in [0, 100, 200, 10_000, 10_100] {
            counting.commit(after_ms, [1, 2]);
        }
        let count = counting.count(MINUTE);
        assert_eq!((count.notifications, count.messages), (8, 16));
        assert_eq!((count.resyncs, count.refused), (0, 0));
    }

    #[test]
    fn what_collapses_is_counted_as_one_resync_apart() {
        let mut counting = Counting::new();
        counting.commit(0, 1..=1000);
        counting.commit(60_000, [7]);
        let resync = Resync {
            terms: counting.terms.clone(),
            reason: Reason::Truncate,
            count: None,
            audience: Audience::All,
            position: Some(Position::new(3)),
            at: Timestamp::from_unix_micros(1),
        };
        let reached = Some(Position::new(3));
        let truncate = Handoff { resyncs: vec![resync], reached, ..Handoff::default() };
        counting.take(120_000, truncate);
        let count = counting.count(3 * MINUTE);
        assert_eq!((count.notifications, count.messages), (1, 2));
        assert_eq!((count.resyncs, count.resync_messages), (2, 2));
        assert!(count.resyncs_tell_occupied);
    }

    #[test]
    fn what_the_rules_refuse_is_no_message() {
        let mut counting = Counting::new();
        let refused = Notification {
            refusal: Some(Refusal::Oversize { bytes: 9, limit: 8 }),
            ..notification("post", 1, &["posts"])
        };
        let reached = Some(Position::new(1));
        counting.take(0, Handoff { notifications: vec![refused], reached, ..Handoff::default() });
        let count = counting.count(MINUTE);
        assert_eq!((count.refused, count.messages), (1, 0));
    }
}
