//! A `.env` file, read as Laravel reads it: by the rules of `vlucas/phpdotenv`,
//! in which for example only `${NAME}` is a reference and a lone `$` is not, and
//! a `#` begins a comment wherever it stands outside quotes.
//! <https://github.com/vlucas/phpdotenv/blob/master/src/Parser/EntryParser.php>

use std::iter::Peekable;
use std::ops::Range;
use std::str::CharIndices;

/// One variable of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) value: String,
    /// Where it stands in the file, without its comment.
    pub(super) span: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DotenvError {
    #[error("this is no variable's name")]
    Name,
    #[error("the quote is not closed")]
    Quote,
    #[error("something follows the value")]
    Whitespace,
    #[error("in double quotes a backslash stands before one of \" \\ $ n r t f v only")]
    Escape,
}

impl DotenvError {
    pub(super) fn fix(self) -> &'static str {
        match self {
            DotenvError::Name => "write NAME=value",
            DotenvError::Quote => "close it with the quote that it begins with",
            DotenvError::Whitespace => "put a value with spaces in double quotes",
            DotenvError::Escape => "write the value in single quotes, or the backslash twice",
        }
    }
}

/// Every variable that the file sets, in its order. `outer` is the environment of
/// the process, which references see before the file.
///
/// # Errors
/// The first mistake, with its place: Laravel itself does not start with one.
pub(super) fn parse(
    text: &str,
    outer: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Entry>, (DotenvError, Range<usize>)> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let start = text.len() - rest.len();
        let line = &rest[..rest.find(['\n', '\r']).unwrap_or(rest.len())];
        let begin = start + line.len() - line.trim_start().len();
        if line.trim_start().is_empty() || line.trim_start().starts_with('#') {
            rest = next_line(&rest[line.len()..]);
            continue;
        }
        // A name without = is unset.
        let Some((name, _)) = line.split_once('=') else {
            rest = next_line(&rest[line.len()..]);
            continue;
        };
        let value_at = start + name.len() + 1;
        let name = name_of(name).ok_or((DotenvError::Name, begin..begin + name.trim().len()))?;
        let lookup = |name: &str| {
            let inner = || entries.iter().rev().find(|entry| entry.name == name);
            outer(name).or_else(|| inner().map(|entry| entry.value.clone()))
        };
        let (value, end) = value(&text[value_at..], &lookup)
            .map_err(|error| (error, begin..start + line.trim_end().len()))?;
        let span = begin..value_at + end;
        let span = begin..begin + text[span].trim_end().len();
        entries.push(Entry { name, value, span });
        let after = &text[value_at + end..];
        let line_end = after.find(['\n', '\r']).unwrap_or(after.len());
        rest = next_line(&after[line_end..]);
    }
    Ok(entries)
}

fn next_line(rest: &str) -> &str {
    rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix(['\n', '\r'])).unwrap_or(rest)
}

fn name_of(text: &str) -> Option<String> {
    let name = text.trim().strip_prefix("export ").unwrap_or(text).trim();
    let name = name.trim_matches(['\'', '"']);
    let is_name =
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
    is_name.then(|| name.to_owned())
}

/// The value that `text` begins with, and how much of `text` that is.
fn value(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<(String, usize), DotenvError> {
    let start = text.len() - text.trim_start_matches([' ', '\t']).len();
    let mut chars = text[start..].char_indices().peekable();
    let mut value = String::new();
    let quote = chars.next_if(|(_, c)| matches!(c, '"' | '\'')).map(|(_, quote)| quote);
    let body = &text[start..];
    let end = match quote {
        None => {
            while let Some((at, c)) = chars.next_if(|(_, c)| !c.is_whitespace() && *c != '#') {
                character(&mut value, body, at, c, &mut chars, lookup);
            }
            return match ends(&mut chars) {
                Some(_) => Ok((value, start + chars_end(&mut chars, body))),
                None => Err(DotenvError::Whitespace),
            };
        }
        Some('\'') => loop {
            match chars.next() {
                Some((at, '\'')) => break at + 1,
                None | Some((_, '\n' | '\r')) => return Err(DotenvError::Quote),
                Some((_, c)) => value.push(c),
            }
        },
        Some(_) => loop {
            match chars.next() {
                Some((at, '"')) => break at + 1,
                None => return Err(DotenvError::Quote),
                Some((_, '\\')) => value.push(escaped(chars.next().map(|(_, c)| c))?),
                Some((at, c)) => character(&mut value, body, at, c, &mut chars, lookup),
            }
        },
    };
    match ends(&mut chars) {
        Some(_) => Ok((value, start + end)),
        None => Err(DotenvError::Whitespace),
    }
}

type Chars<'a> = Peekable<CharIndices<'a>>;

/// Passes over blanks. `None` if the line goes on with anything but a comment.
fn ends(chars: &mut Chars<'_>) -> Option<()> {
    while chars.next_if(|(_, c)| matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}')).is_some() {}
    matches!(chars.peek(), None | Some((_, '#' | '\n' | '\r'))).then_some(())
}

fn chars_end(chars: &mut Chars<'_>, body: &str) -> usize {
    chars.peek().map_or(body.len(), |(at, _)| *at)
}

/// Appends `c`, which stands at `at` of `body`, or what it refers to. What is not
/// set stays as it is written.
fn character(
    value: &mut String,
    body: &str,
    at: usize,
    c: char,
    chars: &mut Chars<'_>,
    lookup: &dyn Fn(&str) -> Option<String>,
) {
    let is_name = |name: &&str| {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
    };
    let name = body[at..]
        .strip_prefix("${")
        .and_then(|rest| rest.split_once('}'))
        .map(|(name, _)| name)
        .filter(is_name);
    match name.and_then(|name| Some((name, lookup(name)?))) {
        Some((name, referred)) => {
            value.push_str(&referred);
            let end = at + "${}".len() + name.len();
            while chars.next_if(|(at, _)| *at < end).is_some() {}
        }
        None => value.push(c),
    }
}

fn escaped(c: Option<char>) -> Result<char, DotenvError> {
    match c {
        Some(c @ ('"' | '\\' | '$')) => Ok(c),
        Some('n') => Ok('\n'),
        Some('r') => Ok('\r'),
        Some('t') => Ok('\t'),
        Some('f') => Ok('\u{c}'),
        Some('v') => Ok('\u{b}'),
        _ => Err(DotenvError::Escape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, (DotenvError, String)> {
        let outer = |name: &str| (name == "OUTER").then(|| "out".to_owned());
        match parse(text, &outer) {
            Ok(entries) => Ok(entries.into_iter().map(|entry| (entry.name, entry.value)).collect()),
            Err((error, span)) => Err((error, text[span].to_owned())),
        }
    }

    #[test]
    fn a_value_is_what_laravel_gets() {
        for (line, value) in [
            ("X=abc", "abc"),
            ("X = abc ", "abc"),
            ("export X=abc", "abc"),
            ("X=", ""),
            ("X=   # nothing", ""),
            ("X=abc # a comment", "abc"),
            ("X=abc#def", "abc"),
            ("X=\"abc #def\"", "abc #def"),
            ("X=\"abc\" # a comment", "abc"),
            ("X='a b'", "a b"),
            ("X='${OUTER} \\n'", "${OUTER} \\n"),
            (r#"X="a\"b\\c\$d\ne""#, "a\"b\\c$d\ne"),
            ("X=pa$word$", "pa$word$"),
            (r"X=App\Models\Post", r"App\Models\Post"),
            ("X=it's", "it's"),
            ("X=base64:QUJD=", "base64:QUJD="),
            ("X=${OUTER}/${OUTER}", "out/out"),
            ("X=\"${OUTER}!\"", "out!"),
            ("X=${NOWHERE}", "${NOWHERE}"),
            ("X=${OUTER", "${OUTER"),
            ("X=\"two\nlines\"", "two\nlines"),
            ("X=é", "é"),
        ] {
            assert_eq!(read(line), Ok(vec![("X".to_owned(), value.to_owned())]), "{line}");
        }
    }

    #[test]
    fn references_go_to_the_environment_then_to_what_stands_above() {
        let text =
            "A=1\r\n\r\n# comment\r\nOUTER=in\r\nB=\"${A}${OUTER}${C}\"\r\nC=3\r\nUNSET\r\nA=2";
        let read = read(text).expect("it is right");
        let value = |name: &str| read.iter().rfind(|(n, _)| n == name).map(|(_, v)| &**v);
        assert_eq!(value("B"), Some("1out${C}"));
        assert_eq!((value("A"), value("UNSET")), (Some("2"), None));
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (text, error, shown) in [
            ("A=1\n  B=a b\n", DotenvError::Whitespace, "B=a b"),
            ("A=\"x\"y\n", DotenvError::Whitespace, "A=\"x\"y"),
            ("A='x\nB=1", DotenvError::Quote, "A='x"),
            ("A=\"x\nB=1", DotenvError::Quote, "A=\"x"),
            (r#"A="\d""#, DotenvError::Escape, r#"A="\d""#),
            ("MY NAME=1", DotenvError::Name, "MY NAME"),
        ] {
            assert_eq!(read(text), Err((error, shown.to_owned())), "{text}");
        }
    }

    #[test]
    fn an_entry_knows_where_it_stands() {
        let text = "A=1\n  B = \"x y\"  # why\nC=2";
        let entries = parse(text, &|_| None).expect("it is right");
        let spans: Vec<&str> = entries.iter().map(|entry| &text[entry.span.clone()]).collect();
        assert_eq!(spans, ["A=1", "B = \"x y\"", "C=2"]);
    }
}
