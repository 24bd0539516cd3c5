//! What is wrong with a configuration, as a person reads it: the problem, its
//! place, the line itself, and what to do.

use std::fmt;
use std::ops::Range;

use super::locate::{Location, Source};

/// One mistake in the file.
#[derive(Debug)]
pub struct Problem {
    message: String,
    place: Option<Place>,
    fix: Option<String>,
}

#[derive(Debug)]
struct Place {
    offset: usize,
    location: Location,
    /// The line, without its secrets.
    line: String,
    /// How many characters the caret underlines.
    width: usize,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Problem {
        Problem { message: message.into(), place: None, fix: None }
    }

    /// Points at `span` of the file, as far as its first line goes.
    pub(super) fn at(mut self, source: &Source, span: Range<usize>) -> Problem {
        let range = source.line(span.start);
        let end = span.end.clamp(span.start, range.end.max(span.start));
        let width = source.text.get(span.start..end).map_or(1, |text| text.chars().count());
        self.place = Some(Place {
            offset: span.start,
            location: source.location(span.start),
            line: without_secrets(&source.text[range]),
            width: width.max(1),
        });
        self
    }

    pub(super) fn fix(mut self, fix: impl Into<Option<String>>) -> Problem {
        self.fix = fix.into();
        self
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn location(&self) -> Option<&Location> {
        self.place.as_ref().map(|place| &place.location)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut margin = String::from(" ");
        if let Some(Place { location, line, width, .. }) = &self.place {
            let number = location.line.to_string();
            margin = " ".repeat(number.len());
            // A tab moves the caret as far as it moves the text above it.
            let indent: String = line
                .chars()
                .chain(std::iter::repeat(' '))
                .take(location.column - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            write!(f, "\n{margin}--> {location}\n{margin} |\n{number} | {line}\n{margin} | ")?;
            write!(f, "{indent}{}", "^".repeat(*width))?;
        }
        if let Some(fix) = &self.fix {
            let mut lines = fix.lines();
            write!(f, "\n{margin} = help: {}", lines.next().unwrap_or_default())?;
            for line in lines {
                write!(f, "\n{margin}         {line}")?;
            }
        }
        Ok(())
    }
}

/// All mistakes that could be found at once, in the order of the file.
#[derive(Debug)]
pub struct Report(Vec<Problem>);

impl Report {
    pub(super) fn new(mut problems: Vec<Problem>) -> Report {
        problems.sort_by_key(|problem| problem.place.as_ref().map(|place| place.offset));
        Report(problems)
    }

    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\nerror: ")?;
            }
            fmt::Display::fmt(problem, f)?;
        }
        Ok(())
    }
}

/// The line with each secret overwritten, character by character so that the
/// caret still fits: what is printed ends up in logs.
fn without_secrets(line: &str) -> String {
    if let Some((name, value)) = line.split_once('=').filter(|(name, _)| is_secret_variable(name)) {
        return format!("{name}={}", "*".repeat(value.chars().count()));
    }
    let mut shown: Vec<char> = line.chars().collect();
    for word in ["secret", "password", "encryption_key"] {
        let word: Vec<char> = word.chars().collect();
        let mut from = 0;
        while let Some(at) = (from..shown.len()).find(|&at| shown[at..].starts_with(&word)) {
            from = at + word.len();
            if let Some(value) = value_after(&shown, from) {
                shown[value.clone()].fill('*');
                from = value.end;
            }
        }
    }
    // A password within a URL: everything between the user's colon and the last @,
    // since what is wrong with it may be that a / in it is not escaped.
    let scheme = ['/', '/'];
    if let Some(start) = (0..shown.len()).find(|&at| shown[at..].starts_with(&scheme)) {
        let start = start + scheme.len();
        let end = (start..shown.len())
            .find(|&at| matches!(shown[at], '"' | '\'' | ' '))
            .unwrap_or(shown.len());
        let at_sign = (start..end).rev().find(|&at| shown[at] == '@');
        let colon = (start..end).find(|&at| shown[at] == ':');
        if let (Some(colon), Some(at_sign)) = (colon, at_sign)
            && colon < at_sign
            && shown[colon + 1] != '$'
        {
            shown[colon + 1..at_sign].fill('*');
        }
    }
    shown.into_iter().collect()
}

/// Whether a line of a `.env` sets this, and nobody else should know it.
fn is_secret_variable(name: &str) -> bool {
    let name = name.trim().trim_start_matches("export ").trim();
    let is_variable =
        name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    is_variable && ["PASS", "PWD", "SECRET", "KEY", "TOKEN"].iter().any(|word| name.contains(word))
}

/// The characters of the value that an `=` assigns at `from`, without quotes.
/// A `${…}` is no secret and stays.
fn value_after(line: &[char], from: usize) -> Option<Range<usize>> {
    let skip = |mut at: usize| {
        while line.get(at).is_some_and(|c| matches!(c, ' ' | '\t' | '"' | '\'')) {
            at += 1;
        }
        at
    };
    let equals = skip(from);
    if line.get(equals) != Some(&'=') {
        return None;
    }
    let start = skip(equals + 1);
    if line.get(start) == Some(&'$') {
        return None;
    }
    let quote = line[equals..start].iter().rev().find(|c| matches!(c, '"' | '\'')).copied();
    let end = (start..line.len())
        .find(|&at| match quote {
            Some(quote) => line[at] == quote,
            None => matches!(line[at], ' ' | ',' | '}' | '"' | '\'' | '&'),
        })
        .unwrap_or(line.len());
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_line_shows_no_secret() {
        for (line, shown) in [
            (r#"secret = "hunter2""#, r#"secret = "*******""#),
            ("password='p w' # note", "password='***' # note"),
            ("secret = 12345", "secret = *****"),
            (r#"secret = "${REVERB_APP_SECRET}""#, r#"secret = "${REVERB_APP_SECRET}""#),
            (r#"url = "postgres://u:p:w@h/db""#, r#"url = "postgres://u:***@h/db""#),
            (r#"url = "postgres://u:p/w?@h/db""#, r#"url = "postgres://u:****@h/db""#),
            ("MAIL_PASS=a b", "MAIL_PASS=***"),
            (r#"url = "postgres://u:${PW}@h/db""#, r#"url = "postgres://u:${PW}@h/db""#),
            (r#"url = "postgres://u@h:5432/db""#, r#"url = "postgres://u@h:5432/db""#),
            (r#"url = "host=h password=pw user=u""#, r#"url = "host=h password=** user=u""#),
            (r#"encryption_key = "base64:QQ==""#, r#"encryption_key = "***********""#),
            (r#"pusher = { key = "k", secret = "s" }"#, r#"pusher = { key = "k", secret = "*" }"#),
            (r#"secret_file = "/run/x""#, r#"secret_file = "/run/x""#),
            (r#"DB_PASSWORD="a, b" # c"#, r#"DB_PASSWORD=**********"#),
            ("DB_URL=postgres://u:pw@h/db", "DB_URL=postgres://u:**@h/db"),
            ("DB_HOST=db", "DB_HOST=db"),
        ] {
            assert_eq!(without_secrets(line), shown);
        }
    }
}
