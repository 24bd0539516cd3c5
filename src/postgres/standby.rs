//! `synchronous_standby_names`: whether commits would wait for us.

/// What the connection of the stream is called.
pub const APPLICATION_NAME: &str = "rowcast";

/// Whether a connection of that `application_name` would count as a synchronous
/// standby. Then every commit waits until rowcast has delivered it.
///
/// The setting is `[FIRST | ANY] n (name, …)` or `name, …`; names are compared
/// without case, and `*`, quoted or not, is everyone. It was accepted by the
/// server, so what does not parse here is not looked for.
/// <https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-SYNCHRONOUS-STANDBY-NAMES>
pub fn is_synchronous(setting: &str, application_name: &str) -> bool {
    let tokens = tokens(setting);
    let list = match tokens.iter().position(|token| *token == Token::Open) {
        Some(open) => &tokens[open + 1..],
        None => &tokens[..],
    };
    list.iter().any(|token| match token {
        Token::Name(name) => name == "*" || name.eq_ignore_ascii_case(application_name),
        Token::Open => false,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Open,
    /// A number is one too: it is a name where no parenthesis follows.
    Name(String),
}

fn tokens(setting: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = setting;
    while let Some(first) = rest.chars().next() {
        let (token, len) = match first {
            '(' => (Some(Token::Open), 1),
            '"' => {
                let (name, len) = quoted(rest);
                (Some(Token::Name(name)), len)
            }
            '*' => (Some(Token::Name("*".to_owned())), 1),
            c if is_name(c) => {
                let len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                (Some(Token::Name(rest[..len].to_owned())), len)
            }
            c => (None, c.len_utf8()),
        };
        tokens.extend(token);
        rest = &rest[len..];
    }
    tokens
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// The text between double quotes at the beginning, where a doubled quote
/// stands for one, and its length with the quotes.
fn quoted(text: &str) -> (String, usize) {
    let mut name = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if chars.next_if(|(_, next)| *next == '"').is_some() => name.push('"'),
            '"' => return (name, at + 1),
            c => name.push(c),
        }
    }
    (name, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_list_names_us_or_everyone() {
        for (setting, ours) in [
            ("", false),
            ("rowcast", true),
            ("RowCast", true),
            ("replica1, rowcast", true),
            ("replica1,replica2", false),
            ("rowcast2", false),
            ("*", true),
            ("\"*\"", true),
            ("2 (a, b)", false),
            ("2 (a, rowcast)", true),
            ("FIRST 1 (a, ROWCAST)", true),
            ("any 2 (*)", true),
            ("ANY 1(\"rowcast\",b)", true),
            ("FIRST 1 (\"row\"\"cast\")", false),
            ("ANY 2 (\"first\", any1)", false),
            ("\"rowcast, b\"", false),
            ("FIRST 2 (größe, a$b)", false),
            ("\"unfinished", false),
        ] {
            assert_eq!(is_synchronous(setting, "rowcast"), ours, "{setting}");
        }
        assert!(is_synchronous("\"row\"\"cast\"", "row\"cast"));
        assert!(is_synchronous("1", "1"), "a number without parentheses is a name");
        assert!(!is_synchronous("1 (a)", "1"));
        assert!(!is_synchronous("first 1 (a)", "first"));
    }
}
