//! The fault campaign: random writers and random faults, and simulated pages that must show what is there in the end.
//!
//! A seed is a [`schedule`]. `tests/faults` plays many; here a few are played with every run of the suite. What is
//! asked of each:
//!
//! 1. A [`page`] that joined its channel at any moment, fetched after that, and fetched again with each message, shows
//!    what the table holds.
//! 2. After the last change of each row, each channel that must hear of it got a notification whose request began
//!    after the commit and whose `at` is not before it ([`ledger`]).
//! 3. A resync comes only where the schedule has a cause for it; where it has none, no change is told by a resync.
//! 4. Nothing that was rolled back is heard.

mod journal;
mod ledger;
mod page;
mod rng;
mod scene;
mod schedule;
mod shop;
mod sidecar;
mod stream;
mod summary;
mod trouble;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::cluster::{Cluster, Version};
use journal::Journal;
use scene::Outcome;
use schedule::Schedule;
use summary::Counts;

/// Much of a schedule is waiting.
const PLAYED_AT_ONCE: usize = 2;
/// What one schedule may take: then it has failed.
const LONGEST: Duration = Duration::from_secs(200);
/// With less time left no other one begins.
const USUAL: Duration = Duration::from_secs(45);

/// The seeds to play, and until when.
struct Campaign {
    next: AtomicU64,
    end: u64,
    is_short: bool,
    deadline: Instant,
}

impl Campaign {
    /// All faults together, without a cause for resyncs and with: for the suite.
    const USUAL_SEEDS: (u64, u64) = (33, 2);

    /// `tests/faults` says by variables which.
    fn from_environment() -> Self {
        let first = number("ROWCAST_FAULTS_SEED").unwrap_or(Self::USUAL_SEEDS.0);
        let count = number("ROWCAST_FAULTS_SEEDS").unwrap_or(Self::USUAL_SEEDS.1);
        let minutes = number("ROWCAST_FAULTS_MINUTES").unwrap_or(15);
        Self {
            next: AtomicU64::new(first),
            end: first.saturating_add(count),
            is_short: number("ROWCAST_FAULTS_SEEDS").is_none(),
            deadline: Instant::now() + Duration::from_secs(minutes * 60),
        }
    }

    fn next(&self) -> Option<Schedule> {
        let has_time = Instant::now() + USUAL < self.deadline;
        let seed = has_time.then(|| self.next.fetch_add(1, Ordering::Relaxed))?;
        let schedule = (seed < self.end).then(|| Schedule::of(seed))?;
        Some(if self.is_short { schedule.shortened() } else { schedule })
    }
}

#[test]
fn whatever_fails_nothing_is_lost() {
    let campaign = Campaign::from_environment();
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    std::thread::scope(|scope| {
        let player = |_| scope.spawn(|| play_in_turn(&campaign));
        let players: Vec<_> = (0..PLAYED_AT_ONCE).map(player).collect();
        for player in players {
            let (played, failures) = player.join().expect("a schedule's panic is caught");
            counts.add(played);
            failed.extend(failures);
        }
    });
    print(&counts.to_string());
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
}

/// Plays schedules on one cluster until there is none left; returns the seeds that failed, too.
fn play_in_turn(campaign: &Campaign) -> (Counts, Vec<u64>) {
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    let mut cluster = None;
    while let Some(schedule) = campaign.next() {
        let (seed, faults) = (schedule.seed, format!("{:?}", schedule.faults));
        let bulk = if schedule.has_bulk { ", with bulk" } else { "" };
        let begun = Instant::now();
        let journal = Journal::begin();
        let longest = LONGEST.min(campaign.deadline - begun);
        let failures = match play(schedule, &mut cluster, &journal, longest) {
            Ok(Outcome { counts: played, failures }) => {
                let took = begun.elapsed().as_secs_f64();
                print(&format!("seed {seed}: {faults}{bulk}; {took:.1} s; {played}"));
                counts.add(played);
                failures
            }
            Err(failure) => {
                counts.add(Counts { seeds: 1, breaches: 1, ..Counts::default() });
                vec![failure]
            }
        };
        if !failures.is_empty() {
            let shown: Vec<&str> = failures.iter().take(20).map(String::as_str).collect();
            print(&format!(
                "seed {seed} FAILED: {faults}{bulk}; {} complaints:\n{}\n{}",
                failures.len(),
                shown.join("\n"),
                journal.text()
            ));
            failed.push(seed);
            // A schedule that was broken off may have left it stopped.
            cluster = None;
        }
    }
    (counts, failed)
}

/// `Err` if it panicked or did not end: by its panic's words, which are printed too.
fn play(
    schedule: Schedule,
    cluster: &mut Option<Arc<Cluster>>,
    journal: &Journal,
    longest: Duration,
) -> Result<Outcome, String> {
    // Of its own, so that nothing of a schedule lives on.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let playing = AssertUnwindSafe(async {
        let cluster = match cluster {
            Some(cluster) => cluster,
            None => cluster.insert(start_cluster().await),
        };
        tokio::time::timeout(longest, scene::play(schedule, cluster, journal)).await
    });
    match catch_unwind(|| runtime.block_on(playing)) {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(_)) => Err(format!("not over within {longest:?}")),
        Err(panic) => Err(match panic.downcast::<String>() {
            Ok(words) => *words,
            Err(_) => "it panicked".to_owned(),
        }),
    }
}

/// What `tests/faults` says by a variable.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

async fn start_cluster() -> Arc<Cluster> {
    let settings = [
        ("fsync", "on"),
        ("track_commit_timestamp", "on"),
        ("deadlock_timeout", "100ms"),
        // A walsender whose client is gone without a word is noticed soon.
        ("wal_sender_timeout", "5s"),
    ];
    Arc::new(Cluster::start(Version::DEFAULT, &settings).await)
}

#[expect(clippy::print_stdout, reason = "it is the output of tests/faults")]
fn print(line: &str) {
    println!("{line}");
}
