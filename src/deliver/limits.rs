use std::fmt;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::duration;

/// `[limits]`: how much is on its way at once, and how much may wait.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests that may be on their way to the endpoint side by side. Order is
    /// kept for each entity and id whatever this is.
    pub max_in_flight: MaxInFlight,
    /// Memory for notifications that the endpoint has not accepted yet. At the
    /// bound the rule with the most of them is told by a resync.
    pub max_pending: MaxPending,
    /// How many ids of a rule may wait to be sent, before one resync is sent in
    /// their stead.
    pub collapse_above: NonZeroUsize,
    /// Changes older than this are told by a resync; `None`: each is told,
    /// however old.
    #[serde(deserialize_with = "max_age")]
    pub max_age: Option<Duration>,
    /// How much log Postgres may keep for us, before changes are passed over and
    /// told by resyncs. `None`: the smaller of 4 GB and 80 % of
    /// `max_slot_wal_keep_size`.
    #[serde(deserialize_with = "max_retained_wal")]
    pub max_retained_wal: Option<ByteSize>,
    /// How many rows the outbox of `capture = "triggers"` may hold, before
    /// changes are passed over and told by resyncs.
    pub max_outbox_rows: MaxOutboxRows,
    /// The time over which a resync's channels are told, so that pages do not
    /// fetch all at once.
    #[serde(deserialize_with = "resync_spread")]
    pub resync_spread: Duration,
}

const HOUR: Duration = Duration::from_secs(3600);
const MAX_AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(8760 * 3600);
const RESYNC_SPREAD: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
/// Less than this is retained by any commit.
const LEAST_RETAINED_WAL: ByteSize = ByteSize::mebibytes(1);

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_in_flight: MaxInFlight(8),
            max_pending: MaxPending(ByteSize::mebibytes(32)),
            collapse_above: NonZeroUsize::new(1000).expect("it is not zero"),
            max_age: Some(HOUR),
            max_retained_wal: None,
            max_outbox_rows: MaxOutboxRows(1_000_000),
            resync_spread: Duration::from_secs(2),
        }
    }
}

fn max_age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration::within_or_false(deserializer, MAX_AGE)
}

fn resync_spread<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration::within(deserializer, RESYNC_SPREAD)
}

fn max_retained_wal<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ByteSize>, D::Error> {
    let size = ByteSize::deserialize(deserializer)?;
    if size < LEAST_RETAINED_WAL {
        return Err(D::Error::custom(format_args!(
            "{size} is too little log: it takes {LEAST_RETAINED_WAL} or more"
        )));
    }
    Ok(Some(size))
}

/// A number of requests from 1 to 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "usize")]
pub struct MaxInFlight(usize);

impl MaxInFlight {
    pub fn get(self) -> usize {
        self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} requests at once: it takes a number from 1 to 256")]
pub struct MaxInFlightError(usize);

impl TryFrom<usize> for MaxInFlight {
    type Error = MaxInFlightError;

    fn try_from(count: usize) -> Result<MaxInFlight, MaxInFlightError> {
        if (1..=256).contains(&count) {
            Ok(MaxInFlight(count))
        } else {
            Err(MaxInFlightError(count))
        }
    }
}

/// A number of rows from a thousand to a thousand million. With less, one bulk
/// update fills it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct MaxOutboxRows(u64);

impl MaxOutboxRows {
    const RANGE: RangeInclusive<u64> = 1_000..=1_000_000_000;

    pub fn get(self) -> u64 {
        self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} rows: it takes a number from 1000 to 1000000000")]
pub struct MaxOutboxRowsError(u64);

impl TryFrom<u64> for MaxOutboxRows {
    type Error = MaxOutboxRowsError;

    fn try_from(rows: u64) -> Result<MaxOutboxRows, MaxOutboxRowsError> {
        match MaxOutboxRows::RANGE.contains(&rows) {
            true => Ok(MaxOutboxRows(rows)),
            false => Err(MaxOutboxRowsError(rows)),
        }
    }
}

/// An amount of memory from 1 MiB on. With much less there would be no batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ByteSize")]
pub struct MaxPending(ByteSize);

impl MaxPending {
    const MIN: ByteSize = ByteSize::mebibytes(1);

    pub fn bytes(self) -> u64 {
        self.0.bytes()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is too little memory: it takes {min} or more", min = MaxPending::MIN)]
pub struct MaxPendingError(ByteSize);

impl TryFrom<ByteSize> for MaxPending {
    type Error = MaxPendingError;

    fn try_from(size: ByteSize) -> Result<MaxPending, MaxPendingError> {
        if size >= MaxPending::MIN { Ok(MaxPending(size)) } else { Err(MaxPendingError(size)) }
    }
}

/// An amount of memory or disk, written `"32MiB"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct ByteSize(u64);

impl ByteSize {
    const UNITS: [(&'static str, u64); 7] = [
        ("B", 1),
        ("KB", 1000),
        ("MB", 1000 * 1000),
        ("GB", 1000 * 1000 * 1000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];

    pub const fn mebibytes(count: u64) -> ByteSize {
        ByteSize(count << 20)
    }

    pub const fn new(bytes: u64) -> ByteSize {
        ByteSize(bytes)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ByteSizeError {
    #[error("{0:?} is not a size: write a whole number and a unit, as in \"32MiB\"")]
    Form(String),
    #[error("{0:?} is no unit of size: use B, KB, MB, GB, KiB, MiB or GiB")]
    Unit(String),
    #[error("{0:?} is more than any machine has")]
    TooLarge(String),
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<ByteSize, ByteSizeError> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = unit.trim();
        if number.is_empty() || unit.is_empty() {
            return Err(ByteSizeError::Form(text.to_owned()));
        }
        let Some((_, factor)) =
            Self::UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))
        else {
            return Err(ByteSizeError::Unit(unit.to_owned()));
        };
        let count = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        count.map(ByteSize).ok_or_else(|| ByteSizeError::TooLarge(text.to_owned()))
    }
}

impl TryFrom<String> for ByteSize {
    type Error = ByteSizeError;

    fn try_from(text: String) -> Result<ByteSize, ByteSizeError> {
        text.parse()
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = Self::UNITS
            .into_iter()
            .filter(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .max_by_key(|(_, factor)| *factor)
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_whole_number_and_a_unit() {
        for (text, bytes) in
            [("32MiB", 32 << 20), ("1 GB", 1_000_000_000), ("9000b", 9000), ("0KiB", 0)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        assert_eq!("32".parse::<ByteSize>(), Err(ByteSizeError::Form("32".into())));
        assert_eq!("MiB".parse::<ByteSize>(), Err(ByteSizeError::Form("MiB".into())));
        assert_eq!("1.5MiB".parse::<ByteSize>(), Err(ByteSizeError::Unit(".5MiB".into())));
        let huge = "99999999999GiB".parse::<ByteSize>();
        assert_eq!(huge, Err(ByteSizeError::TooLarge("99999999999GiB".into())));
    }

    #[test]
    fn a_size_prints_in_the_largest_unit_that_divides_it() {
        for text in ["32MiB", "1GB", "9KB", "1023B", "0B"] {
            assert_eq!(text.parse::<ByteSize>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn limits_refuse_zero_requests_and_unknown_keys() {
        assert_eq!(toml::from_str::<Limits>(""), Ok(Limits::default()));
        let zero = toml::from_str::<Limits>("max_in_flight = 0").expect_err("zero");
        assert!(zero.to_string().contains("from 1 to 256"), "{zero}");
        assert!(toml::from_str::<Limits>("max_inflight = 8").is_err());
    }

    #[test]
    fn limits_have_a_unit_and_a_range() {
        let limits = |text: &str| toml::from_str::<Limits>(text).map_err(|e| e.to_string());
        let set = limits(
            "collapse_above = 5\nmax_age = '90s'\nmax_retained_wal = '64MB'\nresync_spread = '0s'",
        );
        let set = set.expect("they are right");
        assert_eq!(set.collapse_above.get(), 5);
        assert_eq!(set.max_age, Some(Duration::from_secs(90)));
        assert_eq!(set.max_retained_wal, Some(ByteSize::new(64_000_000)));
        assert_eq!(set.resync_spread, Duration::ZERO);
        assert_eq!(limits("max_age = false").expect("it may be off").max_age, None);
        for (text, said) in [
            ("collapse_above = 0", "nonzero"),
            ("max_age = '0s'", "\"0s\" is not a duration from \"1s\" to \"8760h\""),
            ("max_age = true", "expected a duration such as \"250ms\", or false"),
            ("max_retained_wal = '10KB'", "10KB is too little log: it takes 1MiB or more"),
            ("resync_spread = '2m'", "\"2m\" is not a duration from \"0s\" to \"1m\""),
            ("resync_spread = false", "expected a string"),
        ] {
            let error = limits(text).expect_err(text);
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn memory_for_pending_notifications_is_a_mebibyte_at_least() {
        let limits = |text: &str| toml::from_str::<Limits>(&format!("max_pending = {text:?}"));
        assert_eq!(limits("1MiB").expect("the least").max_pending.bytes(), 1 << 20);
        for little in ["0B", "1023KiB"] {
            let error = limits(little).expect_err(little).to_string();
            assert!(error.contains("is too little memory: it takes 1MiB or more"), "{error}");
        }
        assert!(limits("1 bite").expect_err("no unit").to_string().contains("no unit of size"));
    }
}
