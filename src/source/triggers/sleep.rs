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
/// Polls with rows that come one after the other before we stay awake.
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
    /// Polls with rows, without a long pause between.
    run: u32,
    last_rows: Option<Instant>,
    is_quiet: bool,
}

/// What a poll found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) rows: bool,
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
        Found { rows, is_more, took }: Found,
        snapshot: &RunningTransactions,
        now: Instant,
    ) {
        if rows {
            let is_run = self.last_rows.is_some_and(|at| now < at + RUN_PAUSE);
            self.run = match (is_more, is_run) {
                (true, _) => RUN,
                (false, true) => self.run + 1,
                (false, false) => 1,
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
