use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;

use super::{
    ChannelBinding, Dsn, DsnError, RootCert, SessionAttributes, SslMode, SslNegotiation, passfile,
};
use crate::secret::Secret;

/// A [`Dsn`] with every default filled in: what to dial, and how to log in.
#[derive(Clone, Debug)]
pub struct Target {
    /// In the order in which they are tried; never empty.
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) options: Option<String>,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) session: SessionAttributes,
    pub(crate) ssl: Ssl,
    pub(crate) tcp: Tcp,
    /// Of each step: reaching one address, the TLS handshake, logging in.
    pub(crate) connect_timeout: Option<Duration>,
    password: Option<Secret>,
    passfile: Option<PathBuf>,
}

/// One server that may be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub address: Address,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The folder of a unix socket.
    Unix(PathBuf),
    /// A name, or an address in text form, that the certificate should bear.
    Name(String),
    /// Where to dial, and the name that the certificate should bear.
    Fixed { ip: IpAddr, name: Option<String> },
}

#[derive(Clone, Debug)]
pub(crate) struct Ssl {
    pub(crate) mode: SslMode,
    pub(crate) negotiation: SslNegotiation,
    /// The roots that were asked for.
    pub(crate) root_cert: Option<RootCert>,
    /// `~/.postgresql`, which libpq searches for what was not asked for.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) sni: bool,
    pub(crate) tls13_only: bool,
}

/// How a dead peer is noticed. `None` leaves the system's default.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    pub(crate) user_timeout: Option<Duration>,
    pub(crate) keepalives: bool,
    pub(crate) keepalives_idle: Option<Duration>,
    pub(crate) keepalives_interval: Option<Duration>,
    pub(crate) keepalives_count: Option<u32>,
}

const DEFAULT_PORT: u16 = 5432;
/// Where Debian and its like put the socket. libpq knows its own compiled-in
/// folder; there is nothing to ask here.
const SOCKET_FOLDER: &str = "/var/run/postgresql";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter than the system's two hours and fifteen minutes: changes wait
/// behind a dead connection.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVES_COUNT: u32 = 3;
const USER_TIMEOUT: Duration = Duration::from_secs(20);

impl Dsn {
    /// The connection's target: this DSN, the `PG*` variables that `env` gives
    /// where it is silent, then the defaults of libpq. Without any host, that
    /// is the unix socket, then `localhost`.
    ///
    /// # Errors
    /// When a variable's value is wrong, when lists have different lengths, or
    /// when options contradict each other.
    pub fn resolve(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Target, DsnError> {
        let dsn = self.clone().or_env(env)?;
        let hosts = dsn.expand_hosts()?;
        let user = match dsn.user {
            Some(user) => user,
            None => whoami::username().map_err(|_| DsnError::NoUser)?,
        };
        let home = env("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);

        let default_mode = match dsn.ssl_root_cert {
            Some(RootCert::System) => SslMode::VerifyFull,
            _ => SslMode::Prefer,
        };
        let mode = dsn.ssl_mode.unwrap_or(default_mode);
        // Anyone can have a certificate from a public authority for some name.
        if dsn.ssl_root_cert == Some(RootCert::System) && mode != SslMode::VerifyFull {
            let expected = "verify-full when sslrootcert is system";
            return Err(DsnError::Invalid { key: "sslmode", expected });
        }
        let negotiation = dsn.ssl_negotiation.unwrap_or(SslNegotiation::Postgres);
        if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
            let expected = "require, verify-ca or verify-full when sslnegotiation is direct";
            return Err(DsnError::Invalid { key: "sslmode", expected });
        }

        let unless_zero = |value: Duration| Some(value).filter(|value| !value.is_zero());
        Ok(Target {
            hosts,
            database: dsn.database.unwrap_or_else(|| user.clone()),
            user,
            options: dsn.options,
            channel_binding: dsn.channel_binding.unwrap_or(ChannelBinding::Prefer),
            session: dsn.session.unwrap_or(SessionAttributes::Any),
            ssl: Ssl {
                mode,
                negotiation,
                root_cert: dsn.ssl_root_cert,
                folder: home.as_ref().map(|home| home.join(".postgresql")),
                cert: dsn.ssl_cert,
                key: dsn.ssl_key,
                sni: dsn.ssl_sni.unwrap_or(true),
                tls13_only: dsn.tls13_only.unwrap_or(false),
            },
            tcp: Tcp {
                user_timeout: unless_zero(dsn.tcp_user_timeout.unwrap_or(USER_TIMEOUT)),
                keepalives: dsn.keepalives.unwrap_or(true),
                keepalives_idle: unless_zero(dsn.keepalives_idle.unwrap_or(KEEPALIVES_IDLE)),
                keepalives_interval: unless_zero(
                    dsn.keepalives_interval.unwrap_or(KEEPALIVES_INTERVAL),
                ),
                keepalives_count: Some(dsn.keepalives_count.unwrap_or(KEEPALIVES_COUNT))
                    .filter(|count| *count > 0),
            },
            connect_timeout: unless_zero(dsn.connect_timeout.unwrap_or(CONNECT_TIMEOUT)),
            password: dsn.password,
            passfile: dsn.passfile.or_else(|| Some(home?.join(".pgpass"))),
        })
    }

    pub(super) fn check_counts(&self) -> Result<(), DsnError> {
        let hosts = match (&self.hosts, &self.addresses) {
            (Some(hosts), Some(addresses)) if hosts.len() != addresses.len() => {
                let (hosts, count) = (hosts.len(), addresses.len());
                return Err(DsnError::CountMismatch { key: "hostaddr", hosts, count });
            }
            (Some(hosts), _) => hosts.len(),
            (None, Some(addresses)) => addresses.len(),
            // Several ports are then matched with hosts of the environment.
            (None, None) => return Ok(()),
        };
        match &self.ports {
            Some(ports) if ports.len() != 1 && ports.len() != hosts => {
                Err(DsnError::CountMismatch { key: "port", hosts, count: ports.len() })
            }
            _ => Ok(()),
        }
    }

    fn expand_hosts(&self) -> Result<Vec<Host>, DsnError> {
        self.check_counts()?;
        let port = |index: usize| {
            let ports = self.ports.as_deref().unwrap_or_default();
            let port = if ports.len() == 1 { ports.first() } else { ports.get(index) };
            port.copied().flatten().unwrap_or(DEFAULT_PORT)
        };
        let names = self.hosts.as_deref().unwrap_or_default();
        let addresses = self.addresses.as_deref().unwrap_or_default();
        let count = names.len().max(addresses.len());
        let mut hosts = Vec::new();
        for index in 0..count {
            let name = names.get(index).filter(|name| !name.is_empty());
            let address = match (addresses.get(index).copied().flatten(), name) {
                (Some(ip), name) => Address::Fixed { ip, name: name.cloned() },
                (None, Some(path)) if path.starts_with('/') => Address::Unix(path.into()),
                (None, Some(name)) => Address::Name(name.clone()),
                (None, None) => Address::Unix(SOCKET_FOLDER.into()),
            };
            hosts.push(Host { address, port: port(index) });
        }
        if hosts.is_empty() {
            let port = port(0);
            hosts.push(Host { address: Address::Unix(SOCKET_FOLDER.into()), port });
            hosts.push(Host { address: Address::Name("localhost".to_owned()), port });
        }
        Ok(hosts)
    }
}

impl Target {
    /// Resolves `dsn` in the environment of this process.
    pub fn of(dsn: &Dsn) -> Result<Target, DsnError> {
        dsn.resolve(&|variable| std::env::var(variable).ok())
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// What `step` comes to, or the `connect_timeout` that was too short for it.
    pub(crate) async fn in_time<T>(&self, step: impl Future<Output = T>) -> Result<T, Duration> {
        match self.connect_timeout {
            Some(after) => timeout(after, step).await.map_err(|_| after),
            None => Ok(step.await),
        }
    }

    /// The password for `host`: the one that was given, else that of the
    /// password file, which is read now.
    pub fn password(&self, host: &Host) -> Option<Secret> {
        if self.password.is_some() {
            return self.password.clone();
        }
        let name = match &host.address {
            Address::Unix(folder) if folder == Path::new(SOCKET_FOLDER) => "localhost".to_owned(),
            Address::Unix(folder) => folder.display().to_string(),
            Address::Name(name) | Address::Fixed { name: Some(name), .. } => name.clone(),
            Address::Fixed { ip, name: None } => ip.to_string(),
        };
        let port = host.port.to_string();
        passfile::read(self.passfile.as_deref()?, [&name, &port, &self.database, &self.user])
    }
}

impl Host {
    /// The path of a unix socket.
    pub(crate) fn socket(folder: &Path, port: u16) -> PathBuf {
        folder.join(format!(".s.PGSQL.{port}"))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(folder) => Host::socket(folder, self.port).display().fmt(f),
            Address::Name(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Address::Name(name) | Address::Fixed { name: Some(name), .. } => {
                write!(f, "{name}:{}", self.port)
            }
            Address::Fixed { ip: IpAddr::V6(ip), name: None } => write!(f, "[{ip}]:{}", self.port),
            Address::Fixed { ip: IpAddr::V4(ip), name: None } => write!(f, "{ip}:{}", self.port),
        }
    }
}
