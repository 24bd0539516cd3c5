use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::change::TableName;

/// Which tables a rule takes: `posts`, `shop.orders`, `shop.*`, `order_*`.
/// A `*` stands for any characters within one name, never for the dot between
/// schema and table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TablePattern {
    text: Box<str>,
    schema: Box<str>,
    name: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePatternError {
    #[error("the table's name is empty, expected a table such as posts, shop.orders or shop.*")]
    Empty,
    #[error("{0:?} has more than one dot, expected a table such as posts or shop.orders")]
    Dots(String),
    #[error("{0:?} has quotes, expected the name as it is, without them")]
    Quotes(String),
}

impl TablePattern {
    pub fn matches(&self, table: &TableName) -> bool {
        glob(self.schema.as_bytes(), table.schema.as_bytes())
            && glob(self.name.as_bytes(), table.name.as_bytes())
    }

    /// The one table it names, if it is not a glob.
    pub fn exact(&self) -> Option<TableName> {
        (!self.schema.contains('*') && !self.name.contains('*'))
            .then(|| TableName::new(self.schema.clone(), self.name.clone()))
    }
}

/// Linear in both: on a mismatch only the last `*` needs to take one byte more.
pub(super) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((after_star, taken)) = retry {
            retry = Some((after_star, taken + 1));
            p = after_star;
            t = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl FromStr for TablePattern {
    type Err = ParsePatternError;

    fn from_str(text: &str) -> Result<TablePattern, ParsePatternError> {
        if text.contains('"') {
            return Err(ParsePatternError::Quotes(text.to_owned()));
        }
        let (schema, name) = text.split_once('.').unwrap_or(("public", text));
        if name.contains('.') {
            return Err(ParsePatternError::Dots(text.to_owned()));
        }
        if schema.trim().is_empty() || name.trim().is_empty() {
            return Err(ParsePatternError::Empty);
        }
        Ok(TablePattern { text: text.into(), schema: schema.into(), name: name.into() })
    }
}

impl TryFrom<String> for TablePattern {
    type Error = ParsePatternError;

    fn try_from(text: String) -> Result<TablePattern, ParsePatternError> {
        text.parse()
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(pattern: &str, schema: &str, name: &str) -> bool {
        pattern.parse::<TablePattern>().unwrap().matches(&TableName::new(schema, name))
    }

    #[test]
    fn a_star_stays_within_one_name() {
        assert!(takes("posts", "public", "posts"));
        assert!(!takes("posts", "shop", "posts"));
        assert!(takes("shop.*", "shop", "orders"));
        assert!(!takes("shop.*", "public", "orders"));
        assert!(takes("order_*", "public", "order_lines"));
        assert!(!takes("order_*", "shop", "order_lines"));
        assert!(takes("*.audit", "shop", "audit"));
        assert!(takes("*_a*b", "public", "x_aabab"));
        assert!(!takes("*_a*b", "public", "x_aaba"));
        assert!(takes("shop.Orders", "shop", "Orders"));
        assert!(!takes("shop.orders", "shop", "Orders"));
    }

    #[test]
    fn a_pattern_that_names_no_table_is_refused() {
        for bad in ["", ".", "shop.", ".orders", "a.b.c", "\"Orders\""] {
            assert!(bad.parse::<TablePattern>().is_err(), "{bad}");
        }
    }
}
