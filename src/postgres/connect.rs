//! An ordinary session: everything except the stream of changes.

use std::future::{Ready, ready};

use tokio::task::JoinHandle;
use tokio_postgres::config;
use tokio_postgres::tls::{self, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config};
use tracing::debug;

use super::dial::{DialError, Stream, dial};
use super::dsn::{ChannelBinding, Dsn, Host, SessionAttributes, SslMode, Target};
use super::error::{ConnectError, ServerError};

/// How values are written, whatever role, database and server are set to.
/// The stream of changes has the same, so that both write a value alike. And
/// nothing but Postgres' own is called by an unqualified name: whoever may create
/// in `public` could otherwise put a function or an operator of theirs before it,
/// to run as our role.
pub(crate) const SESSION_SETTINGS: [(&str, &str); 7] = [
    ("search_path", "pg_catalog, pg_temp"),
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
    /// The server that was taken. Another session must be with [`Dsn::only`]
    /// this one to be with the same.
    pub host: Host,
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
    first_session(&target, &OrdinaryLogin { target: &target, application_name }).await
}

/// How a byte stream becomes a session. A trait and not an async closure, since
/// the future of one that borrows is not known to be `Send`.
pub(crate) trait Login: Sync {
    type Session: Send;

    fn log_in(
        &self,
        host: &Host,
        stream: Stream,
    ) -> impl Future<Output = Result<Self::Session, ConnectError>> + Send;
}

/// A session with the first host where `login` succeeds, or its error for the
/// last one that it makes sense to try.
pub(crate) async fn first_session<L: Login>(
    target: &Target,
    login: &L,
) -> Result<L::Session, ConnectError> {
    let mut hosts = target.hosts.iter().peekable();
    loop {
        let host = hosts.next().expect("a target has a host");
        match session(target, host, login).await {
            Err(error) if error.concerns_host() && hosts.peek().is_some() => {
                debug!(%host, %error, "trying the next host");
            }
            result => return result,
        }
    }
}

async fn session<L: Login>(
    target: &Target,
    host: &Host,
    login: &L,
) -> Result<L::Session, ConnectError> {
    let mode = target.ssl.mode;
    let stream = dial(target, host, mode).await?;
    let encrypted = stream.is_encrypted();
    match bounded(target, host, login.log_in(host, stream)).await {
        // A server may have `hostnossl` lines only, which `prefer` goes along with.
        Err(ConnectError::NotAdmitted { .. }) if mode == SslMode::Prefer && encrypted => {
            let stream = dial(target, host, SslMode::Disable).await?;
            bounded(target, host, login.log_in(host, stream)).await
        }
        result => result,
    }
}

async fn bounded<T>(
    target: &Target,
    host: &Host,
    login: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    let timed_out = |after| ConnectError::TimedOut { host: host.clone(), after };
    target.in_time(login).await.map_err(timed_out)?
}

struct OrdinaryLogin<'a> {
    target: &'a Target,
    application_name: &'a str,
}

impl Login for OrdinaryLogin<'_> {
    type Session = Connection;

    async fn log_in(&self, host: &Host, stream: Stream) -> Result<Connection, ConnectError> {
        let OrdinaryLogin { target, application_name } = *self;
        let password = target.password(host);
        let failed = |error: tokio_postgres::Error| match error.as_db_error() {
            Some(server) => {
                let server = ServerError::from(server);
                ConnectError::refused(target, host, password.is_some(), server)
            }
            None => ConnectError::client(host, error),
        };

        let taken = stream.host(host);
        let mut session = Config::new();
        session
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
            session.options(options);
        }
        if stream.is_encrypted() {
            // The request for TLS is behind us: this calls `Encrypted` at once.
            session
                .ssl_mode(config::SslMode::Require)
                .ssl_negotiation(config::SslNegotiation::Direct);
        } else {
            session.ssl_mode(config::SslMode::Disable);
        }

        let (client, connection) = session.connect_raw(stream, Encrypted).await.map_err(failed)?;
        if !session_fits(target.session, |name| connection.parameter(name)) {
            return Err(ConnectError::WrongSession { host: host.clone() });
        }
        let task = tokio::spawn(connection);
        // Not in the startup packet: PgBouncer refuses settings there that it does
        // not know.
        let mut settings = String::from("SET idle_session_timeout = 0");
        for (name, value) in SESSION_SETTINGS {
            // Of a list, each is quoted.
            let value = value.replace(", ", "', '");
            settings.push_str(&format!("; SET {name} = '{value}'"));
        }
        client.batch_execute(&settings).await.map_err(failed)?;
        Ok(Connection { client, end: End { task: Some(task) }, host: taken })
    }
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
    type Stream = Stream;
    type Error = DialError;
    type Future = Ready<Result<Stream, DialError>>;

    fn connect(self, stream: Stream) -> Self::Future {
        ready(Ok(stream))
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> tls::ChannelBinding {
        match self.end_point() {
            Some(data) => tls::ChannelBinding::tls_server_end_point(data.to_vec()),
            None => tls::ChannelBinding::none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_can_be_opened_in_tasks() {
        fn assert_send(_: impl Send) {}
        assert_send(connect(&Dsn::default(), "rowcast"));
    }

    #[test]
    fn target_session_attrs_are_judged_by_what_the_server_reports() {
        use SessionAttributes::*;

        for (in_hot_standby, read_only, fitting) in [
            ("off", "off", vec![Any, ReadWrite, Primary, PreferStandby]),
            ("off", "on", vec![Any, ReadOnly, Primary, PreferStandby]),
            ("on", "off", vec![Any, ReadOnly, Standby, PreferStandby]),
        ] {
            let parameter = |name: &str| match name {
                "in_hot_standby" => Some(in_hot_standby),
                "default_transaction_read_only" => Some(read_only),
                _ => None,
            };
            for attributes in [Any, ReadWrite, ReadOnly, Primary, Standby, PreferStandby] {
                let fits = session_fits(attributes, parameter);
                assert_eq!(fits, fitting.contains(&attributes), "{attributes:?}");
            }
        }
    }
}
