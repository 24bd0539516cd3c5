//! rowcast under faults: started, killed, stopped, and started again, as a service manager would.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::time::sleep;

use crate::harness::{process::Process, rowcast::Rowcast, wait::SOON};

/// With `grace = "2s"`, what deleting and closing take besides where the network is stalled, and a busy machine.
const STOP: Duration = Duration::from_secs(25);

pub(super) struct Sidecar {
    rowcast: Rowcast,
    /// The arguments of `rowcast setup`.
    setup: Vec<String>,
    process: Process,
    /// What the processes before this one printed.
    said: Vec<Arc<str>>,
    /// What it did that it must not.
    pub(super) breaches: Vec<String>,
}

impl Sidecar {
    /// Sets up the database, as its owner if that is somebody else, starts, and waits until it streams.
    pub(super) async fn start(config: &str, owner: Option<&str>) -> Self {
        let rowcast = Rowcast::new(config);
        let mut setup = vec!["setup"];
        setup.extend(owner.iter().flat_map(|url| ["--url", url]));
        let setup: Vec<String> = setup.into_iter().map(str::to_owned).collect();
        assert_eq!(set_up(&rowcast, &setup).await, Ok(()));
        let process = rowcast.start(&["run"]);
        process.stderr.wait_for(SOON, "streaming changes").await;
        Self { rowcast, setup, process, said: Vec::new(), breaches: Vec::new() }
    }

    pub(super) async fn kill(&mut self) {
        self.process.kill9();
        self.process.ended(SOON).await;
    }

    /// Ends it by SIGTERM.
    pub(super) async fn stop(&mut self) {
        self.process.sigterm();
        self.process.ended(STOP).await;
    }

    pub(super) fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    pub(super) fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    pub(super) fn start_again(&mut self) {
        self.collect();
        self.process = self.rowcast.start(&["run"]);
    }

    /// To end by itself at that place, which it may not come to.
    pub(super) async fn start_until(&mut self, place: &str, longest: Duration) {
        self.collect();
        self.process = self.rowcast.start_with(&["run"], &[("ROWCAST_FAILPOINT", place)]);
        let end = Instant::now() + longest;
        while self.process.is_running() && Instant::now() < end {
            sleep(Duration::from_millis(10)).await;
        }
        self.kill().await;
    }

    /// Another one waits for it to be gone, and it is killed.
    pub(super) async fn relieve(&mut self, after: Duration) {
        let next = self.rowcast.start(&["run"]);
        sleep(after).await;
        self.kill().await;
        self.collect();
        self.process = next;
    }

    /// Makes what was dropped again, as an operator would. `Err` is what it said.
    pub(super) async fn try_set_up(&self) -> Result<(), String> {
        set_up(&self.rowcast, &self.setup).await
    }

    pub(super) fn lose_state(&self) {
        for file in self.states() {
            std::fs::remove_file(file).expect("the folder is ours, and rowcast is not there");
        }
    }

    /// Whether the state file tells of resyncs that are still to be sent.
    pub(super) fn owes(&self) -> bool {
        let owes = |file: PathBuf| {
            let Ok(file) = std::fs::read(file) else { return true };
            let state: serde_json::Value =
                serde_json::from_slice(&file).expect("it is written whole");
            state["owed"] != serde_json::json!({})
        };
        let states = self.states();
        states.is_empty() || states.into_iter().any(owes)
    }

    /// The state file, if it is there.
    fn states(&self) -> Vec<PathBuf> {
        let Ok(folder) = std::fs::read_dir(self.rowcast.folder().join("state")) else {
            return Vec::new();
        };
        let files = folder.map(|entry| entry.expect("the folder can be read").path());
        files.filter(|path| path.extension().is_some_and(|it| it == "json")).collect()
    }

    /// Starts it again if it has ended, as it may where something that it needs is missing.
    pub(super) fn start_if_ended(&mut self) {
        if !self.process.is_running() {
            self.start_again();
        }
    }

    /// A process that nobody ended has to be there.
    pub(super) fn check(&mut self) {
        if !self.process.is_running() {
            let last = self.process.stderr.all().last().cloned().unwrap_or_default();
            self.breaches.push(format!("rowcast ended by itself: {last}"));
            self.start_again();
        }
    }

    /// All that it has printed.
    pub(super) fn said(&mut self) -> &[Arc<str>] {
        self.collect();
        &self.said
    }

    fn collect(&mut self) {
        let lines = self.process.stderr.all();
        let known = self.said.len();
        self.said.extend(lines);
        let panicked = |line: &&Arc<str>| line.contains("panicked at");
        self.breaches
            .extend(self.said[known..].iter().filter(panicked).map(|line| line.to_string()));
    }
}

async fn set_up(rowcast: &Rowcast, arguments: &[String]) -> Result<(), String> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let setup = rowcast.start(&arguments);
    match setup.exit_code(Duration::from_secs(60)).await {
        0 => Ok(()),
        code => Err(format!("exit code {code}: {}", setup.stderr.all().join("\n"))),
    }
}
