use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};

/// How much would have been published, and what that makes a day.
#[derive(Clone, Debug)]
pub struct Estimate {
    pub elapsed: Duration,
    /// By name, of those that said anything.
    pub rules: BTreeMap<Arc<str>, Count>,
}

/// Of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub notifications: u64,
    /// A notification is one for each of its channels.
    pub messages: u64,
    /// Notifications that would be written to the rejected file instead.
    pub refused: u64,
    pub resyncs: u64,
    /// Of them, on channels that no row value names.
    pub resync_messages: u64,
    /// Whether there is one more for each occupied channel that row values name.
    pub resyncs_tell_occupied: bool,
}

impl Estimate {
    /// Resyncs are left out: they come of accidents, not every so often.
    fn total(&self) -> Count {
        let mut total = Count::default();
        for count in self.rules.values() {
            total.notifications += count.notifications;
            total.messages += count.messages;
        }
        total
    }

    fn a_day(&self, messages: u64) -> u64 {
        const DAY_MS: u128 = 86_400_000;
        let elapsed_ms = self.elapsed.as_millis().max(1);
        u64::try_from(u128::from(messages) * DAY_MS / elapsed_ms).unwrap_or(u64::MAX)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let rules = self.rules.iter().map(|(rule, count)| {
            json!({
                "rule": **rule,
                "notifications": count.notifications,
                "messages": count.messages,
                "messages_a_day": self.a_day(count.messages),
                "refused": count.refused,
                "resyncs": count.resyncs,
                "resync_messages": count.resync_messages,
                "resyncs_tell_occupied": count.resyncs_tell_occupied,
            })
        });
        let total = self.total();
        json!({ "estimate": {
            "seconds": self.elapsed.as_secs_f64(),
            "notifications": total.notifications,
            "messages": total.messages,
            "messages_a_day": self.a_day(total.messages),
            "rules": rules.collect::<Vec<_>>(),
        } })
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let seconds = SignedDuration::from_secs(self.elapsed.as_secs_f64().round() as i64);
        writeln!(f, "in {seconds:#}, as `rowcast run` would have sent it:")?;
        writeln!(f)?;
        let width = self.rules.keys().map(|rule| rule.chars().count()).max().unwrap_or(0).max(5);
        writeln!(
            f,
            "{:width$}  {:>13}  {:>11}  {:>11}",
            "rule", "notifications", "messages", "a day"
        )?;
        let mut row = |name: &str, count: &Count| {
            let a_day = self.a_day(count.messages);
            writeln!(
                f,
                "{name:width$}  {:>13}  {:>11}  {a_day:>11}",
                count.notifications, count.messages
            )
        };
        for (rule, count) in &self.rules {
            row(rule, count)?;
        }
        row("all", &total)?;
        writeln!(f)?;
        for (rule, count) in &self.rules {
            if count.refused > 0 {
                writeln!(f, "{rule}: {} refused, for rejected.jsonl", count.refused)?;
            }
            if count.resyncs > 0 {
                let (resyncs, messages) = (count.resyncs, count.resync_messages);
                let occupied = match count.resyncs_tell_occupied {
                    true => ", and one for each occupied channel that row values name",
                    false => "",
                };
                writeln!(
                    f,
                    "{rule}: resyncs apart from that: {resyncs} (messages: {messages}{occupied})"
                )?;
            }
        }
        write!(
            f,
            "A message is a notification on one channel. Hosted Pusher counts it, and the copy of \
             each\nsubscriber: on a channel with 3 open pages it is 4."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate() -> Estimate {
        let posts = Count { notifications: 30, messages: 60, ..Count::default() };
        let tags = Count {
            notifications: 1,
            messages: 1,
            refused: 2,
            resyncs: 3,
            resync_messages: 3,
            resyncs_tell_occupied: true,
        };
        let rules = [("posts".into(), posts), ("tags".into(), tags)].into();
        Estimate { elapsed: Duration::from_secs(600), rules }
    }

    #[test]
    fn an_estimate_is_per_rule_a_day_and_says_what_is_counted() {
        assert_eq!(
            estimate().to_string(),
            "in 10m, as `rowcast run` would have sent it:\n\
             \n\
             rule   notifications     messages        a day\n\
             posts             30           60         8640\n\
             tags               1            1          144\n\
             all               31           61         8784\n\
             \n\
             tags: 2 refused, for rejected.jsonl\n\
             tags: resyncs apart from that: 3 (messages: 3, and one for each occupied channel \
             that row values name)\n\
             A message is a notification on one channel. Hosted Pusher counts it, and the copy of \
             each\nsubscriber: on a channel with 3 open pages it is 4."
        );
        let json = estimate().json();
        assert_eq!(json["estimate"]["messages_a_day"], 8784);
        assert_eq!(json["estimate"]["rules"][1]["resync_messages"], 3);
    }

    #[test]
    fn nothing_in_no_time_is_nothing_a_day() {
        let nothing = Estimate { elapsed: Duration::ZERO, rules: BTreeMap::new() };
        assert_eq!(nothing.json()["estimate"]["messages_a_day"], 0);
    }
}
