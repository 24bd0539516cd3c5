//! An ordinary session: everything except the stream of changes.

use std::future::{Ready, poll_fn, ready};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::config;
use tokio_postgres::tls::{self, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config};
use tracing::debug;

use super::dial::{DialError, Stream, dial};
use super::dsn::{ChannelBinding, Dsn, Host, SessionAttributes, SslMode, Target};
use super::error::{ConnectError, ServerError};
use super::transaction::{Mode, transaction};
use super::{pooled, settings};

/// For how long the session that answers is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// As long as the connection. It is set as we need it.
    Session,
    /// A pooler gives each transaction another one, and that to others afterwards:
    /// it must be left as it was, without settings, prepared statements, locks.
    Transaction,
}

/// A session. It ends when this is dropped.
pub struct Connection {
    pub client: Client,
    pub tenure: Tenure,
    /// Has a permit once a NOTIFY came to a channel that `client` listens to, since
    /// one was last taken.
    pub notified: Arc<Notify>,
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

    /// Runs `queries`, which only read and are sent by `client`, with our settings:
    /// as one transaction where the session is ours for no longer.
    pub async fn read<T, E: From<tokio_postgres::Error>>(
        &self,
        queries: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match self.tenure {
            Tenure::Session => queries.await,
            Tenure::Transaction => transaction(&self.client, Mode::ReadOnly, "", queries).await,
        }
    }

    /// As [`Connection::read`], and all of `queries` see the same: between two of them
    /// a table may be renamed, and would be missing where it was looked for later.
    pub async fn read_at_once<T, E: From<tokio_postgres::Error>>(
        &self,
        queries: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        transaction(&self.client, Mode::Snapshot, "", queries).await
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

/// An ordinary session with the first host of `dsn` that will do, and ours as long
/// as it lasts.
///
/// # Errors
/// That of the last host tried. A login that was refused ends the search.
pub async fn connect(dsn: &Dsn, application_name: &str) -> Result<Connection, ConnectError> {
    connect_as(dsn, application_name, Tenure::Session).await
}

/// As [`connect`], for as long as `tenure` says.
///
/// # Errors
/// As [`connect`].
pub async fn connect_as(
    dsn: &Dsn,
    application_name: &str,
    tenure: Tenure,
) -> Result<Connection, ConnectError> {
    let target = Target::of(dsn)?;
    first_session(&target, &OrdinaryLogin { target: &target, application_name, tenure }).await
}

/// As [`connect`], and makes sure that the session is ours, by another one that it
/// opens meanwhile.
///
/// # Errors
/// As [`connect`], and [`ConnectError::Pooled`] where it is not.
pub async fn connect_alone(dsn: &Dsn, application_name: &str) -> Result<Connection, ConnectError> {
    // Nothing is set before it is known whose session that would be.
    let ours = connect_as(dsn, application_name, Tenure::Transaction).await?;
    let dsn = dsn.clone().only(&ours.host);
    let other = connect_as(&dsn, application_name, Tenure::Transaction).await?;
    let (target, host) = (Target::of(&dsn)?, ours.host.clone());
    let settled = async {
        let failed = |error| failure(&target, &host, error);
        match pooled::share_sessions(&ours.client, &other.client).await.map_err(failed)? {
            true => Err(ConnectError::Pooled { host: host.clone() }),
            false => ours.client.batch_execute(&settings::for_session()).await.map_err(failed),
        }
    };
    bounded(&target, &host, settled).await?;
    Ok(Connection { tenure: Tenure::Session, ..ours })
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
    tenure: Tenure,
}

impl Login for OrdinaryLogin<'_> {
    type Session = Connection;

    async fn log_in(&self, host: &Host, stream: Stream) -> Result<Connection, ConnectError> {
        let OrdinaryLogin { target, application_name, tenure } = *self;
        let password = target.password(host);
        let failed = |error| failure(target, host, error);

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
        let notified = Arc::new(Notify::new());
        let task = tokio::spawn(drive(connection, notified.clone()));
        if tenure == Tenure::Session {
            // Not in the startup packet: PgBouncer refuses settings there that it
            // does not know.
            client.batch_execute(&settings::for_session()).await.map_err(failed)?;
        }
        Ok(Connection { client, tenure, notified, end: End { task: Some(task) }, host: taken })
    }
}

fn failure(target: &Target, host: &Host, error: tokio_postgres::Error) -> ConnectError {
    match error.as_db_error() {
        Some(server) => {
            let password_given = target.password(host).is_some();
            ConnectError::refused(target, host, password_given, ServerError::from(server))
        }
        None => ConnectError::client(host, error),
    }
}

/// Does what goes on in the session until it ends.
async fn drive(
    mut connection: tokio_postgres::Connection<Stream, Stream>,
    notified: Arc<Notify>,
) -> Result<(), tokio_postgres::Error> {
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message? {
            AsyncMessage::Notification(_) => notified.notify_one(),
            AsyncMessage::Notice(notice) => {
                debug!(severity = notice.severity(), "Postgres says: {}", notice.message());
            }
            _ => {}
        }
    }
    Ok(())
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
