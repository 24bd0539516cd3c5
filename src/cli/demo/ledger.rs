//! What was committed against what the endpoint accepted. Pure: it is told both
//! and compares.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Deserializer, de};

use crate::change::Timestamp;
use crate::notification::Reason;

/// One step of the application: a statement, or a transaction.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// For people, for example `insert into posts`.
    pub(super) what: String,
    pub(super) committed: Vec<Committed>,
    pub(super) rolled_back: Vec<RolledBack>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) entity: String,
    pub(super) id: i64,
}

/// A change that must arrive.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) row: Row,
    /// Just before its statement: what says that it was committed earlier does
    /// not speak of it.
    pub(super) since: Timestamp,
    pub(super) channels: Vec<String>,
}

/// A change that must not arrive. Nothing else changed its row in that time.
#[derive(Debug)]
pub(super) struct RolledBack {
    pub(super) row: Row,
    pub(super) since: Timestamp,
    pub(super) until: Timestamp,
}

/// One request that the endpoint accepted.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) arrived: Timestamp,
    pub(super) events: Vec<Accepted>,
}

/// An event on one channel.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) event: String,
    pub(super) channel: String,
    pub(super) payload: Payload,
}

/// What the ledger reads of rowcast's minimal payload.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Payload {
    Row {
        entity: String,
        id: i64,
        /// When the last change that it stands for was committed.
        #[serde(deserialize_with = "moment")]
        at: Timestamp,
    },
    /// A resync: fetch everything of the entity again.
    All { entity: String, reason: Reason },
}

fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    let moment: jiff::Timestamp = text.parse().map_err(de::Error::custom)?;
    Ok(Timestamp::from_unix_micros(moment.as_microsecond()))
}

#[derive(Debug)]
struct Delivery {
    event: String,
    channel: String,
    at: Timestamp,
    /// `None` of a resync, which does not say when its changes were.
    latency_micros: Option<u64>,
    request: usize,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    deliveries: HashMap<Row, Vec<Delivery>>,
    /// By entity.
    resyncs: HashMap<String, Vec<Delivery>>,
    /// Steps of which something is still on its way.
    open: Vec<Step>,
    rolled_back: Vec<RolledBack>,
    latencies_micros: Vec<u64>,
    /// Of the last arrival of each step that changed only a few rows.
    single_latencies_micros: Vec<u64>,
    changes: usize,
    notifications: usize,
    requests: usize,
}

/// A step all of whose changes have arrived.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) what: String,
    pub(super) changes: usize,
    /// With how many changes each was sent.
    pub(super) events: BTreeMap<String, usize>,
    pub(super) channels: BTreeSet<String>,
    pub(super) requests: usize,
    /// The first and the last arrival after the commit; `None` if nothing was
    /// committed, or all of it told by a resync.
    pub(super) latency_micros: Option<(u64, u64)>,
}

impl Finished {
    /// More changes at once than anybody wants to read of one by one.
    pub(super) fn is_bulk(&self) -> bool {
        self.changes > 4
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Totals {
    pub(super) changes: usize,
    pub(super) notifications: usize,
    pub(super) requests: usize,
    pub(super) p50_micros: u64,
    pub(super) p99_micros: u64,
    /// Of the steps that changed only a few rows, so not waiting for each other.
    pub(super) single_p50_micros: u64,
    pub(super) single_p99_micros: u64,
    pub(super) lost: usize,
    pub(super) rolled_back: usize,
    /// How many of those were announced all the same.
    pub(super) rolled_back_sent: usize,
}

impl Ledger {
    /// The application has ended the step; its notifications may already be here.
    pub(super) fn step(&mut self, mut step: Step) -> Vec<Finished> {
        self.changes += step.committed.len();
        self.rolled_back.append(&mut step.rolled_back);
        self.open.push(step);
        self.close_finished()
    }

    pub(super) fn request(&mut self, request: Request) -> Vec<Finished> {
        self.requests += 1;
        for accepted in request.events {
            self.accept(accepted, request.arrived);
        }
        self.close_finished()
    }

    fn close_finished(&mut self) -> Vec<Finished> {
        let mut finished = Vec::new();
        for step in std::mem::take(&mut self.open) {
            match self.finished(&step) {
                Some(done) => finished.push(done),
                None => self.open.push(step),
            }
        }
        let single = finished.iter().filter(|step| !step.is_bulk());
        self.single_latencies_micros.extend(single.filter_map(|step| Some(step.latency_micros?.1)));
        finished
    }

    fn accept(&mut self, accepted: Accepted, arrived: Timestamp) {
        let Accepted { event, channel, payload } = accepted;
        let (entity, id, at) = match payload {
            Payload::Row { entity, id, at } => (entity, id, at),
            // It tells of the time before rowcast was there.
            Payload::All { reason: Reason::Gap, .. } => return,
            Payload::All { entity, .. } => {
                // Who fetches now sees what was committed until now.
                let request = self.requests;
                let delivery =
                    Delivery { event, channel, at: arrived, latency_micros: None, request };
                return self.resyncs.entry(entity).or_default().push(delivery);
            }
        };
        let latency = arrived.unix_micros().saturating_sub(at.unix_micros());
        let latency_micros = u64::try_from(latency).unwrap_or(0);
        self.latencies_micros.push(latency_micros);
        let row = Row { entity, id };
        let deliveries = self.deliveries.entry(row).or_default();
        // A notification arrives once on each of its channels, together or not.
        let same = deliveries.iter().filter(|it| it.event == event && it.at == at);
        let mut on_channels: HashMap<&str, usize> = HashMap::new();
        for delivery in same {
            *on_channels.entry(&delivery.channel).or_default() += 1;
        }
        let before = on_channels.get(channel.as_str()).copied().unwrap_or(0);
        if on_channels.values().all(|count| *count <= before) {
            self.notifications += 1;
        }
        let latency_micros = Some(latency_micros);
        deliveries.push(Delivery { event, channel, at, latency_micros, request: self.requests });
    }

    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn totals(&self) -> Totals {
        let lost = self.open.iter().flat_map(|step| &step.committed);
        let lost = lost.filter(|change| self.deliveries_of(change).is_none()).count();
        let rolled_back_sent = self.rolled_back.iter().filter(|it| self.was_sent(it)).count();
        let sorted = sorted(&self.latencies_micros);
        let single_sorted = self::sorted(&self.single_latencies_micros);
        Totals {
            changes: self.changes,
            notifications: self.notifications,
            requests: self.requests,
            p50_micros: percentile(&sorted, 50),
            p99_micros: percentile(&sorted, 99),
            single_p50_micros: percentile(&single_sorted, 50),
            single_p99_micros: percentile(&single_sorted, 99),
            lost,
            rolled_back: self.rolled_back.len(),
            rolled_back_sent,
        }
    }

    fn finished(&self, step: &Step) -> Option<Finished> {
        let mut events: BTreeMap<String, usize> = BTreeMap::new();
        let mut channels = BTreeSet::new();
        let mut requests = BTreeSet::new();
        let mut latency_micros = None;
        for change in &step.committed {
            let deliveries = self.deliveries_of(change)?;
            if let Some(first) = deliveries.first() {
                *events.entry(first.event.clone()).or_default() += 1;
            }
            for delivery in deliveries {
                channels.insert(delivery.channel.clone());
                requests.insert(delivery.request);
                let Some(latency) = delivery.latency_micros else { continue };
                let (low, high) = latency_micros.unwrap_or((u64::MAX, 0));
                latency_micros = Some((latency.min(low), latency.max(high)));
            }
        }
        Some(Finished {
            what: step.what.clone(),
            changes: step.committed.len(),
            events,
            channels,
            requests: requests.len(),
            latency_micros,
        })
    }

    /// The first one on each of its channels, or a resync of its entity, which
    /// is told wherever somebody listens; `None` while one is missing.
    fn deliveries_of(&self, change: &Committed) -> Option<Vec<&Delivery>> {
        let deliveries = self.deliveries.get(&change.row).map_or(&[][..], Vec::as_slice);
        let resyncs = self.resyncs.get(&change.row.entity).map_or(&[][..], Vec::as_slice);
        let resync = resyncs.iter().find(|it| it.at >= change.since);
        let on = |channel: &String| {
            let own = deliveries.iter().find(|it| it.at >= change.since && it.channel == *channel);
            own.or(resync)
        };
        change.channels.iter().map(on).collect()
    }

    fn was_sent(&self, change: &RolledBack) -> bool {
        let within = |at: Timestamp| at >= change.since && at <= change.until;
        let deliveries = self.deliveries.get(&change.row);
        deliveries.is_some_and(|them| them.iter().any(|it| within(it.at)))
    }
}

fn sorted(values: &[u64]) -> Vec<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted
}

/// Of sorted values, by nearest rank; 0 of none.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_unix_micros(micros)
    }

    fn post(id: i64) -> Row {
        Row { entity: "post".to_owned(), id }
    }

    fn committed(id: i64, since: i64) -> Step {
        let channels = vec![format!("posts.{id}"), "posts".to_owned()];
        let committed = vec![Committed { row: post(id), since: at(since), channels }];
        Step { committed, ..Step::default() }
    }

    fn rolled_back(id: i64, since: i64, until: i64) -> Step {
        let change = RolledBack { row: post(id), since: at(since), until: at(until) };
        Step { rolled_back: vec![change], ..Step::default() }
    }

    /// Arrives 7 µs after its commit.
    fn request(id: i64, micros: i64, channels: &[&str]) -> Request {
        let event = |channel: &&str| Accepted {
            event: "PostUpdated".to_owned(),
            channel: channel.to_string(),
            payload: Payload::Row { entity: "post".to_owned(), id, at: at(micros) },
        };
        Request { arrived: at(micros + 7), events: channels.iter().map(event).collect() }
    }

    #[test]
    fn a_change_is_lost_until_it_has_arrived_on_each_channel() {
        let mut ledger = Ledger::default();
        assert!(ledger.step(committed(1, 10)).is_empty());
        assert!(ledger.request(request(1, 12, &["posts.1"])).is_empty());
        assert_eq!(ledger.totals().lost, 1);
        let finished = ledger.request(request(1, 12, &["posts"]));
        assert_eq!(finished[0].latency_micros, Some((7, 7)));
        assert_eq!(finished[0].requests, 2);
        assert_eq!(ledger.totals().lost, 0);
        assert!(ledger.is_settled());
    }

    #[test]
    fn what_was_committed_earlier_does_not_speak_of_a_change() {
        let mut ledger = Ledger::default();
        ledger.request(request(1, 9, &["posts.1", "posts"]));
        assert!(ledger.step(committed(1, 10)).is_empty());
        assert_eq!(ledger.totals().lost, 1);
    }

    #[test]
    fn a_later_notification_speaks_of_the_changes_before_it() {
        let mut ledger = Ledger::default();
        ledger.step(committed(1, 10));
        ledger.step(committed(1, 20));
        assert_eq!(ledger.request(request(1, 22, &["posts.1", "posts"])).len(), 2);
        let totals = ledger.totals();
        assert_eq!((totals.changes, totals.notifications, totals.lost), (2, 1, 0));
    }

    #[test]
    fn a_resync_speaks_of_every_change_of_its_entity_before_it_arrived() {
        let resync = |reason: &str, micros| Request {
            arrived: at(micros),
            events: vec![Accepted {
                event: "PostUpdated".to_owned(),
                channel: "posts".to_owned(),
                payload: serde_json::from_str(&format!(
                    r#"{{"entity":"post","action":"resync","reason":"{reason}","count":2}}"#
                ))
                .unwrap(),
            }],
        };
        let mut ledger = Ledger::default();
        ledger.step(committed(1, 10));
        ledger.step(committed(2, 20));
        ledger.step(committed(3, 40));
        assert!(ledger.request(resync("gap", 50)).is_empty());
        assert_eq!(ledger.totals().lost, 3);
        assert_eq!(ledger.request(resync("bulk", 30)).len(), 2);
        assert_eq!(ledger.totals().lost, 1);
        assert_eq!(ledger.totals().notifications, 0);
    }

    #[test]
    fn a_notification_may_arrive_before_the_application_knows_of_its_commit() {
        let mut ledger = Ledger::default();
        ledger.request(request(1, 12, &["posts.1", "posts"]));
        assert_eq!(ledger.step(committed(1, 10)).len(), 1);
    }

    #[test]
    fn a_rolled_back_change_is_found_by_its_time() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.step(rolled_back(1, 10, 20)).len(), 1);
        ledger.request(request(1, 9, &["posts"]));
        ledger.request(request(1, 21, &["posts"]));
        ledger.request(request(2, 15, &["posts"]));
        assert_eq!(ledger.totals().rolled_back_sent, 0);
        ledger.request(request(1, 15, &["posts"]));
        assert_eq!(ledger.totals().rolled_back_sent, 1);
    }

    #[test]
    fn a_notification_counts_once_for_all_its_channels_and_again_if_repeated() {
        let mut ledger = Ledger::default();
        ledger.request(request(1, 12, &["posts.1", "posts"]));
        assert_eq!(ledger.totals().notifications, 1);
        ledger.request(request(1, 12, &["posts.1", "posts"]));
        assert_eq!(ledger.totals().notifications, 2);
        assert_eq!(ledger.totals().requests, 2);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&values, 50), 50);
        assert_eq!(percentile(&values, 99), 99);
        assert_eq!(percentile(&[3, 5, 9], 50), 5);
        assert_eq!(percentile(&[7], 99), 7);
        assert_eq!(percentile(&[], 99), 0);
    }
}
