use std::error::Error as _;
use std::io;
use std::time::Duration;

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::{ErrorFields, ErrorResponseBody};
use tokio_postgres::error::{DbError, SqlState};

use super::dial::DialError;
use super::dsn::{DsnError, Host, Target};
use super::hba;

/// What the server says is wrong, in its own words and language.
/// <https://www.postgresql.org/docs/current/protocol-error-fields.html>
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", .0.message, .0.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default())]
pub struct ServerError(Box<Fields>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    code: SqlState,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl ServerError {
    /// # Errors
    /// When the fields do not end as they should.
    pub fn parse(body: &ErrorResponseBody) -> io::Result<ServerError> {
        ServerError::from_fields(body.fields())
    }

    /// From the fields of an error or of a notice, which have the same.
    pub(crate) fn from_fields(mut fields: ErrorFields<'_>) -> io::Result<ServerError> {
        let mut error = Fields {
            code: SqlState::INTERNAL_ERROR,
            message: String::new(),
            detail: None,
            hint: None,
        };
        while let Some(field) = fields.next()? {
            // Before the session's encoding is set, texts may be in any other.
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => error.code = SqlState::from_code(&text),
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        Ok(ServerError(Box::new(error)))
    }

    pub fn code(&self) -> &SqlState {
        &self.0.code
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Whether the server is stopping, starting, or recovering.
    pub fn is_unavailable(&self) -> bool {
        [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::OPERATOR_INTERVENTION,
        ]
        .contains(self.code())
    }

    /// Whether the server has no place for one more.
    pub fn is_exhausted(&self) -> bool {
        self.code().code().starts_with("53")
            && *self.code() != SqlState::CONFIGURATION_LIMIT_EXCEEDED
    }
}

impl From<&DbError> for ServerError {
    fn from(error: &DbError) -> ServerError {
        ServerError(Box::new(Fields {
            code: error.code().clone(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        }))
    }
}

/// Why there is no session with the server. What the server says is an `answer`,
/// and no `source` that is printed too, where the phrase says all of it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{host} did not finish logging in within {} s", after.as_secs())]
    TimedOut { host: Host, after: Duration },
    #[error("{host} closed the connection while logging in")]
    Closed { host: Host },
    #[error("the connection to {host} broke while logging in")]
    Broken { host: Host, source: io::Error },
    #[error("{host} does not speak the protocol of Postgres")]
    Malformed { host: Host, source: io::Error },
    #[error("what {host} should be told to log in has a zero byte or is too long")]
    Unsendable { host: Host, source: io::Error },
    #[error("{host} sent a message {place} that does not belong there")]
    Unexpected { host: Host, place: &'static str },
    #[error("{host} asks for {method} authentication, which is not supported")]
    Method { host: Host, method: &'static str },
    #[error("{host} could not prove that it knows the password")]
    Scram { host: Host, source: io::Error },
    #[error(
        "{host} did not bind the login to its TLS certificate, as channel_binding=require asks"
    )]
    NoChannelBinding { host: Host },
    #[error("{host} asks for a password of user {user:?}, and none was given")]
    NoPassword { host: Host, user: String },
    #[error("{host} refused the password of user {user:?}")]
    WrongPassword { host: Host, user: String, answer: ServerError },
    #[error("{host} does not admit user {user:?} to database {database:?}")]
    NotAdmitted { host: Host, user: String, database: String, source: ServerError },
    #[error("role {user:?} lacks the REPLICATION attribute")]
    NotReplicationRole { user: String, answer: ServerError },
    #[error("role {user:?} may not connect to database {database:?}")]
    NoConnectPrivilege { user: String, database: String, answer: ServerError },
    #[error("there is no database {database:?} at {host}")]
    NoSuchDatabase { host: Host, database: String, answer: ServerError },
    #[error("{host} takes no more connections of this kind")]
    TooManyConnections { host: Host, source: ServerError },
    #[error("{host} is starting or stopping")]
    Unavailable { host: Host, source: ServerError },
    #[error("{host} is not a server that target_session_attrs asks for")]
    WrongSession { host: Host },
    #[error("{host} gives each transaction another session, and one that stays is needed here")]
    Pooled { host: Host },
    #[error("{host} refused the session")]
    Refused { host: Host, source: ServerError },
    #[error("the connection to {host} ended while logging in")]
    Lost { host: Host, source: tokio_postgres::Error },
    #[error("{host} could not be logged in to")]
    Client { host: Host, source: tokio_postgres::Error },
}

impl From<DsnError> for ConnectError {
    fn from(error: DsnError) -> ConnectError {
        ConnectError::Dial(error.into())
    }
}

impl ConnectError {
    /// What a refusal means that came instead of a session.
    pub(crate) fn refused(
        target: &Target,
        host: &Host,
        password_given: bool,
        source: ServerError,
    ) -> ConnectError {
        let host = host.clone();
        let user = target.user.clone();
        let database = target.database.clone();
        let code = source.code();
        if *code == SqlState::INVALID_PASSWORD {
            return match password_given {
                true => ConnectError::WrongPassword { host, user, answer: source },
                false => ConnectError::NoPassword { host, user },
            };
        }
        if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION {
            return ConnectError::NotAdmitted { host, user, database, source };
        }
        if *code == SqlState::INVALID_CATALOG_NAME {
            return ConnectError::NoSuchDatabase { host, database, answer: source };
        }
        if *code == SqlState::INSUFFICIENT_PRIVILEGE {
            // The word stays as it is in every language.
            let connect = source.detail().is_some_and(|detail| detail.contains("CONNECT"));
            return match connect {
                true => ConnectError::NoConnectPrivilege { user, database, answer: source },
                false => ConnectError::NotReplicationRole { user, answer: source },
            };
        }
        if source.is_exhausted() {
            return ConnectError::TooManyConnections { host, source };
        }
        if source.is_unavailable() {
            return ConnectError::Unavailable { host, source };
        }
        ConnectError::Refused { host, source }
    }

    /// What an error of tokio-postgres means that the server did not send. Its
    /// kind is private, so a broken connection is told by its cause.
    pub(crate) fn client(host: &Host, source: tokio_postgres::Error) -> ConnectError {
        let host = host.clone();
        let cause = source.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        // These two it uses itself, for what it cannot read.
        let broken = cause.is_some_and(|cause| {
            !matches!(cause.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
        });
        match broken || source.is_closed() {
            true => ConnectError::Lost { host, source },
            false => ConnectError::Client { host, source },
        }
    }

    fn server(&self) -> Option<&ServerError> {
        match self {
            ConnectError::WrongPassword { answer: source, .. }
            | ConnectError::NotReplicationRole { answer: source, .. }
            | ConnectError::NoConnectPrivilege { answer: source, .. }
            | ConnectError::NoSuchDatabase { answer: source, .. }
            | ConnectError::NotAdmitted { source, .. }
            | ConnectError::TooManyConnections { source, .. }
            | ConnectError::Unavailable { source, .. }
            | ConnectError::Refused { source, .. } => Some(source),
            ConnectError::Dial(_)
            | ConnectError::TimedOut { .. }
            | ConnectError::Closed { .. }
            | ConnectError::Broken { .. }
            | ConnectError::Lost { .. }
            | ConnectError::Malformed { .. }
            | ConnectError::Unsendable { .. }
            | ConnectError::Unexpected { .. }
            | ConnectError::Method { .. }
            | ConnectError::Scram { .. }
            | ConnectError::NoChannelBinding { .. }
            | ConnectError::NoPassword { .. }
            | ConnectError::WrongSession { .. }
            | ConnectError::Pooled { .. }
            | ConnectError::Client { .. } => None,
        }
    }

    /// The SQLSTATE, if the server gave one.
    pub fn code(&self) -> Option<&SqlState> {
        self.server().map(ServerError::code)
    }

    /// Whether the same attempt may succeed later without anyone's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            ConnectError::Dial(error) => error.is_transient(),
            ConnectError::TimedOut { .. }
            | ConnectError::Closed { .. }
            | ConnectError::Broken { .. }
            | ConnectError::Lost { .. }
            | ConnectError::TooManyConnections { .. }
            | ConnectError::Unavailable { .. }
            // A failover is going on, or the list names only the other kind.
            | ConnectError::WrongSession { .. } => true,
            ConnectError::Malformed { .. }
            | ConnectError::Unsendable { .. }
            | ConnectError::Unexpected { .. }
            | ConnectError::Method { .. }
            | ConnectError::Scram { .. }
            | ConnectError::NoChannelBinding { .. }
            | ConnectError::NoPassword { .. }
            | ConnectError::WrongPassword { .. }
            | ConnectError::NotAdmitted { .. }
            | ConnectError::NotReplicationRole { .. }
            | ConnectError::NoConnectPrivilege { .. }
            | ConnectError::NoSuchDatabase { .. }
            | ConnectError::Pooled { .. }
            | ConnectError::Refused { .. }
            | ConnectError::Client { .. } => false,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ConnectError::Dial(error) => error.hint(),
            ConnectError::NoPassword { .. } => Some(
                "give it as [database] password, in the URL, as PGPASSWORD or in ~/.pgpass \
                 (mode 0600)"
                    .to_owned(),
            ),
            ConnectError::WrongPassword { user, .. } => Some(format!(
                "check the password and the user, or set it anew: ALTER ROLE {} PASSWORD '…'",
                super::quote_identifier(user)
            )),
            ConnectError::NotAdmitted { host, user, database, source } => {
                let line = hba::line(host, database, user, source.message());
                Some(format!(
                    "the role must exist with LOGIN, and pg_hba.conf needs a line such as \
                     \"{line}\"; logical replication matches the database's name there, not the \
                     keyword replication"
                ))
            }
            ConnectError::NotReplicationRole { user, .. } => {
                let role = super::quote_identifier(user);
                Some(format!(
                    "ALTER ROLE {role} REPLICATION; on Amazon RDS: GRANT rds_replication TO {role}"
                ))
            }
            ConnectError::NoConnectPrivilege { user, database, .. } => Some(format!(
                "GRANT CONNECT ON DATABASE {} TO {}",
                super::quote_identifier(database),
                super::quote_identifier(user)
            )),
            ConnectError::NoSuchDatabase { .. } => {
                Some("check the database's name; psql -l lists those that exist".to_owned())
            }
            ConnectError::TooManyConnections { .. } => Some(
                "raise max_connections, or max_wal_senders for replication (both need a restart), \
                 or end sessions that are not needed"
                    .to_owned(),
            ),
            ConnectError::NoChannelBinding { .. } => Some(
                "channel binding needs TLS and a role whose password is stored as scram-sha-256"
                    .to_owned(),
            ),
            ConnectError::Method { .. } => Some(
                "pg_hba.conf should ask for scram-sha-256, md5, password, trust, peer or cert"
                    .to_owned(),
            ),
            ConnectError::Pooled { .. } => Some(
                "it is a pooler in transaction mode: give the address of Postgres itself, or of a \
                 pool in session mode; rowcast run goes through it with [database] capture = \
                 \"triggers\" and wake = \"poll\""
                    .to_owned(),
            ),
            ConnectError::Refused { source, .. }
                if *source.code() == SqlState::PROTOCOL_VIOLATION =>
            {
                // PgBouncer's words, which it has in one language only.
                let is_options = source.message().contains("parameter: options");
                Some(
                    match is_options {
                        true => {
                            "this is how PgBouncer refuses: leave options out of the URL, and \
                             PGOPTIONS unset, or have ignore_startup_parameters = options there"
                        }
                        false => {
                            "this is how a connection pooler refuses: give the address of \
                              Postgres itself, or set [database] capture = \"triggers\""
                        }
                    }
                    .to_owned(),
                )
            }
            ConnectError::Refused { source, .. } => source.hint().map(str::to_owned),
            ConnectError::TimedOut { .. }
            | ConnectError::Closed { .. }
            | ConnectError::Broken { .. }
            | ConnectError::Lost { .. }
            | ConnectError::Malformed { .. }
            | ConnectError::Unsendable { .. }
            | ConnectError::Unexpected { .. }
            | ConnectError::Scram { .. }
            | ConnectError::Unavailable { .. }
            | ConnectError::WrongSession { .. }
            | ConnectError::Client { .. } => None,
        }
    }

    /// Whether the next host of a list is worth trying. A refused password is
    /// not: it would be refused there too, and count as another attempt.
    pub(crate) fn concerns_host(&self) -> bool {
        match self {
            ConnectError::Dial(DialError::Dsn(_) | DialError::Tls(_)) => false,
            ConnectError::Dial(_)
            | ConnectError::TimedOut { .. }
            | ConnectError::Closed { .. }
            | ConnectError::Broken { .. }
            | ConnectError::Lost { .. }
            | ConnectError::Malformed { .. }
            | ConnectError::Unavailable { .. }
            | ConnectError::TooManyConnections { .. }
            | ConnectError::WrongSession { .. } => true,
            ConnectError::Unsendable { .. }
            | ConnectError::Unexpected { .. }
            | ConnectError::Method { .. }
            | ConnectError::Scram { .. }
            | ConnectError::NoChannelBinding { .. }
            | ConnectError::NoPassword { .. }
            | ConnectError::WrongPassword { .. }
            | ConnectError::NotAdmitted { .. }
            | ConnectError::NotReplicationRole { .. }
            | ConnectError::NoConnectPrivilege { .. }
            | ConnectError::NoSuchDatabase { .. }
            | ConnectError::Pooled { .. }
            | ConnectError::Refused { .. }
            | ConnectError::Client { .. } => false,
        }
    }
}
