//! What was accepted, held against what was committed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use serde_json::Value;
use tokio_postgres::Client;

use super::capture::Capture;
use super::shop::{GHOST_IDS, GHOST_OWNER, RULES, Row, Rule};
use crate::harness::endpoint::Accepted;

/// Microseconds since 1970, as Postgres counts commits.
pub(super) type Micros = i64;

/// One event on one channel that the endpoint published.
struct Message {
    channel: String,
    entity: String,
    id: Value,
    at: Option<Micros>,
    version: Option<i64>,
    /// Of a resync.
    reason: Option<String>,
    /// When the first byte of its request was read.
    began: Micros,
}

#[derive(Default)]
struct Book {
    messages: Vec<Message>,
    /// Of channel, event and payload.
    seen: HashSet<u64>,
    duplicates: u64,
    complaints: Vec<String>,
}

#[derive(Default)]
pub(super) struct Ledger {
    book: Mutex<Book>,
}

/// A committed change of a row, in the order of the transaction.
struct Change {
    transaction: i64,
    table: String,
    old: Option<Row>,
    new: Option<Row>,
    version: Option<i64>,
    /// When it was committed.
    at: Micros,
    /// When rowcast says that it was: with triggers when the statement began, for they cannot know the commit.
    said: Micros,
}

/// What became of a row by a transaction.
#[derive(Clone)]
struct Net {
    before_and_after: [Option<Row>; 2],
    at: Micros,
    /// The earliest that a notification of it may say.
    said: Micros,
}

/// What a schedule came to.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) changes: u64,
    pub(super) duplicates: u64,
    pub(super) resyncs: BTreeMap<String, u64>,
    /// Changes that somebody was not told of.
    pub(super) lost: Vec<String>,
    /// What else must not be.
    pub(super) breaches: Vec<String>,
}

/// What a schedule allows, and who has listened.
pub(super) struct Terms<'a> {
    /// The first message that counts, by number.
    pub(super) first: usize,
    pub(super) capture: Capture,
    /// The reasons for which a resync may come.
    pub(super) causes: &'a [&'static str],
    /// Whether only channels are told that somebody listens on.
    pub(super) is_occupied_only: bool,
    /// Since when the channels that are joined now have been.
    pub(super) joined: &'a HashMap<String, Micros>,
}

impl Ledger {
    /// Takes down what was published.
    pub(super) fn enter(&self, accepted: &Accepted) {
        let began = now() - accepted.began.elapsed().as_micros() as Micros;
        let event = &accepted.event;
        let mut book = self.book();
        let Ok(data) = serde_json::from_str::<Value>(&event.data) else {
            book.complaints.push(format!("{} on {} has no JSON", event.name, event.channel));
            return;
        };
        let reason = match (&*event.name, data["action"].as_str()) {
            ("rowcast.resync", _) | (_, Some("resync")) => {
                Some(data["reason"].as_str().unwrap_or("none").to_owned())
            }
            _ => None,
        };
        let message = Message {
            channel: event.channel.clone(),
            entity: data["entity"].as_str().unwrap_or_default().to_owned(),
            id: data["id"].clone(),
            at: data["at"].as_str().and_then(moment),
            version: integer(&data["version"]),
            reason,
            began,
        };
        if haunted(&message) {
            book.complaints
                .push(format!("{} was rolled back, and is heard on {}", event.data, event.channel));
        }
        let mut hasher = DefaultHasher::new();
        (&event.channel, &event.name, &event.data).hash(&mut hasher);
        if message.reason.is_none() && !book.seen.insert(hasher.finish()) {
            book.duplicates += 1;
        }
        book.messages.push(message);
    }

    pub(super) fn len(&self) -> usize {
        self.book().messages.len()
    }

    /// Holds what was accepted against the log of the database.
    pub(super) async fn judge(&self, client: &Client, terms: &Terms<'_>) -> Verdict {
        let Terms { first, capture, causes, is_occupied_only, joined } = *terms;
        let changes = committed(client, capture).await;
        let book = self.book();
        let mut verdict = Verdict {
            changes: changes.len() as u64,
            duplicates: book.duplicates,
            breaches: book.complaints.clone(),
            ..Verdict::default()
        };
        for message in &book.messages {
            if let Some(reason) = &message.reason {
                *verdict.resyncs.entry(reason.clone()).or_default() += 1;
            }
        }
        let messages = &book.messages[first..];
        let uncaused = messages.iter().filter_map(|message| {
            let reason = message.reason.as_deref()?;
            (!causes.contains(&reason))
                .then(|| format!("a resync on {} for no cause: {reason}", message.channel))
        });
        verdict.breaches.extend(uncaused);
        for rule in &RULES {
            let is_all_told = causes.is_empty();
            let changes = &changes;
            let judge =
                Judge { rule, changes, messages, joined, is_occupied_only, capture, is_all_told };
            judge.unannounced(&mut verdict.lost);
            judge.unknown_moments(&mut verdict.breaches);
            if judge.is_all_told && rule.is_each_sent {
                judge.each_version(&mut verdict.lost);
                judge.order(&mut verdict.breaches);
            }
            if judge.is_all_told && rule.has_version {
                judge.last_version(&mut verdict.lost);
            }
        }
        verdict
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics while he holds the book")
    }
}

struct Judge<'a> {
    rule: &'a Rule,
    changes: &'a [Change],
    messages: &'a [Message],
    joined: &'a HashMap<String, Micros>,
    is_occupied_only: bool,
    capture: Capture,
    /// Whether no change may be told by a resync.
    is_all_told: bool,
}

impl Judge<'_> {
    fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(|message| message.entity == self.rule.entity)
    }

    fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.table == self.rule.table)
    }

    /// The row's subject and its channels, if the rule knows it.
    fn told(&self, row: Option<&Row>) -> Vec<(i64, String)> {
        let shown = row.filter(|row| self.rule.shows(row));
        let told = |row: &Row| {
            let channels = self.rule.channels(row).into_iter();
            channels.map(|channel| (self.rule.subject(row), channel)).collect()
        };
        shown.map(told).unwrap_or_default()
    }

    /// After the last change of each id, each channel of the row as it was before the transaction and as it was
    /// after it gets a notification: begun after the commit, and saying a time that is not before it.
    fn unannounced(&self, lost: &mut Vec<String>) {
        let mut latest: HashMap<(i64, String), (Micros, Micros)> = HashMap::new();
        for Net { before_and_after, at, said } in self.net_changes() {
            for told in before_and_after.iter().flat_map(|row| self.told(row.as_ref())) {
                let last = latest.entry(told).or_default();
                *last = (at, said).max(*last);
            }
        }
        let mut heard: HashMap<(&Value, &str), Vec<&Message>> = HashMap::new();
        let mut resynced: HashMap<&str, Vec<&Message>> = HashMap::new();
        for message in self.messages() {
            match message.reason {
                Some(_) => resynced.entry(&message.channel).or_default().push(message),
                None => heard.entry((&message.id, &message.channel)).or_default().push(message),
            }
        }
        let anything = Value::Null;
        for ((subject, channel), (at, said)) in latest {
            let id = Value::from(subject);
            let of_row = heard.get(&(&id, &*channel)).into_iter().flatten();
            let of_many = heard.get(&(&anything, &*channel)).into_iter().flatten();
            if !self.must_hear(&channel, at) {
                continue;
            }
            let of_all = resynced.get(&*channel).filter(|_| !self.is_all_told);
            // One that tells of several transactions says the time of the last that rowcast read. When its first
            // statement began says nothing of the others.
            let tells_time = |message: &Message, of_one: bool| {
                let is_any = self.capture.is_triggers() && !of_one;
                is_any || message.at.is_none_or(|it| it >= said)
            };
            let of_row = of_row.map(|message| (message, tells_time(message, true)));
            let others = of_many.chain(of_all.into_iter().flatten());
            let others = others.map(|message| (message, tells_time(message, false)));
            let told: Vec<(&&Message, bool)> = of_row.chain(others).collect();
            if !told.iter().any(|(message, tells_time)| *tells_time && message.began >= at) {
                let last = told.iter().map(|(message, _)| message.began).max();
                let last = last.map_or("never".to_owned(), |it| format!("at {it}"));
                lost.push(format!(
                    "{} {subject} changed at {at}, and {channel} was last told {last}",
                    self.rule.entity
                ));
            }
        }
    }

    /// Whether what was committed then had to be told on the channel. A resync is sent where somebody listens, and so
    /// may be all else.
    fn must_hear(&self, channel: &str, at: Micros) -> bool {
        let is_joined = || self.joined.get(channel).is_some_and(|since| *since < at);
        match self.is_occupied_only {
            true => is_joined(),
            false => self.is_all_told || self.rule.is_list(channel) || is_joined(),
        }
    }

    /// What became of each row by each transaction that changed it.
    fn net_changes(&self) -> Vec<Net> {
        let mut net = Vec::new();
        let mut open: HashMap<i64, Net> = HashMap::new();
        let mut transaction = None;
        for change in self.changes() {
            if transaction.replace(change.transaction) != Some(change.transaction) {
                net.extend(open.drain().map(|(_, change)| change));
            }
            let (old, new) = (change.old.as_ref(), change.new.as_ref());
            let mut put = |id: i64, old: Option<&Row>, new: Option<&Row>| {
                let Change { at, said, .. } = *change;
                let before_and_after = [old.cloned(), None];
                let net = open.entry(id).or_insert(Net { before_and_after, at, said });
                net.before_and_after[1] = new.cloned();
                net.said = net.said.min(said);
            };
            match (old, new) {
                // Emptied: told by a resync.
                (None, None) => {}
                (Some(old), Some(new)) if old.id == new.id => put(old.id, Some(old), Some(new)),
                _ => {
                    old.into_iter().for_each(|old| put(old.id, Some(old), None));
                    new.into_iter().for_each(|new| put(new.id, None, Some(new)));
                }
            }
        }
        net.extend(open.into_values());
        net
    }

    /// A notification's time is that of a commit that changed its row.
    fn unknown_moments(&self, breaches: &mut Vec<String>) {
        let rows = |change: &Change| {
            let rows = [change.old.as_ref(), change.new.as_ref()].into_iter().flatten();
            rows.map(|row| (self.rule.subject(row), change.said)).collect::<Vec<_>>()
        };
        let moments: HashSet<(i64, Micros)> = self.changes().flat_map(rows).collect();
        for message in self.messages() {
            if let (Some(id), Some(at)) = (message.id.as_i64(), message.at)
                && !moments.contains(&(id, at))
            {
                let (entity, channel) = (&message.entity, &message.channel);
                breaches.push(format!(
                    "{entity} {id} on {channel} tells of {at}, when nothing was committed"
                ));
            }
        }
    }

    /// Without folding each change is announced by itself.
    fn each_version(&self, lost: &mut Vec<String>) {
        let heard: HashSet<(&str, i64)> = self
            .messages()
            .filter_map(|message| Some((&*message.channel, message.version?)))
            .collect();
        for change in self.changes() {
            let (Some(version), Some(new)) = (change.version, &change.new) else { continue };
            for channel in self.rule.channels(new) {
                if self.must_hear(&channel, change.at) && !heard.contains(&(&*channel, version)) {
                    lost.push(format!("version {version} was never heard on {channel}"));
                }
            }
        }
    }

    /// Without folding the changes of a row are told in the order of the commits, but for what is told again.
    fn order(&self, breaches: &mut Vec<String>) {
        let versions = self.changes().filter_map(|change| change.version);
        let places: HashMap<i64, usize> =
            versions.enumerate().map(|(place, version)| (version, place)).collect();
        let mut heard: HashSet<(&str, i64)> = HashSet::new();
        let mut last: HashMap<&str, (usize, i64)> = HashMap::new();
        for message in self.messages() {
            let (Some(id), Some(version)) = (message.id.as_i64(), message.version) else {
                continue;
            };
            let channel = &*message.channel;
            let Some(place) = places.get(&version).filter(|_| self.rule.is_of(channel, id)) else {
                continue;
            };
            if !heard.insert((channel, version)) {
                continue;
            }
            if let Some((before, later)) = last.insert(channel, (*place, version))
                && before > *place
            {
                breaches.push(format!(
                    "version {version} was heard on {channel} after {later}, which was committed later"
                ));
            }
        }
    }

    /// Who uses the payload instead of fetching has the row as it is, since order is kept.
    fn last_version(&self, lost: &mut Vec<String>) {
        let mut rows: HashMap<i64, Option<(i64, Micros)>> = HashMap::new();
        for change in self.changes() {
            if let Some(old) = &change.old {
                rows.insert(old.id, None);
            }
            if let Some(new) = &change.new {
                rows.insert(new.id, change.version.map(|version| (version, change.at)));
            }
        }
        let mut heard: HashMap<(&str, i64), Option<i64>> = HashMap::new();
        for message in self.messages() {
            if let Some(id) = message.id.as_i64() {
                heard.insert((&message.channel, id), message.version);
            }
        }
        for ((channel, id), version) in heard {
            if let Some(Some((now, at))) = rows.get(&id)
                && self.rule.is_of(channel, id)
                && self.must_hear(channel, *at)
                && version != Some(*now)
            {
                lost.push(format!(
                    "the last version heard on {channel} is {version:?}, and {now} is there"
                ));
            }
        }
    }
}

async fn committed(client: &Client, capture: Capture) -> Vec<Change> {
    let sql = "select tx::text::bigint, tab, old_id, old_owner, old_status, old_deleted,
                      new_id, new_owner, new_status, new_deleted, new_version,
                      (extract(epoch from pg_xact_commit_timestamp(tx::xid)) * 1000000)::bigint,
                      (extract(epoch from at) * 1000000)::bigint
               from log order by tx, seq";
    let rows = client.query(sql, &[]).await.expect("the log can be read");
    let row = |row: &tokio_postgres::Row, first: usize| {
        Some(Row {
            id: row.get::<_, Option<i64>>(first)?,
            owner: row.get(first + 1),
            status: row.get(first + 2),
            is_deleted: row.get(first + 3),
        })
    };
    let mut changes: Vec<Change> = rows
        .iter()
        .map(|it| Change {
            transaction: it.get(0),
            table: it.get(1),
            old: row(it, 2),
            new: row(it, 6),
            version: it.get(10),
            at: it.get(11),
            said: it.get(if capture.is_triggers() { 12 } else { 11 }),
        })
        .collect();
    // Not by the numbers that transactions got when they began.
    changes.sort_by_key(|change| (change.at, change.transaction));
    changes
}

/// Whether it tells of what was only ever rolled back.
fn haunted(message: &Message) -> bool {
    let Message { channel, id, version, .. } = message;
    let of_channel = channel.rsplit('.').next().and_then(|last| last.parse::<i64>().ok());
    let ghosts = |id: i64| id >= GHOST_IDS || id == i64::from(GHOST_OWNER);
    of_channel.is_some_and(ghosts)
        || id.as_i64().is_some_and(ghosts)
        || version.is_some_and(|it| it < 0)
}

/// A rule's own payload may hold a large number as text.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn moment(text: &str) -> Option<Micros> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
}

pub(super) fn now() -> Micros {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("it is after 1970").as_micros() as Micros
}
