//! What is expected and what was heard, page by page.

use std::borrow::Cow;

use serde_json::Value;

use super::{
    browsers::Heard,
    scenario::{Step, is_like},
};
use crate::harness::capture::Capture;

pub struct Ledger {
    capture: Capture,
    due: Vec<Due>,
    /// From the step's last commit to the page.
    pub latencies_ms: Vec<f64>,
}

/// A message that one page has to hear.
struct Due {
    step: usize,
    client: String,
    channel: String,
    event: String,
    data: Value,
    at_most: usize,
    heard: usize,
}

impl Ledger {
    pub fn new(capture: Capture) -> Self {
        Self { capture, due: Vec::new(), latencies_ms: Vec::new() }
    }

    /// `joined` are the pages and their channels.
    pub fn expect(&mut self, number: usize, step: &Step, joined: &[(String, String)]) {
        for expect in &step.expect {
            let data: Value = serde_json::from_str(&expect.data).unwrap_or_else(|error| {
                panic!("{}: data is no JSON: {error}: {}", step.claim, expect.data)
            });
            for channel in expect.channels.iter() {
                let hears =
                    |client: &String| expect.to.as_ref().is_none_or(|to| to.contains(client));
                let mut clients = joined
                    .iter()
                    .filter(|(client, joined)| joined == channel && hears(client))
                    .map(|(client, _)| client)
                    .peekable();
                assert!(clients.peek().is_some(), "{}: nobody is on {channel}", step.claim);
                for client in clients {
                    self.due.extend(expect.events.iter().map(|event| Due {
                        step: number,
                        client: client.clone(),
                        channel: channel.to_owned(),
                        event: event.to_owned(),
                        data: data.clone(),
                        at_most: expect.at_most.unwrap_or(1),
                        heard: 0,
                    }));
                }
            }
        }
    }

    /// Panics if nobody expected it.
    pub fn hear(&mut self, heard: &Heard, claim: &str, committed_ms: Option<f64>) {
        assert!(!heard.by.is_empty(), "{claim}: no .listen(…) of the page hears {heard:?}");
        // What is waited for comes first, then what may come once more.
        let capture = self.capture;
        let is_heard = |due: &Due| {
            due.heard < due.at_most
                && due.client == heard.client
                && due.channel == heard.channel
                && due.event == heard.event
                && says(capture, &due.data, &heard.data)
        };
        let due = self.due.iter_mut().filter(|due| is_heard(due)).min_by_key(|due| due.heard);
        let Some(due) = due else {
            panic!("{claim}: this was not expected: {heard:?}\nbut these:\n{}", self.missing());
        };
        due.heard += 1;
        if let Some(committed_ms) = committed_ms {
            self.latencies_ms.push((heard.at_ms - committed_ms).max(0.0));
        }
    }

    pub fn is_complete(&self) -> bool {
        self.due.iter().all(|due| due.heard > 0)
    }

    pub fn missing(&self) -> String {
        let missing = self.due.iter().filter(|due| due.heard == 0);
        let lines = missing.map(|due| {
            format!(
                "step {}: {} on {}: {} {}",
                due.step, due.client, due.channel, due.event, due.data
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Triggers write the columns that rules name. Of the others it is not known whether they changed, and `changed` is told
/// only where that is known of all.
fn says(capture: Capture, expected: &Value, data: &Value) -> bool {
    let mut expected = Cow::Borrowed(expected);
    if capture == Capture::Triggers && data["changed"].is_null() {
        expected.to_mut().as_object_mut().and_then(|data| data.remove("changed"));
    }
    is_like(&expected, data)
}
