//! A browser's side: real pusher-js, in Node.

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{lines::Lines, node, process::Process, sockudo::Sockudo, wait::SOON};

/// Has joined its channels. Private ones by an answer that it signs itself, as an application's auth route would.
pub struct Listener {
    process: Process,
}

/// An event as pusher-js handed it to the page.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Heard {
    pub channel: String,
    pub event: String,
    pub data: Value,
    /// Wall clock, in milliseconds since 1970.
    pub at_ms: f64,
}

/// The method of Echo that joins a channel of the class.
#[derive(Debug, Clone, Copy)]
pub enum EchoChannel {
    Public,
    Private,
    EncryptedPrivate,
    Presence,
}

impl EchoChannel {
    fn method(self) -> &'static str {
        match self {
            Self::Public => "channel",
            Self::Private => "private",
            Self::EncryptedPrivate => "encryptedPrivate",
            Self::Presence => "join",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Joined { channel: String },
    Refused { channel: String, why: Value },
    Heard(Heard),
    Here { channel: String, member: Value },
    State(String),
    Socket(String),
}

impl Listener {
    /// Returns when every channel is joined.
    pub async fn join(sockudo: &Sockudo, channels: &[&str]) -> Self {
        let listener =
            Self { process: node::start("listen.mjs", &json!({ "app": sockudo.app() })) };
        for channel in channels {
            listener.join_also(channel).await;
        }
        listener
    }

    pub async fn join_also(&self, channel: &str) {
        self.process.write_line(&json!({ "join": channel }).to_string());
        self.joined(channel).await;
    }

    /// As a page does with Laravel Echo: `Echo.<kind>(channel).listen(event, …)`. What it hears has these two names.
    pub async fn listen_by_echo(&self, kind: EchoChannel, channel: &str, event: &str) {
        let listen = json!({ "kind": kind.method(), "channel": channel, "event": event });
        self.process.write_line(&json!({ "echo": listen }).to_string());
        self.joined(channel).await;
    }

    async fn joined(&self, channel: &str) {
        let what = format!("{channel} is joined");
        let joined = self.find(SOON, &what, |line| match line {
            Line::Joined { channel: joined } => joined == channel,
            Line::Refused { channel: refused, why } => {
                assert_ne!(refused, channel, "refused: {why}");
                false
            }
            Line::Heard(_) | Line::Here { .. } | Line::State(_) | Line::Socket(_) => false,
        });
        joined.await;
    }

    /// The first event that answers the description, also among those heard already.
    pub async fn wait_for(
        &self,
        deadline: Duration,
        what: &str,
        mut wanted: impl FnMut(&Heard) -> bool,
    ) -> Heard {
        let found = self
            .find(deadline, what, |line| matches!(line, Line::Heard(heard) if wanted(heard)))
            .await;
        let Line::Heard(heard) = found else { unreachable!("only such a line is taken") };
        heard
    }

    /// What the server calls its connection.
    pub async fn socket_id(&self) -> String {
        let found = self.find(SOON, "a connection", |line| matches!(line, Line::Socket(_))).await;
        let Line::Socket(id) = found else { unreachable!("only such a line is taken") };
        id
    }

    /// Waits for pusher-js to be in this connection state: `connected`, `connecting`, `unavailable` …
    pub async fn wait_for_state(&self, deadline: Duration, state: &str) {
        let what = format!("pusher-js is {state}");
        self.find(deadline, &what, |line| matches!(line, Line::State(now) if now == state)).await;
    }

    /// Waits until Echo has told of so many members of the presence channel, by `here` or `joining`.
    pub async fn wait_for_members(&self, deadline: Duration, channel: &str, count: usize) {
        let mut members = BTreeSet::new();
        let what = format!("{count} members are on {channel}");
        let enough = |line: &Line| match line {
            Line::Here { channel: on, member } if on == channel => {
                members.insert(member.to_string());
                members.len() >= count
            }
            _ => false,
        };
        self.find(deadline, &what, enough).await;
    }

    /// All events so far, in the order heard.
    pub fn heard(&self) -> Vec<Heard> {
        let lines = self.process.stdout.all();
        lines
            .iter()
            .filter_map(
                |line| if let Line::Heard(heard) = parse(line) { Some(heard) } else { None },
            )
            .collect()
    }

    async fn find(
        &self,
        deadline: Duration,
        what: &str,
        mut wanted: impl FnMut(&Line) -> bool,
    ) -> Line {
        let lines: &Lines = &self.process.stdout;
        lines.find_after(0, deadline, what, |line| Some(parse(line)).filter(&mut wanted)).await
    }
}

fn parse(line: &str) -> Line {
    serde_json::from_str(line)
        .unwrap_or_else(|error| panic!("listen.mjs printed {line:?}: {error}"))
}
