//! What the demo prints.

use std::io::{self, Write};

use serde::Serialize;

use super::binaries::Version;
use super::ledger::{Finished, Totals};
use crate::cli::terminal;

/// With `--json`, stdout is kept for the one line at the end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Report {
    Human,
    Json,
}

impl Report {
    #[expect(clippy::print_stderr, reason = "progress, where stdout is for a program")]
    pub(super) fn say(self, line: &str) {
        match self {
            Report::Human => terminal::say(line),
            Report::Json => eprintln!("{line}"),
        }
    }

    /// A question, to be answered on the same line.
    #[expect(clippy::print_stderr, reason = "a question belongs to the terminal")]
    pub(super) fn ask(self, question: &str) {
        eprint!("{question}");
        // What does not get out will not be answered.
        let _ = io::stderr().flush();
    }

    pub(super) fn finished(self, step: &Finished) {
        self.say(&line(step));
    }

    pub(super) fn totals(self, totals: &Totals, postgres: &Version) {
        match self {
            Report::Human => terminal::say(format_args!("\n{}", summary(totals))),
            Report::Json => terminal::say(json_line(totals, postgres)),
        }
    }
}

fn line(step: &Finished) -> String {
    let Finished { what, events, channels, requests, latency_micros, .. } = step;
    let Some((low, high)) = *latency_micros else {
        return format!("{what:<42} {:>16}  →  nothing is sent", "");
    };
    let names: Vec<String> = events
        .iter()
        .map(|(name, count)| if *count == 1 { name.clone() } else { format!("{count} × {name}") })
        .collect();
    let names = names.join(", ");
    let (latency, channels) = if step.is_bulk() {
        let latency = format!("{} to {} ms", millis(low), millis(high));
        (latency, format!("{} channels, in {requests} requests", channels.len()))
    } else {
        let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
        (format!("{} ms", millis(high)), channels.join(", "))
    };
    format!("{what:<42} {latency:>16}  →  {names} on {channels}")
}

fn summary(totals: &Totals) -> String {
    let Totals { changes, notifications, requests, lost, rolled_back, rolled_back_sent, .. } =
        totals;
    let sent =
        if *rolled_back_sent == 0 { "none".to_owned() } else { rolled_back_sent.to_string() };
    format!(
        "changes        {changes} committed\n\
         notifications  {notifications} accepted, in {requests} requests\n\
         latency        p50 {} ms, p99 {} ms, from commit to the endpoint\n\
         \x20              p50 {} ms, p99 {} ms, of all but the bulk updates\n\
         lost           {lost}\n\
         rolled back    {rolled_back} changes, {sent} sent",
        millis(totals.p50_micros),
        millis(totals.p99_micros),
        millis(totals.single_p50_micros),
        millis(totals.single_p99_micros),
    )
}

/// What `--json` ends with.
#[derive(Debug, Serialize)]
struct JsonLine<'a> {
    changes: usize,
    notifications: usize,
    requests: usize,
    p50_ms: f64,
    p99_ms: f64,
    single_p50_ms: f64,
    single_p99_ms: f64,
    lost: usize,
    rolled_back: usize,
    rolled_back_sent: usize,
    postgres: &'a str,
}

fn json_line(totals: &Totals, postgres: &Version) -> String {
    let millis = |micros: u64| micros as f64 / 1000.0;
    let line = JsonLine {
        changes: totals.changes,
        notifications: totals.notifications,
        requests: totals.requests,
        p50_ms: millis(totals.p50_micros),
        p99_ms: millis(totals.p99_micros),
        single_p50_ms: millis(totals.single_p50_micros),
        single_p99_ms: millis(totals.single_p99_micros),
        lost: totals.lost,
        rolled_back: totals.rolled_back,
        rolled_back_sent: totals.rolled_back_sent,
        postgres: postgres.as_str(),
    };
    serde_json::to_string(&line).expect("numbers and text are JSON")
}

fn millis(micros: u64) -> String {
    format!("{:.1}", micros as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn step(changes: usize, channels: &[&str]) -> Finished {
        Finished {
            what: "update posts".to_owned(),
            changes,
            events: BTreeMap::from([("PostUpdated".to_owned(), changes)]),
            channels: channels.iter().map(|it| it.to_string()).collect::<BTreeSet<String>>(),
            requests: 3,
            latency_micros: Some((900, 12_345)),
        }
    }

    #[test]
    fn a_step_is_one_line_and_a_bulk_one_is_summed_up() {
        let one = line(&step(1, &["posts", "posts.1"]));
        assert!(one.ends_with("  12.3 ms  →  PostUpdated on posts, posts.1"), "{one}");
        let bulk = line(&step(200, &["posts", "posts.1"]));
        assert!(
            bulk.ends_with(" 0.9 to 12.3 ms  →  200 × PostUpdated on 2 channels, in 3 requests"),
            "{bulk}"
        );
        assert_eq!(one.find('→'), bulk.find('→'));
        let nothing = Finished { latency_micros: None, ..step(0, &[]) };
        assert!(line(&nothing).ends_with("nothing is sent"));
    }
}
