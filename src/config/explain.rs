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
    if message.starts_with("string values must be quoted") {
        return (
            "this value is neither a number, true, false, a list nor a quoted string".to_owned(),
            Some("put text in quotes: name = \"value\"".to_owned()),
        );
    }
    if message == "duplicate key" {
        let fix = "keep one of them; several values go in one list".to_owned();
        return ("this option is set twice".to_owned(), Some(fix));
    }
    (format!("not TOML: {message}"), None)
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
    let is_secret = matches!(name, "secret" | "password" | "url");
    let (message, fix) = reword(error.message().trim_end(), &option, is_secret);
    Problem::new(message).at(source, span).fix(fix)
}

fn reword(message: &str, option: &str, is_secret: bool) -> (String, Option<String>) {
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
        return (format!("`{name}` is missing{place}"), None);
    }
    for kind in ["invalid type: ", "invalid value: ", "invalid length: "] {
        if let Some((found, expected)) =
            message.strip_prefix(kind).and_then(|rest| rest.split_once(", expected "))
        {
            // The first word of what serde found is its type; the rest is the
            // value, which may be a secret.
            let found = if is_secret { found.split(' ').next().unwrap_or(found) } else { found };
            let expected = match expected {
                "a sequence" => "a list",
                "a map" => "a table",
                other if other.starts_with("struct ") => "a table",
                other => other,
            };
            return (format!("`{option}` should be {expected}, not {found}"), None);
        }
    }
    if message.starts_with("data did not match any variant") {
        return (format!("`{option}` has a value of the wrong type"), None);
    }
    (format!("`{option}`: {message}"), None)
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
