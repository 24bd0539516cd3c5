//! The only places where a name or a text becomes SQL.

/// `name` as an identifier, always in double quotes, so that case and
/// reserved words survive.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as a string constant of SQL. With a backslash in it, in the `E''`
/// form, which means the same whatever `standard_conforming_strings` is.
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// `text` as a string constant of a replication command, whose grammar knows no
/// `E''` and takes a backslash for itself.
pub fn quote_replication_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled_and_backslashes_stay_what_they_are() {
        assert_eq!(quote_identifier("posts"), r#""posts""#);
        assert_eq!(quote_identifier(r#"My "Shop""#), r#""My ""Shop""""#);
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'b"), r"E'a\\''b'");
        assert_eq!(quote_replication_literal(r"a\'b"), r"'a\''b'");
    }
}
