//! The endpoint: whether it is reached, knows the app, and takes what is sent.

mod app;
mod way;

use serde_json::json;

use super::report::{Check, Report};
use crate::chain;
use crate::change::Timestamp;
use crate::config::{Config, Loaded};
use crate::deliver::pusher::{
    self, Client, Examination, Problem, ReachEnd, Server, TOLERATED_SKEW_SECONDS, reach,
};
use crate::notification::{ChannelClass, ChannelName};

/// What `--push` sends to. Nobody listens there, unless somebody wants to see it.
const CHANNEL: &str = "rowcast-doctor";
const EVENT: &str = "rowcast.doctor";

pub(super) async fn check(loaded: &Loaded, pushes: bool, report: &mut Report) {
    report.section("endpoint");
    let config = &loaded.config;
    report.add(encryption_key(config));
    let (client, way) = match (Client::new(&config.pusher), reach(&config.pusher).await) {
        (Ok(client), Ok(way)) => (client, way),
        (Err(error), _) | (_, Err(error)) => {
            let fix = format!("`{}` in [pusher]", error.option());
            return report.add(Check::fails("settings", chain::line(&error), fix));
        }
    };
    for check in way::checks(&way) {
        report.add(check);
    }
    if !matches!(way.end, ReachEnd::Reached { .. }) {
        return report.add(Check::unknown("all else", "it takes a connection to look at"));
    }
    let examination = client.examine().await;
    for check in checks(&examination, &config.pusher) {
        report.add(check);
    }
    if !pushes {
        return;
    }
    if examination.known.is_err() {
        return report.add(Check::unknown("test event", "not sent: the app is refused"));
    }
    for check in push(&client, config.pusher.server).await {
        report.add(check);
    }
}

/// What an examination means.
fn checks(examination: &Examination, config: &pusher::Config) -> Vec<Check> {
    let mut checks = vec![app::check(examination, config)];
    checks.extend(examination.skew_seconds.map(clock));
    let capacity = config.server.capacity();
    if let Some(batch) = &examination.batch {
        checks.push(batches(batch));
    }
    if let Some(largest) = &examination.largest {
        checks.push(request_size(largest, capacity.body_bytes));
    }
    checks
}

/// `ahead`: of this machine's clock.
fn clock(ahead: i64) -> Check {
    let seconds = ahead.unsigned_abs();
    match ahead {
        -2..=2 => Check::holds("clock", "as the endpoint's"),
        _ if seconds <= TOLERATED_SKEW_SECONDS.unsigned_abs() => {
            Check::holds("clock", format!("{seconds} s off the endpoint's, which does no harm"))
        }
        _ => {
            let side = if ahead > 0 { "ahead of" } else { "behind" };
            Check::advice(
                "clock",
                format!(
                    "this machine's clock is {seconds} s {side} the endpoint's: hosted Pusher and \
                     Sockudo refuse what is ten minutes off"
                ),
                "set it, for example by NTP: timedatectl set-ntp true".to_owned(),
            )
        }
    }
}

fn batches(batch: &Result<(), Problem>) -> Check {
    const NAME: &str = "batches";
    match batch {
        Ok(()) => Check::holds(NAME, "several notifications travel in one request"),
        Err(problem @ Problem::Answered { code: 404 | 405, .. }) => Check::advice(
            NAME,
            format!("{problem} to POST batch_events: each notification is a request of its own"),
            "a proxy must forward POST requests to /apps; laravel-websockets has no batches: \
             server = \"laravel-websockets\" in [pusher]"
                .to_owned(),
        ),
        Err(problem) => Check::fails(
            NAME,
            format!("GET requests are answered, and to POST batch_events {problem}"),
            problem.hint().map(str::to_owned),
        ),
    }
}

fn request_size(largest: &Result<(), Problem>, bytes: usize) -> Check {
    const NAME: &str = "request size";
    match largest {
        Ok(()) => Check::holds(NAME, format!("{bytes} bytes, the most that is sent at once, pass")),
        Err(problem) => Check::fails(
            NAME,
            format!("{problem} to a request of {bytes} bytes, the most that is sent at once"),
            "`server` in [pusher] must name the server that it is, or be left out; or let that \
             server (Reverb: max_request_size) and a proxy before it (nginx: \
             client_max_body_size) take so much"
                .to_owned(),
        ),
    }
}

/// Whether there is one is seen when the rules are compiled.
fn encryption_key(config: &Config) -> Check {
    const NAME: &str = "encryption key";
    let channels = config.rule.iter().flat_map(|rule| rule.channels.iter().flat_map(|it| &it.0));
    let encrypted = channels.filter(|channel| ChannelClass::of(channel).is_encrypted()).count();
    Check::holds(
        NAME,
        match (config.pusher.encryption_key.is_some(), encrypted) {
            (true, 0) => "32 bytes, and no rule has an encrypted channel".to_owned(),
            (true, _) => "32 bytes; it must be the application's own, which nobody else can \
                          compare"
                .to_owned(),
            (false, _) => "none, and no rule needs one".to_owned(),
        },
    )
}

/// Sends two events that nobody waits for: a small one, and one that is as large as
/// a notification may be.
async fn push(client: &Client, server: Server) -> Vec<Check> {
    let event = EVENT.parse().expect("a valid event name");
    let channel: ChannelName = CHANNEL.parse().expect("a valid channel name");
    let at = Timestamp::now().to_string();
    let small = json!({ "at": at }).to_string();
    let pushed = client.publish(&event, std::slice::from_ref(&channel), &small).await;
    if let Err(problem) = pushed {
        let hint = problem.hint().map(str::to_owned);
        return vec![Check::fails("test event", problem.to_string(), hint)];
    }
    let took = Check::holds("test event", format!("{EVENT} was accepted on channel {CHANNEL}"));
    let bytes = server.capacity().max_data_bytes();
    let large = padded(&at, bytes);
    let pushed = client.publish(&event, &[channel], &large).await;
    let large = match pushed {
        Ok(()) => Check::holds("payload size", format!("{bytes} bytes, the most of one, pass")),
        Err(problem) => Check::fails(
            "payload size",
            format!("{problem} to a payload of {bytes} bytes, the most of one"),
            "`server` in [pusher] must name the server that it is, or be left out; or raise what \
             the app may send there (Sockudo: max_event_payload_in_kb)"
                .to_owned(),
        ),
    };
    vec![took, large]
}

/// So long as a string of JSON, with its quotes.
fn padded(at: &str, bytes: usize) -> String {
    let empty = json!({ "at": at, "padding": "" }).to_string();
    let padding = bytes.saturating_sub(crate::notification::escaped_len(&empty));
    json!({ "at": at, "padding": "x".repeat(padding) }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::escaped_len;

    #[test]
    fn the_large_test_event_is_as_large_as_a_notification_may_be() {
        for server in Server::ALL {
            let bytes = server.capacity().max_data_bytes();
            assert_eq!(escaped_len(&padded("2026-11-21T20:00:00Z", bytes)), bytes, "{server:?}");
        }
    }

    #[test]
    fn a_clock_is_a_matter_of_minutes() {
        for (ahead, verdict) in
            [(0, "Holds"), (-2, "Holds"), (299, "Holds"), (301, "Advice"), (-900, "Advice")]
        {
            let check = format!("{:?}", clock(ahead));
            assert!(check.contains(verdict), "{check}");
        }
    }
}
