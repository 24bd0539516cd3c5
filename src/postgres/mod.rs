//! Everything that is said to Postgres besides the stream of changes: where it
//! is ([`Dsn`]), how it is reached ([`connect`]), and what it
//! answers when something is wrong ([`ConnectError`]).

pub mod blockers;
pub mod catalog;
pub mod checks;
pub(crate) mod connect;
pub(crate) mod dial;
pub(crate) mod dsn;
mod error;
pub mod functions;
mod hba;
pub mod identity;
pub mod lag;
mod names;
pub mod need;
pub mod outbox;
pub mod plan;
mod pooled;
pub mod publication;
pub mod publish;
mod quoting;
pub mod reading;
pub mod running;
pub mod server;
pub(crate) mod settings;
pub mod slot;
pub mod snapshot;
mod socket;
pub mod standby;
pub mod statement;
mod tls;
mod transaction;

pub use connect::{Connection, End, Tenure, connect, connect_alone, connect_as};
pub use dial::{DialError, Stream};
pub use dsn::{Address, Dsn, DsnError, Host, Target, WrittenDsn};
pub use error::{ConnectError, ServerError};
pub use names::{NameError, PublicationName, SlotName};
pub use quoting::{quote_identifier, quote_literal, quote_replication_literal};
pub use standby::APPLICATION_NAME;
pub use tls::TlsError;
pub use transaction::{Mode, transaction};

use serde::Deserialize;

use crate::secret::Secret;

/// Where the database is, and what rowcast owns in it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A libpq URL or keyword DSN, for example
    /// `postgres://rowcast@127.0.0.1/shop`. What it leaves out comes from the
    /// `PG*` variables, then from libpq's own defaults.
    #[serde(default)]
    pub url: Dsn,
    /// The password, if the URL should not hold it.
    #[serde(default)]
    pub password: Option<Secret>,
    /// How committed changes are learned of.
    #[serde(default)]
    pub capture: Capture,
    /// With `triggers`: how rowcast learns that there is something to read.
    #[serde(default)]
    pub wake: Wake,
    /// The replication slot, made by `rowcast setup`.
    #[serde(default = "Config::default_slot")]
    pub slot: SlotName,
    /// The publication, made by `rowcast setup`.
    #[serde(default = "Config::default_publication")]
    pub publication: PublicationName,
    /// Which columns are published: `all`, or `named` for those that rules
    /// name. A column list stops the application from dropping a listed column
    /// and from changing its type.
    #[serde(default)]
    pub publish_columns: PublishColumns,
    /// The time zone that `timestamp` columns (without time zone) are written
    /// in, by its IANA name.
    #[serde(default)]
    pub timezone: TimeZone,
}

impl Config {
    fn default_slot() -> SlotName {
        "rowcast".parse().expect("the default is a slot's name")
    }

    fn default_publication() -> PublicationName {
        "rowcast".parse().expect("the default is a publication's name")
    }

    /// The URL, with `password` if that is set.
    pub fn dsn(&self) -> Dsn {
        match &self.password {
            Some(password) => self.url.clone().with_password(password.clone()),
            None => self.url.clone(),
        }
    }

    /// For how long the sessions that `rowcast run` has are ours.
    pub fn tenure(&self) -> Tenure {
        match (self.capture, self.wake) {
            (Capture::Triggers, Wake::Poll) => Tenure::Transaction,
            (Capture::Triggers, Wake::Notify) | (Capture::Wal, _) => Tenure::Session,
        }
    }
}

/// How committed changes are learned of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capture {
    /// By streaming logical replication.
    #[default]
    Wal,
    /// By triggers that write them to a table, which rowcast reads and empties.
    Triggers,
}

/// How rowcast learns that triggers wrote something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wake {
    /// A NOTIFY wakes it where it sleeps; it looks by itself too, less often.
    #[default]
    Notify,
    /// It looks again and again. Nothing then depends on a session, so that a
    /// pooler may give each transaction another one.
    Poll,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishColumns {
    /// Whole rows.
    #[default]
    All,
    /// Only columns that rules name, and those of the replica identity.
    Named,
}

/// A time zone of the IANA database.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TimeZone(jiff::tz::TimeZone);

impl TimeZone {
    pub fn get(&self) -> &jiff::tz::TimeZone {
        &self.0
    }
}

impl Default for TimeZone {
    fn default() -> TimeZone {
        TimeZone(jiff::tz::TimeZone::UTC)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{name:?} is not a time zone such as \"UTC\" or \"Europe/Berlin\"")]
pub struct TimeZoneError {
    name: String,
    source: jiff::Error,
}

impl TryFrom<String> for TimeZone {
    type Error = TimeZoneError;

    fn try_from(name: String) -> Result<TimeZone, TimeZoneError> {
        match jiff::tz::TimeZone::get(&name) {
            Ok(zone) => Ok(TimeZone(zone)),
            Err(source) => Err(TimeZoneError { name, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_is_what_libpq_finds_by_itself() {
        let config: Config = toml::from_str("").unwrap();
        assert_eq!(config.url, Dsn::default());
        assert_eq!((config.slot.as_str(), config.publication.as_str()), ("rowcast", "rowcast"));
        assert_eq!((config.capture, config.wake), (Capture::Wal, Wake::Notify));
        assert_eq!(config.publish_columns, PublishColumns::All);
        assert_eq!(config.timezone, TimeZone(jiff::tz::TimeZone::UTC));
    }

    #[test]
    fn every_value_is_checked_where_it_is_read() {
        let good = r#"
            url = "postgres://rowcast:one@localhost/shop"
            password = "two"
            slot = "shop_1"
            publication = "Shop"
            publish_columns = "named"
            timezone = "Europe/Berlin"
        "#;
        let config: Config = toml::from_str(good).unwrap();
        assert_eq!(config.dsn(), "postgres://rowcast:two@localhost/shop".parse().unwrap());
        for (bad, expected) in [
            ("url = 'mysql://h'", "begins with postgres://"),
            ("slot = 'Shop'", "a-z, 0-9 and _"),
            ("publication = ''", "the name is empty"),
            ("timezone = 'Mars/Olympus'", "is not a time zone"),
            ("publish_columns = 'some'", "expected `all` or `named`"),
            ("capture = 'outbox'", "expected `wal` or `triggers`"),
            ("wake = 'listen'", "expected `notify` or `poll`"),
            ("urls = 'postgres://h'", "unknown field `urls`"),
        ] {
            let error = toml::from_str::<Config>(bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
