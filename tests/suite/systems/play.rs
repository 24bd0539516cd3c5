//! One configuration, its scenario played.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;
use tokio_postgres::Client;

use super::{
    browsers::{Browsers, Heard},
    ledger::Ledger,
    scenario::{Client as Browser, Scenario, Step, Subscription},
};
use crate::harness::{
    capture::Capture,
    cluster::Version,
    database::Database,
    process::Process,
    rowcast::Rowcast,
    sockudo::Sockudo,
    wait::{SOON, eventually},
};

/// A message that takes longer counts as lost.
const DEADLINE: Duration = Duration::from_secs(15);

const ENCRYPTION_KEY: &str = "base64:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

pub struct Play {
    capture: Capture,
    sockudo: Sockudo,
    application: Client,
    database: Database,
    rowcast: Rowcast,
    browsers: Browsers,
    /// Each page and its channels.
    joined: Vec<(String, String)>,
    ledger: Ledger,
    /// How many of the browsers' lines were read.
    mark: usize,
}

impl Play {
    /// Tables made, `setup` run, pages opened.
    pub async fn prepare(
        folder: &Path,
        config: &str,
        scenario: &Scenario,
        capture: Capture,
    ) -> Self {
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("the folder has it");
        let (database, sockudo) = tokio::join!(Database::on(Version::DEFAULT), Sockudo::start());
        database.psql(&read("schema.sql")).await;
        database.psql(&scenario.before).await;
        let url = database.url_over(capture).await;
        let captured = format!("[database]\ncapture = '{capture}'\n");
        let rowcast = Rowcast::new(&read(config).replace("[database]\n", &captured))
            .env("DATABASE_URL", &url)
            .env("ROWCAST_SLOT", &database.slot())
            .env("PUSHER_URL", &sockudo.url())
            .env("PUSHER_SERVER", "sockudo")
            .env("PUSHER_ENCRYPTION_KEY", ENCRYPTION_KEY)
            .env("REVERB_APP_ID", Sockudo::APP_ID)
            .env("REVERB_APP_KEY", Sockudo::KEY)
            .env("REVERB_APP_SECRET", Sockudo::SECRET);
        database.set_up(&rowcast, capture).await;
        let browsers =
            Browsers::open(&sockudo, ENCRYPTION_KEY, &folder.join("page.js"), &scenario.clients)
                .await;
        let application = database.client().await;
        let mut play = Self {
            capture,
            sockudo,
            application,
            database,
            rowcast,
            browsers,
            joined: Vec::new(),
            ledger: Ledger::new(capture),
            mark: 0,
        };
        let mark = play.browsers.mark();
        play.open_pages(scenario).await;
        play.browsers.calls(mark, &fetches(scenario)).await;
        play
    }

    async fn open_pages(&mut self, scenario: &Scenario) {
        for client in &scenario.clients {
            let joins = client.listen.iter().map(|(subscription, names)| {
                let dotted = names.iter().filter(|_| client.both).map(|name| format!(".{name}"));
                let resync = [".rowcast.resync".to_owned()];
                let events = names.iter().cloned().chain(dotted).chain(resync).collect();
                (Subscription::of(subscription), events)
            });
            let joins: Vec<(Subscription<'_>, Vec<String>)> = joins.collect();
            let pages: Vec<&str> = client.pages.keys().map(String::as_str).collect();
            self.browsers.show(&client.name, &pages, &joins).await;
            let channels = joins.iter().map(|(at, _)| (client.name.clone(), at.channel()));
            self.joined.extend(channels);
            for subscription in &client.refused {
                self.browsers.fail_to_join(&client.name, Subscription::of(subscription)).await;
            }
            for subscription in &client.forged {
                self.browsers.forge(&client.name, Subscription::of(subscription)).await;
            }
        }
    }

    /// At its first start rowcast does not know what it has missed, so it tells every page to fetch. Afterwards it
    /// knows, and tells only what changes.
    pub async fn resync_by_a_first_start(&mut self, scenario: &Scenario) {
        let start = self.browsers.mark();
        let run = self.run().await;
        let mut waiting: BTreeSet<(String, String)> = self.joined.iter().cloned().collect();
        waiting.retain(|(_, channel)| !scenario.without_resync.contains(channel));
        let mut mark = self.mark;
        eventually(SOON, "every channel is told to fetch", async || {
            let (heard, end) = self.browsers.heard_from(mark);
            mark = end;
            for Heard { client, channel, event, by, data, .. } in heard {
                let is_resync = event == "rowcast.resync" || data["action"] == "resync";
                let is_presence = event.starts_with(':');
                assert!(is_resync || is_presence, "{client} hears {event} on {channel}: {data}");
                assert!(!by.is_empty(), "{client} does not listen for {event} on {channel}");
                waiting.remove(&(client, channel));
            }
            waiting.is_empty().then_some(())
        })
        .await;
        self.stop(run).await;
        self.browsers.calls(start, &fetches(scenario)).await;
        self.fence("fence-1").await;
        (_, self.mark) = self.browsers.heard_from(self.mark);
    }

    pub async fn run(&self) -> Process {
        let run = self.rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        run
    }

    /// Plays a step and waits for what it makes the pages hear.
    pub async fn step(&mut self, number: usize, step: &Step) {
        let start = self.browsers.mark();
        if let Some((client, subscription)) = step.join.as_deref().map(by_client) {
            let joined = Subscription::of(subscription);
            self.joined.push((client.to_owned(), joined.channel()));
            self.ledger.expect(number, step, &self.joined);
            self.browsers.show(client, &[], &[(joined, Vec::new())]).await;
        } else {
            if let Some((client, channel)) = step.leave.as_deref().map(by_client) {
                self.joined.retain(|joined| *joined != (client.to_owned(), channel.to_owned()));
                self.browsers.leave(client, channel);
            }
            self.ledger.expect(number, step, &self.joined);
        }
        let transactions: Vec<&str> = step.sql.iter().collect();
        for sql in &transactions {
            let sql = self.with_socket_ids(sql).await;
            let done = self.application.batch_execute(&sql).await;
            done.unwrap_or_else(|error| panic!("{}: {error:?}\nin: {sql}", step.claim));
        }
        // Of several transactions it is not known which one a message tells of.
        let committed_ms = (transactions.len() == 1).then(now_ms);
        let end = Instant::now() + DEADLINE;
        let in_time = eventually(SOON, &step.claim, async || {
            let (heard, mark) = self.browsers.heard_from(self.mark);
            self.mark = mark;
            for heard in &heard {
                self.ledger.hear(heard, &step.claim, committed_ms);
            }
            let is_late = Instant::now() > end;
            (is_late || self.ledger.is_complete()).then_some(!is_late)
        });
        let in_time = in_time.await;
        assert!(in_time, "{}: not within {DEADLINE:?}:\n{}", step.claim, self.ledger.missing());
        self.browsers.calls(start, &step.calls).await;
    }

    /// `@socket ann` becomes her socket id.
    async fn with_socket_ids(&self, sql: &str) -> String {
        const MARK: &str = "@socket ";
        let mut text = sql.to_owned();
        while let Some(start) = text.find(MARK) {
            let name = &text[start + MARK.len()..];
            let name: String = name.chars().take_while(char::is_ascii_alphanumeric).collect();
            let socket = self.browsers.socket(&name).await;
            text.replace_range(start..start + MARK.len() + name.len(), &socket);
        }
        text
    }

    /// Pages fetch when they are connected again: rowcast does not know what they missed.
    pub async fn reconnect(&self, scenario: &Scenario) {
        for client in scenario.clients.iter().filter(|client| !client.pages.is_empty()) {
            let start = self.browsers.mark();
            let joined = self.joined.iter().filter(|(name, _)| *name == client.name);
            let channels = joined.map(|(_, channel)| &**channel).collect();
            self.browsers.reconnect(&client.name, channels).await;
            self.browsers.calls(start, &fetches_of(client)).await;
        }
    }

    /// Returns when all that was written is delivered.
    pub async fn stop(&self, run: Process) {
        self.database.delivered(self.capture).await;
        run.sigterm();
        assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
    }

    /// After this the pages have heard all that was sent before.
    async fn fence(&self, event: &str) {
        let channels: BTreeSet<&str> = self.joined.iter().map(|(_, channel)| &**channel).collect();
        let (encrypted, plain): (Vec<&str>, Vec<&str>) =
            channels.into_iter().partition(|channel| channel.starts_with("private-encrypted-"));
        if !plain.is_empty() {
            self.sockudo.publish(&plain, event, &json!({})).await;
        }
        for channel in encrypted {
            let send = self.rowcast.start(&["send", channel, event, "{}"]);
            assert_eq!(send.exit_code(SOON).await, 0, "{:?}", send.stderr.all());
        }
        self.browsers.hear_everywhere(&self.joined, event).await;
    }

    pub async fn nothing_more(&mut self) {
        self.fence("fence-2").await;
        let (heard, _) = self.browsers.heard_from(self.mark);
        // A page that was connected again has been told who is online.
        let is_ours = |heard: &&Heard| heard.event != "fence-2" && !heard.event.starts_with(':');
        for heard in heard.iter().filter(is_ours) {
            self.ledger.hear(heard, "the end", None);
        }
        assert!(self.ledger.is_complete(), "{}", self.ledger.missing());
    }

    pub fn latencies_ms(self) -> Vec<f64> {
        self.ledger.latencies_ms
    }
}

/// What pages ask of their application when they have joined.
fn fetches(scenario: &Scenario) -> Vec<String> {
    scenario.clients.iter().flat_map(fetches_of).collect()
}

fn fetches_of(client: &Browser) -> Vec<String> {
    let calls = client.pages.values().filter(|call| !call.is_empty());
    calls.map(|call| format!("{}: {call}", client.name)).collect()
}

/// `ann: join online`.
fn by_client(text: &str) -> (&str, &str) {
    text.split_once(": ").expect("a client, a colon, and what it does")
}

fn now_ms() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("the clock is past 1970").as_secs_f64() * 1000.0
}
