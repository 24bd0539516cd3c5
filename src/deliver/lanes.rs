//! Which request goes out when. Pure: time and verdicts are told.
//!
//! Notifications of one window share a lane, a lane has one request on its way,
//! and lanes run side by side. So order is kept where it matters, a bad request
//! holds up its own lane only, and a far endpoint does not cap throughput at one
//! request per round trip. A lane takes about what fits into its next request,
//! and nothing else waits here.

use std::sync::Arc;
use std::time::Instant;

use crate::notification::{Notification, Terms};

use super::gate::{Admission, Gate, Transition};
use super::lane::{Debt, Lane, Settled};
use super::pusher::{Packed, Packer, Verdict};

#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    gate: Gate,
    packer: Packer,
}

/// A request to send now.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) lane: usize,
    pub(super) packed: Packed,
    /// A doubtful answer is the last one that is borne.
    pub(super) is_last_try: bool,
    /// Whether a refusal may be the endpoint's, of whatever it is sent: then it
    /// is to be asked by a plain event.
    pub(super) doubts_endpoint: bool,
}

impl Lanes {
    pub(super) fn new(count: usize, packer: Packer) -> Lanes {
        let lanes = (0..count).map(|_| Lane::new()).collect();
        Lanes { lanes, gate: Gate::default(), packer }
    }

    pub(super) fn push(
        &mut self,
        lane: usize,
        notification: Notification,
        debt: Debt,
        now: Instant,
    ) {
        self.lanes[lane].push(notification, debt, now);
    }

    pub(super) fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Whether the lane takes more changes now. While nothing may be sent, one
    /// is enough to try by, and all else still folds.
    pub(super) fn has_room(&self, lane: usize, now: Instant) -> bool {
        let lane = &self.lanes[lane];
        let is_open = self.gate.admits(now) == Admission::All;
        lane.has_room(self.packer.capacity) && (is_open || lane.is_empty())
    }

    /// A lane that takes a part of a resync now.
    pub(super) fn for_resync(&self) -> Option<usize> {
        self.lanes.iter().position(Lane::takes_resync)
    }

    /// Whether some change by these terms is in a lane that it took until then.
    pub(super) fn hold(&self, terms: &Arc<Terms>, until: Instant) -> bool {
        self.lanes.iter().any(|lane| lane.holds(terms, until))
    }

    /// How many are not settled yet.
    pub(super) fn pending(&self) -> usize {
        self.lanes.iter().map(Lane::len).sum()
    }

    /// Memory of what is not settled yet.
    pub(super) fn pending_bytes(&self) -> usize {
        self.lanes.iter().map(Lane::pending_bytes).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(Lane::is_empty)
    }

    /// What the rules refused and is at the front of its lane.
    pub(super) fn settle(&mut self) -> Settled {
        let mut settled = Settled::default();
        for lane in &mut self.lanes {
            lane.settle(&mut settled);
        }
        settled
    }

    /// The next request that may go out now.
    pub(super) fn start(&mut self, now: Instant) -> Option<Start> {
        let lane = match self.gate.admits(now) {
            Admission::None => None,
            Admission::All => self.lanes.iter().position(|lane| {
                lane.may_send() && lane.held_until().is_none_or(|until| until <= now)
            }),
            Admission::One { from } => {
                let count = self.lanes.len();
                (from..from + count).map(|lane| lane % count).find(|&l| self.lanes[l].may_send())
            }
        }?;
        let (packed, is_last_try) = self.lanes[lane].start(&self.packer);
        self.gate.started(lane);
        let doubts_endpoint = packed.pairs == 1 && self.gate.is_in_doubt();
        Some(Start { lane, packed, is_last_try, doubts_endpoint })
    }

    /// When the next request may go out, if none that is on its way ends before.
    pub(super) fn next_start(&self, now: Instant) -> Option<Instant> {
        if self.gate.is_probing() {
            return None;
        }
        let waiting = self.lanes.iter().filter(|lane| lane.may_send());
        let own_wait = |lane: &Lane| match self.gate.is_shut() {
            true => now,
            false => lane.held_until().unwrap_or(now),
        };
        let earliest = waiting.map(own_wait).min()?;
        Some(self.gate.opens_at().map_or(earliest, |opens_at| earliest.max(opens_at)))
    }

    /// Takes in how a request ended.
    pub(super) fn finish(
        &mut self,
        lane: usize,
        verdict: Verdict,
        now: Instant,
    ) -> (Settled, Option<Transition>) {
        let mut settled = Settled::default();
        self.gate.ended(lane, now);
        let Some(packed) = self.lanes[lane].finish() else { return (settled, None) };
        let transition = self.decide(lane, packed, verdict, now, &mut settled);
        (settled, transition)
    }

    fn decide(
        &mut self,
        index: usize,
        packed: Packed,
        verdict: Verdict,
        now: Instant,
        settled: &mut Settled,
    ) -> Option<Transition> {
        let lane = &mut self.lanes[index];
        match verdict {
            Verdict::Accepted => {
                lane.accept(&packed, settled);
                for lane in &mut self.lanes {
                    lane.wake(now);
                }
                let is_calm = !self.lanes.iter().any(Lane::is_held);
                self.gate.accepted(now, is_calm)
            }
            Verdict::Retry { problem, after } => {
                lane.retry(packed, now);
                self.gate.failed(problem, after, now)
            }
            Verdict::Doubt { problem } => {
                lane.doubt(packed, now);
                self.gate.failed(problem, None, now)
            }
            Verdict::Reject { .. } if packed.pairs > 1 => {
                lane.suspect(&packed);
                None
            }
            Verdict::Reject { problem } => {
                // A notification counts once, however many channels it has.
                if !self.gate.is_shut() && lane.is_front_refused() || self.gate.may_reject() {
                    lane.reject(&problem, settled);
                    return None;
                }
                // It is tried again with a plain event behind it, which tells
                // whether the endpoint refuses everything.
                lane.hold(packed, now);
                None
            }
            Verdict::RejectAlone { problem } => {
                lane.reject(&problem, settled);
                let is_calm = !self.lanes.iter().any(Lane::is_held);
                self.gate.accepted(now, is_calm)
            }
            Verdict::Stop { problem } => {
                lane.hold(packed, now);
                self.gate.stop(problem, now)
            }
            Verdict::EventsOnly => {
                let is_new = self.packer.capacity.batch_events > 0;
                self.packer.capacity.batch_events = 0;
                is_new.then_some(Transition::EventsOnly)
            }
        }
    }

    /// Forgets what was not accepted. A lane whose request is still on its way
    /// stays busy until that has ended.
    pub(super) fn forget(&mut self) {
        for lane in &mut self.lanes {
            lane.forget();
        }
    }
}

#[cfg(test)]
mod tests;
