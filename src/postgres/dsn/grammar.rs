//! The two ways to write a connection string, both read into keys and values.
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING>
//!
//! No error repeats a piece of the text: with one unescaped character too many,
//! that piece is the password.

use super::DsnError;

pub(super) type Pair = (String, String);

/// The keys and values of a connection string, in its order.
pub(super) fn pairs(text: &str) -> Result<Vec<Pair>, DsnError> {
    let url = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    match url {
        Some(rest) => url_pairs(rest),
        None if text.contains("://") => Err(DsnError::Scheme),
        None => keyword_pairs(text),
    }
}

fn url_pairs(rest: &str) -> Result<Vec<Pair>, DsnError> {
    let mut pairs = Vec::new();
    let mut rest = rest;
    // As in libpq, what stands before an @ is the user, unless a / comes first.
    if let Some(end) = rest.find(['@', '/'])
        && rest[end..].starts_with('@')
    {
        let (user, password) = match rest[..end].split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (&rest[..end], None),
        };
        push_decoded(&mut pairs, "user", user)?;
        if let Some(password) = password {
            push_decoded(&mut pairs, "password", password)?;
        }
        rest = &rest[end + 1..];
    }

    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (hosts, mut rest) = rest.split_at(end);
    url_hosts(&mut pairs, hosts)?;

    if let Some(path) = rest.strip_prefix('/') {
        let end = path.find('?').unwrap_or(path.len());
        push_decoded(&mut pairs, "dbname", &path[..end])?;
        rest = &path[end..];
    }
    for parameter in rest.strip_prefix('?').into_iter().flat_map(|query| query.split('&')) {
        if parameter.is_empty() {
            continue;
        }
        let (key, value) = parameter.split_once('=').ok_or(DsnError::MissingEquals)?;
        match (decode(key)?, decode(value)?) {
            // JDBC's spelling, which libpq also knows.
            (key, value) if key == "ssl" && value == "true" => {
                pairs.push(("sslmode".to_owned(), "require".to_owned()));
            }
            pair => pairs.push(pair),
        }
    }
    Ok(pairs)
}

fn url_hosts(pairs: &mut Vec<Pair>, text: &str) -> Result<(), DsnError> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for chunk in text.split(',') {
        let (host, port) = if let Some(bracketed) = chunk.strip_prefix('[') {
            let (host, port) = bracketed.split_once(']').ok_or(DsnError::Bracket)?;
            match port.strip_prefix(':') {
                Some(port) => (host, port),
                None if port.is_empty() => (host, ""),
                None => return Err(DsnError::Bracket),
            }
        } else {
            chunk.split_once(':').unwrap_or((chunk, ""))
        };
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    for (key, values) in [("host", hosts), ("port", ports)] {
        let joined = values.join(",");
        if !joined.is_empty() {
            pairs.push((key.to_owned(), joined));
        }
    }
    Ok(())
}

fn push_decoded(pairs: &mut Vec<Pair>, key: &str, value: &str) -> Result<(), DsnError> {
    if !value.is_empty() {
        pairs.push((key.to_owned(), decode(value)?));
    }
    Ok(())
}

fn decode(text: &str) -> Result<String, DsnError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = rest.get(..2).and_then(|hex| str::from_utf8(hex).ok());
        // from_str_radix alone would take a sign.
        let value = hex
            .filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match value {
            Some(value) if value != 0 => bytes.push(value),
            _ => return Err(DsnError::Percent),
        }
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| DsnError::Percent)
}

fn keyword_pairs(text: &str) -> Result<Vec<Pair>, DsnError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (key, tail) = rest.split_at(end);
        let tail = tail.trim_start().strip_prefix('=').ok_or(DsnError::MissingEquals)?;
        let (value, tail) = keyword_value(tail.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = tail.trim_start();
    }
    Ok(pairs)
}

/// The value at the beginning of `text`, unescaped, and what follows it.
fn keyword_value(text: &str) -> Result<(String, &str), DsnError> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err(DsnError::Quote) } else { Ok((value, "")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        let pairs = pairs(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(" | ")
    }

    #[test]
    fn both_grammars_are_read_as_libpq_reads_them() {
        for (text, expected) in [
            ("", ""),
            ("postgres://", ""),
            ("postgresql://localhost", "host=localhost"),
            ("postgres://h:5433/db", "host=h | port=5433 | dbname=db"),
            ("postgres://u@h", "user=u | host=h"),
            ("postgres://u:p@h/db", "user=u | password=p | host=h | dbname=db"),
            ("postgres://u:@h", "user=u | host=h"),
            ("postgres://u:a%40b%3A%2f@h", "user=u | password=a@b:/ | host=h"),
            ("postgres://u:a:b?c@h", "user=u | password=a:b?c | host=h"),
            ("postgres:///db", "dbname=db"),
            ("postgres:///a@b", "dbname=a@b"),
            ("postgres://%2Frun%2Fpg/db", "host=/run/pg | dbname=db"),
            ("postgres:///db?host=/run/pg&port=1", "dbname=db | host=/run/pg | port=1"),
            ("postgres://[::1]:5433/", "host=::1 | port=5433"),
            ("postgres://[::1],b:2", "host=::1,b | port=,2"),
            ("postgres://a:1,b,c:3/db", "host=a,b,c | port=1,,3 | dbname=db"),
            ("postgres://h?sslmode=require&", "host=h | sslmode=require"),
            ("postgres://h?ssl=true", "host=h | sslmode=require"),
            ("postgres://h?options=-c%20geqo%3Doff", "host=h | options=-c geqo=off"),
            ("postgres://h/d%C3%A9", "host=h | dbname=dé"),
            ("host=h user = u", "host=h | user=u"),
            (r"password='a b\'c\\d' host=h", r"password=a b'c\d | host=h"),
            (r"password=a\ b", "password=a b"),
            ("password='' host=h", "password= | host=h"),
            ("host=", "host="),
            ("host=/run/pg,localhost\n\tport=1,2", "host=/run/pg,localhost | port=1,2"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn a_text_that_is_neither_is_refused() {
        for (text, expected) in [
            ("mysql://h", DsnError::Scheme),
            ("postgres://h?sslmode", DsnError::MissingEquals),
            ("postgres://[::1", DsnError::Bracket),
            ("postgres://[::1]x", DsnError::Bracket),
            ("postgres://h/%4", DsnError::Percent),
            ("postgres://h/%+1", DsnError::Percent),
            ("postgres://h/%00", DsnError::Percent),
            ("postgres://h/%FF", DsnError::Percent),
            ("shop", DsnError::MissingEquals),
            ("host=h secret", DsnError::MissingEquals),
            ("password='abc", DsnError::Quote),
        ] {
            assert_eq!(pairs(text), Err(expected), "{text}");
        }
    }
}
