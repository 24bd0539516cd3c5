//! One schedule, from an empty database to the verdict.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rowcast::deliver::pusher::Server;
use tokio::sync::RwLock;
use tokio::time::sleep;

use super::capture::Capture;
use super::harm::Harm;
use super::journal::Journal;
use super::late::Latecomers;
use super::ledger::{Ledger, Terms, Verdict};
use super::page::{Api, Audience};
use super::pulse::Pulse;
use super::rng::Rng;
use super::schedule::{Fault, Schedule};
use super::shop::{self, IDS, OWNERS, RULES, View};
use super::sidecar::Sidecar;
use super::summary::Counts;
use super::trouble::Trouble;
use super::writer::Writers;
use crate::harness::{
    cluster::Cluster, database::Database, endpoint::Endpoint, proxy::Proxy, wait::eventually,
};

const WRITERS: usize = 4;
/// Pages besides those of lists, which are there from the first to the last.
const VISITORS: usize = 60;
/// For everything to arrive once nothing is in its way: attempts wait for each other for up to half a minute.
const CALM: Duration = Duration::from_secs(90);

pub(super) struct Outcome {
    pub(super) counts: Counts,
    /// What was lost, and what else must not be.
    pub(super) failures: Vec<String>,
}

/// Plays it, and says what came of it.
pub(super) async fn play(
    mut schedule: Schedule,
    cluster: &Arc<Cluster>,
    journal: &Journal,
) -> Outcome {
    let database = Database::fresh(cluster).await;
    database.psql(&shop::sql()).await;
    let capture = schedule.capture;
    let proxy = Proxy::to((Ipv4Addr::LOCALHOST, cluster.port()).into());
    let endpoint = Endpoint::start(Server::Sockudo);
    let audience = Arc::<Audience>::default();
    let ledger = Arc::<Ledger>::default();
    let (heard, entered) = (audience.clone(), ledger.clone());
    endpoint.on_accept(move |accepted| {
        heard.hear(&accepted.event.channel);
        entered.enter(accepted);
    });
    let api = Api::new(database.url());
    for view in RULES.iter().filter_map(shop::Rule::list_view) {
        audience.join(view, &api);
    }
    endpoint.occupy(audience.channels());
    let own_url = capture.url(&database).await;
    let config = config(&schedule, &database, &own_url, &endpoint, &proxy);
    let owner = database.url();
    let owner = capture.is_triggers().then_some(&*owner);
    let mut sidecar = Sidecar::start(&config, owner).await;
    calm(&database, capture, &sidecar).await;
    let first = ledger.len();
    journal.note("written from here on");

    let endpoint = RwLock::new(endpoint);
    let mut counts = Counts { seeds: 1, ..Counts::default() };
    let mut rng = schedule.rng.fork();
    let (url, harm) = (database.url(), Arc::<Harm>::default());
    let writers = Writers::start(WRITERS, &url, &mut schedule.rng, schedule.has_bulk, &harm);
    let pulse = Pulse::start(&url, &harm);
    let visiting = visit(&endpoint, &audience, &api, schedule.rng.fork());
    // A slot cannot be made while one of them is open.
    let latecomers = capture
        .is_triggers()
        .then(|| Latecomers::start(&url, &mut schedule.rng, capture == Capture::Poll, &harm));
    let mut trouble = Trouble {
        capture,
        database: &database,
        endpoint: &endpoint,
        proxy: &proxy,
        sidecar: &mut sidecar,
        journal,
        counts: &mut counts,
        rng: schedule.rng.fork(),
        bad_answers: Arc::default(),
        proxy_is_troubled: false,
        late: 0,
    };
    let troubling = async {
        for _ in 0..schedule.strikes {
            sleep(rng.millis(100, 700)).await;
            if !schedule.faults.is_empty() {
                trouble.strike_any(&schedule.faults).await;
            }
        }
        eventually(CALM, "enough is written", async || {
            (writers.committed() >= schedule.transactions).then_some(())
        })
        .await;
    };
    tokio::select! {
        never = visiting => match never {},
        () = troubling => {}
    }
    journal.note(format!("{} transactions", writers.committed()));
    writers.stop().await;
    pulse.stop().await;
    if let Some(latecomers) = latecomers {
        counts.late = latecomers.stop().await;
    }
    journal.note("no more is written");

    let endpoint = endpoint.into_inner();
    endpoint.heal();
    sidecar.check();
    calm(&database, capture, &sidecar).await;
    journal.note("all is confirmed");
    let mut failures = audience.stale(&api).await;
    let causes = schedule.causes();
    let terms = Terms {
        first,
        capture,
        causes: &causes,
        is_occupied_only: schedule.is_occupied_only,
        joined: &audience.joined(),
    };
    let verdict = ledger.judge(&database.client().await, &terms).await;
    let Verdict { changes, duplicates, resyncs, lost, breaches } = verdict;
    failures.extend(lost);
    counts.lost = failures.len() as u64;
    failures.extend(breaches);
    failures.extend(harm.breaches());
    counts.longest_write = harm.longest();
    failures.extend(unlawful(&endpoint, &schedule));
    journal.note("rowcast said:");
    sidecar.said().iter().for_each(|line| journal.note(line));
    failures.append(&mut sidecar.breaches);
    counts.breaches = failures.len() as u64 - counts.lost;
    counts.changes = changes;
    counts.duplicates = duplicates;
    counts.resyncs = resyncs;
    Outcome { counts, failures }
}

fn config(
    schedule: &Schedule,
    database: &Database,
    own_url: &str,
    endpoint: &Endpoint,
    proxy: &Proxy,
) -> String {
    let mut limits = String::from("resync_spread = '300ms'\n");
    if schedule.has_bulk {
        limits.push_str("collapse_above = 100\nmax_pending = '1MiB'\nmax_age = '3s'\n");
    } else {
        limits.push_str("collapse_above = 1000000\n");
    }
    if schedule.faults.contains(&Fault::Shed) {
        limits.push_str(match schedule.capture.is_triggers() {
            true => "max_outbox_rows = 1000\n",
            false => "max_retained_wal = '8MiB'\n",
        });
    }
    let direct = format!(":{}/", database.cluster.port());
    let through = format!(":{}/", proxy.port());
    format!(
        "{}[pusher]\n{}timeout = '500ms'\noccupied_only = {}\n[limits]\n{limits}\
         [run]\nstate_dir = 'state'\ngrace = '2s'\ninspect_every = '1s'\n{}",
        schedule
            .capture
            .toml(database)
            .replace(&database.url(), own_url)
            .replace(&direct, &through),
        endpoint.toml(),
        schedule.is_occupied_only,
        shop::rules_toml(),
    )
}

/// Opens pages and closes some of them, for as long as it is polled.
async fn visit(
    endpoint: &RwLock<Endpoint>,
    audience: &Audience,
    api: &Arc<Api>,
    mut rng: Rng,
) -> std::convert::Infallible {
    let mut open: Vec<View> = Vec::new();
    loop {
        sleep(rng.millis(0, 150)).await;
        if open.len() >= VISITORS || (!open.is_empty() && rng.percent(20)) {
            let view = open.swap_remove(rng.below(open.len() as u64) as usize);
            audience.leave(&view);
            endpoint.read().await.occupy(audience.channels());
            continue;
        }
        let rule = rng.pick(&RULES);
        let view = match rng.percent(60) {
            true => rule.id_view(1 + rng.below(IDS)),
            false => rule.owner_view(1 + rng.below(OWNERS)),
        };
        if let Some(view) = view.filter(|view| !open.contains(view)) {
            let endpoint = endpoint.read().await;
            // Joined first, then fetched, as a page has to.
            endpoint.occupy(audience.channels().into_iter().chain([view.channel.clone()]));
            audience.join(view.clone(), api);
            open.push(view);
        }
    }
}

/// Waits until all that is written is confirmed and nothing is owed.
async fn calm(database: &Database, capture: Capture, sidecar: &Sidecar) {
    let sql = match capture.is_triggers() {
        true => "select not exists (select from rowcast.outbox)
                 and failures >= (select last_value from rowcast.failures)
                 and refusals >= (select last_value from rowcast.refusals) from rowcast.reader"
            .to_owned(),
        // A slot that is being made is confirmed nowhere yet.
        false => format!(
            "select coalesce(confirmed_flush_lsn >= '{}', false) from pg_replication_slots where slot_name = '{}'",
            database.written().await,
            database.slot()
        ),
    };
    let client = database.client().await;
    eventually(CALM, "everything is confirmed and nothing is owed", async || {
        let row = client.query_opt(&sql, &[]).await.expect("anyone may ask")?;
        (row.get::<_, bool>(0) && !sidecar.owes()).then_some(())
    })
    .await;
}

/// What the endpoint had to complain of. A rowcast that was killed, frozen or cut off leaves requests behind that the
/// endpoint may still be busy with while the same change comes again.
fn unlawful(endpoint: &Endpoint, schedule: &Schedule) -> Vec<String> {
    let is_of_faults = |breach: &String| {
        breach.contains("is in two requests at once") && !schedule.faults.is_empty()
    };
    endpoint.breaches().into_iter().filter(|breach| !is_of_faults(breach)).collect()
}
