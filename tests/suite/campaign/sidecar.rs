//! rowcast under faults: started, killed, stopped, and started again, as a service manager would.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{process::Process, rowcast::Rowcast, wait::SOON};

/// With `grace = "2s"`, what confirming and closing take besides, and a busy machine.
const STOP: Duration = Duration::from_secs(10);

pub(super) struct Sidecar {
    rowcast: Rowcast,
    state: PathBuf,
    process: Process,
    /// What the processes before this one printed.
    said: Vec<Arc<str>>,
    /// What it did that it must not.
    pub(super) breaches: Vec<String>,
}

impl Sidecar {
    /// Sets up the database, starts, and waits until it streams.
    pub(super) async fn start(config: &str, slot: &str) -> Self {
        let rowcast = Rowcast::new(config);
        let state = rowcast.folder().join(format!("state/state-{slot}.json"));
        let setup = rowcast.start(&["setup"]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
        let process = rowcast.start(&["run"]);
        process.stderr.wait_for(SOON, "streaming changes").await;
        Self { rowcast, state, process, said: Vec::new(), breaches: Vec::new() }
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

    /// Makes the slot again, as an operator would.
    pub(super) async fn set_up(&self) {
        let setup = self.rowcast.start(&["setup"]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
    }

    pub(super) fn lose_state(&self) {
        match std::fs::remove_file(&self.state) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("the state file cannot be removed: {error}")
            }
            _ => {}
        }
    }

    /// Whether the state file tells of resyncs that are still to be sent.
    pub(super) fn owes(&self) -> bool {
        let Ok(file) = std::fs::read(&self.state) else { return true };
        let state: serde_json::Value = serde_json::from_slice(&file).expect("it is written whole");
        state["owed"] != serde_json::json!({})
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
