//! `/status`: how a process stands, as JSON. `rowcast status` reads it.

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Backlog, Observer, Source};

/// What does not change while a process runs.
#[derive(Clone, Debug)]
pub struct About {
    /// The configuration's file.
    pub config: PathBuf,
    /// `wal` or `triggers`.
    pub capture: &'static str,
    /// With `wal`.
    pub slot: Option<String>,
    pub rejected_file: PathBuf,
    pub since: Instant,
}

/// How a process stands. Ages are in whole seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub config: PathBuf,
    pub capture: String,
    pub slot: Option<String>,
    /// Since it started.
    pub since_s: u64,
    /// All in one line for people.
    pub words: String,
    /// Whether `/readyz` says so.
    pub ready: bool,
    pub source: SourceStatus,
    pub endpoint: EndpointStatus,
    pub backlog: BacklogStatus,
    /// How old the oldest change is that is not delivered. `None` on a standby.
    pub lag_seconds: Option<f64>,
    /// Since the endpoint accepted something; `None`: not yet.
    pub last_accepted_s: Option<u64>,
    /// Notifications that were made and not accepted yet, and their memory.
    pub pending: u64,
    pub pending_bytes: u64,
    /// Requests on their way.
    pub in_flight: u64,
    /// Rules whose pages are still to be told to fetch everything again.
    pub owed: Vec<OwedStatus>,
    /// Since it started.
    pub rejected_total: u64,
    pub rejected_file: PathBuf,
    /// Since it started.
    pub resyncs_total: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `starting`, `waiting`, `streaming`, `broken` or `stopping`.
    pub state: String,
    pub for_s: u64,
    /// Who has what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// `accepting`, `troubled` (requests are repeated) or `stopped` (it refuses all).
    pub state: String,
    pub for_s: u64,
    pub problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum BacklogStatus {
    Unknown,
    Log { unconfirmed_bytes: u64, retained_bytes: u64, max_bytes: u64 },
    Outbox { rows: u64, max_rows: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedStatus {
    pub rule: String,
    pub reason: String,
}

impl Status {
    pub fn of(observer: &Observer, about: &About, now: Instant) -> Status {
        let standing = observer.standing().borrow().clone();
        let metrics = observer.metrics();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
        let (holder, problem) = match &standing.source {
            Source::Waiting { holder, .. } => (Some(holder.to_string()), None),
            Source::Broken { problem, .. } => (None, Some(problem.to_string())),
            Source::Starting { .. } | Source::Streaming { .. } | Source::Stopping { .. } => {
                (None, None)
            }
        };
        let (source, endpoint) = (&standing.source, &standing.endpoint);
        let owed = standing.owed.iter();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            config: about.config.clone(),
            capture: about.capture.to_owned(),
            slot: about.slot.clone(),
            since_s: seconds(about.since),
            words: standing.words(now),
            ready: standing.is_ready(),
            source: SourceStatus {
                state: source.state().to_owned(),
                for_s: seconds(source.since()),
                holder,
                problem,
            },
            endpoint: EndpointStatus {
                state: endpoint.state().to_owned(),
                for_s: seconds(endpoint.since()),
                problem: endpoint.problem().map(str::to_owned),
            },
            backlog: match standing.backlog {
                Backlog::Unknown => BacklogStatus::Unknown,
                Backlog::Log { unconfirmed_bytes, retained_bytes, max_bytes } => {
                    BacklogStatus::Log { unconfirmed_bytes, retained_bytes, max_bytes }
                }
                Backlog::Outbox { rows, max_rows } => BacklogStatus::Outbox { rows, max_rows },
            },
            lag_seconds: metrics.lag_seconds(&standing, now),
            last_accepted_s: metrics.last_accepted_s().map(|seconds| seconds as u64),
            pending: metrics.pending(),
            pending_bytes: metrics.pending_bytes(),
            in_flight: metrics.in_flight(),
            owed: owed
                .map(|owed| OwedStatus { rule: owed.rule.to_string(), reason: owed.reason.into() })
                .collect(),
            rejected_total: metrics.rejected_total(),
            rejected_file: about.rejected_file.clone(),
            resyncs_total: metrics.resyncs_total(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::Owed;

    #[test]
    fn the_json_says_how_it_stands_and_is_read_back() {
        let observer = Observer::default();
        let since = Instant::now();
        observer.waits("slot rowcast held by pid 812");
        observer.endpoint_stopped("the endpoint answered 401");
        observer.backlog(Backlog::Outbox { rows: 7, max_rows: 100 });
        observer.owes(vec![Owed { rule: "posts".into(), reason: "gap" }]);
        let about = About {
            config: "/etc/rowcast/shop.toml".into(),
            capture: "wal",
            slot: Some("rowcast".to_owned()),
            rejected_file: "/var/lib/rowcast/rejected.jsonl".into(),
            since,
        };
        let status = Status::of(&observer, &about, Instant::now() + Duration::from_secs(60));
        let mut json = serde_json::to_value(&status).expect("it is JSON");
        assert_eq!(serde_json::from_value::<Status>(json.clone()).expect("reads"), status);
        json.as_object_mut().expect("an object").remove("pid");
        let expected = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "config": "/etc/rowcast/shop.toml",
            "capture": "wal",
            "slot": "rowcast",
            "since_s": 60,
            "words": "waiting for slot rowcast held by pid 812, endpoint down for 60 s, \
                      7 rows in the outbox",
            "ready": false,
            "source": {
                "state": "waiting", "for_s": 60, "holder": "slot rowcast held by pid 812"
            },
            "endpoint": {
                "state": "stopped", "for_s": 60, "problem": "the endpoint answered 401"
            },
            "backlog": { "kind": "outbox", "rows": 7, "max_rows": 100 },
            "lag_seconds": null,
            "last_accepted_s": null,
            "pending": 0,
            "pending_bytes": 0,
            "in_flight": 0,
            "owed": [{ "rule": "posts", "reason": "gap" }],
            "rejected_total": 0,
            "rejected_file": "/var/lib/rowcast/rejected.jsonl",
            "resyncs_total": 0,
        });
        assert_eq!(json, expected);
    }
}
