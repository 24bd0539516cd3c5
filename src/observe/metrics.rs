//! What is counted and measured, under the names that Prometheus gets it by.
//!
//! Names are `rowcast_<what>_<unit>`, in base units; those of counters end in
//! `_total`, which the encoding adds. Labels are of closed sets: `rule`, `reason`,
//! `outcome`, `operation`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use super::{Backlog, Endpoint, Source, Standing};

type Named = [(&'static str, &'static str); 1];
type ByRule = [(&'static str, Arc<str>); 1];
type ByOutcome = [(&'static str, &'static str); 2];
/// Of seconds, and of what may be unknown.
type Float = Gauge<f64, AtomicU64>;

/// Upper bounds of the time from a commit to its acceptance, in seconds.
const LATENCIES: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// Nothing is pending.
const NONE: i64 = i64::MAX;

/// All counters and gauges of a process. Each is an atomic or a short lock, so it may
/// be told of wherever a batch or a request ends.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    changes: Family<Named, Counter>,
    routed: Family<ByRule, Counter>,
    accepted: Family<ByRule, Counter>,
    rejected: Family<ByRule, Counter>,
    unoccupied: Family<ByRule, Counter>,
    requests: Family<ByOutcome, Counter>,
    resyncs: Family<Named, Counter>,
    latency: Histogram,
    reconnects: Counter,
    null_channels: Counter,
    partial_payloads: Counter,
    refused_broadcasts: Counter,
    lookup_queries: Counter,
    pending: Gauge,
    pending_bytes: Gauge,
    in_flight: Gauge,
    /// When the oldest was committed that is pending; microseconds of Unix time.
    oldest: AtomicI64,
    /// The same of what rules are applied to.
    oldest_routed: AtomicI64,
    /// Microseconds of Unix time, or 0.
    last_accepted: AtomicI64,
    rejected_total: AtomicU64,
    resyncs_total: AtomicU64,
    standing: OfStanding,
}

/// What a [`Standing`] says, as gauges: set when they are asked for.
#[derive(Debug)]
struct OfStanding {
    is_ready: Gauge,
    is_streaming: Gauge,
    is_standby: Gauge,
    endpoint_is_up: Gauge,
    lag_seconds: Float,
    lag_bytes: Gauge,
    retained_bytes: Gauge,
    max_retained_bytes: Gauge,
    outbox_rows: Gauge,
    max_outbox_rows: Gauge,
    owed: Gauge,
    last_accepted: Float,
}

/// What one batch of changes was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
    /// Events that the application announced itself.
    pub broadcasts: u64,
    /// Changes that the source knows of and cannot tell.
    pub missed: u64,
}

/// What rules made of a batch besides notifications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortfalls {
    pub null_channels: u64,
    pub partial_payloads: u64,
    pub refused_broadcasts: u64,
    pub lookup_queries: u64,
}

/// What a request to the endpoint was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Publish,
    /// For the occupied channels.
    List,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    /// It is repeated.
    Retried,
    /// The request was bad: it is made smaller, or given up.
    Refused,
    /// The endpoint takes nothing until somebody changes something.
    Stopped,
}

/// What deliver holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// What is neither accepted nor recorded as refused.
    pub notifications: usize,
    pub bytes: usize,
    /// Requests on their way.
    pub in_flight: usize,
    /// When the oldest was committed, in microseconds of Unix time by the server's
    /// clock.
    pub oldest_unix_micros: Option<i64>,
}

impl Request {
    const ALL: [Request; 2] = [Request::Publish, Request::List];

    fn name(self) -> &'static str {
        match self {
            Request::Publish => "publish",
            Request::List => "list",
        }
    }
}

impl Outcome {
    const ALL: [Outcome; 4] =
        [Outcome::Accepted, Outcome::Retried, Outcome::Refused, Outcome::Stopped];

    fn name(self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::Retried => "retried",
            Outcome::Refused => "refused",
            Outcome::Stopped => "stopped",
        }
    }
}

impl Changes {
    fn by_operation(self) -> [(&'static str, u64); 6] {
        [
            ("insert", self.inserts),
            ("update", self.updates),
            ("delete", self.deletes),
            ("truncate", self.truncates),
            ("broadcast", self.broadcasts),
            ("missed", self.missed),
        ]
    }
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        let mut registry = Registry::with_prefix("rowcast");
        let r = &mut registry;
        let standing = OfStanding {
            is_ready: add(r, "ready", "1 if /readyz answers 200"),
            is_streaming: add(r, "streaming", "1 while changes stream from the database"),
            is_standby: add(r, "standby", "1 while another process reads the changes"),
            endpoint_is_up: add(r, "endpoint_up", "0 while the endpoint fails or refuses all"),
            lag_seconds: add(
                r,
                "lag_seconds",
                "How old the oldest change is that is not delivered; NaN on a standby",
            ),
            lag_bytes: add(r, "lag_bytes", "WAL behind which delivery is confirmed"),
            retained_bytes: add(r, "retained_wal_bytes", "WAL that Postgres keeps for the slot"),
            max_retained_bytes: add(
                r,
                "max_retained_wal_bytes",
                "At so much lag in bytes, changes are passed over and told by resyncs",
            ),
            outbox_rows: add(r, "outbox_rows", "Rows that wait in the outbox of triggers"),
            max_outbox_rows: add(
                r,
                "max_outbox_rows",
                "At so many rows, changes are passed over and told by resyncs",
            ),
            owed: add(r, "owed_resyncs", "Rules whose resync is recorded as owed"),
            last_accepted: add(
                r,
                "last_accepted_timestamp_seconds",
                "When the endpoint accepted a request last, or 0",
            ),
        };
        let started: Float = add(r, "start_time_seconds", "When the process started");
        started.set(unix_micros() as f64 / 1e6);
        let latency = Histogram::new(LATENCIES);
        r.register(
            "delivery_seconds",
            "From the commit of a notification's last change to its acceptance",
            latency.clone(),
        );
        let metrics = Metrics {
            changes: add(r, "changes", "Changes read of what rules name"),
            routed: add(r, "routed_notifications", "Notifications made by rules, before folding"),
            accepted: add(r, "accepted_notifications", "Notifications that the endpoint accepted"),
            rejected: add(
                r,
                "rejected_notifications",
                "Notifications written to the rejected file",
            ),
            unoccupied: add(
                r,
                "unoccupied_channels",
                "Channels on which a notification was not sent, since nobody listened",
            ),
            requests: add(r, "requests", "Requests to the endpoint"),
            resyncs: add(r, "resyncs", "Resyncs begun"),
            latency,
            reconnects: add(r, "reconnects", "Times that streaming began anew"),
            null_channels: add(r, "null_channels", "Channels that a NULL left out"),
            partial_payloads: add(r, "partial_payloads", "Payloads sent minimal instead of own"),
            refused_broadcasts: add(
                r,
                "refused_broadcasts",
                "Events of the application that [broadcast] does not allow",
            ),
            lookup_queries: add(r, "lookup_queries", "Queries for rows of other tables"),
            pending: add(r, "pending_notifications", "Notifications not accepted yet"),
            pending_bytes: add(r, "pending_bytes", "Memory of notifications not accepted yet"),
            in_flight: add(r, "in_flight_requests", "Requests on their way"),
            oldest: AtomicI64::new(NONE),
            oldest_routed: AtomicI64::new(NONE),
            last_accepted: AtomicI64::new(0),
            rejected_total: AtomicU64::new(0),
            resyncs_total: AtomicU64::new(0),
            standing,
            registry,
        };
        metrics.count_changes(Changes::default());
        for request in Request::ALL {
            for outcome in Outcome::ALL {
                drop(metrics.requests.get_or_create(&labels(request, outcome)));
            }
        }
        metrics
    }

    /// From now on these are told, though nothing is counted yet: what appears with
    /// its first count has no rate.
    pub fn declare<'a>(
        &self,
        rules: impl IntoIterator<Item = &'a Arc<str>>,
        reasons: impl IntoIterator<Item = &'static str>,
    ) {
        for rule in rules {
            for family in [&self.routed, &self.accepted, &self.rejected, &self.unoccupied] {
                drop(family.get_or_create(&[("rule", rule.clone())]));
            }
        }
        for reason in reasons {
            drop(self.resyncs.get_or_create(&[("reason", reason)]));
        }
    }

    pub fn count_changes(&self, changes: Changes) {
        for (operation, count) in changes.by_operation() {
            self.changes.get_or_create(&[("operation", operation)]).inc_by(count);
        }
    }

    pub fn count_shortfalls(&self, shortfalls: Shortfalls) {
        self.null_channels.inc_by(shortfalls.null_channels);
        self.partial_payloads.inc_by(shortfalls.partial_payloads);
        self.refused_broadcasts.inc_by(shortfalls.refused_broadcasts);
        self.lookup_queries.inc_by(shortfalls.lookup_queries);
    }

    pub fn routed(&self, rule: &Arc<str>, count: u64) {
        self.routed.get_or_create(&[("rule", rule.clone())]).inc_by(count);
    }

    pub fn request_ended(&self, request: Request, outcome: Outcome) {
        self.requests.get_or_create(&labels(request, outcome)).inc();
        if (request, outcome) == (Request::Publish, Outcome::Accepted) {
            self.last_accepted.store(unix_micros(), Ordering::Relaxed);
        }
    }

    /// So many notifications were accepted, each on all its channels.
    /// `latencies_micros` are since their last commits, by two clocks; resyncs have
    /// none.
    pub fn accepted(
        &self,
        rule: &Arc<str>,
        count: usize,
        latencies_micros: impl Iterator<Item = i64>,
    ) {
        self.accepted.get_or_create(&[("rule", rule.clone())]).inc_by(count as u64);
        for micros in latencies_micros {
            self.latency.observe(micros.max(0) as f64 / 1e6);
        }
    }

    /// A notification stands in the rejected file.
    pub fn rejected(&self, rule: &Arc<str>) {
        self.rejected.get_or_create(&[("rule", rule.clone())]).inc();
        self.rejected_total.fetch_add(1, Ordering::Relaxed);
    }

    /// A notification was not sent on so many channels, since nobody listened there.
    pub fn unoccupied(&self, rule: &Arc<str>, channels: u64) {
        self.unoccupied.get_or_create(&[("rule", rule.clone())]).inc_by(channels);
    }

    pub fn resync_begun(&self, reason: &'static str) {
        self.resyncs.get_or_create(&[("reason", reason)]).inc();
        self.resyncs_total.fetch_add(1, Ordering::Relaxed);
    }

    pub fn reconnected(&self) {
        self.reconnects.inc();
    }

    /// Rules are applied to what was committed since then, if to anything: it may wait
    /// for others to see it, or for rows of other tables.
    pub fn routes(&self, since_unix_micros: Option<i64>) {
        self.oldest_routed.store(since_unix_micros.unwrap_or(NONE), Ordering::Relaxed);
    }

    pub fn holds(&self, pending: Pending) {
        self.pending.set(gauge(pending.notifications as u64));
        self.pending_bytes.set(gauge(pending.bytes as u64));
        self.in_flight.set(gauge(pending.in_flight as u64));
        self.oldest.store(pending.oldest_unix_micros.unwrap_or(NONE), Ordering::Relaxed);
    }

    pub(super) fn pending(&self) -> u64 {
        self.pending.get().unsigned_abs()
    }

    pub(super) fn pending_bytes(&self) -> u64 {
        self.pending_bytes.get().unsigned_abs()
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.get().unsigned_abs()
    }

    pub(super) fn rejected_total(&self) -> u64 {
        self.rejected_total.load(Ordering::Relaxed)
    }

    pub(super) fn resyncs_total(&self) -> u64 {
        self.resyncs_total.load(Ordering::Relaxed)
    }

    /// Since the endpoint accepted something, in seconds.
    pub(super) fn last_accepted_s(&self) -> Option<f64> {
        match self.last_accepted.load(Ordering::Relaxed) {
            0 => None,
            at => Some(seconds_since(at)),
        }
    }

    /// How old the oldest change is that was read and not delivered, or for how long
    /// none could be read. `None` where another process delivers, or nothing is known.
    pub(super) fn lag_seconds(&self, standing: &Standing, now: Instant) -> Option<f64> {
        let [delivered, routed] =
            [&self.oldest, &self.oldest_routed].map(|oldest| oldest.load(Ordering::Relaxed));
        let oldest = match delivered.min(routed) {
            NONE => 0.0,
            at => seconds_since(at),
        };
        match &standing.source {
            Source::Starting { .. } | Source::Waiting { .. } => None,
            Source::Streaming { .. } | Source::Stopping { .. } => Some(oldest),
            Source::Broken { since, .. } => {
                Some(oldest.max(now.saturating_duration_since(*since).as_secs_f64()))
            }
        }
    }

    /// In the text format of Prometheus, version 0.0.4.
    pub(super) fn text(&self, standing: &Standing, now: Instant) -> String {
        self.measure(standing, now);
        let mut open_metrics = String::new();
        encode_registry(&mut open_metrics, &self.registry).expect("a string takes everything");
        plain(&open_metrics)
    }

    fn measure(&self, standing: &Standing, now: Instant) {
        let of = &self.standing;
        of.is_ready.set(standing.is_ready().into());
        of.is_streaming.set(matches!(standing.source, Source::Streaming { .. }).into());
        of.is_standby.set(matches!(standing.source, Source::Waiting { .. }).into());
        of.endpoint_is_up.set(matches!(standing.endpoint, Endpoint::Accepting { .. }).into());
        of.lag_seconds.set(self.lag_seconds(standing, now).unwrap_or(f64::NAN));
        of.owed.set(gauge(standing.owed.len() as u64));
        of.last_accepted.set(self.last_accepted.load(Ordering::Relaxed) as f64 / 1e6);
        match standing.backlog {
            Backlog::Unknown => {
                for gauge in [&of.lag_bytes, &of.retained_bytes, &of.outbox_rows] {
                    gauge.set(0);
                }
            }
            Backlog::Log { unconfirmed_bytes, retained_bytes, max_bytes } => {
                of.lag_bytes.set(gauge(unconfirmed_bytes));
                of.retained_bytes.set(gauge(retained_bytes));
                of.max_retained_bytes.set(gauge(max_bytes));
            }
            Backlog::Outbox { rows, max_rows } => {
                of.outbox_rows.set(gauge(rows));
                of.max_outbox_rows.set(gauge(max_rows));
            }
        }
    }
}

fn add<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn labels(request: Request, outcome: Outcome) -> ByOutcome {
    [("operation", request.name()), ("outcome", outcome.name())]
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unix_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(NONE)
}

fn seconds_since(micros: i64) -> f64 {
    unix_micros().saturating_sub(micros).max(0) as f64 / 1e6
}

/// The encoding is that of OpenMetrics, which calls a counter without its `_total`
/// where it describes it. Older readers, promtool among them, take that for another.
fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 512);
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(of_next) = line.strip_prefix("# HELP ") {
            help = of_next.split_once(' ').map_or("", |(_, words)| words);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            for part in ["# HELP ", name, suffix, " ", help, "\n# TYPE "] {
                text.push_str(part);
            }
            for part in [name, suffix, " ", kind, "\n"] {
                text.push_str(part);
            }
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn streaming() -> Standing {
        let now = Instant::now();
        Standing { source: Source::Streaming { since: now }, ..Standing::starting(now) }
    }

    #[test]
    fn each_series_is_described_by_its_own_name() {
        let metrics = Metrics::new();
        metrics.declare([&"posts".into()], ["bulk"]);
        metrics.accepted(&"posts".into(), 1, [4_000].into_iter());
        metrics.request_ended(Request::Publish, Outcome::Accepted);
        let text = metrics.text(&streaming(), Instant::now());
        for line in [
            "# TYPE rowcast_requests_total counter",
            "rowcast_requests_total{operation=\"publish\",outcome=\"accepted\"} 1",
            "rowcast_requests_total{operation=\"list\",outcome=\"stopped\"} 0",
            "rowcast_accepted_notifications_total{rule=\"posts\"} 1",
            "rowcast_rejected_notifications_total{rule=\"posts\"} 0",
            "rowcast_resyncs_total{reason=\"bulk\"} 0",
            "rowcast_changes_total{operation=\"update\"} 0",
            "rowcast_delivery_seconds_bucket{le=\"0.0025\"} 0",
            "rowcast_delivery_seconds_bucket{le=\"0.005\"} 1",
            "rowcast_streaming 1",
            "rowcast_standby 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
        let described: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
            .collect();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(described.contains(&base.unwrap_or(name)), "{name} has no help");
        }
    }

    #[test]
    fn a_page_is_behind_by_the_oldest_pending_change_or_since_nothing_comes() {
        let metrics = Metrics::new();
        let (now, mut standing) = (Instant::now(), streaming());
        assert_eq!(metrics.lag_seconds(&standing, now), Some(0.0));
        let oldest_unix_micros = Some(unix_micros() - 3_000_000);
        metrics.holds(Pending { oldest_unix_micros, ..Pending::default() });
        let lag = metrics.lag_seconds(&standing, now).expect("it streams");
        assert!((3.0..4.0).contains(&lag), "{lag}");
        metrics.routes(Some(unix_micros() - 7_000_000));
        let lag = metrics.lag_seconds(&standing, now).expect("it streams");
        assert!((7.0..8.0).contains(&lag), "what is not handed on yet counts: {lag}");
        metrics.routes(None);

        standing.source = Source::Broken { since: now, problem: "gone".into() };
        let later = now + Duration::from_secs(100);
        assert_eq!(metrics.lag_seconds(&standing, later), Some(100.0));
        standing.source = Source::Waiting { since: now, holder: "the slot".into() };
        assert_eq!(metrics.lag_seconds(&standing, later), None);
    }
}
