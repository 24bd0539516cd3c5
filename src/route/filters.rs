//! Filters beside MiniJinja's own, as PHP and Laravel print.

use std::borrow::Cow;

use jiff::tz::TimeZone;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::moment;

/// A class name with dots: `App\Models\Post` is `App.Models.Post`. The one filter
/// that brings dots into a channel's name, and so lets a value choose among all
/// channels below.
pub(super) fn dotted(text: Cow<'_, str>) -> String {
    text.trim_start_matches('\\').replace('\\', ".")
}

/// PHP's `htmlspecialchars` as Blade's `{{ }}` calls it: what is escaped already
/// is escaped again, and NULL is no text.
pub(super) fn e(value: &Value) -> String {
    let text = match value.kind() {
        ValueKind::Undefined | ValueKind::None => return String::new(),
        ValueKind::Bool => return if value.is_true() { "1" } else { "" }.to_owned(),
        _ => value.to_string(),
    };
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#039;"),
            other => out.push(other),
        }
    }
    out
}

/// Carbon's `toIso8601String()`.
pub(super) fn iso8601(value: &Value) -> Result<String, Error> {
    let iso = iso(value)?;
    let seconds = iso.split_once('.').map_or(&*iso, |(seconds, _)| seconds);
    Ok(format!("{seconds}+00:00"))
}

/// Carbon's `toISOString()`, which is also how a model's dates become JSON.
pub(super) fn iso(value: &Value) -> Result<String, Error> {
    value
        .as_str()
        .and_then(|text| moment::parse(text, &TimeZone::UTC))
        .map(|moment| moment.to_string())
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "expected a timestamp or a date"))
}

/// PHP's `number_format`; of NULL it is that of 0. It works on decimal digits, so
/// that no digit of a numeric column is lost (PHP's float holds 15 of them).
pub(super) fn number_format(
    value: &Value,
    decimals: Option<i32>,
    point: Option<Cow<'_, str>>,
    thousands: Option<Cow<'_, str>>,
) -> Result<String, Error> {
    let decimals = decimals.unwrap_or(0).clamp(-400, 400);
    let number = Decimal::of(value, decimals)?;
    let Decimal::Finite { negative, whole, fraction } = number else {
        return Ok(number.name().to_owned());
    };
    let (whole, fraction) = round(whole, fraction, decimals);
    let zero = whole.iter().chain(&fraction).all(|digit| *digit == b'0');

    let mut out = String::new();
    if negative && !zero {
        out.push('-');
    }
    let thousands = thousands.as_deref().unwrap_or(",");
    for (index, digit) in whole.iter().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            out.push_str(thousands);
        }
        out.push(char::from(*digit));
    }
    if !fraction.is_empty() {
        out.push_str(point.as_deref().unwrap_or("."));
        out.extend(fraction.iter().map(|digit| char::from(*digit)));
    }
    Ok(out)
}

enum Decimal {
    /// ASCII digits before and after the point.
    Finite {
        negative: bool,
        whole: Vec<u8>,
        fraction: Vec<u8>,
    },
    NaN,
    Infinity,
    NegativeInfinity,
}

impl Decimal {
    fn of(value: &Value, decimals: i32) -> Result<Decimal, Error> {
        let not_a_number =
            || Error::new(ErrorKind::InvalidOperation, "number_format expects a number");
        let text = match value.kind() {
            ValueKind::Undefined | ValueKind::None => "0".to_owned(),
            ValueKind::Bool => i32::from(value.is_true()).to_string(),
            ValueKind::Number if value.is_integer() => value.to_string(),
            ValueKind::Number => float_digits(f64::try_from(value.clone())?, decimals),
            ValueKind::String => value.as_str().unwrap_or_default().trim().to_owned(),
            _ => return Err(not_a_number()),
        };
        match &*text.to_ascii_lowercase() {
            "nan" => return Ok(Decimal::NaN),
            "inf" | "infinity" => return Ok(Decimal::Infinity),
            "-inf" | "-infinity" => return Ok(Decimal::NegativeInfinity),
            _ => {}
        }
        // Without the exponent: f64's Display never writes one.
        let text = match text.contains(['e', 'E']) {
            true => text.parse::<f64>().map_err(|_| not_a_number())?.to_string(),
            false => text,
        };
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(&text)),
        };
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let all_digits = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
        if !all_digits || whole.len() + fraction.len() == 0 {
            return Err(not_a_number());
        }
        let whole = whole.trim_start_matches('0');
        let whole = if whole.is_empty() { "0" } else { whole };
        Ok(Decimal::Finite { negative, whole: whole.into(), fraction: fraction.into() })
    }

    fn name(&self) -> &'static str {
        match self {
            Decimal::NaN => "nan",
            Decimal::Infinity => "inf",
            Decimal::NegativeInfinity => "-inf",
            Decimal::Finite { .. } => "",
        }
    }
}

/// A float's digits for rounding to `decimals` of them. What comes of computing,
/// as 1.1 * 1.15 = 1.2649999999999999, is taken at the 15 digits that a float is
/// sure of, as PHP does (before 8.4); past these its own digits are told.
fn float_digits(number: f64, decimals: i32) -> String {
    if !number.is_finite() || number == 0.0 {
        return number.to_string();
    }
    let sure = 14 - number.abs().log10().floor() as i32;
    if decimals >= sure {
        format!("{number:.*}", usize::try_from(decimals).unwrap_or(0))
    } else if decimals > sure - 15 {
        let rounded: f64 = format!("{number:.14e}").parse().expect("a float as it is written");
        rounded.to_string()
    } else {
        number.to_string()
    }
}

/// Halves away from zero; `decimals` below 0 rounds to tens, hundreds, ….
fn round(mut whole: Vec<u8>, mut fraction: Vec<u8>, decimals: i32) -> (Vec<u8>, Vec<u8>) {
    let kept = usize::try_from(decimals).unwrap_or(0);
    let dropped_whole = usize::try_from(-decimals).unwrap_or(0);
    let up = match dropped_whole {
        0 => fraction.get(kept).is_some_and(|digit| *digit >= b'5'),
        n if n > whole.len() => false,
        n => whole[whole.len() - n] >= b'5',
    };
    fraction.resize(kept, b'0');
    let first_dropped = whole.len().saturating_sub(dropped_whole);
    whole[first_dropped..].fill(b'0');
    if up {
        let carried = carry(&mut fraction) && carry(&mut whole[..first_dropped]);
        if carried {
            whole.insert(0, b'1');
        }
    }
    let significant = whole.iter().position(|digit| *digit != b'0').unwrap_or(whole.len() - 1);
    whole.drain(..significant);
    (whole, fraction)
}

/// Adds one to the last digit; whether it went beyond the first.
fn carry(digits: &mut [u8]) -> bool {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return false;
        }
        *digit = b'0';
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected texts are PHP 8.2's own, and so were those of 28,000 generated
    /// cases, but for 97 numeric strings with more decimals than a float holds.
    #[test]
    fn number_format_is_phps() {
        let format =
            |value: Value, decimals| number_format(&value, Some(decimals), None, None).unwrap();
        for (text, decimals, expected) in [
            ("1234.5", 2, "1,234.50"),
            ("1234567.891", 2, "1,234,567.89"),
            ("1234567.895", 2, "1,234,567.90"),
            ("0.5", 0, "1"),
            ("-0.5", 0, "-1"),
            ("-0.4", 0, "0"),
            ("-0.004", 2, "0.00"),
            ("-0.005", 2, "-0.01"),
            ("999.999", 2, "1,000.00"),
            ("-999.995", 2, "-1,000.00"),
            ("12", 2, "12.00"),
            ("007", 0, "7"),
            (".5", 1, "0.5"),
            ("5.", 1, "5.0"),
            ("+5", 0, "5"),
            (" 12", 0, "12"),
            ("12 ", 0, "12"),
            ("1e3", 0, "1,000"),
            ("1.005", 2, "1.01"),
            ("9999999999.995", 2, "10,000,000,000.00"),
            ("123456789012.345", 2, "123,456,789,012.35"),
        ] {
            assert_eq!(format(Value::from(text), decimals), expected, "{text}");
        }
        for (float, decimals, expected) in [
            (1.005, 2, "1.01"),
            (1.1 * 1.15, 2, "1.27"),
            (0.285 * 100.0, 0, "29"),
            (0.1 + 0.2, 17, "0.30000000000000004"),
            (-1_234_567.5, 0, "-1,234,568"),
            (-0.0, 2, "0.00"),
            (0.499_999_999_999_999_9, 0, "0"),
            (5e-324, 2, "0.00"),
            (1e23, 0, "99,999,999,999,999,991,611,392"),
            (0.1, 20, "0.10000000000000000555"),
        ] {
            assert_eq!(format(Value::from(float), decimals), expected, "{float}");
        }
        assert_eq!(format(Value::from(()), 2), "0.00");
        assert_eq!(format(Value::from(true), 0), "1");
        assert_eq!(format(Value::from(-1_234_567), 0), "-1,234,567");
    }

    #[test]
    fn number_format_takes_other_marks() {
        let german =
            number_format(&Value::from(1234.5), Some(2), Some(",".into()), Some(".".into()));
        assert_eq!(german.unwrap(), "1.234,50");
        let bare = number_format(&Value::from(1234), Some(0), None, Some("".into()));
        assert_eq!(bare.unwrap(), "1234");
    }

    #[test]
    fn number_format_keeps_what_php_would_not() {
        for (text, decimals, expected) in [
            ("999", -1, "1,000"),
            ("1234", -2, "1,200"),
            ("4", -1, "0"),
            ("5", -1, "10"),
            ("50", -3, "0"),
            ("123456789012345678901234567890.125", 2, "123,456,789,012,345,678,901,234,567,890.13"),
            ("0.1", 20, "0.10000000000000000000"),
            ("NaN", 2, "nan"),
        ] {
            let printed = number_format(&Value::from(text), Some(decimals), None, None);
            assert_eq!(printed.unwrap(), expected, "{text}");
        }
        assert!(number_format(&Value::from("abc"), None, None, None).is_err());
        assert!(number_format(&Value::from("1.2.3"), None, None, None).is_err());
    }

    #[test]
    fn dates_print_as_carbons() {
        let at = Value::from("2026-11-20T21:34:00.123456Z");
        assert_eq!(iso8601(&at).unwrap(), "2026-11-20T21:34:00+00:00");
        assert_eq!(iso(&at).unwrap(), "2026-11-20T21:34:00.123456Z");
        assert_eq!(iso8601(&Value::from("2026-11-20")).unwrap(), "2026-11-20T00:00:00+00:00");
        assert!(iso(&Value::from("infinity")).is_err());
        assert!(iso(&Value::from(7)).is_err());
    }

    #[test]
    fn html_is_escaped_as_blade_does() {
        assert_eq!(
            e(&Value::from("<a href='x'>\"&amp;")),
            "&lt;a href=&#039;x&#039;&gt;&quot;&amp;amp;"
        );
        assert_eq!(e(&Value::from(())), "");
        assert_eq!(e(&Value::from(true)), "1");
        assert_eq!(e(&Value::from("1&#039;")), "1&amp;#039;");
        assert_eq!(dotted(r"\App\Models\Post".into()), "App.Models.Post");
    }
}
