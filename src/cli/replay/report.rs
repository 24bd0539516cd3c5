//! What the command says on the screen. Notifications that a dry run prints are on
//! stdout, so all else for people is on stderr.

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::Args;
use crate::pipeline;

/// A count with its thousands apart: `100,000`.
pub(super) struct Count(pub(super) u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (index, digit) in digits.char_indices() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// `3 min 20 s`.
pub(super) struct Time(pub(super) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0..10 if self.0.subsec_millis() >= 50 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            seconds @ 0..10 => write!(f, "{seconds} s"),
            seconds @ 10..120 => write!(f, "{seconds} s"),
            seconds @ 120..7200 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            seconds => write!(f, "{} h {} min", seconds / 3600, seconds % 3600 / 60),
        }
    }
}

/// `1 row`, `2 rows`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", Count(count), if count == 1 { one } else { many })
}

/// For people.
pub(super) fn say(text: &str) -> io::Result<()> {
    writeln!(io::stderr(), "{text}")
}

/// That all was told. `delivered` is what, with its count.
pub(super) fn done(
    args: &Args,
    delivered: &str,
    notifications: u64,
    started: Instant,
) -> io::Result<()> {
    let verb = if args.dry_run { "would be sent" } else { "sent" };
    let notifications = counted(notifications, "notification", "notifications");
    say(&format!("Done: {delivered}, {notifications} {verb}, in {}.", Time(started.elapsed())))
}

/// That not all was told: how far it came, and the command that goes on; and what kept
/// it from going on by itself.
pub(super) fn stopped(
    how_far: &str,
    command: &str,
    failed: Option<pipeline::Error>,
) -> anyhow::Error {
    let told = format!("stopped: {how_far}. This goes on:\n  {command}");
    match failed {
        Some(failed) => anyhow::Error::from(failed).context(told),
        None => anyhow::Error::msg(told),
    }
}

/// For programs.
pub(super) fn print_json(object: &serde_json::Value) -> io::Result<()> {
    writeln!(io::stdout(), "{object}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_times_are_for_people() {
        assert_eq!(Count(1_234_567).to_string(), "1,234,567");
        assert_eq!((Count(0).to_string(), Count(999).to_string()), ("0".into(), "999".into()));
        for (seconds, text) in [
            (1.25, "1.2 s"),
            (2.0, "2 s"),
            (75.0, "75 s"),
            (200.0, "3 min 20 s"),
            (7500.0, "2 h 5 min"),
        ] {
            assert_eq!(Time(Duration::from_secs_f64(seconds)).to_string(), text);
        }
        assert_eq!(counted(1, "row", "rows"), "1 row");
    }
}
