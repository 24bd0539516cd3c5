//! Says in the words of the file what the TOML parser and serde found.

use std::ops::Range;

use super::locate::{Outline, Source};
use super::report::Problem;

/// A syntax error, or all strings whose backslashes are no escapes: those are
/// one mistake made in several places.
pub(super) fn syntax(source: &Source, errors: &[toml::de::Error]) -> Vec<Problem> {
    let Some(first) = errors.first() else { return Vec::new() };
    if !is_escape(first) {
        let span = first.span().unwrap_or(0..0);
        let (message, fix) = syntax_message(first.message());
        return vec![Problem::new(message).at(source, span).fix(fix)];
    }
    let mut strings: Vec<Range<usize>> = Vec::new();
    let mut problems = Vec::new();
    for error in errors.iter().filter(|error| is_escape(error)) {
        let offset = error.span().map_or(0, |span| span.start);
        let string = quoted_around(source, offset);
        if let Some(string) = &string {
            if strings.contains(string) {
                continue;
            }
            strings.push(string.clone());
        }
        problems.push(backslash(source, string.unwrap_or(offset..offset)));
    }
    problems
}

fn is_escape(error: &toml::de::Error) -> bool {
    error.message().starts_with("missing escaped value")
        || error.message().starts_with("too few unicode value digits")
        || error.message().starts_with("invalid value")
}

fn syntax_message(message: &str) -> (String, Option<String>) {
    let (what, fix) = match message.split(", expected").next().unwrap_or(message) {
        "string values must be quoted" => (
            "this value is neither a number, true, false, a list nor a quoted string",
            "put text in quotes: name = \"value\"",
        ),
        "duplicate key" => {
            ("this option is set twice", "keep one of them; several values go in one list")
        }
        "invalid basic string" | "invalid literal string" => {
            ("a string does not end on its line", "close it with the quote that it begins with")
        }
        "key with no value" => ("an option without a value", "write name = value"),
        "unexpected key or value" => {
            ("something follows a value on its line", "write one option in each line")
        }
        "missing comma between array elements" | "unclosed array" => (
            "a list that does not end",
            "write [\"one\", \"two\"], with a comma between two values",
        ),
        _ => return (format!("not TOML: {message}"), None),
    };
    (what.to_owned(), Some(fix.to_owned()))
}

/// A string in double quotes, at `span` with its quotes, that uses the
/// backslash as PHP's namespaces do.
pub(super) fn backslash(source: &Source, span: Range<usize>) -> Problem {
    let inner = source.text.get(span.start + 1..span.end.saturating_sub(1)).unwrap_or_default();
    let fix = if inner.is_empty() {
        r"write each backslash twice: \\".to_owned()
    } else {
        // Whoever doubled some of them meant the same.
        let meant = inner.replace(r"\\", r"\");
        if meant.contains('\'') {
            format!("write each backslash twice: \"{}\"", meant.replace('\\', r"\\"))
        } else {
            format!("write it in single quotes: '{meant}'")
        }
    };
    Problem::new("in double quotes a backslash begins an escape such as \\n")
        .at(source, span)
        .fix(fix)
}

/// The double-quoted string of one line that `offset` lies in, with its quotes.
fn quoted_around(source: &Source, offset: usize) -> Option<Range<usize>> {
    let range = source.line(offset);
    let line = &source.text[range.clone()];
    let mut open: Option<(usize, char)> = None;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match open {
            Some(_) if escaped => escaped = false,
            Some((_, '"')) if c == '\\' => escaped = true,
            Some((start, quote)) if c == quote => {
                let string = range.start + start..range.start + at + 1;
                if quote == '"' && string.contains(&offset) {
                    return Some(string);
                }
                open = None;
            }
            Some(_) => {}
            None if c == '"' || c == '\'' => open = Some((at, c)),
            None => {}
        }
    }
    None
}

/// An error of serde about a value, at its place.
pub(super) fn value(source: &Source, outline: &Outline, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or(0..0);
    let entry = outline.at(&span);
    let option = entry.map(|entry| entry.shown()).unwrap_or_default();
    let name = option.rsplit('.').next().unwrap_or_default();
    let is_secret = matches!(name, "encryption_key" | "secret" | "password" | "url" | "proxy");
    let raw = source.text.get(span.clone()).unwrap_or_default();
    let (message, fix) = reword(error.message().trim_end(), &option, raw, is_secret);
    Problem::new(message).at(source, span).fix(fix)
}

/// The option that is not there, if that is the error.
pub(super) fn missing(error: &toml::de::Error) -> Option<&str> {
    named(error.message(), "missing field `").map(|(name, _)| name)
}

fn reword(message: &str, option: &str, raw: &str, is_secret: bool) -> (String, Option<String>) {
    let last = option.rsplit('.').next().unwrap_or_default();
    if let Some((name, valid)) = named(message, "unknown field `") {
        let section = option.rsplit_once('.').map(|(section, _)| section);
        let place = section.map(|section| format!(" in `{section}`")).unwrap_or_default();
        return (format!("unknown option `{name}`{place}"), Some(instead(name, &valid)));
    }
    if let Some((name, valid)) = named(message, "unknown variant `") {
        return (format!("`{option}` cannot be {name:?}"), Some(instead(name, &valid)));
    }
    if let Some((name, _)) = named(message, "missing field `") {
        let place = if option.is_empty() { String::new() } else { format!(" in `{option}`") };
        let fix = format!("add a line: {name} = …");
        return (format!("`{name}` is missing{place}"), Some(fix));
    }
    if let Some((count, expected)) =
        message.strip_prefix("invalid length ").and_then(|rest| rest.split_once(", expected "))
    {
        return (format!("`{option}` should be {expected}, not {count}"), None);
    }
    for kind in ["invalid type: ", "invalid value: "] {
        if let Some((found, expected)) =
            message.strip_prefix(kind).and_then(|rest| rest.split_once(", expected "))
        {
            let quoted = raw.starts_with(['"', '\'']);
            let fix = match expected {
                "a sequence" if quoted => Some(format!("write it in brackets: {last} = [{raw}]")),
                "a string" if is_secret && !raw.starts_with(['[', '{']) => {
                    Some("write it in quotes".to_owned())
                }
                "a string" if !is_secret && !raw.starts_with(['[', '{']) => {
                    Some(format!("write it in quotes: {last} = \"{raw}\""))
                }
                _ => None,
            };
            let message = format!(
                "`{option}` should be {expected}, not {found}",
                expected = in_toml(expected),
                found = found_value(found, is_secret),
            );
            return (message, fix);
        }
    }
    if message.starts_with("data did not match any variant") {
        return (format!("`{option}` has a value of the wrong type"), None);
    }
    (format!("`{option}`: {message}"), None)
}

/// What serde wants, in TOML's words.
fn in_toml(expected: &str) -> &str {
    match expected {
        "a sequence" => "a list",
        "a map" => "a table",
        "a boolean" => "true or false",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "a nonzero u8" | "a nonzero u16" | "a nonzero u32" | "a nonzero u64"
        | "a nonzero usize" => "a whole number above 0",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

/// What serde found: its type, then the value, which may be a secret.
fn found_value(found: &str, is_secret: bool) -> String {
    let found = found.trim_start_matches("floating point ");
    let (kind, value) = found.split_once(' ').unwrap_or((found, ""));
    let value = if is_secret { "" } else { value.trim_matches('`') };
    match (kind, value) {
        ("string", "") => "a text".to_owned(),
        ("string", value) => format!("the text {value}"),
        ("integer", "") => "a number".to_owned(),
        ("integer", value) => format!("the number {value}"),
        ("boolean", value) if !value.is_empty() => value.to_owned(),
        (number, "") if number.starts_with('`') => {
            let number = if is_secret { "" } else { number.trim_matches('`') };
            format!("the number {number}").trim_end().to_owned()
        }
        ("sequence", _) => "a list".to_owned(),
        ("map", _) => "a table".to_owned(),
        (kind, "") => kind.to_owned(),
        (kind, value) => format!("{kind} {value}"),
    }
}

/// The name that serde complains about and those that it would take.
fn named<'a>(message: &'a str, start: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let (name, rest) = message.strip_prefix(start)?.split_once('`')?;
    Some((name, rest.split('`').skip(1).step_by(2).collect()))
}

fn instead(name: &str, valid: &[&str]) -> String {
    match nearest(name, valid) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None if valid.is_empty() => "nothing can be set here".to_owned(),
        None => {
            let valid: Vec<String> = valid.iter().map(|name| format!("`{name}`")).collect();
            format!("one of {}", valid.join(", "))
        }
    }
}

/// The name that was probably meant: at most a third of it mistyped.
pub(super) fn nearest<'a>(name: &str, valid: &[&'a str]) -> Option<&'a str> {
    let lower = name.to_lowercase().replace('-', "_");
    valid
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, candidate), *candidate))
        .filter(|(distance, _)| *distance <= lower.chars().count().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}
