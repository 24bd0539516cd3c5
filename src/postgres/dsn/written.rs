//! A connection string as it is written, for whoever makes one of another.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::grammar::{self, Pair};
use super::{Dsn, DsnError};

/// The options of a connection string, by the names of libpq, in no order.
/// `Display` gives a URL, with the password if there is one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct WrittenDsn(Vec<Pair>);

/// What stays as it is in any part of a URL.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl WrittenDsn {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }

    /// Instead of what it was. An empty value means the default, as in libpq.
    pub fn set(&mut self, key: &str, value: &str) {
        self.remove(key);
        if !value.is_empty() {
            self.0.push((key.to_owned(), value.to_owned()));
        }
    }

    pub fn remove(&mut self, key: &str) -> Option<String> {
        let value = self.get(key).map(str::to_owned);
        self.0.retain(|(name, _)| name != key);
        value
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

/// The syntax alone is checked: what the options mean, [`Dsn`] says.
impl FromStr for WrittenDsn {
    type Err = DsnError;

    fn from_str(text: &str) -> Result<WrittenDsn, DsnError> {
        grammar::pairs(text).map(WrittenDsn)
    }
}

impl TryFrom<&WrittenDsn> for Dsn {
    type Error = DsnError;

    fn try_from(written: &WrittenDsn) -> Result<Dsn, DsnError> {
        written.to_string().parse()
    }
}

impl fmt::Display for WrittenDsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
        f.write_str("postgres://")?;
        if let Some(user) = self.get("user") {
            f.write_str(&escaped(user))?;
            if let Some(password) = self.get("password") {
                write!(f, ":{}", escaped(password))?;
            }
            f.write_str("@")?;
        }
        let mut ports = self.get("port").unwrap_or_default().split(',');
        for (index, host) in self.get("host").unwrap_or_default().split(',').enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match host.contains(':') {
                true => write!(f, "{comma}[{host}]")?,
                false => write!(f, "{comma}{}", escaped(host))?,
            }
            match ports.next() {
                Some(port) if !port.is_empty() => write!(f, ":{port}")?,
                _ => {}
            }
        }
        write!(f, "/{}", escaped(self.get("dbname").unwrap_or_default()))?;
        let in_authority = |key: &str| match key {
            "user" | "host" | "port" | "dbname" => true,
            "password" => self.get("user").is_some(),
            _ => false,
        };
        let others = self.pairs().filter(|(key, _)| !in_authority(key));
        for (index, (key, value)) in others.enumerate() {
            let mark = if index == 0 { '?' } else { '&' };
            write!(f, "{mark}{key}={}", escaped(value))?;
        }
        Ok(())
    }
}

/// Without the password.
impl fmt::Debug for WrittenDsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.clone();
        shown.remove("password");
        write!(f, "{:?}", shown.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_connection_string_is_written_as_a_url_that_means_the_same() {
        for (text, url) in [
            ("postgres://shop:p%40ss@db.internal:5433/shop?sslmode=require", None),
            ("postgres:///", None),
            ("postgres://[::1]:5433/shop", None),
            ("postgres://u@a:1,b:2/shop", None),
            (
                "host=/run/postgresql dbname='my shop' user=o'' password='a b\\'c' sslmode=disable",
                Some("postgres://o%27%27@%2Frun%2Fpostgresql/my%20shop?sslmode=disable"),
            ),
            ("dbname=shop password=x", Some("postgres:///shop")),
        ] {
            let written: WrittenDsn = text.parse().expect(text);
            let again: WrittenDsn = written.to_string().parse().expect(text);
            let (mut before, mut after) = (written.0.clone(), again.0);
            before.retain(|(_, value)| !value.is_empty());
            before.sort();
            after.sort();
            assert_eq!(before, after, "{text}");
            assert_eq!(
                text.parse::<Dsn>().expect(text),
                Dsn::try_from(&written).expect("it is the same"),
                "{text}"
            );
            match url {
                None => assert_eq!(written.to_string(), text),
                Some(url) => {
                    let mut shown = written.clone();
                    shown.remove("password");
                    assert_eq!(shown.to_string(), url);
                }
            }
        }
    }

    #[test]
    fn its_password_does_not_print() {
        let written: WrittenDsn = "postgres://shop:hunter2@h/shop".parse().unwrap();
        assert_eq!(format!("{written:?}"), r#""postgres://shop@h/shop""#);
    }
}
