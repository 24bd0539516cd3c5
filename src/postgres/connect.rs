//! An ordinary session: everything except the stream of changes.

use std::future::{Ready, ready};
use std::io;
use std::iter::Peekable;
use std::pin::Pin;
use std::slice;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{self, SslMode, SslNegotiation};
use tokio_postgres::tls::{self, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config};
use tracing::debug;

use super::dial::{DialError, Stream, dial_host};
use super::dsn::{ChannelBinding, Dsn, Host, SessionAttributes, Target};
use super::error::{ConnectError, ServerError};

/// How values are written, whatever role, database and server are set to.
/// The stream of changes has the same, so that both write a value alike.
pub(crate) const SESSION_SETTINGS: [(&str, &str); 6] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "UTC"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
];

/// A session. It ends when this is dropped.
pub struct Connection {
    pub client: Client,
    /// Apart from `client`, so that one may be awaited while the other is used.
    pub end: End,
}

/// The end of a session.
pub struct End {
    /// `None` once it has ended and was told.
    task: Option<JoinHandle<Result<(), tokio_postgres::Error>>>,
}

impl Connection {
    /// See [`End::closed`].
    pub async fn closed(&mut self) -> Option<tokio_postgres::Error> {
        self.end.closed().await
    }
}

impl End {
    /// Waits until the session has ended, and says why, the first time. An
    /// idle session learns of a shutdown of the server at once, as 57P01; if a
    /// query is being answered, that query gets the code, and this an end
    /// without one. Cancel safe.
    pub async fn closed(&mut self) -> Option<tokio_postgres::Error> {
        let result = self.task.as_mut()?.await;
        self.task = None;
        match result {
            Ok(result) => result.err(),
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down.
                Err(_) => None,
            },
        }
    }
}

/// An ordinary session with the first host of `dsn` that will do.
///
/// # Errors
/// That of the last host tried. A login that was refused ends the search.
pub async fn connect(dsn: &Dsn, application_name: &str) -> Result<Connection, ConnectError> {
    let target = Target::of(dsn)?;
    let mut hosts = Hosts::of(&target);
    let mut host = hosts.first();
    loop {
        match connect_host(&target, host, application_name).await {
            Ok(connection) => return Ok(connection),
            Err(error) => host = hosts.after(error)?,
        }
    }
}

/// The hosts of a target, of which the first that will do is taken.
pub(crate) struct Hosts<'a>(Peekable<slice::Iter<'a, Host>>);

impl<'a> Hosts<'a> {
    pub(crate) fn of(target: &'a Target) -> Hosts<'a> {
        Hosts(target.hosts.iter().peekable())
    }

    /// The host to try first.
    pub(crate) fn first(&mut self) -> &'a Host {
        self.0.next().expect("a target has a host")
    }

    /// The host to try after `error`, if trying another makes sense.
    pub(crate) fn after(&mut self, error: ConnectError) -> Result<&'a Host, ConnectError> {
        match self.0.next() {
            Some(host) if error.concerns_host() => {
                debug!(%host, %error, "trying the next host");
                Ok(host)
            }
            _ => Err(error),
        }
    }
}

/// Bounds logging in, which libpq counts into the same time as dialling.
pub(crate) async fn login_timeout<T>(
    target: &Target,
    host: &Host,
    login: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    let Some(after) = target.connect_timeout else { return login.await };
    timeout(after, login)
        .await
        .unwrap_or_else(|_| Err(ConnectError::TimedOut { host: host.clone(), after }))
}

async fn connect_host(
    target: &Target,
    host: &Host,
    application_name: &str,
) -> Result<Connection, ConnectError> {
    let stream = dial_host(target, host).await?;
    login_timeout(target, host, login(target, host, stream, application_name)).await
}

async fn login(
    target: &Target,
    host: &Host,
    stream: Stream,
    application_name: &str,
) -> Result<Connection, ConnectError> {
    let password = target.password(host);
    let failed = |error: tokio_postgres::Error| match error.as_db_error() {
        Some(server) => {
            let server = ServerError::from(server);
            ConnectError::refused(target, host, password.is_some(), server)
        }
        None => ConnectError::Client { host: host.clone(), source: error },
    };

    let mut config = Config::new();
    config
        .user(&target.user)
        .dbname(&target.database)
        .application_name(application_name)
        // Without a password tokio-postgres gives up when asked for one, with an
        // error that cannot be told apart. An empty one no server accepts.
        .password(password.as_ref().map_or("", |password| password.expose()))
        .channel_binding(match target.channel_binding {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        });
    if let Some(options) = &target.options {
        config.options(options);
    }
    if stream.is_encrypted() {
        // The request for TLS is behind us: this calls `Encrypted` at once.
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    } else {
        config.ssl_mode(SslMode::Disable);
    }

    let (client, connection) = config.connect_raw(stream, Encrypted).await.map_err(failed)?;
    if !session_fits(target.session, |name| connection.parameter(name)) {
        return Err(ConnectError::WrongSession { host: host.clone() });
    }
    let task = tokio::spawn(connection);
    // Not in the startup packet: PgBouncer refuses settings there that it does
    // not know.
    let mut settings = String::from("SET idle_session_timeout = 0");
    for (name, value) in SESSION_SETTINGS {
        settings.push_str(&format!("; SET {name} = '{value}'"));
    }
    client.batch_execute(&settings).await.map_err(failed)?;
    Ok(Connection { client, end: End { task: Some(task) } })
}

/// Whether a session whose server reports `parameter` is one that
/// `target_session_attrs` asks for. `prefer-standby` takes either kind: the
/// order of the hosts says which comes first.
pub(crate) fn session_fits<'a>(
    attributes: SessionAttributes,
    parameter: impl Fn(&str) -> Option<&'a str>,
) -> bool {
    let on = |name| parameter(name) == Some("on");
    let read_only = || on("in_hot_standby") || on("default_transaction_read_only");
    match attributes {
        SessionAttributes::Any | SessionAttributes::PreferStandby => true,
        SessionAttributes::ReadWrite => !read_only(),
        SessionAttributes::ReadOnly => read_only(),
        SessionAttributes::Primary => !on("in_hot_standby"),
        SessionAttributes::Standby => on("in_hot_standby"),
    }
}

/// Hands a stream that is encrypted already to tokio-postgres, which wants to
/// do that itself.
struct Encrypted;

impl TlsConnect<Stream> for Encrypted {
    type Stream = EncryptedStream;
    type Error = DialError;
    type Future = Ready<Result<EncryptedStream, DialError>>;

    fn connect(self, stream: Stream) -> Self::Future {
        ready(Ok(EncryptedStream(stream)))
    }
}

struct EncryptedStream(Stream);

impl TlsStream for EncryptedStream {
    fn channel_binding(&self) -> tls::ChannelBinding {
        match self.0.channel_binding() {
            Some(data) => tls::ChannelBinding::tls_server_end_point(data.to_vec()),
            None => tls::ChannelBinding::none(),
        }
    }
}

impl AsyncRead for EncryptedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for EncryptedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
