use std::time::{Duration, Instant};

use crate::change::Lsn;

/// Status updates are this far apart while the confirmed position grows.
const ADVANCING: Duration = Duration::from_secs(1);
/// And this far once everything received is confirmed: a server that shuts
/// down waits for that update.
const CAUGHT_UP: Duration = Duration::from_millis(100);
/// A server may ask for replies faster than anyone needs them.
const ASKED: Duration = Duration::from_millis(10);
/// Between status updates when nothing else calls for one, unless somebody
/// waits for them.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// How long a server may stay silent, if its own timeout is short.
const SILENCE: Duration = Duration::from_secs(20);

/// Decides what to confirm and when. Pure: the session sends.
///
/// `write` is what was received; only `flush`, which moves the slot, is the
/// delivered prefix.
#[derive(Debug)]
pub(super) struct Feedback {
    interval: Duration,
    silence: Duration,
    received: Lsn,
    confirmed: Lsn,
    reply_requested: bool,
    sent_at: Instant,
    sent_flush: Lsn,
    heard_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatusUpdate {
    pub(super) write: Lsn,
    pub(super) flush: Lsn,
    /// Ask the server for a sign of life: it has been silent for an interval,
    /// and it keeps quiet as long as it hears from us.
    pub(super) reply_wanted: bool,
}

impl Feedback {
    /// `interval` is the longest between two updates. `wal_sender_timeout` is the
    /// server's; zero means that it never gives up.
    pub(super) fn new(interval: Duration, wal_sender_timeout: Duration, now: Instant) -> Feedback {
        let interval = match wal_sender_timeout {
            Duration::ZERO => interval,
            timeout => interval.min(timeout / 3),
        };
        Feedback {
            interval,
            // While it decodes a transaction that does not concern us, a server
            // answers only after half of its timeout. To leave it then would
            // mean to have it begin again, for ever.
            silence: SILENCE.max(wal_sender_timeout * 3 / 4),
            received: Lsn::ZERO,
            confirmed: Lsn::ZERO,
            reply_requested: false,
            // The first update goes out at once: it tells the server that we live.
            sent_at: now.checked_sub(STATUS_INTERVAL).unwrap_or(now),
            sent_flush: Lsn::ZERO,
            heard_at: now,
        }
    }

    /// Something came from the server, or reading goes on after a pause that
    /// was ours.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    pub(super) fn received(&mut self, lsn: Lsn) {
        self.received = self.received.max(lsn);
    }

    pub(super) fn reply_requested(&mut self) {
        self.reply_requested = true;
    }

    /// Everything at or below `lsn` was delivered.
    pub(super) fn confirm(&mut self, lsn: Lsn) {
        self.confirmed = self.confirmed.max(lsn);
    }

    /// When [`Feedback::update`] will next have something to send.
    pub(super) fn due_at(&self) -> Instant {
        let gap = if self.reply_requested {
            ASKED
        } else if self.confirmed > self.sent_flush {
            if self.confirmed >= self.received { CAUGHT_UP } else { ADVANCING }
        } else {
            self.interval
        };
        self.sent_at + gap.min(self.interval)
    }

    /// The update to send now, if it is time.
    pub(super) fn update(&mut self, now: Instant) -> Option<StatusUpdate> {
        (now >= self.due_at()).then(|| self.update_now(now))
    }

    /// The update to send at the end of a session.
    pub(super) fn update_now(&mut self, now: Instant) -> StatusUpdate {
        self.sent_at = now;
        self.sent_flush = self.confirmed;
        self.reply_requested = false;
        StatusUpdate {
            write: self.received.max(self.confirmed),
            flush: self.confirmed,
            reply_wanted: now.duration_since(self.heard_at) >= self.interval,
        }
    }

    /// How long the server has been silent, if that is too long.
    pub(super) fn silent_for(&self, now: Instant) -> Option<Duration> {
        let silence = now.duration_since(self.heard_at);
        (silence >= self.silence).then_some(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(value: u64) -> Lsn {
        Lsn::from(value)
    }

    #[test]
    fn only_what_was_delivered_is_flushed() {
        let start = Instant::now();
        let mut feedback = Feedback::new(STATUS_INTERVAL, Duration::from_secs(60), start);
        feedback.received(lsn(100));
        feedback.confirm(lsn(40));
        let update = feedback.update(start).unwrap();
        assert_eq!((update.write, update.flush), (lsn(100), lsn(40)));
        feedback.confirm(lsn(30));
        assert_eq!(feedback.update_now(start).flush, lsn(40), "a position never goes back");
    }

    #[test]
    fn updates_come_at_a_third_of_the_servers_timeout() {
        let start = Instant::now();
        let mut feedback = Feedback::new(STATUS_INTERVAL, Duration::from_secs(6), start);
        assert!(feedback.update(start).is_some());
        assert_eq!(feedback.update(start + Duration::from_millis(1999)), None);
        assert!(feedback.update(start + Duration::from_secs(2)).is_some());
        let never = Feedback::new(STATUS_INTERVAL, Duration::ZERO, start);
        assert_eq!(never.interval, STATUS_INTERVAL);
        let watched = Duration::from_secs(1);
        let watched = Feedback::new(watched, Duration::from_secs(60), start);
        assert_eq!(watched.interval, Duration::from_secs(1));
    }

    #[test]
    fn a_request_is_answered_at_once_but_a_storm_of_them_is_not() {
        let start = Instant::now();
        let mut feedback = Feedback::new(STATUS_INTERVAL, Duration::from_secs(60), start);
        feedback.update(start).unwrap();
        let soon = start + Duration::from_millis(50);
        feedback.reply_requested();
        assert!(feedback.update(soon).is_some());
        feedback.reply_requested();
        assert_eq!(feedback.update(soon + Duration::from_millis(1)), None);
        assert!(feedback.update(soon + ASKED).is_some());
    }

    #[test]
    fn all_delivered_is_told_sooner_than_some_delivered() {
        let start = Instant::now();
        let mut feedback = Feedback::new(STATUS_INTERVAL, Duration::from_secs(60), start);
        feedback.update(start).unwrap();
        feedback.received(lsn(10));
        feedback.confirm(lsn(5));
        assert_eq!(feedback.due_at(), start + ADVANCING);
        feedback.confirm(lsn(10));
        assert_eq!(feedback.due_at(), start + CAUGHT_UP);
    }

    #[test]
    fn a_silent_server_is_asked_and_then_given_up() {
        let start = Instant::now();
        let mut feedback = Feedback::new(STATUS_INTERVAL, Duration::from_secs(20), start);
        assert!(!feedback.update(start).unwrap().reply_wanted);
        let later = start + Duration::from_secs(10);
        assert!(feedback.update(later).unwrap().reply_wanted);
        assert_eq!(feedback.silent_for(later), None);
        assert!(feedback.silent_for(start + SILENCE).is_some());
        feedback.heard(later);
        assert_eq!(feedback.silent_for(start + SILENCE), None);
    }
}
