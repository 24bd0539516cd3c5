use std::fmt;

/// Seconds from the Unix epoch to 2000-01-01, from which Postgres counts.
const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;

/// A moment in UTC, in microseconds since the Unix epoch; printed as
/// `2026-11-20T21:34:00.123456Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    pub fn from_unix_micros(micros: i64) -> Timestamp {
        Timestamp(micros)
    }

    /// From microseconds since 2000-01-01, as the replication protocol has it.
    pub fn from_postgres_micros(micros: i64) -> Timestamp {
        Timestamp(micros.saturating_add(POSTGRES_EPOCH_SECONDS * 1_000_000))
    }

    pub fn unix_micros(self) -> i64 {
        self.0
    }

    /// Microseconds since 2000-01-01, as the replication protocol wants it.
    pub fn postgres_micros(self) -> i64 {
        self.0.saturating_sub(POSTGRES_EPOCH_SECONDS * 1_000_000)
    }

    /// As it is printed. `None` for what is no moment.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let moment: jiff::Timestamp = text.parse().ok()?;
        Some(Timestamp(moment.as_microsecond()))
    }

    pub fn now() -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_microsecond())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(moment) => write!(f, "{moment:.6}"),
            // A hostile or broken server may send a year that no calendar has.
            Err(_) => f.write_str("9999-12-31T23:59:59.999999Z"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_prints_six_digits_and_z() {
        let moment = Timestamp::from_unix_micros(1_795_210_440_123_456);
        assert_eq!(moment.to_string(), "2026-11-20T21:34:00.123456Z");
        assert_eq!(Timestamp::from_unix_micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::from_postgres_micros(0).to_string(), "2000-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::from_postgres_micros(7).postgres_micros(), 7);
        assert_eq!(Timestamp::parse(&moment.to_string()), Some(moment));
        assert_eq!(Timestamp::parse("yesterday"), None);
        assert!(!Timestamp::from_unix_micros(i64::MAX).to_string().is_empty());
    }
}
