use std::time::{Duration, Instant};

use crate::change::{Missed, Position};
use crate::postgres::running::RunningTransactions;

/// All pages fetch again each time, so it is not told more often.
const AT_MOST_EACH: Duration = Duration::from_secs(1);

/// Changes that triggers could not write down, counted by a sequence. Pure.
///
/// A step that is seen may be of a transaction that still runs. So it is told once
/// that is known to run no more, and meanwhile whenever one has ended that may have
/// made it.
#[derive(Debug)]
pub(super) struct Missing {
    why: Missed,
    /// The sequence, as the last poll had it.
    seen: i64,
    /// The value that is wholly told, once everything at or below the position is
    /// delivered.
    told: Option<(i64, Position)>,
    /// What is recorded as told.
    recorded: i64,
    untold: Option<Untold>,
    last_told: Option<Instant>,
}

/// What may still have to be told.
#[derive(Clone, Copy, Debug)]
struct Untold {
    value: i64,
    /// Everything that may have stepped is below it.
    fence: Option<u64>,
    /// How many of these still ran when it was told last.
    running: Option<usize>,
}

impl Missing {
    /// `recorded` is what was told by the sessions before.
    pub(super) fn new(why: Missed, recorded: i64) -> Missing {
        Missing { why, seen: recorded, told: None, recorded, untold: None, last_told: None }
    }

    /// A poll found the sequence at `value`.
    pub(super) fn polled(&mut self, value: i64) {
        if value != self.seen {
            self.seen = value;
            self.untold = Some(Untold { value, fence: None, running: None });
        }
    }

    /// Whether [`Missing::fence`] is to be called with an xid that is taken after
    /// the last poll.
    pub(super) fn wants_fence(&self) -> bool {
        self.untold.is_some_and(|untold| untold.fence.is_none())
    }

    pub(super) fn fence(&mut self, xid: u64) {
        if let Some(untold) = &mut self.untold {
            untold.fence.get_or_insert(xid);
        }
    }

    pub(super) fn why(&self) -> Missed {
        self.why
    }

    /// Whether there is something that was not told at all.
    pub(super) fn is_untold(&self) -> bool {
        self.untold.is_some_and(|untold| untold.running.is_none())
    }

    /// Whether it is to be told now, that all is visible which `snapshot` shows.
    /// Then [`Missing::told_at`] is to be called.
    pub(super) fn is_due(&mut self, snapshot: &RunningTransactions, now: Instant) -> bool {
        let Some(untold) = &mut self.untold else { return false };
        let Some(fence) = untold.fence else { return false };
        // Whoever took the fence has ended, so all below that run are in the list.
        let running = match snapshot.all_ended_below(fence) {
            true => 0,
            false => snapshot.running().iter().filter(|xid| **xid < fence).count().max(1),
        };
        let is_news = untold.running.is_none_or(|before| running < before);
        if !is_news || self.last_told.is_some_and(|at| now < at + AT_MOST_EACH) {
            return false;
        }
        self.last_told = Some(now);
        untold.running = Some(running);
        true
    }

    /// It is told by what reaches `position`.
    pub(super) fn told_at(&mut self, position: Position) {
        if let Some(untold) = self.untold
            && untold.running == Some(0)
        {
            self.told = Some((untold.value, position));
            self.untold = None;
        }
    }

    /// The value to be recorded with everything at or below `position`.
    pub(super) fn recorded_with(&mut self, position: Position) -> i64 {
        if let Some((value, at)) = self.told
            && at <= position
        {
            self.recorded = value;
            self.told = None;
        }
        self.recorded
    }
}
