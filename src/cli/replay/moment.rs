use std::str::FromStr;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::change::Timestamp;
use crate::duration;

/// A time as somebody says it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Moment {
    Ago(Duration),
    At(Timestamp),
    /// In the time zone of the application.
    There(DateTime),
}

#[derive(Debug, thiserror::Error)]
#[error("expected a duration such as 40m, or a time such as \"2026-11-21 14:05\"")]
pub(super) struct MomentError;

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Moment, MomentError> {
        if let Some(ago) = duration::parse(text) {
            return Ok(Moment::Ago(ago));
        }
        if let Ok(moment) = text.parse::<jiff::Timestamp>() {
            return Ok(Moment::At(Timestamp::from_unix_micros(moment.as_microsecond())));
        }
        text.parse().map(Moment::There).map_err(|_| MomentError)
    }
}

impl Moment {
    /// `now` is the server's. `None` past all calendars.
    pub(super) fn at(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Moment::Ago(ago) => {
                let micros = i64::try_from(ago.as_micros()).ok()?;
                Some(Timestamp::from_unix_micros(now.unix_micros().checked_sub(micros)?))
            }
            Moment::At(moment) => Some(*moment),
            Moment::There(there) => {
                let moment = zone.to_timestamp(*there).ok()?;
                Some(Timestamp::from_unix_micros(moment.as_microsecond()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_while_ago_or_a_moment_or_one_where_the_application_is() {
        let now = Timestamp::from_unix_micros(1_795_210_440_000_000);
        let berlin = TimeZone::get("Europe/Berlin").expect("it is in the database");
        for (text, at) in [
            ("40m", "2026-11-20T20:54:00.000000Z"),
            ("1h 30m", "2026-11-20T20:04:00.000000Z"),
            ("2026-11-20T14:05:00Z", "2026-11-20T14:05:00.000000Z"),
            ("2026-11-20T14:05:00+02:00", "2026-11-20T12:05:00.000000Z"),
            ("2026-11-20 14:05", "2026-11-20T13:05:00.000000Z"),
            ("2026-11-20", "2026-11-19T23:00:00.000000Z"),
        ] {
            let moment: Moment = text.parse().expect(text);
            assert_eq!(moment.at(now, &berlin).map(|at| at.to_string()).as_deref(), Some(at));
        }
        for text in ["yesterday", "40", "-5m", ""] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}
