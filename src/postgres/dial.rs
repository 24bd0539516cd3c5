//! A byte stream to a server, encrypted as the DSN asks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use super::dsn::{Address, DsnError, Host, SslMode, SslNegotiation, Target, Tcp};
use super::socket::Socket;
use super::tls::{self, TlsError};

/// A connection to a server before anything of the protocol was said over it.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    channel_binding: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(transparent)]
    Dsn(#[from] DsnError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the name of {host} cannot be resolved")]
    Resolve { host: Host, source: io::Error },
    #[error("{host} cannot be reached")]
    Connect { host: Host, source: io::Error },
    #[error("{host} did not answer within {} s", after.as_secs())]
    TimedOut { host: Host, after: Duration },
    #[error("{host} does not offer TLS, which sslmode asks for")]
    NoTls { host: Host },
    #[error("{host} answered the request for TLS with something that is not Postgres")]
    NotPostgres { host: Host },
    #[error("the TLS handshake with {host} failed")]
    Handshake { host: Host, source: io::Error },
    #[error("{host} is not a name that a certificate can bear")]
    Name { host: Host },
}

impl DialError {
    /// Whether the same attempt may succeed later without anyone's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            DialError::Resolve { .. } | DialError::Connect { .. } | DialError::TimedOut { .. } => {
                true
            }
            // A connection that breaks off is no verdict on certificates.
            DialError::Handshake { source, .. } => source.kind() != io::ErrorKind::InvalidData,
            DialError::Dsn(_)
            | DialError::Tls(_)
            | DialError::NoTls { .. }
            | DialError::NotPostgres { .. }
            | DialError::Name { .. } => false,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            DialError::Tls(error) => return error.hint(),
            DialError::Connect { host, .. } => match &host.address {
                Address::Unix(_) => {
                    "is the server running, and is this its socket folder \
                     (unix_socket_directories)?"
                }
                Address::Name(_) | Address::Fixed { .. } => {
                    "is the server running, does it listen there (listen_addresses), and does a \
                     firewall stand between?"
                }
            },
            DialError::NoTls { .. } => {
                "set ssl = on with a certificate in the server's postgresql.conf, or sslmode=prefer"
            }
            DialError::Handshake { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
                "sslrootcert should hold the authority that signed the server's certificate; \
                 verify-full also needs the host in its subjectAltName"
            }
            DialError::NotPostgres { .. } => "check the port",
            DialError::Handshake { .. }
            | DialError::Dsn(_)
            | DialError::Resolve { .. }
            | DialError::TimedOut { .. }
            | DialError::Name { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// A stream to one host, with as much TLS as `mode` says. Cancel safe: what was
/// opened is closed.
pub(crate) async fn dial(target: &Target, host: &Host, mode: SslMode) -> Result<Stream, DialError> {
    let ip = match &host.address {
        // Nobody listens in on a unix socket; libpq too has no TLS there.
        Address::Unix(folder) => {
            let connect = UnixStream::connect(Host::socket(folder, host.port));
            let stream = bounded(target, host, connect).await?;
            return match stream {
                Ok(stream) => Ok(Stream::plain(Socket::Unix(stream))),
                Err(source) => Err(DialError::Connect { host: host.clone(), source }),
            };
        }
        Address::Name(name) => {
            // Without brackets, `::1` is looked up as an address.
            let found = bounded(target, host, lookup_host((name.as_str(), host.port))).await?;
            found.map_err(|source| DialError::Resolve { host: host.clone(), source })?.collect()
        }
        Address::Fixed { ip, .. } => vec![SocketAddr::new(*ip, host.port)],
    };

    if mode == SslMode::Disable {
        return Ok(Stream::plain(Socket::Tcp(connect_tcp(target, host, &ip).await?)));
    }
    match encrypted(target, host, &ip).await {
        // `prefer` protects against nobody who is on the way, so a server with
        // which TLS does not come about is used without, as libpq does.
        Err(error @ DialError::Handshake { .. }) if mode == SslMode::Prefer => {
            debug!(%host, %error, "going on without TLS");
            Ok(Stream::plain(Socket::Tcp(connect_tcp(target, host, &ip).await?)))
        }
        result => result,
    }
}

async fn bounded<T>(
    target: &Target,
    host: &Host,
    step: impl Future<Output = T>,
) -> Result<T, DialError> {
    let timed_out = |after| DialError::TimedOut { host: host.clone(), after };
    target.in_time(step).await.map_err(timed_out)
}

/// Tries all addresses of a host in turn, each with the whole timeout.
async fn connect_tcp(
    target: &Target,
    host: &Host,
    addresses: &[SocketAddr],
) -> Result<TcpStream, DialError> {
    let none = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut error = DialError::Resolve { host: host.clone(), source: none };
    for address in addresses {
        let connected = bounded(target, host, TcpStream::connect(address)).await;
        error = match connected {
            Ok(Ok(stream)) => match set_options(&stream, &target.tcp) {
                Ok(()) => return Ok(stream),
                Err(source) => DialError::Connect { host: host.clone(), source },
            },
            Ok(Err(source)) => DialError::Connect { host: host.clone(), source },
            Err(timed_out) => timed_out,
        };
    }
    Err(error)
}

fn set_options(stream: &TcpStream, tcp: &Tcp) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if tcp.keepalives {
        let mut keepalive = TcpKeepalive::new();
        if let Some(idle) = tcp.keepalives_idle {
            keepalive = keepalive.with_time(idle);
        }
        if let Some(interval) = tcp.keepalives_interval {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(count) = tcp.keepalives_count {
            keepalive = keepalive.with_retries(count);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if tcp.user_timeout.is_some() {
        socket.set_tcp_user_timeout(tcp.user_timeout)?;
    }
    Ok(())
}

async fn encrypted(
    target: &Target,
    host: &Host,
    addresses: &[SocketAddr],
) -> Result<Stream, DialError> {
    let config = tls::client_config(&target.ssl)?;
    let name = match &host.address {
        Address::Name(name) | Address::Fixed { name: Some(name), .. } => {
            ServerName::try_from(name.clone())
                .map_err(|_| DialError::Name { host: host.clone() })?
        }
        Address::Fixed { ip, name: None } => ServerName::from(IpAddr::clone(ip)),
        Address::Unix(_) => return Err(DialError::Name { host: host.clone() }),
    };
    let mut tcp = connect_tcp(target, host, addresses).await?;

    if target.ssl.negotiation == SslNegotiation::Postgres {
        let failed = |source| DialError::Handshake { host: host.clone(), source };
        match bounded(target, host, request_tls(&mut tcp)).await?.map_err(failed)? {
            b'S' => {}
            b'N' if target.ssl.mode == SslMode::Prefer => {
                return Ok(Stream::plain(Socket::Tcp(tcp)));
            }
            b'N' => return Err(DialError::NoTls { host: host.clone() }),
            _ => return Err(DialError::NotPostgres { host: host.clone() }),
        }
    }

    let connecting = TlsConnector::from(Arc::new(config)).connect(name, Socket::Tcp(tcp));
    let stream = bounded(target, host, connecting)
        .await?
        .map_err(|source| DialError::Handshake { host: host.clone(), source })?;
    let (_, session) = stream.get_ref();
    let channel_binding = session
        .peer_certificates()
        .and_then(|certificates| tls::tls_server_end_point(certificates.first()?));
    Ok(Stream { transport: Transport::Tls(Box::new(stream)), channel_binding })
}

/// Asks for TLS and returns the server's one byte. No byte after it is read:
/// whatever came before the handshake would be taken for encrypted later
/// (CVE-2021-23222).
async fn request_tls(tcp: &mut TcpStream) -> io::Result<u8> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await?;
    tcp.read_u8().await
}

impl Stream {
    fn plain(socket: Socket) -> Stream {
        Stream { transport: Transport::Plain(socket), channel_binding: None }
    }

    /// Lets what comes gather unheard, until the next read or write.
    ///
    /// # Errors
    /// If the runtime does not let go of the socket.
    pub fn rest(&mut self) -> io::Result<()> {
        match &mut self.transport {
            Transport::Plain(socket) => socket.rest(),
            Transport::Tls(tls) => tls.get_mut().0.rest(),
        }
    }

    /// `host`, with the one of its addresses that answered.
    pub(crate) fn host(&self, host: &Host) -> Host {
        let socket = match &self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(tls) => tls.get_ref().0,
        };
        match (&host.address, socket.peer_addr()) {
            // An address with a scope is not whole without it.
            (Address::Name(name), Some(peer)) if !is_scoped(&peer) => {
                let address = Address::Fixed { ip: peer.ip(), name: Some(name.clone()) };
                Host { address, port: host.port }
            }
            _ => host.clone(),
        }
    }

    /// What SCRAM-SHA-256-PLUS binds to: the `tls-server-end-point` data of the
    /// server's certificate, if there is TLS.
    pub fn end_point(&self) -> Option<&[u8]> {
        self.channel_binding.as_deref()
    }

    pub fn is_encrypted(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }
}

fn is_scoped(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(address) if address.scope_id() != 0)
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
