//! What it costs to find nothing new.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{
    cost,
    harness::{capture::Capture, wait::SOON},
    scene::Scene,
};

/// Until pauses are as long as they become.
const SETTLES: Duration = Duration::from_secs(5);
const MEASURED: Duration = Duration::from_secs(10);
const LOGGED: Duration = Duration::from_secs(5);

pub(crate) struct Idle {
    pub(crate) dead_rows: u64,
    pub(crate) polls_per_s: f64,
    /// The server's time for one, as it logs it, on average.
    pub(crate) poll: Duration,
    /// Of a core.
    pub(crate) rowcast_share: f64,
    pub(crate) server_share: f64,
}

impl Idle {
    pub(crate) async fn of(scene: &Scene, wake: &str) -> Self {
        scene.wake_by(wake);
        let database = &scene.database;
        let run = scene.rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        database.delivered(Capture::Triggers).await;
        sleep(SETTLES).await;

        let role = database.role();
        let pids = format!("select pid from pg_stat_activity where usename = '{role}'");
        let pids = database.psql(&pids).await;
        let pids: Vec<u32> = pids.lines().map(|pid| pid.parse().expect("a pid")).collect();
        let server = || pids.iter().map(|pid| cost::cpu(*pid)).sum::<Duration>();
        let (began, server_before, rowcast_before) =
            (Instant::now(), server(), cost::cpu(run.pid()));
        sleep(MEASURED).await;
        let elapsed = began.elapsed().as_secs_f64();
        let server_share = (server() - server_before).as_secs_f64() / elapsed;
        let rowcast_share = (cost::cpu(run.pid()) - rowcast_before).as_secs_f64() / elapsed;

        // Apart from the above, since logging costs something.
        let cluster = &database.cluster;
        let before = cluster.log().len();
        cluster.set(&[("log_min_duration_statement", "0")]);
        cluster.reload().await;
        sleep(LOGGED).await;
        cluster.set(&[("log_min_duration_statement", "-1")]);
        cluster.reload().await;
        let log = cluster.log();
        let (mut polls, mut ms) = (0, 0.0);
        // Each is parsed, bound and executed.
        for line in log[before..].lines().filter(|line| line.contains(": WITH fresh AS")) {
            let (_, duration) = line.split_once("duration: ").expect("only durations are logged");
            let (duration, _) = duration.split_once(" ms").expect("in milliseconds");
            ms += duration.parse::<f64>().expect("a number");
            polls += u32::from(line.contains(" execute "));
        }
        let dead_rows =
            "select n_dead_tup from pg_stat_all_tables where relid = 'rowcast.outbox'::regclass";
        let dead_rows = database.psql(dead_rows).await.parse().expect("a number");
        run.sigterm();
        assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
        Self {
            dead_rows,
            polls_per_s: f64::from(polls) / LOGGED.as_secs_f64(),
            poll: Duration::from_secs_f64(ms / 1e3 / f64::from(polls.max(1))),
            rowcast_share,
            server_share,
        }
    }
}
