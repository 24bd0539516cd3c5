//! A real Chromium and its windows.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{installed, node, process::Process, scratch};

/// Longer than the script's own deadline, whose answer says more.
const ANSWERED: Duration = Duration::from_secs(40);

/// Ends when dropped, with its windows.
pub struct Browser {
    process: Process,
    calls: AtomicU64,
    /// Where it keeps its profile.
    _folder: TempDir,
}

/// A window with cookies and storage of its own, as on another machine.
pub struct Window<'a> {
    browser: &'a Browser,
    name: String,
}

#[derive(Deserialize)]
struct Answer {
    call: u64,
    #[serde(default)]
    value: Value,
    failed: Option<String>,
}

impl Browser {
    pub fn start() -> Self {
        let folder = scratch::folder("browser");
        let mut command = node::command("browser/drive.mjs");
        command.arg(installed("/usr/bin/chromium".into())).env("TMPDIR", folder.path());
        let process = Process::spawn(&mut command, folder.path());
        Self { process, calls: AtomicU64::new(0), _folder: folder }
    }

    /// Returns when the page is loaded.
    pub async fn open(&self, url: &str) -> Window<'_> {
        let name = format!("window {}", self.calls.load(Ordering::Relaxed));
        self.call(json!({ "open": name, "url": url })).await;
        Window { browser: self, name }
    }

    async fn call(&self, mut command: Value) -> Value {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        command["call"] = call.into();
        let lines = &self.process.stdout;
        let mark = lines.mark();
        let command = command.to_string();
        self.process.write_line(&command);
        let answer = lines.find_after(mark, ANSWERED, &command, |line| {
            let answer: Answer = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("drive.mjs printed {line:?}: {error}"));
            (answer.call == call).then_some(answer)
        });
        let answer = answer.await;
        if let Some(why) = answer.failed {
            panic!("{command}: {why}");
        }
        answer.value
    }
}

impl Window<'_> {
    /// The value of a JavaScript expression, awaited if it is a promise.
    pub async fn run(&self, javascript: &str) -> Value {
        self.call(json!({ "run": javascript })).await
    }

    /// When an expression about what the page shows came true, in milliseconds since 1970. Panics after twenty seconds.
    pub async fn until(&self, javascript: &str) -> f64 {
        let at_ms = self.call(json!({ "until": javascript })).await;
        at_ms.as_f64().expect("the script answers a number")
    }

    /// Types at the keyboard, with the focus in the element.
    pub async fn type_into(&self, selector: &str, text: &str) {
        self.call(json!({ "type": text, "into": selector })).await;
    }

    /// How many requests for this path the window has made.
    pub async fn requests(&self, path: &str) -> u64 {
        let requests = self.call(json!({ "requests": path })).await;
        requests.as_u64().expect("the script answers a number")
    }

    pub async fn close(self) {
        self.browser.call(json!({ "close": self.name })).await;
    }

    async fn call(&self, mut command: Value) -> Value {
        command["window"] = self.name.clone().into();
        self.browser.call(command).await
    }
}
