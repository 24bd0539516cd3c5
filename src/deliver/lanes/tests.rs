use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::change::Position;
use crate::deliver::lane::Accepted;
use crate::deliver::pusher::{Packer, Problem, Server};
use crate::deliver::rejected::Rejected;
use crate::deliver::resyncs::Ticket;
use crate::deliver::tests::notification;
use crate::notification::{Action, Payload, Piece, Refusal, Terms};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn timeout() -> Problem {
    Problem::Timeout(Duration::from_secs(5))
}

/// Number `number` of entity `id`. A resync that follows it says so, as `r7`.
fn numbered(id: u64, number: u64, channels: &[&str]) -> Notification {
    let mut made = notification("post", id, channels);
    let mut terms = Terms::plain("posts", "post");
    terms.resync_data = Some([Piece::Text(format!("r{number}").into())].into());
    made.terms = terms.into();
    made.position = Position::new(number);
    made.payload = Payload::Own(number.to_string().into());
    made
}

fn refused(id: u64, number: u64, channels: &[&str]) -> Notification {
    let mut made = numbered(id, number, channels);
    made.refusal = Some(Refusal::Oversize { bytes: 2, limit: 1 });
    made
}

/// What is said on one channel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    number: u64,
    is_resync: bool,
    channel: String,
}

impl Pair {
    fn of(data: &Value, channel: &Value) -> Pair {
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let data = text(data);
        let number = data.trim_start_matches('r').parse().expect("a number");
        Pair { number, is_resync: data.starts_with('r'), channel: text(channel) }
    }
}

/// Those of a request.
fn pairs(packed: &Packed) -> Vec<Pair> {
    let body: Value = serde_json::from_slice(&packed.body).expect("a body is JSON");
    match (&body["batch"], &body["channels"]) {
        (Value::Array(events), _) => {
            events.iter().map(|event| Pair::of(&event["data"], &event["channel"])).collect()
        }
        (_, Value::Array(channels)) => {
            channels.iter().map(|channel| Pair::of(&body["data"], channel)).collect()
        }
        _ => panic!("neither a batch nor an event: {body}"),
    }
}

fn lanes(count: usize) -> (Lanes, Instant) {
    (Lanes::new(count, Packer { capacity: Server::Any.capacity(), key: None }), Instant::now())
}

impl Lanes {
    /// By its id, which is a number here.
    fn put(&mut self, notification: Notification) {
        let id: usize = notification.id.parse().expect("a number");
        let debt = Debt::Position(notification.position);
        self.push(id % self.count(), notification, debt, Instant::now());
    }
}

#[test]
fn a_shut_gate_lets_one_request_through_at_a_time_and_opens_with_the_first_acceptance() {
    let (mut lanes, mut now) = lanes(8);
    for id in 0..100 {
        lanes.put(numbered(id, id + 1, &["a"]));
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
    lanes.put(numbered(1, 1, &["a"]));
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
        lanes.put(numbered(id, id + 1, &["a"]));
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
        lanes.put(numbered(number, number, &["a"]));
    }
    let (mut alone, mut rejected) = (0, Vec::new());
    while !lanes.is_empty() {
        now = lanes.next_start(now).expect("something is left").max(now);
        let start = lanes.start(now).expect("the time has come");
        let pairs = pairs(&start.packed);
        let is_bad = pairs.iter().any(|pair| pair.number == 7 && !pair.is_resync);
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
    lanes.put(refused(1, 1, &[]));
    lanes.put(numbered(1, 2, &["a"]));
    lanes.put(refused(1, 3, &[]));
    lanes.put(numbered(1, 4, &["a"]));
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

#[test]
fn what_is_of_two_rules_is_held_for_both_and_refused_for_both() {
    let (mut lanes, now) = lanes(1);
    let earlier = numbered(0, 4, &["a", "b"]);
    let mut folded = numbered(0, 5, &["b", "c"]);
    let both = [earlier.terms.clone(), folded.terms.clone()];
    folded.absorb(earlier, Action::Updated);
    folded.refusal = Some(Refusal::Oversize { bytes: 2, limit: 1 });
    lanes.put(folded);
    assert!(both.iter().all(|terms| lanes.hold(terms, Instant::now())));
    let settled = lanes.settle();
    assert_eq!(settled.followed, [Position::new(4); 2]);
    assert_eq!(settled.rejected.len(), 1);
    let start = lanes.start(now).expect("the resyncs follow");
    let told: Vec<_> = pairs(&start.packed).into_iter().map(|it| (it.number, it.channel)).collect();
    let expected = [(4, "a"), (4, "b"), (5, "b"), (5, "c")];
    assert_eq!(told, expected.map(|(number, channel)| (number, channel.to_owned())));
}

#[test]
fn resyncs_and_changes_take_turns_in_a_lane_and_neither_piles_up() {
    let (mut lanes, now) = lanes(1);
    assert_eq!(lanes.for_resync(), Some(0));
    lanes.push(0, numbered(0, 1, &NAMES), Debt::Resync(Ticket::of(1)), now);
    assert_eq!(lanes.for_resync(), None);
    // A part of a resync leaves room for changes: ten pairs here.
    for number in 2..=4 {
        assert!(lanes.has_room(0, now));
        lanes.put(numbered(0, number, &NAMES));
    }
    assert!(!lanes.has_room(0, now));
    let start = lanes.start(now).expect("it is free");
    assert!(!lanes.has_room(0, now) && lanes.for_resync().is_none(), "what waits still folds");
    let (settled, _) = lanes.finish(0, Verdict::Accepted, now);
    assert_eq!(start.packed.pairs, 8);
    let debts: Vec<Debt> = settled.accepted.iter().map(|accepted| accepted.debt).collect();
    assert_eq!(debts, [Debt::Resync(Ticket::of(1)), Debt::Position(Position::new(2))]);
    assert!(lanes.has_room(0, now) && lanes.for_resync().is_some());
    lanes.start(now).expect("something is left");
    lanes.finish(0, Verdict::Retry { problem: timeout(), after: None }, now);
    assert!(!lanes.has_room(0, now), "the request that is repeated takes nothing more");

    let (mut lanes, now) = self::lanes(2);
    lanes.put(numbered(0, 1, &NAMES));
    let start = lanes.start(now).expect("it is free");
    lanes.finish(start.lane, Verdict::Stop { problem: timeout() }, now);
    assert!(lanes.has_room(1, now), "the gate is tried by each lane");
    lanes.put(numbered(1, 2, &["a"]));
    assert!(!lanes.has_room(1, now), "what waits for the gate still folds");
}

#[test]
fn a_rule_whose_notifications_are_all_refused_stops_nothing_while_its_resyncs_are_taken() {
    let (mut lanes, now) = lanes(1);
    for number in 1..=30 {
        lanes.put(numbered(number, number, &["a"]));
    }
    let (mut rejected, mut told) = (0, 0);
    while !lanes.is_empty() {
        let start = lanes.start(now).expect("nothing is held");
        let pairs = pairs(&start.packed);
        let is_bad = pairs.iter().any(|pair| !pair.is_resync);
        told += if is_bad { 0 } else { pairs.len() };
        let verdict =
            if is_bad { Verdict::Reject { problem: timeout() } } else { Verdict::Accepted };
        let (settled, transition) = lanes.finish(0, verdict, now);
        assert!(transition.is_none(), "{transition:?}");
        rejected += settled.rejected.len();
    }
    assert_eq!((rejected, told), (30, 30));
}

#[derive(Clone, Debug)]
enum Step {
    Push {
        id: u64,
        channels: usize,
        poison: Poison,
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

/// Where the endpoint refuses a notification.
#[derive(Clone, Copy, Debug)]
enum Poison {
    Nowhere,
    OnOneChannel,
    Everywhere,
    /// And the resync that follows it.
    WithItsResync,
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
    let poison = prop_oneof![
        20 => Just(Poison::Nowhere),
        1 => Just(Poison::OnOneChannel),
        1 => Just(Poison::Everywhere),
        1 => Just(Poison::WithItsResync),
    ];
    let push = (0..6_u64, 1..5_usize, poison).prop_map(|(id, channels, poison)| Step::Push {
        id,
        channels,
        poison,
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
    /// What it refuses.
    poison: BTreeSet<Pair>,
    /// By the rules.
    refused: BTreeSet<u64>,
    channels: BTreeMap<u64, usize>,
    heard: Vec<Pair>,
    /// What was written down.
    rejected: BTreeSet<Pair>,
    /// How many notifications are pending at each position.
    pending: BTreeMap<u64, usize>,
}

impl World {
    fn push(&mut self, number: u64, channels: usize) {
        self.channels.insert(number, channels);
        self.pending.insert(number, 1);
    }

    fn poison(&mut self, number: u64, channels: usize, poison: Poison) {
        let (channels, resync) = match poison {
            Poison::Nowhere => return,
            Poison::OnOneChannel => (&NAMES[channels - 1..channels], &[false][..]),
            Poison::Everywhere => (&NAMES[..channels], &[false][..]),
            Poison::WithItsResync => (&NAMES[..channels], &[false, true][..]),
        };
        for channel in channels {
            let pair = |&is_resync| Pair { number, is_resync, channel: (*channel).to_owned() };
            self.poison.extend(resync.iter().map(pair));
        }
    }

    fn verdict(&mut self, start: &Start, outcome: Outcome) -> Verdict {
        let problem = timeout();
        let pairs = pairs(&start.packed);
        let is_bad = pairs.iter().any(|pair| self.poison.contains(pair));
        match outcome {
            Outcome::Fair if is_bad && start.doubts_endpoint => {
                return Verdict::RejectAlone { problem };
            }
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
        for position in settled.followed {
            let pending = self.pending.get_mut(&position.value()).expect("it is pending");
            assert!(*pending > 0, "{position:?} was confirmed before its resync");
            *pending += 1;
        }
        for Accepted { debt, .. } in settled.accepted {
            self.pay(debt);
        }
        for Rejected { notification, channels, debt, .. } in settled.rejected {
            let number = notification.position.value();
            for channel in channels {
                let is_resync = notification.resync.is_some();
                let pair = Pair { number, is_resync, channel: channel.to_string() };
                let is_expected = self.poison.contains(&pair) || self.refused.contains(&number);
                assert!(is_expected, "{pair:?} was given up");
                self.rejected.insert(pair);
            }
            self.pay(debt);
        }
    }

    fn pay(&mut self, debt: Debt) {
        let Debt::Position(position) = debt else { panic!("no resync was begun: {debt:?}") };
        let pending = self.pending.get_mut(&position.value()).expect("it is pending");
        *pending -= 1;
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let mut heard: BTreeSet<&Pair> = BTreeSet::new();
        let mut latest: BTreeMap<u64, u64> = BTreeMap::new();
        for pair in &self.heard {
            let is_repeated = !heard.insert(pair);
            if pair.is_resync {
                continue;
            }
            let latest = latest.entry(self.ids[&pair.number]).or_default();
            let number = pair.number;
            prop_assert!(is_repeated || number >= *latest, "{} after {}", number, latest);
            *latest = (*latest).max(number);
        }
        for (&number, &channels) in &self.channels {
            for channel in &NAMES[..channels] {
                let pair = |is_resync| Pair { number, is_resync, channel: (*channel).to_owned() };
                let (own, resync) = (pair(false), pair(true));
                let is_refused = self.rejected.contains(&own);
                prop_assert!(heard.contains(&own) != is_refused, "{:?}", own);
                let is_followed = heard.contains(&resync) || self.rejected.contains(&resync);
                prop_assert_eq!(is_followed, is_refused, "{:?}", resync);
            }
        }
        prop_assert!(self.pending.values().all(|count| *count == 0), "{:?}", self.pending);
        Ok(())
    }
}

proptest! {
    #[test]
    fn all_is_heard_in_order_or_followed_by_a_resync_where_it_was_refused(
        steps in steps(),
        count in 1..9_usize,
    ) {
        let (mut lanes, mut now) = lanes(count);
        let mut world = World::default();
        let mut in_flight: BTreeMap<usize, Option<Start>> = BTreeMap::new();
        let mut number = 0;
        for step in steps {
            match step {
                Step::Push { id, channels, poison } => {
                    number += 1;
                    world.ids.insert(number, id);
                    world.push(number, channels);
                    world.poison(number, channels, poison);
                    lanes.put(numbered(id, number, &NAMES[..channels]));
                }
                Step::PushRefused { id, channels } => {
                    number += 1;
                    world.push(number, channels);
                    world.refused.insert(number);
                    lanes.put(refused(id, number, &NAMES[..channels]));
                }
                Step::End(_, _) if in_flight.is_empty() => {}
                Step::End(index, outcome) => {
                    let lane = *in_flight.keys().nth(index.index(in_flight.len())).expect("one");
                    let verdict = match in_flight.remove(&lane).expect("it is there") {
                        Some(start) => world.verdict(&start, outcome),
                        None => Verdict::Accepted,
                    };
                    world.leave(lanes.finish(lane, verdict, now).0);
                }
                Step::Wait => now = lanes.next_start(now).unwrap_or(now).max(now),
                Step::NewSession => {
                    lanes.forget();
                    world = World::default();
                    in_flight.values_mut().for_each(|start| *start = None);
                    prop_assert_eq!(lanes.pending_bytes(), 0);
                }
            }
            world.leave(lanes.settle());
            while let Some(start) = lanes.start(now) {
                let lane = start.lane;
                let before = in_flight.insert(lane, Some(start));
                prop_assert!(before.is_none(), "lane {lane} has two requests");
            }
        }
        while !lanes.is_empty() {
            if let Some((lane, start)) = in_flight.pop_first() {
                if let Some(start) = start {
                    let verdict = world.verdict(&start, Outcome::Fair);
                    world.leave(lanes.finish(lane, verdict, now).0);
                } else {
                    lanes.finish(lane, Verdict::Accepted, now);
                }
            } else {
                now = lanes.next_start(now).expect("something is left to send").max(now);
            }
            world.leave(lanes.settle());
            while let Some(start) = lanes.start(now) {
                in_flight.insert(start.lane, Some(start));
            }
        }
        prop_assert_eq!(lanes.pending_bytes(), 0);
        world.check()?;
    }
}
