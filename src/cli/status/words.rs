//! The same for people: a line for each thing that one asks for.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::database::{Database, Triggers, Wal};
use super::process::Asked;
use super::{Status, Verdict};
use crate::chain;
use crate::cli::hint;
use crate::cli::units::{Bytes, Span};
use crate::observe::{self, EndpointStatus};
use crate::postgres::slot::Slot;

/// Of the words before a line.
const WIDTH: usize = 10;

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Lines::default();
        match &self.process {
            Asked::Answered(process, _) => lines.process(process, self.verdict()),
            Asked::NotRunning => {
                let at = self.socket.display();
                lines.add("process", format!("none: nothing listens at {at}"));
            }
            Asked::Failed(error) => {
                let problem = chain::line(error.as_ref());
                lines.add("process", format!("cannot be asked: {problem}"));
            }
        }
        match &self.database {
            Ok(Database::Wal(wal)) => {
                let lag = match &self.process {
                    Asked::Answered(process, _) => process.lag_seconds,
                    Asked::NotRunning | Asked::Failed(_) => None,
                };
                lines.wal(self.slot.as_str(), wal, lag);
            }
            Ok(Database::Triggers(triggers)) => lines.triggers(triggers),
            Err(error) => {
                lines.add("database", format!("cannot be asked: {}", chain::line(error.as_ref())));
                if let Some(hint) = hint(error) {
                    lines.add("", hint);
                }
            }
        }
        f.write_str(&lines.0)
    }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, text: impl AsRef<str>) {
        for (index, line) in text.as_ref().lines().enumerate() {
            let name = if index == 0 { name } else { "" };
            self.0.push_str(&format!("{name:<WIDTH$} {line}\n"));
        }
    }

    fn process(&mut self, process: &observe::Status, verdict: Verdict) {
        let verdict = match verdict {
            Verdict::Working => "working",
            Verdict::StandingBy => "standing by",
            Verdict::NotWorking | Verdict::NotRunning | Verdict::Unknown => "not working",
        };
        let running = seconds(process.since_s);
        let observe::Status { pid, version, .. } = process;
        self.add("process", format!("{verdict}: {}", process.words));
        self.add("", format!("pid {pid}, version {version}, running for {running}"));
        self.add("", process.config.display().to_string());
        if let Some(problem) = &process.source.problem {
            self.add("changes", problem);
        }
        self.add("endpoint", endpoint(&process.endpoint));
        self.add(
            "delivered",
            match process.last_accepted_s {
                Some(ago) => format!("the last notification {} ago", seconds(ago)),
                None => "nothing since the start".to_owned(),
            },
        );
        self.add(
            "pending",
            match (process.pending, process.in_flight) {
                (0, 0) => "nothing".to_owned(),
                (count, requests) => format!(
                    "{count} notifications ({}), {requests} requests on their way",
                    Bytes(process.pending_bytes)
                ),
            },
        );
        let owed: Vec<String> =
            process.owed.iter().map(|owed| format!("{} ({})", owed.rule, owed.reason)).collect();
        self.add(
            "owed",
            match &*owed {
                [] => "nothing".to_owned(),
                owed => format!("a resync of {}", owed.join(", ")),
            },
        );
        self.add("rejected", rejected(process));
        if process.resyncs_total > 0 {
            self.add("resyncs", format!("{} since the start", process.resyncs_total));
        }
    }

    fn wal(&mut self, name: &str, wal: &Wal, lag_seconds: Option<f64>) {
        let Some(slot) = &wal.slot else {
            let text =
                "does not exist, so Postgres keeps no changes for rowcast; rowcast setup makes it";
            return self.add("slot", format!("{name} {text}"));
        };
        self.add("slot", format!("{name}, {}", reader(slot)));
        if slot.is_lost() {
            let reason = slot.invalidation_reason.as_deref().unwrap_or("wal_removed");
            let text = "Postgres has removed the log that it still needed; the next start makes \
                        it again and tells all pages to fetch again";
            return self.add("", format!("lost ({reason}): {text}"));
        }
        let Some(lag) = wal.lag else { return };
        let seconds = lag_seconds.map(|seconds| format!(", {}", Span::of_seconds(seconds)));
        let behind = Bytes(lag.unconfirmed_bytes());
        self.add("behind", format!("{behind}{}", seconds.unwrap_or_default()));
        let passed_over = format!(
            "rowcast, while it runs, passes changes over once {} are behind, and tells pages to \
             fetch again",
            Bytes(wal.max_bytes)
        );
        let bound = match wal.max_slot_bytes {
            Some(bytes) => {
                format!("at {} Postgres drops the slot (max_slot_wal_keep_size)", Bytes(bytes))
            }
            None => "while it does not run nothing bounds it but the disk: \
                     max_slot_wal_keep_size is -1"
                .to_owned(),
        };
        self.add(
            "retained",
            format!("{} of log\n{passed_over}\n{bound}", Bytes(lag.retained_bytes())),
        );
        if let Some(holder) = &wal.holder {
            let text = "which rowcast cannot let go: end that transaction";
            self.add("", format!("most of it is kept for {holder}, {text}"));
        }
    }

    fn triggers(&mut self, triggers: &Triggers) {
        let Some(room) = triggers.room else {
            let text = "none, so no change is written down for rowcast; rowcast setup makes it";
            return self.add("outbox", text);
        };
        let reader = match &triggers.drained_by {
            Some(backend) => named(backend.pid, backend.application.as_deref()),
            None => "nobody".to_owned(),
        };
        let max_rows = triggers.max_rows;
        self.add("outbox", format!("{} rows of at most {max_rows}, read by {reader}", room.rows));
        match room.left {
            Some(0) => {
                let text = "it is full: changes are passed over until it is read, and pages are \
                            told to fetch again then";
                self.add("", text);
            }
            Some(left) => self.add("", format!("triggers may write about {left} more")),
            None => self.add("", "nobody has read from it yet, so triggers write nothing"),
        }
    }
}

fn endpoint(endpoint: &EndpointStatus) -> String {
    let lasting = format!(" for {}", seconds(endpoint.for_s));
    let problem = endpoint.problem.as_deref().unwrap_or("see the log");
    match &*endpoint.state {
        "accepting" => "accepts what is sent".to_owned(),
        "troubled" => format!("requests fail and are repeated{lasting}: {problem}"),
        "stopped" => {
            format!("takes nothing{lasting}, until somebody changes something: {problem}")
        }
        state => format!("{state}{lasting}"),
    }
}

fn rejected(process: &observe::Status) -> String {
    match process.rejected_total {
        0 => "nothing since the start".to_owned(),
        count => format!("{count} since the start: see {}", process.rejected_file.display()),
    }
}

fn seconds(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

fn reader(slot: &Slot) -> String {
    match slot.active_pid {
        Some(pid) => format!("read by {}", named(pid, slot.active_application.as_deref())),
        None => "nobody reads it".to_owned(),
    }
}

fn named(pid: i32, application: Option<&str>) -> String {
    match application.filter(|name| !name.is_empty()) {
        Some(application) => format!("backend {pid} ({application})"),
        None => format!("backend {pid}"),
    }
}

impl Database {
    pub(super) fn json(&self) -> Value {
        match self {
            Database::Wal(wal) => json!({
                "capture": "wal",
                "slot": wal.slot.as_ref().map(|slot| json!({
                    "is_lost": slot.is_lost(),
                    "active_pid": slot.active_pid,
                    "active_application": slot.active_application,
                    "confirmed_flush_lsn": slot.confirmed_flush_lsn.map(|lsn| lsn.to_string()),
                    "safe_wal_bytes": slot.safe_wal_size,
                })),
                "unconfirmed_bytes": wal.lag.map(|lag| lag.unconfirmed_bytes()),
                "retained_bytes": wal.lag.map(|lag| lag.retained_bytes()),
                "max_unconfirmed_bytes": wal.max_bytes,
                "max_slot_wal_keep_bytes": wal.max_slot_bytes,
                "held_by": wal.holder.as_ref().map(ToString::to_string),
            }),
            Database::Triggers(triggers) => json!({
                "capture": "triggers",
                "has_outbox": triggers.room.is_some(),
                "rows": triggers.room.map(|room| room.rows),
                "room_left": triggers.room.and_then(|room| room.left),
                "max_rows": triggers.max_rows,
                "read_by_pid": triggers.drained_by.as_ref().map(|backend| backend.pid),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::lag::Lag;
    use crate::postgres::slot::WalStatus;

    fn process(source: &str, endpoint: &str, ready: bool) -> Asked {
        let told = json!({
            "version": "0.1.0", "pid": 812, "config": "/etc/rowcast/shop.toml",
            "capture": "wal", "slot": "shop", "since_s": 11_000, "ready": ready,
            "words": source,
            "source": {
                "state": source, "for_s": 10_990,
                "holder": (source == "waiting").then_some("slot shop held by pid 7"),
            },
            "endpoint": { "state": endpoint, "for_s": 250, "problem": "it answers 401" },
            "backlog": { "kind": "unknown" }, "lag_seconds": 0.34, "last_accepted_s": 2,
            "pending": 0, "pending_bytes": 0, "in_flight": 0, "owed": [],
            "rejected_total": 0, "rejected_file": "/s/rejected.jsonl", "resyncs_total": 0,
        });
        let status = serde_json::from_value(told.clone()).expect("as a process tells it");
        Asked::Answered(Box::new(status), told)
    }

    fn slot() -> Slot {
        Slot {
            plugin: Some("pgoutput".into()),
            database: Some("shop".into()),
            active_pid: Some(813),
            active_application: Some("rowcast".into()),
            temporary: false,
            restart_lsn: None,
            confirmed_flush_lsn: None,
            wal_status: Some(WalStatus::Reserved),
            safe_wal_size: None,
            retained_bytes: None,
            invalidation_reason: None,
            failover: false,
        }
    }

    fn status(process: Asked, slot: Option<Slot>, max_slot_bytes: Option<u64>) -> Status {
        let lag = Lag {
            end: 60_000_000.into(),
            confirmed: 59_988_000.into(),
            restart: 44_000_000.into(),
        };
        let lag = slot.is_some().then_some(lag);
        let wal = Wal { slot, lag, max_bytes: 4_000_000_000, max_slot_bytes, holder: None };
        Status {
            slot: "shop".parse().expect("a name"),
            socket: "/s/shop.sock".into(),
            process,
            database: Ok(Database::Wal(Box::new(wal))),
        }
    }

    #[test]
    fn what_works_is_told_in_a_line_for_each_thing() {
        let running = process("streaming", "accepting", true);
        let status = status(running, Some(slot()), Some(10_000_000_000));
        assert_eq!(status.verdict(), Verdict::Working);
        assert_eq!(
            status.to_string(),
            "process    working: streaming
           pid 812, version 0.1.0, running for 3 h
           /etc/rowcast/shop.toml
endpoint   accepts what is sent
delivered  the last notification 2 s ago
pending    nothing
owed       nothing
rejected   nothing since the start
slot       shop, read by backend 813 (rowcast)
behind     12 kB, 0.3 s
retained   16 MB of log
           rowcast, while it runs, passes changes over once 4 GB are behind, and tells pages to fetch again
           at 10 GB Postgres drops the slot (max_slot_wal_keep_size)
"
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_what_it_means() {
        let running = status(process("streaming", "stopped", false), Some(slot()), None);
        assert_eq!(running.verdict(), Verdict::NotWorking);
        let text = running.to_string();
        for line in [
            "process    not working: streaming",
            "endpoint   takes nothing for 4 min, until somebody changes something: it answers 401",
            "nothing bounds it but the disk: max_slot_wal_keep_size is -1",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let gone = Slot { active_pid: None, wal_status: Some(WalStatus::Lost), ..slot() };
        let text = status(Asked::NotRunning, Some(gone), None).to_string();
        assert!(text.contains("process    none: nothing listens at /s/shop.sock"), "{text}");
        assert!(text.contains("slot       shop, nobody reads it"), "{text}");
        assert!(text.contains("lost (wal_removed)"), "{text}");
        let text = status(Asked::NotRunning, None, None).to_string();
        assert!(text.contains("shop does not exist"), "{text}");
    }

    #[test]
    fn one_that_stands_by_is_well_and_one_that_only_starts_is_not_yet() {
        let verdict =
            |state, ready| status(process(state, "accepting", ready), None, None).verdict();
        assert_eq!(verdict("waiting", true), Verdict::StandingBy);
        assert_eq!(verdict("starting", false), Verdict::NotWorking);
        assert_eq!(verdict("broken", false), Verdict::NotWorking);
    }
}
