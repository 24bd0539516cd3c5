//! How far a connection to the endpoint comes: its name, its port, its
//! certificate, each on its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::client::tls;
use super::{Config, ConfigError};

/// Where it went, and where it ended.
#[derive(Debug)]
pub struct Reach {
    /// Of the endpoint, or of the proxy that leads to it.
    pub host: String,
    pub port: u16,
    pub is_proxy: bool,
    pub end: ReachEnd,
}

#[derive(Debug)]
pub enum ReachEnd {
    NoAddress(io::Error),
    /// Each address with what became of it.
    NoConnection(Vec<(SocketAddr, io::Error)>),
    NoTls {
        address: SocketAddr,
        error: io::Error,
    },
    Reached {
        address: SocketAddr,
        /// For TCP alone, about one round trip.
        connected_in: Duration,
        /// `TLSv1_3`, where it is encrypted.
        tls: Option<String>,
    },
}

/// Connects, to the proxy if there is one, and sends nothing but what TLS needs. With
/// a proxy, only the endpoint's own answer tells whether it is reached.
///
/// # Errors
/// As of [`Client::new`](super::Client::new).
pub async fn reach(config: &Config) -> Result<Reach, ConfigError> {
    let endpoint = config.endpoint()?;
    let url = Url::parse(endpoint.origin()).expect("it is the origin of a URL");
    let (url, is_proxy) = match &config.proxy {
        Some(proxy) => (proxy.as_url().clone(), true),
        None => (url, false),
    };
    let is_encrypted = url.scheme() == "https";
    let host = url.host().expect("a URL of http has a host").to_owned();
    let port = url.port_or_known_default().expect("http has one");
    let end = match connect(&host, port, config.timeout.get()).await {
        Err(end) => end,
        Ok((stream, address, connected_in)) => match is_encrypted {
            false => ReachEnd::Reached { address, connected_in, tls: None },
            true => {
                let tls = tls(config, true)?;
                match timeout(config.timeout.get(), handshake(tls, &host, stream)).await {
                    Ok(Ok(version)) => {
                        ReachEnd::Reached { address, connected_in, tls: Some(version) }
                    }
                    Ok(Err(error)) => ReachEnd::NoTls { address, error },
                    Err(_) => ReachEnd::NoTls { address, error: io::ErrorKind::TimedOut.into() },
                }
            }
        },
    };
    Ok(Reach { host: host.to_string(), port, is_proxy, end })
}

async fn connect(
    host: &Host,
    port: u16,
    within: Duration,
) -> Result<(TcpStream, SocketAddr, Duration), ReachEnd> {
    let addresses: Vec<SocketAddr> = match host {
        Host::Ipv4(ip) => vec![(*ip, port).into()],
        Host::Ipv6(ip) => vec![(*ip, port).into()],
        Host::Domain(name) => match timeout(within, lookup_host((&**name, port))).await {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => return Err(ReachEnd::NoAddress(error)),
            Err(_) => return Err(ReachEnd::NoAddress(io::ErrorKind::TimedOut.into())),
        },
    };
    let mut failed = Vec::new();
    for address in addresses {
        let began = Instant::now();
        match timeout(within, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address, began.elapsed())),
            Ok(Err(error)) => failed.push((address, error)),
            Err(_) => failed.push((address, io::ErrorKind::TimedOut.into())),
        }
    }
    Err(ReachEnd::NoConnection(failed))
}

/// Which version of TLS came about.
async fn handshake(
    config: rustls::ClientConfig,
    host: &Host,
    stream: TcpStream,
) -> io::Result<String> {
    let name = match host {
        Host::Domain(name) => ServerName::try_from(name.clone()).map_err(io::Error::other)?,
        Host::Ipv4(ip) => ServerName::from(std::net::IpAddr::from(*ip)),
        Host::Ipv6(ip) => ServerName::from(std::net::IpAddr::from(*ip)),
    };
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let version = stream.get_ref().1.protocol_version();
    Ok(version.map_or_else(String::new, |version| format!("{version:?}")))
}

/// Why there is no TLS, as far as that tells what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsProblem {
    /// Nobody whom this machine trusts has signed the certificate.
    UnknownAuthority,
    OtherName,
    /// Or not valid yet, or by this machine's clock.
    Expired,
    /// What answers does not speak TLS.
    Plain,
    Other,
}

impl TlsProblem {
    pub fn of(error: &io::Error) -> TlsProblem {
        use rustls::CertificateError as Bad;

        let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        match error {
            Some(rustls::Error::InvalidMessage(_)) => TlsProblem::Plain,
            Some(rustls::Error::InvalidCertificate(bad)) => match bad {
                Bad::UnknownIssuer => TlsProblem::UnknownAuthority,
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => TlsProblem::OtherName,
                Bad::Expired
                | Bad::ExpiredContext { .. }
                | Bad::NotValidYet
                | Bad::NotValidYetContext { .. } => TlsProblem::Expired,
                // A certificate that is its own authority is refused as that.
                Bad::Other(_) => TlsProblem::UnknownAuthority,
                _ => TlsProblem::Other,
            },
            _ => TlsProblem::Other,
        }
    }
}
