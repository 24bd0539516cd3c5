//! Where the database is and how to log in to it, as libpq reads it.
//!
//! tokio-postgres has a parser of its own, but it rejects half of libpq's
//! options (`sslrootcert`, `sslmode=verify-full`, `keepalives_count`,
//! `gssencmode`) and reads `tcp_user_timeout` as seconds. A text would have to
//! be taken apart before it anyway, so all of it is read here.
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS>

mod grammar;
mod passfile;
mod target;
mod written;

pub use target::{Address, Host, Target};
pub(crate) use target::{Ssl, Tcp};
pub use written::WrittenDsn;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use crate::secret::Secret;

/// A libpq connection URL or keyword string, checked. What it leaves out is
/// `None` here; [`Dsn::resolve`] fills it in.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Dsn {
    hosts: Option<Vec<String>>,
    addresses: Option<Vec<Option<IpAddr>>>,
    /// `None` is an empty place in a list, which means the default.
    ports: Option<Vec<Option<u16>>>,
    user: Option<String>,
    password: Option<Secret>,
    passfile: Option<PathBuf>,
    database: Option<String>,
    options: Option<String>,
    connect_timeout: Option<Duration>,
    tcp_user_timeout: Option<Duration>,
    keepalives: Option<bool>,
    keepalives_idle: Option<Duration>,
    keepalives_interval: Option<Duration>,
    keepalives_count: Option<u32>,
    ssl_mode: Option<SslMode>,
    ssl_negotiation: Option<SslNegotiation>,
    ssl_root_cert: Option<RootCert>,
    ssl_cert: Option<PathBuf>,
    ssl_key: Option<PathBuf>,
    ssl_sni: Option<bool>,
    tls13_only: Option<bool>,
    channel_binding: Option<ChannelBinding>,
    session: Option<SessionAttributes>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DsnError {
    #[error("a connection URL begins with postgres:// or postgresql://")]
    Scheme,
    #[error(
        "a part of the connection string has no \"=\"; quote a value with spaces: password='a b'"
    )]
    MissingEquals,
    #[error("an IPv6 address is written [::1] or [::1]:5432")]
    Bracket,
    #[error("a % is not followed by two hexadecimal digits; a literal % is written %25")]
    Percent,
    #[error("a quoted value of the connection string does not end")]
    Quote,
    #[error("{0:?} is not a connection option of libpq")]
    Unknown(String),
    #[error("the connection option {key} is not supported: {why}")]
    Unsupported { key: &'static str, why: &'static str },
    #[error("{key} should be {expected}")]
    Invalid { key: &'static str, expected: &'static str },
    #[error("{hosts} hosts are given, but {count} of {key}")]
    CountMismatch { key: &'static str, hosts: usize, count: usize },
    #[error("no user is given, and the name of the operating system's user is not to be had")]
    NoUser,
}

/// How much TLS is asked for, weakest first.
/// <https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION>
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslNegotiation {
    Postgres,
    /// TLS from the first byte, which Postgres 17 and later take.
    Direct,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RootCert {
    /// The operating system's trusted roots.
    System,
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// Which of several hosts will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionAttributes {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

impl Dsn {
    /// This DSN with another password.
    pub fn with_password(mut self, password: Secret) -> Dsn {
        self.password = Some(password);
        self
    }

    /// This DSN with `host` instead of its own.
    pub fn only(mut self, host: &Host) -> Dsn {
        let (name, address) = match &host.address {
            Address::Unix(folder) => (folder.display().to_string(), None),
            Address::Name(name) => (name.clone(), None),
            Address::Fixed { ip, name } => (name.clone().unwrap_or_default(), Some(*ip)),
        };
        self.hosts = Some(vec![name]);
        self.addresses = Some(vec![address]);
        self.ports = Some(vec![Some(host.port)]);
        self
    }

    /// This DSN with the `PG*` variables that `env` gives where it is silent.
    fn or_env(self, env: &dyn Fn(&str) -> Option<String>) -> Result<Dsn, DsnError> {
        let mut other = Dsn::default();
        for (variable, key) in VARIABLES {
            // libpq too takes an empty variable for an unset one.
            if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
                other.set(key, &value)?;
            }
        }
        // A host of the DSN is not where a host address of the environment is.
        let (hosts, addresses) = match (&self.hosts, &self.addresses) {
            (None, None) => (other.hosts, other.addresses),
            _ => (self.hosts, self.addresses),
        };
        Ok(Dsn {
            hosts,
            addresses,
            ports: self.ports.or(other.ports),
            user: self.user.or(other.user),
            password: self.password.or(other.password),
            passfile: self.passfile.or(other.passfile),
            database: self.database.or(other.database),
            options: self.options.or(other.options),
            connect_timeout: self.connect_timeout.or(other.connect_timeout),
            tcp_user_timeout: self.tcp_user_timeout,
            keepalives: self.keepalives,
            keepalives_idle: self.keepalives_idle,
            keepalives_interval: self.keepalives_interval,
            keepalives_count: self.keepalives_count,
            ssl_mode: self.ssl_mode.or(other.ssl_mode),
            ssl_negotiation: self.ssl_negotiation.or(other.ssl_negotiation),
            ssl_root_cert: self.ssl_root_cert.or(other.ssl_root_cert),
            ssl_cert: self.ssl_cert.or(other.ssl_cert),
            ssl_key: self.ssl_key.or(other.ssl_key),
            ssl_sni: self.ssl_sni,
            tls13_only: self.tls13_only,
            channel_binding: self.channel_binding.or(other.channel_binding),
            session: self.session.or(other.session),
        })
    }

    /// An empty value leaves most options unset, as in libpq.
    fn set(&mut self, key: &str, value: &str) -> Result<(), DsnError> {
        let value = Some(value).filter(|value| !value.is_empty());
        match key {
            "host" => self.hosts = value.map(|v| v.split(',').map(str::to_owned).collect()),
            "hostaddr" => self.addresses = value.map(addresses).transpose()?,
            "port" => self.ports = value.map(ports).transpose()?,
            "user" => self.user = value.map(str::to_owned),
            "password" => self.password = value.map(Secret::new),
            "passfile" => self.passfile = value.map(PathBuf::from),
            "dbname" => self.database = value.map(str::to_owned),
            "options" => self.options = value.map(str::to_owned),
            "connect_timeout" => {
                self.connect_timeout = seconds("connect_timeout", value)?;
            }
            "tcp_user_timeout" => {
                let millis = number("tcp_user_timeout", "a number of milliseconds", value)?;
                self.tcp_user_timeout = millis.map(Duration::from_millis);
            }
            "keepalives" => {
                self.keepalives = number("keepalives", "0 or 1", value)?.map(|on: u32| on != 0);
            }
            "keepalives_idle" => self.keepalives_idle = seconds("keepalives_idle", value)?,
            "keepalives_interval" => {
                self.keepalives_interval = seconds("keepalives_interval", value)?;
            }
            "keepalives_count" => {
                self.keepalives_count = number("keepalives_count", "a number", value)?;
            }
            "sslmode" => {
                let expected = "disable, allow, prefer, require, verify-ca or verify-full";
                let modes = [
                    ("disable", SslMode::Disable),
                    // Plain first, TLS only if refused: here TLS is tried first.
                    ("allow", SslMode::Prefer),
                    ("prefer", SslMode::Prefer),
                    ("require", SslMode::Require),
                    ("verify-ca", SslMode::VerifyCa),
                    ("verify-full", SslMode::VerifyFull),
                ];
                self.ssl_mode = word("sslmode", expected, &modes, value)?;
            }
            "requiressl" => {
                let modes = [("0", SslMode::Prefer), ("1", SslMode::Require)];
                self.ssl_mode = word("requiressl", "0 or 1", &modes, value)?;
            }
            "sslnegotiation" => {
                let words =
                    [("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)];
                self.ssl_negotiation = word("sslnegotiation", "postgres or direct", &words, value)?;
            }
            "sslrootcert" => {
                self.ssl_root_cert = value.map(|value| match value {
                    "system" => RootCert::System,
                    path => RootCert::File(path.into()),
                });
            }
            "sslcert" => self.ssl_cert = value.map(PathBuf::from),
            "sslkey" => self.ssl_key = value.map(PathBuf::from),
            "sslsni" => self.ssl_sni = word("sslsni", "0 or 1", &FLAG, value)?,
            "ssl_min_protocol_version" => {
                let versions =
                    [("TLSv1", false), ("TLSv1.1", false), ("TLSv1.2", false), ("TLSv1.3", true)];
                let expected = "TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3";
                self.tls13_only = word("ssl_min_protocol_version", expected, &versions, value)?;
            }
            "channel_binding" => {
                let words = [
                    ("disable", ChannelBinding::Disable),
                    ("prefer", ChannelBinding::Prefer),
                    ("require", ChannelBinding::Require),
                ];
                let expected = "disable, prefer or require";
                self.channel_binding = word("channel_binding", expected, &words, value)?;
            }
            "target_session_attrs" => {
                let words = [
                    ("any", SessionAttributes::Any),
                    ("read-write", SessionAttributes::ReadWrite),
                    ("read-only", SessionAttributes::ReadOnly),
                    ("primary", SessionAttributes::Primary),
                    ("standby", SessionAttributes::Standby),
                    ("prefer-standby", SessionAttributes::PreferStandby),
                ];
                let expected = "any, read-write, read-only, primary, standby or prefer-standby";
                self.session = word("target_session_attrs", expected, &words, value)?;
            }
            "gssencmode" => {
                let words = [("disable", ()), ("prefer", ())];
                let expected = "disable or prefer, since GSSAPI encryption is not supported";
                word("gssencmode", expected, &words, value)?;
            }
            "load_balance_hosts" => {
                let expected = "disable, since hosts are tried in their order";
                word("load_balance_hosts", expected, &[("disable", ())], value)?;
            }
            _ if IGNORED.contains(&key) => {}
            _ => {
                return Err(match UNSUPPORTED.iter().find(|(known, _)| *known == key) {
                    Some(&(key, why)) => DsnError::Unsupported { key, why },
                    None => DsnError::Unknown(key.to_owned()),
                });
            }
        }
        Ok(())
    }
}

/// The environment of libpq. `PGAPPNAME` is not among them: rowcast's sessions
/// bear rowcast's name, by which `synchronous_standby_names` is checked.
const VARIABLES: [(&str, &str); 17] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGDATABASE", "dbname"),
    ("PGOPTIONS", "options"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGREQUIRESSL", "requiressl"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
];

/// Options that change nothing here: they choose among what only libpq has, or
/// set what rowcast sets itself.
const IGNORED: [&str; 9] = [
    "application_name",
    "fallback_application_name",
    "client_encoding",
    "sslcompression",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "min_protocol_version",
    "keepalives_retries",
];

/// Options of libpq that would be unsafe or misleading to ignore.
const UNSUPPORTED: [(&str, &str); 15] = [
    ("replication", "rowcast chooses for each connection itself"),
    ("service", "write the options of the service here"),
    ("servicefile", "write the options of the service here"),
    ("sslpassword", "give a key that is not encrypted"),
    ("sslcrl", "revocation lists are not read"),
    ("sslcrldir", "revocation lists are not read"),
    ("sslcertmode", "a client certificate is sent if there is one"),
    ("sslkeylogfile", "keys are not logged"),
    ("ssl_max_protocol_version", "the highest version of both sides is used"),
    ("max_protocol_version", "protocol 3.0 is spoken"),
    ("require_auth", "use channel_binding=require or sslmode=verify-full"),
    ("requirepeer", "use a socket folder that only the server can write to"),
    ("scram_client_key", "give the password"),
    ("scram_server_key", "give the password"),
    ("oauth_issuer", "OAuth is not spoken"),
];

const FLAG: [(&str, bool); 2] = [("0", false), ("1", true)];

fn word<T: Clone>(
    key: &'static str,
    expected: &'static str,
    words: &[(&str, T)],
    value: Option<&str>,
) -> Result<Option<T>, DsnError> {
    let Some(value) = value else { return Ok(None) };
    match words.iter().find(|(word, _)| *word == value) {
        Some((_, meaning)) => Ok(Some(meaning.clone())),
        None => Err(DsnError::Invalid { key, expected }),
    }
}

fn number<T: FromStr>(
    key: &'static str,
    expected: &'static str,
    value: Option<&str>,
) -> Result<Option<T>, DsnError> {
    let parse = |value: &str| value.trim().parse().map_err(|_| DsnError::Invalid { key, expected });
    value.map(parse).transpose()
}

/// Zero and negative numbers mean the same to libpq: no limit, or the system's
/// default. Both are zero here.
fn seconds(key: &'static str, value: Option<&str>) -> Result<Option<Duration>, DsnError> {
    let seconds: Option<i32> = number(key, "a number of seconds", value)?;
    Ok(seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
}

fn addresses(value: &str) -> Result<Vec<Option<IpAddr>>, DsnError> {
    let invalid = || DsnError::Invalid { key: "hostaddr", expected: "an IP address" };
    let parse = |text: &str| match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| invalid()),
    };
    value.split(',').map(parse).collect()
}

fn ports(value: &str) -> Result<Vec<Option<u16>>, DsnError> {
    let invalid = || DsnError::Invalid {
        key: "port",
        expected: "a number from 1 to 65535; in a URL, write : / @ of a password as %3A %2F %40",
    };
    let parse = |text: &str| match text.trim() {
        "" => Ok(None),
        text => match text.parse() {
            Ok(0) | Err(_) => Err(invalid()),
            Ok(port) => Ok(Some(port)),
        },
    };
    value.split(',').map(parse).collect()
}

impl FromStr for Dsn {
    type Err = DsnError;

    fn from_str(text: &str) -> Result<Dsn, DsnError> {
        let mut dsn = Dsn::default();
        for (key, value) in grammar::pairs(text)? {
            dsn.set(&key, &value)?;
        }
        dsn.check_counts()?;
        Ok(dsn)
    }
}

impl TryFrom<String> for Dsn {
    type Error = DsnError;

    fn try_from(text: String) -> Result<Dsn, DsnError> {
        text.parse()
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dsn")
            .field("hosts", &self.hosts)
            .field("ports", &self.ports)
            .field("user", &self.user)
            .field("password", &self.password)
            .field("database", &self.database)
            .field("ssl_mode", &self.ssl_mode)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
