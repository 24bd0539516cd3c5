//! Delivering against the strict endpoint, in this process and without Postgres.

mod answers;
mod connections;
mod folding;
mod occupied;
mod order;
mod poison;
mod requests;
mod resyncs;
mod servers;

use std::time::Duration;

use rowcast::change::{Position, Timestamp};
use rowcast::deliver::pusher::{self, Client, Server};
use rowcast::deliver::{Deliver, Error, Limits, Progress, RejectedFile, Sink};
use rowcast::notification::{Action, Handoff, Notification, Payload, Refusal, Resync, Terms};
use rowcast::observe::Observer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::harness::endpoint::{Accepted, Endpoint, Event, Fault};
use crate::harness::wait::SOON;

/// The update number `position` of entity `id`, on these channels.
fn update(id: u64, position: u64, channels: &[String]) -> Notification {
    Notification {
        terms: Terms::plain("posts", "post").into(),
        action: Action::Updated,
        id: id.to_string().into(),
        event: "PostUpdated".parse().expect("an event"),
        event_index: 0,
        channels: channels.iter().map(|name| name.parse().expect("a channel")).collect(),
        payload: Payload::Own(
            json!({ "entity": "post", "id": id, "number": position }).to_string().into(),
        ),
        count: 1,
        position: Position::new(position),
        at: Timestamp::now(),
        resync: None,
        socket_id: None,
        shares: Vec::new(),
        refusal: None,
    }
}

fn post(id: u64, position: u64) -> Notification {
    update(id, position, &[format!("private-posts.{id}"), "private-posts".to_owned()])
}

fn handoff(notifications: Vec<Notification>) -> Handoff {
    let reached = notifications.last().map(|last| last.position);
    Handoff { notifications, reached, ..Handoff::default() }
}

fn number(accepted: &Accepted) -> u64 {
    accepted.event.data("number").as_u64().expect("every notification here has its number")
}

fn holds(events: &[Event], id: u64) -> bool {
    events.iter().any(|event| event.data("id") == id)
}

/// A running session.
struct Session {
    handoffs: mpsc::Sender<Handoff>,
    progress: watch::Receiver<Progress>,
    running: JoinHandle<(Deliver, Result<(), Error>)>,
}

impl Session {
    fn start(deliver: Deliver) -> Session {
        Session::start_owing(deliver, Vec::new())
    }

    fn start_owing(mut deliver: Deliver, owed: Vec<Resync>) -> Session {
        let (handoffs, handoffs_rx) = mpsc::channel(4);
        let (progress_tx, progress) = watch::channel(Progress::default());
        let running = tokio::spawn(async move {
            let ended = deliver.run(owed, handoffs_rx, progress_tx).await;
            (deliver, ended)
        });
        Session { handoffs, progress, running }
    }

    async fn send(&self, notifications: Vec<Notification>) {
        self.handoffs.send(handoff(notifications)).await.expect("delivery runs");
    }

    async fn wait_confirmed(&mut self, position: u64) {
        let position = Some(Position::new(position));
        self.wait(|progress| progress.position >= position).await;
    }

    async fn wait(&mut self, condition: impl FnMut(&Progress) -> bool) {
        let waiting = self.progress.wait_for(condition);
        let waited = tokio::time::timeout(SOON, waiting).await;
        waited.expect("it comes so far in time").expect("delivery runs");
    }

    fn confirmed(&self) -> Option<u64> {
        self.progress.borrow().position.map(Position::value)
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
        Setup::of(endpoint.config())
    }

    fn of(config: pusher::Config) -> Setup {
        let folder = tempfile::tempdir().expect("a folder");
        Setup { folder, limits: Limits::default(), config }
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
        Deliver::new(Sink::Pusher(client, rejected), &self.limits, Observer::default())
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
    let endpoint = Endpoint::start(Server::Any);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    session.send(vec![post(42, 7)]).await;
    session.wait_confirmed(7).await;
    let accepted = endpoint.accepted();
    let channels: Vec<&str> = accepted.iter().map(|a| a.event.channel.as_str()).collect();
    assert_eq!(channels, ["private-posts.42", "private-posts"]);
    assert_eq!(endpoint.requests(), 1);
    // An idle position needs no request.
    let idle = Handoff { reached: Some(Position::new(9)), ..Handoff::default() };
    session.handoffs.send(idle).await.expect("delivery runs");
    session.wait_confirmed(9).await;
    session.finish().await.expect("all is delivered");
    assert_eq!(endpoint.requests(), 1);
    endpoint.assert_strict();
}

#[tokio::test]
async fn what_the_rules_refused_is_written_down_in_its_turn() {
    let endpoint = Endpoint::start(Server::Any);
    let setup = Setup::new(&endpoint).lanes(1);
    let mut session = setup.session();
    let mut refused = post(1, 2);
    refused.refusal = Some(Refusal::Oversize { bytes: 20_000, limit: 8_000 });
    let reason = "no name".to_owned();
    let mut nameless = update(1, 4, &[]);
    nameless.refusal = Some(Refusal::Unrenderable { part: "channels", reason });
    session.send(vec![post(1, 1), refused, post(1, 3), nameless]).await;
    session.wait_confirmed(4).await;
    let rejected = setup.rejected();
    assert_eq!(rejected.len(), 2);
    assert_eq!(rejected[0]["position"], 2);
    assert_eq!(rejected[1]["position"], 4);
    assert_eq!(rejected[1]["channels"], json!([]));
    assert_eq!(rejected[0]["reason"], "the payload has 20000 bytes, and the endpoint takes 8000");
    let mut numbers: Vec<u64> = endpoint.accepted().iter().map(number).collect();
    numbers.dedup();
    assert_eq!(numbers, [1, 3]);
    let resyncs = endpoint.resyncs();
    let channels: Vec<&str> = resyncs.iter().map(|it| it.event.channel.as_str()).collect();
    assert_eq!(channels, ["private-posts.1", "private-posts"]);
    assert!(resyncs.iter().all(|it| it.event.data("reason") == "refused"), "{resyncs:?}");
}

#[tokio::test]
async fn a_full_disk_stops_delivery_and_confirms_nothing() {
    let endpoint = Endpoint::start(Server::Any);
    let client = Client::new(&endpoint.config()).expect("a valid configuration");
    let rejected = RejectedFile::open("/dev/full", RejectedFile::MAX).expect("it opens");
    let session = Session::start(Deliver::new(
        Sink::Pusher(client, rejected),
        &Limits::default(),
        Observer::default(),
    ));
    endpoint.choose(|_| Some(Fault::status(400)));
    let progress = session.progress.clone();
    session.send(vec![update(1, 1, &["a".to_owned()])]).await;
    let error = session.finish().await.expect_err("nothing can be written");
    assert!(matches!(error, Error::Rejected(_)), "{error}");
    assert_eq!(*progress.borrow(), Progress::default());
}
