use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::super::stopped;
use crate::change::Position;
use crate::notification::{Handoff, Resync};

/// So many notifications in so much time, at most. Printed as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    text: Box<str>,
    per_second: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a rate such as 500/s, 30/m or unlimited")]
pub struct RateError(String);

impl Rate {
    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    /// How long so many take.
    pub fn time_of(&self, notifications: u64) -> Duration {
        Duration::try_from_secs_f64(notifications as f64 / self.per_second).unwrap_or(Duration::MAX)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Rate, RateError> {
        let error = || RateError(text.to_owned());
        let (count, unit) = text.split_once('/').ok_or_else(error)?;
        let count: u32 = count.trim().parse().map_err(|_| error())?;
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(error()),
        };
        match count {
            0 => Err(error()),
            count => Ok(Rate { text: text.into(), per_second: f64::from(count) / seconds }),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A bucket that fills with time, up to what a tenth of a second brings. Pure.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: &Rate, now: Instant) -> Bucket {
        Bucket { per_second: rate.per_second, level: 1.0, at: now }
    }

    /// Takes up to so many. If there is none: how long until there is one.
    fn take(&mut self, wanted: usize, now: Instant) -> Result<usize, Duration> {
        let capacity = (self.per_second / 10.0).max(1.0);
        let filled = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.level = (self.level + filled).min(capacity);
        self.at = now;
        if self.level < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.level) / self.per_second));
        }
        let taken = wanted.min(self.level as usize);
        self.level -= taken as f64;
        Ok(taken)
    }
}

/// Hands on what comes no faster than the rate allows, and counts it.
pub(super) struct Throttle {
    bucket: Option<Bucket>,
    notifications: u64,
}

impl Throttle {
    pub(super) fn new(rate: Option<&Rate>) -> Throttle {
        let bucket = rate.map(|rate| Bucket::new(rate, Instant::now()));
        Throttle { bucket, notifications: 0 }
    }

    /// Returns how many notifications it has handed on. What waits for its turn when
    /// `stop` turns true is dropped: no position of it was reached.
    pub(super) async fn run(
        mut self,
        mut from: mpsc::Receiver<Handoff>,
        to: mpsc::Sender<Handoff>,
        stop: watch::Receiver<bool>,
    ) -> u64 {
        while let Some(handoff) = from.recv().await {
            tokio::select! {
                is_open = self.hand_on(handoff, &to) => if !is_open { break },
                () = stopped(stop.clone()), if self.bucket.is_some() => break,
            }
        }
        self.notifications
    }

    async fn hand_on(&mut self, mut handoff: Handoff, to: &mpsc::Sender<Handoff>) -> bool {
        while let Some(bucket) = &mut self.bucket
            && !handoff.notifications.is_empty()
        {
            let taken = match bucket.take(handoff.notifications.len(), Instant::now()) {
                Ok(taken) => taken,
                Err(wait) => {
                    sleep(wait).await;
                    continue;
                }
            };
            if taken == handoff.notifications.len() {
                break;
            }
            let rest = handoff.notifications.split_off(taken);
            let part = std::mem::replace(&mut handoff.notifications, rest);
            let reached = Some(before_all(&handoff));
            self.notifications += part.len() as u64;
            let part = Handoff { notifications: part, reached, ..Handoff::default() };
            if to.send(part).await.is_err() {
                return false;
            }
        }
        let counted = handoff.resyncs.iter().map(Resync::counted).sum::<u64>();
        self.notifications += handoff.notifications.len() as u64 + counted;
        to.send(handoff).await.is_ok()
    }
}

/// The last position before all that it holds.
fn before_all(handoff: &Handoff) -> Position {
    let notifications = handoff.notifications.iter().map(|notification| notification.position);
    let resyncs = handoff.resyncs.iter().filter_map(|resync| resync.position);
    let lowest = notifications.chain(resyncs).map(Position::value).min();
    Position::new(lowest.unwrap_or_default().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_in_a_second_a_minute_or_an_hour() {
        for (text, per_second) in [("500/s", 500.0), ("30/m", 0.5), ("3600 / h", 1.0)] {
            assert_eq!(text.parse().map(|rate: Rate| rate.per_second()), Ok(per_second), "{text}");
        }
        for text in ["500", "0/s", "-1/s", "5/d", "a/s", ""] {
            let error = text.parse::<Rate>().expect_err(text);
            assert!(error.to_string().contains("is not a rate such as 500/s"), "{error}");
        }
        let rate: Rate = "500/s".parse().expect("a rate");
        assert_eq!(rate.time_of(100_000), Duration::from_secs(200));
    }

    #[test]
    fn a_bucket_gives_no_more_than_its_rate_over_any_time_but_for_a_tenth_of_a_second() {
        for text in ["500/s", "7/s", "30/m"] {
            let rate: Rate = text.parse().expect("a rate");
            let start = Instant::now();
            let (mut now, mut bucket, mut taken) = (start, Bucket::new(&rate, start), 0);
            while now < start + Duration::from_secs(60) {
                match bucket.take(1000, now) {
                    Ok(count) => taken += count,
                    Err(wait) => now += wait + Duration::from_micros(1),
                }
            }
            let due = rate.per_second() * 60.0;
            let most = due + (rate.per_second() / 10.0).max(1.0) + 1.0;
            assert!((due * 0.99 - 1.0..=most).contains(&(taken as f64)), "{text}: {taken}");
        }
    }
}
