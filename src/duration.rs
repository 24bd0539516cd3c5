//! Durations as the configuration has them: `"250ms"`, `"1m 30s"`.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::SignedDuration;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// `None` if it is no duration, or below zero.
pub fn parse(text: &str) -> Option<Duration> {
    text.parse::<SignedDuration>().ok()?.try_into().ok()
}

/// For a function that `deserialize_with` names.
///
/// # Errors
/// If it is no duration, or outside of `range`.
pub fn within<'de, D: Deserializer<'de>>(
    deserializer: D,
    range: RangeInclusive<Duration>,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    check(&text, &range, "")
}

/// For a function that `deserialize_with` names. `None` is `false`.
///
/// # Errors
/// If it is neither, or a duration outside of `range`.
pub fn within_or_false<'de, D: Deserializer<'de>>(
    deserializer: D,
    range: RangeInclusive<Duration>,
) -> Result<Option<Duration>, D::Error> {
    deserializer.deserialize_any(WithinOrFalse(range))
}

struct WithinOrFalse(RangeInclusive<Duration>);

impl Visitor<'_> for WithinOrFalse {
    type Value = Option<Duration>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"250ms\", or false")
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<Option<Duration>, E> {
        match on {
            true => Err(E::invalid_value(Unexpected::Bool(true), &self)),
            false => Ok(None),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<Duration>, E> {
        check(text, &self.0, ", nor false").map(Some)
    }
}

fn check<E: Error>(text: &str, range: &RangeInclusive<Duration>, nor: &str) -> Result<Duration, E> {
    parse(text).filter(|duration| range.contains(duration)).ok_or_else(|| {
        let (least, most) = (written(*range.start()), written(*range.end()));
        E::custom(format_args!("{text:?} is not a duration from \"{least}\" to \"{most}\"{nor}"))
    })
}

/// As it may be written.
fn written(duration: Duration) -> String {
    SignedDuration::try_from(duration).map_or_else(|_| "any".to_owned(), |d| format!("{d:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_with_its_unit() {
        assert_eq!(parse("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse("1m 30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse("0s"), Some(Duration::ZERO));
        for text in ["10", "-1s", "", "s", "soon"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_duration_outside_of_its_range_is_told_the_range() {
        let range = Duration::from_millis(1)..=Duration::from_secs(60);
        let says = |text| {
            check::<serde::de::value::Error>(text, &range, ", nor false").map_err(|e| e.to_string())
        };
        assert_eq!(says("60s"), Ok(Duration::from_secs(60)));
        let said = "is not a duration from \"1ms\" to \"1m\", nor false";
        for text in ["0s", "61s", "1"] {
            assert_eq!(says(text), Err(format!("{text:?} {said}")));
        }
    }
}
