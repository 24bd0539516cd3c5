//! A column's text as JSON, as text in a template, and as a value of the engine.

use std::borrow::Cow;

use jiff::tz::TimeZone;
use minijinja::Value as Engine;
use minijinja::value::ValueKind;
use serde::de::IgnoredAny;

use super::moment;
use crate::change::Kind;
use crate::notification::write_string;

/// JavaScript's `Number.MAX_SAFE_INTEGER`: a larger id would be rounded, and a
/// client would fetch another row.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// What numeric columns are to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numerics {
    /// For printing: every digit is kept.
    Text,
    /// For comparing: `total > 100` means the number.
    Number,
}

/// Appends the value as JSON, typed by its column.
pub(super) fn write_json(out: &mut String, kind: Kind, bytes: &[u8], zone: &TimeZone) {
    let text = String::from_utf8_lossy(bytes);
    match kind {
        Kind::Bool if text == "t" => out.push_str("true"),
        Kind::Bool if text == "f" => out.push_str("false"),
        Kind::Integer if is_safe_integer(&text) => out.push_str(&text),
        Kind::Float if is_json_number(&text) => out.push_str(&text),
        Kind::Json if is_json(&text) => out.push_str(&text),
        Kind::Timestamp | Kind::TimestampTz => {
            out.push('"');
            let start = out.len();
            moment::write_iso(out, &text, zone);
            if out[start..].bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
                out.truncate(start - 1);
                write_string(out, &text);
                return;
            }
            out.push('"');
        }
        _ => write_string(out, &text),
    }
}

/// Appends the value as a person would read it.
pub(super) fn write_text(out: &mut String, kind: Kind, bytes: &[u8], zone: &TimeZone) {
    let text = String::from_utf8_lossy(bytes);
    match kind {
        Kind::Bool if text == "t" => out.push_str("true"),
        Kind::Bool if text == "f" => out.push_str("false"),
        Kind::Timestamp | Kind::TimestampTz => moment::write_iso(out, &text, zone),
        _ => out.push_str(&text),
    }
}

pub(super) fn to_engine(kind: Kind, bytes: &[u8], zone: &TimeZone, numerics: Numerics) -> Engine {
    let text = String::from_utf8_lossy(bytes);
    let typed = match kind {
        Kind::Bool => match &*text {
            "t" => Some(Engine::from(true)),
            "f" => Some(Engine::from(false)),
            _ => None,
        },
        Kind::Integer => text.parse::<i64>().ok().map(Engine::from),
        Kind::Float => text.parse::<f64>().ok().map(Engine::from),
        Kind::Numeric if numerics == Numerics::Number => match text.parse::<i128>() {
            Ok(whole) => Some(Engine::from(whole)),
            Err(_) => text.parse::<f64>().ok().map(Engine::from),
        },
        Kind::Json => serde_json::from_str::<Engine>(&text).ok(),
        Kind::Timestamp | Kind::TimestampTz => {
            let mut iso = String::new();
            moment::write_iso(&mut iso, &text, zone);
            Some(Engine::from(iso))
        }
        Kind::Numeric | Kind::Date | Kind::Text => None,
    };
    typed.unwrap_or_else(|| Engine::from(Cow::into_owned(text)))
}

/// Appends what an expression gave, as JSON. `None` if it has no JSON form.
pub(super) fn write_engine_json(out: &mut String, value: &Engine) -> Option<()> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => {
            let text = value.to_string();
            let plain =
                if value.is_integer() { is_safe_integer(&text) } else { is_json_number(&text) };
            if plain { out.push_str(&text) } else { write_string(out, &text) }
        }
        ValueKind::String => write_string(out, value.as_str()?),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in value.try_iter().ok()?.enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_engine_json(out, &item)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter().ok()?.enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(out, &key.to_string());
                out.push(':');
                write_engine_json(out, &value.get_item(&key).ok()?)?;
            }
            out.push('}');
        }
        _ => return None,
    }
    Some(())
}

/// Appends what an expression gave, as text: nothing for NULL, as in Blade.
pub(super) fn write_engine_text(out: &mut String, value: &Engine) -> Option<()> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => {}
        ValueKind::String => out.push_str(value.as_str()?),
        ValueKind::Number => out.push_str(&value.to_string()),
        _ => write_engine_json(out, value)?,
    }
    Some(())
}

fn is_safe_integer(text: &str) -> bool {
    text.parse::<i64>().is_ok_and(|number| number.unsigned_abs() <= MAX_SAFE_INTEGER)
        && !text.starts_with('+')
        && !has_leading_zero(text)
}

/// Postgres has none, and neither has JSON.
fn has_leading_zero(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.len() > 1 && digits.starts_with('0')
}

/// Postgres prints `1e+20` and `0.5`, which JSON has too, but also `NaN`.
fn is_json_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) && is_json(text)
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(kind: Kind, text: &str) -> String {
        let mut out = String::new();
        write_json(&mut out, kind, text.as_bytes(), &TimeZone::UTC);
        out
    }

    #[test]
    fn a_value_is_typed_by_its_column() {
        for (kind, text, expected) in [
            (Kind::Integer, "42", "42"),
            (Kind::Integer, "-7", "-7"),
            (Kind::Integer, "9007199254740991", "9007199254740991"),
            (Kind::Integer, "9007199254740992", "\"9007199254740992\""),
            (Kind::Integer, "-9223372036854775808", "\"-9223372036854775808\""),
            (Kind::Integer, "+1", "\"+1\""),
            (Kind::Integer, "00", "\"00\""),
            (Kind::Integer, "-0", "-0"),
            (Kind::Float, "0.5", "0.5"),
            (Kind::Float, "1e+20", "1e+20"),
            (Kind::Float, "NaN", "\"NaN\""),
            (Kind::Float, "-Infinity", "\"-Infinity\""),
            (Kind::Numeric, "10.00", "\"10.00\""),
            (Kind::Numeric, "NaN", "\"NaN\""),
            (Kind::Bool, "t", "true"),
            (Kind::Bool, "f", "false"),
            (Kind::Json, r#"{"a": [1, null]}"#, r#"{"a": [1, null]}"#),
            (Kind::Json, "12345678901234567890123", "12345678901234567890123"),
            (Kind::Json, "{broken", "\"{broken\""),
            (Kind::Date, "2026-11-20", "\"2026-11-20\""),
            (Kind::Timestamp, "infinity", "\"infinity\""),
            (Kind::Timestamp, "a\"b", "\"a\\\"b\""),
            (Kind::TimestampTz, "2026-11-20 21:34:00+00", "\"2026-11-20T21:34:00.000000Z\""),
            (Kind::Text, "a\"\\\n\u{1}é", "\"a\\\"\\\\\\n\\u0001é\""),
        ] {
            assert_eq!(json(kind, text), expected, "{kind:?} {text}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_become_replacement_characters() {
        let mut out = String::new();
        write_json(&mut out, Kind::Text, b"a\xffb", &TimeZone::UTC);
        assert_eq!(out, "\"a\u{fffd}b\"");
    }

    #[test]
    fn an_unsafe_integer_inside_json_is_not_rounded() {
        let value = to_engine(
            Kind::Json,
            br#"{"id":9007199254740993,"n":[1,2.5,null,true]}"#,
            &TimeZone::UTC,
            Numerics::Text,
        );
        let mut out = String::new();
        write_engine_json(&mut out, &value).unwrap();
        assert_eq!(out, r#"{"id":"9007199254740993","n":[1,2.5,null,true]}"#);
    }
}
