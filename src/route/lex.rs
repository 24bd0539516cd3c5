//! What an expression's text tells, where the engine's own analysis is silent.

/// Where `}}` ends the expression: not within quotes or braces.
pub(super) fn closing(source: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0_usize;
    let bytes = source.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, b'{') => depth += 1,
            (None, b'}') if depth > 0 => depth -= 1,
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            (None, _) => {}
        }
        at += 1;
    }
    None
}

pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The words of an expression that are not within quotes.
pub(super) fn words(source: &str) -> Vec<String> {
    let bare = unquoted(source);
    let separated = bare.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    separated.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Names after a `|`.
pub(super) fn filters(source: &str) -> Vec<String> {
    let bare = unquoted(source);
    bare.split('|').skip(1).filter_map(first_word).collect()
}

/// The filter that all of the expression goes through last: `lower` of
/// `(a ~ b) | lower`. Filters bind tighter than operators, so `a ~ b | lower`
/// has none: `a` does not go through it.
pub(super) fn last_filter(source: &str) -> Option<String> {
    let outline = outline(source);
    let (operand, filter) = outline.rsplit_once('|')?;
    let is_operator = |word: &str| ["and", "else", "if", "in", "is", "not", "or"].contains(&word);
    let is_plain = |word: &str| {
        (is_identifier(word) && !is_operator(word)) || word.bytes().all(|b| b.is_ascii_digit())
    };
    let has_no_sign =
        operand.chars().all(|c| c.is_alphanumeric() || c.is_whitespace() || "_.|()".contains(c));
    if !has_no_sign || !words(operand).iter().all(|word| is_plain(word)) {
        return None;
    }
    let filter = filter.trim();
    let name = filter.strip_suffix("()").unwrap_or(filter).trim_end();
    is_identifier(name).then(|| name.to_owned())
}

/// Names after `is` and `is not`.
pub(super) fn tests(source: &str) -> Vec<String> {
    let words = words(source);
    let after_is = words.iter().enumerate().filter(|(_, word)| *word == "is");
    let names = after_is.filter_map(|(at, _)| match words.get(at + 1) {
        Some(not) if not == "not" => words.get(at + 2),
        name => name,
    });
    // `is == 3` has a sign for its name.
    names.filter(|name| !name.starts_with(|c: char| c.is_ascii_digit())).cloned().collect()
}

/// What stands within `{{ }}` and `{% %}`.
pub(super) fn tags(source: &str) -> impl Iterator<Item = &str> {
    let opened = source.split("{{").flat_map(|part| part.split("{%")).skip(1);
    opened.map(|part| {
        let end = [part.find("}}"), part.find("%}")].into_iter().flatten().min();
        &part[..end.unwrap_or(part.len())]
    })
}

/// Whether it compares or calculates, rather than only prints and filters.
pub(super) fn computes(source: &str) -> bool {
    let bare = unquoted(source);
    let signs = ["<", ">", "==", "!=", "+", "-", "*", "/", "%"];
    signs.into_iter().any(|sign| bare.contains(sign))
}

fn first_word(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// The source with nothing in place of its quoted strings.
fn unquoted(source: &str) -> String {
    with_quotes_as(source, "")
}

fn with_quotes_as(source: &str, stand_in: &str) -> String {
    let mut quote = None;
    let mut escaped = false;
    let mut bare = String::with_capacity(source.len());
    for character in source.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if character == '"' || character == '\'' => {
                quote = Some(character);
                bare.push_str(stand_in);
            }
            None => bare.push(character),
        }
    }
    bare
}

/// The source with `()` in place of its quoted strings and of all in brackets.
fn outline(source: &str) -> String {
    let mut depth = 0_usize;
    let mut outline = String::with_capacity(source.len());
    for character in with_quotes_as(source, "()").chars() {
        let was_outside = depth == 0;
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        match (was_outside, depth == 0) {
            (true, true) => outline.push(character),
            (true, false) => outline.push_str("()"),
            (false, _) => {}
        }
    }
    outline
}

/// Dotted names that stand before a `[`.
pub(super) fn indexed_names(source: &str) -> impl Iterator<Item = &str> {
    source.match_indices('[').filter_map(|(bracket, _)| {
        let before = source[..bracket].trim_end();
        let start = before
            .rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'))
            .map_or(0, |end| end + before[end..].chars().next().map_or(1, char::len_utf8));
        let name = &before[start..];
        let starts_well = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        (starts_well && !name.ends_with('.')).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_ends_outside_of_quotes_and_braces() {
        assert_eq!(closing("a }} b"), Some(2));
        assert_eq!(closing("'}}' }}"), Some(5));
        assert_eq!(closing("{'a': {'b': 1}} }}"), Some(16));
        assert_eq!(closing(r"'\'}}' }}"), Some(7));
        assert_eq!(closing("'a }}"), None);
    }

    #[test]
    fn names_are_found_outside_of_quotes() {
        assert_eq!(filters("a|lower | replace('|x', 'y')"), ["lower", "replace"]);
        assert_eq!(super::tests("a is defined and b is not none or 'is x'"), ["defined", "none"]);
        assert_eq!(
            indexed_names("new.title[:3] ~ a [0] ~ [b]").collect::<Vec<_>>(),
            ["new.title", "a"]
        );
        assert!(computes("a > 1") && computes("(a * 2) | number_format(decimals=2)"));
        assert!(!computes("a | number_format(decimals=2) ~ ' - '"));
        let found: Vec<&str> = tags("a {{ b }} c {% if d %} e").collect();
        assert_eq!(found, [" b ", " if d "]);
    }

    #[test]
    fn the_last_filter_is_one_that_all_goes_through() {
        for (source, expected) in [
            ("a | dotted", Some("dotted")),
            ("a|lower|dotted()", Some("dotted")),
            ("new.a['x|y'] | replace('/', '.') | dotted", Some("dotted")),
            ("(a ~ b) | dotted", Some("dotted")),
            ("(a if b else c)|dotted", Some("dotted")),
            ("a | dotted | replace('.', '-')", Some("replace")),
            ("a | dotted | upper", Some("upper")),
            ("a ~ b | dotted", None),
            ("a~b|dotted", None),
            ("a ~ (b | dotted)", None),
            ("(a | dotted) ~ b", None),
            ("a | dotted ~ b", None),
            ("a if b else c | dotted", None),
            ("a if(b)else(c)|dotted", None),
            ("'x'if(a)else(c)|dotted", None),
            ("a or b | dotted", None),
            ("a.0or(b)|dotted", None),
            ("a or'|'|dotted", None),
            ("not a | dotted", None),
            ("a | dotted if b", None),
            ("[a, b | dotted] | join", Some("join")),
            ("a ~ ' | dotted'", None),
            ("a", None),
        ] {
            assert_eq!(last_filter(source).as_deref(), expected, "{source}");
        }
    }
}
