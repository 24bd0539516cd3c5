//! What delivery pushes into Sockudo, in notifications per second, next to the highest rate that a plain load generator
//! reaches with the very same requests. In turns, in one run, on cores that both share with Sockudo.
//!
//! `cargo bench --bench push`, or with words behind it (`-- load http2`) for those whose names hold one of them, and a
//! number for so many notifications instead of 200,000.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

#[path = "../drain/cost.rs"]
#[allow(dead_code, reason = "other benches use the rest of it")]
mod cost;
#[expect(unreachable_pub, reason = "nothing of a bench can be reached from outside")]
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use the rest of it")]
#[path = "../../tests/suite/harness/mod.rs"]
mod harness;
mod load;
mod recorder;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast::{
    change::{Position, Timestamp},
    deliver::{Deliver, Limits, Progress, RejectedFile, Sink, pusher::Client},
    notification::{Action, Handoff, Notification, Payload, Terms},
    observe::Observer,
};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use harness::{scratch, sockudo::Sockudo};
use recorder::Recorder;

const NOTIFICATIONS: u64 = 200_000;
const PER_TRANSACTION: u64 = 100;
const TURNS: usize = 3;
/// The load generator's; the best of them is what counts.
const CONNECTIONS: [usize; 4] = [4, 8, 16, 32];
const DEADLINE: Duration = Duration::from_secs(300);

/// What pushes.
#[derive(Clone, Copy, PartialEq)]
enum Pusher {
    Load { connections: usize },
    Rowcast { max_in_flight: usize, http2: bool },
}

impl Pusher {
    fn name(self) -> String {
        match self {
            Self::Load { connections } => format!("load generator, {connections} connections"),
            Self::Rowcast { max_in_flight, http2: false } => {
                format!("rowcast, {max_in_flight} in flight")
            }
            Self::Rowcast { max_in_flight, http2: true } => {
                format!("rowcast, {max_in_flight} in flight, http2")
            }
        }
    }
}

struct Turn {
    pusher: Pusher,
    per_second: f64,
    /// For each request.
    cpu: Duration,
    sockudos_cpu: Duration,
}

/// As many threads as the program itself has.
#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let (mut count, mut words) = (NOTIFICATIONS, Vec::new());
    for argument in arguments {
        match argument.parse() {
            Ok(number) => count = number,
            Err(_) => words.push(argument),
        }
    }
    let sockudo = Sockudo::start().await;
    let recorder = Recorder::start();
    deliver(&recorder.url(), handoffs(count), Limits::default(), false).await;
    let requests = recorder.requests();

    let mut pushers: Vec<Pusher> =
        CONNECTIONS.into_iter().map(|connections| Pusher::Load { connections }).collect();
    let default = Limits::default().max_in_flight.get();
    for (max_in_flight, http2) in [(default, false), (2 * default, false), (default, true)] {
        pushers.push(Pusher::Rowcast { max_in_flight, http2 });
    }
    pushers
        .retain(|pusher| words.is_empty() || words.iter().any(|word| pusher.name().contains(word)));
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        for &pusher in &pushers {
            let handoffs = match pusher {
                Pusher::Load { .. } => Vec::new(),
                Pusher::Rowcast { .. } => handoffs(count),
            };
            let (began, own, sockudos) =
                (Instant::now(), cost::own_cpu(), cost::cpu(sockudo.pid()));
            match pusher {
                Pusher::Load { connections } => load::send(sockudo.port, &requests, connections),
                Pusher::Rowcast { max_in_flight, http2 } => {
                    let max_in_flight = max_in_flight.try_into().expect("a valid number");
                    let limits = Limits { max_in_flight, ..Limits::default() };
                    deliver(&sockudo.url(), handoffs, limits, http2).await;
                }
            }
            let each = |cpu: Duration| cpu / u32::try_from(requests.len()).expect("not so many");
            turns.push(Turn {
                pusher,
                per_second: count as f64 / began.elapsed().as_secs_f64(),
                cpu: each(cost::own_cpu() - own),
                sockudos_cpu: each(cost::cpu(sockudo.pid()) - sockudos),
            });
        }
    }
    report(count, requests.len(), &pushers, &turns);
}

/// Delivers all of it, and returns when the last is accepted.
async fn deliver(url: &str, handoffs: Vec<Handoff>, limits: Limits, http2: bool) {
    let end = handoffs.last().and_then(|last| last.reached);
    let config = format!(
        "url = '{url}'\napp_id = '{}'\nkey = '{}'\nsecret = '{}'\nserver = 'sockudo'\nhttp2 = {http2}\n",
        Sockudo::APP_ID,
        Sockudo::KEY,
        Sockudo::SECRET
    );
    let client = Client::new(&toml::from_str(&config).expect("it is valid")).expect("it is valid");
    let folder = scratch::folder("push");
    let rejected = folder.path().join("rejected.jsonl");
    let file = RejectedFile::open(rejected.clone(), RejectedFile::MAX).expect("it is writable");
    let mut deliver = Deliver::new(Sink::Pusher(client, file), &limits, Observer::default());
    let (handoffs_tx, handoffs_rx) = mpsc::channel(2);
    let (progress_tx, progress_rx) = watch::channel(Progress::default());
    let delivering =
        tokio::spawn(async move { deliver.run(Vec::new(), handoffs_rx, progress_tx).await });
    for handoff in handoffs {
        assert!(handoffs_tx.send(handoff).await.is_ok(), "delivery goes on");
    }
    drop(handoffs_tx);
    let delivered = tokio::time::timeout(DEADLINE, delivering).await;
    delivered.expect("in time").expect("no panic").expect("nothing is refused");
    assert_eq!(progress_rx.borrow().position, end);
    let refused = std::fs::read_to_string(rejected).expect("it was made at the start");
    assert!(refused.is_empty(), "{refused}");
}

/// So many updates of different rows.
fn handoffs(count: u64) -> Vec<Handoff> {
    let terms = Arc::new(Terms::plain("posts", "post"));
    let transaction = |first: u64| {
        let last = count.min(first + PER_TRANSACTION - 1);
        let notifications = (first..=last).map(|id| update(&terms, id)).collect();
        Handoff { notifications, reached: Some(Position::new(last)), ..Handoff::default() }
    };
    (0..count.div_ceil(PER_TRANSACTION)).map(|n| transaction(n * PER_TRANSACTION + 1)).collect()
}

fn update(terms: &Arc<Terms>, id: u64) -> Notification {
    let channel = format!("private-posts.{id}");
    let payload = json!({ "entity": "post", "action": "updated", "id": id, "changed": ["views", "updated_at"] });
    Notification {
        terms: terms.clone(),
        shares: Vec::new(),
        action: Action::Updated,
        id: id.to_string().into(),
        event: "PostUpdated".parse().expect("it is a name"),
        event_index: 0,
        channels: vec![channel.parse().expect("it is a name")],
        payload: Payload::Own(payload.to_string().into()),
        count: 1,
        position: Position::new(id),
        at: Timestamp::now(),
        resync: None,
        socket_id: None,
        refusal: None,
    }
}

fn report(count: u64, requests: usize, pushers: &[Pusher], turns: &[Turn]) {
    println!(
        "{count} notifications in {requests} requests into Sockudo; the median of {TURNS} turns"
    );
    println!("{:<32} {:>9} {:>6} {:>12} {:>14}", "", "per s", "ratio", "us of cpu", "of Sockudo's");
    let median = |pusher: Pusher, of: fn(&Turn) -> f64| {
        let turns = turns.iter().filter(|turn| turn.pusher == pusher);
        let mut values: Vec<f64> = turns.map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let rate = |pusher: Pusher| median(pusher, |turn| turn.per_second);
    let loads = pushers.iter().filter(|pusher| matches!(pusher, Pusher::Load { .. }));
    // NaN, and so every ratio, where none was asked for.
    let best = loads.map(|&pusher| rate(pusher)).fold(f64::NAN, f64::max);
    let mut medians = Vec::new();
    for &pusher in pushers {
        let micros = |of| median(pusher, of);
        let cpu = micros(|turn| turn.cpu.as_secs_f64() * 1e6);
        let sockudos_cpu = micros(|turn| turn.sockudos_cpu.as_secs_f64() * 1e6);
        let (per_second, ratio) = (rate(pusher), rate(pusher) / best);
        println!(
            "{:<32} {per_second:>9.0} {ratio:>6.2} {cpu:>12.0} {sockudos_cpu:>14.0}",
            pusher.name()
        );
        medians.push(json!({
            "name": pusher.name(), "per_second": per_second, "ratio": ratio,
            "request_cpu_us": cpu, "sockudos_request_cpu_us": sockudos_cpu,
        }));
    }
    println!(
        "{}",
        json!({ "bench": "push", "notifications": count, "requests": requests, "medians": medians })
    );
}
