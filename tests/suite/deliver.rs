//! Delivering against the strict endpoint, in this process and without Postgres: order, loss, and every answer.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rowcast::change::{Position, Timestamp};
use rowcast::deliver::pusher::{self, Client, Problem, Server};
use rowcast::deliver::{ByteSize, Deliver, Error, Limits, RejectedFile, Sink};
use rowcast::notification::{Action, Handoff, Notification, Refusal};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::harness::endpoint::{Accepted, Endpoint, Event, Fault, Publish};
use crate::harness::wait::SOON;

/// The update number `position` of entity `id`, on these channels.
fn update(id: u64, position: u64, channels: &[String]) -> Notification {
    Notification {
        rule: "posts".into(),
        entity: "post".into(),
        action: Action::Updated,
        id: id.to_string().into(),
        event: "PostUpdated".parse().expect("an event"),
        channels: channels.iter().map(|name| name.parse().expect("a channel")).collect(),
        data: json!({ "entity": "post", "id": id, "number": position }).to_string().into(),
        partial: false,
        position: Position::new(position),
        at: Timestamp::now(),
        refusal: None,
    }
}

fn post(id: u64, position: u64) -> Notification {
    update(id, position, &[format!("private-posts.{id}"), "private-posts".to_owned()])
}

fn handoff(notifications: Vec<Notification>) -> Handoff {
    let reached = notifications.last().map(|last| last.position);
    Handoff { notifications, reached }
}

fn number(accepted: &Accepted) -> u64 {
    accepted.event.data("number").as_u64().expect("every notification here has its number")
}

/// A running session.
struct Session {
    handoffs: mpsc::Sender<Handoff>,
    confirmed: watch::Receiver<Option<Position>>,
    running: JoinHandle<(Deliver, Result<(), Error>)>,
}

impl Session {
    fn start(mut deliver: Deliver) -> Session {
        let (handoffs, handoffs_rx) = mpsc::channel(4);
        let (confirmed_tx, confirmed) = watch::channel(None);
        let running = tokio::spawn(async move {
            let ended = deliver.run(handoffs_rx, confirmed_tx).await;
            (deliver, ended)
        });
        Session { handoffs, confirmed, running }
    }

    async fn send(&self, notifications: Vec<Notification>) {
        self.handoffs.send(handoff(notifications)).await.expect("delivery runs");
    }

    async fn wait_confirmed(&mut self, position: u64) {
        let waiting = self.confirmed.wait_for(|at| *at >= Some(Position::new(position)));
        let waited = tokio::time::timeout(SOON, waiting).await;
        waited.expect("confirmed in time").expect("delivery runs");
    }

    fn confirmed(&self) -> Option<u64> {
        self.confirmed.borrow().map(Position::value)
    }

    /// Closes the queue and waits until all is delivered.
    async fn finish(self) -> Result<(), Error> {
        drop(self.handoffs);
        let ended = tokio::time::timeout(SOON, self.running).await;
        ended.expect("it ends in time").expect("no panic").1
    }
}

/// What is delivered to an endpoint, with its own rejected file.
struct Setup {
    folder: TempDir,
    limits: Limits,
    config: pusher::Config,
}

impl Setup {
    fn new(endpoint: &Endpoint) -> Setup {
        let folder = tempfile::tempdir().expect("a folder");
        Setup { folder, limits: Limits::default(), config: endpoint.config() }
    }

    fn timeout_ms(mut self, ms: u64) -> Setup {
        self.config.timeout = Duration::from_millis(ms).try_into().expect("a valid timeout");
        self
    }

    fn lanes(mut self, count: usize) -> Setup {
        self.limits.max_in_flight = count.try_into().expect("a valid number");
        self
    }

    fn deliver(&self) -> Deliver {
        let client = Client::new(&self.config).expect("a valid configuration");
        let path = self.folder.path().join("rejected.jsonl");
        let rejected = RejectedFile::open(path, RejectedFile::MAX).expect("a writable folder");
        Deliver::new(Sink::Pusher(client, rejected), &self.limits)
    }

    fn session(&self) -> Session {
        Session::start(self.deliver())
    }

    fn rejected(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("rejected.jsonl"));
        let text = text.expect("the file is made at the start");
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }
}

#[tokio::test]
async fn a_quiet_notification_is_one_request_and_confirmed_after_its_answer() {
    let endpoint = Endpoint::start(Server::Any).await;
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    session.send(vec![post(42, 7)]).await;
    session.wait_confirmed(7).await;
    let accepted = endpoint.accepted();
    let channels: Vec<&str> = accepted.iter().map(|a| a.event.channel.as_str()).collect();
    assert_eq!(channels, ["private-posts.42", "private-posts"]);
    assert_eq!(endpoint.requests(), 1);
    // An idle position needs no request.
    let idle = Handoff { notifications: Vec::new(), reached: Some(Position::new(9)) };
    session.handoffs.send(idle).await.expect("delivery runs");
    session.wait_confirmed(9).await;
    session.finish().await.expect("all is delivered");
    assert_eq!(endpoint.requests(), 1);
    endpoint.assert_strict();
}

#[tokio::test]
async fn what_may_pass_is_sent_again_until_it_is_accepted() {
    for fault in [
        Fault::status(408),
        Fault::status(425),
        Fault::status(429),
        Fault::status(500),
        Fault::status(502),
        Fault::status(503),
        Fault::status(504),
        Fault::body(200, r#"{"error":"Internal server error","code":500}"#),
        Fault::body(200, r#"{"error":"rate limited","code":429}"#),
        Fault::Hang,
        Fault::CloseBeforeAnswer,
        Fault::CloseMidAnswer,
        Fault::AcceptThenReset,
        Fault::AcceptBut { code: 502, body: "<html>bad gateway</html>".to_owned() },
    ] {
        let endpoint = Endpoint::start(Server::Any).await;
        let setup = Setup::new(&endpoint).timeout_ms(200);
        let mut session = setup.session();
        endpoint.fault(fault.clone());
        session.send(vec![post(1, 1)]).await;
        session.wait_confirmed(1).await;
        assert_eq!(endpoint.requests(), 2, "{fault:?}");
        session.finish().await.expect("all is delivered");
        assert!(setup.rejected().is_empty(), "{fault:?}");
        endpoint.assert_strict();
    }
}

#[tokio::test]
async fn what_somebody_must_change_stops_everything_and_loses_nothing() {
    let elsewhere = Endpoint::start(Server::Any).await;
    for fault in [
        Fault::redirect(301, &format!("{}/apps/1001/events", elsewhere.url())),
        Fault::redirect(302, &format!("{}/apps/1001/events", elsewhere.url())),
        Fault::redirect(307, &format!("{}/apps/1001/events", elsewhere.url())),
        Fault::redirect(308, &format!("{}/apps/1001/events", elsewhere.url())),
        Fault::status(401),
        Fault::status(403),
        Fault::status(404),
        Fault::status(405),
        Fault::body(200, "<!doctype html><title>Log in</title>"),
        Fault::body(200, ""),
        Fault::body(204, ""),
        Fault::body(200, "OK"),
        Fault::body(200, r#"{"error":"The app does not exist","code":404}"#),
        Fault::body(200, r#"{"error":"The signature is invalid","code":401}"#),
    ] {
        let endpoint = Endpoint::start(Server::Any).await;
        let setup = Setup::new(&endpoint);
        let mut session = setup.session();
        let met = fault.clone();
        endpoint.choose(move |_| Some(met.clone()));
        endpoint.probe_fault(fault.clone());
        session.send((1..=40).map(|n| post(n, n)).collect()).await;
        endpoint.wait_for_requests(10).await;
        assert_eq!(session.confirmed(), None, "{fault:?}");
        endpoint.heal();
        session.wait_confirmed(40).await;
        session.finish().await.expect("all is delivered");
        assert_eq!(endpoint.accepted_count(), 80, "{fault:?}");
        assert!(setup.rejected().is_empty(), "{fault:?}");
    }
    assert_eq!(elsewhere.requests(), 0, "a redirect was followed");
}

fn holds(publish: &Publish<'_>, id: u64) -> bool {
    publish.events.iter().any(|event| event.data("id") == id)
}

#[tokio::test]
async fn a_refused_batch_is_bisected_until_the_culprit_is_alone() {
    for (server, fault) in [
        (Server::Reverb, Fault::body(400, r#"{"error":"bad id"}"#)),
        (Server::Any, Fault::body(413, "too large")),
        (Server::Any, Fault::status(415)),
        (Server::Any, Fault::status(422)),
        (Server::Soketi, Fault::body(200, r#"{"error":"bad id","code":400}"#)),
    ] {
        let endpoint = Endpoint::start(server).await;
        let setup = Setup::new(&endpoint).lanes(1);
        let mut session = setup.session();
        let met = fault.clone();
        endpoint.choose(move |publish| holds(publish, 13).then(|| met.clone()));
        session.send((1..=40).map(|n| post(n, n)).collect()).await;
        session.wait_confirmed(40).await;
        session.finish().await.expect("all is delivered or refused");
        let mut accepted: Vec<u64> = endpoint.accepted().iter().map(number).collect();
        accepted.dedup();
        let others: Vec<u64> = (1..=40).filter(|n| *n != 13).collect();
        assert_eq!(accepted, others, "{fault:?}");
        let rejected = setup.rejected();
        assert_eq!(rejected.len(), 1, "{fault:?}: {rejected:?}");
        assert_eq!(rejected[0]["id"], 13);
        assert_eq!(rejected[0]["position"], 13);
        assert_eq!(rejected[0]["channels"], json!(["private-posts.13", "private-posts"]));
        let reason = rejected[0]["reason"].as_str().expect("a reason");
        assert!(reason.starts_with("the endpoint answered 4"), "{reason}");
        endpoint.assert_strict();
    }
}

#[tokio::test]
async fn a_channel_that_is_refused_does_not_take_the_others_with_it() {
    let endpoint = Endpoint::start(Server::Any).await;
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let is_bad = |event: &Event| event.channel == "private-bad";
    endpoint.choose(move |p| p.events.iter().any(is_bad).then(|| Fault::status(400)));
    let channels = ["private-a", "private-bad", "private-b"].map(str::to_owned);
    session.send(vec![update(1, 1, &channels), post(1, 2)]).await;
    session.wait_confirmed(2).await;
    let accepted = endpoint.accepted();
    let channels: Vec<&str> = accepted.iter().map(|a| a.event.channel.as_str()).collect();
    assert_eq!(channels, ["private-a", "private-b", "private-posts.1", "private-posts"]);
    let rejected = setup.rejected();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0]["channels"], json!(["private-bad"]));
}

#[tokio::test]
async fn a_body_that_reverb_answers_500_to_is_given_up_after_five_tries() {
    let endpoint = Endpoint::start(Server::Reverb).await;
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    endpoint.choose(move |publish| {
        holds(publish, 1).then(|| {
            counted.fetch_add(1, Ordering::Relaxed);
            Fault::status(500)
        })
    });
    session.send(vec![update(1, 1, &["a".to_owned()]), post(2, 2)]).await;
    session.wait_confirmed(2).await;
    assert_eq!(tries.load(Ordering::Relaxed), 5);
    assert_eq!(setup.rejected().len(), 1);
}

#[tokio::test]
async fn a_500_is_never_the_requests_fault_while_the_endpoint_is_unwell() {
    let endpoint = Endpoint::start(Server::Reverb).await;
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    endpoint.choose(|_| Some(Fault::status(500)));
    endpoint.probe_fault(Fault::status(500));
    session.send(vec![update(1, 1, &["a".to_owned()])]).await;
    // Five tries and the probe after the fifth.
    endpoint.wait_for_requests(6).await;
    endpoint.heal();
    session.wait_confirmed(1).await;
    assert_eq!(endpoint.accepted_count(), 1);
    assert!(setup.rejected().is_empty());
}

#[tokio::test]
async fn ten_refusals_in_a_row_are_the_endpoints_fault() {
    let endpoint = Endpoint::start(Server::Any).await;
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    endpoint.choose(|_| Some(Fault::body(413, "<html>nginx</html>")));
    session.send((1..=60).map(|n| post(n, n)).collect()).await;
    let is_stopped = async || (setup.rejected().len() == 9).then_some(());
    crate::harness::wait::eventually(SOON, "nine are given up", is_stopped).await;
    // Its probes find that nothing has changed, and give up nothing more.
    endpoint.wait_for_requests(endpoint.requests() + 5).await;
    assert_eq!(setup.rejected().len(), 9);
    endpoint.heal();
    session.wait_confirmed(60).await;
    session.finish().await.expect("all is delivered or refused");
    let mut seen: Vec<u64> = endpoint.accepted().iter().map(number).collect();
    seen.extend(setup.rejected().iter().map(|line| line["position"].as_u64().expect("a number")));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (1..=60).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_without_batch_events_gets_single_events() {
    let endpoint = Endpoint::start(Server::LaravelWebsockets).await;
    let mut setup = Setup::new(&endpoint).lanes(2);
    setup.config.server = Server::Any;
    let mut session = setup.session();
    session.send((1..=30).map(|n| post(n, n)).collect()).await;
    session.wait_confirmed(30).await;
    session.finish().await.expect("all is delivered");
    assert_eq!(endpoint.accepted_count(), 60);
    assert!(setup.rejected().is_empty());
    let breaches = endpoint.breaches();
    assert!(breaches.len() <= 2 && breaches.iter().all(|b| b.contains("batch_events")));
}

#[tokio::test]
async fn reading_is_held_back_at_max_pending_and_delivery_goes_on() {
    let endpoint = Endpoint::start(Server::Any).await;
    let mut setup = Setup::new(&endpoint);
    let weight = post(1, 1).weight() as u64;
    setup.limits.max_pending = ByteSize::new(20 * weight);
    let mut session = setup.session();
    endpoint.choose(|_| Some(Fault::status(503)));
    let handed = Arc::new(AtomicUsize::new(0));
    let (handoffs, counted) = (session.handoffs.clone(), handed.clone());
    let sending = tokio::spawn(async move {
        for n in 1..=200 {
            handoffs.send(handoff(vec![post(n, n)])).await.expect("delivery runs");
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    endpoint.wait_for_requests(25).await;
    let handed = handed.load(Ordering::Relaxed);
    assert!(handed <= 20 + 1 + 4, "{handed} were taken");
    endpoint.heal();
    session.wait_confirmed(200).await;
    sending.await.expect("all are handed on");
    session.finish().await.expect("all is delivered");
    endpoint.assert_strict();
}

#[tokio::test]
async fn every_lane_waits_as_long_as_the_endpoint_asks() {
    let endpoint = Endpoint::start(Server::Sockudo).await;
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    endpoint.fault(Fault::retry_after(429, "1"));
    session.send(vec![post(1, 1)]).await;
    endpoint.wait_for_requests(1).await;
    let asked = Instant::now();
    session.send(vec![post(1, 2)]).await;
    session.wait_confirmed(2).await;
    // The answer was on its way when its request was seen.
    let first = endpoint.accepted().into_iter().map(|a| a.began).min().expect("accepted");
    assert!(first - asked > Duration::from_millis(950), "{:?}", first - asked);
}

#[tokio::test]
async fn a_request_that_hangs_holds_up_its_own_lane_only() {
    let endpoint = Endpoint::start(Server::Any).await;
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    endpoint.choose(|publish| holds(publish, 0).then_some(Fault::Hang));
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

#[tokio::test]
async fn an_endpoint_that_was_away_gets_everything_in_order() {
    let mut endpoint = Endpoint::start(Server::Reverb).await;
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
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn passing_fault(dice: &mut Dice) -> Option<Fault> {
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
        let endpoint = Arc::new(Endpoint::start(Server::Any).await);
        let setup = Setup::new(&endpoint).timeout_ms(150);
        let mut session = setup.session();
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed);
        endpoint.choose(move |_| passing_fault(&mut dice));

        let early = Arc::new(Mutex::new(Vec::new()));
        let (mut confirmed, observed, found) =
            (session.confirmed.clone(), endpoint.clone(), early.clone());
        let observing = tokio::spawn(async move {
            while confirmed.changed().await.is_ok() {
                let position = confirmed.borrow_and_update().map_or(0, Position::value);
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
async fn every_server_gets_requests_within_its_limits() {
    for server in Server::ALL {
        let endpoint = Endpoint::start(server).await;
        let setup = Setup::new(&endpoint);
        let mut session = setup.session();
        let mut dice = Dice(7);
        let notifications = (1..=300).map(|n| {
            let mut channels = vec![format!("private-posts.{n}"), "private-posts".to_owned()];
            channels.extend((0..dice.below(40).saturating_sub(30) * 15).map(|c| format!("c-{c}")));
            let mut made = update(n, n, &channels);
            let text = "\"é".repeat(usize::try_from(dice.below(400)).expect("small"));
            made.data =
                json!({ "entity": "post", "id": n, "number": n, "text": text }).to_string().into();
            made
        });
        let notifications: Vec<_> = notifications.collect();
        let pairs: usize = notifications.iter().map(|n| n.channels.len()).sum();
        session.send(notifications).await;
        session.wait_confirmed(300).await;
        session.finish().await.expect("all is delivered");
        assert_eq!(endpoint.accepted_count(), pairs, "{server:?}");
        assert!(setup.rejected().is_empty(), "{server:?}");
        endpoint.assert_strict();
    }
}

#[tokio::test]
async fn more_than_a_hundred_channels_are_chunked_and_none_is_left_out() {
    let endpoint = Endpoint::start(Server::Soketi).await;
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let channels: Vec<String> = (0..250).map(|n| format!("private-posts.{n}")).collect();
    session.send(vec![update(1, 1, &channels)]).await;
    session.wait_confirmed(1).await;
    let accepted = endpoint.accepted();
    let names: Vec<String> = accepted.into_iter().map(|a| a.event.channel).collect();
    assert_eq!(names, channels);
    assert_eq!(endpoint.requests(), 3);
    endpoint.assert_strict();
}

#[tokio::test]
async fn a_new_session_forgets_the_unsent_and_waits_for_what_is_on_its_way() {
    let endpoint = Endpoint::start(Server::Any).await;
    let setup = Setup::new(&endpoint).timeout_ms(300).lanes(1);
    let mut deliver = setup.deliver();
    endpoint.fault(Fault::Hang);
    {
        let (handoffs, handoffs_rx) = mpsc::channel(4);
        let (confirmed_tx, _confirmed) = watch::channel(None);
        let abandoned = deliver.run(handoffs_rx, confirmed_tx);
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

#[tokio::test]
async fn what_the_rules_refused_is_written_down_in_its_turn() {
    let endpoint = Endpoint::start(Server::Any).await;
    let setup = Setup::new(&endpoint).lanes(1);
    let mut session = setup.session();
    let mut refused = post(1, 2);
    refused.refusal = Some(Refusal::Oversize { bytes: 20_000, limit: 8_000 });
    session.send(vec![post(1, 1), refused, post(1, 3)]).await;
    session.wait_confirmed(3).await;
    let rejected = setup.rejected();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0]["position"], 2);
    assert_eq!(rejected[0]["reason"], "the payload has 20000 bytes, and the endpoint takes 8000");
    let mut numbers: Vec<u64> = endpoint.accepted().iter().map(number).collect();
    numbers.dedup();
    assert_eq!(numbers, [1, 3]);
}

#[tokio::test]
async fn a_full_disk_stops_delivery_and_confirms_nothing() {
    let endpoint = Endpoint::start(Server::Any).await;
    let client = Client::new(&endpoint.config()).expect("a valid configuration");
    let rejected = RejectedFile::open("/dev/full", RejectedFile::MAX).expect("it opens");
    let session = Session::start(Deliver::new(Sink::Pusher(client, rejected), &Limits::default()));
    endpoint.choose(|_| Some(Fault::status(400)));
    let confirmed = session.confirmed.clone();
    session.send(vec![update(1, 1, &["a".to_owned()])]).await;
    let error = session.finish().await.expect_err("nothing can be written");
    assert!(matches!(error, Error::Rejected(_)), "{error}");
    assert_eq!(*confirmed.borrow(), None);
}

#[tokio::test]
async fn a_probe_tells_network_app_secret_and_clock_apart() {
    let mut endpoint = Endpoint::start(Server::Any).await;
    let probe = async |change: &dyn Fn(&mut pusher::Config)| {
        let mut config = endpoint.config();
        change(&mut config);
        Client::new(&config).expect("a valid configuration").probe().await
    };
    probe(&|_| {}).await.expect("all is right");
    let app = probe(&|config| config.app_id = "2".parse().expect("an id")).await;
    assert!(matches!(app, Err(Problem::Answered { code: 404, .. })), "{app:?}");
    let wrong = |config: &mut pusher::Config| config.secret = rowcast::secret::Secret::new("x");
    let secret = probe(&wrong).await;
    assert!(matches!(secret, Err(Problem::Answered { code: 401, .. })), "{secret:?}");
    endpoint.probe_fault(Fault::Status {
        code: 401,
        body: "Timestamp expired".to_owned(),
        headers: vec![("Date", "Tue, 01 Jan 2019 00:00:00 GMT".to_owned())],
    });
    let clock = probe(&|_| {}).await;
    assert!(matches!(clock, Err(Problem::ClockSkew { .. })), "{clock:?}");
    let config = endpoint.config();
    endpoint.refuse_connections().await;
    let network = Client::new(&config).expect("a valid configuration").probe().await;
    assert!(matches!(network, Err(Problem::Unreachable(_))), "{network:?}");
}

#[tokio::test]
async fn publishing_says_why_it_was_refused() {
    let endpoint = Endpoint::start(Server::Any).await;
    let client = Client::new(&endpoint.config()).expect("a valid configuration");
    let event = "Hello".parse().expect("an event");
    let channels = ["a".parse().expect("a channel"), "b".parse().expect("a channel")];
    client.publish(&event, &channels, "{}").await.expect("accepted");
    assert_eq!(endpoint.accepted_count(), 2);
    endpoint.fault(Fault::body(403, r#"{"error":"over quota"}"#));
    let error = client.publish(&event, &channels, "{}").await.expect_err("refused");
    assert_eq!(error.to_string(), "the endpoint answered 403: over quota");
}

#[tokio::test]
async fn a_path_prefix_is_signed_as_the_server_wants_it() {
    for (server, is_signed) in [(Server::Reverb, false), (Server::Soketi, true)] {
        let endpoint = Endpoint::start_with(server, "/ws/app", is_signed).await;
        let client = Client::new(&endpoint.config()).expect("a valid configuration");
        client.probe().await.expect("the default suits the server");
        let mut other = endpoint.config();
        other.sign_path_prefix = Some(!is_signed);
        let error = Client::new(&other).expect("valid").probe().await.expect_err("not signed so");
        assert!(matches!(error, Problem::Answered { code: 401, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_configured_proxy_is_used() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut config = Endpoint::start(Server::Any).await.config();
    config.url = Some("http://endpoint.invalid:6001".parse().expect("a url"));
    let address = proxy.local_addr().expect("it is bound");
    config.proxy = Some(format!("http://{address}").try_into().expect("a url"));
    let client = Client::new(&config).expect("a valid configuration");
    let probing = tokio::spawn(async move { client.probe().await });
    let (stream, _) = proxy.accept().await.expect("the proxy is asked");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.expect("a request");
    assert!(line.starts_with("GET http://endpoint.invalid:6001/apps/1001/channels?"), "{line}");
    probing.await.expect("no panic").expect_err("the proxy hung up");
}

/// Runs itself in a process with proxy variables, since those of this one cannot be set safely.
#[tokio::test]
async fn the_environments_proxies_are_ignored() {
    const NAME: &str = "deliver::the_environments_proxies_are_ignored";
    // Nothing listens on the port of `discard`.
    const NOWHERE: &str = "http://127.0.0.1:9";
    if std::env::var("http_proxy").is_ok_and(|proxy| proxy == NOWHERE) {
        let endpoint = Endpoint::start(Server::Any).await;
        let client = Client::new(&endpoint.config()).expect("a valid configuration");
        return client.probe().await.expect("it goes straight to the endpoint");
    }
    let mut child = Command::new(std::env::current_exe().expect("this test's path"));
    child.args(["--exact", NAME]).env_remove("no_proxy").env_remove("NO_PROXY");
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"] {
        child.env(name, NOWHERE);
    }
    let output = child.output().expect("it runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
}
