//! Timestamps as Postgres prints them, as ISO 8601 in UTC.

use std::fmt::Write;

use jiff::civil;
use jiff::tz::TimeZone;

use crate::change::Timestamp;

/// `2026-11-20 21:34:00.5+00` becomes `2026-11-20T21:34:00.500000Z`. A text
/// without an offset is a local time of `zone`; one that falls into a gap or is
/// told twice there is taken as most programs take it (RFC 5545).
///
/// `None` for `infinity`, BC and years past 9999, which ISO 8601 does not have.
pub(super) fn parse(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let (local, offset) = split_offset(text)?;
    let moment = match offset {
        Some(seconds) => {
            let utc = local.to_zoned(TimeZone::UTC).ok()?.timestamp();
            utc.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok()?
        }
        None => zone.to_ambiguous_zoned(local).compatible().ok()?.timestamp(),
    };
    Some(Timestamp::from_unix_micros(moment.as_microsecond()))
}

/// Appends the ISO form, or the text as it is where there is none.
pub(super) fn write_iso(out: &mut String, text: &str, zone: &TimeZone) {
    match parse(text, zone) {
        Some(moment) => write!(out, "{moment}").expect("a string takes any text"),
        None => out.push_str(text),
    }
}

fn split_offset(text: &str) -> Option<(civil::DateTime, Option<i64>)> {
    let date = civil::date(digits(text.get(0..4)?)?.try_into().ok()?, 1, 1);
    let bytes = text.as_bytes();
    let separated = bytes.get(4) == Some(&b'-') && bytes.get(7) == Some(&b'-');
    if !separated {
        return None;
    }
    let date = civil::Date::new(
        date.year(),
        digits(text.get(5..7)?)?.try_into().ok()?,
        digits(text.get(8..10)?)?.try_into().ok()?,
    )
    .ok()?;
    let Some(rest) = text.get(10..).filter(|rest| !rest.is_empty()) else {
        return Some((date.to_datetime(civil::Time::midnight()), None));
    };
    let rest = rest.strip_prefix([' ', 'T'])?;
    let end = rest.find(['+', '-', 'Z', ' ']).unwrap_or(rest.len());
    let (time, offset) = rest.split_at(end);
    Some((date.to_datetime(clock(time)?), offset_seconds(offset)?))
}

fn clock(text: &str) -> Option<civil::Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = whole.split(':').map(digits);
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || fraction.len() > 9 {
        return None;
    }
    let nanos = match fraction {
        "" => 0,
        _ => digits(fraction)? * 10_i64.pow(9 - fraction.len() as u32),
    };
    civil::Time::new(
        hour.try_into().ok()?,
        minute.try_into().ok()?,
        second.try_into().ok()?,
        nanos.try_into().ok()?,
    )
    .ok()
}

/// `Some(None)` without an offset, `None` if it is none: Postgres writes
/// `+05:30` and, for zones of long ago, `+00:19:32`.
fn offset_seconds(text: &str) -> Option<Option<i64>> {
    let (sign, rest) = match text.as_bytes().first() {
        None => return Some(None),
        Some(b'Z') if text.len() == 1 => return Some(Some(0)),
        Some(b'+') => (1, &text[1..]),
        Some(b'-') => (-1, &text[1..]),
        Some(_) => return None,
    };
    let mut seconds = 0;
    for (part, unit) in rest.split(':').zip([3600, 60, 1]) {
        seconds += digits(part)? * unit;
    }
    Some(Some(sign * seconds))
}

fn digits(text: &str) -> Option<i64> {
    let plain = !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().expect("nine digits fit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iso(text: &str, zone: &str) -> String {
        let mut out = String::new();
        write_iso(&mut out, text, &TimeZone::get(zone).unwrap());
        out
    }

    #[test]
    fn a_timestamp_becomes_utc_with_six_digits() {
        for (text, expected) in [
            ("2026-11-20 21:34:00.123456+00", "2026-11-20T21:34:00.123456Z"),
            ("2026-11-20 21:34:00.5+00", "2026-11-20T21:34:00.500000Z"),
            ("2026-11-20 21:34:00+00", "2026-11-20T21:34:00.000000Z"),
            ("2026-11-20 21:34:00+05:30", "2026-11-20T16:04:00.000000Z"),
            ("2026-11-20 21:34:00-03", "2026-11-21T00:34:00.000000Z"),
            ("1890-01-01 00:19:32+00:19:32", "1890-01-01T00:00:00.000000Z"),
            ("2026-11-20", "2026-11-20T00:00:00.000000Z"),
        ] {
            assert_eq!(iso(text, "UTC"), expected);
        }
    }

    #[test]
    fn a_local_time_is_one_of_the_configured_zone() {
        assert_eq!(iso("2026-07-01 12:00:00", "Europe/Berlin"), "2026-07-01T10:00:00.000000Z");
        assert_eq!(iso("2026-12-01 12:00:00", "Europe/Berlin"), "2026-12-01T11:00:00.000000Z");
        let gap = iso("2026-03-29 02:30:00", "Europe/Berlin");
        assert_eq!(gap, "2026-03-29T01:30:00.000000Z");
        let twice = iso("2026-10-25 02:30:00", "Europe/Berlin");
        assert_eq!(twice, "2026-10-25T00:30:00.000000Z");
    }

    #[test]
    fn what_iso_8601_does_not_have_stays_as_it_is() {
        for text in [
            "infinity",
            "-infinity",
            "0044-03-15 12:00:00 BC",
            "0044-03-15 12:00:00+00 BC",
            "10000-01-01 00:00:00+00",
            "294276-12-31 23:59:59.999999",
            "",
            "2026-13-01 00:00:00",
            "2026-11-20 21:34",
            "é026-11-20",
        ] {
            assert_eq!(iso(text, "UTC"), text);
        }
    }
}
