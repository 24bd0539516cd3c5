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

mod capture;
mod harm;
mod journal;
mod late;
mod ledger;
mod page;
mod pulse;
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
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::cluster::{Cluster, Version};
use capture::Capture;
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

/// The schedules to play, and until when.
struct Campaign {
    schedules: Mutex<Box<dyn Iterator<Item = Schedule> + Send>>,
    deadline: Instant,
}

impl Campaign {
    /// All faults together, without a cause for resyncs and with: for the suite.
    const USUAL: [(u64, Capture); 4] =
        [(33, Capture::Wal), (20, Capture::Notify), (34, Capture::Wal), (21, Capture::Poll)];

    /// `tests/faults` says by variables which.
    fn from_environment() -> Self {
        let minutes = number("ROWCAST_FAULTS_MINUTES").unwrap_or(15);
        Self {
            schedules: Mutex::new(Self::schedules()),
            deadline: Instant::now() + Duration::from_secs(minutes * 60),
        }
    }

    fn schedules() -> Box<dyn Iterator<Item = Schedule> + Send> {
        let Some(count) = number("ROWCAST_FAULTS_SEEDS") else {
            let usual = Self::USUAL.into_iter();
            return Box::new(usual.map(|(seed, capture)| Schedule::of(seed, capture).shortened()));
        };
        let first = number("ROWCAST_FAULTS_SEED").unwrap_or_default();
        let capture = std::env::var("ROWCAST_FAULTS_CAPTURE").unwrap_or_else(|_| "wal".to_owned());
        let capture: Capture = capture.parse().unwrap_or_else(|error| panic!("{error}"));
        Box::new((first..first.saturating_add(count)).map(move |it| Schedule::of(it, capture)))
    }

    fn next(&self) -> Option<Schedule> {
        let has_time = Instant::now() + USUAL < self.deadline;
        let mut schedules = self.schedules.lock().expect("nobody panics while he takes one");
        has_time.then(|| schedules.next())?
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

/// Plays schedules on one cluster until there is none left, or on two; returns the seeds that failed, too.
fn play_in_turn(campaign: &Campaign) -> (Counts, Vec<u64>) {
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    let mut cluster: Option<(Capture, Arc<Cluster>)> = None;
    while let Some(schedule) = campaign.next() {
        let (seed, capture) = (schedule.seed, schedule.capture);
        let faults = format!("{capture:?}, {:?}", schedule.faults);
        let bulk = if schedule.has_bulk { ", with bulk" } else { "" };
        cluster = cluster.filter(|(had, _)| had.settings() == capture.settings());
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
    cluster: &mut Option<(Capture, Arc<Cluster>)>,
    journal: &Journal,
    longest: Duration,
) -> Result<Outcome, String> {
    // Of its own, so that nothing of a schedule lives on.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let playing = AssertUnwindSafe(async {
        let (_, cluster) = match cluster {
            Some(cluster) => cluster,
            None => cluster.insert((schedule.capture, start_cluster(schedule.capture).await)),
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

async fn start_cluster(capture: Capture) -> Arc<Cluster> {
    let settings =
        [("fsync", "on"), ("track_commit_timestamp", "on"), ("deadlock_timeout", "100ms")];
    let settings = [&settings, capture.settings()].concat();
    Arc::new(Cluster::start(Version::DEFAULT, &settings).await)
}

#[expect(clippy::print_stdout, reason = "it is the output of tests/faults")]
fn print(line: &str) {
    println!("{line}");
}
