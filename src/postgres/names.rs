use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A replication slot's name: lower-case letters, digits and underscores.
/// <https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION-SLOTS-MANIPULATION>
#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct SlotName(String);

/// A publication's name. Any name that Postgres takes for an object.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct PublicationName(String);

/// `NAMEDATALEN` less its terminator: Postgres cuts off what is longer.
const MAX_LEN: usize = 63;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is empty")]
    Empty,
    #[error("the name has {0} bytes, and Postgres takes {MAX_LEN}")]
    TooLong(usize),
    #[error("a slot's name may hold only a-z, 0-9 and _, not {0:?}")]
    Character(char),
    #[error("the name has a zero byte")]
    Zero,
}

fn check_len(name: &str) -> Result<(), NameError> {
    match name.len() {
        0 => Err(NameError::Empty),
        len if len > MAX_LEN => Err(NameError::TooLong(len)),
        _ => Ok(()),
    }
}

impl FromStr for SlotName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<SlotName, NameError> {
        check_len(name)?;
        let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_';
        match name.chars().find(|c| !allowed(c)) {
            Some(character) => Err(NameError::Character(character)),
            None => Ok(SlotName(name.to_owned())),
        }
    }
}

impl FromStr for PublicationName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<PublicationName, NameError> {
        check_len(name)?;
        if name.contains('\0') {
            return Err(NameError::Zero);
        }
        Ok(PublicationName(name.to_owned()))
    }
}

macro_rules! text {
    ($name:ident) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<$name, NameError> {
                name.parse()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text!(SlotName);
text!(PublicationName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_takes_only_what_postgres_takes() {
        assert_eq!("rowcast_2".parse::<SlotName>().unwrap().as_str(), "rowcast_2");
        assert_eq!("".parse::<SlotName>(), Err(NameError::Empty));
        assert_eq!("Rowcast".parse::<SlotName>(), Err(NameError::Character('R')));
        assert_eq!("row-cast".parse::<SlotName>(), Err(NameError::Character('-')));
        assert_eq!("x".repeat(64).parse::<SlotName>(), Err(NameError::TooLong(64)));
    }

    #[test]
    fn a_publication_may_have_any_name_that_fits() {
        for name in ["rowcast", "My \"Shop\"", "größe"] {
            assert_eq!(name.parse::<PublicationName>().unwrap().as_str(), name);
        }
        assert_eq!("".parse::<PublicationName>(), Err(NameError::Empty));
        assert_eq!("a\0b".parse::<PublicationName>(), Err(NameError::Zero));
        assert_eq!("ü".repeat(32).parse::<PublicationName>(), Err(NameError::TooLong(64)));
    }
}
