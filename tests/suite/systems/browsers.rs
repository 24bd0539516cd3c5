//! All the pages of a system, in one process: `tests/client/system.mjs`.

use std::{collections::BTreeSet, path::Path};

use serde::Deserialize;
use serde_json::{Value, json};

use super::scenario::{Client, Subscription};
use crate::harness::{node, process::Process, sockudo::Sockudo, wait::SOON};

pub struct Browsers {
    process: Process,
}

/// What a page heard.
#[derive(Debug, Deserialize)]
pub struct Heard {
    pub client: String,
    pub channel: String,
    pub event: String,
    /// The `.listen(…)` that heard it.
    pub by: Vec<String>,
    pub data: Value,
    /// Wall clock, in milliseconds since 1970.
    pub at_ms: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Connected { client: String, socket: String },
    Joined { client: String, channel: String },
    Refused { client: String, channel: String, why: Value },
    Error { client: String, error: Value },
    Heard(Heard),
    Called { client: String, call: String },
}

impl Browsers {
    /// Connected, and joined to nothing yet.
    pub async fn open(
        sockudo: &Sockudo,
        encryption_key: &str,
        page: &Path,
        clients: &[Client],
    ) -> Self {
        let mut app = sockudo.app();
        app["encryption_key"] = encryption_key.into();
        let channels = |texts: &[String]| -> Vec<String> {
            texts.iter().map(|text| Subscription::of(text).channel()).collect()
        };
        let described: Vec<Value> = clients
            .iter()
            .map(|client| {
                json!({
                    "name": client.name, "user": client.user,
                    "refused": channels(&client.refused), "forged": channels(&client.forged),
                })
            })
            .collect();
        let process =
            node::start("system.mjs", &json!({ "app": app, "page": page, "clients": described }));
        let browsers = Self { process };
        for client in clients {
            browsers.socket(&client.name).await;
        }
        browsers
    }

    /// The client's socket id, once it is connected.
    pub async fn socket(&self, client: &str) -> String {
        self.wait_for(&format!("{client} is connected"), |line| match line {
            Line::Connected { client: connected, socket } if connected == client => Some(socket),
            _ => None,
        })
        .await
    }

    /// Runs these functions of page.js, `server 1`, and joins these channels.
    pub async fn show(
        &self,
        client: &str,
        pages: &[&str],
        joins: &[(Subscription<'_>, Vec<String>)],
    ) {
        self.ask(client, pages, joins);
        for (subscription, _) in joins {
            let channel = subscription.channel();
            let what = format!("{client} joins {channel}");
            let outcome = self.wait_for(&what, |line| about(client, &channel, line));
            if let Err(why) = outcome.await {
                panic!("{what}: refused: {why}");
            }
        }
    }

    /// Returns when it was refused.
    pub async fn fail_to_join(&self, client: &str, subscription: Subscription<'_>) {
        self.ask(client, &[], &[(subscription, Vec::new())]);
        let channel = subscription.channel();
        let what = format!("{client} is refused {channel}");
        let outcome = self.wait_for(&what, |line| about(client, &channel, line));
        assert!(outcome.await.is_err(), "{client} has joined {channel}");
    }

    /// With a signature that is none. Returns when the server has said so.
    pub async fn forge(&self, client: &str, subscription: Subscription<'_>) {
        const UNAUTHORIZED: u32 = 4009;
        self.ask(client, &[], &[(subscription, Vec::new())]);
        let channel = subscription.channel();
        let what = format!("the server tells {client} that it may not join {channel}");
        self.wait_for(&what, |line| match line {
            Line::Error { client: c, error } if c == client => {
                (error["data"]["code"] == UNAUTHORIZED).then_some(())
            }
            Line::Joined { client: c, channel: joined } if c == client => {
                assert_ne!(joined, channel, "{client} has joined it");
                None
            }
            _ => None,
        })
        .await;
    }

    fn ask(&self, client: &str, pages: &[&str], joins: &[(Subscription<'_>, Vec<String>)]) {
        let joins = joins.iter().map(|(Subscription { method, name }, events)| {
            json!({ "method": method, "name": name, "events": events })
        });
        let joins: Vec<Value> = joins.collect();
        let pages = pages.iter().map(|page| {
            let mut words = page.split(' ');
            json!({ "name": words.next(), "parameters": words.collect::<Vec<_>>() })
        });
        let pages: Vec<Value> = pages.collect();
        let open = json!({ "client": client, "pages": pages, "joins": joins });
        self.process.write_line(&json!({ "open": open }).to_string());
    }

    /// Cuts the connection and makes it again. Returns when all these channels are joined again.
    pub async fn reconnect(&self, client: &str, channels: BTreeSet<&str>) {
        let mark = self.mark();
        self.process.write_line(&json!({ "reconnect": { "client": client } }).to_string());
        let mut waiting = channels;
        if waiting.is_empty() {
            return;
        }
        let what = format!("{client} joins again");
        let lines = &self.process.stdout;
        lines
            .find_after(mark, SOON, &what, |line| {
                if let Line::Joined { client: c, channel } = parse(line)
                    && c == client
                {
                    waiting.remove(&*channel);
                }
                waiting.is_empty().then_some(())
            })
            .await;
    }

    /// Waits until pages have asked this of their application, after `mark`: `till: fetchOrder 7`.
    pub async fn calls(&self, mark: usize, calls: &[String]) {
        for wanted in calls {
            let find = |line: &str| match parse(line) {
                Line::Called { client, call } => {
                    (format!("{client}: {call}") == *wanted).then_some(())
                }
                _ => None,
            };
            self.process.stdout.find_after(mark, SOON, wanted, find).await;
        }
    }

    /// Where the lines end now.
    pub fn mark(&self) -> usize {
        self.process.stdout.mark()
    }

    pub fn leave(&self, client: &str, channel: &str) {
        let leave = json!({ "client": client, "channel": channel });
        self.process.write_line(&json!({ "leave": leave }).to_string());
    }

    /// The lines from `mark` on, and where they end.
    pub fn heard_from(&self, mark: usize) -> (Vec<Heard>, usize) {
        let lines = self.process.stdout.all();
        let heard = lines[mark..].iter().filter_map(|line| match parse(line) {
            Line::Heard(heard) => Some(heard),
            _ => None,
        });
        (heard.collect(), lines.len())
    }

    async fn wait_for<T>(&self, what: &str, mut find: impl FnMut(Line) -> Option<T>) -> T {
        self.process.stdout.find_after(0, SOON, what, |line| find(parse(line))).await
    }

    /// Waits until each page has heard the event on each of its channels.
    pub async fn hear_everywhere(&self, joined: &[(String, String)], event: &str) {
        let mut waiting: BTreeSet<(String, String)> = joined.iter().cloned().collect();
        self.wait_for(&format!("{event} everywhere"), |line| {
            if let Line::Heard(heard) = line
                && heard.event == event
            {
                waiting.remove(&(heard.client, heard.channel));
            }
            waiting.is_empty().then_some(())
        })
        .await;
    }
}

fn about(client: &str, channel: &str, line: Line) -> Option<Result<(), Value>> {
    match line {
        Line::Joined { client: c, channel: joined } if c == client && joined == channel => {
            Some(Ok(()))
        }
        Line::Refused { client: c, channel: refused, why } if c == client && refused == channel => {
            Some(Err(why))
        }
        _ => None,
    }
}

fn parse(line: &str) -> Line {
    serde_json::from_str(line)
        .unwrap_or_else(|error| panic!("system.mjs printed {line:?}: {error}"))
}
