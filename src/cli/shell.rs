/// As one word of a shell, quoted only where that is needed: for commands that are
/// printed to be typed.
pub(super) fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_take_for_something_else_is_quoted() {
        assert_eq!(word("postgres://u@127.0.0.1:5432/shop"), "postgres://u@127.0.0.1:5432/shop");
        assert_eq!(word("postgres://u@h/shop?ssl=on"), "'postgres://u@h/shop?ssl=on'");
        assert_eq!(word("public.posts"), "public.posts");
        assert_eq!(word("it's 7"), r"'it'\''s 7'");
        assert_eq!(word(""), "''");
    }
}
