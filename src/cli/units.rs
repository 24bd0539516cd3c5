//! Amounts as people read them.

use std::fmt;
use std::time::Duration;

/// Bytes in the largest unit that leaves a digit before the point: `4.2 GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] =
            [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
        let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| self.0 >= *unit) else {
            return write!(f, "{} B", self.0);
        };
        let (whole, tenths) = (self.0 / unit, self.0 % unit / (unit / 10));
        match (whole, tenths) {
            (10.., _) | (_, 0) => write!(f, "{whole} {name}"),
            _ => write!(f, "{whole}.{tenths} {name}"),
        }
    }
}

/// A time that has passed: `0.3 s`, `4 min`, `3 h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl Span {
    /// Of seconds that another process has told: what is no time is none.
    pub(super) fn of_seconds(seconds: f64) -> Span {
        Span(Duration::try_from_secs_f64(seconds).unwrap_or_default())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..10 if self.0.subsec_millis() >= 100 => {
                write!(f, "{seconds}.{} s", self.0.subsec_millis() / 100)
            }
            0..120 => write!(f, "{seconds} s"),
            120..7200 => write!(f, "{} min", seconds / 60),
            7200..172_800 => write!(f, "{} h", seconds / 3600),
            _ => write!(f, "{} days", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_has_two_digits_or_more_and_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1 kB"),
            (4_290_000_000, "4.2 GB"),
            (31_900_000, "31 MB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        for (seconds, text) in [
            (0.0, "0 s"),
            (0.34, "0.3 s"),
            (9.99, "9.9 s"),
            (119.0, "119 s"),
            (250.0, "4 min"),
            (7200.0, "2 h"),
            (864_000.0, "10 days"),
            (-1.0, "0 s"),
            (f64::NAN, "0 s"),
        ] {
            assert_eq!(Span::of_seconds(seconds).to_string(), text);
        }
    }
}
