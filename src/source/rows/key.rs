use std::fmt;

use tokio_postgres::SimpleQueryRow;

/// The primary key of a row, as Postgres writes it. Printed as the value, or for
/// several columns as a JSON list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(Vec<Box<str>>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no key of {columns} columns, such as '[\"7\",\"2\"]'")]
pub struct KeyError {
    text: String,
    columns: usize,
}

impl Key {
    /// # Errors
    /// If it is of another number of columns.
    pub fn parse(text: &str, columns: usize) -> Result<Key, KeyError> {
        if columns == 1 {
            return Ok(Key(vec![text.into()]));
        }
        let values: Option<Vec<Box<str>>> = serde_json::from_str(text).ok();
        match values.filter(|values| values.len() == columns) {
            Some(values) => Ok(Key(values)),
            None => Err(KeyError { text: text.to_owned(), columns }),
        }
    }

    /// The row has the values of `columns`, with those of `key` among them.
    pub(super) fn of(
        row: &SimpleQueryRow,
        columns: &[usize],
        key: &[usize],
    ) -> Result<Key, tokio_postgres::Error> {
        let value = |column: &usize| {
            let place = columns.iter().position(|it| it == column);
            let value = row.try_get(place.expect("a query has the columns of the key"))?;
            Ok(value.unwrap_or_default().into())
        };
        key.iter().map(value).collect::<Result<_, _>>().map(Key)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|value| &**value)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            [value] => f.write_str(value),
            values => {
                let list = serde_json::to_string(values).map_err(|_| fmt::Error)?;
                f.write_str(&list)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_printed() {
        for (text, columns) in [("42", 1), ("it's [1]", 1), (r#"["7","a\"b"]"#, 2)] {
            let key = Key::parse(text, columns).expect(text);
            assert_eq!(key.to_string(), text);
            assert_eq!(key.values().count(), columns);
        }
        for text in ["7", "[\"7\"]", "[7,2]", "7,2"] {
            let error = Key::parse(text, 2).expect_err(text);
            assert!(error.to_string().contains("is no key of 2 columns"), "{error}");
        }
    }
}
