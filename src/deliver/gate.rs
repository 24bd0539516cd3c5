use std::time::{Duration, Instant};

use crate::backoff::Backoff;

use super::pusher::Problem;

/// Refusals without an acceptance between them before they are taken for the
/// endpoint's: otherwise a proxy's 413 would reject the whole backlog.
const REFUSALS_IN_A_ROW: u32 = 10;

/// Whether the endpoint takes anything at all. While it is shut, single
/// requests are let through to find out whether that has changed.
#[derive(Debug, Default)]
pub(super) struct Gate {
    refusals: u32,
    shut: Option<Shut>,
    /// A wait that the endpoint asked for.
    not_before: Option<Instant>,
    /// Since when the endpoint has failed to answer some lane.
    troubled: Option<Instant>,
}

#[derive(Debug)]
struct Shut {
    since: Instant,
    try_at: Instant,
    backoff: Backoff,
    /// The lane whose request is let through.
    probing: Option<usize>,
    /// The lane to begin with when the next one is chosen, so that a lane with
    /// a bad request does not keep the gate shut for all.
    next_lane: usize,
    problem: String,
}

/// A change that the operator should hear of.
#[derive(Debug)]
pub(super) enum Transition {
    /// Nothing is taken until somebody changes something, or for another
    /// reason than so far.
    Stopped(Problem),
    Resumed {
        after: Duration,
    },
    /// Requests fail and are repeated.
    Troubled(Problem),
    Recovered {
        after: Duration,
    },
    EventsOnly,
}

/// Which lanes may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    All,
    /// One, sought from this lane on.
    One {
        from: usize,
    },
    None,
}

impl Gate {
    pub(super) fn admits(&self, now: Instant) -> Admission {
        if self.not_before.is_some_and(|not_before| now < not_before) {
            return Admission::None;
        }
        match &self.shut {
            None => Admission::All,
            Some(shut) if shut.probing.is_some() || now < shut.try_at => Admission::None,
            Some(shut) => Admission::One { from: shut.next_lane },
        }
    }

    /// Before when nothing may be sent, and whether lanes' own waits count.
    pub(super) fn opens_at(&self) -> Option<Instant> {
        let try_at = self.shut.as_ref().map(|shut| shut.try_at);
        self.not_before.max(try_at)
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut.is_some()
    }

    pub(super) fn is_probing(&self) -> bool {
        self.shut.as_ref().is_some_and(|shut| shut.probing.is_some())
    }

    pub(super) fn started(&mut self, lane: usize) {
        if let Some(shut) = &mut self.shut {
            shut.probing = Some(lane);
            shut.next_lane = lane + 1;
        }
    }

    /// A request of this lane has ended in whatever way.
    pub(super) fn ended(&mut self, lane: usize, now: Instant) {
        if let Some(shut) = &mut self.shut
            && shut.probing == Some(lane)
        {
            shut.probing = None;
            shut.try_at = now + shut.backoff.next();
        }
    }

    /// `is_calm`: no lane waits for the endpoint any more.
    pub(super) fn accepted(&mut self, now: Instant, is_calm: bool) -> Option<Transition> {
        self.refusals = 0;
        self.not_before = None;
        if let Some(shut) = self.shut.take() {
            self.troubled = None;
            return Some(Transition::Resumed { after: now - shut.since });
        }
        if !is_calm {
            return None;
        }
        self.troubled.take().map(|since| Transition::Recovered { after: now - since })
    }

    /// Whether a refusal now may be the endpoint's, so that it is to be asked to
    /// publish something else.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.shut.is_some() || self.refusals + 1 >= REFUSALS_IN_A_ROW
    }

    /// Whether one more notification may be given up.
    pub(super) fn may_reject(&mut self) -> bool {
        if self.is_in_doubt() {
            return false;
        }
        self.refusals += 1;
        true
    }

    pub(super) fn refused_too_often(last: Problem) -> Problem {
        Problem::RefusedInARow { count: REFUSALS_IN_A_ROW, last: Box::new(last) }
    }

    pub(super) fn stop(&mut self, problem: Problem, now: Instant) -> Option<Transition> {
        let kind = problem.kind();
        match &mut self.shut {
            Some(shut) if shut.problem == kind => return None,
            Some(shut) => shut.problem = kind,
            None => {
                let mut backoff = Backoff::default();
                let try_at = now + backoff.next();
                self.shut = Some(Shut {
                    since: now,
                    try_at,
                    backoff,
                    probing: None,
                    next_lane: 0,
                    problem: kind,
                });
            }
        }
        Some(Transition::Stopped(problem))
    }

    pub(super) fn failed(
        &mut self,
        problem: Problem,
        after: Option<Duration>,
        now: Instant,
    ) -> Option<Transition> {
        if let Some(after) = after {
            self.not_before = self.not_before.max(Some(now + after));
        }
        if self.troubled.is_some() || self.shut.is_some() {
            return None;
        }
        self.troubled = Some(now);
        Some(Transition::Troubled(problem))
    }
}
