//! Order, loss and memory, whatever the endpoint does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowcast::change::Position;
use rowcast::deliver::pusher::Server;
use rowcast::deliver::{ByteSize, Progress};
use rowcast::notification::Payload;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::harness::endpoint::{Accepted, Endpoint, Fault};

use super::resyncs::{posts, truncate};
use super::{Session, Setup, handoff, holds, number, post};

#[tokio::test]
async fn reading_is_held_back_at_max_pending_and_delivery_goes_on() {
    let endpoint = Endpoint::start(Server::Any);
    let mut setup = Setup::new(&endpoint);
    let large = |n| {
        let mut made = post(n, n);
        made.payload =
            Payload::Own(json!({ "number": n, "padding": "x".repeat(6000) }).to_string().into());
        made
    };
    let fit = (1 << 20) / large(1).weight() + 1;
    setup.limits.max_pending = ByteSize::mebibytes(1).try_into().expect("the least");
    let mut session = setup.session();
    endpoint.choose(|_| Some(Fault::status(503)));
    let handed = Arc::new(AtomicUsize::new(0));
    let (handoffs, counted) = (session.handoffs.clone(), handed.clone());
    let sending = tokio::spawn(async move {
        for n in 1..=300 {
            handoffs.send(handoff(vec![large(n)])).await.expect("delivery runs");
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    endpoint.wait_for_requests(25).await;
    let handed = handed.load(Ordering::Relaxed);
    // Beside what may wait there is what a lane holds for its next request.
    assert!(handed <= fit + 4 + 8 * 2, "{handed} were taken");
    endpoint.heal();
    session.wait_confirmed(300).await;
    sending.await.expect("all are handed on");
    session.finish().await.expect("all is delivered");
    endpoint.assert_strict();
}

#[tokio::test]
async fn a_request_that_hangs_holds_up_its_own_lane_only() {
    let endpoint = Endpoint::start(Server::Any);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    endpoint.choose(|events| holds(events, 0).then_some(Fault::Hang));
    session.send(vec![post(0, 1)]).await;
    endpoint.wait_for_requests(1).await;
    session.send((2..=101).map(|n| post(n, n)).collect()).await;
    let others = |accepted: &[Accepted]| accepted.len() > 2 * 60;
    endpoint.wait_for("other lanes go on", others).await;
    assert_eq!(session.confirmed(), None);
    assert!(endpoint.most_at_once() <= 8);
    endpoint.heal();
    session.wait_confirmed(101).await;
    endpoint.assert_strict();
}

/// The others, and a resync's parts, wait neither for it nor for each other.
#[tokio::test]
async fn a_request_that_is_answered_late_delays_no_other_lane_and_no_resync() {
    let endpoint = Endpoint::start(Server::Any);
    let setup = Setup::new(&endpoint).timeout_ms(60_000);
    let mut session = setup.session();
    endpoint.choose(|events| holds(events, 0).then_some(Fault::Held));
    session.send(vec![post(0, 1)]).await;
    endpoint.wait_for_requests(1).await;
    for n in 2..=33 {
        session.send(vec![post(n, n)]).await;
    }
    session.handoffs.send(truncate(&posts(), 34)).await.expect("delivery runs");
    endpoint.wait_for_resyncs("the resync is told", |resyncs| !resyncs.is_empty()).await;
    // Those that share its lane come after it.
    endpoint.wait_for("other lanes go on", |accepted| accepted.len() > 2 * 20).await;
    assert_eq!(session.confirmed(), None);
    endpoint.heal();
    session.wait_confirmed(34).await;
    endpoint.assert_strict();
}

#[tokio::test]
async fn an_endpoint_that_was_away_gets_everything_in_order() {
    let mut endpoint = Endpoint::start(Server::Reverb);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    endpoint.refuse_connections().await;
    for n in 1..=100 {
        session.send(vec![post(n % 7, n)]).await;
    }
    endpoint.come_back();
    session.wait_confirmed(100).await;
    assert_in_order(&endpoint.accepted(), 100);
    endpoint.assert_strict();
}

/// Each number is there, and of each entity no number comes for the first time after a later one.
fn assert_in_order(accepted: &[Accepted], last: u64) {
    let mut latest: HashMap<(u64, String), u64> = HashMap::new();
    let mut seen = vec![0_usize; usize::try_from(last).expect("small") + 1];
    for accepted in accepted {
        let number = number(accepted);
        let count = &mut seen[usize::try_from(number).expect("small")];
        let id = accepted.event.data("id").as_u64().expect("an id");
        let latest = latest.entry((id, accepted.event.channel.clone())).or_default();
        assert!(*count > 1 || number >= *latest, "{number} of {id} came after {latest}");
        *count += 1;
        *latest = (*latest).max(number);
    }
    for number in 1..=last {
        let count = seen[usize::try_from(number).expect("small")];
        assert!(count >= 2, "{number} arrived on {count} of 2 channels");
    }
}

/// xorshift64: the same faults in the same order for the same seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

pub(super) fn passing_fault(dice: &mut Dice) -> Option<Fault> {
    Some(match dice.below(30) {
        0 => Fault::status(503),
        1 => Fault::Hang,
        2 => Fault::CloseBeforeAnswer,
        3 => Fault::CloseMidAnswer,
        4 => Fault::AcceptThenReset,
        5 => Fault::AcceptBut { code: 502, body: String::new() },
        6 => Fault::status(401),
        7 => Fault::body(200, ""),
        8 => Fault::Slow(Duration::from_millis(dice.below(20))),
        _ => return None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_neither_lose_nor_reorder_nor_confirm_too_early() {
    for seed in [1, 2] {
        let endpoint = Arc::new(Endpoint::start(Server::Any));
        let setup = Setup::new(&endpoint).timeout_ms(150);
        let mut session = setup.session();
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed);
        endpoint.choose(move |_| passing_fault(&mut dice));

        let early = Arc::new(Mutex::new(Vec::new()));
        let (mut progress, observed, found) =
            (session.progress.clone(), endpoint.clone(), early.clone());
        let observing = tokio::spawn(async move {
            while progress.changed().await.is_ok() {
                let position = progress.borrow_and_update().position.map_or(0, Position::value);
                let accepted = observed.accepted();
                let mut numbers: Vec<u64> = accepted.iter().map(number).collect();
                numbers.sort_unstable();
                numbers.dedup();
                let below = numbers.iter().filter(|number| **number <= position).count() as u64;
                if below != position {
                    found.lock().expect("no panic").push((position, below));
                }
            }
        });

        let mut dice = Dice(0x2545_f491_4f6c_dd1d ^ seed);
        let mut n = 0;
        while n < 300 {
            let count = dice.below(9).min(300 - n);
            session.send((n + 1..=n + count).map(|n| post(n % 23, n)).collect()).await;
            n += count;
        }
        session.wait_confirmed(300).await;
        session.finish().await.expect("all is delivered");
        observing.await.expect("no panic");
        assert_eq!(*early.lock().expect("no panic"), Vec::new(), "confirmed too early");
        assert_in_order(&endpoint.accepted(), 300);
        assert!(setup.rejected().is_empty());
        endpoint.assert_strict();
    }
}

#[tokio::test]
async fn a_new_session_forgets_the_unsent_and_waits_for_what_is_on_its_way() {
    let endpoint = Endpoint::start(Server::Any);
    let setup = Setup::new(&endpoint).timeout_ms(300).lanes(1);
    let mut deliver = setup.deliver();
    endpoint.fault(Fault::Hang);
    {
        let (handoffs, handoffs_rx) = mpsc::channel(4);
        let (progress_tx, _progress) = watch::channel(Progress::default());
        let abandoned = deliver.run(Vec::new(), handoffs_rx, progress_tx);
        handoffs.send(handoff(vec![post(1, 1), post(2, 2)])).await.expect("room");
        tokio::select! {
            _ = abandoned => panic!("it has not delivered anything"),
            () = endpoint.wait_for_requests(1) => {}
        }
    }
    let mut session = Session::start(deliver);
    session.send(vec![post(1, 1)]).await;
    session.wait_confirmed(1).await;
    session.finish().await.expect("all is delivered");
    let numbers: Vec<u64> = endpoint.accepted().iter().map(number).collect();
    assert_eq!(numbers, [1, 1]);
    // It would have found the same entity in two requests at once.
    endpoint.assert_strict();
}
