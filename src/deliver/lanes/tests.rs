use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::change::Position;
use crate::deliver::pusher::{Problem, Server};
use crate::deliver::tests::notification;
use crate::notification::{Payload, Refusal};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn timeout() -> Problem {
    Problem::Timeout(Duration::from_secs(5))
}

/// Number `number` of entity `id`.
fn numbered(id: u64, number: u64, channels: &[&str]) -> Notification {
    let mut made = notification("post", id, channels);
    made.position = Position::new(number);
    made.payload = Payload::Own(number.to_string().into());
    made
}

fn refused(id: u64, number: u64, channels: &[&str]) -> Notification {
    let mut made = numbered(id, number, channels);
    made.refusal = Some(Refusal::Oversize { bytes: 2, limit: 1 });
    made
}

/// The numbers and channels of a request.
fn pairs(packed: &Packed) -> Vec<(u64, String)> {
    let body: Value = serde_json::from_slice(&packed.body).expect("a body is JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let number = |data: &Value| text(data).parse().expect("a number");
    match (&body["batch"], &body["channels"]) {
        (Value::Array(events), _) => {
            events.iter().map(|e| (number(&e["data"]), text(&e["channel"]))).collect()
        }
        (_, Value::Array(channels)) => {
            channels.iter().map(|channel| (number(&body["data"]), text(channel))).collect()
        }
        _ => panic!("neither a batch nor an event: {body}"),
    }
}

fn lanes(count: usize) -> (Lanes, Instant) {
    (Lanes::new(count, Server::Any.capacity()), Instant::now())
}

#[test]
fn a_shut_gate_lets_one_request_through_at_a_time_and_opens_with_the_first_acceptance() {
    let (mut lanes, mut now) = lanes(8);
    for id in 0..100 {
        lanes.push(numbered(id, id + 1, &["a"]));
    }
    let started: Vec<Start> = std::iter::from_fn(|| lanes.start(now)).collect();
    assert_eq!(started.len(), 8);
    let stop = || Verdict::Stop { problem: timeout() };
    let told: Vec<bool> =
        started.iter().map(|start| lanes.finish(start.lane, stop(), now).1.is_some()).collect();
    assert_eq!(told.iter().filter(|told| **told).count(), 1, "the operator hears of it once");
    assert!(lanes.start(now).is_none());
    let mut probed = BTreeSet::new();
    for _ in 0..8 {
        now = lanes.next_start(now).expect("it tries again");
        let start = lanes.start(now).expect("the time has come");
        assert!(lanes.start(now).is_none());
        assert_eq!(lanes.next_start(now), None);
        probed.insert(start.lane);
        lanes.finish(start.lane, stop(), now);
    }
    assert_eq!(probed.len(), 8, "each lane gets its turn");
    now = lanes.next_start(now).expect("it tries again");
    let start = lanes.start(now).expect("the time has come");
    let (settled, transition) = lanes.finish(start.lane, Verdict::Accepted, now);
    assert!(matches!(transition, Some(Transition::Resumed { .. })));
    assert!(!settled.accepted.is_empty());
    while let Some(at) = lanes.next_start(now).filter(|_| lanes.start(now).is_none()) {
        assert!(at - now < Duration::from_secs(1), "lanes wait {:?} more", at - now);
        now = at;
    }
}

#[test]
fn probes_become_rare_but_never_rarer_than_45_seconds() {
    let (mut lanes, mut now) = lanes(1);
    lanes.push(numbered(1, 1, &["a"]));
    let mut waits = Vec::new();
    for _ in 0..20 {
        let start = lanes.start(now).expect("the time has come");
        lanes.finish(start.lane, Verdict::Stop { problem: timeout() }, now);
        let next = lanes.next_start(now).expect("it tries again");
        waits.push(next - now);
        now = next;
    }
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(45)), "{waits:?}");
    assert!(waits[19] >= Duration::from_secs(15), "{waits:?}");
}

#[test]
fn an_acceptance_brings_lanes_forward_that_wait_for_the_endpoint() {
    let (mut lanes, mut now) = lanes(8);
    for id in 0..1000 {
        lanes.push(numbered(id, id + 1, &["a"]));
    }
    for _ in 0..12 {
        let started: Vec<Start> = std::iter::from_fn(|| lanes.start(now)).collect();
        for start in started {
            let retry = Verdict::Retry { problem: timeout(), after: None };
            lanes.finish(start.lane, retry, now);
        }
        now = lanes.next_start(now).expect("it tries again");
    }
    let start = lanes.start(now).expect("the time has come");
    lanes.finish(start.lane, Verdict::Accepted, now);
    let next = now + Duration::from_millis(160);
    let started = std::iter::from_fn(|| lanes.start(next)).count();
    assert_eq!(started, 8, "they waited for up to 45 s");
}

#[test]
fn a_doubtful_batch_is_told_apart_and_its_culprit_tried_five_times_alone() {
    let (mut lanes, mut now) = lanes(1);
    for number in 1..=10 {
        lanes.push(numbered(number, number, &["a"]));
    }
    let (mut alone, mut rejected) = (0, Vec::new());
    while !lanes.is_empty() {
        now = lanes.next_start(now).expect("something is left").max(now);
        let start = lanes.start(now).expect("the time has come");
        let pairs = pairs(&start.packed);
        let is_bad = pairs.iter().any(|(number, _)| *number == 7);
        alone += usize::from(is_bad && pairs.len() == 1);
        let problem = timeout();
        let verdict = match (is_bad, start.is_last_try) {
            (false, _) => Verdict::Accepted,
            (true, false) => Verdict::Doubt { problem },
            (true, true) => Verdict::Reject { problem },
        };
        rejected.extend(lanes.finish(start.lane, verdict, now).0.rejected);
    }
    assert_eq!(alone, 5);
    let positions: Vec<_> = rejected.iter().map(|r| r.notification.position.value()).collect();
    assert_eq!(positions, [7]);
}

/// What a rule with two events makes of a row that gives one of its two
/// channels no name.
#[test]
fn a_refused_notification_without_channels_is_written_down_behind_an_accepted_one() {
    let (mut lanes, now) = lanes(1);
    lanes.push(refused(1, 1, &[]));
    lanes.push(numbered(1, 2, &["a"]));
    lanes.push(refused(1, 3, &[]));
    lanes.push(numbered(1, 4, &["a"]));
    let mut rejected = Vec::new();
    while !lanes.is_empty() {
        rejected.extend(lanes.settle().rejected);
        if let Some(start) = lanes.start(now) {
            let settled = lanes.finish(start.lane, Verdict::Accepted, now).0;
            rejected.extend(settled.rejected);
        }
    }
    let positions: Vec<_> = rejected.iter().map(|r| r.notification.position.value()).collect();
    assert_eq!(positions, [1, 3]);
}

#[derive(Clone, Debug)]
enum Step {
    Push {
        id: u64,
        channels: usize,
        is_poison: bool,
    },
    /// One that the rules refuse, perhaps because no channel could be named.
    PushRefused {
        id: u64,
        channels: usize,
    },
    /// One of the requests on their way ends.
    End(prop::sample::Index, Outcome),
    Wait,
    NewSession,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// As the server would.
    Fair,
    Lost,
    /// It arrived, but the answer did not.
    Unanswered,
    Later,
    Stop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (0..6_u64, 1..5_usize, 0..12_u8).prop_map(|(id, channels, poison)| Step::Push {
        id,
        channels,
        is_poison: poison == 0,
    });
    let push_refused =
        (0..6_u64, 0..5_usize).prop_map(|(id, channels)| Step::PushRefused { id, channels });
    let outcome = prop_oneof![
        12 => Just(Outcome::Fair),
        1 => Just(Outcome::Lost),
        1 => Just(Outcome::Unanswered),
        1 => Just(Outcome::Later),
        1 => Just(Outcome::Stop),
    ];
    let end = (any::<prop::sample::Index>(), outcome).prop_map(|(at, how)| Step::End(at, how));
    let step = prop_oneof![
        60 => push,
        10 => push_refused,
        60 => end,
        20 => Just(Step::Wait),
        1 => Just(Step::NewSession),
    ];
    prop::collection::vec(step, 0..300)
}

/// The endpoint, and what it has heard of one session.
#[derive(Default)]
struct World {
    ids: BTreeMap<u64, u64>,
    /// What it refuses, until it has become tolerant.
    poison: BTreeSet<u64>,
    is_tolerant: bool,
    refused: BTreeSet<u64>,
    channels: BTreeMap<u64, usize>,
    heard: Vec<(u64, String)>,
    left: BTreeMap<u64, usize>,
    rejected: BTreeSet<u64>,
}

impl World {
    fn verdict(&mut self, packed: &Packed, outcome: Outcome) -> Verdict {
        let problem = timeout();
        let pairs = pairs(packed);
        let is_bad = !self.is_tolerant && pairs.iter().any(|(n, _)| self.poison.contains(n));
        match outcome {
            Outcome::Fair if is_bad => return Verdict::Reject { problem },
            Outcome::Unanswered if is_bad => {}
            Outcome::Fair | Outcome::Unanswered => self.heard.extend(pairs),
            Outcome::Lost | Outcome::Later | Outcome::Stop => {}
        }
        match outcome {
            Outcome::Fair => Verdict::Accepted,
            Outcome::Lost | Outcome::Unanswered => Verdict::Retry { problem, after: None },
            Outcome::Later => Verdict::Retry { problem, after: Some(Duration::from_secs(3)) },
            Outcome::Stop => Verdict::Stop { problem },
        }
    }

    fn leave(&mut self, settled: Settled) {
        for position in settled.accepted {
            *self.left.entry(position.value()).or_default() += 1;
        }
        for rejected in settled.rejected {
            let number = rejected.notification.position.value();
            let is_expected = self.poison.contains(&number) || self.refused.contains(&number);
            assert!(is_expected, "{number} was given up");
            self.rejected.insert(number);
            *self.left.entry(number).or_default() += 1;
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let mut heard: BTreeSet<&(u64, String)> = BTreeSet::new();
        let mut latest: BTreeMap<u64, u64> = BTreeMap::new();
        for pair in &self.heard {
            let (number, _) = pair;
            let latest = latest.entry(self.ids[number]).or_default();
            let is_repeated = !heard.insert(pair);
            prop_assert!(is_repeated || number >= latest, "{number} after {latest}");
            *latest = (*latest).max(*number);
        }
        for (number, channels) in &self.channels {
            let heard = heard.iter().filter(|(heard, _)| heard == number).count();
            let is_written_down = self.rejected.contains(number);
            if self.refused.contains(number) {
                prop_assert!(is_written_down && heard == 0, "{number} was dropped or sent");
            }
            let is_settled = heard == *channels || is_written_down;
            prop_assert!(is_settled, "{number} was heard on {heard} of {channels}");
            prop_assert_eq!(self.left.get(number), Some(&1), "{} has not left once", number);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_or_reordered_and_a_lane_has_one_request(
        steps in steps(),
        count in 1..9_usize,
    ) {
        let (mut lanes, mut now) = lanes(count);
        let mut world = World::default();
        let mut in_flight: BTreeMap<usize, Option<Packed>> = BTreeMap::new();
        let mut number = 0;
        for step in steps {
            match step {
                Step::Push { id, channels, is_poison } => {
                    number += 1;
                    world.ids.insert(number, id);
                    world.channels.insert(number, channels);
                    if is_poison {
                        world.poison.insert(number);
                    }
                    lanes.push(numbered(id, number, &NAMES[..channels]));
                }
                Step::PushRefused { id, channels } => {
                    number += 1;
                    world.channels.insert(number, channels);
                    world.refused.insert(number);
                    lanes.push(refused(id, number, &NAMES[..channels]));
                }
                Step::End(_, _) if in_flight.is_empty() => {}
                Step::End(index, outcome) => {
                    let lane = *in_flight.keys().nth(index.index(in_flight.len())).expect("one");
                    let verdict = match in_flight.remove(&lane).expect("it is there") {
                        Some(packed) => world.verdict(&packed, outcome),
                        None => Verdict::Accepted,
                    };
                    world.leave(lanes.finish(lane, verdict, now).0);
                }
                Step::Wait => now = lanes.next_start(now).unwrap_or(now).max(now),
                Step::NewSession => {
                    lanes.forget();
                    world = World::default();
                    in_flight.values_mut().for_each(|packed| *packed = None);
                    prop_assert_eq!(lanes.pending_bytes(), 0);
                }
            }
            world.leave(lanes.settle());
            while let Some(start) = lanes.start(now) {
                let before = in_flight.insert(start.lane, Some(start.packed));
                prop_assert!(before.is_none(), "lane {} has two requests", start.lane);
            }
        }
        world.is_tolerant = true;
        while !lanes.is_empty() {
            if let Some((lane, packed)) = in_flight.pop_first() {
                if let Some(packed) = packed {
                    let verdict = world.verdict(&packed, Outcome::Fair);
                    world.leave(lanes.finish(lane, verdict, now).0);
                } else {
                    lanes.finish(lane, Verdict::Accepted, now);
                }
            } else {
                now = lanes.next_start(now).expect("something is left to send").max(now);
            }
            world.leave(lanes.settle());
            while let Some(start) = lanes.start(now) {
                in_flight.insert(start.lane, Some(start.packed));
            }
        }
        prop_assert_eq!(lanes.pending_bytes(), 0);
        world.check()?;
    }
}
