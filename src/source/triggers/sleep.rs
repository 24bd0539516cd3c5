use std::time::{Duration, Instant};

use crate::postgres::Wake;
use crate::postgres::running::RunningTransactions;

/// After rows, and the least there is between two polls.
const SHORTEST: Duration = Duration::from_millis(2);
/// Between polls while rows come, at most: they cost the server something each.
const BUSY: Duration = Duration::from_millis(10);
/// Between polls that find nothing, where nobody wakes us.
const IDLE: Duration = Duration::from_millis(50);
/// Where somebody does: it may have been missed.
const ASLEEP: Duration = Duration::from_secs(1);
/// Who only looks on need not be the first to know.
const WATCHING: Duration = Duration::from_millis(100);
/// While transactions run that may not have seen that we want to be woken.
const UNEASY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// Polls with several transactions that come one after the other before we stay
/// awake: NOTIFY makes writers wait for each other. One alone, whose every commit
/// wakes us, is told of sooner so than by polls.
const RUN: u32 = 8;
/// With pauses between them no longer than this.
const RUN_PAUSE: Duration = Duration::from_millis(20);

/// When to poll. Pure.
#[derive(Debug)]
pub(super) struct Sleep {
    wake: Wake,
    is_watching: bool,
    pause: Duration,
    next_poll: Instant,
    /// Whoever begins now knows that we want to be woken; of those below the fence
    /// it is not sure.
    armed: Option<u64>,
    /// Polls with several transactions, more than there were with one, and without
    /// a long pause between.
    run: u32,
    last_rows: Option<Instant>,
    is_quiet: bool,
}

/// What a poll found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) transactions: usize,
    /// There was more than one answer could hold.
    pub(super) is_more: bool,
    pub(super) took: Duration,
}

impl Sleep {
    pub(super) fn new(wake: Wake, drains: bool, now: Instant) -> Sleep {
        Sleep {
            wake,
            is_watching: !drains,
            pause: SHORTEST,
            next_poll: now,
            armed: None,
            run: 0,
            last_rows: None,
            is_quiet: false,
        }
    }

    pub(super) fn next_poll(&self) -> Instant {
        self.next_poll
    }

    pub(super) fn is_armed(&self) -> bool {
        self.armed.is_some()
    }

    /// Whether to be woken by triggers, if that is another than it is now.
    pub(super) fn wants(&self) -> Option<bool> {
        match (self.wake, self.armed) {
            (Wake::Notify, None) if self.is_quiet => Some(true),
            (Wake::Notify, Some(_)) if self.run >= RUN => Some(false),
            _ => None,
        }
    }

    /// Triggers wake us from now on; those of transactions below `fence` may not
    /// know.
    pub(super) fn arm(&mut self, fence: u64, now: Instant) {
        self.armed = Some(fence);
        self.pause = UNEASY.0;
        // For what was written in between.
        self.next_poll = now;
    }

    pub(super) fn disarm(&mut self, now: Instant) {
        self.armed = None;
        self.is_quiet = false;
        self.pause = SHORTEST;
        self.next_poll = now + SHORTEST;
    }

    /// Something may be there.
    pub(super) fn poll_at(&mut self, at: Instant) {
        self.next_poll = self.next_poll.min(at);
    }

    pub(super) fn polled(
        &mut self,
        Found { transactions, is_more, took }: Found,
        snapshot: &RunningTransactions,
        now: Instant,
    ) {
        let rows = transactions > 0;
        if rows {
            let is_run = self.last_rows.is_some_and(|at| now < at + RUN_PAUSE);
            let run = if is_run { self.run } else { 0 };
            self.run = match (is_more, transactions) {
                (true, _) => RUN,
                (false, 1) => run.saturating_sub(1),
                (false, _) => run + 1,
            };
            self.last_rows = Some(now);
        }
        self.pause = match self.armed {
            _ if self.is_watching => WATCHING,
            Some(fence) if snapshot.all_ended_below(fence) => ASLEEP,
            Some(_) => match self.pause {
                ASLEEP => UNEASY.0,
                pause => (pause * 2).min(UNEASY.1),
            },
            None if rows => (took * 2).clamp(SHORTEST, BUSY),
            None => {
                self.is_quiet = self.pause * 2 > IDLE;
                (self.pause * 2).min(IDLE)
            }
        };
        if rows {
            self.is_quiet = false;
        }
        self.next_poll = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls each millisecond, of which each finds so many transactions.
    fn after(found: &[usize]) -> Sleep {
        let mut now = Instant::now();
        let mut sleep = Sleep::new(Wake::Notify, true, now);
        sleep.arm(0, now);
        for transactions in found {
            now += Duration::from_millis(1);
            let found = Found {
                transactions: *transactions,
                is_more: false,
                took: Duration::from_millis(1),
            };
            sleep.polled(found, &RunningTransactions::UNKNOWN, now);
        }
        sleep
    }

    #[test]
    fn one_writer_wakes_us_however_fast_it_is() {
        assert_eq!(after(&[1; 100]).wants(), None);
        assert_eq!(after(&[1, 2].repeat(50)).wants(), None);
    }

    #[test]
    fn several_writers_are_not_kept_by_notify() {
        assert_eq!(after(&[2; RUN as usize - 1]).wants(), None);
        assert_eq!(after(&[3; RUN as usize]).wants(), Some(false));
        assert_eq!(after(&[1, 2, 2].repeat(RUN as usize)).wants(), Some(false));
    }
}
